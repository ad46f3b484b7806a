"""The gates decide an instant alike: live, done again after a crash, and backfilled into another store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from v7_pipeline.analyst.base import Answer, Decision, Question
from v7_pipeline.backtest.market import StoredMarket
from v7_pipeline.scan.context import persist
from v7_pipeline.scan.run import STEPS, run_scan
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.settings import load_settings
from v7_pipeline.store import Store, open_store
from v7_pipeline_tests.backtest.conftest import holding, simulated

START = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
MINUTE = timedelta(minutes=1)
COMPARED = [
    "signal_id", "side", "halt_ok", "budget_ok", "calls_ok", "plan_ok", "confidence_ok", "rate_ok", "ftmo_ok",
    "exposure_ok", "reason_codes", "accepted", "tier", "quantity", "risk_usd", "notional_usd", "lots", "capped_by",
]  # fmt: skip


class Dice:
    """An analyst whose answer is drawn from the question's name: good plans, bad plans and HOLD."""

    name = "rules"
    worst_case_usd = 0.0

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        return [Decision(q.signal_id, "answered", None, self._answer(q), None, None, 0.0, self.name) for q in questions]

    def _answer(self, q: Question) -> Answer:
        drawn = hashlib.sha256(f"{self.seed} {q.signal_id}".encode()).digest()
        if drawn[0] < 40:
            return Answer("HOLD", 0.5, None, None, None, 60, "The dice say so.", ())
        d = 1 if drawn[0] % 2 else -1
        stop, reward = 0.003 + drawn[1] / 2e4, 1.8 + drawn[2] / 50
        price = q.market_price * (1 + (drawn[3] - 128) / 2e5)
        return Answer(
            "BUY" if d > 0 else "SELL", 0.53 + drawn[4] / 600, price, price * (1 - d * stop),
            price * (1 + d * stop * reward), 3 + drawn[5] % 20, "The dice say so.", (),
        )  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return holding(tmp_path_factory.mktemp("market") / "source.duckdb", simulated(symbols=SYMBOLS), source="live")


def runtime(place: Path, source: Store, seed: int, now: datetime, **changes: Any) -> Runtime:
    given_ = {"home": place.parent, "mode": "live", "symbols": SYMBOLS, "_env_file": None, **changes}
    store = open_store(f"duckdb:{place}")
    made = build_runtime(
        load_settings(**given_), clock=lambda: now, store=store,
        market=StoredMarket(source, venue="coinbase-exchange"), analyst=Dice(seed),
    )  # fmt: skip
    made.prepare_store()
    return made


def decisions(store: Store) -> pd.DataFrame:
    return store.read("gated_signals").sort_values("signal_id", ignore_index=True)[COMPARED]


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), crash=st.integers(0, len(STEPS) - 1))
def test_the_decision_at_an_instant_is_the_same_whatever_the_dice_say(
    source: Store, tmp_path_factory: pytest.TempPathFactory, seed: int, crash: int
) -> None:
    decide_thrice(source, tmp_path_factory, seed, crash)


def test_the_decision_at_an_instant_is_the_same_live_rerun_and_backfilled(
    source: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    decided = decide_thrice(source, tmp_path_factory, seed=7, crash=3)
    assert decided["accepted"].any() and {"RATE_LIMIT", "HOLD"} <= set(decided["reason_codes"])


def decide_thrice(source: Store, tmp_path_factory: pytest.TempPathFactory, seed: int, crash: int) -> pd.DataFrame:
    """Live with a crash before step `crash` of a scan, done again, and backfilled: what the gates said, all alike."""
    folder = tmp_path_factory.mktemp("stores")
    instants = [START + i * MINUTE for i in (0, 2, 4, 62, 64)]
    limits = {"max_signals_per_hour": 2, "risk_per_trade": 0.01}
    for as_of in instants:  # live: each at its time, a crash on the way to some of them, and a new process after it
        live = runtime(folder / "live.duckdb", source, seed, as_of + timedelta(seconds=5), **limits)
        if as_of == instants[3]:
            ctx = live.context(as_of, "crashed")
            for _, step in STEPS[:crash]:
                persist(ctx.store, step(ctx))
            live.store.close()
            live = runtime(folder / "live.duckdb", source, seed, as_of + timedelta(seconds=40), **limits)
        run_scan(live.context(as_of, f"live-{as_of:%H%M}"))
        live.store.close()
    decided = decisions(live.store)
    assert live.store.read("gated_signals")["source"].eq("live").all()

    again = runtime(folder / "live.duckdb", source, seed, instants[-1] + timedelta(seconds=50), **limits)
    run_scan(again.context(instants[-1], "again"))
    pd.testing.assert_frame_equal(decisions(again.store), decided)
    again.store.close()

    later = runtime(folder / "backfill.duckdb", source, seed, instants[-1] + timedelta(days=3), **limits)
    for as_of in instants:
        run_scan(later.context(as_of, "backfill"))
    assert later.store.read("gated_signals")["source"].eq("backfill").all()
    pd.testing.assert_frame_equal(decisions(later.store), decided)
    later.store.close()
    return decided
