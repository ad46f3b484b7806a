"""The triple barrier, row by row and as a whole."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from v7_pipeline.trades import OUTCOME_COLUMNS, can_be_followed, follow
from v7_pipeline_tests.shared_data import needs_shared
from v7_pipeline_tests.trades.builders import LATER, MINUTE, T0, candles, short, trade
from v7_pipeline_tests.trades.row_wise import follow_row_wise

CALM = (100.0, 100.2, 99.8, 100.0)


def run(
    trades: pd.DataFrame,
    prices: pd.DataFrame,
    *,
    as_of: datetime = LATER,
    fees: str = "none",
    slippage: float = 0.0,
    band: float = 0.1,
) -> pd.DataFrame:
    return follow(trades, prices, as_of=as_of, fee_preset=fees, slippage=slippage, breakeven_band_r=band)


def one(*args: Any, **kwargs: Any) -> pd.Series:
    return run(*args, **kwargs).iloc[0]


def walk(seed: int, minutes: int, *, symbol: str = "BTC-USD", sigma: float = 0.002) -> pd.DataFrame:
    """A seeded random walk's candles, open at the last close, each built from ten steps."""
    rng = np.random.default_rng(seed)
    steps = 100.0 * np.exp(np.cumsum(rng.normal(0.0, sigma / np.sqrt(10), minutes * 10)))
    opens = np.concatenate([[100.0], steps[9::10][:-1]])
    blocks = np.column_stack([opens, steps.reshape(minutes, 10)])
    rows = np.column_stack([opens, blocks.max(axis=1), blocks.min(axis=1), blocks[:, -1]])
    return candles(rows.tolist(), symbol=symbol)


# --- what happens to one trade ----------------------------------------------------------------


def test_the_entry_is_the_open_of_the_first_candle_from_the_signal_on() -> None:
    prices = candles([(90.0, 91.0, 89.0, 90.0), CALM, CALM], start=T0 - MINUTE)
    row = one(trade(), prices, slippage=0.001)
    assert row["entry_time"] == T0
    assert row["entry_price"] == pytest.approx(100.0 * 1.001)
    assert one(short(), prices, slippage=0.001)["entry_price"] == pytest.approx(100.0 * 0.999)


def test_a_touched_target_fills_as_a_limit_order_without_slippage() -> None:
    row = one(trade(), candles([CALM, (100.0, 102.5, 99.5, 101.0)]), slippage=0.001)
    assert (row["exit_reason"], row["exit_price"], row["outcome"]) == ("target", 102.0, "win")
    assert row["exit_time"] == T0 + MINUTE
    assert row["gross_return"] == pytest.approx(102.0 / 100.1 - 1)


def test_a_touched_stop_fills_at_the_stop_less_slippage() -> None:
    row = one(trade(), candles([CALM, (100.0, 100.5, 98.5, 99.5)]), slippage=0.001)
    assert (row["exit_reason"], row["outcome"]) == ("stop", "loss")
    assert row["exit_price"] == pytest.approx(99.0 * 0.999)


def test_the_barriers_count_from_the_entry_candle_on() -> None:
    row = one(trade(), candles([(100.0, 102.5, 99.5, 101.0)]))
    assert (row["exit_reason"], row["exit_time"], row["entry_time"]) == ("target", T0, T0)


def test_touching_a_barrier_exactly_is_enough() -> None:
    assert one(trade(), candles([(100.0, 102.0, 99.5, 101.0)]))["exit_reason"] == "target"
    assert one(trade(), candles([(100.0, 100.5, 99.0, 99.5)]))["exit_reason"] == "stop"


def test_the_time_stop_is_the_close_of_the_last_candle_within_the_horizon() -> None:
    rows = [CALM, (100.0, 100.3, 99.9, 100.3), (100.3, 101.9, 100.0, 101.0), (101.0, 105.0, 90.0, 95.0)]
    row = one(trade(horizon_minutes=3), candles(rows))
    assert (row["exit_reason"], row["exit_price"], row["exit_time"]) == ("time", 101.0, T0 + 2 * MINUTE)
    assert row["followed_until"] == T0 + 3 * MINUTE


