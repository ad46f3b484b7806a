"""The total function over replies that were never asked for: the corpus, the recordings, every cut, and the fuzz.

corpus/malformed.jsonl has one reply a line: name, finish_reason, text (or `parts`: texts and how often each is
repeated) and the reason code that it must come to. corpus/valid.jsonl has those that are answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from v7_pipeline.analyst.base import Answer
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.reply import Abstention, parse_reply
from v7_pipeline.analyst.wire import read_completion
from v7_pipeline.store import Store
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.analyst.conftest import NOW, ScriptedServer, analyst, completion, question
from v7_pipeline_tests.shared_data import needs_shared

CORPUS = Path(__file__).parent / "corpus"


def read(name: str) -> dict[str, dict[str, Any]]:
    lines = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    assert len({case["name"] for case in cases}) == len(cases), "a name stands twice"
    return {case["name"]: case for case in cases}


MALFORMED, VALID = read("malformed"), read("valid")


def text_of(case: dict[str, Any]) -> str | None:
    return "".join(part * times for part, times in case["parts"]) if "parts" in case else case["text"]


def conforms(text: str) -> bool:
    """Whether `text` is a BUY or SELL of the stated schema, reckoned without reply.py."""
    seen: list[list[str]] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        seen.append([name for name, _ in found])
        return dict(found)

    reply = json.loads(text.strip(), object_pairs_hook=pairs)
    names = {
        "signal", "confidence", "entry", "stop", "target", "horizon_minutes", "reasoning", "key_theories",
        "would_change_my_mind",
    }  # fmt: skip

    def number(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    prices = [reply["entry"], reply["stop"], reply["target"]]
    return (
        all(len(set(keys)) == len(keys) for keys in seen)
        and set(reply) == names
        and reply["signal"] in ("BUY", "SELL")
        and number(reply["confidence"])
        and 0 <= reply["confidence"] <= 1
        and all(number(price) and 0 < price < 1e9 for price in prices)
        and (1 if reply["signal"] == "BUY" else -1) * (prices[0] - prices[1]) > 0
        and (1 if reply["signal"] == "BUY" else -1) * (prices[2] - prices[0]) > 0
        and type(reply["horizon_minutes"]) is int
        and 1 <= reply["horizon_minutes"] <= 10_080
        and isinstance(reply["reasoning"], str)
        and 1 <= len(reply["reasoning"]) <= 2_000
        and isinstance(reply["would_change_my_mind"], str)
        and len(set(reply["key_theories"])) == len(reply["key_theories"])
        and set(reply["key_theories"]) <= set(THEORY_NAMES)
    )


def assert_sound(text: str | None, finish: str | None = "stop") -> None:
    """Reading `text` ends in an abstention, a HOLD, or a BUY or SELL that the schema holds."""
    parsed = parse_reply(text, finish)
    assert isinstance(parsed, Answer | Abstention)
    if isinstance(parsed, Answer) and parsed.side != "HOLD":
        assert finish == "stop" and text is not None and conforms(text)


# --- the corpus -----------------------------------------------------------------------------


def test_the_corpus_is_large_and_every_reason_occurs() -> None:
    assert len(MALFORMED) >= 60
    assert len({(text_of(case), case["finish_reason"]) for case in MALFORMED.values()}) == len(MALFORMED)
    assert {case["reason"] for case in MALFORMED.values()} == {
        "NOT_JSON", "SCHEMA", "CONTRADICTION", "BLANK", "TRUNCATED", "FILTERED", "OVERLOADED", "UNEXPECTED_FINISH",
    }  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_lesson_16_a_malformed_reply_is_an_abstention_with_its_reason(name: str) -> None:
    case = MALFORMED[name]
    parsed = parse_reply(text_of(case), case["finish_reason"])
    assert isinstance(parsed, Abstention), parsed
    assert parsed.reason == case["reason"], parsed.detail
    assert 0 < len(parsed.detail) <= 300
    parsed.detail.encode()


@pytest.mark.parametrize("name", MALFORMED)
def test_it_is_the_same_abstention_out_of_a_completion_s_body(name: str) -> None:
    case = MALFORMED[name]
    received = read_completion(completion(text_of(case), finish=case["finish_reason"]), 1.0)
    assert received is not None
    parsed = parse_reply(received.text, received.finish_reason)
    assert isinstance(parsed, Abstention) and parsed.reason == case["reason"]


@pytest.mark.parametrize("name", VALID)
def test_a_valid_reply_is_the_answer_that_it_says(name: str) -> None:
    case = VALID[name]
    parsed = parse_reply(case["text"], "stop")
    assert isinstance(parsed, Answer) and parsed.side == case["signal"]
    assert parsed.side == "HOLD" or conforms(case["text"])


@pytest.mark.parametrize("name", VALID)
def test_a_reply_cut_at_any_byte_or_character_is_no_answer_unless_it_is_whole(name: str) -> None:
    text = VALID[name]["text"]
    data = text.encode()
    pieces = [text[:end] for end in range(len(text))] + [text[begin:] for begin in range(1, len(text))]
    for handling in ("replace", "ignore", "surrogateescape"):
        pieces += [data[:end].decode("utf-8", handling) for end in range(len(data))]
    for piece in pieces:
        parsed = parse_reply(piece, "stop")
        assert isinstance(parsed, Abstention) or piece.strip() == text.strip(), piece


@pytest.mark.parametrize("name", [name for name in VALID if VALID[name]["signal"] != "HOLD"])
def test_a_reply_with_any_one_character_left_out_is_sound(name: str) -> None:
    text = VALID[name]["text"]
    for place in range(len(text)):
        assert_sound(text[:place] + text[place + 1 :])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("free prose", "another side in prose"), ("markdown fence", "confidence in percent"),
        ("BUY with its stop above", "two objects"), ("an extra key", "HOLD with a plan"),
    ],
)  # fmt: skip
def test_two_faulty_replies_end_in_an_abstention_after_exactly_two_attempts(
    serve: Callable[..., ScriptedServer], ledger: Ledger, store: Store, first: str, second: str
) -> None:
    prose = {"free prose": "I would BUY now.", "another side in prose": "Then SELL, at 90 %."}
    texts = [prose[name] if name in prose else MALFORMED[name]["text"] for name in (first, second)]
    server = serve(*[(200, completion(text)) for text in texts], (200, completion(VALID["a BUY"]["text"])))
    (decision,) = analyst(ledger, server.url).decide([question()], now=NOW)
    expected = "NOT_JSON" if second in prose else MALFORMED[second]["reason"]
    assert (decision.status, decision.status_reason, decision.answer) == ("abstained", expected, None)
    calls = store.query("SELECT attempt, status, raw_reply FROM llm_calls ORDER BY attempt")
    assert calls["attempt"].tolist() == [1, 2] and set(calls["status"]) == {"settled"}
    assert calls["raw_reply"].tolist() == texts
    assert len(server.requests) == 2


# --- the recordings -------------------------------------------------------------------------


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
        text = body if isinstance(body, str) else json.dumps(body)
        assert read_completion(text, 1.0) is None
        assert isinstance(parse_reply(text, "stop"), Abstention)


def test_recorded_exchanges_are_read_and_are_no_decisions() -> None:
    whole = streamed = 0
    for path in sorted(needs_shared("deepseek/cassettes").glob("*.yaml")):
        for exchange in yaml.safe_load(path.read_text())["interactions"]:
            response = exchange["response"]
            if "parsed_body" in response:
                received = read_completion(json.dumps(response["parsed_body"]), 1.0)
                assert received is not None and received.model
                assert isinstance(parse_reply(received.text, received.finish_reason), Abstention)
                whole += 1
            else:  # server-sent events, which are never asked for
                body = response["body"]["string"]
                text = body if isinstance(body, str) else body.decode()
                assert read_completion(text, 1.0) is None
                assert isinstance(parse_reply(text, "stop"), Abstention)
                streamed += 1
    assert whole >= 2 and streamed >= 1


# --- fuzz -----------------------------------------------------------------------------------

_BUY = json.loads(VALID["a BUY"]["text"])
_TEXTS = st.sampled_from([case["text"] for case in VALID.values()])
_FINISHES = st.sampled_from(["stop", "stop", "stop", "length", "tool_calls", "", None])
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*_BUY, "x"]), inner, max_size=9),
    max_leaves=12,
)
_PRICE = st.floats(min_value=-1, max_value=5_000, width=32) | st.sampled_from([2243.1, 2251.37, 2268.95, 2233.8, None])


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid reply with pieces left out, put in, doubled, or taken from another."""
    text = draw(_TEXTS)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = min(begin + draw(st.integers(0, 12)), len(text))
        other = draw(_TEXTS)
        start = draw(st.integers(0, len(other)))
        piece = draw(
            st.sampled_from(
                ["", text[begin:end] * 2, other[start : start + 30], *'{}[]",:\\ \n-+.0159eE', "null", "NaN"]
            )
            | st.text(max_size=3)
        )
        text = text[:begin] + piece + text[end:]
    return text


