"""A file that stays open for the next block is nobody's loss: who waits gets it, who is killed loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from v7_pipeline.store import Store, lingering, open_store
from v7_pipeline_tests.store.rows import make_rows

LONG = 30.0


@pytest.fixture
def path(tmp_path: Path, templates: Path) -> Iterator[Path]:
    file = tmp_path / "v7.duckdb"
    file.write_bytes((templates / "v7.duckdb").read_bytes())
    yield file
    lingering.let_go(file)


@pytest.fixture
def at(path: Path) -> Callable[[float], Store]:
    return lambda linger_s: open_store(f"duckdb:{path}", linger_s=linger_s)


def write(store: Store, rows: int) -> None:
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", rows))


def attached(path: Path) -> bool:
    return lingering.lingering(path.resolve()).attached


def elsewhere(path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """`code` in another process, with `store` and `write`."""
    before = (
        "from v7_pipeline.store import open_store\n"
        "from v7_pipeline_tests.store.test_lingering import write\n"
        f"store = open_store('duckdb:{path}', linger_s={LONG})\n"
    )
    return subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=False)


def test_the_next_block_finds_the_file_open_and_what_was_committed(path: Path, at: Callable[[float], Store]) -> None:
    write(at(LONG), 3)
    assert attached(path) and Path(f"{path}.wal").exists(), "nothing was checkpointed yet"
    assert len(at(LONG).read("candles")) == 3
    write(at(LONG), 5)
    at(LONG).close()
    assert not attached(path) and not Path(f"{path}.wal").exists()
    assert len(at(0).read("candles")) == 5


def test_it_is_let_go_of_after_its_time(path: Path, at: Callable[[float], Store]) -> None:
    write(at(0.05), 3)
    give_up = time.monotonic() + 60
    while attached(path):
        assert time.monotonic() < give_up, "the timer never came"
        time.sleep(0.01)
    assert elsewhere(path, "print(len(store.read('candles')))").stdout == "3\n"


def test_a_later_block_is_not_ended_by_the_timer_of_an_earlier_one(at: Callable[[float], Store]) -> None:
    store = at(0.02)
    write(store, 3)
    with store.transaction() as tx:
        time.sleep(0.1)
        tx.upsert("candles", make_rows("candles", 4))
    assert len(store.read("candles")) == 4


def test_a_store_of_this_process_that_does_not_linger_gets_it(path: Path, at: Callable[[float], Store]) -> None:
    write(at(LONG), 3)
    started = time.monotonic()
    assert len(at(0).read("candles")) == 3
    assert not attached(path) and time.monotonic() - started < LONG / 2


def test_who_waits_gets_it_at_the_end_of_the_block(path: Path, at: Callable[[float], Store]) -> None:
    store = at(LONG)
    found: list[subprocess.CompletedProcess[str]] = []
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 3))
        waiter = threading.Thread(target=lambda: found.append(elsewhere(path, "print(len(store.read('candles')))")))
        waiter.start()
        give_up = time.monotonic() + 60
        while not _in_the_queue(path):
            assert time.monotonic() < give_up, "nobody came to wait"
            time.sleep(0.01)
    assert not attached(path), "somebody waits"
    waiter.join(60)
    assert found[0].stdout == "3\n", found[0].stderr


def _in_the_queue(path: Path) -> bool:
    from v7_pipeline.store.waiting import is_waited_for

    return is_waited_for(Path(f"{path}.turn"))


def test_a_process_that_is_killed_with_the_file_open_loses_nothing(path: Path, at: Callable[[float], Store]) -> None:
    killed = elsewhere(path, "write(store, 7)\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert killed.returncode == -signal.SIGKILL
    assert Path(f"{path}.wal").exists(), "it was killed before it closed the file"
    assert len(at(0).read("candles")) == 7
    write(at(LONG), 9)
    assert len(at(LONG).read("candles")) == 9


def test_a_process_that_ends_closes_the_file(path: Path) -> None:
    ended = elsewhere(path, "write(store, 7)\n")
    assert ended.returncode == 0, ended.stderr
    assert not Path(f"{path}.wal").exists() and not list(path.parent.glob("*.writing-*"))


def test_an_exception_lets_go_and_leaves_what_was_there(path: Path, at: Callable[[float], Store]) -> None:
    store = at(LONG)
    write(store, 3)

    def fail() -> None:
        with store.transaction() as tx:
            tx.upsert("candles", make_rows("candles", 5))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not attached(path)
    assert len(store.read("candles")) == 3


def test_a_forked_child_holds_nothing_of_it(path: Path, at: Callable[[float], Store]) -> None:
    store = at(LONG)
    write(store, 3)
    child = os.fork()
    if child == 0:
        try:
            ok = not attached(path) and len(store.read("candles")) == 3
            store.close()
        except BaseException:  # noqa: BLE001 - told by the exit code
            ok = False
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    write(store, 4)
    assert len(store.read("candles")) == 4


def test_threads_take_turns(at: Callable[[float], Store]) -> None:
    store = at(0.001)  # let go of again and again while others come
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for rows in range(1, 15):
                write(store, rows)
                assert len(store.read("candles")) >= rows
                time.sleep(0.002)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(store.read("candles")) == 14


def test_closing_within_a_block_waits_for_its_end(path: Path, at: Callable[[float], Store]) -> None:
    store = at(LONG)
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 2))
        store.close()
        tx.upsert("candles", make_rows("candles", 3))
    store.close()
    assert not attached(path) and len(at(0).read("candles")) == 3


ENDS_WHILE_CLOSING = """
import sys, time
from datetime import UTC, datetime
from v7_pipeline.store import open_store
store = open_store("duckdb:" + sys.argv[1], linger_s=0.02)
store.migrate("0", datetime.now(UTC))
with store.transaction() as tx:
    tx.execute("CREATE TABLE wide AS SELECT range AS a, random() AS b FROM range(300000)", ())
time.sleep(0.024)  # the file is being closed by now, which takes longer than the rest of this process
"""


def test_a_process_that_ends_while_its_file_is_being_closed_ends_well(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_WHILE_CLOSING, str(tmp_path / "v7.duckdb")], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
