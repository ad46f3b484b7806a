"""What each theory said of each closed outcome, and whether acting on it would have paid.

One row for each outcome and theory; judging the theories over many rows is attribution's part.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from v7_pipeline.learning.frames import instants, require
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["forward_return", "theory_performance", "with_trades"]

_OUTCOME_COLUMNS = (
    "signal_id", "kind", "as_of", "symbol", "strategy", "side", "exit_time", "gross_return", "fees",
    "outcome",
)  # fmt: skip
_TRADE_COLUMNS = (
    "side", "entry_time", "exit_time", "gross_return", "fees", "net_return", "r_multiple", "outcome",
)  # fmt: skip


def long_gross(outcomes: pd.DataFrame) -> pd.Series:
    """Gross return of the long side, as fraction: a SELL's gross return with its sign turned."""
    sign = outcomes["side"].map({"BUY": 1.0, "SELL": -1.0})
    if sign.isna().any():
        raise ValueError(f"side {outcomes.loc[sign.isna(), 'side'].iloc[0]!r} opens no trade; BUY or SELL does")
    return sign * outcomes["gross_return"].astype(float)


def forward_return(outcomes: pd.DataFrame) -> pd.Series:
    """Long-side net return over the trade, as a fraction; it depends on the move, not on the side taken.

    With g the long side's gross return from entry to exit (a SELL's gross return with its sign turned) and c
    the fees of both sides: sign(g) · max(|g| − c, 0). So it is a winning BUY's net return, minus a winning
    SELL's, and 0 where the move did not cover its costs. A vote has its sign exactly when a trade in the
    vote's direction would have earned more than its costs. Charging the costs to the side that was taken
    instead would make theories that agree with it look worse, and those that disagree better, on pure noise.
    """
    gross = long_gross(outcomes)
    return np.sign(gross) * (gross.abs() - outcomes["fees"].astype(float)).clip(lower=0.0)


def theory_performance(closed: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """The theory_performance rows (without provenance): ten for each closed paper or shadow outcome.

    `closed` has outcomes rows (open and manual ones are left out); `features` has, for each of their
    signals, the theory_features row that its decision read (symbol, features_as_of), with its `signal_id`.
    contribution_score and vote are the theory's own at that instant; was_correct is whether the vote has the
    sign of `forward_return`, missing where it abstained. created_at is the outcome's exit_time. Raises
    ValueError where a signal has no reading, two outcomes, or readings twice.
    """
    require(closed, _OUTCOME_COLUMNS, "closed outcomes")
    votes, scores = ([f"{theory}_{part}" for theory in THEORY_NAMES] for part in ("vote", "score"))
    require(features, ("signal_id", *votes, *scores), "theory features")
    trades = closed[closed["kind"].isin(("paper", "shadow")) & (closed["outcome"] != "open")]
    _unique(trades, "outcomes")
    _unique(features, "readings")
    readings = features.set_index("signal_id").reindex(trades["signal_id"])[votes + scores].astype(float)
    unread = trades["signal_id"].to_numpy()[readings.isna().any(axis=1).to_numpy()]
    if len(unread):
        raise ValueError(
            f"signal {unread[0]} closed but has no complete reading in theory_features "
            f"({len(unread)} in all); "
            "materialise its day again"
        )
    ten = len(THEORY_NAMES)
    vote = readings[votes].to_numpy().ravel()
    forward = np.repeat(forward_return(trades).to_numpy(), ten)
    correct = pd.Series(np.sign(vote) == np.sign(forward), dtype="boolean").mask(vote == 0)
    return pd.DataFrame(
        {
            "signal_id": np.repeat(trades["signal_id"].to_numpy(), ten),
            "theory_name": np.tile(np.array(THEORY_NAMES, dtype=object), len(trades)),
            "kind": np.repeat(trades["kind"].to_numpy(), ten),
            "as_of": instants(trades["as_of"]).repeat(ten).reset_index(drop=True),
            "symbol": np.repeat(trades["symbol"].to_numpy(), ten),
            "strategy": np.repeat(trades["strategy"].to_numpy(), ten),
            "contribution_score": readings[scores].to_numpy().ravel(),
            "vote": vote,
            "forward_return": forward,
            "was_correct": correct,
            "created_at": instants(trades["exit_time"]).repeat(ten).reset_index(drop=True),
        }
    )


def with_trades(performance: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """`performance` with what attribution needs of its trades: side, times, returns, costs and how they ended."""
    require(outcomes, ("signal_id", "kind", *_TRADE_COLUMNS), "outcomes")
    trades = outcomes[["signal_id", "kind", *_TRADE_COLUMNS]]
    return performance.merge(trades, on=["signal_id", "kind"], how="inner", validate="many_to_one")


def _unique(frame: pd.DataFrame, what: str) -> None:
    repeated = frame["signal_id"].duplicated()
    if repeated.any():
        raise ValueError(f"signal {frame.loc[repeated, 'signal_id'].iloc[0]} has {what} twice; pass one of each")
