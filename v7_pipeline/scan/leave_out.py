"""What a language model's answers owe to a theory: the ledger's questions asked again without it, beside a control.

The control is the same question unchanged: a model's answer varies by itself. How a theory is taken out of a prompt is
prompt.py's; asking and paying is compare.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean

from v7_pipeline.analyst.base import asked_again
from v7_pipeline.analyst.deepseek import DeepSeekAnalyst
from v7_pipeline.analyst.prompt import without_theory
from v7_pipeline.analyst.replay import held_answers
from v7_pipeline.learning.statistics import holm, wilson
from v7_pipeline.scan.compare import CompareError, Plan, Question, Said, plan
from v7_pipeline.scan.decide import STRATEGY
from v7_pipeline.store import Store

__all__ = ["Effect", "answered_last", "arms", "closed", "effects", "kept"]

CHANGES, STEADIES, SAME, TOO_FEW = "changes answers", "steadies answers", "indistinguishable", "too few"
LEVEL = 0.05  # of the family-wise error

_LAST = """
SELECT c.analyst FROM llm_signals s JOIN llm_calls c USING (call_id)
WHERE s.strategy = ? AND s.status = 'answered' AND s.as_of >= ? AND s.as_of < ? ORDER BY s.as_of DESC LIMIT 1
"""
_CLOSED = """
SELECT signal_id, side, any_value(r_multiple) AS r FROM outcomes
WHERE kind IN ('paper', 'shadow') AND outcome <> 'open' AND signal_id IN (SELECT unnest(?::VARCHAR[]))
GROUP BY signal_id, side
"""


@dataclass(frozen=True, slots=True)
class Effect:
    """One arm: without `theory`, or (None) the control. Figures are over the `n` questions that both answered.

    `changed` have another side than the decision (95 % Wilson), `only_here` where the control kept it, `only_control`
    the reverse; `p` is McNemar's exact test of these two (None below the least n), `holm_p` over the theories asked.
    `confidence` is the mean change against the decision where both kept its side (`n_kept`). `mean_r` is what the sides
    were worth, in R, over the `n_r` questions with a closed outcome of all three's; a HOLD is 0. `opposite` counts
    sides of which no outcome is known, `unanswered` the arm's reasons; `cost_usd` is all that it has cost.
    """

    theory: str | None
    verdict: str
    n: int
    changed: int
    interval: tuple[float, float] | None
    control_changed: int
    only_here: int
    only_control: int
    p: float | None
    holm_p: float | None
    confidence: float | None
    control_confidence: float | None
    n_kept: int
    mean_r: float | None
    control_mean_r: float | None
    decided_mean_r: float | None
    n_r: int
    opposite: int
    unanswered: Mapping[str, int]
    cost_usd: float


def answered_last(store: Store, *, start: datetime, end: datetime) -> str | None:
    """Who answered the newest question of start ≤ as_of < end that was paid for; None where there is none."""
    rows = store.rows(_LAST, (STRATEGY, start, end))
    return str(rows[0]["analyst"]) if rows else None


def kept(store: Store, analyst: DeepSeekAnalyst, questions: Sequence[Question]) -> list[Question]:
    """Those of `questions` that today's model and parameters answered: no other can be asked unchanged."""
    hashes = {question.asked.signal_id: analyst.hash_of(question.asked) for question in questions}
    held = held_answers(store, list(hashes.values()), analyst=analyst.name)
    return [question for question in questions if hashes[question.asked.signal_id] in held]


def arms(
    store: Store, analyst: DeepSeekAnalyst, questions: Sequence[Question], theories: Sequence[str]
) -> dict[str | None, Plan]:
    """What each arm takes, the control (None) first. CompareError where a prompt is of another layout."""
    return {
        theory: plan(store, analyst.named(asked_again(analyst.name, theory)), [_asked(q, theory) for q in questions])
        for theory in (None, *theories)
    }


