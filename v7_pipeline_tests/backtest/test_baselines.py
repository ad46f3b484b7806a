"""Baselines: what costs are is lost exactly, symbols alone are symbols together, each part left out is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.analyst.rules import decide_frame
from v7_pipeline.backtest import BacktestError
from v7_pipeline.backtest.baselines import (
    all_baselines,
    always_hold,
    analyst_without_theories,
    as_baseline,
    buy_and_hold,
    equal_weight_vote,
    momentum_only,
)
from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.deciders import echoed
from v7_pipeline.backtest.equity import daily_equity, days_of
from v7_pipeline.backtest.random_entry import random_entry
from v7_pipeline.settings import Settings
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.backtest.markets import (
    FIRST,
    SYMBOLS,
    constant,
    recorded,
    settings_of,
    slow_simulate,
    source_of,
    strategy,
    walk,
)

SPAN = {"first": FIRST, "until": FIRST + timedelta(days=2)}


@pytest.fixture(scope="module")
def candles() -> pd.DataFrame:
    return pd.concat([walk(symbol, 2880, seed=6) for symbol in SYMBOLS], ignore_index=True)


class Asked:
    """A `simulate` that notes what it was asked and trades at one instant, on the side of the weights' sum."""

    def __init__(self, candles: pd.DataFrame) -> None:
        self.candles, self.calls = candles, list[tuple[str, Mapping[str, float] | None]]()

    def __call__(self, settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation:
        self.calls.append((name, weights))
        return strategy(self.candles, [("BTC-USD", 100, "BUY")], settings, name=name)


def test_buy_and_hold_is_bought_at_the_first_open_and_sold_at_the_last_close(candles: pd.DataFrame) -> None:
    settings = settings_of()
    whole, *alone = buy_and_hold(candles, settings, **SPAN)
    assert [b.name for b in alone] == [f"buy and hold {s}" for s in SYMBOLS] and whole.name == "buy and hold"
    for symbol, baseline in zip(SYMBOLS, alone, strict=True):
        own = candles[candles["symbol"] == symbol]
        bought, sold = own["open"].iloc[0] * 1.0001, own["close"].iloc[-1] * 0.9999
        net = sold / bought - 1 - 0.000325 * (1 + sold / bought)
        (trade,) = baseline.trades.to_dict("records")
        assert trade["net_return"] == pytest.approx(net, rel=1e-12)
        assert trade["pnl_usd"] == pytest.approx(100_000 * net, rel=1e-12) and np.isnan(trade["r_multiple"])
        assert baseline.equity["equity_usd"].iloc[-1] == pytest.approx(100_000 * (1 + net), rel=1e-12)
        marked = own["close"].iloc[1439] / bought - 1 - 0.000325  # the first midnight: entered and paid, not sold
        assert baseline.equity["equity_usd"].iloc[0] == pytest.approx(100_000 * (1 + marked), rel=1e-12)
    assert whole.equity["day"].tolist() == [pd.Timestamp(FIRST) + pd.Timedelta(days=n) for n in (1, 2)]


def test_lesson_24_holding_symbols_together_is_the_mean_of_holding_each_alone(candles: pd.DataFrame) -> None:
    whole, *alone = buy_and_hold(candles, settings_of(), **SPAN)
    mean = sum(b.equity["equity_usd"] for b in alone) / 3
    assert whole.equity["equity_usd"].to_numpy() == pytest.approx(mean.to_numpy(), rel=1e-12)
    only = buy_and_hold(candles[candles["symbol"] == "ETH-USD"], settings_of(symbols=("ETH-USD",)), **SPAN)
    assert len(only) == 1 and only[0].name == "buy and hold ETH-USD"
    pd.testing.assert_frame_equal(only[0].trades, alone[1].trades, check_exact=True)
    pd.testing.assert_frame_equal(only[0].equity, alone[1].equity, check_exact=True)


def test_lesson_24_where_nothing_moves_buy_and_hold_loses_exactly_its_costs() -> None:
    candles = constant("BTC-USD", 1440, 64.0)
    (held,) = buy_and_hold(candles, settings_of(symbols=("BTC-USD",)), first=FIRST, until=FIRST + timedelta(days=1))
    bought, sold = 64 * 1.0001, 64 * 0.9999
    lost = 100_000 / bought * (bought - sold + 0.000325 * (bought + sold))
    assert held.trades["pnl_usd"].iloc[0] == pytest.approx(-lost, rel=1e-11)
    (free,) = buy_and_hold(
        candles,
        settings_of(symbols=("BTC-USD",), fees="none", slippage=0.0),
        first=FIRST,
        until=FIRST + timedelta(days=1),
    )
    assert free.trades["pnl_usd"].iloc[0] == 0.0 and free.trades["outcome"].iloc[0] == "breakeven"
    assert free.equity["equity_usd"].tolist() == [100_000.0]


@pytest.mark.parametrize("seed", range(4))
def test_lesson_24_long_and_short_of_one_path_lose_the_costs_of_both_exactly(seed: int) -> None:
    """Both sides at once, left together by the time stop: what one gains the other loses, whatever the path did."""
    path = walk("BTC-USD", 1440, seed=seed)
    settings = settings_of(symbols=("BTC-USD",))
    legs = [strategy(path, [("BTC-USD", 300, side)], settings, stop=0.5, reward=0.5) for side in ("BUY", "SELL")]
    long, short = (leg.paper.iloc[0] for leg in legs)
    assert (long["exit_reason"], short["exit_reason"]) == ("time", "time")
    p, q = path["open"].iloc[602], path["close"].iloc[661]
    size = 50_000 / path["close"].iloc[601]
    costs = size * (2 * 0.0001 * (p + q) + 0.000325 * 2 * (p + q))
    assert long["pnl_usd"] + short["pnl_usd"] == pytest.approx(-costs, rel=1e-11)
    ends = [as_baseline(leg, "", path).equity["equity_usd"].iloc[-1] - 100_000 for leg in legs]
    assert sum(ends) == pytest.approx(-costs, rel=1e-8)


def test_always_hold_keeps_the_account_as_it_was() -> None:
    hold = always_hold(settings_of(), first=FIRST, until=FIRST + timedelta(days=3))
    assert hold.trades.empty and hold.equity["equity_usd"].tolist() == [100_000.0] * 3


def test_days_end_at_midnight_and_the_last_one_after_the_span() -> None:
    noon, day = pd.Timestamp(FIRST) + pd.Timedelta(hours=12), pd.Timedelta(days=1)
    assert days_of(noon, noon + day).tolist() == [noon.floor("D") + day, noon.floor("D") + 2 * day]
    assert days_of(noon, noon.floor("D") + day).tolist() == [noon.floor("D") + day]
    assert len(days_of(FIRST, FIRST)) == 1


def test_equity_books_a_close_on_its_day_and_marks_what_is_open(candles: pd.DataFrame) -> None:
    own = strategy(candles, [("BTC-USD", 10, "BUY"), ("ETH-USD", 705, "SELL")], settings_of(), stop=0.3, reward=0.5)
    closed, over = own.paper.iloc[0], own.paper.iloc[1]
    assert over["entry_time"] < pd.Timestamp(FIRST) + pd.Timedelta(days=1) < over["exit_time"]
    close = candles[candles["symbol"] == "ETH-USD"]["close"].iloc[1439]
    floating = over["quantity"] * (over["entry_price"] - close - 0.000325 * over["entry_price"])
    equity = as_baseline(own, "", candles).equity["equity_usd"]
    assert equity.iloc[0] == pytest.approx(100_000 + closed["pnl_usd"] + floating, rel=1e-13)
    assert equity.iloc[1] == pytest.approx(100_000 + own.paper["pnl_usd"].sum(), rel=1e-13)
    garbled = candles.copy()
    garbled.loc[garbled["open_time"] >= pd.Timestamp(FIRST) + pd.Timedelta(days=1), "close"] *= 5
    span = {"first": own.instants[0], "last": own.instants[-1], "initial_usd": 100_000.0}
    paper = own.outcomes[own.outcomes["kind"] == "paper"]
    assert daily_equity(paper, garbled, **span)["equity_usd"].iloc[0] == equity.iloc[0]


def test_what_is_left_in_the_day_s_first_candle_is_still_open_at_midnight() -> None:
    path = walk("BTC-USD", 2880, seed=1)
    midnight = pd.Timestamp(FIRST) + pd.Timedelta(days=1)
    trade = {"symbol": "BTC-USD", "side": "BUY", "entry_price": 90.0, "quantity": 1.0, "exit_price": 97.0}
    pnl = []
    for minutes in (-1, 0):
        times = {
            "entry_time": midnight - pd.Timedelta(minutes=30),
            "exit_time": midnight + minutes * pd.Timedelta(minutes=1),
        }
        closed = pd.DataFrame([{**trade, **times, "pnl_usd": 7.0, "fee_preset": "none"}])
        span = {"first": FIRST, "last": FIRST + timedelta(days=2)}
        equity = daily_equity(closed, path, **span, initial_usd=0.0)["equity_usd"]
        pnl.append(equity.iloc[0])
        assert equity.iloc[1] == pytest.approx(7.0)
    assert pnl == pytest.approx([7.0, path["close"].iloc[1439] - 90.0])


def test_every_baseline_is_made_once_and_counted(candles: pd.DataFrame) -> None:
    simulate, told = Asked(candles), []
    settings = settings_of()
    own = strategy(candles, [("BTC-USD", 100, "BUY")], settings)
    found = all_baselines(simulate, own, candles, on_progress=lambda *step: told.append(step))
    assert [b.name for b in found] == [
        "buy and hold", *(f"buy and hold {s}" for s in SYMBOLS), "always HOLD", "momentum only", "equal-weight vote",
        *(f"v7 without {theory}" for theory in THEORY_NAMES),
    ]  # fmt: skip
    assert told == [("baselines", done, 12) for done in range(1, 13)]
    weights = dict(simulate.calls)
    assert weights["momentum only"] == {"price_momentum": 1.0} and set(weights["equal-weight vote"].values()) == {1.0}
    left_out = weights["v7 without hurst_exponent"]
    assert left_out == {**dict.fromkeys(THEORY_NAMES, 1.0), "hurst_exponent": 0.0}
    assert all(len(b.trades) == 1 and len(b.equity) == 2 for b in found[5:])


def test_weights_of_ones_own_stay_and_a_theory_without_one_cannot_be_left_out(candles: pd.DataFrame) -> None:
    simulate = Asked(candles)
    settings = settings_of(rules_weights={"price_momentum": 2.0, "shannon_entropy": 0.0})
    all_baselines(simulate, strategy(candles, [], settings), candles)
    weights = dict(simulate.calls)
    assert "v7 without shannon_entropy" not in weights and len(weights) == 11
    assert weights["v7 without hurst_exponent"] == {
        **dict.fromkeys(THEORY_NAMES, 1.0), "price_momentum": 2.0, "shannon_entropy": 0.0, "hurst_exponent": 0.0
    }  # fmt: skip
    meaning = equal_weight_vote(simulate, settings, candles).meaning
    assert "v7 has price_momentum 2, shannon_entropy 0 here" in meaning


def test_the_equal_weight_vote_says_where_it_is_v7_itself(candles: pd.DataFrame) -> None:
    settings = settings_of()
    own = strategy(candles, [("BTC-USD", 100, "BUY"), ("ETH-USD", 40, "SELL")], settings)
    found = equal_weight_vote(Asked(candles), settings, candles, own=own)
    assert "this is v7 itself" in found.meaning
    assert f"1 of {len(own.signals)} decisions have another side than v7's." in found.meaning


def test_one_voice_is_heard_through_an_echo_and_not_through_a_weight() -> None:
    names = [f"{theory}_{part}" for theory in THEORY_NAMES for part in ("vote", "score")]
    readings = pd.DataFrame(
        {**dict.fromkeys(names, 0.0), "volatility_240": 4e-4, "market_price": 100.0}, index=range(3)
    )
    readings["price_momentum_vote"], readings["price_momentum_score"] = [1.0, -1.0, 1.0], [0.9, 0.9, 0.1]
    plan = {"quote_increment": 0.01, "horizon_minutes": 240, "reward_risk": 1.5}
    alone = decide_frame(readings, **plan, weights={"price_momentum": 1.0})
    assert alone["side"].tolist() == ["HOLD"] * 3  # three must agree
    heard = decide_frame(echoed(readings, "price_momentum"), **plan)
    assert heard["side"].tolist() == ["BUY", "SELL", "HOLD"]
    assert heard["score"].tolist() == pytest.approx([0.9, -0.9, 0.1])


def test_momentum_that_never_speaks_is_told(candles: pd.DataFrame) -> None:
    def silent(settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation:
        return strategy(candles, [], settings, name=name)

    found = momentum_only(silent, settings_of(), candles)
    assert found.trades.empty and found.meaning.endswith("It never did so here.")


def test_the_analyst_without_theories_says_how_often_it_was_asked_and_decided_otherwise(candles: pd.DataFrame) -> None:
    own = strategy(candles, [], settings_of(), name="v7")

    def answered(*rows: tuple[str, str | None, str | None]) -> Simulation:
        frame = pd.DataFrame(rows, columns=["status", "status_reason", "side"])
        times = pd.date_range("2026-03-02", periods=len(rows), freq="2min", tz="UTC")
        return replace(own, name="deepseek without theories", signals=frame.assign(symbol="BTC-USD", as_of=times))

    outside = ("skipped", "NOT_SAMPLED", None)
    with_them = answered(("answered", None, "BUY"), ("answered", None, "HOLD"), ("answered", None, "HOLD"), outside)
    without = answered(("answered", None, "HOLD"), ("answered", None, "HOLD"), ("abstained", "TIMEOUT", None), outside)
    found = analyst_without_theories(without, with_them, candles)
    assert found.name == "deepseek without theories" and found.trades.empty
    assert (
        "3 questions, 2 answered, 0 BUY or SELL; of 3 that both were asked 2 were decided otherwise." in found.meaning
    )


def test_a_symbol_without_candles_is_named(candles: pd.DataFrame) -> None:
    with pytest.raises(BacktestError, match="no candle of SOL-USD between 2026-03-02 00:00Z"):
        buy_and_hold(candles[candles["symbol"] != "SOL-USD"], settings_of(), **SPAN)


@pytest.mark.slow
def test_recordings_through_the_real_scans(tmp_path: Path) -> None:
    day = datetime(2023, 12, 11, tzinfo=UTC)
    candles = recorded(day, 1)
    span = {"start": day, "end": day + timedelta(hours=6), "every": timedelta(minutes=20)}
    simulate = slow_simulate(source_of(tmp_path / "source.duckdb", candles), tmp_path, **span)
    settings = settings_of(aggressive=True, horizon_minutes=60)
    own = simulate(settings, None, "v7")
    momentum = momentum_only(simulate, settings, candles)
    assert len(momentum.trades) > 0 and len(own.paper) > 0
    assert momentum.equity["equity_usd"].iloc[-1] != 100_000
    closed = as_baseline(own, "", candles)
    assert closed.trades["pnl_usd"].sum() == own.paper["pnl_usd"].sum()
    found = random_entry(own, candles, seed=1, draws=200)
    assert found is not None and found.trades == len(own.paper) and np.isfinite(found.mean_r).all()
    assert -1.5 < found.mean_r.min() < found.mean_r.max() < 3  # a stop of one R, a target of some two
