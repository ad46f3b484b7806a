"""v6 beside v7 in a scan: rows of each, the day's model once, limits of its own, and v7 the same with or without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.gates.reasons import STRATEGY_OFF, explain
from v7_pipeline.indicators import FEATURES
from v7_pipeline.orchestration.checks.scan_checks import CHECKS, run_checks
from v7_pipeline.scan.account import read_account
from v7_pipeline.scan.run import run_scan
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.settings import SettingsError, load_settings
from v7_pipeline.store import arrow_rows, conform, open_store
from v7_pipeline.store.schema import TABLES
from v7_pipeline.strategies.v6 import LogisticModel
from v7_pipeline.strategies.walk_forward import Terms, decisions
from v7_pipeline_tests.strategies.markets import walk

FIRST = datetime(2024, 2, 3, 9, 30, tzinfo=UTC)
SYMBOLS = ("BTC-USD", "ETH-USD")
STEP = timedelta(minutes=2)


class NoMarket:
    """A market that has nothing new: every candle is stored already."""

    venue = "sandbox"

    def candles_of(self, ranges: Any, *, now: datetime, on_page: Any = None) -> dict[str, Any]:
        from v7_pipeline.market.clean import clean
        from v7_pipeline.market.coinbase import Fetched

        bars = history()
        found = {}
        for symbol, (start, end) in ranges.items():
            rows = bars[(bars["symbol"] == symbol) & (bars["open_time"] >= start) & (bars["open_time"] < end)]
            rows = rows[rows["open_time"] + pd.Timedelta(minutes=1) <= now]
            frame, repairs = clean(rows, symbol=symbol, start=start, end=end, now=now)
            found[symbol] = Fetched(frame, repairs, 1)
        return found


@cache
def history() -> pd.DataFrame:
    """Trending candles of both symbols for 34 days, past the last scan."""
    return pd.concat([walk(34, seed=4 + k, symbol=s, trend=0.1) for k, s in enumerate(SYMBOLS)], ignore_index=True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The file of a store with the candles of so many days, made once and to be copied."""

    @cache
    def make(days: int) -> Path:
        file = tmp_path_factory.mktemp("stored") / "v7.duckdb"
        store = open_store(f"duckdb:{file}")
        store.migrate("0", FIRST)
        bars = history()
        bars = bars[(bars["open_time"] < FIRST) & (bars["open_time"] >= FIRST - timedelta(days=days))]
        marks = {"venue": "sandbox", "source": "demo", "run_id": "stored", "code_version": "0"}
        known = bars["open_time"] + pd.Timedelta(minutes=1)
        with store.transaction() as tx:
            tx.insert_new("candles", conform("candles", bars.assign(fetched_at=known, **marks)))
        store.close()
        return file

    return make


@pytest.fixture
def scanner(make_settings: Callable[..., Any], stored: Callable[[int], Path]) -> Iterator[Callable[..., Runtime]]:
    """A runtime over stored candles of `days` days; its clock is set by `scan`."""

    def make(strategies: str, *, days: int = 34, home: str = "home", **changes: Any) -> Runtime:
        quick = {
            "analyst": "rules",
            "aggressive": True,
            "horizon_minutes": 4,
            "max_signals_per_hour": 100,
            "risk_per_trade": 0.0005,
        }
        settings = make_settings(
            mode="demo",
            symbols=SYMBOLS,
            strategies=strategies,
            **quick | changes,
        )
        settings = settings.model_copy(update={"home": settings.home.parent / home})
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stored(days), settings.store_url.removeprefix("duckdb:"))
        runtime = build_runtime(settings, market=NoMarket())
        runtime.clock = lambda: FIRST
        runtime.prepare_store()
        return runtime

    yield make


def scan(runtime: Runtime, number: int = 0, scans: int = 1) -> None:
    for place in range(number, number + scans):
        as_of = FIRST + place * STEP
        runtime.clock = lambda now=as_of: now + timedelta(seconds=5)
        run_scan(runtime.context(as_of, f"scan-{place}"))


def rows(runtime: Runtime, name: str, strategy: str | None = None) -> pd.DataFrame:
    with runtime.store.reading() as reader:
        frame: pd.DataFrame = reader.read(name)
    return frame if strategy is None else frame[frame["strategy"] == strategy].reset_index(drop=True)