def test_a_time_stop_whose_last_minute_has_no_candle_is_left_where_the_next_one_opens() -> None:
    prices = candles([CALM, CALM, CALM, (100.2, 100.3, 90.0, 95.0)])
    quiet_end = prices[prices["open_time"] != T0 + 2 * MINUTE]
    assert one(trade(horizon_minutes=3), quiet_end, as_of=T0 + 3 * MINUTE)["outcome"] == "open"
    row = one(trade(horizon_minutes=3), quiet_end, as_of=T0 + 4 * MINUTE)
    assert (row["exit_reason"], row["exit_time"], row["exit_price"]) == ("time", T0 + 3 * MINUTE, 100.2)
    assert row["gap_minutes"] == 1
    worst = -row["mae"] * row["entry_price"]
    assert worst < 1.1  # what came after the open was not held through


@pytest.mark.parametrize(("opened", "reason"), [(60.0, "stop"), (100.1, "time"), (160.0, "target")])
def test_an_outage_over_the_horizons_end_is_held_until_data_return(opened: float, reason: str) -> None:
    before, after = candles([CALM, CALM]), candles([(opened, opened, opened, opened)], start=T0 + 300 * MINUTE)
    row = one(trade(horizon_minutes=240), pd.concat([before, after], ignore_index=True))
    assert (row["exit_reason"], row["exit_price"], row["exit_time"]) == (reason, opened, T0 + 300 * MINUTE)
    assert (row["gap_minutes"], row["holding_minutes"]) == (298, 301)
    if reason != "time":  # where it opened is also the furthest that it went
        reached = row["mae"] if reason == "stop" else row["mfe"]
        assert reached == pytest.approx(opened / row["entry_price"] - 1)


def test_without_a_candle_since_the_signal_nothing_is_entered() -> None:
    row = one(trade(), candles([CALM], start=T0 - MINUTE))
    assert row["outcome"] == "open"
    assert row[["entry_time", "entry_price", "exit_time", "exit_price", "net_return", "pnl_usd", "mfe"]].isna().all()
    assert row["exit_reason"] is None and not row["ambiguous"]
    assert one(trade(symbol="DOGE-USD"), candles([CALM]))["outcome"] == "open"


def test_an_open_trade_has_an_entry_but_no_return() -> None:
    row = one(trade(), candles([CALM, CALM]))
    assert (row["outcome"], row["entry_price"], row["followed_until"]) == ("open", 100.0, T0 + 2 * MINUTE)
    assert row[["exit_time", "exit_price", "gross_return", "net_return", "r_multiple", "pnl_usd"]].isna().all()


@pytest.mark.parametrize(("opened", "reason"), [(98.0, "stop"), (103.0, "target")])
def test_an_entry_that_opens_beyond_a_barrier_is_entered_and_left_at_that_open(opened: float, reason: str) -> None:
    row = one(trade(), candles([(opened, opened + 5, opened - 5, opened)]))
    assert (row["exit_reason"], row["entry_price"], row["exit_price"]) == (reason, opened, opened)
    assert row["gross_return"] == 0.0 and not row["ambiguous"]


def test_returns_follow_their_definitions() -> None:
    rows = [CALM, (100.0, 101.0, 99.5, 100.8), (100.8, 102.5, 100.1, 102.0)]
    row = one(trade(), candles(rows), fees="coinbase-taker", slippage=0.0)
    assert row["gross_return"] == pytest.approx(0.02)
    assert row["fees"] == pytest.approx(0.009 * (1 + 1.02))
    assert row["net_return"] == pytest.approx(row["gross_return"] - row["fees"])
    assert row["r_multiple"] == pytest.approx(row["net_return"] / 0.01)
    assert row["pnl_usd"] == pytest.approx(2.0 * (102.0 - 100.0) - 0.009 * 2.0 * (100.0 + 102.0))
    assert row["mfe"] == pytest.approx(102.5 / 100.0 - 1)
    assert row["mae"] == pytest.approx(99.5 / 100.0 - 1)
    assert row["fee_preset"] == "coinbase-taker"


def test_r_is_measured_in_planned_risk_wherever_the_fill_lands() -> None:
    row = one(trade(), candles([(99.01, 99.2, 98.0, 98.5)]))
    assert row["r_multiple"] == pytest.approx((99.0 / 99.01 - 1) / 0.01)


def test_a_shadow_has_returns_but_no_money() -> None:
    row = one(trade(kind="shadow", quantity=np.nan), candles([(100.0, 102.5, 99.5, 101.0)]))
    assert row["outcome"] == "win" and np.isnan(row["pnl_usd"]) and np.isnan(row["quantity"])


