"""The triple barrier: what became of a trade, followed over one-minute candles to its target, stop or time stop.

Fills and returns come from pnl.py; which signals are followed, and storing the result, is the scan's business.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.store.schema import PROVENANCE, table
from v7_pipeline.trades import fees as fees_module
from v7_pipeline.trades import pnl
from v7_pipeline.trades.fees import FeePreset
from v7_pipeline.trades.frames import MINUTE_US, NO_INSTANT, directions, instants, microseconds, require, utc

__all__ = ["OUTCOME_COLUMNS", "can_be_followed", "follow"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TRADE_COLUMNS = (
    "signal_id", "kind", "as_of", "symbol", "strategy", "side", "entry_price", "stop_price", "target_price",
    "horizon_minutes", "quantity",
)  # fmt: skip
CANDLE_COLUMNS = ("symbol", "open_time", "open", "high", "low", "close")
OUTCOME_COLUMNS: tuple[str, ...] = tuple(
    name for name in table("outcomes").column_names if name not in {column.name for column in PROVENANCE}
)


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
) -> pd.DataFrame:
    """Outcomes of `trades` over those `candles` that had closed by `as_of`, one row a trade in the same order.

    trades: signal_id, kind, as_of, symbol, strategy, side (BUY or SELL), entry_price, stop_price, target_price (all
    planned, USD), horizon_minutes, quantity (NaN for shadows). candles: symbol, open_time, open, high, low, close.

    Entry: the open of the first candle with open_time ≥ the signal's as_of, plus slippage. Stop and target are looked
    for from that candle on, in its high and low. A candle that *opens* beyond a barrier fills at its open; if that is
    the entry's own candle, the trade is entered and left at that open. Both barriers inside one candle: the stop is
    taken, `ambiguous` is true, and `optimistic_return` holds the net return of the target. Time stop: the close of the
    last candle that opened before entry_time + horizon, as soon as that horizon's last minute or a later one is known;
    this depends on the candles alone, never on when one looks. Market fills (entry, stop, time) lose `slippage`,
    a target fills as a limit order without it. Returns are fractions of the filled entry's notional.

    R = net return ÷ planned risk, where planned risk = |planned entry − stop| ÷ planned entry. A win is R >
    `breakeven_band_r`, a loss R < −`breakeven_band_r`, breakeven between. MFE and MAE are the highest and lowest price
    of the candles from entry to exit, both counted whole, against the filled entry (Lopez de Prado 2018, ch. 3,
    for the barriers; mirrored for shorts).

    A trade not closed yet is `open`: its exit and returns are missing, its entry too where no candle has come since.
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
    return _outcomes(trades, direction, traces, preset, slippage, breakeven_band_r)


class _Trace(NamedTuple):
    """Raw facts of one followed trade: candle times in µs, prices before slippage. `reason` is empty while open."""

    entry_us: int = NO_INSTANT
    entry: float = np.nan
    exit_us: int = NO_INSTANT
    exit: float = np.nan
    reason: str = ""
    ambiguous: bool = False
    highest: float = np.nan
    lowest: float = np.nan
    until_us: int = NO_INSTANT


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
    candles, time = candles[known], time[known]
    paths: dict[str, _Path] = {}
    for symbol, places in candles.groupby("symbol", sort=False).indices.items():
        order = places[np.argsort(time[places], kind="stable")]
        times = time[order]
        if (np.diff(times) == 0).any():
            raise ValueError(f"candles of {symbol} repeat a minute; keep one row for each symbol and open_time")
        prices = (candles[name].to_numpy(np.float64)[order] for name in ("open", "high", "low", "close"))
        paths[str(symbol)] = _Path(times, *prices)
    return paths


def _trace_all(trades: pd.DataFrame, direction: Floats, candles: pd.DataFrame, as_of_us: int) -> list[_Trace]:
    paths = _paths(candles, as_of_us)
    signalled = microseconds(trades["as_of"], "as_of")
    if (signalled == NO_INSTANT).any():
        raise ValueError("every trade needs the as_of of its signal")
    horizon = trades["horizon_minutes"].to_numpy(np.int64) * MINUTE_US
    stop, target = (trades[name].to_numpy(np.float64) for name in ("stop_price", "target_price"))
    return [
        _trace(paths[symbol], signalled[i], horizon[i], direction[i], stop[i], target[i])
        if symbol in paths
        else _Trace()
        for i, symbol in enumerate(trades["symbol"])
    ]


