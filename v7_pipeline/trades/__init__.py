"""Trades: sizing, barriers, fees, P&L and the paper book, as pure functions of frames.

Whether a signal may be traded is the gates' business; what was learnt from it is learning's.
"""

from __future__ import annotations

from v7_pipeline.trades.barriers import OUTCOME_COLUMNS, can_be_followed, follow
from v7_pipeline.trades.fees import FEE_PRESETS, FeePreset, fee_preset
from v7_pipeline.trades.paper import POSITION_COLUMNS, pending_risk_usd, positions
from v7_pipeline.trades.plans import default_plans
from v7_pipeline.trades.single import one_at_a_time
from v7_pipeline.trades.sizing import SIZE_COLUMNS, Product, Sized, size, size_signals

__all__ = [
    "FEE_PRESETS",
    "OUTCOME_COLUMNS",
    "POSITION_COLUMNS",
    "SIZE_COLUMNS",
    "FeePreset",
    "Product",
    "Sized",
    "can_be_followed",
    "default_plans",
    "fee_preset",
    "follow",
    "one_at_a_time",
    "pending_risk_usd",
    "positions",
    "size",
    "size_signals",
]
