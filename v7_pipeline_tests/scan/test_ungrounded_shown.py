"""A number that the prompt does not hold is stored, and shown wherever the decision is: asset, `v7 why`, dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO

import dagster as dg
import pytest
from rich.console import Console
from starlette.testclient import TestClient

from v7_pipeline.console import why_blocks
from v7_pipeline.dashboard.app import create_app
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.store import signal_id
from v7_pipeline_tests.end_to_end.world import LATER, Clock, World, open_world

AS_OF = datetime(2026, 11, 18, 12, 2, tzinfo=UTC)
INVENTED = {
    "signal": "HOLD", "confidence": 0.8, "entry": None, "stop": None, "target": None, "horizon_minutes": None,
    "reasoning": "RSI is 71.3 and the MACD histogram 0.00317 over 240 minutes.", "key_theories": [],
    "would_change_my_mind": "A falling regime.",
}  # fmt: skip
IDS = {symbol: signal_id("v7", symbol, AS_OF) for symbol in ("BTC-USD", "ETH-USD")}


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, dg.ExecuteInProcessResult]]:
    """A Dagster run in which BTC-USD is answered with invented numbers and ETH-USD as usual."""
    clock = Clock(AS_OF + LATER)
    with SandboxServer(seed=7, clock=clock) as server:
        server.fault("chat", "content", symbol="BTC-USD", content=json.dumps(INVENTED))
        home = tmp_path_factory.mktemp("ungrounded")
        with open_world(home, server, clock, symbols=tuple(IDS)) as world:
            yield world, world.run(AS_OF)


def test_it_is_stored_with_the_decision(scanned: tuple[World, dg.ExecuteInProcessResult]) -> None:
    rows = scanned[0].store.query("SELECT signal_id, ungrounded_numbers, would_change_my_mind FROM llm_signals")
    stored = {row["signal_id"]: row for row in rows.to_dict("records")}
    assert json.loads(stored[IDS["BTC-USD"]]["ungrounded_numbers"]) == ["71.3", "0.00317"]
    assert json.loads(stored[IDS["ETH-USD"]]["ungrounded_numbers"]) == []
    assert stored[IDS["BTC-USD"]]["would_change_my_mind"] == "A falling regime."


def test_the_asset_s_table_names_it(scanned: tuple[World, dg.ExecuteInProcessResult]) -> None:
    (story,) = scanned[1].asset_materializations_for_node("llm_signals")
    lines = str(story.metadata["decisions"].value).splitlines()
    assert any("not in the prompt" in line for line in lines)
    assert next(line for line in lines if "BTC-USD" in line).endswith("| 71.3, 0.00317 |")
    assert next(line for line in lines if "ETH-USD" in line).endswith("| none |")


def told(world: World, key: str) -> str:
    out = StringIO()
    Console(file=out, width=160).print(why_blocks(world.store, key, demo=True))
    return out.getvalue()


def test_why_tells_it_and_what_would_change_the_mind(scanned: tuple[World, dg.ExecuteInProcessResult]) -> None:
    text = told(scanned[0], IDS["BTC-USD"])
    assert "numbers of the reasoning: NOT in the prompt: 71.3, 0.00317" in text
    assert "would change its mind: A falling regime." in text
    assert "numbers of the reasoning: all in the prompt" in told(scanned[0], IDS["ETH-USD"])


def test_the_dashboard_tells_it(scanned: tuple[World, dg.ExecuteInProcessResult]) -> None:
    app = create_app(scanned[0].store, mode="demo", clock=lambda: AS_OF + LATER, daily_budget_usd=3.0)
    client = TestClient(app, base_url="http://127.0.0.1")
    page = client.get("/").text
    assert page.count("not in the prompt: 71.3, 0.00317") == 1 and page.count("not in the prompt") == 1
    signals = {row["symbol"]: row for row in client.get("/api/signals").json()["signals"]}
    assert signals["BTC-USD"]["ungrounded_numbers"] == ["71.3", "0.00317"]
    assert signals["ETH-USD"]["ungrounded_numbers"] == []


def test_the_asset_tells_what_the_calls_cost(scanned: tuple[World, dg.ExecuteInProcessResult]) -> None:
    (story,) = scanned[1].asset_materializations_for_node("llm_signals")
    (spent,) = scanned[0].store.rows("SELECT sum(cost_usd) AS usd, count(DISTINCT call_id) AS n FROM llm_calls")
    lines = str(story.metadata["costs"].value).splitlines()
    assert "DEMO" in lines[0]
    assert f"| month | {spent['usd']:.4f} of 100 | {spent['n']} calls |" in lines
    assert story.metadata["month_usd"].value == pytest.approx(spent["usd"])
    assert "forecast_month_usd" not in story.metadata, "two calls are no days"
