"""What the kill drills share: scans in processes that are killed, `v7 up` as a tree to be killed, and what was kept.

Run as `python -m v7_pipeline_tests.end_to_end.drill_kills` it forks scans from a process that has imported everything;
reads one JSON request a line, answers one a line. The first is done twice and killed never.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import requests

from v7_pipeline.sandbox.simulator import simulate
from v7_pipeline.store import Store, open_store
from v7_pipeline_tests.end_to_end.processes import members_of

if TYPE_CHECKING:
    from v7_pipeline.store.duckdb_store import Reader

__all__ = [
    "PROJECT", "SYMBOLS", "Tree", "commit", "until", "without_a_loss", "wrong_candles", "wrong_signals",
]  # fmt: skip

PROJECT = Path(__file__).resolve().parents[2]
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
COLUMNS = ["open_time", "open", "high", "low", "close", "volume"]
READY = "Ctrl-C stops everything"


# --- what was kept ----------------------------------------------------------------------------


def wrong_candles(store: Store, seed: int, *, until: datetime) -> tuple[int, dict[str, str]]:
    """How many candles are stored, and by symbol where they differ from the sandbox's own up to `until`."""
    stored, wrong = 0, {}
    candles = store.read("candles", end=until)
    for symbol in SYMBOLS:
        mine = candles.loc[candles["symbol"] == symbol, COLUMNS].reset_index(drop=True)
        stored += len(mine)
        truth = simulate(seed, symbol, mine["open_time"].min().to_pydatetime(), until)
        missing = set(truth["open_time"]) - set(mine["open_time"])
        extra = set(mine["open_time"]) - set(truth["open_time"])
        if missing or extra:
            wrong[symbol] = f"missing {sorted(missing)[:5]} ({len(missing)}), extra {sorted(extra)[:5]} ({len(extra)})"
        elif not (mine.to_numpy() == truth[COLUMNS].to_numpy()).all():
            wrong[symbol] = "other prices"
    return stored, wrong


def wrong_signals(store: Store) -> list[str]:
    """Sentences about decisions that are there twice, or not at all although their scan has finished."""
    with store.reading() as reader:
        return [
            f"{meaning}: {rows}"
            for meaning, sql in {
                "decided twice": "SELECT as_of, symbol, count(*) AS n FROM llm_signals GROUP BY ALL HAVING n > 1",
                "gated twice": "SELECT as_of, symbol, count(*) AS n FROM gated_signals GROUP BY ALL HAVING n > 1",
                "never decided": "SELECT signal_id FROM gated_signals ANTI JOIN llm_signals USING (signal_id)",
                "alerted twice": "SELECT kind, title, count(*) AS n FROM alerts WHERE kind = 'signal' "
                "GROUP BY ALL HAVING n > 1",
                "a finished scan without its decisions": "SELECT s.as_of, count(g.signal_id) AS n FROM scans s "
                "LEFT JOIN llm_signals l ON l.as_of = s.as_of LEFT JOIN gated_signals g USING (signal_id) "
                f"WHERE s.status = 'finished' GROUP BY ALL HAVING n <> {len(SYMBOLS)}",
            }.items()
            if (rows := _rows(reader, sql))
        ]


def without_a_loss(calls: pd.DataFrame, *, closed: bool = True) -> list[str]:
    """Sentences about rows of the ledger (llm_calls) that pay twice, pay nothing, or (`closed`) have no end."""
    told = []
    open_rows = calls[calls["status"] == "reserved"]
    if closed and len(open_rows):
        told.append(f"never closed: {open_rows[['call_id', 'attempt', 'run_id']].to_dict('records')}")
    answered = calls[(calls["status"] == "settled") & calls["error"].isna()]
    if answered["call_id"].duplicated().any():
        told.append(f"paid twice: {answered.loc[answered['call_id'].duplicated(), 'call_id'].tolist()}")
    attempts = calls.groupby("call_id")["attempt"]
    if not (answered.set_index("call_id")["attempt"] == attempts.max().loc[answered["call_id"]]).all():
        told.append("asked again although the ledger had the answer")
    if not (attempts.count() == attempts.max()).all():
        told.append("attempts are missing")
    unknown = calls[calls["status"] == "unknown"]
    if not (unknown["cost_usd"] == unknown["reserved_usd"]).all():
        told.append("a call whose end is not known is not booked at its worst case")
    return told


def _rows(reader: Reader, sql: str) -> list[dict[str, Any]]:
    return reader.rows(sql)


# --- a tree -----------------------------------------------------------------------------------


