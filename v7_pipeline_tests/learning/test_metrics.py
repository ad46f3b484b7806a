"""The figures of `v7 stats`: n and interval on each, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.learning.metrics import summary
from v7_pipeline.learning.statistics import wilson
from v7_pipeline_tests.learning.frames import outcome, outcomes

LOSS = {"outcome": "loss", "exit_reason": "stop", "net_return": -0.01, "r_multiple": -1.0, "pnl_usd": -1.0}


def trades(wins: int, losses: int) -> pd.DataFrame:
    return outcomes([outcome(i) if i < wins else outcome(i, **LOSS) for i in range(wins + losses)])


def test_win_rate_12_of_20_has_wilsons_interval():
    found = summary(trades(12, 8))
    figure = found.figure("win_rate")
    assert (figure.value, figure.n) == (0.6, 20)
    assert (figure.lower, figure.upper) == pytest.approx(wilson(12, 20))
    assert (found.closed, found.wins, found.losses, found.breakevens, found.open) == (20, 12, 8, 0, 0)


def test_lesson_22_every_figure_shows_n_and_an_interval_around_it():
    for figure in summary(trades(12, 8)).figures:
        assert figure.n == 20, figure.name
        assert figure.n_eff == pytest.approx(20), figure.name
        assert figure.lower <= figure.value <= figure.upper, figure.name
        assert figure.name == "hold_minutes" or figure.lower < figure.upper, figure.name


def test_lesson_22_no_verdict_below_the_minimum_n():
    assert summary(trades(29, 0)).verdict == "too few"
    assert summary(trades(27, 13)).verdict == "indistinguishable from zero"
    assert summary(trades(60, 10)).verdict == "profitable"
    assert summary(trades(10, 60)).verdict == "losing"
    together = trades(60, 10).assign(
        entry_time=trades(1, 0)["entry_time"].iloc[0], exit_time=trades(1, 0)["exit_time"].iloc[0]
    )
    assert summary(together).verdict == "too few"  # seventy trades of the same minutes are one


def test_lesson_22_in_plain_text_every_line_has_its_n_and_interval_and_missing_is_a_dash():
    lines = str(summary(trades(12, 8))).splitlines()
    assert lines[0] == "v7 live paper: 20 closed (12 won, 8 lost, 0 even), 0 open"
    assert "60.0 %   95 % in 38.7 % … 78.1 %   n = 20" in lines[1]
    assert all("95 % in" in line and "n = 20" in line for line in lines[1:-1])
    assert lines[-1] == "verdict: too few outcomes for a verdict (fewer than 30 independent ones)"
    assert "–   95 % in – … –   n = 0" in str(summary(outcomes([])))


def test_breakevens_and_open_trades_are_counted_apart():
    frame = pd.concat(
        [
            trades(3, 1),
            outcomes(
                [
                    outcome(
                        5,
                        outcome="breakeven",
                        exit_reason="time",
                        net_return=0.0,
                        r_multiple=0.0,
                        pnl_usd=0.0,
                    ),
                    outcome(
                        6,
                        outcome="open",
                        exit_time=pd.NaT,
                        net_return=np.nan,
                        r_multiple=np.nan,
                        pnl_usd=np.nan,
                    ),
                ]
            ),
        ],
        ignore_index=True,
    )
    found = summary(frame)
    assert (found.closed, found.open, found.breakevens) == (5, 1, 1)
    assert found.figure("win_rate").n == 4
    assert found.figure("mean_r").n == 5
    assert found.figure("total_pnl").value == pytest.approx(3 * 0.9 - 1.0)
    assert found.figure("time_share").value == pytest.approx(0.2)
    assert found.figure("hold_minutes").value == pytest.approx(6)  # the exit's minute is part of the trade


def test_lesson_21_mixed_sources_and_strategies_are_refused():
    with pytest.raises(ValueError, match="demo, live"):
        summary(outcomes([outcome(0), outcome(1, source="demo")]))
    with pytest.raises(ValueError, match="v6, v7"):
        summary(outcomes([outcome(0), outcome(1, strategy="v6")]))


def test_kinds_are_never_mixed():
    frame = outcomes(
        [
            outcome(0),
            outcome(1, kind="shadow", pnl_usd=None, **{k: v for k, v in LOSS.items() if k != "pnl_usd"}),
        ]
    )
    assert (summary(frame).wins, summary(frame).losses) == (1, 0)
    shadow = summary(frame, kind="shadow")
    assert (shadow.wins, shadow.losses) == (0, 1)
    assert shadow.figure("total_pnl").n == 0
    assert np.isnan(shadow.figure("total_pnl").value)


def test_without_outcomes_every_figure_is_missing_rather_than_zero():
    found = summary(outcomes([]))
    assert found.verdict == "too few"
    assert found.source is None
    for figure in found.figures:
        assert np.isnan([figure.value, figure.lower, figure.upper]).all(), figure.name
        assert figure.n == 0
    assert dataclasses.asdict(found)["kind"] == "paper"
