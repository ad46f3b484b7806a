"""The account's curve: what gates/ftmo.py's account says at any instant, days, drawdowns."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.backtest.equity import account_curve, daily_equity, days_of, drawdown, drawdowns
from v7_pipeline.trades import positions
from v7_pipeline_tests.gates.builders import MINUTE, TWO_STEP, at, book, flat, position, state, walk
from v7_pipeline_tests.learning.frames import outcome

START = at("2026-10-24T12:00Z")
SYMBOLS = ("BTC-USD", "ETH-USD")


def random_account(seed: int, minutes: int = 2880) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Random positions of two symbols, a quarter of them open to the end, on walks with minutes missing."""
    rng = np.random.default_rng(seed)
    walks = {symbol: walk(seed + i, START, minutes, symbol=symbol) for i, symbol in enumerate(SYMBOLS)}
    rows = []
    for number in range(14):
        symbol = SYMBOLS[number % 2]
        close = walks[symbol]["close"].to_numpy()
        a = int(rng.integers(0, minutes - 700))
        b = a + int(rng.integers(0, 600))
        is_open = rng.random() < 0.25
        rows.append(
            position(
                START + a * MINUTE,
                side=str(rng.choice(["BUY", "SELL"])),
                quantity=float(rng.integers(5, 200)),
                entry=float(close[a]),
                exit_time=None if is_open else START + b * MINUTE,
                exit_price=None if is_open else float(close[b]),
                fee=None,
                symbol=symbol,
                signal_id=f"{number:02d}",
            )
        )
    made = book(*rows)
    for name in ("entry", "exit"):
        rate = made["symbol"].map(TWO_STEP.commission_of).astype(float)
        made[f"{name}_fee_usd"] = rate * made["quantity"] * made[f"{name}_price"]
    candles = pd.concat(walks.values(), ignore_index=True)
    return made, candles[rng.random(len(candles)) > 0.1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5_000), st.lists(st.integers(1, 4_000), min_size=1, max_size=6))
def test_at_any_instant_it_is_the_account_of_the_gates(seed: int, minutes: list[int]) -> None:
    positions_, candles = random_account(seed)
    instants = pd.DatetimeIndex([START + m * MINUTE for m in sorted(minutes)]).as_unit("us")
    curve = account_curve(positions_, candles.sample(frac=1, random_state=seed), instants, initial_usd=100_000.0)
    for row in curve.itertuples():
        account = state(positions_, row.at.to_pydatetime(), candles)
        assert row.balance_usd == pytest.approx(account.balance, abs=1e-6)
        assert row.equity_usd == pytest.approx(account.equity, abs=1e-6)
        assert row.open_positions == account.open_positions


def test_the_fees_are_the_preset_s_where_none_are_given_and_it_ends_at_the_sum_of_pnl() -> None:
    rows = pd.DataFrame([outcome(i, fee_preset="ftmo-crypto", exit_price=99.0 + i) for i in range(3)])
    rate = 0.000325
    pnl = sum((99.0 + i - 100.0) - rate * (100.0 + 99.0 + i) for i in range(3))
    closes = flat(100.0, rows["entry_time"].min(), symbol="BTC-USD")
    end = pd.DatetimeIndex([rows["exit_time"].max() + 2 * MINUTE])
    curve = account_curve(rows, closes, end, initial_usd=1000.0)
    assert curve["equity_usd"].iloc[0] == pytest.approx(1000.0 + pnl, abs=1e-9) == curve["balance_usd"].iloc[0]
    rated = positions(rows, rows.assign(stop_price=90.0), slippage=0.0)
    pd.testing.assert_frame_equal(account_curve(rated, closes, end, initial_usd=1000.0), curve)


def test_garbled_candles_after_an_instant_change_nothing_before_it() -> None:
    positions_, candles = random_account(3)
    instants = pd.date_range(START, START + 1400 * MINUTE, freq="7min").as_unit("us")
    late = candles["open_time"] + MINUTE > instants[-1]
    assert late.any()
    told = [account_curve(positions_, c, instants, initial_usd=1e5) for c in
            (candles, candles.assign(close=candles["close"].where(~late, 1e6)))]  # fmt: skip
    pd.testing.assert_frame_equal(*told, check_exact=True)


def test_days_are_utc_days_and_the_last_ends_with_the_span() -> None:
    first, last = at("2026-10-24T12:00Z"), at("2026-10-26T03:00Z")
    assert [f"{d:%m-%d}" for d in days_of(first, last)] == ["10-25", "10-26", "10-27"]
    assert [f"{d:%m-%d}" for d in days_of(first, at("2026-10-25T00:00Z"))] == ["10-25"]
    positions_, candles = random_account(5)
    days = daily_equity(positions_, candles, first=first, last=last, initial_usd=1e5)
    end = account_curve(positions_, candles, pd.DatetimeIndex([last]).as_unit("us"), initial_usd=1e5)
    assert days["equity_usd"].iloc[-1] == end["equity_usd"].iloc[0]


def test_a_drawdown_runs_from_its_peak_over_its_lowest_point_to_its_recovery() -> None:
    days = pd.date_range("2026-01-02", periods=6, tz="UTC")
    values = [110.0, 99.0, 104.5, 110.0, 120.0, 114.0]
    assert drawdown(values, 100.0) == pytest.approx([0, -0.1, -0.05, 0, 0, -0.05])
    one, two = drawdowns(days, values, first=datetime.fromisoformat("2026-01-01T00:00:00Z"), start=100.0)
    assert (one.depth, one.days, one.recovered) == (pytest.approx(-0.1), 3.0, days[3])
    assert (one.peak, one.trough) == (days[0], days[1])
    assert (two.depth, two.days, two.recovered) == (pytest.approx(-0.05), 1.0, None)
    falling = drawdowns(days, [90.0] * 6, first=datetime.fromisoformat("2026-01-01T00:00:00Z"), start=100.0)
    assert [(d.depth, d.days) for d in falling] == [(pytest.approx(-0.1), 6.0)]


def test_what_cannot_be_an_account_is_refused() -> None:
    positions_, candles = random_account(1)
    now = pd.DatetimeIndex([START]).as_unit("us")
    with pytest.raises(ValueError, match="no time zone"):
        account_curve(positions_, candles, now.tz_localize(None), initial_usd=1.0)
    with pytest.raises(ValueError, match="needs a quantity"):
        account_curve(positions_.assign(quantity=np.nan), candles, now, initial_usd=1.0)
    with pytest.raises(ValueError, match="fee_preset"):
        account_curve(positions_.drop(columns=["entry_fee_usd"]), candles, now, initial_usd=1.0)
