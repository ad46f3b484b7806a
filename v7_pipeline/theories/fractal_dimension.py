"""Fractal dimension: how rough the price path is, between a line (1) and a plane (2); a random walk has 1.5.

Formula: D = 2 − slope of log mean |p(i + k) − p(i)| on log k, k = 1, 2, 4, 8, 16, over the window's W + 1 log prices
(madogram; Gneiting, Ševčíková & Percival 2012; Higuchi's family), cut to [1, 2]. Unit: dimension. Nothing moved:
missing.

Null: random walks with the window's share of zero returns and its evenness of sizes (Bars.evenness: fat tails make
one-minute moves look small beside longer ones, and so the path look smooth), simulated; of D before it is cut. Vote: a
smooth path (lower 4 %) goes with momentum's direction, a rough one (upper 4 %) against it. Score: strength of the
percentile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import HIGH, LOW, Bars, Floats, lean, missing_because, number, place, strength
from v7_pipeline.theories.nulls import simulated_percentile

__all__ = ["NAME", "explain", "madogram", "percentile", "reading", "score", "statistic", "values", "vote"]

NAME = "fractal_dimension"
LARGEST_LAG = 16


def madogram(path: npt.ArrayLike) -> float:
    """Dimension of one path of at least 18 points, not cut to [1, 2]; NaN where nothing moves."""
    from v7_pipeline.theories import kernels

    data = np.array(path, dtype=np.float64)
    if data.size < LARGEST_LAG + 2:
        raise ValueError(f"a path of {data.size} points is too short for lags up to {LARGEST_LAG}")
    out = np.empty(1)
    changes = _changes(kernels, np.diff(data))
    kernels.madogram(*changes, data.size - 1, 0, data.size - 2, np.ones(1, np.uint8), out)
    return float(out[0])


def _changes(kernels: Any, returns: Floats) -> tuple[Floats, Floats]:
    changes, sums = np.empty((4, returns.size)), np.empty((3, returns.size))
    kernels.absolute_changes(returns, changes, sums)
    return changes, sums


def _dimension(bars: Bars, w: int) -> Floats:
    def make() -> Floats:
        out = np.empty(bars.rows)
        changes = bars.cached((NAME, "changes"), lambda: _changes(bars.kernels, bars.returns))
        bars.kernels.madogram(*changes, w, bars.epoch, bars.first, bars.usable(w), out)
        return out

    return bars.cached((NAME, w), make)


def values(bars: Bars) -> dict[str, Floats]:
    """fractal_dimension_W ∈ [1, 2]."""
    names = {w: f"fractal_dimension_{w}" for w in bars.windows}
    return {name: np.clip(_dimension(bars, w), 1.0, 2.0, out=bars.column(name)) for w, name in names.items()}


def statistic(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """The dimension before it is cut."""
    return _dimension(bars, w)


def reading(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """Evenness of sizes, on which the null depends."""
    return bars.evenness(w)


def percentile(bars: Bars) -> Floats:
    return simulated_percentile(NAME, bars, statistic(bars), reading(bars))


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return lean(bars, percentile, score, low=+1, high=-1)


def explain(row: Mapping[str, Any]) -> str:
    value = number(row, "fractal_dimension_240")
    if value is None:
        return missing_because(row, "Fractal dimension")
    share = number(row, f"{NAME}_percentile")
    told = "as rough as a random walk"
    if share is not None and share <= LOW:
        told = "smoother than a random walk, moves carry on"
    elif share is not None and share >= HIGH:
        told = "rougher than a random walk, moves turn back"
    return f"Fractal dimension {value:.2f}{place(share)}: {told}."
