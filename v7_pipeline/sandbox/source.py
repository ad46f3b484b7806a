"""What a source of prices is (simulated or recorded), and how its minutes look at an instant.

Forming candles and coarser buckets are made here; wire formats belong to coinbase.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["MINUTE", "Bars", "Source", "last_price", "require_utc", "view"]

MINUTE = 60
_LOOK_BACK = 6 * 3600

Column = npt.NDArray[Any]


class Bars(NamedTuple):
    """Candles as columns, ascending: `time` is a bucket's start in unix seconds (int64), the others are floats, prices
    in quote and volume in base currency. Arrays and not a frame, because pages are asked for many times a second.
    """

    time: Column
    open: Column
    high: Column
    low: Column
    close: Column
    volume: Column

    def between(self, first: int, end: int) -> Bars:
        """Those with first ≤ time < end (unix seconds); views, not copies."""
        lower, upper = np.searchsorted(self.time, [first, end])
        return Bars(*(column[lower:upper] for column in self))

    def tail(self, count: int) -> Bars:
        """The newest `count`."""
        return Bars(*(column[-count:] for column in self))

    def rows(self) -> list[tuple[Any, ...]]:
        """(time, open, high, low, close, volume) as Python numbers."""
        return list(zip(*(column.tolist() for column in self), strict=True))

    @classmethod
    def joined(cls, parts: list[Bars]) -> Bars:
        """Parts that follow one another, as one."""
        return parts[0] if len(parts) == 1 else cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Source(Protocol):
    """Minutes of products."""

    def symbols(self) -> tuple[str, ...]:
        """Products worth naming to a newcomer; `knows` may accept more."""
        ...

    def knows(self, symbol: str) -> bool:
        """Whether `symbol` is listed."""
        ...

    def decimals(self, symbol: str) -> int:
        """Decimals of the quote increment."""
        ...

    def bars(self, symbol: str, first: int, end: int) -> Bars:
        """Whole minutes first ≤ time < end (unix seconds) that had a trade."""
        ...

    def newest(self, symbol: str) -> int | None:
        """Opening (unix seconds) of the last minute there is, or None where there is no end."""
        ...

    def describe(self) -> dict[str, object]:
        """What it is, for the health and front pages."""
        ...


def view(source: Source, symbol: str, first: int, last: int, granularity: int, now: datetime) -> Bars:
    """Buckets first ≤ time ≤ last as they stand at `now`, the still-forming minute or bucket included.

    `first` and `last` are unix seconds, `granularity` is in seconds, a multiple of 60. Buckets without a trade are
    absent. What opens after `now` does not exist.
    """
    instant = require_utc(now, "now").timestamp()
    first = -(-first // granularity) * granularity
    end = min(last // granularity * granularity + granularity, _minute_of(instant) + MINUTE)
    minutes = _as_of(source.bars(symbol, first, max(end, first)), instant, source.decimals(symbol))
    return minutes if granularity == MINUTE else _buckets(minutes, granularity)


def last_price(source: Source, symbol: str, now: datetime) -> float | None:
    """Price of the last trade at `now`; None before the first one."""
    instant, newest = require_utc(now, "now").timestamp(), source.newest(symbol)
    last = _minute_of(instant) if newest is None else min(_minute_of(instant), newest)
    recent = _as_of(source.bars(symbol, last - _LOOK_BACK, last + MINUTE), instant, source.decimals(symbol))
    return float(recent.close[-1]) if len(recent.time) else None


def require_utc(instant: datetime, name: str) -> datetime:
    """`instant` in UTC. ValueError where it has no time zone."""
    if instant.tzinfo is None:
        raise ValueError(f"{name} {instant.isoformat()} has no time zone; pass an instant in UTC")
    return instant.astimezone(UTC)


def _minute_of(seconds: float) -> int:
    return int(seconds // MINUTE) * MINUTE


def _as_of(minutes: Bars, instant: float, decimals: int) -> Bars:
    """Minutes that opened before `instant`, as they stood then: only the last can be in progress."""
    count = int(np.searchsorted(minutes.time, instant))
    opened = Bars(*(column[:count] for column in minutes))
    if not len(opened.time) or opened.time[-1] + MINUTE <= instant:
        return opened
    past, row = Bars(*(column[:-1] for column in opened)), opened.tail(1)
    return Bars.joined([past, _partial(row, (instant - int(row.time[0])) / MINUTE, decimals)])


def _partial(row: Bars, share: float, decimals: int) -> Bars:
    """A minute's candle when `share` of it has passed: open → one extreme → the other → close, in straight lines.

    As `share` grows the high never falls, the low never rises and the volume grows; at 1 it is the whole candle.
    """
    _, opened, high, low, closed, volume = row.rows()[0]
    turns = [opened, low, high, closed] if closed >= opened else [opened, high, low, closed]
    at = [0.0, 0.25, 0.75, 1.0]
    price = round(float(np.interp(share, at, turns)), decimals)
    seen = [turn for turn, moment in zip(turns, at, strict=True) if moment <= share] + [price]
    volume = max(round(volume * share, 8), 1e-8)
    return Bars(row.time, *(np.array([value]) for value in (opened, max(seen), min(seen), price, volume)))


def _buckets(minutes: Bars, granularity: int) -> Bars:
    if not len(minutes.time):
        return minutes
    buckets = minutes.time // granularity * granularity
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    ends = np.append(starts[1:], len(buckets)) - 1
    return Bars(
        buckets[starts],
        minutes.open[starts],
        np.maximum.reduceat(minutes.high, starts),
        np.minimum.reduceat(minutes.low, starts),
        minutes.close[ends],
        np.add.reduceat(minutes.volume, starts),
    )
