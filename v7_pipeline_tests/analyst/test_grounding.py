"""Quoted numbers: what the prompt or the plan holds is grounded as written, what comes from nowhere is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v7_pipeline.analyst.base import Answer, Question
from v7_pipeline.analyst.grounding import ungrounded_against, ungrounded_numbers
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.prompt import build_prompt
from v7_pipeline.analyst.reply import parse_reply
from v7_pipeline.analyst.rules import RulesAnalyst, answer_from_prompt
from v7_pipeline.store.schema import THEORY_NAMES, theory_columns
from v7_pipeline.theories import compute_features, explain
from v7_pipeline.theories.nulls import simulate
from v7_pipeline_tests.analyst.conftest import BUY, NOW, ScriptedServer, analyst, completion, question, readings
from v7_pipeline_tests.shared_data import needs_shared

READ = {
    "p_bull": 0.8079, "momentum_240": -2.134, "volatility_240": 4.123e-4, "win_rate_n": 12345.0, "win_rate": 0.4567,
    "price_momentum_percentile": 0.0213, "cvar_95_240": 0.00113,
}  # fmt: skip
MEANING = "Momentum -2.13 standard deviations over four hours (below 98 % of random walks of this length)."


def asked(**changes: Any) -> Question:
    told = dict.fromkeys(THEORY_NAMES, "") | {"price_momentum": MEANING}
    return question(readings=readings(0.5, **READ), explanations=told, change_24h=-0.0123, **changes)


PLAN = BUY | {"confidence": 0.63}


def ungrounded(text: str, reply: dict[str, Any] | None = PLAN) -> tuple[str, ...]:
    document = json.loads(build_prompt(asked()).messages[-1]["content"])
    answer = parse_reply(json.dumps(reply), "stop") if reply else None
    assert answer is None or isinstance(answer, Answer)
    return ungrounded_numbers(text, document, answer)


@pytest.mark.parametrize(
    "text",
    [
        "the rising state has 0.81", "0.808", "0.8079", "81 %", "80.8%", "81 percent", "the 81st percentile",
        "percentile of 81", "8,079 basis points", ".81", "8.1e-1", "momentum is 2.1 standard deviations", "−2.13",
        "-2.1", "fell by 2.134", "n = 12,345", "n=12345", "12’345 outcomes", "12.3k outcomes", "$37,123.46",
        "37,123 USD",
        "down 1.23 %", "-1.2 % in 24 h", "123 bps", "below 98 % of random walks", "the 98th percentile",
        "the 2nd percentile", "a volatility of 0.0412 %", "4.1e-4 a minute", "expected shortfall 0.11 %", "8 of 10",
        "over 240 minutes (4 hours)", "all 10 theories", "needs 0.2", "needs 0.20 and 0.60", "noise gives 0.5",
        "a 95 % interval", "room for $2,500", "at 12:02Z", "at 12:02:00", "on 2026-11-20", "2026-11-20T12:02",
        "var_95, p_bull and V7 say so", "(1) momentum; (2) regime", "1) momentum. 2) regime", "no number at all", "",
        "between 0.46-0.81",
    ],
)  # fmt: skip
def test_a_number_of_the_prompt_is_grounded_however_it_is_written(text: str) -> None:
    assert ungrounded(text, None) == ()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("0.80", ["0.80"]), ("0.8", []), ("0.82", ["0.82"]), ("0.8078", ["0.8078"]), ("82 %", ["82 %"]),
        ("momentum +2.1", ["+2.1"]), ("up +1.2 %", ["+1.2 %"]), ("at 12:04", ["12:04"]),
        ("on 2026-11-21", ["2026-11-21"]), ("the 83rd percentile", ["83rd"]),
        ("n = 12,346", ["12,346"]), ("37,223.46", ["37,223.46"]), ("37.2k", ["37.2k"]),
        ("RSI is 71.3 and MACD 0.0031", ["71.3", "0.0031"]), ("3.37 then 3.37 again", ["3.37"]),
        ("0.8079 %", ["0.8079 %"]), ("1.23", ["1.23"]), ("confidence 0.63, stop 36,990.05", ["0.63", "36,990.05"]),
    ],
)  # fmt: skip
def test_a_number_from_nowhere_is_told_as_written_and_once(text: str, wrong: list[str]) -> None:
    assert list(ungrounded(text, None)) == wrong


@pytest.mark.parametrize(
    "text",
    [
        "confidence 0.63", "63 % sure", "entry 37,123.45, stop 36990.05, target 37,420.85", "a stop 133.40 USD away",
        "the target is 297.4 away", "a stop 0.36 % below and a target 0.80 % above", "reward:risk 2.23:1", "1:2.23",
        "the stop is 8.7 volatilities away",
    ],
)  # fmt: skip
def test_a_number_of_the_reply_s_own_plan_is_grounded_by_it_alone(text: str) -> None:
    assert ungrounded(text) == ()
    assert ungrounded(text, None) != ()


def test_reward_risk_net_of_the_stated_costs_is_grounded() -> None:
    """(297.40/37123.45 − 0.00085) ÷ (133.40/37123.45 + 0.00085) = 1.61."""
    assert ungrounded("1.61 after costs") == ()
    assert ungrounded("1.64 after costs") == ("1.64",)


def test_the_examples_numbers_of_the_prompt_are_not_readings() -> None:
    assert ungrounded("Momentum is 2.4 deviations, the 97.5th percentile, stop 36980.25", None) == (
        "2.4", "97.5th", "36980.25",
    )  # fmt: skip


def test_thresholds_are_those_of_the_document_s_mode() -> None:
    bold = json.loads(build_prompt(asked(aggressive=True)).messages[-1]["content"])
    careful = json.loads(build_prompt(asked()).messages[-1]["content"])
    assert ungrounded_numbers("needs 0.166", bold) == () and ungrounded_numbers("needs 0.166", careful) == ("0.166",)


def test_an_invented_reading_is_found_in_most_cases() -> None:
    """500 readings quoted to three digits and moved by a tenth to a half of themselves; the rest equals another."""
    document = json.loads(build_prompt(asked()).messages[-1]["content"])
    rng, found = random.Random(3), 0
    for _ in range(500):
        value = rng.choice([0.8079, 2.134, 0.4567, 0.0213]) * (1 + rng.choice([-1, 1]) * rng.uniform(0.1, 0.5))
        found += bool(ungrounded_numbers(f"The reading is {value:.3g}.", document))
    assert found >= 450


@given(st.text(max_size=300) | st.from_regex(r"([-+−$ ]?[0-9٣,.:'eE%kM×σ]{1,12} ?){1,9}", fullmatch=True))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    assert all(told.split()[0] in text for told in ungrounded(text))


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=9,
)


@given(document=st.dictionaries(st.sampled_from(["as_of", "mode", "market", "readings", "x"]), _json, max_size=5))
def test_any_document_is_read_without_an_exception(document: dict[str, Any]) -> None:
    answer = parse_reply(json.dumps(BUY), "stop")
    assert isinstance(answer, Answer)
    ungrounded_numbers("0.81 and 37 % at 12:02", document, answer)


def test_without_a_document_nothing_is_checked() -> None:
    answer = parse_reply(json.dumps(BUY), "stop")
    assert isinstance(answer, Answer)
    for content in ("no json", "[]", "1"):
        assert ungrounded_against(answer, [{"role": "user", "content": content}]) is None
    assert ungrounded_against(answer, [{"role": "system", "content": "{}"}]) is None


# --- where answers are made -----------------------------------------------------------------


def test_the_deepseek_analyst_tells_which_numbers_the_prompt_does_not_hold(
    ledger: Ledger, serve: Callable[..., ScriptedServer]
) -> None:
    said = BUY | {"reasoning": "Momentum 2.13 below 98 % of walks; RSI 71.3, stop 0.36 % away, regime 81 %."}
    server = serve((200, completion(json.dumps(said))), (200, completion(json.dumps(BUY | {"reasoning": "2.1 σ"}))))
    asker = analyst(ledger, server.url)
    (first,) = asker.decide([asked()], now=NOW)
    (second,) = asker.decide([asked(as_of=datetime(2026, 11, 20, 12, 4, tzinfo=UTC))], now=NOW)
    assert first.ungrounded == ("71.3",) and second.ungrounded == ()


def test_a_repaired_reply_is_checked_against_the_question_s_document(
    ledger: Ledger, serve: Callable[..., ScriptedServer]
) -> None:
    faulty = BUY | {"confidence": 71.3}
    said = BUY | {"reasoning": "Regime 0.81, RSI 71.3."}
    server = serve((200, completion(json.dumps(faulty))), (200, completion(json.dumps(said))))
    (decision,) = analyst(ledger, server.url).decide([asked()], now=NOW)
    assert decision.status == "answered" and decision.ungrounded == ("71.3",)


def test_an_abstention_has_nothing_to_check(ledger: Ledger, serve: Callable[..., ScriptedServer]) -> None:
    (decision,) = analyst(ledger, serve((200, completion("", finish="length"))).url).decide([asked()], now=NOW)
    assert decision.status == "abstained" and decision.ungrounded is None


# --- the rules' own sentences ---------------------------------------------------------------

_COLUMNS = [column.name for column in theory_columns()]


def questions_of(features: pd.DataFrame, prices: pd.Series, *, aggressive: bool) -> list[Question]:
    """A question for each row of readings, as a scan makes them."""
    rows = features.to_dict("records")
    return [
        question(
            str(row["symbol"]), as_of=row["as_of"].to_pydatetime(), aggressive=aggressive, market_price=float(price),
            observed_share=float(row["observed_share"]),
            readings={name: None if pd.isna(row[name]) else float(row[name]) for name in _COLUMNS},
            explanations={theory: explain(theory, row) for theory in THEORY_NAMES},
        )
        for row, price in zip(rows, prices, strict=True)
    ]  # fmt: skip


def assert_grounded(questions: list[Question]) -> int:
    """Every number of every reason that the rules give is in the prompt; returns how many signals there were."""
    signals = 0
    for one, decision in zip(questions, RulesAnalyst().decide(questions, now=NOW), strict=True):
        if decision.answer is None:
            continue
        signals += decision.answer.side != "HOLD"
        messages = build_prompt(one).messages
        assert ungrounded_against(decision.answer, messages) == (), decision.answer.reasoning
        stand_in = parse_reply(json.dumps(answer_from_prompt(json.loads(messages[-1]["content"]))), "stop")
        assert isinstance(stand_in, Answer)
        assert ungrounded_against(stand_in, messages) == (), stand_in.reasoning
    return signals


@pytest.mark.parametrize("aggressive", [True, False])
@pytest.mark.parametrize("kind", simulate.STEPS)
def test_the_rules_reasons_are_grounded_on_simulated_walks(kind: str, aggressive: bool) -> None:
    close = simulate.walk(kind, np.random.default_rng([5, len(kind)]), 0.1, 6_000)
    times = pd.date_range("2024-01-01", periods=len(close), freq="min", tz="UTC").as_unit("us")
    grid = pd.DataFrame({"symbol": "BTC-USD", "open_time": times, "close": close, "observed": True})
    features = compute_features(grid).iloc[::23]
    prices = pd.Series(close, index=times + pd.Timedelta(minutes=1)).reindex(features["as_of"])
    assert assert_grounded(questions_of(features, prices, aggressive=aggressive)) >= 1


def test_the_rules_reasons_are_grounded_on_recorded_candles() -> None:
    candles = pd.read_parquet(needs_shared("candles/BTC-USD_1m.parquet")).drop_duplicates("ts")
    dense = candles.set_index("ts")["close"].sort_index()["2023-12-09":"2023-12-11"].resample("min").last()
    grid = pd.DataFrame({"symbol": "BTC-USD", "open_time": dense.index, "close": dense.ffill().to_numpy()})
    features = compute_features(grid.assign(observed=dense.notna().to_numpy())).iloc[::11]
    prices = dense.ffill().set_axis(dense.index + pd.Timedelta(minutes=1)).reindex(features["as_of"])
    assert assert_grounded(questions_of(features, prices, aggressive=True)) >= 1
