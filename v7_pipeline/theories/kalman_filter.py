"""Kalman filter: the price's level and slope with the noise taken out, and what the last minute added.

Formula: steady state of the local linear trend on log price, tracking index λ = .05 (Kalata 1984):
r = (4 + λ − √(8λ + λ²))/4, α = 1 − r², β = 2(2 − α) − 4√(1 − α); prediction level + slope, innovation = price −
prediction, level += α · innovation, slope += β · innovation. Units: `kalman_gap` (price − level), `kalman_slope`
(a minute) and `kalman_innovation` in volatilities, the scale of 240 minutes known one bar earlier. Where nothing moved
for 240 minutes all are 0, and missing in the minute that ends it: there is no unit to measure it in.

Null: random walks with the window's share of zero returns, simulated; statistic the slope ÷ √Σ h² r², h its response
to one return: its standard deviation if only the signs of the moves are chance, so that fat tails and bursts of
volatility matter little. Vote: its side, outside the central 92 %. Score: strength of the percentile. Its memory is
some ten minutes: it sees the latest move.

Reading: the slope is where the last ten minutes point with the noise taken out; the gap says how far the price ran
ahead of its level, the innovation what the last minute added that was not expected.

Misleads: it is quick and therefore noisy: its vote changes within minutes and is the first to be wrong when a move
ends. After a jump level and slope overshoot for a few minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import (
    FILTER_MEMORY,
    Bars,
    Floats,
    lasting,
    missing_because,
    number,
    place,
    strength,
    trend_vote,
)
from v7_pipeline.theories.nulls import simulated_percentile

__all__ = [
    "NAME", "explain", "local_level_gain", "percentile", "remember", "score", "statistic", "steady_state_gains",
    "values", "vote",
]  # fmt: skip

NAME = "kalman_filter"
TRACKING_INDEX = 0.05
_COLUMNS = ("kalman_gap", "kalman_slope", "kalman_innovation")


def steady_state_gains(tracking_index: float) -> tuple[float, float]:
    """(α, β) of the steady-state local linear trend filter; the tracking index is positive."""
    if not tracking_index > 0:
        raise ValueError(f"the tracking index {tracking_index} must be positive")
    r = (4 + tracking_index - math.sqrt(8 * tracking_index + tracking_index**2)) / 4
    alpha = 1 - r * r
    return alpha, 2 * (2 - alpha) - 4 * math.sqrt(1 - alpha)


def local_level_gain(q: float) -> float:
    """Steady-state gain of the local level model whose level variance is q observation variances."""
    if not q > 0:
        raise ValueError(f"the variance ratio {q} must be positive")
    ahead = (q + math.sqrt(q * q + 4 * q)) / 2
    return ahead / (ahead + 1)


def _whole(bars: Bars) -> Floats:
    """Gap, slope and innovation of every minute, in log price."""
    out = lasting(3, bars.close.size)
    bars.kernels.alpha_beta_filter(bars.returns, bars.run, *steady_state_gains(TRACKING_INDEX), out)
    return out


def _spread(bars: Bars) -> Floats:
    """The slope's standard deviation at every minute if only the signs of the moves were chance."""
    out = lasting(1, bars.close.size)[0]
    bars.kernels.sign_spread(bars.returns, *steady_state_gains(TRACKING_INDEX), out)
    return out


def _usable(bars: Bars) -> npt.NDArray[np.uint8]:
    return bars.usable(HEADLINE_WINDOW, HEADLINE_WINDOW + FILTER_MEMORY)


def remember(bars: Bars) -> None:
    """Run the filter over the whole stretch."""
    bars.remembered(NAME, _whole)
    bars.remembered((NAME, "spread"), _spread)


def _filtered(bars: Bars) -> tuple[Floats, ...]:
    def make() -> tuple[Floats, ...]:
        scale, returns = bars.scale_before(), bars.returns[bars.first :]
        columns = tuple(bars.column(name) for name in _COLUMNS)
        for raw, column in zip(bars.remembered(NAME, _whole), columns, strict=True):
            bars.kernels.in_units(raw, scale, returns, _usable(bars), column)
        return columns

    return bars.cached((NAME, "in units"), make)


def values(bars: Bars) -> dict[str, Floats]:
    """kalman_gap, kalman_slope, kalman_innovation; missing before 1,240 unbroken returns."""
    return dict(zip(_COLUMNS, _filtered(bars), strict=True))


def statistic(bars: Bars) -> Floats:
    """The slope in standard deviations of chance signs; 0 where nothing moved for 240 minutes."""
    slope, spread = bars.remembered(NAME, _whole)[1], bars.remembered((NAME, "spread"), _spread)
    out = np.empty(bars.rows)
    bars.kernels.in_chance_units(slope, spread, bars.quiet_minutes(), HEADLINE_WINDOW, _usable(bars), out)
    return out


def percentile(bars: Bars) -> Floats:
    return simulated_percentile(NAME, bars, statistic(bars))


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return trend_vote(percentile, score)


def explain(row: Mapping[str, Any]) -> str:
    slope, gap = number(row, "kalman_slope"), number(row, "kalman_gap")
    if slope is None or gap is None:
        return missing_because(row, "Kalman")
    told = "no slope that noise would not show"
    if float(row.get(f"{NAME}_vote") or 0.0):
        told = f"the filtered price is {'rising' if slope > 0 else 'falling'}"
    side = "above" if gap >= 0 else "below"
    return (
        f"Kalman slope {slope:+.2f} volatilities a minute{place(number(row, f'{NAME}_percentile'))}: {told}; "
        f"the price is {abs(gap):.1f} volatilities {side} its level."
    )
