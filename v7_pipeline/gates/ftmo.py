"""The account engine: trades + candles + rules + instant → the account's state. Pure; nothing is remembered.

It replays the whole account at every call, so a restart changes nothing. Whether a signal may still be opened is
conditions.ftmo's question; the rules themselves are data (rulesets.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.gates.base import NO_INSTANT, instant, microseconds, require
from v7_pipeline.gates.rulesets import RuleSet, day_bounds, ftmo_day, rules

__all__ = [
    "AccountState", "Balance", "Book", "Opening", "PricePath", "RuleSet", "account_state", "day_bounds", "ftmo_day",
    "rules", "state_of",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CENTS = 1e-6  # USD; a shortfall smaller than this is the sum's rounding, not a breach
MINUTE_US = 60_000_000
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
POSITION_COLUMNS = (
    "signal_id", "symbol", "side", "quantity", "entry_price", "entry_time", "exit_price", "exit_time",
    "worst_case_usd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Balance:
    """The real account as a person read it off: the replay starts from the balance `usd`, `at` this instant.

    `day_start_usd` is the balance at that day's midnight where it is known; without it, `usd` is the day's reference.
    `equity_usd` is the equity then: where it is lower than what our own positions explain, the rest is the floating
    loss of positions that we do not know, and stays in the account until the next reading. `peak_usd` is the highest
    end-of-day balance before, where it is known; only trailing rules look at it.
    """

    at: datetime
    usd: float
    day_start_usd: float | None = None
    equity_usd: float | None = None
    peak_usd: float | None = None


@dataclass(frozen=True, slots=True)
class AccountState:
    """The account at `as_of`; amounts in USD, instants in UTC.

    `equity` is balance + floating P/L − commissions of open positions; `worst_equity_today` the lowest it got, tested
    on every candle's low or high against each open position. `floor` is the higher of the two limits and `room_usd` =
    equity − floor. `stopped_equity_usd` is what is left when every open position loses its worst case, None where one
    has no known worst case. `breached`: "total" once the maximum loss was ever broken, "daily" where today's limit was;
    `breached_at` says when, and `first_breach_at` when any limit was first broken on any day. `prices_as_of` is the end
    of the oldest newest-candle among the open positions, `as_of` where none is open, None where a price is missing.
    `best_day_usd` is the best day's closed P/L, `best_day_share` its part of all positive days' sum.
    `total_reference_usd` is the balance that the maximum loss is counted from: the initial capital, or the highest
    end-of-day balance where the limit trails. `margin_usd` is what the open positions bind: notional at entry ÷
    leverage. `set_at` is the instant of the reading that the replay began with, None where it began with the initial
    capital; `unexplained_usd` ≤ 0 is the part of that reading's equity that our positions do not explain, and is in
    every equity here but not in the balance.
    """

    rules: str
    as_of: datetime
    balance: float
    equity: float
    worst_equity_today: float
    stopped_equity_usd: float | None
    day_start_balance: float
    daily_limit: float
    total_limit: float
    floor: float
    room_usd: float
    day_started_at: datetime
    day_ends_at: datetime
    trading_days: int
    best_day_usd: float | None
    best_day_share: float | None
    daily_pnl_usd: tuple[tuple[date, float], ...]
    target_progress: float | None
    passable: bool | None
    breached: Literal["daily", "total"] | None
    breached_at: datetime | None
    first_breach_at: datetime | None
    open_positions: int
    prices_as_of: datetime | None
    total_reference_usd: float
    margin_usd: float
    set_at: datetime | None
    unexplained_usd: float

    @property
    def open_risk_usd(self) -> float | None:
        """USD between the equity now and the equity with every open position stopped out."""
        return None if self.stopped_equity_usd is None else self.equity - self.stopped_equity_usd

    @property
    def floor_if_rolled_usd(self) -> float:
        """The floor if the day rolled now: the balance's new daily limit, which counts what was closed since midnight.

        Open risk that fits above it survives every midnight: what a position may lose then, it loses against this.
        """
        return max(self.floor, self.balance - self.daily_allowance_usd)

    @property
    def daily_allowance_usd(self) -> float:
        """USD that may be lost from the balance that began the day."""
        return self.day_start_balance - self.daily_limit

    @property
    def daily_used_usd(self) -> float:
        """USD by which equity lies below the balance that began the day; 0 where it lies above."""
        return max(0.0, self.day_start_balance - self.equity)

    @property
    def daily_used_share(self) -> float:
        """Share of the daily allowance that is used; 1 is the limit itself, above it is a breach."""
        return self.daily_used_usd / self.daily_allowance_usd

    @property
    def daily_worst_usd(self) -> float:
        """`daily_used_usd` of the lowest equity since midnight."""
        return max(0.0, self.day_start_balance - self.worst_equity_today)

    @property
    def daily_worst_share(self) -> float:
        """Share of the daily allowance that was used at the worst since midnight."""
        return self.daily_worst_usd / self.daily_allowance_usd

    @property
    def total_allowance_usd(self) -> float:
        """USD that may be lost from the balance that the maximum loss is counted from."""
        return self.total_reference_usd - self.total_limit

    @property
    def total_used_usd(self) -> float:
        """USD by which equity lies below the balance that the maximum loss is counted from; 0 where above."""
        return max(0.0, self.total_reference_usd - self.equity)

    @property
    def total_used_share(self) -> float:
        """Share of the maximum loss that is used; 1 is the limit itself, above it is a breach."""
        return self.total_used_usd / self.total_allowance_usd

    @property
    def total_worst_usd(self) -> float:
        """`total_used_usd` of the lowest equity since midnight."""
        return max(0.0, self.total_reference_usd - self.worst_equity_today)

    @property
    def total_worst_share(self) -> float:
        """Share of the maximum loss that was used at the worst since midnight."""
        return self.total_worst_usd / self.total_allowance_usd


def account_state(
    positions: pd.DataFrame,
    candles: pd.DataFrame,
    rules: RuleSet,
    *,
    initial_usd: float,
    as_of: datetime,
    balance_override: Balance | None = None,
    forgiven_until: datetime | None = None,
    tested_from: datetime | None = None,
) -> AccountState:
    """Replay `positions` over the candles that had closed by `as_of` and judge them by `rules`.

    positions: signal_id, symbol, side, quantity, entry_price, entry_time, exit_price, exit_time, worst_case_usd; also,
    where known, stop_price, entry_fee_usd, exit_fee_usd (without fees the rules' commission is charged). exit_time is
    missing while open; an exit whose minute is not over at `as_of` counts as open. candles: symbol, open_time, high,
    low, close; breaches are seen only in minutes that are given, and in none in which the price of a position held
    since an earlier minute is not known yet.

    `tested_from`: minutes and midnights before it are not held against the limits, so that candles from shortly before
    it are enough; only `breached`, `first_breach_at` and `passable` then know nothing of earlier breaches (a reading
    below a limit is always one). From a start of the firm's day on, today's figures are those of the whole history.

    `forgiven_until`: a person looked at the account then and let it go on. Breaches in minutes that were over by that
    instant no longer make it `breached`; `first_breach_at` still tells of them, and it stays not passable.

    Conventions, each the stricter one where the rules leave it open: a position enters equity with its entry's
    commission from its entry minute on, and the balance with both commissions at its exit; several positions are taken
    at their worst within a minute at once; in the exit minute a position is exposed to the candle only down to its stop
    (or its exit, if lower); a minute without a candle repeats the last close. The limits are tested in every minute
    and, with the last known equity, at each midnight at which the day rolls. A breach is an equity strictly below one.
    """
    now = _now(as_of)
    book = _read_book(positions, rules, _us(now))
    return state_of(
        book,
        _paths(candles, book),
        rules,
        initial_usd=initial_usd,
        as_of=now,
        balance_override=balance_override,
        forgiven_until=forgiven_until,
        tested_from=tested_from,
    )


@dataclass(frozen=True, slots=True)
class Opening:
    """The account as the positions that are not given had left it: its balance, and the highest that began a day."""

    usd: float
    peak_usd: float


def state_of(
    positions: Book,
    paths: Mapping[str, PricePath],
    rules: RuleSet,
    *,
    initial_usd: float,
    as_of: datetime,
    balance_override: Balance | None = None,
    forgiven_until: datetime | None = None,
    tested_from: datetime | None = None,
    opening: Opening | None = None,
) -> AccountState:
    """`account_state` of arrays: positions in the order of their signal_id, and each symbol's candles.

    `opening`: positions closed before the firm's day of `tested_from` are left out, and this is what they came to.
    Trading days, best day and daily P&L are then of the given positions only.
    """
    now = _now(as_of)
    if not initial_usd > 0:
        raise ValueError(f"the initial capital must be above zero, not {initial_usd}")
    now_us = _us(now)
    book = positions.known_at(now_us)
    paths = {symbol: paths[symbol].until(now_us) for symbol in set(book.symbol) if symbol in paths}
    reading = None if balance_override is None else _checked(balance_override, now)
    start = (initial_usd if opening is None else opening.usd) if reading is None else reading.usd
    since_us = NO_INSTANT if reading is None else _minute(_us(reading.at))
    history = book  # every position counts for trading days and best day; only later exits move a balance set by hand
    book = book.kept(~book.closed | (book.exit >= since_us))
    prices = _prices(paths, book, now_us, since_us)
    days = _midnights(history, prices.time, now, since_us, rules)

    realised = _Steps.of(book.exit[book.closed], book.pnl[book.closed], start)
    limits = _limits(days, realised.before(days), rules, initial_usd, reading, opening)
    at_reading = _AtReading.of(reading, book, prices)
    unexplained = at_reading.unexplained
    closing, worst, floating = _equity(book, prices, realised)
    if unexplained:
        closing, worst = closing + unexplained, worst + unexplained
    balance = float(realised.last)
    equity = balance + float(floating.sum()) + unexplained
    since = instant(tested_from, "tested_from")
    tested = NO_INSTANT if since is None else _us(since)
    instants = _instants(prices.time, closing, days[1:][days[1:] >= tested], start + unexplained, at_reading)
    minutes = slice(int(np.searchsorted(prices.time, tested)), None)
    breaches = _breaches(
        [
            limits.broken(prices.time[minutes], worst[minutes], MINUTE_US),
            limits.broken(instants.time, instants.equity, 0),
        ],
        int(days[-1]),
        forgiven_until,
    )
    worst_today = min(
        equity,
        _lowest(prices.time, worst, max(int(days[-1]), tested)),
        _lowest(instants.time, instants.equity, int(days[-1])),
    )
    daily_pnl = _daily_pnl(history, rules)
    stopped = _stopped(book, floating, balance + unexplained)
    held = ~book.closed
    margin = sum(
        q * price / rules.leverage_of(symbol)
        for symbol, q, price in zip(book.symbol[held], book.quantity[held], book.entry_price[held], strict=True)
    )
    best, share = _best_day(daily_pnl)
    progress = None if not rules.profit_target else (balance - initial_usd) / (rules.profit_target * initial_usd)
    trading_days = len({ftmo_day(_instant(int(t)), rules.zone) for t in history.entry})
    started, ends = day_bounds(now, rules.zone)
    floor = float(max(limits.daily[-1], limits.total[-1]))
    still_open = int((~book.closed).sum())
    return AccountState(
        rules=rules.name,
        as_of=now,
        balance=balance,
        equity=equity,
        worst_equity_today=worst_today,
        stopped_equity_usd=stopped,
        day_start_balance=float(limits.day_start[-1]),
        daily_limit=float(limits.daily[-1]),
        total_limit=float(limits.total[-1]),
        floor=floor,
        room_usd=equity - floor,
        day_started_at=started,
        day_ends_at=ends,
        trading_days=trading_days,
        best_day_usd=best,
        best_day_share=share,
        daily_pnl_usd=daily_pnl,
        target_progress=progress,
        passable=_passable(rules, progress, trading_days, share, still_open, breaches.first),
        breached=breaches.kind,
        breached_at=breaches.at,
        first_breach_at=breaches.first,
        open_positions=still_open,
        prices_as_of=_prices_as_of(book, prices, now),
        total_reference_usd=float(limits.reference[-1]),
        margin_usd=float(margin),
        set_at=None if reading is None else reading.at,
        unexplained_usd=unexplained,
    )


class Book(NamedTuple):
    """Positions as arrays; times in µs at the start of their minute, `pnl` net of both commissions (USD)."""

    symbol: npt.NDArray[np.object_]
    direction: Floats
    quantity: Floats
    entry_price: Floats
    entry: Ints
    exit: Ints
    exit_price: Floats
    stop: Floats
    entry_fee: Floats
    pnl: Floats
    worst_case: Floats
    closed: npt.NDArray[np.bool_]

    def kept(self, mask: npt.NDArray[np.bool_]) -> Book:
        return Book._make(column[mask] for column in self)

    def known_at(self, now_us: int) -> Book:
        """The positions entered before an instant, with exits that were not known yet taken away."""
        closed = (self.exit != NO_INSTANT) & (self.exit + MINUTE_US <= now_us)
        return self._replace(closed=closed, exit=np.where(closed, self.exit, NO_INSTANT)).kept(self.entry < now_us)


class PricePath(NamedTuple):
    """One symbol's candles, ascending in time (µs)."""

    time: Ints
    high: Floats
    low: Floats
    close: Floats

    def until(self, now_us: int) -> PricePath:
        """Those that had closed by an instant."""
        known = int(np.searchsorted(self.time, now_us - MINUTE_US, "right"))
        return PricePath._make(column[:known] for column in self)


class _Prices(NamedTuple):
    """The minutes looked at (µs), and per symbol high, low, close on them; NaN before its first candle."""

    time: Ints
    on_grid: dict[str, PricePath]
    own: Mapping[str, PricePath]


class _Steps(NamedTuple):
    """A balance that moves in steps: it has the value of the last step made strictly before an instant."""

    time: Ints
    value: Floats

    @classmethod
    def of(cls, time: Ints, amount: Floats, start: float) -> _Steps:
        order = np.argsort(time, kind="stable")
        # One after the other from the start on, so that a part of them continues with the very same bits.
        return cls(time[order], np.cumsum(np.concatenate([[start], amount[order]])))

    def before(self, time: Ints) -> Floats:
        return self.value[np.searchsorted(self.time, time, "left")]

    def through(self, time: Ints) -> Floats:
        return self.value[np.searchsorted(self.time, time, "right")]

    @property
    def last(self) -> float:
        return float(self.value[-1])


class _AtReading(NamedTuple):
    """The account at the instant (µs) of the reading that it was set by: equity, and what of it we cannot explain."""

    at: int = NO_INSTANT
    equity: float = np.nan
    unexplained: float = 0.0

    @classmethod
    def of(cls, reading: Balance | None, book: Book, prices: _Prices) -> _AtReading:
        """Replay the positions held then at the last closes that were known; a higher equity is not trusted."""
        if reading is None:
            return cls()
        at, equity = _us(reading.at), reading.usd
        for i in np.flatnonzero(book.entry < at):
            close, known = book.entry_price[i], prices.own.get(book.symbol[i])
            if known is not None:
                place = int(np.searchsorted(known.time, at - MINUTE_US, "right")) - 1
                if place >= 0 and known.time[place] >= book.entry[i]:
                    close = known.close[place]
            equity += book.direction[i] * book.quantity[i] * (close - book.entry_price[i]) - book.entry_fee[i]
        given = equity if reading.equity_usd is None else min(reading.equity_usd, equity)
        return cls(at, float(given), float(given - equity))


class _Instants(NamedTuple):
    """Equities that are known at an instant: at each midnight at which the day rolls, and at the reading."""

    time: Ints
    equity: Floats


class _Broken(NamedTuple):
    """The tests that went below a limit: their time, when they were known (µs), and which limit it was."""

    time: Ints
    known: Ints
    daily: npt.NDArray[np.bool_]
    total: npt.NDArray[np.bool_]


class _Limits(NamedTuple):
    """Each of the firm's days (its start, µs) with its two limits, and the balances they are counted from (USD)."""

    days: Ints
    day_start: Floats
    reference: Floats
    daily: Floats
    total: Floats

    def broken(self, time: Ints, equity: Floats, lasts: int) -> _Broken:
        """Those of the tests (ascending in time, each known after `lasts` µs) in which equity is below a limit."""
        day = _spread(self.days, time)
        at = np.flatnonzero(equity < np.maximum(self.daily, self.total)[day] - CENTS)  # an unknown equity is no breach
        day, low = day[at], equity[at]
        return _Broken(time[at], time[at] + lasts, low < self.daily[day] - CENTS, low < self.total[day] - CENTS)


def _limits(
    days: Ints,
    balance: Floats,
    rules: RuleSet,
    initial_usd: float,
    reading: Balance | None,
    opening: Opening | None,
) -> _Limits:
    """The limits of each day from the `balance` that began it."""
    day_start, known_peak = balance.copy(), initial_usd if opening is None else max(initial_usd, opening.peak_usd)
    if reading is not None:
        # The days before the reading are those of another account: they set no reference and no peak.
        begun = reading.usd if reading.day_start_usd is None else reading.day_start_usd
        day_start[: np.searchsorted(days, _us(reading.at), "right")] = begun
        known_peak = max(initial_usd, initial_usd if reading.peak_usd is None else reading.peak_usd)
    reference = np.full(len(days), initial_usd, dtype=np.float64)
    if rules.trailing:
        reference = np.maximum.accumulate(np.maximum(day_start, known_peak))
    daily, total = day_start - rules.daily_loss * initial_usd, reference - rules.max_loss * initial_usd
    return _Limits(days, day_start, reference, daily, total)


class _Breaches(NamedTuple):
    kind: Literal["daily", "total"] | None
    at: datetime | None
    first: datetime | None


def _read_book(positions: pd.DataFrame, rules: RuleSet, now_us: int) -> Book:
    """The positions entered before now, with what was not known yet taken away."""
    require(positions, POSITION_COLUMNS, "positions")
    positions = positions.sort_values("signal_id", kind="stable")  # sums come out alike to the last bit in any order
    sides = set(positions["side"]) - {"BUY", "SELL"}
    if sides:
        raise ValueError(f"positions are BUY or SELL, not {', '.join(sorted(map(str, sides)))}")
    entry = microseconds(positions["entry_time"], "entry_time")
    if (entry == NO_INSTANT).any():
        raise ValueError("a position without entry_time is none; leave signals that were not filled out")
    exit_ = microseconds(positions["exit_time"], "exit_time")
    nothing = pd.Series(np.nan, index=positions.index)

    def numbers(name: str) -> Floats:
        return positions.get(name, nothing).astype("float64").to_numpy()

    quantity, entry_price, exit_price = numbers("quantity"), numbers("entry_price"), numbers("exit_price")
    if not ((quantity > 0) & (entry_price > 0)).all():
        raise ValueError("every position needs a quantity and an entry_price above zero")
    entry, exit_ = _minute(entry), np.where(exit_ == NO_INSTANT, NO_INSTANT, _minute(exit_))
    closed = (exit_ != NO_INSTANT) & (exit_ + MINUTE_US <= now_us)
    if not (exit_price[closed] > 0).all() or not (exit_[closed] >= entry[closed]).all():
        raise ValueError("a closed position needs an exit_price above zero and an exit_time not before its entry")
    direction = np.where(positions["side"] == "BUY", 1.0, -1.0)
    symbol = positions["symbol"].to_numpy(dtype=object)
    rate = np.array([rules.commission_of(name) for name in symbol], dtype=np.float64)
    entry_fee, exit_fee = (
        np.where(np.isnan(given), rate * quantity * price, given)
        for given, price in ((numbers("entry_fee_usd"), entry_price), (numbers("exit_fee_usd"), exit_price))
    )
    pnl = direction * quantity * (exit_price - entry_price) - entry_fee - exit_fee
    book = Book(
        symbol, direction, quantity, entry_price, entry, exit_, exit_price, numbers("stop_price"), entry_fee, pnl,
        numbers("worst_case_usd"), closed,
    )  # fmt: skip
    return book.known_at(now_us)


def _paths(candles: pd.DataFrame, book: Book) -> dict[str, PricePath]:
    """The candles of the symbols that are held."""
    require(candles, ("symbol", "open_time", "high", "low", "close"), "candles")
    time = microseconds(candles["open_time"], "open_time")
    names = candles["symbol"].to_numpy()
    found = {symbol: _of_symbol(candles, time, names == symbol) for symbol in sorted(set(book.symbol))}
    return {symbol: known for symbol, known in found.items() if known is not None}


def _prices(paths: Mapping[str, PricePath], book: Book, now_us: int, since_us: int) -> _Prices:
    """The minutes on which equity is computed: closed candles' while anything is held, every entry's and every exit's.

    While nothing is held, equity is the balance of the last exit, and the midnights hold it against the new limits.
    """
    held = sorted(set(book.symbol))
    own = {symbol: paths[symbol] for symbol in held if symbol in paths and len(paths[symbol].time)}
    first = max(int(book.entry.min()) if len(book.entry) else now_us, since_us)
    grid = np.unique(np.concatenate([book.entry, book.exit[book.closed]]))
    for known in own.values():
        times = known.time[_while_held(known.time, book)]
        grid = times if _within(grid, times) else _union(grid, times)
    if since_us != NO_INSTANT and (book.entry < since_us).any():
        grid = _union(grid, np.array([since_us], dtype=np.int64))  # what was held then has its price from before
    grid = grid[np.searchsorted(grid, first) :]
    return _Prices(grid, {symbol: _on_grid(own.get(symbol), grid) for symbol in held}, own)


def _while_held(time: Ints, book: Book) -> npt.NDArray[np.bool_]:
    """Which of the minutes, which ascend, lie within a position, its entry's and its exit's included."""
    change = np.zeros(len(time) + 1, dtype=np.int32)
    np.add.at(change, np.searchsorted(time, book.entry), 1)
    np.add.at(change, np.searchsorted(time, book.exit[book.closed], "right"), -1)
    held: npt.NDArray[np.bool_] = np.cumsum(change[:-1]) > 0
    return held


def _within(some: Ints, times: Ints) -> bool:
    """Whether each of `some` is one of `times`; both ascend."""
    if not len(times):
        return not len(some)
    return bool((times[np.minimum(np.searchsorted(times, some), len(times) - 1)] == some).all())


def _union(left: Ints, right: Ints) -> Ints:
    """Both, ascending and each once. np.union1d hashes millions of minutes; two sorted runs only want merging."""
    both = np.sort(np.concatenate([left, right]), kind="stable")
    return both[np.append(True, both[1:] != both[:-1])]


def _of_symbol(candles: pd.DataFrame, time: Ints, mask: npt.NDArray[np.bool_]) -> PricePath | None:
    """The candles of one symbol; None where there are none."""
    places: Any = np.flatnonzero(mask)
    if not len(places):
        return None
    if places[-1] - places[0] + 1 == len(places):
        places = slice(int(places[0]), int(places[-1]) + 1)  # in one piece: no copies
    times = time[places]
    columns = [candles[name].to_numpy(np.float64)[places] for name in ("high", "low", "close")]
    if not (times[1:] > times[:-1]).all():
        order = np.argsort(times, kind="stable")
        times, columns = times[order], [column[order] for column in columns]
        if (times[1:] == times[:-1]).any():
            symbol = candles["symbol"].to_numpy()[mask][0]
            raise ValueError(f"candles of {symbol} repeat a minute; keep one row for each symbol and open_time")
    return PricePath(times, *columns)


def _on_grid(own: PricePath | None, grid: Ints) -> PricePath:
    """A symbol's prices on the grid; a minute without a candle repeats the last close."""
    if own is None:
        nothing = np.full(len(grid), np.nan)
        return PricePath(grid, nothing, nothing, nothing)
    begin = int(np.searchsorted(own.time, grid[0])) if len(grid) else 0
    if np.array_equal(own.time[begin:], grid):
        return PricePath(grid, own.high[begin:], own.low[begin:], own.close[begin:])
    at = np.searchsorted(own.time, grid, "right") - 1
    traded = (at >= 0) & (own.time[at] == grid)
    last = np.where(at >= 0, own.close[at], np.nan)
    return PricePath(grid, np.where(traded, own.high[at], last), np.where(traded, own.low[at], last), last)


def _equity(book: Book, prices: _Prices, realised: _Steps) -> tuple[Floats, Floats, Floats]:
    """Equity at each minute's end, the worst within it, and each open position's floating P/L at the end.

    NaN in minutes in which the price of a position held since an earlier one is not known.
    """
    grid = prices.time
    closing, worst = realised.through(grid), realised.before(grid)
    begin = np.searchsorted(grid, book.entry)
    end = np.where(book.closed, np.searchsorted(grid, book.exit), len(grid))
    floating = []
    for i, symbol in enumerate(book.symbol):
        a, b = int(begin[i]), int(end[i])
        d, q, entry, fee = book.direction[i], book.quantity[i], book.entry_price[i], book.entry_fee[i]
        held = prices.on_grid[symbol].close[a:b]
        against = (prices.on_grid[symbol].low if d > 0 else prices.on_grid[symbol].high)[a : b + int(book.closed[i])]
        unpriced = len(against) > 0 and grid[a] == book.entry[i] and np.isnan(against[0])
        if unpriced or (book.closed[i] and len(against)):
            held, against = held.copy(), against.copy()
        if unpriced:  # the entry itself is a price
            held[:1], against[0] = entry, entry
        if book.closed[i] and len(against):
            against[-1] = _exit_extreme(d, against[-1], book.stop[i], book.exit_price[i])
        floated = d * q * (held - entry) - fee
        closing[a:b] += floated
        worst[a : a + len(against)] += d * q * (against - entry) - fee
        if not book.closed[i]:
            # A price that is not known yet moves nothing; prices_as_of says so.
            floating.append(floated[-1] if len(floated) and not np.isnan(floated[-1]) else -fee)
    return closing, np.minimum(worst, closing), np.array(floating, dtype=np.float64)


def _exit_extreme(direction: float, extreme: float, stop: float, exit_price: float) -> float:
    """The price a position was exposed to in its exit minute: the candle's, but not beyond its stop or worse exit."""
    if np.isnan(stop):
        return exit_price if np.isnan(extreme) else extreme
    reached = min(stop, exit_price) if direction > 0 else max(stop, exit_price)
    return float(np.fmax(extreme, reached) if direction > 0 else np.fmin(extreme, reached))


def _instants(grid: Ints, closing: Floats, midnights: Ints, start: float, reading: _AtReading) -> _Instants:
    """At each of the midnights the equity carried over from the minute before; and the reading's."""
    rolls = midnights[midnights > reading.at]
    from_ = np.searchsorted(grid, rolls) - 1
    carried = np.where(from_ >= 0, closing[from_], start) if len(grid) else np.full(len(rolls), start)
    if reading.at == NO_INSTANT:
        return _Instants(rolls, carried)
    return _Instants(np.concatenate([[reading.at], rolls]), np.concatenate([[reading.equity], carried]))


def _breaches(broken: list[_Broken], today_us: int, forgiven_until: datetime | None) -> _Breaches:
    """The first breach of all, and the first that still stands: one of the maximum loss ever, or one of today."""
    tests = _Broken._make(np.concatenate(parts) for parts in zip(*broken, strict=True))
    first = _earliest(tests.time)
    forgiven = instant(forgiven_until, "forgiven_until")
    stands = np.ones(len(tests.time), dtype=bool) if forgiven is None else tests.known > _us(forgiven)
    total = _earliest(tests.time[stands & tests.total])
    daily = _earliest(tests.time[stands & tests.daily & (tests.time >= today_us)])
    if total is not None:
        return _Breaches("total", total, first)
    return _Breaches(None if daily is None else "daily", daily, first)


def _earliest(time: Ints) -> datetime | None:
    return _instant(int(time.min())) if len(time) else None


def _lowest(time: Ints, equity: Floats, since_us: int) -> float:
    """The lowest known equity since an instant; infinite where there is none."""
    return float(np.fmin.reduce(equity[np.searchsorted(time, since_us) :], initial=np.inf))


def _spread(days: Ints, time: Ints) -> Ints:
    """The place in `days` of each of the instants, which ascend."""
    bounds = np.append(np.searchsorted(time, days), len(time))
    bounds[0] = 0
    return np.repeat(np.arange(len(days)), np.diff(bounds))


def _midnights(book: Book, grid: Ints, now: datetime, since_us: int, rules: RuleSet) -> Ints:
    """The starts (µs) of all the firm's days from the account's first event to now, through every change of clocks."""
    events = [int(t[t != NO_INSTANT].min()) for t in (book.entry, book.exit, grid) if (t != NO_INSTANT).any()]
    first = min([_us(now), *events, *([since_us] if since_us != NO_INSTANT else [])])
    return _starts(ftmo_day(_instant(first), rules.zone), ftmo_day(now, rules.zone), rules.zone)


@lru_cache(maxsize=64)
def _starts(first: date, last: date, zone: ZoneInfo) -> Ints:
    """The starts (µs) of the days from first to last on the firm's clocks."""
    local = pd.date_range(first, last, freq="D", tz=zone)
    starts: Ints = local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    starts.flags.writeable = False  # it is handed out again
    return starts


def _daily_pnl(book: Book, rules: RuleSet) -> tuple[tuple[date, float], ...]:
    """Closed P/L by the firm's day of the exit; days without an exit are not invented."""
    sums: dict[date, float] = {}
    for at, amount in zip(book.exit[book.closed], book.pnl[book.closed], strict=True):
        day = ftmo_day(_instant(int(at)), rules.zone)
        sums[day] = sums.get(day, 0.0) + float(amount)
    return tuple(sorted(sums.items()))


def _best_day(daily_pnl: tuple[tuple[date, float], ...]) -> tuple[float | None, float | None]:
    if not daily_pnl:
        return None, None
    best = max(amount for _, amount in daily_pnl)
    positive = sum(amount for _, amount in daily_pnl if amount > 0)
    return best, (best / positive if positive > 0 else None)


def _passable(
    rules: RuleSet, progress: float | None, days: int, share: float | None, open_: int, breach: datetime | None
) -> bool | None:
    """Whether the target counts as reached now; None where the rules have none. The best day delays, never fails."""
    if progress is None:
        return None
    one_day_too_good = rules.best_day_share is not None and (share is None or share > rules.best_day_share + 1e-12)
    return progress >= 1.0 and days >= rules.min_days and not one_day_too_good and open_ == 0 and breach is None


def _stopped(book: Book, floating: Floats, balance: float) -> float | None:
    """Equity when every open position loses its worst case, or what it has lost already where that is more."""
    worst = book.worst_case[~book.closed]
    if np.isnan(worst).any():
        return None
    return balance + float(np.minimum(floating, -worst).sum())


def _prices_as_of(book: Book, prices: _Prices, now: datetime) -> datetime | None:
    symbols = set(book.symbol[~book.closed])
    if not symbols <= prices.own.keys():
        return None
    return _instant(min(int(prices.own[symbol].time[-1]) for symbol in symbols) + MINUTE_US) if symbols else now


def _now(as_of: datetime) -> datetime:
    now = instant(as_of, "as_of")
    if now is None:
        raise ValueError("the account needs the instant as_of")
    return now


def _us(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _instant(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND


def _minute(us: Any) -> Any:
    return us - us % MINUTE_US


def _checked(reading: Balance, now: datetime) -> Balance:
    """A reading with its instant in UTC; one from after now is refused."""
    at = instant(reading.at, "the balance's instant")
    if at is None:
        raise ValueError("a balance set by hand needs its instant")
    if at > now:
        raise ValueError(f"the account's reading of {at} lies after {now}: it was not known then")
    return replace(reading, at=at)
