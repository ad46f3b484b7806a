"""A backup is whole or is refused, a restore is all or nothing, and both work whatever kind of store it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.store import SchemaError, Store, StoreError, migrations, open_store, schema
from v7_pipeline.store import backup as module
from v7_pipeline.store.backup import MANIFEST, backup, export, restore, verify
from v7_pipeline_tests.store.conftest import NOW
from v7_pipeline_tests.store.rows import DAY, make_rows

FILLED = [name for name in schema.TABLES if name != "schema_version"]
MARK = {"now": NOW, "code_version": "0.2.0"}


def fill(store: Store, salt: int = 0) -> None:
    with store.transaction() as tx:
        for name in FILLED:
            tx.upsert(name, make_rows(name, 7, salt=salt))


def content(store: Store) -> dict[str, pd.DataFrame]:
    return {name: store.read(name) for name in schema.TABLES}


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert one.keys() == other.keys()
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name])


@pytest.fixture
def other(place: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A store of the same kind that does not exist yet."""
    if "postgres" in place["url"]:
        database = request.getfixturevalue("new_database")()
        made = open_store(f"ducklake:postgres:{database}", data_path=str(tmp_path / "other-files"))
    else:
        made = open_store(place["url"].replace("v7.", "other."))
    yield made
    made.close()


def test_a_restored_store_is_the_one_that_was_backed_up(store: Store, other: Store, tmp_path: Path) -> None:
    fill(store)
    told: list[tuple[str, int, int]] = []
    made = backup(store, tmp_path / "b", **MARK, on_progress=lambda *step: told.append(step))
    assert made.rows["candles"] == 7 and made.total == 7 * len(FILLED) + 1 and made == verify(tmp_path / "b")
    assert {step[0] for step in told} == set(schema.TABLES) and all(done == total for _, done, total in told)
    assert [path.name for path in tmp_path.glob(".b*")] == []
    assert restore(other, tmp_path / "b", **MARK).total == made.total
    same(content(store), content(other))
    assert len(other.query("SELECT * FROM signals")) == len(store.query("SELECT * FROM signals"))
    with other.transaction() as tx:  # its columns are what they were, so that it can be written to
        assert tx.upsert("candles", make_rows("candles", 7)).unchanged == 7


def test_what_is_there_is_not_overwritten_silently(store: Store, other: Store, tmp_path: Path) -> None:
    fill(store)
    backup(store, tmp_path / "b", **MARK)
    other.migrate("0.1.0", NOW)
    fill(other, salt=1)
    kept = content(other)
    with pytest.raises(StoreError, match="holds data already; nothing was restored"):
        restore(other, tmp_path / "b", **MARK)
    same(content(other), kept)
    restore(other, tmp_path / "b", **MARK, replace=True)
    same(content(other), content(store))
    with pytest.raises(StoreError, match="exists already; a backup never overwrites"):
        backup(store, tmp_path / "b", **MARK)


