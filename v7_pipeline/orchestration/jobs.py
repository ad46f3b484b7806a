"""The two jobs: `scan` (all six assets in one process) and `backfill_features` (candles and readings of whole days)."""

from __future__ import annotations

from typing import Any

import dagster as dg

from v7_pipeline.orchestration.logger import JSON_CONFIG
from v7_pipeline.orchestration.partitions import SCAN_TAG
from v7_pipeline.settings import Settings

__all__ = ["BACKFILL_JOB", "SCAN_JOB", "build_jobs"]

SCAN_JOB = "scan"
BACKFILL_JOB = "backfill_features"


def build_jobs(settings: Settings) -> dict[str, Any]:
    """Both jobs by name. In-process: a process a step would cost twenty seconds of start-up a scan."""
    config: Any = JSON_CONFIG if settings.log_json else None
    scan = dg.define_asset_job(
        SCAN_JOB,
        config=config,
        selection=dg.AssetSelection.all(),
        executor_def=dg.in_process_executor,
        description="One scan: fetch, read, decide, gate, follow, attribute. The instant is the run's tag v7/as_of.",
        # The limit of one on this tag (dagster.yaml) keeps two scans from running at once.
        tags={SCAN_TAG: "1"},
        run_tags={SCAN_TAG: "1", "dagster/max_runtime": str(settings.max_run_s)},
    )
    backfill = dg.define_asset_job(
        BACKFILL_JOB,
        config=config,
        selection=dg.AssetSelection.assets("candles", "theory_features").without_checks(),
        executor_def=dg.in_process_executor,
        description="Candles and readings of a range of days, in one run.",
        run_tags={"v7/backfill": "1"},
    )
    return {SCAN_JOB: scan, BACKFILL_JOB: backfill}
