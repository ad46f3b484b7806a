"""What a step of a scan gets and what it gives back: the context, the result, and its one-transaction write.

No step's own logic belongs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.analyst.base import Analyst
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, arrow_rows, conform
from v7_pipeline.store.frames import from_arrow

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LATE_AFTER", "ScanContext", "ScanError", "StepResult", "Write", "minute", "persist"]

# A scan whose instant is further back than this is a look at the past: its rows are marked backfill and its clock
# stands at its instant, since asking "is the price fresh now" of a past instant means nothing.
LATE_AFTER = timedelta(minutes=10)

Clock = Callable[[], datetime]
Source = Literal["live", "demo", "backfill", "backtest"]


class ScanError(RuntimeError):
    """A scan cannot go on; the message says why and what to do."""


def minute(instant: datetime) -> datetime:
    """`instant` in UTC, cut to its minute; naive times are refused."""
    if instant.tzinfo is None:
        raise ScanError(f"the instant {instant.isoformat()} has no time zone; write it in UTC, such as …T12:02:00Z")
    return instant.astimezone(UTC).replace(second=0, microsecond=0)


@dataclass(frozen=True)
class ScanContext:
    """One scan: its instant, who it reads from, asks and writes to, and how its rows are marked.

    `clock` stands at `as_of` in a scan of the past; `wall_clock` never does.
    """

    settings: Settings
    store: Store
    market: Any
    analyst: Analyst
    as_of: datetime
    run_id: str
    source: Source
    clock: Clock
    wall_clock: Clock
    # What two steps of one scan both look at and neither changes, so that it is read once.
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if minute(self.as_of) != self.as_of:
            raise ScanError(f"a scan's instant is a whole minute in UTC, not {self.as_of.isoformat()}")

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.settings.symbols

    @property
    def provenance(self) -> dict[str, str]:
        """The marks of every row this scan writes."""
        return {"source": self.source, "run_id": self.run_id, "code_version": __version__}

    @property
    def is_late(self) -> bool:
        """Whether this is a look at the past: nobody is alerted of it."""
        return self.wall_clock() - self.as_of > LATE_AFTER

    @property
    def learnt_from(self) -> Source:
        """Whose outcomes the win rates of this scan rest on: a backtest's own, never the live ones, else the mode's."""
        return "backtest" if self.source == "backtest" else self.settings.source

    @property
    def is_demo(self) -> bool:
        return self.settings.mode == "demo"

    @property
    def alert_marks(self) -> dict[str, Any]:
        """What every alert says of where it comes from: demo, and the gates that do not block."""
        return {"demo": self.is_demo, "gates_off": self.settings.gates_off}

    def marked(self, table: str, frame: pd.DataFrame) -> pd.DataFrame:
        """`frame` with this scan's provenance, in the table's column order and types."""
        return conform(table, frame, self.provenance)

    def marked_rows(self, table: str, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pa.Table:
        """A few rows with this scan's provenance, checked and ready to be written."""
        if isinstance(rows, pd.DataFrame):
            columns = [rows[name].tolist() for name in rows.columns]
            rows = [dict(zip(rows.columns, values, strict=True)) for values in zip(*columns, strict=True)]
        return arrow_rows(table, [{**row, **self.provenance} for row in rows])


@dataclass(frozen=True)
class Write:
    """One frame for one table: `upsert` replaces by key, `new` leaves existing keys as they are, `remove` deletes."""

    table: str
    frame: pd.DataFrame | pa.Table
    how: Literal["upsert", "new", "remove"]


@dataclass(frozen=True)
class StepResult:
    """What a step wants written, all in one transaction, and what it has to tell about it."""

    writes: tuple[Write, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def frame(self, table: str) -> pd.DataFrame:
        """The frame meant for `table`; KeyError where the step has none."""
        for write in self.writes:
            if write.table == table and write.how != "remove":
                return write.frame if isinstance(write.frame, pd.DataFrame) else from_arrow(write.frame)
        raise KeyError(table)


def persist(store: Store, result: StepResult) -> dict[str, Any]:
    """Write all of `result` in one transaction; returns the counts by table. Empty frames write nothing."""
    writes = [write for write in result.writes if len(write.frame)]
    if not writes:
        return {}
    counts: dict[str, Any] = {}
    with store.transaction() as tx:
        for write in writes:
            act = {"upsert": tx.upsert, "new": tx.insert_new, "remove": tx.remove}[write.how]
            done = act(write.table, write.frame)
            if write.how != "remove":
                counts[write.table] = done
    return counts
