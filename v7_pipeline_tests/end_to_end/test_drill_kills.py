"""Drills of sudden death: run worker, daemon, code server, the whole tree, and the power; after each, nothing is lost.

Candles are compared with the sandbox's own, the ledger with what the sandbox's DeepSeek counted.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import dagster as dg
import pytest
from dagster._daemon.monitoring import run_monitoring

from v7_pipeline.orchestration.launch import prepare_home
from v7_pipeline.orchestration.partitions import AS_OF_TAG
from v7_pipeline.orchestration.schedules import SCHEDULE
from v7_pipeline.sandbox.answers import rules_answer
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.settings import load_settings
from v7_pipeline.store import StoreError, open_store
from v7_pipeline_tests.end_to_end.drill_kills import (
    PROJECT,
    SYMBOLS,
    Tree,
    commit,
    until,
    without_a_loss,
    wrong_candles,
)
from v7_pipeline_tests.end_to_end.drill_kills import wrong_signals as wrong_signals_of
from v7_pipeline_tests.end_to_end.world import Clock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("daemon")]

_log = logging.getLogger(__name__)

SEED = 7
STUCK_S = 300  # no run may be unfinished for longer

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


# --- scans killed at random moments -----------------------------------------------------------

RUN_KILLS = 45
MOST_RUN_KILLS = 70
START = datetime(2026, 11, 18, 23, 30, 5, tzinfo=UTC)  # soon another day
ANSWER_S = dict(zip(SYMBOLS, (0.1, 0.3, 0.7), strict=True))
# Calls that were not settled by the scan that made them, and decisions on answers that an earlier process had paid.
_MET = """
SELECT least((SELECT count(*) FROM llm_calls WHERE status <> 'settled') // 3,
             (SELECT count(*) FROM llm_signals s JOIN llm_calls c USING (call_id)
              WHERE c.run_id <> s.run_id AND c.status = 'settled')) AS n
"""


class World:
    """The sandbox, which outlives every scan: what time it is, and how often its DeepSeek answered each question."""

    def __init__(self) -> None:
        self.clock = Clock(START)
        self.answers: Counter[tuple[str, datetime]] = Counter()
        self.server = SandboxServer(seed=SEED, clock=self.clock, answerer=self._answer)

    def _answer(self, messages: Any) -> dict[str, Any]:
        asked = json.loads(messages[1]["content"])
        # A good part of the kills meets calls under way, some of them beside one that is settled.
        time.sleep(ANSWER_S[asked["symbol"]])
        self.answers[asked["symbol"], datetime.fromisoformat(asked["as_of"])] += 1
        return rules_answer(messages)

    def quiet(self) -> None:
        """Wait until requests of the dead are answered too."""
        before = -1
        while before != (before := self.server.account.completions):
            time.sleep(0.5)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.server:
        yield made


Life = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def helper() -> Iterator[subprocess.Popen[str]]:
    """The process that forks the lives."""
    process = subprocess.Popen(
        [sys.executable, "-m", "v7_pipeline_tests.end_to_end.drill_kills"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
    )  # fmt: skip
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def life(helper: subprocess.Popen[str], world: World, tmp_path: Path) -> Life:
    """Does one work of drill_kills.py at the world's time in a process of its own; what it told, and its exit code."""

    def through(as_of: datetime, **more: Any) -> dict[str, Any]:
        assert helper.stdin is not None and helper.stdout is not None
        work = {
            "kind": "scan", "home": str(tmp_path / "home"), "settings": {"store_wait_s": 30.0}, "kill_after_s": None,
            "server": world.server.url, "as_of": as_of.isoformat(), "now": world.clock.now.isoformat(), "first": False,
            "in_calls": False,
        }  # fmt: skip
        helper.stdin.write(json.dumps(work | more) + "\n")
        helper.stdin.flush()
        while not (line := helper.stdout.readline().strip()):
            assert helper.poll() is None, "the process that forks the lives has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    return through


