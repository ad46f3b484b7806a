"""Following signals: both sides of a HOLD, candles that come late or are revised, and gaps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from v7_pipeline.scan.attribute import attribute
from v7_pipeline.scan.context import persist
from v7_pipeline.scan.features import new_readings, readings
from v7_pipeline.scan.manual import record, revise
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline_tests.scan.followed import MINUTE, SYMBOL, T0, put_candles, put_signal, scan, tables
from v7_pipeline_tests.scan.watched import watched

CALM = (100.0, 100.1, 99.9, 100.0)


def world(make_settings: Callable[..., Any], **changes: Any) -> Runtime:
    return watched(make_settings, **{"symbols": SYMBOL, "horizon_minutes": 10} | changes)


def outcomes(runtime: Runtime) -> pd.DataFrame:
    return runtime.store.read("outcomes")


# --- both sides of a HOLD ---------------------------------------------------------------------


def test_both_sides_of_a_hold_are_followed_and_written_only_once_closed(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings)
    key = put_signal(runtime, 0, "HOLD", vote=0.5)
    put_candles(runtime, {-1: CALM, 0: CALM, 1: CALM})
    assert scan(runtime, 2).notes["holds_closed"] == 0
    assert outcomes(runtime).empty
    put_candles(runtime, {2: (100.0, 100.0, 99.5, 99.8), 3: CALM})  # the BUY's stop lies 0.32 % below
    assert scan(runtime, 4).notes["holds_closed"] == 1
    row = outcomes(runtime).iloc[0]
    assert (row["signal_id"], row["kind"], row["side"], row["exit_reason"]) == (key, "shadow", "BUY", "stop")
    assert runtime.store.read("theory_performance").empty  # half a HOLD judges nobody
    put_candles(runtime, dict.fromkeys(range(4, 12), CALM))
    assert scan(runtime, 12).notes["holds_closed"] == 1
    sold = outcomes(runtime).set_index("side").loc["SELL"]
    assert (sold["exit_reason"], sold["holding_minutes"], sold["quantity"]) == (
        "time",
        10,
        pytest.approx(float("nan"), nan_ok=True),
    )
    told = runtime.store.read("theory_performance").set_index("theory_name")
    bought = outcomes(runtime).set_index("side").loc["BUY"]
    up, down = told[told["vote"] > 0], told[told["vote"] < 0]
    assert (up["forward_return"] == bought["net_return"]).all() and not up["was_correct"].any()
    assert (down["forward_return"] == -sold["net_return"]).all() and len(up) == len(down) == 5
    assert (down["was_correct"] == (sold["net_return"] > 0)).all()
    assert (told["created_at"] == T0 + 9 * MINUTE).all()
    before = tables(runtime, without=())
    assert scan(runtime, 14).notes["followed"] == 0
    pd.testing.assert_frame_equal(before["outcomes"], tables(runtime, without=())["outcomes"])


def test_lesson_17_what_holds_left_out_never_counts_as_a_trade(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings)
    put_signal(runtime, 0, "HOLD")
    put_candles(runtime, dict.fromkeys(range(-1, 12), CALM))
    result = scan(runtime, 12)
    assert result.notes["holds_closed"] == 2 and result.notes["closed_rows"].empty
    assert runtime.store.read("win_rates").empty and runtime.store.read("alerts").empty


def test_abstained_and_skipped_decisions_have_no_outcome(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings)
    for minute, status in ((0, "abstained"), (2, "skipped")):
        put_signal(runtime, minute, "HOLD", status=status)
    put_candles(runtime, dict.fromkeys(range(-1, 20), CALM))
    assert scan(runtime, 20).notes["followed"] == 0 and outcomes(runtime).empty


def test_a_hold_is_found_again_after_a_long_gap_in_the_data(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings)
    put_signal(runtime, 0, "HOLD")
    put_candles(runtime, dict.fromkeys(range(-20, 2), CALM))
    scan(runtime, 2)
    for minute in range(4, 3_000, 500):
        assert scan(runtime, minute).notes["holds_closed"] == 0
    put_candles(runtime, {3_000: (99.0, 99.0, 99.0, 99.0), 3_001: CALM})
    scan(runtime, 3_002)
    rows = outcomes(runtime)
    assert rows.set_index("side")["exit_reason"].to_dict() == {"BUY": "stop", "SELL": "target"}
    assert rows["gap_minutes"].tolist() == [2_998, 2_998] and rows["holding_minutes"].tolist() == [3_001, 3_001]


# --- candles that come late or are revised ------------------------------------------------------


def test_a_revised_candle_labels_again_what_it_touches_and_nothing_else(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings, breakeven_band_r=0.05)
    for minute in (0, 20):
        put_signal(runtime, minute, "BUY", accepted=True)
    put_candles(runtime, dict.fromkeys(range(-1, 40), CALM))
    for minute in range(2, 40, 2):
        scan(runtime, minute)
    before = tables(runtime, without=())
    assert before["outcomes"]["exit_reason"].tolist() == ["time", "time"]
    put_candles(runtime, {23: (100.0, 103.0, 100.0, 102.5)}, fetched=T0 + 39 * MINUTE)
    result = scan(runtime, 40)
    assert result.notes["relabelled"] == 1 and result.notes["closed_rows"].empty
    after = tables(runtime, without=())
    assert after["outcomes"]["exit_reason"].tolist() == ["time", "target"]
    pd.testing.assert_frame_equal(before["outcomes"].iloc[:1], after["outcomes"].iloc[:1])
    assert (after["theory_performance"].iloc[:10] == before["theory_performance"].iloc[:10]).all(axis=None)
    rates = after["win_rates"].query("scope == 'all'").set_index("as_of")["n"]
    assert rates.index.tolist() == [T0 + 10 * MINUTE, T0 + 24 * MINUTE] and rates.tolist() == [1, 2]
    alerts = runtime.store.read("alerts")
    assert len(alerts) == 2  # one for each trade that closed, none for the other end of it


def test_a_candle_outside_of_every_trade_changes_nothing(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings)
    put_signal(runtime, 5, "BUY")
    put_candles(runtime, dict.fromkeys(range(-1, 20), CALM))
    for minute in range(6, 22, 2):
        scan(runtime, minute)
    before = tables(runtime, without=())
    put_candles(runtime, {4: (100.0, 110.0, 90.0, 100.0), 15: (100.0, 110.0, 90.0, 100.0)}, fetched=T0 + 21 * MINUTE)
    assert scan(runtime, 22).notes["relabelled"] == 0
    after = tables(runtime, without=())
    for name, frame in before.items():
        pd.testing.assert_frame_equal(frame, after[name])


prices = st.integers(97, 103)


@st.composite
def paths(draw: st.DrawFn) -> dict[int, tuple[float, ...]]:
    """Candles of some of the first forty minutes, at few prices."""
    rows = {}
    for minute in draw(st.lists(st.integers(0, 39), min_size=15, max_size=40, unique=True)):
        first, last = draw(prices), draw(prices)
        high, low = max(first, last, draw(prices)), min(first, last, draw(prices))
        rows[minute] = tuple(map(float, (first, high, low, last)))
    return rows


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=paths(),
    revised=paths(),
    moved=st.sets(st.integers(0, 39), max_size=6),
    sides=st.lists(st.sampled_from(["BUY", "SELL", "HOLD"]), min_size=8, max_size=8),
)
def test_lesson_24_a_store_with_revised_candles_equals_one_that_had_them_from_the_start(
    make_settings: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, first: Any, revised: Any, moved: Any,
    sides: list[str],
) -> None:  # fmt: skip
    truth = first | {minute: revised[minute] for minute in moved if minute in revised}
    told = {}
    for name, at_first, later in (("revised", first, truth), ("from the start", truth, {})):
        runtime = world(make_settings, home=tmp_path_factory.mktemp("world"))
        with runtime.store.session():
            for place, side in enumerate(sides):
                put_signal(runtime, 4 * place, side, accepted=side == "BUY" and place % 2 == 0)
            put_candles(runtime, dict.fromkeys(range(-15, 0), CALM) | at_first)
            for minute in range(2, 46, 4):
                scan(runtime, minute)
            changed = {minute: row for minute, row in later.items() if at_first.get(minute) != row}
            if changed:
                put_candles(runtime, changed, fetched=T0 + 45 * MINUTE)
            scan(runtime, 46)
            told[name] = tables(runtime)
            # What HOLD forwent is looked at once an hour, and what was seen then is not taken back.
            told[name]["win_rates"] = told[name]["win_rates"].query("scope != 'hold:all'").reset_index(drop=True)
    for name, frame in told["from the start"].items():
        pd.testing.assert_frame_equal(told["revised"][name], frame, obj=name)


def test_a_trade_that_closed_on_a_candle_published_after_the_scan_teaches_all_that_it_would_have(
    make_settings: Callable[..., Any],
) -> None:
    runtime = world(make_settings)
    put_signal(runtime, 0, "BUY", accepted=False)
    put_candles(runtime, dict.fromkeys(range(-1, 7), CALM))
    for minute in (2, 4, 6, 8):
        scan(runtime, minute)
    put_candles(runtime, {7: (100.0, 100.0, 98.0, 98.0), 8: CALM}, fetched=T0 + 9.5 * MINUTE)
    scan(runtime, 10)
    rates = runtime.store.read("win_rates").query("scope == 'shadow:all'")
    assert rates[["as_of", "n"]].to_numpy().tolist() == [[T0 + 8 * MINUTE, 1]]
    for name in ("confidence_thresholds", "calibrations"):
        assert (runtime.store.read(name)["as_of"] == T0 + 10 * MINUTE).all() and len(runtime.store.read(name))
    put_candles(runtime, {9: CALM, 10: CALM, 11: CALM}, fetched=T0 + 11.5 * MINUTE)
    before = runtime.store.read("win_rates")
    scan(runtime, 12)
    pd.testing.assert_frame_equal(before, runtime.store.read("win_rates"))


def test_readings_learn_of_a_trade_whose_last_candle_came_late(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings)
    prices = 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 4e-5, 601)))
    opened, closed = prices[:-1], prices[1:]
    rows = zip(opened, np.maximum(opened, closed), np.minimum(opened, closed), closed, strict=True)
    put_candles(runtime, dict(zip(range(-600, 0), rows, strict=True)))
    put_candles(runtime, dict.fromkeys(range(6), CALM) | {2: (100.0, 100.0, 90.0, 90.0)})

    def live(minute: int) -> None:
        runtime.clock.now = T0 + minute * MINUTE + timedelta(seconds=5)  # type: ignore[attr-defined]
        persist(runtime.store, new_readings(runtime.context(T0 + minute * MINUTE, "r")))
        scan(runtime, minute)

    put_signal(runtime, 0, "BUY", accepted=True)
    for minute in (2, 4, 6):
        live(minute)
    put_signal(runtime, 6, "BUY", price=100.0, accepted=True)
    put_candles(runtime, {6: CALM})
    live(8)
    put_candles(
        runtime, {7: (100.0, 100.0, 98.0, 98.0)} | dict.fromkeys((8, 9, 10, 11), CALM), fetched=T0 + 9.9 * MINUTE
    )
    live(10)
    live(12)
    span = (T0 + 7 * MINUTE, T0 + 12 * MINUTE)
    again = readings(runtime.store, (SYMBOL,), *span, settings=runtime.settings, source="demo").set_index("as_of")
    stored = runtime.store.read("theory_features", start=span[0], end=span[1]).set_index("as_of")
    assert stored["win_rate_n"].tolist() == again["win_rate_n"].tolist() == [1, 1, 2, 2, 2]


def test_a_revised_outcome_reaches_attribution(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings, breakeven_band_r=0.05)
    put_signal(runtime, 0, "BUY", accepted=True)
    put_candles(runtime, dict.fromkeys(range(-1, 140), CALM))

    def attributed(minute: int) -> Any:
        scan(runtime, minute)
        result = attribute(runtime.context(T0 + minute * MINUTE, "r"))
        persist(runtime.store, result)
        return bool(result.writes) and result.frame("theory_attribution")["contribution_wins"].notna().any()

    scan(runtime, 2)
    assert not attributed(12)  # a breakeven
    put_candles(runtime, {3: (100.0, 103.0, 100.0, 102.5)}, fetched=T0 + 69 * MINUTE)
    assert attributed(70)
    assert not attributed(130)  # nothing new


def test_rows_of_an_older_schema_are_labelled_again_only_where_a_candle_came(
    make_settings: Callable[..., Any],
) -> None:
    runtime = world(make_settings)
    put_signal(runtime, 0, "BUY")
    put_candles(runtime, dict.fromkeys(range(-1, 14), CALM))
    for minute in (2, 12, 14):
        scan(runtime, minute)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE outcomes SET labelled_at = NULL")
    assert scan(runtime, 16, at=T0 + 16 * MINUTE).notes["relabelled"] == 0
    put_candles(runtime, {3: (100.0, 100.0, 98.0, 98.0)}, fetched=T0 + timedelta(minutes=17))
    assert scan(runtime, 18).notes["relabelled"] == 1
    assert outcomes(runtime)["exit_reason"].tolist() == ["stop"]


# --- the trader's own trades ---------------------------------------------------------------------


def test_lesson_21_a_trade_by_hand_is_known_from_when_it_was_recorded_and_stands_beside_the_paper_one(
    make_settings: Callable[..., Any],
) -> None:
    runtime = world(make_settings)
    key = put_signal(runtime, 0, "BUY", accepted=True)
    put_candles(runtime, dict.fromkeys(range(-1, 30), CALM))
    settings, marks = runtime.settings, {"source": "demo", "run_id": "t", "code_version": "0"}
    scan(runtime, 2)
    paper = outcomes(runtime)
    made = {"now": T0 + 5.5 * MINUTE, "marks": marks, "fee_usd": 0.0}
    record(runtime.store, settings, "entry", key, price=100.0, at=T0 + 3 * MINUTE, **made)
    record(runtime.store, settings, "exit", key, price=99.0, at=T0 + 4 * MINUTE, reason="fear", **made)
    with runtime.store.transaction() as tx:
        tx.execute("DELETE FROM outcomes WHERE kind = 'manual'")  # as if the command had died: facts are enough
    scan(runtime, 4, at=T0 + 6 * MINUTE)
    assert set(outcomes(runtime)["kind"]) == {"paper"}  # at 12:04 nobody had recorded it
    scan(runtime, 6)
    both = outcomes(runtime).set_index("kind")
    assert both.loc["manual", "outcome"] == "loss" and both.loc["manual", "exit_reason"] == "fear"
    assert both.loc["paper", "outcome"] == "open" and len(paper) == 1
    assert both.loc["manual", "labelled_at"] == T0 + 6 * MINUTE + timedelta(seconds=5)
    rates = runtime.store.read("win_rates").query("scope == 'all'")
    assert rates["n"].tolist() == [0] * len(rates)  # the paper's scopes do not know it
    assert runtime.store.read("win_rates").query("scope == 'manual:all'")["n"].tolist() == [1]
    before = outcomes(runtime)
    scan(runtime, 8)
    pd.testing.assert_frame_equal(before.query("kind == 'manual'"), outcomes(runtime).query("kind == 'manual'"))


def test_an_entry_by_hand_teaches_nothing_though_something_is_known(make_settings: Callable[..., Any]) -> None:
    runtime = world(make_settings)
    key = put_signal(runtime, 0, "BUY", accepted=True)
    put_candles(runtime, dict.fromkeys(range(-1, 60), CALM))
    for minute in (2, 12):
        scan(runtime, minute)
    before = runtime.store.read("win_rates")
    assert len(before)
    marks = {"source": "demo", "run_id": "t", "code_version": "0"}
    entered = {"price": 100.0, "at": T0 + 3 * MINUTE, "now": T0 + 12.4 * MINUTE, "marks": marks, "fee_usd": 0.0}
    record(runtime.store, runtime.settings, "entry", key, **entered)
    scan(runtime, 14)
    pd.testing.assert_frame_equal(before, runtime.store.read("win_rates"))


def test_a_trade_closed_by_the_command_teaches_and_one_that_is_voided_is_forgotten(
    make_settings: Callable[..., Any],
) -> None:
    runtime = world(make_settings)
    key = put_signal(runtime, 0, "BUY", accepted=True)
    put_candles(runtime, dict.fromkeys(range(-1, 60), CALM))
    marks = {"source": "demo", "run_id": "t", "code_version": "0"}
    made = {"marks": marks, "fee_usd": 0.0}
    scan(runtime, 2)
    record(
        runtime.store, runtime.settings, "entry", key, price=100.0, at=T0 + 3 * MINUTE, now=T0 + 5.4 * MINUTE, **made
    )
    scan(runtime, 6)
    assert runtime.store.read("win_rates").empty  # an entry teaches nothing
    how = {"price": 99.0, "at": T0 + 4 * MINUTE, "reason": "fear"}
    record(runtime.store, runtime.settings, "exit", key, now=T0 + 6.5 * MINUTE, **how, **made)
    scan(runtime, 8)

    def by_hand() -> list[int]:
        return list(runtime.store.read("win_rates").query("scope == 'manual:all'")["n"])

    assert by_hand() == [1]
    scan(runtime, 10)
    assert by_hand()[-1] == 1
    revise(runtime.store, runtime.settings, f"{key}-exit-1", now=T0 + 13.5 * MINUTE, marks=marks, reason="no")
    scan(runtime, 14)
    assert by_hand() == []
