"""Each gate by itself: what passes, what does not, and what is a mistake."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.gates import ANALYST_REASONS, REASONS, AccountState, GateResult, explain, reasons, tier_of
from v7_pipeline.gates import conditions as gate
from v7_pipeline_tests.gates.builders import MINUTE, at, book, closed, flat, position, state

NOW = at("2026-11-16T12:02Z")
AGES = {"max_price_age_s": 180.0, "max_decision_delay_s": 120.0}


# --- freshness -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "delay_s", "codes"),
    [
        (0, 0, ()),
        (180, 120, ()),
        (181, 0, ("PRICE_STALE",)),
        (0, 121, ("DECISION_LATE",)),
        (999, 999, ("PRICE_STALE", "DECISION_LATE")),
    ],
)
def test_lesson_01_a_stale_price_or_a_late_decision_is_refused(
    age_s: int, delay_s: int, codes: tuple[str, ...]
) -> None:
    answer = gate.freshness(NOW, NOW - timedelta(seconds=age_s), NOW + timedelta(seconds=delay_s), **AGES)
    assert answer.reason_codes == codes and answer.passed is (not codes)
    assert answer.inputs["price_age_s"] == age_s and answer.inputs["decision_delay_s"] == delay_s


def test_lesson_01_the_249_minutes_of_old_are_refused() -> None:
    assert gate.freshness(NOW, NOW - timedelta(minutes=249), NOW, **AGES).reason_code == "PRICE_STALE"


def test_without_a_reading_nothing_is_fresh() -> None:
    assert gate.freshness(NOW, None, None, **AGES).reason_code == "NO_READING"
    assert gate.freshness(NOW, pd.NaT, None, **AGES).reason_code == "NO_READING"


def test_lesson_02_impossible_times_raise() -> None:
    with pytest.raises(ValueError, match="not known then"):
        gate.freshness(NOW, NOW + MINUTE, NOW, **AGES)
    with pytest.raises(ValueError, match="before its scan"):
        gate.freshness(NOW, NOW, NOW - MINUTE, **AGES)


def test_lesson_04_naive_times_are_refused_and_zones_are_respected() -> None:
    with pytest.raises(ValueError, match="time zone"):
        gate.freshness(datetime(2026, 11, 16, 12, 2), NOW, NOW, **AGES)  # noqa: DTZ001
    with pytest.raises(ValueError, match="time zone"):
        gate.rate_limit([datetime(2026, 11, 16, 12, 1)], NOW, 6)  # noqa: DTZ001
    kolkata = at("2026-11-16T17:31+05:30")  # 12:01 UTC
    assert gate.freshness(NOW, kolkata, None, **AGES).inputs["price_age_s"] == 60


# --- halt -------------------------------------------------------------------------------------------


def _halts(**changes: Any) -> pd.DataFrame:
    row = {"halt_id": "h1", "kind": "manual", "started_at": NOW - MINUTE, "until": None, "lifted_at": None}
    return pd.DataFrame([{**row, **changes}])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "HALT_MANUAL"),
        ({"kind": "daily", "until": NOW + MINUTE}, "HALT_DAILY"),
        ({"kind": "total"}, "HALT_TOTAL"),
        ({"started_at": NOW}, "HALT_MANUAL"),
        ({"started_at": NOW + MINUTE}, None),
        ({"until": NOW}, None),
        ({"lifted_at": NOW}, None),
        ({"lifted_at": NOW + MINUTE}, "HALT_MANUAL"),
    ],
)
def test_a_halt_is_in_force_from_its_start_until_it_ends_or_is_lifted(
    changes: dict[str, Any], code: str | None
) -> None:
    answer = gate.halt(_halts(**changes), NOW)
    assert answer.reason_code == code and answer.passed is (code is None)
    assert answer.inputs["halts"] == (["h1"] if code else [])


def test_no_halts_pass_and_unknown_kinds_raise() -> None:
    assert gate.halt(_halts().iloc[:0], NOW).passed is True
    with pytest.raises(ValueError, match="unknown kind"):
        gate.halt(_halts(kind="holiday"), NOW)


def test_a_halt_for_the_budget_stops_paid_calls_only() -> None:
    used_up = _halts(kind="budget", until=NOW + MINUTE)
    assert gate.halt(used_up, NOW).reason_code == "HALT_BUDGET"
    assert gate.halt(used_up, NOW, paid=False).passed is True


# --- calls -------------------------------------------------------------------------------------------


def test_lesson_03_calls_have_a_limit_of_their_own() -> None:
    assert gate.calls(179, 180).passed is True
    assert gate.calls(180, 180).reason_code == "CALL_LIMIT"
    assert gate.calls(178, 180, made_here=1).passed is True
    assert gate.calls(178, 180, made_here=2).inputs == {"calls_in_the_last_hour": 180, "max_per_hour": 180}


# --- budget ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "month", "worst", "code"),
    [
        (1.0, 1.0, 1.0, None),
        (0.5, 1.0, 0.6, "BUDGET_DAY"),
        (1.0, 0.5, 0.6, "BUDGET_MONTH"),
        (-1.0, -1.0, 0.1, "BUDGET_DAY,BUDGET_MONTH"),
        (0.0, 0.0, 0.0, None),
        (math.inf, math.inf, 0.0, None),
    ],
)
def test_a_call_needs_room_in_both_budgets(day: float, month: float, worst: float, code: str | None) -> None:
    answer = gate.budget(day, month, worst)
    assert answer.reason_code == code and answer.passed is (code is None)


def test_lesson_02_a_budget_that_is_no_number_raises() -> None:
    with pytest.raises(ValueError, match="not a number"):
        gate.budget(math.nan, 1.0, 0.1)


# --- plan ---------------------------------------------------------------------------------------------

LIMITS = {
    "fee_rate": 0.000325, "slippage": 0.0001, "max_entry_distance": 0.005, "min_reward_risk": 1.5,
    "min_stop_volatilities": 1.0,
}  # fmt: skip


def plan(side: str = "BUY", entry: Any = 100.0, stop: Any = 99.0, target: Any = 102.0, **changes: Any) -> GateResult:
    given = {"market_price": 100.0, "volatility": 0.001, **LIMITS, **changes}
    return gate.plan(side, entry, stop, target, **given)


@pytest.mark.parametrize("args", [("BUY", 100.0, 99.0, 102.0), ("SELL", 100.0, 101.0, 98.0)])
def test_a_sound_plan_passes(args: tuple[str, float, float, float]) -> None:
    assert plan(*args).passed is True


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("BUY", 100.0, 101.0, 102.0), "PLAN_STOP_SIDE"),
        (("BUY", 100.0, 100.0, 102.0), "PLAN_STOP_SIDE"),
        (("SELL", 100.0, 99.0, 98.0), "PLAN_STOP_SIDE"),
        (("BUY", 100.0, 99.0, 99.5), "PLAN_TARGET_SIDE"),
        (("SELL", 100.0, 101.0, 100.5), "PLAN_TARGET_SIDE"),
        (("BUY", 100.0, 103.0, 98.0), "PLAN_STOP_SIDE,PLAN_TARGET_SIDE"),
        (("BUY", 100.6, 99.0, 104.0), "PLAN_ENTRY_FAR"),
        (("BUY", 99.4, 98.0, 104.0), "PLAN_ENTRY_FAR"),
        (("BUY", 100.0, 99.0, 101.4), "PLAN_REWARD_RISK"),
        (("BUY", 100.0, 99.95, 102.0), "PLAN_STOP_CLOSE"),
        (("BUY", None, 99.0, 102.0), "PLAN_INCOMPLETE"),
        (("BUY", 100.0, math.nan, 102.0), "PLAN_INCOMPLETE"),
        (("SELL", 100.0, 101.0, -98.0), "PLAN_INCOMPLETE"),
    ],
)
def test_lesson_16_a_plan_that_does_not_hold_together_is_refused_with_its_reason(args: Any, code: str) -> None:
    answer = plan(*args)
    assert answer.passed is False and answer.reason_code == code


def test_lesson_16_a_market_that_is_beyond_the_stop_already_refuses() -> None:
    assert "PLAN_STOP_SIDE" in plan("BUY", 100.0, 99.8, 102.0, market_price=99.7).reason_codes
    assert "PLAN_TARGET_SIDE" in plan("SELL", 100.0, 101.0, 99.8, market_price=99.7).reason_codes


@pytest.mark.parametrize(("spread", "code"), [(0.33, None), (0.34, "PLAN_STOP_SPREAD"), (None, None), (math.nan, None)])
def test_a_stop_lies_some_spreads_away_where_the_spread_is_known(spread: float | None, code: str | None) -> None:
    answer = plan(spread=spread, min_stop_spreads=3.0)
    assert answer.reason_code == code
    assert (answer.inputs["spread"] is None) is (spread is None or math.isnan(spread))


def test_what_is_not_known_refuses() -> None:
    assert plan(market_price=None).reason_code == "PLAN_NO_MARKET"
    assert plan(volatility=None).reason_code == "PLAN_NO_VOLATILITY"
    assert plan(volatility=math.nan).reason_code == "PLAN_NO_VOLATILITY"


def test_reward_and_risk_are_net_of_fees_and_slippage() -> None:
    exact = plan("BUY", 100.0, 99.0, 101.5, fee_rate=0.0, slippage=0.0)
    assert exact.passed is True and exact.inputs["reward_risk"] == pytest.approx(1.5)
    net = plan("BUY", 100.0, 99.0, 101.5)
    fill, out = 100.01, 99.0 * 0.9999
    by_hand = (101.5 - fill - 0.000325 * (fill + 101.5)) / (fill - out + 0.000325 * (fill + out))
    assert net.inputs["reward_risk"] == pytest.approx(by_hand) and net.reason_code == "PLAN_REWARD_RISK"


def test_reward_and_risk_are_judged_at_the_worse_of_entry_and_market() -> None:
    assert plan("BUY", 100.0, 99.0, 102.0, market_price=100.3).reason_code == "PLAN_REWARD_RISK"
    assert plan("SELL", 100.0, 101.0, 98.0, market_price=99.7).reason_code == "PLAN_REWARD_RISK"


@settings(max_examples=100, deadline=None)
@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.floats(-0.6, 0.6), st.floats(0.0, 0.01))
def test_a_mirrored_plan_gets_the_mirrored_answer(stop: float, target: float, off: float, sigma: float) -> None:
    free = {"fee_rate": 0.0, "slippage": 0.0, "volatility": sigma, "max_entry_distance": 1.0}
    long_ = plan("BUY", 100.0, 100 - stop, 100 + target, market_price=100 + off, **free)
    short_ = plan("SELL", 100.0, 100 + stop, 100 - target, market_price=100 - off, **free)
    assert long_.reason_codes == short_.reason_codes


def test_lesson_07_hold_has_no_plan() -> None:
    with pytest.raises(ValueError, match="only BUY and SELL"):
        plan("HOLD")


# --- confidence and rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "tier", "passed"),
    [
        (1.0, "HIGH", True),
        (0.75, "HIGH", True),
        (0.7499, "MEDIUM", True),
        (0.65, "MEDIUM", True),
        (0.55, "LOW", True),
        (0.5499, None, False),
        (0.0, None, False),
    ],
)
def test_confidence_has_tiers_and_a_floor(value: float, tier: str | None, passed: bool) -> None:
    answer = gate.confidence(value, 0.55)
    assert answer.passed is passed and tier_of(value) == tier
    assert answer.reason_code == (None if passed else "CONFIDENCE_LOW")


@pytest.mark.parametrize(("learnt", "threshold"), [(None, 0.55), (0.3, 0.55), (0.55, 0.55), (0.8, 0.8)])
def test_lesson_29_what_was_learnt_raises_the_threshold_and_never_lowers_it(
    learnt: float | None, threshold: float
) -> None:
    answer = gate.confidence(threshold, 0.55, learnt=learnt)
    assert answer.passed is True and answer.inputs["threshold"] == threshold
    assert gate.confidence(threshold - 1e-9, 0.55, learnt=learnt).reason_code == "CONFIDENCE_LOW"
    with pytest.raises(ValueError, match="learnt confidence threshold"):
        gate.confidence(0.7, 0.55, learnt=75.0)


@pytest.mark.parametrize("value", [None, math.nan, -0.05, 1.01, 65.0])
def test_lesson_16_a_confidence_outside_its_range_raises(value: float | None) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        gate.confidence(value, 0.55)


def test_the_rate_window_is_the_sixty_minutes_before_the_scan() -> None:
    times = [NOW - timedelta(minutes=m) for m in (60, 59, 2)]
    answer = gate.rate_limit(times, NOW, 3)
    assert answer.passed is True and answer.inputs["accepted_in_the_last_hour"] == 2
    assert gate.rate_limit(times, NOW, 2).reason_code == "RATE_LIMIT"
    assert gate.rate_limit(times, NOW, 3, accepted_here=1).reason_code == "RATE_LIMIT"
    assert gate.rate_limit([], NOW, 0).passed is False


def test_lesson_32_a_scan_done_again_does_not_count_itself() -> None:
    assert gate.rate_limit([NOW, NOW + MINUTE], NOW, 1).passed is True


# --- FTMO ----------------------------------------------------------------------------------------------------

FTMO = {"as_of": NOW, "buffer_usd": 500.0, "max_age_s": 180.0}


def _account(*rows: dict[str, Any], candles: pd.DataFrame | None = None) -> AccountState:
    return state(book(*rows), NOW, candles)


def test_the_room_that_counts_is_the_room_left_after_the_worst_case() -> None:
    assert gate.ftmo(_account(), 4_500.0, **FTMO).passed is True
    answer = gate.ftmo(_account(), 4_500.01, **FTMO)
    assert answer.reason_code == "FTMO_DAILY_ROOM"
    assert answer.inputs["room_left_usd"] == pytest.approx(-0.01)


def test_the_open_and_the_pending_worst_cases_take_their_room() -> None:
    held = position(NOW - MINUTE, quantity=10, entry=100.0, worst=1_000.0)
    account = _account(held, candles=flat(130.0, NOW - MINUTE))  # 300 USD of floating profit do not count
    assert gate.ftmo(account, 3_500.0, **FTMO).passed is True
    assert gate.ftmo(account, 3_501.0, **FTMO).reason_code == "FTMO_DAILY_ROOM"
    assert gate.ftmo(account, 3_001.0, pending_usd=500.0, **FTMO).reason_code == "FTMO_DAILY_ROOM"


def test_the_margin_of_everything_stays_within_the_equity() -> None:
    assert gate.ftmo(_account(), 100.0, margin_usd=100_000.0, **FTMO).passed is True
    assert gate.ftmo(_account(), 100.0, margin_usd=100_000.01, **FTMO).reason_code == "FTMO_MARGIN"
    assert gate.ftmo(_account(), 100.0, margin_usd=1.0, pending_margin_usd=1e5, **FTMO).reason_code == "FTMO_MARGIN"
    held = position(NOW - MINUTE, quantity=3.3, entry=20_000.0, worst=0.0)  # 66,000 at 3.3: a margin of 20,000
    account = _account(held, candles=flat(20_000.0, NOW - MINUTE))
    assert gate.ftmo(account, 100.0, margin_usd=80_000.0, **FTMO).passed is True
    assert gate.ftmo(account, 100.0, margin_usd=80_001.0, **FTMO).reason_code == "FTMO_MARGIN"


def test_what_is_open_over_midnight_must_fit_into_the_next_days_room_too() -> None:
    """4,000 were won today: tomorrow's limit lies 4,000 higher, and a loss of 6,000 would break it (compare F6)."""
    account = _account(closed(4_000, NOW - MINUTE))
    midnight = account.day_ends_at
    assert gate.ftmo(account, 6_000.0, held_until=midnight - MINUTE, **FTMO).passed is True
    over = gate.ftmo(account, 6_000.0, held_until=midnight, **FTMO)
    assert over.reason_code == "FTMO_NEXT_DAY_ROOM" and over.inputs["room_left_usd"] == -1_500
    assert gate.ftmo(account, 6_000.0, **FTMO).reason_code == "FTMO_NEXT_DAY_ROOM"  # until when is not known
    assert gate.ftmo(account, 4_500.0, held_until=midnight, **FTMO).passed is True
    lost = _account(closed(-4_000, NOW - MINUTE))
    assert gate.ftmo(lost, 501.0, held_until=midnight, **FTMO).reason_code == "FTMO_DAILY_ROOM"


