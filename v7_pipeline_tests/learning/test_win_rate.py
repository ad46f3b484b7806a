"""The Beta posterior's reference values and the win_rates rows of an instant."""

from __future__ import annotations

from datetime import datetime, timedelta

import pandas as pd
import pytest

from v7_pipeline.learning.statistics import wilson
from v7_pipeline.learning.win_rate import BetaPosterior, shrunk_posteriors, win_rates
from v7_pipeline_tests.learning.frames import EPOCH, check_stored, outcome, outcomes

LATER = (EPOCH + timedelta(days=1)).to_pydatetime()


def rates(
    frame: pd.DataFrame,
    as_of: datetime = LATER,
    prior: tuple[float, float] = (1.0, 1.0),
    half_life: float | None = None,
) -> pd.DataFrame:
    made = win_rates(frame, as_of=as_of, prior_alpha=prior[0], prior_beta=prior[1], half_life_trades=half_life)
    return made.set_index("scope")


def test_beta_13_9_has_the_reference_mean_sd_interval_and_probabilities():
    posterior = BetaPosterior(13, 9)
    assert posterior.mean == pytest.approx(0.590909, abs=5e-7)
    assert posterior.sd == pytest.approx(0.102519, abs=5e-7)
    assert posterior.interval() == pytest.approx((0.384354, 0.781803), abs=5e-7)
    assert posterior.prob_above(0.5) == pytest.approx(0.808345, abs=5e-7)
    assert posterior.prob_above(0.55) == pytest.approx(0.658729, abs=5e-7)


