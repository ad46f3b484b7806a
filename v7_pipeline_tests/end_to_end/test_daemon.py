"""`v7 up --demo` as a real process tree: the daemon's ticks, its skips, an orphaned run, and every way of ending it.

One long life of the tree is recorded by a fixture, then three short ones; the tests look at what was seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import requests
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.scheduler.instigation import InstigatorType, TickStatus

from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.jobs import SCAN_JOB
from v7_pipeline.orchestration.launch import prepare_home
from v7_pipeline.orchestration.partitions import AS_OF_TAG
from v7_pipeline.orchestration.schedules import SCHEDULE
from v7_pipeline.settings import load_settings
from v7_pipeline.store import open_store
from v7_pipeline_tests.end_to_end.processes import kill_all, members_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("daemon")]

PROJECT = Path(__file__).resolve().parents[2]
READY = "Ctrl-C stops everything"
READY_WITHIN_S = 15.0
BOUND_S = 60  # the least that the setting allows
ORPHANS_LIMIT_S = 60
SLOW_S = 45
EARLY, LATE = 25, 45  # seconds of the minute between which something is started that the next tick must meet
SECRET = "sk-marker-never-to-be-written-0123456789"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(what: Callable[[], Any], seconds: float, meaning: str, every: float = 0.25) -> Any:
    """What `what` answers once it is true; a failure that says what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        seen = what()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {meaning}"
        time.sleep(every)


@dataclass
class Tree:
    """A home with ports of its own, and the `v7 up` that runs on it."""

    home: Path
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    output: Path = Path()
    starts: int = 0

    @property
    def environment(self) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith("V7_") and n != "DAGSTER_HOME"}
        return kept | {
            "V7_HOME": str(self.home),
            "V7_SCAN_CRON": "* * * * *",
            "V7_IN_FLIGHT_BOUND_S": str(BOUND_S),
            "V7_MARKET_TIMEOUT_S": "100",
            "DEEPSEEK_API_KEY": SECRET,
            **{name: str(port) for name, port in self.ports.items()},
        }

    @property
    def sandbox(self) -> str:
        return f"http://127.0.0.1:{self.ports['V7_SANDBOX_PORT']}"

    @property
    def dagster(self) -> str:
        return f"http://127.0.0.1:{self.ports['V7_UI_PORT']}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "v7_pipeline.cli", "up", "--demo", "--no-history"]

    def start(self) -> None:
        self.starts += 1
        self.output = self.home.parent / f"output-{self.starts}.txt"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                self.command(), cwd=PROJECT, env=self.environment, stdout=out, stderr=subprocess.STDOUT
            )

    def ready(self, within_s: float) -> float:
        """Seconds from now until the tree says that it is ready."""
        began = time.monotonic()
        assert self.process is not None

        def said() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output.read_text()
            return READY in self.output.read_text(errors="replace")

        _until(said, within_s, f"v7 up to be ready; it said:\n{self.output.read_text()}", every=0.1)
        return time.monotonic() - began

    def end(self, number: signal.Signals) -> int:
        """Send `number` and wait for the end; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def members(self) -> list[psutil.Process]:
        """Every living process that was started for this home, wherever it hangs now."""
        return members_of(self.home)


def _ticks(instance: DagsterInstance) -> list[Any]:
    """The schedule's ticks, oldest first."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.instigator_name == SCHEDULE:
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
            return sorted(ticks, key=lambda tick: tick.timestamp)
    return []


def _watching(instance: DagsterInstance) -> dict[str, list[Any]]:
    """The ticks of the sensors that watch, by name."""
    return {
        state.instigator_name: list(instance.get_ticks(state.instigator_origin_id, state.selector_id))
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.instigator_name in ("budget_sensor", "ftmo_sensor")
    }


def _scans(instance: DagsterInstance, *statuses: dg.DagsterRunStatus) -> list[Any]:
    """Records of the scheduled scans, oldest first."""
    filters = dg.RunsFilter(job_name=SCAN_JOB, tags={"dagster/schedule_name": SCHEDULE}, statuses=statuses or None)
    return sorted(instance.get_run_records(filters), key=lambda record: record.create_timestamp)


