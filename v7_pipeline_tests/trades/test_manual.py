"""What a history of entries, exits, edits and voids amounts to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from v7_pipeline.trades.manual import HistoryError, ManualTrade, event_id, manual_outcome, standing, trade_of
from v7_pipeline_tests.trades.builders import MINUTE, T0

KEY = "v7-BTC-USD-20231211T020000Z"
SIGNAL = {"as_of": T0, "strategy": "v7", "entry_price": 100.0, "stop_price": 99.0}


def event(action: str, number: int, price: float, quantity: float, minute: float, **changes: Any) -> dict[str, Any]:
    at = T0 + minute * MINUTE
    return {
        "event_id": event_id(KEY, action, number), "signal_id": KEY, "symbol": "BTC-USD", "side": "BUY", "at": at,
        "action": action, "recorded_at": at + timedelta(hours=1), "price": price, "quantity": quantity, "fee_usd": 0.5,
        "reason": None,
    } | changes  # fmt: skip


def amend(of: dict[str, Any], ending: str, action: str, hours: int = 2, **changes: Any) -> dict[str, Any]:
    late = of["recorded_at"] + timedelta(hours=hours)
    return of | {"event_id": f"{of['event_id']}.{ending}", "action": action, "recorded_at": late} | changes


def trade(*rows: dict[str, Any]) -> ManualTrade:
    found = trade_of(standing(rows))
    assert found is not None
    return found


def outcome(made: ManualTrade, extremes: Any = ((101.0, 99.5),), **signal: Any) -> dict[str, Any]:
    candles = np.array(extremes, dtype=float).reshape(-1, 2)
    return manual_outcome(made, SIGNAL | signal, candles, until=T0, breakeven_band_r=0.1)


def test_partial_exits_add_up_and_the_trade_is_open_until_nothing_is_left() -> None:
    first, half = event("entry", 1, 100.0, 2.0, 1), event("exit", 1, 103.0, 1.0, 5)
    made = trade(first, half)
    assert (made.closed, made.left, made.exit_price) == (False, 1.0, 103.0)
    assert outcome(made)["outcome"] == "open" and outcome(made)["net_return"] is None
    rest = event("exit", 2, 101.0, 1.0, 9.5, reason="time")
    made = trade(first, half, rest)
    assert made.closed and made.pnl_usd == pytest.approx(3.0 + 1.0 - 1.5)
    row = outcome(made, [(102.0, 99.0)] * 8)
    assert row["net_return"] == pytest.approx(0.02 - 1.5 / 200) and row["r_multiple"] == pytest.approx(1.25)
    assert (row["outcome"], row["exit_reason"], row["pnl_usd"]) == ("win", "time", pytest.approx(2.5))
    assert (row["mfe"], row["mae"]) == (pytest.approx(0.02), pytest.approx(-0.01))
    assert (row["entry_time"], row["exit_time"]) == (T0 + MINUTE, T0 + 9 * MINUTE)
    assert (row["holding_minutes"], row["gap_minutes"]) == (9, 1)


def test_two_entries_have_their_mean_price() -> None:
    made = trade(event("entry", 1, 100.0, 1.0, 1), event("entry", 2, 104.0, 3.0, 2), event("exit", 1, 105.0, 4.0, 3))
    assert made.entry_price == 103.0 and made.pnl_usd == pytest.approx(8.0 - 1.5)


def test_a_short_gains_when_the_price_falls() -> None:
    sold = [event("entry", 1, 100.0, 1.0, 1, side="SELL"), event("exit", 1, 98.0, 1.0, 2, side="SELL")]
    row = outcome(trade(*sold), [(100.5, 97.5)], stop_price=101.0)
    assert row["gross_return"] == pytest.approx(0.02) and row["pnl_usd"] == pytest.approx(1.0)
    assert (row["mfe"], row["mae"]) == (pytest.approx(0.025), pytest.approx(-0.005))


def test_the_newest_edit_stands_and_a_void_strikes_out() -> None:
    first, left = event("entry", 1, 100.0, 1.0, 1), event("exit", 1, 103.0, 1.0, 5)
    once = amend(first, "edit-1", "edit", price=101.0)
    twice = amend(first, "edit-2", "edit", hours=3, price=102.0)
    assert trade(twice, first, left, once).entry_price == 102.0
    assert trade(first, left, amend(left, "void", "void")).left == 1.0
    assert trade_of(standing([first, amend(first, "void", "void")])) is None


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([event("exit", 1, 1.0, 1.0, 1)], "no entry before it"),
        ([event("entry", 1, 1.0, 1.0, 5), event("exit", 1, 1.0, 1.0, 4)], "no entry before it"),
        ([event("entry", 1, 1.0, 1.0, 1), event("exit", 1, 1.0, 1.1, 4)], "takes 1.1, but only 1 is open"),
        (
            [event("entry", 1, 1.0, 1.0, 1), event("exit", 1, 1.0, 1.5, 2), event("entry", 2, 1.0, 1.0, 3)],
            "takes 1.5, but only 1 is open",
        ),
    ],
)
def test_a_history_that_contradicts_itself_is_refused(rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(HistoryError, match=complaint):
        trade_of(standing(rows))


def test_thirds_that_were_rounded_leave_nothing_open() -> None:
    exits = [event("exit", n, 101.0, 1 / 3, 1 + n) for n in (1, 2, 3)]
    assert trade(event("entry", 1, 100.0, 1.0, 1), *exits).closed


def test_lesson_16_a_signal_without_a_stop_has_no_r() -> None:
    made = trade(event("entry", 1, 100.0, 1.0, 1), event("exit", 1, 101.0, 1.0, 2))
    with pytest.raises(HistoryError, match="no stop"):
        outcome(made, stop_price=float("nan"))
