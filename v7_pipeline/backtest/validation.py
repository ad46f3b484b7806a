"""Choosing among configurations honestly: walk-forward and combinatorial purged cross-validation of a grid of them.

Each is chosen on training periods only and judged on others. Simulating them is the engine's, splitting learning/'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.backtest.comparison import Trials
from v7_pipeline.backtest.replay import BacktestError
from v7_pipeline.learning.overfitting import Overfitting, backtest_overfitting
from v7_pipeline.learning.purged import backtest_paths, combinatorial_splits

__all__ = [
    "CrossValidation",
    "Grid",
    "WalkForward",
    "cross_validate",
    "grid_of",
    "grid_overfitting",
    "trials_overfitting",
    "walk_forward",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY = timedelta(days=1)
MINUTE = pd.Timedelta(minutes=1)
_MOST_BLOCKS = 16


@dataclass(frozen=True)
class Grid:
    """Configurations side by side, each simulated by itself over one span.

    `returns`: net P&L ÷ initial capital of the trades *decided* in each period, periods × configurations, indexed by
    the period's start. `known`: when the last of these trades, of any configuration, had closed; at the earliest the
    period's end. `trades`: each configuration's closed paper trades.
    """

    returns: pd.DataFrame
    known: pd.DatetimeIndex
    trades: Mapping[str, pd.DataFrame] = field(repr=False)

    @property
    def start(self) -> Floats:
        """Minutes since 1970 at which each period began."""
        return _minutes(pd.DatetimeIndex(self.returns.index))

    @property
    def end(self) -> Floats:
        """Minutes since 1970 at which each period's outcomes were known."""
        return _minutes(self.known)


@dataclass(frozen=True)
class CrossValidation:
    """Each split's choice and each path's returns; Sharpe ratios are of one period, not annualised.

    `splits`: split, folds, trained (periods), chosen, in_sample and out_of_sample (Sharpe ratios of the chosen), mean
    (its out-of-sample mean return a period). `paths`: periods × paths, out-of-sample throughout. `path_sharpes` has one
    for each path; they share their periods, so that their spread is no standard error. `degradation` is the mean of
    in_sample − out_of_sample, `loss_share` the share of splits whose out-of-sample mean is below 0. `overfitting` is
    the grid's PBO, None where there is one configuration or too few periods.
    """

    splits: pd.DataFrame
    paths: pd.DataFrame
    path_sharpes: Floats
    degradation: float
    loss_share: float
    overfitting: Overfitting | None


@dataclass(frozen=True)
class WalkForward:
    """One choice after another, each from the past alone; Sharpe ratios are of one period.

    `steps`: test_start, test_end, trained and purged (periods), chosen, in_sample, out_of_sample. `returns`: of the
    configuration chosen for each tested period. `trades`: its trades decided there, with their `configuration`.
    `anchored`: trained from the first period on, else on a window of constant length that rolls.
    """

    anchored: bool
    steps: pd.DataFrame
    returns: pd.Series
    trades: pd.DataFrame


def grid_of(
    trades: Mapping[str, pd.DataFrame], *, first: datetime, last: datetime, initial_usd: float, period: timedelta = DAY
) -> Grid:
    """The grid of configurations by name, each with its closed paper trades: as_of, exit_time, pnl_usd.

    Periods begin at multiples of `period` since 1970 UTC, from the one of `first` to the one of `last`. A trade counts
    in the period in which it was decided, whole: what is chosen for a period is what decides in it. BacktestError on
    no configuration.
    """
    if not trades:
        raise BacktestError("there is no configuration to choose from; sweep at least one")
    start = pd.Timestamp(first).tz_convert("UTC").floor(period)
    periods = pd.date_range(start, pd.Timestamp(last).tz_convert("UTC"), freq=pd.Timedelta(period), unit="us")
    returns, known = {}, pd.Series(periods + pd.Timedelta(period), index=periods)
    for name, own in trades.items():
        decided = own["as_of"].dt.floor(period)
        returns[name] = own.groupby(decided)["pnl_usd"].sum().reindex(periods).fillna(0.0).astype(float) / initial_usd
        closed = (own["exit_time"] + MINUTE).groupby(decided).max().reindex(periods)
        known = known.where(~(closed > known), closed)
    return Grid(pd.DataFrame(returns, index=periods), pd.DatetimeIndex(known), trades)


