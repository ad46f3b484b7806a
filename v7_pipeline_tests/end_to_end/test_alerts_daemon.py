"""A failed check reaches a person through a real daemon within one sensor interval, on SQLite and on PostgreSQL.

The daemon, its code server and the scan's run are real; the destination is a stand-in on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
from dagster import DagsterInstance
from dagster._core.scheduler.instigation import InstigatorType

from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.alert_sensors import RUN_SENSOR
from v7_pipeline.orchestration.launch import execute_scan, prepare_home
from v7_pipeline.orchestration.up import sandbox_settings
from v7_pipeline.scan.context import minute
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline.settings import Settings, load_settings
from v7_pipeline_tests.alerts.bot_api import BotApi, serve
from v7_pipeline_tests.store.conftest import new_database  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("daemon")]

PROJECT = Path(__file__).resolve().parents[2]
INTERVAL_S = 30.0
SLACK_S = 10.0  # a daemon that looks for what is due, a code server that answers, on two slow cores
FAULT = {"path": "candles", "kind": "status", "status": 500, "symbol": "ETH-USD"}


def _until(what: Callable[[], Any], seconds: float, meaning: str, every: float = 0.1) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := what()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {meaning}"
        time.sleep(every)
    return seen


@dataclass
class Place:
    """One Dagster home with its settings and destination."""

    settings: Settings
    home: Path
    instance: DagsterInstance
    api: BotApi
    sandbox: str
    scanned: datetime | None = None

    def scan(self, *, fault: bool) -> dg.ExecuteInProcessResult:
        """A scan of a new minute, one product of which cannot be fetched where there is a `fault`."""
        _until(
            lambda: minute(datetime.now(UTC)) != self.scanned, 70, "another minute: the same one is not fetched again"
        )
        as_of = self.scanned = minute(datetime.now(UTC))
        requests.delete(f"{self.sandbox}/_faults", timeout=5)
        if fault:
            assert requests.post(f"{self.sandbox}/_faults", json=FAULT, timeout=5).status_code == 201
        runtime = build_runtime(self.settings)
        runtime.prepare_store()
        defs = build_definitions(self.settings, runtime=runtime)
        try:
            return execute_scan(defs, self.instance, as_of)
        finally:
            runtime.store.close()

    def ticks(self) -> list[Any]:
        for state in self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            if state.instigator_name == RUN_SENSOR:
                return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))
        return []

    def arrived(self, words: str) -> str | None:
        return next((text for text in self.api.texts if words in text), None)


@contextmanager
def _daemon(place: Place) -> Iterator[None]:
    """Dagster's daemon on the place's home, with the code server that it starts."""
    workspace = place.home / "workspace.yaml"
    module = "{module_name: v7_pipeline.definitions, location_name: v7_pipeline}"
    workspace.write_text(f"load_from:\n  - python_module: {module}\n")
    s = place.settings
    environment = {n: v for n, v in os.environ.items() if not n.startswith("V7_")} | {
        "DAGSTER_HOME": str(place.home),
        "PYTHONPATH": str(PROJECT),
        "V7_HOME": str(s.home),
        "V7_MODE": "demo",
        "V7_SCAN_CRON": s.scan_cron,
        "V7_ALERT_URLS": place.api.json_url.get_secret_value(),
    }
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace), "--log-level", "warning"]
    with (place.home / "daemon.log").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=place.home, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _storage(kind: str, settings: Settings, database: Callable[[], str]) -> Path:
    """The home of Dagster's instance: as V7 makes it, or with everything in PostgreSQL."""
    if kind == "sqlite":
        return prepare_home(settings)
    place = dict(part.split("=") for part in database().split())
    url = f"postgresql+psycopg2://{place['user']}@/{place['dbname']}?host={place['host']}"
    home = settings.data_dir / "dagster_postgres"
    home.mkdir(parents=True)
    storage = f'\nstorage:\n  postgres:\n    postgres_url: "{url}"\n'
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text() + storage)
    return home


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_failed_check_is_told_within_one_interval_and_so_is_its_recovery(
    kind: str, tmp_path: Path, sandbox: Any, request: pytest.FixtureRequest
) -> None:
    database = request.getfixturevalue("new_database") if kind == "postgres" else lambda: ""
    never = "0 0 29 2 *"
    settings = sandbox_settings(
        load_settings(
            home=tmp_path / "home", mode="demo", analyst="rules", scan_cron=never, market_retries=0, _env_file=None
        ),
        sandbox.url,
    )
    settings.data_dir.mkdir(parents=True)
    home = _storage(kind, settings, database)
    with serve() as api, DagsterInstance.from_config(str(home)) as instance:
        place = Place(settings, home, instance, api, sandbox.url)
        assert ("Postgres" in type(instance.event_log_storage).__name__) is (kind == "postgres")
        assert place.scan(fault=False).success
        with _daemon(place):
            _until(place.ticks, 120, f"the sensor's first tick; {(home / 'daemon.log').read_text()[-2000:]}")
            took = {}
            for words, fault in (
                ("Check failed: every_symbol_answered", True),
                ("Recovered: Check failed: every_symbol_answered", False),
            ):
                result = place.scan(fault=fault)
                ended = time.monotonic()
                assert result.success  # a failed check leaves the run well: nobody else would tell of it
                failed = {seen.check_name for seen in result.get_asset_check_evaluations() if not seen.passed}
                assert ("every_symbol_answered" in failed) is fault
                text = _until(lambda w=words: place.arrived(w), 120, f"{words}; it said {api.texts}")
                took[words] = time.monotonic() - ended
                if fault:
                    assert "Asset: candles" in text and "ETH-USD" in text and f"Run {result.run_id}" in text
            _until(lambda: len(place.ticks()) >= 4, 120, "four ticks: the sensor must not fail after its first")
            print(f"\n{kind}: " + ", ".join(f"{words} after {seconds:.1f} s" for words, seconds in took.items()))
        assert max(took.values()) <= INTERVAL_S + SLACK_S
        assert not [tick for tick in place.ticks() if tick.error]
        assert sum("Check failed: every_symbol_answered" in text for text in api.texts) == 2  # it, and its recovery
    requests.delete(f"{sandbox.url}/_faults", timeout=5)
