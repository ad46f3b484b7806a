"""Several analysts on the same questions: the very same words, reserved and settled, and honest figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.learning.statistics import wilson
from v7_pipeline.scan.compare import CompareError, ask_again, plan, questions, rules_say, standings
from v7_pipeline.store import Store, arrow_rows
from v7_pipeline.store.schema import TABLES
from v7_pipeline_tests.analyst.conftest import (
    BUY,
    HOLD,
    NOW,
    PROVENANCE,
    SELL,
    ScriptedServer,
    analyst,
    completion,
    error,
    question,
)

Serve = Callable[..., ScriptedServer]
ALWAYS = {"start": datetime(2000, 1, 1, tzinfo=UTC), "end": datetime(2100, 1, 1, tzinfo=UTC), "limit": 1000}
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD")


def say(reply: dict[str, Any] | str, **extra: Any) -> tuple[int, str]:
    return 200, completion(reply if isinstance(reply, str) else json.dumps(reply), **extra)


def decided(serve: Serve, ledger: Ledger, store: Store, *replies: Any, outcomes: dict[str, float] | None = None) -> Any:
    """A stored scan: a symbol a reply, decided by deepseek; returns the server. `outcomes`: closed R by symbol."""
    server = serve(*replies)
    asked = [question(symbol, direction=1.0) for symbol in SYMBOLS[: len(replies)]]
    client = analyst(ledger, server.url, retries=0)
    keep(store, asked, [client.decide([one], now=NOW)[0] for one in asked], outcomes)
    return server


def keep(store: Store, asked: list[Any], decisions: list[Any], outcomes: dict[str, Any] | None = None) -> None:
    """Store deepseek's `decisions` as a scan does, and closed `outcomes` by symbol: R of its side, or R by side."""
    signals, closed = [], []
    for one, decision in zip(asked, decisions, strict=True):
        symbol = one.symbol
        shared = {
            "signal_id": decision.signal_id, "symbol": symbol, "strategy": "v7", "as_of": one.as_of, **PROVENANCE
        }  # fmt: skip
        answer = decision.answer
        signals.append(
            dict.fromkeys(TABLES["llm_signals"].column_names)
            | shared
            | {"decided_at": NOW, "analyst": "deepseek", "status": decision.status, "call_id": decision.call_id}
            | {"status_reason": decision.status_reason, "prompt_version": decision.prompt_version}
            | {"side": answer and answer.side, "confidence": answer and answer.confidence}
        )
        found = (outcomes or {}).get(symbol, {})
        closed += [
            dict.fromkeys(TABLES["outcomes"].column_names)
            | shared
            | {"kind": "shadow", "side": side, "ambiguous": False, "fee_preset": "none", "outcome": "win"}
            | {"r_multiple": r}
            for side, r in (found if isinstance(found, dict) else {answer.side: found}).items()
        ]
    with store.transaction() as tx:
        tx.insert_new("llm_signals", arrow_rows("llm_signals", signals))
        if closed:
            tx.insert_new("outcomes", arrow_rows("outcomes", closed))


