"""A sandbox over real HTTP whose clock stands still, and what the tests here share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from v7_pipeline.sandbox.server import SandboxServer

NOW = datetime(2026, 3, 3, 12, 0, 20, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
MINUTE_S = NOW_S // 60 * 60  # opening of the minute that still forms

REPLY = {
    "signal": "HOLD", "confidence": 0.5, "entry": None, "stop": None, "target": None, "horizon_minutes": None,
    "reasoning": "Nothing stands out.", "key_theories": [], "would_change_my_mind": "A combined score of 0.30.",
}  # fmt: skip


def reply(messages: Any) -> dict[str, Any]:
    """A stand-in for the rules, where the wire format and not the decision is looked at."""
    return dict(REPLY)


class Client:
    """Requests to one server, by path."""

    def __init__(self, server: SandboxServer) -> None:
        self.server, self.session = server, requests.Session()

    def get(self, path: str, **params: Any) -> requests.Response:
        return self.session.get(self.server.url + path, params=params, timeout=60)

    def candles(
        self, start: int | str, end: int | str, symbol: str = "BTC-USD", granularity: Any = 60
    ) -> requests.Response:
        return self.get(f"/products/{symbol}/candles", granularity=granularity, start=start, end=end)

    def advanced(self, start: int, end: int, symbol: str = "BTC-USD", **more: Any) -> requests.Response:
        query = {"start": str(start), "end": str(end), "granularity": "ONE_MINUTE"} | more
        return self.get(f"/api/v3/brokerage/market/products/{symbol}/candles", **query)

    def chat(self, key: str | None = "demo-key", prefix: str = "", **changes: Any) -> requests.Response:
        body = {
            "model": "deepseek-flash",
            "messages": [
                {"role": "system", "content": "Answer in json."},
                {"role": "user", "content": '{"readings": {}}'},
            ],
            "response_format": {"type": "json_object"},
            "thinking": {"type": "disabled"},
        } | changes
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.session.post(f"{self.server.url}{prefix}/chat/completions", json=body, headers=headers, timeout=60)


@pytest.fixture(scope="session")
def _still() -> Iterator[Client]:
    with SandboxServer(seed=7, clock=lambda: NOW, answerer=reply) as server:
        yield Client(server)


@pytest.fixture
def client(_still: Client) -> Iterator[Client]:
    """The server at NOW, without faults before and after."""
    _still.server.faults.clear()
    _still.server.app.state.counts.clear()
    yield _still
    _still.server.faults.clear()
