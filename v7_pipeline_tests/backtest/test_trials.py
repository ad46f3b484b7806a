"""Trials: one row a configuration however often it is run, counted by the store, read by no live figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import v7_pipeline
from v7_pipeline import __version__
from v7_pipeline.backtest import BacktestError
from v7_pipeline.backtest.baselines import all_baselines
from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.trials import Trial, counting, daily_net, record_trials, trial_of, trial_sharpes, trials_on
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, open_store
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.backtest.markets import FIRST, SYMBOLS, settings_of, strategy, walk

NOW = datetime(2026, 4, 1, tzinfo=UTC)
RUN = {"run_id": "backtest-1", "now": NOW}
VENUE = "coinbase-exchange"


@pytest.fixture(scope="module")
def candles() -> pd.DataFrame:
    return pd.concat([walk(symbol, 4 * 1440, seed=8) for symbol in SYMBOLS], ignore_index=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(f"duckdb:{tmp_path / 'trials.duckdb'}")
    made.migrate(__version__, NOW)
    return made


@pytest.fixture(scope="module")
def own(candles: pd.DataFrame) -> Simulation:
    return strategy(
        candles, [("BTC-USD", 100, "BUY"), ("ETH-USD", 800, "SELL"), ("SOL-USD", 1500, "BUY")], settings_of()
    )


def at(trial: Trial, days: int, **changes: object) -> Trial:
    """The trial moved by whole days, as another configuration."""
    shift = timedelta(days=days)
    daily = trial.daily.set_axis(trial.daily.index + pd.Timedelta(shift))
    moved = {"first": trial.first + shift, "last": trial.last + shift, "daily": daily}
    return dataclasses.replace(trial, **{"trial_id": f"{trial.trial_id}{days:+d}"} | moved | changes)  # type: ignore[arg-type]


def test_the_same_configuration_counts_once_whatever_it_is_called(own: Simulation, store: Store) -> None:
    trial = trial_of(own, venue=VENUE)
    assert record_trials(store, [trial], **RUN) == 1
    again = trial_of(
        dataclasses.replace(own, name="another name"), venue=VENUE, weights=dict.fromkeys(THEORY_NAMES, 2.0)
    )
    assert again.trial_id == trial.trial_id  # equal weights are equal weights, and a name is no configuration
    assert record_trials(store, [again, again], run_id="backtest-2", now=NOW + timedelta(hours=1)) == 0
    (row,) = store.read("backtest_trials").to_dict("records")
    assert (row["name"], row["run_id"], row["created_at"]) == ("v7", "backtest-1", pd.Timestamp(NOW))
    assert len(store.read("backtest_daily")) == 4
    assert record_trials(store, [], **RUN) == 0


def test_what_is_stored_is_what_came_of_it(own: Simulation, store: Store) -> None:
    trial = trial_of(own, venue=VENUE)
    record_trials(store, [trial], **RUN)
    (row,) = store.read("backtest_trials").to_dict("records")
    assert (row["strategy"], row["source"], row["venue"], row["symbols"]) == (
        "v7",
        "backtest",
        VENUE,
        ",".join(SYMBOLS),
    )
    assert (row["every_minutes"], row["n_trades"]) == (2, 3)
    assert (row["first"], row["last"]) == (own.instants[0], own.instants[-1])
    assert row["mean_r"] == own.paper["r_multiple"].mean() and row["net_usd"] == own.paper["pnl_usd"].sum()
    daily = store.read("backtest_daily")["net_return"]
    assert row["sharpe_daily"] == pytest.approx(daily.mean() / daily.std(), rel=1e-12)
    assert daily.sum() * 100_000 == pytest.approx(row["net_usd"], rel=1e-12)
    assert "deepseek_api_key" not in row["configuration"] and '"min_confidence": 0.55' in row["configuration"]


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"min_confidence": 0.6}, {}),
        ({"rules_weights": {"price_momentum": 2.0}}, {}),
        ({}, {"weights": {"price_momentum": 1.0}}),
        ({}, {"strategy": "v6"}),
        ({}, {"analyst": "deepseek"}),
        ({}, {"venue": "sandbox"}),
    ],
)
def test_whatever_has_an_effect_makes_another_trial(
    own: Simulation, changes: dict[str, object], given: dict[str, object]
) -> None:
    other = dataclasses.replace(own, settings=settings_of(**changes))
    assert trial_of(other, **({"venue": VENUE} | given)).trial_id != trial_of(own, venue=VENUE).trial_id  # type: ignore[arg-type]
    shorter = dataclasses.replace(own, instants=own.instants[:-1])
    assert trial_of(shorter, venue=VENUE).trial_id != trial_of(own, venue=VENUE).trial_id


def test_a_setting_without_effect_makes_none(own: Simulation) -> None:
    other = dataclasses.replace(own, settings=settings_of(max_run_s=99, store="duckdb:elsewhere"))
    assert trial_of(other, venue=VENUE).trial_id == trial_of(own, venue=VENUE).trial_id


def test_trials_whose_span_overlaps_count_and_no_others(own: Simulation, store: Store) -> None:
    trial = trial_of(own, venue=VENUE)
    span = {"first": trial.first, "last": trial.last, "venue": VENUE}
    overlapping = [at(trial, 3), at(trial, -2), at(trial, -3, name="other")]
    elsewhere = [at(trial, 4), at(trial, 40), dataclasses.replace(trial, trial_id="demo", venue="sandbox")]
    record_trials(store, [trial, *overlapping, *elsewhere], **RUN)
    found = trials_on(store, chosen=trial.trial_id, **span)
    assert found.count == len(found.names) == 4 and found.chosen == f"v7 {trial.trial_id}"
    assert set(found.daily.columns) == {
        f"v7 {trial.trial_id}", f"v7 {trial.trial_id}+3", f"v7 {trial.trial_id}-2", "other"
    }  # fmt: skip
    assert found.daily.index.tolist() == trial.daily.index.tolist()
    assert found.daily[found.chosen].tolist() == trial.daily.tolist()
    assert found.daily[f"v7 {trial.trial_id}+3"].notna().tolist() == [False, False, False, True]
    assert found.daily["other"].notna().tolist() == [True, False, False, False]
    sharpes = dict(zip(found.names, trial_sharpes(found), strict=True))
    assert sharpes[found.chosen] == pytest.approx(trial.sharpe_daily) and np.isnan(sharpes["other"])
    touching = {"first": trial.last, "last": trial.last + timedelta(hours=1), "venue": VENUE}
    assert trials_on(store, chosen=trial.trial_id, **touching).count == 3  # a shared instant is a look
    before = {"first": trial.first - timedelta(hours=1), "last": trial.first, "venue": VENUE}
    assert trials_on(store, chosen=trial.trial_id, **before).count == 3
    with pytest.raises(BacktestError, match="has no trial nobody on coinbase-exchange candles"):
        trials_on(store, chosen="nobody", **span)


def test_a_configuration_that_never_traded_is_a_trial_with_a_ratio_of_zero(candles: pd.DataFrame, store: Store) -> None:
    trial = trial_of(strategy(candles, [], settings_of()), venue=VENUE)
    record_trials(store, [trial], **RUN)
    (row,) = store.read("backtest_trials").to_dict("records")
    assert row["n_trades"] == 0 and np.isnan(row["mean_r"]) and np.isnan(row["sharpe_daily"]) and row["net_usd"] == 0
    found = trials_on(store, first=trial.first, last=trial.last, venue=VENUE, chosen=trial.trial_id)
    assert trial_sharpes(found).tolist() == [0.0]


def test_newer_figures_of_one_configuration_stand(own: Simulation, store: Store) -> None:
    trial = trial_of(own, venue=VENUE)
    record_trials(store, [trial], **RUN)
    changed = dataclasses.replace(trial, net_usd=1.0, daily=trial.daily * 0 + 0.25)
    assert record_trials(store, [changed], run_id="backtest-2", now=NOW) == 0
    assert store.read("backtest_trials")["net_usd"].tolist() == [1.0]
    assert store.read("backtest_daily")["net_return"].tolist() == [0.25] * 4


def test_every_simulation_of_the_baselines_is_counted(candles: pd.DataFrame, own: Simulation, store: Store) -> None:
    def simulate(settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation:
        return dataclasses.replace(own, name=name)

    counted = counting(simulate, lambda trial: record_trials(store, [trial], **RUN), venue=VENUE)
    counted(own.settings, None, "v7")
    all_baselines(counted, own, candles)
    names = store.read("backtest_trials")["name"].tolist()
    # The equal-weight vote is v7 itself here: one configuration.
    assert sorted(names) == sorted(["v7", "momentum only", *(f"v7 without {theory}" for theory in THEORY_NAMES)])


def test_daily_net_is_booked_on_the_day_of_the_exit(own: Simulation) -> None:
    daily = daily_net(own.paper, first=FIRST, last=FIRST + timedelta(days=2, hours=1), initial_usd=1000.0)
    exits = own.paper["exit_time"].dt.floor("D")
    assert len(daily) == 3 and daily.index[0] == pd.Timestamp(FIRST)
    for day in daily.index:
        assert daily[day] == own.paper.loc[exits == day, "pnl_usd"].sum() / 1000


def test_lesson_21_no_live_figure_reads_the_trials() -> None:
    folder = Path(v7_pipeline.__file__).parent
    readers = {
        path.relative_to(folder).parts[0]
        for path in folder.rglob("*.py")
        if any(word in path.read_text() for word in ("backtest_trials", "backtest_daily"))
    }
    assert readers == {"backtest", "store"}