def test_the_frame_has_the_tables_columns_and_the_trades_order() -> None:
    trades = pd.concat([trade(signal_id="b"), short(signal_id="a")])
    frame = run(trades, candles([CALM, CALM]))
    assert tuple(frame.columns) == OUTCOME_COLUMNS
    assert frame["signal_id"].tolist() == ["b", "a"]
    for column in ("as_of", "entry_time", "exit_time", "followed_until"):
        assert str(frame[column].dtype) == "datetime64[us, UTC]"
    assert run(trade().iloc[:0], candles([CALM])).empty


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["HOLD", "hold", "LONG", None])
def test_lesson_07_hold_opens_nothing_and_is_refused(side: str | None) -> None:
    with pytest.raises(ValueError, match="only BUY and SELL"):
        run(trade(side=side), candles([CALM]))


def test_lesson_16_a_broken_plan_cannot_be_followed() -> None:
    broken = pd.concat([trade(), trade(stop_price=101.0), short(target_price=101.0), trade(target_price=np.nan)])
    held = trade(side="HOLD")
    assert can_be_followed(pd.concat([broken, held])).tolist() == [True, False, False, False, False]
    with pytest.raises(ValueError, match="no barriers to follow"):
        run(broken, candles([CALM]))


def test_lesson_04_naive_instants_are_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        run(trade(), candles([CALM]), as_of=datetime(2023, 12, 12))  # noqa: DTZ001
    with pytest.raises(ValueError, match="aware"):
        run(trade(), candles([CALM]).assign(open_time=pd.to_datetime(["2023-12-11 02:00"])))


def test_lesson_02_wrong_input_raises_and_is_never_swallowed() -> None:
    with pytest.raises(ValueError, match="horizon_minutes"):
        run(trade(horizon_minutes=np.nan), candles([CALM]))
    with pytest.raises(ValueError, match="lack the column"):
        run(trade().drop(columns="stop_price"), candles([CALM]))
    with pytest.raises(ValueError, match="repeat a minute"):
        run(trade(), pd.concat([candles([CALM]), candles([CALM])]))
    with pytest.raises(KeyError, match="fee preset"):
        run(trade(), candles([CALM]), fees="free")


# --- the compiled engine and the row-wise one ------------------------------------------------------

ticks = st.integers(95, 105)


@st.composite
def markets(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame, datetime]:
    """A few coarse candles with minutes missing, on whose few prices barriers tie, gap and meet; and trades on them."""
    minutes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=25, unique=True))
    rows = []
    for minute in minutes:
        first, second, high, low = (draw(ticks) for _ in range(4))
        rows.append((minute, first, max(first, second, high), min(first, second, low), second))
    prices = pd.DataFrame(rows, columns=["minute", "open", "high", "low", "close"]).astype("float64")
    symbols = [draw(st.sampled_from(["BTC-USD", "ETH-USD"])) for _ in rows]
    prices = prices.assign(symbol=symbols, open_time=T0 + pd.to_timedelta(prices.pop("minute"), unit="min"))
    book = []
    for place in range(draw(st.integers(1, 4))):
        make, symbol = draw(st.sampled_from([trade, short])), draw(st.sampled_from(["BTC-USD", "ETH-USD", "SOL-USD"]))
        below, above = draw(st.integers(95, 99)), draw(st.integers(101, 105))
        stop, target = (below, above) if make is trade else (above, below)
        when, horizon = T0 + draw(st.integers(-3, 30)) * MINUTE, draw(st.integers(1, 20))
        book.append(
            make(
                signal_id=str(place), symbol=symbol, as_of=when, horizon_minutes=horizon, stop_price=float(stop),
                target_price=float(target),
            )
        )  # fmt: skip
    return pd.concat(book, ignore_index=True), prices, T0 + draw(st.integers(0, 60)) * MINUTE


@settings(max_examples=150, deadline=None)
@given(markets(), st.sampled_from([0.0, 0.001]))
def test_the_compiled_engine_equals_the_row_wise_one(
    market: tuple[pd.DataFrame, pd.DataFrame, datetime], slippage: float
) -> None:
    book, prices, as_of = market
    got = run(book, prices, as_of=as_of, fees="ftmo-crypto", slippage=slippage).to_dict("records")
    expected = follow_row_wise(book, prices, as_of=as_of, fees="ftmo-crypto", slippage=slippage, band=0.1)
    for row, wanted in zip(got, expected, strict=True):
        for name, value in wanted.items():
            if value is None:
                assert pd.isna(row[name]), name
            else:
                assert row[name] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value), name


