"""The report's pictures as plotly's own specifications: plain data, drawn by plotly.js in the page.

Only drawing; every figure was reckoned in figures.py. Colours of the background and the text are the page's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.backtest.equity import drawdown
from v7_pipeline.backtest.figures import Figures

__all__ = ["SCATTER", "charts"]

Floats = npt.NDArray[np.float64]
Spec = dict[str, Any]

OWN, GOOD, BAD, QUIET = "#2f6fd0", "#1f8a4c", "#c8452f", "#8a9099"
# Okabe & Ito's colours: told apart by colour-blind people, too.
_OTHERS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#9a7d0a", "#7a7f87")
#: Baselines drawn at once; the others appear when their name is pressed.
_SHOWN = 6
#: Points of the scatter; of more trades every k-th is drawn, and the caption says so.
SCATTER = 4000
_DIGITS = 6
_PERCENT = {"tickformat": ".1%"}


def charts(found: Figures) -> dict[str, Spec]:
    """The specifications by name: data and layout, without NaN. A picture of nothing is left out."""
    made = {
        "equity": _equity(found),
        "r": _r(found),
        "excursions": _excursions(found),
        "funnel": _funnel(found),
        "reliability": _reliability(found),
        "groups": _groups(found),
        "challenge": _challenge(found),
    }
    return {name: spec for name, spec in made.items() if spec is not None}


def _equity(found: Figures) -> Spec:
    """Net growth of the account above, how far it lay below its peak underneath; baselines by the day."""
    initial = found.material.simulation.settings.account_initial_usd
    traces = []
    for number, rival in enumerate(found.rivals):
        known = rival.daily.dropna()
        days = _times(pd.concat([pd.Series([pd.Timestamp(found.first)]), known["day"]]))
        values = np.concatenate([[initial], known["equity_usd"].to_numpy(float)])
        colour, seen = _OTHERS[number % len(_OTHERS)], True if number < _SHOWN else "legendonly"
        line = {"color": colour, "width": 1.3, "dash": "solid" if number < len(_OTHERS) else "dot"}
        about = {"name": rival.name, "legendgroup": rival.name, "line": line, "visible": seen}
        traces += [
            _line(days, values / initial - 1, **about),
            _line(days, drawdown(values, initial), **about, showlegend=False, yaxis="y2"),
        ]
    own = found.curve
    times = _times(own["at"])
    about = {"name": found.material.simulation.name, "legendgroup": "own", "line": {"color": OWN, "width": 2.4}}
    traces += [
        _line(times, own["equity_usd"].to_numpy(float) / initial - 1, **about),
        _line(times, own["drawdown"], **about, showlegend=False, yaxis="y2", fill="tozeroy", fillcolor=OWN + "22"),
    ]
    layout = {
        "height": 520,
        "hovermode": "x unified",
        "xaxis": {"type": "date", "anchor": "y2"},
        "yaxis": {"title": {"text": "net return"}, "domain": [0.34, 1.0], **_PERCENT},
        "yaxis2": {"title": {"text": "below peak"}, "domain": [0.0, 0.28], **_PERCENT},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }
    return {"data": traces, "layout": layout}


def _line(x: list[str], y: npt.ArrayLike, **about: Any) -> Spec:
    return {"type": "scatter", "mode": "lines", "x": x, "y": _numbers(y), "hovertemplate": "%{y:.2%}", **about}


def _r(found: Figures) -> Spec | None:
    """R of the closed trades; beside it the mean R of each random draw, with the strategy's own marked."""
    r = found.trades["r_multiple"].dropna().to_numpy(float)
    drawn = found.material.random_entry
    if not len(r):
        return None
    mean = float(r.mean())
    marked = [_mark(mean, "x", f"mean {mean:+.3f} R")]
    data = [_bars(r, OWN, "trades", "x", "y", 0.1)]
    layout: Spec = {
        "height": 360,
        "showlegend": False,
        "bargap": 0.04,
        "xaxis": {"title": {"text": "R of a trade, net"}, "domain": [0, 0.46 if drawn is not None else 1]},
        "yaxis": {"title": {"text": "trades"}},
    }
    if drawn is not None:
        data.append(_bars(np.asarray(drawn.mean_r, float), QUIET, "random entries", "x2", "y2", None))
        layout |= {
            "xaxis2": {
                "title": {"text": f"mean R of {drawn.draws:,} random entries"},
                "domain": [0.56, 1],
                "anchor": "y2",
            },
            "yaxis2": {"title": {"text": "draws"}, "anchor": "x2"},
        }
        words = (
            f"{found.material.simulation.name}: {drawn.own_mean_r:+.3f} R,<br>percentile {drawn.percentile_mean_r:.1%}"
        )
        marked.append(_mark(drawn.own_mean_r, "x2", words))
    layout |= {
        "shapes": [shape for shape, _ in marked],
        "annotations": [note for _, note in marked],
        "margin": {"t": 52},
    }
    return {"data": data, "layout": layout}


