"""The store on DuckLake: the same SQL on Parquet files, with the catalog in SQLite (one machine) or PostgreSQL.

A lake has one writer at a time, since it has no primary keys that could keep two writers from adding the same row.
Tables are not its business.
"""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v7_pipeline.store.errors import StoreBusy, StoreError
from v7_pipeline.store.process import literal, process
from v7_pipeline.store.waiting import Deadline, turn

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["DuckLake", "PostgresLake", "SqliteLake"]

_TURN = zlib.crc32(b"v7 writer")  # advisory locks are of one database, and so is a lake


def _data_options(path: str) -> list[str]:
    # The catalog remembers where it was made; overriding that lets a lake be moved.
    return [f"DATA_PATH {literal(path)}", "OVERRIDE_DATA_PATH true"]


class DuckLake(ABC):
    """What both catalogs share: attaching once for each process, and cursors in a UTC session."""

    reads_wait = False  # readers see their own snapshot, whatever a writer does
    extension: str
    key: str
    label: str
    _secret: str | None = None

    # What the catalogs differ in.
    @abstractmethod
    def exists(self) -> bool:
        """Whether the catalog is there."""

    @abstractmethod
    def _attach_options(self, *, create: bool) -> tuple[str, list[str]]:
        """What to attach, and with which options; where it is missing it is made only with `create`."""

    @abstractmethod
    def _writer_turn(self, deadline: Deadline) -> AbstractContextManager[Any]:
        """Waits for the one writer's turn and holds it; StoreBusy at the deadline."""

    @contextmanager
    def open(self, deadline: Deadline, *, write: bool, create: bool = False) -> Iterator[DuckDBPyConnection]:
        """A cursor on the lake; to write, after waiting for the writer's turn (StoreBusy at the deadline)."""
        import duckdb

        try:
            if not write:
                with self._cursor(create=False) as cursor:
                    yield cursor
                return
            with self._writer_turn(deadline), self._cursor(create=create) as cursor:
                yield cursor
        except duckdb.TransactionException as error:
            if "conflict" not in str(error).lower():
                raise
            raise StoreBusy(
                f"{self.label} was changed by another program during this transaction, which was rolled back; "
                f"do it again ({self._without_secret(str(error))})"
            ) from None
        except duckdb.Error as error:
            if self._secret is None or self._secret not in str(error):
                raise
            raise StoreError(f"{self.label}: {self._without_secret(str(error))}") from None

    @contextmanager
    def _cursor(self, *, create: bool) -> Iterator[DuckDBPyConnection]:
        with process().cursor("ducklake", self.extension) as cursor:
            source, options = self._attach_options(create=create)
            options = [*options, f"CREATE_IF_NOT_EXISTS {str(create).lower()}"]
            cursor.execute(f"USE {self._attached(cursor, self.key, f'ducklake:{source}', options)}")
            yield cursor

    def _attached(self, cursor: DuckDBPyConnection, key: str, source: str, options: list[str]) -> str:
        """The alias under which `source` stays attached in this process."""
        shared = process()
        with shared.lock:
            if key not in shared.aliases:
                alias = shared.new_alias()
                cursor.execute(f"ATTACH {literal(source)} AS {alias} ({', '.join(options)})")
                shared.aliases[key] = alias
            return shared.aliases[key]

    def _without_secret(self, text: str) -> str:
        text = text.replace(self._secret, "…") if self._secret else text
        return re.sub(r"password=\S+", "password=…", text).strip()

    def close(self) -> None:
        """Let go of the catalog; the next use attaches it again."""
        shared = process()
        with shared.lock:
            for key in (self.key, f"{self.key}#plain"):
                if key in shared.aliases:
                    with shared.cursor() as cursor:
                        cursor.execute(f"DETACH {shared.aliases.pop(key)}")


class SqliteLake(DuckLake):
    """A lake whose catalog is an SQLite file; its data lie in the folder PATH.files beside it."""

    extension = "sqlite_scanner"

    def __init__(self, path: str, data_path: str | None = None) -> None:
        if not path:
            raise StoreError("ducklake:sqlite: needs a path, such as ducklake:sqlite:.v7/live/v7.sqlite")
        self.path = Path(path).expanduser().resolve()
        self.data_path = Path(data_path).expanduser().resolve() if data_path else Path(f"{self.path}.files")
        self.key = f"ducklake:sqlite:{self.path}"
        self.label = f"the lake {self.path}"

    def exists(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size > 0

    def _attach_options(self, *, create: bool) -> tuple[str, list[str]]:
        if create:
            self.data_path.mkdir(parents=True, exist_ok=True)
        # WAL lets readers read while the writer commits.
        meta = ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 10000"]
        return f"sqlite:{self.path}", _data_options(str(self.data_path)) + meta

    @contextmanager
    def _writer_turn(self, deadline: Deadline) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with turn(Path(f"{self.path}.turn"), deadline):
            yield


class PostgresLake(DuckLake):
    """A lake whose catalog is a PostgreSQL database; `data_path` (folder or object storage) is needed to create it.

    The connection string never appears in a message; better still, keep the password in PGPASSFILE.
    """

    extension = "postgres_scanner"

    def __init__(self, conninfo: str, data_path: str | None = None) -> None:
        if not conninfo:
            raise StoreError("ducklake:postgres: needs a connection string, such as ducklake:postgres:dbname=v7")
        self._conninfo = self._secret = conninfo
        self.data_path = data_path
        self.key = f"ducklake:postgres:{conninfo}"
        name = re.search(r"dbname=(\S+)", conninfo)
        self.label = f"the lake in PostgreSQL database {name[1] if name else '(default)'}"

    def exists(self) -> bool:
        import duckdb

        try:
            with self._cursor(create=False):
                return True
        except duckdb.InvalidInputException as error:
            if "does not exist" in str(error):
                return False
            raise
        except duckdb.IOException as error:
            raise StoreError(f"{self.label} cannot be reached: {self._without_secret(str(error))}") from None

    def _attach_options(self, *, create: bool) -> tuple[str, list[str]]:
        if create and self.data_path is None and not self.exists():
            raise StoreError(f"{self.label} does not exist yet; say where its data files go (data_path) to create it")
        return f"postgres:{self._conninfo}", _data_options(self.data_path) if self.data_path else []

    @contextmanager
    def _writer_turn(self, deadline: Deadline) -> Iterator[None]:
        import duckdb

        with process().cursor("ducklake", self.extension) as cursor:
            plain = self._attached(cursor, f"{self.key}#plain", self._conninfo, ["TYPE postgres"])
            ask = f"SELECT pg_advisory_xact_lock({_TURN})::TEXT"  # PostgreSQL serves first who came first
            cursor.execute("BEGIN")  # the server gives the turn back when the transaction or the process ends
            try:
                limit = f"SELECT set_config(''lock_timeout'', ''{int(deadline.remaining * 1000) + 1}'', true)"
                cursor.execute(f"FROM postgres_query('{plain}', '{limit}')").fetchall()
                try:
                    cursor.execute(f"FROM postgres_query('{plain}', '{ask}')").fetchall()
                except duckdb.Error as error:
                    if "lock timeout" not in str(error):
                        raise
                    raise deadline.busy("another writer") from None
                yield
            finally:
                cursor.execute("ROLLBACK")
