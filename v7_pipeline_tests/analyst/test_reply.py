"""Replies: what conforms is read in full, what did not end by itself is not parsed; malformed ones: test_corpus.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from v7_pipeline.analyst.base import Answer
from v7_pipeline.analyst.reply import Abstention, parse_reply, reply_of
from v7_pipeline.analyst.wire import read_completion, redacted
from v7_pipeline_tests.analyst.conftest import BUY, HOLD, SELL, completion


@pytest.mark.parametrize("reply", [BUY, SELL, HOLD])
def test_a_conforming_reply_is_read_in_full(reply: dict[str, Any]) -> None:
    answer = parse_reply(f" \n{json.dumps(reply, indent=2)}\n", "stop")
    assert isinstance(answer, Answer)
    assert (answer.side, answer.confidence, answer.stop_price) == (reply["signal"], reply["confidence"], reply["stop"])
    assert reply_of(answer) == reply


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
