"""What must hold when something breaks: a symbol, the market, the analyst, the store's holder, the run itself.

Real Dagster runs on a real instance against the sandbox over HTTP; the clock stands still.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from v7_pipeline.orchestration import io_manager
from v7_pipeline.orchestration.launch import LaunchError
from v7_pipeline.orchestration.partitions import AS_OF_TAG, partition_of
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.scan.context import StepResult, persist
from v7_pipeline.store.schema import TABLES
from v7_pipeline_tests.end_to_end.world import LATER, Clock, World, assert_same, contents, open_world

AS_OF = datetime(2026, 11, 18, 12, 2, tzinfo=UTC)
STEP = timedelta(minutes=2)
OTHERS = {"BTC-USD", "SOL-USD"}

Open = Callable[..., World]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens worlds, each on a home and a sandbox of its own, with the clock just after AS_OF."""
    with ExitStack() as stack:

        def make(name: str = "home", **changes: Any) -> World:
            clock = Clock(AS_OF + LATER)
            server = stack.enter_context(SandboxServer(seed=7, clock=clock))
            changes = {"market_retries": 0, "store_wait_s": 5.0} | changes
            if not changes.get("through_sandbox", True):
                changes |= {"exchange_url": server.url, "deepseek_url": server.url}
            return stack.enter_context(open_world(tmp_path / name, server, clock, **changes))

        yield make


def _checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def _signals(world: World, as_of: datetime = AS_OF) -> pd.DataFrame:
    return world.store.query("SELECT * FROM llm_signals WHERE as_of = ? ORDER BY symbol", (as_of,))


def _last_run(world: World) -> dg.DagsterRun:
    return world.instance.get_runs(limit=1)[0]


