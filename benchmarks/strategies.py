"""What v6 costs: a year of decisions every two minutes on three symbols, and what one scan adds to v7's.

    python benchmarks/strategies.py [--runs 3] [--days 365]

The market is a seeded random walk; memory is the process's largest, inputs included. A scan's share is v6's step alone:
over a store of 33 days, the day's first scan (which fits the models) and those after it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.scan.context import StepResult, persist
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline.scan.technical import decide_technical
from v7_pipeline.settings import load_settings
from v7_pipeline.store import conform
from v7_pipeline.strategies.walk_forward import TRAIN_DAYS, Terms, decisions

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
START = pd.Timestamp("2024-01-01", tz="UTC")
SEED, SIGMA, BEFORE = 7, 5e-4, TRAIN_DAYS + 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--days", type=int, default=365)
    given = parser.parse_args()
    terms = Terms.of(load_settings())
    candles = market(given.days + BEFORE)
    instants = pd.date_range(START + pd.Timedelta(days=BEFORE), periods=given.days * 720, freq="2min")
    decisions(candles[candles["open_time"] < START + pd.Timedelta(days=BEFORE + 1)], instants[:9], terms)  # compiled
    times, worked = [], []
    for _ in range(given.runs):
        began, used = time.perf_counter(), time.process_time()
        found = decisions(candles, instants, terms)
        times.append(time.perf_counter() - began)
        worked.append(time.process_time() - used)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"{len(found):,} decisions of {given.days} days, median of {given.runs}: {statistics.median(times):.1f} s "
        f"({min(times):.1f} … {max(times):.1f}), of the processor {statistics.median(worked):.1f} s; "
        f"largest memory {largest:.1f} GiB"
    )
    scans(candles[candles["open_time"] < START + pd.Timedelta(days=BEFORE + 1)], given.runs)


def scans(candles: pd.DataFrame, runs: int) -> None:
    """The step of v6 over a store: with the models to be fitted, and with the models there."""
    first, later = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            settings = load_settings(mode="demo", home=Path(folder), strategies="v7,v6")
            settings.data_dir.mkdir(parents=True)
            runtime = build_runtime(settings)
            now = (START + pd.Timedelta(days=BEFORE, hours=12)).to_pydatetime()
            runtime.clock = lambda now=now: now
            runtime.prepare_store()
            marks = {"venue": "sandbox", "source": "demo", "run_id": "made", "code_version": __version__}
            known = candles["open_time"] + pd.Timedelta(minutes=1)
            with runtime.store.transaction() as tx:
                tx.insert_new("candles", conform("candles", candles.assign(fetched_at=known, **marks)))
            first.append(step(runtime, now))
            later += [step(runtime, now + timedelta(minutes=2 * k)) for k in range(1, 6)]
    for name, times in (("the day's first scan, models fitted", first), ("a scan, models there", later)):
        print(
            f"v6 in {name}, median of {len(times)}: "
            f"{1e3 * statistics.median(times):.0f} ms (most {1e3 * max(times):.0f})"
        )


def step(runtime: Any, as_of: datetime) -> float:
    ctx = runtime.context(as_of, "bench")
    began = time.perf_counter()
    _, writes, _ = decide_technical(ctx)
    persist(runtime.store, StepResult(writes))
    return time.perf_counter() - began


def market(days: int) -> pd.DataFrame:
    """One-minute candles of a random walk of each symbol."""
    rng, n = np.random.default_rng(SEED), days * 1440
    parts = []
    for symbol in SYMBOLS:
        prices = np.round(100 * np.exp(np.cumsum(rng.normal(0, SIGMA / 2, (n, 4)), axis=None)).reshape(n, 4), 2)
        columns = {"open": prices[:, 0], "high": prices.max(axis=1), "low": prices.min(axis=1), "close": prices[:, 3]}
        times = pd.date_range(START, periods=n, freq="min").as_unit("us")
        parts.append(pd.DataFrame({"symbol": symbol, "open_time": times, **columns, "volume": 1.0}))
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    main()
