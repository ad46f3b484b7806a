"""How much to trade: the quantity whose worst case at the stop is the set risk.

Whether the account may take that risk is the FTMO gate's question, not this module's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import pandas as pd

from v7_pipeline.trades.frames import require
from v7_pipeline.trades.pnl import entry_fill, loss_at_stop

__all__ = ["SIZE_COLUMNS", "Product", "Sized", "size", "size_rows", "size_signals"]

SIZE_COLUMNS = ("signal_id", "quantity", "risk_usd", "notional_usd", "margin_usd", "lots", "capped_by")


@dataclass(frozen=True, slots=True)
class Product:
    """How one product is traded on the account.

    fee_rate: fraction of a side's notional; leverage: largest notional over margin; contract_size: base units a lot,
    None where the firm states none; quantity_increment: step of a quantity in base units.
    """

    fee_rate: float
    leverage: float
    contract_size: float | None = None
    quantity_increment: float = 1e-8


@dataclass(frozen=True, slots=True)
class Sized:
    """A position's size. `quantity` in base units, `risk_usd` its worst case at the stop, `notional_usd` at its fill.

    `capped_by` is None where the set risk decided, "leverage" where the margin did.
    """

    quantity: float
    risk_usd: float
    notional_usd: float
    capped_by: Literal["leverage"] | None


def size(
    side: str,
    entry: float,
    stop: float,
    *,
    risk_usd: float,
    slippage: float,
    free_margin_usd: float,
    product: Product,
) -> Sized:
    """The largest multiple of the product's increment that loses at most `risk_usd` at the stop.

    The loss counts slippage and the fees of both sides, and the notional stays within leverage × `free_margin_usd`
    (equity less the margin of what is open). Prices in USD. ValueError for HOLD, for a stop on the wrong side, and for
    numbers that are not finite and positive.
    """
    if side not in ("BUY", "SELL"):
        raise ValueError(f"only BUY and SELL have a size, not {side!r}")
    given = {"entry": entry, "stop": stop, "risk_usd": risk_usd, "leverage": product.leverage}
    given["quantity_increment"] = product.quantity_increment
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number to size a {side}, not {value}")
    if not math.isfinite(free_margin_usd):
        raise ValueError(f"the free margin must be a number to size a {side}, not {free_margin_usd}")
    direction = 1.0 if side == "BUY" else -1.0
    if direction * (entry - stop) <= 0:
        raise ValueError(f"a {side} from {entry} needs its stop on the other side than {stop}")
    fill = entry_fill(entry, direction, slippage)
    loss = loss_at_stop(direction, fill, stop, fee_rate=product.fee_rate, slippage=slippage)
    by_risk, by_leverage = risk_usd / loss, max(0.0, product.leverage * free_margin_usd / fill)
    quantity = _floor_to(min(by_risk, by_leverage), product.quantity_increment)
    return Sized(quantity, quantity * loss, quantity * fill, "leverage" if by_leverage < by_risk else None)


def size_signals(
    signals: pd.DataFrame,
    *,
    risk_usd: float,
    slippage: float,
    free_margin_usd: float,
    products: Mapping[str, Product],
) -> pd.DataFrame:
    """`size` of every BUY and SELL, in the signals' order: SIZE_COLUMNS.

    The entry is the worse of plan and market, since the fill is a market fill. margin_usd is what the position ties up;
    lots is missing where the firm states no contract size. A plan that cannot be sized (a price is missing, or the stop
    is on the wrong side) has NaN throughout: the gates refuse it and say why. KeyError for a symbol without a product.
    """
    require(signals, ("signal_id", "symbol", "side", "entry_price", "stop_price", "market_price"), "signals")
    rows = size_rows(
        signals[signals["side"].isin(("BUY", "SELL"))].to_dict("records"),
        risk_usd=risk_usd,
        slippage=slippage,
        free_margin_usd=free_margin_usd,
        products=products,
    )
    return pd.DataFrame(rows, columns=list(SIZE_COLUMNS))


def size_rows(
    signals: Iterable[Mapping[str, Any]],
    *,
    risk_usd: float,
    slippage: float,
    free_margin_usd: float,
    products: Mapping[str, Product],
) -> list[dict[str, Any]]:
    """`size_signals` of BUYs and SELLs as mappings: SIZE_COLUMNS of each."""
    rows: list[dict[str, Any]] = []
    for row in signals:
        product = products[row["symbol"]]
        plan = _plan(row)
        sized = Sized(math.nan, math.nan, math.nan, None)
        if plan is not None:
            sized = size(
                row["side"],
                *plan,
                risk_usd=risk_usd,
                slippage=slippage,
                free_margin_usd=free_margin_usd,
                product=product,
            )
        lots = math.nan if product.contract_size is None else sized.quantity / product.contract_size
        extra = {"margin_usd": sized.notional_usd / product.leverage, "lots": lots}
        rows.append({"signal_id": row["signal_id"], **{f: getattr(sized, f) for f in Sized.__slots__}, **extra})
    return rows


def _plan(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The entry to count on and the stop, or None where the plan cannot be sized."""
    prices = [row["entry_price"], row["stop_price"], row["market_price"]]
    if not all(not pd.isna(price) and price > 0 for price in prices):
        return None
    worse = max if row["side"] == "BUY" else min
    entry, stop = worse(row["entry_price"], row["market_price"]), row["stop_price"]
    return (entry, stop) if (stop < entry) == (row["side"] == "BUY") and stop != entry else None


def _floor_to(value: float, increment: float) -> float:
    """Down to a multiple of `increment`, in decimals: 0.3 is three tenths, as a person would count."""
    step = Decimal(repr(float(increment)))
    return float(Decimal(repr(float(value))) // step * step)
