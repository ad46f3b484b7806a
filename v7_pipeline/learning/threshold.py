"""The confidence threshold that outcomes teach: raised where a confidence loses money, back where it no longer does.

One step from one threshold to the next; when it is taken and where it is kept are the scan's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from math import nan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.frames import closed_before, one_source, require, trade_weights

__all__ = [
    "HALF_LIFE_TRADES",
    "RAISE_AT",
    "RETURN_AT",
    "LearntThreshold",
    "band_edges",
    "break_even_rate",
    "learnt_threshold",
    "threshold_from",
    "threshold_of",
]

Floats = npt.NDArray[np.float64]

#: Effective later trades by which an outcome's weight halves. At 50 the evidence stays below 72 trades (50 ÷ ln 2), so
#: that an edge which fell from 50 to 20 % of wins is refused after 90 trades in the median, and believed again within
#: 200. Of 200 analysts who won 50 % where 40 % break even, 2 were refused anything in 1,000 trades; of 200 with 45 %,
#: 32 (`python benchmarks/threshold.py`; docs/learning.md has the intervals).
HALF_LIFE_TRADES = 50.0
#: Posterior probability of losing money at which a confidence is refused, and below which it is let in again. Apart,
#: so that the threshold does not flicker.
RAISE_AT, RETURN_AT = 0.9, 0.5
STEP = 0.05  # confidences are judged in bands of this width


@dataclass(frozen=True, slots=True)
class LearntThreshold:
    """A threshold and why: n outcomes worth n_eff, whose win rate is below break_even with probability p_below.

    p_below and break_even are NaN where no band has been judged.
    """

    threshold: float
    floor: float
    previous: float | None
    reason: str
    n: int
    n_eff: float
    p_below: float
    break_even: float

    @property
    def changed(self) -> bool:
        """Whether it differs from the one before; the first one does."""
        return self.previous is None or self.threshold != self.previous


class _Band(NamedTuple):
    """Outcomes with a confidence in [lower, upper): what they are worth and how sure it is that they lose."""

    lower: float
    upper: float
    wins: float
    losses: float
    break_even: float
    n: int

    @property
    def n_eff(self) -> float:
        return self.wins + self.losses

    @property
    def rate(self) -> float:
        return self.wins / self.n_eff

    def joined(self, other: _Band) -> _Band:
        weight = self.n_eff + other.n_eff
        even = (self.break_even * self.n_eff + other.break_even * other.n_eff) / weight
        return _Band(
            self.lower, other.upper, self.wins + other.wins, self.losses + other.losses, even, self.n + other.n
        )


def break_even_rate(reward: npt.ArrayLike, risk: npt.ArrayLike) -> Floats:
    """The win rate at which trades that gain `reward` or lose `risk` (net, in one unit) end at nothing.

    risk / (risk + reward); 1 where the reward is not positive, since no win rate pays for that. NaN where risk is not.
    """
    gain, loss = np.asarray(reward, dtype=float), np.asarray(risk, dtype=float)
    return np.where(loss > 0, loss / (np.maximum(gain, 0.0) + np.where(loss > 0, loss, 1.0)), nan)


def learnt_threshold(
    outcomes: pd.DataFrame,
    *,
    as_of: datetime,
    floor: float,
    previous: float | None,
    min_effective_n: float,
    half_life_trades: float = HALF_LIFE_TRADES,
    prior_alpha: float = 1.0,
    prior_beta: float = 1.0,
) -> LearntThreshold:
    """The confidence threshold as of an instant, after `previous` (None: there was none yet).

    `outcomes`: entry_time, exit_time, outcome, confidence (0 … 1) and break_even (the win rate at which its plan ends
    at nothing, `break_even_rate`) of BUY and SELL signals, paper and shadow alike: a refused signal goes on teaching.
    Those that closed by `as_of` with a win or a loss and a confidence of at least `floor` count, weighted by average
    uniqueness and halved by every `half_life_trades` effective ones that closed later.

    They are cut into bands of confidence 0.05 wide from the floor on. Neighbouring bands in which more confidence won
    less often are one band (pool adjacent violators, Ayer et al. 1955). With Beta(prior_alpha, prior_beta) for each:

    - raised to the upper end of the highest band that is below its break-even with P ≥ 0.9, where it has at least
      `min_effective_n` effective outcomes; a band that nobody has tried yet is never refused;
    - lowered to the upper end of the highest band that is below with P > 0.5, to the floor where there is none;
    - kept between the two. It is never below `floor`, and at most 1: at 1 only a confidence of 1 passes.

    The win rate at break-even supposes that trades end at target or stop; where many end by time it is a rule of thumb.
    Raises ValueError on a missing column, a naive instant, mixed sources, or a confidence outside 0 … 1.
    """
    require(outcomes, ("entry_time", "exit_time", "outcome", "confidence", "break_even"), "outcomes")
    one_source(outcomes)
    known = closed_before(outcomes, as_of)
    confidence = known["confidence"].astype(float)
    if not confidence.dropna().between(0, 1).all():
        raise ValueError("a confidence lies between 0 and 1; outcomes of signals without one do not belong here")
    usable = known["outcome"].isin(("win", "loss")) & (confidence >= floor) & known["break_even"].notna()
    known = known[usable]
    return threshold_of(
        known["confidence"].to_numpy(dtype=float),
        (known["outcome"] == "win").to_numpy(),
        known["break_even"].to_numpy(dtype=float),
        trade_weights(known, half_life_trades),
        floor=floor,
        previous=previous,
        min_effective_n=min_effective_n,
        prior_alpha=prior_alpha,
        prior_beta=prior_beta,
    )


def threshold_of(
    confidence: Floats,
    won: npt.NDArray[np.bool_],
    break_even: Floats,
    weights: Floats,
    *,
    floor: float,
    previous: float | None,
    min_effective_n: float,
    prior_alpha: float = 1.0,
    prior_beta: float = 1.0,
) -> LearntThreshold:
    """`learnt_threshold` from the wins and losses that count, as arrays, already weighted."""
    edges = band_edges(floor)
    counted = weights > 0
    place = np.clip(np.searchsorted(edges, confidence[counted], side="right") - 1, 0, len(edges) - 2)
    w = weights[counted]
    columns = None, w, w * won[counted], w * break_even[counted]
    sums = np.array([np.bincount(place, column, minlength=len(edges) - 1) for column in columns], dtype=np.float64)
    return threshold_from(
        sums,
        floor=floor,
        previous=previous,
        min_effective_n=min_effective_n,
        prior_alpha=prior_alpha,
        prior_beta=prior_beta,
    )


def threshold_from(
    sums: Floats,
    *,
    floor: float,
    previous: float | None,
    min_effective_n: float,
    prior_alpha: float = 1.0,
    prior_beta: float = 1.0,
) -> LearntThreshold:
    """`learnt_threshold` from what lies in each of `band_edges`' bands.

    sums, 4 × bands: the number of outcomes, their weight, the weight of those that won, and Σ weight × break_even.
    """
    return _step(_bands(sums, floor), floor, previous, min_effective_n, prior_alpha, prior_beta)


def _bands(sums: Floats, floor: float) -> list[_Band]:
    """The bands that have an outcome, lowest first, joined until more confidence wins at least as often."""
    edges = band_edges(floor)
    bands: list[_Band] = []
    for lower, upper, number, worth, wins, even in zip(edges[:-1], edges[1:], *sums.tolist(), strict=True):
        if not number:
            continue
        bands.append(_Band(lower, upper, wins, worth - wins, even / worth, int(number)))
        while len(bands) > 1 and bands[-2].rate > bands[-1].rate:
            bands[-2:] = [bands[-2].joined(bands[-1])]
    return bands


@cache
def band_edges(floor: float) -> tuple[float, ...]:
    """The bands' ends: the floor, the multiples of STEP above it, and 1."""
    rungs = [round(k * STEP, 2) for k in range(1, round(1 / STEP) + 1)]
    return (floor, *(rung for rung in rungs if rung > floor + 1e-9)) if floor < 1 else (1.0, 1.0)