def test_scans_killed_at_random_moments_lose_nothing(world: World, life: Life, tmp_path: Path) -> None:
    """A whole scan job in a process of its own, killed by SIGKILL, then started again for the same or a later instant.

    Two thirds of the kills are anywhere in the scan, one third within a second of its first call.

    The runs that stay behind are ended by Dagster's run monitoring, which here looks five minutes after the last kill.
    """
    began = time.monotonic()
    chance = random.Random(47)
    as_of = START.replace(second=0)
    window = life(as_of, first=True)["told"]
    store = open_store(f"duckdb:{tmp_path / 'home' / 'demo' / 'v7.duckdb'}", wait_s=30.0)
    kills = finished = same = met = 0
    instants = {as_of}
    while kills < RUN_KILLS or (not met and kills < MOST_RUN_KILLS):
        if same < 3 and kills and chance.random() < 0.6:
            same, world.clock.now = same + 1, world.clock.now + timedelta(minutes=1)
        else:
            same, as_of = 0, as_of + timedelta(minutes=2 * chance.randint(1, 3))
            world.clock.now = as_of + timedelta(seconds=5)
            instants.add(as_of)
        in_calls = kills % 3 == 2  # most of a scan's time is not the calls'
        done = life(as_of, kill_after_s=chance.uniform(0.0, 1.0 if in_calls else window), in_calls=in_calls)
        assert done["exit"] in (0, -9), done
        kills, finished = kills + (done["exit"] == -9), finished + (done["exit"] == 0)
        if not in_calls:  # on a machine whose speed changes, the kills follow the scan's end
            window *= 0.85 if done["exit"] == 0 else 1.03
        if kills >= RUN_KILLS or kills % 10 == 0:
            met = int(store.query(_MET)["n"].iloc[0])
    world.quiet()

    # Somebody starts it once more, and again two hours later, when what was never settled is closed.
    for later in (timedelta(minutes=2), timedelta(hours=2)):
        as_of += later
        world.clock.now = as_of + timedelta(seconds=5)
        instants.add(as_of)
        assert life(as_of)["exit"] == 0
    world.quiet()

    candles, wrong = wrong_candles(store, SEED, until=as_of)
    calls = store.query("SELECT * FROM llm_calls ORDER BY call_id, attempt")
    twice, ledger = wrong_signals_of(store), without_a_loss(calls) + unpaid(world, calls)
    orphans, stuck = stuck_runs(tmp_path / "home")
    scans = Counter(store.query("SELECT status FROM scans")["status"])
    states = Counter(calls["status"])
    print(
        f"\nDRILL scan killed: n={kills} ({finished} scans ended before it), lost: candles {len(wrong)} of {candles}, "
        f"charges {len(ledger)} of {len(calls)}, signals {len(twice)}, stuck runs {stuck} of {orphans}; "
        f"{scans['finished']} scans finished, {scans['started']} not; {dict(states)}; "
        f"sandbox {world.server.account.completions} answers; {time.monotonic() - began:.0f} s"
    )
    assert wrong == {} and twice == [] and ledger == [] and stuck == 0
    assert scans.total() <= len(instants) and scans["started"] >= 3, (
        "no kill met a scan between its first and last step"
    )
    assert met, "no kill met a call under way, or none came between an answer and the decision on it"
    assert orphans >= 10


def unpaid(world: World, calls: Any) -> list[str]:
    """Sentences about what the sandbox's DeepSeek answered and the ledger does not hold, or holds for less."""
    account, told = world.server.account, []
    if account.charged_usd > calls["cost_usd"].sum() + 1e-9:
        told.append(f"billed {account.charged_usd:.6f}, booked {calls['cost_usd'].sum():.6f}")
    settled = Counter(calls.loc[calls["status"] == "settled"].groupby(["symbol", "as_of"]).size().to_dict())
    booked = calls.groupby(["symbol", "as_of"]).size().to_dict()
    for question, times in world.answers.items():
        # What was answered is settled, once; or its scan died, and then its attempt is booked at its worst case.
        if not settled[question] <= times <= booked.get(question, 0):
            told.append(f"{question}: answered {times} times, {booked.get(question, 0)} attempts booked")
    if sum(settled.values()) > account.completions:
        told.append(f"{sum(settled.values())} settled, {account.completions} answered")
    return told


