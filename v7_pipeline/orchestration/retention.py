"""What of Dagster's own records is kept: old runs go, together with the event file that SQLite leaves behind."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

__all__ = ["build_retention", "prune_runs"]


def prune_runs(instance: dg.DagsterInstance, *, older_than: datetime, limit: int = 500) -> int:
    """Delete finished runs created before `older_than` and unlink their event files; returns how many went."""
    finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    filters = dg.RunsFilter(created_before=older_than, statuses=finished)
    runs = [record.dagster_run.run_id for record in instance.get_run_records(filters, limit=limit, ascending=True)]
    shards = Path(instance.root_directory) / "history" / "runs" if instance.is_persistent else None
    for run_id in runs:
        instance.delete_run(run_id)
        if shards is not None:
            for suffix in ("", "-journal", "-wal", "-shm"):
                (shards / f"{run_id}.db{suffix}").unlink(missing_ok=True)
    return len(runs)


def build_retention(days: int = 14) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """The nightly job that prunes runs older than `days`, with its schedule."""

    @dg.op(description=f"Deletes finished runs older than {days} days and their event files.")
    def prune_old_runs(context: dg.OpExecutionContext) -> int:
        gone = prune_runs(context.instance, older_than=datetime.now(UTC) - timedelta(days=days))
        context.log.info(f"{gone} runs older than {days} days deleted")
        return gone

    @dg.job(executor_def=dg.in_process_executor, description="Keeps Dagster's own records from growing for ever.")
    def retention() -> None:
        prune_old_runs()

    schedule = dg.ScheduleDefinition(
        job=retention,
        cron_schedule="17 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return retention, schedule
