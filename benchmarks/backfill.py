"""What a backfill of stored candles costs: a year of three symbols through the Dagster job into the store.

    python benchmarks/backfill.py [--days 365] [--runs 3]

Simulated candles (t4 steps, one minute in twenty quiet) are stored first; each run starts from a copy of that store
and fills theory_features through the job `backfill_features`, as `v7 backfill` does: reads, ten theories over three
windows, writes, and Dagster's own events. Each figure is printed with n and range, next to its bound; nothing is
asserted. The first run of a process may load compiled kernels; they are warmed before.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

FIRST = date(2025, 1, 1)
HISTORY_DAYS = 3
BOUND_S = 15.0
PRICES = {"BTC-USD": 40_000.0, "ETH-USD": 2_500.0, "SOL-USD": 100.0}


def main() -> None:
    """Store candles once, fill readings several times, print the figures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--days", type=int, default=365, help="days filled")
    options.add_argument("--runs", type=int, default=3, help="fills, each in a process and a home of its own")
    options.add_argument("--home", type=Path, help=argparse.SUPPRESS)  # one fill: what the runs call
    chosen = options.parse_args()
    if chosen.home is not None:
        print(f"{_fill(chosen.home, chosen.days):.3f} {_peak_mib():.0f}")
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n")
    with tempfile.TemporaryDirectory() as folder:
        origin = Path(folder) / "origin"
        rows = _store_candles(origin, chosen.days)
        figures = []
        for run in range(chosen.runs):
            home = Path(folder) / f"run-{run}"
            shutil.copytree(origin, home)
            figures.append(_in_a_process(home, chosen.days))
            shutil.rmtree(home)
    seconds, peaks = zip(*figures, strict=True)
    middle = statistics.median(seconds)
    bound = BOUND_S * chosen.days / 365
    verdict = "held" if middle <= bound else f"MISSED by {middle - bound:.1f} s"
    print(
        f"backfill of {chosen.days} days × {len(PRICES)} symbols ({rows:,} readings): median {middle:.1f} s, "
        f"{min(seconds):.1f} … {max(seconds):.1f} s (n = {len(seconds)}); bound {bound:.1f} s {verdict}; "
        f"{rows / middle:,.0f} readings/s; peak memory {max(peaks):.0f} MiB"
    )


def _in_a_process(home: Path, days: int) -> tuple[float, float]:
    said = subprocess.run(
        [sys.executable, __file__, "--days", str(days), "--home", str(home)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, peak = said.stdout.split()[-2:]
    return float(seconds), float(peak)


def _settings(home: Path):  # type: ignore[no-untyped-def]  # settings are imported where they are needed
    from v7_pipeline.settings import load_settings

    settings = load_settings(home=home, mode="demo", analyst="rules", _env_file=None)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return settings


def _store_candles(home: Path, days: int) -> int:
    """Candles of `days` days and of the history before them; returns how many readings they make."""
    import numpy as np
    import pandas as pd

    from v7_pipeline.scan.runtime import build_runtime
    from v7_pipeline.store import conform

    runtime = build_runtime(_settings(home))
    store = runtime.prepare_store()
    n = (days + HISTORY_DAYS) * 1440
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC) - timedelta(days=HISTORY_DAYS)
    times = pd.date_range(start, periods=n, freq="min").as_unit("us")
    rng = np.random.default_rng(1)
    for symbol, price in PRICES.items():
        steps = 3e-4 * rng.standard_t(4, n) * (rng.random(n) > 0.05)
        close = np.round(price * np.exp(np.cumsum(steps - steps.mean())), 2)
        opened = np.concatenate((close[:1], close[:-1]))
        frame = pd.DataFrame(
            {
                "symbol": symbol, "open_time": times, "open": opened, "high": np.maximum(opened, close),
                "low": np.minimum(opened, close), "close": close, "volume": 1.0, "venue": "sandbox",
                "fetched_at": times[-1] + timedelta(minutes=2),
            }
        )  # fmt: skip
        marks = {"source": "demo", "run_id": "benchmark", "code_version": "0"}
        with store.transaction() as tx:
            tx.upsert("candles", conform("candles", frame, marks))
    return days * 1440 * len(PRICES)


def _fill(home: Path, days: int) -> float:
    from v7_pipeline.definitions import build_definitions
    from v7_pipeline.orchestration.launch import execute_backfill, open_instance
    from v7_pipeline.scan.runtime import build_runtime
    from v7_pipeline.theories import warm_up

    settings = _settings(home)
    runtime = build_runtime(settings)
    instance = open_instance(settings)
    definitions = build_definitions(settings, runtime=runtime)
    warm_up()
    began = time.perf_counter()
    execute_backfill(definitions, instance, FIRST.isoformat(), (FIRST + timedelta(days=days - 1)).isoformat())
    return time.perf_counter() - began


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
