"""What the watchers see: a level crossed is told once and kept, a breach and an empty budget halt, each in its time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from v7_pipeline.scan.halts import halts_in_force
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.scan.watch import breach_halts, watch_account, watch_budget
from v7_pipeline.store import Store
from v7_pipeline_tests.gates.builders import ONE_STEP, TWO_STEP, at, book, closed, state
from v7_pipeline_tests.scan.watched import (
    NOW,
    alerts,
    crossings,
    halts,
    put_call,
    put_closed,
    put_scan,
    titles,
    watched,
)

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
Make = Callable[..., Any]


@pytest.fixture
def runtime(make_settings: Make) -> Runtime:
    """$3 a day and $100 a month for calls; $5,000 may be lost a day and $10,000 in all."""
    return watched(make_settings)


def budget(runtime: Runtime, **span: float) -> str:
    """The budget's watcher, `span` later."""
    runtime.clock.pass_(**span)  # type: ignore[attr-defined]
    return watch_budget(runtime, "budget_sensor")


def account(runtime: Runtime, **span: float) -> str:
    runtime.clock.pass_(**span)  # type: ignore[attr-defined]
    return watch_account(runtime, "ftmo_sensor")


def spend(runtime: Runtime, usd: float, *, reserved_usd: float = 0.0) -> None:
    """One more call, now; its key is its instant's."""
    now = runtime.clock()
    number = runtime.store.rows("SELECT count(*) AS n FROM llm_calls")[0]["n"]
    put_call(runtime, f"c{number}", usd, at=now, reserved_usd=reserved_usd)


def respend(runtime: Runtime, usd: float) -> None:
    """The first call turns out to have cost `usd`."""
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE llm_calls SET cost_usd = ? WHERE call_id = 'c0'", (usd,))


# --- the budget's levels --------------------------------------------------------------------


def test_a_quiet_budget_writes_nothing_and_tells_its_figures(runtime: Runtime) -> None:
    spend(runtime, 0.36)
    assert budget(runtime, seconds=30) == "day 12 % of $3.00, month 0 % of $100.00"
    assert not alerts(runtime) and not crossings(runtime) and not halts(runtime)


@pytest.mark.parametrize("usd", [2.39, 2.4])
def test_a_level_is_crossed_when_it_is_reached(runtime: Runtime, usd: float) -> None:
    spend(runtime, usd)
    budget(runtime, seconds=30)
    assert crossings(runtime) == ([("budget_day", "2026-11-20", 0.8, True)] if usd == 2.4 else [])


def test_a_crossing_is_told_once_however_often_it_is_looked_at(runtime: Runtime) -> None:
    spend(runtime, 2.5)
    assert budget(runtime, seconds=30).endswith("; 1 alert written")
    for _ in range(3):
        assert budget(runtime, seconds=30) == "day 83 % of $3.00, month 2 % of $100.00"
    assert titles(runtime) == ["80 % of the day's budget for calls is used"]
    (alert,) = alerts(runtime)
    assert (alert["kind"], alert["severity"], alert["status"]) == ("budget", "warning", "pending")
    assert alert["title"].startswith("DEMO ") and alert["source"] == "demo" and alert["run_id"] == "budget_sensor"
    for part in ("$2.5000 of $3.00 (83.3 %)", "$0.5000 left", "Means: ", "Do: ", "V7_DAILY_BUDGET_USD",
                 "2026-11-21 00:00 UTC (2026-11-21 01:00 in Prague)"):  # fmt: skip
        assert part in alert["body"]


def test_several_levels_at_once_are_one_alert_of_the_highest_and_a_row_each(runtime: Runtime) -> None:
    spend(runtime, 2.9)
    budget(runtime, seconds=30)
    assert [row[2] for row in crossings(runtime)] == [0.8, 0.95]
    assert titles(runtime) == ["95 % of the day's budget for calls is used"]
    assert alerts(runtime)[0]["severity"] == "critical"


