"""Makes random_walk.npz: each statistic on driftless random walks with three kinds of steps, by share of quiet minutes.

Run `python -m v7_pipeline.theories.nulls.simulate`; same seed, same file. Nothing here runs in a scan.

Steps: Gaussian; Student's t with 4 degrees of freedom; and Gaussian under stochastic volatility, whose logarithm is the
sum of two first-order autoregressions of standard deviation .4 with memories of 30 and 720 minutes (kurtosis about
11). A minute is quiet by chance, independently of the others. The three have equal weight in every table: a statistic's
null must not depend on the kind, and what dependence there is goes through the table's reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW, WINDOWS
from v7_pipeline.theories import price_momentum, registry
from v7_pipeline.theories.base import Bars, Floats
from v7_pipeline.theories.nulls import ABOUT, FILE, SHARE_UNITS, checksum

__all__ = ["KNOTS", "LEVELS", "STEPS", "distribution", "simulate", "walk", "write"]

LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
SEED = 20240607
CHUNK = 100_000
CHUNKS = 30  # of each kind of step, at each share of quiet minutes
THIN = 24  # every so many minutes: windows that overlap more tell little new
KNOTS = 81
#: Windows are spread over these shares of the readings' distribution; each table stands at its windows' mean reading.
BINS = (0.0, 0.04, 0.14, 0.28, 0.42, 0.58, 0.72, 0.86, 0.96, 1.0)
MEMORIES = (30.0, 720.0)
DEVIATION = 0.4

# These change sign with the mirrored path, so their null is symmetric about 0 and is made exactly so.
SIGNED = ("market_regime", "risk_metrics", "kalman_filter", "price_momentum")
# Filters: no window but the headline's scale.
UNWINDOWED = ("market_regime", "kalman_filter")
# Given its reading, the share of quiet minutes does not matter.
ONE_LEVEL = ("market_regime",)
# These depend so much on the share of quiet minutes that only windows whose own share is this near a level count.
EXACT_SHARE = {"kolmogorov_complexity": 0.01, "shannon_entropy": 0.01}
# Where a statistic takes long: every so many chunks only.
SPARSE = {("kolmogorov_complexity", 1440): 10}
# Momentum's place is closed form; its simulated null is there to be compared with it.
STATISTICS: tuple[Any, ...] = (*registry.SIMULATED_NULLS, price_momentum)


def _clustered(rng: np.random.Generator, n: int) -> Floats:
    from scipy.signal import lfilter

    logarithm = np.zeros(n)
    for memory in MEMORIES:
        keep = np.exp(-1 / memory)
        shocks = rng.standard_normal(n) * (DEVIATION * np.sqrt(1 - keep**2))
        shocks[0] = rng.standard_normal() * DEVIATION
        logarithm += lfilter([1.0], [1.0, -keep], shocks)
    return np.exp(logarithm) * rng.standard_normal(n)


#: The kinds of steps: (generator, number) → unscaled returns.
STEPS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "gaussian": lambda rng, n: rng.standard_normal(n),
    "t4": lambda rng, n: rng.standard_t(4, n),
    "clustered": _clustered,
}


def walk(kind: str, rng: np.random.Generator, quiet: float, n: int) -> Floats:
    """n closes of a driftless walk with these steps; a share `quiet` of them repeats the close before."""
    steps = STEPS[kind](rng, n) * (rng.random(n) >= quiet)
    # Equal closes give exactly zero returns, as quiet minutes do.
    return 100 * np.exp(1e-6 * np.cumsum(steps))


def distribution(sample: Floats) -> tuple[float, float, npt.NDArray[np.uint16]]:
    """(low, step, shares) of a sample: its mid-rank distribution function at KNOTS equally spaced values from two and a
    half times as far below the median as the 5 % quantile lies to as far above it, in units of 1/SHARE_UNITS."""
    ordered = np.sort(sample)
    below, middle, above = np.quantile(ordered, (0.05, 0.5, 0.95))
    low = max(middle - 2.5 * (middle - below), ordered[0])
    high = min(middle + 2.5 * (above - middle), ordered[-1])
    low, step = (float(f"{x:.7g}") for x in (low, (high - low) / (KNOTS - 1)))  # the same on every machine
    values, counts = np.unique(ordered, return_counts=True)
    mid_ranks = (np.cumsum(counts) - 0.5 * counts) / ordered.size
    shares = np.interp(low + step * np.arange(KNOTS), values, mid_ranks)
    return low, step, np.rint(shares * SHARE_UNITS).astype(np.uint16)


def _symmetric(sample: Floats) -> tuple[float, float, npt.NDArray[np.uint16]]:
    low, step, shares = distribution(np.concatenate([sample, -sample]))
    step = float(f"{-2 * low / (KNOTS - 1):.7g}")
    half = KNOTS // 2
    shares[half] = SHARE_UNITS // 2
    shares[half + 1 :] = SHARE_UNITS - shares[:half][::-1]
    return -half * step, step, shares


def _table(name: str, samples: list[tuple[Floats, Floats]], readings: bool) -> dict[str, npt.NDArray[Any]]:
    """A theory's table from (statistic, reading) at each level."""
    cells: list[list[tuple[float, float, npt.NDArray[np.uint16]]]] = []
    nodes: list[list[float]] = []
    for statistic, reading in samples:
        edges = np.quantile(reading, BINS) if readings else np.array([-np.inf, np.inf])
        bins = np.clip(np.searchsorted(edges, reading, side="right") - 1, 0, edges.size - 2)
        make = _symmetric if name in SIGNED else distribution
        cells.append([make(statistic[bins == i]) for i in range(edges.size - 1)])
        nodes.append([float(f"{reading[bins == i].mean():.7g}") for i in range(edges.size - 1)])
    return {
        "readings": np.array(nodes),
        "low": np.array([[cell[0] for cell in row] for row in cells]),
        "step": np.array([[cell[1] for cell in row] for row in cells]),
        "shares": np.array([[cell[2] for cell in row] for row in cells]),
    }


