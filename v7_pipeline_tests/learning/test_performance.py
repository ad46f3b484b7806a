"""One row for each closed outcome and theory, and what counts as having been right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.learning.performance import forward_return, theory_performance, with_trades
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.learning.frames import check_stored, features_of, outcome, outcomes

VOTES = np.array([[1.0, 0.25, 0.0, -0.25, -1.0, 0.5, 0.0, 0.0, 1.0, -1.0]])


def test_rows_have_the_tables_columns_and_ten_theories_each():
    closed = outcomes([outcome(0), outcome(1, kind="shadow")])
    rows = theory_performance(closed, features_of(closed, np.repeat(VOTES, 2, axis=0)))
    check_stored(rows, "theory_performance")
    assert rows.groupby("signal_id")["theory_name"].agg(list).tolist() == [list(THEORY_NAMES)] * 2
    assert rows["kind"].value_counts().to_dict() == {"paper": 10, "shadow": 10}
    assert rows["vote"].tolist() == VOTES[0].tolist() * 2
    assert (rows["created_at"].iloc[::10].to_numpy() == closed["exit_time"].to_numpy()).all()


def test_lesson_09_was_correct_is_written_for_every_vote_of_a_closed_outcome():
    closed = outcomes([outcome(0)])  # the market rose by more than its costs
    rows = theory_performance(closed, features_of(closed, VOTES)).set_index("theory_name")
    for name, vote in zip(THEORY_NAMES, VOTES[0], strict=True):
        correct = rows.loc[name, "was_correct"]
        assert correct is pd.NA if vote == 0 else correct == (vote > 0)


def test_lesson_10_each_theory_brings_its_own_score_and_vote():
    closed = outcomes([outcome(0)])
    scores = np.linspace(0.05, 0.95, 10)[None, :]
    rows = theory_performance(closed, features_of(closed, VOTES, scores))
    assert rows["contribution_score"].tolist() == scores[0].tolist()


@pytest.mark.parametrize(
    ("side", "gross", "expected"),
    [
        ("BUY", 0.010, 0.009),  # a winning BUY's net return
        ("SELL", 0.010, -0.009),  # minus a winning SELL's
        ("BUY", -0.010, -0.009),  # a losing BUY: the market fell by more than its costs
        ("BUY", 0.0005, 0.0),  # neither side covered its costs
        ("SELL", -0.0005, 0.0),
    ],
)
def test_forward_return_is_the_moves_net_return_signed_long(side, gross, expected):
    frame = outcomes([outcome(0, side=side, gross_return=gross, fees=0.001, net_return=gross - 0.001)])
    assert forward_return(frame).iloc[0] == pytest.approx(expected)


@given(st.floats(-0.05, 0.05), st.floats(0, 0.01))
@settings(max_examples=60, deadline=None)
def test_a_vote_is_right_exactly_when_trading_it_would_have_beaten_its_costs(market, fees):
    """Whichever side was taken: forward return depends on the move alone, and mirrors with it."""
    both = outcomes(
        [
            outcome(0, gross_return=market, fees=fees),
            outcome(1, side="SELL", gross_return=-market, fees=fees),
            outcome(2, gross_return=-market, fees=fees),
        ]
    )
    forward = forward_return(both).to_numpy()
    assert forward[0] == forward[1] == -forward[2]
    assert (forward[0] > 0) == (market > fees)
    assert (forward[0] < 0) == (-market > fees)


def test_nobody_is_right_where_the_move_did_not_cover_its_costs():
    closed = outcomes([outcome(0, gross_return=0.0005, net_return=-0.0005, outcome="loss")])
    rows = theory_performance(closed, features_of(closed, VOTES))
    assert not rows["was_correct"].dropna().any()
    assert rows["was_correct"].isna().sum() == 3


def test_open_and_manual_outcomes_have_no_rows():
    closed = outcomes([outcome(0, outcome="open", exit_time=pd.NaT, gross_return=np.nan), outcome(1, kind="manual")])
    assert theory_performance(closed, features_of(closed, np.repeat(VOTES, 2, axis=0))).empty


def test_a_signal_without_its_reading_is_refused_by_name():
    closed = outcomes([outcome(0), outcome(1)])
    with pytest.raises(ValueError, match="v7-BTC-USD-20231211T001000Z closed but has no complete reading"):
        theory_performance(closed, features_of(closed.iloc[:1], VOTES))


def test_lesson_07_hold_opens_no_trade():
    with pytest.raises(ValueError, match="'HOLD' opens no trade"):
        forward_return(outcomes([outcome(0, side="HOLD")]))


def test_two_outcomes_or_readings_of_one_signal_are_refused():
    twice = outcomes([outcome(0), outcome(0, kind="shadow")])
    with pytest.raises(ValueError, match="outcomes twice"):
        theory_performance(twice, features_of(twice.iloc[:1], VOTES))


def test_with_trades_adds_what_attribution_needs():
    closed = outcomes([outcome(0), outcome(1, side="SELL")])
    rows = with_trades(theory_performance(closed, features_of(closed, np.repeat(VOTES, 2, axis=0))), closed)
    assert len(rows) == 20
    assert rows["side"].tolist() == ["BUY"] * 10 + ["SELL"] * 10
    assert {"entry_time", "exit_time", "gross_return", "fees"} <= set(rows.columns)
