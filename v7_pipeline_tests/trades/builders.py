"""Small frames for the trades tests: candles from rows of prices, and one trade with sensible defaults."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

T0 = datetime(2023, 12, 11, 2, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LATER = T0 + timedelta(days=30)


def candles(rows: Sequence[Sequence[float]], *, symbol: str = "BTC-USD", start: datetime = T0) -> pd.DataFrame:
    """One candle a minute from `start`; each row is open, high, low, close."""
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close"], dtype="float64")
    return frame.assign(symbol=symbol, open_time=pd.date_range(start, periods=len(rows), freq="min"))


def trade(**changes: Any) -> pd.DataFrame:
    """A BUY of 2 units at 100 with stop 99, target 102 and 60 minutes, signalled at T0."""
    row = {
        "signal_id": "v7-BTC-USD-20231211T020000Z", "kind": "paper", "as_of": T0, "symbol": "BTC-USD", "strategy": "v7",
        "side": "BUY", "entry_price": 100.0, "stop_price": 99.0, "target_price": 102.0, "horizon_minutes": 60,
        "quantity": 2.0,
    }  # fmt: skip
    return pd.DataFrame([{**row, **changes}])


def short(**changes: Any) -> pd.DataFrame:
    """The same trade upside down: a SELL at 100 with stop 101 and target 98."""
    return trade(**{"side": "SELL", "stop_price": 101.0, "target_price": 98.0, **changes})