def test_impossible_beliefs_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        BetaPosterior(0, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        BetaPosterior(1, 1).interval(95)


def test_each_scope_counts_its_own_paper_outcomes():
    frame = outcomes(
        [
            outcome(0),
            outcome(1, symbol="ETH-USD", side="SELL", outcome="loss", tier="LOW"),
            outcome(2, symbol="ETH-USD", strategy="v6", tier=None),
            outcome(3, outcome="breakeven"),
            outcome(4, kind="shadow", outcome="loss"),
            outcome(5, kind="manual", outcome="loss"),
            outcome(6, outcome="open", exit_time=pd.NaT),
        ]
    )
    table = rates(frame)
    assert table["n"].to_dict() == {
        "all": 3, "shadow:all": 1, "strategy:v6": 1, "strategy:v7": 2, "symbol:BTC-USD": 1, "symbol:ETH-USD":
        2, "side:BUY": 2, "side:SELL": 1, "tier:HIGH": 1, "tier:LOW": 1, "manual:all": 1,
    }  # fmt: skip
    assert table.loc["all", ["alpha", "beta", "mean"]].tolist() == [3.0, 2.0, 0.6]
    assert table.loc["symbol:ETH-USD", ["alpha", "beta"]].tolist() == [2.0, 2.0]
    assert ((table["lower"] < table["mean"]) & (table["mean"] < table["upper"])).all()


def test_rows_have_the_tables_columns():
    frame = outcomes([outcome(0), outcome(1, outcome="loss")])
    check_stored(win_rates(frame, as_of=LATER, prior_alpha=1, prior_beta=1), "win_rates")
    check_stored(win_rates(frame.iloc[:0], as_of=LATER, prior_alpha=1, prior_beta=1), "win_rates")


def test_the_seed_example_of_12_wins_in_20_gives_beta_13_9():
    frame = outcomes([outcome(i, outcome="win" if i < 12 else "loss") for i in range(20)])
    row = rates(frame).loc["all"]
    assert (row["alpha"], row["beta"], row["n"]) == (13, 9, 20)
    assert (row["lower"], row["upper"]) == pytest.approx((0.384354, 0.781803), abs=5e-7)


def test_trades_of_one_move_are_one_piece_of_evidence():
    """Twenty sells into one crash, all won: as sure as one win, not as twenty."""
    at = {"entry_time": EPOCH, "exit_time": EPOCH + pd.Timedelta(minutes=60)}
    frame = outcomes([outcome(i, side="SELL", **at) for i in range(20)])
    row = rates(frame).loc["side:SELL"]
    assert (row["alpha"], row["beta"], row["n"]) == (pytest.approx(2), 1, 20)
    later = {"entry_time": EPOCH + pd.Timedelta(minutes=61), "exit_time": EPOCH + pd.Timedelta(minutes=90)}
    half = outcomes([outcome(0, **at), outcome(1, outcome="loss", **later)])
    assert rates(half).loc["all", ["alpha", "beta"]].tolist() == [2, 2]


def test_overlap_counts_within_a_scope_only():
    at = {"entry_time": EPOCH, "exit_time": EPOCH + pd.Timedelta(minutes=9)}
    frame = outcomes([outcome(0, **at), outcome(1, symbol="ETH-USD", **at)])
    table = rates(frame)
    assert table.loc["all", "alpha"] == pytest.approx(2)
    assert table.loc[["symbol:BTC-USD", "symbol:ETH-USD"], "alpha"].tolist() == [2, 2]


def test_an_outcome_counts_from_the_end_of_its_exit_candle_on():
    frame = outcomes([outcome(0)])
    closed = (frame["exit_time"].iloc[0] + pd.Timedelta(minutes=1)).to_pydatetime()
    assert rates(frame, closed).loc["all", "n"] == 1
    assert rates(frame, closed - timedelta(microseconds=1)).loc["all", "n"] == 0


def test_without_outcomes_the_prior_is_shown_with_n_0():
    table = rates(outcomes([]), prior=(3, 2))
    assert table.index.tolist() == ["all", "shadow:all"]
    assert table["n"].tolist() == [0, 0]
    assert table["mean"].tolist() == [0.6, 0.6]
    assert str(table["as_of"].dtype) == "datetime64[us, UTC]"


def test_lesson_29_shadow_outcomes_keep_learning_fed_while_nothing_is_accepted():
    frame = outcomes([outcome(i, kind="shadow", outcome="win") for i in range(10)])
    table = rates(frame)
    assert table.loc["shadow:all", "n"] == 10
    assert table.loc["shadow:all", "mean"] > 0.9
    assert table.loc["all", "n"] == 0


def test_lesson_04_naive_instants_are_refused():
    with pytest.raises(ValueError, match="no time zone"):
        rates(outcomes([outcome(0)]), datetime(2023, 12, 12))  # noqa: DTZ001
    naive = outcomes([outcome(0)]).assign(exit_time=pd.Timestamp("2023-12-11T00:05:00"))
    with pytest.raises(ValueError, match="exit_time"):
        rates(naive)


def test_lesson_21_mixed_sources_are_refused():
    frame = outcomes([outcome(0), outcome(1, source="backtest")])
    with pytest.raises(ValueError, match="backtest, live"):
        rates(frame)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="tier"):
        rates(outcomes([outcome(0)]).drop(columns="tier"))


def streak(words: str, start: int = 0, **changes: object) -> list[dict[str, object]]:
    """Outcomes one after another: w a win, l a loss."""
    return [outcome(start + i, outcome="win" if c == "w" else "loss", **changes) for i, c in enumerate(words)]


def test_the_prior_the_discount_and_the_effective_n_stand_beside_each_posterior():
    table = rates(outcomes(streak("wwl")), prior=(3, 2), half_life=50)
    assert table.loc["all", ["prior_alpha", "prior_beta", "half_life_trades"]].tolist() == [3, 2, 50]
    assert table.loc["all", "n_eff"] == pytest.approx(table.loc["all", "alpha"] + table.loc["all", "beta"] - 5)
    assert table.loc["all", "n_eff"] < table.loc["all", "n"] == 3
    assert rates(outcomes(streak("wwl")))["half_life_trades"].isna().all()


