"""Backtest from your own code: simulated candles into a store, a replay of the live scan over them, the report.

Run:  .venv/bin/python examples/backtest_simulated.py           one hour of scans, a quarter of a minute
      .venv/bin/python examples/backtest_simulated.py 20        twenty minutes

It shows the three things that a backtest needs: a store with candles (here filled by hand; yours is filled by
`v7 backfill`), an empty store for the results, and settings. Nothing of it is kept.
"""
# ruff: noqa: T201

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.backtest import markdown, replay, report
from v7_pipeline.sandbox.simulator import simulate
from v7_pipeline.scan.candles import HISTORY
from v7_pipeline.settings import load_settings
from v7_pipeline.store import Store, conform, open_store

START = datetime(2026, 3, 3, 12, tzinfo=UTC)


def fill(store: Store, symbols: tuple[str, ...], start: datetime, end: datetime) -> None:
    """Simulated candles with the history that the first reading needs, marked as what they are."""
    frames = [simulate(7, symbol, start - HISTORY, end).assign(symbol=symbol) for symbol in symbols]
    candles = pd.concat(frames, ignore_index=True)
    candles = candles.assign(
        venue="sandbox",
        fetched_at=candles["open_time"] + pd.Timedelta(minutes=1),
        # Every row of every table says where it comes from; the store refuses rows that do not.
        source="demo",
        run_id="example",
        code_version=__version__,
    )
    store.migrate(__version__, start)
    with store.transaction() as tx:
        tx.insert_new("candles", conform("candles", candles))


def main(arguments: list[str]) -> None:
    end = START + timedelta(minutes=int(arguments[0]) if arguments else 60)
    # Any setting may be given by name; what is not given comes from the environment, .env or its default.
    settings = load_settings(mode="demo", symbols="ETH-USD,SOL-USD", aggressive=True, horizon_minutes=10)
    with TemporaryDirectory() as folder:
        source = open_store(f"duckdb:{Path(folder) / 'candles.duckdb'}")
        target = open_store(f"duckdb:{Path(folder) / 'backtest.duckdb'}")
        fill(source, settings.symbols, START, end)
        replay(source, target, settings, start=START, end=end)
        print(markdown(report(target, settings)))


if __name__ == "__main__":
    main(sys.argv[1:])
