"""The store's connections as a Dagster resource: dagster-duckdb's, on the store's own way of opening its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster_duckdb import DuckDBResource

from v7_pipeline.settings import Settings
from v7_pipeline.store import open_store

__all__ = ["StoreResource", "store_resource"]


class StoreResource(DuckDBResource):
    """dagster-duckdb's resource for the V7 store: `get_connection()` works as everywhere.

    It opens the file as the store does: in its turn, waiting with a deadline (the stock back-off starves while other
    processes write), in a UTC session, closed at the end whatever happens; read-only where asked.
    """

    wait_s: float = 10.0

    @contextmanager
    def get_connection(self, *, read_only: bool = False) -> Iterator[Any]:
        """One connection for a group of statements. StoreBusy where others hold the file until the deadline."""
        with open_store(f"duckdb:{self.database}", wait_s=self.wait_s).connection(read_only=read_only) as connection:
            yield connection


def store_resource(settings: Settings) -> StoreResource | None:
    """The resource of an embedded store; None for a lake, which is attached and has no file to open."""
    kind, _, path = settings.store_url.partition(":")
    return StoreResource(database=path, wait_s=settings.store_wait_s) if kind == "duckdb" else None
