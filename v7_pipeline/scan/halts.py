"""The kill switch: halts by hand, their lifting, and which halts are in force at an instant.

What a halt stops is decided in the gates; halts that the account or a budget calls for are watch.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from v7_pipeline.alerts.watched import PRAGUE, alerts_for_halts, alerts_for_resume
from v7_pipeline.scan.context import minute
from v7_pipeline.store import Store, arrow_rows, conform

__all__ = ["AFTER", "STRATEGY_OF", "Resumed", "from_next_scan", "halt", "halts_in_force", "resume"]

Row = dict[str, Any]

# A halt that a scan's own instant called for holds from just after it: the scan itself is judged by its gates.
AFTER = timedelta(microseconds=1)
BY_HAND = ("manual", "total")

#: Whose account called for a halt, as SQL: its identity begins with the strategy, behind the source of a look at the
#: past; v7's alone have no such word. Those by hand and of a budget are everybody's.
STRATEGY_OF = "coalesce(nullif(regexp_extract(halt_id, '^(?:[a-z]+-)?(v6|ensemble)-', 1), ''), 'v7')"

_IN_FORCE = """
SELECT * FROM halts WHERE started_at <= $1 AND (until IS NULL OR until > $1) AND (lifted_at IS NULL OR lifted_at > $1)
ORDER BY started_at, halt_id
"""
_BEGUN = "SELECT 1 AS begun FROM scans WHERE as_of >= ? LIMIT 1"


@dataclass(frozen=True)
class Resumed:
    """The halts (rows) that were lifted, and those that are in force still."""

    lifted: tuple[Row, ...]
    left: tuple[Row, ...]


def halts_in_force(reader: Any, at: datetime) -> list[Row]:
    """The halts rows in force at `at`, oldest first. `reader` is a store or a reader of one."""
    return reader.rows(_IN_FORCE, (at,))


def from_next_scan(reader: Any, at: datetime) -> datetime:
    """From when a switch thrown at `at` holds: from this minute's scan where it has not begun, else right after it.

    A scan writes its row before it looks at the halts, so none that has looked already is changed afterwards.
    """
    this = minute(at)
    return max(at, this + AFTER) if reader.rows(_BEGUN, (this,)) else this


def halt(
    store: Store,
    reason: str,
    *,
    at: datetime,
    until: datetime | None = None,
    provenance: Mapping[str, str],
    marks: Mapping[str, Any],
    zone: ZoneInfo = PRAGUE,
) -> tuple[Row, bool]:
    """Halt by hand from the next scan on, until `until` or until it is lifted; with its alert in one transaction.

    Returns the halts row and whether it is new: a manual halt for the same reason that lasts as long is in force
    already, and nothing is written. `marks`: what alerts say of where they come from (demo, gates_off).
    """
    with store.transaction() as tx:
        start = from_next_scan(tx, at)
        for row in halts_in_force(tx, start):
            lasts = row["until"] is None or (until is not None and row["until"] >= until)
            if row["kind"] == "manual" and row["reason"] == reason and lasts:
                return row, False
        row = {
            "halt_id": f"manual-{at:%Y%m%dT%H%M%S.%fZ}", "kind": "manual", "started_at": start, "until": until,
            "reason": reason, "lifted_at": None, "lifted_reason": None,
        }  # fmt: skip
        tx.insert_new("halts", arrow_rows("halts", [{**row, **provenance}]))
        tx.insert_new("alerts", conform("alerts", alerts_for_halts([row], **marks, zone=zone), dict(provenance)))
    return row, True


def resume(
    store: Store,
    reason: str | None,
    *,
    at: datetime,
    provenance: Mapping[str, str],
    marks: Mapping[str, Any],
    zone: ZoneInfo = PRAGUE,
) -> Resumed:
    """Lift every manual and total halt in force, from the next scan on; with one alert in the same transaction.

    Daily and budget halts end by themselves and are left. Nothing to lift writes nothing.
    """
    with store.transaction() as tx:
        start = from_next_scan(tx, at)
        found = halts_in_force(tx, start)
        left = [row for row in found if row["kind"] not in BY_HAND]
        lifted = [row | {"lifted_at": start, "lifted_reason": reason} for row in found if row["kind"] in BY_HAND]
        for row in lifted:
            tx.execute(
                "UPDATE halts SET lifted_at = ?, lifted_reason = ? WHERE halt_id = ?", (start, reason, row["halt_id"])
            )
        if lifted:
            told = alerts_for_resume(lifted, left, **marks, zone=zone)
            tx.insert_new("alerts", conform("alerts", told, dict(provenance)))
    return Resumed(tuple(lifted), tuple(left))