def test_a_level_is_armed_again_only_two_points_below(runtime: Runtime) -> None:
    spend(runtime, 2.4)  # 80 %
    budget(runtime, seconds=30)
    respend(runtime, 2.35)  # 78.3 %: it trembles
    budget(runtime, seconds=30)
    respend(runtime, 2.41)
    budget(runtime, seconds=30)
    assert len(alerts(runtime)) == 1
    respend(runtime, 2.3)  # 76.7 %
    budget(runtime, seconds=30)
    assert [row[3] for row in crossings(runtime)] == [False]
    respend(runtime, 2.41)
    budget(runtime, seconds=30)
    assert titles(runtime) == ["80 % of the day's budget for calls is used"] * 2
    assert [row[3] for row in crossings(runtime)] == [False, True]


def test_a_new_day_starts_fresh_and_the_month_goes_on(make_settings: Make) -> None:
    runtime = watched(make_settings, monthly_budget_usd=6.0)
    spend(runtime, 2.5)
    budget(runtime, seconds=30)
    runtime.clock.now += DAY  # type: ignore[attr-defined]
    assert budget(runtime) == "day 0 % of $3.00, month 42 % of $6.00"
    spend(runtime, 2.5)
    budget(runtime, seconds=30)
    assert titles(runtime) == [
        "80 % of the day's budget for calls is used",
        "80 % of the day's budget for calls is used",
        "80 % of the month's budget for calls is used",
    ]
    assert crossings(runtime)[1:] == [
        ("budget_day", "2026-11-21", 0.8, True), ("budget_month", "2026-11", 0.8, True)
    ]  # fmt: skip


def test_an_open_reservation_counts_at_its_worst_case(runtime: Runtime) -> None:
    spend(runtime, 1.0, reserved_usd=2.5)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE llm_calls SET cost_usd = NULL, settled_at = NULL, status = 'reserved'")
    assert budget(runtime, seconds=30).startswith("day 83 % of $3.00")


def test_a_restart_changes_nothing(runtime: Runtime, make_settings: Make) -> None:
    spend(runtime, 2.9)
    budget(runtime, seconds=30)
    put_closed(runtime, -3_000.0, NOW - 10 * MINUTE)
    account(runtime, seconds=30)
    before = (alerts(runtime), crossings(runtime))
    for _ in range(2):
        again = build_runtime(runtime.settings, clock=runtime.clock)
        budget(again, seconds=30)
        account(again, seconds=30)
    assert (alerts(runtime), crossings(runtime)) == before and len(before[0]) == 2


class Between:
    """A store before whose first transaction somebody else is quicker."""

    def __init__(self, store: Store, act: Callable[[], Any]) -> None:
        self._store, self._act = store, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def transaction(self) -> Any:
        act, self._act = self._act, lambda: None
        act()
        return self._store.transaction()


@pytest.mark.parametrize("look", [watch_budget, watch_account])
@pytest.mark.parametrize("later", [False, True])
def test_two_evaluations_at_once_write_one_alert(runtime: Runtime, look: Any, later: bool) -> None:
    """The other one's look is as old as ours, or a second younger; it writes after we have looked."""
    spend(runtime, 4.0)
    put_closed(runtime, -6_000.0, NOW - 10 * MINUTE)
    put_scan(runtime, NOW.replace(second=0) - DAY)
    other = build_runtime(runtime.settings, clock=lambda: NOW + timedelta(seconds=later))
    ours = build_runtime(
        runtime.settings, clock=lambda: NOW, store=Between(runtime.store, lambda: look(other, "the other"))
    )
    look(ours, "ours")
    assert {row["run_id"] for row in alerts(runtime)} == {"the other"}
    alone = (alerts(runtime), crossings(runtime), halts(runtime))
    look(build_runtime(runtime.settings, clock=lambda: NOW), "late")
    assert (alerts(runtime), crossings(runtime), halts(runtime)) == alone
    assert len(halts(runtime)) == 1


def test_an_older_look_does_not_take_back_what_a_younger_one_saw(runtime: Runtime) -> None:
    """A daemon that looked before the spending and writes after it must not arm the level again."""
    spend(runtime, 2.5)
    budget(runtime, seconds=30)
    respend(runtime, 0.1)
    watch_budget(build_runtime(runtime.settings, clock=lambda: NOW), "late")
    assert [row[3] for row in crossings(runtime)] == [True]


# --- no room: the halt of paid calls --------------------------------------------------------


