"""The analyst that needs no key: an equal-weight combination of the ten votes, with a plan from volatility.

Deterministic and vectorised: `decide_frame` is the one core, under a scan, a backtest and the sandbox's stand-in alike.
Weights learnt from outcomes do not belong here; they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.analyst.base import (
    AGGRESSIVE,
    CONSERVATIVE,
    READINGS_MISSING,
    Answer,
    Decision,
    Mode,
    Question,
    Side,
    mode_of,
    require_aware,
)
from v7_pipeline.analyst.reply import reply_of
from v7_pipeline.store.schema import HEADLINE_WINDOW, THEORY_NAMES

__all__ = [
    "READING_COLUMNS", "RulesAnalyst", "answer_from_prompt", "decide_frame", "explain", "may_trade", "own_weights",
    "plan_on_grid",
]  # fmt: skip

Floats = npt.NDArray[np.float64]

VOLATILITY = f"volatility_{HEADLINE_WINDOW}"
VOTES = [f"{theory}_vote" for theory in THEORY_NAMES]
SCORES = [f"{theory}_score" for theory in THEORY_NAMES]
PERCENTILES = [f"{theory}_percentile" for theory in THEORY_NAMES]
READING_COLUMNS = (*VOTES, *SCORES, VOLATILITY)

# The plan. The stop lies this share of the horizon's standard deviation (σ √horizon) from the entry: 0.31 % at
# σ = 4e-4 a minute over 240 min. It is the Monte Carlo theory's default plan, whose probabilities the analyst reads.
STOP_DEVIATIONS = 0.5
MIN_STOP, MAX_STOP = 0.002, 0.03  # fractions of the entry; below the first, costs eat the trade
# Fee and slippage of both sides (0.0325 % and 0.01 % each), and what rounding and a later fill may take.
COSTS = 2 * (0.000325 + 0.0001)
MARGIN = 1.05

# Confidence by |combined score|: each mode's threshold has its mode's least confidence; strong agreement reaches .9.
STRONG = 0.50
CONFIDENCE_KNOTS = (
    (0.0, AGGRESSIVE.min_strength, CONSERVATIVE.min_strength, STRONG),
    (0.50, AGGRESSIVE.min_confidence, CONSERVATIVE.min_confidence, 0.90),
)
KEY_THEORIES = 3


def decide_frame(
    frame: pd.DataFrame,
    *,
    quote_increment: npt.ArrayLike,
    horizon_minutes: npt.ArrayLike,
    reward_risk: npt.ArrayLike,
    aggressive: npt.ArrayLike = False,
    weights: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Decisions for rows of readings (READING_COLUMNS) with their `market_price`; the other inputs by row or for all.

    Columns of the result, on the same index: status (answered, or abstained where price or volatility is missing or
    no theory has a reading), side, confidence, entry_price, stop_price, target_price (USD, on the quote increment;
    NaN for HOLD), horizon_minutes (NaN for HOLD), score (−1 … 1: weighted mean of vote × score, an abstaining theory
    counting as 0), agreeing (theories that speak for the score's sign) and key_theories (strongest first, by comma).

    The side follows the score's sign where |score| and `agreeing` reach the mode's thresholds, else it is HOLD.
    Mirrored votes give mirrored sides and plans.
    """
    rows = len(frame)
    price, volatility = _column(frame, "market_price"), _column(frame, VOLATILITY)
    increment, horizon, ratio = (_rows(x, rows) for x in (quote_increment, horizon_minutes, reward_risk))
    bold = np.broadcast_to(np.asarray(aggressive, dtype=bool), rows)

    voices, heard = _voices(frame)
    voices *= _weights(weights)[:, None]
    score = _sums(voices)
    sign = np.sign(score)
    agreeing = (voices * sign > 0).sum(axis=0)

    readable = (price > 0) & (volatility >= 0) & heard
    strong = np.abs(score) >= np.where(bold, AGGRESSIVE.min_strength, CONSERVATIVE.min_strength)
    joined = agreeing >= np.where(bold, AGGRESSIVE.min_agreeing, CONSERVATIVE.min_agreeing)
    with np.errstate(invalid="ignore"):
        distance = np.clip(STOP_DEVIATIONS * volatility * np.sqrt(horizon), MIN_STOP, MAX_STOP)
    entry, stop, target = plan_on_grid(price, distance, sign, increment, ratio)
    trades = readable & strong & joined & (stop > 0) & (target > 0)

    side = np.full(rows, "HOLD", dtype=object)
    side[trades & (sign > 0)], side[trades & (sign < 0)], side[~readable] = "BUY", "SELL", None
    return pd.DataFrame(
        {
            "status": np.where(readable, "answered", "abstained"),
            "side": side,
            "confidence": np.where(readable, _confidence(np.abs(score), bold, trades), np.nan),
            "entry_price": np.where(trades, entry, np.nan),
            "stop_price": np.where(trades, stop, np.nan),
            "target_price": np.where(trades, target, np.nan),
            "horizon_minutes": np.where(trades, horizon, np.nan),
            "score": score,
            "agreeing": agreeing,
            "key_theories": _key_theories(voices, sign),
        },
        index=frame.index,
    )


