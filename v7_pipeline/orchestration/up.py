"""`v7 up`: the whole of V7 as one supervised process tree on one machine.

Order: lock, sandbox (demo), fill what is missing, Dagster's pages and daemon, dashboard; then watch until a signal.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import dagster as dg

from v7_pipeline.orchestration.launch import EVENT_BATCHES, execute_backfill, execute_scan, open_instance, prepare_home
from v7_pipeline.orchestration.orphans import end_orphans, listens
from v7_pipeline.orchestration.partitions import partition_of
from v7_pipeline.orchestration.supervisor import Child, Supervisor
from v7_pipeline.scan.context import minute
from v7_pipeline.scan.features import FIRST_SPAN
from v7_pipeline.scan.run import run_scan
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.scan.watchdog import note_pages
from v7_pipeline.settings import Settings

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = [
    "AlreadyRunningError",
    "Teller",
    "answers",
    "fill",
    "hold_lock",
    "sandbox_settings",
    "up",
]

# definitions.build_definitions: it stands above this room, so it is handed down.
Build = Callable[..., dg.Definitions]

FILL_DAYS = 3
SCAN_EVERY = timedelta(minutes=2)
SCAN_HISTORY = timedelta(days=1)


class AlreadyRunningError(RuntimeError):
    """Another V7 works on the same data."""


class Teller(Protocol):
    """How progress reaches the person: lines, and progress bars by stage."""

    def line(self, text: str) -> None: ...
    def progress(self, stage: str, done: int, total: int) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Addresses:
    """Where the pages are."""

    dagster: str
    dashboard: str
    sandbox: str | None


def sandbox_settings(settings: Settings, url: str) -> Settings:
    """Demo settings that ask the sandbox for everything; a real key is never sent to it."""
    from pydantic import SecretStr

    return settings.model_copy(
        update={
            "exchange_url": url,
            "advanced_url": url,
            "deepseek_url": url,
            "coingecko_url": f"{url}/api/v3",
            "coingecko_api_key": None,
            "deepseek_api_key": SecretStr("demo-key-of-the-sandbox"),
            # The sandbox is ours and on this machine; its speed is its own limit.
            "market_rate_per_s": 1000,
        }
    )


def hold_lock(settings: Settings) -> BaseFileLock:
    """The lock of the mode's data folder, held; AlreadyRunningError where another copy holds it."""
    from filelock import FileLock, Timeout

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.data_dir / "up.lock")
    owner = settings.data_dir / "up.owner"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = owner.read_text().strip() if owner.is_file() else "unknown"
        raise AlreadyRunningError(
            f"V7 is already running on {settings.data_dir} ({who}); end it there, or choose another V7_HOME"
        ) from None
    owner.write_text(f"process {os.getpid()}")
    return lock


def up(
    settings: Settings,
    teller: Teller,
    build: Build,
    *,
    history: bool = True,
    on_ready: Callable[[Addresses], None] | None = None,
) -> None:
    """Start everything and stay until SIGINT or SIGTERM. AlreadyRunningError, SupervisorError, LaunchError."""
    lock = hold_lock(settings)
    supervisor = Supervisor(on_event=teller.line)
    supervisor.install_signals()
    try:
        addresses = _start(settings, supervisor, teller, build, history=history)
        if addresses is not None:
            if on_ready:
                on_ready(addresses)
            supervisor.watch()
    finally:
        teller.finish()
        teller.line("stopping …")
        supervisor.stop()
        lock.release()
        teller.line("stopped; everything is kept in " + str(settings.data_dir))


