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
AGREE = 3  # the votes' sum from which on the side is taken


def planted_market(
    seed: int, *, scans: int = 3000, informed: Mapping[int, float] | None = None, holds: bool = True, apart: int = 30
) -> pd.DataFrame:
    """Performance rows, as attribution takes them, of `scans` scans of three symbols.

    `informed`: theory number → drift of a symbol's return, in its deviations a step, where that theory votes up (and
    minus that where down). Scans whose votes sum to less than three are HOLDs; both sides of the first in each `apart`
    minutes are there (not without `holds`: then only what was traded is). Deterministic for a seed.
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
        for side in (1, -1, 0):
            taken = np.sign(agreed[s]) == side
            at = np.flatnonzero((np.abs(agreed[s]) < AGREE) if side == 0 else (np.abs(agreed[s]) >= AGREE) & taken)
            if side == 0:
                at = at[np.unique(at * STEP // apart, return_index=True)[1]]
            if holds or side:
                frames.append(_rows(s, side, at, votes[s, at], *_barriers(path, at, 1), *_barriers(path, at, -1)))
    trades = pd.concat(frames, ignore_index=True)
    trades["signal_id"] = [f"v7-{i:06d}" for i in range(len(trades))]
    rows = trades.loc[np.repeat(np.arange(len(trades)), 10)].reset_index(drop=True)
    rows["theory_name"] = list(THEORY_NAMES) * len(trades)
    spoken = np.concatenate(trades.pop("votes").to_list())
    rows["vote"], rows["contribution_score"] = spoken, np.abs(spoken)
    return rows.drop(columns="votes")


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


def _rows(
    symbol: int,
    side: int,
    at: np.ndarray,
    votes: np.ndarray,
    bought: np.ndarray,
    bought_for: np.ndarray,
    sold: np.ndarray,
    sold_for: np.ndarray,
) -> pd.DataFrame:
    """Trades of one symbol and side (0: HOLDs, of which both sides were followed), `votes` a list a row."""
    fees, unit = COST_R * STOP, 0.001  # a deviation as a share of the price
    gross = bought if side > 0 else sold
    net = (gross - fees) * unit
    long = side * gross
    long_r, short_r = (bought - fees) / STOP, (sold - fees) / STOP
    paid = (long_r > 0).astype(int) - (short_r > 0)
    length = (bought_for, sold_for)[side < 0] if side else np.maximum(bought_for, sold_for)
    entry = EPOCH + pd.to_timedelta(at * STEP, unit="min")
    held = np.full(len(at), np.nan)
    return pd.DataFrame(
        {
            "kind": "shadow",
            "symbol": SYMBOLS[symbol],
            "side": {1: "BUY", -1: "SELL", 0: "HOLD"}[side],
            "entry_time": entry,
            "exit_time": entry + pd.to_timedelta(length * STEP - 1, unit="min"),
            "gross_return": gross * unit if side else held,
            "fees": fees * unit if side else held,
            "net_return": net if side else held,
            "r_multiple": net / (STOP * unit) if side else held,
            "outcome": np.where(net > 0, "win", "loss") if side else "",
            "long_r": held if side else long_r,
            "short_r": held if side else short_r,
            "forward_return": (np.sign(long) * np.maximum(np.abs(long) - fees, 0) if side
                               else paid * np.where(paid > 0, long_r, short_r) * STOP) * unit,
            "votes": list(votes),
        }
    )  # fmt: skip
