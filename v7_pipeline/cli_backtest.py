"""`v7 backtest`: the scans of whole days again over stored candles, judged against baselines, as one page.

What is simulated and what it means is backtest/'s; here it is only asked for and shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from v7_pipeline.cli_common import (
    Demo,
    Symbols,
    UsageProblemError,
    check_rules,
    days_of,
    settings_of,
    span_of,
    store_of,
)

if TYPE_CHECKING:
    from rich.table import Table

    from v7_pipeline.analyst.base import Analyst
    from v7_pipeline.backtest.analysts import SampledAnalyst
    from v7_pipeline.backtest.run import Configuration, Made
    from v7_pipeline.backtest.sweep import Sweep
    from v7_pipeline.settings import Settings
    from v7_pipeline.store import Store

__all__ = ["app"]

app = typer.Typer(rich_markup_mode="markdown")

#: Sections of the report that the terminal shows; the page has them all.
_SHOWN = ("Return and risk", "Trades")
_ANALYSTS = ("rules", "replay", "deepseek")


@app.command(
    epilog="Examples: `v7 backtest --from 2023-12-11 --to 2023-12-11` · "
    "`v7 backtest --from 2023-11-29 --to 2024-01-04 --strategy v7,v6 --open` · "
    '`v7 backtest --from 2023-12-01 --to 2023-12-31 --sweep "horizon_minutes=120,240;min_reward_risk=1.5,2"`'
)
def backtest(
    first: Annotated[str, typer.Option("--from", help="First UTC day, such as 2023-12-01.")],
    last: Annotated[str, typer.Option("--to", help="Last UTC day, included.")],
    symbols: Symbols = None,
    strategy: Annotated[str, typer.Option(help="v7 or v6; of several, by comma, the first is reported.")] = "v7",
    analyst: Annotated[
        str | None,
        typer.Option(help="Who decides for v7: rules, replay (the ledger) or deepseek (paid). Default: rules."),
    ] = None,
    fallback: Annotated[
        Literal["rules"] | None, typer.Option(help="Who decides what the ledger of --analyst replay does not hold.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Instants at which a paid analyst is asked.")] = 24,
    once: Annotated[
        bool, typer.Option("--once", help="Do not ask a paid analyst again without the theories, as a baseline.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Draw the sample with it; without: evenly spread.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Pay without being asked.")] = False,
    fees: Annotated[str | None, typer.Option(help="A fee preset, such as ftmo-crypto. Default: V7_FEES.")] = None,
    every: Annotated[int, typer.Option(min=1, help="min; between two scans.")] = 2,
    hours: Annotated[int | None, typer.Option(min=1, help="h; only the first hours of the span.")] = None,
    like_live: Annotated[
        bool, typer.Option("--as-live", help="Candles as late and decisions as slow as this store's live scans.")
    ] = False,
    sweep: Annotated[
        list[str] | None, typer.Option(help="Settings to try, as min_confidence=0.55,0.6;horizon_minutes=120,240.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare/--no-compare", help="Simulate baselines too.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier one of the same span left.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the page's figures as JSON, nothing else.")] = False,
    demo: Demo = None,
) -> None:
    """The scans of whole days again, over stored candles, against baselines: a page, its figures and a verdict.

    Ctrl-C keeps what is done: trials of a sweep, and the baselines that are there.
    """
    from v7_pipeline.backtest import BacktestError
    from v7_pipeline.backtest.run import Configuration

    settings = settings_of(demo, symbols=symbols)
    check_rules(settings)
    if like_live:
        settings = _as_live(settings, quiet=as_json)
    start, end = span_of(*days_of(first, last), hours)
    paid = _Paid(sample, seed, yes, twice=compare and not once)
    who = analyst or ("replay" if settings.analyst == "replay" else "rules")
    asked = _as_options(who, fallback, paid, compare=compare)
    configuration = Configuration(
        start=start,
        end=end,
        every=timedelta(minutes=every),
        strategies=tuple(dict.fromkeys(name.strip() for name in strategy.split(",") if name.strip())),
        analyst=who,
        fees=fees,
        compare=compare,
        command=" ".join([_command(first, last, settings, strategy, fees, every, hours), *asked]),
    )
    try:
        chosen = configuration.settings(settings)
        if configuration.analyst not in _ANALYSTS:
            raise BacktestError(f"analyst {configuration.analyst!r} cannot decide; {', '.join(_ANALYSTS)} can")
    except BacktestError as error:
        raise UsageProblemError(str(error)) from None
    if fallback:
        chosen = chosen.model_copy(update={"replay_fallback": fallback})
    made, tried = _run(chosen, configuration, sweep or [], paid, fresh=fresh, quiet=as_json)
    if as_json:
        typer.echo(made.data.read_text(encoding="utf-8"))
    else:
        _show(made, tried, chosen)
    if open_page:
        import webbrowser

        webbrowser.open(made.page.resolve().as_uri())


def _as_live(settings: Settings, *, quiet: bool) -> Settings:
    from v7_pipeline.backtest.pace import as_live
    from v7_pipeline.console import RichTeller, out

    found, pace = as_live(settings, store_of(settings))
    RichTeller(out(stderr=quiet)).line(pace.sentence[:1].upper() + pace.sentence[1:] + ".")
    return found


def _command(
    first: str, last: str, settings: Settings, strategy: str, fees: str | None, every: int, hours: int | None
) -> str:
    """How the same backtest is asked for again."""
    parts = [f"v7 backtest --from {first} --to {last} --symbols {','.join(settings.symbols)} --strategy {strategy}"]
    parts += [f"--fees {fees}"] if fees else []
    parts += [f"--every {every}"] if every != 2 else []
    parts += [f"--hours {hours}"] if hours else []
    parts += ["--demo"] if settings.mode == "demo" else []
    pace = {"V7_BACKTEST_LAG_MIN": settings.backtest_lag_min, "V7_BACKTEST_LATENCY_S": settings.backtest_latency_s}
    return " ".join([*(f"{name}={value:g}" for name, value in pace.items() if value), *parts])


@dataclass(frozen=True)
class _Paid:
    """How a paid analyst is asked: at how many instants, drawn with which seed, and whether it is confirmed.

    `twice`: without the theories, too.
    """

    sample: int
    seed: int | None
    yes: bool
    twice: bool


def _as_options(who: str, fallback: str | None, paid: _Paid, *, compare: bool) -> list[str]:
    """Who was asked, and how, as the command line has it."""
    parts = [] if compare else ["--no-compare"]
    if who == "rules":
        return parts
    parts.append(f"--analyst {who}")
    if who == "replay":
        return [*parts, f"--fallback {fallback}"] if fallback else parts
    parts.append(f"--sample {paid.sample}")
    parts += [] if paid.seed is None else [f"--seed {paid.seed}"]
    return parts if paid.twice or not compare else [*parts, "--once"]


def _run(
    settings: Settings, configuration: Configuration, sweep: list[str], paid: _Paid, *, fresh: bool, quiet: bool
) -> tuple[Made, Sweep | None]:
    from v7_pipeline.backtest.run import run_backtest
    from v7_pipeline.console import RichTeller, out

    source = store_of(settings)
    teller = RichTeller(out(stderr=quiet))
    try:
        tried = _sweep(source, settings, configuration, sweep, teller) if sweep else None
        with _asked(settings, configuration, source, paid, teller) as (who, plain, notes):
            if fresh:
                _forget(settings, configuration, who.name if who else "rules")
            chosen = replace(configuration, notes=notes)
            made = run_backtest(source, settings, chosen, analyst=who, plain=plain, on_progress=teller.progress)
            return made, tried
    finally:
        teller.finish()


@contextmanager
def _asked(
    settings: Settings, configuration: Configuration, source: Store, paid: _Paid, teller: Any
) -> Iterator[tuple[Analyst | None, SampledAnalyst | None, tuple[str, ...]]]:
    """Who decides, None for the rules; who decides without the theories; and what the page must say of them."""
    from v7_pipeline.backtest.analysts import ledger_analyst, sampled_analyst, sampled_twice
    from v7_pipeline.backtest.replay import instants_of

    if configuration.analyst == "rules":
        yield None, None, ()
        return
    instants = instants_of(configuration.start, configuration.end, configuration.every)
    if configuration.analyst == "replay":
        from v7_pipeline.scan.runtime import build_runtime

        held = ledger_analyst(source, build_runtime(settings).replay_analyst(source), instants, settings.symbols)
        yield held, None, ()
        return
    from v7_pipeline.cli_llm import marks_of, services

    told: list[str] = []

    def confirm(estimate: Any) -> bool:
        told.append(estimate.sentence[:1].upper() + estimate.sentence[1:] + ".")
        teller.line(told[0])
        return paid.yes or typer.confirm("Ask it?", err=True)

    with services(settings, [configuration.analyst]) as runtime:
        analyst = runtime.paid_analyst(configuration.analyst, marks_of(settings, "backtest"))
        how: Any = {"n": paid.sample, "seed": paid.seed, "confirm": confirm}
        if paid.twice:
            chosen, plain = sampled_twice(source, analyst, instants, settings.symbols, **how)
            yield chosen, plain, tuple(told)
        else:
            yield sampled_analyst(source, analyst, instants, settings.symbols, **how), None, tuple(told)


def _forget(settings: Settings, configuration: Configuration, who: str) -> None:
    """Delete the store of the same configuration; its pages are written anew in any case."""
    from v7_pipeline.backtest import backtest_id
    from v7_pipeline.backtest.run import BESIDE

    own = configuration.strategies if who == "rules" else ("v7",)
    run_id = backtest_id(settings, **configuration.span, analyst=who, strategies=own)
    for end in (".duckdb", BESIDE):
        for suffix in ("", ".wal"):
            (settings.data_dir / "backtest" / f"{run_id}{end}{suffix}").unlink(missing_ok=True)


def _sweep(source: Store, settings: Settings, configuration: Configuration, texts: list[str], teller: Any) -> Sweep:
    """Every configuration of the grid, on all cores, each recorded as a trial as it comes."""
    from v7_pipeline.backtest import BacktestError
    from v7_pipeline.backtest.replay import instants_of, venue_of
    from v7_pipeline.backtest.run import trial_store
    from v7_pipeline.backtest.sweep import candidates, parse_sweep, run_sweep
    from v7_pipeline.backtest.trials import Trial, record_trials

    try:
        swept = parse_sweep(texts, settings)
    except BacktestError as error:
        raise UsageProblemError(f"--sweep: {error}") from None
    instants = instants_of(configuration.start, configuration.end, configuration.every)
    grid = candidates(
        swept,
        settings,
        source=settings.store_url,
        venue=venue_of(source, settings.symbols, instants[0], instants[-1]),
        start=configuration.start,
        end=configuration.end,
        every_minutes=configuration.every // timedelta(minutes=1),
        strategy=configuration.strategies[0],
    )
    with closing(trial_store(settings)) as counted:

        def record(trial: Trial) -> None:
            record_trials(counted, [trial], run_id=f"sweep-{configuration.start:%Y%m%d}", now=datetime.now(UTC))

        found = run_sweep(grid, record=record, on_progress=teller.progress)
    for name, why in found.failed.items():
        teller.line(f"{name} could not be simulated: {why}")
    if found.interrupted:
        teller.line(f"interrupted: {len(found.tried)} trials are kept, {len(found.left)} were not made")
    return found


# --- what is shown --------------------------------------------------------------------------


def _show(made: Made, tried: Sweep | None, settings: Settings) -> None:
    from rich.markdown import Markdown

    from v7_pipeline.console import out

    console = out()
    found = made.figures
    mark = " — DEMO, a simulated market" if found.material.is_demo else ""
    title = f"# Backtest {made.run_id}{mark}\n\n{found.material.simulation.name}, {found.first:%Y-%m-%d %H:%M}Z … "
    console.print(Markdown(f"{title}{found.last:%Y-%m-%d %H:%M}Z, {made.scans} scans\n\n{made.verdict.markdown()}"))
    for name, why in found.material.absent:
        console.print(f"Not among the baselines is {name}: {why}.", highlight=False)
    for name in _SHOWN:
        if name in found.sections:
            console.print(_figures(name, found.sections[name]))
    if tried is not None:
        for block in _sweep_blocks(tried, made, settings):
            console.print(block)
    if made.kept:
        console.print(f"{made.kept} of {made.scans} scans were already there; --fresh replays them all")
    if made.interrupted:
        console.print("interrupted: the page compares with the baselines that were there; run it again for the rest")
    for word, path in (("page", made.page), ("figures", made.data), ("store", made.store)):
        console.print(f"{word:<8}{path}", soft_wrap=True, highlight=False)


def _figures(title: str, items: Any) -> Table:
    from rich.table import Table

    from v7_pipeline.backtest.page import item_table

    table = Table(title=title, title_justify="left")
    for column in ("figure", "value", "95 % interval", "n (worth)", "note"):
        table.add_column(column)
    for row in item_table(items):
        table.add_row(*row)
    return table


def _sweep_blocks(tried: Sweep, made: Made, settings: Settings) -> list[Any]:
    """Each configuration, and what choosing among them would have earned out of sample."""
    from rich.table import Table

    from v7_pipeline.backtest import BacktestError
    from v7_pipeline.backtest.validation import cross_validate, grid_of, walk_forward

    table = Table(title=f"Sweep, {len(tried.tried)} trials", title_justify="left")
    for column in ("configuration", "trades", "mean R", "net USD", "Sharpe, a day"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for one in tried.tried:
        trial = one.trial
        table.add_row(
            trial.name, str(trial.n_trades), _number(trial.mean_r, "+.3f"), f"{trial.net_usd:+,.0f}",
            _number(trial.sharpe_daily, "+.3f"),
        )  # fmt: skip
    blocks: list[Any] = [table]
    if len(tried.tried) < 2:
        return blocks
    first, last = made.figures.first, made.figures.last
    grid = grid_of(
        {one.candidate.name: one.trades for one in tried.tried},
        first=first,
        last=last,
        initial_usd=settings.account_initial_usd,
    )
    try:
        crossed = cross_validate(grid)
        ahead = walk_forward(grid, train=max(len(grid.returns) // 3, 2), test=max(len(grid.returns) // 12, 1))
    except BacktestError as error:
        return [*blocks, f"No cross-validation: {error}"]
    chance = "unknown" if crossed.overfitting is None else f"{crossed.overfitting.probability:.2f}"
    paths = ", ".join(_number(value, "+.3f") for value in crossed.path_sharpes)
    blocks.append(
        f"Chosen in sample, judged out of it (15 purged splits of {len(grid.returns)} days): daily Sharpe falls by "
        f"{crossed.degradation:.3f} in the mean, {crossed.loss_share:.0%} of the choices lose; 5 paths: {paths}; "
        f"probability of overfitting {chance}. Walking forward, {len(ahead.steps)} choices: "
        f"{ahead.returns.sum():+.3%} of the account over {len(ahead.returns)} days, n = {len(ahead.trades)} trades."
    )
    return blocks


def _number(value: float, shape: str) -> str:
    return "–" if value != value else format(value, shape)
