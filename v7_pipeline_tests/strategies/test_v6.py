"""v6's model: what was planted is found, both sides are alike, another library agrees, and too little is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.indicators import FEATURES
from v7_pipeline.strategies.v6 import EVEN, FEWEST, MAX_STOP, MIN_STOP, ODD, fit, plans, training_rows

COSTS = 0.00085


def drawn(n: int = 4_000, *, slope: float = 0.8, seed: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trades of both sides that win more often where RSI points their way."""
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(rng.normal(size=(n, len(FEATURES))), columns=list(FEATURES))
    for name in EVEN:
        features[name] = 0.001 * np.exp(features[name])
    side = np.where(rng.random(n) < 0.5, "BUY", "SELL")
    pull = np.where(side == "BUY", 1.0, -1.0) * features["rsi_1m"]
    won = rng.random(n) < 1 / (1 + np.exp(-(-0.4 + slope * pull)))
    return features, pd.DataFrame({"side": side, "outcome": np.where(won, "win", "loss")})


def test_features_are_odd_or_even() -> None:
    assert {*ODD, *EVEN} == set(FEATURES) and EVEN == ("range_1m", "range_5m")


def test_what_was_planted_is_found_and_nothing_else() -> None:
    model = fit(*training_rows(*drawn()))
    assert model is not None and model.n == 4_000
    assert model.intercept == pytest.approx(-0.4, abs=0.1)
    assert model.coefficients["rsi_1m"] == pytest.approx(0.8, abs=0.1)
    assert max(abs(model.coefficients[name]) for name in FEATURES if name != "rsi_1m") < 0.12


def test_a_mirrored_market_has_the_mirrored_model() -> None:
    features, outcomes = drawn()
    mirrored = features.assign(**{name: -features[name] for name in ODD})
    swapped = outcomes.assign(side=outcomes["side"].map({"BUY": "SELL", "SELL": "BUY"}))
    one, other = fit(*training_rows(features, outcomes)), fit(*training_rows(mirrored, swapped))
    assert one == other and one is not None
    assert np.array_equal(one.probability(features, "BUY"), one.probability(mirrored, "SELL"))


def test_scikit_learn_finds_the_same() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, won = training_rows(*drawn())
    model = fit(inputs, won)
    assert model is not None
    centre, scale = (np.array(list(given.values())) for given in (model.centres, model.scales))
    other = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=1_000).fit((inputs - centre) / scale, won)
    assert np.allclose(other.coef_[0], list(model.coefficients.values()), atol=1e-5)
    assert other.intercept_[0] == pytest.approx(model.intercept, abs=1e-5)


def test_what_ended_even_and_what_is_not_known_teaches_nothing() -> None:
    features, outcomes = drawn(1_000)
    features.loc[:99, "macd_histogram_5m"] = np.nan
    outcomes.loc[100:149, "outcome"] = "breakeven"
    inputs, won = training_rows(features, outcomes)
    assert len(won) == 850
    model = fit(inputs, won)
    assert model is not None
    told = model.probability(features, "BUY")
    assert np.isnan(told[:100]).all() and np.isfinite(told[100:]).all()


def test_too_few_trades_or_one_end_only_give_no_model() -> None:
    inputs, won = training_rows(*drawn(FEWEST))
    assert fit(inputs, won) is not None
    assert fit(inputs[:-1], won[:-1]) is None
    assert fit(inputs, np.ones(FEWEST, dtype=bool)) is None


def test_separable_trades_end_at_finite_coefficients() -> None:
    features, outcomes = drawn(1_000)
    pull = np.where(outcomes["side"] == "BUY", 1.0, -1.0) * features["rsi_5m"]
    model = fit(*training_rows(features, outcomes.assign(outcome=np.where(pull > 0, "win", "loss"))))
    assert model is not None and 1 < model.coefficients["rsi_5m"] < 20


@settings(max_examples=50, deadline=None)
@given(price=st.floats(0.01, 1e6), share=st.floats(0.0, 0.1), ratio=st.floats(0.5, 5.0))
def test_plans_keep_their_reward_for_their_risk_and_their_order(price: float, share: float, ratio: float) -> None:
    rows = pd.DataFrame({"market_price": [price], "atr_14_5m": [price * share]})
    row = plans(rows, reward_risk=ratio, costs=COSTS, horizon_minutes=240).iloc[0]
    assert row["buy_stop"] < price < row["buy_target"] and row["sell_target"] < price < row["sell_stop"]
    risk, reward = 1 - row["buy_stop"] / price, row["buy_target"] / price - 1
    assert MIN_STOP - 1e-12 <= risk <= MAX_STOP + 1e-12
    assert (reward - COSTS) / (risk + COSTS) == pytest.approx(ratio)
    assert row["sell_stop"] / price - 1 == pytest.approx(risk)


def test_without_price_or_range_there_is_no_plan() -> None:
    rows = pd.DataFrame({"market_price": [np.nan, 100.0], "atr_14_5m": [1.0, np.nan]})
    found = plans(rows, reward_risk=1.5, costs=COSTS, horizon_minutes=240)
    assert found.drop(columns="horizon_minutes").isna().all(axis=None)
