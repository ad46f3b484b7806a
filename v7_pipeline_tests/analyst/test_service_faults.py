"""Every fault that the service is known for, over real HTTP against the sandbox: what it ends in, and what it costs.

One attempt is one request and one row of the ledger; only what may be retried is; the deadline is total.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from v7_pipeline.analyst.base import AnalystError
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.gates import ANALYST_REASONS
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.store import Store
from v7_pipeline_tests.analyst.conftest import HOLD, NOW, ScriptedServer, analyst, completion, question

Serve = Callable[..., ScriptedServer]

# fault → the reason of the abstention, how its rows end, and whether another attempt may help
AGAIN: dict[str, tuple[dict[str, Any], str, str]] = {
    "429": ({"kind": "status", "status": 429}, "RATE_LIMITED", "failed"),
    "429 with Retry-After": ({"kind": "status", "status": 429, "retry_after": 60}, "RATE_LIMITED", "failed"),
    "500": ({"kind": "status", "status": 500}, "SERVER_ERROR", "failed"),
    "502 of a proxy": ({"kind": "status", "status": 502, "body": "<html>bad gateway"}, "SERVER_ERROR", "failed"),
    "503": ({"kind": "status", "status": 503}, "SERVER_ERROR", "failed"),
    "504": ({"kind": "status", "status": 504}, "SERVER_ERROR", "failed"),
    "blank content": ({"kind": "blank"}, "BLANK", "settled"),
    "insufficient_system_resource": (
        {"kind": "finish", "finish_reason": "insufficient_system_resource"}, "OVERLOADED", "settled"
    ),
    "blank body": ({"kind": "blank", "where": "body"}, "UNREADABLE", "unknown"),
    "a body cut in the middle of its JSON": ({"kind": "malformed_json", "where": "body"}, "UNREADABLE", "unknown"),
    "no choices": ({"kind": "empty"}, "UNREADABLE", "unknown"),
    "connection cut within the body": ({"kind": "truncate"}, "CONNECTION", "unknown"),
    "connection closed": ({"kind": "outage"}, "CONNECTION", "unknown"),
    "connection reset": ({"kind": "reset"}, "CONNECTION", "unknown"),
}  # fmt: skip
ONCE: dict[str, tuple[dict[str, Any], str]] = {
    "length": ({"kind": "finish", "finish_reason": "length"}, "TRUNCATED"),
    "content_filter": ({"kind": "finish", "finish_reason": "content_filter"}, "FILTERED"),
    "tool_calls": ({"kind": "finish", "finish_reason": "tool_calls"}, "UNEXPECTED_FINISH"),
    "an unknown finish": ({"kind": "finish", "finish_reason": "weather"}, "UNEXPECTED_FINISH"),
}
REPAIRED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"kind": "malformed_json"}, "NOT_JSON"),
    "another schema": ({"kind": "wrong_schema"}, "SCHEMA"),
    "prose": ({"kind": "content", "content": "I would not BUY here"}, "NOT_JSON"),
}
SLOW: dict[str, dict[str, Any]] = {
    "silence": {"kind": "delay", "delay_s": 30},
    "blank lines while queued": {"kind": "blank_lines", "delay_s": 30},
    "byte by byte": {"kind": "slow_drip", "delay_s": 30},
}


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(seed=7, clock=lambda: NOW) as running:
        yield running


def decide(ledger: Ledger, server: SandboxServer, **changes: Any) -> Any:
    (decision,) = analyst(ledger, server.url, **changes).decide([question(direction=1.0)], now=NOW)
    return decision


def rows(store: Store, server: SandboxServer) -> list[dict[str, Any]]:
    """The ledger's rows: as many as there were requests, each ended and charged."""
    found = store.rows("SELECT * FROM llm_calls ORDER BY attempt")
    assert [row["attempt"] for row in found] == list(range(1, server.counts.get("chat", 0) + 1))
    for row in found:
        assert row["settled_at"] is not None and row["status"] != "reserved"
        charged = {"failed": 0.0, "unknown": row["reserved_usd"]}.get(row["status"])
        assert row["cost_usd"] == charged if charged is not None else 0 < row["cost_usd"] < row["reserved_usd"]
    return found


