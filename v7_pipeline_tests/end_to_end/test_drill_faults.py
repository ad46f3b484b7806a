"""Drills of what lasts: a full disk, a clock an hour off, Coinbase or DeepSeek out of order for twenty minutes, a lock.

Real runs against the sandbox over HTTP; only the clock is set by hand, so that twenty minutes take seconds. Each drill
ends well again and prints what it has lost (`pytest -rP`): docs/reliability.md.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from v7_pipeline.scan.watchdog import look
from v7_pipeline.store import StoreFull
from v7_pipeline_tests.end_to_end.faults_drill import AS_OF, KEY, STEP, Drill, buys, open_drill, warm_store
from v7_pipeline_tests.end_to_end.world import LATER, assert_same, contents
from v7_pipeline_tests.scan.test_alerting import Places

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HOUR = timedelta(hours=1)
Open = Callable[..., Drill]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after the scan of AS_OF."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSEEK_API_KEY", KEY)
        return warm_store(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def opened(tmp_path: Path, warm: Path) -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(open_drill(**{"home": tmp_path / "home", "warm": warm} | how))


# --- the count itself -------------------------------------------------------------------------

PLANTED = {
    "candles": "DELETE FROM candles WHERE symbol = 'BTC-USD' AND open_time = '2026-11-18T09:00:00Z'",
    "candles with other prices": "UPDATE candles SET close = close * 1.001 WHERE open_time = '2026-11-17T09:00:00Z'",
    "candles of nowhere": "UPDATE candles SET symbol = 'DOGE-USD' WHERE open_time = '2026-11-18T09:01:00Z'",
    "readings missing, or not of these candles": "DELETE FROM theory_features WHERE as_of = '2026-11-18T12:01:00Z'",
    "readings of nowhere": "UPDATE theory_features SET kalman_gap = 0.5 WHERE as_of = '2026-11-18T12:02:00Z'",
    "decisions": "DELETE FROM llm_signals WHERE as_of = '2026-11-18T12:02:00Z'",
    "half or doubled decisions": "DELETE FROM llm_signals WHERE symbol = 'ETH-USD'",
    "invented decisions": "UPDATE llm_signals SET as_of = as_of - INTERVAL 1 HOUR",
    "decisions not gated": "DELETE FROM gated_signals WHERE symbol = 'ETH-USD'",
    "look-ahead": "UPDATE llm_signals SET features_as_of = as_of + INTERVAL 1 MINUTE",
    "scans": "UPDATE scans SET status = 'started'",
    "billed beyond the ledger": "DELETE FROM llm_calls WHERE symbol = 'ETH-USD'",
    "settled beyond the bill": "UPDATE llm_calls SET cost_usd = 2 * cost_usd",
    "answers paid twice": "INSERT INTO llm_calls BY NAME SELECT * REPLACE (attempt + 1 AS attempt) FROM llm_calls",
    "calls used twice": "UPDATE llm_signals SET call_id = 'one'",
    "sides out of a failure": "UPDATE llm_signals SET status = 'abstained', side = 'HOLD'",
}


def test_the_count_sees_what_is_lost(opened: Open) -> None:
    drill = opened(dagster=False)
    assert drill.scan(AS_OF + STEP) is None
    assert not any(drill.losses().values())
    whole = drill.world.file.read_bytes()
    unseen = []
    for kind, sql in PLANTED.items():
        with drill.world.store.transaction() as tx:
            tx.execute(sql)
        unseen += [] if drill.losses()[kind] else [kind]
        drill.world.file.write_bytes(whole)
    assert unseen == []
    assert set(drill.losses()) - set(PLANTED) == {"half gates", "doubled scans"}


# --- a full disk ----------------------------------------------------------------------------

# KiB that are left when a scan begins: from nothing to enough for some of its writes, and for all.
LEFT_KIB = (0, 4, 96, 280, 600, 1600)


class Disk(Protocol):
    """A place that can be made full."""

    folder: Path

    def leave(self, kib: int | None) -> None:
        """Leave so much room; None: plenty."""


class SmallDisk:
    """A file system of its own, in memory, filled by a file of ballast."""

    def __init__(self, folder: Path, mib: int) -> None:
        folder.mkdir(parents=True)
        argv = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "v7-drill", str(folder)]
        if os.geteuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode != 0:
            raise PermissionError("this user may not mount a file system")
        self.folder, self._ballast = folder, folder / "ballast"

    def leave(self, kib: int | None) -> None:
        self._ballast.unlink(missing_ok=True)
        if kib is not None:
            free = os.statvfs(self.folder)
            with self._ballast.open("wb") as file:
                file.write(b"\0" * max(0, free.f_bavail * free.f_frsize - kib * 1024))

    def end(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class SmallFiles:
    """No file of this process may grow beyond a size: what is left to who may not mount. The store's are larger."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self._hard = folder, resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def leave(self, kib: int | None) -> None:
        # Nothing at all would forbid the test's own output.
        soft = self._hard if kib is None else (kib + 32) * 1024
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, self._hard))

    def end(self) -> None:
        self.leave(None)


