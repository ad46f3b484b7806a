"""What holds on any prices: units, symbols, mirrors, reversal, drift, locality, causality, live = backfill, no leaks.

Paths are drawn by hypothesis from every kind that markets and clocks make: ticks, jumps, sleep, gaps, days, DST.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline.theories import compute_features
from v7_pipeline.theories.fractal_dimension import madogram
from v7_pipeline.theories.hurst_exponent import dfa, rescaled_range
from v7_pipeline.theories.kolmogorov_complexity import lempel_ziv
from v7_pipeline.theories.risk_metrics import expected_shortfall, max_drawdown, value_at_risk
from v7_pipeline.theories.shannon_entropy import entropy
from v7_pipeline_tests.theories.paths import FILTERED, grid_of

LOOK_BACK = 2 * 1440 + 8
OF_PRICES = tuple(name for name in THEORY_NAMES if name != "bayesian_win_rate")
SIGNED = ("market_regime", "risk_metrics", "price_momentum", "kalman_filter", "monte_carlo")
ODD = 1e-6  # a gap between two doubles is nothing beside it
#: A usual evening, and starts from which a few days cross the changes of clocks in New York and Prague, and a leap day.
STARTS = (
    datetime(2023, 12, 8, 21, 3, tzinfo=UTC),
    datetime(2024, 3, 9, 22, 17, tzinfo=UTC),
    datetime(2023, 11, 4, 3, 0, tzinfo=UTC),
    datetime(2024, 3, 30, 12, 59, tzinfo=UTC),
    datetime(2024, 2, 28, 23, 58, tzinfo=UTC),
)
seeds = st.integers(0, 2**32 - 1)


def _returns(rng: np.random.Generator, n: int) -> np.ndarray:
    """Fat-tailed returns in bursts, some minutes quiet."""
    volatility = 10 ** rng.uniform(-5, -3) * np.exp(0.5 * np.sin(np.arange(n) / rng.uniform(20, 2000)))
    return volatility * rng.standard_t(rng.uniform(2.5, 20), n) * (rng.random(n) >= rng.choice([0.0, 0.1, 0.3]))


def _any_grid(seed: int, n: int) -> pd.DataFrame:
    """A grid of any kind: besides returns as above ticks, jumps, sleep, missing stretches, unobserved minutes."""
    rng = np.random.default_rng(seed)
    returns = _returns(rng, n)
    if rng.random() < 0.3:
        returns[rng.integers(0, n)] = rng.choice([-1, 1]) * rng.uniform(0.01, 2)
    if rng.random() < 0.3:
        start = rng.integers(0, n - 500)
        returns[start : start + rng.integers(10, 500)] = 0
    close = 10 ** rng.uniform(-3, 5) * np.exp(np.cumsum(returns))
    if rng.random() < 0.3:
        tick = close[0] * 1e-4
        close = np.maximum(np.round(close / tick), 1) * tick
    observed = rng.random(n) >= rng.choice([0.0, 0.05])
    if rng.random() < 0.4:
        start = rng.integers(0, n - 60)
        gap = slice(start, start + rng.integers(1, 60))
        close[gap], observed[gap] = np.nan, False
    return grid_of(close, observed=observed, start=STARTS[seed % len(STARTS)])


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=["symbol", "as_of"])


def _assert_same(live: pd.DataFrame, full: pd.DataFrame) -> None:
    """Bit for bit, the two filters to 1e-9."""
    full = full.set_index(["symbol", "as_of"]).loc[pd.MultiIndex.from_frame(live[["symbol", "as_of"]])]
    for name in live.columns[2:]:
        ours, theirs = live[name].to_numpy(), full[name].to_numpy()
        if not name.startswith(FILTERED):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        elif not name.endswith("_vote"):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9, equal_nan=True, err_msg=name)


# Units, symbols, mirrors


@settings(max_examples=8)
@given(seeds, st.floats(-20, 20))
def test_prices_times_a_constant_change_nothing(seed: int, exponent: float) -> None:
    close = np.exp(np.cumsum(_returns(np.random.default_rng(seed), 3300)))
    plain, scaled = (_numbers(compute_features(grid_of(c), min_observed_share=0)) for c in (close, close * 2**exponent))
    np.testing.assert_allclose(plain, scaled, rtol=1e-6, atol=1e-8, equal_nan=True)


@settings(max_examples=8)
@given(seeds, st.integers(-30, 30))
def test_prices_times_a_power_of_two_change_no_bit_even_where_ticks_tie(seed: int, exponent: int) -> None:
    grid = _any_grid(seed, 3300)
    plain, scaled = (compute_features(g) for g in (grid, grid.assign(close=grid["close"] * 2.0**exponent)))
    falls = [name for name in plain if name.startswith("max_drawdown")]  # of the logarithm's level
    pd.testing.assert_frame_equal(plain.drop(columns=falls), scaled.drop(columns=falls), check_exact=True)
    np.testing.assert_allclose(plain[falls], scaled[falls], rtol=0, atol=1e-13, equal_nan=True)


@settings(max_examples=6)
@given(seeds)
def test_symbols_do_not_see_each_other_and_swapping_them_swaps_their_rows(seed: int) -> None:
    one, two = _any_grid(seed, 900), _any_grid(seed + 1, 800)
    straight = compute_features(pd.concat([one.assign(symbol="A"), two.assign(symbol="B")]))
    crossed = compute_features(pd.concat([one.assign(symbol="B"), two.assign(symbol="A")]))
    for here, there in (("A", "B"), ("B", "A")):
        left, right = (
            frame[frame["symbol"] == name].drop(columns="symbol").reset_index(drop=True)
            for frame, name in ((straight, here), (crossed, there))
        )
        pd.testing.assert_frame_equal(left, right, check_exact=True)


@settings(max_examples=8)
@given(seeds)
def test_a_mirrored_path_mirrors_votes_and_swaps_bull_with_bear(seed: int) -> None:
    close = 100 * np.exp(np.cumsum(_returns(np.random.default_rng(seed), 3600)))
    a, b = (compute_features(grid_of(c), min_observed_share=0) for c in (close, close[0] ** 2 / close))
    for name in OF_PRICES:
        share, mirrored = a[f"{name}_percentile"], b[f"{name}_percentile"]
        expected = 1 - mirrored if name in SIGNED else mirrored
        np.testing.assert_allclose(share, expected, rtol=0, atol=ODD, err_msg=name)
        edge = np.abs(np.abs(2 * share - 1) - 0.92) < 10 * ODD  # a vote begins there: either side of it is right
        edge |= np.abs(np.abs(2 * a["price_momentum_percentile"] - 1) - 0.5) < 10 * ODD
        vote, opposite = a[f"{name}_vote"][~edge], b[f"{name}_vote"][~edge]
        np.testing.assert_allclose(vote, -opposite, rtol=0, atol=ODD, err_msg=name)
        np.testing.assert_allclose(a[f"{name}_score"], b[f"{name}_score"], rtol=0, atol=ODD, err_msg=name)
    for here, there in (("p_bull", "p_bear"), ("p_sideways", "p_sideways"), ("p_target", "p_target")):
        np.testing.assert_allclose(a[here], b[there], rtol=0, atol=ODD)
    for odd in ("momentum_120", "momentum_1440", "sharpe_240", "kalman_gap", "kalman_slope", "kalman_innovation"):
        np.testing.assert_allclose(a[odd], -b[odd], rtol=0, atol=1e-5)
    for even in ("entropy_240", "entropy_words_240", "hurst_rs_240", "hurst_dfa_240", "fractal_dimension_240"):
        np.testing.assert_allclose(a[even], b[even], rtol=0, atol=ODD)


# Time reversal and drift

windows_of_returns = st.builds(lambda seed, n: _returns(np.random.default_rng(seed), n), seeds, st.integers(64, 400))


@settings(max_examples=60)
@given(windows_of_returns)
def test_time_reversal_changes_nothing_that_has_no_direction_of_time(returns: np.ndarray) -> None:
    reverse = returns[::-1]
    path = np.concatenate([[0.0], np.cumsum(returns)])
    octiles = np.random.default_rng(returns.size).integers(0, 8, returns.size)
    assert entropy(octiles, 8) == entropy(octiles[::-1], 8)
    assert madogram(path) == pytest.approx(madogram(path[::-1]), abs=1e-9)
    assert rescaled_range(returns) == pytest.approx(rescaled_range(reverse), abs=1e-9)
    for level in (0.95, 0.99):
        assert value_at_risk(returns, level) == value_at_risk(reverse, level)
        assert expected_shortfall(returns, level) == pytest.approx(expected_shortfall(reverse, level), rel=1e-12)
    # A fall becomes a rise, and mirrored a fall again.
    assert max_drawdown(path) == pytest.approx(max_drawdown(-path[::-1]), abs=1e-12)


@settings(max_examples=60)
@given(windows_of_returns, st.floats(-3, 3))
def test_a_drift_leaves_range_and_fluctuation_as_they_are(returns: np.ndarray, drift: float) -> None:
    moved = returns + drift * returns.std()
    assert rescaled_range(moved) == pytest.approx(rescaled_range(returns), abs=1e-6)
    assert dfa(moved) == pytest.approx(dfa(returns), abs=1e-6)


@settings(max_examples=60)
@given(windows_of_returns)
def test_flipping_every_bit_keeps_the_phrases(returns: np.ndarray) -> None:
    bits = returns > 0
    assert lempel_ziv(bits) == lempel_ziv(~bits)


@settings(max_examples=6)
@given(seeds, st.floats(-0.02, 0.02))
def test_a_drift_moves_momentum_by_drift_root_w_over_sigma(seed: int, share: float) -> None:
    returns = 1e-4 * np.random.default_rng(seed).standard_normal(1600)
    drift = share * 1e-4
    a, b = (compute_features(grid_of(100 * np.exp(np.cumsum(r)))).iloc[-1] for r in (returns, returns + drift))
    for w in (120, 240, 1440):
        old, new = returns[-w:], returns[-w:] + drift
        sigma = np.sqrt(np.mean(new**2))
        moved = old.sum() / (sigma * w**0.5) + drift * w**0.5 / sigma
        assert b[f"momentum_{w}"] == pytest.approx(moved, abs=1e-6)
        # σ itself hardly changes with so small a drift.
        shift = drift * w**0.5 / np.sqrt(np.mean(old**2))
        assert b[f"momentum_{w}"] - a[f"momentum_{w}"] == pytest.approx(shift, abs=0.012)


# Locality and causality


@settings(max_examples=10)
@given(seeds, st.integers(1300, 1500), st.floats(-0.01, 0.01).filter(lambda x: abs(x) > 1e-5))
def test_one_changed_bar_moves_only_rows_whose_windows_contain_it(seed: int, at: int, jump: float) -> None:
    grid = grid_of(100 * np.exp(np.cumsum(_returns(np.random.default_rng(seed), 3000))))
    other = grid.copy()
    other.loc[at, "close"] *= 1 + jump
    a, b = (compute_features(g, (120, 240), min_observed_share=0) for g in (grid, other))
    same = (a == b) | (a.isna() & b.isna())
    assert same.loc[: at - 1].all(axis=None)  # nothing before it
    reach = {f"_{w}": w for w in (120, 240)}  # the bar ends the return at − 1 → at and begins the next
    for name in _numbers(a):
        far = next((w for end, w in reach.items() if name.endswith(end)), None)
        if name.startswith("entropy"):
            far = 2 * far if far else None  # by its scale one bar earlier
        elif name.rpartition("_")[0] in THEORY_NAMES:
            far = {
                "shannon_entropy": 480, "monte_carlo": 1440, "market_regime": None, "kalman_filter": None,
            }.get(name.rpartition("_")[0], 240)  # fmt: skip
        elif name.startswith(("p_target", "p_stop", "p_neither")):
            far = 1440
        elif name in ("observed_share", "win_rate", "win_rate_lower", "win_rate_upper", "win_rate_n"):
            far = -1  # no prices in it
        if far is not None:
            assert same[name].loc[at + far + 1 :].all(), name
    for name in ("momentum_240", "volatility_120", "fractal_dimension_240", "kalman_gap"):
        assert not same[name].loc[at : at + 120].all(), name


@settings(max_examples=8)
@given(seeds, st.integers(300, 2900))
def test_cutting_or_garbling_the_future_changes_no_bit_of_the_past(seed: int, cut: int) -> None:
    grid = _any_grid(seed, 3000)
    whole = compute_features(grid)
    garbled = grid.copy()
    rng = np.random.default_rng(seed)
    garbled.loc[cut:, "close"] = np.where(rng.random(3000 - cut) < 0.2, np.nan, rng.uniform(0.1, 1e6, 3000 - cut))
    garbled.loc[cut:, "observed"] = rng.random(3000 - cut) < 0.5
    garbled.loc[cut:, ["open", "high", "low", "volume"]] = -1.0
    known = grid["open_time"].iloc[cut]  # as_of of the last bar before the cut
    past = whole[whole["as_of"] <= known]
    for future in (grid.iloc[:cut], garbled):
        again = compute_features(future)
        pd.testing.assert_frame_equal(again[again["as_of"] <= known], past, check_exact=True)


@settings(max_examples=8)
@given(seeds, st.integers(LOOK_BACK + 1, 5000), st.integers(1, 4))
def test_live_rows_equal_backfilled_rows_across_days_gaps_and_clock_changes(seed: int, end: int, rows: int) -> None:
    grid = _any_grid(seed, 5000)
    whole = compute_features(grid)
    history = grid.iloc[end - LOOK_BACK : end]
    live = compute_features(history, since=(history["open_time"].iloc[-rows] + timedelta(minutes=1)).to_pydatetime())
    assert len(live) == history["close"].iloc[-rows:].notna().sum()
    _assert_same(live, whole)


@settings(max_examples=4)
@given(seeds, st.lists(st.integers(LOOK_BACK, 5900), min_size=1, max_size=3, unique=True))
def test_a_backfill_in_pieces_equals_the_whole(seed: int, cuts: list[int]) -> None:
    grid = _any_grid(seed, 6000)
    whole = compute_features(grid)
    edges = [LOOK_BACK, *sorted(cuts), 6000]
    for start, end in pairwise(edges):
        if start < end:
            since = grid["open_time"].iloc[start] + timedelta(minutes=1)
            _assert_same(compute_features(grid.iloc[start - LOOK_BACK : end], since=since.to_pydatetime()), whole)


# Ranges, sums, leaks


def _assert_sane(readings: pd.DataFrame) -> None:
    numbers = _numbers(readings)
    assert not np.isinf(numbers.to_numpy()).any()
    for name in THEORY_NAMES:
        vote, score, share = (readings[f"{name}_{part}"] for part in ("vote", "score", "percentile"))
        assert vote.between(-1, 1).all() and score.between(0, 1).all() and share.dropna().between(0, 1).all()
        assert (vote.abs() <= score + 1e-12).all() or name == "bayesian_win_rate"
        assert (vote[share.isna()] == 0).all() and (score[share.isna()] == 0).all(), name
    whole = {"entropy": (0, 1), "hurst_rs": (0, 1), "hurst_dfa": (0, 1), "lz_phrases": (2, 2880), "fractal": (1, 2)}
    for prefix, (low, high) in whole.items():
        for name in (c for c in numbers if c.startswith(prefix) and c.rpartition("_")[2].isdigit()):
            assert numbers[name].dropna().between(low, high).all(), name
    for w in (120, 240, 1440):
        known = numbers[numbers[f"var_95_{w}"].notna()]
        assert known[f"lz_{w}"].between(0, 1).all()
        assert (known[f"momentum_{w}"].abs() <= w**0.5 * (1 + 1e-9)).all()
        assert (known[f"cvar_95_{w}"] >= known[f"var_95_{w}"] - 1e-12).all()
        assert (known[f"cvar_99_{w}"] >= known[f"cvar_95_{w}"] - 1e-12).all()
        assert (known[[f"volatility_{w}", f"max_drawdown_{w}"]] >= 0).all(axis=None)
    for parts in (["p_bear", "p_sideways", "p_bull"], ["p_target", "p_stop", "p_neither"]):
        known = numbers[parts].dropna()
        assert known.apply(lambda column: column.between(0, 1).all()).all()
        assert np.abs(known.sum(axis=1) - 1).max() < 1e-12 or known.empty


@settings(max_examples=15)
@given(seeds)
def test_any_path_gives_readings_in_range_and_no_warning(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        readings = compute_features(_any_grid(seed, 3300))
    _assert_sane(readings)


def test_nothing_is_missing_once_the_longest_history_is_there() -> None:
    grid = grid_of(100 * np.exp(np.cumsum(_returns(np.random.default_rng(3), 7000))))
    grid.loc[3000:3019, ["close"]] = np.nan  # a broken stretch
    readings = compute_features(grid, min_observed_share=0).set_index("as_of")
    prices = readings[[name for name in readings if not name.startswith(("symbol", "win_rate", "bayesian"))]]
    start = grid["open_time"].iloc[0]
    whole = [start + timedelta(minutes=i) for i in (2882, 3000, 3020 + 2882, 7000)]
    assert prices.loc[whole[0] : whole[1]].notna().all(axis=None)
    assert prices.loc[whole[2] : whole[3]].notna().all(axis=None)
    assert prices.loc[start + timedelta(minutes=3021) : start + timedelta(minutes=3100)].isna().sum(axis=1).gt(50).all()


def _constant() -> np.ndarray:
    return np.full(3200, 42.5)


def _one_tick() -> np.ndarray:
    return np.where(np.arange(3200) >= 3000, 100.01, 100.0)


def _two_ticks() -> np.ndarray:
    return np.where(np.random.default_rng(1).random(3200) < 0.5, 100.01, 100.0)


def _outlier() -> np.ndarray:
    close = np.exp(np.cumsum(_returns(np.random.default_rng(5), 3200)))
    close[3000] *= 1e6
    return close


def _gapped() -> np.ndarray:
    close = np.exp(np.cumsum(_returns(np.random.default_rng(6), 3200)))
    close[::700] = np.nan
    close[1500:1520] = np.nan
    return close


def _tiny() -> np.ndarray:
    return 1e-300 * np.exp(np.cumsum(_returns(np.random.default_rng(7), 3200)))


@pytest.mark.parametrize("make", [_constant, _one_tick, _two_ticks, _outlier, _gapped, _tiny])
@pytest.mark.parametrize("traded", [True, False], ids=["traded", "zero volume"])
def test_odd_paths_give_no_warning_and_stay_in_range(make: object, traded: bool) -> None:
    close = make()  # type: ignore[operator]
    observed = ~np.isnan(close) & (traded | (np.arange(close.size) % 3 > 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        readings = compute_features(grid_of(close, observed=observed))
    _assert_sane(readings)
    if not traded:  # two thirds observed: too little
        late = readings.iloc[2000:]
        assert late["momentum_240"].isna().all()
        assert (late[[f"{name}_vote" for name in THEORY_NAMES]] == 0).all(axis=None)
