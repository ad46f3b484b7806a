"""Whether a day's readings are distributed as those of the days before: the population stability index.

Frames in, frames out; what counts as an alarm is the checks' business.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["PSI_SHIFT", "psi", "shifts", "total_variation"]

#: How many times what ordinary days show a day must show: nine whole winter days of 85 columns showed at most 2.04.
_BEYOND_USUAL = 2.5
#: The usual reading of the index: below 0.1 no shift, above 0.25 a shift (Siddiqi, Credit Risk Scorecards, 2006).
PSI_SHIFT = 0.25
_BINS, _FLOOR = 10, 1e-4

Floats = npt.NDArray[np.float64]


def psi(expected: npt.ArrayLike, actual: npt.ArrayLike, *, bins: int = _BINS) -> float:
    """Σ (a − e) · ln(a / e) over bins at the quantiles of `expected`; missing values are left out.

    A share of nothing counts as 0.0001. NaN where either side has no value.
    """
    one, other = (np.asarray(values, np.float64) for values in (expected, actual))
    one, other = one[~np.isnan(one)], other[~np.isnan(other)]
    if not len(one) or not len(other):
        return float("nan")
    edges = _edges(one, bins)
    return _index(_counts(one, edges), _counts(other, edges))


def shifts(readings: pd.DataFrame, columns: Sequence[str], *, day: pd.Timestamp, min_days: int = 14) -> pd.DataFrame:
    """How far each column's distribution on `day` lies from that of the days before it, which `readings` also holds.

    `readings` has as_of and `columns`. Minutes of one day resemble each other, so that ordinary days lie far from a
    month too: `usual` is the largest index that one of the days before has against the others of them. Columns of the
    result: column, psi, usual, shifted (psi above 0.25 and 2.5 times `usual`), days; empty with fewer than `min_days`
    days.
    """
    days = readings["as_of"].dt.floor("D")
    numbers = ((days - day) // pd.Timedelta(days=1)).to_numpy(np.int64)
    before = np.unique(numbers[numbers < 0])
    rows = []
    for name in columns if len(before) >= min_days else ():
        values = readings[name].to_numpy(np.float64)
        known = ~np.isnan(values)
        past = values[known & (numbers < 0)]
        if not len(past) or not (known & (numbers == 0)).any():
            continue
        edges = _edges(past, _BINS)
        each = np.stack([_counts(values[known & (numbers == number)], edges) for number in before])
        whole = each.sum(axis=0)
        usual = max((_index(whole - one, one) for one in each if one.sum() and (whole - one).sum()), default=0.0)
        found = _index(whole, _counts(values[known & (numbers == 0)], edges))
        rows.append((name, found, usual, bool(found > max(PSI_SHIFT, _BEYOND_USUAL * usual)), len(before)))
    return pd.DataFrame(rows, columns=["column", "psi", "usual", "shifted", "days"])


def total_variation(one: pd.Series, other: pd.Series) -> float:
    """Half the summed difference of two frequency tables, each brought to shares: 0 the same, 1 nothing in common."""
    both = pd.concat([one / one.sum(), other / other.sum()], axis=1).fillna(0.0)
    return float((both.iloc[:, 0] - both.iloc[:, 1]).abs().sum() / 2)


def _edges(values: Floats, bins: int) -> Floats:
    return np.unique(np.quantile(values, np.arange(1, bins) / bins))


def _counts(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def _index(expected: npt.NDArray[np.int64], actual: npt.NDArray[np.int64]) -> float:
    e, a = (np.maximum(counts / counts.sum(), _FLOOR) for counts in (expected, actual))
    return float(np.sum((a - e) * np.log(a / e)))
