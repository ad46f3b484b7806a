"""`v7 halt` and `v7 resume` as a person meets them, and what a scan does while trading is halted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.gates.conditions import halt as gate
from v7_pipeline.scan.halts import from_next_scan, halt, halts_in_force, resume
from v7_pipeline.store import Store, open_store
from v7_pipeline_tests.scan.watched import MARKS, NOW, alerts, halts, put_scan, watched
from v7_pipeline_tests.test_cli import refused, v7

MINUTE = timedelta(minutes=1)
THIS = NOW.replace(second=0)  # the minute's scan
WORDS: dict[str, Any] = {"provenance": MARKS, "marks": {"demo": True}}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    monkeypatch.setenv("V7_MODE", "demo")
    return open_store(f"duckdb:{tmp_path / 'demo' / 'v7.duckdb'}")


def rows(store: Store, table: str) -> list[dict[str, Any]]:
    return store.rows(f"SELECT * FROM {table} ORDER BY ALL")


# --- the commands ---------------------------------------------------------------------------


def test_halt_writes_the_halt_and_its_alert_also_before_the_first_scan(store: Store) -> None:
    said = v7("halt", "--reason", "rates decision\n tonight")
    assert said.code == 0, said.err
    assert said.out.startswith("DEMO HALTED: rates decision tonight. It ends when a person lifts it with v7 resume.")
    (row,) = rows(store, "halts")
    assert (row["kind"], row["until"], row["reason"]) == ("manual", None, "rates decision tonight")
    assert (row["source"], row["run_id"], row["lifted_at"]) == ("demo", "v7 halt", None)
    assert timedelta(0) <= datetime.now(UTC) - row["started_at"] < 2 * MINUTE
    (alert,) = rows(store, "alerts")
    assert (alert["kind"], alert["severity"], alert["status"]) == ("halt", "warning", "pending")
    assert alert["title"] == "DEMO HALT by hand" and "Why: rates decision tonight" in alert["body"]


@pytest.mark.parametrize(("span", "minutes"), [("30m", 30), ("2h", 120), ("1d", 1440), ("1H30M", 90)])
def test_for_names_how_long(store: Store, span: str, minutes: int) -> None:
    before = datetime.now(UTC)
    said = v7("halt", "--reason", "news", "--for", span)
    (row,) = rows(store, "halts")
    assert before <= row["until"] - timedelta(minutes=minutes) <= datetime.now(UTC)
    assert f"by itself at {row['until']:%Y-%m-%d %H:%M} UTC" in said.out and "in Prague" in said.out


def test_until_names_the_end(store: Store) -> None:
    assert v7("halt", "--reason", "news", "--until", "2096-11-23T09:00:00+01:00").code == 0
    assert rows(store, "halts")[0]["until"] == datetime(2096, 11, 23, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Missing option '--reason'"),
        (("--reason", " "), "--reason is blank"),
        (("--reason", "x", "--for", "2x"), "--for '2x' is no span of time; write it as 30m"),
        (("--reason", "x", "--for", ""), "is no span of time"),
        (("--reason", "x", "--for", "0h"), "is no span of time"),
        (("--reason", "x", "--until", "noon"), "--until 'noon' is no instant"),
        (("--reason", "x", "--until", "2096-11-23T08:00:00"), "has no time zone"),
        (("--reason", "x", "--until", "2020-11-23T08:00:00Z"), "has passed"),
        (("--reason", "x", "--for", "2h", "--until", "2096-11-23T08:00:00Z"), "give one of them"),
    ],
)
def test_a_bad_halt_is_one_sentence_and_leaves_nothing(store: Store, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("halt", *arguments)
    assert store.schema_version() is None


def test_halting_twice_for_the_same_reason_does_not_stack(store: Store) -> None:
    v7("halt", "--reason", "news")
    said = v7("halt", "--reason", "news", "--for", "1h")
    assert said.code == 0 and "in force already since" in said.out
    assert len(rows(store, "halts")) == len(rows(store, "alerts")) == 1
    v7("halt", "--reason", "holiday")
    assert len(rows(store, "halts")) == 2


def test_a_longer_halt_for_the_same_reason_is_one_of_its_own(store: Store) -> None:
    v7("halt", "--reason", "news", "--for", "1h")
    v7("halt", "--reason", "news")
    assert [row["until"] is None for row in rows(store, "halts")].count(True) == 1


def test_resume_lifts_what_a_person_set_with_one_alert(store: Store) -> None:
    v7("halt", "--reason", "news")
    v7("halt", "--reason", "holiday")
    said = v7("resume", "--reason", "back at the desk")
    assert said.code == 0, said.err
    assert "DEMO lifted: manual halt" in said.out and "news" in said.out and "holiday" in said.out
    assert "signals may be accepted from the next scan on" in said.out
    assert {row["lifted_reason"] for row in rows(store, "halts")} == {"back at the desk"}
    assert all(row["lifted_at"] is not None for row in rows(store, "halts"))
    (alert,) = [row for row in rows(store, "alerts") if row["kind"] == "resume"]
    assert alert["title"] == "DEMO Resumed by hand: 2 halts lifted" and "Why: back at the desk" in alert["body"]


def test_resume_without_a_halt_or_a_store_says_so_and_makes_none(store: Store) -> None:
    said = v7("resume")
    assert said.code == 0 and "no halt is in force: there is no store yet" in said.out
    assert store.schema_version() is None
    v7("halt", "--reason", "x")
    v7("resume")
    before = rows(store, "alerts")
    said = v7("resume")
    assert said.code == 0 and "no halt is in force" in said.out
    assert rows(store, "alerts") == before


def test_a_gate_that_is_off_stands_on_these_alerts_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_GATES_OFF", "rate")
    v7("halt", "--reason", "x")
    v7("resume")
    assert all("GATES OFF: rate" in row["body"] for row in rows(store, "alerts"))


# --- what is lifted, and from when ----------------------------------------------------------


def own_halt(kind: str, until: datetime | None) -> dict[str, Any]:
    return {"halt_id": kind, "kind": kind, "started_at": NOW - MINUTE, "until": until, "reason": f"the {kind} one"}


def test_daily_and_budget_halts_are_left_to_end_by_themselves(make_settings: Any) -> None:
    from v7_pipeline_tests.scan.watched import put

    runtime = watched(make_settings)
    ends = NOW + timedelta(hours=11)
    for kind, until in (("manual", None), ("total", None), ("daily", ends), ("budget", ends)):
        put(runtime, "halts", **own_halt(kind, until))
    done = resume(runtime.store, None, at=NOW, **WORDS)
    assert {row["kind"] for row in done.lifted} == {"manual", "total"}
    assert {row["kind"] for row in done.left} == {"daily", "budget"}
    assert {row["kind"] for row in halts_in_force(runtime.store, NOW)} == {"daily", "budget"}
    (alert,) = alerts(runtime)
    assert "Still in force: daily, the daily one; it ends by itself at 2026-11-20 23:00 UTC" in alert["body"]
    assert "Why: –" in alert["body"]
    again = resume(runtime.store, None, at=NOW + MINUTE, **WORDS)
    assert not again.lifted and len(again.left) == 2 and len(alerts(runtime)) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_a_switch_holds_from_the_next_scan_that_has_not_begun(make_settings: Any, begun: bool) -> None:
    runtime = watched(make_settings)
    if begun:
        put_scan(runtime, THIS)
    assert from_next_scan(runtime.store, NOW) == (NOW if begun else THIS)
    halt(runtime.store, "x", at=NOW, **WORDS)
    passed = {
        at: gate(runtime.store.query("SELECT * FROM halts"), at).passed for at in (THIS - MINUTE, THIS, THIS + MINUTE)
    }
    assert passed == {THIS - MINUTE: True, THIS: begun, THIS + MINUTE: False}
    later = NOW + 2 * MINUTE
    if begun:
        put_scan(runtime, THIS + 2 * MINUTE)
    resume(runtime.store, None, at=later, **WORDS)
    table = runtime.store.query("SELECT * FROM halts")
    assert gate(table, THIS + MINUTE).passed is False, "what was decided while halted stays so when it is asked again"
    assert gate(table, THIS + 2 * MINUTE).passed is not begun
    assert gate(table, THIS + 3 * MINUTE).passed is True


def test_a_halt_ends_at_its_end(make_settings: Any) -> None:
    runtime = watched(make_settings)
    halt(runtime.store, "x", at=NOW, until=NOW + MINUTE, **WORDS)
    assert halts_in_force(runtime.store, NOW) and not halts_in_force(runtime.store, NOW + MINUTE)
    assert [row["halt_id"] for row in halts(runtime)] == ["manual-20261120T120031.000000Z"]
