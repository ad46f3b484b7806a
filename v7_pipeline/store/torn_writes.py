"""A writer that is killed can leave a torn block in a DuckDB file; this finds and mends it at the next opening.

While it checkpoints, DuckDB 1.5 writes new metadata into the free parts of 256 KiB blocks whose other parts are in
use. SIGKILL can cut such a write short: the parts in use still hold what they held, but the block's checksum is that
of the whole new block, and the file can no longer be opened (seen once in about a thousand kills). So a writer leaves
a mark while it has the file. Where a mark outlived its writer, every block of metadata is read, and one whose checksum
is wrong gets the right one. Without a mark a wrong checksum is damage of another kind, and is left alone.

A power cut can leave zeros at the end of the write-ahead log, where the file had grown but its last bytes had not
reached the disk. DuckDB replays a log that is cut short up to its last whole transaction, but refuses one that ends so.
A commit returns only after its bytes are on the disk: what the zeros belong to was never committed, and is cut off.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from v7_pipeline.store.waiting import is_held

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["dead_writers", "mend", "read_all_metadata", "writers_mark"]

_WRONG = re.compile(
    r"computed checksum (?P<computed>\d+) does not match stored checksum (?P<stored>\d+) "
    r"in block at location (?P<place>\d+)"
)
_WRONG_LOG = re.compile(r"Corrupt WAL file: entry at byte position (?P<place>\d+) computed checksum")
_HEADER = struct.Struct("<QQ")  # of a log's entry: its size in bytes and its checksum

_log = logging.getLogger(__name__)


@contextmanager
def writers_mark(store: Path) -> Iterator[None]:
    """Mark `store` as being written, by a locked file beside it; what is left of it without its lock tells of a death.

    An exception leaves it too: looking once more costs little. To be called within the store's turn.
    """
    mark = store.with_name(f"{store.name}.writing-{uuid.uuid4().hex[:12]}")
    with mark.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        mark.unlink(missing_ok=True)


def dead_writers(store: Path) -> list[Path]:
    """The marks that outlived their writers. To be called within the store's turn."""
    return [mark for mark in store.parent.glob(f"{escape(store.name)}.writing-*") if not is_held(mark)]


def read_all_metadata(connection: DuckDBPyConnection) -> None:
    """Read every table's metadata and deleted rows; duckdb.IOException where a block of them is torn."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()")
    for (name,) in tables.fetchall():
        connection.execute(f"SELECT count(*) FROM pragma_storage_info('{name}')").fetchall()
        connection.execute(f'SELECT sum(hash(rowid)) FROM "{name}"').fetchall()


def mend(store: Path, error: Exception) -> bool:
    """Mend what `error` complains of: a block's checksum or a log that ends in zeros. False where it is neither."""
    return _mend_block(store, error) or _cut_log(store.with_name(f"{store.name}.wal"), error)


def _mend_block(store: Path, error: Exception) -> bool:
    """Give the block that `error` complains of the checksum of its content."""
    wrong = _WRONG.search(str(error))
    if wrong is None:
        return False
    with store.open("r+b") as file:
        file.seek(int(wrong["place"]))
        if file.read(8) != struct.pack("<Q", int(wrong["stored"])):
            return False
        file.seek(int(wrong["place"]))
        file.write(struct.pack("<Q", int(wrong["computed"])))
        file.flush()
        os.fsync(file.fileno())
    return True


def _cut_log(log: Path, error: Exception) -> bool:
    """Cut the log before the entry that `error` complains of, where nothing but zeros follows that entry."""
    wrong = _WRONG_LOG.search(str(error))
    if wrong is None or not log.is_file():
        return False
    begins = int(wrong["place"])  # the entry's content; its header is before it
    with log.open("r+b") as file:
        file.seek(begins - _HEADER.size)
        header = file.read(_HEADER.size)
        if begins < _HEADER.size or len(header) < _HEADER.size:
            return False
        content, rest = file.read(_HEADER.unpack(header)[0]), file.read()
        if rest.strip(b"\0") or (header + content).rstrip(b"\0") == header + content:
            return False
        file.truncate(begins - _HEADER.size)
        file.flush()
        os.fsync(file.fileno())
    _log.warning("the log %s ended in zeros, as after a power cut; it was cut after its last whole entry", log)
    return True
