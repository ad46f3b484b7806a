"""Shannon entropy: how evenly returns fill the cells that pure noise would fill evenly.

Formula: H = −Σ (c/N) ln(c/N) + (K − 1)/(2N) over cells with counts c, N symbols, K filled cells (Miller 1955, Madow),
÷ ln(cells), at most 1. Cells: the 8 octiles of N(0, 1) of z = return ÷ scale one bar earlier (`entropy`); the 27
ternary words of three returns (`entropy_words`), which also see serial dependence. Unit: share of the maximum.
Source: Shannon (1948); Miller (1955), “Note on the bias of information estimates”.

Null: fat tails and bursts of volatility fill the octiles unevenly without any structure, so only the signs are judged:
the statistic is the part of the entropy that is left when the moves' sizes are known, the mean entropy of a move's
sign given its size's quartile (in bits, Miller–Madow; 1 for noise). Random walks with the window's share of zero
returns, simulated; their steps' distribution hardly matters. Vote: low entropy of signs is structure and goes with
momentum's direction; high entropy is silence. Score: strength of the percentile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import LOW, Bars, Floats, lean, missing_because, number, place, strength
from v7_pipeline.theories.nulls import simulated_percentile

__all__ = ["NAME", "entropy", "explain", "percentile", "score", "statistic", "values", "vote"]

NAME = "shannon_entropy"
BINS = 8
WORDS = 27
WORD_LENGTH = 3
# An octile's cell among nine, where a zero return (8) has the middle to itself, and the size alone of that cell.
_NINE = np.array([0, 1, 2, 3, 5, 6, 7, 8, 4], np.uint8)
_SIZE = np.array([4, 3, 2, 1, 1, 2, 3, 4, 0], np.uint8)


def entropy(symbols: npt.ArrayLike, alphabet: int) -> float:
    """Miller–Madow entropy ÷ ln(alphabet) of symbols 0 … alphabet − 1, not cut at 1; 0 where all are equal."""
    from v7_pipeline.theories import kernels

    data = np.array(symbols, dtype=np.int64)
    if data.size == 0 or data.min() < 0 or data.max() >= alphabet or not 2 <= alphabet <= 255:
        raise ValueError(f"symbols must be at least one, in 0 … {alphabet - 1}, of an alphabet of 2 to 255")
    out = np.empty(1)
    kernels.entropy(data.astype(np.uint8), alphabet, data.size, data.size - 1, out)
    return float(out[0])


def _symbols(bars: Bars, w: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Octiles (8 where the return is zero) and words of the full length."""

    def make() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        octile, word = np.empty(bars.close.size, np.uint8), np.empty(bars.close.size, np.uint8)
        bars.kernels.symbolize(bars.returns, bars.scale_everywhere(w), octile, word)
        return octile, word

    return bars.cached((NAME, "symbols", w), make)


def _both(bars: Bars, w: int) -> tuple[Floats, Floats]:
    def make() -> tuple[Floats, Floats]:
        octile, word = _symbols(bars, w)
        bins, words = np.zeros(bars.rows), np.zeros(bars.rows)
        bars.kernels.entropy(octile, BINS, w, bars.first, bins)
        bars.kernels.entropy(word, WORDS, w - WORD_LENGTH + 1, bars.first, words)
        return bars.where_usable(bins, w, 2 * w), bars.where_usable(words, w, 2 * w)

    return bars.cached((NAME, w), make)


def values(bars: Bars) -> dict[str, Floats]:
    """entropy_W and entropy_words_W ∈ [0, 1]; missing before 2W unbroken returns."""
    columns = {f"entropy_{w}": np.minimum(_both(bars, w)[0], 1.0) for w in bars.windows}
    return columns | {f"entropy_words_{w}": np.minimum(_both(bars, w)[1], 1.0) for w in bars.windows}


def statistic(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """Bits of sign a move, given its size's quartile; 0 where nothing moved."""

    def make() -> Floats:
        octile, _ = _symbols(bars, w)
        whole, sizes = np.zeros(bars.rows), np.zeros(bars.rows)
        bars.kernels.entropy(_NINE[octile], 9, w, bars.first, whole)
        bars.kernels.entropy(_SIZE[octile], 5, w, bars.first, sizes)
        moves = 1.0 - bars.quiet_share(w)
        nats = whole * math.log(9) - sizes * math.log(5)
        bits = np.divide(nats, moves * math.log(2), out=np.zeros(bars.rows), where=moves > 0)
        return bars.where_usable(bits, w, 2 * w)

    return bars.cached((NAME, "signs", w), make)


def percentile(bars: Bars) -> Floats:
    return simulated_percentile(NAME, bars, statistic(bars))


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return lean(bars, percentile, score, low=+1, high=0)


def explain(row: Mapping[str, Any]) -> str:
    value = number(row, "entropy_240")
    if value is None:
        return missing_because(row, "Entropy")
    share = number(row, f"{NAME}_percentile")
    told = "moves are as varied as noise" if share is None or share > LOW else "moves are more ordered than noise"
    return f"Entropy {value:.3f}{place(share)}: {told}."
