"""Small markets whose answer is known, strategies that trade in them where a test says, and a slow replay as frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.analyst.base import Decision, Question
from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.backtest import replay
from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, conform, open_store, signal_id
from v7_pipeline.store.schema import PROVENANCE, THEORY_NAMES, table
from v7_pipeline.trades import follow
from v7_pipeline_tests.shared_data import needs_shared

FIRST = datetime(2026, 3, 2, tzinfo=UTC)
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
MINUTE = timedelta(minutes=1)
EVERY = timedelta(minutes=2)
Entry = tuple[str, int, str]  # symbol, scan's number, side


def settings_of(**changes: Any) -> Settings:
    """Defaults, none of them read from this machine."""
    chosen: dict[str, Any] = {"symbols": SYMBOLS, "horizon_minutes": 60} | changes
    return Settings.model_construct(**chosen)


def constant(symbol: str, minutes: int, price: float = 100.0) -> pd.DataFrame:
    """A price that never moves."""
    return _candles(symbol, np.full((minutes, 4), price))


def walk(symbol: str, minutes: int, *, seed: int, sigma: float = 4e-4, steps: int = 12) -> pd.DataFrame:
    """A driftless random walk of the log price, `steps` steps a minute: what no rule can predict."""
    rng = np.random.default_rng([seed, SYMBOLS.index(symbol)])
    path = 100 * np.exp(np.cumsum(rng.choice([-1.0, 1.0], minutes * steps) * sigma / np.sqrt(steps)))
    inside = path.reshape(minutes, steps)
    opens = np.concatenate([[100.0], inside[:-1, -1]])
    whole = np.column_stack([opens, inside])
    return _candles(symbol, np.column_stack([opens, whole.max(axis=1), whole.min(axis=1), inside[:, -1]]))


def _candles(symbol: str, prices: Any) -> pd.DataFrame:
    times = pd.date_range(FIRST, periods=len(prices), freq="min", unit="us")
    return pd.DataFrame(prices, columns=["open", "high", "low", "close"]).assign(symbol=symbol, open_time=times)


def strategy(
    candles: pd.DataFrame,
    entries: Sequence[Entry],
    settings: Settings,
    *,
    stop: float = 0.005,
    reward: float = 0.0075,
    notional: float = 50_000.0,
    name: str = "v7",
) -> Simulation:
    """A strategy that enters where `entries` say and holds elsewhere; every trade accepted, one notional in USD."""
    instants = pd.date_range(FIRST + EVERY, candles["open_time"].max() + MINUTE, freq=EVERY, unit="us")
    rows = []
    for symbol, own in candles.groupby("symbol"):
        closes = own.set_index(own["open_time"] + MINUTE)["close"].reindex(instants)
        rows.append(pd.DataFrame({"symbol": symbol, "as_of": instants, "market_price": closes.to_numpy()}))
    signals = pd.concat(rows, ignore_index=True)
    signals["signal_id"] = [
        signal_id("v7", symbol, at.to_pydatetime())
        for symbol, at in signals[["symbol", "as_of"]].itertuples(index=False)
    ]
    sides = {signal_id("v7", symbol, instants[at].to_pydatetime()): side for symbol, at, side in entries}
    signals["side"] = signals["signal_id"].map(sides).fillna("HOLD")
    sign = signals["side"].map({"BUY": 1.0, "SELL": -1.0}).astype(float)
    price = signals["market_price"]
    signals = signals.assign(
        strategy="v7",
        price_age_s=np.where(price.notna(), 0.0, np.nan),
        entry_price=price.where(sign.notna()),
        stop_price=price * (1 - sign * stop),
        target_price=price * (1 + sign * reward),
        horizon_minutes=pd.array(np.where(sign.notna(), settings.horizon_minutes, np.nan), dtype="Int64"),
    )
    traded = signals[sign.notna()]
    traded = traded.assign(kind="paper", quantity=notional / traded["market_price"])
    outcomes = follow(
        traded,
        candles,
        as_of=instants[-1].to_pydatetime(),
        fee_preset=settings.fees,
        slippage=settings.slippage,
        breakeven_band_r=settings.breakeven_band_r,
    )
    gated = signals[["signal_id", "as_of", "symbol", "side"]].assign(accepted=sign.notna())
    empty = pd.DataFrame()
    return Simulation(name, settings, instants, signals, gated, outcomes, empty, empty)


class EchoAnalyst:
    """The rules, in a scan, with the ear for one theory: what `echoed` readings are to the engine."""

    name = "rules"
    worst_case_usd = 0.0

    def __init__(self, theory: str) -> None:
        self._theory, self._rules = theory, RulesAnalyst()

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        from dataclasses import replace

        asked = []
        for question in questions:
            voice = {
                f"{name}_{part}": question.readings[f"{self._theory}_{part}"]
                for name in THEORY_NAMES
                for part in ("vote", "score")
            }
            asked.append(replace(question, readings={**question.readings, **voice}))
        return self._rules.decide(asked, now=now)


def recorded(day: datetime, days: int, *, before: timedelta = timedelta(days=2)) -> pd.DataFrame:
    """The recordings of the three products from `before` the day on; a skip where they are not on this machine."""
    frames = []
    for symbol in SYMBOLS:
        rows = pd.read_parquet(needs_shared(f"candles/{symbol}_1m.parquet")).rename(columns={"ts": "open_time"})
        kept = (rows["open_time"] >= day - before) & (rows["open_time"] < day + timedelta(days=days))
        rows = rows[kept].sort_values("open_time").drop_duplicates("open_time")
        frames.append(rows.assign(symbol=symbol))
    return pd.concat(frames, ignore_index=True)


def source_of(path: Path, candles: pd.DataFrame) -> Store:
    """A store that holds `candles` as a backfill of Coinbase."""
    store = open_store(f"duckdb:{path}")
    start = candles["open_time"].min().to_pydatetime()
    store.migrate(__version__, start)
    known = candles["open_time"] + pd.Timedelta(minutes=1)
    marks = {"venue": "coinbase-exchange", "source": "backfill", "run_id": "recorded", "code_version": __version__}
    with store.transaction() as tx:
        tx.insert_new("candles", conform("candles", candles.assign(fetched_at=known, **marks)))
    return store


def slow_simulate(
    source: Store, folder: Path, *, start: datetime, end: datetime, every: timedelta
) -> Callable[[Settings, Mapping[str, float] | None, str], Simulation]:
    """The injected `simulate` by way of replay(): one scan after another, each into a store of its own."""

    def simulate(settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation:
        heard = [theory for theory, weight in (weights or {}).items() if weight > 0]
        analyst = EchoAnalyst(heard[0]) if len(heard) == 1 else RulesAnalyst(weights)
        target = open_store(f"duckdb:{folder / name.replace(' ', '_')}.duckdb")
        replay(source, target, settings, start=start, end=end, every=every, analyst=analyst)
        return simulation_of(target, settings, name)

    return simulate


def simulation_of(target: Store, settings: Settings, name: str) -> Simulation:
    """What replay() left, as frames without provenance."""

    def rows(of: str) -> pd.DataFrame:
        kept = [column for column in table(of).column_names if column not in {c.name for c in PROVENANCE}]
        return target.read(of, columns=kept)

    instants = pd.DatetimeIndex(target.query("SELECT as_of FROM scans ORDER BY as_of")["as_of"])
    signals, gated, outcomes = rows("llm_signals"), rows("gated_signals"), rows("outcomes")
    traded = signals.loc[signals["side"].isin(("BUY", "SELL")), "signal_id"]
    outcomes = outcomes[outcomes["signal_id"].isin(traded)].reset_index(drop=True)
    return Simulation(
        name, settings, instants, signals, gated, outcomes, rows("win_rates"), rows("confidence_thresholds")
    )
