"""What each theory has been worth over closed outcomes: association, counterfactual worth, and their doubt.

Association is tested by block permutation, worth is the exact Shapley value of a fixed vote combiner.
Neither says anything of what an analyst would have answered without a theory. Nothing here acts on its
findings.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.frames import instants, one_source, require, utc
from v7_pipeline.learning.performance import long_gross
from v7_pipeline.learning.statistics import (
    average_uniqueness,
    benjamini_hochberg,
    correlation_interval,
    empirical_bayes_shrinkage,
    shapley,
    wilson,
)
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["attribution", "coalition_values"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_NEEDED = (
    "signal_id", "theory_name", "symbol", "vote", "forward_return",
    "side", "entry_time", "exit_time", "gross_return", "fees",
)  # fmt: skip
_COLUMNS = (
    "as_of", "theory_name", "scope", "n", "n_eff", "accuracy", "accuracy_lower", "accuracy_upper",
    "shrunk_accuracy", "ic", "ic_lower", "ic_upper", "shapley", "p_value", "q_value", "verdict",
)  # fmt: skip
_FALSE_DISCOVERY_RATE = 0.05
_CHUNK = 4096  # rows × 1,024 coalitions held at once: 32 MB


def attribution(
    performance: pd.DataFrame, *, as_of: datetime, min_effective_n: float, permutations: int = 999
) -> pd.DataFrame:
    """The theory_attribution rows (without provenance) of `as_of`: ten for `all` and ten for each symbol.

    `performance` has theory_performance rows joined with their trade (`with_trades`); those whose exit
    candle ended after `as_of` do not count. In each scope, w being a trade's average uniqueness among the
    scope's trades:

    - n, n_eff: votes cast, and their summed w. Overlap across symbols counts too: their prices move together.
    - accuracy: w-weighted share of votes with the sign of forward_return, with Wilson's interval at n_eff;
      shrunk_accuracy shrinks the ten towards their pool.
    - ic: Spearman correlation of vote and forward_return over votes cast; interval at n_eff. Descriptive: a
      plan's uneven reward and risk skews the returns of each side.
    - shapley: exact value in `coalition_values`' game, over all the scope's trades.
    - p_value: twice the smaller tail; the accuracy against that of block-permuted votes. Votes are permuted
      among trades of one symbol **and side**: the plan's reward:risk makes one side's sign likelier, and a
      vote that merely agrees with the side taken must not earn or lose by it. Blocks are as long as trades
      overlap. Ten votes move together. The seed derives from `as_of`, so that a rerun repeats it.
    - q_value: Benjamini–Hochberg over the ten (a silent theory counts as p = 1).
    - verdict: `too few` where n_eff < min_effective_n; at q ≤ 0.05 `helps` or `hurts`, by whether accuracy
      exceeds the permuted mean; else `indistinguishable`.

    No outcomes: the scope `all` with n = 0. Raises ValueError on a missing column, a naive instant, mixed
    sources, or a trade that has not all ten theories.
    """
    require(performance, _NEEDED, "performance rows")
    one_source(performance)
    instant = utc(as_of)
    known = performance[instants(performance["exit_time"]) + timedelta(minutes=1) <= instant]
    trades, votes = _wide(known)
    seed = int(instant.timestamp())
    parts = [_scope("all", trades, votes, min_effective_n, permutations, seed)]
    for number, symbol in enumerate(sorted(trades["symbol"].unique()), start=1):
        own = (trades["symbol"] == symbol).to_numpy()
        parts.append(_scope(symbol, trades[own], votes[own], min_effective_n, permutations, seed + number))
    result = pd.concat(parts, ignore_index=True)
    result.insert(0, "as_of", pd.Series([instant] * len(result)).astype("datetime64[us, UTC]"))
    return result[list(_COLUMNS)]


def coalition_values(votes: Floats, gross: Floats, fees: Floats, weights: Floats) -> Floats:
    """Worth of each coalition of theories: the weighted mean net return of trading by its votes alone.

    Coalition c (set bits are members) goes long where its votes sum above 0, short below, and stays out at
    0, which earns 0: d · gross − |d| · fees, averaged over all trades. `votes` is trades × theories, `gross`
    the long side's gross return. Returns 2^theories values; the first, the empty coalition's, is 0.
    """
    players = votes.shape[1]
    members = (np.arange(1 << players) >> np.arange(players)[:, None] & 1).astype(float)
    total = np.zeros(1 << players)
    for start in range(0, len(votes), _CHUNK):
        part = slice(start, start + _CHUNK)
        sums = votes[part] @ members
        direction = np.sign(np.where(np.abs(sums) < 1e-9, 0.0, sums))  # opposite votes cancel despite rounding
        total += (weights[part] * gross[part]) @ direction - (weights[part] * fees[part]) @ np.abs(direction)
    return np.asarray(total / weights.sum()) if len(votes) else total


def _wide(performance: pd.DataFrame) -> tuple[pd.DataFrame, Floats]:
    """One row for each trade in entry order, and its ten votes in the registry's order."""
    votes = performance.pivot(index="signal_id", columns="theory_name", values="vote")
    votes = votes.reindex(columns=list(THEORY_NAMES)).astype(float)
    incomplete = votes.index[votes.isna().any(axis=1)]
    if len(incomplete):
        raise ValueError(f"signal {incomplete[0]} has not all ten theories in theory_performance; write them again")
    trades = performance.drop_duplicates("signal_id").sort_values(["entry_time", "symbol", "signal_id"])
    trades = trades.reset_index(drop=True)
    return trades, votes.loc[trades["signal_id"]].to_numpy()


