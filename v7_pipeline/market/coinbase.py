"""Coinbase's public candles, products and order books, over the Exchange or the Advanced Trade API.

Which minutes are asked and how pages become one clean frame; HTTP is transport's, formats are wire's business.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.market.clean import PRICES, clean
from v7_pipeline.market.errors import MarketError
from v7_pipeline.market.minutes import MINUTE_US, SECOND_US, ceil_minute, micros, to_index
from v7_pipeline.market.transport import Answer, Limiter, Transport, process_limiter
from v7_pipeline.market.wire import WIRES, Api, OrderBook, Product

__all__ = ["PAGE_ROWS", "CoinbaseClient", "Fetched", "MarketError", "OrderBook", "Product"]

PAGE_ROWS = 300
_MINUTE_S = 60

OnPage = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fetched:
    """One symbol's closed candles (clean.CANDLE_COLUMNS, ascending, unique), what was repaired in rows, and the pages.

    Besides clean's repairs, `asked_again` counts pages that were empty at first and were asked a second time.
    """

    frame: pd.DataFrame
    repairs: Mapping[str, int]
    pages: int


class _Page(NamedTuple):
    """Open times of a page's first and last minute, both wanted, in seconds since 1970."""

    first: int
    last: int


class _Rows(NamedTuple):
    table: npt.NDArray[np.float64]  # time, open, high, low, close, volume; all inside the page
    outside: npt.NDArray[np.float64]  # times of the rows that were not asked for
    asked_again: int


class CoinbaseClient:
    """A client of one API at `base_url`; it needs no key, and all its methods may be called from many threads.

    `timeout_s` bounds one attempt, `retries` the attempts after the first, `rate_per_s` the requests in any second of
    the whole process to this host, `workers` the pages in flight. `venue` marks the candles; by default it is the
    API's name. `limiter` and `sleep` are for tests.
    """

    def __init__(
        self,
        *,
        api: Api = "exchange",
        base_url: str,
        timeout_s: float = 10.0,
        retries: int = 4,
        rate_per_s: int = 10,
        workers: int = 6,
        venue: str | None = None,
        limiter: Limiter | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.venue = venue or f"coinbase-{api}"
        self._wire = WIRES[api]
        self._workers = workers
        self._transport = Transport(
            base_url,
            name="Coinbase" if venue is None else f"the market ({venue})",
            url_setting=self._wire.url_setting,
            timeout_s=timeout_s,
            retries=retries,
            limiter=limiter or process_limiter(base_url, rate_per_s),
            sleep=sleep,
            connections=workers,
        )

    def candles(self, symbol: str, start: datetime, end: datetime, *, now: datetime) -> Fetched:
        """`candles_of` for one symbol; raises its MarketError."""
        answer = self.candles_of({symbol: (start, end)}, now=now)[symbol]
        if isinstance(answer, MarketError):
            raise answer
        return answer

    def candles_of(
        self, ranges: Mapping[str, tuple[datetime, datetime]], *, now: datetime, on_page: OnPage | None = None
    ) -> dict[str, Fetched | MarketError]:
        """For each symbol its minutes start ≤ open_time < end that are closed at `now` (open_time + 1 min ≤ now).

        All pages of all symbols are fetched concurrently. A symbol that fails has its MarketError as value and does
        not touch the others. `on_page(symbol, pages done, pages in all)` is called from the caller's thread.

        Each page is believed for its own minutes only, so pages never contradict each other; a page that is empty is
        asked once more before it is believed. Minutes without a trade are simply absent.
        Raises ValueError for naive times or a start after its end.
        """
        closed = micros(now, "now") // MINUTE_US * MINUTE_US
        plans = {symbol: _pages(symbol, *span, closed) for symbol, span in ranges.items()}
        rows: dict[str, dict[_Page, _Rows]] = {symbol: {} for symbol in plans}
        failures: dict[str, MarketError] = {}

        def fetch(symbol: str, page: _Page) -> _Rows | None:
            return None if symbol in failures else self._page(symbol, page)

        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="market")
        try:
            # Page by page over the symbols, so that a long range does not keep a short one waiting.
            longest = max(map(len, plans.values()), default=0)
            futures = {
                pool.submit(fetch, symbol, pages[i]): (symbol, pages[i])
                for i in range(longest)
                for symbol, pages in plans.items()
                if i < len(pages)
            }
            for future in as_completed(futures):
                symbol, page = futures[future]
                try:
                    got = future.result()
                except MarketError as error:
                    failures.setdefault(symbol, error)
                    continue
                if got is not None:
                    rows[symbol][page] = got
                    if on_page is not None:
                        on_page(symbol, len(rows[symbol]), len(plans[symbol]))
        finally:
            pool.shutdown(cancel_futures=True)  # on Ctrl-C or a bug, what has not begun never begins

        return {
            symbol: failures.get(symbol)
            or _fetched(symbol, [rows[symbol][page] for page in pages], ranges[symbol], now)
            for symbol, pages in plans.items()
        }

    def product(self, symbol: str) -> Product:
        """The steps of `symbol`'s prices and sizes."""
        path = self._wire.product_path(symbol)
        return self._transport.get(path, {}, subject=symbol, read=self._wire.read_product)

    def order_book(self, symbol: str, depth: int = 50, *, retries: int | None = None) -> OrderBook:
        """At most the best `depth` price levels of each side; `retries` where fewer are wanted than the client's."""
        path, params = self._wire.book_request(symbol, depth)

        def read(answer: Answer) -> OrderBook:
            return self._wire.read_book(symbol, json.loads(answer.body), depth)

        return self._transport.ask(path, params, subject=symbol, read=read, retries=retries)

    def server_time(self) -> datetime:
        """The market's clock: its time endpoint, or the Date header (whole seconds) of an answer without one.

        It is asked twice at most: who asks wants to know whether the market can be reached now.
        """

        def read(answer: Answer) -> datetime:
            try:
                return datetime.fromtimestamp(self._wire.read_time(json.loads(answer.body)), UTC)
            except ValueError:
                return parsedate_to_datetime(answer.headers.get("Date", "")).astimezone(UTC)

        accept = frozenset({200, 404})
        return self._transport.ask(self._wire.time_path, {}, subject="server time", read=read, accept=accept, retries=1)

    def _page(self, symbol: str, page: _Page) -> _Rows:
        """One page, asked a second time where it is empty: inside listed history that is sometimes a fluke."""
        got = self._ask(symbol, page)
        if len(got.table):
            return got
        again = self._ask(symbol, page)
        return again._replace(asked_again=1)

    def _ask(self, symbol: str, page: _Page) -> _Rows:
        # A span of nothing (start = end) is not promised to work: a single minute is asked with the one before it.
        asked = page.first - _MINUTE_S if page.first == page.last else page.first

        def read(answer: Answer) -> tuple[npt.NDArray[np.float64], float]:
            return self._wire.read_candles(json.loads(answer.body)), _sent_at(answer)

        table, sent_at = self._transport.ask(
            self._wire.candles_path(symbol),
            self._wire.candle_params(asked, page.last),
            subject=symbol,
            read=read,
        )
        times = table[:, 0]
        # Closed by the market's clock too: ours may be fast, and the market serves the forming candle.
        wanted = (times >= page.first) & (times < page.last + _MINUTE_S) & (times + _MINUTE_S <= sent_at)
        outside = times[(times < asked) | (times >= page.last + _MINUTE_S) | (times + _MINUTE_S > sent_at)]
        return _Rows(table[wanted][::-1], outside, 0)  # sent newest first


