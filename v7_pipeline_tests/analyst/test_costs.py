"""Costs are queries over the ledger as of an instant; a forecast says from how much it was made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scipy import stats

from v7_pipeline.analyst.costs import Costs, costs, forecast
from v7_pipeline.store import Store, arrow_rows
from v7_pipeline.store.schema import table
from v7_pipeline_tests.analyst.conftest import PROVENANCE

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def row(name: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(table(name).column_names), **PROVENANCE, **values}


def call(number: int, at: datetime, usd: float | None = 0.01, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "call_id": f"deepseek-{number}", "attempt": 1, "signal_id": f"s-{number}", "symbol": "BTC-USD", "as_of": at,
        "analyst": "deepseek", "model": "deepseek-flash", "prompt": "[]", "prompt_hash": "h", "prompt_version": "p",
        "parameters": "{}", "status": "settled", "reserved_at": at, "reserved_usd": 0.05, "cost_usd": usd,
        "price_version": "v", "prompt_tokens": 900, "cache_hit_tokens": 300, "completion_tokens": 200,
        "latency_s": 2.0,
    }  # fmt: skip
    return row("llm_calls", **(values | changes))


def signal(number: int, at: datetime, side: str | None, accepted: bool = False) -> tuple[dict[str, Any], ...]:
    status = "answered" if side else "abstained"
    decided = row(
        "llm_signals", signal_id=f"s-{number}", as_of=at, decided_at=at, symbol="BTC-USD", strategy="v7",
        analyst="deepseek", side=side, status=status,
    )  # fmt: skip
    gated = row(
        "gated_signals", signal_id=f"s-{number}", as_of=at, symbol="BTC-USD", strategy="v7", side=side,
        freshness_ok=True, halt_ok=True, budget_ok=True, gate_inputs="{}", gates_off="", reason_codes="",
        accepted=accepted,
    )  # fmt: skip
    return decided, gated


def write(store: Store, name: str, rows: list[dict[str, Any]]) -> None:
    with store.transaction() as tx:
        tx.insert_new(name, arrow_rows(name, rows))


def told(store: Store, at: datetime = NOON) -> Costs:
    return costs(store, at, day_budget_usd=3.0, month_budget_usd=100.0)


def test_day_and_month_are_utc_periods_and_what_comes_later_is_not_known_yet(store: Store) -> None:
    midnight = NOON.replace(hour=0)
    second = timedelta(seconds=1)
    times = [midnight.replace(day=1) - second, midnight - second, midnight, NOON, NOON + second]
    write(store, "llm_calls", [call(i, at, 10.0**-i) for i, at in enumerate(times)])
    found = told(store)
    assert (found.day_usd, found.month_usd) == pytest.approx((1e-2 + 1e-3, 1e-1 + 1e-2 + 1e-3))
    assert found.calls == 3


def test_what_is_open_or_unknown_counts_at_its_worst_case_and_is_named(store: Store) -> None:
    open_ = call(1, NOON - DAY / 24, None, status="reserved", prompt_tokens=None, cache_hit_tokens=None)
    lost = call(2, NOON - DAY / 24, 0.05, status="unknown", error="TIMEOUT: no answer")
    write(store, "llm_calls", [open_, lost, call(3, NOON - DAY / 24)])
    found = told(store)
    assert (found.open_calls, found.unknown_calls) == (1, 1)
    assert (found.open_usd, found.unknown_usd, found.day_usd) == pytest.approx((0.05, 0.05, 0.11))
    assert found.analysts[0].failures == 1


def test_a_repair_is_a_second_attempt_of_one_call(store: Store) -> None:
    write(store, "llm_calls", [call(1, NOON - DAY / 24), call(1, NOON - DAY / 24, attempt=2)])
    (entry,) = told(store).analysts
    assert (entry.calls, entry.attempts) == (1, 2)
    assert told(store).per_call_usd == pytest.approx(0.02)


def test_cost_per_signal_and_per_accepted_signal_carry_all_that_was_asked(store: Store) -> None:
    at = NOON - DAY / 24
    write(store, "llm_calls", [call(i, at) for i in range(5)])
    sides = ["BUY", "HOLD", "HOLD", "SELL", None]
    rows = [signal(i, at, side, accepted=i == 0) for i, side in enumerate(sides)]
    write(store, "llm_signals", [decided for decided, _ in rows])
    write(store, "gated_signals", [gated for _, gated in rows])
    found = told(store)
    assert (found.answered, found.trades, found.accepted) == (4, 2, 1)
    assert found.per_signal_usd == pytest.approx(0.05 / 4)
    assert found.per_accepted_usd == pytest.approx(0.05)


def test_an_empty_ledger_has_no_ratios_and_no_forecast(store: Store) -> None:
    found = told(store)
    assert found.month_usd == 0.0
    assert (found.per_call_usd, found.per_signal_usd, found.per_accepted_usd, found.cache_share, found.forecast) == (
        (None,) * 5
    )


def test_the_cache_share_counts_only_answers_that_told_their_usage(store: Store) -> None:
    at = NOON - DAY / 24
    silent = call(3, at, 0.05, status="unknown", prompt_tokens=None, cache_hit_tokens=None, completion_tokens=None)
    write(store, "llm_calls", [call(1, at), call(2, at, prompt_tokens=100, cache_hit_tokens=100), silent])
    assert told(store).cache_share == pytest.approx(400 / 1000)


def test_a_forecast_needs_three_whole_days_and_counts_a_day_without_calls(store: Store) -> None:
    midnight = NOON.replace(hour=0)
    begun = midnight - 3 * DAY
    write(store, "llm_calls", [call(0, begun + DAY / 2), call(1, begun + DAY, 0.2), call(2, NOON - DAY / 24, 0.1)])
    assert told(store).forecast is None, "the first call's day is not whole, so two days are"
    write(store, "llm_calls", [call(9, begun - DAY / 2, 0.3)])
    found = told(store).forecast
    assert found is not None and found.n_days == 3
    left = (datetime(2026, 12, 1, tzinfo=UTC) - NOON) / DAY
    spent, days = 0.01 + 0.2 + 0.1 + 0.3, (0.01, 0.2, 0.0)
    assert found.expected_usd == pytest.approx(spent + left * sum(days) / 3)
    assert found.lower_usd == pytest.approx(spent), "what is spent cannot be less"


def test_the_forecasts_interval_is_students_for_the_sum_of_the_days_left() -> None:
    days = [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.0]
    found = forecast(days, 20.0, NOON)
    assert found is not None
    left = 9.5
    deviation = stats.tstd(days)
    wide = stats.t.ppf(0.975, 6) * deviation * (left + left**2 / 7) ** 0.5
    assert (found.lower_usd, found.upper_usd) == pytest.approx((20 + left - wide, 20 + left + wide))


def test_a_naive_instant_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        told(store, NOON.replace(tzinfo=None))


def test_a_question_to_several_analysts_is_one_signal_and_a_retry_no_second_call(store: Store) -> None:
    at = NOON - DAY / 24
    other = {"call_id": "local-1", "analyst": "local", "model": "llama"}
    write(store, "llm_calls", [call(1, at), call(1, at, attempt=2), call(1, at, 0.02, **other)])
    decided, gated = signal(1, at, "BUY", accepted=True)
    write(store, "llm_signals", [decided])
    write(store, "gated_signals", [gated])
    found = told(store)
    assert (found.answered, found.trades, found.accepted) == (1, 1, 1)
    assert [(entry.analyst, entry.calls, entry.attempts) for entry in found.analysts] == [
        ("deepseek", 1, 2),
        ("local", 1, 1),
    ]


def test_a_call_begun_in_the_month_before_still_has_its_share_in_this_one(store: Store) -> None:
    midnight = NOON.replace(day=1, hour=0)
    write(store, "llm_calls", [call(1, midnight - DAY), call(1, midnight, 0.02, attempt=2)])
    (entry,) = told(store).analysts
    assert (entry.calls, entry.attempts, entry.usd) == (1, 1, pytest.approx(0.02))


def test_days_of_a_forecast_are_utc_days_to_the_microsecond(store: Store) -> None:
    midnight, tick = NOON.replace(hour=0), timedelta(microseconds=1)
    times = [midnight - 4 * DAY, *(midnight - k * DAY - tick for k in (2, 1, 0)), midnight - 2 * DAY]
    write(store, "llm_calls", [call(i, at, 10.0**-i) for i, at in enumerate(times)])
    found = told(store).forecast
    assert found is not None and found.n_days == 3
    days = (10.0**-1, 10.0**-2 + 10.0**-4, 10.0**-3)
    expected = forecast(days, told(store).month_usd, NOON)
    assert expected is not None
    assert found.expected_usd == pytest.approx(expected.expected_usd)
    assert found.upper_usd == pytest.approx(expected.upper_usd)