def plant(runtime: Runtime) -> None:
    """A model of the day that finds most trades worth making."""
    weights = {name: 0.3 if name == "rsi_1m" else 0.0 for name in FEATURES}
    model = LogisticModel(0.4, weights, dict.fromkeys(FEATURES, 0.0), dict.fromkeys(FEATURES, 1.0), 900, 400)
    midnight = FIRST.replace(hour=0, minute=0)
    row = {
        "strategy": "v6", "fitted_for": midnight, "coefficients": json.dumps(asdict(model)), "n": 900, "wins": 400,
        "n_eff": 400.0, "win_r": 1.6, "loss_r": -1.2, "first_as_of": FIRST, "last_as_of": FIRST, "fitted_at": FIRST,
        "source": "demo", "run_id": "put", "code_version": "0",
    }  # fmt: skip
    with runtime.store.transaction() as tx:
        tx.insert_new("strategy_models", arrow_rows("strategy_models", [row | {"symbol": s} for s in SYMBOLS]))


def test_each_strategy_has_rows_of_its_own_and_a_scan_done_twice_changes_nothing(scanner: Any) -> None:
    runtime = scanner("v7,v6")
    scan(runtime, scans=3)
    for name in ("llm_signals", "gated_signals"):
        frame = rows(runtime, name)
        assert frame.groupby(["strategy", "as_of"]).size().eq(len(SYMBOLS)).all() and len(frame) == 3 * 2 * 2
    v6 = rows(runtime, "llm_signals", "v6")
    assert set(v6["analyst"]) == {"technical"} and set(v6["status"]) == {"answered"}
    assert v6["reasoning"].str.contains("breaks even").all() and v6["confidence"].notna().all()
    assert len(rows(runtime, "strategy_models")) == len(SYMBOLS)
    before = {name: rows(runtime, name) for name in TABLES}
    scan(runtime, 2)
    for name, frame in before.items():
        if name not in ("candles", "theory_features"):
            pd.testing.assert_frame_equal(frame, rows(runtime, name), obj=name)


def test_a_live_decision_is_the_walk_forwards(scanner: Any) -> None:
    runtime = scanner("v6")
    scan(runtime, scans=2)
    stored = rows(runtime, "llm_signals", "v6").sort_values(["symbol", "as_of"], ignore_index=True)
    instants = pd.DatetimeIndex(sorted(set(stored["as_of"])))
    found = decisions(history(), instants, Terms.of(runtime.settings))
    assert len(found) == len(stored)
    for name in ("side", "entry_price", "stop_price", "target_price", "market_price", "features_as_of"):
        assert stored[name].astype(object).where(stored[name].notna(), None).tolist() == (
            found[name].astype(object).where(found[name].notna(), None).tolist()
        ), name
    assert stored["confidence"].tolist() == found["confidence"].round(4).tolist()


@pytest.mark.slow
def test_v7_is_the_same_with_and_without_v6(scanner: Any) -> None:
    alone, both = scanner("v7", home="alone"), scanner("v7,v6", home="both")
    plant(both)
    for runtime in (alone, both):
        scan(runtime, scans=6)
    closed = rows(both, "outcomes", "v6")
    assert {"paper", "shadow"} <= set(closed["kind"]) and (closed["outcome"] != "open").any()
    assert set(rows(both, "confidence_thresholds")["strategy"]) >= {"v6"}
    assert "strategy:v6" in set(rows(both, "win_rates")["scope"])
    for name in ("theory_features", "llm_signals", "gated_signals", "outcomes", "theory_performance"):
        one, other = rows(alone, name), rows(both, name)
        if "strategy" in other:
            other = other[other["strategy"] == "v7"].reset_index(drop=True)
        pd.testing.assert_frame_equal(one, other, obj=name)
    for name in ("win_rates", "theory_attribution", "theory_weights", "calibrations"):
        one, other = rows(alone, name), rows(both, name)
        if "scope" in other:
            other = other[other["scope"] != "strategy:v6"].reset_index(drop=True)
        pd.testing.assert_frame_equal(one, other, obj=name)


def test_live_decisions_are_their_backtest(scanner: Any, tmp_path: Any) -> None:
    from v7_pipeline.backtest import replay

    runtime = scanner("v7,v6")
    scan(runtime, scans=3)
    target = open_store(f"duckdb:{tmp_path / 'target.duckdb'}")
    replay(runtime.store, target, runtime.settings, start=FIRST, end=FIRST + 3 * STEP)
    one, other = (store.query("SELECT * FROM llm_signals ORDER BY signal_id") for store in (runtime.store, target))
    of_the_hour = ["decided_at", "price_age_s", "source", "run_id", "code_version"]
    pd.testing.assert_frame_equal(one.drop(columns=of_the_hour), other.drop(columns=of_the_hour))
    models = [
        store.query("SELECT symbol, coefficients FROM strategy_models ORDER BY symbol")
        for store in (runtime.store, target)
    ]
    pd.testing.assert_frame_equal(*models)


