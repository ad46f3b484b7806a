"""Recordings: one row a minute, whatever the file repeats, shuffles or left unfinished."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from v7_pipeline.sandbox.replay import Replay, ReplayError, read_recording, symbol_of
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline_tests.sandbox.conftest import Client
from v7_pipeline_tests.shared_data import needs_shared


def row(time: object, close: float, volume: float = 1.0) -> dict[str, object]:
    return {"time": time, "low": close - 1, "high": close + 1, "open": close, "close": close, "volume": volume}


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_repeats_disorder_and_the_forming_last_row_are_dealt_with(tmp_path: Path) -> None:
    path = write(
        tmp_path / "BTC-USD_1m.csv",
        [
            row("2024-01-01 00:03:00", 13.0, 0.1),
            row("2024-01-01 00:01:00", 11.5, 4.0),
            row("2024-01-01 00:02:00", 12.0),
            row("2024-01-01 00:01:00", 11.0, 2.0),  # the same minute when it was still forming
            row("2024-01-01 00:02:00", 12.0),
            row("2024-01-01 00:00:00", 10.0),
        ],
    )
    frame = read_recording(path)
    assert frame["close"].tolist() == [10.0, 11.5, 12.0]
    assert frame["open_time"].tolist() == [pd.Timestamp(f"2024-01-01T00:0{m}Z") for m in range(3)]
    assert str(frame["open_time"].dtype) == "datetime64[us, UTC]"


@pytest.mark.parametrize("times", [[1704067200, 1704067260], ["2024-01-01T00:00:00Z", "2024-01-01T00:01:00Z"]])
def test_unix_seconds_and_iso_times_are_read_alike(tmp_path: Path, times: list[object]) -> None:
    frame = read_recording(write(tmp_path / "x.csv", [row(t, 10.0) for t in times]))
    assert frame["open_time"].tolist() == [pd.Timestamp("2024-01-01T00:00Z")]


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("a.csv", [{"time": 1, "open": 1.0}], "no column high, low, close, volume"),
        ("a.csv", [{"when": 1, **dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)}], "a time"),
        ("a.csv", [row("yesterday", 1.0), row("today", 1.0)], "no number or time"),
        ("a.csv", [row("2024-01-01", float("nan")), row("2024-01-02", 1.0)], "missing or not finite"),
        ("a.csv", [row("2024-01-01", 1.0)], "fewer than two minutes"),
        ("a.txt", [row("2024-01-01", 1.0)], "is a .parquet or .csv file"),
    ],
)
def test_an_unusable_file_is_refused_in_one_sentence_with_its_name(
    tmp_path: Path, name: str, rows: list[dict[str, object]], said: str
) -> None:
    path = write(tmp_path / name, rows)
    with pytest.raises(ReplayError, match=said) as error:
        read_recording(path)
    assert name in str(error.value)


def test_a_parquet_file_that_is_none_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "BTC-USD.parquet").write_bytes(b"no parquet")
    with pytest.raises(ReplayError, match="not readable as parquet"):
        Replay.from_files([tmp_path / "BTC-USD.parquet"])
    with pytest.raises(ReplayError, match="no such file"):
        Replay.from_files([tmp_path / "ETH-USD.parquet"])


def test_the_product_comes_from_the_files_name_once(tmp_path: Path) -> None:
    assert (
        symbol_of("/x/BTC-USD_1m.parquet")
        == symbol_of("btc-usd.csv")
        == symbol_of("BTC-USD_1m_earlier_pull.csv")
        == "BTC-USD"
    )
    with pytest.raises(ReplayError, match="rename it"):
        symbol_of("candles.parquet")
    paths = [write(tmp_path / f"BTC-USD_{n}.csv", [row(60, 1.0), row(120, 1.0)]) for n in "ab"]
    with pytest.raises(ReplayError, match="second recording of BTC-USD"):
        Replay.from_files(paths)
    with pytest.raises(ReplayError, match="nothing to replay"):
        Replay.from_files([])


def test_recorded_coinbase_candles_are_served_one_row_a_minute() -> None:
    files = {s: needs_shared(f"candles/{s}_1m.parquet") for s in ("BTC-USD", "ETH-USD", "SOL-USD")}
    raw = pd.read_parquet(files["BTC-USD"])
    replay = Replay.from_files(files.values())
    with SandboxServer(replay=replay) as server:
        client = Client(server)
        assert client.get("/health").json()["recordings"]["BTC-USD"]["minutes"] == raw["ts"].nunique() - 1
        start = int(datetime(2023, 12, 11, 2, tzinfo=UTC).timestamp())
        rows = [r for r in client.candles(start, start + 299 * 60).json() if r[0] >= start]
        assert [r[0] for r in rows] == [start + 60 * m for m in reversed(range(300))]
        crash = raw[raw["ts"] == pd.Timestamp("2023-12-11T02:12Z")].iloc[0]
        served = next(r for r in rows if r[0] == start + 12 * 60)
        assert served[1:] == [crash["low"], crash["high"], crash["open"], crash["close"], crash["volume"]]
        newest = int(raw["ts"].max().timestamp())
        assert client.candles(newest, newest + 60).json() in ([], client.candles(newest - 60, newest - 60).json()[:1])
        assert client.candles(start, start + 60, symbol="DOGE-USD").status_code == 404
        assert client.get("/products/SOL-USD").json()["quote_increment"] == "0.01"


def test_a_minute_recorded_while_forming_is_served_as_it_closed() -> None:
    """BTC-USD 2024-01-02 13:20 was recorded twice: 51.6 BTC while it formed, 65.3 BTC when it had closed."""
    path = needs_shared("candles/BTC-USD_1m.parquet")
    replay = Replay.from_files([path])
    at = int(datetime(2024, 1, 2, 13, 20, tzinfo=UTC).timestamp())
    assert replay.bars("BTC-USD", at, at + 60).volume.tolist() == [65.29168626]


def test_with_a_clock_in_the_past_the_rest_of_the_recording_is_still_the_future(tmp_path: Path) -> None:
    first = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    path = write(tmp_path / "BTC-USD.csv", [row(first + 60 * m, 100.0 + m) for m in range(60)])
    now = datetime(2024, 1, 1, 0, 30, 30, tzinfo=UTC)
    with SandboxServer(replay=Replay.from_files([path]), clock=lambda: now) as server:
        rows = Client(server).candles(first, first + 59 * 60).json()
    assert rows[0][0] == first + 30 * 60 and rows[0][5] == 0.5  # half of the forming minute
    assert rows[1][1:] == [128.0, 130.0, 129.0, 129.0, 1.0]