@contextmanager
def small(folder: Path, mib: int) -> Iterator[SmallDisk]:
    try:
        disk = SmallDisk(folder, mib)
    except PermissionError as error:
        pytest.skip(f"{error}: the drill of a limit on files stands in for it")
    try:
        yield disk
    finally:
        disk.end()


def test_a_full_disk_under_the_store_loses_nothing(opened: Open, tmp_path: Path) -> None:
    with small(tmp_path / "disk", 64) as disk:
        drill = opened(store=disk.folder / "v7.duckdb", answerer=buys)
        failed = _scans_on_a_full_disk(drill, disk)
        assert len(failed) >= 3, "the disk was never full"
        for told in failed:
            assert "its disk is full; free some space there" in told and "\n" not in told, told
        _goes_on(drill, disk)
        drill.assert_nothing_lost("full disk, store", f"{drill.scans + 1} scans, {len(failed)} failed")


def _scans_on_a_full_disk(drill: Drill, disk: Disk) -> list[str]:
    """A scan for each amount of room that is left; the sentences of those that failed."""
    failed = []
    for number, kib in enumerate(LEFT_KIB, 1):
        drill.world.store.close()
        disk.leave(kib)
        told = drill.scan(AS_OF + number * STEP)
        failed += [told] if told else []
    return failed


def _goes_on(drill: Drill, disk: Disk) -> None:
    """With room again the next scan is well, and so is the newest failed one done again, at no further cost."""
    drill.world.store.close()
    disk.leave(None)
    latest = max(drill.failed)
    next_one = AS_OF + (len(LEFT_KIB) + 1) * STEP
    assert drill.scan(next_one) is None
    paid = "SELECT call_id FROM llm_calls WHERE status = 'settled' AND error IS NULL"
    before = {row["call_id"] for row in drill.world.store.rows(paid)}
    asked = drill.world.chats
    drill.world.run(latest)
    drill.answered.append(latest)
    after = {row["call_id"] for row in drill.world.store.rows(paid)}
    assert drill.world.chats - asked == len(after - before), "an answer that was paid was asked for again"
    assert drill.scan(next_one + STEP) is None


def test_a_full_disk_under_everything_is_told_in_a_sentence_and_by_the_watchdog(opened: Open, tmp_path: Path) -> None:
    with small(tmp_path / "disk", 64) as disk:
        drill = opened(home=disk.folder / "home")
        world, telegram = drill.world, Places()
        world.store.close()
        state = world.runtime.settings.data_dir / "watchdog.json"
        for number, kib in enumerate((0, 96, 0), 1):
            world.store.close()
            disk.leave(kib)
            told = drill.scan(AS_OF + number * STEP)
            assert told and "\n" not in told
            assert "could not be recorded in" in told or "its disk is full" in told, told
        for minutes in (11, 12, 13):
            now = AS_OF + timedelta(minutes=minutes)
            assert not look(world.runtime.settings, world.store, state, now=now, sender=telegram).well
        assert telegram.titles() == ["Watchdog: Scans have stopped"]
        world.store.close()
        disk.leave(None)
        assert drill.scan(AS_OF + 7 * STEP) is None
        now = AS_OF + 7 * STEP + LATER
        assert look(world.runtime.settings, world.store, state, now=now, sender=telegram).well
        assert telegram.titles()[1:] == ["Watchdog: recovered, scans finish again"]
        assert drill.scan(AS_OF + 8 * STEP) is None
        drill.assert_nothing_lost("full disk, everything", f"5 scans, {len(drill.failed)} failed")