def test_a_half_life_halves_a_trade_with_so_many_effective_later_ones():
    row = rates(outcomes(streak("lwwww")), half_life=2).loc["all"]
    assert row["beta"] == pytest.approx(1 + 0.25)
    assert row["alpha"] == pytest.approx(1 + 1 + 2**-0.5 + 2**-1 + 2**-1.5)
    at = {"entry_time": EPOCH + pd.Timedelta(minutes=60), "exit_time": EPOCH + pd.Timedelta(minutes=90)}
    crowd = outcomes([outcome(0, outcome="loss"), *(outcome(i, **at) for i in range(2, 22))])
    assert rates(crowd, half_life=1).loc["all", "beta"] == pytest.approx(1.5)  # twenty at once age it by one
    with pytest.raises(ValueError, match="above 0"):
        rates(outcomes(streak("w")), half_life=0)


def test_a_half_life_forgets_what_no_longer_holds():
    frame = outcomes(streak("w" * 60 + "l" * 20))
    assert rates(frame).loc["all", "mean"] > 0.7
    assert rates(frame, half_life=10).loc["all", "mean"] < 0.35


def test_scopes_that_chance_explains_are_shrunk_to_their_parent():
    rows = streak("wwlwl") + streak("wlwlw", 5, symbol="ETH-USD")
    table = rates(outcomes(rows))
    for scope in ("symbol:BTC-USD", "symbol:ETH-USD"):
        assert table.loc[scope, "parent_scope"] == "all"
        assert table.loc[scope, ["shrunk_mean", "shrunk_lower", "shrunk_upper"]].tolist() == pytest.approx(
            table.loc["all", ["mean", "lower", "upper"]].tolist()
        )
    assert table.loc[["all", "shadow:all"], ["shrunk_mean", "parent_scope"]].isna().all(axis=None)


def test_scopes_that_chance_cannot_explain_keep_their_difference_and_lean_on_the_parent_when_small():
    rows = streak("w" * 90 + "l" * 10) + streak("w" * 10 + "l" * 90, 100, symbol="ETH-USD")
    table = rates(outcomes([*rows, *streak("l", 200, symbol="SOL-USD")]), LATER + timedelta(days=3))
    near, all_ = table["shrunk_mean"], table.loc["all", "mean"]
    assert 0.9 > near["symbol:BTC-USD"] > 0.88
    assert 0.1 < near["symbol:ETH-USD"] < 0.12
    assert 0.1 < near["symbol:SOL-USD"] < all_ - 0.1  # one trade says little, and not nothing
    assert ((table["shrunk_lower"] < near) & (near < table["shrunk_upper"]))[near.notna()].all()


def test_the_reference_example_without_variance_between_shrinks_every_group_to_the_parent():
    wins = [8, 14, 11, 10, 9, 12, 13, 7, 10, 11]
    parent = BetaPosterior(1 + sum(wins), 1 + 200 - sum(wins))
    found = shrunk_posteriors([float(w) for w in wins], [20.0 - w for w in wins], parent)
    assert found == [parent] * 10
    assert parent.mean == pytest.approx(0.525, abs=3e-4)


def test_the_interval_of_12_in_20_is_beta_s_not_wilson_s():
    assert BetaPosterior(13, 9).interval() != pytest.approx(wilson(12, 20), abs=1e-4)


def test_lesson_21_manual_trades_and_what_hold_forwent_are_scopes_of_their_own():
    rows = [
        *streak("ww", decision="BUY", regime="bull"),
        *streak("lll", 2, kind="shadow", decision="HOLD", regime="bull"),
        *streak("ll", 5, kind="shadow", decision="SELL", regime="bear"),
        *streak("l", 7, kind="manual", decision="BUY", regime="bear"),
        *streak("l", 8, decision="BUY", regime=None),
    ]
    table = rates(pd.DataFrame(rows))
    n = table["n"]
    assert (n["all"], n["shadow:all"], n["hold:all"], n["manual:all"]) == (3, 2, 3, 1)
    assert n["regime:bull"] == 2 and "regime:bear" not in n
    assert table.loc["all", ["alpha", "beta"]].tolist() == [3, 2]
