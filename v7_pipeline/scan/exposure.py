"""How alike products move, as of a scan: the correlations that the exposure gate counts with.

What they are worth to a signal is gates/conditions.py's; here they are only measured from stored candles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["correlations", "correlations_of"]

_SPAN = timedelta(days=1)
_STEP = timedelta(minutes=5)  # one-minute returns of thin products are correlated too little (Epps 1979)
_FEWEST = 60  # returns that both products have; below, the correlation counts as unknown
_CLOSES = """
SELECT symbol, CAST(floor((epoch(open_time) - epoch(?::TIMESTAMPTZ)) / ?) AS BIGINT) AS step,
       arg_max(close, open_time) AS close
FROM candles WHERE open_time >= ? AND open_time < ? AND symbol IN (SELECT unnest(?::VARCHAR[]))
GROUP BY ALL
"""


def correlations(reader: Any, as_of: datetime, symbols: Iterable[str]) -> dict[tuple[str, str], float]:
    """Correlation of five-minute log returns over the 24 hours before `as_of`, by pair of symbols in name order.

    Only steps that both products traded in, and the one before, count; a pair with fewer than 60 of them, or with a
    price that never moved, is left out: not known.
    """
    names = sorted(set(symbols))
    if len(names) < 2:
        return {}
    start = as_of - _SPAN
    rows = reader.rows(_CLOSES, (start, _STEP.total_seconds(), start, as_of, names))
    closes = {name: np.full(int(_SPAN / _STEP), np.nan) for name in names}
    for row in rows:
        closes[row["symbol"]][row["step"]] = row["close"]
    return correlations_of(closes)


def correlations_of(closes: Mapping[str, npt.NDArray[np.float64]]) -> dict[tuple[str, str], float]:
    """`correlations` from each symbol's last close of every five-minute step, NaN where it did not trade."""
    names = sorted(closes)
    returns = {name: np.diff(np.log(closes[name])) for name in names}
    found = {}
    for one, other in combinations(names, 2):
        a, b = returns[one], returns[other]
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() >= _FEWEST and a[both].std() > 0 and b[both].std() > 0:
            found[one, other] = float(np.corrcoef(a[both], b[both])[0, 1])
    return found
