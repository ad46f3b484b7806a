"""The outbox: once for each destination whatever dies, retried with back-off, told once in a window, quiet at night."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.alerts.deliver import Destination, Result
from v7_pipeline.alerts.routing import LEASE, is_quiet, next_try
from v7_pipeline.alerts.trouble import alert_of_recovery
from v7_pipeline.scan.alerting import deliver_pending
from v7_pipeline.scan.forget import forget_deliveries
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.scan.troubles import open_troubles, write_alerts
from v7_pipeline_tests.alerts.bot_api import TOKEN, BotApi
from v7_pipeline_tests.scan.watched import NOW, alerts, watched

Make = Callable[..., Any]
ONE, TWO = "json://127.0.0.1:9/one", "json://127.0.0.1:9/two"


class Places:
    """Destinations that answer as a test says, and remember what they were sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.answers: dict[str, Result] = {}

    def __call__(self, place: Destination, title: str, body: str) -> Result:
        path = place.url.get_secret_value().rpartition("/")[2]
        self.sent.append((path, title.removeprefix("DEMO "), body))
        return self.answers.get(path, Result("delivered"))

    def titles(self, path: str = "one") -> list[str]:
        return [title for where, title, _ in self.sent if where == path]


@pytest.fixture
def places() -> Places:
    return Places()


def put(runtime: Runtime, key: str, *, severity: str = "warning", subject: str | None = None, **more: Any) -> None:
    row = {
        "alert_id": key, "created_at": runtime.clock(), "kind": "check_failed", "severity": severity, "title": key,
        "body": "…", "subject": subject,
    }  # fmt: skip
    with runtime.store.transaction() as tx:
        write_alerts(tx, runtime, [row | more])


def recover(runtime: Runtime, subject: str) -> None:
    with runtime.store.transaction() as tx:
        trouble = open_troubles(tx, subject)[subject]
        write_alerts(tx, runtime, [alert_of_recovery(trouble, "well", at=runtime.clock())])


def tick(runtime: Runtime, places: Places, *, minutes: float = 0.5) -> tuple[int, int]:
    """One tick of the outbox, `minutes` after the one before."""
    runtime.clock.pass_(minutes=minutes)  # type: ignore[attr-defined]
    return deliver_pending(runtime, sender=places, pause=lambda _: None)


def deliveries(runtime: Runtime) -> dict[tuple[str, str], str]:
    rows = runtime.store.rows("SELECT * FROM alert_deliveries")
    return {(row["alert_id"], row["destination"]): row["status"] for row in rows}


def test_each_destination_gets_each_alert_once_and_a_failing_one_keeps_nobody_back(
    make_settings: Make, places: Places
) -> None:
    runtime = watched(make_settings, alert_urls=f"{ONE} {TWO}")
    put(runtime, "a")
    places.answers["one"] = Result("busy", "one answered 500")
    assert tick(runtime, places) == (1, 1)
    put(runtime, "b")
    assert tick(runtime, places, minutes=0.1) == (1, 0)  # the first one waits with both
    (row, _) = alerts(runtime)
    assert row["status"] == "pending" and row["error"] == "one answered 500" and row["delivered_at"] is not None
    places.answers.clear()
    assert tick(runtime, places, minutes=1) == (2, 0)
    assert places.titles("one") == ["a", "a", "b"] and places.titles("two") == ["a", "b"]
    assert {row["status"] for row in alerts(runtime)} == {"delivered"}
    for _ in range(3):
        assert tick(runtime, places, minutes=60) == (0, 0)


def test_severity_chooses_the_destinations_and_none_is_said(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=f"warning={ONE} critical={TWO}")
    for severity in ("info", "warning", "critical"):
        put(runtime, severity, severity=severity)
    tick(runtime, places)
    assert places.titles("one") == ["critical", "warning"] and places.titles("two") == ["critical"]
    assert {row["alert_id"]: row["status"] for row in alerts(runtime)}["info"] == "no_destination"


def test_without_destinations_alerts_are_marked_so(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings)
    put(runtime, "a")
    assert tick(runtime, places) == (0, 0)
    assert alerts(runtime)[0]["status"] == "no_destination" and not places.sent


def test_back_off_doubles_obeys_retry_after_and_ends_after_a_day() -> None:
    busy = Result("busy")
    waits = [(next_try(busy, attempts=n, created_at=NOW, now=NOW) or NOW) - NOW for n in range(1, 12)]
    assert [wait.total_seconds() for wait in waits[:4]] == [30, 60, 120, 240] and max(waits) == timedelta(hours=1)
    told = next_try(Result("busy", None, 900.0), attempts=1, created_at=NOW, now=NOW)
    assert told == NOW + timedelta(seconds=900)
    later = NOW + timedelta(hours=24)
    assert next_try(busy, attempts=9, created_at=NOW, now=later) is None
    assert next_try(busy, attempts=1, created_at=NOW, now=later) is not None  # three times at least
    assert next_try(Result("message"), attempts=3, created_at=NOW, now=NOW) is None


