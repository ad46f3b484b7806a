"""The breaker: when the analyst rests, who decides meanwhile, how it comes back, and that scans go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from v7_pipeline.analyst.base import ANALYST_RESTING, AnalystError
from v7_pipeline.analyst.breaker import Breaker, RestingAnalyst
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.prices import UnknownPriceError
from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.gates import ANALYST_REASONS
from v7_pipeline.scan.run import run_scan
from v7_pipeline.store import Store
from v7_pipeline_tests.analyst.conftest import (
    HOLD,
    KEY,
    NOW,
    PROVENANCE,
    ScriptedServer,
    analyst,
    completion,
    error,
    hang_up,
    question,
)

Serve = Callable[..., ScriptedServer]
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
REST = timedelta(seconds=600)
BROKEN, GOOD = (500, error("Server Error")), (200, completion(json.dumps(HOLD)))


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Behind:
    """An analyst behind a breaker, its server's script and its clock."""

    server: ScriptedServer
    store: Store
    ledger: Ledger
    clock: Clock

    def scan(self, minute: int, *, symbols: tuple[str, ...] = SYMBOLS, fallback: Any = None, **changes: Any) -> Any:
        """Decisions of a scan this many minutes after NOW."""
        self.clock.now = NOW + timedelta(minutes=minute)
        inner = analyst(self.ledger, self.server.url, clock=self.clock, **({"retries": 0} | changes))
        breaker = Breaker(3, REST)
        resting = RestingAnalyst(inner, breaker, self.store, clock=self.clock, fallback=fallback)
        as_of = self.clock.now.replace(second=0)
        return resting.decide([question(symbol, as_of=as_of, direction=1.0) for symbol in symbols], now=as_of)

    @property
    def rows(self) -> int:
        return int(self.store.rows("SELECT count(*) AS n FROM llm_calls")[0]["n"])

    def script(self, *steps: Any) -> None:
        self.server.requests.clear()
        self.server.steps[:] = steps


@pytest.fixture
def behind(serve: Serve, store: Store, ledger: Ledger) -> Behind:
    return Behind(serve(BROKEN), store, ledger, Clock())


def told(decisions: Any) -> list[tuple[str, str | None]]:
    return [(decision.status, decision.status_reason) for decision in decisions]


def test_after_k_failures_in_a_row_nothing_is_sent_and_nothing_reserved(behind: Behind) -> None:
    assert told(behind.scan(0)) == [("abstained", "SERVER_ERROR")] * 3
    before = behind.rows
    rested = behind.scan(2)
    assert told(rested) == [("skipped", ANALYST_RESTING)] * 3
    assert {(d.analyst, d.call_id, d.cost_usd, d.answer) for d in rested} == {("deepseek", None, 0.0, None)}
    assert len(behind.server.requests) == 3 and behind.rows == before
    assert ANALYST_RESTING in ANALYST_REASONS


def test_fewer_failures_than_k_do_not_open_it(behind: Behind) -> None:
    behind.scan(0, symbols=SYMBOLS[:2])
    assert told(behind.scan(2)) == [("abstained", "SERVER_ERROR")] * 3


def test_a_success_in_between_begins_the_count_anew(behind: Behind) -> None:
    behind.scan(0, symbols=SYMBOLS[:2])
    behind.script(GOOD)
    behind.scan(2, symbols=SYMBOLS[:1])
    behind.script(BROKEN)
    behind.scan(4, symbols=SYMBOLS[:2])
    assert told(behind.scan(6, symbols=SYMBOLS[:1])) == [("abstained", "SERVER_ERROR")]


@pytest.mark.parametrize(
    "fault",
    [
        BROKEN,
        (429, error("Rate limit reached")),
        hang_up,
        (200, "<html>"),
        (200, completion("   ")),
        (200, completion("BUY!")),
        (200, completion(json.dumps(HOLD), finish="length")),
    ],
)
def test_every_kind_of_failure_counts(behind: Behind, fault: Any) -> None:
    behind.script(fault)
    behind.scan(0)
    assert told(behind.scan(2)) == [("skipped", ANALYST_RESTING)] * 3


def test_answers_that_only_lack_their_usage_are_no_failures(behind: Behind) -> None:
    behind.script((200, completion(json.dumps(HOLD), usage=None)))
    behind.scan(0)
    assert told(behind.scan(2)) == [("answered", None)] * 3