def test_a_position_in_a_symbol_that_nobody_prices_fails_closed() -> None:
    held = position(NOW - 2 * MINUTE, entry=100.0, symbol="WHAT-USD")
    assert gate.ftmo(_account(held, candles=flat(100.0, NOW - MINUTE)), 100.0, **FTMO).reason_code == "FTMO_NO_PRICES"


def test_the_binding_limit_is_named() -> None:
    lost = [closed(-4_000, NOW - timedelta(days=d)) for d in (3, 2)]
    assert gate.ftmo(_account(*lost), 1_600.0, **FTMO).reason_code == "FTMO_TOTAL_ROOM"


def test_what_is_missing_or_stale_fails_closed() -> None:
    assert gate.ftmo(None, 100.0, **FTMO).reason_code == "FTMO_NO_ACCOUNT"
    old = state(book(), NOW - timedelta(seconds=181))
    assert gate.ftmo(old, 100.0, **FTMO).reason_code == "FTMO_STALE"
    held = position(NOW - 9 * MINUTE, entry=100.0)
    assert gate.ftmo(_account(held), 100.0, **FTMO).reason_code == "FTMO_NO_PRICES"
    stale = _account(held, candles=flat(100.0, NOW - 5 * MINUTE))
    assert gate.ftmo(stale, 100.0, **FTMO).reason_code == "FTMO_STALE"
    for unknown in (None, math.nan, math.inf, -5.0):
        assert gate.ftmo(_account(), unknown, **FTMO).reason_code == "FTMO_RISK_UNKNOWN"
    without_stop = _account(position(NOW - MINUTE, entry=100.0, worst=None), candles=flat(100.0, NOW - MINUTE))
    assert gate.ftmo(without_stop, 100.0, **FTMO).reason_code == "FTMO_RISK_UNKNOWN"


