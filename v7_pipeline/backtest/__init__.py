"""Backtests: the very same scan steps replayed over stored candles into a store of their own, and the report on it.

No theory, decision, gate, fill or statistic belongs here; whatever judges a live scan judges a replayed one.
"""

from __future__ import annotations

from v7_pipeline.backtest.comparison import Baseline, RandomEntry, Simulation, Trials
from v7_pipeline.backtest.engine import simulate
from v7_pipeline.backtest.figures import Figures, Material, figures
from v7_pipeline.backtest.market import StoredMarket
from v7_pipeline.backtest.page import as_json, html, write_report
from v7_pipeline.backtest.prepared import Prepared, prepare
from v7_pipeline.backtest.replay import BacktestError, BacktestResult, backtest_id, replay
from v7_pipeline.backtest.report import Report, markdown, report
from v7_pipeline.backtest.run import Configuration, Made, run_backtest
from v7_pipeline.backtest.target import material
from v7_pipeline.backtest.verdict import Verdict, verdict

__all__ = [
    "BacktestError",
    "BacktestResult",
    "Baseline",
    "Configuration",
    "Figures",
    "Made",
    "Material",
    "Prepared",
    "RandomEntry",
    "Report",
    "Simulation",
    "StoredMarket",
    "Trials",
    "Verdict",
    "as_json",
    "backtest_id",
    "figures",
    "html",
    "markdown",
    "material",
    "prepare",
    "replay",
    "report",
    "run_backtest",
    "simulate",
    "verdict",
    "write_report",
]
