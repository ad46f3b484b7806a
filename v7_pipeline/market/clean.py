"""What a candle must satisfy before it is written: repaired where the truth is certain, refused where it is not.

Where candles come from is the client's business; quiet minutes and gaps are the grid's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.market.errors import MarketError
from v7_pipeline.market.minutes import MINUTE_US, iso, micros, open_times, to_index

__all__ = ["CANDLE_COLUMNS", "PRICES", "clean"]

PRICES = ("open", "high", "low", "close")
CANDLE_COLUMNS = ("symbol", "open_time", *PRICES, "volume")
_VALUES = (*PRICES, "volume")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def clean(
    frame: pd.DataFrame, *, symbol: str, start: datetime, end: datetime, now: datetime
) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """The candles of `symbol` with start ≤ open_time < end that are closed at `now`, and what was repaired.

    `frame` has open_time (aware), open, high, low, close and volume, in any order. The result has CANDLE_COLUMNS,
    ascending, one row a minute, float64, open_time as datetime64[us, UTC].

    Repaired, and counted in rows: `outside_window`; `forming` (open_time + 1 min > now); `duplicates` (the same
    row again); `superseded` (an earlier state of the same candle: same open, range within, less volume — a candle
    that is still forming only ever grows into its final one, so the fuller row is the later); `reordered` (rows
    older than the row before them). Only what happened is in the mapping.

    Raises MarketError with the offending row for what cannot be repaired: times off the minute, prices that are
    not finite and positive, volume that is not finite or is negative, high or low that do not hold the others,
    and two states of one minute of which neither contains the other. Raises ValueError for naive times.
    """
    first, last, closed = micros(start, "start"), micros(end, "end"), micros(now, "now") - MINUTE_US
    times, values = _arrays(frame, symbol)
    inside = (times >= first) & (times < last)
    forming = inside & (times > closed)
    repairs = {"outside_window": int((~inside).sum()), "forming": int(forming.sum())}
    keep = inside & ~forming
    times, values = times[keep], values[keep]
    repairs["reordered"] = int((np.diff(times) < 0).sum())

    _refuse_impossible(symbol, times, values)
    times, values, repairs["duplicates"], repairs["superseded"] = _one_per_minute(symbol, times, values)
    out = pd.DataFrame({"symbol": symbol, "open_time": to_index(times)}, columns=list(CANDLE_COLUMNS[:2]))
    out["symbol"] = out["symbol"].astype(object)
    for i, name in enumerate(_VALUES):
        out[name] = values[:, i]
    return out, {name: count for name, count in repairs.items() if count}


def _arrays(frame: pd.DataFrame, symbol: str) -> tuple[Ints, Floats]:
    missing = [name for name in CANDLE_COLUMNS[1:] if name not in frame]
    if missing:
        raise MarketError(f"{symbol}: the candles have no column {', '.join(missing)}; they need {CANDLE_COLUMNS[1:]}")
    if "symbol" in frame:
        others = set(frame["symbol"]) - {symbol}
        if others:
            raise MarketError(f"{symbol}: rows of {sorted(map(str, others))} are mixed in; pass one symbol's candles")
    try:
        values = frame.loc[:, list(_VALUES)].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise MarketError(f"{symbol}: prices or volumes are not numbers; pass them as float64") from None
    if frame["open_time"].isna().any():
        raise MarketError(f"{symbol}: {int(frame['open_time'].isna().sum())} candles have no time; fetch them again")
    return open_times(frame), values


def _refuse_impossible(symbol: str, times: Ints, values: Floats) -> None:
    open_, high, low, close, volume = values.T
    prices = values[:, :4]
    rules = (
        (times % MINUTE_US != 0, "does not start on a whole minute"),
        (~np.isfinite(values).all(axis=1), "has a value that is missing or not finite"),
        ((prices <= 0).any(axis=1), "has a price that is not positive"),
        (volume < 0, "has a negative volume"),
        (high < low, "has its high below its low"),
        (high < np.maximum(open_, close), "has its high below its open or close"),
        (low > np.minimum(open_, close), "has its low above its open or close"),
    )
    for broken, what in rules:
        if broken.any():
            rows = np.flatnonzero(broken)
            worst = rows[np.lexsort((*values[rows].T, times[rows]))[0]]
            more = f" (and {len(rows) - 1} more like it)" if len(rows) > 1 else ""
            raise MarketError(
                f"{symbol}: the candle {_row(times[worst], values[worst])} {what}{more}; nothing of this answer is "
                "kept — fetch it again, and if it stays so, exclude that minute or use the other API"
            )


def _one_per_minute(symbol: str, times: Ints, values: Floats) -> tuple[Ints, Floats, int, int]:
    """Ascending, unique rows; how many repeated another exactly, and how many were an earlier state of another."""
    order = np.lexsort((values[:, 3], values[:, 2], values[:, 1], values[:, 0], values[:, 4], times))
    times, values = times[order], values[order]
    same_minute = times[1:] == times[:-1]
    repeated = same_minute & (values[1:] == values[:-1]).all(axis=1)
    keep = np.concatenate(([True], ~repeated)) if len(times) else np.zeros(0, bool)
    times, values = times[keep], values[keep]

    # Within a minute rows now ascend by volume, so "contains the one before" is transitive up to the last.
    earlier, later = values[:-1], values[1:]
    same_minute = times[1:] == times[:-1]
    grew = (
        (later[:, 0] == earlier[:, 0])
        & (later[:, 1] >= earlier[:, 1])
        & (later[:, 2] <= earlier[:, 2])
        & (later[:, 4] > earlier[:, 4])
    )
    conflict = np.flatnonzero(same_minute & ~grew)
    if len(conflict):
        i = int(conflict[0])
        raise MarketError(
            f"{symbol}: two different candles of one minute, {_row(times[i], values[i])} and "
            f"{_row(times[i + 1], values[i + 1])}, and neither is an earlier state of the other; "
            "nothing of this answer is kept — fetch it again"
        )
    last = np.concatenate((~same_minute, [True])) if len(times) else np.zeros(0, bool)
    return times[last], values[last], int(repeated.sum()), int(same_minute.sum())


def _row(time: int, values: Floats) -> str:
    return f"{iso(int(time))} (" + ", ".join(f"{n}={v:.12g}" for n, v in zip(_VALUES, values, strict=True)) + ")"
