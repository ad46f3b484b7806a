"""llm_signals: one decision for each scan and symbol, or the reason why there is none. A fact, written once."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import json
from typing import Any

import dagster as dg

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.metadata import heading, markdown_table, reasons, text_of
from v7_pipeline.scan.context import ScanContext, StepResult
from v7_pipeline.scan.decide import decide
from v7_pipeline.scan.runtime import Runtime

__all__ = ["build_llm_signals"]


def build_llm_signals(partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset on `partitions`."""

    @dg.asset(
        **asset_arguments("llm_signals", "signals", {"python", "duckdb", "openai"}, partitions),
        deps=["theory_features"],
    )
    def llm_signals(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> StepResult:
        ctx = scan_context(context, runtime)
        result = decide(ctx)
        context.add_output_metadata(_story(ctx, result))
        return result

    return llm_signals


def _story(ctx: ScanContext, result: StepResult) -> dict[str, Any]:
    rows = ctx.store.query("SELECT * FROM llm_signals WHERE as_of = ? ORDER BY symbol", (ctx.as_of,))
    if result.writes:
        import pandas as pd

        rows = pd.concat([rows, result.frame("llm_signals")]).drop_duplicates("signal_id").sort_values("symbol")
    table = markdown_table(
        ("symbol", "status", "side", "confidence", "entry", "stop", "target", "not in the prompt"),
        (
            (
                row["symbol"],
                row["status"] if row["status"] == "answered" else f"{row['status']}: {row['status_reason']}",
                row["side"],
                text_of(row["confidence"], 3),
                row["entry_price"],
                row["stop_price"],
                row["target_price"],
                _ungrounded(row["ungrounded_numbers"]),
            )
            for row in rows.to_dict("records")
        ),
    )
    title = f"Decisions at {ctx.as_of:%Y-%m-%d %H:%M}Z by {ctx.analyst.name}"
    return {
        "decisions": dg.MetadataValue.md(heading(title, demo=ctx.is_demo) + table),
        **reasons(rows),
        "as_of": dg.MetadataValue.timestamp(ctx.as_of),
        "cost_usd": float(result.notes["cost_usd"]),
        "spent_today_usd": float(result.notes["spent_today_usd"]),
        "already_decided": len(result.notes["kept"]),
        "differences": dg.MetadataValue.json(result.notes["differences"]),
    }


def _ungrounded(listed: Any) -> str | None:
    """Numbers of a reasoning that its prompt does not hold; "none" where they were checked and all are there."""
    return (", ".join(json.loads(listed)) or "none") if isinstance(listed, str) else None
