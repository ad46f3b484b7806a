"""What a clock that was fast or is slow must not do: decide on an hour that has passed, hide silence, prolong a rest.

The drills of test_drill_faults.py do it to whole scans.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.analyst.breaker import Breaker
from v7_pipeline.scan import watchdog
from v7_pipeline.scan.candles import fetch_new
from v7_pipeline.scan.context import ScanError
from v7_pipeline.scan.pulse import feel_pulse
from v7_pipeline_tests.scan.test_alerting import ONE, Places
from v7_pipeline_tests.scan.watched import MINUTE, NOW, put, put_call, titles, watched

Make = Callable[..., Any]
HOUR = timedelta(hours=1)


def put_candle(runtime: Any, open_time: datetime) -> None:
    put(
        runtime, "candles", symbol="BTC-USD", open_time=open_time, open=1.0, high=1.0, low=1.0, close=1.0, volume=1.0,
        venue="test", fetched_at=open_time + MINUTE,
    )  # fmt: skip


def test_a_scan_by_a_clock_behind_the_stored_candles_is_refused_in_one_sentence(make_settings: Make) -> None:
    runtime = watched(make_settings)
    put_candle(runtime, NOW.replace(second=0) + 58 * MINUTE)
    with pytest.raises(
        ScanError, match=r"clock says 2026-11-20 12:00 UTC, but .* up to 2026-11-20 12:58: .*timedatectl"
    ):
        fetch_new(runtime.context(NOW.replace(second=0), "test"))


def test_a_candle_that_closes_now_is_no_sign_of_a_slow_clock(make_settings: Make) -> None:
    runtime = watched(make_settings)
    now = NOW.replace(second=0)
    runtime.clock.now = now
    put_candle(runtime, now - MINUTE)
    answers: dict[str, Any] = {symbol: OSError("asked") for symbol in runtime.settings.symbols}
    runtime.overrides["market"] = type("Market", (), {"candles_of": lambda self, ranges, now: answers})()
    with pytest.raises(ScanError, match="asked"):
        fetch_new(runtime.context(now, "test"))


def test_a_scan_of_the_future_does_not_hide_that_none_finishes(make_settings: Make) -> None:
    runtime = watched(make_settings, alert_urls=ONE)
    for at in (NOW - 20 * MINUTE, NOW + HOUR):
        put(
            runtime, "scans", as_of=at.replace(second=0), started_at=at, finished_at=at, symbols="BTC-USD",
            status="finished", failures="{}",
        )  # fmt: skip
    feel_pulse(runtime)
    assert "Scans have stopped" in titles(runtime)


def test_calls_of_the_future_keep_no_analyst_at_rest(make_settings: Make) -> None:
    runtime = watched(make_settings)
    breaker = Breaker(2, timedelta(minutes=10))
    for key in ("one", "two"):
        put_call(runtime, key, 0.0, at=NOW + HOUR)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE llm_calls SET status = 'failed', error = 'HTTP 500', latency_s = 1.0")
    states = [breaker.state(runtime.store, "deepseek", NOW + after) for after in (0 * HOUR, HOUR, HOUR + 11 * MINUTE)]
    assert states == ["probing", "resting", "probing"]


def test_the_watchdog_tells_once_where_it_cannot_write_its_state(make_settings: Make, tmp_path: Path) -> None:
    runtime, places = watched(make_settings, alert_urls=ONE), Places()
    folder = tmp_path / "no folder"
    folder.write_text("")  # so that nothing can be written below it, whoever tries
    state = folder / "watchdog.json"
    for minutes in (0, 11, 12, 13):
        watchdog.look(runtime.settings, runtime.store, state, now=NOW + minutes * MINUTE, sender=places)
    assert places.titles() == ["Watchdog: Scans have stopped"]
    folder.unlink()
    watchdog.look(runtime.settings, runtime.store, state, now=NOW + 14 * MINUTE, sender=places)
    assert json.loads(state.read_text())["outage_since"] == (NOW + 11 * MINUTE).astimezone(UTC).isoformat()
    assert state not in watchdog._UNWRITTEN and len(places.sent) == 1
