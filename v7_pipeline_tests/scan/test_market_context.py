"""Context of live scans: asked for at once, stored before the question, never in the way, never of the past."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from v7_pipeline.analyst.base import BookContext, MarketContext
from v7_pipeline.market.coinbase import MarketError, OrderBook
from v7_pipeline.market.coingecko import Reference
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.scan import decide as decide_step
from v7_pipeline.scan.context import ScanContext
from v7_pipeline.scan.market_context import context_of, fetch_context, stored_context
from v7_pipeline.settings import SettingsError, load_settings
from v7_pipeline_tests.end_to_end.world import LATER, Clock, World, open_world

AS_OF = datetime(2026, 11, 18, 12, 2, tzinfo=UTC)
SYMBOLS = ("BTC-USD", "ETH-USD")
BOTH = ("order_book", "coingecko")

Open = Callable[..., World]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """A world on a home and a sandbox of its own, the clock just after AS_OF."""
    with ExitStack() as stack:

        def make(name: str = "home", **changes: Any) -> World:
            clock = Clock(AS_OF + LATER)
            server = stack.enter_context(SandboxServer(seed=7, clock=clock))
            changes = {"symbols": SYMBOLS, "context": BOTH, "market_retries": 0} | changes
            return stack.enter_context(open_world(tmp_path / name, server, clock, **changes))

        yield make


def documents(world: World) -> dict[str, dict[str, Any]]:
    """Each symbol's document as it was sent."""
    calls = world.store.query("SELECT symbol, prompt FROM llm_calls ORDER BY symbol").to_dict("records")
    return {call["symbol"]: json.loads(json.loads(call["prompt"])[1]["content"]) for call in calls}


def rows(world: World) -> dict[str, dict[str, Any]]:
    found = world.store.query("SELECT * FROM market_context ORDER BY symbol").to_dict("records")
    return {row["symbol"]: row for row in found}


# --- a live scan ----------------------------------------------------------------------------


def test_a_live_scan_asks_stores_and_tells_the_analyst(opened: Open) -> None:
    world = opened()
    world.scan(AS_OF)
    stored, told = rows(world), documents(world)
    assert set(stored) == set(told) == set(SYMBOLS)
    for symbol, row in stored.items():
        context = told[symbol]["context"]
        assert json.loads(row["faults"]) == {}
        assert context["order_book"]["best_bid"] == row["best_bid"] < row["best_ask"]
        assert context["order_book"]["bid_depth_usd"] == pytest.approx(row["bid_depth_usd"], rel=1e-5)
        assert -1 <= context["order_book"]["imbalance"] <= 1
        assert context["coingecko"]["distance"] == pytest.approx(
            told[symbol]["market"]["price"] / row["reference_price_usd"] - 1, abs=1e-5
        )
        assert context["coingecko"]["age_seconds"] == (row["fetched_at"] - row["reference_at"]).total_seconds()
        assert not [place for place in told[symbol]["missing"] if place.startswith("context")]
        assert row["source"] == "demo"


def test_the_decision_s_row_has_what_would_change_it_and_that_all_numbers_are_grounded(opened: Open) -> None:
    world = opened()
    world.scan(AS_OF)
    for row in world.store.query("SELECT * FROM llm_signals").to_dict("records"):
        assert row["status"] == "answered"
        assert row["would_change_my_mind"].startswith("A combined score of")
        assert json.loads(row["ungrounded_numbers"]) == []


def test_without_the_setting_nothing_is_asked_and_it_is_told_as_missing(opened: Open) -> None:
    world = opened(context=())
    world.scan(AS_OF)
    assert rows(world) == {} and not {"book", "coingecko"} & set(world.server.counts)
    for document in documents(world).values():
        assert document["context"] == {"order_book": None, "coingecko": None}
        assert {"context.order_book", "context.coingecko"} <= set(document["missing"])


def test_a_repeated_scan_asks_the_very_same_question_without_asking_the_market(opened: Open) -> None:
    world = opened()
    world.scan(AS_OF)
    first = world.store.query("SELECT prompt_hash FROM llm_calls ORDER BY symbol")["prompt_hash"].tolist()
    counts = dict(world.server.counts)
    with world.store.transaction() as tx:  # as if the run had died before its decisions were written
        tx.execute("DELETE FROM llm_signals")
    world.clock.now += timedelta(seconds=40)
    world.scan(AS_OF, run_id="again")
    calls = world.store.query("SELECT prompt_hash FROM llm_calls ORDER BY symbol")["prompt_hash"].tolist()
    assert calls == first
    assert {name: world.server.counts[name] for name in ("book", "coingecko", "chat")} == {
        name: counts[name] for name in ("book", "coingecko", "chat")
    }
    assert len(world.store.query("SELECT * FROM llm_signals")) == len(SYMBOLS)


