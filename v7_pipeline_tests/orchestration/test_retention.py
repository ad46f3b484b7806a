"""Old runs go with all that they left; young, unfinished and newest ones stay, and disk use levels off."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from v7_pipeline.backtest.kept import forget_backtests
from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.jobs import SCAN_JOB
from v7_pipeline.orchestration.retention import linked_backtests, newest_runs, prune_runs, prune_shards, prune_ticks
from v7_pipeline.scan.forget import forget_prompts
from v7_pipeline_tests.scan.watched import NOW, put, put_call, watched

HOUR = timedelta(hours=1)
Make = Callable[..., Any]


@dg.op
def nothing() -> None: ...


@dg.job
def job() -> None:
    nothing()


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date="2026-11-01", end_offset=1),
    check_specs=[dg.AssetCheckSpec("fine", asset="reading")],
)
def reading() -> Any:
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(check_name="fine", passed=True)])


scan = dg.Definitions(
    assets=[reading],
    jobs=[dg.define_asset_job(SCAN_JOB, selection=dg.AssetSelection.all(), executor_def=dg.in_process_executor)],
)


def run_scan(instance: dg.DagsterInstance, day: str) -> str:
    result = scan.resolve_job_def(SCAN_JOB).execute_in_process(instance=instance, partition_key=day)
    assert result.success
    return str(result.run_id)


def _shards(instance: dg.DagsterInstance) -> set[str]:
    return {path.stem for path in (Path(instance.root_directory) / "history" / "runs").glob("*.db")} - {"index"}


def _rows(instance: dg.DagsterInstance, table: str) -> int:
    from sqlalchemy import text

    storage: Any = instance.event_log_storage
    with storage.index_connection() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar())


def test_finished_runs_older_than_the_bound_go_with_their_event_file_and_logs() -> None:
    with dg.instance_for_test() as instance:
        done = job.execute_in_process(instance=instance)
        running = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        logs = Path(instance.storage_directory()) / done.run_id / "compute_logs"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "a.out").write_text("said")
        assert done.run_id in _shards(instance)
        now = datetime.now(UTC)
        assert prune_runs(instance, older_than=now - HOUR) == 0
        assert prune_runs(instance, older_than=now + HOUR) == 1
        assert done.run_id not in _shards(instance) and not logs.parent.exists()
        assert [run.run_id for run in instance.get_runs()] == [running.run_id]


def test_the_newest_materialisation_stays_for_ever_and_the_last_scan_of_a_day_for_long() -> None:
    with dg.instance_for_test() as instance:
        first = [run_scan(instance, "2026-11-01") for _ in range(3)]
        second = [run_scan(instance, "2026-11-02") for _ in range(2)]
        checks = _rows(instance, "asset_check_executions")
        assert checks >= 5 and newest_runs(instance) == {second[-1]}
        bound = datetime.now(UTC) + HOUR
        assert prune_runs(instance, older_than=bound, days_older_than=bound - 2 * HOUR) == 3
        assert {run.run_id for run in instance.get_runs()} == {first[-1], second[-1]} == _shards(instance)
        assert instance.get_materialized_partitions(dg.AssetKey("reading")) == {"2026-11-01", "2026-11-02"}
        assert _rows(instance, "asset_check_executions") == checks * 2 // 5  # Dagster itself would leave them
        assert prune_runs(instance, older_than=bound, days_older_than=bound) == 1
        assert {run.run_id for run in instance.get_runs()} == {second[-1]}
        assert prune_runs(instance, older_than=bound, days_older_than=bound) == 0


def test_event_files_of_a_deletion_that_was_killed_are_swept() -> None:
    with dg.instance_for_test() as instance:
        kept, lost = job.execute_in_process(instance=instance), job.execute_in_process(instance=instance)
        instance.delete_run(lost.run_id)
        assert lost.run_id in _shards(instance)
        now = datetime.now(UTC)
        assert prune_shards(instance, older_than=now - HOUR) == 0
        assert prune_shards(instance, older_than=now + HOUR) == 1
        assert _shards(instance) == {kept.run_id}


def test_ticks_older_than_the_bound_go() -> None:
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
    from dagster._core.test_utils import instance_for_test

    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("v7"), "r"), "gone_sensor")
    now = datetime.now(UTC)
    with instance_for_test() as instance:
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
        instance.add_instigator_state(state)
        for age in (10, 9, 1):
            instance.create_tick(
                TickData(origin.get_id(), "gone_sensor", InstigatorType.SENSOR, TickStatus.SKIPPED,
                         (now - timedelta(days=age)).timestamp(), selector_id=state.selector_id)
            )  # fmt: skip
        assert prune_ticks(instance, older_than=now - timedelta(days=7)) == 1
        assert len(instance.get_ticks(origin.get_id(), state.selector_id)) == 1


def test_words_of_old_calls_go_and_their_cost_stays(make_settings: Make) -> None:
    runtime = watched(make_settings)
    put_call(runtime, "old", 0.3, at=NOW - timedelta(days=200))
    put_call(runtime, "young", 0.2, at=NOW)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE llm_calls SET prompt = '[{}]', raw_reply = 'words', finish_reason = 'stop'")
    assert forget_prompts(runtime.store, NOW - timedelta(days=180)) == 1
    assert forget_prompts(runtime.store, NOW - timedelta(days=180)) == 0
    old, young = runtime.store.rows("SELECT * FROM llm_calls ORDER BY as_of")
    assert (old["prompt"], old["raw_reply"], old["finish_reason"]) == ("[]", None, None)
    assert (old["cost_usd"], old["prompt_hash"]) == (0.3, "h") and young["raw_reply"] == "words"


REPORT = "backtest_report"


def test_the_newest_backtests_stay_with_what_is_linked_and_the_count_of_trials(
    make_settings: Make, tmp_path: Path
) -> None:
    """By the job itself: whole backtests go, oldest first; what is linked, young or no backtest's file does not."""
    settings = make_settings(retention_backtests=2)
    folder = settings.data_dir / "backtest"
    folder.mkdir(parents=True)

    def made(number: int, days: float) -> str:
        run_id = f"backtest-20231211-{number:012x}"
        for end in (".duckdb", ".duckdb.wal", ".without-theories.duckdb", ".html", ".json"):
            written(folder / f"{run_id}{end}", days)
        return run_id

    def written(path: Path, days: float) -> None:
        path.write_text("x")
        at = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(path, (at, at))

    linked, old, older, *newest = (made(number, days) for number, days in enumerate((90, 10, 20, 3, 2)))
    os.utime(folder / f"{older}.json")  # made again today, if only in part
    for name in ("trials.duckdb", "trials.duckdb.turn", "mine.html", "backtest-of-mine.html"):
        written(folder / name, 400)
    written(folder / f".{old}.html.part", 10)

    @dg.asset(name=REPORT)
    def report() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"backtest": linked})

    def kept() -> set[str]:
        return {path.name.removeprefix(".").partition(".")[0] for path in folder.iterdir()}

    with dg.instance_for_test() as instance:
        dg.materialize([report], instance=instance)
        assert linked_backtests(instance) == {linked}
        job_of = build_definitions(settings).resolve_job_def
        assert job_of("retention").execute_in_process(instance=instance).success
        # Of the two newest one was touched today; the second newest and the linked one stand beside it.
        assert kept() == {linked, older, newest[1], "trials", "mine", "backtest-of-mine"}
        assert len(list(folder.glob(f"{linked}*"))) == 5
        assert job_of("retention").execute_in_process(instance=instance).success
        assert linked in kept(), "again and again"
    os.utime(folder / f"{linked}.json")
    assert forget_backtests(folder, keep=1, now=datetime.now(UTC)) == 1
    assert kept() == {linked, older, "trials", "mine", "backtest-of-mine"}, "two that may be in the making"
    assert forget_backtests(tmp_path / "nowhere", keep=1, now=datetime.now(UTC)) == 0


