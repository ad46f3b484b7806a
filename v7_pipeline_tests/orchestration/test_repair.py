"""Six hours of downtime on a real Dagster instance: the pipeline is complete again by itself, and decided nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.launch import execute_scan
from v7_pipeline.orchestration.logger import JSON_CONFIG
from v7_pipeline.orchestration.partitions import SCAN_TAG
from v7_pipeline.orchestration.repair import REPAIR_JOB, REPAIR_SENSOR
from v7_pipeline.scan.repair import missing
from v7_pipeline.scan.runtime import build_runtime

BEFORE = datetime(2026, 3, 3, 6, 0, tzinfo=UTC)
AFTER = BEFORE + timedelta(hours=6)
Make = Callable[..., Any]


def tick(runtime: Any, instance: dg.DagsterInstance) -> Any:
    """One evaluation of the sensor, as the daemon does it."""
    repository = build_definitions(runtime.settings, runtime=runtime).get_repository_def()
    with dg.build_sensor_context(instance=instance, repository_def=repository) as context:
        return repository.get_sensor_def(REPAIR_SENSOR).evaluate_tick(context)


def test_before_the_first_scan_there_is_nothing_to_repair(make_settings: Make) -> None:
    with dg.instance_for_test() as instance:
        data = tick(build_runtime(make_settings()), instance)
    assert not data.run_requests and "nothing to repair yet" in data.skip_message


@pytest.mark.slow
def test_after_six_hours_of_downtime_everything_is_there_within_five_minutes_and_no_signal_for_the_past(
    make_runtime: Make,
) -> None:
    now = [BEFORE + timedelta(seconds=5)]
    runtime = make_runtime(now[0], symbols="BTC-USD,ETH-USD", repair_days=1, analyst="rules")
    runtime.clock = lambda: now[0]
    defs = build_definitions(runtime.settings, runtime=runtime)
    job = defs.resolve_job_def(REPAIR_JOB)
    assert job.run_tags[SCAN_TAG] == "1"  # never beside a scan
    with dg.instance_for_test() as instance:
        execute_scan(defs, instance, BEFORE)
        now[0] = AFTER + timedelta(seconds=5)
        began = time.monotonic()
        execute_scan(defs, instance, AFTER)
        (request,) = tick(runtime, instance).run_requests
        assert "loggers" not in request.run_config
        spoken = replace(runtime, settings=runtime.settings.model_copy(update={"log_json": True}))
        assert tick(spoken, instance).run_requests[0].run_config == request.run_config | JSON_CONFIG
        assert tick(runtime, instance).run_requests[0].run_key == request.run_key  # launched once
        result = job.execute_in_process(instance=instance, run_config=request.run_config)
        took = time.monotonic() - began
        assert result.success and took < 300 - 60 - 120  # a sensor's interval and a scan's come on top
        told = tick(runtime, instance)
        assert not told.run_requests and told.skip_message == "no candle and no reading is missing"
        events = [event.asset_key.to_user_string() for event in result.all_events if event.is_step_materialization]
    assert set(events) == {"candles", "theory_features"} or set(events) == {"theory_features"}
    assert not missing(runtime.store, runtime.settings, now[0])
    holes = runtime.store.rows(
        "SELECT count(*) AS n FROM candles c ANTI JOIN theory_features f "
        "ON f.symbol = c.symbol AND f.as_of = c.open_time + INTERVAL 1 MINUTE WHERE c.open_time >= ?",
        (BEFORE,),
    )
    assert holes == [{"n": 0}]
    instants = runtime.store.rows("SELECT DISTINCT as_of FROM llm_signals ORDER BY 1")
    assert [row["as_of"] for row in instants] == [BEFORE, AFTER]
