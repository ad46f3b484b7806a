"""The outbox's other end: take what is pending, deliver it, and write down what became of it.

Called by the sensor and by nobody inside a scan: delivery never holds a scan up.
"""

from __future__ import annotations

from v7_pipeline.alerts.deliver import deliver
from v7_pipeline.scan.runtime import Runtime

__all__ = ["deliver_pending"]

_AT_ONCE = 20


def deliver_pending(runtime: Runtime) -> tuple[int, int]:
    """Deliver the oldest pending alerts; returns (delivered, failed). Without destinations they are marked so."""
    pending = runtime.store.query(
        f"SELECT * FROM alerts WHERE status = 'pending' ORDER BY created_at, alert_id LIMIT {_AT_ONCE}"
    )
    if pending.empty:
        return 0, 0
    results = deliver(pending, runtime.settings.alert_urls, now=runtime.clock())
    with runtime.store.transaction() as tx:
        for row in results.to_dict("records"):
            delivered_at = None if row["delivered_at"] != row["delivered_at"] else row["delivered_at"]
            tx.execute(
                "UPDATE alerts SET status = ?, attempts = ?, delivered_at = ?, error = ? WHERE alert_id = ?",
                (row["status"], row["attempts"], delivered_at, row["error"], row["alert_id"]),
            )
    return int((results["status"] == "delivered").sum()), int((results["status"] == "failed").sum())
