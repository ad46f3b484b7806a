"""A store as a folder of Parquet files and back, and tables as files for other programs.

Tables are copied from one snapshot, whatever kind of store it is; each file's checksum and rows are in manifest.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from v7_pipeline.store import migrations, schema
from v7_pipeline.store.duckdb_store import Reader, Store, _transaction
from v7_pipeline.store.errors import SchemaError, StoreError
from v7_pipeline.store.migrations import quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

__all__ = ["MANIFEST", "Backup", "backup", "export", "restore", "verify"]

MANIFEST = "manifest.json"
_FORMAT = 1
_ROWS = 122_880  # a row group of DuckDB's

OnProgress = Callable[[str, int, int], None]

_COLUMNS = """
SELECT column_name AS name, data_type AS type, is_nullable = 'YES' AS nullable FROM information_schema.columns
WHERE table_catalog = current_database() AND table_schema = current_schema() AND table_name = ?
ORDER BY ordinal_position
"""
_TABLES = """
SELECT table_name FROM information_schema.tables WHERE table_catalog = current_database()
AND table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name
"""


@dataclass(frozen=True)
class Backup:
    """One backup: its folder, the schema version of the store it was made from, when, and the rows by table."""

    folder: Path
    schema_version: int
    created_at: datetime
    code_version: str
    rows: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.rows.values())


def backup(
    store: Store, folder: Path, *, now: datetime, code_version: str, on_progress: OnProgress | None = None
) -> Backup:
    """Copy every table of `store` into the new folder `folder`, verified before it gets its name.

    Writers go on meanwhile where the kind of store lets them. on_progress(table, rows done, rows). StoreError where
    the folder exists already.
    """
    if folder.exists():
        raise StoreError(f"{folder} exists already; a backup never overwrites one: give another --output")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        with store.reading() as reader:
            told = {
                "format": _FORMAT,
                "created_at": now.astimezone(UTC).isoformat(),
                "code_version": code_version,
                "schema_version": _version(reader),
                "tables": {name: _copied(reader, name, partial, on_progress) for name in _names(reader)},
            }
        (partial / MANIFEST).write_text(json.dumps(told, indent=1), encoding="utf-8")
        verify(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return verify(folder)


def verify(folder: Path) -> Backup:
    """The backup in `folder`, after its files' checksums and row counts were compared with its manifest.

    StoreError that names the file which is missing, changed or of another length.
    """
    import pyarrow.parquet as pq

    told = _manifest(folder)
    for name, table in told["tables"].items():
        file = folder / f"{name}.parquet"
        if not file.is_file():
            raise StoreError(f"the backup {folder} lacks {file.name}; it is not whole: use another one")
        if _checksum(file) != table["sha256"]:
            raise StoreError(f"{file} is not what was backed up (its checksum differs); use another backup")
        rows = pq.read_metadata(file).num_rows
        if rows != table["rows"]:
            raise StoreError(f"{file} has {rows} rows, its manifest says {table['rows']}; use another backup")
    return Backup(
        folder,
        int(told["schema_version"]),
        datetime.fromisoformat(told["created_at"]),
        str(told["code_version"]),
        {name: int(table["rows"]) for name, table in told["tables"].items()},
    )


def restore(
    store: Store,
    folder: Path,
    *,
    now: datetime,
    code_version: str,
    replace: bool = False,
    on_progress: OnProgress | None = None,
) -> Backup:
    """Make `store` what the backup in `folder` holds, in one transaction, and migrate it to this code's schema.

    A store that has tables is left alone (StoreError) unless `replace`; then they go in that same transaction, so that
    a restore that fails or is killed leaves what was there. Rows are counted before it takes effect.
    """
    found = verify(folder)
    if found.schema_version > schema.SCHEMA_VERSION:
        raise SchemaError(
            f"the backup {folder} has schema version {found.schema_version}, this code knows {schema.SCHEMA_VERSION}: "
            "a newer V7 made it; update the code"
        )
    if store.schema_version() is not None and not replace:
        raise StoreError(f"{store!r} holds data already; nothing was restored. --replace puts the backup in its place")
    told = _manifest(folder)["tables"]
    with store._scope(write=True, create=True, verify=False) as connection, _transaction(connection):
        if replace:
            _drop_all(connection)
        for name, table in told.items():
            _load(connection, name, table, folder / f"{name}.parquet", on_progress)
        if found.schema_version == schema.SCHEMA_VERSION:
            connection.execute(schema.SIGNALS_VIEW)
            migrations.check_columns(connection)
        else:
            migrations.apply(connection, code_version, now)
    return found


def export(
    store: Store,
    tables: Sequence[str],
    folder: Path,
    *,
    how: Literal["parquet", "csv"] = "parquet",
    start: datetime | None = None,
    end: datetime | None = None,
    replace: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[Path, int]:
    """Tables (of start ≤ day < end, where given) as one file each in `folder`; returns the rows by file.

    Instants are in UTC. KeyError for a table that there is not, StoreError where a file exists and not `replace`.
    """
    declared = [schema.table(name) for name in tables]
    files = {table.name: folder / f"{table.name}.{how}" for table in declared}
    taken = [file for file in files.values() if file.exists()]
    if taken and not replace:
        raise StoreError(f"{taken[0]} exists already; give another --output, or --replace")
    folder.mkdir(parents=True, exist_ok=True)
    done: dict[Path, int] = {}
    with store.reading() as reader:
        for table in declared:
            bounds = [(bound, sign) for bound, sign in ((start, ">="), (end, "<")) if bound is not None]
            by = table.day_column
            if bounds and by is None:
                where, params = "true", []
            else:
                where = " AND ".join(f"{quoted(str(by))} {sign} ?" for _, sign in bounds) or "true"
                params = [bound for bound, _ in bounds]
            order = ", ".join(quoted(name) for name in table.key)
            rows = _rows(reader, table.name, where, params)
            sql = f"SELECT * FROM {quoted(table.name)} WHERE {where} ORDER BY {order}"
            file = files[table.name]
            partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
            try:
                _write_file(_batches(reader, sql, params), partial, how, table.name, rows, on_progress)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
            done[file] = rows
    return done


def _copied(reader: Reader, name: str, folder: Path, on_progress: OnProgress | None) -> dict[str, Any]:
    """One table into its file; what the manifest says of it."""
    rows = _rows(reader, name, "true", [])
    file = folder / f"{name}.parquet"
    _write_file(_batches(reader, f"SELECT * FROM {quoted(name)}", []), file, "parquet", name, rows, on_progress)
    return {"rows": rows, "sha256": _checksum(file), "columns": reader.rows(_COLUMNS, (name,))}


def _write_file(batches: Any, file: Path, how: str, name: str, rows: int, on_progress: OnProgress | None) -> None:
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    make: Any = csv.CSVWriter if how == "csv" else pq.ParquetWriter
    options: dict[str, Any] = {} if how == "csv" else {"compression": "zstd"}
    done = 0
    with make(file, batches.schema, **options) as writer:
        for batch in batches:
            writer.write_batch(batch)
            done += len(batch)
            if on_progress:
                on_progress(name, done, rows)
    if on_progress and not rows:
        on_progress(name, 0, 0)


def _batches(reader: Reader, sql: str, params: Sequence[Any]) -> pa.RecordBatchReader:
    return reader._execute(sql, params).to_arrow_reader(_ROWS)


def _load(
    connection: DuckDBPyConnection, name: str, table: dict[str, Any], file: Path, on_progress: OnProgress | None
) -> None:
    """Make one table as it was, fill it, and see that every row came."""
    import pyarrow.parquet as pq

    columns = ", ".join(
        f"{quoted(column['name'])} {column['type']}{'' if column['nullable'] else ' NOT NULL'}"
        for column in table["columns"]
    )
    connection.execute(f"CREATE TABLE {quoted(name)} ({columns})")
    done = 0
    with pq.ParquetFile(file) as source:
        for batch in source.iter_batches(_ROWS):
            connection.register("incoming", _as_table(batch))
            connection.execute(f"INSERT INTO {quoted(name)} BY NAME SELECT * FROM incoming")
            connection.unregister("incoming")
            done += len(batch)
            if on_progress:
                on_progress(name, done, table["rows"])
    counted = connection.execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()
    if not counted or counted[0] != table["rows"]:
        raise StoreError(f"{name} has {counted and counted[0]} rows after the restore, the backup {table['rows']}")


def _as_table(batch: Any) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches([batch])


def _drop_all(connection: DuckDBPyConnection) -> None:
    connection.execute("DROP VIEW IF EXISTS signals")
    for (name,) in connection.execute(_TABLES).fetchall():
        connection.execute(f"DROP TABLE {quoted(name)}")


def _names(reader: Reader) -> Iterator[str]:
    return (row["table_name"] for row in reader.rows(_TABLES))


def _rows(reader: Reader, name: str, where: str, params: Sequence[Any]) -> int:
    return int(reader.rows(f"SELECT count(*) AS n FROM {quoted(name)} WHERE {where}", params)[0]["n"])


def _version(reader: Reader) -> int:
    return int(reader.rows("SELECT max(version) AS n FROM schema_version")[0]["n"])


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise StoreError(f"{folder} is no backup of V7: it has no {MANIFEST}; name a folder that `v7 backup` made")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise StoreError(f"{file} cannot be read by this V7; update the code, or use another backup")
    return told


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