def test_the_others_are_asked_the_very_same_messages_through_the_ledger(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    first = decided(serve, ledger, store, say(BUY), say(HOLD))
    kept = questions(store, **ALWAYS)
    second = serve(say(SELL))
    other = analyst(ledger, second.url, name="other", model="deepseek-v4-pro")
    planned = plan(store, other, kept)
    assert planned.worst_usd == pytest.approx(sum(other.worst_case_of(q.asked) for q in kept)) and planned.worst_usd > 0
    said = ask_again(store, planned)
    sent = [sorted(json.dumps(r["messages"]) for r in server.requests) for server in (first, second)]
    assert sent[0] == sent[1]
    assert {one.side for one in said.values()} == {"SELL"}
    rows = store.rows("SELECT * FROM llm_calls WHERE analyst = 'other' ORDER BY call_id")
    assert [row["call_id"] for row in rows] == sorted(f"other-{q.asked.signal_id}" for q in kept)
    assert all(row["status"] == "settled" and row["reserved_usd"] > row["cost_usd"] > 0 for row in rows)
    assert sum(one.cost_usd for one in said.values()) == pytest.approx(sum(row["cost_usd"] for row in rows))


def test_lesson_23_every_arm_answers_every_symbols_question_and_one_that_did_not_is_not_compared(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    """The first system gave each symbol of an even number to one arm for ever: it compared symbols, not analysts."""
    first = decided(serve, ledger, store, say(BUY), say(HOLD), say(SELL), say(BUY))
    kept = questions(store, **ALWAYS)
    assert sorted(question.asked.symbol for question in kept) == list(SYMBOLS) and len(SYMBOLS) % 2 == 0
    server = serve(say(SELL))
    said = {
        "other": ask_again(store, plan(store, analyst(ledger, server.url, name="other"), kept)),
        "rules": {question.asked.signal_id: rules_say(question.asked) for question in kept},
    }
    sent = [sorted(json.dumps(request["messages"]) for request in one.requests) for one in (first, server)]
    assert sent[0] == sent[1] == sorted(json.dumps(list(question.asked.messages)) for question in kept)
    assert len(set(sent[0])) == len(SYMBOLS), "each symbol's own candles"
    for answers in said.values():
        assert set(answers) == {question.asked.signal_id for question in kept}
    assert [(one.n, one.shared) for one in standings(kept, said)] == [(4, 4)] * 3
    half = {key: one for place, (key, one) in enumerate(said["rules"].items()) if place % 2}
    with pytest.raises(KeyError):
        standings(kept, said | {"every second symbol": half})


def test_what_was_answered_before_is_not_asked_again_abstentions_included(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    decided(serve, ledger, store, say(BUY), say(HOLD))
    kept = questions(store, **ALWAYS)
    server = serve(say(SELL), say("SELL!", finish="length"))
    other = analyst(ledger, server.url, name="other")
    first = ask_again(store, plan(store, other, kept))
    again = plan(store, other, kept)
    assert (again.to_ask, again.worst_usd, len(again.held)) == ((), 0, 2)
    assert ask_again(store, again) == first
    assert sorted((one.side or one.reason or "") for one in first.values()) == ["SELL", "TRUNCATED"]
    assert len(server.requests) == 2


def test_a_failed_call_is_asked_again_next_time(serve: Serve, ledger: Ledger, store: Store) -> None:
    decided(serve, ledger, store, say(BUY))
    kept = questions(store, **ALWAYS)
    server = serve((503, error("busy")), say(SELL))
    other = analyst(ledger, server.url, name="other", retries=0)
    (failed,) = ask_again(store, plan(store, other, kept)).values()
    assert (failed.side, failed.reason) == (None, "SERVER_ERROR")
    (answered,) = ask_again(store, plan(store, other, kept)).values()
    assert answered.side == "SELL"


def test_the_budgets_hold_and_what_they_do_not_hold_is_told(serve: Serve, ledger: Ledger, store: Store) -> None:
    decided(serve, ledger, store, say(BUY), say(HOLD), say(HOLD))
    kept = questions(store, **ALWAYS)
    spent = ledger.spent(NOW).day_usd
    server = serve(say(SELL))
    worst = plan(store, analyst(ledger, server.url, name="other"), kept).worst_usd / 3
    small = Ledger(store, daily_budget_usd=spent + 1.5 * worst, monthly_budget_usd=9, provenance=PROVENANCE)
    said = ask_again(store, plan(store, analyst(small, server.url, name="other"), kept))
    assert sorted(one.side or str(one.reason) for one in said.values()) == ["BUDGET_DAY", "BUDGET_DAY", "SELL"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("changes", [{"model": "deepseek-v4-pro"}, {"max_tokens": 700}])
def test_one_name_is_one_analyst(serve: Serve, ledger: Ledger, store: Store, changes: dict[str, Any]) -> None:
    decided(serve, ledger, store, say(BUY))
    kept = questions(store, **ALWAYS)
    server = serve(say(SELL))
    ask_again(store, plan(store, analyst(ledger, server.url, name="other"), kept))
    with pytest.raises(CompareError, match="give the changed analyst another name"):
        plan(store, analyst(ledger, server.url, name="other", **changes), kept)


def test_a_repaired_question_is_asked_without_the_repair(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve(say("I would BUY"), say(BUY))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    row = dict.fromkeys(TABLES["llm_signals"].column_names) | {
        "signal_id": decision.signal_id, "symbol": "BTC-USD", "strategy": "v7", "as_of": question().as_of,
        "side": "BUY", "decided_at": NOW, "analyst": "deepseek", "status": "answered", "call_id": decision.call_id,
        "confidence": 0.7, "prompt_version": decision.prompt_version, **PROVENANCE,
    }  # fmt: skip
    with store.transaction() as tx:
        tx.insert_new("llm_signals", arrow_rows("llm_signals", [row]))
    (kept,) = questions(store, **ALWAYS)
    assert [message["role"] for message in kept.asked.messages] == ["system", "user"]
    assert list(kept.asked.messages) == server.requests[0]["messages"]
    assert kept.decided.cost_usd == pytest.approx(2 * 0.000255)


def test_the_questions_are_the_newest_of_the_period_that_were_paid_for(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    decided(serve, ledger, store, say(BUY), say(HOLD), say(HOLD))
    at = question().as_of
    assert len(questions(store, **ALWAYS | {"limit": 2})) == 2
    assert len(questions(store, start=at, end=at + timedelta(minutes=1), limit=9)) == 3
    assert questions(store, start=at + timedelta(minutes=1), end=at + timedelta(days=1), limit=9) == []
    assert questions(store, start=at - timedelta(days=1), end=at, limit=9) == []


# --- the figures ----------------------------------------------------------------------------


def test_the_table_counts_sides_agreement_and_outcomes(serve: Serve, ledger: Ledger, store: Store) -> None:
    outcomes = {"BTC-USD": 1.5, "ETH-USD": -1.0, "SOL-USD": 0.7}
    decided(serve, ledger, store, say(BUY), say(BUY), say(SELL), say("no json", finish="length"), outcomes=outcomes)
    kept = questions(store, **ALWAYS)
    order = {q.asked.symbol: q.asked.signal_id for q in kept}
    other = serve(say(BUY), say(SELL), say(HOLD), say(BUY))
    client = analyst(ledger, other.url, name="other")
    said: dict[str, Any] = {}
    for symbol in SYMBOLS:  # one by one, so that the script's order is the symbols'
        said |= ask_again(store, plan(store, client, [q for q in kept if q.asked.signal_id == order[symbol]]))
    own, theirs = standings(kept, {"other": said})
    assert own.analyst == "deepseek (decided)"
    assert (own.n, own.sides) == (4, {"BUY": 2, "SELL": 1, "HOLD": 0}) and own.unanswered == {"TRUNCATED": 1}
    assert (own.agreed, own.shared, own.n_r) == (3, 3, 3) and own.mean_r == pytest.approx((1.5 - 1.0 + 0.7) / 3)
    assert (theirs.n, theirs.sides, theirs.unanswered) == (4, {"BUY": 2, "SELL": 1, "HOLD": 1}, {})
    assert (theirs.agreed, theirs.shared) == (1, 3), "what the decider abstained from is not compared"
    assert theirs.agreement == wilson(1, 3)
    assert (theirs.mean_r, theirs.n_r, theirs.opposite) == (1.5, 1, 1), "an opposite side's outcome is not guessed"
    assert theirs.mean_confidence == pytest.approx(0.7)
    assert theirs.median_latency_s is not None and theirs.median_latency_s > 0
    assert theirs.cost_usd == pytest.approx(4 * 0.000255)


def test_the_rules_answer_from_the_same_document_at_no_cost(serve: Serve, ledger: Ledger, store: Store) -> None:
    decided(serve, ledger, store, say(HOLD))
    (kept,) = questions(store, **ALWAYS)
    said = rules_say(kept.asked)
    assert (said.side, said.cost_usd, said.latency_s) == ("BUY", 0.0, None)
    _, rules = standings([kept], {"rules": {kept.asked.signal_id: said}})
    assert rules.median_latency_s is None and rules.mean_r is None and rules.n_r == 0
    other = json.dumps({"price": 1})
    strange = type(kept.asked)(
        "s", "BTC-USD", NOW, ({"role": "system", "content": "x"}, {"role": "user", "content": other}), "p-0"
    )
    with pytest.raises(CompareError, match="narrow --from"):
        rules_say(strange)


def test_without_a_shared_answer_there_is_no_agreement(serve: Serve, ledger: Ledger, store: Store) -> None:
    decided(serve, ledger, store, say("x", finish="length"))
    kept = questions(store, **ALWAYS)
    (own,) = standings(kept, {})
    assert (own.shared, own.mean_confidence) == (0, None) and all(math.isnan(end) for end in own.agreement)
