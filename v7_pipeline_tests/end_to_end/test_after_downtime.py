"""What the living tree does by itself after it was down: gaps are repaired, days are complete, nothing is decided late.

The tree of test_daemon.py, on a store that was left six hours ago with a gap in it.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd
import psutil
import pytest
import requests
from dagster import DagsterInstance

from v7_pipeline.orchestration.launch import prepare_home
from v7_pipeline.orchestration.repair import REPAIR_JOB
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.scan.repair import missing, repair
from v7_pipeline.settings import Settings, load_settings
from v7_pipeline.store import Store, open_store
from v7_pipeline_tests.end_to_end.test_daemon import Tree, _free_port, _until
from v7_pipeline_tests.end_to_end.world import Clock, World, open_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("daemon")]

DOWN = timedelta(hours=6)
COMPLETE_WITHIN_S = 300.0
MINUTE = timedelta(minutes=1)
GAP = (timedelta(hours=-80), timedelta(hours=-79))  # from the last scan; a start itself looks back three days at most
DECISIONS = ("scans", "llm_signals", "gated_signals", "llm_calls")
OURS = ["fetched_at", "run_id", "code_version", "source"]  # of a candle and a reading: who brought it, not what it says


@dataclass
class Lived:
    """The store before the tree's life, what was planted, and what the life left."""

    settings: Settings
    store: Store
    instance: DagsterInstance
    left_at: datetime
    gap: tuple[datetime, datetime]
    before: dict[str, pd.DataFrame]
    started_at: datetime
    complete_after_s: float
    runs: list[Any]
    sandbox: str


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    folder = tmp_path_factory.mktemp("downtime")
    home = folder / "home"
    ports = {name: _free_port() for name in ("V7_UI_PORT", "V7_DASHBOARD_PORT", "V7_SANDBOX_PORT")}
    left_at = datetime.now(UTC).replace(second=0, microsecond=0) - DOWN
    with pytest.MonkeyPatch.context() as patch, SandboxServer(seed=7) as server:
        patch.chdir(folder)
        with open_world(home, server, Clock(left_at + timedelta(seconds=5)), analyst="rules") as world:
            before = _left(world, left_at)
            gap = (left_at + GAP[0], left_at + GAP[1])
            _plant(world, gap)
            world.store.close()
    settings = load_settings(home=home, mode="demo", _env_file=None)
    store = open_store(settings.store_url, wait_s=30)
    instance = DagsterInstance.from_config(str(prepare_home(settings)))
    tree = Tree(home, ports)
    began, started_at = time.monotonic(), datetime.now(UTC)
    try:
        tree.start()
        _until(lambda: _is_complete(store, settings), COMPLETE_WITHIN_S, "a complete store", every=1.0)
        complete_after = time.monotonic() - began
        _until(lambda: _finished(instance), 240, "the repair's end")
        _until(lambda: _says_nothing_is_missing(instance), 240, "the sensor to find nothing any more")
        yield Lived(
            settings, store, instance, left_at, gap, before, started_at, complete_after, _repairs(instance),
            tree.sandbox,
        )  # fmt: skip
    finally:
        if tree.process is not None and tree.process.poll() is None:
            tree.end(signal.SIGTERM)
        for process in tree.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        instance.dispose()


def test_six_hours_of_downtime_are_complete_within_five_minutes(lived: Lived) -> None:
    print(f"\ncomplete {lived.complete_after_s:.0f} s after the start of v7 up")
    assert lived.complete_after_s <= COMPLETE_WITHIN_S
    for symbol in lived.settings.symbols:
        wanted = _of_the_market(lived, symbol)
        held = _minutes(lived.store, "candles", "open_time", symbol, lived.left_at - 5 * MINUTE)
        assert wanted and not wanted - held
        read = _minutes(lived.store, "theory_features", "as_of", symbol, lived.left_at - 5 * MINUTE)
        assert not {at + MINUTE for at in wanted} - read


def test_nothing_is_decided_for_the_time_that_passed(lived: Lived) -> None:
    for name in DECISIONS:
        rows = lived.store.query(
            f"SELECT as_of FROM {name} WHERE as_of > ? AND as_of < ?", (lived.left_at, lived.started_at - MINUTE)
        )
        assert len(rows) == 0, f"{name} holds {len(rows)} rows of the time that was down"
        since = lived.store.query(f"SELECT count(*) AS n FROM {name} WHERE as_of >= ?", (lived.started_at - MINUTE,))
        assert since["n"].iloc[0] > 0 or name == "llm_calls"
    for name in ("llm_signals", "gated_signals"):  # decisions from before are facts
        after = lived.store.query(f"SELECT * FROM {name} WHERE as_of <= ? ORDER BY ALL", (lived.left_at,))
        pd.testing.assert_frame_equal(after, lived.before[name], check_exact=True, obj=name)


def test_what_was_open_is_followed_over_the_downtime(lived: Lived) -> None:
    rows = lived.store.query(
        "SELECT followed_until FROM outcomes WHERE as_of BETWEEN ? AND ?", (lived.left_at - 4 * MINUTE, lived.left_at)
    )
    assert len(rows)
    assert (rows["followed_until"] > pd.Timestamp(lived.left_at)).all()


