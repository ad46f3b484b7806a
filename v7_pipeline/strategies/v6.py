"""v6: the technical baseline that stands for the earlier system, a logistic model of indicators with an ATR plan.

The model is fitted on trades that had closed by then; labelling and gating them is not this room's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.indicators import FEATURES

__all__ = [
    "EVEN",
    "FEWEST",
    "ODD",
    "PENALTY",
    "LogisticModel",
    "fit",
    "plans",
    "sigmoid",
    "stop_distance",
    "training_rows",
]

Floats = npt.NDArray[np.float64]

#: Features that change their sign with the market's direction, and those that do not.
EVEN = tuple(name for name in FEATURES if name.startswith("range_"))
ODD = tuple(name for name in FEATURES if name not in EVEN)
#: Strength of the quadratic penalty on standardised coefficients: as that of one observation of weight 1 each.
PENALTY = 1.0
#: Trades below which nothing is fitted: twenty for each coefficient. Where trades are weighted, what they are worth.
FEWEST = 20 * (len(FEATURES) + 1)
#: The plan: the stop lies so many five-minute ATRs from the entry, within these fractions of it.
STOP_ATRS = 2.0
MIN_STOP, MAX_STOP = 0.002, 0.03
_MOST_STEPS = 50


@dataclass(frozen=True)
class LogisticModel:
    """P(win) of a trade from the indicators at its signal, the same for both sides of a mirrored market.

    `coefficients` by name of FEATURES, per standard deviation of the training rows (`scales`; even features are also
    centred by `centres`); `n` trades, `wins` of them won.
    """

    intercept: float
    coefficients: dict[str, float]
    centres: dict[str, float]
    scales: dict[str, float]
    n: int
    wins: int

    def probability(self, features: pd.DataFrame, side: str) -> Floats:
        """P(win) of a BUY or SELL at each row of FEATURES; missing where a feature is."""
        inputs = _inputs(features, 1.0 if side == "BUY" else -1.0)
        total = np.full(len(inputs), self.intercept)
        # Feature by feature, so that a row has the same bits alone and among a million (a matrix product's has not).
        for place, name in enumerate(FEATURES):
            total += (inputs[:, place] - self.centres[name]) / self.scales[name] * self.coefficients[name]
        return sigmoid(total)


def training_rows(features: pd.DataFrame, outcomes: pd.DataFrame) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(inputs, won) of closed trades: rows of FEATURES seen from the side of each trade, and whether it won.

    features: FEATURES, in the order of `outcomes`; outcomes: side, outcome. A trade that ended even, or whose features
    are not all known, teaches nothing.
    """
    sign = np.where(outcomes["side"].to_numpy() == "BUY", 1.0, -1.0)
    inputs = _inputs(features, sign)
    judged = outcomes["outcome"].isin(("win", "loss")).to_numpy() & np.isfinite(inputs).all(axis=1)
    return inputs[judged], (outcomes["outcome"].to_numpy() == "win")[judged]


def fit(
    inputs: Floats, won: npt.NDArray[np.bool_], weights: Floats | None = None, *, penalty: float = PENALTY
) -> LogisticModel | None:
    """The model of `training_rows`; None where they are worth less than FEWEST, or all of them won or all lost.

    Maximises Σ weight · log P(outcome) − penalty ÷ 2 · Σ coefficient² over standardised inputs, by Newton's method
    (McCullagh & Nelder, Generalized Linear Models, 1989, § 4.4). `weights` are 1 where not given. A
    penalty of λ is the belief, before any trade, that a coefficient lies around 0 with a standard deviation of 1 ÷ √λ.
    Odd inputs are not centred, so that a mirrored market has the mirrored model.
    """
    n, wins = len(won), int(won.sum())
    worth = np.ones(n) if weights is None else weights
    if worth.sum() < FEWEST or wins in (0, n):
        return None
    even = np.array([name in EVEN for name in FEATURES])
    centre = np.where(even, inputs.mean(axis=0), 0.0)
    scale = np.sqrt(((inputs - centre) ** 2).mean(axis=0))
    scale[scale == 0] = 1.0
    design = np.column_stack([np.ones(n), (inputs - centre) / scale])
    ridge = np.diag([0.0, *np.full(len(FEATURES), penalty)])
    found = np.zeros(design.shape[1])
    found[0] = np.log(wins / (n - wins))
    for _ in range(_MOST_STEPS):
        p = sigmoid(design @ found)
        gradient = design.T @ (worth * (won - p)) - ridge @ found
        step = np.linalg.solve((design.T * (worth * p * (1 - p))) @ design + ridge, gradient)
        found = found + step
        if np.abs(step).max() < 1e-10:
            break
    else:
        raise ArithmeticError(f"the logistic model of {n} trades did not converge in {_MOST_STEPS} steps")
    named = [dict(zip(FEATURES, map(float, values), strict=True)) for values in (found[1:], centre, scale)]
    return LogisticModel(float(found[0]), named[0], named[1], named[2], n, wins)


def plans(rows: pd.DataFrame, *, reward_risk: float, costs: float, horizon_minutes: int) -> pd.DataFrame:
    """Stop and target of both sides at each row: buy_stop, buy_target, sell_stop, sell_target (USD), horizon_minutes.

    rows: market_price (USD) and atr_14_5m (USD). The stop lies STOP_ATRS ATRs away, within MIN_STOP and MAX_STOP of the
    price; the target where reward:risk net of `costs` (a fraction of the price, both sides) is `reward_risk`. Missing
    where price or ATR is.
    """
    price = rows["market_price"].to_numpy(dtype=float, na_value=np.nan)
    atr = rows["atr_14_5m"].to_numpy(dtype=float, na_value=np.nan)
    risk = stop_distance(price, atr)
    reward = reward_risk * (risk + costs) + costs
    levels = {
        "buy_stop": price * (1 - risk),
        "buy_target": price * (1 + reward),
        "sell_stop": price * (1 + risk),
        "sell_target": price * (1 - reward),
    }
    return pd.DataFrame({**levels, "horizon_minutes": horizon_minutes}, index=rows.index)


def stop_distance(price: Floats, atr: Floats) -> Floats:
    """How far the stop lies from `price` (USD), as a fraction of it, at a five-minute ATR of `atr` (USD)."""
    return np.clip(STOP_ATRS * atr / price, MIN_STOP, MAX_STOP)


def _inputs(features: pd.DataFrame, sign: float | Floats) -> Floats:
    """FEATURES as seen from a side: odd ones change their sign for a SELL."""
    values = features[list(FEATURES)].to_numpy(dtype=float, na_value=np.nan).copy()
    odd = [place for place, name in enumerate(FEATURES) if name in ODD]
    values[:, odd] *= np.reshape(sign, (-1, 1))
    return values


def sigmoid(x: Floats) -> Floats:
    """1 ÷ (1 + e^−x), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
