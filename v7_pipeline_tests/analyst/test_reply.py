"""Replies: what conforms is read, and everything else is an abstention with its reason; nothing raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.analyst.base import Answer
from v7_pipeline.analyst.reply import Abstention, parse_reply, reply_of
from v7_pipeline.analyst.wire import read_completion, redacted
from v7_pipeline_tests.analyst.conftest import BUY, HOLD, SELL, completion
from v7_pipeline_tests.shared_data import needs_shared


@pytest.mark.parametrize("reply", [BUY, SELL, HOLD])
def test_a_conforming_reply_is_read_in_full(reply: dict[str, Any]) -> None:
    answer = parse_reply(f" \n{json.dumps(reply, indent=2)}\n", "stop")
    assert isinstance(answer, Answer)
    assert (answer.side, answer.confidence, answer.stop_price) == (reply["signal"], reply["confidence"], reply["stop"])
    assert reply_of(answer) == reply


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in BUY.items() if key != name}


MALFORMED: dict[str, tuple[str, str]] = {
    "free text": ("I would not BUY here", "NOT_JSON"),
    "a word": ("BUY", "NOT_JSON"),
    "a quoted word": ('"BUY"', "NOT_JSON"),
    "markdown fence": (f"```json\n{json.dumps(BUY)}\n```", "NOT_JSON"),
    "prose before": (f"Here you are: {json.dumps(BUY)}", "NOT_JSON"),
    "prose after": (f"{json.dumps(BUY)} Good luck!", "NOT_JSON"),
    "two objects": (json.dumps(BUY) + json.dumps(SELL), "NOT_JSON"),
    "a list": (json.dumps([BUY]), "NOT_JSON"),
    "null": ("null", "NOT_JSON"),
    "number": ("1", "NOT_JSON"),
    "blank": ("   \n \t ", "BLANK"),
    "empty": ("", "BLANK"),
    "cut": (json.dumps(BUY)[:-1], "NOT_JSON"),
    "single quotes": (str(BUY), "NOT_JSON"),
    "NaN": (json.dumps(BUY | {"confidence": float("nan")}), "NOT_JSON"),
    "Infinity": (json.dumps(BUY | {"target": float("inf")}), "NOT_JSON"),
    "overflow": (json.dumps(BUY).replace("37420.85", "1e999"), "SCHEMA"),
    "huge integer": (json.dumps(BUY).replace("37420.85", "9" * 400), "SCHEMA"),
    "endless integer": (json.dumps(BUY).replace("37420.85", "9" * 9999), "NOT_JSON"),
    "nested without end": ("[" * 100_000, "NOT_JSON"),
    "repeated key": (json.dumps(BUY)[:-1] + ', "signal": "SELL"}', "NOT_JSON"),
    "percent string": (json.dumps(BUY | {"confidence": "70%"}), "SCHEMA"),
    "number as string": (json.dumps(BUY | {"entry": "37123.45"}), "SCHEMA"),
    "confidence in percent": (json.dumps(BUY | {"confidence": 70}), "SCHEMA"),
    "negative confidence": (json.dumps(BUY | {"confidence": -0.05}), "SCHEMA"),
    "confidence as truth": (json.dumps(BUY | {"confidence": True}), "SCHEMA"),
    "confidence missing": (json.dumps(_without("confidence")), "SCHEMA"),
    "signal missing": (json.dumps(_without("signal")), "SCHEMA"),
    "lower case": (json.dumps(BUY | {"signal": "buy"}), "SCHEMA"),
    "other language": (json.dumps(BUY | {"signal": "买入"}), "SCHEMA"),
    "LONG": (json.dumps(BUY | {"signal": "LONG"}), "SCHEMA"),
    "two signals": (json.dumps(BUY | {"signal": ["BUY", "SELL"]}), "SCHEMA"),
    "extra key": (json.dumps(BUY | {"leverage": 100}), "SCHEMA"),
    "unknown theory": (json.dumps(BUY | {"key_theories": ["astrology"]}), "SCHEMA"),
    "theories as text": (json.dumps(BUY | {"key_theories": "price_momentum"}), "SCHEMA"),
    "blank reasoning": (json.dumps(BUY | {"reasoning": ""}), "SCHEMA"),
    "half a surrogate": (json.dumps(BUY).replace("Momentum", "\\ud800"), "SCHEMA"),
    "negative price": (json.dumps(BUY | {"stop": -1.0}), "SCHEMA"),
    "horizon as fraction": (json.dumps(BUY | {"horizon_minutes": 240.5}), "SCHEMA"),
    "horizon of a year": (json.dumps(BUY | {"horizon_minutes": 525_600}), "SCHEMA"),
    "BUY with its stop above": (json.dumps(BUY | {"stop": 37_200.0}), "CONTRADICTION"),
    "BUY with its target below": (json.dumps(BUY | {"target": 37_000.0}), "CONTRADICTION"),
    "BUY with stop at entry": (json.dumps(BUY | {"stop": BUY["entry"]}), "CONTRADICTION"),
    "SELL with a BUY's plan": (json.dumps(BUY | {"signal": "SELL"}), "CONTRADICTION"),
    "BUY without a stop": (json.dumps(BUY | {"stop": None}), "CONTRADICTION"),
    "BUY without a horizon": (json.dumps(BUY | {"horizon_minutes": None}), "CONTRADICTION"),
    "HOLD with a plan": (json.dumps(BUY | {"signal": "HOLD"}), "CONTRADICTION"),
    "refusal": ("I'm sorry, I can't give financial advice.", "NOT_JSON"),
    "byte order mark": ("\ufeff" + json.dumps(BUY), "NOT_JSON"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_lesson_16_a_malformed_reply_is_an_abstention_with_its_reason(name: str) -> None:
    text, reason = MALFORMED[name]
    parsed = parse_reply(text, "stop")
    assert isinstance(parsed, Abstention), parsed
    assert parsed.reason == reason
    assert 0 < len(parsed.detail) <= 300
    parsed.detail.encode()


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("length", "TRUNCATED"), ("content_filter", "FILTERED"), ("insufficient_system_resource", "OVERLOADED"),
        ("tool_calls", "UNEXPECTED_FINISH"), ("something_new", "UNEXPECTED_FINISH"), (None, "UNEXPECTED_FINISH"),
    ],
)  # fmt: skip
def test_a_reply_that_did_not_end_by_itself_is_never_parsed(finish: str | None, reason: str) -> None:
    parsed = parse_reply(json.dumps(BUY), finish)
    assert isinstance(parsed, Abstention)
    assert parsed.reason == reason


def test_a_reply_cut_at_any_place_is_an_abstention() -> None:
    text = json.dumps(BUY)
    assert all(isinstance(parse_reply(text[:end], "stop"), Abstention) for end in range(len(text)))


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*BUY, "x"]), inner, max_size=9),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | _json.map(json.dumps), st.sampled_from(["stop", "length", "", None]))
def test_reading_a_reply_is_total(text: str, finish: str | None) -> None:
    assert isinstance(parse_reply(text, finish), Answer | Abstention)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional={key: _json | st.just(value) for key, value in BUY.items()}))
def test_no_buy_or_sell_without_a_whole_consistent_plan(changes: dict[str, Any]) -> None:
    parsed = parse_reply(json.dumps(BUY | changes), "stop")
    if isinstance(parsed, Answer) and parsed.side != "HOLD":
        assert parsed.stop_price and parsed.entry_price and parsed.target_price and parsed.horizon_minutes
        low, high = sorted((parsed.stop_price, parsed.target_price))
        assert low < parsed.entry_price < high
        assert (parsed.stop_price < parsed.target_price) == (parsed.side == "BUY")
        assert 0 <= parsed.confidence <= 1


@pytest.mark.parametrize("name", ["json", "text", "reasoning", "tool-call"])
def test_recorded_answers_of_other_questions_are_read_and_are_no_decisions(name: str) -> None:
    body = needs_shared(f"deepseek/deepseek-{name}.json").read_text()
    received = read_completion(body, 1.0)
    assert received is not None and received.usage is not None
    recorded = json.loads(body)["usage"]
    assert received.usage.prompt == recorded["prompt_tokens"]
    assert received.usage.cache_hit == recorded["prompt_cache_hit_tokens"]
    assert received.model and received.fingerprint
    assert isinstance(parse_reply(received.text, received.finish_reason), Abstention)


def test_recorded_error_bodies_are_no_completions() -> None:
    for line in needs_shared("deepseek/deepseek_error_bodies_observed.jsonl").read_text().splitlines():
        body = json.loads(line)["body"]
        assert read_completion(body if isinstance(body, str) else json.dumps(body), 1.0) is None


@pytest.mark.parametrize(
    "body", ["", "\n\n\n", "{}", "[]", '{"choices": []}', '{"choices": [{"message": null}]}', "[" * 10**5]
)
def test_a_body_that_is_no_completion_is_none(body: str) -> None:
    assert read_completion(body, 1.0) is None


@pytest.mark.parametrize(
    "usage",
    [None, [], {}, {"prompt_tokens": "9", "completion_tokens": 1}, {"prompt_tokens": -1, "completion_tokens": 1},
     {"prompt_tokens": 1, "completion_tokens": 1, "prompt_cache_hit_tokens": 2},
     {"prompt_tokens": True, "completion_tokens": 1}],
)  # fmt: skip
def test_usage_that_makes_no_sense_counts_as_none(usage: Any) -> None:
    received = read_completion(completion("{}", usage=usage), 1.0)
    assert received is not None and received.usage is None


def test_what_comes_back_can_always_be_stored() -> None:
    received = read_completion(completion("half \ud800 a pair"), 1.0)
    assert received is not None and received.text == "half ? a pair"


def test_lesson_30_redaction_removes_the_secret_and_bounds_the_text() -> None:
    text = redacted("key sk-abc\n is wrong, sk-abc! " + "x" * 999, "sk-abc")
    assert "sk-abc" not in text and "\n" not in text and len(text) <= 300
