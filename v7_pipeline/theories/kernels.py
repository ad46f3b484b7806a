"""Every compiled loop of the theories, in one module because numba's cache does not see changes in imported kernels.

Arrays go in, arrays are filled; no pandas, no names of columns, no votes. Import it inside functions only.

Conventions: all arrays are one symbol's minutes, contiguous; `first` is the index of the first row wanted and
`out[i]` belongs to minute `first + i`. Rows whose window does not fit keep what `out` held: callers mask them.
Each result depends on its own window's values alone, in an order fixed by the epoch minute, so that it is the same to
the last bit wherever the array starts; the two filters at the end remember everything and are not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = [
    "absolute_changes",
    "alpha_beta_filter",
    "confirming_vote",
    "count_in_window",
    "drawdown",
    "entropy",
    "evenness",
    "first_passage",
    "hamilton_filter",
    "hurst",
    "in_chance_units",
    "in_units",
    "large_moves",
    "leaning_vote",
    "lz_phrases",
    "lz_words",
    "madogram",
    "masked",
    "moments",
    "normal_cdf",
    "passage_table",
    "plan_probabilities",
    "prepare",
    "sign_spread",
    "standardise",
    "strength",
    "symbolize",
    "table_percentile",
    "tails",
    "trend_vote",
    "usable_rows",
    "window_sum",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int32]

_F = "float64[::1]"
_F2 = "float64[:, ::1]"
_F3 = "float64[:, :, ::1]"
_I = "int64[::1]"
_B = "uint8[::1]"
_U = "uint32[::1]"
_S = "int32[::1]"
_S2 = "int32[:, ::1]"


def _compiled(signature: str) -> Any:
    # One explicit signature each: nothing is specialised again by accident. Flat prices divide by zero: no raising.
    return njit(signature, cache=True, nogil=True, error_model="numpy")


@_compiled(f"void({_F}, {_F}, {_F}, {_I})")
def prepare(close: Floats, returns: Floats, path: Floats, run: Integers) -> None:
    """Log returns (0 where missing), log price (last known), and how many returns in a row are known up to here."""
    last = 0.0
    for t in range(close.size):
        price = close[t]
        returns[t] = 0.0
        run[t] = 0
        if not math.isnan(price):
            if t > 0 and not math.isnan(close[t - 1]):
                # The difference of two near prices is exact: the return keeps its relative accuracy.
                returns[t] = math.log1p((price - close[t - 1]) / close[t - 1])
                run[t] = run[t - 1] + 1
            last = math.log(price)
        path[t] = last


@_compiled(f"void({_F}, int64, int64, int64, {_F})")
def window_sum(x: Floats, length: int, epoch: int, first: int, out: Floats) -> None:
    """Sums of the last `length` values: the end of one epoch-anchored block plus the beginning of the next."""
    n = x.size
    begin = max(first, length - 1)
    start = begin - length + 1
    tail = np.zeros(length + 1)
    fresh = np.zeros(length + 1)
    head = np.zeros(length)
    block = start - (epoch + start) % length
    while block < n and begin < n:
        low = max(block, start)
        phase = low - block
        y = x[low : min(block + length, n)]
        size = y.size
        ends = fresh[phase:]
        ahead = 0.0
        behind = 0.0
        for j in range(size):  # two sums side by side: each waits for its own last addition only
            ahead += y[j]
            head[j] = ahead
            behind += y[size - 1 - j]
            ends[size - 1 - j] = behind
        skip = max(begin - low, 0)
        if skip < size:
            sums = out[low + skip - first :]
            before = tail[phase + skip + 1 :]
            upto = head[skip:size]
            for j in range(upto.size):
                sums[j] = before[j] + upto[j]
        tail, fresh = fresh, tail
        block += length


@_compiled(f"void({_F}, int64, int64, int64, float64, {_B}, {_F}, {_F}, {_F}, {_F}, {_F})")
def moments(
    returns: Floats,
    length: int,
    epoch: int,
    first: int,
    unit: float,
    usable: Bytes,
    total: Floats,
    momentum: Floats,
    volatility: Floats,
    sharpe: Floats,
    sortino: Floats,
) -> None:
    """Of the last `length` returns: sum, sum ÷ root of summed squares, standard deviation, and unit · mean ÷ it or
    ÷ root mean squared loss; not a number where not usable or nothing to divide by. Sums as in window_sum."""
    n = returns.size
    begin = max(first, length - 1)
    start = begin - length + 1
    tail = np.zeros((3, length + 1))
    fresh = np.zeros((3, length + 1))
    head = np.zeros((3, length))
    block = start - (epoch + start) % length
    for i in range(min(begin - first, total.size)):
        total[i] = momentum[i] = volatility[i] = sharpe[i] = sortino[i] = np.nan
    while block < n and begin < n:
        low = max(block, start)
        phase = low - block
        y = returns[low : min(block + length, n)]
        size = y.size
        head0, head1, head2 = head[0], head[1], head[2]
        end0, end1, end2 = fresh[0, phase:], fresh[1, phase:], fresh[2, phase:]
        a0 = a1 = a2 = b0 = b1 = b2 = 0.0
        for j in range(size):
            r = y[j]
            loss = r if r < 0.0 else 0.0
            a0 += r
            a1 += r * r
            a2 += loss * loss
            head0[j] = a0
            head1[j] = a1
            head2[j] = a2
            r = y[size - 1 - j]
            loss = r if r < 0.0 else 0.0
            b0 += r
            b1 += r * r
            b2 += loss * loss
            end0[size - 1 - j] = b0
            end1[size - 1 - j] = b1
            end2[size - 1 - j] = b2
        skip = max(begin - low, 0)
        if skip < size:
            row = low + skip - first
            known = usable[row:]
            out0, out1, out2, out3, out4 = total[row:], momentum[row:], volatility[row:], sharpe[row:], sortino[row:]
            upto0, upto1, upto2 = head0[skip:size], head1[skip:size], head2[skip:size]
            tail0, tail1, tail2 = (
                tail[0, phase + skip + 1 :],
                tail[1, phase + skip + 1 :],
                tail[2, phase + skip + 1 :],
            )
            for j in range(upto0.size):
                change = tail0[j] + upto0[j]
                power = tail1[j] + upto1[j]
                downside = tail2[j] + upto2[j]
                spread = power - change * change / length
                spread = spread if spread > 1e-12 * power else 0.0  # a straight line up to rounding
                deviation = math.sqrt(spread / (length - 1))
                losses = math.sqrt(downside / length)
                mean = change / length * unit
                there = known[j] != 0
                out0[j] = change if there else np.nan
                out1[j] = (change / math.sqrt(power) if power > 0.0 else 0.0) if there else np.nan
                out2[j] = deviation if there else np.nan
                out3[j] = mean / deviation if there and deviation > 0.0 else np.nan
                out4[j] = mean / losses if there and losses > 0.0 else np.nan
        tail, fresh = fresh, tail
        block += length


@_compiled(f"void({_B}, int64, int64, {_I})")
def count_in_window(flags: Bytes, length: int, first: int, out: Integers) -> None:
    """How many of the last `length` flags are set; those before the array count as not set."""
    count = 0
    for t in range(max(first - length, 0), min(first, flags.size)):
        count += flags[t]
    for t in range(first, flags.size):
        count += flags[t]
        if t >= length:
            count -= flags[t - length]
        out[t - first] = count


@_compiled(f"void({_I}, {_I}, int64, int64, int64, float64, {_B})")
def usable_rows(
    run: Integers, observed: Integers, first: int, length: int, history: int, share: float, out: Bytes
) -> None:
    """1 where `history` returns in a row are known and at least `share` of the last `length` minutes observed."""
    known = run[first:]
    for i in range(out.size):
        out[i] = known[i] >= history and observed[i] / length >= share


@_compiled(f"void({_F}, {_B}, {_F})")
def masked(x: Floats, usable: Bytes, out: Floats) -> None:
    """x where usable, not a number elsewhere."""
    for i in range(x.size):
        out[i] = x[i] if usable[i] != 0 else np.nan


@_compiled(f"void({_F}, {_F})")
def strength(percentile: Floats, out: Floats) -> None:
    """|2p − 1|⁴; 0 where p is missing."""
    for i in range(percentile.size):
        d = 2.0 * percentile[i] - 1.0
        d = d * d
        d = d * d
        out[i] = d if d >= 0.0 else 0.0


@_compiled(f"void({_F}, {_F}, float64, {_F})")
def trend_vote(percentile: Floats, score: Floats, speaks: float, out: Floats) -> None:
    """The percentile's side × score where |2p − 1| ≥ speaks, else 0."""
    for i in range(percentile.size):
        p = percentile[i]
        signed = score[i] if p > 0.5 else -score[i]
        out[i] = signed if abs(2.0 * p - 1.0) >= speaks else 0.0