def _statistics(
    bars: Bars, quiet: float, chunk: int, windows: tuple[int, ...]
) -> dict[tuple[str, int], tuple[Floats, Floats]]:
    found = {}
    for entry in STATISTICS:
        windowed = entry.NAME not in UNWINDOWED
        for w in windows if windowed else (HEADLINE_WINDOW,):
            if chunk % SPARSE.get((entry.NAME, w), 1):
                continue
            arguments = (bars, w) if windowed else (bars,)
            value = entry.statistic(*arguments)[::THIN]
            reading = entry.reading(*arguments)[::THIN] if hasattr(entry, "reading") else np.zeros(value.size)
            near = np.abs(bars.quiet_share(w)[::THIN] - quiet) <= EXACT_SHARE.get(entry.NAME, 1.0)
            known = ~np.isnan(value) & near
            found[entry.NAME, w] = (value[known], reading[known])
    return found


def simulate(
    *, seed: int = SEED, chunks: int = CHUNKS, chunk: int = CHUNK, windows: tuple[int, ...] = WINDOWS
) -> dict[str, npt.NDArray[Any]]:
    """The file's arrays: <theory>_<window>_<field of NullTable>, shares in units of 1/SHARE_UNITS."""
    samples: dict[tuple[str, int], list[list[tuple[Floats, Floats]]]] = {}
    for level, quiet in enumerate(LEVELS):
        for number, kind in enumerate(STEPS):
            for i in range(chunks):
                rng = np.random.default_rng([seed, level, number, i])
                look_back = 2 * max(*windows, 1000)
                close = walk(kind, rng, quiet, chunk + look_back)
                bars = Bars(close, np.ones(close.size, bool), 0, look_back, windows, 0.0)
                for key, sample in _statistics(bars, quiet, i, windows).items():
                    samples.setdefault(key, [[] for _ in LEVELS])[level].append(sample)
    result: dict[str, npt.NDArray[Any]] = {}
    for (name, w), by_level in samples.items():
        groups = [[part for parts in by_level for part in parts]] if name in ONE_LEVEL else by_level
        pooled = [(np.concatenate([s for s, _ in group]), np.concatenate([r for _, r in group])) for group in groups]
        readings = bool(np.ptp(pooled[0][1]) > 0)
        result[f"{name}_{w}_levels"] = np.array(LEVELS[:1] if name in ONE_LEVEL else LEVELS)
        result |= {f"{name}_{w}_{field}": array for field, array in _table(name, pooled, readings).items()}
    return result


def write(folder: Path) -> None:
    """Simulate and write FILE and ABOUT into the folder."""
    arrays: dict[str, Any] = simulate()
    np.savez_compressed(folder / FILE, **arrays)
    about = {
        "made_by": "python -m v7_pipeline.theories.nulls.simulate",
        "seed": SEED,
        "steps": list(STEPS),
        "quiet_shares": LEVELS,
        "minutes_of_each": CHUNK * CHUNKS,
        "sha256": checksum(arrays),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
