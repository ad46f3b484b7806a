"""The dense grid: quiet minutes, gaps, causality, and its speed."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.market.grid import GRID_COLUMNS, dense_grid, observed_share
from v7_pipeline_tests.market.conftest import MINUTE, T0, candle_frame
from v7_pipeline_tests.shared_data import needs_shared

PRICES = ["open", "high", "low", "close"]


def at(*minutes: int) -> pd.DataFrame:
    return candle_frame([T0 + i * MINUTE for i in minutes])


def test_a_quiet_minute_repeats_the_last_close_without_volume() -> None:
    candles = at(0, 1, 4)
    grid = dense_grid(candles)
    assert list(grid.columns) == list(GRID_COLUMNS)
    assert str(grid["open_time"].dtype) == "datetime64[us, UTC]"
    assert list(grid["open_time"]) == [T0 + i * MINUTE for i in range(5)]
    assert list(grid["observed"]) == [True, True, False, False, True]
    assert (grid.loc[2:3, PRICES] == candles.loc[1, "close"]).all(axis=None)
    assert (grid.loc[2:3, "volume"] == 0).all()
    observed = grid.loc[grid["observed"], [*PRICES, "volume"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(observed, candles[[*PRICES, "volume"]])
    assert (grid["run"] == 0).all()


def test_a_gap_of_exactly_the_limit_is_quiet_and_one_longer_breaks() -> None:
    whole = dense_grid(at(0, 16), gap_minutes=15)
    assert (whole["run"] == 0).all() and whole["close"].notna().all()
    broken = dense_grid(at(0, 17), gap_minutes=15)
    assert list(broken["run"]) == [0] * 16 + [-1] + [1]
    assert broken.loc[16, [*PRICES, "volume"]].isna().all()
    assert list(broken["observed"]) == [True] + [False] * 16 + [True]


def test_a_given_span_is_filled_and_what_precedes_the_first_candle_is_missing() -> None:
    grid = dense_grid(at(2), start=T0, end=T0 + 5 * MINUTE, gap_minutes=1)
    assert list(grid["run"]) == [-1, -1, 0, 0, -1]
    assert grid["close"].isna().tolist() == [True, True, False, False, True]


def test_candles_before_the_start_give_the_close_that_quiet_minutes_repeat() -> None:
    candles = at(0, 1, 5)
    cut = dense_grid(candles, start=T0 + 3 * MINUTE)
    full = dense_grid(candles).iloc[3:].reset_index(drop=True)
    pd.testing.assert_frame_equal(cut, full)


def test_no_candles_give_an_empty_grid_or_a_missing_span() -> None:
    empty = at(0).iloc[:0]
    assert dense_grid(empty).empty and list(dense_grid(empty).columns) == list(GRID_COLUMNS)
    assert len(observed_share(dense_grid(empty), 5)) == 0
    missing = dense_grid(empty, start=T0, end=T0 + 3 * MINUTE)
    assert (missing["run"] == -1).all() and missing["close"].isna().all() and not missing["observed"].any()


def test_unclean_candles_are_refused() -> None:
    with pytest.raises(ValueError, match="two candles at 2023-12-11T02:01:00Z"):
        dense_grid(at(0, 1, 1))
    with pytest.raises(ValueError, match="off the minute"):
        dense_grid(candle_frame([T0 + timedelta(seconds=30)]))
    with pytest.raises(ValueError, match="no time zone"):
        dense_grid(at(0), end=datetime(2023, 12, 12))  # noqa: DTZ001


@pytest.mark.parametrize("symbol", ["BTC", "ETH", "SOL"])
def test_the_recorded_outage_breaks_the_grid_while_its_quiet_minutes_do_not(symbol: str) -> None:
    raw = pd.read_parquet(needs_shared(f"candles/{symbol}-USDT_1m_outage_2023-03-24.parquet"))
    grid = dense_grid(raw.rename(columns={"ts": "open_time"})).set_index("open_time")
    first, back = datetime(2023, 3, 24, 12, 40, tzinfo=UTC), datetime(2023, 3, 24, 14, 0, tzinfo=UTC)
    assert list(grid.index[~grid["observed"]]) == [first + i * MINUTE for i in range(80)]
    missing = grid.index[grid["run"] == -1]
    assert missing[0] == first + 15 * MINUTE and missing[-1] == back - MINUTE and len(missing) == 65
    assert grid.loc[: first - MINUTE, "run"].eq(0).all() and grid.loc[back:, "run"].eq(1).all()
    # Minutes that were recorded with no volume are observed: the exchange said that nothing was traded.
    assert (raw["volume"] == 0).sum() == ((grid["volume"] == 0) & grid["observed"]).sum() == 72


def test_two_minutes_without_a_trade_in_six_weeks_do_not_break_the_grid() -> None:
    raw = pd.read_parquet(needs_shared("candles/SOL-USD_1m.parquet")).rename(columns={"ts": "open_time"})
    grid = dense_grid(raw.sort_values("volume").drop_duplicates("open_time", keep="last"))
    assert (~grid["observed"]).sum() == 2 and (grid["run"] == 0).all()


minutes = st.sets(st.integers(0, 120), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(minutes=minutes, gap=st.integers(1, 20), window=st.integers(1, 40), data=st.data())
def test_a_row_depends_on_candles_up_to_its_minute_only(
    minutes: set[int], gap: int, window: int, data: st.DataObject
) -> None:
    candles = at(*sorted(minutes))
    end = T0 + 121 * MINUTE
    grid = dense_grid(candles, end=end, gap_minutes=gap)
    cut = data.draw(st.integers(1, len(grid)))
    known = candles[candles["open_time"] <= grid["open_time"][cut - 1]]
    then = dense_grid(known, end=grid["open_time"][cut - 1] + MINUTE, gap_minutes=gap)
    pd.testing.assert_frame_equal(then, grid.iloc[:cut])
    np.testing.assert_array_equal(observed_share(then, window), observed_share(grid, window)[:cut])


@settings(max_examples=80, deadline=None)
@given(minutes=minutes, gap=st.integers(1, 20), window=st.integers(1, 40))
def test_every_minute_is_as_the_definition_says(minutes: set[int], gap: int, window: int) -> None:
    candles = at(*sorted(minutes)).sample(frac=1, random_state=1)
    closes = dict(zip(candles["open_time"], candles["close"], strict=True))
    grid = dense_grid(candles, start=T0, end=T0 + 125 * MINUTE, gap_minutes=gap)
    share, run = observed_share(grid, window), grid["run"].to_numpy()
    assert len(grid) == 125
    for i in range(125):
        last = max((m for m in minutes if m <= i), default=None)
        assert grid["observed"][i] == (i in minutes)
        if last is None or i - last > gap:
            assert run[i] == -1 and np.isnan(grid["close"][i]) and np.isnan(grid["volume"][i])
        else:
            assert run[i] >= 0 and grid["close"][i] == closes[T0 + last * MINUTE]
        assert share[i] == len([m for m in minutes if i - window < m <= i]) / window
        if i >= window - 1:
            whole = (run[i - window + 1 : i + 1] >= 0).all()
            assert whole == (run[i - window + 1] == run[i] >= 0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_lesson_13_the_grid_has_no_scale_of_its_own(scale: float) -> None:
    candles = at(0, 3, 40)
    scaled = candles.assign(**{name: candles[name] * scale for name in PRICES})
    expected = dense_grid(candles)
    np.testing.assert_array_equal(dense_grid(scaled)[PRICES].to_numpy(), expected[PRICES].to_numpy() * scale)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one minute"):
        observed_share(dense_grid(at(0)), 0)


def test_a_year_of_three_symbols_takes_less_than_a_second() -> None:
    n = 525_600
    rng = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, n)))
    candles = pd.DataFrame(
        {
            "open_time": pd.date_range(T0, periods=n, freq="min", unit="us"),
            **dict.fromkeys(PRICES, close),
            "volume": 1.0,
        }
    )[rng.random(n) > 0.02]

    def three_symbols() -> float:
        began = time.process_time()
        for _ in range(3):
            observed_share(dense_grid(candles), 240)
        return time.process_time() - began

    assert min(three_symbols() for _ in range(3)) < 1.0