def stuck_runs(home: Path) -> tuple[int, int]:
    """(runs that nobody works on, those of them that are still unfinished when monitored after STUCK_S)."""
    settings = load_settings(home=home, mode="demo", _env_file=None)
    with dg.DagsterInstance.from_config(str(prepare_home(settings))) as instance:
        orphans = len(instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED)))
        context: Any = SimpleNamespace(instance=instance, create_request_context=lambda: None)
        with mock.patch.object(run_monitoring, "get_current_timestamp", lambda: time.time() + STUCK_S):
            errors = [e for e in run_monitoring.execute_run_monitoring_iteration(context, _log) if e is not None]
        assert errors == []
        return orphans, len(instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED)))


# --- the power goes ---------------------------------------------------------------------------

CUTS = 60  # besides those around every commit
COMMITS = 8


def test_a_log_cut_at_any_byte_holds_a_prefix_of_the_committed_transactions(life: Life, tmp_path: Path) -> None:
    """The log of a killed writer, cut short or ending in zeros, as after a power cut; each cut is opened and gone on.

    Every transaction replaces a day of candles and adds alerts, so that half of one would be seen.
    """
    began, chance = time.monotonic(), random.Random(11)
    file = tmp_path / "v7.duckdb"
    done = life(START, kind="commits", file=str(file), commits=COMMITS)
    ends = done["told"]
    assert done["exit"] == -signal.SIGKILL
    log = file.with_name(f"{file.name}.wal").read_bytes()
    assert len(log) == ends[-1]
    near = {end + step for end in (0, *ends) for step in (-1, 0, 1, 9)}
    cuts = sorted({cut for cut in near if 0 <= cut <= len(log)} | {chance.randrange(len(log)) for _ in range(CUTS)})
    lost, zeros = [], 0
    for cut in cuts:
        committed = sum(end <= cut for end in ends)
        with_zeros = chance.random() < 0.3
        zeros += with_zeros
        tail = bytes(chance.choice((1, 511, 4096, len(log)))) if with_zeros else b""
        seen = reopened(file, log[:cut] + tail, tmp_path / "cut")
        if seen != (committed, committed, COMMITS):
            lost.append((cut, len(tail), committed, seen))
    print(
        f"\nDRILL log cut: n={len(cuts)} ({zeros} with zeros behind the cut), lost: {len(lost)} committed or halved "
        f"transactions; {time.monotonic() - began:.0f} s"
    )
    assert lost == []


