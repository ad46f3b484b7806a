"""The compiled loop of the triple barrier: candles and barriers as arrays in, what was touched first as arrays out.

No pandas, no fees, no names of columns. Import it inside functions only: numba takes a while to load.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["OPEN", "STOP", "TARGET", "TIME", "first_touch"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

OPEN, STOP, TARGET, TIME = 0, 1, 2, 3
_MINUTE_US = 60_000_000

_F = "float64[::1]"
_I = "int64[::1]"
_B = "uint8[::1]"


def _compiled(signature: str) -> Any:
    # One explicit signature: nothing is specialised again by accident.
    return njit(signature, cache=True, nogil=True, error_model="numpy")


@_compiled(
    f"void({_I}, {_F}, {_F}, {_F}, {_F}, {_I}, {_I}, {_F}, {_F}, {_F}, {_I}, {_I}, {_B}, {_B}, {_F}, {_F}, {_F})"
)
def first_touch(
    time: Integers,
    opens: Floats,
    highs: Floats,
    lows: Floats,
    closes: Floats,
    signalled: Integers,
    horizon: Integers,
    direction: Floats,
    stop: Floats,
    target: Floats,
    entry_place: Integers,
    last_place: Integers,
    reason: Bytes,
    ambiguous: Bytes,
    exit_price: Floats,
    highest: Floats,
    lowest: Floats,
) -> None:
    """For each trade of one symbol: where it was entered, which barrier was touched first, where and at what price.

    Candles: µs since 1970, ascending, and prices. Trades: µs of the signal and of the horizon, ±1, both barriers.
    Filled for each trade: the entry's candle (−1: none yet), the exit's or, while open, the newest one; the reason
    (OPEN … TIME); whether both barriers lay inside the candle; the price before slippage; extremes from entry to there.
    """
    n = time.size
    for i in range(signalled.size):
        entry_place[i], last_place[i], reason[i], ambiguous[i] = -1, -1, 0, 0
        exit_price[i], highest[i], lowest[i] = np.nan, np.nan, np.nan
        first = np.searchsorted(time, signalled[i])
        if first == n:
            continue
        over = time[first] + horizon[i]
        high, low = highs[first], lows[first]
        k = first
        while k < n and time[k] < over:
            high, low = max(high, highs[k]), min(low, lows[k])
            if direction[i] > 0:
                at_stop, at_target = lows[k] <= stop[i], highs[k] >= target[i]
            else:
                at_stop, at_target = highs[k] >= stop[i], lows[k] <= target[i]
            if at_stop or at_target:
                # A candle that opens beyond a barrier fills at its open.
                if direction[i] * (opens[k] - stop[i]) <= 0:
                    reason[i], exit_price[i] = 1, opens[k]
                elif direction[i] * (opens[k] - target[i]) >= 0:
                    reason[i], exit_price[i] = 2, opens[k]
                elif at_stop:
                    reason[i], exit_price[i], ambiguous[i] = 1, stop[i], at_target
                else:
                    reason[i], exit_price[i] = 2, target[i]
                break
            k += 1
        if reason[i] == 0:
            if time[k - 1] == over - _MINUTE_US:
                k -= 1
                reason[i], exit_price[i] = 3, closes[k]
            elif k < n:
                # The horizon ended where no candle is: nobody could leave before the next one opened.
                high, low = max(high, opens[k]), min(low, opens[k])
                exit_price[i] = opens[k]
                if direction[i] * (opens[k] - stop[i]) <= 0:
                    reason[i] = 1
                else:
                    reason[i] = 2 if direction[i] * (opens[k] - target[i]) >= 0 else 3
            else:
                k -= 1
        entry_place[i], last_place[i] = first, k
        highest[i], lowest[i] = high, low
