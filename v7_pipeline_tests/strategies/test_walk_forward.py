"""v6 over history: nothing of the future, the same bits whoever asks, both sides alike, and too little is nothing."""

from __future__ import annotations

import json
from datetime import date, timedelta
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.analyst.base import AGGRESSIVE, CONSERVATIVE
from v7_pipeline.indicators import FEATURES, indicators
from v7_pipeline.scan.decide import quote_increment
from v7_pipeline.settings import Settings
from v7_pipeline.strategies import v6
from v7_pipeline.strategies.walk_forward import (
    CUT_OFF,
    LEAST_EDGE,
    TRAIN_DAYS,
    DayModel,
    Terms,
    candles_for_decision,
    candles_for_model,
    confidence_of,
    day_models,
    decide_frame,
    decisions,
    inputs_at,
    price_steps,
)
from v7_pipeline_tests.shared_data import needs_shared
from v7_pipeline_tests.strategies.markets import START, mirrored, walk

TERMS = Terms(240, 1.5, "ftmo-crypto", 1e-4, 0.1, 15)
DAYS = 35
LAST = START + pd.Timedelta(days=DAYS)
TODAY = LAST - pd.Timedelta(days=1)  # the market's last whole day
PLAN = ["entry_price", "stop_price", "target_price"]


@cache
def market(seed: int = 3, symbol: str = "BTC-USD") -> pd.DataFrame:
    return walk(DAYS, seed=seed, symbol=symbol, trend=0.1)


def at(*, every: int = 2, start: pd.Timestamp = TODAY, end: pd.Timestamp = LAST) -> pd.DatetimeIndex:
    return pd.date_range(start, end, freq=f"{every}min", inclusive="left")


@cache
def decided() -> pd.DataFrame:
    return decisions(market(), at(), TERMS)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), check_exact=True)


def test_there_are_decisions_of_every_kind() -> None:
    sides = set(decided()["side"])
    assert {"BUY", "SELL", "HOLD"} <= sides and (decided()["status"] == "answered").mean() > 0.95


def test_a_decision_has_the_same_bits_whichever_span_and_candles_are_asked() -> None:
    for moment in (TODAY, TODAY + pd.Timedelta(minutes=2), TODAY + pd.Timedelta(hours=11, minutes=38)):
        stamp = moment.to_pydatetime()
        needed = min(candles_for_model(stamp.date(), 15), candles_for_decision(stamp, 15))
        bars = market()
        alone = decisions(
            bars[(bars["open_time"] >= needed) & (bars["open_time"] < moment)], pd.DatetimeIndex([moment]), TERMS
        )
        same(alone, decided()[decided()["as_of"] == moment])


def test_a_symbol_alone_decides_as_among_others() -> None:
    pair = pd.concat([market(), market(9, "ETH-USD")], ignore_index=True)
    together = decisions(pair, at(every=30), TERMS)
    same(together[together["symbol"] == "BTC-USD"], decisions(market(), at(every=30), TERMS))


@settings(max_examples=8, deadline=None)
@given(minute=st.integers(0, 1439), seed=st.integers(0, 2**32 - 1))
def test_a_garbled_future_changes_nothing(minute: int, seed: int) -> None:
    moment = TODAY + pd.Timedelta(minutes=minute)
    bars = market().copy()
    later = bars["open_time"] >= moment
    noise = np.exp(np.random.default_rng(seed).normal(size=(int(later.sum()), 1)))
    bars.loc[later, ["open", "high", "low", "close"]] *= noise
    upto = at(every=30, end=moment + pd.Timedelta(minutes=1))
    same(decisions(bars, upto, TERMS), decisions(market(), upto, TERMS))


def test_a_model_learns_from_what_had_closed_before_its_midnight_only() -> None:
    day = TODAY.date()
    bars = market()
    whole = day_models(bars, [day], TERMS)[day]
    cut = pd.Timestamp(TODAY - CUT_OFF)
    assert whole == day_models(bars[bars["open_time"] < cut], [day], TERMS)[day]
    assert whole.last is not None and whole.last < cut and whole.first is not None
    assert whole.first >= TODAY - timedelta(days=TRAIN_DAYS)
    assert whole.model is not None and whole.n_eff < whole.n / 3 and whole.loss_r < -1 < 1 < whole.win_r


def test_the_day_before_and_after_have_models_of_their_own() -> None:
    days = [(TODAY - pd.Timedelta(days=k)).date() for k in range(3)]
    together = day_models(market(), days, TERMS)
    assert len({json.dumps(one.as_row(), default=str) for one in together.values()}) == 3
    for day in days:
        assert together[day] == day_models(market(), [day], TERMS)[day]


