"""Step 2: every theory's reading of the minutes that need one, from stored candles only.

The live scan and the backfill call the same function over different minutes; the mathematics is in theories/.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.market.grid import dense_grid
from v7_pipeline.scan.candles import HISTORY
from v7_pipeline.scan.context import ScanContext, StepResult, Write
from v7_pipeline.store import Store
from v7_pipeline.theories import compute_features

__all__ = ["new_readings", "readings"]

MINUTE = timedelta(minutes=1)
_NEWEST = "SELECT symbol, max(as_of) AS newest FROM theory_features WHERE as_of <= ? AND as_of > ? GROUP BY symbol"
_ARRIVED = """
SELECT min(open_time) AS first FROM candles WHERE open_time < ? AND open_time >= ?
AND fetched_at > (SELECT max(finished_at) FROM scans WHERE status = 'finished' AND as_of < ?)
"""
# A scan that finds nothing stored computes this much; older minutes are the backfill's.
FIRST_SPAN = timedelta(hours=4)


def new_readings(ctx: ScanContext) -> StepResult:
    """Readings since the newest stored one, and again of those whose candles may have been revised."""
    floor = ctx.as_of - FIRST_SPAN
    with ctx.store.reading() as reader:
        newest = {row["symbol"]: row["newest"] for row in reader.rows(_NEWEST, (ctx.as_of, floor))}
        arrived = None if ctx.is_late else reader.rows(_ARRIVED, (ctx.as_of, floor, ctx.as_of))[0]["first"]
    since = min(newest.get(symbol, floor) for symbol in ctx.symbols) + MINUTE
    if arrived is not None:
        # A reading depends on the candles up to its minute: one that came or changed since the last finished scan
        # reaches exactly the readings from its own end on.
        since = min(since, arrived + MINUTE)
    if since > ctx.as_of:
        return StepResult(notes={"rows": 0})
    frame = readings(ctx.store, ctx.symbols, since, ctx.as_of + MINUTE, settings=ctx.settings)
    return _result(ctx, frame)


def readings(store: Store, symbols: tuple[str, ...], start: datetime, end: datetime, *, settings: Any) -> pd.DataFrame:
    """theory_features rows with start ≤ as_of < end (without provenance), from candles known by then."""
    first_candle = start - MINUTE - HISTORY
    with store.reading() as reader:
        candles = reader.read(
            "candles",
            start=first_candle,
            end=end - MINUTE,
            symbols=symbols,
            columns=("symbol", "open_time", "open", "high", "low", "close", "volume"),
        )
        win_rates = reader.query(
            "SELECT as_of, scope, alpha, beta, mean, lower, upper, n FROM win_rates "
            "WHERE source = ? AND as_of < ? ORDER BY as_of, scope",
            (settings.source, end),
        )
    grids = [
        dense_grid(rows, gap_minutes=settings.gap_minutes).assign(symbol=symbol)
        for symbol, rows in candles.groupby("symbol", sort=True)
    ]
    if not grids:
        return pd.DataFrame()
    # A reading at t may use posteriors of scans before t only: the scan at t writes its own after its readings.
    win_rates = win_rates.assign(as_of=win_rates["as_of"] + MINUTE)
    return compute_features(
        pd.concat(grids, ignore_index=True),
        win_rates=win_rates,
        since=start,
        min_observed_share=settings.min_observed_share,
    )


def _result(ctx: ScanContext, frame: pd.DataFrame) -> StepResult:
    if frame.empty:
        return StepResult(notes={"rows": 0})
    write = Write("theory_features", ctx.marked("theory_features", frame), "upsert")
    return StepResult((write,), {"rows": len(frame), "newest": frame["as_of"].max()})
