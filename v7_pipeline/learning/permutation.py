"""Could votes that know nothing have been right as often? The block-permutation test of the ten theories' votes.

Arrays in, p-values out; what a p-value means for a theory is attribution's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from v7_pipeline.learning.blocks import TimeBlocks

__all__ = ["Direction", "Strata", "direction", "permutation_p", "strata_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Strata:
    """Trades of one symbol and side, in time order: `members[starts[s] : starts[s + 1]]`; `code` is each row's own.

    `symbol` is each stratum's symbol, `lengths` its permutation block in trades.
    """

    code: Integers
    symbol: Integers
    members: Integers
    starts: Integers
    lengths: Integers


@dataclass(frozen=True)
class Direction:
    """How votes went with what followed. `excess` (k): right minus wrong, weighted, beyond what the side explains.

    `coefficients` (rows × k) and `residuals` (rows) are the linear form behind it: excess = coefficients' residuals.
    """

    excess: Floats
    coefficients: Floats
    residuals: Floats


def strata_of(symbol: Integers, side: Integers, start: Floats, end: Floats, blocks: TimeBlocks) -> Strata:
    """The strata of trades in time order; symbol and side as codes from 0.

    A stratum's block has as many trades as one of them reaches over, or as a block of time holds, whichever is more.
    """
    pair = symbol * (int(side.max(initial=0)) + 1) + side
    labels, code = np.unique(pair, return_inverse=True)
    members = np.argsort(code, kind="stable").astype(np.int64)
    starts = np.searchsorted(code[members], np.arange(len(labels) + 1)).astype(np.int64)
    lengths = np.ones(len(labels), np.int64)
    for s in range(len(labels)):
        rows = members[starts[s] : starts[s + 1]]
        reach = np.searchsorted(start[rows], end[rows], side="left") - np.arange(len(rows))
        held = len(rows) / len(np.unique(blocks.block[rows]))
        lengths[s] = min(len(rows), max(int(reach.max()), int(np.ceil(held))))
    return Strata(code.astype(np.int64), labels // (int(side.max(initial=0)) + 1), members, starts, lengths)


def direction(signs: Floats, outcome: Floats, weights: Floats, strata: Strata) -> Direction:
    """Σ w · sign(vote) · sign(return), without what the plan of the side taken puts into it.

    A plan with more reward than risk loses more often than it wins, on noise too: a vote that merely agrees with the
    side must not lose by it. Taking each side's own mean off the outcomes does that, but where the side was chosen by
    votes of which some know something it also takes their knowledge off, and a theory that knows nothing seems to
    hurt (the side is a collider). So outcomes are regressed on symbol × side *and* the ten votes, and only the part
    of the sides is taken off. With V the votes minus their stratum's mean, M the stratum's means minus the symbol's,
    both weighted, and G = V'WV: excess = V'Wy + M'WM · G⁺ V'Wy. signs: rows × k of −1, 0, 1; outcome and weights: rows.
    """
    rows = len(signs)
    if not rows:
        return Direction(np.zeros(signs.shape[1]), np.zeros(signs.shape), np.zeros(0))
    count = len(strata.symbol)
    mass = np.bincount(strata.code, weights, count)
    mean = np.column_stack([np.bincount(strata.code, weights * s, count) for s in signs.T]) / mass[:, None]
    within = signs - mean[strata.code]
    weighted = weights[:, None] * within
    whole = np.bincount(strata.symbol, mass)
    centre = np.column_stack([np.bincount(strata.symbol, mass * m) for m in mean.T]) / whole[:, None]
    between = mean - centre[strata.symbol]
    carried = np.linalg.pinv(weighted.T @ within, rcond=1e-9, hermitian=True) @ (between.T @ (mass[:, None] * between))
    coefficients = np.ascontiguousarray(weighted + weighted @ carried)
    residuals = outcome - (np.bincount(strata.code, weights * outcome, count) / mass)[strata.code]
    return Direction(coefficients.T @ residuals, coefficients, residuals)


def permutation_p(
    found: Direction, strata: Strata, blocks: TimeBlocks, *, permutations: int, seed: int, threads: int = 2
) -> Floats:
    """Two-sided p of each theory's excess: its studentised size against those of block-permuted outcomes.

    Outcomes are permuted within symbol and side in blocks (`strata_of`). That breaks the ties between symbols, which
    therefore must not decide: excess is divided by the root of its blocks' own sums squared, blocks of *time* over all
    symbols together, in the data and in every permutation. A studentised permutation test holds its level where the
    plain one does not (Chung & Romano 2013; DiCiccio & Romano 2017). The observation counts among the permuted, so
    that p is at least 1 ÷ (permutations + 1). NaN below blocks.MIN_BLOCKS. Repeatable for a seed, whatever `threads`.
    """
    if not blocks.enough:
        return np.full(len(found.excess), np.nan)
    from v7_pipeline.learning.kernels import permuted_statistics, statistics_of

    ends = np.flatnonzero(np.diff(blocks.block, append=blocks.block[-1] + 1)).astype(np.int64) + 1
    observed = np.empty(len(found.excess))
    statistics_of(found.coefficients, found.residuals, np.arange(len(found.residuals)), ends, observed)
    null = np.empty((permutations, len(observed)))

    def fill(part: Sequence[int]) -> None:
        permuted_statistics(
            found.coefficients,
            found.residuals,
            strata.members,
            strata.starts,
            strata.lengths,
            ends,
            np.uint64(seed),
            part[0],
            null[part[0] : part[-1] + 1],
        )

    parts = [part for part in np.array_split(np.arange(permutations), threads) if len(part)]
    if permutations * len(found.residuals) < 100_000:
        fill(range(permutations))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, parts))
    beyond = (np.abs(null) >= np.abs(observed) - 1e-12).sum(axis=0)
    return (1.0 + beyond) / (1.0 + permutations)
