"""The six assets of a scan, one file each, on one set of daily partitions; and the backtest's, which has none."""

from __future__ import annotations

import dagster as dg

from v7_pipeline.orchestration.assets.backtest_report import build_backtest_report
from v7_pipeline.orchestration.assets.candles import build_candles
from v7_pipeline.orchestration.assets.gated_signals import build_gated_signals
from v7_pipeline.orchestration.assets.llm_signals import build_llm_signals
from v7_pipeline.orchestration.assets.outcomes import build_outcomes
from v7_pipeline.orchestration.assets.theory_attribution import build_theory_attribution
from v7_pipeline.orchestration.assets.theory_features import build_theory_features

__all__ = ["build_assets"]


def build_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Fresh asset definitions in the graph's order, the backtest's last."""
    return [
        build_candles(partitions),
        build_theory_features(partitions),
        build_llm_signals(partitions),
        build_gated_signals(partitions),
        build_outcomes(partitions),
        build_theory_attribution(partitions),
        build_backtest_report(),
    ]
