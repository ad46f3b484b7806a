"""Who decides in a backtest beside the rules: what the ledger holds of its instants, or a paid analyst on a sample.

The paid one is asked at the same instants without the theories, too, where somebody wants the comparison. All speak
the Analyst protocol. Asking, paying and settling is analyst/'s; replaying scans is replay.py's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from v7_pipeline.analyst.base import (
    ASKED_AGAIN,
    NOT_CONFIRMED,
    NOT_SAMPLED,
    AnalystError,
    Decision,
    Question,
    require_aware,
)
from v7_pipeline.analyst.cutoffs import Period, periods
from v7_pipeline.analyst.deepseek import Asked, DeepSeekAnalyst, asked
from v7_pipeline.analyst.plain import LOOK_BACK, WITHOUT_THEORIES, largest_plain_prompt, plain_prompt, without_theories
from v7_pipeline.analyst.prices import Usage
from v7_pipeline.analyst.prompt import Prompt, build_prompt, largest_prompt
from v7_pipeline.analyst.replay import Held, ReplayAnalyst, held_answers, replayed
from v7_pipeline.analyst.wire import messages_text, prompt_hash

if TYPE_CHECKING:
    from v7_pipeline.store import Store

__all__ = [
    "SAME_MARKET",
    "Confirm",
    "Estimate",
    "LedgerAnalyst",
    "Missing",
    "SampledAnalyst",
    "estimate",
    "ledger_analyst",
    "missing_answers",
    "sample_instants",
    "sample_name",
    "sampled_analyst",
    "sampled_twice",
    "seed_of",
]

#: The analyst column of an answer that was given to the same market, in a question that differs in something else.
SAME_MARKET = "replay-same-market"
MINUTE = timedelta(minutes=1)
CONFIDENCE = 0.95
NEWEST_CALLS = 1000  # of the ledger, from which a cost is expected
_DUST = 1e-9

# What a question says beside the market: the account, what follows from it and from what was learnt so far, and what a
# scan can ask the exchange for and a backtest cannot. Another run's may differ.
_BESIDE = ("position", "combined", "missing", "context")
_LEARNT = "bayesian_win_rate"

_ANSWERED = f"""
SELECT DISTINCT symbol, as_of FROM llm_calls
WHERE as_of >= ? AND as_of <= ? AND model = ? AND parameters = ? AND finish_reason IS NOT NULL
  AND analyst = coalesce(?, CASE WHEN regexp_matches(analyst, '{ASKED_AGAIN}') THEN NULL ELSE analyst END)
"""
_OF_SIGNALS = f"""
SELECT signal_id, prompt, prompt_hash FROM llm_calls
WHERE signal_id IN (SELECT unnest(?::VARCHAR[])) AND as_of >= ? AND as_of <= ? AND model = ? AND parameters = ?
  AND finish_reason IS NOT NULL AND NOT regexp_matches(analyst, '{ASKED_AGAIN}')
ORDER BY reserved_at, call_id, attempt
"""
_USAGE = f"""
SELECT sum(prompt_tokens) AS prompt, sum(cache_hit_tokens) AS hit, sum(completion_tokens) AS completion
FROM llm_calls WHERE model = ? AND parameters = ? AND status = 'settled' AND prompt_tokens IS NOT NULL
  AND ends_with(analyst, '{WITHOUT_THEORIES}') = ?
