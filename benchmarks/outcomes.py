"""What labelling a year costs: signals every two minutes on three symbols, followed to their barriers.

    python benchmarks/outcomes.py [--runs 5] [--days 365]

The market is a seeded random walk with missing minutes; sides, stops, targets and horizons vary from signal to signal.
Memory is the process's largest, inputs included.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from v7_pipeline.trades import follow
from v7_pipeline.trades.barriers import warm_up

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
START = datetime(2024, 1, 1, tzinfo=UTC)
SEED, SIGMA, MISSING = 7, 4e-4, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--days", type=int, default=365)
    given = parser.parse_args()
    candles, trades = _market(given.days)
    began = time.perf_counter()
    warm_up()
    print(f"kernel ready after {time.perf_counter() - began:.2f} s")
    times = []
    for _ in range(given.runs):
        began = time.perf_counter()
        outcomes = follow(
            trades, candles, as_of=START + timedelta(days=given.days + 1), fee_preset="ftmo-crypto", slippage=1e-4,
            breakeven_band_r=0.1,
        )  # fmt: skip
        times.append(time.perf_counter() - began)
    reasons = outcomes["exit_reason"].value_counts(dropna=False).to_dict()
    print(f"{len(trades):,} signals over {len(candles):,} candles: {reasons}")
    print(f"median {statistics.median(times):.2f} s, range {min(times):.2f} … {max(times):.2f} s, n = {len(times)}")
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB, {os.cpu_count()} cores")


def _market(days: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Candles, and one trade a symbol every two minutes from the newest close."""
    rng = np.random.default_rng(SEED)
    candles, trades = [], []
    minutes = days * 1440
    times = pd.date_range(START, periods=minutes, freq="min").as_unit("us")
    for symbol in SYMBOLS:
        close = 100 * np.exp(np.cumsum(rng.normal(0.0, SIGMA, minutes)))
        opens = np.concatenate([[100.0], close[:-1]])
        wick = 1 + np.abs(rng.normal(0.0, SIGMA / 2, (2, minutes)))
        frame = pd.DataFrame({"symbol": symbol, "open_time": times, "open": opens, "close": close})
        frame["high"], frame["low"] = np.maximum(opens, close) * wick[0], np.minimum(opens, close) / wick[1]
        candles.append(frame[rng.random(minutes) > MISSING])
        price = opens[::2]
        sign = rng.choice([-1.0, 1.0], len(price))
        risk, reward = rng.uniform(0.002, 0.01, len(price)), rng.uniform(0.003, 0.02, len(price))
        trades.append(
            pd.DataFrame(
                {
                    "signal_id": [f"v7-{symbol}-{at:%Y%m%dT%H%M%SZ}" for at in times[::2]],
                    "kind": "shadow", "as_of": times[::2], "symbol": symbol, "strategy": "v7",
                    "side": np.where(sign > 0, "BUY", "SELL"), "entry_price": price,
                    "stop_price": price * (1 - sign * risk), "target_price": price * (1 + sign * reward),
                    "horizon_minutes": rng.choice([60, 240, 480], len(price)), "quantity": np.nan,
                }
            )
        )  # fmt: skip
    return pd.concat(candles, ignore_index=True), pd.concat(trades, ignore_index=True)


if __name__ == "__main__":
    main()
