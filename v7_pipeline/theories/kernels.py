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
    "alpha_beta_filter",
    "block_statistics",
    "drawdown",
    "entropy",
    "evenness",
    "first_passage",
    "hamilton_filter",
    "hurst",
    "lz_phrases",
    "lz_words",
    "madogram",
    "normal_cdf",
    "plan_probabilities",
    "prepare",
    "sign_spread",
    "symbolize",
    "table_percentile",
    "tails",
    "window_sum",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]

_F = "float64[::1]"
_F2 = "float64[:, ::1]"
_F3 = "float64[:, :, ::1]"
_I = "int64[::1]"
_B = "uint8[::1]"
_U = "uint32[::1]"


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
    start = max(first - length + 1, 0)
    y = x[start:]
    m = n - start
    head = np.empty(m)
    tail = np.empty(m)
    phase = (epoch + start) % length
    i = 0
    while i < m:
        stop = min(i + length - phase, m)
        acc = 0.0
        for j in range(i, stop):
            acc += y[j]
            head[j] = acc
        acc = 0.0
        for j in range(stop - 1, i - 1, -1):
            acc += y[j]
            tail[j] = acc
        i = stop
        phase = 0
    begin = max(first, length - 1)
    phase = (epoch + begin + 1) % length
    for t in range(begin, n):
        j = t - start
        out[t - first] = head[j] if phase == 0 else tail[j - length + 1] + head[j]
        phase += 1
        if phase == length:
            phase = 0


@_compiled(f"void({_F}, {_F}, {_B}, {_B})")
def symbolize(returns: Floats, scale: Floats, octile: Bytes, word: Bytes) -> None:
    """Each return's octile of N(0, 1) in units of the scale one bar earlier (8 where it is zero), and the ternary
    word of the last three returns (0 … 26). Thresholds act on |r|, so that a mirrored path has mirrored symbols."""
    older = 1
    old = 1
    for t in range(returns.size):
        r = returns[t]
        s = scale[t - 1] if t > 0 else 0.0
        a = abs(r)
        if r == 0.0:
            octile[t] = 8
        else:
            level = 0
            if a >= 0.31863936396437514 * s:
                level = 1
            if a >= 0.6744897501960817 * s:
                level = 2
            if a >= 1.1503493803760079 * s:
                level = 3
            octile[t] = 4 + level if r > 0.0 else 3 - level
        digit = 1
        if r != 0.0 and a >= 0.4307272992954576 * s:
            digit = 2 if r > 0.0 else 0
        word[t] = 9 * older + 3 * old + digit
        older = old
        old = digit


@_compiled(f"void({_B}, int64, int64, int64, {_F})")
def entropy(symbols: Bytes, alphabet: int, length: int, first: int, out: Floats) -> None:
    """Miller–Madow entropy of the last `length` symbols ÷ log(alphabet), not clipped.

    The symbol `alphabet` lies on the edge of the two middle cells and is counted in the fuller one. Counts are
    integers; cells are added in mirrored pairs, so that mirrored symbols give the same bits."""
    n = symbols.size
    begin = max(first, length - 1)
    if begin >= n:
        return
    table = np.zeros(length + 1)
    for c in range(2, length + 1):
        table[c] = c * math.log(c)
    counts = np.zeros(alphabet + 1, np.int64)
    for t in range(begin - length + 1, begin):
        counts[symbols[t]] += 1
    half = alphabet // 2
    for t in range(begin, n):
        counts[symbols[t]] += 1
        edge = counts[alphabet]
        fuller = half if counts[half] >= counts[half - 1] else half - 1
        counts[fuller] += edge
        total = 0.0
        cells = 0
        for i in range(half):
            a = counts[i]
            b = counts[alphabet - 1 - i]
            total += table[a] + table[b]
            cells += (a > 0) + (b > 0)
        if alphabet % 2 == 1:
            total += table[counts[half]]
            cells += counts[half] > 0
        counts[fuller] -= edge
        value = 0.0
        if cells > 1:
            value = math.log(length) - total / length + (cells - 1) / (2.0 * length)
        out[t - first] = value / math.log(alphabet)
        counts[symbols[t - length + 1]] -= 1


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


@_compiled(f"int64({_U}, int64, int64)")
def _long_match(words: Words, i: int, end: int) -> int:
    """Longest match of the suffix at i with an earlier one, where 32 bits agree; at most end − i."""
    best = 0
    for j in range(i):
        if words[j] != words[i]:
            continue
        length = 32
        while i + length < end:
            x = np.uint32(words[i + length] ^ words[j + length])
            if x != 0:
                length += _leading_zeros(x)
                break
            length += 32
        best = max(best, length)
        if i + best >= end:
            return end - i
    return best


