"""A made backtest for the report's tests: sixty days of a random walk, trades followed by the real functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.backtest.comparison import Baseline, RandomEntry, Simulation, Trials
from v7_pipeline.backtest.equity import days_of
from v7_pipeline.backtest.figures import Material
from v7_pipeline.settings import Settings
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline.trades import follow
from v7_pipeline_tests.gates.builders import walk

START = datetime(2026, 1, 20, 6, 0, tzinfo=UTC)
SYMBOLS = ("BTC-USD", "ETH-USD")
EVERY = timedelta(minutes=10)
_GATES = ("freshness", "halt", "budget", "calls", "plan", "confidence", "rate", "ftmo", "exposure")


def settings_of(**changes: Any) -> Settings:
    """Defaults, none of them read from this machine."""
    return Settings.model_construct(**{"mode": "live", "symbols": SYMBOLS} | changes)


def candles_of(days: int, seed: int = 1, symbols: Sequence[str] = SYMBOLS) -> pd.DataFrame:
    """Driftless walks; half an hour of all symbols and a few single minutes are missing."""
    minutes = days * 1440
    parts = [walk(seed + i, START, minutes, sigma=0.0006, symbol=s) for i, s in enumerate(symbols)]
    frame = pd.concat(parts, ignore_index=True)
    gone = START + timedelta(days=1)
    silent = frame["open_time"].between(gone, gone + timedelta(minutes=29))
    single = (frame["symbol"] == symbols[0]) & (frame["open_time"].dt.minute == 7) & (frame["open_time"].dt.hour == 3)
    return frame[~(silent | single)].reset_index(drop=True)


def simulation_of(
    candles: pd.DataFrame, days: int, *, seed: int = 2, each: int = 30, edge: float = 0.0, **changes: Any
) -> Simulation:
    """A decision of every symbol each ten minutes, every `each`th a BUY or SELL, five in six of these accepted.

    With an `edge` (fraction of the price) every trade's exit is better by so much.
    """
    settings = settings_of(**changes)
    rng = np.random.default_rng(seed)
    instants = pd.date_range(START, START + timedelta(days=days) - EVERY, freq=EVERY).as_unit("us")
    parts = []
    for symbol in sorted(set(candles["symbol"])):
        own = candles[candles["symbol"] == symbol].set_index("open_time")["close"]
        price = own.reindex(instants - pd.Timedelta(minutes=1), method="ffill").bfill().to_numpy()
        parts.append(pd.DataFrame({"as_of": instants, "symbol": symbol, "market_price": price}))
    s = pd.concat(parts).sort_values(["as_of", "symbol"], ignore_index=True)
    n = len(s)
    trades = rng.integers(0, each, n) == 0
    sign = rng.choice([-1.0, 1.0], n)
    s["side"] = np.where(trades, np.where(sign > 0, "BUY", "SELL"), "HOLD")
    s["status"] = np.where(rng.random(n) < 0.02, "skipped", "answered")
    s.loc[s["status"] == "skipped", "side"] = None
    s["confidence"] = np.round(rng.uniform(0.5, 0.9, n), 2)
    s["signal_id"] = "v7-" + s["symbol"] + "-" + s["as_of"].dt.strftime("%Y%m%dT%H%M%SZ")
    s = s.assign(strategy="v7", analyst="rules", features_as_of=s["as_of"], horizon_minutes=120, decided_at=s["as_of"])
    s["entry_price"] = s["market_price"]
    s["stop_price"] = s["market_price"] * (1 - sign * 0.005)
    s["target_price"] = s["market_price"] * (1 + sign * 0.0085)
    g = s[["signal_id", "as_of", "symbol", "strategy", "side"]].copy()
    for gate in _GATES:
        g[f"{gate}_ok"] = pd.Series(True, index=g.index, dtype="boolean")
    traded = s["side"].isin(("BUY", "SELL"))
    refused = traded & (rng.integers(0, 6, n) == 0)
    g.loc[refused, "rate_ok"] = False
    g["accepted"] = traded & ~refused
    g["reason_codes"] = np.where(refused, "RATE_LIMIT", np.where(s["side"].eq("HOLD"), "HOLD", ""))
    g["gates_off"] = ""
    plans = s[traded].assign(kind=np.where(g.loc[traded, "accepted"], "paper", "shadow"))
    risk = settings.account_initial_usd * settings.risk_per_trade
    plans["quantity"] = np.where(plans["kind"] == "paper", risk / (plans["entry_price"] * 0.006), np.nan)
    o = follow(
        plans, candles, as_of=instants[-1].to_pydatetime(), fee_preset=settings.fees, slippage=settings.slippage,
        breakeven_band_r=settings.breakeven_band_r,
    )  # fmt: skip
    if edge:
        o = _better(o, edge)
    nothing = pd.DataFrame()
    return Simulation("v7", settings, instants, s, g, o.reset_index(drop=True), nothing, nothing)


def _better(o: pd.DataFrame, edge: float) -> pd.DataFrame:
    """Every exit moved in favour by `edge` of the entry."""
    sign = o["side"].map({"BUY": 1.0, "SELL": -1.0})
    planned = o["net_return"] / o["r_multiple"]
    o = o.assign(exit_price=o["exit_price"] + sign * edge * o["entry_price"], gross_return=o["gross_return"] + edge)
    o["net_return"] = o["net_return"] + edge
    o["r_multiple"] = o["net_return"] / planned
    o["pnl_usd"] = o["net_return"] * o["quantity"] * o["entry_price"]
    closed = o["outcome"] != "open"
    o.loc[closed, "outcome"] = np.where(o.loc[closed, "r_multiple"] > 0.1, "win", "loss")
    return o


def readings_of(sim: Simulation, seed: int = 3) -> pd.DataFrame:
    """Readings of every decision: random votes, and regimes of all three kinds."""
    rng = np.random.default_rng(seed)
    n = len(sim.signals)
    p = rng.dirichlet([1.0, 1.0, 1.0], n)
    frame = sim.signals[["symbol", "as_of"]].assign(p_bear=p[:, 0], p_sideways=p[:, 1], p_bull=p[:, 2])
    for theory in THEORY_NAMES:
        frame[f"{theory}_vote"] = rng.choice([-0.6, 0.0, 0.6], n)
        frame[f"{theory}_score"] = rng.random(n)
    return frame


def baseline(name: str, sim: Simulation, *, daily: float = 0.0, noise: float = 0.0, seed: int = 5) -> Baseline:
    """A baseline without trades whose equity grows by `daily` a day, give or take `noise`."""
    rng = np.random.default_rng(seed)
    ends = days_of(sim.instants[0].to_pydatetime(), sim.instants[-1].to_pydatetime())
    growth = np.cumprod(1.0 + daily + noise * rng.standard_normal(len(ends)))
    equity = pd.DataFrame({"day": ends, "equity_usd": sim.settings.account_initial_usd * growth})
    return Baseline(name, f"{name}, made for a test", sim.outcomes.iloc[:0], equity)


def random_entry(sim: Simulation, seed: int = 9, draws: int = 1000) -> RandomEntry:
    """Draws about −0.08 R, with the strategy's own place among them."""
    paper = sim.paper
    rng = np.random.default_rng(seed)
    own_r, own_usd = float(paper["r_multiple"].mean()), float(paper["pnl_usd"].sum())
    mean_r = rng.normal(-0.08, 0.06, draws)
    net_usd = mean_r * len(paper) * 500.0
    places = [float((drawn < own).mean()) for drawn, own in ((mean_r, own_r), (net_usd, own_usd))]
    return RandomEntry(draws, seed, len(paper), mean_r, net_usd, own_r, own_usd, *places)


