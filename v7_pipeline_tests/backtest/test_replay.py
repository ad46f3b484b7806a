"""The replay is the live scan: same rows, nothing of the future or of other symbols, nothing written elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.analyst.base import Answer, Decision, Question
from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.backtest import BacktestError, backtest_id, replay
from v7_pipeline.scan.run import run_scan
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline_tests.backtest.conftest import (
    END,
    LAST,
    PROVENANCE,
    SCANS,
    START,
    SYMBOLS,
    Replayed,
    everything,
    fresh,
    holding,
    same,
    settings_of,
    simulated,
)

SPAN = {"start": START, "end": END}
DECIDED = ("theory_features", "llm_signals", "gated_signals")
FACTS = (*DECIDED, "outcomes", "theory_performance", "theory_attribution", "win_rates", "scans")


def test_every_scan_leaves_a_decision_of_every_symbol_and_trades_run_to_their_end(replayed: Replayed) -> None:
    tables = everything(replayed.target)
    assert len(tables["scans"]) == replayed.result.scans == SCANS
    assert len(tables["llm_signals"]) == len(tables["gated_signals"]) == SCANS * len(SYMBOLS)
    assert set(tables["llm_signals"]["side"]) == {"SELL", "HOLD"}
    assert {"open", "loss"} <= set(tables["outcomes"]["outcome"])
    assert (tables["scans"]["status"] == "finished").all()
    assert replayed.told == [("scans", done, SCANS) for done in range(1, SCANS + 1)]


def test_lesson_21_every_row_is_marked_backtest_and_nobody_is_alerted(replayed: Replayed) -> None:
    tables = everything(replayed.target)
    for name, frame in tables.items():
        if "source" in frame and len(frame):
            assert set(frame["source"]) == {"backtest"}, name
            assert set(frame["run_id"]) == {replayed.result.run_id}, name
    assert tables["alerts"].empty


def test_lesson_21_a_backtest_never_writes_to_its_source(replayed: Replayed, digest: Callable[[Path], str]) -> None:
    file, tables = replayed.before
    same(tables, everything(replayed.source))
    assert digest(replayed.path / "source.duckdb") == file


def test_lesson_24_garbling_the_future_changes_nothing(replayed: Replayed, tmp_path: Path) -> None:
    candles = simulated()
    late = candles["open_time"] >= LAST
    assert late.sum() > 100
    for column in ("open", "high", "low", "close", "volume"):
        candles.loc[late, column] *= 3.0
    candles.loc[late, "high"] = 0.01  # impossible as well: it would be refused if it were looked at
    target = fresh(tmp_path / "target.duckdb")
    replay(holding(tmp_path / "source.duckdb", candles), target, replayed.settings, **SPAN)
    same(everything(replayed.target), everything(target))


def test_lesson_24_truncating_the_future_changes_nothing_before_it(replayed: Replayed, tmp_path: Path) -> None:
    middle = START + timedelta(minutes=8)
    source = holding(tmp_path / "source.duckdb", simulated(middle))
    target = fresh(tmp_path / "target.duckdb")
    replay(source, target, replayed.settings, start=START, end=middle)
    short, whole = everything(target), everything(replayed.target)
    last = middle - timedelta(minutes=2)
    for name in (*DECIDED, "win_rates", "theory_attribution", "scans"):
        assert len(short[name]), name
        _equal(name, short[name], whole[name][whole[name]["as_of"] <= last])
    performance = whole["theory_performance"]
    assert len(short["theory_performance"])
    known = performance[performance["created_at"] + pd.Timedelta(minutes=1) <= last]
    _equal("theory_performance", short["theory_performance"], known)


def test_lesson_24_a_symbol_alone_is_read_and_decided_as_among_others(replayed: Replayed, tmp_path: Path) -> None:
    """Readings and decisions; limits of the account are shared, so what the gates accept may differ."""
    target = fresh(tmp_path / "target.duckdb")
    replay(replayed.source, target, settings_of(symbols=("SOL-USD",)), **SPAN)
    alone, together = everything(target), everything(replayed.target)
    # The win rate is learnt from all symbols' outcomes, by design.
    learnt = [name for name in alone["theory_features"] if name.startswith(("win_rate", "bayesian_win_rate"))]
    readings = together["theory_features"].drop(columns=learnt)
    _equal("readings", alone["theory_features"].drop(columns=learnt), readings[readings["symbol"] == "SOL-USD"])
    decisions = together["llm_signals"]
    assert set(decisions.loc[decisions["symbol"] == "SOL-USD", "side"]) == {"SELL", "HOLD"}
    _equal("decisions", alone["llm_signals"], decisions[decisions["symbol"] == "SOL-USD"])


@pytest.mark.slow
def test_live_scans_over_http_are_their_backtest(
    make_runtime: Callable[..., Any], make_settings: Callable[..., Any], tmp_path: Path
) -> None:
    """Scans done one by one, as `v7 run` does them, then replayed from the store that they filled."""
    quick = {"aggressive": True, "horizon_minutes": 2, "max_signals_per_hour": 1000, "risk_per_trade": 0.0005}
    made = make_runtime(symbols="ETH-USD,SOL-USD", **quick)
    runtime = build_runtime(made.settings, analyst=RulesAnalyst())
    instants = [START + timedelta(minutes=2 * index) for index in range(4)]
    for as_of in instants:
        runtime.clock = lambda now=as_of: now
        run_scan(runtime.context(as_of, f"by-hand-{as_of:%H%M}"))
    target = fresh(tmp_path / "backtest.duckdb")
    replay(runtime.store, target, made.settings, start=START, end=START + timedelta(minutes=8))
    live, replayed = everything(runtime.store), everything(target)
    assert set(live["llm_signals"]["source"]) == {"demo"}
    assert (live["outcomes"]["outcome"] != "open").any()
    for name in FACTS:
        _equal(name, live[name], replayed[name], but=("candles_written", "closed"))
    _equal("candles", live["candles"], replayed["candles"])


@pytest.mark.slow
def test_an_interrupted_backtest_goes_on_where_it_stopped_and_ends_the_same(replayed: Replayed, tmp_path: Path) -> None:
    target = fresh(tmp_path / "target.duckdb")

    def interrupt(_stage: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(replayed.source, target, replayed.settings, **SPAN, on_progress=interrupt)
    assert len(target.read("scans")) == 3
    result = replay(replayed.source, target, replayed.settings, **SPAN)
    assert (result.kept, result.scans) == (3, SCANS)
    same(everything(replayed.target), everything(target))


def test_a_finished_backtest_done_again_changes_nothing(replayed: Replayed) -> None:
    before = everything(replayed.target)
    again = replay(replayed.source, replayed.target, replayed.settings, **SPAN)
    assert again.kept == again.scans == SCANS
    same(before, everything(replayed.target))


def test_a_backtest_learns_from_its_own_outcomes(replayed: Replayed) -> None:
    readings = replayed.target.read("theory_features")
    assert readings.loc[readings["as_of"] <= START, "win_rate_n"].eq(0).all()
    closed = replayed.target.query(
        "SELECT o.* FROM outcomes o JOIN llm_signals s USING (signal_id) "
        "WHERE s.side <> 'HOLD' AND outcome IN ('win', 'loss')"
    )
    known = (closed["exit_time"] + pd.Timedelta(minutes=1) < LAST).sum()
    assert 0 < known == readings.loc[readings["as_of"] == LAST, "win_rate_n"].iloc[0]


class _AlwaysBuy:
    """An analyst without any edge: it buys at every scan."""

    name = "always-buy"
    worst_case_usd = 0.0

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        return [self._decision(question) for question in questions]

    def _decision(self, q: Question) -> Decision:
        p = q.market_price
        answer = Answer("BUY", 0.9, p, 0.98 * p, 1.04 * p, 2, "It always buys.", ())
        return Decision(q.signal_id, "answered", None, answer, None, None, 0.0, self.name)


def test_lesson_24_a_strategy_without_edge_loses_exactly_its_costs(tmp_path: Path) -> None:
    candles = simulated(END, ("ETH-USD",))
    prices = ["open", "high", "low", "close"]
    candles[prices] = 2000.0
    source, target = holding(tmp_path / "source.duckdb", candles), fresh(tmp_path / "target.duckdb")
    settings = settings_of(symbols=("ETH-USD",))
    replay(source, target, settings, start=START, end=START + timedelta(minutes=10), analyst=_AlwaysBuy())
    closed = target.read("outcomes").query("outcome != 'open'")
    assert len(closed) >= 3
    bought, sold = 2000 * 1.0001, 2000 * 0.9999
    costs = (sold - bought) / bought - 0.000325 * (bought + sold) / bought
    assert closed["net_return"].tolist() == pytest.approx([costs] * len(closed), abs=1e-12)


def test_the_run_id_is_the_configuration(replayed: Replayed) -> None:
    span = {"start": START, "end": END}
    assert replayed.result.run_id == backtest_id(settings_of(), **span)
    same = settings_of(home=Path("elsewhere"), ui_port=1, log_json=True, retention_run_days=9)
    assert backtest_id(same, **span) == replayed.result.run_id
    others = [settings_of(fees="none"), settings_of(symbols=SYMBOLS[:1]), settings_of(min_confidence=0.7)]
    ids = {backtest_id(settings, **span) for settings in others}
    ids |= {backtest_id(settings_of(), start=START, end=LAST), backtest_id(settings_of(), **span, analyst="other")}
    assert len(ids | {replayed.result.run_id}) == 6


def test_lesson_21_a_target_that_holds_anything_else_is_refused(replayed: Replayed, tmp_path: Path) -> None:
    with pytest.raises(BacktestError, match="never writes to the store it reads"):
        replay(replayed.source, fresh(replayed.path / "source.duckdb"), replayed.settings, **SPAN)
    with pytest.raises(BacktestError, match=r"holds demo rows of run simulated in candles; give backtest .* its own"):
        replay(replayed.source, holding(tmp_path / "live.duckdb", simulated().head(5)), replayed.settings, **SPAN)
    with pytest.raises(BacktestError, match="holds backtest rows of run backtest-20260303-"):
        replay(replayed.source, replayed.target, settings_of(fees="none"), **SPAN)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"end": START}, "has no scan; give a later end"),
        ({"start": START.replace(tzinfo=None)}, "has no time zone"),
        ({"every": timedelta(seconds=90)}, "not whole minutes apart"),
        ({"every": timedelta(0)}, "not whole minutes apart"),
        ({"symbols": ("BTC-USD", "ETH-USD")}, "holds no candles of BTC-USD from .* v7 backfill --from 2026-03-03"),
        ({"start": START + timedelta(days=9), "end": END + timedelta(days=9)}, "holds no candles of ETH-USD, SOL-USD"),
    ],
)
def test_what_cannot_be_replayed_is_refused_before_anything_is_written(
    replayed: Replayed, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    target = fresh(tmp_path / "target.duckdb")
    settings = settings_of(**({"symbols": changes.pop("symbols")} if "symbols" in changes else {}))
    with pytest.raises((BacktestError, RuntimeError), match=complaint):
        replay(replayed.source, target, settings, **(SPAN | changes))
    assert not (tmp_path / "target.duckdb").exists()


def _equal(name: str, one: pd.DataFrame, other: pd.DataFrame, *, but: Sequence[str] = ()) -> None:
    """The same rows, but for their marks and `but`."""
    left_out = [column for column in (*PROVENANCE, *but) if column in one.columns]
    pd.testing.assert_frame_equal(
        one.drop(columns=left_out).reset_index(drop=True),
        other.drop(columns=left_out).reset_index(drop=True),
        check_exact=True,
        obj=name,
    )
