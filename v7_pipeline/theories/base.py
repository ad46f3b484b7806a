"""What the theories share: one symbol's bars with cached intermediate arrays, the shape of a theory, score and vote.

No theory's own mathematics belongs here (see its file), and no loop over minutes (see kernels.py).
"""

from __future__ import annotations

import math
import mmap
import threading
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
    "MINUTES_A_YEAR",
    "SPEAKS",
    "Bars",
    "Floats",
    "Posterior",
    "Theory",
    "lasting",
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
MINUTES_A_YEAR = 525_600
#: Bars after which the two filters have forgotten where they started (to 1e-9).
FILTER_MEMORY = 1000
#: Bytes from which an array has pages of its own; a year of minutes has 4 MiB a row.
_OWN_PAGES = 4 << 20


@dataclass(frozen=True, slots=True)
class Posterior:
    """Win-rate posteriors of one scope as steps in time: valid from `minute` (epoch minutes, ascending) on."""

    minute: npt.NDArray[np.int64]
    mean: Floats
    lower: Floats
    upper: Floats
    n: Floats
    above: Floats  # P(win rate > break-even)


def lasting(rows: int, length: int) -> Floats:
    """An array of rows × length, not filled yet. A large one lies in pages of its own, which go back to the system
    with it: the allocator would keep a year's arrays for later, beside a result that already fills most of the memory
    allowed. A small one is the allocator's, which has it at hand."""
    size = 8 * rows * length
    if size < _OWN_PAGES:
        return np.empty((rows, length))
    return np.frombuffer(mmap.mmap(-1, size), np.float64, rows * length).reshape(rows, length)


