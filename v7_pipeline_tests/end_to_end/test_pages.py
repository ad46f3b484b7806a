"""What a person sees after `v7 up --demo`, in a real browser: the graph, a materialisation's story, a re-execution,
a failed check; and what arrives of that check at a stand-in of Telegram's Bot API.

The port that is wanted for Dagster's pages is taken: every link must follow them. With V7_SCREENSHOTS=<folder> a day of
history is filled first and the pictures of docs/img are taken.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from v7_pipeline.settings import load_settings
from v7_pipeline.store import Store, open_store
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.alerts.bot_api import TOKEN, BotApi, lead_here, serve
from v7_pipeline_tests.end_to_end.browser import SCREENSHOTS, Browser, open_browser

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(1200), pytest.mark.xdist_group("daemon")]

ASSETS = ("candles", "theory_features", "llm_signals", "gated_signals", "outcomes", "theory_attribution")
TABLES = ("theory_features", "llm_calls", "llm_signals", "gated_signals", "win_rates", "scans")
_PROJECT = Path(__file__).resolve().parents[2]
_V7 = (sys.executable, "-m", "v7_pipeline.cli")
_RUNS = """query ($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 50) { ... on Runs { results {
  runId status rootRunId tags { key value } } } } }"""


@dataclass(frozen=True)
class Demo:
    """A running `v7 up --demo`."""

    dagster: str
    dashboard: str
    store: Store
    environment: dict[str, str]
    api: BotApi

    def scan(self, as_of: datetime) -> None:
        """`v7 scan --demo --as-of …` beside the running demo."""
        self.v7("scan", "--as-of", f"{as_of:%Y-%m-%dT%H:%M:%SZ}")

    def v7(self, command: str, *options: str, fails: bool = False) -> str:
        """A command beside the running demo; what it said."""
        argv = [*_V7, command, "--demo", *options]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=180, check=False)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        """Runs of the job `scan`, newest first, with their tags as a mapping."""
        variables = {"filter": {"pipelineName": "scan"} | wanted}
        answer = requests.post(f"{self.dagster}/graphql", json={"query": _RUNS, "variables": variables}, timeout=20)
        runs: list[dict[str, Any]] = answer.json()["data"]["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in runs]

    def scheduled_scan(self) -> dict[str, Any]:
        """The newest scan that the schedule started and that succeeded; its first tick takes up to two minutes."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            for run in self.runs(statuses=["SUCCESS"]):
                if "dagster/schedule_name" in run["tags"] and run["rootRunId"] is None:
                    return run
            time.sleep(1)
        pytest.fail("the schedule has not fired within four minutes")

    def rows_of(self, as_of: str) -> dict[str, pd.DataFrame]:
        """All rows of the instant, by table."""
        with self.store.reading() as reader:
            return {
                name: reader.query(f"SELECT * FROM {name} WHERE as_of = ?::TIMESTAMPTZ ORDER BY ALL", (as_of,))
                for name in TABLES
            }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """`v7 up --demo` on a home and ports of its own."""
    folder = tmp_path_factory.mktemp("up")
    home, log = folder / "home", folder / "up.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("V7_", "DAGSTER"))}
    environment.pop("DEEPSEEK_API_KEY", None)
    environment |= {f"V7_{name}_PORT": str(_free_port()) for name in ("UI", "DASHBOARD", "SANDBOX")}
    environment["V7_HOME"] = str(home)
    command = [*_V7, "up", "--demo", *([] if SCREENSHOTS else ["--no-history"])]
    with serve() as api, socket.create_server(("127.0.0.1", int(environment["V7_UI_PORT"]))):
        environment["V7_ALERT_URLS"] = f"tgram://{TOKEN}/12345678"
        environment["PYTHONPATH"] = f"{lead_here(api, folder / 'lead')}:{environment.get('PYTHONPATH', _PROJECT)}"
        with log.open("w") as out:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            found = _addresses(process, log, patience_s=900)
            store = open_store(load_settings(home=home, mode="demo").store_url)
            yield Demo(found["Dagster"], found["Dashboard"], store, environment, api)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def test_the_asset_graph_shows_all_six_assets(browser: Browser, demo: Demo) -> None:
    demo.scheduled_scan()
    browser.resize(1750, 640)
    browser.open(f"{demo.dagster}/asset-groups")
    browser.see("market", "theories", "signals", "learning")
    browser.press("Hide navigation")
    browser.press_beside("Jump to…")  # its list of assets, which would stand in for the graph's nodes
    browser.expand_all_groups()
    browser.see(*ASSETS)
    browser.until("pause between two scans", lambda: "Materializing" not in browser.text())
    browser.picture("asset_graph")


