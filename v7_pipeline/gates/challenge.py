"""The prop firm's challenge simulated: closed trades → the firm's days → block bootstrap → what becomes of accounts.

Pure; the rules are data (rulesets.py). An account as it really is belongs to ftmo.py, pictures and words to the rooms
above.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.gates.base import microseconds, require
from v7_pipeline.gates.rulesets import RuleSet

__all__ = [
    "MIN_TRADES",
    "MIN_TRADING_DAYS",
    "Chance",
    "DayRecord",
    "Simulation",
    "block_length",
    "day_record",
    "simulate",
    "too_few",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_TRADES = 30  # below either figure the record says next to nothing
MIN_TRADING_DAYS = 10
OUTER = 200  # resampled records behind each interval
INNER = 500  # runs of each of them
_EPS = 1e-9  # of the initial capital; less than that is the sum's rounding, as CENTS is in ftmo.py
_TRADE_COLUMNS = ("entry_time", "exit_time", "entry_price", "quantity", "pnl_usd", "mae", "fees")


@dataclass(frozen=True, slots=True)
class DayRecord:
    """The firm's days from the first entry to the last exit, without a gap; one entry a day, fractions of the initial.

    `pnl`: closed P/L of the day. `worst` ≤ 0: the lowest running point of the day against its opening balance, every
    position that was open taken at its worst at once. `opened`: positions opened that day. `trades`: closed trades in
    all, `without_mae` of them had no recorded excursion and count with their result alone.
    """

    first_day: date
    pnl: Floats
    worst: Floats
    opened: Ints
    trades: int
    without_mae: int = 0

    @property
    def days(self) -> int:
        return len(self.pnl)

    @property
    def trading_days(self) -> int:
        return int((self.opened > 0).sum())


@dataclass(frozen=True, slots=True)
class Chance:
    """A probability and the ends of its 95 % interval."""

    probability: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """What became of `runs` simulated accounts within `days` of the firm's days.

    Each account passes, breaches the daily or the total limit (the one that was met first), or does neither within the
    horizon; `passed` is None under rules without a target. `days_to_pass` and `days_to_breach` are the 10, 50 and 90 %
    points in days, of the runs that did; None where none did. `equity`: days + 1 rows (the start first) of the 10, 50
    and 90 % points of the balance as a fraction of the initial; an account that has ended keeps its last value. The
    shares are cumulative, by day. `days_beyond_daily` and `days_beyond_total` count recorded days that alone would
    break the limit: where there is none, a breach can only come of several days together, so none of the daily limit.
    """

    rules: str
    runs: int
    days: int
    block: int
    seed: int
    trades: int
    recorded_days: int
    trading_days: int
    passed: Chance | None
    daily: Chance
    total: Chance
    neither: Chance
    days_to_pass: tuple[int, int, int] | None
    days_to_breach: tuple[int, int, int] | None
    equity: Floats
    passed_by_day: Floats
    daily_by_day: Floats
    total_by_day: Floats
    days_beyond_daily: int
    days_beyond_total: int


class _Fates(NamedTuple):
    """By run: the day (0 …) on which it ended, `horizon` where it did not; how; and the balance it was left with."""

    end: Ints
    passed: npt.NDArray[np.bool_]
    daily: npt.NDArray[np.bool_]
    total: npt.NDArray[np.bool_]
    left: Floats
    balance: Floats


def day_record(trades: pd.DataFrame, rules: RuleSet, *, initial_usd: float) -> DayRecord:
    """The firm's days that closed `trades` make.

    trades: entry_time, exit_time (starts of their minutes), entry_price, quantity, pnl_usd (net), mae (fraction of the
    entry, ≤ 0; may be missing), fees (fraction, both sides). Days without a trade in between count, with nothing made
    or lost. A position is at its worst from its entry's minute to its exit's, on every day it was open, with the fees
    of both sides; nobody recorded when within that time the worst was, so all are taken at theirs together. ValueError
    where there is no trade, or one that is not closed.
    """
    require(trades, _TRADE_COLUMNS, "trades")
    if trades.empty:
        raise ValueError("no closed trade: there is nothing to simulate from")
    if trades["exit_time"].isna().any() or trades["pnl_usd"].isna().any():
        raise ValueError("every trade of a record is closed and has its P/L; leave the open ones out")
    entry, exit_ = microseconds(trades["entry_time"], "entry_time"), microseconds(trades["exit_time"], "exit_time")
    numbers = {name: trades[name].astype("float64").to_numpy() for name in _TRADE_COLUMNS[2:]}
    pnl = numbers["pnl_usd"] / initial_usd
    notional = numbers["quantity"] * numbers["entry_price"]
    adverse = notional * (numbers["mae"] - numbers["fees"]) / initial_usd
    worst = np.fmin(np.minimum(pnl, 0.0), adverse)  # fmin: a missing excursion leaves the result
    midnights, first_day = _midnights(entry, exit_, rules)

    at = np.unique(np.concatenate([midnights, entry, exit_]))
    day = np.searchsorted(midnights, at, "right") - 1
    realised = _sum_before(exit_, pnl, at)
    since_midnight = realised - _sum_before(exit_, pnl, midnights)[day]
    floating = _sum_before(entry, worst, at + 1) - _sum_before(exit_, worst, at)
    lowest = np.zeros(len(midnights))
    np.minimum.at(lowest, day, since_midnight + floating)

    def by_day(times: Ints, amounts: Floats) -> Floats:
        day = np.searchsorted(midnights, times, "right") - 1
        return np.bincount(day, amounts, minlength=len(midnights)).astype(np.float64)

    return DayRecord(
        first_day=first_day,
        pnl=by_day(exit_, pnl),
        worst=lowest,
        opened=by_day(entry, np.ones(len(entry))).astype(np.int64),
        trades=len(trades),
        without_mae=int(np.isnan(numbers["mae"]).sum()),
    )


def too_few(record: DayRecord) -> str | None:
    """Why the record is too small for probabilities, or None: fewer than 30 closed trades or 10 trading days."""
    if record.trades >= MIN_TRADES and record.trading_days >= MIN_TRADING_DAYS:
        return None
    return (
        f"too few: n = {record.trades} closed trades on {record.trading_days} trading days, "
        f"and at least {MIN_TRADES} on {MIN_TRADING_DAYS} are needed"
    )


def block_length(days: int) -> int:
    """Days in a block where none are named: the cube root of the recorded days, the rate that is best for means."""
    return max(1, round(days ** (1 / 3)))


def simulate(
    record: DayRecord,
    rules: RuleSet,
    *,
    runs: int = 10_000,
    days: int = 120,
    block: int | None = None,
    seed: int = 7,
    outer: int = OUTER,
    inner: int = INNER,
) -> Simulation:
    """`runs` accounts over `days` of the firm's days, drawn from the record in circular blocks of `block` days.

    Source: Politis & Romano 1992, circular block bootstrap. The intervals come from drawing the record itself `outer`
    times in the same way, with `inner` runs each: they say how far so many recorded days can be trusted, and vanish
    with more days, not with more runs. The same arguments give the same bytes.
    """
    for name, value in (("runs", runs), ("days", days), ("outer", outer), ("inner", inner), ("block", block or 1)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    length = min(block or block_length(record.days), record.days)
    own, others = np.random.default_rng(seed).spawn(2)
    fates = _fates(record, _draw(own, record.days, runs, days, length), rules)
    resampled = np.array(
        [
            _shares(_fates(again, _draw(others, record.days, inner, days, length), rules))
            for again in (_again(record, others, length) for _ in range(outer))
        ]
    )
    lower, upper = np.quantile(resampled, [0.025, 0.975], axis=0)
    chances = [Chance(*map(float, ends)) for ends in zip(_shares(fates), lower, upper, strict=True)]
    broken = fates.daily | fates.total
    return Simulation(
        rules=rules.name,
        runs=runs,
        days=days,
        block=length,
        seed=seed,
        trades=record.trades,
        recorded_days=record.days,
        trading_days=record.trading_days,
        passed=None if rules.profit_target is None else chances[0],
        daily=chances[1],
        total=chances[2],
        neither=chances[3],
        days_to_pass=_day_points(fates.end[fates.passed]),
        days_to_breach=_day_points(fates.end[broken]),
        equity=_fan(fates, days),
        passed_by_day=_by_day(fates.end[fates.passed], runs, days),
        daily_by_day=_by_day(fates.end[fates.daily], runs, days),
        total_by_day=_by_day(fates.end[fates.total], runs, days),
        days_beyond_daily=int((record.worst < -rules.daily_loss - _EPS).sum()),
        days_beyond_total=int((record.worst < -rules.max_loss - _EPS).sum()),
    )


def _midnights(entry: Ints, exit_: Ints, rules: RuleSet) -> tuple[Ints, date]:
    """The starts (µs) of the firm's days from the first entry's to the last exit's, and the first one's date."""
    first, last = (pd.Timestamp(int(t), unit="us", tz="UTC").tz_convert(rules.zone) for t in (entry.min(), exit_.max()))
    local = pd.date_range(first.date(), last.date(), freq="D", tz=rules.zone)
    starts: Ints = local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    return starts, first.date()


def _sum_before(time: Ints, amount: Floats, at: Ints) -> Floats:
    """For each of `at`, the sum of the amounts whose time is before it."""
    order = np.argsort(time, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(amount[order])])
    return sums[np.searchsorted(time[order], at, "left")]


def _draw(rng: np.random.Generator, n: int, runs: int, days: int, block: int) -> Ints:
    """Places in the record, a row a run: blocks begin anywhere, and the last day is followed by the first."""
    starts = rng.integers(0, n, size=(runs, -(-days // block)))
    places = (starts[:, :, None] + np.arange(block)) % n
    return places.reshape(runs, -1)[:, :days]


def _again(record: DayRecord, rng: np.random.Generator, block: int) -> DayRecord:
    """The record as it might as well have been: its own days, drawn in blocks."""
    places = _draw(rng, record.days, 1, record.days, block)[0]
    return DayRecord(record.first_day, record.pnl[places], record.worst[places], record.opened[places], record.trades)


def _fates(record: DayRecord, places: Ints, rules: RuleSet) -> _Fates:
    """The rules over every run at once. Within a day the worst comes first, so a breach goes before a pass."""
    pnl, worst = record.pnl[places], record.worst[places]
    horizon = places.shape[1]
    balance = np.cumsum(pnl, axis=1)
    balance += 1.0
    opening = balance - pnl
    daily_floor = opening - rules.daily_loss
    total_floor = _total_floor(opening, rules)
    lowest = opening + worst
    broken = (lowest < daily_floor - _EPS) | (lowest < total_floor - _EPS)
    breach = _first(broken)
    pass_ = np.full(len(breach), horizon)
    if rules.profit_target is not None:
        pass_ = _first(_passable(pnl, balance, record.opened[places], rules))
    end = np.minimum(breach, pass_)
    row, at = np.arange(len(end)), np.minimum(end, horizon - 1)
    failed = (breach <= pass_) & (breach < horizon)
    # Of two limits broken on one day the higher was met first.
    total = failed & (total_floor[row, at] >= daily_floor[row, at])
    floor = np.maximum(total_floor[row, at], daily_floor[row, at])
    left = np.where(failed, floor, balance[row, at])
    return _Fates(end, (pass_ < breach), failed & ~total, total, left, balance)


def _total_floor(opening: Floats, rules: RuleSet) -> Floats:
    """The maximum-loss limit of each day: static, or behind the highest end-of-day balance so far."""
    if not rules.trailing:
        return np.full_like(opening, 1.0 - rules.max_loss)
    return np.maximum.accumulate(np.maximum(opening, 1.0), axis=1) - rules.max_loss


def _passable(pnl: Floats, balance: Floats, opened: Ints, rules: RuleSet) -> npt.NDArray[np.bool_]:
    """Whether the target counts as reached at each day's end, as ftmo.py judges it, all positions closed."""
    assert rules.profit_target is not None
    reached = balance >= 1.0 + rules.profit_target - _EPS
    if rules.min_days:
        reached &= np.cumsum(opened > 0, axis=1) >= rules.min_days
    if rules.best_day_share is not None:
        best = np.maximum.accumulate(pnl, axis=1)
        reached &= best <= rules.best_day_share * np.cumsum(np.maximum(pnl, 0.0), axis=1) + _EPS
    return reached


