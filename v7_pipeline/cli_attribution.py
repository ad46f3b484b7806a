"""`v7 attribution`: what each theory has been worth so far, with n, intervals and verdicts.

Figures come from the store as the scans wrote them; here they are only shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v7_pipeline.cli_common import Demo, UsageProblemError, settings_of, store_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from v7_pipeline.settings import Settings

__all__ = ["app"]

app = typer.Typer(rich_markup_mode="markdown")

_NEWEST = """
SELECT * FROM theory_attribution WHERE source = ?
AND as_of = (SELECT max(as_of) FROM theory_attribution WHERE source = ?) ORDER BY scope, theory_name
"""
_WEIGHTS = "SELECT theory_name, weight, equal_share, evidence FROM theory_weights WHERE source = ? AND as_of = ?"


@app.command(
    epilog="Examples: `v7 attribution` · `v7 attribution --scope side:BUY` · `v7 attribution --picture worth.png`"
)
def attribution(
    scope: Annotated[str, typer.Option(help="all, symbol:BTC-USD, side:BUY, regime:bull, …")] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Also write a PNG: accuracies and Shapley values.")] = None,
    demo: Demo = None,
) -> None:
    """What each theory was worth: right how often, with which doubt, what it earned the rules, and a verdict."""
    settings = settings_of(demo)
    if picture is not None and not picture.expanduser().parent.is_dir():
        raise UsageProblemError(f"--picture {picture}: there is no folder {picture.parent}; make it first")
    found = _rows(settings, scope)
    is_demo = settings.mode == "demo"
    if picture is not None:
        from v7_pipeline.orchestration.charts import attribution_png

        drawn = attribution_png(found, title=f"{scope}, as of {found['as_of'].iloc[0]:%Y-%m-%d %H:%M}Z", demo=is_demo)
        picture.expanduser().write_bytes(drawn)
    if as_json:
        # pandas writes what is missing as null and instants in ISO 8601.
        rows = json.loads(found.drop(columns=["run_id", "code_version"]).to_json(orient="records", date_format="iso"))
        typer.echo(json.dumps({"demo": is_demo, "scope": scope, "theories": rows}))
        return
    from v7_pipeline.console import out

    console = out()
    console.print(_table(found, scope, demo=is_demo))
    console.print(_meaning(found, settings.min_effective_n))


def _rows(settings: Settings, scope: str) -> pd.DataFrame:
    """The newest attribution of one scope, those with a verdict first, with what the weights' evidence adds."""
    store = store_of(settings)
    everything = store.query(_NEWEST, (settings.source, settings.source))
    if everything.empty:
        raise UsageProblemError("no trade has closed yet, so nothing can be attributed; let v7 up or v7 run go on")
    known = sorted(everything["scope"].unique())
    if scope not in known:
        raise UsageProblemError(f"--scope {scope} has no rows; there are {', '.join(known)}")
    found = everything[everything["scope"] == scope].copy()
    weights = store.query(_WEIGHTS, (settings.source, found["as_of"].iloc[0])).set_index("theory_name")
    found["proposed_weight"] = found["theory_name"].map(weights["weight"]) if scope == "all" else None
    expected = weights["evidence"].map(lambda told: json.loads(told)["expected_accuracy"])
    found["expected_accuracy"] = found["theory_name"].map(expected) if scope == "all" else None
    few = found["verdict"] == "too few"
    # What has too few outcomes is not ranked: it stands below, by name.
    place = found["holm_p"].where(~few).astype(float)
    return (
        found.assign(few=few, place=place).sort_values(["few", "place", "theory_name"]).drop(columns=["few", "place"])
    )


def _table(found: pd.DataFrame, scope: str, *, demo: bool) -> Table:
    from rich.table import Table

    mark = "DEMO, simulated market: " if demo else ""
    table = Table(title=f"{mark}{scope}, as of {found['as_of'].iloc[0]:%Y-%m-%d %H:%M}Z", title_justify="left")
    for name in (
        "theory",
        "verdict",
        "n",
        "eff. n",
        "right",
        "expected",
        "IC",
        "Shapley R",
        "Holm p",
        "drift",
        "weight",
    ):
        table.add_column(name, justify="left" if name in ("theory", "verdict") else "right")
    for row in found.to_dict("records"):
        table.add_row(
            row["theory_name"],
            row["verdict"],
            str(row["n"]),
            f"{row['n_eff']:.0f}",
            _interval(row, "accuracy"),
            _figure(row["expected_accuracy"], ".3f"),
            _interval(row, "ic", "+.2f"),
            _figure(row["shapley"], "+.4f"),
            _figure(row["holm_p"], ".3f"),
            _interval(row, "drift", "+.2f"),
            _figure(row["proposed_weight"], ".3f"),
        )
    return table


def _meaning(found: pd.DataFrame, least: int) -> str:
    if (found["verdict"] == "too few").all():
        return f"No theory has {least} independent outcomes over enough time yet: nothing is ranked, nothing concluded."
    named = [f"{row['theory_name']} {row['verdict']}" for row in found.to_dict("records") if row["verdict"] in _NAMED]
    told = ", ".join(named) if named else "no theory can be told from chance"
    return f"At a family-wise error of 5 %: {told}. IC and Shapley values describe; they are not tested."


_NAMED = ("helps", "hurts")


def _interval(row: dict[str, Any], name: str, form: str = ".2f") -> str:
    if row[name] is None or row[name] != row[name]:
        return "–"
    ends = [_figure(row[f"{name}_{end}"], form) for end in ("lower", "upper")]
    return f"{row[name]:{form}} [{ends[0]}, {ends[1]}]"


def _figure(value: Any, form: str) -> str:
    """A number's text; what is missing is a dash."""
    return "–" if value is None or value != value else f"{float(value):{form}}"
