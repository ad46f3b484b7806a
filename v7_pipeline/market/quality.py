"""What is wrong or odd in stored candles: outages, completeness, quiet minutes, jumps. Frames in, frames out.

It names what it sees; what is repaired is clean.py's business, and what is made of it is the checks'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.market.minutes import MINUTE_US, ceil_minute, micros, open_times, to_index

__all__ = ["JUMP_SIGMAS", "completeness", "jumps", "outages", "zero_volume_share"]

#: One-minute deviations beyond which a candle is shown to a person: 24 candles in six weeks of three products.
JUMP_SIGMAS = 25.0
_WINDOW, _ENOUGH, _LONGEST_GAP = 1440, 60, 15

Ints = npt.NDArray[np.int64]


def outages(
    candles: pd.DataFrame,
    symbols: Sequence[str],
    *,
    start: datetime,
    end: datetime,
    longer_than: int = 15,
    since: Mapping[str, datetime] | None = None,
) -> pd.DataFrame:
    """Stretches of more than `longer_than` minutes of [start, end) in which a symbol has no candle.

    `since` says from when on a symbol's candles are expected where that is later than `start`. Columns: symbol, first
    and last missing minute, minutes, shared (every symbol was silent for a part of it: the venue, not the product).
    """
    rows = []
    for symbol in symbols:
        times, first, stop = _expected(candles, symbol, start, end, since)
        edges = np.concatenate(([first - MINUTE_US], times, [stop]))
        silent = np.diff(edges) // MINUTE_US - 1
        for place in np.flatnonzero(silent > longer_than):
            rows.append((symbol, edges[place] + MINUTE_US, edges[place + 1] - MINUTE_US, int(silent[place])))
    found = pd.DataFrame(rows, columns=["symbol", "first", "last", "minutes"])
    shared = [
        all(
            bool(((found["symbol"] == other) & (found["first"] <= row.last) & (found["last"] >= row.first)).any())
            for other in symbols
        )
        for row in found.itertuples()
    ]
    for name in ("first", "last"):
        found[name] = to_index(found[name].to_numpy(np.int64))
    found["minutes"] = found["minutes"].astype("int64")
    return found.assign(shared=np.array(shared, dtype=bool))


def completeness(
    candles: pd.DataFrame,
    symbols: Sequence[str],
    *,
    start: datetime,
    end: datetime,
    since: Mapping[str, datetime] | None = None,
) -> dict[str, float]:
    """Share of the minutes of [start, end) (from `since` on) that have a candle, by symbol; NaN where none was due."""
    shares = {}
    for symbol in symbols:
        times, first, stop = _expected(candles, symbol, start, end, since)
        due = (stop - first) // MINUTE_US
        shares[symbol] = len(times) / due if due > 0 else float("nan")
    return shares


def zero_volume_share(candles: pd.DataFrame) -> dict[str, float]:
    """Share of each symbol's candles in which nothing was traded; symbols without candles are left out."""
    silent = (candles["volume"] == 0).groupby(candles["symbol"]).mean()
    return {str(symbol): float(share) for symbol, share in silent.items()}


def jumps(candles: pd.DataFrame, *, sigmas: float = JUMP_SIGMAS, since: datetime | None = None) -> pd.DataFrame:
    """Candles whose high, low or close lies more than `sigmas` robust deviations from the close before.

    The deviation of a minute is the square root of π/2 · mean |r| |r before| over the 1440 candles before it (bipower
    variation, Barndorff-Nielsen & Shephard 2004): a jump among them hardly moves it. A move over k minutes is compared
    with √k of it; after a gap of more than 15 minutes, or with fewer than 60 candles behind, nothing is said. `since`:
    only candles from then on. Columns: symbol, open_time, open, high, low, close, move (log, signed), sigmas.
    """
    found = [_jumps_of(rows.sort_values("open_time"), sigmas) for _, rows in candles.groupby("symbol", sort=True)]
    columns = ["symbol", "open_time", "open", "high", "low", "close", "move", "sigmas"]
    all_ = pd.concat(found, ignore_index=True) if found else candles.assign(move=np.nan, sigmas=np.nan).iloc[:0]
    return (all_ if since is None else all_[all_["open_time"] >= since])[columns].reset_index(drop=True)


def _jumps_of(rows: pd.DataFrame, sigmas: float) -> pd.DataFrame:
    """The jumps among one symbol's ordered candles."""
    close = rows["close"].to_numpy(np.float64)
    minutes = np.diff(open_times(rows)) / MINUTE_US
    step = np.sqrt(minutes)
    returns = np.abs(np.diff(np.log(close))) / step
    returns[minutes > _LONGEST_GAP] = np.nan
    products = pd.Series(returns[1:] * returns[:-1])
    deviation = np.sqrt(np.pi / 2 * products.rolling(_WINDOW, min_periods=_ENOUGH).mean().to_numpy())
    # Of the candles before: the newest product in the mean ends one candle earlier.
    before = np.full(len(close), np.nan)
    before[3:] = deviation[:-1]
    moves = [np.log(rows[name].to_numpy(np.float64)[1:] / close[:-1]) for name in ("high", "low", "close")]
    stacked = np.stack(moves)
    move = np.full(len(close), np.nan)
    move[1:] = np.take_along_axis(stacked, np.abs(stacked).argmax(axis=0)[None], axis=0)[0] / step
    move[1:][minutes > _LONGEST_GAP] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(move) / before
    jumped = size > sigmas
    return rows[jumped].assign(move=move[jumped], sigmas=size[jumped])


def _expected(
    candles: pd.DataFrame, symbol: str, start: datetime, end: datetime, since: Mapping[str, datetime] | None
) -> tuple[Ints, int, int]:
    """Its distinct candles' minutes within what is due, and from when to when that is, in microseconds."""
    first = micros(max(start, since[symbol]) if since and symbol in since else start, "start")
    first, stop = ceil_minute(first), ceil_minute(micros(end, "end"))
    times = np.unique(open_times(candles[candles["symbol"] == symbol]))
    return times[(times >= first) & (times < stop)], first, max(first, stop)
