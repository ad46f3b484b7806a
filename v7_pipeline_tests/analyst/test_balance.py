"""Unknown calls are settled by what the provider's account fell, over real HTTP; never above their reserve."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from v7_pipeline.analyst.balance import Balance, ReconcileError, Reconciliation, ask_balance, read_balance, reconcile
from v7_pipeline.analyst.base import AnalystError
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.store import Store, arrow_rows
from v7_pipeline_tests.analyst.conftest import KEY, PROVENANCE, analyst, question
from v7_pipeline_tests.analyst.test_costs import call

START = datetime(2026, 11, 20, 11, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(clock=lambda: START) as server:
        yield server


def ask(server: SandboxServer) -> Balance:
    return ask_balance(server.url, SecretStr(KEY), timeout_s=5)


def compare(store: Store, total: float, at: datetime, *, topped_up: float | None = None, **more: Any) -> Reconciliation:
    return reconcile(store, Balance(total, 0.0, topped_up), at, "deepseek", PROVENANCE, **more)


def write(store: Store, *rows: dict[str, Any]) -> None:
    with store.transaction() as tx:
        tx.insert_new("llm_calls", arrow_rows("llm_calls", rows))


def unknown(number: int, reserved: float = 0.05, at: datetime = START + HOUR / 2) -> dict[str, Any]:
    return call(number, at, reserved, reserved_usd=reserved, status="unknown", error="TIMEOUT: no answer within 5 s")


def test_a_call_that_was_answered_too_late_is_settled_by_what_the_account_paid(
    store: Store, ledger: Ledger, sandbox: SandboxServer
) -> None:
    reconcile(store, ask(sandbox), START, "deepseek", PROVENANCE)
    clock = lambda: START + HOUR / 2  # noqa: E731
    sandbox.account.charge("deepseek-flash", _usage(100_000), START)  # what makes cents of it
    write(store, unknown(1, reserved=0.08))
    (decision,) = analyst(ledger, sandbox.url, clock=clock).decide([question()], now=clock())
    assert decision.status == "answered" and decision.cost_usd > 0
    found = reconcile(store, ask(sandbox), START + HOUR, "deepseek", PROVENANCE)
    assert found.outcome == "settled" and found.charged is not None
    true = 100_000 * 0.15 / 1e6
    assert true <= found.charged <= true + 0.02 < 0.08
    row = store.rows("SELECT status, cost_usd, error FROM llm_calls WHERE call_id = 'deepseek-1'")[0]
    assert row["status"] == "settled" and row["cost_usd"] == pytest.approx(found.charged)
    assert row["error"] == "TIMEOUT: no answer within 5 s; settled by the balance of 2026-11-20 12:00Z"
    total = store.rows("SELECT sum(cost_usd) AS usd FROM llm_calls")[0]["usd"]
    assert sandbox.account.charged_usd <= total, "the ledger never knows less than was billed"


def test_the_first_balance_is_kept_and_settles_nothing(store: Store) -> None:
    write(store, unknown(1, at=START - HOUR))
    assert compare(store, 110.0, START).outcome == "first"
    (row,) = store.rows("SELECT * FROM balances")
    assert (row["total_usd"], row["known_usd"], row["unknown_usd"]) == (110.0, 0.0, 0.05)
    assert compare(store, 110.0, START + HOUR).outcome == "nothing_unknown", "what was before the first is not asked of"


def test_shares_go_by_the_reserve_and_one_cent_covers_the_rounding(store: Store) -> None:
    compare(store, 110.0, START)
    write(store, unknown(1, 0.30), unknown(2, 0.10), call(3, START + HOUR / 2, 0.25))
    found = compare(store, 109.70, START + HOUR)
    assert (found.outcome, found.unknown) == ("settled", 2)
    assert found.charged == pytest.approx(0.30 - 0.25 + 0.01)
    costs = dict(_pairs(store, "SELECT call_id, cost_usd FROM llm_calls"))
    assert costs["deepseek-1"] == pytest.approx(0.06 * 3 / 4) and costs["deepseek-2"] == pytest.approx(0.06 / 4)
    newest = store.rows("SELECT known_usd, unknown_usd FROM balances ORDER BY asked_at DESC LIMIT 1")[0]
    assert newest["known_usd"] == pytest.approx(0.31) and newest["unknown_usd"] == pytest.approx(0.0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    true=st.lists(st.floats(0, 0.05), min_size=1, max_size=6),
    settled=st.lists(st.floats(0, 0.05), max_size=6),
    start=st.floats(1, 200),
)
def test_the_ledger_never_ends_below_what_was_billed_nor_above_the_worst_case(
    store: Store, true: list[float], settled: list[float], start: float
) -> None:
    with store.transaction() as tx:
        tx.execute("DELETE FROM llm_calls")
        tx.execute("DELETE FROM balances")
    cents = lambda usd: int(usd * 100) / 100  # noqa: E731 - the service rounds down
    compare(store, cents(start), START)
    write(
        store,
        *(unknown(i) for i in range(len(true))),
        *(call(10 + i, START + HOUR / 2, usd) for i, usd in enumerate(settled)),
    )
    billed = sum(true) + sum(settled)
    found = compare(store, cents(start - billed), START + HOUR)
    total = store.rows("SELECT sum(cost_usd) AS usd FROM llm_calls")[0]["usd"]
    assert found.outcome == "settled"
    assert billed - 1e-6 <= total <= min(billed + 0.03, sum(settled) + 0.05 * len(true)) + 1e-6


def test_what_the_ledger_cannot_explain_leaves_the_worst_cases(store: Store) -> None:
    compare(store, 110.0, START)
    write(store, unknown(1))
    found = compare(store, 109.0, START + HOUR)
    assert (found.outcome, found.charged) == ("unexplained", None)
    assert dict(_pairs(store, "SELECT call_id, status FROM llm_calls")) == {"deepseek-1": "unknown"}


@pytest.mark.parametrize(("total", "topped_up"), [(120.0, None), (109.0, 150.0)])
def test_a_topped_up_account_begins_anew(store: Store, total: float, topped_up: float | None) -> None:
    compare(store, 110.0, START, topped_up=100.0)
    write(store, unknown(1))
    assert compare(store, total, START + HOUR, topped_up=topped_up).outcome == "topped_up"
    assert store.rows("SELECT count(*) AS n FROM balances")[0]["n"] == 2
    assert compare(store, total, START + 2 * HOUR, topped_up=topped_up).outcome == "nothing_unknown"


def test_a_balance_that_lags_behind_is_not_kept(store: Store) -> None:
    compare(store, 110.0, START)
    write(store, unknown(1), call(2, START + HOUR / 2, 0.5))
    with pytest.raises(ReconcileError, match=r"fell by \$0.10, less than the \$0.5000 of the settled calls"):
        compare(store, 109.9, START + HOUR)
    assert store.rows("SELECT count(*) AS n FROM balances")[0]["n"] == 1
    assert compare(store, 109.48, START + 2 * HOUR).outcome == "settled"


def test_a_call_under_way_is_waited_for_and_a_lost_one_is_unknown(store: Store) -> None:
    compare(store, 110.0, START)
    open_ = call(1, START + HOUR / 2, None, status="reserved")
    write(store, open_)
    with pytest.raises(ReconcileError, match=r"1 call\(s\) of deepseek are under way"):
        compare(store, 110.0, START + HOUR)
    found = compare(store, 110.0, START + 3 * HOUR)
    assert (found.outcome, found.unknown) == ("settled", 1)
    assert found.charged == pytest.approx(0.01)


def test_a_dry_run_writes_nothing(store: Store) -> None:
    compare(store, 110.0, START)
    write(store, unknown(1))
    assert compare(store, 110.0, START + HOUR, dry_run=True).charged == pytest.approx(0.01)
    assert dict(_pairs(store, "SELECT call_id, status FROM llm_calls")) == {"deepseek-1": "unknown"}
    assert store.rows("SELECT count(*) AS n FROM balances")[0]["n"] == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"status": 401}, "the key was refused"),
        ({"status": 503}, "HTTP 503"),
        ({"status": 200, "body": '{"balance_infos": [{"currency": "CNY", "total_balance": "7.00"}]}'}, "in CNY"),
        ({"status": 200, "body": "[]"}, "no balance_infos"),
    ],
)
def test_an_unusable_answer_is_one_sentence_without_the_key(
    sandbox: SandboxServer, fault: dict[str, Any], told: str
) -> None:
    sandbox.fault("balance", "status", **fault)
    with pytest.raises(AnalystError, match=told) as failed:
        ask(sandbox)
    assert KEY not in str(failed.value)


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(AnalystError, match="did not answer"):
        ask_balance("http://127.0.0.1:9", SecretStr(KEY), timeout_s=1)


@pytest.mark.parametrize("total", ["NaN", None, "a lot", "inf"])
def test_a_total_that_is_no_number_is_refused(total: Any) -> None:
    with pytest.raises(ValueError, match="total_balance"):
        read_balance({"balance_infos": [{"currency": "USD", "total_balance": total}]})


def _usage(prompt: int) -> Any:
    from v7_pipeline.analyst.prices import Usage

    return Usage(prompt, 0, 0)


def _pairs(store: Store, sql: str) -> list[tuple[Any, Any]]:
    return [tuple(row.values()) for row in store.rows(sql)]  # type: ignore[misc]
