"""Every compiled loop of learning: block permutations of a hundred thousand outcomes, 1,024 coalitions over them, and
weights that change with every trade of a simulated year.

Arrays go in, arrays are filled; no pandas, no names, no verdicts. Import it inside functions only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["aged_bands", "coalition_totals", "permuted_statistics", "reweighted", "statistics_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_F = "float64[::1]"
_F2 = "float64[:, ::1]"
_I = "int64[::1]"


def _compiled(signature: str) -> Any:
    return njit(signature, cache=True, nogil=True, error_model="numpy")


@_compiled("uint64(uint64)")
def _mixed(state: Any) -> Any:
    """SplitMix64's output function (Steele, Lea & Flood 2014): a bijection whose outputs look independent."""
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_compiled("int64(uint64, int64)")
def _below(bits: Any, n: int) -> int:
    """An integer in [0, n) from 53 of the bits; uneven by less than n ÷ 2^53."""
    return int(np.int64((bits >> np.uint64(11)) * (1.0 / 9007199254740992.0) * n))


@_compiled(f"void({_F2}, {_F}, {_I}, {_I}, {_F})")
def statistics_of(coefficients: Floats, values: Floats, order: Integers, ends: Integers, out: Floats) -> None:
    """Σ c · y ÷ √(Σ over blocks of the block's own sum²) for each column of c, y taken in `order`; 0 without spread.

    `ends` are where the blocks of rows end. Shapes: coefficients rows × k, values and order rows, out k."""
    k = coefficients.shape[1]
    total = np.zeros(k)
    square = np.zeros(k)
    own = np.zeros(k)
    row = 0
    for b in range(ends.size):
        for j in range(k):
            own[j] = 0.0
        while row < ends[b]:
            y = values[order[row]]
            for j in range(k):
                own[j] += coefficients[row, j] * y
            row += 1
        for j in range(k):
            total[j] += own[j]
            square[j] += own[j] * own[j]
    for j in range(k):
        out[j] = total[j] / math.sqrt(square[j]) if square[j] > 0.0 else 0.0


@_compiled(f"void({_F2}, {_F}, {_I}, {_I}, {_I}, {_I}, uint64, int64, {_F2})")
def permuted_statistics(
    coefficients: Floats,
    values: Floats,
    members: Integers,
    starts: Integers,
    lengths: Integers,
    ends: Integers,
    seed: int,
    first: int,
    out: Floats,
) -> None:
    """`statistics_of` after block permutations number first, first + 1, …; a row of `out` each.

    Stratum s has the rows members[starts[s] : starts[s + 1]]. Its values are laid in a ring that is cut at a random
    place into blocks of lengths[s], and these are shuffled. A permutation depends on the seed and its number alone,
    so that threads may share them out."""
    order = np.empty(values.size, np.int64)
    blocks = np.empty(values.size, np.int64)
    step = np.uint64(0x9E3779B97F4A7C15)
    for p in range(out.shape[0]):
        state = _mixed(seed + step * np.uint64(first + p + 1))
        for s in range(lengths.size):
            begin = starts[s]
            n = starts[s + 1] - begin
            length = lengths[s]
            count = (n + length - 1) // length
            for b in range(count):
                blocks[b] = b
            for b in range(count - 1, 0, -1):
                state += step
                other = _below(_mixed(state), b + 1)
                kept = blocks[b]
                blocks[b] = blocks[other]
                blocks[other] = kept
            state += step
            cut = _below(_mixed(state), n)
            place = 0
            for b in range(count):
                low = blocks[b] * length
                for i in range(low, min(low + length, n)):
                    source = i + cut
                    if source >= n:
                        source -= n
                    order[members[begin + place]] = members[begin + source]
                    place += 1
        statistics_of(coefficients, values, order, ends, out[p])


