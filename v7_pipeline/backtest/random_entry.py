"""Random entry: each closed paper trade of a strategy moved to random instants, its plan, size and side kept.

What the moved trades come to is trades/'s labelling; what it says of the strategy is the report's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.backtest.comparison import RandomEntry, Simulation
from v7_pipeline.backtest.replay import BacktestError
from v7_pipeline.settings import Settings
from v7_pipeline.trades import follow

__all__ = ["DRAWS", "Moved", "moved_trades", "percentile", "random_entry", "seed_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAWS = 1000
MINUTE, US = pd.Timedelta(minutes=1), pd.Timedelta(microseconds=1)
# Moved trades that are labelled at once: some 300 MB with their frames.
AT_ONCE = 200_000
_CANDLES = ["symbol", "open_time", "open", "high", "low", "close"]


@dataclass(frozen=True)
class Moved:
    """One symbol's trades at random instants. `trades`: signal_ids; the others are trades × draws.

    `entry_time` and `exit_time` are the open times of the candles in µs since 1970; money in USD.
    """

    symbol: str
    trades: tuple[str, ...]
    entry_time: Ints
    exit_time: Ints
    r_multiple: Floats
    pnl_usd: Floats


def seed_of(run_id: str) -> int:
    """A run's own seed: the same run draws the same instants."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4], "big")


def percentile(own: float, others: npt.ArrayLike) -> float:
    """The share of `others` below `own`, half of the equal ones counted. Missing where one of them is."""
    values = np.asarray(others, dtype=float)
    if not len(values) or np.isnan(own) or np.isnan(values).any():
        return float("nan")
    return float(((values < own).sum() + 0.5 * (values == own).sum()) / len(values))


def random_entry(
    simulation: Simulation,
    candles: pd.DataFrame,
    *,
    seed: int,
    draws: int = DRAWS,
    together: bool = False,
    at_once: int = AT_ONCE,
) -> RandomEntry | None:
    """The strategy's closed paper trades against `draws` sets of as many at random; None where it closed none.

    candles: symbol, open_time, open, high, low, close (USD). In each draw each trade is entered at an instant of the
    span drawn uniformly from those at which its symbol had a fresh price, on its own side, with stop and target as far
    in fractions of the price, its time stop and its notional, and so its risk in USD. Only instants from which the
    time stop still lies within the span are drawn, whatever came of them. Fills, fees and slippage are those of every
    outcome; no gate is asked, so that random trades may overlap. `seed` and the trade's signal_id decide its instants:
    they are the same alone and among other trades.

    `together`: in each draw all trades are moved by one time instead, round the span's end to its beginning, each to
    the next instant that it could be drawn at. What a strategy enters at once stays together then: where trades come in
    clusters, independent draws scatter less than the strategy does, and their percentile is too sure of itself.
    BacktestError where a trade has no instant to be moved to.
    """
    paper = simulation.paper
    if paper.empty:
        return None
    r, usd = np.zeros(draws), np.zeros(draws)
    of_symbol: dict[str, tuple[Floats, Floats]] = {}
    for moved in moved_trades(simulation, candles, seed=seed, draws=draws, together=together, at_once=at_once):
        # Trade by trade, so that the sums' bits do not depend on how many are labelled at once.
        sums = of_symbol.setdefault(moved.symbol, (np.zeros(draws), np.zeros(draws)))
        for place in range(len(moved.trades)):
            sums[0][:] += moved.r_multiple[place]
            sums[1][:] += moved.pnl_usd[place]
    for symbol in sorted(of_symbol):
        r += of_symbol[symbol][0]
        usd += of_symbol[symbol][1]
    own_r, own_usd = float(paper["r_multiple"].mean()), float(paper["pnl_usd"].sum())
    mean_r = r / len(paper)
    return RandomEntry(
        draws=draws,
        seed=seed,
        trades=len(paper),
        mean_r=mean_r,
        net_usd=usd,
        own_mean_r=own_r,
        own_net_usd=own_usd,
        percentile_mean_r=percentile(own_r, mean_r),
        percentile_net_usd=percentile(own_usd, usd),
    )


