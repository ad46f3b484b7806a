"""The trader's own trades in the store: events that are never overwritten, and the outcomes that follow from them.

What a history amounts to is trades/manual.py's; the words of the command are cli_trade.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, arrow_rows
from v7_pipeline.trades.fees import fee_preset
from v7_pipeline.trades.manual import (
    HistoryError,
    ManualEvent,
    ManualTrade,
    amended,
    event_id,
    manual_outcome,
    standing,
    trade_of,
)

__all__ = ["TradeError", "changed_since", "manual_outcomes", "read_trades", "record", "revise"]

_MINUTE = timedelta(minutes=1)
_SIGNAL = """
SELECT s.signal_id, s.as_of, s.symbol, s.strategy, s.side, s.entry_price, s.stop_price, s.source, g.quantity
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) WHERE s.signal_id IN (SELECT unnest(?::VARCHAR[]))
"""
_EVENTS = "SELECT * FROM manual_trades WHERE source = ? AND recorded_at <= ? ORDER BY recorded_at, event_id"
_OF_SIGNAL = "SELECT * FROM manual_trades WHERE source = ? AND signal_id = ? ORDER BY recorded_at, event_id"
_CHANGED = """
SELECT DISTINCT m.signal_id FROM manual_trades m
LEFT JOIN outcomes o ON o.signal_id = m.signal_id AND o.kind = 'manual'
WHERE m.source = ? AND m.recorded_at <= ?
  AND (o.signal_id IS NULL OR o.outcome = 'open' OR o.labelled_at IS NULL OR m.recorded_at > o.labelled_at)
"""
_CANDLES = """
SELECT high, low, open_time FROM candles
WHERE symbol = ? AND open_time >= ? AND open_time <= ? AND open_time < ? ORDER BY open_time
"""
_STORED = "SELECT * FROM outcomes WHERE kind = 'manual' AND signal_id = ?"


class TradeError(ValueError):
    """A trade cannot be recorded as asked for; the message says why and what to do."""


def record(
    store: Store, settings: Settings, action: str, signal_id: str, *, price: float, now: datetime,
    marks: Mapping[str, str], at: datetime | None = None, quantity: float | None = None, fee_usd: float | None = None,
    reason: str | None = None, again: bool = False,
) -> tuple[ManualEvent, ManualTrade]:  # fmt: skip
    """Record an `entry` or `exit` of a signal with its outcome, in one transaction; the event and the trade it makes.

    Left out: `quantity` is the gated position for an entry, all that is open for an exit; `fee_usd` the settings' fee
    preset on this side. TradeError for a signal that opens nothing, an exit without entry or of more than is open, an
    entry twice without `again`, and an instant before the signal.
    """
    with store.transaction() as tx:
        signal = _signal(tx, signal_id)
        rows = tx.rows(_OF_SIGNAL, (settings.source, signal_id))
        happened = at or now
        if happened < signal["as_of"]:
            raise TradeError(f"--at {happened:%Y-%m-%d %H:%M:%S}Z lies before the signal itself; give a later instant")
        before = _trade(rows, signal_id)
        if action == "entry" and before is not None and not again:
            raise TradeError(
                f"{signal_id} was entered already with {before.quantity:g} at {before.entry_price:g}; say --again for "
                "another entry, or mend the first with v7 trade edit"
            )
        if action == "exit" and before is None:
            raise TradeError(f"{signal_id} has no entry to exit from; record it first with v7 trade entry")
        if quantity is None:
            quantity = signal["quantity"] if action == "entry" else before.left if before else None
            if not quantity:
                missing = "the signal was not sized" if action == "entry" else "nothing is open any more"
                raise TradeError(f"{missing}: give --quantity" if action == "entry" else f"{signal_id}: {missing}")
        if fee_usd is None:
            fee_usd = fee_preset(settings.fees).rate_per_side * quantity * price
        number = 1 + sum(row["action"] == action for row in rows)
        row = {
            "event_id": event_id(signal_id, action, number), "signal_id": signal_id, "symbol": signal["symbol"],
            "side": signal["side"], "action": action, "at": happened, "recorded_at": now, "price": price,
            "quantity": quantity, "fee_usd": fee_usd, "reason": reason,
        }  # fmt: skip
        trade = _kept(tx, settings, signal, rows, row, marks)
        assert trade is not None
        return next(event for event in standing([*rows, row]) if event.event_id == row["event_id"]), trade


def revise(
    store: Store, settings: Settings, event: str, *, now: datetime, marks: Mapping[str, str], reason: str | None = None,
    **changes: Any,
) -> ManualTrade | None:  # fmt: skip
    """Void `event` where there are no `changes` (at, price, quantity, fee_usd), else edit it; the trade that is left.

    Both are new events: the old one stays as it was recorded. TradeError where it is unknown, voided already, or where
    what is left would contradict itself.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    with store.transaction() as tx:
        found = tx.rows("SELECT * FROM manual_trades WHERE event_id = ? AND source = ?", (event, settings.source))
        if not found or amended(event) != event:
            raise TradeError(f"there is no entry or exit {event!r}; v7 trade list names them")
        signal = _signal(tx, found[0]["signal_id"])
        rows = tx.rows(_OF_SIGNAL, (settings.source, signal["signal_id"]))
        stands = [one for one in standing(rows) if one.event_id == event]
        if not stands:
            raise TradeError(f"{event} was voided; record the trade again")
        now_stands = {name: getattr(stands[0], name) for name in ("at", "price", "quantity", "fee_usd", "reason")}
        action, ending = "void", ".void"
        if given:
            edits = sum(row["action"] == "edit" and amended(row["event_id"]) == event for row in rows)
            action, ending = "edit", f".edit-{edits + 1}"
        row = {**found[0], **now_stands, **given, "event_id": event + ending, "action": action, "recorded_at": now}
        row["reason"] = reason if reason is not None else row["reason"]
        return _kept(tx, settings, signal, rows, row, marks)