def _start(
    settings: Settings, supervisor: Supervisor, teller: Teller, build: Build, *, history: bool
) -> Addresses | None:
    logs = settings.data_dir / "logs"
    home = prepare_home(settings)
    sandbox_url: str | None = None
    first: list[Child] = []
    if settings.mode == "demo":
        port = _port(settings.host, settings.sandbox_port, teller, "the sandbox")
        sandbox_url = f"http://{settings.host}:{port}"
        first.append(_sandbox(settings, _environment(settings, home), logs, port))
        settings = sandbox_settings(settings, sandbox_url)
    code_port = _port(settings.host, 0, teller, "the code server")
    ui_port = _port(settings.host, settings.ui_port, teller, "Dagster's pages")
    dashboard_port = _port(settings.host, settings.dashboard_port, teller, "the dashboard")
    # Alerts link to the pages: the children, and the watchdog outside, must know where these really are.
    settings = settings.model_copy(update={"ui_port": ui_port, "dashboard_port": dashboard_port})
    note_pages(settings)
    environment = _environment(settings, home)
    workspace = _workspace(settings, code_port)
    addresses = Addresses(f"http://{settings.host}:{ui_port}", f"http://{settings.host}:{dashboard_port}", sandbox_url)
    code, pages = _pages(settings, environment, logs, workspace, code_port, ui_port)
    dashboard = _dashboard(settings, environment, logs, dashboard_port, addresses.dagster)
    with open_instance(settings) as instance:
        if ended := end_orphans(instance):
            teller.line(f"runs whose process was killed, now marked as failed: {len(ended)}")
    supervisor.start(*first, code)  # before the pages, so that they find the code
    # The pages start while the history is filled; the daemon afterwards: no tick meets a half-filled store.
    supervisor.launch(pages, dashboard)
    fill(settings, teller, build, history=history, stopping=lambda: supervisor.stopping)
    supervisor.await_ready(pages, dashboard)
    if supervisor.stopping:
        return None
    supervisor.start(
        Child(
            "daemon",
            [
                sys.executable,
                "-m",
                "dagster._daemon",
                "run",
                "-w",
                str(workspace),
                "--log-level",
                "warning",
                *_log_format(settings),
            ],
            environment,
            logs / "daemon.log",
        )
    )
    return None if supervisor.stopping else addresses


def _sandbox(settings: Settings, environment: dict[str, str], logs: Path, port: int) -> Child:
    command = [sys.executable, "-m", "v7_pipeline.cli", "sandbox", "--host", settings.host, "--port", str(port)]
    return Child(
        "sandbox",
        [*command, "--seed", str(settings.sandbox_seed)],
        environment,
        logs / "sandbox.log",
        ready=lambda: answers(f"http://{settings.host}:{port}/health"),
    )


def _dashboard(settings: Settings, environment: dict[str, str], logs: Path, port: int, dagster_url: str) -> Child:
    command = [sys.executable, "-m", "v7_pipeline.cli", "dashboard", "--port", str(port), "--dagster-url", dagster_url]
    return Child(
        "dashboard",
        command,
        environment,
        logs / "dashboard.log",
        ready=lambda: answers(f"http://{settings.host}:{port}/health"),
    )


def _pages(
    settings: Settings, environment: dict[str, str], logs: Path, workspace: Path, code_port: int, ui_port: int
) -> tuple[Child, Child]:
    python = sys.executable
    code = Child(
        "code server",
        [
            python, "-m", "dagster", "api", "grpc", "--module-name", "v7_pipeline.definitions", "--host", settings.host,
            "--port", str(code_port), "--location-name", "v7_pipeline", "--log-level", "warning",
            *_log_format(settings),
        ],
        environment,
        logs / "code_server.log",
        ready=lambda: listens(settings.host, code_port),
    )  # fmt: skip
    pages = Child(
        "Dagster's pages",
        [
            python, "-m", "dagster_webserver", "--host", settings.host, "--port", str(ui_port), "-w", str(workspace),
            "--dagster-log-level", "warning", "--suppress-warnings", *_log_format(settings),
        ],
        environment,
        logs / "webserver.log",
        ready=lambda: answers(f"http://{settings.host}:{ui_port}/server_info"),
        ready_within_s=120,
    )  # fmt: skip
    return code, pages


