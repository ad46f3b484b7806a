"""What all six assets share: partitions, owner, column schema, and the scan's context from the run."""

from __future__ import annotations

from typing import Any

import dagster as dg

from v7_pipeline.orchestration.metadata import column_schema
from v7_pipeline.orchestration.partitions import instant_of
from v7_pipeline.scan.context import ScanContext
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.schema import TABLES

__all__ = ["asset_arguments", "scan_context"]


def asset_arguments(
    table: str, group: str, kinds: set[str], partitions: dg.DailyPartitionsDefinition
) -> dict[str, Any]:
    """Keyword arguments of `dg.asset` for the asset that fills `table`."""
    entry = TABLES[table]
    return {
        "name": table,
        "description": f"{entry.description} Key: {', '.join(entry.key)}.",
        "group_name": group,
        "kinds": kinds,
        "owners": ["team:v7"],
        "partitions_def": partitions,
        "io_manager_key": "io_manager",
        # The same for all six, since a job runs under one policy; decisions refuse past days by themselves.
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "metadata": {"dagster/column_schema": column_schema(table), "dagster/table_name": table},
    }


def scan_context(context: dg.AssetExecutionContext, runtime: Runtime) -> ScanContext:
    """The scan's context at the run's instant."""
    return runtime.context(instant_of(context, runtime.clock), context.run.run_id)
