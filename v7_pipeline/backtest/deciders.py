"""Who decides in a simulation: the rules over the ten theories, or decisions that are there already.

The decisions are analyst/'s and strategies/'; here they are only asked for the rows of a simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.analyst import rules
from v7_pipeline.backtest.prepared import Prepared
from v7_pipeline.backtest.replay import BacktestError
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline.theories import bayesian_win_rate
from v7_pipeline.theories.base import Posterior

__all__ = ["DECIDED", "STRATEGIES", "Decider", "FixedDecider", "RulesDecider", "decider_of", "echoed"]

Ints = npt.NDArray[np.int64]

#: What a decision is: columns of rules.decide_frame.
DECIDED = (
    "status", "side", "confidence", "entry_price", "stop_price", "target_price", "horizon_minutes", "key_theories",
)  # fmt: skip
_VOTE, _SCORE = (f"{bayesian_win_rate.NAME}_{part}" for part in ("vote", "score"))


#: What can be backtested.
STRATEGIES = ("v7", "v6", "ensemble")


def decider_of(strategy: str, prepared: Prepared, settings: Settings, source: Store) -> Decider:
    """Who decides for a strategy; `source` has the candles that v6's models are fitted on.

    The ensemble's members are simulated beside it, each with an account of its own, as they are live. BacktestError for
    v6 and what listens to it where candles come late: its models' days know of no lag.
    """
    if strategy != "v7" and prepared.lag:
        raise BacktestError(
            f"{strategy} cannot be backtested with candles that come {prepared.lag} min late; "
            "set V7_BACKTEST_LAG_MIN=0, or backtest v7 alone"
        )
    if strategy == "v6":
        return FixedDecider("v6", "technical", _technical(prepared, settings, source))
    if strategy == "ensemble":
        return FixedDecider("ensemble", "vote", _vote(prepared, settings, source))
    return RulesDecider(prepared, settings)


def _technical(prepared: Prepared, settings: Settings, source: Store) -> pd.DataFrame:
    """v6's decision of each row of `prepared`."""
    from v7_pipeline.strategies.walk_forward import Terms, candles_for_model, decisions

    first, last = (prepared.instants[place].to_pydatetime() for place in (0, -1))
    candles = source.read(
        "candles",
        start=candles_for_model(first.date(), settings.gap_minutes),
        end=last,
        symbols=prepared.symbols,
        columns=("symbol", "open_time", "open", "high", "low", "close", "volume"),
    )
    found = decisions(candles, prepared.instants, Terms.of(settings))
    # By symbol and instant there; a scan's symbols lie beside each other here.
    order = np.arange(prepared.rows).reshape(len(prepared.symbols), -1).T.ravel()
    return found.iloc[order].reset_index(drop=True)


def _vote(prepared: Prepared, settings: Settings, source: Store) -> pd.DataFrame:
    """The ensemble's decision of each row: its members' decisions, and what their trades had come to by midnight."""
    from v7_pipeline.backtest.engine import simulate
    from v7_pipeline.strategies.ensemble import MEMBERS, day_voices, decide_frame
    from v7_pipeline.strategies.walk_forward import Terms

    days = pd.DatetimeIndex(prepared.instants).floor("D").unique().date
    members, voices = {}, {}
    for name in MEMBERS:
        own = simulate(prepared, settings, decider=decider_of(name, prepared, settings, source), name=name)
        members[name] = own.signals
        closed = own.outcomes.merge(own.signals[["signal_id", "confidence"]], on="signal_id")
        voices[name] = day_voices(closed, days, min_effective_n=settings.min_effective_n)
    return decide_frame(members, voices, terms=Terms.of(settings)).reset_index(drop=True)


class Decider(Protocol):
    """A strategy over the rows of a Prepared."""

    strategy: str
    analyst: str
    #: Whether an analyst is asked: only what the cheap gates let through is decided then.
    asks: bool

    def possible(self) -> pd.DataFrame:
        """Every trade that could be decided, whatever is learnt meanwhile: row, side and its plan, ordered by row."""

    def decide(self, rows: Ints, posteriors: Mapping[str, Posterior]) -> pd.DataFrame:
        """DECIDED columns of `rows`, in their order, given what was learnt."""

    def learns(self, posteriors: Mapping[str, Posterior]) -> bool:
        """Whether decisions with these posteriors may differ from those without any."""


