"""The day's small multiples: what is in the readings is in the picture, and nothing else is."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from v7_pipeline.orchestration.pictures import DAY_COLUMNS, theories_plot

ORANGE, BLUE, GREEN, RED = (178, 92, 0), (31, 91, 173), (26, 127, 55), (179, 38, 30)


def day(symbols: tuple[str, ...] = ("BTC-USD", "ETH-USD"), rows: int = 200, **columns: Any) -> pd.DataFrame:
    """Quiet readings every four minutes from midnight on; `columns` replace whole columns."""
    times = pd.date_range("2026-03-03", periods=rows, freq="4min", tz="UTC")
    parts = []
    for symbol in symbols:
        parts.append(
            pd.DataFrame({name: 0.5 if name.endswith("percentile") else 0.0 for name in DAY_COLUMNS}, index=range(rows))
            .assign(symbol=symbol, as_of=times)
            .assign(**columns)
        )
    return pd.concat(parts, ignore_index=True)


def pixels(markdown: str) -> Any:
    found = re.search(r"data:image/png;base64,([^)]+)\)", markdown)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(picture: Any, colour: tuple[int, int, int]) -> Any:
    """Where the picture has `colour`, give or take what the palette costs."""
    return np.abs(picture - np.array(colour)).max(axis=2) <= 12


def test_every_symbol_has_its_line_and_no_vote_no_tick() -> None:
    picture = pixels(theories_plot(day(), demo=False))
    assert near(picture, BLUE)[:180].sum() >= 10 * 85, "both lines lie on each other, the second is on top"
    assert not near(picture, GREEN)[:180].any()
    assert not near(picture, RED)[:180].any()


@pytest.mark.parametrize(("vote", "colour", "other"), [(0.7, GREEN, RED), (-0.7, RED, GREEN)])
def test_votes_stand_below_their_own_theorys_panel(vote: float, colour: Any, other: Any) -> None:
    picture = pixels(theories_plot(day(hurst_exponent_vote=vote), demo=False))
    ticks = near(picture, colour)[:180]
    assert ticks.any()
    assert not near(picture, other)[:180].any()
    rows, columns = np.nonzero(ticks)
    assert rows.max() < 92 and columns.min() >= 178 and columns.max() < 2 * 178, "the second panel of the first row"


def test_a_high_percentile_stands_high_and_a_missing_one_is_a_gap() -> None:
    middle = np.nonzero(near(pixels(theories_plot(day(("BTC-USD",)), demo=False)), ORANGE)[:180])[0]
    high = np.nonzero(
        near(pixels(theories_plot(day(("BTC-USD",), shannon_entropy_percentile=0.99), demo=False)), ORANGE)[:180]
    )[0]
    assert high.min() < middle.min()
    holes = np.where((np.arange(200) >= 80) & (np.arange(200) < 120), np.nan, 0.5)
    gap = near(pixels(theories_plot(day(("BTC-USD",), shannon_entropy_percentile=holes), demo=False)), ORANGE)
    whole = near(pixels(theories_plot(day(("BTC-USD",)), demo=False)), ORANGE)
    lost = np.nonzero(whole[:92, :178] & ~gap[:92, :178])[1]
    assert 15 <= lost.max() - lost.min() <= 20, "40 of 360 places of a day, 18 pixels"


def test_no_readings_are_said_in_words_and_all_missing_draws_no_line() -> None:
    assert theories_plot(day().iloc[:0], demo=True) == "*no readings*"
    missing = day(("BTC-USD",), **{name: np.nan for name in DAY_COLUMNS if name.endswith("percentile")})
    assert not near(pixels(theories_plot(missing, demo=False)), ORANGE)[:180].any()


def test_demo_is_written_into_the_picture() -> None:
    demo, live = (near(pixels(theories_plot(day(), demo=flag)), (181, 137, 0)).any() for flag in (True, False))
    assert demo and not live


def test_the_band_of_noise_is_seen_on_a_white_ground() -> None:
    picture = pixels(theories_plot(day(), demo=True))
    assert (picture[20:70, 178 - 6 : 178] == 255).all(), "between two panels is paper"
    left, top, height = 8 + 60, 16, 92 - 16 - 12
    inside, outside = picture[top + height // 4, left], picture[top + 1, left]
    assert (inside == (232, 235, 239)).all() and (outside == 255).all()