def test_a_model_is_written_and_read_again_bit_for_bit() -> None:
    one = day_models(market(), [TODAY.date()], TERMS)[TODAY.date()]
    row = one.as_row()
    assert DayModel.of_row({**row, "model": json.loads(json.dumps(row["model"]))}) == one


def test_few_days_teach_nothing_and_say_how_many_there_were() -> None:
    bars = market()
    short = bars[bars["open_time"] >= TODAY - pd.Timedelta(days=5)]
    model = day_models(short, [TODAY.date()], TERMS)[TODAY.date()]
    assert model.model is None and 0 < model.n_eff < v6.FEWEST
    rows = decisions(short, at(every=60), TERMS)
    assert (rows["status"] == "abstained").all() and rows["side"].isna().all() and rows[PLAN].isna().all(axis=None)


def test_without_candles_nothing_is_decided() -> None:
    assert decisions(market().iloc[:0], at(), TERMS).empty
    assert decisions(market(), at()[:0], TERMS).empty
    with pytest.raises(ValueError, match="time zone"):
        decisions(market(), at().tz_localize(None), TERMS)


def test_a_mirrored_market_is_traded_the_other_way() -> None:
    calm, names = walk(DAYS, seed=5, trend=0.1), ["open", "high", "low", "close"]
    middle = float(calm["open"].iloc[0])  # prices near one another, so that the mirror changes shares of them little
    calm[names] = (middle * (calm[names] / middle) ** 0.2).round(2)
    terms = Terms(240, 1.5, "none", 0.0, 0.1, 15)
    one, other = (decisions(bars, at(), terms) for bars in (calm, mirrored(calm)))
    swapped = other["side"].map({"BUY": "SELL", "SELL": "BUY", "HOLD": "HOLD"})
    assert (one["side"] == swapped).mean() > 0.95
    assert ((one["side"] == other["side"]) & one["side"].isin(("BUY", "SELL"))).mean() < 0.05


def test_mirrored_readings_give_the_mirrored_decision_to_the_last_bit() -> None:
    frame = pd.DataFrame({"as_of": at(every=30), "features_as_of": at(every=30)})
    rng = np.random.default_rng(2)
    frame = frame.assign(market_price=40_000.0, atr_14_5m=60.0, **{n: rng.normal(size=len(frame)) for n in FEATURES})
    upside = frame.assign(**{name: -frame[name] for name in v6.ODD})
    models = {TODAY.date(): planted()}
    one, other = (decide_frame(rows, models, quote_increment=0.01, terms=TERMS) for rows in (frame, upside))
    assert (one["side"].map({"BUY": "SELL", "SELL": "BUY", "HOLD": "HOLD"}) == other["side"]).all()
    assert set(one["side"]) == {"BUY", "SELL", "HOLD"}
    for name in ("confidence", "p_win", "agreeing"):
        assert (one[name] == other[name]).all()
    traded = one["side"] != "HOLD"
    up, down = (rows.loc[traded, "stop_price"] - rows.loc[traded, "entry_price"] for rows in (one, other))
    assert np.allclose(up, -down)


def planted(slope: float = 0.5) -> DayModel:
    weights = {name: slope if name == "rsi_1m" else 0.0 for name in FEATURES}
    model = v6.LogisticModel(-0.3, weights, dict.fromkeys(FEATURES, 0.0), dict.fromkeys(FEATURES, 1.0), 900, 400)
    return DayModel(TODAY.date(), model, 900, 400, 400.0, 1.6, -1.2, None, None)


def test_the_side_needs_its_edge_and_a_positive_expectation() -> None:
    frame = inputs_at(market(), at(), indicators(market(), start=TODAY - pd.Timedelta(hours=4), end=LAST))
    rows = decide_frame(frame, {TODAY.date(): planted()}, quote_increment=0.01, terms=TERMS)
    traded = rows["side"].isin(("BUY", "SELL"))
    edge = rows["p_win"] - rows["break_even"]
    assert traded.any() and (~traded).any()
    assert (edge[traded] >= LEAST_EDGE["conservative"]).all() and (rows.loc[traded, "expected_r"] > 0).all()
    assert (rows.loc[traded, "side"] == rows.loc[traded, "side_asked"]).all()
    held = rows["side"] == "HOLD"
    assert ((edge[held] < LEAST_EDGE["conservative"]) | (rows.loc[held, "expected_r"] <= 0)).all()
    model = planted()
    assert model.model is not None
    by_side = {side: model.model.probability(frame, side) for side in ("BUY", "SELL")}
    assert (np.maximum(*by_side.values())[rows["p_win"].notna()] == rows["p_win"].dropna()).all()


