"""Choosing on the past alone: splits as skfolio's, no leak, noise found out, a better configuration found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from skfolio.model_selection import CombinatorialPurgedCV
from skfolio.model_selection import WalkForward as TheirWalkForward

from v7_pipeline.backtest import BacktestError
from v7_pipeline.backtest.comparison import Trials
from v7_pipeline.backtest.validation import (
    Grid,
    cross_validate,
    grid_of,
    grid_overfitting,
    trials_overfitting,
    walk_forward,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def trades(days: int, seed: int, *, edge: float = 0.0, minutes: int = 60, late: bool = False) -> pd.DataFrame:
    """A few trades on each day, each `minutes` long; the last of a day ends after midnight where `late`."""
    rng = np.random.default_rng(seed)
    at = [START + n * DAY + timedelta(minutes=int(m)) for n in range(days) for m in np.sort(rng.integers(0, 1300, 4))]
    if late:
        at = [when.replace(hour=23, minute=50) if n % 4 == 3 else when for n, when in enumerate(at)]
    as_of = pd.Series(pd.DatetimeIndex(at).as_unit("us"))
    pnl = rng.normal(edge, 100.0, len(at))
    return pd.DataFrame({"as_of": as_of, "exit_time": as_of + pd.Timedelta(minutes=minutes - 1), "pnl_usd": pnl})


def grid(days: int = 60, configurations: int = 6, *, better: int | None = None, late: bool = False) -> Grid:
    named = {f"c{n}": trades(days, n, edge=120.0 if n == better else 0.0, late=late) for n in range(configurations)}
    return grid_of(named, first=START, last=START + days * DAY - timedelta(minutes=2), initial_usd=100_000.0)


def test_a_trade_counts_whole_on_the_day_it_was_decided() -> None:
    own = grid(3, 2, late=True)
    for name, frame in own.trades.items():
        by_day = frame.groupby(frame["as_of"].dt.floor("D"))["pnl_usd"].sum() / 100_000
        assert own.returns[name].tolist() == by_day.tolist()
    # Decided at 23:50 and an hour long: known at 00:50 of the next day.
    assert own.known.tolist() == [pd.Timestamp(START) + pd.Timedelta(days=n, minutes=50) for n in (1, 2, 3)]
    assert grid(3, 2).known.tolist() == [pd.Timestamp(START) + pd.Timedelta(days=n) for n in (1, 2, 3)]


@pytest.mark.parametrize("embargo", [0, 2])
def test_splits_and_paths_of_even_periods_are_skfolios(embargo: int) -> None:
    own = grid(60)
    found = cross_validate(own, embargo=embargo * DAY)
    theirs = CombinatorialPurgedCV(6, 2, embargo_size=embargo)
    values = own.returns.to_numpy()
    assert len(found.splits) == theirs.n_splits == 15 and found.paths.shape == (60, theirs.n_test_paths)
    for row, (train, tests) in zip(found.splits.to_dict("records"), theirs.split(values), strict=True):
        ratios = values[train].mean(axis=0) / values[train].std(axis=0, ddof=1)
        tested = values[np.concatenate(tests), ratios.argmax()]
        assert (row["trained"], row["chosen"]) == (len(train), own.returns.columns[ratios.argmax()])
        assert row["in_sample"] == pytest.approx(ratios.max())
        assert row["out_of_sample"] == pytest.approx(tested.mean() / tested.std(ddof=1))
    chosen = found.splits["chosen"].to_numpy()
    for path, of_fold in enumerate(theirs.recombined_paths.T):
        expected = np.concatenate(
            [
                own.returns[chosen[at]].to_numpy()[part]
                for at, part in zip(of_fold, np.array_split(np.arange(60), 6), strict=True)
            ]
        )
        assert found.paths[path].tolist() == expected.tolist()


@pytest.mark.parametrize("anchored", [True, False])
def test_walks_are_skfolios_for_even_periods(anchored: bool) -> None:
    own = grid(50)
    found = walk_forward(own, train=14, test=7, anchored=anchored)
    theirs = TheirWalkForward(test_size=7, train_size=14, expand_train=anchored, reduce_test=True)
    values = own.returns.to_numpy()
    walks = list(theirs.split(values))
    assert len(found.steps) == len(walks)
    for row, (train, test) in zip(found.steps.to_dict("records"), walks, strict=True):
        ratios = values[train].mean(axis=0) / values[train].std(axis=0, ddof=1)
        assert (row["trained"], row["purged"]) == (len(train), 0)
        assert row["chosen"] == own.returns.columns[ratios.argmax()]
        assert row["test_start"] == own.returns.index[test[0]]
        assert found.returns.loc[own.returns.index[test]].tolist() == values[test, ratios.argmax()].tolist()


def test_trades_that_were_open_when_the_test_began_are_purged_and_an_embargo_takes_more() -> None:
    assert walk_forward(grid(30, late=True), train=14, test=7).steps["purged"].tolist() == [1, 1, 1]
    assert walk_forward(grid(30), train=14, test=7, embargo=2 * DAY).steps["purged"].tolist() == [2, 2, 2]
    even, late = (cross_validate(grid(60, late=late)).splits["trained"].sum() for late in (False, True))
    assert late < even


def test_lesson_24_the_future_garbled_changes_no_choice_before_it() -> None:
    named = {f"c{n}": trades(40, n) for n in range(5)}
    garbled = {name: frame.copy() for name, frame in named.items()}
    cut = pd.Timestamp(START) + pd.Timedelta(days=28)
    for n, frame in enumerate(garbled.values()):
        frame.loc[frame["as_of"] >= cut, "pnl_usd"] = 1e6 * (n - 2)
    span = {"first": START, "last": START + 40 * DAY - timedelta(minutes=2), "initial_usd": 1e5}
    one, other = (walk_forward(grid_of(given, **span), train=14, test=7) for given in (named, garbled))
    columns = ["test_start", "chosen", "in_sample"]
    pd.testing.assert_frame_equal(one.steps[columns].iloc[:3], other.steps[columns].iloc[:3], check_exact=True)
    assert one.returns[one.returns.index < cut].equals(other.returns[other.returns.index < cut])
    assert other.steps["in_sample"].iloc[3] > 0.3 > one.steps["in_sample"].iloc[3]


def test_what_is_better_throughout_is_found_and_not_called_overfitted() -> None:
    own = grid(60, better=3)
    found, walked = cross_validate(own), walk_forward(own, train=20, test=10)
    assert set(found.splits["chosen"]) == set(walked.steps["chosen"]) == {"c3"}
    for path in found.paths:
        assert found.paths[path].tolist() == own.returns["c3"].tolist()
    assert found.overfitting is not None and found.overfitting.probability == 0.0
    assert (found.overfitting.splits, found.overfitting.configurations) == (12_870, 6)
    assert found.loss_share == 0.0 and (found.path_sharpes > 0.2).all() and len(found.path_sharpes) == 5
    kept = own.trades["c3"]
    assert (
        walked.trades["pnl_usd"].tolist()
        == kept[kept["as_of"] >= walked.steps["test_start"].iloc[0]]["pnl_usd"].tolist()
    )
    assert set(walked.trades["configuration"]) == {"c3"}


def test_noise_looks_better_where_it_was_chosen_than_where_it_is_judged() -> None:
    found = [
        cross_validate(
            grid_of(
                {f"c{n}": trades(60, 100 * seed + n) for n in range(8)},
                first=START, last=START + 60 * DAY - timedelta(minutes=2), initial_usd=1e5,
            )
        )
        for seed in range(8)
    ]  # fmt: skip
    assert np.mean([one.degradation for one in found]) > 0.1
    assert abs(np.mean([one.splits["out_of_sample"].mean() for one in found])) < 0.06
    assert 0.3 < np.mean([one.overfitting.probability for one in found if one.overfitting]) < 0.7


def test_one_configuration_has_no_overfitting_and_is_its_own_path() -> None:
    own = grid(24, 1)
    found = cross_validate(own)
    assert found.overfitting is None and found.degradation != 0
    assert found.paths[0].tolist() == own.returns["c0"].tolist()
    assert grid_overfitting(own.returns.iloc[:3]) is None
    assert grid_overfitting(grid(8, 3).returns).splits == 6  # type: ignore[union-attr]  # four blocks of two days


def test_trials_that_replayed_a_part_only_are_left_out_of_pbo() -> None:
    daily = grid(40, 4, better=1).returns
    whole = trials_overfitting(Trials("c1", daily, tuple(daily)))
    part = daily.assign(c9=daily["c0"].where(daily.index > daily.index[5]))
    assert whole == trials_overfitting(Trials("c1", part, tuple(part)))
    assert whole is not None and whole.configurations == 4


def test_a_configuration_that_never_trades_earns_nothing_and_beats_a_losing_one() -> None:
    empty = trades(30, 1).iloc[:0]
    losing = trades(30, 2).assign(pnl_usd=lambda frame: -frame["pnl_usd"].abs())
    own = grid_of({"lose": losing, "hold": empty}, first=START, last=START + 29 * DAY, initial_usd=1e5)
    walked = walk_forward(own, train=10, test=10)
    assert set(walked.steps["chosen"]) == {"hold"} and walked.trades.empty and (walked.returns == 0).all()
    assert cross_validate(own).splits["out_of_sample"].tolist() == [0.0] * 15


@pytest.mark.parametrize(
    ("days", "given", "told"),
    [
        (10, {"train": 10, "test": 2}, "10 periods have no test of 2 after training on 10"),
        (10, {"train": 1, "test": 2}, "after training on 1"),
        (10, {"train": 3, "test": 2, "embargo": 2 * DAY}, "1 of 3 periods are left to train on before 2026-01-04"),
    ],
)
def test_walks_without_room_are_refused(days: int, given: dict[str, object], told: str) -> None:
    with pytest.raises(BacktestError, match=told):
        walk_forward(grid(days, 2), **given)  # type: ignore[arg-type]


def test_folds_without_room_and_no_configuration_are_refused() -> None:
    with pytest.raises(BacktestError, match="the grid's 5 periods cannot be cross-validated: 2 of 6 folds"):
        cross_validate(grid(5, 2))
    with pytest.raises(BacktestError, match="split 0 of 15 has 1 periods to train on"):
        cross_validate(grid(6, 2), embargo=3 * DAY)
    with pytest.raises(BacktestError, match="no configuration to choose from"):
        grid_of({}, first=START, last=START + DAY, initial_usd=1e5)
