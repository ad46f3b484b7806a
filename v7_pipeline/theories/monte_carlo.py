"""Monte Carlo: would the default plan reach its target before its stop?

Formula: P(a Brownian motion touches one of two absorbing barriers first, within a horizon), in closed form: images for
short horizons, eigenfunctions for long ones (Cox & Miller 1965; Borodin & Salminen 2002). Orders are watched
continuously; for barriers watched only at closes they move out by .5826 σ√Δt (Broadie, Glasserman & Kou 1997).

Default plan: stop at ½ · s₁₄₄₀ · √240 from the price, target at twice that, horizon 240 min, on the side of the drift.
The stop's distance comes from the day's scale, the path's volatility from the last four hours' (s₂₄₀), so that the
probability says what today's pace does to a usual plan. Drift: the day's mean return × max(0, 1 − 1/z²), z = momentum
over 1,440 min (positive-part James–Stein): zero unless the day says otherwise. Nothing moves: p_neither = 1.

Null: with a driftless walk z is N(0, 1) and the plan's advantage over its opposite grows with z alone, whatever the
volatility; the percentile is Φ(z), closed form. Vote: the drift's side, outside the central 92 %. Score: how much
likelier the plan's target is than the opposite plan's, (p − p′)/(p + p′), which is tanh(drift · distance of the target
÷ s²) because turning the drift round makes every path to the target exp(2 · …) times rarer (Girsanov); 0 where the
drift is shrunk to nothing. The probabilities are read from a table of the closed form, within 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import Bars, Floats, missing_because, number, trend_vote

__all__ = ["NAME", "explain", "first_passage", "percentile", "score", "shrunk_drift", "statistic", "values", "vote"]

NAME = "monte_carlo"
DAY = 1440
HORIZON = 240.0
STOP = 0.5
REWARD = 2.0
CLOSES_ONLY = 0.5826
_COLUMNS = ("p_target", "p_stop", "p_neither")
# The plan's table: stop .02 … 4 and drift −.125 … 8 in units of s₂₄₀ √240; the closed form is taken beyond.
_STOPS, _STOP_LOW, _STOP_STEP = 134, 0.02, 0.03
_DRIFTS, _DRIFT_LOW, _DRIFT_STEP = 66, -0.125, 0.125


def first_passage(
    mu: float, up: float, down: float, horizon: float, *, step: float | None = None
) -> tuple[float, float, float]:
    """P(up first), P(down first), P(neither) for drift `mu` a unit of time, unit variance, barriers at +up and −down.

    `step`: time between looks where barriers are watched only then (closes); None watches continuously.
    """
    from v7_pipeline.theories import kernels

    if not (up > 0 and down > 0 and horizon >= 0):
        raise ValueError(f"barriers ({up}, {down}) must be positive and the horizon ({horizon}) not negative")
    shift = CLOSES_ONLY * math.sqrt(step) if step else 0.0
    return kernels.first_passage(float(mu), float(up) + shift, float(down) + shift, float(horizon))


def shrunk_drift(mean: Floats, z: Floats) -> Floats:
    """Mean × max(0, 1 − 1/z²): zero where the drift is within one standard error."""
    square = z * z
    return mean * np.subtract(1.0, np.divide(1.0, square, out=np.ones(z.size), where=square > 1.0))


@cache
def _table() -> tuple[Floats, Floats]:
    """P(target first) and P(stop first) of the default plan, drift × stop."""
    from v7_pipeline.theories import kernels

    up, down = np.empty((_DRIFTS, _STOPS)), np.empty((_DRIFTS, _STOPS))
    kernels.passage_table(REWARD, _STOP_LOW, _STOP_STEP, _DRIFT_LOW, _DRIFT_STEP, up, down)
    return up, down


def _plan(bars: Bars) -> tuple[Floats, ...]:
    """Columns: target, stop, neither; advantage over the opposite plan (0 where they are missing)."""

    def make() -> tuple[Floats, ...]:
        out = (*(bars.column(name) for name in _COLUMNS), np.empty(bars.rows))
        bars.kernels.plan_probabilities(
            bars.moments(DAY)[0], bars.momentum(DAY), bars.scale(DAY), bars.scale(HEADLINE_WINDOW), _usable(bars),
            DAY, STOP, REWARD, HORIZON, _STOP_LOW, _STOP_STEP, _DRIFT_LOW, _DRIFT_STEP, *_table(), *out,
        )  # fmt: skip
        return out

    return bars.cached(NAME, make)


def _usable(bars: Bars) -> npt.NDArray[np.uint8]:
    return bars.usable(DAY) & bars.usable(HEADLINE_WINDOW)


def values(bars: Bars) -> dict[str, Floats]:
    """p_target, p_stop, p_neither; missing before 1,440 unbroken returns."""
    return dict(zip(_COLUMNS, _plan(bars)[:3], strict=True))


def statistic(bars: Bars) -> Floats:
    """Momentum over the day: what alone decides the plan's advantage over its opposite."""
    out = np.empty(bars.rows)
    bars.kernels.masked(bars.momentum(DAY), _usable(bars), out)
    return out


def percentile(bars: Bars) -> Floats:
    out = bars.column(f"{NAME}_percentile")
    bars.kernels.normal_cdf(statistic(bars), out)
    return out


def score(bars: Bars, percentile: Floats) -> Floats:
    return _plan(bars)[3]


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    return trend_vote(percentile, score)


def explain(row: Mapping[str, Any]) -> str:
    target, stop = number(row, "p_target"), number(row, "p_stop")
    if target is None or stop is None:
        return missing_because(row, "Monte Carlo")
    side = float(row.get(f"{NAME}_vote") or 0.0)
    told = "the day's drift is too small to choose a side"
    if side:
        told = f"the day's drift favours {'buying' if side > 0 else 'selling'}"
    return (
        f"Monte Carlo: a usual plan (target twice the stop) reaches its target first with probability {target:.2f}, "
        f"its stop with {stop:.2f} in four hours; {told}."
    )