def test_a_429_holds_the_whole_destination_for_as_long_as_it_said(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=ONE)
    places.answers["one"] = Result("busy", "429", 300.0)
    put(runtime, "a")
    put(runtime, "b")
    assert tick(runtime, places) == (0, 1)
    put(runtime, "new")
    for _ in range(4):
        assert tick(runtime, places, minutes=1) == (0, 0)
    places.answers.clear()
    assert tick(runtime, places, minutes=1.01) == (3, 0)


def test_a_message_that_is_refused_holds_no_other_back(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=ONE)
    put(runtime, "bad", severity="critical")
    places.answers["one"] = Result("message", "400")
    tick(runtime, places)
    places.answers.clear()
    put(runtime, "good")
    assert tick(runtime, places, minutes=0.1) == (1, 0) and places.titles()[-1] == "good"


def test_alike_are_told_once_in_a_window_with_their_count_and_the_window_opens_with_a_delivery(
    make_settings: Make, places: Places
) -> None:
    runtime = watched(make_settings, alert_urls=ONE, alert_window_min=60)
    places.answers["one"] = Result("busy", "500")
    put(runtime, "f0", subject="check:x")
    tick(runtime, places)  # not delivered: no window
    places.answers.clear()
    for n in range(1, 4):
        put(runtime, f"f{n}", subject="check:x")
        tick(runtime, places, minutes=2)
    assert places.titles() == ["f0", "f0"]
    put(runtime, "worse", subject="check:x", severity="critical")
    tick(runtime, places)
    assert places.titles()[-1] == "worse"  # what is more severe is not held back
    runtime.clock.pass_(minutes=61)  # type: ignore[attr-defined]
    put(runtime, "f4", subject="check:x")
    put(runtime, "other", subject="check:y")
    tick(runtime, places)
    assert places.titles()[-2:] == ["f4", "other"]
    statuses = {row["alert_id"]: row["status"] for row in alerts(runtime)}
    assert [statuses[f"f{n}"] for n in range(5)] == ["delivered", *["suppressed"] * 3, "delivered"]


def test_the_count_of_what_was_left_out_is_told_with_the_next(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=ONE, alert_window_min=30)
    for n in range(20):
        put(runtime, f"f{n}", subject="check:x")
        tick(runtime, places, minutes=2)
    assert places.titles() == ["f0", "f15"]
    assert "14 alike not sent since 2026-11-20 12:02 UTC" in places.sent[-1][2]


def test_a_recovery_is_told_where_the_trouble_was_and_nowhere_else(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=f"{ONE} critical={TWO}")
    put(runtime, "f0", subject="check:x")
    tick(runtime, places)
    recover(runtime, "check:x")
    tick(runtime, places)
    assert places.titles("one") == ["f0", "Recovered: f0"] and not places.titles("two")
    assert not open_troubles_of(runtime)
    # It flaps: within the window neither the failure nor its recovery is told again.
    for n in range(1, 4):
        put(runtime, f"f{n}", subject="check:x")
        tick(runtime, places)
        recover(runtime, "check:x")
        tick(runtime, places)
    assert len(places.sent) == 2
    runtime.clock.pass_(minutes=60)  # type: ignore[attr-defined]
    put(runtime, "f9", subject="check:x")
    tick(runtime, places)
    assert places.titles("one")[-1] == "f9" and "3 alike not sent" in places.sent[-1][2]


def open_troubles_of(runtime: Runtime) -> dict[str, Any]:
    with runtime.store.reading() as reader:
        return open_troubles(reader, "")


