"""A world of one's own for a test: sandbox, clock, store, definitions and a Dagster instance, all real.

The clock stands where the test puts it, for the sandbox and the runtime alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.launch import execute_scan, open_instance
from v7_pipeline.orchestration.up import sandbox_settings
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.scan.run import ScanReport, run_scan
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.settings import load_settings
from v7_pipeline.store import Store
from v7_pipeline.store.migrations import quoted
from v7_pipeline.store.schema import TABLES

__all__ = ["LATER", "Clock", "World", "assert_same", "contents", "open_world"]

LATER = timedelta(seconds=5)  # from a scan's instant to its run


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass
class World:
    """Everything of one home."""

    server: SandboxServer
    clock: Clock
    runtime: Runtime
    instance: dg.DagsterInstance
    defs: dg.Definitions = field(repr=False)

    @property
    def store(self) -> Store:
        return self.runtime.store

    @property
    def file(self) -> Path:
        """The store's file, let go of by this process, so that it can be copied or opened past the store."""
        self.store.close()
        return Path(self.runtime.settings.store_url.partition(":")[2])

    @property
    def chats(self) -> int:
        """Chat requests that the sandbox has had."""
        return self.server.counts.get("chat", 0)

    def scan(self, as_of: datetime, *, run_id: str | None = None) -> ScanReport:
        """The scan's steps without Dagster, at the clock's time."""
        return run_scan(self.runtime.context(as_of, run_id or f"scan-{as_of:%Y%m%dT%H%M}"))

    def run(self, as_of: datetime) -> dg.ExecuteInProcessResult:
        """The scan as a Dagster run."""
        return execute_scan(self.defs, self.instance, as_of)


@contextmanager
def open_world(
    home: Path, server: SandboxServer, clock: Clock, *, through_sandbox: bool = True, **changes: Any
) -> Iterator[World]:
    """A world on `home` (its store is kept where there is one), asking `server` for everything."""
    settings = load_settings(**{"home": home, "mode": "demo", "_env_file": None} | changes)
    if through_sandbox:
        settings = sandbox_settings(settings, server.url)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    runtime = build_runtime(settings)
    runtime.clock = clock
    runtime.prepare_store()
    instance = open_instance(settings)
    try:
        yield World(server, clock, runtime, instance, build_definitions(settings, runtime=runtime))
    finally:
        instance.dispose()


def contents(store: Store, *tables: str) -> dict[str, pd.DataFrame]:
    """Every row of `tables` (default: all), ordered by key."""
    with store.reading() as reader:
        return {
            name: reader.query(f"SELECT * FROM {name} ORDER BY {', '.join(map(quoted, TABLES[name].key))}")
            for name in tables or TABLES
        }


def assert_same(
    before: dict[str, pd.DataFrame], after: dict[str, pd.DataFrame], *, without: tuple[str, ...] = ()
) -> None:
    """The same rows with the same values in every table, `without` some columns; to the last bit."""
    assert set(before) == set(after)
    for name in before:
        one, other = (frames[name].drop(columns=[*without], errors="ignore") for frames in (before, after))
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)
