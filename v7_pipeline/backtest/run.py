"""A backtest from its configuration to its pages: simulated, compared, reported and written, by one call.

The command and the asset are two ways of calling it; how scans are replayed is replay.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.analyst.base import Analyst
from v7_pipeline.backtest.comparison import Baseline
from v7_pipeline.backtest.equity import daily_equity
from v7_pipeline.backtest.figures import Figures, Material, figures
from v7_pipeline.backtest.page import write_report
from v7_pipeline.backtest.replay import EVERY, BacktestError, backtest_id, replay
from v7_pipeline.backtest.target import material
from v7_pipeline.backtest.verdict import Verdict, verdict
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, open_store
from v7_pipeline.trades import FEE_PRESETS, fee_preset
from v7_pipeline.trades.pnl import entry_fill, market_exit_fill

__all__ = ["Configuration", "Made", "days", "run_backtest"]

OnProgress = Callable[[str, int, int], None]

STRATEGIES = ("v7",)


@dataclass(frozen=True)
class Configuration:
    """What is backtested: scans at start, start + every, … before `end`. None takes the settings' own.

    `analyst`: rules. `fees`: a preset's name. `command` is told on the page.
    """

    start: datetime
    end: datetime
    every: timedelta = EVERY
    symbols: tuple[str, ...] | None = None
    strategy: str = "v7"
    analyst: str = "rules"
    fees: str | None = None
    command: str = ""

    def settings(self, settings: Settings) -> Settings:
        """`settings` with what is configured here; BacktestError where it is unknown."""
        if self.strategy not in STRATEGIES:
            raise BacktestError(f"strategy {self.strategy!r} cannot be backtested here; known: {', '.join(STRATEGIES)}")
        if self.analyst != "rules":
            raise BacktestError(f"analyst {self.analyst!r} cannot decide here; the rules can")
        if self.fees is not None and self.fees not in FEE_PRESETS:
            raise BacktestError(f"no fee preset {self.fees!r}; known: {', '.join(FEE_PRESETS)}")
        changes: dict[str, Any] = {"symbols": self.symbols, "fees": self.fees}
        return settings.model_copy(update={name: value for name, value in changes.items() if value})


@dataclass(frozen=True)
class Made:
    """A finished backtest: its figures and verdict, and where page, data and store lie."""

    run_id: str
    figures: Figures
    verdict: Verdict
    page: Path
    data: Path
    store: Path
    scans: int
    kept: int


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


def run_backtest(
    source: Store,
    settings: Settings,
    configuration: Configuration,
    *,
    analyst: Analyst | None = None,
    on_progress: OnProgress | None = None,
) -> Made:
    """Replay the configuration over the candles of `source` and write store, page and JSON into the backtest folder.

    The same configuration has the same id, so it goes on where it stopped, and its pages are written anew. Raises
    BacktestError with one sentence for what cannot be replayed.
    """
    chosen = configuration.settings(settings)
    span = {"start": configuration.start, "end": configuration.end, "every": configuration.every}
    run_id = backtest_id(chosen, **span, analyst=analyst.name if analyst else "rules")  # type: ignore[arg-type]
    folder = settings.data_dir / "backtest"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{run_id}.duckdb"
    target = open_store(f"duckdb:{place}", wait_s=settings.store_wait_s)
    try:
        result = replay(source, target, chosen, **span, analyst=analyst, on_progress=on_progress)  # type: ignore[arg-type]
        found = figures(_compared(material(target, chosen, command=configuration.command)))
    finally:
        target.close()
    page, data = write_report(found, folder, run_id)
    return Made(run_id, found, verdict(found), page, data, place, result.scans, result.kept)


def _compared(what: Material) -> Material:
    """The material with the two baselines that need nothing but candles."""
    return replace(what, baselines=(*what.baselines, _buy_and_hold(what), _always_hold(what)))


def _always_hold(what: Material) -> Baseline:
    """Never a trade."""
    sim = what.simulation
    first, last = sim.instants[0].to_pydatetime(), sim.instants[-1].to_pydatetime()
    nothing = sim.outcomes.iloc[:0]
    equity = daily_equity(nothing, what.candles, first=first, last=last, initial_usd=sim.settings.account_initial_usd)
    return Baseline("always HOLD", "Never a trade: it earns and loses nothing.", nothing, equity)


def _buy_and_hold(what: Material) -> Baseline:
    """An equal share of the account in each symbol, from the span's first open to its last close, fees taken."""
    sim = what.simulation
    first, last = sim.instants[0].to_pydatetime(), sim.instants[-1].to_pydatetime()
    settings, inside = sim.settings, what.candles
    inside = inside[(inside["open_time"] >= first) & (inside["open_time"] < last)]
    grouped = inside.sort_values("open_time").groupby("symbol", as_index=False)
    ends = grouped.agg(
        entry_time=("open_time", "first"), exit_time=("open_time", "last"), bought=("open", "first"),
        sold=("close", "last"),
    )  # fmt: skip
    entry = entry_fill(ends["bought"], 1.0, settings.slippage)
    exit_ = market_exit_fill(ends["sold"], 1.0, settings.slippage)
    quantity = settings.account_initial_usd / max(len(ends), 1) / entry
    rate = fee_preset(settings.fees).rate_per_side
    fees = rate * quantity * (entry + exit_)
    pnl = quantity * (exit_ - entry) - fees
    trades = ends.assign(
        signal_id="hold-" + ends["symbol"], side="BUY", entry_price=entry, exit_price=exit_, quantity=quantity,
        fee_preset=settings.fees, net_return=pnl / (quantity * entry), r_multiple=np.nan, pnl_usd=pnl,
        outcome=pd.Series(np.where(pnl > 0, "win", "loss"), index=ends.index, dtype=object),
    )  # fmt: skip
    equity = daily_equity(trades, what.candles, first=first, last=last, initial_usd=settings.account_initial_usd)
    meaning = "An equal share of all the money in each symbol, bought at the first open and sold at the last close."
    return Baseline("buy and hold", meaning, trades, equity)
