"""Beta–Bernoulli win rates: the posterior itself, and the win_rates rows of an instant.

A win or a loss is an outcome's word, decided on net P&L elsewhere; thresholds and sizing do not belong here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from math import sqrt

import pandas as pd

from v7_pipeline.learning.frames import closed_before, instants, one_source, require
from v7_pipeline.learning.statistics import Floats, average_uniqueness

__all__ = ["BetaPosterior", "win_rates"]


@dataclass(frozen=True, slots=True)
class BetaPosterior:
    """A Beta(alpha, beta) belief about a win rate; both parameters positive."""

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(f"Beta({self.alpha}, {self.beta}) needs both parameters above 0")

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)

    @property
    def sd(self) -> float:
        """One standard deviation, not an interval's half width."""
        total = self.alpha + self.beta
        return sqrt(self.alpha * self.beta / (total * total * (total + 1)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Equal-tail credible interval."""
        if not 0 < level < 1:
            raise ValueError(f"level {level} is not between 0 and 1; 95 % is 0.95")
        # scipy.special imports in a third of scipy.stats' time.
        from scipy.special import betaincinv

        tail = (1 - level) / 2
        low, high = (float(betaincinv(self.alpha, self.beta, q)) for q in (tail, 1 - tail))
        return low, high

    def prob_above(self, p: float) -> float:
        """Posterior probability that the win rate exceeds p."""
        if not 0 <= p <= 1:
            raise ValueError(f"{p} is no win rate; it lies between 0 and 1")
        from scipy.special import betaincc

        return float(betaincc(self.alpha, self.beta, p))


def win_rates(closed_outcomes: pd.DataFrame, *, as_of: datetime, prior_alpha: float, prior_beta: float) -> pd.DataFrame:
    """The win_rates rows (without provenance) of `as_of`, from outcomes closed by then.

    `closed_outcomes` has the outcomes columns signal_id, kind, symbol, strategy, side, exit_time, outcome,
    and tier (of gated_signals; may be missing in a row). Scopes: all, strategy:…, symbol:…, side:…, tier:…
    count paper outcomes; shadow:all counts those of rejected signals, so that learning goes on while nothing
    is accepted. `manual` outcomes count nowhere. Breakevens are not counted. Trades that were open at the same time
    won or lost together, so within a scope each adds its average uniqueness to alpha or beta (1 where nothing
    overlaps it, 1/k where k lie upon each other), not 1; n still counts every one. `all` and `shadow:all` are
    always there; with n = 0 they are the prior. Raises ValueError on a naive `as_of`, a missing column or
    mixed sources.
    """
    require(
        closed_outcomes,
        ("kind", "symbol", "strategy", "side", "tier", "entry_time", "exit_time", "outcome"),
        "closed outcomes",
    )
    one_source(closed_outcomes)
    known = closed_before(closed_outcomes, as_of)
    decided = known[known["outcome"].isin(("win", "loss"))]
    rows = []
    for scope, group in _scopes(decided):
        weights = _weights(group)
        won = (group["outcome"] == "win").to_numpy()
        posterior = BetaPosterior(prior_alpha + float(weights[won].sum()), prior_beta + float(weights[~won].sum()))
        lower, upper = posterior.interval()
        rows.append((as_of, scope, posterior.alpha, posterior.beta, posterior.mean, lower, upper, len(group)))
    columns = ["as_of", "scope", "alpha", "beta", "mean", "lower", "upper", "n"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["as_of"] = frame["as_of"].astype("datetime64[us, UTC]")
    return frame


def _weights(trades: pd.DataFrame) -> Floats:
    """Average uniqueness of each trade among these, by the minutes in which it was open."""
    minutes = [instants(trades[name]).astype("int64").to_numpy() / 60e6 for name in ("entry_time", "exit_time")]
    return average_uniqueness(minutes[0], minutes[1] + 1)  # the exit candle is part of the trade


def _scopes(decided: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    paper = decided[decided["kind"] == "paper"]
    yield "all", paper
    yield "shadow:all", decided[decided["kind"] == "shadow"]
    for column in ("strategy", "symbol", "side", "tier"):
        for value, group in paper.groupby(column, sort=True):  # rows without a tier form no scope
            yield f"{column}:{value}", group
