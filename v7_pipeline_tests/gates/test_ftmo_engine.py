"""The account engine beyond the reference cases: candles, stops, readings, what a person forgave, wrong input."""

from __future__ import annotations

import dataclasses
import time
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.gates import Balance
from v7_pipeline_tests.gates.builders import (
    MINUTE,
    ONE_STEP,
    TWO_STEP,
    at,
    book,
    closed,
    flat,
    position,
    prices,
    state,
    walk,
)

MON = at("2026-11-16T10:00Z")
DAY = timedelta(days=1)


@pytest.mark.parametrize(("side", "high", "low", "worst"), [("BUY", 101, 96, 99_600), ("SELL", 103, 99, 99_700)])
def test_equity_is_tested_on_the_candles_extreme_against_the_position(
    side: str, high: float, low: float, worst: float
) -> None:
    account = state(
        book(position(MON, side=side, quantity=100, entry=100.0)), MON + MINUTE, prices((MON, high, low, 100.0))
    )
    assert account.equity == 100_000
    assert account.worst_equity_today == worst


@pytest.mark.parametrize(("side", "extreme"), [("BUY", "low"), ("SELL", "high")])
def test_lesson_26_only_the_losing_direction_breaches(side: str, extreme: str) -> None:
    held = book(position(MON, side=side, quantity=100, entry=100.0))
    against = {"low": 40.0, "high": 160.0}
    lost = state(held, MON + MINUTE, flat(against[extreme], MON))
    gained = state(held, MON + MINUTE, flat(against["high" if extreme == "low" else "low"], MON))
    assert lost.breached == "daily" and lost.equity == 94_000
    assert gained.breached is None and gained.equity == 106_000


def test_a_breach_inside_a_candle_is_seen_at_its_very_minute_and_stays() -> None:
    dip = MON + 5 * MINUTE
    candles = pd.concat([flat(100.0, *(MON + i * MINUTE for i in range(5))), prices((dip, 100, 40, 100))])
    held = book(position(MON, quantity=100, entry=100.0))
    assert state(held, dip, candles).breached is None
    account = state(held, dip + MINUTE, candles)
    assert (account.breached, account.breached_at, account.equity) == ("daily", dip, 100_000)
    next_day = state(held, MON + DAY, candles)
    assert next_day.breached is None and next_day.first_breach_at == dip


def test_a_total_breach_outlasts_the_day() -> None:
    held = book(position(MON, quantity=100, entry=200.0))
    account = state(held, MON + 3 * DAY, pd.concat([prices((MON, 200, 90, 200)), flat(200.0, MON + 2 * DAY)]))
    assert (account.breached, account.breached_at) == ("total", MON)


def test_a_stop_that_held_shields_from_the_rest_of_its_candle() -> None:
    stopped = position(MON, quantity=100, entry=100.0, exit_time=MON, exit_price=98.0, stop=98.0)
    candles = prices((MON, 100, 10, 10))
    account = state(book(stopped), MON + MINUTE, candles)
    assert account.worst_equity_today == 99_800 and account.breached is None
    without = {**stopped, "stop_price": None}
    assert state(book(without), MON + MINUTE, candles).breached == "daily"


def test_a_gap_through_the_stop_counts_what_it_really_cost() -> None:
    gapped = position(MON, quantity=100, entry=100.0, exit_time=MON + MINUTE, exit_price=45.0, stop=98.0)
    candles = pd.concat([flat(100.0, MON), prices((MON + MINUTE, 50, 10, 12))])
    account = state(book(gapped), MON + 2 * MINUTE, candles)
    assert account.balance == 94_500 and account.worst_equity_today == 94_500
    assert (account.breached, account.breached_at) == ("daily", MON + MINUTE)


def test_a_target_shields_from_nothing_that_came_before_it() -> None:
    won = position(MON, quantity=100, entry=100.0, exit_time=MON, exit_price=103.0, stop=98.0)
    account = state(book(won), MON + MINUTE, prices((MON, 103, 98.5, 103)))
    assert account.balance == 100_300 and account.worst_equity_today == 99_850


def test_an_exit_whose_minute_is_not_over_is_not_known_yet() -> None:
    held = book(position(MON, quantity=10, entry=100.0, exit_time=MON + MINUTE, exit_price=90.0))
    candles = flat(100.0, MON, MON + MINUTE)
    assert state(held, MON + MINUTE, candles).balance == 100_000
    assert state(held, MON + 2 * MINUTE, candles).balance == 99_900


@pytest.mark.parametrize(("loss", "breached"), [(-5_000.0, None), (-5_000.01, "daily")])
def test_the_daily_limit_itself_is_no_breach(loss: float, breached: str | None) -> None:
    assert state(book(closed(loss, MON)), MON + MINUTE).breached == breached


