"""The process that forks the ledger drill's workers: real analysts that ask over HTTP until they are killed.

Run as `python -m v7_pipeline_tests.end_to_end.ledger_drill`; reads one JSON request a line, answers one a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb  # noqa: F401 (so that no worker imports anything)
import openai.resources.chat  # noqa: F401
import pandas as pd  # noqa: F401
import pyarrow.compute  # noqa: F401
import tenacity  # noqa: F401

from v7_pipeline.analyst import deepseek
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.store import open_store
from v7_pipeline_tests.analyst.conftest import PROVENANCE, analyst, question
from v7_pipeline_tests.store.drills import Worker

MINUTE = timedelta(minutes=1)
DEADLINE_S = 2.0
DIRECTIONS = {"BTC-USD": 0.0, "ETH-USD": 0.8, "SOL-USD": -0.8}


def scan(work: dict[str, Any], instant: datetime) -> list[str]:
    """Ask for every symbol at `instant`; what came of each question."""
    began = time.monotonic()
    ledger = Ledger(
        open_store(work["url"], wait_s=30.0, linger_s=work["linger_s"]),
        daily_budget_usd=work["day_usd"],
        monthly_budget_usd=work["month_usd"],
        provenance=PROVENANCE | {"run_id": work["run_id"]},
    )
    start = datetime.fromisoformat(work["now"])
    asking = analyst(
        ledger,
        work["server"],
        deadline_s=DEADLINE_S,
        # All processes' clocks run on from the same instant.
        clock=lambda: start + timedelta(seconds=time.monotonic() - work["monotonic"]),
    )
    asked = [question(symbol, direction, as_of=instant) for symbol, direction in DIRECTIONS.items()]
    decisions = asking.decide(asked, now=start + timedelta(seconds=began - work["monotonic"]))
    return [decision.status for decision in decisions]


def work_through(work: dict[str, Any]) -> list[str]:
    """One scan after another; a scan that was killed before is done again by whoever has it on the list."""
    # A dead run's question is taken over after this long, in place of five seconds beyond its deadline.
    deepseek.IN_FLIGHT_MARGIN_S, deepseek.IN_FLIGHT_POLL_S = 0.0, 0.05
    statuses: list[str] = []
    for instant in work["instants"]:
        statuses += scan(work, datetime.fromisoformat(instant))
    return statuses


def run(works: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of `works` at once, each killed `kill_after_s` after its begin (None: never); statuses and exit codes."""

    def begin(work: dict[str, Any]) -> Worker:
        def live(tell: Any) -> None:
            tell("begins")
            tell(work_through(work))

        return Worker(live)

    workers = [begin(work) for work in works]
    began = {worker.told() and worker.pid: time.monotonic() for worker in workers}
    pairs = zip(works, workers, strict=True)
    mortal = [(work["kill_after_s"], worker) for work, worker in pairs if work["kill_after_s"] is not None]
    for after_s, worker in sorted(mortal, key=lambda pair: began[pair[1].pid] + pair[0]):
        time.sleep(max(began[worker.pid] + after_s - time.monotonic(), 0.0))
        os.kill(worker.pid, signal.SIGKILL)
    return [{"statuses": worker.told(), "exit": worker.end()} for worker in workers]


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