def read_trades(
    settings: Settings, reader: Any, as_of: datetime
) -> list[tuple[ManualTrade | None, list[dict[str, Any]]]]:
    """Each signal's trade as known at `as_of` (None: all voided) with its events as they were recorded."""
    by_signal: dict[str, list[dict[str, Any]]] = {}
    for row in reader.rows(_EVENTS, (settings.source, as_of)):
        by_signal.setdefault(row["signal_id"], []).append(row)
    return [(_trade(rows, key), rows) for key, rows in by_signal.items()]


def changed_since(reader: Any, source: str, as_of: datetime) -> list[str]:
    """Signals whose manual outcome is missing, open, or older than an event known at `as_of`."""
    return [row["signal_id"] for row in reader.rows(_CHANGED, (source, as_of))]


def manual_outcomes(
    settings: Settings, reader: Any, source: str, as_of: datetime, chosen: Sequence[str]
) -> pd.DataFrame:
    """Outcomes (without provenance and labelled_at) of the manual trades of the `chosen` signals, known at `as_of`."""
    signals = {row["signal_id"]: row for row in reader.rows(_SIGNAL, (list(chosen),))}
    rows = []
    for key in chosen:
        known = [row for row in reader.rows(_OF_SIGNAL, (source, key)) if row["recorded_at"] <= as_of]
        trade = _trade(known, key)
        if trade is not None:
            rows.append(_outcome(settings, reader, trade, signals[key], as_of))
    return pd.DataFrame(rows)


def _outcome(
    settings: Settings, reader: Any, trade: ManualTrade, signal: Mapping[str, Any], as_of: datetime
) -> dict[str, Any]:
    """The trade's outcome over the candles that had closed by `as_of`."""
    first = trade.entry_at.replace(second=0, microsecond=0)
    last = trade.exit_at if trade.closed and trade.exit_at else as_of
    # Only closed minutes: the forming candle is nobody's knowledge.
    candles = reader.rows(_CANDLES, (trade.symbol, first, last, as_of - _MINUTE + timedelta(microseconds=1)))
    extremes = np.array([(row["high"], row["low"]) for row in candles], dtype=np.float64).reshape(-1, 2)
    until = candles[-1]["open_time"] + _MINUTE if candles else None
    return manual_outcome(trade, signal, extremes, until=until, breakeven_band_r=settings.breakeven_band_r)


def _signal(reader: Any, key: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = reader.rows(_SIGNAL, ([key],))
    if not found:
        raise TradeError(f"there is no signal {key!r} in this store; v7 signals names them")
    if found[0]["side"] not in ("BUY", "SELL") or found[0]["stop_price"] is None:
        raise TradeError(f"{key} is {found[0]['side'] or 'no decision'} and plans no trade; choose a BUY or a SELL")
    if found[0]["source"] == "backtest":
        raise TradeError(f"{key} is a backtest's signal, which nobody can trade; choose one of a scan")
    return found[0]


def _trade(rows: Sequence[Mapping[str, Any]], key: str) -> ManualTrade | None:
    try:
        return trade_of(standing(rows))
    except HistoryError as error:
        raise TradeError(f"{key}: {error}") from None


def _kept(
    tx: Any, settings: Settings, signal: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], row: dict[str, Any],
    marks: Mapping[str, str],
) -> ManualTrade | None:  # fmt: skip
    """Write `row` and the outcome of what the history then amounts to; TradeError where it contradicts itself."""
    trade = _trade([*rows, row], signal["signal_id"])
    tx.insert_new("manual_trades", arrow_rows("manual_trades", [{**row, **marks}]))
    if trade is None:
        stored = tx.query(_STORED, (signal["signal_id"],))
        tx.remove("outcomes", stored)
    else:
        outcome = _outcome(settings, tx, trade, signal, row["recorded_at"])
        tx.upsert("outcomes", arrow_rows("outcomes", [{**outcome, "labelled_at": row["recorded_at"], **marks}]))
    return trade