@_compiled(f"void({_F}, {_F}, {_F}, float64, float64, float64, {_F})")
def leaning_vote(
    percentile: Floats, score: Floats, direction: Floats, speaks: float, low: float, high: float, out: Floats
) -> None:
    """direction × score × low or high, by the percentile's side, where |2p − 1| ≥ speaks, else 0."""
    for i in range(percentile.size):
        p = percentile[i]
        vote = direction[i] * (high if p > 0.5 else low) * score[i]
        out[i] = (vote if abs(2.0 * p - 1.0) >= speaks else 0.0) + 0.0


@_compiled(f"void({_F}, {_F}, {_F}, float64, {_F})")
def confirming_vote(percentile: Floats, score: Floats, direction: Floats, speaks: float, out: Floats) -> None:
    """direction × score where |2p − 1| ≥ speaks and the percentile is on the direction's side, else 0."""
    for i in range(percentile.size):
        p = percentile[i]
        own = 1.0 if p > 0.5 else -1.0
        out[i] = direction[i] * score[i] if abs(2.0 * p - 1.0) >= speaks and own == direction[i] else 0.0


@_compiled(f"void({_F}, {_F}, {_B}, {_B})")
def symbolize(returns: Floats, scale: Floats, octile: Bytes, word: Bytes) -> None:
    """Each return's octile of N(0, 1) in units of the scale one bar earlier (8 where it is zero), and the ternary
    word of the last three returns (0 … 26). Thresholds act on |r|, so that a mirrored path has mirrored symbols."""
    n = returns.size
    if n == 0:
        return
    octile[0] = 8 if returns[0] == 0.0 else (7 if returns[0] > 0.0 else 0)  # there is no scale before the first one
    digits = np.empty(n + 2, np.uint8)
    digits[:2] = 1
    digits[2] = 1 if returns[0] == 0.0 else (2 if returns[0] > 0.0 else 0)
    later, cells, own = returns[1:], octile[1:], digits[3:]
    for t in range(n - 1):
        r = later[t]
        s = scale[t]
        a = abs(r)
        level = np.uint8(a >= 0.31863936396437514 * s) + np.uint8(a >= 0.6744897501960817 * s)
        level += np.uint8(a >= 1.1503493803760079 * s)
        signed = 4 + level if r > 0.0 else 3 - level
        cells[t] = 8 if r == 0.0 else signed
        far = r != 0.0 and a >= 0.4307272992954576 * s
        digit = 2 if r > 0.0 else 0
        own[t] = digit if far else 1
    older, old, new = digits[:n], digits[1:], digits[2:]
    for t in range(n):
        word[t] = 9 * older[t] + 3 * old[t] + new[t]


@_compiled(f"void({_B}, int64, int64, int64, {_F})")
def entropy(symbols: Bytes, alphabet: int, length: int, first: int, out: Floats) -> None:
    """Miller–Madow entropy of the last `length` symbols ÷ log(alphabet), not clipped.

    The symbol `alphabet` lies on the edge of the two middle cells and is counted in the fuller one. Sums of c log c are
    kept in fixed point, 60 bits for the largest: whole numbers forget what has left the window without a trace, and
    mirrored symbols give the same bits."""
    n = symbols.size
    begin = max(first, length - 1)
    if begin >= n:
        return
    unit = 2.0 ** math.floor(60.0 - math.log2(length * math.log(length) + 1.0))
    table = np.zeros(length + 2, np.int64)
    for c in range(2, length + 1):
        table[c] = np.int64(c * math.log(c) * unit + 0.5)
    steps = np.zeros(length + 2, np.int64)
    steps[: length + 1] = table[1:] - table[: length + 1]
    counts = np.zeros(256, np.uint64)
    one = np.uint64(1)
    total = np.int64(0)
    cells = np.int64(0)
    for t in range(begin - length + 1, begin):
        symbol = symbols[t]
        c = counts[symbol]
        total += steps[c]
        cells += c == 0
        counts[symbol] = c + one
    here = alphabet // 2
    half = np.uint64(here)
    scale = 1.0 / math.log(alphabet)
    most = math.log(length) * scale
    a_total = scale / (length * unit)
    a_cell = scale / (2.0 * length)
    oldest, newest, result = symbols[begin - length + 1 :], symbols[begin:], out[begin - first :]
    for t in range(n - begin):
        symbol = newest[t]
        c = counts[symbol]
        total += steps[c]
        cells += c == 0
        counts[symbol] = c + one
        summed = total
        filled = cells
        edge = counts[alphabet]
        if edge != 0:
            fuller = max(counts[half], counts[half - one])
            summed += table[fuller + edge] - table[fuller] - table[edge]
            filled -= fuller != 0
        result[t] = most - summed * a_total + (filled - 1) * a_cell if filled > 1 else 0.0
        symbol = oldest[t]
        c = counts[symbol] - one
        total -= steps[c]
        cells -= c == 0
        counts[symbol] = c


@_compiled(f"void({_B}, {_U})")
def lz_words(bits: Bytes, words: Words) -> None:
    """words[i] holds bits i … i + 31, the first one highest; beyond the end there are zeros."""
    word = np.uint32(0)
    for i in range(bits.size - 1, -1, -1):
        word = np.uint32((np.uint32(bits[i]) << np.uint32(31)) | (word >> np.uint32(1)))
        words[i] = word


@_compiled("int64(uint32)")
def _leading_zeros(x: Any) -> int:
    count = 0
    step = 16
    while step > 0:
        if x >> np.uint32(32 - count - step) == 0:
            count += step
        step //= 2
    return count


# Lempel–Ziv phrases of sliding windows. A phrase that begins at i within a window that begins at s is the longest
# match of the bits from i on with those from some j in [s, i), and one bit more. Where it ends depends on s only, not
# on where the window ends: one chain of phrases from s serves all windows that begin there, and the chain from s + 1
# differs from it only where a phrase had its match at s and nowhere later.
#
# For each position and k = 1 … 12 the newest earlier position that shares the next k bits is noted once (a table a k);
# the longest match within the window is then the number of those at or after s. Longer matches are found among the
# positions that share 12 bits, of which there are few. Everything lies in rings that hold the longest window.
_RING = 4096
_MASK = _RING - 1
_SHORT = 12  # bits that are looked up
_LANES = 16  # places a position has in `recent`, so that they are compared at once
_FOR_EVER = 2**31 - 1


@_compiled(f"int64({_U}, int64, int64, int64)")
def _common(words: Words, i: int, j: int, most: int) -> int:
    """Bits that the sequence from i on shares with that from j on; at most `most` and what is left from i on."""
    most = min(most, words.size - i)
    length = 0
    while length < most:
        x = np.uint32(words[i + length] ^ words[j + length])
        if x != 0:
            length += _leading_zeros(x)
            break
        length += 32
    return min(length, most)


@_compiled(f"void({_U}, int64, {_S}, {_S})")
def _enter(words: Words, i: int, recent: Places, last: Places) -> None:
    """Note for i the newest earlier position that shares its next 1, 2 … 12 bits (−1: none), and i itself."""
    word = words[i]
    base = (i & _MASK) * _LANES
    here = recent[base : base + _LANES]
    for k in range(min(_SHORT, words.size - i)):
        at = (np.uint32(2) << np.uint32(k)) | (word >> np.uint32(31 - k))
        here[k] = last[at]
        last[at] = i
    for k in range(words.size - i, _SHORT):
        here[k] = -1


