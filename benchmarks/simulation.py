"""What a backtest costs: every scan of a year of three symbols simulated, decided, gated, followed, learnt from, kept.

    python benchmarks/simulation.py [--days 365] [--runs 3] [--strategy v7]

Simulated candles (t4 steps, one minute in twenty quiet) are stored first, and once more with their readings filled as
`v7 backfill` does. Each run is a process of its own that prepares, simulates a scan every two minutes with the rules
and writes the tables into a fresh store: first with readings computed from candles, then with stored ones. Seconds by
part, n, range and peak memory are printed next to their bounds; nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from backfill import FIRST, _fill, _peak_mib, _settings, _store_candles

BOUNDS_S = {"computed": 60.0, "stored": 20.0}
BOUND_MIB = 4096
PARTS = ("prepare", "simulate", "keep")


def main() -> None:
    """Store candles and readings once, simulate several times, print the figures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--days", type=int, default=365, help="days simulated")
    options.add_argument("--runs", type=int, default=3, help="simulations of each kind, each in a process of its own")
    options.add_argument("--strategy", default="v7", help="v7 or v6")
    options.add_argument("--home", type=Path, help=argparse.SUPPRESS)  # one simulation: what the runs call
    chosen = options.parse_args()
    if chosen.home is not None:
        print(_simulated(chosen.home, chosen.days, chosen.strategy))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        _store_candles(home, chosen.days)
        _report("computed", home, chosen)
        _fill(home, chosen.days)
        _report("stored", home, chosen)


def _report(kind: str, home: Path, chosen: argparse.Namespace) -> None:
    rows = [_in_a_process(home, chosen) for _ in range(chosen.runs)]
    totals = [sum(row[:3]) for row in rows]
    middle, bound = statistics.median(totals), BOUNDS_S[kind] * chosen.days / 365
    verdict = "held" if middle <= bound else f"MISSED by {middle - bound:.1f} s"
    parts = ", ".join(f"{name} {statistics.median(row[i] for row in rows):.1f}" for i, name in enumerate(PARTS))
    print(
        f"{chosen.strategy}, readings {kind}: median {middle:.1f} s, {min(totals):.1f} … {max(totals):.1f} s "
        f"(n = {len(totals)}; {parts}); bound {bound:.1f} s {verdict}; {rows[0][4]:,.0f} scans, "
        f"{rows[0][5]:,.0f} BUY or SELL, {rows[0][6]:,.0f} accepted; "
        f"peak memory {max(row[3] for row in rows):,.0f} MiB (bound {BOUND_MIB:,})"
    )


def _in_a_process(home: Path, chosen: argparse.Namespace) -> list[float]:
    said = subprocess.run(
        [
            sys.executable, __file__, "--days", str(chosen.days), "--strategy", chosen.strategy, "--home", str(home),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [float(word) for word in said.stdout.splitlines()[-1].split()]


def _simulated(home: Path, days: int, strategy: str) -> str:
    """Seconds of each part, peak memory, and how much there was to do."""
    from v7_pipeline.backtest import prepare, simulate
    from v7_pipeline.backtest.deciders import decider_of
    from v7_pipeline.backtest.stored import keep, readings_of
    from v7_pipeline.scan.runtime import build_runtime
    from v7_pipeline.store import open_store
    from v7_pipeline.theories import warm_up

    warm_up()
    settings = _settings(home)
    source = build_runtime(settings).store
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    clock = [time.perf_counter()]
    given = prepare(source, settings, start=start, end=start + timedelta(days=days))
    clock.append(time.perf_counter())
    found = simulate(given, settings, decider=decider_of(strategy, given, settings, source))
    clock.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        keep(open_store(f"duckdb:{Path(folder) / 'target.duckdb'}"), found, readings_of(given, found), run_id="bench")
        clock.append(time.perf_counter())
    seconds = [after - before for before, after in pairwise(clock)]
    trades = int(found.signals["side"].isin(("BUY", "SELL")).sum())
    counts = (len(found.instants), trades, int(found.gated["accepted"].sum()))
    return " ".join(f"{value:.3f}" for value in (*seconds, _peak_mib(), *counts))


if __name__ == "__main__":
    main()
