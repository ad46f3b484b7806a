"""The indicators: published values, the same bits whichever span is asked for, and nothing from the future."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.indicators import COLUMNS, FEATURES, WARM_UP, indicators
from v7_pipeline.indicators.technical import _technical

DAY = datetime(2023, 12, 11, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def made(minutes: int, *, seed: int = 3, start: datetime = DAY - timedelta(days=2)) -> pd.DataFrame:
    """A random walk of one-minute candles."""
    rng = np.random.default_rng(seed)
    close = 40_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, minutes)))
    open_ = np.concatenate(([40_000.0], close[:-1]))
    spread = 1 + np.abs(rng.normal(0, 2e-4, minutes))
    return pd.DataFrame(
        {
            "open_time": pd.date_range(start, periods=minutes, freq="min"),
            "open": open_,
            "high": np.maximum(open_, close) * spread,
            "low": np.minimum(open_, close) / spread,
            "close": close,
            "volume": 1.0,
        }
    )


CANDLES = made(3 * 1440)


def of(close: list[float], high: list[float] | None = None, low: list[float] | None = None) -> dict[str, np.ndarray]:
    values = {"close": close, "high": high or close, "low": low or close}
    return _technical({name: np.array(prices, dtype=float) for name, prices in values.items()})


# StockCharts' ChartSchool, "Relative Strength Index", the spreadsheet's closes and its column "14-day RSI".
RSI_CLOSES = [
    44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931, 46.0328,
    45.6140, 46.2820, 46.2820, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521, 45.7137, 46.4515,
    45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314,
]  # fmt: skip
RSI = [
    70.53, 66.32, 66.55, 69.41, 66.36, 57.97, 62.93, 63.26, 56.06, 62.38, 54.71, 50.42, 39.99, 41.46, 41.87, 45.46,
    37.30, 33.08, 37.77,
]  # fmt: skip


def test_rsi_is_the_published_one() -> None:
    # The 14-day averages there are of gains and losses rounded to cents.
    assert np.allclose(of(RSI_CLOSES)["rsi_14"][14:], RSI, atol=0.06)


def test_an_average_begins_with_the_mean_and_takes_two_over_n_plus_one_of_each_close() -> None:
    closes = [22.27, 22.19, 22.08, 22.17, 22.18, 22.13, 22.23, 22.43, 22.24, 22.29, 22.15, 22.39]
    ema = of(closes)["ema_9"]
    assert np.isnan(ema[:8]).all() and ema[8] == pytest.approx(np.mean(closes[:9]))
    assert ema[9] == pytest.approx(ema[8] + 0.2 * (22.29 - ema[8]))


def test_the_average_true_range_is_wilders() -> None:
    highs = [10.0 + (k % 3) for k in range(30)]
    lows = [9.0 - (k % 2) for k in range(30)]
    closes = [9.5 + 0.1 * (k % 5) for k in range(30)]
    true = [max(h, c) - min(low, c) for h, low, c in zip(highs[1:], lows[1:], closes[:-1], strict=True)]
    atr = of(closes, highs, lows)["atr_14"]
    expected = np.mean(true[:14])
    assert atr[14] == pytest.approx(expected)
    assert atr[15] == pytest.approx((13 * expected + true[14]) / 14)


def test_bollingers_band_is_two_population_deviations_wide() -> None:
    closes = list(100 + np.random.default_rng(1).normal(size=25))
    found = of(closes)
    assert found["bollinger_middle"][-1] == pytest.approx(np.mean(closes[-20:]))
    assert found["bollinger_width"][-1] == pytest.approx(2 * np.std(closes[-20:]), rel=1e-6)


def test_an_instant_has_the_same_bits_alone_and_in_a_span() -> None:
    whole = indicators(CANDLES, start=DAY - timedelta(days=1), end=DAY + timedelta(days=1)).set_index("as_of")
    assert len(whole) == 2 * 1440 and whole.loc[DAY, list(COLUMNS)].notna().all()
    for minutes in (1, 2, 3, 777, 1440):
        at = DAY + minutes * MINUTE
        known = CANDLES[CANDLES["open_time"] < at]
        known = known[known["open_time"] >= (at - MINUTE).replace(hour=0, minute=0) - timedelta(days=1)]
        alone = indicators(known, start=at - MINUTE, end=at).set_index("as_of")
        assert list(alone.index) == [at]
        pd.testing.assert_frame_equal(alone, whole.loc[[at]], check_exact=True)


def test_what_comes_later_changes_nothing() -> None:
    cut = DAY + 600 * MINUTE
    before = indicators(CANDLES, start=DAY, end=cut)
    garbled = CANDLES.copy()
    garbled.loc[garbled["open_time"] >= cut, ["open", "high", "low", "close"]] *= 3.0
    after = indicators(garbled, start=DAY, end=cut)
    pd.testing.assert_frame_equal(before, after, check_exact=True)


def test_five_minute_values_are_of_closed_candles_on_the_clock() -> None:
    found = indicators(CANDLES, start=DAY, end=DAY + 20 * MINUTE).set_index("as_of")["ema_9_5m"]
    steps = found.groupby(found.index.floor("5min")).nunique()
    assert (steps == 1).all() and found.nunique() == len(steps)


def test_after_a_gap_values_wait_until_they_are_worth_something() -> None:
    gap = DAY + 100 * MINUTE
    torn = CANDLES[(CANDLES["open_time"] < gap) | (CANDLES["open_time"] >= gap + 60 * MINUTE)]
    found = indicators(torn, start=DAY, end=DAY + timedelta(days=1)).set_index("as_of")
    assert found.loc[:gap, list(FEATURES)].notna().all(axis=None)
    again = gap + (60 + WARM_UP) * MINUTE
    assert found.loc[gap + 16 * MINUTE : again, list(FEATURES)].isna().all(axis=None)
    assert found.loc[again + MINUTE :, list(FEATURES)].notna().all(axis=None)


def test_where_nothing_moves_ratios_are_missing_and_not_zero() -> None:
    flat = CANDLES.assign(open=100.0, high=100.0, low=100.0, close=100.0)
    found = indicators(flat, start=DAY, end=DAY + 5 * MINUTE)
    missing = [name for name in FEATURES if not name.startswith("range")]
    assert found[missing].isna().all(axis=None) and (found["ema_9_1m"] == 100.0).all()


def test_naive_instants_are_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        indicators(CANDLES, start=DAY.replace(tzinfo=None), end=DAY)