def _mark(value: float, axis: str, words: str) -> tuple[Spec, Spec]:
    """A line across a panel at a value, and its words above."""
    panel = "y" + axis[1:]
    shape = {"type": "line", "xref": axis, "yref": f"{panel} domain", "x0": value, "x1": value, "y0": 0, "y1": 1,
             "line": {"color": BAD, "width": 2}}  # fmt: skip
    note = {"xref": axis, "yref": f"{panel} domain", "x": value, "y": 1.02, "yanchor": "bottom", "showarrow": False,
            "text": words, "font": {"color": BAD, "size": 12}}  # fmt: skip
    return shape, note


def _bars(values: Floats, colour: str, name: str, x: str, y: str, width: float | None) -> Spec:
    """A histogram, counted here so that the page does not carry every value."""
    low, high = float(values.min()), float(values.max())
    if width is None or (high - low) / width > 80:
        edges = np.histogram_bin_edges(values, bins=min(60, max(5, round(len(values) ** 0.5))))
    else:
        edges = np.arange(np.floor(low / width), np.floor(high / width) + 2) * width
    counts, edges = np.histogram(values, edges)
    return {
        "type": "bar", "name": name, "x": _numbers((edges[:-1] + edges[1:]) / 2), "y": [int(n) for n in counts],
        "width": _numbers(np.diff(edges)), "marker": {"color": colour, "opacity": 0.85}, "xaxis": x, "yaxis": y,
        "hovertemplate": "%{x:.3f} R: %{y}<extra></extra>",
    }  # fmt: skip


