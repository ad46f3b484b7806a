"""compute_features: from dense minute grids to one reading a symbol and minute, and the warm-up of what is compiled.

Only frames in, frames out and the loop over symbols and theories; each theory's mathematics is in its own file.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.store.schema import HEADLINE_WINDOW, WINDOWS
from v7_pipeline.theories import bayesian_win_rate, registry
from v7_pipeline.theories.base import Bars, Floats, Posterior
from v7_pipeline.theories.frames import as_grid

__all__ = ["compute_features", "warm_up"]

_COLUMNS = ("symbol", "open_time", "close", "observed")
_MINUTE_US = 60_000_000
_SHORTEST, _LONGEST = 64, 2880


def compute_features(
    candles: pd.DataFrame,
    windows: tuple[int, ...] = WINDOWS,
    *,
    gap_minutes: int = 15,
    win_rates: pd.DataFrame | None = None,
    since: datetime | None = None,
    min_observed_share: float = 0.8,
) -> pd.DataFrame:
    """Every theory's reading of each minute of the grid: symbol, as_of (open_time + 1 min), observed_share, columns.

    `candles`: closed candles, long or wide (see frames.as_grid), of which a gap of more than `gap_minutes` breaks the
    windows it lies in; or their dense grid (symbol, open_time in UTC, close, observed and whatever else; quiet minutes
    repeat the close, broken stretches have none). `windows` in minutes, 64 to 2880. `win_rates` as store/schema.py has
    them: at t the newest with as_of ≤ t counts. `since`: only rows with as_of ≥ since are computed and returned; the
    earlier ones are look-back, of which 2 · 1440 + 8 minutes are enough for every column. Rows without a close are
    left out; rows before there is enough unbroken history have missing values, vote 0 and score 0. Ordered by symbol
    and as_of. Raises ValueError on missing columns, a grid that is not dense, naive times or impossible prices.
    """
    grid = as_grid(candles, gap_minutes=gap_minutes)
    _check(grid, windows, since, min_observed_share)
    names = registry.column_names(windows)
    posteriors = bayesian_win_rate.posteriors(win_rates)
    minutes = _minutes(grid["open_time"])
    start = None if since is None else int(-(-_microseconds(since) // _MINUTE_US))
    frames = []
    for symbol, rows in _symbols(grid):
        frames.append(
            _of_symbol(
                symbol,
                np.array(grid["close"].to_numpy(np.float64)[rows]),
                np.array(grid["observed"].to_numpy(bool)[rows]),
                minutes[rows],
                start,
                windows,
                min_observed_share,
                posteriors,
            )
        )
    return _frame(frames, names)


def warm_up() -> None:
    """Compile (or load from the cache) every kernel and run each once."""
    n = 2 * max(WINDOWS) + 8
    close = 100 * np.exp(1e-4 * np.cumsum(np.random.default_rng(0).standard_normal(n)))
    times = pd.date_range("2024-01-01", periods=n, freq="min", tz="UTC").as_unit("us")
    grid = pd.DataFrame({"symbol": "WARM-UP", "open_time": times, "close": close, "observed": True})
    compute_features(grid, since=times[-1].to_pydatetime())


def _check(grid: pd.DataFrame, windows: tuple[int, ...], since: datetime | None, min_observed_share: float) -> None:
    missing = [name for name in _COLUMNS if name not in grid]
    if missing:
        raise ValueError(f"the grid lacks {', '.join(missing)}; make it dense with market.grid first")
    if str(getattr(grid["open_time"].dtype, "tz", None)) != "UTC":
        raise ValueError("grid.open_time must be timezone-aware UTC")
    if since is not None and since.utcoffset() is None:
        raise ValueError(f"since ({since}) must be timezone-aware")
    for w in windows:
        if not _SHORTEST <= w <= _LONGEST:
            raise ValueError(f"a window of {w} minutes is outside {_SHORTEST} to {_LONGEST}")
    if not windows or len(set(windows)) != len(windows):
        raise ValueError(f"windows {windows} must be at least one and different")
    if not 0 <= min_observed_share <= 1:
        raise ValueError(f"min_observed_share {min_observed_share} is no share")
    close = grid["close"].to_numpy(np.float64)
    impossible = ~(np.isnan(close) | ((close > 0) & np.isfinite(close)))
    if impossible.any():
        row = grid.iloc[int(np.argmax(impossible))]
        raise ValueError(f"the close {row['close']} of {row['symbol']} at {row['open_time']} is no price")


def _microseconds(when: datetime) -> int:
    return (pd.Timestamp(when) - pd.Timestamp(0, tz="UTC")) // timedelta(microseconds=1)


def _minutes(times: pd.Series) -> npt.NDArray[np.int64]:
    microseconds = times.astype("datetime64[us, UTC]").astype("int64").to_numpy()
    if (microseconds % _MINUTE_US).any():
        raise ValueError("grid.open_time must lie on whole minutes")
    return microseconds // _MINUTE_US


def _symbols(grid: pd.DataFrame) -> list[tuple[str, Any]]:
    """Each symbol with the positions of its rows, as a slice where they lie together."""
    result: list[tuple[str, Any]] = []
    for symbol, index in sorted(grid.groupby("symbol", sort=False, observed=True).indices.items()):
        together = index[-1] - index[0] + 1 == index.size and bool((np.diff(index) == 1).all())
        result.append((str(symbol), slice(int(index[0]), int(index[-1]) + 1) if together else index))
    return result


def _of_symbol(
    symbol: str,
    close: Floats,
    observed: npt.NDArray[np.bool_],
    minutes: npt.NDArray[np.int64],
    start: int | None,
    windows: tuple[int, ...],
    min_observed_share: float,
    posteriors: dict[str, Posterior],
) -> dict[str, Any]:
    if minutes[-1] - minutes[0] != minutes.size - 1 or (np.diff(minutes) != 1).any():
        raise ValueError(
            f"the grid of {symbol} is not dense and ordered by minute; make it dense with market.grid first"
        )
    epoch = int(minutes[0])
    first = 0 if start is None else min(max(start - 1 - epoch, 0), minutes.size)
    known = ~np.isnan(close[first:])
    columns: dict[str, Any] = {"symbol": symbol, "minute": minutes[first:][known] + 1}
    if not known.any():
        return columns
    bars = Bars(close, observed, epoch, first, windows, min_observed_share, posteriors)
    readings: dict[str, Floats] = {"observed_share": bars.observed_share(HEADLINE_WINDOW)}
    for entry in registry.THEORIES:
        readings |= entry.values(bars)
        percentile = entry.percentile(bars)
        score = entry.score(bars, percentile)
        readings[f"{entry.NAME}_percentile"] = percentile
        readings[f"{entry.NAME}_score"] = score
        readings[f"{entry.NAME}_vote"] = entry.vote(bars, percentile, score)
    return columns | {name: column[known] for name, column in readings.items()}


def _frame(parts: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    names = ["observed_share", *names]
    parts = [part for part in parts if len(part["minute"])]
    data: dict[str, Any] = {
        "symbol": np.repeat(np.array([p["symbol"] for p in parts], object), [len(p["minute"]) for p in parts]),
        "as_of": pd.to_datetime(
            np.concatenate([np.empty(0, np.int64), *(p["minute"] for p in parts)]) * _MINUTE_US, unit="us", utc=True
        ).as_unit("us"),
    }
    for name in names:
        data[name] = np.concatenate([np.empty(0), *(p[name] for p in parts)])
    return pd.DataFrame(data, columns=["symbol", "as_of", *names])
