"""Votes, scores and sentences on mirrored, scaled, drifting and recorded prices; the nulls are in test_nulls.py."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline.theories import compute_features, explain
from v7_pipeline_tests.theories.paths import START, clustered, fractional_noise, grid_of, recorded, walk

OF_PRICES = tuple(name for name in THEORY_NAMES if name != "bayesian_win_rate")


@pytest.fixture(scope="module")
def noise() -> pd.DataFrame:
    """Readings of a long driftless walk without quiet minutes, warm-up left out."""
    return compute_features(grid_of(walk(2024, 150_000)), (240,)).iloc[3000:]


def test_lesson_10_no_theory_has_a_constant_or_borrowed_score() -> None:
    rows = pd.concat(
        [compute_features(recorded(symbol, "2023-12-08", "2023-12-12")) for symbol in ("BTC-USD", "ETH-USD", "SOL-USD")]
    )
    rows = rows[rows["as_of"] >= pd.Timestamp("2023-12-10 02:00", tz="UTC")]
    scores = rows[[f"{name}_score" for name in OF_PRICES]]
    assert (scores.std() > 0.05).all()
    assert (scores.nunique() > 25).all()
    assert scores.groupby(rows["symbol"]).std().gt(0.02).all(axis=None)
    correlation = scores.corr().to_numpy() - np.eye(len(OF_PRICES))
    assert np.abs(correlation).max() < 0.95
    for name in OF_PRICES:
        assert 0 < (rows[f"{name}_vote"] != 0).mean() < 0.5, name


def test_lesson_11_mirrored_prices_mirror_the_votes() -> None:
    close = clustered(8, 12_000)
    mirrored = close[0] ** 2 / close
    a, b = (compute_features(grid_of(c)) for c in (close, mirrored))
    for name in OF_PRICES:
        np.testing.assert_allclose(a[f"{name}_vote"], -b[f"{name}_vote"], rtol=0, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(a[f"{name}_score"], b[f"{name}_score"], rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(a["p_bull"], b["p_bear"], atol=1e-9)
    np.testing.assert_allclose(a["p_target"], b["p_target"], atol=1e-9)
    np.testing.assert_allclose(a["momentum_240"], -b["momentum_240"], atol=1e-9)
    assert all((a[f"{name}_vote"] != 0).any() for name in OF_PRICES)


def test_lesson_11_mirroring_holds_with_quiet_minutes() -> None:
    close = walk(5, 4000, quiet=0.15)
    a, b = (compute_features(grid_of(c), min_observed_share=0) for c in (close, close[0] ** 2 / close))
    for name in OF_PRICES:
        np.testing.assert_allclose(a[f"{name}_vote"], -b[f"{name}_vote"], rtol=0, atol=1e-6, err_msg=name)


def test_lesson_11_noise_has_no_trend_and_no_structure(noise: pd.DataFrame) -> None:
    assert noise["hurst_rs_240"].mean() == pytest.approx(0.498, abs=0.01)
    assert noise["entropy_240"].mean() == pytest.approx(0.998, abs=0.001)
    assert (noise["hurst_exponent_percentile"] > 0.95).mean() < 0.07


def test_lesson_12_monte_carlo_is_unbiased_without_drift(noise: pd.DataFrame) -> None:
    # Target at twice the stop: a third of decided plans if there were no horizon, a little less with one.
    decided = noise["p_target"] / (noise["p_target"] + noise["p_stop"])
    within = noise["monte_carlo_score"] == 0
    assert 0.6 < within.mean() < 0.8  # |z| < 1: the drift is nothing
    assert decided[within].between(0.26, 0.34).all()
    assert ((noise["p_target"] > 0.95) | (noise["p_target"] < 0.05)).mean() < 0.001
    assert abs(noise["monte_carlo_vote"].mean()) < 0.03


def test_lesson_12_monte_carlo_repeats_itself() -> None:
    grid = grid_of(clustered(3, 1600))
    pd.testing.assert_frame_equal(compute_features(grid), compute_features(grid), check_exact=True)


@pytest.mark.parametrize("factor", [1000.0, 1 / 4096, 3.7e-6])
def test_lesson_13_prices_times_a_constant_change_nothing(factor: float) -> None:
    close = clustered(14, 3400)
    a, b = (compute_features(grid_of(c)).drop(columns=["symbol", "as_of"]) for c in (close, close * factor))
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, equal_nan=True)


def test_lesson_13_recorded_prices_times_1000_change_nothing() -> None:
    grid = recorded("SOL-USD", "2023-12-09", "2023-12-12")
    since = pd.Timestamp("2023-12-11", tz="UTC").to_pydatetime()
    a, b = (compute_features(g, since=since) for g in (grid, grid.assign(close=grid["close"] * 1000)))
    np.testing.assert_allclose(a.iloc[:, 2:], b.iloc[:, 2:], rtol=1e-6, atol=1e-9, equal_nan=True)


def test_trends_and_reversals_are_told_apart() -> None:
    rng = np.random.default_rng(17)
    for hurst, sign in ((0.8, 1), (0.35, -1)):
        close = 100 * np.exp(1e-4 * np.cumsum(fractional_noise(rng, hurst, 20_000)))
        rows = compute_features(grid_of(close), min_observed_share=0).iloc[3000:]
        for name in ("hurst_exponent", "fractal_dimension"):
            spoken = rows[rows[f"{name}_vote"] != 0]
            with_momentum = np.sign(spoken[f"{name}_vote"]) == np.sign(spoken["momentum_240"])
            assert len(spoken) > 50, name
            assert with_momentum.mean() == (1.0 if sign > 0 else 0.0), name


def test_strength_theories_never_speak_without_momentums_direction() -> None:
    rows = compute_features(grid_of(clustered(41, 12_000)))
    silent = rows["price_momentum_percentile"].between(0.25, 0.75, inclusive="neither")
    for name in ("shannon_entropy", "hurst_exponent", "kolmogorov_complexity", "risk_metrics", "fractal_dimension"):
        assert (rows.loc[silent, f"{name}_vote"] == 0).all(), name
    for name in ("shannon_entropy", "kolmogorov_complexity", "risk_metrics"):
        assert (rows[f"{name}_vote"] * rows["momentum_240"].fillna(0) >= 0).all(), name


@pytest.mark.parametrize("drift", [1, -1])
def test_a_steady_drift_is_seen_by_every_theory_with_a_direction(drift: int) -> None:
    rng = np.random.default_rng(23)
    close = 100 * np.exp(1e-4 * np.cumsum(rng.standard_normal(3500) + 0.4 * drift))
    last = compute_features(grid_of(close)).iloc[-500:]
    for name in ("price_momentum", "market_regime", "monte_carlo"):
        assert (np.sign(last[f"{name}_vote"]) == drift).mean() > 0.7, name
    assert np.sign(last["kalman_filter_vote"].mean()) == drift
    word = "rising" if drift > 0 else "falling"
    assert word in explain("market_regime", last.iloc[-1])


def _win_rates(rows: list[tuple[int, str, int, int]]) -> pd.DataFrame:
    """(minute, scope, wins, losses) → win_rates rows under the uniform prior."""
    frame = [(START + timedelta(minutes=m), scope, (w + 1) / (w + n + 2), 0.1, 0.9, w + n) for m, scope, w, n in rows]
    return pd.DataFrame(frame, columns=["as_of", "scope", "mean", "lower", "upper", "n"])


def test_win_rate_is_the_newest_posterior_known_at_each_minute() -> None:
    grid = grid_of(walk(1, 60))
    rates = _win_rates([(30, "all", 6, 4), (40, "all", 6, 14), (40, "symbol:BTC-USD", 99, 0)]).iloc[::-1]
    rows = compute_features(grid, win_rates=rates).set_index("as_of")
    at = lambda minute: rows.loc[START + timedelta(minutes=minute)]  # noqa: E731
    assert np.isnan(at(29)["win_rate"]) and at(29)["win_rate_n"] == 0
    assert (at(30)["win_rate"], at(30)["win_rate_n"]) == (7 / 12, 10)
    assert (at(40)["win_rate"], at(40)["win_rate_n"]) == (7 / 22, 20)
    from scipy.stats import beta

    assert at(30)["bayesian_win_rate_percentile"] == pytest.approx(beta.sf(0.4, 7, 5))
    assert at(30)["bayesian_win_rate_score"] != at(40)["bayesian_win_rate_score"]
    assert (rows["bayesian_win_rate_vote"] == 0).all()  # the overall rate knows no direction
    assert "n = 20" in explain("bayesian_win_rate", at(40))
    assert "no signal has closed" in explain("bayesian_win_rate", at(29))


@pytest.mark.parametrize(
    ("buy", "sell", "sign"), [((18, 4), (3, 6), 1), ((3, 6), (18, 4), -1), ((5, 7), (5, 7), 0), ((18, 4), (18, 4), 0)]
)
def test_win_rate_votes_for_the_side_that_beats_break_even(buy: tuple, sell: tuple, sign: int) -> None:
    rates = _win_rates([(10, "all", 20, 10), (10, "side:BUY", *buy), (10, "side:SELL", *sell)])
    row = compute_features(grid_of(walk(1, 60)), win_rates=rates).iloc[-1]
    assert np.sign(row["bayesian_win_rate_vote"]) == sign


def test_prior_without_outcomes_is_no_reading() -> None:
    row = compute_features(grid_of(walk(1, 60)), win_rates=_win_rates([(1, "all", 0, 0)])).iloc[-1]
    assert np.isnan(row["win_rate"]) and np.isnan(row["bayesian_win_rate_percentile"])
    assert (row["bayesian_win_rate_score"], row["win_rate_n"]) == (0, 0)


def test_sentences_name_the_place_under_noise() -> None:
    row = {"hurst_rs_240": 0.61, "hurst_exponent_percentile": 0.97}
    assert (
        explain("hurst_exponent", row)
        == "Hurst 0.61 (above 97 % of random walks of this length): moves tend to continue."
    )
    assert "abstains" in explain("hurst_exponent", {"hurst_rs_240": None, "observed_share": 0.5})
