"""What a sweep's processes run in tests: found by name there, so it stands in a module of its own."""

from __future__ import annotations

import time
from dataclasses import replace

from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.sweep import Candidate
from v7_pipeline_tests.backtest.markets import settings_of, strategy, walk


def run_small(candidate: Candidate) -> Simulation:
    """A day of a random walk on which higher thresholds trade less; `slow` ones take a minute, `broken` ones fail."""
    if "broken" in candidate.name:
        raise ValueError("postgres://me:secret@host has no candles")
    if "slow" in candidate.name:
        time.sleep(60)
    settings = candidate.settings
    entries = [("BTC-USD", at, "BUY") for at in range(10, 600, round(settings.min_confidence * 100))]
    weights = candidate.weights or {}
    made = strategy(
        walk("BTC-USD", 1440, seed=1 + int(weights.get("price_momentum", 0))),
        entries,
        settings_of(symbols=("BTC-USD",), min_confidence=settings.min_confidence, horizon_minutes=30),
        name=candidate.name,
    )
    return replace(made, settings=settings)