def reopened(file: Path, log: bytes, folder: Path) -> tuple[int | str, int | str, int | str]:
    """Versions that candles and alerts are of when `file` is opened with `log`, and once the last is written again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(file, folder / file.name)
    for mark in file.parent.glob(f"{file.name}.writing-*"):
        shutil.copyfile(mark, folder / mark.name)
    (folder / f"{file.name}.wal").write_bytes(log)
    store = open_store(f"duckdb:{folder / file.name}")
    try:
        rows, alerts = store.read("candles"), len(store.read("alerts"))
        commit(store, COMMITS)
        again = store.read("candles")
    except StoreError as error:
        return str(error), "", ""
    whole = set(rows["close"]) <= {len(rows) / 10}
    whole_again = set(again["close"]) == {len(again) / 10} and len(store.read("alerts")) == len(again) // 10
    return len(rows) // 10 if whole else "half", alerts, len(again) // 10 if whole_again else "half"


SCAN_CUTS = 8
_UNREAD = """
SELECT count(*) AS n FROM candles c ANTI JOIN theory_features f
ON f.symbol = c.symbol AND f.as_of = c.open_time + INTERVAL 1 MINUTE WHERE c.open_time >= ?
"""


def test_a_scan_whose_log_was_cut_is_completed_by_the_next(world: World, life: Life, tmp_path: Path) -> None:
    """A scan's own log, its process killed with the file open, cut at random bytes; then the next scan, on each cut.

    It must fetch and read what the cut took, decide its own instant with one call a product, and keep the first scan's.
    """
    began, chance = time.monotonic(), random.Random(13)
    first = START.replace(second=0)
    second, third = first + timedelta(minutes=2), first + timedelta(minutes=4)
    home, settings = tmp_path / "home", {"store_linger_s": 5.0}
    assert life(first, kind="steps", settings=settings)["exit"] == 0
    world.clock.now = second + timedelta(seconds=5)
    assert life(second, kind="steps", settings=settings, die=True)["exit"] == -signal.SIGKILL
    world.clock.now = third + timedelta(seconds=5)
    file = home / "demo" / "v7.duckdb"
    log = file.with_name(f"{file.name}.wal").read_bytes()
    cuts = sorted({0, len(log), *(chance.randrange(len(log)) for _ in range(SCAN_CUTS))})
    told = []
    for cut in cuts:
        copy = tmp_path / f"cut-{cut}"
        shutil.copytree(home, copy)
        (copy / "demo" / f"{file.name}.wal").write_bytes(log[:cut])
        before = world.server.account.completions
        assert life(third, kind="steps", settings=settings, home=str(copy))["exit"] == 0
        asked = world.server.account.completions - before
        store = open_store(f"duckdb:{copy / 'demo' / file.name}", wait_s=10.0)
        faults = [*wrong_candles(store, SEED, until=third)[1].values(), *wrong_signals_of(store)]
        if unread := int(store.query(_UNREAD, (first,))["n"].iloc[0]):
            faults.append(f"{unread} candles without a reading")
        if asked != len(SYMBOLS):
            faults.append(f"{asked} calls of the next scan")
        settled = store.query("SELECT count(*) AS n FROM llm_calls WHERE status = 'settled'")["n"].iloc[0]
        if settled < 2 * len(SYMBOLS):
            faults.append(f"{settled} settled calls")
        told += [f"cut at {cut}: {fault}" for fault in faults]
    print(
        f"\nDRILL scan's log cut: n={len(cuts)} (of {len(log)} bytes), lost: {len(told)}; "
        f"{time.monotonic() - began:.0f} s"
    )
    assert told == []


# --- the tree ---------------------------------------------------------------------------------

TREE_KILLS = 5
MAX_RUN_S = 40  # 240 s as delivered: what run monitoring ends a run after, looking every 20 s
MONITOR_S = 20
RESTART_S = 60  # for a child that the supervisor starts again, on a busy machine
TREE = {
    "V7_SCAN_CRON": "* * * * *",
    "V7_IN_FLIGHT_BOUND_S": "60",
    "V7_MAX_RUN_S": str(MAX_RUN_S),
    "V7_STORE_WAIT_S": "30",
}


@dataclass
class Seen:
    """What was seen in the lives of one home."""

    tree: Tree
    instance: dg.DagsterInstance
    killed: list[int] = field(default_factory=list)
    chats: int = 0
    began: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)
    status: dict[str, dg.DagsterRunStatus] = field(default_factory=dict)
    unfinished: int = 0
    settled_s: float = 0.0
    tick: dg.DagsterRun | None = None
    exit: int | None = None

    def run(self, run_id: str) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Five lives of `v7 up --demo` that end with the whole tree killed, and one in which single processes are."""
    tree = Tree(tmp_path_factory.mktemp("kills") / "home", TREE)
    settings = load_settings(home=tree.home, mode="demo", _env_file=None)
    with dg.DagsterInstance.from_config(str(prepare_home(settings))) as instance:
        seen = Seen(tree, instance)
        try:
            kill_whole(seen)
            seen.took["tree"] = time.monotonic() - seen.began
            kill_parts(seen)
            seen.took["parts"] = time.monotonic() - seen.began - seen.took["tree"]
            yield seen
        finally:
            tree.clear()


