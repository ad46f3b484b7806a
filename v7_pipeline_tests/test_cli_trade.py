"""`v7 trade`: what it records, refuses and shows, over a real store in demo mode."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from v7_pipeline.store import Store, open_store
from v7_pipeline.store.identity import signal_id
from v7_pipeline_tests.test_cli import refused, v7
from v7_pipeline_tests.test_cli_account import candles, put, trade

MINUTE = timedelta(minutes=1)
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
WHEN = NOW - timedelta(hours=3)
KEY = signal_id("v7", "BTC-USD", WHEN)
AT = f"{WHEN + 5 * MINUTE:%Y-%m-%dT%H:%M:%SZ}"
LATER = f"{WHEN + 9 * MINUTE:%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one accepted BUY of a bitcoin at 100,000 (stop 99,500), one HOLD, and twenty candles."""
    made = tmp_path_factory.mktemp("filled") / "v7.duckdb"
    store = open_store(f"duckdb:{made}")
    store.migrate("1", NOW)
    rows = trade(WHEN)
    put(store, "llm_signals", rows["llm_signals"])
    put(store, "gated_signals", rows["gated_signals"])
    hold = {**rows["llm_signals"], "signal_id": "v7-BTC-USD-20200101T000000Z", "side": "HOLD", "stop_price": None}
    put(store, "llm_signals", hold)
    candles(store, WHEN, *[(99_900.0, 100_200.5, 100_000.0)] * 20)
    return made


