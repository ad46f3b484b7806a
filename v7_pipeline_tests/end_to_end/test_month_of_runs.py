"""A month of scans' records, scaled: after the retention's bound nothing grows any more, and the pages stay quick.

One real scan of three products is recorded; its rows are copied as those of
8 runs a day for 30 days, which retention clears each night. Then the days that are kept whole are filled up to 720 runs
each: that is what stands in storage on any day of an endless operation, and what the pages must show in two seconds.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from v7_pipeline.orchestration.retention import prune_runs
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.settings import Settings
from v7_pipeline_tests.end_to_end.browser import open_browser
from v7_pipeline_tests.end_to_end.copied_runs import RecordedRun
from v7_pipeline_tests.end_to_end.world import Clock, open_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("daemon")]

DAYS, A_DAY, REAL_A_DAY = 30, 8, 720
KEPT = int(Settings.model_fields["retention_run_days"].default)
LAST_KEPT = int(Settings.model_fields["retention_day_days"].default)
WHOLE = KEPT + 1  # days of runs that are there just before a night's clearing
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MIB = 2**20
WITHIN_S = 2.0
_ASSET = """query { assetOrError(assetKey: {path: ["gated_signals"]}) { ... on Asset {
  assetMaterializations(limit: 100) { runId timestamp partition metadataEntries { label } }
  definition { assetChecksOrError { ... on AssetChecks { checks { name } } }
  partitionStats { numMaterialized numPartitions } } } } }"""
_SHOWN = {
    "overview": "Latest materialization",
    "events": "materialized in run",
    "checks": "ohlc_consistent",
}
_REQUESTS = """return performance.getEntriesByType('resource').filter(e => e.name.includes('/graphql') && e.responseEnd)
  .map(e => [e.startTime, e.responseEnd])"""


@dataclass
class Month:
    """What a month left, and where its pages are."""

    sizes: list[int]
    counts: list[int]
    a_run: int
    full_runs: int
    full_size: int
    pages: str = ""


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    folder = tmp_path_factory.mktemp("month")
    with SandboxServer(seed=7) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with open_world(folder, server, Clock(START), analyst="rules") as world:
            home = Path(world.instance.root_directory)
            recorded = RecordedRun(home, world.run(START).run_id)
            sizes, counts = [], []
            midnight = START.replace(hour=0)
            for day in range(DAYS):
                recorded.copy(_instants(midnight + day * DAY, A_DAY))
                night = midnight + (day + 1) * DAY
                prune_runs(world.instance, older_than=night - KEPT * DAY, days_older_than=night - LAST_KEPT * DAY)
                sizes.append(size_of(home))
                counts.append(world.instance.get_runs_count())
            a_run = round(_a_run(home, recorded, midnight + DAYS * DAY))
            for day in range(DAYS - WHOLE, DAYS):
                recorded.copy(_instants(midnight + day * DAY, REAL_A_DAY - A_DAY))
            found = Month(sizes, counts, a_run, world.instance.get_runs_count(), size_of(home))
    with _webserver(home) as found.pages:
        yield found
    shutil.rmtree(home)  # more than a gigabyte


def test_disk_use_levels_off_at_the_stated_size(month: Month) -> None:
    for day in (9, 19, 29):
        print(f"after {day + 1} days: {month.counts[day]} runs, {month.sizes[day] / MIB:.1f} MiB")
    # The runs of the days that are kept whole, and the last of each day before; a scan's records do not grow.
    assert month.counts[-1] <= KEPT * A_DAY + DAYS + 1
    growth_a_day = (month.sizes[-1] - month.sizes[14]) / 15
    assert growth_a_day < 1.6 * month.a_run  # that of the one run a day that stays
    steady = (WHOLE * REAL_A_DAY + LAST_KEPT) * month.a_run
    print(
        f"a run: {month.a_run / 1024:.0f} KiB; {month.full_runs} runs: {month.full_size / MIB:.0f} MiB\n"
        f"21,600 runs without retention: {21_600 * month.a_run / 2**30:.1f} GiB; with it {WHOLE} × {REAL_A_DAY} runs, "
        f"and after {LAST_KEPT} days {LAST_KEPT} last ones of a day: {steady / 2**30:.2f} GiB"
    )
    assert month.full_runs >= WHOLE * REAL_A_DAY
    assert abs(month.full_size / (month.full_runs * month.a_run) - 1) < 0.25, "the arithmetic does not hold"
    assert steady < 2 * 2**30


def test_an_assets_page_is_answered_within_two_seconds(month: Month) -> None:
    took = []
    for _ in range(4):
        began = time.monotonic()
        answer = requests.post(f"{month.pages}/graphql", json={"query": _ASSET}, timeout=60).json()
        took.append(time.monotonic() - began)
    asset = answer["data"]["assetOrError"]
    assert len(asset["assetMaterializations"]) == 100
    assert asset["definition"]["partitionStats"]["numMaterialized"] == DAYS + 1  # and the day that was measured
    print(f"with {month.full_runs} runs: first {took[0]:.2f} s, then {min(took[1:]):.2f} to {max(took[1:]):.2f} s")
    assert min(took) <= WITHIN_S  # the least: what else works on this machine must not decide


@pytest.mark.chromium
@pytest.mark.parametrize("view", list(_SHOWN))
def test_what_the_page_itself_asks_is_answered_within_two_seconds(
    month: Month, tmp_path_factory: pytest.TempPathFactory, view: str
) -> None:
    took = []
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        for _ in range(3):
            browser.open(f"{month.pages}/assets/candles?view={view}")
            browser.see(_SHOWN[view])
            asked = browser.driver.execute_script(_REQUESTS)
            took.append((max(end for _, end in asked) - min(start for start, _ in asked)) / 1000)
    print(f"{view}: {len(asked)} requests of the page answered in {', '.join(f'{s:.2f}' for s in took)} s")
    assert min(took) <= WITHIN_S


def _instants(day: datetime, count: int) -> list[datetime]:
    return [day + index * DAY / count for index in range(count)]


def _a_run(home: Path, recorded: RecordedRun, day: datetime) -> float:
    """Bytes that a run adds, of 100."""
    before = size_of(home)
    recorded.copy(_instants(day, 100))
    return (size_of(home) - before) / 100


def size_of(home: Path) -> int:
    return sum(file.stat().st_size for file in home.rglob("*") if file.is_file())


@contextmanager
def _webserver(home: Path) -> Iterator[str]:
    """Dagster's pages on `home`; their address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    module = [sys.executable, "-m", "dagster_webserver", "-m", "v7_pipeline.definitions", "-p", str(port)]
    environment: dict[str, Any] = {"DAGSTER_HOME": str(home), "V7_HOME": str(home.parent.parent), "V7_MODE": "demo"}
    environment |= {"PATH": str(Path(shutil.which("env") or "/usr/bin/env").parent), "PYTHONPATH": ":".join(sys.path)}
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
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)
