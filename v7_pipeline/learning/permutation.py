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
from v7_pipeline.learning.statistics import holm

__all__ = ["Direction", "Strata", "Tested", "direction", "permutation_p", "step_down", "strata_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_HELD_FIXED = 3  # named theories by whose votes trades are divided: 27 cells; more would leave a few trades in each


@dataclass(frozen=True)
class Strata:
    """Trades of one symbol and cell, in time order: `members[starts[s] : starts[s + 1]]`; `code` is each row's own.

    A cell is a side, or a side and what theories named before voted. `symbol` is each stratum's symbol, `lengths` its
    permutation block in trades.
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


@dataclass(frozen=True)
class Tested:
    """For each theory: `excess` (right minus wrong, weighted), `p` and Holm's adjusted `holm`; NaN where untested."""

    excess: Floats
    p: Floats
    holm: Floats


def strata_of(symbol: Integers, cell: Integers, start: Floats, end: Floats, blocks: TimeBlocks) -> Strata:
    """The strata of trades in time order; symbol and cell as codes from 0.

    A stratum's block has as many trades as one of them reaches over, or as a block of time holds, whichever is more.
    """
    cells = int(cell.max(initial=0)) + 1
    labels, code = np.unique(symbol * cells + cell, return_inverse=True)
    members = np.argsort(code, kind="stable").astype(np.int64)
    starts = np.searchsorted(code[members], np.arange(len(labels) + 1)).astype(np.int64)
    lengths = np.ones(len(labels), np.int64)
    for s in range(len(labels)):
        rows = members[starts[s] : starts[s + 1]]
        reach = np.searchsorted(start[rows], end[rows], side="left") - np.arange(len(rows))
        held = len(rows) / len(np.unique(blocks.block[rows]))
        lengths[s] = min(len(rows), max(int(reach.max()), int(np.ceil(held))))
    return Strata(code.astype(np.int64), labels // cells, members, starts, lengths)


def step_down(
    signs: Floats,
    outcome: Floats,
    weights: Floats,
    symbol: Integers,
    side: Integers,
    start: Floats,
    end: Floats,
    blocks: TimeBlocks,
    *,
    eligible: npt.NDArray[np.bool_],
    level: float,
    permutations: int,
    seed: int,
    threads: int = 2,
) -> Tested:
    """Holm's step-down over the theories, in which whoever is named is held fixed for those that follow.

    What a theory foretells lasts for hours, and so do the other votes: by chance they go together, and share in it.
    So once the strongest theory is named (Holm 1979: its p times the number of those left ≤ `level`), the others are
    tested among trades on which it voted alike, and so on until nobody is named; the first three named are held
    fixed. A theory's p is that of the step at which it was named, or of the last step. A theory that says the same as
    a stronger one is therefore not named beside it. `eligible` may be named; the others count among the tests.
    """
    k = signs.shape[1]
    named: list[int] = []
    p, adjusted = np.full(k, np.nan), np.full(k, np.nan)
    sides = strata_of(symbol, side, start, end, blocks)
    found = direction(signs, outcome, weights, sides)
    excess = found.excess.copy()
    if not blocks.enough:
        return Tested(excess, p, adjusted)
    reached, cells = 0.0, len(sides.symbol)
    while True:
        # A mean spends one of the effective trades; symbols that move together spend theirs at once.
        spent = cells / (int(symbol.max(initial=0)) + 1) / max(float(weights.sum()), 1.0)
        now, size = permutation_p(
            found,
            sides,
            blocks,
            permutations=permutations,
            seed=seed,
            scale=float(np.sqrt(max(0.0, 1.0 - spent))),
            threads=threads,
        )
        left = [j for j in np.lexsort((-size, now)) if j not in named]
        first = next((j for j in left if eligible[j]), None)
        price = 1.0 if first is None else max(reached, min(1.0, now[first] * len(left)))
        if first is None or price > level:
            break
        p[first], adjusted[first], excess[first] = now[first], price, found.excess[first]
        reached = price
        named.append(int(first))
        if len(named) <= _HELD_FIXED:
            cell = side
            for j in named:
                cell = cell * 3 + signs[:, j].astype(np.int64) + 1
            strata = strata_of(symbol, cell, start, end, blocks)
            found, cells = direction(signs, outcome, weights, strata), len(strata.symbol)
    p[left], excess[left] = now[left], found.excess[left]
    adjusted[left] = np.maximum(reached, holm(now[left]))
    return Tested(excess, p, adjusted)


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
    found: Direction,
    strata: Strata,
    blocks: TimeBlocks,
    *,
    permutations: int,
    seed: int,
    scale: float = 1.0,
    threads: int = 2,
) -> tuple[Floats, Floats]:
    """Two-sided p of each theory's excess, and the studentised size that is compared with block-permuted outcomes'.

    Outcomes, less their cell's mean, are permuted within symbol and side in blocks (`strata_of`). That breaks the ties
    between symbols, which therefore must not decide: excess is divided by the root of its blocks' own sums squared,
    blocks of *time* over all symbols together, in the data and in every permutation. A studentised permutation test
    holds its level where the plain one does not (Chung & Romano 2013; DiCiccio & Romano 2017). The observation counts
    among the permuted, so that p is at least 1 ÷ (permutations + 1). `scale` multiplies the observed size only: the
    means that were fitted to the data took some of its noise out of the residuals. NaN below blocks.MIN_BLOCKS.
    Repeatable for a seed, whatever `threads`.
    """
    if not blocks.enough:
        return np.full(len(found.excess), np.nan), np.full(len(found.excess), np.nan)
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
    observed *= scale
    beyond = (np.abs(null) >= np.abs(observed) - 1e-12).sum(axis=0)
    return (1.0 + beyond) / (1.0 + permutations), np.abs(observed)
