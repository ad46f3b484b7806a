"""Properties of the account that hold for any book: over random positions, candles, restarts and price paths."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from v7_pipeline.gates import AccountState, conditions, day_bounds
from v7_pipeline.trades import Product, follow, positions, size_signals
from v7_pipeline_tests.gates.builders import (
    MINUTE,
    ONE_STEP,
    TWO_STEP,
    at,
    book,
    flat,
    position,
    prices,
    state,
    walk,
)

MON = at("2026-11-16T10:00Z")
NOW = at("2026-11-16T15:00Z")  # eight hours before Prague's midnight
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
SLIPPAGE = 0.0002
PRODUCTS = {symbol: Product(fee_rate=0.000325, leverage=100.0) for symbol in SYMBOLS}


def same(left: AccountState, right: AccountState) -> None:
    a, b = dataclasses.asdict(left), dataclasses.asdict(right)
    for name, value in a.items():
        assert value == b[name], name


def _random_account(seed: int, *, days: int = 3, trades: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Random positions over random walks of two symbols; some are open to the end."""
    rng = np.random.default_rng(seed)
    minutes = days * 1440
    start = at("2026-10-24T12:00Z")  # the clocks change on the way
    candles = pd.concat([walk(seed + i, start, minutes, symbol=s) for i, s in enumerate(("BTC-USD", "ETH-USD"))])
    rows = []
    for i in range(trades):
        symbol = ("BTC-USD", "ETH-USD")[i % 2]
        close = candles.loc[candles["symbol"] == symbol, "close"].to_numpy()
        a = int(rng.integers(0, minutes - 700))
        b = a + int(rng.integers(1, 600))
        open_end = rng.random() < 0.25
        rows.append(
            position(
                start + a * MINUTE,
                side=str(rng.choice(["BUY", "SELL"])),
                quantity=float(rng.integers(5, 200)),
                entry=float(close[a]),
                exit_time=None if open_end else start + b * MINUTE,
                exit_price=None if open_end else float(close[b]),
                worst=100.0,
                fee=None,
                symbol=symbol,
                signal_id=str(i),
            )
        )
    return book(*rows), candles


seeds = st.integers(0, 5_000)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_order_of_independent_trades_and_candles_does_not_matter(seed: int) -> None:
    positions, candles = _random_account(seed)
    now = at("2026-10-27T12:00Z")
    straight = state(positions, now, candles)
    shuffled = state(positions.sample(frac=1, random_state=seed), now, candles.sample(frac=1, random_state=seed))
    same(straight, shuffled)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(100, 4_000))
def test_lesson_24_truncating_the_future_changes_nothing(seed: int, minutes: int) -> None:
    positions, candles = _random_account(seed)
    now = at("2026-10-24T12:00Z") + minutes * MINUTE
    known = positions[positions["entry_time"] < now].copy()
    known.loc[known["exit_time"] + MINUTE > now, ["exit_time", "exit_price"]] = [pd.NaT, np.nan]
    cut = state(known, now, candles[candles["open_time"] + MINUTE <= now])
    same(state(positions, now, candles), cut)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_the_engine_equals_a_walk_minute_by_minute(seed: int) -> None:
    positions, candles = _random_account(seed, days=2, trades=6)
    now = at("2026-10-26T12:00Z")
    account = state(positions, now, candles)
    candle = {(c.symbol, c.open_time): c for c in candles.itertuples()}
    held = list(positions.itertuples())
    lowest_today, balance, equity = np.inf, 100_000.0, 100_000.0
    for t in pd.date_range(positions["entry_time"].min(), now - MINUTE, freq="min"):
        intrabar = balance
        closing = balance
        for p in held:
            if not p.entry_time <= t or (p.exit_time is not pd.NaT and p.exit_time < t):
                continue
            d = 1 if p.side == "BUY" else -1
            c = candle[p.symbol, t]
            fee = 0.000325 * p.quantity * p.entry_price
            intrabar += d * p.quantity * ((c.low if d > 0 else c.high) - p.entry_price) - fee
            if p.exit_time is not pd.NaT and p.exit_time == t:
                gain = d * p.quantity * (p.exit_price - p.entry_price) - fee - 0.000325 * p.quantity * p.exit_price
                balance += gain
                closing += gain
            else:
                closing += d * p.quantity * (c.close - p.entry_price) - fee
        equity = closing
        if t >= account.day_started_at:
            lowest_today = min(lowest_today, intrabar, closing)
    assert account.balance == pytest.approx(balance, abs=1e-6)
    assert account.equity == pytest.approx(equity, abs=1e-6)
    # the day's first test is the equity carried over its midnight, so the engine may only be lower
    assert account.worst_equity_today <= lowest_today + 1e-6