def may_trade(
    frame: pd.DataFrame, *, unknown: str, aggressive: bool = False, weights: Mapping[str, float] | None = None
) -> npt.NDArray[np.bool_]:
    """Rows of votes and scores that `decide_frame` might make a BUY or SELL of, whatever the theory `unknown` says.

    More rows than that may be told, never fewer: the score of the others is too small even with its whole weight.
    """
    others = [theory for theory in THEORY_NAMES if theory != unknown]
    share = dict(zip(THEORY_NAMES, _weights(weights).tolist(), strict=True))
    voices, _ = _voices(frame, others)
    voices *= np.array([share[theory] for theory in others])[:, None]
    least = mode_of(aggressive).min_strength - share[unknown]
    possible: npt.NDArray[np.bool_] = np.abs(_sums(voices)) >= least - 1e-9
    return possible


class RulesAnalyst:
    """The rules behind the Analyst protocol. `weights` by theory name; equal where not given."""

    name = "rules"

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        _weights(weights)
        self._weights = weights

    @property
    def worst_case_usd(self) -> float:
        """What a question may cost: nothing."""
        return 0.0

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        """One decision a question, in order; abstained with READINGS_MISSING where a needed reading is missing."""
        require_aware(now, "now")
        if not questions:
            return []
        frame = _frame([{**q.readings, "market_price": q.market_price} for q in questions])
        decided = decide_frame(
            frame,
            quote_increment=[q.quote_increment for q in questions],
            horizon_minutes=[q.horizon_minutes for q in questions],
            reward_risk=[q.reward_risk for q in questions],
            aggressive=[q.aggressive for q in questions],
            weights=self._weights,
        )
        rows = decided.to_dict("records")
        return [self._decision(question, row) for question, row in zip(questions, rows, strict=True)]

    def _decision(self, question: Question, row: Mapping[str, Any]) -> Decision:
        answered = row["status"] == "answered"
        mode = mode_of(question.aggressive)
        answer = _answer(row, explain(row, question.readings, question.explanations, mode), mode)
        return Decision(
            signal_id=question.signal_id,
            status="answered" if answered else "abstained",
            status_reason=None if answered else READINGS_MISSING,
            answer=answer if answered else None,
            call_id=None,
            prompt_version=None,
            cost_usd=0.0,
            analyst=self.name,
        )


def own_weights(given: Mapping[str, float]) -> dict[str, float] | None:
    """The setting's weights with 1 for every theory that it does not name; None, all alike, where it names none."""
    return {**dict.fromkeys(THEORY_NAMES, 1.0), **given} if given else None


def explain(row: Mapping[str, Any], readings: Mapping[str, Any], explanations: Mapping[str, str], mode: Mode) -> str:
    """One to three sentences on a row of `decide_frame`: the combined score, and what the key theories read."""
    if row["status"] != "answered":
        return "No decision: the price, its volatility or every theory's reading is missing."
    strength, count = abs(row["score"]), int(row["agreeing"])
    names = [name for name in str(row["key_theories"]).split(",") if name]
    spoken = " ".join(_sentence(name, readings, explanations) for name in names[:2])
    if row["side"] == "HOLD":
        lean = "none of the ten theories speaks" if not count else f"{count} of 10 theories lean one way"
        return (
            f"Nothing stands out from noise: {lean}, combined score {row['score']:+.3f}; a signal needs "
            f"{mode.min_strength:g} and {mode.min_agreeing} theories. {spoken}".strip()
        )
    direction = "up" if row["side"] == "BUY" else "down"
    score = f"combined score {strength:.3f} (needs {mode.min_strength:g})"
    return f"{count} of 10 theories point {direction}, {score}. {spoken}".strip()


