"""Draw docs/img/theories/<theory>.png: each theory against the price on recorded candles, and beside its null.

    python scripts/make_pictures.py --candles ../shared/data/candles/BTC-USD_1m.parquet

Run it after a change of a theory or its null; the candles are those of any recording that has the two days.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from scipy.special import ndtr
from scipy.stats import beta

from v7_pipeline.sandbox.replay import read_recording
from v7_pipeline.store.schema import HEADLINE_WINDOW, THEORY_NAMES
from v7_pipeline.theories import compute_features, registry
from v7_pipeline.theories.base import HIGH, LOW, Bars
from v7_pipeline.theories.frames import as_grid
from v7_pipeline.theories.nulls import load

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "img" / "theories"
FIRST, LAST = datetime(2023, 12, 10, tzinfo=UTC), datetime(2023, 12, 12, tzinfo=UTC)
HISTORY = timedelta(days=3)
INK, PRICE, VALUE, NULL, UP, DOWN = "#3c424a", "#5b6470", "#1f5bad", "#b25c00", "#1a7f37", "#b3261e"
HEADLINE = {
    "shannon_entropy": "entropy_240", "hurst_exponent": "hurst_rs_240", "kolmogorov_complexity": "lz_240",
    "market_regime": "p_bull", "risk_metrics": "cvar_95_240", "fractal_dimension": "fractal_dimension_240",
    "price_momentum": "momentum_240", "kalman_filter": "kalman_slope", "monte_carlo": "p_target",
    "bayesian_win_rate": "win_rate",
}  # fmt: skip


def main() -> None:
    """Compute the two days once and draw every theory."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--candles", type=Path, required=True, help="BTC-USD's one-minute candles (parquet or csv)")
    candles = read_recording(options.parse_args().candles)
    span = (candles["open_time"] >= FIRST - HISTORY) & (candles["open_time"] < LAST)
    grid = as_grid(candles[span].assign(symbol="BTC-USD"), gap_minutes=15)
    features = compute_features(grid, since=FIRST)
    close = grid.set_index("open_time")["close"]
    first = int((grid["open_time"] < FIRST).sum())
    bars = Bars(
        grid["close"].to_numpy(float), grid["observed"].to_numpy(bool),
        int(grid["open_time"].iloc[0].timestamp()) // 60, first, (120, HEADLINE_WINDOW, 1440), 0.8,
    )  # fmt: skip
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in THEORY_NAMES:
        figure = _figure(name, features, close[close.index >= FIRST], bars)
        FigureCanvasAgg(figure).print_png(str(FOLDER / f"{name}.png"))
        print(f"wrote docs/img/theories/{name}.png")


def _figure(name: str, features: pd.DataFrame, close: pd.Series, bars: Bars) -> Figure:
    figure = Figure(figsize=(10, 3.6), dpi=90, layout="constrained")
    axes = figure.subplot_mosaic([["price", "null"], ["value", "null"]], width_ratios=[2.4, 1])
    axes["price"].sharex(axes["value"])
    axes["price"].plot(close.index, close.to_numpy(), color=PRICE, linewidth=0.8)
    axes["price"].set_ylabel("BTC-USD", fontsize=8)
    axes["price"].tick_params(labelbottom=False)
    _value(axes["value"], name, features)
    if name == "bayesian_win_rate":
        _posterior(axes["null"])
    else:
        _null(axes["null"], name, bars)
    for axis in axes.values():
        axis.tick_params(labelsize=7, colors=INK)
        axis.grid(alpha=0.25)
    return figure


def _value(axis: Any, name: str, features: pd.DataFrame) -> None:
    column = HEADLINE[name]
    times, values = features["as_of"].to_numpy(), features[column].to_numpy()
    axis.set_ylabel(column, fontsize=8)
    if np.isnan(values).all():
        axis.text(0.5, 0.5, "no signal has closed: nothing to read", transform=axis.transAxes, ha="center", color=INK)
        axis.set_xlim(times[0], times[-1])
    else:
        axis.plot(times, values, color=VALUE, linewidth=0.8)
    votes = features[f"{name}_vote"].to_numpy()
    for sign, colour in ((1, UP), (-1, DOWN)):
        at = times[np.sign(votes) == sign]
        axis.plot(at, np.full(at.size, 0.03), "|", color=colour, markersize=7, transform=axis.get_xaxis_transform())
    locator = AutoDateLocator()
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _null(axis: Any, name: str, bars: Bars) -> None:
    entry: Any = registry.theory(name)
    seen = entry.statistic(bars)
    seen = np.sort(seen[~np.isnan(seen)])
    x, shares = _under_the_null(entry, bars, seen)
    axis.plot(x, shares, color=NULL, linewidth=1.4, label="noise")
    axis.plot(seen, np.arange(1, seen.size + 1) / seen.size, color=VALUE, linewidth=1.0, label="10–11 Dec 2023")
    axis.axhspan(LOW, HIGH, color="black", alpha=0.05, linewidth=0)
    axis.set_xlim(min(x[shares > 0.001][0], seen[0]), max(x[shares < 0.999][-1], seen[-1]))
    axis.set_title("distribution function of the statistic", fontsize=8)
    axis.legend(fontsize=7, loc="upper left")


def _under_the_null(entry: Any, bars: Bars, seen: Any) -> tuple[Any, Any]:
    """The null's distribution function, at these days' median share of quiet minutes and median reading."""
    if entry not in registry.SIMULATED_NULLS:
        x = np.linspace(min(-3.2, seen[0]), max(3.2, seen[-1]), 200)
        return x, ndtr(x)
    table = load(entry.NAME)
    level = int(np.abs(table.levels - np.median(bars.quiet_share())).argmin())
    level = min(level, table.shares.shape[0] - 1)
    readings = table.readings[level]
    reading = int(np.abs(readings - np.nanmedian(entry.reading(bars))).argmin()) if len(readings) > 1 else 0
    knots = np.arange(table.shares.shape[2])
    return table.low[level, reading] + knots * table.step[level, reading], table.shares[level, reading]


def _posterior(axis: Any) -> None:
    p = np.linspace(0, 1, 300)
    axis.plot(p, beta.pdf(p, 13, 9), color=VALUE, linewidth=1.2, label="Beta(13, 9): 12 of 20 won")
    axis.axvline(registry.theory("bayesian_win_rate").BREAK_EVEN, color=NULL, linewidth=1.2, label="break-even")
    axis.set_title("a posterior, for example", fontsize=8)
    axis.legend(fontsize=7, loc="upper left")


if __name__ == "__main__":
    main()
