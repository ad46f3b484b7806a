"""The triple barrier once more, one trade and one candle at a time: what the compiled engine must equal.

Written from `follow`'s rules and shares nothing with it but the names of columns.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.trades import fee_preset

MINUTE = timedelta(minutes=1)


def follow_row_wise(
    trades: pd.DataFrame, candles: pd.DataFrame, *, as_of: datetime, fees: str, slippage: float, band: float
) -> list[dict[str, Any]]:
    """What becomes of each trade, in order; None is missing."""
    known = candles[candles["open_time"] + MINUTE <= as_of].sort_values("open_time").to_dict("records")
    return [_one(row, known, fee_preset(fees).rate_per_side, slippage, band) for row in trades.to_dict("records")]


def _one(row: dict[str, Any], known: list[dict[str, Any]], rate: float, slippage: float, band: float) -> dict[str, Any]:
    sign = 1 if row["side"] == "BUY" else -1
    path = [candle for candle in known if candle["symbol"] == row["symbol"] and candle["open_time"] >= row["as_of"]]
    told: dict[str, Any] = {"signal_id": row["signal_id"], "outcome": "open", "exit_reason": None, "gap_minutes": None}
    if not path:
        return told
    entry = path[0]["open"] * (1 + sign * slippage)
    over = path[0]["open_time"] + row["horizon_minutes"] * MINUTE
    seen: list[dict[str, Any]] = []
    raw, reason, ambiguous, end = None, None, False, None
    for candle in path:
        if candle["open_time"] >= over:
            # Its last minute has no candle: it is left where the next one opens.
            at_open = {**candle, "high": candle["open"], "low": candle["open"]}
            seen.append(at_open)
            raw, reason, end = candle["open"], "time", candle["open_time"] + MINUTE
            _, touched, _ = _touched(at_open, sign, row["stop_price"], row["target_price"])
            reason = touched or reason
            break
        seen.append(candle)
        raw, reason, ambiguous = _touched(candle, sign, row["stop_price"], row["target_price"])
        end = candle["open_time"] + MINUTE
        if not reason and end == over:
            raw, reason = candle["close"], "time"
        if reason:
            break
    assert end is not None
    told["gap_minutes"] = (end - path[0]["open_time"]) // MINUTE - len(seen)
    told |= {"entry_time": path[0]["open_time"], "entry_price": entry, "exit_reason": reason, "ambiguous": ambiguous}
    highest, lowest = max(c["high"] for c in seen) / entry - 1, min(c["low"] for c in seen) / entry - 1
    told |= {"mfe": max(sign * highest, sign * lowest), "mae": min(sign * highest, sign * lowest)}
    told["followed_until"] = seen[-1]["open_time"] + MINUTE
    if reason is None:
        return told
    exit_ = raw if reason == "target" else raw * (1 - sign * slippage)
    net = sign * (exit_ / entry - 1) - rate * (1 + exit_ / entry)
    r = net / (abs(row["entry_price"] - row["stop_price"]) / row["entry_price"])
    target = row["target_price"]
    return told | {
        "exit_time": seen[-1]["open_time"],
        "exit_price": exit_,
        "net_return": net,
        "optimistic_return": sign * (target / entry - 1) - rate * (1 + target / entry) if ambiguous else None,
        "r_multiple": r,
        "outcome": "win" if r > band else "loss" if r < -band else "breakeven",
        "holding_minutes": (seen[-1]["open_time"] + MINUTE - path[0]["open_time"]) // MINUTE,
    }


def _touched(candle: dict[str, Any], sign: int, stop: float, target: float) -> tuple[float | None, str | None, bool]:
    """Price before slippage, reason, and whether both barriers lay inside; None where neither was touched."""
    if sign * (candle["open"] - stop) <= 0:
        return candle["open"], "stop", False
    if sign * (candle["open"] - target) >= 0:
        return candle["open"], "target", False
    worst, best = (candle["low"], candle["high"]) if sign > 0 else (candle["high"], candle["low"])
    if sign * (worst - stop) <= 0:
        return stop, "stop", sign * (best - target) >= 0
    return (target, "target", False) if sign * (best - target) >= 0 else (None, None, False)