def test_a_gap_over_an_open_trade_is_held_through_and_counted() -> None:
    prices = candles([CALM, CALM, CALM, CALM, (98.0, 98.5, 97.0, 98.0)])
    gappy = prices.drop(index=[1, 2])
    held = one(trade(), gappy.iloc[:2])
    assert (held["outcome"], held["gap_minutes"]) == ("open", 2) and pd.isna(held["holding_minutes"])
    row = one(trade(), gappy)
    assert (row["exit_reason"], row["exit_price"]) == ("stop", 98.0)  # data return below the stop: at the open
    assert (row["gap_minutes"], row["holding_minutes"]) == (2, 5)
    assert pd.isna(one(trade(), prices, as_of=T0)["gap_minutes"])
    ended = one(trade(horizon_minutes=3), prices.drop(index=[1, 2]))
    assert (ended["exit_reason"], ended["holding_minutes"], ended["gap_minutes"]) == ("time", 4, 2)


def test_a_row_says_which_slippage_it_was_made_with() -> None:
    assert run(trade(), candles([CALM]), slippage=0.0007)["slippage"].tolist() == [0.0007]


# --- lessons about whole books -------------------------------------------------------------------

seeds = st.integers(0, 10_000)


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(0.0005, 0.01), st.floats(0.0005, 0.01), st.sampled_from(["ftmo-crypto", "coinbase-taker"]))
def test_lesson_07_long_and_short_over_one_path_lose_exactly_their_fees(
    seed: int, below: float, above: float, fees: str
) -> None:
    low, high = 100.0 * (1 - below), 100.0 * (1 + above)
    prices = walk(seed, 61)
    long_ = one(trade(stop_price=low, target_price=high), prices, fees=fees)
    short_ = one(short(stop_price=high, target_price=low), prices, fees=fees)
    assume(not long_["ambiguous"])
    assert long_["exit_time"] == short_["exit_time"]
    assert long_["gross_return"] + short_["gross_return"] == pytest.approx(0.0, abs=1e-12)
    assert long_["net_return"] + short_["net_return"] == pytest.approx(-long_["fees"] - short_["fees"], abs=1e-12)
    assert long_["pnl_usd"] + short_["pnl_usd"] < 0


def test_lesson_07_slippage_hurts_both_sides() -> None:
    flat = candles([(100.0, 100.0, 100.0, 100.0)] * 3)
    both = run(pd.concat([trade(horizon_minutes=3), short(horizon_minutes=3)]), flat, slippage=0.001)
    assert both["net_return"].to_numpy() == pytest.approx([0.999 / 1.001 - 1, 1 - 1.001 / 0.999])


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from(["BUY", "SELL"]), st.floats(0.001, 0.004), st.floats(0.001, 0.004))
def test_lesson_08_exits_lie_within_the_exit_candle_or_at_its_open_on_a_gap(
    seed: int, side: str, stop: float, target: float
) -> None:
    d = 1 if side == "BUY" else -1
    gappy = walk(seed, 200)
    gappy = gappy[np.random.default_rng(seed).random(len(gappy)) > 0.5]
    row = one(trade(side=side, stop_price=100 * (1 - d * stop), target_price=100 * (1 + d * target)), gappy)
    assume(row["outcome"] != "open")
    candle = gappy[gappy["open_time"] == row["exit_time"]].iloc[0]
    assert candle["low"] <= row["exit_price"] <= candle["high"]
    barriers = {"stop": 100 * (1 - d * stop), "target": 100 * (1 + d * target), "time": candle["close"]}
    assert row["exit_price"] in (barriers[row["exit_reason"]], candle["open"])


@pytest.mark.parametrize("book", [trade(), short()])
def test_lesson_08_both_barriers_in_one_candle_is_the_stop_marked_ambiguous(book: pd.DataFrame) -> None:
    row = one(book, candles([CALM, (100.0, 103.0, 97.0, 100.0)]), fees="ftmo-crypto")
    assert row["ambiguous"] and row["exit_reason"] == "stop" and row["outcome"] == "loss"
    target = book["target_price"].iloc[0]
    assert row["optimistic_return"] == pytest.approx(0.02 - 0.000325 * (1 + target / 100.0))
    assert row["net_return"] < 0 < row["optimistic_return"]


def test_lesson_08_a_candle_that_opens_beyond_the_stop_is_no_ambiguity() -> None:
    row = one(trade(), candles([CALM, (98.0, 103.0, 97.0, 100.0)]), slippage=0.001)
    assert not row["ambiguous"] and np.isnan(row["optimistic_return"])
    assert row["exit_price"] == pytest.approx(98.0 * 0.999)


