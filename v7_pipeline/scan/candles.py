"""Step 1: fetch what is missing up to the scan's instant, or a whole range for a backfill.

What a candle must look like is market/clean.py's business; what is done with it is the later steps'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.scan.context import ScanContext, ScanError, StepResult, Write
from v7_pipeline.strategies.walk_forward import candles_for_model

__all__ = ["HISTORY", "fetch_new", "fetch_range", "missing_days"]

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
# Two of the longest windows (scale and window) and the filters' bar: what the newest reading needs behind it.
HISTORY = timedelta(minutes=2 * 1440 + 8)

_NEWEST = "SELECT symbol, max(open_time) AS newest FROM candles WHERE open_time < ? AND open_time >= ? GROUP BY symbol"

OnPage = Callable[[str, int, int], None]


def fetch_new(ctx: ScanContext) -> StepResult:
    """Candles from the newest known (less the minutes that may still be revised) up to `as_of`."""
    newest = _newest_known(ctx)
    oldest_needed = _oldest_needed(ctx)
    refetch = timedelta(minutes=ctx.settings.refetch_minutes)
    ranges = {
        symbol: (
            max(newest[symbol] + MINUTE - refetch, oldest_needed) if symbol in newest else oldest_needed,
            ctx.as_of,
        )
        for symbol in ctx.symbols
    }
    if ctx.is_late:
        # Long-closed minutes are no longer revised: what the store holds up to the instant is not asked again.
        ranges = {symbol: span for symbol, span in ranges.items() if newest.get(symbol) != ctx.as_of - MINUTE}
    result = _result(ctx, ctx.market.candles_of(ranges, now=ctx.as_of) if ranges else {})
    return replace(result, writes=(_scan_row(ctx, result.notes["failures"]), *result.writes))


def _oldest_needed(ctx: ScanContext) -> datetime:
    """From when on candles are fetched where the store has none: what the newest reading needs.

    A backtest reads them from a store, so there v6's days come as well; a live scan would ask the market for a month.
    """
    oldest = ctx.as_of - HISTORY - timedelta(minutes=ctx.settings.refetch_minutes)
    if ctx.source != "backtest" or "v6" not in ctx.settings.strategies_decided:
        return oldest
    return min(oldest, candles_for_model(ctx.as_of.date(), ctx.settings.gap_minutes))


def fetch_range(
    ctx: ScanContext, ranges: Mapping[str, tuple[datetime, datetime]], *, on_page: OnPage | None = None
) -> StepResult:
    """Candles of the given ranges, closed at the wall clock; a failing symbol does not stop the others."""
    answers = ctx.market.candles_of(dict(ranges), now=ctx.wall_clock(), on_page=on_page)
    return _result(ctx, answers)


def missing_days(ctx: ScanContext, start: datetime, end: datetime) -> dict[str, list[tuple[datetime, datetime]]]:
    """For each symbol the day-aligned pieces of [start, end) of which the store does not hold every minute."""
    held = ctx.store.query(
        "SELECT symbol, date_trunc('day', open_time) AS day, count(*) AS n FROM candles "
        "WHERE open_time >= ? AND open_time < ? GROUP BY ALL",
        (start, end),
    )
    counts = {(row.symbol, row.day.to_pydatetime()): int(row.n) for row in held.itertuples()}
    pieces: dict[str, list[tuple[datetime, datetime]]] = {symbol: [] for symbol in ctx.symbols}
    day = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while day < end:
        lower, upper = max(day, start), min(day + DAY, end)
        for symbol in ctx.symbols:
            if counts.get((symbol, day), 0) < (upper - lower) // MINUTE:
                pieces[symbol].append((lower, upper))
        day += DAY
    return pieces


def _newest_known(ctx: ScanContext) -> dict[str, datetime]:
    """Newest stored open_time before `as_of`, by symbol: a scan of the past must not see what came after it."""
    with ctx.store.reading() as reader:
        _refuse_a_clock_set_back(ctx, reader)
        rows = reader.rows(_NEWEST, (ctx.as_of, ctx.as_of - 2 * HISTORY))
    return {row["symbol"]: row["newest"] for row in rows}


def _refuse_a_clock_set_back(ctx: ScanContext, reader: Any) -> None:
    """ScanError where the store holds candles that by our clock are not over yet: only closed ones were ever stored.

    Such a scan would decide on an hour that has passed, as if it were now.
    """
    if ctx.source == "backtest":
        return
    now = ctx.wall_clock()
    newest = reader.rows("SELECT max(open_time) AS at FROM candles WHERE open_time >= ?", (now,))[0]["at"]
    if newest is not None:
        raise ScanError(
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, but the store holds candles up to {newest:%Y-%m-%d %H:%M}: "
            "the clock is slow or was set back; set it right (`timedatectl` shows it), and scans go on by themselves"
        )


def _result(ctx: ScanContext, answers: Mapping[str, Any]) -> StepResult:
    failures = {symbol: str(answer) for symbol, answer in answers.items() if isinstance(answer, Exception)}
    if answers and len(failures) == len(answers):
        raise ScanError("no symbol could be fetched: " + "; ".join(failures.values()))
    fetched = {symbol: answer for symbol, answer in answers.items() if symbol not in failures}
    frames = [answer.frame for answer in fetched.values() if len(answer.frame)]
    repairs = {symbol: dict(answer.repairs) for symbol, answer in fetched.items() if answer.repairs}
    notes: dict[str, Any] = {
        "failures": failures,
        "repairs": repairs,
        "received": {symbol: _span(answer.frame) for symbol, answer in fetched.items()},
        "pages": sum(answer.pages for answer in fetched.values()),
        "rows": sum(map(len, frames)),
    }
    if not frames:
        return StepResult(notes=notes)
    # A backtest fetches nothing: there the whole scan stands in the replayed time.
    fetched_at = pd.Timestamp(ctx.clock() if ctx.source == "backtest" else ctx.wall_clock())
    frame = pd.concat(frames, ignore_index=True).assign(venue=ctx.market.venue, fetched_at=fetched_at)
    return StepResult((Write("candles", ctx.marked("candles", frame), "upsert"),), notes)


def _span(frame: pd.DataFrame) -> dict[str, Any]:
    """How many rows came, and from when to when."""
    times = frame["open_time"]
    return {
        "rows": len(frame),
        "first": times.min() if len(frame) else None,
        "last": times.max() if len(frame) else None,
    }


def _scan_row(ctx: ScanContext, failures: Mapping[str, str]) -> Write:
    """The scan's own row, written once when it begins; finishing fills the rest."""
    row = {
        "as_of": ctx.as_of,
        "started_at": ctx.clock(),
        "finished_at": None,
        "symbols": ",".join(ctx.symbols),
        "status": "started",
        "failures": json.dumps(dict(failures), sort_keys=True),
        "candles_written": None,
        "signals": None,
        "accepted": None,
        "closed": None,
        "cost_usd": None,
    }
    return Write("scans", ctx.marked_rows("scans", [row]), "new")
