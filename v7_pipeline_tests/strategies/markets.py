"""Candles to walk forward over: seeded walks with bursts of volatility, quiet minutes and, where told, trends."""

from __future__ import annotations

import numpy as np
import pandas as pd

START = pd.Timestamp("2024-01-01", tz="UTC")


def walk(
    days: int, *, seed: int = 3, symbol: str = "BTC-USD", start: pd.Timestamp = START, trend: float = 0.0
) -> pd.DataFrame:
    """One-minute candles with clustered volatility around 40,000; one minute in fifty has no trade.

    `trend`: what drifts for six hours up or down, in standard deviations of a minute; 0 is a martingale.
    """
    rng = np.random.default_rng(seed)
    n = days * 1440
    level = 5e-4 * np.exp(0.6 * np.repeat(rng.normal(size=n // 360 + 1), 360)[:n])
    drift = trend * np.repeat(rng.choice([-1.0, 1.0], n // 360 + 1), 360)[:n]
    steps = (rng.normal(size=(n, 4)) + drift[:, None] / 2) * level[:, None] / 2
    prices = np.round(40_000.0 * np.exp(np.cumsum(steps, axis=None)).reshape(n, 4), 2)
    frame = pd.DataFrame(
        {
            "symbol": symbol,
            "open_time": pd.date_range(start, periods=n, freq="min"),
            "open": prices[:, 0],
            "high": prices.max(axis=1),
            "low": prices.min(axis=1),
            "close": prices[:, 3],
            "volume": 1.0,
        }
    )
    return frame[rng.random(n) > 0.02].reset_index(drop=True)


def mirrored(candles: pd.DataFrame) -> pd.DataFrame:
    """The same market upside down: every price reflected about the first one."""
    twice = 2 * float(candles["open"].iloc[0])
    return candles.assign(
        open=twice - candles["open"],
        close=twice - candles["close"],
        high=twice - candles["low"],
        low=twice - candles["high"],
    )
