"""Charts of what outcomes taught, for Dagster's pages and the commands: one style, and DEMO across what is demo.

Only drawing; every figure was reckoned elsewhere. matplotlib takes a third of a second to come: what each scan shows is
drawn by pictures.py.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from v7_pipeline.store.schema import THEORY_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ATTRIBUTION_COLUMNS", "EQUITY_COLUMNS", "attribution_png", "equity_png", "in_markdown", "reliability_png"]

#: What attribution_png needs of theory_attribution.
ATTRIBUTION_COLUMNS = ("theory_name", "accuracy", "accuracy_lower", "accuracy_upper", "n_eff", "shapley", "verdict")
#: What equity_png needs of outcomes.
EQUITY_COLUMNS = ("kind", "exit_time", "r_multiple", "pnl_usd")

_QUIET, _BAR, _GOOD, _BAD, _BLUE, _DEMO = "#5b6470", "#cdd1d6", "#1a7f37", "#b3261e", "#1f5bad", "#b58900"
_VERDICTS = {"helps": _GOOD, "hurts": _BAD, "indistinguishable": _QUIET, "too few": "#a9aeb5"}
_KINDS = {"paper": _BLUE, "manual": "#8c3c8c", "shadow": "#a9aeb5"}


def attribution_png(rows: pd.DataFrame, *, title: str, demo: bool) -> bytes:
    """A PNG of one scope's ten rows (ATTRIBUTION_COLUMNS), a line a theory in the registry's order.

    Left a forest: accuracy and its 95 % interval. Right bars: Shapley value in R a trade. The colour is the verdict's;
    what is missing is left out. ValueError where a theory is missing or there twice.
    """
    if sorted(rows["theory_name"]) != sorted(THEORY_NAMES):
        raise ValueError("a chart is of one scope's ten theories; select one instant and one scope")
    ordered = rows.set_index("theory_name").loc[list(THEORY_NAMES)]
    y, colours = np.arange(len(ordered)), [_VERDICTS[verdict] for verdict in ordered["verdict"]]
    accuracy, lower, upper, worth = (
        ordered[name].to_numpy(float) for name in ("accuracy", "accuracy_lower", "accuracy_upper", "shapley")
    )
    figure, (forest, bars) = _figure(title, (8.2, 4.0), ncols=2, sharey=True)
    forest.axvline(0.5, color=_QUIET, linewidth=0.8, linestyle="--")
    forest.hlines(y, lower, upper, colors=colours, linewidth=2)
    forest.scatter(accuracy, y, c=colours, s=24, zorder=3)
    forest.set(xlim=(0, 1), xlabel="votes that were right, 95 % interval")
    forest.set_yticks(y, [f"{name.replace('_', ' ')}" for name in ordered.index])
    forest.invert_yaxis()
    bars.axvline(0, color=_QUIET, linewidth=0.8)
    bars.barh(y, np.nan_to_num(worth), height=0.6, color=colours)
    bars.set_xlabel("Shapley value, R a trade")
    for word in dict.fromkeys(ordered["verdict"]):
        bars.plot([], [], color=_VERDICTS[word], linewidth=4, label=word)
    bars.legend(fontsize=8, frameon=False)
    return _png(figure, demo)


def equity_png(closed: pd.DataFrame, *, title: str, demo: bool) -> bytes:
    """A PNG of closed outcomes (EQUITY_COLUMNS) in the order they closed: above what paper and manual trades came to in
    dollars, below what each kind came to in R. Shadow trades were never taken: they have no dollars.
    """
    ordered = closed.sort_values("exit_time")
    figure, (dollars, in_r) = _figure(title, (8.2, 4.6), nrows=2, sharex=True)
    for kind, colour in _KINDS.items():
        own = ordered[ordered["kind"] == kind]
        for axis, column in ((dollars, "pnl_usd"), (in_r, "r_multiple")):
            known = own[own[column].notna()]
            if known.empty:
                continue
            times = known["exit_time"].dt.tz_convert("UTC").dt.tz_localize(None)
            sums = known[column].astype(float).cumsum()
            axis.step(times, sums, where="post", color=colour, linewidth=1.6, label=f"{kind}, n = {len(known)}")
            axis.scatter(times.iloc[-1:], sums.iloc[-1:], color=colour, s=14)
    for axis, unit in ((dollars, "net, USD"), (in_r, "net, R")):
        axis.axhline(0, color=_QUIET, linewidth=0.8)
        axis.set_ylabel(unit, fontsize=9)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False, loc="upper left")
    in_r.set_xlabel("closed, UTC", fontsize=9)
    in_r.tick_params(axis="x", rotation=20)
    return _png(figure, demo)


def reliability_png(bins: Sequence[Mapping[str, float]], title: str, *, demo: bool) -> bytes:
    """A PNG: each bin's win rate with its 95 % interval against its mean confidence, and below how many are in it.

    bins: as the calibrations table keeps them (lower, upper, n, n_eff, confidence, rate, rate_lower, rate_upper).
    """
    figure, (rates, counts) = _figure(title, (5.6, 5.2), nrows=2, sharex=True, height_ratios=(3, 1))
    rates.plot((0, 1), (0, 1), color=_QUIET, linewidth=1, linestyle="--", label="calibrated")
    x = [one["confidence"] for one in bins]
    y = [one["rate"] for one in bins]
    spread = [[one["rate"] - one["rate_lower"] for one in bins], [one["rate_upper"] - one["rate"] for one in bins]]
    rates.errorbar(
        x, y, yerr=spread, fmt="o", markersize=4, color=_BLUE, ecolor=_BLUE, elinewidth=1, capsize=2,
        label="won, with 95 % interval",
    )  # fmt: skip
    rates.set_ylim(-0.02, 1.02)
    rates.set_ylabel("share won", fontsize=9)
    rates.legend(fontsize=8, frameon=False, loc="upper left")
    for one in bins:
        width = one["upper"] - one["lower"]
        counts.bar(one["lower"], one["n"], width=width, align="edge", color=_BAR, edgecolor="white")
        counts.bar(one["lower"], one["n_eff"], width=width, align="edge", color=_QUIET, edgecolor="white")
    counts.set_ylabel("n (dark: worth)", fontsize=9)
    counts.set_xlabel("confidence", fontsize=9)
    lowest = min((one["lower"] for one in bins), default=0.5)
    counts.set_xlim(min(lowest, 0.5), 1)
    return _png(figure, demo)


def in_markdown(picture: bytes, alt: str) -> str:
    """The PNG as markdown that carries it, with `alt` for who cannot see it."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(picture).decode()})"


def _figure(title: str, size: tuple[float, float], **panels: Any) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure of two panels with its title, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    first, second = figure.subplots(**panels)
    for axis in (first, second):
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.label.set_fontsize(9)
    return figure, (first, second)


def _png(figure: Figure, demo: bool) -> bytes:
    """The figure as a PNG, the same bytes for the same figures."""
    if demo:
        figure.text(0.55, 0.5, "DEMO", fontsize=48, color=_DEMO, alpha=0.2, ha="center", va="center", rotation=14)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