def moved_trades(
    simulation: Simulation,
    candles: pd.DataFrame,
    *,
    seed: int,
    draws: int = DRAWS,
    together: bool = False,
    at_once: int = AT_ONCE,
) -> Iterator[Moved]:
    """What `random_entry` sums, symbol by symbol, some `at_once` moved trades at a time."""
    if draws < 1:
        raise BacktestError(f"{draws} draws compare with nothing; give 1 or more, such as {DRAWS}")
    until = simulation.instants[-1]
    plans = _plans(simulation)
    draw = _Shifts.of(simulation, seed, draws) if together else _Draws(seed, draws)
    for symbol in sorted(set(plans["symbol"])):
        own = plans[plans["symbol"] == symbol].sort_values("signal_id", ignore_index=True)
        path = candles.loc[(candles["symbol"] == symbol) & (candles["open_time"] + MINUTE <= until), _CANDLES]
        path = path.sort_values("open_time", ignore_index=True)
        instants = _Instants.of(simulation, symbol, path)
        step = max(1, at_once // draws)
        for first in range(0, len(own), step):
            part = own.iloc[first : first + step]
            places = np.stack([draw(trade, instants) for trade in part.to_dict("records")])
            yield _moved(symbol, part, instants, places, path, until, simulation.settings)


@dataclass(frozen=True)
class _Instants:
    """A symbol's instants with a fresh price, ascending: µs, price (USD), and minutes left from the entry's candle."""

    at: Ints
    price: Floats
    room: Floats

    @classmethod
    def of(cls, simulation: Simulation, symbol: str, path: pd.DataFrame) -> _Instants:
        rows = simulation.signals[simulation.signals["symbol"] == symbol]
        price = rows["market_price"].to_numpy(float, na_value=np.nan)
        age = rows["price_age_s"].to_numpy(float, na_value=np.nan)
        rows = rows[(price > 0) & (age <= simulation.settings.max_price_age_s)].sort_values("as_of")
        at, time = _microseconds(rows["as_of"]), _microseconds(path["open_time"])
        entry = np.searchsorted(time, at)
        room = np.full(len(at), -1.0)
        entered = entry < len(time)
        if entered.any():
            room[entered] = (time[-1] - time[entry[entered]]) / 60e6 + 1
        return cls(at, rows["market_price"].to_numpy(float), room)


def _moved(
    symbol: str,
    own: pd.DataFrame,
    instants: _Instants,
    places: Ints,
    path: pd.DataFrame,
    until: pd.Timestamp,
    settings: Settings,
) -> Moved:
    """Trades of one symbol at `places` (trades × draws) among its instants, labelled all at once."""
    shape, draws = places.shape, places.shape[1]
    places = places.ravel()
    price = instants.price[places]

    def repeated(column: str) -> Any:
        return own[column].to_numpy().repeat(draws)

    trades = pd.DataFrame(
        {
            **{name: repeated(name) for name in ("signal_id", "strategy", "side", "horizon_minutes")},
            "kind": "shadow",
            "symbol": symbol,
            "as_of": pd.DatetimeIndex(instants.at[places].astype("datetime64[us]")).tz_localize("UTC"),
            "entry_price": price,
            "stop_price": price * repeated("stop"),
            "target_price": price * repeated("target"),
            "quantity": repeated("notional") / price,
        }
    )
    outcomes = follow(
        trades,
        path,
        as_of=until.to_pydatetime(),
        fee_preset=settings.fees,
        slippage=settings.slippage,
        breakeven_band_r=settings.breakeven_band_r,
    )
    return Moved(
        symbol,
        tuple(own["signal_id"]),
        _microseconds(outcomes["entry_time"]).reshape(shape),
        _microseconds(outcomes["exit_time"]).reshape(shape),
        outcomes["r_multiple"].to_numpy(float).reshape(shape),
        outcomes["pnl_usd"].to_numpy(float).reshape(shape),
    )


@dataclass(frozen=True)
class _Draws:
    """Each draw of each trade by itself, from a stream of the trade's own."""

    seed: int
    draws: int

    def __call__(self, trade: Mapping[str, Any], instants: _Instants) -> Ints:
        usable = _usable(trade, instants)
        words = np.frombuffer(hashlib.sha256(str(trade["signal_id"]).encode()).digest(), dtype=">u4")
        rng = np.random.default_rng([self.seed, *words.tolist()])
        return np.asarray(usable[rng.integers(0, len(usable), self.draws)])


@dataclass(frozen=True)
class _Shifts:
    """Each draw one time by which all trades are moved: µs, from the seed alone, within the span."""

    by: Ints
    length: int

    @classmethod
    def of(cls, simulation: Simulation, seed: int, draws: int) -> _Shifts:
        instants = simulation.instants
        step = np.diff(_microseconds(instants.to_series())).min() if len(instants) > 1 else MINUTE // US
        return cls(np.random.default_rng([seed]).integers(1, max(len(instants), 2), draws) * step, len(instants) * step)

    def __call__(self, trade: Mapping[str, Any], instants: _Instants) -> Ints:
        usable = _usable(trade, instants)
        at = instants.at[usable]
        moved = at[0] + (trade["as_of_us"] - at[0] + self.by) % self.length
        return np.asarray(usable[np.searchsorted(at, moved) % len(usable)])


def _usable(trade: Mapping[str, Any], instants: _Instants) -> Ints:
    """Places of the instants from which the trade's time stop still lies within the span."""
    usable = np.flatnonzero(instants.room >= trade["horizon_minutes"])
    if not len(usable):
        raise BacktestError(
            f"{trade['signal_id']} cannot be moved: no instant of the span lies {trade['horizon_minutes']:.0f} min "
            "before its end; backtest a longer span, or a shorter V7_HORIZON_MINUTES"
        )
    return usable


def _plans(simulation: Simulation) -> pd.DataFrame:
    """The closed paper trades' plans as fractions of their planned entry, and their notional there in USD."""
    planned = simulation.signals[["signal_id", "entry_price", "stop_price", "target_price", "horizon_minutes"]]
    rows = simulation.paper[["signal_id", "as_of", "symbol", "strategy", "side", "quantity"]].merge(
        planned, on="signal_id"
    )
    entry = rows["entry_price"].to_numpy(float)
    horizon = rows["horizon_minutes"].astype("float64").fillna(simulation.settings.horizon_minutes)
    return rows.assign(
        stop=rows["stop_price"].to_numpy(float) / entry,
        target=rows["target_price"].to_numpy(float) / entry,
        as_of_us=_microseconds(rows["as_of"]),
        notional=rows["quantity"].to_numpy(float) * entry,
        horizon_minutes=horizon.astype("int64"),
    )


def _microseconds(instants: pd.Series) -> Ints:
    return instants.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
