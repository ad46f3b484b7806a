"""All gates together over the decisions of a scan, and the cheap ones before it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.gates import (
    GATED_COLUMNS,
    GATES,
    AccountState,
    GateContext,
    GateLimits,
    OpenRisk,
    before_call,
    gate_signals,
    rotated,
    rules,
    why_not,
)
from v7_pipeline.settings import load_settings
from v7_pipeline.store.schema import table
from v7_pipeline.trades import SIZE_COLUMNS, Product, follow, positions, size_signals
from v7_pipeline_tests.gates.builders import MINUTE, at, book, closed, state, walk

NOW = at("2026-11-16T12:02Z")
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
LIMITS = GateLimits(
    max_price_age_s=180.0, max_decision_delay_s=120.0, max_signals_per_hour=6, max_calls_per_hour=180,
    min_confidence=0.55, min_reward_risk=1.5, max_entry_distance=0.005, min_stop_volatilities=1.0, min_stop_spreads=3.0,
    fee_rate=0.000325, slippage=0.0001, ftmo_buffer_usd=500.0, max_equity_age_s=180.0, max_correlated_usd=1e9,
)  # fmt: skip
NO_HALTS = pd.DataFrame(columns=["halt_id", "kind", "started_at", "until", "lifted_at"])
HALTED = pd.DataFrame([{"halt_id": "h", "kind": "manual", "started_at": NOW, "until": None, "lifted_at": None}])


def context(*, now: datetime = NOW, limits: dict[str, Any] | None = None, **changes: Any) -> GateContext:
    given: dict[str, Any] = {
        "limits": dataclasses.replace(LIMITS, **(limits or {})), "halts": NO_HALTS, "accepted_times": (),
        "account": state(book(), now), "pending_risk_usd": 0.0, "day_room_usd": 3.0, "month_room_usd": 100.0,
        "call_worst_case_usd": 0.001, "volatility": dict.fromkeys(SYMBOLS, 0.001),
    }  # fmt: skip
    return GateContext(**{**given, **changes})


def decision(
    symbol: str = "BTC-USD", side: str | None = "BUY", *, now: datetime = NOW, **changes: Any
) -> dict[str, Any]:
    d = {"BUY": 1.0, "SELL": -1.0}.get(side or "", np.nan)
    row = {
        "signal_id": f"v7-{symbol}-{now:%Y%m%dT%H%M%SZ}", "as_of": now, "features_as_of": now - MINUTE,
        "decided_at": now + timedelta(seconds=4), "symbol": symbol, "strategy": "v7", "side": side, "confidence": 0.7,
        "entry_price": 100.0 if d == d else None, "stop_price": 100.0 - d, "target_price": 100.0 + 2 * d,
        "market_price": 100.0, "status": "answered", "status_reason": None,
    }  # fmt: skip
    return {**row, **changes}


def sizes(signals: pd.DataFrame, **figures: Any) -> pd.DataFrame:
    """Sizes of `signals` that are all alike and tie up no margin."""
    given = {"quantity": 1.0, "risk_usd": 1.0, "notional_usd": 100.0, "margin_usd": 0.0, "lots": 1.0, "capped_by": None}
    return pd.DataFrame({"signal_id": signals["signal_id"]}).assign(**{**given, **figures})


def gated(
    *rows: dict[str, Any], with_: GateContext | None = None, risk: float = 500.0, rotation: int = 0, now: datetime = NOW
) -> pd.DataFrame:
    signals = pd.DataFrame(list(rows))
    sized = sizes(signals, quantity=400.0, risk_usd=risk)
    return gate_signals(signals, as_of=now, context=with_ or context(now=now), sized=sized, rotation=rotation)


def only(*args: Any, **kwargs: Any) -> pd.Series:
    return gated(*args, **kwargs).iloc[0]


OK_COLUMNS = [f"{gate}_ok" for gate in GATES]


def test_a_sound_signal_passes_every_gate_and_keeps_what_they_saw() -> None:
    row = only(decision())
    assert row["accepted"] and row["reason_codes"] == "" and row["gates_off"] == ""
    assert all(row[OK_COLUMNS]) and row["tier"] == "MEDIUM"
    assert (row["quantity"], row["risk_usd"]) == (400.0, 500.0)
    seen = json.loads(row["gate_inputs"])
    assert set(seen) == set(GATES)
    assert seen["freshness"]["price_age_s"] == 60 and seen["ftmo"]["room_left_usd"] == 4_000


def test_the_frame_has_the_tables_columns_and_the_decisions_order() -> None:
    rows = [decision(s) for s in ("SOL-USD", "BTC-USD", "ETH-USD")]
    frame = gated(*rows, rotation=1)
    assert tuple(frame.columns) == GATED_COLUMNS
    assert frame["symbol"].tolist() == ["SOL-USD", "BTC-USD", "ETH-USD"]
    required = [c.name for c in table("gated_signals").columns if not c.nullable and c.name in frame]
    assert frame[required].notna().all().all()
    empty = gate_signals(
        pd.DataFrame(columns=list(decision())), as_of=NOW, context=context(),
        sized=pd.DataFrame(columns=list(SIZE_COLUMNS)), rotation=0,
    )  # fmt: skip
    assert empty.empty and tuple(empty.columns) == GATED_COLUMNS


def test_a_rejected_signal_names_every_reason() -> None:
    bad = decision(stop_price=101.0, confidence=0.3, features_as_of=NOW - timedelta(minutes=10))
    full = context(
        halts=HALTED, accepted_times=[NOW - MINUTE] * 6, account=state(book(closed(-4_900, NOW - MINUTE)), NOW),
        day_room_usd=0.0, calls_made=180, open_risks=[OpenRisk("BTC-USD", "BUY", 500.0)],
    )  # fmt: skip
    row = only(bad, with_=full)
    assert not row["accepted"] and not any(row[OK_COLUMNS])
    assert row["reason_codes"].split(",") == [
        "PRICE_STALE", "HALT_MANUAL", "BUDGET_DAY", "CALL_LIMIT", "PLAN_STOP_SIDE", "CONFIDENCE_LOW", "RATE_LIMIT",
        "FTMO_DAILY_ROOM", "EXPOSURE_OPEN",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (decision(side="HOLD", confidence=0.9), "HOLD"),
        (decision(side=None, status="abstained", status_reason="TIMEOUT"), "ABSTAINED:TIMEOUT"),
        (
            decision(side=None, status="skipped", status_reason="HALT_MANUAL,RATE_LIMIT"),
            "SKIPPED:HALT_MANUAL,SKIPPED:RATE_LIMIT",
        ),
    ],
)
def test_what_is_no_signal_has_no_trade_gates_and_says_why(row: dict[str, Any], code: str) -> None:
    answer = only(row)
    assert not answer["accepted"] and answer["reason_codes"] == code
    assert answer[["plan_ok", "confidence_ok", "rate_ok", "ftmo_ok", "tier", "quantity", "risk_usd"]].isna().all()
    assert all(answer[["freshness_ok", "halt_ok", "budget_ok"]])


def test_lesson_02_buy_sell_and_hold_all_come_out_and_counts_are_conserved() -> None:
    rows = [decision("BTC-USD", "BUY"), decision("ETH-USD", "SELL"), decision("SOL-USD", "HOLD")]
    frame = gated(*rows)
    assert frame["side"].tolist() == ["BUY", "SELL", "HOLD"]
    assert frame["accepted"].tolist() == [True, True, False]
    assert len(frame) == frame["accepted"].sum() + (~frame["accepted"]).sum() == len(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": "LONG"}, "unknown side"),
        ({"side": "buy"}, "unknown side"),
        ({"side": None}, "unknown side"),
        ({"status": "failed"}, "unknown status"),
        ({"status": "skipped"}, "yet has the side"),
        ({"as_of": NOW - MINUTE}, "not of the scan"),
        ({"confidence": None}, "confidence"),
        ({"decided_at": NOW - MINUTE}, "before its scan"),
    ],
)
def test_lesson_02_a_mistake_raises_and_never_becomes_a_hold(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated({**decision(), **changes})


def test_lesson_02_missing_columns_and_repeated_signals_raise() -> None:
    signals = pd.DataFrame([decision()])
    sized = sizes(signals)
    call = {"as_of": NOW, "context": context(), "rotation": 0}
    with pytest.raises(ValueError, match="stop_price"):
        gate_signals(signals.drop(columns="stop_price"), sized=sized, **call)
    with pytest.raises(ValueError, match="risk_usd"):
        gate_signals(signals, sized=sized.drop(columns="risk_usd"), **call)
    with pytest.raises(ValueError, match="twice"):
        gate_signals(pd.concat([signals, signals]), sized=sized, **call)


def test_without_a_size_a_signal_is_refused() -> None:
    signals = pd.DataFrame([decision()])
    none = pd.DataFrame(columns=list(SIZE_COLUMNS))
    row = gate_signals(signals, as_of=NOW, context=context(), sized=none, rotation=0).iloc[0]
    assert row["reason_codes"] == "FTMO_RISK_UNKNOWN,FTMO_NO_SIZE" and row[["quantity", "risk_usd"]].isna().all()
    zero = sizes(signals, quantity=0.0, risk_usd=0.0)
    row = gate_signals(signals, as_of=NOW, context=context(), sized=zero, rotation=0).iloc[0]
    assert row["reason_codes"] == "FTMO_NO_SIZE" and not row["ftmo_ok"]


# --- limits shared within a scan ---------------------------------------------------------------------


def test_lesson_03_hold_never_uses_an_emission_slot() -> None:
    rows = [decision("BTC-USD", "HOLD"), decision("ETH-USD", "HOLD"), decision("SOL-USD", "BUY")]
    for rotation in range(3):
        frame = gated(*rows, with_=context(limits={"max_signals_per_hour": 1}), rotation=rotation)
        assert frame["accepted"].tolist() == [False, False, True]


def test_lesson_03_rejected_signals_use_no_slot_either() -> None:
    rows = [decision("BTC-USD", confidence=0.1), decision("ETH-USD", stop_price=101.0), decision("SOL-USD")]
    assert gated(*rows, with_=context(limits={"max_signals_per_hour": 1}))["accepted"].tolist() == [False, False, True]


@pytest.mark.parametrize("used", [0, 4, 5, 6])
def test_each_acceptance_takes_a_slot_from_those_after_it(used: int) -> None:
    frame = gated(*map(decision, SYMBOLS), with_=context(accepted_times=[NOW - MINUTE] * used))
    assert frame["accepted"].sum() == min(3, 6 - used)
    assert set(frame.loc[~frame["accepted"], "reason_codes"]) <= {"RATE_LIMIT"}


def test_each_acceptance_takes_its_room_from_those_after_it() -> None:
    frame = gated(*map(decision, SYMBOLS), risk=2_000.0)  # 5,000 of room less 500 of buffer hold two of them
    assert frame["accepted"].sum() == 2
    assert frame.loc[~frame["accepted"], "reason_codes"].tolist() == ["FTMO_DAILY_ROOM"]
    waiting = gated(*map(decision, SYMBOLS), risk=2_000.0, with_=context(pending_risk_usd=2_000.0))
    assert waiting["accepted"].sum() == 1


@pytest.mark.parametrize("symbols", [SYMBOLS, ("A", "B"), ("A", "B", "C", "D", "E")])
def test_lesson_03_every_symbol_is_first_once_in_each_run(symbols: tuple[str, ...]) -> None:
    n = len(symbols)
    for run in range(50):
        assert {rotated(symbols, run * n + step)[0] for step in range(n)} == set(symbols)
    assert sorted(rotated(symbols, 12345)) == sorted(symbols)
    assert rotated((), 5) == ()


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_lesson_03_a_limit_smaller_than_the_symbols_is_shared_fairly_for_days(limit: int) -> None:
    """Three symbols that want to buy at every scan: thirty scans an hour, so plain rotation would always pick one."""
    accepted: Counter[str] = Counter()
    times: list[datetime] = []
    account = state(book(), NOW)
    for scan in range(30 * 24 * 2):
        now = NOW + scan * 2 * MINUTE
        times = [t for t in times if t > now - timedelta(hours=1)]
        if len(times) >= limit:
            continue
        account = dataclasses.replace(account, as_of=now, prices_as_of=now)
        frame = gated(
            *(decision(s, now=now) for s in SYMBOLS), now=now, rotation=int(now.timestamp()) // 120,
            with_=context(now=now, account=account, accepted_times=times, limits={"max_signals_per_hour": limit}),
        )  # fmt: skip
        for symbol in frame.loc[frame["accepted"], "symbol"]:
            accepted[symbol] += 1
            times.append(now)
    assert sum(accepted.values()) == limit * 24 * 2
    assert max(accepted.values()) - min(accepted.values()) <= 0.1 * sum(accepted.values()) / 3 + 2


def test_what_this_scan_accepts_counts_as_open_for_the_rest_of_it() -> None:
    rows = [decision(s) for s in SYMBOLS]
    alike = {("BTC-USD", "ETH-USD"): 1.0, ("BTC-USD", "SOL-USD"): 1.0, ("ETH-USD", "SOL-USD"): 1.0}
    tight = context(correlations=alike, limits={"max_correlated_usd": 1_000.0})
    for rotation in range(3):
        frame = gated(*rows, with_=tight, rotation=rotation).set_index("symbol")
        last = rotated(SYMBOLS, rotation)[-1]
        assert frame.loc[frame["accepted"]].index.tolist() == [s for s in SYMBOLS if s != last]
        assert frame.loc[last, "reason_codes"] == "EXPOSURE_CORRELATED"
    twice = [decision(), decision(signal_id="ensemble-BTC-USD-x", strategy="ensemble")]
    assert gated(*twice)["reason_codes"].tolist() == ["", "EXPOSURE_OPEN"]


def test_a_trade_that_may_live_over_midnight_is_held_against_the_next_days_room() -> None:
    late = at("2026-11-16T21:02Z")  # two hours before midnight in Prague
    won = state(book(closed(4_000, late - MINUTE)), late)
    here = {"account": won, "now": late}
    short, long = decision(now=late, horizon_minutes=60), decision(now=late, horizon_minutes=240)
    assert only(short, with_=context(**here), risk=6_000.0, now=late)["accepted"]
    assert only(long, with_=context(**here), risk=6_000.0, now=late)["reason_codes"] == "FTMO_NEXT_DAY_ROOM"
    assert only(decision(now=late), with_=context(**here), risk=6_000.0, now=late)["ftmo_ok"] is not True
    default = context(**here, horizon_minutes=60)
    assert only(decision(now=late), with_=default, risk=6_000.0, now=late)["accepted"]
    held = context(**here, horizon_minutes=60, open_until=late + timedelta(hours=3))
    assert only(short, with_=held, risk=6_000.0, now=late)["reason_codes"] == "FTMO_NEXT_DAY_ROOM"


def test_what_was_learnt_raises_the_threshold_of_a_scan() -> None:
    assert only(decision(confidence=0.7), with_=context(learnt_confidence=0.71))["reason_codes"] == "CONFIDENCE_LOW"
    assert only(decision(confidence=0.7), with_=context(learnt_confidence=0.2))["accepted"]


# --- switched off, blocked, done again -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "rows", "changes"),
    [
        ("freshness", {"features_as_of": NOW - timedelta(hours=4)}, {}),
        ("halt", {}, {"halts": HALTED}),
        ("budget", {}, {"day_room_usd": 0.0}),
        ("plan", {"target_price": 100.1}, {}),
        ("confidence", {"confidence": 0.2}, {}),
        ("rate", {}, {"accepted_times": [NOW - MINUTE] * 9}),
        ("ftmo", {}, {"account": None}),
        ("calls", {}, {"calls_made": 180}),
        ("exposure", {}, {"open_risks": [OpenRisk("BTC-USD", "BUY", 1.0)]}),
    ],
)
def test_lesson_25_a_gate_that_is_off_still_answers_and_says_so_on_the_signal(
    gate: str, rows: dict[str, Any], changes: dict[str, Any]
) -> None:
    on = only(decision(**rows), with_=context(**changes))
    assert not on["accepted"] and not on[f"{gate}_ok"] and on["gates_off"] == ""
    off = only(decision(**rows), with_=context(**changes, off=frozenset({gate})))
    assert off["accepted"] and not off[f"{gate}_ok"] and off["gates_off"] == gate and off["reason_codes"] == ""
    assert json.loads(off["gate_inputs"])[gate]["reasons"]


def test_no_gate_that_is_off_makes_a_trade_without_a_size() -> None:
    everything = frozenset(GATES)
    signals = pd.DataFrame([decision()])
    for sized in (pd.DataFrame(columns=list(SIZE_COLUMNS)), sizes(signals, quantity=0.0, risk_usd=0.0)):
        row = gate_signals(signals, as_of=NOW, context=context(off=everything), sized=sized, rotation=0).iloc[0]
        assert not row["accepted"] and row["reason_codes"] == "FTMO_NO_SIZE"


def test_lesson_25_only_real_gates_can_be_switched_off() -> None:
    with pytest.raises(ValueError, match="no gate is called everything"):
        context(off=frozenset({"everything"}))


def test_lesson_17_a_block_leaves_the_decision_untouched() -> None:
    signals = pd.DataFrame([decision(confidence=0.1, reasoning="because")])
    before = signals.copy(deep=True)
    sized = sizes(signals)
    row = gate_signals(signals, as_of=NOW, context=context(), sized=sized, rotation=0).iloc[0]
    pd.testing.assert_frame_equal(signals, before)
    assert row["side"] == "BUY" and not row["accepted"] and row["reason_codes"] == "CONFIDENCE_LOW"


def test_lesson_32_the_same_scan_twice_decides_alike() -> None:
    rows = [*map(decision, SYMBOLS)]
    first = gated(*rows, risk=2_000.0, rotation=7)
    again = gated(*rows, risk=2_000.0, rotation=7, with_=context(accepted_times=[NOW, NOW]))
    pd.testing.assert_frame_equal(first, again)


def test_several_strategies_of_a_symbol_are_gated_each() -> None:
    rows = [
        decision(),
        decision(signal_id="v6-BTC-USD-x", strategy="v6", side="SELL", stop_price=101.0, target_price=98.0),
    ]
    assert gated(*rows)["accepted"].tolist() == [True, True]


# --- before a call ------------------------------------------------------------------------------------------


def _before(context_: GateContext, **late: datetime | None) -> dict[str, str | None]:
    known = dict.fromkeys(SYMBOLS, NOW - MINUTE) | {k.replace("_", "-"): v for k, v in late.items()}
    answers = before_call(SYMBOLS, as_of=NOW, features_as_of=known, context=context_, rotation=0)
    assert set(answers) == set(SYMBOLS)
    return {symbol: why_not(answers[symbol], context_) for symbol in SYMBOLS}


def test_calls_are_made_where_nothing_stands_against_them() -> None:
    assert _before(context()) == dict.fromkeys(SYMBOLS)


def test_no_call_where_no_signal_could_come_of_it() -> None:
    assert set(_before(context(halts=HALTED)).values()) == {"HALT_MANUAL"}
    assert set(_before(context(accepted_times=[NOW - MINUTE] * 6)).values()) == {"RATE_LIMIT"}
    assert set(_before(context(account=None)).values()) == {"FTMO_NO_ACCOUNT"}
    spent = state(book(closed(-4_501, NOW - MINUTE)), NOW)
    assert set(_before(context(account=spent)).values()) == {"FTMO_DAILY_ROOM"}
    stale = _before(context(), ETH_USD=NOW - timedelta(minutes=9), SOL_USD=None)
    assert stale == {"BTC-USD": None, "ETH-USD": "PRICE_STALE", "SOL-USD": "NO_READING"}


def test_calls_share_the_budgets_room() -> None:
    answers = _before(context(day_room_usd=0.0025))
    assert sorted(map(str, answers.values())) == ["BUDGET_DAY", "None", "None"]


def test_lesson_25_a_cheap_gate_that_is_off_does_not_stop_the_call() -> None:
    assert _before(context(halts=HALTED, off=frozenset({"halt"}))) == dict.fromkeys(SYMBOLS)


def test_limits_come_from_the_settings() -> None:
    limits = GateLimits.of(load_settings(ftmo_buffer=0.2), rules("ftmo-1step"), fee_rate=0.000325)
    assert limits.ftmo_buffer_usd == pytest.approx(0.2 * 0.03 * 100_000)
    assert (limits.max_signals_per_hour, limits.min_confidence, limits.min_reward_risk) == (6, 0.55, 1.5)


# --- the gates and the book together --------------------------------------------------------------------------


def _account_of(accepted: pd.DataFrame, candles: pd.DataFrame, now: datetime) -> AccountState:
    trades = accepted.assign(kind="paper", horizon_minutes=240)
    outcomes = follow(trades, candles, as_of=now, fee_preset="ftmo-crypto", slippage=1e-4, breakeven_band_r=0.1)
    return state(positions(outcomes, accepted, slippage=1e-4), now, candles)


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 1_000), st.sampled_from([1_000.0, 3_000.0]))
def test_accepted_trades_never_take_the_account_through_a_limit_while_stops_hold(seed: int, risk: float) -> None:
    """A losing strategy on rough walks without gaps: the room runs out, the limits hold, in every minute."""
    start = at("2026-11-16T08:00Z")
    candles = pd.concat([walk(seed * 3 + i, start, 600, symbol=s, sigma=0.003) for i, s in enumerate(SYMBOLS)])
    closes = {s: rows.set_index("open_time")["close"] for s, rows in candles.groupby("symbol")}
    ledger: list[pd.DataFrame] = []
    times: list[datetime] = []
    columns = [*decision(), "quantity", "risk_usd"]
    for scan in range(5, 590, 15):
        now = start + scan * MINUTE
        accepted = pd.concat(ledger) if ledger else pd.DataFrame(columns=columns)
        account = _account_of(accepted, candles, now) if ledger else state(book(), now)
        assert account.first_breach_at is None
        rows = []
        for i, symbol in enumerate(SYMBOLS):
            price = float(closes[symbol][now - MINUTE])
            d = 1 if (seed + scan + i) % 2 else -1
            rows.append(
                decision(
                    symbol, "BUY" if d > 0 else "SELL", now=now, entry_price=price, market_price=price,
                    stop_price=price * (1 - d * 0.004), target_price=price * (1 + d * 0.05),
                )
            )  # fmt: skip
        signals = pd.DataFrame(rows)
        product = Product(fee_rate=0.000325, leverage=1e3)
        sized = size_signals(
            signals, risk_usd=risk, slippage=1e-4, free_margin_usd=1e9, products=dict.fromkeys(SYMBOLS, product)
        )
        context_ = context(
            now=now,
            account=account,
            accepted_times=times,
            limits={"max_signals_per_hour": 99, "ftmo_buffer_usd": 100.0},
        )
        result = gate_signals(signals, as_of=now, context=context_, sized=sized, rotation=scan)
        passed = result[result["accepted"]]
        if len(passed):
            ledger.append(signals.merge(passed[["signal_id", "quantity", "risk_usd"]], on="signal_id"))
    final = _account_of(pd.concat(ledger), candles, start + 600 * MINUTE)
    assert final.first_breach_at is None
    assert final.worst_equity_today >= final.floor


# --- calls ---------------------------------------------------------------------------------------------------


def test_lesson_03_a_call_limit_smaller_than_the_symbols_is_shared_fairly() -> None:
    asked: Counter[str] = Counter()
    nearly = context(calls_made=178)
    for scan in range(300):
        answers = before_call(
            SYMBOLS, as_of=NOW, features_as_of=dict.fromkeys(SYMBOLS, NOW - MINUTE), rotation=scan, context=nearly
        )
        refused = {s: why_not(answer, nearly) for s, answer in answers.items()}
        assert sorted(code for code in refused.values() if code) == ["CALL_LIMIT"]
        asked.update(s for s, code in refused.items() if code is None)
    assert sum(asked.values()) == 600 and max(asked.values()) - min(asked.values()) <= 6


def test_an_analyst_that_asks_nobody_has_no_call_limit() -> None:
    row = only(decision(), with_=context(calls_made=None, limits={"max_calls_per_hour": 0}))
    assert row["accepted"] and row["calls_ok"]
