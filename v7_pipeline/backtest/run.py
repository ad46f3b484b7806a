"""A backtest from its configuration to its pages: simulated, compared, reported and written, by one call.

The command and the asset are two ways of calling it; how scans are simulated is engine.py's, how they are replayed
one by one replay.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from v7_pipeline import __version__
from v7_pipeline.analyst.base import Analyst
from v7_pipeline.backtest.analysts import SampledAnalyst
from v7_pipeline.backtest.baselines import all_baselines, analyst_without_theories, as_baseline
from v7_pipeline.backtest.comparison import Baseline, RandomEntry, Simulation, Trials
from v7_pipeline.backtest.deciders import STRATEGIES, decider_of
from v7_pipeline.backtest.engine import simulate
from v7_pipeline.backtest.figures import Figures, Material, figures
from v7_pipeline.backtest.pace import pace_notes
from v7_pipeline.backtest.page import write_report
from v7_pipeline.backtest.prepared import Prepared, prepare
from v7_pipeline.backtest.random_entry import DRAWS, random_entry, seed_of
from v7_pipeline.backtest.replay import EVERY, BacktestError, asked_and_hourly, backtest_id, instants_of, replay
from v7_pipeline.backtest.stored import keep, readings_of
from v7_pipeline.backtest.target import material
from v7_pipeline.backtest.trials import Trial, counting, record_trials, trial_of, trials_on
from v7_pipeline.backtest.verdict import Verdict, verdict
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, open_store
from v7_pipeline.trades import FEE_PRESETS

__all__ = ["BESIDE", "COMPARED_STAGE", "Configuration", "Made", "days", "run_backtest", "trial_store"]

OnProgress = Callable[[str, int, int], None]

COMPARED_STAGE = "compared"
WITHOUT_THEORIES = "the analyst without theories"
#: What ends the name of the store in which the analyst without the theories is replayed.
BESIDE = ".without-theories.duckdb"


@dataclass(frozen=True)
class Configuration:
    """What is backtested: scans at start, start + every, … before `end`. None takes the settings' own.

    `strategies`: the first is reported, the others are compared with it. `analyst`: who decides for v7, the rules or
    one that is handed to `run_backtest`. `fees`: a preset's name. `compare`: whether baselines are simulated too.
    `command` is told on the page, `notes` in its verdict.
    """

    start: datetime
    end: datetime
    every: timedelta = EVERY
    symbols: tuple[str, ...] | None = None
    strategies: tuple[str, ...] = ("v7",)
    analyst: str = "rules"
    fees: str | None = None
    compare: bool = True
    command: str = ""
    notes: tuple[str, ...] = ()

    def settings(self, settings: Settings) -> Settings:
        """`settings` with what is configured here; BacktestError where it is unknown."""
        unknown = [name for name in self.strategies if name not in STRATEGIES]
        if unknown or not self.strategies:
            raise BacktestError(
                f"strategy {', '.join(unknown) or 'none'} cannot be backtested; known: {', '.join(STRATEGIES)}"
            )
        if self.fees is not None and self.fees not in FEE_PRESETS:
            raise BacktestError(f"no fee preset {self.fees!r}; known: {', '.join(FEE_PRESETS)}")
        changes: dict[str, Any] = {"symbols": self.symbols, "fees": self.fees, "strategies": self.strategies}
        return settings.model_copy(update={name: value for name, value in changes.items() if value})

    @property
    def span(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "every": self.every}


@dataclass(frozen=True)
class Made:
    """A finished backtest: its figures and verdict, and where page, data and store lie.

    `kept`: scans that an earlier, interrupted replay had left. `interrupted`: Ctrl-C ended the comparison early.
    """

    run_id: str
    figures: Figures
    verdict: Verdict
    page: Path
    data: Path
    store: Path
    scans: int
    kept: int = 0
    interrupted: bool = False


def days(first: str, last: str) -> tuple[datetime, datetime]:
    """The span of whole UTC days from `first` to `last`, both included; BacktestError for anything else."""
    ends = []
    for text in (first, last):
        try:
            ends.append(date.fromisoformat(text))
        except ValueError:
            raise BacktestError(f"{text!r} is no day; write it as 2023-12-11") from None
    if ends[1] < ends[0]:
        raise BacktestError(f"the span from {first} to {last} has no scan; give a later end")
    start, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in ends)
    return start, end + timedelta(days=1)


def trial_store(settings: Settings) -> Store:
    """The store that counts every simulated configuration; nothing live reads it."""
    folder = settings.data_dir / "backtest"
    folder.mkdir(parents=True, exist_ok=True)
    store = open_store(f"duckdb:{folder / 'trials.duckdb'}", wait_s=settings.store_wait_s)
    store.migrate(__version__, datetime.now(UTC))
    return store


def run_backtest(
    source: Store,
    settings: Settings,
    configuration: Configuration,
    *,
    analyst: Analyst | None = None,
    plain: SampledAnalyst | None = None,
    now: datetime | None = None,
    on_progress: OnProgress | None = None,
) -> Made:
    """Backtest the configuration over the candles of `source`; store, page and JSON go into the backtest folder.

    With the rules all scans are simulated at once; any other `analyst` is asked scan by scan (`replay`), and goes on
    where it stopped. `plain` is that analyst without the theories: a baseline, replayed into a store beside. The same
    configuration has the same id and the same bytes; its pages are written anew. Each configuration that is simulated,
    baselines among them, is counted as a trial. Ctrl-C while baselines are simulated ends the comparison with those
    that are there. Raises BacktestError with one sentence for what cannot be replayed.
    """
    chosen = configuration.settings(settings)
    who = analyst.name if analyst else "rules"
    if analyst is not None and configuration.strategies[0] != "v7":
        raise BacktestError(
            f"{who} decides for v7 only, and {configuration.strategies[0]} is reported; name v7 first, or "
            "take the rules"
        )
    if analyst is not None:
        chosen = chosen.model_copy(update={"strategies": ("v7",)})  # the others are simulated beside it
    run_id = backtest_id(chosen, **configuration.span, analyst=who)
    folder = settings.data_dir / "backtest"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{run_id}.duckdb"
    given = prepare(source, chosen, **configuration.span, on_progress=on_progress)
    kept = 0
    with closing(open_store(f"duckdb:{place}", wait_s=settings.store_wait_s)) as target:
        if analyst is None:
            what = _simulated(source, target, given, chosen, configuration, run_id, on_progress)
        else:
            result = replay(source, target, chosen, **configuration.span, analyst=analyst, on_progress=on_progress)
            kept, what = result.kept, material(target, chosen, command=configuration.command)
    notes = (*configuration.notes, *_who_answered(what), *pace_notes(chosen))
    what = replace(what, notes=notes, absent=_absent(configuration, plain))
    again = _again(source, chosen, configuration, plain, folder / f"{run_id}{BESIDE}", on_progress)
    what, interrupted = _compared(
        source, given, what, configuration, settings, now or datetime.now(UTC), on_progress, again
    )
    found = figures(what)
    page, data = write_report(found, folder, run_id)
    return Made(run_id, found, verdict(found), page, data, place, len(given.scans), kept, interrupted)


def _who_answered(what: Material) -> tuple[str, ...]:
    """Whose the decisions are, where they are not all of one, as a sentence."""
    counts = what.simulation.signals.groupby(["analyst", "status"]).size()
    if len(set(counts.index.get_level_values("analyst"))) < 2:
        return ()
    return ("Decisions: " + ", ".join(f"{n:,} {status} by {who}" for (who, status), n in counts.items()) + ".",)


def _absent(configuration: Configuration, plain: SampledAnalyst | None) -> tuple[tuple[str, str], ...]:
    """The baselines that this configuration cannot have, and why."""
    if plain is not None or not configuration.compare:
        return ()
    strategy, analyst = configuration.strategies[0], configuration.analyst
    if strategy != "v7":
        why = f"{strategy} asks no language model"
    elif analyst == "rules":
        why = "the rules decided and no language model; with a key, --analyst deepseek asks one with them and without"
    elif analyst == "replay":
        why = "the ledger's answers were given with the theories; only --analyst deepseek asks without them"
    else:
        why = f"{analyst} was asked with the theories only (--once)"
    return ((WITHOUT_THEORIES, why),)


def _again(
    source: Store,
    settings: Settings,
    configuration: Configuration,
    plain: SampledAnalyst | None,
    place: Path,
    on_progress: OnProgress | None,
) -> Callable[[], Simulation] | None:
    """The replay in which `plain` decides, at its instants and each hour; it goes on where it stopped.

    None where nobody is to be asked.
    """
    if plain is None or not configuration.compare:
        return None

    def replayed() -> Simulation:
        with closing(open_store(f"duckdb:{place}", wait_s=settings.store_wait_s)) as target:
            span = configuration.span
            only = asked_and_hourly(instants_of(**span), plain.chosen)
            replay(source, target, settings, **span, analyst=plain, only=only, on_progress=on_progress)
            return material(target, settings, name=f"{configuration.analyst} without theories").simulation

    return replayed


def _simulated(
    source: Store,
    target: Store,
    given: Prepared,
    settings: Settings,
    configuration: Configuration,
    run_id: str,
    on_progress: OnProgress | None,
) -> Material:
    """The first strategy, simulated and kept in `target`."""
    strategy = configuration.strategies[0]
    own = simulate(
        given, settings, decider=decider_of(strategy, given, settings, source), name=strategy, on_progress=on_progress
    )
    readings = readings_of(given, own)
    keep(target, own, readings, run_id=run_id)
    return Material(
        run_id=run_id,
        code_version=__version__,
        simulation=own,
        candles=given.candles,
        venues=tuple(given.venue.split("+")),
        every=configuration.every,
        readings=readings if strategy == "v7" else None,
        command=configuration.command,
    )


def _compared(
    source: Store,
    given: Prepared,
    what: Material,
    configuration: Configuration,
    settings: Settings,
    now: datetime,
    on_progress: OnProgress | None,
    again: Callable[[], Simulation] | None,
) -> tuple[Material, bool]:
    """The material with baselines, random entries and the count of trials, and whether Ctrl-C cut them short."""
    own, run_id = what.simulation, what.run_id
    venue, first, last = given.venue, own.instants[0].to_pydatetime(), own.instants[-1].to_pydatetime()
    strategy = configuration.strategies[0]
    analyst = "technical" if strategy == "v6" else configuration.analyst
    mine = trial_of(own, venue=venue, strategy=strategy, analyst=analyst)
    found: list[Baseline] = []
    done = False
    with closing(trial_store(settings)) as counted:

        def record(trial: Trial) -> None:
            record_trials(counted, [trial], run_id=run_id, now=now)

        record(mine)
        with suppress(KeyboardInterrupt):
            found += _others(source, given, own, configuration, record)
            if again is not None:
                plainly = again()
                record(trial_of(plainly, venue=venue, strategy=strategy, analyst=f"{analyst}-without-theories"))
                found.append(analyst_without_theories(plainly, own, given.candles))
            if configuration.compare:
                found += all_baselines(_rules(given, record), own, given.candles, on_progress=on_progress)
            done = True
        trials: Trials = trials_on(counted, first=first, last=last, venue=venue, chosen=mine.trial_id)
    chance, why = _chance(own, given, run_id) if done else (None, "interrupted before")
    return replace(what, baselines=tuple(found), random_entry=chance, no_random_entry=why, trials=trials), not done


def _chance(own: Simulation, given: Prepared, run_id: str) -> tuple[RandomEntry | None, str]:
    """Random entries like the strategy's, or why there are none: a span that is too short has no room for them."""
    try:
        # Clusters of trades stay clusters: drawn one by one they would look like more evidence than they are.
        drawn = random_entry(own, given.candles, seed=seed_of(run_id), draws=DRAWS, together=True)
    except BacktestError as error:
        return None, str(error)
    return drawn, "" if drawn else "no trade has closed"


def _rules(given: Prepared, record: Callable[[Trial], None]) -> Any:
    """v7 with the rules and any weights, on the same candles and readings, counted as a trial."""

    def one(settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation:
        return simulate(given, settings, weights=weights, name=name)

    return counting(one, record, venue=given.venue)


def _others(
    source: Store, given: Prepared, own: Simulation, configuration: Configuration, record: Callable[[Trial], None]
) -> list[Baseline]:
    """The other strategies over the same span."""
    found = []
    for strategy in configuration.strategies[1:]:
        settings = own.settings
        other = simulate(given, settings, decider=decider_of(strategy, given, settings, source), name=strategy)
        analyst = "technical" if strategy == "v6" else "rules"
        record(trial_of(other, venue=given.venue, strategy=strategy, analyst=analyst))
        found.append(as_baseline(other, _MEANING[strategy], given.candles))
    return found


_MEANING = {
    "v7": "Ten theories, combined by the rules, with the same gates and fees.",
    "v6": "Technical indicators and a logistic model fitted anew each midnight on what had closed by then, with the "
    "same gates and fees.",
    "ensemble": "The confidence-weighted vote of v7 and v6, each mapped to the win rate that it had earned by then.",
}
