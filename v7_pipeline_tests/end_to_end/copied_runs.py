"""Many runs in a Dagster home from one that was recorded: the rows that Dagster wrote, copied by SQL as other runs'.

To the byte but for the run's id, its day and the rows' times; what an event says of its own time stays. Dagster itself
needs half a second a run for it, this some milliseconds.
"""

# The tables are Dagster's own, and its version is pinned; what a run leaves in others would show as a missing page.
from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["RecordedRun"]

_SECONDS = ("start_time", "end_time")
_EVENT_IDS = ("event_id", "evaluation_event_storage_id", "materialization_event_storage_id")


class RecordedRun:
    """The rows of the run `run_id` in the SQLite files of the Dagster home `home`, read once."""

    def __init__(self, home: Path, run_id: str) -> None:
        self._run_id = run_id
        self._history = home / "history"
        self._shard = self._history / "runs" / f"{run_id}.db"
        with closing(sqlite3.connect(self._shard)) as shard:
            shard.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that copying the file copies all of it
        with closing(sqlite3.connect(self._history / "runs.db")) as runs:
            self._runs = {name: _rows(runs, name, run_id) for name in ("runs", "run_tags")}
        with closing(sqlite3.connect(self._history / "runs" / "index.db")) as index:
            self._index = {name: _rows(index, name, run_id) for name in ("event_logs", "asset_check_executions")}
            ids = [row["id"] for row in self._index["event_logs"]]
            marks = ",".join("?" * len(ids))
            self._index["asset_event_tags"] = _dicts(
                index.execute(f"SELECT * FROM asset_event_tags WHERE event_id IN ({marks})", ids)
            )
            self._assets = _dicts(index.execute("SELECT * FROM asset_keys"))
        (run,) = self._runs["runs"]
        self._day: str = run["partition"]
        self._at = datetime.fromisoformat(run["create_timestamp"]).replace(tzinfo=UTC)

    def copy(self, instants: Iterable[datetime]) -> list[str]:
        """A copy for each instant (aware, when its run began), which is also of that day; their run ids."""
        copies = [(str(uuid.uuid4()), at) for at in instants]
        with closing(sqlite3.connect(self._history / "runs.db")) as runs, runs:
            for run_id, at in copies:
                for name, rows in self._runs.items():
                    _insert(runs, name, [self._changed(row, run_id, at) for row in rows])
        with closing(sqlite3.connect(self._history / "runs" / "index.db")) as index, index:
            top = index.execute("SELECT max(id) FROM event_logs").fetchone()[0]
            span = max(row["id"] for row in self._index["event_logs"])
            for run_id, at in copies:
                for name, rows in self._index.items():
                    _insert(index, name, [self._moved(self._changed(row, run_id, at), top) for row in rows], top)
                top += span
            if copies:
                self._point_assets_to(index, *copies[-1])
        for run_id, at in copies:
            self._copy_shard(run_id, at)
        return [run_id for run_id, _ in copies]

    def _copy_shard(self, run_id: str, at: datetime) -> None:
        file = self._shard.with_name(f"{run_id}.db")
        shutil.copyfile(self._shard, file)
        with closing(sqlite3.connect(file)) as shard, shard:
            shard.execute("PRAGMA synchronous = OFF")
            shard.execute(
                "UPDATE event_logs SET run_id = ?, event = replace(replace(event, ?, ?), ?, ?)",
                (run_id, self._run_id, run_id, self._day, f"{at:%Y-%m-%d}"),
            )

    def _point_assets_to(self, index: sqlite3.Connection, run_id: str, at: datetime) -> None:
        """The newest materialisation of each asset is the newest copy's."""
        for row in self._assets:
            changed = self._changed(row, run_id, at)
            index.execute(
                "UPDATE asset_keys SET last_materialization = ?, last_run_id = ?, last_materialization_timestamp = ? "
                "WHERE id = ?",
                (changed["last_materialization"], run_id, changed["last_materialization_timestamp"], row["id"]),
            )

    def _changed(self, row: dict[str, Any], run_id: str, at: datetime) -> dict[str, Any]:
        later = at - self._at

        def value(name: str, was: Any) -> Any:
            if was is None:
                return None
            if name in _SECONDS:
                return was + later.total_seconds()
            if name.endswith("timestamp"):
                moment = datetime.fromisoformat(was) + later
                return moment.isoformat(" ", "microseconds" if "." in was else "seconds")
            return (
                was.replace(self._run_id, run_id).replace(self._day, f"{at:%Y-%m-%d}") if isinstance(was, str) else was
            )

        return {name: value(name, was) for name, was in row.items()}

    def _moved(self, row: dict[str, Any], by: int) -> dict[str, Any]:
        return {name: was + by if name in _EVENT_IDS and was is not None else was for name, was in row.items()}


def _dicts(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _rows(connection: sqlite3.Connection, name: str, run_id: str) -> list[dict[str, Any]]:
    return _dicts(connection.execute(f"SELECT * FROM {name} WHERE run_id = ? ORDER BY id", (run_id,)))


def _insert(connection: sqlite3.Connection, name: str, rows: Sequence[dict[str, Any]], after: int = 0) -> None:
    """`rows` with new ids; those of events are `after` the newest, as whatever points to them says."""
    for row in rows:
        given = {n: v for n, v in row.items() if n != "id"}
        if name == "event_logs":
            given["id"] = row["id"] + after
        marks = ",".join("?" * len(given))
        connection.execute(f"INSERT INTO {name} ({','.join(given)}) VALUES ({marks})", list(given.values()))
