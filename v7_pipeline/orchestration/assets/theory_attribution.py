"""theory_attribution: what each theory has been worth so far, with n and intervals; new only when trades closed."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from typing import Any

import dagster as dg

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.metadata import heading, markdown_table
from v7_pipeline.scan.attribute import attribute
from v7_pipeline.scan.context import ScanContext, StepResult
from v7_pipeline.scan.runtime import Runtime

__all__ = ["build_theory_attribution"]


def build_theory_attribution(partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset on `partitions`."""

    @dg.asset(
        **asset_arguments("theory_attribution", "learning", {"python", "duckdb", "scipy"}, partitions),
        deps=["outcomes"],
    )
    def theory_attribution(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> StepResult:
        ctx = scan_context(context, runtime)
        result = attribute(ctx)
        context.add_output_metadata(_story(ctx, result))
        return result

    return theory_attribution


def _story(ctx: ScanContext, result: StepResult) -> dict[str, Any]:
    if any(write.table == "theory_attribution" for write in result.writes):
        rows = result.frame("theory_attribution")
        rows = rows[rows["scope"] == "all"]
    else:
        rows = ctx.store.query(
            "SELECT * FROM theory_attribution WHERE as_of = ? AND scope = 'all'", (result.notes["as_of"],)
        )
    table = markdown_table(
        ("theory", "verdict", "votes", "effective n", "right", "95 % interval", "IC", "Shapley", "q"),
        (
            (
                r["theory_name"],
                r["verdict"],
                int(r["n"]),
                r["n_eff"],
                r["accuracy"],
                "–" if r["accuracy"] != r["accuracy"] else f"{r['accuracy_lower']:.2f} … {r['accuracy_upper']:.2f}",
                r["ic"],
                r["shapley"],
                r["q_value"],
            )
            for r in rows.to_dict("records")
        ),
    )
    since = result.notes["as_of"]
    title = "No trade has closed yet" if since is None else f"As of {since:%Y-%m-%d %H:%M}Z (the last change)"
    return {
        "attribution": dg.MetadataValue.md(heading(title, demo=ctx.is_demo) + table),
        "closed_outcomes": int(result.notes["closed"]),
    }
