"""Simulated markets with known truth: which theories know something, and how much; everything else is noise.

Votes last for hours, labels overlap, three symbols move together, plans are skewed, and the side follows the votes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.learning.frames import EPOCH

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
STEP = 10  # minutes from one scan to the next
HORIZON = 24  # steps until the time stop: 240 minutes
STOP, REWARD = 2.0, 1.5  # the stop in deviations of a step's return, and the target ÷ the stop
TOGETHER = 0.7  # correlation of the symbols' returns, and of a theory's readings of them
COST_R = 0.02


def planted_market(
    seed: int, *, scans: int = 3000, informed: Mapping[int, float] | None = None, holds: bool = True
) -> pd.DataFrame:
    """Performance rows, as attribution takes them, of `scans` scans of three symbols.

    `informed`: theory number → drift of a symbol's return, in its deviations a step, where that theory votes up (and
    minus that where down). Scans on which fewer than six votes agree are HOLDs: both sides are followed (not, without
    `holds`, where only the trades taken are). Deterministic for a seed.
    """
    rng = np.random.default_rng(seed)
    names = len(SYMBOLS)
    steps = scans + HORIZON
    memory = np.exp(-1 / rng.uniform(6, 48, size=10))  # a vote lasts for one to eight hours
    noise = _together(rng, (steps, 10))
    latent = np.empty_like(noise)  # symbols × steps × theories
    latent[:, 0] = noise[:, 0]
    for t in range(1, steps):
        latent[:, t] = memory * latent[:, t - 1] + np.sqrt(1 - memory**2) * noise[:, t]
    votes = np.sign(latent) * (np.abs(latent) > 0.4)
    drift = sum((size * votes[:, :, j] for j, size in (informed or {}).items()), np.zeros(votes.shape[:2]))
    returns = drift + _together(rng, (steps, 1))[:, :, 0]
    agreed = votes[:, :scans].sum(axis=2)
    frames = []
    for s in range(names):
        path = np.concatenate([[0.0], np.cumsum(returns[s])])
        for side in (1, -1):
            taken = np.sign(agreed[s]) == side
            followed = (np.abs(agreed[s]) < 3) | taken if holds else taken
            at = np.flatnonzero(followed)
            gross, length = _barriers(path, at, side)
            frames.append((s, side, at, gross, length, votes[s, at]))
    return _rows(frames)


def _together(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    common, own = rng.normal(size=shape), rng.normal(size=(len(SYMBOLS), *shape))
    return np.sqrt(TOGETHER) * common + np.sqrt(1 - TOGETHER) * own


def _barriers(path: np.ndarray, at: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Gross return in the side's direction and length in steps: target, stop or the horizon, whichever is first."""
    ahead = side * (path[at[:, None] + np.arange(1, HORIZON + 1)] - path[at][:, None])
    hit = (ahead >= STOP * REWARD) | (ahead <= -STOP)
    hit[:, -1] = True
    last = hit.argmax(axis=1)
    left = ahead[np.arange(len(at)), last]
    return np.where(left >= STOP * REWARD, STOP * REWARD, np.maximum(left, -STOP)), last + 1


def _rows(frames: list[tuple[int, int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    symbol = np.concatenate([np.full(len(f[2]), SYMBOLS[f[0]], dtype=object) for f in frames])
    side = np.concatenate([np.full(len(f[2]), f[1]) for f in frames])
    at, gross, length = (np.concatenate([f[i] for f in frames]) for i in (2, 3, 4))
    votes = np.concatenate([f[5] for f in frames])
    fees = COST_R * STOP
    unit = 0.001  # a deviation as a share of the price
    net = (gross - fees) * unit
    long = side * gross
    entry = EPOCH + pd.to_timedelta(at * STEP, unit="min")
    trades = pd.DataFrame(
        {
            "signal_id": [f"v7-{i:06d}" for i in range(len(at))],
            "kind": "shadow",
            "symbol": symbol,
            "side": np.where(side > 0, "BUY", "SELL"),
            "entry_time": entry,
            "exit_time": entry + pd.to_timedelta(length * STEP - 1, unit="min"),
            "gross_return": gross * unit,
            "fees": fees * unit,
            "net_return": net,
            "r_multiple": net / (STOP * unit),
            "outcome": np.where(net > 0, "win", "loss"),
            "forward_return": np.sign(long) * np.maximum(np.abs(long) - fees, 0) * unit,
        }
    )
    rows = trades.loc[np.repeat(np.arange(len(trades)), 10)].reset_index(drop=True)
    rows["theory_name"] = list(THEORY_NAMES) * len(trades)
    rows["vote"], rows["contribution_score"] = votes.ravel(), np.abs(votes.ravel())
    return rows
