"""Makes random_walk.npz: each headline statistic on driftless Gaussian random walks, by share of
quiet minutes.

Run `python -m v7_pipeline.theories.nulls.simulate`; same seed, same file. Nothing here runs in a scan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories import registry
from v7_pipeline.theories.base import FILTER_MEMORY, Bars, Floats
from v7_pipeline.theories.nulls import FILE

__all__ = ["LEVELS", "knots_of", "simulate"]

LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
SEED = 20240607
CHUNK = 100_000
CHUNKS = 12
KNOTS = 121
# These change sign with the mirrored path, so their null is symmetric about 0 and is made exactly so.
SIGNED = ("market_regime", "risk_metrics", "kalman_filter")


def _walk(rng: np.random.Generator, quiet: float, n: int) -> Bars:
    steps = rng.standard_normal(n) * (rng.random(n) >= quiet)
    close = 100 * np.exp(1e-6 * np.cumsum(steps))
    # Equal closes give exactly zero returns, as quiet minutes do.
    return Bars(close, np.ones(n, bool), 0, HEADLINE_WINDOW + FILTER_MEMORY, (HEADLINE_WINDOW,), 0.0)


def knots_of(sample: Floats) -> tuple[Floats, Floats]:
    """KNOTS values of a sample, dense in the tails, and their mid-rank distribution function; both ascending."""
    ordered = np.sort(sample[~np.isnan(sample)])
    values = np.unique(ordered)
    if values.size > KNOTS:
        at = np.sin(np.linspace(0, np.pi / 2, KNOTS)) ** 2
        values = np.unique(np.quantile(ordered, at, method="inverted_cdf"))
    below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    shares = (below + upto) / (2 * ordered.size)
    pad = KNOTS - values.size  # the last knot again: never reached by an interpolation
    return np.pad(values, (0, pad), mode="edge"), np.pad(shares, (0, pad), mode="edge")


def simulate(*, seed: int = SEED, chunks: int = CHUNKS, chunk: int = CHUNK) -> dict[str, Floats]:
    """The file's arrays: levels (Q), and <theory>_knots and <theory>_shares (Q × KNOTS)."""
    rng = np.random.default_rng(seed)
    tables: dict[str, list[Floats]] = {}
    for quiet in LEVELS:
        samples: dict[str, list[Floats]] = {}
        for _ in range(chunks):
            bars = _walk(rng, quiet, chunk)
            for entry in registry.SIMULATED_NULLS:
                samples.setdefault(entry.NAME, []).append(entry.statistic(bars))
        for name, parts in samples.items():
            sample = np.concatenate(parts)
            if name in SIGNED:
                sample = np.concatenate([sample, -sample])
            values, shares = knots_of(sample)
            tables.setdefault(f"{name}_knots", []).append(values)
            tables.setdefault(f"{name}_shares", []).append(shares)
    result: dict[str, Any] = {"levels": np.array(LEVELS)}
    return result | {name: np.array(rows) for name, rows in tables.items()}


if __name__ == "__main__":
    arrays: dict[str, Any] = simulate()
    np.savez_compressed(Path(__file__).with_name(FILE), **arrays)
