"""The v7 command: arguments in, one sentence out where they are wrong (exit 2), work handed to the rooms.

Nothing is computed here. Heavy imports happen inside the commands, so that `v7 --help` answers at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from v7_pipeline import (
    __version__,
    cli_account,
    cli_attribution,
    cli_backtest,
    cli_budget,
    cli_halt,
    cli_learning,
    cli_llm,
    cli_store,
    cli_trade,
    cli_watchdog,
)
from v7_pipeline.cli_common import (
    Demo,
    Symbols,
    UsageProblemError,
    check_rules,
    days_of,
    midnight,
    now_minute,
)
from v7_pipeline.cli_common import settings_of as _settings
from v7_pipeline.cli_common import store_of as _store
from v7_pipeline.settings import Settings, SettingsError, env_name, load_settings, origin_of, without_secrets

__all__ = ["app", "main"]

app = typer.Typer(
    name="v7",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="V7: ten theories, an analyst, gates and honest outcomes for crypto signals. It places no orders.",
)

app.add_typer(cli_account.ftmo_app, name="ftmo")
app.add_typer(cli_account.account_app, name="account")
app.add_typer(cli_budget.app, name="budget")
app.add_typer(cli_llm.app)
app.add_typer(cli_learning.app)
app.add_typer(cli_trade.app, name="trade")
app.add_typer(cli_trade.words)
app.add_typer(cli_backtest.app)
app.add_typer(cli_attribution.app)  # without a name: its command is ours
app.add_typer(cli_store.app)  # without a name: its commands are ours
app.add_typer(cli_halt.app)  # without a name: its commands are ours
app.add_typer(cli_watchdog.app)


@app.command(epilog="Examples: `v7 up --demo` · `v7 up` · `V7_SYMBOLS=BTC-USD v7 up`")
def up(
    demo: Demo = None,
    history: Annotated[bool, typer.Option(help="Demo: fill a day of scans into a fresh store.")] = True,
) -> None:
    """Start everything in one process tree: sandbox (demo), Dagster's pages and daemon, dashboard. Ctrl-C ends it."""
    from v7_pipeline.console import RichTeller, banner, latest_scan, out, scan_blocks
    from v7_pipeline.definitions import build_definitions
    from v7_pipeline.orchestration.launch import prepare_home
    from v7_pipeline.orchestration.up import sandbox_settings
    from v7_pipeline.orchestration.up import up as run_up

    settings = _settings(demo)
    check_rules(settings)
    console = out()
    # Demo decides like live with a key: through the wire format, answered by the sandbox.
    shown = sandbox_settings(settings, "") if settings.mode == "demo" else settings
    console.print(banner(shown))
    prepare_home(settings)

    def ready(addresses: Any) -> None:
        from v7_pipeline.store import open_store

        store = open_store(settings.store_url, wait_s=settings.store_wait_s)
        newest = latest_scan(store)
        if newest is not None:
            console.print(scan_blocks(store, shown, newest))
        console.print(f"\nDagster    {addresses.dagster}\nDashboard  {addresses.dashboard}")
        if addresses.sandbox:
            console.print(f"Sandbox    {addresses.sandbox}   (simulated market: everything here is DEMO)")
        console.print("A scan every two minutes. Ctrl-C stops everything.")

    run_up(settings, RichTeller(console), build_definitions, history=history, on_ready=ready)


@app.command(epilog="Examples: `v7 scan` · `v7 scan --as-of 2023-12-11T02:12:00Z` · `v7 scan --demo`")
def scan(
    as_of: Annotated[
        str | None, typer.Option(help="Instant in UTC, such as 2023-12-11T02:12:00Z. Default: this minute.")
    ] = None,
    symbols: Symbols = None,
    demo: Demo = None,
) -> None:
    """One scan, recorded as a Dagster run. Done twice it changes nothing."""
    from v7_pipeline.console import banner, out, scan_blocks

    settings = _settings(demo, symbols=symbols)
    instant = _instant(as_of) if as_of else now_minute()
    if instant > now_minute():
        raise UsageProblemError(f"--as-of {as_of} lies in the future; give an instant that has passed")
    _not_before_first(instant.date(), f"--as-of {as_of}", settings)
    console = out()
    with _Session(settings) as session:
        console.print(banner(session.settings))
        session.scan(instant)
        console.print(scan_blocks(session.store, session.settings, instant))


