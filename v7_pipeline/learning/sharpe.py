"""How sure a Sharpe ratio is: against a benchmark, against the best of many trials, and after how long a record.

Sharpe ratios here are of one period (a day, an hour): an annual one is divided by √(periods a year) first. Whose
returns they are, and how many trials were made, do not belong here: the trials are counted by the system.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import e, inf, isfinite, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["Sharpe", "deflated_sharpe", "expected_maximum", "minimum_track_record", "probabilistic_sharpe"]

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Sharpe:
    """A Sharpe ratio of `n` returns, of one period, with their skewness and kurtosis (a normal's is 3, not 0).

    ValueError on fewer than two returns, a figure that is not finite, or a kurtosis below skew² + 1, which no returns
    have (Pearson 1916): an excess kurtosis, from which 3 was taken, is often caught by it.
    """

    ratio: float
    n: int
    skew: float = 0.0
    kurtosis: float = 3.0

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"a Sharpe ratio of {self.n} returns says nothing; it needs at least 2")
        if not all(map(isfinite, (self.ratio, self.skew, self.kurtosis))):
            raise ValueError(f"{self} is not finite; returns that never differ have no Sharpe ratio")
        least = self.skew**2 + 1
        if self.kurtosis < least * (1 - 1e-9):
            raise ValueError(
                f"no returns of skewness {self.skew:g} have a kurtosis of {self.kurtosis:g}, below {least:g}; "
                "give the kurtosis itself (3 for a normal), not the excess"
            )

    @classmethod
    def of(cls, returns: npt.ArrayLike) -> Sharpe:
        """Of excess returns, one a period: mean ÷ standard deviation (n − 1), and the moments of the sample.

        ValueError on fewer than two returns, a missing one, or returns that never differ.
        """
        x = np.asarray(returns, dtype=float)
        if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
            raise ValueError("a Sharpe ratio needs one row of at least two returns, none of them missing")
        z = x - x.mean()
        second = float((z**2).mean())
        if second <= 1e-30 * float((x**2).mean()):  # equal returns leave only what rounding leaves
            raise ValueError("returns that never differ have no Sharpe ratio")
        ratio = float(x.mean()) / float(x.std(ddof=1))
        return cls(ratio, len(x), float((z**3).mean()) / second**1.5, float((z**4).mean()) / second**2)

    @property
    def variance(self) -> float:
        """n − 1 times the variance of the estimate: 1 − skew·SR + (kurtosis − 1)/4·SR² (Mertens 2002)."""
        return 1 - self.skew * self.ratio + (self.kurtosis - 1) / 4 * self.ratio**2


def probabilistic_sharpe(found: Sharpe, benchmark: float = 0.0) -> float:
    """The probability that the true ratio is above `benchmark` (of one period): PSR, Bailey & López de Prado 2012.

    J. of Risk 15(2). Supposes that returns do not hang together in time. QuantStats up to at least 0.0.81 takes
    3 off the kurtosis twice and says 0.9198 where the paper says 0.9132; 0.0.86 does not.
    """
    room = found.variance
    if room <= 0:  # kurtosis at its least, and skew · ratio = 2: an estimate without error
        return 0.5 if found.ratio == benchmark else float(found.ratio > benchmark)
    return _NORMAL.cdf((found.ratio - benchmark) * sqrt(found.n - 1) / sqrt(room))


def expected_maximum(trials: int) -> float:
    """The greatest of `trials` independent standard normals, as expected: 0 for one.

    (1 − γ) Φ⁻¹(1 − 1/N) + γ Φ⁻¹(1 − 1/(N e)), Bailey & López de Prado 2014: at N = 10 it is 2 % above the exact
    1.539, and nearer with more trials. ValueError below one trial.
    """
    if trials < 1:
        raise ValueError(f"{trials} trials have no best one; count at least the one that is judged")
    if trials == 1:
        return 0.0
    above = _NORMAL.inv_cdf(1 - 1 / trials)
    return float((1 - np.euler_gamma) * above + np.euler_gamma * _NORMAL.inv_cdf(1 - 1 / (trials * e)))


def deflated_sharpe(found: Sharpe, *, trials: int, variance: float) -> float:
    """The probability that the best of `trials` is above what the best of as many worthless ones would reach.

    DSR, Bailey & López de Prado 2014 (J. of Portfolio Management 40(5)): PSR against √variance × `expected_maximum`,
    `variance` being that of the trials' ratios, of one period as well. Trials that resemble one another count as fewer
    in truth, so that it errs towards doubt. vectorbt up to 1.1.0 feeds it the excess kurtosis and says 0.9018 where the
    paper says 0.9004; 1.2.0 does not. ValueError on a negative variance or no trial.
    """
    if not (variance >= 0 and isfinite(variance)):
        raise ValueError(f"a variance of {variance} between trials is not possible; it is at least 0")
    return probabilistic_sharpe(found, sqrt(variance) * expected_maximum(trials))


def minimum_track_record(found: Sharpe, benchmark: float = 0.0, level: float = 0.95) -> float:
    """How many returns it takes until PSR against `benchmark` reaches `level`, should all stay as it is.

    minTRL, Bailey & López de Prado 2012; ÷ periods a year for years; not rounded. Infinite where the ratio
    is not above the benchmark. ValueError unless 0.5 < level < 1.
    """
    if not 0.5 < level < 1:
        raise ValueError(f"level {level} is not between 0.5 and 1; 95 % is 0.95")
    if found.ratio <= benchmark:
        return inf
    errors = sqrt(max(found.variance, 0.0)) * (_NORMAL.inv_cdf(level) / (found.ratio - benchmark))
    return 1 + errors * errors
