"""The identity of a signal: one text made of strategy, symbol and instant, so that doing a scan twice changes nothing.

Only making and taking apart of identities belongs here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

__all__ = ["SignalId", "parse_signal_id", "signal_id"]

_STRATEGY = r"[a-z][a-z0-9_]*"
_SYMBOL = r"[A-Z0-9]+-[A-Z0-9]+"
_INSTANT = "%Y%m%dT%H%M%SZ"
_ID = re.compile(rf"(?P<strategy>{_STRATEGY})-(?P<symbol>{_SYMBOL})-(?P<instant>\d{{8}}T\d{{6}}Z)")


class SignalId(NamedTuple):
    """The parts of a signal's identity; `as_of` is UTC."""

    strategy: str
    symbol: str
    as_of: datetime


def signal_id(strategy: str, symbol: str, as_of: datetime) -> str:
    """The signal's identity, such as v7-BTC-USD-20231211T021200Z.

    ValueError for a naive instant, a fraction of a second, or a name that could not be taken apart again.
    """
    if as_of.tzinfo is None:
        raise ValueError(f"as_of {as_of.isoformat()} has no time zone; give it in UTC")
    if as_of.microsecond or getattr(as_of, "nanosecond", 0):
        raise ValueError(f"as_of {as_of.isoformat()} is not a whole second; a scan's instant is")
    return f"{_head(strategy, symbol)}{as_of.astimezone(UTC).strftime(_INSTANT)}"


@cache
def _head(strategy: str, symbol: str) -> str:
    if not re.fullmatch(_STRATEGY, strategy):
        raise ValueError(f"strategy {strategy!r} must be lower-case letters, digits and _, such as v7")
    if not re.fullmatch(_SYMBOL, symbol):
        raise ValueError(f"symbol {symbol!r} must be BASE-QUOTE in capitals, such as BTC-USD")
    return f"{strategy}-{symbol}-"


def parse_signal_id(text: str) -> SignalId:
    """Strategy, symbol and instant (UTC) of `text`; ValueError where it is no signal's identity."""
    found = _ID.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no signal_id; it looks like v7-BTC-USD-20231211T021200Z")
    try:
        as_of = datetime.strptime(found["instant"], _INSTANT).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is no signal_id: {found['instant']} is not a moment in time") from None
    return SignalId(found["strategy"], found["symbol"], as_of)
