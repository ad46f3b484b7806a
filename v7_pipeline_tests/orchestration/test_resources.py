"""dagster-duckdb's resource on the store: used as everywhere, in UTC, read-only where asked, waiting its turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster_duckdb import DuckDBResource

from v7_pipeline.orchestration.resources import StoreResource, store_resource


@pytest.fixture
def resource(make_runtime: Callable[..., Any]) -> StoreResource:
    made = store_resource(make_runtime().settings)
    assert made is not None
    return made


def test_an_asset_uses_it_as_any_duckdb_resource(resource: StoreResource) -> None:
    found: list[Any] = []

    @dg.asset
    def counted(duckdb: DuckDBResource) -> None:
        with duckdb.get_connection() as connection:
            found.extend(connection.execute("SELECT count(*) FROM candles").fetchone() or ())

    assert dg.materialize([counted], resources={"duckdb": resource}).success
    assert found == [0]


def test_lesson_04_its_session_is_utc(resource: StoreResource) -> None:
    with resource.get_connection(read_only=True) as connection:
        assert connection.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)


def test_a_reader_cannot_write(resource: StoreResource) -> None:
    with resource.get_connection(read_only=True) as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("DELETE FROM candles")


def test_a_lake_has_no_file_to_open(make_settings: Callable[..., Any]) -> None:
    assert store_resource(make_settings(store="ducklake:sqlite:catalog.sqlite")) is None
