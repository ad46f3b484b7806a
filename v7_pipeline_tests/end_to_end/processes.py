"""The processes that were started for a home, and their end: what every test of a whole tree needs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

__all__ = ["kill_all", "members_of"]


def members_of(home: Path) -> list[psutil.Process]:
    """Every living process that was started for this home, wherever it hangs now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            ours = process.environ().get("V7_HOME") == str(home)
            if ours and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found


def kill_all(home: Path) -> None:
    """SIGKILL for each of `members_of`: nothing outlives its test."""
    for process in members_of(home):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
