"""Stored readings made again from the store: of the past alone, of a whole day at once, and of mirrored prices.

Only reads and compares; what a difference means for a run is the checks' business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from v7_pipeline import __version__
from v7_pipeline.scan.account import read_account
from v7_pipeline.scan.candles import HISTORY, MINUTE
from v7_pipeline.scan.features import readings
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, conform
from v7_pipeline.store.schema import THEORY_NAMES, table
from v7_pipeline.theories import compute_features

__all__ = [
    "asymmetric_votes",
    "differences",
    "history_of",
    "look_ahead",
    "parity",
    "replayed_accounts",
    "stored_readings",
]

_KEY = ["symbol", "as_of"]
_COMPARED = table("theory_features").compared
# A vote begins where a percentile passes one of these distances from the middle; beside it either side is right.
_EDGES, _NEAR = (0.5, 0.92), 1e-5


def stored_readings(store: Store, start: datetime, end: datetime) -> pd.DataFrame:
    """The stored readings with start ≤ as_of < end that this version of the code wrote."""
    rows = store.read("theory_features", start=start, end=end)
    return rows[rows["code_version"] == __version__].reset_index(drop=True)


def look_ahead(
    store: Store, settings: Settings, stored: pd.DataFrame, *, source: str, samples: int, seed: int
) -> tuple[pd.DataFrame, int]:
    """`differences` of random stored readings from those made of candles closed by their instant, and of how many.

    Each instant is made by itself: nothing later is read, so a reading that knew its future cannot come out the same.
    """
    instants = pd.DatetimeIndex(stored["as_of"].unique()).sort_values()
    places = np.random.default_rng(seed).choice(len(instants), min(samples, len(instants)), replace=False)
    chosen = instants[np.sort(places)]
    found = []
    for at in chosen:
        instant = at.to_pydatetime()
        traded = store.read("candles", start=instant - MINUTE, end=instant, columns=("symbol",))["symbol"]
        # A minute without a candle is known to have been quiet, and has a reading, only once the next candle has come.
        rows = stored[(stored["as_of"] == at) & stored["symbol"].isin(traded)]
        if rows.empty:
            continue
        symbols = tuple(rows["symbol"])
        again = readings(store, symbols, instant, instant + MINUTE, settings=settings, source=source)
        found.append(differences(rows, again))
    found = [each for each in found if len(each)]
    return (pd.concat(found, ignore_index=True) if found else _none()), len(chosen)


def parity(
    store: Store, settings: Settings, stored: pd.DataFrame, start: datetime, end: datetime, *, source: str
) -> pd.DataFrame:
    """`differences` of the stored readings of [start, end) from what a backfill of these hours would write now."""
    if stored.empty:
        return _none()
    symbols = tuple(sorted(stored["symbol"].unique()))
    again = readings(store, symbols, start, end, settings=settings, source=source)
    # Minutes that nobody scanned have no reading until a backfill; they are missing candles' business.
    return differences(stored, again.merge(stored[_KEY], on=_KEY))


def differences(stored: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """Where two sets of readings are not the same bits: symbol, as_of, column, stored, again; a row that is not made
    again is one difference, of column "(row)".
    """
    one = stored.set_index(_KEY)[list(_COMPARED)].sort_index()
    other = _as_stored(again).set_index(_KEY)[list(_COMPARED)].sort_index()
    gone = one.index.difference(other.index)
    lost = gone.to_frame(index=False).assign(column="(row)", stored=np.nan, again=np.nan)
    one = one.drop(index=gone)
    a, b = one.to_numpy(np.float64), other.reindex(one.index).to_numpy(np.float64)
    row, column = np.nonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))
    moved = one.index[row].to_frame(index=False)
    moved = moved.assign(column=np.array(_COMPARED, object)[column], stored=a[row, column], again=b[row, column])
    parts = [part for part in (lost, moved) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else _none()


def asymmetric_votes(candles: pd.DataFrame, settings: Settings, since: datetime) -> tuple[pd.DataFrame, int]:
    """Readings from `since` on whose vote on mirrored prices (c²/price) is not the opposite, and how many were made.

    `candles` hold the history that they need. Columns: symbol, as_of, theory, vote, mirrored. The win rate is not of
    prices and is left out, as is a reading within rounding of the edge at which a vote begins.
    """
    straight = candles[["symbol", "open_time", "open", "high", "low", "close", "volume"]]
    first = straight.groupby("symbol")["close"].transform("first") ** 2
    turned = straight.assign(
        open=first / straight["open"], close=first / straight["close"], high=first / straight["low"],
        low=first / straight["high"],
    )  # fmt: skip
    a, b = (
        compute_features(
            frame, gap_minutes=settings.gap_minutes, since=since, min_observed_share=settings.min_observed_share
        )
        for frame in (straight, turned)
    )
    trend = np.abs(2 * a["price_momentum_percentile"] - 1)
    found = []
    for theory in THEORY_NAMES:
        if theory == "bayesian_win_rate":
            continue
        lean = np.abs(2 * a[f"{theory}_percentile"] - 1)
        edge = sum((np.abs(size - at) < _NEAR for size in (lean, trend) for at in _EDGES), start=np.False_)
        odd = (np.abs(a[f"{theory}_vote"] + b[f"{theory}_vote"]) > _NEAR) & ~edge
        votes = {"vote": a.loc[odd, f"{theory}_vote"], "mirrored": b.loc[odd, f"{theory}_vote"]}
        found.append(a.loc[odd, _KEY].assign(theory=theory, **votes))
    return pd.concat(found, ignore_index=True), len(a)


def replayed_accounts(
    store: Store, settings: Settings, start: datetime, end: datetime, *, source: str, most: int = 24
) -> tuple[pd.DataFrame, int]:
    """Decisions of [start, end) whose gate saw another account than its trades give when replayed from the first one.

    At most `most` instants, spread over the hours. Columns: as_of, figure, stored, again (USD); and of how many.
    """
    found, asked = [], 0
    with store.reading() as reader:
        rows = reader.rows(_SEEN, (start, end, source, settings.strategies[0]))
        places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)).tolist()
        for row in (rows[place] for place in places):
            seen = json.loads(row["gate_inputs"])["ftmo"]
            state = read_account(settings, reader, row["as_of"], source, whole=True).state
            asked += 1
            again = {"equity": state.equity, "daily_limit": state.daily_limit, "total_limit": state.total_limit}
            for name, value in again.items():
                if seen.get(name) is None or abs(seen[name] - value) > 0.005:
                    found.append((row["as_of"], name, seen.get(name), value))
    return pd.DataFrame(found, columns=["as_of", "figure", "stored", "again"]), asked


_SEEN = """
SELECT as_of, any_value(gate_inputs) AS gate_inputs FROM gated_signals
WHERE as_of >= ? AND as_of < ? AND source = ? AND strategy = ? AND ftmo_ok IS NOT NULL AND gate_inputs LIKE '%"equity"%'
GROUP BY as_of ORDER BY as_of
"""


def history_of(store: Store, start: datetime, end: datetime, symbols: Sequence[str]) -> pd.DataFrame:
    """The candles behind the readings with start ≤ as_of < end."""
    return store.read("candles", start=start - HISTORY - timedelta(minutes=1), end=end - MINUTE, symbols=tuple(symbols))


def _as_stored(frame: pd.DataFrame) -> pd.DataFrame:
    """Readings in the store's precision."""
    marks = {"source": "", "run_id": "", "code_version": ""}
    return conform("theory_features", frame, marks)


def _none() -> pd.DataFrame:
    return pd.DataFrame(columns=["symbol", "as_of", "column", "stored", "again"])
