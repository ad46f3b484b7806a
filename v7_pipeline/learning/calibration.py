"""Calibration of a confidence: proper scores and their parts, reliability bins, recalibration on the past only.

Arrays and frames of forecasts and results; whose forecasts they are, and pictures, do not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import nan
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.frames import closed_before, instants, one_source, require, trade_weights
from v7_pipeline.learning.statistics import Floats, mean_interval, wilson

__all__ = [
    "Bin",
    "Brier",
    "Calibration",
    "brier",
    "calibration",
    "calibration_rows",
    "expected_calibration_error",
    "fit_isotonic",
    "fit_platt",
    "log_loss",
    "logistic_recalibration",
    "prequential",
    "reliability_bins",
]

Method = Literal["platt", "isotonic"]

BIN_WIDTH = 0.05
#: Fewer results than this and a curve of steps fits their noise: a line in log-odds is fitted instead
#: (Niculescu-Mizil & Caruana 2005).
ISOTONIC_FROM = 1000
_CLIP = 1e-6  # a confidence of 0 or 1 that was wrong would cost infinitely much
_COLUMNS = (
    "as_of", "scope", "n", "n_eff", "brier", "reliability", "resolution", "uncertainty", "log_loss", "ece", "skill",
    "slope", "intercept", "method", "recalibrated_brier", "bins",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Brier:
    """The mean squared error of probabilities and its parts: score = reliability − resolution + uncertainty + within.

    `within` is what unequal forecasts inside a bin add (Stephenson, Coelho & Jolliffe 2008); 0 where all are equal.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Forecasts in [lower, upper): their mean, the share that came true with its 95 % Wilson interval at n_eff."""

    lower: float
    upper: float
    n: int
    n_eff: float
    confidence: float
    rate: float
    rate_lower: float
    rate_upper: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How one scope's confidences compare with what came of them. NaN and words where there is too little.

    skill: 1 − Brier score ÷ that of the past's win rate, with a 95 % interval. slope and intercept of the results'
    log-odds on the confidence's: 1 and 0 where calibrated. recalibrated_brier: of confidences recalibrated on the past
    of each. `words` says what may be concluded.
    """

    scope: str
    n: int
    n_eff: float
    base_rate: float
    mean_confidence: float
    brier: Brier
    log_loss: float
    ece: float
    skill: float
    skill_lower: float
    skill_upper: float
    slope: float
    intercept: float
    method: str
    recalibrated_brier: float
    bins: tuple[Bin, ...]
    words: str


def brier(
    happened: npt.ArrayLike, forecast: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, bins: bool = False
) -> Brier:
    """The Brier score (Brier 1950) with Murphy's parts (Murphy 1973, J. Appl. Meteor. 12, 595).

    happened: 0 or 1; forecast: probabilities. Grouped by equal forecasts, or with `bins` by bins of 0.05. NaN for no
    forecasts. Raises ValueError on anything else than 0 or 1, or a forecast outside 0 … 1.
    """
    y, p, w = _checked(happened, forecast, weights)
    if not len(y):
        return Brier(nan, nan, nan, nan, nan)
    total, base = w.sum(), float(w @ y / w.sum())
    score = float(w @ (p - y) ** 2 / total)
    _, group = np.unique(_places(p) if bins else p, return_inverse=True)
    weight = np.bincount(group, w)
    mean_p, mean_y = np.bincount(group, w * p) / weight, np.bincount(group, w * y) / weight
    reliability = float(weight @ (mean_p - mean_y) ** 2 / total)
    resolution = float(weight @ (mean_y - base) ** 2 / total)
    uncertainty = base * (1 - base)
    return Brier(score, reliability, resolution, uncertainty, score - reliability + resolution - uncertainty)


