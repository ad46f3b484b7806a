"""Bayesian win rate: have the signals closed so far won often enough to pay for their losses?

Formula: posterior Beta(α, β) of the win rate from outcomes closed before (made in learning/); here its mean, its 95 %
interval and the number of outcomes n as of each minute. Without α and β they follow from mean and n under the uniform
prior, α + β = n + 2. Source: Bayes–Laplace. Break-even is 1/(1 + reward:risk): .4 at 1.5. Nothing closed: n = 0, the
rest missing.

Percentile: P(win rate > break-even | outcomes), not a random walk's. Vote: for the side whose own posterior (scopes
side:BUY and side:SELL) beats break-even with at least 97.5 %; against the other; both cancel. Two sides are watched,
so each gets half of the error: whatever n, at most 8 % of histories won at exactly break-even give a vote. With the
overall win rate alone it abstains. Score: strength of the percentile.

Reading: the share of wins that the closed signals allow, with its interval; the percentile is the probability that
it pays for its losses. Few outcomes give a wide interval and no vote.

Misleads: trades that were open together count as one piece of evidence (learning/), so after a busy day it may still
know little; a falling week teaches it to sell. It knows the past of these rules and thresholds only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.theories.base import Bars, Floats, Posterior, number, strength

__all__ = [
    "BREAK_EVEN",
    "NAME",
    "SCOPES",
    "columns_at",
    "explain",
    "percentile",
    "posteriors",
    "score",
    "values",
    "vote",
]

NAME = "bayesian_win_rate"
BREAK_EVEN = 0.4
#: Posterior probability of beating break-even from which a side is voted for.
SURE = 0.975
SCOPES = ("all", "side:BUY", "side:SELL")
_FIELDS = {"win_rate": "mean", "win_rate_lower": "lower", "win_rate_upper": "upper", "win_rate_n": "n"}


def posteriors(win_rates: pd.DataFrame | None, *, break_even: float = BREAK_EVEN) -> dict[str, Posterior]:
    """The scopes that matter here, as steps in time. `win_rates` has as_of, scope, mean, lower, upper, n and may have
    alpha and beta. Raises ValueError on a missing column or a naive as_of."""
    if win_rates is None or win_rates.empty:
        return {}
    missing = [name for name in ("as_of", "scope", "mean", "lower", "upper", "n") if name not in win_rates]
    if missing:
        raise ValueError(f"win_rates lacks {', '.join(missing)}")
    if getattr(win_rates["as_of"].dtype, "tz", None) is None:
        raise ValueError("win_rates.as_of must be timezone-aware UTC")
    from scipy.special import betaincc

    known = win_rates[win_rates["scope"].isin(SCOPES) & (win_rates["n"] > 0)].sort_values("as_of", kind="stable")
    result = {}
    for scope, group in known.groupby("scope"):
        mean, n = group["mean"].to_numpy(float), group["n"].to_numpy(float)
        if "alpha" in group and "beta" in group:
            alpha, beta = group["alpha"].to_numpy(float), group["beta"].to_numpy(float)
        else:
            alpha, beta = mean * (n + 2), (1 - mean) * (n + 2)
        microseconds = group["as_of"].astype("datetime64[us, UTC]").astype("int64").to_numpy()
        result[str(scope)] = Posterior(
            minute=-(-microseconds // 60_000_000),  # known from the next whole minute on
            mean=mean,
            lower=group["lower"].to_numpy(float),
            upper=group["upper"].to_numpy(float),
            n=n,
            above=np.asarray(betaincc(alpha, beta, break_even), float),
        )
    return result


def _as_of(bars: Bars, scope: str, field: str, name: str = "", missing: float = np.nan) -> Floats:
    """A posterior's field at each row, for the column `name`: the newest with as_of ≤ the row's, `missing` before."""
    out = bars.column(name)
    steps = bars.posteriors.get(scope)
    if steps is None:
        out.fill(missing)
        return out

    def newest() -> npt.NDArray[np.int64]:
        as_of = bars.epoch + 1 + np.arange(bars.first, bars.close.size)
        return np.searchsorted(steps.minute, as_of, side="right")

    return _taken(steps, bars.cached((NAME, scope), newest), field, missing, out)


def _taken(
    steps: Posterior, newest: npt.NDArray[np.int64], field: str, missing: float, out: Floats | None = None
) -> Floats:
    """A posterior's field by how many steps had been made; `missing` before the first."""
    known = np.concatenate(([missing], getattr(steps, field)))
    return np.take(known, newest, out=out, mode="clip")


def columns_at(posteriors: Mapping[str, Posterior], minutes: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Every column of this theory for readings as of `minutes` (epoch minutes): it knows no candles."""

    def field(scope: str, name: str, missing: float = np.nan) -> Floats:
        steps = posteriors.get(scope)
        if steps is None:
            return np.full(minutes.size, missing)
        return _taken(steps, np.searchsorted(steps.minute, minutes, side="right"), name, missing)

    above = field("all", "above")
    buy, sell = (_side(field(f"side:{side}", "above")) for side in ("BUY", "SELL"))
    return {
        **{column: field("all", name, 0.0 if name == "n" else np.nan) for column, name in _FIELDS.items()},
        f"{NAME}_percentile": above,
        f"{NAME}_score": strength(above),
        f"{NAME}_vote": buy - sell,
    }


def values(bars: Bars) -> dict[str, Floats]:
    """win_rate, win_rate_lower, win_rate_upper, win_rate_n."""
    return {name: _as_of(bars, "all", field, name, 0.0 if field == "n" else np.nan) for name, field in _FIELDS.items()}


def percentile(bars: Bars) -> Floats:
    return _as_of(bars, "all", "above", f"{NAME}_percentile")


def score(bars: Bars, percentile: Floats) -> Floats:
    return strength(percentile)


def vote(bars: Bars, percentile: Floats, score: Floats) -> Floats:
    if not any(scope in bars.posteriors for scope in SCOPES[1:]):
        return np.zeros(bars.rows)
    buy, sell = (_side(_as_of(bars, f"side:{side}", "above")) for side in ("BUY", "SELL"))
    return buy - sell


def _side(above: Floats) -> Floats:
    return np.where(above >= SURE, strength(above), 0.0)


def explain(row: Mapping[str, Any]) -> str:
    mean, n = number(row, "win_rate"), number(row, "win_rate_n")
    lower, upper = number(row, "win_rate_lower"), number(row, "win_rate_upper")
    if mean is None or lower is None or upper is None or not n:
        return "Win rate abstains: no signal has closed yet."
    share = number(row, f"{NAME}_percentile")
    told = "" if share is None else f"; above break-even ({BREAK_EVEN:.2f}) with probability {share:.2f}"
    side = float(row.get(f"{NAME}_vote") or 0.0)
    favours = f", which favours {'buying' if side > 0 else 'selling'}" if side else ""
    return f"Win rate {mean:.2f} (95 % interval {lower:.2f} to {upper:.2f}, n = {n:.0f}){told}{favours}."
