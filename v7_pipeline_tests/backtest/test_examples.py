"""The examples run as they are, in a process of their own, and say what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from v7_pipeline import __version__
from v7_pipeline_tests.backtest.conftest import START, Replayed, fresh

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_read_signals_prints_the_newest_accepted_signals(replayed: Replayed, tmp_path: Path) -> None:
    accepted = replayed.target.query("SELECT signal_id FROM gated_signals WHERE accepted ORDER BY as_of DESC, symbol")
    told = _run("read_signals.py", f"duckdb:{replayed.path / 'target.duckdb'}", "3")
    assert [line.split()[0] for line in told.splitlines()[1:4]] == accepted["signal_id"].head(3).tolist()
    assert told.splitlines()[-1] == "3 signals, source: backtest"
    fresh(tmp_path / "empty.duckdb").migrate(__version__, START)
    assert "no accepted signal" in _run("read_signals.py", f"duckdb:{tmp_path / 'empty.duckdb'}")


@pytest.mark.slow
def test_backtest_simulated_prints_a_report(tmp_path: Path) -> None:
    told = _run("backtest_simulated.py", "4")
    assert told.startswith("# Backtest backtest-20260303-")
    assert "| scans | 2 |" in told and "DEMO" in told
