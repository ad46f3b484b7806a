"""/metrics as a monitoring system reads it: every figure is the store's."""

from __future__ import annotations

import re
from typing import Any

from v7_pipeline.dashboard.metrics import CONTENT_TYPE, METRICS
from v7_pipeline_tests.dashboard.conftest import NEWEST, call, put

LINE = re.compile(r'^(v7_[a-z_]+)\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)+)\} (-?[0-9.e+-]+)$')


def figures(text: str) -> dict[str, float]:
    """Value by name and labels; every line is a comment or a figure of the format."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = LINE.match(line)
            assert match, line
            found[f"{match[1]}{{{match[2]}}}"] = float(match[3])
    return found


def test_counters_are_sums_over_the_store(store: Any, serve: Any) -> None:
    with store.transaction() as tx:
        put(tx, "llm_calls", call("a", NEWEST, status="settled", cost_usd=0.25, analyst='de"ep'),
            call("b", NEWEST, status="failed", cost_usd=None, analyst='de"ep'))  # fmt: skip
    answer = serve(store)("/metrics")
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert answer.status == 200 and headers["content-type"] == CONTENT_TYPE
    told = figures(answer.text)
    assert told['v7_candles_total{mode="live",symbol="BTC-USD"}'] == 30
    scans = store.rows("SELECT count(*) AS n FROM scans")[0]["n"]
    assert told['v7_scans_total{mode="live"}'] == scans
    assert told['v7_scan_newest_timestamp_seconds{mode="live"}'] == NEWEST.timestamp()
    assert told['v7_llm_calls_total{mode="live",analyst="de\\"ep"}'] == 2
    assert told['v7_llm_calls_failed_total{mode="live",analyst="de\\"ep"}'] == 1
    assert told['v7_llm_cost_usd_total{mode="live",analyst="de\\"ep"}'] == 0.25
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in answer.text
        assert metric.kind == "gauge" or metric.name.endswith("_total")


def test_an_empty_store_has_no_figure_that_it_does_not_know(empty_store: Any, serve: Any) -> None:
    told = figures(serve(empty_store)("/metrics").text)
    assert told['v7_scans_total{mode="live"}'] == 0
    assert not any(name.startswith("v7_scan_newest") for name in told)
