"""Market regime: is the market falling, driftless or rising, judged from the past only?

Formula: forward (Hamilton 1989) filter on z = return ÷ scale one bar earlier (W = 240), cut at ±6. Three states with
drift −μ, 0, +μ and unit variance; μ = .12 a minute, a state lasts 120 minutes on average; no estimation (EM on 240
bars is worse than saying nothing) and no smoothing (it would look ahead). `p_bear`, `p_sideways`, `p_bull` sum to 1;
the confidence is the largest. A minute without any scale (nothing moved for 240) carries no information.

Null: random walks, simulated; statistic p_bull − p_bear. When volatility has just risen, z is larger than the filter
believes and its probabilities too sure, so the null is that of windows with the same root mean square of z over the
last hour. Vote: its side, outside the central 92 %. Score: |p_bull − p_bear|.

Reading: three probabilities that sum to 1. It takes about an hour of drift to move them far; a probability of .9 for
rising means that the last hours are much likelier under a drift of .12 volatilities a minute than without.

Misleads: it knows three drifts only and must call everything one of them; after a single large move it is sure of a
regime for as long as its states last (two hours on average), though one minute is no regime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import FILTER_MEMORY, Bars, Floats, lasting, missing_because, number, trend_vote
from v7_pipeline.theories.nulls import simulated_percentile

__all__ = [
    "NAME", "explain", "filter_probabilities", "percentile", "reading", "remember", "score", "statistic", "values",
    "vote",
]  # fmt: skip

NAME = "market_regime"
DRIFT = 0.12
STAY = 1 - 1 / 120
CUT = 6.0
HOUR = 60
_WORDS = {"falling": "p_bear", "driftless": "p_sideways", "rising": "p_bull"}


def filter_probabilities(z: npt.ArrayLike) -> Floats:
    """Filtered P(falling), P(driftless), P(rising) of standardised returns, shape (n, 3); NaN = no information."""
    from v7_pipeline.theories import kernels

    data = np.clip(np.array(z, dtype=np.float64), -CUT, CUT)
    out = np.empty((3, data.size))
    kernels.hamilton_filter(data, np.arange(1, data.size + 1), DRIFT, STAY, out)
    return np.ascontiguousarray(out.T)


def _standardised(bars: Bars) -> Floats:
    """z of every minute; not a number where there is no information."""

    def make() -> Floats:
        z = np.empty(bars.close.size)
        scale = bars.scale_everywhere(HEADLINE_WINDOW)
        # 0/0: no information; a move out of nothing: the cut
        bars.kernels.standardise(bars.returns, scale, bars.run, HEADLINE_WINDOW, CUT, z)
        return z

    return bars.cached((NAME, "z"), make)


def _whole(bars: Bars) -> Floats:
    """The three probabilities of every minute."""
    out = lasting(3, bars.close.size)
    bars.kernels.hamilton_filter(_standardised(bars), bars.run, DRIFT, STAY, out)
    return out


def remember(bars: Bars) -> None:
    """Run the filter over the whole stretch."""
    bars.remembered(NAME, _whole)


def _filtered(bars: Bars) -> tuple[Floats, ...]:
    def make() -> tuple[Floats, ...]:
        return tuple(
            bars.where_usable(raw, HEADLINE_WINDOW, HEADLINE_WINDOW + FILTER_MEMORY, out=bars.column(name))
            for raw, name in zip(bars.remembered(NAME, _whole), _WORDS.values(), strict=True)
        )

    return bars.cached((NAME, "usable"), make)


def values(bars: Bars) -> dict[str, Floats]:
    """p_bear, p_sideways, p_bull; missing before 1,240 unbroken returns."""
    return dict(zip(_WORDS.values(), _filtered(bars), strict=True))


def statistic(bars: Bars) -> Floats:
    """p_bull − p_bear."""
    filtered = _filtered(bars)
    return filtered[2] - filtered[0]


def reading(bars: Bars) -> Floats:
    """Root mean square of z over the last hour, on which the null depends."""
    z = _standardised(bars)
    return np.sqrt(bars.window_sum(np.where(np.isnan(z), 0.0, z * z), HOUR) / HOUR)


def percentile(bars: Bars) -> Floats:
    return simulated_percentile(NAME, bars, statistic(bars), reading(bars))


def score(bars: Bars, percentile: Floats) -> Floats:
    distance = np.abs(statistic(bars))
    return np.where(distance >= 0, distance, 0.0)  # 0 where missing


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return trend_vote(percentile, score)


def explain(row: Mapping[str, Any]) -> str:
    chances = {word: number(row, column) for word, column in _WORDS.items()}
    known = {word: chance for word, chance in chances.items() if chance is not None}
    if len(known) < 3:
        return missing_because(row, "Regime")
    word = max(known, key=lambda name: known[name])
    told = "" if float(row.get(f"{NAME}_vote") or 0.0) else ", no more than noise shows"
    sides = f"rising {known['rising']:.2f}, falling {known['falling']:.2f}"
    return f"Regime {word} with probability {known[word]:.2f} ({sides}){told}."
