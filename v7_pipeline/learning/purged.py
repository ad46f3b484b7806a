"""Training and test rows of trades that take time: combinatorial cross-validation, purged and with an embargo.

Instants in, row numbers out; what is fitted on them does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["PurgedSplit", "backtest_paths", "combinatorial_splits"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PurgedSplit:
    """Row numbers to fit on, and those of each fold to test on (`folds` are their numbers, in order of time)."""

    train: Ints
    tests: tuple[Ints, ...]
    folds: tuple[int, ...]


def combinatorial_splits(
    start: npt.ArrayLike, end: npt.ArrayLike, *, folds: int = 6, test_folds: int = 2, embargo: float = 0.0
) -> list[PurgedSplit]:
    """Every choice of `test_folds` out of `folds` stretches of time (López de Prado 2018, ch. 7 and 12).

    start, end: when each row was decided and when its outcome was known, [start, end), numbers in any one unit. Rows
    are cut into folds of nearly equal count by `start`. A row is fitted on unless it overlaps the span of a tested
    fold, from its first start to its last end, or starts within `embargo` (same unit) after it. 15 splits of 6 and 2.

    Purged by time, since outcomes last unequally long and several symbols share a minute: skfolio's
    CombinatorialPurgedCV, to which this is equal for evenly spaced rows of one length, purges a number of rows.
    ValueError on fewer rows than folds, impossible folds, a negative embargo, or an end that is not after its start.
    """
    a, b = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    if a.shape != b.shape or not (b > a).all():
        raise ValueError("each row needs an end after its start")
    if not 0 < test_folds < folds <= len(a):
        raise ValueError(f"{test_folds} of {folds} folds cannot be tested with {len(a)} rows: test fewer, or use fewer")
    if not embargo >= 0:
        raise ValueError(f"an embargo of {embargo} would look back; give 0 or more")
    parts = np.array_split(np.argsort(a, kind="stable"), folds)
    beside = [(b <= a[part].min()) | (a >= b[part].max() + embargo) for part in parts]
    found = []
    for tested in combinations(range(folds), test_folds):
        train = np.flatnonzero(np.logical_and.reduce([beside[k] for k in tested]))
        found.append(PurgedSplit(train, tuple(np.sort(parts[k]) for k in tested), tested))
    return found


def backtest_paths(folds: int = 6, test_folds: int = 2) -> Ints:
    """Paths through all of time, each fold tested once: paths × folds, which split tests it (its place in the list).

    C(folds, test_folds) · test_folds / folds of them, 5 of 6 and 2. Path j takes each fold's j-th split.
    """
    choices = list(combinations(range(folds), test_folds))
    return np.array([[at for at, tested in enumerate(choices) if k in tested] for k in range(folds)]).T
