"""The game whose Shapley values the theories get: coalitions of them trade by the rules' combiner, the rest silent.

A counterfactual of a deterministic combiner over closed outcomes; it says nothing of what a language model would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Combiner", "coalition_values"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Combiner:
    """How voices (vote × score) become a side: the weighted sum's sign, where its size reaches `min_strength` and
    `min_agreeing` theories speak that way. `weights`: one a theory, scaled to sum 1; equal where not given.

    By default a plain vote: any sum will do that is not 0 but for rounding.
    """

    min_strength: float = 1e-9
    min_agreeing: int = 1
    weights: Sequence[float] | None = None

    def shares(self, theories: int) -> Floats:
        """The weights, summing to 1. ValueError unless there is one for each theory, none negative, not all 0."""
        if self.weights is None:
            return np.full(theories, 1 / theories)
        given = np.asarray(self.weights, dtype=float)
        if given.shape != (theories,) or not ((given >= 0).all() and 0 < given.sum() < np.inf):
            raise ValueError(f"a combiner of {theories} theories needs as many weights, not negative, not all zero")
        return np.asarray(given / given.sum())


def coalition_values(
    voices: Floats, long_r: Floats, short_r: Floats, weights: Floats, combiner: Combiner, *, threads: int = 2
) -> Floats:
    """Worth of each coalition of theories, in R a trade: the weighted mean of what it would have earned.

    `voices` is trades × theories (vote × score), `long_r` and `short_r` what a BUY and a SELL of each trade come to, in
    R after costs. A coalition trades where the combiner would with everyone else silent, and earns 0 where it stays
    out; the mean is over all trades, so that finding more good trades counts, too. 2^theories values, bit j is theory
    j; the empty coalition's is 0. Trades whose R is not known (NaN) do not count; NaN where none does.
    """
    count = voices.shape[1]
    known = np.isfinite(long_r) & np.isfinite(short_r)
    mass = weights[known].sum()
    if not mass > 0:
        return np.full(1 << count, np.nan)
    from v7_pipeline.learning.kernels import coalition_totals

    spoken = np.ascontiguousarray(voices[known] * combiner.shares(count))
    long, short = (weights * long_r)[known], (weights * short_r)[known]
    edges = np.linspace(0, len(spoken), threads + 1).astype(int)

    def part(bounds: tuple[int, int]) -> Floats:
        rows = slice(*bounds)
        totals = np.zeros(1 << count)
        coalition_totals(spoken[rows], long[rows], short[rows], combiner.min_strength, combiner.min_agreeing, totals)
        return totals

    bounds = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    if len(spoken) < 2_000:
        return np.asarray(sum(part(each) for each in bounds) / mass)
    with ThreadPoolExecutor(threads) as pool:
        return np.asarray(sum(pool.map(part, bounds)) / mass)
