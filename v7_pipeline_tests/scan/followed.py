"""A store of signals, readings and candles that a test writes as facts, and scans that only follow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.scan.context import StepResult, persist
from v7_pipeline.scan.follow import follow_signals
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store import arrow_rows, conform
from v7_pipeline.store.schema import THEORY_NAMES, table
from v7_pipeline_tests.scan.watched import MARKS, put

__all__ = ["MINUTE", "SYMBOL", "T0", "put_candles", "put_signal", "scan", "signal_id_at", "tables"]

MINUTE = timedelta(minutes=1)
T0 = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SYMBOL = "BTC-USD"
DERIVED = ("outcomes", "theory_performance", "win_rates")


def signal_id_at(minute: int, symbol: str = SYMBOL) -> str:
    return f"v7-{symbol}-{T0 + minute * MINUTE:%Y%m%dT%H%M%SZ}"


def put_candles(
    runtime: Runtime, rows: Mapping[int, Sequence[float]], *, fetched: datetime | None = None, symbol: str = SYMBOL
) -> None:
    """Candles by minute after T0 (open, high, low, close); received as they closed, or all at `fetched`."""
    minutes = sorted(rows)
    frame = pd.DataFrame([rows[minute] for minute in minutes], columns=["open", "high", "low", "close"], dtype=float)
    times = pd.DatetimeIndex([T0 + minute * MINUTE for minute in minutes])
    frame = frame.assign(symbol=symbol, open_time=times, volume=1.0, venue="sandbox")
    frame["fetched_at"] = times + MINUTE if fetched is None else pd.Timestamp(fetched)
    with runtime.store.transaction() as tx:
        tx.upsert("candles", conform("candles", frame, MARKS))


def put_signal(
    runtime: Runtime,
    minute: int,
    side: str,
    *,
    price: float = 100.0,
    accepted: bool = False,
    vote: float = 0.5,
    status: str = "answered",
) -> str:
    """A decision with its gates and its reading; BUY and SELL plan a stop 1 and a target 2 away, within 10 minutes."""
    at, key, sign = T0 + minute * MINUTE, signal_id_at(minute), {"BUY": 1, "SELL": -1, "HOLD": 0}[side]
    who = {"signal_id": key, "as_of": at, "symbol": SYMBOL, "strategy": "v7"}
    votes = {f"{t}_vote": vote * (-1) ** place for place, t in enumerate(THEORY_NAMES)}
    scores = {f"{theory}_score": 0.25 for theory in THEORY_NAMES}
    put(
        runtime, "theory_features", symbol=SYMBOL, as_of=at, observed_share=1.0, volatility_240=0.002, **votes, **scores
    )  # fmt: skip
    plan = {} if side == "HOLD" else {
        "entry_price": price, "stop_price": price - sign, "target_price": price + 2 * sign, "horizon_minutes": 10,
    }  # fmt: skip
    put(
        runtime, "llm_signals", **who, features_as_of=at, decided_at=at, analyst="rules", confidence=0.6,
        side=side if status == "answered" else None, market_price=price, status=status, **plan,
    )  # fmt: skip
    put(
        runtime, "gated_signals", **who, side=side, accepted=accepted, freshness_ok=True, halt_ok=True, budget_ok=True,
        gate_inputs="{}", gates_off="", reason_codes="" if accepted else side, quantity=2.0 if accepted else None,
    )  # fmt: skip
    return key


def scan(runtime: Runtime, minute: int, *, at: datetime | None = None) -> StepResult:
    """The scan of that minute as far as it follows: its row finished, its clock five seconds later or at `at`."""
    as_of = T0 + minute * MINUTE
    clock: Any = runtime.clock
    clock.now = at or as_of + timedelta(seconds=5)
    result = follow_signals(runtime.context(as_of, f"scan-{minute}"))
    persist(runtime.store, result)
    row = dict.fromkeys(table("scans").column_names) | MARKS | {
        "as_of": as_of, "started_at": clock.now, "finished_at": clock.now + timedelta(seconds=1), "symbols": SYMBOL,
        "status": "finished", "failures": "{}",
    }  # fmt: skip
    with runtime.store.transaction() as tx:
        tx.upsert("scans", arrow_rows("scans", [row]))
    return result


def tables(
    runtime: Runtime, *names: str, without: Sequence[str] = ("run_id", "labelled_at")
) -> dict[str, pd.DataFrame]:
    """Every row of `names` (default: all that follow_signals derives), by key, without the marks of the run."""
    return {
        name: runtime.store.read(name).drop(columns=[*without], errors="ignore").sort_values(
            list(table(name).key), ignore_index=True
        )
        for name in names or DERIVED
    }  # fmt: skip
