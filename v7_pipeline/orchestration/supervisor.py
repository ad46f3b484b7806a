"""A small process supervisor: start children in order, restart what falls, end the whole tree on a signal.

Every child leads a process group of its own and dies with us even when we are killed; what a child leaves behind
is adopted (sub-reaper) and ended too. What the children are is up.py's business.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import psutil

__all__ = ["Child", "Supervisor", "SupervisorError"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_RESTARTS_A_MINUTE = 5


class SupervisorError(RuntimeError):
    """A child did not become ready or keeps falling; the message says which and where its log is."""


@dataclass
class Child:
    """One process of the tree; `ready` is asked until it answers True."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]
    log: Path
    ready: Callable[[], bool] = lambda: True
    ready_within_s: float = 60.0
    process: subprocess.Popen[bytes] | None = None
    starts: list[float] = field(default_factory=list)


def _with_parent() -> None:
    """In the child, before exec: die with the parent, and take signals again as a fresh program does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


class Supervisor:
    """Runs children until a signal comes. Use: start(child) …, then watch(), finally stop()."""

    def __init__(self, *, on_event: Callable[[str], None], grace_s: float = 10.0) -> None:
        self._children: list[Child] = []
        self._on_event = on_event
        self._grace_s = grace_s
        self._stopping = False
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def install_signals(self) -> None:
        """SIGINT, SIGTERM and SIGHUP end the tree in order instead of killing us at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether a signal asked for the end."""
        return self._stopping

    def launch(self, *children: Child) -> None:
        """Start the children without waiting for them."""
        for child in children:
            self._children.append(child)
            self._spawn(child)

    def await_ready(self, *children: Child) -> None:
        """Wait until each child is ready. SupervisorError where one ends or takes too long."""
        for child in children:
            self._await_ready(child)

    def start(self, *children: Child) -> None:
        """Start the children together, then wait until each is ready."""
        self.launch(*children)
        self.await_ready(*children)

    def watch(self, *, poll_s: float = 0.5) -> None:
        """Until a signal: restart what fell; SupervisorError where a child keeps falling."""
        while not self._stopping:
            for child in self._children:
                if child.process is not None and child.process.poll() is not None and not self._stopping:
                    self._on_event(f"{child.name} ended with code {child.process.returncode}; starting it again")
                    self._spawn(child)
            self._reap_adopted()
            time.sleep(poll_s)

    def stop(self) -> None:
        """End everything: children in reverse order with a grace period, then whatever is left below us."""
        self._stopping = True
        for child in reversed(self._children):
            self._signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        for child in self._children:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._signal_group(child, signal.SIGKILL)
                child.process.wait()
        left = psutil.Process().children(recursive=True)
        for process in left:
            _quietly(process.terminate)
        _, alive = psutil.wait_procs(left, timeout=3)
        for process in alive:
            _quietly(process.kill)
        psutil.wait_procs(alive, timeout=3)

    def _spawn(self, child: Child) -> None:
        now = time.monotonic()
        child.starts = [moment for moment in child.starts if now - moment < 60] + [now]
        if len(child.starts) > _RESTARTS_A_MINUTE:
            raise SupervisorError(f"{child.name} fell {_RESTARTS_A_MINUTE} times within a minute; see {child.log}")
        child.log.parent.mkdir(parents=True, exist_ok=True)
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                list(child.argv),
                env=child.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_with_parent,
            )

    def _await_ready(self, child: Child) -> None:
        deadline = time.monotonic() + child.ready_within_s
        while not self._stopping:
            if child.process is not None and child.process.poll() is not None:
                raise SupervisorError(
                    f"{child.name} ended with code {child.process.returncode} while starting; "
                    f"see {child.log}:\n{_tail(child.log)}"
                )
            if child.ready():
                return
            if time.monotonic() > deadline:
                raise SupervisorError(
                    f"{child.name} was not ready within {child.ready_within_s:.0f} s; see {child.log}"
                )
            time.sleep(0.1)

    def _signal_group(self, child: Child, number: signal.Signals) -> None:
        if child.process is not None and child.process.poll() is None:
            _quietly(partial(os.killpg, child.process.pid, number))

    def _reap_adopted(self) -> None:
        """Collect grandchildren that were adopted and have ended, so that none stays a zombie."""
        own = {child.process.pid for child in self._children if child.process is not None}
        for process in psutil.Process().children():
            if process.pid not in own and _status(process) == psutil.STATUS_ZOMBIE:
                _quietly(partial(os.waitpid, process.pid, os.WNOHANG))


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return "gone"


def _quietly(act: Callable[[], object]) -> None:
    """Do it; that the process is already gone is what was wanted."""
    try:
        act()
    except (psutil.NoSuchProcess, ProcessLookupError, ChildProcessError):
        return


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