def test_a_breach_refuses_and_says_which() -> None:
    assert "FTMO_BREACHED_DAILY" in gate.ftmo(_account(closed(-5_001, NOW - MINUTE)), 0.0, **FTMO).reason_codes
    assert "FTMO_BREACHED_TOTAL" in gate.ftmo(_account(closed(-10_001, NOW - MINUTE)), 0.0, **FTMO).reason_codes


def test_lesson_26_a_gain_never_refuses() -> None:
    assert gate.ftmo(_account(closed(50_000, NOW - MINUTE)), 4_000.0, **FTMO).passed is True


def test_lesson_24_an_account_of_the_future_raises() -> None:
    with pytest.raises(ValueError, match="not known then"):
        gate.ftmo(state(book(), NOW + MINUTE), 100.0, **FTMO)


# --- exposure ------------------------------------------------------------------------------------------------

BTC_LONG = gate.OpenRisk("BTC-USD", "BUY", 500.0)
ALIKE = {("BTC-USD", "ETH-USD"): 0.8, ("BTC-USD", "SOL-USD"): 0.6, ("ETH-USD", "SOL-USD"): 0.6}


def exposure(symbol: str, side: str | None, *open_: gate.OpenRisk, risk: float | None = 500.0, **changes: Any) -> Any:
    given = {"correlations": ALIKE, "max_correlated_usd": 1_000.0, **changes}
    return gate.exposure(symbol, side, risk, open_, **given)