def until(what: Callable[[], Any], seconds: float, meaning: str, every: float = 0.1) -> Any:
    """What `what` answers once it is true; a failure that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not (seen := what()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {meaning}"
        time.sleep(every)
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""


@dataclass
class Tree:
    """A home, and the `v7 up --demo` that runs on it; every start is a session, and so a process group, of its own."""

    home: Path
    extra: dict[str, str]
    ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("V7_UI_PORT", "V7_DASHBOARD_PORT", "V7_SANDBOX_PORT")}
    )
    process: subprocess.Popen[bytes] | None = None
    output: Path = Path()
    starts: int = 0

    @property
    def sandbox(self) -> str:
        return f"http://127.0.0.1:{self.ports['V7_SANDBOX_PORT']}"

    @property
    def dagster(self) -> str:
        return f"http://127.0.0.1:{self.ports['V7_UI_PORT']}"

    def start(self) -> None:
        kept = {n: v for n, v in os.environ.items() if not n.startswith("V7_") and n != "DAGSTER_HOME"}
        ports = {name: str(port) for name, port in self.ports.items()}
        self.starts += 1
        self.output = self.home.parent / f"output-{self.starts}.txt"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "v7_pipeline.cli", "up", "--demo", "--no-history"],
                cwd=PROJECT,
                env=kept | {"V7_HOME": str(self.home), "PYTHONPATH": str(PROJECT)} | ports | self.extra,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def is_ready(self) -> bool:
        """Whether it says so; a failure where it has ended."""
        assert self.is_alive(), self.said()
        return READY in self.said()

    def members(self) -> list[psutil.Process]:
        """Every living process that was started for this home, wherever it hangs now."""
        return members_of(self.home)

    def matching(self, *words: str) -> list[psutil.Process]:
        """The processes with all of `words` on their command lines, the helper that tracks resources aside."""
        lines = [(process, " ".join(_cmdline(process))) for process in self.members()]
        return [p for p, line in lines if all(word in line for word in words) and "resource_tracker" not in line]

    def is_alive(self) -> bool:
        """Whether the supervisor lives."""
        return self.process is not None and self.process.poll() is None

    def requests(self, name: str) -> int:
        """Requests for `name` (chat, candles) that the tree's own sandbox has had; 0 while it does not answer."""
        try:
            return int(requests.get(f"{self.sandbox}/_requests", timeout=2).json().get(name, 0))
        except requests.RequestException:
            return 0

    def launch(self, as_of: datetime) -> str:
        """Start a scan of `as_of` through Dagster's pages, as a person does; the run's id."""
        text = f"{as_of:%Y-%m-%dT%H:%M:%SZ}"
        tags = [{"key": "v7/as_of", "value": text}, {"key": "dagster/partition", "value": text[:10]}]
        selector = {
            "jobName": "scan", "repositoryName": "__repository__", "repositoryLocationName": "v7_pipeline",
        }  # fmt: skip
        variables = {"params": {"selector": selector, "executionMetadata": {"tags": tags}}}
        document = {"query": _LAUNCH, "variables": variables}
        answer = requests.post(f"{self.dagster}/graphql", json=document, timeout=60).json()
        assert "errors" not in answer and "run" in answer["data"]["launchRun"], answer
        return str(answer["data"]["launchRun"]["run"]["runId"])

    def fault(self, **spec: Any) -> None:
        assert requests.post(f"{self.sandbox}/_faults", json=spec, timeout=5).status_code == 201

    def kill(self) -> tuple[int, int]:
        """Kill every process of the tree by SIGKILL, as one; (how many, chat requests that the sandbox had had).

        The supervisor is stopped first, so that it neither restarts nor ends anything. The sandbox stands for the world
        outside: it goes last, after it has been asked what it counted.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        outside = [p.pid for p in self.members() if "sandbox" in _cmdline(p)]
        last = {self.process.pid, *outside}
        killed = 0
        while inside := [p for p in self.members() if p.pid not in last]:
            for process in inside:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed += 1
            psutil.wait_procs(inside, timeout=0.2)
        counted = self.quiet() if outside else 0
        for pid in last:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        self.process.wait()
        until(lambda: not self.members(), 10, "the killed tree to be gone")
        return killed, counted

    def quiet(self) -> int:
        """What the sandbox has counted once requests of the dead have arrived too."""
        before = -1
        while before != (now := self.requests("chat")):
            before = now
            time.sleep(0.2)
        return now

    def clear(self) -> None:
        """Kill whatever is left."""
        for process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()


def _cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return list(process.cmdline())
    return []


# --- scans that are killed ----------------------------------------------------------------------


def scan(work: dict[str, Any]) -> float:
    """One scan as a Dagster run, as `v7 scan` makes it; its clock runs on from work["now"]. Seconds taken."""
    from v7_pipeline.definitions import build_definitions
    from v7_pipeline.orchestration.launch import execute_scan, open_instance
    from v7_pipeline.orchestration.up import sandbox_settings
    from v7_pipeline.scan.runtime import build_runtime
    from v7_pipeline.settings import load_settings

    began = time.monotonic()
    start = datetime.fromisoformat(work["now"])
    settings = load_settings(home=Path(work["home"]), mode="demo", _env_file=None, **work["settings"])
    settings = sandbox_settings(settings, work["server"])
    runtime = build_runtime(settings)
    runtime.clock = lambda: start + timedelta(seconds=time.monotonic() - began)
    runtime.prepare_store()
    with open_instance(settings) as instance:
        execute_scan(build_definitions(settings, runtime=runtime), instance, datetime.fromisoformat(work["as_of"]))
    return time.monotonic() - began


def steps(work: dict[str, Any]) -> float:
    """A scan's steps without Dagster at a clock that stands at work["now"]; with work["die"] it ends by SIGKILL."""
    from v7_pipeline.orchestration.up import sandbox_settings
    from v7_pipeline.scan.run import run_scan
    from v7_pipeline.scan.runtime import build_runtime
    from v7_pipeline.settings import load_settings

    began = time.monotonic()
    as_of, at = (datetime.fromisoformat(work[name]) for name in ("as_of", "now"))
    settings = load_settings(home=Path(work["home"]), mode="demo", _env_file=None, **work["settings"])
    settings = sandbox_settings(settings, work["server"])
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    runtime = build_runtime(settings, clock=lambda: at)
    runtime.prepare_store()
    run_scan(runtime.context(as_of, f"scan-{as_of:%H%M}"))
    if work.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)  # the store's file is still open
    runtime.store.close()
    return time.monotonic() - began


