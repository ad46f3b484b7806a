"""What `v7 up` tells its children and the watchdog; the tree itself is driven in end_to_end/test_daemon.py."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from v7_pipeline.alerts.deliver import Destination, Result
from v7_pipeline.orchestration import alert_sensors, up
from v7_pipeline.orchestration.supervisor import Child
from v7_pipeline.scan.watchdog import look
from v7_pipeline.settings import load_settings
from v7_pipeline.store import open_store


class Tree:
    """Takes the place of the supervisor: no process is started."""

    stopping = False

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}

    def launch(self, *children: Child) -> None:
        self.children |= {child.name: child for child in children}

    start = launch

    def await_ready(self, *children: Child) -> None:
        pass


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("mode", ["live", "demo"])
def test_alerts_and_watchdog_know_the_port_that_the_pages_moved_to(
    make_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(up, "fill", lambda *_, **__: None)
    tree, lines = Tree(), Lines()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        settings = make_settings(mode=mode, ui_port=wanted, alert_urls="json://127.0.0.1:9")
        settings.data_dir.mkdir(parents=True)
        addresses = up._start(settings, tree, lines, lambda: None, history=False)  # type: ignore[arg-type]
        assert addresses is not None
        moved = int(addresses.dagster.rpartition(":")[2])
        assert moved != wanted and f"port {wanted} is taken; Dagster's pages use {moved}" in lines.said
        store = open_store(settings.store_url)
        told: list[str] = []

        def send(place: Destination, title: str, body: str) -> Result:
            told.append(body)
            return Result("delivered")

        for year in (2026, 2027):  # a year without a scan
            look(settings, store, settings.data_dir / "w.json", now=datetime(year, 1, 1, tzinfo=UTC), sender=send)
    assert f"nothing listens on port {moved}" in told[0]  # what took the wanted port is none of ours
    for name in ("code server", "Dagster's pages", "daemon", "dashboard"):
        for variable, value in tree.children[name].env.items():
            if variable.startswith("V7_"):
                monkeypatch.setenv(variable, value)
        assert alert_sensors._pages(load_settings(_env_file=None)) == addresses.dagster
    assert str(moved) in tree.children["Dagster's pages"].argv
