"""The trader's own trades: what a history of entries, exits, edits and voids amounts to, and its outcome.

Pure functions of events; recording them, and whether they may be, is the scan room's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import isfinite, nan
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "HistoryError",
    "ManualEvent",
    "ManualTrade",
    "amended",
    "event_id",
    "manual_outcome",
    "standing",
    "trade_of",
]

RECORDED = "recorded"  # stands where other outcomes name a fee preset
_MINUTE = timedelta(minutes=1)
_DUST = 1e-9  # share of the entered quantity that counts as nothing


class HistoryError(ValueError):
    """The events of a trade contradict one another; the message says how."""


@dataclass(frozen=True, slots=True)
class ManualEvent:
    """An entry or exit as it stands: price and fee in USD, quantity in base units, `at` in UTC."""

    event_id: str
    signal_id: str
    symbol: str
    side: str
    action: str
    at: datetime
    recorded_at: datetime
    price: float
    quantity: float
    fee_usd: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class ManualTrade:
    """The standing events of one signal together. Prices are means weighted by quantity, NaN where there is none."""

    signal_id: str
    symbol: str
    side: str
    entry_at: datetime
    exit_at: datetime | None
    quantity: float
    left: float
    entry_price: float
    exit_price: float
    fees_usd: float
    reason: str | None

    @property
    def closed(self) -> bool:
        """Whether nothing is left open."""
        return self.left == 0.0

    @property
    def pnl_usd(self) -> float:
        """Profit or loss of what was sold so far, less all recorded fees; NaN before the first exit."""
        sign = 1.0 if self.side == "BUY" else -1.0
        return sign * (self.quantity - self.left) * (self.exit_price - self.entry_price) - self.fees_usd


def event_id(signal_id: str, action: str, number: int) -> str:
    """The identity of the `number`th entry or exit of a signal."""
    return f"{signal_id}-{action}-{number}"


def amended(event: str) -> str:
    """The entry or exit that an edit or a void is of: its own identity for an entry or an exit."""
    return event.partition(".")[0]


def standing(rows: Iterable[Mapping[str, Any]]) -> list[ManualEvent]:
    """Entries and exits as their newest edit left them, without the voided ones, in the order in which they happened.

    rows: of manual_trades. An edit's identity is its event's with `.edit-N`, a void's with `.void`.
    """
    found: dict[str, ManualEvent] = {}
    for row in sorted(rows, key=lambda row: (row["recorded_at"], row["event_id"])):
        key = amended(row["event_id"])
        if row["action"] == "void":
            found.pop(key, None)
            continue
        values = {name: row[name] for name in ("at", "price", "quantity", "fee_usd", "reason")}
        if row["action"] == "edit":
            if key in found:
                found[key] = replace(found[key], **values, recorded_at=row["recorded_at"])
            continue
        names = ("event_id", "signal_id", "symbol", "side", "action", "recorded_at")
        found[key] = ManualEvent(**{name: row[name] for name in names}, **values)
    return sorted(found.values(), key=lambda event: (event.at, event.action == "exit", event.event_id))


def trade_of(events: Iterable[ManualEvent]) -> ManualTrade | None:
    """What the standing events of one signal amount to; None where there is none.

    HistoryError where an exit comes before any entry, or sells more than is open then.
    """
    entered = sold = paid = received = fees = 0.0
    events = list(events)
    for event in events:
        fees += event.fee_usd
        if event.action == "entry":
            entered, paid = entered + event.quantity, paid + event.quantity * event.price
            continue
        if entered == 0.0:
            raise HistoryError(f"the exit of {event.at:%Y-%m-%d %H:%M:%S}Z has no entry before it")
        sold, received = sold + event.quantity, received + event.quantity * event.price
        if sold > entered * (1 + _DUST):
            raise HistoryError(
                f"the exit of {event.at:%Y-%m-%d %H:%M:%S}Z takes {event.quantity:g}, "
                f"but only {entered - sold + event.quantity:g} is open then"
            )
    if not events:
        return None
    first, exits = events[0], [event for event in events if event.action == "exit"]
    left = entered - sold
    return ManualTrade(
        signal_id=first.signal_id,
        symbol=first.symbol,
        side=first.side,
        entry_at=first.at,
        exit_at=exits[-1].at if exits else None,
        quantity=entered,
        left=0.0 if left <= entered * _DUST else left,
        entry_price=paid / entered,
        exit_price=received / sold if exits else nan,
        fees_usd=fees,
        reason=exits[-1].reason if exits else None,
    )


def manual_outcome(
    trade: ManualTrade,
    signal: Mapping[str, Any],
    candles: npt.NDArray[np.float64],
    *,
    until: datetime | None,
    breakeven_band_r: float,
) -> dict[str, Any]:
    """The outcomes row of `trade` (kind manual, without provenance and labelled_at); None is missing.

    signal: as_of, strategy, entry_price and stop_price of its plan. candles: highs and lows (n × 2) of the minutes from
    the first entry's to the last exit's, or to now while open; `until`: the newest one's end. Returns are of the mean
    entry, net of the recorded fees; R is in the plan's risk, |entry − stop| ÷ entry, as for paper trades. Until nothing
    is left open it is `open`, without exit and returns.
    """
    start, end = _minute(trade.entry_at), _minute(trade.exit_at) if trade.closed and trade.exit_at else None
    sign = 1.0 if trade.side == "BUY" else -1.0
    row: dict[str, Any] = {
        "signal_id": trade.signal_id, "kind": "manual", "as_of": signal["as_of"], "symbol": trade.symbol,
        "strategy": signal["strategy"], "side": trade.side, "entry_time": start, "entry_price": trade.entry_price,
        "ambiguous": False, "quantity": trade.quantity, "outcome": "open", "fee_preset": RECORDED,
        "followed_until": until, "optimistic_return": None, "slippage": None, "mfe": None, "mae": None,
        "gap_minutes": None,
        **dict.fromkeys(("exit_time", "exit_price", "exit_reason", "gross_return", "fees", "net_return")),
        **dict.fromkeys(("r_multiple", "pnl_usd", "holding_minutes")),
    }  # fmt: skip
    if len(candles):
        ends = sign * (np.array([candles[:, 0].max(), candles[:, 1].min()]) / trade.entry_price - 1.0)
        row |= {"mfe": float(ends.max()), "mae": float(ends.min())}
    if end is None:
        return row
    notional = trade.quantity * trade.entry_price
    gross, fees = sign * (trade.exit_price / trade.entry_price - 1.0), trade.fees_usd / notional
    r = (gross - fees) / _planned_risk(signal)
    minutes = int((end + _MINUTE - start) / _MINUTE)
    verdict = "win" if r > breakeven_band_r else "loss" if r < -breakeven_band_r else "breakeven"
    return row | {
        "exit_time": end, "exit_price": trade.exit_price, "exit_reason": trade.reason, "gross_return": gross,
        "fees": fees, "net_return": gross - fees, "r_multiple": r, "pnl_usd": trade.pnl_usd, "outcome": verdict,
        "holding_minutes": minutes, "gap_minutes": max(0, minutes - len(candles)),
    }  # fmt: skip


def _planned_risk(signal: Mapping[str, Any]) -> float:
    entry, stop = signal["entry_price"], signal["stop_price"]
    if not (isfinite(entry) and isfinite(stop) and entry > 0 and entry != stop):
        raise HistoryError("its signal has no stop to measure R against")
    return abs(entry - stop) / entry


def _minute(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)
