"""Frames of outcomes and votes made for the learning tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.store.frames import conform, to_arrow
from v7_pipeline.store.schema import THEORY_NAMES, table

EPOCH = pd.Timestamp("2023-12-11T00:00:00Z")


def outcome(number: int, **changes: Any) -> dict[str, Any]:
    """One closed, winning paper BUY entered at minute `number`·10 and left five minutes later."""
    as_of = EPOCH + pd.Timedelta(minutes=10 * number)
    row: dict[str, Any] = {
        "signal_id": f"v7-BTC-USD-{as_of:%Y%m%dT%H%M%SZ}",
        "kind": "paper",
        "as_of": as_of,
        "symbol": "BTC-USD",
        "strategy": "v7",
        "side": "BUY",
        "entry_time": as_of,
        "entry_price": 100.0,
        "exit_time": as_of + pd.Timedelta(minutes=5),
        "exit_price": 101.0,
        "exit_reason": "target",
        "ambiguous": False,
        "gross_return": 0.01,
        "fees": 0.001,
        "net_return": 0.009,
        "r_multiple": 0.9,
        "quantity": 1.0,
        "pnl_usd": 0.9,
        "outcome": "win",
        "tier": "HIGH",
        "source": "live",
    }
    return row | changes


def outcomes(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(outcome(0)))


def check_stored(frame: pd.DataFrame, name: str) -> None:
    """`frame` has the table's columns in order, provenance apart, and the store takes it as it is."""
    marked = frame.assign(source="live", run_id="r", code_version="1")
    assert list(marked.columns) == list(table(name).column_names)
    to_arrow(table(name), conform(name, marked))


def features_of(closed: pd.DataFrame, votes: np.ndarray, scores: np.ndarray | None = None) -> pd.DataFrame:
    frame = pd.DataFrame({"signal_id": closed["signal_id"].to_numpy()})
    for j, theory in enumerate(THEORY_NAMES):
        frame[f"{theory}_vote"] = votes[:, j]
        frame[f"{theory}_score"] = np.abs(votes[:, j]) if scores is None else scores[:, j]
    return frame


def simulated_trades(
    n: int, seed: int, *, informed: dict[int, float] | None = None, overlap: int = 1
) -> tuple[pd.DataFrame, np.ndarray]:
    """n outcomes on two symbols over noise, and ten random votes.

    Theory j of `informed` knows the market's sign with that probability. The side taken follows the votes' sum;
    60 % lose 1 and 40 % win 1.5, as a plan with reward:risk of 1.5 does on a driftless market.
    """
    rng = np.random.default_rng(seed)
    votes = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=(n, 10))
    side = np.where(votes.sum(axis=1) + rng.normal(0, 1e-3, n) > 0, 1.0, -1.0)
    gross = np.where(rng.random(n) < 0.4, 0.015, -0.01)
    market = side * gross
    for j, skill in (informed or {}).items():
        votes[:, j] = np.sign(market) * np.where(rng.random(n) < skill, 1.0, -1.0)
    rows = []
    for i in range(n):
        as_of = EPOCH + pd.Timedelta(minutes=10 * i)
        rows.append(
            outcome(
                i,
                signal_id=f"v7-{i:06d}",
                symbol=("BTC-USD", "ETH-USD")[i % 2],
                side="BUY" if side[i] > 0 else "SELL",
                exit_time=as_of + pd.Timedelta(minutes=10 * overlap - 1),
                gross_return=gross[i],
                fees=0.0006,
                net_return=gross[i] - 0.0006,
                r_multiple=(gross[i] - 0.0006) / 0.01,
                outcome="win" if gross[i] > 0 else "loss",
            )
        )
    return outcomes(rows), votes
