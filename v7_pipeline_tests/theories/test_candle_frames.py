"""compute_features takes candles as people have them: long, wide, or already a dense grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.market.grid import dense_grid
from v7_pipeline.theories import compute_features
from v7_pipeline.theories.frames import as_grid

N = 900
FIELDS = ["open", "high", "low", "close", "volume"]


def candles(seed: int = 5) -> pd.DataFrame:
    """Two symbols' candles; of the second every tenth minute and one stretch of 25 minutes have none."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2024-03-31", periods=N, freq="min", tz="UTC").as_unit("us")
    parts = []
    for symbol, price in (("BTC-USD", 40_000.0), ("SOL-USD", 100.0)):
        close = price * np.exp(4e-4 * np.cumsum(rng.standard_normal(N)))
        frame = pd.DataFrame({"symbol": symbol, "open_time": times, "close": close, "volume": 1.0})
        frame = frame.assign(open=close, high=close * 1.0001, low=close * 0.9999)
        parts.append(frame)
    quiet = (np.arange(N) % 10 == 3) | ((np.arange(N) >= 300) & (np.arange(N) < 325))
    parts[1] = parts[1][~quiet]
    return pd.concat(parts, ignore_index=True)[["symbol", "open_time", *FIELDS]]


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_long_candles_in_any_order_give_what_their_grids_give() -> None:
    rows = candles()
    grids = [dense_grid(part).assign(symbol=symbol) for symbol, part in rows.groupby("symbol")]
    expected = compute_features(pd.concat(grids, ignore_index=True))
    assert len(expected) == 2 * N - 10  # of the 25 minutes the first 15 are quiet, the others missing
    same(compute_features(rows), expected)
    same(compute_features(rows.sample(frac=1, random_state=3)), expected)


@pytest.mark.parametrize("fields_first", [True, False])
def test_wide_candles_with_fields_or_symbols_first_give_what_long_ones_give(fields_first: bool) -> None:
    rows = candles()
    wide = rows.pivot(index="open_time", columns="symbol", values=FIELDS)
    if not fields_first:
        wide = wide.swaplevel(axis=1).sort_index(axis=1)
    assert wide.columns.nlevels == 2
    same(compute_features(wide), compute_features(rows))


def test_a_longer_gap_breaks_the_window_where_the_setting_says_so() -> None:
    rows = candles()
    broken, whole = compute_features(rows), compute_features(rows, gap_minutes=60)

    def momentum(features: pd.DataFrame) -> float:
        at = (features["symbol"] == "SOL-USD") & (features["as_of"] == pd.Timestamp("2024-03-31T07:20", tz="UTC"))
        return float(features.loc[at, "momentum_120"].item())

    assert np.isnan(momentum(broken))
    assert np.isfinite(momentum(whole))


def test_a_grid_is_taken_as_it_is() -> None:
    grid = as_grid(candles(), gap_minutes=15)
    assert as_grid(grid, gap_minutes=1) is grid


def test_no_candles_give_no_rows_and_all_columns() -> None:
    empty = compute_features(candles().iloc[:0])
    assert empty.empty
    assert list(empty.columns) == list(compute_features(candles()).columns)


def test_bad_candles_are_refused_with_the_symbol_and_the_remedy() -> None:
    rows = candles()
    with pytest.raises(ValueError, match="the candles lack volume; give one row a candle"):
        compute_features(rows.drop(columns="volume"))
    twice = pd.concat([rows, rows[rows["symbol"] == "SOL-USD"].iloc[:1]])
    with pytest.raises(ValueError, match=r"SOL-USD: two candles at 2024-03-31T00:00:00Z"):
        compute_features(twice)
    with pytest.raises(ValueError, match="BTC-USD: open_time has no time zone"):
        compute_features(rows.assign(open_time=rows["open_time"].dt.tz_localize(None)))
    wide = rows.pivot(index="open_time", columns="symbol", values=["open", "close"])
    with pytest.raises(ValueError, match="neither level of the wide candles' columns holds all of open, high"):
        compute_features(wide)
    whole = rows.pivot(index="open_time", columns="symbol", values=FIELDS).reset_index(drop=True)
    with pytest.raises(ValueError, match="index of wide candles must be their open times"):
        compute_features(whole)
