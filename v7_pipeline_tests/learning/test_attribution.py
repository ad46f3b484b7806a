"""Attribution: its columns, its arithmetic against slow definitions, and what it must not conclude."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.learning.attribution import attribution, coalition_values
from v7_pipeline.learning.performance import theory_performance, with_trades
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.learning.frames import EPOCH, check_stored, features_of, outcome, outcomes, simulated_trades

LATER = (EPOCH + timedelta(days=60)).to_pydatetime()


def rows_of(closed: pd.DataFrame, votes: np.ndarray) -> pd.DataFrame:
    return with_trades(theory_performance(closed, features_of(closed, votes)), closed)


def attribute(closed: pd.DataFrame, votes: np.ndarray, **options) -> pd.DataFrame:
    options = {"as_of": LATER, "min_effective_n": 30} | options
    return attribution(rows_of(closed, votes), **options).set_index(["scope", "theory_name"])


def test_rows_have_the_tables_columns_ten_for_all_and_ten_for_each_symbol():
    closed, votes = simulated_trades(60, 1)
    found = attribution(rows_of(closed, votes), as_of=LATER, min_effective_n=30)
    check_stored(found, "theory_attribution")
    assert found["scope"].value_counts().to_dict() == {"all": 10, "BTC-USD": 10, "ETH-USD": 10}
    assert not found.duplicated(["as_of", "theory_name", "scope"]).any()


def test_counts_accuracy_and_correlation_agree_with_their_definitions():
    closed, votes = simulated_trades(200, 2)
    found = attribute(closed, votes)
    market = np.where(closed["side"] == "BUY", 1, -1) * closed["gross_return"].to_numpy()
    for j, theory in enumerate(THEORY_NAMES):
        spoke = votes[:, j] != 0
        row = found.loc[("all", theory)]
        assert row["n"] == spoke.sum()
        assert row["n_eff"] == pytest.approx(spoke.sum())  # no trade overlaps another
        assert row["accuracy"] == pytest.approx((np.sign(votes[spoke, j]) == np.sign(market[spoke])).mean())
        frame = pd.DataFrame({"v": votes[spoke, j], "f": market[spoke]})
        assert row["ic"] == pytest.approx(frame.rank().corr().loc["v", "f"])
        assert row["accuracy_lower"] < row["accuracy"] < row["accuracy_upper"]
        assert row["ic_lower"] < row["ic"] < row["ic_upper"]


def test_overlapping_trades_share_weight():
    closed, votes = simulated_trades(100, 3, overlap=5)
    found = attribute(closed, np.ones_like(votes))
    assert found.loc[("all", "price_momentum"), "n"] == 100
    assert found.loc[("all", "price_momentum"), "n_eff"] == pytest.approx(20, abs=2)
    identical = outcomes([outcome(0, signal_id=f"v7-{i}") for i in range(4)])
    assert attribute(identical, np.ones((4, 10))).loc[("all", "kalman_filter"), "n_eff"] == pytest.approx(1)


def test_coalition_values_agree_with_trading_each_coalition_by_hand():
    rng = np.random.default_rng(4)
    votes = rng.choice([-1.0, -0.3, 0.0, 0.1, 0.2, 0.3], size=(50, 4))
    gross, fees, weights = rng.normal(0, 0.01, 50), np.full(50, 0.001), rng.uniform(0.2, 1, 50)
    values = coalition_values(votes, gross, fees, weights)
    for c in range(16):
        members = [j for j in range(4) if c >> j & 1]
        earned = 0.0
        for i in range(50):
            total = round(sum(votes[i, j] for j in members), 9)  # 0.1 + 0.2 − 0.3 is no position
            earned += weights[i] * (abs(gross[i]) * np.sign(gross[i] * total) - fees[i] if total else 0.0)
        assert values[c] == pytest.approx(earned / weights.sum(), abs=1e-15)


def test_shapley_values_share_out_what_all_ten_earn_together():
    closed, votes = simulated_trades(300, 5)
    market = np.where(closed["side"] == "BUY", 1, -1) * closed["gross_return"].to_numpy()
    direction = np.sign(votes.sum(axis=1).round(9))
    everyone = (direction * market - np.abs(direction) * closed["fees"].to_numpy()).mean()
    found = attribute(closed, votes)
    assert found.loc["all", "shapley"].sum() == pytest.approx(everyone)


def test_a_theory_that_knows_helps_and_one_that_errs_hurts():
    closed, votes = simulated_trades(600, 6, informed={2: 0.7, 7: 0.3})
    found = attribute(closed, votes).loc["all"]
    assert found["verdict"].iloc[2] == "helps"
    assert found["verdict"].iloc[7] == "hurts"
    assert found["shapley"].idxmax() == THEORY_NAMES[2]
    assert found["ic"].iloc[2] > 0.2 > -0.2 > found["ic"].iloc[7]
    others = found.drop([THEORY_NAMES[2], THEORY_NAMES[7]])
    assert (others["verdict"] != "indistinguishable").sum() <= 1  # a false discovery rate of 5 % allows one


def test_agreeing_with_the_side_taken_is_neither_rewarded_nor_punished():
    """A plan with reward:risk 1.5 loses 60 % of its trades on noise; a theory voting its side loses along."""
    closed, votes = simulated_trades(600, 8)
    votes[:, 0] = np.where(closed["side"] == "BUY", 1.0, -1.0)
    row = attribute(closed, votes).loc[("all", THEORY_NAMES[0])]
    assert row["accuracy_upper"] < 0.5
    assert row["verdict"] == "indistinguishable"


def test_noise_rarely_earns_a_verdict():
    named = 0
    for seed in range(30):
        closed, votes = simulated_trades(150, 100 + seed, overlap=3)
        found = attribute(closed, votes, permutations=499)
        named += int(found.loc["all", "verdict"].isin(["helps", "hurts"]).any())
    assert named <= 5  # 5 % of 30 is 1.5; more than 5 has probability 0.004


def test_lesson_22_no_verdict_below_the_minimum_effective_n():
    closed, votes = simulated_trades(60, 9, informed={2: 1.0}, overlap=4)
    found = attribute(closed, votes, min_effective_n=30)
    assert (found["n"].groupby("scope").max()["all"]) > 30
    assert (found["verdict"] == "too few").all()
    assert found["accuracy_lower"].notna().all()


def test_a_rerun_repeats_every_figure_and_the_order_of_rows_does_not_matter():
    closed, votes = simulated_trades(120, 10)
    rows = rows_of(closed, votes)
    first = attribution(rows, as_of=LATER, min_effective_n=30)
    again = attribution(rows.sample(frac=1, random_state=1), as_of=LATER, min_effective_n=30)
    pd.testing.assert_frame_equal(first, again)


def test_what_closes_after_the_instant_changes_nothing():
    closed, votes = simulated_trades(120, 11)
    cut = (closed["exit_time"].iloc[79] + pd.Timedelta(minutes=1)).to_pydatetime()
    whole = attribution(rows_of(closed, votes), as_of=cut, min_effective_n=30)
    before = attribution(rows_of(closed.iloc[:80], votes[:80]), as_of=cut, min_effective_n=30)
    pd.testing.assert_frame_equal(whole, before)
    assert whole.loc[whole["scope"] == "all", "n"].max() <= 80


def test_mirroring_market_sides_and_votes_changes_no_figure():
    closed, votes = simulated_trades(150, 12)
    mirrored = closed.assign(side=closed["side"].map({"BUY": "SELL", "SELL": "BUY"}))
    one, other = attribute(closed, votes), attribute(mirrored, -votes)
    exact = ["n", "n_eff", "accuracy", "ic", "shapley", "shrunk_accuracy"]
    np.testing.assert_allclose(one[exact].to_numpy(float), other[exact].to_numpy(float), atol=1e-12)
    assert (one["p_value"] - other["p_value"]).abs().max() < 0.1  # strata are drawn in another order


def test_a_silent_theory_has_no_figures_and_no_verdict():
    closed, votes = simulated_trades(80, 13)
    votes[:, 4] = 0.0
    row = attribute(closed, votes).loc[("all", THEORY_NAMES[4])]
    assert (row["n"], row["n_eff"], row["verdict"]) == (0, 0, "too few")
    assert row[["accuracy", "accuracy_lower", "shrunk_accuracy", "ic", "p_value", "q_value"]].isna().all()
    assert row["shapley"] == pytest.approx(0, abs=1e-15)


def test_without_outcomes_there_are_ten_empty_rows():
    closed, votes = simulated_trades(4, 14)
    found = attribution(rows_of(closed, votes), as_of=EPOCH.to_pydatetime(), min_effective_n=30)
    assert found["scope"].tolist() == ["all"] * 10
    assert (found["verdict"] == "too few").all()
    assert found["shapley"].isna().all()
    assert str(found["as_of"].dtype) == "datetime64[us, UTC]"


def test_lesson_21_mixed_sources_are_refused():
    closed, votes = simulated_trades(4, 15)
    rows = rows_of(closed, votes).assign(source=["live"] * 20 + ["demo"] * 20)
    with pytest.raises(ValueError, match="demo, live"):
        attribution(rows, as_of=LATER, min_effective_n=30)


def test_a_trade_without_all_ten_theories_is_refused():
    closed, votes = simulated_trades(4, 16)
    with pytest.raises(ValueError, match="v7-000000 has not all ten"):
        attribution(rows_of(closed, votes).iloc[1:], as_of=LATER, min_effective_n=30)
