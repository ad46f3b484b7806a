"""What every learner asks of the frames it is given: columns, an instant, one source, closed in time, weights.

Checks, selections and weights of trades only; no figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.learning.statistics import Floats, average_uniqueness, halved

__all__ = ["closed_before", "instants", "one_source", "require", "trade_weights", "utc"]


def require(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """ValueError that names the columns which `frame` lacks."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{what} lack the column(s) {', '.join(missing)}; join them before calling")


def utc(instant: datetime) -> pd.Timestamp:
    """`instant` as a UTC timestamp; ValueError where it has no time zone."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone; pass an instant in UTC")
    return pd.Timestamp(instant).tz_convert("UTC")


def instants(column: pd.Series[Any]) -> pd.Series[Any]:
    """`column` as UTC microseconds, missing as NaT; ValueError where its instants have no time zone."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return column.dt.tz_convert("UTC").dt.as_unit("us")
    known = column.dropna()
    if len(known) and any(getattr(value, "tzinfo", None) is None for value in known):
        raise ValueError(f"{column.name} holds instants without a time zone; pass them in UTC")
    return pd.to_datetime(column, utc=True).dt.as_unit("us")


def one_source(frame: pd.DataFrame, column: str = "source") -> None:
    """ValueError where `column` is there and holds more than one value: figures of a mixture mean nothing."""
    if column in frame.columns:
        values = sorted(str(value) for value in frame[column].dropna().unique())
        if len(values) > 1:
            raise ValueError(f"outcomes of different {column}s ({', '.join(values)}) are mixed; select one")


def closed_before(outcomes: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """The closed outcomes whose exit candle was over by `as_of` (exit_time is that candle's start)."""
    instant = utc(as_of)
    over = instants(outcomes["exit_time"]) + timedelta(minutes=1) <= instant
    return outcomes[over & (outcomes["outcome"] != "open")]


def trade_weights(trades: pd.DataFrame, half_life_trades: float | None = None) -> Floats:
    """Average uniqueness of each trade among these, by the minutes in which it was open; the older ones discounted.

    With a half-life h a trade also loses half of its weight with every h effective trades that closed after it.
    """
    entry, leave = (instants(trades[name]).astype("int64").to_numpy() / 60e6 for name in ("entry_time", "exit_time"))
    weights = average_uniqueness(entry, leave + 1)  # the exit candle is part of the trade
    return weights if half_life_trades is None else halved(weights, leave, half_life_trades)
