"""Price paths for the tests of the theories: dense grids of simulated and recorded candles. No assertions here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline_tests.shared_data import needs_shared

__all__ = ["FILTERED", "START", "clustered", "fractional_noise", "grid_of", "recorded", "walk"]

START = datetime(2024, 3, 9, 22, 17, tzinfo=UTC)
#: Theories with infinite memory: live equals backfill to 1e-9, not to the bit.
FILTERED = ("p_bear", "p_sideways", "p_bull", "market_regime", "kalman")


def grid_of(close: Any, *, observed: Any = None, symbol: str = "BTC-USD", start: datetime = START) -> pd.DataFrame:
    """A dense grid of these closes; all observed unless told."""
    close = np.asarray(close, float)
    times = pd.date_range(start, periods=close.size, freq="min").as_unit("us")
    observed = np.ones(close.size, bool) if observed is None else np.asarray(observed, bool)
    frame = dict.fromkeys(("open", "high", "low", "close"), close)
    return pd.DataFrame({"symbol": symbol, "open_time": times, **frame, "volume": 1.0 * observed, "observed": observed})


def walk(seed: int, n: int, *, scale: float = 1e-4, quiet: float = 0.0) -> np.ndarray:
    """Closes of a driftless Gaussian random walk with a share of quiet minutes."""
    rng = np.random.default_rng(seed)
    return 100 * np.exp(np.cumsum(scale * rng.standard_normal(n) * (rng.random(n) >= quiet)))


def clustered(seed: int, n: int) -> np.ndarray:
    """Closes with fat-tailed returns whose volatility wanders."""
    rng = np.random.default_rng(seed)
    volatility = 3e-4 * np.exp(0.05 * np.cumsum(rng.standard_normal(n)) - 0.02 * np.arange(n) ** 0.5)
    return 100 * np.exp(np.cumsum(volatility * rng.standard_t(4, n)))


def fractional_noise(rng: np.random.Generator, hurst: float, n: int) -> np.ndarray:
    """Fractional Gaussian noise of unit variance (Davies & Harte)."""
    i = np.arange(n + 1.0)
    covariance = 0.5 * (np.abs(i - 1) ** (2 * hurst) - 2 * i ** (2 * hurst) + (i + 1) ** (2 * hurst))
    eigenvalues = np.fft.fft(np.concatenate([covariance, covariance[-2:0:-1]])).real.clip(0)
    m = eigenvalues.size
    noise = rng.standard_normal(m) + 1j * rng.standard_normal(m)
    return np.fft.fft(np.sqrt(eigenvalues / m) * noise).real[:n]


def recorded(symbol: str, start: str, end: str) -> pd.DataFrame:
    """The recorded candles of start ≤ open_time < end as a dense grid; skips where they are absent."""
    raw = pd.read_parquet(needs_shared(f"candles/{symbol}_1m.parquet")).drop_duplicates("ts").set_index("ts")
    times = pd.date_range(start, end, freq="min", inclusive="left", tz="UTC").as_unit("us")
    close = raw["close"].reindex(times)
    return grid_of(close.ffill(), observed=close.notna(), symbol=symbol, start=times[0].to_pydatetime())
