"""The fast replay says what the replay of single scans says: decisions, gates, trades, what was learnt and when."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.backtest import Simulation, engine, prepare, replay, simulate
from v7_pipeline.backtest.deciders import FixedDecider, RulesDecider, decider_of
from v7_pipeline.backtest.prepared import Prepared
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, conform
from v7_pipeline_tests.backtest.conftest import END, START, SYMBOLS, Replayed, fresh, holding, settings_of, simulated
from v7_pipeline_tests.shared_data import needs_shared

MARKS = {"source": "backtest", "run_id": "x", "code_version": "x"}
#: What the fast replay leaves out: wording, and what the gates saw of decisions that are no trade.
LEFT_OUT = {"reasoning", "would_change_my_mind", "source", "run_id", "code_version"}
TRADED = "signal_id IN (SELECT signal_id FROM gated_signals WHERE side IN ('BUY', 'SELL'))"
WIN_RATES = ("all", "side:BUY", "side:SELL")


def assert_same(target: Store, found: Simulation, strategy: str = "v7", *, learnt: bool = True) -> dict[str, int]:
    """Row by row what the replay wrote: exact, but for sums of weights, which may differ in the last digits."""
    its = f"WHERE strategy = '{strategy}'"
    _same(target.query(f"SELECT * FROM llm_signals {its} ORDER BY signal_id"), "llm_signals", found.signals)
    gated = target.query(f"SELECT * FROM gated_signals {its} ORDER BY signal_id")
    ours = found.gated
    trades, own = (frame["side"].isin(("BUY", "SELL")) for frame in (gated, ours))
    _same(gated[trades], "gated_signals", ours[own])
    _same(gated[~trades].drop(columns="gate_inputs"), "gated_signals", ours[~own])
    outcomes = target.query(f"SELECT * FROM outcomes {its} AND {TRADED} ORDER BY signal_id")
    _same(outcomes, "outcomes", found.outcomes)
    thresholds = target.query(f"SELECT * FROM confidence_thresholds {its} ORDER BY as_of")
    _same(thresholds, "confidence_thresholds", found.thresholds, key=["as_of"])
    scopes = WIN_RATES if strategy == "v7" else (f"strategy:{strategy}",)
    if learnt:
        _same_posteriors(target.query("SELECT * FROM win_rates"), found.win_rates, scopes)
    return {
        "trades": int(trades.sum()),
        "accepted": int(gated["accepted"].sum()),
        "skipped": int((found.signals["status"] == "skipped").sum()),
        "closed": int((outcomes["outcome"] != "open").sum()),
        "thresholds": len(thresholds),
    }


def _same(theirs: pd.DataFrame, table: str, ours: pd.DataFrame, key: list[str] | None = None) -> None:
    key = key or ["signal_id"]
    mine = conform(table, ours, MARKS).sort_values(key, ignore_index=True)
    columns = [name for name in theirs.columns if name not in LEFT_OUT]
    pd.testing.assert_frame_equal(
        theirs.sort_values(key, ignore_index=True)[columns],
        mine[columns],
        check_exact=table not in ("confidence_thresholds",),
        rtol=1e-9,
        obj=table,
    )


def _same_posteriors(theirs: pd.DataFrame, ours: pd.DataFrame, scopes: tuple[str, ...]) -> None:
    """At each instant at which the replay learnt, the posterior that the fast one has then."""
    for scope in scopes:
        mine = ours[ours["scope"] == scope].sort_values("as_of")
        for row in theirs[theirs["scope"] == scope].to_dict("records"):
            known = mine[mine["as_of"] <= row["as_of"]]
            got = known.iloc[-1][["alpha", "beta", "n"]].tolist() if len(known) else [1.0, 1.0, 0]
            assert got == pytest.approx([row["alpha"], row["beta"], row["n"]], rel=1e-9), (scope, row["as_of"])


def both(
    folder: Path, candles: pd.DataFrame, settings: Settings, start: datetime, end: datetime, every: timedelta
) -> dict[str, int]:
    source, target = holding(folder / "source.duckdb", candles), fresh(folder / "target.duckdb")
    replay(source, target, settings, start=start, end=end, every=every)
    return assert_same(target, simulate(prepare(source, settings, start=start, end=end, every=every), settings))


def test_it_is_the_replay(replayed: Replayed) -> None:
    given = prepare(replayed.source, replayed.settings, start=START, end=END)
    counts = assert_same(replayed.target, simulate(given, replayed.settings))
    assert min(counts["trades"], counts["accepted"], counts["closed"]) > 0


def _with_gaps(end: datetime) -> pd.DataFrame:
    """Simulated candles from which single minutes, a quarter of an hour, and one product's last hour are missing."""
    candles = simulated(end)
    rng = np.random.default_rng(3)
    since = candles["open_time"] >= START
    gone = since & (rng.random(len(candles)) < 0.03)
    outage = candles["open_time"].between(START + timedelta(minutes=70), START + timedelta(minutes=86))
    gone |= outage & (candles["symbol"] == SYMBOLS[0])
    gone |= (candles["symbol"] == SYMBOLS[1]) & (candles["open_time"] >= end - timedelta(minutes=40))
    return candles[~gone]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"gates_off": (), "horizon_minutes": 30},
        {"gates_off": (), "horizon_minutes": 12, "risk_per_trade": 0.02, "max_signals_per_hour": 3},
        {"gates_off": ("exposure", "rate"), "risk_per_trade": 0.012, "horizon_minutes": 20, "win_rate_half_life": 5.0},
        {"gates_off": ("exposure",), "horizon_minutes": 5, "max_signals_per_hour": 2},
    ],
    ids=["gates", "limits", "losses", "a full hour with nothing open"],
)
def test_it_is_the_replay_through_gaps_limits_and_losses(tmp_path: Path, changes: dict[str, Any]) -> None:
    end = START + timedelta(hours=3)
    counts = both(tmp_path, _with_gaps(end), settings_of(**changes), START, end, timedelta(minutes=4))
    assert min(counts["trades"], counts["accepted"], counts["skipped"], counts["closed"]) > 0, counts


