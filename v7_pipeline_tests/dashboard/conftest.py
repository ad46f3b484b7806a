"""A store with a little history, and the dashboard over real HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvicorn

from v7_pipeline.dashboard.app import create_app
from v7_pipeline.store import conform, open_store
from v7_pipeline.store.identity import signal_id
from v7_pipeline.store.schema import table

NOW = datetime(2023, 12, 11, 12, 1, 30, tzinfo=UTC)
NEWEST = NOW.replace(minute=0, second=0)
NO_PLAN = {"entry_price": None, "stop_price": None, "target_price": None}
EVIL = "<script>alert('x')</script> & p <0.5"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


Get = Callable[..., Answer]


@pytest.fixture
def serve() -> Iterator[Callable[..., Get]]:
    """serve(store, **options) starts the dashboard and returns get(path, host=…)."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(store: Any, **options: Any) -> Get:
        app = create_app(store, **({"mode": "live", "clock": lambda: NOW, "daily_budget_usd": 3.0} | options))
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        servers.append((server, thread))
        deadline = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < deadline, "the dashboard did not start"
            time.sleep(0.01)
        port = listener.getsockname()[1]

        def get(path: str, host: str | None = None) -> Answer:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host} if host else {})
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return Answer(reply.status, dict(reply.headers), reply.read().decode())
            except urllib.error.HTTPError as error:
                return Answer(error.code, dict(error.headers), error.read().decode())

        return get

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(5)


@pytest.fixture
def empty_store(tmp_path: Path) -> Any:
    store = open_store(f"duckdb:{tmp_path / 'v7.duckdb'}")
    store.migrate("1", NOW)
    return store


@pytest.fixture
def store(empty_store: Any) -> Any:
    """Three symbols: BTC accepted and won two hours ago and a HOLD now; ETH rejected now; SOL skipped now."""
    won, early = NEWEST - timedelta(hours=2), NEWEST - timedelta(hours=30)
    with empty_store.transaction() as tx:
        put(tx, "scans", scan())
        put(
            tx, "llm_signals",
            decision("BTC-USD", won, reasoning="slope and momentum agree"),
            decision("BTC-USD", early, reasoning="older than a day"),
            decision("BTC-USD", NEWEST, side="HOLD", **NO_PLAN, reasoning=EVIL),
            decision("ETH-USD", NEWEST, side="SELL", stop_price=102.0, target_price=96.0, confidence=0.5),
            decision("SOL-USD", NEWEST, side=None, confidence=None, **NO_PLAN, reasoning=None, market_price=None,
                     price_age_s=None, status="skipped", status_reason="stale_price"),
        )  # fmt: skip
        put(
            tx, "gated_signals",
            gated("BTC-USD", won, accepted=True, tier="HIGH", quantity=1.5, risk_usd=500.0),
            gated("BTC-USD", early, accepted=True, tier="LOW"),
            gated("BTC-USD", NEWEST, side="HOLD"),
            gated("ETH-USD", NEWEST, side="SELL", reason_codes="low_confidence,rate_limit"),
            gated("SOL-USD", NEWEST, side=None, reason_codes="stale_price", freshness_ok=False),
        )  # fmt: skip
        put(tx, "outcomes", closed("BTC-USD", won))
        put(
            tx, "llm_calls",
            call("a", NEWEST, status="settled", cost_usd=0.25),
            call("b", NEWEST, status="reserved", cost_usd=None, reserved_usd=0.5),
            call("c", NEWEST, status="failed", cost_usd=None, reserved_usd=0.5),
            call("d", NEWEST - timedelta(days=1), status="settled", cost_usd=2.0),
        )  # fmt: skip
        put(tx, "win_rates", rate("all", NEWEST - timedelta(hours=1), 12, 20), rate("all", NEWEST, 13, 21))
        minutes = pd.date_range(NEWEST - timedelta(minutes=30), NEWEST - timedelta(minutes=1), freq="min")
        close = 100 + np.sin(np.arange(30) / 5)
        prices = {"open": close, "high": close + 1, "low": close - 1, "close": close}
        candles = pd.DataFrame({"symbol": "BTC-USD", "open_time": minutes, **prices, "volume": 1.0})
        candles = candles.assign(venue="coinbase-exchange", fetched_at=NEWEST)
        tx.upsert("candles", conform("candles", candles.assign(source="live", run_id="r", code_version="1")))
    return empty_store


def put(tx: Any, name: str, *rows: dict[str, Any]) -> None:
    """Upsert `rows` into the table called `name`, absent nullable columns missing, with provenance."""
    marks = {"source": "live", "run_id": "r", "code_version": "1"}
    frame = pd.DataFrame([marks | row for row in rows]).reindex(columns=list(table(name).column_names))
    tx.upsert(name, conform(name, frame))


def scan(**changes: Any) -> dict[str, Any]:
    row = {"as_of": NEWEST, "started_at": NEWEST, "symbols": "BTC-USD,ETH-USD,SOL-USD", "status": "finished"}
    return row | {"failures": json.dumps({"SOL-USD": "timed out"}), "signals": 3, "accepted": 0} | changes


def decision(symbol: str, as_of: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "signal_id": signal_id("v7", symbol, as_of), "as_of": as_of, "features_as_of": as_of, "decided_at": as_of,
        "symbol": symbol, "strategy": "v7", "analyst": "rules", "side": "BUY", "confidence": 0.72, "entry_price": 100.0,
        "stop_price": 99.0, "target_price": 102.0, "reasoning": "agree", "market_price": 100.0, "price_age_s": 60.0,
        "status": "answered",
    } | changes  # fmt: skip


def gated(symbol: str, as_of: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "signal_id": signal_id("v7", symbol, as_of), "as_of": as_of, "symbol": symbol, "strategy": "v7", "side": "BUY",
        "freshness_ok": True, "halt_ok": True, "budget_ok": True, "gate_inputs": "{}", "gates_off": "",
        "reason_codes": "", "accepted": False,
    } | changes  # fmt: skip


def closed(symbol: str, as_of: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "signal_id": signal_id("v7", symbol, as_of), "kind": "paper", "as_of": as_of, "symbol": symbol,
        "strategy": "v7", "side": "BUY", "entry_time": as_of, "entry_price": 100.0,
        "exit_time": as_of + timedelta(minutes=9), "exit_price": 102.0, "exit_reason": "target", "ambiguous": False,
        "gross_return": 0.02, "net_return": 0.0194, "r_multiple": 1.94, "pnl_usd": 291.0, "outcome": "win",
        "fee_preset": "ftmo-crypto",
    } | changes  # fmt: skip


def call(call_id: str, at: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "call_id": call_id, "attempt": 1, "signal_id": "v7-x", "symbol": "BTC-USD", "as_of": at, "analyst": "deepseek",
        "model": "deepseek-flash", "prompt": "[]", "prompt_hash": "h", "prompt_version": "v", "parameters": "{}",
        "reserved_at": at, "reserved_usd": 1.0, "price_version": "2025",
    } | changes  # fmt: skip


def rate(scope: str, as_of: datetime, alpha: float, total: float) -> dict[str, Any]:
    return {
        "as_of": as_of, "scope": scope, "alpha": alpha, "beta": total - alpha, "mean": alpha / total, "lower": 0.4,
        "upper": 0.8, "n": int(total) - 2,
    }  # fmt: skip
