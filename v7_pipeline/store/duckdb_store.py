"""The store: typed frames in and out of one DuckDB file or one DuckLake, each change in one transaction.

Every write is checked against schema.py first. What the rows mean is the business of the rooms above.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from v7_pipeline.store import migrations, schema
from v7_pipeline.store.duckdb_file import Connect, DuckDBFile
from v7_pipeline.store.ducklake import DuckLake, PostgresLake, SqliteLake
from v7_pipeline.store.errors import SchemaError, StoreError, StoreFull, is_full
from v7_pipeline.store.frames import check_instant, from_arrow, to_arrow
from v7_pipeline.store.migrations import quoted
from v7_pipeline.store.schema import Table
from v7_pipeline.store.waiting import Deadline

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

__all__ = ["Counts", "Reader", "Store", "Transaction", "open_store"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What a write did, in rows; `differing` are the keys of kept rows whose values differ from the offered ones."""

    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    kept: int = 0
    differing: tuple[tuple[Any, ...], ...] = ()


class Reader:
    """Reading within one connection and one snapshot; usable only inside the block that gave it."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection: DuckDBPyConnection | None = connection

    def _execute(self, sql: str, params: Sequence[Any] = ()) -> DuckDBPyConnection:
        if self._connection is None:
            raise StoreError("this block of the store has ended; open a new one with reading() or transaction()")
        for place, value in enumerate(params):
            if isinstance(value, datetime):
                check_instant(value, f"parameter {place + 1} of the query")
        return self._connection.execute(sql, list(params))

    def query(self, sql: str, params: Sequence[Any] = ()) -> pd.DataFrame:
        """The result of `sql` (parameters are written ?) with the types that `conform` gives.

        Whole numbers are Int64, truth values boolean, instants datetime64[us, UTC], missing text is None.
        """
        return from_arrow(self._execute(sql, params).to_arrow_table())

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """A small result as plain rows (instants as aware UTC datetimes, missing as None): no frame is made."""
        result = self._execute(sql, params)
        names = [column[0] for column in result.description or ()]
        return [
            {
                name: value.astimezone(UTC) if isinstance(value, datetime) else value
                for name, value in zip(names, row, strict=True)
            }
            for row in result.fetchall()
        ]

    def read(
        self,
        table: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        symbols: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Rows with start ≤ day_column < end, ordered by key; all columns, or `columns` in the order asked for."""
        declared = schema.table(table)
        names = tuple(columns) if columns is not None else declared.column_names
        for name in names:
            declared.column(name)
        where, params = _slice(declared, start, end, symbols)
        order = ", ".join(quoted(name) for name in declared.key)
        return self.query(f"SELECT {_list(names)} FROM {quoted(table)} t WHERE {where} ORDER BY {order}", params)

    def newest(
        self, table: str, n: int, *, before: datetime | None = None, symbols: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The `n` newest rows by day_column, of each of `symbols` where they are named; ordered by symbol and time.

        Only rows with day_column < `before` count, where it is given. Insertion order plays no part.
        """
        declared = schema.table(table)
        by = declared.day_column
        if by is None:
            raise StoreError(f"table {table} has no time to be newest by")
        parts = []
        for symbol in [None] if symbols is None else symbols:
            where, params = _slice(declared, None, before, None if symbol is None else [symbol])
            newest = f"SELECT {quoted(by)} AS instant FROM {quoted(table)} t WHERE {where} ORDER BY 1 DESC LIMIT ?"
            oldest = self.query(f"SELECT min(instant) AS oldest FROM ({newest})", [*params, n])["oldest"][0]
            if not pd.isna(oldest):  # asking for the times first spares sorting whole rows of all history
                rows = self.read(table, start=oldest, end=before, symbols=None if symbol is None else [symbol])
                order = list(dict.fromkeys((by, *declared.key)))
                parts.append(rows.sort_values(order, kind="stable").tail(n))
        if not parts:
            return self.read(table).iloc[:0]
        return pd.concat(parts, ignore_index=True)


_T = TypeVar("_T", bound=Reader)


class Transaction(Reader):
    """Reading and writing within one transaction; it takes effect as a whole at the end of its block."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Run one statement that returns no rows."""
        self._execute(sql, params)

    def upsert(self, table: str, frame: pd.DataFrame | pa.Table) -> Counts:
        """Add new rows and replace those whose values changed, by key.

        Rows that differ only in provenance (for candles also in fetched_at) are left as they are.
        """
        declared = schema.table(table)
        return self._upsert(declared, _offered(declared, frame))

    def insert_new(self, table: str, frame: pd.DataFrame | pa.Table, *, ignore: Sequence[str] = ()) -> Counts:
        """Add rows whose key is new and leave the others as they are: facts are written once.

        `kept` counts the others; `differing` are those keys among them whose values differ in a column that is neither
        provenance nor in `ignore` (for what depends on the clock, such as decided_at).
        """
        declared = schema.table(table)
        for name in ignore:
            declared.column(name)
        offered = _offered(declared, frame)
        found, differs = self._compare(declared, offered, ignore)
        self._insert(declared, offered.filter(~found))
        changed = offered.select(list(declared.key)).filter(found & differs).to_pylist()
        keys = tuple(tuple(row.values()) for row in changed)
        return Counts(inserted=int((~found).sum()), kept=int(found.sum()), differing=keys)

    def remove(self, table: str, frame: pd.DataFrame | pa.Table) -> Counts:
        """Delete the rows with the keys of `frame`, whatever else they hold: for what is derived and no longer so."""
        declared = schema.table(table)
        offered = _offered(declared, frame)
        found, _ = self._compare(declared, offered, ())
        self._delete(declared, offered)
        return Counts(removed=int(found.sum()))

    def append(self, table: str, frame: pd.DataFrame | pa.Table) -> None:
        """Add rows whose keys the caller has seen in this transaction to be new; nothing is compared."""
        declared = schema.table(table)
        self._insert(declared, _offered(declared, frame))

    def put(self, table: str, frame: pd.DataFrame | pa.Table) -> None:
        """Make these the stored rows of their keys, whatever was stored; nothing is compared."""
        declared = schema.table(table)
        offered = _offered(declared, frame)
        self._delete(declared, offered)
        self._insert(declared, offered)

    def replace_slice(
        self,
        table: str,
        frame: pd.DataFrame,
        *,
        start: datetime,
        end: datetime,
        symbols: Sequence[str] | None = None,
        known_empty: bool = False,
    ) -> Counts:
        """Make `frame` the whole content of start ≤ day_column < end (of `symbols` only, where they are named).

        Rows that are already there with the same values keep their provenance and are not rewritten. Refused: rows
        outside the slice, and an empty frame unless the caller knows the slice to be empty.
        """
        declared = schema.table(table)
        check_instant(start, "start")
        check_instant(end, "end")
        offered = to_arrow(declared, frame)
        if frame.empty and not known_empty:
            raise StoreError(
                f"an empty frame would delete {table} from {start} to {end}; "
                "pass known_empty=True where the slice is known to be empty"
            )
        _check_inside(declared, frame, start, end, symbols)
        where, params = _slice(declared, start, end, symbols)
        with self._registered(offered.select(list(declared.key))):
            removed = self._count(
                f"DELETE FROM {quoted(table)} AS t WHERE {where} AND NOT EXISTS "
                f"(SELECT 1 FROM incoming f WHERE {_same_key(declared)})",
                params,
            )
        # Nothing left in the slice and no key that could lie outside: nothing to compare with.
        occupied = f"SELECT count(*) FROM (SELECT 1 FROM {quoted(table)} AS t WHERE {where} LIMIT 1)"
        if declared.day_column in declared.key and not self._count(occupied, params):
            self._insert(declared, offered)
            return Counts(len(offered), 0, 0, removed)
        counts = self._upsert(declared, offered)
        return Counts(counts.inserted, counts.changed, counts.unchanged, removed)

    def _upsert(self, table: Table, offered: pa.Table) -> Counts:
        found, differs = self._compare(table, offered, ())
        changed = found & differs
        self._delete(table, offered.filter(changed))
        self._insert(table, offered.filter(~found | changed))
        return Counts(int((~found).sum()), int(changed.sum()), int((found & ~differs).sum()))

    def _compare(self, table: Table, offered: pa.Table, ignore: Sequence[str]) -> tuple[Any, Any]:
        """For each offered row: is its key stored, and do the stored values differ?"""
        import pyarrow as pa

        found, differs = np.zeros(len(offered), dtype=bool), np.zeros(len(offered), dtype=bool)
        if not len(offered):
            return found, differs
        compared = [name for name in table.compared if name not in ignore]
        unlike = " OR ".join(f"t.{quoted(name)} IS DISTINCT FROM f.{quoted(name)}" for name in compared) or "false"
        where, params = _bounds(table, offered)
        with self._registered(offered.append_column("_row", pa.array(np.arange(len(offered))))):
            rows = self._execute(
                f"SELECT f._row, {unlike} AS differs FROM {quoted(table.name)} t "
                f"JOIN incoming f ON {_same_key(table)} WHERE {where}",
                params,
            ).fetchnumpy()
        found[rows["_row"]] = True
        differs[rows["_row"]] = rows["differs"]
        return found, differs

    def _delete(self, table: Table, offered: pa.Table) -> None:
        if not len(offered):
            return
        where, params = _bounds(table, offered)
        with self._registered(offered.select(list(table.key))):
            self._execute(
                f"DELETE FROM {quoted(table.name)} AS t USING incoming f WHERE {_same_key(table)} AND {where}", params
            )

    def _insert(self, table: Table, offered: pa.Table) -> None:
        import pyarrow as pa

        if not len(offered):
            return
        # DuckDB reads one piece a thread.
        pieces = pa.Table.from_batches(offered.to_batches(max_chunksize=_ROW_GROUP))
        with self._registered(pieces):
            self._execute(f"INSERT INTO {quoted(table.name)} BY NAME SELECT * FROM incoming")

    def _count(self, sql: str, params: Sequence[Any]) -> int:
        row = self._execute(sql, params).fetchone()
        return int(row[0]) if row else 0

    @contextmanager
    def _registered(self, offered: pa.Table) -> Iterator[None]:
        if self._connection is None:
            raise StoreError("this block of the store has ended; open a new one with transaction()")
        self._connection.register("incoming", offered)
        try:
            yield
        finally:
            self._connection.unregister("incoming")


_ROW_GROUP = 122_880  # DuckDB's own


def _offered(table: Table, frame: pd.DataFrame | pa.Table) -> pa.Table:
    """What is to be written as Arrow: a frame is checked here, a table of `arrow_rows` was when it was made."""
    if isinstance(frame, pd.DataFrame):
        return to_arrow(table, frame)
    if tuple(frame.column_names) != table.column_names:
        raise SchemaError(f"the rows for table {table.name} were made for another one; make them with arrow_rows")
    return frame


def _list(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def _same_key(table: Table) -> str:
    return " AND ".join(f"t.{quoted(name)} = f.{quoted(name)}" for name in table.key)


def _slice(
    table: Table, start: datetime | None, end: datetime | None, symbols: Sequence[str] | None
) -> tuple[str, list[Any]]:
    """The condition on `t` (and its parameters) for a table's rows of a time span and some symbols."""
    conditions: list[str] = ["true"]
    params: list[Any] = []
    for limit, comparison, name in ((start, ">=", "start"), (end, "<", "end")):
        if limit is not None:
            if table.day_column is None:
                raise StoreError(f"table {table.name} has no time to slice by")
            conditions.append(f"t.{quoted(table.day_column)} {comparison} ?")
            params.append(check_instant(limit, name))
    if symbols is not None:
        if isinstance(symbols, str) or "symbol" not in table.column_names:
            raise StoreError(
                f"symbols must be a list, such as ['BTC-USD'], not {symbols!r}"
                if isinstance(symbols, str)
                else f"table {table.name} has no symbols to choose from"
            )
        conditions.append("t.symbol IN (SELECT unnest(?::VARCHAR[]))")
        params.append(list(symbols))
    return " AND ".join(conditions), params


def _bounds(table: Table, offered: pa.Table) -> tuple[str, list[Any]]:
    """A span outside of which no offered key can lie, so that a year of rows is not scanned for thirty."""
    import pyarrow.compute as pc

    if table.day_column is None or (table.day_column not in table.key and table.name not in schema.DAY_FOLLOWS_KEY):
        return "true", []
    span = pc.min_max(offered[table.day_column]).as_py()
    return f"t.{quoted(table.day_column)} BETWEEN ? AND ?", [span["min"], span["max"]]


def _check_inside(
    table: Table, frame: pd.DataFrame, start: datetime, end: datetime, symbols: Sequence[str] | None
) -> None:
    outside = (frame[table.day_column] < start) | (frame[table.day_column] >= end) if table.day_column else None
    if outside is not None and outside.any():
        first = frame.loc[outside, table.day_column].iloc[0]
        raise StoreError(
            f"the frame for table {table.name} has {int(outside.sum())} rows outside {start} … {end}, such as {first}"
        )
    if symbols is not None:
        strange = set(frame["symbol"]) - set(symbols)
        if strange:
            raise StoreError(
                f"the frame for table {table.name} has symbols outside the slice: {', '.join(sorted(strange))}"
            )


# --- opening --------------------------------------------------------------------------------


class _Shared:
    """What all Store objects of one place share within this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.session: DuckDBPyConnection | None = None
        self.local = threading.local()


_shared_lock = threading.Lock()
_shared: dict[str, _Shared] = {}
_parents: list[dict[str, _Shared]] = []


def _after_fork() -> None:
    # A forked child owns none of its parent's locks and connections: it neither uses nor destroys them.
    _parents.append(dict(_shared))
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork)


def _shared_of(key: str) -> _Shared:
    with _shared_lock:
        return _shared.setdefault(key, _Shared())


class Store:
    """One store; holds no connection between its blocks, so it may be kept, shared by threads and copied to processes.

    `url`: duckdb:PATH, ducklake:sqlite:PATH or ducklake:postgres:CONNINFO. `wait_s`: how long to wait, in seconds, for
    others to let go. `data_path`: a lake's folder of data files. `connect`: (read_only) → context manager with a
    connection, in place of duckdb.connect; for duckdb files only. `linger_s`: how long a duckdb file stays open after a
    block that wrote, in seconds, for the next block of this process; whoever waits for it gets it at once.
    """

    def __init__(
        self,
        url: str,
        *,
        wait_s: float = 10.0,
        data_path: str | None = None,
        connect: Connect | None = None,
        linger_s: float = 0.0,
    ) -> None:
        self._backend = _backend(url, data_path, connect, linger_s)
        self._wait_s = wait_s
        self._verified = False

    def __repr__(self) -> str:
        return f"Store({self._backend.label})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_verified": False}

    def migrate(self, code_version: str, now: datetime) -> None:
        """Create what is missing, or bring an older store to this code's schema; cheap where nothing is to do.

        Raises SchemaError for a store that a newer V7 wrote. Several processes may call it at once.
        """
        check_instant(now, "now")
        if self.schema_version() == schema.SCHEMA_VERSION:
            with self._scope(write=False, verify=False) as connection:
                migrations.check_columns(connection)
            return
        with self._scope(write=True, create=True, verify=False) as connection, _transaction(connection):
            migrations.apply(connection, code_version, now)

    def schema_version(self) -> int | None:
        """The stored schema version; None where there is no store yet."""
        if not self._backend.exists():
            return None
        with self._scope(write=False, verify=False) as connection:
            return migrations.stored_version(connection)

    @contextmanager
    def connection(self, *, read_only: bool = False) -> Iterator[DuckDBPyConnection]:
        """DuckDB's own connection for a group of statements, for those who bring their own; nothing is checked."""
        with self._scope(write=not read_only) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A brief read-only block over one snapshot; inside this thread's own transaction it sees its changes."""
        active = self._active
        if active is not None:
            yield active
            return
        with (
            self._scope(write=False) as connection,
            _transaction(connection, "READ ONLY"),
            self._activated(Reader(connection)) as reader,
        ):
            yield reader

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A block whose writes take effect together at its end, or not at all where an exception leaves it."""
        with (
            self._scope(write=True) as connection,
            _transaction(connection),
            self._activated(Transaction(connection)) as tx,
        ):
            yield tx

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """`Reader.rows` in a block of its own."""
        with self.reading() as reader:
            return reader.rows(sql, params)

    def query(self, sql: str, params: Sequence[Any] = ()) -> pd.DataFrame:
        """`Reader.query` in a block of its own."""
        with self.reading() as reader:
            return reader.query(sql, params)

    def read(
        self,
        table: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        symbols: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """`Reader.read` in a block of its own."""
        with self.reading() as reader:
            return reader.read(table, start=start, end=end, symbols=symbols, columns=columns)

    def newest(
        self, table: str, n: int, *, before: datetime | None = None, symbols: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """`Reader.newest` in a block of its own."""
        with self.reading() as reader:
            return reader.newest(table, n, before=before, symbols=symbols)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep one writing connection for many blocks, of all threads of this process; other processes wait meanwhile.

        For bulk work of a process that is alone with the store. Each transaction in it is still one of its own.
        """
        shared = _shared_of(self._backend.key)
        with ExitStack() as stack:
            with self._turn(shared, self._deadline()):
                self._refuse_nesting()
                mine = shared.session is None
                if mine:
                    self._must_exist()
                    shared.session = stack.enter_context(self._backend.open(self._deadline(), write=True))
            try:
                yield
            finally:
                if mine:
                    with shared.lock:
                        shared.session = None
                        stack.close()

    def close(self) -> None:
        """Let go of what this process keeps for the store: its file, or a lake's catalog. It may be used again."""
        self._backend.close()

    @property
    def _active(self) -> Reader | None:
        return getattr(_shared_of(self._backend.key).local, "active", None)

    @contextmanager
    def _activated(self, reader: _T) -> Iterator[_T]:
        local = _shared_of(self._backend.key).local
        local.active = reader
        try:
            yield reader
        finally:
            local.active = None
            reader._connection = None

    def _deadline(self) -> Deadline:
        return Deadline(self._backend.label, self._wait_s)

    @contextmanager
    def _turn(self, shared: _Shared, deadline: Deadline) -> Iterator[None]:
        if not shared.lock.acquire(timeout=deadline.remaining):
            raise deadline.busy("another thread of this process")
        try:
            yield
        finally:
            shared.lock.release()

    @contextmanager
    def _scope(self, *, write: bool, create: bool = False, verify: bool = True) -> Iterator[DuckDBPyConnection]:
        """A connection for one block: the session's, or one of its own. StoreFull where the disk has no room."""
        import duckdb

        self._refuse_nesting()
        shared, deadline = _shared_of(self._backend.key), self._deadline()
        inside = None
        try:
            with ExitStack() as stack:
                together = write or self._backend.reads_wait
                if together:
                    stack.enter_context(self._turn(shared, deadline))
                if together and shared.session is not None:
                    connection = shared.session
                else:
                    if not create:
                        self._must_exist()
                    connection = stack.enter_context(self._backend.open(deadline, write=write, create=create))
                if verify and not self._verified:
                    self._verify(connection)
                try:
                    yield connection
                except BaseException as error:
                    inside = error
                    raise
        except (duckdb.Error, OSError, StoreError) as error:
            # Within a block that reads another disk may be full: that of an export's files.
            if isinstance(error, StoreFull) or not is_full(error) or (error is inside and not write):
                raise
            raise StoreFull(
                f"{self._backend.label} could not be written: its disk is full; free some space there (`v7 doctor` "
                "says how much is left); what was stored before is whole, and scans go on once there is room"
            ) from None

    def _refuse_nesting(self) -> None:
        if self._active is not None:
            raise StoreError("this thread is in a block of this store; end it before opening another that may write")

    def _must_exist(self) -> None:
        if not self._backend.exists():
            raise StoreError(f"{self._backend.label} does not exist yet; run v7 scan or v7 up first")

    def _verify(self, connection: DuckDBPyConnection) -> None:
        version = migrations.stored_version(connection)
        if version is None:
            raise StoreError(f"{self._backend.label} has no tables yet; run v7 scan or v7 up first")
        if version != schema.SCHEMA_VERSION:
            remedy = (
                "start v7 up or v7 scan, which migrate it" if version < schema.SCHEMA_VERSION else "update the code"
            )
            raise SchemaError(
                f"{self._backend.label} has schema version {version}, this code has {schema.SCHEMA_VERSION}; {remedy}"
            )
        self._verified = True


@contextmanager
def _transaction(connection: DuckDBPyConnection, kind: str = "") -> Iterator[None]:
    import duckdb

    connection.execute(f"BEGIN TRANSACTION {kind}")
    try:
        yield
    except BaseException:
        with suppress(duckdb.Error):  # what went wrong matters more than that there is nothing to roll back
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _backend(url: str, data_path: str | None, connect: Connect | None, linger_s: float) -> DuckDBFile | DuckLake:
    kind, _, place = url.partition(":")
    if kind == "duckdb":
        return DuckDBFile(place, connect, linger_s=linger_s)
    catalog, _, place = place.partition(":")
    if kind == "ducklake" and catalog == "sqlite":
        return SqliteLake(place, data_path)
    if kind == "ducklake" and catalog == "postgres":
        return PostgresLake(place, data_path)
    raise StoreError(
        f"no store is called {kind}{':' + catalog if kind == 'ducklake' else ''}; "
        "write duckdb:PATH, ducklake:sqlite:PATH or ducklake:postgres:CONNINFO"
    )


def open_store(
    url: str,
    *,
    wait_s: float = 10.0,
    data_path: str | None = None,
    connect: Connect | None = None,
    linger_s: float = 0.0,
) -> Store:
    """The store at `url` (see Store); nothing is opened before it is used."""
    return Store(url, wait_s=wait_s, data_path=data_path, connect=connect, linger_s=linger_s)