def trials(sim: Simulation, count: int = 12, seed: int = 11) -> Trials:
    """So many configurations of noise, a row a day."""
    ends = days_of(sim.instants[0].to_pydatetime(), sim.instants[-1].to_pydatetime())
    names = [f"trial {number:02d}" for number in range(count)]
    values = np.random.default_rng(seed).normal(0, 0.004, (len(ends), count))
    return (
        Trials(names[0], pd.DataFrame(values, columns=names, index=ends), names)
        if names
        else Trials("", pd.DataFrame())
    )


def material_of(
    days: int = 60, *, sim: Simulation | None = None, venue: str = "coinbase-exchange", **given: Any
) -> Material:
    """The whole made backtest: baselines, random entries and trials with it, unless given otherwise."""
    candles = candles_of(days)
    sim = sim or simulation_of(candles, days)
    parts = {
        "readings": readings_of(sim),
        "baselines": (
            baseline("buy and hold", sim, daily=0.001, noise=0.02),
            baseline("always HOLD", sim),
            baseline("momentum only", sim, daily=-0.004, noise=0.004, seed=6),
        ),
        "random_entry": random_entry(sim),
        "trials": trials(sim),
        "command": "v7 backtest --from 2026-01-20 --to 2026-03-20",
    }
    return Material("backtest-made", "0.1.0", sim, candles, (venue,), EVERY, **{**parts, **given})
