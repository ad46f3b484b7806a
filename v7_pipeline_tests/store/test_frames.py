"""conform changes types, never values; a write refuses what does not fit, by table and column."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.store import SchemaError, Store, conform
from v7_pipeline.store.frames import arrow_frame, to_arrow
from v7_pipeline.store.schema import TABLES
from v7_pipeline_tests.store.rows import make_rows

NAIVE = datetime(2023, 1, 1)  # noqa: DTZ001 (what must be refused)


def refused(store: Store, table: str, frame: pd.DataFrame) -> str:
    """The message with which every kind of write refuses `frame`; nothing may have been written."""
    messages = set()
    for write in ("upsert", "insert_new"):
        with pytest.raises(SchemaError) as caught, store.transaction() as tx:
            getattr(tx, write)(table, frame)
        messages.add(str(caught.value))
    assert len(store.read(table)) == 0
    (message,) = messages
    return message


def test_missing_extra_reordered_and_repeated_columns_are_refused_by_name(file_store: Store) -> None:
    frame = make_rows("candles")
    assert "lacks close, venue" in refused(file_store, "candles", frame.drop(columns=["close", "venue"]))
    assert "does not know: vwap" in refused(file_store, "candles", frame.assign(vwap=1.0))
    swapped = frame[["symbol", "open_time", "open", "low", "high", *frame.columns[5:]]]
    message = refused(file_store, "candles", swapped)
    assert "another order, from low on" in message and "conform('candles', frame)" in message
    assert "repeats close" in refused(file_store, "candles", pd.concat([frame, frame[["close"]]], axis=1))
    for wrong in (frame.drop(columns="close"), frame.assign(vwap=1.0)):
        with pytest.raises(SchemaError, match=r"close|vwap"):
            conform("candles", wrong)
    assert list(conform("candles", swapped).columns) == list(frame.columns)


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("candles", "close", "100.5"),
        ("candles", "close", True),
        ("candles", "venue", 7),
        ("candles", "venue", b"coinbase"),
        ("candles", "open_time", "2023-12-11T00:00:00Z"),
        ("candles", "open_time", 1702252800),
        ("llm_calls", "attempt", 1.5),
        ("llm_calls", "attempt", "1"),
        ("gated_signals", "accepted", "yes"),
        ("gated_signals", "accepted", 1),
    ],
)
def test_mistyped_columns_are_refused_by_name(file_store: Store, table: str, column: str, values: Any) -> None:
    frame = make_rows(table).assign(**{column: values})
    assert f"{table}.{column} must hold" in refused(file_store, table, frame)
    with pytest.raises(SchemaError, match=f"{table}.{column} must hold"):
        conform(table, frame)


def test_lesson_04_naive_times_are_refused(file_store: Store) -> None:
    frame = make_rows("candles")
    naive = frame.assign(open_time=frame["open_time"].dt.tz_localize(None))
    assert "candles.open_time must hold timezone-aware UTC" in refused(file_store, "candles", naive)
    mixed = frame.assign(open_time=[NAIVE, *([datetime(2023, 1, 1, tzinfo=UTC)] * 5)])
    for frame_ in (naive, mixed):
        with pytest.raises(SchemaError, match=r"candles.open_time.*no time zone"):
            conform("candles", frame_)
    with pytest.raises(SchemaError, match="start must be a timezone-aware"):
        file_store.read("candles", start=NAIVE)
    with pytest.raises(SchemaError, match="parameter 1 of the query"):
        file_store.query("SELECT ? AS x", (NAIVE,))


def test_lesson_04_another_zones_instant_is_converted_by_conform_only(file_store: Store) -> None:
    frame = make_rows("candles")
    prague = frame.assign(open_time=frame["open_time"].dt.tz_convert("Europe/Prague"))
    assert "open_time" in refused(file_store, "candles", prague)
    pd.testing.assert_frame_equal(conform("candles", prague), frame)


def test_missing_values_are_refused_where_the_schema_allows_none(file_store: Store) -> None:
    for table, declared in TABLES.items():
        whole = make_rows(table, 3)
        for column in declared.columns:
            frame = whole.copy(deep=False)
            frame[column.name] = pd.Series(
                [whole[column.name][0], None, whole[column.name][2]], dtype=whole[column.name].dtype
            )
            if column.nullable:
                assert to_arrow(declared, frame)[column.name].null_count == 1
            else:
                with pytest.raises(SchemaError, match=f"{table}.{column.name} must not be missing, but is in row 1"):
                    to_arrow(declared, frame)
    assert "candles.close must not be missing" in refused(file_store, "candles", make_rows("candles", close=np.nan))


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_infinite_numbers_are_refused(file_store: Store, infinite: float) -> None:
    frame = make_rows("theory_features")
    frame.loc[3, "lz_240"] = infinite
    assert "theory_features.lz_240 is infinite in row 3" in refused(file_store, "theory_features", frame)


def test_a_key_twice_in_one_frame_is_refused(file_store: Store) -> None:
    frame = make_rows("candles", 3)
    message = refused(file_store, "candles", pd.concat([frame, frame.iloc[[1]]], ignore_index=True))
    assert "symbol=ETH-USD" in message and "open_time=2023-12-11 00:01" in message and "more than once" in message


@pytest.mark.parametrize("table", [table for table in TABLES if table != "schema_version"])
def test_lesson_21_provenance_is_mandatory(table: str) -> None:
    for column in ("source", "run_id", "code_version"):
        for value in (None, "", "  "):
            frame = make_rows(table, 3)
            frame.loc[2, column] = value
            with pytest.raises(SchemaError, match=f"{table}.{column} must"):
                to_arrow(TABLES[table], frame)


def test_lesson_21_provenance_has_no_default_in_the_store(store: Store) -> None:
    import duckdb

    with pytest.raises(duckdb.ConstraintException, match="source"), store.transaction() as tx:
        tx.execute("INSERT INTO halts (halt_id, kind, started_at, reason) VALUES ('h', 'manual', now(), 'r')")


def test_lesson_21_an_unknown_source_is_refused(file_store: Store) -> None:
    assert "candles.source must be one of live, demo" in refused(
        file_store, "candles", make_rows("candles", source="production")
    )


def test_conform_takes_what_pandas_makes_of_plain_rows() -> None:
    frame = make_rows("gated_signals", 4)
    plain = pd.DataFrame(frame.astype(object).where(frame.notna(), None).to_dict("records"))
    pd.testing.assert_frame_equal(conform("gated_signals", plain[plain.columns[::-1]]), frame)
    empty = conform("gated_signals", pd.DataFrame(columns=list(frame.columns)))
    assert list(empty.dtypes) == list(frame.dtypes) and empty.empty


def test_text_that_is_no_unicode_is_refused_by_name(file_store: Store) -> None:
    frame = make_rows("llm_calls").assign(raw_reply="\ud800")
    assert "llm_calls.raw_reply cannot be stored" in refused(file_store, "llm_calls", frame)


MARKS = {"source": "backtest", "run_id": "r", "code_version": "1"}


@pytest.mark.parametrize("table", [table for table in TABLES if table != "schema_version"])
def test_a_frame_in_one_step_is_what_conforming_and_checking_makes_of_it(table: str) -> None:
    frame = make_rows(table, 5).drop(columns=list(MARKS))
    plain = pd.DataFrame(frame.astype(object).where(frame.notna(), None).to_dict("records"))
    for given in (frame, plain[plain.columns[::-1]]):
        assert arrow_frame(table, given, MARKS).equals(to_arrow(TABLES[table], conform(table, given, MARKS)))


def test_a_frame_in_one_step_refuses_what_the_careful_way_refuses() -> None:
    frame = make_rows("gated_signals", 3).drop(columns=list(MARKS))
    wrong = {
        "side": [b"BUY", b"BUY", b"SELL"], "reason_codes": [1, 2, 3], "tier": ["LOW", 3, None],
        "symbol": ["BTC-USD", None, "ETH-USD"], "quantity": [1.0, np.inf, 2.0], "accepted": ["yes", "no", "yes"],
        "signal_id": ["a", "b", "a"],
    }  # fmt: skip
    for column, values in wrong.items():
        with pytest.raises(SchemaError, match=column):
            arrow_frame("gated_signals", frame.assign(**{column: values}), MARKS)
    with pytest.raises(SchemaError, match="lacks tier"):
        arrow_frame("gated_signals", frame.drop(columns="tier"), MARKS)
    with pytest.raises(SchemaError, match="source must be one of"):
        arrow_frame("gated_signals", frame, MARKS | {"source": "production"})
    with pytest.raises(SchemaError, match="run_id must say"):
        arrow_frame("gated_signals", frame, MARKS | {"run_id": " "})
    with pytest.raises(SchemaError, match="need source as constants"):
        arrow_frame("gated_signals", frame.assign(source="live"), {"run_id": "r", "code_version": "1"})