def test_a_file_that_may_not_grow_loses_nothing(opened: Open, tmp_path: Path) -> None:
    """Where nobody may mount: only the store is written, since Dagster's files are as large as its own."""
    disk = SmallFiles(tmp_path / "disk")
    drill = opened(store=disk.folder / "v7.duckdb", answerer=buys)
    world, refused = drill.world, []
    try:
        for number, kib in enumerate((0, 16, 96, 1024), 1):
            as_of = AS_OF + number * STEP
            world.clock.now = drill.true.now = as_of + LATER
            world.store.close()
            disk.leave(kib)
            try:
                world.scan(as_of)
                drill.answered.append(as_of)
            except StoreFull as error:
                refused.append(str(error))
                drill.failed[as_of] = str(error)
    finally:
        disk.end()
    assert refused, "the limit was never met"
    assert all("its disk is full" in told and "\n" not in told for told in refused)
    world.store.close()
    assert drill.scan(AS_OF + 5 * STEP) is None
    drill.assert_nothing_lost("full disk, limit on files", f"5 scans, {len(refused)} failed")


# --- the clock ------------------------------------------------------------------------------


def test_a_clock_an_hour_fast_decides_nothing_and_what_comes_after_it_is_whole(opened: Open) -> None:
    drill = opened(answerer=buys, gates_off="exposure")  # which would let only three trades be open
    for number in (1, 2):
        assert drill.scan(AS_OF + number * STEP) is None
    chats = drill.world.chats
    fast = [AS_OF + HOUR + number * STEP for number in (3, 4)]
    for as_of in fast:
        assert drill.scan(as_of, fast=HOUR) is None
        rows = drill.rows(as_of)
        assert all(row["status"] == "skipped" and "PRICE_STALE" in row["status_reason"] for row in rows), rows
        assert all(row["features_as_of"] <= drill.true.now for row in rows), "it read what was not published"
    assert drill.world.chats == chats, "a call was paid for a stale price"

    for number in (5, 6):  # set right: an hour back
        assert drill.scan(AS_OF + number * STEP) is None
        assert not any("STALE" in (row["status_reason"] or "") for row in drill.rows(AS_OF + number * STEP))
    before = {name: _of(drill, name, fast) for name in ("llm_signals", "gated_signals", "scans")}
    for as_of in fast:  # and an hour later the same instants come again, as they truly are
        assert drill.scan(as_of) is None
    assert {name: _of(drill, name, fast) for name in before} == before, "an instant was decided twice"
    assert drill.scan(fast[-1] + STEP) is None
    assert "answered" in {row["status"] for row in drill.rows(fast[-1] + STEP)}, "it did not recover"
    _six_an_hour(drill)
    drill.assert_nothing_lost("clock +1 h", f"{drill.scans} scans, {len(fast)} fast")


def _of(drill: Drill, table: str, instants: list[datetime]) -> list[dict[str, Any]]:
    return [row for as_of in instants for row in drill.rows(as_of, table)]


def _six_an_hour(drill: Drill) -> None:
    """As many signals were accepted as may be, and never more than six in any sixty minutes."""
    rows = drill.world.store.rows("SELECT as_of FROM gated_signals WHERE accepted ORDER BY as_of")
    times = [row["as_of"] for row in rows]
    most = max(sum(start <= at < start + HOUR for at in times) for start in times)
    assert most == 6, f"{most} signals within an hour"


# Room for one more call at its worst case (0.0036 USD) after the first scan's three, and for none after that.
BUDGET_USD = 0.0045