def cross_validate(
    grid: Grid, *, folds: int = 6, test_folds: int = 2, embargo: timedelta = timedelta(0)
) -> CrossValidation:
    """Combinatorial purged cross-validation (López de Prado 2018, ch. 12): 15 splits and 5 paths of 6 folds, 2 tested.

    In each split the configuration with the highest Sharpe ratio over the training periods is chosen (the first of
    equal ones) and judged on the tested folds. A period is not trained on where one of its trades was open in a tested
    fold, or where it begins within `embargo` after one. Later periods train for earlier ones: this asks how steady a
    choice is, not what it would have earned; that is walk_forward's. BacktestError where periods are too few.
    """
    try:
        splits = combinatorial_splits(
            grid.start, grid.end, folds=folds, test_folds=test_folds, embargo=embargo / timedelta(minutes=1)
        )
    except ValueError as error:
        raise BacktestError(f"the grid's {len(grid.returns)} periods cannot be cross-validated: {error}") from None
    values = grid.returns.to_numpy(float)
    rows, chosen = [], []
    for number, split in enumerate(splits):
        if len(split.train) < 2:
            raise BacktestError(
                f"split {number} of {len(splits)} has {len(split.train)} periods to train on after purging; "
                "give a longer span, shorter periods or fewer folds"
            )
        ratios = _ratios(values[split.train])
        best = int(ratios.argmax())
        tested = values[np.concatenate(split.tests), best]
        chosen.append(best)
        rows.append(
            {
                "split": number,
                "folds": ",".join(map(str, split.folds)),
                "trained": len(split.train),
                "chosen": grid.returns.columns[best],
                "in_sample": ratios[best],
                "out_of_sample": _ratios(tested[:, None])[0],
                "mean": tested.mean(),
            }
        )
    paths = np.full((len(values), 0), np.nan)
    for path in backtest_paths(folds, test_folds):
        column = np.full(len(values), np.nan)
        for fold, at in enumerate(path):
            tested = splits[at].tests[splits[at].folds.index(fold)]
            column[tested] = values[tested, chosen[at]]
        paths = np.column_stack([paths, column])
    told = pd.DataFrame(rows)
    return CrossValidation(
        splits=told,
        paths=pd.DataFrame(paths, index=grid.returns.index),
        path_sharpes=_ratios(paths),
        degradation=float((told["in_sample"] - told["out_of_sample"]).mean()),
        loss_share=float((told["mean"] < 0).mean()),
        overfitting=grid_overfitting(grid.returns),
    )


def walk_forward(
    grid: Grid, *, train: int, test: int, anchored: bool = True, embargo: timedelta = timedelta(0)
) -> WalkForward:
    """Choose on the past, trade the next `test` periods, go on: what choosing would have earned.

    The first test follows `train` periods; anchored, each later choice looks at all periods since the first, else at
    the `train` ones before its test. A period is purged from training where one of its trades closed later than
    `embargo` before the test begins. The last test may be shorter. The highest Sharpe ratio is chosen (the first of
    equal ones). BacktestError where no test follows the training, or nothing is left to train on.
    """
    values, start, end = grid.returns.to_numpy(float), grid.start, grid.end
    if train < 2 or test < 1 or train >= len(values):
        raise BacktestError(
            f"{len(values)} periods have no test of {test} after training on {train}; give a longer span or train less"
        )
    gap = embargo / timedelta(minutes=1)
    steps, chosen = [], np.full(len(values), -1)
    ends = grid.returns.index + (grid.returns.index[1] - grid.returns.index[0])
    for begin in range(train, len(values), test):
        rows = np.arange(0 if anchored else begin - train, begin)
        fitted = rows[end[rows] <= start[begin] - gap]
        if len(fitted) < 2:
            raise BacktestError(
                f"{len(fitted)} of {len(rows)} periods are left to train on before {ends[begin - 1]:%Y-%m-%d}: "
                "the others' trades were still open; train longer or embargo less"
            )
        ratios = _ratios(values[fitted])
        best, tested = int(ratios.argmax()), slice(begin, begin + test)
        chosen[tested] = best
        steps.append(
            {
                "test_start": grid.returns.index[begin],
                "test_end": ends[min(begin + test, len(values)) - 1],
                "trained": len(fitted),
                "purged": len(rows) - len(fitted),
                "chosen": grid.returns.columns[best],
                "in_sample": ratios[best],
                "out_of_sample": _ratios(values[tested, best][:, None])[0],
            }
        )
    told = pd.DataFrame(steps)
    tested_periods = grid.returns.index[train:]
    returns = pd.Series(values[np.arange(train, len(values)), chosen[train:]], index=tested_periods, name="net_return")
    return WalkForward(anchored, told, returns, _trades(grid, told))


def grid_overfitting(returns: pd.DataFrame) -> Overfitting | None:
    """PBO of periods × configurations in as many blocks as the paper's 16 where there are two periods for each.

    None where nothing was chosen (one configuration) or there are fewer than four periods.
    """
    blocks = min(_MOST_BLOCKS, len(returns) // 2 // 2 * 2)
    if returns.shape[1] < 2 or blocks < 2:
        return None
    return backtest_overfitting(returns.to_numpy(float), blocks=blocks)


def trials_overfitting(trials: Trials) -> Overfitting | None:
    """PBO of the recorded trials that replayed every day of the span; None as `grid_overfitting`."""
    return grid_overfitting(trials.daily.dropna(axis=1))


def _trades(grid: Grid, steps: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for step in steps.to_dict("records"):
        own = grid.trades[step["chosen"]]
        decided = (own["as_of"] >= step["test_start"]) & (own["as_of"] < step["test_end"])
        parts.append(own[decided].assign(configuration=step["chosen"]))
    return pd.concat(parts, ignore_index=True)


def _ratios(returns: Floats) -> Floats:
    """Sharpe ratio (n − 1) of each column; 0 where nothing was gained or risked, ±∞ for a gain or loss without risk.

    NaN below two periods.
    """
    if len(returns) < 2:
        return np.full(returns.shape[1], np.nan)
    mean, deviation = returns.mean(axis=0), returns.std(axis=0, ddof=1)
    risky = deviation > 1e-12 * np.abs(mean)
    sure = np.where(mean == 0, 0.0, np.copysign(np.inf, mean))
    return np.where(risky, mean / np.where(risky, deviation, 1.0), sure)


def _minutes(instants: pd.DatetimeIndex) -> Floats:
    return np.asarray((instants - pd.Timestamp(0, tz="UTC")) / MINUTE, dtype=float)
