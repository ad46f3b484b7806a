"""What a sweep's processes run in tests: found by name there, so it stands in a module of its own."""

from __future__ import annotations

import time
from dataclasses import replace

from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.sweep import Configuration
from v7_pipeline_tests.backtest.markets import settings_of, strategy, walk


def run_small(configuration: Configuration) -> Simulation:
    """A day of a random walk on which higher thresholds trade less; `slow` ones take a minute, `broken` ones fail."""
    if "broken" in configuration.name:
        raise ValueError("postgres://me:secret@host has no candles")
    if "slow" in configuration.name:
        time.sleep(60)
    settings = configuration.settings
    entries = [("BTC-USD", at, "BUY") for at in range(10, 600, round(settings.min_confidence * 100))]
    weights = configuration.weights or {}
    made = strategy(
        walk("BTC-USD", 1440, seed=1 + int(weights.get("price_momentum", 0))),
        entries,
        settings_of(symbols=("BTC-USD",), min_confidence=settings.min_confidence, horizon_minutes=30),
        name=configuration.name,
    )
    return replace(made, settings=settings)
