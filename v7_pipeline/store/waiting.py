"""Waiting for a store that another process holds: jittered, with a deadline, and plain words at its end.

Only patience belongs here; what is waited for is the caller's.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO

from v7_pipeline.store.errors import StoreBusy

__all__ = ["Deadline", "is_held", "is_waited_for", "turn"]

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
    """Hold `file` locked against other processes and threads, first come, first served; a holder's death frees it.

    Without the queue, who lets go and comes back at once would overtake all who sleep between two tries.
    """
    with file.open("a") as handle:
        with _queue(file, deadline):
            while not _locked(handle):
                deadline.pause("another process that waits for it or writes")
        yield


@contextmanager
def _queue(file: Path, deadline: Deadline) -> Iterator[None]:
    """Stand in the queue for `file`, a ticket with the time of arrival, until nobody who waits came earlier."""
    ticket = file.with_name(f"{file.name}-{time.monotonic_ns():020d}-{uuid.uuid4().hex[:8]}")
    with ticket.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            while _someone_before(ticket, file):
                deadline.pause("other processes that came earlier")
            yield
        finally:
            ticket.unlink(missing_ok=True)


def _someone_before(ticket: Path, file: Path) -> bool:
    for other in sorted(file.parent.glob(f"{escape(file.name)}-*")):
        if other.name >= ticket.name:
            return False
        if is_held(other):
            return True
        other.unlink(missing_ok=True)
    return False


def is_waited_for(file: Path) -> bool:
    """Whether anybody stands in the queue for `file`, or has the turn and waits for what it stands for."""
    if next(file.parent.glob(f"{escape(file.name)}-*"), None) is not None:
        return True
    with file.open("a") as handle:
        return not _locked(handle)


def is_held(file: Path) -> bool:
    """Whether a living process keeps `file` locked; also true where its holder has just ended well and removed it."""
    try:
        with file.open() as handle:
            return not _locked(handle) or os.fstat(handle.fileno()).st_nlink == 0
    except FileNotFoundError:
        return True


def _locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
