"""The jobs: `scan` (its six assets), `backfill_features` (candles and readings of days), `backtest` (a span replayed
and reported), and the heavy checks'.

`hourly_checks` and `daily_checks` only look; the scan leaves them out, and so never imports what they need.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from v7_pipeline.orchestration.assets.backtest_report import BACKTEST_REPORT
from v7_pipeline.orchestration.checks.base import Check
from v7_pipeline.orchestration.checks.heavy import DAILY, HOURLY
from v7_pipeline.orchestration.logger import JSON_CONFIG
from v7_pipeline.orchestration.partitions import SCAN_TAG
from v7_pipeline.settings import Settings

__all__ = ["BACKFILL_JOB", "BACKTEST_JOB", "DAILY_JOB", "HOURLY_JOB", "SCAN_JOB", "build_jobs"]

SCAN_JOB = "scan"
BACKFILL_JOB = "backfill_features"
BACKTEST_JOB = "backtest"
HOURLY_JOB = "hourly_checks"
DAILY_JOB = "daily_checks"


def build_jobs(settings: Settings) -> dict[str, Any]:
    """All jobs by name. In-process: a process a step would cost twenty seconds of start-up a scan."""
    config: Any = JSON_CONFIG if settings.log_json else None
    scan = dg.define_asset_job(
        SCAN_JOB,
        config=config,
        selection=dg.AssetSelection.all() - dg.AssetSelection.assets(BACKTEST_REPORT) - _selection(*HOURLY, *DAILY),
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
    backtest = dg.define_asset_job(
        BACKTEST_JOB,
        config=config,
        selection=dg.AssetSelection.assets(BACKTEST_REPORT),
        executor_def=dg.in_process_executor,
        description="The scans of a span again over stored candles; the report is linked from the materialisation.",
        run_tags={"v7/backtest": "1"},
    )
    hourly = dg.define_asset_job(
        HOURLY_JOB,
        config=config,
        selection=_selection(*HOURLY),
        executor_def=dg.in_process_executor,
        description="Looks at the UTC day so far: schema, completeness, jumps, counts. Writes nothing.",
    )
    daily = dg.define_asset_job(
        DAILY_JOB,
        config=config,
        selection=_selection(*DAILY),
        executor_def=dg.in_process_executor,
        description="Looks at yesterday: look-ahead audit, live = backfill, drift, equity. Writes nothing.",
    )
    return {SCAN_JOB: scan, BACKFILL_JOB: backfill, BACKTEST_JOB: backtest, HOURLY_JOB: hourly, DAILY_JOB: daily}


def _selection(*checks: Check) -> dg.AssetSelection:
    return dg.AssetSelection.checks(*(dg.AssetCheckKey(dg.AssetKey(check.asset), check.name) for check in checks))
