"""Candles as the theories take them: long or wide frames of closed candles become one dense minute grid.

What a quiet and what a missing minute is, market/grid.py says; only the frames' shapes are dealt with here.
"""

from __future__ import annotations

import pandas as pd

from v7_pipeline.market.grid import dense_grid

__all__ = ["FIELDS", "as_grid"]

FIELDS = ("open", "high", "low", "close", "volume")
_LONG = ("symbol", "open_time", *FIELDS)
_GRID = ("symbol", "open_time", "close", "observed")


def as_grid(candles: pd.DataFrame, *, gap_minutes: int) -> pd.DataFrame:
    """The dense grid of `candles`: symbol, open_time, close, observed and whatever dense_grid adds.

    Long: columns symbol, open_time (UTC), open, high, low, close, volume, one row a candle, in any order. Wide: columns
    of two levels, fields and symbols in either order, on an index of open times; a minute whose close is missing has no
    candle. A frame with a column `observed` is a grid already and is returned as it is. Raises ValueError on missing
    columns and on what dense_grid refuses.
    """
    if candles.columns.nlevels == 2:
        candles = _long(candles)
    if "observed" in candles:
        return candles
    missing = [name for name in _LONG if name not in candles]
    if missing:
        raise ValueError(
            f"the candles lack {', '.join(missing)}; give one row a candle with {', '.join(_LONG)}, "
            "or columns of two levels (field and symbol) on an index of open times"
        )
    grids = []
    for symbol, rows in candles.groupby("symbol", sort=True, observed=True):
        try:
            grids.append(dense_grid(rows, gap_minutes=gap_minutes).assign(symbol=symbol))
        except ValueError as error:
            raise ValueError(f"{symbol}: {error}") from None
    if not grids:
        empty = dense_grid(candles, gap_minutes=gap_minutes)
        return empty.assign(symbol=pd.Series(dtype=object))[list(_GRID)]
    return grids[0] if len(grids) == 1 else pd.concat(grids, ignore_index=True)


def _long(wide: pd.DataFrame) -> pd.DataFrame:
    """Two-level columns (fields and symbols, either first) as one row a candle."""
    levels = [set(map(str, wide.columns.get_level_values(level))) for level in (0, 1)]
    places = [level for level in (0, 1) if set(FIELDS) <= levels[level]]
    if not places:
        raise ValueError(
            f"neither level of the wide candles' columns holds all of {', '.join(FIELDS)}; "
            f"they hold {', '.join(sorted(levels[0])[:6])} and {', '.join(sorted(levels[1])[:6])}"
        )
    if not isinstance(wide.index, pd.DatetimeIndex):
        raise ValueError("the index of wide candles must be their open times, timezone-aware UTC")
    symbols = 1 - places[0]
    parts = []
    for symbol in dict.fromkeys(wide.columns.get_level_values(symbols)):
        rows = wide.xs(symbol, axis=1, level=symbols)[list(FIELDS)]
        rows = rows[rows["close"].notna()].rename_axis("open_time").reset_index()
        parts.append(rows.assign(symbol=symbol))
    return pd.concat(parts, ignore_index=True)