@pytest.mark.parametrize("name", AGAIN)
def test_what_may_be_retried_is_and_then_answered(
    name: str, server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    fault, reason, status = AGAIN[name]
    server.fault("chat", count=1, **fault)
    decision = decide(ledger, server)
    assert (decision.status, decision.answer.side) == ("answered", "BUY")
    first, second = rows(store, server)
    assert (first["status"], second["status"]) == (status, "settled")
    assert first["error"].startswith(f"{reason}: ") and second["error"] is None
    assert decision.cost_usd == pytest.approx(first["cost_usd"] + second["cost_usd"])


@pytest.mark.parametrize("name", AGAIN)
def test_what_stays_broken_is_an_abstention_after_the_retries(
    name: str, server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    fault, reason, status = AGAIN[name]
    server.fault("chat", **fault)
    decision = decide(ledger, server, retries=1)
    assert (decision.status, decision.status_reason, decision.answer) == ("abstained", reason, None)
    assert reason in ANALYST_REASONS
    assert [row["status"] for row in rows(store, server)] == [status] * 2


@pytest.mark.parametrize("name", ONCE)
def test_what_asking_again_cannot_mend_is_asked_once(
    name: str, server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    fault, reason = ONCE[name]
    server.fault("chat", **fault)
    decision = decide(ledger, server)
    assert (decision.status, decision.status_reason, decision.answer) == ("abstained", reason, None)
    (row,) = rows(store, server)
    assert row["status"] == "settled" and row["finish_reason"] == fault["finish_reason"]
    assert reason in ANALYST_REASONS


@pytest.mark.parametrize("name", REPAIRED)
def test_a_faulty_reply_is_repaired_once_and_never_twice(
    name: str, server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    fault, reason = REPAIRED[name]
    server.fault("chat", **fault)
    decision = decide(ledger, server)
    assert (decision.status, decision.status_reason, decision.answer) == ("abstained", reason, None)
    assert [row["status"] for row in rows(store, server)] == ["settled"] * 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_what_may_never_be_retried_is_raised_at_once(
    status: int, server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    server.fault("chat", "status", status=status)
    with pytest.raises(AnalystError, match=f"HTTP {status} "):
        decide(ledger, server)
    (row,) = rows(store, server)
    assert row["status"] == "failed" and row["error"].startswith(f"REFUSED: HTTP {status}")


@pytest.mark.parametrize("name", SLOW)
def test_the_deadline_is_total_whatever_trickles(
    name: str, server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    server.fault("chat", **SLOW[name])
    decide(ledger, server, deadline_s=0.2)  # the client's imports apart
    started = time.perf_counter()
    (decision,) = analyst(ledger, server.url, deadline_s=1.0).decide([question("ETH-USD")], now=NOW)
    assert time.perf_counter() - started < 20
    assert (decision.status, decision.status_reason) == ("abstained", "TIMEOUT")
    late = store.rows("SELECT * FROM llm_calls WHERE symbol = 'ETH-USD' ORDER BY attempt")
    # An attempt gets half of the deadline, so that one that hangs can be tried again; both may be billed.
    assert 1 <= len(late) <= 3 and {row["status"] for row in late} == {"unknown"}
    assert decision.cost_usd == pytest.approx(sum(row["reserved_usd"] for row in late))


@pytest.mark.parametrize("kind", ["blank_lines", "slow_drip", "delay"])
def test_an_answer_that_queued_within_the_deadline_counts(
    kind: str, server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    server.fault("chat", kind, delay_s=0.5)
    assert decide(ledger, server).status == "answered"
    (row,) = rows(store, server)
    assert row["status"] == "settled" and row["latency_s"] > 0.3


def test_a_retry_after_is_not_waited_for_beyond_the_deadline(
    server: SandboxServer, ledger: Ledger, store: Store
) -> None:
    server.fault("chat", "status", status=429, retry_after=60)
    started = time.perf_counter()
    decision = decide(ledger, server, deadline_s=40.0)
    assert decision.status_reason == "RATE_LIMITED" and time.perf_counter() - started < 30


def test_one_symbols_fault_is_not_the_others(server: SandboxServer, ledger: Ledger, store: Store) -> None:
    server.fault("chat", "status", status=500, symbol="ETH-USD")
    asked = [question(symbol) for symbol in ("BTC-USD", "ETH-USD", "SOL-USD")]
    decisions = analyst(ledger, server.url, retries=1).decide(asked, now=NOW)
    assert [decision.status for decision in decisions] == ["answered", "abstained", "answered"]
    counted = store.rows("SELECT symbol, count(*) AS n FROM llm_calls GROUP BY symbol ORDER BY symbol")
    assert [row["n"] for row in counted] == [1, 2, 1] and server.counts["chat"] == 4


def test_blank_lines_alone_are_unreadable_and_before_an_answer_they_are_no_part_of_it(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    scripted = serve((200, "\n\n\n"), (200, "\n\n" + completion(json.dumps(HOLD))))
    (decision,) = analyst(ledger, scripted.url).decide([question()], now=NOW)
    assert decision.status == "answered"
    assert [row["status"] for row in store.rows("SELECT status FROM llm_calls ORDER BY attempt")] == [
        "unknown",
        "settled",
    ]
