"""Figures of daily returns: growth, risk and their ratios, each with the interval that its days allow.

Arrays in, figures out. Days are UTC and there are 365 of them a year: crypto trades on all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, nan

import numpy as np
import numpy.typing as npt

from v7_pipeline.gates.challenge import block_length

__all__ = ["DAYS_A_YEAR", "METRICS", "MIN_DAYS", "Item", "difference", "draws", "item_of", "risk_items", "risk_metrics"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAYS_A_YEAR = 365
#: Fewer days than these have no interval: their blocks say nothing.
MIN_DAYS = 20
RESAMPLES = 2000
_TAIL = 0.05
_YEARLY = ("annual_return", "calmar")

#: Name, words and unit of each figure of daily returns.
METRICS: tuple[tuple[str, str, str], ...] = (
    ("total_return", "net return", "fraction"),
    ("annual_return", "net return a year, compounded", "fraction a year"),
    ("volatility", "volatility a year (daily returns × √365)", "fraction a year"),
    ("sharpe", "Sharpe ratio (daily equity, × √365)", "ratio"),
    ("sortino", "Sortino ratio (daily equity, × √365)", "ratio"),
    ("max_drawdown", "maximum drawdown of daily equity", "fraction"),
    ("calmar", "Calmar ratio (return a year ÷ maximum drawdown)", "ratio"),
    ("var_95", "value at risk of a day at 95 % (a loss is positive)", "fraction a day"),
    ("cvar_95", "mean of the days beyond it (a loss is positive)", "fraction a day"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One figure of a report: value and 95 % interval in `unit`, n what it rests on, n_eff of independent ones.

    NaN is missing, and `note` says why; else the note says how the figure was made, where its name does not.
    """

    name: str
    label: str
    unit: str
    value: float
    lower: float = nan
    upper: float = nan
    n: int = 0
    n_eff: float = nan
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both of its ends are known."""
        return isfinite(self.lower) and isfinite(self.upper)


def risk_metrics(returns: npt.ArrayLike) -> dict[str, Floats]:
    """The METRICS of daily returns, one row of them or a matrix with one a row; NaN where a figure does not exist.

    Sharpe: mean ÷ standard deviation (n − 1). Sortino: mean ÷ root mean square of the negative days over all days.
    Drawdown ≤ 0 counts from the capital before the first day. VaR and CVaR are historical: the 5 % quantile of the days
    (linear between two), and the mean of those not above it, with the sign turned. A ratio over 0 does not exist.
    """
    x = np.atleast_2d(np.asarray(returns, dtype=np.float64))
    n = x.shape[1]
    missing = np.full(len(x), nan)
    if not n:
        return {name: missing for name, _, _ in METRICS}
    curve = np.cumprod(1.0 + x, axis=1)
    total = curve[:, -1] - 1.0
    peak = np.maximum.accumulate(np.maximum(curve, 1.0), axis=1)
    deepest = (curve / peak - 1.0).min(axis=1)
    # Less than nothing has no growth rate.
    annual = np.where(curve[:, -1] > 0, np.abs(curve[:, -1]) ** (DAYS_A_YEAR / n) - 1.0, nan)
    mean = x.mean(axis=1)
    spread = x.std(axis=1, ddof=1) if n > 1 else missing
    spread = np.where(spread <= 1e-15 * np.abs(mean), 0.0, spread)  # equal days leave only what rounding leaves
    below = np.sqrt((np.minimum(x, 0.0) ** 2).mean(axis=1))
    quantile = np.quantile(x, _TAIL, axis=1)
    tail = x <= quantile[:, None]
    year = np.sqrt(DAYS_A_YEAR)
    return {
        "total_return": total,
        "annual_return": annual,
        "volatility": spread * year,
        "sharpe": _ratio(mean, spread) * year,
        "sortino": _ratio(mean, below) * year if n > 1 else missing,
        "max_drawdown": deepest,
        "calmar": _ratio(annual, -deepest),
        "var_95": -quantile,
        "cvar_95": -(x * tail).sum(axis=1) / tail.sum(axis=1),
    }


def draws(days: int, *, seed: int = 7, resamples: int = RESAMPLES) -> Ints:
    """Places of days, a row a resample: circular blocks of their cube root (Politis & Romano 1992); none below 20 days.

    Days in one block stay together, so that what hangs together from day to day widens the interval.
    """
    if days < MIN_DAYS:
        return np.empty((0, days), dtype=np.int64)
    length = block_length(days)
    starts = np.random.default_rng(seed).integers(0, days, size=(resamples, -(-days // length)))
    return ((starts[:, :, None] + np.arange(length)) % days).reshape(resamples, -1)[:, :days]


def risk_items(returns: npt.ArrayLike) -> tuple[Item, ...]:
    """The METRICS of one strategy's daily returns with block-bootstrap intervals, n being days."""
    x = np.asarray(returns, dtype=np.float64)
    own, places = risk_metrics(x), draws(len(x))
    drawn = risk_metrics(x[places]) if len(places) else {}
    items = (
        item_of(name, label, unit, float(own[name][0]), drawn.get(name), n=len(x), note=_why(name, x))
        for name, label, unit in METRICS
    )
    stretched = f"{len(x)} days stretched to a year" if len(x) < DAYS_A_YEAR else ""
    return tuple(replace(item, note=stretched) if item.name in _YEARLY and item.known else item for item in items)


def item_of(name: str, label: str, unit: str, value: float, drawn: Floats | None, *, n: int, note: str = "") -> Item:
    """A figure with the middle 95 % of its resampled values as its interval, where nearly all of them exist."""
    lower = upper = nan
    if drawn is not None and len(drawn) and isfinite(value):
        exist = drawn[np.isfinite(drawn)]
        if len(exist) >= 0.99 * len(drawn):
            lower, upper = (float(end) for end in np.quantile(exist, [0.025, 0.975]))
    return Item(name, label, unit, value, lower, upper, n, nan, note if not isfinite(value) else "")


def difference(own: npt.ArrayLike, other: npt.ArrayLike, *, label: str) -> Item:
    """Mean daily return of one less the other's over the same days, with a block-bootstrap interval of the pairs."""
    gap = np.asarray(own, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    places = draws(len(gap))
    drawn = gap[places].mean(axis=1) if len(places) else None
    value = float(gap.mean()) if len(gap) else nan
    return item_of("difference", label, "fraction a day", value, drawn, n=len(gap), note="no day in common")


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(len(part), nan), where=whole > 0)


def _why(name: str, x: Floats) -> str:
    """Why a figure of these days does not exist."""
    if not len(x):
        return "no day"
    if len(x) < 2:
        return "a single day"
    return {
        "calmar": "there was no drawdown",
        "sortino": "no day lost",
        "sharpe": "all days are equal",
    }.get(name, "the account was lost")
