"""The client over real HTTP: what is retried, what is not, what it costs, and what never leaks."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from pydantic import SecretStr

from v7_pipeline.analyst.base import AnalystError
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.prices import UnknownPriceError
from v7_pipeline.store import Store
from v7_pipeline_tests.analyst.conftest import (
    BUY,
    HOLD,
    KEY,
    NOW,
    PROVENANCE,
    SELL,
    ScriptedServer,
    analyst,
    completion,
    drip,
    error,
    hang_up,
    question,
)

Serve = Callable[..., ScriptedServer]
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")


def rows(store: Store, columns: str = "*") -> Any:
    return store.query(f"SELECT {columns} FROM llm_calls ORDER BY call_id, attempt")


def test_a_conforming_reply_is_an_answer_at_its_true_cost(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert (decision.status, decision.status_reason, decision.analyst) == ("answered", None, "deepseek")
    assert decision.answer is not None and decision.answer.side == "BUY"
    assert decision.cost_usd == pytest.approx(0.000255)
    assert decision.call_id == f"deepseek-{question().signal_id}"
    row = rows(store).iloc[0]
    assert (row["status"], row["raw_reply"], row["fingerprint"]) == ("settled", json.dumps(BUY), "fp_1")
    assert row["reserved_usd"] > row["cost_usd"] == pytest.approx(0.000255)
    assert row["price_version"] == "deepseek-flash@2026-09-10T00:00Z/off-peak"
    assert row["prompt_version"] == decision.prompt_version
    assert json.loads(row["prompt"]) == server.requests[0]["messages"]


def test_the_request_is_what_deepseek_wants(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((200, completion(json.dumps(HOLD))))
    analyst(ledger, server.url).decide([question()], now=NOW)
    (sent,) = server.requests
    assert sent["path"] == "/chat/completions"
    assert sent["authorization"] == f"Bearer {KEY}"
    assert (sent["model"], sent["max_tokens"], sent["stream"]) == ("deepseek-flash", 600, False)
    assert sent["thinking"] == {"type": "disabled"}
    assert sent["response_format"] == {"type": "json_object"}
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert json.loads(rows(store)["parameters"][0])["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize("reply", [BUY, SELL, HOLD])
def test_lesson_02_every_side_comes_through(serve: Serve, ledger: Ledger, reply: dict[str, Any]) -> None:
    (decision,) = analyst(ledger, serve((200, completion(json.dumps(reply)))).url).decide([question()], now=NOW)
    assert decision.answer is not None and decision.answer.side == reply["signal"]


def test_all_symbols_are_asked_at_once_and_answered_in_order(serve: Serve, ledger: Ledger, store: Store) -> None:
    all_are_here = Barrier(len(SYMBOLS), timeout=60)

    def together(handler: Any) -> None:
        all_are_here.wait()
        data = completion(json.dumps(HOLD)).encode()
        handler.send_response(200)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    decisions = analyst(ledger, serve(together).url).decide([question(symbol) for symbol in SYMBOLS], now=NOW)
    assert [decision.signal_id for decision in decisions] == [question(symbol).signal_id for symbol in SYMBOLS]
    assert set(rows(store)["status"]) == {"settled"}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ((429, error("Rate limit reached")), "failed"),
        ((500, error("Server Error")), "failed"),
        ((503, "Server Overloaded"), "failed"),
        ((200, completion("      \n  ")), "settled"),  # JSON mode's way of saying that it failed
        ((200, completion("", finish="insufficient_system_resource")), "settled"),
        ((200, "\n\n\n"), "unknown"),
        ((200, "<html>bad gateway</html>"), "unknown"),
        (hang_up, "unknown"),
    ],
)
def test_what_may_be_retried_is_and_each_attempt_has_its_row(
    serve: Serve, ledger: Ledger, store: Store, fault: Any, status: str
) -> None:
    server = serve(fault, (200, completion(json.dumps(SELL))))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert decision.answer is not None and decision.answer.side == "SELL"
    written = rows(store)
    assert list(written["attempt"]) == [1, 2]
    assert list(written["status"]) == [status, "settled"]
    assert written["error"][0]
    assert decision.cost_usd == pytest.approx(written["cost_usd"].sum())
    if status == "unknown":
        assert written["cost_usd"][0] == written["reserved_usd"][0]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((429, error("Rate limit reached")), "RATE_LIMITED"),
        ((500, error("Server Error")), "SERVER_ERROR"),
        ((200, completion(" ")), "BLANK"),
        ((200, completion("", finish="insufficient_system_resource")), "OVERLOADED"),
        ((200, "\n\n"), "UNREADABLE"),
        (hang_up, "CONNECTION"),
    ],
)
def test_after_the_retries_it_abstains_with_the_reason(
    serve: Serve, ledger: Ledger, store: Store, fault: Any, reason: str
) -> None:
    server = serve(fault)
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert (decision.status, decision.status_reason, decision.answer) == ("abstained", reason, None)
    assert len(server.requests) == len(rows(store)) == 3


def test_a_reply_cut_by_max_tokens_is_neither_parsed_nor_asked_again(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    server = serve((200, completion(json.dumps(BUY), finish="length", out=600)))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert (decision.status, decision.status_reason) == ("abstained", "TRUNCATED")
    assert len(server.requests) == 1
    assert decision.cost_usd == pytest.approx(900 * 0.15e-6 + 600 * 0.60e-6)


@pytest.mark.parametrize(
    "bad", ["I would not BUY here", json.dumps(BUY | {"stop": 38_000.0}), json.dumps({"signal": "BUY"})]
)
def test_a_faulty_reply_gets_one_repair_with_its_fault_named(
    serve: Serve, ledger: Ledger, store: Store, bad: str
) -> None:
    server = serve((200, completion(bad)), (200, completion(json.dumps(BUY))))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert decision.status == "answered"
    roles = [message["role"] for message in server.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert server.requests[1]["messages"][2]["content"] == bad
    assert list(rows(store)["attempt"]) == [1, 2]
    assert rows(store)["error"][0].split(":")[0] in ("NOT_JSON", "SCHEMA", "CONTRADICTION")
    assert decision.cost_usd == pytest.approx(2 * 0.000255)


def test_lesson_16_after_one_repair_it_abstains_and_never_guesses(serve: Serve, ledger: Ledger) -> None:
    server = serve((200, completion("BUY! Confidence 90%")))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert (decision.status, decision.status_reason, decision.answer) == ("abstained", "NOT_JSON", None)
    assert len(server.requests) == 2


def test_the_deadline_is_total_though_the_server_keeps_dripping(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve(drip)
    client = analyst(ledger, server.url, deadline_s=0.8)
    started = time.perf_counter()
    (decision,) = client.decide([question()], now=NOW)
    assert time.perf_counter() - started < 30
    assert (decision.status, decision.status_reason) == ("abstained", "TIMEOUT")
    written = rows(store)
    assert set(written["status"]) == {"unknown"}
    assert 1 <= len(written) <= 3
    assert decision.cost_usd == pytest.approx(written["reserved_usd"].sum())  # it may be billed, so it is counted


def test_a_time_out_is_tried_again(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve(drip, (200, completion(json.dumps(BUY))))
    (decision,) = analyst(ledger, server.url, deadline_s=4.0).decide([question()], now=NOW)
    assert decision.status == "answered"
    assert list(rows(store)["status"]) == ["unknown", "settled"]


@pytest.mark.parametrize(
    ("status", "told"),
    [(400, "malformed"), (401, "DEEPSEEK_API_KEY"), (402, "top it up"), (404, "V7_DEEPSEEK_URL"), (422, "parameter")],
)
def test_a_wrong_set_up_fails_loudly_and_at_once(
    serve: Serve, ledger: Ledger, store: Store, status: int, told: str
) -> None:
    server = serve((status, error("no")))
    with pytest.raises(AnalystError, match=told) as caught:
        analyst(ledger, server.url).decide([question()], now=NOW)
    assert str(status) in str(caught.value)
    assert len(server.requests) == 1
    assert (rows(store)["status"][0], rows(store)["cost_usd"][0]) == ("failed", 0.0)


def test_other_symbols_are_settled_before_a_wrong_set_up_is_raised(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((402, error("Insufficient Balance")), (200, completion(json.dumps(BUY))))
    with pytest.raises(AnalystError, match="Insufficient Balance"):
        analyst(ledger, server.url).decide([question(symbol) for symbol in SYMBOLS], now=NOW)
    assert sorted(rows(store)["status"]) == ["failed", "settled", "settled"]


def test_a_server_that_is_not_there_is_an_abstention_that_costs_nothing(ledger: Ledger, store: Store) -> None:
    (decision,) = analyst(ledger, "http://127.0.0.1:9", retries=1).decide([question()], now=NOW)
    assert (decision.status, decision.status_reason, decision.cost_usd) == ("abstained", "CONNECTION", 0.0)
    assert list(rows(store)["status"]) == ["failed", "failed"]


def test_lesson_18_a_paid_answer_is_replayed_and_not_asked_again(serve: Serve, ledger: Ledger, store: Store) -> None:
    """kill -9 between settling and the signal's write: the rerun finds the answer in the ledger, at no cost."""
    server = serve((200, completion(json.dumps(BUY))))
    (first,) = analyst(ledger, server.url).decide([question()], now=NOW)
    fresh = Ledger(store, daily_budget_usd=0.0, monthly_budget_usd=0.0, provenance=PROVENANCE)
    (again,) = analyst(fresh, "http://127.0.0.1:9").decide([question()], now=NOW)
    assert again.answer == first.answer and again.call_id == first.call_id
    assert again.cost_usd == 0.0
    assert len(server.requests) == len(rows(store)) == 1


