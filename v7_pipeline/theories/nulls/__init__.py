"""The null distributions: what each headline statistic does on a driftless random walk, and a value's place there.

random_walk.npz is made by `python -m v7_pipeline.theories.nulls.simulate` and read here; nothing is simulated here.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import Bars, Floats

__all__ = ["FILE", "NullTable", "load", "simulated_percentile"]

FILE = "random_walk.npz"


#: Cells a row of knots is cut into, so that a value's place among them is nearly known at once.
CELLS = 512


class NullTable(NamedTuple):
    """One statistic's null: `levels` are shares of quiet minutes (Q); `knots` and `shares` are Q × K: values and
    their mid-rank distribution function."""

    levels: Floats
    knots: Floats
    shares: Floats


class _Index(NamedTuple):
    """What kernels.table_percentile takes after the counts of quiet minutes."""

    level: npt.NDArray[np.int64]
    weight: Floats
    knots: Floats
    shares: Floats
    slopes: Floats
    start: npt.NDArray[np.uint8]
    cells: Floats


@cache
def _file() -> dict[str, Any]:
    with (files(__name__) / FILE).open("rb") as stream, np.load(stream) as data:
        return {name: np.ascontiguousarray(data[name], np.float64) for name in data.files}


@cache
def load(theory: str) -> NullTable:
    """The null of a theory's headline statistic; KeyError where it has no simulated one."""
    data = _file()
    return NullTable(data["levels"], data[f"{theory}_knots"], data[f"{theory}_shares"])


@cache
def _index(theory: str) -> _Index:
    levels, knots, shares = load(theory)
    share = np.arange(HEADLINE_WINDOW + 1) / HEADLINE_WINDOW
    share = np.clip(share, levels[0], levels[-1])
    level = np.clip(np.searchsorted(levels, share, side="right") - 1, 0, levels.size - 2)
    weight = (share - levels[level]) / (levels[level + 1] - levels[level])
    width = np.diff(knots)
    slopes = np.divide(np.diff(shares), width, out=np.zeros(width.shape), where=width > 0)
    cells = CELLS / (knots[:, -1] - knots[:, 0])
    start = np.zeros((levels.size, CELLS + 1), np.uint8)
    for row in range(levels.size):
        # A hair to the left: rounding may put a value that lies on an edge into the cell before.
        edges = knots[row, 0] + (np.arange(CELLS + 1) - 1e-6) / cells[row]
        start[row] = np.maximum(np.searchsorted(knots[row], edges, side="right") - 1, 0)
    return _Index(level, weight, knots, shares, slopes, start, cells)


def simulated_percentile(theory: str, bars: Bars, statistic: Floats) -> Floats:
    """Mid-rank place of each statistic under the random walk with its window's share of quiet minutes."""
    out = bars.column(f"{theory}_percentile")
    bars.kernels.table_percentile(statistic, bars.quiet_minutes(), *_index(theory), out)
    return out
