"""`v7 watchdog` beside a real `v7 up --demo` that is killed: silence while it revives itself, one alert, one recovery.

The alerts arrive at a stand-in of Telegram's Bot API on this machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from v7_pipeline.settings import load_settings
from v7_pipeline.store import open_store
from v7_pipeline_tests.alerts.bot_api import TOKEN, BotApi, lead_here, serve
from v7_pipeline_tests.end_to_end.processes import kill_all
from v7_pipeline_tests.end_to_end.test_daemon import PROJECT, Tree, _free_port, _until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("daemon")]

AFTER_S = 30.0
LOOK_S = 1.0
STOPPED, RECOVERED = "Watchdog: Scans have stopped", "Watchdog: recovered"


@dataclass
class Watched(Tree):
    """A tree, and what it shares with its watchdog."""

    lead: Path = Path()
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.lead}:{os.environ.get('PYTHONPATH') or PROJECT}"
        return super().environment | {"PYTHONPATH": path, "V7_WATCHDOG_AFTER_S": str(AFTER_S)} | self.extra

    def child(self, *words: str) -> psutil.Process | None:
        """The direct child of the supervisor whose command has all `words`."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if all(word in " ".join(child.cmdline()) for word in words):
                        return child
        return None


@contextmanager
def _watchdog(tree: Watched, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "v7_pipeline.cli", "watchdog", "--demo", "--every", str(LOOK_S)]
    environment = tree.environment | {"V7_ALERT_URLS": f"tgram://{TOKEN}/12345678"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=tree.home.parent, env=environment, stdout=out, stderr=out)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.kill()
        process.wait()


def _told(api: BotApi, words: str) -> list[str]:
    return [text for text in api.texts if words in text]


def _newest(tree: Watched) -> datetime:
    store = open_store(load_settings(home=tree.home, mode="demo", _env_file=None).store_url, wait_s=30)
    newest: datetime = store.rows("SELECT max(finished_at) AS at FROM scans")[0]["at"]
    store.close()
    return newest


def test_a_killed_tree_is_told_once_and_so_is_its_return(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ports = {name: _free_port() for name in ("V7_UI_PORT", "V7_DASHBOARD_PORT", "V7_SANDBOX_PORT")}
    with serve() as api:
        tree = Watched(home, ports, lead=lead_here(api, tmp_path / "lead"))
        try:
            tree.start()
            tree.ready(180)
            # A slow machine is given the next minute's scan: what follows must fit into AFTER_S.
            _until(lambda: (datetime.now(UTC) - _newest(tree)).total_seconds() < AFTER_S / 3, 90, "a fresh scan")
            with _watchdog(tree, tmp_path / "watchdog.txt"):
                _kill_and_see_revived(tree)
                assert not api.texts  # the supervisor sees to it: nobody is woken
                newest = _newest(tree)
                tree.end(signal.SIGKILL)
                (text,) = _until(lambda: _told(api, STOPPED), AFTER_S + 30, f"the alert; it said {api.texts}")
                silent_for = (datetime.now(UTC) - newest).total_seconds()
                print(f"\ntold {silent_for:.1f} s after the newest scan, with {AFTER_S:.0f} allowed")
                assert silent_for > AFTER_S
                assert "<b>DEMO " in text
                assert f"nothing listens on port {ports['V7_UI_PORT']}" in text
                time.sleep(5 * LOOK_S)
                assert len(api.texts) == 1
                tree.start()
                _until(
                    lambda: _told(api, RECOVERED), 150, "the recovery: a start scans, or the next minute's tick does"
                )
                time.sleep(3 * LOOK_S)
                assert [len(_told(api, words)) for words in (STOPPED, RECOVERED)] == [1, 1]
                assert _newest(tree) > newest
                assert tree.end(signal.SIGTERM) == 0
        finally:
            kill_all(tree.home)
            if tree.process is not None:
                tree.process.wait()


def _kill_and_see_revived(tree: Watched) -> None:
    """kill -9 the daemon and the code server; the supervisor starts both again."""
    for words in (("dagster._daemon",), ("api", "grpc")):
        before = _until(lambda w=words: tree.child(*w), 10, f"a child {words}")
        before.kill()
        after = _until(
            lambda w=words, b=before: (found := tree.child(*w)) and found.pid != b.pid and found, 20, f"{words} again"
        )
        assert after.is_running()
