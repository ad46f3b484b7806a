"""What the theories share: one symbol's bars with cached intermediate arrays, the shape of a theory, score and vote.

No theory's own mathematics belongs here (see its file), and no loop over minutes (see kernels.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW

__all__ = [
    "FILTER_MEMORY",
    "HIGH",
    "LOW",
    "SPEAKS",
    "Bars",
    "Floats",
    "Posterior",
    "Theory",
    "lean",
    "missing_because",
    "number",
    "place",
    "strength",
    "trend_vote",
    "two_sided_vote",
]

Floats = npt.NDArray[np.float64]

#: Distance of a percentile from ½, doubled, from which a theory votes: outside the central 92 % of its null. Noise
#: gives 8 % of votes then, which leaves room below 10 % for noise that the null does not know.
SPEAKS = 0.92
#: The percentiles at which it begins.
LOW, HIGH = (1 - SPEAKS) / 2, (1 + SPEAKS) / 2
#: The same for the direction that momentum lends to theories without one of their own: its outer half.
LEANS = 0.5
#: Bars after which the two filters have forgotten where they started (to 1e-9).
FILTER_MEMORY = 1000


@dataclass(frozen=True, slots=True)
class Posterior:
    """Win-rate posteriors of one scope as steps in time: valid from `minute` (epoch minutes, ascending) on."""

    minute: npt.NDArray[np.int64]
    mean: Floats
    lower: Floats
    upper: Floats
    n: Floats
    above: Floats  # P(win rate > break-even)


@dataclass(slots=True)
class Bars:
    """One symbol's dense minutes; `first` is the first row wanted, earlier ones are look-back.

    Full-length arrays are `returns` (log, 0 where missing), `path` (log price), `run` (known returns in a row);
    every other array returned here covers the rows first … n only. Bars are used by one thread.
    """

    close: Floats
    observed: npt.NDArray[np.bool_]
    epoch: int
    first: int
    windows: tuple[int, ...]
    min_observed_share: float
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)
    returns: Floats = field(init=False)
    path: Floats = field(init=False)
    run: npt.NDArray[np.int64] = field(init=False)
    kernels: Any = field(init=False)
    _cache: dict[Any, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        from v7_pipeline.theories import kernels

        n = self.close.size
        self.kernels = kernels
        self.returns, self.path, self.run = np.empty(n), np.empty(n), np.empty(n, np.int64)
        kernels.prepare(self.close, self.returns, self.path, self.run)

    @property
    def rows(self) -> int:
        return self.close.size - self.first

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, once for each key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def window_sum(self, x: Floats, length: int) -> Floats:
        """Sum of the last `length` values of a full-length array."""
        out = np.zeros(self.rows)
        self.kernels.window_sum(x, length, self.epoch, self.first, out)
        return out

    def scale_everywhere(self, w: int) -> Floats:
        """√(π/2) · mean |r| over w, full length (0 before it can be known): one outlier cannot own it."""

        def make() -> Floats:
            out = np.zeros(self.close.size)
            self.kernels.window_sum(np.abs(self.returns), w, self.epoch, 0, out)
            return out * (math.sqrt(math.pi / 2) / w)

        return self.cached(("scale", w), make)

    def scale(self, w: int) -> Floats:
        return self.scale_everywhere(w)[self.first :]

    def scale_before(self, w: int = HEADLINE_WINDOW) -> Floats:
        """The scale known one bar earlier, full length: a return in its units never changes after it is made."""
        return self.cached(("before", w), lambda: np.concatenate(([0.0], self.scale_everywhere(w)[:-1])))

    def total(self, w: int) -> Floats:
        """Sum of returns: the log-price change over the window."""
        return self.cached(("total", w), lambda: self.window_sum(self.returns, w))

    def power(self, w: int) -> Floats:
        """Sum of squared returns."""
        return self.cached(("power", w), lambda: self.window_sum(self.returns * self.returns, w))

    def momentum(self, w: int) -> Floats:
        """Change over the window ÷ (σ√W) with σ² the mean squared return; 0 where nothing moved."""

        def make() -> Floats:
            power = self.power(w)
            return np.divide(self.total(w), np.sqrt(power), out=np.zeros(self.rows), where=power > 0)

        return self.cached(("momentum", w), make)

    def observed_share(self, w: int) -> Floats:
        """Share of the last w minutes that had a trade; minutes before the first row count as without."""

        def make() -> Floats:
            counts = np.concatenate(([0], np.cumsum(self.observed)))  # integers: exact
            ends = np.arange(self.first, self.close.size) + 1
            return (counts[ends] - counts[np.maximum(ends - w, 0)]) / w

        return self.cached(("observed", w), make)

    def quiet_share(self, w: int = HEADLINE_WINDOW) -> Floats:
        """Share of zero returns in the window, which its null depends on."""
        return self.cached(("quiet", w), lambda: self.window_sum((self.returns == 0).astype(float), w) / w)

    def evenness(self, w: int = HEADLINE_WINDOW) -> Floats:
        """Mean over the window's blocks of 16 returns of mean |r| ÷ root mean square of those that moved: .82 for
        Gaussian sizes, less with fat tails and bursts. It knows no signs; two theories' nulls depend on it."""

        def make() -> Floats:
            out = np.ones(self.rows)
            self.kernels.evenness(self.returns, w, self.epoch, self.first, out)
            return out

        return self.cached(("evenness", w), make)

    def usable(self, w: int, history: int | None = None) -> npt.NDArray[np.bool_]:
        """Rows whose last `history` (default w) returns are all known and whose window was observed enough."""
        unbroken = self.run[self.first :] >= (w if history is None else history)
        return unbroken & (self.observed_share(w) >= self.min_observed_share)

    def where_usable(self, values: Floats, w: int, history: int | None = None) -> Floats:
        """`values`, missing where the window is not usable."""
        return np.where(self.usable(w, history), values, np.nan)

    def direction(self) -> Floats:
        """−1, 0 or +1: where momentum over the headline window leans (outer half of N(0, 1)), for theories without
        a direction of their own."""

        def make() -> Floats:
            shares = np.empty(self.rows)
            momentum = self.momentum(HEADLINE_WINDOW)
            self.kernels.normal_cdf(momentum, shares)
            leans = (np.abs(2 * shares - 1) >= LEANS) & self.usable(HEADLINE_WINDOW)
            return np.where(leans, np.sign(momentum), 0.0)

        return self.cached("direction", make)


