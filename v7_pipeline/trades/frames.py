"""What the trades room asks of a frame before it computes with it: columns, aware instants, known sides.

Checks and conversions only; prices and money are computed in the modules beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["MINUTE_US", "NO_INSTANT", "by_symbol", "directions", "instants", "microseconds", "require", "utc"]

MINUTE_US = 60_000_000
NO_INSTANT = np.iinfo(np.int64).min  # how numpy writes NaT as an integer

_DIRECTION = {"BUY": 1.0, "SELL": -1.0}


def require(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Refuse a frame that lacks a column; ValueError names it."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"{what} lack the column(s) {', '.join(missing)}; join them before calling")


def utc(instant: datetime, what: str = "as_of") -> pd.Timestamp:
    """`instant` in UTC; a naive one is refused, because its zone would be a guess."""
    stamp = pd.Timestamp(instant)
    if stamp.tzinfo is None:
        raise ValueError(f"{what} {instant} has no time zone; pass an aware instant in UTC")
    return stamp.tz_convert("UTC")


def microseconds(series: pd.Series, what: str) -> npt.NDArray[np.int64]:
    """Microseconds since 1970 UTC of an aware column; NaT becomes NO_INSTANT; a naive column is refused."""
    if series.isna().all():
        return np.full(len(series), NO_INSTANT, dtype=np.int64)
    if not isinstance(series.dtype, pd.DatetimeTZDtype):
        raise ValueError(f"column {what} holds {series.dtype}, not time-zone-aware instants; convert it to UTC")
    numbers: npt.NDArray[np.int64] = (
        series.dt.tz_convert(None).to_numpy("datetime64[us]").astype(np.int64)  # None: to UTC, without saying so
    )
    return numbers


def instants(numbers: npt.NDArray[np.int64]) -> Any:
    """The inverse of `microseconds`: datetime64[us, UTC]."""
    return pd.DatetimeIndex(numbers.astype("datetime64[us]")).tz_localize("UTC")


def by_symbol(frame: pd.DataFrame) -> dict[str, Any]:
    """The places (int64) of each symbol's rows, ascending. A categorical column spares hashing a million names."""
    symbols = frame["symbol"]
    if isinstance(symbols.dtype, pd.CategoricalDtype):
        codes = symbols.cat.codes.to_numpy()
        found = {str(name): np.flatnonzero(codes == code) for code, name in enumerate(symbols.cat.categories)}
        return {name: places for name, places in found.items() if len(places)}
    return {str(name): places for name, places in frame.groupby("symbol", sort=False).indices.items()}


def directions(sides: pd.Series) -> npt.NDArray[np.float64]:
    """+1 for BUY, −1 for SELL. A HOLD opens nothing, so it is refused here, as is any other word."""
    unknown = sorted({str(side) for side in sides if side not in _DIRECTION})
    if unknown:
        raise ValueError(f"only BUY and SELL can be traded, not {', '.join(unknown)}; leave such rows out")
    return np.array([_DIRECTION[side] for side in sides], dtype=np.float64)
