"""The charts of what outcomes taught: what is known is drawn, what is missing is not, and nothing warns."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from v7_pipeline.orchestration import charts
from v7_pipeline.orchestration.charts import EQUITY_COLUMNS, attribution_png, equity_png, in_markdown, reliability_png
from v7_pipeline.store.schema import THEORY_NAMES

PAPER, MANUAL, SHADOW = (31, 91, 173), (140, 60, 140), (169, 174, 181)
GREEN, RED = (26, 127, 55), (179, 38, 30)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure as it was when it was made a picture."""
    kept: list[Figure] = []
    really = charts._png
    monkeypatch.setattr(charts, "_png", lambda figure, demo: (kept.append(figure), really(figure, demo))[1])
    return kept


def pixels(picture: bytes) -> Any:
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def has(picture: bytes, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels(picture) - np.array(colour)).max(axis=2) <= 16).any())


def closed(*kinds: str, n: int = 30, pnl: bool = True) -> pd.DataFrame:
    times = pd.date_range("2026-11-20", periods=n, freq="3h", tz="UTC").as_unit("us")
    r = np.resize([1.5, -1.0], n)
    parts = [
        pd.DataFrame(
            {
                "kind": kind,
                "exit_time": times,
                "r_multiple": r,
                "pnl_usd": 500 * r if pnl and kind != "shadow" else np.nan,
            }
        )
        for kind in kinds
    ]
    return pd.concat(parts, ignore_index=True)


def drawn(rows: pd.DataFrame, *, demo: bool = False) -> bytes:
    return equity_png(rows, title="closed", demo=demo)