def test_a_clock_an_hour_slow_is_refused(tmp_path: Path) -> None:
    """Just after midnight, where an hour back is another day's budget; the day's is used up before the clock moves."""
    first = AS_OF.replace(hour=0) + timedelta(days=1, minutes=10)
    with _spent(tmp_path, first) as drill:
        tables = ("llm_calls", "llm_signals", "gated_signals", "outcomes", "scans")
        chats, rows = drill.world.chats, contents(drill.world.store, *tables)
        for number in (4, 5, 6):
            told = drill.scan(first + number * STEP - HOUR, fast=-HOUR)
            assert told and "the clock is slow or was set back" in told and "\n" not in told, told
        assert_same(rows, contents(drill.world.store, *tables))
        for number in (7, 8):
            assert drill.scan(first + number * STEP) is None
        assert drill.world.chats == chats, "the budget was opened again"
        _told_once(drill, "Run failed: scan")
        drill.assert_nothing_lost("clock -1 h", f"{drill.scans} scans, 3 slow")


def test_a_clock_an_hour_fast_over_midnight_opens_no_other_days_budget(tmp_path: Path) -> None:
    first = AS_OF.replace(hour=23)
    with _spent(tmp_path, first, dagster=False) as drill:
        chats = drill.world.chats
        for number in (4, 5):
            assert drill.scan(first + number * STEP + HOUR, fast=HOUR) is None
        for number in (6, 7):
            assert drill.scan(first + number * STEP) is None
        assert drill.world.chats == chats, "another day's budget was opened"
        drill.assert_nothing_lost("clock +1 h over midnight", f"{drill.scans} scans, 2 fast")


@contextmanager
def _spent(folder: Path, first: datetime, *, dagster: bool = True) -> Iterator[Drill]:
    """A drill after four scans from `first` on, with the day's budget used up."""
    warm = warm_store(folder / "warm", first)
    with open_drill(folder / "home", warm, at=first, dagster=dagster, daily_budget_usd=BUDGET_USD) as drill:
        for number in (1, 2, 3):
            assert drill.scan(first + number * STEP) is None
        assert drill.world.chats >= 1
        assert all("BUDGET" in (row["status_reason"] or "") for row in drill.rows(first + 3 * STEP))
        spent = drill.world.store.rows("SELECT sum(coalesce(cost_usd, reserved_usd)) AS usd FROM llm_calls")
        assert spent[0]["usd"] <= BUDGET_USD
        yield drill


# --- twenty minutes without the exchange -----------------------------------------------------

BODY = {"where": "body"}
COINBASE: dict[str, list[dict[str, Any]]] = {
    "429": [{"kind": "status", "status": 429}],
    "500": [{"kind": "status", "status": 500}],
    "garbage": [{"kind": "malformed_json"}, {"kind": "wrong_schema"}, {"kind": "truncate"}],
    "slow": [{"kind": "slow_drip", "delay_s": 4.0}],
}


@pytest.mark.parametrize("fault", COINBASE)
def test_twenty_minutes_without_coinbase(fault: str, opened: Open) -> None:
    drill = opened(market_timeout_s=1.0 if fault == "slow" else 10.0, dagster=fault == "500")
    server = drill.world.server
    assert drill.scan(AS_OF + STEP) is None
    for number in range(10):
        server.faults.clear()
        kinds = COINBASE[fault]
        server.fault("candles", **kinds[number % len(kinds)])
        told = drill.scan(AS_OF + (2 + number) * STEP)
        assert told and "no symbol could be fetched" in told and "\n" not in told, told
    server.faults.clear()
    assert drill.scan(AS_OF + 12 * STEP) is None
    assert {row["status"] for row in drill.rows(AS_OF + 12 * STEP)} == {"answered"}
    assert drill.scan(AS_OF + 13 * STEP) is None
    for trouble in ("Run failed: scan", "Data is stale: BTC-USD, ETH-USD, SOL-USD", "Scans have stopped"):
        _told_once(drill, trouble)
    drill.assert_nothing_lost(f"Coinbase {fault}", f"{drill.scans} scans, 10 without it")


def _told_once(drill: Drill, trouble: str) -> None:
    """The person was told of it once, and once that it is over."""
    titles = drill.places.titles()
    assert sum(title == trouble for title in titles) == 1, titles
    assert sum(title == f"Recovered: {trouble}" for title in titles) == 1, titles


