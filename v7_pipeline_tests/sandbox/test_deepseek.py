"""DeepSeek's wire format over real HTTP, and that the rules answer V7's own prompt through it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from v7_pipeline.analyst.base import Answer, Question
from v7_pipeline.analyst.prompt import build_prompt
from v7_pipeline.analyst.reply import parse_reply
from v7_pipeline.sandbox.answers import document_of, rules_answer
from v7_pipeline.sandbox.deepseek import PrefixCache
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.store.schema import HEADLINE_WINDOW, theory_columns
from v7_pipeline_tests.sandbox.conftest import NOW, REPLY, Client
from v7_pipeline_tests.shared_data import needs_shared

HEADLINE_VOLATILITY = f"volatility_{HEADLINE_WINDOW}"


def keys(value: Any) -> Any:
    """The shape of a JSON document: its keys and types."""
    if isinstance(value, dict):
        return {name: keys(part) for name, part in value.items()}
    return [keys(part) for part in value] if isinstance(value, list) else type(value)


def test_an_answer_has_the_recorded_answers_shape(client: Client) -> None:
    recorded = json.loads(needs_shared("deepseek/deepseek-json.json").read_text())
    assert keys(client.chat(thinking={"type": "enabled"}).json()) == keys(recorded)
    del recorded["choices"][0]["message"]["reasoning_content"]
    assert keys(client.chat().json()) == keys(recorded)


def test_the_content_is_the_answerers_reply_as_json(client: Client) -> None:
    answer = client.chat().json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == REPLY
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (answer["model"], answer["object"]) == ("deepseek-flash", "chat.completion")
    assert answer["created"] == int(NOW.timestamp())
    assert "demo" in answer["system_fingerprint"]
    assert answer["id"] != client.chat().json()["id"]


def test_usage_adds_up_and_knows_the_prefix_cache(client: Client) -> None:
    system = {"role": "system", "content": "Answer in json. " + "The theories are as follows. " * 100}
    first, second = (
        client.chat(messages=[system, {"role": "user", "content": f'{{"readings": {{"n": {n}}}}}'}]).json()["usage"]
        for n in (1, 2)
    )
    for usage in (first, second):
        assert usage["prompt_tokens"] == usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
        assert 700 < usage["prompt_tokens"] < 1100 and 40 < usage["completion_tokens"] < 150
    assert first["prompt_cache_hit_tokens"] == 0
    assert second["prompt_cache_hit_tokens"] > 0.8 * second["prompt_tokens"]
    assert second["prompt_cache_hit_tokens"] % 64 == 0


def test_the_prefix_cache_matches_whole_prefixes_only_and_forgets() -> None:
    cache = PrefixCache(size=8)
    text = "a" * 1000
    assert cache.hits(text) == 0 and cache.hits(text) == 256
    assert cache.hits("b" + text) == 0
    for n in range(8):
        cache.hits(str(n) * 300)
    assert cache.hits(text) == 0


def test_thinking_is_on_unless_switched_off_and_costs(client: Client) -> None:
    thinking, plain = client.chat(thinking=None).json(), client.chat().json()
    assert thinking["choices"][0]["message"]["reasoning_content"]
    assert "reasoning_content" not in plain["choices"][0]["message"]
    assert thinking["usage"]["completion_tokens"] > 5 * plain["usage"]["completion_tokens"]


def test_max_tokens_cuts_the_answer_with_finish_reason_length(client: Client) -> None:
    answer = client.chat(max_tokens=20).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] <= 20
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("key", [None, "", "sk-INVALID-key"])
def test_without_a_good_key_comes_a_401_that_hides_it(client: Client, key: str | None) -> None:
    for answer in (
        client.chat(key=key),
        requests.get(
            f"{client.server.url}/user/balance", headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=60
        ),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert "sk-INVALID" not in answer.text


def test_the_balance_is_in_the_documented_form(client: Client) -> None:
    answer = requests.get(f"{client.server.url}/user/balance", headers={"Authorization": "Bearer k"}, timeout=60).json()
    assert answer["is_available"] is True
    assert answer["balance_infos"][0]["currency"] == "USD" and float(answer["balance_infos"][0]["total_balance"]) > 0


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"model": "deepseek-chat"}, 400, "Model Not Exist"),
        ({"messages": []}, 400, "Empty input messages"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, 422, "messages[0]"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 400, "must contain the word 'json'"),
        ({"temperature": 3}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"stream": True}, 422, "stream"),
    ],
)
def test_wrong_parameters_are_refused(client: Client, changes: dict[str, Any], status: int, said: str) -> None:
    answer = client.chat(**changes)
    assert answer.status_code == status and said in answer.json()["error"]["message"]


def test_the_openai_client_reads_it(client: Client) -> None:
    from openai import OpenAI

    with OpenAI(api_key="demo-key", base_url=client.server.url, max_retries=0) as openai:
        answer = openai.chat.completions.create(
            model="deepseek-flash",
            messages=[{"role": "user", "content": 'Answer in json: {"readings": {}}'}],
            response_format={"type": "json_object"},
            extra_body={"thinking": {"type": "disabled"}},
        )
    assert json.loads(answer.choices[0].message.content or "") == REPLY
    assert answer.usage is not None and answer.usage.prompt_tokens > 0
    assert client.chat(prefix="/v1").status_code == 200


# --- the document and the rules -------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"readings": {"a": 1}, "symbol": "BTC-USD"}',
        'Readings follow.\n```json\n{"readings": {"a": 1}, "symbol": "BTC-USD"}\n```\nAnswer in json.',
        'Form: {"signal": "HOLD"} and {broken; now {"readings": {"a": 1}, "symbol": "BTC-USD"} end}',
    ],
)
def test_the_document_is_found_bare_fenced_or_among_other_braces(text: str) -> None:
    assert document_of([{"role": "user", "content": text}]) == {"readings": {"a": 1}, "symbol": "BTC-USD"}


def test_the_newest_user_message_with_a_document_counts() -> None:
    """A repair prompt names the fault in a last message without a document; an assistant's JSON is no prompt."""
    messages = [
        {"role": "system", "content": '{"readings": "example"}'},
        {"role": "user", "content": '{"readings": 1}'},
        {"role": "user", "content": '{"readings": 2}'},
        {"role": "assistant", "content": '{"readings": 3}'},
        {"role": "user", "content": "That was no JSON. Answer again."},
    ]
    assert document_of(messages) == {"readings": 2}
    assert document_of(messages[:1]) is None


