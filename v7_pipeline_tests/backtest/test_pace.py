"""How late live scans were is measured from their rows, and too few of them are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from v7_pipeline.backtest import BacktestError
from v7_pipeline.backtest.pace import LEAST, as_live, live_pace, pace_notes
from v7_pipeline.store import Store, conform
from v7_pipeline_tests.backtest.conftest import fresh, settings_of
from v7_pipeline_tests.store.rows import make_rows

FIRST = datetime(2026, 3, 3, tzinfo=UTC)


def lived(folder: Path, n: int, *, source: str = "live", lag: int = 1, seconds: float = 6.0) -> Store:
    """A store of `n` scans of one symbol: every second one `lag` minutes late, the others one minute later still."""
    as_of = pd.Series([FIRST + timedelta(minutes=2 * k) for k in range(n)])
    late = pd.to_timedelta([lag + k % 2 for k in range(n)], unit="min")
    rows = pd.concat([make_rows("llm_signals", 1)] * n, ignore_index=True).assign(
        signal_id=[f"v7-BTC-USD-{at:%Y%m%dT%H%M%SZ}" for at in as_of], as_of=as_of, features_as_of=as_of - late,
        decided_at=as_of + pd.to_timedelta([seconds + k % 3 for k in range(n)], unit="s"), symbol="BTC-USD",
        strategy="v7", status="answered", source=source,
    )  # fmt: skip
    store = fresh(folder / f"{source}{n}.duckdb")
    store.migrate("1", FIRST)
    with store.transaction() as tx:
        tx.upsert("llm_signals", conform("llm_signals", rows))
    return store


def test_lag_and_latency_are_the_medians_of_the_live_rows(tmp_path: Path) -> None:
    settings = settings_of(mode="live", symbols=("BTC-USD",))
    found, pace = as_live(settings, lived(tmp_path, 99, lag=0))
    assert (pace.n, pace.latency_s, pace.lag_min) == (99, 7.0, 0.0) and pace.late == pytest.approx(49 / 99)
    assert (found.backtest_lag_min, found.backtest_latency_s) == (0, 7.0)
    assert "of 99 answered live decisions the median came 7.0 s after" in pace.sentence
    (note,) = pace_notes(found)
    assert "seen 0 min after they close" in note and "7 s after their scan's instant" in note
    assert pace_notes(settings) == ()
    later, _ = as_live(settings, lived(tmp_path, 101, lag=2, seconds=0.0))
    assert (later.backtest_lag_min, later.backtest_latency_s) == (2, 1.0)


def test_too_few_and_other_rows_say_nothing(tmp_path: Path) -> None:
    settings = settings_of(mode="live", symbols=("BTC-USD",))
    with pytest.raises(BacktestError, match=rf"holds {LEAST - 1} answered live decisions, and {LEAST} are needed"):
        as_live(settings, lived(tmp_path, LEAST - 1))
    store = lived(tmp_path, 120, source="backtest")
    assert live_pace(store, "live", ["BTC-USD"]) is None
    with pytest.raises(BacktestError, match="holds 0 answered"):
        as_live(settings, store)
