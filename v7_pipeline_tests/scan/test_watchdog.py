"""The watchdog on a real store: once for each outage and destination, whatever the reason, and its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.alerts.deliver import Result
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.scan.watchdog import State, Verdict, look
from v7_pipeline_tests.alerts.bot_api import BotApi
from v7_pipeline_tests.orchestration.test_sensors import held
from v7_pipeline_tests.scan.test_alerting import ONE, TWO, Places
from v7_pipeline_tests.scan.watched import NOW, put, watched
from v7_pipeline_tests.test_cli import v7

Make = Callable[..., Any]


def scanned(runtime: Runtime, at: datetime) -> None:
    """A scan that finished at `at`."""
    put(
        runtime, "scans", as_of=at.replace(second=0), started_at=at, finished_at=at, symbols="BTC-USD",
        status="finished", failures="{}",
    )  # fmt: skip


def looked(runtime: Runtime, places: Places, *, minutes: float, silent: bool = False) -> Verdict:
    """One look, `minutes` after NOW, as a process of its own would."""
    path = runtime.settings.data_dir / "watchdog.json"
    now = NOW + timedelta(minutes=minutes)
    return look(runtime.settings, runtime.store, path, now=now, sender=places, silent=silent)


def test_an_outage_is_told_once_and_so_is_its_end(make_settings: Make) -> None:
    runtime, places = watched(make_settings, alert_urls=ONE), Places()
    scanned(runtime, NOW)
    assert looked(runtime, places, minutes=9).well and not places.sent
    for minute in (11, 12, 60, 3000):
        assert not looked(runtime, places, minutes=minute).well
    assert places.titles() == ["Watchdog: Scans have stopped"]
    assert "Last finished scan: 2026-11-20 12:00 UTC (11 min ago)" in places.sent[0][2]
    assert "nothing listens on port" in places.sent[0][2] or "listen on port" in places.sent[0][2]
    scanned(runtime, NOW + timedelta(minutes=3001))
    for minute in (3002, 3003):
        assert looked(runtime, places, minutes=minute).well
    assert places.titles() == ["Watchdog: Scans have stopped", "Watchdog: recovered, scans finish again"]
    assert not looked(runtime, places, minutes=3013).well
    assert len(places.sent) == 3  # the next outage is another one


def test_a_destination_that_fails_is_tried_again_and_the_other_is_not_told_twice(make_settings: Make) -> None:
    runtime, places = watched(make_settings, alert_urls=f"{ONE} critical={TWO}"), Places()
    scanned(runtime, NOW)
    places.answers["one"] = Result("busy", "500", 300.0)
    for minute in (11, 12, 13):
        looked(runtime, places, minutes=minute)
    assert len(places.titles("one")) == 1 and len(places.titles("two")) == 1  # retry_after is obeyed
    places.answers.clear()
    looked(runtime, places, minutes=17)
    looked(runtime, places, minutes=18)
    assert len(places.titles("one")) == 2 and len(places.titles("two")) == 1


def test_a_store_that_is_locked_counts_once_it_lasts(make_settings: Make) -> None:
    runtime, places = watched(make_settings, alert_urls=ONE, store_wait_s=0.2), Places()
    scanned(runtime, NOW)
    assert looked(runtime, places, minutes=1).well
    runtime.store.close()
    with held(Path(runtime.settings.store_url.partition(":")[2])):
        assert looked(runtime, places, minutes=5).well and not places.sent
        verdict = looked(runtime, places, minutes=11)
    assert not verdict.well and "the store cannot be read" in verdict.told
    assert "Seen: the store cannot be read: " in places.sent[0][2]


def test_no_store_at_all_counts_from_the_first_look(make_settings: Make) -> None:
    runtime, places = watched(make_settings, alert_urls=ONE), Places()
    Path(runtime.settings.store_url.partition(":")[2]).unlink()
    assert looked(runtime, places, minutes=0).well
    assert not looked(runtime, places, minutes=11).well and "does not exist yet" in places.sent[0][2]


def test_a_clock_that_is_set_back_does_not_blind_it(make_settings: Make) -> None:
    runtime, places = watched(make_settings, alert_urls=ONE), Places()
    scanned(runtime, NOW + timedelta(hours=1))
    assert looked(runtime, places, minutes=61).well
    assert looked(runtime, places, minutes=1).well  # an hour back
    assert not looked(runtime, places, minutes=12).well and places.titles() == ["Watchdog: Scans have stopped"]


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"newest": "yesterday"}', '{"first_look": 3}'])
def test_a_torn_state_begins_anew(tmp_path: Path, torn: str) -> None:
    (tmp_path / "state").write_text(torn)
    assert State.read(tmp_path / "state") == State()


def test_the_command_says_how_it_is_with_its_exit_code_and_silently_for_health_checks(
    make_settings: Make, bot_api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = watched(make_settings)
    monkeypatch.setenv("V7_HOME", str(runtime.settings.home))
    monkeypatch.setenv("V7_ALERT_URLS", bot_api.json_url.get_secret_value())
    now = datetime.now(UTC)
    scanned(runtime, now)
    runtime.store.close()
    said = v7("watchdog", "--once", "--demo")
    assert (said.code, bot_api.received) == (0, []) and "newest finished scan" in said.out
    monkeypatch.setenv("V7_WATCHDOG_AFTER_S", "0.01")
    said = v7("watchdog", "--once", "--silent", "--demo")
    assert said.code == 1 and "scans have stopped" in said.out and not bot_api.received
    for _ in range(2):
        assert v7("watchdog", "--once", "--demo").code == 1
    assert len(bot_api.received) == 1 and "DEMO Watchdog: Scans have stopped" in bot_api.texts[0]


def test_it_imports_no_dagster() -> None:
    code = "import sys, v7_pipeline.scan.watchdog; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
