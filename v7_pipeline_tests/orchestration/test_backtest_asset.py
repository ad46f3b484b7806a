"""The backtest's asset on a real instance: its configuration, what its materialisation tells, and its page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.backtest import BacktestError
from v7_pipeline.orchestration.assets.backtest_report import build_backtest_report
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline_tests.backtest.conftest import SYMBOLS, holding, settings_of, simulated

NOW = datetime(2026, 3, 4, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Simulated candles until midnight of the day before NOW, in demo mode."""
    folder = tmp_path_factory.mktemp("asset")
    source = holding(folder / "source.duckdb", simulated(datetime(2026, 3, 4, tzinfo=UTC)))
    return build_runtime(settings_of(home=folder / "home"), clock=lambda: NOW, store=source)


def materialised(runtime: Any, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [build_backtest_report()],
        resources={"runtime": runtime},
        instance=instance,
        run_config={"ops": {"backtest_report": {"config": config}}},
        raise_on_error=False,
    )


def test_a_day_is_replayed_and_its_page_is_linked(runtime: Any, tmp_path: Path) -> None:
    before = runtime.store.read("candles")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        done = materialised(runtime, instance, **{"from": "2026-03-03", "every_minutes": 480})
        assert done.success
        event = instance.get_latest_materialization_event(dg.AssetKey("backtest_report"))
        assert event is not None and event.asset_materialization is not None
        told = event.asset_materialization.metadata
    page = Path(str(told["page_path"].value))
    dashboard = f"http://127.0.0.1:{runtime.settings.dashboard_port}"
    assert told["page"].value == f"{dashboard}/backtests/{page.name}"
    assert page.parent == runtime.settings.data_dir / "backtest"
    assert page.is_file() and Path(str(told["json_path"].value)).is_file()
    assert (told["scans"].value, told["scans_kept"].value) == (3, 0)
    assert page.stem == told["backtest"].value
    verdict, figures = str(told["verdict"].value), str(told["figures"].value)
    assert "No verdict: " in verdict and verdict.index("DEMO") < verdict.index("No verdict")
    assert "| net return |" in figures and "| win rate" in figures and "DEMO" in figures
    assert ("equity" in told) == (told["closed_trades"].value > 0)
    assert "every_minutes: 480" in page.read_text(encoding="utf-8")
    after = runtime.store.read("candles")
    assert before.equals(after) and runtime.store.read("scans").empty  # the live tables are only read


@pytest.mark.slow
def test_without_a_configuration_it_is_yesterday(runtime: Any, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        done = materialised(runtime, instance, every_minutes=720, symbols=[SYMBOLS[0]], fees="none")
        assert done.success
        told = done.asset_materializations_for_node("backtest_report")[0].metadata
    assert told["scans"].value == 2
    page = Path(str(told["page_path"].value)).read_text(encoding="utf-8")
    assert "2026-03-03 00:00Z" in page and "none: 0.0000% a side" in page and SYMBOLS[1] not in page.split("<script")[0]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"from": "soon"}, "'soon' is no day"),
        ({"strategy": "v9"}, "strategy v9 cannot be backtested"),
        ({"analyst": "oracle"}, "analyst 'oracle' cannot decide in this job"),
    ],
)
def test_what_cannot_be_replayed_fails_with_one_sentence(
    runtime: Any, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        done = materialised(runtime, instance, **config)
    failure = done.failure_data_for_node("backtest_report")
    assert failure is not None and failure.error is not None and failure.error.cause is not None
    assert says in failure.error.cause.message and BacktestError.__name__ in failure.error.cause.message
