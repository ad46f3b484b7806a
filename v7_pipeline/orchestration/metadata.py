"""How a scan tells its story in Dagster's pages: markdown tables, a price plot, column schemas.

Only presentation: what is shown was decided elsewhere. Demo data says so in every table's heading. Dagster's pages
show markdown below 1,000 characters in place and longer markdown behind a link, so tables stay narrow and sentences
are texts of their own.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from v7_pipeline.store.schema import TABLES

__all__ = ["column_schema", "heading", "markdown_table", "price_plot", "reasons", "text_of"]

_UP, _DOWN, _QUIET, _DEMO = "#1a7f37", "#b3261e", "#5b6470", "#b58900"


def column_schema(table: str) -> dg.TableSchema:
    """The asset's columns as Dagster shows them: type, unit, meaning, and whether they may be missing."""
    entry = TABLES[table]
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.type,
                description=f"{column.description}{f' [{column.unit}]' if column.unit else ''}",
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable,
                    unique=entry.key == (column.name,),
                    other=["key"] if column.name in entry.key else [],
                ),
            )
            for column in entry.columns
        ]
    )


def heading(text: str, *, demo: bool) -> str:
    """A markdown heading; demo data is marked in it."""
    return f"### {'DEMO, simulated market: ' if demo else ''}{text}\n\n"


def text_of(value: Any, digits: int = 6) -> str:
    """A cell's text; what is missing is a dash, never 0 or a word."""
    if value is None or value is pd.NaT or (isinstance(value, float) and value != value) or value is pd.NA:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M}Z"
    return str(value)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; pipes and line breaks in the data cannot break it."""
    body = [
        "| "
        + " | ".join(text_of(cell).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in row)
        + " |"
        for row in rows
    ]
    if not body:
        return "*no rows*\n"
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *body]) + "\n"


def reasons(rows: pd.DataFrame) -> dict[str, dg.MetadataValue]:
    """Each symbol's reasoning as a text of its own: shown in place however long it is.

    rows: symbol, reasoning.
    """
    return {
        f"reasoning/{row['symbol']}": dg.MetadataValue.text(text_of(row["reasoning"]))
        for row in rows.to_dict("records")
    }


def price_plot(candles: pd.DataFrame, signals: pd.DataFrame, *, demo: bool) -> str:
    """Markdown with a picture: each symbol's closes and where signals stood (filled: accepted, hollow: rejected).

    candles: symbol, open_time, close. signals: symbol, as_of, side, market_price, accepted.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from PIL import Image

    symbols = sorted(candles["symbol"].unique())
    if not symbols:
        return "*no candles*"
    figure = Figure(figsize=(9, 1.7 * len(symbols)), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(symbols), 1, sharex=True, squeeze=False)[:, 0]
    for axis, symbol in zip(axes, symbols, strict=True):
        rows = candles[candles["symbol"] == symbol]
        axis.plot(rows["open_time"].to_numpy(), rows["close"].to_numpy(), linewidth=0.8, color=_QUIET)
        marks = signals[(signals["symbol"] == symbol) & signals["side"].isin(["BUY", "SELL"])]
        for side, marker, colour in (("BUY", "^", _UP), ("SELL", "v", _DOWN)):
            for accepted, face in ((True, colour), (False, "none")):
                part = marks[(marks["side"] == side) & (marks["accepted"].astype("boolean").fillna(False) == accepted)]
                axis.scatter(
                    part["as_of"].to_numpy(),
                    part["market_price"].to_numpy(),
                    marker=marker,
                    s=36,
                    facecolors=face,
                    edgecolors=colour,
                )
        axis.set_ylabel(symbol, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    axes[-1].xaxis.get_offset_text().set_fontsize(7)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    if demo:
        figure.text(0.5, 0.5, "DEMO", fontsize=42, color=_DEMO, alpha=0.25, ha="center", va="center", rotation=12)
    buffer = io.BytesIO()
    figure.canvas.draw()
    # The picture is stored with every scan. Sixteen colours are plenty, if they are the ones that carry meaning:
    # a palette chosen by frequency would turn the few green and red marks grey.
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels).convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
    image.save(buffer, format="png", optimize=True, bits=4)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return f"![closes and signals](data:image/png;base64,{picture})\n\n▲ BUY ▼ SELL; filled: accepted, hollow: rejected"


def _palette() -> Any:
    """Sixteen colours: white, and the plot's own, each full and paler."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    shades = [
        (_UP, 1.0),
        (_UP, 0.6),
        (_UP, 0.3),
        (_DOWN, 1.0),
        (_DOWN, 0.6),
        (_DOWN, 0.3),
        (_DEMO, 0.25),
        ("black", 0.8),
    ]
    shades += [
        (_QUIET, 1.0),
        (_QUIET, 0.75),
        (_QUIET, 0.5),
        (_QUIET, 0.25),
        ("black", 1.0),
        ("black", 0.6),
        ("black", 0.1),
    ]
    colours = [255, 255, 255]
    for name, share in shades:
        colours += [round(255 * (1 - share * (1 - part))) for part in to_rgb(name)]
    image = Image.new("P", (1, 1))
    # All 256 places are filled, with white: an unfilled one would be black.
    image.putpalette(colours + [255] * (768 - len(colours)))
    return image
