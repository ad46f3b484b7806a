"""A simulation in its store: every row of it, marked, written again without a trace, and never among others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from v7_pipeline import __version__
from v7_pipeline.backtest import BacktestError, Simulation, prepare, simulate
from v7_pipeline.backtest.stored import keep, readings_of
from v7_pipeline.store import conform
from v7_pipeline_tests.backtest.conftest import END, START, SYMBOLS, Replayed, everything, fresh, same

RUN = "backtest-20260303-0123456789ab"
TABLES = ("scans", "llm_signals", "gated_signals", "outcomes", "win_rates", "confidence_thresholds")


@pytest.fixture(scope="module")
def simulated(replayed: Replayed) -> tuple[Simulation, pd.DataFrame]:
    given = prepare(replayed.source, replayed.settings, start=START, end=END)
    found = simulate(given, replayed.settings)
    return found, readings_of(given, found)


def test_lesson_21_all_of_it_is_there_marked_and_what_the_replay_counted(
    simulated: tuple[Simulation, pd.DataFrame], replayed: Replayed, tmp_path: Path
) -> None:
    target = fresh(tmp_path / "target.duckdb")
    keep(target, *simulated, run_id=RUN)
    kept, theirs = everything(target), everything(replayed.target)
    for name in (*TABLES, "theory_performance"):
        assert len(kept[name]), name
        assert set(kept[name]["source"]) == {"backtest"} and set(kept[name]["run_id"]) == {RUN}, name
    assert len(kept["llm_signals"]) == len(kept["gated_signals"]) == len(kept["scans"]) * len(SYMBOLS)
    counts = ["as_of", "status", "symbols", "signals", "accepted", "cost_usd"]
    pd.testing.assert_frame_equal(kept["scans"][counts], theirs["scans"][counts])
    # The replay, whose scans are one run, counts what the run has closed so far.
    assert kept["scans"]["closed"].cumsum().tolist() == theirs["scans"]["closed"].tolist()


def test_what_theories_said_of_closed_trades_is_what_the_replay_wrote(
    simulated: tuple[Simulation, pd.DataFrame], replayed: Replayed, tmp_path: Path
) -> None:
    target = fresh(tmp_path / "target.duckdb")
    keep(target, *simulated, run_id=RUN)
    theirs = replayed.target.query(
        "SELECT p.* FROM theory_performance p JOIN llm_signals s USING (signal_id) WHERE s.side <> 'HOLD'"
    )
    ours = everything(target)["theory_performance"]
    key = ["signal_id", "theory_name"]
    columns = [name for name in ours.columns if name not in ("source", "run_id", "code_version")]
    left, right = (frame.sort_values(key, ignore_index=True)[columns] for frame in (theirs, ours))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_kept_again_it_is_the_same(simulated: tuple[Simulation, pd.DataFrame], tmp_path: Path) -> None:
    target = fresh(tmp_path / "target.duckdb")
    keep(target, *simulated, run_id=RUN)
    before = everything(target)
    keep(target, *simulated, run_id=RUN)
    same(before, everything(target))


def test_lesson_21_rows_of_another_run_are_never_replaced(
    simulated: tuple[Simulation, pd.DataFrame], tmp_path: Path
) -> None:
    target = fresh(tmp_path / "target.duckdb")
    target.migrate(__version__, START)
    marks = {"source": "live", "run_id": "a scan", "code_version": __version__}
    with target.transaction() as tx:
        tx.insert_new("llm_signals", conform("llm_signals", simulated[0].signals.head(1), marks))
    with pytest.raises(BacktestError, match="holds live rows of run a scan"):
        keep(target, *simulated, run_id=RUN)
    assert len(everything(target)["llm_signals"]) == 1
