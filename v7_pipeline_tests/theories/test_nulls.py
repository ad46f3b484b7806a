"""Honest about noise: under driftless walks of every kind percentiles are uniform and votes rare and centred; the file.

What counts as enough: distribution functions of percentiles within DISTANCE of the diagonal (Lempel–Ziv phrases are
whole numbers: half a step more) besides sampling noise, and votes in at most 10 % of windows.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from v7_pipeline.store.schema import THEORY_NAMES, WINDOWS
from v7_pipeline.theories import compute_features, nulls, price_momentum, registry
from v7_pipeline.theories.base import HIGH, LOW
from v7_pipeline.theories.kalman_filter import steady_state_gains
from v7_pipeline.theories.nulls import simulate
from v7_pipeline_tests.theories.paths import START, grid_of

OF_PRICES = tuple(name for name in THEORY_NAMES if name != "bayesian_win_rate")
MINUTES = 400_000
EVERY = 8
DISTANCE = 0.03
HALF_STEP = {"kolmogorov_complexity": 0.14}
#: How many minutes make one independent reading.
SPAN = {"monte_carlo": 1440, "kalman_filter": 40}
RARE = 0.10


def _readings(close: np.ndarray) -> pd.DataFrame:
    columns = [f"{name}_{part}" for name in OF_PRICES for part in ("percentile", "vote")]
    return compute_features(grid_of(close), (240,))[columns].iloc[3000::EVERY]


@cache
def _noise(kind: str, quiet: float) -> pd.DataFrame:
    seed = [99, list(simulate.STEPS).index(kind), int(100 * quiet)]  # none of the tables'
    return _readings(simulate.walk(kind, np.random.default_rng(seed), quiet, MINUTES))


def _distance_from_uniform(percentiles: np.ndarray) -> float:
    """Largest distance between the mid-rank distribution function and the diagonal."""
    grid, ordered = np.linspace(0.01, 0.99, 99), np.sort(percentiles)
    ranks = np.searchsorted(ordered, grid, "left") + np.searchsorted(ordered, grid, "right")
    return float(np.abs(ranks / (2 * ordered.size) - grid).max())


def _assert_honest(readings: pd.DataFrame, name: str, minutes: int, distance: float = DISTANCE) -> None:
    share, vote = readings[f"{name}_percentile"], readings[f"{name}_vote"]
    independent = minutes / SPAN.get(name, 240)
    noise = independent**-0.5
    assert share.notna().all()
    assert _distance_from_uniform(share.to_numpy()) <= distance + HALF_STEP.get(name, 0.0) + 1.3 * noise
    assert abs(share.mean() - 0.5) <= 0.01 + 0.9 * noise
    assert (vote != 0).mean() <= RARE + (0.02 if name == "monte_carlo" else 0)  # few days: see the next test for it
    assert abs((vote > 0).mean() - (vote < 0).mean()) <= 0.7 * noise
    assert abs(vote.mean()) <= 0.7 * noise
    assert (vote != 0).any()


@pytest.mark.parametrize("quiet", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("kind", simulate.STEPS)
@pytest.mark.parametrize("name", OF_PRICES)
def test_noise_of_every_kind_is_uniform_and_votes_are_rare_and_centred(name: str, kind: str, quiet: float) -> None:
    _assert_honest(_noise(kind, quiet), name, MINUTES)


@cache
def _garch() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    n, variance = 300_000, 1.0
    shocks = rng.standard_t(5, n) * 0.6**0.5
    steps = np.empty(n)
    for i, shock in enumerate(shocks.tolist()):
        steps[i] = variance**0.5 * shock
        variance = 0.01 + 0.15 * steps[i] ** 2 + 0.84 * variance
    return _readings(100 * np.exp(1e-6 * np.cumsum(steps * (rng.random(n) >= 0.17))))


@pytest.mark.parametrize("name", OF_PRICES)
def test_noise_that_no_table_was_made_from_is_treated_alike(name: str) -> None:
    # GARCH(1, 1) with t steps and a share of quiet minutes between two levels.
    _assert_honest(_garch(), name, 300_000, distance=0.05)


@pytest.mark.parametrize("kind", simulate.STEPS)
@pytest.mark.parametrize("window", [240, 1440])
def test_the_closed_form_of_momentum_and_monte_carlo_holds_for_every_kind_of_noise(kind: str, window: int) -> None:
    steps = simulate.STEPS[kind](np.random.default_rng([7, window]), 8_000_000 // window * window)
    windows = steps.reshape(-1, window)
    share = ndtr(windows.sum(1) / np.sqrt((windows * windows).sum(1)))
    assert _distance_from_uniform(share) <= 0.01 + 1.3 * len(share) ** -0.5
    assert ((share <= LOW) | (share >= HIGH)).mean() <= 0.08 + 0.8 * len(share) ** -0.5


def test_momentums_simulated_null_is_its_closed_form() -> None:
    for window in WINDOWS:
        table = nulls.load(price_momentum.NAME, window)
        for q in range(table.levels.size):
            knots = table.low[q, 0] + table.step[q, 0] * np.arange(table.shares.shape[2])
            assert table.shares[q, 0] == pytest.approx(ndtr(knots), abs=0.02 if window == 1440 else 0.008)


TABLES = [
    (entry.NAME, window)
    for entry in (*registry.SIMULATED_NULLS, price_momentum)
    for window in WINDOWS
    if window == 240 or entry.NAME not in simulate.UNWINDOWED
]


@pytest.mark.parametrize(("name", "window"), TABLES)
def test_tables_are_distribution_functions(name: str, window: int) -> None:
    table = nulls.load(name, window)
    q, a, k = table.shares.shape
    assert table.levels.shape == (q,) and (np.diff(table.levels) > 0).all()
    assert table.readings.shape == table.low.shape == table.step.shape == (q, a) and k == simulate.KNOTS
    assert (np.diff(table.readings, axis=1) > 0).all() and (table.step > 0).all()
    assert (np.diff(table.shares, axis=2) >= 0).all()
    assert (table.shares[:, :, 0] <= 0.03).all() and (table.shares[:, :, -1] >= 0.97).all()
    assert table.shares.min() >= 0 and table.shares.max() <= 1
    if name in simulate.SIGNED:  # mirrored to the last bit
        assert (table.low == -(k // 2) * table.step).all()
        assert table.shares + table.shares[:, :, ::-1] == pytest.approx(1, abs=1e-15)


def test_the_shipped_file_is_small_and_the_one_that_was_made() -> None:
    path = simulate.Path(simulate.__file__).with_name(nulls.FILE)
    assert path.stat().st_size <= 600_000
    with np.load(path) as data:
        arrays = dict(data)
    about = nulls.about()
    assert nulls.checksum(arrays) == about["sha256"]
    assert len(arrays) == 5 * len(TABLES)
    made = (simulate.SEED, list(simulate.STEPS), list(simulate.LEVELS), simulate.CHUNK * simulate.CHUNKS)
    assert (about["seed"], about["steps"], about["quiet_shares"], about["minutes_of_each"]) == made


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nulls._file.cache_clear()
    monkeypatch.setattr(nulls, "about", lambda: {"sha256": "0"})
    with pytest.raises(ValueError, match="make both again"):
        nulls._file()


def test_checksum_sees_every_value_name_and_type() -> None:
    arrays = {"a": np.arange(3.0), "b": np.arange(3)}
    seen = {
        nulls.checksum(changed)
        for changed in (
            arrays,
            {**arrays, "a": np.array([0.0, 1.0, np.nextafter(2, 3)])},
            {"c": arrays["a"], "b": arrays["b"]},
            {**arrays, "b": np.arange(3, dtype=np.int32)},
            {**arrays, "a": np.arange(3.0).reshape(3, 1)},
        )
    }
    assert len(seen) == 5 and nulls.checksum(dict(reversed(arrays.items()))) in seen


def test_the_script_repeats_itself_and_agrees_with_the_shipped_file() -> None:
    small, again = (simulate.simulate(seed=1, chunks=1, chunk=8_000, windows=(240,)) for _ in range(2))
    assert all(np.array_equal(small[name], again[name]) for name in small)
    for name in ("fractal_dimension", "shannon_entropy", "kalman_filter", "hurst_exponent"):
        shipped = nulls.load(name)
        for q in range(0, shipped.levels.size, 2):
            cell = shipped.low.shape[1] // 2  # the most usual reading
            low, step = small[f"{name}_240_low"][q, cell], small[f"{name}_240_step"][q, cell]
            shares = small[f"{name}_240_shares"][q, cell] / nulls.SHARE_UNITS
            median = np.interp(0.5, shares, low + step * np.arange(shares.size))
            knots = shipped.low[q, cell] + shipped.step[q, cell] * np.arange(shares.size)
            assert 0.3 < np.interp(median, knots, shipped.shares[q, cell]) < 0.7, (name, q)


def test_distribution_takes_the_middle_of_ties_and_reaches_into_the_tails() -> None:
    low, step, shares = simulate.distribution(np.array([1.0] * 60 + [2.0] * 30 + [5.0] * 10))
    at = lambda x: np.interp(x, low + step * np.arange(shares.size), shares / nulls.SHARE_UNITS)  # noqa: E731
    assert at([1, 2, 5]) == pytest.approx([0.3, 0.75, 0.95], abs=0.02)
    low, step, shares = simulate.distribution(np.random.default_rng(0).standard_normal(100_000))
    assert low == pytest.approx(-2.5 * 1.645, abs=0.05)
    assert shares / nulls.SHARE_UNITS == pytest.approx(ndtr(low + step * np.arange(shares.size)), abs=0.005)


def test_a_place_is_interpolated_between_knots_readings_and_quiet_shares() -> None:
    from v7_pipeline.theories import kernels

    levels, readings = np.array([0.0, 0.4]), np.array([[1.0, 3.0], [2.0, 4.0]])
    low, step = np.array([[0.0, 10.0], [20.0, 30.0]]), np.ones((2, 2))
    shares = np.tile(np.linspace(0, 1, 11), (2, 2, 1))
    x = np.array([5.0, 15.0, 25.0, 10.0, 20.0, -9.0, 99.0, np.nan, 20.0])
    quiet = np.array([0, 0, 96, 0, 48, 0, 216, 0, 48])  # of 240: shares 0, .4, .2 and .9
    reading = np.array([1.0, 3.5, 2.0, 2.0, 2.5, 0.0, 9.0, 1.0, 3.0])
    out = np.empty(x.size)
    table = nulls.by_quiet_minutes(nulls.NullTable(levels, readings, low, step, shares))
    kernels.table_percentile(x, quiet, reading, *table, out)
    # Tables shift: between low 0 and 10 lies low 5, not a mixture of both.
    assert out == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 1.0, np.nan, 0.25], nan_ok=True)


def test_the_slopes_spread_is_the_root_of_squared_responses_times_squared_returns() -> None:
    from v7_pipeline.theories import kernels

    alpha, beta = steady_state_gains(0.05)
    returns = np.random.default_rng(0).standard_t(3, 300) * 1e-4
    impulse, filtered, spread = np.eye(1, 300)[0], np.empty((3, 300)), np.empty(300)
    kernels.alpha_beta_filter(impulse, np.arange(1, 301), alpha, beta, filtered)
    kernels.sign_spread(returns, alpha, beta, spread)
    for t in (0, 7, 100, 299):
        response = filtered[1, t::-1]
        assert spread[t] == pytest.approx(np.sqrt(np.sum((response * returns[: t + 1]) ** 2)), rel=1e-9)


@pytest.mark.parametrize("quiet", [0.0, 0.3, 0.95])
def test_evenness_is_the_mean_over_blocks_of_sixteen_and_needs_no_unit(quiet: float) -> None:
    from v7_pipeline.theories import kernels

    rng = np.random.default_rng(1)
    returns = rng.standard_t(4, 700) * 1e-4 * (rng.random(700) >= quiet)
    out, scaled = np.empty(300), np.empty(300)
    kernels.evenness(returns, 240, 12_345, 400, out)
    kernels.evenness(returns * 1e3, 240, 12_345, 400, scaled)
    blocks = [np.abs(returns[i : i + 16][returns[i : i + 16] != 0]) for i in range(161 + 50, 161 + 50 + 225)]
    expected = np.mean([x.mean() / np.sqrt((x * x).mean()) if x.size else 1.0 for x in blocks])
    assert out[50] == pytest.approx(expected, rel=1e-9)
    assert scaled == pytest.approx(out, rel=1e-9)


@pytest.mark.parametrize("n", [4, 6, 14, 21, 60])
def test_win_rate_seldom_votes_when_signals_only_break_even(n: int) -> None:
    wins = np.arange(n + 1)
    times = pd.to_datetime([START] * (n + 1)) + pd.to_timedelta(wins + 1, "min")
    rows = [
        pd.DataFrame({"as_of": times, "scope": scope, "mean": (won + 1) / (n + 2), "lower": 0.1, "upper": 0.9, "n": n})
        for scope, won in (("all", wins), ("side:BUY", wins), ("side:SELL", np.zeros(n + 1)))
    ]
    readings = compute_features(grid_of(np.full(n + 2, 100.0)), win_rates=pd.concat(rows))
    readings = readings[readings["win_rate_n"] > 0].drop_duplicates("win_rate")
    assert len(readings) == n + 1
    chance = binom.pmf(wins, n, 0.4)
    either = 1 - (1 - chance[readings["bayesian_win_rate_vote"].to_numpy() > 0].sum()) ** 2  # two sides
    assert 0.001 < either <= 0.085
    # Its percentile is a posterior: the uniform prior pulls a few outcomes towards one half.
    assert (chance * readings["bayesian_win_rate_percentile"]).sum() == pytest.approx(0.5, abs=0.1 / n**0.5 + 0.01)
