"""The simulated market: pure, bit for bit the same everywhere, and shaped like a market."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.sandbox import simulator
from v7_pipeline.sandbox.simulator import Simulated, product, simulate

START = datetime(2026, 2, 27, tzinfo=UTC)
DAYS = 12
MAJORS = ("BTC-USD", "ETH-USD", "SOL-USD")
VALUES = ["open", "high", "low", "close", "volume"]


@lru_cache(maxsize=8)
def big(symbol: str) -> pd.DataFrame:
    return simulate(7, symbol, START, START + timedelta(days=DAYS))


def fingerprint(frame: pd.DataFrame) -> str:
    times = frame["open_time"].dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype("<i8")
    return hashlib.sha256(times.tobytes() + frame[VALUES].to_numpy().astype("<f8").tobytes()).hexdigest()


def returns(symbol: str) -> pd.Series:
    return np.log(big(symbol)["close"]).diff().dropna()


# --- purity ---------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    symbol=st.sampled_from(MAJORS),
    windows=st.lists(st.tuples(st.integers(0, DAYS * 1440), st.integers(0, 2000)), min_size=1, max_size=4),
)
def test_any_windows_in_any_order_equal_slices_of_the_whole(symbol: str, windows: list[tuple[int, int]]) -> None:
    whole = big(symbol)
    simulator._day.cache_clear()
    for first, length in windows:
        start = START + timedelta(minutes=first)
        end = min(start + timedelta(minutes=length), START + timedelta(days=DAYS))
        part = whole[(whole["open_time"] >= start) & (whole["open_time"] < end)].reset_index(drop=True)
        pd.testing.assert_frame_equal(simulate(7, symbol, start, end), part, check_exact=True)


def test_another_process_zone_hash_seed_and_processor_give_the_same_bits() -> None:
    """Without the processor's vector extensions numpy takes other code, in which exp or sums would end differently."""
    code = (
        "import hashlib; from datetime import UTC, datetime\n"
        "from v7_pipeline.sandbox.simulator import simulate\n"
        "frame = simulate(7, 'ETH-USD', datetime(2026, 2, 27, 20, tzinfo=UTC), datetime(2026, 3, 5, 6, tzinfo=UTC))\n"
        f"print(hashlib.sha256(frame[{VALUES}].to_numpy().tobytes()).hexdigest())"
    )
    here = simulate(7, "ETH-USD", START + timedelta(hours=20), START + timedelta(days=6, hours=6))
    extensions = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    environment = {
        **os.environ,
        "TZ": "Asia/Kolkata",
        "PYTHONHASHSEED": "99",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "NPY_DISABLE_CPU_FEATURES": ",".join(extensions),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(here[VALUES].to_numpy().tobytes()).hexdigest()


def test_the_model_is_pinned_bit_for_bit() -> None:
    """Were this to change, demo stores would hold candles that no sandbox serves any more: change _VERSION with it."""
    frame = simulate(7, "BTC-USD", datetime(2026, 3, 3, 23, tzinfo=UTC), datetime(2026, 3, 4, 1, tzinfo=UTC))
    assert fingerprint(frame) == PINNED


PINNED = "260830c9f2f7f2feb46a7cedd3f7fa91131c71f9b0fbef143c878b96529e44e6"


def test_exp_is_within_two_units_of_the_last_place() -> None:
    x = np.linspace(-30, 30, 200_001)
    assert np.all(np.abs(simulator._exp(x) - np.exp(x)) <= 2 * np.spacing(np.exp(x)))


def test_before_1970_and_far_ahead_there_are_prices_too() -> None:
    for year in (1965, 2090):
        frame = simulate(
            7, "BTC-USD", datetime(year, 1, 1, 23, 30, tzinfo=UTC), datetime(year, 1, 2, 0, 30, tzinfo=UTC)
        )
        assert len(frame) > 50


def test_seeds_and_products_differ() -> None:
    end = START + timedelta(hours=2)
    prints = {
        fingerprint(simulate(seed, symbol, START, end))
        for seed in (7, 8)
        for symbol in ("BTC-USD", "BTC-EUR", "XYZ-USD")
    }
    assert len(prints) == 6


def test_instants_inside_a_minute_mean_the_next_whole_one() -> None:
    frame = simulate(7, "BTC-USD", START + timedelta(seconds=1), START + timedelta(minutes=3, seconds=1))
    assert frame["open_time"].iloc[0] == START + timedelta(minutes=1)
    assert frame["open_time"].iloc[-1] == START + timedelta(minutes=3)


def test_lesson_04_naive_instants_are_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        simulate(7, "BTC-USD", START.replace(tzinfo=None), START)
    with pytest.raises(ValueError, match="is before start"):
        simulate(7, "BTC-USD", START, START - timedelta(minutes=1))


def test_frame_has_the_promised_columns_and_types_even_when_empty() -> None:
    for frame in (simulate(7, "BTC-USD", START, START), simulate(7, "BTC-USD", START, START + timedelta(hours=1))):
        assert list(frame.columns) == ["open_time", *VALUES]
        assert str(frame["open_time"].dtype) == "datetime64[us, UTC]"
        assert all(frame[name].dtype == np.float64 for name in VALUES)


# --- a market's shape -----------------------------------------------------------------------


@pytest.mark.parametrize("symbol", MAJORS)
def test_one_minute_returns_have_a_real_markets_moments(symbol: str) -> None:
    r = returns(symbol)
    assert 3e-4 < r.std() < 1.2e-3
    assert r.kurt() + 3 > 4
    magnitude = r.abs()
    assert min(magnitude.autocorr(lag) for lag in (1, 2, 5, 10, 20, 30)) > 0.05


@pytest.mark.parametrize("symbol", MAJORS)
def test_returns_are_nearly_unpredictable_inside_hours(symbol: str) -> None:
    r = returns(symbol)
    # ±4 standard errors, which heavy tails with clustering widen to about three times 1/√n.
    assert max(abs(r.autocorr(lag)) for lag in range(1, 11)) < 4 * 3 / np.sqrt(len(r))
    ratios = [np.log(big(symbol)["close"]).diff(k).var() / (k * r.var()) for k in (5, 15, 60)]
    assert all(0.8 < ratio < 1.25 for ratio in ratios)


def test_volatility_has_an_hour_of_day_season() -> None:
    frame = simulate(7, "BTC-USD", START, START + timedelta(days=40))
    by_hour = np.log(frame["high"] / frame["low"]).groupby(frame["open_time"].dt.hour).median()
    assert by_hour[[13, 14, 15]].mean() > 1.3 * by_hour[[3, 4, 5]].mean()


def test_quiet_minutes_are_few_for_btc_and_more_for_sol() -> None:
    missing = {symbol: 1 - len(big(symbol)) / (DAYS * 1440) for symbol in MAJORS}
    assert 0 < missing["BTC-USD"] < missing["ETH-USD"] < missing["SOL-USD"] < 0.08


def test_jumps_occur_but_rarely() -> None:
    r = returns("BTC-USD")
    large = (r.abs() > 7 * r.std()).mean()
    assert 0 < large < 0.005


def test_regimes_last_hours_and_include_trends_and_turbulence() -> None:
    factor, drift = zip(*(simulator._regimes(7, "BTC-USD", day) for day in range(20_000, 20_060)), strict=True)
    states = np.concatenate([f * 10 + d for f, d in zip(factor, drift, strict=True)])
    lengths = np.diff(np.flatnonzero(np.diff(states)), prepend=0)
    assert 100 < lengths.mean() < 400
    assert (np.concatenate(drift) > 0).any() and (np.concatenate(drift) < 0).any()
    assert set(np.concatenate(factor)) == {0.75, 1.0, 1.5}


def test_products_move_together_but_not_as_one() -> None:
    joined = pd.concat([np.log(big(s).set_index("open_time")["close"]).diff() for s in MAJORS[:2]], axis=1).dropna()
    assert 0.3 < joined.corr().iloc[0, 1] < 0.9


@pytest.mark.parametrize("symbol", [*MAJORS, "XRP-USD", "DOGE-USD", "QQQ7-USD", "ABC-EUR"])
def test_candles_are_consistent_and_on_the_quote_increment(symbol: str) -> None:
    frame = simulate(7, symbol, START, START + timedelta(days=2))
    assert frame["open_time"].is_monotonic_increasing and frame["open_time"].is_unique
    assert (frame["low"] <= frame[["open", "close"]].min(axis=1)).all()
    assert (frame["high"] >= frame[["open", "close"]].max(axis=1)).all()
    assert (frame[VALUES] > 0).all(axis=None) and np.isfinite(frame[VALUES]).all(axis=None)
    prices = frame[["open", "high", "low", "close"]].to_numpy()
    assert np.array_equal(np.round(prices, product(symbol).decimals), prices)
    assert (
        frame["close"].nunique() > 100
    )  # the increment is fine enough for the price (a coin of $0.15 has five decimals)


def test_prices_are_continuous_across_midnight() -> None:
    whole = big("BTC-USD")
    gaps = np.log(whole["open"] / whole["close"].shift())
    at_midnight = gaps[whole["open_time"].dt.strftime("%H:%M") == "00:00"].dropna()
    assert len(at_midnight) >= DAYS - 2
    assert at_midnight.abs().max() < 6 * gaps.std()


@pytest.mark.parametrize(("symbol", "level"), [("BTC-USD", 90_000), ("ETH-USD", 3_000), ("SOL-USD", 150)])
def test_prices_stay_within_a_sane_band_for_ten_years(symbol: str, level: float) -> None:
    sigma = product(symbol).sigma
    levels = np.exp([simulator._levels(7, symbol, sigma, day)[0] for day in range(18_000, 18_000 + 3_650, 9)])
    assert 0.4 < levels.min() < 0.9 and 1.1 < levels.max() < 2.5


def test_daily_moves_match_the_minutes_volatility() -> None:
    """Otherwise the bridge that ties a day's ends would show as reversion or trend."""
    levels = np.array(
        [simulator._levels(7, "BTC-USD", product("BTC-USD").sigma, day)[0] for day in range(20_000, 20_700)]
    )
    frames = [
        simulate(7, "BTC-USD", START + timedelta(days=d), START + timedelta(days=d + 1)) for d in range(0, 120, 6)
    ]
    inside = np.mean([np.log(f["close"]).diff().var() * 1440 for f in frames])
    assert 0.6 < np.diff(levels).var() / inside < 1.6


# --- products -------------------------------------------------------------------------------


def test_well_formed_unknown_coins_have_a_price_and_others_do_not_exist() -> None:
    market = Simulated(7)
    assert market.knows("WHATEVER-USD") and 0.01 <= product("WHATEVER-USD").level <= 1000
    assert not any(market.knows(name) for name in ("NOPE-USD", "BTCUSD", "btc-usd", "", "BTC-", "../x-USD"))
    with pytest.raises(ValueError, match="BASE-QUOTE"):
        simulate(7, "BTCUSD", START, START + timedelta(minutes=1))


def test_twelve_days_of_three_symbols_take_under_two_seconds_and_a_page_under_ten_milliseconds() -> None:
    simulator._day.cache_clear()
    begun = time.perf_counter()
    for symbol in MAJORS:
        simulate(11, symbol, START, START + timedelta(days=12))
    assert time.perf_counter() - begun < 2
    pages = []
    for hour in range(0, 100, 5):
        begun = time.perf_counter()
        simulate(11, "BTC-USD", START + timedelta(hours=hour), START + timedelta(hours=hour + 5))
        pages.append(time.perf_counter() - begun)
    assert np.median(pages) < 0.01
