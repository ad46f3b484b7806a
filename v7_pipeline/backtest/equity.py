"""The account over time: balance and equity at given instants, by day, and how far it lay below its peak.

The same bookings as gates/ftmo.py's account, for many instants at once and without the firm's limits; a property test
holds the two together. What is made of the curve is figures.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.gates.base import NO_INSTANT, microseconds, require
from v7_pipeline.trades.fees import fee_preset
from v7_pipeline.trades.frames import directions

__all__ = ["Drawdown", "account_curve", "daily_equity", "days_of", "drawdown", "drawdowns", "fill_fees"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MINUTE_US = 60_000_000
DAY = timedelta(days=1)
_NEEDED = ("symbol", "side", "quantity", "entry_price", "entry_time", "exit_price", "exit_time")


@dataclass(frozen=True, slots=True)
class Drawdown:
    """One time below a peak: `depth` ≤ 0 as a fraction of the peak, from the peak over the lowest point to recovery.

    `recovered` is None while the peak has not been reached again; `days` then run to the curve's end.
    """

    depth: float
    peak: datetime
    trough: datetime
    recovered: datetime | None
    days: float


def account_curve(
    trades: pd.DataFrame, candles: pd.DataFrame, at: pd.DatetimeIndex, *, initial_usd: float
) -> pd.DataFrame:
    """Balance and equity of the account at each instant of `at` (UTC), from `trades` and the candles closed by then.

    trades: outcomes or positions with symbol, side, quantity (base units), entry_price, entry_time, exit_price,
    exit_time (missing while open) and, as USD a side, entry_fee_usd and exit_fee_usd, or else their fee_preset. Rows
    that were never entered are left out. candles: symbol, open_time, close.

    As in gates/ftmo.py: times are starts of minutes; a position is in equity with its entry's fee once its entry's
    minute has begun, and in the balance with both fees once its exit's minute is over; it is worth the last close
    that was known, nothing more or less than its entry where none is. Returns at, balance_usd, equity_usd,
    open_positions. Raises ValueError on a missing column, quantity or price, or a naive instant.
    """
    require(trades, _NEEDED, "trades")
    require(candles, ("symbol", "open_time", "close"), "candles")
    if at.tz is None:
        raise ValueError("the instants of an account's curve have no time zone; pass them in UTC")
    now = at.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    book = _Book.of(trades)
    balance = initial_usd + _sum_through(book.known, book.pnl, now)
    equity = balance - (
        _sum_before(book.entry, book.entry_fee, now) - _sum_through(book.known, book.entry_fee[book.closed], now)
    )
    for symbol in sorted(set(book.symbol)):
        mine = book.symbol == symbol
        equity = equity + _floating(book, mine, candles[candles["symbol"] == symbol], now)
    count = np.ones(len(book.entry))
    held = _sum_before(book.entry, count, now) - _sum_through(book.known, count[book.closed], now)
    return pd.DataFrame(
        {"at": at, "balance_usd": balance, "equity_usd": equity, "open_positions": held.round().astype(np.int64)}
    )


def days_of(first: datetime, last: datetime) -> pd.DatetimeIndex:
    """The ends (midnights, UTC) of the days from that of `first` to that of `last`, which may be cut short."""
    begin = pd.Timestamp(first).tz_convert("UTC").floor("D")
    end = max(pd.Timestamp(last).tz_convert("UTC").ceil("D"), begin + DAY)
    return pd.date_range(begin + DAY, end, freq="D").as_unit("us")


def daily_equity(
    trades: pd.DataFrame, candles: pd.DataFrame, *, first: datetime, last: datetime, initial_usd: float
) -> pd.DataFrame:
    """Equity at the end of each UTC day from `first` to `last`; the last day ends at `last` where that is earlier.

    Columns: day (the midnight that ends it), equity_usd, balance_usd.
    """
    ends = days_of(first, last)
    at = ends.where(ends <= pd.Timestamp(last), pd.Timestamp(last)).as_unit("us")
    curve = account_curve(trades, candles, at, initial_usd=initial_usd)
    return pd.DataFrame({"day": ends, "equity_usd": curve["equity_usd"], "balance_usd": curve["balance_usd"]})


def drawdown(equity: npt.ArrayLike, start: float) -> Floats:
    """How far each value lies below the highest so far, as a fraction ≤ 0 of it; `start` (USD) is the first peak."""
    values = np.asarray(equity, dtype=np.float64)
    peak = np.maximum.accumulate(np.maximum(values, start))
    return values / peak - 1.0


def drawdowns(at: pd.DatetimeIndex, equity: npt.ArrayLike, *, first: datetime, start: float) -> list[Drawdown]:
    """Every time below a peak, in order; `start` is the value at `first`, before the curve's first instant."""
    times = pd.DatetimeIndex([pd.Timestamp(first)]).append(at)
    values = np.concatenate([[start], np.asarray(equity, dtype=np.float64)])
    depth = drawdown(values, start)
    below = np.concatenate([[0], (depth < 0).astype(np.int8), [0]])
    begins, ends = np.flatnonzero(np.diff(below) == 1), np.flatnonzero(np.diff(below) == -1)
    found = []
    for a, b in zip(begins, ends, strict=True):
        low = int(a + depth[a:b].argmin())
        recovered = times[b] if b < len(times) else None
        length = (recovered if recovered is not None else times[-1]) - times[a - 1]
        found.append(Drawdown(float(depth[low]), times[a - 1], times[low], recovered, length / DAY))
    return found


