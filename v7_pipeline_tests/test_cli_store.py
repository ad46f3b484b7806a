"""`v7 backup`, `v7 restore` and `v7 export` as a person meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from v7_pipeline.orchestration.up import hold_lock
from v7_pipeline.settings import load_settings
from v7_pipeline.store import open_store
from v7_pipeline_tests.store.conftest import NOW
from v7_pipeline_tests.store.rows import make_rows
from v7_pipeline_tests.test_cli import refused, v7


def failed(*arguments: str) -> str:
    """The one sentence of a command that went wrong."""
    said = v7(*arguments)
    assert said.code == 1 and len(said.err.splitlines()) == 1, said
    return said.err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose live store has six candles."""
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    store = open_store(f"duckdb:{tmp_path / 'live' / 'v7.duckdb'}")
    store.migrate("0.1.0", NOW)
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 6))
    store.close()
    return tmp_path


def test_a_backup_is_restored_where_nothing_is_and_elsewhere_only_when_told_to(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = v7("backup")
    assert said.code == 0, said.err
    (folder,) = (home / "live" / "backups").iterdir()
    assert "candles 6/6" in said.out and f"in {folder}" in " ".join(said.out.split())
    assert "holds data already; nothing was restored" in failed("restore", str(folder))
    assert v7("restore", str(folder), "--replace").code == 0
    monkeypatch.setenv("V7_STORE", f"ducklake:sqlite:{home / 'lake.sqlite'}")
    assert v7("restore", str(folder)).code == 0
    lake = open_store(f"ducklake:sqlite:{home / 'lake.sqlite'}")
    assert len(lake.read("candles")) == 6
    lake.close()


def test_nothing_is_restored_while_v7_runs_on_the_same_folder(home: Path) -> None:
    assert v7("backup", "--output", str(home / "b")).code == 0
    lock = hold_lock(load_settings())
    try:
        assert "already running" in failed("restore", str(home / "b"), "--replace")
    finally:
        lock.release()


def test_what_is_no_backup_is_refused(home: Path) -> None:
    assert "is no backup of V7" in failed("restore", str(home))


def test_tables_are_exported_with_progress(home: Path) -> None:
    said = v7("export", "candles", "--format", "csv", "--to", "2023-12-11", "--output", str(home / "out"))
    assert said.code == 0 and "candles 6/6" in said.out, said.err
    assert len((home / "out" / "candles.csv").read_text().splitlines()) == 7
    assert "there is no table 'candle'; the store has candles" in refused("export", "candle")
    assert "swap them" in refused("export", "--from", "2023-12-12", "--to", "2023-12-11")
    assert "is no day" in refused("export", "--from", "monday")
