"""A month of scans' records, scaled: after the retention's bound nothing grows any more, and the pages stay quick.

A sample of real scans a day stands for the 720 of a real one; docs/operate.md shows the arithmetic.
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

import pytest
import requests

from v7_pipeline.orchestration.retention import prune_runs
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline_tests.end_to_end.world import Clock, open_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

DAYS, A_DAY, KEPT = 30, 2, 7
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
            for day in range(DAYS):
                for place in range(A_DAY):
                    as_of = START + timedelta(days=day, minutes=2 * place)
                    clock.now = as_of + timedelta(seconds=5)
                    world.run(as_of)
                ends.append(datetime.now(UTC))
                if day >= KEPT:  # wall time stands for the days
                    prune_runs(world.instance, older_than=ends[day - KEPT], days_older_than=ends[0])
                sizes.append(size_of(home))
                counts.append(world.instance.get_runs_count())
            shard = [file.stat().st_size for file in (home / "history" / "runs").glob("*-*.db")]
    for day in (9, 19, 29):
        print(f"after {day + 1} days: {counts[day]} runs, {sizes[day] / MIB:.1f} MiB")
    print(f"one run's event file: {sum(shard) / len(shard) / 1024:.0f} KiB")
    # The runs of the days that are kept whole, and the last of each day before; a scan's records do not grow.
    assert counts[-1] <= (KEPT + 1) * A_DAY + DAYS
    growth_a_day = (sizes[-1] - sizes[14]) / 15
    assert growth_a_day < 1.6 * sizes[KEPT - 1] / KEPT / A_DAY  # that of the one run a day that stays
    took = asset_page(home)
    print(f"asset page: {took:.2f} s")
    assert took <= 2


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
