"""theory_attribution: what each theory has been worth so far, with n and intervals; new only when trades closed."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import json
from typing import Any
from uuid import UUID

import dagster as dg
import pandas as pd

from v7_pipeline.orchestration.assets.common import asset_arguments, scan_context
from v7_pipeline.orchestration.charts import attribution_png, in_markdown
from v7_pipeline.orchestration.metadata import heading, markdown_table, text_of
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
    """Table of the newest verdicts; where they are new, a picture of them and the proposed weights, too."""
    is_new = any(write.table == "theory_attribution" for write in result.writes)
    if is_new:
        rows = result.frame("theory_attribution")
        rows = rows[rows["scope"] == "all"]
    else:
        rows = ctx.store.query(
            "SELECT * FROM theory_attribution WHERE as_of = ? AND scope = 'all'", (result.notes["as_of"],)
        )
    table = markdown_table(
        ("theory", "verdict", "votes", "effective n", "right", "95 % interval", "IC", "Shapley, R", "Holm p"),
        (
            (
                r["theory_name"],
                r["verdict"],
                int(r["n"]),
                text_of(r["n_eff"], 4),
                text_of(r["accuracy"], 3),
                "–" if r["accuracy"] != r["accuracy"] else f"{r['accuracy_lower']:.2f} … {r['accuracy_upper']:.2f}",
                text_of(r["ic"], 2),
                text_of(r["shapley"], 3),
                text_of(r["holm_p"], 3),
            )
            for r in rows.to_dict("records")
        ),
    )
    since = result.notes["as_of"]
    title = "No trade has closed yet" if since is None else f"As of {since:%Y-%m-%d %H:%M}Z (the last change)"
    story: dict[str, Any] = {
        "attribution": dg.MetadataValue.md(heading(title, demo=ctx.is_demo) + table),
        "closed_outcomes": int(result.notes["closed"]),
    }
    if is_new:
        weights = result.frame("theory_weights")
        evidence = weights.set_index("theory_name")["evidence"]
        chance = rows["theory_name"].map(evidence).map(lambda told: json.loads(told)["expected_accuracy"])
        title = f"all, as of {since:%Y-%m-%d %H:%M}Z"
        chart = attribution_png(rows.assign(expected_accuracy=chance), title=title, demo=ctx.is_demo)
        story["accuracy_and_worth"] = dg.MetadataValue.md(in_markdown(chart, "accuracy and worth of the ten theories"))
        story["proposed_weights"] = dg.MetadataValue.md(
            heading("Proposed weights of the rules", demo=ctx.is_demo) + _weights(weights)
        )
    elif len(rows):
        story["chart"] = dg.MetadataValue.md(_drawn_before(rows["run_id"].iloc[0]))
    return story


def _drawn_before(run_id: str) -> str:
    """Where the chart of the last change is: in that run, where Dagster made it."""
    try:
        UUID(run_id)
    except ValueError:
        return "Nothing has changed since. `v7 attribution --picture worth.png` draws it.\n"
    return f"Nothing has changed since [the run that drew it](/runs/{run_id}).\n"


def _weights(proposed: pd.DataFrame) -> str:
    """A sentence, and a table where there is evidence for anything but equal weights."""
    share, acting = float(proposed["equal_share"].iloc[0]), bool(proposed["acting"].iloc[0])
    acts = "They act from the next scan on." if acting else "They do not act: V7_RULES_WEIGHTS_LEARNT is off."
    if share >= 1:
        return f"Equal: the theories differ no more than chance does. {acts}\n"
    table = markdown_table(
        ("theory", "weight"), ((r["theory_name"], f"{r['weight']:.3f}") for r in proposed.to_dict("records"))
    )
    return f"{share:.0%} equal, {1 - share:.0%} by evidence. {acts}\n\n{table}"