@_compiled(f"int64({_U}, int64, int64, int64, {_S}, {_S}, {_S}, {_S}, {_S})")
def _phrase_end(
    words: Words,
    i: int,
    start: int,
    longest: int,
    recent: Places,
    follow: Places,
    source: Places,
    head: Places,
    link: Places,
) -> int:
    """Where the phrase after the one that begins at i begins, in a window that begins at `start`.

    It holds until the window begins after `source` (the newest place of the match), in whose list i is kept."""
    r = i & _MASK
    if source[r] >= start:
        return int(follow[r])
    base = r * _LANES
    here = recent[base : base + _LANES]
    matched = np.int64(0)
    for k in range(_LANES):
        matched += here[k] >= start
    if matched == 0:
        source[r] = _FOR_EVER
    else:
        j = np.int64(here[matched - 1])
        newest = j
        if matched == _SHORT:
            matched = _common(words, i, j, longest)
            j = np.int64(recent[(j & _MASK) * _LANES + _SHORT - 1])
            while j >= start and matched < longest:
                length = _common(words, i, j, longest)
                if length > matched:
                    matched = length
                    newest = j
                j = np.int64(recent[(j & _MASK) * _LANES + _SHORT - 1])
        source[r] = newest
        link[r] = head[newest & _MASK]
        head[newest & _MASK] = i
    follow[r] = i + matched + 1
    return int(i + matched + 1)


@_compiled(f"void({_U}, {_I}, int64, {_F2})")
def lz_phrases(words: Words, windows: Integers, first: int, out: Floats) -> None:
    """Lempel–Ziv 1976 phrases of the last windows[w] bits (at most 2,880) in row w; an unfinished last one counts."""
    n = words.size
    longest = windows.max()
    final = n - windows.min()
    start = max(first - longest + 1, 0)
    if start > final:
        return
    recent = np.full(_RING * _LANES, -1, np.int32)
    last = np.full(2 << _SHORT, -1, np.int32)
    follow = np.zeros(_RING, np.int32)
    source = np.full(_RING, -1, np.int32)
    head = np.full(_RING, -1, np.int32)
    link = np.zeros(_RING, np.int32)
    begins = np.zeros(_RING, np.uint8)  # 1 where a phrase of the chain from `start` begins
    pending = np.empty(_RING, np.int32)
    counts = np.zeros(windows.size, np.int64)
    end = min(start + longest - 1, n - 1)
    for i in range(start, end + 1):
        _enter(words, i, recent, last)
    p = np.int64(start)
    tail = p
    while p <= end:
        begins[p & _MASK] = 1
        tail = p
        for w in range(windows.size):
            counts[w] += p < start + windows[w]
        p = _phrase_end(words, p, start, longest, recent, follow, source, head, link)
    while True:
        for w in range(windows.size):
            t = start + windows[w] - 1
            if first <= t < n:
                out[w, t - first] = counts[w]
        if start == final:
            return
        dropped = start
        begins[dropped & _MASK] = 0
        start += 1
        if start + longest - 1 < n:
            end = start + longest - 1
            r = end & _MASK
            source[r] = -1
            head[r] = -1
            begins[r] = 0
            _enter(words, end, recent, last)
            if follow[tail & _MASK] == end:
                begins[r] = 1
                tail = np.int64(end)
                _phrase_end(words, tail, start, longest, recent, follow, source, head, link)
        for w in range(windows.size):
            e = start + windows[w] - 1
            counts[w] -= 1
            if e <= end:
                counts[w] += begins[e & _MASK]
        # The list is copied, because what is derived anew enters other lists through the same links.
        waiting = 0
        p = np.int64(head[dropped & _MASK])
        while p >= 0:
            pending[waiting] = p
            waiting += 1
            p = np.int64(link[p & _MASK])
        for i in range(waiting):
            p = np.int64(pending[i])
            r = p & _MASK
            if begins[r] == 0 or source[r] != dropped:
                continue
            old = np.int64(follow[r])
            new = _phrase_end(words, p, start, longest, recent, follow, source, head, link)
            # Follow the new chain and take the old one away, until both meet.
            while True:
                while old < new and old <= end:
                    begins[old & _MASK] = 0
                    for w in range(windows.size):
                        counts[w] -= old < start + windows[w]
                    old = np.int64(follow[old & _MASK])
                if new > end:
                    tail = p
                    break
                if old == new:
                    break
                begins[new & _MASK] = 1
                for w in range(windows.size):
                    counts[w] += new < start + windows[w]
                p = new
                new = _phrase_end(words, p, start, longest, recent, follow, source, head, link)


# Blocks of 8, 16, 32 … returns share their work. Moments of a block of 2n come from those of its halves A and B, in
# forms that only add squares (as Chan, Golub & LeVeque 1983 do), down to single returns: they depend on the block alone
# and lose no digits where returns are nearly equal. Ranges have no such form: they are followed return by return, many
# blocks abreast.
_SMALLEST = 8
_TILE = 2048
_TILES = 2  # whose exponents are taken together
_ABREAST = 256  # what so many blocks need stays in the first-level cache
_TOTAL, _SPREAD, _CENTRE, _SLOPE, _RESIDUAL = range(5)


@_compiled(f"void(int64, int64, {_F2}, {_F2})")
def _join_halves(n: int, width: int, half: Floats, whole: Floats) -> None:
    """Moments of blocks of 2n that end at column n ≤ i < width from those of n that end at i − n (A) and i (B): sum,
    squared deviations from the mean; of the partial sums mean, slope and squared residuals about their line."""
    m = width - n
    total_a, total_b, total = half[_TOTAL, :m], half[_TOTAL, n:width], whole[_TOTAL, n:width]
    spread_a, spread_b, spread = half[_SPREAD, :m], half[_SPREAD, n:width], whole[_SPREAD, n:width]
    for i in range(m):
        d = total_b[i] - total_a[i]
        total[i] = total_a[i] + total_b[i]
        spread[i] = (spread_a[i] + spread_b[i]) + d * d / (2 * n)
    centre_a, centre_b, centre = half[_CENTRE, :m], half[_CENTRE, n:width], whole[_CENTRE, n:width]
    slope_a, slope_b, slope = half[_SLOPE, :m], half[_SLOPE, n:width], whole[_SLOPE, n:width]
    residual_a, residual_b, residual = half[_RESIDUAL, :m], half[_RESIDUAL, n:width], whole[_RESIDUAL, n:width]
    corner = n * (n * n - 1.0) / 6.0
    offset = n * (n * n - 1.0) / (2.0 * (4.0 * n * n - 1.0))
    turn = 3.0 * n / (4.0 * n * n - 1.0)
    for i in range(m):
        later = centre_b[i] + total_a[i]  # B's partial sums begin where A's end
        both = 0.5 * (slope_a[i] + slope_b[i])
        bend = 0.5 * (slope_a[i] - slope_b[i])
        gap = (later - centre_a[i]) - n * both
        centre[i] = 0.5 * (centre_a[i] + later)
        slope[i] = both + turn * gap
        residual[i] = (residual_a[i] + residual_b[i]) + (corner * bend * bend + offset * gap * gap)


@_compiled(f"void({_F}, {_F}, int64, {_F}, {_F}, {_F})")
def _extremes(x: Floats, mean: Floats, size: int, level: Floats, low: Floats, high: Floats) -> None:
    """Lowest and highest partial sum (0 among them) of x[i] … x[i + size − 1] less mean[i], for every i.

    `size` is a multiple of 8: written out by eights, a level and its extremes are fetched and put back once in eight
    steps."""
    n = mean.size
    for i in range(n):
        level[i] = 0.0
        low[i] = 0.0
        high[i] = 0.0
    for k in range(0, size, 8):
        z = x[k:]
        for i in range(n):
            m = mean[i]
            y = level[i]
            a = low[i]
            b = high[i]
            y += z[i] - m
            a = y if y < a else a
            b = y if y > b else b
            y += z[i + 1] - m
            a = y if y < a else a
            b = y if y > b else b
            y += z[i + 2] - m
            a = y if y < a else a
            b = y if y > b else b
            y += z[i + 3] - m
            a = y if y < a else a
            b = y if y > b else b
            y += z[i + 4] - m
            a = y if y < a else a
            b = y if y > b else b
            y += z[i + 5] - m
            a = y if y < a else a
            b = y if y > b else b
            y += z[i + 6] - m
            a = y if y < a else a
            b = y if y > b else b
            y += z[i + 7] - m
            a = y if y < a else a
            b = y if y > b else b
            level[i] = y
            low[i] = a
            high[i] = b