@dataclass(slots=True)
class Bars:
    """One symbol's dense minutes; `first` is the first row wanted, earlier ones are look-back.

    Full-length arrays are `returns` (log, 0 where missing), `path` (log price), `run` (known returns in a row);
    every other array returned here covers the rows first … n only. A part of a longer stretch (`part`) knows the
    `whole`, over which the filters run once; what else it gives depends on its own minutes alone. A part is used by
    one thread.
    """

    close: Floats
    observed: npt.NDArray[np.bool_]
    epoch: int
    first: int
    windows: tuple[int, ...]
    min_observed_share: float
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)
    into: Mapping[str, Floats] = field(default_factory=dict)  # where columns may be written at once
    whole: Bars | None = None
    offset: int = 0  # of the first minute here within `whole`
    returns: Floats = field(init=False)
    path: Floats = field(init=False)
    run: npt.NDArray[np.int64] = field(init=False)
    kernels: Any = field(init=False)
    _cache: dict[Any, Any] = field(init=False, default_factory=dict)
    _memory: dict[Any, Floats] = field(init=False, default_factory=dict)
    _lock: Any = field(init=False, default_factory=threading.RLock)

    def __post_init__(self) -> None:
        from v7_pipeline.theories import kernels

        n = self.close.size
        self.kernels = kernels
        if self.whole is not None:
            own = slice(self.offset, self.offset + n)
            self.returns, self.path, self.run = self.whole.returns[own], self.whole.path[own], self.whole.run[own]
            return
        self.returns, self.path = lasting(2, n)
        self.run = lasting(1, n)[0].view(np.int64)
        kernels.prepare(self.close, self.returns, self.path, self.run)

    def part(self, start: int, first: int, end: int, into: Mapping[str, Floats]) -> Bars:
        """The minutes start … end of these, of which those from `first` on are wanted."""
        return Bars(
            self.close[start:end],
            self.observed[start:end],
            self.epoch + start,
            first - start,
            self.windows,
            self.min_observed_share,
            self.posteriors,
            into,
            self,
            start,
        )

    @property
    def rows(self) -> int:
        return self.close.size - self.first

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, once for each key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def remembered(self, key: Any, make: Callable[[Bars], Floats]) -> Floats:
        """This part's rows of `make(whole)`, an array of what has infinite memory (its last axis every minute of the
        whole): made once, so that it does not depend on how the whole is cut."""
        whole = self if self.whole is None else self.whole
        with whole._lock:
            if key not in whole._memory:
                whole._memory[key] = make(whole)
            made = whole._memory[key]
        return made[..., self.offset + self.first : self.offset + self.close.size]

    def forget(self) -> None:
        """Let go of every cached array but the remembered ones."""
        self._cache.clear()

    def column(self, name: str) -> Floats:
        """An array of a float a row to fill and return as this column; not filled yet."""
        there = self.into.get(name)
        return np.empty(self.rows) if there is None else there

    def window_sum(self, x: Floats, length: int) -> Floats:
        """Sum of the last `length` values of a full-length array."""
        out = np.zeros(self.rows)
        self.kernels.window_sum(x, length, self.epoch, self.first, out)
        return out

    def scale_everywhere(self, w: int) -> Floats:
        """√(π/2) · mean |r| over w, full length (0 before it can be known): one outlier cannot own it."""

        def make() -> Floats:
            out = np.zeros(self.close.size)
            moves = self.cached("moves", lambda: np.abs(self.returns))
            self.kernels.window_sum(moves, w, self.epoch, 0, out)
            out *= math.sqrt(math.pi / 2) / w
            return out

        return self.cached(("scale", w), make)

    def scale(self, w: int) -> Floats:
        return self.scale_everywhere(w)[self.first :]

    def scale_before(self, w: int = HEADLINE_WINDOW) -> Floats:
        """The scale known one bar earlier: a return in its units never changes after it is made."""
        if self.first > 0:
            return self.scale_everywhere(w)[self.first - 1 : -1]
        return np.concatenate(([0.0], self.scale_everywhere(w)[:-1]))

    def moments(self, w: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Of the last w returns, missing where not usable: sum; momentum; volatility (divisor w − 1); Sharpe and
        Sortino ratio (a year)."""

        def make() -> tuple[Floats, Floats, Floats, Floats, Floats]:
            momentum, volatility = self.column(f"momentum_{w}"), self.column(f"volatility_{w}")
            out = np.empty(self.rows), momentum, volatility, self.column(f"sharpe_{w}"), self.column(f"sortino_{w}")
            year = math.sqrt(MINUTES_A_YEAR)
            self.kernels.moments(self.returns, w, self.epoch, self.first, year, self.usable(w), *out)
            return out

        return self.cached(("moments", w), make)

    def momentum(self, w: int) -> Floats:
        """Change over the window ÷ (σ√W) with σ² the mean squared return; 0 where nothing moved, missing where the
        window is not usable."""
        return self.moments(w)[1]

    def momentum_share(self, w: int) -> Floats:
        """Its place under N(0, 1)."""

        def make() -> Floats:
            out = np.empty(self.rows)
            self.kernels.normal_cdf(self.momentum(w), out)
            return out

        return self.cached(("momentum share", w), make)

    def _observed(self, w: int) -> npt.NDArray[np.int64]:
        def make() -> npt.NDArray[np.int64]:
            out = np.empty(self.rows, np.int64)
            self.kernels.count_in_window(self.observed.view(np.uint8), w, self.first, out)
            return out

        return self.cached(("observed", w), make)

    def observed_share(self, w: int) -> Floats:
        """Share of the last w minutes that had a trade; minutes before the first row count as without."""
        return np.divide(self._observed(w), w, out=self.column("observed_share") if w == HEADLINE_WINDOW else None)

    def quiet_share(self, w: int = HEADLINE_WINDOW) -> Floats:
        """Share of zero returns in the window, which its null depends on."""
        return self.quiet_minutes(w) / w

    def evenness(self, w: int = HEADLINE_WINDOW) -> Floats:
        """Mean over the window's blocks of 16 returns of mean |r| ÷ root mean square of those that moved: .82 for
        Gaussian sizes, less with fat tails and bursts. It knows no signs; two theories' nulls depend on it."""

        def make() -> Floats:
            out = np.ones(self.rows)
            self.kernels.evenness(self.returns, w, self.epoch, self.first, out)
            return out

        return self.cached(("evenness", w), make)

    def quiet_minutes(self, w: int = HEADLINE_WINDOW) -> npt.NDArray[np.int64]:
        """Zero returns among the last w."""

        def make() -> npt.NDArray[np.int64]:
            out = np.empty(self.rows, np.int64)
            self.kernels.count_in_window((self.returns == 0).view(np.uint8), w, self.first, out)
            return out

        return self.cached(("quiet", w), make)

    def usable(self, w: int, history: int | None = None) -> npt.NDArray[np.uint8]:
        """1 in rows whose last `history` (default w) returns are all known and whose window was observed enough."""
        history = w if history is None else history

        def make() -> npt.NDArray[np.uint8]:
            out = np.empty(self.rows, np.uint8)
            counts = self._observed(w)
            self.kernels.usable_rows(self.run, counts, self.first, w, history, self.min_observed_share, out)
            return out

        return self.cached(("usable", w, history), make)

    def where_usable(self, values: Floats, w: int, history: int | None = None, out: Floats | None = None) -> Floats:
        """`values`, missing where the window is not usable; into `out` where given."""
        out = np.empty(self.rows) if out is None else out
        self.kernels.masked(np.ascontiguousarray(values), self.usable(w, history), out)
        return out

    def direction(self) -> Floats:
        """−1, 0 or +1: where momentum over the headline window leans (outer half of N(0, 1)), for theories without
        a direction of their own."""

        def make() -> Floats:
            leans = np.abs(2 * self.momentum_share(HEADLINE_WINDOW) - 1) >= LEANS  # false where missing
            return np.where(leans, np.sign(self.momentum(HEADLINE_WINDOW)), 0.0)

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


def strength(percentile: Floats) -> Floats:
    """|2p − 1|⁴: near 0 for what noise does, .72 at the edge of the central 92 %, 1 beyond anything it does."""
    from v7_pipeline.theories import kernels

    out = np.empty(percentile.size)
    kernels.strength(percentile, out)
    return out


def trend_vote(percentile: Floats, score: Floats) -> Floats:
    """For a signed statistic: its side, where it lies outside the central 92 % of its null."""
    from v7_pipeline.theories import kernels

    out = np.empty(percentile.size)
    kernels.trend_vote(percentile, score, SPEAKS, out)
    return out


def lean(bars: Bars, percentile: Floats, score: Floats, *, low: int, high: int) -> Floats:
    """For a statistic without direction: momentum's direction × `low` or × `high` (+1 with it, −1 against it, 0
    silent) where the statistic lies in the lower or upper 4 % of its null."""
    out = np.empty(percentile.size)
    bars.kernels.leaning_vote(percentile, score, bars.direction(), SPEAKS, float(low), float(high), out)
    return out


def two_sided_vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    """For a signed statistic that may only confirm: momentum's direction where both have one sign."""
    out = np.empty(percentile.size)
    bars.kernels.confirming_vote(percentile, score, bars.direction(), SPEAKS, out)
    return out


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
