"""What is kept of Dagster's own records, so that disk use levels off: old runs go with all that they left behind.

Of the store only words of old calls and deliveries of old alerts go (scan/forget.py); facts stay. Of backtests the
newest are kept (backtest/kept.py).
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from v7_pipeline.orchestration.assets.backtest_report import BACKTEST_REPORT
from v7_pipeline.orchestration.jobs import BACKFILL_JOB, SCAN_JOB
from v7_pipeline.orchestration.logger import JSON_CONFIG
from v7_pipeline.scan.forget import forget_deliveries, forget_prompts
from v7_pipeline.scan.runtime import Runtime

__all__ = ["build_retention", "linked_backtests", "newest_runs", "prune_runs", "prune_shards", "prune_ticks"]

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_PARTITION = "dagster/partition"
_PAGE = 200
_SUFFIXES = ("", "-journal", "-wal", "-shm")


def prune_runs(instance: dg.DagsterInstance, *, older_than: datetime, days_older_than: datetime | None = None) -> int:
    """Delete finished runs created before `older_than`, and with them events, check results, event file and logs.

    Kept: the run of the newest materialisation of each asset, whatever its age; and, until `days_older_than`, the last
    successful scan of each partition and backfills, so that days stay green in the pages. Returns how many went.
    """
    newest = newest_runs(instance)
    last: dict[str, str | None] = {}
    gone: list[str] = []
    for record in _finished(instance, older_than):
        run = record.dagster_run
        if run.run_id in newest:
            continue
        young = days_older_than is not None and record.create_timestamp >= days_older_than
        if young and (run.job_name == BACKFILL_JOB or _is_last(instance, run, last)):
            continue
        gone.append(run.run_id)
    _forget_checks(instance, gone)  # first: of a run that is gone nobody would find them again
    for run_id in gone:
        _delete(instance, run_id)
    return len(gone)


def newest_runs(instance: dg.DagsterInstance) -> set[str]:
    """The runs that hold the newest materialisation of an asset."""
    events = (instance.get_latest_materialization_event(key) for key in instance.all_asset_keys())
    return {event.run_id for event in events if event is not None}


def prune_shards(instance: dg.DagsterInstance, *, older_than: datetime) -> int:
    """Unlink event files last written before `older_than` whose run is gone: of a deletion that was killed midway."""
    folder = _shards(instance)
    if folder is None or not folder.is_dir():
        return 0
    gone = 0
    for file in folder.glob("*.db"):
        old = datetime.fromtimestamp(file.stat().st_mtime, UTC) < older_than
        if file.stem != "index" and old and not instance.has_run(file.stem):
            _unlink(folder, file.stem)
            gone += 1
    return gone


def prune_ticks(instance: dg.DagsterInstance, *, older_than: datetime) -> int:
    """Delete ticks before `older_than` of every schedule and sensor, also of those that there are no more.

    Dagster's own retention looks at a sensor only while it ticks. Returns for how many schedules and sensors.
    """
    from dagster._core.scheduler.instigation import TickStatus

    states = list(instance.all_instigator_state())
    for state in states:
        instance.purge_ticks(
            state.instigator_origin_id,
            state.selector_id,
            older_than.timestamp(),
            [status for status in TickStatus if status is not TickStatus.STARTED],
        )
    return len(states)


def linked_backtests(instance: dg.DagsterInstance) -> set[str]:
    """Run ids of the backtests that the newest materialisation of backtest_report links to."""
    event = instance.get_latest_materialization_event(dg.AssetKey(BACKTEST_REPORT))
    story = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return {str(story["backtest"].value)} if "backtest" in story else set()


def build_retention(runtime: Runtime) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """The nightly job that lets go of what is older than the settings say, with its schedule."""
    settings = runtime.settings

    @dg.op(
        description=f"Runs older than {settings.retention_run_days} days (the last of a day: "
        f"{settings.retention_day_days}), ticks older than {settings.retention_tick_days}, the words of calls "
        f"older than {settings.retention_prompt_days} and deliveries of alerts older than "
        f"{settings.retention_delivery_days}; all but the newest {settings.retention_backtests} backtests."
    )
    def prune_old_runs(context: dg.OpExecutionContext) -> None:
        from v7_pipeline.backtest.kept import forget_backtests  # a scan never needs it

        instance, now = context.instance, datetime.now(UTC)
        bound = now - timedelta(days=settings.retention_run_days)
        gone = prune_runs(instance, older_than=bound, days_older_than=now - timedelta(days=settings.retention_day_days))
        shards = prune_shards(instance, older_than=bound)
        prune_ticks(instance, older_than=now - timedelta(days=settings.retention_tick_days))
        words = deliveries = 0
        if runtime.store.schema_version() is not None:
            store, clock = runtime.prepare_store(), runtime.clock()
            words = forget_prompts(store, clock - timedelta(days=settings.retention_prompt_days))
            deliveries = forget_deliveries(store, clock - timedelta(days=settings.retention_delivery_days))
        backtests = forget_backtests(
            settings.data_dir / "backtest",
            keep=settings.retention_backtests,
            now=now,
            spared=linked_backtests(instance),
        )
        context.log.info(
            f"{gone} runs, {shards} lost event files, the words of {words} calls, {deliveries} deliveries and "
            f"{backtests} backtests deleted"
        )

    @dg.job(
        config=JSON_CONFIG if settings.log_json else {},
        executor_def=dg.in_process_executor,
        description="Keeps Dagster's own records from growing for ever.",
    )
    def retention() -> None:
        prune_old_runs()

    schedule = dg.ScheduleDefinition(
        job=retention,
        cron_schedule="17 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return retention, schedule


def _finished(instance: dg.DagsterInstance, older_than: datetime) -> Iterator[dg.RunRecord]:
    """Records of finished runs created before `older_than`, a page at a time."""
    filters = dg.RunsFilter(created_before=older_than, statuses=_FINISHED)
    cursor: str | None = None
    while True:
        page = instance.get_run_records(filters, limit=_PAGE, cursor=cursor, ascending=True)
        yield from page
        if len(page) < _PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _is_last(instance: dg.DagsterInstance, run: dg.DagsterRun, last: dict[str, str | None]) -> bool:
    """Whether `run` is the newest successful scan of its partition; `last` remembers what was asked before."""
    day = run.tags.get(_PARTITION)
    if day is None or run.job_name != SCAN_JOB:
        return False
    if day not in last:
        filters = dg.RunsFilter(job_name=SCAN_JOB, statuses=[dg.DagsterRunStatus.SUCCESS], tags={_PARTITION: day})
        found = instance.get_run_records(filters, limit=1)
        last[day] = found[0].dagster_run.run_id if found else None
    return last[day] == run.run_id


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    """The run, its events, its event file and its captured output."""
    instance.delete_run(run_id)
    folder = _shards(instance)
    if folder is not None:
        _unlink(folder, run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])


def _forget_checks(instance: dg.DagsterInstance, runs: list[str]) -> None:
    """Results of asset checks of `runs`: Dagster leaves them behind when it deletes a run, a kilobyte or more each.

    Their table is internal, and the version is pinned.
    """
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

    storage: Any = instance.event_log_storage
    for start in range(0, len(runs), _PAGE):
        some = AssetCheckExecutionsTable.c.run_id.in_(runs[start : start + _PAGE])
        with storage.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.delete().where(some))


def _shards(instance: dg.DagsterInstance) -> Path | None:
    return Path(instance.root_directory) / "history" / "runs" if instance.is_persistent else None


def _unlink(folder: Path, run_id: str) -> None:
    for suffix in _SUFFIXES:
        (folder / f"{run_id}.db{suffix}").unlink(missing_ok=True)
