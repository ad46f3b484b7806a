"""Retries, rate limit, deadlines and messages, against a scripted server on this machine."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from v7_pipeline.market.coinbase import CoinbaseClient, MarketError
from v7_pipeline.market.transport import process_limiter
from v7_pipeline.market.wire import error_text
from v7_pipeline_tests.market.conftest import MINUTE, T0, Clients, Exchange, Reply, Server
from v7_pipeline_tests.ports import free_port
from v7_pipeline_tests.shared_data import needs_shared

LATER = T0 + timedelta(days=1)
WINDOW = (T0, T0 + 3 * MINUTE)
GOOD = Exchange()


def failing_first(server: Server, *replies: Reply) -> None:
    """`replies` in turn, then good answers."""
    left = list(replies)
    server.answer = lambda request: left.pop(0) if left else GOOD(request)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500, "oops"),
        Reply(502, "<html><body>under attack</body></html>"),
        Reply(503, ""),
        Reply(429, {"message": "Public rate limit exceeded"}),
        Reply(401, "401 Client Error: Unauthorized Unauthorized"),
        Reply(200, ""),
        Reply(200, "   "),
        Reply(200, "[[1702260000, 1, 2"),
        Reply(200, {"message": "surprise"}),
        Reply(200, "<html></html>"),
        Reply(200, "[" * 100_000),
        Reply(200, b"\xff\xfe[]"),
        Reply(200, "[[1702260000, 1, 2, 1, 2, 3]]", promised=5000),
    ],
    ids=lambda reply: f"{reply.status} {reply.encoded()[:18]!r}{' truncated' if reply.promised else ''}",
)
def test_what_may_pass_is_asked_again(server: Server, client: Clients, reply: Reply) -> None:
    failing_first(server, reply, reply)
    assert len(client().candles("BTC-USD", *WINDOW, now=LATER).frame) == 3
    assert len(server.requests) == 3
    assert len(client.slept) == 2 and 0.5 <= client.slept[0] <= 1.0 <= client.slept[1] <= 1.5


def test_a_fault_that_stays_is_one_clear_sentence_after_the_last_attempt(server: Server, client: Clients) -> None:
    server.script(Reply(503, {"message": "maintenance"}))
    with pytest.raises(
        MarketError, match=rf"^BTC-USD: Coinbase has a fault \(503: maintenance\) at {server.url}; .*asked 3 times"
    ):
        client(retries=2).candles("BTC-USD", *WINDOW, now=LATER)
    assert len(server.requests) == 3


def test_an_answer_that_stays_malformed_is_a_market_error(server: Server, client: Clients) -> None:
    server.script(Reply(200, "[[1,"))
    with pytest.raises(MarketError, match=r"BTC-USD: Coinbase answered with text that is not JSON.*asked 2 times"):
        client(retries=1).candles("BTC-USD", *WINDOW, now=LATER)
    server.script(Reply(200, [[1702260000000, 1, 2, 1, 2, 3]]))
    with pytest.raises(MarketError, match=r"candle time 1702260000000, which is no time in seconds"):
        client(retries=1).candles("BTC-USD", *WINDOW, now=LATER)


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_respected(server: Server, client: Clients, date: bool) -> None:
    wanted = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True) if date else "7"
    failing_first(server, Reply(429, {"message": "slow down"}, {"Retry-After": wanted}))
    began = time.monotonic()
    client().candles("BTC-USD", *WINDOW, now=LATER)
    passed = time.monotonic() - began if date else 0.0  # a date is of whole seconds, and comes nearer meanwhile
    assert len(client.slept) == 1 and (7 if not date else 6.9 - passed) <= client.slept[0] <= 8.5


def test_a_server_that_wants_a_long_quiet_is_left_alone_at_once(server: Server, client: Clients) -> None:
    server.script(Reply(429, {"message": "banned"}, {"Retry-After": "3600"}))
    with pytest.raises(MarketError, match="wants 3600 s of quiet"):
        client().candles("BTC-USD", *WINDOW, now=LATER)
    assert len(server.requests) == 1 and client.slept == []


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410])
def test_what_asking_again_cannot_change_is_asked_once(server: Server, client: Clients, status: int) -> None:
    server.script(Reply(status, {"message": "because"}))
    with pytest.raises(MarketError, match=rf"^BTC-USD: .*\({status}: because\)"):
        client().candles("BTC-USD", *WINDOW, now=LATER)
    assert len(server.requests) == 1


def test_every_recorded_error_body_gives_a_market_error_with_the_vendors_words(server: Server, client: Clients) -> None:
    lines = needs_shared("coinbase_rest/error_bodies_observed.jsonl").read_text().splitlines()
    checked = 0
    for line in map(json.loads, lines):
        if line["status"] == 200:
            continue
        server.script(Reply(line["status"], line["body"]))
        api = "exchange" if line["api"] == "exchange" else "advanced"
        with pytest.raises(MarketError) as caught:
            client(api, retries=1).candles("NOPE-USD", *WINDOW, now=LATER)
        try:
            body = json.loads(line["body"])
            said = body.get("message") or body["error_details"]
        except ValueError:
            said = line["body"]
        assert str(caught.value).startswith("NOPE-USD: ")
        assert str(line["status"]) in str(caught.value) and said[:200] in str(caught.value)
        checked += 1
    assert checked == 11


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"errors":[{"id":"rate_limit_exceeded","message":"Too many requests"}]}', "Too many requests"),
        ('{"error":"INVALID_ARGUMENT","error_details":"start and end"}', "start and end"),
        ('{"error":"NOT_FOUND"}', "NOT_FOUND"),
        ("<!DOCTYPE html><html>" + "x" * 5000, "an HTML page instead of an answer"),
        ("", "an empty answer"),
        ("two\n lines", "two lines"),
        ('"text"', "text"),
        ("[1, 2]", "[1, 2]"),
        ("z" * 900, "z" * 200),
    ],
)
def test_the_vendors_words_are_found_in_every_form(body: str, said: str) -> None:
    assert error_text(body.encode()) == said


# --- a market that is not there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("api", "setting"), [("exchange", "V7_EXCHANGE_URL"), ("advanced", "V7_ADVANCED_URL")])
def test_no_connection_is_one_clear_sentence(api: Any, setting: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    slept: list[float] = []
    unreachable = CoinbaseClient(api=api, base_url=url, retries=1, sleep=slept.append)
    reason = r"\(the connection is refused or there is no route\)"
    said = rf"^SOL-USD: Coinbase could not be reached at {url} {reason}; check the connection or set {setting}"
    with pytest.raises(MarketError, match=said):
        unreachable.candles("SOL-USD", *WINDOW, now=LATER)
    assert len(slept) == 1


def test_an_unknown_host_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    lost = CoinbaseClient(base_url="http://no-such-host.invalid", retries=0)
    with pytest.raises(
        MarketError, match=r"could not be reached at http://no-such-host.invalid \(its name cannot be resolved\)"
    ):
        lost.candles("BTC-USD", *WINDOW, now=LATER)


@pytest.mark.parametrize("url", ["", "api.exchange.coinbase.com", "ftp://somewhere", "http://", "http://[half"])
def test_a_wrong_address_is_named_with_its_setting(url: str) -> None:
    with pytest.raises(MarketError, match=r"BTC-USD: .*no address that can be asked; set V7_EXCHANGE_URL"):
        CoinbaseClient(base_url=url).candles("BTC-USD", *WINDOW, now=LATER)


def test_the_sandbox_is_not_called_coinbase() -> None:
    client = CoinbaseClient(base_url=f"http://127.0.0.1:{free_port()}", retries=0, venue="sandbox")
    with pytest.raises(MarketError, match=r"the market \(sandbox\) could not be reached"):
        client.candles("BTC-USD", *WINDOW, now=LATER)


def test_a_dripping_answer_is_given_up_at_the_deadline(server: Server, client: Clients) -> None:
    server.script(Reply(200, " " * 1000, drip_s=0.05))
    began = time.monotonic()
    with pytest.raises(MarketError, match=r"BTC-USD: Coinbase gave no whole answer within 0.3 s at .*asked once"):
        client(timeout_s=0.3, retries=0).candles("BTC-USD", *WINDOW, now=LATER)
    assert time.monotonic() - began < 20  # the whole answer would take 50 s


def test_lesson_30_a_password_in_the_address_never_reaches_a_message(server: Server, client: Clients) -> None:
    secret = "hunter2"
    for host in (server.url.removeprefix("http://"), f"127.0.0.1:{free_port()}", "[half", "127.0.0.1:notaport"):
        for reply in (Reply(500, "x"), Reply(404, "x"), Reply(403, "x"), Reply(200, "x"), Reply(200, "x", promised=9)):
            server.script(reply)
            with pytest.raises(MarketError) as caught:
                client(base_url=f"http://user:{secret}@{host}/?key={secret}", retries=1).candles(
                    "BTC-USD", *WINDOW, now=LATER
                )
            error: BaseException | None = caught.value
            while error is not None:
                assert secret not in str(error) and secret not in repr(error)
                error = error.__cause__


# --- the rate limit ------------------------------------------------------------------------------------------------


def test_all_threads_and_clients_of_the_process_share_ten_requests_a_second(server: Server) -> None:
    server.answer = Exchange()
    clients = [CoinbaseClient(base_url=server.url, rate_per_s=10, workers=6) for _ in range(2)]
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(c.candles, "BTC-USD", T0, T0 + 3600 * MINUTE, now=LATER + timedelta(days=9)) for c in clients
        ]
        assert [len(job.result().frame) for job in jobs] == [3600, 3600]
    assert len(server.requests) == 24
    # Ten at once, ten a second later, four another second later; a busy machine can only make it longer.
    assert time.monotonic() - began > 1.95


def test_retries_are_counted_by_the_limiter_too(server: Server, client: Clients) -> None:
    asked: list[int] = []
    failing_first(server, Reply(500, ""), Reply(500, ""))
    client(limiter=lambda: asked.append(1)).candles("BTC-USD", *WINDOW, now=LATER)
    assert len(asked) == len(server.requests) == 3


def test_limiters_are_shared_by_host_whoever_the_user_is() -> None:
    shared = process_limiter("https://one.invalid", 10)
    assert process_limiter("https://user:pw@ONE.invalid/path", 10) is shared
    assert process_limiter("https://two.invalid", 10) is not shared
