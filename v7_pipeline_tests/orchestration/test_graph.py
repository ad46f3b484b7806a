"""The asset graph as the design draws it, and what Dagster's pages say of each asset."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.definitions import build_definitions
from v7_pipeline.store.schema import TABLES

EDGES = {
    "candles": set(),
    "theory_features": {"candles"},
    "llm_signals": {"theory_features"},
    "gated_signals": {"llm_signals"},
    "outcomes": {"gated_signals", "candles"},
    "theory_attribution": {"outcomes"},
    "backtest_report": set(),
}
SCANNED = set(EDGES) - {"backtest_report"}


@pytest.fixture
def defs(make_settings: Callable[..., Any]) -> dg.Definitions:
    return build_definitions(make_settings())


def test_the_graph_is_the_designs(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert found == EDGES


def test_the_code_server_can_load_every_definition(defs: dg.Definitions) -> None:
    # It looks at all of them together: two of one name keep `v7 up` from starting.
    defs.get_repository_def().load_all_definitions()


def test_every_asset_is_owned_described_and_grouped_and_a_scans_are_daily(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.owners == ["team:v7"], key
        assert node.description, key
        assert node.kinds, key
        assert node.metadata["dagster/code_references"].code_references, key
        if key.path[-1] not in SCANNED:
            assert (node.group_name, node.partitions_def) == ("backtest", None)
            continue
        assert node.group_name in {"market", "theories", "signals", "learning"}, key
        assert isinstance(node.partitions_def, dg.DailyPartitionsDefinition), key
        assert (node.partitions_def.end_offset, str(node.partitions_def.timezone)) == (1, "UTC")
        columns = [column.name for column in node.metadata["dagster/column_schema"].columns]
        assert columns == list(TABLES[key.path[-1]].column_names)


def test_backfilled_assets_take_a_range_in_one_run(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for name in ("candles", "theory_features"):
        assert graph.get(dg.AssetKey(name)).backfill_policy == dg.BackfillPolicy.single_run()


def test_a_scan_is_of_its_six_assets_and_a_backtest_of_its_one(defs: dg.Definitions) -> None:
    def assets_of(job: str) -> set[str]:
        layer = defs.resolve_job_def(job).asset_layer
        return {key.to_user_string() for key in layer.selected_asset_keys}

    assert assets_of("scan") == SCANNED
    assert assets_of("backtest") == {"backtest_report"}


def test_a_scan_runs_in_one_process(defs: dg.Definitions) -> None:
    assert defs.resolve_job_def("scan").executor_def is dg.in_process_executor
    assert defs.resolve_job_def("backfill_features").executor_def is dg.in_process_executor


def test_the_definitions_import_nothing_heavy_before_it_is_needed() -> None:
    heavy = ("requests", "httpx", "openai", "scipy", "numba", "tenacity", "great_expectations", "plotly", "matplotlib")
    code = f"import sys, v7_pipeline.definitions; print([name for name in {heavy!r} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
