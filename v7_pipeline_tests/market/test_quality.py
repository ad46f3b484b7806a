"""Outages are named to the minute, shared ones told apart, and a jump is seen however wild the hour before was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.market.quality import completeness, jumps, outages, zero_volume_share

T0 = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
END = T0 + 1440 * MINUTE


def candles(symbol: str, without: tuple[int, int] = (0, 0), *, seed: int = 1, minutes: int = 1440) -> pd.DataFrame:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 5e-4, minutes)))
    times = pd.date_range(T0, periods=minutes, freq="min").as_unit("us")
    frame = pd.DataFrame({"symbol": symbol, "open_time": times, "close": close, "volume": 1.0})
    return whole(frame).drop(index=range(*without)).reset_index(drop=True)


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The candles of these closes, each opening at the close before."""
    opened = frame["close"].shift(fill_value=100.0)
    both = np.stack([opened, frame["close"]])
    return frame.assign(open=opened, high=both.max(axis=0), low=both.min(axis=0))


def test_an_outage_is_named_from_its_first_to_its_last_minute_and_shared_or_not() -> None:
    both = pd.concat([candles("A", (100, 180)), candles("B", (150, 170)), candles("A", (100, 180))])
    found = outages(both, ["A", "B"], start=T0, end=END)
    rows = [
        (r.symbol, (r.first - T0) / MINUTE, (r.last - T0) / MINUTE, r.minutes, r.shared) for r in found.itertuples()
    ]
    assert rows == [("A", 100, 179, 80, True), ("B", 150, 169, 20, True)]
    alone = outages(pd.concat([candles("A", (100, 180)), candles("B")]), ["A", "B"], start=T0, end=END)
    assert alone["shared"].tolist() == [False]


@pytest.mark.parametrize(("silent", "named"), [(15, 0), (16, 1)])
def test_a_quiet_stretch_of_the_bound_is_none(silent: int, named: int) -> None:
    assert len(outages(candles("A", (100, 100 + silent)), ["A"], start=T0, end=END)) == named


def test_silence_at_the_edges_and_of_a_whole_day_counts() -> None:
    early = candles("A", (0, 60))
    assert outages(early, ["A"], start=T0, end=END)["minutes"].tolist() == [60]
    assert outages(early, ["A"], start=T0, end=END, since={"A": T0 + 60 * MINUTE}).empty
    assert outages(early, ["A"], start=T0, end=END + 30 * MINUTE)["minutes"].tolist() == [60, 30]
    assert outages(early, ["B"], start=T0, end=END)["minutes"].tolist() == [1440]


def test_completeness_is_a_share_of_what_was_due() -> None:
    frame = candles("A", (0, 144))
    assert completeness(frame, ["A", "B"], start=T0, end=END) == {"A": 0.9, "B": 0.0}
    assert completeness(frame, ["A"], start=T0, end=END, since={"A": T0 + 144 * MINUTE}) == {"A": 1.0}
    assert np.isnan(completeness(frame, ["A"], start=T0, end=T0)["A"])


def test_the_share_without_volume_is_by_symbol() -> None:
    frame = pd.concat([candles("A"), candles("B")], ignore_index=True)
    frame.loc[:143, "volume"] = 0.0
    assert zero_volume_share(frame) == {"A": 0.1, "B": 0.0}


@pytest.mark.parametrize(("column", "factor"), [("high", 1.05), ("low", 0.95), ("close", 1.05)])
def test_a_jump_is_the_candle_itself_with_its_sign(column: str, factor: float) -> None:
    frame = candles("A")
    assert jumps(frame).empty
    if column == "close":
        frame.loc[1000:, "close"] *= factor
        frame = whole(frame)
    else:
        frame.loc[1000, column] *= factor
    (found,) = jumps(frame).itertuples()
    assert found.open_time == T0 + 1000 * MINUTE
    assert np.sign(found.move) == np.sign(factor - 1) and abs(found.sigmas - 0.05 / 5e-4) < 15


def test_a_jump_does_not_hide_the_next_one_and_a_gap_is_none() -> None:
    frame = candles("A")
    frame.loc[1000:, "close"] *= 1.05
    frame.loc[1010:, "close"] *= 0.95
    frame = whole(frame)
    assert len(jumps(frame, since=T0)) == 2 and len(jumps(frame, since=T0 + 1005 * MINUTE)) == 1
    gap = candles("A", (900, 1000))
    gap.loc[900:, ["open", "high", "low", "close"]] *= 1.05
    assert jumps(gap).empty


def test_without_candles_nothing_is_said() -> None:
    nothing = candles("A").iloc[:0]
    assert jumps(nothing).empty and zero_volume_share(nothing) == {}
    assert jumps(candles("A", minutes=30)).empty