@settings(max_examples=50, deadline=None)
@given(st.floats(1.0, 1_000.0), st.floats(1.0, 1_000.0), st.sampled_from(["BUY", "SELL"]))
def test_equity_is_monotone_in_price(one: float, other: float, side: str) -> None:
    held = book(position(MON, side=side, quantity=10, entry=500.0))
    low, high = sorted([one, other])
    at_low, at_high = (state(held, MON + MINUTE, flat(p, MON)).equity for p in (low, high))
    assert at_low <= at_high if side == "BUY" else at_low >= at_high


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(["BUY", "SELL"]))
def test_equity_over_a_whole_path_is_monotone_in_price(seed: int, side: str) -> None:
    """A path that lies higher everywhere is better for a long at every moment, and worse for a short."""
    low = walk(seed, MON, 30)
    lift = 1.0 + np.random.default_rng(seed).uniform(0, 0.02, 30)
    high = low.assign(**{name: low[name] * lift for name in ("high", "low", "close")})
    held = book(position(MON, side=side, quantity=50, entry=100.0, worst=100.0))
    below, above = (state(held, MON + 30 * MINUTE, c) for c in (low, high))
    if side == "SELL":
        below, above = above, below
    assert below.equity <= above.equity and below.worst_equity_today <= above.worst_equity_today
    assert below.room_usd <= above.room_usd


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_splitting_a_day_by_restarts_changes_nothing(seed: int) -> None:
    """However often one looks before, and from however little history, the last look sees the same."""
    positions, candles = _random_account(seed)
    rng = np.random.default_rng(seed)
    looks = [at("2026-10-24T12:00Z") + int(m) * MINUTE for m in np.sort(rng.choice(np.arange(60, 4_300), 6, False))]
    seen: dict[str, set[datetime]] = {"daily": set(), "total": set()}
    before = looks[0]
    for now in looks:
        whole = state(positions, now, candles)
        since = day_bounds(before)[0]
        needed = candles[candles["open_time"] >= since - timedelta(hours=4)]
        part = state(positions, now, needed, tested_from=since)
        skipped = ("breached", "breached_at", "first_breach_at", "passable")
        for field in dataclasses.fields(whole):
            if field.name not in skipped:
                assert getattr(part, field.name) == getattr(whole, field.name), field.name
        if part.breached is not None and part.breached_at is not None:
            seen[part.breached].add(part.breached_at)
        # What the looks have kept so far and the whole history tell the same breach.
        if whole.breached == "daily":
            assert part.breached_at == whole.breached_at
        if whole.breached == "total":
            assert min(seen["total"]) == whole.breached_at
        before = now


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from([TWO_STEP, ONE_STEP]), st.floats(0.3, 1.0))
def test_an_accepted_trade_never_leaves_room_below_zero_on_any_path_within_the_stops(
    seed: int, rules: Any, share: float
) -> None:
    """Open positions and one more that just fits: whatever the prices do, the day ends above its floor.

    Stops hold, that is: a stop fills with the assumed slippage, and an entry at the price that it was sized by.
    """
    rng = np.random.default_rng(seed)
    start = NOW - timedelta(hours=5)
    candles = pd.concat(
        [walk(seed + k, start, 10 * 60, sigma=0.004, symbol=symbol) for k, symbol in enumerate(SYMBOLS)]
    )
    plans = _plans(rng, candles, [start + int(m) * MINUTE for m in rng.integers(1, 290, int(rng.integers(0, 5)))])
    sized = _sized(plans, float(rng.uniform(200, 900)))
    before = _account(sized, candles, NOW, rules)
    assume(before.breached is None and before.stopped_equity_usd is not None)
    assert before.stopped_equity_usd is not None
    room = before.stopped_equity_usd - before.floor
    assume(room > 100)
    proposed = _plans(rng, candles, [NOW])
    one = _sized(proposed, share * room)
    risk = float(one["risk_usd"].iloc[0])
    over = NOW + timedelta(hours=7)
    answer = conditions.ftmo(before, risk, as_of=NOW, buffer_usd=0.0, max_age_s=180.0, margin_usd=0.0, held_until=over)
    assert answer.passed, answer.reason_codes
    everything = pd.concat([sized, one], ignore_index=True) if len(sized) else one
    for path in range(2):
        after = [
            walk(seed + 10 * path + k, NOW, 7 * 60, first=_close(candles, symbol, NOW), sigma=0.004, symbol=symbol)
            for k, symbol in enumerate(SYMBOLS)
        ]
        lived = pd.concat([candles[candles["open_time"] < NOW], *after])
        end = _account(everything, lived, NOW + timedelta(hours=7), rules, tested_from=NOW)
        assert end.day_started_at == before.day_started_at and end.floor == before.floor
        assert end.worst_equity_today >= end.floor - 1e-6 and end.breached is None


