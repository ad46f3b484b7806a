"""One call from a configuration to its page: where everything lies, what it refuses, and that it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.backtest import BacktestError
from v7_pipeline.backtest.run import Configuration, Made, days, run_backtest
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store
from v7_pipeline_tests.backtest.conftest import END, START, SYMBOLS, holding, settings_of, simulated

CONFIGURATION = Configuration(START, END, timedelta(minutes=8), command="test")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def settings(home: Path) -> Settings:
    return settings_of(home=home / "home")


@pytest.fixture(scope="module")
def source(home: Path) -> Store:
    return holding(home / "source.duckdb", simulated())


@pytest.fixture(scope="module")
def made(source: Store, settings: Settings) -> Made:
    return run_backtest(source, settings, CONFIGURATION)


def test_store_page_and_data_lie_in_the_backtest_folder_under_the_run_s_id(made: Made, settings: Settings) -> None:
    folder = settings.data_dir / "backtest"
    assert {path.parent for path in (made.page, made.data, made.store)} == {folder}
    assert {path.stem for path in (made.page, made.data, made.store)} == {made.run_id}
    assert "DEMO" in made.page.read_text(encoding="utf-8")
    told = json.loads(made.data.read_text(encoding="utf-8"))
    assert (told["run_id"], told["command"], told["every_minutes"]) == (made.run_id, "test", 8)
    assert made.verdict.headline == told["verdict"]["headline"] and made.scans == 2


def test_baselines_random_entries_and_trials_are_in_it(made: Made) -> None:
    rivals = {one.name: one for one in made.figures.rivals}
    assert {"buy and hold", "always HOLD", *(f"buy and hold {symbol}" for symbol in SYMBOLS)} <= set(rivals)
    assert rivals["always HOLD"].items["total_return"].value == 0
    assert rivals["buy and hold"].items["total_return"].value != 0
    assert made.figures.item("trials").value >= 1
    drawn = made.figures.material.random_entry
    assert (drawn is None) == (made.figures.told.closed == 0)


def test_made_again_it_keeps_its_scans_and_its_bytes(made: Made, source: Store, settings: Settings) -> None:
    before = made.page.read_bytes(), made.data.read_bytes()
    again = run_backtest(source, settings, CONFIGURATION)
    assert (again.run_id, again.scans) == (made.run_id, 2)
    assert (again.page.read_bytes(), again.data.read_bytes()) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategies": ("v8",)}, "strategy v8 cannot be backtested"),
        ({"fees": "free"}, "no fee preset 'free'; known: ftmo-crypto"),
        ({"symbols": ("DOGE-USD",)}, "no candles of DOGE-USD"),
        ({"end": START}, "has no scan"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_sentence(
    source: Store, settings: Settings, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(BacktestError, match=says) as told:
        run_backtest(source, settings, replace(CONFIGURATION, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


def test_days_are_whole_and_both_included() -> None:
    assert days("2023-12-11", "2023-12-12") == (datetime(2023, 12, 11, tzinfo=UTC), datetime(2023, 12, 13, tzinfo=UTC))
    with pytest.raises(BacktestError, match="'December' is no day; write it as 2023-12-11"):
        days("December", "2023-12-12")
    with pytest.raises(BacktestError, match="give a later end"):
        days("2023-12-12", "2023-12-11")


def test_another_analyst_decides_for_v7_alone(source: Store, settings: Settings) -> None:
    with pytest.raises(BacktestError, match="rules decides for v7 only, and v6 is reported"):
        run_backtest(source, settings, replace(CONFIGURATION, strategies=("v6", "v7")), analyst=RulesAnalyst())


def test_beside_another_analyst_the_other_strategies_are_rivals_and_no_rows(source: Store, settings: Settings) -> None:
    both = replace(CONFIGURATION, strategies=("v7", "v6"), compare=False)
    made = run_backtest(source, settings, both, analyst=RulesAnalyst())
    assert [one.name for one in made.figures.rivals] == ["v6"]
    assert set(made.figures.material.simulation.signals["strategy"]) == {"v7"}
    assert made.scans == 2 and made.run_id == made.figures.material.run_id == made.page.stem
