"""Several analysts on the very same questions: those the ledger holds, asked again, and how the answers compare.

Who asks, pays and settles is analyst/; what a side was worth is read from the outcomes, never guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean, median
from typing import Any

from v7_pipeline.analyst.base import Answer, Decision, call_id_of
from v7_pipeline.analyst.deepseek import Asked, DeepSeekAnalyst
from v7_pipeline.analyst.replay import held_answers
from v7_pipeline.analyst.reply import parse_reply
from v7_pipeline.analyst.rules import answer_from_prompt
from v7_pipeline.learning.statistics import wilson
from v7_pipeline.scan.decide import STRATEGY
from v7_pipeline.store import Store

__all__ = [
    "CompareError",
    "Plan",
    "Question",
    "Said",
    "Standing",
    "ask_again",
    "plan",
    "questions",
    "rules_say",
    "standings",
]

AT_ONCE = 24  # questions asked at once

_QUESTIONS = """
WITH asked AS (
    SELECT call_id, arg_max(prompt, attempt) AS prompt, sum(coalesce(cost_usd, reserved_usd)) AS cost_usd,
           sum(latency_s) AS latency_s, any_value(analyst) AS asked_of
    FROM llm_calls GROUP BY call_id
), closed AS (
    SELECT signal_id, side, any_value(r_multiple) AS r_multiple FROM outcomes
    WHERE kind IN ('paper', 'shadow') AND outcome <> 'open' GROUP BY signal_id, side
)
SELECT s.signal_id, s.symbol, s.as_of, s.analyst, s.status, s.status_reason, s.side, s.confidence, s.prompt_version,
       a.prompt, a.cost_usd, a.latency_s, c.r_multiple
FROM llm_signals s JOIN asked a USING (call_id) LEFT JOIN closed c USING (signal_id, side)
WHERE s.strategy = ? AND s.as_of >= ? AND s.as_of < ?
  AND (?::VARCHAR IS NULL OR (a.asked_of = ? AND s.status = 'answered'))
ORDER BY s.as_of DESC, s.symbol LIMIT ?
"""
_PAID = """
SELECT call_id, sum(coalesce(cost_usd, reserved_usd)) AS cost_usd, sum(latency_s) AS latency_s
FROM llm_calls WHERE call_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY call_id
"""
_KNOWN = "SELECT DISTINCT call_id, prompt_hash FROM llm_calls WHERE call_id IN (SELECT unnest(?::VARCHAR[]))"


class CompareError(ValueError):
    """The comparison cannot be made as asked for; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an analyst made of one question: a side with its confidence, or why there is none.

    `cost_usd` and `latency_s` are its call's, all attempts together; latency is None where nothing was sent.
    """

    side: str | None
    confidence: float | None
    reason: str | None
    cost_usd: float
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class Question:
    """A question that the ledger holds: the messages as they were sent, who decided what, and what came of it.

    `r_multiple` is the closed outcome of the decider's own plan, net, in R; None where there is none.
    """

    asked: Asked
    decider: str
    decided: Said
    r_multiple: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What asking one analyst takes: the questions it has not answered yet, and what one attempt at each costs at most.

    `held` is what it answered before, by signal_id; `worst_usd` is in USD.
    """

    analyst: DeepSeekAnalyst
    held: Mapping[str, Said]
    to_ask: tuple[Asked, ...]
    worst_usd: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One analyst's row. `agreed` of `shared` questions that both answered had the decider's side, with 95 % Wilson.

    `mean_r` is over the `n_r` closed outcomes whose side it chose too; `opposite` ones, where it chose the other side,
    are counted and not guessed: the other side had barriers of its own.
    """

    analyst: str
    n: int
    sides: Mapping[str, int]
    unanswered: Mapping[str, int]
    agreed: int
    shared: int
    agreement: tuple[float, float]
    mean_confidence: float | None
    median_latency_s: float | None
    cost_usd: float
    mean_r: float | None
    n_r: int
    opposite: int


def questions(
    store: Store, *, start: datetime, end: datetime, limit: int, answered_by: str | None = None
) -> list[Question]:
    """The newest `limit` questions of start ≤ as_of < end whose decision was paid for, oldest first.

    `answered_by`: only those that this analyst was asked and answered.
    """
    rows = store.rows(_QUESTIONS, (STRATEGY, start, end, answered_by, answered_by, limit))
    return [_question(row) for row in reversed(rows)]


def rules_say(asked: Asked) -> Said:
    """What the rules reply to the same document. CompareError where the prompt is of another layout than today's."""
    try:
        reply = answer_from_prompt(json.loads(asked.messages[-1]["content"]))
    except ValueError as error:
        raise CompareError(f"the rules cannot read the prompt of {asked.signal_id}: {error}; narrow --from") from None
    return _said(parse_reply(json.dumps(reply), "stop"), cost_usd=0.0, latency_s=None)


