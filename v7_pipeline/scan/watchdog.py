"""The watchdog: outside Dagster it looks whether scans finish, and tells when they do not, whatever the reason.

It only reads the store, keeps its state in a file of its own and sends by itself: the outbox may be dead as well.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from v7_pipeline.alerts.deliver import Destination, Result, destinations, send
from v7_pipeline.alerts.routing import next_try
from v7_pipeline.alerts.text import time_text
from v7_pipeline.alerts.trouble import alert_of_silence, span_text
from v7_pipeline.scan.pulse import newest_scan
from v7_pipeline.settings import Settings, without_secrets
from v7_pipeline.store import Store

__all__ = ["State", "Verdict", "look", "note_pages"]

Sender = Callable[[Destination, str, str], Result]

_PAGES_FILE = "up.pages"  # the port of Dagster's pages; `v7 up` moves where the wanted one is taken
# States that could not be written: on a full disk the watchdog must neither die nor tell the same each minute.
_UNWRITTEN: dict[Path, State] = {}


@dataclass
class State:
    """What a watchdog remembers; instants as ISO texts. `told`: destinations that know of the outage."""

    first_look: str | None = None
    newest: str | None = None
    newest_seen_at: str | None = None
    outage_since: str | None = None
    told: list[str] = field(default_factory=list)
    tries: dict[str, list[Any]] = field(default_factory=dict)  # destination → [attempts, not before]

    @classmethod
    def read(cls, path: Path) -> State:
        """The state in `path`; a fresh one where there is none, or none that can be read."""
        if path in _UNWRITTEN:
            return _UNWRITTEN[path]
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            state = cls(**{entry.name: kept[entry.name] for entry in fields(cls) if entry.name in kept})
            for instant in (state.first_look, state.newest, state.newest_seen_at, state.outage_since):
                _instant(instant)
            return state
        except (OSError, ValueError, TypeError, AttributeError):
            return cls()

    def write(self, path: Path) -> None:
        """Replace `path` in one step: a kill leaves the state before or this one.

        Where it cannot be written this process remembers it until it can.
        """
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(asdict(self)), encoding="utf-8")
            fresh.replace(path)
        except OSError:
            _UNWRITTEN[path] = self
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
        else:
            _UNWRITTEN.pop(path, None)


@dataclass(frozen=True)
class Verdict:
    """What one look found: whether scans finish, and a sentence."""

    well: bool
    told: str


def look(
    settings: Settings,
    store: Store,
    path: Path,
    *,
    now: datetime,
    silent: bool = False,
    sender: Sender = send,
) -> Verdict:
    """Look once, and alert (unless `silent`) on an outage that is new and on its end, once for each destination.

    `path` is the state's file. An outage begins V7_WATCHDOG_AFTER_S after the newest finished scan, or after the first
    look where none is known. Nothing that is wrong with the store is raised: it is a reason.
    """
    state = State.read(path)
    reasons = _see(state, store, now)
    last = _base(state, now)
    age = (now - last).total_seconds()
    down = age > settings.watchdog_after_s
    if down and state.outage_since is None:
        state.outage_since, state.tries = now.isoformat(), {}
    state.write(path)
    newest = _instant(state.newest)
    if not silent:
        reasons.append(_pages(settings))
        if down:
            row = alert_of_silence(newest, limit_s=settings.watchdog_after_s, reasons=reasons, at=now)
            _tell(settings, state, path, f"Watchdog: {row['title']}", row["body"], now, sender)
        elif state.outage_since is not None:
            began = _instant(state.outage_since)
            lasted = f"the outage was seen at {time_text(began)}"
            body = f"Now: a scan finished at {time_text(newest)}\nBefore: {lasted}"
            _tell(settings, state, path, "Watchdog: recovered, scans finish again", body, now, sender, end=True)
    elif not down and state.outage_since is not None:
        state.outage_since = None
        state.write(path)
    seen = f"newest finished scan {time_text(newest)}"
    problem = f"; {reasons[0]}" if reasons and (down or newest is None) else ""
    if down:
        return Verdict(False, f"scans have stopped: {seen}, {span_text(age)} without one{problem}")
    return Verdict(True, f"{seen}, {span_text(age)} ago{problem}" if newest else f"no scan has been seen yet{problem}")


def _see(state: State, store: Store, now: datetime) -> list[str]:
    """Note the newest scan; what kept from seeing it, in words."""
    state.first_look = state.first_look or now.isoformat()
    try:
        with store.reading() as reader:
            newest = newest_scan(reader)
    except Exception as error:  # noqa: BLE001 - whatever the reason, it is one to tell, not one to die of
        return [f"the store cannot be read: {without_secrets(' '.join(str(error).split()))}"]
    if newest is not None and newest.isoformat() != state.newest:
        state.newest, state.newest_seen_at = newest.isoformat(), now.isoformat()
    return []


def _base(state: State, now: datetime) -> datetime:
    """From when the silence counts. A clock that was set back must not blind: then from when the scan was seen."""
    for text in (state.newest, state.newest_seen_at, state.first_look):
        at = _instant(text)
        if at is not None and at <= now + timedelta(minutes=1):
            return at
    state.first_look = now.isoformat()
    return now


def _tell(
    settings: Settings,
    state: State,
    path: Path,
    title: str,
    body: str,
    now: datetime,
    sender: Sender,
    *,
    end: bool = False,
) -> None:
    """Send to each destination that is due; the state is written after each, so that a kill repeats one at most."""
    if settings.mode == "demo":
        title, body = f"DEMO {title}", f"DEMO: simulated market, no real prices.\n{body}"
    began = _instant(state.outage_since) or now
    for place in destinations(settings.alert_urls):
        tries, not_before = state.tries.get(place.name, [0, None])
        due = (_instant(not_before) or now) <= now
        if (place.name in state.told) is not end or not place.wants("critical") or not due:
            continue
        result = sender(place, title, body)
        if result.kind == "delivered":
            state.told = [name for name in state.told if name != place.name] if end else [*state.told, place.name]
            state.tries.pop(place.name, None)
        else:
            again = next_try(result, attempts=tries + 1, created_at=began, now=now) or now + timedelta(hours=1)
            state.tries[place.name] = [tries + 1, again.isoformat()]
        state.write(path)
    known = {place.name for place in destinations(settings.alert_urls)}
    if end and not known & set(state.told):  # all who knew of the outage know of its end
        state.outage_since, state.told, state.tries = None, [], {}
        state.write(path)


def note_pages(settings: Settings) -> None:
    """Leave word beside the store that Dagster's pages are on V7_UI_PORT of `settings`; `v7 up` calls it."""
    (settings.data_dir / _PAGES_FILE).write_text(str(settings.ui_port), encoding="ascii")


def _pages(settings: Settings) -> str:
    try:
        port = int((settings.data_dir / _PAGES_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        port = settings.ui_port  # `v7 up` has not run here
    try:
        with socket.create_connection((settings.host, port), timeout=2):
            return f"Dagster's pages listen on port {port}"
    except OSError:
        return f"nothing listens on port {port}: v7 up does not run"


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return at
