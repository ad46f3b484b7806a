"""CoinGecko over real HTTP: one request, missing is missing with its reason, the key goes nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from v7_pipeline.market.coingecko import COINS, CoinGeckoClient, Reference, coin_of
from v7_pipeline.market.errors import MarketError
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline_tests.market.conftest import Reply, Request, Server

KEY = "CG-very-secret-0123456789"
BODY = {
    "bitcoin": {"usd": 64123.0, "usd_market_cap": 1.26e12, "usd_24h_vol": 3.1e10, "last_updated_at": 1_763_640_000},
    "ethereum": {"usd": 3050.5, "usd_market_cap": 3.6e11, "usd_24h_vol": 1.5e10, "last_updated_at": 1_763_640_010},
}
NOW = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)

Make = Callable[..., CoinGeckoClient]


@pytest.fixture
def client(server: Server) -> Make:
    def make(**changes: Any) -> CoinGeckoClient:
        return CoinGeckoClient(
            **{"base_url": server.url + "/api/v3", "limiter": lambda: None, "sleep": lambda s: None} | changes
        )

    return make


def test_all_products_are_asked_in_one_request_and_read_in_usd(server: Server, client: Make) -> None:
    server.script(Reply(body=BODY))
    found = client().references(["ETH-USD", "BTC-USD"])
    assert found["BTC-USD"] == Reference(64123.0, 1.26e12, 3.1e10, datetime.fromtimestamp(1_763_640_000, UTC))
    assert isinstance(found["ETH-USD"], Reference) and found["ETH-USD"].price_usd == 3050.5
    (request,) = server.requests
    assert request.path == "/api/v3/simple/price"
    assert request.query == {
        "ids": "bitcoin,ethereum", "vs_currencies": "usd", "include_market_cap": "true", "include_24hr_vol": "true",
        "include_last_updated_at": "true",
    }  # fmt: skip
    assert "x-cg-demo-api-key" not in {name.lower() for name in request.headers}


def test_lesson_15_what_coingecko_does_not_know_is_missing_with_its_reason_and_never_zero(
    server: Server, client: Make
) -> None:
    server.script(
        Reply(body={"bitcoin": {"usd": 64123, "usd_market_cap": 0, "usd_24h_vol": None}, "solana": {"usd": 0}, "x": 3})
    )
    found = client().references(["BTC-USD", "SOL-USD", "ETH-USD", "ZZZ-USD", "BTC-EUR"])
    assert found["BTC-USD"] == Reference(64123.0, None, None, None)
    for symbol, told in {"SOL-USD": "no price", "ETH-USD": "no price", "ZZZ-USD": "ZZZ", "BTC-EUR": "in USD"}.items():
        error = found[symbol]
        assert isinstance(error, MarketError) and symbol in str(error) and told in str(error)


@pytest.mark.parametrize("value", ["64123", True, float("nan"), -1.0, [1], {"usd": 1}, 1e400])
def test_a_price_that_is_no_positive_number_is_missing(server: Server, client: Make, value: Any) -> None:
    server.script(Reply(body={"bitcoin": {"usd": value}}))
    assert isinstance(client().references(["BTC-USD"])["BTC-USD"], MarketError)


def test_nothing_is_asked_for_products_without_a_name(server: Server, client: Make) -> None:
    assert isinstance(client().references(["ZZZ-USD"])["ZZZ-USD"], MarketError)
    assert server.requests == []


@pytest.mark.parametrize(
    ("reply", "times", "told"),
    [
        (Reply(429, {"status": {"error_code": 429}}), 1, "COINGECKO_API_KEY allows more"),
        (Reply(401, {"status": {"error_code": 10002}}), 1, "refuses the key"),
        (Reply(403, {"error": "blocked"}), 1, "refuses the key"),
        (Reply(404, {"error": "not found"}), 1, "404"), (Reply(500, f"oops: {KEY}"), 2, "has a fault"),
        (Reply(400, {"error": f"key {KEY} is malformed"}), 1, r"\[secret\]"),
        (Reply(200, "<html>"), 2, "V7_COINGECKO_URL"), (Reply(200, [1]), 2, "no prices by coin"),
        (Reply(200, b"", promised=99), 2, "CoinGecko"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_once_and_a_fault_is_asked_again(
    server: Server, client: Make, reply: Reply, times: int, told: str
) -> None:
    server.script(reply)
    with pytest.raises(MarketError, match=told) as caught:
        client(key=SecretStr(KEY)).references(["BTC-USD"])
    assert len(server.requests) == times
    assert KEY not in str(caught.value)


def test_lesson_30_the_key_goes_into_the_header_and_nowhere_else(server: Server, client: Make) -> None:
    server.script(Reply(body=BODY))
    asked = client(key=SecretStr(KEY))
    asked.references(["BTC-USD"])
    (request,) = server.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["x-cg-demo-api-key"] == KEY
    assert KEY not in repr(asked) and KEY not in str(request.query)


def test_lesson_30_a_redirect_does_not_carry_the_key_away(server: Server, client: Make) -> None:
    def answer(request: Request) -> Reply:
        return Reply(302, b"", {"Location": server.url + "/elsewhere"})

    server.answer = answer
    with pytest.raises(MarketError, match="302"):
        client(key=SecretStr(KEY)).references(["BTC-USD"])
    assert {request.path for request in server.requests} == {"/api/v3/simple/price"}


def test_names_are_known_not_guessed() -> None:
    assert coin_of("BTC-USD") == "bitcoin" and coin_of("AVAX-USD") == "avalanche-2"
    assert len(set(COINS.values())) == len(COINS)
    for symbol in ("BITCOIN-USD", "BTC-EUR", "BTC", ""):
        with pytest.raises(MarketError):
            coin_of(symbol)


# --- the sandbox's stand-in -----------------------------------------------------------------


def test_the_sandbox_speaks_the_same_format_close_to_its_own_price() -> None:
    with SandboxServer(seed=7, clock=lambda: NOW) as sandbox:
        asked = CoinGeckoClient(base_url=f"{sandbox.url}/api/v3", limiter=lambda: None)
        found = asked.references(["BTC-USD", "ETH-USD", "FIL-USD"])
        from v7_pipeline.market.coinbase import CoinbaseClient

        book = CoinbaseClient(base_url=sandbox.url, rate_per_s=1000).order_book("BTC-USD", 5_000)
        assert sandbox.counts["coingecko"] == 1
    reference = found["BTC-USD"]
    assert isinstance(reference, Reference) and reference.updated_at is not None
    assert abs(reference.price_usd / book.bids[0][0] - 1) < 0.005
    assert 0 <= (NOW - reference.updated_at).total_seconds() < 60
    assert reference.market_cap_usd and reference.volume_24h_usd
    assert book.bids[-1][0] < 0.999 * book.bids[0][0], "the book reaches beyond a tenth of a percent"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"status": 429}), ("status", {"status": 503}), ("truncate", {}), ("outage", {}),
        ("malformed_json", {}), ("wrong_schema", {}), ("empty", {}), ("blank", {}),
    ],
)  # fmt: skip
def test_every_fault_of_the_sandbox_ends_in_a_reason(kind: str, options: dict[str, Any]) -> None:
    with SandboxServer(seed=7, clock=lambda: NOW) as sandbox:
        sandbox.fault("coingecko", kind, **options)
        asked = CoinGeckoClient(base_url=f"{sandbox.url}/api/v3", limiter=lambda: None, sleep=lambda s: None)
        try:
            answers = asked.references(["BTC-USD"])
        except MarketError as error:
            assert "CoinGecko" in str(error)
        else:
            assert isinstance(answers["BTC-USD"], MarketError)
