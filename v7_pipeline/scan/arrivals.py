"""Candles that came or changed since the last finished scan, and which closed outcomes they touch.

A late candle changes what is derived from it and nothing else. What a touched outcome becomes is follow.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.scan.context import ScanContext

__all__ = ["Arrivals", "arrivals", "over_by", "touched"]

_MINUTE = timedelta(minutes=1)
_NEAR = timedelta(days=2)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = """
SELECT as_of, started_at FROM scans WHERE source = ? AND status = 'finished' AND as_of < ? ORDER BY as_of DESC LIMIT 1
"""
_ARRIVED = """
SELECT min(open_time) AS first, max(open_time) AS last, max(fetched_at) AS fetched FROM candles
WHERE fetched_at > ? AND open_time < ?
"""
_NEWEST = """
SELECT symbol, max(open_time) AS newest FROM candles
WHERE open_time > ? AND open_time <= ? AND symbol IN (SELECT unnest(?::VARCHAR[])) GROUP BY symbol
"""
_CANDIDATES = """
SELECT signal_id, kind, side, symbol, as_of, exit_time, labelled_at
FROM outcomes WHERE source = ? AND outcome <> 'open' AND as_of <= ? AND exit_time >= ?
  AND (labelled_at IS NULL OR labelled_at < ?)
"""
_TOUCHED = ("signal_id", "kind", "side", "exit_time")
_CANDLES = "SELECT symbol, open_time, fetched_at FROM candles WHERE fetched_at > ? AND open_time >= ? AND open_time < ?"


@dataclass(frozen=True)
class Arrivals:
    """What came since the last finished scan before this one; all None before the first.

    `scan` is that scan's instant, `since` when it began; `first` and `last` the open_time of the oldest and newest
    candle received since, `fetched` when the newest version came.
    """

    scan: datetime | None = None
    since: datetime | None = None
    first: datetime | None = None
    last: datetime | None = None
    fetched: datetime | None = None


def arrivals(ctx: ScanContext, reader: Any) -> Arrivals:
    """The candles known at the scan that were received after the last finished scan had begun."""
    last = reader.rows(_LAST, (ctx.source, ctx.as_of))
    if not last:
        return Arrivals()
    since = last[0]["started_at"]
    return Arrivals(last[0]["as_of"], since, **reader.rows(_ARRIVED, (since, ctx.as_of))[0])


def over_by(ctx: ScanContext, reader: Any, came: Arrivals) -> datetime | None:
    """The instant up to which every HOLD was over for the last finished scan; None: unknown.

    A trade is over at the latest with the candle that ends its horizon, counted from its entry, the first candle from
    its signal on. So nothing is left of what was signalled by the newest candle of a horizon before the newest one that
    the last scan knew. Unknown too where a scan of the past may have been made out of its turn.
    """
    if came.scan is None or (ctx.is_late and ctx.source != "backtest"):
        return None
    known_until = min(came.scan, came.first or came.scan) - _MINUTE
    newest = _newest(ctx, reader, known_until)
    if newest is None:
        return None
    return _newest(ctx, reader, newest - timedelta(minutes=ctx.settings.horizon_minutes) + _MINUTE)


def _newest(ctx: ScanContext, reader: Any, until: datetime) -> datetime | None:
    """The oldest of the symbols' newest candles by `until`; None where one has none in the two days before."""
    rows = reader.rows(_NEWEST, (until - _NEAR, until, list(ctx.symbols)))
    return min(row["newest"] for row in rows) if len(rows) == len(ctx.symbols) else None


def touched(ctx: ScanContext, reader: Any, came: Arrivals) -> pd.DataFrame:
    """The closed outcomes with a candle, from entry search to exit, newer than their label: key and stored exit_time.

    A candle that came while the entry was looked for may be the entry, one before the exit may hold a barrier or be
    the time stop's own.
    """
    if came.first is None or came.last is None or came.since is None:
        return pd.DataFrame(columns=list(_TOUCHED))
    params = (ctx.source, came.last, came.first, came.fetched)
    rows = reader.query(_CANDIDATES, params)
    if len(rows):
        candles = reader.query(_CANDLES, (came.since, came.first, ctx.as_of))
        rows = rows[_newer(rows, candles)]
    return rows[list(_TOUCHED)].reset_index(drop=True)


def _newer(rows: pd.DataFrame, candles: pd.DataFrame) -> Any:
    """For each outcome: did a candle of its span come after it was labelled?"""
    found = np.zeros(len(rows), dtype=bool)
    by_symbol = {symbol: part.sort_values("open_time") for symbol, part in candles.groupby("symbol")}
    labelled = rows["labelled_at"].fillna(pd.Timestamp(_BEGINNING))
    spans = zip(rows["symbol"], rows["as_of"], rows["exit_time"], labelled, strict=True)
    for place, (symbol, start, left, label) in enumerate(spans):
        if symbol in by_symbol:
            times = by_symbol[symbol]["open_time"]
            part = slice(times.searchsorted(start), times.searchsorted(left, side="right"))
            found[place] = bool((by_symbol[symbol]["fetched_at"].iloc[part] > label).any())
    return found