def _p_below(bands: list[_Band], alpha: float, beta: float) -> list[float]:
    """How sure it is that each band wins less often than it would need to: its Beta posterior below break-even."""
    from scipy.special import betainc

    if not bands:
        return []
    wins, losses, even = np.array([(band.wins, band.losses, band.break_even) for band in bands]).T
    found: list[float] = betainc(alpha + wins, beta + losses, even).tolist()
    return found


def _step(
    bands: list[_Band], floor: float, previous: float | None, least: float, alpha: float, beta: float
) -> LearntThreshold:
    below = _p_below(bands, alpha, beta)
    total, worth = sum(band.n for band in bands), sum(band.n_eff for band in bands)

    def told(threshold: float, reason: str, at: int | None) -> LearntThreshold:
        if at is None:
            return LearntThreshold(threshold, floor, previous, reason, total, worth, nan, nan)
        band = bands[at]
        why = (
            f"{reason}: of {band.n} outcomes (worth {band.n_eff:.1f}) with a confidence of {band.lower:.2f} to "
            f"{band.upper:.2f}, {band.rate:.0%} won where {band.break_even:.0%} break even; below it with "
            f"P = {below[at]:.2f}"
        )
        return LearntThreshold(threshold, floor, previous, why, band.n, band.n_eff, below[at], band.break_even)

    before = floor if previous is None else max(previous, floor)
    losing = [k for k, band in enumerate(bands) if below[k] >= RAISE_AT and band.n_eff >= least]
    doubtful = [k for k in range(len(bands)) if below[k] > RETURN_AT]
    if losing and bands[losing[-1]].upper > before:
        return told(bands[losing[-1]].upper, f"raised from {before:.2f}", losing[-1])
    keep = max(bands[doubtful[-1]].upper, floor) if doubtful else floor
    if keep < before:
        # The lowest band that is let in again is what changed.
        freed = (
            next(k for k, band in enumerate(bands) if band.upper > keep) if bands and bands[-1].upper > keep else None
        )
        return told(keep, f"lowered from {before:.2f}", freed)
    if previous is None:
        return told(
            before, "the floor: the first outcome has closed" if total else "the floor: nothing has closed", None
        )
    if before > previous:
        return told(before, f"raised from {previous:.2f} to the new floor", None)
    return told(before, "kept", losing[-1] if losing else (doubtful[-1] if doubtful else None))