@given(st.text(max_size=200) | _JSON.map(json.dumps), _FINISHES)
@example("[" * 100_000, "stop")
def test_reading_any_text_is_total(text: str, finish: str | None) -> None:
    assert_sound(text, finish)


@given(mutated(), _FINISHES)
def test_no_mutation_of_a_valid_reply_gets_a_decision_past_the_schema(text: str, finish: str | None) -> None:
    assert_sound(text, finish)


@given(st.fixed_dictionaries({}, optional={name: _JSON | st.just(value) for name, value in _BUY.items()}))
def test_no_value_of_any_kind_gets_a_decision_past_the_schema(changes: dict[str, Any]) -> None:
    assert_sound(json.dumps(_BUY | changes))


@given(
    signal=st.sampled_from(["BUY", "SELL", "HOLD"]), entry=_PRICE, stop=_PRICE, target=_PRICE,
    confidence=st.floats(-0.5, 1.5), horizon=st.integers(-5, 11_000) | st.none(),
)  # fmt: skip
@example("BUY", 2251.37, 2243.1, 2268.95, 1.0, 1)
@example("SELL", 2251.37, 2268.95, 2243.1, 0.0, 10_080)
def test_of_plans_exactly_the_consistent_ones_are_decisions(
    signal: str, entry: Any, stop: Any, target: Any, confidence: float, horizon: int | None
) -> None:
    plan = {"entry": entry, "stop": stop, "target": target, "horizon_minutes": horizon}
    text = json.dumps(_BUY | plan | {"signal": signal, "confidence": confidence})
    parsed = parse_reply(text, "stop")
    decided = isinstance(parsed, Answer) and parsed.side != "HOLD"
    whole = None not in (entry, stop, target, horizon)
    assert decided == (signal != "HOLD" and whole and conforms(text))
