"""Alerts of what Dagster alone knows, on a real instance: failed checks and runs, their recovery, ticks, the pulse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.alert_sensors import RUN_SENSOR
from v7_pipeline.scan.pulse import feel_pulse, tell_ticks, write_summary
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline_tests.orchestration.test_sensors import held
from v7_pipeline_tests.scan.watched import NOW, Clock, alerts, put, put_closed, titles, watched

Make = Callable[..., Any]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def planted(*, passed: bool, crash: bool = False, severity: str = "ERROR") -> dg.JobDefinition:
    """A run with one asset and its check, as a scan has them."""

    @dg.asset
    def candles() -> None:
        if crash:
            raise RuntimeError("the exchange answered 503 to postgresql://v7:s3cret@db/v7")

    @dg.asset_check(asset=candles, description="High is not below low.")
    def ohlc_consistent() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=passed, severity=dg.AssetCheckSeverity[severity], metadata={"wrong": 3, "detail": "11:58 <high>"}
        )

    defs = dg.Definitions(
        assets=[candles],
        asset_checks=[ohlc_consistent],
        jobs=[dg.define_asset_job("scan", executor_def=dg.in_process_executor)],
    )
    return defs.resolve_job_def("scan")


def run(instance: dg.DagsterInstance, **how: Any) -> str:
    result = planted(**how).execute_in_process(
        instance=instance, raise_on_error=False, tags={"dagster/partition": "2026-11-20"}
    )
    return result.run_id


class Ticks:
    """The sensor's ticks, with its cursor kept in between."""

    def __init__(self, runtime: Runtime, instance: dg.DagsterInstance, name: str = RUN_SENSOR) -> None:
        defs = build_definitions(runtime.settings, runtime=runtime)
        self.repository, self.instance = defs.get_repository_def(), instance
        self.sensor = self.repository.get_sensor_def(name)
        self.cursor: str | None = None

    def __call__(self) -> str:
        with dg.build_sensor_context(
            instance=self.instance, repository_def=self.repository, cursor=self.cursor
        ) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return str(data.skip_message).replace("; 0 delivered, 0 failed", "")


@pytest.fixture
def runtime(make_settings: Make) -> Runtime:
    return watched(make_settings, store_wait_s=0.2)


def test_a_failed_check_is_alerted_with_its_figures_and_its_page_and_then_its_recovery(
    runtime: Runtime, instance: dg.DagsterInstance
) -> None:
    tick = Ticks(runtime, instance)
    failed = run(instance, passed=False)
    assert tick() == "1 alert written" and tick() == "0 alerts written"
    (alert,) = alerts(runtime)
    assert (alert["kind"], alert["severity"]) == ("check_failed", "critical")
    assert alert["title"] == "DEMO Check failed: ohlc_consistent of candles"
    for line in (
        "Asset: candles, partition 2026-11-20",
        "wrong: 3",
        "detail: 11:58 <high>",
        "Page: http://127.0.0.1:3000/assets/candles?view=checks&checkDetail=ohlc_consistent",
        f"Run {failed}",
    ):
        assert line in alert["body"]
    passed = run(instance, passed=True)
    assert tick() == "1 alert written" and tick() == "0 alerts written"
    newest = alerts(runtime)[-1]
    assert newest["kind"] == "recovery" and f"it passed in run {passed}" in newest["body"]
    assert newest["severity"] == "critical" and newest["subject"] == alert["subject"]
    assert run(instance, passed=True) and tick() == "0 alerts written"


def test_a_warning_is_a_warning_and_many_ticks_do_not_raise(runtime: Runtime, instance: dg.DagsterInstance) -> None:
    tick = Ticks(runtime, instance)
    for _ in range(3):
        run(instance, passed=False, severity="WARN")
        assert tick() == "1 alert written"
    assert {row["severity"] for row in alerts(runtime)} == {"warning"}


def test_a_failed_run_is_alerted_with_the_steps_sentence_and_without_passwords(
    runtime: Runtime, instance: dg.DagsterInstance
) -> None:
    tick = Ticks(runtime, instance)
    failed = run(instance, passed=True, crash=True)
    tick()
    (alert,) = alerts(runtime)
    assert (alert["kind"], alert["severity"]) == ("run_failed", "critical")
    assert "candles: RuntimeError: the exchange answered 503" in alert["body"] and "s3cret" not in alert["body"]
    assert f"/runs/{failed}" in alert["body"]
    run(instance, passed=True)
    tick()
    assert titles(runtime)[-1] == "Recovered: Run failed: scan"