def test_a_position_of_an_earlier_minute_is_not_stopped_early() -> None:
    held = position(MON, quantity=100, entry=100.0, exit_time=MON + 2 * MINUTE, exit_price=99.0, stop=98.0)
    account = state(book(held), MON + MINUTE, prices((MON, 100, 97, 100)))
    assert account.open_positions == 1 and account.worst_equity_today == 99_700


def test_the_stopped_equity_takes_the_worst_case_or_what_is_lost_already() -> None:
    held = book(
        position(MON, quantity=10, entry=100.0, worst=50.0),
        position(MON, quantity=10, entry=120.0, worst=50.0),
    )
    account = state(held, MON + MINUTE, flat(105.0, MON))
    assert account.equity == 100_000 + 50 - 150
    assert account.stopped_equity_usd == 100_000 - 50 - 150
    assert account.open_risk_usd == 100
    unknown = state(book(position(MON, worst=None)), MON + MINUTE, flat(100_000.0, MON))
    assert unknown.stopped_equity_usd is None and unknown.open_risk_usd is None


def test_the_age_of_prices_is_that_of_the_oldest_open_symbol() -> None:
    held = book(position(MON, entry=100.0), position(MON, entry=100.0, symbol="ETH-USD"))
    candles = pd.concat([flat(100.0, MON, MON + 9 * MINUTE), flat(100.0, MON, symbol="ETH-USD")])
    now = MON + 10 * MINUTE
    assert state(held, now, candles).prices_as_of == MON + MINUTE
    assert state(held, now, candles[candles["symbol"] == "BTC-USD"]).prices_as_of is None
    assert state(book(), now).prices_as_of == now


def test_a_minute_without_a_candle_repeats_the_last_close() -> None:
    held = book(position(MON, quantity=10, entry=100.0), position(MON, quantity=10, entry=50.0, symbol="ETH-USD"))
    candles = pd.concat([prices((MON, 100, 98, 99)), flat(50.0, MON, MON + MINUTE, symbol="ETH-USD")])
    account = state(held, MON + 2 * MINUTE, candles)
    assert account.equity == 99_990 and account.worst_equity_today == 99_980


def test_one_step_best_day_is_a_share_of_the_positive_days() -> None:
    gains = book(closed(3_000, MON), closed(-2_000, MON + DAY), closed(1_000, MON + 2 * DAY))
    account = state(gains, MON + 3 * DAY, rules=ONE_STEP)
    assert account.best_day_usd == 3_000 and account.best_day_share == 0.75
    assert state(book(closed(-5, MON)), MON + DAY, rules=ONE_STEP).best_day_share is None


def test_a_funded_account_has_no_target() -> None:
    from v7_pipeline.gates import rules

    account = state(book(closed(50_000, MON)), MON + DAY, rules=rules("ftmo-2step-funded"))
    assert account.target_progress is None and account.passable is None


def test_a_challenge_needs_its_trading_days() -> None:
    rows = [closed(2_500, MON + i * DAY) for i in range(4)]
    assert state(book(*rows[:3], closed(2_500, MON)), MON + 3 * DAY).passable is False
    assert state(book(*rows), MON + 4 * DAY).passable is True
    still_open = position(MON + 3 * DAY, entry=100.0)
    assert state(book(*rows, still_open), MON + 4 * DAY, flat(100.0, MON + 3 * DAY)).passable is False


def test_a_balance_set_by_hand_starts_the_replay_there() -> None:
    gains = book(closed(-20_000, MON), closed(500, MON + DAY))
    override = Balance(at=MON + DAY - MINUTE, usd=98_000.0)
    account = state(gains, MON + DAY + MINUTE, balance_override=override)
    assert account.balance == 98_500 and account.day_start_balance == 98_000
    assert account.breached is None and account.first_breach_at is None
    assert account.trading_days == 2
    known = Balance(at=MON + DAY - MINUTE, usd=98_000.0, day_start_usd=99_000.0)
    assert state(gains, MON + DAY + MINUTE, balance_override=known).daily_limit == 94_000


# --- the account as a person read it off ----------------------------------------------------------


def test_an_equity_below_what_our_positions_explain_is_carried_until_the_next_reading() -> None:
    held = book(position(MON, quantity=10, entry=100.0, worst=50.0))
    candles = pd.concat([prices((MON, 101, 99, 99)), prices((MON + MINUTE, 96, 95, 96)), flat(99.0, MON + 2 * MINUTE)])
    # At the reading only the candle of MON had closed: of the 1,010 below the balance, 10 are our own position's.
    reading = Balance(at=MON + 1.5 * MINUTE, usd=100_000.0, equity_usd=98_990.0)
    account = state(held, MON + 3 * MINUTE, candles, balance_override=reading)
    assert account.unexplained_usd == -1_000 and account.set_at == MON + 1.5 * MINUTE
    assert account.balance == 100_000 and account.equity == 100_000 - 10 - 1_000
    assert account.worst_equity_today == 100_000 - 50 - 1_000
    assert account.stopped_equity_usd == 100_000 - 50 - 1_000
    newer = Balance(at=MON + 2 * MINUTE, usd=100_000.0, equity_usd=99_960.0)
    assert state(held, MON + 3 * MINUTE, candles, balance_override=newer).unexplained_usd == 0


