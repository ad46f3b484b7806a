"""Numbers and instants in words, the same in alerts and on pages; missing is always "–".

No sentence about an event belongs here.
"""

from __future__ import annotations

import textwrap
from datetime import datetime
from math import floor, isfinite, log10
from typing import Any

import pandas as pd

__all__ = [
    "MISSING",
    "lots_text",
    "number_text",
    "percent_text",
    "price_text",
    "reward_risk",
    "time_text",
    "two_lines",
    "usd_text",
]

MISSING = "–"


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value) and isfinite(float(value))


def price_text(value: Any, increment: float | None = None) -> str:
    """A price in USD, to the quote increment; without one to six significant digits, cents at least."""
    if not _known(value):
        return MISSING
    price = float(value)
    if increment:
        return f"{round(price / increment) * increment:,.{max(0, -floor(log10(increment) + 1e-9))}f}"
    decimals = 2 if price == 0 else min(12, max(2, 5 - floor(log10(abs(price)))))
    text = f"{price:,.{decimals}f}"
    spare = len(text) - text.rindex(".") - 3
    kept = text.rstrip("0")
    return text if spare <= 0 else kept + "0" * max(0, 2 - (len(kept) - kept.rindex(".") - 1))


def percent_text(value: Any, decimals: int = 1, *, sign: bool = False) -> str:
    """A fraction as percent."""
    return f"{100 * float(value):{'+' if sign else ''}.{decimals}f} %" if _known(value) else MISSING


def usd_text(value: Any, decimals: int = 2, *, sign: bool = False) -> str:
    """An amount of money in USD."""
    if not _known(value):
        return MISSING
    amount = float(value)
    prefix = "-" if amount < 0 else "+" if sign else ""
    return f"{prefix}${abs(amount):,.{decimals}f}"


def lots_text(value: Any) -> str:
    """A position in the firm's lots, to four decimals, not rounded up; no contract size is said to be none."""
    return f"{floor(float(value) * 1e4 + 1e-9) / 1e4:g} lots" if _known(value) else "no lot size"


def number_text(value: Any, decimals: int = 2, *, sign: bool = False) -> str:
    """Any other number."""
    return f"{float(value):{'+' if sign else ''},.{decimals}f}" if _known(value) else MISSING


def time_text(value: datetime | None) -> str:
    """An instant in UTC, to the minute."""
    if value is None or pd.isna(value):
        return MISSING
    return f"{pd.Timestamp(value).tz_convert('UTC'):%Y-%m-%d %H:%M} UTC"


def two_lines(text: str, more: str) -> str:
    """`text` in two lines of 120 characters at most; where that is too little it ends with what tells the rest."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), 120, max_lines=2, placeholder=f" … ({more})"))


def reward_risk(entry: Any, stop: Any, target: Any) -> float | None:
    """Distance to the target over distance to the stop; None where the plan has a gap."""
    if not (_known(entry) and _known(stop) and _known(target)) or float(entry) == float(stop):
        return None
    return abs(float(target) - float(entry)) / abs(float(entry) - float(stop))
