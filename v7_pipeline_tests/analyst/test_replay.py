"""Answers from the ledger: the same request costs nothing the second time, and nothing else is ever answered by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from v7_pipeline.analyst.base import NOT_IN_LEDGER
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.replay import ReplayAnalyst
from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.analyst.wire import Parameters
from v7_pipeline.backtest import replay as backtest
from v7_pipeline.gates import ANALYST_REASONS
from v7_pipeline.scan.run import run_scan
from v7_pipeline.store import Store, open_store
from v7_pipeline_tests.analyst.conftest import (
    AS_OF,
    BUY,
    HOLD,
    NOW,
    SELL,
    ScriptedServer,
    analyst,
    completion,
    error,
    hang_up,
    question,
)

Serve = Callable[..., ScriptedServer]
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
MODEL, PARAMETERS = "deepseek-flash", Parameters(600)


def replayer(store: Store, **changes: Any) -> ReplayAnalyst:
    return ReplayAnalyst(store, **({"model": MODEL, "parameters": PARAMETERS} | changes))


def calls(store: Store) -> list[dict[str, Any]]:
    return store.rows("SELECT * FROM llm_calls ORDER BY call_id, attempt")


def test_what_was_answered_is_answered_again_at_no_cost_and_names_the_call(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    paid = analyst(ledger, server.url).decide([question(symbol) for symbol in SYMBOLS], now=NOW)
    before = calls(store)
    again = replayer(store).decide([question(symbol) for symbol in SYMBOLS], now=NOW)
    assert [d.answer for d in again] == [d.answer for d in paid]
    assert [d.call_id for d in again] == [d.call_id for d in paid]
    assert {(d.status, d.status_reason, d.analyst, d.cost_usd) for d in again} == {("answered", None, "replay", 0.0)}
    assert [d.prompt_version for d in again] == [d.prompt_version for d in paid]
    assert [d.ungrounded for d in again] == [d.ungrounded for d in paid] != [None] * 3
    assert calls(store) == before and len(server.requests) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"market_price": 37123.46 + 1},
        {"price_age_s": 66.0},
        {"aggressive": True},
        {"symbol": "ETH-USD"},
        {"as_of": AS_OF + timedelta(minutes=2)},
        {"room_usd": 2499.0},
    ],
)
def test_a_question_that_differs_in_anything_is_not_in_the_ledger(
    serve: Serve, ledger: Ledger, store: Store, changes: dict[str, Any]
) -> None:
    analyst(ledger, serve((200, completion(json.dumps(BUY)))).url).decide([question()], now=NOW)
    (decision,) = replayer(store).decide([question(**changes)], now=NOW)
    assert (decision.status, decision.status_reason, decision.answer) == ("skipped", NOT_IN_LEDGER, None)
    assert (decision.call_id, decision.cost_usd, decision.analyst) == (None, 0.0, "replay")
    assert NOT_IN_LEDGER in ANALYST_REASONS


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "deepseek-v4-pro"},
        {"parameters": Parameters(601)},
        {"parameters": Parameters(600, thinking=True)},
        {"parameters": Parameters(600, json_mode=False)},
    ],
)
def test_another_model_or_other_parameters_are_another_request(
    serve: Serve, ledger: Ledger, store: Store, changes: dict[str, Any]
) -> None:
    analyst(ledger, serve((200, completion(json.dumps(BUY)))).url).decide([question()], now=NOW)
    (decision,) = replayer(store, **changes).decide([question()], now=NOW)
    assert decision.status_reason == NOT_IN_LEDGER


def test_a_repairs_conversation_is_replayed_to_its_end(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((200, completion("I would not BUY here")), (200, completion(json.dumps(SELL))))
    (paid,) = analyst(ledger, server.url).decide([question()], now=NOW)
    (again,) = replayer(store).decide([question()], now=NOW)
    assert again.answer == paid.answer and again.answer is not None and again.answer.side == "SELL"


def test_what_was_abstained_from_is_abstained_from_again(serve: Serve, ledger: Ledger, store: Store) -> None:
    (paid,) = analyst(ledger, serve((200, completion("BUY!"))).url).decide([question()], now=NOW)
    (again,) = replayer(store, fallback=RulesAnalyst()).decide([question()], now=NOW)
    assert (again.status, again.status_reason, again.call_id) == (paid.status, paid.status_reason, paid.call_id)
    assert again.status_reason == "NOT_JSON" and again.analyst == "replay"


@pytest.mark.parametrize("fault", [(500, error("Server Error")), (200, "\n\n"), hang_up])
def test_attempts_without_a_reply_are_no_answer(serve: Serve, ledger: Ledger, store: Store, fault: Any) -> None:
    analyst(ledger, serve(fault).url, retries=0).decide([question()], now=NOW)
    assert len(calls(store)) == 1
    (again,) = replayer(store).decide([question()], now=NOW)
    assert again.status_reason == NOT_IN_LEDGER


def test_a_retry_that_was_answered_is_the_answer(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve(hang_up, (200, completion("  ")), (200, completion(json.dumps(HOLD))))
    analyst(ledger, server.url).decide([question()], now=NOW)
    (again,) = replayer(store).decide([question()], now=NOW)
    assert again.answer is not None and again.answer.side == "HOLD"


def test_a_later_question_under_the_same_call_is_not_the_first_ones_answer(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    """A scan that died was asked again in other words: each set of messages has its own answer."""
    server = serve(*[(200, completion("BUY"))] * 2, (200, completion(json.dumps(BUY))))
    client = analyst(ledger, server.url)
    client.decide([question()], now=NOW)
    client.decide([question(price_age_s=70.0)], now=NOW)
    assert [row["attempt"] for row in calls(store)] == [1, 2, 3]
    first, second = (replayer(store).decide([question(price_age_s=age)], now=NOW)[0] for age in (65.0, 70.0))
    assert (first.status_reason, first.answer) == ("NOT_JSON", None)
    assert second.answer is not None


def test_where_the_setting_says_so_the_rules_answer_what_the_ledger_does_not_hold(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    analyst(ledger, serve((200, completion(json.dumps(BUY)))).url).decide([question()], now=NOW)
    asked = [question(direction=0.0), question("ETH-USD", direction=-1.0)]
    held, decided = replayer(store, fallback=RulesAnalyst()).decide(asked, now=NOW)
    assert (held.analyst, held.answer and held.answer.side) == ("replay", "BUY")
    assert (decided.analyst, decided.answer and decided.answer.side) == ("rules", "SELL")
    assert decided.cost_usd == 0.0


def test_no_question_and_a_naive_time(store: Store) -> None:
    assert replayer(store).decide([], now=NOW) == []
    with pytest.raises(ValueError, match="no time zone"):
        replayer(store).decide([question()], now=NOW.replace(tzinfo=None))


# --- scans ----------------------------------------------------------------------------------


def test_the_same_readings_at_a_new_instant_are_a_new_paid_call(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    first = question()
    later = replace(first, as_of=AS_OF + timedelta(minutes=2), signal_id="v7-BTC-USD-20261120T120400Z")
    client = analyst(ledger, server.url)
    paid = [client.decide([asked], now=NOW)[0] for asked in (first, later)]
    assert len(server.requests) == 2 and all(decision.cost_usd > 0 for decision in paid)
    assert len({row["prompt_hash"] for row in calls(store)}) == 2


def test_a_rerun_of_scans_by_replay_gives_the_same_decisions_at_no_cost(
    make_runtime: Callable[..., Any], sandbox: Any, tmp_path: Any
) -> None:
    """Scans asked for money, then the same day again from their ledger: as a backtest, into a store of its own."""
    runtime = make_runtime(NOW, symbols="BTC-USD,ETH-USD")
    start = runtime.clock().replace(second=0)
    for minutes in (0, 2, 4):
        instant = start + timedelta(minutes=minutes)
        runtime.clock = lambda instant=instant: instant + timedelta(seconds=5)
        run_scan(runtime.context(instant, f"scan-{minutes}"))
    asked = sandbox.counts.get("chat", 0)
    target = open_store(f"duckdb:{tmp_path / 'again.duckdb'}")
    end = start + timedelta(minutes=6)
    again = runtime.replay_analyst(runtime.store)
    backtest(runtime.store, target, runtime.settings, start=start, end=end, analyst=again)
    columns = "signal_id, side, confidence, entry_price, stop_price, reasoning, status, call_id, prompt_version"
    wanted, got = (
        s.rows(f"SELECT {columns} FROM llm_signals WHERE status = 'answered' ORDER BY 1")
        for s in (runtime.store, target)
    )
    assert len(wanted) == 6 and got == wanted
    assert {row["analyst"] for row in target.rows("SELECT analyst FROM llm_signals")} == {"replay"}
    assert target.rows("SELECT * FROM llm_calls") == []
    assert sandbox.counts.get("chat", 0) == asked > 0