def test_without_room_for_one_more_call_paid_calls_halt_until_the_day_ends(runtime: Runtime) -> None:
    spend(runtime, 2.95, reserved_usd=0.06)  # $0.05 are left, and the newest call set $0.06 aside
    budget(runtime, seconds=29)
    (halt,) = halts(runtime)
    assert (halt["halt_id"], halt["kind"]) == ("budget-day-2026-11-20", "budget")
    assert halt["until"] == datetime(2026, 11, 21, tzinfo=UTC) and halt["lifted_at"] is None
    assert "$3.00 has no room for another call: $2.9500 used, a call sets $0.0600 aside" in halt["reason"]
    assert titles(runtime) == ["The day's budget has no room for another call"]
    assert [row[2] for row in crossings(runtime)] == [0.8, 0.95, 1.0]


def test_with_room_for_exactly_one_more_call_nothing_halts(runtime: Runtime) -> None:
    spend(runtime, 2.95, reserved_usd=0.05)
    budget(runtime, seconds=30)
    assert not halts(runtime) and [row[2] for row in crossings(runtime)] == [0.8, 0.95]


def test_the_months_halt_lasts_until_the_next_month(make_settings: Make) -> None:
    runtime = watched(make_settings, monthly_budget_usd=3.0)
    runtime.clock.now = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)  # type: ignore[attr-defined]
    spend(runtime, 3.0, reserved_usd=0.01)
    budget(runtime, seconds=30)
    ends = {row["halt_id"]: row["until"] for row in halts(runtime)}
    assert ends == dict.fromkeys(
        ("budget-day-2026-12-31", "budget-month-2026-12"), datetime(2027, 1, 1, tzinfo=UTC)
    )  # fmt: skip


def test_when_room_comes_back_the_budgets_halt_is_lifted_and_a_second_one_is_a_halt_of_its_own(
    runtime: Runtime, make_settings: Make
) -> None:
    spend(runtime, 3.0, reserved_usd=0.01)
    budget(runtime, seconds=30)
    raised = build_runtime(make_settings(mode="demo", daily_budget_usd=5.0), clock=runtime.clock)
    budget(raised, seconds=30)
    (halt,) = halts(runtime)
    assert halt["lifted_at"] == runtime.clock() + timedelta(microseconds=1)
    assert halt["lifted_reason"] == "the budget has room again"
    assert titles(runtime, "resume") == ["The day's budget has room again: paid calls go on"]
    assert not halts_in_force(runtime.store, runtime.clock() + MINUTE)
    spend(raised, 2.0, reserved_usd=0.01)
    budget(raised, seconds=30)
    again = halts(runtime)
    assert [row["halt_id"] for row in again] == ["budget-day-2026-11-20", "budget-day-2026-11-20-again-2"]
    assert again[0] == halt, "the first one's history stays as it was"
    assert [row["halt_id"] for row in halts_in_force(runtime.store, runtime.clock() + MINUTE)] == [again[1]["halt_id"]]


def test_a_budget_of_nothing_is_no_crossing(make_settings: Make) -> None:
    runtime = watched(make_settings, daily_budget_usd=0.0)
    assert budget(runtime, seconds=30) == "day no budget, month 0 % of $100.00"
    assert not alerts(runtime)


# --- the account's levels -------------------------------------------------------------------


def test_a_quiet_account_writes_nothing_and_tells_its_figures(runtime: Runtime) -> None:
    put_closed(runtime, -600.0, NOW - 10 * MINUTE)
    assert account(runtime, seconds=30) == "daily 12 % of $5,000.00 used, total 6 % of $10,000.00 used, target -6 %"
    assert not alerts(runtime) and not crossings(runtime) and not halts(runtime)


