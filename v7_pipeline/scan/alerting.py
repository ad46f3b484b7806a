"""The outbox's other end: take what is due, deliver it to each destination, and write down what became of it.

Called by the sensor and by nobody inside a scan: delivery never holds a scan up. Each delivery is written as `sending`
before and with its end after. A kill in between leaves `sending`: after a while it is sent again and says so, since a
lost alert costs more than one that comes twice (docs/adr/0015-an-alert-may-come-twice.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from v7_pipeline import __version__
from v7_pipeline.alerts.deliver import Destination, Result, destinations, send
from v7_pipeline.alerts.routing import LEASE, is_quiet, next_try, rank, worded
from v7_pipeline.alerts.trouble import alert_of_destination, alert_of_recovery
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.scan.troubles import open_troubles, write_alerts
from v7_pipeline.store import Transaction, arrow_rows

__all__ = ["Sender", "deliver_pending"]

Sender = Callable[[Destination, str, str], Result]

_LIMIT_S = 25.0  # Dagster gives a tick sixty
_PAUSE_S = 1.0  # Telegram takes one message a second in a chat
_PLANNED_AT_ONCE = 200

_UNPLANNED = """
SELECT * FROM alerts a WHERE status = 'pending'
AND NOT EXISTS (SELECT 1 FROM alert_deliveries d WHERE d.alert_id = a.alert_id)
ORDER BY created_at, alert_id LIMIT ?"""
_HELD = """
SELECT max(next_try_at) AS until FROM alert_deliveries
WHERE destination = ? AND status = 'pending' AND holds AND next_try_at > ?"""
_DUE = """
SELECT a.alert_id, a.kind, a.severity, a.title, a.body, a.subject, a.created_at, d.status, d.attempts
FROM alert_deliveries d JOIN alerts a USING (alert_id)
WHERE d.destination = ? AND d.status IN ('pending', 'sending') AND d.next_try_at <= ? AND (a.severity <> 'info' OR ?)
ORDER BY CASE a.severity WHEN 'info' THEN 2 WHEN 'warning' THEN 1 ELSE 0 END, a.created_at, a.alert_id LIMIT 50"""
_TOLD = """
SELECT a.alert_id, a.kind, a.severity, d.delivered_at FROM alert_deliveries d JOIN alerts a USING (alert_id)
WHERE d.destination = ? AND a.subject = ? AND d.status = 'delivered' ORDER BY d.delivered_at DESC, a.created_at DESC"""
_LEFT_OUT = "SELECT count(*) AS n FROM alert_deliveries WHERE destination = ? AND folded_into = ?"
_TOGETHER = """
UPDATE alerts SET
status = CASE WHEN s.waiting > 0 THEN 'pending' WHEN s.delivered > 0 THEN 'delivered' WHEN s.failed > 0 THEN 'failed'
         ELSE 'suppressed' END,
attempts = s.attempts, delivered_at = s.delivered_at, error = s.error
FROM (SELECT alert_id, count(*) FILTER (status IN ('pending', 'sending')) AS waiting,
      count(*) FILTER (status = 'delivered') AS delivered, count(*) FILTER (status = 'failed') AS failed,
      CAST(sum(attempts) AS BIGINT) AS attempts, min(delivered_at) AS delivered_at,
      string_agg(error, '; ' ORDER BY destination) AS error
      FROM alert_deliveries WHERE alert_id = ? GROUP BY alert_id) s
