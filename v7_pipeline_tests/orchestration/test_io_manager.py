"""The IO manager on a real store: slices by day and by range, one transaction, nothing lost to an empty frame."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from v7_pipeline.orchestration.io_manager import StoreIOManager
from v7_pipeline.store import SchemaError

DAYS = dg.DailyPartitionsDefinition(start_date="2026-03-01", timezone="UTC", end_offset=1)
PROVENANCE = {"source": "demo", "run_id": "test", "code_version": "0"}


def _candles(*instants: datetime) -> pd.DataFrame:
    rows = [
        {
            "symbol": "BTC-USD",
            "open_time": pd.Timestamp(at),
            "open": 10.0,
            "high": 12.0,
            "low": 9.0,
            "close": 11.0,
            "volume": 1.0,
        }
        for at in instants
    ]
    fetched = pd.Timestamp("2026-03-05", tz="UTC")
    return pd.DataFrame(rows).assign(venue="test", fetched_at=fetched, **PROVENANCE)


def _output(manager: StoreIOManager, frame: Any) -> None:
    manager.handle_output(dg.build_output_context(asset_key=dg.AssetKey("candles")), frame)


def _load(manager: StoreIOManager, key: str | None = None, keys: dg.PartitionKeyRange | None = None) -> pd.DataFrame:
    context = dg.build_input_context(
        asset_key=dg.AssetKey("candles"),
        partition_key=key,
        asset_partitions_def=DAYS,
        asset_partition_key_range=keys or dg.PartitionKeyRange(key or "", key or ""),
    )
    return manager.load_input(context)


@pytest.fixture
def manager(make_runtime: Callable[..., Any]) -> StoreIOManager:
    return StoreIOManager(make_runtime())


FIRST = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_partition_is_its_utc_day_to_the_minute(manager: StoreIOManager) -> None:
    edges = [FIRST, FIRST + timedelta(hours=23, minutes=59), FIRST + timedelta(days=1)]
    _output(manager, _candles(*edges))
    loaded = _load(manager, "2026-03-01")
    assert loaded["open_time"].tolist() == [pd.Timestamp(edge) for edge in edges[:2]]


def test_a_range_of_partitions_is_one_slice(manager: StoreIOManager) -> None:
    _output(manager, _candles(*(FIRST + timedelta(days=day) for day in range(4))))
    loaded = _load(manager, keys=dg.PartitionKeyRange("2026-03-01", "2026-03-03"))
    assert len(loaded) == 3


def test_an_empty_frame_deletes_nothing(manager: StoreIOManager) -> None:
    frame = _candles(FIRST)
    _output(manager, frame)
    _output(manager, frame.iloc[:0])
    assert len(_load(manager, "2026-03-01")) == 1


def test_a_frame_that_does_not_fit_the_schema_is_refused_with_the_columns_name(manager: StoreIOManager) -> None:
    with pytest.raises(SchemaError, match="volume"):
        _output(manager, _candles(FIRST).drop(columns="volume"))
