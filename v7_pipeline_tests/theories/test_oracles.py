"""Readings of recorded candles agree with independent programs and with slow definitions."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.theories import compute_features
from v7_pipeline.theories.kalman_filter import TRACKING_INDEX, steady_state_gains
from v7_pipeline.theories.market_regime import DRIFT, STAY
from v7_pipeline.theories.monte_carlo import first_passage
from v7_pipeline_tests.theories.oracles import lempel_ziv_by_definition, permutation_entropy
from v7_pipeline_tests.theories.paths import recorded

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")


@cache
def _candles(symbol: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Six days of recorded closes and their readings; row i belongs to the close i."""
    grid = recorded(symbol, "2023-12-08", "2023-12-14")
    close = grid["close"].to_numpy()
    assert not np.isnan(close).any()
    readings = compute_features(grid, min_observed_share=0)
    assert len(readings) == len(close)
    return close, readings


def _rows(symbol: str, n: int) -> np.ndarray:
    close, _ = _candles(symbol)
    return np.random.default_rng(1).integers(2 * 1440, close.size, n)


@pytest.mark.parametrize(("symbol", "windows"), [("BTC-USD", 3400), ("ETH-USD", 3300), ("SOL-USD", 3300)])
def test_lempel_ziv_equals_its_definition_on_ten_thousand_recorded_windows(symbol: str, windows: int) -> None:
    close, readings = _candles(symbol)
    bits = "".join("1" if rise else "0" for rise in np.diff(close) > 0)
    for i, row in enumerate(_rows(symbol, windows)):
        w = 1440 if i % 30 == 0 else (120, 240)[i % 2]
        window = bits[row - w : row]
        assert readings[f"lz_phrases_{w}"].iat[row] == lempel_ziv_by_definition(window), (row, w)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_lempel_ziv_equals_antropy(symbol: str) -> None:
    import antropy

    close, readings = _candles(symbol)
    bits = (np.diff(close) > 0).astype(int)
    for row in _rows(symbol, 100):
        assert readings["lz_phrases_240"].iat[row] == antropy.lziv_complexity(bits[row - 240 : row], normalize=False)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_fractal_dimension_is_near_antropys_higuchi(symbol: str) -> None:
    # Higuchi: all lags up to k_max, and curve lengths; the madogram: dyadic lags up to 16. One family, not one number.
    import antropy

    close, readings = _candles(symbol)
    rows = _rows(symbol, 300)
    theirs = np.array([antropy.higuchi_fd(np.log(close[row - 240 : row + 1]), kmax=16) for row in rows])
    ours = readings["fractal_dimension_240"].to_numpy()[rows]
    assert np.corrcoef(ours, theirs)[0, 1] > 0.85
    assert np.abs(ours - theirs).mean() < 0.04
    assert abs((ours - theirs).mean()) < 0.03


@pytest.mark.parametrize("order", [2, 3, 4])
def test_permutation_entropy_of_recorded_closes_equals_antropy(order: int) -> None:
    import antropy

    close, _ = _candles("BTC-USD")
    for row in _rows("BTC-USD", 50):
        window = close[row - 240 : row + 1] + np.arange(241) * 1e-9  # no ties: their order is a convention
        assert permutation_entropy(window, order) == pytest.approx(antropy.perm_entropy(window, order=order), abs=1e-12)


@pytest.mark.parametrize("w", [120, 240, 1440])
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_risk_equals_empyrical_where_both_mean_the_same(symbol: str, w: int) -> None:
    import empyrical

    close, readings = _candles(symbol)
    for row in _rows(symbol, 25):
        prices = close[row - w : row + 1]
        logs, simple = np.diff(np.log(prices)), np.diff(prices) / prices[:-1]
        own = readings.iloc[row]
        minutes = {"period": None, "annualization": 525_600}
        assert own[f"volatility_{w}"] == pytest.approx(empyrical.annual_volatility(logs, **minutes) / 525_600**0.5)
        assert own[f"sharpe_{w}"] == pytest.approx(empyrical.sharpe_ratio(logs, **minutes), rel=1e-6, abs=1e-9)
        assert own[f"sortino_{w}"] == pytest.approx(empyrical.sortino_ratio(logs, **minutes), rel=1e-6, abs=1e-9)
        assert own[f"max_drawdown_{w}"] == pytest.approx(-np.log1p(empyrical.max_drawdown(simple)), abs=1e-12)
        # 5 % of W is whole: the mean of the same returns. Of 1 % it is not (but at 1440 nearly): theirs takes more.
        assert own[f"cvar_95_{w}"] == pytest.approx(-empyrical.conditional_value_at_risk(logs, 0.05), rel=1e-9)
        # Theirs interpolates linearly between two order statistics; ours is the lower one, numpy's inverted_cdf.
        for level, cutoff in ((95, 0.05), (99, 0.01)):
            value = own[f"var_{level}_{w}"]
            assert value == pytest.approx(-np.quantile(logs, cutoff, method="inverted_cdf"), rel=1e-9, abs=1e-15)
            smaller = -np.sort(logs)[int(cutoff * (w - 1)) + 1]
            assert smaller - 1e-12 <= -empyrical.value_at_risk(logs, cutoff) <= value + 1e-12
        assert own[f"cvar_99_{w}"] >= own[f"var_99_{w}"] >= own[f"var_95_{w}"]


