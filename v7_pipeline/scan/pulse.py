"""The pipeline's pulse: is the data fresh, do scans finish; and the day's summary. Alerts only, never a halt.

Runs inside Dagster, so that it is silent when Dagster is dead: `v7 watchdog` is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from v7_pipeline.alerts.text import time_text
from v7_pipeline.alerts.trouble import (
    CheckSeen,
    StrategyDay,
    Summary,
    alert_of_check,
    alert_of_recovery,
    alert_of_run,
    alert_of_silence,
    alert_of_skipped,
    alert_of_stale,
    alert_of_summary,
    span_text,
)
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.scan.troubles import is_due_again, open_troubles, write_alerts
from v7_pipeline.store import Reader

__all__ = ["feel_pulse", "newest_scan", "run_ended", "tell_ticks", "write_summary"]

_NEWEST_SCAN = "SELECT max(finished_at) AS at FROM scans WHERE status = 'finished' AND finished_at <= ?"
_FIRST_SCAN = "SELECT min(started_at) AS at FROM scans"
_NEWEST_CANDLES = """
SELECT symbol, max(open_time) AS at FROM candles WHERE open_time >= ? AND open_time <= ? GROUP BY symbol"""
_DAY = timedelta(days=1)
_EVER = datetime(9999, 1, 1, tzinfo=UTC)


def newest_scan(reader: Reader, *, by: datetime = _EVER) -> datetime | None:
    """When the newest scan finished, not after `by`; None where none has."""
    at = reader.rows(_NEWEST_SCAN, (by,))[0]["at"]
    assert at is None or isinstance(at, datetime)
    return at


def feel_pulse(runtime: Runtime) -> str:
    """Alert on stale data and on scans that stay away, and on their return; the figures in one line."""
    now, s = runtime.clock(), runtime.settings
    with runtime.store.reading() as reader:
        found = reader.rows(_NEWEST_CANDLES, (now - 2 * _DAY, now))
        # Scans that a clock an hour fast has finished in the future must not hide that none finishes now.
        scanned, begun = newest_scan(reader, by=now), reader.rows(_FIRST_SCAN)[0]["at"]
        open_now = open_troubles(reader, "stale") | open_troubles(reader, "silence")
    closes = {row["symbol"]: row["at"] + timedelta(minutes=1) for row in found}
    ages = {symbol: (now - closes[symbol]).total_seconds() if symbol in closes else None for symbol in s.symbols}
    if begun is None:
        return "no scan yet"
    stale = {symbol: age for symbol, age in ages.items() if age is None or age > s.alert_stale_s}
    since = scanned or begun
    silent = (now - since).total_seconds() > s.watchdog_after_s
    rows = [
        *_turn(
            runtime, now, "stale", open_now, alert_of_stale(stale, limit_s=s.alert_stale_s, at=now) if stale else None,
            "every product's newest candle is fresh",
        ),
        *_turn(
            runtime, now, "silence", open_now,
            alert_of_silence(scanned, limit_s=s.watchdog_after_s, reasons=["Dagster's sensors run"], at=now)
            if silent else None,
            f"a scan finished at {time_text(scanned)}",
        ),
    ]  # fmt: skip
    told = _write(runtime, rows)
    oldest = max((age for age in ages.values() if age is not None), default=None)
    data = f"data {span_text(oldest)} old" if oldest is not None else "no data of two days"
    return f"{data}, newest scan {time_text(scanned)}{told}"


def tell_ticks(runtime: Runtime, ticks: Sequence[tuple[datetime, str | None]]) -> str:
    """Alert where the newest ticks have started no run; `ticks` are (instant, why none or None), newest first."""
    now, limit = runtime.clock(), runtime.settings.alert_skipped_ticks
    without: list[tuple[datetime, str]] = []
    for when, why in ticks:
        if why is None:
            break
        without.append((when, why))
    with runtime.store.reading() as reader:
        open_now = open_troubles(reader, "ticks")
    if 0 < len(without) < limit and open_now:
        return f"{len(without)} ticks without a run"  # not over yet: a tick that runs ends it
    row = alert_of_skipped(without, at=now) if len(without) >= limit else None
    told = _write(runtime, _turn(runtime, now, "ticks", open_now, row, "a tick has started a scan"))
    return f"{len(without)} ticks without a run{told}"


def run_ended(
    runtime: Runtime,
    job: str,
    run_id: str,
    *,
    at: datetime,
    failure: str | None,
    partition: str | None,
    link: str,
    checks: Sequence[CheckSeen],
) -> int:
    """Alert on a run that failed and on its failed checks, and on what is well again; how many alerts were written.

    Calling it twice for a run writes nothing more. `failure`: the run's error, None where it succeeded.
    """
    with runtime.store.transaction() as tx:
        open_now = open_troubles(tx, "check:") | open_troubles(tx, "run:")
        rows: list[dict[str, Any]] = []
        if failure is not None:
            rows.append(alert_of_run(job, run_id, error=failure, partition=partition, link=link, at=at))
        else:
            rows += _well(open_now.get(f"run:{job}"), f"run {run_id} of {job} succeeded", at)
        for seen in checks:
            if not seen.passed:
                rows.append(alert_of_check(seen))
            else:
                rows += _well(open_now.get(seen.subject), f"it passed in run {run_id}", at)
        return write_alerts(tx, runtime, rows, run_id)


def write_summary(runtime: Runtime) -> str:
    """Write the day's summary once its hour has come; what it says, or why none is due."""
    now, s = runtime.clock(), runtime.settings
    if s.alert_summary_at is None:
        return "no daily summary is asked for"
    local = now.astimezone(ZoneInfo(s.alert_zone))
    if local.time() < s.alert_summary_at:
        return f"due at {s.alert_summary_at:%H:%M} ({s.alert_zone})"
    with runtime.store.reading() as reader:
        if reader.rows("SELECT 1 AS one FROM alerts WHERE alert_id = ?", (f"summary:{local.date()}",)):
            return "written today"
        summary = _summary(reader, now, local, s.strategies)
    if summary.newest_scan is None:
        return "no scan yet"
    return f"the summary of {summary.day}{_write(runtime, [alert_of_summary(summary, at=now)])}"


