"""The reference cases F1–F18 of the FTMO rules, by name, and the days on which the clocks change."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from v7_pipeline.gates import day_bounds, ftmo_day
from v7_pipeline_tests.gates.builders import MINUTE, ONE_STEP, at, book, closed, flat, position, prices, state

MON = at("2026-11-16T10:00Z")  # Prague is an hour ahead of UTC in winter
DAY = timedelta(days=1)
MIDNIGHT = at("2026-11-16T23:00Z")  # the Prague Tuesday begins


def test_f01_first_day() -> None:
    account = state(book(), MON)
    assert (account.daily_limit, account.total_limit, account.floor) == (95_000, 90_000, 95_000)
    assert account.room_usd == 5_000 and account.breached is None


@pytest.mark.parametrize(
    ("case", "gain", "daily", "floor", "room"),
    [
        ("F2", 4_000, 99_000, 99_000, 5_000),
        ("F3", -3_000, 92_000, 92_000, 5_000),
        ("F4", -6_000, 89_000, 90_000, 4_000),
    ],
)
def test_f02_f03_f04_the_daily_limit_hangs_on_the_midnight_balance(
    case: str, gain: float, daily: float, floor: float, room: float
) -> None:
    # F4's loss is spread over two days: in one it would have been a breach.
    gains = book(closed(gain / 2, MON), closed(gain / 2, MON + DAY))
    account = state(gains, MON + 2 * DAY)
    assert account.day_start_balance == 100_000 + gain
    assert (account.daily_limit, account.floor, account.room_usd) == (daily, floor, room)
    assert account.first_breach_at is None


def test_f05_closed_loss_of_today_uses_up_the_room() -> None:
    account = state(book(closed(-8_000, MON)), MON + MINUTE, initial_usd=200_000.0)
    assert (account.balance, account.floor, account.room_usd) == (192_000, 190_000, 2_000)


def test_f06_a_float_can_violate_at_midnight_without_a_price_move() -> None:
    gains = book(closed(4_000, MON), position(MON, entry=50_000.0, worst=20_000.0))
    candles = flat(37_000.0, MON + MINUTE, MIDNIGHT - 2 * MINUTE)
    before = state(gains, MIDNIGHT - MINUTE, candles, initial_usd=200_000.0)
    assert (before.balance, before.equity, before.floor) == (204_000, 191_000, 190_000)
    assert before.breached is None and before.first_breach_at is None
    assert before.floor_if_rolled_usd == 194_000
    after = state(gains, MIDNIGHT, candles, initial_usd=200_000.0)
    assert (after.equity, after.daily_limit) == (191_000, 194_000)
    assert (after.breached, after.breached_at, after.first_breach_at) == ("daily", MIDNIGHT, MIDNIGHT)


@pytest.mark.parametrize(("float_usd", "breached"), [(-2_001, "total"), (-2_000, None)])
def test_f07_exactly_on_the_limit_is_no_breach(float_usd: float, breached: str | None) -> None:
    gains = book(closed(-4_000, MON), closed(-4_000, MON + DAY), position(MON + 2 * DAY, entry=50_000.0))
    account = state(gains, MON + 2 * DAY + MINUTE, flat(50_000.0 + float_usd, MON + 2 * DAY))
    assert account.balance == 92_000
    assert account.equity == 92_000 + float_usd
    assert account.breached == breached


@pytest.mark.parametrize(("today", "room"), [(-3_000, 2_000), (2_000, 7_000)])
def test_f08_closed_profit_and_loss_of_today_move_the_room(today: float, room: float) -> None:
    assert state(book(closed(today, MON)), MON + MINUTE).room_usd == room
    floating = book(closed(today, MON), position(MON, entry=50_000.0))
    assert state(floating, MON + MINUTE, flat(49_000.0, MON)).room_usd == room - 1_000


def test_f09_one_step_trails_the_highest_end_of_day_balance_and_only_rises() -> None:
    gains = book(closed(4_000, MON), closed(-1_000, MON + DAY))
    limits = [state(gains, MON + days * DAY + MINUTE, rules=ONE_STEP).total_limit for days in (0, 1, 2)]
    assert limits == [90_000, 94_000, 94_000]
    assert state(gains, MON + 2 * DAY, rules=ONE_STEP).day_start_balance == 103_000


def test_f10_one_step_daily_limit() -> None:
    assert state(book(closed(4_000, MON)), MON + DAY, rules=ONE_STEP).daily_limit == 101_000


def test_f11_an_intraday_peak_does_not_move_the_trailing_floor() -> None:
    peak = position(MON, entry=50_000.0, exit_time=MON + 9 * MINUTE, exit_price=54_000.0)
    candles = prices((MON, 59_000, 50_000, 59_000), (MON + 9 * MINUTE, 59_000, 54_000, 54_000))
    assert state(book(peak), MON + MINUTE, candles, rules=ONE_STEP).equity == 109_000
    next_day = state(book(peak), MON + DAY, candles, rules=ONE_STEP)
    assert (next_day.day_start_balance, next_day.total_limit) == (104_000, 94_000)


def test_f12_the_best_day_delays_passing_and_never_fails() -> None:
    alone = state(book(closed(5_000, MON)), MON + DAY, rules=ONE_STEP)
    assert (alone.best_day_share, alone.breached) == (1.0, None)
    assert alone.passable is False and alone.target_progress == 0.5
    lucky = state(book(closed(10_000, MON)), MON + DAY, rules=ONE_STEP)
    assert lucky.target_progress == 1.0 and lucky.passable is False and lucky.breached is None
    spread = state(book(closed(5_000, MON), closed(5_000, MON + DAY)), MON + 2 * DAY, rules=ONE_STEP)
    assert spread.best_day_share == 0.5 and spread.passable is True


def test_f13_a_trade_counts_on_the_day_it_is_opened() -> None:
    account = state(book(closed(100, MON + 3 * DAY, opened=MON)), MON + 4 * DAY)
    assert account.trading_days == 1
    assert account.daily_pnl_usd == ((date(2026, 11, 19), 100.0),)


def test_f14_the_day_is_pragues() -> None:
    late = at("2026-11-20T23:30Z")
    assert ftmo_day(late) == date(2026, 11, 21)
    assert state(book(closed(10, late)), late + MINUTE).daily_pnl_usd == ((date(2026, 11, 21), 10.0),)


def test_f15_losses_around_pragues_midnight_belong_to_two_days() -> None:
    roll = at("2026-03-28T23:00Z")
    losses = book(closed(-3_000, roll - MINUTE), closed(-3_000, roll))
    account = state(losses, roll + MINUTE)
    assert account.daily_pnl_usd == ((date(2026, 3, 28), -3_000.0), (date(2026, 3, 29), -3_000.0))
    assert account.day_start_balance == 97_000 and account.first_breach_at is None
    together = book(closed(-3_000, roll), closed(-3_000, roll + MINUTE))
    assert state(together, roll + 2 * MINUTE).breached == "daily"


def test_f16_commission_is_in_equity_from_the_open() -> None:
    account = state(book(position(MON, fee=None)), MON + MINUTE, flat(100_000.0, MON))
    assert account.equity == pytest.approx(100_000 - 32.50, abs=1e-9)
    assert account.balance == 100_000 and account.worst_equity_today == account.equity
    done = position(MON, fee=None, exit_time=MON + MINUTE, exit_price=100_000.0)
    assert state(book(done), MON + 2 * MINUTE).balance == pytest.approx(100_000 - 65.00, abs=1e-9)


def test_f17_midnights_missed_while_down_are_rolled_and_no_day_is_invented() -> None:
    account = state(book(closed(1_000, MON)), MON + 2 * DAY)
    assert account.day_start_balance == 101_000
    assert account.day_started_at == MIDNIGHT + DAY
    assert account.daily_pnl_usd == ((date(2026, 11, 16), 1_000.0),)
    assert account.trading_days == 1
    unbroken = state(book(closed(1_000, MON), closed(500, MON + DAY)), MON + 2 * DAY)
    assert unbroken.day_start_balance == 101_500  # each midnight is rolled, not only the first that was missed


def test_f18_floating_profit_at_midnight_is_not_in_the_reference() -> None:
    account = state(book(position(MON, entry=50_000.0)), MIDNIGHT + MINUTE, flat(56_000.0, MON, MIDNIGHT))
    assert account.equity == 106_000 and account.day_start_balance == 100_000
    assert account.daily_limit == 95_000


@pytest.mark.parametrize(
    ("inside", "start", "hours"),
    [
        ("2026-03-29T12:00Z", "2026-03-28T23:00Z", 23),
        ("2026-10-25T12:00Z", "2026-10-24T22:00Z", 25),
        ("2026-11-20T12:00Z", "2026-11-19T23:00Z", 24),
    ],
)
def test_days_on_which_the_clocks_change_have_their_true_length(inside: str, start: str, hours: int) -> None:
    begin, end = day_bounds(at(inside))
    assert begin == at(start) and end - begin == timedelta(hours=hours)
    account = state(book(closed(-1_000, at(start) - MINUTE)), at(inside))
    assert (account.day_started_at, account.day_ends_at) == (begin, end)
    assert account.day_start_balance == 99_000
