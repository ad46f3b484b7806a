"""What the report says: counts that add up, n and interval on every figure, no verdict from too few, no mixtures."""

from __future__ import annotations

import shutil
from dataclasses import replace as changed
from datetime import timedelta
from pathlib import Path

import pytest

from v7_pipeline import __version__
from v7_pipeline.backtest import BacktestError, Report, markdown, replay, report
from v7_pipeline.store import Store
from v7_pipeline_tests.backtest.conftest import (
    LAST,
    SCANS,
    START,
    SYMBOLS,
    Replayed,
    fresh,
    holding,
    settings_of,
    simulated,
)


@pytest.fixture(scope="module")
def told(replayed: Replayed) -> Report:
    return report(replayed.target, replayed.settings)


@pytest.fixture
def copy(replayed: Replayed, tmp_path: Path) -> Store:
    """The replay's store, free to be spoilt."""
    shutil.copy(replayed.path / "target.duckdb", tmp_path / "copy.duckdb")
    return fresh(tmp_path / "copy.duckdb")


def test_counts_are_those_of_the_store_and_add_up(told: Report, replayed: Replayed) -> None:
    outcomes, gated = replayed.target.read("outcomes"), replayed.target.read("gated_signals")
    assert (told.scans, told.unfinished, told.first, told.last) == (SCANS, 0, START, LAST)
    assert told.decided == len(gated) == SCANS * len(SYMBOLS)
    assert told.accepted == int(gated["accepted"].sum()) == told.paper.closed + told.paper.open
    assert told.paper.closed == int(((outcomes["outcome"] != "open") & (outcomes["kind"] == "paper")).sum())
    assert told.shadow.closed == 0 < int((outcomes["kind"] == "shadow").sum())  # what HOLDs left out is no trade
    refused = told.decided - told.accepted
    assert dict(zip(told.reasons["reason"], told.reasons["n"], strict=True)) == {"HOLD": refused}
    assert told.decisions.groupby("symbol")["n"].sum().to_dict() == dict.fromkeys(SYMBOLS, SCANS)
    assert told.candles["share"].between(0.8, 1).all()


def test_buy_and_hold_is_one_trade_over_the_span_after_fees(told: Report) -> None:
    candles = simulated()
    inside = candles[(candles["open_time"] >= START) & (candles["open_time"] < LAST)]
    for symbol in SYMBOLS:
        rows = inside[inside["symbol"] == symbol]
        bought, sold = rows["open"].iloc[0] * 1.0001, rows["close"].iloc[-1] * 0.9999
        figure = next(f for f in told.baselines if f.name == f"buy and hold {symbol}")
        assert figure.value == pytest.approx((sold - bought) / bought - 0.000325 * (bought + sold) / bought, abs=1e-12)
        assert figure.n == 1
    assert (told.baselines[-1].name, told.baselines[-1].value, told.baselines[-1].n) == ("always HOLD", 0.0, 0)


def test_the_account_ends_where_its_closed_trades_bring_it(told: Report, replayed: Replayed) -> None:
    pnl = replayed.target.read("outcomes")["pnl_usd"].sum()
    assert pnl < 0
    assert told.account.value == pytest.approx(pnl / told.initial_usd)
    assert told.account.lower < told.account.value < told.account.upper and told.account.n == told.paper.closed
    end = told.equity.iloc[-1]
    assert end["as_of"] == LAST and end["balance_usd"] == pytest.approx(told.initial_usd + pnl)
    assert end["open_positions"] > 0 and end["equity_usd"] != end["balance_usd"]
    assert told.equity["equity_usd"].iloc[0] == told.initial_usd


def test_lesson_22_every_figure_has_n_and_interval_and_too_few_is_no_verdict(told: Report, replayed: Replayed) -> None:
    for figure in (*told.paper.figures, told.account):
        assert figure.n > 0 and figure.lower <= figure.value <= figure.upper, figure
    assert told.paper.minimum_n == 30 and told.verdict.startswith("No verdict: ")
    enough = report(replayed.target, settings_of(min_effective_n=1)).verdict
    assert enough.startswith("Indistinguishable from zero after costs: -") and f"n = {told.paper.closed}" in enough


def test_the_page_says_where_everything_comes_from(told: Report) -> None:
    page = markdown(told)
    for said in (
        f"# Backtest {told.run_id} — DEMO",
        "sandbox — DEMO, a simulated market",
        "2026-03-03 12:00Z … 2026-03-03 12:14Z",
        "ftmo-crypto, 0.0325% a side",
        f"| accepted | {told.accepted} |",
        "fewer than 30 say nothing",
        "| buy and hold SOL-USD |",
        "| always HOLD | +0.000% | – | 0 |",
    ):
        assert said in page
    assert "nan" not in page
    assert page.rstrip().splitlines()[-1].startswith("| 03-03 12:14Z | 99,")  # the last scan is never left out
    real = markdown(changed(told, venues=("coinbase-exchange",)))
    assert "coinbase-exchange (real)" in real and "DEMO" not in real


@pytest.mark.parametrize(("table", "column"), [("outcomes", "source"), ("scans", "run_id"), ("outcomes", "run_id")])
def test_lesson_21_mixed_provenance_is_refused(copy: Store, replayed: Replayed, table: str, column: str) -> None:
    with copy.transaction() as tx:
        first = tx.read(table).head(1).assign(**{column: "demo"})
        tx.upsert(table, first.assign(followed_until=START) if table == "outcomes" else first.assign(status="failed"))
    with pytest.raises(ValueError, match=rf"outcomes of different {column}s \(.*demo"):
        report(copy, replayed.settings)


def test_lesson_21_only_backtests_are_reported(copy: Store, replayed: Replayed, tmp_path: Path) -> None:
    with copy.transaction() as tx:
        for table in ("scans", "outcomes"):
            tx.execute(f"UPDATE {table} SET source = 'live'")
    with pytest.raises(BacktestError, match="holds live scans"):
        report(copy, replayed.settings)
    with pytest.raises(BacktestError, match="holds no backtest; make one with v7 backtest"):
        report(holding(tmp_path / "candles.duckdb", simulated().head(3)), replayed.settings)


def test_other_fees_than_those_replayed_are_refused(replayed: Replayed) -> None:
    with pytest.raises(BacktestError, match="was made with ftmo-crypto fees, not none; set V7_FEES=ftmo-crypto"):
        report(replayed.target, settings_of(fees="none"))


def test_a_backtest_without_a_trade_is_reported_too(tmp_path: Path) -> None:
    source, target = holding(tmp_path / "source.duckdb", simulated(START)), fresh(tmp_path / "target.duckdb")
    settings = settings_of(min_confidence=1.0)
    replay(source, target, settings, start=START, end=START + timedelta(minutes=1))
    told = report(target, settings)
    assert (told.scans, told.accepted, told.paper.closed, told.code_version) == (1, 0, 0, __version__)
    assert told.verdict.startswith("No verdict: 0 closed trades are worth 0.0 independent ones")
    assert dict(zip(told.reasons["reason"], told.reasons["n"], strict=True)) == {"CONFIDENCE_LOW": 1, "HOLD": 1}
    page = markdown(told)
    assert "nan" not in page and "| v7, closed paper trades | +0.000% | – | 0 |" in page