def test_it_is_stored_before_the_analyst_is_asked(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    world = opened()
    seen: list[int] = []

    class Dies:
        name, worst_case_usd = "dies", 0.0

        def decide(self, questions: Any, *, now: datetime) -> list[Any]:
            seen.append(len(rows(world)))
            raise KeyboardInterrupt

    world.runtime.overrides["analyst"] = Dies()
    with pytest.raises(KeyboardInterrupt):
        world.scan(AS_OF)
    assert seen == [len(SYMBOLS)] and len(rows(world)) == len(SYMBOLS)


# --- never in the way -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["status", "malformed_json", "truncate", "outage", "wrong_schema", "empty"])
def test_a_fault_leaves_its_part_missing_with_the_reason_and_the_scan_goes_on(opened: Open, kind: str) -> None:
    world = opened()
    world.server.fault("book", kind, symbol="BTC-USD")
    world.server.fault("coingecko", kind)
    world.scan(AS_OF)
    stored, told = rows(world), documents(world)
    assert set(json.loads(stored["BTC-USD"]["faults"])) == {"order_book", "coingecko"}
    assert set(json.loads(stored["ETH-USD"]["faults"])) == {"coingecko"}
    assert told["BTC-USD"]["context"] == {"order_book": None, "coingecko": None}
    assert told["ETH-USD"]["context"]["order_book"] is not None
    assert {"context.order_book", "context.coingecko"} <= set(told["BTC-USD"]["missing"])
    assert len(world.store.query("SELECT * FROM llm_signals WHERE status = 'answered'")) == len(SYMBOLS)


def test_the_step_tells_the_faults(opened: Open) -> None:
    world = opened()
    world.scan(AS_OF)
    ctx = world.runtime.context(AS_OF + timedelta(minutes=2), "next")
    world.clock.now += timedelta(minutes=2)
    world.server.fault("coingecko", "status", status=429)
    notes = decide_step.decide(ctx).notes
    assert set(notes["context_faults"]) == set(SYMBOLS)
    assert "429" in notes["context_faults"]["BTC-USD"]["coingecko"]


class _Market:
    """A market whose order books come late, broken or as given."""

    def __init__(self, book: Any) -> None:
        self._book = book

    def order_book(self, symbol: str, depth: int = 50, *, retries: int | None = None) -> OrderBook:
        if callable(self._book):
            return self._book(symbol)
        return OrderBook(symbol, *self._book)


class _Gecko:
    def references(self, symbols: Any) -> dict[str, Reference | MarketError]:
        return {symbol: Reference(2.0, None, 5.0, None) for symbol in symbols}


@pytest.fixture
def ctx(make_runtime: Callable[..., Any]) -> ScanContext:
    made: ScanContext = make_runtime(now=AS_OF + LATER, symbols=SYMBOLS, context=BOTH).context(AS_OF, "run")
    return made


def fetched(ctx: ScanContext, book: Any, **changes: Any) -> dict[str, dict[str, Any]]:
    found = fetch_context(replace(ctx, market=_Market(book)), SYMBOLS, coingecko=_Gecko(), **changes)
    return {row["symbol"]: row for row in found}


def test_all_together_take_no_longer_than_the_deadline(ctx: ScanContext) -> None:
    over = Event()

    def slow(symbol: str) -> OrderBook:
        over.wait(60)
        raise AssertionError

    begun = time.monotonic()
    found = fetched(ctx, slow, deadline_s=0.8)  # long enough for CoinGecko's answer on a busy machine
    assert time.monotonic() - begun < 30
    over.set()
    for row in found.values():
        assert json.loads(row["faults"]) == {"order_book": "no answer within 0.8 s"}
        assert row["best_bid"] is None and row["reference_price_usd"] == 2.0


def test_products_are_asked_concurrently(ctx: ScanContext) -> None:
    all_are_here = Barrier(len(SYMBOLS), timeout=30)

    def together(symbol: str) -> OrderBook:
        all_are_here.wait()
        return OrderBook(symbol, ((1.0, 1.0), (0.5, 1.0)), ((1.1, 1.0), (2.0, 1.0)))

    assert all(row["faults"] == "{}" for row in fetched(ctx, together, deadline_s=60).values())


def test_lesson_30_an_error_that_nobody_foresaw_is_told_by_its_kind_alone(ctx: ScanContext) -> None:
    def broken(symbol: str) -> OrderBook:
        raise RuntimeError("https://user:hunter2@host/ broke")

    for row in fetched(ctx, broken).values():
        assert json.loads(row["faults"]) == {"order_book": "it could not be read (RuntimeError)"}


BIDS = ((100.0, 1.0), (99.96, 2.0), (99.90, 4.0), (99.0, 8.0))
ASKS = ((100.02, 1.0), (100.10, 2.0), (100.20, 4.0))


def test_depth_is_what_lies_within_a_tenth_of_a_percent_of_the_mid_price(ctx: ScanContext) -> None:
    """Mid 100.01, band 99.90999 … 100.11001: bids 100·1 + 99.96·2, asks 100.02·1 + 100.10·2."""
    row = fetched(ctx, (BIDS, ASKS))["BTC-USD"]
    assert (row["best_bid"], row["best_ask"]) == (100.0, 100.02)
    assert row["bid_depth_usd"] == pytest.approx(100.0 + 199.92)
    assert row["ask_depth_usd"] == pytest.approx(100.02 + 200.20)
    book = context_of(row).order_book
    assert book is not None and book.spread_bps == pytest.approx(0.02 / 100.01 * 10_000)
    assert book.imbalance == pytest.approx((299.92 - 300.22) / (299.92 + 300.22))


def test_lesson_15_a_book_that_ends_inside_the_band_has_no_depth(ctx: ScanContext) -> None:
    row = fetched(ctx, (BIDS[:2], ASKS))["BTC-USD"]
    assert row["bid_depth_usd"] is None and row["ask_depth_usd"] is not None
    book = context_of(row).order_book
    assert isinstance(book, BookContext) and book.imbalance is None


@pytest.mark.parametrize(
    ("bids", "asks", "told"),
    [((), ASKS, "no bids"), (BIDS, (), "no asks"), (ASKS, BIDS, "not below"), (((-1.0, 1.0),), ASKS, "not below")],
)
def test_a_book_that_makes_no_sense_is_missing_with_its_reason(
    ctx: ScanContext, bids: Any, asks: Any, told: str
) -> None:
    row = fetched(ctx, (bids, asks))["BTC-USD"]
    assert told in json.loads(row["faults"])["order_book"] and row["best_bid"] is None
    assert context_of(row).order_book is None


# --- never of the past ----------------------------------------------------------------------


def test_a_late_scan_asks_for_nothing_and_says_that_it_is_missing(opened: Open) -> None:
    world = opened()
    world.clock.now = AS_OF + timedelta(days=2)
    world.scan(AS_OF)
    assert rows(world) == {} and not {"book", "coingecko"} & set(world.server.counts)
    for document in documents(world).values():
        assert {"context.order_book", "context.coingecko"} <= set(document["missing"])


def test_a_late_scan_reads_what_was_stored_at_its_instant(opened: Open) -> None:
    world = opened()
    world.scan(AS_OF)
    first = documents(world)
    with world.store.transaction() as tx:
        tx.execute("DELETE FROM llm_signals")
    world.clock.now = AS_OF + timedelta(days=2)
    late = world.runtime.context(AS_OF, "late")
    assert fetch_context(late, SYMBOLS) == []
    with world.store.reading() as reader:
        known = stored_context(late, reader)
    assert set(known) == set(SYMBOLS)
    book = context_of(known["BTC-USD"]).order_book
    assert book is not None and book.best_bid == first["BTC-USD"]["context"]["order_book"]["best_bid"]
    assert context_of(known.get("SOL-USD")) == MarketContext()
    chats = world.chats
    world.scan(AS_OF, run_id="late")
    assert world.chats == chats, "the very same question, so its answer is in the ledger"
    assert len(world.store.query("SELECT * FROM llm_signals WHERE status = 'answered'")) == len(SYMBOLS)


# --- settings -------------------------------------------------------------------------------


def test_the_settings_are_read_from_the_environment_and_the_key_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_CONTEXT", "coingecko, order_book,coingecko")
    monkeypatch.setenv("COINGECKO_API_KEY", "CG-secret")
    settings = load_settings()
    assert settings.context == ("coingecko", "order_book")
    assert settings.coingecko_api_key is not None and "CG-secret" not in repr(settings)
    monkeypatch.setenv("COINGECKO_API_KEY", " ")
    assert load_settings().coingecko_api_key is None
    monkeypatch.setenv("V7_CONTEXT", "")
    assert load_settings().context == ()
    monkeypatch.setenv("V7_CONTEXT", "news")
    with pytest.raises(SettingsError, match="V7_CONTEXT"):
        load_settings()


def test_weights_of_the_rules_are_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_RULES_WEIGHTS", "price_momentum=2, risk_metrics = 0,")
    assert load_settings().rules_weights == {"price_momentum": 2.0, "risk_metrics": 0.0}
    for wrong in ("price_momentum", "price_momentum=", "a=1,a=2", "a=-1", "a=nan", "a=inf", "a=x"):
        monkeypatch.setenv("V7_RULES_WEIGHTS", wrong)
        with pytest.raises(SettingsError, match="V7_RULES_WEIGHTS"):
            load_settings()