def _orphan(instance: DagsterInstance, defs: dg.Definitions) -> str:
    """A run as a host's crash leaves it: started, and nobody works on it."""
    run = instance.create_run_for_job(
        defs.resolve_job_def(SCAN_JOB),
        status=dg.DagsterRunStatus.STARTING,
        tags={"v7/scan": "1", "dagster/max_runtime": str(ORPHANS_LIMIT_S)},
    )
    event = DagsterEvent(DagsterEventType.PIPELINE_START.value, job_name=SCAN_JOB, message="fabricated")
    instance.report_dagster_event(event, run.run_id)
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    assert record.dagster_run.status is dg.DagsterRunStatus.STARTED
    assert record.start_time is not None
    return run.run_id


@dataclass
class Seen:
    """What was seen in the tree's lives."""

    tree: Tree
    instance: DagsterInstance
    orphan: str = ""
    three: list[Any] = field(default_factory=list)
    second_copy: tuple[int, str] = (0, "")
    re_execution: dict[str, Any] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    second_start_s: float = 0.0
    load: float = 0.0
    killed_members: int = 0


def _names(processes: Sequence[psutil.Process]) -> list[str]:
    told = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            told.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
    return told


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    home = tmp_path_factory.mktemp("daemon") / "home"
    tree = Tree(home, {name: _free_port() for name in ("V7_UI_PORT", "V7_DASHBOARD_PORT", "V7_SANDBOX_PORT")})
    settings = load_settings(home=home, mode="demo", _env_file=None)
    instance = DagsterInstance.from_config(str(prepare_home(settings)))
    result = Seen(tree, instance)
    try:
        _first_life(result, build_definitions(settings))
        _second_life(result)
        _third_life(result)
        yield result
    finally:
        kill_all(tree.home)
        if tree.process is not None:
            tree.process.wait()
        instance.dispose()


def _first_life(seen: Seen, defs: dg.Definitions) -> None:
    """Ticks behind an orphan, three scans in a row, a slow re-execution and the tick it keeps out; SIGTERM in a run."""
    tree, instance = seen.tree, seen.instance
    tree.start()
    print(f"\nfirst start: ready after {tree.ready(180):.1f} s")
    copy = subprocess.run(
        tree.command(), cwd=PROJECT, env=tree.environment, capture_output=True, text=True, timeout=60, check=False
    )
    seen.second_copy = (copy.returncode, copy.stderr)

    _within_the_minute()
    seen.orphan = _orphan(instance, defs)
    seen.three = _until(lambda: _three_in_a_row(instance), 480, "three scans in a row, one a minute")

    parent = seen.three[0].dagster_run
    before = _rows_of(tree, parent.tags[AS_OF_TAG])
    _slow_candles(tree)
    _within_the_minute()
    run_id = _re_execute(tree, parent)
    run = _until(lambda: _finished(instance, run_id), 200, "the re-execution to end")
    after = _rows_of(tree, parent.tags[AS_OF_TAG])
    seen.re_execution = {"run": run, "parent": parent, "before": before, "after": after}

    _slow_candles(tree)
    _re_execute(tree, parent)
    # That one, or a tick's that came before it and had the slow answers: whichever is in flight will do.
    _until(lambda: _in_flight(instance), 200, "a run to be in flight")
    seen.exits["SIGTERM"] = tree.end(signal.SIGTERM)
    seen.left["SIGTERM"] = _names(tree.members())


def _in_flight(instance: DagsterInstance) -> int:
    """How many scans are being worked on."""
    return instance.get_runs_count(dg.RunsFilter(job_name=SCAN_JOB, statuses=[dg.DagsterRunStatus.STARTED]))


def _within_the_minute() -> None:
    """Wait until the next tick is near enough to be met, and far enough to be prepared for."""
    _until(lambda: EARLY <= datetime.now(UTC).second <= LATE, 70, "the right part of a minute")


