"""The process that forks the drills' workers: it imports everything once, and opens no store itself.

Run as `python -m v7_pipeline_tests.store.drills`; reads one JSON request a line, answers one JSON value a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 (so that no worker imports anything)
import pandas as pd
import pyarrow.compute  # noqa: F401

from v7_pipeline.store import Store, StoreBusy, conform, open_store
from v7_pipeline.store.process import process
from v7_pipeline_tests.store.rows import DAY, FIXED, NEXT_DAY

MINUTES = 480


def candles(day: datetime, minutes: int, close: float) -> pd.DataFrame:
    times = pd.date_range(day, periods=minutes, freq="min", unit="us")
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), close)
    facts = {"symbol": "BTC-USD", "open_time": times, "venue": "sandbox", "fetched_at": times}
    return conform("candles", pd.DataFrame(facts).assign(**prices, **FIXED))


def replace_slice(store: Store, version: int) -> None:
    """A whole day of candles in which every number is `version`."""
    with store.transaction() as tx:
        frame = candles(DAY, MINUTES, float(version))
        tx.replace_slice("candles", frame, start=DAY, end=NEXT_DAY, symbols=["BTC-USD"])


def _warm(store: Store, place: dict[str, Any]) -> None:
    """Start DuckDB, and open a lake's catalog, before the clock runs."""
    with process().cursor():
        pass
    if not place["url"].startswith("duckdb:"):
        store.schema_version()


class Worker:
    """A forked child that runs `work(tell)`; what it tells arrives as lines."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(work, writing)
        os.close(writing)
        self._lines = os.fdopen(reading)

    @staticmethod
    def _live(work: Callable[[Callable[[Any], None]], None], writing: int) -> None:
        try:
            work(lambda what: os.write(writing, (json.dumps(what) + "\n").encode()) and None)
            os._exit(0)
        except BaseException:  # noqa: BLE001 (the exit code tells)
            traceback.print_exc()
            os._exit(1)

    def told(self) -> Any:
        line = self._lines.readline()
        return json.loads(line) if line else None

    def end(self) -> int:
        """Wait for the end; the exit code, or minus the signal."""
        self._lines.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def kill(place: dict[str, Any], version: int, after_s: float | None) -> dict[str, Any]:
    """Replace the slice by `version` in a worker that is killed `after_s` into it (None: not at all)."""

    def work(tell: Callable[[Any], None]) -> None:
        store = open_store(**place)
        _warm(store, place)
        tell("begins")
        began = time.perf_counter()
        replace_slice(store, version)
        tell(time.perf_counter() - began)

    worker = Worker(work)
    worker.told()
    if after_s is None:
        return {"took_s": worker.told(), "exit": worker.end()}
    time.sleep(after_s)
    os.kill(worker.pid, signal.SIGKILL)
    return {"exit": worker.end()}


def hold(place: dict[str, Any], until: str) -> dict[str, Any]:
    """A worker that keeps a transaction open until the file `until` is there; answers when it has begun."""

    def work(tell: Callable[[Any], None]) -> None:
        with open_store(**place).transaction():
            tell(os.getpid())
            give_up = time.monotonic() + 120
            while not Path(until).exists() and time.monotonic() < give_up:
                time.sleep(0.01)

    return {"pid": Worker(work).told()}


def write(place: dict[str, Any], day: str, seconds: float, tell: Callable[[Any], None]) -> None:
    """Add two candles after another to `day`, and replace the whole day now and then."""
    store, own_day, end = open_store(**place), datetime.fromisoformat(day), time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end and rounds < 700:
        rounds += 1
        frame = candles(own_day, 2 * rounds, float(rounds if rounds % 5 == 0 else rounds - rounds % 5))
        with store.transaction() as tx:
            if rounds % 5 == 0:
                tx.replace_slice("candles", frame, start=own_day, end=own_day + timedelta(days=1))
            else:
                tx.upsert("candles", frame)
    tell({"day": day, "rounds": rounds})


def watch(place: dict[str, Any], seconds: float, tell: Callable[[Any], None]) -> None:
    """Read all days again and again: none may shrink, have holes, or hold a replaced price beside a new one."""
    store, end = open_store(**place), time.monotonic() + seconds
    reads, failed, seen = 0, 0, {}
    while time.monotonic() < end:
        try:
            days = store.query(
                "SELECT date_trunc('day', open_time) AS day, count(*) AS n, count(DISTINCT close) AS closes, "
                "datediff('minute', min(open_time), max(open_time)) + 1 AS span FROM candles GROUP BY 1"
            )
        except StoreBusy:
            failed += 1
            continue
        reads += 1
        for row in days.itertuples():
            assert row.n == row.span and row.closes == 1 and row.n >= seen.get(row.day, 0), (row, seen)
            seen[row.day] = row.n
    tell({"reads": reads, "failed": failed})


def contend(place: dict[str, Any], days: list[str], readers: int, seconds: float) -> list[dict[str, Any]]:
    """Writers of different days and readers of all, at once; what each has to say, and its exit code."""
    workers = [Worker(lambda tell, d=day: write(place, d, seconds, tell)) for day in days]
    workers += [Worker(lambda tell: watch(place, seconds, tell)) for _ in range(readers)]
    return [{"told": worker.told(), "exit": worker.end()} for worker in workers]


def migrate(place: dict[str, Any], processes: int) -> list[int]:
    """Several processes that create the same store at the same instant; their exit codes."""
    at = time.monotonic() + 0.3

    def work(_: Callable[[Any], None]) -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        open_store(**place).migrate("0.1.0", DAY)

    return [worker.end() for worker in [Worker(work) for _ in range(processes)]]


def main() -> None:
    drills = {"kill": kill, "hold": hold, "contend": contend, "migrate": migrate}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(drills[request.pop("drill")](**request)), flush=True)


if __name__ == "__main__":
    main()