def test_allowances_are_told_at_50_80_and_100_percent_and_a_breach_halts(runtime: Runtime) -> None:
    put_closed(runtime, -2_500.0, NOW - 10 * MINUTE)
    account(runtime)
    put_closed(runtime, -1_500.0, NOW - 9 * MINUTE)
    account(runtime, minutes=1)
    put_closed(runtime, -1_000.0, NOW - 8 * MINUTE)
    account(runtime, minutes=1)  # exactly at the limit: used up, not broken
    assert not halts(runtime)
    put_closed(runtime, -1.0, NOW - 7 * MINUTE)
    account(runtime, minutes=1)
    assert [row["kind"] for row in halts(runtime)] == ["daily"]
    assert len(alerts(runtime)) == 5
    severities = {row["title"].removeprefix("DEMO "): row["severity"] for row in alerts(runtime)}
    assert severities == {
        "FTMO: 50 % of the daily allowance is used": "warning",
        "FTMO: 80 % of the daily allowance is used": "warning",
        "FTMO: the daily allowance is used up": "critical",
        "FTMO: 50 % of the maximum loss allowance is used": "warning",
        "HALT: the daily loss limit is broken": "critical",
    }
    body = alerts(runtime, "ftmo")[0]["body"]
    for part in ("Used: $2,500.00 of $5,000.00 (50.0 %)", "Equity: $97,500.00, limit $95,000.00, room $2,500.00",
                 "2026-11-20 23:00 UTC (2026-11-21 00:00 in Prague)", "Do: "):  # fmt: skip
        assert part in body


def test_an_allowance_is_armed_again_when_the_equity_has_come_back(runtime: Runtime) -> None:
    put_closed(runtime, -2_500.0, NOW - 10 * MINUTE)
    account(runtime)
    put_closed(runtime, +90.0, NOW - 9 * MINUTE)  # 48.2 %
    account(runtime, minutes=1)
    assert [row[3] for row in crossings(runtime)] == [True]
    put_closed(runtime, +20.0, NOW - 8 * MINUTE)  # 47.8 %
    account(runtime, minutes=1)
    assert [row[3] for row in crossings(runtime)] == [False]
    put_closed(runtime, -200.0, NOW - 7 * MINUTE)
    account(runtime, minutes=1)
    assert len(alerts(runtime)) == 2


def test_a_broken_daily_limit_stays_told_although_the_equity_comes_back(runtime: Runtime) -> None:
    put_closed(runtime, -5_001.0, NOW - 10 * MINUTE)
    account(runtime)
    put_closed(runtime, +3_000.0, NOW - 9 * MINUTE)
    before = alerts(runtime)
    assert account(runtime, minutes=1).endswith("daily limit broken")
    daily = [row for row in crossings(runtime) if row[0] == "ftmo_daily"]
    assert [row[2:] for row in daily] == [(0.5, True), (0.8, True), (1.0, True)]
    assert alerts(runtime) == before


def test_a_daily_halt_ends_at_the_firms_midnight_and_the_next_day_starts_fresh(runtime: Runtime) -> None:
    put_closed(runtime, -5_500.0, NOW - 10 * MINUTE)
    account(runtime)
    (halt,) = halts(runtime)
    assert (halt["halt_id"], halt["until"]) == ("daily-2026-11-20", datetime(2026, 11, 20, 23, tzinfo=UTC))
    assert halt["reason"] == (
        "equity fell below the daily limit of $95,000.00 at 2026-11-20 11:50 UTC: "
        "lowest today $94,500.00, now $94,500.00"
    )
    assert not halts_in_force(runtime.store, NOW) and halts_in_force(runtime.store, NOW + MINUTE)
    assert not halts_in_force(runtime.store, datetime(2026, 11, 20, 23, tzinfo=UTC))
    put_closed(runtime, -2_600.0, datetime(2026, 11, 20, 23, 5, tzinfo=UTC))
    runtime.clock.now = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)  # type: ignore[attr-defined]
    account(runtime)
    assert ("ftmo_daily", "2026-11-21", 0.5, True) in crossings(runtime)
    assert len(halts(runtime)) == 1


def test_a_lifted_total_halt_is_not_written_again_for_the_same_breach(runtime: Runtime) -> None:
    from v7_pipeline.scan.halts import resume
    from v7_pipeline_tests.scan.watched import MARKS

    put_closed(runtime, -10_500.0, NOW - 10 * MINUTE)
    account(runtime)
    (halt,) = halts(runtime)
    assert (halt["kind"], halt["until"], halt["halt_id"]) == ("total", None, "total-20261120T115000Z")
    runtime.clock.now += MINUTE  # type: ignore[attr-defined]
    resume(runtime.store, "talked to the firm", at=runtime.clock(), provenance=MARKS, marks={"demo": True})
    before = len(alerts(runtime))
    account(runtime, minutes=1)
    (halt,) = halts(runtime)
    assert halt["lifted_reason"] == "talked to the firm" and len(alerts(runtime)) == before


