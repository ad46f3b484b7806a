"""What a source of prices is (simulated or recorded), and how its minutes look at an instant.

Forming candles and coarser buckets are made here; wire formats belong to coinbase.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np
import pandas as pd

__all__ = ["COLUMNS", "MINUTE", "Source", "decimals_of", "empty_frame", "last_price", "require_utc", "view"]

COLUMNS = ("open_time", "open", "high", "low", "close", "volume")
MINUTE = 60
_LOOK_BACK = timedelta(hours=6)


class Source(Protocol):
    """Minutes of products: times are bucket starts in UTC, prices in quote currency, volume in base currency."""

    def symbols(self) -> tuple[str, ...]:
        """Products worth naming to a newcomer; `knows` may accept more."""
        ...

    def knows(self, symbol: str) -> bool:
        """Whether `symbol` is listed."""
        ...

    def decimals(self, symbol: str) -> int:
        """Decimals of the quote increment."""
        ...

    def candles(self, symbol: str, start: datetime, end: datetime) -> pd.DataFrame:
        """Whole minutes start ≤ open_time < end that had a trade, COLUMNS, ascending."""
        ...

    def newest(self, symbol: str) -> datetime | None:
        """Opening of the last minute there is, or None where there is no end."""
        ...

    def describe(self) -> dict[str, object]:
        """What it is, for the health and front pages."""
        ...


def view(source: Source, symbol: str, first: int, last: int, granularity: int, now: datetime) -> pd.DataFrame:
    """Buckets first ≤ bucket start ≤ last as they stand at `now`, the still-forming minute or bucket included.

    `first` and `last` are unix seconds, `granularity` is in seconds, a multiple of 60. Ascending; `time` is the bucket's
    start in unix seconds. Buckets without a trade are absent. What opens after `now` does not exist.
    """
    require_utc(now, "now")
    first = -(-first // granularity) * granularity
    end = min(last // granularity * granularity + granularity, int(now.timestamp()) // MINUTE * MINUTE + MINUTE)
    if end <= first:
        return _timed(empty_frame())
    minutes = source.candles(symbol, _instant(first), _instant(end))
    frame = _timed(_as_of(minutes, now, source.decimals(symbol)))
    return frame if granularity == MINUTE else _buckets(frame, granularity)


def last_price(source: Source, symbol: str, now: datetime) -> float | None:
    """Price of the last trade at `now`; None before the first one."""
    newest = source.newest(symbol)
    until = min(now, newest + timedelta(minutes=1)) if newest else now
    recent = source.candles(symbol, until - _LOOK_BACK, until + timedelta(minutes=1))
    recent = _as_of(recent, now, source.decimals(symbol))
    return float(recent["close"].iloc[-1]) if len(recent) else None


def empty_frame() -> pd.DataFrame:
    """No candles, with the columns' types."""
    frame = pd.DataFrame({name: pd.Series(dtype="float64") for name in COLUMNS})
    frame["open_time"] = pd.Series(dtype="datetime64[us, UTC]")
    return frame


def require_utc(instant: datetime, name: str) -> datetime:
    """`instant` in UTC. ValueError where it has no time zone."""
    if instant.tzinfo is None:
        raise ValueError(f"{name} {instant.isoformat()} has no time zone; pass an instant in UTC")
    return instant.astimezone(UTC)


def decimals_of(prices: pd.Series) -> int:
    """Fewest decimals (0 … 8) that write every price exactly."""
    values = prices.to_numpy(dtype=float)
    return next((n for n in range(8) if np.array_equal(np.round(values, n), values)), 8)


def _as_of(minutes: pd.DataFrame, now: datetime, decimals: int) -> pd.DataFrame:
    """Minutes as they stood at `now`: later ones absent, the one in progress as far as it had come."""
    opens = minutes["open_time"]
    past = minutes[opens + pd.Timedelta(minutes=1) <= now]
    forming = minutes[(opens < now) & (opens + pd.Timedelta(minutes=1) > now)]
    if forming.empty:
        return past
    row = forming.iloc[0]
    share = (now - row["open_time"].to_pydatetime()).total_seconds() / MINUTE
    partial = forming.assign(**_partial(row, share, decimals))
    return pd.concat([past, partial]) if len(past) else partial


def _partial(row: pd.Series, share: float, decimals: int) -> dict[str, float]:
    """A minute's candle when `share` of it has passed: open → one extreme → the other → close, in straight lines.

    As `share` grows the high never falls, the low never rises and the volume grows; at 1 it is the whole candle.
    """
    opened, closed = float(row["open"]), float(row["close"])
    low, high = float(row["low"]), float(row["high"])
    turns = [opened, low, high, closed] if closed >= opened else [opened, high, low, closed]
    at = [0.0, 0.25, 0.75, 1.0]
    price = round(float(np.interp(share, at, turns)), decimals)
    seen = [turn for turn, moment in zip(turns, at, strict=True) if moment <= share] + [price]
    return {
        "high": max(seen),
        "low": min(seen),
        "close": price,
        "volume": max(round(float(row["volume"]) * share, 8), 1e-8),
    }


def _timed(frame: pd.DataFrame) -> pd.DataFrame:
    seconds = frame["open_time"].dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    return frame.assign(time=seconds)


def _buckets(frame: pd.DataFrame, granularity: int) -> pd.DataFrame:
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    return frame.groupby(frame["time"] // granularity * granularity).agg(how).rename_axis("time").reset_index()


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
