"""The alerts that a scan's events call for, as rows of the outbox.

Each row's identity is its event's, so that writing an event twice leaves one alert. Sending belongs to
deliver.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from v7_pipeline.alerts.text import (
    MISSING,
    lots_text,
    number_text,
    percent_text,
    price_text,
    reward_risk,
    time_text,
    two_lines,
    usd_text,
)

__all__ = ["COLUMNS", "alerts_for_regimes", "alerts_for_rest", "alerts_for_scan", "outbox"]

COLUMNS = (
    "alert_id", "created_at", "kind", "severity", "title", "body", "status", "attempts", "delivered_at",
    "error", "subject",
)  # fmt: skip
_SIGNAL_COLUMNS = (
    "signal_id", "symbol", "strategy", "side", "confidence", "entry_price", "stop_price", "target_price",
    "quantity", "risk_usd", "tier", "reasoning", "gates_off", "accepted",
)  # fmt: skip
_OUTCOME_COLUMNS = (
    "signal_id", "kind", "symbol", "strategy", "side", "entry_price", "exit_time", "exit_price",
    "exit_reason", "net_return", "r_multiple", "pnl_usd", "outcome",
)  # fmt: skip


def alerts_for_scan(
    signals_accepted: pd.DataFrame,
    closed_outcomes: pd.DataFrame,
    failures: Mapping[str, str],
    *,
    as_of: datetime,
    demo: bool,
    increments: Mapping[str, float] | None = None,
    gates_off: Sequence[str] = (),
) -> pd.DataFrame:
    """The alerts rows (without provenance) of the scan at `as_of`.

    `signals_accepted` joins llm_signals with gated_signals; a row that is not accepted, or is no BUY or
    SELL, is never alerted. Of `closed_outcomes` (outcomes rows, with `gates_off` where joined) only closed
    paper trades are. `failures` maps a symbol (or a step) to why it failed; together they are one alert.
    `increments` maps a symbol to its quote increment in USD. In `demo` title and body say DEMO; gates that are
    off are named in every body. Raises ValueError on a naive `as_of` or a missing column.
    """
    if as_of.tzinfo is None:
        raise ValueError(f"as_of {as_of} has no time zone; pass an instant in UTC")
    instant = pd.Timestamp(as_of).tz_convert("UTC")
    steps = increments or {}
    _require(signals_accepted, _SIGNAL_COLUMNS, "accepted signals")
    _require(closed_outcomes, _OUTCOME_COLUMNS, "closed outcomes")
    rows: list[dict[str, Any]] = []
    accepted = signals_accepted["accepted"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    for row in signals_accepted[accepted & signals_accepted["side"].isin(("BUY", "SELL"))].to_dict("records"):
        rows.append(_signal(row, instant, steps.get(str(row["symbol"]))))
    for row in closed_outcomes.to_dict("records"):
        if row["kind"] == "paper" and row["outcome"] != "open":
            rows.append(_closed(row, steps.get(str(row["symbol"]))))
    if failures:
        rows.append(_failed(failures, instant))
    return outbox(rows, demo=demo, gates_off=gates_off)


def alerts_for_regimes(
    regimes: Sequence[Mapping[str, Any]], *, demo: bool, gates_off: Sequence[str] = ()
) -> pd.DataFrame:
    """The alerts rows (without provenance) of `regimes` (model_regimes rows); an analyst's first is no change."""
    rows = [_regime(row) for row in regimes if row["previous_regime"] is not None]
    return outbox(rows, demo=demo, gates_off=gates_off)


def alerts_for_rest(
    analyst: str, error: str, *, as_of: datetime, demo: bool, gates_off: Sequence[str] = ()
) -> pd.DataFrame:
    """The alerts row (without provenance) of an analyst that rests after failures, `error` the newest one's.

    One a UTC day and cause: a long outage is not told every ten minutes. A refused key or an empty account is critical.
    """
    cause = error.partition(" (")[0] if error.startswith("REFUSED") else error.partition(":")[0]
    refused = any(f"HTTP {status}" in cause for status in (401, 402, 403))
    instant = pd.Timestamp(as_of).tz_convert("UTC")
    row = {
        "alert_id": f"analyst_resting:{analyst}:{instant:%Y%m%d}:{cause}",
        "created_at": instant,
        "kind": "analyst_resting",
        "severity": "critical" if refused else "warning",
        "title": f"{analyst} rests after repeated failures",
        "body": f"Newest: {error}\nIt is tried again after V7_BREAKER_REST_S; v7 llm show tells of the calls.",
    }
    return outbox([row], demo=demo, gates_off=gates_off)


