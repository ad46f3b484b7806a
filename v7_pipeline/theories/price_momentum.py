"""Price momentum: how far the price went, compared with how far chance would have carried it.

Formula: (p_t − p_{t−W}) ÷ (σ√W) with p log price and σ² the mean squared return of the window. Unit: standard
deviations; it is the t-statistic of the drift (self-normalised sum; Efron 1969), 0 where nothing moved.

Null: N(0, 1), closed form; fat tails and quiet minutes hardly matter to a self-normalised sum. Vote: its side, outside
the central 92 %. Score: strength of the percentile. It also lends its direction to the theories that have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import Bars, Floats, missing_because, number, place, strength, trend_vote

__all__ = ["NAME", "explain", "percentile", "score", "statistic", "values", "vote"]

NAME = "price_momentum"


def values(bars: Bars) -> dict[str, Floats]:
    """momentum_W."""
    return {f"momentum_{w}": bars.momentum(w) for w in bars.windows}


def statistic(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """The window's momentum."""
    return bars.momentum(w)


def percentile(bars: Bars) -> Floats:
    return bars.momentum_share(HEADLINE_WINDOW)


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return trend_vote(percentile, score)


def explain(row: Mapping[str, Any]) -> str:
    value = number(row, "momentum_240")
    if value is None:
        return missing_because(row, "Momentum")
    told = "no more than chance would do"
    if float(row.get(f"{NAME}_vote") or 0.0):
        told = f"the price has {'risen' if value > 0 else 'fallen'} further than chance would carry it"
    return (
        f"Momentum {value:+.2f} standard deviations over four hours{place(number(row, f'{NAME}_percentile'))}: {told}."
    )
