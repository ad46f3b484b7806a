"""The analyst that answers from the ledger, at no cost: a request that was answered before is answered the same again.

It sends nothing and reserves nothing; whoever asks for money is deepseek.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from v7_pipeline.analyst.base import ASKED_AGAIN, NOT_IN_LEDGER, Analyst, Answer, Decision, Question, require_aware
from v7_pipeline.analyst.grounding import ungrounded_against
from v7_pipeline.analyst.prompt import Prompt, build_prompt
from v7_pipeline.analyst.reply import Abstention, parse_reply
from v7_pipeline.analyst.wire import Parameters, messages_text, prompt_hash

if TYPE_CHECKING:
    from v7_pipeline.store import Reader, Store

__all__ = ["Held", "ReplayAnalyst", "Reread", "held_answers", "replayed", "reread"]

_COMPARED = (
    "status", "status_reason", "side", "confidence", "entry_price", "stop_price", "target_price", "horizon_minutes",
    "reasoning", "key_theories", "would_change_my_mind",
)  # fmt: skip
_DECIDED = """
SELECT attempt, raw_reply, finish_reason, prompt_version FROM llm_calls
WHERE call_id = ? AND finish_reason IS NOT NULL ORDER BY attempt DESC LIMIT 1
"""

# Two steps: the first reads short columns only, so that the second reads the few long texts that are needed. All
# attempts of a call have its scan's instant.
_REQUESTS = f"""
SELECT prompt_hash, call_id, min(attempt) AS first, any_value(as_of) AS as_of FROM llm_calls
WHERE prompt_hash IN (SELECT unnest(?::VARCHAR[]))
  AND analyst = coalesce(?, CASE WHEN regexp_matches(analyst, '{ASKED_AGAIN}') THEN NULL ELSE analyst END)
GROUP BY prompt_hash, call_id
"""
_ATTEMPTS = """
SELECT call_id, attempt, prompt_hash, model, parameters, prompt, status, raw_reply, finish_reason FROM llm_calls
WHERE call_id IN (SELECT unnest(?::VARCHAR[])) AND as_of >= ? AND as_of <= ? ORDER BY reserved_at, call_id, attempt
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger has on one request: the call, and what its newest usable reply says (or why none is usable)."""

    call_id: str
    said: Answer | Abstention


def held_answers(reader: Reader | Store, hashes: Sequence[str], *, analyst: str | None = None) -> dict[str, Held]:
    """By prompt hash, what the ledger's calls with that request ended in; requests without a reply are absent.

    `analyst` leaves out the others' calls: one model may stand behind several names. Without it, those that were only
    asked again (ASKED_AGAIN) are left out: they decided nothing.
    A call's repair counts as its answer. Of several calls with one request the newest usable answer counts; where none
    is usable, the newest reply's fault.
    """
    requests = reader.rows(_REQUESTS, (list(hashes), analyst))
    if not requests:
        return {}
    attempts: dict[str, list[dict[str, Any]]] = {}
    instants = [request["as_of"] for request in requests]
    call_ids = list({request["call_id"] for request in requests})
    for row in reader.rows(_ATTEMPTS, (call_ids, min(instants), max(instants))):
        attempts.setdefault(row["call_id"], []).append(row)
    held: dict[str, Held] = {}
    # Calls by their first attempt's time: of several with one request the newest answer is kept.
    place = {call_id: place for place, call_id in enumerate(attempts)}
    for request in sorted(requests, key=lambda request: place[request["call_id"]]):
        for row in _conversation(attempts[request["call_id"]], request["first"]):
            said = parse_reply(row["raw_reply"], row["finish_reason"])
            before = held.get(request["prompt_hash"])
            if isinstance(said, Answer) or before is None or isinstance(before.said, Abstention):
                held[request["prompt_hash"]] = Held(request["call_id"], said)
    return held


def _conversation(attempts: Sequence[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Of a call's attempts, those with a reply that go on from the attempt numbered `first`: retries, and a repair.

    A repair sends the first messages and two more, so that its text begins as the first one's, closing bracket aside.
    """
    (start,) = (row for row in attempts if row["attempt"] == first)
    return [
        row
        for row in attempts
        if row["attempt"] >= first
        and row["finish_reason"] is not None
        and (row["model"], row["parameters"]) == (start["model"], start["parameters"])
        and row["prompt"].startswith(start["prompt"][:-1])
    ]


