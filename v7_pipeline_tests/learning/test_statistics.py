"""The statistics against published and reference values, and their invariants."""

from __future__ import annotations

from itertools import permutations
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

from v7_pipeline.learning.statistics import (
    average_uniqueness,
    benjamini_hochberg,
    correlation_interval,
    effective_n,
    empirical_bayes_shrinkage,
    halved,
    holm,
    mean_interval,
    shapley,
    wilson,
)

BH_1995 = [
    0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
    0.7590, 1.0,
]  # fmt: skip


def test_wilson_12_of_20_is_the_reference_value():
    assert wilson(12, 20) == pytest.approx((0.386582, 0.781193), abs=5e-7)


@given(st.floats(0.1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_wilson_is_statsmodels_for_fractional_counts_too(n, share, level):
    theirs = proportion_confint(n * share, n, alpha=1 - level, method="wilson")
    assert wilson(n * share, n, level) == pytest.approx(theirs, abs=1e-9)


def test_wilson_of_nothing_is_missing_and_of_the_impossible_refused():
    assert all(np.isnan(wilson(0, 0)))
    with pytest.raises(ValueError, match="21 successes of 20"):
        wilson(21, 20)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_wilson_holds_the_share_and_mirrors(case):
    k, n = case
    low, high = wilson(k, n)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_benjamini_hochberg_1995_example_rejects_4_bonferroni_3_holm_3():
    p = np.array(BH_1995)
    assert (benjamini_hochberg(p) <= 0.05).sum() == 4
    assert (p * len(p) <= 0.05).sum() == 3
    assert (holm(p) <= 0.05).sum() == 3


p_lists = st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=1, max_size=12)


@given(p_lists)
@settings(max_examples=40, deadline=None)
def test_adjusted_p_values_are_statsmodels(p):
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1], abs=1e-12)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


def test_of_ten_fair_coins_one_shows_14_of_20_in_0_448_of_cases_and_holm_names_one_in_under_0_05():
    assert 1 - binom.cdf(13, 20, 0.5) ** 10 == pytest.approx(0.448, abs=5e-4)
    # Holm names one where the least p, times ten, is at most 5 %: 17 heads (p = .0013), not 16 (.0059).
    p = binom.sf(np.arange(20), 20, 0.5)  # of at least 1 … 20 heads
    named = [heads for heads, one in enumerate(p, 1) if holm([one, *[1.0] * 9])[0] <= 0.05]
    assert named[0] == 17
    assert 1 - binom.cdf(16, 20, 0.5) ** 10 == pytest.approx(0.0128, abs=5e-5)


def test_to_show_55_against_50_takes_616_and_of_ten_theories_1_165_as_the_documentation_says():
    """One-sided 5 %, power 80 %, each rate's own variance; in whole outcomes 617 and 1,166 reach the power."""
    needed = [normal_sample_size_one_tail(0.05, 0.8, alpha, 0.5, sqrt(0.55 * 0.45)) for alpha in (0.05, 0.005)]
    assert [round(n) for n in needed] == [616, 1165]
    docs = Path(__file__).parents[2] / "docs"
    told = " ".join((docs / "attribution.md").read_text(encoding="utf-8").split())
    assert "55 % against 50 % takes 616 independent outcomes to show with 80 % power, 1,165 if ten theories" in told
    told = " ".join((docs / "learning.md").read_text(encoding="utf-8").split())
    assert "to tell 55 from 50 % takes 616 trades" in told


def _by_definition(p: list[float], level: float) -> tuple[int, int]:
    """Rejections of Benjamini–Hochberg's step-up and Holm's step-down, each counted from its definition."""
    ordered, m = sorted(p), len(p)
    up = max((i + 1 for i in range(m) if ordered[i] <= level * (i + 1) / m), default=0)
    down = next((i for i in range(m) if ordered[i] > level / (m - i)), m)
    return up, down


@given(p_lists, st.sampled_from([0.051, 0.203]))
@settings(max_examples=80, deadline=None)
def test_adjusted_p_values_reject_what_the_definitions_reject(p, level):
    up, down = _by_definition(p, level)
    assert (benjamini_hochberg(p) <= level).sum() == up
    assert (holm(p) <= level).sum() == down


def test_adjusted_p_values_come_back_in_the_order_given():
    assert benjamini_hochberg([0.04, 0.01, 0.9]).argmin() == 1
    assert holm([0.04, 0.01, 0.9]).argmin() == 1
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, float("nan")])


def test_empirical_bayes_example_has_no_between_variance_and_shrinks_all_to_0_525():
    shrunk = empirical_bayes_shrinkage([8, 14, 11, 10, 9, 12, 13, 7, 10, 11], [20] * 10)
    assert shrunk.between_variance == 0
    assert shrunk.rates == pytest.approx([0.525] * 10)


