"""The ensemble: v7's and v6's decisions of an instant, each trusted as far as its own past outcomes bear it out.

From frames to frames; where decisions and outcomes come from, and what becomes of a vote, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.calibration import ISOTONIC_FROM, fit_isotonic, fit_platt
from v7_pipeline.learning.frames import closed_before, instants, require, trade_weights
from v7_pipeline.learning.threshold import break_even_rate
from v7_pipeline.strategies.walk_forward import CUT_OFF, LEAST_EDGE, Terms, confidence_of

__all__ = ["MEMBERS", "VOICE_DAYS", "Voice", "day_voices", "decide_frame", "edges"]

Floats = npt.NDArray[np.float64]

MEMBERS = ("v7", "v6")
#: Days before a midnight whose closed trades say what a member's confidence is worth.
VOICE_DAYS = 90
_PLAN = ("entry_price", "stop_price", "target_price")
_NEEDED = ("as_of", "status", "side", "confidence", *_PLAN, "horizon_minutes")


@dataclass(frozen=True)
class Voice:
    """What a member's confidence is worth on one UTC day: `n` closed trades, worth `n_eff`, and the map they gave.

    `method`: platt, isotonic, or none where they are too few: then the member has no voice.
    """

    day: date
    n: int
    n_eff: float
    method: str
    to_probability: Callable[[npt.ArrayLike], Floats] | None = None

    def win_probability(self, confidence: Floats) -> Floats:
        """P(win) of decisions with this confidence; NaN without a voice."""
        if self.to_probability is None:
            return np.full(len(confidence), nan)
        return np.asarray(self.to_probability(confidence), dtype=float)


def day_voices(outcomes: pd.DataFrame, days: Iterable[date], *, min_effective_n: float) -> dict[date, Voice]:
    """One member's voice on each UTC day, from its BUYs and SELLs, paper and shadow, that had closed by its midnight.

    outcomes: entry_time, exit_time, outcome, confidence. Wins and losses of the last VOICE_DAYS that closed CUT_OFF
    before the midnight count, by average uniqueness; worth less than `min_effective_n`, or all of one kind, they give
    no voice. The map is Platt's line in log-odds, from ISOTONIC_FROM on rising steps (learning/calibration.py). It
    depends on what had closed by then only, so it is the same whichever days are asked.
    """
    require(outcomes, ("entry_time", "exit_time", "outcome", "confidence"), "outcomes")
    usable = outcomes[outcomes["outcome"].isin(("win", "loss")) & outcomes["confidence"].notna()]
    return {day: _voice(usable, day, min_effective_n) for day in sorted(set(days))}


def _voice(outcomes: pd.DataFrame, day: date, least: float) -> Voice:
    cut = datetime.combine(day, time(), UTC) - CUT_OFF
    known = closed_before(outcomes, cut)
    known = known[instants(known["exit_time"]) > cut - timedelta(days=VOICE_DAYS)]
    known = known.sort_values(["exit_time", "entry_time", "confidence", "outcome"])  # one order, one sum
    won, n = (known["outcome"] == "win").to_numpy(dtype=float), len(known)
    weights = trade_weights(known) if n else np.empty(0)
    worth = float(weights.sum())
    if worth < least or won.min() == won.max():
        return Voice(day, n, worth, "none")
    method, fit = ("isotonic", fit_isotonic) if worth >= ISOTONIC_FROM else ("platt", fit_platt)
    return Voice(day, n, worth, method, fit(won, known["confidence"].to_numpy(dtype=float), weights))


def edges(decided: pd.DataFrame, voices: Mapping[date, Voice], terms: Terms) -> Floats:
    """A member's signed edge at each of its decisions: P(win) − the plan's break-even rate, minus for a SELL.

    0 where it holds, has no answer or no voice, or where the edge is not positive: then nothing speaks for its side.
    """
    require(decided, _NEEDED, "decisions")
    side = decided["side"].to_numpy(dtype=object)
    trades = np.isin(side, ("BUY", "SELL")) & (decided["status"] == "answered").to_numpy()
    entry, stop, target = (decided[name].to_numpy(dtype=float, na_value=nan) for name in _PLAN)
    with np.errstate(divide="ignore", invalid="ignore"):
        risk, reward = np.abs(entry - stop) / entry, np.abs(target - entry) / entry
    even = break_even_rate(reward - terms.costs, risk + terms.costs)
    confidence = decided["confidence"].to_numpy(dtype=float, na_value=nan)
    p_win = np.full(len(decided), nan)
    days = instants(decided["as_of"]).dt.date.to_numpy()
    for day in set(days[trades]) & set(voices):
        own = trades & (days == day)
        p_win[own] = voices[day].win_probability(confidence[own])
    found = p_win - even
    return np.where(trades & (found > 0), np.where(side == "BUY", found, -found), 0.0)


def decide_frame(
    members: Mapping[str, pd.DataFrame], voices: Mapping[str, Mapping[date, Voice]], *, terms: Terms
) -> pd.DataFrame:
    """The vote of both members at the same instants, row by row; on the index of the first member's frame.

    members: by name of MEMBERS, frames of one length and order with as_of and the columns of analyst.rules.decide_frame
    (status, side, confidence, entry_price, stop_price, target_price, horizon_minutes). voices: `day_voices` of each.

    The side is that of the sum of the members' signed `edges`, where it reaches LEAST_EDGE of the mode and they do not
    contradict one another; else HOLD. So where one holds, the other must bring the whole edge alone, and where neither
    has a voice yet nothing is signalled. The plan is that of the stronger agreeing member; ties are v7's. status is
    abstained where neither member has an answer.

    Columns: status, side, confidence (the sum on the scale of walk_forward.confidence_of), the plan, horizon_minutes,
    score (the sum), agreeing (members with an edge on its side), key_theories (empty), plan_of (whose plan it is) and
    the edge of each member (v7_edge, v6_edge).
    """
    first = members[MEMBERS[0]]
    own = {name: edges(members[name], voices[name], terms) for name in MEMBERS}
    one, other = (own[name] for name in MEMBERS)
    total = one + other
    answered = np.logical_or.reduce([(members[name]["status"] == "answered").to_numpy() for name in MEMBERS])
    needed = LEAST_EDGE[terms.mode.name]
    trades = answered & (one * other >= 0) & (np.abs(total) >= needed)
    stronger = np.abs(one) >= np.abs(other)
    side = np.where(trades, np.where(total > 0, "BUY", "SELL"), "HOLD").astype(object)
    side[~answered] = None

    plan_of = np.where(stronger, *MEMBERS).astype(object)
    plan_of[~trades] = None

    def planned(name: str) -> Floats:
        values = (members[member][name].to_numpy(dtype=float, na_value=nan) for member in MEMBERS)
        return np.where(trades, np.where(stronger, *values), nan)

    columns: dict[str, Any] = {
        "status": np.where(answered, "answered", "abstained"),
        "side": side,
        "confidence": np.where(answered, confidence_of(np.abs(total), trades, needed), nan),
        **{name: planned(name) for name in (*_PLAN, "horizon_minutes")},
        "score": total,
        "agreeing": np.where(trades, (one * total > 0).astype(int) + (other * total > 0), 0),
        "key_theories": "",
        "plan_of": plan_of,
        **{f"{name}_edge": own[name] for name in MEMBERS},
    }
    return pd.DataFrame(columns, index=first.index)
