"""The prompt without the theories: the same task and form of reply, candles that were closed by then, nothing else."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.analyst.base import AGGRESSIVE, CONSERVATIVE, Answer, Mode, Question, mode_of
from v7_pipeline.analyst.grounding import ungrounded_against
from v7_pipeline.analyst.plain import LOOK_BACK, largest_plain_prompt, plain_prompt, plain_version, without_theories
from v7_pipeline.analyst.prices import token_upper_bound
from v7_pipeline.analyst.prompt import build_prompt, prompt_version
from v7_pipeline.analyst.reply import parse_reply
from v7_pipeline.sandbox.answers import rules_answer
from v7_pipeline.store.schema import THEORY_NAMES, THEORY_VALUES
from v7_pipeline_tests.analyst.conftest import AS_OF, question, readings

MINUTE = timedelta(minutes=1)


def candles(drift: float = 0.0, minutes: int = 300, last: float = 37123.456) -> pd.DataFrame:
    """One-minute candles up to AS_OF that end at `last`, each `drift` (a fraction) above the one before."""
    times = pd.date_range(end=AS_OF - MINUTE, periods=minutes, freq="min")
    close = last / (1 + drift) ** np.arange(minutes - 1, -1, -1.0)
    opened = close / (1 + drift)
    return pd.DataFrame(
        {
            "open_time": times, "open": opened, "high": np.maximum(opened, close) + 1.0,
            "low": np.minimum(opened, close) - 1.0, "close": close, "volume": 2.5,
        }
    )  # fmt: skip


def document(asked: Question, given: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plain_prompt(asked, given).messages[1]["content"])
    return found


@pytest.mark.parametrize("aggressive", [False, True])
def test_no_word_and_no_value_of_a_theory_is_in_it(aggressive: bool) -> None:
    values = dict.fromkeys(readings(), 0.4321) | {"volatility_240": 4e-4}
    asked = question(readings=values, aggressive=aggressive)
    text = "\n".join(message["content"] for message in plain_prompt(asked, candles()).messages)
    # The form of the reply is one for all, so that the name of its list stays.
    text = text.replace("key_theories", "")
    words = {*THEORY_NAMES, *(name for theory in THEORY_NAMES for name, *_ in THEORY_VALUES[theory])}
    words |= {"theor", "vote", "percentile", "combined", "readings", "momentum", "random walk", "says so"}
    words -= {"volatility"}  # the market's, which a plan needs
    assert [word for word in sorted(words) if word in text.lower()] == [] and "0.4321" not in text
    assert "0.0004" in text


def test_what_both_prompts_say_of_the_task_the_plan_and_the_form_is_word_for_word_the_same() -> None:
    own, plain = (
        prompt.messages[0]["content"] for prompt in (build_prompt(question()), plain_prompt(question(), candles()))
    )
    shared = set(own.splitlines()) & set(plain.splitlines())
    for beginning in (
        "You decide BUY",
        "- Prices are in USD",
        "- confidence is your",
        "- The plan: ",
        "- reasoning: at",
    ):
        assert any(line.startswith(beginning) for line in shared), beginning
    for key in ("symbol", "as_of", "mode", "position", "plan", "context", "missing"):
        assert document(question(), candles())[key] == json.loads(build_prompt(question()).messages[1]["content"])[key]
    assert plain_version() != prompt_version() and plain_prompt(question(), candles()).version == plain_version()


@pytest.mark.parametrize("mode", [CONSERVATIVE, AGGRESSIVE])
def test_its_examples_are_valid_replies_and_its_system_part_depends_on_the_mode_alone(mode: Mode) -> None:
    asked = question(aggressive=mode is AGGRESSIVE)
    text = plain_prompt(asked, candles()).messages[0]["content"]
    examples = re.findall(r"^\{.*\}$", text, re.MULTILINE)
    said = [parse_reply(example, "stop") for example in examples]
    assert [answer.side for answer in said if isinstance(answer, Answer)] == ["BUY", "HOLD"]
    other = question("SOL-USD", 1.0, market_price=99.5, aggressive=asked.aggressive, demo=True)
    assert plain_prompt(other, candles(last=99.5)).messages[0]["content"] == text
    assert f"at least {mode_of(asked.aggressive).min_confidence:.2f}" in text


def test_candles_are_quarter_hours_up_to_the_instant_and_changes_are_since_their_open() -> None:
    told = document(question(), candles(1e-5))
    assert list(told["candles"]) == [str(minutes) for minutes in range(240, 0, -15)]
    given = candles(1e-5)
    last = given.iloc[-15:]
    wanted = [last["open"].iloc[0], last["high"].max(), last["low"].min(), last["close"].iloc[-1], 15 * 2.5]
    assert told["candles"]["15"] == pytest.approx(wanted, abs=0.005)
    for minutes in (15, 60, 240):
        change = 37123.456 / given["open"].iloc[-minutes] - 1
        assert told["market"][f"change_{minutes}m"] == pytest.approx(change, rel=1e-3)
    assert told["missing"] == ["context.order_book", "context.coingecko"]


def test_nothing_later_and_nothing_older_than_its_window_changes_it_and_order_does_not_matter() -> None:
    given = candles(1e-5)
    later = given.assign(open_time=given["open_time"] + len(given) * MINUTE, close=1.0, high=9e5, low=0.5)
    old = given[given["open_time"] < AS_OF - LOOK_BACK].assign(close=1.0, high=9e5)
    window = given[given["open_time"] >= AS_OF - LOOK_BACK]
    mixed = pd.concat([later, window, old]).sample(frac=1.0, random_state=1)
    assert plain_prompt(question(), mixed) == plain_prompt(question(), given)


def test_a_quarter_without_a_candle_is_missing_and_none_at_all_too() -> None:
    given = candles(1e-5)
    gone = (given["open_time"] >= AS_OF - 60 * MINUTE) & (given["open_time"] < AS_OF - 45 * MINUTE)
    told = document(question(), given[~gone])
    assert told["candles"]["60"] is None and told["market"]["change_60m"] is None
    assert {"candles.60", "market.change_60m"} <= set(told["missing"])
    empty = document(question(), given.iloc[:0])
    assert set(empty["candles"].values()) == {None} and empty["market"]["change_240m"] is None


def test_the_largest_prompt_bounds_what_is_asked() -> None:
    largest = token_upper_bound(largest_plain_prompt().messages)
    assert token_upper_bound(plain_prompt(question(), candles(1e-5)).messages) < largest
    assert largest < token_upper_bound(build_prompt(question()).messages), "it costs less than with the theories"


@pytest.mark.parametrize(("drift", "side"), [(3e-4, "BUY"), (-3e-4, "SELL"), (1e-6, "HOLD")])
def test_the_sandbox_follows_a_large_move_with_a_plan_and_quotes_the_document(drift: float, side: str) -> None:
    messages = plain_prompt(question(), candles(drift)).messages
    said = parse_reply(json.dumps(rules_answer(messages)), "stop")
    assert isinstance(said, Answer) and said.side == side and said.key_theories == ()
    assert ungrounded_against(said, messages) == ()
    assert (said.entry_price is None) == (side == "HOLD")
    elsewhere = Answer("HOLD", 0.8, None, None, None, None, "The change was 7.77 % and needs 3 theories.", ())
    assert ungrounded_against(elsewhere, messages) == ("7.77 %", "3"), "what only the other prompt says is none of its"


def test_without_candles_the_sandbox_holds() -> None:
    said = rules_answer(plain_prompt(question(), candles().iloc[:0]).messages)
    assert said["signal"] == "HOLD" and "not known" in said["reasoning"]
    with pytest.raises(ValueError, match="of this version"):
        rules_answer([{"role": "user", "content": '{"candles": {}, "mode": "conservative"}'}])


def test_its_name_in_the_ledger_is_one_that_decides_nothing() -> None:
    from v7_pipeline.analyst.base import ASKED_AGAIN

    assert re.sub(ASKED_AGAIN, "", without_theories("deepseek")) == "deepseek"
