"""The paper book: the positions behind outcomes, as the account engine reads them, and what is still to be entered.

Derived from facts at every call; nothing is remembered here. Limits and gates are not this room's.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from v7_pipeline.trades.fees import fee_preset
from v7_pipeline.trades.frames import directions, require
from v7_pipeline.trades.pnl import loss_at_stop

__all__ = ["POSITION_COLUMNS", "pending_risk_usd", "positions"]

POSITION_COLUMNS = (
    "signal_id", "symbol", "side", "quantity", "entry_price", "entry_time", "exit_price", "exit_time", "stop_price",
    "entry_fee_usd", "exit_fee_usd", "worst_case_usd",
)  # fmt: skip


def positions(
    outcomes: pd.DataFrame, signals: pd.DataFrame, *, slippage: float, rate_of: Callable[[str], float] | None = None
) -> pd.DataFrame:
    """The entered positions among `outcomes` (one kind, quantity present), with their stops from `signals`.

    Fees, in USD by side, are at `rate_of` the symbol (an account's own commission, whatever the outcome was judged by),
    or at the outcome's own preset where it is not given; the exit's is missing while open. worst_case_usd is the loss
    from the *filled* entry to the stop with fees and slippage. ValueError where a quantity or a signal is missing.
    """
    require(outcomes, ("signal_id", "kind", "symbol", "side", "quantity", "entry_price", "entry_time"), "outcomes")
    require(outcomes, ("exit_price", "exit_time", "fee_preset"), "outcomes")
    require(signals, ("signal_id", "stop_price"), "signals")
    entered = outcomes[outcomes["entry_time"].notna()]
    if entered["kind"].nunique() > 1:
        raise ValueError("positions of different kinds are different books; select one kind of outcome")
    if entered["quantity"].isna().any():
        raise ValueError("a position needs a quantity; shadow outcomes have none and are no positions")
    stops = signals.set_index("signal_id")["stop_price"]
    unknown = entered.loc[~entered["signal_id"].isin(stops.index), "signal_id"].tolist()
    if unknown:
        raise ValueError(f"no signal for the outcome(s) {', '.join(unknown[:3])}; pass the signals they came from")
    book = entered.assign(stop_price=entered["signal_id"].map(stops).astype("float64")).reset_index(drop=True)
    if rate_of is None:
        rate = book["fee_preset"].map(lambda name: fee_preset(name).rate_per_side).astype("float64")
    else:
        rate = book["symbol"].map(rate_of).astype("float64")
    entry_fee = rate * book["quantity"] * book["entry_price"]
    loss = loss_at_stop(
        directions(book["side"]), book["entry_price"], book["stop_price"], fee_rate=rate, slippage=slippage
    )
    book = book.assign(
        entry_fee_usd=entry_fee,
        exit_fee_usd=rate * book["quantity"] * book["exit_price"],
        worst_case_usd=book["quantity"] * loss,
    )
    return book[list(POSITION_COLUMNS)]


def pending_risk_usd(accepted: pd.DataFrame, outcomes: pd.DataFrame) -> float:
    """Worst case (USD) of accepted signals that no candle has filled yet: they will be entered, so they count.

    accepted: signal_id, risk_usd of accepted signals only. outcomes: signal_id, entry_time.
    """
    require(accepted, ("signal_id", "risk_usd"), "accepted signals")
    require(outcomes, ("signal_id", "entry_time"), "outcomes")
    entered = outcomes.loc[outcomes["entry_time"].notna(), "signal_id"]
    waiting = accepted[~accepted["signal_id"].isin(entered)]
    if waiting["risk_usd"].isna().any():
        raise ValueError("an accepted signal has no risk_usd; it should not have been accepted")
    return float(waiting["risk_usd"].sum())