def _first(hit: npt.NDArray[np.bool_]) -> Ints:
    """The first day of each run on which `hit` holds; the number of days where it never does."""
    return np.where(hit.any(axis=1), hit.argmax(axis=1), hit.shape[1])


def _shares(fates: _Fates) -> tuple[float, float, float, float]:
    """Shares of the runs that passed, broke the daily limit, broke the total one, did neither."""
    passed, daily, total = (float(part.mean()) for part in (fates.passed, fates.daily, fates.total))
    neither = float((~(fates.passed | fates.daily | fates.total)).mean())
    return passed, daily, total, neither


def _day_points(ends: Ints) -> tuple[int, int, int] | None:
    """10, 50 and 90 % of the days (the first is 1) that it took."""
    if not len(ends):
        return None
    low, middle, high = np.quantile(ends + 1, [0.1, 0.5, 0.9], method="inverted_cdf")
    return int(low), int(middle), int(high)


def _fan(fates: _Fates, days: int) -> Floats:
    """10, 50 and 90 % of the balance at the start and at each day's end."""
    held = np.where(np.arange(days) >= fates.end[:, None], fates.left[:, None], fates.balance)
    return np.vstack([np.ones(3), np.quantile(held, [0.1, 0.5, 0.9], axis=0).T])


def _by_day(ends: Ints, runs: int, days: int) -> Floats:
    """The share of runs that had ended by each day's end, from 0 at the start."""
    return np.concatenate([[0.0], np.cumsum(np.bincount(ends, minlength=days)[:days]) / runs])
