"""Coinbase's public market data on the wire: the Exchange and the Advanced Trade API, with their quirks.

Each function takes a request's parameters and an instant and returns the answer; routing and faults belong to
server.py.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from starlette.responses import JSONResponse, PlainTextResponse, Response

from v7_pipeline.sandbox.book import make_book
from v7_pipeline.sandbox.faults import Api, error_body
from v7_pipeline.sandbox.source import Bars, Source, last_price, view

__all__ = ["ADVANCED_GRANULARITIES", "EXCHANGE_GRANULARITIES", "RateLimit", "book", "candles", "product", "server_time"]

EXCHANGE_GRANULARITIES = (60, 300, 900, 3600, 21600, 86400)
ADVANCED_GRANULARITIES = {
    "ONE_MINUTE": 60, "FIVE_MINUTE": 300, "FIFTEEN_MINUTE": 900, "THIRTY_MINUTE": 1800,
    "ONE_HOUR": 3600, "TWO_HOUR": 7200, "SIX_HOUR": 21600, "ONE_DAY": 86400,
}  # fmt: skip
_MOST_INTERVALS = 300  # Exchange: end − start in intervals; both ends are inclusive, so 301 rows
_MOST_CANDLES = 350  # Advanced Trade: rows
_BOOK_LEVELS = 500  # a side at level 2: the whole book, which is made no deeper
_CDN_S = 300  # without start and end the answer may be a copy this old

Query = Mapping[str, str]


def candles(api: Api, source: Source, symbol: str, query: Query, now: datetime, lag_s: float = 0.0) -> Response:
    """GET …/candles. What closed less than `lag_s` before `now` is not published yet, nor is what forms."""
    if not source.knows(symbol):
        return _unknown(api, symbol)
    known_at = now - timedelta(seconds=lag_s)
    if api == "exchange":
        return _exchange_candles(source, symbol, query, now, known_at, whole_only=lag_s > 0)
    return _advanced_candles(source, symbol, query, known_at, whole_only=lag_s > 0)


def book(api: Api, source: Source, symbol: str, query: Query, now: datetime) -> Response:
    """GET /products/{id}/book and …/product_book."""
    if not source.knows(symbol):
        return _unknown(api, symbol)
    price = last_price(source, symbol, now)
    if price is None:
        return JSONResponse({"message": "NotFound"}, 404)
    number = query.get("level", "1") if api == "exchange" else query.get("limit", "50")
    if not number.isdigit():
        return JSONResponse({"message": "Invalid level" if api == "exchange" else "limit is invalid"}, 400)
    depth = (1 if number == "1" else _BOOK_LEVELS) if api == "exchange" else min(max(int(number), 1), _BOOK_LEVELS)
    decimals = source.decimals(symbol)
    made = make_book(symbol, price, decimals, now, depth)
    if api == "exchange":
        sides = {
            name: [[_text(p, decimals), _text(size, 8), orders] for p, size, orders in levels]
            for name, levels in (("bids", made.bids), ("asks", made.asks))
        }
        return JSONResponse(
            {**sides, "sequence": made.sequence, "auction_mode": False, "auction": None, "time": _iso(now)}
        )
    levels = {
        name: [{"price": _text(p, decimals), "size": _text(size, 8)} for p, size, _ in side]
        for name, side in (("bids", made.bids), ("asks", made.asks))
    }
    bid, ask = made.bids[0][0], made.asks[0][0]
    return JSONResponse(
        {
            "pricebook": {"product_id": symbol, **levels, "time": _iso(now)},
            "last": _text(price, decimals),
            "mid_market": _text((bid + ask) / 2, decimals + 1),
            "spread_bps": _text((ask - bid) / (bid + ask) * 20_000, 12),
            "spread_absolute": _text(ask - bid, decimals),
        }
    )


def product(api: Api, source: Source, symbol: str, now: datetime) -> Response:
    """GET /products/{id} and …/market/products/{id}."""
    if not source.knows(symbol):
        return _unknown(api, symbol)
    base, _, quote = symbol.partition("-")
    increment = _text(10.0 ** -source.decimals(symbol), source.decimals(symbol))
    common = {"base_increment": "0.00000001", "quote_increment": increment, "status": "online"}
    flags = {
        "trading_disabled": False,
        "cancel_only": False,
        "limit_only": False,
        "post_only": False,
        "auction_mode": False,
    }
    if api == "exchange":
        return JSONResponse(
            {
                "id": symbol, "base_currency": base, "quote_currency": quote, **common, **flags,
                "display_name": f"{base}-{quote}", "min_market_funds": "1", "margin_enabled": False,
                "status_message": "",
            }
        )  # fmt: skip
    price = last_price(source, symbol, now)
    return JSONResponse(
        {
            "product_id": symbol, "price": "" if price is None else _text(price, source.decimals(symbol)),
            **common, **flags,
            "quote_min_size": "1", "base_min_size": "0.00000001", "base_name": base, "quote_name": quote,
            "base_currency_id": base, "quote_currency_id": quote, "product_type": "SPOT", "price_increment": increment,
            "display_name": symbol, "is_disabled": False, "new": False, "view_only": False,
        }
    )  # fmt: skip


def server_time(api: Api, now: datetime) -> Response:
    """GET /time and …/brokerage/time."""
    seconds = now.timestamp()
    if api == "exchange":
        return JSONResponse({"iso": _iso(now), "epoch": round(seconds, 3)})
    return JSONResponse({"iso": _iso(now), "epochSeconds": str(int(seconds)), "epochMillis": str(int(seconds * 1000))})


class RateLimit:
    """Coinbase's public limit: a bucket of `burst` requests a client, refilled with `per_s` a second."""

    def __init__(self, per_s: float = 10.0, burst: float = 15.0) -> None:
        self._per_s, self._burst = per_s, burst
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, client: str, seconds: float) -> bool:
        """Whether `client` may ask at `seconds` (of any steady clock); counts the request if so."""
        left, then = self._left.get(client, (self._burst, seconds))
        left = min(self._burst, left + (seconds - then) * self._per_s)
        allowed = left >= 1
        self._left[client] = (left - 1 if allowed else left, seconds)
        return allowed