_SCANS = """
SELECT count(*) FILTER (status = 'finished') AS finished, count(*) FILTER (status = 'failed') AS failed,
sum(cost_usd) AS cost FROM scans WHERE as_of > ? AND as_of <= ?"""
_ACCEPTED = """
SELECT strategy, count(*) AS n FROM gated_signals WHERE accepted AND as_of > ? AND as_of <= ? GROUP BY strategy"""
_CLOSED = """
SELECT strategy, count(*) AS closed, count(*) FILTER (outcome = 'win') AS won, sum(pnl_usd) AS pnl FROM outcomes
WHERE kind = 'paper' AND outcome <> 'open' AND exit_time > ? AND exit_time <= ? GROUP BY strategy"""
_ALERTS = """
SELECT kind, count(*) AS n FROM alerts WHERE created_at > ? AND created_at <= ? AND kind <> 'summary'
GROUP BY kind ORDER BY n DESC, kind"""
_DELIVERIES = """
SELECT count(*) FILTER (status = 'suppressed') AS left_out,
count(*) FILTER (status = 'failed' OR (status = 'pending' AND attempts > 0)) AS undelivered
FROM alert_deliveries WHERE created_at > ? AND created_at <= ?"""


def _summary(reader: Reader, now: datetime, local: datetime, live: Sequence[str]) -> Summary:
    span = (now - _DAY, now)
    scans = reader.rows(_SCANS, span)[0]
    deliveries = reader.rows(_DELIVERIES, span)[0]
    return Summary(
        day=local.date(),
        scans=scans["finished"],
        failed=scans["failed"],
        strategies=_by_strategy(reader, span, live),
        cost_usd=scans["cost"],
        newest_scan=newest_scan(reader),
        alerts={row["kind"]: row["n"] for row in reader.rows(_ALERTS, span)},
        left_out=deliveries["left_out"],
        undelivered=deliveries["undelivered"],
        open_troubles=sorted(str(row["title"]).removeprefix("DEMO ") for row in open_troubles(reader, "").values()),
    )


def _by_strategy(reader: Reader, span: tuple[datetime, datetime], live: Sequence[str]) -> list[StrategyDay]:
    """The live strategies in their order, then those that were live when they signalled or traded."""
    accepted = {row["strategy"]: row["n"] for row in reader.rows(_ACCEPTED, span)}
    closed = {row["strategy"]: row for row in reader.rows(_CLOSED, span)}
    nothing = {"closed": 0, "won": 0, "pnl": None}
    found = []
    for name in dict.fromkeys((*live, *sorted({*accepted, *closed}))):
        row = closed.get(name, nothing)
        found.append(StrategyDay(name, accepted.get(name, 0), row["closed"], row["won"], row["pnl"]))
    return found


def _turn(
    runtime: Runtime, now: datetime, subject: str, open_now: dict[str, Any], trouble: dict[str, Any] | None, well: str
) -> list[dict[str, Any]]:
    """The alert of a trouble that is new or lasts, or the recovery of one that is over."""
    before = open_now.get(subject)
    if trouble is None:
        return _well(before, well, now)
    return [trouble] if is_due_again(before, runtime, now) else []


def _well(trouble: dict[str, Any] | None, how: str, at: datetime) -> list[dict[str, Any]]:
    """The recovery of `trouble`, unless it began after `at`: a run that is looked at twice ends nothing newer."""
    return [] if trouble is None or trouble["created_at"] >= at else [alert_of_recovery(trouble, how, at=at)]


def _write(runtime: Runtime, rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    with runtime.store.transaction() as tx:
        written = write_alerts(tx, runtime, rows, "pulse")
    return f"; {written} alert{'' if written == 1 else 's'} written"
