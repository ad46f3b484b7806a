"""compute_features: from dense minute grids to one reading a symbol and minute, and the warm-up of what is compiled.

Only frames in, frames out and the loop over symbols and theories; each theory's mathematics is in its own file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.store.schema import HEADLINE_WINDOW, WINDOWS
from v7_pipeline.theories import bayesian_win_rate, registry
from v7_pipeline.theories.base import Bars, Floats, Posterior
from v7_pipeline.theories.frames import as_grid

__all__ = ["CHUNK", "Minutes", "compute_features", "readings", "warm_up"]

_COLUMNS = ("symbol", "open_time", "close", "observed")
_MINUTE_US = 60_000_000
_SHORTEST, _LONGEST = 64, 2880
#: Rows a task: its arrays stay in a core's cache, and its look-back is a small part of it.
CHUNK = 32_768
#: Below so many rows, look-back included, a pool of threads costs more than it saves.
_FOR_ONE_THREAD = 16_384


@dataclass(frozen=True, slots=True)
class Minutes:
    """One symbol's dense minutes from the epoch minute `epoch` on, checked; no close where the price is not known."""

    symbol: str
    epoch: int
    close: Floats
    observed: npt.NDArray[np.bool_]


def compute_features(
    candles: pd.DataFrame,
    windows: tuple[int, ...] = WINDOWS,
    *,
    gap_minutes: int = 15,
    win_rates: pd.DataFrame | None = None,
    since: datetime | None = None,
    min_observed_share: float = 0.8,
    threads: int | None = None,
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """Every theory's reading of each minute of the grid: symbol, as_of (open_time + 1 min), observed_share, columns.

    `candles`: closed candles, long or wide (see frames.as_grid), of which a gap of more than `gap_minutes` breaks the
    windows it lies in; or their dense grid (symbol, open_time in UTC, close, observed and whatever else; quiet minutes
    repeat the close, broken stretches have none). `windows` in minutes, 64 to 2880. `win_rates` as store/schema.py has
    them: at t the newest with as_of ≤ t counts. `since`: only rows with as_of ≥ since are computed and returned; the
    earlier ones are look-back, of which 2 · 1440 + 8 minutes are enough for every column. Rows without a close are
    left out; rows before there is enough unbroken history have missing values, vote 0 and score 0. Ordered by symbol
    and as_of. `threads` (default: one a core) share the work in chunks of `chunk` rows; neither changes a bit. Raises
    ValueError on missing columns, a grid that is not dense, naive times or impossible prices.
    """
    grid = as_grid(candles, gap_minutes=gap_minutes)
    _check(grid, windows, since, min_observed_share)
    if chunk < 1 or (threads is not None and threads < 1):
        raise ValueError(f"chunk ({chunk}) and threads ({threads}) must be at least 1")
    start = None if since is None else int(-(-_microseconds(since) // _MINUTE_US))
    posteriors = bayesian_win_rate.posteriors(win_rates)
    return readings(_symbols(grid), windows, posteriors, start, min_observed_share, threads, chunk)


def readings(
    symbols: Sequence[Minutes],
    windows: tuple[int, ...],
    posteriors: Mapping[str, Posterior],
    since: int | None,
    min_observed_share: float,
    threads: int | None = None,
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """compute_features of prepared minutes, in the order of `symbols`; `since` in epoch minutes."""
    names = ["observed_share", *registry.column_names(windows)]
    look_back = 2 * max(*windows, *WINDOWS) + 8
    stretches: list[_Stretch] = []
    rows = 0
    for each in symbols:
        first = 0 if since is None else min(max(since - 1 - each.epoch, 0), each.close.size)
        make = partial(Bars, each.close, each.observed, each.epoch, first, windows, min_observed_share, posteriors)
        stretches.append(_Stretch(make, each, first, rows, chunk))
        rows += stretches[-1].rows
    # One block, filled in place: a year of three symbols is a gigabyte, and a copy of it another.
    block = np.empty((len(names), rows))
    work = [stretch for stretch in stretches if stretch.rows]
    fill = partial(_fill, block, names, look_back)
    workers = min(threads or os.cpu_count() or 1, sum(len(stretch.cuts) for stretch in work))
    if workers < 2 or rows + len(work) * look_back <= _FOR_ONE_THREAD:
        for stretch in work:
            whole = stretch.bars()
            for begin, end in stretch.cuts:
                fill(stretch, whole, begin, end)
    else:
        _share(work, fill, workers)
    return _frame(stretches, block, names)


def _share(work: list[_Stretch], fill: Callable[[_Stretch, Bars, int, int], None], workers: int) -> None:
    """Every cut of every stretch, by threads; this one makes the next stretch's bars meanwhile, two at most at once."""
    running: list[list[Future[None]]] = []
    with ThreadPoolExecutor(workers) as pool:
        for each in work:
            for done in running.pop(0) if len(running) == 2 else []:
                done.result()
            whole = each.bars()
            running.append([pool.submit(fill, each, whole, begin, end) for begin, end in each.cuts])
            del whole  # a year's are 50 megabytes; they go with the last cut
        for futures in running:
            for done in futures:
                done.result()


class _Stretch:
    """A symbol's wanted minutes, where they go in the block, and how they are cut."""

    def __init__(self, make: Callable[[], Bars], minutes: Minutes, first: int, begin: int, chunk: int) -> None:
        self.minutes = minutes
        self.first = first
        self.begin = begin
        self.known = ~np.isnan(minutes.close[first:])
        self.rows = int(np.count_nonzero(self.known))
        parts = -(-self.known.size // chunk)
        edges = [first + self.known.size * i // parts for i in range(parts + 1)] if parts else []
        self.cuts = list(pairwise(edges))  # of one size, at most `chunk`
        self._make = make

    def bars(self) -> Bars:
        """The symbol's bars with what the theories remember of them."""
        bars = self._make()
        for entry in registry.THEORIES:
            remember = getattr(entry, "remember", None)
            if remember is not None:
                remember(bars)
        bars.forget()
        return bars

    def place(self, begin: int, end: int) -> tuple[npt.NDArray[np.bool_], slice]:
        """Which of these minutes have a price, and their rows in the block."""
        before = int(np.count_nonzero(self.known[: begin - self.first]))
        known = self.known[begin - self.first : end - self.first]
        start = self.begin + before
        return known, slice(start, start + int(np.count_nonzero(known)))


def _fill(
    block: Floats, names: list[str], look_back: int, stretch: _Stretch, whole: Bars, begin: int, end: int
) -> None:
    """All readings of some of a symbol's minutes, into their rows of the block."""
    known, rows = stretch.place(begin, end)
    if not known.any():
        return
    straight = bool(known.all())
    columns = block[:, rows] if straight else np.empty((len(names), known.size))
    into = dict(zip(names, columns, strict=True))
    bars = whole.part(max(begin - look_back, 0), begin, end, into)
    for name, column in _columns(bars):
        if column is not into[name]:
            into[name][:] = column
    if not straight:
        np.compress(known, columns, axis=1, out=block[:, rows])


def _columns(bars: Bars) -> Iterator[tuple[str, Floats]]:
    yield "observed_share", bars.observed_share(HEADLINE_WINDOW)
    for entry in registry.THEORIES:
        yield from entry.values(bars).items()
        percentile = entry.percentile(bars)
        score = entry.score(bars, percentile)
        yield f"{entry.NAME}_percentile", percentile
        yield f"{entry.NAME}_score", score
        yield f"{entry.NAME}_vote", entry.vote(bars, percentile, score)


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


def _epoch_minutes(times: pd.Series) -> npt.NDArray[np.int64]:
    microseconds = times.astype("datetime64[us, UTC]").astype("int64").to_numpy()
    minutes = microseconds // _MINUTE_US
    if (minutes * _MINUTE_US != microseconds).any():
        raise ValueError("grid.open_time must lie on whole minutes")
    return minutes


def _symbols(grid: pd.DataFrame) -> list[Minutes]:
    """Each symbol's minutes, in the order of symbols; views where a symbol's rows lie together."""
    minutes = _epoch_minutes(grid["open_time"])
    close, observed = grid["close"].to_numpy(np.float64), grid["observed"].to_numpy(bool)
    result = []
    for name, own in sorted(_rows_of_symbols(grid["symbol"]).items()):
        its = minutes[own]
        if its[-1] - its[0] != its.size - 1 or (np.diff(its) != 1).any():
            raise ValueError(
                f"the grid of {name} is not dense and ordered by minute; make it dense with market.grid first"
            )
        prices, seen = np.ascontiguousarray(close[own]), np.ascontiguousarray(observed[own])
        result.append(Minutes(name, int(its[0]), prices, seen))
    return result


def _rows_of_symbols(symbols: pd.Series) -> dict[str, Any]:
    """Each symbol's rows: a slice where they lie together, else their positions."""
    values = symbols.to_numpy(object)
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), values.size]
    runs: dict[str, Any] = {str(values[begin]): slice(begin, end) for begin, end in pairwise(edges) if begin < end}
    if len(runs) == len(edges) - 1:
        return runs
    codes, names = pd.factorize(values)
    return {str(name): np.flatnonzero(codes == code) for code, name in enumerate(names)}


def _frame(stretches: list[_Stretch], block: Floats, names: list[str]) -> pd.DataFrame:
    minutes = np.empty(block.shape[1], np.int64)
    for each in stretches:
        own = minutes[each.begin : each.begin + each.rows]
        if each.rows == each.known.size:
            own[:] = np.arange(each.rows)
        else:
            own[:] = np.flatnonzero(each.known)
        own += each.minutes.epoch + each.first + 1
    minutes *= _MINUTE_US
    frame = pd.DataFrame(block.T, columns=names, copy=False)
    frame.insert(0, "as_of", pd.Series(minutes.view("M8[us]")).dt.tz_localize("UTC"))
    symbols = np.array([each.minutes.symbol for each in stretches], object)
    frame.insert(0, "symbol", np.repeat(symbols, [each.rows for each in stretches]))
    return frame
