"""The report's figures: n and interval or a reason on each, parts that add up, and the frames of a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.backtest import report
from v7_pipeline.backtest.comparison import Simulation, Trials
from v7_pipeline.backtest.figures import (
    Figures,
    Material,
    _ambiguity,
    _chance,
    _costs,
    _rival,
    _trades,
    figures,
)
from v7_pipeline.backtest.target import material
from v7_pipeline.learning.overfitting import backtest_overfitting
from v7_pipeline.learning.sharpe import Sharpe, deflated_sharpe
from v7_pipeline_tests.backtest.conftest import MADE_DAYS, Replayed
from v7_pipeline_tests.backtest.worlds import SYMBOLS, candles_of, material_of, simulation_of, trials


def changed(made: Material, **frames: Any) -> Material:
    return replace(made, simulation=replace(made.simulation, **frames))


def test_every_figure_of_the_issue_is_there_with_n_and_a_value_or_a_reason(found: Figures) -> None:
    names = {item.name for item in found.items()}
    assert names >= {
        "total_return", "annual_return", "volatility", "sharpe", "sortino", "calmar", "max_drawdown",
        "max_drawdown_scans", "max_drawdown_days", "var_95", "cvar_95", "win_rate", "profit_factor", "mean_r",
        "turnover", "exposure", "fees_share", "psr", "dsr", "trials", "min_trl", "pbo", "p_pass", "p_daily", "p_total",
        "days_to_pass", "days_to_breach", "pessimistic_r", "optimistic_r",
    }  # fmt: skip
    for item in found.items():
        assert item.known or item.note, item
        assert not item.known or item.n > 0, item
        assert not item.has_interval or item.lower <= item.value <= item.upper, item
    for name in ("total_return", "sharpe", "win_rate", "mean_r", "profit_factor", "var_95", "p_total"):
        assert found.item(name).has_interval, name


def test_the_account_is_the_sum_of_its_trades(found: Figures, made: Material) -> None:
    paper = made.simulation.paper
    assert found.curve["balance_usd"].iloc[-1] == pytest.approx(100_000 + paper["pnl_usd"].sum(), abs=1e-6)
    assert found.daily["equity_usd"].iloc[-1] == found.curve["equity_usd"].iloc[-1]
    assert found.item("total_return").value == pytest.approx(found.daily["equity_usd"].iloc[-1] / 1e5 - 1)
    assert np.prod(1 + found.months["net_return"]) - 1 == pytest.approx(found.item("total_return").value)
    assert (
        int(found.months["days"].sum()) == len(found.daily) == MADE_DAYS + 1
    )  # it begins and ends at six in the morning
    gross, fees = found.item("gross_usd").value, found.item("fees_usd").value
    assert gross - fees == pytest.approx(paper["pnl_usd"].sum(), abs=1e-6)
    assert found.item("max_drawdown_scans").value <= found.item("max_drawdown").value < 0


def test_the_funnel_narrows_and_its_counts_are_the_frames(found: Figures, made: Material) -> None:
    n = dict(zip(found.funnel["stage"], found.funnel["n"], strict=True))
    sim = made.simulation
    assert n["chances"] == n["scans"] * len(SYMBOLS) == len(sim.signals)
    stages = ("chances", "calls", "decisions", "BUY or SELL", "accepted", "filled", "closed")
    assert [n[s] for s in stages] == sorted((n[s] for s in stages), reverse=True)
    assert n["accepted"] == int(sim.gated["accepted"].sum()) and n["closed"] == len(sim.paper) == found.told.closed
    rate = found.gates.set_index("gate").loc["rate"]
    assert rate["failed"] == rate["alone"] == n["BUY or SELL"] - n["accepted"] > 0
    assert dict(zip(found.reasons["reason"], found.reasons["n"], strict=True))["RATE_LIMIT"] == rate["failed"]


def test_groups_divide_the_trades_and_small_ones_are_marked(found: Figures) -> None:
    for by in ("symbol", "side", "hour", "regime"):
        assert found.groups.loc[found.groups["by"] == by, "n"].sum() == found.told.closed
    hours = found.groups[found.groups["by"] == "hour"]
    assert (hours["enough"] == (hours["n_eff"] >= 30)).all() and not hours["enough"].all()
    assert found.groups.loc[found.groups["by"] == "symbol", "enough"].all()
    assert set(found.groups.loc[found.groups["by"] == "regime", "name"]) == {"bull", "bear", "sideways"}


def test_exposure_turnover_and_fees_by_hand(found: Figures, made: Material) -> None:
    start = made.simulation.instants[0]
    one = made.simulation.paper.head(2).assign(
        entry_time=[start, start + pd.Timedelta(minutes=5)],
        exit_time=[start + pd.Timedelta(minutes=9), start + pd.Timedelta(minutes=14)],
        gross_return=[0.01, -0.002],
        quantity=1.0,
        entry_price=100.0,
        exit_price=[101.0, 99.8],
    )
    trades = _trades(replace(made.simulation, outcomes=one), None)
    span = (start.to_pydatetime(), start.to_pydatetime() + timedelta(days=1))
    told = {item.name: item.value for item in _costs(trades, found.told, span, 1e5)}
    assert told["exposure"] == pytest.approx(15 / 1440)
    assert told["turnover"] == pytest.approx((100 + 101 + 100 + 99.8) / 1e5)
    fees = 0.000325 * (201 + 199.8)
    assert told["fees_usd"] == pytest.approx(fees)
    assert told["fees_share"] == pytest.approx(fees / 1.0)  # the winner won 1 USD before fees


def test_an_ambiguous_trade_opens_an_interval_between_stop_and_target(found: Figures) -> None:
    trades = found.trades.copy()
    lost = trades.index[trades["exit_reason"] == "stop"][0]
    risk = trades.loc[lost, "net_return"] / trades.loc[lost, "r_multiple"]
    trades.loc[lost, ["ambiguous", "optimistic_return"]] = [True, 0.008]
    told = {item.name: item.value for item in _ambiguity(trades, 1e5)}
    gain = 0.008 - trades.loc[lost, "net_return"]
    assert told["pessimistic_r"] == found.item("mean_r").value
    assert told["optimistic_r"] - told["pessimistic_r"] == pytest.approx(gain / risk / len(trades))
    usd = gain * trades.loc[lost, "notional_usd"]
    assert told["optimistic_return"] - told["pessimistic_return"] == pytest.approx(usd / 1e5)
    assert told["ambiguous"] == 1


def test_dsr_and_pbo_rest_on_the_system_s_own_trials(found: Figures, made: Material) -> None:
    tried = made.trials
    assert tried is not None
    ratios = tried.daily.mean() / tried.daily.std(ddof=1)
    own = Sharpe.of(found.daily["net_return"])
    expected = deflated_sharpe(own, trials=12, variance=float(ratios.var(ddof=1)))
    assert (found.item("trials").value, found.item("dsr").value) == (12, pytest.approx(expected))
    assert found.item("pbo").value == backtest_overfitting(tried.daily, blocks=16).probability
    more = {item.name: item for item in _chance(found.daily["net_return"].to_numpy(), trials(made.simulation, 40))}
    assert more["trials"].value == 40 and more["dsr"].value < found.item("dsr").value


def test_trials_of_a_part_of_the_span_count_and_break_nothing(found: Figures, made: Material) -> None:
    assert made.trials is not None
    returns, daily = found.daily["net_return"].to_numpy(), made.trials.daily.copy()
    daily["a part"] = daily["trial 03"].where(np.arange(len(daily)) > 5)
    daily["a day"] = daily["trial 04"].where(np.arange(len(daily)) < 1)
    given = Trials(made.trials.chosen, daily, tuple(daily))
    told = {item.name: item for item in _chance(returns, given)}
    assert told["trials"].value == 14 and 0 < told["dsr"].value < found.item("dsr").value
    assert told["pbo"].value == found.item("pbo").value and told["pbo"].n == 12
    parts = daily.iloc[:, [0]].assign(**{"a part": daily["a part"]})
    few = {item.name: item for item in _chance(returns, Trials(made.trials.chosen, parts, tuple(parts)))}
    assert np.isnan(few["pbo"].value) and "fewer than two trials replayed every day" in few["pbo"].note


@pytest.mark.parametrize("count", [None, 1])
def test_without_other_trials_there_is_no_dsr_and_it_says_why(
    made: Material, found: Figures, count: int | None
) -> None:
    given: Trials | None = None if count is None else trials(made.simulation, count)
    told = {item.name: item for item in _chance(found.daily["net_return"].to_numpy(), given)}
    for name in ("dsr", "pbo"):
        assert not told[name].known and told[name].note
    assert told["psr"].known


def test_gaps_are_counted_by_symbol_and_told_where_they_are_long(found: Figures) -> None:
    missing = dict(zip(found.gaps.symbols["symbol"], found.gaps.symbols["missing"], strict=True))
    assert missing == {"BTC-USD": 30 + MADE_DAYS, "ETH-USD": 30}
    assert (found.gaps.count, set(found.gaps.silences["minutes"])) == (2, {30}) and found.gaps.silences["shared"].all()


def test_garbled_candles_after_the_last_scan_change_nothing(made: Material, found: Figures) -> None:
    late = made.candles["open_time"] + pd.Timedelta(minutes=1) > made.simulation.instants[-1]
    spoilt = made.candles.assign(close=made.candles["close"].where(~late, 1.0))
    assert late.any()
    for one, other in zip(figures(replace(made, candles=spoilt)).items(), found.items(), strict=True):
        assert repr(one) == repr(other)


def test_a_backtest_without_a_trade_has_figures_too() -> None:
    sim = simulation_of(candles_of(2), 2, each=10**9)
    told = figures(material_of(2, sim=sim, random_entry=None, trials=None))
    assert told.told.closed == 0 and told.item("total_return").value == 0.0
    assert all(item.known or item.note for item in told.items())
    assert isnan(told.item("win_rate").value) and told.item("exposure").value == 0.0
    assert told.calibration.words.startswith("nothing to judge")


def test_a_backtest_without_a_scan_is_refused(made: Material) -> None:
    with pytest.raises(ValueError, match="has no scan"):
        figures(changed(made, instants=made.simulation.instants[:0]))


def test_a_baseline_is_compared_over_the_days_that_both_have(made: Material, found: Figures) -> None:
    hold = next(one for one in found.rivals if one.name == "always HOLD")
    assert hold.difference.value == pytest.approx(found.daily["net_return"].mean())
    short = replace(made.baselines[1], equity=made.baselines[1].equity.head(25))
    told = _rival(short, found.daily, made.simulation)
    assert told.difference.n == 25 and told.difference.value == pytest.approx(found.daily["net_return"].head(25).mean())


@pytest.fixture(scope="module")
def stored(replayed: Replayed) -> Figures:
    return figures(material(replayed.target, replayed.settings, command="test"))


def test_a_replay_s_store_makes_the_same_report(stored: Figures, replayed: Replayed) -> None:
    short = report(replayed.target, replayed.settings)
    assert stored.told.figures == short.paper.figures and stored.material.is_demo
    n = dict(zip(stored.funnel["stage"], stored.funnel["n"], strict=True))
    assert (n["scans"], n["chances"], n["accepted"]) == (short.scans, short.decided, short.accepted)
    end = short.equity.iloc[-1]
    assert stored.curve["equity_usd"].iloc[-1] == pytest.approx(end["equity_usd"], abs=1e-6)
    assert stored.curve["balance_usd"].iloc[-1] == pytest.approx(end["balance_usd"], abs=1e-6)
    assert stored.curve["open_positions"].iloc[-1] == end["open_positions"]
    assert stored.gates.to_dict("list") == short.gates.to_dict("list")
    assert set(stored.trades["regime"]) <= {"bull", "bear", "sideways"} and len(stored.attributed.rows) == 10


def test_the_store_s_frames_are_the_simulation_s_shape(replayed: Replayed) -> None:
    sim: Simulation = material(replayed.target, replayed.settings).simulation
    assert set(sim.outcomes["side"]) <= {"BUY", "SELL"} and "source" not in sim.outcomes.columns
    sides = sim.signals.set_index("signal_id")["side"]
    assert (sides.loc[sim.outcomes["signal_id"]].to_numpy() == sim.outcomes["side"].to_numpy()).all()