def kill_whole(seen: Seen) -> None:
    """Kill the whole tree at random moments after its first scan, or what it fills before it, has begun to ask."""
    chance, tree = random.Random(5), seen.tree
    for _ in range(TREE_KILLS):
        tree.start()
        until(lambda: tree.requests("candles") or not tree.is_alive(), 180, f"the first request; {tree.said()}")
        assert tree.is_alive(), tree.said()
        time.sleep(chance.uniform(0.0, 5.0))
        killed, chats = tree.kill()
        seen.killed.append(killed)
        seen.chats += chats
    seen.unfinished = len(seen.instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED)))
    tree.start()
    until(tree.is_ready, 240, f"v7 up to be ready; {tree.said()}")
    ready = time.monotonic()
    until(lambda: not orphans_of(seen), MAX_RUN_S + MONITOR_S + RESTART_S, "the runs of the killed trees to be ended")
    seen.settled_s = time.monotonic() - ready


def orphans_of(seen: Seen) -> list[str]:
    """Unfinished runs that are older than a run may be."""
    records = seen.instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED))
    age = timedelta(seconds=MAX_RUN_S)
    return [r.dagster_run.run_id for r in records if datetime.now(UTC) - r.create_timestamp.astimezone(UTC) > age]


PARTS = {
    "run worker": ("multiprocessing.spawn",),
    "daemon": ("dagster._daemon",),
    "code server": ("dagster api grpc",),
}


def kill_parts(seen: Seen) -> None:
    """Kill the run worker, the daemon, the code server, each in the middle of a scan; then wait for a tick's scan."""
    tree = seen.tree
    for part in PARTS:
        kill_part(seen, part)
    last = datetime.now(UTC)
    seen.tick = until(lambda: tick_after(seen, last), 180, "a tick's scan to succeed")
    seen.chats += tree.quiet()
    assert tree.process is not None
    tree.process.send_signal(signal.SIGTERM)
    seen.exit = tree.process.wait(30)


def kill_part(seen: Seen, part: str) -> None:
    """Kill one process of the tree while its scan waits for an answer; the scan ends, and another one succeeds."""
    tree, words = seen.tree, PARTS[part]
    run_id = in_the_middle(seen)
    victims = tree.matching(*words)
    assert victims, f"no {part}"
    for process in victims:
        process.kill()
    killed = time.monotonic()
    seen.took[part] = ended(seen, run_id, f"a run without its {part}") - killed
    seen.status[part] = seen.run(run_id).status
    if part != "run worker":
        until(lambda: tree.matching(*words), RESTART_S, f"another {part}")
    again = tree.launch(fresh_instant(seen))
    ended(seen, again, f"a scan after the {part}'s end")
    assert seen.run(again).status is dg.DagsterRunStatus.SUCCESS, part


def ended(seen: Seen, run_id: str, meaning: str) -> float:
    """Wait for the run's end, no longer than a run may be stuck; when that was."""
    until(lambda: seen.run(run_id).is_finished, MAX_RUN_S + MONITOR_S + RESTART_S, f"{meaning}; {seen.tree.said()}")
    return time.monotonic()


def in_the_middle(seen: Seen) -> str:
    """A run that has asked the analyst, whose answers take a while; its id."""
    tree = seen.tree
    until(
        lambda: not seen.instance.get_run_records(dg.RunsFilter(job_name="scan", statuses=UNFINISHED)), 120, "a pause"
    )
    tree.fault(path="chat", kind="delay", delay_s=4.0, count=len(SYMBOLS))
    before = tree.requests("chat")
    run_id = tree.launch(fresh_instant(seen))
    until(lambda: tree.requests("chat") > before, 120, "the scan to ask")
    return run_id


