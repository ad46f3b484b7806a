"""gated_signals: what the gates said of each decision, with every reason. A fact, written once."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from typing import Any

import dagster as dg
import pandas as pd

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.metadata import heading, markdown_table, price_plot
from v7_pipeline.scan.context import ScanContext, StepResult
from v7_pipeline.scan.gating import gate
from v7_pipeline.scan.runtime import Runtime

__all__ = ["build_gated_signals"]


def build_gated_signals(partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset on `partitions`."""

    @dg.asset(**asset_arguments("gated_signals", "signals", {"python", "duckdb"}, partitions))
    def gated_signals(
        context: dg.AssetExecutionContext, llm_signals: pd.DataFrame, runtime: dg.ResourceParam[Runtime]
    ) -> StepResult:
        ctx = scan_context(context, runtime)
        result = gate(ctx, llm_signals[llm_signals["as_of"] == ctx.as_of])
        context.add_output_metadata(_story(ctx, llm_signals, result))
        return result

    return gated_signals


def _story(ctx: ScanContext, decisions: pd.DataFrame, result: StepResult) -> dict[str, Any]:
    day = decisions[decisions["as_of"] <= ctx.as_of]
    start = ctx.as_of.replace(hour=0, minute=0)
    with ctx.store.reading() as reader:
        gated = reader.query("SELECT * FROM gated_signals WHERE as_of >= ? AND as_of <= ?", (start, ctx.as_of))
        candles = reader.query(
            "SELECT symbol, open_time, close FROM candles WHERE open_time >= ? AND open_time < ? ORDER BY ALL",
            (start - pd.Timedelta(hours=2), ctx.as_of),
        )
    if result.writes:
        gated = pd.concat([gated, result.frame("gated_signals")]).drop_duplicates("signal_id")
    joined = day.merge(gated[["signal_id", "accepted", "reason_codes", "tier", "quantity", "risk_usd"]], on="signal_id")
    now = joined[joined["as_of"] == ctx.as_of].sort_values("symbol")
    table = markdown_table(
        (
            "symbol",
            "side",
            "confidence",
            "accepted",
            "tier",
            "reasons against",
            "quantity",
            "risk $",
            "reasoning",
        ),
        (
            (
                r["symbol"],
                r["side"],
                r["confidence"],
                bool(r["accepted"]),
                r["tier"],
                r["reason_codes"],
                r["quantity"],
                r["risk_usd"],
                r["reasoning"],
            )
            for r in now.to_dict("records")
        ),
    )
    plain = day["side"].value_counts().to_dict()
    return {
        "signals": dg.MetadataValue.md(heading(f"Signals at {ctx.as_of:%Y-%m-%d %H:%M}Z", demo=ctx.is_demo) + table),
        "price_plot": dg.MetadataValue.md(price_plot(candles, joined, demo=ctx.is_demo)),
        "accepted_now": int(now["accepted"].sum()),
        "accepted_today": int(joined["accepted"].sum()),
        "decisions_today": dg.MetadataValue.json({str(side): int(count) for side, count in plain.items()}),
        "account": dg.MetadataValue.json(result.notes["account"]),
    }