@dataclass(frozen=True)
class _Book:
    """Entered trades as arrays; times in µs. `known` (when the exit's minute was over) and `pnl` are of closed ones."""

    symbol: npt.NDArray[np.object_]
    signed: Floats  # base units, below 0 for a short
    entry: Ints
    entry_price: Floats
    entry_fee: Floats
    closed: npt.NDArray[np.bool_]
    known: Ints
    pnl: Floats

    @classmethod
    def of(cls, trades: pd.DataFrame) -> _Book:
        entered = trades[trades["entry_time"].notna()]
        entry, exit_ = (microseconds(entered[name], name) for name in ("entry_time", "exit_time"))
        quantity, bought, sold = (
            entered[n].astype("float64").to_numpy() for n in ("quantity", "entry_price", "exit_price")
        )
        closed = exit_ != NO_INSTANT
        if not ((quantity > 0) & (bought > 0)).all() or not (sold[closed] > 0).all():
            raise ValueError(
                "an entered trade needs a quantity, an entry_price and, once closed, an exit_price above 0"
            )
        fees = fill_fees(entered)
        signed = directions(entered["side"]) * quantity
        pnl = signed * (sold - bought) - fees[0] - fees[1]
        return cls(
            entered["symbol"].to_numpy(object), signed, entry - entry % MINUTE_US, bought, fees[0], closed,
            (exit_ - exit_ % MINUTE_US + MINUTE_US)[closed], pnl[closed],
        )  # fmt: skip


def fill_fees(trades: pd.DataFrame) -> tuple[Floats, Floats]:
    """Fees (USD) of each trade's entry and exit: as given, else by its preset. The exit's is NaN while it is open."""
    if "entry_fee_usd" in trades.columns:
        return tuple(trades[n].astype("float64").to_numpy() for n in ("entry_fee_usd", "exit_fee_usd"))
    require(trades, ("fee_preset",), "trades")
    rate = trades["fee_preset"].map(lambda name: fee_preset(name).rate_per_side).astype("float64")
    return tuple(
        (rate * trades["quantity"] * trades[n]).astype("float64").to_numpy() for n in ("entry_price", "exit_price")
    )


def _floating(book: _Book, mine: npt.NDArray[np.bool_], candles: pd.DataFrame, now: Ints) -> Floats:
    """What one symbol's open positions had gained or lost at each instant, before fees."""
    leaving = mine[book.closed]
    moves = []
    for amount in (book.signed, book.signed * book.entry_price):
        begun = _sum_before(book.entry[mine], amount[mine], now)
        moves.append(begun - _sum_through(book.known[leaving], amount[book.closed][leaving], now))
    units, cost = moves
    close = _last_closes(candles, now)
    return np.where(np.isnan(close), 0.0, units * np.nan_to_num(close) - cost)


def _last_closes(candles: pd.DataFrame, now: Ints) -> Floats:
    """The newest close that was known at each instant; NaN before the first."""
    if candles.empty:
        return np.full(len(now), np.nan)
    time, close = microseconds(candles["open_time"], "open_time"), candles["close"].to_numpy(np.float64)
    if not (time[1:] > time[:-1]).all():
        order = np.argsort(time, kind="stable")
        time, close = time[order], close[order]
    place = np.searchsorted(time + MINUTE_US, now, "right") - 1
    return np.where(place >= 0, close[np.maximum(place, 0)], np.nan)


def _sum_before(time: Ints, amount: Floats, now: Ints) -> Floats:
    return _sums(time, amount, now, "left")


def _sum_through(time: Ints, amount: Floats, now: Ints) -> Floats:
    return _sums(time, amount, now, "right")


def _sums(time: Ints, amount: Floats, now: Ints, side: str) -> Floats:
    """For each instant the sum of the amounts whose time came before it (left), or no later (right)."""
    order = np.argsort(time, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(amount[order])])
    return np.asarray(sums[np.searchsorted(time[order], now, side)])  # type: ignore[call-overload]
