"""What tests of several rooms share: settings that never read this machine, a sandbox, a runtime on a fresh store."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# The same examples in each run: what fails, fails for everybody. `--hypothesis-profile search` looks at other ones.
hypothesis_settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.register_profile("v7", hypothesis_settings.get_profile("search"), derandomize=True)
hypothesis_settings.load_profile("v7")

STORES = os.environ.get("V7_TEST_STORES", "duckdb")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which worker of two a test belongs to.

    The tests of a file stay together, since they share what was made for them; what drives a tree of processes, or
    installs something from Debian, keeps one worker to itself (group daemon). Backups of a lake and its kills are slow
    ones: a file shows the same in a tenth of the time.
    """
    for item in items:
        if item.path.stem in ("test_backup", "test_processes") and "ducklake" in item.name:
            item.add_marker(pytest.mark.slow)
        if not item.get_closest_marker("xdist_group"):
            alone = item.get_closest_marker("slow") and "ducklake:postgres" in item.name
            item.add_marker(pytest.mark.xdist_group("daemon" if alone else f"{item.path.parent.name}/{item.path.stem}"))


@pytest.fixture(scope="session", autouse=True)
def _dagsters_revisions_are_read_once() -> Iterator[None]:
    """A new Dagster instance reads each file of its databases' history four times over: half of what it takes."""
    from alembic.script import ScriptDirectory

    read, known = ScriptDirectory.from_config, {}

    def from_config(config: Any) -> Any:
        place = config.get_main_option("script_location")
        if place not in known:
            known[place] = read(config)
        return known[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", staticmethod(from_config))
        yield


@pytest.fixture(scope="session", autouse=True)
def _dagsters_databases_do_not_wait_for_the_disk() -> Iterator[None]:
    """No test loses its power: Dagster's SQLite commits some hundred times a run, and each would wait for the disk."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hurry(connection: Any, record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings, keys or .env of the machine it runs on."""
    for name in list(os.environ):
        if name.startswith("V7_") or name in ("DEEPSEEK_API_KEY", "COINGECKO_API_KEY", "DAGSTER_HOME"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Any]:
    """Settings with a home of their own."""
    from v7_pipeline.settings import load_settings

    def make(**changes: Any) -> Any:
        return load_settings(**{"home": tmp_path / "home"} | changes)

    return make


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Any]:
    """The simulated market over real HTTP."""
    from v7_pipeline.sandbox.server import SandboxServer

    with SandboxServer(seed=7) as server:
        yield server


@pytest.fixture
def make_runtime(make_settings: Callable[..., Any], sandbox: Any) -> Callable[..., Any]:
    """A runtime in demo mode against the sandbox; its clock stands where the test says."""
    from v7_pipeline.orchestration.up import sandbox_settings
    from v7_pipeline.scan.runtime import build_runtime as build

    def make(now: datetime = datetime(2026, 3, 3, 12, 0, 5, tzinfo=UTC), **changes: Any) -> Any:
        settings = sandbox_settings(make_settings(**{"mode": "demo"} | changes), sandbox.url)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        runtime = build(settings)
        runtime.clock = lambda: now
        runtime.prepare_store()
        return runtime

    return make


@pytest.fixture
def bot_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in of Telegram's Bot API, to which Apprise's tgram:// leads meanwhile."""
    from apprise.plugins.telegram import NotifyTelegram

    from v7_pipeline_tests.alerts.bot_api import serve

    with serve() as api:
        monkeypatch.setattr(NotifyTelegram, "notify_url", api.bot_url)
        yield api
