"""What a simulation learns trade by trade is what learning/ says of all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.backtest.running import Threshold, Weights
from v7_pipeline.learning.statistics import average_uniqueness, halved
from v7_pipeline.learning.threshold import HALF_LIFE_TRADES, threshold_of
from v7_pipeline.settings import Settings, load_settings


def known(**changed: object) -> Settings:
    return load_settings(mode="demo", _env_file=None, **changed)


_trade = st.tuples(
    st.integers(0, 400),  # minutes open
    st.integers(0, 30),  # minutes after the exit before
    st.booleans(),
    st.sampled_from([0.3, 0.55, 0.6, 0.61, 0.74, 0.75, 0.9, 1.0]),
    st.floats(0.2, 0.6),
)


@settings(max_examples=30, deadline=None)
@given(trades=st.lists(_trade, min_size=1, max_size=40))
def test_weights_and_threshold_of_trades_one_by_one_are_those_of_all_at_once(
    trades: list[tuple[int, int, bool, float, float]],
) -> None:
    chosen = known()
    running, weights = Threshold(chosen), Weights(0)
    leave, rows = 0.0, []
    for scan, (held, gap, won, confidence, even) in enumerate(trades):
        leave += gap
        entry = leave - held
        weights.add(entry, leave)
        running.add(entry, leave, won=won, confidence=confidence, break_even=even)
        if confidence >= chosen.min_confidence:
            rows.append((entry, leave, won, confidence, even))
        previous = running.value
        running.step(scan)
        if rows:
            begin, end, wins, confidences, evens = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
            whole = threshold_of(
                confidences, wins > 0, evens, halved(average_uniqueness(begin, end + 1), end, HALF_LIFE_TRADES),
                floor=chosen.min_confidence, previous=previous, min_effective_n=chosen.min_effective_n,
                prior_alpha=chosen.prior_alpha, prior_beta=chosen.prior_beta,
            )  # fmt: skip
            assert running.value == whole.threshold
            if whole.changed:
                told = running.steps[-1][1]
                assert (told.n, told.previous, told.reason) == (whole.n, whole.previous, whole.reason)
                assert told.n_eff == pytest.approx(whole.n_eff, rel=1e-9)
                assert told.p_below == pytest.approx(whole.p_below, rel=1e-9, nan_ok=True)
    starts = np.cumsum([gap for _, gap, *_ in trades]) - [held for held, *_ in trades]
    ends = np.cumsum([gap for _, gap, *_ in trades]) + 1.0
    np.testing.assert_allclose(weights.weights, average_uniqueness(starts, ends), rtol=1e-12)


def test_what_more_evidence_came_after_than_is_remembered_counts_for_nothing() -> None:
    """A thousand effective trades later nothing is left, here as there, and equal minutes have one age."""
    chosen = known()
    running = Threshold(chosen)
    rows = [(minute, minute, minute % 3 == 0, 0.57, 0.4) for minute in range(1500)]
    rows += [(1600, 1600, True, 0.57, 0.4)] * 3
    for entry, leave, won, confidence, even in rows:
        running.add(float(entry), float(leave), won=won, confidence=confidence, break_even=even)
    running.step(0)
    begin, end, wins, confidences, evens = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    weights = halved(average_uniqueness(begin, end + 1), end, HALF_LIFE_TRADES)
    assert 0 < (weights > 0).sum() < len(rows)
    whole = threshold_of(
        confidences, wins > 0, evens, weights, floor=chosen.min_confidence, previous=None,
        min_effective_n=chosen.min_effective_n,
    )  # fmt: skip
    told = running.steps[-1][1]
    assert (told.n, told.threshold) == (whole.n, whole.threshold) and told.n == (weights > 0).sum()
    assert told.n_eff == pytest.approx(whole.n_eff, rel=1e-9)