@_compiled(f"void({_F}, int64, int64, int64, {_F2}, {_F2}, {_F2}, {_F2}, {_S2}, {_F2})")
def _block_statistics(
    returns: Floats,
    base: int,
    start: int,
    stop: int,
    half: Floats,
    whole: Floats,
    abreast: Floats,
    rs: Floats,
    still: Places,
    f2: Floats,
) -> None:
    """For each block of 8, 16, 32 … returns (a row each) that ends at t = start … stop − 1, into column t − base: R/S
    with population S, 0 where all returns are equal; how many such blocks ended since base; and squared residuals of
    its profile about a line. The rest is scratch: 5 × (largest block + _TILE), twice, and 4 × _ABREAST."""
    rows = rs.shape[0]
    largest = _SMALLEST << (rows - 1)
    mean, level, low, high = abreast[0], abreast[1], abreast[2], abreast[3]
    for begin in range(start, stop, _TILE):
        end = min(begin + _TILE, stop)
        past = min(begin, largest)
        # Column i of these belongs to minute begin − past + i.
        x = returns[begin - past : end]
        width = x.size
        half[_TOTAL, :width] = x
        half[_CENTRE, :width] = x
        half[_SPREAD, :width] = 0.0
        half[_SLOPE, :width] = 0.0
        half[_RESIDUAL, :width] = 0.0
        size = 1
        row = -3
        while row < rows - 1:
            _join_halves(size, width, half, whole)
            half, whole = whole, half
            size *= 2
            row += 1
            t = max(begin, size - 1)
            while row >= 0 and t < end:
                lanes = min(_ABREAST, end - t)
                i = t - begin + past
                column = t - base
                total, spread = half[_TOTAL, i : i + lanes], half[_SPREAD, i : i + lanes]
                residual = half[_RESIDUAL, i : i + lanes]
                for j in range(lanes):
                    mean[j] = total[j] / size
                _extremes(x[i - size + 1 :], mean[:lanes], size, level, low, high)
                out_rs, out_f2 = rs[row, column : column + lanes], f2[row, column : column + lanes]
                for j in range(lanes):
                    moved = spread[j] > 1e-18 * (spread[j] + total[j] * mean[j])  # not a straight line up to rounding
                    out_rs[j] = (high[j] - low[j]) / math.sqrt(spread[j] / size) if moved else 0.0
                    out_f2[j] = residual[j] if moved else 0.0
                count = still[row, column - 1] if column > 0 else 0
                out_still = still[row, column : column + lanes]
                for j in range(lanes):
                    count += out_rs[j] == 0.0
                    out_still[j] = count
                t += lanes


@_compiled(f"void({_F}, {_F}, int64, int64, int64, {_F}, {_F})")
def _two_sums(x: Floats, y: Floats, length: int, epoch: int, begin: int, sum_x: Floats, sum_y: Floats) -> None:
    """Sums of the last `length` values of x and of y up to begin, begin + 1 … ≥ length − 1; as window_sum makes them,
    both side by side, because each waits for its own last addition only."""
    n = x.size
    start = begin - length + 1
    tail = np.zeros((2, length + 1))
    fresh = np.zeros((2, length + 1))
    head = np.zeros((2, length))
    block = start - (epoch + start) % length
    while block < n:
        low = max(block, start)
        phase = low - block
        u = x[low : min(block + length, n)]
        v = y[low : min(block + length, n)]
        size = u.size
        head_u, head_v = head[0], head[1]
        end_u, end_v = fresh[0, phase:], fresh[1, phase:]
        ahead_u = ahead_v = behind_u = behind_v = 0.0
        for j in range(size):
            ahead_u += u[j]
            ahead_v += v[j]
            head_u[j] = ahead_u
            head_v[j] = ahead_v
            behind_u += u[size - 1 - j]
            behind_v += v[size - 1 - j]
            end_u[size - 1 - j] = behind_u
            end_v[size - 1 - j] = behind_v
        skip = max(begin - low, 0)
        if skip < size:
            out_u, out_v = sum_x[low + skip - begin :], sum_y[low + skip - begin :]
            tail_u, tail_v = tail[0, phase + skip + 1 :], tail[1, phase + skip + 1 :]
            upto_u, upto_v = head[0, skip:size], head[1, skip:size]
            for j in range(upto_u.size):
                out_u[j] = tail_u[j] + upto_u[j]
                out_v[j] = tail_v[j] + upto_v[j]
        tail, fresh = fresh, tail
        block += length


@_compiled(f"void({_F}, int64, {_F})")
def _times_power(x: Floats, power: int, product: Floats) -> None:
    """product ·= x^power, −5 ≤ power ≤ 5."""
    size = abs(power)
    for i in range(x.size):
        y = x[i]
        square = y * y
        raised = y if size == 1 else (square if size == 2 else (square * y if size == 3 else square * square))
        raised = square * square * y if size == 5 else (1.0 if size == 0 else raised)
        product[i] = product[i] / raised if power < 0 else product[i] * raised


@_compiled(f"void({_F2}, {_S2}, {_F2}, {_F}, int64, int64, int64, {_F2}, {_F}, {_F})")
def _slopes(
    rs: Floats,
    still: Places,
    f2: Floats,
    expected: Floats,
    length: int,
    epoch: int,
    begin: int,
    scratch: Floats,
    out_rs: Floats,
    out_dfa: Floats,
) -> None:
    """Exponents of the windows that end at columns begin, begin + 1 … of _block_statistics, of its first expected.size
    rows; not a number where nothing moved. `epoch` is column 0's.

    Sizes double, so their logs less their mean are ½ log 2 · e with e = 1 − k, 3 − k … k − 1, and a slope is the log of
    one product of means^e: one logarithm for all sizes. Means are taken in units of the first one."""
    k = expected.size
    rows = out_rs.size
    mean_rs, mean_f2, unit_rs, unit_f2 = scratch[0, :rows], scratch[1, :rows], scratch[2, :rows], scratch[3, :rows]
    product_rs, product_f2 = scratch[4, :rows], scratch[5, :rows]
    product_rs[:] = 1.0
    product_f2[:] = 1.0
    known_rs = known_f2 = powers = 0.0
    for i in range(k):
        size = _SMALLEST << i
        e = 2 * i - (k - 1)
        powers += e * e
        known_rs += e * math.log(expected[i])
        blocks = length - size + 1
        known_f2 += e * math.log(float(blocks * size))
        _two_sums(rs[i, : begin + rows], f2[i, : begin + rows], blocks, epoch, begin, mean_rs, mean_f2)
        upto, before = still[i, begin:], still[i, begin - blocks :]
        if i == 0:
            for j in range(rows):
                unit_rs[j] = (blocks - (upto[j] - before[j])) / mean_rs[j]
                unit_f2[j] = 1.0 / mean_f2[j]
        else:
            for j in range(rows):
                mean_rs[j] = mean_rs[j] / (blocks - (upto[j] - before[j])) * unit_rs[j]
                mean_f2[j] *= unit_f2[j]
            _times_power(mean_rs, e, product_rs)
            _times_power(mean_f2, e, product_f2)
    for j in range(rows):
        p = product_rs[j]
        q = product_f2[j]
        out_rs[j] = 0.5 + 2.0 * (math.log(p) - known_rs) / (powers * math.log(2.0)) if 0.0 < p < np.inf else np.nan
        out_dfa[j] = (math.log(q) - known_f2) / (powers * math.log(2.0)) if 0.0 < q < np.inf else np.nan


