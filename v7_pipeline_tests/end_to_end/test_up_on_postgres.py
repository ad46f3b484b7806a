"""`v7 up` with Dagster's own records on PostgreSQL, as the home's dagster.yaml says: they go there, and are cleared."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster import DagsterInstance

from v7_pipeline.orchestration.launch import prepare_home
from v7_pipeline.orchestration.retention import newest_runs, prune_runs, prune_shards, prune_ticks
from v7_pipeline.settings import load_settings
from v7_pipeline_tests.end_to_end.processes import kill_all
from v7_pipeline_tests.end_to_end.test_daemon import Tree, _free_port, _scans, _until
from v7_pipeline_tests.store.conftest import new_database  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("daemon")]

URL = "V7_TEST_PG_URL"


@dataclass
class OnPostgres(Tree):
    """A tree that has the address of its database in the environment, as a password should be."""

    url: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {URL: self.url}


def test_runs_events_and_ticks_are_in_postgresql_and_retention_clears_them(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = dict(part.split("=") for part in request.getfixturevalue("new_database")().split())
    url = f"postgresql+psycopg2://{place['user']}@/{place['dbname']}?host={place['host']}"
    monkeypatch.setenv(URL, url)
    settings = load_settings(home=tmp_path / "home", mode="demo", _env_file=None)
    home = settings.data_dir / "dagster_home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(yaml.safe_dump({"storage": {"postgres": {"postgres_url": {"env": URL}}}}))
    ports = {name: _free_port() for name in ("V7_UI_PORT", "V7_DASHBOARD_PORT", "V7_SANDBOX_PORT")}
    tree = OnPostgres(settings.home, ports, url=url)
    try:
        tree.start()
        print(f"\nready after {tree.ready(240):.1f} s")
        with DagsterInstance.from_config(str(prepare_home(settings))) as instance:
            for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
                assert "Postgres" in type(storage).__name__
            (scan, *_) = _until(lambda: _scans(instance, dg.DagsterRunStatus.SUCCESS), 150, "a scheduled scan")
            run_id = scan.dagster_run.run_id
            assert any(entry.dagster_event for entry in instance.all_logs(run_id))
            assert tree.end(signal.SIGTERM) == 0
            assert not list(home.rglob("*.db")), "something still went to SQLite"
            _retention_clears(instance)
    finally:
        kill_all(tree.home)
        if tree.process is not None:
            tree.process.wait()


def _retention_clears(instance: DagsterInstance) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    newest = newest_runs(instance)
    before = {run.run_id for run in instance.get_runs()}
    assert newest and before - newest
    prune_runs(instance, older_than=later, days_older_than=later)
    assert prune_shards(instance, older_than=later) == 0
    assert prune_ticks(instance, older_than=later) > 0
    left: dict[str, Any] = {run.run_id: run for run in instance.get_runs()}
    assert {run_id for run_id, run in left.items() if run.is_finished} == newest & before
    for run_id in before - set(left):
        assert instance.all_logs(run_id) == []