def texts_overlap(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts (ticks, labels, titles, legends) of which one lies on the other."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    seen = [text for text in figure.texts if text.get_text() != "DEMO"]
    legends = list(figure.legends)
    for panel in figure.axes:
        legends += [panel.get_legend()] if panel.get_legend() else []
        seen += [*panel.texts, panel.xaxis.label, panel.yaxis.label, panel.xaxis.get_offset_text()]
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            seen += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    seen += [text for legend in legends for text in legend.get_texts()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in seen if t.get_visible() and t.get_text()]
    return [
        (a, b)
        for place, (a, one) in enumerate(boxes)
        for b, other in boxes[place + 1 :]
        if one.shrunk(0.95, 0.95).overlaps(other.shrunk(0.95, 0.95))
    ]


# --- equity ---------------------------------------------------------------------------------------


def test_each_kind_is_a_line_of_its_own_in_dollars_and_in_r(figures: list[Figure]) -> None:
    picture = drawn(closed("paper", "manual", "shadow"))
    assert all(has(picture, colour) for colour in (PAPER, MANUAL, SHADOW))
    dollars, in_r = figures[0].axes
    assert dollars.get_legend_handles_labels()[1] == ["paper, n = 30", "manual, n = 30"]
    assert in_r.get_legend_handles_labels()[1] == ["paper, n = 30", "manual, n = 30", "shadow, n = 30"]
    line = next(line for line in dollars.lines if line.get_label() == "paper, n = 30")
    assert line.get_ydata()[0] == 0 and line.get_ydata()[-1] == pytest.approx(500 * 0.5 * 15)


@pytest.mark.parametrize(
    ("rows", "panels", "colour"),
    [
        (closed("shadow"), ["net, R"], SHADOW),
        (closed("manual"), ["net, USD", "net, R"], MANUAL),
        (closed("paper", pnl=False), ["net, R"], PAPER),
        (closed("paper").assign(r_multiple=np.nan), ["net, USD", "net, R"], PAPER),
        (closed("paper", n=1), ["net, USD", "net, R"], PAPER),
    ],
    ids=["shadow only", "manual only", "no dollars", "no R", "one trade"],
)
def test_dollars_that_nobody_has_have_no_panel(
    rows: pd.DataFrame, panels: list[str], colour: Any, figures: list[Figure]
) -> None:
    picture = drawn(rows)
    assert [axis.get_ylabel() for axis in figures[0].axes] == panels
    assert has(picture, colour)
    assert not any(has(picture, other) for other in {PAPER, MANUAL} - {colour})  # writing is grey, too


def test_a_missing_amount_adds_nothing_and_is_not_counted(figures: list[Figure]) -> None:
    rows = closed("paper", n=4)
    rows.loc[3, "pnl_usd"] = np.nan
    drawn(rows)
    assert [axis.get_legend_handles_labels()[1] for axis in figures[0].axes] == [["paper, n = 3"], ["paper, n = 4"]]


def test_where_nothing_is_known_it_says_so(figures: list[Figure]) -> None:
    drawn(closed("paper", pnl=False).assign(r_multiple=np.nan))
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["nothing known"]
    drawn(closed("paper").iloc[:0])


def test_the_order_is_that_of_closing_and_one_instant_is_not_drawn_over_years(figures: list[Figure]) -> None:
    rows = closed("paper")
    assert drawn(rows) == drawn(rows.sample(frac=1, random_state=1))
    drawn(closed("paper", n=1))
    low, high = figures[-1].axes[-1].get_xlim()
    assert high - low == pytest.approx(1 / 24)


def test_one_trade_among_thousands_keeps_its_colour() -> None:
    many = closed("paper", "shadow", n=3_000)
    one = closed("manual", n=1).assign(exit_time=many["exit_time"].iloc[2_000])
    assert has(drawn(pd.concat([many, one], ignore_index=True)), MANUAL)


def test_the_chart_needs_no_other_columns() -> None:
    assert drawn(closed("paper")[list(EQUITY_COLUMNS)]).startswith(b"\x89PNG")


# --- reliability ------------------------------------------------------------------------------------


def bins(*places: int) -> list[dict[str, float]]:
    return [
        {
            "lower": k / 20, "upper": (k + 1) / 20, "n": 20, "n_eff": 10.0, "confidence": k / 20 + 0.02, "rate": 0.5,
            "rate_lower": 0.2, "rate_upper": 0.8,
        }
        for k in places
    ]  # fmt: skip


def test_each_bin_has_its_rate_its_interval_and_its_counts(figures: list[Figure]) -> None:
    assert has(reliability_png(bins(11, 12, 15), "all", demo=False), PAPER)
    rates, counts = figures[0].axes
    points, _, (whiskers,) = rates.containers[0]
    assert list(points.get_xdata()) == pytest.approx([0.57, 0.62, 0.77]) and set(points.get_ydata()) == {0.5}
    assert [tuple(part[:, 1]) for part in whiskers.get_segments()] == [(0.2, 0.8)] * 3
    assert sorted({bar.get_height() for bar in counts.patches}) == [10.0, 20]
    assert rates.get_xlim()[0] <= 0.5 and rates.get_xlim()[1] >= 1


def test_a_confidence_below_one_half_and_no_confidence_at_all_are_drawn_too(figures: list[Figure]) -> None:
    reliability_png(bins(1, 19), "all", demo=False)
    assert figures[0].axes[0].get_xlim()[0] <= 0.05
    reliability_png([], "all", demo=False)
    assert figures[1].axes[0].get_xlim()[0] < 0.5 and not figures[1].axes[1].patches


# --- attribution ------------------------------------------------------------------------------------


def ten(**columns: Any) -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "theory_name": THEORY_NAMES, "accuracy": 0.5, "accuracy_lower": 0.4, "accuracy_upper": 0.6, "n_eff": 40.0,
            "shapley": np.linspace(-0.02, 0.03, 10), "verdict": "indistinguishable",
        }
    ).assign(**columns)  # fmt: skip
    return rows.sample(frac=1, random_state=1)  # its order is nobody's business


