"""Instants as whole microseconds since 1970 in UTC, the one form in which this room computes with time.

Conversions only; which minutes are wanted is the callers' business.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["MINUTE_US", "SECOND_US", "ceil_minute", "iso", "micros", "open_times", "to_index"]

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(instant: datetime, name: str) -> int:
    """`instant` in microseconds since 1970; a naive one is refused, since it would be read in the wrong zone."""
    if instant.tzinfo is None:
        raise ValueError(f"{name} has no time zone ({instant.isoformat()}); pass an aware UTC datetime")
    return (instant - _EPOCH) // timedelta(microseconds=1)


def ceil_minute(us: int) -> int:
    """The first whole minute at or after `us`."""
    return -(-us // MINUTE_US) * MINUTE_US


def open_times(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The column open_time in microseconds since 1970; naive or missing times are refused."""
    times = pd.DatetimeIndex(frame["open_time"])
    if times.tz is None:
        raise ValueError("open_time has no time zone; candles are kept in UTC")
    if times.hasnans:
        raise ValueError(f"open_time is missing in {int(times.isna().sum())} of {len(times)} candles")
    return np.asarray(times.as_unit("us").asi8, dtype=np.int64)


def to_index(us: npt.NDArray[np.int64]) -> pd.DatetimeIndex:
    """Microseconds since 1970 as datetime64[us, UTC]."""
    return pd.DatetimeIndex(us.view("datetime64[us]")).tz_localize("UTC")


def iso(us: int) -> str:
    """`us` for a message: 2023-12-11T02:12:00Z, with the fraction where there is one."""
    text: str = pd.Timestamp(us, unit="us", tz="UTC").isoformat()
    return text.replace("+00:00", "Z")
