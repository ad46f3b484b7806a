"""What is missing is asked for once and exactly, what depends on it is read again, and nothing is decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.market.errors import MarketError
from v7_pipeline.scan import repair as module
from v7_pipeline.scan.backfill import fill_candles, fill_features
from v7_pipeline.scan.repair import Missing, Span, missing, repair

NOW = datetime(2026, 3, 3, 12, 0, 5, tzinfo=UTC)
AT = NOW.replace(second=0)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
Make = Callable[..., Any]


class Lossy:
    """The sandbox's market without some minutes, or without an answer; it notes what it was asked."""

    def __init__(self, market: Any) -> None:
        self.market, self.venue = market, market.venue
        self.lost: list[Span] = []
        self.silent: set[str] = set()
        self.asked: list[Span] = []

    def candles_of(self, ranges: Any, **how: Any) -> Any:
        self.asked += [Span(symbol, *span) for symbol, span in ranges.items()]
        answers = self.market.candles_of(ranges, **how)
        for symbol, answer in answers.items():
            if symbol in self.silent:
                answers[symbol] = MarketError(f"{symbol}: no answer")
                continue
            keep = pd.Series(True, index=answer.frame.index)
            for span in self.lost:
                times = answer.frame["open_time"]
                keep &= (span.symbol != symbol) | (times < span.start) | (times >= span.end)
            answers[symbol] = dataclasses.replace(answer, frame=answer.frame[keep].reset_index(drop=True))
        return answers


@pytest.fixture
def world(make_runtime: Make) -> Any:
    """A runtime with eight hours of readings of two products, and its market."""
    runtime = make_runtime(NOW, symbols="BTC-USD,ETH-USD", repair_days=1)
    market = Lossy(runtime.market)
    runtime.overrides["market"] = market
    del runtime.market  # made on first use: the one above from now on
    ctx = runtime.context(AT, "filled")
    fill_candles(ctx, AT - 8 * HOUR, AT)
    fill_features(ctx, AT - 26 * HOUR, AT + MINUTE)
    market.asked.clear()
    return runtime


def lose(runtime: Any, *spans: Span) -> None:
    """What a store that never received these minutes would hold of candles; readings are left as they are."""
    with runtime.store.transaction() as tx:
        for span in spans:
            tx.execute(
                "DELETE FROM candles WHERE symbol = ? AND open_time >= ? AND open_time < ?",
                (span.symbol, span.start, span.end),
            )


def found(runtime: Any, now: datetime = NOW) -> Missing:
    return missing(runtime.store, runtime.settings, now)


def held(runtime: Any, table: str) -> pd.DataFrame:
    return runtime.store.read(table, start=AT - 8 * HOUR, end=AT + MINUTE).drop(
        columns=["source", "run_id", "code_version", "fetched_at"], errors="ignore"
    )


def quiet(runtime: Any) -> None:
    """The simulated market's own quiet minutes are asked for, so that the gaps of a test stand alone."""
    repair(runtime.context(AT, "quiet"), found(runtime))
    runtime.market.asked.clear()


GAP = Span("ETH-USD", AT - 5 * HOUR, AT - 5 * HOUR + 40 * MINUTE)


def test_a_gap_is_filled_with_exactly_its_minutes_and_what_depends_on_it_is_as_if_it_had_never_been(world: Any) -> None:
    quiet(world)
    before = {name: held(world, name) for name in ("candles", "theory_features")}
    assert not found(world)
    lose(world, GAP)
    fill_features(world.context(AT, "with the gap"), AT - 8 * HOUR, AT + MINUTE)
    assert not held(world, "theory_features").equals(before["theory_features"])
    what = found(world)
    assert {span.symbol for span in what.candles} == {"ETH-USD"}
    assert what.candles[0].start == GAP.start and what.candles[-1].end == GAP.end
    notes = repair(world.context(AT, "repair"), what)
    assert notes["came"] == what.candles[0].minutes and not notes["failures"] and not notes["outages"]
    assert world.market.asked == [what.candles[0]]
    for name, was in before.items():
        pd.testing.assert_frame_equal(held(world, name), was)
    assert not found(world)
    assert world.store.read("llm_signals").empty and world.store.read("alerts").empty


def test_what_the_market_does_not_have_is_remembered_told_and_not_asked_for_again(world: Any) -> None:
    quiet(world)
    world.market.lost = [GAP]
    lose(world, GAP)
    notes = repair(world.context(AT, "repair"), found(world))
    assert notes["empty"] == 40 and notes["came"] == 0 and notes["outages"] == [GAP]
    (outage,) = world.store.rows("SELECT * FROM outages WHERE minutes >= 5")
    assert (outage["first_minute"], outage["last_minute"]) == (GAP.start, GAP.end - MINUTE)
    (alert,) = world.store.rows("SELECT * FROM alerts")
    assert alert["kind"] == "outage" and alert["title"].startswith("DEMO The market has no candles")
    assert "ETH-USD: 40 min from 2026-03-03 07:00" in alert["body"]
    assert not found(world).candles


def test_quiet_minutes_are_remembered_but_wake_nobody(world: Any) -> None:
    quiet(world)
    short = [Span("BTC-USD", AT - h * HOUR, AT - h * HOUR + 2 * MINUTE) for h in (3, 4)]
    world.market.lost = short
    lose(world, *short)
    notes = repair(world.context(AT, "repair"), found(world))
    assert notes["empty"] == 4 and not notes["outages"] and world.store.read("alerts").empty
    assert len(world.market.asked) == 1  # near gaps are asked for on one page
    assert not found(world).candles


def test_who_does_not_answer_is_asked_again_and_the_others_are_mended(world: Any) -> None:
    quiet(world)
    other = Span("BTC-USD", GAP.start, GAP.end)
    lose(world, GAP, other)
    world.market.silent = {"ETH-USD"}
    notes = repair(world.context(AT, "repair"), found(world))
    assert set(notes["failures"]) == {"ETH-USD"} and notes["came"] == 40
    assert {span.symbol for span in found(world).candles} == {"ETH-USD"}
    assert world.store.rows("SELECT * FROM alerts") == []


def test_a_repair_that_dies_after_the_candles_came_leaves_holes_that_are_found(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(world)
    lose(world, GAP)
    fill_features(world.context(AT, "with the gap"), AT - 8 * HOUR, AT + MINUTE)

    def die(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(module, "computed", die)
        with pytest.raises(KeyboardInterrupt):
            repair(world.context(AT, "repair"), found(world))
    what = found(world)
    assert not what.candles and what.readings[0].start == GAP.start + MINUTE
    repair(world.context(AT, "repair"), what)
    assert not found(world)


def test_newest_minutes_and_what_lies_before_the_first_candle_are_nobodys_gap(world: Any) -> None:
    quiet(world)
    lose(world, Span("BTC-USD", AT - 12 * MINUTE, AT - 3 * MINUTE))
    assert not found(world).candles
    later = NOW + 20 * MINUTE
    assert [span.minutes for span in found(world, later).candles] == [9]
    lose(world, Span("BTC-USD", AT - 72 * HOUR, AT - 6 * HOUR))
    assert [span.minutes for span in found(world, later).candles] == [9]


def test_one_run_asks_for_no_more_than_its_share_oldest_first(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(world)
    monkeypatch.setattr(module, "AT_MOST", 50)
    lose(world, GAP, Span("BTC-USD", AT - 4 * HOUR, AT - 3 * HOUR))
    what = found(world)
    assert [(span.symbol, span.minutes) for span in what.candles] == [("BTC-USD", 10), ("ETH-USD", 40)]
