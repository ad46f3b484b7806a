"""What the store itself lets go of with time: words of old calls and deliveries of old alerts.

What a call cost, what came of it and what was alerted is never let go.
"""

from __future__ import annotations

from datetime import datetime

from v7_pipeline.store import Store

__all__ = ["forget_deliveries", "forget_prompts"]

_OLD = "as_of < ? AND status <> 'reserved' AND (prompt <> '[]' OR raw_reply IS NOT NULL)"

# What de-duplication and recoveries still look at stays: of each subject the newest that was told, trouble and recovery
# apart. An alert that still waits somewhere keeps all of its deliveries, or it would be planned and sent anew.
_ENDED = """
created_at < ? AND status IN ('delivered', 'failed', 'suppressed')
AND alert_id NOT IN (SELECT alert_id FROM alerts WHERE status = 'pending')
AND (alert_id, destination) NOT IN (
    SELECT (alert_id, destination) FROM (
        SELECT d.alert_id, d.destination, row_number() OVER (
            PARTITION BY d.destination, a.subject, a.kind = 'recovery' ORDER BY d.delivered_at DESC, a.created_at DESC
        ) AS place
        FROM alert_deliveries d JOIN alerts a USING (alert_id)
        WHERE d.status = 'delivered' AND a.subject IS NOT NULL
    ) WHERE place = 1
)"""


def forget_deliveries(store: Store, before: datetime) -> int:
    """Delete ended deliveries of alerts older than `before`; returns how many. The alerts themselves stay.

    What was told last of a subject stays at each destination, so that a recovery still finds whom to tell.
    """
    with store.transaction() as tx:
        count = int(tx.rows(f"SELECT count(*) AS n FROM alert_deliveries WHERE {_ENDED}", (before,))[0]["n"])
        if count:
            tx.execute(f"DELETE FROM alert_deliveries WHERE {_ENDED}", (before,))
    return count


def forget_prompts(store: Store, before: datetime) -> int:
    """Empty messages and replies of settled calls of scans before `before`; returns of how many attempts.

    Hash, usage, cost, model and decision stay. Such a call can be neither shown nor replayed any more: without
    finish_reason it has no reply that could be read.
    """
    with store.transaction() as tx:
        count = int(tx.rows(f"SELECT count(*) AS n FROM llm_calls WHERE {_OLD}", (before,))[0]["n"])
        if count:
            tx.execute(
                f"UPDATE llm_calls SET prompt = '[]', raw_reply = NULL, finish_reason = NULL WHERE {_OLD}", (before,)
            )
    return count