def test_a_materialisation_of_gated_signals_tells_its_reasons_and_shows_the_prices(
    browser: Browser, demo: Demo
) -> None:
    as_of = _instant_to_show(demo)
    demo.scan(as_of)  # done twice it changes nothing, but its story is now the partition's newest
    decisions = demo.rows_of(f"{as_of:%Y-%m-%dT%H:%M:%SZ}")["llm_signals"]
    assert len(decisions) == 3

    browser.resize(1500, 1000)
    browser.open(f"{demo.dagster}/assets/gated_signals?view=partitions&partition={as_of:%Y-%m-%d}")
    browser.see("DEMO", f"Signals at {as_of:%Y-%m-%d %H:%M}Z", "reasons against", *decisions["symbol"])
    browser.see(*decisions["reasoning"])
    browser.picture("gated_signals_reasons")
    browser.press("[Show Markdown]")
    pictures = browser.until("price plot", lambda: browser.pictures(named="closes and signals"))
    assert pictures[0].size["width"] > 300
    browser.picture("gated_signals_metadata")


def test_a_materialisation_of_theory_features_shows_every_reading_and_the_day(browser: Browser, demo: Demo) -> None:
    as_of = _instant_to_show(demo)
    demo.scan(as_of)
    browser.resize(1500, 1000)
    browser.open(f"{demo.dagster}/assets/theory_features?view=partitions&partition={as_of:%Y-%m-%d}")
    browser.see("day", "readings", "rows_computed")
    # Two long markdown entries: the day's picture stands first.
    browser.press("[Show Markdown]")
    pictures = browser.until("small multiples", lambda: browser.pictures(named="percentiles of the ten theories"))
    assert pictures[0].size["width"] > 300
    browser.see("DEMO")
    browser.picture("theory_features_day")
    browser.press("Close")
    browser.press_last("[Show Markdown]")
    browser.see("what it says", *THEORY_NAMES, "of random walks of this length")
    browser.picture("theory_features_readings")
    browser.press("Close")


def test_a_scan_re_executed_from_its_page_has_the_same_instant_and_changes_no_row(browser: Browser, demo: Demo) -> None:
    scan = demo.scheduled_scan()
    as_of = scan["tags"]["v7/as_of"]
    before = demo.rows_of(as_of)
    assert len(before["llm_signals"]) == len(before["gated_signals"]) == 3
    assert len(before["scans"]) == 1

    browser.open(f"{demo.dagster}/runs/{scan['runId']}")
    browser.press("Re-execute all (*)")
    pages = re.compile(rf"/runs/(?!{scan['runId']})[0-9a-f-]{{36}}")
    browser.until("page of the new run", lambda: pages.fullmatch(browser.path()))
    again = browser.path().rsplit("/", 1)[-1]
    run = browser.until("end of the new run", lambda: _ended(demo, again), patience_s=180)
    browser.see("Success", "Re-executions (1)", "Finished execution of run")
    browser.picture("reexecution")
    browser.press("View tags and config")
    browser.see(f"v7/as_of: {as_of}")

    assert run["status"] == "SUCCESS"
    assert run["rootRunId"] == scan["runId"]
    assert run["tags"]["v7/as_of"] == as_of
    for name, rows in demo.rows_of(as_of).items():
        pd.testing.assert_frame_equal(rows, before[name], obj=name)


