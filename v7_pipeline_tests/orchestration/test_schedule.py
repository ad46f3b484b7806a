"""The schedule: the tick is the instant, a scan in flight is not doubled, an orphan does not block for ever."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.jobs import SCAN_JOB
from v7_pipeline.orchestration.partitions import AS_OF_TAG, instant_of, parse_as_of
from v7_pipeline.orchestration.schedules import SCHEDULE, in_flight

TICK = datetime(2026, 3, 3, 12, 2, tzinfo=UTC)


@pytest.fixture
def defs(make_settings: Callable[..., Any]) -> dg.Definitions:
    return build_definitions(make_settings())


def _evaluate(defs: dg.Definitions, instance: dg.DagsterInstance) -> Any:
    schedule = defs.resolve_schedule_def(SCHEDULE)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=TICK, repository_def=defs.get_repository_def()
    )
    return schedule.evaluate_tick(context)


def test_the_tick_is_the_instant_of_the_scan(defs: dg.Definitions) -> None:
    with dg.instance_for_test() as instance:
        (request,) = _evaluate(defs, instance).run_requests
    assert request.tags[AS_OF_TAG] == "2026-03-03T12:02:00Z"
    assert request.partition_key == "2026-03-03"
    assert request.run_key == "2026-03-03T12:02:00Z"


def test_every_two_minutes_in_utc_and_on_from_the_start(defs: dg.Definitions) -> None:
    schedule = defs.resolve_schedule_def(SCHEDULE)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("*/2 * * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_lesson_32_a_tick_is_skipped_while_a_scan_is_in_flight(defs: dg.Definitions) -> None:
    with dg.instance_for_test() as instance:
        run = instance.create_run_for_job(defs.resolve_job_def(SCAN_JOB), status=dg.DagsterRunStatus.STARTED)
        data = _evaluate(defs, instance)
    assert not data.run_requests
    assert run.run_id in data.skip_message


def test_an_orphan_blocks_no_longer_than_the_bound(defs: dg.Definitions) -> None:
    with dg.instance_for_test() as instance:
        run = instance.create_run_for_job(defs.resolve_job_def(SCAN_JOB), status=dg.DagsterRunStatus.STARTED)
        now = datetime.now(UTC)
        busy = in_flight(instance, bound_s=420, now=now)
        assert busy is not None
        assert busy[0] == run.run_id
        assert in_flight(instance, bound_s=420, now=now + timedelta(seconds=421)) is None


def test_a_finished_scan_does_not_block(defs: dg.Definitions) -> None:
    with dg.instance_for_test() as instance:
        instance.create_run_for_job(defs.resolve_job_def(SCAN_JOB), status=dg.DagsterRunStatus.SUCCESS)
        assert in_flight(instance, bound_s=420, now=datetime.now(UTC)) is None


@pytest.mark.parametrize("text", ["2026-03-03T12:02:00Z", "2026-03-03T13:02:30+01:00"])
def test_lesson_04_an_instant_is_utc_and_a_whole_minute(text: str) -> None:
    assert parse_as_of(text) == TICK


@pytest.mark.parametrize("text", ["2026-03-03T12:02:00", "yesterday", ""])
def test_lesson_04_an_instant_without_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"time zone|no instant"):
        parse_as_of(text)


def test_todays_partition_without_an_instant_gets_one_that_its_re_execution_sees() -> None:
    with dg.instance_for_test() as instance:

        @dg.op
        def nothing() -> None: ...

        @dg.job
        def job() -> None:
            nothing()

        run = instance.create_run_for_job(job)

        class Context:
            run_id = run.run_id
            has_partition_key = True
            partition_key = "2026-03-03"
            asset_key = dg.AssetKey("llm_signals")

        context: Any = Context()
        context.instance, context.run = instance, run
        assert instant_of(context, lambda: TICK + timedelta(seconds=40)) == TICK
        # A later step, or a re-execution that copies the tags, must not move with the clock.
        assert instant_of(context, lambda: TICK + timedelta(minutes=9)) == TICK


def test_a_past_day_is_not_decided_afterwards() -> None:
    with dg.instance_for_test() as instance:

        @dg.op
        def nothing() -> None: ...

        @dg.job
        def job() -> None:
            nothing()

        run = instance.create_run_for_job(job)

        class Context:
            run_id = run.run_id
            has_partition_key = True
            partition_key = "2026-03-01"
            asset_key = dg.AssetKey("llm_signals")

        context: Any = Context()
        context.instance, context.run = instance, run
        with pytest.raises(dg.Failure, match="v7 scan --as-of"):
            instant_of(context, lambda: TICK)
