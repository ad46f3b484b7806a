"""An embedded store's file stays attached for a moment after a block that wrote, for the next block of this process.

Closing a DuckDB file checkpoints it, which takes longer than most of our writes; a scan has a dozen of them in a row.
What is committed is in the log beside the file: a process that is killed meanwhile loses nothing. Who else waits for
the file gets it at the end of the block; how a file is attached belongs to duckdb_file.py.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from v7_pipeline.store.process import DuckDBProcess
from v7_pipeline.store.waiting import is_waited_for

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Attach", "Attached", "Lingering", "let_go", "lingering"]

_log = logging.getLogger(__name__)
_AT_EXIT_S = 10.0  # longer than a checkpoint; a block that never ends must not keep the process


class Attached:
    """A file attached to this process's instance under `alias`; `stack` detaches it."""

    def __init__(self, instance: DuckDBProcess, alias: str, stack: ExitStack) -> None:
        self.instance, self.alias, self.stack = instance, alias, stack


Attach = Callable[[], Attached]


class Lingering:
    """One file of this process: attached or not, and the timer that lets it go. One block at a time uses it."""

    def __init__(self, path: Path) -> None:
        self._turn_file = Path(f"{path}.turn")
        self._lock = threading.RLock()
        self._attached: Attached | None = None
        self._blocks = 0  # begun so far: a timer of an earlier block lets go of nothing
        self._in_use = False

    @property
    def attached(self) -> bool:
        """Whether the file is attached now, by this process."""
        return self._attached is not None

    @contextmanager
    def block(self, attach: Attach, linger_s: float) -> Iterator[DuckDBPyConnection]:
        """A connection whose current database is the file, attached by `attach` where it is not.

        After the block it stays attached for `linger_s` seconds, unless somebody waits for it; after an exception it is
        let go of at once.
        """
        with self._lock:
            self._blocks += 1
            if self._attached is None:
                self._attached = attach()
            held = self._attached
            self._in_use = True
            try:
                with held.instance.cursor() as cursor:
                    cursor.execute(f"USE {held.alias}")
                    try:
                        yield cursor
                    finally:
                        cursor.execute("USE memory")
            except BaseException as error:
                self._attached = None
                held.stack.__exit__(type(error), error, error.__traceback__)
                raise
            finally:
                self._in_use = False
            if is_waited_for(self._turn_file):
                self.let_go()
            else:
                timer = threading.Timer(linger_s, self._let_go_after, [self._blocks])
                timer.daemon = True
                timer.start()

    def let_go(self, *, wait_s: float = -1) -> None:
        """Detach the file, which checkpoints it; within a block of this thread that is left to the block's end.

        What another thread does with it is waited for `wait_s` seconds, -1: as long as it takes; then nothing is done.
        Where closing fails, as on a full disk, that is logged and no more: what was committed is in the log beside the
        file, and who opens it next goes on with it.
        """
        if not self._lock.acquire(timeout=wait_s):
            return
        try:
            if self._attached is not None and not self._in_use:
                held, self._attached = self._attached, None  # in any case: the next block attaches it anew
                try:
                    held.stack.close()
                except Exception as error:  # noqa: BLE001 - it may come at any time, to somebody who wrote nothing
                    _log.error("the store could not be closed; what was committed is in the log beside it: %s", error)
        finally:
            self._lock.release()

    def _let_go_after(self, block: int) -> None:
        with self._lock:
            if block == self._blocks:
                self.let_go()


_all_lock = threading.Lock()
_all: dict[Path, Lingering] = {}


def lingering(path: Path) -> Lingering:
    """This process's one Lingering of `path`."""
    with _all_lock:
        return _all.setdefault(path, Lingering(path))


def let_go(path: Path) -> None:
    """Let go of `path` where this process keeps it attached."""
    found = _all.get(path)
    if found is not None:
        found.let_go()


def _let_go_of_all(wait_s: float = 0) -> None:
    # Whoever forks must not wait for a block that may wait for it.
    for found in list(_all.values()):
        found.let_go(wait_s=wait_s)


def _at_exit() -> None:
    # A timer's thread that is detaching the file when the interpreter ends would abort the process.
    _let_go_of_all(_AT_EXIT_S)


def _forget_all() -> None:
    # A forked child owns none of its parent's threads, locks and connections.
    global _all_lock
    _all_lock = threading.Lock()
    _all.clear()


atexit.register(_at_exit)
os.register_at_fork(before=_let_go_of_all, after_in_child=_forget_all)
