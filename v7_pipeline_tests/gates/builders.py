"""Small accounts for the gates tests: closed and open positions, and the candles that price them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.gates import AccountState, account_state, rules

MINUTE = timedelta(minutes=1)
TWO_STEP = rules("ftmo-2step-challenge")
ONE_STEP = rules("ftmo-1step")


def at(text: str) -> datetime:
    """An instant such as 2026-11-20T23:30Z."""
    return datetime.fromisoformat(text).astimezone(UTC)


def position(
    entry_time: datetime,
    *,
    side: str = "BUY",
    quantity: float = 1.0,
    entry: float = 100_000.0,
    exit_time: datetime | None = None,
    exit_price: float | None = None,
    stop: float | None = None,
    worst: float | None = 0.0,
    fee: float | None = 0.0,
    symbol: str = "BTC-USD",
    signal_id: str | None = None,
) -> dict[str, Any]:
    """One position; fee 0 a side unless said, None for the rule set's commission."""
    return {
        "signal_id": signal_id or f"{symbol}-{side}-{entry_time.isoformat()}-{entry}-{quantity}", "symbol": symbol,
        "side": side, "quantity": quantity, "entry_price": entry, "entry_time": entry_time, "exit_price": exit_price,
        "exit_time": exit_time, "stop_price": stop, "worst_case_usd": worst, "entry_fee_usd": fee,
        "exit_fee_usd": fee if exit_time is not None or fee is None else None,
    }  # fmt: skip


def closed(amount: float, when: datetime, *, opened: datetime | None = None) -> dict[str, Any]:
    """A position that was closed with exactly `amount` USD at `when`, in a symbol that no candle prices."""
    return position(opened or when, exit_time=when, exit_price=100_000.0 + amount, symbol="DONE-USD")


def book(*rows: dict[str, Any]) -> pd.DataFrame:
    """Positions as a frame with proper types."""
    columns = list(position(at("2026-01-01T00:00Z")))
    frame = pd.DataFrame(list(rows), columns=columns)
    for name in ("entry_time", "exit_time"):
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    for name in (
        "quantity",
        "entry_price",
        "exit_price",
        "stop_price",
        "worst_case_usd",
        "entry_fee_usd",
        "exit_fee_usd",
    ):
        frame[name] = frame[name].astype("float64")
    return frame


def prices(*rows: tuple[datetime, float, float, float], symbol: str = "BTC-USD") -> pd.DataFrame:
    """Candles from (open_time, high, low, close)."""
    frame = pd.DataFrame(list(rows), columns=["open_time", "high", "low", "close"])
    frame["open_time"] = pd.to_datetime(frame["open_time"], utc=True).astype("datetime64[us, UTC]")
    return frame.assign(symbol=symbol, open=frame["close"]).astype({"high": float, "low": float, "close": float})


def flat(price: float, *times: datetime, symbol: str = "BTC-USD") -> pd.DataFrame:
    """Candles that stand still at `price`."""
    return prices(*((time, price, price, price) for time in times), symbol=symbol)


def state(
    positions: pd.DataFrame, as_of: datetime, candles: pd.DataFrame | None = None, **changes: Any
) -> AccountState:
    """The account of a two-step challenge over 100,000, unless said otherwise."""
    given = {"initial_usd": 100_000.0, "rules": TWO_STEP, **changes}
    return account_state(positions, prices() if candles is None else candles, as_of=as_of, **given)


def walk(
    seed: int, start: datetime, minutes: int, *, first: float = 100.0, sigma: float = 0.001, symbol: str = "BTC-USD"
) -> pd.DataFrame:
    """A seeded random walk of candles."""
    rng = np.random.default_rng(seed)
    close = first * np.exp(np.cumsum(rng.normal(0, sigma, minutes)))
    opened = np.concatenate([[first], close[:-1]])
    high = np.maximum(opened, close) * (1 + np.abs(rng.normal(0, sigma / 2, minutes)))
    low = np.minimum(opened, close) * (1 - np.abs(rng.normal(0, sigma / 2, minutes)))
    time = pd.date_range(start, periods=minutes, freq="min").astype("datetime64[us, UTC]")
    return pd.DataFrame({"symbol": symbol, "open_time": time, "open": opened, "high": high, "low": low, "close": close})