def test_lesson_02_a_prompt_without_readings_is_an_error_and_never_a_hold() -> None:
    with SandboxServer(clock=lambda: NOW) as server:
        answer = Client(server).chat(messages=[{"role": "user", "content": "json please"}])
        assert answer.status_code == 400 and "readings" in answer.json()["error"]["message"]
    with pytest.raises(ValueError, match="readings"):
        rules_answer([{"role": "user", "content": "{}"}])


def question(vote: float) -> Question:
    """A scan's question in which every theory votes alike, and strongly."""
    parts = {"vote": vote, "score": 0.9, "percentile": 0.99, HEADLINE_VOLATILITY: 5e-4}
    names = [column.name for column in theory_columns()]
    return Question(
        signal_id="v7-BTC-USD-20260303T120000Z", symbol="BTC-USD", strategy="v7", as_of=NOW, features_as_of=NOW,
        readings={name: parts.get(name, parts.get(name.rpartition("_")[2], 1.0)) for name in names},
        explanations={}, market_price=90_000.0, price_age_s=20.0, quote_increment=0.01, change_24h=0.01,
        observed_share=1.0, horizon_minutes=240, reward_risk=1.5, open_position=None, room_usd=1000.0,
        aggressive=False, demo=True,
    )  # fmt: skip


@pytest.mark.parametrize(("vote", "side"), [(0.9, "BUY"), (-0.9, "SELL"), (0.0, "HOLD")])
def test_lesson_02_buy_sell_and_hold_each_travel_through_the_wire(vote: float, side: str) -> None:
    prompt = build_prompt(question(vote))
    with SandboxServer(clock=lambda: NOW) as server:
        answered = Client(server).chat(messages=list(prompt.messages)).json()
    choice = answered["choices"][0]
    answer = parse_reply(choice["message"]["content"], choice["finish_reason"])
    assert isinstance(answer, Answer), answer
    assert answer.side == side and answer.reasoning
    assert (answer.entry_price is None) is (side == "HOLD")
    # The figures that the first system measured were 640-1,094 tokens in; this prompt has ten theories' values in it.
    assert 500 < answered["usage"]["prompt_tokens"] < 6000
