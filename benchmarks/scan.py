"""What a scan costs: a warm scan in process, the scan as a Dagster run, its checks, and importing the definitions.

    python benchmarks/scan.py [--scans 40] [--runs 7]

The sandbox serves the candles over HTTP from a process of its own; the analyst is the rules, so that no network latency
of an analyst is in the figures. Each figure is printed with n, median and the range of the middle half, next to its
bound. Nothing is asserted: a missed bound is printed as such.
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
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the measurements and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scans", type=int, default=40, help="warm scans")
    options.add_argument("--runs", type=int, default=7, help="Dagster runs, and imports of each kind")
    chosen = options.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n")
    with tempfile.TemporaryDirectory() as folder:
        warm, runs, checks = _scans(Path(folder), chosen.scans, chosen.runs)
    ratio, ours, theirs = _imports(chosen.runs)
    _print("warm scan of 3 symbols, median", warm, "s", bound=0.5)
    _print("scan job as a Dagster run, in process, median", runs, "s", bound=2.0)
    _print("its fast checks: a run with them less one without", checks, "s", bound=0.5)
    _print("import v7_pipeline.definitions", ours, "s")
    _print("import dagster, pandas", theirs, "s")
    _print("ratio of the two, pair by pair", ratio, "", bound=1.3)


def _scans(folder: Path, scans: int, runs: int) -> tuple[list[float], list[float], list[float]]:
    from v7_pipeline.definitions import build_definitions
    from v7_pipeline.orchestration.launch import execute_backfill, execute_scan, open_instance
    from v7_pipeline.orchestration.up import answers, sandbox_settings
    from v7_pipeline.scan.run import run_scan
    from v7_pipeline.scan.runtime import build_runtime
    from v7_pipeline.settings import load_settings

    port = 18077
    server = subprocess.Popen([sys.executable, "-m", "v7_pipeline.cli", "sandbox", "--port", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/health"):
            time.sleep(0.1)
        settings = sandbox_settings(load_settings(home=folder, mode="demo", analyst="rules"), url)
        settings = settings.model_copy(update={"analyst": "rules"})
        runtime = build_runtime(settings)
        runtime.prepare_store()
        instance = open_instance(settings)
        defs = build_definitions(settings, runtime=runtime)
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        start = now - timedelta(minutes=2 * (scans + 3 * runs + 8))
        # A clock that walks along, so that every scan is a live one: candles are asked for, readings are new.
        clock = {"now": start}
        runtime.clock = lambda: clock["now"] + timedelta(seconds=5)
        day = timedelta(days=1)
        execute_backfill(defs, instance, f"{start - day:%Y-%m-%d}", f"{start:%Y-%m-%d}")
        warm: list[float] = []
        for index in range(scans + 5):
            clock["now"] += timedelta(minutes=2)
            began = time.perf_counter()
            run_scan(runtime.context(clock["now"], f"bench-{index}"))
            warm.append(time.perf_counter() - began)
        dagster_runs: list[float] = []
        for _ in range(runs):
            clock["now"] += timedelta(minutes=2)
            began = time.perf_counter()
            execute_scan(defs, instance, clock["now"])
            dagster_runs.append(time.perf_counter() - began)
        jobs = {checked: _job(defs, checked=checked) for checked in (True, False)}
        checks: list[float] = []
        for index in range(runs + 1):
            took = {}
            # Alternating, so that what else the machine does falls on both.
            for checked in (True, False) if index % 2 else (False, True):
                clock["now"] += timedelta(minutes=2)
                began = time.perf_counter()
                _run(jobs[checked], instance, clock["now"])
                took[checked] = time.perf_counter() - began
            checks.append(took[True] - took[False])
        return warm[5:], dagster_runs[1:], checks[1:]
    finally:
        server.terminate()
        server.wait()


def _job(defs: Any, *, checked: bool) -> Any:
    """The scan job, or its assets without any check."""
    import dagster as dg

    from v7_pipeline.orchestration.jobs import SCAN_JOB

    if checked:
        return defs.resolve_job_def(SCAN_JOB)
    bare = dg.define_asset_job(
        SCAN_JOB, selection=dg.AssetSelection.all().without_checks(), executor_def=dg.in_process_executor
    )
    return dg.Definitions(assets=defs.assets, resources=defs.resources, jobs=[bare]).resolve_job_def(SCAN_JOB)


def _run(job: Any, instance: Any, as_of: datetime) -> None:
    from v7_pipeline.orchestration.launch import QUIET

    instant = f"{as_of:%Y-%m-%dT%H:%M:%SZ}"
    done = job.execute_in_process(
        instance=instance, partition_key=f"{as_of:%Y-%m-%d}", tags={"v7/as_of": instant}, run_config=dict(QUIET)
    )
    assert done.success


def _imports(pairs: int) -> tuple[list[float], list[float], list[float]]:
    """Both imports in turn, each in a fresh process: seconds of each, and the ratio pair by pair."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(pairs + 1):
        theirs.append(_import("import dagster, pandas"))
        ours.append(_import("import v7_pipeline.definitions"))
    ours, theirs = ours[1:], theirs[1:]
    return [a / b for a, b in zip(ours, theirs, strict=True)], ours, theirs


def _import(statement: str) -> float:
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("V7_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def _print(what: str, values: list[float], unit: str, *, bound: float | None = None) -> None:
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4)
    verdict = (
        ""
        if bound is None
        else f"  bound {bound:g}: {'held' if median <= bound else f'missed by {median - bound:.2f}'}"
    )
    print(f"{what:<48} {median:.3f} {unit:<1}  (middle half {low:.3f} … {high:.3f}, n = {len(values)}){verdict}")


if __name__ == "__main__":
    main()
