"""Prices: the published figures, the dates, and the refusal of what has none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v7_pipeline.analyst.base import AnalystError
from v7_pipeline.analyst.prices import UnknownPriceError, Usage, load_prices, token_upper_bound

TABLE = load_prices()
OFF_PEAK = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PEAK = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)  # a Friday


@pytest.mark.parametrize(
    ("prompt", "completion", "instant", "usd"),
    [
        (450, 125, OFF_PEAK, 0.000143),
        (450, 125, PEAK, 0.000285),
        (900, 200, OFF_PEAK, 0.000255),
        (900, 200, PEAK, 0.00051),
    ],
)
def test_reference_costs_of_one_decision(prompt: int, completion: int, instant: datetime, usd: float) -> None:
    cost = TABLE.cost("deepseek-flash", Usage(prompt, 0, completion), instant)
    assert cost == pytest.approx(usd, abs=5.1e-7)


def test_a_day_of_three_symbols_every_two_minutes_costs_what_the_reference_says() -> None:
    per_call = TABLE.cost("deepseek-flash", Usage(900, 0, 200), PEAK)
    assert 2_160 * per_call == pytest.approx(1.10, abs=0.005)


@pytest.mark.parametrize(
    ("model", "instant", "prices"),
    [
        ("deepseek-chat", datetime(2025, 9, 5, 15, 59, 59, tzinfo=UTC), (0.07, 0.27, 1.10)),
        ("deepseek-chat", datetime(2025, 9, 5, 16, 0, tzinfo=UTC), (0.07, 0.56, 1.68)),
        ("deepseek-chat", datetime(2025, 11, 20, tzinfo=UTC), (0.028, 0.28, 0.42)),
        ("deepseek-flash", datetime(2026, 9, 9, 23, 59, tzinfo=UTC), (0.007, 0.22, 0.66)),
        ("deepseek-flash", datetime(2026, 9, 10, 0, 0, tzinfo=UTC), (0.003, 0.15, 0.60)),
        ("deepseek-v4-pro", OFF_PEAK, (0.022, 0.66, 1.98)),
        ("deepseek-flash", PEAK, (0.006, 0.30, 1.20)),
    ],
)
def test_the_entry_of_the_date_prices_the_call(model: str, instant: datetime, prices: tuple[float, ...]) -> None:
    price = TABLE.price_for(model, instant)
    assert (price.hit, price.miss, price.output) == pytest.approx(prices)
    assert price.version.startswith(f"{model}@")


@pytest.mark.parametrize(
    ("instant", "peak"),
    [
        ("2026-11-20T00:59:59Z", False), ("2026-11-20T01:00:00Z", True), ("2026-11-20T03:59:59Z", True),
        ("2026-11-20T04:00:00Z", False), ("2026-11-20T06:00:00Z", True), ("2026-11-20T10:00:00Z", False),
        ("2026-11-21T07:00:00Z", False), ("2026-11-22T07:00:00Z", False),  # weekend
        ("2026-10-01T07:00:00Z", False), ("2026-10-07T07:00:00Z", False), ("2026-10-08T07:00:00Z", True),  # holidays
        ("2026-09-24T07:00:00Z", True), ("2026-09-25T07:00:00Z", False),
        ("2026-11-20T08:00:00+01:00", True), ("2026-11-20T05:00:00+02:00", True), ("2026-11-20T10:30:00-05:00", False),
    ],
)  # fmt: skip
def test_peak_hours_are_utc_working_hours_in_china(instant: str, peak: bool) -> None:
    assert TABLE.is_peak(datetime.fromisoformat(instant)) is peak


def test_lesson_06_an_unknown_model_has_no_price() -> None:
    with pytest.raises(UnknownPriceError, match="gpt-5"):
        TABLE.price_for("gpt-5", OFF_PEAK)
    with pytest.raises(AnalystError, match="nothing was sent"):
        TABLE.worst_case("deepseek-flas", OFF_PEAK, prompt_tokens=1, max_tokens=1)


@pytest.mark.parametrize(
    ("model", "instant"),
    [
        ("deepseek-flash", datetime(2026, 8, 16, 15, 59, tzinfo=UTC)),
        ("deepseek-chat", datetime(2026, 7, 24, tzinfo=UTC)),  # switched off
        ("deepseek-chat", datetime(2024, 1, 1, tzinfo=UTC)),
    ],
)
def test_lesson_06_a_date_without_a_price_has_no_price(model: str, instant: datetime) -> None:
    with pytest.raises(UnknownPriceError, match="no dated price"):
        TABLE.price_for(model, instant)


def test_lesson_04_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        TABLE.price_for("deepseek-flash", OFF_PEAK.replace(tzinfo=None))


@given(
    prompt=st.integers(0, 10**6),
    hits=st.floats(0, 1),
    out=st.integers(0, 600),
    minutes=st.integers(0, 60 * 24 * 60),
    zone=st.integers(-12, 12),
)
def test_no_cost_exceeds_the_worst_case_reserved_for_it(
    prompt: int, hits: float, out: int, minutes: int, zone: int
) -> None:
    at = (datetime(2026, 9, 10, tzinfo=UTC) + timedelta(minutes=minutes)).astimezone(timezone(timedelta(hours=zone)))
    cost = TABLE.cost("deepseek-flash", Usage(prompt, int(hits * prompt), out), at)
    assert 0 <= cost <= TABLE.worst_case("deepseek-flash", at, prompt_tokens=prompt, max_tokens=600) + 1e-15


@pytest.mark.parametrize("text", ["", "hello", "σ√240 – 0.4312,-0.52", "价格" * 50, "1" * 999])
def test_the_token_bound_counts_every_byte(text: str) -> None:
    assert token_upper_bound([{"role": "user", "content": text}]) >= len(text.encode())


def test_a_model_of_ones_own_is_priced_by_a_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text('[[price]]\nmodel = "llama"\nfrom = 2024-01-01T00:00:00Z\nhit = 0\nmiss = 0\noutput = 2\n')
    table = load_prices(own)
    assert table.cost("llama", Usage(1_000_000, 0, 500_000), PEAK) == 1.0
    assert table.cost("deepseek-flash", Usage(450, 0, 125), PEAK) == TABLE.cost(
        "deepseek-flash", Usage(450, 0, 125), PEAK
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[price]", "not usable"),
        ('[[price]]\nmodel = "a"\nfrom = 2024-01-01T00:00:00Z\nhit = 0\nmiss = 0\n', "'output' is missing"),
        ('[[price]]\nmodel = "a"\nfrom = 2024-01-01\nhit = 0\nmiss = 0\noutput = 0\n', "time zone"),
        ('[[price]]\nmodel = "a"\nfrom = 2024-01-01T00:00:00Z\nhit = -1\nmiss = 0\noutput = 0\n', "negative"),
        ("price = 3\n", "not usable"),
        ("", "no [[price]] entry"),
    ],
)
def test_a_price_file_that_is_no_price_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(text)
    with pytest.raises(AnalystError, match="V7_PRICES_FILE") as caught:
        load_prices(own)
    assert words in str(caught.value)
    assert str(own) in str(caught.value)
