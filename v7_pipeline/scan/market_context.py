"""What else is known of the products when the analyst is asked: order books and CoinGecko, for live scans only.

It never holds a scan up and never fails it: what does not come in time is missing, with its reason. How the analyst is
told belongs to analyst/prompt.py.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from v7_pipeline.analyst.base import BookContext, MarketContext, ReferenceContext
from v7_pipeline.market.errors import MarketError
from v7_pipeline.scan.context import ScanContext

if TYPE_CHECKING:
    from v7_pipeline.market.coingecko import CoinGeckoClient, Reference
    from v7_pipeline.market.wire import OrderBook

__all__ = ["DEADLINE_S", "context_of", "fetch_context", "stored_context"]

DEADLINE_S = 3.0  # for everything together
DEPTH_BAND = 0.001  # fraction of the mid price
LEVELS = 5_000  # price levels a side; the band is wider than the first fifty of a liquid product
_STORED = "SELECT * FROM market_context WHERE as_of = ?"

Row = dict[str, Any]


def stored_context(ctx: ScanContext, reader: Any) -> dict[str, Row]:
    """The rows of this instant by symbol: what an earlier scan of it knew, so that the same question is asked again."""
    return {row["symbol"]: row for row in reader.rows(_STORED, (ctx.as_of,))}


def fetch_context(
    ctx: ScanContext, symbols: Sequence[str], *, deadline_s: float = DEADLINE_S, coingecko: Any = None
) -> list[Row]:
    """market_context rows (without provenance) for `symbols`, asked for now; [] where nothing is to be asked.

    A scan of the past asks nothing: what is known now was not known then. `deadline_s` bounds all of it, in seconds.
    Never raises for what the services do; `coingecko` may be given instead of made.
    """
    wanted = ctx.settings.context
    if not wanted or not symbols or ctx.is_late:
        return []
    fetched_at = ctx.clock()
    jobs: dict[tuple[str, str], Callable[[], Any]] = {}
    if "order_book" in wanted:
        jobs |= {("order_book", symbol): _book_job(ctx.market, symbol) for symbol in symbols}
    if "coingecko" in wanted:
        client = coingecko or _coingecko(ctx, deadline_s)
        jobs[("coingecko", "")] = lambda: client.references(symbols)
    answers = _all_at_once(jobs, deadline_s)
    return [_row(ctx.as_of, fetched_at, symbol, wanted, answers) for symbol in symbols]


def context_of(row: Mapping[str, Any] | None) -> MarketContext:
    """What a market_context row says, as the analyst's question has it; a part that did not come is missing."""
    if row is None:
        return MarketContext()
    known = {name: None if pd.isna(value) else value for name, value in row.items()}
    book, reference = None, None
    if known["best_bid"] is not None and known["best_ask"] is not None:
        book = BookContext(known["best_bid"], known["best_ask"], known["bid_depth_usd"], known["ask_depth_usd"])
    if known["reference_price_usd"] is not None:
        updated = known["reference_at"]
        age = None if updated is None else max((known["fetched_at"] - updated).total_seconds(), 0.0)
        reference = ReferenceContext(
            known["reference_price_usd"], known["market_cap_usd"], known["volume_24h_usd"], age
        )
    return MarketContext(book, reference)


def _row(
    as_of: datetime,
    fetched_at: datetime,
    symbol: str,
    wanted: Sequence[str],
    answers: Mapping[tuple[str, str], Any],
) -> Row:
    faults: dict[str, str] = {}
    row: Row = {"symbol": symbol, "as_of": as_of, "fetched_at": fetched_at, **dict.fromkeys(_VALUES)}
    if "order_book" in wanted:
        book = answers[("order_book", symbol)]
        row |= _told("order_book", faults, lambda: _book_values(_or_raise(book)))
    if "coingecko" in wanted:
        found = answers[("coingecko", "")]
        row |= _told("coingecko", faults, lambda: _reference_values(_or_raise(_or_raise(found).get(symbol))))
    return {**row, "faults": json.dumps(faults, ensure_ascii=False)}


