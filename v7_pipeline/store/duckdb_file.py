"""The embedded store: one DuckDB file, opened for a group of statements and closed again.

While one process writes, no other can open the file, not even to read; so opening waits its turn. Tables are not
its business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from v7_pipeline.store.errors import StoreError
from v7_pipeline.store.lingering import Attached, let_go, lingering
from v7_pipeline.store.process import literal, process
from v7_pipeline.store.torn_writes import dead_writers, mend, read_all_metadata, writers_mark
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

    def __init__(self, path: str, connect: Connect | None = None, *, linger_s: float = 0.0) -> None:
        if not path:
            raise StoreError("duckdb: needs a path, such as duckdb:.v7/live/v7.duckdb")
        self.path = Path(path).expanduser().resolve()
        self.key = f"duckdb:{self.path}"
        self.label = f"the store {self.path}"
        self._connect: Connect = _closed_after(connect) if connect else self._attach
        self._linger_s = 0.0 if connect else linger_s

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
        kept = lingering(self.path)
        with ExitStack() as stack:
            if self._linger_s and (write or kept.attached):
                connection = stack.enter_context(kept.block(partial(self._kept, deadline), self._linger_s))
            else:
                kept.let_go()
                # Who waits keeps the turn, so that no stream of readers keeps a writer waiting for ever.
                with turn(Path(f"{self.path}.turn"), deadline):
                    connection = self._entered(stack, deadline, read_only=not write)
            connection.execute("SET TimeZone='UTC'")
            if write:
                # It tries to shorten numbers without a pattern, such as readings: a third of a write for 2 % of space.
                connection.execute("SET disabled_compression_methods='alprd'")
            yield connection

    def _kept(self, deadline: Deadline) -> Attached:
        """The file attached for writing, until its stack is closed."""
        with ExitStack() as stack:
            with turn(Path(f"{self.path}.turn"), deadline):
                connection = self._entered(stack, deadline, read_only=False)
            known = connection.execute("SELECT current_database()").fetchone()
            assert known is not None
            return Attached(process(), str(known[0]), stack.pop_all())

    def _entered(self, stack: ExitStack, deadline: Deadline, *, read_only: bool) -> DuckDBPyConnection:
        import duckdb

        try:
            self._recover(deadline)
            if not read_only:
                stack.enter_context(writers_mark(self.path))
            return self._waited_for(stack, deadline, read_only=read_only)
        except (duckdb.IOException, OSError) as error:
            raise StoreError(f"{self.label} cannot be opened: {str(error).strip().splitlines()[0]}") from None

    def _recover(self, deadline: Deadline) -> None:
        """Where a writer died, read what it may have torn, and mend it."""
        import duckdb

        marks = dead_writers(self.path)
        while marks:
            try:
                with ExitStack() as stack:
                    read_all_metadata(self._waited_for(stack, deadline, read_only=True))
            except duckdb.IOException as error:
                if not mend(self.path, error):
                    raise
            else:
                for mark in marks:
                    mark.unlink(missing_ok=True)
                return

    def _waited_for(self, stack: ExitStack, deadline: Deadline, *, read_only: bool) -> DuckDBPyConnection:
        import duckdb

        while True:
            try:
                return stack.enter_context(self._connect(read_only))
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                found = _HOLDER.search(str(error))
                deadline.pause(f"process {found['pid']} ({found['program']})" if found else "another process")
            except (duckdb.ConnectionException, duckdb.BinderException) as error:
                if "different configuration" not in str(error) and "file handle conflict" not in str(error):
                    raise
                deadline.pause("a connection of this process that was opened past the store")

    def close(self) -> None:
        """Let go of the file where it was kept for the next block."""
        let_go(self.path)


def _closed_after(connect: Connect) -> Connect:
    """`connect`, with its connection closed in any case: some factories leave it open after an exception."""

    @contextmanager
    def closed_after(read_only: bool) -> Iterator[DuckDBPyConnection]:
        with connect(read_only) as connection, closing(connection):
            yield connection

    return closed_after
