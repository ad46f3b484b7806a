"""llm_signals: one decision for each scan and symbol, or the reason why there is none. A fact, written once."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import json
from typing import Any

import dagster as dg

from v7_pipeline.analyst.costs import Costs, costs
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
    with ctx.store.reading() as reader:
        rows = reader.query("SELECT * FROM llm_signals WHERE as_of = ? ORDER BY symbol", (ctx.as_of,))
        spent = costs(
            reader,
            ctx.wall_clock(),
            day_budget_usd=ctx.settings.daily_budget_usd,
            month_budget_usd=ctx.settings.monthly_budget_usd,
        )
    if result.writes:
        import pandas as pd

        rows = pd.concat([rows, result.frame("llm_signals")]).drop_duplicates("signal_id")
        rows = rows.sort_values(["strategy", "symbol"], ascending=[False, True])
    several = bool((rows["strategy"] != "v7").any())
    table = markdown_table(
        ("symbol", "status", "side", "confidence", "entry", "stop", "target", "not in the prompt"),
        (
            (
                f"{row['symbol']} ({row['strategy']})" if several else row["symbol"],
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
    decided = ctx.settings.strategies_decided
    who = [ctx.analyst.name if name == "v7" else name for name in decided]
    title = f"Decisions at {ctx.as_of:%Y-%m-%d %H:%M}Z by {', '.join(who)}"
    return {
        "decisions": dg.MetadataValue.md(heading(title, demo=ctx.is_demo) + table),
        **reasons(rows),
        "as_of": dg.MetadataValue.timestamp(ctx.as_of),
        "cost_usd": float(result.notes["cost_usd"]),
        "spent_today_usd": float(result.notes["spent_today_usd"]),
        "context_faults": dg.MetadataValue.json(result.notes["context_faults"]),
        "costs": dg.MetadataValue.md(heading("What the calls cost", demo=ctx.is_demo) + costs_table(spent)),
        "month_usd": spent.month_usd,
        **{name: float(value) for name, value in _ratios(spent).items() if value is not None},
        "already_decided": len(result.notes["kept"]),
        "differences": dg.MetadataValue.json(result.notes["differences"]),
    }


def costs_table(spent: Costs) -> str:
    """A markdown table of the ledger's figures: each with the n that it rests on; a dash where there is none."""
    told = spent.forecast
    forecast = (
        f"{told.expected_usd:.2f} (95 % in {told.lower_usd:.2f} … {told.upper_usd:.2f})" if told is not None else None
    )
    rows = (
        ("today (UTC)", f"{spent.day_usd:.4f} of {spent.day_budget_usd:g}", None),
        ("month", f"{spent.month_usd:.4f} of {spent.month_budget_usd:g}", f"{spent.calls} calls"),
        ("month, forecast", forecast, None if told is None else f"{told.n_days} days"),
        ("held for calls under way", f"{spent.open_usd:.4f}", f"{spent.open_calls} calls"),
        ("held for calls of unknown end", f"{spent.unknown_usd:.4f}", f"{spent.unknown_calls} calls"),
        ("a call", text_of(spent.per_call_usd, 4), f"{spent.calls} calls"),
        ("an answered decision", text_of(spent.per_signal_usd, 4), f"{spent.answered} decisions"),
        ("an accepted signal", text_of(spent.per_accepted_usd, 4), f"{spent.accepted} signals"),
    )
    return markdown_table(("what", "USD", "n"), rows)


def _ratios(spent: Costs) -> dict[str, float | None]:
    return {
        "forecast_month_usd": spent.forecast.expected_usd if spent.forecast else None,
        "cache_hit_share": spent.cache_share,
        "cost_per_accepted_usd": spent.per_accepted_usd,
    }


def _ungrounded(listed: Any) -> str | None:
    """Numbers of a reasoning that its prompt does not hold; "none" where they were checked and all are there."""
    return (", ".join(json.loads(listed)) or "none") if isinstance(listed, str) else None
