"""A made-up order book around a price: levels that thin out and widen, the same for the same product and instant.

Real depth is not modelled; wire formats belong to coinbase.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from random import Random

__all__ = ["Book", "make_book"]

_REFRESH_S = 2


@dataclass(frozen=True, slots=True)
class Book:
    """Levels (price, size, orders), best first. Prices on the quote increment, bids below asks."""

    bids: list[tuple[float, float, int]]
    asks: list[tuple[float, float, int]]
    sequence: int


def make_book(symbol: str, price: float, decimals: int, now: datetime, depth: int) -> Book:
    """`depth` levels a side around `price`; it changes every two seconds."""
    tick = int(now.timestamp()) // _REFRESH_S
    steps = 10**decimals
    middle = round(price * steps)

    def side(name: str, direction: int) -> list[tuple[float, float, int]]:
        # Seeded by text, which Random hashes the same way in every process; the best levels do not depend on depth.
        random = Random(f"{symbol}|{tick}|{name}")
        levels: list[tuple[float, float, int]] = []
        place = middle + (1 if direction > 0 else 0)
        reach = max(middle // 50_000, 1)
        for _ in range(depth):
            place += direction * (random.randrange(reach) + 1) if levels else 0
            if place < 1:
                break
            size = round(random.expovariate(1.0) * 20_000 / price + 1e-8, 8)
            levels.append((place / steps, size, random.randrange(1, 12)))
        return levels

    return Book(side("bid", -1), side("ask", 1), tick * 1000)
