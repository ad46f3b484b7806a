"""Model regimes: when one begins, what is told of it, and that what is learnt of one is kept from the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.alerts.outbox import alerts_for_regimes
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.regimes import regime_at, regime_of, regimes_table
from v7_pipeline.scan.run import run_scan
from v7_pipeline.store import Store, arrow_rows, conform
from v7_pipeline.store.schema import TABLES
from v7_pipeline_tests.analyst.conftest import (
    BUY,
    HOLD,
    NOW,
    PROVENANCE,
    ScriptedServer,
    analyst,
    completion,
    error,
    question,
)

Serve = Callable[..., ScriptedServer]


def answer(**named: Any) -> tuple[int, str]:
    return 200, completion(json.dumps(HOLD), **named)


def ask(ledger: Ledger, url: str, minute: int, symbols: tuple[str, ...] = ("BTC-USD",), **changes: Any) -> Any:
    at = NOW + timedelta(minutes=minute)
    client = analyst(ledger, url, clock=lambda: at, **changes)
    return client.decide([question(symbol, as_of=at.replace(second=0)) for symbol in symbols], now=at)


def regimes(store: Store) -> list[tuple[str, str, str | None]]:
    rows = store.rows("SELECT * FROM model_regimes ORDER BY started_at, analyst")
    return [(row["analyst"], row["regime"], row["previous_regime"]) for row in rows]


def test_the_first_answer_opens_a_regime_and_the_same_model_opens_no_other(
    serve: Serve, ledger: Ledger, store: Store
) -> None:
    server = serve(answer())
    for minute in (0, 2):
        ask(ledger, server.url, minute, ("BTC-USD", "ETH-USD", "SOL-USD"))
    assert regimes(store) == [("deepseek", "deepseek-flash@fp_1", None)]
    (row,) = store.rows("SELECT * FROM model_regimes")
    assert (row["started_at"], row["source"], row["run_id"]) == (NOW, "demo", "run-1")
    assert row["call_id"].startswith("deepseek-v7-")
    assert (row["model"], row["fingerprint"]) == ("deepseek-flash", "fp_1")


@pytest.mark.parametrize(
    ("named", "regime"),
    [
        ({"system_fingerprint": "fp_2"}, "deepseek-flash@fp_2"),
        ({"model": "deepseek-flash-1017"}, "deepseek-flash-1017@fp_1"),
        ({"system_fingerprint": None}, "deepseek-flash@?"),
        ({"model": None}, "?@fp_1"),
    ],
)
def test_a_changed_model_or_fingerprint_opens_the_next(
    serve: Serve, ledger: Ledger, store: Store, named: dict[str, Any], regime: str
) -> None:
    server = serve(answer(), answer(**named), answer())
    for minute in (0, 2, 4):
        ask(ledger, server.url, minute)
    first = "deepseek-flash@fp_1"
    assert regimes(store) == [("deepseek", first, None), ("deepseek", regime, first), ("deepseek", first, regime)]


def test_each_analyst_has_its_own(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve(answer(), answer(system_fingerprint="fp_9"))
    ask(ledger, server.url, 0)
    ask(ledger, server.url, 2, name="other")
    assert [row[0::2] for row in regimes(store)] == [("deepseek", None), ("other", None)]


@pytest.mark.parametrize(
    "fault",
    [(500, error("x")), (200, "\n\n"), (200, completion(json.dumps(HOLD), model=None, system_fingerprint=None))],
)
def test_an_answer_that_names_nothing_says_nothing(serve: Serve, ledger: Ledger, store: Store, fault: Any) -> None:
    ask(ledger, serve(fault).url, 0, retries=0)
    assert regimes(store) == []


def test_an_unusable_reply_names_its_model_all_the_same(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((200, completion("BUY!")), (200, completion("BUY!", system_fingerprint="fp_2")))
    ask(ledger, server.url, 0)
    table = store.query("SELECT * FROM model_regimes")
    # Both attempts were reserved at one instant of the frozen clock: the second waits for the next call.
    assert list(table["regime"]) == ["deepseek-flash@fp_1"]
    ask(ledger, server.url, 2)
    assert [row[1] for row in regimes(store)] == ["deepseek-flash@fp_1", "deepseek-flash@fp_2"]


def test_the_regime_is_written_in_the_same_transaction_as_the_ending(
    serve: Serve, ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("killed in between")

    monkeypatch.setattr("v7_pipeline.analyst.deepseek.note_regimes", fails)
    with pytest.raises(RuntimeError, match="killed in between"):
        ask(ledger, serve(answer()).url, 0)
    assert store.rows("SELECT status FROM llm_calls") == [{"status": "reserved"}]


def ending(call_id: str, reserved_at: datetime, fingerprint: str) -> Any:
    """A settled ending as the ledger has it."""
    from v7_pipeline.analyst.ledger import Ending

    row = dict.fromkeys(TABLES["llm_calls"].column_names)
    named = {"call_id": call_id, "attempt": 1, "analyst": "deepseek", "reserved_at": reserved_at}
    return Ending(row | named | {"returned_model": "m", "fingerprint": fingerprint} | PROVENANCE)


@pytest.mark.parametrize("first", [0, 1])
def test_answers_that_overtake_one_another_open_the_same_regimes(store: Store, first: int) -> None:
    from v7_pipeline.analyst.regimes import note_regimes

    sent = [ending("a", NOW, "fp_1"), ending("b", NOW + timedelta(seconds=1), "fp_1")]
    for place in (first, 1 - first):
        with store.transaction() as tx:
            note_regimes(tx, [sent[place]])
    assert [row[1:] for row in regimes(store)] == [("m@fp_1", None)]
    with store.transaction() as tx:
        note_regimes(tx, [ending("d", NOW + timedelta(seconds=9), "fp_2")])
        note_regimes(tx, [ending("c", NOW + timedelta(seconds=5), "fp_1")])
    assert [row[1:] for row in regimes(store)] == [("m@fp_1", None), ("m@fp_2", "m@fp_1")]


# --- whose calls are whose ------------------------------------------------------------------


def test_a_call_belongs_to_the_regime_of_its_newest_answer(serve: Serve, ledger: Ledger, store: Store) -> None:
    server = serve((200, completion("BUY!")), answer(system_fingerprint="fp_2"), (500, error("x")))
    (repaired,) = ask(ledger, server.url, 0)
    (failed,) = ask(ledger, server.url, 2, retries=0)
    with store.reading() as reader:
        found = regime_at(reader, [repaired.call_id, failed.call_id, "nobody"])
    assert found == {repaired.call_id: "deepseek-flash@fp_2"}
    assert regime_of(None, "") == "?@?"


def test_the_table_keeps_each_regimes_confidence_and_outcomes_apart(serve: Serve, ledger: Ledger, store: Store) -> None:
    buys = [(200, completion(json.dumps(BUY | {"confidence": c}), system_fingerprint=f)) for c, f in (
        (0.7, "fp_1"), (0.9, "fp_1"), (0.6, "fp_2"))]  # fmt: skip
    server = serve(*buys)
    decisions = [ask(ledger, server.url, minute)[0] for minute in (0, 2, 4)]
    _closed(store, decisions, [("win", 1.4), ("loss", -1.0), ("win", 1.2)])
    with store.reading() as reader:
        table = regimes_table(reader).set_index("regime")
    assert list(table.index) == ["deepseek-flash@fp_1", "deepseek-flash@fp_2"]
    old, new = table.loc["deepseek-flash@fp_1"], table.loc["deepseek-flash@fp_2"]
    assert (old["calls"], old["answered"], old["signals"], old["decided"], old["won"]) == (2, 2, 2, 2, 1)
    assert (new["calls"], new["decided"], new["won"], new["win_rate"]) == (1, 1, 1, 1.0)
    assert old["mean_confidence"] == pytest.approx(0.8) and new["mean_confidence"] == pytest.approx(0.6)
    assert old["win_rate"] == 0.5 and old["mean_r"] == pytest.approx(0.2)
    assert old["cost_usd"] == pytest.approx(2 * 0.000255)


def test_a_regime_without_outcomes_has_no_rate(serve: Serve, ledger: Ledger, store: Store) -> None:
    ask(ledger, serve(answer()).url, 0)
    with store.reading() as reader:
        (row,) = regimes_table(reader).to_dict("records")
    assert (row["answered"], row["decided"]) == (0, 0)
    assert pd.isna(row["win_rate"]) and pd.isna(row["mean_confidence"]) and pd.isna(row["mean_r"])


def _closed(store: Store, decisions: list[Any], ends: list[tuple[str, float]]) -> None:
    signals, outcomes = [], []
    for place, (decision, (outcome, r)) in enumerate(zip(decisions, ends, strict=True)):
        as_of = (NOW + timedelta(minutes=2 * place)).replace(second=0)
        shared = {"signal_id": decision.signal_id, "as_of": as_of, "symbol": "BTC-USD", "strategy": "v7", **PROVENANCE}
        signals.append(
            dict.fromkeys(TABLES["llm_signals"].column_names)
            | shared
            | {"decided_at": as_of, "analyst": "deepseek", "status": "answered", "side": decision.answer.side}
            | {"confidence": decision.answer.confidence, "call_id": decision.call_id}
        )
        outcomes.append(
            dict.fromkeys(TABLES["outcomes"].column_names)
            | shared
            | {"kind": "shadow", "side": "BUY", "ambiguous": False, "outcome": outcome, "r_multiple": r}
            | {"fee_preset": "none"}
        )
    with store.transaction() as tx:
        tx.insert_new("llm_signals", arrow_rows("llm_signals", signals))
        tx.insert_new("outcomes", arrow_rows("outcomes", outcomes))


# --- the alert ------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    return {
        "analyst": "deepseek", "started_at": NOW, "regime": "m@2", "call_id": "deepseek-x", "model": "m",
        "fingerprint": "2", "previous_regime": "m@1",
    } | changes  # fmt: skip


def test_a_change_is_one_warning_and_the_first_regime_is_none() -> None:
    alerts = alerts_for_regimes([row(previous_regime=None), row()], demo=False)
    (alert,) = alerts.to_dict("records")
    assert (alert["kind"], alert["severity"], alert["status"]) == ("model_regime", "warning", "pending")
    assert "m@1" in alert["body"] and "m@2" in alert["body"] and "deepseek" in alert["title"]
    conform("alerts", alerts.assign(**PROVENANCE))
    assert alerts_for_regimes([row()], demo=False)["alert_id"][0] == alert["alert_id"]
    assert alerts_for_regimes([], demo=False).empty
    demo = alerts_for_regimes([row()], demo=True)
    assert demo["title"][0].startswith("DEMO ") and demo["body"][0].startswith("DEMO:")


def test_a_change_met_in_a_scan_is_alerted_once(
    make_runtime: Callable[..., Any], sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime(NOW, symbols="BTC-USD,ETH-USD")
    start = runtime.clock().replace(second=0)
    for place, fingerprint in enumerate(("fp_old", "fp_new", "fp_new")):
        monkeypatch.setattr("v7_pipeline.sandbox.deepseek.FINGERPRINT", fingerprint)
        instant = start + timedelta(minutes=2 * place)
        runtime.clock = lambda instant=instant: instant + timedelta(seconds=5)
        run_scan(runtime.context(instant, f"scan-{place}"))
    assert [r[1] for r in regimes(runtime.store)] == ["deepseek-flash@fp_old", "deepseek-flash@fp_new"]
    (alert,) = runtime.store.rows("SELECT * FROM alerts WHERE kind = 'model_regime'")
    assert "fp_old" in alert["body"] and "fp_new" in alert["body"] and alert["run_id"] == "scan-1"