def echoed(readings: pd.DataFrame, theory: str) -> pd.DataFrame:
    """`readings` in which every theory says what `theory` says, so that one voice is as many as must agree.

    The rules ask for two or three theories of one opinion; a single one's weight of 1 would never speak. With this the
    combined score is that theory's vote × score, whatever the weights.
    """
    copies = {f"{name}_{part}": readings[f"{theory}_{part}"] for name in THEORY_NAMES for part in ("vote", "score")}
    return readings.assign(**copies)


class RulesDecider:
    """v7 with the rules: ten theories, of which one, the win rate, knows what the simulation has learnt."""

    strategy, analyst, asks = "v7", "rules", True

    def __init__(self, prepared: Prepared, settings: Settings, weights: Mapping[str, float] | None = None) -> None:
        self._prepared, self._settings = prepared, settings
        self._weights = rules.own_weights(settings.rules_weights) if weights is None else weights
        self._readings = prepared.readings
        heard = [theory for theory, weight in (self._weights or {}).items() if weight > 0]
        # One voice alone is never as many as must agree: every theory then says what it says.
        self._echo = len(heard) == 1 and heard[0] != bayesian_win_rate.NAME
        if self._echo:
            self._readings, self._weights = echoed(self._readings, heard[0]), None

    def possible(self) -> pd.DataFrame:
        """The win rate's voice lies in [−1, 1] and moves the score one way, so its two ends show every trade."""
        rows = np.flatnonzero(
            rules.may_trade(
                self._readings,
                unknown=bayesian_win_rate.NAME,
                aggressive=self._settings.aggressive,
                weights=self._weights,
            )
        )
        parts = [self._trades(rows, voice) for voice in (-1.0, 0.0, 1.0)]
        return (
            pd.concat(parts, ignore_index=True).drop_duplicates(["row", "side"]).sort_values("row", ignore_index=True)
        )

    def decide(self, rows: Ints, posteriors: Mapping[str, Posterior]) -> pd.DataFrame:
        found = bayesian_win_rate.columns_at(posteriors, self._prepared.features[rows])
        return self._decided(rows, found[_VOTE], found[_SCORE])

    def learns(self, posteriors: Mapping[str, Posterior]) -> bool:
        """A voice of 0 says what nobody says."""
        newest = np.array([max((int(p.minute[-1]) for p in posteriors.values()), default=0)])
        return not self._echo and bool(bayesian_win_rate.columns_at(posteriors, newest)[_VOTE][0])

    def _trades(self, rows: Ints, voice: float) -> pd.DataFrame:
        vote = np.full(len(rows), voice)
        found = self._decided(rows, vote, np.abs(vote))
        found.insert(0, "row", rows)
        return found[found["side"].isin(("BUY", "SELL"))]

    def _decided(self, rows: Ints, vote: npt.NDArray[np.float64], score: npt.NDArray[np.float64]) -> pd.DataFrame:
        given, s = self._prepared, self._settings
        everything = len(rows) == given.rows
        frame = (self._readings if everything else self._readings.iloc[rows]).copy(deep=False)
        if not self._echo:
            frame[_VOTE], frame[_SCORE] = np.where(given.features[rows] >= 0, vote, np.nan), score
        frame["market_price"] = given.price[rows]
        return rules.decide_frame(
            frame,
            quote_increment=given.increment[rows],
            horizon_minutes=s.horizon_minutes,
            reward_risk=s.min_reward_risk,
            aggressive=s.aggressive,
            weights=self._weights,
        ).reset_index(drop=True)


class FixedDecider:
    """Decisions made beforehand, a row for each row of the Prepared: DECIDED columns. Nobody is asked for them."""

    asks = False

    def __init__(self, strategy: str, analyst: str, decisions: pd.DataFrame) -> None:
        self.strategy, self.analyst, self._decisions = strategy, analyst, decisions.reset_index(drop=True)

    def possible(self) -> pd.DataFrame:
        found = self._decisions.assign(row=np.arange(len(self._decisions)))
        return found[found["side"].isin(("BUY", "SELL"))].reset_index(drop=True)

    def decide(self, rows: Ints, posteriors: Mapping[str, Posterior]) -> pd.DataFrame:
        return self._decisions.iloc[rows].reset_index(drop=True)

    def learns(self, posteriors: Mapping[str, Posterior]) -> bool:
        return False
