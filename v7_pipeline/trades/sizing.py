"""How much to trade: the quantity whose worst case at the stop is the set risk.

Whether the account may take that risk is the FTMO gate's question, not this module's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import pandas as pd

from v7_pipeline.trades.frames import require
from v7_pipeline.trades.pnl import entry_fill, loss_at_stop

__all__ = ["Sized", "size", "size_signals"]


@dataclass(frozen=True, slots=True)
class Sized:
    """A position's size. `quantity` in base units, `risk_usd` its worst case at the stop.

    `capped_by` is None where the set risk decided, "leverage" where the notional did.
    """

    quantity: float
    risk_usd: float
    capped_by: Literal["leverage"] | None


def size(
    side: str,
    entry: float,
    stop: float,
    *,
    risk_usd: float,
    fee_rate: float,
    slippage: float,
    equity: float,
    leverage: float,
    quantity_increment: float = 1e-8,
) -> Sized:
    """The largest multiple of `quantity_increment` that loses at most `risk_usd` at the stop.

    The loss counts slippage and the fees of both sides, and the notional stays within `leverage` × `equity`. Prices in
    USD. ValueError for HOLD, for a stop on the wrong side, and for numbers that are not finite and positive.
    """
    if side not in ("BUY", "SELL"):
        raise ValueError(f"only BUY and SELL have a size, not {side!r}")
    given = {"entry": entry, "stop": stop, "risk_usd": risk_usd, "leverage": leverage}
    given["quantity_increment"] = quantity_increment
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number to size a {side}, not {value}")
    if not math.isfinite(equity):
        raise ValueError(f"equity must be a number to size a {side}, not {equity}")
    direction = 1.0 if side == "BUY" else -1.0
    if direction * (entry - stop) <= 0:
        raise ValueError(f"a {side} from {entry} needs its stop on the other side than {stop}")
    fill = entry_fill(entry, direction, slippage)
    loss = loss_at_stop(direction, fill, stop, fee_rate=fee_rate, slippage=slippage)
    by_risk, by_leverage = risk_usd / loss, max(0.0, leverage * equity / fill)
    quantity = _floor_to(min(by_risk, by_leverage), quantity_increment)
    return Sized(quantity, quantity * loss, "leverage" if by_leverage < by_risk else None)


def size_signals(
    signals: pd.DataFrame, *, risk_usd: float, fee_rate: float, slippage: float, equity: float, leverage: float
) -> pd.DataFrame:
    """`size` of every BUY and SELL: signal_id, quantity, risk_usd, capped_by, in the signals' order.

    The entry is the worse of plan and market, since the fill is a market fill. A plan that cannot be sized (a price is
    missing, or the stop is on the wrong side) has NaN for quantity and risk: the gates refuse it and say why.
    """
    require(signals, ("signal_id", "side", "entry_price", "stop_price", "market_price"), "signals")
    rows: list[dict[str, Any]] = []
    for row in signals[signals["side"].isin(("BUY", "SELL"))].to_dict("records"):
        prices = [row["entry_price"], row["stop_price"], row["market_price"]]
        sized = Sized(math.nan, math.nan, None)
        if all(not pd.isna(price) and price > 0 for price in prices):
            worse = max if row["side"] == "BUY" else min
            entry, stop = worse(row["entry_price"], row["market_price"]), row["stop_price"]
            if (stop < entry) == (row["side"] == "BUY") and stop != entry:
                sized = size(
                    row["side"],
                    entry,
                    stop,
                    risk_usd=risk_usd,
                    fee_rate=fee_rate,
                    slippage=slippage,
                    equity=equity,
                    leverage=leverage,
                )
        rows.append({"signal_id": row["signal_id"], **{f: getattr(sized, f) for f in Sized.__slots__}})
    return pd.DataFrame(rows, columns=["signal_id", *Sized.__slots__])


def _floor_to(value: float, increment: float) -> float:
    """Down to a multiple of `increment`, in decimals: 0.3 is three tenths, as a person would count."""
    step = Decimal(repr(float(increment)))
    return float(Decimal(repr(float(value))) // step * step)
