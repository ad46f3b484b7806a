"""A market client over the candles of a store: what a scan at an instant could have fetched, and nothing later.

It answers as market/coinbase.py does, so that a scan cannot tell the two apart. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import pandas as pd

from v7_pipeline.market.clean import CANDLE_COLUMNS, clean
from v7_pipeline.market.coinbase import Fetched
from v7_pipeline.market.errors import MarketError
from v7_pipeline.scan.context import minute
from v7_pipeline.store import Store

__all__ = ["StoredMarket"]

MINUTE = timedelta(minutes=1)
# Read at once, so that the source is opened once a replayed day and not once a scan.
AHEAD = timedelta(days=1)

OnPage = Callable[[str, int, int], None]


class StoredMarket:
    """Candles of `source` as answers of a market; `venue` is what its rows are marked with.

    Rows read ahead are kept in memory and never handed out before they are closed at `now` less `lag`: how long it
    takes from a candle's close until it is published.
    """

    def __init__(self, source: Store, *, venue: str, lag: timedelta = timedelta(0)) -> None:
        self.venue = venue
        self._source, self._lag = source, lag
        self._span: tuple[datetime, datetime] | None = None
        self._symbols: frozenset[str] = frozenset()
        self._held: dict[str, pd.DataFrame] = {}

    def candles_of(
        self, ranges: Mapping[str, tuple[datetime, datetime]], *, now: datetime, on_page: OnPage | None = None
    ) -> dict[str, Fetched | MarketError]:
        """For each symbol its stored minutes start ≤ open_time < end that are closed at `now`: open_time + 1 min ≤ now.

        Checked as the client checks what it receives: a symbol whose rows are impossible has its MarketError as value.
        """
        if ranges:
            self._read(ranges)
        answers: dict[str, Fetched | MarketError] = {}
        for symbol, (start, end) in ranges.items():
            try:
                answers[symbol] = self._answer(symbol, start, end, now)
            except MarketError as error:
                answers[symbol] = error
            if on_page is not None:
                on_page(symbol, 1, 1)
        return answers

    def _answer(self, symbol: str, start: datetime, end: datetime, now: datetime) -> Fetched:
        rows = self._held[symbol]
        closed = min(end, minute(now - self._lag))  # open times are whole minutes
        first, stop = rows["open_time"].searchsorted([pd.Timestamp(start), pd.Timestamp(closed)])
        frame, repairs = clean(rows.iloc[first:stop], symbol=symbol, start=start, end=end, now=now)
        return Fetched(frame, repairs, 1)

    def _read(self, ranges: Mapping[str, tuple[datetime, datetime]]) -> None:
        lower, upper = min(start for start, _ in ranges.values()), max(end for _, end in ranges.values())
        if self._span and self._span[0] <= lower and upper <= self._span[1] and ranges.keys() <= self._symbols:
            return
        self._span, self._symbols = (lower, upper + AHEAD), frozenset(ranges)
        rows = self._source.read(
            "candles", start=lower, end=upper + AHEAD, symbols=tuple(ranges), columns=CANDLE_COLUMNS
        )
        self._held = {symbol: rows[rows["symbol"] == symbol].reset_index(drop=True) for symbol in ranges}