def test_the_dashboard_says_demo_and_shows_the_decisions(browser: Browser, demo: Demo) -> None:
    demo.scheduled_scan()
    browser.open(demo.dashboard)
    browser.see("DEMO: simulated market", "BTC-USD", "ETH-USD", "SOL-USD", "Daily room", "Total room", "Day rolls")
    browser.picture("dashboard")


# The last one: until the bad candle is fetched again, scans are blocked.
def test_a_failed_check_of_candles_is_on_its_tab_and_has_arrived_as_an_alert(browser: Browser, demo: Demo) -> None:
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    bad = minute - timedelta(minutes=40)  # nobody asks the market for it again by himself
    with demo.store.transaction() as tx:
        tx.execute("UPDATE candles SET low = high * 1.5 WHERE symbol = 'ETH-USD' AND open_time = ?", (bad,))
    said = demo.v7("scan", "--as-of", f"{minute:%Y-%m-%dT%H:%M:%SZ}", fails=True)
    assert "ohlc_consistent" in said
    arrived = _arrived(browser, demo, "<b>DEMO Check failed: ohlc_consistent of candles</b>")
    first = f"ETH-USD {bad:%Y-%m-%d %H:%M}:00+00"
    for words in (
        "DEMO: simulated market", "Asset: candles", "wrong: 1", f"first: {first}", "what depends on it was not computed"
    ):  # fmt: skip
        assert words in arrived, words
    link = unescape(re.search(r"Page: (\S+)", arrived)[1])  # type: ignore[index]
    assert link.startswith(f"{demo.dagster}/assets/candles?")

    browser.resize(1500, 1000)
    browser.open(link)
    browser.see("ohlc_consistent", "Failed", "A stored candle is impossible", first, "DEMO: simulated, no real prices")
    browser.picture("checks")

    demo.v7("backfill", "--from", f"{bad:%Y-%m-%d}", "--to", f"{bad:%Y-%m-%d}")  # as the check's page says
    later = datetime.now(UTC).replace(second=0, microsecond=0)
    demo.scan(later)
    _arrived(browser, demo, "<b>DEMO Recovered: Check failed: ohlc_consistent of candles</b>")
    browser.open(link)
    browser.until("recovery on the page", lambda: first not in browser.text())


def _arrived(browser: Browser, demo: Demo, words: str) -> str:
    """The text of the one message with `words`, as Telegram was sent it."""
    found = browser.until(f"alert {words}", lambda: [text for text in demo.api.texts if words in text], patience_s=90)
    assert len(found) == 1
    if SCREENSHOTS:
        print(found[0])
    return str(found[0])


def _instant_to_show(demo: Demo) -> datetime:
    """The newest instant with an accepted signal, where there is one; else that of the newest scan."""
    found = demo.store.query(
        "SELECT as_of FROM gated_signals ORDER BY accepted DESC, as_of DESC LIMIT 1",
    )["as_of"].iloc[0]
    instant: datetime = found.to_pydatetime().astimezone(UTC)
    return instant


def _ended(demo: Demo, run_id: str) -> dict[str, Any] | None:
    runs = demo.runs(runIds=[run_id])
    return runs[0] if runs and runs[0]["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None


def _addresses(process: subprocess.Popen[bytes], log: Path, patience_s: float) -> dict[str, str]:
    """Where the pages are, as `v7 up` prints it when all of it is ready."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and process.poll() is None:
        found = dict(re.findall(r"^(Dagster|Dashboard) +(http://\S+)", log.read_text(), re.MULTILINE))
        if len(found) == 2:
            return found
        time.sleep(0.5)
    pytest.fail(f"`v7 up --demo` has not come up; it said:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