def _trace(path: _Path, signalled: int, horizon: int, direction: float, stop: float, target: float) -> _Trace:
    """Follow one trade: the first candle that touches a barrier decides, else the time stop, else it is open."""
    first = int(np.searchsorted(path.time, signalled))
    if first == len(path.time):
        return _Trace()
    entered = int(path.time[first])
    end = int(np.searchsorted(path.time, entered + horizon))
    high, low = path.high[first:end], path.low[first:end]
    at_stop = low <= stop if direction > 0 else high >= stop
    at_target = high >= target if direction > 0 else low <= target
    touched = at_stop | at_target
    place = int(touched.argmax())
    price, reason, ambiguous = np.nan, "", False
    if touched[place]:
        opened = path.open[first + place]
        if direction * (opened - stop) <= 0:
            price, reason = opened, "stop"
        elif direction * (opened - target) >= 0:
            price, reason = opened, "target"
        elif at_stop[place]:
            price, reason, ambiguous = stop, "stop", bool(at_target[place])
        else:
            price, reason = target, "target"
    else:
        place = end - first - 1
        # Over once the horizon's last minute, or any later one, is known: a late candle cannot change the answer.
        if end < len(path.time) or path.time[end - 1] == entered + horizon - MINUTE_US:
            price, reason = path.close[end - 1], "time"
    last = int(path.time[first + place])
    return _Trace(
        entry_us=entered,
        entry=float(path.open[first]),
        exit_us=last if reason else NO_INSTANT,
        exit=float(price),
        reason=reason,
        ambiguous=ambiguous,
        highest=float(high[: place + 1].max()),
        lowest=float(low[: place + 1].min()),
        until_us=last + MINUTE_US,
    )


def _outcomes(
    trades: pd.DataFrame, direction: Floats, traces: list[_Trace], preset: FeePreset, slippage: float, band: float
) -> pd.DataFrame:
    """Fills, returns and verdicts of the traced trades, all at once."""

    def numbers(name: str) -> Floats:
        return np.array([getattr(trace, name) for trace in traces], dtype=np.float64)

    def times(name: str) -> pd.DatetimeIndex:
        return instants(np.array([getattr(trace, name) for trace in traces], dtype=np.int64))

    reason = np.array([trace.reason for trace in traces], dtype=object)
    ambiguous = np.array([trace.ambiguous for trace in traces], dtype=bool)
    planned, stop, target = (
        trades[name].to_numpy(np.float64) for name in ("entry_price", "stop_price", "target_price")
    )
    quantity = trades["quantity"].astype("float64").to_numpy()

    entry = pnl.entry_fill(numbers("entry"), direction, slippage)
    raw_exit = numbers("exit")
    exit_ = np.where(reason == "target", raw_exit, pnl.market_exit_fill(raw_exit, direction, slippage))
    gross = pnl.gross_return(direction, entry, exit_)
    fees = pnl.fee_return(preset.rate_per_side, entry, exit_)
    net = gross - fees
    optimistic = pnl.gross_return(direction, entry, target) - pnl.fee_return(preset.rate_per_side, entry, target)
    r_multiple = net / (np.abs(planned - stop) / planned)
    up, down = numbers("highest") / entry - 1.0, numbers("lowest") / entry - 1.0
    verdict = np.select(
        [reason == "", r_multiple > band, r_multiple < -band], ["open", "win", "loss"], default="breakeven"
    ).astype(object)
    columns = {
        **{name: trades[name].to_numpy() for name in ("signal_id", "kind", "symbol", "strategy", "side")},
        "as_of": instants(microseconds(trades["as_of"], "as_of")),
        "entry_time": times("entry_us"),
        "entry_price": entry,
        "exit_time": times("exit_us"),
        "exit_price": exit_,
        "exit_reason": np.array([trace.reason or None for trace in traces], dtype=object),
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
        "followed_until": times("until_us"),
    }
    return pd.DataFrame({name: columns[name] for name in OUTCOME_COLUMNS})
