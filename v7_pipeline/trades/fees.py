"""The named fee presets, each with its source; every P&L says which one it used.

What a fee does to a return is in pnl.py.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FEE_PRESETS", "FeePreset", "fee_preset"]


@dataclass(frozen=True, slots=True)
class FeePreset:
    """A fee charged on each side. `rate_per_side` is a fraction of that side's notional."""

    name: str
    rate_per_side: float
    source: str


FEE_PRESETS: dict[str, FeePreset] = {
    preset.name: preset
    for preset in (
        FeePreset("ftmo-crypto", 0.000325, "FTMO's own pages, since 2025-07-26: 0.0325 % a side"),
        FeePreset("coinbase-taker", 0.009, "reported: Coinbase Advanced entry tier since 2026-09-16, taker 0.90 %"),
        FeePreset("coinbase-maker", 0.005, "reported: Coinbase Advanced entry tier since 2026-09-16, maker 0.50 %"),
        FeePreset("none", 0.0, "no fees; for comparison only"),
    )
}


def fee_preset(name: str) -> FeePreset:
    """The preset called `name`; KeyError that lists the known ones."""
    try:
        return FEE_PRESETS[name]
    except KeyError:
        raise KeyError(f"no fee preset {name!r}; known are {', '.join(FEE_PRESETS)}") from None
