"""Attribution: its columns, its arithmetic against slow definitions, and what it must not conclude."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.learning import attribution as module
from v7_pipeline.learning.attribution import VERDICTS
from v7_pipeline.learning.correlation import midranks
from v7_pipeline.learning.game import Combiner, coalition_values
from v7_pipeline.learning.performance import theory_performance, with_trades
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.learning.frames import EPOCH, check_stored, features_of, outcome, outcomes, simulated_trades

LATER = (EPOCH + timedelta(days=60)).to_pydatetime()


def rows_of(closed: pd.DataFrame, votes: np.ndarray) -> pd.DataFrame:
    return with_trades(theory_performance(closed, features_of(closed, votes)), closed)


def attribution(rows: pd.DataFrame, **options) -> pd.DataFrame:
    options = {"as_of": LATER, "min_effective_n": 30, "permutations": 199, "resamples": 99} | options
    return module.attribution(rows, **options).rows


def attribute(closed: pd.DataFrame, votes: np.ndarray, **options) -> pd.DataFrame:
    return attribution(rows_of(closed, votes), **options).set_index(["scope", "theory_name"])


def test_rows_have_the_tables_columns_and_ten_theories_for_each_scope():
    closed, votes = simulated_trades(60, 1)
    rows = rows_of(closed, votes)
    found = attribution(rows.assign(regime=np.where(rows["symbol"] == "BTC-USD", "bull", None)))
    check_stored(found, "theory_attribution")
    scopes = ["all", "symbol:BTC-USD", "symbol:ETH-USD", "side:BUY", "side:SELL", "regime:bull"]
    assert found["scope"].tolist() == [scope for scope in scopes for _ in THEORY_NAMES]
    assert not found.duplicated(["as_of", "theory_name", "scope"]).any()
    assert set(found["verdict"]) <= set(VERDICTS)
    assert set(attribution(rows, divided_by=("side",))["scope"]) == {"all", "side:BUY", "side:SELL"}


def test_a_scope_has_the_figures_of_its_own_trades_alone():
    closed, votes = simulated_trades(200, 21)
    bought = (closed["side"] == "BUY").to_numpy()
    own = attribute(closed[bought], votes[bought]).loc["all"]
    part = attribute(closed, votes).loc["side:BUY"]
    exact = ["n", "n_eff", "accuracy", "ic", "shapley", "contribution_wins", "drift"]
    pd.testing.assert_frame_equal(own[exact], part[exact])


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


@pytest.mark.parametrize(("strength", "agreeing"), [(1e-9, 1), (0.15, 2)])
def test_coalition_values_agree_with_trading_each_coalition_by_hand(strength: float, agreeing: int):
    rng = np.random.default_rng(4)
    voices = rng.choice([-1.0, -0.5, 0.0, 0.25, 0.5], size=(50, 4))
    long, short, weights = rng.normal(0, 1, 50), rng.normal(0, 1, 50), rng.uniform(0.2, 1, 50)
    rule = Combiner(strength, agreeing, (4, 3, 2, 1))
    shares = rule.shares(4)
    values = coalition_values(voices, long, short, weights, rule)
    for c in range(16):
        earned = 0.0
        for i in range(50):
            spoken = [shares[j] * voices[i, j] for j in range(4) if c >> j & 1]
            if sum(spoken) > 0 and sum(spoken) >= strength and sum(v > 0 for v in spoken) >= agreeing:
                earned += weights[i] * long[i]
            if sum(spoken) < 0 and -sum(spoken) >= strength and sum(v < 0 for v in spoken) >= agreeing:
                earned += weights[i] * short[i]
        assert values[c] == pytest.approx(earned / weights.sum(), abs=1e-14)


def test_the_game_does_not_depend_on_how_threads_share_the_trades():
    rng = np.random.default_rng(5)
    voices, long, weights = rng.normal(size=(4001, 3)), rng.normal(size=4001), rng.uniform(0.1, 1, 4001)
    one, three = (coalition_values(voices, long, -long, weights, Combiner(0.1, 2), threads=n) for n in (1, 3))
    np.testing.assert_allclose(one, three, rtol=1e-12)


def test_all_ten_together_trade_exactly_as_the_rules_analyst_does():
    from v7_pipeline.analyst.base import CONSERVATIVE
    from v7_pipeline.analyst.rules import READING_COLUMNS, decide_frame

    rng = np.random.default_rng(6)
    n = 400
    readings = pd.DataFrame({name: np.full(n, 4e-4) for name in READING_COLUMNS} | {"market_price": 100.0})
    # Tenths, so that many sums lie on the threshold but for rounding.
    votes, scores = rng.choice([-1.0, 0.0, 0.5, 1.0], (n, 10)), rng.integers(0, 11, (n, 10)) / 10
    for j, theory in enumerate(THEORY_NAMES):
        readings[f"{theory}_vote"], readings[f"{theory}_score"] = votes[:, j], scores[:, j]
    side = decide_frame(readings, quote_increment=0.01, horizon_minutes=240, reward_risk=1.5)["side"].to_numpy()
    rule = Combiner(CONSERVATIVE.min_strength, CONSERVATIVE.min_agreeing)
    for i in range(n):
        worth = coalition_values(votes[i : i + 1] * scores[i : i + 1], np.ones(1), -np.ones(1), np.ones(1), rule)
        assert worth[-1] == {"BUY": 1.0, "SELL": -1.0, "HOLD": 0.0}[side[i]]
    assert {"BUY", "SELL", "HOLD"} == set(side)


def test_shapley_values_share_out_in_r_what_all_ten_earn_together():
    closed, votes = simulated_trades(300, 5)
    market = np.where(closed["side"] == "BUY", 1, -1) * closed["gross_return"].to_numpy()
    direction = np.sign((votes * np.abs(votes)).sum(axis=1).round(9))
    everyone = ((direction * market - np.abs(direction) * closed["fees"].to_numpy()) / 0.01).mean()
    found = attribute(closed, votes)
    assert found.loc["all", "shapley"].sum() == pytest.approx(everyone)


def test_a_trade_whose_risk_is_not_known_has_no_part_in_the_game():
    closed, votes = simulated_trades(40, 5)
    unknown = closed.assign(r_multiple=closed["r_multiple"].where(closed.index >= 10))
    figures = attribute(unknown, votes).loc["all", "shapley"]
    np.testing.assert_allclose(figures, attribute(closed[10:], votes[10:]).loc["all", "shapley"])
    assert attribute(closed.assign(r_multiple=np.nan), votes).loc["all", "shapley"].isna().all()


def test_scores_in_wins_and_in_losses_are_weighted_means():
    closed, votes = simulated_trades(100, 22)
    found = attribute(closed, votes).loc["all"]
    won = (closed["outcome"] == "win").to_numpy()
    np.testing.assert_allclose(found["contribution_wins"], np.abs(votes[won]).mean(axis=0))
    np.testing.assert_allclose(found["contribution_losses"], np.abs(votes[~won]).mean(axis=0))


def test_drift_is_the_later_halfs_accuracy_less_the_earliers():
    closed, votes = simulated_trades(400, 23)
    market = np.where(closed["side"] == "BUY", 1, -1) * closed["gross_return"].to_numpy()
    votes[:, 0] = np.where(np.arange(400) < 200, 1, -1) * np.sign(market) * np.tile([1, 1, 1, -1], 100)
    row = attribute(closed, votes).loc[("all", THEORY_NAMES[0])]
    assert row["drift"] == pytest.approx(-0.5, abs=0.01)  # .75 right, then .25
    assert row["drift_lower"] < row["drift"] < row["drift_upper"] < -0.3
    assert row["drift_p"] < 1e-6
    # Newcombe (1998), example (a) of method 10: 56/70 less 48/80 is .2 [.0524, .3339].
    assert module._difference(56, 70, 48, 80)[:3] == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_ranks_share_their_places_where_values_are_tied():
    x = np.array([3.0, -1.0, 3.0, 0.5, -1.0, 3.0])
    assert midranks(x).tolist() == pd.Series(x).rank().tolist()


def test_the_bootstrap_of_trades_that_do_not_overlap_is_as_wide_as_theory_says():
    closed, votes = simulated_trades(3000, 24)
    row = attribute(closed, votes, resamples=999).loc[("all", THEORY_NAMES[0])]
    assert row["ic_upper"] - row["ic_lower"] == pytest.approx(2 * 1.96 / np.sqrt(row["n"]), rel=0.12)
    assert row["icir_lower"] < row["icir"] < row["icir_upper"]


def test_overlap_widens_the_bootstraps_interval():
    closed, votes = simulated_trades(1200, 25, overlap=8)
    # Outcomes and votes that last as long as the overlap, as those of one market do.
    held = np.repeat(np.arange(0, 1200, 8), 8)
    closed = closed.assign(**{c: closed[c].to_numpy()[held] for c in ("side", "gross_return", "net_return", "outcome")})
    row = attribute(closed, votes[held], resamples=499).loc[("all", THEORY_NAMES[0])]
    assert row["icir_lower"] < row["icir"] < row["icir_upper"]
    assert row["ic_upper"] - row["ic_lower"] > 2 * 2 * 1.96 / np.sqrt(row["n"])  # √8 in the limit


def test_a_theory_that_knows_helps_and_one_that_errs_hurts():
    closed, votes = simulated_trades(600, 6, informed={2: 0.7, 7: 0.3})
    found = attribute(closed, votes, permutations=999).loc["all"]
    assert found["verdict"].iloc[2] == "helps"
    assert found["verdict"].iloc[7] == "hurts"
    assert found["ic"].iloc[2] > 0.2 > -0.2 > found["ic"].iloc[7]
    assert (found["holm_p"] > found["q_value"] - 1e-9).all() and (found["q_value"] > found["p_value"] - 1e-9).all()


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
        found = attribute(closed, votes, permutations=499, divided_by=())
        named += int(found.loc["all", "verdict"].isin(["helps", "hurts"]).any())
    assert named <= 5  # 5 % of 30 is 1.5; more than 5 has probability 0.004


def test_lesson_22_no_verdict_below_the_minimum_effective_n():
    closed, votes = simulated_trades(60, 9, informed={2: 1.0}, overlap=4)
    found = attribute(closed, votes)
    assert (found["n"].groupby("scope").max()["all"]) > 30
    assert (found["verdict"] == "too few").all()
    assert found["accuracy_lower"].notna().all()


def test_a_rerun_repeats_every_figure_and_the_order_of_rows_does_not_matter():
    closed, votes = simulated_trades(120, 10)
    rows = rows_of(closed, votes)
    first = attribution(rows)
    again = attribution(rows.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(first, again)


def test_what_closes_after_the_instant_changes_nothing():
    closed, votes = simulated_trades(120, 11)
    cut = (closed["exit_time"].iloc[79] + pd.Timedelta(minutes=1)).to_pydatetime()
    whole = attribution(rows_of(closed, votes), as_of=cut)
    before = attribution(rows_of(closed.iloc[:80], votes[:80]), as_of=cut)
    pd.testing.assert_frame_equal(whole, before)
    assert whole.loc[whole["scope"] == "all", "n"].max() <= 80


def test_mirroring_market_sides_and_votes_changes_no_figure():
    closed, votes = simulated_trades(150, 12)
    mirrored = closed.assign(side=closed["side"].map({"BUY": "SELL", "SELL": "BUY"}))
    one, other = attribute(closed, votes), attribute(mirrored, -votes)
    exact = ["n", "n_eff", "accuracy", "ic", "shapley", "shrunk_accuracy"]
    one, other = one.loc["all"], other.loc["all"]
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
    found = attribution(rows_of(closed, votes), as_of=EPOCH.to_pydatetime())
    assert found["scope"].tolist() == ["all"] * 10
    assert (found["verdict"] == "too few").all()
    assert found["shapley"].isna().all()
    assert str(found["as_of"].dtype) == "datetime64[us, UTC]"


def test_lesson_21_mixed_sources_are_refused():
    closed, votes = simulated_trades(4, 15)
    rows = rows_of(closed, votes).assign(source=["live"] * 20 + ["demo"] * 20)
    with pytest.raises(ValueError, match="demo, live"):
        attribution(rows)


def test_a_trade_without_all_ten_theories_is_refused():
    closed, votes = simulated_trades(4, 16)
    with pytest.raises(ValueError, match="v7-000000 has not all ten"):
        attribution(rows_of(closed, votes).iloc[1:])