def _excursions(found: Figures) -> Spec | None:
    """The furthest each trade went against and in favour, coloured by how it ended."""
    known = found.trades[found.trades[["mfe", "mae"]].notna().all(axis=1)]
    if known.empty:
        return None
    drawn = known.iloc[:: max(1, -(-len(known) // SCATTER))]
    data = []
    for word, colour, shape in (("win", GOOD, "circle"), ("loss", BAD, "x"), ("breakeven", QUIET, "diamond")):
        part = drawn[drawn["outcome"] == word]
        if len(part):
            data.append(
                {
                    "type": "scatter", "mode": "markers", "name": f"{word}, n = {len(part)}",
                    "x": _numbers(part["mae"]), "y": _numbers(part["mfe"]),
                    "text": [f"{t.symbol} {t.side} {t.entry_time:%m-%d %H:%M}Z {t.r_multiple:+.2f} R"
                             for t in part.itertuples()],
                    "marker": {"color": colour, "symbol": shape, "size": 6, "opacity": 0.65},
                    "hovertemplate": "%{text}<br>against %{x:.2%}, in favour %{y:.2%}<extra></extra>",
                }
            )  # fmt: skip
    layout = {
        "height": 400,
        "xaxis": {"title": {"text": "furthest against (MAE)"}, **_PERCENT},
        "yaxis": {"title": {"text": "furthest in favour (MFE)"}, **_PERCENT},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }
    return {"data": data, "layout": layout}


def _funnel(found: Figures) -> Spec:
    """From chances to closed trades. Bars of counts on a logarithmic axis: few of many thousands are accepted."""
    rows = found.funnel.iloc[::-1]
    data = [
        {
            "type": "bar", "orientation": "h", "y": list(rows["stage"]),
            "x": [int(n) or None for n in rows["n"]],
            "text": [f"{n:,}" for n in rows["n"]], "textposition": "auto", "customdata": list(rows["meaning"]),
            "marker": {"color": OWN}, "hovertemplate": "%{y}: %{text}<br>%{customdata}<extra></extra>",
        }
    ]  # fmt: skip
    layout = {
        "height": 340,
        "xaxis": {
            "type": "log",
            "title": {"text": "count (logarithmic)"},
            "dtick": 1,
            "range": [0, float(np.log10(max(2, int(rows["n"].max())))) * 1.02],
        },
        "yaxis": {"automargin": True},
        "margin": {"l": 90, "t": 12},
    }
    return {"data": data, "layout": layout}


def _reliability(found: Figures) -> Spec | None:
    """The share that won against the confidence, by bins of 0.05 with their intervals."""
    bins = found.calibration.bins
    if not bins:
        return None
    spread = {
        "type": "data", "symmetric": False, "color": OWN, "thickness": 1.4, "width": 4,
        "array": _numbers([b.rate_upper - b.rate for b in bins]),
        "arrayminus": _numbers([b.rate - b.rate_lower for b in bins]),
    }  # fmt: skip
    data = [
        {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "calibrated",
         "line": {"color": QUIET, "dash": "dash", "width": 1}, "hoverinfo": "skip"},
        {"type": "scatter", "mode": "markers", "name": "won, 95 % interval",
         "x": _numbers([b.confidence for b in bins]), "y": _numbers([b.rate for b in bins]), "error_y": spread,
         "marker": {"color": OWN, "size": [round(6 + 2.2 * np.log10(max(b.n_eff, 1)), 1) for b in bins]},
         "text": [f"n = {b.n}, worth {b.n_eff:.1f}" for b in bins],
         "hovertemplate": "confidence %{x:.2f}: %{y:.0%} won<br>%{text}<extra></extra>"},
    ]  # fmt: skip
    layout = {
        "height": 400,
        "xaxis": {"title": {"text": "confidence"}, "range": [max(0.0, bins[0].lower - 0.1), 1.0]},
        "yaxis": {"title": {"text": "share won"}, "range": [-0.02, 1.02], "tickformat": ".0%"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }
    return {"data": data, "layout": layout}


_PANELS = (("symbol", "by symbol"), ("side", "by side"), ("regime", "by regime"), ("hour", "by hour of entry, UTC"))
_DOMAINS = {"symbol": (0.0, 0.27), "side": (0.33, 0.47), "regime": (0.53, 0.72), "hour": (0.0, 1.0)}


def _groups(found: Figures) -> Spec | None:
    """Mean R of each group with its interval; pale where the group is too small to conclude from."""
    if found.groups.empty:
        return None
    data: list[Spec] = []
    layout: Spec = {"height": 560, "showlegend": False, "annotations": [], "margin": {"t": 30}}
    for number, (by, title) in enumerate(_PANELS, 1):
        rows = found.groups[found.groups["by"] == by]
        if rows.empty:
            continue
        axis = "" if number == 1 else str(number)
        mean = rows["mean_r"].to_numpy(float)
        spread = {
            "type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": QUIET,
            "array": _numbers(rows["mean_r_upper"] - mean, 0.0),
            "arrayminus": _numbers(mean - rows["mean_r_lower"], 0.0),
        }  # fmt: skip
        colours = [GOOD if value > 0 else BAD for value in mean]
        data.append(
            {
                "type": "bar", "x": list(rows["name"]), "y": _numbers(mean), "error_y": spread,
                "xaxis": f"x{axis}", "yaxis": f"y{axis}",
                "marker": {"color": colours, "opacity": [0.9 if ok else 0.35 for ok in rows["enough"]]},
                "text": [f"n = {row.n}, worth {row.n_eff:.1f}" for row in rows.itertuples()], "textposition": "none",
                "hovertemplate": "%{x}: %{y:+.3f} R<br>%{text}<extra></extra>",
            }
        )  # fmt: skip
        upper = by != "hour"
        layout[f"xaxis{axis}"] = {"domain": list(_DOMAINS[by]), "anchor": f"y{axis}", "type": "category"}
        layout[f"yaxis{axis}"] = {
            "domain": [0.58, 1.0] if upper else [0.0, 0.4], "anchor": f"x{axis}",
            "title": {"text": "mean R" if by in ("symbol", "hour") else ""}, "automargin": True,
        }  # fmt: skip
        layout["annotations"].append(
            {"text": title, "xref": f"x{axis} domain", "yref": f"y{axis} domain", "x": 0, "y": 1.02, "xanchor": "left",
             "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        )  # fmt: skip
    return {"data": data, "layout": layout}


def _challenge(found: Figures) -> Spec | None:
    """The simulated accounts: the middle 80 % of balances, and the shares that passed or broke a limit by each day."""
    run = found.challenge
    if run is None:
        return None
    days = list(range(run.days + 1))
    fan = run.equity - 1.0
    data = [
        {**_line_of(days, fan[:, 0], "10 %", {"color": OWN, "width": 0.6}), "showlegend": False},
        {
            **_line_of(days, fan[:, 2], "middle 80 %", {"color": OWN, "width": 0.6}),
            "fill": "tonexty",
            "fillcolor": OWN + "22",
        },
        _line_of(days, fan[:, 1], "median", {"color": OWN, "width": 2}),
    ]
    shares = (
        ("passed", run.passed_by_day, GOOD), ("daily limit broken", run.daily_by_day, BAD),
        ("maximum loss broken", run.total_by_day, "#7b2d8b"),
    )  # fmt: skip
    data += [{**_line_of(days, y, name, {"color": c, "width": 2}), "yaxis": "y2"} for name, y, c in shares]
    layout = {
        "height": 440,
        "xaxis": {"title": {"text": "the firm's days"}, "anchor": "y2"},
        "yaxis": {"title": {"text": "balance"}, "domain": [0.56, 1.0], **_PERCENT},
        "yaxis2": {"title": {"text": "share of accounts"}, "domain": [0.0, 0.46], "tickformat": ".0%"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }
    return {"data": data, "layout": layout}


def _line_of(x: list[int], y: npt.ArrayLike, name: str, line: Spec) -> Spec:
    return {"type": "scatter", "mode": "lines", "x": x, "y": _numbers(y), "name": name, "line": line,
            "hovertemplate": "day %{x}: %{y:.1%}"}  # fmt: skip


def _numbers(values: npt.ArrayLike | Sequence[float], missing: float | None = None) -> list[float | None]:
    """Values for JSON: six significant digits, `missing` for what is not finite."""
    return [float(f"{v:.{_DIGITS}g}") if isfinite(v) else missing for v in np.asarray(values, float).tolist()]


def _times(values: pd.Series) -> list[str]:
    """Instants as plotly takes them, in UTC."""
    return list(pd.DatetimeIndex(values).tz_convert("UTC").strftime("%Y-%m-%d %H:%M"))