def fill(
    settings: Settings,
    teller: Teller,
    build: Build,
    *,
    history: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """What is missing before the first tick: candles and readings of the last days, in demo mode a day of scans, and
    one scan of the present minute. Live mode never makes up decisions for the past.
    """
    instance = open_instance(settings)
    runtime = build_runtime(settings)
    runtime.on_progress = teller.progress
    store = runtime.prepare_store()
    defs = build(settings, runtime=runtime)
    now = minute(runtime.clock())
    first = _first_missing_day(runtime, now)
    if first is not None:
        execute_backfill(defs, instance, partition_of(first), partition_of(now))
    scans = int(store.query("SELECT count(*) AS n FROM scans")["n"].iloc[0])
    if settings.mode == "demo" and history and scans == 0 and not stopping():
        _fill_scans(runtime, instance, now, teller, stopping)
    teller.finish()
    if not stopping():
        execute_scan(defs, instance, minute(runtime.clock()))


def _first_missing_day(runtime: Runtime, now: datetime) -> datetime | None:
    """The first day to fill, or None where the next scan closes the gap by itself."""
    newest = runtime.store.query("SELECT max(as_of) AS newest FROM theory_features WHERE as_of <= ?", (now,))[
        "newest"
    ].iloc[0]
    oldest_wanted = now - timedelta(days=FILL_DAYS)
    if newest != newest or newest is None:
        return oldest_wanted
    newest = newest.to_pydatetime()
    return None if now - newest < FIRST_SPAN / 2 else max(newest, oldest_wanted)


def _fill_scans(
    runtime: Runtime,
    instance: dg.DagsterInstance,
    now: datetime,
    teller: Teller,
    stopping: Callable[[], bool],
) -> None:
    """A day of demo scans, through the same steps as every scan, told to Dagster as materialisations."""
    end = now - timedelta(minutes=now.minute % 2)
    instants = [end - SCAN_HISTORY + index * SCAN_EVERY for index in range(SCAN_HISTORY // SCAN_EVERY)]
    with runtime.store.session():
        for index, as_of in enumerate(instants, 1):
            if stopping():
                return
            report = run_scan(runtime.context(as_of, f"history-{as_of:%Y%m%dT%H%M}"))
            for signal in report.accepted:
                teller.line(signal)
            teller.progress("scans", index, len(instants))
    _report(instance, instants)


def _report(instance: dg.DagsterInstance, instants: Sequence[datetime]) -> None:
    days: dict[str, list[datetime]] = {}
    for as_of in instants:
        days.setdefault(partition_of(as_of), []).append(as_of)
    for day, inside in days.items():
        for asset in ("llm_signals", "gated_signals", "outcomes", "theory_attribution"):
            text = f"{len(inside)} demo scans from {inside[0]:%H:%M}Z to {inside[-1]:%H:%M}Z, filled by `v7 up --demo`"
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    asset,
                    partition=day,
                    metadata={"history": dg.MetadataValue.md(text), "scans": len(inside)},
                )
            )


def _environment(settings: Settings, home: Path) -> dict[str, str]:
    """What the children need to have the same settings; the key travels in the environment only."""
    environment = dict(os.environ)
    environment |= EVENT_BATCHES
    environment |= {
        "DAGSTER_HOME": str(home),
        "V7_MODE": settings.mode,
        "V7_HOME": str(settings.home.resolve()),
        "V7_SYMBOLS": ",".join(settings.symbols),
        "V7_LOG_JSON": str(settings.log_json).lower(),
        "V7_UI_PORT": str(settings.ui_port),
        "V7_DASHBOARD_PORT": str(settings.dashboard_port),
        "PYTHONUNBUFFERED": "1",
    }
    if settings.mode == "demo":
        key = settings.deepseek_api_key
        environment |= {
            "V7_EXCHANGE_URL": settings.exchange_url,
            "V7_ADVANCED_URL": settings.advanced_url,
            "V7_DEEPSEEK_URL": settings.deepseek_url,
            "V7_MARKET_RATE_PER_S": str(settings.market_rate_per_s),
            "DEEPSEEK_API_KEY": key.get_secret_value() if key else "",
        }
    return environment


def _log_format(settings: Settings) -> list[str]:
    return ["--log-format", "json"] if settings.log_json else []


def _workspace(settings: Settings, code_port: int) -> Path:
    path = (settings.data_dir / "workspace.yaml").resolve()
    path.write_text(
        f"load_from:\n  - grpc_server: {{host: {settings.host}, port: {code_port}, location_name: v7_pipeline}}\n"
    )
    return path


def _port(host: str, wanted: int, teller: Teller, what: str) -> int:
    """`wanted` where it is free, else the next free one, said plainly; 0 means any."""
    candidates: Iterable[int] = range(wanted, wanted + 50) if wanted else (0,)
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            chosen = int(probe.getsockname()[1])
            if wanted and chosen != wanted:
                teller.line(f"port {wanted} is taken; {what} use {chosen}")
            return chosen
    raise AlreadyRunningError(f"no free port for {what} from {wanted} on; set another one in the settings")


def answers(url: str) -> bool:
    import requests

    try:
        return requests.get(url, timeout=1).ok
    except requests.RequestException:
        return False
