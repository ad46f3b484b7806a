"""Probabilistic and deflated Sharpe ratios and the minimum track record against the papers' values."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.learning.sharpe import (
    Sharpe,
    deflated_sharpe,
    expected_maximum,
    minimum_track_record,
    probabilistic_sharpe,
)

# Bailey & López de Prado 2012: two years of months of a hedge fund index.
FUND = Sharpe(1.585 / sqrt(12), 24, -2.448, 10.164)
# Bailey & López de Prado 2014: five years of days of the best of many trials, whose annual ratios vary by ½.
BEST = Sharpe(2.5 / sqrt(250), 1250, -3, 10)
BETWEEN = 0.5 / 250


def test_psr_of_the_papers_fund_is_0_913234_and_0_981591_were_it_normal() -> None:
    assert probabilistic_sharpe(FUND) == pytest.approx(0.913234, abs=5e-7)
    assert probabilistic_sharpe(Sharpe(FUND.ratio, 24)) == pytest.approx(0.981591, abs=5e-7)


def test_the_greatest_of_n_normals_has_the_reference_values() -> None:
    expected = {10: 1.574598, 45: 2.235640, 100: 2.530603, 1000: 3.255122}
    assert {n: expected_maximum(n) for n in expected} == pytest.approx(expected, abs=5e-7)
    assert expected_maximum(1) == 0
    with pytest.raises(ValueError, match="0 trials"):
        expected_maximum(0)


def test_the_greatest_of_100_normals_is_near_what_draws_say() -> None:
    drawn = np.random.default_rng(1).standard_normal((20_000, 100)).max(axis=1).mean()
    assert expected_maximum(100) == pytest.approx(drawn, rel=0.02)


def test_dsr_of_the_papers_example_is_0_900397_of_100_trials_and_0_950502_of_46() -> None:
    assert sqrt(BETWEEN) * expected_maximum(100) == pytest.approx(0.113172, abs=5e-7)
    assert deflated_sharpe(BEST, trials=100, variance=BETWEEN) == pytest.approx(0.900397, abs=5e-7)
    assert deflated_sharpe(BEST, trials=46, variance=BETWEEN) == pytest.approx(0.950502, abs=5e-7)
    assert deflated_sharpe(BEST, trials=1, variance=BETWEEN) == probabilistic_sharpe(BEST)
    with pytest.raises(ValueError, match="variance of -1"):
        deflated_sharpe(BEST, trials=2, variance=-1)


def test_the_two_mistakes_of_other_libraries_are_not_ours() -> None:
    """vectorbt ≤ 1.1.0: excess kurtosis in DSR, 0.9018. QuantStats ≤ 0.0.81: 3 taken off twice in PSR, 0.9198."""
    with pytest.raises(ValueError, match="not the excess"):  # 7 with skewness −3: no returns have that
        Sharpe(BEST.ratio, BEST.n, BEST.skew, BEST.kurtosis - 3)
    assert deflated_sharpe(BEST, trials=100, variance=BETWEEN) != pytest.approx(0.9018, abs=5e-4)
    # This excess could be a kurtosis, so that only the caller can know: the mistake gives what QuantStats gave.
    mistaken = Sharpe(FUND.ratio, FUND.n, FUND.skew, FUND.kurtosis - 3)
    assert probabilistic_sharpe(mistaken) == pytest.approx(0.9198, abs=5e-5)
    with pytest.raises(ValueError, match="3 for a normal"):
        Sharpe(0.1, 100, 0.0, 0.0)


@pytest.mark.parametrize(("periods", "years"), [(250, 2.7312), (52, 2.8288), (12, 3.2398)])
def test_min_trl_of_2_against_1_a_year_has_the_papers_values(periods: int, years: float) -> None:
    found = Sharpe(2 / sqrt(periods), 100)
    assert minimum_track_record(found, 1 / sqrt(periods)) / periods == pytest.approx(years, abs=5e-5)


def test_min_trl_of_a_skewed_monthly_3_against_2_5_is_27_3529_years() -> None:
    found = Sharpe(3 / sqrt(12), 100, -0.72, 5.78)
    assert minimum_track_record(found, 2.5 / sqrt(12)) / 12 == pytest.approx(27.3529, abs=5e-5)


@given(
    st.floats(-1, 1), st.integers(2, 5000), st.floats(-3, 3), st.floats(0, 20), st.floats(-1, 1), st.floats(0.6, 0.99)
)
@settings(max_examples=60, deadline=None)
def test_psr_reaches_the_level_at_the_minimum_track_record(
    ratio: float, n: int, skew: float, more: float, benchmark: float, level: float
) -> None:
    found = Sharpe(ratio, n, skew, skew**2 + 1 + more)
    needed = minimum_track_record(found, benchmark, level)
    if ratio <= benchmark:
        assert needed == inf
    elif abs(n - needed) > 1e-6 * needed:
        assert (probabilistic_sharpe(found, benchmark) >= level) == (n >= needed)


def test_the_moments_of_returns_are_scipys_with_kurtosis_3_for_a_normal() -> None:
    from scipy.stats import kurtosis, skew

    x = np.random.default_rng(2).standard_t(5, 400) * 0.01 + 0.001
    found = Sharpe.of(x)
    assert found.ratio == pytest.approx(x.mean() / x.std(ddof=1))
    assert (found.skew, found.kurtosis) == pytest.approx((skew(x), kurtosis(x, fisher=False)))
    assert found.n == 400
    assert Sharpe.of(np.random.default_rng(3).standard_normal(100_000)).kurtosis == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("returns", [[0.01], [0.01, 0.01, 0.01], [0.01, np.nan, 0.02], [[0.1], [0.2]]])
def test_returns_without_a_sharpe_ratio_are_refused(returns: list[float]) -> None:
    with pytest.raises(ValueError, match="Sharpe ratio"):
        Sharpe.of(returns)


def test_of_worthless_strategies_few_pass_psr_and_the_best_of_many_does_not_pass_dsr() -> None:
    """200 times the best of 50 strategies without an edge: PSR believes nearly all, DSR at most about one in twenty."""
    rng = np.random.default_rng(4)
    believed, deflated = 0, 0
    for _ in range(200):
        trials = [Sharpe.of(row) for row in rng.standard_normal((50, 250))]
        best = max(trials, key=lambda one: one.ratio)
        variance = float(np.var([one.ratio for one in trials], ddof=1))
        believed += probabilistic_sharpe(best) > 0.95
        deflated += deflated_sharpe(best, trials=50, variance=variance) > 0.95
    assert believed > 150 and deflated <= 10


def test_a_level_that_is_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match="95 % is"):
        minimum_track_record(FUND, level=95)
