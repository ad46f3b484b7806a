"""What outcomes have taught, as Dagster's pages tell it: the win rates' table, and the calibration of the confidence.

Only presentation; the figures are learning/'s, the chart is charts.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["calibration_markdown", "win_rates_markdown"]


def win_rates_markdown(rates: pd.DataFrame, *, demo: bool) -> str:
    """A markdown table of the newest of these win_rates rows: posterior mean, interval, n, and the shrunk mean.

    A scan that labels outcomes again writes the rates of earlier instants, too.
    """
    from v7_pipeline.orchestration.metadata import heading, markdown_table

    rates = rates[rates["as_of"] == rates["as_of"].max()]
    first = rates.iloc[0]
    half = first["half_life_trades"]
    told = f"prior Beta({first['prior_alpha']:g}, {first['prior_beta']:g}), " + (
        "no discount" if pd.isna(half) else f"half-life {half:g} trades"
    )
    rows = (
        (
            row["scope"],
            _percent(row["mean"]),
            f"{_percent(row['lower'])} … {_percent(row['upper'])}",
            f"{row['n']} (worth {row['n_eff']:.1f})",
            _percent(row["shrunk_mean"]),
        )
        for row in rates.to_dict("records")
    )
    table = markdown_table(("scope", "win rate", "95 %", "n", "shrunk"), rows)
    return (
        heading(f"Win rates as of {first['as_of']:%Y-%m-%d %H:%M}Z, {told}; breakevens not counted", demo=demo) + table
    )


def calibration_markdown(row: Mapping[str, Any], *, demo: bool) -> str:
    """A calibrations row as markdown: its figures and the reliability diagram. row: a row of the table."""
    from v7_pipeline.orchestration.charts import in_markdown, reliability_png
    from v7_pipeline.orchestration.metadata import heading, markdown_table, text_of

    names = ("brier", "reliability", "resolution", "uncertainty", "log_loss", "ece", "skill", "slope")
    figures = markdown_table(
        ("n", "worth", *(name.replace("_", " ") for name in names)),
        [(row["n"], f"{row['n_eff']:.1f}", *(text_of(row[name], 3) for name in names))],
    )
    bins = json.loads(row["bins"])
    title = f"{row['scope']}: {row['n']} outcomes, worth {row['n_eff']:.1f}"
    chart = in_markdown(reliability_png(bins, title, demo=demo), "confidence against win rate") if bins else ""
    return heading("Confidence against what came of it", demo=demo) + figures + f"\n{chart}\n"


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.1f} %"
