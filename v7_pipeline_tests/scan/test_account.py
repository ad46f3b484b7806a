"""What a scan knows of the account, of the calls of the hour and of how alike products move, each as of its instant."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.scan.account import Account, products, read_account, rule_set
from v7_pipeline.scan.decide import calls_made
from v7_pipeline.scan.exposure import correlations
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store import conform
from v7_pipeline_tests.scan.watched import MARKS, MINUTE, NOW, put, put_call, put_closed, watched

AS_OF = NOW.replace(second=0)


def account(runtime: Runtime, as_of: Any = AS_OF, **how: Any) -> Account:
    with runtime.store.reading() as reader:
        return read_account(runtime.settings, reader, as_of, "demo", **how)


def put_candles(runtime: Runtime, symbol: str, closes: Any, *, end: Any = AS_OF, low: Any = None) -> None:
    """One candle a minute, the last closing at `end`; `low` for those that reach further down."""
    closes = np.asarray(closes, dtype=float)
    time = pd.date_range(end=end - MINUTE, periods=len(closes), freq="min").astype("datetime64[us, UTC]")
    rows = pd.DataFrame({"symbol": symbol, "open_time": time, "open": closes, "high": closes, "close": closes})
    rows = rows.assign(low=closes if low is None else low, volume=1.0, venue="sandbox", fetched_at=time)
    with runtime.store.transaction() as tx:
        tx.upsert("candles", conform("candles", rows, MARKS))


def put_open(runtime: Runtime, when: Any, *, price: float = 100.0, quantity: float = 10.0) -> None:
    """A paper trade of BTC-USD that is open since `when`, its stop 10 % below."""
    key = f"v7-BTC-USD-{when:%Y%m%dT%H%M%SZ}"
    plan = {"symbol": "BTC-USD", "strategy": "v7", "side": "BUY", "as_of": when, "signal_id": key}
    put(
        runtime, "llm_signals", **plan, decided_at=when, analyst="rules", stop_price=0.9 * price, entry_price=price,
        target_price=2 * price, horizon_minutes=10_000, status="answered",
    )  # fmt: skip
    put(
        runtime, "gated_signals", **plan, accepted=True, freshness_ok=True, halt_ok=True, budget_ok=True,
        gate_inputs="{}", gates_off="", reason_codes="", quantity=quantity, risk_usd=100.0, notional_usd=1_000.0,
    )  # fmt: skip
    put(
        runtime, "outcomes", **plan, kind="paper", entry_time=when, entry_price=price, ambiguous=False,
        quantity=quantity, outcome="open", fee_preset="none", followed_until=when + MINUTE,
    )  # fmt: skip


def without_stop(runtime: Runtime) -> None:
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE llm_signals SET stop_price = 1", ())


def test_a_reading_of_the_real_account_counts_from_when_it_was_typed_in(make_settings: Callable[..., Any]) -> None:
    runtime = watched(make_settings)
    put_closed(runtime, -1_000.0, AS_OF - timedelta(hours=5))
    put(
        runtime, "account_readings", at=AS_OF - timedelta(hours=2), recorded_at=AS_OF - timedelta(hours=1),
        balance_usd=97_000.0, equity_usd=96_500.0,
    )  # fmt: skip
    before = account(runtime, AS_OF - timedelta(hours=1, minutes=1)).state
    assert (before.balance, before.set_at) == (99_000.0, None)
    known = account(runtime).state
    assert (known.balance, known.set_at) == (97_000.0, AS_OF - timedelta(hours=2))
    assert known.equity == 96_500.0  # somebody's position that we do not know floats at −500


def test_a_trailing_limit_remembers_the_highest_balance_of_earlier_readings(make_settings: Callable[..., Any]) -> None:
    runtime = watched(make_settings, ftmo_rules="ftmo-1step")
    for hours, balance in ((30, 108_000.0), (3, 104_000.0)):
        at = AS_OF - timedelta(hours=hours)
        put(runtime, "account_readings", at=at, recorded_at=at, balance_usd=balance)
    assert account(runtime).state.total_limit == 98_000.0


def test_the_account_pays_its_own_commission_whatever_the_outcome_was_judged_by(
    make_settings: Callable[..., Any],
) -> None:
    when = AS_OF - timedelta(hours=5)
    for given, paid in (({"commission": ""}, 0.000325), ({"commission": "BTC-USD=0.001"}, 0.001)):
        runtime = watched(make_settings, **given, home=make_settings().home / f"paid{paid}")
        put_closed(runtime, 0.0, when)
        assert account(runtime).state.balance == pytest.approx(100_000.0 - paid * 200_000.0)


def test_figures_of_single_products_come_before_the_rule_sets(make_settings: Callable[..., Any]) -> None:
    settings = make_settings(leverage="SOL-USD=2", contract_size="SOL-USD=100", quantity_increment="BTC-USD=0.01")
    traded = products(settings, rule_set(settings, AS_OF), settings.symbols)
    assert [traded[s].leverage for s in ("BTC-USD", "SOL-USD")] == [3.3, 2.0]
    assert [traded[s].contract_size for s in ("BTC-USD", "ETH-USD", "SOL-USD")] == [1.0, 10.0, 100.0]
    assert [traded[s].quantity_increment for s in ("BTC-USD", "ETH-USD")] == [0.01, 1e-8]


def test_what_is_open_and_what_waits_ties_up_margin_and_exposure(make_settings: Callable[..., Any]) -> None:
    runtime = watched(make_settings)
    put_candles(runtime, "BTC-USD", [100.0] * 120)
    put_open(runtime, AS_OF - timedelta(minutes=30))
    held = account(runtime)
    assert held.state.margin_usd == pytest.approx(1_000.1 / 3.3) and held.pending_margin_usd == 0.0
    assert held.free_margin_usd == pytest.approx(held.state.equity - 1_000.1 / 3.3)
    assert [(one.symbol, one.side, one.risk_usd) for one in held.open_risks] == [("BTC-USD", "BUY", 100.0)]
    put(
        runtime, "gated_signals", signal_id="waits", as_of=AS_OF - MINUTE, symbol="ETH-USD", strategy="v7",
        side="SELL", accepted=True, freshness_ok=True, halt_ok=True, budget_ok=True, gate_inputs="{}", gates_off="",
        reason_codes="", quantity=1.0, risk_usd=50.0, notional_usd=330.0,
    )  # fmt: skip
    waits = account(runtime)
    assert waits.pending_margin_usd == pytest.approx(100.0) and waits.pending_usd == 50.0
    assert {one.symbol for one in waits.open_risks} == {"BTC-USD", "ETH-USD"}


def test_a_signal_whose_scan_died_before_it_was_followed_trades_all_the_same(
    make_settings: Callable[..., Any],
) -> None:
    runtime = watched(make_settings)
    closes = np.full(60, 100.0)
    closes[-10:] = 85.0  # through the stop at 90
    put_candles(runtime, "BTC-USD", closes)
    put_open(runtime, AS_OF - timedelta(minutes=40))
    stopped = account(runtime).state
    with runtime.store.transaction() as tx:
        tx.execute("DELETE FROM outcomes", ())
    assert account(runtime).state == stopped
    by_hand = {"symbol": "BTC-USD", "strategy": "v7", "side": "BUY", "as_of": AS_OF - timedelta(minutes=40)}
    put(
        runtime, "outcomes", **by_hand, signal_id=f"v7-BTC-USD-{by_hand['as_of']:%Y%m%dT%H%M%SZ}", kind="manual",
        ambiguous=False, outcome="open", fee_preset="none",
    )  # fmt: skip
    assert account(runtime).state == stopped  # the trader's own trade stands beside it, not in its place
    assert stopped.open_positions == 0 and stopped.balance < 99_850.0 and account(runtime).open_risks == ()


def test_the_time_until_which_trades_are_open_is_that_of_their_horizons(make_settings: Callable[..., Any]) -> None:
    runtime = watched(make_settings)
    put_candles(runtime, "BTC-USD", [100.0] * 120)
    assert account(runtime).open_until is None
    assert account(runtime).held_until(240) == AS_OF + timedelta(minutes=255)
    put_open(runtime, AS_OF - timedelta(minutes=30))
    assert account(runtime).open_until == AS_OF - timedelta(minutes=30) + timedelta(minutes=10_015)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE llm_signals SET horizon_minutes = 10", ())
        tx.execute("DELETE FROM candles WHERE open_time >= ?", (AS_OF - timedelta(minutes=25),))
    assert account(runtime).open_until == AS_OF + timedelta(days=1)  # should be over; its candles have not come


def test_limits_are_tested_from_the_firms_day_of_the_scan_before_and_wholly_where_asked(
    make_settings: Callable[..., Any],
) -> None:
    runtime = watched(make_settings, risk_per_trade=0.05)
    long_ago = AS_OF - timedelta(days=3)
    closes, lows = np.full(4_000, 100.0), np.full(4_000, 100.0)
    lows[2_000] = 40.0  # two days ago: 60 below entry, 6,000 USD on a hundred units
    put_candles(runtime, "BTC-USD", closes, low=lows)
    put_open(runtime, long_ago, quantity=100.0)
    without_stop(runtime)
    first = account(runtime).state
    assert first.first_breach_at == AS_OF - timedelta(minutes=2_000)  # no scan has gated yet: all is looked at
    put(
        runtime, "gated_signals", signal_id="since", as_of=AS_OF - timedelta(minutes=2), symbol="ETH-USD",
        strategy="v7", accepted=False, freshness_ok=True, halt_ok=True, budget_ok=True, gate_inputs="{}", gates_off="",
        reason_codes="HOLD",
    )  # fmt: skip
    live, whole = account(runtime).state, account(runtime, whole=True).state
    assert live.first_breach_at is None and whole.first_breach_at == first.first_breach_at
    assert (live.balance, live.equity, live.floor, live.worst_equity_today) == (
        whole.balance, whole.equity, whole.floor, whole.worst_equity_today,
    )  # fmt: skip


def test_a_total_halt_that_a_person_lifted_forgives_what_came_before(make_settings: Callable[..., Any]) -> None:
    runtime = watched(make_settings)
    put_candles(runtime, "BTC-USD", [100.0] * 60)
    put_open(runtime, AS_OF - timedelta(minutes=40), quantity=200.0)
    low = np.full(60, 100.0)
    low[40] = 45.0  # an equity of 89,000 for a moment
    put_candles(runtime, "BTC-USD", [100.0] * 60, low=low)
    without_stop(runtime)
    dip = AS_OF - timedelta(minutes=20)
    assert (account(runtime).state.breached, account(runtime).state.breached_at) == ("total", dip)
    put(
        runtime, "halts", halt_id="t", kind="total", started_at=dip + MINUTE, reason="r",
        lifted_at=AS_OF - timedelta(minutes=5),
    )  # fmt: skip
    assert account(runtime).state.breached is None and account(runtime).state.first_breach_at == dip
    assert account(runtime, AS_OF - timedelta(minutes=6)).state.breached == "total"


def test_lesson_03_calls_of_an_analyst_are_counted_over_sixty_minutes_of_earlier_scans(
    make_settings: Callable[..., Any],
) -> None:
    runtime = watched(make_settings)
    for minutes in (0, 2, 59, 60, 61):
        put_call(runtime, f"c{minutes}", 0.001, at=AS_OF - timedelta(minutes=minutes))
    with runtime.store.reading() as reader:
        assert calls_made(reader, "deepseek", AS_OF) == 2
        assert calls_made(reader, "another", AS_OF) == 0


def test_correlations_are_of_what_both_traded_and_missing_where_that_is_too_little(
    make_settings: Callable[..., Any],
) -> None:
    runtime = watched(make_settings)
    rng = np.random.default_rng(3)
    steps = rng.normal(0, 0.001, 1_440)
    path = 100 * np.exp(np.cumsum(steps))
    put_candles(runtime, "BTC-USD", path)
    put_candles(runtime, "ETH-USD", 1e6 / path)
    put_candles(runtime, "SOL-USD", 100 * np.exp(np.cumsum(0.6 * steps + 0.8 * rng.normal(0, 0.001, 1_440))))
    put_candles(runtime, "NEW-USD", path[-200:])
    put_candles(runtime, "STILL-USD", np.ones(1_440))
    names = ("SOL-USD", "BTC-USD", "ETH-USD", "NEW-USD", "STILL-USD", "GONE-USD")
    with runtime.store.reading() as reader:
        found = correlations(reader, AS_OF, names)
        assert correlations(reader, AS_OF, ("BTC-USD",)) == {}
        earlier = correlations(reader, AS_OF - timedelta(hours=10), names)
    assert set(found) == {("BTC-USD", "ETH-USD"), ("BTC-USD", "SOL-USD"), ("ETH-USD", "SOL-USD")}
    assert found["BTC-USD", "ETH-USD"] == pytest.approx(-1.0)
    assert found["BTC-USD", "SOL-USD"] == pytest.approx(0.6, abs=0.15)
    by_hand = np.corrcoef(*(np.diff(np.log(p[4::5])) for p in (path, path)))[0, 1]
    assert by_hand == pytest.approx(1.0) and earlier != found  # nothing from after the instant
