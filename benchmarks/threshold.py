"""How the learnt confidence threshold treats simulated analysts: the figures of docs/learning.md.

    python benchmarks/threshold.py [--lost 100] [--steady 200] [--every 5] [--workers 2]

Break-even is 40 %, the floor 0.55, confidences are spread evenly over 0.55 … 0.9 and say nothing; the threshold is
learnt anew after `--every` closed trades. `--lost` analysts win 50 %, 20 % for 200 trades, and 50 % again; `--steady`
analysts win 50 % of 1,000 trades, and as many 45 %. Each figure has its n and a 95 % interval (Wilson's; of a median
the ranks that hold it). Seeds are fixed, so that the same numbers come again. Seven minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from scipy.stats import binom

from v7_pipeline.learning.statistics import wilson
from v7_pipeline_tests.learning.analysts import LOST_AND_REGAINED, Floats, came_back, lived, muted_after


def main() -> None:
    """Simulate and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lost", type=int, default=100)
    options.add_argument("--steady", type=int, default=200)
    options.add_argument("--every", type=int, default=5)
    options.add_argument("--workers", type=int, default=2)
    chosen = options.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}; every {chosen.every}")
    began = time.perf_counter()
    with ProcessPoolExecutor(chosen.workers) as pool:

        def refused(rates: Floats, seeds: Iterable[int]) -> list[Floats]:
            return list(pool.map(partial(_lived, rates, chosen.every), seeds))

        lost(refused(LOST_AND_REGAINED, range(chosen.lost)))
        for place, rate in enumerate((0.5, 0.45), 1):
            first = 10_000 * place
            steady(rate, refused(np.full(1000, rate), range(first, first + chosen.steady)))
    print(f"\n{time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.1f}")


def lost(found: list[Floats]) -> None:
    """Analysts whose edge went and came back."""
    after = np.array([muted_after(one) for one in found])
    told = np.sort(after[~np.isnan(after)])
    print(f"\n50 % of wins, 20 % for 200 trades, 50 % for 300; {len(found)} runs")
    print(f"  muted (20 refused in a row while losing): {_share(len(told), len(found))}")
    if len(told):
        ranks = binom.ppf([0.025, 0.975], len(told), 0.5).astype(int).clip(0, len(told) - 1)
        low, high = told[ranks]
        print(f"  after: {np.median(told):.0f} trades in the median (95 % in {low:.0f} … {high:.0f}, n = {len(told)})")
    print(
        f"  back (over 90 % of the last 100 pass, 200 after the edge): {_share(sum(map(came_back, found)), len(found))}"
    )


def steady(rate: float, found: list[Floats]) -> None:
    """Analysts who win at one rate all along."""
    shares = np.array([one.mean() for one in found])
    error = 1.96 * shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
    print(f"\n{rate:.0%} of wins where 40 % break even, 1,000 trades; {len(found)} runs")
    print(f"  refused anything: {_share(int((shares > 0).sum()), len(found))}")
    print(f"  of all signals refused: {shares.mean():.2%} (95 % ± {error:.2%} over {len(found)} runs)")


def _lived(rates: Floats, every: int, seed: int) -> Floats:
    return lived(rates, seed, every)


def _share(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{hits} of {n} = {hits / n:.1%} (95 % in {low:.1%} … {high:.1%})"


if __name__ == "__main__":
    main()