GROUP BY call_id ORDER BY max(reserved_at) DESC, call_id LIMIT ?
"""
_CANDLE = ("open_time", "open", "high", "low", "close", "volume")


# --- the ledger's answers -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missing:
    """Questions of a span that the ledger has no reply to: how many of `asked`, and the first of them."""

    count: int
    asked: int
    symbol: str
    as_of: datetime


class LedgerAnalyst:
    """Answers of the ledger for a backtest's instants, at no cost.

    A question that was asked word for word is answered as ReplayAnalyst does (analyst = replay). A backtest's account
    and what it has learnt so far are seldom those of the scan that asked, so that the question of the same instant and
    symbol counts too where all that it says of the market, the mode and the plan is the same: SAME_MARKET. What is
    left is decided by the replayer's fallback, under that one's name; without one it is an AnalystError that names the
    question and what differs, or with `skip` a decision skipped with NOT_IN_LEDGER.
    """

    name = "replay"

    def __init__(self, store: Store, replayer: ReplayAnalyst, *, skip: bool = False) -> None:
        self._store, self._replayer, self._skip = store, replayer, skip

    @property
    def worst_case_usd(self) -> float:
        """What a question may cost: nothing."""
        return 0.0

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        """One decision a question, in order."""
        require_aware(now, "now")
        if not questions:
            return []
        prompts = {question.signal_id: build_prompt(question) for question in questions}
        hashes = {signal_id: self._hash(prompt) for signal_id, prompt in prompts.items()}
        held = held_answers(self._store, list(hashes.values()))
        found = {
            signal_id: replayed(signal_id, prompts[signal_id], held[digest], self.name)
            for signal_id, digest in hashes.items()
            if digest in held
        }
        left = [question for question in questions if question.signal_id not in found]
        if left:
            found |= self._of_the_same_market(left, prompts)
            found |= self._by_the_fallback([q for q in left if q.signal_id not in found], prompts, now)
        return [found[question.signal_id] for question in questions]

    def _hash(self, prompt: Prompt) -> str:
        return prompt_hash(self._replayer.model, self._replayer.parameters.text, messages_text(prompt.messages))

    def _asked(self, questions: Sequence[Question]) -> dict[str, list[tuple[str, Prompt]]]:
        """By signal_id, the ledger's other questions at these instants: their prompt_hash and words, oldest first."""
        instants = [question.as_of for question in questions]
        ids = [question.signal_id for question in questions]
        which = (self._replayer.model, self._replayer.parameters.text)
        known: dict[str, list[tuple[str, Prompt]]] = {}
        for row in self._store.rows(_OF_SIGNALS, (ids, min(instants), max(instants), *which)):
            messages = json.loads(row["prompt"])
            if len(messages) == 2:  # a repair is read with the question that it goes on from
                known.setdefault(row["signal_id"], []).append((row["prompt_hash"], Prompt(tuple(messages), "")))
        return known

    def _of_the_same_market(self, questions: Sequence[Question], prompts: Mapping[str, Prompt]) -> dict[str, Decision]:
        """Decisions on questions whose market the ledger was asked about, be it for another account; the newest."""
        alike: dict[str, str] = {}
        sent: dict[str, Prompt] = {}
        for signal_id, known in self._asked(questions).items():
            for digest, prompt in known:
                if not _differences(prompt, prompts[signal_id]):
                    alike[signal_id], sent[signal_id] = digest, prompt
        held = held_answers(self._store, list(alike.values())) if alike else {}
        return {
            # Numbers of the reasoning are looked up in the words that were sent then.
            signal_id: replayed(
                signal_id, replace(prompts[signal_id], messages=sent[signal_id].messages), held[digest], SAME_MARKET
            )
            for signal_id, digest in alike.items()
            if digest in held
        }

    def _by_the_fallback(
        self, questions: Sequence[Question], prompts: Mapping[str, Prompt], now: datetime
    ) -> dict[str, Decision]:
        if not questions:
            return {}
        if self._replayer.fallback is not None:
            return {d.signal_id: d for d in self._replayer.fallback.decide(questions, now=now)}
        if self._skip:
            return {q.signal_id: replayed(q.signal_id, prompts[q.signal_id], None, self.name) for q in questions}
        raise AnalystError(self._refusal(questions[0], prompts))

    def _refusal(self, question: Question, prompts: Mapping[str, Prompt]) -> str:
        known = self._asked([question]).get(question.signal_id)
        what = f"{question.symbol} at {question.as_of:%Y-%m-%d %H:%M}Z"
        if not known:
            return f"the ledger has no answer of {self._replayer.model} on {what}; {_REMEDY}"
        places = ", ".join(_differences(known[-1][1], prompts[question.signal_id])[:3])
        return (
            f"the ledger's question on {what} is another one than this backtest's (in {places}): candles, settings or "
            f"code have changed since; {_REMEDY}"
        )