def test_a_restore_that_fails_leaves_what_was_there(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    backup(store, tmp_path / "b", **MARK)
    other.migrate("0.1.0", NOW)
    fill(other, salt=1)
    kept = content(other)

    def short(batch: Any) -> Any:
        return loaded(batch).slice(1)

    loaded = module._as_table
    monkeypatch.setattr(module, "_as_table", short)
    with pytest.raises(StoreError, match="rows after the restore"):
        restore(other, tmp_path / "b", **MARK, replace=True)
    same(content(other), kept)


@pytest.mark.parametrize("fault", ["bit", "rows", "file", "manifest", "garbage"])
def test_a_backup_that_is_not_whole_is_refused(file_store: Store, tmp_path: Path, fault: str) -> None:
    fill(file_store)
    folder = tmp_path / "b"
    backup(file_store, folder, **MARK)
    file = folder / "candles.parquet"
    told = json.loads((folder / MANIFEST).read_text())
    if fault == "bit":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    elif fault == "rows":
        told["tables"]["candles"]["rows"] += 1
        (folder / MANIFEST).write_text(json.dumps(told))
    elif fault == "file":
        file.unlink()
    elif fault == "manifest":
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text("{")
    words = {"bit": "checksum", "rows": "manifest says 8", "file": "lacks candles", "manifest": "is no backup of V7",
             "garbage": "cannot be read"}  # fmt: skip
    fresh = open_store(f"duckdb:{tmp_path / 'fresh.duckdb'}")
    with pytest.raises(StoreError, match=words[fault]):
        restore(fresh, folder, **MARK)
    assert fresh.schema_version() is None


def test_a_backup_of_a_newer_v7_is_refused(file_store: Store, tmp_path: Path) -> None:
    with file_store.transaction() as tx:
        tx.execute("INSERT INTO schema_version VALUES (99, now(), '9.9')")
    with pytest.raises(SchemaError, match="version 99"):
        backup(open_store(f"duckdb:{tmp_path / 'only.duckdb'}"), tmp_path / "b", **MARK)


@pytest.mark.parametrize("version", [1, 4])
@pytest.mark.parametrize("kind", ["duckdb:{}/old.duckdb", "ducklake:sqlite:{}/old.sqlite"])
def test_a_store_of_an_earlier_version_is_migrated_with_its_rows(tmp_path: Path, version: int, kind: str) -> None:
    """versions/N.sql is what the code of that version made: its tables and some rows."""
    old = open_store(kind.format(tmp_path))
    sql = (Path(__file__).parent / "versions" / f"{version}.sql").read_text()
    with old._scope(write=True, create=True, verify=False) as connection:
        for statement in filter(str.strip, sql.split(";\n")):
            connection.execute(statement)
        assert migrations.stored_version(connection) == version
    newer = open_store(kind.format(tmp_path))
    newer.migrate("0.9.0", NOW)
    assert newer.read("schema_version")["version"].tolist()[-1] == schema.SCHEMA_VERSION
    candles = newer.read("candles")
    assert len(candles) == 3 and candles["close"].tolist() == [0.1 * (i + 1) for i in range(3)]
    for name in ("theory_features", "llm_signals", "gated_signals", "outcomes", "llm_calls", "win_rates"):
        assert len(newer.read(name)) == 3, name
    assert newer.read("outages").empty
    again = open_store(kind.format(tmp_path).replace("old.", "again."))
    backup(newer, tmp_path / "b", **MARK)
    restore(again, tmp_path / "b", **MARK)
    same(content(again), content(newer))


def test_a_backup_of_an_earlier_version_is_migrated_when_it_is_restored(
    file_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(file_store)
    backup(file_store, tmp_path / "b", **MARK)
    later = schema.SCHEMA_VERSION + 1
    monkeypatch.setattr(schema, "SCHEMA_VERSION", later)
    monkeypatch.setattr(migrations, "STEPS", {later: ("UPDATE candles SET volume = 0",)})
    fresh = open_store(f"duckdb:{tmp_path / 'fresh.duckdb'}")
    restore(fresh, tmp_path / "b", **MARK)
    assert fresh.schema_version() == later and set(fresh.read("candles")["volume"]) == {0.0}


def test_exported_files_hold_the_rows_of_their_days(file_store: Store, tmp_path: Path) -> None:
    start = DAY + timedelta(hours=23, minutes=58)
    with file_store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 6, start=start))
    told: list[tuple[str, int, int]] = []
    written = export(
        file_store, ["candles", "scans"], tmp_path / "out", start=DAY, end=DAY + timedelta(days=1),
        on_progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert written == {tmp_path / "out" / "candles.parquet": 2, tmp_path / "out" / "scans.parquet": 0}
    assert told == [("candles", 2, 2), ("scans", 0, 0)]
    back = pd.read_parquet(tmp_path / "out" / "candles.parquet")
    assert back["open_time"].min() == pd.Timestamp(start) and str(back["open_time"].dt.tz) == "UTC"
    with pytest.raises(StoreError, match="exists already"):
        export(file_store, ["candles"], tmp_path / "out")
    export(file_store, ["candles"], tmp_path / "out", how="csv")
    text = pd.read_csv(tmp_path / "out" / "candles.csv")
    assert len(text) == 6 and datetime.fromisoformat(text["open_time"][0]).astimezone(UTC) >= DAY
    with pytest.raises(KeyError, match="no table 'nothing'"):
        export(file_store, ["nothing"], tmp_path / "out")
