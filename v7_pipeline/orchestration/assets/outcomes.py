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

__all__ = ["build_outcomes"]

# What HOLD left out was nobody's trade.
_BEFORE = f"""
SELECT {", ".join(f"o.{name}" for name in EQUITY_COLUMNS)} FROM outcomes o JOIN gated_signals g USING (signal_id)
ANTI JOIN (SELECT unnest(?::VARCHAR[]) AS signal_id, unnest(?::VARCHAR[]) AS kind) n USING (signal_id, kind)
WHERE o.source = ? AND o.outcome <> 'open' AND o.exit_time + INTERVAL 1 MINUTE <= ? AND g.side <> 'HOLD'
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
    closed = result.notes["closed_rows"]
    table = markdown_table(
        ("signal", "kind", "outcome", "exit", "net return", "R", "P&L $"),
        (
            (
                r["signal_id"],
                r["kind"],
                r["outcome"],
                r["exit_reason"],
                r["net_return"],
                r["r_multiple"],
                r["pnl_usd"],
            )
            for r in closed.to_dict("records")
        ),
    )
    return {
        **_learnt(ctx, result),
        **_equity(ctx, closed),
        "closed_now": dg.MetadataValue.md(
            heading(f"Closed at {ctx.as_of:%Y-%m-%d %H:%M}Z, net of {ctx.settings.fees} fees", demo=ctx.is_demo) + table
        ),
        "followed": int(result.notes["followed"]),
        "closed": len(closed),
        "holds_closed": int(result.notes["holds_closed"]),
        "relabelled": int(result.notes["relabelled"]),
    }


def _equity(ctx: ScanContext, closed: pd.DataFrame) -> dict[str, Any]:
    """What everything closed so far came to, where this scan closed something."""
    if closed.empty:
        return {}
    keys = (closed["signal_id"].tolist(), closed["kind"].tolist())
    before = ctx.store.query(_BEFORE, (*keys, ctx.source, ctx.as_of))
    known = pd.concat([part for part in (before, closed[list(EQUITY_COLUMNS)]) if len(part)], ignore_index=True)
    chart = equity_png(known, title=f"Closed by {ctx.as_of:%Y-%m-%d %H:%M}Z, net of fees", demo=ctx.is_demo)
    return {"equity": dg.MetadataValue.md(in_markdown(chart, "what closed trades came to"))}


def _learnt(ctx: ScanContext, result: StepResult) -> dict[str, Any]:
    """Win rates and calibration where this scan wrote them."""
    told: dict[str, Any] = {}
    written = {write.table for write in result.writes}
    if "win_rates" in written:
        told["win_rates"] = dg.MetadataValue.md(win_rates_markdown(result.frame("win_rates"), demo=ctx.is_demo))
    if "confidence_thresholds" in written:
        told["confidence_threshold"] = result.frame("confidence_thresholds")["reason"].iloc[0]
    if "calibrations" in written:
        rows = result.frame("calibrations")
        whole = rows[rows["scope"] == "all"].iloc[0].to_dict()
        told["calibration"] = dg.MetadataValue.md(calibration_markdown(whole, demo=ctx.is_demo))
    return told