@pytest.fixture
def store(filled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    monkeypatch.setenv("V7_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("V7_MODE", "demo")
    place = tmp_path / "home" / "demo" / "v7.duckdb"
    place.parent.mkdir(parents=True)
    shutil.copy(filled, place)
    return open_store(f"duckdb:{place}")


def test_a_trade_is_entered_left_in_parts_and_becomes_a_manual_outcome(store: Store) -> None:
    said = v7("trade", "entry", KEY, "100000.5", "--at", AT, "--fee", "10")
    assert said.code == 0 and said.out.startswith(f"DEMO entry {KEY}-entry-1: BUY 1 BTC-USD at 100,000.5 "), said
    assert "1 of 1 open" in said.out
    assert "0.6 of 1 open" in v7("exit", KEY, "100500", "half", "--quantity", "0.4", "--fee", "5", "--at", LATER).out
    said = v7("trade", "exit", KEY, "100500", "target", "--fee", "5", "--at", LATER)
    assert "closed: P&L $479.50" in said.out
    rows = store.read("outcomes")
    row = rows.iloc[0]
    assert len(rows) == 1 and (row["kind"], row["source"], row["outcome"]) == ("manual", "demo", "win")
    assert row["pnl_usd"] == pytest.approx(479.5) and row["exit_reason"] == "target"
    assert row["r_multiple"] == pytest.approx(479.5 / 100_000.5 / 0.005)
    assert (row["mfe"], row["mae"]) == (pytest.approx(200 / 100_000.5), pytest.approx(-100.5 / 100_000.5))
    assert (row["entry_time"], row["holding_minutes"], row["gap_minutes"]) == (WHEN + 5 * MINUTE, 5, 0)
    listed = v7("trade", "list").out
    assert "DEMO 1 trade of your own" in listed and "100,000.5" in listed and "479.50" in listed


def test_an_edit_and_a_void_are_new_events_and_the_outcome_follows(store: Store) -> None:
    v7("entry", KEY, "100000", "--at", AT, "--fee", "0")
    v7("exit", KEY, "100500", "target", "--at", LATER, "--fee", "0")
    said = v7("trade", "edit", f"{KEY}-exit-1", "--price", "100400", "--reason", "typo")
    assert "closed: P&L $400.00" in said.out
    assert "0 event" not in v7("trade", "void", f"{KEY}-exit-1", "--reason", "never was").out
    events = store.read("manual_trades")
    assert sorted(events["action"]) == ["edit", "entry", "exit", "void"]
    assert events.set_index("event_id").loc[f"{KEY}-exit-1", "price"] == 100_500.0
    assert store.read("outcomes")["outcome"].tolist() == ["open"]
    assert "was voided" in refused("trade", "edit", f"{KEY}-exit-1", "--price", "1")
    assert "nothing of this trade is left" in v7("trade", "void", f"{KEY}-entry-1", "--reason", "no").out
    assert store.read("outcomes").empty and len(store.read("manual_trades")) == 5
    assert "voided" in v7("trade", "list", "--events").out


def test_what_cannot_have_happened_is_refused_and_nothing_is_written(store: Store) -> None:
    future = f"{NOW + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
    assert "has no entry to exit from" in refused("trade", "exit", KEY, "100500", "target")
    assert "lies in the future" in refused("trade", "entry", KEY, "1", "--at", future)
    assert "has no time zone" in refused("trade", "entry", KEY, "1", "--at", AT.rstrip("Z"))
    assert "before the signal" in refused("trade", "entry", KEY, "1", "--at", "2020-01-01T00:00Z")
    assert "plans no trade" in refused("trade", "entry", "v7-BTC-USD-20200101T000000Z", "1")
    assert "there is no signal" in refused("trade", "entry", "v7-BTC-USD-20190101T000000Z", "1")
    assert "is no amount" in refused("trade", "entry", KEY, "nan")
    assert "is no fee" in refused("trade", "entry", KEY, "1", "--fee", "-1")
    assert "no entry or exit" in refused("trade", "void", f"{KEY}-entry-9", "--reason", "x")
    assert store.read("manual_trades").empty and store.read("outcomes").empty
    v7("entry", KEY, "100000", "--at", AT)
    assert "say --again" in refused("trade", "entry", KEY, "100000")
    assert "only 1 is open" in refused("trade", "exit", KEY, "100500", "x", "--quantity", "1.5")
    v7("exit", KEY, "100500", "target", "--at", LATER)
    assert "nothing is open" in refused("trade", "exit", KEY, "100500", "x")
    assert "no entry before it" in refused("trade", "void", f"{KEY}-entry-1", "--reason", "x")
    assert "nothing to mend" in refused("trade", "edit", f"{KEY}-entry-1")
    assert len(store.read("manual_trades")) == 2
    assert v7("trade", "entry", KEY, "100000", "--again").code == 0


def test_the_export_holds_every_event_and_says_which_stand(store: Store, tmp_path: Path) -> None:
    v7("entry", KEY, "100000", "--at", AT)
    v7("trade", "edit", f"{KEY}-entry-1", "--price", "100001")
    rows = list(csv.DictReader(v7("trade", "export").out.splitlines()))
    assert [(row["action"], row["stands"], row["demo"]) for row in rows] == [
        ("entry", "False", "True"),
        ("edit", "True", "True"),
    ]
    place = tmp_path / "trades.json"
    assert "DEMO 2 events" in v7("trade", "export", "--output", str(place), "--format", "json").out
    assert [row["price"] for row in json.loads(place.read_text())] == [100_000.0, 100_001.0]
    assert json.loads(place.read_text())[0]["at"] == AT
    assert "cannot be written" in refused("trade", "export", "--output", str(tmp_path))


def test_a_fee_that_is_left_out_is_the_presets_and_said_so(store: Store) -> None:
    assert "fee $32.50 (assumed: ftmo-crypto)" in v7("entry", KEY, "100000", "--at", AT).out
    assert store.read("manual_trades")["fee_usd"].tolist() == [pytest.approx(32.5)]


def test_without_trades_or_a_store_the_sentence_says_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "DEMO no trades of your own yet" in v7("trade", "list").out
    monkeypatch.setenv("V7_HOME", "elsewhere")
    assert "there is no store yet" in refused("trade", "list")
