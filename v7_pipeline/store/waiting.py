"""Waiting for a store that another process holds: jittered, with a deadline, and plain words at its end.

Only patience belongs here; what is waited for is the caller's.
"""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from v7_pipeline.store.errors import StoreBusy

__all__ = ["Deadline", "turn"]

_SHORTEST_S, _LONGEST_S = 0.001, 0.01


class Deadline:
    """A moment (monotonic clock) after which waiting for `label` ends with StoreBusy."""

    def __init__(self, label: str, wait_s: float) -> None:
        self._label, self._wait_s = label, wait_s
        self._end = time.monotonic() + wait_s

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def pause(self, holder: str) -> None:
        """Sleep a random moment, or raise StoreBusy where the deadline has passed.

        The pause does not grow: a back-off would starve whoever has waited longest.
        """
        if self.remaining <= 0:
            raise self.busy(holder)
        time.sleep(min(random.uniform(_SHORTEST_S, _LONGEST_S), self.remaining))

    def busy(self, holder: str) -> StoreBusy:
        """The error that says who may hold the store and what to do."""
        return StoreBusy(
            f"{self._label} was held by {holder} for more than {self._wait_s:g} s; wait for that work to end "
            "(a scan, a backfill, v7 up, or an open DuckDB shell), or raise V7_STORE_WAIT_S"
        )


@contextmanager
def turn(file: Path, deadline: Deadline) -> Iterator[None]:
    """Hold `file` locked against other processes and threads; the kernel lets go when a holder dies."""
    with file.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                deadline.pause("another process that waits for it or writes")
        yield
