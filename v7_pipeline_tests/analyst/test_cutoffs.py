"""Training cut-offs: every day has one label, only what came after a release is clean, and the table is sound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from v7_pipeline.analyst.cutoffs import CLEAN, CONTAMINATED, POSSIBLY, UNKNOWN, Cutoff, cutoff_of, load_cutoffs, periods


def at(year: int, month: int = 1, day: int = 1) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


TABLE = (
    Cutoff("m", at(2025, 6), at(2024, 7), at(2025, 6), "a page"),
    Cutoff("m", at(2026, 2), None, at(2026, 2), "its name changed hands"),
)


def told(asked: datetime, start: datetime, end: datetime, model: str = "m") -> list[tuple[datetime, datetime, str]]:
    return [(p.start, p.end, p.label) for p in periods(model, asked, start, end, TABLE)]


def test_a_span_is_cut_at_the_cut_off_and_at_the_release() -> None:
    assert told(at(2025, 12), at(2024), at(2026)) == [
        (at(2024), at(2024, 7), CONTAMINATED),
        (at(2024, 7), at(2025, 6), POSSIBLY),
        (at(2025, 6), at(2026), CLEAN),
    ]
    assert told(at(2025, 12), at(2025, 7), at(2025, 8)) == [(at(2025, 7), at(2025, 8), CLEAN)]
    assert told(at(2025, 12), at(2024, 7), at(2024, 8)) == [(at(2024, 7), at(2024, 8), POSSIBLY)]


def test_what_nobody_says_is_treated_as_contaminated() -> None:
    assert told(at(2026, 3), at(2024), at(2026, 3)) == [
        (at(2024), at(2026, 2), UNKNOWN),
        (at(2026, 2), at(2026, 3), CLEAN),
    ]
    assert told(at(2025), at(2026), at(2027)) == [(at(2026), at(2027), UNKNOWN)], "asked before the first entry"
    assert told(at(2026), at(2026), at(2027), model="another") == [(at(2026), at(2027), UNKNOWN)]
    assert [p.counts_as_contaminated for p in periods("m", at(2025, 12), at(2024), at(2026), TABLE)] == [
        True, True, False,
    ]  # fmt: skip


def test_the_checkpoint_is_the_one_of_the_day_of_asking() -> None:
    assert cutoff_of("m", at(2026, 1, 31), TABLE) == TABLE[0]
    assert cutoff_of("m", at(2026, 2), TABLE) == TABLE[1]
    assert cutoff_of("m", at(2025), TABLE) is None


def test_the_shipped_table_has_a_source_each_and_todays_alias_is_unknown() -> None:
    table = load_cutoffs()
    assert all(entry.source and entry.start >= entry.released for entry in table)
    (before, after) = periods("deepseek-flash", at(2026, 11, 21), at(2023, 12), at(2026, 11))
    assert (before.label, after.label, before.end) == (UNKNOWN, CLEAN, at(2026, 10, 17))
    assert periods("deepseek-flash", at(2026, 10), at(2023, 12), at(2024))[0].label == CONTAMINATED


def test_naive_instants_empty_spans_and_impossible_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        periods("m", at(2026), at(2024).replace(tzinfo=None), at(2025))
    with pytest.raises(ValueError, match="empty"):
        periods("m", at(2026), at(2024), at(2024))
    with pytest.raises(ValueError, match="release"):
        Cutoff("m", at(2024), at(2024) + timedelta(days=1), at(2024), "impossible")