def answer_from_prompt(document: Mapping[str, Any]) -> dict[str, Any]:
    """The rules' reply (reply.py's schema) to a prompt's JSON document (prompt.py's layout).

    Where readings are missing the reply is a HOLD that says so, as a language model's would be. ValueError where the
    document is not of that layout.
    """
    try:
        theories, market, plan = document["readings"], document["market"], document["plan"]
        readings = _readings(theories)
        meanings = {theory: str(theories[theory]["meaning"] or "") for theory in THEORY_NAMES if theory in theories}
        mode = mode_of(document["mode"] == AGGRESSIVE.name)
        decided = decide_frame(
            _frame([{**readings, VOLATILITY: market["volatility_per_minute"], "market_price": market["price"]}]),
            quote_increment=market["quote_increment"],
            horizon_minutes=plan["horizon_minutes"],
            reward_risk=plan["least_reward_risk"],
            aggressive=mode is AGGRESSIVE,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the document is not a prompt of this version: {error} is missing or of another type"
        ) from None
    row = decided.to_dict("records")[0]
    told = document.get("combined")
    if isinstance(told, Mapping) and isinstance(told.get("mean_vote_times_score"), int | float):
        # As the prompt has it: reckoned again from its rounded votes and scores, the last digit could differ.
        row = {**row, "score": told["mean_vote_times_score"]}
    reasoning = explain(row, readings, meanings, mode)
    if row["status"] != "answered":
        row = {**row, "side": "HOLD", "confidence": 0.5, "key_theories": ""}
    return reply_of(_answer(row, reasoning, mode))


def plan_on_grid(
    price: Floats, distance: Floats, sign: Floats, increment: Floats, reward_risk: Floats, costs: float = COSTS
) -> tuple[Floats, Floats, Floats]:
    """Entry, stop and target on the quote increment; stop and target are rounded away from the entry.

    The stop lies `distance` (a fraction of the entry) away, the target so far that reward:risk net of `costs` (a
    fraction, both sides) still reaches `reward_risk` with the MARGIN. sign: +1 for a BUY, −1 for a SELL.
    """
    entry_steps = np.rint(price / increment)
    entry = _on_grid(entry_steps, increment)
    with np.errstate(divide="ignore", invalid="ignore"):
        stop_steps = np.ceil(distance * entry / increment)
        risk = stop_steps * increment / entry
        reward = reward_risk * MARGIN * (risk + costs) + costs
        target_steps = np.ceil(reward * entry / increment)
    stop = _on_grid(entry_steps - sign * stop_steps, increment)
    target = _on_grid(entry_steps + sign * target_steps, increment)
    return entry, stop, target


# --- the core's parts -----------------------------------------------------------------------


def _voices(frame: pd.DataFrame, theories: Sequence[str] = THEORY_NAMES) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """vote × score, theories × rows, 0 where a theory abstains; and whether any of them has spoken in a row."""
    voices = np.empty((len(theories), len(frame)))
    heard = np.zeros(len(frame), dtype=bool)
    for theory, voice in zip(theories, voices, strict=True):
        np.multiply(_column(frame, f"{theory}_vote"), _column(frame, f"{theory}_score"), out=voice)
        silent = np.isnan(voice)
        voice[silent] = 0.0
        heard |= ~silent
    return voices, heard


def _sums(voices: Floats) -> Floats:
    # Theory by theory, so that a row's sum has the same bits alone and among a million (a matrix product's has not).
    total = np.zeros(voices.shape[1])
    for voice in voices:
        total += voice
    return total


def _on_grid(steps: Floats, increment: Floats) -> Floats:
    # steps ÷ (1 ÷ increment) is the double nearest to the decimal price; steps × 0.01 would carry 0.01's own error.
    return np.where(increment < 1, steps / np.rint(1 / increment), steps * increment)


