"""The triple barrier: what became of a trade, followed over one-minute candles to its target, stop or time stop.

Fills and returns come from pnl.py; which signals are followed, and storing the result, is the scan's business.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.store.schema import PROVENANCE, table
from v7_pipeline.trades import fees as fees_module
from v7_pipeline.trades import pnl
from v7_pipeline.trades.fees import FeePreset
from v7_pipeline.trades.frames import MINUTE_US, NO_INSTANT, by_symbol, directions, instants, microseconds, require, utc

__all__ = ["OUTCOME_COLUMNS", "can_be_followed", "follow", "warm_up"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TRADE_COLUMNS = (
    "signal_id", "kind", "as_of", "symbol", "strategy", "side", "entry_price", "stop_price", "target_price",
    "horizon_minutes", "quantity",
)  # fmt: skip
CANDLE_COLUMNS = ("symbol", "open_time", "open", "high", "low", "close")
# When a row was labelled is told by who stores it.
OUTCOME_COLUMNS: tuple[str, ...] = tuple(
    name for name in table("outcomes").column_names if name not in {*(c.name for c in PROVENANCE), "labelled_at"}
)
_REASONS = np.array([None, "stop", "target", "time"], dtype=object)  # by the kernel's numbers


def can_be_followed(signals: pd.DataFrame) -> pd.Series:
    """True for a BUY or SELL whose plan has an order: stop < entry < target, mirrored for SELL, all above zero.

    Anything else (HOLD, a missing price, a stop on the wrong side) has no barriers that could be touched in turn.
    """
    require(signals, ("side", "entry_price", "stop_price", "target_price"), "signals")
    entry, stop, target = (
        pd.to_numeric(signals[name]).astype("float64") for name in ("entry_price", "stop_price", "target_price")
    )
    long = signals["side"].eq("BUY") & (stop > 0) & (stop < entry) & (entry < target)
    short = signals["side"].eq("SELL") & (target > 0) & (target < entry) & (entry < stop)
    return (long | short) & np.isfinite(stop) & np.isfinite(target)


def follow(
    trades: pd.DataFrame,
    candles: pd.DataFrame,
    *,
    as_of: datetime,
    fee_preset: FeePreset | str,
    slippage: float,
    breakeven_band_r: float,
    only_closed: bool = False,
) -> pd.DataFrame:
    """Outcomes of `trades` over those `candles` that had closed by `as_of`, one row a trade in the same order.

    trades: signal_id, kind, as_of, symbol, strategy, side (BUY or SELL), entry_price, stop_price, target_price (all
    planned, USD), horizon_minutes, quantity (NaN for shadows). candles: symbol, open_time, open, high, low, close.

    Entry: the open of the first candle with open_time ≥ the signal's as_of, plus slippage. Stop and target are looked
    for from that candle on, in its high and low. A candle that *opens* beyond a barrier fills at its open; if that is
    the entry's own candle, the trade is entered and left at that open. Both barriers inside one candle: the stop is
    taken, `ambiguous` is true, and `optimistic_return` holds the net return of the target. Time stop: the close of the
    horizon's last minute, entry_time + horizon − 1 min; where that has no candle, the open of the next one. This
    depends on the candles alone, never on when one looks. Market fills (entry, stop, time) lose `slippage`,
    a target fills as a limit order without it. Returns are fractions of the filled entry's notional.

    R = net return ÷ planned risk, where planned risk = |planned entry − stop| ÷ planned entry. A win is R >
    `breakeven_band_r`, a loss R < −`breakeven_band_r`, breakeven between. MFE and MAE are the highest and lowest price
    of the candles from entry to exit, both counted whole (of one after the horizon only its open), against the filled
    entry (Lopez de Prado 2018, ch. 3, for the barriers; mirrored for shorts).

    holding_minutes runs from the entry's open to the end of the exit's candle. A trade is held through minutes without
    candles until data return, past its horizon too; gap_minutes counts those while it was open.

    A trade not closed yet is `open`: its exit and returns are missing, its entry too where no candle has come since.
    With `only_closed` such rows are left out; the index is the trade's place among `trades`.
    ValueError for HOLD, plans that cannot be followed, repeated candles, naive instants and missing columns.
    """
    require(trades, TRADE_COLUMNS, "trades")
    require(candles, CANDLE_COLUMNS, "candles")
    preset = fee_preset if isinstance(fee_preset, FeePreset) else fees_module.fee_preset(fee_preset)
    direction = directions(trades["side"])
    refused = trades.loc[~can_be_followed(trades), "signal_id"].tolist()
    if refused:
        raise ValueError(
            f"no barriers to follow for {', '.join(map(str, refused[:3]))}; drop what can_be_followed denies"
        )
    _refuse_bad_horizons(trades)
    traces = _trace_all(trades, direction, candles, int(utc(as_of).value // 1000))
    places = np.flatnonzero(traces.exit_us != NO_INSTANT) if only_closed else np.arange(len(trades))
    if len(places) < len(trades):
        trades, direction = trades.iloc[places], direction[places]
        traces = traces._replace(**{name: column[places] for name, column in traces._asdict().items()})
    return _outcomes(trades, direction, traces, preset, slippage, breakeven_band_r).set_axis(pd.Index(places))


def warm_up() -> None:
    """Compile the loop, or load it from the cache: its one signature is compiled with its module."""
    from v7_pipeline.trades import kernels  # noqa: F401


class _Traces(NamedTuple):
    """Raw facts of followed trades, one array each: candle times in µs, prices before slippage, minutes as floats."""

    entry_us: Ints
    entry: Floats
    exit_us: Ints
    exit: Floats
    reason: npt.NDArray[np.object_]
    ambiguous: npt.NDArray[np.bool_]
    highest: Floats
    lowest: Floats
    until_us: Ints
    held: Floats
    gap: Floats


class _Orders(NamedTuple):
    """Trades as arrays: µs of the signal and of the horizon, +1 or −1, both barriers in USD."""

    signalled: Ints
    horizon: Ints
    direction: Floats
    stop: Floats
    target: Floats


class _Path(NamedTuple):
    """One symbol's candles as arrays, ascending in time (µs)."""

    time: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats


def _refuse_bad_horizons(trades: pd.DataFrame) -> None:
    horizons = pd.to_numeric(trades["horizon_minutes"]).astype("float64").to_numpy()
    if len(horizons) and not (horizons >= 1).all():
        raise ValueError(
            "horizon_minutes must be at least 1 on every trade; fill in the default where a plan names none"
        )


def _paths(candles: pd.DataFrame, as_of_us: int) -> dict[str, _Path]:
    """Each symbol's closed candles, sorted; a repeated minute is refused since either version could be the truth."""
    time = microseconds(candles["open_time"], "open_time")
    known = time + MINUTE_US <= as_of_us
    if not known.all():
        candles, time = candles[known], time[known]
    paths: dict[str, _Path] = {}
    for symbol, places in by_symbol(candles).items():
        order = places[np.argsort(time[places], kind="stable")]
        times = time[order]
        if (np.diff(times) == 0).any():
            raise ValueError(f"candles of {symbol} repeat a minute; keep one row for each symbol and open_time")
        prices = (candles[name].to_numpy(np.float64)[order] for name in ("open", "high", "low", "close"))
        paths[symbol] = _Path(times, *prices)
    return paths


def _trace_all(trades: pd.DataFrame, direction: Floats, candles: pd.DataFrame, as_of_us: int) -> _Traces:
    signalled = microseconds(trades["as_of"], "as_of")
    if (signalled == NO_INSTANT).any():
        raise ValueError("every trade needs the as_of of its signal")
    paths = _paths(candles, as_of_us)
    horizon = trades["horizon_minutes"].to_numpy(np.int64) * MINUTE_US
    stop, target = (trades[name].to_numpy(np.float64) for name in ("stop_price", "target_price"))
    orders = _Orders(signalled, horizon, direction, stop, target)
    traces = _untouched(len(trades))
    for symbol, places in by_symbol(trades).items():
        if symbol in paths:
            own = _Orders(*(column[places] for column in orders))
            _trace(paths[symbol], own, traces, np.asarray(places, dtype=np.int64))
    return traces


def _untouched(n: int) -> _Traces:
    """What is known of `n` trades that no candle has reached."""

    def never() -> Ints:
        return np.full(n, NO_INSTANT, dtype=np.int64)

    def unknown() -> Floats:
        return np.full(n, np.nan)

    return _Traces(
        entry_us=never(), entry=unknown(), exit_us=never(), exit=unknown(), reason=np.full(n, None, dtype=object),
        ambiguous=np.zeros(n, dtype=bool), highest=unknown(), lowest=unknown(), until_us=never(), held=unknown(),
        gap=unknown(),
    )  # fmt: skip


