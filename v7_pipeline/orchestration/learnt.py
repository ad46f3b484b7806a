"""What outcomes have taught, as pages show it: the win rates' table, and the reliability diagram of the confidence.

Only presentation; the figures are learning/'s. The picture serves Dagster's pages and `v7 calibration` alike.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

__all__ = ["calibration_markdown", "reliability_png", "win_rates_markdown"]

_INK, _QUIET, _BAR, _GOOD, _DEMO = "#3c424a", "#5b6470", "#cdd1d6", "#1f5bad", "#b58900"  # as in pictures.py


def win_rates_markdown(rates: pd.DataFrame, *, demo: bool) -> str:
    """A markdown table of win_rates rows of one instant: posterior mean, interval, n, and the shrunk mean beside it."""
    from v7_pipeline.orchestration.metadata import heading, markdown_table

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
    return heading(f"Win rates, {told}; breakevens not counted", demo=demo) + table


def calibration_markdown(row: Mapping[str, Any], *, demo: bool) -> str:
    """A calibrations row as markdown: its figures and the reliability diagram. row: a row of the table."""
    from v7_pipeline.orchestration.metadata import heading, markdown_table, text_of

    names = ("brier", "reliability", "resolution", "uncertainty", "log_loss", "ece", "skill", "slope")
    figures = markdown_table(
        ("n", "worth", *(name.replace("_", " ") for name in names)),
        [(row["n"], f"{row['n_eff']:.1f}", *(text_of(row[name], 3) for name in names))],
    )
    bins = json.loads(row["bins"])
    picture = base64.b64encode(reliability_png(bins, _title(row["scope"], row["n"], row["n_eff"]), demo=demo)).decode()
    drawn = f"\n![confidence against win rate](data:image/png;base64,{picture})\n" if bins else ""
    return heading("Confidence against what came of it", demo=demo) + figures + drawn


def reliability_png(bins: Sequence[Mapping[str, float]], title: str, *, demo: bool) -> bytes:
    """A PNG: each bin's win rate with its 95 % interval against its mean confidence, and below how many are in it.

    bins: as the calibrations table keeps them (lower, upper, n, n_eff, confidence, rate, rate_lower, rate_upper).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.2), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    rates, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    rates.plot((0, 1), (0, 1), color=_QUIET, linewidth=1, linestyle="--", label="calibrated")
    x = [one["confidence"] for one in bins]
    y = [one["rate"] for one in bins]
    spread = [[one["rate"] - one["rate_lower"] for one in bins], [one["rate_upper"] - one["rate"] for one in bins]]
    rates.errorbar(
        x, y, yerr=spread, fmt="o", markersize=4, color=_GOOD, ecolor=_GOOD, elinewidth=1, capsize=2,
        label="won, with 95 % interval",
    )  # fmt: skip
    rates.set_ylim(-0.02, 1.02)
    rates.set_ylabel("share won", fontsize=9)
    rates.set_title(("DEMO — " if demo else "") + title, fontsize=10, loc="left")
    rates.legend(fontsize=8, frameon=False, loc="upper left")
    for one in bins:
        width = one["upper"] - one["lower"]
        counts.bar(one["lower"], one["n"], width=width, align="edge", color=_BAR, edgecolor="white")
        counts.bar(one["lower"], one["n_eff"], width=width, align="edge", color=_QUIET, edgecolor="white")
    counts.set_ylabel("n (dark: worth)", fontsize=9)
    counts.set_xlabel("confidence", fontsize=9)
    lowest = min((one["lower"] for one in bins), default=0.5)
    counts.set_xlim(min(lowest, 0.5), 1)
    for axis in (rates, counts):
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    if demo:
        figure.text(0.55, 0.6, "DEMO", fontsize=48, color=_DEMO, alpha=0.2, ha="center", va="center", rotation=14)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _title(scope: str, n: int, n_eff: float) -> str:
    return f"{scope}: {n} outcomes, worth {n_eff:.1f}"


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.1f} %"