# --- candles --------------------------------------------------------------------------------


def _exchange_candles(
    source: Source, symbol: str, query: Query, now: datetime, known_at: datetime, *, whole_only: bool
) -> Response:
    text = query.get("granularity", "60")
    granularity = int(text) if text.isdigit() else 0
    if granularity not in EXCHANGE_GRANULARITIES:
        return JSONResponse({"message": "Unsupported granularity"}, 400)
    if "start" in query and "end" in query:
        start, end = _when(query["start"]), _when(query["end"])
        if start is None or end is None:
            return JSONResponse({"message": f"Invalid {'start' if start is None else 'end'}"}, 400)
        if end < start:
            return JSONResponse({"message": "start must be before end"}, 400)
        # One bound alone is ignored, as documented: with both, and only then, the answer is what was asked for.
        if (end - start) / granularity > _MOST_INTERVALS:
            message = "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
            return JSONResponse({"message": message}, 400)
        first = int(-(-start // 1))
        if zlib.crc32(f"{symbol}{first}".encode()) % 3 == 0:
            # "May return rows before start": sometimes one does, always for the same request.
            first -= granularity
        last = int(end)
    else:
        last = int(now.timestamp()) // _CDN_S * _CDN_S
        first = (last // granularity - _MOST_INTERVALS + 1) * granularity
        known_at = min(known_at, datetime.fromtimestamp(last, UTC))
    rows = _seen(source, symbol, first, last, granularity, known_at, whole_only=whole_only).rows()
    return JSONResponse(
        [
            [time, _number(low), _number(high), _number(opened), _number(close), _number(volume)]
            for time, opened, high, low, close, volume in reversed(rows)
        ]
    )


def _advanced_candles(source: Source, symbol: str, query: Query, known_at: datetime, *, whole_only: bool) -> Response:
    granularity = ADVANCED_GRANULARITIES.get(query.get("granularity", ""))
    if granularity is None:
        return PlainTextResponse("granularity argument is invalid", 400)
    start, end = query.get("start", ""), query.get("end", "")
    if not (start.isdigit() and end.isdigit()) or int(end) < int(start):
        return _invalid("start and end argument is invalid")
    limit = query.get("limit", str(_MOST_CANDLES))
    if not limit.isdigit() or not 1 <= int(limit) <= _MOST_CANDLES:
        return _invalid("limit argument is invalid - number of candles requested should be less than 350")
    if int(end) // granularity - -(-int(start) // granularity) + 1 > _MOST_CANDLES:
        return _invalid("start and end argument is invalid - number of candles requested should be less than 350")
    bars = _seen(source, symbol, int(start), int(end), granularity, known_at, whole_only=whole_only).tail(int(limit))
    decimals = source.decimals(symbol)
    rows = [
        {
            "start": str(time),
            "low": _text(low, decimals),
            "high": _text(high, decimals),
            "open": _text(opened, decimals),
            "close": _text(close, decimals),
            "volume": _text(volume, 8),
        }
        for time, opened, high, low, close, volume in reversed(bars.rows())
    ]
    return JSONResponse({"candles": rows})


def _seen(
    source: Source, symbol: str, first: int, last: int, granularity: int, known_at: datetime, *, whole_only: bool
) -> Bars:
    # Published late means whole candles only: the market went on, the copy did not.
    at = known_at.replace(second=0, microsecond=0) if whole_only else known_at
    return view(source, symbol, first, last, granularity, at)


def _unknown(api: Api, symbol: str) -> Response:
    if api == "exchange":
        return Response(error_body(api, 404), 404, media_type="application/json")
    text = f"Product {symbol} not supported"
    return JSONResponse({"error": "NOT_FOUND", "error_details": text, "message": text}, 404)


def _invalid(text: str) -> Response:
    return JSONResponse({"error": "INVALID_ARGUMENT", "error_details": text, "message": text}, 400)


_NUMBER = re.compile(r"\d+(\.\d+)?")


def _when(text: str) -> float | None:
    """Unix seconds of an ISO 8601 instant (UTC where it names no zone, as the exchange reads it) or of a number."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        instant = datetime.fromisoformat(text.replace(" ", "+"))  # a '+' of an offset that was not escaped
    except ValueError:
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _text(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
