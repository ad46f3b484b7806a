"""The ten theories as one picture: a forest of accuracies with their intervals, and what each was worth as bars.

Only drawing, in a few milliseconds because a scan may have one; every figure was reckoned elsewhere.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["PICTURE_COLUMNS", "attribution_picture", "in_markdown"]

#: What attribution_picture needs of theory_attribution.
PICTURE_COLUMNS = ("theory_name", "accuracy", "accuracy_lower", "accuracy_upper", "n_eff", "shapley", "verdict")

_INK, _GRID, _QUIET, _DEMO = (60, 66, 74), (205, 209, 214), (120, 126, 134), (181, 137, 0)
_VERDICTS = {"helps": (26, 127, 55), "hurts": (179, 38, 30), "indistinguishable": _INK, "too few": (160, 165, 172)}
_NAMES, _WIDTH, _GAP, _ROW, _TOP, _BOTTOM = 150, 270, 40, 22, 26, 38


def attribution_picture(rows: pd.DataFrame, *, title: str, demo: bool) -> bytes:
    """A PNG of one scope's ten rows (PICTURE_COLUMNS), one line a theory in the registry's order.

    Left: accuracy (dot) and its 95 % interval (line), half marked. Right: Shapley value in R a trade, from 0. Colour is
    the verdict. What is missing is a dash. ValueError where a theory is missing or there twice.
    """
    if sorted(rows["theory_name"]) != sorted(THEORY_NAMES):
        raise ValueError("a picture is of one scope's ten theories; select one instant and one scope")
    from PIL import Image, ImageDraw, ImageFont

    small, large = ImageFont.load_default(size=11), ImageFont.load_default(size=13)
    height = _TOP + _ROW * len(THEORY_NAMES) + _BOTTOM
    image = Image.new("RGB", (_NAMES + 2 * _WIDTH + 2 * _GAP, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((8, 5), title, fill=_INK, font=large)
    if demo:
        draw.text((image.width - 8, 5), "DEMO", fill=_DEMO, font=ImageFont.load_default(size=15), anchor="ra")
    ordered = rows.set_index("theory_name").loc[list(THEORY_NAMES)]
    worth = ordered["shapley"].to_numpy(float)
    reach = max(float(np.nanmax(np.abs(worth))) if np.isfinite(worth).any() else 0.0, 1e-9)
    left, right = _NAMES, _NAMES + _WIDTH + _GAP
    bottom = _TOP + _ROW * len(THEORY_NAMES)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + share * _WIDTH
        draw.line((x, _TOP, x, bottom), fill=_INK if share == 0.5 else _GRID)
        draw.text((x, bottom + 3), f"{share:.0%}", fill=_QUIET, font=small, anchor="ma")
    for sign in (-1, 0, 1):
        x = right + (sign + 1) / 2 * _WIDTH
        draw.line((x, _TOP, x, bottom), fill=_GRID if sign else _INK)
        draw.text((x, bottom + 3), f"{sign * reach:+.3f}" if sign else "0", fill=_QUIET, font=small, anchor="ma")
    for place, (theory, row) in enumerate(ordered.iterrows()):
        y = _TOP + _ROW * place + _ROW / 2
        colour = _VERDICTS[row["verdict"]]
        draw.text((8, y), f"{theory}".replace("_", " "), fill=colour, font=small, anchor="lm")
        _accuracy(draw, row, y, colour, small)
        if np.isfinite(row["shapley"]):
            end = right + (float(row["shapley"]) / reach + 1) / 2 * _WIDTH
            zero = right + _WIDTH / 2
            draw.rectangle((min(zero, end), y - 5, max(zero, end), y + 5), fill=colour)
        else:
            draw.text((right + _WIDTH / 2 + 6, y), "–", fill=_QUIET, font=small, anchor="lm")
    draw.text((left, bottom + 18), "votes that were right, 95 % interval", fill=_QUIET, font=small)
    draw.text((right, bottom + 18), "Shapley value, R a trade", fill=_QUIET, font=small)
    buffer = io.BytesIO()
    image.quantize(colors=16, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def in_markdown(picture: bytes) -> str:
    """The picture as markdown that carries it."""
    return f"![accuracy and worth of the ten theories](data:image/png;base64,{base64.b64encode(picture).decode()})"


def _accuracy(draw: Any, row: pd.Series[Any], y: float, colour: tuple[int, int, int], font: Any) -> None:
    if not np.isfinite(row["accuracy"]):
        draw.text((_NAMES + _WIDTH / 2 + 6, y), "–", fill=_QUIET, font=font, anchor="lm")
        return
    low, middle, high = (
        _NAMES + _WIDTH * float(row[f"accuracy{end}"] if end else row["accuracy"]) for end in ("_lower", "", "_upper")
    )
    draw.line((low, y, high, y), fill=colour, width=2)
    draw.ellipse((middle - 4, y - 4, middle + 4, y + 4), fill=colour)
