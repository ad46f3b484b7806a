"""Fee presets and sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.trades import Product, fee_preset, size, size_signals

PRODUCT = Product(fee_rate=0.000325, leverage=3.3)
FREE = Product(fee_rate=0.0, leverage=3.3)
COSTS = {"product": PRODUCT, "slippage": 0.0001}
ACCOUNT = {"free_margin_usd": 100_000.0}


@pytest.mark.parametrize(
    ("name", "rate"),
    [("ftmo-crypto", 0.000325), ("coinbase-taker", 0.009), ("coinbase-maker", 0.005), ("none", 0.0)],
)
def test_fee_presets_have_their_published_rates_and_a_source(name: str, rate: float) -> None:
    assert fee_preset(name).rate_per_side == rate
    assert fee_preset(name).source


def test_an_unknown_fee_preset_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="coinbase-taker"):
        fee_preset("free")


def test_without_costs_the_size_is_risk_over_stop_distance() -> None:
    sized = size("BUY", 100.0, 98.0, risk_usd=500.0, product=FREE, slippage=0.0, **ACCOUNT)
    assert sized.quantity == 250.0
    assert sized.risk_usd == 500.0
    assert sized.capped_by is None


def test_costs_make_the_position_smaller_and_the_worst_case_counts_them() -> None:
    sized = size("BUY", 100.0, 98.0, risk_usd=500.0, **COSTS, **ACCOUNT)
    fill, out = 100.0 * 1.0001, 98.0 * 0.9999
    by_hand = sized.quantity * (fill - out + 0.000325 * (fill + out))
    assert sized.quantity < 250.0
    assert sized.risk_usd == pytest.approx(by_hand, rel=1e-12)
    assert sized.risk_usd == pytest.approx(500.0, abs=1e-5)


def test_leverage_caps_the_notional_and_says_so() -> None:
    sized = size("SELL", 100.0, 100.01, risk_usd=500.0, product=FREE, slippage=0.0, **ACCOUNT)
    assert sized.capped_by == "leverage"
    assert sized.quantity * 100.0 == pytest.approx(330_000.0)
    assert sized.risk_usd < 500.0


def test_an_account_without_equity_gets_no_position() -> None:
    assert size("BUY", 100.0, 98.0, risk_usd=500.0, **COSTS, free_margin_usd=-5.0).quantity == 0.0


def test_rounding_down_counts_in_decimals() -> None:
    sized = size(
        "BUY", 100.0, 90.0, risk_usd=3.0, product=replace(FREE, quantity_increment=0.1), slippage=0.0, **ACCOUNT
    )
    assert sized.quantity == 0.3


@pytest.mark.parametrize("side", ["HOLD", "buy", "", None])
def test_lesson_07_hold_has_no_size(side: str) -> None:
    with pytest.raises(ValueError, match="only BUY and SELL"):
        size(side, 100.0, 98.0, risk_usd=500.0, **COSTS, **ACCOUNT)


@pytest.mark.parametrize(("side", "stop"), [("BUY", 101.0), ("BUY", 100.0), ("SELL", 99.0)])
def test_lesson_16_a_stop_on_the_wrong_side_has_no_size(side: str, stop: float) -> None:
    with pytest.raises(ValueError, match="other side"):
        size(side, 100.0, stop, risk_usd=500.0, **COSTS, **ACCOUNT)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_numbers_that_mean_nothing_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="risk_usd"):
        size("BUY", 100.0, 98.0, risk_usd=bad, **COSTS, **ACCOUNT)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["BUY", "SELL"]),
    st.floats(0.01, 100_000.0),
    st.floats(0.001, 0.2),
    st.floats(1.0, 5_000.0),
    st.sampled_from([1e-8, 1e-4, 0.01, 1.0]),
)
def test_the_size_is_the_largest_that_stays_within_risk_and_leverage(
    side: str, entry: float, distance: float, risk: float, step: float
) -> None:
    stop = entry * (1 - distance if side == "BUY" else 1 + distance)
    sized = size(
        side, entry, stop, risk_usd=risk, slippage=1e-4, **ACCOUNT, product=replace(PRODUCT, quantity_increment=step)
    )
    assert sized.risk_usd <= risk * (1 + 1e-12)
    assert sized.quantity * entry <= 330_000.0 * 1.001
    if sized.capped_by is None and sized.quantity > 0:
        one_more = sized.risk_usd / sized.quantity * (sized.quantity + step)
        assert one_more > risk * (1 - 1e-9)


def _signals(*rows: tuple[str, str | None, float | None, float | None, float | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["signal_id", "side", "entry_price", "stop_price", "market_price"])
    return frame.assign(symbol="BTC-USD")


def sized_signals(frame: pd.DataFrame, product: Product = PRODUCT, free: float = 100_000.0) -> pd.DataFrame:
    return size_signals(frame, risk_usd=500.0, slippage=1e-4, free_margin_usd=free, products={"BTC-USD": product})


def test_signals_are_sized_at_the_worse_of_plan_and_market() -> None:
    frame = _signals(
        ("a", "BUY", 100.0, 99.0, 100.4), ("b", "BUY", 100.4, 99.0, 100.0), ("c", "HOLD", None, None, 100.0)
    )
    sized = sized_signals(frame)
    assert sized["signal_id"].tolist() == ["a", "b"]
    assert sized["quantity"].iloc[0] == sized["quantity"].iloc[1]
    assert sized["quantity"].iloc[0] == size("BUY", 100.4, 99.0, risk_usd=500.0, **COSTS, **ACCOUNT).quantity


def test_a_plan_that_cannot_be_sized_has_no_quantity_rather_than_zero() -> None:
    frame = _signals(("a", "BUY", 100.0, 101.0, 100.0), ("b", "SELL", None, 101.0, 100.0))
    sized = sized_signals(frame)
    assert sized["quantity"].isna().all() and sized["risk_usd"].isna().all()


def test_a_position_is_told_in_units_lots_and_dollars() -> None:
    frame = _signals(("a", "BUY", 100.0, 99.0, 100.0))
    row = sized_signals(frame, replace(PRODUCT, contract_size=10.0, quantity_increment=0.5)).iloc[0]
    assert row["quantity"] % 0.5 == 0 and row["lots"] == row["quantity"] / 10
    assert row["notional_usd"] == pytest.approx(row["quantity"] * 100.0 * 1.0001)
    assert row["margin_usd"] == pytest.approx(row["notional_usd"] / 3.3)
    assert math.isnan(sized_signals(frame).iloc[0]["lots"])  # the firm states no contract size


def test_what_open_positions_tie_up_leaves_less_for_the_next() -> None:
    frame = _signals(("a", "BUY", 100.0, 99.9, 100.0))
    much, little = sized_signals(frame).iloc[0], sized_signals(frame, free=10_000.0).iloc[0]
    assert much["capped_by"] is None and little["capped_by"] == "leverage"
    assert little["notional_usd"] == pytest.approx(33_000.0) and little["margin_usd"] == pytest.approx(10_000.0)


def test_a_symbol_that_nobody_trades_has_no_size() -> None:
    with pytest.raises(KeyError, match="DOGE"):
        sized_signals(_signals(("a", "BUY", 100.0, 99.0, 100.0)).assign(symbol="DOGE-USD"))
