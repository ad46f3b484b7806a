"""candles: what Coinbase says of each closed minute. A scan adds the newest; a backfill fills whole days."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from collections.abc import Mapping
from typing import Any

import dagster as dg

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.metadata import heading, markdown_table
from v7_pipeline.orchestration.partitions import is_scan, window_of
from v7_pipeline.scan.backfill import fill_candles
from v7_pipeline.scan.candles import fetch_new
from v7_pipeline.scan.context import StepResult, minute
from v7_pipeline.scan.runtime import Runtime

__all__ = ["build_candles"]


def build_candles(partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset on `partitions`."""

    @dg.asset(
        **asset_arguments("candles", "market", {"python", "duckdb"}, partitions),
    )
    def candles(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> StepResult:
        runtime.prepare_store()
        if is_scan(context):
            result = fetch_new(scan_context(context, runtime))
        else:
            start, end = window_of(context, runtime.clock)
            # The day's last minute is closed at its end: a context before it would not ask for that minute.
            ctx = runtime.context(min(end, minute(runtime.clock())), context.run.run_id)
            result = StepResult(notes=fill_candles(ctx, start, end, on_progress=runtime.on_progress))
        for symbol, reason in result.notes["failures"].items():
            context.log.error(f"{symbol}: {reason}")
        context.add_output_metadata(_story(result.notes, demo=runtime.settings.mode == "demo"))
        return result

    return candles


def _story(notes: Mapping[str, Any], *, demo: bool) -> dict[str, Any]:
    rows = [
        (
            symbol,
            told["rows"],
            told["first"],
            told["last"],
            ", ".join(f"{count} {what}" for what, count in notes["repairs"].get(symbol, {}).items()) or "nothing",
        )
        for symbol, told in notes["received"].items()
    ]
    rows += [(symbol, "FAILED", None, None, reason) for symbol, reason in notes["failures"].items()]
    return {
        "fetched": dg.MetadataValue.md(
            heading("Fetched candles", demo=demo) + markdown_table(("symbol", "rows", "from", "to", "repaired"), rows)
        ),
        "rows_received": notes["rows"],
        "pages": notes["pages"],
        "symbols_failed": len(notes["failures"]),
    }