def fresh_instant(seen: Seen) -> datetime:
    """The newest minute that no scan has begun."""
    store = open_store(f"duckdb:{seen.tree.home / 'demo' / 'v7.duckdb'}", wait_s=30.0)
    begun = {at.to_pydatetime() for at in store.query("SELECT as_of FROM scans")["as_of"]}
    at = datetime.now(UTC).replace(second=0, microsecond=0)
    while at in begun:
        at -= timedelta(minutes=1)
    return at


def tick_after(seen: Seen, instant: datetime) -> dg.DagsterRun | None:
    """A successful scan of a tick of the schedule after `instant`."""
    filters = dg.RunsFilter(tags={"dagster/schedule_name": SCHEDULE}, statuses=[dg.DagsterRunStatus.SUCCESS])
    runs = (record.dagster_run for record in seen.instance.get_run_records(filters, limit=3))
    return next((run for run in runs if datetime.fromisoformat(run.tags[AS_OF_TAG]) > instant), None)


def test_a_run_worker_a_daemon_and_a_code_server_that_are_killed_are_replaced(seen: Seen) -> None:
    """Each is killed while its scan waits for the analyst. Whoever restarts it is the supervisor of `v7 up`.

    The five minutes within which no run may be stuck are V7_MAX_RUN_S and one look of run monitoring: 240 + 20 s as
    delivered, 40 + 20 s here. The schedule's own bound, V7_IN_FLIGHT_BOUND_S, is 420 s as delivered, 60 s here.
    """
    told = ", ".join(f"{part} {seen.status[part].value} after {seen.took[part]:.0f} s" for part in PARTS)
    seconds = seen.took["parts"]
    print(
        f"\nDRILL one process killed: n={len(PARTS)}, lost: no scan after it ({told}), the tick's next one succeeded; "
        f"{seconds:.0f} s"
    )
    assert max(seen.took[part] for part in PARTS) < MAX_RUN_S + MONITOR_S + RESTART_S
    assert seen.tick is not None
    assert seen.exit == 0


def test_a_tree_killed_at_random_moments_loses_nothing(seen: Seen) -> None:
    """`v7 up --demo` with all its processes killed at once, five times; the sixth start finds everything."""
    store = open_store(f"duckdb:{seen.tree.home / 'demo' / 'v7.duckdb'}", wait_s=30.0)
    finished = store.query("SELECT max(as_of) AS at FROM scans WHERE status = 'finished'")["at"].iloc[0].to_pydatetime()
    candles, wrong = wrong_candles(store, SEED, until=finished)
    calls = store.query("SELECT * FROM llm_calls ORDER BY call_id, attempt")
    states = Counter(calls["status"])
    ledger = without_a_loss(calls, closed=False)  # who asks nothing for an hour closes what the dead left open
    if not states["settled"] <= seen.chats <= len(calls):
        ledger.append(f"{states['settled']} settled, {seen.chats} asked, {len(calls)} attempts booked")
    twice = wrong_signals_of(store)
    stuck = orphans_of(seen)
    print(
        f"\nDRILL tree killed: n={TREE_KILLS} ({sum(seen.killed)} processes), lost: candles {len(wrong)} of {candles}, "
        f"charges {len(ledger)} of {len(calls)}, signals {len(twice)}, stuck runs {len(stuck)} of {seen.unfinished} "
        f"({seen.settled_s:.0f} s after the start); {dict(states)}, sandbox {seen.chats} chats; "
        f"{seen.took['tree']:.0f} s"
    )
    assert wrong == {} and ledger == [] and twice == [] and stuck == []
    assert min(seen.killed) >= 3
