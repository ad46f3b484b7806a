"""A disk without room: one sentence, nothing half-written, and the next write goes on."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.store import Store, StoreError, StoreFull, open_store
from v7_pipeline.store.errors import is_full
from v7_pipeline_tests.store.rows import make_rows


@contextmanager
def no_room(byte: int = 64 * 1024) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes; the stores here are larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("linger_s", [0.0, 0.05])
def test_a_write_without_room_says_so_and_what_was_stored_is_whole(
    file_store: Store, tmp_path: Path, linger_s: float
) -> None:
    store = open_store(f"duckdb:{tmp_path / 'only.duckdb'}", linger_s=linger_s)
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 50))
    store.close()
    with no_room(), pytest.raises(StoreFull, match=r"its disk is full; free some space .*`v7 doctor`") as caught:
        for salt in range(1, 40):  # until the log beside the file is too large as well
            with store.transaction() as tx:
                tx.upsert("candles", make_rows("candles", 500, salt=salt))
            store.close()
    assert "\n" not in str(caught.value)
    held = len(store.read("candles"))
    assert held in (50, 500)  # a write is there or it is not
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 600, salt=99))
    store.close()
    assert len(store.read("candles")) == 600


def test_an_export_onto_a_full_disk_is_not_told_as_the_stores(file_store: Store) -> None:
    with pytest.raises(OSError, match="elsewhere"), file_store.reading():
        raise OSError(errno.ENOSPC, "No space left on device: elsewhere")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EACCES, "x"), False),
        (RuntimeError('Could not write file "v7.duckdb": No space left on device'), True),
        (RuntimeError("database or disk is full"), True),
        (StoreError("no table of that name"), False),
    ],
)
def test_a_full_disk_is_told_from_other_troubles(error: Any, full: bool) -> None:
    assert is_full(error) is full
