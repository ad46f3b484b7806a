"""Sensors that alert of what Dagster alone knows: runs that ended, their checks, ticks without a run; and the pulse.

A plain sensor with a cursor of its own, since Dagster's run status sensor moves on when its function fails: with the
store busy an alert would be lost. It reads each run's events, which works on SQLite and on PostgreSQL.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import dagster as dg

from v7_pipeline.alerts.trouble import CheckSeen
from v7_pipeline.orchestration.schedules import SCHEDULE
from v7_pipeline.scan.alerting import deliver_pending
from v7_pipeline.scan.pulse import feel_pulse, run_ended, tell_ticks, write_summary
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.settings import Settings, without_secrets
from v7_pipeline.store import StoreBusy, StoreError

__all__ = ["RUN_SENSOR", "build_alert_sensors"]

RUN_SENSOR = "run_sensor"
PULSE_SENSOR = "pulse_sensor"

_AT_ONCE = 25
_OVERLAP = timedelta(seconds=60)  # runs may be written in another order than their times; seen ones are left out
_FIRST_LOOK = timedelta(minutes=15)
_STATUSES = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


def build_alert_sensors(runtime: Runtime) -> list[dg.SensorDefinition]:
    """The sensor of ended runs and the pulse's."""

    @dg.sensor(
        name=RUN_SENSOR,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts of failed runs and failed asset checks, and of their recovery; a run is looked at once.",
    )
    def run_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        after, seen = _cursor(context.cursor)
        told = 0
        try:
            for record in _ended_since(context.instance, after - _OVERLAP, _AT_ONCE + len(seen)):
                run = record.dagster_run
                if run.run_id not in seen:
                    told += _tell(runtime, context.instance, record)
                    seen[run.run_id] = _aware(record.update_timestamp)
                    after = max(after, _aware(record.update_timestamp))
        except StoreBusy as error:
            return _ended(context, after, seen, f"the store is busy, the rest follows: {error}")
        except StoreError as error:
            if runtime.store.schema_version() is not None:
                raise
            return _ended(context, after, seen, f"no store yet: {error}")
        said = f"{told} alert{'' if told == 1 else 's'} written"
        if told:  # at once: the outbox's own tick may be half a minute away
            with suppress(StoreBusy):
                delivered, failed = deliver_pending(runtime)
                said += f"; {delivered} delivered, {failed} failed"
        return _ended(context, after, seen, said)

    @dg.sensor(
        name=PULSE_SENSOR,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts of stale data, of ticks without a run and of scans that stay away, and of their return; "
        "writes the daily summary.",
    )
    def pulse_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            ticks = list(_ticks(context.instance, runtime.settings.alert_skipped_ticks))
            told = (feel_pulse(runtime), tell_ticks(runtime, ticks), write_summary(runtime))
        except StoreBusy as error:
            return dg.SkipReason(f"the store is busy: {error}")
        except StoreError as error:
            if runtime.store.schema_version() is not None:
                raise
            return dg.SkipReason(f"nothing to feel yet: {error}")
        return dg.SkipReason("; ".join(told))

    return [run_sensor, pulse_sensor]


def _cursor(text: str | None) -> tuple[datetime, dict[str, datetime]]:
    """(newest update that was looked at, runs that were); a cursor that cannot be read begins anew."""
    try:
        kept = json.loads(text or "{}")
        seen = {str(run): datetime.fromisoformat(at) for run, at in kept["seen"].items()}
        return datetime.fromisoformat(kept["after"]), seen
    except (ValueError, KeyError, TypeError, AttributeError):
        return datetime.now(UTC) - _FIRST_LOOK, {}


def _ended(context: dg.SensorEvaluationContext, after: datetime, seen: dict[str, datetime], told: str) -> dg.SkipReason:
    """Keep how far the look went: what was told is not asked again, and what was not is."""
    recent = {run: at.isoformat() for run, at in seen.items() if _aware(at) >= after - 2 * _OVERLAP}
    context.update_cursor(json.dumps({"after": after.isoformat(), "seen": recent}))
    return dg.SkipReason(told)


