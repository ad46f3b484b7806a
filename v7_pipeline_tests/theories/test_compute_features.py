"""compute_features: its shape, causality, live = backfill, edges, and each windowed column against plain numpy."""

from __future__ import annotations

import subprocess
import sys
import warnings
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.store.schema import THEORY_NAMES, theory_columns
from v7_pipeline.theories import compute_features, explain, registry, risk_metrics
from v7_pipeline.theories.base import Bars
from v7_pipeline.theories.fractal_dimension import madogram
from v7_pipeline.theories.hurst_exponent import dfa, rescaled_range
from v7_pipeline.theories.kolmogorov_complexity import lempel_ziv
from v7_pipeline.theories.risk_metrics import expected_shortfall, max_drawdown, value_at_risk
from v7_pipeline_tests.theories.paths import FILTERED, START, clustered, grid_of, walk

LOOK_BACK = 2 * 1440 + 8
N = 4400


def _with_quiet_and_gap() -> pd.DataFrame:
    close = pd.Series(clustered(21, N))
    rng = np.random.default_rng(22)
    quiet = rng.random(N) < 0.06
    quiet[0] = False
    close[quiet] = np.nan
    close = close.ffill()
    close[400:440] = np.nan
    observed = ~quiet
    observed[400:440] = False
    return grid_of(close, observed=observed)


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    return _with_quiet_and_gap()


@pytest.fixture(scope="module")
def features(grid: pd.DataFrame) -> pd.DataFrame:
    return compute_features(grid)


def _assert_same(live: pd.DataFrame, full: pd.DataFrame) -> None:
    """Bit for bit, the two filters to 1e-9."""
    full = full.set_index(["symbol", "as_of"]).loc[pd.MultiIndex.from_frame(live[["symbol", "as_of"]])]
    for name in live.columns[2:]:
        a, b = live[name].to_numpy(), full[name].to_numpy()
        if name.startswith(FILTERED):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, equal_nan=True, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_columns_types_and_order_are_the_schemas(grid: pd.DataFrame, features: pd.DataFrame) -> None:
    names = [column.name for column in theory_columns()]
    assert list(features.columns) == ["symbol", "as_of", "observed_share", *names]
    assert (features[["observed_share", *names]].dtypes == np.float64).all()
    assert str(features["as_of"].dtype) == "datetime64[us, UTC]"
    known = grid[grid["close"].notna()]
    assert (features["as_of"].to_numpy() == (known["open_time"] + pd.Timedelta(minutes=1)).to_numpy()).all()
    assert tuple(entry.NAME for entry in registry.THEORIES) == THEORY_NAMES


def test_votes_scores_and_ranges(features: pd.DataFrame) -> None:
    for name in THEORY_NAMES:
        assert features[f"{name}_vote"].between(-1, 1).all()
        assert features[f"{name}_score"].between(0, 1).all()
        assert features[f"{name}_percentile"].dropna().between(0, 1).all()
    bounded = {"entropy": (0, 1), "hurst": (0, 1), "lz_1": (0, 1), "lz_2": (0, 1), "fractal": (1, 2), "p_": (0, 1)}
    for prefix, (low, high) in bounded.items():
        for column in (c for c in features if c.startswith(prefix) and not c.endswith(("vote", "score", "percentile"))):
            assert features[column].dropna().between(low, high).all(), column
    for parts in (["p_bear", "p_sideways", "p_bull"], ["p_target", "p_stop", "p_neither"]):
        assert features[parts].dropna().sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-12)


def test_live_rows_equal_backfilled_rows(grid: pd.DataFrame, features: pd.DataFrame) -> None:
    for end in (2900, 3001, 3713, N):
        history = grid.iloc[end - LOOK_BACK : end]
        live = compute_features(history, since=history["open_time"].iloc[-3].to_pydatetime())
        assert len(live) == 4
        _assert_same(live, features)


def test_columns_do_not_depend_on_where_the_history_starts(grid: pd.DataFrame, features: pd.DataFrame) -> None:
    rng = np.random.default_rng(6)
    for start in (441, *rng.integers(442, N - LOOK_BACK, 4)):
        part = compute_features(grid.iloc[start:], since=grid["open_time"].iloc[start + LOOK_BACK - 7].to_pydatetime())
        assert len(part) >= N - start - LOOK_BACK
        _assert_same(part, features)


