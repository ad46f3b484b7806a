"""Technical indicators on one- and five-minute candles: what the earlier system looked at, kept as a baseline.

What is decided on them is a strategy's business; what they are worth, the backtest's.
"""

from __future__ import annotations

from v7_pipeline.indicators.technical import COLUMNS, FEATURES, WARM_UP, indicators

__all__ = ["COLUMNS", "FEATURES", "WARM_UP", "indicators"]
