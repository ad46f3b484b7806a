"""The learnt confidence threshold: when it rises, when it comes back, and how seldom it errs."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.learning.threshold import break_even_rate
from v7_pipeline_tests.learning.analysts import (
    EVEN,
    FLOOR,
    LOST_AND_REGAINED,
    came_back,
    lived,
    muted_after,
    step,
    trades,
)
from v7_pipeline_tests.learning.frames import EPOCH


def pattern(n: int, wins_of_ten: int) -> np.ndarray:
    return np.arange(n) % 10 < wins_of_ten


def test_lesson_29_a_confidence_that_loses_money_is_refused_and_a_higher_one_that_earns_is_not():
    low, high = pattern(100, 2), pattern(100, 6)
    frame = pd.concat([trades(0.57, low), trades(0.82, high, start=100)])
    found = step(frame, half_life_trades=1000)
    assert found.threshold == 0.6 and found.changed and found.previous == FLOOR
    assert found.p_below >= 0.9 and found.break_even == pytest.approx(EVEN) and found.n == 100
    assert found.reason.startswith("raised from 0.55: of 100 outcomes (worth 9") and "20% won" in found.reason
    assert "confidence of 0.55 to 0.60" in found.reason and "40% break even" in found.reason


def test_a_high_confidence_that_loses_takes_the_lower_ones_with_it_where_the_bands_contradict_each_other():
    frame = pd.concat([trades(0.57, pattern(60, 3)), trades(0.72, pattern(60, 1), start=60)])
    assert step(frame).threshold == 0.75


def test_too_few_outcomes_change_nothing_and_overlapping_ones_are_few():
    assert step(trades(0.6, pattern(29, 0))).threshold == FLOOR
    assert step(trades(0.6, pattern(40, 0))).threshold == 0.65
    crowd = trades(0.6, pattern(400, 0)).assign(entry_time=EPOCH, exit_time=EPOCH + pd.Timedelta(minutes=60))
    found = step(crowd)
    assert found.threshold == FLOOR and not found.changed


def test_between_the_two_probabilities_the_threshold_stays_where_it_is():
    doubtful = trades(0.57, np.arange(60) % 20 < 7)  # 35 %: below break-even, but not surely
    from_below, from_above = step(doubtful, FLOOR), step(doubtful, 0.6)
    assert 0.5 < step(doubtful, 0.6).p_below < 0.9
    assert (from_below.threshold, from_above.threshold) == (FLOOR, 0.6)
    assert not from_below.changed and not from_above.changed


def test_it_comes_back_to_the_floor_once_the_refused_signals_win_again():
    found = step(trades(0.57, pattern(60, 5)), previous=0.75)
    assert found.threshold == FLOOR and found.reason.startswith("lowered from 0.75")


def test_it_is_never_below_the_floor_and_follows_a_floor_that_was_raised():
    wins = trades(0.57, pattern(100, 9))
    assert step(wins).threshold == FLOOR
    assert step(wins, previous=0.55, floor=0.7).threshold == 0.7
    assert step(wins, previous=None, floor=0.7).threshold == 0.7
    assert "new floor" in step(wins, previous=0.55, floor=0.7).reason
    assert step(trades(1.0, pattern(100, 0)), floor=1.0).threshold == 1.0


def test_the_first_one_is_the_floor_and_says_that_nothing_is_known():
    found = step(trades(0.6, []), previous=None)
    assert found.threshold == FLOOR and found.changed and found.n == 0
    assert np.isnan(found.p_below) and np.isnan(found.break_even)


def test_confidences_that_nobody_tried_are_not_refused():
    assert step(trades(0.57, pattern(100, 0))).threshold == 0.6


def test_outcomes_that_close_later_teach_nothing_yet():
    frame = trades(0.57, pattern(100, 0))
    cut = (frame["exit_time"].iloc[40] + pd.Timedelta(minutes=1)).to_pydatetime()
    assert step(frame, as_of=cut) == step(frame.iloc[:41])
    assert step(frame, as_of=cut - timedelta(microseconds=1)) == step(frame.iloc[:40])


def test_breakevens_and_confidences_under_the_floor_do_not_count():
    frame = trades(0.57, pattern(100, 0))
    assert step(frame.assign(outcome="breakeven")).threshold == FLOOR
    assert step(frame.assign(confidence=0.5)).threshold == FLOOR


def test_what_is_no_confidence_or_of_two_sources_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        step(trades(57.0, pattern(5, 1)))
    with pytest.raises(ValueError, match="demo, live"):
        step(trades(0.6, pattern(2, 1), source=["live", "demo"]))
    with pytest.raises(ValueError, match="break_even"):
        step(trades(0.6, pattern(2, 1)).drop(columns="break_even"))


def test_break_even_is_risk_over_risk_and_reward():
    assert break_even_rate([1.5, 1.0, -0.1], [1.0, 1.0, 1.0]) == pytest.approx([0.4, 0.5, 1.0])
    assert np.isnan(break_even_rate(1.0, 0.0))


def test_an_analyst_that_loses_its_edge_for_200_trades_is_muted_and_comes_back():
    refused = lived(LOST_AND_REGAINED, seed=1, every=10)
    assert muted_after(refused) < 200 and came_back(refused)


@pytest.mark.slow
def test_most_analysts_that_lose_their_edge_are_muted_and_come_back():
    """A band of high confidences may be lucky for 200 trades, so that not every one is refused wholly.

    `python benchmarks/threshold.py` prints the figures of the documentation, learnt after each trade.
    """
    runs = [lived(LOST_AND_REGAINED, seed, every=10) for seed in range(40)]
    assert np.mean([muted_after(one) < 200 for one in runs]) >= 0.8
    assert np.mean([came_back(one) for one in runs]) >= 0.9


@pytest.mark.slow
def test_an_analyst_without_trouble_is_muted_in_at_most_5_of_100_runs():
    """Wins 50 % where 40 % break even, 1,000 trades, 200 runs: the threshold leaves its floor in at most 5 %."""
    left = [lived(np.full(1000, 0.5), 10_000 + seed, every=20).any() for seed in range(200)]
    assert np.mean(left) <= 0.05
