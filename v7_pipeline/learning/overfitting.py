"""How likely the best of several configurations is the best by chance: the probability of backtest overfitting.

A matrix of returns in, figures out; which configurations were tried does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["Overfitting", "backtest_overfitting"]

Floats = npt.NDArray[np.float64]

_AT_ONCE = 2_000_000  # splits × configurations looked at in one go: some 100 MB


@dataclass(frozen=True, slots=True)
class Overfitting:
    """PBO, and the splits and configurations that it rests on."""

    probability: float
    splits: int
    configurations: int


def backtest_overfitting(returns: npt.ArrayLike, *, blocks: int = 16) -> Overfitting:
    """PBO by combinatorially symmetric cross-validation (Bailey, Borwein, López de Prado & Zhu 2017).

    J. of Computational Finance 20(4). returns: periods × configurations, of the same periods. Time is cut into `blocks`
    of nearly equal length; each choice of one half of them (12,870 of 16) selects the configuration with the highest
    Sharpe ratio, which is then ranked among all in the other half. PBO is the share of splits in which it is in the
    lower half there (relative rank r/(N + 1) ≤ ½, equals sharing their mean rank). Noise has 0.5 on average; a single
    matrix of noise scatters by some 0.2 about that, for the splits share their returns.

    A configuration without a trade in a half has ratio 0 there. Whole blocks move together, so what hangs together for
    longer than a block is seen on both sides. ValueError on one configuration, a missing return, an odd number of
    blocks or fewer than two periods for each.
    """
    x = np.asarray(returns, dtype=float)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError("one configuration has nothing that it was chosen from; overfitting needs at least two")
    if blocks < 2 or blocks % 2:
        raise ValueError(f"{blocks} blocks have no two halves; give an even number, 16 as in the paper")
    if len(x) < 2 * blocks:
        raise ValueError(f"{len(x)} periods are too few for {blocks} blocks; it needs two for each")
    if not np.isfinite(x).all():
        raise ValueError("a return is missing; all configurations must have one in each period")
    parts = np.array_split(x, blocks)
    sums = _Sums(
        np.array([float(len(part)) for part in parts]),
        np.array([part.sum(axis=0) for part in parts]),
        np.array([(part**2).sum(axis=0) for part in parts]),
    )
    chosen = np.array([[k in half for k in range(blocks)] for half in combinations(range(blocks), blocks // 2)], float)
    step = max(1, _AT_ONCE // x.shape[1])
    lower = sum(_in_lower_half(chosen[at : at + step], sums) for at in range(0, len(chosen), step))
    return Overfitting(lower / len(chosen), len(chosen), x.shape[1])


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of each block: its periods; of each block and configuration, the sums of returns and of their squares."""

    count: Floats
    first: Floats
    second: Floats

    def ratios(self, halves: Floats) -> Floats:
        """Mean ÷ deviation, splits × configurations. 0 where nothing was gained, lost or risked."""
        n = (halves @ self.count)[:, None]
        mean, square = halves @ self.first / n, halves @ self.second / n
        variance = square - mean**2
        # Equal returns leave what rounding leaves; a gain without risk is above any other.
        risky = variance > 1e-12 * square
        sure = np.where(mean == 0, 0.0, np.copysign(np.inf, mean))
        return np.where(risky, mean / np.sqrt(np.where(risky, variance, 1.0)), sure)


def _in_lower_half(halves: Floats, sums: _Sums) -> int:
    """In how many of these splits the best of one half is no better than the median of the other."""
    best = sums.ratios(halves).argmax(axis=1)
    others = sums.ratios(1 - halves)
    own = others[np.arange(len(best)), best][:, None]
    rank = (others < own).sum(axis=1) + ((others == own).sum(axis=1) + 1) / 2
    return int((rank <= (others.shape[1] + 1) / 2).sum())
