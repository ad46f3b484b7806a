"""The two wire formats of Coinbase's candles, products and order books: what is asked and how answers are read.

Pure functions of JSON; sending and retrying is the transport's, and what a candle must satisfy is clean's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from v7_pipeline.market.minutes import SECOND_US, iso

__all__ = ["WIRES", "Api", "Malformed", "OrderBook", "Product", "Wire", "error_text"]

Api = Literal["exchange", "advanced"]
Rows = npt.NDArray[np.float64]
_FIELDS = ("open", "high", "low", "close", "volume")
# 2001 to 2286 in seconds: a time outside is in another unit (milliseconds) or no time at all.
_SANE_SECONDS = (1e9, 1e10)


class Malformed(ValueError):  # noqa: N818 — reads as what it says of the answer
    """An answer is not in the format that it should have."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product's steps: prices are multiples of `quote_increment` (quote currency), sizes of `base_increment`."""

    symbol: str
    quote_increment: float
    base_increment: float


@dataclass(frozen=True, slots=True)
class OrderBook:
    """Price levels as (price, size), best first: bids descend, asks ascend."""

    symbol: str
    bids: tuple[tuple[float, float], ...]
    asks: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Wire:
    """One API: its paths, its candle parameters (both ends inclusive, in seconds) and its readers."""

    url_setting: str
    time_path: str
    product_path: Callable[[str], str]
    candles_path: Callable[[str], str]
    candle_params: Callable[[int, int], Mapping[str, str]]
    book_request: Callable[[str, int], tuple[str, Mapping[str, str]]]
    read_candles: Callable[[Any], Rows]
    read_book: Callable[[str, Any, int], OrderBook]
    read_time: Callable[[Any], float]

    def read_product(self, payload: Any) -> Product:
        """The increments of a product; both APIs name them alike."""
        try:
            increments = [float(payload[name]) for name in ("quote_increment", "base_increment")]
            symbol = str(payload.get("product_id") or payload["id"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Malformed("no product with quote_increment and base_increment") from None
        return Product(symbol, *increments)


def error_text(body: bytes) -> str:
    """What the vendor says went wrong, on one line of at most 200 characters."""
    text = body.decode("utf-8", "replace")
    try:
        found = _message(json.loads(text))
    except ValueError:
        found = None
    if found is None:
        html = "<html" in text[:2000].lower() or "<!doctype" in text[:200].lower()
        found = "an HTML page instead of an answer" if html else text
    return re.sub(r"\s+", " ", found).strip()[:200] or "an empty answer"


def _message(payload: Any) -> str | None:
    if isinstance(payload, Mapping):
        errors = payload.get("errors")
        if isinstance(errors, list) and errors:
            return _message(errors[0]) or str(errors[0])
        for name in ("message", "error_details", "error", "id"):
            if payload.get(name):
                return str(payload[name])
    return payload if isinstance(payload, str) else None


def _table(rows: list[list[Any]], order: tuple[int, ...]) -> Rows:
    """time, open, high, low, close, volume as float64; a missing value is NaN, for clean to refuse with its row."""
    if not rows:
        return np.empty((0, 6))
    try:
        table = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise Malformed("candles that are not rows of six numbers") from None
    if table.ndim != 2 or table.shape[1] != 6:
        raise Malformed("candles that are not rows of six numbers")
    time = table[:, 0]
    sane = (time >= _SANE_SECONDS[0]) & (time < _SANE_SECONDS[1])
    if not sane.all():
        raise Malformed(f"the candle time {time[~sane][0]:.17g}, which is no time in seconds since 1970")
    return table[:, order]


def _exchange_candles(payload: Any) -> Rows:
    if not isinstance(payload, list) or not all(isinstance(row, list) for row in payload):
        raise Malformed("no list of candles")
    return _table(payload, (0, 3, 2, 1, 4, 5))


def _advanced_candles(payload: Any) -> Rows:
    try:
        rows = [[candle["start"], *(candle[name] for name in _FIELDS)] for candle in payload["candles"]]
    except (KeyError, TypeError):
        raise Malformed("no candles with start, open, high, low, close and volume") from None
    return _table(rows, (0, 1, 2, 3, 4, 5))


def _book(symbol: str, bids: Any, asks: Any, depth: int) -> OrderBook:
    def levels(side: Any) -> tuple[tuple[float, float], ...]:
        pairs = ((r["price"], r["size"]) if isinstance(r, Mapping) else (r[0], r[1]) for r in side[:depth])
        return tuple((float(price), float(size)) for price, size in pairs)

    try:
        return OrderBook(symbol, levels(bids), levels(asks))
    except (KeyError, IndexError, TypeError, ValueError):
        raise Malformed("no order book of prices and sizes") from None


def _exchange_book(symbol: str, payload: Any, depth: int) -> OrderBook:
    if not isinstance(payload, Mapping):
        raise Malformed("no order book")
    return _book(symbol, payload.get("bids"), payload.get("asks"), depth)


def _advanced_book(symbol: str, payload: Any, depth: int) -> OrderBook:
    return _exchange_book(symbol, payload.get("pricebook") if isinstance(payload, Mapping) else None, depth)


def _epoch(name: str, per_second: float) -> Callable[[Any], float]:
    def read(payload: Any) -> float:
        try:
            return float(payload[name]) / per_second
        except (KeyError, TypeError, ValueError):
            raise Malformed(f"no server time ({name})") from None

    return read


def _exchange_path(symbol: str) -> str:
    return f"/products/{quote(symbol, safe='')}"


def _advanced_path(symbol: str) -> str:
    return f"/api/v3/brokerage/market/products/{quote(symbol, safe='')}"


WIRES: dict[Api, Wire] = {
    "exchange": Wire(
        url_setting="V7_EXCHANGE_URL",
        time_path="/time",
        product_path=_exchange_path,
        candles_path=lambda symbol: f"{_exchange_path(symbol)}/candles",
        candle_params=lambda first, last: {
            "granularity": "60",
            "start": iso(first * SECOND_US),
            "end": iso(last * SECOND_US),
        },
        book_request=lambda symbol, depth: (f"{_exchange_path(symbol)}/book", {"level": "2"}),
        read_candles=_exchange_candles,
        read_book=_exchange_book,
        read_time=_epoch("epoch", 1),
    ),
    "advanced": Wire(
        url_setting="V7_ADVANCED_URL",
        time_path="/api/v3/brokerage/time",
        product_path=_advanced_path,
        candles_path=lambda symbol: f"{_advanced_path(symbol)}/candles",
        candle_params=lambda first, last: {"granularity": "ONE_MINUTE", "start": str(first), "end": str(last)},
        book_request=lambda symbol, depth: (
            "/api/v3/brokerage/market/product_book",
            {"product_id": symbol, "limit": str(depth)},
        ),
        read_candles=_advanced_candles,
        read_book=_advanced_book,
        read_time=_epoch("epochMillis", 1000),
    ),
}