@_compiled(f"void({_U}, int64, int64, {_F})")
def lz_phrases(words: Words, length: int, first: int, out: Floats) -> None:
    """Lempel–Ziv 1976 phrases of each window of bits; an unfinished last phrase counts.

    The longest earlier match of a suffix is the smallest XOR of its first 32 bits with any earlier 32: one
    vectorised pass a phrase. Bits beyond the window cannot matter, because a match is cut at its end."""
    for t in range(max(first, length - 1), words.size):
        window = words[t - length + 1 : t + 1]
        count = 0
        i = 0
        while i < length:
            own = window[i]
            best = np.uint32(0xFFFFFFFF)
            earlier = window[:i]
            for j in range(earlier.size):
                x = np.uint32(earlier[j] ^ own)
                best = x if x < best else best
            matched = _leading_zeros(best) if best != 0 else _long_match(window, i, length)
            count += 1
            i += matched + 1
        out[t - first] = count


@_compiled(f"void({_F}, int64, int64, {_F}, {_F}, {_F})")
def block_statistics(returns: Floats, size: int, start: int, rs: Floats, valid: Floats, f2: Floats) -> None:
    """For each block of `size` returns ending at t ≥ start: R/S with population S (valid 0 where S is 0) and the
    mean squared residual of its profile about a line (first-order detrended fluctuation)."""
    middle = 0.5 * (size + 1)
    sxx = size * (size * size - 1.0) / 12.0
    for t in range(max(start, size - 1), returns.size):
        block = returns[t - size + 1 : t + 1]
        total = 0.0
        power = 0.0
        for i in range(size):
            total += block[i]
            power += block[i] * block[i]
        mean = total / size
        y = 0.0
        low = 0.0
        high = 0.0
        square = 0.0
        sum_y = 0.0
        sum_yy = 0.0
        sum_xy = 0.0
        for i in range(size):
            d = block[i] - mean
            square += d * d
            y += d
            low = min(low, y)
            high = max(high, y)
            sum_y += y
            sum_yy += y * y
            sum_xy += (i + 1 - middle) * y
        if square <= 1e-18 * power:  # a straight line up to rounding
            rs[t] = 0.0
            valid[t] = 0.0
            f2[t] = 0.0
        else:
            rs[t] = (high - low) / math.sqrt(square / size)
            valid[t] = 1.0
            residual = sum_yy - sum_y * sum_y / size - sum_xy * sum_xy / sxx
            f2[t] = max(residual, 0.0) / size


@_compiled(f"void({_F2}, {_F2}, {_F2}, {_I}, {_F}, int64, int64, int64, {_F}, {_F})")
def hurst(
    rs: Floats,
    valid: Floats,
    f2: Floats,
    sizes: Integers,
    expected: Floats,
    length: int,
    epoch: int,
    first: int,
    out_rs: Floats,
    out_dfa: Floats,
) -> None:
    """Slopes on log size of log mean R/S, minus that of its expectation, plus ½; and of half log mean F²."""
    k = sizes.size
    rows = out_rs.size
    x = np.log(sizes.astype(np.float64))
    x -= x.mean()
    coefficient = x / (x * x).sum()
    out_rs[:] = 0.5
    out_dfa[:] = 0.0
    sums = np.zeros(rows)
    counts = np.zeros(rows)
    for i in range(k):
        blocks = length - sizes[i] + 1
        window_sum(rs[i], blocks, epoch, first, sums)
        window_sum(valid[i], blocks, epoch, first, counts)
        for j in range(rows):
            if counts[j] > 0.0 and sums[j] > 0.0:
                out_rs[j] += coefficient[i] * (math.log(sums[j] / counts[j]) - math.log(expected[i]))
            else:
                out_rs[j] = np.nan
        window_sum(f2[i], blocks, epoch, first, sums)
        for j in range(rows):
            if sums[j] > 0.0:
                out_dfa[j] += 0.5 * coefficient[i] * math.log(sums[j] / blocks)
            else:
                out_dfa[j] = np.nan


