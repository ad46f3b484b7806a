"""Troubles that last: alerts with a subject, open from the first until a recovery, kept in the outbox alone.

What is a trouble is decided by those who look; how it is worded in alerts/trouble.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from v7_pipeline import __version__
from v7_pipeline.alerts.outbox import outbox
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store import Reader, Transaction, conform

__all__ = ["alert_marks", "is_due_again", "open_troubles", "write_alerts"]

_NEWEST = """
SELECT subject, kind, severity, title, alert_id, created_at FROM (
    SELECT *, row_number() OVER (PARTITION BY subject ORDER BY created_at DESC, kind = 'recovery' DESC) AS place
    FROM alerts WHERE subject IS NOT NULL AND starts_with(subject, ?)
) WHERE place = 1 AND kind <> 'recovery'"""


def open_troubles(reader: Reader, prefix: str) -> dict[str, dict[str, Any]]:
    """The newest alert of each subject that begins with `prefix` and has not recovered, by subject."""
    return {str(row["subject"]): row for row in reader.rows(_NEWEST, (prefix,))}


def is_due_again(trouble: Mapping[str, Any] | None, runtime: Runtime, now: datetime) -> bool:
    """Whether a trouble that lasts is to be written again: four times a window, of which de-duplication sends one.

    Once only would be lost where it began within the window of the trouble before.
    """
    if trouble is None:
        return True
    return (now - trouble["created_at"]).total_seconds() >= max(60.0, runtime.settings.alert_window_min * 15)


def alert_marks(runtime: Runtime) -> dict[str, Any]:
    """What every alert says of where it comes from: demo, and the gates that do not block."""
    return {"demo": runtime.settings.mode == "demo", "gates_off": runtime.settings.gates_off}


def write_alerts(tx: Transaction, runtime: Runtime, rows: Sequence[Mapping[str, Any]], run_id: str = "alerts") -> int:
    """Put `rows` into the outbox within the caller's transaction; how many were new."""
    if not rows:
        return 0
    marks = {"source": runtime.settings.source, "run_id": run_id, "code_version": __version__}
    return tx.insert_new("alerts", conform("alerts", outbox(rows, **alert_marks(runtime)), marks)).inserted