@pytest.mark.parametrize("kind", ["duckdb", "ducklake:sqlite"])
def test_old_deliveries_go_and_what_recoveries_and_retries_need_stays(
    make_settings: Make, places: Places, tmp_path: Path, kind: str
) -> None:
    store = {"store": f"{kind}:{tmp_path / 'v7.store'}"}
    runtime = watched(make_settings, alert_urls=f"{ONE} {TWO}", alert_window_min=30, **store)
    put(runtime, "lone")
    put(runtime, "first", subject="s")
    tick(runtime, places)
    put(runtime, "folded", subject="s")
    tick(runtime, places)
    runtime.clock.pass_(minutes=31)
    put(runtime, "second", subject="s")
    tick(runtime, places)
    places.answers["two"] = Result("busy", "two answered 500")
    put(runtime, "waiting")
    tick(runtime, places)
    one, two = sorted({place for _, place in deliveries(runtime)}, key=lambda p: deliveries(runtime)["waiting", p])
    assert forget_deliveries(runtime.store, NOW - timedelta(days=1)) == 0
    before, told = alerts(runtime), len(places.sent)
    later = NOW + timedelta(days=1)
    assert forget_deliveries(runtime.store, later) == 6  # lone, first and folded, at two destinations each
    assert forget_deliveries(runtime.store, later) == 0
    assert deliveries(runtime) == {
        ("second", one): "delivered", ("second", two): "delivered", ("waiting", one): "delivered",
        ("waiting", two): "pending",
    }  # fmt: skip
    assert alerts(runtime) == before
    places.answers.clear()
    tick(runtime, places, minutes=60)
    assert [(path, title) for path, title, _ in places.sent[told:]] == [("two", "waiting")]  # nothing is planned anew
    recover(runtime, "s")
    tick(runtime, places)
    assert [(path, title) for path, title, _ in places.sent[-2:]] == [(p, "Recovered: second") for p in ("one", "two")]
    assert forget_deliveries(runtime.store, later) == 2  # "waiting"; trouble and recovery stay
    assert {key.partition(":")[0] for key, _ in deliveries(runtime)} == {"second", "recovery"}


def test_in_quiet_hours_info_waits_and_critical_goes(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=ONE, alert_quiet="12:00-14:30", alert_zone="Europe/Prague")
    put(runtime, "info", severity="info")
    put(runtime, "warning")
    put(runtime, "critical", severity="critical")
    tick(runtime, places)  # 13:01 in Prague
    assert places.titles() == ["critical", "warning"]
    tick(runtime, places, minutes=88)
    assert places.titles() == ["critical", "warning"]
    tick(runtime, places, minutes=2)
    assert places.titles()[-1] == "info" and "LATE: of 2026-11-20 12:00 UTC" in places.sent[-1][2]


@pytest.mark.parametrize(("at", "quiet"), [("21:59", False), ("22:00", True), ("03:00", True), ("07:00", False)])
def test_quiet_hours_reach_over_midnight_on_the_zones_clocks(make_settings: Make, at: str, quiet: bool) -> None:
    hours = make_settings(alert_quiet="22:00-07:00").alert_quiet
    assert is_quiet(datetime.fromisoformat(f"2026-11-20 {at}+01:00"), hours, "Europe/Prague") is quiet
    assert not is_quiet(NOW, None, "UTC")


def test_a_destination_that_refuses_is_told_to_the_others_once_and_so_is_its_return(
    make_settings: Make, places: Places
) -> None:
    runtime = watched(make_settings, alert_urls=f"{ONE} {TWO}")
    places.answers["one"] = Result("refused", "json-1 answered 403: blocked")
    put(runtime, "a")
    for _ in range(5):
        tick(runtime, places, minutes=11)
    told = [title for title in places.titles("two") if title.startswith("Alerts do not arrive")]
    assert len(told) == 1 and not any("Alerts do not" in title for title in places.titles("one"))
    places.answers.clear()
    for _ in range(3):
        tick(runtime, places, minutes=60)
    assert places.titles("two")[-1].startswith("Recovered: Alerts do not arrive at json-")


def test_what_a_destination_that_is_gone_did_not_get_is_ended(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=ONE)
    places.answers["one"] = Result("busy", "500")
    put(runtime, "a")
    tick(runtime, places)
    runtime.settings = make_settings(mode="demo", alert_urls=TWO)
    tick(runtime, places)
    assert alerts(runtime)[0]["status"] == "failed" and "no longer in V7_ALERT_URLS" in alerts(runtime)[0]["error"]


KILLED = """
import os, sys
from datetime import datetime
from v7_pipeline.alerts.deliver import send
from v7_pipeline.scan.alerting import deliver_pending
from v7_pipeline.scan.forget import forget_deliveries
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline.settings import load_settings
home, url, at, when = sys.argv[1:]
runtime = build_runtime(load_settings(home=home, mode="demo", alert_urls=url), clock=lambda: datetime.fromisoformat(at))
def sender(place, title, body):
    if when == "before":
        os.kill(os.getpid(), 9)
    result = send(place, title, body)
    if when == "after":
        os.kill(os.getpid(), 9)
    return result
deliver_pending(runtime, sender=sender, pause=lambda _: None)
"""