@_compiled(f"void({_F}, {_I}, {_I}, {_F}, int64, int64, {_F2}, {_F2})")
def hurst(
    returns: Floats,
    windows: Integers,
    sizes: Integers,
    expected: Floats,
    epoch: int,
    first: int,
    out_rs: Floats,
    out_dfa: Floats,
) -> None:
    """For the last windows[w] returns (row w), whose largest sizes[w] block sizes are 8, 16 …: slope on log size of log
    mean R/S minus that of its expectation, plus ½; and of half log mean F². Not a number where nothing moved.

    Rows are done by the few thousand, so that blocks and their sums stay in the second-level cache."""
    longest = windows.max()
    rows = sizes.max()
    n = returns.size
    width = min(longest + _TILES * _TILE, n)
    largest = _SMALLEST << (rows - 1)
    rs = np.zeros((rows, width))
    f2 = np.zeros((rows, width))
    still = np.zeros((rows, width), np.int32)
    half = np.empty((5, largest + _TILE))
    whole = np.empty((5, largest + _TILE))
    abreast = np.empty((4, _ABREAST))
    scratch = np.empty((6, _TILES * _TILE))
    base = max(first - longest, 0)
    known = base
    for begin in range(first, n, _TILES * _TILE):
        end = min(begin + _TILES * _TILE, n)
        shift = max(begin - longest, 0) - base
        if shift > 0:
            for i in range(rows):
                for j in range(known - base - shift):
                    rs[i, j] = rs[i, j + shift]
                    f2[i, j] = f2[i, j + shift]
                    still[i, j] = still[i, j + shift]
            base += shift
        _block_statistics(returns, base, known, end, half, whole, abreast, rs, still, f2)
        known = end
        for w in range(windows.size):
            t = max(begin, windows[w] - 1)
            if t < end:
                means, at = expected[: sizes[w]], t - base
                own_rs, own_dfa = out_rs[w, t - first : end - first], out_dfa[w, t - first : end - first]
                _slopes(rs, still, f2, means, windows[w], epoch + base, at, scratch, own_rs, own_dfa)


@_compiled(f"void({_F}, int64, {_F})")
def _add_earlier(x: Floats, lag: int, out: Floats) -> None:
    """x(t) + x(t − lag); the first `lag` are left as they are."""
    later, earlier, sums = x[lag:], x[: x.size - lag], out[lag:]
    for j in range(later.size):
        sums[j] = later[j] + earlier[j]


@_compiled(f"void({_F}, int64, {_F2}, {_F}, {_F})")
def _sum_before(x: Floats, count: int, spare: Floats, own: Floats, out: Floats) -> None:
    """x from 31 on into `own`, and into `out` the sums of the last 15, 14 or 8 of x there, from pairs of sums."""
    m = x.size
    pairs, fours, eights = spare[0, :m], spare[1, :m], spare[2, :m]
    _add_earlier(x, 1, pairs)
    _add_earlier(pairs, 2, fours)
    _add_earlier(fours, 4, eights)
    n = m - 31
    now, eight = x[31:], eights[31:]
    for j in range(n):
        own[j] = now[j]
        out[j] = eight[j]
    if count > 8:
        four, pair, last = fours[23:], pairs[19:], x[17:]
        if count == 15:
            for j in range(n):
                out[j] = (eight[j] + four[j]) + (pair[j] + last[j])
        else:
            for j in range(n):
                out[j] = (eight[j] + four[j]) + pair[j]


@_compiled(f"void({_F}, {_F2}, {_F2})")
def absolute_changes(returns: Floats, changes: Floats, sums: Floats) -> None:
    """|p(t) − p(t − k)| for k = 1, 2, 8, 16 (rows of `changes`), and of the first three the sums of the last 15, 14
    and 8: what their longer windows hold beyond that of k = 16. Before the first minute nothing moves."""
    n = returns.size
    size = 1024  # with the 31 before: in the nearest cache
    r = np.zeros(size + 31)
    absolute = np.zeros(size + 31)
    work = np.zeros((3, size + 31))
    spare = np.zeros((3, size + 31))
    for begin in range(0, n, size):
        m = min(size, n - begin) + 31
        if begin > 0:
            for j in range(31):
                r[j] = r[j + size]
        own, steps = r[31:m], returns[begin:]
        for j in range(own.size):
            own[j] = steps[j]
        two, four, eight = work[0, :m], work[1, :m], work[2, :m]
        _add_earlier(r[:m], 1, two)
        _add_earlier(two, 2, four)
        _add_earlier(four, 4, eight)
        for k in range(3):
            x = r[:m] if k == 0 else (two if k == 1 else eight)
            sizes = absolute[:m]
            for j in range(m):
                sizes[j] = abs(x[j])
            _sum_before(sizes, 15 if k == 0 else (14 if k == 1 else 8), spare, changes[k, begin:], sums[k, begin:])
        far, later, earlier = changes[3, begin:], eight[31:], eight[23:]
        for j in range(later.size):
            far[j] = abs(later[j] + earlier[j])


@_compiled(f"void({_F2}, {_F2}, int64, int64, int64, {_B}, {_F})")
def madogram(changes: Floats, sums: Floats, length: int, epoch: int, first: int, usable: Bytes, out: Floats) -> None:
    """2 − slope of log mean |p(i + k) − p(i)| on log k, k = 1, 2, 4, 8, 16, over length + 1 points; not clipped.

    Takes absolute_changes. The slope's weights are −2, −1, 0, 1, 2: one logarithm of a ratio will do, and k = 4 has no
    say. The sums of the four lags share the blocks of the shortest, k = 16; the longer ones add what lies before."""
    n = changes.shape[1]
    begin = max(first, length - 1)
    core = length - 15
    start = begin - core + 1
    tail = np.zeros((4, core + 1))
    fresh = np.zeros((4, core + 1))
    head = np.zeros((4, core))
    inside = np.zeros((4, core))
    block = start - (epoch + start) % core
    unit = -1.0 / (10.0 * math.log(2.0))
    scale = (length / (length - 15.0)) ** 2 * ((length - 1.0) / (length - 7.0))
    out[: min(max(begin - first, 0), out.size)] = np.nan
    while block < n and begin < n:
        low = max(block, start)
        phase = low - block
        stop = min(block + core, n)
        size = stop - low
        skip = max(begin - low, 0)
        for k in range(0, 4, 2):
            y0, y1 = changes[k, low:stop], changes[k + 1, low:stop]
            head0, head1 = head[k], head[k + 1]
            end0, end1 = fresh[k, phase:], fresh[k + 1, phase:]
            a0 = a1 = b0 = b1 = 0.0
            for j in range(size):
                a0 += y0[j]
                a1 += y1[j]
                head0[j] = a0
                head1[j] = a1
                b0 += y0[size - 1 - j]
                b1 += y1[size - 1 - j]
                end0[size - 1 - j] = b0
                end1[size - 1 - j] = b1
        if skip < size:
            for k in range(4):
                upto = head[k, skip:size]
                before = tail[k, phase + skip + 1 :]
                joined = inside[k]
                if k < 3:
                    older = sums[k, low + skip - core :]
                    for j in range(upto.size):
                        joined[j] = (older[j] + before[j]) + upto[j]
                else:
                    for j in range(upto.size):
                        joined[j] = before[j] + upto[j]
            row = low + skip - first
            known = usable[row:]
            result = out[row:]
            one, two, eight, sixteen = inside[0], inside[1], inside[2], inside[3]
            for j in range(size - skip):
                if known[j] != 0 and sixteen[j] > 0.0:
                    ratio = sixteen[j] / one[j]
                    result[j] = 2.0 + unit * math.log(ratio * ratio * (eight[j] / two[j]) * scale)
                else:
                    result[j] = np.nan
        tail, fresh = fresh, tail
        block += core


@_compiled(f"int64({_F}, float64)")
def _put_away(ordered: Floats, value: float) -> int:
    """Take one value out of ascending ones that hold it; says where it was."""
    at = 0
    for j in range(ordered.size):  # counting beats searching: it has nothing to guess
        at += ordered[j] < value
    rest = ordered[at:]
    for j in range(rest.size - 1):
        rest[j] = rest[j + 1]
    return at


