"""The page: everything inside it, no NaN, DEMO where it belongs; in a real browser all charts and no complaint."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.backtest.charts import charts
from v7_pipeline.backtest.figures import Figures, _rival, figures
from v7_pipeline.backtest.page import as_json, html, value_text, write_report
from v7_pipeline.backtest.verdict import verdict
from v7_pipeline_tests.backtest.worlds import baseline, candles_of, material_of, simulation_of
from v7_pipeline_tests.end_to_end.browser import open_browser

MOST_BYTES = 6_000_000


@pytest.fixture(scope="module")
def nothing() -> Figures:
    """Two days without a trade, of a demo's candles."""
    sim = simulation_of(candles_of(2), 2, each=10**9)
    return figures(material_of(2, sim=sim, random_entry=None, trials=None, baselines=(), venue="sandbox"))


@pytest.fixture(scope="module")
def page(found: Figures) -> str:
    return html(found)


def own_part(page: str) -> str:
    """The page without plotly.js, whose text holds addresses that it never asks for."""
    scripts = re.findall(r"<script>.*?</script>", page, flags=re.DOTALL)
    longest = max(scripts, key=len)
    assert len(longest) > 3_000_000
    return page.replace(longest, "")


def test_the_page_leads_with_the_verdict_then_the_table_then_charts(page: str, found: Figures) -> None:
    told = unescape(page)
    places = [told.index(text) for text in (
        verdict(found).headline, "The strategy and what it is measured against", "Equity and drawdown", "Months",
        "R of the trades, and of random entries", "From scans to trades", "What the theories were worth",
    )]  # fmt: skip
    assert places == sorted(places)
    for item in found.items():
        assert item.label in told
    for rival in found.rivals:
        assert f">{rival.name}</td>" in told and rival.meaning in told


def test_everything_is_inside_and_nothing_is_asked_of_anybody(page: str) -> None:
    own = own_part(page)
    assert len(page.encode()) < MOST_BYTES and page.count("plotly.js v") == 1
    assert "default-src 'none'" in own
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", own) and not re.findall(r"https?://", own)
    assert "@import" not in own and "url(" not in own


def test_no_nan_in_page_or_data_and_a_name_cannot_break_out(found: Figures) -> None:
    sim = found.material.simulation
    odd = baseline("</script><b>odd</b>", sim)
    told = replace(found, rivals=(_rival(odd, found.daily, sim),))
    own = own_part(html(told))
    assert "</script><b>odd" not in own and "<b>odd</b>" not in own
    assert not re.search(r"\bnan\b|NaN|Infinity", re.sub(r"<script>.*?</script>", "", own, flags=re.DOTALL))
    inside = re.search(r'<script type="application/json" id="charts">(.*?)</script>', own, flags=re.DOTALL)
    assert inside is not None
    specs = json.loads(inside[1], parse_constant=lambda word: pytest.fail(word))
    assert {"equity", "r", "excursions", "funnel", "reliability", "groups", "challenge"} == set(specs)


def test_plotly_s_own_validator_knows_every_chart(found: Figures) -> None:
    from plotly.graph_objects import Figure

    for name, spec in charts(found).items():
        assert Figure(data=spec["data"], layout=spec["layout"]).data, name


def test_the_data_hold_the_same_figures(found: Figures) -> None:
    text = as_json(found)
    told = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    by_name = {item["name"]: item for part in told["sections"].values() for item in part}
    for item in found.items():
        assert by_name[item.name]["value"] == (item.value if item.known else None)
        assert by_name[item.name]["n"] == item.n and by_name[item.name]["unit"] == item.unit
    assert told["verdict"]["headline"] == verdict(found).headline and told["first"] == "2026-01-20T06:00:00Z"
    assert [one["name"] for one in told["baselines"]] == [one.name for one in found.rivals]
    assert len(told["daily"]) == len(found.daily) and told["random_entry"]["draws"] == 1000
    assert as_json(found) == text


def test_demo_is_said_before_anything_else_and_only_there(nothing: Figures, page: str) -> None:
    told = html(nothing)
    assert "<title>DEMO Backtest" in told and told.index('class="demo"') < told.index("<h1>")
    assert "DEMO" not in own_part(page)
    assert "Nothing to draw." in told and "No verdict: 0 closed trades" in told


def test_both_files_are_written_at_once(found: Figures, tmp_path: Path) -> None:
    page, data = write_report(found, tmp_path / "backtest", "one")
    assert sorted(path.name for path in page.parent.iterdir()) == ["one.html", "one.json"]
    assert json.loads(data.read_text())["run_id"] == "backtest-made"


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.01234, "fraction", "+1.23%"), (float("nan"), "R", "–"), (-0.1, "R", "-0.100 R"), (0.5, "share", "50.0%"),
        (12.0, "trades", "12"), (1234.5, "USD", "1,234 USD"), (-3.2, "USD", "-3.20 USD"), (2.0, "ratio", "2.00"),
        (0.9004, "probability", "0.900"), (41.0, "days", "41.0 days"),
    ],
)  # fmt: skip
def test_values_are_told_in_their_unit(value: float, unit: str, said: str) -> None:
    assert value_text(value, unit) == said


@pytest.mark.slow
@pytest.mark.chromium
@pytest.mark.parametrize("which", ["found", "nothing"])
def test_a_browser_draws_every_chart_without_a_word_and_asks_nobody(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    told: Figures = request.getfixturevalue(which)
    path, _ = write_report(told, tmp_path, "page")
    with open_browser(tmp_path / "chromium") as browser:
        browser.open(path.as_uri())
        script = browser.driver.execute_script
        browser.until("drawn charts", lambda: script("return document.documentElement.dataset.drawn"))
        browser.see(verdict(told).headline, "The strategy and what it is measured against")
        expected = set(charts(told))
        drawn = script(
            "return [...document.querySelectorAll('[data-chart] .main-svg')]"
            ".map(s => s.closest('[data-chart]').dataset.chart)"
        )
        assert set(drawn) == expected and script("return document.documentElement.dataset.drawn") == str(len(expected))
        complaints: list[Any] = browser.driver.get_log("browser")
        assert complaints == []
        assert script("return performance.getEntriesByType('resource').map(e => e.name)") == []
        browser.resize(700, 900)  # charts make room for one another in a narrow window, too
        heights = script(
            "return [...document.querySelectorAll('[data-chart]')].filter(d => d.querySelector('.main-svg'))"
            ".map(d => d.clientHeight - d.querySelector('.main-svg').getBoundingClientRect().height)"
        )
        assert min(heights) >= -1
        browser.picture(f"backtest-{which}")
