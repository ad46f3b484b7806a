"""A month of scans' records, scaled: after the retention's bound nothing grows any more, and the pages stay quick.

One real scan is recorded; its events, to the byte but for run and day, are stored again as those of 8 runs a day, which
stand for the 720 of a real one. docs/operate.md shows the arithmetic.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import shutil
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
from dagster import EventLogEntry
from dagster._serdes import deserialize_value, serialize_value

from v7_pipeline.orchestration.jobs import SCAN_JOB
from v7_pipeline.orchestration.partitions import partition_of
from v7_pipeline.orchestration.retention import prune_runs
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline_tests.end_to_end.world import Clock, open_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

DAYS, A_DAY, KEPT = 30, 8, 7
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MIB = 2**20
_ASSET = """query { assetOrError(assetKey: {path: ["gated_signals"]}) { ... on Asset {
  assetMaterializations(limit: 100) { runId timestamp partition metadataEntries { label } }
  definition { assetChecksOrError { ... on AssetChecks { checks { name } } }
  partitionStats { numMaterialized numPartitions } } } } }"""


def size_of(home: Path) -> int:
    return sum(file.stat().st_size for file in home.rglob("*") if file.is_file())


def test_a_month_of_runs_levels_off_and_the_asset_page_answers_within_two_seconds(tmp_path: Path) -> None:
    sizes: list[int] = []
    counts: list[int] = []
    ends: list[datetime] = []
    with SandboxServer(seed=7) as server:
        clock = Clock(START)
        with open_world(tmp_path, server, clock, symbols="BTC-USD", analyst="rules") as world:
            home = Path(world.instance.root_directory)
            recorded = world.run(START)
            again = Again(world.instance, world.defs.resolve_job_def(SCAN_JOB), recorded.run_id)
            for day in range(DAYS):
                for _ in range(A_DAY):
                    again.store(partition_of(START + timedelta(days=day)))
                ends.append(datetime.now(UTC))
                if day >= KEPT:  # wall time stands for the days
                    prune_runs(world.instance, older_than=ends[day - KEPT], days_older_than=ends[0] - timedelta(days=1))
                sizes.append(size_of(home))
                counts.append(world.instance.get_runs_count())
            shard = [file.stat().st_size for file in (home / "history" / "runs").glob("*-*.db")]
    for day in (9, 19, 29):
        print(f"after {day + 1} days: {counts[day]} runs, {sizes[day] / MIB:.1f} MiB")
    print(f"one run's event file: {sum(shard) / len(shard) / 1024:.0f} KiB")
    # The runs of the days that are kept whole, and the last of each day before; a scan's records do not grow.
    assert counts[-1] <= (KEPT + 1) * A_DAY + DAYS + 1
    growth_a_day = (sizes[-1] - sizes[14]) / 15
    assert growth_a_day < 1.6 * sizes[KEPT - 1] / KEPT / A_DAY  # that of the one run a day that stays
    took = asset_page(home)
    print(f"asset page: {took:.2f} s")
    assert took <= 2


def _kind(entry: EventLogEntry) -> str:
    return str(entry.get_dagster_event().event_type_value)


class Again:
    """A recorded run's events as those of other runs."""

    def __init__(self, instance: dg.DagsterInstance, job: dg.JobDefinition, run_id: str) -> None:
        self._instance, self._job, self._run_id = instance, job, run_id
        run = instance.get_run_by_id(run_id)
        assert run is not None
        self._tags = run.tags
        self._day = run.tags["dagster/partition"]
        events = instance.all_logs(run_id)
        # What is planned, Dagster notes itself when it makes a run.
        self._events = [serialize_value(e) for e in events if not (e.dagster_event and "PLANNED" in _kind(e))]

    def store(self, day: str) -> None:
        tags = {**self._tags, "dagster/partition": day}
        run = self._instance.create_run_for_job(self._job, tags=tags, status=dg.DagsterRunStatus.SUCCESS)
        texts = (text.replace(self._run_id, run.run_id).replace(self._day, day) for text in self._events)
        self._instance.event_log_storage.store_event_batch([deserialize_value(text, EventLogEntry) for text in texts])


def asset_page(home: Path) -> float:
    """Seconds that Dagster's pages need for what the page of an asset asks, the second time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    module = [sys.executable, "-m", "dagster_webserver", "-m", "v7_pipeline.definitions", "-p", str(port)]
    environment = {"DAGSTER_HOME": str(home), "PATH": str(Path(shutil.which("env") or "/usr/bin/env").parent)}
    environment |= {"PYTHONPATH": ":".join(sys.path), "V7_HOME": str(home.parent.parent), "V7_MODE": "demo"}
    server = subprocess.Popen(module, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{url}/server_info", timeout=1).ok:
                    break
            except requests.RequestException:
                assert time.monotonic() < deadline, "the pages did not start"
                time.sleep(0.5)
        answers: list[Any] = []
        for _ in range(2):
            began = time.monotonic()
            answers.append(requests.post(f"{url}/graphql", json={"query": _ASSET}, timeout=60).json())
            took = time.monotonic() - began
        asset = answers[-1]["data"]["assetOrError"]
        assert asset["assetMaterializations"] and asset["definition"]["partitionStats"]["numMaterialized"] == DAYS
        return took
    finally:
        server.terminate()
        server.wait(timeout=30)