def test_a_position_entered_in_the_readings_minute_is_worth_its_entry_then() -> None:
    held = book(position(MON + MINUTE, quantity=10, entry=110.0))
    reading = Balance(at=MON + 1.5 * MINUTE, usd=100_000.0, equity_usd=99_990.0)
    account = state(held, MON + 2 * MINUTE, flat(99.0, MON, MON + MINUTE), balance_override=reading)
    assert account.unexplained_usd == -10


def test_an_equity_above_what_our_positions_explain_is_not_trusted() -> None:
    reading = Balance(at=MON, usd=100_000.0, equity_usd=103_000.0)
    account = state(book(), MON + MINUTE, balance_override=reading)
    assert account.unexplained_usd == 0 and account.equity == 100_000


def test_a_reading_below_a_limit_is_a_breach_at_its_instant() -> None:
    reading = Balance(at=MON, usd=100_000.0, equity_usd=94_999.0)
    account = state(book(), MON + MINUTE, balance_override=reading)
    assert (account.breached, account.breached_at, account.worst_equity_today) == ("daily", MON, 94_999)
    lost = state(book(), MON + DAY, balance_override=Balance(at=MON, usd=89_999.0))
    assert (lost.breached, lost.breached_at) == ("total", MON)


def test_the_unexplained_loss_can_break_the_new_day_at_midnight() -> None:
    reading = Balance(at=MON, usd=104_000.0, day_start_usd=100_000.0, equity_usd=98_500.0)
    account = state(book(), MON + DAY, balance_override=reading)
    assert account.daily_limit == 99_000
    assert (account.breached, account.breached_at) == ("daily", at("2026-11-16T23:00Z"))


def test_a_trailing_limit_remembers_the_peak_of_the_reading_and_not_the_days_before_it() -> None:
    reading = Balance(at=MON, usd=103_000.0, day_start_usd=102_000.0)
    assert state(book(), MON, balance_override=reading, rules=ONE_STEP).total_limit == 92_000
    known = dataclasses.replace(reading, peak_usd=106_000.0)
    account = state(book(closed(500, MON - 3 * DAY)), MON, balance_override=known, rules=ONE_STEP)
    assert account.total_limit == 96_000 and account.total_reference_usd == 106_000


def test_a_reading_from_after_the_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="not known then"):
        state(book(), MON, balance_override=Balance(at=MON + MINUTE, usd=100_000.0))


def test_no_reading_no_age() -> None:
    account = state(book(), MON)
    assert account.set_at is None and account.unexplained_usd == 0


# --- a person lifted the halt ---------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "kind"), [(-6_000.0, "daily"), (-11_000.0, "total")])
def test_a_breach_that_a_person_forgave_is_told_and_stays_unpassable(loss: float, kind: str) -> None:
    lost = book(closed(loss, MON))
    later = MON + 5 * MINUTE
    assert state(lost, later, forgiven_until=MON + 0.9 * MINUTE).breached == kind  # its minute was not over yet
    account = state(lost, later, forgiven_until=MON + MINUTE)
    assert account.breached is None and account.breached_at is None
    assert account.first_breach_at == MON and account.passable is False


def test_a_breach_after_the_forgiven_one_counts() -> None:
    held = book(closed(-6_000, MON), position(MON, entry=1_000.0))
    account = state(held, MON + 9 * MINUTE, flat(990.0, MON, MON + 5 * MINUTE), forgiven_until=MON + 2 * MINUTE)
    assert (account.breached, account.breached_at) == ("daily", MON + 5 * MINUTE)
    assert account.first_breach_at == MON


def test_minutes_and_midnights_before_the_tested_ones_are_no_breach_but_price_what_is_held() -> None:
    midnight = at("2026-11-16T23:00Z")
    held = book(position(MON, quantity=100, entry=100.0))
    candles = pd.concat([prices((MON, 100, 40, 100)), flat(45.0, midnight - MINUTE, midnight)])
    whole = state(held, midnight + MINUTE, candles)
    assert whole.first_breach_at == MON
    part = state(held, midnight + MINUTE, candles, tested_from=midnight)
    assert (part.breached, part.breached_at, part.first_breach_at) == ("daily", midnight, midnight)
    later = state(held, midnight + MINUTE, candles, tested_from=midnight + MINUTE)
    assert later.breached is None and later.equity == whole.equity


