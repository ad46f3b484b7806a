"""The client: pages, windows, both wire formats, and one symbol's failure staying its own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from v7_pipeline.market.coinbase import Fetched, MarketError
from v7_pipeline.market.wire import WIRES, Malformed
from v7_pipeline_tests.market.conftest import MINUTE, T0, Clients, Exchange, Reply, Request, Server, candle_frame
from v7_pipeline_tests.shared_data import needs_shared

LATER = T0 + timedelta(days=30)


def span(minutes: int) -> list[datetime]:
    return [T0 + i * MINUTE for i in range(minutes)]


@pytest.mark.parametrize("api", ["exchange", "advanced"])
@pytest.mark.parametrize("minutes", [1, 2, 299, 300, 301, 350, 351, 599, 600, 601])
def test_lesson_27_page_boundaries_neither_repeat_nor_lose_a_row(
    server: Server, client: Clients, api: str, minutes: int
) -> None:
    market = server.answer = Exchange(early=2)
    got = client(api).candles("BTC-USD", T0, T0 + minutes * MINUTE, now=LATER)

    assert list(got.frame["open_time"]) == span(minutes)
    expected = candle_frame(span(minutes))
    np.testing.assert_array_equal(got.frame.iloc[:, 2:].to_numpy(), expected.iloc[:, 1:].to_numpy())
    assert got.pages == -(-minutes // 300) == len(market.spans)
    assert max(market.spans) <= 300
    assert got.repairs == {"outside_window": 2 * got.pages}


@pytest.mark.parametrize("api", ["exchange", "advanced"])
def test_lesson_27_the_forming_candle_is_excluded_though_it_is_sent(server: Server, client: Clients, api: str) -> None:
    forming = T0 + 10 * MINUTE
    server.answer = Exchange(forming=forming)
    now = forming + timedelta(seconds=59.9)
    got = client(api).candles("BTC-USD", T0, T0 + timedelta(hours=1), now=now)
    assert list(got.frame["open_time"]) == span(10)
    assert got.repairs == {"forming": 1}


def test_a_candle_counts_from_the_very_instant_it_closes(server: Server, client: Clients) -> None:
    server.answer = Exchange()
    got = client().candles("BTC-USD", T0, LATER, now=T0 + 3 * MINUTE)
    assert list(got.frame["open_time"]) == span(3)


def test_a_window_without_a_closed_minute_asks_nothing(server: Server, client: Clients) -> None:
    for start, end in ((T0, T0), (T0, T0 + MINUTE)):
        got = client().candles("BTC-USD", start, end, now=T0 + timedelta(seconds=59))
        assert got.frame.empty and got.pages == 0 and list(got.frame.columns[:2]) == ["symbol", "open_time"]
    assert server.requests == []


def test_a_window_off_the_minute_holds_the_minutes_that_open_inside_it(server: Server, client: Clients) -> None:
    server.answer = Exchange()
    half = timedelta(seconds=30)
    got = client().candles("BTC-USD", T0 + half, T0 + 3 * MINUTE + half, now=LATER)
    assert list(got.frame["open_time"]) == span(4)[1:]


def test_minutes_without_a_trade_are_absent_and_no_error(server: Server, client: Clients) -> None:
    server.answer = Exchange(absent=(T0 + 5 * MINUTE, T0 + 299 * MINUTE, T0 + 300 * MINUTE))
    got = client().candles("BTC-USD", T0, T0 + 400 * MINUTE, now=LATER)
    assert len(got.frame) == 397 and got.repairs == {}


@pytest.mark.parametrize("answers", [1, 2])
def test_an_empty_answer_is_asked_again_once_before_it_is_believed(
    server: Server, client: Clients, answers: int
) -> None:
    market = Exchange()
    server.answer = lambda request: Reply(body=[]) if len(server.requests) <= answers else market(request)
    got = client().candles("BTC-USD", T0, T0 + 5 * MINUTE, now=LATER)
    assert len(server.requests) == 2
    assert len(got.frame) == (5 if answers == 1 else 0)
    assert got.repairs == {"asked_again": 1}


def test_both_ends_are_always_sent(server: Server, client: Clients) -> None:
    server.answer = Exchange()
    client().candles("BTC-USD", T0, T0 + 301 * MINUTE, now=LATER)
    client("advanced").candles("BTC-USD", T0, T0 + 2 * MINUTE, now=LATER)
    exchange, advanced = server.requests[:2], server.requests[2]
    assert {(r.query["start"], r.query["end"]) for r in exchange} == {
        ("2023-12-11T02:00:00Z", "2023-12-11T06:59:00Z"),
        ("2023-12-11T06:59:00Z", "2023-12-11T07:00:00Z"),
    }
    second = int(T0.timestamp())
    assert advanced.query == {"granularity": "ONE_MINUTE", "start": str(second), "end": str(second + 60)}
    assert advanced.path == "/api/v3/brokerage/market/products/BTC-USD/candles"


def test_lesson_27_one_failing_symbol_fails_alone_and_visibly(server: Server, client: Clients) -> None:
    market = Exchange()

    def answer(request: Request) -> Reply:
        return Reply(404, {"message": "NotFound"}) if request.symbol == "NOPE-USD" else market(request)

    server.answer = answer
    seen: list[tuple[str, int, int]] = []
    ranges = dict.fromkeys(("BTC-USD", "NOPE-USD", "SOL-USD"), (T0, T0 + 700 * MINUTE))
    got = client().candles_of(ranges, now=LATER, on_page=lambda *page: seen.append(page))

    assert list(got) == list(ranges)
    failed = got["NOPE-USD"]
    assert isinstance(failed, MarketError)
    assert str(failed).startswith("NOPE-USD: ") and "NotFound" in str(failed) and "V7_SYMBOLS" in str(failed)
    for symbol in ("BTC-USD", "SOL-USD"):
        fetched = got[symbol]
        assert isinstance(fetched, Fetched)
        assert len(fetched.frame) == 700 and set(fetched.frame["symbol"]) == {symbol}
        assert [page for page in seen if page[0] == symbol] == [(symbol, i, 3) for i in (1, 2, 3)]


def test_an_impossible_candle_fails_its_symbol_with_the_row(server: Server, client: Clients) -> None:
    market = Exchange()

    def answer(request: Request) -> Reply:
        reply = market(request)
        if request.symbol == "ETH-USD":
            reply.body[1][1] = -1.0
        return reply

    server.answer = answer
    got = client().candles_of(dict.fromkeys(("BTC-USD", "ETH-USD"), (T0, T0 + 3 * MINUTE)), now=LATER)
    assert isinstance(got["BTC-USD"], Fetched)
    assert "ETH-USD: the candle 2023-12-11T02:01:00Z (" in str(got["ETH-USD"]) and "low=-1" in str(got["ETH-USD"])


def test_a_failing_symbol_stops_asking_for_its_other_pages(server: Server, client: Clients) -> None:
    server.script(Reply(400, {"message": "no"}))
    with pytest.raises(MarketError, match=r"BTC-USD: .*400: no"):
        client(workers=1).candles("BTC-USD", T0, T0 + 9000 * MINUTE, now=LATER)
    assert len(server.requests) < 15


def test_a_mistake_in_the_program_is_raised_and_not_taken_for_a_symbols_failure(
    server: Server, client: Clients
) -> None:
    server.answer = Exchange()

    def broken(symbol: str, done: int, total: int) -> None:
        raise KeyError("progress")

    with pytest.raises(KeyError, match="progress"):
        client().candles_of({"BTC-USD": (T0, T0 + 900 * MINUTE)}, now=LATER, on_page=broken)


def test_lesson_04_naive_times_are_refused_before_anything_is_asked(server: Server, client: Clients) -> None:
    naive = T0.replace(tzinfo=None)
    for start, end, now, name in ((naive, LATER, LATER, "start"), (T0, naive, LATER, "end"), (T0, LATER, naive, "now")):
        with pytest.raises(ValueError, match=f"{name} has no time zone"):
            client().candles("BTC-USD", start, end, now=now)
    with pytest.raises(ValueError, match=r"BTC-USD: the range starts at .* after its end"):
        client().candles("BTC-USD", LATER, T0, now=LATER)
    assert server.requests == []


def test_lesson_14_a_product_tells_its_increments(server: Server, client: Clients) -> None:
    server.answer = lambda request: Reply(
        body={"id": "DOGE-USD", "quote_increment": "0.00001", "base_increment": "0.1", "status": "online"}
    )
    product = client().product("DOGE-USD")
    assert (product.symbol, product.quote_increment, product.base_increment) == ("DOGE-USD", 0.00001, 0.1)
    assert server.requests[0].path == "/products/DOGE-USD"


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("exchange", {"iso": "…", "epoch": 1702260000.25}),
        ("advanced", {"epochSeconds": "1702260000", "epochMillis": "1702260000250"}),
    ],
)
def test_the_servers_time_comes_from_its_time_endpoint(server: Server, client: Clients, api: str, body: Any) -> None:
    server.script(Reply(body=body))
    assert client(api).server_time() == T0 + timedelta(seconds=0.25)


def test_the_servers_time_comes_from_the_date_header_where_there_is_no_endpoint(
    server: Server, client: Clients
) -> None:
    server.script(Reply(404, "no such page"))
    second = timedelta(seconds=1)  # the header has whole ones
    before = datetime.now(UTC)
    assert before - second <= client().server_time() <= datetime.now(UTC) + second


def test_the_venue_is_the_apis_name_or_what_was_passed(client: Clients) -> None:
    assert client().venue == "coinbase-exchange"
    assert client("advanced").venue == "coinbase-advanced"
    assert client(venue="sandbox").venue == "sandbox"


# --- what Coinbase really sent -----------------------------------------------------------------------------------


def test_two_recorded_pages_make_six_hundred_minutes(server: Server, client: Clients) -> None:
    bodies = {
        hour: needs_shared(f"coinbase_rest/exchange_pages/2020-03-20-{hour}.json").read_bytes()
        for hour in ("00-00", "05-00")
    }
    start = datetime(2020, 3, 20, tzinfo=UTC)
    server.answer = lambda request: Reply(body=bodies["00-00" if "T00:00" in request.query["start"] else "05-00"])
    got = client().candles("BTC-USD", start, start + timedelta(hours=10), now=LATER)
    assert len(got.frame) == 600 and got.pages == 2 and got.repairs == {}
    assert list(got.frame["open_time"]) == [start + i * MINUTE for i in range(600)]
    newest = [1584698340, 6741.99, 6742.01, 6742.01, 6742.01, 44.3096844]
    last = got.frame.iloc[-1]
    assert [last["open_time"].timestamp(), *last[["low", "high", "open", "close", "volume"]]] == newest


def test_a_recorded_advanced_answer_is_read_by_its_names() -> None:
    payload = json.loads(needs_shared("coinbase_rest/advanced_trade/http_candles.json").read_text())
    rows = WIRES["advanced"].read_candles(payload)
    np.testing.assert_array_equal(rows[0], [1712192400, 66312.4, 66331.99, 66055.14, 66181.6, 355.82896243])
    assert rows.shape == (2, 6)


def test_recorded_hourly_pages_hold_their_prices_within_high_and_low() -> None:
    for name in ("exchange_pages/GET-200.json", "advanced_trade/btc_usd_hourly.response.json"):
        payload = json.loads(needs_shared(f"coinbase_rest/{name}").read_text())
        rows = WIRES["exchange"].read_candles(payload if isinstance(payload, list) else payload["payload"])
        _, open_, high, low, close, _ = rows.T
        assert len(rows) >= 6 and (np.diff(rows[:, 0]) == -3600).all()
        if "advanced" in name:  # the test market's own prices are odd
            assert (low <= np.minimum(open_, close)).all() and (high >= np.maximum(open_, close)).all()


def test_a_recorded_order_book_is_read_best_first() -> None:
    advanced = json.loads(needs_shared("coinbase_rest/advanced_trade/http_product_book.json").read_text())
    book = WIRES["advanced"].read_book("BTC-USD", advanced, 3)
    assert book.bids[0] == (68923.66, 0.17189468) and book.asks[0] == (68923.67, 0.16987193)
    exchange = json.loads(needs_shared("coinbase_rest/exchange_other/book/level-2.json").read_text())
    book = WIRES["exchange"].read_book("BTC-USD", exchange, 2)
    assert book.bids == ((8966.04, 0.01), (8966.01, 5.0)) and book.asks[0] == (100000.0, 740.94423141)


def test_the_order_book_is_asked_at_level_two(server: Server, client: Clients) -> None:
    server.answer = lambda request: Reply(body={"bids": [["2", "1", 1]], "asks": [["3", "1", 1]]})
    assert client().order_book("BTC-USD").asks == ((3.0, 1.0),)
    assert (server.requests[0].path, server.requests[0].query) == ("/products/BTC-USD/book", {"level": "2"})


def test_a_recorded_product_is_read() -> None:
    payload = json.loads(needs_shared("coinbase_rest/advanced_trade/http_product.json").read_text())
    product = WIRES["advanced"].read_product(payload)
    assert (product.symbol, product.quote_increment, product.base_increment) == ("BTC-USD", 0.01, 1e-8)


@pytest.mark.parametrize(
    "payload",
    [
        {"candles": []},
        {"message": "NotFound"},
        None,
        "no",
        [1, 2],
        [[1702260000, 1, 2, 3]],
        [[1702260000, 1, 2, 3, 4, "x"]],
        [[1702260000, 1, 2, 3, 4, 5], [1702260060]],
        [[1702260000000, 1, 2, 1, 2, 3]],
        [[None, 1, 2, 1, 2, 3]],
    ],
)
def test_what_is_no_list_of_candles_is_refused(payload: Any) -> None:
    with pytest.raises(Malformed):
        WIRES["exchange"].read_candles(payload)
    if payload != {"candles": []}:
        with pytest.raises(Malformed):
            WIRES["advanced"].read_candles(payload)


def test_lesson_15_a_missing_price_is_refused_and_never_becomes_zero(server: Server, client: Clients) -> None:
    second = int(T0.timestamp())
    server.script(Reply(body=[[second, None, 2, 1, 2, 3]]))
    with pytest.raises(MarketError, match=r"BTC-USD: the candle 2023-12-11T02:00:00Z .*low=nan.*missing or not finite"):
        client().candles("BTC-USD", T0, T0 + MINUTE, now=LATER)
