"""The process tree: it restarts what falls, and whatever ends it, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from v7_pipeline.orchestration.supervisor import Child, Supervisor, SupervisorError

PARENT = """
import os, sys
from pathlib import Path
from v7_pipeline.orchestration.supervisor import Child, Supervisor

folder = Path(sys.argv[1])
# Each child starts a grandchild in a session of its own: the sort that is easily left behind.
code = (
    "import subprocess, sys, time, os; from pathlib import Path; "
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
    f"Path(r'{folder}', str(os.getpid()) + '.child').touch(); "
    f"Path(r'{folder}', str(p.pid) + '.grandchild').touch(); time.sleep(600)"
)
supervisor = Supervisor(on_event=lambda text: print(text, flush=True), grace_s=3)
supervisor.install_signals()
try:
    supervisor.start(Child("one", [sys.executable, "-c", code], dict(os.environ), folder / "one.log"))
    supervisor.watch(poll_s=0.1)
finally:
    supervisor.stop()
"""


def _pids(folder: Path, kind: str) -> set[int]:
    return {int(path.stem) for path in folder.glob(f"*.{kind}")}


def _alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


def _wait_for(what: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def tree(tmp_path: Path):  # type: ignore[no-untyped-def]
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)], cwd=Path(__file__).parents[2]
    )
    _wait_for(lambda: _pids(tmp_path, "grandchild"))
    yield parent, tmp_path
    for pid in (parent.pid, *_pids(tmp_path, "child"), *_pids(tmp_path, "grandchild")):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
    parent.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_whole_tree(tree: tuple[subprocess.Popen[bytes], Path], number: signal.Signals) -> None:
    parent, folder = tree
    parent.send_signal(number)
    assert parent.wait(60) == 0
    assert not _alive(_pids(folder, "child") | _pids(folder, "grandchild"))


def test_a_killed_parent_takes_its_children_along(tree: tuple[subprocess.Popen[bytes], Path]) -> None:
    parent, folder = tree
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _alive(_pids(folder, "child")))


def test_a_fallen_child_is_started_again(tree: tuple[subprocess.Popen[bytes], Path]) -> None:
    _, folder = tree
    (first,) = _pids(folder, "child")
    os.kill(first, signal.SIGKILL)
    _wait_for(lambda: len(_pids(folder, "child")) == 2)


def test_a_child_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(on_event=lambda text: None, grace_s=1)
    child = Child(
        "broken",
        [sys.executable, "-c", "raise SystemExit('no such port')"],
        dict(os.environ),
        tmp_path / "broken.log",
        ready=lambda: False,
    )
    with pytest.raises(SupervisorError, match=r"broken ended with code 1(.|\n)*no such port"):
        supervisor.start(child)
