"""EMA 9/21, RSI 14, MACD 12/26/9, Bollinger 20/2 and ATR 14 of each minute, from candles closed by then.

The formulas are TA-Lib's; here is only which candles they see. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.market.grid import dense_grid

__all__ = ["COLUMNS", "FEATURES", "WARM_UP", "indicators"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Lengths of a candle in minutes.
FRAMES = (1, 5)
_RAW = ("ema_9", "ema_21", "rsi_14", "macd", "macd_signal", "bollinger_middle", "bollinger_width", "atr_14")
_SCALED = ("ema_spread", "rsi", "macd_histogram", "bollinger", "range")
#: Numbers without a unit, alike for every price: what a model reads.
FEATURES = tuple(f"{name}_{frame}m" for frame in FRAMES for name in _SCALED)
COLUMNS = (*(f"{name}_{frame}m" for frame in FRAMES for name in _RAW), *FEATURES)
#: Minutes without a gap that a value has behind it at least. By then the slowest average, 26 candles of five minutes,
#: has forgotten all but (1 − 2/27)^144 = 0.002 % of how it began.
WARM_UP = 720
_DAY_MINUTES = 1440
_DAY = timedelta(days=1)


def indicators(candles: pd.DataFrame, *, start: datetime, end: datetime, gap_minutes: int = 15) -> pd.DataFrame:
    """Indicators of one symbol at each instant start < as_of ≤ end, from the candles that had closed by then.

    candles: open_time, open, high, low, close, volume of one symbol, from midnight UTC of the day before `start`'s on
    for full values. Columns of the result: as_of (UTC), close (USD; missing in a gap) and COLUMNS: averages, MACD and
    ATR in USD, RSI from 0 to 100, Bollinger's width as two standard deviations in USD; and FEATURES, without unit:
    ema_spread = (EMA 9 − EMA 21) ÷ ATR, rsi = RSI ÷ 50 − 1, macd_histogram = (MACD − signal) ÷ ATR, bollinger =
    (close − middle) ÷ width, range = ATR ÷ close.

    Averages are recursive, so their last bits depend on where they begin. They begin at midnight UTC of the day before,
    or after the last gap of more than `gap_minutes`, so that an instant's values are the same bit for bit whichever
    span is asked for. Missing until WARM_UP minutes have passed since; a ratio is missing where nothing moved.

    Sources: J. W. Wilder, New Concepts in Technical Trading Systems (1978), RSI p. 63, ATR p. 21; G. Appel, Technical
    Analysis (2005), MACD p. 165; J. Bollinger, Bollinger on Bollinger Bands (2001), p. 53. ValueError for naive times.
    """
    first, stop = pd.Timestamp(start), pd.Timestamp(end)
    if first.tzinfo is None or stop.tzinfo is None:
        raise ValueError("start and end need a time zone; pass instants in UTC")
    day = first.tz_convert("UTC").floor("D")
    grid = dense_grid(candles, start=day - _DAY, end=stop, gap_minutes=gap_minutes)
    parts = []
    for begin in range(0, max(len(grid) - _DAY_MINUTES, 0), _DAY_MINUTES):
        # Two days are computed and the second kept, so that whoever asks gets the same bits.
        two = grid.iloc[begin : begin + 2 * _DAY_MINUTES]
        parts.append(_of_two_days(two).iloc[_DAY_MINUTES:])
    made = pd.concat(parts, ignore_index=True) if parts else _empty()
    return made[(made["as_of"] > first) & (made["as_of"] <= stop)].reset_index(drop=True)


def _empty() -> pd.DataFrame:
    frame = pd.DataFrame(columns=["as_of", "close", *COLUMNS], dtype="float64")
    return frame.assign(as_of=pd.DatetimeIndex([], tz="UTC"))


def _of_two_days(grid: pd.DataFrame) -> pd.DataFrame:
    """Indicators of each row of a grid that begins at midnight UTC."""
    columns = {name: np.full(len(grid), np.nan) for name in COLUMNS}
    run = grid["run"].to_numpy()
    prices = {name: grid[name].to_numpy() for name in ("high", "low", "close")}
    for begin, stop in _stretches(run):
        for frame in FRAMES:
            rows, bars = _bars({name: values[begin:stop] for name, values in prices.items()}, begin, frame)
            for name, values in _technical(bars).items():
                column = columns[f"{name}_{frame}m"]
                column[begin:stop] = np.where(rows >= 0, values[rows], np.nan)
        for column in columns.values():
            column[begin : min(begin + WARM_UP, stop)] = np.nan
    as_of = grid["open_time"] + pd.Timedelta(minutes=1)
    return pd.DataFrame({"as_of": as_of, "close": grid["close"], **columns})


def _stretches(run: Ints) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of each stretch without a missing minute."""
    edges = np.flatnonzero(np.diff(run)) + 1
    bounds = np.concatenate(([0], edges, [len(run)]))
    for begin, stop in pairwise(bounds):
        if run[begin] >= 0 and stop - begin > WARM_UP:
            yield int(begin), int(stop)


def _bars(prices: dict[str, Floats], begin: int, frame: int) -> tuple[Ints, dict[str, Floats]]:
    """Candles of `frame` minutes that begin on the clock, and for each minute the newest that has closed (−1: none)."""
    lead = -begin % frame  # minutes before the first whole candle
    whole = (len(prices["close"]) - lead) // frame
    cut = {name: values[lead : lead + whole * frame].reshape(whole, frame) for name, values in prices.items()}
    bars = {"high": cut["high"].max(axis=1), "low": cut["low"].min(axis=1), "close": cut["close"][:, -1].copy()}
    rows = (np.arange(len(prices["close"])) - lead + 1) // frame - 1
    return np.maximum(rows, -1), bars


def _technical(bars: dict[str, Floats]) -> dict[str, Floats]:
    """Every indicator of consecutive candles without a missing one."""
    import talib

    high, low, close = bars["high"], bars["low"], bars["close"]
    fast, slow = talib.EMA(close, 9), talib.EMA(close, 21)
    rsi = talib.RSI(close, 14)
    macd, signal, histogram = talib.MACD(close, 12, 26, 9)
    upper, middle, _ = talib.BBANDS(close, 20, 2.0, 2.0)
    width, atr = upper - middle, talib.ATR(high, low, close, 14)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = {
            "ema_spread": (fast - slow) / atr,
            "rsi": rsi / 50.0 - 1.0,
            "macd_histogram": histogram / atr,
            "bollinger": (close - middle) / width,
            "range": atr / close,
        }
    rsi, scaled["rsi"] = (np.where(atr > 0, values, np.nan) for values in (rsi, scaled["rsi"]))  # TA-Lib says 0
    raw = dict(zip(_RAW, (fast, slow, rsi, macd, signal, middle, width, atr), strict=True))
    return raw | {name: np.where(np.isfinite(values), values, np.nan) for name, values in scaled.items()}
