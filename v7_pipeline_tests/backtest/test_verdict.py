"""What is concluded in words: nothing from too few, no praise of a short record, a plain word on each baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.backtest.comparison import Baseline
from v7_pipeline.backtest.figures import Figures, Material, _rival, _stopped, figures
from v7_pipeline.backtest.risk import Item
from v7_pipeline.backtest.verdict import verdict
from v7_pipeline_tests.backtest.worlds import baseline, candles_of, material_of, random_entry, simulation_of

DAYS = 30


def material_with(**changes: Any) -> Material:
    """Thirty days with an edge or a number of trades of their own."""
    sim = simulation_of(candles_of(DAYS), DAYS, **changes)
    return material_of(DAYS, sim=sim, readings=None, trials=None)


@pytest.fixture(scope="module")
def losing(found: Figures) -> Figures:
    return found


def against(found: Figures, *others: Baseline) -> Figures:
    """The same figures beside other baselines."""
    sim = found.material.simulation
    return replace(found, rivals=tuple(_rival(one, found.daily, sim) for one in others))


@pytest.fixture(scope="module")
def winning() -> Figures:
    return figures(material_with(edge=0.004))


def changed(found: Figures, **items: Item) -> Figures:
    """The same figures with some replaced by name."""
    sections = {
        title: tuple(items.get(item.name, item) for item in part) for title, part in found.sections.items()
    }  # fmt: skip
    return replace(found, sections=sections)


def test_lesson_22_below_the_minimum_n_there_is_no_verdict() -> None:
    told = verdict(figures(material_with(each=2000)))
    assert told.word == "none" and told.headline.startswith("No verdict: ")
    assert "fewer than 30 say nothing" in told.headline
    assert any("too few to conclude from" in line for line in told.lines)


def test_a_losing_strategy_is_said_to_lose(losing: Figures) -> None:
    told = verdict(losing)
    assert told.word in ("losing", "indistinguishable") and f"n = {losing.told.closed}" in told.headline
    assert "95 % in" in told.headline and "worth" in told.headline


def test_a_winning_one_is_profitable_only_after_the_minimum_track_record(winning: Figures) -> None:
    told = verdict(winning)
    assert told.word == "profitable" and "on this span" in told.headline
    needed = winning.item("min_trl")
    assert needed.value < len(winning.daily)
    short = verdict(changed(winning, min_trl=replace(needed, value=400.0)))
    assert short.word == "none" and "the record of 31 days is too short" in short.headline
    assert "400 days" in short.headline
    never = verdict(changed(winning, min_trl=replace(needed, value=float("nan"))))
    assert never.word == "none"


def test_each_baseline_gets_a_plain_word(losing: Figures, winning: Figures) -> None:
    told = {one.name: one.word for one in verdict(winning).standings}
    assert told["always HOLD"] == told["momentum only"] == "beats"
    sim = losing.material.simulation
    days = np.random.default_rng(1).permutation(losing.daily["net_return"])  # the same days in another order
    shuffled = baseline("noise", sim)
    others = (
        baseline("far ahead", sim, daily=0.05),
        replace(shuffled, name="noise", equity=shuffled.equity.assign(equity_usd=100_000 * np.cumprod(1 + days))),
        replace(baseline("young", sim), equity=baseline("young", sim).equity.head(5)),
    )
    standings = verdict(against(losing, *others)).standings
    assert [one.word for one in standings] == ["is beaten by", "cannot be told from", "too few days against"]
    assert standings[0].sentence.startswith("It is beaten by far ahead: -")
    assert (
        "It does not beat, nor is it beaten by, noise: " in standings[1].sentence
        and "5 days are too few" in standings[2].sentence.lower()
    )


def test_many_baselines_share_one_line(losing: Figures) -> None:
    sim = losing.material.simulation
    many = tuple(baseline(f"without {number}", sim, daily=0.05) for number in range(9))
    told = verdict(against(losing, *many))
    assert len(told.standings) == 9 and told.lines[6] == (
        "Of the others, it is beaten by without 6, without 7, without 8. "
        "Of 9 comparisons one in twenty looks sure by chance."
    )


@pytest.mark.parametrize(
    ("percentile", "says"),
    [(0.99, "better than chance"), (0.5, "cannot be told from chance"), (0.02, "worse than chance")],
)
def test_random_entry_is_named_by_its_percentile(losing: Figures, percentile: float, says: str) -> None:
    drawn = replace(random_entry(losing.material.simulation), percentile_mean_r=percentile)
    found = replace(losing, material=replace(losing.material, random_entry=drawn))
    line = next(line for line in verdict(found).lines if "random entries" in line)
    assert says in line and f"percentile {percentile * 100:.1f} of 1,000" in line
    without = replace(losing, material=replace(losing.material, random_entry=None))
    assert any("Random entry was not drawn" in line for line in verdict(without).lines)


def test_trials_demo_and_gates_that_are_off_are_said(losing: Figures, winning: Figures) -> None:
    assert any("one of 12 configurations tried" in line for line in verdict(losing).lines)
    assert any("No other configuration was recorded" in line for line in verdict(winning).lines)
    sim = losing.material.simulation
    off = replace(sim, gated=sim.gated.assign(gates_off="exposure"))
    demo = replace(losing, material=replace(losing.material, venues=("sandbox",), simulation=off))
    lines = verdict(demo).lines
    assert "GATES OFF: exposure." in lines and "nothing follows for a real market" in lines[-1]
    assert not any("simulated" in line for line in verdict(losing).lines)


def test_a_strategy_that_the_loss_limits_ended_is_said_to_have_ended(losing: Figures) -> None:
    sim = losing.material.simulation
    late = sim.gated["as_of"] > sim.instants[-1] - pd.Timedelta(days=10)
    gated = sim.gated.assign(
        accepted=sim.gated["accepted"] & ~late,
        reason_codes=sim.gated["reason_codes"].where(
            ~late | (sim.gated["side"] == "HOLD"), "FTMO_TOTAL_ROOM,FTMO_MARGIN"
        ),
    )
    last = sim.instants[-1].to_pydatetime()
    stopped, calm = _stopped(replace(sim, gated=gated), last), losing.item("stopped_days")
    assert 10 <= stopped.value < 11 and "FTMO_TOTAL_ROOM against" in stopped.note and calm.value == 0
    line = verdict(changed(losing, stopped_days=stopped)).lines
    assert any(text.startswith("The loss limits ended its trading: in the last 10.") for text in line)
    assert not any("loss limits ended" in text for text in verdict(losing).lines)
