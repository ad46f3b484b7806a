"""What each theory has been worth over closed outcomes: association, counterfactual worth, and their doubt.

Association is tested by block permutation, worth is the exact Shapley value of the rules' combiner. Neither says
anything of what a language model would have answered without a theory. Nothing here acts on its findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.blocks import time_blocks
from v7_pipeline.learning.correlation import rank_correlation
from v7_pipeline.learning.frames import instants, one_source, require, utc
from v7_pipeline.learning.game import Combiner, coalition_values
from v7_pipeline.learning.permutation import step_down
from v7_pipeline.learning.statistics import (
    average_uniqueness,
    benjamini_hochberg,
    empirical_bayes_shrinkage,
    shapley,
    wilson,
)
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["VERDICTS", "Attribution", "attribution", "warm_up"]

Floats = npt.NDArray[np.float64]

VERDICTS = ("helps", "hurts", "indistinguishable", "too few")

_NEEDED = (
    "signal_id", "kind", "theory_name", "symbol", "vote", "contribution_score", "forward_return",
    "side", "entry_time", "exit_time", "gross_return", "fees", "net_return", "r_multiple", "outcome",
)  # fmt: skip
_COLUMNS = (
    "as_of", "theory_name", "scope", "n", "n_eff", "accuracy", "accuracy_lower", "accuracy_upper",
    "shrunk_accuracy", "ic", "ic_lower", "ic_upper", "shapley", "p_value", "q_value", "verdict",
    "holm_p", "icir", "icir_lower", "icir_upper", "contribution_wins", "contribution_losses",
    "drift", "drift_lower", "drift_upper", "drift_p",
)  # fmt: skip
_FAMILY_WISE_ERROR = 0.05
_MINUTE = 60_000_000  # µs


@dataclass(frozen=True)
class Attribution:
    """`rows`: theory_attribution's without provenance. `evidence`: for the scope `all`, what weights.py asks for."""

    rows: pd.DataFrame
    evidence: pd.DataFrame


@dataclass(frozen=True)
class _Trades:
    """Trades in entry order as arrays; `votes` and `scores` are trades × theories, `start` and `end` in minutes."""

    symbol: npt.NDArray[np.object_]
    side: npt.NDArray[np.object_]
    regime: npt.NDArray[np.object_]
    start: Floats
    end: Floats
    forward: Floats
    long_r: Floats
    short_r: Floats
    won: npt.NDArray[np.bool_]
    lost: npt.NDArray[np.bool_]
    votes: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.start)

    def where(self, mask: npt.NDArray[np.bool_]) -> _Trades:
        return replace(self, **{name: getattr(self, name)[mask] for name in self.__dataclass_fields__})


def attribution(
    performance: pd.DataFrame,
    *,
    as_of: datetime,
    min_effective_n: float,
    combiner: Combiner | None = None,
    divided_by: Sequence[str] = ("symbol", "side", "regime"),
    permutations: int = 999,
    resamples: int = 999,
    threads: int = 2,
) -> Attribution:
    """The theory_attribution rows of `as_of`: ten for `all`, and for each symbol:…, side:… and regime:… there is.

    `performance` has theory_performance rows joined with their trade (`with_trades`), and may have `regime`, a word
    for the market at the signal; those whose exit candle ended after `as_of` do not count. A HOLD is one trade of side
    HOLD until its later exit: `long_r` and `short_r` are what its sides came to, forward_return the net return of the
    one side that paid, long-positive (0: none did, or both). Without HOLDs all figures are conditional on what was
    traded. In each scope, w being a trade's average uniqueness among the scope's trades:

    - n, n_eff: votes cast, and their summed w. Overlap across symbols counts too: their prices move together.
    - accuracy: w-weighted share of votes with the sign of forward_return, with Wilson's interval at n_eff;
      shrunk_accuracy shrinks the ten towards their pool. drift: the accuracy of the later half (by w) less that of
      the earlier, with Newcombe's interval (1998, method 10) and a two-proportion p, both at n_eff.
    - ic, icir: rank correlation of vote and forward_return over votes cast, and mean ÷ standard deviation of those
      of blocks, with circular block-bootstrap intervals (`rank_correlation`). Descriptive: a plan's uneven reward and
      risk skews the returns of each side.
    - contribution_wins, contribution_losses: w-weighted mean score in trades that won and in those that lost.
    - shapley: exact value, in R a trade, in `coalition_values`' game of `combiner` over all the scope's trades. A
      trade's opposite is taken to gain what it lost before costs: it would have had barriers of its own.
    - p_value: block-permutation p of the direction (`direction`, `permutation_p`): how much more often right than
      wrong, beyond what the side taken explains. The seed derives from `as_of`, so that a rerun repeats it.
    - holm_p, q_value: Holm and Benjamini–Hochberg over the ten (a theory without p counts as p = 1).
    - verdict: `too few` where n_eff < min_effective_n or time has too few blocks for a p; at holm_p ≤ 0.05 `helps` or
      `hurts`; else `indistinguishable`. Holm, so that in a scope any false name at all has a chance of 5 %. Scopes
      are not corrected for one another: `all` is the question, the others describe.

    No outcomes: the scope `all` with n = 0. Raises ValueError on a missing column, a naive instant, mixed sources, or
    a trade that has not all ten theories.
    """
    require(performance, _NEEDED, "performance rows")
    one_source(performance)
    instant = utc(as_of)
    known = performance[instants(performance["exit_time"]) + timedelta(minutes=1) <= instant]
    trades = _wide(known)
    rule = combiner or Combiner()
    seed = int(instant.timestamp())
    parts = []
    for number, (scope, own) in enumerate(_scopes(trades, divided_by)):
        parts.append(_scope(scope, own, min_effective_n, rule, permutations, resamples, seed + number, threads))
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "as_of", pd.Series([instant] * len(rows)).astype("datetime64[us, UTC]"))
    evidence = rows.loc[rows["scope"] == "all", ["theory_name", "n_eff", "accuracy", "expected_accuracy", "holm_p"]]
    return Attribution(rows[list(_COLUMNS)], evidence)


