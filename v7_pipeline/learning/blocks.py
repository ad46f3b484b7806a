"""Blocks of time in which outcomes hang together: how long they must be, and which trade belongs to which.

One rule for the permutation test and the bootstrap. Only the cutting of time; no statistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["CELLS", "MIN_BLOCKS", "TimeBlocks", "time_blocks"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# A block is eight times the mean label: labels that reach over its border are then a twentieth of its variance.
_MEAN_LABELS = 8.0
#: A block is made of this many cells; the bootstrap's blocks may begin at any of them.
CELLS = 4
#: Below this many blocks with trades there is no p-value and no interval of a correlation.
MIN_BLOCKS = 10


@dataclass(frozen=True)
class TimeBlocks:
    """`minutes` of a block; `block` and `cell` of each trade, from 0; how many blocks hold a trade."""

    minutes: float
    block: Integers
    cell: Integers
    filled: int

    @property
    def enough(self) -> bool:
        return self.filled >= MIN_BLOCKS


def time_blocks(start: Floats, end: Floats) -> TimeBlocks:
    """Blocks for trades that are open over [start, end), in minutes.

    Length: the longest trade or eight times the mean trade, whichever is more, so that no label reaches over two
    borders and what neighbouring blocks share is small. All symbols have the same blocks: what moves together stays
    together. ValueError where a trade does not end after it starts.
    """
    if not len(start):
        return TimeBlocks(0.0, np.empty(0, np.int64), np.empty(0, np.int64), 0)
    held = end - start
    if not (held > 0).all():
        raise ValueError("each trade must end after it starts")
    minutes = float(max(held.max(), _MEAN_LABELS * held.mean()))
    cell = np.floor((start - start.min()) / (minutes / CELLS)).astype(np.int64)
    block = cell // CELLS
    return TimeBlocks(minutes, block, cell, len(np.unique(block)))