def _three_in_a_row(instance: DagsterInstance) -> list[Any]:
    """The first three successful scheduled scans of three minutes that follow each other."""
    scans = _scans(instance, dg.DagsterRunStatus.SUCCESS)
    instants = [datetime.fromisoformat(record.dagster_run.tags[AS_OF_TAG]) for record in scans]
    for place in range(len(scans) - 2):
        if instants[place + 2] - instants[place] == timedelta(minutes=2):
            return scans[place : place + 3]
    return []


def _slow_candles(tree: Tree) -> None:
    fault = {"path": "candles", "kind": "delay", "delay_s": SLOW_S, "count": 3}
    assert requests.post(f"{tree.sandbox}/_faults", json=fault, timeout=5).status_code == 201


def _finished(instance: DagsterInstance, run_id: str) -> dg.DagsterRun | None:
    run = instance.get_run_by_id(run_id)
    return run if run is not None and run.is_finished else None


def _second_life(seen: Seen) -> None:
    seen.load = os.getloadavg()[0]
    seen.tree.start()
    seen.second_start_s = seen.tree.ready(120)
    print(f"second start: ready after {seen.second_start_s:.1f} s (load average before it: {seen.load:.1f})")
    seen.exits["SIGINT"] = seen.tree.end(signal.SIGINT)
    seen.left["SIGINT"] = _names(seen.tree.members())


