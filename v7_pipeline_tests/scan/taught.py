"""Signals that closed, one after another, made for the tests of what outcomes teach."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from v7_pipeline.scan.context import StepResult, Write, persist
from v7_pipeline.store import Store, arrow_rows
from v7_pipeline.store.schema import table
from v7_pipeline_tests.scan.watched import MARKS, MINUTE, NOW

START = NOW.replace(second=0) - timedelta(days=5)


def filled(name: str, rows: Sequence[dict[str, Any]]) -> Any:
    return arrow_rows(name, [dict.fromkeys(table(name).column_names) | MARKS | row for row in rows])


def trade(
    number: int, *, won: bool, kind: str = "shadow", side: str = "BUY", confidence: float = 0.6, **more: Any
) -> dict[str, dict[str, Any]]:
    """The rows of one signal, ten minutes long, that closed; reward and risk are 1.5 to 1."""
    at = START + timedelta(minutes=20 * number)
    key = f"v7-BTC-USD-{at:%Y%m%dT%H%M%SZ}"
    d = -1.0 if side == "SELL" else 1.0
    signal = {
        "signal_id": key, "as_of": at, "features_as_of": at, "decided_at": at, "symbol": "BTC-USD", "strategy": "v7",
        "analyst": "rules", "side": side, "confidence": confidence, "entry_price": 100.0, "stop_price": 100.0 - d,
        "target_price": 100.0 + 1.5 * d, "horizon_minutes": 240, "status": "answered",
    }  # fmt: skip
    gated = {
        "signal_id": key, "as_of": at, "symbol": "BTC-USD", "strategy": "v7", "side": side, "freshness_ok": True,
        "halt_ok": True, "budget_ok": True, "gate_inputs": "{}", "gates_off": "", "reason_codes": "",
        "accepted": kind == "paper", "tier": "LOW",
    }  # fmt: skip
    outcome = {
        "signal_id": key, "kind": kind, "as_of": at, "symbol": "BTC-USD", "strategy": "v7",
        "side": "BUY" if side == "HOLD" else side, "entry_time": at, "entry_price": 100.0,
        "exit_time": at + 10 * MINUTE, "exit_reason": "target" if won else "stop", "ambiguous": False,
        "outcome": "win" if won else "loss", "fee_preset": "none",
    }  # fmt: skip
    return {"llm_signals": signal | more, "gated_signals": gated, "outcomes": outcome}


def put_all(store: Store, trades: Sequence[dict[str, Any]], *names: str) -> None:
    names = names or ("llm_signals", "gated_signals", "outcomes")
    writes = [Write(name, filled(name, [one[name] for one in trades]), "upsert") for name in names]
    persist(store, StepResult(tuple(writes)))