# --- twenty minutes without the service ------------------------------------------------------

DEEPSEEK: dict[str, list[dict[str, Any]]] = {
    "429": [{"kind": "status", "status": 429}],
    "500": [{"kind": "status", "status": 500}],
    "garbage": [{"kind": "malformed_json", **BODY}, {"kind": "wrong_schema"}, {"kind": "content", "content": "HOLD"}],
    "blank": [{"kind": "blank"}, {"kind": "blank", **BODY}],
    "slow": [{"kind": "blank_lines", "delay_s": 5.0}],
}


@pytest.mark.parametrize("fault", DEEPSEEK)
def test_twenty_minutes_without_deepseek(fault: str, opened: Open) -> None:
    drill = opened(deepseek_deadline_s=2.0 if fault == "slow" else 5.0, dagster=fault == "500")
    server = drill.world.server
    assert drill.scan(AS_OF + STEP) is None
    assert {row["status"] for row in drill.rows(AS_OF + STEP)} == {"answered"}
    asked = []
    for number in range(10):
        server.faults.clear()
        kinds = DEEPSEEK[fault]
        server.fault("chat", **kinds[number % len(kinds)])
        before = drill.world.chats
        assert drill.scan(AS_OF + (2 + number) * STEP) is None  # candles, readings and outcomes go on
        asked.append(drill.world.chats - before)
        for row in drill.rows(AS_OF + (2 + number) * STEP):
            assert row["status"] in ("abstained", "skipped") and row["side"] is None, row
            assert row["status_reason"], row
    assert asked.count(0) >= 6, f"the analyst did not rest: {asked}"
    server.faults.clear()
    well = next(n for n in range(12, 18) if drill.scan(AS_OF + n * STEP) is None and _answers(drill, n))
    assert (well - 11) * STEP <= timedelta(minutes=12), "it rested longer than V7_BREAKER_REST_S"
    assert drill.scan(AS_OF + (well + 1) * STEP) is None
    assert _answers(drill, well + 1)
    told = sum("rests after" in title for title in drill.places.titles())
    assert 1 <= told <= len(DEEPSEEK[fault]), drill.places.titles()  # once a cause
    drill.assert_nothing_lost(f"DeepSeek {fault}", f"{drill.scans} scans, 10 without it, {sum(asked)} requests")


def _answers(drill: Drill, number: int) -> bool:
    return all(row["status"] == "answered" for row in drill.rows(AS_OF + number * STEP))


# --- a store that another process holds ------------------------------------------------------


def test_a_store_held_for_a_minute_is_waited_for_or_told_and_nothing_is_lost(opened: Open) -> None:
    """One to ten: it is held for 6 s and waited for 1 s, where a real scan waits 10 s (V7_STORE_WAIT_S)."""
    drill = opened(store_wait_s=1.0, answerer=buys)
    assert drill.scan(AS_OF + STEP) is None
    with _held(drill, 6.0) as holder:
        number = 2
        while holder.poll() is None:
            told = drill.scan(AS_OF + number * STEP)
            assert told is None or (f"held by process {holder.pid}" in told and "V7_STORE_WAIT_S" in told), told
            number += 1
    refused = len(drill.failed)
    assert refused >= 1, "the store was not held"
    for after in (0, 1):
        assert drill.scan(AS_OF + (number + after) * STEP) is None
    _told_once(drill, "Run failed: scan")
    drill.assert_nothing_lost("store locked, refused", f"{drill.scans} scans, {refused} refused")


def test_a_store_held_for_less_than_a_scan_waits_only_delays_it(opened: Open) -> None:
    drill = opened(store_wait_s=20.0, answerer=buys)
    for number in (1, 2):
        with _held(drill, 2.0):
            assert drill.scan(AS_OF + number * STEP) is None
    assert not any("failed" in title for title in drill.places.titles())
    drill.assert_nothing_lost("store locked, waited for", "2 scans")


_HOLD = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def _held(drill: Drill, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the store for so long."""
    argv = [sys.executable, "-c", _HOLD, str(drill.world.file), str(seconds)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.wait()
