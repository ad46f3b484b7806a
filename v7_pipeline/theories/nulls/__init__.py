"""The null distributions: what each headline statistic does on a driftless random walk, and a value's place there.

random_walk.npz is made by `python -m v7_pipeline.theories.nulls.simulate` and read here; nothing is simulated here.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from v7_pipeline.theories.base import Bars, Floats

__all__ = ["FILE", "NullTable", "load", "simulated_percentile"]

FILE = "random_walk.npz"


class NullTable(NamedTuple):
    """One statistic's null: `levels` are shares of quiet minutes (Q); `knots` and `shares` are Q × K: values and
    their mid-rank distribution function."""

    levels: Floats
    knots: Floats
    shares: Floats


@cache
def _file() -> dict[str, Any]:
    with (files(__name__) / FILE).open("rb") as stream, np.load(stream) as data:
        return {name: np.ascontiguousarray(data[name], np.float64) for name in data.files}


@cache
def load(theory: str) -> NullTable:
    """The null of a theory's headline statistic; KeyError where it has no simulated one."""
    data = _file()
    return NullTable(data["levels"], data[f"{theory}_knots"], data[f"{theory}_shares"])


def simulated_percentile(theory: str, bars: Bars, statistic: Floats) -> Floats:
    """Mid-rank place of each statistic under the random walk with its window's share of quiet minutes."""
    table = load(theory)
    out = np.empty(statistic.size)
    bars.kernels.table_percentile(statistic, bars.quiet_share(), *table, out)
    return out
