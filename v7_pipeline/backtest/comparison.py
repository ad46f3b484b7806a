"""What a backtest hands to its report: its own rows as frames, and what it is compared with.

Shapes only; simulating, drawing at random and writing pages are the modules' beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.settings import Settings

__all__ = ["Baseline", "RandomEntry", "Simulation", "Trials"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Simulation:
    """One strategy over one span. Frames have their table's columns, without provenance.

    `signals` (llm_signals) and `gated` (gated_signals): one row for each symbol and instant. `outcomes`: BUYs and
    SELLs, accepted ones as paper, the others as shadow, open ones among them. `win_rates`, `thresholds`
    (confidence_thresholds): a row where something was learnt.
    """

    name: str
    settings: Settings
    instants: pd.DatetimeIndex
    signals: pd.DataFrame
    gated: pd.DataFrame
    outcomes: pd.DataFrame
    win_rates: pd.DataFrame
    thresholds: pd.DataFrame

    @property
    def paper(self) -> pd.DataFrame:
        """Closed outcomes of accepted signals, by entry."""
        o = self.outcomes
        closed = o[(o["kind"] == "paper") & (o["outcome"] != "open")]
        return closed.sort_values(["entry_time", "symbol"], ignore_index=True)


@dataclass(frozen=True)
class Baseline:
    """What something plainer came to on the same candles, with the same fees and, where it trades, the same gates.

    `trades`: closed trades with at least signal_id, symbol, side, entry_time, exit_time, net_return (fraction),
    r_multiple, pnl_usd, outcome; empty where it has none. `equity`: day (midnight UTC, the day's end), equity_usd.
    """

    name: str
    meaning: str
    trades: pd.DataFrame
    equity: pd.DataFrame


@dataclass(frozen=True)
class RandomEntry:
    """Random entries matched with a strategy's trades in number by symbol, side, plan and holding time.

    `mean_r` and `net_usd`: one value for each draw. The percentile is the share of draws below the strategy's value,
    half of the equal ones counted.
    """

    draws: int
    seed: int
    trades: int
    mean_r: Floats
    net_usd: Floats
    own_mean_r: float
    own_net_usd: float
    percentile_mean_r: float
    percentile_net_usd: float


@dataclass(frozen=True)
class Trials:
    """Every configuration that was tried on a span, counted by the system.

    `daily`: net P&L as a fraction of the initial capital, a row for each UTC day and a column for each trial by name.
    `chosen` is the trial that is reported.
    """

    chosen: str
    daily: pd.DataFrame = field(repr=False)
    names: Sequence[str] = ()

    @property
    def count(self) -> int:
        return self.daily.shape[1]
