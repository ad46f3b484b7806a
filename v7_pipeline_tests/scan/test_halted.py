"""Scans while a halt is in force: they observe as ever, ask nobody, accept nothing, and say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from v7_pipeline.console import scan_blocks
from v7_pipeline.scan.halts import halt, resume
from v7_pipeline.scan.run import run_scan
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.scan.watch import watch_account, watch_budget
from v7_pipeline_tests.scan.watched import MARKS, Clock, put_call, put_closed

FIRST = datetime(2026, 11, 20, 6, 20, tzinfo=UTC)  # the simulated XRP-USD is bought
EVERY = timedelta(minutes=2)
SECOND = timedelta(seconds=1)
WORDS: dict[str, Any] = {"provenance": MARKS, "marks": {"demo": True}}


@dataclass
class Scans:
    """Scans of one home, one every two minutes, each five seconds after its instant."""

    runtime: Runtime
    sandbox: Any
    clock: Clock
    as_of: datetime = FIRST - EVERY

    def next(self) -> int:
        """The next scan; how many questions were sent in it."""
        self.as_of += EVERY
        self.clock.now = self.as_of + 5 * SECOND
        before = self.sandbox.counts.get("chat", 0)
        run_scan(self.runtime.context(self.as_of, f"scan-{self.as_of:%H%M}"))
        return int(self.sandbox.counts.get("chat", 0) - before)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return self.runtime.store.rows(sql)

    def decided(self) -> list[str | None]:
        """Why the newest scan's decisions were not made; None where they were."""
        rows = self.rows("SELECT status_reason FROM llm_signals QUALIFY as_of = max(as_of) OVER () ORDER BY symbol")
        return [row["status_reason"] for row in rows]

    def printed(self) -> str:
        out = StringIO()
        Console(file=out, width=200).print(scan_blocks(self.runtime.store, self.runtime.settings, self.as_of))
        return out.getvalue()


@pytest.fixture
def scans(make_runtime: Callable[..., Any], sandbox: Any) -> Iterator[Scans]:
    runtime = make_runtime(symbols="BTC-USD,XRP-USD", commission="BTC-USD=0")
    clock = Clock(FIRST)
    runtime.clock = clock
    yield Scans(runtime, sandbox, clock)


def test_lesson_25_a_halted_scan_observes_asks_nobody_and_resumes(scans: Scans) -> None:
    assert scans.next() == 2 and scans.decided() == [None, None]
    halt(scans.runtime.store, "news tonight", at=scans.clock(), **WORDS)
    assert "HALTED" not in scans.printed(), "the scan had begun before"
    assert scans.next() == 0
    assert scans.decided() == ["HALT_MANUAL"] * 2
    seen = scans.rows(
        "SELECT (SELECT max(open_time) FROM candles) AS candle, (SELECT max(as_of) FROM theory_features) AS reading, "
        "(SELECT max(as_of) FROM scans WHERE status = 'finished') AS scan"
    )[0]
    assert seen == {"candle": scans.as_of - timedelta(minutes=1), "reading": scans.as_of, "scan": scans.as_of}
    followed = scans.rows("SELECT followed_until FROM outcomes WHERE outcome = 'open' AND kind = 'paper'")
    assert [row["followed_until"] for row in followed] == [scans.as_of]
    gated = scans.rows("SELECT accepted, halt_ok, reason_codes FROM gated_signals QUALIFY as_of = max(as_of) OVER ()")
    assert [(row["accepted"], row["halt_ok"]) for row in gated] == [(False, False)] * 2
    assert "HALTED (manual) since 2026-11-20 06:20Z until v7 resume: news tonight" in scans.printed()
    resume(scans.runtime.store, None, at=scans.clock(), **WORDS)
    assert scans.next() == 2 and scans.decided() == [None, None]
    assert "HALTED" not in scans.printed()