_REMEDY = "let the rules decide what it does not hold (--fallback rules), or choose another span"


def missing_answers(
    store: Store, replayer: ReplayAnalyst, instants: Sequence[datetime], symbols: Sequence[str]
) -> Missing | None:
    """What the ledger of `store` holds no reply to, of `symbols` at `instants`; None where it holds all.

    Whether a reply was to the very question shows only when it is asked.
    """
    answered = _answered(store, replayer.model, replayer.parameters.text, instants, None)
    left = [(as_of, symbol) for as_of in instants for symbol in symbols if (symbol, as_of) not in answered]
    return Missing(len(left), len(instants) * len(symbols), left[0][1], left[0][0]) if left else None


def ledger_analyst(
    store: Store,
    replayer: ReplayAnalyst,
    instants: Sequence[datetime],
    symbols: Sequence[str],
    *,
    skip: bool = False,
) -> LedgerAnalyst:
    """The analyst that replays the ledger of `store` over `instants`.

    Without a fallback of the replayer (and without `skip`) AnalystError where a reply is missing: one sentence with how
    many and the first.
    """
    if replayer.fallback is None and not skip:
        missing = missing_answers(store, replayer, instants, symbols)
        if missing is not None:
            raise AnalystError(
                f"the ledger holds no answer of {replayer.model} to {missing.count:,} of the {missing.asked:,} "
                f"questions of this span, the first on {missing.symbol} at {missing.as_of:%Y-%m-%d %H:%M}Z; {_REMEDY}"
            )
    return LedgerAnalyst(store, replayer, skip=skip)


def _answered(
    store: Store, model: str, parameters: str, instants: Sequence[datetime], analyst: str | None
) -> set[tuple[str, datetime]]:
    """Symbol and instant of the questions that have a reply, by `analyst` or (None) by any that decided something."""
    if not instants:
        return set()
    rows = store.rows(_ANSWERED, (min(instants), max(instants), model, parameters, analyst))
    return {(row["symbol"], row["as_of"]) for row in rows}


def _differences(one: Prompt, other: Prompt) -> list[str]:
    """Where two questions differ that are to be about the same market, such as market or readings.price_momentum."""
    system, document = _market(one)
    other_system, other_document = _market(other)
    places = [] if system == other_system else ["the instructions"]
    for key in sorted({*document, *other_document}):
        if document.get(key) != other_document.get(key):
            places.append(key)
    return places


def _market(prompt: Prompt) -> tuple[str, dict[str, Any]]:
    """The instructions, and of the document what is of the market, by place; readings by theory."""
    system, user = prompt.messages
    document = json.loads(user["content"])
    readings = {f"readings.{theory}": value for theory, value in document.pop("readings", {}).items()}
    kept = {key: value for key, value in document.items() if key not in _BESIDE}
    return system["content"], {**kept, **{k: v for k, v in readings.items() if k != f"readings.{_LEARNT}"}}