def plan(store: Store, analyst: DeepSeekAnalyst, kept: Sequence[Question]) -> Plan:
    """What `analyst` answered of `kept` before, and what the rest costs at most.

    CompareError where the ledger holds its answers to these questions by another model or other parameters: one name
    is one analyst.
    """
    hashes = {question.asked.signal_id: analyst.hash_of(question.asked) for question in kept}
    call_ids = {call_id_of(analyst.name, signal_id): signal_id for signal_id in hashes}
    with store.reading() as reader:
        known = reader.rows(_KNOWN, (list(call_ids),))
        held = held_answers(reader, list(hashes.values()), analyst=analyst.name)
        paid = {call_ids[row["call_id"]]: row for row in reader.rows(_PAID, (list(call_ids),))}
    seen = {row["call_id"] for row in known}
    same = {row["call_id"] for row in known if row["prompt_hash"] == hashes[call_ids[row["call_id"]]]}
    if seen - same:
        raise CompareError(
            f"the ledger holds {len(seen - same)} answers of {analyst.name!r} to these questions by another model or "
            f"other parameters; give the changed analyst another name in V7_ANALYSTS_FILE, or choose other days"
        )
    before = {
        signal_id: _said(
            held[digest].said, cost_usd=paid[signal_id]["cost_usd"], latency_s=paid[signal_id]["latency_s"]
        )
        for signal_id, digest in hashes.items()
        if digest in held
    }
    to_ask = tuple(question.asked for question in kept if question.asked.signal_id not in before)
    return Plan(analyst, before, to_ask, sum(analyst.worst_case_of(question) for question in to_ask))


def ask_again(
    store: Store, planned: Plan, on_progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Said]:
    """What the plan's analyst says to every question, by signal_id: what it said before, and what it is asked now.

    Each call is reserved and settled in the ledger under the budgets; what they do not hold is skipped with its reason.
    """
    said = dict(planned.held)
    name = planned.analyst.name
    for place in range(0, len(planned.to_ask), AT_ONCE):
        batch = planned.to_ask[place : place + AT_ONCE]
        decisions = planned.analyst.ask(batch)
        rows = store.rows(_PAID, ([call_id_of(name, decision.signal_id) for decision in decisions],))
        paid = {row["call_id"]: row for row in rows}
        said |= {d.signal_id: _decided(d, paid.get(call_id_of(name, d.signal_id), {})) for d in decisions}
        if on_progress:
            on_progress(f"asking {name}", place + len(batch), len(planned.to_ask))
    return said


def standings(kept: Sequence[Question], others: Mapping[str, Mapping[str, Said]]) -> list[Standing]:
    """The decider's row first (all deciders of `kept` together), then one for each of `others` (by signal_id)."""
    deciders = "+".join(sorted({question.decider for question in kept}))
    own = {question.asked.signal_id: question.decided for question in kept}
    return [_standing(name, kept, said) for name, said in ((f"{deciders} (decided)", own), *others.items())]


def _standing(name: str, kept: Sequence[Question], said: Mapping[str, Said]) -> Standing:
    pairs = [(question, said[question.asked.signal_id]) for question in kept]
    answered = [(question, one) for question, one in pairs if one.side is not None]
    shared = [(question, one) for question, one in answered if question.decided.side is not None]
    agreed = sum(one.side == question.decided.side for question, one in shared)
    trades = [(q, one) for q, one in shared if q.r_multiple is not None and one.side != "HOLD"]
    earned = [q.r_multiple for q, one in trades if one.side == q.decided.side and q.r_multiple is not None]
    confidences = [one.confidence for _, one in answered if one.confidence is not None]
    latencies = [one.latency_s for _, one in pairs if one.latency_s is not None]
    return Standing(
        analyst=name,
        n=len(pairs),
        sides={side: sum(one.side == side for _, one in answered) for side in ("BUY", "SELL", "HOLD")},
        unanswered=dict(Counter(str(one.reason) for _, one in pairs if one.side is None)),
        agreed=agreed,
        shared=len(shared),
        agreement=wilson(agreed, len(shared)),
        mean_confidence=fmean(confidences) if confidences else None,
        median_latency_s=median(latencies) if latencies else None,
        cost_usd=sum(one.cost_usd for _, one in pairs),
        mean_r=fmean(earned) if earned else None,
        n_r=len(earned),
        opposite=len(trades) - len(earned),
    )


def _question(row: Mapping[str, Any]) -> Question:
    messages: list[dict[str, str]] = json.loads(row["prompt"])
    # A repair goes on from the first reply; the question is what stands before it.
    first = next((place for place, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    asked = Asked(row["signal_id"], row["symbol"], row["as_of"], tuple(messages[:first]), row["prompt_version"])
    reason = None if row["status"] == "answered" else row["status_reason"]
    decided = Said(row["side"], row["confidence"], reason, row["cost_usd"], row["latency_s"])
    return Question(asked, row["analyst"], decided, row["r_multiple"])


def _said(said: Any, *, cost_usd: float, latency_s: float | None) -> Said:
    if isinstance(said, Answer):
        return Said(said.side, said.confidence, None, cost_usd, latency_s)
    return Said(None, None, said.reason, cost_usd, latency_s)


def _decided(decision: Decision, paid: Mapping[str, Any]) -> Said:
    cost, latency = paid.get("cost_usd", 0.0), paid.get("latency_s")
    if decision.answer is not None:
        return _said(decision.answer, cost_usd=cost, latency_s=latency)
    return Said(None, None, decision.status_reason, cost, latency)
