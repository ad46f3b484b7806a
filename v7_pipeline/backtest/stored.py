"""A simulation in a store of its own: its tables, every row marked backtest with the run's id.

What a simulation is, engine.py says; live tables are never written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.analyst.rules import READING_COLUMNS
from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.labels import utc_index
from v7_pipeline.backtest.prepared import STATES, Prepared
from v7_pipeline.backtest.replay import SOURCE, refuse_foreign_rows
from v7_pipeline.learning.performance import theory_performance
from v7_pipeline.store import Store, arrow_frame
from v7_pipeline.store.schema import PROVENANCE, table
from v7_pipeline.theories import bayesian_win_rate

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["keep", "readings_of"]

_MARKS = {column.name for column in PROVENANCE}
_MINUTE = timedelta(minutes=1)


def readings_of(prepared: Prepared, simulation: Simulation) -> pd.DataFrame:
    """Readings that BUYs and SELLs were decided on: symbol, as_of, every vote and score, the regime's probabilities.

    The win rate's own are those of what the simulation had learnt by then. Each reading once.
    """
    k = len(prepared.symbols)
    rows = np.flatnonzero(simulation.signals["side"].isin(("BUY", "SELL")).to_numpy())
    minutes = prepared.features[rows]
    learnt = simulation.win_rates.assign(as_of=simulation.win_rates["as_of"] + _MINUTE)
    win_rate = bayesian_win_rate.columns_at(bayesian_win_rate.posteriors(learnt), minutes)
    frame = prepared.readings.iloc[rows].reset_index(drop=True).assign(**win_rate)
    frame.insert(0, "as_of", utc_index(minutes))
    frame.insert(0, "symbol", np.array(prepared.symbols, dtype=object)[rows % k])
    return frame[["symbol", "as_of", *READING_COLUMNS, *STATES]].drop_duplicates(["symbol", "as_of"], ignore_index=True)


def keep(target: Store, simulation: Simulation, readings: pd.DataFrame, *, run_id: str) -> None:
    """Write the simulation's tables into `target` in place of what it holds of this run, all in one transaction.

    `readings`: `readings_of` the simulation. BacktestError where `target` holds anything else.
    """
    marks = {"source": SOURCE, "run_id": run_id, "code_version": __version__}
    target.migrate(__version__, simulation.instants[0].to_pydatetime())
    refuse_foreign_rows(target, run_id)
    tables: dict[str, Callable[[], pd.DataFrame]] = {
        "outcomes": lambda: simulation.outcomes,
        "theory_performance": lambda: _performance(simulation, readings),
        "llm_signals": lambda: simulation.signals,
        "gated_signals": lambda: simulation.gated,
        "win_rates": lambda: simulation.win_rates,
        "confidence_thresholds": lambda: simulation.thresholds,
        "scans": lambda: _scans(simulation),
    }
    # A table is made and checked while the one before it is written: DuckDB needs no Python for that. Small ones first,
    # so that it is not kept waiting for long.
    with ThreadPoolExecutor(1) as making, target.transaction() as tx:
        made = {name: making.submit(_made, name, frame, marks) for name, frame in tables.items()}
        for name in tables:
            tx.execute(f"DELETE FROM {name}")
            tx.append(name, made.pop(name).result())


def _made(name: str, frame: Callable[[], pd.DataFrame], marks: Mapping[str, str]) -> pa.Table:
    return arrow_frame(name, frame(), marks)


def _performance(simulation: Simulation, readings: pd.DataFrame) -> pd.DataFrame:
    """What each theory said of each closed trade; none of a strategy that has no theories."""
    outcomes = simulation.outcomes
    signals = simulation.signals.loc[simulation.signals["side"].isin(("BUY", "SELL")), ["signal_id", "features_as_of"]]
    closed = outcomes[outcomes["outcome"] != "open"].merge(signals, on="signal_id")
    if closed.empty or set(closed["strategy"]) != {"v7"}:
        return pd.DataFrame(columns=[name for name in table("theory_performance").column_names if name not in _MARKS])
    read = closed[["signal_id", "symbol", "features_as_of"]].merge(
        readings, left_on=["symbol", "features_as_of"], right_on=["symbol", "as_of"]
    )
    return theory_performance(closed, read)


def _scans(simulation: Simulation) -> pd.DataFrame:
    """A finished row for each scan."""
    k = len(simulation.settings.symbols)
    accepted = simulation.gated["accepted"].to_numpy().reshape(-1, k).sum(axis=1)
    latency = timedelta(seconds=simulation.settings.backtest_latency_s)
    closed = (
        simulation.outcomes.loc[simulation.outcomes["outcome"] != "open", "labelled_at"].sub(latency).value_counts()
    )
    instants = simulation.instants
    return pd.DataFrame(
        {
            "as_of": instants,
            "started_at": instants,
            "finished_at": instants,
            "symbols": ",".join(simulation.settings.symbols),
            "status": "finished",
            "failures": "{}",
            "candles_written": 0,
            "signals": k,
            "accepted": accepted,
            "closed": closed.reindex(instants).fillna(0).astype("int64").to_numpy(),
            "cost_usd": 0.0,
        }
    )
