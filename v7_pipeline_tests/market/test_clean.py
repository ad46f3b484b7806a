"""What clean repairs, what it refuses, and that neither depends on the order or on doing it twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.market.clean import CANDLE_COLUMNS, clean
from v7_pipeline.market.errors import MarketError
from v7_pipeline_tests.market.conftest import MINUTE, T0, candle_frame
from v7_pipeline_tests.shared_data import needs_shared

END = T0 + 60 * MINUTE
WINDOW: dict[str, Any] = {"symbol": "BTC-USD", "start": T0, "end": END, "now": END}

VALUES = ["open", "high", "low", "close", "volume"]
PLAIN = (100.0, 101.0, 99.0, 100.5, 2.0)


def five() -> pd.DataFrame:
    return candle_frame([T0 + i * MINUTE for i in range(5)])


def test_good_candles_pass_unchanged_with_the_declared_columns_and_types() -> None:
    frame, repairs = clean(five(), **WINDOW)
    assert list(frame.columns) == list(CANDLE_COLUMNS)
    assert str(frame["open_time"].dtype) == "datetime64[us, UTC]"
    assert (frame.dtypes.iloc[2:] == np.float64).all()
    pd.testing.assert_frame_equal(frame.iloc[:, 2:], five().iloc[:, 1:])
    assert repairs == {}


def test_no_candles_give_an_empty_frame_of_the_same_types() -> None:
    frame, repairs = clean(five().iloc[:0], **WINDOW)
    assert len(frame) == 0 and repairs == {}
    assert frame.dtypes.equals(clean(five(), **WINDOW)[0].dtypes)


def test_repeated_and_disordered_rows_are_repaired_and_counted() -> None:
    rows = five()
    frame, repairs = clean(pd.concat([rows.iloc[[2, 1]], rows]), **WINDOW)
    pd.testing.assert_frame_equal(frame, clean(rows, **WINDOW)[0])
    assert repairs == {"duplicates": 2, "reordered": 2}


def test_rows_outside_the_window_are_left_out_even_where_they_are_broken() -> None:
    rows = five()
    rows.loc[0, "high"] = -1.0
    frame, repairs = clean(rows, **{**WINDOW, "start": T0 + MINUTE, "end": T0 + 4 * MINUTE})
    assert list(frame["open_time"]) == [T0 + i * MINUTE for i in (1, 2, 3)]
    assert repairs == {"outside_window": 2}


def test_lesson_27_the_forming_candle_never_enters() -> None:
    just_before_close = T0 + 5 * MINUTE - timedelta(microseconds=1)
    frame, repairs = clean(five(), **{**WINDOW, "now": just_before_close})
    assert frame["open_time"].max() == T0 + 3 * MINUTE
    assert repairs == {"forming": 1}
    assert clean(five(), **{**WINDOW, "now": T0 + 5 * MINUTE})[0]["open_time"].max() == T0 + 4 * MINUTE


def test_an_earlier_state_of_a_candle_gives_way_to_its_later_one() -> None:
    rows = five()
    rows.loc[3, VALUES] = PLAIN
    earlier = rows.iloc[[3]].assign(high=100.5, low=99.5, close=99.5, volume=0.5)
    for mixed in (pd.concat([rows, earlier]), pd.concat([earlier, rows])):
        frame, repairs = clean(mixed, **WINDOW)
        pd.testing.assert_frame_equal(frame, clean(rows, **WINDOW)[0])
        assert repairs["superseded"] == 1


@pytest.mark.parametrize(
    "other",
    [
        (100.5, 101.0, 99.0, 100.5, 1.0),
        (100.0, 103.0, 99.0, 100.5, 1.0),
        (100.0, 101.0, 98.0, 100.5, 1.0),
        (100.0, 101.0, 99.0, 100.25, 2.0),
    ],
    ids=["another open", "a higher high, less volume", "a lower low, less volume", "the same volume, another close"],
)
def test_two_candles_of_one_minute_that_do_not_contain_one_another_are_refused(other: tuple[float, ...]) -> None:
    rows = five()
    rows.loc[3, VALUES] = PLAIN
    rows.loc[5] = [rows.loc[3, "open_time"], *other]
    for mixed in (rows, rows.iloc[::-1]):
        with pytest.raises(
            MarketError, match=r"BTC-USD: two different candles of one minute, 2023-12-11T02:03:00Z .*nei"
        ):
            clean(mixed, **WINDOW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"high": 98.0}, "high below its low"),
        ({"high": 100.25}, "high below its open or close"),
        ({"low": 100.25}, "low above its open or close"),
        ({"close": np.nan}, "missing or not finite"),
        ({"volume": np.inf}, "missing or not finite"),
        ({"low": 0.0}, "not positive"),
        ({"low": -5.0}, "not positive"),
        ({"volume": -0.1}, "negative volume"),
        ({"open_time": T0 + timedelta(minutes=2, seconds=1)}, "whole minute"),
    ],
)
def test_an_impossible_candle_is_refused_with_its_row_in_the_message(change: dict[str, Any], said: str) -> None:
    rows = five()
    rows.loc[2, VALUES] = PLAIN
    clean(rows, **WINDOW)
    for name, value in change.items():
        rows.loc[2, name] = value
    with pytest.raises(MarketError, match=rf"BTC-USD: the candle 2023-12-11T02:02:0.*\(open=100, .*{said}"):
        clean(rows, **WINDOW)


def test_naive_times_and_missing_columns_and_foreign_symbols_are_refused() -> None:
    rows = five()
    with pytest.raises(ValueError, match="start has no time zone"):
        clean(rows, **{**WINDOW, "start": T0.replace(tzinfo=None)})
    with pytest.raises(ValueError, match="open_time has no time zone"):
        clean(rows.assign(open_time=rows["open_time"].dt.tz_localize(None)), **WINDOW)
    with pytest.raises(MarketError, match=r"BTC-USD: .*no column volume"):
        clean(rows.drop(columns="volume"), **WINDOW)
    with pytest.raises(MarketError, match=r"BTC-USD: rows of .*ETH-USD.* are mixed in"):
        clean(rows.assign(symbol=["BTC-USD"] * 4 + ["ETH-USD"]), **WINDOW)
    with pytest.raises(MarketError, match="have no time"):
        clean(rows.assign(open_time=rows["open_time"].where(rows.index != 2)), **WINDOW)
    with pytest.raises(MarketError, match="not numbers"):
        clean(rows.astype({"close": object}).assign(close="dear"), **WINDOW)


minutes = st.lists(st.integers(0, 59), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(minutes=minutes, data=st.data())
def test_clean_is_idempotent_and_does_not_depend_on_the_order(minutes: list[int], data: st.DataObject) -> None:
    rows = candle_frame([T0 + i * MINUTE for i in minutes])
    frame, _ = clean(rows, **WINDOW)
    assert list(frame["open_time"]) == [T0 + i * MINUTE for i in sorted(set(minutes))]
    again, repairs = clean(frame, **WINDOW)
    pd.testing.assert_frame_equal(again, frame)
    assert repairs == {}
    order = data.draw(st.permutations(range(len(rows))))
    pd.testing.assert_frame_equal(clean(rows.iloc[list(order)], **WINDOW)[0], frame)


@settings(max_examples=60, deadline=None)
@given(trades=st.lists(st.integers(1, 50), min_size=2, max_size=12), data=st.data())
def test_of_any_states_of_a_growing_candle_the_last_is_kept(trades: list[int], data: st.DataObject) -> None:
    states = [(trades[0], max(trades[:n]), min(trades[:n]), trades[n - 1], float(n)) for n in range(1, len(trades) + 1)]
    rows = pd.DataFrame(states, columns=["open", "high", "low", "close", "volume"])
    rows.insert(0, "open_time", pd.Timestamp(T0))
    order = data.draw(st.permutations(range(len(rows))))
    frame, repairs = clean(rows.iloc[list(order)], **WINDOW)
    assert tuple(frame.iloc[0, 2:]) == states[-1]
    assert repairs["superseded"] == len(states) - 1


@pytest.mark.parametrize("symbol", ["BTC-USD", "ETH-USD", "SOL-USD"])
def test_lesson_27_a_recorded_download_becomes_one_closed_candle_a_minute(symbol: str) -> None:
    raw = pd.read_parquet(needs_shared(f"candles/{symbol}_1m.parquet")).rename(columns={"ts": "open_time"})
    newest = raw["open_time"].max().to_pydatetime()
    span: dict[str, Any] = {
        "symbol": symbol,
        "start": datetime(2023, 11, 1, tzinfo=UTC),
        "end": datetime(2024, 2, 1, tzinfo=UTC),
    }
    frame, repairs = clean(raw, **span, now=newest + timedelta(seconds=30))

    assert frame["open_time"].is_monotonic_increasing and frame["open_time"].is_unique
    assert len(frame) == raw["open_time"].nunique() - 1
    assert frame["open_time"].max() == newest - MINUTE
    repeated = int(raw["open_time"].duplicated().sum())
    # Where the second pull met the first, the first one's last candle was still forming.
    assert repairs["superseded"] == 1 and repairs["duplicates"] == repeated - 1 and repairs["forming"] == 1
    assert repairs["reordered"] > 0
    per_minute = raw.sort_values("volume").drop_duplicates("open_time", keep="last").set_index("open_time")
    meeting = frame.set_index("open_time")["volume"]
    assert (meeting == per_minute["volume"].reindex(meeting.index)).all()


def test_the_two_recorded_pulls_agree_on_every_closed_candle() -> None:
    later = pd.read_parquet(needs_shared("candles/BTC-USD_1m.parquet")).rename(columns={"ts": "open_time"})
    earlier = pd.read_csv(needs_shared("candles/BTC-USD_1m_earlier_pull.csv"))
    earlier["open_time"] = pd.to_datetime(earlier.pop("time"), utc=True)
    end = earlier["open_time"].max().to_pydatetime()
    span: dict[str, Any] = {"symbol": "BTC-USD", "start": datetime(2023, 11, 25, tzinfo=UTC), "end": end, "now": end}
    frame, repairs = clean(pd.concat([later, earlier]), **span)
    assert len(frame) == (frame["open_time"].iloc[-1] - frame["open_time"].iloc[0]) // MINUTE + 1
    assert "superseded" not in repairs