# --- a paid analyst on a sample -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """What asking `analyst` on a sample takes, in USD.

    `questions` = instants × symbols, of which the ledger holds `held` of an earlier backtest (free where the words are
    the same). `worst_usd`: the peak price, nothing cached, the longest prompt and answer, an attempt each; a retry or a
    repair reserves anew. `expected_usd` and its 95 % prediction interval are of what is not held, at today's price,
    from the `calls` newest calls of this model and these parameters in the ledger; missing where it has none (the
    interval where it has one). `room_usd` is what the budgets hold now. `periods` label the sample's span. `beside` is
    what asking the same instants without the theories takes on top, None where they are asked once.
    """

    analyst: str
    model: str
    instants: int
    of_instants: int
    symbols: int
    held: int
    worst_usd: float
    expected_usd: float | None
    lower_usd: float | None
    upper_usd: float | None
    calls: int
    room_usd: float
    periods: tuple[Period, ...]
    contaminated: int
    beside: Estimate | None = None

    @property
    def questions(self) -> int:
        """Of one asking."""
        return self.instants * self.symbols

    @property
    def total_usd(self) -> float:
        """What all of it may cost at most, with what is asked beside it."""
        return self.worst_usd + (self.beside.worst_usd if self.beside else 0.0)

    @property
    def sentence(self) -> str:
        """All of it for the person who is to confirm."""
        again = ""
        if self.beside is not None:
            again = (
                f"; the same {self.questions:,} once more without the theories, as a baseline, {self.beside._costs}: "
                f"${self.total_usd:.4f} at most for both"
            )
        short = "; what they do not hold is skipped" if self.total_usd > self.room_usd else ""
        labels = ", ".join(f"{p.start:%Y-%m-%d} … {p.end:%Y-%m-%d} {p.label}" for p in self.periods)
        return (
            f"{self.analyst} ({self.model}) on {self.instants:,} of {self.of_instants:,} instants, {self.symbols} "
            f"symbols: {self.questions:,} questions, {self._costs}{again}; the budgets hold ${self.room_usd:.4f} "
            f"now{short}. Of the instants {self.contaminated:,} count as contaminated by the model's training "
            f"({labels})"
        )

    @property
    def _costs(self) -> str:
        if self.expected_usd is None:
            expected = "what it is likely to cost is not known, the ledger has no call of this model yet"
        else:
            between = "" if self.lower_usd is None else f" (95 % in ${self.lower_usd:.4f} … ${self.upper_usd:.4f})"
            expected = f"${self.expected_usd:.4f} expected{between}, by {self.calls} calls of the ledger"
        return f"{self.held:,} of them answered before: ${self.worst_usd:.4f} at most, {expected}"


#: Asked with the estimate before anything is sent; True lets it begin.
Confirm = Callable[[Estimate], bool]


def sample_instants(instants: Sequence[datetime], n: int, *, seed: int | None = None) -> tuple[datetime, ...]:
    """`n` of `instants` in their order (all, where there are no more): evenly spread, or drawn without replacement.

    With a `seed` they are drawn, the same ones each time; without, each is the middle one of n equal stretches.
    ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"a sample of {n} instants asks nothing; give 1 or more")
    if n >= len(instants):
        return tuple(instants)
    if seed is None:
        return tuple(instants[(2 * place + 1) * len(instants) // (2 * n)] for place in range(n))
    import numpy as np

    places = np.random.default_rng(seed).choice(len(instants), size=n, replace=False)
    return tuple(instants[place] for place in sorted(places.tolist()))


def sample_name(analyst: str, n: int, seed: int | None = None) -> str:
    """What `analyst` is called on a sample. A backtest's run id names its analyst: another sample is another one."""
    return f"{analyst}-sample-{n}" + ("" if seed is None else f"-seed-{seed}")


def seed_of(configuration: str) -> int:
    """A seed that belongs to a configuration, such as a backtest's run id."""
    return int.from_bytes(hashlib.sha256(configuration.encode()).digest()[:4], "little")


def estimate(
    store: Store,
    analyst: DeepSeekAnalyst,
    chosen: Sequence[datetime],
    symbols: Sequence[str],
    *,
    of_instants: int | None = None,
    plain: bool = False,
) -> Estimate:
    """What asking `analyst` on `chosen` takes, as of its clock; sends nothing and writes nothing.

    `store` is the ledger's. `plain`: asked without the theories; where the ledger has no such call, those with them say
    what to expect. UnknownPriceError where the model has no price now.
    """
    mine, parameters, now = _in_backtests(analyst, plain=plain), analyst.parameters.text, analyst.asked_at
    answered = _answered(store, mine.model, parameters, chosen, mine.name)
    held = sum((symbol, as_of) in answered for as_of in chosen for symbol in symbols)
    questions = len(chosen) * len(symbols)
    largest = largest_plain_prompt() if plain else largest_prompt()
    longest = Asked("", "", now, largest.messages, largest.version)
    costs = _past_costs(store, mine, plain=plain) or (_past_costs(store, mine, plain=False) if plain else [])
    expected, lower, upper = _expected(costs, questions - held)
    labels = periods(mine.model, now, min(chosen), max(chosen) + MINUTE)
    return Estimate(
        analyst=analyst.name,
        model=mine.model,
        instants=len(chosen),
        of_instants=len(chosen) if of_instants is None else of_instants,
        symbols=len(symbols),
        held=held,
        worst_usd=questions * mine.worst_case_of(longest),
        expected_usd=expected,
        lower_usd=lower,
        upper_usd=upper,
        calls=len(costs),
        room_usd=mine.room_usd,
        periods=labels,
        contaminated=sum(p.counts_as_contaminated and p.start <= at < p.end for at in chosen for p in labels),
    )


class SampledAnalyst:
    """A paid analyst that is asked at the chosen instants only; at others its decisions are skipped with NOT_SAMPLED.

    Questions go through the ledger under the analyst's name and -backtest: reserved and settled under the budgets of
    today, the replayed time costing nothing. What that name, or a scan, was asked word for word before is answered from
    the ledger, unusable replies included. Above `cap_usd`, which was confirmed, nothing more is begun: NOT_CONFIRMED.

    `plain`: asked without the theories (analyst/plain.py), told the candles of `store` that were closed by then, under
    the analyst's name and -without-theories.
    """

    def __init__(
        self,
        store: Store,
        analyst: DeepSeekAnalyst,
        chosen: Sequence[datetime],
        *,
        cap_usd: float,
        seed: int | None = None,
        plain: bool = False,
    ) -> None:
        self._store, self._analyst, self._plain = store, _in_backtests(analyst, plain=plain), plain
        self._chosen, self._cap, self._spent = frozenset(chosen), cap_usd, 0.0
        self.name = sample_name(without_theories(analyst.name) if plain else analyst.name, len(self._chosen), seed)

    @property
    def chosen(self) -> frozenset[datetime]:
        """The instants at which it is asked."""
        return self._chosen

    @property
    def worst_case_usd(self) -> float:
        """0 for the replayed gates: budgets are of the days on which one pays, and the ledger holds them then."""
        return 0.0

    @property
    def spent_usd(self) -> float:
        """What asking has cost so far, in USD; calls of an unknown end at their worst case."""
        return self._spent

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        """One decision a question, in order; AnalystError where the analyst is set up wrongly."""
        require_aware(now, "now")
        found = {q.signal_id: self._skipped(q, NOT_SAMPLED) for q in questions if q.as_of not in self._chosen}
        sampled = [question for question in questions if question.signal_id not in found]
        if sampled:
            words = {question.signal_id: self._words(question) for question in sampled}
            held = self._held(words)
            found |= {
                signal_id: replayed(signal_id, Prompt(one.messages, one.prompt_version), held[signal_id], self.name)
                for signal_id, one in words.items()
                if signal_id in held
            }
            found |= self._asked_now([q for q in sampled if q.signal_id not in found], words)
        return [found[question.signal_id] for question in questions]

    def _words(self, question: Question) -> Asked:
        if not self._plain:
            return asked(question)
        span = {"start": question.as_of - LOOK_BACK - MINUTE, "end": question.as_of}
        prompt = plain_prompt(
            question, self._store.read("candles", **span, symbols=(question.symbol,), columns=_CANDLE)
        )
        return Asked(question.signal_id, question.symbol, question.as_of, prompt.messages, prompt.version)

    def _held(self, words: Mapping[str, Asked]) -> dict[str, Held]:
        """What the ledger has on these very words, by signal_id; from an earlier backtest first, then from a scan."""
        digests = {signal_id: self._analyst.hash_of(one) for signal_id, one in words.items()}
        known = held_answers(self._store, list(digests.values()))
        known |= held_answers(self._store, list(digests.values()), analyst=self._analyst.name)
        return {signal_id: known[digest] for signal_id, digest in digests.items() if digest in known}

    def _asked_now(self, questions: Sequence[Question], words: Mapping[str, Asked]) -> dict[str, Decision]:
        begun: dict[str, str] = {}
        sending: list[Asked] = []
        found: dict[str, Decision] = {}
        left = self._cap - self._spent + _DUST
        for question in questions:
            one = words[question.signal_id]
            worst = self._analyst.worst_case_of(one)
            if worst > left:
                found[question.signal_id] = self._skipped(question, NOT_CONFIRMED)
                continue
            left -= worst
            # The ledger knows a call by its signal: other words at the same instant are another call, and no scan's.
            own = f"{question.signal_id}-{self._analyst.hash_of(one)[:12]}"
            begun[own] = question.signal_id
            sending.append(replace(one, signal_id=own))
        for decision in self._analyst.ask(sending) if sending else ():
            self._spent += decision.cost_usd
            signal_id = begun[decision.signal_id]
            found[signal_id] = replace(decision, signal_id=signal_id, analyst=self.name)
        return found

    def _skipped(self, question: Question, reason: str) -> Decision:
        return Decision(question.signal_id, "skipped", reason, None, None, None, 0.0, self.name)


def sampled_analyst(
    store: Store,
    analyst: DeepSeekAnalyst,
    instants: Sequence[datetime],
    symbols: Sequence[str],
    *,
    n: int,
    confirm: Confirm,
    seed: int | None = None,
) -> SampledAnalyst:
    """`analyst` on `n` of `instants` (see sample_instants), after `confirm` has said yes to what that takes.

    `store` is the ledger's, never the backtest's own. AnalystError where it is not confirmed; nothing is sent before.
    """
    chosen = sample_instants(instants, n, seed=seed)
    told = estimate(store, analyst, chosen, symbols, of_instants=len(instants))
    _confirmed(analyst, told, confirm)
    return SampledAnalyst(store, analyst, chosen, cap_usd=told.worst_usd, seed=seed)


def sampled_twice(
    store: Store,
    analyst: DeepSeekAnalyst,
    instants: Sequence[datetime],
    symbols: Sequence[str],
    *,
    n: int,
    confirm: Confirm,
    seed: int | None = None,
) -> tuple[SampledAnalyst, SampledAnalyst]:
    """`sampled_analyst`, and the same at the same instants without the theories; `confirm` is told what both take.

    Each stays below its own part of what was confirmed.
    """
    chosen = sample_instants(instants, n, seed=seed)
    told = estimate(store, analyst, chosen, symbols, of_instants=len(instants))
    plainly = estimate(store, analyst, chosen, symbols, of_instants=len(instants), plain=True)
    _confirmed(analyst, replace(told, beside=plainly), confirm)
    return (
        SampledAnalyst(store, analyst, chosen, cap_usd=told.worst_usd, seed=seed),
        SampledAnalyst(store, analyst, chosen, cap_usd=plainly.worst_usd, seed=seed, plain=True),
    )


def _confirmed(analyst: DeepSeekAnalyst, told: Estimate, confirm: Confirm) -> None:
    if not confirm(told):
        raise AnalystError(
            f"nothing was asked of {analyst.name}: ${told.total_usd:.4f} at most was not confirmed; confirm it (--yes) "
            f"or choose a smaller sample"
        )


def _in_backtests(analyst: DeepSeekAnalyst, *, plain: bool = False) -> DeepSeekAnalyst:
    return analyst.named(without_theories(analyst.name) if plain else f"{analyst.name}-backtest")


def _past_costs(store: Store, analyst: DeepSeekAnalyst, *, plain: bool) -> list[float]:
    """What the newest calls with or without the theories would cost at today's price, in USD."""
    which = (analyst.model, analyst.parameters.text, plain, NEWEST_CALLS)
    return [
        analyst.priced(Usage(int(row["prompt"]), int(row["hit"]), int(row["completion"])))
        for row in store.rows(_USAGE, which)
    ]


def _expected(costs: Sequence[float], k: int) -> tuple[float | None, float | None, float | None]:
    """The cost of `k` further calls like those of `costs`: expected, and Student's prediction interval of their sum."""
    n = len(costs)
    if k == 0:
        return 0.0, 0.0, 0.0
    if n == 0:
        return None, None, None
    mean = math.fsum(costs) / n
    if n == 1:
        return k * mean, None, None
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((cost - mean) ** 2 for cost in costs) / (n - 1))
    wide = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * deviation * math.sqrt(k + k * k / n)
    return k * mean, max(k * mean - wide, 0.0), k * mean + wide