def _third_life(seen: Seen) -> None:
    seen.tree.start()
    seen.tree.ready(120)
    seen.killed_members = len(seen.tree.members())
    seen.exits["SIGKILL"] = seen.tree.end(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while seen.tree.members() and time.monotonic() < deadline:
        time.sleep(0.25)
    seen.left["SIGKILL"] = _names(seen.tree.members())


_RE_EXECUTE = """
mutation ($parent: String!) {
  launchRunReexecution(reexecutionParams: {parentRunId: $parent, strategy: ALL_STEPS}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


def _re_execute(tree: Tree, parent: dg.DagsterRun) -> str:
    """Press the pages' «Re-execute all» for `parent`; the new run's id."""
    document = {"query": _RE_EXECUTE, "variables": {"parent": parent.run_id}}
    answer = requests.post(f"{tree.dagster}/graphql", json=document, timeout=60).json()
    launched = answer["data"]["launchRunReexecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def _rows_of(tree: Tree, as_of: str) -> dict[str, list[tuple[Any, ...]]]:
    store = open_store(f"duckdb:{tree.home / 'demo' / 'v7.duckdb'}", wait_s=30)
    at = datetime.fromisoformat(as_of)
    with store.reading() as reader:
        return {
            table: [
                tuple(map(str, row))
                for row in reader.query(f"SELECT * FROM {table} WHERE as_of = ? ORDER BY ALL", (at,)).itertuples(
                    index=False
                )
            ]
            for table in ("scans", "theory_features", "llm_calls", "llm_signals", "gated_signals")
        }


# --- what must have been seen ---------------------------------------------------------------


def test_an_orphaned_run_does_not_block_for_ever(seen: Seen) -> None:
    orphan = seen.instance.get_run_record_by_id(seen.orphan)
    assert orphan is not None
    assert orphan.dagster_run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    born = orphan.create_timestamp.timestamp()
    after = [tick for tick in _ticks(seen.instance) if tick.timestamp > born]
    assert after[0].status is TickStatus.SKIPPED, "the schedule did not notice the orphan"
    assert seen.orphan in after[0].skip_reason
    print(f"the orphan kept out one tick; {after[1].timestamp - born:.0f} s after it the next one asked for a scan")
    assert after[1].status is TickStatus.SUCCESS, "the orphan blocks beyond the bound"
    assert after[1].timestamp - born < BOUND_S + 65
    (run_id,) = after[1].run_ids
    run = seen.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.SUCCESS


def test_three_ticks_in_a_row_succeed(seen: Seen) -> None:
    assert [r.dagster_run.status for r in seen.three] == [dg.DagsterRunStatus.SUCCESS] * 3
    instants = [datetime.fromisoformat(r.dagster_run.tags[AS_OF_TAG]) for r in seen.three]
    ticks = {t.timestamp: t for t in _ticks(seen.instance)}
    between = [t for at, t in ticks.items() if instants[0].timestamp() <= at <= instants[-1].timestamp()]
    assert [t.status for t in between] == [TickStatus.SUCCESS] * 3
    assert [datetime.fromtimestamp(t.timestamp, UTC) for t in between] == instants
    assert [run_id for t in between for run_id in t.run_ids] == [r.dagster_run.run_id for r in seen.three]


def test_the_scheduled_scans_are_in_the_store(seen: Seen) -> None:
    for record in seen.three:
        rows = _rows_of(seen.tree, record.dagster_run.tags[AS_OF_TAG])
        assert len(rows["scans"]) == 1
        assert len(rows["llm_signals"]) == len(rows["gated_signals"]) == 3
        assert any(record.dagster_run.run_id in row for row in rows["scans"])


def test_the_watching_sensors_tick_and_tell_their_figures(seen: Seen) -> None:
    watching = _watching(seen.instance)
    assert set(watching) == {"budget_sensor", "ftmo_sensor"}
    for name, told in (("budget_sensor", "of $3.00"), ("ftmo_sensor", "of $5,000.00 used")):
        ticks = watching[name]
        failed = [tick.error for tick in ticks if tick.status is TickStatus.FAILURE]
        assert not failed, failed[0].to_string()
        assert any(told in (tick.skip_reason or "") for tick in ticks)


def test_lesson_32_a_tick_is_skipped_while_a_scan_is_in_flight(seen: Seen) -> None:
    record = seen.instance.get_run_record_by_id(seen.re_execution["run"].run_id)
    assert record is not None
    assert record.end_time is not None
    asked = record.create_timestamp.timestamp()
    met = [tick for tick in _ticks(seen.instance) if asked < tick.timestamp < record.end_time]
    assert met, "the slow scan ended before a tick came"
    assert met[0].status is TickStatus.SKIPPED
    assert not met[0].run_ids
    assert record.dagster_run.run_id in met[0].skip_reason


def test_lesson_32_a_re_execution_from_the_pages_uses_the_same_instant_and_changes_no_row(seen: Seen) -> None:
    again = seen.re_execution
    assert again["run"].status is dg.DagsterRunStatus.SUCCESS
    assert again["run"].parent_run_id == again["parent"].run_id
    assert again["run"].tags[AS_OF_TAG] == again["parent"].tags[AS_OF_TAG]
    assert again["before"]["llm_signals"]
    assert again["before"] == again["after"]


def test_lesson_32_a_second_copy_on_the_same_data_is_refused_in_one_sentence(seen: Seen) -> None:
    code, said = seen.second_copy
    assert code == 1
    assert said.count("\n") == 1
    assert "already running" in said
    assert str(seen.tree.home) in said
    assert "V7_HOME" in said


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_tree_in_order_and_leaves_no_process(seen: Seen, number: str) -> None:
    assert seen.exits[number] == 0
    assert seen.left[number] == []


def test_a_killed_supervisor_leaves_nothing_behind_after_ten_seconds(seen: Seen) -> None:
    assert seen.killed_members >= 5, "the tree was not there to be killed"
    assert seen.exits["SIGKILL"] == -signal.SIGKILL
    assert seen.left["SIGKILL"] == []


def test_the_second_start_fills_nothing_again(seen: Seen) -> None:
    # A wall clock in a test cannot hold the figure itself (benchmarks/start.py measures it);
    # twice the bound, stretched by others at work, is what a start that fills its history again would still miss.
    cores = os.cpu_count() or 1
    allowed = 2 * READY_WITHIN_S * max(1.0, seen.load / cores)
    print(f"second start: {seen.second_start_s:.1f} s, allowed {allowed:.1f} s (load {seen.load:.1f} on {cores} cores)")
    assert seen.second_start_s < allowed


def test_lesson_30_no_log_and_no_record_of_the_tree_holds_the_key(seen: Seen) -> None:
    files = [path for path in seen.tree.home.parent.rglob("*") if path.is_file()]
    assert any(path.name == "daemon.log" for path in files)
    holding = [str(path) for path in files if SECRET.encode() in path.read_bytes()]
    assert holding == []
