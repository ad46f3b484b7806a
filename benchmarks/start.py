"""How long `v7 up --demo` takes: the first start on an empty home, and second starts on a filled one.

    python benchmarks/start.py [--starts 5] [--history]

From the command to the printed addresses, on ports of its own. Each second start follows a SIGTERM that ended the one
before. The first start fills three days of candles and readings; with --history the day of scans too. Nothing is
asserted: a missed bound is printed as such.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READY = "Ctrl-C stops everything"
BOUND_S = 15.0
DEADLINE_S = 600.0


def main() -> None:
    """Start, end, start again; print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--starts", type=int, default=5, help="second starts")
    options.add_argument("--history", action="store_true", help="let the first start make the day of scans, too")
    chosen = options.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n")
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        first = _start(environment, history=chosen.history)
        print(f"first start: {first:.1f} s (n = 1)")
        again = [_start(environment, history=False) for _ in range(chosen.starts)]
    middle = statistics.median(again)
    verdict = "held" if middle <= BOUND_S else f"MISSED by {middle - BOUND_S:.1f} s"
    print(
        f"second start: median {middle:.1f} s, {min(again):.1f} … {max(again):.1f} s (n = {len(again)}); "
        f"bound {BOUND_S:.0f} s {verdict}"
    )


def _environment(folder: Path) -> dict[str, str]:
    ports = {name: str(_free_port()) for name in ("V7_UI_PORT", "V7_DASHBOARD_PORT", "V7_SANDBOX_PORT")}
    kept = {n: v for n, v in os.environ.items() if not n.startswith("V7_") and n != "DAGSTER_HOME"}
    return kept | ports | {"V7_HOME": str(folder / "home"), "V7_SCAN_CRON": "0 0 1 1 *"}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _start(environment: dict[str, str], *, history: bool) -> float:
    """Seconds from the command until it has printed the addresses; ended afterwards."""
    command = [sys.executable, "-m", "v7_pipeline.cli", "up", "--demo", *([] if history else ["--no-history"])]
    began = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.decode(errors="replace"))
            if READY in said[-1]:
                break
            if time.monotonic() - began > DEADLINE_S:
                raise SystemExit("".join(said) + f"\nnot ready after {DEADLINE_S:.0f} s")
        else:
            raise SystemExit("".join(said) + "\nv7 up ended before it was ready")
        seconds = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    return seconds


if __name__ == "__main__":
    main()