def test_a_paid_reply_that_cannot_be_used_is_asked_again(serve: Serve, ledger: Ledger, store: Store) -> None:
    faulty, sound = (200, completion("BUY")), (200, completion(json.dumps(HOLD)))
    client = analyst(ledger, serve(faulty, faulty, sound).url)
    first, again = (client.decide([question()], now=NOW)[0] for _ in range(2))
    assert (first.status, again.status) == ("abstained", "answered")
    assert list(store.query("SELECT attempt FROM llm_calls WHERE symbol = 'BTC-USD' ORDER BY 1")["attempt"]) == [
        1,
        2,
        3,
    ]


def test_a_new_instant_is_never_answered_from_an_old_one(serve: Serve, ledger: Ledger) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    client = analyst(ledger, server.url)
    client.decide([question()], now=NOW)
    client.decide([question(as_of=NOW.replace(second=0, minute=4))], now=NOW)
    assert len(server.requests) == 2


def test_what_the_budget_does_not_hold_is_skipped_unasked(serve: Serve, store: Store) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    worst = analyst(
        Ledger(store, daily_budget_usd=1, monthly_budget_usd=1, provenance=PROVENANCE), server.url
    ).worst_case_usd
    assert 0.0005 < worst < 0.01
    ledger = Ledger(store, daily_budget_usd=1.2 * worst, monthly_budget_usd=1, provenance=PROVENANCE)
    decisions = analyst(ledger, server.url).decide([question(symbol) for symbol in SYMBOLS], now=NOW)
    assert [decision.status for decision in decisions] == ["answered", "skipped", "skipped"]
    assert {decision.status_reason for decision in decisions[1:]} == {"BUDGET_DAY"}
    assert decisions[1].cost_usd == 0.0 and decisions[1].call_id is None
    assert len(server.requests) == 1