def _failed_steps(world: World) -> set[str]:
    events = world.instance.all_logs(_last_run(world).run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return {str(event.step_key) for event in events}


# --- one symbol, all symbols ----------------------------------------------------------------


def test_lesson_27_one_failing_symbol_fails_visibly_and_never_the_others(opened: Open) -> None:
    healthy, broken = opened("healthy"), opened("broken")
    assert all(_checks(healthy.run(AS_OF)).values())
    broken.server.fault("candles", "status", status=500, symbol="ETH-USD")
    result = broken.run(AS_OF)
    assert result.success

    checks = _checks(result)
    assert {name for name, passed in checks.items() if not passed} == {
        "every_symbol_answered",
        "newest_candle_is_fresh",
    }
    (scan,) = broken.store.query("SELECT * FROM scans").to_dict("records")
    failures = json.loads(scan["failures"])
    assert set(failures) == {"ETH-USD"}
    assert "500" in failures["ETH-USD"]
    (story,) = result.asset_materializations_for_node("candles")
    assert story.metadata["symbols_failed"].value == 1
    alert = broken.store.query("SELECT * FROM alerts WHERE kind = 'scan_failed'")
    assert len(alert) == 1
    assert "ETH-USD" in alert["title"][0] + alert["body"][0]

    signals = _signals(broken).set_index("symbol")
    assert (signals.loc["ETH-USD", "status"], signals.loc["ETH-USD", "side"]) == ("skipped", None)
    assert signals.loc["ETH-USD", "status_reason"] == "NO_READING"
    assert (signals.loc[sorted(OTHERS), "status"] == "answered").all()
    for table in ("candles", "theory_features", "llm_signals", "gated_signals"):
        one, other = (_of_others(world, table) for world in (healthy, broken))
        assert len(one), table
        assert_same({table: one}, {table: other}, without=("run_id",))


def _of_others(world: World, table: str) -> pd.DataFrame:
    frame = contents(world.store, table)[table]
    return frame[frame["symbol"].isin(OTHERS)].reset_index(drop=True)


def test_lesson_01_a_symbol_that_stays_away_goes_stale_and_is_refused(opened: Open) -> None:
    world = opened()
    world.run(AS_OF)
    world.server.fault("candles", "outage", symbol="SOL-USD")
    reasons = []
    for index in range(1, 4):
        as_of = AS_OF + index * STEP
        world.clock.now = as_of + LATER
        world.scan(as_of)
        signals = _signals(world, as_of).set_index("symbol")
        assert (signals.loc[["BTC-USD", "ETH-USD"], "status"] == "answered").all()
        reasons.append(signals.loc["SOL-USD", "status_reason"])
    assert reasons[-1] == "PRICE_STALE", reasons
    last = _signals(world, AS_OF + 3 * STEP).set_index("symbol").loc["SOL-USD"]
    assert last["features_as_of"] == AS_OF
    assert last["price_age_s"] == 3 * STEP.total_seconds() + LATER.total_seconds()


def test_lesson_27_all_symbols_failing_fails_the_asset_and_writes_nothing(opened: Open) -> None:
    world = opened()
    world.server.fault("candles", "status", status=503)
    with pytest.raises(LaunchError, match=r"\): candles: no symbol could be fetched: .*503"):
        world.run(AS_OF)
    assert _last_run(world).status is dg.DagsterRunStatus.FAILURE
    assert _failed_steps(world) == {"candles"}
    assert all(frame.empty for name, frame in contents(world.store).items() if name != "schema_version")
    world.server.faults.clear()
    assert all(_checks(world.run(AS_OF)).values())
    assert len(_signals(world)) == 3


# --- the analyst ----------------------------------------------------------------------------


def test_lesson_02_a_refused_key_fails_the_run_and_is_no_hold(opened: Open) -> None:
    world = opened()
    world.server.fault("chat", "status", status=401)
    with pytest.raises(LaunchError, match=r"llm_signals: .*401.*DEEPSEEK_API_KEY"):
        world.run(AS_OF)
    assert _failed_steps(world) == {"llm_signals"}
    assert _signals(world).empty
    assert world.store.query("SELECT * FROM gated_signals").empty
    assert set(world.store.query("SELECT DISTINCT status FROM llm_calls")["status"]) == {"failed"}
    world.server.faults.clear()
    world.run(AS_OF)
    assert (_signals(world)["status"] == "answered").all()


def test_lesson_02_an_exception_in_the_analyst_fails_the_run_and_is_no_hold(opened: Open) -> None:
    class Mistaken:
        name = "mistaken"
        worst_case_usd = 0.0

        def decide(self, questions: Any, *, wrong: Any) -> list[Any]:
            return []

    world = opened()
    world.runtime.overrides["analyst"] = Mistaken()
    with pytest.raises(LaunchError, match=r"llm_signals: .*unexpected keyword argument 'now'"):
        world.run(AS_OF)
    assert _failed_steps(world) == {"llm_signals"}
    assert _signals(world).empty


def test_lesson_06_a_model_without_a_price_fails_the_run_before_anything_is_sent(opened: Open) -> None:
    world = opened(deepseek_model="deepseek-imaginary")
    with pytest.raises(LaunchError, match="no dated price for model 'deepseek-imaginary'"):
        world.run(AS_OF)
    assert _signals(world).empty
    assert world.chats == 0


@pytest.mark.parametrize("what", ["after the calls were settled", "after the decisions were written"])
def test_lesson_18_a_run_that_dies_costs_nothing_when_done_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    table = {"after the calls were settled": "llm_signals", "after the decisions were written": "gated_signals"}[what]
    healthy, world = opened("healthy"), opened("dying")
    healthy.scan(AS_OF)

    def dying(store: Any, result: StepResult) -> Any:
        if any(write.table == table for write in result.writes):
            raise RuntimeError("the power went out")
        return persist(store, result)

    with monkeypatch.context() as patch:
        patch.setattr(io_manager, "persist", dying)
        with pytest.raises(LaunchError, match="the power went out"):
            world.run(AS_OF)
    assert world.store.query(f"SELECT * FROM {table}").empty
    assert world.chats == 3
    ledger = contents(world.store, "llm_calls")
    assert set(ledger["llm_calls"]["status"]) == {"settled"}

    assert all(_checks(world.run(AS_OF)).values())
    assert world.chats == 3
    assert_same(ledger, contents(world.store, "llm_calls"))
    for name in ("llm_signals", "gated_signals", "outcomes"):
        one, other = contents(healthy.store, name), contents(world.store, name)
        assert_same(one, other, without=("run_id",))
    assert (_signals(world)["status"] == "answered").all()


# --- done again -----------------------------------------------------------------------------


def test_lesson_32_a_re_execution_later_uses_the_same_instant_and_changes_no_row(opened: Open) -> None:
    """As the pages do it: a run of today's partition without an instant, then the same with the parent's tags."""
    world = opened()
    job = world.defs.resolve_job_def("scan")
    parent = job.execute_in_process(instance=world.instance, partition_key=partition_of(AS_OF))
    assert parent.success
    tags = world.instance.get_run_by_id(parent.run_id).tags  # type: ignore[union-attr]
    assert tags[AS_OF_TAG] == "2026-11-18T12:02:00Z"
    before, chats = contents(world.store), world.chats
    assert len(before["llm_signals"]) == 3

    world.clock.now += timedelta(minutes=7)
    lineage = {"dagster/parent_run_id": parent.run_id, "dagster/root_run_id": parent.run_id}
    again = job.execute_in_process(
        instance=world.instance, partition_key=partition_of(AS_OF), tags={AS_OF_TAG: tags[AS_OF_TAG], **lineage}
    )
    assert again.success
    assert again.run_id != parent.run_id
    assert_same(before, contents(world.store))
    assert world.chats == chats


def test_lesson_32_a_scan_between_two_scans_leaves_the_later_ones_rows_alone(opened: Open) -> None:
    world = opened()
    for index in range(3):
        world.clock.now = AS_OF + index * STEP + LATER
        world.scan(AS_OF + index * STEP)
    before = contents(world.store)
    world.run(AS_OF + STEP)
    assert_same(before, contents(world.store))


def test_a_past_day_from_the_pages_fills_candles_but_decides_nothing(opened: Open) -> None:
    world = opened()
    job = world.defs.resolve_job_def("scan")
    past = {"instance": world.instance, "partition_key": "2026-11-16", "raise_on_error": False}
    assert not job.execute_in_process(**past).success
    assert _failed_steps(world) == {"candles"}
    assert world.server.counts.get("candles", 0) == 0

    filled = job.execute_in_process(asset_selection=[dg.AssetKey("candles")], **past)
    assert filled.success, filled.get_step_failure_events()
    day = world.store.query("SELECT * FROM candles WHERE open_time >= '2026-11-16T00:00:00Z'")
    assert day["open_time"].max() == pd.Timestamp("2026-11-16T23:59", tz="UTC")
    assert set(day["symbol"]) == {*OTHERS, "ETH-USD"}
    assert world.store.query("SELECT * FROM scans").empty


# --- the store held by others ---------------------------------------------------------------

_HOLD = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def _held(world: World, seconds: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", _HOLD, str(world.file), str(seconds)]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_lesson_20_a_store_that_stays_held_ends_the_run_with_who_holds_it_and_what_to_do(opened: Open) -> None:
    world = opened(store_wait_s=0.5)
    holder = _held(world, 60)
    try:
        with pytest.raises(LaunchError, match=rf"held by process {holder.pid} .*more than 0\.5 s; wait for that work"):
            world.run(AS_OF)
    finally:
        holder.kill()
        holder.wait()
    world.run(AS_OF)
    assert len(_signals(world)) == 3


def test_lesson_20_a_store_held_for_a_moment_only_delays_the_scan(opened: Open) -> None:
    world = opened(store_wait_s=10.0)
    holder = _held(world, 1.0)
    world.run(AS_OF)
    holder.wait()
    assert len(_signals(world)) == 3


def test_lesson_20_readers_beside_a_scan_neither_fail_nor_stop_it(opened: Open) -> None:
    world = opened()
    world.run(AS_OF)
    done, counts, failures = threading.Event(), [], []

    def read() -> None:
        while not done.wait(0.05):
            try:
                counts.append(int(world.store.query("SELECT count(*) AS n FROM llm_signals")["n"][0]))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what this test looks for
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for index in range(1, 3):
            world.clock.now = AS_OF + index * STEP + LATER
            world.run(AS_OF + index * STEP)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert set(counts) <= {3, 6, 9}, "a reader saw half a scan's decisions"
    assert len(counts) > 10


# --- secrets --------------------------------------------------------------------------------

MARKER = "sk-marker-0123456789abcdef"


def test_lesson_30_no_file_under_the_home_and_no_line_of_output_holds_the_key(
    opened: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", MARKER)
    world = opened(mode="live", through_sandbox=False)
    assert world.runtime.settings.analyst_name == "deepseek"
    world.run(AS_OF)
    # A service that repeats the key in its error, and one that answers with it.
    told = json.dumps({"error": {"message": f"Your api key: {MARKER} is invalid", "type": "authentication_error"}})
    world.server.fault("chat", "status", status=401, body=told)
    world.clock.now = AS_OF + STEP + LATER
    with pytest.raises(LaunchError) as refused:
        world.run(AS_OF + STEP)
    assert "401" in str(refused.value)
    world.instance.dispose()

    written = "\n".join(_texts(world.file.parent))
    said = "".join(capfd.readouterr()) + str(refused.value) + repr(world.runtime.settings)
    # What must be found is found: the search reads the store, the event logs and the snapshots.
    for known in ("v7-BTC-USD-20261118T120200Z", "STEP_FAILURE", "theory_attribution", "is invalid"):
        assert known.lower() in written.lower(), known
    assert MARKER not in written
    assert MARKER not in said
    for path in world.file.parent.rglob("*"):
        assert not path.is_file() or MARKER.encode() not in path.read_bytes(), path


def _texts(home: Path) -> Iterator[str]:
    """Every text in the store and in Dagster's databases, compressed ones unpacked."""
    import duckdb

    for path in home.rglob("*"):
        if path.suffix == ".duckdb":
            with closing(duckdb.connect(str(path), read_only=True)) as store:
                for name in TABLES:
                    for row in store.execute(f"SELECT t::VARCHAR FROM {name} t").fetchall():
                        yield str(row[0])
        elif path.suffix == ".db":
            with closing(sqlite3.connect(path)) as base:
                for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    for row in base.execute(f'SELECT * FROM "{name}"'):
                        yield " ".join(_plain(value) for value in row)


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return zlib.decompress(value).decode("utf-8", "replace")
        except zlib.error:
            return value.decode("utf-8", "replace")
    return str(value)
