"""gated_signals: what the gates said of each decision, with every reason. A fact, written once."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from typing import Any

import dagster as dg
import pandas as pd

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.metadata import heading, markdown_table, price_plot, reasons, text_of
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
    since = ctx.as_of - pd.Timedelta(days=1)
    with ctx.store.reading() as reader:
        gated = reader.query("SELECT * FROM gated_signals WHERE as_of > ? AND as_of <= ?", (since, ctx.as_of))
        candles = reader.query(
            "SELECT symbol, open_time, close FROM candles WHERE open_time >= ? AND open_time < ? ORDER BY ALL",
            (since, ctx.as_of),
        )
        prices = reader.query(
            "SELECT signal_id, market_price FROM llm_signals WHERE as_of > ? AND as_of <= ? AND side <> 'HOLD'",
            (since, ctx.as_of),
        )
    if result.writes:
        gated = pd.concat([gated, result.frame("gated_signals")]).drop_duplicates("signal_id")
    sizes = ["quantity", "lots", "notional_usd", "risk_usd"]
    joined = day.merge(gated[["signal_id", "accepted", "reason_codes", "tier", *sizes, "gates_off"]], on="signal_id")
    now = joined[joined["as_of"] == ctx.as_of].sort_values(["strategy", "symbol"], ascending=[False, True])
    several = bool((now["strategy"] != "v7").any())
    table = markdown_table(
        (
            "symbol",
            "side",
            "confidence",
            "accepted",
            "tier",
            "reasons against",
            "units",
            "lots",
            "notional $",
            "risk $",
        ),
        (
            (
                f"{r['symbol']} ({r['strategy']})" if several else r["symbol"],
                r["side"],
                text_of(r["confidence"], 3),
                bool(r["accepted"]),
                r["tier"],
                r["reason_codes"] or None,
                *(r[name] for name in sizes),
            )
            for r in now.to_dict("records")
        ),
    )
    off = ",".join(ctx.settings.gates_off)
    told = f"Signals at {ctx.as_of:%Y-%m-%d %H:%M}Z" + (f" — GATES OFF: {off}" if off else "")
    title = heading(told, demo=ctx.is_demo)
    plain = day["side"].value_counts().to_dict()
    plot = price_plot(candles, gated.merge(prices, on="signal_id"), demo=ctx.is_demo)
    return {
        "signals": dg.MetadataValue.md(title + table),
        **reasons(now),
        # A picture is always behind a link; there it stands with the table that it belongs to.
        "price_plot": dg.MetadataValue.md(f"{title}{table}\nThe 24 hours before:\n\n{plot}"),
        "accepted_now": int(now["accepted"].sum()),
        "accepted_today": int(joined["accepted"].sum()),
        "decisions_today": dg.MetadataValue.json({str(side): int(count) for side, count in plain.items()}),
        "account": dg.MetadataValue.json(result.notes["account"]),
        "gates_off": off or "none",
    }
