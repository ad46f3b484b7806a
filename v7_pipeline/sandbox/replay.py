"""Recorded candles as a source of prices: files as a client stored them, with repeats, disorder and a forming last row.

One file a product, parquet or csv. What is recorded is served at the times it was recorded at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.sandbox.source import Bars

__all__ = ["Replay", "ReplayError", "read_recording", "symbol_of"]

_TIME_NAMES = ("open_time", "ts", "time", "timestamp", "start")
_VALUES = Bars._fields[1:]
_NAME = re.compile(r"([A-Za-z0-9]+-[A-Za-z]+)(?:[_.].*)?")


class ReplayError(ValueError):
    """A recording cannot be served; the message says which, why and how to mend it."""


class Replay:
    """Recorded products as a Source. Make one with `Replay.from_files`."""

    def __init__(self, recordings: Mapping[str, pd.DataFrame]) -> None:
        if not recordings:
            raise ReplayError("nothing to replay: give at least one file, such as BTC-USD_1m.parquet")
        self._bars = {symbol: _bars(frame) for symbol, frame in recordings.items()}
        self._decimals = {symbol: _decimals(frame["close"]) for symbol, frame in recordings.items()}

    @classmethod
    def from_files(cls, files: Mapping[str, Path | str] | Iterable[Path | str]) -> Replay:
        """Read files, by symbol or with the symbol at the front of their names (BTC-USD_1m.parquet).

        ReplayError where a file is missing, unreadable, without the columns, empty, or a second one of its product.
        """
        pairs = files.items() if isinstance(files, Mapping) else [(symbol_of(path), path) for path in files]
        recordings: dict[str, pd.DataFrame] = {}
        for symbol, path in pairs:
            if symbol in recordings:
                raise ReplayError(f"{path}: a second recording of {symbol}; give one file a product")
            recordings[symbol] = read_recording(path)
        return cls(recordings)

    def symbols(self) -> tuple[str, ...]:
        """The recorded products."""
        return tuple(self._bars)

    def knows(self, symbol: str) -> bool:
        """Whether `symbol` was recorded."""
        return symbol in self._bars

    def decimals(self, symbol: str) -> int:
        """Decimals of the recorded closes."""
        return self._decimals[symbol]

    def bars(self, symbol: str, first: int, end: int) -> Bars:
        """Recorded minutes first ≤ time < end (unix seconds)."""
        return self._bars[symbol].between(first, end)

    def newest(self, symbol: str) -> int | None:
        """Opening of the recording's last minute."""
        return int(self._bars[symbol].time[-1])

    def describe(self) -> dict[str, object]:
        """Kind, and each recording's span."""
        return {
            "prices": "replayed",
            "recordings": {
                symbol: {
                    "first": datetime.fromtimestamp(int(bars.time[0]), UTC).isoformat(),
                    "last": datetime.fromtimestamp(int(bars.time[-1]), UTC).isoformat(),
                    "minutes": len(bars.time),
                }
                for symbol, bars in self._bars.items()
            },
        }


def symbol_of(path: Path | str) -> str:
    """The product at the front of a file's name: BTC-USD of BTC-USD_1m.parquet."""
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise ReplayError(
            f"{path}: the name does not begin with a product; rename it to something like BTC-USD_1m.parquet"
        )
    return match[1].upper()


def read_recording(path: Path | str) -> pd.DataFrame:
    """One row a minute out of a recording: open_time, open, high, low, close, volume; ascending.

    A minute recorded more than once keeps the row with the greatest volume: a candle only grows while it forms, so
    that one was seen last. The newest minute is left out, since nothing in the file shows that it had closed. Times
    without a zone are UTC (exchanges write no other); numbers are unix seconds.
    """
    raw = _read(Path(path))
    name = next((candidate for candidate in _TIME_NAMES if candidate in raw.columns), None)
    missing = [column for column in _VALUES if column not in raw.columns]
    if name is None or missing:
        wanted = ", ".join([*([] if name else ["a time (ts, time or open_time)"]), *missing])
        raise ReplayError(f"{path}: no column {wanted}; it needs a time, {', '.join(_VALUES)}")
    try:
        frame = raw[list(_VALUES)].astype("float64")
        frame.insert(0, "open_time", _instants(raw[name]))
    except (ValueError, TypeError) as error:
        raise ReplayError(f"{path}: a value is no number or time: {error}") from None
    if not np.isfinite(frame[list(_VALUES)].to_numpy()).all() or frame["open_time"].isna().any():
        raise ReplayError(f"{path}: a value is missing or not finite; leave out minutes that are not known")
    frame["open_time"] = frame["open_time"].dt.floor("min")
    frame = frame.sort_values(["open_time", "volume"], kind="stable").drop_duplicates("open_time", keep="last")
    if len(frame) < 2:
        raise ReplayError(f"{path}: fewer than two minutes; the newest is taken as still forming and not served")
    return frame.iloc[:-1].reset_index(drop=True)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ReplayError(f"{path}: there is no such file; give a parquet or csv file of one-minute candles")
    kind = path.suffix.lower()
    if kind not in (".parquet", ".csv"):
        raise ReplayError(f"{path}: a recording is a .parquet or .csv file")
    try:
        return pd.read_parquet(path) if kind == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:  # pyarrow's and the csv parser's errors are ValueErrors
        raise ReplayError(f"{path}: not readable as {kind[1:]}: {error}") from None


def _bars(frame: pd.DataFrame) -> Bars:
    seconds = frame["open_time"].dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    return Bars(seconds, *(frame[name].to_numpy() for name in _VALUES))


def _decimals(prices: pd.Series) -> int:
    """Fewest decimals (0 … 8) that write every price exactly."""
    values = prices.to_numpy(dtype=float)
    return next((n for n in range(8) if np.array_equal(np.round(values, n), values)), 8)


def _instants(values: Any) -> Any:
    if pd.api.types.is_numeric_dtype(values):
        times = pd.to_datetime(values, unit="s", utc=True)
    else:
        times = pd.to_datetime(values, utc=True)
    return times.dt.as_unit("us")
