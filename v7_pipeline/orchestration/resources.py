"""The store's connections as a Dagster resource: dagster-duckdb's, with read-only and UTC added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster_duckdb import DuckDBResource

from v7_pipeline.settings import Settings

__all__ = ["StoreResource", "store_resource"]


class StoreResource(DuckDBResource):
    """dagster-duckdb's resource for the V7 store.

    `get_connection()` works as everywhere; `connection(read_only)` is what the store builds on: one attempt, no
    back-off of its own (the stock one starves while other processes write; the store waits with jitter instead).
    """

    @contextmanager
    def connection(self, read_only: bool) -> Iterator[Any]:
        """One connection, closed at the end whatever happens."""
        import duckdb

        handle = duckdb.connect(self.database, read_only=read_only, config=dict(self.connection_config))
        try:
            yield handle
        finally:
            handle.close()


def store_resource(settings: Settings) -> StoreResource | None:
    """The resource of an embedded store; None for a lake, which the store attaches by itself."""
    kind, _, path = settings.store_url.partition(":")
    # One thread: a scan's statements are small, and waiting for a second thread costs more than it saves.
    return StoreResource(database=path, connection_config={"threads": 1}) if kind == "duckdb" else None
