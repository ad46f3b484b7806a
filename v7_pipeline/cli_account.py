"""`v7 ftmo` and `v7 account`: the account under the firm's rules, a challenge simulated, and the real balance set.

Figures come from scan/account_figures.py and gates/challenge.py, words and pictures from account_view.py.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from v7_pipeline.cli_common import Demo, UsageProblemError, instant_of, json_text, settings_of, store_of

if TYPE_CHECKING:
    from v7_pipeline.gates.challenge import Chance, DayRecord, Simulation
    from v7_pipeline.gates.rulesets import RuleSet
    from v7_pipeline.settings import Settings
    from v7_pipeline.store import Reader, Store

__all__ = ["account_app", "ftmo_app"]

ftmo_app = typer.Typer(
    help="The account under the firm's rules: room, target, days, the next trade's risk; `simulate` a challenge.",
    rich_markup_mode="markdown",
    epilog="Examples: `v7 ftmo` · `v7 ftmo --demo --json` · `v7 ftmo --at 2026-11-21T10:00Z` · "
    "`v7 ftmo simulate --demo`",
)
account_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The trader's real account: set what it has, show what was set.",
    epilog="Examples: `v7 account set --balance 101234.50 --equity 101000` · `v7 account show`",
)

Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]

_ABSURD = 0.5  # a difference larger than this share is a slip of the keyboard until --yes says otherwise
_COUNTS = """
SELECT kind, source, strategy, count(exit_time) AS n FROM outcomes GROUP BY ALL HAVING n > 0
ORDER BY n DESC, kind, source, strategy
"""
_SAME = 'SELECT balance_usd, equity_usd, day_start_usd FROM account_readings WHERE "at" = ?'


@ftmo_app.callback(invoke_without_command=True)
def ftmo(
    context: typer.Context,
    demo: Demo = None,
    at: Annotated[str | None, typer.Option(help="Instant in UTC, such as 2026-11-21T10:00Z. Default: now.")] = None,
    as_json: Json = False,
) -> None:
    """Room above both limits, target, trading days, best day, open risk, the next trade's risk, the next roll.

    A block for each strategy of V7_STRATEGIES: each has an account of its own.
    """
    context.obj = demo
    if context.invoked_subcommand:
        return
    from v7_pipeline.account_view import account_block
    from v7_pipeline.console import out
    from v7_pipeline.scan.account_figures import account_figures

    settings = settings_of(demo)
    _checked_rules(settings)
    now = datetime.now(UTC).replace(microsecond=0)
    as_of = _past(at, "--at", now) if at else now
    with store_of(settings).reading() as reader:
        accounts = [
            account_figures(settings, reader, as_of, settings.source, whole=True, strategy=strategy)
            for strategy in settings.strategies
        ]
    if as_json:
        typer.echo(json_text({**accounts[0], "others": accounts[1:]}))
        return
    for place, told in enumerate(accounts):
        if place:
            out().print()
        out().print(account_block(told, now=as_of if at else now))


@ftmo_app.command(
    epilog="Examples: `v7 ftmo simulate --demo` · `v7 ftmo simulate --days 60 --block 5 --picture challenge.png` · "
    "`v7 ftmo simulate --strategy v6` · `v7 ftmo simulate --source backtest --anyway --json`"
)
def simulate(
    context: typer.Context,
    runs: Annotated[int, typer.Option(min=100, max=1_000_000, help="Simulated accounts.")] = 10_000,
    days: Annotated[int, typer.Option(min=1, max=2_000, help="Days of each, weekends included.")] = 120,
    block: Annotated[
        int | None, typer.Option(min=1, help="Days drawn together. Default: cube root of the recorded days.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")] = 7,
    kind: Annotated[
        Literal["paper", "manual"], typer.Option(help="Whose trades: the pipeline's or your own.")
    ] = "paper",
    strategy: Annotated[
        Literal["v7", "v6", "ensemble"] | None,
        typer.Option(help="Whose paper trades. Default: the first of V7_STRATEGIES."),
    ] = None,
    source: Annotated[
        Literal["live", "demo", "backfill", "backtest"] | None, typer.Option(help="Their source. Default: by mode.")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Though the record is too small; the figures say so.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Where the PNG goes. Default: the mode's folder.")] = None,
    as_json: Json = False,
    demo: Demo = None,
) -> None:
    """How likely the recorded trades are to pass, or to break a limit, and in how many days; with a picture."""
    from v7_pipeline.account_view import save_picture, simulation_block
    from v7_pipeline.console import out
    from v7_pipeline.gates.challenge import day_record, too_few
    from v7_pipeline.gates.challenge import simulate as run
    from v7_pipeline.scan.account_figures import closed_trades, is_simulated

    settings = settings_of(context.obj if demo is None else demo)
    rules = _checked_rules(settings)
    chosen = source or settings.source
    if kind == "manual" and strategy:
        raise UsageProblemError("--strategy is of paper trades; your own are one account's, whoever signalled them")
    # A person's own trades are one account's, whoever signalled; paper trades are each strategy's.
    whose = None if kind == "manual" else strategy or settings.strategies[0]
    with store_of(settings).reading() as reader:
        trades = closed_trades(reader, kind, chosen, whose)
        shown_as_demo = is_simulated(settings, reader)
        if trades.empty:
            raise UsageProblemError(_nothing(reader, kind, chosen, whose))
    record = day_record(trades, rules, initial_usd=settings.account_initial_usd)
    small = too_few(record)
    if small and not anyway:
        raise UsageProblemError(f"{small} (--anyway gives figures all the same, which say next to nothing)")
    found = run(record, rules, runs=runs, days=days, block=block, seed=seed)
    place = picture or settings.data_dir / "ftmo_simulate.png"
    try:
        save_picture(found, rules, place, initial_usd=settings.account_initial_usd, demo=shown_as_demo)
    except OSError as error:
        raise UsageProblemError(f"--picture {place} cannot be written: {error.strerror}; name another file") from None
    if as_json:
        figures = _simulation(found, record, demo=shown_as_demo, kind=kind, source=chosen, small=small)
        typer.echo(json_text({"strategy": whose, **figures}))
        return
    marks = f" ({f'{whose}, ' if whose else ''}{kind}, {chosen})" + (f" — {small.upper()}" if small else "")
    console = out()
    console.print(simulation_block(found, record, rules, demo=shown_as_demo, marks=marks))
    console.print(f"picture  {place}", markup=False, soft_wrap=True)


@account_app.command(
    name="set",
    epilog="Examples: `v7 account set --balance 101234.50 --equity 101000` · "
    '`v7 account set --balance 101234.50 --at 2026-11-21T10:00Z --day-start 100900 --note "after the payout"`',
)
def set_account(
    balance: Annotated[float, typer.Option(help="USD; balance as the firm shows it: closed trades only.")],
    equity: Annotated[float | None, typer.Option(help="USD; equity at that instant, with what is open.")] = None,
    day_start: Annotated[
        float | None, typer.Option(help="USD; balance at the firm's midnight before. Default: not known.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="When it had these figures, in UTC. Default: now.")] = None,
    note: Annotated[str | None, typer.Option(help="A remark that is kept.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Although the figures lie far from what was expected.")] = False,
    demo: Demo = None,
) -> None:
    """Record what the real account has; scans replay it from there. Readings are kept and never overwritten."""
    from v7_pipeline.scan.account import read_account
    from v7_pipeline.scan.runtime import build_runtime

    settings = settings_of(demo)
    _checked_rules(settings)
    now = datetime.now(UTC).replace(microsecond=0)
    when = _past(at, "--at", now) if at else now
    for option, value in (("--balance", balance), ("--equity", equity), ("--day-start", day_start)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageProblemError(f"{option} {value:g} is no amount that an account has; give one above zero")
    store_of(settings)  # a name that means no store is told before anything is made
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = build_runtime(settings).prepare_store()
    with store.reading() as reader:
        before = read_account(settings, reader, when, settings.source).state
    if not yes:
        _plausible(before.balance, balance, equity, day_start)
    figures = {"balance_usd": balance, "equity_usd": equity, "day_start_usd": day_start}
    row = {"at": when, "recorded_at": now, **figures, "note": note, "source": settings.source}
    mark = "DEMO " if settings.mode == "demo" else ""
    if not _kept(store, row, figures):
        typer.echo(f"{mark}the account of {when:%Y-%m-%d %H:%M}Z was set to these figures already; nothing changed")
        return
    open_usd = "" if equity is None else f"; equity replayed {_money(before.equity)} → set {_money(equity)}"
    typer.echo(
        f"{mark}balance replayed {_money(before.balance)} → set {_money(balance)} ({balance - before.balance:+,.2f})"
        f"{open_usd}; scans after {max(when, now):%Y-%m-%d %H:%M:%S}Z replay the account from {when:%Y-%m-%d %H:%M}Z"
    )


@account_app.command(epilog="Examples: `v7 account show` · `v7 account show --demo --json`")
def show(as_json: Json = False, demo: Demo = None) -> None:
    """The readings of the real account, newest first, with their age."""
    from v7_pipeline.account_view import readings_block
    from v7_pipeline.console import out
    from v7_pipeline.scan.account_figures import account_readings

    settings = settings_of(demo)
    with store_of(settings).reading() as reader:
        rows = account_readings(reader, datetime.now(UTC), settings.source)
    if as_json:
        typer.echo(json_text({"demo": settings.mode == "demo", "readings": rows}))
        return
    out().print(readings_block(rows, demo=settings.mode == "demo"))


def _kept(store: Store, row: dict[str, Any], figures: dict[str, float | None]) -> bool:
    """Write the reading; False where it is there already. UsageProblemError where its instant has other figures."""
    from v7_pipeline import __version__
    from v7_pipeline.store import arrow_rows

    with store.transaction() as tx:
        known = tx.rows(_SAME, (row["at"],))
        if known and known[0] != figures:
            raise UsageProblemError(
                f"the account of {row['at']:%Y-%m-%d %H:%M:%S}Z was set to {_money(known[0]['balance_usd'])} already, "
                "and readings are kept as they are; give the new figures an --at of their own"
            )
        if not known:
            marked = {**row, "run_id": "v7 account set", "code_version": __version__}
            tx.insert_new("account_readings", arrow_rows("account_readings", [marked]))
    return not known


def _plausible(replayed: float, balance: float, equity: float | None, day_start: float | None) -> None:
    """UsageProblemError where a figure lies more than half away from the one that it should resemble."""
    compared = [
        ("--balance", balance, "the balance that the recorded trades make", replayed),
        ("--equity", equity, "the balance", balance),
        ("--day-start", day_start, "the balance", balance),
    ]
    for option, value, what, expected in compared:
        if value is not None and abs(value - expected) > _ABSURD * expected:
            raise UsageProblemError(
                f"{option} {_money(value)} lies more than {_ABSURD:.0%} from {what}, {_money(expected)}; "
                "mend it, or say --yes"
            )


def _past(text: str, option: str, now: datetime) -> datetime:
    """The instant of an option, to the second, not in the future."""
    found = instant_of(text, option).replace(microsecond=0)
    if found > now + timedelta(seconds=1):
        raise UsageProblemError(f"{option} {text} lies in the future; give an instant that has passed")
    return found


def _checked_rules(settings: Settings) -> RuleSet:
    """The rules of today; UsageProblemError where the settings name none."""
    from v7_pipeline.scan.account import rule_set
    from v7_pipeline.settings import origin_of

    try:
        return rule_set(settings, datetime.now(UTC))
    except (KeyError, ValueError) as error:
        where = origin_of("ftmo_rules")
        raise UsageProblemError(f"V7_FTMO_RULES (from {where}) is not usable: {error.args[0]}") from None


def _nothing(reader: Reader, kind: str, source: str, strategy: str | None) -> str:
    counts = reader.rows(_COUNTS)
    held = ", ".join(f"{r['n']} {r['kind']} of {r['strategy']}, source {r['source']}" for r in counts) or "none at all"
    of = f" of {strategy}," if strategy else " of"
    return f"no closed {kind} trade{of} source {source} to simulate from; closed trades in the store: {held}"


def _simulation(
    found: Simulation, record: DayRecord, *, demo: bool, kind: str, source: str, small: str | None
) -> dict[str, Any]:
    """The simulation for JSON: figures, what they rest on, and the fan by day."""

    def chance(one: Chance | None) -> dict[str, float] | None:
        return None if one is None else dataclasses.asdict(one)

    return {
        "demo": demo,
        "kind": kind,
        "source": source,
        "too_few": small,
        **{name: getattr(found, name) for name in ("rules", "runs", "days", "block", "seed", "trades")},
        "recorded_days": found.recorded_days,
        "trading_days": found.trading_days,
        "first_day": record.first_day.isoformat(),
        "trades_without_excursion": record.without_mae,
        **{name: chance(getattr(found, name)) for name in ("passed", "daily", "total", "neither")},
        "days_to_pass": found.days_to_pass,
        "days_to_breach": found.days_to_breach,
        "days_beyond_daily": found.days_beyond_daily,
        "days_beyond_total": found.days_beyond_total,
        "equity_p10_p50_p90": found.equity.round(8).tolist(),
        "passed_by_day": found.passed_by_day.tolist(),
        "daily_by_day": found.daily_by_day.tolist(),
        "total_by_day": found.total_by_day.tolist(),
    }


def _money(usd: float) -> str:
    return f"${usd:,.2f}"