def test_what_a_sensor_halts_the_next_scan_respects(scans: Scans) -> None:
    assert scans.next() == 2
    put_call(scans.runtime, "dear", 2.999999, at=scans.as_of)
    watch_budget(scans.runtime, "budget_sensor")
    assert scans.next() == 0
    assert scans.decided() == ["HALT_BUDGET,BUDGET_DAY"] * 2
    assert "PAID CALLS HALTED since 2026-11-20 06:20Z until 2026-11-21 00:00Z" in scans.printed()
    put_closed(scans.runtime, -5_001.0, FIRST)
    scans.clock.now += SECOND
    watch_account(scans.runtime, "ftmo_sensor")
    assert scans.next() == 0 and "HALTED (daily) since 2026-11-20 06:22Z until 2026-11-20 23:00Z" in scans.printed()
    gated = scans.rows("SELECT halt_ok, gate_inputs FROM gated_signals QUALIFY as_of = max(as_of) OVER ()")
    assert all(row["halt_ok"] is False and "daily-2026-11-20" in row["gate_inputs"] for row in gated)


def test_a_lost_account_is_halted_once_and_not_at_every_midnight(scans: Scans) -> None:
    put_closed(scans.runtime, -10_001.0, FIRST - timedelta(minutes=30))
    assert scans.next() == 0
    scans.as_of = datetime(2026, 11, 21, 0, 58, tzinfo=UTC)  # the next day in Prague: still below the limit
    assert scans.next() == 0
    watch_account(scans.runtime, "ftmo_sensor")
    assert [row["kind"] for row in scans.rows("SELECT kind FROM halts")] == ["total"]
    assert len(scans.rows("SELECT 1 AS one FROM alerts WHERE kind = 'halt'")) == 1


def test_a_scan_that_sees_a_breach_halts_and_tells_it_in_its_own_transaction(scans: Scans) -> None:
    put_closed(scans.runtime, -5_001.0, FIRST - timedelta(minutes=30))
    assert scans.next() == 0
    (made,) = scans.rows("SELECT * FROM halts")
    assert (made["halt_id"], made["kind"], made["until"]) == (
        "daily-2026-11-20", "daily", datetime(2026, 11, 20, 23, 0, tzinfo=UTC),
    )  # fmt: skip
    assert made["run_id"] == scans.rows("SELECT run_id FROM gated_signals LIMIT 1")[0]["run_id"]
    told = scans.rows("SELECT * FROM alerts WHERE kind = 'halt'")
    assert [(row["severity"], "$95,000.00" in row["body"]) for row in told] == [("critical", True)]
    assert scans.next() == 0 and len(scans.rows("SELECT * FROM halts")) == 1
    assert scans.decided() == ["HALT_DAILY,FTMO_BREACHED_DAILY,FTMO_DAILY_ROOM"] * 2


def test_a_daily_breach_that_no_scan_saw_is_told_by_the_first_scan_of_a_later_day_and_once(scans: Scans) -> None:
    assert scans.next() == 2
    put_closed(scans.runtime, -5_001.0, FIRST + timedelta(minutes=30))
    scans.as_of = datetime(2026, 11, 21, 0, 58, tzinfo=UTC)  # down over the midnight of Prague
    scans.next()
    told = "SELECT alert_id, severity, title, body FROM alerts WHERE kind = 'ftmo'"
    (alert,) = scans.rows(told)
    assert (alert["alert_id"], alert["severity"]) == ("ftmo_missed:2026-11-20", "critical")
    assert "DEMO FTMO: the daily loss limit was broken on 2026-11-20" in alert["title"]
    assert "v7 ftmo --at 2026-11-20T06:" in alert["body"]
    assert scans.rows("SELECT 1 AS one FROM halts") == []  # its day is over: nothing is left to halt
    scans.next()
    assert len(scans.rows(told)) == 1


def test_a_daily_breach_that_was_halted_on_its_day_is_not_told_again_on_the_next(scans: Scans) -> None:
    put_closed(scans.runtime, -5_001.0, FIRST - timedelta(minutes=30))
    scans.next()
    assert [row["kind"] for row in scans.rows("SELECT kind FROM halts")] == ["daily"]
    scans.as_of = datetime(2026, 11, 21, 0, 58, tzinfo=UTC)
    scans.next()
    assert scans.rows("SELECT 1 AS one FROM alerts WHERE kind = 'ftmo'") == []
