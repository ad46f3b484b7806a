"""The statistics that learning rests on: intervals, multiple tests, shrinkage, overlap, Shapley values.

Plain functions of numbers and arrays, each with its source; nothing here knows a table or a theory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = [
    "ShrunkRates",
    "average_uniqueness",
    "benjamini_hochberg",
    "correlation_interval",
    "effective_n",
    "empirical_bayes_shrinkage",
    "halved",
    "holm",
    "mean_interval",
    "shapley",
    "wilson",
]

Floats = npt.NDArray[np.float64]


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1; 95 % is 0.95")
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927). Fractional counts are allowed; n = 0 gives NaN.

    Raises ValueError unless 0 ≤ successes ≤ n.
    """
    if not 0 <= successes <= n * (1 + 1e-12):
        raise ValueError(f"{successes} successes of {n} is not possible")
    if n == 0:
        return float("nan"), float("nan")
    z = _z(level)
    share = min(successes / n, 1.0)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the formula is exactly 0 or 1; its rounding is not.
    return 0.0 if share == 0 else centre - half, 1.0 if share == 1 else centre + half


def mean_interval(values: npt.ArrayLike, n_eff: float | None = None, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of a mean; `n_eff` (default: the count) replaces n where values overlap.

    NaN below two effective values.
    """
    x = np.asarray(values, dtype=float)
    n = float(len(x)) if n_eff is None else float(n_eff)
    if len(x) < 2 or n < 2:
        return float("nan"), float("nan")
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(x.std(ddof=1)) / sqrt(n)
    return float(x.mean()) - half, float(x.mean()) + half


def correlation_interval(r: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a Spearman correlation: Fisher's z with the variance of Bonett & Wright (2000).

    NaN where r is NaN or n ≤ 3.
    """
    if not np.isfinite(r) or n <= 3:
        return float("nan"), float("nan")
    centre = float(np.arctanh(np.clip(r, -0.999999, 0.999999)))
    half = _z(level) * sqrt((1 + r * r / 2) / (n - 3))
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def _p_values(values: npt.ArrayLike) -> Floats:
    p = np.asarray(values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must be one row of numbers between 0 and 1")
    return p


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """Adjusted p-values for the false discovery rate (Benjamini & Hochberg 1995); reject where ≤ level."""
    p = _p_values(p_values)
    m = len(p)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * m / np.arange(1, m + 1)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1.0)
    return adjusted


def holm(p_values: npt.ArrayLike) -> Floats:
    """Adjusted p-values that hold the family-wise error (Holm 1979); reject where ≤ level."""
    p = _p_values(p_values)
    m = len(p)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(m)
    adjusted[order] = np.maximum.accumulate(p[order] * (m - np.arange(m))).clip(max=1.0)
    return adjusted


@dataclass(frozen=True, slots=True)
class ShrunkRates:
    """Shrunk rates (NaN where n = 0), the pooled rate and the variance between groups beyond chance."""

    rates: Floats
    pooled: float
    between_variance: float


def empirical_bayes_shrinkage(successes: npt.ArrayLike, n: npt.ArrayLike) -> ShrunkRates:
    """Rates shrunk towards their pool as far as chance explains their differences (Morris 1983).

    The variance between groups is the moment estimate of DerSimonian & Laird (1986) under binomial noise;
    where it is not positive every rate is the pooled one: no group can be told from another.
    Fractional counts are allowed. Raises ValueError unless 0 ≤ successes ≤ n for each.
    """
    k, m = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    if k.shape != m.shape or not ((k >= 0) & (k <= m * (1 + 1e-12))).all():
        raise ValueError("each group needs 0 ≤ successes ≤ n")
    known = m > 0
    rates = np.full(len(m), np.nan)
    if not known.any():
        return ShrunkRates(rates, float("nan"), 0.0)
    k, m = k[known], m[known]
    total = m.sum()
    pooled = float(k.sum() / total)
    noise = pooled * (1 - pooled)
    spread = total - float((m**2).sum()) / total
    excess = float((m * (k / m - pooled) ** 2).sum()) - (len(m) - 1) * noise
    between = max(0.0, excess / spread) if spread > 0 else 0.0
    trust = between / (between + noise / m) if between > 0 else np.zeros(len(m))
    rates[known] = pooled + trust * (k / m - pooled)
    return ShrunkRates(rates, pooled, between)


def average_uniqueness(start: npt.ArrayLike, end: npt.ArrayLike) -> Floats:
    """Weight of each interval [start, end): the mean of 1/concurrency over it (López de Prado 2018, ch. 4).

    An interval that nothing overlaps weighs 1, k identical ones weigh 1/k each.
    Raises ValueError where an end is not after its start. Numbers in any one unit.
    """
    a, b = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    if not (b > a).all():
        raise ValueError("each interval must end after it starts")
    if not len(a):
        return np.empty(0)
    edges = np.unique(np.concatenate([a, b]))
    first, last = np.searchsorted(edges, a), np.searchsorted(edges, b)
    opened = np.bincount(first, minlength=len(edges)) - np.bincount(last, minlength=len(edges))
    active = np.cumsum(opened)[:-1]
    share = np.where(active > 0, np.diff(edges) / np.maximum(active, 1), 0.0)
    total = np.concatenate([[0.0], np.cumsum(share)])
    return np.asarray((total[last] - total[first]) / (b - a))


def effective_n(start: npt.ArrayLike, end: npt.ArrayLike) -> float:
    """How many independent intervals the overlapping ones are worth: the sum of their uniqueness."""
    return float(average_uniqueness(start, end).sum())


def shapley(values: npt.ArrayLike) -> Floats:
    """Exact Shapley values (Shapley 1953) from the worth of every coalition.

    `values[c]` is the worth of the coalition whose members are the set bits of c, so that k players need 2^k
    values; returns k values that sum to values[-1] − values[0]. Raises ValueError on any other length.
    """
    worth = np.asarray(values, dtype=float)
    players = len(worth).bit_length() - 1
    if worth.ndim != 1 or len(worth) != 1 << players:
        raise ValueError(f"{len(worth)} coalition values; k players have 2^k coalitions")
    coalitions = np.arange(len(worth))
    sizes = np.zeros(len(worth), dtype=int)
    for player in range(players):
        sizes += coalitions >> player & 1
    chance = np.array([factorial(s) * factorial(players - s - 1) / factorial(players) for s in range(players)] + [0.0])
    result = np.empty(players)
    for player in range(players):
        without = coalitions[(coalitions >> player & 1) == 0]
        gain = worth[without | 1 << player] - worth[without]
        result[player] = float((chance[sizes[without]] * gain).sum())
    return result


#: Half-lives after which a weight is 0 instead of below a millionth of itself.
FORGOTTEN = 20.0


def halved(weights: npt.ArrayLike, when: npt.ArrayLike, half_life: float) -> Floats:
    """`weights` by age: each times 2^(−a / half_life), a being the summed weight of what came later than it.

    Age in evidence, not in hours: a quiet week ages nothing. Equal instants have one age, whatever their order. After
    FORGOTTEN half-lives nothing is left: a millionth, which would only keep every old trade in the sums.
    Raises ValueError where the half-life is not positive.
    """
    if not half_life > 0:
        raise ValueError(f"a half-life of {half_life} discounts nothing; give one above 0")
    w, at = np.asarray(weights, dtype=float), np.asarray(when, dtype=float)
    if not len(w):
        return np.empty(0)
    order = np.argsort(at, kind="stable")
    until = np.concatenate([[0.0], np.cumsum(w[order])])
    later = until[-1] - until[np.searchsorted(at[order], at, side="right")]
    return np.where(later > FORGOTTEN * half_life, 0.0, w * np.exp2(-later / half_life))
