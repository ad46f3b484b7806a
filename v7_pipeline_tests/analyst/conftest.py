"""Questions, a store, a ledger and a scripted server that speaks chat completions over real HTTP."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from v7_pipeline.analyst.base import Question
from v7_pipeline.analyst.deepseek import DeepSeekAnalyst
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.prices import load_prices
from v7_pipeline.store import Store, open_store, signal_id
from v7_pipeline.store.schema import THEORY_NAMES, theory_columns

NOW = datetime(2026, 11, 20, 12, 2, 5, tzinfo=UTC)  # a Friday, off-peak
AS_OF = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
KEY = "sk-very-secret-0123456789"
PROVENANCE = {"source": "demo", "run_id": "run-1", "code_version": "0.1.0"}

BUY = {
    "signal": "BUY", "confidence": 0.7, "entry": 37123.45, "stop": 36990.05, "target": 37420.85,
    "horizon_minutes": 240, "reasoning": "Momentum is 2.1 standard deviations.", "key_theories": ["price_momentum"],
    "would_change_my_mind": "A close below 37000.",
}  # fmt: skip
SELL = BUY | {"signal": "SELL", "stop": 37420.85, "target": 36690.05}
HOLD = BUY | {
    "signal": "HOLD",
    "entry": None,
    "stop": None,
    "target": None,
    "horizon_minutes": None,
    "key_theories": [],
}


def readings(direction: float = 0.0, **changes: float | None) -> dict[str, float | None]:
    """A row of readings in which every directional theory votes `direction` (−1 … 1) at full score."""
    row: dict[str, float | None] = {column.name: 0.25 for column in theory_columns()}
    for theory in THEORY_NAMES:
        speaks = direction != 0 and theory not in ("bayesian_win_rate", "risk_metrics")
        row[f"{theory}_percentile"] = 0.5 + 0.49 * direction if speaks else 0.5
        row[f"{theory}_vote"] = direction if speaks else 0.0
        row[f"{theory}_score"] = abs(direction) if speaks else 0.0
    row["volatility_240"] = 4e-4
    row["momentum_240"] = 2.4 * direction
    return row | changes


def question(symbol: str = "BTC-USD", direction: float = 0.0, **changes: Any) -> Question:
    as_of = changes.pop("as_of", AS_OF)
    values: dict[str, Any] = {
        "signal_id": signal_id("v7", symbol, as_of), "symbol": symbol, "strategy": "v7", "as_of": as_of,
        "features_as_of": as_of - timedelta(minutes=1), "readings": readings(direction),
        "explanations": {theory: f"{theory} says so." for theory in THEORY_NAMES}, "market_price": 37123.456,
        "price_age_s": 65.0, "quote_increment": 0.01, "change_24h": 0.0123, "observed_share": 1.0,
        "horizon_minutes": 240, "reward_risk": 1.5, "open_position": None, "room_usd": 2500.0, "aggressive": False,
        "demo": False,
    }  # fmt: skip
    return Question(**(values | changes))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "v7.duckdb"
    open_store(f"duckdb:{path}").migrate("0.1.0", NOW)
    return path


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    copy = tmp_path / "v7.duckdb"
    shutil.copyfile(empty_store, copy)
    return open_store(f"duckdb:{copy}")


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store, daily_budget_usd=3.0, monthly_budget_usd=100.0, provenance=PROVENANCE)


def completion(content: str | None, *, finish: str = "stop", prompt: int = 900, out: int = 200, **extra: Any) -> str:
    """A chat completion's body in DeepSeek's format."""
    return json.dumps(
        {
            "id": "x", "object": "chat.completion", "created": 1, "model": "deepseek-flash",
            "system_fingerprint": "fp_1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": prompt, "completion_tokens": out, "total_tokens": prompt + out,
                "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": prompt,
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        }
        | extra
    )  # fmt: skip


def error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "t", "param": None, "code": "c"}})


Step = tuple[int, str] | Callable[[BaseHTTPRequestHandler], None]


class ScriptedServer(ThreadingHTTPServer):
    """Answers the n-th request with the n-th step (the last one again and again); keeps what it was sent."""

    daemon_threads = True

    def __init__(self, steps: list[Step]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.steps, self.requests, self.lock = steps, [], threading.Lock()

    requests: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            step = self.server.steps[min(len(self.server.requests), len(self.server.steps) - 1)]
            self.server.requests.append({"path": self.path, "authorization": self.headers["authorization"], **body})
        if callable(step):
            step(self)
            return
        status, text = step
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Blank lines for a minute, as a queued request gets."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1200):
        try:
            handler.wfile.write(b"\n")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Read the request, then close without a word."""
    handler.close_connection = True
    handler.connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(*steps: Step) -> ScriptedServer:
        server = ScriptedServer(list(steps))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def analyst(ledger: Ledger, url: str, **changes: Any) -> DeepSeekAnalyst:
    values: dict[str, Any] = {
        "ledger": ledger, "api_key": SecretStr(KEY), "base_url": url, "model": "deepseek-flash", "deadline_s": 30.0,
        "max_tokens": 600, "prices": load_prices(), "clock": lambda: NOW, "backoff_s": 0.01,
    }  # fmt: skip
    return DeepSeekAnalyst(**(values | changes))
