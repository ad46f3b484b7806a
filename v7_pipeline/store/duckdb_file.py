"""The embedded store: one DuckDB file, opened for a group of statements and closed again.

While one process writes, no other can open the file, not even to read; so opening waits its turn. Tables are not
its business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from v7_pipeline.store.errors import StoreError
from v7_pipeline.store.process import literal, process
from v7_pipeline.store.waiting import Deadline, turn

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Connect", "DuckDBFile"]

# read_only → a connection, closed when the context ends
Connect = Callable[[bool], AbstractContextManager["DuckDBPyConnection"]]

_HOLDER = re.compile(r"Conflicting lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")


class DuckDBFile:
    """Opens one DuckDB file; `connect` may route that through another's connection factory."""

    reads_wait = True  # a reader and a writer cannot have the file open at once, even within one process

    def __init__(self, path: str, connect: Connect | None = None) -> None:
        if not path:
            raise StoreError("duckdb: needs a path, such as duckdb:.v7/live/v7.duckdb")
        self.path = Path(path).expanduser().resolve()
        self.key = f"duckdb:{self.path}"
        self.label = f"the store {self.path}"
        self._connect: Connect = _closed_after(connect) if connect else self._attach

    @contextmanager
    def _attach(self, read_only: bool) -> Iterator[DuckDBPyConnection]:
        shared = process()
        alias = shared.new_alias()
        with shared.cursor() as cursor:
            mode = "READ_ONLY" if read_only else "READ_WRITE"
            cursor.execute(f"ATTACH {literal(str(self.path))} AS {alias} ({mode})")
            try:
                cursor.execute(f"USE {alias}")
                yield cursor
            finally:
                cursor.execute("USE memory")
                cursor.execute(f"DETACH {alias}")

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    @contextmanager
    def open(self, deadline: Deadline, *, write: bool, create: bool = False) -> Iterator[DuckDBPyConnection]:
        """A connection in a UTC session; StoreBusy where others hold the file until the deadline."""
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            connection = self._entered(stack, deadline, read_only=not write)
            connection.execute("SET TimeZone='UTC'")
            yield connection

    def _entered(self, stack: ExitStack, deadline: Deadline, *, read_only: bool) -> DuckDBPyConnection:
        # Who waits keeps the turn, so that no stream of readers keeps a writer waiting for ever.
        with turn(Path(f"{self.path}.turn"), deadline):
            return self._waited_for(stack, deadline, read_only=read_only)

    def _waited_for(self, stack: ExitStack, deadline: Deadline, *, read_only: bool) -> DuckDBPyConnection:
        import duckdb

        while True:
            try:
                return stack.enter_context(self._connect(read_only))
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise StoreError(f"{self.label} cannot be opened: {_first_line(error)}") from None
                found = _HOLDER.search(str(error))
                deadline.pause(f"process {found['pid']} ({found['program']})" if found else "another process")
            except (duckdb.ConnectionException, duckdb.BinderException) as error:
                if "different configuration" not in str(error) and "file handle conflict" not in str(error):
                    raise
                deadline.pause("a connection of this process that was opened past the store")

    def close(self) -> None:
        """Nothing is kept open."""


def _closed_after(connect: Connect) -> Connect:
    """`connect`, with its connection closed in any case: some factories leave it open after an exception."""

    @contextmanager
    def closed_after(read_only: bool) -> Iterator[DuckDBPyConnection]:
        with connect(read_only) as connection, closing(connection):
            yield connection

    return closed_after


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
