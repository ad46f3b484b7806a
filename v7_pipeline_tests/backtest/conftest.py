"""One short replay that most tests look at: two simulated products, eight scans, trades that close within them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from v7_pipeline import __version__
from v7_pipeline.backtest import BacktestResult, Figures, Material, figures, replay
from v7_pipeline.sandbox.simulator import simulate
from v7_pipeline.scan.candles import HISTORY
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, conform, open_store
from v7_pipeline.store.schema import TABLES
from v7_pipeline_tests.backtest.worlds import material_of

START = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
SCANS = 8
END = START + SCANS * timedelta(minutes=2)
LAST = END - timedelta(minutes=2)
SYMBOLS = ("ETH-USD", "SOL-USD")
MADE_DAYS = 40
PROVENANCE = ["source", "run_id", "code_version"]


def settings_of(**changes: Any) -> Settings:
    """Defaults with quick trades and room for many, none of it read from this machine."""
    quick = {"aggressive": True, "horizon_minutes": 6, "max_signals_per_hour": 1000, "risk_per_trade": 0.0005}
    quick |= {"gates_off": ("exposure",)}
    return Settings.model_construct(**{"mode": "demo", "symbols": SYMBOLS} | quick | changes)


def fresh(path: Path) -> Store:
    return open_store(f"duckdb:{path}")


def simulated(end: datetime = END + timedelta(hours=1), symbols: tuple[str, ...] = SYMBOLS) -> pd.DataFrame:
    """Candles of the simulated market, with the history that the first scan needs."""
    frames = [simulate(7, s, START - HISTORY - timedelta(minutes=20), end).assign(symbol=s) for s in symbols]
    return pd.concat(frames, ignore_index=True)


def holding(path: Path, candles: pd.DataFrame, **marks: str) -> Store:
    """A store that holds `candles` as a demo run would have written them."""
    store = fresh(path)
    store.migrate(__version__, START)
    marks = {"venue": "sandbox", "source": "demo", "run_id": "simulated", "code_version": __version__} | marks
    known = candles["open_time"] + pd.Timedelta(minutes=1)
    with store.transaction() as tx:
        tx.insert_new("candles", conform("candles", candles.assign(fetched_at=known, **marks)))
    return store


def everything(store: Store) -> dict[str, pd.DataFrame]:
    """All rows of all tables, by table."""
    with store.reading() as reader:
        return {name: reader.read(name) for name in TABLES}


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    """Both hold the same rows, to the last bit."""
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True, obj=name)


@dataclass(frozen=True)
class Replayed:
    """The replay, its source as it was before, and what the progress said."""

    source: Store
    target: Store
    path: Path
    settings: Settings
    result: BacktestResult
    before: tuple[str, dict[str, pd.DataFrame]]
    told: list[tuple[str, int, int]]


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], str]:
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory, digest: Callable[[Path], str]) -> Replayed:
    folder = tmp_path_factory.mktemp("backtest")
    source, target = holding(folder / "source.duckdb", simulated()), fresh(folder / "target.duckdb")
    before = digest(folder / "source.duckdb"), everything(source)
    told: list[tuple[str, int, int]] = []
    settings = settings_of()
    result = replay(source, target, settings, start=START, end=END, on_progress=lambda *step: told.append(step))
    return Replayed(source, target, folder, settings, result, before, told)


@pytest.fixture(scope="session")
def made() -> Material:
    """Forty made days with baselines, random entries and trials."""
    return material_of(MADE_DAYS)


@pytest.fixture(scope="session")
def found(made: Material) -> Figures:
    """Their figures."""
    return figures(made)