def test_empirical_bayes_keeps_what_chance_cannot_explain_and_its_order():
    shrunk = empirical_bayes_shrinkage([900, 500, 500, 0], [1000, 1000, 1000, 0])
    assert shrunk.between_variance == pytest.approx(
        np.var([0.9, 0.5, 0.5], ddof=1) - shrunk.pooled * (1 - shrunk.pooled) / 1000
    )
    assert 0.85 < shrunk.rates[0] < 0.9
    assert 0.5 < shrunk.rates[1] == shrunk.rates[2]
    assert np.isnan(shrunk.rates[3])


def test_effective_n_counts_overlap_once():
    assert effective_n([0, 10, 20], [10, 20, 30]) == pytest.approx(3)
    assert effective_n([5, 5, 5, 5], [9, 9, 9, 9]) == pytest.approx(1)
    # [0, 10) alone for half of its length; [5, 10) shared throughout
    assert average_uniqueness([0, 5], [10, 10]) == pytest.approx([0.75, 0.5])
    assert effective_n([], []) == 0
    with pytest.raises(ValueError, match="end after it starts"):
        average_uniqueness([3], [3])


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_uniqueness_is_the_mean_of_one_over_concurrency_minute_by_minute(spans):
    start = np.array([a for a, _ in spans])
    end = start + np.array([d for _, d in spans])
    minutes = np.arange(100)
    inside = (minutes >= start[:, None]) & (minutes < end[:, None])
    concurrency = np.maximum(inside.sum(axis=0), 1)
    expected = (inside / concurrency).sum(axis=1) / inside.sum(axis=1)
    assert average_uniqueness(start, end) == pytest.approx(expected)


def _game(players: int, worth):
    return [worth([i for i in range(players) if c >> i & 1]) for c in range(1 << players)]


def test_shapley_of_the_glove_game_is_1_6_1_6_2_3():
    game = _game(3, lambda s: min(sum(i < 2 for i in s), sum(i == 2 for i in s)))
    assert shapley(game) == pytest.approx([1 / 6, 1 / 6, 2 / 3])


def test_shapley_of_the_airport_game_is_1_3_5_6_11_6():
    assert shapley(_game(3, lambda s: max((i + 1 for i in s), default=0))) == pytest.approx([1 / 3, 5 / 6, 11 / 6])


def test_shapley_of_the_weighted_majority_5_4_2_1_is_2_3_1_6_1_6():
    assert shapley(_game(3, lambda s: float(sum((4, 2, 1)[i] for i in s) >= 5))) == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_ten_theories_are_1_024_coalitions_and_exact():
    """The airport game of ten: whoever needs a metre pays its share with all who need it, too."""
    game = _game(10, lambda s: max((i + 1 for i in s), default=0))
    assert len(game) == 1024
    expected = np.cumsum([1 / (10 - i) for i in range(10)])
    assert shapley(game) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(-10, 10), min_size=16, max_size=16))
@settings(max_examples=40, deadline=None)
def test_shapley_is_the_mean_marginal_gain_over_all_orders(worth):
    expected = np.zeros(4)
    for order in permutations(range(4)):
        members = 0
        for player in order:
            expected[player] += worth[members | 1 << player] - worth[members]
            members |= 1 << player
    assert shapley(worth) == pytest.approx(expected / 24, abs=1e-9)


def test_shapley_refuses_a_number_of_coalitions_that_no_game_has():
    with pytest.raises(ValueError, match="6 coalition values"):
        shapley([0] * 6)


def test_mean_interval_is_students_and_widens_where_trades_overlap():
    # t(0.975, 4) = 2.776445; sd of 1 … 5 = 1.581139
    half = 2.776445 * 1.581139 / np.sqrt(5)
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    low, high = mean_interval([1, 2, 3, 4, 5], n_eff=2.5)
    assert high - low > 2 * half
    assert all(np.isnan(mean_interval([1.0])))


def test_correlation_interval_is_fishers_with_bonett_and_wrights_variance():
    se = np.sqrt((1 + 0.3**2 / 2) / (103 - 3))
    expected = np.tanh(np.arctanh(0.3) + np.array([-1, 1]) * 1.959964 * se)
    assert correlation_interval(0.3, 103) == pytest.approx(expected, abs=1e-6)
    assert all(np.isnan(correlation_interval(0.3, 3)))


def test_halved_weights_age_by_evidence_and_not_by_order():
    assert halved([1, 1, 1], [0, 10, 99], 1) == pytest.approx([0.25, 0.5, 1])
    assert halved([0.5, 1, 0.5], [7, 9, 7], 2) == pytest.approx([0.5 * 2**-0.5, 1, 0.5 * 2**-0.5])
    assert halved([], [], 5).tolist() == []
    with pytest.raises(ValueError, match="half-life of 0"):
        halved([1], [1], 0)