def test_lesson_24_a_zero_edge_strategy_loses_exactly_its_costs() -> None:
    prices = walk(3, 600)
    entries = prices.iloc[:500:7]
    book = []
    for row in entries.itertuples():
        p, at = row.open, row.open_time
        book += [
            trade(as_of=at, entry_price=p, stop_price=p * 0.99, target_price=p * 1.01, horizon_minutes=50),
            short(as_of=at, entry_price=p, stop_price=p * 1.01, target_price=p * 0.99, horizon_minutes=50),
        ]
    result = run(pd.concat(book), prices, fees="ftmo-crypto")
    assert not result["ambiguous"].any() and (result["outcome"] != "open").all()
    assert result["net_return"].sum() == pytest.approx(-result["fees"].sum(), abs=1e-10)
    assert result["net_return"].sum() == pytest.approx(-2 * 0.000325 * len(result), rel=0.01)


def _three_symbols() -> tuple[pd.DataFrame, pd.DataFrame]:
    symbols = ("BTC-USD", "ETH-USD", "SOL-USD")
    prices = pd.concat([walk(i, 300, symbol=symbol) for i, symbol in enumerate(symbols)], ignore_index=True)
    book = [
        make(signal_id=f"{symbol}-{minute}-{make.__name__}", symbol=symbol, as_of=T0 + minute * MINUTE)
        for symbol in symbols
        for minute in range(0, 200, 10)
        for make in (trade, short)
    ]
    return pd.concat(book, ignore_index=True), prices


def test_lesson_24_symbols_alone_equal_symbols_together() -> None:
    book, prices = _three_symbols()
    together = run(book, prices, fees="ftmo-crypto", slippage=1e-4)
    for symbol, alone in book.groupby("symbol"):
        expected = together[together["symbol"] == symbol].reset_index(drop=True)
        got = run(alone, prices[prices["symbol"] == symbol], fees="ftmo-crypto", slippage=1e-4)
        pd.testing.assert_frame_equal(got, expected)


@pytest.mark.parametrize("minutes", [5, 37, 120, 299])
def test_lesson_24_truncating_the_future_changes_nothing(minutes: int) -> None:
    book, prices = _three_symbols()
    book = book[book["as_of"] <= T0 + minutes * MINUTE]
    now = T0 + minutes * MINUTE
    seen = run(book, prices, as_of=now)
    cut = run(book, prices[prices["open_time"] + MINUTE <= now], as_of=now)
    pd.testing.assert_frame_equal(seen, cut)
    later = run(book, prices)
    closed = seen["outcome"] != "open"
    assert closed.any() or minutes == 5
    pd.testing.assert_frame_equal(seen[closed], later[closed])


def test_the_forming_candle_is_not_looked_at() -> None:
    prices = candles([CALM, (100.0, 102.5, 99.5, 101.0)])
    assert one(trade(), prices, as_of=T0 + 2 * MINUTE - timedelta(seconds=1))["outcome"] == "open"
    assert one(trade(), prices, as_of=T0 + 2 * MINUTE)["outcome"] == "win"


def test_the_order_of_rows_does_not_matter() -> None:
    book, prices = _three_symbols()
    shuffled = run(book.sample(frac=1, random_state=1), prices.sample(frac=1, random_state=2))
    straight = run(book, prices)
    by_id = [frame.sort_values("signal_id", ignore_index=True) for frame in (shuffled, straight)]
    pd.testing.assert_frame_equal(*by_id)


def test_lesson_28_a_gross_gain_that_the_fees_eat_is_no_win() -> None:
    rows = [(100.0, 100.6, 99.9, 100.5)]
    gross = one(trade(horizon_minutes=1), candles(rows), fees="none")
    net = one(trade(horizon_minutes=1), candles(rows), fees="coinbase-taker")
    assert gross["outcome"] == "win"
    assert net["gross_return"] > 0 and net["outcome"] == "loss"