def outbox(rows: Sequence[Mapping[str, Any]], *, demo: bool, gates_off: Sequence[str] = ()) -> pd.DataFrame:
    """`rows` (alert_id, created_at, kind, severity, title, body) as they wait for delivery, marked where need be.

    A row may have a subject: alerts of the same one are told once in a window.
    """
    names = ["alert_id", "created_at", "kind", "severity", "title", "body", "subject"]
    frame = pd.DataFrame([{"subject": None} | dict(row) for row in rows], columns=names)
    if gates_off:
        silent = ~frame["body"].astype(str).str.contains("GATES OFF: ", regex=False)
        frame.loc[silent, "body"] += f"\nGATES OFF: {','.join(gates_off)}"
    if demo:
        frame["title"] = "DEMO " + frame["title"]
        frame["body"] = "DEMO: simulated market, no real prices.\n" + frame["body"]
    frame["created_at"] = pd.to_datetime(frame["created_at"], utc=True).astype("datetime64[us, UTC]")
    frame["status"] = "pending"
    frame["attempts"] = 0
    frame["delivered_at"] = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us, UTC]")
    frame["error"] = None
    return frame[list(COLUMNS)]


def _signal(row: dict[str, Any], instant: pd.Timestamp, increment: float | None) -> dict[str, Any]:
    entry, stop, target = row["entry_price"], row["stop_price"], row["target_price"]
    verb = "buy" if row["side"] == "BUY" else "sell"
    lines = [
        f"Price to {verb}: {price_text(entry, increment)}",
        f"Stop: {price_text(stop, increment)} ({_distance(entry, stop)})",
        f"Target: {price_text(target, increment)} ({_distance(entry, target)})",
        f"Reward:risk: {number_text(reward_risk(entry, stop, target))}",
        f"Quantity: {_quantity(row['quantity'])} {str(row['symbol']).partition('-')[0]}, {lots_text(row.get('lots'))}, "
        f"{usd_text(row.get('notional_usd'))} (risk {usd_text(row['risk_usd'])})",
        f"Confidence: {percent_text(row['confidence'], 0)}, tier {_word(row['tier'])}",
        f"Price age: {number_text(row.get('price_age_s'), 0)} s",
        two_lines(f"Why: {_word(row['reasoning'])}", "v7 why"),
        *_guards(row),
        f"Signal {row['signal_id']}, scan of {time_text(instant)}",
    ]
    return {
        "alert_id": f"signal:{row['signal_id']}",
        "created_at": instant,
        "kind": "signal",
        "severity": "info",
        "title": f"{row['side']} {row['symbol']} at {price_text(entry, increment)} ({row['strategy']})",
        "body": "\n".join(lines),
    }


def _closed(row: dict[str, Any], increment: float | None) -> dict[str, Any]:
    end = pd.Timestamp(row["exit_time"]) + pd.Timedelta(minutes=1)
    lines = [
        f"Exit: {_word(row['exit_reason'])} at {price_text(row['exit_price'], increment)},"
        f" entered at {price_text(row['entry_price'], increment)}",
        f"Net return: {percent_text(row['net_return'], 2, sign=True)}, {number_text(row['r_multiple'], sign=True)} R",
        f"Profit or loss: {usd_text(row['pnl_usd'], sign=True)} (paper)",
        *_guards(row),
        f"Signal {row['signal_id']}, closed {time_text(end)}",
    ]
    return {
        "alert_id": f"trade_closed:{row['signal_id']}",
        "created_at": end,
        "kind": "trade_closed",
        "severity": "info",
        "title": f"{row['outcome'].capitalize()}: {row['side']} {row['symbol']} closed ({row['strategy']})",
        "body": "\n".join(lines),
    }


def _failed(failures: Mapping[str, str], instant: pd.Timestamp) -> dict[str, Any]:
    names = sorted(failures)
    return {
        "alert_id": f"scan_failed:{instant:%Y%m%dT%H%M%SZ}",
        "created_at": instant,
        "kind": "scan_failed",
        "severity": "warning",
        "title": f"Scan of {time_text(instant)} failed for {', '.join(names)}",
        "body": "\n".join(f"{name}: {failures[name]}" for name in names),
        "subject": f"scan_failed:{','.join(names)}",
    }


def _regime(row: Mapping[str, Any]) -> dict[str, Any]:
    at = pd.Timestamp(row["started_at"]).tz_convert("UTC")
    return {
        "alert_id": f"model_regime:{row['analyst']}:{at:%Y%m%dT%H%M%S.%fZ}",
        "created_at": at,
        "kind": "model_regime",
        "severity": "warning",
        "title": f"{row['analyst']}: the model behind it changed",
        "body": f"Before: {row['previous_regime']}\nNow: {row['regime']}\n"
        f"Since: {time_text(at)}, call {row['call_id']}\n"
        "What was learnt of its confidence holds for the model before; it is kept apart from now on.",
    }


def _guards(row: dict[str, Any]) -> list[str]:
    off = row.get("gates_off")
    return [f"GATES OFF: {off}"] if isinstance(off, str) and off.strip() else []


def _distance(entry: Any, level: Any) -> str:
    if entry is None or level is None or pd.isna(entry) or pd.isna(level) or not entry:
        return MISSING
    return percent_text(float(level) / float(entry) - 1, 2, sign=True)


def _quantity(value: Any) -> str:
    return MISSING if value is None or pd.isna(value) else f"{float(value):.8f}".rstrip("0").rstrip(".")


def _word(value: Any) -> str:
    return MISSING if value is None or pd.isna(value) or not str(value).strip() else str(value).strip()


def _require(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{what} lack the column(s) {', '.join(missing)}; join them before calling")