def test_with_the_store_busy_no_alert_is_lost(runtime: Runtime, instance: dg.DagsterInstance) -> None:
    tick = Ticks(runtime, instance)
    tick()
    run(instance, passed=False)
    runtime.store.close()
    with held(Path(runtime.settings.store_url.partition(":")[2])):
        assert "the store is busy" in tick()
    assert tick() == "1 alert written"


def test_a_cursor_that_is_lost_tells_nothing_twice(runtime: Runtime, instance: dg.DagsterInstance) -> None:
    tick = Ticks(runtime, instance)
    run(instance, passed=False)
    run(instance, passed=True)
    assert tick() == "2 alerts written"
    tick.cursor = "no JSON"
    assert tick() == "0 alerts written" and len(alerts(runtime)) == 2


def test_more_runs_than_a_tick_takes_are_all_looked_at(
    runtime: Runtime, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v7_pipeline.orchestration.alert_sensors._AT_ONCE", 2)
    tick = Ticks(runtime, instance)
    for _ in range(5):
        run(instance, passed=False)
    assert [tick() for _ in range(4)] == [f"{n} alert{'' if n == 1 else 's'} written" for n in (2, 2, 1, 0)]
    assert len(json.loads(tick.cursor or "{}")["seen"]) == 5


# --- the pulse ------------------------------------------------------------------------------


def candle(runtime: Runtime, open_time: datetime, symbol: str = "BTC-USD") -> None:
    put(
        runtime, "candles", symbol=symbol, open_time=open_time, open=1.0, high=1.0, low=1.0, close=1.0, volume=1.0,
        venue="sandbox", fetched_at=open_time,
    )  # fmt: skip


def scanned(runtime: Runtime, at: datetime, **more: Any) -> None:
    values = {"status": "finished", "failures": "{}", "symbols": "BTC-USD"} | more
    put(runtime, "scans", as_of=at.replace(second=0), started_at=at, finished_at=at, **values)


def accepted(runtime: Runtime, strategy: str, at: datetime) -> None:
    key = f"{strategy}-BTC-USD-{at:%Y%m%dT%H%M%SZ}"
    put(runtime, "gated_signals", signal_id=key, as_of=at, symbol="BTC-USD", strategy=strategy, side="BUY",
        freshness_ok=True, halt_ok=True, budget_ok=True, gate_inputs="{}", gates_off="", reason_codes="",
        accepted=True)  # fmt: skip


@pytest.fixture
def alive(make_settings: Make) -> Runtime:
    runtime = watched(make_settings, symbols="BTC-USD")
    candle(runtime, NOW.replace(second=0) - timedelta(minutes=1))
    scanned(runtime, NOW)
    return runtime


def moved(runtime: Runtime, **span: float) -> None:
    runtime.clock.pass_(**span)  # type: ignore[attr-defined]


def test_stale_data_and_missing_scans_are_alerted_and_so_is_their_return(alive: Runtime) -> None:
    assert feel_pulse(alive) == "data 31 s old, newest scan 2026-11-20 12:00 UTC" and not alerts(alive)
    moved(alive, minutes=11)
    assert feel_pulse(alive).endswith("2 alerts written")
    assert set(titles(alive)) == {"Data is stale: BTC-USD", "Scans have stopped"}
    assert "BTC-USD: 11 min" in alerts(alive, "data_stale")[0]["body"]
    moved(alive, minutes=1)
    assert "written" not in feel_pulse(alive)
    moved(alive, minutes=15)
    assert feel_pulse(alive).endswith("2 alerts written")  # it lasts: the window decides what is sent of it
    moved(alive, minutes=1)
    candle(alive, alive.clock().replace(second=0) - timedelta(minutes=1))
    scanned(alive, alive.clock())
    assert feel_pulse(alive).endswith("2 alerts written")
    assert {title for title in titles(alive) if title.startswith("Recovered")} == {
        "Recovered: Data is stale: BTC-USD",
        "Recovered: Scans have stopped",
    }
    assert "written" not in feel_pulse(alive)


def test_ticks_without_a_run_are_alerted_from_the_fifth(alive: Runtime) -> None:
    skipped = [(NOW - timedelta(minutes=2 * n), "run x is still in flight") for n in range(5)]
    assert tell_ticks(alive, skipped[:4]) == "4 ticks without a run" and not alerts(alive)
    assert tell_ticks(alive, skipped).endswith("1 alert written")
    assert titles(alive) == ["5 ticks in a row have started no scan"]
    moved(alive, minutes=1)
    assert tell_ticks(alive, [*skipped[:2], (NOW, None)]) == "2 ticks without a run"
    assert tell_ticks(alive, [(NOW, None), *skipped]).endswith("1 alert written")
    assert titles(alive)[-1].startswith("Recovered: 5 ticks")


def test_the_daily_summary_is_written_once_a_day_after_its_hour(make_settings: Make) -> None:
    runtime = watched(make_settings, alert_summary_at="13:00", alert_zone="Europe/Prague")
    assert write_summary(runtime) == "no scan yet"
    scanned(runtime, NOW - timedelta(hours=1), accepted=1, cost_usd=0.25)
    scanned(runtime, NOW - timedelta(hours=30), accepted=9)
    accepted(runtime, "v7", NOW - timedelta(hours=1))
    accepted(runtime, "v7", NOW - timedelta(hours=30))
    put_closed(runtime, 120.0, NOW.replace(minute=0, hour=11))
    assert write_summary(runtime).endswith("1 alert written")
    assert write_summary(runtime) == "written today"
    (alert,) = alerts(runtime, "summary")
    for line in (
        "Scans: 1 finished, 0 failed",
        "Signals accepted: 1; paper trades closed: 1 (100 % won)",
        "Profit or loss: +$120.00 (paper); analyst $0.2500",
        "Open troubles: none",
    ):
        assert line in alert["body"]
    runtime.clock = Clock(NOW + timedelta(hours=23))
    assert write_summary(runtime) == "due at 13:00 (Europe/Prague)"
    runtime.settings = make_settings(mode="demo", alert_summary_at="none")
    assert write_summary(runtime) == "no daily summary is asked for"


def test_the_daily_summary_has_a_line_for_each_strategy_and_never_their_sum(make_settings: Make) -> None:
    runtime = watched(make_settings, alert_summary_at="13:00", alert_zone="Europe/Prague", strategies="v7,v6")
    scanned(runtime, NOW - timedelta(hours=1), cost_usd=0.25)
    put_closed(runtime, 120.0, NOW.replace(minute=0, hour=11))
    put_closed(runtime, -70.0, NOW.replace(minute=30, hour=10))
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE outcomes SET strategy = 'ensemble' WHERE pnl_usd < 0")
    for hours in (1, 2):
        accepted(runtime, "v6", NOW - timedelta(hours=hours))
    assert write_summary(runtime).endswith("1 alert written")
    (alert,) = alerts(runtime, "summary")
    lines = alert["body"].splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("v7: "))
    assert lines[begin : begin + 4] == [
        "v7: signals accepted: 0; paper trades closed: 1 (100 % won); profit or loss +$120.00",
        "v6: signals accepted: 2; paper trades closed: 0; profit or loss –",
        # No longer live, and closed a trade all the same.
        "ensemble: signals accepted: 0; paper trades closed: 1 (0 % won); profit or loss -$70.00",
        "Analyst: $0.2500",
    ]
    assert "$50.00" not in alert["body"]


def test_the_pulse_sensor_ticks_and_says_what_it_felt(alive: Runtime, instance: dg.DagsterInstance) -> None:
    told = Ticks(alive, instance, "pulse_sensor")()
    assert told.startswith("data 31 s old, newest scan 2026-11-20 12:00 UTC; 0 ticks without a run; the summary of")
    before = build_runtime(
        alive.settings.model_copy(update={"home": Path("elsewhere")}), clock=lambda: datetime.now(UTC)
    )
    assert "nothing to feel yet" in Ticks(before, instance, "pulse_sensor")()