def _standardised(close: np.ndarray) -> np.ndarray:
    """Returns in units of √(π/2) mean |r| of the 240 before; NaN for the first 240."""
    returns = pd.Series(np.diff(np.log(close)))
    scale = np.sqrt(np.pi / 2) * returns.abs().rolling(240).mean().shift(1)
    return (returns / scale).clip(-6, 6).to_numpy()


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_regime_equals_statsmodels_filter(symbol: str) -> None:
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

    close, readings = _candles(symbol)
    z = _standardised(close[:4000])[240:]
    model = MarkovRegression(z, k_regimes=3, trend="c", switching_variance=False)
    move = (1 - STAY) / 2
    known = {f"p[{i}->{j}]": STAY if i == j else move for i in range(3) for j in range(2)}
    known |= {"const[0]": -DRIFT, "const[1]": 0.0, "const[2]": DRIFT, "sigma2": 1.0}
    filtered = model.filter([known[name] for name in model.param_names]).filtered_marginal_probabilities
    ours = readings[["p_bear", "p_sideways", "p_bull"]].to_numpy()[1500:4000]
    np.testing.assert_allclose(ours, np.asarray(filtered)[1500 - 241 :], rtol=0, atol=1e-9)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_kalman_equals_filterpys_steady_state(symbol: str) -> None:
    from filterpy.kalman import KalmanFilter

    close, readings = _candles(symbol)
    close = close[:1800]
    path = np.log(close) * 1e4  # the noise variances are relative: any unit will do
    theirs = KalmanFilter(dim_x=2, dim_z=1)
    theirs.x = np.array([path[0], 0.0])
    theirs.F = np.array([[1.0, 1.0], [0.0, 1.0]])
    theirs.H = np.array([[1.0, 0.0]])
    theirs.Q = TRACKING_INDEX**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
    theirs.R = np.eye(1)
    found = []
    for price in path[1:]:
        theirs.predict()
        theirs.update(price)
        innovation = np.ravel(theirs.y)[0]
        found.append((price - np.ravel(theirs.x)[0], np.ravel(theirs.x)[1], innovation))
    assert np.ravel(theirs.K) == pytest.approx(steady_state_gains(TRACKING_INDEX), abs=1e-9)
    scale = np.sqrt(np.pi / 2) * np.abs(pd.Series(path).diff()).rolling(240).mean().shift(1).to_numpy()
    expected = np.array(found)[1399:] / scale[1400:, None]
    ours = readings[["kalman_gap", "kalman_slope", "kalman_innovation"]].to_numpy()[1400:1800]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7)


def test_gains_solve_scipys_riccati_equation() -> None:
    from scipy.linalg import solve_discrete_are

    for index in (0.01, 0.05, 0.2, 1.0):
        f, h = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
        q = index**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
        ahead = solve_discrete_are(f.T, h.T, q, np.eye(1))
        assert steady_state_gains(index) == pytest.approx(ahead[:, 0] / (ahead[0, 0] + 1), rel=1e-7)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_closed_form_percentiles_equal_scipys_normal_distribution(symbol: str) -> None:
    from scipy.stats import norm

    _, readings = _candles(symbol)
    known = readings.iloc[2880:]
    for name, w in (("price_momentum", 240), ("monte_carlo", 1440)):
        expected = norm.cdf(known[f"momentum_{w}"])
        np.testing.assert_allclose(known[f"{name}_percentile"], expected, rtol=1e-12, atol=1e-15)


def test_momentum_is_the_t_statistic_of_the_drift() -> None:
    from scipy.stats import ttest_1samp

    close, readings = _candles("ETH-USD")
    for row in _rows("ETH-USD", 40):
        returns = np.diff(np.log(close[row - 240 : row + 1]))
        t = ttest_1samp(returns, 0).statistic
        momentum = readings["momentum_240"].iat[row]
        # The mean square about zero and not about the mean: t = m √(W−1) ÷ √(W − m²).
        assert t == pytest.approx(momentum * np.sqrt(239 / (240 - momentum**2)), rel=1e-6, abs=1e-9)
        assert readings["sharpe_240"].iat[row] * np.sqrt(240 / 525_600) == pytest.approx(t, rel=1e-6, abs=1e-9)


def test_first_passage_solves_scipys_boundary_value_problem() -> None:
    # Without a horizon: u'' / 2 + μ u' = 0, u(−down) = 0, u(up) = 1.
    from scipy.integrate import solve_bvp

    for mu, up, down in ((0.5, 1.0, 2.0), (-0.3, 2.0, 1.0), (0.0, 2.0, 1.0)):
        x = np.linspace(-down, up, 50)
        solved = solve_bvp(
            lambda _, y, mu=mu: np.vstack([y[1], -2 * mu * y[1]]),
            lambda low, high: np.array([low[0], high[0] - 1]),
            x,
            np.vstack([(x + down) / (up + down), np.ones_like(x)]),
            tol=1e-8,
        )
        assert first_passage(mu, up, down, 1e4)[0] == pytest.approx(solved.sol(0.0)[0], abs=1e-6)