def _confidence(strength: Floats, bold: npt.NDArray[np.bool_], trades: npt.NDArray[np.bool_]) -> Floats:
    needed = np.where(bold, AGGRESSIVE.min_strength, CONSERVATIVE.min_strength)
    holding = 1 - 0.5 * np.minimum(strength / needed, 1)
    return np.where(trades, np.interp(strength, *CONFIDENCE_KNOTS), holding)


def _key_theories(voices: Floats, sign: Floats) -> npt.NDArray[np.object_]:
    """Names of the strongest theories on the score's side, strongest first, joined by commas."""
    leaning = np.flatnonzero(sign)
    towards = (voices[:, leaning] * sign[leaning]).T.copy()
    rows = np.arange(len(leaning))
    code = np.zeros(len(leaning), dtype=np.intp)
    for _ in range(KEY_THEORIES):
        best = towards.argmax(axis=1)
        code = code * (_NOBODY + 1) + np.where(towards[rows, best] > 0, best, _NOBODY)
        towards[rows, best] = -np.inf
    names = np.full(len(sign), "", dtype=object)
    names[leaning] = _key_names()[code]
    return names


_NOBODY = len(THEORY_NAMES)


@cache
def _key_names() -> npt.NDArray[np.object_]:
    """The joined names of every choice of KEY_THEORIES places, each a theory or nobody."""
    choices = product((*THEORY_NAMES, ""), repeat=KEY_THEORIES)
    return np.array([",".join(filter(None, choice)) for choice in choices], dtype=object)


def _weights(weights: Mapping[str, float] | None) -> Floats:
    if weights is None:
        return np.full(len(THEORY_NAMES), 1 / len(THEORY_NAMES))
    unknown = set(weights) - set(THEORY_NAMES)
    if unknown:
        raise ValueError(f"no theory called {', '.join(sorted(unknown))}; weights are for {', '.join(THEORY_NAMES)}")
    given = np.array([weights.get(theory, 0.0) for theory in THEORY_NAMES], dtype=float)
    if not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
        raise ValueError("weights are finite, not negative, and not all zero")
    return given / given.sum()


def _column(frame: pd.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy(dtype=float, na_value=np.nan)


def _rows(values: npt.ArrayLike, rows: int) -> Floats:
    return np.broadcast_to(np.asarray(values, dtype=float), rows)


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    wanted = [*READING_COLUMNS, "market_price"]
    return pd.DataFrame([{name: row.get(name) for name in wanted} for row in rows], columns=wanted).astype(float)


def _readings(theories: Mapping[str, Any]) -> dict[str, Any]:
    parts = ("vote", "score", "percentile")
    silent: Mapping[str, Any] = dict.fromkeys(parts)
    absent = [theory for theory in THEORY_NAMES if theory not in theories]
    if len(absent) > 1:  # one may have been left out of the question (prompt.without_theory)
        raise KeyError(absent[0])
    return {f"{t}_{part}": theories.get(t, silent)[part] for t in THEORY_NAMES for part in parts}


def _answer(row: Mapping[str, Any], reasoning: str, mode: Mode) -> Answer:
    side: Side = row["side"] or "HOLD"
    opposite = "the opposite direction" if side != "HOLD" else "one direction"
    plan = [row[name] for name in ("entry_price", "stop_price", "target_price")]
    entry, stop, target = (None, None, None) if side == "HOLD" else (float(value) for value in plan)
    return Answer(
        side=side,
        confidence=round(float(row["confidence"]), 4),
        entry_price=entry,
        stop_price=stop,
        target_price=target,
        horizon_minutes=None if side == "HOLD" else int(row["horizon_minutes"]),
        reasoning=reasoning,
        key_theories=tuple(name for name in str(row["key_theories"]).split(",") if name),
        would_change_my_mind=f"A combined score of {mode.min_strength:g} in {opposite}.",
    )


def _sentence(theory: str, readings: Mapping[str, Any], explanations: Mapping[str, str]) -> str:
    text = explanations.get(theory, "").strip()
    if text:
        return text if text.endswith(".") else f"{text}."
    percentile = readings.get(f"{theory}_percentile")
    if percentile is None or np.isnan(percentile):
        return f"{theory}: vote {readings[f'{theory}_vote']:+.2f}."
    return f"{theory}: vote {readings[f'{theory}_vote']:+.2f}, at {percentile:.1%} of its null."
