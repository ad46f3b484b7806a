"""The pipeline's own market client against the sandbox: what it reads is what the simulator says, faults or not."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import pytest

from v7_pipeline.market.coinbase import CoinbaseClient
from v7_pipeline.sandbox.simulator import simulate
from v7_pipeline_tests.sandbox.conftest import NOW, Client

VALUES = ["open", "high", "low", "close", "volume"]


@pytest.mark.parametrize("api", ["exchange", "advanced"])
@pytest.mark.parametrize("symbol", ["BTC-USD", "SOL-USD"])
def test_lesson_27_pages_neither_repeat_nor_lose_a_row(
    client: Client, api: Literal["exchange", "advanced"], symbol: str
) -> None:
    ours = CoinbaseClient(api=api, base_url=client.server.url, rate_per_s=10_000)
    start = NOW - timedelta(days=1)
    fetched = ours.candles(symbol, start, NOW, now=NOW).frame
    truth = simulate(7, symbol, start, NOW.replace(second=0))
    assert fetched["open_time"].tolist() == truth["open_time"].tolist()
    assert fetched[VALUES].to_numpy().tolist() == truth[VALUES].to_numpy().tolist()


@pytest.mark.parametrize("fast_s", [45, 3600])
def test_lesson_27_a_clock_that_is_fast_takes_no_forming_candle(client: Client, fast_s: int) -> None:
    ours = CoinbaseClient(api="exchange", base_url=client.server.url, rate_per_s=10_000)
    fast = NOW + timedelta(seconds=fast_s)
    fetched = ours.candles("BTC-USD", NOW - timedelta(hours=1), fast, now=fast).frame
    truth = simulate(7, "BTC-USD", NOW - timedelta(hours=1), NOW.replace(second=0))
    assert fetched["open_time"].max() == truth["open_time"].max()
    assert fetched[VALUES].to_numpy().tolist() == truth[VALUES].to_numpy().tolist()


def test_product_and_book_are_read(client: Client) -> None:
    ours = CoinbaseClient(api="exchange", base_url=client.server.url, rate_per_s=10_000)
    assert ours.product("BTC-USD").quote_increment == 0.01
    assert ours.server_time() == NOW
    assert len(ours.order_book("BTC-USD").bids) == 50


@pytest.mark.parametrize("kind", ["status", "malformed_json", "empty", "truncate", "outage"])
def test_one_fault_of_each_kind_is_survived(client: Client, kind: str) -> None:
    ours = CoinbaseClient(api="exchange", base_url=client.server.url, rate_per_s=10_000, sleep=lambda seconds: None)
    start = NOW - timedelta(hours=1)
    truth = simulate(7, "BTC-USD", start, NOW.replace(second=0))
    client.server.fault("candles", kind, count=1)
    assert len(ours.candles("BTC-USD", start, NOW, now=NOW).frame) == len(truth)
