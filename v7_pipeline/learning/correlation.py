"""Rank correlation of votes with what followed, over all and from block to block, with block-bootstrap intervals.

Arrays in, figures out: the information coefficient (IC) and its information ratio (ICIR).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from v7_pipeline.learning.blocks import CELLS, TimeBlocks

__all__ = ["RankCorrelation", "midranks", "rank_correlation"]

Floats = npt.NDArray[np.float64]

_LEAST_OF_A_BLOCK = 5  # votes below which a block has no correlation of its own
_AT_ONCE = 2_000_000  # numbers of a chunk of resamples: 16 MB


@dataclass(frozen=True)
class RankCorrelation:
    """One theory's IC and ICIR with 95 % intervals; NaN where they are not known."""

    ic: float
    ic_lower: float
    ic_upper: float
    icir: float
    icir_lower: float
    icir_upper: float


def midranks(x: Floats) -> Floats:
    """Ranks from 1, ties at their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    return np.asarray((upper - (counts - 1) / 2)[inverse])


def rank_correlation(
    votes: Floats, forward: Floats, blocks: TimeBlocks, *, resamples: int, seed: int, level: float = 0.95
) -> list[RankCorrelation]:
    """One for each column of `votes` (trades × k), over the trades on which it is not 0.

    ic: Spearman's correlation of vote and forward return. icir: mean ÷ standard deviation of the correlations of
    stretches of one block's length (blocks.py's rule), which begin at every quarter block; ranks are those of the
    whole. Intervals: percentiles of the circular block bootstrap (Politis & Romano 1992) with that block length, ranks
    held, which is exact to first order where vote and return are nearly independent. NaN below blocks.MIN_BLOCKS, and
    where votes or returns do not vary.
    """
    k = votes.shape[1]
    cells = int(blocks.cell.max(initial=-1)) + 1
    moments = np.zeros((cells, 6 * k))
    for j in range(k):
        spoke = votes[:, j] != 0
        if spoke.sum() < 3:
            continue
        x, y = midranks(votes[spoke, j]), midranks(forward[spoke])
        x, y = x - x.mean(), y - y.mean()
        where = blocks.cell[spoke]
        for m, values in enumerate((np.ones(len(x)), x, y, x * x, y * y, x * y)):
            moments[:, m * k + j] = np.bincount(where, values, cells)
    point = _pearson(moments.sum(axis=0)[None, :], k)[0]
    if not blocks.enough or cells < CELLS:
        return [RankCorrelation(float(ic), *[float("nan")] * 5) for ic in point]
    windows = _windows(moments)
    own = _pearson(windows, k, least=_LEAST_OF_A_BLOCK)
    known = np.isfinite(own)
    spread = np.concatenate([known, np.where(known, own, 0.0), np.where(known, own * own, 0.0)], axis=1)
    ratio = _ratio(spread.sum(axis=0)[None, :], k)[0]
    ics, ratios = _resampled(np.concatenate([windows, spread], axis=1), k, resamples, seed)
    ic_ends, ratio_ends = _ends(ics, level), _ends(ratios, level)
    return [
        RankCorrelation(*(float(v) for v in (point[j], *ic_ends[:, j], ratio[j], *ratio_ends[:, j]))) for j in range(k)
    ]


def _windows(moments: Floats) -> Floats:
    """Sums over CELLS neighbouring rows, beginning at each row and going round the end."""
    return np.asarray(sum(np.roll(moments, -step, axis=0) for step in range(CELLS)))


def _pearson(moments: Floats, k: int, least: int = 3) -> Floats:
    """Correlations (rows × k) from n, Σx, Σy, Σx², Σy², Σxy side by side; NaN where undefined."""
    n, x, y, xx, yy, xy = (moments[:, m * k : (m + 1) * k] for m in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        size_x, size_y = xx - x * x / n, yy - y * y / n
        # Ranks are multiples of a half: what is below is rounding of a constant.
        defined = (n >= least) & (size_x > 1e-6 * np.maximum(xx, 1)) & (size_y > 1e-6 * np.maximum(yy, 1))
        return np.where(defined, (xy - x * y / n) / np.sqrt(size_x * size_y), np.nan)


def _ratio(sums: Floats, k: int) -> Floats:
    """Mean ÷ standard deviation from count, Σ, Σ² side by side; NaN where nothing varies."""
    n, x, xx = (sums[:, m * k : (m + 1) * k] for m in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = x / n
        variance = xx / n - mean * mean
        return np.where((n >= 2) & (variance > 1e-12), mean / np.sqrt(variance), np.nan)


def _resampled(windows: Floats, k: int, resamples: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    cells = len(windows)
    drawn = -(-cells // CELLS)
    step = max(1, _AT_ONCE // cells)
    ics, ratios = [], []
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        begins = rng.integers(0, cells, size=(count, drawn)) + cells * np.arange(count)[:, None]
        times = np.bincount(begins.ravel(), minlength=count * cells).reshape(count, cells).astype(float)
        sums = times @ windows
        ics.append(_pearson(sums[:, : 6 * k], k))
        ratios.append(_ratio(sums[:, 6 * k :], k))
    return np.concatenate(ics), np.concatenate(ratios)


def _ends(values: Floats, level: float) -> Floats:
    """The interval's two ends (2 × k); NaN where fewer than nine tenths of the resamples are defined."""
    ends = np.full((2, values.shape[1]), np.nan)
    for j, column in enumerate(values.T):
        defined = column[np.isfinite(column)]
        if len(defined) and len(defined) >= 0.9 * len(column):
            ends[:, j] = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return ends