@_compiled(f"int64({_F}, float64)")
def _put_in(ordered: Floats, value: float) -> int:
    """Put a value among ascending ones, of which the last is free or goes; says where it is."""
    at = 0
    for j in range(ordered.size - 1):
        at += ordered[j] <= value
    rest = ordered[at:]
    for j in range(rest.size - 1, 0, -1):
        rest[j] = rest[j - 1]
    rest[0] = value
    return at


@_compiled(f"int64({_F}, {_F}, int64)")
def _pick(window: Floats, kept: Floats, least: int) -> int:
    """Put the smallest values of the window, `least` or more of them, into `kept` in order; says how many."""
    most = kept.size - 1
    low = window[0]
    high = window[0]
    for j in range(window.size):
        low = window[j] if window[j] < low else low
        high = window[j] if window[j] > high else high
    bound = low if low >= 0.0 or high <= 0.0 else 0.0
    for _ in range(30):  # a bound under which there are enough, but not too many
        count = 0
        for j in range(window.size):
            count += window[j] <= bound
        if least <= count <= most:
            break
        if count < least:
            low = bound
        else:
            high = bound
        bound = 0.5 * low + 0.5 * high
    held = 0
    for j in range(window.size):
        # With many equal values there may be no such bound: then the last ones kept give way.
        if window[j] <= bound or held < least:
            if held < most or window[j] < kept[held - 1]:
                _put_in(kept[: held + 1], window[j])
                held = min(held + 1, most)
        elif window[j] < kept[held - 1]:
            _put_in(kept[: held + 1], window[j])
            held = min(held + 1, most)
    return held


@_compiled(f"UniTuple(int64, 2)({_F}, int64, int64, float64, {_F})")
def _keep(kept: Floats, held: int, least: int, old: float, window: Floats) -> tuple[int, int]:
    """kept[:held] are the smallest values of a window in order; now it has lost `old` and won its last one.

    No value outside is smaller than the last one kept. When fewer than `least` are left they are picked anew. Says how
    many are kept now, and the first place where their order has changed."""
    changed = held
    if held > 0 and old <= kept[held - 1]:
        changed = _put_away(kept[:held], old)
        held -= 1
    new = window[window.size - 1]
    if held > 0 and (new < kept[held - 1] or (new == kept[held - 1] and held < kept.size - 1)):
        at = _put_in(kept[: held + 1], new)
        held = min(held + 1, kept.size - 1)
        changed = min(changed, at)
    if held < least:
        held = _pick(window, kept, least)
        changed = 0
    return held, changed


@_compiled(f"void({_F}, int64, int64, {_B}, {_F}, {_F}, {_F}, {_F})")
def tails(
    returns: Floats, length: int, first: int, usable: Bytes, var_95: Floats, var_99: Floats, cvar_95: Floats,
    cvar_99: Floats,
) -> None:  # fmt: skip
    """Value at risk and expected shortfall by order statistics; not a number where not usable.

    Only the smallest returns are kept in order, up to twice as many as are needed: a step costs only where the value
    that comes or goes is among them. The sums of the tail are taken anew, from the far end."""
    n = returns.size
    begin = max(first, length - 1)
    nothing = min(begin - first, var_95.size)
    var_95[:nothing] = var_99[:nothing] = cvar_95[:nothing] = cvar_99[:nothing] = np.nan
    rank = (length * 5 + 99) // 100
    far = (length + 99) // 100
    mass = length * 5 / 100.0
    far_mass = length / 100.0
    part = mass - (rank - 1)
    far_part = far_mass - (far - 1)
    low = np.empty(min(2 * rank + 8, length) + 1)
    lost = np.zeros(rank + 1)  # lost[i]: sum of the i worst losses
    held = 0
    last = np.inf  # the largest kept
    v95 = v99 = c95 = c99 = 0.0
    for t in range(begin, n):
        old = returns[t - length] if t > begin else np.inf
        if old <= last or returns[t] <= last:
            held, changed = _keep(low, held, rank, old, returns[t - length + 1 : t + 1])
            last = low[held - 1]
            if changed < rank:
                worst = lost[changed]
                for i in range(changed, rank - 1):
                    worst -= low[i]
                    lost[i + 1] = worst
                v95 = -low[rank - 1]
                c95 = (lost[rank - 1] + part * v95) / mass
                v99 = -low[far - 1]
                c99 = (lost[far - 1] + far_part * v99) / far_mass
        there = usable[t - first] != 0
        var_95[t - first] = v95 if there else np.nan
        var_99[t - first] = v99 if there else np.nan
        cvar_95[t - first] = c95 if there else np.nan
        cvar_99[t - first] = c99 if there else np.nan