@app.command(epilog="Examples: `v7 run --iterations 3 --sleep-seconds 120` · `v7 run --iterations -1 --conservative`")
def run(
    iterations: Annotated[int, typer.Option(help="How many scans; -1 for ever.")] = 1,
    sleep_seconds: Annotated[int, typer.Option(help="s from one scan's start to the next one's.")] = 120,
    symbols: Symbols = None,
    max_signals: Annotated[int | None, typer.Option(help="Accepted signals in any hour, at most.")] = None,
    daily_budget: Annotated[float | None, typer.Option(help="USD a day for analyst calls.")] = None,
    monthly_budget: Annotated[float | None, typer.Option(help="USD a month for analyst calls.")] = None,
    conservative: Annotated[
        bool | None,
        typer.Option("--conservative/--aggressive", help="Thresholds of the analyst. Default: V7_AGGRESSIVE."),
    ] = None,
    demo: Demo = None,
) -> None:
    """Scans in a loop without the daemon, each recorded as a Dagster run."""
    from v7_pipeline.console import banner, out, scan_blocks, statistics_block

    if iterations == 0 or iterations < -1:
        raise UsageProblemError(f"--iterations {iterations} makes no scan; give a positive number, or -1 for ever")
    if sleep_seconds < 0:
        raise UsageProblemError(f"--sleep-seconds {sleep_seconds} is negative; give 0 or more")
    changes = {
        "max_signals_per_hour": max_signals,
        "daily_budget_usd": daily_budget,
        "monthly_budget_usd": monthly_budget,
        "aggressive": None if conservative is None else not conservative,
    }
    console = out()
    with _Session(_settings(demo, symbols=symbols, **changes)) as session:
        console.print(banner(session.settings))
        done = 0
        try:
            while iterations == -1 or done < iterations:
                started = time.monotonic()
                instant = now_minute()
                session.scan(instant)
                console.print(scan_blocks(session.store, session.settings, instant))
                done += 1
                if iterations == -1 or done < iterations:
                    time.sleep(max(0.0, sleep_seconds - (time.monotonic() - started)))
        except KeyboardInterrupt:
            console.print(f"stopped after {done} scan{'' if done == 1 else 's'}")
        console.print(statistics_block(session.store, session.settings))


@app.command(epilog="Example: `v7 backfill --from 2023-12-01 --to 2023-12-12 --symbols BTC-USD,ETH-USD`")
def backfill(
    first: Annotated[str, typer.Option("--from", help="First UTC day, such as 2023-12-01.")],
    last: Annotated[str, typer.Option("--to", help="Last UTC day, included.")],
    symbols: Symbols = None,
    demo: Demo = None,
) -> None:
    """Candles and readings of whole days, in one Dagster run, with a progress bar."""
    from v7_pipeline.console import RichTeller, out

    settings = _settings(demo, symbols=symbols)
    start, end = days_of(first, last)
    _not_before_first(start, f"--from {first}", settings)
    console = out()
    teller = RichTeller(console)
    with _Session(settings) as session:
        try:
            counts = session.backfill(start, end, teller.progress)
        finally:
            teller.finish()
    console.print(f"{counts['candles']} candles and {counts['readings']} readings stored for {start} … {end}")