def test_the_room_is_used_to_the_last_dollar_by_the_worst_path() -> None:
    """The bound is sharp: with a whole room at risk, the stop leaves the account on its floor and not above."""
    candles = walk(1, NOW - timedelta(hours=1), 60)
    plans = _plans(np.random.default_rng(1), candles, [NOW])
    before = _account(plans.iloc[:0], candles, NOW, TWO_STEP)
    one = _sized(plans, before.room_usd)
    stop = float(one["stop_price"].iloc[0])
    lived = pd.concat([candles, prices((NOW, 100.0, stop, stop)).assign(open=_close(candles, "BTC-USD", NOW))])
    lived.loc[lived["open_time"] == NOW, "high"] = max(stop, _close(candles, "BTC-USD", NOW))
    lived.loc[lived["open_time"] == NOW, "low"] = min(stop, _close(candles, "BTC-USD", NOW))
    end = _account(one, lived, NOW + MINUTE, TWO_STEP)
    assert end.equity == pytest.approx(end.floor, abs=0.01) and end.breached is None


def _close(candles: pd.DataFrame, symbol: str, now: datetime) -> float:
    known = candles[(candles["symbol"] == symbol) & (candles["open_time"] < now)]
    return float(known["close"].iloc[-1])


def _plans(rng: np.random.Generator, candles: pd.DataFrame, instants: list[datetime]) -> pd.DataFrame:
    """A random plan at each of the instants, entered at the last close."""
    rows = []
    for i, when in enumerate(instants):
        symbol = str(rng.choice(sorted(set(candles["symbol"]))))
        d, price, stop = float(rng.choice([-1, 1])), _close(candles, symbol, when), float(rng.uniform(0.003, 0.04))
        rows.append(
            {
                "signal_id": f"{symbol}-{when.isoformat()}-{i}", "kind": "paper", "as_of": when, "symbol": symbol,
                "strategy": "v7", "side": "BUY" if d > 0 else "SELL", "entry_price": price, "market_price": price,
                "stop_price": price * (1 - d * stop), "target_price": price * (1 + 2 * d * stop),
                "horizon_minutes": int(rng.integers(30, 480)),
            }
        )  # fmt: skip
    columns = ["signal_id", "kind", "as_of", "symbol", "strategy", "side", "entry_price", "market_price", "stop_price"]
    frame = pd.DataFrame(rows, columns=[*columns, "target_price", "horizon_minutes"])
    return frame.assign(as_of=pd.to_datetime(frame["as_of"], utc=True).astype("datetime64[us, UTC]"))


def _sized(plans: pd.DataFrame, risk_usd: float) -> pd.DataFrame:
    sizes = size_signals(plans, risk_usd=risk_usd, slippage=SLIPPAGE, free_margin_usd=1e7, products=PRODUCTS)
    return plans.assign(quantity=sizes["quantity"].to_numpy(float), risk_usd=sizes["risk_usd"].to_numpy(float))


def _account(trades: pd.DataFrame, candles: pd.DataFrame, now: datetime, rules: Any, **how: Any) -> AccountState:
    """The account at `now` of trades that are followed over the candles."""
    if trades.empty:
        return state(book(), now, rules=rules)
    outcomes = follow(trades, candles, as_of=now, fee_preset="ftmo-crypto", slippage=SLIPPAGE, breakeven_band_r=0.1)
    held = positions(outcomes, trades, slippage=SLIPPAGE, rate_of=rules.commission_of)
    return state(held, now, candles, rules=rules, **how)
