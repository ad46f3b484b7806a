"""The analyst that asks DeepSeek, or whoever speaks its format: reserve, call, settle, read; all symbols at once.

A reply that cannot be used, a time-out or a busy server is an abstention with its reason code; a wrong set-up (key,
balance, request, price) raises AnalystError. Never is a decision made of free text.
"""

from __future__ import annotations

import asyncio
import copy
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from v7_pipeline.analyst.base import AnalystError, Answer, Decision, Question, call_id_of, require_aware
from v7_pipeline.analyst.grounding import ungrounded_against
from v7_pipeline.analyst.ledger import (
    Answered,
    BudgetRefused,
    Call,
    CallInFlightError,
    Ending,
    Ledger,
    Received,
    Reservation,
)
from v7_pipeline.analyst.prices import PriceTable, Usage, token_upper_bound
from v7_pipeline.analyst.prompt import Message, build_prompt, largest_prompt
from v7_pipeline.analyst.regimes import note_regimes
from v7_pipeline.analyst.reply import BLANK, OVERLOADED, REPAIRABLE, Abstention, parse_reply
from v7_pipeline.analyst.wire import Parameters, messages_text, prompt_hash, read_completion, redacted

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from pydantic import SecretStr

__all__ = [
    "CONNECTION",
    "RATE_LIMITED",
    "SERVER_ERROR",
    "TIMEOUT",
    "UNREADABLE",
    "AnalystError",
    "Asked",
    "DeepSeekAnalyst",
    "asked",
]

# Reason codes of abstentions that have no reply; reply.py has those of replies.
TIMEOUT = "TIMEOUT"
RATE_LIMITED = "RATE_LIMITED"
SERVER_ERROR = "SERVER_ERROR"
CONNECTION = "CONNECTION"
UNREADABLE = "UNREADABLE"
REFUSED = "REFUSED"  # never a decision's reason: it raises AnalystError
NO_USAGE = "the answer has no usage"  # an ending's error that says nothing against the answer
MAX_UNREAD = 4_000  # characters kept of a body that is no completion

# {key}: the variable that holds the key; {set_up}: where address, model and limits are set.
_REMEDIES = {
    400: "the request was refused as malformed; check {set_up}",
    401: "the key was refused; set a valid {key}",
    402: "the account's balance is used up; top it up, or choose V7_ANALYST=rules",
    403: "the key may not do this; check {key}",
    404: "nothing answers there; check {set_up}",
    422: "a parameter was refused; check {set_up}",
}
OWN_SET_UP = "V7_DEEPSEEK_URL, V7_DEEPSEEK_MODEL and V7_DEEPSEEK_MAX_TOKENS"
# Connections that never came to be: no request was sent, so nothing can be billed.
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"})
IN_FLIGHT_MARGIN_S = 5.0  # beyond the deadline, a reservation of another run belongs to one that died
IN_FLIGHT_POLL_S = 0.5
MIN_ATTEMPT_S = 0.05  # with less than this left of the deadline no attempt is begun

_T = TypeVar("_T")


