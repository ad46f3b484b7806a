"""What becomes of every trade that a simulation might make, and what its walk through time has found.

Fills and verdicts are trades/'; which of the trades is made is engine.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.backtest.deciders import Decider
from v7_pipeline.backtest.prepared import Prepared
from v7_pipeline.backtest.running import Threshold, WinRate
from v7_pipeline.scan.learn import break_even
from v7_pipeline.settings import Settings
from v7_pipeline.trades import can_be_followed, follow

__all__ = ["MINUTE_US", "NEVER", "Found", "Labels", "Trade", "utc_index"]

Ints = npt.NDArray[np.int64]

MINUTE_US: Final = 60_000_000
NEVER: Final = int(np.iinfo(np.int64).max)


@dataclass
class Trade:
    """An accepted signal and its position: its row, its label's place, and what the account needs to know of it.

    `scan`, `entry`, `exit` and `ends` (of the time stop) are epoch minutes, NEVER where it never came.
    """

    row: int
    label: int
    signal_id: str
    symbol: str
    side: str
    scan: int
    entry: int
    exit: int
    ends: int
    quantity: float
    risk_usd: float
    margin_usd: float
    direction: float
    entry_price: float
    exit_price: float
    stop: float
    entry_fee: float
    pnl_usd: float
    worst_case: float


class Labels:
    """What becomes of every possible trade, whoever accepts it."""

    def __init__(self, prepared: Prepared, settings: Settings, decider: Decider) -> None:
        found = decider.possible()
        rows = found["row"].to_numpy(np.int64)
        k = len(prepared.symbols)
        at = prepared.scan_of[rows]
        plans = pd.DataFrame(
            {
                "signal_id": np.arange(len(rows)).astype(str),
                "kind": "shadow",
                "as_of": utc_index(at),
                "symbol": np.array(prepared.symbols, dtype=object)[rows % k],
                "strategy": decider.strategy,
                "side": found["side"].to_numpy(object),
                **{name: found[name].to_numpy(np.float64) for name in ("entry_price", "stop_price", "target_price")},
                "horizon_minutes": found["horizon_minutes"].fillna(settings.horizon_minutes).to_numpy(np.int64),
                "quantity": np.nan,
            }
        )
        usable = can_be_followed(plans).to_numpy()
        self.rows, self.plans = rows[usable], plans[usable].reset_index(drop=True)
        self.outcomes = follow(
            self.plans,
            prepared.candles,
            as_of=prepared.known_to,
            fee_preset=settings.fees,
            slippage=settings.slippage,
            breakeven_band_r=settings.breakeven_band_r,
        )
        self.entry, self.exit = (_minutes(self.outcomes[name]) for name in ("entry_time", "exit_time"))
        self.won = (self.outcomes["outcome"] == "win").to_numpy()
        self.decided = self.outcomes["outcome"].isin(("win", "loss")).to_numpy()
        self.break_even = break_even(
            self.plans.assign(
                entry_price=self.outcomes["entry_price"], fee_preset=settings.fees, slippage=settings.slippage
            ),
            settings.slippage,
        )
        keys = zip(self.rows.tolist(), self.plans["side"].tolist(), strict=True)
        self._place = {key: place for place, key in enumerate(keys)}

    def of(self, row: int, side: str) -> int | None:
        """The place of a row's trade on that side; None where its plan cannot be followed."""
        return self._place.get((row, side))


@dataclass
class Found:
    """What the walk has found, by row or scan, for rows.py to make tables of."""

    labels: Labels
    threshold: Threshold
    gated: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)  # rows of possible trades that were not asked
    accepted: list[Trade] = field(default_factory=list)
    # What the halt and FTMO gates say against any trade, from a scan's place on until the next one told.
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    halts: list[dict[str, Any]] = field(default_factory=list)
    win_rates: dict[str, WinRate] = field(default_factory=dict)


def utc_index(minutes: Ints) -> pd.DatetimeIndex:
    """Epoch minutes as instants."""
    return pd.DatetimeIndex((minutes * MINUTE_US).astype("datetime64[us]")).tz_localize("UTC")


def _minutes(column: pd.Series) -> Ints:
    """Epoch minutes of instants, NEVER where missing."""
    missing = column.isna().to_numpy()
    numbers: Ints = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[m]").astype(np.int64)
    return np.where(missing, NEVER, numbers)
