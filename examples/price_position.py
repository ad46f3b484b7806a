"""Price position: where in its range of four hours does the price stand?

Formula: (p − low) ÷ (high − low) over the closes of the last 240 minutes, p the newest. Unit: share of the range;
missing where nothing moved. Source: the stochastic oscillator of Lane (1984), on closes.

Null: none is simulated, so no place under noise is claimed and the percentile stays missing. Vote: it abstains. Score:
0. A theory earns a vote with a null of its own (theories/nulls/).

Reading: 1 is the highest close of four hours, 0 the lowest.

Misleads: in a trend it stays at one end for hours; that is no reason for a reversal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from v7_pipeline.theories.base import Bars, Floats, missing_because, number

NAME = "price_position"
WINDOW = 240


def values(bars: Bars) -> dict[str, Floats]:
    """price_position ∈ [0, 1]."""
    out = np.full(bars.rows, np.nan)
    for row in range(max(WINDOW - bars.first, 0), bars.rows):
        window = bars.close[bars.first + row - WINDOW + 1 : bars.first + row + 1]
        low, high = window.min(), window.max()
        if high > low:
            out[row] = (window[-1] - low) / (high - low)
    return {"price_position": bars.where_usable(out, WINDOW)}


def percentile(bars: Bars) -> Floats:
    return np.full(bars.rows, np.nan)


def score(bars: Bars, percentile: Floats) -> Floats:
    return np.zeros(bars.rows)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return np.zeros(bars.rows)


def explain(row: Mapping[str, Any]) -> str:
    value = number(row, "price_position")
    if value is None:
        return missing_because(row, "Price position")
    return f"The price stands at {100 * value:.0f} % of its four-hour range."
