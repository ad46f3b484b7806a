"""What the store itself lets go of with time: the words of old calls, never what they cost or what came of them."""

from __future__ import annotations

from datetime import datetime

from v7_pipeline.store import Store

__all__ = ["forget_prompts"]

_OLD = "as_of < ? AND status <> 'reserved' AND (prompt <> '[]' OR raw_reply IS NOT NULL)"


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
