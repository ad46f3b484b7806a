"""CoinGecko's simple prices on the wire, made up around the sandbox's own prices.

Routing and faults belong to server.py and faults.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from random import Random
from typing import Any

from starlette.responses import JSONResponse, Response

from v7_pipeline.market.coingecko import COINS
from v7_pipeline.sandbox.source import Source, last_price

__all__ = ["simple_price"]

_REFRESH_S = 30  # its figures are that old at most
_SUPPLY_USD = 5e10  # market capitalisations around this
_FIELDS = {"include_market_cap": "usd_market_cap", "include_24hr_vol": "usd_24h_vol"}


def simple_price(source: Source, query: Mapping[str, str], now: datetime) -> Response:
    """GET /api/v3/simple/price. Coins that are not known are left out of the answer, as CoinGecko does."""
    if not query.get("ids"):
        return JSONResponse({"error": "Missing parameter ids"}, 422)
    if query.get("vs_currencies") != "usd":
        return JSONResponse({"error": "Missing parameter vs_currencies"}, 422)
    wanted = set(query["ids"].split(","))
    products = {coin: f"{base}-USD" for base, coin in COINS.items() if coin in wanted}
    coins = {coin: _coin(source, symbol, query, now) for coin, symbol in sorted(products.items())}
    return JSONResponse({coin: figures for coin, figures in coins.items() if figures is not None})


def _coin(source: Source, symbol: str, query: Mapping[str, str], now: datetime) -> dict[str, Any] | None:
    price = last_price(source, symbol, now) if source.knows(symbol) else None
    if price is None:
        return None
    updated = int(now.timestamp()) // _REFRESH_S * _REFRESH_S
    random = Random(f"{symbol}|{updated}|coingecko")  # the same in every process
    reference = float(f"{price * (1 + random.gauss(0, 3e-4)):.6g}")
    sizes = {name: _SUPPLY_USD * random.lognormvariate(0, 0.1) for name in _FIELDS.values()}
    told = {field: round(sizes[field], 2) for flag, field in _FIELDS.items() if query.get(flag) == "true"}
    if query.get("include_last_updated_at") == "true":
        told["last_updated_at"] = updated
    return {"usd": reference, **told}
