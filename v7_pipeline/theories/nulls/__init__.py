"""The null distributions: what each statistic does on driftless random walks, and a value's place there.

random_walk.npz (and its checksum in random_walk.json) is made by `python -m v7_pipeline.theories.nulls.simulate` and
read here; nothing is simulated here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.theories.base import Bars, Floats

__all__ = [
    "ABOUT", "FILE", "SHARE_UNITS", "ByQuietMinutes", "NullTable", "about", "by_quiet_minutes", "checksum", "load",
    "simulated_percentile",
]  # fmt: skip

FILE = "random_walk.npz"
ABOUT = "random_walk.json"
#: Shares are stored as whole numbers of 1/65,534: even, so that ½ is exact and mirrored tables are mirrored.
SHARE_UNITS = 65534


class NullTable(NamedTuple):
    """One statistic's null over Q shares of quiet minutes × A readings × K knots, all interpolated linearly.

    A reading is a second, signless property of the window on which the statistic's null depends; without one, A = 1.
    At share levels[q] and reading readings[q, a] the null's distribution function (mid-rank) is shares[q, a, i] at
    low[q, a] + i · step[q, a]. Beyond a table's edge its last entry holds.
    """

    levels: Floats
    readings: Floats
    low: Floats
    step: Floats
    shares: Floats


def checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of names, types, shapes and values, whatever the compression."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def about() -> dict[str, Any]:
    """How the file was made: seed, nulls, sizes, checksum."""
    return json.loads((files(__name__) / ABOUT).read_text(encoding="utf-8"))


@cache
def _file() -> dict[str, npt.NDArray[Any]]:
    with (files(__name__) / FILE).open("rb") as stream, np.load(stream) as data:
        arrays = {name: data[name] for name in data.files}
    if checksum(arrays) != about()["sha256"]:
        raise ValueError(f"{FILE} is not the file that {ABOUT} describes; make both again with nulls/simulate.py")
    return arrays


@cache
def load(theory: str, window: int = HEADLINE_WINDOW) -> NullTable:
    """The null of a theory's statistic over `window` minutes (market_regime and kalman_filter have the headline
    window only); KeyError where none was simulated, ValueError where the file is damaged."""
    data = _file()
    levels, readings, low, step, shares = (
        np.ascontiguousarray(data[f"{theory}_{window}_{part}"], np.float64) for part in NullTable._fields
    )
    return NullTable(levels, readings, low, step, shares / SHARE_UNITS)


class ByQuietMinutes(NamedTuple):
    """The table by count of quiet minutes (0 … HEADLINE_WINDOW), as kernels.table_percentile takes it."""

    nodes: Floats
    low: Floats
    step: Floats
    shares: Floats


def by_quiet_minutes(table: NullTable) -> ByQuietMinutes:
    """The table interpolated to each count of quiet minutes."""
    levels, *tables = table
    if levels.size == 1:
        return ByQuietMinutes(*(np.repeat(each, HEADLINE_WINDOW + 1, axis=0) for each in tables))
    share = np.clip(np.arange(HEADLINE_WINDOW + 1) / HEADLINE_WINDOW, levels[0], levels[-1])
    below = np.clip(np.searchsorted(levels, share, side="right") - 1, 0, levels.size - 2)
    weight = (share - levels[below]) / (levels[below + 1] - levels[below])

    def mixed(each: Floats) -> Floats:
        w = weight.reshape(-1, *[1] * (each.ndim - 1))
        return (1 - w) * each[below] + w * each[below + 1]

    return ByQuietMinutes(*(mixed(each) for each in tables))


@cache
def _counted(theory: str) -> ByQuietMinutes:
    return by_quiet_minutes(load(theory))


def simulated_percentile(theory: str, bars: Bars, statistic: Floats, reading: Floats | None = None) -> Floats:
    """Mid-rank place of each statistic of the headline window under random walks with its window's share of quiet
    minutes and its reading."""
    out = bars.column(f"{theory}_percentile")
    reading = statistic if reading is None else reading  # not looked at
    bars.kernels.table_percentile(statistic, bars.quiet_minutes(), reading, *_counted(theory), out)
    return out
