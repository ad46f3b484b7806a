"""Step 7: attribution of closed outcomes to theories, recomputed only when a trade has closed since the last time.

The statistics are learning/'s; this step gathers what was closed before the scan's instant and ends the scan.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from v7_pipeline.learning.attribution import attribution
from v7_pipeline.scan.context import ScanContext, StepResult, Write

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["attribute"]

_PERFORMANCE = """
SELECT p.*, o.side, o.entry_time, o.exit_time, o.gross_return, o.fees
FROM theory_performance p JOIN outcomes o USING (signal_id, kind)
WHERE o.source = ? AND o.exit_time + INTERVAL 1 MINUTE <= ? ORDER BY p.as_of, p.signal_id, p.theory_name
"""
_NEWEST_CLOSED = """
SELECT max(exit_time) AS newest, count(*) AS n FROM outcomes WHERE source = ? AND exit_time + INTERVAL 1 MINUTE <= ?
"""
_COUNTS = """
SELECT count(*) AS signals, count(*) FILTER (g.accepted) AS accepted,
       (SELECT count(*) FROM candles
        WHERE run_id = ? AND open_time > ?::TIMESTAMPTZ - INTERVAL 3 DAY) AS candles_written,
       (SELECT count(*) FROM outcomes WHERE run_id = ? AND outcome <> 'open') AS closed,
       (SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) FROM llm_calls c WHERE c.as_of = ?) AS cost_usd
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) WHERE s.as_of = ?
"""
_LAST = "SELECT max(as_of) AS last FROM theory_attribution WHERE source = ? AND as_of <= ?"


def attribute(ctx: ScanContext) -> StepResult:
    """New attribution rows where there is news, and the scan's row marked finished."""
    with ctx.store.reading() as reader:
        last = reader.rows(_LAST, (ctx.source, ctx.as_of))[0]["last"]
        newest = reader.rows(_NEWEST_CLOSED, (ctx.source, ctx.as_of))[0]
        news = newest["newest"] is not None and (last is None or newest["newest"] + timedelta(minutes=1) > last)
        performance = reader.query(_PERFORMANCE, (ctx.source, ctx.as_of)) if news else pd.DataFrame()
        scan_row = _finished(ctx, reader)
    table = pd.DataFrame()
    writes: list[Write] = []
    if len(performance):
        table = attribution(performance, as_of=ctx.as_of, min_effective_n=ctx.settings.min_effective_n)
        writes.append(Write("theory_attribution", ctx.marked("theory_attribution", table), "upsert"))
    if scan_row is not None:
        writes.append(Write("scans", scan_row, "upsert"))
    as_of = ctx.as_of if len(table) else last
    return StepResult(tuple(writes), {"as_of": as_of, "closed": int(newest["n"])})


def _finished(ctx: ScanContext, reader: Any) -> pa.Table | None:
    """The scan's row with its counts, or None where it was finished before: a scan done twice changes nothing."""
    found = reader.rows("SELECT * EXCLUDE (source, run_id, code_version) FROM scans WHERE as_of = ?", (ctx.as_of,))
    if not found or found[0]["status"] == "finished":
        return None
    counts = reader.rows(_COUNTS, (ctx.run_id, ctx.as_of, ctx.run_id, ctx.as_of, ctx.as_of))[0]
    row = {**found[0], **counts, "finished_at": ctx.clock(), "status": "finished"}
    return ctx.marked_rows("scans", [row])