def test_plans_are_on_the_quote_increment_and_keep_their_reward_for_their_risk() -> None:
    frame = inputs_at(market(), at(), indicators(market(), start=TODAY - pd.Timedelta(hours=4), end=LAST))
    rows = decide_frame(frame, {TODAY.date(): planted()}, quote_increment=0.5, terms=TERMS)
    traded = rows[rows["side"].isin(("BUY", "SELL"))]
    assert (traded[PLAN].to_numpy() % 0.5 == 0).all()
    risk = (traded["entry_price"] - traded["stop_price"]).abs() / traded["entry_price"]
    reward = (traded["target_price"] - traded["entry_price"]).abs() / traded["entry_price"]
    assert ((reward - TERMS.costs) / (risk + TERMS.costs) >= 1.5).all()


def test_the_confidence_means_what_the_gates_thresholds_ask() -> None:
    edges = np.array([0.02, 0.04, 0.20, 0.5])
    told = confidence_of(edges, np.ones(4, dtype=bool), 0.04)
    assert told.tolist() == [AGGRESSIVE.min_confidence, CONSERVATIVE.min_confidence, 0.90, 0.90]
    holding = confidence_of(np.array([-0.1, 0.0, 0.02, 0.04]), np.zeros(4, dtype=bool), 0.04)
    assert holding.tolist() == [1.0, 1.0, 0.75, 0.5]


def test_what_has_not_arrived_is_read_as_a_minute_without_a_trade() -> None:
    bars = market()
    moment = TODAY + pd.Timedelta(hours=6)
    gone = bars[(bars["open_time"] < moment - pd.Timedelta(minutes=3)) | (bars["open_time"] >= moment)]
    measured = indicators(gone, start=TODAY - pd.Timedelta(hours=4), end=LAST)
    row = inputs_at(gone, pd.DatetimeIndex([moment]), measured).iloc[0]
    assert row["features_as_of"] == gone.loc[gone["open_time"] < moment, "open_time"].max() + pd.Timedelta(minutes=1)
    old = inputs_at(gone[gone["open_time"] < moment - pd.Timedelta(hours=4)], pd.DatetimeIndex([moment]), measured)
    assert old[["market_price", *FEATURES]].isna().all(axis=None) and pd.isna(old["features_as_of"].iloc[0])


@settings(max_examples=30, deadline=None)
@given(
    decimals=st.lists(st.integers(0, 9), min_size=1, max_size=400),
    gaps=st.lists(st.integers(1, 90), min_size=400, max_size=400),
    back=st.integers(0, 600),
)
def test_the_price_step_is_the_live_scans(decimals: list[int], gaps: list[int], back: int) -> None:
    n = len(decimals)
    times = START + pd.to_timedelta(np.cumsum(gaps[:n]), unit="min")
    close = [round(100.123456789, places) for places in decimals]
    bars = pd.DataFrame({"open_time": times, "open": close, "high": close, "low": close, "close": close})
    moment = times[-1] + pd.Timedelta(minutes=1) - pd.Timedelta(minutes=back)
    seen = bars[(bars["open_time"] < moment) & (bars["open_time"] >= moment - pd.Timedelta(hours=4))]
    expected = quote_increment(seen) if len(seen) else 1e-8
    assert price_steps(bars, pd.DatetimeIndex([moment]))[0] == expected


def test_terms_are_the_settings() -> None:
    terms = Terms.of(Settings(_env_file=None))
    assert terms == TERMS and terms.costs == pytest.approx(0.00085)


def test_recorded_candles_are_decided_without_a_leak() -> None:
    path = needs_shared("candles/BTC-USD_1m.parquet")
    raw = pd.read_parquet(path).rename(columns={"ts": "open_time"}).drop_duplicates("open_time")
    bars = raw.sort_values("open_time", ignore_index=True).assign(symbol="BTC-USD")
    moment = pd.Timestamp("2024-01-03T12:00:00Z")
    instants = pd.date_range(moment - pd.Timedelta(hours=12), moment, freq="10min")
    whole = decisions(bars, instants, TERMS)
    same(whole, decisions(bars[bars["open_time"] < moment], instants, TERMS))
    assert (whole["status"] == "answered").all() and date(2024, 1, 3) == whole["as_of"].dt.date.iloc[0]
