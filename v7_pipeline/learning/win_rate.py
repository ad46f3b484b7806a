"""Beta–Bernoulli win rates: the posterior itself, its shrinkage between scopes, the win_rates rows of an instant.

A win or a loss is an outcome's word, decided on net P&L elsewhere; thresholds and sizing do not belong here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from math import nan, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd

from v7_pipeline.learning.frames import closed_before, one_source, require, trade_weights
from v7_pipeline.learning.statistics import empirical_bayes_shrinkage

__all__ = ["BetaPosterior", "shrunk_posteriors", "win_rates"]


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


_NEEDED = ("kind", "symbol", "strategy", "side", "tier", "entry_time", "exit_time", "outcome")
_COLUMNS = (
    "as_of", "scope", "alpha", "beta", "mean", "lower", "upper", "n", "prior_alpha", "prior_beta",
    "half_life_trades", "n_eff", "shrunk_mean", "shrunk_lower", "shrunk_upper", "parent_scope",
)  # fmt: skip
_FAMILIES = ("strategy", "symbol", "side", "tier", "regime")


class _Evidence(NamedTuple):
    """A scope's trades: weighted wins and losses, their number, and the scope it is shrunk towards."""

    scope: str
    wins: float
    losses: float
    n: int
    parent: str | None


def win_rates(
    closed_outcomes: pd.DataFrame,
    *,
    as_of: datetime,
    prior_alpha: float,
    prior_beta: float,
    half_life_trades: float | None = None,
) -> pd.DataFrame:
    """The win_rates rows (without provenance) of `as_of`, from outcomes closed by then.

    `closed_outcomes` has the outcomes columns kind, symbol, strategy, side, entry_time, exit_time, outcome, and tier
    (of gated_signals; may be missing in a row). It may have `regime`, the market's regime at the signal, and
    `decision`, what the analyst decided (HOLD in its counterfactuals; without the column nothing was one).

    - Scopes: all, strategy:…, symbol:…, side:…, tier:…, regime:… count paper outcomes. shadow:all counts those of
      rejected signals, so that learning goes on while nothing is accepted; hold:all the counterfactuals of HOLD, both
      sides; manual:all the trader's own. None of the last three enters another scope. `all` and `shadow:all` are always
      there (with n = 0 they are the prior), the others where they have an outcome.
    - Counted are wins and losses; a breakeven is neither and not counted, n included.
    - Trades that were open at the same time won or lost together, so within a scope each adds its average uniqueness
      to alpha or beta (1 where nothing overlaps it, 1/k where k lie upon each other), not 1; n still counts every one.
    - half_life_trades h: a trade also loses half of its weight with every h (effective) trades of its scope that closed
      after it; None: all count alike. n_eff is the summed weight, alpha + beta − the prior.
    - shrunk_*: a scope of a family (symbols, sides …) is shrunk towards `all`, its parent_scope (`shrunk_posteriors`);
      missing where there is no parent.

    Raises ValueError on a naive `as_of`, a missing column, mixed sources or a half-life that is not positive.
    """
    require(closed_outcomes, _NEEDED, "closed outcomes")
    one_source(closed_outcomes)
    known = closed_before(closed_outcomes, as_of)
    decided = known[known["outcome"].isin(("win", "loss"))]
    scopes = [_evidence(scope, group, parent, half_life_trades) for scope, group, parent in _scopes(decided)]
    posteriors = {one.scope: BetaPosterior(prior_alpha + one.wins, prior_beta + one.losses) for one in scopes}
    shrunk = _shrunk(scopes, posteriors, least=prior_alpha + prior_beta)
    rows = []
    for one in scopes:
        own, near = posteriors[one.scope], shrunk.get(one.scope)
        rows.append(
            (
                as_of,
                one.scope,
                own.alpha,
                own.beta,
                own.mean,
                *own.interval(),
                one.n,
                prior_alpha,
                prior_beta,
                nan if half_life_trades is None else half_life_trades,
                one.wins + one.losses,
                *((nan, nan, nan) if near is None else (near.mean, *near.interval())),
                one.parent,
            )
        )
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    frame["as_of"] = frame["as_of"].astype("datetime64[us, UTC]")
    return frame


def shrunk_posteriors(
    wins: list[float], losses: list[float], parent: BetaPosterior, *, least: float = 2.0
) -> list[BetaPosterior]:
    """Each sibling's posterior when the parent's mean is its prior mean and their spread says how much that counts.

    The prior is Beta(m κ, (1 − m) κ), m the parent's mean, κ = m (1 − m) / τ² − 1 with τ² the siblings' variance beyond
    binomial noise (`empirical_bayes_shrinkage`), and at least `least`. Where τ² is 0 the siblings cannot be told apart
    and each is the parent. m and τ² are taken as known (parametric empirical Bayes, Morris 1983), so that the
    intervals are somewhat short where there are few siblings.
    """
    n = [won + lost for won, lost in zip(wins, losses, strict=True)]
    between = empirical_bayes_shrinkage(wins, n).between_variance
    if between <= 0:
        return [parent] * len(n)
    mean = parent.mean
    strength = max(mean * (1 - mean) / between - 1, least)
    return [
        BetaPosterior(mean * strength + won, (1 - mean) * strength + lost)
        for won, lost in zip(wins, losses, strict=True)
    ]


def _evidence(scope: str, trades: pd.DataFrame, parent: str | None, half_life: float | None) -> _Evidence:
    weights = trade_weights(trades, half_life)
    won = (trades["outcome"] == "win").to_numpy()
    return _Evidence(scope, float(weights[won].sum()), float(weights[~won].sum()), len(trades), parent)


def _shrunk(scopes: list[_Evidence], posteriors: dict[str, BetaPosterior], *, least: float) -> dict[str, BetaPosterior]:
    """The shrunk posterior of each scope that has a parent, family by family."""
    found: dict[str, BetaPosterior] = {}
    for family in _FAMILIES:
        siblings = [one for one in scopes if one.parent is not None and one.scope.startswith(f"{family}:")]
        if siblings:
            parent = posteriors[str(siblings[0].parent)]
            near = shrunk_posteriors(
                [one.wins for one in siblings], [one.losses for one in siblings], parent, least=least
            )
            found |= {one.scope: posterior for one, posterior in zip(siblings, near, strict=True)}
    return found


def _scopes(decided: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, str | None]]:
    """Each scope's name, trades and parent."""
    held = (decided["decision"] == "HOLD").to_numpy() if "decision" in decided else np.zeros(len(decided), dtype=bool)
    paper, shadow = decided[decided["kind"] == "paper"], decided["kind"] == "shadow"
    yield "all", paper, None
    yield "shadow:all", decided[shadow & ~held], None
    for scope, group in (("hold:all", decided[shadow & held]), ("manual:all", decided[decided["kind"] == "manual"])):
        if len(group):
            yield scope, group, None
    for column in _FAMILIES:
        if column in paper:
            for value, group in paper.groupby(column, sort=True):  # rows without a tier or a regime form no scope
                yield f"{column}:{value}", group, "all"
