"""Whole days at once: fill candles and readings of a range, in pieces that are each kept when the next one fails.

The same fetch and the same readings as a live scan; decisions are never made for the past here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.scan.candles import DAY, HISTORY, MINUTE, fetch_range, missing_days
from v7_pipeline.scan.context import ScanContext, ScanError, persist
from v7_pipeline.scan.features import computed, known

__all__ = ["CANDLES_STAGE", "FEATURES_STAGE", "fill_candles", "fill_features"]

CANDLES_STAGE = "candles"
FEATURES_STAGE = "readings"
_PIECE = 7 * DAY
# Readings of three symbols for eight weeks: two of DuckDB's row groups, which are written once instead of twice.
_READINGS_PIECE = 56 * DAY

OnProgress = Callable[[str, int, int], None]


def fill_candles(
    ctx: ScanContext, start: datetime, end: datetime, *, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Fetch the missing days of [start, end) and of the history that its first readings need.

    on_progress(stage, done, total) counts symbol-days. Returns notes; ScanError where every symbol failed.
    """
    pieces = missing_days(ctx, start - HISTORY, end)
    total = sum(map(len, pieces.values()))
    done = 0
    failures: dict[str, str] = {}
    repairs: dict[str, dict[str, int]] = {}
    received: dict[str, dict[str, Any]] = {}
    rows = pages = 0
    lower = (start - HISTORY).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while lower < end:
        upper = lower + _PIECE
        ranges: dict[str, tuple[datetime, datetime]] = {}
        for symbol, days in pieces.items():
            inside = [day for day in days if lower <= day[0] < upper and symbol not in failures]
            if inside:
                ranges[symbol] = (inside[0][0], inside[-1][1])
            done += len(inside)
        if ranges:
            result = fetch_range(ctx, ranges)
            persist(ctx.store, result)
            failures |= result.notes["failures"]
            for symbol, counts in result.notes["repairs"].items():
                kept = repairs.setdefault(symbol, {})
                for what, count in counts.items():
                    kept[what] = kept.get(what, 0) + count
            for symbol, span in result.notes["received"].items():
                received[symbol] = _joined(received.get(symbol), span)
            rows += result.notes["rows"]
            pages += result.notes["pages"]
            if on_progress:
                on_progress(CANDLES_STAGE, done, total)
        lower = upper
    if pieces and len(failures) == len(pieces):
        raise ScanError("no symbol could be fetched: " + "; ".join(failures.values()))
    return {"failures": failures, "repairs": repairs, "received": received, "rows": rows, "pages": pages}


def fill_features(
    ctx: ScanContext, start: datetime, end: datetime, *, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Readings with start ≤ as_of < end from the stored candles, replaced eight weeks at a time.

    Minutes without candles have no reading; where none of a piece has any, its slice is left as it is.
    """
    pieces = _pieces(start, end, _READINGS_PIECE)
    rows, newest = 0, None
    with ThreadPoolExecutor(1) as pool:
        frame: pd.DataFrame | None = None
        for done, (lower, upper) in enumerate([*pieces, (end, end)]):
            # While one piece is computed the one before it is written.
            ahead = None
            if lower < upper:
                given = known(ctx.store, ctx.symbols, lower, upper, source=ctx.learnt_from)
                ahead = pool.submit(computed, given, lower, settings=ctx.settings)
            if frame is not None:
                _replace(ctx, frame, *pieces[done - 1])
                rows += len(frame)
                newest = frame["as_of"].max() if len(frame) else newest
                if on_progress:
                    on_progress(FEATURES_STAGE, done, len(pieces))
            frame = ahead.result() if ahead else None
    return {"rows": rows, "newest": newest, "start": start, "end": end - MINUTE}


def _replace(ctx: ScanContext, frame: pd.DataFrame, start: datetime, end: datetime) -> None:
    if frame.empty:
        return
    with ctx.store.transaction() as tx:
        tx.replace_slice(
            "theory_features", ctx.marked("theory_features", frame), start=start, end=end, symbols=ctx.symbols
        )


def _pieces(start: datetime, end: datetime, length: timedelta) -> list[tuple[datetime, datetime]]:
    count = -(-(end - start) // length)
    return [(start + place * length, min(start + (place + 1) * length, end)) for place in range(count)]


def _joined(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """Two spans of received rows as one."""
    if one is None or not one["rows"]:
        return other
    if not other["rows"]:
        return one
    return {
        "rows": one["rows"] + other["rows"],
        "first": min(one["first"], other["first"]),
        "last": max(one["last"], other["last"]),
    }