def test_each_theory_has_its_line_in_the_registrys_order_with_its_effective_n(figures: list[Figure]) -> None:
    verdicts = ["helps", "hurts", *["indistinguishable"] * 7, "too few"]
    rows = ten(n_eff=np.arange(10.0) * 10, verdict=verdicts)
    picture = attribution_png(rows, title="all", demo=False)
    assert has(picture, GREEN) and has(picture, RED)
    forest, bars = figures[0].axes
    names = [name.replace("_", " ") for name in THEORY_NAMES]
    assert [t.get_text() for t in forest.get_yticklabels()] == [f"{n} ({10 * k})" for k, n in enumerate(names)]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(np.linspace(-0.02, 0.03, 10))
    (legend,) = figures[0].legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["one half", "helps", "hurts", "indistinguishable", "too few"]


def test_what_is_missing_is_a_dash_on_its_line(figures: list[Figure]) -> None:
    gone = ["accuracy", "accuracy_lower", "accuracy_upper"]
    rows = ten().set_index("theory_name")
    rows.loc[THEORY_NAMES[3], gone], rows.loc[THEORY_NAMES[8], "shapley"] = np.nan, np.nan
    attribution_png(rows.reset_index(), title="all", demo=False)
    marks = [[(text.get_position()[1], text.get_text()) for text in axis.texts] for axis in figures[0].axes]
    assert marks == [[(3, " –")], [(8, " –")]]


def test_ten_theories_that_never_spoke_are_drawn_without_a_warning() -> None:
    columns = ["accuracy", "accuracy_lower", "accuracy_upper", "shapley"]
    nothing = ten(**dict.fromkeys(columns, np.nan), n_eff=0.0, verdict="too few")
    assert not has(attribution_png(nothing, title="all", demo=False), GREEN)


def test_where_known_votes_are_compared_with_what_chance_alone_would_have_reached(figures: list[Figure]) -> None:
    chance = np.array([0.42, *[None] * 8, 0.48], dtype=object)
    attribution_png(ten(expected_accuracy=chance), title="all", demo=False)
    (marks,) = [line for line in figures[0].axes[0].lines if line.get_marker() == "|"]
    assert marks.get_xdata()[[0, 9]].tolist() == [0.42, 0.48] and np.isnan(marks.get_xdata()[1:9]).all()
    assert figures[0].legends[0].get_texts()[0].get_text() == "expected by chance"
    attribution_png(ten(expected_accuracy=None), title="side:BUY", demo=False)
    assert figures[1].legends[0].get_texts()[0].get_text() == "one half"


# --- all of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda demo: drawn(closed("paper", "manual", "shadow"), demo=demo),
        lambda demo: drawn(closed("paper", "shadow", n=2_000), demo=demo),
        lambda demo: drawn(closed("shadow", n=1), demo=demo),
        lambda demo: reliability_png(bins(*range(10, 20)), "all: 400 outcomes, worth 120.0", demo=demo),
        lambda demo: attribution_png(
            ten(verdict=["helps", "hurts", *["indistinguishable"] * 7, "too few"], n_eff=1234.0, shapley=0.0001),
            title="symbol:BTC-USD, as of 2026-11-21 12:00Z",
            demo=demo,
        ),
    ],
    ids=["equity", "a long equity", "one shadow trade", "reliability", "attribution"],
)
def test_no_text_lies_on_another_demo_is_marked_and_the_same_figures_are_the_same_bytes(
    draw: Any, figures: list[Figure]
) -> None:
    demo, live = draw(True), draw(False)
    assert texts_overlap(figures[0]) == []
    assert [text.get_text() for text in figures[0].texts if text.get_text() == "DEMO"] == ["DEMO"]
    assert not [text for text in figures[1].texts if text.get_text() == "DEMO"]
    assert demo != live and draw(False) == live
    assert len(demo) < 24_000, "Dagster keeps one with each scan in which something closed"


def test_a_picture_travels_in_markdown_with_words_for_who_cannot_see_it() -> None:
    assert in_markdown(b"x", "what closed") == "![what closed](data:image/png;base64,eA==)"
