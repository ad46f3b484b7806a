"""A signal's identity goes there and back, and refuses what could not come back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v7_pipeline.store import parse_signal_id, signal_id

INSTANT = datetime(2023, 12, 11, 2, 12, tzinfo=UTC)
NAIVE = INSTANT.replace(tzinfo=None)


def test_the_designs_example() -> None:
    assert signal_id("v7", "BTC-USD", INSTANT) == "v7-BTC-USD-20231211T021200Z"
    assert parse_signal_id("v7-BTC-USD-20231211T021200Z") == ("v7", "BTC-USD", INSTANT)


@given(
    st.sampled_from(["v7", "v6", "ensemble"]),
    st.from_regex(r"[A-Z0-9]{1,6}-[A-Z]{3,4}", fullmatch=True),
    st.datetimes(min_value=NAIVE.replace(year=2000), max_value=NAIVE.replace(year=2100)),
    st.integers(-12, 14),
)
def test_lesson_04_every_zone_names_the_same_instant(strategy: str, symbol: str, naive: datetime, hours: int) -> None:
    as_of = naive.replace(microsecond=0, tzinfo=timezone(timedelta(hours=hours)))
    text = signal_id(strategy, symbol, as_of)
    assert parse_signal_id(text) == (strategy, symbol, as_of)
    assert text == signal_id(strategy, symbol, as_of.astimezone(UTC))


@pytest.mark.parametrize(
    ("strategy", "symbol", "as_of", "complaint"),
    [
        ("v7", "BTC-USD", NAIVE, "time zone"),
        ("v7", "BTC-USD", INSTANT.replace(microsecond=1), "whole second"),
        ("v-7", "BTC-USD", INSTANT, "strategy"),
        ("v7", "btc", INSTANT, "BASE-QUOTE"),
    ],
)
def test_what_could_not_be_taken_apart_is_refused(strategy: str, symbol: str, as_of: datetime, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        signal_id(strategy, symbol, as_of)


@pytest.mark.parametrize("text", ["", "v7-BTC-USD", "v7-BTC-USD-20231311T021200Z", "v7-BTC-USD-20231211T021200Z "])
def test_other_text_is_no_identity(text: str) -> None:
    with pytest.raises(ValueError, match="no signal_id"):
        parse_signal_id(text)
