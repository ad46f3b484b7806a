"""CoinGecko's simple prices: a product's price, market capitalisation and volume over many venues.

Which of it an analyst is told, and that a scan never waits for it, is scan/market_context.py's business.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from v7_pipeline.market.errors import MarketError
from v7_pipeline.market.transport import Answer, Limiter, Transport, process_limiter
from v7_pipeline.market.wire import Malformed

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["COINS", "CoinGeckoClient", "Reference", "coin_of"]

PATH = "/simple/price"
RATE_PER_S = 2  # the public address allows a few requests a minute; a scan makes one
SUBJECT = "CoinGecko's prices"
_READ = frozenset({200, 401, 403, 429})  # statuses that are told as what they are, and not asked again

# CoinGecko's names of the coins behind Coinbase's products; its names are not to be guessed from the ticker.
COINS: Mapping[str, str] = {
    "AAVE": "aave", "ADA": "cardano", "ALGO": "algorand", "APT": "aptos", "ARB": "arbitrum", "ATOM": "cosmos",
    "AVAX": "avalanche-2", "BCH": "bitcoin-cash", "BTC": "bitcoin", "DOGE": "dogecoin", "DOT": "polkadot",
    "ETC": "ethereum-classic", "ETH": "ethereum", "FIL": "filecoin", "HBAR": "hedera-hashgraph",
    "ICP": "internet-computer", "LINK": "chainlink", "LTC": "litecoin", "NEAR": "near", "OP": "optimism",
    "SHIB": "shiba-inu", "SOL": "solana", "SUI": "sui", "UNI": "uniswap", "XLM": "stellar", "XRP": "ripple",
    "XTZ": "tezos",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reference:
    """One coin's figures, in USD; None is missing. `updated_at` is when CoinGecko last updated them."""

    price_usd: float
    market_cap_usd: float | None
    volume_24h_usd: float | None
    updated_at: datetime | None


def coin_of(symbol: str) -> str:
    """CoinGecko's name of the coin behind a product such as BTC-USD; MarketError where none is known."""
    base, _, quote = symbol.partition("-")
    if quote != "USD":
        raise MarketError(f"{symbol}: CoinGecko is asked for prices in USD, and this product is not quoted in USD")
    if base not in COINS:
        raise MarketError(f"{symbol}: no CoinGecko name is known for {base}; leave coingecko out of V7_CONTEXT for it")
    return COINS[base]


class CoinGeckoClient:
    """A client at `base_url`, with the demo `key` where there is one; `timeout_s` bounds one attempt, in seconds."""

    def __init__(
        self,
        *,
        base_url: str,
        key: SecretStr | None = None,
        timeout_s: float = 3.0,
        limiter: Limiter | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = key
        self._transport = Transport(
            base_url,
            name="CoinGecko",
            url_setting="V7_COINGECKO_URL",
            timeout_s=timeout_s,
            retries=1,
            limiter=limiter or process_limiter(base_url, RATE_PER_S),
            sleep=sleep,
            connections=1,
            secret_headers={} if key is None else {"x-cg-demo-api-key": key},
        )

    def references(self, symbols: Iterable[str]) -> dict[str, Reference | MarketError]:
        """Each product's figures, or why they are missing, in one request; MarketError where none could be had."""
        answers: dict[str, Reference | MarketError] = {}
        coins: dict[str, str] = {}
        for symbol in symbols:
            try:
                coins[symbol] = coin_of(symbol)
            except MarketError as error:
                answers[symbol] = error
        if coins:
            params = {
                "ids": ",".join(sorted(set(coins.values()))),
                "vs_currencies": "usd",
                "include_market_cap": "true",
                "include_24hr_vol": "true",
                "include_last_updated_at": "true",
            }
            found = self._ask(params)
            answers |= {symbol: _reference(symbol, found.get(coin)) for symbol, coin in coins.items()}
        return answers

    def _ask(self, params: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            return self._transport.ask(PATH, params, subject=SUBJECT, read=_read, accept=_READ)
        except MarketError as error:
            # What a server says of a fault is quoted, and it may quote the request.
            if self._key is None:
                raise
            raise MarketError(str(error).replace(self._key.get_secret_value(), "[secret]")) from None


def _read(answer: Answer) -> Mapping[str, Any]:
    """The coins of an answer; a refusal is not asked again, since the scan will not wait for it."""
    if answer.status in (401, 403):
        raise MarketError(f"{SUBJECT}: CoinGecko refuses the key ({answer.status}); check COINGECKO_API_KEY")
    if answer.status == 429:
        raise MarketError(f"{SUBJECT}: CoinGecko asks for fewer requests (429); a key in COINGECKO_API_KEY allows more")
    payload = json.loads(answer.body)
    if not isinstance(payload, Mapping):
        raise Malformed("no prices by coin")
    return payload


def _reference(symbol: str, coin: Any) -> Reference | MarketError:
    price = _positive(coin, "usd")
    if price is None:
        return MarketError(f"{symbol}: CoinGecko names no price in USD for it now")
    return Reference(price, _positive(coin, "usd_market_cap"), _positive(coin, "usd_24h_vol"), _updated_at(coin))


def _positive(coin: Any, name: str) -> float | None:
    """A figure above zero: CoinGecko writes 0 or null for what it does not know."""
    value = coin.get(name) if isinstance(coin, Mapping) else None
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if sound and value is not None else None


def _updated_at(coin: Mapping[str, Any]) -> datetime | None:
    seconds = _positive(coin, "last_updated_at")
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None and 1e9 <= seconds < 1e10 else None