@pytest.mark.parametrize(("chunk", "threads"), [(250, 1), (1111, 3), (4000, 2), (65_536, 2)])
def test_neither_chunks_nor_threads_change_a_bit(
    grid: pd.DataFrame, features: pd.DataFrame, chunk: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v7_pipeline.theories.features._FOR_ONE_THREAD", 0)
    rates = pd.DataFrame(
        {"as_of": [START + timedelta(days=1)], "scope": "all", "mean": 0.6, "lower": 0.5, "upper": 0.7, "n": 30}
    )
    other = grid_of(walk(4, 5003, quiet=0.1), symbol="ETH-USD", start=START + timedelta(minutes=77))
    together = pd.concat([grid, other], ignore_index=True)
    cut = compute_features(together, win_rates=rates, chunk=chunk, threads=threads)
    once = compute_features(together, win_rates=rates, chunk=10**6, threads=1)
    pd.testing.assert_frame_equal(cut, once, check_exact=True)  # the two filters as well
    own = once[once["symbol"] == "BTC-USD"].drop(columns=[c for c in once if "win_rate" in c])
    pd.testing.assert_frame_equal(own, features[own.columns], check_exact=True)
    since = START + timedelta(minutes=3500)
    later = compute_features(together, win_rates=rates, since=since, chunk=chunk, threads=threads)
    pd.testing.assert_frame_equal(later, once[once["as_of"] >= since].reset_index(drop=True), check_exact=True)


def test_impossible_chunks_and_threads_are_refused(grid: pd.DataFrame) -> None:
    for wrong in ({"chunk": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            compute_features(grid, **wrong)


@pytest.mark.parametrize("cut", [900, 1700, 3333])
def test_garbling_or_cutting_the_future_changes_no_bit(grid: pd.DataFrame, features: pd.DataFrame, cut: int) -> None:
    garbled = grid.copy()
    garbled.loc[cut:, "close"] = clustered(99, N - cut) * 7
    garbled.loc[cut + 50 : cut + 90, "close"] = np.nan
    before = features["as_of"] <= grid["open_time"].iloc[cut]
    for other in (garbled, grid.iloc[:cut]):
        again = compute_features(other)
        again = again[again["as_of"] <= grid["open_time"].iloc[cut]]
        pd.testing.assert_frame_equal(again, features[before], check_exact=True)


def test_symbols_alone_equal_symbols_together_in_any_row_order() -> None:
    one, two = (
        grid_of(walk(1, 700), symbol="ETH-USD"),
        grid_of(walk(2, 650), symbol="BTC-USD", start=START + timedelta(days=3)),
    )
    together = compute_features(pd.concat([one, two], ignore_index=True).sort_values("open_time", kind="stable"))
    alone = pd.concat([compute_features(two), compute_features(one)], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone, check_exact=True)
    woven = pd.concat([one.iloc[:650], two.assign(open_time=one["open_time"].iloc[:650])]).sort_values("open_time")
    assert compute_features(woven).groupby("symbol").size().tolist() == [650, 650]


def test_windowed_columns_equal_plain_numpy() -> None:
    close = clustered(5, 1700)
    row = compute_features(grid_of(close)).iloc[-1]
    returns = np.diff(np.log(close))
    for w in (120, 240, 1440):
        x = returns[-w:]
        path = np.log(close[-w - 1 :])
        expected = {
            "hurst_rs": rescaled_range(x), "hurst_dfa": dfa(x), "lz_phrases": lempel_ziv(x > 0),
            "fractal_dimension": madogram(path), "var_95": value_at_risk(x), "cvar_99": expected_shortfall(x, 0.99),
            "volatility": x.std(ddof=1), "sharpe": x.mean() / x.std(ddof=1) * 525_600**0.5,
            "sortino": x.mean() / np.sqrt(np.mean(np.minimum(x, 0) ** 2)) * 525_600**0.5,
            "max_drawdown": max_drawdown(path), "momentum": x.sum() / np.sqrt(np.sum(x * x)),
        }  # fmt: skip
        for name, value in expected.items():
            assert row[f"{name}_{w}"] == pytest.approx(value, rel=1e-7), (name, w)


def test_entropy_bins_use_the_scale_known_one_bar_earlier() -> None:
    returns = np.diff(np.log(walk(4, 600)))
    row = compute_features(grid_of(walk(4, 600))).iloc[-1]
    scale = np.sqrt(np.pi / 2) * pd.Series(np.abs(returns)).rolling(240).mean().shift(1).to_numpy()
    z = (returns / scale)[-240:]
    counts = np.histogram(z, [-np.inf, -1.150349, -0.674490, -0.318639, 0, 0.318639, 0.674490, 1.150349, np.inf])[0]
    share = counts / 240
    assert row["entropy_240"] == pytest.approx(min(1, (-(share * np.log(share)).sum() + 7 / 480) / np.log(8)), abs=1e-9)
    digits = (z > -0.430727).astype(int) + (z > 0.430727)
    words = 9 * digits[:-2] + 3 * digits[1:-1] + digits[2:]
    share = np.unique(words, return_counts=True)[1] / 238
    expected = (-(share * np.log(share)).sum() + (share.size - 1) / 476) / np.log(27)
    assert row["entropy_words_240"] == pytest.approx(min(1, expected), abs=1e-9)


@pytest.mark.parametrize("quiet", [0.0, 0.5])
def test_noise_reads_as_the_reference_says(quiet: float) -> None:
    means = compute_features(grid_of(walk(31, 20_000, quiet=quiet)), (240,), min_observed_share=0).mean(
        numeric_only=True
    )
    expected = {
        "entropy_240": (0.998, 0.713), "entropy_words_240": (0.997, 0.88), "lz_240": (0.986, 0.81),
        "hurst_rs_240": (0.497, 0.49), "hurst_dfa_240": (0.504, 0.51), "fractal_dimension_240": (1.503, 1.38),
    }  # fmt: skip
    # With half the returns zero, mean |r| is half of σ: the other half has z of variance 4.
    for name, pair in expected.items():
        assert means[name] == pytest.approx(pair[int(quiet > 0)], abs=0.015), name


def test_constant_price() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = compute_features(grid_of(np.full(3000, 42.5))).iloc[-1]
    for w in (120, 240, 1440):
        zero = ("entropy", "entropy_words", "var_95", "cvar_99", "volatility", "max_drawdown", "momentum")
        assert all(row[f"{name}_{w}"] == 0 for name in zero)
        assert row[f"lz_phrases_{w}"] == 2
        assert row[f"lz_{w}"] == pytest.approx(2 / {120: 20.288, 240: 33.989, 1440: 144.662}[w])
        assert all(
            np.isnan(row[f"{name}_{w}"]) for name in ("hurst_rs", "hurst_dfa", "fractal_dimension", "sharpe", "sortino")
        )
    assert (row["p_target"], row["p_stop"], row["p_neither"]) == (0, 0, 1)
    assert row[["p_bear", "p_sideways", "p_bull"]].to_numpy(float) == pytest.approx(1 / 3)
    assert row[["kalman_gap", "kalman_slope", "kalman_innovation"]].tolist() == [0, 0, 0]
    assert all(row[f"{name}_vote"] == 0 for name in THEORY_NAMES)


def test_fat_tails_and_serial_dependence_read_as_the_reference_says() -> None:
    rng = np.random.default_rng(3)
    fat = compute_features(grid_of(100 * np.exp(1e-4 * np.cumsum(rng.standard_t(3, 12_000)))), (240,))
    assert fat["entropy_240"].mean() == pytest.approx(0.993, abs=0.002)
    steps = rng.standard_normal(40_000)
    for i in range(1, steps.size):
        steps[i] += 0.2 * steps[i - 1]
    means = compute_features(grid_of(100 * np.exp(1e-4 * np.cumsum(steps))), (240,)).mean(numeric_only=True)
    assert means["lz_240"] == pytest.approx(0.976, abs=0.006)
    assert means["hurst_rs_240"] == pytest.approx(0.552, abs=0.015)
    assert means["fractal_dimension_240"] == pytest.approx(1.431, abs=0.012)


@pytest.mark.parametrize("path", ["one tick", "straight", "outlier", "wakes up", "falls asleep", "alternating"])
def test_odd_paths_give_no_warning_and_no_impossible_number(path: str) -> None:
    n = 3200
    close = np.full(n, 100.0)
    if path == "one tick":
        close[3000:] = 100.01
    elif path == "straight":
        close = 100 * np.exp(1e-4 * np.arange(n))
    elif path == "outlier":
        close = walk(3, n)
        close[3000] *= 1.5
    elif path == "wakes up":
        close[3000:] = walk(3, 200)
    elif path == "falls asleep":
        close = walk(3, n)
        close[2800:] = close[2800]
    elif path == "alternating":
        close[::2] = 100.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = compute_features(grid_of(close))
    numbers = rows.drop(columns=["symbol", "as_of"])
    assert not np.isinf(numbers.to_numpy()).any()
    for name in THEORY_NAMES:
        assert rows[f"{name}_vote"].between(-1, 1).all() and rows[f"{name}_score"].between(0, 1).all()
        for _, row in rows.iloc[[0, 500, -250, -1]].iterrows():
            assert explain(name, row).endswith(".")
    last = rows.iloc[-1]
    if path == "straight":
        assert last["fractal_dimension_240"] == pytest.approx(1, abs=1e-6)
        assert last["momentum_240"] == pytest.approx(240**0.5)
        assert last["price_momentum_vote"] > 0.99
    if path == "alternating":
        assert (
            last["fractal_dimension_240"] == pytest.approx(2)
            or last["fractal_dimension_240"] != last["fractal_dimension_240"]
        )
        assert last["price_momentum_vote"] == 0


def _large_moves(returns: np.ndarray) -> float:
    """By definition: the largest tenth, moves of one size counted in shares."""
    rank, size = returns.size // 10, np.abs(returns)
    edge = np.sort(size)[-rank]
    above, alike = size > edge * (1 + 1e-9), np.abs(size - edge) <= 1e-9 * edge
    share = (rank - above.sum()) / alike.sum()
    balance = returns[above].sum() + share * returns[alike].sum()
    return balance / np.sqrt((returns[above] ** 2).sum() + share * (returns[alike] ** 2).sum())


def _tick_path(n: int) -> np.ndarray:
    """A cheap coin whose price moves by whole ticks: many moves of one size, there and back."""
    steps = np.random.default_rng(5).integers(-2, 3, n)
    level = 0
    for i in range(n):
        level = min(max(level + steps[i], 0), 6)
        steps[i] = level
    return 60 + 0.01 * steps


@pytest.mark.parametrize("ticks", [True, False])
def test_large_moves_and_tails_equal_their_definitions_in_every_window(ticks: bool) -> None:
    close = _tick_path(3000) if ticks else clustered(31, 3000)
    bars = Bars(close, np.ones(3000, bool), 0, 0, (120, 240, 1440), 0.0)
    balance, columns = risk_metrics.statistic(bars), risk_metrics.values(bars)
    returns = np.diff(np.log(close))
    for t in range(241, 3000, 7):
        assert balance[t] == pytest.approx(_large_moves(returns[t - 240 : t]), rel=1e-6, abs=1e-9), t
        for w in (120, 240, 1440):
            if t >= w:
                worst = np.sort(returns[t - w : t])
                k = -(-w * 5 // 100)
                assert columns[f"var_95_{w}"][t] == pytest.approx(-worst[k - 1], abs=1e-12), (t, w)
                tail = worst[: k - 1].sum() + (w * 0.05 - k + 1) * worst[k - 1]
                assert columns[f"cvar_95_{w}"][t] == pytest.approx(-tail / (w * 0.05), abs=1e-12), (t, w)


def test_moves_there_and_back_favour_no_side() -> None:
    close = _tick_path(3000)
    bars, mirrored = (Bars(c, np.ones(3000, bool), 0, 240, (240,), 0.0) for c in (close, 3600 / close))
    np.testing.assert_allclose(risk_metrics.statistic(bars), -risk_metrics.statistic(mirrored), rtol=0, atol=1e-9)
    assert np.abs(risk_metrics.statistic(bars)).max() > 0.5


def test_one_outlier_does_not_own_the_entropy() -> None:
    close = walk(12, 700)
    spiked = close.copy()
    spiked[600] *= np.exp(50 * 1e-4)
    plain, with_spike = (compute_features(grid_of(c)).iloc[-1]["entropy_240"] for c in (close, spiked))
    assert with_spike == pytest.approx(plain, abs=0.06)


def test_poorly_observed_window_abstains() -> None:
    observed = np.ones(3200, bool)
    observed[3100:3149] = False  # 191 of 240 observed at the end of the stretch: .796
    rows = compute_features(grid_of(walk(2, 3200), observed=observed)).set_index("as_of")
    at = lambda i: rows.loc[START + timedelta(minutes=i + 1)]  # noqa: E731
    assert at(3147)["observed_share"] == 0.8 and at(3147)["momentum_240"] == at(3147)["momentum_240"]
    poor = at(3148)
    assert poor["observed_share"] == pytest.approx(191 / 240)
    for name in (
        "momentum_240",
        "entropy_240",
        "hurst_rs_240",
        "lz_240",
        "var_95_240",
        "p_bull",
        "kalman_slope",
        "p_target",
    ):
        assert np.isnan(poor[name]), name
    assert poor["momentum_1440"] == poor["momentum_1440"]  # the day is still observed well enough
    for name in THEORY_NAMES:
        assert (poor[f"{name}_vote"], poor[f"{name}_score"]) == (0, 0)
        assert np.isnan(poor[f"{name}_percentile"])
        assert "abstains" in explain(name, poor)
    loose = compute_features(grid_of(walk(2, 3200), observed=observed), min_observed_share=0.5).set_index("as_of")
    assert loose.loc[poor.name, "momentum_240"] == loose.loc[poor.name, "momentum_240"]


def test_broken_window_gives_no_value_until_it_has_passed() -> None:
    close = walk(2, 4000)
    close[3000:3020] = np.nan
    rows = compute_features(grid_of(close), min_observed_share=0).set_index("as_of")
    assert len(rows) == 3980
    needs = {
        "momentum_120": 120,
        "hurst_rs_240": 240,
        "lz_240": 240,
        "entropy_240": 480,
        "p_bull": 1240,
        "kalman_gap": 1240,
    }
    for name, returns in needs.items():
        known = rows[name].notna()
        first = START + timedelta(minutes=3020 + returns + 1)
        assert known[START + timedelta(minutes=3000)]
        assert not known[(known.index > START + timedelta(minutes=3000)) & (known.index < first)].any(), name
        assert known[known.index >= first].all(), name


def test_warm_up_rows_are_returned_and_abstain() -> None:
    rows = compute_features(grid_of(walk(2, 100)))
    assert len(rows) == 100
    assert rows[[f"{name}_vote" for name in THEORY_NAMES]].to_numpy().tolist() == [[0.0] * 10] * 100
    assert rows["momentum_120"].isna().all()


def test_since_selects_rows_by_as_of() -> None:
    grid = grid_of(walk(2, 300))
    whole = compute_features(grid)
    since = START + timedelta(minutes=250)
    part = compute_features(grid, since=since)
    assert part["as_of"].min() == since and len(part) == 51
    pd.testing.assert_frame_equal(part, whole[whole["as_of"] >= since].reset_index(drop=True))
    assert compute_features(grid, since=START + timedelta(days=9)).empty


def test_an_empty_grid_gives_an_empty_frame_of_the_same_shape() -> None:
    empty = compute_features(grid_of(walk(2, 300)).iloc[:0])
    assert empty.empty and list(empty.columns) == list(compute_features(grid_of(walk(2, 30))).columns)


def test_bad_grids_are_refused_in_one_sentence() -> None:
    grid = grid_of(walk(2, 300))
    with pytest.raises(ValueError, match="lacks close"):
        compute_features(grid.drop(columns="close"))
    with pytest.raises(ValueError, match="not dense"):
        compute_features(grid.drop(index=100))
    with pytest.raises(ValueError, match="timezone-aware"):
        compute_features(grid.assign(open_time=grid["open_time"].dt.tz_localize(None)))
    with pytest.raises(ValueError, match="timezone-aware"):
        compute_features(grid, since=datetime(2024, 3, 10))  # noqa: DTZ001
    with pytest.raises(ValueError, match="is no price"):
        compute_features(grid.assign(close=grid["close"].where(grid.index != 7, -1.0)))
    with pytest.raises(ValueError, match="window of 12 "):
        compute_features(grid, (12,))
    with pytest.raises(KeyError, match="no theory"):
        explain("astrology", {})


def test_importing_the_theories_does_not_import_numba_or_scipy() -> None:
    code = "import sys, v7_pipeline.theories; print([m for m in ('numba', 'scipy', 'dagster') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
