"""What a scan shows in Dagster's pages: tables that stay in place, texts that cannot break them, marks with colours."""

from __future__ import annotations

import base64
import io
import re

import pandas as pd
from PIL import Image

from v7_pipeline.orchestration.metadata import heading, markdown_table, price_plot, reasons


def _colours(markdown: str) -> set[tuple[int, ...]]:
    found = re.search(r"data:image/png;base64,([^)]+)\)", markdown)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(256)}


def _plot(side: str) -> str:
    times = pd.date_range("2026-03-03", periods=60, freq="min", tz="UTC")
    candles = pd.DataFrame({"symbol": "BTC-USD", "open_time": times, "close": [100.0 + i % 7 for i in range(60)]})
    signals = pd.DataFrame(
        {"symbol": "BTC-USD", "as_of": times[[30]], "side": side, "market_price": 102.0, "accepted": True}
    )
    return price_plot(candles, signals, demo=False)


def test_one_mark_among_many_grey_pixels_keeps_its_colour() -> None:
    green, red = (26, 127, 55), (179, 38, 30)
    assert green in _colours(_plot("BUY"))
    assert red in _colours(_plot("SELL"))
    assert not {green, red} & _colours(_plot("HOLD"))


def test_text_in_a_table_cannot_break_it() -> None:
    table = markdown_table(("a", "b"), [("x|y", "one\ntwo <img>")])
    assert table.splitlines()[-1] == "| x\\|y | one two &lt;img> |"


def test_reasons_are_whole_and_stand_by_symbol() -> None:
    told = reasons(pd.DataFrame({"symbol": ["BTC-USD", "ETH-USD"], "reasoning": ["because " * 200, None]}))
    assert told["reasoning/BTC-USD"].value == "because " * 200
    assert told["reasoning/ETH-USD"].value == "–"


def test_demo_is_said_in_the_heading() -> None:
    assert "DEMO" in heading("Signals", demo=True)
    assert "DEMO" not in heading("Signals", demo=False)