@_compiled(f"void({_F2}, {_F}, {_F}, float64, int64, {_F})")
def coalition_totals(
    voices: Floats, long: Floats, short: Floats, min_strength: float, min_agreeing: int, totals: Floats
) -> None:
    """What each coalition of theories earns in all: `long` where its voices' sum reaches min_strength, `short` where
    it reaches −min_strength, if min_agreeing of its members speak that way; else nothing.

    Sums run in the columns' order, so that they have the combiner's own bits. totals: 2^columns, bit j is column j."""
    n, k = voices.shape
    size = 1 << k
    sums = np.zeros(size)
    ups = np.zeros(size, np.int32)
    downs = np.zeros(size, np.int32)
    for i in range(n):
        for j in range(k):
            v = voices[i, j]
            up = np.int32(v > 0.0)
            down = np.int32(v < 0.0)
            half = 1 << j
            for c in range(half):
                sums[half + c] = sums[c] + v
                ups[half + c] = ups[c] + up
                downs[half + c] = downs[c] + down
        gain = long[i]
        loss = short[i]
        for c in range(size):
            buys = (sums[c] > 0.0) & (sums[c] >= min_strength) & (ups[c] >= min_agreeing)
            sells = (sums[c] < 0.0) & (-sums[c] >= min_strength) & (downs[c] >= min_agreeing)
            totals[c] += (gain if buys else 0.0) + (loss if sells else 0.0)


@_compiled(f"int64({_F}, {_F}, {_F})")
def reweighted(entry: Floats, leave: Floats, weights: Floats) -> int:
    """statistics.average_uniqueness of every interval that the last one, just added, overlaps; the first one's place.

    Minutes entry … leave, both included, in the order of `leave`. The other weights are left as they are."""
    last = leave.size - 1
    first = np.searchsorted(leave, entry[last])
    low = entry[last]
    for i in range(first, last):
        low = min(low, entry[i])
    near = np.searchsorted(leave, low)  # what overlaps those that it overlaps
    for i in range(near, first):
        low = min(low, entry[i])
    active = np.zeros(int(leave[last] - low) + 2, np.int64)
    for i in range(near, last + 1):
        active[int(entry[i] - low)] += 1
        active[int(leave[i] - low) + 1] -= 1
    total = np.empty(active.size)  # of 1 ÷ concurrency up to each minute
    count = 0
    share = 0.0
    for minute in range(active.size):
        total[minute] = share
        count += active[minute]
        share += 1.0 / max(count, 1)
    for i in range(first, last + 1):
        minutes = leave[i] + 1.0 - entry[i]
        weights[i] = (total[int(leave[i] - low) + 1] - total[int(entry[i] - low)]) / minutes
    return int(first)


@_compiled(f"void({_F}, {_F}, {_F}, {_F}, {_F}, {_F}, float64, {_F2})")
def aged_bands(
    leave: Floats,
    weights: Floats,
    kept: Floats,
    band: Floats,
    won: Floats,
    break_even: Floats,
    oldest: float,
    out: Floats,
) -> None:
    """What the trades of each band of confidence are worth, their weights as statistics.halved has them.

    Trades in the order of `leave`; `kept` is what a trade's weight leaves of all weights before it, `band` its band's
    place. What more evidence than `oldest` came after counts for nothing. out: number, weight, weight of the wins and
    weight × break_even of each band, in rows."""
    out[:] = 0.0
    later = 0.0  # the weight of what closed after the trade
    same = 0.0  # and of what closed in its minute
    left = 1.0  # of the trade's weight
    left_after = 1.0
    for i in range(leave.size - 1, -1, -1):
        if i + 1 < leave.size and leave[i] != leave[i + 1]:
            later += same
            same = 0.0
            left = left_after
        if later > oldest:
            break
        same += weights[i]
        left_after *= kept[i]
        weight = weights[i] * left
        if weight <= 0.0:
            continue
        place = int(band[i])
        out[0, place] += 1.0
        out[1, place] += weight
        out[2, place] += weight * won[i]
        out[3, place] += weight * break_even[i]
