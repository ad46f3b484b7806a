"""What a HOLD of v7 left out: both sides of it are followed at the default plan, from facts found again at every scan.

Rows are written only when a side closes: three symbols hold hundreds of times within one horizon.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.analyst import rules
from v7_pipeline.scan.context import ScanContext
from v7_pipeline.settings import Settings
from v7_pipeline.store.schema import HEADLINE_WINDOW
from v7_pipeline.trades import can_be_followed, default_plans

__all__ = ["holds_again", "open_holds"]

_READING_AGE = timedelta(hours=4)  # a decision's reading is not older than that
_COLUMNS = ("signal_id", "as_of", "features_as_of", "symbol", "strategy", "market_price")
_HELD = f"""
SELECT {", ".join(f"s.{name}" for name in _COLUMNS)}, f.volatility_{HEADLINE_WINDOW} AS volatility,
       coalesce(o.bought, false) AS bought, coalesce(o.sold, false) AS sold
FROM llm_signals s JOIN theory_features f ON f.symbol = s.symbol AND f.as_of = s.features_as_of
LEFT JOIN (SELECT signal_id, bool_or(side = 'BUY') AS bought, bool_or(side = 'SELL') AS sold
           FROM outcomes WHERE kind = 'shadow' AND as_of > ? GROUP BY signal_id) o ON o.signal_id = s.signal_id
WHERE s.side = 'HOLD' AND s.strategy = 'v7' AND s.source = ? AND s.as_of > ? AND s.as_of <= ?
  AND f.as_of > ? AND f.as_of <= ?
  AND s.symbol IN (SELECT unnest(?::VARCHAR[]))
"""
_OPEN = f"{_HELD} AND NOT (coalesce(o.bought, false) AND coalesce(o.sold, false)) ORDER BY s.as_of, s.symbol"
_CHOSEN = f"{_HELD} AND s.signal_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY s.as_of, s.symbol"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def open_holds(ctx: ScanContext, reader: Any, since: datetime | None) -> pd.DataFrame:
    """The sides of HOLDs that have no outcome yet at the scan; HOLDs up to `since` are known to be over.

    Columns of `follow`'s trades, and features_as_of. Without `since` every HOLD is looked at.
    """
    held = reader.query(_OPEN, _params(ctx, since))
    return _plans(ctx.settings, held, ~np.concatenate([held["bought"].to_numpy(bool), held["sold"].to_numpy(bool)]))


def holds_again(ctx: ScanContext, reader: Any, chosen: pd.DataFrame) -> pd.DataFrame:
    """The trades of these sides of HOLDs (signal_id, side; what is no HOLD is left out), as `open_holds` has them."""
    held = reader.query(_CHOSEN, (*_params(ctx, None), chosen["signal_id"].unique().tolist()))
    sides = [held["signal_id"].isin(chosen.loc[chosen["side"] == side, "signal_id"]) for side in ("BUY", "SELL")]
    return _plans(ctx.settings, held, np.concatenate(sides))


def _params(ctx: ScanContext, since: datetime | None) -> tuple[Any, ...]:
    floor = since or _BEGINNING
    return (floor, ctx.source, floor, ctx.as_of, floor - _READING_AGE if since else floor, ctx.as_of, list(ctx.symbols))


def _plans(settings: Settings, held: pd.DataFrame, wanted: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """The `wanted` sides of HOLDs (BUYs first, as default_plans has them) at the rules' own plan."""
    plans = default_plans(
        held,
        held["volatility"],
        horizon_minutes=settings.horizon_minutes,
        reward_risk=settings.min_reward_risk * rules.MARGIN,
        stop_deviations=rules.STOP_DEVIATIONS,
        stop_bounds=(rules.MIN_STOP, rules.MAX_STOP),
        costs=rules.COSTS,
    )
    plans["features_as_of"] = pd.concat([held["features_as_of"]] * 2, ignore_index=True)
    return plans[wanted & can_be_followed(plans).to_numpy()]
