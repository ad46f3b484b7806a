"""Views of a source at an instant: what forms, what is hidden, coarser buckets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.sandbox.simulator import Simulated
from v7_pipeline.sandbox.source import Bars, last_price, view

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
NOON_S = int(NOON.timestamp())
MARKET = Simulated(7)


def times(bars: Bars) -> list[int]:
    return [int(time) for time in bars.time]


@settings(max_examples=60)
@given(minute=st.integers(0, 1000), earlier=st.floats(0.5, 59), step=st.floats(0, 59))
def test_a_forming_candle_only_grows_until_it_is_the_closed_one(minute: int, earlier: float, step: float) -> None:
    first = NOON_S + 60 * minute

    def at(seconds: float) -> list[tuple[Any, ...]]:
        return view(MARKET, "ETH-USD", first, first, 60, NOON + timedelta(minutes=minute, seconds=seconds)).rows()

    before, after, closed = at(earlier), at(min(earlier + step, 59.9)), at(60)
    assert closed == MARKET.bars("ETH-USD", first, first + 60).rows()
    if not closed:
        assert before == after == []
        return
    (_, opened, high, low, close, volume), (_, opened2, high2, low2, _, volume2) = before[0], after[0]
    (_, opened3, high3, low3, _, volume3) = closed[0]
    assert opened == opened2 == opened3
    assert high <= high2 <= high3 and low >= low2 >= low3
    assert 0 < volume <= volume2 <= volume3
    assert low <= close <= high


def test_nothing_that_opens_later_exists() -> None:
    ahead = NOON_S + 86_400
    assert times(view(MARKET, "BTC-USD", NOON_S - 600, ahead, 60, NOON + timedelta(seconds=5)))[-1] == NOON_S
    assert times(view(MARKET, "BTC-USD", NOON_S - 600, ahead, 60, NOON))[-1] == NOON_S - 60
    assert times(view(MARKET, "BTC-USD", NOON_S + 60, NOON_S + 120, 60, NOON)) == []
    assert times(view(MARKET, "BTC-USD", NOON_S + 86_400, ahead + 3600, 3600, NOON)) == []


def test_an_unaligned_first_means_the_next_bucket() -> None:
    seen = times(view(MARKET, "BTC-USD", NOON_S - 601, NOON_S - 61, 60, NOON))
    assert (seen[0], seen[-1]) == (NOON_S - 600, NOON_S - 120)


def test_coarse_buckets_are_the_minutes_put_together() -> None:
    minutes = view(MARKET, "SOL-USD", NOON_S - 7200, NOON_S - 3601, 60, NOON)
    hours = view(MARKET, "SOL-USD", NOON_S - 7200, NOON_S - 3600, 3600, NOON)
    assert times(hours) == [NOON_S - 7200, NOON_S - 3600]
    assert (hours.open[0], hours.close[0]) == (minutes.open[0], minutes.close[-1])
    assert (hours.high[0], hours.low[0]) == (minutes.high.max(), minutes.low.min())
    assert hours.volume[0] == pytest.approx(minutes.volume.sum())


def test_a_coarse_bucket_in_progress_is_as_far_as_it_has_come() -> None:
    now = NOON + timedelta(minutes=10, seconds=30)
    bucket = view(MARKET, "BTC-USD", NOON_S, NOON_S, 3600, now)
    minutes = view(MARKET, "BTC-USD", NOON_S, NOON_S + 3540, 60, now)
    assert times(bucket) == [NOON_S] and bucket.close[0] == minutes.close[-1]
    assert bucket.volume[0] == pytest.approx(minutes.volume.sum())


def test_last_price_is_the_forming_close_at_that_instant() -> None:
    now = NOON + timedelta(seconds=30)
    assert last_price(MARKET, "BTC-USD", now) == view(MARKET, "BTC-USD", NOON_S, NOON_S, 60, now).close[0]
    assert last_price(MARKET, "BTC-USD", NOON) == MARKET.bars("BTC-USD", NOON_S - 60, NOON_S).close[0]


def test_lesson_04_a_naive_now_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        view(MARKET, "BTC-USD", NOON_S, NOON_S, 60, NOON.replace(tzinfo=None))
    with pytest.raises(ValueError, match="no time zone"):
        last_price(MARKET, "BTC-USD", NOON.replace(tzinfo=None))


def test_a_sources_columns_cannot_be_written_to() -> None:
    bars = MARKET.bars("BTC-USD", NOON_S - 600, NOON_S)
    with pytest.raises(ValueError, match="read-only"):
        bars.close[0] = 1.0


def test_a_forming_candle_does_not_tell_its_future() -> None:
    for minute in range(20):
        now = NOON + timedelta(minutes=minute, seconds=10)
        for _, opened, high, low, close, _ in view(
            MARKET, "BTC-USD", NOON_S + 60 * minute, NOON_S + 60 * minute, 60, now
        ).rows():
            assert (high, low) == (max(opened, close), min(opened, close))
