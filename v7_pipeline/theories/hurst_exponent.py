"""Hurst exponent: do moves tend to continue (above ½) or to turn back (below ½)?

Formula (headline, `hurst_rs`): slope on log n of log mean R/S over all overlapping blocks of n = 8, 16, … returns (to
the power of two nearest W/4, at most 256), population S, minus the slope of log E[R/S] of white noise (Anis & Lloyd
1976), plus ½; without that correction noise reads .595 at W = 240. Beside it `hurst_dfa`: detrended fluctuation
analysis of order 1 (Peng et al. 1994) over the same blocks. Both are cut to [0, 1]; unit: exponent. Source: Hurst
(1951); Mandelbrot & Wallis (1969). Blocks in which nothing moved have no R/S and are left out of its mean.

Null: random walks with the window's share of zero returns and its evenness of sizes (Bars.evenness: fat tails and
bursts move R/S a little), simulated; of hurst_rs before it is cut. Vote: upper 4 % goes with momentum's direction,
lower 4 % against it (fade). Score: strength of the percentile.

Reading: above the 94th percentile of noise moves tend to continue, so momentum's direction is followed; below the
4th they tend to turn back, so it is faded. Between them, where it is nearly always, it says nothing: at W = 240 the
estimate of pure noise has a standard deviation of .053.

Misleads: one large move inside the window raises the range and looks like persistence until it leaves; a level that
shifts once is no memory. Quiet minutes pull it towards ½.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import HIGH, LOW, Bars, Floats, lean, missing_because, number, place, strength
from v7_pipeline.theories.nulls import simulated_percentile

__all__ = [
    "NAME", "anis_lloyd", "block_sizes", "dfa", "explain", "percentile", "reading", "rescaled_range", "score",
    "statistic", "values", "vote",
]  # fmt: skip

NAME = "hurst_exponent"
LARGEST_BLOCK = 256


@cache
def anis_lloyd(n: int) -> float:
    """E[R/S] of n independent normal returns, S with divisor n."""
    if n < 2:
        raise ValueError(f"R/S needs at least 2 returns, not {n}")
    gamma = math.exp(math.lgamma((n - 1) / 2) - math.lgamma(n / 2)) / math.sqrt(math.pi)
    return gamma * math.fsum(math.sqrt((n - i) / i) for i in range(1, n))


def block_sizes(w: int) -> tuple[int, ...]:
    """Powers of two from 8 to the one nearest W/4 (64 at W = 240), at most 256."""
    largest = min(2 ** round(math.log2(max(w, 1) / 4)), LARGEST_BLOCK)
    sizes = [2**k for k in range(3, 9) if 2**k <= largest]
    if len(sizes) < 2:
        raise ValueError(f"a window of {w} returns is too short for a Hurst exponent; it takes 64")
    return tuple(sizes)


def _exponents(
    kernels: Any, returns: Floats, windows: tuple[int, ...], epoch: int, first: int
) -> tuple[Floats, Floats]:
    """Corrected R/S and DFA1 exponents of each window (row) that ends at first, first + 1 …"""
    sizes = [block_sizes(w) for w in windows]
    expected = np.array([anis_lloyd(n) for n in max(sizes, key=len)])
    rs, fluctuation = (np.full((len(windows), returns.size - first), np.nan) for _ in range(2))
    lengths, counts = np.array(windows, np.int64), np.array([len(each) for each in sizes], np.int64)
    kernels.hurst(returns, lengths, counts, expected, epoch, first, rs, fluctuation)
    return rs, fluctuation


def _one_window(returns: npt.ArrayLike) -> tuple[float, float]:
    from v7_pipeline.theories import kernels

    data = np.array(returns, dtype=np.float64)
    rs, fluctuation = _exponents(kernels, data, (data.size,), 0, data.size - 1)
    return float(rs[0, 0]), float(fluctuation[0, 0])


def rescaled_range(returns: npt.ArrayLike) -> float:
    """Corrected R/S exponent of one window of at least 64 returns, not cut to [0, 1]; NaN where nothing moves."""
    return _one_window(returns)[0]


def dfa(returns: npt.ArrayLike) -> float:
    """DFA1 exponent of one window of at least 64 returns, not cut to [0, 1]; NaN where nothing moves."""
    return _one_window(returns)[1]


def _both(bars: Bars, w: int) -> tuple[Floats, Floats]:
    """R/S and DFA1 exponents of the window, not cut; blocks are shared by all windows."""
    windows = tuple(sorted({*bars.windows, HEADLINE_WINDOW, w}))

    def make() -> dict[int, tuple[Floats, Floats]]:
        every = zip(*_exponents(bars.kernels, bars.returns, windows, bars.epoch, bars.first), strict=True)
        return {
            each: (bars.where_usable(rs, each), bars.where_usable(fluctuation, each))
            for each, (rs, fluctuation) in zip(windows, every, strict=True)
        }

    return bars.cached((NAME, windows), make)[w]


def values(bars: Bars) -> dict[str, Floats]:
    """hurst_rs_W and hurst_dfa_W ∈ [0, 1]; missing where nothing moves."""
    columns = {f"hurst_rs_{w}": np.clip(_both(bars, w)[0], 0.0, 1.0) for w in bars.windows}
    return columns | {f"hurst_dfa_{w}": np.clip(_both(bars, w)[1], 0.0, 1.0) for w in bars.windows}


def statistic(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """The corrected R/S exponent before it is cut."""
    return _both(bars, w)[0]


def reading(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """Evenness of sizes, on which the null depends."""
    return bars.evenness(w)


def percentile(bars: Bars) -> Floats:
    return simulated_percentile(NAME, bars, statistic(bars), reading(bars))


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return lean(bars, percentile, score, low=-1, high=+1)


def explain(row: Mapping[str, Any]) -> str:
    value = number(row, "hurst_rs_240")
    if value is None:
        return missing_because(row, "Hurst")
    share = number(row, f"{NAME}_percentile")
    told = "no memory that noise would not show"
    if share is not None and share >= HIGH:
        told = "moves tend to continue"
    elif share is not None and share <= LOW:
        told = "moves tend to turn back"
    return f"Hurst {value:.2f}{place(share)}: {told}."
