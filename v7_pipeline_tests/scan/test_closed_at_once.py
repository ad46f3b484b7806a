"""What closes is written in one transaction: the outcome, the posterior, and whether each theory was right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.duckdb_store import Transaction
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.scan.followed import SYMBOL, put_candles, put_signal, scan
from v7_pipeline_tests.scan.watched import watched

CALM, RISE = (100.0, 100.1, 99.9, 100.0), (100.0, 102.5, 99.9, 102.2)
TOGETHER = ("outcomes", "theory_performance", "win_rates", "confidence_thresholds", "calibrations", "alerts")


@pytest.fixture
def runtime(make_settings: Callable[..., Any]) -> Runtime:
    """An accepted BUY that a scan has seen open; in the candle after that it reaches its target."""
    runtime = watched(make_settings, symbols=SYMBOL, horizon_minutes=10)
    put_signal(runtime, 0, "BUY", accepted=True)
    put_candles(runtime, dict.fromkeys(range(-1, 2), CALM))
    scan(runtime, 2)
    put_candles(runtime, {2: RISE, 3: CALM})
    return runtime


def stored(runtime: Runtime) -> dict[str, pd.DataFrame]:
    return {name: runtime.store.read(name) for name in TOGETHER}


def posterior(runtime: Runtime) -> tuple[float, float] | None:
    rates = runtime.store.read("win_rates").query("scope == 'all'")
    return None if rates.empty else (float(rates["alpha"].iloc[-1]), float(rates["beta"].iloc[-1]))


def test_lesson_09_a_closed_outcome_moves_the_posterior_and_says_of_each_theory_whether_it_was_right(
    runtime: Runtime,
) -> None:
    assert runtime.store.read("outcomes")["outcome"].tolist() == ["open"] and posterior(runtime) is None
    scan(runtime, 4)
    assert runtime.store.read("outcomes")["outcome"].tolist() == ["win"]
    assert posterior(runtime) == (2.0, 1.0)  # one win on a prior of 1 and 1
    rows = runtime.store.read("theory_performance").set_index("theory_name")
    assert set(rows.index) == set(THEORY_NAMES)
    assert (rows["was_correct"] == (rows["vote"] > 0)).all()  # all voted, and the market rose


@pytest.mark.parametrize("table", TOGETHER)
def test_lesson_09_where_one_of_them_cannot_be_written_none_is_and_the_next_attempt_writes_all(
    table: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, reached = stored(runtime), []

    def fails(name: str) -> Any:
        really = getattr(Transaction, name)

        def write(self: Transaction, into: str, frame: Any) -> Any:
            if into == table:
                reached.append(into)
                raise OSError("the disk is full")
            return really(self, into, frame)

        return write

    with monkeypatch.context() as broken:
        for name in ("upsert", "insert_new"):
            broken.setattr(Transaction, name, fails(name))
        with pytest.raises(OSError, match="disk is full"):
            scan(runtime, 4)
    assert reached == [table], "the write that was to fail was tried"
    for name, frame in stored(runtime).items():
        pd.testing.assert_frame_equal(frame, before[name], obj=name)
    scan(runtime, 4)
    assert all(len(frame) for frame in stored(runtime).values())
    assert runtime.store.read("outcomes")["outcome"].tolist() == ["win"] and posterior(runtime) == (2.0, 1.0)
