"""Kolmogorov complexity, by Lempel–Ziv: how many new patterns the ups and downs contain.

Formula: phrases c of the exhaustive parsing of Lempel & Ziv (1976) of the bits (return > 0); each phrase is the
shortest string not found earlier (overlap allowed), an unfinished last one counts. `lz` = c ÷ E[c] of a fair coin of
that length (simulated), at most 1; `lz_phrases` = c. (n / log₂ n is no upper bound: a coin is at 1.12 of it at 240.)

Null: random walks with the window's share of zero returns, simulated; only signs enter, so the sizes' distribution does
not matter. Phrases are whole numbers: percentiles are mid-ranks, uniform to half a step (.15). The statistic is the
mean of the phrases of (return > 0) and of (return < 0), which differ only through zero returns, so that mirroring
prices changes nothing.
Vote: few patterns are structure and go with momentum's direction; many are silence. Score: strength of the percentile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import LOW, Bars, Floats, lean, missing_because, number, place, strength
from v7_pipeline.theories.nulls import simulated_percentile

__all__ = ["NAME", "expected_phrases", "explain", "lempel_ziv", "percentile", "score", "statistic", "values", "vote"]

NAME = "kolmogorov_complexity"

# E[c] of a fair coin by length, simulated.
_COIN = {
    60: 12.531, 120: 20.288, 240: 33.989, 360: 46.584, 480: 58.555, 720: 81.329, 960: 103.079, 1440: 144.662,
    2880: 261.066,
}  # fmt: skip


def expected_phrases(n: int) -> float:
    """E[c] of n fair coin tosses, 60 ≤ n ≤ 2880; between simulated lengths c ÷ (n / log₂ n) is interpolated."""
    if not 60 <= n <= 2880:
        raise ValueError(f"the expectation is known for 60 to 2880 bits, not for {n}")
    lengths = np.array(list(_COIN), float)
    ratio = np.array(list(_COIN.values())) * np.log2(lengths) / lengths
    return float(np.interp(np.log(n), np.log(lengths), ratio) * n / np.log2(n))


def lempel_ziv(bits: npt.ArrayLike) -> int:
    """Number of Lempel–Ziv 1976 phrases of a sequence of 0 and 1."""
    from v7_pipeline.theories import kernels

    data = np.array(bits, dtype=np.uint8)
    if data.size == 0 or data.max() > 1:
        raise ValueError("bits must be a sequence of at least one 0 or 1")
    return int(_phrases(kernels, data, data.size, data.size - 1)[0])


def _words(kernels: Any, bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    words = np.empty(bits.size, np.uint32)
    kernels.lz_words(bits, words)
    return words


def _phrases(kernels: Any, bits: npt.NDArray[np.uint8], w: int, first: int) -> Floats:
    out = np.zeros(bits.size - first)
    kernels.lz_phrases(_words(kernels, bits), w, first, out)
    return out


def _rises(bars: Bars, w: int) -> Floats:
    def make() -> Floats:
        return bars.where_usable(_phrases(bars.kernels, (bars.returns > 0).astype(np.uint8), w, bars.first), w)

    return bars.cached((NAME, w), make)


def values(bars: Bars) -> dict[str, Floats]:
    """lz_W ∈ [0, 1] and lz_phrases_W (a whole number)."""
    columns = {f"lz_{w}": np.minimum(_rises(bars, w) / expected_phrases(w), 1.0) for w in bars.windows}
    return columns | {f"lz_phrases_{w}": _rises(bars, w) for w in bars.windows}


def statistic(bars: Bars, w: int = HEADLINE_WINDOW) -> Floats:
    """Mean phrases of rises and of falls."""

    def make() -> Floats:
        falls = _phrases(bars.kernels, (bars.returns < 0).astype(np.uint8), w, bars.first)
        return 0.5 * (_rises(bars, w) + falls)

    return bars.cached((NAME, "statistic", w), make)


def percentile(bars: Bars) -> Floats:
    return simulated_percentile(NAME, bars, statistic(bars))


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return lean(bars, percentile, score, low=+1, high=0)


def explain(row: Mapping[str, Any]) -> str:
    value = number(row, "lz_240")
    if value is None:
        return missing_because(row, "Complexity")
    share = number(row, f"{NAME}_percentile")
    told = "ups and downs look like coin tosses" if share is None or share > LOW else "ups and downs repeat patterns"
    return f"Complexity {value:.2f} of a coin's{place(share)}: {told}."
