"""The ledger: budgets hold over restarts, every end is written, and an answer once paid for is found again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from v7_pipeline.analyst.ledger import (
    Answered,
    BudgetRefused,
    Call,
    CallInFlightError,
    Ledger,
    Received,
    Reservation,
)
from v7_pipeline.analyst.prices import UnknownPriceError, Usage, load_prices
from v7_pipeline.store import Store
from v7_pipeline_tests.analyst.conftest import AS_OF, HOLD, NOW, PROVENANCE, analyst, completion, question


def call(number: int = 0, worst: float = 0.4, **changes: Any) -> Call:
    values: dict[str, Any] = {
        "call_id": f"deepseek-{number}", "signal_id": f"v7-BTC-USD-{number}", "symbol": "BTC-USD", "as_of": AS_OF,
        "analyst": "deepseek", "model": "deepseek-flash", "prompt": "[]", "prompt_hash": "h", "prompt_version": "p",
        "parameters": "{}", "price_version": "v", "worst_case_usd": worst,
    }  # fmt: skip
    return Call(**(values | changes))


def reserve(ledger: Ledger, *calls: Call, now: datetime = NOW) -> list[Reservation]:
    results = ledger.reserve(calls, now)
    assert all(isinstance(result, Reservation) for result in results), results
    return [result for result in results if isinstance(result, Reservation)]


def ledger_of(store: Store, day: float = 1.0, month: float = 10.0) -> Ledger:
    return Ledger(store, daily_budget_usd=day, monthly_budget_usd=month, provenance=PROVENANCE)


RECEIVED = Received('{"signal": "HOLD"}', "stop", "deepseek-flash", "fp", Usage(900, 300, 200, 0), 3.85)


def test_lesson_05_spend_survives_a_restart(store: Store) -> None:
    (reservation,) = reserve(ledger_of(store), call())
    assert ledger_of(store).spent(NOW).day_usd == 0.4  # killed between reserving and settling: the worst case counts
    ledger_of(store).write([reservation.settled(RECEIVED, 0.1, NOW)])
    spent = ledger_of(store).spent(NOW)
    assert (spent.day_usd, spent.month_usd, spent.day_room) == pytest.approx((0.1, 0.1, 0.9))


def test_the_worst_case_blocks_at_the_budget_not_after_it(store: Store) -> None:
    ledger = ledger_of(store, day=1.0)
    results = ledger.reserve([call(1), call(2), call(3)], NOW)
    assert [type(result) for result in results] == [Reservation, Reservation, BudgetRefused]
    assert isinstance(results[2], BudgetRefused) and results[2].reason == "BUDGET_DAY"
    assert len(store.query("SELECT * FROM llm_calls")) == 2
    assert ledger.budget_room(NOW, 0.2) == 1
    assert ledger.budget_room(NOW, 0.21) == 0
    reserve(ledger, call(4, worst=0.2))
    assert ledger.spent(NOW).day_room == pytest.approx(0.0)


def test_reserving_at_once_from_many_threads_keeps_the_budget(store: Store) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda n: ledger_of(store, day=1.2).reserve([call(n)], NOW)[0], range(6)))
    assert sum(isinstance(result, Reservation) for result in results) == 3
    assert ledger_of(store).spent(NOW).day_usd == pytest.approx(1.2)


def test_lesson_05_day_and_month_are_utc_calendar_periods(store: Store) -> None:
    ledger = ledger_of(store, day=1.0, month=1.5)
    late = datetime(2026, 11, 19, 23, 59, 59, tzinfo=UTC)
    reserve(ledger, call(1, worst=1.0), now=late)
    assert ledger.spent(late + timedelta(seconds=1)).day_usd == 0.0
    (refused,) = ledger.reserve([call(2, worst=0.6)], late + timedelta(seconds=1))
    assert isinstance(refused, BudgetRefused) and refused.reason == "BUDGET_MONTH"
    # the same day of the next month is another day and another month
    assert ledger.spent(datetime(2026, 12, 19, 12, 0, tzinfo=UTC)).month_usd == 0.0
    assert ledger.spent(late).month_usd == 1.0


def test_a_refused_call_costs_nothing_and_a_lost_one_its_worst_case(store: Store) -> None:
    ledger = ledger_of(store, day=10.0)
    failed, unknown = reserve(ledger, call(1), call(2))
    ledger.write([failed.failed("HTTP 429", NOW, 0.2), unknown.unknown("TIMEOUT", NOW, 30.0)])
    rows = store.query("SELECT status, cost_usd, latency_s, error FROM llm_calls ORDER BY call_id")
    assert list(rows["status"]) == ["failed", "unknown"]
    assert list(rows["cost_usd"]) == [0.0, 0.4]
    assert ledger.spent(NOW).day_usd == 0.4


def test_a_rerun_settles_what_its_dead_predecessor_left_open_and_counts_on(store: Store) -> None:
    reserve(ledger_of(store), call())
    later = NOW + timedelta(minutes=1)
    (again,) = reserve(ledger_of(store), call(), now=later)
    assert again.row["attempt"] == 2
    rows = store.query("SELECT attempt, status, cost_usd, error FROM llm_calls ORDER BY attempt")
    assert list(rows["status"]) == ["unknown", "reserved"]
    assert rows["cost_usd"].iloc[0] == 0.4
    assert ledger_of(store).spent(later).day_usd == 0.8


def test_a_reservation_lost_anywhere_is_closed_after_an_hour(store: Store) -> None:
    ledger = ledger_of(store, day=10.0)
    reserve(ledger, call(1))
    reserve(ledger, call(2), now=NOW + timedelta(minutes=59))
    assert list(store.query("SELECT status FROM llm_calls ORDER BY call_id")["status"]) == ["reserved", "reserved"]
    reserve(ledger, call(3), now=NOW + timedelta(minutes=61))
    rows = store.query("SELECT status FROM llm_calls ORDER BY call_id")
    assert list(rows["status"]) == ["unknown", "reserved", "reserved"]


def test_lesson_18_a_settled_row_keeps_everything(store: Store) -> None:
    ledger = ledger_of(store)
    (reservation,) = reserve(ledger, call(prompt='[{"role": "user"}]'))
    ledger.write([reservation.settled(RECEIVED, 0.000255, NOW + timedelta(seconds=4))])
    row = store.query("SELECT * FROM llm_calls").iloc[0]
    assert (row["raw_reply"], row["finish_reason"], row["returned_model"]) == (RECEIVED.text, "stop", "deepseek-flash")
    assert (row["prompt_tokens"], row["cache_hit_tokens"], row["completion_tokens"]) == (900, 300, 200)
    assert (row["cost_usd"], row["reserved_usd"], row["latency_s"]) == (0.000255, 0.4, 3.85)
    assert (row["prompt"], row["prompt_hash"], row["price_version"]) == ('[{"role": "user"}]', "h", "v")
    assert (row["source"], row["run_id"], row["code_version"]) == ("demo", "run-1", "0.1.0")
    assert row["settled_at"] == NOW + timedelta(seconds=4)


def test_an_answer_is_found_again_and_a_call_without_one_is_not(store: Store) -> None:
    ledger = ledger_of(store, day=10.0)
    one, two, _ = reserve(ledger, call(1), call(2), call(3))
    ledger.write([one.settled(RECEIVED, 0.1, NOW), two.unknown("TIMEOUT", NOW)])
    found = ledger_of(store).answered([f"deepseek-{n}" for n in (1, 2, 3, 4)])
    assert RECEIVED.text and found == {"deepseek-1": Answered("deepseek-1", RECEIVED.text, "stop")}
    reused, asked = ledger.reserve([call(1), call(2)], NOW, reuse=True)
    assert reused == found["deepseek-1"]
    assert isinstance(asked, Reservation) and asked.row["attempt"] == 2


def test_lesson_04_naive_instants_are_refused(store: Store) -> None:
    ledger = ledger_of(store)
    for act in (lambda at: ledger.spent(at), lambda at: ledger.reserve([call()], at)):
        with pytest.raises(ValueError, match="no time zone"):
            act(NOW.replace(tzinfo=None))


def test_lesson_21_a_ledger_without_provenance_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="provenance"):
        Ledger(store, daily_budget_usd=1, monthly_budget_usd=1, provenance={"source": "demo"})


LEASE = timedelta(seconds=35)


def other_run(store: Store) -> Ledger:
    return Ledger(store, daily_budget_usd=1.0, monthly_budget_usd=10.0, provenance=PROVENANCE | {"run_id": "another"})


def test_lesson_32_a_call_that_another_run_is_making_is_not_made_twice(store: Store) -> None:
    (reservation,) = reserve(ledger_of(store), call())
    soon = NOW + timedelta(seconds=3)
    with pytest.raises(CallInFlightError):
        other_run(store).reserve([call(), call(1)], soon, reuse=True, lease=LEASE)
    assert len(store.query("SELECT * FROM llm_calls")) == 1  # refused as a whole: nothing was set aside
    ledger_of(store).write([reservation.settled(RECEIVED, 0.1, soon)])
    (answer,) = other_run(store).reserve([call()], soon, reuse=True, lease=LEASE)
    assert isinstance(answer, Answered)
    assert ledger_of(store).spent(soon).day_usd == pytest.approx(0.1)


def test_lesson_32_a_dead_runs_call_is_taken_over_once_its_lease_is_up(store: Store) -> None:
    reserve(ledger_of(store), call())
    (again,) = other_run(store).reserve([call()], NOW + LEASE, reuse=True, lease=LEASE)
    assert isinstance(again, Reservation)
    rows = store.query("SELECT attempt, status, cost_usd FROM llm_calls ORDER BY attempt")
    assert rows["status"].tolist() == ["unknown", "reserved"]
    assert rows["cost_usd"].iloc[0] == 0.4  # it may have been billed: the worst case counts


def test_the_same_run_does_not_wait_for_itself(store: Store) -> None:
    reserve(ledger_of(store), call())
    (again,) = ledger_of(store).reserve([call()], NOW, reuse=True, lease=LEASE)
    assert isinstance(again, Reservation)


@pytest.mark.parametrize(
    ("now", "entry"),
    [
        (datetime(2026, 11, 20, 12, 2, 5, tzinfo=UTC), "deepseek-flash@2026-09-10T00:00Z/off-peak"),
        (datetime(2026, 11, 20, 7, 2, 5, tzinfo=UTC), "deepseek-flash@2026-09-10T00:00Z/peak"),
        (datetime(2026, 10, 1, 7, 2, 5, tzinfo=UTC), "deepseek-flash@2026-09-10T00:00Z/off-peak"),  # a holiday
        (datetime(2026, 8, 20, 12, 2, 5, tzinfo=UTC), "deepseek-flash@2026-08-16T16:00Z/off-peak"),
    ],
)
def test_the_ledger_tells_which_entry_priced_a_call_and_that_entry_gives_its_cost(
    store: Store, ledger: Ledger, serve: Any, now: datetime, entry: str
) -> None:
    server = serve((200, completion(json.dumps(HOLD), prompt=900, out=200)))
    analyst(ledger, server.url, clock=lambda: now).decide([question()], now=now)
    (row,) = store.rows("SELECT * FROM llm_calls")
    assert row["price_version"] == entry
    peak, name = entry.endswith("/peak"), entry.partition("/")[0]
    (price,) = (e.price(peak=peak) for e in load_prices().entries if f"{e.model}@{e.start:%Y-%m-%dT%H:%MZ}" == name)
    usage = Usage(row["prompt_tokens"], row["cache_hit_tokens"], row["completion_tokens"], row["reasoning_tokens"])
    assert row["cost_usd"] == pytest.approx(price.cost(usage), rel=1e-12)
    assert row["cost_usd"] < row["reserved_usd"]


def test_lesson_06_an_instant_without_a_price_refuses_before_anything_is_reserved_or_sent(
    store: Store, ledger: Ledger, serve: Any
) -> None:
    server = serve((200, completion(json.dumps(HOLD))))
    clock = [NOW]
    asked = analyst(ledger, server.url, clock=lambda: clock[0])
    clock[0] = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)  # before the model had a price
    with pytest.raises(UnknownPriceError, match="nothing was sent"):
        asked.decide([question()], now=clock[0])
    assert server.requests == []
    assert store.rows("SELECT * FROM llm_calls") == []