WHERE alerts.alert_id = s.alert_id"""
_GONE = """
SELECT alert_id, destination FROM alert_deliveries
WHERE status IN ('pending', 'sending') AND destination NOT IN (SELECT unnest(?::VARCHAR[]))"""


@dataclass(frozen=True)
class _Claim:
    """One delivery that is ours to make: its words, and what settling it needs."""

    alert_id: str
    created_at: datetime
    attempts: int
    title: str
    body: str


def deliver_pending(
    runtime: Runtime, *, sender: Sender = send, pause: Callable[[float], None] = time.sleep, limit_s: float = _LIMIT_S
) -> tuple[int, int]:
    """Deliver what is due; returns how many deliveries (delivered, failed). Without destinations alerts are marked so.

    A destination that fails waits with all of its alerts, and keeps no other one from getting its own. `pause` is
    called with seconds between two messages to one destination; after `limit_s` seconds the rest is left to the next
    tick. Raises StoreBusy and StoreError; what was sent and could not be written is sent again after LEASE.
    """
    places = destinations(runtime.settings.alert_urls)
    if not runtime.store.rows("SELECT 1 AS one FROM alerts WHERE status = 'pending' LIMIT 1"):
        return 0, 0
    _plan(runtime, places)
    delivered = failed = 0
    started = time.monotonic()
    for place in places:
        first = True
        while time.monotonic() - started < limit_s:
            claim = _claim(runtime, place)
            if claim is None:
                break
            if not first:
                pause(_PAUSE_S)
            first = False
            result = sender(place, claim.title, claim.body)
            _settle(runtime, place, claim, result, others=len(places) > 1)
            delivered, failed = delivered + (result.kind == "delivered"), failed + (result.kind != "delivered")
            if result.kind in ("refused", "busy"):
                break
    return delivered, failed


def _plan(runtime: Runtime, places: Sequence[Destination]) -> None:
    """A delivery for each alert and each destination that wants it; those of destinations that are gone are ended."""
    now, marks = runtime.clock(), _marks(runtime)
    with runtime.store.transaction() as tx:
        for gone in tx.rows(_GONE, ([place.name for place in places],)):
            tx.execute(
                "UPDATE alert_deliveries SET status = 'failed', error = ? WHERE alert_id = ? AND destination = ?",
                (f"{gone['destination']} is no longer in V7_ALERT_URLS", gone["alert_id"], gone["destination"]),
            )
            tx.execute(_TOGETHER, (gone["alert_id"],))
        rows = []
        for alert in tx.rows(_UNPLANNED, (_PLANNED_AT_ONCE,)):
            wanted = [p for p in places if p.wants(alert["severity"]) and alert["subject"] != f"destination:{p.name}"]
            rows += [_delivery(alert, place.name, now) | marks for place in wanted]
            if not wanted:
                tx.execute("UPDATE alerts SET status = 'no_destination' WHERE alert_id = ?", (alert["alert_id"],))
        if rows:
            tx.insert_new("alert_deliveries", arrow_rows("alert_deliveries", rows))


def _delivery(alert: dict[str, Any], destination: str, now: datetime) -> dict[str, Any]:
    return {
        "alert_id": alert["alert_id"], "destination": destination, "created_at": alert["created_at"],
        "status": "pending", "attempts": 0, "next_try_at": now, "begun_at": None, "delivered_at": None, "error": None,
        "holds": False, "folded_into": None,
    }  # fmt: skip


def _claim(runtime: Runtime, place: Destination) -> _Claim | None:
    """The destination's next delivery, written as being sent; None where nothing is due or the destination waits.

    What a delivered alert has told already is counted with it on the way.
    """
    now, s = runtime.clock(), runtime.settings
    loud = not is_quiet(now, s.alert_quiet, s.alert_zone)
    with runtime.store.transaction() as tx:
        if tx.rows(_HELD, (place.name, now))[0]["until"] is not None:
            return None
        for row in tx.rows(_DUE, (place.name, now, loud)):
            left_out, since = 0, None
            if row["subject"] is not None:
                told = tx.rows(_TOLD, (place.name, row["subject"]))
                if _is_told(row, told, now, s.alert_window_min * 60):
                    _fold(tx, place, row, told)
                    continue
                if told:
                    troubles = [entry for entry in told if entry["kind"] != "recovery"]
                    of = (troubles or told)[0]
                    left_out, since = tx.rows(_LEFT_OUT, (place.name, of["alert_id"]))[0]["n"], of["delivered_at"]
            tx.execute(
                "UPDATE alert_deliveries SET status = 'sending', attempts = attempts + 1, begun_at = ?, "
                "next_try_at = ? WHERE alert_id = ? AND destination = ?",
                (now, now + LEASE, row["alert_id"], place.name),
            )
            title, body = worded(
                row["title"],
                row["body"],
                created_at=row["created_at"],
                now=now,
                repeat=row["status"] == "sending",
                left_out=left_out,
                since=since,
            )
            return _Claim(row["alert_id"], row["created_at"], row["attempts"] + 1, title, body)
    return None


def _is_told(row: dict[str, Any], told: Sequence[dict[str, Any]], now: datetime, window_s: float) -> bool:
    """Whether a delivered alert has said it: within the window, unless this is worse; a recovery of what was told.

    The window opens with a delivery: what could not be delivered keeps nothing else back.
    """
    if row["kind"] == "recovery":
        return not told or told[0]["kind"] == "recovery"
    before = next((entry for entry in told if entry["kind"] != "recovery"), None)
    if before is None or rank(row["severity"]) > rank(before["severity"]):
        return False
    return (now - before["delivered_at"]).total_seconds() < window_s


def _fold(tx: Transaction, place: Destination, row: dict[str, Any], told: Sequence[dict[str, Any]]) -> None:
    into = next((entry["alert_id"] for entry in told if entry["kind"] != "recovery"), None)
    tx.execute(
        "UPDATE alert_deliveries SET status = 'suppressed', folded_into = ?, next_try_at = NULL "
        "WHERE alert_id = ? AND destination = ?",
        (None if row["kind"] == "recovery" else into, row["alert_id"], place.name),
    )
    tx.execute(_TOGETHER, (row["alert_id"],))


def _settle(runtime: Runtime, place: Destination, claim: _Claim, result: Result, *, others: bool) -> None:
    """Write what became of a delivery; a destination that refuses is told to the other ones, and so is its return."""
    now = runtime.clock()
    done = result.kind == "delivered"
    again = None if done else next_try(result, attempts=claim.attempts, created_at=claim.created_at, now=now)
    status = "delivered" if done else "failed" if again is None else "pending"
    with runtime.store.transaction() as tx:
        tx.execute(
            "UPDATE alert_deliveries SET status = ?, next_try_at = ?, delivered_at = ?, error = ?, holds = ? "
            "WHERE alert_id = ? AND destination = ?",
            (
                status, again, now if done else None, result.error, result.kind in ("refused", "busy"),
                claim.alert_id, place.name,
            ),
        )  # fmt: skip
        tx.execute(_TOGETHER, (claim.alert_id,))
        if not others:
            return
        subject = f"destination:{place.name}"
        trouble = open_troubles(tx, subject).get(subject)
        if done and trouble is not None:
            write_alerts(tx, runtime, [alert_of_recovery(trouble, "it takes messages again", at=now)])
        elif (result.kind == "refused" or status == "failed") and trouble is None:
            write_alerts(tx, runtime, [alert_of_destination(place.name, result.error or "", at=now)])


def _marks(runtime: Runtime) -> dict[str, str]:
    return {"source": runtime.settings.source, "run_id": "alert_outbox", "code_version": __version__}
