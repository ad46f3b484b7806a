"""Combinatorial purged cross-validation: counts, no leak, and skfolio's splits where rows are even."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skfolio.model_selection import CombinatorialPurgedCV

from v7_pipeline.learning.purged import backtest_paths, combinatorial_splits


def test_six_folds_with_two_tested_make_15_splits_and_5_paths() -> None:
    splits = combinatorial_splits(np.arange(60), np.arange(60) + 1)
    assert len(splits) == 15
    assert backtest_paths().shape == (5, 6)
    assert (CombinatorialPurgedCV(6, 2).n_splits, CombinatorialPurgedCV(6, 2).n_test_paths) == (15, 5)


def test_each_path_tests_each_row_once_and_no_split_serves_two_paths_for_one_fold() -> None:
    splits = combinatorial_splits(np.arange(63), np.arange(63) + 1)
    for path in backtest_paths():
        rows = [splits[at].tests[splits[at].folds.index(fold)] for fold, at in enumerate(path)]
        assert np.concatenate(rows).tolist() == list(range(63))
    assert all(len(set(column)) == 5 for column in backtest_paths().T)


@pytest.mark.parametrize(("length", "embargo"), list(product([1, 4], [0, 3])))
def test_even_rows_of_one_length_are_split_as_skfolio_splits_them(length: int, embargo: int) -> None:
    theirs = CombinatorialPurgedCV(6, 2, purged_size=length - 1, embargo_size=embargo)
    ours = combinatorial_splits(np.arange(120), np.arange(120) + length, embargo=embargo)
    assert (backtest_paths() == theirs.recombined_paths.T).all()
    for (train, tests), own in zip(theirs.split(np.zeros((120, 1))), ours, strict=True):
        assert train.tolist() == own.train.tolist()
        assert [rows.tolist() for rows in tests] == [rows.tolist() for rows in own.tests]


def leaks(start: np.ndarray, end: np.ndarray, train: np.ndarray, test: np.ndarray) -> int:
    """How many rows are fitted on although a tested one was open at the same time."""
    return int(((start[train][:, None] < end[test]) & (end[train][:, None] > start[test])).any(axis=1).sum())


def uneven() -> tuple[np.ndarray, np.ndarray]:
    """Three symbols' trades as they come, one to 240 minutes long."""
    rng = np.random.default_rng(1)
    start = np.sort(rng.integers(0, 20_000, 600)).astype(float)
    return start, start + rng.integers(1, 240, 600)


def test_trades_of_unequal_length_do_not_leak_and_a_purged_number_of_rows_does() -> None:
    """Why the cut is by time: as many rows as lie within a mean trade leave some that were open at the same time."""
    start, end = uneven()
    for split in combinatorial_splits(start, end):
        assert leaks(start, end, split.train, np.concatenate(split.tests)) == 0
    rows = round((end - start).mean() / (20_000 / 600))
    theirs = CombinatorialPurgedCV(6, 2, purged_size=rows).split(start[:, None])
    assert sum(leaks(start, end, train, np.concatenate(tests)) for train, tests in theirs) > 0


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 30)), min_size=6, max_size=40),
    st.integers(0, 20),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_no_row_is_fitted_on_that_overlaps_a_tested_fold_or_its_embargo(
    spans: list[tuple[int, int]], embargo: int, test_folds: int
) -> None:
    start = np.array([a for a, _ in spans], dtype=float)
    end = start + np.array([d for _, d in spans])
    for split in combinatorial_splits(start, end, folds=4, test_folds=test_folds, embargo=embargo):
        fitted = np.zeros(len(start), dtype=bool)
        fitted[split.train] = True
        for i in range(len(start)):
            free = all(end[i] <= start[t].min() or start[i] >= end[t].max() + embargo for t in split.tests)
            assert fitted[i] == free


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"end": np.arange(30)}, "end after its start"),
        ({"test_folds": 6}, "6 of 6 folds"),
        ({"test_folds": 0}, "0 of 6 folds"),
        ({"folds": 31}, "with 30 rows"),
        ({"embargo": -1}, "look back"),
    ],
)
def test_impossible_splits_are_refused(change: dict[str, object], told: str) -> None:
    given: dict[str, object] = {"start": np.arange(30), "end": np.arange(30) + 1}
    with pytest.raises(ValueError, match=told):
        combinatorial_splits(**(given | change))  # type: ignore[arg-type]
