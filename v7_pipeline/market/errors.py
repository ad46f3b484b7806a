"""What the market raises: one clear sentence that names the symbol, what happened and what to do.

No handling belongs here.
"""

from __future__ import annotations

__all__ = ["MarketError"]


class MarketError(RuntimeError):
    """One symbol's candles (or another answer of the market) cannot be had or cannot be trusted."""
