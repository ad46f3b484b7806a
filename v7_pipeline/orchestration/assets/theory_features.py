"""theory_features: ten theories' readings of each minute. Live rows and backfilled rows come from one function."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from datetime import timedelta
from typing import Any

import dagster as dg
import pandas as pd

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.metadata import heading, markdown_table, text_of
from v7_pipeline.orchestration.partitions import is_scan, window_of
from v7_pipeline.orchestration.pictures import DAY_COLUMNS, theories_plot
from v7_pipeline.scan.backfill import fill_features
from v7_pipeline.scan.context import StepResult
from v7_pipeline.scan.features import new_readings
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["build_theory_features", "readings_table"]

# Every fourth minute is as much as the picture can show.
_DAY = (
    f"SELECT {', '.join(DAY_COLUMNS)} FROM theory_features "
    "WHERE as_of >= ? AND as_of <= ? AND minute(as_of) % 4 = 0 ORDER BY symbol, as_of"
)


def build_theory_features(partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset on `partitions`."""

    @dg.asset(
        **asset_arguments("theory_features", "theories", {"python", "duckdb", "numpy"}, partitions),
        deps=["candles"],
    )
    def theory_features(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> StepResult:
        if is_scan(context):
            ctx = scan_context(context, runtime)
            result, until = new_readings(ctx), ctx.as_of
        else:
            start, end = window_of(context, runtime.clock)
            ctx = runtime.context(end - timedelta(minutes=1), context.run.run_id)
            result, until = (
                StepResult(notes=fill_features(ctx, start, end, on_progress=runtime.on_progress)),
                end,
            )
        newest = runtime.store.query(
            "SELECT * FROM theory_features WHERE as_of <= ? AND as_of > ? QUALIFY row_number() OVER "
            "(PARTITION BY symbol ORDER BY as_of DESC) = 1 ORDER BY symbol",
            (until, until - timedelta(days=1)),
        )
        if result.writes:
            fresh = result.frame("theory_features").sort_values("as_of").groupby("symbol").tail(1)
            newest = fresh.sort_values("symbol")
        midnight = (until - timedelta(minutes=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        day = runtime.store.query(_DAY, (midnight, until))
        context.add_output_metadata(
            {
                "day": dg.MetadataValue.md(
                    heading(f"Readings of {midnight:%Y-%m-%d}", demo=runtime.settings.mode == "demo")
                    + theories_plot(day, demo=runtime.settings.mode == "demo")
                ),
                "readings": dg.MetadataValue.md(
                    heading(f"Newest readings up to {until:%Y-%m-%d %H:%M}Z", demo=runtime.settings.mode == "demo")
                    + readings_table(newest)
                ),
                "rows_computed": int(result.notes["rows"]),
            }
        )
        return result

    return theory_features


def readings_table(newest: pd.DataFrame) -> str:
    """A markdown table of each symbol's newest reading: vote, score, percentile and one sentence a theory."""
    from v7_pipeline.theories import explain

    rows: list[tuple[Any, ...]] = []
    for reading in newest.to_dict("records"):
        for theory in THEORY_NAMES:
            rows.append(
                (
                    reading["symbol"],
                    theory,
                    *(text_of(float(reading[f"{theory}_{part}"]), 3) for part in ("vote", "score", "percentile")),
                    explain(theory, reading),
                )
            )
    return markdown_table(("symbol", "theory", "vote", "score", "percentile", "what it says"), rows)
