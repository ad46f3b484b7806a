"""The default plan: the trade that a HOLD left out, on either side, so that holding can be judged too.

The multiples are the caller's; what an analyst plans is its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.trades.frames import require

__all__ = ["default_plans"]


def default_plans(
    decisions: pd.DataFrame,
    volatility: npt.ArrayLike,
    *,
    horizon_minutes: int,
    reward_risk: float,
    stop_deviations: float,
    stop_bounds: tuple[float, float],
    costs: float,
) -> pd.DataFrame:
    """Two trades for each of `decisions`, a BUY and a SELL, as `follow` takes them: kind shadow, without a quantity.

    decisions: signal_id, as_of, symbol, strategy, market_price (USD). volatility: one-minute standard deviation of each
    row, as a fraction. The entry is the market price. The stop lies stop_deviations × volatility × √horizon_minutes
    from it, within `stop_bounds` (fractions of the entry); the target where reward:risk net of `costs` (a fraction of
    the entry, fees and slippage of both sides) is `reward_risk`: reward = reward_risk × (risk + costs) + costs. Order:
    all BUYs, then all SELLs, each in the order of `decisions`. Where price or volatility is missing so are the prices;
    neither these rows nor targets below zero `can_be_followed`.
    """
    require(decisions, ("signal_id", "as_of", "symbol", "strategy", "market_price"), "decisions")
    price = decisions["market_price"].to_numpy(dtype=float, na_value=np.nan)
    risk = np.clip(stop_deviations * np.asarray(volatility, dtype=float) * np.sqrt(horizon_minutes), *stop_bounds)
    reward = reward_risk * (risk + costs) + costs
    n = len(decisions)
    sign = np.repeat([1.0, -1.0], n)
    price, risk, reward = (np.tile(values, 2) for values in (price, risk, reward))
    places = np.tile(np.arange(n), 2)
    return pd.DataFrame(
        {
            **{name: decisions[name].array.take(places) for name in ("signal_id", "as_of", "symbol", "strategy")},
            "kind": np.full(2 * n, "shadow", dtype=object),
            "side": np.repeat(np.array(["BUY", "SELL"], dtype=object), n),
            "entry_price": np.where(np.isnan(risk), np.nan, price),
            "stop_price": price * (1 - sign * risk),
            "target_price": price * (1 + sign * reward),
            "horizon_minutes": np.full(2 * n, horizon_minutes, dtype=np.int64),
            "quantity": np.full(2 * n, np.nan),
        }
    )
