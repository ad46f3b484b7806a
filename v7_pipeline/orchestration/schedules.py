"""The schedules: a scan every two minutes, skipped while one is in flight; the heavy checks every hour and every day.

A tick's time is the instant that its run looks at or scans.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from v7_pipeline.orchestration.jobs import DAILY_JOB, HOURLY_JOB, SCAN_JOB
from v7_pipeline.orchestration.partitions import AS_OF_TAG, as_of_text, partition_of
from v7_pipeline.scan.context import minute
from v7_pipeline.settings import Settings

__all__ = ["SCHEDULE", "build_check_schedules", "build_schedule", "in_flight"]

SCHEDULE = "every_two_minutes"

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_schedule(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    """The schedule of `job`, running from the start."""

    @dg.schedule(
        name=SCHEDULE,
        job=job,
        cron_schedule=settings.scan_cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="One scan a tick; the tick's time is the scan's instant.",
    )
    def every_two_minutes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        as_of = minute(context.scheduled_execution_time)
        busy = in_flight(context.instance, bound_s=settings.in_flight_bound_s, now=datetime.now(UTC))
        if busy:
            run_id, age = busy
            return dg.SkipReason(
                f"run {run_id} of the scan is still in flight after {age:.0f} s; its tick is not doubled"
            )
        return dg.RunRequest(
            run_key=as_of_text(as_of), partition_key=partition_of(as_of), tags={AS_OF_TAG: as_of_text(as_of)}
        )

    return every_two_minutes


def build_check_schedules(jobs: Mapping[str, Any]) -> list[dg.ScheduleDefinition]:
    """The schedules of the hourly and the daily checks, running from the start.

    Seven minutes past the hour, so that its last candles have arrived, and on an odd minute, between two scans. The
    first hourly run of a day looks at the whole day before.
    """
    return [
        _check_schedule(jobs[HOURLY_JOB], "7 * * * *", "The heavy checks of the day so far."),
        _check_schedule(jobs[DAILY_JOB], "21 0 * * *", "The audits of the day before."),
    ]


def _check_schedule(job: Any, cron: str, description: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
    def checks_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        hour = minute(context.scheduled_execution_time).replace(minute=0)
        return dg.RunRequest(run_key=f"{job.name}-{as_of_text(hour)}", tags={AS_OF_TAG: as_of_text(hour)})

    return checks_schedule


def in_flight(instance: dg.DagsterInstance, *, bound_s: float, now: datetime) -> tuple[str, float] | None:
    """(run id, age in s) of an unfinished scan younger than `bound_s`, else None.

    After a host crash a run can stay STARTED for ever; beyond the bound it no longer blocks the schedule.
    """
    records = instance.get_run_records(dg.RunsFilter(job_name=SCAN_JOB, statuses=_UNFINISHED), limit=20)
    ages = [(record.dagster_run.run_id, (now - record.create_timestamp).total_seconds()) for record in records]
    young = [(run_id, age) for run_id, age in ages if age < bound_s]
    return min(young, key=lambda pair: pair[1]) if young else None