def _ended_since(instance: dg.DagsterInstance, since: datetime, limit: int) -> Any:
    return instance.get_run_records(
        dg.RunsFilter(statuses=_STATUSES, updated_after=since.astimezone(UTC)),
        limit=limit,
        order_by="update_timestamp",
        ascending=True,
    )


def _tell(runtime: Runtime, instance: dg.DagsterInstance, record: Any) -> int:
    run = record.dagster_run
    at = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else _aware(record.update_timestamp)
    pages = _pages(runtime.settings)
    partition = run.tags.get("dagster/partition")
    failed = run.status is dg.DagsterRunStatus.FAILURE
    return run_ended(
        runtime,
        run.job_name,
        run.run_id,
        at=at,
        failure=_error(instance, run.run_id) if failed else None,
        partition=partition,
        link=f"{pages}/runs/{run.run_id}",
        checks=[_seen(event, run.run_id, at, partition, pages) for event in _evaluations(instance, run.run_id)],
    )


def _evaluations(instance: dg.DagsterInstance, run_id: str) -> Iterator[Any]:
    """The run's newest evaluation of each check."""
    found = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    newest: dict[Any, Any] = {}
    for record in found:
        event = record.event_log_entry.dagster_event
        if event is not None:
            newest[event.asset_check_evaluation_data.asset_check_key] = event.asset_check_evaluation_data
    yield from newest.values()


def _seen(evaluation: Any, run_id: str, at: datetime, partition: str | None, pages: str) -> CheckSeen:
    path = "/".join(quote(part, safe="") for part in evaluation.asset_key.path)
    return CheckSeen(
        asset=evaluation.asset_key.to_user_string(),
        check=evaluation.check_name,
        passed=evaluation.passed,
        run_id=run_id,
        at=at,
        partition=evaluation.partition or partition,
        figures={name: without_secrets(_plain(value)) for name, value in evaluation.metadata.items()},
        link=f"{pages}/assets/{path}?view=checks&checkDetail={quote(evaluation.check_name, safe='')}",
        error=evaluation.severity is dg.AssetCheckSeverity.ERROR,
        blocking=bool(evaluation.blocking),
        description=without_secrets(evaluation.description) if evaluation.description else None,
    )


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def _error(instance: dg.DagsterInstance, run_id: str) -> str:
    """The failed steps' own sentences, or the run's."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    steps: list[str] = []
    whole = ""
    for record in instance.get_records_for_run(run_id, of_type=kinds).records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            steps.append(f"{event.step_key}: {str(error.message).strip() if error else event.message}")
        else:
            whole = event.message or whole
    return without_secrets("; ".join(steps) or whole or "unknown; see the run's page")


def _ticks(instance: dg.DagsterInstance, count: int) -> Iterator[tuple[datetime, str | None]]:
    """(instant, why no run was started or None) of the schedule's newest ended ticks, newest first."""
    from dagster._core.scheduler.instigation import InstigatorType, TickStatus

    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.instigator_name == SCHEDULE:
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=count + 1):
                when = datetime.fromtimestamp(tick.timestamp, UTC)
                if tick.status is TickStatus.SUCCESS:
                    yield when, None
                elif tick.status is TickStatus.SKIPPED:
                    yield when, tick.skip_reason or "skipped without a reason"
                elif tick.status is TickStatus.FAILURE:
                    error = str(tick.error.message).strip() if tick.error else "unknown"
                    yield when, f"the tick failed: {without_secrets(error)}"
            return


def _pages(settings: Settings) -> str:
    """Where Dagster's pages are; every address is reached by the machine's own."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.ui_port}"


def _aware(at: datetime) -> datetime:
    """Dagster gives instants of its storages without a zone; they are UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
