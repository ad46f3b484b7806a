"""Model regimes: which model and fingerprint stood behind an analyst from when on, and behind each of its calls.

A changed model may answer the same question otherwise: what is learnt of one regime's answers says nothing of the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from v7_pipeline.analyst.base import ASKED_AGAIN
from v7_pipeline.store import arrow_rows
from v7_pipeline.store.schema import PROVENANCE

if TYPE_CHECKING:
    import pandas as pd

    from v7_pipeline.analyst.ledger import Ending
    from v7_pipeline.store import Reader, Transaction

__all__ = ["note_regimes", "regime_at", "regime_of", "regimes_table"]

UNNAMED = "?"

_IN_FORCE = "SELECT regime FROM model_regimes WHERE analyst = ? AND started_at <= ? ORDER BY started_at DESC LIMIT 1"
_NEXT = "SELECT regime FROM model_regimes WHERE analyst = ? AND started_at > ? ORDER BY started_at LIMIT 1"
_OF_CALLS = """
SELECT call_id, arg_max(coalesce(returned_model, ''), attempt) AS model,
       arg_max(coalesce(fingerprint, ''), attempt) AS fingerprint
FROM llm_calls
WHERE call_id IN (SELECT unnest(?::VARCHAR[])) AND (returned_model IS NOT NULL OR fingerprint IS NOT NULL)
GROUP BY call_id
"""
_TABLE = f"""
WITH named AS (
    SELECT analyst, coalesce(returned_model, '?') || '@' || coalesce(fingerprint, '?') AS regime, call_id, reserved_at,
           cost_usd
    FROM llm_calls
    WHERE (returned_model IS NOT NULL OR fingerprint IS NOT NULL) AND NOT regexp_matches(analyst, '{ASKED_AGAIN}')
), chosen AS (
    SELECT c.analyst, c.regime, s.signal_id, s.side, s.confidence
    FROM llm_signals s
    JOIN (SELECT call_id, any_value(analyst) AS analyst, arg_max(regime, reserved_at) AS regime FROM named
          GROUP BY call_id) c USING (call_id)
    WHERE s.status = 'answered'
), closed AS (
    SELECT signal_id, side, any_value(outcome) AS outcome, any_value(r_multiple) AS r_multiple
    FROM outcomes WHERE outcome <> 'open' AND kind IN ('paper', 'shadow') GROUP BY signal_id, side
), judged AS (
    SELECT c.analyst, c.regime, count(*) AS answered, count(*) FILTER (c.side IN ('BUY', 'SELL')) AS signals,
           count(o.outcome) FILTER (o.outcome IN ('win', 'loss')) AS decided,
           count(*) FILTER (o.outcome = 'win') AS won,
           avg(c.confidence) FILTER (o.outcome IN ('win', 'loss')) AS mean_confidence,
           avg(o.r_multiple) AS mean_r
    FROM chosen c LEFT JOIN closed o USING (signal_id, side) GROUP BY ALL
), seen AS (
    SELECT analyst, regime, min(reserved_at) AS first_call, max(reserved_at) AS last_call,
           count(DISTINCT call_id) AS calls, sum(cost_usd) AS cost_usd
    FROM named GROUP BY ALL
)
SELECT s.analyst, s.regime, s.first_call, s.last_call, s.calls, s.cost_usd, coalesce(j.answered, 0) AS answered,
       coalesce(j.signals, 0) AS signals, coalesce(j.decided, 0) AS decided, coalesce(j.won, 0) AS won,
       j.mean_confidence, j.won / nullif(j.decided, 0) AS win_rate, j.mean_r
FROM seen s LEFT JOIN judged j USING (analyst, regime) ORDER BY s.first_call, s.analyst, s.regime
"""


def regime_of(model: str | None, fingerprint: str | None) -> str:
    """The name of a regime: model@fingerprint as the answer names them, ? where it does not."""
    return f"{model or UNNAMED}@{fingerprint or UNNAMED}"


def note_regimes(tx: Transaction, endings: Sequence[Ending]) -> None:
    """Insert a row of model_regimes for each of `endings` whose model is not the one in force; part of their write.

    An answer that names neither model nor fingerprint says nothing, and one that was only asked again (ASKED_AGAIN) is
    of the regime of the analyst behind it. Calls are looked at in the order they were sent,
    not in the order their answers came.
    """
    deciding = [e.row for e in endings if not re.search(ASKED_AGAIN, e.row["analyst"])]
    named = [row for row in deciding if row["returned_model"] is not None or row["fingerprint"] is not None]
    for row in sorted(named, key=lambda row: (row["reserved_at"], row["call_id"], row["attempt"])):
        regime = regime_of(row["returned_model"], row["fingerprint"])
        place = (row["analyst"], row["reserved_at"])
        before = tx.rows(_IN_FORCE, place)
        # An answer that overtook this one may have opened the regime already.
        known = before or tx.rows(_NEXT, place)
        if known and known[0]["regime"] == regime:
            continue
        opened = _row(row, regime, before[0]["regime"] if before else None)
        tx.insert_new("model_regimes", arrow_rows("model_regimes", [opened]))


def regime_at(reader: Reader, call_ids: Sequence[str]) -> dict[str, str]:
    """The regime behind each of these calls, by the newest attempt that names its model; calls without one are absent.

    Calibration of an analyst's confidence groups by it (llm_signals.call_id).
    """
    rows = reader.rows(_OF_CALLS, (list(call_ids),))
    return {row["call_id"]: regime_of(row["model"], row["fingerprint"]) for row in rows}


def regimes_table(reader: Reader) -> pd.DataFrame:
    """One row an analyst and regime, oldest first: its calls and their cost, and how its confidence compares.

    Columns: analyst, regime, first_call, last_call (UTC), calls, cost_usd, answered (decisions), signals (BUY or SELL),
    decided (of which won or lost), won, mean_confidence (0 … 1, of the decided) beside win_rate (share of the decided;
    missing where there is none), mean_r (R, of the closed).
    """
    return reader.query(_TABLE)


def _row(call: Mapping[str, Any], regime: str, previous: str | None) -> dict[str, Any]:
    marks = {column.name: call[column.name] for column in PROVENANCE}
    return {
        "analyst": call["analyst"], "started_at": call["reserved_at"], "regime": regime, "call_id": call["call_id"],
        "model": call["returned_model"], "fingerprint": call["fingerprint"], "previous_regime": previous, **marks,
    }  # fmt: skip