@pytest.mark.parametrize(
    "changes",
    [
        {"backtest_lag_min": 1, "backtest_latency_s": 7.0, "gates_off": (), "horizon_minutes": 18},
        pytest.param(
            {"backtest_lag_min": 2, "backtest_latency_s": 70.0, "max_decision_delay_s": 60.0, "horizon_minutes": 15}
            | {"risk_per_trade": 0.012, "gates_off": ("freshness", "exposure")},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["a minute", "longer than the gates allow"],
)
def test_it_is_the_replay_where_candles_come_late_and_decisions_take_time(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    end, every = START + timedelta(hours=3), timedelta(minutes=6)
    settings = settings_of(**changes)
    source, target = holding(tmp_path / "source.duckdb", _with_gaps(end)), fresh(tmp_path / "target.duckdb")
    replay(source, target, settings, start=START, end=end, every=every)
    found = simulate(prepare(source, settings, start=START, end=end, every=every), settings)
    # What arrives late is learnt as of its own instant there, afterwards; what was decided on it is the same.
    counts = assert_same(target, found, learnt=False)
    assert min(counts["trades"], counts["accepted"], counts["closed"]) > 0, counts
    seen = found.signals.dropna(subset=["features_as_of"])
    late = timedelta(minutes=settings.backtest_lag_min)
    assert (seen["as_of"] - seen["features_as_of"] >= late).all() and (
        seen["as_of"] - seen["features_as_of"]
    ).min() == late
    assert ((seen["decided_at"] - seen["as_of"]).dt.total_seconds() == settings.backtest_latency_s).all()
    assert (
        found.outcomes["labelled_at"] >= found.outcomes["followed_until"].fillna(found.outcomes["as_of"]) + late
    ).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_strategy_is_the_replay(tmp_path: Path) -> None:
    """v6 on the models of its days, and the ensemble, beside v7: each with an account of its own."""
    start = datetime.fromisoformat("2024-01-03T09:00:00+00:00")
    candles = []
    for symbol in ("BTC-USD", "ETH-USD"):
        frame = pd.read_parquet(needs_shared(f"candles/{symbol}_1m.parquet")).rename(columns={"ts": "open_time"})
        frame = frame.sort_values("open_time").drop_duplicates("open_time", keep="last").assign(symbol=symbol)
        candles.append(frame[frame["open_time"] < start + timedelta(hours=8)])
    names = ("v7", "v6", "ensemble")
    settings = settings_of(
        symbols=("BTC-USD", "ETH-USD"), horizon_minutes=60, gates_off=(), strategies=names, min_effective_n=3
    )
    source, target = holding(tmp_path / "source.duckdb", pd.concat(candles)), fresh(tmp_path / "target.duckdb")
    span: dict[str, Any] = {"start": start, "end": start + timedelta(hours=6), "every": timedelta(minutes=6)}
    replay(source, target, settings, **span)
    given = prepare(source, settings, **span)
    for name in names:
        found = simulate(given, settings, decider=decider_of(name, given, settings, source), name=name)
        counts = assert_same(target, found, name)
        assert name == "ensemble" or counts["trades"] > 0, (name, counts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_the_replay_on_a_recorded_day(tmp_path: Path) -> None:
    start = datetime.fromisoformat("2023-12-11T00:00:00+00:00")
    candles = []
    for symbol in ("BTC-USD", "ETH-USD"):
        frame = pd.read_parquet(needs_shared(f"candles/{symbol}_1m.parquet")).rename(columns={"ts": "open_time"})
        frame = frame.sort_values("open_time").drop_duplicates("open_time", keep="last").assign(symbol=symbol)
        near = frame["open_time"].between(start - timedelta(days=3), start + timedelta(hours=25))
        candles.append(frame[near])
    settings = settings_of(symbols=("BTC-USD", "ETH-USD"), horizon_minutes=240, gates_off=(), risk_per_trade=0.01)
    counts = both(tmp_path, pd.concat(candles), settings, start, start + timedelta(days=1), timedelta(minutes=10))
    assert counts["accepted"] >= 3, counts


def _flat(price: float = 100.0) -> pd.DataFrame:
    """A price that never moves."""
    candles = simulated()
    return candles.assign(**dict.fromkeys(("open", "high", "low", "close"), price))


def _always(prepared: Prepared, side: str) -> FixedDecider:
    sign = 1.0 if side == "BUY" else -1.0
    decisions = pd.DataFrame(
        {
            "status": "answered",
            "side": side,
            "confidence": 0.8,
            "entry_price": prepared.price,
            "stop_price": prepared.price * (1 - sign * 0.01),
            "target_price": prepared.price * (1 + sign * 0.03),
            "horizon_minutes": 6.0,
            "key_theories": "",
        },
        index=range(prepared.rows),
    )
    return FixedDecider("v6", "technical", decisions)


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_lesson_24_without_an_edge_a_strategy_loses_exactly_its_costs(tmp_path: Path, side: str) -> None:
    settings = settings_of(gates_off=("exposure", "plan"), fees="ftmo-crypto")
    source = holding(tmp_path / "source.duckdb", _flat())
    given = prepare(source, settings, start=START, end=END + timedelta(minutes=30))
    paper = simulate(given, settings, decider=_always(given, side)).paper
    assert len(paper) > 5
    slip, rate = settings.slippage, 0.000325
    sign = 1.0 if side == "BUY" else -1.0
    entry, leave = 100.0 * (1 + sign * slip), 100.0 * (1 - sign * slip)
    costs = sign * (leave / entry - 1) - rate * (1 + leave / entry)
    assert paper["net_return"].to_numpy() == pytest.approx(costs, abs=1e-15)
    assert set(paper["exit_reason"]) == {"time"}


def test_lesson_24_symbols_alone_are_decided_as_among_others(replayed: Replayed) -> None:
    together = simulate(prepare(replayed.source, replayed.settings, start=START, end=END), replayed.settings)
    for symbol in SYMBOLS:
        settings = settings_of(symbols=(symbol,))
        alone = simulate(prepare(replayed.source, settings, start=START, end=END), settings)
        own = together.signals[together.signals["symbol"] == symbol].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone.signals, check_exact=True)


def test_lesson_24_garbling_the_future_changes_nothing(tmp_path: Path) -> None:
    end = START + timedelta(hours=2)
    candles, settings = simulated(end + timedelta(hours=1)), settings_of()
    garbled = candles.copy()
    late = garbled["open_time"] >= end - timedelta(minutes=2)
    garbled.loc[late, ["open", "high", "low", "close"]] *= 3.0
    found = []
    for name, frame in (("as it was", candles), ("garbled", garbled)):
        source = holding(tmp_path / f"{name}.duckdb", frame)
        found.append(simulate(prepare(source, settings, start=START, end=end), settings))
    for part in ("signals", "gated", "outcomes", "win_rates", "thresholds"):
        pd.testing.assert_frame_equal(getattr(found[0], part), getattr(found[1], part), check_exact=True, obj=part)
    assert len(found[0].paper)


def test_stored_readings_and_computed_ones_are_one(replayed: Replayed, tmp_path: Path) -> None:
    """What a backfill has stored is taken as it is; it decides as what is computed from the candles."""
    settings, end = replayed.settings, START + timedelta(hours=1)
    source = holding(tmp_path / "source.duckdb", simulated(end))
    computed = prepare(source, settings, start=START, end=end)
    from v7_pipeline.scan.features import readings

    frame = readings(source, settings.symbols, START - timedelta(hours=1), end, settings=settings, source="demo")
    with source.transaction() as tx:
        from v7_pipeline import __version__

        marks = {"source": "demo", "run_id": "filled", "code_version": __version__}
        tx.upsert("theory_features", conform("theory_features", frame, marks))
    stored = prepare(source, settings, start=START, end=end)
    pd.testing.assert_frame_equal(computed.readings, stored.readings, check_exact=True)


def test_an_answer_that_is_kept_while_nothing_is_open_is_that_of_the_same_hour_and_age(replayed: Replayed) -> None:
    settings = settings_of(gates_off=(), max_signals_per_hour=1)
    given = prepare(replayed.source, settings, start=START, end=END)
    walk = engine._Walk(given, settings, RulesDecider(given, settings))
    scan = walk.scans[2]
    at = datetime.fromtimestamp(scan * 60, tz=START.tzinfo)
    walk.flat = walk._state(scan, at)

    def asked(accepted: list[int], minutes_old: int = 0) -> str | None:
        walk.recent = accepted
        given.features[2 * walk.k] = scan - minutes_old
        return walk._not_asked(2 * walk.k, at, walk._context(2, scan, walk.flat, []))

    assert [asked([]), asked([scan - 10]), asked([])] == [None, "RATE_LIMIT", None]
    assert [asked([], 9), asked([], 0), asked([], 9)] == ["PRICE_STALE", None, "PRICE_STALE"]