def commits(work: dict[str, Any]) -> list[int]:
    """Transactions one after another into a new store; the size of its log after each. It ends by SIGKILL."""
    store = open_store(f"duckdb:{work['file']}", linger_s=5.0)
    store.migrate("0.1.0", datetime.fromisoformat(work["now"]))
    store.close()
    ends = []
    for version in range(1, work["commits"] + 1):
        commit(store, version)
        ends.append(Path(f"{work['file']}.wal").stat().st_size)
    return ends


def commit(store: Store, version: int) -> None:
    """One transaction: ten minutes of candles for each version so far, at this one's price, and as many alerts."""
    from v7_pipeline_tests.store.drills import candles
    from v7_pipeline_tests.store.rows import DAY, NEXT_DAY, make_rows

    with store.transaction() as tx:
        tx.replace_slice("candles", candles(DAY, 10 * version, float(version)), start=DAY, end=NEXT_DAY)
        tx.upsert("alerts", make_rows("alerts", version))


KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {"scan": scan, "steps": steps, "commits": commits}


def live(work: dict[str, Any]) -> dict[str, Any]:
    """Do `work` in a forked process that is killed work["kill_after_s"] after its begin (None: never).

    With work["in_calls"] the time runs from its first question to the analyst.
    """
    from v7_pipeline_tests.store.drills import Worker

    def life(tell: Callable[[Any], None]) -> None:
        tell("begins")
        tell(KINDS[work["kind"]](work))
        if work["kind"] == "commits":
            os.kill(os.getpid(), signal.SIGKILL)

    worker = Worker(life)
    worker.told()
    if work["kill_after_s"] is not None:
        if work["in_calls"]:
            _await_a_call(work["server"], worker.pid)
        time.sleep(work["kill_after_s"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
    return {"told": worker.told(), "exit": worker.end()}


def _await_a_call(server: str, pid: int) -> None:
    """Wait until the sandbox has one more chat request than now, or the process has ended."""

    def asked() -> int:
        return int(requests.get(f"{server}/_requests", timeout=5).json().get("chat", 0))

    before = asked()
    while asked() == before and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)


def _import_what(work: dict[str, Any]) -> float:
    """Import here what a whole scan in another process has imported, so that the others need not; its seconds."""
    import importlib

    from v7_pipeline_tests.store.drills import Worker

    def life(tell: Callable[[Any], None]) -> None:
        scan(work)
        tell(sorted(sys.modules))

    worker = Worker(life)
    for name in worker.told():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    asyncio.run(asyncio.sleep(0))  # a fork of a process that imported asyncio without using it finds no current task
    assert worker.end() == 0
    began = time.monotonic()
    assert live(work)["exit"] == 0
    return time.monotonic() - began


def main(lines: Iterable[str]) -> None:
    for line in lines:
        work = json.loads(line)
        print(json.dumps({"told": _import_what(work)} if work["first"] else live(work)), flush=True)


if __name__ == "__main__":
    main(sys.stdin)
