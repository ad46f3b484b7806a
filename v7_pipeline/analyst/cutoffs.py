"""Which past a model may have read about: dated training cut-offs (cutoffs.toml), and the label of a period.

A backtest on a period that the model was trained on shows its memory, not its judgement. Prices are prices.py's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from v7_pipeline.analyst.base import require_aware

__all__ = ["CLEAN", "CONTAMINATED", "POSSIBLY", "UNKNOWN", "Cutoff", "Period", "cutoff_of", "load_cutoffs", "periods"]

TABLE_FILE = Path(__file__).with_name("cutoffs.toml")

Label = Literal["contaminated", "possibly contaminated", "unknown, treated as contaminated", "clean"]
CONTAMINATED: Label = "contaminated"
POSSIBLY: Label = "possibly contaminated"
UNKNOWN: Label = "unknown, treated as contaminated"
CLEAN: Label = "clean"


@dataclass(frozen=True, slots=True)
class Cutoff:
    """What is known of a model's name from `start` (UTC) on.

    `known_until`: the first instant that its training data are reported not to hold, None where nobody says.
    `released`: from then on nothing can be in them.
    """

    model: str
    start: datetime
    known_until: datetime | None
    released: datetime
    source: str

    def __post_init__(self) -> None:
        if self.known_until is not None and self.known_until > self.released:
            raise ValueError(
                f"cutoffs.toml: {self.model} cannot know of days after its release, {self.released:%Y-%m-%d}"
            )


@dataclass(frozen=True, slots=True)
class Period:
    """A part of a span, from `start` (included) to `end` (excluded), with its label and where that comes from."""

    start: datetime
    end: datetime
    label: Label
    source: str

    @property
    def counts_as_contaminated(self) -> bool:
        """Whether what is shown there may be memory; only what came after the release is certain to be none."""
        return self.label != CLEAN


@lru_cache(maxsize=1)
def load_cutoffs() -> tuple[Cutoff, ...]:
    """The shipped table."""
    with TABLE_FILE.open("rb") as file:
        return tuple(_read(entry) for entry in tomllib.load(file)["cutoff"])


def cutoff_of(model: str, asked_at: datetime, table: tuple[Cutoff, ...] | None = None) -> Cutoff | None:
    """What is known of the checkpoint that `model` names at `asked_at`, when it is asked; None where nothing is."""
    require_aware(asked_at, "asked_at")
    begun = [entry for entry in table or load_cutoffs() if entry.model == model and entry.start <= asked_at]
    return max(begun, key=lambda entry: entry.start, default=None)


def periods(
    model: str, asked_at: datetime, start: datetime, end: datetime, table: tuple[Cutoff, ...] | None = None
) -> tuple[Period, ...]:
    """The span from `start` to `end` (excluded) in parts by label, in order, for `model` asked at `asked_at`.

    Before the reported cut-off: contaminated. From there to the release: possibly, since the report is seldom the
    provider's own and later training may know more. After the release: clean. Where no cut-off is reported, or the
    model has no entry: unknown, treated as contaminated. ValueError for naive instants and an empty span.
    """
    for instant, name in ((start, "start"), (end, "end")):
        require_aware(instant, name)
    if not start < end:
        raise ValueError(f"the span from {start.isoformat()} to {end.isoformat()} is empty; give a later end")
    known = cutoff_of(model, asked_at, table)
    if known is None:
        return (Period(start, end, UNKNOWN, f"no entry for {model} at {asked_at:%Y-%m-%d} in cutoffs.toml"),)
    parts: list[tuple[datetime, Label]] = [(known.released, UNKNOWN), (datetime.max.replace(tzinfo=UTC), CLEAN)]
    if known.known_until is not None:
        parts = [(known.known_until, CONTAMINATED), (known.released, POSSIBLY), parts[-1]]
    found, began = [], start
    for until, label in parts:
        if began < min(until, end):
            found.append(Period(began, min(until, end), label, known.source))
            began = min(until, end)
    return tuple(found)


def _read(entry: Mapping[str, Any]) -> Cutoff:
    until = entry.get("known_until")
    return Cutoff(
        model=entry["model"],
        start=entry["from"],
        known_until=None if until is None else _midnight(until),
        released=_midnight(entry["released"]),
        source=entry["source"],
    )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