def test_before_the_first_report_nothing_is_linked() -> None:
    with dg.instance_for_test() as instance:
        assert linked_backtests(instance) == set()


def test_the_nightly_job_does_it_also_before_the_first_scan(make_settings: Make) -> None:
    defs = build_definitions(make_settings())
    with dg.instance_for_test() as instance:
        assert defs.resolve_job_def("retention").execute_in_process(instance=instance).success


def test_the_nightly_job_goes_by_the_settings_and_leaves_facts_alone(make_settings: Make) -> None:
    runtime = watched(make_settings, retention_delivery_days=30)
    for age in (31, 29):
        at = NOW - timedelta(days=age)
        put(runtime, "alerts", alert_id=f"a{age}", created_at=at, kind="signal", severity="info", title="t", body="b",
            status="delivered", attempts=1)  # fmt: skip
        put(runtime, "alert_deliveries", alert_id=f"a{age}", destination="json-1", created_at=at, status="delivered",
            attempts=1, delivered_at=at, holds=False)  # fmt: skip
        put(runtime, "outages", symbol="BTC-USD", first_minute=at, last_minute=at, minutes=1, asked_at=at)
    defs = build_definitions(runtime.settings, runtime=runtime)
    with dg.instance_for_test() as instance:
        assert defs.resolve_job_def("retention").execute_in_process(instance=instance).success
    kept = {name: len(runtime.store.rows(f"SELECT * FROM {name}")) for name in ("alerts", "outages")}
    assert kept == {"alerts": 2, "outages": 2}
    assert [row["alert_id"] for row in runtime.store.rows("SELECT * FROM alert_deliveries")] == ["a29"]