def _sent_at(answer: Answer) -> float:
    """When the market sent `answer` by its own clock, in seconds since 1970; inf where it does not say."""
    try:
        return parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except ValueError:
        return math.inf


def _pages(symbol: str, start: datetime, end: datetime, closed: int) -> list[_Page]:
    """Spans of at most PAGE_ROWS minutes that together hold each wanted closed minute exactly once."""
    first, stop = (ceil_minute(micros(t, f"{symbol}'s {n}")) for t, n in ((start, "start"), (end, "end")))
    if first > stop:
        raise ValueError(f"{symbol}: the range starts at {start.isoformat()}, after its end {end.isoformat()}")
    begin, limit = first // SECOND_US, min(stop, closed) // SECOND_US
    step = PAGE_ROWS * _MINUTE_S
    return [_Page(t, min(t + step, limit) - _MINUTE_S) for t in range(begin, limit, step)]


def _fetched(symbol: str, pages: list[_Rows], span: tuple[datetime, datetime], now: datetime) -> Fetched | MarketError:
    table = np.concatenate([page.table for page in pages]) if pages else np.empty((0, 6))
    frame = pd.DataFrame(table[:, 1:], columns=[*PRICES, "volume"])
    frame.insert(0, "open_time", to_index((table[:, 0] * SECOND_US).round().astype(np.int64)))
    try:
        frame, repaired = clean(frame, symbol=symbol, start=span[0], end=span[1], now=now)
    except MarketError as error:
        return error
    outside = np.concatenate([page.outside for page in pages]) if pages else np.empty(0)
    forming = int((outside * SECOND_US > micros(now, "now") - MINUTE_US).sum())
    repairs = {
        **repaired,
        "outside_window": len(outside) - forming,
        "forming": forming,
        "asked_again": sum(page.asked_again for page in pages),
    }
    return Fetched(frame, {name: count for name, count in repairs.items() if count}, len(pages))
