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
likelier the plan's target is than the opposite plan's, (p − p′)/(p + p′); 0 where the drift is shrunk to nothing.

Reading: how likely a usual plan (target twice as far as the stop, four hours) ends at its target or its stop, given
today's pace. Without drift and without a horizon it would be 1/3 to 2/3; the vote speaks only where the day's drift
is larger than its own standard error.

Misleads: a Brownian motion has neither jumps nor fat tails, so touches of far barriers are rarer in it than in the
market; yesterday's drift says little about today's, which is why it is shrunk towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import Bars, Floats, missing_because, number, trend_vote

__all__ = ["NAME", "explain", "first_passage", "percentile", "score", "shrunk_drift", "statistic", "values", "vote"]

NAME = "monte_carlo"
DAY = 1440
HORIZON = 240.0
STOP = 0.5
REWARD = 2.0
CLOSES_ONLY = 0.5826


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


def _plan(bars: Bars) -> Floats:
    """Rows: target, stop, neither, target of the opposite plan."""

    def make() -> Floats:
        drift = shrunk_drift(bars.total(DAY) / DAY, bars.momentum(DAY))
        distance = STOP * math.sqrt(HORIZON) * bars.scale(DAY)
        out = np.empty((4, bars.rows))
        scale = np.ascontiguousarray(bars.scale(HEADLINE_WINDOW))
        bars.kernels.plan_probabilities(drift, scale, distance, REWARD, HORIZON, 0.0, out)
        return np.where(_usable(bars), out, np.nan)

    return bars.cached(NAME, make)


def _usable(bars: Bars) -> Any:
    return bars.usable(DAY) & bars.usable(HEADLINE_WINDOW)


def values(bars: Bars) -> dict[str, Floats]:
    """p_target, p_stop, p_neither; missing before 1,440 unbroken returns."""
    return dict(zip(("p_target", "p_stop", "p_neither"), _plan(bars)[:3], strict=True))


def statistic(bars: Bars) -> Floats:
    """Momentum over the day: what alone decides the plan's advantage over its opposite."""
    return np.where(_usable(bars), bars.momentum(DAY), np.nan)


def percentile(bars: Bars) -> Floats:
    out = np.empty(bars.rows)
    bars.kernels.normal_cdf(statistic(bars), out)
    return out


def score(bars: Bars, percentile: Floats) -> Floats:
    plan = _plan(bars)
    both = plan[0] + plan[3]
    return np.clip(np.divide(plan[0] - plan[3], both, out=np.zeros(bars.rows), where=both > 0), 0.0, 1.0)


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
