"""Published and reproduced reference values of the theories' definitions, each by name."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.theories import compute_features
from v7_pipeline.theories.fractal_dimension import madogram
from v7_pipeline.theories.hurst_exponent import anis_lloyd, block_sizes, dfa, rescaled_range
from v7_pipeline.theories.kalman_filter import local_level_gain, steady_state_gains
from v7_pipeline.theories.kolmogorov_complexity import expected_phrases, lempel_ziv
from v7_pipeline.theories.market_regime import DRIFT, STAY, filter_probabilities
from v7_pipeline.theories.monte_carlo import HORIZON, REWARD, STOP, first_passage, shrunk_drift
from v7_pipeline.theories.risk_metrics import expected_shortfall, max_drawdown, value_at_risk
from v7_pipeline.theories.shannon_entropy import entropy
from v7_pipeline_tests.shared_data import needs_shared
from v7_pipeline_tests.theories.oracles import lempel_ziv_by_definition, permutation_entropy
from v7_pipeline_tests.theories.paths import fractional_noise, grid_of, walk


@pytest.mark.parametrize(
    ("n", "expected"),
    [(4, 1.6547), (8, 2.6246), (10, 3.0233), (16, 4.0355), (32, 6.0655), (64, 8.9656), (128, 13.0907), (240, 18.3080)],
)
def test_anis_lloyd_expectation(n: int, expected: float) -> None:
    assert anis_lloyd(n) == pytest.approx(expected, abs=5e-5)


def test_anis_lloyd_survives_where_gamma_overflows() -> None:
    assert 20 < anis_lloyd(343) < anis_lloyd(5000) < 100


def test_block_sizes_are_dyadic_around_a_quarter_of_the_window() -> None:
    assert [block_sizes(w)[-1] for w in (120, 240, 1440)] == [32, 64, 256]
    with pytest.raises(ValueError, match="too short"):
        block_sizes(40)


@pytest.mark.parametrize(
    ("hurst", "rs", "fluctuation", "dimension"),
    [
        (0.3, (0.358, 0.041), (0.315, 0.050), (1.699, 0.048)),
        (0.5, (0.498, 0.052), (0.507, 0.070), (1.500, 0.051)),
        (0.7, (0.626, 0.058), (0.700, 0.090), (1.308, 0.057)),
    ],
)
def test_exponents_of_fractional_noise(
    hurst: float, rs: tuple[float, float], fluctuation: tuple[float, float], dimension: tuple[float, float]
) -> None:
    rng = np.random.default_rng(7)
    noises = [fractional_noise(rng, hurst, 240) for _ in range(800)]
    paths = [np.concatenate([[0.0], np.cumsum(x)]) for x in noises]
    found = (
        ([rescaled_range(x) for x in noises], rs),
        ([dfa(x) for x in noises], fluctuation),
        ([madogram(path) for path in paths], dimension),
    )
    for values, (mean, sd) in found:
        # Standard errors of 800 windows: below .0033 (mean) and 2.5 % (deviation); the reference had few of them too.
        assert np.mean(values) == pytest.approx(mean, abs=0.01)
        assert np.std(values) == pytest.approx(sd, rel=0.15)


def test_uncorrected_rescaled_range_of_noise_is_a_permanent_trend() -> None:
    log_sizes = np.log(block_sizes(240))
    bias = np.polyfit(log_sizes, np.log([anis_lloyd(n) for n in block_sizes(240)]), 1)[0] - 0.5
    rng = np.random.default_rng(19)
    corrected = np.mean([rescaled_range(rng.standard_normal(240)) for _ in range(1500)])
    assert corrected + bias == pytest.approx(0.595, abs=0.01)
    assert corrected == pytest.approx(0.498, abs=0.01)


def test_brown72_has_the_exponent_it_is_named_after() -> None:
    # 1,024 values with H = .72 (as increments). R/S reads .67 there, as it does on fractional noise of .7.
    values = np.load(needs_shared("reference/brown72.npy"))
    assert dfa(values) == pytest.approx(0.72, abs=0.05)
    assert rescaled_range(values) == pytest.approx(0.72, abs=0.07)


def test_dfa_and_rescaled_range_have_no_unit() -> None:
    x = np.random.default_rng(1).standard_normal(240)
    assert dfa(1e-4 * x) == pytest.approx(dfa(x), abs=1e-12)
    assert rescaled_range(1e-4 * x) == pytest.approx(rescaled_range(x), abs=1e-12)


@pytest.mark.parametrize(
    ("bits", "phrases"), [("0001101001000101", 6), ("1001111011000010", 6), ("0" * 240, 2), ("01" * 120, 3)]
)
def test_lempel_ziv_phrases(bits: str, phrases: int) -> None:
    assert lempel_ziv([int(bit) for bit in bits]) == phrases == lempel_ziv_by_definition(bits)


def test_lempel_ziv_equals_its_definition_on_every_short_string() -> None:
    for n in range(1, 15):
        for bits in itertools.product((0, 1), repeat=n):
            assert lempel_ziv(bits) == lempel_ziv_by_definition("".join(map(str, bits)))


@pytest.mark.parametrize("ones", [0.5, 0.2, 0.02])  # rare ones: matches longer than a machine word
def test_lempel_ziv_equals_its_definition_on_long_windows(ones: float) -> None:
    rng = np.random.default_rng(3)
    for n in (33, 64, 65, 240, 1440):
        for _ in range(8):
            bits = (rng.random(n) < ones).astype(int)
            bits = np.where(rng.random() < 0.5, bits, np.tile(bits[: 1 + n // 5], 6)[:n])  # some repeat themselves
            assert lempel_ziv(bits) == lempel_ziv_by_definition("".join(map(str, bits)))


@pytest.mark.parametrize(
    ("n", "expected", "sd"),
    [
        (60, 12.531, None), (120, 20.288, 1.113), (240, 33.989, 1.293), (360, 46.584, None), (480, 58.555, None),
        (720, 81.329, None), (960, 103.079, None), (1440, 144.662, 2.044), (2880, 261.066, None),
    ],
)  # fmt: skip
def test_coin_expectation_of_lempel_ziv(n: int, expected: float, sd: float | None) -> None:
    assert expected_phrases(n) == pytest.approx(expected, abs=1e-9)
    rng = np.random.default_rng(11)
    tosses = 300_000 // n
    counts = [lempel_ziv(rng.integers(0, 2, n)) for _ in range(tosses)]
    assert np.mean(counts) == pytest.approx(expected, abs=4 * np.std(counts) / math.sqrt(tosses))
    if sd is not None:
        assert np.std(counts) == pytest.approx(sd, rel=3.5 / math.sqrt(2 * tosses))


def test_n_over_log_n_is_no_upper_bound_of_lempel_ziv() -> None:
    assert expected_phrases(240) / (240 / math.log2(240)) == pytest.approx(1.12, abs=0.005)


def test_entropy_is_miller_madow_over_the_maximum() -> None:
    assert entropy([0] * 50, 8) == 0.0
    assert entropy(list(range(8)) * 30, 8) == pytest.approx((math.log(8) + 7 / 480) / math.log(8))
    counts = np.array([5, 3, 2])
    plain = -np.sum(counts / 10 * np.log(counts / 10))
    assert entropy([0] * 5 + [1] * 3 + [4] * 2, 8) == pytest.approx((plain + 2 / 20) / math.log(8))


@pytest.mark.parametrize(
    ("tracking_index", "alpha", "beta"), [(0.05, 0.270867119, 0.042694639), (0.2, 0.467328045, 0.145968758)]
)
def test_local_linear_trend_gains(tracking_index: float, alpha: float, beta: float) -> None:
    assert steady_state_gains(tracking_index) == pytest.approx((alpha, beta), abs=1e-9)
    # The Riccati recursion of the same model converges to them.
    f = np.array([[1.0, 1.0], [0.0, 1.0]])
    noise = tracking_index**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
    p = np.eye(2)
    for _ in range(5000):
        p = f @ p @ f.T + noise
        gain = p[:, 0] / (p[0, 0] + 1)
        p = p - np.outer(gain, p[0])
    assert gain == pytest.approx((alpha, beta), abs=1e-8)


def test_nile_flow_has_the_published_variances_and_our_gain() -> None:
    # Durbin & Koopman (2012): observation 15,099, level 1,469.1.
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    flow = np.loadtxt(needs_shared("reference/nile.csv"), delimiter=",", skiprows=1)[:, 1]
    model = UnobservedComponents(flow, "local level", use_exact_diffuse=True)
    assert model.fit(disp=False, method="nm", maxiter=1000).params == pytest.approx([15_099, 1_469.1], rel=0.001)
    filtered = model.filter([15_099, 1_469.1])
    gain = local_level_gain(1_469.1 / 15_099)
    assert filtered.filter_results.kalman_gain[0, 0, -1] == pytest.approx(gain, abs=1e-9)
    level = filtered.filtered_state[0]
    ours = level[40]
    for value, theirs in zip(flow[41:], level[41:], strict=True):
        ours += gain * (value - ours)
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    ("q", "gain"), [(1, 0.6180339887), (0.1, 0.2701562119), (0.01, 0.0951249220), (0.001, 0.0311267292)]
)
def test_local_level_gain(q: float, gain: float) -> None:
    assert local_level_gain(q) == pytest.approx(gain, abs=5e-11)


@pytest.mark.parametrize(
    ("mu", "up", "down", "horizon", "expected"),
    [
        (0, 1, 1, 1, 0.3146),
        (0, 1, 1, 5, 0.4987),
        (0.5, 1, 2, 3, 0.8114),
        (-0.3, 2, 1, 4, 0.1368),
        (0, 2, 1, 50, 0.3333),
    ],
)
def test_first_passage(mu: float, up: float, down: float, horizon: float, expected: float) -> None:
    assert first_passage(mu, up, down, horizon)[0] == pytest.approx(expected, abs=5e-5)


def test_a_thousand_bootstrap_paths_are_off_by_a_sixty_seventh() -> None:
    rng = np.random.default_rng(13)
    estimates = []
    for _ in range(120):
        paths = np.cumsum(rng.standard_normal((1000, 40)) * math.sqrt(1 / 40), axis=1)
        up, down = paths >= 1.0, paths <= -1.0
        estimates.append(np.mean(np.where(up.any(1), up.argmax(1), 99) < np.where(down.any(1), down.argmax(1), 99)))
    assert np.std(estimates) == pytest.approx(0.015, abs=0.003)
    # Watched at 40 instants only: the closed form with its shift.
    assert np.mean(estimates) == pytest.approx(first_passage(0, 1, 1, 1, step=1 / 40)[0], abs=0.006)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-40, 40), st.floats(0.01, 300), st.floats(0.01, 300), st.floats(0.01, 500)
)  # far beyond any plan: a flat last hour makes a usual stop hundreds of volatilities wide
def test_first_passage_is_a_distribution_and_mirrors(mu: float, up: float, down: float, horizon: float) -> None:
    above, below, neither = first_passage(mu, up, down, horizon)
    assert min(above, below, neither) >= 0 and above + below + neither == pytest.approx(1, abs=1e-12)
    assert first_passage(-mu, down, up, horizon)[:2] == pytest.approx((below, above), abs=1e-9)


@pytest.mark.parametrize("mu", [0.0, 0.4, -1.5])
def test_first_passage_images_and_eigenfunctions_agree_where_they_meet(mu: float) -> None:
    width = 3.0
    meeting = 0.3 * width**2
    early, late = (first_passage(mu, 1.0, 2.0, meeting * (1 + e)) for e in (-1e-9, 1e-9))
    assert early == pytest.approx(late, abs=1e-7)


@pytest.mark.parametrize("day", [0.4, 1.0, 1.7, 3.0])  # volatility of the day ÷ that of its last four hours
def test_the_plans_table_is_within_its_error_of_the_closed_form(day: float) -> None:
    rng = np.random.default_rng(int(10 * day))
    steps = 1e-4 * (rng.standard_normal(9000) + 0.15 * np.sin(np.arange(9000) / 400))
    phase = np.arange(9000) % 1440
    close = 100 * np.exp(np.cumsum(np.where(phase < 1100, day * steps, steps)))
    rows = compute_features(grid_of(close)).iloc[1440:]
    returns = pd.Series(np.diff(np.log(close), prepend=np.log(close[0])))
    scale = {w: math.sqrt(math.pi / 2) * returns.abs().rolling(w).mean().to_numpy() for w in (240, 1440)}
    z = rows["momentum_1440"].to_numpy()
    drift = np.abs(shrunk_drift(returns.rolling(1440).sum().to_numpy()[rows.index] / 1440, z))
    for i in range(0, len(rows), 97):
        s, d = scale[240][rows.index[i]], scale[1440][rows.index[i]]
        stop = STOP * math.sqrt(HORIZON) * d / s
        target, stopped, neither = first_passage(drift[i] / s, REWARD * stop, stop, HORIZON)
        opposite = first_passage(-drift[i] / s, REWARD * stop, stop, HORIZON)[0]
        row = rows.iloc[i]
        assert (row["p_target"], row["p_stop"], row["p_neither"]) == pytest.approx((target, stopped, neither), abs=5e-5)
        assert row["monte_carlo_score"] == pytest.approx((target - opposite) / (target + opposite), abs=1e-9)


def test_first_passage_watched_at_closes_matches_a_simulated_walk() -> None:
    rng = np.random.default_rng(5)
    paths = np.cumsum(rng.standard_normal((40_000, 50)) * math.sqrt(1 / 50), axis=1)
    up, down = paths >= 1.0, paths <= -0.7
    first_up = np.where(up.any(1), up.argmax(1), 99)
    first_down = np.where(down.any(1), down.argmax(1), 99)
    simulated = np.mean(first_up < first_down), np.mean(first_down < first_up)
    assert first_passage(0, 1.0, 0.7, 1.0, step=1 / 50)[:2] == pytest.approx(simulated, abs=0.01)
    assert first_passage(0, 1.0, 0.7, 1.0)[0] > simulated[0] + 0.02  # without the shift it is off


def test_drift_within_a_standard_error_is_shrunk_to_nothing() -> None:
    shrunk = shrunk_drift(np.array([1.0, 1.0, -1.0, 1.0]), np.array([0.9, 2.0, -2.0, 0.0]))
    assert shrunk.tolist() == [0.0, 0.75, -0.75, 0.0]


def test_madogram_of_a_straight_line() -> None:
    assert madogram(np.arange(241.0)) == pytest.approx(1.0, abs=1e-12)


def test_madogram_of_white_noise_fills_the_plane() -> None:
    rng = np.random.default_rng(2)
    assert np.mean([madogram(rng.standard_normal(241)) for _ in range(1000)]) == pytest.approx(2.0, abs=0.004)


@pytest.mark.parametrize(
    ("dimension", "expected"), [(1.8, 1.808), (1.65, 1.662), (1.5, 1.508), (1.35, 1.354), (1.2, 1.210)]
)
def test_madogram_of_weierstrass_functions(dimension: float, expected: float) -> None:
    frequencies = 5.0 ** np.arange(26)[:, None]
    times = np.linspace(0, 1, 4097)
    path = (frequencies ** (dimension - 2) * np.cos(np.pi * frequencies * times)).sum(0)
    assert madogram(path) == pytest.approx(expected, abs=0.001)


def test_regime_filter_equals_statsmodels() -> None:
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

    z = np.random.default_rng(4).standard_t(4, 400).clip(-6, 6)
    model = MarkovRegression(z, k_regimes=3, trend="c", switching_variance=False)
    move = (1 - STAY) / 2
    known = {"p[0->0]": STAY, "p[1->0]": move, "p[2->0]": move, "p[0->1]": move, "p[1->1]": STAY, "p[2->1]": move}
    known |= {"const[0]": -DRIFT, "const[1]": 0.0, "const[2]": DRIFT, "sigma2": 1.0}
    filtered = model.filter([known[name] for name in model.param_names]).filtered_marginal_probabilities
    assert filter_probabilities(z) == pytest.approx(np.asarray(filtered), abs=2e-15 * z.size)


def test_regime_filter_without_information_stays_stationary() -> None:
    assert filter_probabilities([np.nan] * 5) == pytest.approx(np.full((5, 3), 1 / 3))


def test_value_at_risk_and_shortfall_by_order_statistics() -> None:
    returns = np.arange(-60.0, 60.0)  # 120: 5 % are 6 returns, 1 % are 1.2
    np.random.default_rng(0).shuffle(returns)
    assert value_at_risk(returns) == 55.0
    assert expected_shortfall(returns) == pytest.approx(57.5)
    assert value_at_risk(returns, 0.99) == 59.0
    assert expected_shortfall(returns, 0.99) == pytest.approx((60 + 0.2 * 59) / 1.2)


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_shortfall_is_rockafellar_and_uryasevs_minimum(level: float) -> None:
    returns = np.random.default_rng(9).standard_t(3, 240)
    share = 1 - level
    minimum = min(c + np.maximum(-returns - c, 0).mean() / share for c in -returns)
    assert expected_shortfall(returns, level) == pytest.approx(minimum, rel=1e-9)


def test_drawdown_is_the_deepest_fall_from_a_running_peak() -> None:
    path = np.cumsum(np.random.default_rng(8).standard_normal(300))
    assert max_drawdown(path) == np.max(np.maximum.accumulate(path) - path)
    assert max_drawdown(np.arange(10.0)) == 0.0


@pytest.mark.parametrize(("order", "bits"), [(2, 0.9183), (3, 1.5219)])
def test_permutation_entropy_of_the_published_example(order: int, bits: float) -> None:
    import antropy

    series = np.array([4, 7, 9, 10, 6, 11, 3])
    assert antropy.perm_entropy(series, order=order) == pytest.approx(bits, abs=5e-5)
    assert permutation_entropy(series, order) == pytest.approx(bits, abs=5e-5)


@pytest.mark.parametrize(("returns_back", "mean_scale", "rms_scale"), [(False, 0.985, 0.66), (True, 0.950, 0.55)])
def test_one_outlier_of_fifty_deviations_leaves_the_entropy_alone(
    returns_back: bool, mean_scale: float, rms_scale: float
) -> None:
    # The reference's .96 with mean |r| and .60 with the root mean square lie between one odd return and one odd price.
    from scipy.stats import norm

    ours, theirs = [], []
    for seed in range(20):
        returns = np.random.default_rng(seed).standard_normal(900) * 1e-4
        returns[500] += 50e-4
        if returns_back:
            returns[501] -= 50e-4
        close = 100 * np.exp(np.cumsum(returns))
        ours.append(compute_features(grid_of(close), (240,))["entropy_240"].iloc[739])
        steps = pd.Series(np.diff(np.log(close)))
        z = (steps / np.sqrt((steps**2).rolling(240).mean().shift(1))).to_numpy()[499:739]
        theirs.append(entropy(np.minimum(8 * norm.cdf(z), 7).astype(int), 8))
    assert np.mean(ours) == pytest.approx(mean_scale, abs=0.01)
    assert np.mean(theirs) == pytest.approx(rms_scale, abs=0.03)


def test_annualised_sharpe_of_four_hours_of_noise_spreads_by_47() -> None:
    sharpe = compute_features(grid_of(walk(3, 100_000)), (240,))["sharpe_240"].iloc[240::240]
    assert sharpe.std() == pytest.approx(47, abs=5)
