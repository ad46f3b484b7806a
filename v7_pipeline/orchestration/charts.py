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
    from matplotlib.lines import Line2D

__all__ = ["ATTRIBUTION_COLUMNS", "EQUITY_COLUMNS", "attribution_png", "equity_png", "in_markdown", "reliability_png"]

#: What attribution_png needs of theory_attribution; `expected_accuracy` may come with it.
ATTRIBUTION_COLUMNS = ("theory_name", "accuracy", "accuracy_lower", "accuracy_upper", "n_eff", "shapley", "verdict")
#: What equity_png needs of outcomes.
EQUITY_COLUMNS = ("kind", "exit_time", "r_multiple", "pnl_usd")

_QUIET, _BAR, _GOOD, _BAD, _BLUE, _DEMO = "#5b6470", "#cdd1d6", "#1a7f37", "#b3261e", "#1f5bad", "#b58900"
_VERDICTS = {"helps": _GOOD, "hurts": _BAD, "indistinguishable": _QUIET, "too few": "#a9aeb5"}
_UNITS = {"pnl_usd": "net, USD", "r_multiple": "net, R"}
_COLOURS = 64
_KINDS = {"paper": _BLUE, "manual": "#8c3c8c", "shadow": "#a9aeb5"}


def attribution_png(rows: pd.DataFrame, *, title: str, demo: bool) -> bytes:
    """A PNG of one scope's ten rows (ATTRIBUTION_COLUMNS), a line a theory in the registry's order.

    Left a forest: accuracy, its 95 % interval, and where `expected_accuracy` is given what chance alone would have
    reached (else a line at one half). Right bars: Shapley value in R a trade. The colour is the verdict's; what is
    missing is a dash. ValueError where a theory is missing or there twice.
    """
    if sorted(rows["theory_name"]) != sorted(THEORY_NAMES):
        raise ValueError("a chart is of one scope's ten theories; select one instant and one scope")
    ordered = rows.set_index("theory_name").loc[list(THEORY_NAMES)]
    y, colours = np.arange(len(ordered)), [_VERDICTS[verdict] for verdict in ordered["verdict"]]
    accuracy, lower, upper, worth, n_eff = (
        ordered[name].to_numpy(float) for name in ("accuracy", "accuracy_lower", "accuracy_upper", "shapley", "n_eff")
    )
    figure, (forest, bars) = _figure(title, (8.2, 4.2), ncols=2, sharey=True)
    handles = _expected(forest, ordered, y)
    forest.hlines(y, lower, upper, colors=colours, linewidth=2)
    forest.scatter(accuracy, y, c=colours, s=24, zorder=3)
    forest.set(xlim=(0, 1), xlabel="votes that were right, 95 % interval (effective n)")
    names = [name.replace("_", " ") for name in ordered.index]
    forest.set_yticks(y, [f"{name} ({n:.0f})" for name, n in zip(names, n_eff, strict=True)])
    forest.invert_yaxis()
    bars.axvline(0, color=_QUIET, linewidth=0.8)
    bars.barh(y, np.nan_to_num(worth), height=0.6, color=colours)
    bars.set_xlabel("Shapley value, R a trade")
    bars.xaxis.set_major_locator(_few_ticks())
    for axis, figures, place in ((forest, accuracy, 0.02), (bars, worth, 0.0)):
        for missing in y[np.isnan(figures)]:
            axis.text(place, missing, " –", fontsize=8, color=_QUIET, va="center")
    found = set(ordered["verdict"])
    handles += [
        bars.plot([], [], color=colour, linewidth=4, label=word)[0]
        for word, colour in _VERDICTS.items()
        if word in found
    ]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside lower right", ncols=len(handles))
    return _png(figure, demo)


def _expected(forest: Axes, ordered: pd.DataFrame, y: np.ndarray[Any, Any]) -> list[Line2D]:
    """Draw what votes that know nothing would reach, a mark a theory or one line; its entry of the legend."""
    known = ordered.get("expected_accuracy")
    if known is None or known.isna().all():
        line = forest.axvline(0.5, color=_QUIET, linewidth=0.8, linestyle="--", label="one half")
        return [line]
    return forest.plot(
        known.to_numpy(float), y, "|", markersize=13, markeredgewidth=1.4, color="black", label="expected by chance"
    )


