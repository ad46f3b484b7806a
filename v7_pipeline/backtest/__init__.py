"""Backtests: the very same scan steps replayed over stored candles into a store of their own, and the report on it.

No theory, decision, gate, fill or statistic belongs here; whatever judges a live scan judges a replayed one.
"""

from __future__ import annotations

from v7_pipeline.backtest.comparison import Baseline, RandomEntry, Simulation, Trials
from v7_pipeline.backtest.engine import simulate
from v7_pipeline.backtest.market import StoredMarket
from v7_pipeline.backtest.prepared import Prepared, prepare
from v7_pipeline.backtest.replay import BacktestError, BacktestResult, backtest_id, replay
from v7_pipeline.backtest.report import Report, markdown, report

__all__ = [
    "BacktestError",
    "BacktestResult",
    "Baseline",
    "Prepared",
    "RandomEntry",
    "Report",
    "Simulation",
    "StoredMarket",
    "Trials",
    "backtest_id",
    "markdown",
    "prepare",
    "replay",
    "report",
    "simulate",
]