def test_the_target_is_told_with_what_is_missing_to_pass(runtime: Runtime) -> None:
    put_closed(runtime, +10_000.0, NOW - 10 * MINUTE)
    account(runtime)
    account(runtime, minutes=1)
    assert titles(runtime) == ["FTMO: the profit target is reached"]
    (alert,) = alerts(runtime)
    assert alert["severity"] == "info"
    assert "target $110,000.00" in alert["body"] and "not passable yet: 3 more trading day(s)" in alert["body"]


def test_rules_without_a_target_have_none_to_cross(make_settings: Make) -> None:
    runtime = watched(make_settings, ftmo_rules="ftmo-2step-funded")
    put_closed(runtime, +10_000.0, NOW - 10 * MINUTE)
    assert "target" not in account(runtime)
    assert not alerts(runtime)


def test_the_rolled_day_is_told_once_with_yesterdays_figures_and_not_on_a_fresh_store(runtime: Runtime) -> None:
    put_scan(runtime, NOW.replace(second=0))
    put_closed(runtime, +321.0, NOW - 10 * MINUTE)
    account(runtime)
    assert not alerts(runtime), "no day has rolled over since the first scan"
    runtime.clock.now = datetime(2026, 11, 20, 22, 59, 59, tzinfo=UTC)  # type: ignore[attr-defined]
    account(runtime)
    assert not alerts(runtime)
    for seconds in (1, 60, 60):
        account(runtime, seconds=seconds)
    (alert,) = alerts(runtime)
    assert alert["title"] == "DEMO FTMO day 2026-11-21 has begun" and alert["severity"] == "info"
    assert alert["created_at"] == datetime(2026, 11, 20, 23, tzinfo=UTC)
    for part in ("Yesterday: closed P/L +$321.00", "daily $95,321.00, maximum loss $90,000.00; room $5,000.00",
                 "2026-11-21 23:00 UTC (2026-11-22 00:00 in Prague)"):  # fmt: skip
        assert part in alert["body"]


def test_days_that_passed_in_downtime_are_not_told_afterwards(runtime: Runtime) -> None:
    put_scan(runtime, NOW.replace(second=0))
    account(runtime, days=3)
    assert titles(runtime) == ["FTMO day 2026-11-23 has begun"]
    assert "Yesterday: nothing was closed" in alerts(runtime)[0]["body"]


def test_the_day_that_the_clocks_change_is_told_at_its_own_midnight(runtime: Runtime) -> None:
    put_scan(runtime, datetime(2027, 3, 27, 12, tzinfo=UTC))
    runtime.clock.now = datetime(2027, 3, 28, 22, 0, 5, tzinfo=UTC)  # type: ignore[attr-defined]
    account(runtime)
    (alert,) = alerts(runtime)
    assert alert["created_at"] == datetime(2027, 3, 28, 22, tzinfo=UTC) and "2027-03-29" in alert["title"]


# --- the halts that a breach calls for ------------------------------------------------------


def test_no_breach_calls_for_no_halt() -> None:
    now = at("2026-11-20T12:00Z")
    assert breach_halts(state(book(closed(-4_999, at("2026-11-20T10:00Z"))), now), now) == []


@pytest.mark.parametrize(("rules", "limit"), [(TWO_STEP, "$90,000.00"), (ONE_STEP, "$94,000.00")])
def test_a_total_breach_of_another_day_names_its_instant_and_no_low_of_today(rules: Any, limit: str) -> None:
    rows = book(closed(+4_000, at("2026-11-16T10:00Z")), closed(-15_000, at("2026-11-17T10:00Z")))
    now = at("2026-11-20T12:00Z")
    (halt,) = breach_halts(state(rows, now, rules=rules), now)
    assert (halt["kind"], halt["until"], halt["halt_id"]) == ("total", None, "total-20261117T100000Z")
    assert f"maximum-loss limit of {limit} at 2026-11-17 10:00 UTC: now $89,000.00" in halt["reason"]
    assert halt["started_at"] > now, "the scan that saw it is judged by its own gates"