def _trace(path: _Path, orders: _Orders, traces: _Traces, places: Ints) -> None:
    """Follow one symbol's trades over its candles, and put what was found at `places` of `traces`."""
    from v7_pipeline.trades.kernels import OPEN, first_touch

    n = len(places)
    first, last = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    reason, ambiguous = np.empty(n, dtype=np.uint8), np.empty(n, dtype=np.uint8)
    price, highest, lowest = np.empty(n), np.empty(n), np.empty(n)
    first_touch(*path, *orders, first, last, reason, ambiguous, price, highest, lowest)
    entered = np.flatnonzero(first >= 0)
    own, first, last, reason = places[entered], first[entered], last[entered], reason[entered]
    began, ended = path.time[first], path.time[last]
    until, seen = ended + MINUTE_US, last - first + 1
    closed = reason != OPEN
    traces.entry_us[own], traces.entry[own] = began, path.open[first]
    traces.exit_us[own], traces.exit[own] = np.where(closed, ended, NO_INSTANT), price[entered]
    traces.reason[own], traces.ambiguous[own] = _REASONS[reason], ambiguous[entered].astype(bool)
    traces.highest[own], traces.lowest[own] = highest[entered], lowest[entered]
    traces.until_us[own] = until
    traces.held[own] = np.where(closed, (until - began) // MINUTE_US, np.nan)
    traces.gap[own] = (until - began) // MINUTE_US - seen


def _outcomes(
    trades: pd.DataFrame, direction: Floats, traces: _Traces, preset: FeePreset, slippage: float, band: float
) -> pd.DataFrame:
    """Fills, returns and verdicts of the traced trades, all at once."""

    reason, ambiguous = traces.reason, traces.ambiguous
    planned, stop, target = (
        trades[name].to_numpy(np.float64) for name in ("entry_price", "stop_price", "target_price")
    )
    quantity = trades["quantity"].astype("float64").to_numpy()

    entry = pnl.entry_fill(traces.entry, direction, slippage)
    raw_exit = traces.exit
    exit_ = np.where(reason == "target", raw_exit, pnl.market_exit_fill(raw_exit, direction, slippage))
    gross = pnl.gross_return(direction, entry, exit_)
    fees = pnl.fee_return(preset.rate_per_side, entry, exit_)
    net = gross - fees
    optimistic = pnl.gross_return(direction, entry, target) - pnl.fee_return(preset.rate_per_side, entry, target)
    r_multiple = net / (np.abs(planned - stop) / planned)
    up, down = traces.highest / entry - 1.0, traces.lowest / entry - 1.0
    verdict = np.select(
        [traces.exit_us == NO_INSTANT, r_multiple > band, r_multiple < -band],
        ["open", "win", "loss"],
        default="breakeven",
    ).astype(object)
    columns = {
        **{name: trades[name].to_numpy() for name in ("signal_id", "kind", "symbol", "strategy", "side")},
        "as_of": instants(microseconds(trades["as_of"], "as_of")),
        "entry_time": instants(traces.entry_us),
        "entry_price": entry,
        "exit_time": instants(traces.exit_us),
        "exit_price": exit_,
        "exit_reason": reason,
        "ambiguous": ambiguous,
        "gross_return": gross,
        "optimistic_return": np.where(ambiguous, optimistic, np.nan),
        "fees": fees,
        "net_return": net,
        "r_multiple": r_multiple,
        "mfe": np.where(direction > 0, up, -down),
        "mae": np.where(direction > 0, down, -up),
        "quantity": quantity,
        "pnl_usd": quantity * entry * net,
        "outcome": verdict,
        "fee_preset": np.full(len(trades), preset.name, dtype=object),
        "followed_until": instants(traces.until_us),
        "holding_minutes": _minutes(traces.held),
        "gap_minutes": _minutes(traces.gap),
        "slippage": np.full(len(trades), slippage),
    }
    return pd.DataFrame({name: columns[name] for name in OUTCOME_COLUMNS})


def _minutes(values: Floats) -> Any:
    """Whole minutes, missing where NaN."""
    return pd.array(values, dtype="Int64")
