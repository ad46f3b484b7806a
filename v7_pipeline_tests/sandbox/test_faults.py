"""Each fault, as a client over real HTTP meets it."""

from __future__ import annotations

import json
import time

import pytest
import requests

from v7_pipeline.sandbox.faults import Faults
from v7_pipeline_tests.sandbox.conftest import MINUTE_S, Client
from v7_pipeline_tests.shared_data import needs_shared

PAST = MINUTE_S - 86_400


def switch(client: Client, **fault: object) -> requests.Response:
    return requests.post(f"{client.server.url}/_faults", json=fault, timeout=60)


def page(client: Client, symbol: str = "BTC-USD") -> requests.Response:
    return client.candles(PAST, PAST + 600, symbol=symbol)


def content(answer: requests.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


# --- the switch -----------------------------------------------------------------------------


def test_a_fault_is_listed_counted_down_and_gone(client: Client) -> None:
    assert switch(client, path="candles", kind="status", status=500, count=2).status_code == 201
    listed = requests.get(f"{client.server.url}/_faults", timeout=60).json()
    assert [(f["path"], f["kind"], f["status"], f["count"]) for f in listed] == [("candles", "status", 500, 2)]
    assert [page(client).status_code for _ in range(4)] == [500, 500, 200, 200]
    assert requests.get(f"{client.server.url}/_faults", timeout=60).json() == []


def test_delete_switches_all_off(client: Client) -> None:
    switch(client, path="*", kind="status", status=503)
    assert page(client).status_code == client.chat().status_code == client.get("/time").status_code == 503
    assert client.get("/health").status_code == 200  # the sandbox's own pages are spared
    assert requests.delete(f"{client.server.url}/_faults", timeout=60).json() == []
    assert page(client).status_code == 200


def test_a_fault_can_strike_one_product_alone(client: Client) -> None:
    switch(client, path="candles", kind="status", symbol="ETH-USD")
    assert page(client).status_code == 200 and page(client, "ETH-USD").status_code == 500
    assert client.advanced(PAST, PAST + 60, symbol="ETH-USD").status_code == 500


def test_a_chats_product_is_its_prompts(client: Client) -> None:
    switch(client, path="chat", kind="blank", symbol="SOL-USD")
    for symbol, blank in (("SOL-USD", True), ("BTC-USD", False)):
        text = json.dumps({"readings": {}, "symbol": symbol, "format": "json"})
        assert (not content(client.chat(messages=[{"role": "user", "content": text}])).strip()) is blank


def test_faults_queue_in_the_order_they_were_asked_for(client: Client) -> None:
    switch(client, path="candles", kind="status", status=502, count=1)
    switch(client, path="candles", kind="status", status=429, count=1)
    assert [page(client).status_code for _ in range(3)] == [502, 429, 200]


@pytest.mark.parametrize(
    "spec",
    [
        [],
        {"kind": "status"},
        {"path": "candles", "kind": "explode"},
        {"path": "nowhere", "kind": "status"},
        {"path": "chat", "kind": "blank", "x": 1},
        {"path": "candles", "kind": "status", "count": 0},
    ],
)
def test_a_fault_that_does_not_exist_is_refused_with_a_sentence(client: Client, spec: object) -> None:
    answer = requests.post(f"{client.server.url}/_faults", json=spec, timeout=60)
    assert answer.status_code == 422 and "a fault is like" in answer.json()["error"]
    assert client.server.faults.list() == []


def test_a_count_is_taken_once_each_under_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    faults = Faults()
    faults.add({"path": "chat", "kind": "blank", "count": 50})
    with ThreadPoolExecutor(8) as pool:
        met = list(pool.map(lambda _: faults.take("chat", None) is not None, range(200)))
    assert sum(met) == 50


# --- statuses -------------------------------------------------------------------------------


def test_a_status_carries_retry_after_and_the_apis_own_body(client: Client) -> None:
    switch(client, path="candles", kind="status", status=429, retry_after=2, count=2)
    exchange, advanced = page(client), client.advanced(PAST, PAST + 60)
    assert exchange.headers["Retry-After"] == "2"
    assert exchange.json() == {"message": "Public rate limit exceeded"}
    assert advanced.json() == {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}


@pytest.mark.parametrize("status", [401, 402])
def test_chat_statuses_have_the_observed_bodies(client: Client, status: int) -> None:
    lines = needs_shared("deepseek/deepseek_error_bodies_observed.jsonl").read_text().splitlines()
    observed = next(e["body"] for e in map(json.loads, lines) if e["status"] == status)
    switch(client, path="chat", kind="status", status=status)
    answer = client.chat()
    assert (answer.status_code, answer.json()) == (status, observed)


def test_a_status_can_be_an_html_page(client: Client) -> None:
    switch(client, path="candles", kind="status", status=502, body="<html>under attack</html>")
    answer = page(client)
    assert answer.headers["content-type"].startswith("text/html") and answer.text == "<html>under attack</html>"


# --- connections and time -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "said"), [("outage", "RemoteDisconnected"), ("reset", "ConnectionResetError")])
def test_outage_and_reset_end_the_connection_without_an_answer(client: Client, kind: str, said: str) -> None:
    switch(client, path="*", kind=kind, count=2)
    for ask in (page, Client.chat):
        with pytest.raises(requests.ConnectionError, match=said):
            ask(Client(client.server))
    assert page(client).status_code == 200


@pytest.mark.parametrize("path", ["candles", "chat"])
def test_a_truncated_body_ends_before_its_length(client: Client, path: str) -> None:
    switch(client, path=path, kind="truncate", count=1)
    with pytest.raises(
        (requests.exceptions.ChunkedEncodingError, requests.ConnectionError), match=r"IncompleteRead|more expected"
    ):
        page(client) if path == "candles" else client.chat()
    assert page(client).status_code == 200


def test_a_slow_drip_beats_a_time_out_between_bytes_and_arrives_whole(client: Client) -> None:
    switch(client, path="candles", kind="slow_drip", delay_s=1.2, count=1)
    begun = time.monotonic()
    answer = requests.get(
        f"{client.server.url}/products/BTC-USD/candles",
        params={"granularity": 60, "start": PAST, "end": PAST + 600},
        timeout=1.0,  # longer than any pause between two bytes, shorter than the whole
    )
    assert time.monotonic() - begun > 1.0
    assert answer.json() == page(client).json()


def test_blank_lines_come_before_a_queued_completion(client: Client) -> None:
    switch(client, path="chat", kind="blank_lines", delay_s=0.5, count=1)
    begun = time.monotonic()
    answer = client.chat()
    assert time.monotonic() - begun > 0.4
    assert answer.text.startswith("\n\n") and json.loads(content(answer))["signal"] == "HOLD"


def test_a_client_that_leaves_a_drip_does_not_hold_the_server(client: Client) -> None:
    switch(client, path="candles", kind="slow_drip", delay_s=300, count=1)
    with requests.get(
        f"{client.server.url}/products/BTC-USD/candles",
        params={"granularity": 60, "start": PAST, "end": PAST + 600},
        stream=True,
        timeout=60,
    ) as answer:
        next(answer.iter_content(1))
    assert page(client).status_code == 200


def test_a_delay_holds_the_answer_back(client: Client) -> None:
    switch(client, path="time", kind="delay", delay_s=30, count=1)
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{client.server.url}/time", timeout=0.1)


# --- contents -------------------------------------------------------------------------------


def test_an_empty_answer_is_the_apis_empty_list(client: Client) -> None:
    switch(client, path="candles", kind="empty", count=2)
    assert page(client).json() == []
    assert client.advanced(PAST, PAST + 60).json() == {"candles": []}
    switch(client, path="chat", kind="empty")
    assert client.chat().json()["choices"] == []


def test_malformed_json_strikes_the_body_of_candles_and_the_content_of_chats(client: Client) -> None:
    switch(client, path="*", kind="malformed_json", count=2)
    with pytest.raises(requests.JSONDecodeError):
        page(client).json()
    answer = client.chat()
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(json.JSONDecodeError):
        json.loads(content(answer))
    switch(client, path="chat", kind="malformed_json", where="body", count=1)
    with pytest.raises(requests.JSONDecodeError):
        client.chat().json()


def test_a_blank_completion_is_spaces_with_finish_reason_stop(client: Client) -> None:
    switch(client, path="chat", kind="blank")
    answer = client.chat()
    assert content(answer) and not content(answer).strip()
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    switch(client, path="candles", kind="blank")
    assert not page(client).text.strip()


def test_a_wrong_schema_is_json_of_another_form(client: Client) -> None:
    switch(client, path="*", kind="wrong_schema")
    assert isinstance(page(client).json()[0], dict)
    assert "start" not in client.advanced(PAST, PAST + 60).json()["candles"][0]
    assert "signal" not in json.loads(content(client.chat()))


def test_the_chat_can_be_made_to_say_anything(client: Client) -> None:
    switch(client, path="chat", kind="content", content="I would not BUY here")
    assert content(client.chat()) == "I would not BUY here"


@pytest.mark.parametrize("reason", ["length", "content_filter", "insufficient_system_resource"])
def test_the_chat_can_end_for_any_reason(client: Client, reason: str) -> None:
    switch(client, path="chat", kind="finish", finish_reason=reason)
    answer = client.chat()
    assert answer.json()["choices"][0]["finish_reason"] == reason
    with pytest.raises(json.JSONDecodeError):
        json.loads(content(answer))


def test_late_candles_are_those_whose_close_is_not_published_yet(client: Client) -> None:
    switch(client, path="candles", kind="late", delay_s=30, count=1)
    late = client.candles(MINUTE_S - 600, MINUTE_S).json()
    assert late[0][0] == MINUTE_S - 120  # 11:59 closed 20 s ago
    assert client.candles(MINUTE_S - 600, MINUTE_S).json()[0][0] == MINUTE_S


def test_a_refusal_stays_a_refusal_under_a_content_fault(client: Client) -> None:
    switch(client, path="chat", kind="blank")
    assert client.chat(key=None).status_code == 401
