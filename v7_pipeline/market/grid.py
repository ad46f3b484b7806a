"""The dense minute grid: every minute from the first to the last, from observed candles only.

It says what was observed, what was quiet and what is missing; what a theory does with that is the theory's business.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.market.minutes import MINUTE_US, ceil_minute, iso, micros, open_times, to_index

__all__ = ["GRID_COLUMNS", "dense_grid", "observed_share"]

GRID_COLUMNS = ("open_time", "open", "high", "low", "close", "volume", "observed", "run")


def dense_grid(
    candles: pd.DataFrame, *, start: datetime | None = None, end: datetime | None = None, gap_minutes: int = 15
) -> pd.DataFrame:
    """One symbol's candles on every minute of [start, end), by default from the first candle to the last.

    A minute is one of three. *Observed*: as it came. *Quiet*: no candle, at most `gap_minutes` minutes after the
    last one: open, high, low and close repeat that close, volume is 0. *Missing*: more than `gap_minutes` after it, or
    before any: NaN throughout. `run` numbers the stretches without a missing minute from 0, and is −1 where missing:
    the window of W minutes that ends at row t is whole exactly where run[t − W + 1] == run[t] ≥ 0.

    A row depends on candles up to its own minute only, so the first `gap_minutes` minutes of an outage are quiet —
    nobody could know better then — and a later candle changes no earlier row. Candles before `start` are used for
    the close that quiet minutes repeat.

    Raises ValueError for two candles of one minute, times off the minute, or naive times.
    """
    times = open_times(candles)
    values = candles.loc[:, ["open", "high", "low", "close", "volume"]].to_numpy(dtype=np.float64)
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    _check(times)
    first, stop = _span(times, start, end)

    n = (stop - first) // MINUTE_US
    inside = slice(*np.searchsorted(times, (first, stop)))
    row = (times[inside] - first) // MINUTE_US
    candle = np.full(n, -1, dtype=np.int64)
    candle[row] = np.arange(inside.start, inside.stop)
    observed = candle >= 0
    # The newest candle at or before each minute; before the first inside, the one before `start` (or −1: none).
    candle = np.maximum.accumulate(np.where(observed, candle, inside.start - 1)) if n else candle
    minutes = first + MINUTE_US * np.arange(n, dtype=np.int64)

    known = candle >= 0
    age = np.full(n, gap_minutes + 1, dtype=np.int64)
    age[known] = (minutes[known] - times[candle[known]]) // MINUTE_US
    missing = age > gap_minutes
    quiet = ~observed & ~missing

    out = np.full((n, 5), np.nan)
    out[observed] = values[inside]
    out[quiet] = values[candle[quiet], 3][:, None]
    out[quiet, 4] = 0.0
    begins = ~missing & np.concatenate(([True], missing[:-1]))[:n]
    run = np.where(missing, -1, np.cumsum(begins) - 1)
    columns = dict(zip(GRID_COLUMNS[1:6], out.T, strict=True))
    return pd.DataFrame({"open_time": to_index(minutes), **columns, "observed": observed, "run": run})


def observed_share(grid: pd.DataFrame, window: int) -> npt.NDArray[np.float64]:
    """For each row the share, in [0, 1], of the last `window` minutes (itself included) that were observed.

    Minutes before the grid begins are not known to have been observed and count as not observed.
    """
    if window < 1:
        raise ValueError(f"a window has at least one minute, not {window}")
    total = np.concatenate(([0], np.cumsum(grid["observed"].to_numpy(dtype=np.int64))))
    upper = np.arange(1, len(total))
    return (total[upper] - total[np.maximum(upper - window, 0)]) / float(window)


def _check(times: npt.NDArray[np.int64]) -> None:
    off = np.flatnonzero(times % MINUTE_US)
    if len(off):
        raise ValueError(f"the candle at {iso(int(times[off[0]]))} is off the minute; clean the candles first")
    repeated = np.flatnonzero(np.diff(times) == 0)
    if len(repeated):
        raise ValueError(f"two candles at {iso(int(times[repeated[0]]))}; clean the candles (of one symbol) first")


def _span(times: npt.NDArray[np.int64], start: datetime | None, end: datetime | None) -> tuple[int, int]:
    """First minute and the minute after the last, in microseconds; (0, 0) where nothing says where to begin or end."""
    if not len(times) and (start is None or end is None):
        return 0, 0
    first = int(times[0]) if start is None else ceil_minute(micros(start, "start"))
    stop = int(times[-1]) + MINUTE_US if end is None else ceil_minute(micros(end, "end"))
    return first, max(first, stop)