def closed(store: Store, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """R of every side that was followed to its end, by signal_id: the decision's, or of a HOLD both."""
    found: dict[str, dict[str, float]] = {}
    for row in store.rows(_CLOSED, ([question.asked.signal_id for question in questions],)):
        if row["r"] is not None:
            found.setdefault(row["signal_id"], {})[row["side"]] = row["r"]
    return found


def effects(
    questions: Sequence[Question],
    said: Mapping[str | None, Mapping[str, Said]],
    outcomes: Mapping[str, Mapping[str, float]],
    *,
    least: int,
) -> list[Effect]:
    """The control's row, then a theory's each. Below `least` questions there is no test and no rank."""
    found = [_effect(theory, questions, said[None], own, outcomes, least) for theory, own in said.items()]
    tested = {effect.theory: effect.p for effect in found if effect.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
    return [_judged(effect, corrected[effect.theory]) if effect.theory in corrected else effect for effect in found]


def _asked(question: Question, theory: str | None) -> Question:
    if theory is None:
        return question
    asked = question.asked
    try:
        messages = without_theory(asked.messages, theory)
    except ValueError as error:
        raise CompareError(f"{asked.signal_id}: {error}; narrow --from to questions of today's template") from None
    version = f"{asked.prompt_version}-without-{theory}"
    return replace(question, asked=replace(asked, messages=messages, prompt_version=version))


def _effect(
    theory: str | None,
    questions: Sequence[Question],
    control: Mapping[str, Said],
    own: Mapping[str, Said],
    outcomes: Mapping[str, Mapping[str, float]],
    least: int,
) -> Effect:
    trios = [(q.decided, control[q.asked.signal_id], own[q.asked.signal_id], q.asked.signal_id) for q in questions]
    pairs = [trio for trio in trios if trio[1].side is not None and trio[2].side is not None]
    moved = [(same.side != was.side, one.side != was.side) for was, same, one, _ in pairs]
    changed, control_changed = sum(one for _, one in moved), sum(same for same, _ in moved)
    only_here, only_control = sum(o and not s for s, o in moved), sum(s and not o for s, o in moved)
    steady = [trio[:3] for trio, (same, one) in zip(pairs, moved, strict=True) if not same and not one]
    worth = [[_worth(one, outcomes[key]) for one in three] for *three, key in pairs if key in outcomes]
    whole = [[r for r in row if r is not None] for row in worth if None not in row]
    decided_r, control_r, own_r = zip(*whole, strict=True) if whole else ((), (), ())
    return Effect(
        theory=theory,
        verdict="control" if theory is None else TOO_FEW if len(pairs) < least else SAME,
        n=len(pairs),
        changed=changed,
        interval=wilson(changed, len(pairs)) if pairs else None,
        control_changed=control_changed,
        only_here=only_here,
        only_control=only_control,
        p=None if theory is None or len(pairs) < least else _mcnemar(only_here, only_control),
        holm_p=None,
        confidence=_mean([(one.confidence or 0) - (was.confidence or 0) for was, _, one in steady]),
        control_confidence=_mean([(same.confidence or 0) - (was.confidence or 0) for was, same, _ in steady]),
        n_kept=len(steady),
        mean_r=_mean(own_r),
        control_mean_r=_mean(control_r),
        decided_mean_r=_mean(decided_r),
        n_r=len(whole),
        opposite=sum(row[2] is None for row in worth),
        unanswered=dict(Counter(str(one.reason) for _, _, one, _ in trios if one.side is None)),
        cost_usd=sum(one.cost_usd for one in own.values()),
    )


def _judged(effect: Effect, holm_p: float) -> Effect:
    named = CHANGES if effect.only_here > effect.only_control else STEADIES
    return replace(effect, holm_p=holm_p, verdict=named if holm_p <= LEVEL else SAME)


def _mcnemar(here: int, there: int) -> float:
    """Two-sided exact p of McNemar's test (1947): where the two differ, either kind is as likely. No difference: 1."""
    if not here + there:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(here, here + there).pvalue)


def _worth(said: Said, sides: Mapping[str, float]) -> float | None:
    """R of the side; a HOLD earns nothing, and of a side that nobody followed nothing is known."""
    return 0.0 if said.side == "HOLD" else sides.get(str(said.side))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