def test_a_retry_that_the_budget_does_not_hold_is_not_made(serve: Serve, store: Store) -> None:
    server = serve(hang_up)  # each attempt stays charged at its worst case
    worst = analyst(
        Ledger(store, daily_budget_usd=1, monthly_budget_usd=1, provenance=PROVENANCE), server.url
    ).worst_case_usd
    ledger = Ledger(store, daily_budget_usd=1.2 * worst, monthly_budget_usd=1, provenance=PROVENANCE)
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert (decision.status, decision.status_reason) == ("abstained", "CONNECTION")
    assert len(server.requests) == 1
    assert ledger.spent(NOW).day_room >= 0


def test_lesson_06_an_unpriced_model_sends_nothing(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    with pytest.raises(UnknownPriceError, match="deepseek-next"):
        analyst(ledger, server.url, model="deepseek-next")
    times = iter([NOW, NOW.replace(year=2025)])
    with pytest.raises(UnknownPriceError, match="2025"):
        analyst(ledger, server.url, clock=lambda: next(times)).decide([question()], now=NOW)
    assert not server.requests and rows(store).empty


def test_an_answer_without_usage_is_used_and_stays_charged_at_the_worst_case(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    server = serve((200, completion(json.dumps(HOLD), usage=None)))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    assert decision.status == "answered"
    row = rows(store).iloc[0]
    assert (row["status"], row["cost_usd"]) == ("unknown", row["reserved_usd"])


def test_lesson_30_the_key_reaches_no_error_no_log_and_no_table(
    serve: Serve, ledger: Ledger, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve((401, error(f"Authentication Fails, Your api key: {KEY} is invalid")))
    client = analyst(ledger, server.url)
    with pytest.raises(AnalystError) as caught:
        client.decide([question()], now=NOW)
    chained = caught.value.__cause__ or (None if caught.value.__suppress_context__ else caught.value.__context__)
    assert chained is None
    assert KEY not in f"{caught.value}{caught.value.args!r}{vars(client)!r}{client!r}"
    assert KEY not in caplog.text
    assert KEY not in rows(store).to_json()


@pytest.mark.parametrize("key", ["", "  ", "sk-abc\n", "sk abc", "sk-…"])
def test_lesson_30_an_impossible_key_is_refused_without_being_shown(ledger: Ledger, key: str) -> None:
    with pytest.raises(AnalystError, match="copy it again") as caught:
        analyst(ledger, "http://127.0.0.1:9", api_key=SecretStr(key))
    assert not key.strip() or key not in str(caught.value)


def test_a_caller_with_an_event_loop_of_its_own_is_served_too(serve: Serve, ledger: Ledger) -> None:
    server = serve((200, completion(json.dumps(HOLD))))

    async def within() -> Any:
        return analyst(ledger, server.url).decide([question()], now=NOW)

    (decision,) = asyncio.run(within())
    assert decision.status == "answered"


def test_no_questions_cost_nothing(ledger: Ledger, store: Store) -> None:
    assert analyst(ledger, "http://127.0.0.1:9").decide([], now=NOW) == []
    assert rows(store).empty


def test_one_instant_prices_a_call_and_says_which_day_pays(ledger: Ledger, store: Store, serve: Any) -> None:
    # A clock that crosses the end of the peak hours between any two looks.
    peak_ends = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    looks = iter(range(1000))

    def clock() -> datetime:
        return peak_ends - timedelta(milliseconds=1) + timedelta(microseconds=400) * next(looks)

    server = serve((200, completion(json.dumps(HOLD))))
    for number in range(4):
        analyst(ledger, server.url, clock=clock).decide([question(f"A{number}-USD")], now=NOW)
    rows = store.rows("SELECT reserved_at, price_version FROM llm_calls")
    assert {row["reserved_at"] < peak_ends for row in rows} == {True, False}, "the clock crossed it"
    for row in rows:
        assert row["price_version"].endswith("/peak" if row["reserved_at"] < peak_ends else "/off-peak")
