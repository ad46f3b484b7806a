"""Calibration against reference values, another implementation, and forecasters whose truth is known."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from v7_pipeline.learning.calibration import (
    Calibration,
    brier,
    calibration,
    calibration_rows,
    expected_calibration_error,
    fit_isotonic,
    fit_platt,
    log_loss,
    logistic_recalibration,
    prequential,
    reliability_bins,
)
from v7_pipeline.learning.statistics import wilson
from v7_pipeline_tests.learning.frames import EPOCH, check_stored

LATER = (EPOCH + pd.Timedelta(days=900)).to_pydatetime()
TEN = ([0.2] * 5 + [0.8] * 5, [1, 0, 0, 0, 0, 1, 1, 1, 1, 0])


def test_brier_of_the_reference_example_is_0_0375():
    assert brier([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3]).score == pytest.approx(0.0375)


def test_murphys_parts_of_ten_forecasts_are_0_09_25_and_16():
    found = brier(TEN[1], TEN[0])
    assert (found.reliability, found.resolution) == (pytest.approx(0, abs=1e-15), pytest.approx(0.09))
    assert (found.uncertainty, found.score) == (pytest.approx(0.25), pytest.approx(0.16))
    assert found.within == pytest.approx(0, abs=1e-15)


pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 100), st.integers(1, 9)), min_size=1, max_size=30)


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_the_parts_sum_to_the_score_and_a_weight_is_a_repetition(rows):
    y, p, w = (np.array(column) for column in zip(*rows, strict=True))
    for bins in (False, True):
        found = brier(y, p / 100, w, bins=bins)
        again = brier(np.repeat(y, w), np.repeat(p, w) / 100, bins=bins)
        assert found.score == pytest.approx(np.mean((np.repeat(y, w) - np.repeat(p, w) / 100) ** 2))
        assert found.reliability == pytest.approx(again.reliability)
        assert found.resolution == pytest.approx(again.resolution)
        parts = found.reliability - found.resolution + found.uncertainty + found.within
        assert parts == pytest.approx(found.score)
        if not bins:  # equal forecasts: nothing is lost within a group
            assert found.within == pytest.approx(0, abs=1e-12)


def test_log_loss_is_minus_the_mean_log_and_finite_where_certainty_was_wrong():
    expected = -np.mean(np.log([0.9, 0.9, 0.8, 0.7]))
    assert log_loss([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3]) == pytest.approx(expected)
    assert 10 < log_loss([0], [1.0]) < 20
    assert np.isnan(log_loss([], []))


def test_bins_hold_their_lower_end_have_wilson_intervals_and_make_the_ece():
    bins = reliability_bins([1, 0, 1, 1, 0], [0.6, 0.64, 0.65, 0.15, 1.0])
    assert [(b.lower, b.upper, b.n) for b in bins] == [(0.15, 0.2, 1), (0.6, 0.65, 2), (0.65, 0.7, 1), (0.95, 1.0, 1)]
    assert (bins[1].rate, bins[1].confidence) == (0.5, pytest.approx(0.62))
    assert (bins[1].rate_lower, bins[1].rate_upper) == pytest.approx(wilson(1, 2))
    assert expected_calibration_error(bins) == pytest.approx((0.85 + 2 * 0.12 + 0.35 + 1.0) / 5)
    assert expected_calibration_error(reliability_bins(TEN[1], TEN[0])) == pytest.approx(0)
    assert reliability_bins([], []) == () and np.isnan(expected_calibration_error(()))


def test_overlapping_results_widen_a_bins_interval():
    narrow, wide = (reliability_bins([1, 0] * 20, [0.6] * 40, np.full(40, w))[0] for w in (1.0, 0.1))
    assert wide.n == narrow.n == 40 and wide.n_eff == pytest.approx(4)
    assert wide.rate_upper - wide.rate_lower > 2 * (narrow.rate_upper - narrow.rate_lower)


@pytest.mark.parametrize(
    ("happened", "forecast", "told"),
    [([2], [0.5], "1 where it happened"), ([1], [50.0], "between 0 and 1"), ([1, 0], [0.5], "belong together")],
)
def test_what_is_no_forecast_or_no_result_is_refused(happened, forecast, told):
    with pytest.raises(ValueError, match=told):
        brier(happened, forecast)


@given(pairs)
@settings(max_examples=30, deadline=None)
def test_the_isotonic_map_is_scikit_learns(rows):
    y, p, w = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p / 100, y, sample_weight=w)
    at = np.linspace(0, 1, 21)
    assert fit_isotonic(y, p / 100, w)(at) == pytest.approx(theirs.predict(at), abs=1e-9)


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(3)
    y, p, w = rng.integers(0, 2, 50), rng.uniform(0.01, 0.99, 50), rng.uniform(0.1, 1, 50)
    assert brier(y, p, w).score == pytest.approx(brier_score_loss(y, p, sample_weight=w))
    assert log_loss(y, p, w) == pytest.approx(sklearn_log_loss(y, p, sample_weight=w))


def test_the_logistic_slope_finds_a_planted_distortion_and_is_finite_for_one_class_or_equal_forecasts():
    rng = np.random.default_rng(5)
    p = rng.uniform(0.1, 0.9, 40_000)
    odds = np.log(p / (1 - p))
    y = rng.random(len(p)) < 1 / (1 + np.exp(-(-0.4 + 0.5 * odds)))
    assert logistic_recalibration(y, p) == pytest.approx((-0.4, 0.5), abs=0.04)
    assert np.isfinite(logistic_recalibration([1, 1, 1], [0.9, 0.99, 1.0])).all()
    assert np.isfinite(logistic_recalibration([1, 0, 1], [0.6, 0.6, 0.6])).all()
    assert logistic_recalibration([], []) == (0.0, 1.0)


@pytest.mark.parametrize("ridge", [1e-9, 1.0, 30.0])
def test_the_logistic_line_is_scikit_learns_but_is_pulled_towards_the_confidence_and_not_towards_none(ridge):
    """Without a penalty they are one. With one, scikit-learn pulls the slope to 0, ours both to "as given", (0, 1)."""
    rng = np.random.default_rng(6)
    p, w = rng.uniform(0.05, 0.95, 300), rng.uniform(0.2, 1, 300)
    odds = np.log(p / (1 - p))
    y = (rng.random(300) < 1 / (1 + np.exp(0.4 - 0.5 * odds))).astype(float)
    intercept, slope = logistic_recalibration(y, p, w, ridge=ridge)
    theirs = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(odds[:, None], y, sample_weight=w)
    free = (float(theirs.intercept_[0]), float(theirs.coef_[0, 0]))
    if ridge < 1e-6:
        assert (intercept, slope) == pytest.approx(free, abs=1e-5)

    def cost(a: float, b: float) -> float:
        loss = np.sum(w) * sklearn_log_loss(y, 1 / (1 + np.exp(-(a + b * odds))), sample_weight=w)
        return loss + ridge / 2 * (a**2 + (b - 1) ** 2)

    around = [cost(intercept + 1e-3 * i, slope + 1e-3 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert min(around) == around[4] and around[4] <= cost(*free) + 1e-9


def test_the_platt_map_never_turns_a_confidence_upside_down():
    upside_down = fit_platt([1] * 50 + [0] * 50, [0.6] * 50 + [0.9] * 50)
    assert np.ptp(upside_down([0.55, 0.7, 0.95])) == 0
    assert upside_down(0.7) == pytest.approx(0.5)


def signals(confidence: np.ndarray, won: np.ndarray, *, overlap: int = 1) -> pd.DataFrame:
    """Closed signals, one each ten minutes, each open for ten minutes times `overlap`."""
    n = len(won)
    as_of = EPOCH + pd.to_timedelta(10 * np.arange(n), unit="min")
    frame = pd.DataFrame({"as_of": as_of, "entry_time": as_of, "confidence": confidence})
    return frame.assign(exit_time=as_of + pd.Timedelta(minutes=10 * overlap - 1), outcome=np.where(won, "win", "loss"))


def of_forecaster(n: int, seed: int, truth) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.55, 0.95, n)
    return signals(confidence, rng.random(n) < truth(confidence))


def judged(frame: pd.DataFrame, **changes: object) -> Calibration:
    return calibration(frame, **({"as_of": LATER, "min_effective_n": 30} | changes))  # type: ignore[arg-type]


def test_lesson_22_each_figure_is_told_with_what_it_rests_on():
    found = judged(of_forecaster(20, 1, lambda c: c))
    assert found.n == 20 and found.method == "none" and np.isnan(found.skill) and np.isnan(found.slope)
    assert found.words == "too few to judge: 20 outcomes, worth 20.0 independent ones; 30 are needed"
    crowd = judged(signals(np.full(100, 0.6), np.arange(100) % 2 == 0, overlap=50))
    assert crowd.n == 100 and crowd.n_eff < 10 and crowd.words.startswith("too few")
    assert crowd.method == "none" and np.isnan(crowd.skill) and np.isnan(crowd.slope)


def test_no_outcome_and_one_class_are_told_in_words():
    assert judged(signals(np.empty(0), np.empty(0, dtype=bool))).words.startswith("nothing to judge")
    found = judged(signals(np.full(50, 0.7), np.ones(50, dtype=bool)))
    assert found.words == "nothing to compare: all 50 outcomes are wins"
    assert found.brier.score == pytest.approx(0.09) and found.method == "none"


def test_a_calibrated_forecaster_has_skill_and_an_overconfident_one_gains_it_by_recalibration():
    good = judged(
        of_forecaster(6000, 2, lambda c: (c - 0.55) / 0.4).assign(confidence=lambda f: (f.confidence - 0.55) / 0.4)
    )
    assert good.skill_lower > 0.25 and good.slope == pytest.approx(1, abs=0.1)
    assert good.words.startswith("better")
    bold = judged(of_forecaster(3000, 2, lambda c: 0.4 + 0 * c))
    assert bold.skill_upper < 0 and bold.words.startswith("worse")
    assert bold.recalibrated_brier < bold.brier.score - 0.05
    assert bold.recalibrated_brier == pytest.approx(0.24, abs=0.01)
    assert bold.ece == pytest.approx(0.35, abs=0.03)


def test_a_forecaster_of_the_base_rate_is_not_told_from_it():
    rng = np.random.default_rng(8)
    assert judged(signals(np.full(500, 0.6), rng.random(500) < 0.6)).words.startswith("not distinguishable")


@pytest.mark.parametrize("method", ["platt", "isotonic", None])
def test_a_forecast_uses_only_results_that_closed_before_it(method):
    frame = of_forecaster(300, 4, lambda c: c - 0.2).assign(won=lambda f: (f.outcome == "win").astype(float))
    frame["exit_time"] += pd.Timedelta(minutes=200)  # twenty later signals do not know a result yet
    told = prequential(frame, method=method)
    assert np.isnan(told[:50]).all() and not np.isnan(told[50:]).any()
    other = frame.copy()
    other.loc[150:, "won"] = 1 - other.loc[150:, "won"]
    changed = prequential(other, method=method)
    first = 150 + 21  # the first signal that knows the result of number 150
    assert told[50:first].tolist() == changed[50:first].tolist()
    assert told[-1] != changed[-1]


def test_outcomes_that_close_later_breakevens_and_missing_confidences_do_not_count():
    frame = of_forecaster(100, 6, lambda c: c)
    cut = (frame["exit_time"].iloc[59] + pd.Timedelta(minutes=1)).to_pydatetime()
    assert judged(frame, as_of=cut) == judged(frame.iloc[:60])
    assert judged(frame, as_of=cut - timedelta(microseconds=1)).n == 59
    assert judged(frame.assign(outcome="breakeven")).n == 0
    assert judged(frame.assign(confidence=np.nan)).n == 0


def test_rows_have_the_tables_columns_and_readable_bins():
    found = [judged(of_forecaster(200, 7, lambda c: c)), judged(of_forecaster(3, 7, lambda c: c), scope="model:m@f")]
    frame = calibration_rows(found, LATER)
    check_stored(frame, "calibrations")
    bins = json.loads(frame["bins"].iloc[0])
    assert sum(one["n"] for one in bins) == 200 and set(bins[0]) >= {"lower", "rate", "rate_lower", "n_eff"}
    assert frame["scope"].tolist() == ["all", "model:m@f"] and frame["method"].tolist() == ["platt", "none"]
    check_stored(calibration_rows([], LATER), "calibrations")
