"""A writer that is killed can leave a torn block in a DuckDB file; this finds and mends it at the next opening.

While it checkpoints, DuckDB 1.5 writes new metadata into the free parts of 256 KiB blocks whose other parts are in
use. SIGKILL can cut such a write short: the parts in use still hold what they held, but the block's checksum is that
of the whole new block, and the file can no longer be opened (seen once in about a thousand kills). So a writer leaves
a mark while it has the file. Where a mark outlived its writer, every block of metadata is read, and one whose checksum
is wrong gets the right one. Without a mark a wrong checksum is damage of another kind, and is left alone.
"""

from __future__ import annotations

import fcntl
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
    """Give the block that `error` complains of the checksum of its content; False where that is not the complaint."""
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