def test_one_open_signal_for_each_symbol_and_side() -> None:
    assert exposure("BTC-USD", "BUY", BTC_LONG).reason_code == "EXPOSURE_OPEN"
    assert exposure("BTC-USD", "SELL", BTC_LONG).passed is True
    assert exposure("ETH-USD", "BUY", BTC_LONG).passed is True


def test_before_the_decision_a_symbol_is_shut_only_when_both_sides_are_open() -> None:
    short = gate.OpenRisk("BTC-USD", "SELL", 500.0)
    assert exposure("BTC-USD", None, BTC_LONG, risk=None).passed is True
    assert exposure("BTC-USD", None, BTC_LONG, short, risk=None).reason_code == "EXPOSURE_OPEN"


def test_correlated_risk_is_the_sum_of_what_moves_alike_and_the_root_of_squares_of_what_does_not() -> None:
    longs = [BTC_LONG, gate.OpenRisk("ETH-USD", "BUY", 500.0)]
    pair = ("BTC-USD", "ETH-USD")
    for rho, by_hand in [(1.0, 1_000.0), (0.0, math.sqrt(2) * 500.0), (-1.0, 0.0), (0.8, math.sqrt(900_000.0))]:
        assert gate.correlated_risk(longs, {pair: rho}) == pytest.approx(by_hand, abs=1e-9)
    assert gate.correlated_risk(longs, {}) == 1_000.0  # what is not known moves alike
    hedged = [BTC_LONG, gate.OpenRisk("ETH-USD", "SELL", 500.0)]
    assert gate.correlated_risk(hedged, {pair: 1.0}) == 0.0
    assert gate.correlated_risk(hedged, {}) == 1_000.0
    assert gate.correlated_risk([], {}) == 0.0
    with pytest.raises(ValueError, match="must be a number"):
        gate.correlated_risk([gate.OpenRisk("BTC-USD", "BUY", math.nan)], {})


