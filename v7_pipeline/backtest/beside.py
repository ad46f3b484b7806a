"""QuantStats' numbers beside ours, from the same daily returns, with the reason for each difference.

QuantStats is a library of the developers; where it is not installed there is nothing to show, and nothing else changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite, nan
from typing import Any

import pandas as pd

from v7_pipeline.backtest.figures import Figures
from v7_pipeline.backtest.risk import DAYS_A_YEAR

__all__ = ["AGREE", "EXPLAINED", "Beside", "beside", "quantstats_of"]

#: Shared figures whose definitions are the same, so that the numbers are.
AGREE = (
    "total_return", "annual_return", "volatility", "sharpe", "sortino", "max_drawdown", "calmar", "cvar_95",
)  # fmt: skip
#: Shared figures whose definitions differ, and how.
EXPLAINED = {
    "var_95": "QuantStats' is that of a normal distribution with the days' mean and deviation; ours is the days' own "
    "5 % quantile",
    "psr": "QuantStats corrects skewness and kurtosis for the sample's size; ours are the moments of the sample, as in "
    "the paper",
}


@dataclass(frozen=True, slots=True)
class Beside:
    """One shared figure: ours, QuantStats', and why they differ where they do."""

    name: str
    label: str
    unit: str
    ours: float
    theirs: float
    why: str


def beside(found: Figures) -> tuple[Beside, ...]:
    """The shared figures; empty where QuantStats is not installed or there are fewer than three days."""
    daily = found.daily
    if find_spec("quantstats") is None or len(daily) < 3:
        return ()
    returns = pd.Series(
        daily["net_return"].to_numpy(float),
        index=pd.DatetimeIndex(daily["day"]).tz_localize(None) - pd.Timedelta(days=1),
    )
    theirs = quantstats_of(returns)
    rows = []
    for name in (*AGREE, *EXPLAINED):
        item = found.item(name)
        why = EXPLAINED.get(name, "")
        if isfinite(item.value) != isfinite(theirs[name]):
            why = "one of them says nothing where a ratio has no denominator"
        rows.append(Beside(name, item.label, item.unit, item.value, theirs[name], why))
    return tuple(rows)


def quantstats_of(returns: pd.Series) -> dict[str, float]:
    """QuantStats' figures of daily returns (index: days, naive) at 365 days a year, with our signs; NaN for none.

    CVaR by its historical method: its default is that of a normal distribution.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantstats.stats as qs

        year = DAYS_A_YEAR
        asked: dict[str, Callable[[], Any]] = {
            "total_return": lambda: qs.comp(returns),
            "annual_return": lambda: qs.cagr(returns, periods=year),
            "volatility": lambda: qs.volatility(returns, periods=year),
            "sharpe": lambda: qs.sharpe(returns, periods=year),
            "sortino": lambda: qs.sortino(returns, periods=year),
            "max_drawdown": lambda: qs.max_drawdown(returns),
            "calmar": lambda: qs.calmar(returns, periods=year),
            "cvar_95": lambda: -qs.conditional_value_at_risk(returns, method="historical"),
            "var_95": lambda: -qs.value_at_risk(returns),
            "psr": lambda: qs.probabilistic_sharpe_ratio(returns),
        }
        return {name: _told(ask) for name, ask in asked.items()}


def _told(ask: Callable[[], Any]) -> float:
    """What it answers; NaN where it divides by zero or answers with something that is not finite."""
    try:
        value = float(ask())
    except ZeroDivisionError:
        return nan
    return value if isfinite(value) else nan
