"""The default plan of a HOLD is the rules' own plan, on both sides."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.analyst import rules
from v7_pipeline.analyst.rules import decide_frame
from v7_pipeline.trades import can_be_followed, default_plans
from v7_pipeline_tests.trades.builders import T0


def held(*prices: float) -> pd.DataFrame:
    rows = [
        {"signal_id": str(place), "as_of": T0, "symbol": "BTC-USD", "strategy": "v7"} for place in range(len(prices))
    ]
    return pd.DataFrame(rows).assign(market_price=prices)


def plans(decisions: pd.DataFrame, volatility: list[float]) -> pd.DataFrame:
    return default_plans(
        decisions, volatility, horizon_minutes=240, reward_risk=1.5 * rules.MARGIN,
        stop_deviations=rules.STOP_DEVIATIONS, stop_bounds=(rules.MIN_STOP, rules.MAX_STOP), costs=rules.COSTS,
    )  # fmt: skip


@pytest.mark.parametrize("volatility", [0.0, 4e-4, 0.01])
def test_the_plan_is_the_one_that_the_rules_would_have_made(volatility: float) -> None:
    for vote, side in ((1.0, "BUY"), (-1.0, "SELL")):
        reading = dict.fromkeys(rules.VOTES, vote) | dict.fromkeys(rules.SCORES, 1.0) | {rules.VOLATILITY: volatility}
        decided = decide_frame(
            pd.DataFrame([reading | {"market_price": 40_000.0}]), quote_increment=0.01, horizon_minutes=240,
            reward_risk=1.5,
        ).iloc[0]  # fmt: skip
        mine = plans(held(40_000.0), [volatility]).set_index("side").loc[side]
        assert decided["side"] == side
        for name in ("entry_price", "stop_price", "target_price"):
            assert mine[name] == pytest.approx(decided[name], abs=0.02)  # but for the rounding to the step


def test_buys_come_first_then_sells_and_the_unknown_cannot_be_followed() -> None:
    made = plans(held(100.0, np.nan, 100.0), [4e-4, 4e-4, np.nan])
    assert made["side"].tolist() == ["BUY"] * 3 + ["SELL"] * 3
    assert made["signal_id"].tolist() == ["0", "1", "2"] * 2
    assert can_be_followed(made).tolist() == [True, False, False] * 2
    long_, short = made.iloc[0], made.iloc[3]
    assert long_["target_price"] - 100 == pytest.approx(100 - short["target_price"])
    assert long_["quantity"] != long_["quantity"] and long_["kind"] == "shadow"
    assert plans(held(100.0).iloc[:0], []).empty
