"""What a simulation reads, gathered once for all of its variants: candles, readings and prices at every scan.

Arrays only; who decides and what is accepted is engine.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.analyst.rules import READING_COLUMNS
from v7_pipeline.backtest.replay import EVERY, instants_of, venue_of
from v7_pipeline.gates.ftmo import PricePath
from v7_pipeline.scan.candles import HISTORY
from v7_pipeline.scan.features import computed, known
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store
from v7_pipeline.strategies.walk_forward import price_steps
from v7_pipeline.theories import bayesian_win_rate

__all__ = ["READINGS_STAGE", "STATES", "Prepared", "prepare"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

READINGS_STAGE = "readings"
MINUTE = timedelta(minutes=1)
#: How far back a scan looks for a symbol's newest price and reading, minutes.
NEAR: Final = 240
DAY: Final = 1440
STATES = ("p_bull", "p_sideways", "p_bear")
#: Columns of theory_features that decisions and their explanation need and that know nothing of outcomes.
STORED = tuple(name for name in READING_COLUMNS if not name.startswith(bayesian_win_rate.NAME)) + STATES
# Readings of three symbols for eight weeks: a gigabyte of columns at most, of which a tenth is kept.
_PIECE = timedelta(days=56)
_CANDLES = ("symbol", "open_time", "open", "high", "low", "close", "volume")
_VERSIONS = """
SELECT min(code_version) AS oldest, max(code_version) AS newest FROM theory_features
WHERE as_of >= ? AND as_of < ? AND symbol IN (SELECT unnest(?::VARCHAR[]))
"""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """Everything that is known at each scan, whoever decides.

    `scans`: epoch minutes of the scans, S of them, `every` minutes apart. `symbols`: K names in order. Arrays of S × K
    rows have the symbols of one scan beside each other. `candles`: symbol, open_time, open, high, low, close, ordered;
    `minutes`: the open_time of each as an epoch minute. `features`: the epoch minute of the newest reading at each scan
    and symbol, −1 where there is none; `price` and `increment` in USD, NaN without a candle in the four hours before.
    `readings`: STORED columns of that reading. `lag`: minutes after its close in which no scan sees a candle yet.
    """

    scans: Ints
    every: int
    symbols: tuple[str, ...]
    venue: str
    candles: pd.DataFrame
    minutes: Ints
    bounds: dict[str, tuple[int, int]]
    features: Ints
    price: Floats
    increment: Floats
    readings: pd.DataFrame
    lag: int = 0

    @property
    def rows(self) -> int:
        return len(self.scans) * len(self.symbols)

    @cached_property
    def scan_of(self) -> Ints:
        """Each row's scan as an epoch minute."""
        return np.repeat(self.scans, len(self.symbols))

    @cached_property
    def instants(self) -> pd.DatetimeIndex:
        return pd.DatetimeIndex((self.scans * 60_000_000).astype("datetime64[us]")).tz_localize("UTC")

    @property
    def known_to(self) -> datetime:
        """Until when the last scan knows candles."""
        last: datetime = self.instants[-1].to_pydatetime()
        return last - self.lag * MINUTE

    @cached_property
    def paths(self) -> dict[str, PricePath]:
        """Each symbol's candles as the account engine takes them."""
        return {
            symbol: PricePath(
                self.minutes[begin:end] * 60_000_000,
                *(self.candles[name].to_numpy(np.float64)[begin:end] for name in ("high", "low", "close")),
            )
            for symbol, (begin, end) in self.bounds.items()
        }

    @cached_property
    def _dense(self) -> tuple[int, dict[str, Floats]]:
        """The first minute, and each symbol's close of every minute from there on, NaN where it did not trade."""
        first, last = (int(self.minutes.min()), int(self.minutes.max())) if len(self.minutes) else (0, -1)
        dense = {}
        for symbol, (begin, end) in self.bounds.items():
            dense[symbol] = np.full(last - first + 1, np.nan)
            dense[symbol][self.minutes[begin:end] - first] = self.candles["close"].to_numpy()[begin:end]
        return first, dense

    def closes_before(self, scan: int, symbols: Sequence[str]) -> dict[str, Floats]:
        """The last close of each of the 288 five-minute steps before epoch minute `scan`, NaN without a trade."""
        first, dense = self._dense
        begin = scan - DAY - first
        found = {}
        for symbol in symbols:
            window = np.full(DAY, np.nan)
            part = dense[symbol][max(begin, 0) : begin + DAY]
            window[max(-begin, 0) : max(-begin, 0) + len(part)] = part
            window[DAY - self.lag :] = np.nan
            steps = window.reshape(-1, 5)
            last = steps[:, 4].copy()
            for place in (3, 2, 1, 0):
                np.copyto(last, steps[:, place], where=np.isnan(last))
            found[symbol] = last
        return found


