"""Sweeps: a grid of candidates, each simulated in a process of its own and recorded as a trial as it comes.

What one candidate comes to is the engine's; which of them to trust is validation.py's.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
from pydantic import ValidationError

from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.replay import BacktestError, backtest_id
from v7_pipeline.backtest.trials import Trial, trial_of
from v7_pipeline.settings import Settings, load_settings, without_secrets
from v7_pipeline.store import Store, open_store
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = [
    "SWEEP_STAGE",
    "Candidate",
    "Sweep",
    "Tried",
    "candidates",
    "parse_sweep",
    "run_candidate",
    "run_sweep",
]

SWEEP_STAGE = "sweep"
WEIGHT = "weight."
_PATIENCE_S = 5.0  # for a process that was asked to end
# They come from the environment of whoever runs a candidate, and are in no description of it.
_SECRETS = frozenset({"deepseek_api_key", "coingecko_api_key", "alert_urls"})

OnProgress = Callable[[str, int, int], None]
Runner = Callable[["Candidate"], Simulation]


@dataclass(frozen=True)
class Candidate:
    """One point of a sweep's grid, small and picklable: all that a process needs to simulate it.

    A backtest that is reported has run.Configuration: its span and comparison, as a person asks for them.

    `source` is the URL of the store whose candles are read (V7_STORE's form), `venue` who reported them. Scans at
    start, start + every_minutes, … before `end`. `overrides` are settings by field name, on top of the environment's;
    `weights` the theories', None for v7's own.
    """

    name: str
    source: str
    venue: str
    start: datetime
    end: datetime
    every_minutes: int = 2
    strategy: str = "v7"
    analyst: str = "rules"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] | None = None

    @property
    def settings(self) -> Settings:
        """The environment's settings with `overrides` on top; SettingsError where one is not usable."""
        return load_settings(**self.overrides)


@dataclass(frozen=True)
class Tried:
    """A candidate that was simulated: its trial, and its closed paper trades."""

    candidate: Candidate
    trial: Trial
    trades: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to, in the order of its candidates.

    `failed` has the reason by name of those that could not be simulated; `left` are the names that Ctrl-C kept from
    being simulated, or from being finished.
    """

    tried: tuple[Tried, ...]
    failed: Mapping[str, str]
    left: tuple[str, ...]

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it early."""
        return bool(self.left)


# --- what is swept --------------------------------------------------------------------------


def parse_sweep(texts: Sequence[str], base: Settings) -> dict[str, tuple[Any, ...]]:
    """The values to try by setting, from texts such as "min_confidence=0.55,0.6;horizon_minutes=120,240".

    weight.THEORY=0,1,2 sweeps the weight that the rules give a theory. A value that stands twice is tried once.
    BacktestError names the first setting that is unknown or has no effect on a backtest, and the first bad value.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for part in filter(None, (part.strip() for text in texts for part in text.split(";"))):
        name, equals, listed = (word.strip() for word in part.partition("="))
        values = [value.strip() for value in listed.split(",")]
        if not equals or not name or not all(values):
            raise BacktestError(f"{part!r} is no sweep; write a setting and its values, as min_confidence=0.55,0.6")
        if name in found:
            raise BacktestError(f"{name} is swept twice; write all of its values in one place")
        kind = _weight if name.startswith(WEIGHT) else _setting
        found[name] = tuple(dict.fromkeys(kind(name, value, base) for value in values))
    return found


def candidates(
    swept: Mapping[str, Sequence[Any]],
    base: Settings,
    *,
    source: str,
    venue: str,
    start: datetime,
    end: datetime,
    every_minutes: int = 2,
    strategy: str = "v7",
    analyst: str = "rules",
) -> list[Candidate]:
    """Every combination of the swept values, the last setting turning fastest; without any, `base` alone.

    Each holds all of `base` but its secrets. Its name is the strategy and the swept values.
    """
    fixed = {name: getattr(base, name) for name in Settings.model_fields if name not in _SECRETS}
    found = []
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        weights = {name.removeprefix(WEIGHT): value for name, value in chosen.items() if name.startswith(WEIGHT)}
        told = " ".join(f"{name}={_text(value)}" for name, value in chosen.items())
        found.append(
            Candidate(
                name=f"{strategy} {told}".strip(),
                source=source,
                venue=venue,
                start=start,
                end=end,
                every_minutes=every_minutes,
                strategy=strategy,
                analyst=analyst,
                overrides=fixed | {name: value for name, value in chosen.items() if not name.startswith(WEIGHT)},
                weights={**dict.fromkeys(THEORY_NAMES, 1.0), **base.rules_weights, **weights} if weights else None,
            )
        )
    return found


def _setting(name: str, value: str, base: Settings) -> Any:
    if name not in Settings.model_fields or name in _SECRETS:
        close = [known for known in Settings.model_fields if name in known or known in name]
        hint = f"did you mean {' or '.join(close[:3])}?" if close else "docs/settings.md lists them"
        raise BacktestError(f"there is no setting {name!r} to sweep; {hint}")
    given = {known: getattr(base, known) for known in Settings.model_fields if known not in _SECRETS}
    try:
        tried = Settings.model_validate(given | {name: value})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        reason = without_secrets(str(first["msg"]).removeprefix("Value error, "))
        raise BacktestError(f"{name}={value} cannot be swept: {reason}") from None
    found = getattr(tried, name)
    if found != getattr(base, name) and _identity(tried) == _identity(base):
        raise BacktestError(f"{name} has no effect on a backtest, so that there is nothing to sweep; leave it out")
    return found


def _identity(settings: Settings) -> str:
    moment = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
    return backtest_id(settings, start=moment, end=moment)


def _weight(name: str, value: str, base: Settings) -> float:
    theory = name.removeprefix(WEIGHT)
    if theory not in THEORY_NAMES:
        raise BacktestError(f"there is no theory {theory!r} to weigh; the ten are {', '.join(THEORY_NAMES)}")
    try:
        weight = float(value)
    except ValueError:
        weight = float("nan")
    if not 0 <= weight < float("inf"):
        raise BacktestError(f"{name}={value} cannot be swept: a weight is a finite number, not negative")
    return weight


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- running them ---------------------------------------------------------------------------


def run_sweep(
    chosen: Sequence[Candidate],
    *,
    record: Callable[[Trial], object],
    runner: Runner | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Sweep:
    """Simulate every candidate, some at once, and hand each trial to `record` as soon as it is there.

    `runner` is a function of a module (it is found by name in the other processes), by default
    run_candidate; `workers` is the number of processes, by default one a core; 1 stays in this one. One that
    fails is told in the result, and the others go on. Ctrl-C ends what is running and keeps what is done.
    on_progress(stage, done, total) counts candidates, failed ones among them. BacktestError where two have one
    name.
    """
    names = [one.name for one in chosen]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BacktestError(f"two candidates are called {twice[0]!r}; give each a name of its own")
    count = max(1, min(workers or os.cpu_count() or 1, len(chosen)))
    outcomes = _here(chosen, runner) if count == 1 else _in_processes(chosen, runner, count)
    tried: dict[str, Tried] = {}
    failed: dict[str, str] = {}
    try:
        for name, outcome in outcomes:
            if isinstance(outcome, Tried):
                record(outcome.trial)
                tried[name] = outcome
            else:
                failed[name] = outcome
            if on_progress:
                on_progress(SWEEP_STAGE, len(tried) + len(failed), len(chosen))
    except KeyboardInterrupt:
        pass  # what is done is recorded; the rest is named in the result
    finally:
        outcomes.close()
    return Sweep(
        tuple(tried[name] for name in names if name in tried),
        {name: failed[name] for name in names if name in failed},
        tuple(name for name in names if name not in tried and name not in failed),
    )


Outcomes = Iterator[tuple[str, Tried | str]]


def _here(chosen: Sequence[Candidate], runner: Runner | None) -> Any:
    for one in chosen:
        yield one.name, _try(one, runner)


def _in_processes(chosen: Sequence[Candidate], runner: Runner | None, count: int) -> Any:
    # Fresh processes: a copy of this one would share its open files and the threads of its libraries.
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_deaf_to_ctrl_c)
    try:
        with _ctrl_c_ignored():  # they are born with it, before they could say so themselves
            waiting: dict[Future[Tried | str], str] = {pool.submit(_try, one, runner): one.name for one in chosen}
        for done in as_completed(waiting):
            error = done.exception()
            yield waiting[done], done.result() if error is None else f"its process ended: {error}"
        pool.shutdown()
    finally:
        # After Ctrl-C, whoever still computes is ended: what it would bring is not waited for.
        pool.shutdown(wait=False, cancel_futures=True)
        _end(set(multiprocessing.active_children()) - others)


def _end(processes: set[multiprocessing.process.BaseProcess]) -> None:
    """End what still computes: asked first, and killed where it does not hear."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join(_PATIENCE_S)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """For a moment; only the main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _deaf_to_ctrl_c() -> None:
    """Ctrl-C reaches every process of a terminal; only the one that keeps the results acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _try(candidate: Candidate, runner: Runner | None) -> Tried | str:
    """The trial of one candidate, or why there is none. Only what is small goes back to who asked."""
    try:
        simulation = (runner or run_candidate)(candidate)
        trial = trial_of(
            simulation,
            venue=candidate.venue,
            strategy=candidate.strategy,
            analyst=candidate.analyst,
            weights=candidate.weights,
        )
    except Exception as error:  # noqa: BLE001  # one candidate that fails must not end the others
        return without_secrets(f"{type(error).__name__}: {error}")
    return Tried(candidate, trial, simulation.paper)


# --- the engine's part ----------------------------------------------------------------------

_prepared: dict[tuple[Any, ...], Any] = {}


def run_candidate(candidate: Candidate) -> Simulation:
    """The simulation of one candidate over the candles of its source; what scans know is prepared once a process.

    BacktestError where the candles are of another venue than the candidate says.
    """
    from v7_pipeline.backtest.deciders import RulesDecider, decider_of
    from v7_pipeline.backtest.engine import simulate

    settings = candidate.settings
    with closing(open_store(candidate.source, wait_s=settings.store_wait_s)) as source:
        given = _given(candidate, settings, source)
        if given.venue != candidate.venue:
            raise BacktestError(
                f"the candles of {candidate.source} are of {given.venue}, not of {candidate.venue}; a trial is "
                "counted among those of its own venue"
            )
        rules = candidate.strategy == "v7"
        decider = (
            RulesDecider(given, settings, candidate.weights)
            if rules
            else decider_of(candidate.strategy, given, settings, source)
        )
    return simulate(given, settings, decider=decider, name=candidate.name)


def _given(candidate: Candidate, settings: Settings, source: Store) -> Any:
    """What scans know, kept until a candidate needs something else: readings take longer than decisions."""
    from v7_pipeline.backtest.prepared import prepare

    # All that readings depend on besides the candles.
    knobs = (tuple(settings.symbols), settings.gap_minutes, settings.min_observed_share)
    start, end, every = candidate.start, candidate.end, timedelta(minutes=candidate.every_minutes)
    key = (candidate.source, start, end, every, *knobs)
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = prepare(source, settings, start=start, end=end, every=every)
    return _prepared[key]