def log_loss(happened: npt.ArrayLike, forecast: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Mean −ln of the probability given to what happened, in nats; forecasts stay 1e-6 from 0 and 1. NaN for none."""
    y, p, w = _checked(happened, forecast, weights)
    if not len(y):
        return nan
    p = np.clip(p, _CLIP, 1 - _CLIP)
    return float(-(w @ (y * np.log(p) + (1 - y) * np.log1p(-p))) / w.sum())


def reliability_bins(
    happened: npt.ArrayLike, forecast: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[Bin, ...]:
    """The bins of 0.05 that hold a forecast, lowest first; the last one includes 1."""
    y, p, w = _checked(happened, forecast, weights)
    place = _places(p)
    found = []
    for k in np.unique(place):
        inside = place == k
        weight, won = float(w[inside].sum()), float((w * y)[inside].sum())
        lower, upper = wilson(min(won, weight), weight)
        mean = float((w * p)[inside].sum() / weight)
        ends = (round(k * BIN_WIDTH, 2), round((k + 1) * BIN_WIDTH, 2))
        found.append(Bin(*ends, int(inside.sum()), weight, mean, won / weight, lower, upper))
    return tuple(found)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean distance of confidence and rate over the bins by their weight (Naeini et al. 2015); NaN without a bin.

    It is above 0 by chance alone, the more so the fewer forecasts a bin has.
    """
    if not bins:
        return nan
    weight = np.array([one.n_eff for one in bins])
    return float(weight @ np.array([abs(one.confidence - one.rate) for one in bins]) / weight.sum())


def logistic_recalibration(
    happened: npt.ArrayLike, forecast: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, ridge: float = 1.0
) -> tuple[float, float]:
    """Intercept and slope of the results' log-odds on the forecast's (Cox 1958); 0 and 1 where calibrated.

    Penalised by ridge/2 · (intercept² + (slope − 1)²): a few results do not move it far, and results of one kind only,
    or equal forecasts, leave it finite. Newton's method; the objective is strictly convex.
    """
    y, p, w = _checked(happened, forecast, weights)
    x = np.column_stack([np.ones(len(p)), _log_odds(p)])
    target = np.array([0.0, 1.0])
    fitted = target.copy()
    for _ in range(100):
        mean = _logistic(x @ fitted)
        gradient = x.T @ (w * (mean - y)) + ridge * (fitted - target)
        curvature = (x.T * (w * mean * (1 - mean))) @ x + ridge * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        fitted = fitted - np.clip(step, -2.0, 2.0)  # a full step may overshoot where nearly all won
        if np.abs(step).max() < 1e-10:
            break
    return float(fitted[0]), float(fitted[1])


def fit_platt(
    happened: npt.ArrayLike, forecast: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Callable[[npt.ArrayLike], Floats]:
    """A line in log-odds (Platt 1999, on a probability's log-odds) as a map of forecasts.

    A falling line would turn the confidence upside down; it is held level, so that the map says the rate at best.
    """
    intercept, slope = logistic_recalibration(happened, forecast, weights)
    if slope < 0:
        y, _, w = _checked(happened, forecast, weights)
        rate = float((w @ y + 1) / (w.sum() + 2))
        intercept, slope = float(_log_odds(np.array([rate]))[0]), 0.0
    return lambda x: _logistic(intercept + slope * _log_odds(np.asarray(x, dtype=float)))


def fit_isotonic(
    happened: npt.ArrayLike, forecast: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Callable[[npt.ArrayLike], Floats]:
    """The rising steps nearest to the results (pool adjacent violators), as a map of forecasts.

    Equal forecasts are one point; between points it is linear, beyond them level. Raises ValueError without results.
    """
    y, p, w = _checked(happened, forecast, weights)
    if not len(y):
        raise ValueError("an isotonic map needs at least one result")
    from scipy.optimize import isotonic_regression

    points, group = np.unique(p, return_inverse=True)
    weight = np.bincount(group, w)
    steps = np.clip(isotonic_regression(np.bincount(group, w * y) / weight, weights=weight).x, 0.0, 1.0)
    return lambda x: np.interp(np.asarray(x, dtype=float), points, steps)


def prequential(frame: pd.DataFrame, *, method: Method | None, least: int = 30) -> Floats:
    """Each confidence recalibrated by a map fitted on results that were closed before it was given (Dawid 1984).

    frame: as_of (when it was given), exit_time, won (0 or 1), confidence. `method` None: the past's win rate instead,
    with one win and one loss added. NaN where fewer than `least` results were known. A map is fitted again when a
    twentieth more results have come in. Unweighted: how long trades overlap was not known then.
    """
    given = instants(frame["as_of"]).astype("int64").to_numpy()
    closed = (instants(frame["exit_time"]) + timedelta(minutes=1)).astype("int64").to_numpy()
    y, p = frame["won"].to_numpy(dtype=float), frame["confidence"].to_numpy(dtype=float)
    order = np.argsort(closed, kind="stable")
    known = np.searchsorted(closed[order], given, side="right")  # results closed by each instant
    wins = np.concatenate([[0.0], np.cumsum(y[order])])
    if method is None:
        return np.where(known >= least, (wins[known] + 1) / (known + 2), nan)
    out = np.full(len(frame), nan)
    start = least
    while start <= len(frame):
        until = max(start + 1, int(start * 1.05))
        # The map of the first `start` results serves every confidence given while fewer than `until` were known.
        served = (known >= start) & (known < until)
        if served.any():
            fit = fit_isotonic if method == "isotonic" else fit_platt
            out[served] = fit(y[order[:start]], p[order[:start]])(p[served])
        start = until
    return out


def calibration(outcomes: pd.DataFrame, *, as_of: datetime, min_effective_n: float, scope: str = "all") -> Calibration:
    """How the confidences of signals compare with the wins and losses that closed by `as_of`.

    outcomes: as_of, entry_time, exit_time, outcome, confidence, of BUY and SELL signals, paper and shadow. Breakevens
    and signals without a confidence do not count. Weighted by average uniqueness, except what is prequential. The
    confidence is read as the probability of a win. Raises ValueError on a missing column, a naive instant or mixed
    sources.
    """
    require(outcomes, ("as_of", "entry_time", "exit_time", "outcome", "confidence"), "outcomes")
    one_source(outcomes)
    known = closed_before(outcomes, as_of)
    known = known[known["outcome"].isin(("win", "loss")) & known["confidence"].notna()]
    known = known.assign(won=(known["outcome"] == "win").astype(float))
    y, p, w = known["won"].to_numpy(), known["confidence"].to_numpy(dtype=float), trade_weights(known)
    n, n_eff = len(y), float(w.sum())
    bins = reliability_bins(y, p, w)
    enough = n_eff >= min_effective_n and 0 < y.sum() < n
    method: Method = "isotonic" if n_eff >= ISOTONIC_FROM else "platt"
    intercept, slope = logistic_recalibration(y, p, w) if enough else (nan, nan)
    least = max(2, int(min_effective_n))
    skill, interval = _skill(y, p, w, prequential(known, method=None, least=least)) if enough else (nan, (nan, nan))
    again = prequential(known, method=method, least=least) if enough else np.full(n, nan)
    told = ~np.isnan(again)
    found = Calibration(
        scope=scope,
        n=n,
        n_eff=n_eff,
        base_rate=float(w @ y / w.sum()) if n else nan,
        mean_confidence=float(w @ p / w.sum()) if n else nan,
        brier=brier(y, p, w, bins=True),
        log_loss=log_loss(y, p, w),
        ece=expected_calibration_error(bins),
        skill=skill,
        skill_lower=interval[0],
        skill_upper=interval[1],
        slope=slope,
        intercept=intercept,
        method=method if enough else "none",
        recalibrated_brier=brier(y[told], again[told], w[told]).score,
        bins=bins,
        words=_words(y, n_eff, min_effective_n, skill, interval, slope),
    )
    return found


def calibration_rows(found: list[Calibration], as_of: datetime) -> pd.DataFrame:
    """The calibrations rows (without provenance) of `as_of`."""
    rows = [
        (
            as_of, one.scope, one.n, one.n_eff, one.brier.score, one.brier.reliability, one.brier.resolution,
            one.brier.uncertainty, one.log_loss, one.ece, one.skill, one.slope, one.intercept, one.method,
            one.recalibrated_brier, json.dumps([{k: round(v, 6) for k, v in asdict(b).items()} for b in one.bins]),
        )
        for one in found
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    frame["as_of"] = frame["as_of"].astype("datetime64[us, UTC]")
    return frame


def _skill(y: Floats, p: Floats, w: Floats, reference: Floats) -> tuple[float, tuple[float, float]]:
    """Skill against the past's rate where that was known, and its interval, overlap counted."""
    told = ~np.isnan(reference)
    if told.sum() < 2:
        return nan, (nan, nan)
    y, p, w, reference = y[told], p[told], w[told], reference[told]
    base = float(w @ (reference - y) ** 2 / w.sum())
    if base <= 0:
        return nan, (nan, nan)
    # Skill is the mean of these up to the reference's own noise, which is small beside theirs.
    gains = ((reference - y) ** 2 - (p - y) ** 2) / base
    skill = float(w @ gains / w.sum())
    lower, upper = mean_interval(gains, n_eff=float(w.sum()))
    centre = float(gains.mean())
    return skill, (skill + lower - centre, skill + upper - centre)


def _words(y: Floats, n_eff: float, least: float, skill: float, interval: tuple[float, float], slope: float) -> str:
    """What may be concluded, in one sentence."""
    if not len(y):
        return "nothing to judge: no signal has closed with a win or a loss yet"
    if n_eff < least:
        return f"too few to judge: {len(y)} outcomes, worth {n_eff:.1f} independent ones; {least:g} are needed"
    if y.min() == y.max():
        return f"nothing to compare: all {len(y)} outcomes are {'wins' if y[0] else 'losses'}"
    if np.isnan(interval[0]):
        return f"too few to judge: the past's win rate is known to too few of the {len(y)} outcomes"
    if interval[0] > 0:
        return "better than the past's win rate: the confidence tells wins from losses"
    worse = "worse than the past's win rate: do not read the confidence as a probability"
    if interval[1] < 0:
        return worse + (", nor as a ranking" if slope <= 0 else "")
    return "not distinguishable from the past's win rate"


def _places(p: Floats) -> npt.NDArray[np.int64]:
    """The bin of each forecast. 0.15 / 0.05 is 2.9999…: rounded first, so that a bin's lower end is its own."""
    return np.minimum(np.floor(np.round(p / BIN_WIDTH, 9)), round(1 / BIN_WIDTH) - 1).astype(np.int64)


def _checked(
    happened: npt.ArrayLike, forecast: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    y, p = np.asarray(happened, dtype=float), np.asarray(forecast, dtype=float)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    if not (y.shape == p.shape == w.shape):
        raise ValueError(f"{y.size} results, {p.size} forecasts and {w.size} weights do not belong together")
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("a result is 1 where it happened and 0 where it did not")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a forecast is a probability between 0 and 1")
    if not (w > 0).all():
        raise ValueError("weights are above 0")
    return y, p, w


def _log_odds(p: Floats) -> Floats:
    p = np.clip(p, _CLIP, 1 - _CLIP)
    return np.asarray(np.log(p) - np.log1p(-p))


def _logistic(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -500, 500))))
