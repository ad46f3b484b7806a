"""outcomes: what became of each signal; win rates and theory_performance are written in the same transaction."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from typing import Any

import dagster as dg
import pandas as pd

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.charts import EQUITY_COLUMNS, equity_png, in_markdown
from v7_pipeline.orchestration.learnt import calibration_markdown, win_rates_markdown
from v7_pipeline.orchestration.metadata import heading, markdown_table
from v7_pipeline.scan.context import ScanContext, StepResult
from v7_pipeline.scan.follow import follow_signals
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.frames import from_arrow

__all__ = ["build_outcomes"]

# What HOLD left out was nobody's trade.
_STORED = f"""
SELECT o.signal_id, o.outcome, {", ".join(f"o.{name}" for name in EQUITY_COLUMNS)}
FROM outcomes o JOIN gated_signals g USING (signal_id)
WHERE o.source = ? AND o.outcome <> 'open' AND o.exit_time + INTERVAL 1 MINUTE <= ? AND g.side <> 'HOLD'
"""
_TRADED = "SELECT signal_id FROM gated_signals WHERE side <> 'HOLD' AND signal_id IN (SELECT unnest(?::VARCHAR[]))"
# The command stores a trade by hand when it is recorded; the first scan from then on tells of it.
_SHOWN = ("signal_id", "kind", "outcome", "exit_reason", "net_return", "r_multiple", "pnl_usd")
_BY_HAND = f"""
SELECT {", ".join(_SHOWN)} FROM outcomes
WHERE kind = 'manual' AND source = ? AND outcome <> 'open' AND signal_id IN (
  SELECT signal_id FROM manual_trades WHERE source = ? AND recorded_at <= ? AND recorded_at >
    (SELECT coalesce(max(as_of), '1970-01-01'::TIMESTAMPTZ) FROM scans
     WHERE source = ? AND status = 'finished' AND as_of < ?))
ORDER BY exit_time, signal_id
"""


def build_outcomes(partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset on `partitions`."""

    @dg.asset(
        **asset_arguments("outcomes", "learning", {"python", "duckdb"}, partitions),
        deps=["gated_signals", "candles"],
    )
    def outcomes(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> StepResult:
        ctx = scan_context(context, runtime)
        result = follow_signals(ctx)
        context.add_output_metadata(_story(ctx, result))
        return result

    return outcomes


def _story(ctx: ScanContext, result: StepResult) -> dict[str, Any]:
    """What closed and what that taught; tables and pictures of everything so far only where something changed it."""
    by_hand = ctx.store.query(_BY_HAND, (ctx.source, ctx.source, ctx.as_of, ctx.source, ctx.as_of))
    parts = [part[list(_SHOWN)] for part in (result.notes["closed_rows"], by_hand) if len(part)]
    closed = pd.concat(parts, ignore_index=True) if parts else by_hand
    table = markdown_table(
        ("signal", "kind", "outcome", "exit", "net return", "R", "P&L $"), closed.itertuples(index=False, name=None)
    )
    changed = len(by_hand) or any(write.table == "win_rates" for write in result.writes)
    return {
        **_learnt(ctx, result),
        **(_equity(ctx, result) if changed else {}),
        "closed_now": dg.MetadataValue.md(
            heading(f"Closed at {ctx.as_of:%Y-%m-%d %H:%M}Z, net of {ctx.settings.fees} fees", demo=ctx.is_demo) + table
        ),
        "followed": int(result.notes["followed"]),
        "closed": len(closed),
        "holds_closed": int(result.notes["holds_closed"]),
        "relabelled": int(result.notes["relabelled"]),
    }


def _equity(ctx: ScanContext, result: StepResult) -> dict[str, Any]:
    """What everything closed so far came to: as stored, and as this scan writes it (also anew, or open again)."""
    known = ctx.store.query(_STORED, (ctx.source, ctx.as_of))
    frames = [write.frame for write in result.writes if write.table == "outcomes" and write.how != "remove"]
    for frame in frames:
        rows = frame if isinstance(frame, pd.DataFrame) else from_arrow(frame)
        traded = ctx.store.query(_TRADED, (rows["signal_id"].unique().tolist(),))
        rows = rows[rows["signal_id"].isin(traded["signal_id"])]
        known = known[~_keys(known).isin(_keys(rows))]
        parts = [part for part in (known, rows.loc[rows["outcome"] != "open", list(known.columns)]) if len(part)]
        known = pd.concat(parts, ignore_index=True) if parts else known
    if known.empty:
        return {}
    chart = equity_png(known, title=f"Closed by {ctx.as_of:%Y-%m-%d %H:%M}Z, net of fees", demo=ctx.is_demo)
    return {"equity": dg.MetadataValue.md(in_markdown(chart, "what closed trades came to"))}


def _keys(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[["signal_id", "kind"]])


def _learnt(ctx: ScanContext, result: StepResult) -> dict[str, Any]:
    """Win rates and calibration where this scan wrote them."""
    told: dict[str, Any] = {}
    written = {write.table for write in result.writes if write.how != "remove"}
    if "win_rates" in written:
        told["win_rates"] = dg.MetadataValue.md(win_rates_markdown(result.frame("win_rates"), demo=ctx.is_demo))
    if "confidence_thresholds" in written:
        told["confidence_threshold"] = result.frame("confidence_thresholds")["reason"].iloc[0]
    if "calibrations" in written:
        rows = result.frame("calibrations")
        whole = rows[rows["scope"] == "all"].iloc[0].to_dict()
        told["calibration"] = dg.MetadataValue.md(calibration_markdown(whole, demo=ctx.is_demo))
    return told
