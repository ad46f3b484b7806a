"""The watching sensors on a real Dagster instance: on from the start, telling figures, skipping what is busy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.definitions import build_definitions
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.store import SchemaError
from v7_pipeline_tests.scan.watched import NOW, alerts, halts, put_call, put_closed, watched

WATCHING = ("budget_sensor", "ftmo_sensor")
HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def tick(runtime: Runtime, name: str, instance: dg.DagsterInstance) -> str:
    """One evaluation of the sensor as the daemon does it; what it skips with."""
    defs = build_definitions(runtime.settings, runtime=runtime)
    sensor = defs.get_repository_def().get_sensor_def(name)
    with dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def()) as context:
        data = sensor.evaluate_tick(context)
    assert not data.run_requests
    return str(data.skip_message)


def test_both_run_from_the_start_within_a_minute(make_settings: Make) -> None:
    sensors = {sensor.name: sensor for sensor in build_definitions(make_settings()).sensors or ()}
    assert set(sensors) == {"alert_outbox", "run_sensor", "pulse_sensor", "repair_sensor", *WATCHING}
    for name in WATCHING:
        assert sensors[name].default_status is dg.DefaultSensorStatus.RUNNING
        assert 30 <= sensors[name].minimum_interval_seconds <= 60  # type: ignore[union-attr, operator]


def test_a_tick_tells_the_figures(make_settings: Make, instance: dg.DagsterInstance) -> None:
    runtime = watched(make_settings)
    put_call(runtime, "c", 0.36, at=NOW)
    assert tick(runtime, "budget_sensor", instance) == "day 12 % of $3.00, month 0 % of $100.00"
    assert tick(runtime, "ftmo_sensor", instance).startswith(
        "daily 0 % of $5,000.00 used, total 0 % of $10,000.00 used"
    )
    assert not alerts(runtime)


def test_a_tick_alerts_and_halts_once_also_after_a_restart(make_settings: Make, instance: dg.DagsterInstance) -> None:
    runtime = watched(make_settings)
    put_call(runtime, "c", 3.0, at=NOW, reserved_usd=0.01)
    put_closed(runtime, -5_001.0, NOW.replace(minute=0, hour=11))
    for restarted in (False, True):
        own = build_runtime(runtime.settings, clock=runtime.clock) if restarted else runtime
        told = [tick(own, name, instance) for name in WATCHING]
        assert [text.partition("; ")[2] for text in told] == (
            ["", ""] if restarted else ["1 alert written", "3 alerts written"]
        )
        runtime.clock.pass_(seconds=60)  # type: ignore[attr-defined]
    assert {row["kind"] for row in halts(runtime)} == {"budget", "daily"}
    assert len(alerts(runtime)) == 4


@pytest.mark.parametrize("name", WATCHING)
def test_before_the_first_scan_there_is_nothing_to_watch(
    make_settings: Make, instance: dg.DagsterInstance, name: str
) -> None:
    settings = make_settings()
    told = tick(build_runtime(settings, clock=lambda: NOW), name, instance)
    assert told.startswith("nothing to watch yet: ") and "run v7 scan or v7 up first" in told
    assert not settings.data_dir.exists()


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Another process has the store's file open for writing."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.communicate(b"")


def test_a_locked_store_is_skipped_with_the_reason_and_looked_at_again_later(
    make_settings: Make, instance: dg.DagsterInstance
) -> None:
    runtime = watched(make_settings, store_wait_s=0.2)
    put_call(runtime, "c", 2.5, at=NOW)
    put_closed(runtime, -2_500.0, NOW.replace(minute=0, hour=11))
    runtime.clock.pass_(seconds=1)  # type: ignore[attr-defined]
    runtime.store.close()
    with held(Path(runtime.settings.store_url.partition(":")[2])):
        for name in WATCHING:
            assert "the store is busy: " in tick(runtime, name, instance)
    for name in WATCHING:
        assert tick(runtime, name, instance).endswith("; 1 alert written")


@pytest.mark.parametrize("name", WATCHING)
def test_any_other_error_fails_the_tick(make_settings: Make, instance: dg.DagsterInstance, name: str) -> None:
    runtime = watched(make_settings)
    with runtime.store.transaction() as tx:
        tx.execute("DELETE FROM schema_version")
        tx.execute("INSERT INTO schema_version VALUES (99, now(), 'a newer one')")
    newer = build_runtime(runtime.settings, clock=lambda: NOW)
    with pytest.raises(SchemaError, match="schema version 99"):
        tick(newer, name, instance)