def test_the_sensor_asked_once_for_exactly_the_gap_and_it_is_as_it_was(lived: Lived) -> None:
    (run,) = [run for run in lived.runs if _spans(run, before=lived.left_at - timedelta(hours=1))]
    assert run.dagster_run.status is dg.DagsterRunStatus.SUCCESS
    assert run.dagster_run.tags["dagster/sensor_name"] == "repair_sensor"
    asked = _spans(run, before=lived.left_at - timedelta(hours=1))
    assert {span["symbol"] for span in asked} == {"ETH-USD"}
    minutes = {
        at
        for span in asked
        for at in pd.date_range(span["start"], span["end"], freq="min", inclusive="left").to_pydatetime()
    }
    held = lived.before["candles"]
    planted = held[(held["symbol"] == "ETH-USD") & held["open_time"].between(lived.gap[0], lived.gap[1] - MINUTE)]
    assert minutes == {at.to_pydatetime() for at in planted["open_time"]}
    after = _contents(lived.store, lived.left_at)
    for name in ("candles", "theory_features"):
        pd.testing.assert_frame_equal(
            after[name].drop(columns=OURS, errors="ignore"),
            lived.before[name].drop(columns=OURS, errors="ignore"),
            check_exact=True,
            obj=name,
        )


def _left(world: World, at: datetime) -> dict[str, pd.DataFrame]:
    """Four and a half days of candles, their readings and five scans, with every gap known; all of it as of `at`."""
    for back in (60 * 60, 26 * 60, 4, 2, 0):  # minutes; a scan fetches two days, or from what is known on
        world.clock.now = at - back * MINUTE + timedelta(seconds=5)
        world.scan(at - back * MINUTE)
    for _ in range(3):
        what = missing(world.store, world.runtime.settings, world.clock())
        if what:
            repair(world.runtime.context(at, "before"), what)
    assert not missing(world.store, world.runtime.settings, world.clock())
    return _contents(world.store, at)


def _contents(store: Store, until: datetime) -> dict[str, pd.DataFrame]:
    """Candles, readings and decisions up to `until`; the newest readings may still be revised, so they are left out."""
    settled = until - timedelta(hours=4)
    return {
        "candles": store.query(
            "SELECT * FROM candles WHERE open_time < ? ORDER BY symbol, open_time", (until,)
        ),
        "theory_features": store.query(
            "SELECT * FROM theory_features WHERE as_of < ? ORDER BY symbol, as_of", (settled,)
        ),
    } | {
        name: store.query(f"SELECT * FROM {name} WHERE as_of <= ? ORDER BY ALL", (until,))
        for name in ("llm_signals", "gated_signals")
    }  # fmt: skip


def _plant(world: World, gap: tuple[datetime, datetime]) -> None:
    """An hour of ETH-USD that was never received, and so never read."""
    with world.store.transaction() as tx:
        for name, column, later in (("candles", "open_time", 0), ("theory_features", "as_of", 1)):
            tx.execute(
                f"DELETE FROM {name} WHERE symbol = 'ETH-USD' AND {column} >= ? AND {column} < ?",
                tuple(at + later * MINUTE for at in gap),
            )


def _is_complete(store: Store, settings: Settings) -> bool:
    """Nothing is missing, and the newest candle of each product has just closed."""
    now = datetime.now(UTC)
    newest = store.query("SELECT symbol, max(open_time) AS at FROM candles GROUP BY symbol")
    fresh = (newest["at"] > pd.Timestamp(now - 5 * MINUTE)).all()
    return bool(fresh) and not missing(store, settings, now)


def _repairs(instance: DagsterInstance) -> list[Any]:
    return list(instance.get_run_records(dg.RunsFilter(job_name=REPAIR_JOB)))


def _finished(instance: DagsterInstance) -> bool:
    runs = _repairs(instance)
    return bool(runs) and all(run.dagster_run.is_finished for run in runs)


def _says_nothing_is_missing(instance: DagsterInstance) -> bool:
    from dagster._core.scheduler.instigation import InstigatorType

    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.instigator_name == "repair_sensor":
            newest = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
            return bool(newest) and "no candle and no reading is missing" in (newest[0].skip_reason or "")
    return False


def _spans(run: Any, *, before: datetime) -> list[dict[str, str]]:
    """What the run asked the market for, of the time before `before`."""
    config = run.dagster_run.run_config["ops"]["mend"]["config"]["candles"]
    return [span for span in config if datetime.fromisoformat(span["start"]) < before]


def _of_the_market(lived: Lived, symbol: str) -> set[datetime]:
    """The minutes that the market has candles of, from just before the store was left to the tree's start."""
    found: set[datetime] = set()
    first, end = lived.left_at - 5 * MINUTE, lived.started_at.replace(second=0, microsecond=0) - 2 * MINUTE
    start = first
    while start < end:
        stop = min(start + 250 * MINUTE, end)
        answer = requests.get(
            f"{lived.sandbox}/products/{symbol}/candles",
            params={"granularity": 60, "start": start.isoformat(), "end": stop.isoformat()},
            timeout=20,
        )
        found |= {datetime.fromtimestamp(row[0], UTC) for row in answer.json()}
        start = stop
    return {at for at in found if first <= at < end}


def _minutes(store: Store, name: str, column: str, symbol: str, start: datetime) -> set[datetime]:
    rows = store.query(f"SELECT {column} AS at FROM {name} WHERE symbol = ? AND {column} >= ?", (symbol, start))
    return {at.to_pydatetime() for at in rows["at"]}