def equity_png(closed: pd.DataFrame, *, title: str, demo: bool) -> bytes:
    """A PNG of closed outcomes (EQUITY_COLUMNS) in the order they closed: above what paper and manual trades came to in
    dollars, below what each kind came to in R. Shadow trades were never taken: they have no dollars, and where nobody
    has any, the panel of dollars is left out.
    """
    ordered = closed.sort_values("exit_time", kind="stable")
    panels = [(name, unit) for name, unit in _UNITS.items() if name == "r_multiple" or ordered[name].notna().any()]
    figure, axes = _figure(title, (8.2, 0.9 + 1.9 * len(panels)), nrows=len(panels), sharex=True)
    ends: list[pd.Timestamp] = []
    for axis, (column, unit) in zip(axes, panels, strict=True):
        axis.axhline(0, color=_QUIET, linewidth=0.8)
        axis.set_ylabel(unit, fontsize=9)
        for kind, colour in _KINDS.items():
            known = ordered[(ordered["kind"] == kind) & ordered[column].notna()]
            if len(known):
                ends += [*_steps(axis, known, column, colour, f"{kind}, n = {len(known)}")]
        _legend_above(axis)
    if not ends:
        axes[-1].set_xticks([])
        return _png(figure, demo)
    if min(ends) == max(ends):  # one instant would be drawn over years
        axes[-1].set_xlim(*(_naive(min(ends) + side * pd.Timedelta(minutes=30)) for side in (-1, 1)))
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes[-1].xaxis.get_offset_text().set_fontsize(8)
    axes[-1].set_xlabel("closed, UTC", fontsize=9)
    return _png(figure, demo)


def _steps(axis: Axes, known: pd.DataFrame, column: str, colour: str, label: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    """The running sum of `column` from 0 on, a step at each exit; the first exit and the last."""
    first, last = known["exit_time"].iloc[0], known["exit_time"].iloc[-1]
    times = [_naive(first), *map(_naive, known["exit_time"])]
    sums = np.concatenate([[0.0], known[column].to_numpy(float).cumsum()])
    axis.step(times, sums, where="post", color=colour, linewidth=1.6, label=label)
    axis.plot(times[-1:], sums[-1:], "o", color=colour, markersize=4)
    return first, last


def _naive(instant: pd.Timestamp) -> Any:
    """The instant as matplotlib takes it: UTC without saying so."""
    return instant.tz_convert("UTC").tz_localize(None).to_datetime64()


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
    _legend_above(rates)
    for one in bins:
        width = one["upper"] - one["lower"]
        counts.bar(one["lower"], one["n"], width=width, align="edge", color=_BAR, edgecolor="white")
        counts.bar(one["lower"], one["n_eff"], width=width, align="edge", color=_QUIET, edgecolor="white")
    counts.yaxis.set_major_locator(_few_ticks(integer=True))
    counts.set_ylabel("n (dark: worth)", fontsize=9)
    counts.set_xlabel("confidence", fontsize=9)
    lowest = min((one["lower"] for one in bins), default=0.5)
    counts.set_xlim(min(lowest, 0.5) - 0.01, 1.01)
    return _png(figure, demo)


def in_markdown(picture: bytes, alt: str) -> str:
    """The PNG as markdown that carries it, with `alt` for who cannot see it."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(picture).decode()})"


def _figure(title: str, size: tuple[float, float], **panels: Any) -> tuple[Figure, list[Axes]]:
    """A figure of panels with its title, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    axes = list(figure.subplots(squeeze=False, **panels).flat)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.2)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.label.set_fontsize(9)
    return figure, axes


def _legend_above(axis: Axes) -> None:
    """The legend above its panel: inside it would lie on what it explains."""
    count = len(axis.get_legend_handles_labels()[1])
    if not count:
        axis.text(0.5, 0.5, "nothing known", fontsize=9, color=_QUIET, ha="center", transform=axis.transAxes)
        return
    axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, ncols=count)


def _few_ticks(*, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, integer=integer)


def _png(figure: Figure, demo: bool) -> bytes:
    """The figure as a PNG, the same bytes for the same figures.

    Dagster keeps one with each scan in which something closed, so colours are few. They are the picture's most frequent
    ones; a line of its own colour is never so rare as to be lost.
    """
    if demo:
        figure.text(0.55, 0.5, "DEMO", fontsize=48, color=_DEMO, alpha=0.2, ha="center", va="center", rotation=14)
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    image = (
        Image.fromarray(pixels)
        .convert("RGB")
        .quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
