"""Step 7: attribution of closed outcomes to theories, recomputed only when a trade has closed since the last time.

The statistics are learning/'s; this step gathers what was closed before the scan's instant and ends the scan.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from v7_pipeline.learning.attribution import attribution
from v7_pipeline.scan.context import ScanContext, StepResult, Write

__all__ = ["attribute"]

_PERFORMANCE = """
SELECT p.*, o.side, o.entry_time, o.exit_time, o.gross_return, o.fees
FROM theory_performance p JOIN outcomes o USING (signal_id, kind)
WHERE o.source = ? AND o.exit_time + INTERVAL 1 MINUTE <= ? ORDER BY p.as_of, p.signal_id, p.theory_name
"""
_NEWEST_CLOSED = """
SELECT max(exit_time) AS newest, count(*) AS n FROM outcomes WHERE source = ? AND exit_time + INTERVAL 1 MINUTE <= ?
"""
_LAST = "SELECT max(as_of) AS last FROM theory_attribution WHERE source = ? AND as_of <= ?"


def attribute(ctx: ScanContext) -> StepResult:
    """New attribution rows where there is news, and the scan's row marked finished."""
    with ctx.store.reading() as reader:
        last = reader.query(_LAST, (ctx.source, ctx.as_of))["last"].iloc[0]
        newest = reader.query(_NEWEST_CLOSED, (ctx.source, ctx.as_of)).iloc[0]
        closed_any = not pd.isna(newest["newest"])
        news = closed_any and (pd.isna(last) or newest["newest"] + pd.Timedelta(minutes=1) > last)
        if news:
            performance = reader.query(_PERFORMANCE, (ctx.source, ctx.as_of))
            table = pd.DataFrame()
        else:
            table = reader.query("SELECT * FROM theory_attribution WHERE as_of = ?", (None if pd.isna(last) else last,))
        scan_row = _finished(ctx, reader)
    writes: list[Write] = []
    if news and len(performance):
        table = attribution(performance, as_of=ctx.as_of, min_effective_n=ctx.settings.min_effective_n)
        writes.append(Write("theory_attribution", ctx.marked("theory_attribution", table), "upsert"))
    if scan_row is not None:
        writes.append(Write("scans", scan_row, "upsert"))
    as_of: Any = None if table.empty else table["as_of"].iloc[0]
    return StepResult(tuple(writes), {"newest": table, "as_of": as_of, "closed": int(newest["n"])})


def _finished(ctx: ScanContext, reader: Any) -> pd.DataFrame | None:
    """The scan's row with its counts, or None where it was finished before: a scan done twice changes nothing."""
    row = reader.query("SELECT * FROM scans WHERE as_of = ?", (ctx.as_of,))
    if row.empty or row["status"].iloc[0] == "finished":
        return None
    counts = reader.query(
        "SELECT count(*) AS signals, count(*) FILTER (g.accepted) AS accepted, "
        "(SELECT count(*) FROM candles WHERE run_id = ? AND open_time > ?::TIMESTAMPTZ - INTERVAL 3 DAY) AS candles, "
        "(SELECT count(*) FROM outcomes WHERE run_id = ? AND outcome <> 'open') AS closed, "
        "(SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) FROM llm_calls c WHERE c.as_of = ?) AS cost "
        "FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) WHERE s.as_of = ?",
        (ctx.run_id, ctx.as_of, ctx.run_id, ctx.as_of, ctx.as_of),
    ).iloc[0]
    return row.assign(
        finished_at=pd.Timestamp(ctx.clock()),
        status="finished",
        candles_written=int(counts["candles"]),
        signals=int(counts["signals"]),
        accepted=int(counts["accepted"]),
        closed=int(counts["closed"]),
        cost_usd=float(counts["cost"]),
    )