def _scope(
    scope: str, trades: pd.DataFrame, votes: Floats, min_effective_n: float, permutations: int, seed: int
) -> pd.DataFrame:
    minute = pd.Timedelta(minutes=1)
    start = (instants(trades["entry_time"]) - pd.Timestamp(0, tz="UTC")) / minute
    end = (instants(trades["exit_time"]) - pd.Timestamp(0, tz="UTC")) / minute + 1
    start, end = start.to_numpy(dtype=float), end.to_numpy(dtype=float)
    weights = average_uniqueness(start, end)
    forward = trades["forward_return"].to_numpy(dtype=float)
    signs, outcome = np.sign(votes), np.sign(forward)
    spoke = signs != 0
    n_eff = weights @ spoke
    right = weights @ ((signs == outcome[:, None]) & spoke)
    accuracy = _ratio(right, n_eff)
    null = _permuted_accuracy(signs, outcome, weights, _blocks(trades, start, end), permutations, seed)
    p, centre = _two_sided(accuracy, null)
    q = benjamini_hochberg(np.where(np.isnan(p), 1.0, p))
    worth = shapley(coalition_values(votes, long_gross(trades).to_numpy(), trades["fees"].to_numpy(float), weights))
    rows = []
    for j, theory in enumerate(THEORY_NAMES):
        lower, upper = wilson(right[j], n_eff[j])
        ic = _spearman(votes[spoke[:, j], j], forward[spoke[:, j]])
        ic_lower, ic_upper = correlation_interval(ic, n_eff[j])
        rows.append(
            {
                "theory_name": theory,
                "scope": scope,
                "n": int(spoke[:, j].sum()),
                "n_eff": float(n_eff[j]),
                "accuracy": accuracy[j],
                "accuracy_lower": lower,
                "accuracy_upper": upper,
                "ic": ic,
                "ic_lower": ic_lower,
                "ic_upper": ic_upper,
                "shapley": worth[j] if len(trades) else np.nan,
                "p_value": p[j],
                "q_value": np.nan if np.isnan(p[j]) else q[j],
                "verdict": _verdict(n_eff[j], min_effective_n, q[j], accuracy[j] - centre[j]),
            }
        )
    frame = pd.DataFrame(rows)
    frame["shrunk_accuracy"] = empirical_bayes_shrinkage(right, n_eff).rates
    return frame


def _verdict(n_eff: float, least: float, q: float, difference: float) -> str:
    if n_eff < least:
        return "too few"
    if q > _FALSE_DISCOVERY_RATE:
        return "indistinguishable"
    return "helps" if difference > 0 else "hurts"


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _spearman(x: Floats, y: Floats) -> float:
    """Rank correlation, ties at their mean rank; NaN where either does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    ranks = pd.DataFrame({"x": x, "y": y}).rank()
    return float(ranks["x"].corr(ranks["y"]))


def _two_sided(observed: Floats, null: Floats) -> tuple[Floats, Floats]:
    """Twice the smaller tail's p, the observation counted among the permuted ones; and the permuted mean.

    Tails rather than distances from the mean: accuracies lie on a lattice, where a distance is decided by
    rounding.
    """
    tails = ((null >= observed - 1e-12).sum(axis=0), (null <= observed + 1e-12).sum(axis=0))
    p = np.minimum(1.0, 2 * (1 + np.minimum(*tails)) / (1 + len(null)))
    return np.where(np.isnan(observed), np.nan, p), null.mean(axis=0)


def _blocks(trades: pd.DataFrame, start: Floats, end: Floats) -> list[tuple[Integers, int]]:
    """Rows of each symbol and side in entry order, with the most of them that one trade reaches over."""
    strata: list[tuple[Integers, int]] = []
    for rows in trades.groupby(["symbol", "side"], sort=True).indices.values():
        began = start[rows]
        reach = np.searchsorted(began, end[rows], side="left") - np.arange(len(rows))
        strata.append((np.asarray(rows, dtype=np.int64), int(reach.max())))
    return strata


def _permuted_accuracy(
    signs: Floats,
    outcome: Floats,
    weights: Floats,
    strata: list[tuple[Integers, int]],
    permutations: int,
    seed: int,
) -> Floats:
    """Weighted accuracies (permutations × theories) with returns shuffled in blocks within each stratum."""
    rng = np.random.default_rng(seed)
    bull, bear = (signs > 0).astype(float), (signs < 0).astype(float)
    up, down = weights * (outcome > 0), weights * (outcome < 0)
    parts = []
    step = max(1, 2_000_000 // max(1, len(signs)))
    for first in range(0, permutations, step):
        count = min(step, permutations - first)
        order = np.empty((count, len(signs)), dtype=np.int64)
        for rows, block in strata:
            order[:, rows] = rows[_block_orders(len(rows), block, count, rng)]
        parts.append(_ratio(up[order] @ bull + down[order] @ bear, weights[order] @ (bull + bear)))
    return np.concatenate(parts)


def _block_orders(n: int, block: int, count: int, rng: np.random.Generator) -> Integers:
    """`count` random orders of range(n) that keep `block` neighbours; each cuts the ring elsewhere."""
    blocks = -(-n // block)
    shuffled = rng.permuted(np.tile(np.arange(blocks), (count, 1)), axis=1)
    places: Any = (shuffled[:, :, None] * block + np.arange(block)).reshape(count, -1)
    places = places[places < n].reshape(count, n)
    return np.asarray((places + rng.integers(0, n, size=(count, 1))) % n, dtype=np.int64)
