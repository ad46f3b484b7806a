"""Proposed weights: equal without evidence, moved by evidence, and never by a theory that has too little of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.learning.weights import proposed_weights, weights_frame
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.learning.frames import EPOCH, check_stored

TWO_KNOW = np.array([0.1, 0.1] + [0.0] * 8)


def proposal(excess: np.ndarray, n: float = 500.0, least: float = 30):
    return proposed_weights(excess, np.full(len(excess), n), min_effective_n=least)


def test_differences_that_chance_explains_leave_equal_weights():
    # statistics.md's ten theories with 7 … 14 of 20 right: no variance beyond the binomial.
    found = proposal(np.array([8, 14, 11, 10, 9, 12, 13, 7, 10, 11]) / 20 - 0.5, n=20, least=10)
    assert found.weights.tolist() == [0.1] * 10
    assert (found.equal_share, found.between_variance) == (1.0, 0.0) and found.heterogeneity_p > 0.3


def test_theories_that_know_get_more_and_the_more_so_the_more_evidence_there_is():
    few, many = proposal(TWO_KNOW, 500), proposal(TWO_KNOW, 5000)
    for found in (few, many):
        assert found.weights.sum() == pytest.approx(1) and (found.weights > 0).all()
        assert found.weights[:2].min() > found.weights[2:].max()
    assert many.weights[0] > few.weights[0] > 0.1
    assert many.equal_share < few.equal_share < 1


def test_a_theory_that_hurts_gets_its_equal_part_only():
    found = proposal(np.array([-0.1, -0.1] + [0.05] * 8), 2000)
    assert found.weights[0] == pytest.approx(found.equal_share / 10)


def test_where_no_theory_is_better_than_expected_weights_stay_equal():
    assert proposal(np.array([-0.3] * 5 + [-0.1] * 5), 2000).weights.tolist() == [0.1] * 10


def test_lesson_22_a_theory_below_the_minimum_has_no_say_and_an_equal_weight():
    n = np.array([500.0] * 9 + [10.0])
    wild = proposed_weights(np.append(TWO_KNOW[:9], 0.5), n, min_effective_n=30)
    assert wild.weights[9] == pytest.approx(0.1)
    assert proposed_weights(np.append(TWO_KNOW[:9], np.nan), n, min_effective_n=30).weights == pytest.approx(
        wild.weights
    )
    assert proposal(TWO_KNOW, 20).weights.tolist() == [0.1] * 10


def test_on_noise_weights_are_equal_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    moved = sum(proposal(rng.binomial(100, 0.5, 10) / 100 - 0.5, 100).equal_share < 1 for _ in range(1000))
    assert 30 <= moved <= 70  # 50 ± 3 deviations


def test_rows_carry_their_evidence_and_what_is_missing_is_null():
    evidence = pd.DataFrame(
        {
            "theory_name": THEORY_NAMES,
            "n_eff": [500.0] * 9 + [0.0],
            "accuracy": [0.6, *[0.5] * 8, np.nan],
            "expected_accuracy": [0.5] * 9 + [np.nan],
            "holm_p": [0.01, *[1.0] * 8, np.nan],
        }
    )
    rows = weights_frame(evidence, as_of=EPOCH, min_effective_n=30)
    check_stored(rows.assign(acting=False), "theory_weights")
    assert json.loads(rows["evidence"].iloc[0])["accuracy"] == 0.6
    last = json.loads(rows["evidence"].iloc[9])
    assert (last["accuracy"], last["holm_p"], last["min_effective_n"]) == (None, None, 30.0)
    with pytest.raises(ValueError, match=r"lack the column.s. holm_p"):
        weights_frame(evidence.drop(columns="holm_p"), as_of=EPOCH, min_effective_n=30)