_VALUES = (
    "best_bid", "best_ask", "bid_depth_usd", "ask_depth_usd", "reference_price_usd", "market_cap_usd",
    "volume_24h_usd", "reference_at",
)  # fmt: skip


def _told(part: str, faults: dict[str, str], values: Callable[[], Row]) -> Row:
    try:
        return values()
    except MarketError as error:
        faults[part] = str(error)
        return {}


def _or_raise(answer: Any) -> Any:
    if isinstance(answer, MarketError):
        raise answer
    if isinstance(answer, Exception):
        # Only its kind: the text of an error that nobody foresaw may quote an address with its password.
        raise MarketError(f"it could not be read ({type(answer).__name__})")
    return answer


def _book_values(book: OrderBook) -> Row:
    """Best prices and the depths in the band; a depth is missing where the levels end before the band does."""
    if not book.bids or not book.asks:
        raise MarketError(f"{book.symbol}: the order book has no {'asks' if book.bids else 'bids'}")
    bid, ask = book.bids[0][0], book.asks[0][0]
    if not 0 < bid < ask < float("inf"):
        raise MarketError(f"{book.symbol}: the order book's best bid {bid:g} is not below its best ask {ask:g}")
    mid = (bid + ask) / 2
    floor, ceiling = mid * (1 - DEPTH_BAND), mid * (1 + DEPTH_BAND)
    return {
        "best_bid": bid,
        "best_ask": ask,
        "bid_depth_usd": _depth(book.bids, lambda price: price >= floor),
        "ask_depth_usd": _depth(book.asks, lambda price: price <= ceiling),
    }


def _depth(levels: Sequence[tuple[float, float]], inside: Callable[[float], bool]) -> float | None:
    if inside(levels[-1][0]):
        return None
    return sum(price * size for price, size in levels if inside(price))


def _reference_values(reference: Reference | None) -> Row:
    if reference is None:
        raise MarketError("CoinGecko's answer does not name it")
    return {
        "reference_price_usd": reference.price_usd,
        "market_cap_usd": reference.market_cap_usd,
        "volume_24h_usd": reference.volume_24h_usd,
        "reference_at": reference.updated_at,
    }


def _book_job(market: Any, symbol: str) -> Callable[[], OrderBook]:
    return lambda: market.order_book(symbol, LEVELS, retries=1)


def _coingecko(ctx: ScanContext, deadline_s: float) -> CoinGeckoClient:
    from v7_pipeline.market.coingecko import CoinGeckoClient

    s = ctx.settings
    return CoinGeckoClient(base_url=s.coingecko_url, key=s.coingecko_api_key, timeout_s=deadline_s)


def _all_at_once(jobs: Mapping[tuple[str, str], Callable[[], Any]], deadline_s: float) -> dict[tuple[str, str], Any]:
    """Each job's result, or its exception; a MarketError for one that is not done in time.

    Daemon threads, not a pool: one that hangs on a slow server must not keep the process from ending.
    """
    done: queue.SimpleQueue[tuple[tuple[str, str], Any]] = queue.SimpleQueue()

    def work(key: tuple[str, str], job: Callable[[], Any]) -> None:
        try:
            done.put((key, job()))
        except Exception as error:  # noqa: BLE001 - told as the reason why this part is missing
            done.put((key, error))

    late = MarketError(f"no answer within {deadline_s:g} s")
    results: dict[tuple[str, str], Any] = dict.fromkeys(jobs, late)
    for key, job in jobs.items():
        threading.Thread(target=work, args=(key, job), name=f"context-{key[0]}", daemon=True).start()
    give_up = time.monotonic() + deadline_s
    for _ in jobs:
        try:
            key, result = done.get(timeout=max(give_up - time.monotonic(), 0.0))
        except queue.Empty:
            break
        results[key] = result
    return results