def prepare(
    source: Store,
    settings: Settings,
    *,
    start: datetime,
    end: datetime,
    every: timedelta = EVERY,
    on_progress: OnProgress | None = None,
) -> Prepared:
    """Gather what scans of `settings.symbols` at start, start + every, … before `end` know; `source` is only read.

    Readings are taken from the store where it holds them all, made by this version of the code, else computed from
    candles. BacktestError for a span without scans, and for a symbol without candles.
    """
    instants = instants_of(start, end, every)
    venue = venue_of(source, settings.symbols, instants[0], instants[-1])
    index = pd.DatetimeIndex(instants)
    scans = index.as_unit("s").asi8 // 60
    symbols = tuple(sorted(settings.symbols))
    candles = _candles(source, symbols, instants[0], instants[-1])
    minutes = candles["open_time"].astype("datetime64[us, UTC]").astype("int64").to_numpy() // 60_000_000
    names = candles["symbol"].to_numpy(object)
    bounds = {symbol: _bounds(names, symbol) for symbol in symbols}
    lag = settings.backtest_lag_min
    newest = np.stack([_newest(minutes, *bounds[symbol], scans, lag) for symbol in symbols], axis=1).ravel()
    known_ = newest >= 0
    features = np.where(known_, minutes[newest] + 1, -1) if len(minutes) else np.full(len(newest), -1)
    close = candles["close"].to_numpy(np.float64)
    steps = [price_steps(candles.iloc[slice(*bounds[symbol])], index, lag_minutes=lag) for symbol in symbols]
    increment = np.stack(steps, axis=1).ravel()
    return Prepared(
        scans=scans,
        every=every // MINUTE,
        symbols=symbols,
        venue=venue,
        candles=candles,
        minutes=minutes,
        bounds=bounds,
        features=features,
        price=np.where(known_, close[newest], np.nan) if len(close) else np.full(len(newest), np.nan),
        increment=np.where(known_, increment, np.nan),
        readings=_readings(source, settings, symbols, features, on_progress),
        lag=lag,
    )


def _candles(source: Store, symbols: tuple[str, ...], first: datetime, last: datetime) -> pd.DataFrame:
    """The candles before the last scan, with the history that the first one needs."""
    return source.read(  # by symbol and time: the key's order
        "candles",
        start=first - MINUTE - HISTORY,
        end=last,
        symbols=symbols,
        columns=("symbol", "open_time", "open", "high", "low", "close"),
    )


def _bounds(names: npt.NDArray[np.object_], symbol: str) -> tuple[int, int]:
    own = np.flatnonzero(names == symbol)
    return (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)


def _newest(minutes: Ints, begin: int, end: int, scans: Ints, lag: int) -> Ints:
    """The place of the newest candle that each scan sees and that began in the four hours before; −1: none."""
    own = minutes[begin:end]
    place = np.searchsorted(own, scans - lag) - 1
    near = (place >= 0) & (own[place] >= scans - NEAR) if len(own) else np.zeros(len(scans), dtype=bool)
    return np.where(near, place + begin, -1)


# --- readings -------------------------------------------------------------------------------


def _readings(
    source: Store, settings: Settings, symbols: tuple[str, ...], features: Ints, on_progress: OnProgress | None
) -> pd.DataFrame:
    """STORED columns of the readings at `features` (rows of scans × symbols), NaN where there is none."""
    block = np.full((len(STORED), len(features)), np.nan)
    wanted = features[features >= 0]
    if len(wanted):
        first, last = _instant(int(wanted.min())), _instant(int(wanted.max())) + MINUTE
        pieces = [
            (at, min(at + _PIECE, last))
            for at in pd.date_range(first, last, freq=_PIECE, inclusive="left").to_pydatetime()
        ]
        for done, (lower, upper) in enumerate(pieces, 1):
            rows = _stored(source, symbols, features, lower, upper)
            if rows is None:
                # The win rate is left out: its posterior is of another run.
                given = known(source, symbols, lower, upper, source="")
                rows = computed(given, lower, settings=settings)[["symbol", "as_of", *STORED]]
            _place(block, rows, symbols, features)
            if on_progress:
                on_progress(READINGS_STAGE, done, len(pieces))
    for column in block:  # seven digits, as the store keeps a reading: what a live scan reads
        column[:] = column.astype(np.float32)
    return pd.DataFrame(block.T, columns=list(STORED), copy=False)


def _stored(
    source: Store, symbols: tuple[str, ...], features: Ints, lower: datetime, upper: datetime
) -> pd.DataFrame | None:
    """The stored readings of [lower, upper), None where one that is wanted is missing or of other code."""
    found = source.query(_VERSIONS, (lower, upper, list(symbols))).iloc[0]
    if not found["oldest"] == found["newest"] == __version__:
        return None
    rows = source.read("theory_features", start=lower, end=upper, symbols=symbols, columns=("symbol", "as_of", *STORED))
    begin, end = int(lower.timestamp()) // 60, int(upper.timestamp()) // 60
    minutes = rows["as_of"].astype("datetime64[us, UTC]").astype("int64").to_numpy() // 60_000_000
    names = rows["symbol"].to_numpy(object)
    by_symbol = features.reshape(-1, len(symbols)).T
    for symbol, own in zip(symbols, by_symbol, strict=True):
        wanted = own[(own >= begin) & (own < end)]
        if not np.isin(wanted, minutes[names == symbol]).all():
            return None
    return rows


def _place(block: Floats, rows: pd.DataFrame, symbols: tuple[str, ...], features: Ints) -> None:
    """Put each row's columns where a scan wants its reading."""
    minutes = rows["as_of"].astype("datetime64[us, UTC]").astype("int64").to_numpy() // 60_000_000
    names = rows["symbol"].to_numpy(object)
    columns = [rows[name].to_numpy(np.float64, na_value=np.nan) for name in STORED]
    for k, symbol in enumerate(symbols):
        own = np.flatnonzero(names == symbol)
        own = own[np.argsort(minutes[own], kind="stable")]
        wanted = features[k :: len(symbols)]
        place = np.searchsorted(minutes[own], wanted)
        there = (wanted >= 0) & (place < len(own))
        there[there] &= minutes[own[place[there]]] == wanted[there]
        at = np.flatnonzero(there) * len(symbols) + k
        for column, values in zip(block, columns, strict=True):
            column[at] = values[own[place[there]]]


def _instant(minute: int) -> datetime:
    return pd.Timestamp(minute * 60, unit="s", tz="UTC").to_pydatetime()