def test_too_much_risk_on_one_move_is_refused_and_a_hedge_is_not() -> None:
    eth_long = gate.OpenRisk("ETH-USD", "BUY", 500.0)
    answer = exposure("SOL-USD", "BUY", BTC_LONG, eth_long)
    assert answer.reason_code == "EXPOSURE_CORRELATED"
    assert answer.inputs["correlated_risk_usd"] == pytest.approx(500 * math.sqrt(3 + 2 * (0.8 + 0.6 + 0.6)))
    assert exposure("SOL-USD", "SELL", BTC_LONG, eth_long).passed is True
    over = [gate.OpenRisk("BTC-USD", "BUY", 1_500.0)]  # above the cap already: only what lowers it may come
    assert exposure("ETH-USD", "SELL", *over).passed is True
    assert exposure("ETH-USD", "BUY", *over).reason_code == "EXPOSURE_CORRELATED"


# --- results ----------------------------------------------------------------------------------------------------


def test_the_settings_name_the_gates_that_there_are() -> None:
    from typing import get_args

    from v7_pipeline.gates import GATES
    from v7_pipeline.settings import GateName

    assert get_args(GateName) == GATES


def test_every_reason_code_is_explained_and_inputs_are_json() -> None:
    codes = {value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)}
    assert codes == set(REASONS)
    assert all(reason.meaning and reason.remedy for reason in REASONS.values())
    assert explain("SKIPPED:RATE_LIMIT") == REASONS["RATE_LIMIT"]
    assert explain("ABSTAINED:TIMEOUT") == ANALYST_REASONS["TIMEOUT"]
    assert explain("ABSTAINED:SOMETHING_NEW") == REASONS["ABSTAINED"]
    with pytest.raises(KeyError):
        explain("BECAUSE")
    for answer in (plan(volatility=math.nan), gate.budget(math.inf, 1.0, 0.0), gate.ftmo(_account(), math.nan, **FTMO)):
        json.dumps(answer.inputs, allow_nan=False)
