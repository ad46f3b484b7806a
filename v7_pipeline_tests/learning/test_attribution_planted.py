"""Planted truth: attribution finds the theories that know something, and rarely names one that does not.

The level is 5 % over all ten. Two hundred runs are held to it as it stands (were it held exactly, chance alone would
name more than 10 in four of ten such tests, but seeds are fixed: a test passes or fails for good). Of the few runs of
the fast tests more than the bound would be named with probability under 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import pytest

from v7_pipeline.learning.attribution import attribution
from v7_pipeline_tests.learning.frames import EPOCH
from v7_pipeline_tests.learning.planted import planted_market

LATER = (EPOCH + timedelta(days=365)).to_pydatetime()
# Drift of a symbol's return, in its deviations a step, while the theory votes: it is then right some .13 more often.
TWO_KNOW = {2: 0.15, 6: 0.15}


def verdicts(runs: range, informed: Mapping[int, float], scans: int) -> np.ndarray:
    """1 (helps), −1 (hurts) or 0 for each run and theory."""
    found = []
    for seed in runs:
        rows = planted_market(seed, scans=scans, informed=informed)
        table = attribution(rows, as_of=LATER, min_effective_n=30, divided_by=(), permutations=299, resamples=1).rows
        found.append(table["verdict"].map({"helps": 1, "hurts": -1, "indistinguishable": 0}).to_numpy(int))
    return np.array(found)


def most_at_five_percent(n: int) -> int:
    """The least bound that n runs at 5 % exceed with probability under 1 %."""
    from scipy.stats import binom

    return int(binom.isf(0.01, n, 0.05))


def judge(found: np.ndarray, informed: Mapping[int, float], *, at_most: int, least_power: float = 0.0) -> None:
    others = [j for j in range(10) if j not in informed]
    named = int((found[:, others] != 0).any(axis=1).sum())
    power = (found[:, list(informed)] == 1).all(axis=1).mean() if informed else 1.0
    print(f"{len(found)} runs: those who know found in {power:.1%}, another named in {named}")
    assert named <= at_most
    assert power >= least_power


def test_the_two_that_know_are_found_and_rarely_another() -> None:
    judge(verdicts(range(9_000, 9_006), TWO_KNOW, 2000), TWO_KNOW, at_most=most_at_five_percent(6), least_power=0.6)


def test_on_noise_a_theory_is_rarely_named() -> None:
    judge(verdicts(range(9_000, 9_010), {}, 1500), {}, at_most=most_at_five_percent(10))


@pytest.mark.slow
def test_of_two_hundred_markets_the_two_that_know_are_found_in_four_fifths_and_others_named_in_a_twentieth() -> None:
    judge(verdicts(range(200), TWO_KNOW, 2600), TWO_KNOW, at_most=10, least_power=0.8)


@pytest.mark.slow
def test_of_two_hundred_markets_of_noise_a_twentieth_names_a_theory() -> None:
    judge(verdicts(range(200), {}, 1500), {}, at_most=10)


def test_a_simulated_market_is_what_it_says() -> None:
    rows = planted_market(1, scans=2000, informed=TWO_KNOW)
    one = rows[rows["theory_name"] == rows["theory_name"].iloc[0]]
    assert (one.groupby("symbol")["side"].nunique() == 3).all()
    returns = one[one["side"] == "HOLD"].pivot(index="entry_time", columns="symbol", values="long_r").dropna()
    assert returns.corr().to_numpy()[np.triu_indices(3, 1)].min() > 0.2  # symbols move together
    held = (one["exit_time"] - one["entry_time"]).mean()
    assert held > timedelta(minutes=60)  # labels of hours, from scans ten minutes apart
    noise = planted_market(1, scans=2000)
    noise = noise[noise["theory_name"] == noise["theory_name"].iloc[0]]
    wins = noise[noise["side"] != "HOLD"].groupby("side")["outcome"].apply(lambda words: (words == "win").mean())
    assert (wins < 0.49).all()  # reward:risk 1.5 loses more often than it wins
    both = noise.loc[noise["side"] == "HOLD", ["long_r", "short_r"]] > 0
    assert (both.mean() < 0.49).all() and abs(both.mean().diff().iloc[1]) < 0.1
    votes = one["vote"].to_numpy()
    assert set(np.unique(votes)) == {-1.0, 0.0, 1.0}
