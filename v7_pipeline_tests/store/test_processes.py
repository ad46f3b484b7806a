"""Several processes and threads at one store: waiting, contention, and death in the middle of a write."""

from __future__ import annotations

import random
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.store import Store, StoreBusy, StoreError, open_store
from v7_pipeline.store.torn_writes import dead_writers
from v7_pipeline_tests.store.conftest import Drills
from v7_pipeline_tests.store.drills import MINUTES, candles, replace_slice
from v7_pipeline_tests.store.rows import DAY, NEXT_DAY, make_rows


def test_a_writer_waits_for_another_process_and_then_succeeds(
    place: dict[str, Any], store: Store, drills: Drills, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    drills.run("hold", place=place, until=str(release))
    ending = threading.Timer(0.3, release.touch)
    ending.start()
    with store.transaction() as tx:
        assert release.exists(), "it had its turn while the other held the store"
        tx.upsert("candles", make_rows("candles", 2))
    ending.join()
    assert len(store.read("candles")) == 2


def test_lesson_20_waiting_ends_at_its_deadline_and_names_the_holder(
    place: dict[str, Any], store: Store, drills: Drills, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    pid = drills.run("hold", place=place, until=str(release))["pid"]
    hurried = open_store(**place, wait_s=0.4)
    began = time.monotonic()
    with (
        pytest.raises(StoreBusy, match=r"held by .* for more than 0.4 s.*V7_STORE_WAIT_S") as caught,
        hurried.transaction(),
    ):
        pass
    assert 0.35 < time.monotonic() - began < 20
    if place["url"].startswith("duckdb:"):
        assert f"process {pid}" in str(caught.value)
        with pytest.raises(StoreBusy):
            hurried.read("candles")
    else:
        assert hurried.read("candles").empty  # a lake's reader waits for nobody
    release.touch()
    assert store.read("candles").empty  # and a patient one gets its turn


def test_lesson_20_threads_of_one_process_take_turns(store: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(4):
                with store.transaction() as tx:
                    tx.upsert("candles", candles(DAY + timedelta(days=number), i + 1, 1.0))
                assert not store.read("candles", start=DAY + timedelta(days=number), columns=["close"]).empty
        except BaseException as error:  # noqa: BLE001 (told below)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(store.read("candles")) == 16


def test_a_thread_waits_no_longer_than_the_deadline(file_store: Store, place: dict[str, Any]) -> None:
    hurried = Store(f"duckdb:{file_store._backend.key.removeprefix('duckdb:')}", wait_s=0.2)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            hurried.read("candles")
        except StoreBusy as error:
            caught.append(error)

    with file_store.transaction():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "another thread of this process" in str(caught[0])


def contend(place: dict[str, Any], store: Store, drills: Drills, seconds: float) -> None:
    days = [(DAY + timedelta(days=i)).isoformat() for i in range(4)]
    answers = drills.run("contend", place=place, days=days, readers=2, seconds=seconds)
    assert [answer["exit"] for answer in answers] == [0] * 6
    for day, answer in zip(days, answers[:4], strict=True):
        rounds = answer["told"]["rounds"]
        stored = store.query("SELECT count(*) AS n FROM candles WHERE open_time::DATE = ?::DATE", (day[:10],))
        assert stored["n"][0] == 2 * rounds and rounds >= 1
    assert len(store.read("candles")) == sum(2 * answer["told"]["rounds"] for answer in answers[:4])
    for answer in answers[4:]:
        assert answer["told"]["failed"] == 0 and answer["told"]["reads"] >= 1
    print("; ".join(str(answer["told"]) for answer in answers))


def test_lesson_20_four_writers_and_two_readers_lose_nothing(
    place: dict[str, Any], store: Store, drills: Drills
) -> None:
    contend(place, store, drills, 2)


@pytest.mark.slow
def test_lesson_20_four_writers_and_two_readers_for_half_a_minute(
    place: dict[str, Any], store: Store, drills: Drills
) -> None:
    contend(place, store, drills, 30)


def test_kill_in_the_middle_of_a_replace_leaves_the_old_or_the_new_slice_whole(
    place: dict[str, Any], store: Store, drills: Drills
) -> None:
    kill_in_the_middle(place, store, drills, 10 if place["url"].startswith("duckdb:") else 6)


@pytest.mark.slow
def test_two_hundred_kills_in_the_middle_of_a_replace(place: dict[str, Any], store: Store, drills: Drills) -> None:
    kill_in_the_middle(place, store, drills, 200 if place["url"].startswith("duckdb:") else 25)


def kill_in_the_middle(place: dict[str, Any], store: Store, drills: Drills, points: int) -> None:
    """Kill a writer at `points` random moments of a replacement; after each, the slice is the old or the new one."""
    replace_slice(store, 0)
    window = min(drills.run("kill", place=place, version=v, after_s=None)["took_s"] for v in (1, 2, 0))
    rng, kept, current, version = random.Random(7), 0, 0, 0
    while version < points or (not 0 < kept < version and version < points + 40):
        version += 1
        drills.run("kill", place=place, version=version, after_s=rng.uniform(0, window))
        rows = store.read("candles", start=DAY, end=NEXT_DAY)
        values = set(rows.select_dtypes("float64").to_numpy().ravel().tolist())
        assert len(rows) == MINUTES and values in ({float(current)}, {float(version)}), (version, values)
        # On a machine whose speed changes, the kills follow the commit: later after an early one, and the reverse.
        early = values == {float(current)}
        window *= 1.2 if early else 0.8
        kept += early
        current = int(values.pop())
    assert 0 < kept < version  # kills fell both before and after the commit
    replace_slice(store, -1)  # and the store still works
    print(f"{version} kills, {kept} times the old slice")


def torn_file(store: Store, path: Path) -> None:
    """Leave at `path` what a writer leaves that dies while a checkpoint rewrites a block in use."""
    import duckdb

    with duckdb.connect(str(path)) as connection:
        blocks = connection.execute("SELECT block_id, free_blocks, total_blocks FROM pragma_metadata_info()").fetchall()
    before = path.read_bytes()
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 50, salt=1))
    after = path.read_bytes()
    for block, free, total in blocks:
        place = 3 * 4096 + block * 262144
        old, new = before[place : place + 262144], after[place : place + 262144]
        if free < total and old != new:
            differing = [i for i in range(64) if old[i * 4096 : (i + 1) * 4096] != new[i * 4096 : (i + 1) * 4096]]
            cut = place + differing[len(differing) // 2] * 4096
            path.write_bytes(before[:place] + after[place:cut] + before[cut:])
            return
    raise AssertionError("DuckDB no longer rewrites blocks in use: torn_writes.py may go")


def test_a_block_torn_by_a_killed_writer_is_mended(file_store: Store, tmp_path: Path) -> None:
    _write(file_store, 50)
    rows = file_store.read("candles")
    path = tmp_path / "only.duckdb"
    torn_file(file_store, path)
    (tmp_path / "only.duckdb.writing-0").touch()
    pd.testing.assert_frame_equal(open_store(f"duckdb:{path}").read("candles"), rows)
    assert not list(tmp_path.glob("*.writing-*"))
    _write(file_store, 60)
    assert len(file_store.read("candles")) == 60


def test_a_wrong_checksum_that_no_killed_writer_explains_is_left_alone(file_store: Store, tmp_path: Path) -> None:
    _write(file_store, 50)
    path = tmp_path / "only.duckdb"
    torn_file(file_store, path)
    damaged = path.read_bytes()
    with pytest.raises(StoreError, match=r"cannot be opened: .*computed checksum"):
        open_store(f"duckdb:{path}").read("candles")
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("written", [0, 3, 40])
def test_a_log_that_ends_in_zeros_is_cut_after_its_last_whole_transaction(
    tmp_path: Path, templates: Path, written: int
) -> None:
    log, whole = _log_of_two_writes(tmp_path, templates)
    torn = log[: whole + written] + bytes(len(log) - whole - written)
    (tmp_path / "only.duckdb.wal").write_bytes(torn)
    with pytest.raises(StoreError, match="Corrupt WAL file"):  # no killed writer explains it: it is left alone
        open_store(f"duckdb:{tmp_path / 'only.duckdb'}").read("candles")
    assert (tmp_path / "only.duckdb.wal").read_bytes() == torn
    (tmp_path / "only.duckdb.writing-0").touch()
    mended = open_store(f"duckdb:{tmp_path / 'only.duckdb'}")
    assert len(mended.read("candles")) == 10
    _write(mended, 60)
    assert len(mended.read("candles")) == 60


def test_a_log_with_a_wrong_byte_before_its_end_is_left_alone(tmp_path: Path, templates: Path) -> None:
    log, whole = _log_of_two_writes(tmp_path, templates)
    damaged = log[: whole // 2] + bytes([log[whole // 2] ^ 255]) + log[whole // 2 + 1 :]
    (tmp_path / "only.duckdb.wal").write_bytes(damaged)
    (tmp_path / "only.duckdb.writing-0").touch()
    with pytest.raises(StoreError, match="Corrupt WAL file"):
        open_store(f"duckdb:{tmp_path / 'only.duckdb'}").read("candles")
    assert (tmp_path / "only.duckdb.wal").read_bytes() == damaged


def _log_of_two_writes(folder: Path, templates: Path) -> tuple[bytes, int]:
    """The log of a writer that wrote 10 candles, then 60, and where the second begins; its file as before both."""
    original = templates / "v7.duckdb"
    store = Store(f"duckdb:{shutil.copyfile(original, folder / 'writer.duckdb')}", linger_s=5)
    _write(store, 10)
    log = folder / "writer.duckdb.wal"
    whole = log.stat().st_size
    _write(store, 60)
    shutil.copyfile(original, folder / "only.duckdb")
    return log.read_bytes(), whole


def test_a_living_writers_mark_is_no_sign_of_death(file_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "only.duckdb"
    with file_store.transaction():
        assert len(list(tmp_path.glob("*.writing-*"))) == 1 and dead_writers(path) == []
    assert not list(tmp_path.glob("*.writing-*"))


def _write(store: Store, n: int) -> None:
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", n))
