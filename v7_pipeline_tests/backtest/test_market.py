"""The stored market answers as the exchange's client would have at that instant."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.backtest import StoredMarket
from v7_pipeline.market.clean import CANDLE_COLUMNS
from v7_pipeline.market.coinbase import CoinbaseClient, Fetched
from v7_pipeline.market.errors import MarketError
from v7_pipeline_tests.backtest.conftest import START, SYMBOLS, Replayed, holding, simulated

MINUTE = timedelta(minutes=1)


@pytest.fixture
def market(replayed: Replayed) -> StoredMarket:
    return StoredMarket(replayed.source, venue="sandbox")


def _frame(answer: Any) -> pd.DataFrame:
    assert isinstance(answer, Fetched)
    return answer.frame


def test_it_answers_as_the_client_does(market: StoredMarket, sandbox: Any) -> None:
    client = CoinbaseClient(base_url=sandbox.url, venue="sandbox")
    ranges = {"ETH-USD": (START - 400 * MINUTE, START), "SOL-USD": (START - 7 * MINUTE, START - 2 * MINUTE)}
    theirs, ours = client.candles_of(ranges, now=START), market.candles_of(ranges, now=START)
    for symbol in ranges:
        pd.testing.assert_frame_equal(_frame(ours[symbol]), _frame(theirs[symbol]), check_exact=True)


@pytest.mark.parametrize("seconds", [0, 1, 59, 60])
def test_lesson_24_only_candles_closed_at_now_are_handed_out(market: StoredMarket, seconds: int) -> None:
    now = START + timedelta(seconds=seconds)
    answer = market.candles_of({"ETH-USD": (START - 10 * MINUTE, START + 10 * MINUTE)}, now=now)["ETH-USD"]
    last = START if seconds == 60 else START - MINUTE
    assert _frame(answer)["open_time"].iloc[-1] == last
    assert answer.repairs == {}  # type: ignore[union-attr]


def test_a_later_question_sees_what_has_closed_since_and_an_empty_span_is_no_error(market: StoredMarket) -> None:
    asked = dict.fromkeys(SYMBOLS, (START - 3 * MINUTE, START))
    assert [len(_frame(answer)) for answer in market.candles_of(asked, now=START).values()] == [3, 3]
    later = {"ETH-USD": (START, START + 5 * MINUTE)}
    assert len(_frame(market.candles_of(later, now=START + 5 * MINUTE)["ETH-USD"])) == 5
    beyond = START + timedelta(days=30)
    nothing = _frame(market.candles_of({"ETH-USD": (beyond, beyond + MINUTE)}, now=beyond + MINUTE)["ETH-USD"])
    assert nothing.empty and tuple(nothing.columns) == CANDLE_COLUMNS
    assert market.candles_of({}, now=START) == {}


def test_an_impossible_row_fails_its_own_symbol_only(tmp_path: Path) -> None:
    candles = simulated(START)
    broken = (candles["symbol"] == "SOL-USD") & (candles["open_time"] == START - MINUTE)
    candles.loc[broken, "high"] = 0.01
    market = StoredMarket(holding(tmp_path / "broken.duckdb", candles), venue="sandbox")
    pages: list[tuple[str, int, int]] = []
    span = (START - 3 * MINUTE, START)
    answers = market.candles_of(dict.fromkeys(SYMBOLS, span), now=START, on_page=lambda *page: pages.append(page))
    assert isinstance(answers["SOL-USD"], MarketError) and len(_frame(answers["ETH-USD"])) == 3
    assert pages == [("ETH-USD", 1, 1), ("SOL-USD", 1, 1)]