@dataclass(frozen=True)
class Reread:
    """A stored decision beside what today's code reads in the same reply, by llm_signals' columns.

    `attempt` is the reply's; None (as are today's values) where the call has no reply to read.
    """

    stored: Mapping[str, Any]
    today: Mapping[str, Any] | None
    attempt: int | None

    @property
    def differences(self) -> tuple[str, ...]:
        """The columns in which the two differ."""
        if self.today is None:
            return ()
        return tuple(name for name in _COMPARED if self.stored[name] != self.today[name])


def reread(reader: Reader | Store, signal: Mapping[str, Any]) -> Reread:
    """Read the newest reply behind `signal` (an llm_signals row with a call_id) with today's code; writes nothing."""
    stored = {name: signal[name] for name in _COMPARED}
    rows = reader.rows(_DECIDED, (signal["call_id"],))
    if not rows:
        return Reread(stored, None, None)
    said = parse_reply(rows[0]["raw_reply"], rows[0]["finish_reason"])
    today: dict[str, Any] = dict.fromkeys(_COMPARED)
    if isinstance(said, Abstention):
        today |= {"status": "abstained", "status_reason": said.reason}
    else:
        today |= asdict(said) | {"status": "answered", "key_theories": ",".join(said.key_theories)}
    return Reread(stored, {name: today[name] for name in _COMPARED}, rows[0]["attempt"])


class ReplayAnalyst:
    """Answers from the ledger of `store` to requests of this model with these parameters.

    Its decisions say analyst = replay, whoever answered; call_id is the call that was paid for, cost_usd is 0. A call
    that ended in an unusable reply is an abstention again. A request that the ledger has no reply to is skipped with
    NOT_IN_LEDGER, or decided by `fallback`, under that one's name. The messages hold the instant, so that a scan of
    another instant is another request.
    """

    name = "replay"

    def __init__(self, store: Store, *, model: str, parameters: Parameters, fallback: Analyst | None = None) -> None:
        self._store, self._model, self._parameters, self._fallback = store, model, parameters, fallback

    @property
    def worst_case_usd(self) -> float:
        """What a question may cost: nothing."""
        return 0.0

    @property
    def model(self) -> str:
        """Whose answers it looks for."""
        return self._model

    @property
    def parameters(self) -> Parameters:
        """With which parameters they were asked."""
        return self._parameters

    @property
    def fallback(self) -> Analyst | None:
        """Who decides what the ledger does not hold; None where nobody does."""
        return self._fallback

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        """One decision a question, in order: answered, abstained as it was then, or skipped with NOT_IN_LEDGER."""
        require_aware(now, "now")
        if not questions:
            return []
        prompts = {question.signal_id: build_prompt(question) for question in questions}
        hashes = {
            signal_id: prompt_hash(self._model, self._parameters.text, messages_text(prompt.messages))
            for signal_id, prompt in prompts.items()
        }
        held = held_answers(self._store, list(hashes.values()))
        missing = [question for question in questions if hashes[question.signal_id] not in held]
        others = {d.signal_id: d for d in self._fallback.decide(missing, now=now)} if self._fallback else {}
        return [
            others.get(signal_id) or replayed(signal_id, prompt, held.get(hashes[signal_id]), self.name)
            for signal_id, prompt in prompts.items()
        ]


def replayed(signal_id: str, prompt: Prompt, held: Held | None, analyst: str) -> Decision:
    """The decision of what the ledger holds on `prompt`, at no cost; skipped with NOT_IN_LEDGER where that is None."""
    outcome: Mapping[str, Any]
    if held is None:
        outcome = {"status": "skipped", "status_reason": NOT_IN_LEDGER, "answer": None}
    elif isinstance(held.said, Answer):
        outcome = {"status": "answered", "status_reason": None, "answer": held.said}
    else:
        outcome = {"status": "abstained", "status_reason": held.said.reason, "answer": None}
    return Decision(
        signal_id=signal_id,
        call_id=held.call_id if held else None,
        prompt_version=prompt.version,
        cost_usd=0.0,
        analyst=analyst,
        ungrounded=ungrounded_against(held.said, prompt.messages)
        if held is not None and isinstance(held.said, Answer)
        else None,
        **outcome,
    )
