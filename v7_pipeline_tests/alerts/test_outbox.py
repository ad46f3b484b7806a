"""Which events become alerts, what they say, and that an event becomes one only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.alerts.outbox import alerts_for_scan
from v7_pipeline.alerts.text import percent_text, price_text, usd_text
from v7_pipeline.store.frames import conform, to_arrow
from v7_pipeline.store.schema import table

AS_OF = datetime(2023, 12, 11, 2, 12, tzinfo=UTC)


def signal(**changes: Any) -> dict[str, Any]:
    row = {
        "signal_id": "v7-BTC-USD-20231211T021200Z",
        "symbol": "BTC-USD",
        "strategy": "v7",
        "side": "BUY",
        "confidence": 0.72,
        "entry_price": 42000.0,
        "stop_price": 41580.0,
        "target_price": 42840.0,
        "quantity": 1.19047619,
        "risk_usd": 500.0,
        "notional_usd": 50_000.0,
        "lots": 1.19047619,
        "tier": "HIGH",
        "reasoning": "Momentum and the filter's slope agree; p < 0.5 & rising",
        "gates_off": "",
        "accepted": True,
        "price_age_s": 61.0,
    }
    return row | changes


def closed(**changes: Any) -> dict[str, Any]:
    row = {
        "signal_id": "v7-BTC-USD-20231211T000000Z",
        "kind": "paper",
        "symbol": "BTC-USD",
        "strategy": "v7",
        "side": "SELL",
        "entry_price": 42000.0,
        "exit_time": pd.Timestamp("2023-12-11T02:10:00Z"),
        "exit_price": 41160.0,
        "exit_reason": "target",
        "net_return": 0.0193,
        "r_multiple": 1.93,
        "pnl_usd": 965.0,
        "outcome": "win",
    }
    return row | changes


def scan_alerts(
    signals: list[dict[str, Any]] | None = None,
    outcomes: list[dict[str, Any]] | None = None,
    failures: dict[str, str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    return alerts_for_scan(
        pd.DataFrame(signals or [], columns=list(signal())),
        pd.DataFrame(outcomes or [], columns=list(closed())),
        failures or {},
        **({"as_of": AS_OF, "demo": False} | options),
    )


def test_rows_have_the_tables_columns_and_wait_for_delivery():
    frame = scan_alerts([signal()], [closed()], {"SOL-USD": "timed out"})
    marked = frame.assign(source="live", run_id="r", code_version="1")
    assert list(marked.columns) == list(table("alerts").column_names)
    to_arrow(table("alerts"), conform("alerts", marked))  # the store takes it as it is
    assert frame["kind"].tolist() == ["signal", "trade_closed", "scan_failed"]
    assert set(frame["severity"]) <= {"info", "warning", "critical"}
    assert frame["status"].tolist() == ["pending"] * 3
    assert frame["attempts"].tolist() == [0, 0, 0]
    assert frame["delivered_at"].isna().all()
    assert frame["created_at"].tolist() == [AS_OF, pd.Timestamp("2023-12-11T02:11:00Z"), AS_OF]


def test_an_accepted_signal_says_all_that_a_trader_needs():
    row = scan_alerts([signal()]).iloc[0]
    assert row["title"] == "BUY BTC-USD at 42,000.00 (v7)"
    for part in (
        "Price to buy: 42,000.00",
        "Stop: 41,580.00 (-1.00 %)",
        "Target: 42,840.00 (+2.00 %)",
        "Reward:risk: 2.00",
        "Quantity: 1.19047619 BTC, 1.1904 lots, $50,000.00 (risk $500.00)",
        "Confidence: 72 %, tier HIGH",
        "Price age: 61 s",
        "Why: Momentum and the filter's slope agree; p < 0.5 & rising",
        "2023-12-11 02:12 UTC",
    ):
        assert part in row["body"], part
    assert "GATES OFF" not in row["body"]
    assert "Price to sell" in scan_alerts([signal(side="SELL")]).iloc[0]["body"]


def test_long_reasons_take_two_lines_and_say_where_the_rest_is():
    before, after = "Price age", "Signal "
    reasons = "Momentum is 2.1 deviations\nabove noise.  " * 40
    body = scan_alerts([signal(reasoning=reasons)]).iloc[0]["body"]
    lines = body[body.index(before) : body.index(after)].splitlines()[1:]
    assert len(lines) == 2 and lines[0].startswith("Why: Momentum is 2.1 deviations above noise. Momentum")
    assert all(len(line) <= 120 for line in lines) and lines[1].endswith(" … (v7 why)")


def test_a_closed_trade_says_what_became_of_it():
    row = scan_alerts(outcomes=[closed()]).iloc[0]
    assert row["title"] == "Win: SELL BTC-USD closed (v7)"
    for part in (
        "target at 41,160.00",
        "entered at 42,000.00",
        "+1.93 %",
        "+1.93 R",
        "+$965.00",
        "02:11 UTC",
    ):
        assert part in row["body"], part


def test_the_same_event_has_the_same_identity_and_another_event_another():
    once = scan_alerts([signal()], [closed()], {"SOL-USD": "timed out"})
    again = scan_alerts([signal()], [closed()], {"SOL-USD": "timed out"}, as_of=AS_OF.replace(minute=14))
    assert once["alert_id"].tolist()[:2] == again["alert_id"].tolist()[:2]
    assert once["alert_id"].iloc[2] != again["alert_id"].iloc[2]
    assert once["alert_id"].is_unique


def test_lesson_17_blocked_signals_and_shadow_outcomes_are_never_alerted():
    blocked = [signal(accepted=False), signal(accepted=None), signal(accepted=np.False_), signal(side="HOLD")]
    assert scan_alerts(blocked).empty
    assert scan_alerts(outcomes=[closed(kind="shadow"), closed(outcome="open"), closed(kind="manual")]).empty
    assert len(scan_alerts([signal(accepted=np.True_)])) == 1
    stored = pd.DataFrame([signal(), signal(signal_id="v7-ETH-USD-20231211T021200Z")])
    stored["accepted"] = pd.array([True, None], dtype="boolean")  # as the store gives it back
    assert len(alerts_for_scan(stored, pd.DataFrame([closed()]).iloc[:0], {}, as_of=AS_OF, demo=False)) == 1


def test_lesson_25_a_gate_that_is_off_is_shown():
    assert "GATES OFF: ftmo,rate" in scan_alerts([signal(gates_off="ftmo,rate")]).iloc[0]["body"]


def test_lesson_21_demo_is_marked_in_title_and_body():
    frame = scan_alerts([signal()], [closed()], {"SOL-USD": "timed out"}, demo=True)
    assert frame["title"].str.startswith("DEMO ").all()
    assert frame["body"].str.startswith("DEMO").all()
    assert not scan_alerts([signal()])["title"].str.contains("DEMO").any()


def test_lesson_25_every_alert_names_the_gates_that_are_off_once():
    frame = scan_alerts([signal(gates_off="ftmo")], [closed()], {"SOL-USD": "timed out"}, gates_off=("ftmo",))
    assert frame["body"].str.count("GATES OFF: ftmo").tolist() == [1] * len(frame) and len(frame) == 3
    assert not scan_alerts([signal()])["body"].str.contains("GATES OFF").any()


def test_lesson_15_missing_is_a_dash_and_never_zero():
    body = scan_alerts(
        [signal(**dict.fromkeys(("quantity", "risk_usd", "tier", "target_price", "lots", "notional_usd")))]
    ).iloc[0]["body"]
    assert "Quantity: – BTC, no lot size, – (risk –)" in body
    assert "tier –" in body
    assert "Reward:risk: –" in body
    assert "Target: – (–)" in body


def test_lesson_14_prices_are_printed_to_the_products_increment():
    assert price_text(0.151234, 0.00001) == "0.15123"
    assert price_text(42000.126, 0.01) == "42,000.13"
    assert price_text(68.4, 0.01) == "68.40"
    assert price_text(0.151234) == "0.151234"
    assert price_text(0.15) == "0.15"
    assert price_text(42000.0) == "42,000.00"
    assert price_text(0.0000123456) == "0.0000123456"
    body = scan_alerts([signal(symbol="DOGE-USD", entry_price=0.151234)], increments={"DOGE-USD": 0.00001}).iloc[0][
        "body"
    ]
    assert "Price to buy: 0.15123\n" in body


def test_signs_and_units():
    assert percent_text(0.0193, 2, sign=True) == "+1.93 %"
    assert usd_text(-12.5) == "-$12.50"
    assert usd_text(None) == percent_text(float("nan")) == price_text(pd.NA) == "–"


def test_no_events_make_no_alerts_of_the_right_shape():
    frame = scan_alerts()
    assert frame.empty
    assert list(frame.columns) == list(scan_alerts([signal()]).columns)
    assert str(frame["created_at"].dtype) == "datetime64[us, UTC]"


def test_lesson_04_a_naive_instant_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        scan_alerts([signal()], as_of=datetime(2023, 12, 11))  # noqa: DTZ001


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="gates_off"):
        alerts_for_scan(
            pd.DataFrame([signal()]).drop(columns="gates_off"),
            pd.DataFrame([closed()]),
            {},
            as_of=AS_OF,
            demo=False,
        )
