"""What a materialisation of outcomes and theory_attribution shows: what closed, and nothing where nothing did."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from v7_pipeline.orchestration.assets import outcomes as outcomes_asset
from v7_pipeline.orchestration.assets import theory_attribution as attribution_asset
from v7_pipeline.orchestration.assets.outcomes import build_outcomes
from v7_pipeline.orchestration.assets.theory_attribution import build_theory_attribution
from v7_pipeline.orchestration.io_manager import StoreIOManager
from v7_pipeline.orchestration.learnt import win_rates_markdown
from v7_pipeline.orchestration.partitions import AS_OF_TAG, as_of_text, daily, partition_of
from v7_pipeline.scan.manual import record
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.settings import load_settings
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.scan.followed import MINUTE, SYMBOL, T0, put_candles, put_signal, signal_id_at
from v7_pipeline_tests.scan.watched import MARKS, put, watched

CALM, RISE, FALL = (100.0, 100.1, 99.9, 100.0), (100.0, 102.5, 99.9, 100.0), (100.0, 100.1, 98.5, 100.0)
TRADES = 40
DEMO = "DEMO, simulated market: "
ALWAYS = {"closed_now", "followed", "closed", "holds_closed", "relabelled"}
PICTURES = {"outcomes": {"equity", "calibration"}, "theory_attribution": {"accuracy_and_worth"}}


def minute_of(number: int) -> int:
    """Trade `number`'s signal, so that all have closed by minute 0 of the same day."""
    return 12 * (number - TRADES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of forty BUYs, the even ones accepted, two in three won, on a market that stands still otherwise."""
    home = tmp_path_factory.mktemp("world")
    runtime = watched(load_settings, home=home, symbols=SYMBOL, horizon_minutes=10)
    with runtime.store.session():
        for number in range(TRADES):
            put_signal(runtime, minute_of(number), "BUY", accepted=number % 2 == 0)
        hits = {minute_of(number) + 3: RISE if number % 3 else FALL for number in range(TRADES)}
        put_candles(runtime, dict.fromkeys(range(minute_of(0) - 1, 1), CALM) | hits)
    runtime.store.close()
    return home


@pytest.fixture
def runtime(world: Path, make_settings: Callable[..., Any], tmp_path: Path) -> Runtime:
    shutil.copytree(world, tmp_path / "home")
    return watched(make_settings, symbols=SYMBOL, horizon_minutes=10)


def materialised(runtime: Runtime, minute: int) -> dict[str, dict[str, Any]]:
    """Both assets at that minute, as Dagster stores them: metadata by asset."""
    as_of = T0 + minute * MINUTE
    clock: Any = runtime.clock
    clock.now = as_of + timedelta(seconds=5)
    put(runtime, "scans", as_of=as_of, started_at=clock.now, symbols=SYMBOL, status="started", failures="{}")
    partitions = daily(date(2026, 11, 1))
    result = dg.materialize(
        [build_outcomes(partitions), build_theory_attribution(partitions)],
        partition_key=partition_of(as_of),
        tags={AS_OF_TAG: as_of_text(as_of)},
        resources={"runtime": runtime, "io_manager": StoreIOManager(runtime)},
    )
    assert result.success
    found = {}
    for name in ("outcomes", "theory_attribution"):
        (event,) = result.asset_materializations_for_node(name)
        found[name] = {key: getattr(entry, "value", entry) for key, entry in event.metadata.items()}
    return found


def told(metadata: Mapping[str, Any]) -> set[str]:
    """What the step itself says, without what the IO manager and Dagster add."""
    return {key for key in metadata if not key.startswith(("written/", "dagster/"))}


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a markdown table's rows."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def picture(markdown: str) -> Any:
    found = re.search(r"data:image/png;base64,([^)]+)\)", markdown)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def has(markdown: str, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture(markdown) - np.array(colour)).max(axis=2) <= 16).any())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, pd.DataFrame]:
    """What each chart was drawn of, newest, by its name."""
    kept: dict[str, pd.DataFrame] = {}
    for module, name in ((outcomes_asset, "equity_png"), (attribution_asset, "attribution_png")):

        def spy(rows: pd.DataFrame, *, really: Any = getattr(module, name), name: str = name, **marks: Any) -> bytes:
            kept[name] = rows.copy()
            picture: bytes = really(rows, **marks)
            return picture

        monkeypatch.setattr(module, name, spy)
    return kept


def test_a_scan_in_which_trades_closed_shows_them_and_what_they_taught(
    runtime: Runtime, drawn: dict[str, pd.DataFrame]
) -> None:
    shown = materialised(runtime, 0)["outcomes"]
    assert told(shown) == ALWAYS | {"win_rates", "confidence_threshold", "calibration", "equity"}
    stored = runtime.store.read("outcomes").set_index("signal_id")
    assert (shown["closed"], shown["followed"], shown["holds_closed"]) == (TRADES, TRADES, 0)

    closed = {row[0]: row for row in rows_of(shown["closed_now"])}
    assert set(closed) == set(stored.index) and f"{DEMO}Closed at 2026-11-20 12:00Z" in shown["closed_now"]
    for key, row in stored.iterrows():
        assert closed[key][1:4] == [row["kind"], row["outcome"], row["exit_reason"]]
        assert float(closed[key][5]) == pytest.approx(row["r_multiple"], rel=1e-5)
    assert {row[6] for row in closed.values() if row[1] == "shadow"} == {"–"}  # never taken: no dollars, not 0

    rates = {row[0]: row for row in rows_of(shown["win_rates"])}
    whole = runtime.store.read("win_rates").set_index("scope").loc["all"]
    assert f"{DEMO}Win rates as of 2026-11-20 12:00Z" in shown["win_rates"]
    assert rates["all"][1] == f"{100 * whole['mean']:.1f} %" and whole["n"] == 20
    assert rates["all"][3].startswith("20 (worth ") and "…" in rates["all"][2]
    assert shown["confidence_threshold"].startswith("the floor")

    (figures,) = rows_of(shown["calibration"])
    assert figures[0] == str(TRADES) and DEMO in shown["calibration"]
    assert has(shown["calibration"], (31, 91, 173)), "the bin's rate with its interval"
    assert has(shown["equity"], (31, 91, 173)) and has(shown["equity"], (169, 174, 181)), "paper and shadow"
    assert not has(shown["equity"], (140, 60, 140)), "nothing was traded by hand"
    equity = drawn["equity_png"]
    assert equity["kind"].value_counts().to_dict() == {"paper": 20, "shadow": 20}
    assert equity["r_multiple"].sum() == pytest.approx(stored["r_multiple"].sum())


def test_attribution_shows_verdicts_a_forest_with_shapley_bars_and_the_proposed_weights(
    runtime: Runtime, drawn: dict[str, pd.DataFrame]
) -> None:
    shown = materialised(runtime, 0)["theory_attribution"]
    assert told(shown) == {"attribution", "closed_outcomes", "accuracy_and_worth", "proposed_weights"}
    assert shown["closed_outcomes"] == TRADES
    stored = runtime.store.query("SELECT * FROM theory_attribution WHERE scope = 'all'").set_index("theory_name")
    rows = {row[0]: row for row in rows_of(shown["attribution"])}
    assert set(rows) == set(THEORY_NAMES) and f"{DEMO}As of 2026-11-20 12:00Z" in shown["attribution"]
    for name, row in stored.iterrows():
        assert rows[name][1:3] == [row["verdict"], str(row["n"])]
        assert rows[name][5] == f"{row['accuracy_lower']:.2f} … {row['accuracy_upper']:.2f}"
    assert DEMO in shown["proposed_weights"] and "They do not act" in shown["proposed_weights"]
    assert picture(shown["accuracy_and_worth"]).shape[1] > 600
    figures = drawn["attribution_png"].set_index("theory_name")
    assert figures["shapley"].to_dict() == stored["shapley"].to_dict()
    evidence = runtime.store.read("theory_weights").set_index("theory_name")["evidence"].map(json.loads)
    assert figures["expected_accuracy"].to_dict() == {name: one["expected_accuracy"] for name, one in evidence.items()}


def test_demo_is_written_into_every_picture(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    for module, name in ((outcomes_asset, "equity_png"), (attribution_asset, "attribution_png")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **marks: asked.update({name: marks}) or b"")
    materialised(runtime, 0)
    assert {name: marks["demo"] for name, marks in asked.items()} == {"equity_png": True, "attribution_png": True}


def test_where_nothing_closed_and_where_only_a_hold_did_there_is_no_picture(runtime: Runtime) -> None:
    materialised(runtime, 0)
    put_signal(runtime, 0, "HOLD")
    put_candles(runtime, dict.fromkeys(range(1, 12), CALM))
    quiet = materialised(runtime, 2)
    assert quiet["outcomes"]["closed"] == quiet["outcomes"]["holds_closed"] == 0
    only_held = materialised(runtime, 62)
    assert only_held["outcomes"]["holds_closed"] == 2 and only_held["outcomes"]["closed"] == 0
    for shown in (quiet, only_held):
        assert told(shown["outcomes"]) == ALWAYS and "no rows" in shown["outcomes"]["closed_now"]
        assert told(shown["theory_attribution"]) == {"attribution", "chart", "closed_outcomes"}
        assert "[the run that drew it](/runs/" in shown["theory_attribution"]["chart"]
        assert "As of 2026-11-20 12:00Z (the last change)" in shown["theory_attribution"]["attribution"]
        assert not [key for name in shown for key in PICTURES[name] if key in shown[name]]


def test_before_anything_has_closed_it_says_so(make_settings: Callable[..., Any]) -> None:
    runtime = watched(make_settings, symbols=SYMBOL, horizon_minutes=10)
    put_candles(runtime, {-1: CALM})
    shown = materialised(runtime, 0)
    assert told(shown["outcomes"]) == ALWAYS
    assert "No trade has closed yet" in shown["theory_attribution"]["attribution"]
    assert "no rows" in shown["theory_attribution"]["attribution"]


def test_a_trade_by_hand_alone_has_its_row_and_its_curve_once(runtime: Runtime, drawn: dict[str, pd.DataFrame]) -> None:
    materialised(runtime, 0)
    drawn.clear()
    key, more = signal_id_at(minute_of(0)), {"marks": MARKS, "fee_usd": 0.0, "quantity": 2.0}
    with_time = {"now": T0 + 0.5 * MINUTE}
    record(runtime.store, runtime.settings, "entry", key, price=100.0, at=T0 - 9 * MINUTE, **with_time, **more)
    record(runtime.store, runtime.settings, "exit", key, price=101.0, at=T0 - 5 * MINUTE, **with_time, **more)
    put_candles(runtime, dict.fromkeys(range(1, 6), CALM))
    shown = materialised(runtime, 2)["outcomes"]
    assert "equity" in shown and shown["closed"] == 1
    assert [row[:3] for row in rows_of(shown["closed_now"])] == [[key, "manual", "win"]]
    assert has(shown["equity"], (140, 60, 140)), "one trade's line is not lost among the others' colours"
    kinds = drawn["equity_png"].groupby("kind")["pnl_usd"].agg(["size", "sum"])
    assert kinds.loc["manual"].tolist() == [1, pytest.approx(2.0)] and kinds.loc["paper", "size"] == 20
    assert told(materialised(runtime, 4)["outcomes"]) == ALWAYS


def test_a_label_made_anew_is_drawn_as_it_is_now_and_of_rewritten_win_rates_the_newest_are_shown(
    runtime: Runtime, drawn: dict[str, pd.DataFrame]
) -> None:
    for minute in (-12, -6):  # the last trade closes in a scan of its own
        materialised(runtime, minute)
    assert runtime.store.read("win_rates")["as_of"].nunique() == 2
    before = drawn["equity_png"]["r_multiple"].sum()
    lost = minute_of(0) + 3
    put_candles(runtime, {lost: RISE}, fetched=T0 + 7 * MINUTE)
    shown = materialised(runtime, 8)["outcomes"]
    assert shown["relabelled"] == 1 and shown["closed"] == 0
    known = runtime.store.read("win_rates")
    newest = known[known["as_of"] == known["as_of"].max()].set_index("scope")
    assert known["as_of"].nunique() == 2, "both scans' rates were written anew"
    rates = {row[0]: row for row in rows_of(shown["win_rates"])}
    assert (
        len(rates) == len(rows_of(shown["win_rates"])) and rates["all"][1] == f"{100 * newest.loc['all', 'mean']:.1f} %"
    )
    assert len(drawn["equity_png"]) == TRADES
    assert (
        drawn["equity_png"]["r_multiple"].sum()
        == pytest.approx(runtime.store.read("outcomes")["r_multiple"].sum())
        != pytest.approx(before)
    )


def test_a_scan_that_only_takes_win_rates_back_shows_none(make_settings: Callable[..., Any]) -> None:
    runtime = watched(make_settings, symbols=SYMBOL, horizon_minutes=10)
    put_signal(runtime, 0, "BUY", accepted=True)
    put_candles(runtime, dict.fromkeys(range(-1, 3), CALM) | {3: RISE})
    assert "win_rates" in materialised(runtime, 4)["outcomes"]
    put_candles(runtime, {3: CALM}, fetched=T0 + 5 * MINUTE)
    shown = materialised(runtime, 6)["outcomes"]
    assert shown["relabelled"] == 1 and told(shown) == ALWAYS
    assert runtime.store.read("win_rates").empty and set(runtime.store.read("outcomes")["outcome"]) == {"open"}


def test_of_win_rates_of_several_instants_the_newest_are_told() -> None:
    row = {
        "scope": "all", "mean": 0.6, "lower": 0.5, "upper": 0.7, "n": 9, "n_eff": 8.0, "shrunk_mean": None,
        "prior_alpha": 1.0, "prior_beta": 1.0, "half_life_trades": None,
    }  # fmt: skip
    old, new = pd.Timestamp(T0), pd.Timestamp(T0) + MINUTE
    page = win_rates_markdown(pd.DataFrame([row | {"as_of": new, "n": 10}, row | {"as_of": old}]), demo=False)
    assert "as of 2026-11-20 12:01Z" in page and "| 10 (worth 8.0) |" in page and "| 9 (" not in page
    assert "DEMO" not in page