@_compiled(f"void({_F}, int64, int64, int64, {_F})")
def madogram(returns: Floats, length: int, epoch: int, first: int, out: Floats) -> None:
    """2 − slope of log mean |p(i + k) − p(i)| on log k, k = 1, 2, 4, 8, 16, over length + 1 points; not clipped."""
    n = returns.size
    rows = out.size
    out[:] = 2.0
    start = max(first - length, 0)
    change = returns[start:].copy()
    absolute = np.empty(n - start)
    sums = np.zeros(rows)
    lag = 1
    for i in range(5):
        if i > 0:
            for t in range(change.size - 1, lag // 2 - 1, -1):
                change[t] += change[t - lag // 2]
        for t in range(change.size):
            absolute[t] = abs(change[t])
        pairs = length + 1 - lag
        window_sum(absolute, pairs, epoch + start, first - start, sums)
        coefficient = (i - 2.0) / (10.0 * math.log(2.0))
        for j in range(rows):
            out[j] = out[j] - coefficient * math.log(sums[j] / pairs) if sums[j] > 0.0 else np.nan
        lag *= 2


@_compiled(f"void({_F}, int64, int64, {_F2})")
def tails(returns: Floats, length: int, first: int, out: Floats) -> None:
    """VaR 95, VaR 99, CVaR 95, CVaR 99 by order statistics (rows 0 … 3), and the sum of the largest tenth of moves ÷
    the root of their summed squares (row 4; 0 where nothing moves).

    The window is kept sorted by moving one value a step; sums of the tail are taken anew, from the far end."""
    n = returns.size
    begin = max(first, length - 1)
    if begin >= n:
        return
    ordered = np.sort(returns[begin - length + 1 : begin + 1])
    for t in range(begin, n):
        if t > begin:
            new = returns[t]
            i = np.searchsorted(ordered, returns[t - length])
            while i + 1 < length and ordered[i + 1] < new:
                ordered[i] = ordered[i + 1]
                i += 1
            while i > 0 and ordered[i - 1] > new:
                ordered[i] = ordered[i - 1]
                i -= 1
            ordered[i] = new
        for level in range(2):
            percent = 5 if level == 0 else 1
            rank = (length * percent + 99) // 100
            mass = length * percent / 100.0
            loss = 0.0
            for i in range(rank - 1):
                loss -= ordered[i]
            part = mass - (rank - 1)
            out[level, t - first] = -ordered[rank - 1]
            out[2 + level, t - first] = (loss - part * ordered[rank - 1]) / mass
        falls = 0.0
        rises = 0.0
        power = 0.0
        low = 0
        high = length - 1
        for _ in range(length // 10):
            if -ordered[low] > ordered[high]:
                falls -= ordered[low]
                power += ordered[low] * ordered[low]
                low += 1
            else:
                rises += ordered[high]
                power += ordered[high] * ordered[high]
                high -= 1
        out[4, t - first] = (rises - falls) / math.sqrt(power) if power > 0.0 else 0.0


@_compiled(f"void({_F}, int64, int64, int64, {_F})")
def drawdown(path: Floats, points: int, epoch: int, first: int, out: Floats) -> None:
    """Deepest fall from a running peak over the last `points` levels; joined from the two blocks the window meets."""
    n = path.size
    start = max(first - points + 1, 0)
    m = n - start
    y = path[start:]
    head_low = np.empty(m)
    head_fall = np.empty(m)
    tail_high = np.empty(m)
    tail_fall = np.empty(m)
    phase = (epoch + start) % points
    i = 0
    while i < m:
        stop = min(i + points - phase, m)
        high = -np.inf
        low = np.inf
        fall = 0.0
        for j in range(i, stop):
            high = max(high, y[j])
            low = min(low, y[j])
            fall = max(fall, high - y[j])
            head_low[j] = low
            head_fall[j] = fall
        high = -np.inf
        low = np.inf
        fall = 0.0
        for j in range(stop - 1, i - 1, -1):
            high = max(high, y[j])
            low = min(low, y[j])
            fall = max(fall, y[j] - low)
            tail_high[j] = high
            tail_fall[j] = fall
        i = stop
        phase = 0
    begin = max(first, points - 1)
    phase = (epoch + begin + 1) % points
    for t in range(begin, n):
        j = t - start
        k = j - points + 1
        if phase == 0:
            out[t - first] = head_fall[j]
        else:
            out[t - first] = max(tail_fall[k], head_fall[j], tail_high[k] - head_low[j])
        phase += 1
        if phase == points:
            phase = 0


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


@_compiled(f"void({_F}, {_F}, {_F}, float64, float64, float64, {_F2})")
def plan_probabilities(
    drift: Floats, scale: Floats, distance: Floats, reward: float, horizon: float, scale_floor: float, out: Floats
) -> None:
    """Rows 0 … 2: target, stop, neither of the plan that follows the drift; row 3: target of the opposite plan.

    `drift` and `scale` a minute, `distance` from entry to stop, all in log price."""
    for i in range(drift.size):
        if scale[i] <= scale_floor or distance[i] <= 0.0:
            out[0, i] = 0.0
            out[1, i] = 0.0
            out[2, i] = 1.0
            out[3, i] = 0.0
            continue
        stop = distance[i] / scale[i]
        mu = abs(drift[i]) / scale[i]
        out[0, i], out[1, i], out[2, i] = first_passage(mu, reward * stop, stop, horizon)
        out[3, i] = out[0, i] if mu == 0.0 else _touch_upper(-mu, reward * stop, stop, horizon)


@_compiled(f"void({_F}, {_F})")
def normal_cdf(x: Floats, out: Floats) -> None:
    """Standard normal distribution function."""
    for i in range(x.size):
        out[i] = 0.5 * math.erfc(-x[i] * math.sqrt(0.5))


@_compiled(f"void({_F}, {_F}, {_F}, {_F}, {_F2}, {_F2}, {_F2}, {_F3}, {_F})")
def table_percentile(
    x: Floats,
    quiet: Floats,
    reading: Floats,
    levels: Floats,
    readings: Floats,
    low: Floats,
    step: Floats,
    shares: Floats,
    out: Floats,
) -> None:
    """Place of each x under its null: NullTable's knots and shares, interpolated between shares of quiet minutes,
    between readings and between knots. Knots are equally spaced, so that nothing is searched."""
    top, last, end = levels.size - 1, readings.shape[1] - 1, shares.shape[2] - 1
    for i in range(x.size):
        if math.isnan(x[i]):
            out[i] = np.nan
            continue
        k = 0
        while k + 1 < top and quiet[i] >= levels[k + 1]:
            k += 1
        k1 = min(k + 1, top)
        v = 0.0
        if k1 > k:
            v = min(max((quiet[i] - levels[k]) / (levels[k1] - levels[k]), 0.0), 1.0)
        j = 0
        here = readings[k, 0] + v * (readings[k1, 0] - readings[k, 0])
        w = 0.0
        while j < last:
            after = readings[k, j + 1] + v * (readings[k1, j + 1] - readings[k, j + 1])
            if reading[i] < after or j + 1 == last:
                w = min(max((reading[i] - here) / (after - here), 0.0), 1.0)
                break
            here = after
            j += 1
        j1 = min(j + 1, last)
        a, b, c, d = (1.0 - v) * (1.0 - w), (1.0 - v) * w, v * (1.0 - w), v * w
        start = a * low[k, j] + b * low[k, j1] + c * low[k1, j] + d * low[k1, j1]
        width = a * step[k, j] + b * step[k, j1] + c * step[k1, j] + d * step[k1, j1]
        place = min(max((x[i] - start) / width, 0.0), float(end))
        m = min(int(place), end - 1)
        f = place - m
        value = a * (shares[k, j, m] + f * (shares[k, j, m + 1] - shares[k, j, m]))
        value += b * (shares[k, j1, m] + f * (shares[k, j1, m + 1] - shares[k, j1, m]))
        value += c * (shares[k1, j, m] + f * (shares[k1, j, m + 1] - shares[k1, j, m]))
        value += d * (shares[k1, j1, m] + f * (shares[k1, j1, m + 1] - shares[k1, j1, m]))
        out[i] = value


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


@_compiled(f"void({_F}, {_I}, float64, float64, {_F2})")
def hamilton_filter(z: Floats, run: Integers, mu: float, stay: float, out: Floats) -> None:
    """Filtered P(falling), P(driftless), P(rising) of unit-variance steps with drift −mu, 0, +mu.

    A missing z carries no information; run = 0 starts again from the stationary third each."""
    move = 0.5 * (1.0 - stay)
    bear = bull = side = 1.0 / 3.0
    for t in range(z.size):
        if run[t] == 0:
            bear = bull = side = 1.0 / 3.0
        else:
            ahead_bear = stay * bear + move * (side + bull)
            ahead_side = stay * side + move * (bear + bull)
            ahead_bull = stay * bull + move * (side + bear)
            if not math.isnan(z[t]):
                ahead_bear *= math.exp(-mu * z[t] - 0.5 * mu * mu)
                ahead_bull *= math.exp(mu * z[t] - 0.5 * mu * mu)
            total = (ahead_bear + ahead_bull) + ahead_side
            bear = ahead_bear / total
            side = ahead_side / total
            bull = ahead_bull / total
        out[0, t] = bear
        out[1, t] = side
        out[2, t] = bull


@_compiled(f"void({_F}, {_I}, float64, float64, {_F2})")
def alpha_beta_filter(returns: Floats, run: Integers, alpha: float, beta: float, out: Floats) -> None:
    """Steady-state local linear trend: rows price − level, slope, innovation. run = 0 starts again at the price.

    Written in the gap between price and level, so that no price level enters."""
    gap = 0.0
    slope = 0.0
    for t in range(returns.size):
        innovation = 0.0
        if run[t] == 0:
            gap = 0.0
            slope = 0.0
        else:
            innovation = returns[t] + gap - slope
            gap = (1.0 - alpha) * innovation
            slope += beta * innovation
        out[0, t] = gap
        out[1, t] = slope
        out[2, t] = innovation


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
        out[t] = math.sqrt(max(slope, 0.0))
