"""Coinbase's wire formats and quirks over real HTTP, as the recordings have them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from v7_pipeline.sandbox.coinbase import RateLimit
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.sandbox.simulator import simulate
from v7_pipeline_tests.sandbox.conftest import MINUTE_S, NOW, Client
from v7_pipeline_tests.shared_data import needs_shared

PAST = MINUTE_S - 86_400
TOO_MANY = {
    "message": "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
}


# --- Exchange -------------------------------------------------------------------------------


def test_rows_are_time_low_high_open_close_volume_newest_first(client: Client) -> None:
    rows = client.candles(PAST, PAST + 99 * 60).json()
    times = [row[0] for row in rows]
    assert times == sorted(times, reverse=True)
    truth = simulate(7, "BTC-USD", datetime.fromtimestamp(PAST, UTC), datetime.fromtimestamp(PAST + 6000, UTC))
    expected = truth[["low", "high", "open", "close", "volume"]].to_numpy()[::-1].tolist()
    assert [row[1:] for row in rows if row[0] >= PAST] == expected


def test_rows_have_the_recorded_pages_shape(client: Client) -> None:
    recorded = json.loads(needs_shared("coinbase_rest/exchange_pages/2020-03-20-05-00.json").read_text())
    served = client.candles(PAST, PAST + 299 * 60).json()
    assert {len(row) for row in served} == {len(row) for row in recorded} == {6}
    for rows in (served, recorded):
        assert all(isinstance(row[0], int) and row[0] % 60 == 0 for row in rows)
        assert all(row[1] <= min(row[3:5]) and row[2] >= max(row[3:5]) for row in rows)


@pytest.mark.parametrize("intervals", [0, 1, 299, 300])
def test_both_ends_are_inclusive_up_to_301_rows(client: Client, intervals: int) -> None:
    rows = client.candles(PAST, PAST + intervals * 60).json()
    inside = [row[0] for row in rows if row[0] >= PAST]
    truth = simulate(
        7, "BTC-USD", datetime.fromtimestamp(PAST, UTC), datetime.fromtimestamp(PAST + (intervals + 1) * 60, UTC)
    )
    assert len(inside) == len(truth)
    assert inside[0] == PAST + intervals * 60 and inside[-1] == PAST


@pytest.mark.parametrize("intervals", [301, 349, 350, 351])
def test_lesson_27_more_than_300_intervals_are_refused_with_the_exchanges_words(client: Client, intervals: int) -> None:
    answer = client.candles(PAST, PAST + intervals * 60)
    assert (answer.status_code, answer.json()) == (400, TOO_MANY)


def test_rows_before_start_are_sometimes_present_and_always_the_same(client: Client) -> None:
    early = 0
    for start in range(PAST, PAST + 24 * 60, 60):
        rows = client.candles(start, start + 600).json()
        assert rows == client.candles(start, start + 600).json()
        before = [row for row in rows if row[0] < start]
        assert len(before) <= 1
        early += len(before)
    assert 0 < early < 24


def test_lesson_27_the_forming_minute_is_included_as_far_as_it_has_come(client: Client) -> None:
    rows = client.candles(MINUTE_S - 300, MINUTE_S + 600).json()
    assert rows[0][0] == MINUTE_S
    whole = simulate(
        7, "BTC-USD", datetime.fromtimestamp(MINUTE_S, UTC), datetime.fromtimestamp(MINUTE_S + 60, UTC)
    ).iloc[0]
    assert rows[0][3] == whole["open"] and rows[0][5] < whole["volume"]


def test_quiet_minutes_are_absent(client: Client) -> None:
    present = set()
    for page in range(5):
        start = PAST + page * 300 * 60
        present |= {
            row[0] for row in client.candles(start, start + 299 * 60, symbol="SOL-USD").json() if row[0] >= start
        }
    wanted = {PAST + 60 * minute for minute in range(min(1500, (MINUTE_S - PAST) // 60 + 1))}
    assert 0 < len(wanted - present) < 200 and present <= wanted


def test_iso_and_unix_bounds_mean_the_same(client: Client) -> None:
    instant = datetime.fromtimestamp(PAST, UTC)
    wanted = client.candles(PAST, PAST + 600).json()
    end = datetime.fromtimestamp(PAST + 600, UTC)
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.000Z"):
        assert client.candles(instant.strftime(form), end.strftime(form)).json() == wanted


@pytest.mark.parametrize("query", [{}, {"start": PAST}, {"end": PAST}])
def test_without_both_bounds_comes_a_copy_up_to_five_minutes_old(client: Client, query: dict[str, Any]) -> None:
    rows = client.get("/products/BTC-USD/candles", granularity=60, **query).json()
    assert rows[0][0] == MINUTE_S // 300 * 300 - 60
    assert 295 <= len(rows) <= 300


@pytest.mark.parametrize("granularity", [120, 1800, 14400, 604800, "abc", -60, ""])
def test_other_granularities_are_refused(client: Client, granularity: Any) -> None:
    answer = client.candles(PAST, PAST + 60, granularity=granularity)
    assert (answer.status_code, answer.json()) == (400, {"message": "Unsupported granularity"})


@pytest.mark.parametrize("granularity", [300, 900, 3600, 21600, 86400])
def test_coarser_granularities_are_buckets_of_minutes(client: Client, granularity: int) -> None:
    start = PAST // granularity * granularity
    row = next(r for r in client.candles(start, start, granularity=granularity).json() if r[0] == start)
    truth = simulate(7, "BTC-USD", datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(start + granularity, UTC))
    truth = truth[truth["open_time"] < NOW.replace(second=0)]
    assert row[3] == truth["open"].iloc[0]
    assert row[2] == pytest.approx(truth["high"].max()) and row[5] == pytest.approx(truth["volume"].sum(), rel=0.01)


def test_an_unknown_product_is_not_found(client: Client) -> None:
    for path in (
        "/products/NOPE-USD/candles",
        "/products/NOPE-USD",
        "/products/NOPE-USD/book",
        "/products/BTCUSD/candles",
    ):
        answer = client.get(path, granularity=60, start=PAST, end=PAST)
        assert (answer.status_code, answer.json()) == (404, {"message": "NotFound"})


@pytest.mark.parametrize(("start", "end"), [("yesterday", PAST), (PAST, "soon"), (PAST, PAST - 60), ("", "")])
def test_senseless_bounds_are_a_400_with_a_message(client: Client, start: Any, end: Any) -> None:
    answer = client.candles(start, end)
    assert answer.status_code == 400 and answer.json()["message"]


def test_observed_error_bodies_are_served_word_for_word(client: Client) -> None:
    lines = needs_shared("coinbase_rest/error_bodies_observed.jsonl").read_text().splitlines()
    observed = {(e["api"], e["status"], e["when"]): e["body"] for e in map(json.loads, lines)}
    start = PAST
    served = {
        ("exchange", 400, "(end-start)"): client.candles(start, start + 301 * 60),
        ("exchange", 400, "granularity not in"): client.candles(start, start, granularity=120),
        ("exchange", 404, "unknown product"): client.candles(start, start, symbol="NOPE-USD"),
        ("advanced_trade", 400, "351 or more"): client.advanced(start, start + 350 * 60),
        ("advanced_trade", 400, "granularity not an enum"): client.advanced(start, start, granularity="60"),
        ("advanced_trade", 404, "unknown product"): client.advanced(start, start, symbol="NOPE-USD"),
    }
    for (api, status, when), answer in served.items():
        body = next(text for (a, s, w), text in observed.items() if (a, s) == (api, status) and w.startswith(when))
        assert answer.status_code == status
        if body.startswith("{"):
            assert json.loads(body).items() <= answer.json().items()
        else:
            assert answer.text == body


# --- Advanced Trade -------------------------------------------------------------------------


def test_advanced_candles_are_strings_newest_first_and_equal_the_exchanges(client: Client) -> None:
    recorded = json.loads(needs_shared("coinbase_rest/advanced_trade/http_candles.json").read_text())["candles"]
    served = client.advanced(PAST, PAST + 99 * 60).json()["candles"]
    assert set(served[0]) == set(recorded[0])
    assert all(isinstance(value, str) for row in served for value in row.values())
    other = [row for row in client.candles(PAST, PAST + 99 * 60).json() if row[0] >= PAST]
    columns = ("start", "low", "high", "open", "close", "volume")
    assert [[float(row[name]) for name in columns] for row in served] == other
    assert not any("e" in value or value.endswith((".", ".0")) for row in served for value in row.values())


@pytest.mark.parametrize(("rows", "status"), [(299, 200), (300, 200), (301, 200), (350, 200), (351, 400)])
def test_lesson_27_advanced_serves_up_to_350_candles(client: Client, rows: int, status: int) -> None:
    answer = client.advanced(PAST, PAST + (rows - 1) * 60)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"] == "INVALID_ARGUMENT" and "less than 350" in answer.json()["error_details"]
    else:
        times = [int(row["start"]) for row in answer.json()["candles"]]
        assert times[0] == PAST + (rows - 1) * 60 and times[-1] == PAST and rows - 5 <= len(times) <= rows


def test_advanced_needs_bounds_and_obeys_a_limit(client: Client) -> None:
    path = "/api/v3/brokerage/market/products/BTC-USD/candles"
    assert client.get(path, granularity="ONE_MINUTE").status_code == 400
    assert client.get(path, granularity="ONE_MINUTE", start="2026-03-01", end="2026-03-02").status_code == 400
    assert client.advanced(PAST, PAST + 600, limit="0").status_code == 400
    assert [row["start"] for row in client.advanced(PAST, PAST + 600, limit="2").json()["candles"]] == [
        str(PAST + 600),
        str(PAST + 540),
    ]
    half_hours = client.advanced(PAST, PAST + 3600, granularity="THIRTY_MINUTE").json()["candles"]
    assert [int(row["start"]) % 1800 for row in half_hours] == [0] * len(half_hours)


# --- books, products, time ------------------------------------------------------------------


def test_exchange_book_has_the_recorded_shape(client: Client) -> None:
    recorded = json.loads(needs_shared("coinbase_rest/exchange_other/book/level-2.json").read_text())
    book = client.get("/products/BTC-USD/book", level=2).json()
    assert set(recorded) <= set(book)
    assert [type(part) for part in book["bids"][0]] == [type(part) for part in recorded["bids"][0]]
    bids, asks = ([float(level[0]) for level in book[side]] for side in ("bids", "asks"))
    assert bids == sorted(bids, reverse=True) and asks == sorted(asks) and bids[0] < asks[0]
    price = client.candles(MINUTE_S, MINUTE_S).json()[0][4]
    assert bids[0] <= price <= asks[0]
    assert len(client.get("/products/BTC-USD/book").json()["bids"]) == 1
    assert client.get("/products/BTC-USD/book", level=2).json() == book


def test_advanced_book_and_product_have_the_recorded_shape(client: Client) -> None:
    for recorded_name, path in (
        ("http_product_book.json", "/api/v3/brokerage/market/product_book"),
        ("http_product.json", "/api/v3/brokerage/market/products/BTC-USD"),
    ):
        recorded = json.loads(needs_shared(f"coinbase_rest/advanced_trade/{recorded_name}").read_text())
        served = client.get(path, product_id="BTC-USD", limit=5).json()
        assert set(served) <= set(recorded)
        for key in served:
            assert isinstance(served[key], type(recorded[key])), key
    book = client.get("/api/v3/brokerage/market/product_book", product_id="BTC-USD", limit=5).json()["pricebook"]
    assert len(book["bids"]) == len(book["asks"]) == 5 and set(book["bids"][0]) == {"price", "size"}
    assert client.get("/api/v3/brokerage/market/product_book", product_id="NOPE-USD").status_code == 404


@pytest.mark.parametrize(("symbol", "increment"), [("BTC-USD", "0.01"), ("XRP-USD", "0.0001"), ("DOGE-USD", "0.00001")])
def test_lesson_14_products_tell_their_quote_increment(client: Client, symbol: str, increment: str) -> None:
    exchange = client.get(f"/products/{symbol}").json()
    advanced = client.get(f"/api/v3/brokerage/market/products/{symbol}").json()
    assert exchange["quote_increment"] == advanced["quote_increment"] == increment
    assert exchange["base_increment"] == advanced["base_increment"] == "0.00000001"
    assert exchange["id"] == advanced["product_id"] == symbol


def test_both_clocks_tell_the_servers_time(client: Client) -> None:
    assert client.get("/time").json() == {"iso": "2026-03-03T12:00:20.000000Z", "epoch": NOW.timestamp()}
    assert client.get("/api/v3/brokerage/time").json()["epochSeconds"] == str(int(NOW.timestamp()))


# --- rate -----------------------------------------------------------------------------------


def test_the_bucket_holds_a_burst_of_15_and_refills_ten_a_second() -> None:
    limit = RateLimit()
    assert [limit.allows("a", 0.0) for _ in range(16)] == [True] * 15 + [False]
    assert limit.allows("b", 0.0)
    assert [limit.allows("a", 0.5) for _ in range(6)] == [True] * 5 + [False]


def test_over_the_limit_comes_each_apis_429_and_it_can_be_switched_off() -> None:
    with SandboxServer(clock=lambda: NOW, rate_limit=True) as server:
        client = Client(server)
        answers = [client.get("/time") for _ in range(30)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert answers[0].status_code == 200 and refused
        assert refused[0].json() == {"message": "Public rate limit exceeded"}
        advanced = [client.get("/api/v3/brokerage/time") for _ in range(5)][-1]
        assert advanced.json() == {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}
        client.session.post(f"{server.url}/_rate_limit", json={"enabled": False})
        assert all(client.get("/time").status_code == 200 for _ in range(30))


def test_by_default_there_is_no_limit(client: Client) -> None:
    assert all(client.get("/time").status_code == 200 for _ in range(40))