def _wide(performance: pd.DataFrame) -> _Trades:
    """One entry for each trade in entry order, with its ten votes and scores in the registry's order."""
    kinds, names = pd.factorize(performance["kind"])
    codes, _ = pd.factorize(performance["signal_id"])
    codes, _ = pd.factorize(codes * max(1, len(names)) + kinds)
    ten = len(THEORY_NAMES)
    theory = pd.Index(THEORY_NAMES).get_indexer(performance["theory_name"])
    place = codes * ten + theory
    count = int(codes.max(initial=-1)) + 1
    times = np.bincount(place[theory >= 0], minlength=count * ten)
    incomplete = np.flatnonzero((times.reshape(count, ten) != 1).any(axis=1))
    if len(incomplete) or (theory < 0).any():
        row = int(np.flatnonzero(codes == incomplete[0])[0] if len(incomplete) else np.flatnonzero(theory < 0)[0])
        signal = performance["signal_id"].iloc[row]
        raise ValueError(f"signal {signal} has not all ten theories once in theory_performance; write them again")
    votes, scores = np.empty(count * ten), np.empty(count * ten)
    votes[place] = performance["vote"].to_numpy(float)
    scores[place] = performance["contribution_score"].to_numpy(float)
    first = np.empty(count, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    trades = performance.iloc[first].reset_index(drop=True)
    order = trades.sort_values(["entry_time", "symbol", "signal_id", "kind"]).index.to_numpy()
    trades = trades.iloc[order]
    votes, scores = votes.reshape(count, ten)[order], scores.reshape(count, ten)[order]
    long_r, short_r = _both_sides(trades)
    regime = trades["regime"] if "regime" in trades else pd.Series([None] * count, dtype=object)
    return _Trades(
        symbol=trades["symbol"].to_numpy(object),
        side=trades["side"].to_numpy(object),
        regime=regime.to_numpy(object),
        start=instants(trades["entry_time"]).astype("int64").to_numpy() / _MINUTE,
        end=instants(trades["exit_time"]).astype("int64").to_numpy() / _MINUTE + 1,  # the exit candle belongs to it
        forward=trades["forward_return"].to_numpy(float),
        long_r=long_r,
        short_r=short_r,
        won=(trades["outcome"] == "win").to_numpy(bool),
        lost=(trades["outcome"] == "loss").to_numpy(bool),
        votes=votes,
        scores=scores,
    )


def _both_sides(trades: pd.DataFrame) -> tuple[Floats, Floats]:
    """What a BUY and a SELL of each trade came to, in R after costs: followed for a HOLD, inferred for the other side
    of what was traded.
    """
    sign = trades["side"].map({"BUY": 1.0, "SELL": -1.0, "HOLD": 0.0}).to_numpy(float)
    if np.isnan(sign).any():
        raise ValueError(f"side {trades['side'].iloc[int(np.isnan(sign).argmax())]!r} is none of BUY, SELL and HOLD")
    gross, fees = trades["gross_return"].to_numpy(float) * sign, trades["fees"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        # The planned risk, as a share of the entry. A net return of exactly 0 does not tell it.
        risk = trades["net_return"].to_numpy(float) / trades["r_multiple"].to_numpy(float)
        risk[~(risk > 0)] = np.nan
        long_r, short_r = (gross - fees) / risk, (-gross - fees) / risk
    held = sign == 0
    if held.any():
        require(trades, ("long_r", "short_r"), "performance rows of HOLDs")
        long_r[held], short_r[held] = (trades[name].to_numpy(float)[held] for name in ("long_r", "short_r"))
    return long_r, short_r


def _scopes(trades: _Trades, divided_by: Sequence[str]) -> Iterator[tuple[str, _Trades]]:
    yield "all", trades
    for name in divided_by:
        column = getattr(trades, name)
        for value in sorted({value for value in column if isinstance(value, str)}):
            yield f"{name}:{value}", trades.where(column == value)


def _scope(
    scope: str,
    trades: _Trades,
    least: float,
    combiner: Combiner,
    permutations: int,
    resamples: int,
    seed: int,
    threads: int,
) -> pd.DataFrame:
    weights = average_uniqueness(trades.start, trades.end)
    signs, outcome = np.sign(trades.votes), np.sign(trades.forward)
    spoke = signs != 0
    hits = (signs == outcome[:, None]) & spoke
    n_eff, right = weights @ spoke, weights @ hits
    accuracy = _ratio(right, n_eff)
    blocks = time_blocks(trades.start, trades.end)
    tested = step_down(
        signs,
        outcome,
        weights,
        _codes(trades.symbol),
        _codes(trades.side),
        trades.start,
        trades.end,
        blocks,
        eligible=n_eff >= least,
        level=_FAMILY_WISE_ERROR,
        permutations=permutations,
        seed=seed,
        threads=threads,
    )
    p, family = (np.where(n_eff > 0, figures, np.nan) for figures in (tested.p, tested.holm))
    list_wise = np.where(np.isnan(p), np.nan, benjamini_hochberg(np.where(np.isnan(p), 1.0, p)))
    voices = trades.votes * trades.scores
    worth = shapley(coalition_values(voices, trades.long_r, trades.short_r, weights, combiner, threads=threads))
    ranks = rank_correlation(trades.votes, trades.forward, blocks, resamples=resamples, seed=seed)
    intervals = np.array([wilson(k, n) for k, n in zip(right, n_eff, strict=True)])
    drift = _drift(hits, spoke, weights)
    scores = {
        name: _ratio((weights * mask) @ trades.scores, np.full(len(n_eff), (weights * mask).sum()))
        for name, mask in (("contribution_wins", trades.won), ("contribution_losses", trades.lost))
    }
    return pd.DataFrame(
        {
            "theory_name": list(THEORY_NAMES),
            "scope": scope,
            "n": spoke.sum(axis=0),
            "n_eff": n_eff,
            "accuracy": accuracy,
            "accuracy_lower": intervals[:, 0],
            "accuracy_upper": intervals[:, 1],
            "shrunk_accuracy": empirical_bayes_shrinkage(right, n_eff).rates,
            "expected_accuracy": accuracy - _ratio(tested.excess, 2 * n_eff),
            **{name: [getattr(each, name) for each in ranks] for name in ranks[0].__dataclass_fields__},
            "shapley": worth,
            "p_value": p,
            "q_value": list_wise,
            "holm_p": family,
            "verdict": [
                _verdict(*figures, least)
                for figures in zip(n_eff.tolist(), family.tolist(), tested.excess, strict=True)
            ],
            **scores,
            **drift,
        }
    )


def _verdict(n_eff: float, p: float, excess: float, least: float) -> str:
    if n_eff < least or np.isnan(p):
        return "too few"
    if p > _FAMILY_WISE_ERROR:
        return "indistinguishable"
    return "helps" if excess > 0 else "hurts"


def _drift(hits: npt.NDArray[np.bool_], spoke: npt.NDArray[np.bool_], weights: Floats) -> dict[str, Floats]:
    """Accuracy of the later half less that of the earlier: difference, interval and p for each theory."""
    late = np.cumsum(weights) > weights.sum() / 2
    n = [weights[half] @ spoke[half] for half in (~late, late)]
    k = [weights[half] @ hits[half] for half in (~late, late)]
    columns = {name: np.full(spoke.shape[1], np.nan) for name in ("drift", "drift_lower", "drift_upper", "drift_p")}
    for j in range(spoke.shape[1]):
        if min(n[0][j], n[1][j]) >= 1:
            figures = _difference(k[1][j], n[1][j], k[0][j], n[0][j])
            for column, figure in zip(columns.values(), figures, strict=True):
                column[j] = figure
    return columns


def _difference(k1: float, n1: float, k2: float, n2: float) -> tuple[float, float, float, float]:
    """k1/n1 − k2/n2 with Newcombe's hybrid score interval (1998, method 10) and the pooled z-test's two-sided p."""
    p1, p2 = min(k1 / n1, 1.0), min(k2 / n2, 1.0)
    (l1, u1), (l2, u2) = wilson(k1, n1), wilson(k2, n2)
    pooled = min((k1 + k2) / (n1 + n2), 1.0)
    error = sqrt(max(pooled * (1 - pooled), 0.0) * (1 / n1 + 1 / n2))
    p = 2 * NormalDist().cdf(-abs(p1 - p2) / error) if error > 0 else 1.0
    return p1 - p2, p1 - p2 - sqrt((p1 - l1) ** 2 + (u2 - p2) ** 2), p1 - p2 + sqrt((u1 - p1) ** 2 + (p2 - l2) ** 2), p


def _codes(labels: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    return np.asarray(pd.factorize(labels, sort=True)[0], dtype=np.int64)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def warm_up() -> None:
    """Compile the loops, or load them from the cache: each has one signature, compiled with its module."""
    from v7_pipeline.learning import kernels  # noqa: F401
