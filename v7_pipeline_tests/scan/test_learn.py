"""What a scan learns from closed outcomes, and when it acts on it: gathered as of the instant, kept with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.scan.context import ScanContext, StepResult, Write, persist
from v7_pipeline.scan.decide import gate_inputs
from v7_pipeline.scan.learn import calibrations_at, closed_outcomes, learnt, threshold_at, threshold_history
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.schema import TABLES, table
from v7_pipeline_tests.scan.taught import START, filled, put_all, trade
from v7_pipeline_tests.scan.watched import MARKS, NOW, watched


@pytest.fixture
def runtime(make_settings: Callable[..., Any]) -> Runtime:
    return watched(make_settings, fees="none", slippage=0.0)


def at_end_of(number: int) -> datetime:
    return START + timedelta(minutes=20 * number + 12)


def scan_of(runtime: Runtime, number: int) -> ScanContext:
    """The scan in which trade `number` closes, as it was made then."""
    runtime.clock.now = at_end_of(number)  # type: ignore[attr-defined]
    return runtime.context(at_end_of(number), "r")


def learn(
    runtime: Runtime, number: int, closed: Sequence[dict[str, Any]], *, keep: bool = True
) -> dict[str, pd.DataFrame]:
    """What the scan writes in which `closed` (the outcomes of trades) close."""
    ctx = scan_of(runtime, number)
    rows = pd.DataFrame([one["outcomes"] for one in closed]).reindex(columns=list(TABLES["outcomes"].column_names))
    with runtime.store.reading() as reader:
        known = closed_outcomes(reader, source=ctx.source, as_of=ctx.as_of, also=rows)
        result = StepResult(tuple(learnt(ctx, reader, known)))
    if keep:
        persist(runtime.store, result)
    return {write.table: result.frame(write.table) for write in result.writes}


def test_lesson_29_losing_signals_raise_the_threshold_of_the_next_scan_and_winning_shadows_lower_it_again(runtime):
    bad = [trade(i, won=i % 10 == 0) for i in range(60)]
    put_all(runtime.store, bad)
    wrote = learn(runtime, 59, bad[-1:])
    row = wrote["confidence_thresholds"].iloc[0]
    assert (row["threshold"], row["floor"], row["strategy"]) == (0.65, 0.55, "v7")
    assert row["break_even"] == pytest.approx(0.4) and row["p_below"] > 0.9 and row["reason"].startswith("raised")

    def gate(number: int) -> float | None:
        ctx = scan_of(runtime, number)
        with runtime.store.reading() as reader:
            return gate_inputs(ctx, reader, {})[2].learnt_confidence

    assert gate(59) is None  # the gates of this instant spoke before its outcomes were known
    assert gate(60) == 0.65
    good = [trade(i, won=i % 10 != 0) for i in range(60, 160)]
    put_all(runtime.store, good)
    assert learn(runtime, 159, good[-1:])["confidence_thresholds"]["threshold"].tolist() == [0.55]
    assert gate(160) == 0.55
    with runtime.store.reading() as reader:
        told = threshold_history(reader, strategy="v7", source="demo", as_of=NOW)
    assert [one["threshold"] for one in told] == [0.55, 0.65] and told[0]["previous"] == 0.65


def test_a_break_even_rate_is_of_the_slippage_that_the_outcome_was_judged_by(runtime):
    trades = [trade(i, won=i % 10 == 0) for i in range(60)]
    for one in trades:
        one["outcomes"]["slippage"] = 0.002
    put_all(runtime.store, trades)
    slipped = learn(runtime, 59, trades[-1:])["confidence_thresholds"]["break_even"].iloc[0]
    assert slipped == pytest.approx((1 + 0.2 * 0.99) / (2.5 + 0.2 * 0.99), abs=1e-3)  # a stop 1 away costs .198 more
    assert runtime.settings.slippage < 0.002


def test_a_threshold_that_stays_is_not_written_again_and_a_scan_done_twice_writes_the_same(runtime):
    trades = [trade(i, won=i % 2 == 0) for i in range(40)]
    put_all(runtime.store, trades)
    first = learn(runtime, 38, trades[38:39])
    assert first["confidence_thresholds"]["reason"].tolist() == ["the floor: the first outcome has closed"]
    again = learn(runtime, 38, trades[38:39])
    assert set(again) == set(first)
    for name, frame in first.items():
        pd.testing.assert_frame_equal(frame, again[name])
    assert "confidence_thresholds" not in learn(runtime, 39, trades[39:])


def test_another_sources_outcomes_teach_nothing(runtime):
    bad = [trade(i, won=False) for i in range(60)]
    put_all(runtime.store, bad)
    with runtime.store.reading() as reader:
        assert closed_outcomes(reader, source="live", as_of=NOW).empty
        assert len(closed_outcomes(reader, source="demo", as_of=NOW)) == 60
    learn(runtime, 59, bad[-1:])
    with runtime.store.reading() as reader:
        assert threshold_at(reader, strategy="v7", source="live", as_of=NOW) is None
        assert threshold_at(reader, strategy="v7", source="demo", as_of=NOW) == 0.65


def test_what_closes_later_is_not_known_and_what_closes_now_is(runtime):
    trades = [trade(i, won=True, kind="paper") for i in range(10)]
    put_all(runtime.store, trades, "llm_signals", "gated_signals")
    put_all(runtime.store, trades[:4] + trades[6:], "outcomes")  # numbers 4 and 5 close in the scan itself
    rates = learn(runtime, 5, trades[4:6])["win_rates"].set_index("scope")
    assert rates.loc["all", "n"] == 6


def test_hold_and_manual_outcomes_stay_apart(runtime):
    signals = [trade(0, won=True, kind="paper"), trade(1, won=False, kind="manual"), trade(2, won=False)]
    held = [trade(3, won=False, side="HOLD"), trade(4, won=True, side="HOLD")]
    put_all(runtime.store, signals + held)
    other = trade(5, won=True, kind="paper")
    put_all(runtime.store, [other])
    rates = learn(runtime, 5, [other])["win_rates"].set_index("scope")["n"]
    assert (rates["all"], rates["shadow:all"], rates["hold:all"], rates["manual:all"]) == (2, 1, 2, 1)
    taken = trade(5, won=False, kind="manual")  # the trader took the same signal: both stand
    assert learn(runtime, 5, [taken])["win_rates"].set_index("scope")["n"][["all", "manual:all"]].tolist() == [2, 2]


def test_the_regime_of_the_reading_that_decided_is_a_scope(runtime):
    paper = [trade(i, won=i > 0, kind="paper") for i in range(3)]
    put_all(runtime.store, paper)
    readings = [
        {name: 0.0 for name in table("theory_features").column_names if name not in MARKS}
        | {"symbol": "BTC-USD", "as_of": one["llm_signals"]["as_of"], "p_bull": bull, "p_bear": bear, "p_sideways": 0.2}
        for one, bull, bear in zip(paper, (0.7, 0.7, 0.1), (0.1, 0.1, 0.7), strict=True)
    ]
    persist(runtime.store, StepResult((Write("theory_features", filled("theory_features", readings), "upsert"),)))
    rates = learn(runtime, 2, paper[-1:])["win_rates"].set_index("scope")
    assert rates.loc["regime:bull", ["n", "alpha", "beta"]].tolist() == [2, 2, 2]
    assert rates.loc["regime:bear", "n"] == 1 and rates.loc["regime:bear", "parent_scope"] == "all"


def test_calibration_is_written_once_an_hour_by_analyst_and_model_regime(runtime):
    trades = [trade(i, won=i % 2 == 0, call_id=f"c{i}", analyst="deepseek") for i in range(40)]
    put_all(runtime.store, trades)
    calls = [
        {
            "call_id": f"c{i}", "attempt": 1, "signal_id": "s", "symbol": "BTC-USD", "as_of": START, "analyst":
            "deepseek", "model": "m", "prompt": "[]", "prompt_hash": "h", "prompt_version": "v", "parameters": "{}",
            "status": "settled", "reserved_at": START, "reserved_usd": 0.0, "price_version": "p",
            "returned_model": "m", "fingerprint": "f" if i < 30 else "g",
        }
        for i in range(40)
    ]  # fmt: skip
    persist(runtime.store, StepResult((Write("llm_calls", filled("llm_calls", calls), "upsert"),)))
    first = learn(runtime, 36, trades[36:37])["calibrations"].set_index("scope")
    assert first["n"].to_dict() == {"all": 37, "analyst:deepseek": 37, "model:m@f": 30, "model:m@g": 7}
    assert first.loc["all", "brier"] == pytest.approx(0.26, abs=0.01) and first.loc["all", "method"] == "platt"
    assert at_end_of(37).hour == at_end_of(36).hour != at_end_of(39).hour
    assert "calibrations" not in learn(runtime, 37, trades[37:38])
    assert "calibrations" in learn(runtime, 39, trades[39:])
    with runtime.store.reading() as reader:
        known = closed_outcomes(reader, source="demo", as_of=NOW)
        assert calibrations_at(reader, known, runtime.settings, NOW)[0].n == 40
