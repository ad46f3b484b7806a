"""The IO manager over the store: one transaction out, a partition's or a range's slice in.

Which rows a table may hold is the store's business (store/schema.py); what a step writes is the step's.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import pandas as pd

from v7_pipeline.scan.context import StepResult, Write, persist
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store import Counts
from v7_pipeline.store.schema import TABLES

__all__ = ["FACTS", "StoreIOManager"]

# Facts are written once: a second scan of the same instant leaves them as they are.
FACTS = frozenset({"llm_signals", "gated_signals", "llm_calls", "manual_trades", "halts", "scans"})


class StoreIOManager(dg.IOManager):
    """Writes a StepResult (or a plain frame for the asset's own table) and reads daily slices."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def handle_output(self, context: dg.OutputContext, obj: StepResult | pd.DataFrame) -> None:
        """Everything in one transaction; an empty frame replaces nothing."""
        table = _table_of(context.asset_key)
        if isinstance(obj, pd.DataFrame):
            obj = StepResult((Write(table, obj, "new" if table in FACTS else "upsert"),))
        counts = persist(self._runtime.store, obj)
        context.add_output_metadata(
            {f"written/{name}": _told(count) for name, count in counts.items()}
            | {"dagster/row_count": sum(len(w.frame) for w in obj.writes if w.table == table)}
        )

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """The rows of the partition or range of partitions that the consumer asks for; all rows where it has none."""
        table = _table_of(context.asset_key)
        bounds: dict[str, Any] = {}
        if context.has_asset_partitions:
            window = context.asset_partitions_time_window
            bounds = {"start": window.start, "end": window.end}
        return self._runtime.store.read(table, **bounds)


def _told(counts: Counts) -> str:
    """What was written, in words: only what happened is named."""
    parts = {"new": counts.inserted, "changed": counts.changed, "unchanged": counts.unchanged, "kept": counts.kept}
    return ", ".join(f"{count} {what}" for what, count in parts.items() if count) or "nothing"


def _table_of(key: dg.AssetKey) -> str:
    name = key.path[-1]
    if name not in TABLES:
        raise dg.DagsterInvariantViolationError(f"asset {key.to_user_string()} has no table in store/schema.py")
    return name
