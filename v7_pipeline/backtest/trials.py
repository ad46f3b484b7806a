"""Trials: every simulated configuration is recorded with what it earned each day, so that the system counts them.

Which one is the best, and how much of that is chance, is validation.py's and the report's. Live figures read none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.backtest.baselines import DAY, Simulate
from v7_pipeline.backtest.comparison import Simulation, Trials
from v7_pipeline.backtest.equity import days_of
from v7_pipeline.backtest.replay import _WITHOUT_EFFECT, SOURCE, BacktestError
from v7_pipeline.learning.sharpe import Sharpe
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, conform
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["Trial", "counting", "daily_net", "record_trials", "trial_of", "trial_sharpes", "trials_on"]

Floats = npt.NDArray[np.float64]
MINUTE = pd.Timedelta(minutes=1)

_OVERLAPPING = """
SELECT trial_id, name FROM backtest_trials
WHERE source = ? AND venue = ? AND "first" <= ? AND "last" >= ? ORDER BY created_at, trial_id
"""
_DAILY = """
SELECT d.trial_id, d.day, d.net_return FROM backtest_daily d JOIN backtest_trials t USING (trial_id)
WHERE t.source = ? AND t.venue = ? AND t."first" <= ? AND t."last" >= ? AND d.day >= ? AND d.day <= ?
"""


@dataclass(frozen=True)
class Trial:
    """One configuration on one span, and what came of it.

    `configuration` is what decides its identity. `daily`: net P&L of the paper trades closed on each UTC day, as a
    fraction of the initial capital, by the midnight that begins the day. `mean_r` is NaN where no trade closed,
    `sharpe_daily` where the days never differ.
    """

    trial_id: str
    strategy: str
    name: str
    configuration: Mapping[str, Any]
    first: datetime
    last: datetime
    every_minutes: int
    symbols: tuple[str, ...]
    venue: str
    n_trades: int
    mean_r: float
    net_usd: float
    sharpe_daily: float
    daily: pd.Series = field(repr=False)


def trial_of(
    simulation: Simulation,
    *,
    venue: str,
    strategy: str = "v7",
    analyst: str = "rules",
    weights: Mapping[str, float] | None = None,
) -> Trial:
    """The trial that `simulation` was. `weights` are those it was given, None where v7's own.

    Its identity is made of the settings that have an effect, the theories' shares of the vote, strategy, analyst, span,
    venue and code version: two names for one configuration are one trial.
    """
    settings, instants, paper = simulation.settings, simulation.instants, simulation.paper
    first, last = (instants[place].to_pydatetime() for place in (0, -1))
    every = int((instants[1:] - instants[:-1]).min() / MINUTE) if len(instants) > 1 else 0
    configuration = {
        "settings": settings.model_dump(
            mode="json", exclude={*_WITHOUT_EFFECT, "rules_weights", "rules_weights_learnt"}
        ),
        "shares": _shares(settings, weights) if strategy != "v6" else None,
        "strategy": strategy,
        "analyst": analyst,
        "code_version": __version__,
    }
    what = [configuration, first.isoformat(), last.isoformat(), every, venue]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    daily = daily_net(paper, first=first, last=last, initial_usd=settings.account_initial_usd)
    return Trial(
        trial_id=f"trial-{first:%Y%m%d}-{digest[:12]}",
        strategy=strategy,
        name=simulation.name,
        configuration=configuration,
        first=first,
        last=last,
        every_minutes=every,
        symbols=tuple(settings.symbols),
        venue=venue,
        n_trades=len(paper),
        mean_r=float(paper["r_multiple"].mean()) if len(paper) else float("nan"),
        net_usd=float(paper["pnl_usd"].sum()),
        sharpe_daily=_sharpe(daily.to_numpy()),
        daily=daily,
    )


def daily_net(paper: pd.DataFrame, *, first: datetime, last: datetime, initial_usd: float) -> pd.Series:
    """Net P&L of closed trades on the UTC day of their exit ÷ `initial_usd`; 0 on a day without one.

    paper: exit_time (the exit candle's open), pnl_usd. Indexed by the midnight that begins each day of first … last.
    """
    days = days_of(first, last) - DAY
    usd = paper.groupby(paper["exit_time"].dt.floor("D"))["pnl_usd"].sum() if len(paper) else pd.Series(dtype=float)
    return (usd.reindex(days).fillna(0.0) / initial_usd).rename("net_return")


def record_trials(store: Store, trials: Sequence[Trial], *, run_id: str, now: datetime) -> int:
    """Write `trials` in one transaction, and say how many configurations are new; the others count once as before.

    Where a configuration comes to something else than it did (a candle was corrected), the newer figures stand.
    """
    trials = list({trial.trial_id: trial for trial in trials}.values())
    if not trials:
        return 0
    marks = {"source": SOURCE, "run_id": run_id, "code_version": __version__}
    rows = pd.DataFrame([_row(trial) for trial in trials]).assign(created_at=pd.Timestamp(now), **marks)
    daily = pd.concat(
        [pd.DataFrame({"trial_id": t.trial_id, "day": t.daily.index, "net_return": t.daily.to_numpy()}) for t in trials]
    ).assign(**marks)
    with store.transaction() as tx:
        counts = tx.upsert("backtest_trials", conform("backtest_trials", rows))
        tx.upsert("backtest_daily", conform("backtest_daily", daily))
    return counts.inserted


def trials_on(store: Store, *, first: datetime, last: datetime, venue: str, chosen: str) -> Trials:
    """Every recorded trial on candles of `venue` whose span overlaps first … last, whatever its symbols or strategy.

    Looking at a part of the span is looking, so that one shared instant counts; errors are towards doubt. `daily` has
    the days of first … last; a day that a trial did not replay is NaN. Columns are the trials' names in the order they
    were recorded, with the trial_id where two have one name. `chosen` is a trial_id; BacktestError where it is none of
    them.
    """
    span = (SOURCE, venue, last, first)
    start = pd.Timestamp(first).tz_convert("UTC").floor("D")
    with store.reading() as reader:
        found = reader.query(_OVERLAPPING, span)
        daily = reader.query(_DAILY, (*span, start.to_pydatetime(), last))
    if chosen not in set(found["trial_id"]):
        raise BacktestError(
            f"{store!r} has no trial {chosen} on {venue} candles from {first:%Y-%m-%d} to {last:%Y-%m-%d}; "
            "record it before it is compared with the others"
        )
    twice = found["name"].duplicated(keep=False)
    names = dict(
        zip(found["trial_id"], found["name"].where(~twice, found["name"] + " " + found["trial_id"]), strict=True)
    )
    days = days_of(first, last) - DAY
    table = daily.pivot(index="day", columns="trial_id", values="net_return").reindex(index=days, columns=list(names))
    table.columns = pd.Index(list(names.values()))
    return Trials(chosen=names[chosen], daily=table.rename_axis("day"), names=tuple(names.values()))


def trial_sharpes(trials: Trials) -> Floats:
    """Each trial's Sharpe ratio of a day, over the days that it replayed.

    0 where its days never differ, as PBO has it: nothing was gained, nothing risked. NaN below two days.
    """
    ratios = []
    for column in range(trials.daily.shape[1]):
        days = trials.daily.iloc[:, column].dropna().to_numpy(float)
        ratio = _sharpe(days)
        ratios.append(0.0 if np.isnan(ratio) and len(days) > 1 else ratio)
    return np.array(ratios)


def counting(
    simulate: Simulate,
    record: Callable[[Trial], object],
    *,
    venue: str,
    strategy: str = "v7",
    analyst: str = "rules",
) -> Simulate:
    """`simulate` that hands each simulation to `record` as a trial: what was looked at is counted."""

    def counted(settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation:
        found = simulate(settings, weights, name)
        record(trial_of(found, venue=venue, strategy=strategy, analyst=analyst, weights=weights))
        return found

    return counted


def _shares(settings: Settings, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Each theory's share of the vote: weights that differ by a factor only are the same."""
    one: dict[str, float] = dict.fromkeys(THEORY_NAMES, 1.0)
    given = {**one, **settings.rules_weights} if weights is None else {**dict.fromkeys(THEORY_NAMES, 0.0), **weights}
    total = sum(given.values()) or 1.0
    return {theory: round(given[theory] / total, 12) for theory in THEORY_NAMES}


def _sharpe(days: Floats) -> float:
    try:
        return Sharpe.of(days).ratio
    except ValueError:  # fewer than two days, or none that differs
        return float("nan")


def _row(trial: Trial) -> dict[str, Any]:
    row = {name: getattr(trial, name) for name in Trial.__dataclass_fields__ if name != "daily"}
    return row | {
        "configuration": json.dumps(trial.configuration, sort_keys=True),
        "symbols": ",".join(trial.symbols),
    }