@pytest.mark.parametrize(
    ("close", "outcome"), [(100.09, "breakeven"), (100.11, "win"), (99.91, "breakeven"), (99.89, "loss")]
)
def test_lesson_28_breakeven_is_the_stated_band_in_r(close: float, outcome: str) -> None:
    row = one(trade(horizon_minutes=1), candles([(100.0, 100.2, 99.8, close)]), band=0.1)
    assert row["outcome"] == outcome


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(0.001, 0.01), st.floats(0.001, 0.01))
def test_mirrored_paths_mirror_outcomes(seed: int, below: float, above: float) -> None:
    prices = walk(seed, 61)
    mirrored = prices.assign(
        open=200 - prices["open"], high=200 - prices["low"], low=200 - prices["high"], close=200 - prices["close"]
    )
    long_ = one(trade(stop_price=100 - below * 100, target_price=100 + above * 100), prices)
    short_ = one(short(stop_price=100 + below * 100, target_price=100 - above * 100), mirrored)
    for column in ("exit_reason", "ambiguous", "entry_time", "exit_time", "outcome"):
        assert long_[column] == short_[column] or pd.isna(long_[column])
    for column in ("gross_return", "net_return", "r_multiple", "mfe", "mae"):
        assert long_[column] == pytest.approx(short_[column], abs=1e-9, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from(["BUY", "SELL"]))
def test_vectorised_windows_equal_a_walk_candle_by_candle(seed: int, side: str) -> None:
    d = 1 if side == "BUY" else -1
    prices = walk(seed, 90)
    prices = prices[np.random.default_rng(seed).random(90) > 0.2]
    row = one(trade(side=side, stop_price=100 - d * 0.6, target_price=100 + d * 0.8), prices)
    expected: tuple[str | None, float] = (None, np.nan)
    entered, last = prices["open_time"].iloc[0], np.nan
    before = entered
    for c in prices.itertuples():
        if c.open_time >= entered + timedelta(minutes=60):
            # left at the close of its last minute, or where that has no candle at the next open
            late = before < entered + timedelta(minutes=59)
            beyond_stop, beyond_target = d * (c.open - 100 + d * 0.6) <= 0, d * (c.open - 100 - d * 0.8) >= 0
            opened = "stop" if beyond_stop else "target" if beyond_target else "time"
            expected = (opened, c.open) if late else ("time", last)
            break
        before = c.open_time
        adverse, favourable = (c.low, c.high) if d > 0 else (c.high, c.low)
        for price in (c.open, adverse, favourable):
            if d * (price - (100 - d * 0.6)) <= 0:
                expected = ("stop", c.open if price == c.open else 100 - d * 0.6)
            elif d * (price - (100 + d * 0.8)) >= 0:
                expected = ("target", c.open if price == c.open else 100 + d * 0.8)
            else:
                continue
            break
        if expected[0]:
            break
        last = c.close
    assert row["exit_reason"] == expected[0]
    assert row["exit_price"] == pytest.approx(expected[1], nan_ok=True)


def test_a_days_signals_are_followed_in_under_a_second() -> None:
    symbols = ("BTC-USD", "ETH-USD", "SOL-USD")
    prices = pd.concat([walk(i, 1700, symbol=symbol) for i, symbol in enumerate(symbols)], ignore_index=True)
    book = pd.concat([trade()] * 2160, ignore_index=True).assign(
        symbol=[symbols[i % 3] for i in range(2160)],
        as_of=[T0 + 2 * (i // 3) * MINUTE for i in range(2160)],
        horizon_minutes=240,
        stop_price=50.0,
        target_price=200.0,
    )
    began = time.perf_counter()
    result = run(book, prices)
    assert time.perf_counter() - began < 1.0
    assert (result["exit_reason"] == "time").all()


def test_real_flash_crash_stops_a_long_inside_the_crash_candle() -> None:
    raw = pd.read_parquet(needs_shared("candles/BTC-USD_1m.parquet")).rename(columns={"ts": "open_time"})
    prices = raw.assign(symbol="BTC-USD").drop_duplicates("open_time")
    crash = pd.Timestamp("2023-12-11T02:12:00Z")
    near = prices[prices["open_time"].between(crash - pd.Timedelta(minutes=10), crash + pd.Timedelta(hours=5))]
    price = float(near.loc[near["open_time"] == crash - pd.Timedelta(minutes=2), "open"].iloc[0])
    book = trade(
        as_of=crash - pd.Timedelta(minutes=2), entry_price=price, stop_price=price * 0.985, target_price=price * 1.03
    )
    row = one(book, near, as_of=crash + pd.Timedelta(hours=5), fees="ftmo-crypto", slippage=1e-4)
    candle = near[near["open_time"] == row["exit_time"]].iloc[0]
    assert row["exit_reason"] == "stop" and row["outcome"] == "loss"
    assert candle["low"] <= row["exit_price"] / (1 - 1e-4) * (1 + 1e-12) <= candle["high"] * (1 + 1e-12)
    assert row["r_multiple"] < -1
