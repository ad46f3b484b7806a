"""Risk metrics: how much a minute can lose, and on which side the heavy moves lie.

Formulas, over the window's W one-minute log returns: VaR = −(⌈αW⌉-th smallest return), CVaR the mean loss in the worst
αW returns, the last one counted in part where αW is no integer (Rockafellar & Uryasev 2002), α = 5 % and 1 %, positive
= loss, fraction a minute; volatility with divisor W − 1; Sharpe = mean ÷ volatility and Sortino = mean ÷ root mean
squared loss, × √525,600 (display only: their standard error is √(525600/W)); maximum drawdown in log price over the
window's W + 1 closes. Nothing moved: ratios missing, the rest 0.

Null: random walks with the window's share of zero returns, simulated; statistic: the sum of the window's largest tenth
of moves ÷ the root of their summed squares, positive where the large moves are gains; of moves of one size (there and
back is one) that do not all belong to the tenth each counts for a share. Given their sizes only the signs are chance,
so fat tails and volatility clusters change its null little. Vote: momentum's direction where the large moves lie on
its side, silence where they lie against it. Score: strength of the percentile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import (
    HIGH,
    LOW,
    MINUTES_A_YEAR,
    Bars,
    Floats,
    missing_because,
    number,
    place,
    strength,
    two_sided_vote,
)
from v7_pipeline.theories.nulls import simulated_percentile

__all__ = [
    "MINUTES_A_YEAR", "NAME", "expected_shortfall", "explain", "max_drawdown", "percentile", "score", "statistic",
    "value_at_risk", "values", "vote",
]  # fmt: skip

NAME = "risk_metrics"
LEVELS = (0.95, 0.99)


def _tails(returns: npt.ArrayLike) -> Floats:
    from v7_pipeline.theories import kernels

    data = np.array(returns, dtype=np.float64)
    if data.size == 0 or np.isnan(data).any():
        raise ValueError("risk needs at least one return and no missing ones")
    out = np.empty((4, 1))
    kernels.tails(data, data.size, data.size - 1, np.ones(1, np.uint8), *out)
    return out[:, 0]


def value_at_risk(returns: npt.ArrayLike, level: float = 0.95) -> float:
    """Loss (positive) that is exceeded with probability 1 − level (.95 or .99), by order statistic."""
    return float(_tails(returns)[LEVELS.index(level)])


def expected_shortfall(returns: npt.ArrayLike, level: float = 0.95) -> float:
    """Mean loss (positive) in the worst 1 − level (level .95 or .99) of returns."""
    return float(_tails(returns)[2 + LEVELS.index(level)])


def max_drawdown(path: npt.ArrayLike) -> float:
    """Deepest fall from a running peak of a path of log prices, ≥ 0."""
    from v7_pipeline.theories import kernels

    data = np.array(path, dtype=np.float64)
    out = np.zeros(1)
    kernels.drawdown(data, data.size, 0, data.size - 1, np.ones(1, np.uint8), out)
    return float(out[0])


def _of_window(bars: Bars, w: int) -> dict[str, Floats]:
    usable = bars.usable(w)
    _, _, volatility, sharpe, sortino = bars.moments(w)
    worst = {name: bars.column(f"{name}_{w}") for name in ("var_95", "var_99", "cvar_95", "cvar_99")}
    bars.kernels.tails(bars.returns, w, bars.first, usable, *worst.values())
    fall = bars.column(f"max_drawdown_{w}")
    bars.kernels.drawdown(bars.path, w + 1, bars.epoch, bars.first, usable, fall)
    named = {**worst, "volatility": volatility, "sharpe": sharpe, "sortino": sortino, "max_drawdown": fall}
    return {f"{name}_{w}": column for name, column in named.items()}


def values(bars: Bars) -> dict[str, Floats]:
    """The eight columns of each window."""
    return {name: column for w in bars.windows for name, column in _of_window(bars, w).items()}


def statistic(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """On which side the large moves lie, in standard deviations of chance signs."""
    out = np.empty(bars.rows)
    bars.kernels.large_moves(bars.returns, w, bars.first, bars.usable(w), out)
    return out


def percentile(bars: Bars) -> Floats:
    return simulated_percentile(NAME, bars, statistic(bars))


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return two_sided_vote(bars, percentile, score)


def explain(row: Mapping[str, Any]) -> str:
    shortfall, fall = number(row, "cvar_95_240"), number(row, "max_drawdown_240")
    if shortfall is None or fall is None:
        return missing_because(row, "Risk")
    share = number(row, f"{NAME}_percentile")
    told = "neither side has the large moves"
    if share is not None and share >= HIGH:
        told = "the large moves are gains"
    elif share is not None and share <= LOW:
        told = "the large moves are losses"
    return (
        f"Risk: the worst 5 % of minutes lose {100 * shortfall:.3f} % on average, deepest fall {100 * fall:.2f} % in "
        f"four hours; balance of large moves{place(share)}: {told}."
    )