@_compiled(f"void({_F}, int64, int64, {_B}, {_F})")
def large_moves(returns: Floats, length: int, first: int, usable: Bytes, out: Floats) -> None:
    """Sum of the largest tenth of moves ÷ the root of their summed squares; not a number where nothing moves or not
    usable. Kept in order as in `tails`: by −|r|, whose last bit is the sign.

    Of moves of one size (up to rounding: there and back is one size) that do not all belong to the tenth, each counts
    for a share, so that neither rises nor falls come first."""
    n = returns.size
    begin = max(first, length - 1)
    out[: min(begin - first, out.size)] = np.nan
    sizes = np.empty(n)
    bits = sizes.view(np.int64)
    for t in range(n):
        sizes[t] = -abs(returns[t])
        bits[t] = (bits[t] & ~1) | (returns[t] > 0.0)
    rank = length // 10
    top = np.empty(min(rank + rank // 2 + 8, length) + 1)
    signs = top.view(np.int64)
    held = 0
    edge = np.inf  # what lies beyond it has no say
    value = np.nan
    for t in range(begin, n):
        old = sizes[t - length] if t > begin else np.inf
        if old <= edge or sizes[t] <= edge:
            held, _ = _keep(top, held, rank, old, sizes[t - length + 1 : t + 1])
            size = -top[rank - 1]
            above = -size * (1.0 + 1e-9)
            below = -size * (1.0 - 1e-9)
            edge = max(top[held - 1], below)
            balance = 0.0
            power = 0.0
            before = 0
            while top[before] < above:
                balance += top[before] if signs[before] & 1 == 0 else -top[before]
                power += top[before] * top[before]
                before += 1
            alike = 0
            rises = 0
            if top[held - 1] > below:
                while top[before + alike] <= below:
                    rises += signs[before + alike] & 1
                    alike += 1
            else:  # there may be more of them outside
                for i in range(t - length + 1, t + 1):
                    if above <= sizes[i] <= below:
                        alike += 1
                        rises += bits[i] & 1
            rest = rank - before
            balance += rest * size * (2 * rises - alike) / alike
            power += rest * size * size
            value = balance / math.sqrt(power) if power > 0.0 else np.nan
        out[t - first] = value if usable[t - first] != 0 else np.nan


@_compiled(f"void({_F}, int64, int64, int64, {_B}, {_F})")
def drawdown(path: Floats, points: int, epoch: int, first: int, usable: Bytes, out: Floats) -> None:
    """Deepest fall from a running peak over the last `points` levels, not a number where not usable; joined from the
    two epoch-anchored blocks that the window meets."""
    n = path.size
    begin = max(first, points - 1)
    start = begin - points + 1
    tail_high = np.full(points + 1, -np.inf)
    tail_fall = np.zeros(points + 1)
    fresh_high = np.full(points + 1, -np.inf)
    fresh_fall = np.zeros(points + 1)
    head_low = np.zeros(points)
    head_fall = np.zeros(points)
    out[: min(begin - first, out.size)] = np.nan
    block = start - (epoch + start) % points
    while block < n and begin < n:
        low = max(block, start)
        phase = low - block
        y = path[low : min(block + points, n)]
        size = y.size
        ends_high, ends_fall = fresh_high[phase:], fresh_fall[phase:]
        peak = -np.inf
        floor = np.inf
        fall = 0.0
        top = -np.inf
        bottom = np.inf
        drop = 0.0
        for j in range(size):
            level = y[j]
            peak = level if level > peak else peak
            floor = level if level < floor else floor
            fall = peak - level if peak - level > fall else fall
            head_low[j] = floor
            head_fall[j] = fall
            level = y[size - 1 - j]
            top = level if level > top else top
            bottom = level if level < bottom else bottom
            drop = level - bottom if level - bottom > drop else drop
            ends_high[size - 1 - j] = top
            ends_fall[size - 1 - j] = drop
        skip = max(begin - low, 0)
        if skip < size:
            row = low + skip - first
            known = usable[row:]
            result = out[row:]
            before_high, before_fall = tail_high[phase + skip + 1 :], tail_fall[phase + skip + 1 :]
            upto_low, upto_fall = head_low[skip:size], head_fall[skip:size]
            for j in range(upto_low.size):
                deepest = before_fall[j] if before_fall[j] > upto_fall[j] else upto_fall[j]
                across = before_high[j] - upto_low[j]
                deepest = across if across > deepest else deepest
                result[j] = deepest if known[j] != 0 else np.nan
        tail_high, fresh_high = fresh_high, tail_high
        tail_fall, fresh_fall = fresh_fall, tail_fall
        block += points


@_compiled("float64(float64)")
def _erfcx(y: float) -> float:
    """exp(y²) erfc(y) for y ≥ 0."""
    if y < 25.0:
        return math.exp(y * y) * math.erfc(y)
    q = 0.5 / (y * y)
    return (1.0 - q * (1.0 - 3.0 * q * (1.0 - 5.0 * q))) / (y * math.sqrt(math.pi))


@_compiled("float64(float64, float64, float64, float64)")
def _touch_upper(mu: float, up: float, down: float, horizon: float) -> float:
    """P(a Brownian motion with drift mu and unit variance touches `up` before −`down`, within `horizon`)."""
    if horizon <= 0.0:
        return 0.0
    width = up + down
    m = abs(mu)
    if horizon > 0.3 * width * width:  # eigenfunctions
        if m * width < 1e-9:
            ever = down / width
        else:
            ever = math.expm1(-2.0 * m * down) / math.expm1(-2.0 * m * width)
            if mu < 0.0:
                ever *= math.exp(-2.0 * m * up)
        late = 0.0
        sign = 1.0
        for k in range(1, 9):
            angle = k * math.pi / width
            rate = 0.5 * (mu * mu + angle * angle)
            late += sign * angle / width * math.sin(angle * down) * math.exp(mu * up - rate * horizon) / rate
            sign = -sign
        return min(max(ever - late, 0.0), 1.0)
    root = math.sqrt(2.0 * horizon)  # images
    total = 0.0
    for k in range(-3, 4):
        x = abs(up + 2.0 * k * width)
        term = math.exp(mu * up - m * x) * math.erfc((x - m * horizon) / root)
        y = (x + m * horizon) / root
        term += math.exp(mu * up + m * x - y * y) * _erfcx(y)
        total += 0.5 * term if k >= 0 else -0.5 * term
    return min(max(total, 0.0), 1.0)


@_compiled("UniTuple(float64, 3)(float64, float64, float64, float64)")
def first_passage(mu: float, up: float, down: float, horizon: float) -> tuple[float, float, float]:
    """P(upper first), P(lower first), P(neither within the horizon)."""
    above = _touch_upper(mu, up, down, horizon)
    below = min(_touch_upper(-mu, down, up, horizon), 1.0 - above)
    return above, below, 1.0 - above - below


@_compiled(f"void(float64, float64, float64, float64, float64, {_F2}, {_F2})")
def passage_table(
    reward: float, low: float, step: float, drift_low: float, drift_step: float, up: Floats, down: Floats
) -> None:
    """P(target first) and P(stop first) within one unit of time, stop at low + step · column, target at `reward` times
    that, drift towards the target drift_low + drift_step · row."""
    for i in range(up.shape[0]):
        mu = drift_low + drift_step * i
        for j in range(up.shape[1]):
            stop = low + step * j
            up[i, j], down[i, j], _ = first_passage(mu, reward * stop, stop, 1.0)


@_compiled("UniTuple(float64, 4)(float64)")
def _cubic_weights(x: float) -> tuple[float, float, float, float]:
    """Lagrange weights of the points −1, 0, 1, 2 at 0 ≤ x < 1."""
    a = x + 1.0
    b = x - 1.0
    c = x - 2.0
    return -x * b * c / 6.0, a * b * c / 2.0, -a * x * c / 2.0, a * x * b / 6.0


@_compiled(
    f"void({_F}, {_F}, {_F}, {_F}, {_B}, int64, float64, float64, float64, float64, float64, float64, float64, "
    f"{_F2}, {_F2}, {_F}, {_F}, {_F}, {_F})"
)
def plan_probabilities(
    total: Floats,
    z: Floats,
    day_scale: Floats,
    scale: Floats,
    usable: Bytes,
    day: int,
    stop_scales: float,
    reward: float,
    horizon: float,
    low: float,
    step: float,
    drift_low: float,
    drift_step: float,
    up: Floats,
    down: Floats,
    target: Floats,
    stop: Floats,
    neither: Floats,
    advantage: Floats,
) -> None:
    """P(target first), P(stop first), P(neither) of the plan that follows the drift, and (p − p′)/(p + p′) with p′ its
    opposite's target.

    The stop is stop_scales · √horizon · day_scale away; drift = total ÷ day, shrunk by 1 − 1/z². In units of
    scale · √horizon the plan is a point of passage_table's arrays, read by cubic interpolation; beyond them the closed
    form is taken. Turning the drift round multiplies every path to the target by exp(−2 · drift · distance), so that
    p′/p and the advantage, tanh(drift · distance), are exact."""
    root = math.sqrt(horizon)
    rows, columns = up.shape
    for i in range(total.size):
        if usable[i] == 0:
            target[i] = stop[i] = neither[i] = np.nan
            advantage[i] = 0.0
            continue
        if not (scale[i] > 0.0 and day_scale[i] > 0.0):
            target[i] = stop[i] = advantage[i] = 0.0
            neither[i] = 1.0
            continue
        away = stop_scales * day_scale[i] / scale[i]
        square = z[i] * z[i]
        mu = 0.0
        if square > 1.0:
            mu = abs(total[i] / day * (1.0 - 1.0 / square)) / scale[i] * root
        x = (away - low) / step
        y = (mu - drift_low) / drift_step
        if 1.0 <= x < columns - 2.0 and y < rows - 2.0:
            j = int(x)
            c0, c1, c2, c3 = _cubic_weights(x - j)
            k = int(y)
            a = up[k, j - 1 :]
            b = down[k, j - 1 :]
            above = c0 * a[0] + c1 * a[1] + c2 * a[2] + c3 * a[3]
            below = c0 * b[0] + c1 * b[1] + c2 * b[2] + c3 * b[3]
            if mu > 0.0:
                w0, w1, w2, w3 = _cubic_weights(y - k)
                above *= w1
                below *= w1
                for o in range(3):
                    weight = w0 if o == 0 else (w2 if o == 1 else w3)
                    near = k - 1 if o == 0 else k + o
                    a = up[near, j - 1 :]
                    b = down[near, j - 1 :]
                    above += weight * (c0 * a[0] + c1 * a[1] + c2 * a[2] + c3 * a[3])
                    below += weight * (c0 * b[0] + c1 * b[1] + c2 * b[2] + c3 * b[3])
            above = min(max(above, 0.0), 1.0)
            below = min(max(below, 0.0), 1.0 - above)
            reachable = True
        else:
            above, below, _ = first_passage(mu, reward * away, away, 1.0)
            reachable = above > 0.0
        target[i] = above
        stop[i] = below
        neither[i] = 1.0 - above - below
        advantage[i] = math.tanh(mu * reward * away) if reachable and mu > 0.0 else 0.0


@_compiled(f"void({_F}, {_F})")
def normal_cdf(x: Floats, out: Floats) -> None:
    """Standard normal distribution function."""
    for i in range(x.size):
        out[i] = 0.5 * math.erfc(-x[i] * math.sqrt(0.5))


@_compiled(f"void({_F}, {_I}, {_F}, {_F2}, {_F2}, {_F2}, {_F3}, {_F})")
def table_percentile(
    x: Floats, quiet: Integers, reading: Floats, nodes: Floats, low: Floats, step: Floats, shares: Floats, out: Floats
) -> None:
    """Place of each x under its null, tabulated for each count of quiet minutes and each node of the reading: shares at
    equally spaced values from `low` on. Interpolated between nodes and between values; beyond the ends they hold."""
    last = nodes.shape[1] - 1
    end = np.int64(shares.shape[2] - 1)
    for t in range(x.size):
        value = x[t]
        if math.isnan(value):
            out[t] = np.nan
            continue
        q = np.uint64(quiet[t])
        start = low[q, 0]
        width = step[q, 0]
        j = np.uint64(0)
        w = 0.0
        if last > 0:
            r = reading[t]
            for a in range(1, last):
                j += np.uint64(nodes[q, a] <= r)
            after = j + np.uint64(1)
            w = min(max((r - nodes[q, j]) / (nodes[q, after] - nodes[q, j]), 0.0), 1.0)
            start = (1.0 - w) * low[q, j] + w * low[q, after]
            width = (1.0 - w) * step[q, j] + w * step[q, after]
        place = min(max((value - start) / width, 0.0), float(end))
        whole = min(np.int64(place), end - 1)
        f = place - whole
        m = np.uint64(whole)
        m1 = m + np.uint64(1)
        result = shares[q, j, m] + f * (shares[q, j, m1] - shares[q, j, m])
        if w > 0.0:
            j += np.uint64(1)
            result += w * ((shares[q, j, m] + f * (shares[q, j, m1] - shares[q, j, m])) - result)
        out[t] = result


@_compiled(f"void({_F}, {_F}, {_I}, int64, float64, {_F})")
def standardise(returns: Floats, scale: Floats, run: Integers, history: int, cut: float, out: Floats) -> None:
    """Return ÷ scale one bar earlier, cut at ±cut; not a number where fewer than `history` returns came before it in a
    row, and where there is neither scale nor move."""
    for t in range(returns.size):
        before = scale[t - 1] if t > 0 else 0.0
        z = returns[t] / before
        z = cut if z > cut else (-cut if z < -cut else z)
        out[t] = z if run[t] > history else np.nan


@_compiled(f"void({_F}, int64, int64, int64, {_F})")
def evenness(returns: Floats, length: int, epoch: int, first: int, out: Floats) -> None:
    """Mean over the window's blocks of 16 returns of mean |r| ÷ root mean square of those that moved (1 where none
    did): √(2/π) and a little more where sizes are Gaussian, less with fat tails or bursts, 1 where all are equal."""
    start = max(first - length + 1, 0)
    n = returns.size - start
    absolute = np.abs(returns[start:])
    square = absolute * absolute
    moved = np.where(absolute > 0.0, 1.0, 0.0)
    for lag in (1, 2, 4, 8):
        for sums in (absolute, square, moved):
            for t in range(n - 1, lag - 1, -1):
                sums[t] += sums[t - lag]
    for t in range(n):
        absolute[t] = absolute[t] / math.sqrt(moved[t] * square[t]) if square[t] > 0.0 else 1.0
    blocks = length - 15
    window_sum(absolute, blocks, epoch + start, first - start, out)
    for t in range(out.size):
        out[t] /= blocks


@_compiled("float64(float64)")
def _exp_small(x: float) -> float:
    """exp(x) for 0 ≤ x ≤ 1 to the last bits, without a call: a loop over it becomes vector code."""
    y = 1.0
    for k in range(18, 0, -1):
        y = 1.0 + y * x * (1.0 / k)
    return y


@_compiled(f"void({_F}, {_I}, float64, float64, {_F2})")
def hamilton_filter(z: Floats, run: Integers, mu: float, stay: float, out: Floats) -> None:
    """Filtered P(falling), P(driftless), P(rising) of unit-variance steps with drift −mu, 0, +mu; mu · |z| at most 1.

    A missing z carries no information; run = 0 starts again from the stationary third each. The recursion is linear
    but for its scale: probabilities are divided by their sum beside it, and the scale is renewed every 64 steps."""
    move = 0.5 * (1.0 - stay)
    keep = stay - move
    neutral = math.exp(-0.5 * mu * mu)
    bear = bull = side = 1.0 / 3.0
    falls = np.empty(64)
    rises = np.empty(64)
    for begin in range(0, z.size, 64):
        steps = z[begin : begin + 64]
        known = run[begin : begin + 64]
        falling, driftless, rising = out[0, begin:], out[1, begin:], out[2, begin:]
        for j in range(steps.size):
            step = steps[j]
            there = step == step
            likelier = _exp_small(mu * abs(step) if there else 0.0)
            rarer = neutral / likelier
            likelier *= neutral
            up = likelier if step > 0.0 else rarer
            down = rarer if step > 0.0 else likelier
            rises[j] = up if there else 1.0
            falls[j] = down if there else 1.0
        total = (bear + bull) + side
        for j in range(steps.size):
            if known[j] == 0:
                bear = bull = side = 1.0 / 3.0
                total = 1.0
            else:
                up = rises[j]
                down = falls[j]
                # The sum's own recursion: waiting for the three and adding them would take twice as long.
                after = (keep * down * bear + keep * up * bull) + (keep * side + (move * (up + down) + move) * total)
                bear = keep * down * bear + move * down * total
                bull = keep * up * bull + move * up * total
                side = keep * side + move * total
                total = after
            falling[j] = bear
            driftless[j] = side
            rising[j] = bull
        for j in range(steps.size):
            total = (falling[j] + rising[j]) + driftless[j]
            falling[j] /= total
            driftless[j] /= total
            rising[j] /= total
        bear, side, bull = falling[steps.size - 1], driftless[steps.size - 1], rising[steps.size - 1]


@_compiled(f"void({_F}, {_I}, float64, float64, {_F2})")
def alpha_beta_filter(returns: Floats, run: Integers, alpha: float, beta: float, out: Floats) -> None:
    """Steady-state local linear trend: rows price − level, slope, innovation. run = 0 starts again at the price.

    Written in the gap between price and level, so that no price level enters."""
    gap = 0.0
    slope = 0.0
    gaps, slopes, innovations = out[0], out[1], out[2]
    for t in range(returns.size):
        innovation = 0.0
        if run[t] == 0:
            gap = 0.0
            slope = 0.0
        else:
            innovation = returns[t] + gap - slope
            gap = (1.0 - alpha) * innovation
            slope += beta * innovation
        gaps[t] = gap
        slopes[t] = slope
        innovations[t] = innovation


@_compiled(f"void({_F}, {_F}, {_F}, {_B}, {_F})")
def in_units(x: Floats, scale: Floats, returns: Floats, usable: Bytes, out: Floats) -> None:
    """x ÷ scale; without a scale 0 in a minute without a move and not a number in the minute that ends it."""
    for i in range(x.size):
        value = x[i] / scale[i] if scale[i] > 0.0 else (0.0 if returns[i] == 0.0 else np.nan)
        out[i] = value if usable[i] != 0 else np.nan


@_compiled(f"void({_F}, float64, float64, {_F})")
def sign_spread(returns: Floats, alpha: float, beta: float, out: Floats) -> None:
    """Standard deviation of alpha_beta_filter's slope if only the signs of the returns were chance: √Σ h² r² with h
    the slope's response to one return, by the recursion of the covariance of (gap, slope)."""
    keep = 1.0 - alpha
    gap = 0.0
    both = 0.0
    slope = 0.0
    for t in range(returns.size):
        innovation = returns[t] * returns[t] + gap - 2.0 * both + slope
        cross = both - slope
        gap = keep * keep * innovation
        both = keep * (beta * innovation + cross)
        slope += beta * (2.0 * cross + beta * innovation)
        out[t] = math.sqrt(slope) if slope > 0.0 else 0.0


@_compiled(f"void({_F}, {_F}, {_I}, int64, {_B}, {_F})")
def in_chance_units(slope: Floats, spread: Floats, quiet: Integers, length: int, usable: Bytes, out: Floats) -> None:
    """slope ÷ spread; 0 where all of the last `length` minutes were quiet or nothing ever moved."""
    for i in range(slope.size):
        value = slope[i] / spread[i] if spread[i] > 0.0 and quiet[i] < length else 0.0
        out[i] = value if usable[i] != 0 else np.nan
