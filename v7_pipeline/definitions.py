"""The definitions that Dagster loads, and `build_definitions` for everyone who needs them with other parts.

Nothing is decided here: this module only puts the assets, jobs, schedule, sensors and resources together.
"""

from __future__ import annotations

import warnings
from typing import Any

import dagster as dg

# Single-run backfills and code references are marked beta or preview in this Dagster; the pins are exact.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from v7_pipeline.logs import configure  # noqa: E402
from v7_pipeline.orchestration.assets import build_assets  # noqa: E402
from v7_pipeline.orchestration.checks import build_checks  # noqa: E402
from v7_pipeline.orchestration.io_manager import StoreIOManager  # noqa: E402
from v7_pipeline.orchestration.jobs import SCAN_JOB, build_jobs  # noqa: E402
from v7_pipeline.orchestration.logger import build_loggers  # noqa: E402
from v7_pipeline.orchestration.partitions import daily  # noqa: E402
from v7_pipeline.orchestration.resources import store_resource  # noqa: E402
from v7_pipeline.orchestration.retention import build_retention  # noqa: E402
from v7_pipeline.orchestration.schedules import build_check_schedules, build_schedule  # noqa: E402
from v7_pipeline.orchestration.sensors import build_sensors  # noqa: E402
from v7_pipeline.scan.runtime import Runtime, build_runtime  # noqa: E402
from v7_pipeline.settings import Settings, load_settings  # noqa: E402

__all__ = ["build_definitions", "defs"]


def build_definitions(
    settings: Settings | None = None,
    *,
    runtime: Runtime | None = None,
    cron: str = "*/2 * * * *",
    **overrides: Any,
) -> dg.Definitions:
    """Fresh definitions; `runtime`, or its parts by keyword (store, market, analyst, clock), may be given.

    Raises SettingsError where a setting is wrong.
    """
    settings = settings or (runtime.settings if runtime else load_settings())
    configure(settings)
    duckdb_resource = store_resource(settings)
    if runtime is None:
        runtime = build_runtime(settings, **overrides)
    jobs = build_jobs(settings)
    retention_job, retention_schedule = build_retention(runtime)
    resources: dict[str, Any] = {"runtime": runtime, "io_manager": StoreIOManager(runtime)}
    if duckdb_resource is not None:
        resources["duckdb"] = duckdb_resource
    return dg.Definitions(
        assets=dg.with_source_code_references(build_assets(daily(settings.first_day))),
        asset_checks=build_checks(runtime),
        jobs=[*jobs.values(), retention_job],
        schedules=[build_schedule(settings, jobs[SCAN_JOB]), *build_check_schedules(jobs), retention_schedule],
        sensors=build_sensors(runtime),
        resources=resources,
        executor=dg.in_process_executor,
        loggers=build_loggers(settings),
    )


defs = build_definitions()
