"""What a simulation has learnt so far: weights of overlapping trades, the win rates' posteriors, the threshold.

The figures are learning/'s, asked again only for what a closed trade can have changed.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.statistics import FORGOTTEN, halved
from v7_pipeline.learning.threshold import HALF_LIFE_TRADES, LearntThreshold, band_edges, threshold_from
from v7_pipeline.settings import Settings
from v7_pipeline.theories.base import Posterior
from v7_pipeline.theories.bayesian_win_rate import BREAK_EVEN

__all__ = ["Threshold", "Weights", "WinRate"]

Floats = npt.NDArray[np.float64]


class Weights:
    """Average uniqueness of trades that close one after another; further columns go along with them.

    A new trade changes the weights of those that it overlaps, and theirs depend on what overlaps them: the others stay.
    """

    def __init__(self, columns: int) -> None:
        self.n = 0
        self._block = np.empty((3 + columns, 256))

    @property
    def weights(self) -> Floats:
        return self._block[2, : self.n]

    @property
    def leave(self) -> Floats:
        """The minute in which each trade was left."""
        return self._block[1, : self.n]

    def column(self, place: int) -> Floats:
        return self._block[3 + place, : self.n]

    def add(self, entry: float, leave: float, *columns: float) -> slice:
        """A trade open in the minutes entry … leave, both included; none may be left before those added already.

        The trades whose weights have changed.
        """
        from v7_pipeline.learning.kernels import reweighted

        if self.n == self._block.shape[1]:
            self._block = np.concatenate([self._block, np.empty_like(self._block)], axis=1)
        self._block[:, self.n] = (entry, leave, 1.0, *columns)
        self.n += 1
        begin, end, weights = self._block[:3, : self.n]
        return slice(reweighted(begin, end, weights), self.n)

    def discounted(self, half_life: float | None) -> tuple[slice, Floats]:
        """The newest trades and their weights, halved by every `half_life` effective ones that closed later."""
        if half_life is None:
            return slice(0, self.n), self.weights
        # From the newest backwards until nothing is left of a trade; one more, in case of equal instants.
        later = np.cumsum(self.weights[::-1])
        kept = slice(max(self.n - int(np.searchsorted(later, FORGOTTEN * half_life)) - 64, 0), self.n)
        return kept, halved(self.weights[kept], self.leave[kept], half_life)


class WinRate:
    """One scope's posterior, as steps in time."""

    def __init__(self, settings: Settings) -> None:
        self._prior = settings.prior_alpha, settings.prior_beta
        self._half_life = settings.win_rate_half_life
        self._trades = Weights(1)
        self.steps: list[tuple[int, float, float, int]] = []
        self._known = np.empty((4, 64))  # minute, mean, n and P(above break-even) of the steps with a trade
        self._count = 0

    def add(self, entry: float, leave: float, *, won: bool) -> None:
        """A trade that won or lost."""
        self._trades.add(entry, leave, float(won))

    def step(self, scan: int) -> None:
        """What the trades so far say, as of the scan (epoch minute)."""
        kept, weights = self._trades.discounted(self._half_life)
        won = self._trades.column(0)[kept] > 0
        alpha, beta = self._prior
        wins, losses = float(weights[won].sum()), float(weights[~won].sum())
        self.steps.append((scan, alpha + wins, beta + losses, self._trades.n))
        if self._trades.n:
            self._remember(scan, alpha + wins, beta + losses)

    def _remember(self, scan: int, alpha: float, beta: float) -> None:
        from scipy.special import betaincc

        if self._count == self._known.shape[1]:
            self._known = np.concatenate([self._known, np.empty_like(self._known)], axis=1)
        # A reading may use what earlier scans have learnt: from the next minute on.
        told = (scan + 1, alpha / (alpha + beta), self._trades.n, float(betaincc(alpha, beta, BREAK_EVEN)))
        self._known[:, self._count] = told
        self._count += 1

    def posterior(self) -> Posterior | None:
        """The steps as the win-rate theory reads them; None before the first. Intervals are not needed to vote."""
        if not self._count:
            return None
        minute, mean, n, above = self._known[:, : self._count]
        nothing = np.broadcast_to(np.nan, (self._count,))
        return Posterior(minute.astype(np.int64), mean, nothing, nothing, n, above)


class Threshold:
    """The learnt confidence threshold, as steps in time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trades = Weights(4)
        self._edges = band_edges(settings.min_confidence)
        self._sums = np.empty((4, len(self._edges) - 1))
        self.steps: list[tuple[int, LearntThreshold]] = []

    @property
    def value(self) -> float | None:
        """What the newest step says; None where nothing has been learnt."""
        return self.steps[-1][1].threshold if self.steps else None

    def add(self, entry: float, leave: float, *, won: bool, confidence: float, break_even: float) -> None:
        """A trade that won or lost, at a confidence from the floor on."""
        if confidence >= self._settings.min_confidence and not np.isnan(break_even):
            band = min(bisect_right(self._edges, confidence) - 1, len(self._edges) - 2)
            changed = self._trades.add(entry, leave, 1.0, band, float(won), break_even)
            kept = self._trades.column(0)[changed]
            np.exp2(self._trades.weights[changed] / -HALF_LIFE_TRADES, out=kept)

    def step(self, scan: int) -> None:
        """What the trades so far say, as of the scan; kept where it changed, as the scan does."""
        from v7_pipeline.learning.kernels import aged_bands

        trades = self._trades
        columns = (trades.column(place) for place in range(4))
        aged_bands(trades.leave, trades.weights, *columns, FORGOTTEN * HALF_LIFE_TRADES, self._sums)
        found = threshold_from(
            self._sums,
            floor=self._settings.min_confidence,
            previous=self.value,
            min_effective_n=self._settings.min_effective_n,
            prior_alpha=self._settings.prior_alpha,
            prior_beta=self._settings.prior_beta,
        )
        if found.changed:
            self.steps.append((scan, found))

    def frame(self, strategy: str) -> pd.DataFrame:
        """Rows of confidence_thresholds, without provenance."""
        names = ("threshold", "floor", "previous", "reason", "n", "n_eff", "p_below", "break_even")
        rows = [
            {"strategy": strategy, "as_of": pd.Timestamp(scan * 60, unit="s", tz="UTC")}
            | {name: getattr(found, name) for name in names}
            for scan, found in self.steps
        ]
        return pd.DataFrame(rows, columns=["strategy", "as_of", *names])
