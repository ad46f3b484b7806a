"""What replaying the account costs: ten years of one-minute candles with 5,000 trades, for one symbol and for three.

    python benchmarks/ftmo.py [--years 10] [--trades 5000] [--rounds 7]

Beside the engine, in the same rounds, a peer: the obvious vectorised pandas computation (quantities and costs summed up
and reindexed on the minute grid, times high, low and close). Both give balance, equity now, the worst since midnight
and the first breach; how far they differ is printed. Seconds are of processor time (one thread), with median and range
of n rounds; memory is what a call allocates at its peak on top of the frames that it is given, and the peak of the
whole process at the end.
The trades are random, of up to four hours, at the candles' closes, without stops: that is the peer's limit.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
START = datetime(2016, 1, 1, tzinfo=UTC)
INITIAL_USD = 100_000.0
BOUND_S = 2.0


class Figures(NamedTuple):
    """What both compute: USD, and the minute of the first breach."""

    balance: float
    equity: float
    worst_today: float
    first_breach_at: datetime | None


def main() -> None:
    """Measure one symbol and three, and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--years", type=float, default=10.0, help="length of the candles")
    options.add_argument("--trades", type=int, default=5_000, help="trades over all symbols")
    options.add_argument("--rounds", type=int, default=7, help="rounds of both, at least 2")
    chosen = options.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n")
    for symbols in (SYMBOLS[:1], SYMBOLS):
        _measure(symbols, int(chosen.years * 365.25 * 1440), chosen.trades, chosen.rounds)
    print(f"peak of the whole process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def _measure(symbols: tuple[str, ...], minutes: int, trades: int, rounds: int) -> None:
    positions, candles, now = _account(symbols, minutes, trades)
    print(f"{len(symbols)} symbol(s), {len(candles):,} candles, {len(positions):,} trades")
    both: dict[str, Callable[..., Figures]] = {"engine": _engine, "peer, pandas": _peer}
    took: dict[str, list[float]] = {name: [] for name in both}
    found: dict[str, Figures] = {}
    for _ in range(rounds):
        for name, compute in both.items():
            began = time.process_time()
            found[name] = compute(positions, candles, now)
            took[name].append(time.process_time() - began)
    for name, compute in both.items():
        tracemalloc.start()
        compute(positions, candles, now)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        median = statistics.median(took[name])
        told = f"  bound ≤ {BOUND_S:g}: {'held' if median <= BOUND_S else 'MISSED'}" if name == "engine" else ""
        spread = f"range {min(took[name]):.2f} … {max(took[name]):.2f}, n = {rounds}"
        print(f"  {name:<14} {median:6.2f} s ({spread}), {peak:6,.0f} MB on top{told}")
    engine, peer = found.values()
    ratio = statistics.median(b / a for a, b in zip(*took.values(), strict=True))
    apart = max(abs(a - b) for a, b in zip(engine[:3], peer[:3], strict=True))
    same = "the same" if engine.first_breach_at == peer.first_breach_at else "NOT the same"
    print(f"  peer ÷ engine  {ratio:6.2f}   (median of the rounds)")
    print(f"  apart by at most {apart:.1e} USD; first breach {same}: {engine.first_breach_at}\n")


def _account(symbols: tuple[str, ...], minutes: int, trades: int) -> tuple[pd.DataFrame, pd.DataFrame, datetime]:
    """Random walks and random trades on them; the last three of a symbol are still open."""
    rng = np.random.default_rng(7)
    opened = pd.date_range(START, periods=minutes, freq="min").astype("datetime64[us, UTC]")
    frames, rows = [], []
    for symbol in symbols:
        close = 100.0 * np.exp(np.cumsum(rng.normal(0, 2e-4, minutes)))
        up, down = np.exp(np.abs(rng.normal(0, 2e-4, (2, minutes))))
        frames.append(
            pd.DataFrame(
                {"symbol": symbol, "open_time": opened, "high": close * up, "low": close / down, "close": close}
            )
        )
        n = trades // len(symbols)
        entry = np.sort(np.append(rng.integers(0, minutes, n - 3), minutes - np.array([90, 60, 30])))
        leave = entry + np.append(rng.integers(1, 241, n - 3), [240] * 3)  # the last three are open at the end
        done, last = leave < minutes, np.minimum(leave, minutes - 1)
        rows.append(
            pd.DataFrame(
                {
                    "signal_id": [f"{symbol}-{i}" for i in range(n)],
                    "symbol": symbol,
                    "side": np.where(rng.random(n) < 0.5, "BUY", "SELL"),
                    "quantity": rng.uniform(10.0, 60.0, n),
                    "entry_price": close[entry],
                    "entry_time": opened[entry],
                    "exit_price": np.where(done, close[last], np.nan),
                    "exit_time": pd.Series(opened[last]).where(done),
                    "worst_case_usd": 100.0,
                }
            )
        )
    now = opened[-1].to_pydatetime() + timedelta(minutes=1)
    return pd.concat(rows, ignore_index=True), pd.concat(frames, ignore_index=True), now


def _engine(positions: pd.DataFrame, candles: pd.DataFrame, now: datetime) -> Figures:
    from v7_pipeline.gates import account_state, rules

    state = account_state(positions, candles, rules("ftmo-2step-challenge"), initial_usd=INITIAL_USD, as_of=now)
    return Figures(state.balance, state.equity, state.worst_equity_today, state.first_breach_at)


def _peer(positions: pd.DataFrame, candles: pd.DataFrame, now: datetime) -> Figures:
    """The same figures from running sums on the grid of all minutes; static rules, fees by the rule set."""
    from v7_pipeline.gates import rules

    rule = rules("ftmo-2step-challenge")
    grid = pd.DatetimeIndex(candles["open_time"].unique()).sort_values()
    minute = pd.Timedelta(minutes=1)
    p = positions.assign(
        d=np.where(positions["side"] == "BUY", 1.0, -1.0),
        fee=rule.commission_rate * positions["quantity"] * positions["entry_price"],
    )
    done = p[p["exit_time"].notna()]
    exit_fee = rule.commission_rate * done["quantity"] * done["exit_price"]
    gain = done["d"] * done["quantity"] * (done["exit_price"] - done["entry_price"]) - done["fee"] - exit_fee

    def summed(amount: pd.Series, at: pd.Series) -> Any:
        return amount.groupby(at.to_numpy()).sum().reindex(grid, fill_value=0.0).cumsum().to_numpy()

    realised = summed(gain, done["exit_time"])
    closing, worst = INITIAL_USD + realised, INITIAL_USD + np.append(0.0, realised[:-1])
    for symbol, own in candles.groupby("symbol", sort=False):
        price = own.set_index("open_time").reindex(grid).ffill()
        for direction, extreme in ((1.0, "low"), (-1.0, "high")):
            book = p[(p["symbol"] == symbol) & (p["d"] == direction)]
            left = book[book["exit_time"].notna()]

            def held(amount: str, until: pd.Series, book: pd.DataFrame = book, left: pd.DataFrame = left) -> Any:
                value, gone = (frame.eval(amount) for frame in (book, left))
                return summed(value, book["entry_time"]) - summed(gone, until)

            for equity, column, until in (
                (closing, "close", left["exit_time"]),
                (worst, extreme, left["exit_time"] + minute),  # exposed in the exit's minute too
            ):
                quantity, cost = held("quantity", until), held(f"{direction} * quantity * entry_price + fee", until)
                equity += direction * quantity * price[column].to_numpy() - cost
    lowest = np.minimum(worst, closing)
    day = grid.tz_convert(rule.timezone).normalize()
    before = pd.Series(INITIAL_USD + np.append(0.0, realised[:-1]), index=grid)
    day_start = before.groupby(day).transform("first").to_numpy()
    floor = np.maximum(day_start - rule.daily_loss * INITIAL_USD, INITIAL_USD * (1 - rule.max_loss))
    first_of_day = np.append(False, day[1:] != day[:-1])
    lowest = np.where(first_of_day, np.minimum(lowest, np.append(np.inf, closing[:-1])), lowest)
    broken = np.flatnonzero(lowest < floor - 1e-6)
    return Figures(
        float(INITIAL_USD + realised[-1]),
        float(closing[-1]),
        float(lowest[day == day[-1]].min()),
        grid[broken[0]].to_pydatetime() if len(broken) else None,
    )


if __name__ == "__main__":
    main()
