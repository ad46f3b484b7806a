"""The account engine: trades + candles + rules + instant → the account's state. Pure; nothing is remembered.

It replays the whole account at every call, so a restart changes nothing. Whether a signal may still be opened is
conditions.ftmo's question; the rules themselves are data (rulesets.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.gates.base import NO_INSTANT, instant, microseconds, require
from v7_pipeline.gates.rulesets import RuleSet, day_bounds, ftmo_day, rules

__all__ = ["AccountState", "Balance", "RuleSet", "account_state", "day_bounds", "ftmo_day", "rules"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CENTS = 1e-6  # USD; a shortfall smaller than this is the sum's rounding, not a breach
MINUTE_US = 60_000_000
POSITION_COLUMNS = (
    "signal_id", "symbol", "side", "quantity", "entry_price", "entry_time", "exit_price", "exit_time",
    "worst_case_usd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Balance:
    """The real account's balance as a person read it off: the replay starts from here, `at` this instant.

    `day_start_usd` is the balance at that day's midnight where it is known; without it, `usd` is the day's reference.
    """

    at: datetime
    usd: float
    day_start_usd: float | None = None


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

    @property
    def open_risk_usd(self) -> float | None:
        """USD between the equity now and the equity with every open position stopped out."""
        return None if self.stopped_equity_usd is None else self.equity - self.stopped_equity_usd


def account_state(
    positions: pd.DataFrame,
    candles: pd.DataFrame,
    rules: RuleSet,
    *,
    initial_usd: float,
    as_of: datetime,
    balance_override: Balance | None = None,
) -> AccountState:
    """Replay `positions` over the candles that had closed by `as_of` and judge them by `rules`.

    positions: signal_id, symbol, side, quantity, entry_price, entry_time, exit_price, exit_time, worst_case_usd; also,
    where known, stop_price, entry_fee_usd, exit_fee_usd (without fees the rules' commission is charged). exit_time is
    missing while open; an exit whose minute is not over at `as_of` counts as open. candles: symbol, open_time, high,
    low, close; breaches are seen only in minutes that are given.

    Conventions, each the stricter one where the rules leave it open: a position enters equity with its entry's
    commission from its entry minute on, and the balance with both commissions at its exit; several positions are taken
    at their worst within a minute at once; in the exit minute a position is exposed to the candle only down to its stop
    (or its exit, if lower); a minute without a candle repeats the last close. The limits are tested in every minute
    and, with the last known equity, at each midnight at which the day rolls. A breach is an equity strictly below one.
    """
    now = instant(as_of, "as_of")
    if now is None:
        raise ValueError("the account needs the instant as_of")
    if not initial_usd > 0:
        raise ValueError(f"the initial capital must be above zero, not {initial_usd}")
    now_us = _us(now)
    start = initial_usd if balance_override is None else balance_override.usd
    since_us = NO_INSTANT if balance_override is None else _minute(_us(_aware(balance_override.at)))
    book = _read_book(positions, rules, now_us)
    history = book  # every position counts for trading days and best day; only later exits move a balance set by hand
    book = book.kept(~book.closed | (book.exit >= since_us))
    prices = _prices(candles, book, now_us, since_us)
    days = _midnights(history, prices.time, now, since_us, rules)

    realised = _Steps.of(book.exit[book.closed], book.pnl[book.closed], start)
    day_start = realised.before(days)
    if balance_override is not None and balance_override.day_start_usd is not None:
        day_start[np.searchsorted(days, since_us, "right") - 1] = balance_override.day_start_usd
    daily = day_start - rules.daily_loss * initial_usd
    peak = (
        np.maximum.accumulate(np.maximum(day_start, initial_usd)) if rules.trailing else np.full(len(days), initial_usd)
    )
    total = peak - rules.max_loss * initial_usd

    closing, worst, floating = _equity(book, prices, realised)
    balance = float(realised.last)
    equity = balance + float(floating.sum())
    tests = _tests(prices.time, worst, closing, days, start, since_us)
    breaches = _breaches(tests, days, daily, total)
    today = tests.time >= days[-1]
    worst_today = min([equity, *tests.equity[today].tolist()])
    daily_pnl = _daily_pnl(history, rules)
    stopped = _stopped(book, floating, balance)
    best, share = _best_day(daily_pnl)
    progress = None if not rules.profit_target else (balance - initial_usd) / (rules.profit_target * initial_usd)
    trading_days = len({ftmo_day(_instant(int(t)), rules.zone) for t in history.entry})
    started, ends = day_bounds(now, rules.zone)
    floor = float(max(daily[-1], total[-1]))
    still_open = int((~book.closed).sum())
    return AccountState(
        rules=rules.name,
        as_of=now,
        balance=balance,
        equity=equity,
        worst_equity_today=worst_today,
        stopped_equity_usd=stopped,
        day_start_balance=float(day_start[-1]),
        daily_limit=float(daily[-1]),
        total_limit=float(total[-1]),
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
    )


class _Book(NamedTuple):
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

    def kept(self, mask: npt.NDArray[np.bool_]) -> _Book:
        return _Book._make(column[mask] for column in self)


class _Prices(NamedTuple):
    """The minutes looked at (µs), and per symbol high, low, close on them; NaN before its first candle."""

    time: Ints
    high: dict[str, Floats]
    low: dict[str, Floats]
    close: dict[str, Floats]
    newest: dict[str, int]


class _Steps(NamedTuple):
    """A balance that moves in steps: it has the value of the last step made strictly before an instant."""

    time: Ints
    value: Floats

    @classmethod
    def of(cls, time: Ints, amount: Floats, start: float) -> _Steps:
        order = np.argsort(time, kind="stable")
        return cls(time[order], np.concatenate([[start], start + np.cumsum(amount[order])]))

    def before(self, time: Ints) -> Floats:
        return self.value[np.searchsorted(self.time, time, "left")]

    def through(self, time: Ints) -> Floats:
        return self.value[np.searchsorted(self.time, time, "right")]

    @property
    def last(self) -> float:
        return float(self.value[-1])


class _Tests(NamedTuple):
    """Every equity that is held against the limits, in time order."""

    time: Ints
    equity: Floats


class _Breaches(NamedTuple):
    kind: Literal["daily", "total"] | None
    at: datetime | None
    first: datetime | None


def _read_book(positions: pd.DataFrame, rules: RuleSet, now_us: int) -> _Book:
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
    entry_fee, exit_fee = (
        np.where(np.isnan(given), rules.commission_rate * quantity * price, given)
        for given, price in ((numbers("entry_fee_usd"), entry_price), (numbers("exit_fee_usd"), exit_price))
    )
    pnl = direction * quantity * (exit_price - entry_price) - entry_fee - exit_fee
    symbol = positions["symbol"].to_numpy(dtype=object)
    book = _Book(
        symbol, direction, quantity, entry_price, entry, np.where(closed, exit_, NO_INSTANT), exit_price,
        numbers("stop_price"), entry_fee, pnl, numbers("worst_case_usd"), closed,
    )  # fmt: skip
    return book.kept(entry < now_us)


def _prices(candles: pd.DataFrame, book: _Book, now_us: int, since_us: int) -> _Prices:
    """The minutes on which equity is computed: every closed candle's, every entry's and every exit's."""
    require(candles, ("symbol", "open_time", "high", "low", "close"), "candles")
    time = microseconds(candles["open_time"], "open_time")
    held = sorted(set(book.symbol))
    usable = (time + MINUTE_US <= now_us) & candles["symbol"].isin(held).to_numpy()
    candles, time = candles[usable], time[usable]
    names = candles["symbol"].to_numpy(dtype=object)
    first = max(int(book.entry.min()) if len(book.entry) else now_us, since_us)
    grid = np.unique(np.concatenate([time, book.entry, book.exit[book.closed]]))
    grid = grid[grid >= first]
    parts: dict[str, dict[str, Floats]] = {"high": {}, "low": {}, "close": {}}
    newest: dict[str, int] = {}
    for symbol in held:
        places = np.flatnonzero(names == symbol)
        places = places[np.argsort(time[places], kind="stable")]
        times = time[places]
        if (np.diff(times) == 0).any():
            raise ValueError(f"candles of {symbol} repeat a minute; keep one row for each symbol and open_time")
        if not len(times):
            for part in parts.values():
                part[symbol] = np.full(len(grid), np.nan)
            continue
        newest[symbol] = int(times[-1])
        at = np.searchsorted(times, grid, "right") - 1
        own = (at >= 0) & (times[at] == grid)
        close = candles["close"].to_numpy(np.float64)[places]
        last = np.where(at >= 0, close[at], np.nan)
        parts["close"][symbol] = last
        for name in ("high", "low"):
            parts[name][symbol] = np.where(own, candles[name].to_numpy(np.float64)[places][at], last)
    return _Prices(grid, parts["high"], parts["low"], parts["close"], newest)


def _equity(book: _Book, prices: _Prices, realised: _Steps) -> tuple[Floats, Floats, Floats]:
    """Equity at each minute's end, the worst within it, and each open position's floating P/L at the end."""
    grid = prices.time
    closing, worst = realised.through(grid), realised.before(grid)
    begin = np.searchsorted(grid, book.entry)
    end = np.where(book.closed, np.searchsorted(grid, book.exit), len(grid))
    floating = np.zeros(int((~book.closed).sum()))
    place = 0
    for i, symbol in enumerate(book.symbol):
        a, b = int(begin[i]), int(end[i])
        d, q = book.direction[i], book.quantity[i]
        # A price that is not known yet moves nothing; prices_as_of says so where the position is still open.
        held = d * q * (prices.close[symbol][a:b] - book.entry_price[i])
        closing[a:b] += np.where(np.isnan(held), 0.0, held) - book.entry_fee[i]
        against = (prices.low if d > 0 else prices.high)[symbol][a : b + 1 if book.closed[i] else b]
        if book.closed[i] and len(against):
            against = against.copy()
            against[-1] = _exit_extreme(d, against[-1], book.stop[i], book.exit_price[i])
        lowest = d * q * (against - book.entry_price[i])
        worst[a : a + len(against)] += np.where(np.isnan(lowest), 0.0, lowest) - book.entry_fee[i]
        if not book.closed[i]:
            now = held[-1] if len(held) and not np.isnan(held[-1]) else 0.0
            floating[place] = now - book.entry_fee[i]
            place += 1
    return closing, np.minimum(worst, closing), floating


def _exit_extreme(direction: float, extreme: float, stop: float, exit_price: float) -> float:
    """The price a position was exposed to in its exit minute: the candle's, but not beyond its stop or worse exit."""
    if np.isnan(stop):
        return extreme
    reached = min(stop, exit_price) if direction > 0 else max(stop, exit_price)
    return float(np.fmax(extreme, reached) if direction > 0 else np.fmin(extreme, reached))


def _tests(grid: Ints, worst: Floats, closing: Floats, days: Ints, start: float, since_us: int) -> _Tests:
    """The minutes' worst equities, and at each midnight the equity carried over from the minute before."""
    rolls = days[1:] if since_us == NO_INSTANT else days[1:][days[1:] > since_us]
    carried_from = np.searchsorted(grid, rolls) - 1
    carried = np.where(carried_from >= 0, closing[carried_from], start) if len(grid) else np.full(len(rolls), start)
    time = np.concatenate([rolls, grid])
    order = np.argsort(time, kind="stable")
    return _Tests(time[order], np.concatenate([carried, worst])[order])


def _breaches(tests: _Tests, days: Ints, daily: Floats, total: Floats) -> _Breaches:
    day = np.searchsorted(days, tests.time, "right") - 1
    below_daily = tests.equity < daily[day] - CENTS
    below_total = tests.equity < total[day] - CENTS
    any_ = np.flatnonzero(below_daily | below_total)
    first = _instant(int(tests.time[any_[0]])) if len(any_) else None
    ever_total = np.flatnonzero(below_total)
    if len(ever_total):
        return _Breaches("total", _instant(int(tests.time[ever_total[0]])), first)
    today = np.flatnonzero(below_daily & (tests.time >= days[-1]))
    if len(today):
        return _Breaches("daily", _instant(int(tests.time[today[0]])), first)
    return _Breaches(None, None, first)


def _midnights(book: _Book, grid: Ints, now: datetime, since_us: int, rules: RuleSet) -> Ints:
    """The starts (µs) of all the firm's days from the account's first event to now, through every change of clocks."""
    events = [int(t[t != NO_INSTANT].min()) for t in (book.entry, book.exit, grid) if (t != NO_INSTANT).any()]
    first = min([_us(now), *events, *([since_us] if since_us != NO_INSTANT else [])])
    local = pd.date_range(ftmo_day(_instant(first), rules.zone), ftmo_day(now, rules.zone), freq="D", tz=rules.zone)
    starts: Ints = local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    return starts


def _daily_pnl(book: _Book, rules: RuleSet) -> tuple[tuple[date, float], ...]:
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


def _stopped(book: _Book, floating: Floats, balance: float) -> float | None:
    """Equity when every open position loses its worst case, or what it has lost already where that is more."""
    worst = book.worst_case[~book.closed]
    if np.isnan(worst).any():
        return None
    return balance + float(np.minimum(floating, -worst).sum())


def _prices_as_of(book: _Book, prices: _Prices, now: datetime) -> datetime | None:
    symbols = set(book.symbol[~book.closed])
    if not symbols <= prices.newest.keys():
        return None
    return _instant(min(prices.newest[symbol] for symbol in symbols) + MINUTE_US) if symbols else now


def _us(at: datetime) -> int:
    return int(pd.Timestamp(at).value // 1000)


def _instant(us: int) -> datetime:
    return pd.Timestamp(us, unit="us", tz="UTC").to_pydatetime().astimezone(UTC)


def _minute(us: Any) -> Any:
    return us - us % MINUTE_US


def _aware(at: datetime) -> datetime:
    moment = instant(at, "the balance's instant")
    if moment is None:
        raise ValueError("a balance set by hand needs its instant")
    return moment