class _FailedAttempt(Exception):  # noqa: N818 - a step of the retry loop, never seen outside this module
    """An attempt without a reply to read; `again` says whether another may succeed."""

    def __init__(self, reason: str, detail: str, *, again: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.again = reason, detail, again


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in the words it is sent in: the messages, of which signal, and the version of their template."""

    signal_id: str
    symbol: str
    as_of: datetime
    messages: tuple[Message, ...]
    prompt_version: str

    def __post_init__(self) -> None:
        require_aware(self.as_of, "as_of")


def asked(question: Question) -> Asked:
    """`question` in today's words."""
    prompt = build_prompt(question)
    return Asked(question.signal_id, question.symbol, question.as_of, prompt.messages, prompt.version)


@dataclass
class _Asking:
    """One question on its way: the messages of its next attempt, what is reserved for it, and what it has cost."""

    question: Asked
    call_id: str
    messages: tuple[Message, ...]
    prompt_version: str
    reserved: Reservation | None = None
    endings: list[Ending] = field(default_factory=list)
    failure: _FailedAttempt | None = None

    @property
    def cost_usd(self) -> float:
        return sum(ending.cost_usd for ending in self.endings)


class DeepSeekAnalyst:
    """The DeepSeek client behind the Analyst protocol; any service of OpenAI's format by its address, model and name.

    `thinking` and `json_mode` are wire.Parameters'; `key_name` and `set_up` name, in errors, where the key and the rest
    are set. `deadline_s` bounds one call with all its attempts, in seconds: while queued the server sends blank lines,
    so no time-out between bytes would ever fire. An attempt gets half of it, so that one that hangs can be tried again.
    `retries` is how often what may be retried is; `backoff_s` the first pause's mean, doubling, with jitter.
    Raises AnalystError where the key cannot be one, or the model has no price now.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        api_key: SecretStr,
        base_url: str,
        model: str,
        prices: PriceTable,
        clock: Callable[[], datetime],
        deadline_s: float = 30.0,
        max_tokens: int = 600,
        retries: int = 2,
        backoff_s: float = 0.5,
        name: str = "deepseek",
        thinking: bool | None = False,
        json_mode: bool = True,
        key_name: str = "DEEPSEEK_API_KEY",
        set_up: str = OWN_SET_UP,
    ) -> None:
        key = api_key.get_secret_value()
        if not (key and key.isascii() and key.isprintable() and " " not in key):
            raise AnalystError(f"{key_name} is blank or has characters that no key has; copy it again")
        self.name = name
        self._key_name, self._set_up = key_name, set_up
        self._ledger, self._prices, self._clock = ledger, prices, clock
        self._api_key, self._base_url, self._model = api_key, base_url, model
        self._deadline_s, self._retries, self._backoff_s = deadline_s, retries, backoff_s
        self._parameters = Parameters(max_tokens, thinking, json_mode)
        prices.price_for(model, clock())

    @property
    def worst_case_usd(self) -> float:
        """What one attempt may cost at most, in USD, for the longest prompt; for the gate that saves the asking."""
        return self._worst_case(largest_prompt().messages, self._clock())

    @property
    def model(self) -> str:
        """The model that is asked for."""
        return self._model

    @property
    def parameters(self) -> Parameters:
        """What is sent beside model and messages."""
        return self._parameters

    @property
    def room_usd(self) -> float:
        """What the tighter of the budgets still holds now, in USD; never below 0."""
        spent = self._ledger.spent(self._clock())
        return max(min(spent.day_room, spent.month_room), 0.0)

    def priced(self, usage: Usage) -> float:
        """USD that a call of this usage would cost now."""
        return self._prices.cost(self._model, usage, self._clock())

    @property
    def asked_at(self) -> datetime:
        """Its clock's instant: which price holds, and which checkpoint the model's name stands for."""
        return self._clock()

    def named(self, name: str) -> DeepSeekAnalyst:
        """The same service under another name, by which the ledger keeps its answers apart."""
        other = copy.copy(self)
        other.name = name
        return other

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        """One decision a question, in order: answered, abstained (no usable reply) or skipped (no budget).

        A question that the ledger has an answer to is not asked again. AnalystError is raised only after the other
        calls have been settled, so that a rerun finds their answers.
        """
        require_aware(now, "now")
        return self.ask([asked(question) for question in questions])

    def ask(self, questions: Sequence[Asked]) -> list[Decision]:
        """`decide` for messages that are sent as they are, such as another analyst was sent before."""
        self._prices.price_for(self._model, self._clock())
        asking = [
            _Asking(question, call_id_of(self.name, question.signal_id), question.messages, question.prompt_version)
            for question in questions
        ]
        done: dict[str, Decision] = {}
        for item, result in zip(asking, self._reserve_or_reuse(asking), strict=True):
            if isinstance(result, BudgetRefused):
                done[item.question.signal_id] = self._decision(item, "skipped", reason=result.reason)
            elif isinstance(result, Answer):
                done[item.question.signal_id] = self._decision(item, "answered", answer=result)
            else:
                item.reserved = result
        waiting = [item for item in asking if item.reserved is not None]
        if waiting:
            done |= {decision.signal_id: decision for decision in _run(self._ask_all(waiting))}
        return [done[question.signal_id] for question in questions]

    def hash_of(self, question: Asked) -> str:
        """The prompt_hash that these messages have in the ledger when this analyst is asked."""
        return prompt_hash(self._model, self._parameters.text, messages_text(question.messages))

    def worst_case_of(self, question: Asked) -> float:
        """USD that one attempt at these messages may cost at most, now."""
        return self._worst_case(question.messages, self._clock())

    # --- before the call --------------------------------------------------------------------

    def _reserve_or_reuse(self, asking: Sequence[_Asking]) -> list[Reservation | BudgetRefused | Answer]:
        """For each question its answer where the ledger has one that can be used, else a reservation or a refusal."""
        found = self._reserve_when_free(asking)
        results = [parse_reply(r.text, r.finish_reason) if isinstance(r, Answered) else r for r in found]
        faulty = [i for i, result in enumerate(results) if isinstance(result, Abstention)]
        again = iter(self._reserve([asking[i] for i in faulty]))
        return [next(again) if isinstance(result, Abstention) else result for result in results]

    def _reserve_when_free(self, asking: Sequence[_Asking]) -> list[Reservation | BudgetRefused | Answered]:
        """Reserve; where another run asks the same at this moment, wait for its answer as long as it may take."""
        give_up = time.monotonic() + self._deadline_s + IN_FLIGHT_MARGIN_S
        lease = timedelta(seconds=self._deadline_s + IN_FLIGHT_MARGIN_S)
        while True:
            try:
                waiting = time.monotonic() < give_up
                now = self._clock()
                calls = [self._call(item, now) for item in asking]
                return self._ledger.reserve(calls, now, reuse=True, lease=lease if waiting else None)
            except CallInFlightError:
                time.sleep(IN_FLIGHT_POLL_S)

    def _reserve(self, asking: Sequence[_Asking]) -> list[Reservation | BudgetRefused]:
        now = self._clock()
        return self._ledger.reserve([self._call(item, now) for item in asking], now)

    def _call(self, item: _Asking, now: datetime) -> Call:
        """The ledger's row of an attempt reserved at `now`: one instant prices it and says which day pays."""
        messages = messages_text(item.messages)
        return Call(
            call_id=item.call_id,
            signal_id=item.question.signal_id,
            symbol=item.question.symbol,
            as_of=item.question.as_of,
            analyst=self.name,
            model=self._model,
            prompt=messages,
            prompt_hash=prompt_hash(self._model, self._parameters.text, messages),
            prompt_version=item.prompt_version,
            parameters=self._parameters.text,
            price_version=self._prices.price_for(self._model, now).version,
            worst_case_usd=self._worst_case(item.messages, now),
        )

    def _worst_case(self, messages: tuple[Message, ...], now: datetime) -> float:
        return self._prices.worst_case(
            self._model,
            now,
            prompt_tokens=token_upper_bound(messages),
            max_tokens=self._parameters.max_tokens,
        )

    # --- the call ---------------------------------------------------------------------------

    async def _ask_all(self, asking: Sequence[_Asking]) -> list[Decision]:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        writer = _Writer(self._ledger)
        end = asyncio.get_running_loop().time() + self._deadline_s
        async with AsyncOpenAI(
            api_key=self._api_key.get_secret_value(),
            base_url=self._base_url,
            max_retries=0,
            timeout=self._deadline_s,
            http_client=DefaultAsyncHttpxClient(verify=_certificates()),
        ) as client:
            results = await asyncio.gather(
                *(self._ask(item, client, writer, end) for item in asking), return_exceptions=True
            )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, Decision)]

    async def _ask(self, item: _Asking, client: AsyncOpenAI, writer: _Writer, end: float) -> Decision:
        """Ask, and once more with the fault named where the reply has one that this can mend."""
        parsed: Answer | Abstention | None = None
        try:
            text, parsed = await self._with_retries(item, client, writer, end)
            if isinstance(parsed, Abstention) and parsed.reason in REPAIRABLE:
                item.messages = (*item.messages, *_repair(text, parsed.detail))
                _, parsed = await self._with_retries(item, client, writer, end)
        except _FailedAttempt as failure:
            # A repair that got no reply leaves the first reply's fault as the reason.
            parsed = parsed or Abstention(failure.reason, failure.detail)
        if isinstance(parsed, Answer):
            return self._decision(item, "answered", answer=parsed)
        return self._decision(item, "abstained", reason=parsed.reason)

    async def _with_retries(
        self, item: _Asking, client: AsyncOpenAI, writer: _Writer, end: float
    ) -> tuple[str, Answer | Abstention]:
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_before_delay
        from tenacity.wait import wait_random_exponential

        left = max(end - asyncio.get_running_loop().time(), 0.0)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._retries + 1) | stop_before_delay(left),
            wait=wait_random_exponential(multiplier=self._backoff_s, max=left),
            retry=retry_if_exception(lambda error: isinstance(error, _FailedAttempt) and error.again),
            reraise=True,
        )
        return await retrying(self._attempt, item, client, writer, end)

    async def _attempt(
        self, item: _Asking, client: AsyncOpenAI, writer: _Writer, end: float
    ) -> tuple[str, Answer | Abstention]:
        """One attempt, one row of the ledger: the reply's text and what it says, or _FailedAttempt."""
        loop = asyncio.get_running_loop()
        limit = min(end - loop.time(), self._deadline_s / 2)
        reserved = await self._reserved(item, limit)
        started = loop.time()
        try:
            body = await self._post(client, item.messages, limit)
        except _NoBody as lost:
            ended = reserved.unknown if lost.may_be_billed else reserved.failed
            ending = ended(f"{lost.reason}: {lost.detail}", self._clock(), loop.time() - started)
            failure = _FailedAttempt(lost.reason, lost.detail, again=True)
            fatal = self._wrong_set_up(lost)
        else:
            received = read_completion(body, loop.time() - started)
            if received is not None:
                return await self._read(item, writer, reserved, received)
            failure = _FailedAttempt(UNREADABLE, "the body is no chat completion", again=True)
            unread = Received(body[:MAX_UNREAD], None, None, None, None, loop.time() - started)
            ending = reserved.unknown(str(failure), self._clock(), received=unread)
            fatal = None
        await self._close(item, writer, ending)
        item.failure = failure
        raise fatal or failure

    async def _read(
        self, item: _Asking, writer: _Writer, reserved: Reservation, received: Received
    ) -> tuple[str, Answer | Abstention]:
        """Settle a completion and read its reply; _FailedAttempt where there is none and another may come."""
        parsed = parse_reply(received.text, received.finish_reason)
        error = f"{parsed.reason}: {parsed.detail}" if isinstance(parsed, Abstention) else None
        if received.usage is None:
            ending = reserved.unknown(error or NO_USAGE, self._clock(), received=received)
        else:
            cost = self._prices.cost(self._model, received.usage, reserved.reserved_at)
            ending = reserved.settled(received, cost, self._clock(), error)
        await self._close(item, writer, ending)
        if isinstance(parsed, Abstention) and parsed.reason in (BLANK, OVERLOADED):
            item.failure = _FailedAttempt(parsed.reason, parsed.detail, again=True)
            raise item.failure
        return received.text or "", parsed

    async def _close(self, item: _Asking, writer: _Writer, ending: Ending) -> None:
        item.endings.append(ending)
        await writer.write(ending)

    async def _reserved(self, item: _Asking, limit: float) -> Reservation:
        """The reservation made beforehand, or a new one for another attempt."""
        if item.reserved is not None:
            reserved, item.reserved = item.reserved, None
            return reserved
        if limit < MIN_ATTEMPT_S:
            raise _FailedAttempt(TIMEOUT, "the deadline has passed", again=False)
        (result,) = await asyncio.to_thread(self._reserve, [item])
        if isinstance(result, Reservation):
            return result
        # Out of budget in the middle of a question: what failed before is why there is no answer.
        earlier = item.failure or _FailedAttempt(result.reason, "no budget for another attempt", again=False)
        raise _FailedAttempt(earlier.reason, earlier.detail, again=False)

    async def _post(self, client: AsyncOpenAI, messages: tuple[Message, ...], limit: float) -> str:
        """The body of a 200 that is all there within `limit` seconds; else _NoBody."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        try:
            async with asyncio.timeout(limit):
                response = await client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=list(messages),  # type: ignore[arg-type]
                    extra_body=self._parameters.extra,
                    **self._parameters.known,
                )
                return response.text
        except (TimeoutError, APITimeoutError):
            raise _NoBody(TIMEOUT, f"no answer within {limit:.1f} s", may_be_billed=True) from None
        except APIStatusError as error:
            status = error.status_code
            reason = RATE_LIMITED if status == 429 else SERVER_ERROR if status >= 500 else REFUSED
            detail = f"HTTP {status} ({self._message_of(error)})"
            raise _NoBody(reason, detail, may_be_billed=False, status=status) from None
        except APIConnectionError as error:
            # Only the cause's kind: its text may hold headers.
            kind = type(error.__cause__).__name__
            raise _NoBody(CONNECTION, kind, may_be_billed=kind not in _NEVER_SENT) from None

    def _message_of(self, error: APIStatusError) -> str:
        body = error.body
        text = body.get("message") if isinstance(body, dict) else None
        return redacted(str(text or error.message), self._api_key.get_secret_value())

    def _wrong_set_up(self, lost: _NoBody) -> AnalystError | None:
        """What to raise where the service refused the request as such: trying again cannot help."""
        if lost.reason != REFUSED:
            return None
        remedy = _REMEDIES.get(lost.status or 0, "check {set_up} and the service's status")
        return AnalystError(
            f"{self.name} answered {lost.detail}: {remedy.format(key=self._key_name, set_up=self._set_up)}"
        )

    # --- after the call ---------------------------------------------------------------------

    def _decision(
        self,
        item: _Asking,
        status: Literal["answered", "abstained", "skipped"],
        *,
        answer: Answer | None = None,
        reason: str | None = None,
    ) -> Decision:
        return Decision(
            signal_id=item.question.signal_id,
            status=status,
            status_reason=reason,
            answer=answer,
            call_id=None if status == "skipped" else item.call_id,
            prompt_version=item.prompt_version,
            cost_usd=item.cost_usd,
            analyst=self.name,
            ungrounded=None if answer is None else ungrounded_against(answer, item.messages),
        )


class _NoBody(Exception):  # noqa: N818 - as _FailedAttempt
    """A request without a body to read; `may_be_billed` where it is not known that it costs nothing."""

    def __init__(self, reason: str, detail: str, *, may_be_billed: bool, status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.may_be_billed, self.status = reason, detail, may_be_billed, status


class _Writer:
    """Writes endings as they come; those that come while one is being written go together in the next transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pending: list[Ending] = []
        self._turn = asyncio.Lock()

    async def write(self, ending: Ending) -> None:
        self._pending.append(ending)
        async with self._turn:
            batch, self._pending = self._pending, []
            await asyncio.to_thread(self._ledger.write, batch, also=lambda tx: note_regimes(tx, batch))


def _repair(text: str, fault: str) -> tuple[Message, Message]:
    """The one more turn that a faulty reply gets: the reply, and its fault named."""
    return (
        {"role": "assistant", "content": text},
        {
            "role": "user",
            "content": f"That reply cannot be used: {fault}. Reply once more with exactly one json object of the form "
            "stated above and nothing else.",
        },
    )


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """The system's trust, read once: it takes as long as a whole prompt otherwise."""
    return ssl.create_default_context()


def _run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run `coroutine` to its end, also where the caller's thread has an event loop of its own."""
    if not _loop_is_running():
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
