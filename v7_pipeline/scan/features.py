"""Step 2: every theory's reading of the minutes that need one, from stored candles only.

The live scan and the backfill call the same function over different minutes; the mathematics is in theories/.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from v7_pipeline.scan.candles import HISTORY
from v7_pipeline.scan.context import ScanContext, StepResult, Write
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store
from v7_pipeline.theories import compute_features

__all__ = ["Known", "computed", "known", "new_readings", "readings"]

MINUTE = timedelta(minutes=1)
_NEWEST = "SELECT symbol, max(as_of) AS newest FROM theory_features WHERE as_of <= ? AND as_of > ? GROUP BY symbol"
_ARRIVED = """
SELECT min(open_time) AS first FROM candles WHERE open_time < ? AND open_time >= ?
AND fetched_at > (SELECT max(finished_at) FROM scans WHERE status = 'finished' AND as_of < ?)
"""
# A scan of the past may find readings that a backfill made before that day's trades were followed: its win rate is of
# another state of knowledge than the posterior that was known at its instant.
_UNTAUGHT = """
SELECT min(f.as_of) AS first FROM theory_features f ASOF LEFT JOIN
  (SELECT as_of + INTERVAL 1 MINUTE AS known, n, mean FROM win_rates WHERE scope = 'all' AND source = ?) w
  ON f.as_of >= w.known
WHERE f.as_of <= ? AND f.as_of > ? AND f.win_rate_n IS NOT NULL
  AND (f.win_rate_n <> coalesce(w.n, 0) OR (w.n > 0 AND f.win_rate IS DISTINCT FROM w.mean))
"""
# A scan that finds nothing stored computes this much; older minutes are the backfill's.
FIRST_SPAN = timedelta(hours=4)


def new_readings(ctx: ScanContext) -> StepResult:
    """Readings since the newest stored one, and again of those whose candles or posterior may have been others."""
    floor = ctx.as_of - FIRST_SPAN
    with ctx.store.reading() as reader:
        newest = {row["symbol"]: row["newest"] for row in reader.rows(_NEWEST, (ctx.as_of, floor))}
        # A posterior of an earlier minute may have become known since: of a late scan, or of a trade closed by a candle
        # that came late.
        again = [reader.rows(_UNTAUGHT, (ctx.learnt_from, ctx.as_of, floor))[0]["first"]]
        if not ctx.is_late:
            # A reading depends on the candles up to its minute: one that came or changed since the last finished scan
            # reaches exactly the readings from its own end on.
            arrived = reader.rows(_ARRIVED, (ctx.as_of, floor, ctx.as_of))[0]["first"]
            again.append(None if arrived is None else arrived + MINUTE)
    since = min(newest.get(symbol, floor) for symbol in ctx.symbols) + MINUTE
    since = min([since, *(first for first in again if first is not None)])
    if since > ctx.as_of:
        return StepResult(notes={"rows": 0})
    frame = readings(ctx.store, ctx.symbols, since, ctx.as_of + MINUTE, settings=ctx.settings, source=ctx.learnt_from)
    return _result(ctx, frame)


def readings(
    store: Store, symbols: tuple[str, ...], start: datetime, end: datetime, *, settings: Settings, source: str
) -> pd.DataFrame:
    """theory_features rows with start ≤ as_of < end (without provenance), from candles known by then.

    `source` says whose outcomes the Bayesian win rate learnt from.
    """
    return computed(known(store, symbols, start, end, source=source), start, settings=settings)


@dataclass(frozen=True)
class Known:
    """All that readings are made of: candles, and the posteriors of the win rate."""

    candles: pd.DataFrame
    win_rates: pd.DataFrame


def known(store: Store, symbols: tuple[str, ...], start: datetime, end: datetime, *, source: str) -> Known:
    """What the store knows for the readings with start ≤ as_of < end, the history that they need included."""
    with store.reading() as reader:
        candles = reader.read(
            "candles",
            start=start - MINUTE - HISTORY,
            end=end - MINUTE,
            symbols=symbols,
            columns=("symbol", "open_time", "open", "high", "low", "close", "volume"),
        )
        win_rates = reader.query(
            "SELECT as_of, scope, alpha, beta, mean, lower, upper, n FROM win_rates "
            "WHERE source = ? AND as_of < ? ORDER BY as_of, scope",
            (source, end),
        )
    return Known(candles, win_rates)


def computed(given: Known, start: datetime, *, settings: Settings) -> pd.DataFrame:
    """The readings from `start` on; touches no store, so another piece may be written meanwhile."""
    # A reading at t may use posteriors of scans before t only: the scan at t writes its own after its readings.
    win_rates = given.win_rates.assign(as_of=given.win_rates["as_of"] + MINUTE)
    return compute_features(
        given.candles,
        gap_minutes=settings.gap_minutes,
        win_rates=win_rates,
        since=start,
        min_observed_share=settings.min_observed_share,
    )


def _result(ctx: ScanContext, frame: pd.DataFrame) -> StepResult:
    if frame.empty:
        return StepResult(notes={"rows": 0})
    write = Write("theory_features", ctx.marked("theory_features", frame), "upsert")
    return StepResult((write,), {"rows": len(frame), "newest": frame["as_of"].max()})