def test_attempts_of_a_process_that_died_are_nothing_that_the_analyst_did(behind: Behind) -> None:
    from v7_pipeline.analyst.deepseek import asked

    client = analyst(behind.ledger, behind.server.url)
    for minute in range(3):
        as_of = NOW.replace(second=0, minute=10 + minute)
        behind.ledger.reserve([client._call(client_asking(client, asked(question(as_of=as_of))), NOW)], NOW)
    behind.script(GOOD)
    assert told(behind.scan(90, symbols=SYMBOLS[:1])) == [("answered", None)]
    lost = behind.store.rows("SELECT status FROM llm_calls WHERE latency_s IS NULL")
    assert [row["status"] for row in lost] == ["unknown"] * 3
    assert Breaker(3, REST).state(behind.store, "deepseek", behind.clock()) == "closed"


def client_asking(client: Any, what: Any) -> Any:
    from v7_pipeline.analyst.base import call_id_of
    from v7_pipeline.analyst.deepseek import _Asking

    return _Asking(what, call_id_of(client.name, what.signal_id), what.messages, what.prompt_version)


def test_another_analysts_failures_are_its_own(behind: Behind) -> None:
    behind.scan(0, name="other")
    assert told(behind.scan(2, symbols=SYMBOLS[:1])) == [("abstained", "SERVER_ERROR")]
    assert told(behind.scan(4, symbols=SYMBOLS[:1], name="other")) == [("skipped", ANALYST_RESTING)]


def test_the_state_is_the_ledgers_so_a_new_process_rests_too(behind: Behind) -> None:
    behind.scan(0)
    fresh = Breaker(3, REST)
    assert fresh.state(behind.store, "deepseek", NOW + REST - timedelta(seconds=1)) == "resting"
    assert fresh.state(behind.store, "deepseek", NOW + REST) == "probing"
    with pytest.raises(ValueError, match="no time zone"):
        fresh.state(behind.store, "deepseek", NOW.replace(tzinfo=None))


# --- the probe ------------------------------------------------------------------------------


def test_after_the_rest_one_question_probes_and_its_failure_rests_the_others(behind: Behind) -> None:
    behind.scan(0)
    behind.script(BROKEN)
    assert told(behind.scan(10)) == [("abstained", "SERVER_ERROR"), *[("skipped", ANALYST_RESTING)] * 2]
    assert len(behind.server.requests) == 1
    assert told(behind.scan(12)) == [("skipped", ANALYST_RESTING)] * 3
    assert len(behind.server.requests) == 1, "the rest begins anew"


def test_a_probe_that_is_answered_closes_it_for_the_others_of_the_same_scan(behind: Behind) -> None:
    behind.scan(0)
    behind.script(GOOD)
    decisions = behind.scan(10)
    assert told(decisions) == [("answered", None)] * 3
    assert [d.signal_id.split("-")[1] for d in decisions] == ["BTC", "ETH", "SOL"]


def test_a_probe_that_sent_nothing_leaves_the_next_one_to_probe(behind: Behind) -> None:
    behind.scan(0)
    answered = analyst(behind.ledger, behind.server.url, name="deepseek")
    behind.script(GOOD)
    behind.clock.now = NOW - timedelta(hours=1)  # an answer from long before the failures, already paid
    as_of = (NOW + timedelta(minutes=10)).replace(second=0)
    analyst(behind.ledger, behind.server.url, clock=behind.clock).decide([question(as_of=as_of)], now=NOW)
    assert answered.name == "deepseek"
    behind.script(BROKEN)
    assert told(behind.scan(10)) == [("answered", None), ("abstained", "SERVER_ERROR"), ("skipped", ANALYST_RESTING)]
    assert len(behind.server.requests) == 1


def test_without_budget_a_probe_is_skipped_as_any_question(serve: Serve, behind: Behind) -> None:
    behind.scan(0)
    behind.ledger = Ledger(behind.store, daily_budget_usd=0.0, monthly_budget_usd=0.0, provenance=PROVENANCE)
    assert told(behind.scan(10)) == [("skipped", "BUDGET_DAY")] * 3
    assert len(behind.server.requests) == 3


# --- who decides meanwhile, and what is loud ------------------------------------------------


def test_where_the_setting_says_so_the_rules_decide_under_their_own_name(behind: Behind) -> None:
    first = behind.scan(0, fallback=RulesAnalyst())
    assert {d.analyst for d in first} == {"deepseek"}, "a failure is not papered over while it is awake"
    rested = behind.scan(2, fallback=RulesAnalyst())
    assert {(d.analyst, d.status, d.answer and d.answer.side) for d in rested} == {("rules", "answered", "BUY")}
    behind.script(BROKEN)
    probed = behind.scan(10, fallback=RulesAnalyst())
    assert [d.analyst for d in probed] == ["deepseek", "rules", "rules"]