class Theory(Protocol):
    """The shape of a theory's module."""

    NAME: str

    def values(self, bars: Bars) -> dict[str, Floats]:
        """Its value columns, missing where they cannot be told."""

    def percentile(self, bars: Bars) -> Floats:
        """The headline statistic's place under its null."""

    def score(self, bars: Bars, percentile: Floats) -> Floats:
        """How strongly it speaks; never missing."""

    def vote(self, bars: Bars, percentile: Floats, score: Floats) -> Floats:
        """Bearish −1 … bullish 1; 0 where it abstains, never missing."""

    def explain(self, row: Mapping[str, Any]) -> str:
        """One sentence for a trader."""


def _decided(percentile: Floats) -> npt.NDArray[np.bool_]:
    return np.abs(2 * percentile - 1) >= SPEAKS


def strength(percentile: Floats) -> Floats:
    """|2p − 1|⁴: near 0 for what noise does, .72 at the edge of the central 92 %, 1 beyond anything it does."""
    distance = np.abs(2 * np.nan_to_num(percentile, nan=0.5) - 1)
    return (distance * distance) * (distance * distance)


def trend_vote(percentile: Floats, score: Floats) -> Floats:
    """For a signed statistic: its side, where it lies outside the central 92 % of its null."""
    return np.where(_decided(percentile), np.where(percentile > 0.5, score, -score), 0.0)


def lean(bars: Bars, percentile: Floats, score: Floats, *, low: int, high: int) -> Floats:
    """For a statistic without direction: momentum's direction × `low` or × `high` (+1 with it, −1 against it, 0
    silent) where the statistic lies in the lower or upper 4 % of its null."""
    sense = np.where(percentile > 0.5, float(high), float(low))
    return np.where(_decided(percentile), bars.direction() * sense * score, 0.0) + 0.0


def two_sided_vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    """For a signed statistic that may only confirm: momentum's direction where both have one sign."""
    own = np.where(_decided(percentile), np.sign(percentile - 0.5), 0.0)
    direction = bars.direction()
    return np.where((own == direction) & (own != 0), direction * score, 0.0)


def number(row: Mapping[str, Any], column: str) -> float | None:
    """The column's value, or None where it is missing."""
    value = row.get(column)
    if value is None:
        return None
    value = float(value)
    return None if math.isnan(value) else value


def place(percentile: float | None) -> str:
    """“above 97 % of random walks” for a percentile of .97; nothing where it is missing."""
    if percentile is None:
        return ""
    above = percentile >= 0.5
    share = percentile if above else 1 - percentile
    digits = 0 if share < 0.99 else 1
    return f" ({'above' if above else 'below'} {min(100 * share, 99.9):.{digits}f} % of random walks of this length)"


def missing_because(row: Mapping[str, Any], what: str) -> str:
    """Why a theory has no value in this row."""
    share = number(row, "observed_share")
    if number(row, "momentum_240") is not None:
        return f"{what} abstains: the price did not move enough, or the longer history that it takes is broken."
    known = "" if share is None else f" ({100 * share:.0f} % of the last 240 minutes had a trade)"
    return f"{what} abstains: four hours of unbroken, well observed history are missing{known}."