# --- figures for a person -------------------------------------------------------------------------


def test_what_is_used_of_the_allowances() -> None:
    held = book(closed(4_000, MON - DAY), position(MON, quantity=100, entry=100.0))
    account = state(held, MON + MINUTE, prices((MON, 100, 60, 80)))
    assert (account.daily_allowance_usd, account.daily_used_usd, account.daily_worst_usd) == (5_000, 2_000, 4_000)
    assert (account.daily_used_share, account.daily_worst_share) == (0.4, 0.8)
    assert (account.total_allowance_usd, account.total_used_usd, account.total_worst_usd) == (10_000, 0, 0)
    lost = state(book(closed(-2_500, MON)), MON + MINUTE)
    assert (lost.total_used_share, lost.total_worst_share, lost.daily_used_share) == (0.25, 0.25, 0.5)
    trailing = state(book(closed(4_000, MON), closed(-1_000, MON + DAY)), MON + 2 * DAY, rules=ONE_STEP)
    assert (trailing.total_allowance_usd, trailing.total_used_usd) == (10_000, 1_000)


def test_margin_and_commission_are_those_of_the_symbol() -> None:
    own = TWO_STEP.with_own({"ETH-USD": 0.01}, {"ETH-USD": 2.0}, {})
    held = book(
        position(MON, quantity=33, entry=100.0, fee=None),
        position(MON, quantity=10, entry=100.0, fee=None, symbol="ETH-USD"),
        position(MON, quantity=70, entry=100.0, exit_time=MON, exit_price=100.0),
    )
    account = state(held, MON + MINUTE, pd.concat([flat(100.0, MON), flat(100.0, MON, symbol="ETH-USD")]), rules=own)
    assert account.margin_usd == pytest.approx(1_000 + 500)
    assert account.equity == pytest.approx(100_000 - 3_300 * 0.000325 - 10)


def test_a_minute_in_which_a_held_price_is_unknown_is_no_test() -> None:
    held = book(
        position(MON, quantity=100, entry=100.0, symbol="ETH-USD"),
        position(MON, quantity=100, entry=100.0, exit_time=MON + 5 * MINUTE, exit_price=45.0),
    )
    late = flat(170.0, MON + 9 * MINUTE, symbol="ETH-USD")
    account = state(held, MON + 10 * MINUTE, late)
    assert account.equity == 101_500 and account.first_breach_at is None
    known = pd.concat([late, flat(100.0, MON, symbol="ETH-USD")])
    assert state(held, MON + 10 * MINUTE, known).breached_at == MON + 5 * MINUTE


def test_after_a_reading_what_is_held_keeps_its_price_until_the_next_candle() -> None:
    held = book(position(MON, quantity=10, entry=100.0))
    candles = flat(90.0, MON, MON + MINUTE)
    now = MON + 2 * MINUTE + timedelta(seconds=30)
    for seconds in (0, 20):  # no candle of the reading's own minute has come yet
        reading = Balance(at=MON + 2 * MINUTE + timedelta(seconds=seconds), usd=99_000.0, equity_usd=98_880.0)
        account = state(held, now, candles, balance_override=reading)
        assert (account.unexplained_usd, account.equity) == (-20.0, 98_880.0)
        assert account.stopped_equity_usd == 98_880.0


def test_lesson_02_wrong_input_raises() -> None:
    held = book(position(MON))
    candles = flat(1.0, MON)
    with pytest.raises(ValueError, match="BUY or SELL"):
        state(held.assign(side="HOLD"), MON + MINUTE, candles)
    with pytest.raises(ValueError, match="lack the column"):
        state(held.drop(columns="quantity"), MON + MINUTE, candles)
    with pytest.raises(ValueError, match="time zone"):
        state(held, (MON + MINUTE).replace(tzinfo=None), candles)
    with pytest.raises(ValueError, match="repeat a minute"):
        state(held, MON + MINUTE, pd.concat([candles, candles]))
    with pytest.raises(ValueError, match="exit_price"):
        state(book({**closed(1, MON), "exit_price": None}), MON + MINUTE, candles)
    with pytest.raises(ValueError, match="above zero"):
        state(held, MON + MINUTE, candles, initial_usd=0.0)


def test_a_year_of_a_busy_account_takes_no_time() -> None:
    minutes = 365 * 1440
    candles = walk(1, MON, minutes)
    rng = np.random.default_rng(1)
    rows = [
        position(MON + int(a) * MINUTE, entry=100.0, exit_time=MON + int(a + 60) * MINUTE, exit_price=100.0,
                 signal_id=str(i))
        for i, a in enumerate(rng.integers(0, minutes - 60, 500))
    ]  # fmt: skip
    positions, now = book(*rows), MON + minutes * MINUTE
    began = time.process_time()
    state(positions, now, candles)
    assert time.process_time() - began < 0.5