@pytest.mark.parametrize(("when", "arrived"), [("before", 0), ("after", 1)])
def test_a_kill_loses_nothing_and_a_repeat_says_so(
    make_settings: Make, bot_api: BotApi, tmp_path: Path, when: str, arrived: int
) -> None:
    url = bot_api.json_url.get_secret_value()
    runtime = watched(make_settings, alert_urls=url)
    for key in ("a", "b"):
        put(runtime, key)
    runtime.store.close()
    command = [sys.executable, "-c", KILLED, str(runtime.settings.home), url, NOW.isoformat(), when]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -9, ended.stderr
    assert len(bot_api.received) == arrived
    assert sorted(deliveries(runtime).values()) == ["pending", "sending"]
    assert deliver_pending(runtime, pause=lambda _: None) == (1, 0)  # the other one; whose end is unknown waits
    runtime.clock.pass_(seconds=LEASE.total_seconds() + 1)  # type: ignore[attr-defined]
    assert deliver_pending(runtime, pause=lambda _: None) == (1, 0)
    assert set(deliveries(runtime).values()) == {"delivered"} and len(bot_api.received) == arrived + 2
    assert [("Perhaps a repeat" in text) for text in bot_api.texts] == [False] * (arrived + 1) + [True]


def test_two_that_deliver_at_once_send_each_alert_once(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=ONE)
    for key in ("a", "b"):
        put(runtime, key)

    def nested(place: Destination, title: str, body: str) -> Result:
        deliver_pending(runtime, sender=places, pause=lambda _: None)  # a second daemon, in the midst of our send
        return places(place, title, body)

    deliver_pending(runtime, sender=nested, pause=lambda _: None)
    assert sorted(places.titles()) == ["a", "b"]


def test_lesson_30_no_token_is_written_to_the_store(make_settings: Make, bot_api: BotApi) -> None:
    runtime = watched(make_settings, alert_urls=f"tgram://{TOKEN}/4242")
    bot_api.fault = "401"
    put(runtime, "a")
    deliver_pending(runtime)
    row = runtime.store.rows("SELECT * FROM alert_deliveries")[0]
    assert "answered 401" in row["error"] and row["holds"] is True
    assert TOKEN.partition(":")[2] not in str(row) + str(alerts(runtime))


def test_between_two_messages_to_a_destination_there_is_a_second(make_settings: Make, places: Places) -> None:
    runtime = watched(make_settings, alert_urls=f"{ONE} {TWO}")
    for key in ("a", "b", "c"):
        put(runtime, key)
    pauses: list[float] = []
    assert deliver_pending(runtime, sender=places, pause=pauses.append) == (6, 0)
    assert pauses == [1.0] * 4


KILLED_IN_THE_STORE = """
import os, sys
from contextlib import contextmanager
from datetime import datetime
from v7_pipeline.scan.alerting import deliver_pending
from v7_pipeline.scan.forget import forget_deliveries
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline.settings import load_settings
from v7_pipeline.store import Store
home, url, at, point, when = sys.argv[1:]
runtime = build_runtime(load_settings(home=home, mode="demo", alert_urls=url), clock=lambda: datetime.fromisoformat(at))
entered, own = [], Store.transaction
@contextmanager
def transaction(self):
    with own(self) as tx:
        entered.append(1)
        yield tx
        if len(entered) == int(point) and when == "before":
            os.kill(os.getpid(), 9)
    if len(entered) == int(point):
        os.kill(os.getpid(), 9)
Store.transaction = transaction
deliver_pending(runtime, pause=lambda _: None)
"""


@pytest.mark.slow
def test_killed_before_and_after_each_commit_every_alert_arrives_and_each_repeat_is_marked(
    make_settings: Make, bot_api: BotApi, tmp_path: Path
) -> None:
    url = bot_api.json_url.get_secret_value()
    repeats = 0
    for point in range(1, 7):
        for when in ("before", "after"):
            runtime = watched(make_settings, home=tmp_path / f"{point}-{when}", alert_urls=url)
            for key in ("first", "second"):
                put(runtime, key)
            runtime.store.close()
            bot_api.received.clear()
            arguments = [str(runtime.settings.home), url, NOW.isoformat(), str(point), when]
            command = [sys.executable, "-c", KILLED_IN_THE_STORE, *arguments]
            ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
            assert ended.returncode == -9, (point, when, ended.stderr)
            for _ in range(2):
                deliver_pending(runtime, pause=lambda _: None)
                runtime.clock.pass_(seconds=LEASE.total_seconds() + 1)  # type: ignore[attr-defined]
            deliver_pending(runtime, pause=lambda _: None)
            assert set(deliveries(runtime).values()) == {"delivered"}, (point, when)
            for key in ("first", "second"):
                texts = [text for text in bot_api.texts if key in text.partition("\n")[0]]
                plain = [text for text in texts if "Perhaps a repeat" not in text]
                assert 1 <= len(texts) <= 2 and len(plain) <= 1, (point, when, texts)
                repeats += len(texts) - 1
    assert repeats == 2  # killed with the message sent and its end not written: once for each