def test_each_is_switched_on_alone(scanner: Any) -> None:
    for name, analyst in (("v7", "rules"), ("v6", "deepseek")):  # v6 needs nobody's key
        runtime = scanner(name, home=name, analyst=analyst)
        plant(runtime)
        scan(runtime)
        assert set(rows(runtime, "llm_signals")["strategy"]) == {name}
        assert set(rows(runtime, "gated_signals")["strategy"]) == {name}


def test_what_v6_signals_uses_nothing_of_v7s(scanner: Any) -> None:
    runtime = scanner("v7,v6", max_signals_per_hour=1)
    plant(runtime)
    scan(runtime, scans=3)
    gated = rows(runtime, "gated_signals")
    v6 = gated[(gated["strategy"] == "v6") & gated["accepted"].astype(bool)]
    assert len(v6) == 1, "v6 has its one signal of the hour"
    asked = gated[(gated["strategy"] == "v7") & (gated["as_of"] > v6["as_of"].iloc[0])]
    v7_before = gated[(gated["strategy"] == "v7") & gated["accepted"].astype(bool)]
    for row in asked.to_dict("records"):
        seen = json.loads(row["gate_inputs"]).get("rate_limit", {})
        taken = (v7_before["as_of"] < row["as_of"]).sum()
        assert seen.get("accepted", taken) == taken
    with runtime.store.reading() as reader:
        as_of = FIRST + 3 * STEP
        counts = {
            name: len(read_account(runtime.settings, reader, as_of, "demo", strategy=name).accepted_times)
            for name in ("v7", "v6")
        }
    assert counts == {"v6": 1, "v7": len(v7_before)}


def lose(runtime: Runtime, strategy: str, usd: float) -> None:
    """A closed paper trade of the strategy that lost so much yesterday."""
    at = FIRST - timedelta(days=2)
    key = f"{strategy}-BTC-USD-{at:%Y%m%dT%H%M%SZ}"
    who = {"signal_id": key, "as_of": at, "symbol": "BTC-USD", "strategy": strategy}
    marks = {"source": "demo", "run_id": "put", "code_version": "0"}

    def put(name: str, **values: Any) -> None:
        row = dict.fromkeys(TABLES[name].column_names) | who | marks | values
        with runtime.store.transaction() as tx:
            tx.insert_new(name, conform(name, pd.DataFrame([row])))

    put(
        "llm_signals", decided_at=at, analyst="put", side="BUY", entry_price=1e3, stop_price=900.0, target_price=1200.0,
        horizon_minutes=60, status="answered", confidence=0.7, market_price=1e3,
    )  # fmt: skip
    put(
        "gated_signals", side="BUY", accepted=True, freshness_ok=True, halt_ok=True, budget_ok=True, gate_inputs="{}",
        gates_off="", reason_codes="", quantity=100.0, risk_usd=1.0, notional_usd=1.0,
    )  # fmt: skip
    put(
        "outcomes", side="BUY", kind="paper", entry_time=at, entry_price=1e3, exit_time=at + timedelta(minutes=9),
        exit_price=1e3 - usd / 100, exit_reason="time", ambiguous=False, gross_return=-usd / 1e5, fees=0.0,
        net_return=-usd / 1e5, r_multiple=-1.0, quantity=100.0, pnl_usd=-usd, outcome="loss", fee_preset="none",
        slippage=0.0, mfe=0.0, mae=-usd / 1e5, followed_until=at + timedelta(minutes=10), labelled_at=at,
    )  # fmt: skip