@app.command(epilog="Examples: `v7 signals` · `v7 signals --symbol BTC-USD --limit 5 --accepted`")
def signals(
    symbol: Annotated[str | None, typer.Option(help="One product.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    accepted: Annotated[bool, typer.Option("--accepted", help="Only what passed every gate.")] = False,
    demo: Demo = None,
) -> None:
    """The newest BUY and SELL signals with the gates' verdict and what became of them."""
    from v7_pipeline.console import out, signals_table

    settings = _settings(demo)
    if symbol is not None:
        symbol = _product(symbol, demo)
    out().print(
        signals_table(
            _store(settings), symbol=symbol, limit=limit, accepted_only=accepted, demo=settings.mode == "demo"
        )
    )


@app.command(epilog="Example: `v7 why v7-BTC-USD-20231211T021200Z`")
def why(
    signal_id: Annotated[str, typer.Argument(help="As `v7 signals` prints it.")],
    demo: Demo = None,
) -> None:
    """One signal's story: candles → readings → prompt → reply → gates → outcome."""
    from v7_pipeline.console import out, why_blocks

    settings = _settings(demo)
    try:
        out().print(why_blocks(_store(settings), signal_id, demo=settings.mode == "demo"))
    except KeyError as error:
        raise UsageProblemError(str(error.args[0])) from None


@app.command(epilog="Examples: `v7 theories` · `v7 theories --symbol BTC-USD --at 2023-12-11T02:12:00Z`")
def theories(
    symbol: Annotated[str | None, typer.Option(help="One product; all of V7_SYMBOLS where it is not given.")] = None,
    at: Annotated[
        str | None, typer.Option(help="Instant in UTC, such as 2023-12-11T02:12:00Z; now where it is not given.")
    ] = None,
    demo: Demo = None,
) -> None:
    """What each theory reads: vote, score, place under noise, and one sentence."""
    from v7_pipeline.console import out, theories_blocks

    settings = _settings(demo)
    symbols = settings.symbols if symbol is None else (_product(symbol, demo),)
    instant = _instant(at) if at else now_minute()
    try:
        out().print(theories_blocks(_store(settings), at=instant, symbols=symbols, demo=settings.mode == "demo"))
    except KeyError as error:
        raise UsageProblemError(str(error.args[0])) from None


@app.command(epilog="Examples: `v7 stats` · `v7 stats --demo`")
def stats(demo: Demo = None) -> None:
    """Decisions, outcomes, win rates and cost so far; every rate with its n and interval."""
    from v7_pipeline.console import out, statistics_block

    settings = _settings(demo)
    out().print(statistics_block(_store(settings), settings))


@app.command(epilog="Examples: `v7 doctor` · `v7 doctor --demo`")
def doctor(demo: Demo = None) -> None:
    """One line for each thing that must be well, with the fix where it is not. Exit 1 where something fails."""
    from v7_pipeline.console import out
    from v7_pipeline.orchestration.doctor import examine

    console = out()
    failed = 0
    for finding in examine(_settings(demo), given=() if demo is None else ("mode",)):
        mark = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}[finding.state]
        failed += finding.state == "fail"
        fix = f" → {finding.fix}" if finding.fix else ""
        console.print(f"{mark} {finding.subject:<24} ", end="")
        console.print(f"{finding.detail}{fix}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command(name="settings", epilog="Examples: `v7 settings` · `V7_FEES=coinbase-taker v7 settings`")
def show_settings(demo: Demo = None) -> None:
    """Every setting: its name, value (secrets masked), where it comes from and what it means."""
    from rich.table import Table
    from rich.text import Text

    from v7_pipeline.console import out
    from v7_pipeline.orchestration.doctor import shown

    settings = _settings(demo)
    given = {} if demo is None else {"mode": settings.mode}
    table = Table(expand=False)
    for name in ("setting", "value", "from", "meaning"):
        table.add_column(name, overflow="fold")
    for field, info in type(settings).model_fields.items():
        table.add_row(
            env_name(field), Text(shown(settings, field)), origin_of(field, given), Text(info.description or "")
        )
    out().print(table)


@app.command(epilog="Examples: `v7 sandbox` · `v7 sandbox --replay BTC-USD_1m.parquet --replay ETH-USD_1m.parquet`")
def sandbox(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default: V7_SANDBOX_PORT.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the simulated market.")] = None,
    replay: Annotated[
        list[Path] | None, typer.Option(help="Recorded candles (parquet or csv), instead of simulated ones.")
    ] = None,
) -> None:
    """The stand-in for Coinbase and DeepSeek alone: simulated, or replayed from files; faults on request."""
    settings = load_settings()
    from v7_pipeline.sandbox.replay import ReplayError
    from v7_pipeline.sandbox.server import run as serve

    for path in replay or ():
        if not path.is_file():
            raise UsageProblemError(f"--replay {path}: there is no such file; give a parquet or csv file of candles")
    try:
        serve(
            host or settings.host,
            port or settings.sandbox_port,
            seed=settings.sandbox_seed if seed is None else seed,
            replay_files=tuple(replay or ()),
        )
    except ReplayError as error:
        raise UsageProblemError(f"--replay: {error}") from None


@app.command(epilog="Examples: `v7 dashboard --demo` · `v7 dashboard --port 8071`")
def dashboard(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default: V7_DASHBOARD_PORT.")] = None,
    dagster_url: Annotated[str | None, typer.Option(help="Where Dagster's pages are.")] = None,
    demo: Demo = None,
) -> None:
    """The dashboard alone."""
    settings = _settings(demo)
    from v7_pipeline.dashboard.app import run as serve

    serve(
        settings.host, port or settings.dashboard_port, store_url=settings.store_url, mode=settings.mode,
        dagster_url=dagster_url or f"http://{settings.host}:{settings.ui_port}", settings=settings,
    )  # fmt: skip


@app.command()
def warmup() -> None:
    """Compile the kernels of theories, barriers and attribution once, so that the first scan does not wait for it."""
    from v7_pipeline.learning.attribution import warm_up as warm_up_attribution
    from v7_pipeline.theories import warm_up
    from v7_pipeline.trades.barriers import warm_up as warm_up_barriers

    started = time.perf_counter()
    warm_up()
    warm_up_barriers()
    warm_up_attribution()
    typer.echo(f"kernels ready after {time.perf_counter() - started:.1f} s")


@app.command()
def version() -> None:
    """The version."""
    typer.echo(__version__)


class _Session:
    """Runs of ours in one process: settings, runtime, definitions and instance, with the sandbox where it is needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._server: Any = None

    def __enter__(self) -> _Session:
        from v7_pipeline.orchestration.launch import open_instance
        from v7_pipeline.scan.runtime import build_runtime

        check_rules(self.settings)
        _store(self.settings)  # a name that means no store is told before anything is started
        if self.settings.mode == "demo":
            self.settings = self._with_sandbox(self.settings)
        self.instance = open_instance(self.settings)
        from v7_pipeline.definitions import build_definitions

        self._runtime = build_runtime(self.settings)
        self.store = self._runtime.prepare_store()
        self._defs = build_definitions(self.settings, runtime=self._runtime)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.__exit__(*exc)

    def scan(self, as_of: datetime) -> None:
        from v7_pipeline.orchestration.launch import execute_scan

        execute_scan(self._defs, self.instance, as_of)

    def backfill(self, first: date, last: date, progress: Callable[[str, int, int], None]) -> dict[str, int]:
        from v7_pipeline.orchestration.launch import execute_backfill

        self._runtime.on_progress = progress
        execute_backfill(self._defs, self.instance, first.isoformat(), last.isoformat())
        bounds = (midnight(first), midnight(last + timedelta(days=1)))
        with self.store.reading() as reader:
            candles = reader.query("SELECT count(*) AS n FROM candles WHERE open_time >= ? AND open_time < ?", bounds)
            readings = reader.query("SELECT count(*) AS n FROM theory_features WHERE as_of >= ? AND as_of < ?", bounds)
        return {"candles": int(candles["n"].iloc[0]), "readings": int(readings["n"].iloc[0])}

    def _with_sandbox(self, settings: Settings) -> Settings:
        """The running sandbox, or one of our own for as long as the command lasts: it is a pure function of time."""
        from v7_pipeline.orchestration.up import answers, sandbox_settings

        url = f"http://{settings.host}:{settings.sandbox_port}"
        if not answers(f"{url}/health"):
            from v7_pipeline.sandbox.server import SandboxServer

            self._server = SandboxServer(seed=settings.sandbox_seed)
            self._server.__enter__()
            url = self._server.url
        return sandbox_settings(settings, url)


def _product(text: str, demo: bool | None) -> str:
    """The one product of --symbol."""
    try:
        found = _settings(demo, symbols=text).symbols
    except UsageProblemError as error:
        raise UsageProblemError(str(error).replace("--symbols", "--symbol")) from None
    if len(found) > 1:
        raise UsageProblemError(f"--symbol {text} names {len(found)} products; give one, such as {found[0]}")
    return found[0]


def _instant(text: str) -> datetime:
    from v7_pipeline.orchestration.partitions import parse_as_of

    try:
        return parse_as_of(text)
    except ValueError as error:
        raise UsageProblemError(f"--as-of: {error}") from None


def _not_before_first(day: date, what: str, settings: Settings) -> None:
    if day < settings.first_day:
        raise UsageProblemError(
            f"{what} lies before the first partition {settings.first_day}; set V7_FIRST_DAY to an earlier day"
        )


def main() -> None:
    """Run the command; every expected failure is one sentence on stderr: 2 for bad input, 1 for what went wrong."""
    from typer import Abort, Exit
    from typer._click.exceptions import ClickException, NoArgsIsHelpError

    try:
        code = app(standalone_mode=False)
    except NoArgsIsHelpError as error:
        print(error.format_message())  # noqa: T201
        raise SystemExit(2) from None
    except ClickException as error:
        _fail(error.format_message(), 2)
    except (UsageProblemError, SettingsError) as error:
        _fail(str(error), 2)
    except Exit as error:
        raise SystemExit(error.exit_code) from None
    except (Abort, KeyboardInterrupt):
        raise SystemExit(130) from None
    except (RuntimeError, ValueError) as error:
        if type(error).__module__.startswith("v7_pipeline."):
            _fail(str(error), 1)
        raise
    else:
        raise SystemExit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"v7: {without_secrets(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


if __name__ == "__main__":
    main()
