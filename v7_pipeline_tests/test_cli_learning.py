"""`v7 winrate` and `v7 calibration`: what they show and refuse, over a real store in demo mode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from v7_pipeline.orchestration.charts import reliability_png
from v7_pipeline.orchestration.learnt import calibration_markdown, win_rates_markdown
from v7_pipeline.scan.context import StepResult, Write, persist
from v7_pipeline.store import Store, open_store
from v7_pipeline_tests.scan.taught import START, filled, put_all, trade
from v7_pipeline_tests.scan.watched import NOW
from v7_pipeline_tests.test_cli import refused, v7


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fresh") / "v7.duckdb"
    open_store(f"duckdb:{made}").migrate("1", NOW)
    return made


@pytest.fixture
def store(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    monkeypatch.setenv("V7_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("V7_MODE", "demo")
    monkeypatch.setenv("COLUMNS", "200")
    place = tmp_path / "home" / "demo" / "v7.duckdb"
    place.parent.mkdir(parents=True)
    shutil.copy(fresh, place)
    yield open_store(f"duckdb:{place}")


def taught(store: Store) -> None:
    """60 paper trades of which 24 won, at a confidence of .6, and a threshold that was raised once."""
    put_all(store, [trade(i, won=i % 5 < 2, kind="paper") for i in range(60)])
    row = {
        "strategy": "v7", "as_of": START, "threshold": 0.65, "floor": 0.55, "previous": 0.55,
        "reason": "raised from 0.55: of 40 outcomes …", "n": 40, "n_eff": 31.0, "p_below": 0.93, "break_even": 0.4,
    }  # fmt: skip
    rows = filled("confidence_thresholds", [row])
    persist(store, StepResult((Write("confidence_thresholds", rows, "upsert"),)))


def test_winrate_shows_each_scope_with_n_and_interval_and_the_threshold_with_its_reason(store: Store) -> None:
    taught(store)
    said = v7("winrate")
    assert said.code == 0 and "DEMO" in said.out and "prior Beta(1, 1), no discount" in said.out
    assert "40.3 %" in said.out and "side:BUY" in said.out and "60.0" in said.out
    assert "confidence threshold 0.65 (floor 0.55)" in said.out and "raised from 0.55: of 40 outcomes" in said.out
    told = json.loads(v7("winrate", "--json").out)
    by_scope = {one["scope"]: one for one in told["scopes"]}
    assert told["demo"] is True and told["source"] == "demo"
    assert (by_scope["all"]["n"], by_scope["all"]["alpha"], by_scope["all"]["beta"]) == (60, 25, 37)
    assert by_scope["all"]["shrunk_mean"] is None and by_scope["side:BUY"]["parent_scope"] == "all"
    assert told["threshold_changes"][0]["threshold"] == 0.65


def test_calibration_shows_parts_words_bins_and_draws_them(store: Store, tmp_path: Path) -> None:
    taught(store)
    place = tmp_path / "pictures" / "reliability.png"
    said = v7("calibration", "--picture", str(place))
    assert said.code == 0 and "DEMO" in said.out and "RELIABILITY all" in said.out and "0.60 … 0.65" in said.out
    assert "analyst:rules" in said.out and place.read_bytes().startswith(b"\x89PNG")
    whole = json.loads(v7("calibration", "--json").out)["scopes"][0]
    assert whole["scope"] == "all" and whole["n"] == 60 and whole["base_rate"] == pytest.approx(0.4)
    assert whole["brier"]["score"] == pytest.approx(0.4 * 0.16 + 0.6 * 0.36) and whole["bins"][0]["n"] == 60
    assert whole["skill"] < 0


def test_lesson_15_without_outcomes_figures_are_missing_and_words_say_so(store: Store, tmp_path: Path) -> None:
    assert "nothing has been learnt yet" in v7("winrate").out
    said = v7("calibration")
    assert said.code == 0 and "nothing to judge" in said.out and "–" in said.out and "nan" not in said.out
    whole = json.loads(v7("calibration", "--json").out)["scopes"][0]
    assert whole["n"] == 0 and whole["skill"] is None and whole["brier"]["score"] is None
    assert "nothing to draw" in refused("calibration", "--picture", str(tmp_path / "x.png"))


def test_a_scope_that_is_not_there_and_a_picture_that_cannot_be_written_are_refused(
    store: Store, tmp_path: Path
) -> None:
    taught(store)
    assert "there are all, analyst:rules" in refused("calibration", "--scope", "model:x")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("calibration", "--picture", str(tmp_path / "file" / "x.png"))


def test_lesson_21_another_sources_outcomes_are_not_shown_as_ours(store: Store) -> None:
    taught(store)
    assert json.loads(v7("winrate", "--source", "backfill", "--json").out)["scopes"][0]["n"] == 0


def test_the_pages_say_demo_and_hold_the_table_and_the_diagram(store: Store) -> None:
    from v7_pipeline.learning.calibration import calibration_rows
    from v7_pipeline.scan.learn import calibrations_at, closed_outcomes, win_rates_at
    from v7_pipeline.settings import load_settings

    taught(store)
    settings = load_settings()
    with store.reading() as reader:
        known = closed_outcomes(reader, source="demo", as_of=NOW)
        found = calibrations_at(reader, known, settings, NOW)
    rates = win_rates_markdown(win_rates_at(known, settings, NOW), demo=True)
    assert "DEMO" in rates and "| all | 40.3 % |" in rates and "| 60 (worth 60.0) | – |" in rates
    page = calibration_markdown(calibration_rows(found, NOW).iloc[0].to_dict(), demo=True)
    assert "DEMO" in page and "data:image/png;base64," in page and "| 60 | 60.0 |" in page
    empty = calibration_markdown(calibration_rows(found[:1], NOW).iloc[0].to_dict() | {"bins": "[]"}, demo=False)
    assert "image" not in empty and "DEMO" not in empty


def test_the_marked_picture_differs_from_the_unmarked_one() -> None:
    one = {"lower": 0.6, "upper": 0.65, "n": 9, "n_eff": 4.0, "confidence": 0.62, "rate": 0.5, "rate_lower": 0.2}
    assert reliability_png([one | {"rate_upper": 0.8}], "t", demo=True) != reliability_png(
        [one | {"rate_upper": 0.8}], "t", demo=False
    )