@pytest.mark.parametrize(("loser", "other"), [("v6", "v7"), ("v7", "v6")])
def test_a_lost_account_halts_its_strategy_only(scanner: Any, loser: str, other: str) -> None:
    runtime = scanner("v7,v6")
    plant(runtime)
    lose(runtime, loser, 10_500.0)
    scan(runtime, scans=2)
    halts = rows(runtime, "halts")
    assert list(halts["kind"]) == ["total"]
    assert halts["halt_id"].iloc[0].startswith("v6-total" if loser == "v6" else "total")
    gated = rows(runtime, "gated_signals")
    last = gated[gated["as_of"] == FIRST + STEP]
    assert not last.loc[last["strategy"] == loser, "halt_ok"].any()
    assert last.loc[last["strategy"] == other, "halt_ok"].all()
    with runtime.store.reading() as reader:
        states = {
            name: read_account(runtime.settings, reader, FIRST + STEP, "demo", strategy=name).state
            for name in (loser, other)
        }
    assert states[loser].breached == "total" and states[other].breached is None
    assert states[other].balance == pytest.approx(100_000.0, abs=500)


def test_a_persons_halt_holds_for_all(scanner: Any) -> None:
    from v7_pipeline.scan.halts import halt

    runtime = scanner("v7,v6")
    marks = {"source": "demo", "run_id": "put", "code_version": "0"}
    plant(runtime)
    halt(runtime.store, "lunch", at=FIRST - STEP, provenance=marks, marks={"demo": True, "gates_off": ()})
    scan(runtime)
    assert not rows(runtime, "gated_signals")["halt_ok"].any()


def test_a_fresh_install_has_no_model_and_is_told_what_to_do(scanner: Any) -> None:
    runtime = scanner("v7,v6", days=4, horizon_minutes=240)
    scan(runtime)
    v6 = rows(runtime, "llm_signals", "v6")
    assert set(v6["status"]) == {"abstained"} and set(v6["status_reason"]) == {"NO_MODEL"}
    assert v6["reasoning"].str.contains("v7 backfill").all() and v6["reasoning"].str.contains(r"about \d+ days").all()
    assert set(rows(runtime, "gated_signals", "v6")["reason_codes"]) == {"ABSTAINED:NO_MODEL"}
    assert "backfill" in explain("ABSTAINED:NO_MODEL").remedy and explain(STRATEGY_OFF).remedy
    assert rows(runtime, "strategy_models").empty
    assert (rows(runtime, "llm_signals", "v7")["status"] == "answered").all()


@pytest.mark.parametrize("strategies", ["v6", "v7,v6"])
def test_counts_are_conserved(scanner: Any, strategies: str) -> None:
    runtime = scanner(strategies)
    plant(runtime)
    scan(runtime, scans=2)
    found = {check.name: bad for check, bad, _ in run_checks(runtime, FIRST + STEP, frozenset(c.name for c in CHECKS))}
    assert found["one_decision_for_each_symbol"] == 0 and found["every_decision_was_gated"] == 0
    assert found["accepted_passed_every_gate"] == 0 and found["closed_outcomes_are_net"] == 0
    with runtime.store.transaction() as tx:
        tx.execute("DELETE FROM llm_signals WHERE as_of = ? AND symbol = 'ETH-USD'", (FIRST + STEP,))
    found = {check.name: bad for check, bad, _ in run_checks(runtime, FIRST + STEP, frozenset(c.name for c in CHECKS))}
    assert found["one_decision_for_each_symbol"] == len(strategies.split(","))


def test_the_setting_names_known_strategies_once() -> None:
    assert load_settings(strategies="v6, V7").strategies == ("v6", "v7")
    assert load_settings(strategies="ensemble").strategies_decided == ("v7", "v6", "ensemble")
    for wrong in ("", "v8", "v7,v7"):
        with pytest.raises(SettingsError):
            load_settings(strategies=wrong)


def earn_a_voice(runtime: Runtime, strategy: str) -> None:
    """A hundred trades of the strategy that closed in the days before, most of them won, all with a confidence."""
    marks = {"source": "demo", "run_id": "put", "code_version": "0"}
    signals, outcomes = [], []
    for place in range(100):
        at = FIRST.replace(hour=0, minute=0) - timedelta(hours=1 + place)
        who = {
            "signal_id": f"{strategy}-BTC-USD-{at:%Y%m%dT%H%M%SZ}", "as_of": at, "symbol": "BTC-USD", "side": "BUY",
            "strategy": strategy,
        }  # fmt: skip
        signals.append(
            dict.fromkeys(TABLES["llm_signals"].column_names)
            | who
            | marks
            | {"decided_at": at, "analyst": "put", "status": "answered", "confidence": 0.6 + 0.002 * place}
        )
        outcomes.append(
            dict.fromkeys(TABLES["outcomes"].column_names)
            | who
            | marks
            | {
                "kind": "shadow", "entry_time": at, "exit_time": at + timedelta(minutes=9), "ambiguous": False,
                "outcome": "loss" if place % 4 == 0 else "win", "fee_preset": "none", "entry_price": 1.0,
                "labelled_at": at, "followed_until": at + timedelta(minutes=10),
            }
        )  # fmt: skip
    with runtime.store.transaction() as tx:
        tx.insert_new("llm_signals", arrow_rows("llm_signals", signals))
        tx.insert_new("outcomes", arrow_rows("outcomes", outcomes))


