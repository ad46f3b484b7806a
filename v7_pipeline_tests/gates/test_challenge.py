"""The simulated challenge: days that trades make, known answers of the rules, and what the intervals say."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.gates.challenge import (
    DayRecord,
    _fates,
    block_length,
    day_record,
    simulate,
    too_few,
)
from v7_pipeline_tests.gates.builders import ONE_STEP, TWO_STEP, at, book, closed, state

INITIAL = 100_000.0
FREE = replace(TWO_STEP, min_days=0)  # no minimum of trading days
NO_DAILY = replace(FREE, daily_loss=1.0)


def record(*pnl: float, worst: tuple[float, ...] | None = None, opened: tuple[int, ...] | None = None) -> DayRecord:
    """Days with these results; the worst of each is its loss unless said otherwise."""
    made = np.array(pnl, dtype=float)
    lowest = np.minimum(made, 0.0) if worst is None else np.array(worst)
    return DayRecord(date(2026, 1, 1), made, lowest, np.array(opened or [1] * len(pnl)), len(pnl))


def run(of: DayRecord, rules: Any = TWO_STEP, **changes: Any) -> Any:
    return simulate(of, rules, **{"runs": 200, "days": 30, "outer": 20, "inner": 50, "seed": 1} | changes)


def trade(
    entry: datetime, exit_: datetime, pnl: float, mae: float | None = None, *, fees: float = 0.0
) -> dict[str, Any]:
    """A trade of 100,000 USD notional: excursions and fees are fractions of that."""
    return {
        "entry_time": entry, "exit_time": exit_, "entry_price": 100.0, "quantity": 1000.0, "pnl_usd": pnl, "mae": mae,
        "fees": fees,
    }  # fmt: skip


def days_of(*rows: dict[str, Any]) -> DayRecord:
    return day_record(pd.DataFrame(list(rows)), TWO_STEP, initial_usd=INITIAL)


# --- from trades to days ------------------------------------------------------------------


def test_a_day_holds_its_closed_result_and_its_lowest_running_point_in_order_of_time() -> None:
    found = days_of(
        trade(at("2026-01-05T09:00Z"), at("2026-01-05T10:00Z"), 2000.0, -0.001),
        trade(at("2026-01-05T11:00Z"), at("2026-01-05T12:00Z"), -500.0, -0.03),
    )
    assert found.pnl == pytest.approx([0.015])
    assert found.worst == pytest.approx([-0.01])  # 2,000 made before 3,000 were lost for a while


def test_positions_that_are_open_together_are_at_their_worst_together() -> None:
    apart = [
        trade(at("2026-01-05T09:00Z"), at("2026-01-05T10:00Z"), 100.0, -0.01),
        trade(at("2026-01-05T11:00Z"), at("2026-01-05T12:00Z"), 100.0, -0.02),
    ]
    together = [apart[0] | {"exit_time": at("2026-01-05T11:00Z")}, apart[1]]
    assert days_of(*apart).worst == pytest.approx([-0.019])
    assert days_of(*together).worst == pytest.approx([-0.03])
    assert days_of(*together[::-1]).worst == pytest.approx([-0.03])


def test_the_fees_of_both_sides_are_in_the_worst_point() -> None:
    found = days_of(trade(at("2026-01-05T09:00Z"), at("2026-01-05T10:00Z"), 100.0, -0.01, fees=0.00065))
    assert found.worst == pytest.approx([-0.01065])


def test_a_worst_point_is_never_better_than_the_result() -> None:
    found = days_of(trade(at("2026-01-05T09:00Z"), at("2026-01-05T10:00Z"), -700.0, -0.002))
    assert found.worst == pytest.approx([-0.007])


def test_a_missing_excursion_leaves_the_result_and_is_counted() -> None:
    found = days_of(
        trade(at("2026-01-05T09:00Z"), at("2026-01-05T10:00Z"), -700.0, None),
        trade(at("2026-01-05T11:00Z"), at("2026-01-05T12:00Z"), 300.0, -0.001),
    )
    assert found.worst == pytest.approx([-0.008]) and found.without_mae == 1


def test_days_roll_at_pragues_midnight_and_days_without_a_trade_stay_in_the_sequence() -> None:
    found = days_of(
        trade(at("2026-01-05T22:59Z"), at("2026-01-05T22:59Z"), 100.0, 0.0),
        trade(at("2026-01-05T23:00Z"), at("2026-01-05T23:00Z"), 200.0, 0.0),
        trade(at("2026-01-08T12:00Z"), at("2026-01-08T13:00Z"), -300.0, -0.003),
    )
    assert found.first_day == date(2026, 1, 5)
    assert found.pnl * INITIAL == pytest.approx([100.0, 200.0, 0.0, -300.0])
    assert found.opened.tolist() == [1, 1, 0, 1] and found.trading_days == 3


def test_the_days_of_a_change_of_clocks_are_pragues() -> None:
    found = days_of(
        trade(at("2026-03-28T22:59Z"), at("2026-03-28T22:59Z"), 1.0, 0.0),  # the 28th
        trade(at("2026-03-29T21:59Z"), at("2026-03-29T21:59Z"), 2.0, 0.0),  # the 29th, which has 23 hours
        trade(at("2026-03-29T22:00Z"), at("2026-03-29T22:00Z"), 4.0, 0.0),  # the 30th
    )
    assert found.pnl * INITIAL == pytest.approx([1.0, 2.0, 4.0])


def test_a_position_held_over_midnight_weighs_on_each_day_and_counts_where_it_was_closed() -> None:
    found = days_of(trade(at("2026-01-05T12:00Z"), at("2026-01-07T12:00Z"), 400.0, -0.02))
    assert found.worst == pytest.approx([-0.02, -0.02, -0.02])
    assert found.pnl == pytest.approx([0.0, 0.0, 0.004])
    assert found.opened.tolist() == [1, 0, 0]


def test_a_record_without_a_trade_or_with_an_open_one_is_refused() -> None:
    with pytest.raises(ValueError, match="no closed trade"):
        day_record(pd.DataFrame(columns=list(trade(INSTANT, INSTANT, 0.0))), TWO_STEP, initial_usd=INITIAL)
    with pytest.raises(ValueError, match="leave the open ones out"):
        days_of(trade(INSTANT, pd.NaT, 0.0), trade(INSTANT, INSTANT, 0.0))  # type: ignore[arg-type]


INSTANT = at("2026-01-05T12:00Z")


# --- known answers ------------------------------------------------------------------------


def test_one_percent_a_day_passes_on_the_tenth_day_for_certain() -> None:
    found = run(record(*[0.01] * 12))
    assert (found.passed.probability, found.passed.lower, found.passed.upper) == (1.0, 1.0, 1.0)
    assert found.days_to_pass == (10, 10, 10) and found.days_to_breach is None
    assert found.neither.probability == found.total.probability == 0.0
    assert found.passed_by_day[9] == 0.0 and found.passed_by_day[10] == 1.0
    assert found.equity[10] == pytest.approx(1.1) and found.equity[30] == pytest.approx(1.1)


def test_one_percent_lost_a_day_breaks_the_total_limit_on_the_eleventh() -> None:
    found = run(record(*[-0.01] * 12))
    assert found.total.probability == 1.0 and found.days_to_breach == (11, 11, 11)  # at exactly 90 % nothing is broken
    assert found.daily.probability == 0.0 and found.passed.probability == 0.0
    assert found.equity[30] == pytest.approx(0.9)  # the firm closes it at the floor


def test_a_single_day_of_minus_six_percent_breaks_the_daily_limit() -> None:
    found = run(record(-0.06))
    assert found.daily.probability == 1.0 and found.total.probability == 0.0
    assert found.days_to_breach == (1, 1, 1) and found.days_beyond_daily == 1
    assert run(record(-0.05)).daily.probability == 0.0  # exactly 5 % is none


def test_a_point_within_the_day_breaks_the_daily_limit_though_the_day_ends_well() -> None:
    assert run(record(0.12, worst=(-0.051,)), FREE).daily.probability == 1.0


def test_of_two_limits_broken_on_one_day_the_higher_was_met_first() -> None:
    falling = record(-0.04, -0.04, -0.04)
    assert run(falling).total.probability == 1.0  # 92 − 5 = 87 lies below 90
    assert run(record(-0.2)).daily.probability == 1.0  # 95 lies above 90


def test_a_fair_coin_passes_as_often_as_the_gamblers_ruin_says() -> None:
    coin = record(*[0.01, -0.01] * 50)
    found = simulate(coin, NO_DAILY, runs=4000, days=900, block=1, seed=3, outer=2, inner=2)
    assert found.neither.probability < 0.002
    # Ten steps up, or eleven down: exactly −10 % breaks nothing.
    expected = 11 / 21
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert abs(found.passed.probability - expected) < 4 * error
    strict = replace(NO_DAILY, max_loss=0.0999)
    even = simulate(coin, strict, runs=4000, days=900, block=1, seed=4, outer=2, inner=2)
    assert abs(even.passed.probability - 0.5) < 4 * error


def test_the_minimum_of_trading_days_delays_passing() -> None:
    best = record(0.11)
    assert run(best).days_to_pass == (4, 4, 4)
    assert run(best, FREE).days_to_pass == (1, 1, 1)
    alternating = record(0.11, 0.0, opened=(1, 0))  # a day on which nothing is opened is no trading day
    assert run(alternating, block=2).days_to_pass in ((7, 7, 8), (7, 8, 8), (7, 7, 7), (8, 8, 8))


def test_the_trailing_limit_of_the_one_step_follows_the_end_of_day_balance() -> None:
    up_then_down = record(0.04, 0.04, -0.02, -0.02, -0.02, -0.02, -0.02, -0.02)
    static = replace(ONE_STEP, trailing=False)
    found = [run(up_then_down, rules, block=8, days=8, runs=4000) for rules in (ONE_STEP, static)]
    # By the day on which a block begins: the first (108 % → 96 %), second (104 % → 92 %) and third (→ 88 %) break a
    # limit that trails 10 % behind the peak, only the third one that stands at 90 %.
    assert found[0].total.probability == pytest.approx(3 / 8, abs=0.03)
    assert found[1].total.probability == pytest.approx(1 / 8, abs=0.03)


def test_an_intraday_peak_or_loss_does_not_move_the_trailing_limit() -> None:
    assert run(record(0.0, worst=(-0.029,)), ONE_STEP).neither.probability == 1.0


def test_the_best_day_rule_delays_passing_and_fails_nobody() -> None:
    rules = replace(ONE_STEP, best_day_share=0.5)
    steady = run(record(*[0.02] * 6), rules)
    assert steady.days_to_pass == (5, 5, 5)
    once = record(0.10, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    held_back = run(once, rules, block=1, days=7)
    free = run(once, replace(rules, best_day_share=None), block=1, days=7)
    assert held_back.passed.probability < free.passed.probability
    assert held_back.daily.probability == held_back.total.probability == 0.0


def test_rules_without_a_target_have_no_probability_to_pass() -> None:
    funded = replace(TWO_STEP, profit_target=None)
    found = run(record(0.01), funded)
    assert found.passed is None and found.neither.probability == 1.0 and found.days_to_pass is None


@pytest.mark.parametrize("rules", [TWO_STEP, ONE_STEP], ids=["two-step", "one-step"])
@pytest.mark.parametrize("seed", [1, 4, 6, 13, 15])
def test_a_path_fares_as_the_account_engine_judges_it(seed: int, rules: Any) -> None:
    """The days of one path in their own order: the same day of passing, the same first breach, of the same limit."""
    results = np.random.default_rng(seed).normal(0.005 * (-1) ** seed, 0.016, 22).round(4)
    noons = [at("2026-03-20T12:00Z") + timedelta(days=day) for day in range(len(results))]
    trades = book(*(closed(INITIAL * result, noon) for result, noon in zip(results, noons, strict=True)))
    made = record(*results)
    fates = _fates(made, np.arange(len(results))[None, :], rules)

    states = [state(trades, noon + timedelta(hours=6), rules=rules) for noon in noons]
    passed = next((day for day, found in enumerate(states) if found.passable), len(noons))
    broken = next((day for day, found in enumerate(states) if found.first_breach_at), len(noons))
    assert fates.end[0] == min(passed, broken)
    assert fates.passed[0] == (passed < broken)
    if broken < passed:
        floors = {"daily": states[broken].daily_limit, "total": states[broken].total_limit}
        assert (fates.total[0], fates.daily[0]) == (
            floors["total"] >= floors["daily"],
            floors["total"] < floors["daily"],
        )


# --- the bootstrap ------------------------------------------------------------------------


def test_blocks_keep_days_together_and_wrap_around() -> None:
    """Three days of −4 % in a row break the total limit; alone or scattered among calm days they seldom do."""
    streak = record(-0.04, -0.04, -0.04, *[0.0] * 17)
    together, scattered = (run(streak, block=b, days=20, runs=3000).total.probability for b in (20, 1))
    assert together == 1.0  # a block of the whole record holds all three, wherever it begins
    assert scattered < 0.65


def test_the_probabilities_add_up_to_one() -> None:
    rng = np.random.default_rng(5)
    found = run(record(*rng.normal(0.0, 0.015, 50)), runs=500)
    parts = (found.passed, found.daily, found.total, found.neither)
    assert sum(part.probability for part in parts) == pytest.approx(1.0)
    assert found.passed_by_day[-1] == pytest.approx(found.passed.probability)
    assert found.daily_by_day[-1] + found.total_by_day[-1] == pytest.approx(
        found.daily.probability + found.total.probability
    )
    assert (np.diff(found.equity, axis=1) >= 0).all()


def test_the_interval_narrows_with_recorded_days_and_not_with_runs() -> None:
    rng = np.random.default_rng(11)
    days = rng.normal(0.001, 0.012, 2000)

    def width(n: int, runs: int) -> float:
        found = simulate(record(*days[:n]), TWO_STEP, runs=runs, days=60, outer=60, inner=150, seed=2)
        return float(found.passed.upper - found.passed.lower)

    assert width(2000, 500) < 0.6 * width(20, 500)
    assert width(20, 4000) == pytest.approx(width(20, 500), abs=0.1)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    rng = np.random.default_rng(6)
    days = record(*rng.normal(0.0, 0.015, 50))

    def told(seed: int) -> bytes:
        return repr(run(days, seed=seed)).encode() + run(days, seed=seed).equity.tobytes()

    assert told(1) == told(1) != told(2)


def test_the_block_is_the_cube_root_of_the_days_unless_it_is_named() -> None:
    assert [block_length(n) for n in (1, 8, 27, 60, 1000)] == [1, 2, 3, 4, 10]
    days = record(*[0.001] * 64)
    assert run(days).block == 4 and run(days, block=7).block == 7
    assert run(record(0.001), block=7).block == 1  # not longer than the record


@pytest.mark.parametrize("name", ["runs", "days", "outer", "inner", "block"])
def test_a_simulation_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        run(record(0.01), **{name: -1})


def test_a_small_record_is_told_to_be_too_small() -> None:
    enough = replace(record(*[0.01] * 10), trades=30)
    assert too_few(enough) is None
    assert "n = 29 closed trades on 10 trading days" in str(too_few(replace(enough, trades=29)))
    idle = replace(enough, opened=np.array([1] * 9 + [0]))
    assert "on 9 trading days" in str(too_few(idle))


def test_ten_thousand_runs_of_120_days_take_a_second_at_most() -> None:
    rng = np.random.default_rng(0)
    days = record(*rng.normal(0.0, 0.01, 60))
    taken = []
    for _ in range(3):
        began = time.process_time()
        simulate(days, ONE_STEP, runs=10_000, days=120)
        taken.append(time.process_time() - began)
    assert min(taken) < 1.0
