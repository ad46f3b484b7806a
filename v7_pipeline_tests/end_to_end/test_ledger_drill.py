"""The drill of the ledger: analysts that are killed between any two steps, and many at once, never exceed a budget.

Real processes, SIGKILL, one store file, real HTTP to a sandbox that keeps an account of its own.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.sandbox.answers import rules_answer
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.store import Store, open_store
from v7_pipeline_tests.end_to_end.ledger_drill import DIRECTIONS
from v7_pipeline_tests.end_to_end.world import Clock

START = datetime(2026, 11, 28, 21, 0, tzinfo=UTC)  # soon another day, then another month
KILLS = 100
DUST = 1e-9
Run = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]

_PERIODS = """
SELECT strftime(date_trunc($period, reserved_at), '%Y-%m-%d') AS period,
       sum(coalesce(cost_usd, reserved_usd)) AS usd, count(*) AS attempts
FROM llm_calls GROUP BY 1 ORDER BY 1
"""


class Sandbox:
    """The server, its clock, and how often it answered each question."""

    def __init__(self) -> None:
        self.clock = Clock(START)
        self.answers: Counter[str] = Counter()
        self.server = SandboxServer(clock=self.clock, answerer=self._answer)

    def _answer(self, messages: Any) -> dict[str, Any]:
        time.sleep(0.06)  # so that a good part of the kills meets a call under way
        asked = json.loads(messages[1]["content"])
        self.answers[f"{asked['symbol']} {asked['as_of']}"] += 1
        return rules_answer(messages)

    def quiet(self) -> None:
        """Wait until requests of the dead are answered too."""
        before = -1
        while before != (before := self.server.account.completions):
            time.sleep(0.3)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"duckdb:{tmp_path / 'v7.duckdb'}"


@pytest.fixture
def store(url: str) -> Store:
    made = open_store(url, wait_s=30.0)
    made.migrate("0.1.0", START)
    return made


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    with made.server:
        yield made


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs works at once, in processes forked from one that has imported everything."""
    process = subprocess.Popen(
        [sys.executable, "-m", "v7_pipeline_tests.end_to_end.ledger_drill"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def through(works: list[dict[str, Any]]) -> list[dict[str, Any]]:
        process.stdin.write(json.dumps(works) + "\n")
        process.stdin.flush()
        done: list[dict[str, Any]] = json.loads(process.stdout.readline())
        return done

    yield through
    process.stdin.close()
    process.wait(10)


def work(
    url: str, sandbox: Sandbox, *, run_id: str, instants: list[datetime], day: float, month: float,
    kill_after_s: float | None = None, linger_s: float = 0.5,
) -> dict[str, Any]:  # fmt: skip
    return {
        "url": url, "server": sandbox.server.url, "run_id": run_id, "day_usd": day,
        "month_usd": month, "instants": [at.isoformat() for at in instants], "now": sandbox.clock.now.isoformat(),
        "monotonic": time.monotonic(), "kill_after_s": kill_after_s,
        "linger_s": linger_s,
    }  # fmt: skip


def spent_by(store: Store, period: str) -> dict[str, float]:
    rows = store.rows(_PERIODS.replace("$period", f"'{period}'"))
    return {row["period"]: row["usd"] for row in rows}


def assert_within(store: Store, sandbox: Sandbox, *, day: float, month: float) -> None:
    """Both budgets hold, and what the account paid is covered by the ledger."""
    billed = sandbox.server.account.charged_usd  # before the ledger is read: what is billed was reserved earlier
    days, months = spent_by(store, "day"), spent_by(store, "month")
    assert max(days.values(), default=0.0) <= day + DUST, days
    assert max(months.values(), default=0.0) <= month + DUST, months
    assert billed <= sum(days.values()) + DUST


def worst_case_usd(store: Store) -> float:
    return float(store.query("SELECT max(reserved_usd) AS usd FROM llm_calls")["usd"].iloc[0])


@pytest.mark.slow
def test_lesson_05_a_hundred_kills_at_random_instants_never_exceed_a_budget(
    url: str, store: Store, sandbox: Sandbox, run: Run
) -> None:
    chance = random.Random(4)
    budget = {"day": 0.03, "month": 0.15}
    kills, rounds, statuses = 0, 0, Counter[str]()
    unfinished: list[datetime] = []
    while kills < KILLS:
        now = sandbox.clock.now
        again = unfinished[-2:]
        # Two processes ask the very same, a third other questions; the killed ones' are done again first.
        new, other = now.replace(second=0), now.replace(second=0) - timedelta(minutes=2)
        lists = [[*again, new], [new], [other]]
        works = [
            work(
                url, sandbox, run_id=f"run-{rounds}-{place}", instants=instants,
                kill_after_s=None if chance.random() < 0.1 else chance.uniform(0.0, 0.45),
                # Most keep the file open after a write, as scans do: a kill then leaves a log to be replayed.
                linger_s=chance.choice((0.0, 0.5, 0.5)), **budget,
            )
            for place, instants in enumerate(lists)
        ]  # fmt: skip
        done = run(works)
        killed = [entry["exit"] == -9 for entry in done]
        assert all(dead or entry["exit"] == 0 for dead, entry in zip(killed, done, strict=True)), done
        assert_within(store, sandbox, **budget)
        kills += sum(killed)
        came = Counter(status for entry in done for status in entry["statuses"] or [])
        statuses.update(came)
        unfinished = [at for dead, instants in zip(killed, lists, strict=True) if dead for at in instants]
        rounds += 1
        # A budget that is used up is tried once, then its day is over.
        sandbox.clock.now = now + timedelta(hours=36 if came["skipped"] else chance.choice((0, 1)), minutes=4)
    sandbox.quiet()
    assert_within(store, sandbox, **budget)

    # Somebody comes back the next day: every orphan is closed at its worst case, and only then.
    sandbox.clock.now += timedelta(days=1)
    (last,) = run([work(url, sandbox, run_id="last", instants=[sandbox.clock.now], **budget)])
    assert last["exit"] == 0
    calls = store.query("SELECT * FROM llm_calls ORDER BY call_id, attempt")
    assert set(calls["status"]) <= {"settled", "unknown", "failed"}, calls.loc[
        calls["status"] == "reserved", ["call_id", "attempt", "reserved_at", "run_id"]
    ].to_dict("records")
    unknown = calls[calls["status"] == "unknown"]
    assert (unknown["cost_usd"] == unknown["reserved_usd"]).all()
    assert (calls["cost_usd"] <= calls["reserved_usd"] + DUST).all()
    assert_within(store, sandbox, **budget)

    # An answer that the ledger knows is never paid for again: it is the last attempt of its call.
    answered = calls[(calls["status"] == "settled") & calls["error"].isna()]
    assert not answered["call_id"].duplicated().any()
    attempts = calls.groupby("call_id")["attempt"]
    assert (answered.set_index("call_id")["attempt"] == attempts.max().loc[answered["call_id"]]).all()
    assert (attempts.count() == attempts.max()).all(), "attempts are numbered from 1 without a hole"
    made = calls.groupby(["symbol", calls["as_of"].dt.strftime("%Y-%m-%dT%H:%MZ")]).size()
    for asked, times in sandbox.answers.items():
        symbol, at = asked.split(" ")
        assert times <= made[symbol, f"{datetime.fromisoformat(at):%Y-%m-%dT%H:%MZ}"], asked

    # The drill met what it is for.
    assert len(unknown) >= 10, "too few kills met a call under way"
    assert len(answered) >= 10
    assert statuses["skipped"] > 0, "no budget was ever used up"
    print(f"{kills} kills in {rounds} rounds: {len(calls)} attempts, {len(unknown)} unknown, {dict(statuses)}")


@pytest.mark.slow
def test_scans_of_many_processes_at_once_share_one_budget(url: str, store: Store, sandbox: Sandbox, run: Run) -> None:
    (first,) = run([work(url, sandbox, run_id="first", instants=[START], day=1.0, month=1.0)])
    assert first["statuses"] == ["answered"] * len(DIRECTIONS)
    spent, worst = sum(spent_by(store, "day").values()), worst_case_usd(store)
    day = spent + 3.5 * worst  # at any time three calls under way at most
    scans = [[START - timedelta(minutes=2 * (3 * n + k) + 2) for k in range(3)] for n in range(4)]
    works = [
        work(url, sandbox, run_id=f"run-{n}", instants=instants, day=day, month=1.0) for n, instants in enumerate(scans)
    ]
    done = run(works)
    assert [entry["exit"] for entry in done] == [0] * 4, done
    assert_within(store, sandbox, day=day, month=1.0)
    statuses = Counter(status for entry in done for status in entry["statuses"])
    assert statuses["skipped"] > 0 and statuses["answered"] > 0
    sandbox.quiet()
    calls = store.query("SELECT * FROM llm_calls")
    assert set(calls["status"]) == {"settled"}
    assert sandbox.server.account.completions == len(calls) == statuses["answered"] + len(DIRECTIONS)
    assert sandbox.server.account.charged_usd == pytest.approx(calls["cost_usd"].sum())


@pytest.mark.slow
def test_two_processes_that_ask_the_same_at_once_pay_once(url: str, store: Store, sandbox: Sandbox, run: Run) -> None:
    works = [work(url, sandbox, run_id=f"run-{n}", instants=[START], day=1.0, month=1.0) for n in range(3)]
    done = run(works)
    assert [entry["statuses"] for entry in done] == [["answered"] * len(DIRECTIONS)] * 3
    assert set(sandbox.answers.values()) == {1} and len(sandbox.answers) == len(DIRECTIONS)
    assert store.query("SELECT count(*) AS n FROM llm_calls")["n"].iloc[0] == len(DIRECTIONS)