def test_the_ensemble_alone_decides_its_members_and_accepts_none_of_theirs(scanner: Any) -> None:
    runtime = scanner("ensemble")
    plant(runtime)
    earn_a_voice(runtime, "v6")
    scan(runtime, scans=2)
    now = rows(runtime, "llm_signals")
    now = now[now["as_of"] >= FIRST]
    assert now.groupby(["as_of", "strategy"]).size().eq(len(SYMBOLS)).all()
    assert set(now["strategy"]) == {"v7", "v6", "ensemble"}
    vote = now[now["strategy"] == "ensemble"]
    assert set(vote["analyst"]) == {"vote"} and vote["side"].isin(("BUY", "SELL")).any()
    assert vote["reasoning"].str.contains("v7 has no voice yet").all() and vote["reasoning"].str.contains("platt").all()
    led = vote.merge(now[now["strategy"] == "v6"], on=["as_of", "symbol"], suffixes=("", "_v6"))
    led = led[led["side"] != "HOLD"]
    assert (led["side"] == led["side_v6"]).all() and (led["stop_price"] == led["stop_price_v6"]).all()
    gated = rows(runtime, "gated_signals")
    assert gated.loc[gated["strategy"] == "ensemble", "accepted"].any()
    members = gated[gated["strategy"] != "ensemble"]
    assert not members["accepted"].any() and members["reason_codes"].str.endswith(STRATEGY_OFF).all()
    found = {check.name: bad for check, bad, _ in run_checks(runtime, FIRST + STEP, frozenset(c.name for c in CHECKS))}
    assert found["one_decision_for_each_symbol"] == 0 and found["accepted_passed_every_gate"] == 0


def test_all_three_stand_beside_one_another_and_are_told_apart(scanner: Any) -> None:
    from rich.console import Console

    from v7_pipeline.console import scan_blocks, signals_table, statistics_block

    runtime = scanner("v7,v6,ensemble")
    plant(runtime)
    scan(runtime, scans=3)
    counts = rows(runtime, "gated_signals").groupby("strategy").size()
    assert counts.to_dict() == {"v7": 6, "v6": 6, "ensemble": 6}
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(scan_blocks(runtime.store, runtime.settings, FIRST + 2 * STEP))
    console.print(statistics_block(runtime.store, runtime.settings))
    console.print(signals_table(runtime.store, symbol=None, limit=20, accepted_only=False, demo=True))
    told = console.export_text()
    for text in ("BTC-USD (v7)", "BTC-USD (v6)", "BTC-USD (ensemble)", "OUTCOMES paper (v6)", "v6-BTC-USD-"):
        assert text in told, text


@pytest.mark.slow
def test_all_three_in_a_run_of_dagster_on_a_fresh_store(tmp_path: Any) -> None:
    from v7_pipeline.sandbox.server import SandboxServer
    from v7_pipeline_tests.end_to_end.world import LATER, Clock, open_world

    as_of = datetime(2026, 11, 18, 12, 2, tzinfo=UTC)
    clock = Clock(as_of + LATER)
    with (
        SandboxServer(seed=7, clock=clock) as server,
        open_world(tmp_path, server, clock, symbols=SYMBOLS, strategies="v7,v6,ensemble", analyst="rules") as world,
    ):
        result = world.run(as_of)
        assert result.success and all(check.passed for check in result.get_asset_check_evaluations())
        (event,) = result.asset_materializations_for_node("llm_signals")
        shown = str(event.metadata["decisions"].value)
        told = world.store.rows("SELECT strategy, status, count(*) AS n FROM llm_signals GROUP BY ALL ORDER BY ALL")
    assert "by rules, v6, ensemble" in shown and "BTC-USD (v6)" in shown and "NO_MODEL" in shown
    assert [(row["strategy"], row["status"], row["n"]) for row in told] == [
        ("ensemble", "answered", 2),
        ("v6", "abstained", 2),
        ("v7", "answered", 2),
    ]
