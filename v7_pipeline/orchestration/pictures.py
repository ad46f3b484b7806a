"""The day's readings as small multiples for Dagster's pages, drawn in a few milliseconds because every scan has one.

Only drawing; what a percentile or a vote is, theories/ says. A chart of matplotlib would take a third of a scan.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline.theories.base import HIGH, LOW, SPEAKS

__all__ = ["DAY_COLUMNS", "theories_plot"]

#: What theories_plot needs of theory_features.
DAY_COLUMNS = ("symbol", "as_of", *(f"{theory}_{part}" for theory in THEORY_NAMES for part in ("percentile", "vote")))

_INK, _GRID, _NOISE, _DEMO = (60, 66, 74), (205, 209, 214), (232, 235, 239), (181, 137, 0)
_LINES = ((178, 92, 0), (31, 91, 173), (22, 128, 102), (140, 60, 140), (96, 96, 96), (160, 30, 40))
_UP, _DOWN = (26, 127, 55), (179, 38, 30)
_PANEL_W, _PANEL_H, _ACROSS = 178, 92, 5
_LEFT, _TOP, _BOTTOM = 8, 16, 12  # margins of a panel
_MINUTES = 1440


def theories_plot(day: pd.DataFrame, *, demo: bool) -> str:
    """Markdown with a picture: a panel a theory, its percentile over one UTC day in each symbol's colour.

    day: DAY_COLUMNS, rows of one UTC day. The grey band is the centre of noise, where a theory is silent; ticks below a
    panel are votes, up where bullish and down where bearish. Missing readings leave gaps.
    """
    from PIL import Image, ImageDraw, ImageFont

    symbols = sorted(day["symbol"].unique())
    if not symbols:
        return "*no readings*"
    down = -(-len(THEORY_NAMES) // _ACROSS)
    image = Image.new("RGB", (_ACROSS * _PANEL_W, down * _PANEL_H + 18), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=10)
    for place, theory in enumerate(THEORY_NAMES):
        corner = (place % _ACROSS * _PANEL_W, place // _ACROSS * _PANEL_H)
        _panel(draw, corner, theory, day, symbols, font)
    at, baseline = _LEFT, down * _PANEL_H + 3
    for symbol, colour in zip(symbols, _colours(symbols), strict=True):
        draw.line((at, baseline + 6, at + 14, baseline + 6), fill=colour, width=2)
        draw.text((at + 18, baseline), symbol, fill=_INK, font=font)
        at += 30 + int(draw.textlength(symbol, font=font))
    told = (
        f"{day['as_of'].min():%Y-%m-%d}, 0 to 24 h UTC; percentile under noise, 0 to 1; band: its central {SPEAKS:.0%}"
    )
    draw.text((at + 8, baseline), told, fill=_INK, font=font)
    if demo:
        draw.text(
            (image.width - 4, baseline - 2), "DEMO", fill=_DEMO, font=ImageFont.load_default(size=14), anchor="ra"
        )
    buffer = io.BytesIO()
    image.quantize(palette=_palette(), dither=Image.Dither.NONE).save(buffer, format="png", optimize=True, bits=4)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return f"![percentiles of the ten theories](data:image/png;base64,{picture})"


def _palette() -> Any:
    """Our own colours: a palette made of the picture would take the pale ones, few among the white, for white."""
    from PIL import Image

    pale = tuple((ink + 255) // 2 for ink in _INK)
    colours = [(255, 255, 255), _INK, pale, _GRID, _NOISE, _DEMO, *_LINES, _UP, _DOWN]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in colours for channel in colour])
    return palette


def _colours(symbols: Sequence[str]) -> list[tuple[int, int, int]]:
    return [_LINES[place % len(_LINES)] for place in range(len(symbols))]


def _panel(
    draw: Any, corner: tuple[int, int], theory: str, day: pd.DataFrame, symbols: Sequence[str], font: Any
) -> None:
    left, top = corner[0] + _LEFT, corner[1] + _TOP
    width, height = _PANEL_W - 2 * _LEFT, _PANEL_H - _TOP - _BOTTOM
    draw.text((left, corner[1] + 1), theory.replace("_", " "), fill=_INK, font=font)
    draw.rectangle((left, top, left + width, top + height), outline=_GRID)
    draw.rectangle((left + 1, top + LOW * height, left + width - 1, top + HIGH * height), fill=_NOISE)
    draw.line((left, top + height / 2, left + width, top + height / 2), fill=_GRID)
    for symbol, colour in zip(symbols, _colours(symbols), strict=True):
        rows = day[day["symbol"] == symbol].sort_values("as_of")
        minute = (rows["as_of"].dt.hour * 60 + rows["as_of"].dt.minute).to_numpy()
        x = left + minute * (width / _MINUTES)
        y = top + height * (1 - rows[f"{theory}_percentile"].to_numpy(float))
        for piece in _unbroken(x, y, minute):
            draw.line(piece, fill=colour, width=1)
        votes = rows[f"{theory}_vote"].to_numpy(float)
        for sign, tint, low in ((1, _UP, 0), (-1, _DOWN, 4)):
            for at in np.unique(np.round(x[np.sign(votes) == sign])):
                draw.line((at, top + height + 2 + low, at, top + height + 5 + low), fill=tint)


def _unbroken(x: Any, y: Any, minute: Any) -> list[list[tuple[float, float]]]:
    """The stretches of points without a missing reading between them."""
    known = ~np.isnan(y)
    x, y, minute = x[known], y[known], minute[known]
    if not len(x):
        return []
    cuts = np.flatnonzero(np.diff(minute) > 15) + 1
    points = np.column_stack((x, y))
    return [[(float(a), float(b)) for a, b in piece] for piece in np.split(points, cuts)]
