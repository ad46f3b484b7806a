"""Fills, returns and worst cases: the arithmetic of one trade, the same for numbers and arrays.

`direction` is +1 for a long and −1 for a short throughout; no frame is touched here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["entry_fill", "fee_return", "gross_return", "loss_at_stop", "market_exit_fill"]

# Floats or numpy arrays of them; every formula below is elementwise.
Numbers = Any


def entry_fill(price: Numbers, direction: Numbers, slippage: float) -> Numbers:
    """Fill of a market entry at `price` (USD): a long pays more, a short receives less, by `slippage`."""
    return price * (1.0 + direction * slippage)


def market_exit_fill(price: Numbers, direction: Numbers, slippage: float) -> Numbers:
    """Fill of a market exit (stop, time) at `price` (USD). A target is a limit order and fills without slippage."""
    return price * (1.0 - direction * slippage)


def gross_return(direction: Numbers, entry: Numbers, exit_: Numbers) -> Numbers:
    """Return on the entry's notional before fees; positive is a gain on either side."""
    return direction * (exit_ / entry - 1.0)


def fee_return(rate: float, entry: Numbers, exit_: Numbers) -> Numbers:
    """Fees of both sides as a fraction of the entry's notional."""
    return rate * (1.0 + exit_ / entry)


def loss_at_stop(direction: Numbers, entry: Numbers, stop: Numbers, *, fee_rate: Numbers, slippage: float) -> Numbers:
    """USD that one unit loses from a *filled* `entry` to its stop, with the stop's slippage and both sides' fees."""
    exit_ = market_exit_fill(stop, direction, slippage)
    return direction * (entry - exit_) + fee_rate * (entry + exit_)