@pytest.mark.parametrize("status", [401, 402])
def test_a_refused_key_or_an_empty_account_is_loud_until_it_opens_and_quiet_afterwards(
    behind: Behind, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    behind.script((status, error(f"no, {KEY}")))
    for minute in (0, 2, 4):
        with pytest.raises(AnalystError, match=str(status)):
            behind.scan(minute, symbols=SYMBOLS[:1])
    assert told(behind.scan(6)) == [("skipped", ANALYST_RESTING)] * 3
    assert told(behind.scan(14)) == [("skipped", ANALYST_RESTING)] * 3  # the probe was refused
    assert len(behind.server.requests) == 4
    (logged,) = [record.getMessage() for record in caplog.records if record.name.endswith("breaker")]
    assert str(status) in logged and KEY not in logged
    behind.script(GOOD)
    assert told(behind.scan(24)) == [("answered", None)] * 3


def test_a_set_up_that_cannot_send_anything_stays_loud(behind: Behind) -> None:
    behind.scan(0)
    with pytest.raises(UnknownPriceError):
        behind.scan(10, model="deepseek-next")


def test_name_and_worst_case_are_the_analysts_own(behind: Behind) -> None:
    inner = analyst(behind.ledger, behind.server.url, name="local")
    resting = RestingAnalyst(inner, Breaker(3, REST), behind.store, clock=behind.clock)
    assert (resting.name, resting.worst_case_usd) == ("local", inner.worst_case_usd)
    assert resting.decide([], now=NOW) == []


# --- whole scans ----------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", ["none", "rules"])
def test_scans_go_on_while_it_rests(make_runtime: Callable[..., Any], sandbox: Any, fallback: str) -> None:
    runtime = make_runtime(
        NOW, symbols="BTC-USD,ETH-USD", breaker_failures=2, breaker_fallback=fallback, deepseek_deadline_s=5
    )
    start = runtime.clock().replace(second=0)

    def scan(minutes: int) -> Any:
        instant = start + timedelta(minutes=minutes)
        runtime.clock = lambda: instant + timedelta(seconds=5)
        run_scan(runtime.context(instant, f"scan-{minutes}"))
        return runtime.store.rows("SELECT * FROM llm_signals WHERE as_of = ? ORDER BY symbol", (instant,))

    sandbox.fault("chat", "status", status=503)
    try:
        assert {row["status_reason"] for row in scan(0)} == {"SERVER_ERROR"}
        asked = sandbox.counts["chat"]
        rows = scan(2)
    finally:
        sandbox.faults.clear()
    assert sandbox.counts["chat"] == asked
    expected = ("skipped", ANALYST_RESTING, "deepseek") if fallback == "none" else ("answered", None, "rules")
    assert {(row["status"], row["status_reason"], row["analyst"]) for row in rows} == {expected}
    as_of = rows[0]["as_of"]
    with runtime.store.reading() as reader:
        for table, where in (
            ("candles", "open_time = ?::TIMESTAMPTZ - INTERVAL 1 MINUTE"),
            ("theory_features", "as_of = ?"),
            ("gated_signals", "as_of = ?"),
        ):
            assert reader.rows(f"SELECT count(*) AS n FROM {table} WHERE {where}", (as_of,))[0]["n"] == 2, table
    (alert,) = runtime.store.rows("SELECT * FROM alerts WHERE kind = 'analyst_resting'")
    assert alert["severity"] == "warning" and "SERVER_ERROR: HTTP 503" in alert["body"]
    assert {row["status"] for row in scan(14)} == {"answered"}, "after the rest it decides again"


def test_an_account_that_ran_empty_is_alerted_once_a_day(make_runtime: Callable[..., Any], sandbox: Any) -> None:
    runtime = make_runtime(NOW, symbols="BTC-USD,ETH-USD", breaker_failures=2)
    start = runtime.clock().replace(second=0)
    sandbox.fault("chat", "status", status=402)
    try:
        for minutes in (0, 2, 4, 14, 16):
            instant = start + timedelta(minutes=minutes)
            runtime.clock = lambda instant=instant: instant + timedelta(seconds=5)
            context = runtime.context(instant, f"scan-{minutes}")
            if minutes:
                run_scan(context)
            else:
                with pytest.raises(AnalystError, match="top it up"):
                    run_scan(context)
    finally:
        sandbox.faults.clear()
    (alert,) = runtime.store.rows("SELECT * FROM alerts WHERE kind = 'analyst_resting'")
    assert (alert["severity"], alert["run_id"]) == ("critical", "scan-2")
    assert "HTTP 402" in alert["body"] and alert["title"].startswith("DEMO deepseek rests")
