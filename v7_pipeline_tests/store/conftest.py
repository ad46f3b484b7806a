"""Stores of every kind, PostgreSQL for the lakes that want it, and a process that forks the drills' workers."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.store import Store, open_store

NOW = datetime(2024, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(
    params=[
        "duckdb",
        "duckdb, lingering",
        "ducklake:sqlite",
        pytest.param("ducklake:postgres", marks=pytest.mark.slow),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Arguments of open_store for a store that does not exist yet."""
    if request.param == "duckdb":
        return {"url": f"duckdb:{tmp_path / 'v7.duckdb'}"}
    if request.param == "duckdb, lingering":
        return {"url": f"duckdb:{tmp_path / 'v7.duckdb'}", "linger_s": 0.05}
    if request.param == "ducklake:sqlite":
        return {"url": f"ducklake:sqlite:{tmp_path / 'v7.sqlite'}"}
    database = request.getfixturevalue("new_database")()
    return {"url": f"ducklake:postgres:{database}", "data_path": str(tmp_path / "files")}


@pytest.fixture
def empty_store(place: dict[str, Any]) -> Iterator[Store]:
    store = open_store(**place)
    yield store
    store.close()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one new store of each kind, to be copied: quicker than making them again and again."""
    folder = tmp_path_factory.mktemp("templates")
    for url in (f"duckdb:{folder / 'v7.duckdb'}", f"ducklake:sqlite:{folder / 'v7.sqlite'}"):
        store = open_store(url)
        store.migrate("0.1.0", NOW)
        store.close()
    return folder


@pytest.fixture
def store(place: dict[str, Any], empty_store: Store, templates: Path) -> Store:
    file = Path(place["url"].rpartition(":")[2])
    if "postgres" in place["url"]:
        empty_store.migrate("0.1.0", NOW)
    else:
        shutil.copyfile(templates / file.name, file)
    return empty_store


@pytest.fixture
def file_store(tmp_path: Path, templates: Path) -> Store:
    """A store in a DuckDB file, for what does not depend on the kind."""
    shutil.copyfile(templates / "v7.duckdb", tmp_path / "only.duckdb")
    return open_store(f"duckdb:{tmp_path / 'only.duckdb'}")


class Drills:
    """The process that forks workers; one JSON request and one JSON answer a line."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "v7_pipeline_tests.store.drills"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def start(self, drill: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"drill": drill} | arguments) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def run(self, drill: str, **arguments: Any) -> Any:
        self.start(drill, **arguments)
        return self.answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="session")
def drills() -> Iterator[Drills]:
    drills = Drills()
    yield drills
    drills.end()


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], str]]:
    """Makes a fresh PostgreSQL database and returns its connection string; the server ends with the tests."""
    binaries = _postgres_binaries()
    as_user = _unprivileged()
    home = Path(tempfile.mkdtemp(prefix="v7pg", dir="/tmp"))  # a socket's path must be short
    if as_user:
        shutil.chown(home, user="postgres")

    def call(program: str, *arguments: str) -> None:
        subprocess.run([*as_user, str(binaries / program), *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = str(home / "data")
    call("initdb", "-D", data, "-A", "trust", "-E", "UTF8", "-U", "postgres")
    options = f"-k {home} -c listen_addresses='' -c max_connections=200"
    call("pg_ctl", "-D", data, "-w", "-o", options, "-l", str(home / "log"), "start")

    def create() -> str:
        name = f"v7_{uuid.uuid4().hex[:12]}"
        call("createdb", "-h", str(home), "-U", "postgres", name)
        return f"host={home} user=postgres dbname={name}"

    try:
        yield create
    finally:
        call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(home, ignore_errors=True)


def _postgres_binaries() -> Path:
    def newest() -> Path | None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda p: int(p.parts[-3]))
        return found[-1].parent if found else None

    binaries = newest()
    if binaries is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "postgresql"], check=False, stdout=subprocess.DEVNULL)
        binaries = newest()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed on this machine: apt-get install postgresql")
    return binaries


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root: as whom, then."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("root needs the system user postgres to run PostgreSQL's server")
    return ["runuser", "-u", "postgres", "--"]
