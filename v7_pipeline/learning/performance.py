"""What each theory said of each closed outcome, and whether acting on it would have paid.

One row for each outcome and theory; judging the theories over many rows is attribution's part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.frames import instants, require
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["HOLD_COLUMNS", "forward_return", "hold_performance", "theory_performance", "with_trades"]

Floats = npt.NDArray[np.float64]

_OUTCOME_COLUMNS = (
    "signal_id", "kind", "as_of", "symbol", "strategy", "side", "exit_time", "gross_return", "fees",
    "outcome",
)  # fmt: skip
HOLD_COLUMNS = ("signal_id", "kind", "as_of", "symbol", "strategy", "side", "exit_time", "net_return")
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
    trades = closed[closed["kind"].isin(("paper", "shadow")) & (closed["outcome"] != "open")]
    _unique(trades, "outcomes")
    vote, score = _spoken(trades, features)
    forward = np.repeat(forward_return(trades).to_numpy(), len(THEORY_NAMES))
    correct = pd.Series(np.sign(vote) == np.sign(forward), dtype="boolean").mask(vote == 0)
    return _rows(trades, vote, score, forward, correct, trades["exit_time"])


def hold_performance(
    closed: Sequence[Mapping[str, Any]], features: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The theory_performance rows (without provenance) of HOLDs, both sides of which have closed: ten for each.

    `closed` has outcomes rows (HOLD_COLUMNS) of HOLDs, BUY and SELL at the default plan; a HOLD with one closed side is
    left out. `features` has of each the vote and score of the reading behind it, with its `signal_id`. forward_return
    is the net return of the side that the vote takes, signed long-positive: the BUY's for a vote above 0 and where it
    abstained, minus the SELL's for one below. was_correct: that side's net return is above 0; None where it abstained.
    created_at is the later exit_time. ValueError where a reading is missing.
    """
    readings = {row["signal_id"]: row for row in features}
    sides: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in closed:
        sides.setdefault(row["signal_id"], {})[row["side"]] = row
    rows = []
    for name, pair in sides.items():
        if len(pair) < 2:
            continue
        if name not in readings:
            raise ValueError(f"signal {name} closed but has no reading in theory_features; materialise its day again")
        bought, sold = pair["BUY"], pair["SELL"]
        about = {column: bought[column] for column in ("signal_id", "kind", "as_of", "symbol", "strategy")}
        for theory in THEORY_NAMES:
            vote = readings[name][f"{theory}_vote"]
            net = sold["net_return"] if vote < 0 else bought["net_return"]
            rows.append(
                {
                    **about,
                    "theory_name": theory,
                    "contribution_score": readings[name][f"{theory}_score"],
                    "vote": vote,
                    "forward_return": -net if vote < 0 else net,
                    "was_correct": net > 0 if vote else None,
                    "created_at": max(bought["exit_time"], sold["exit_time"]),
                }
            )
    return rows


def _spoken(trades: pd.DataFrame, features: pd.DataFrame) -> tuple[Floats, Floats]:
    """Each trade's ten votes and scores, one after the other; ValueError where a reading is missing or twice."""
    votes, scores = ([f"{theory}_{part}" for theory in THEORY_NAMES] for part in ("vote", "score"))
    require(features, ("signal_id", *votes, *scores), "theory features")
    _unique(features, "readings")
    readings = features.set_index("signal_id").reindex(trades["signal_id"])[votes + scores].astype(float)
    unread = trades["signal_id"].to_numpy()[readings.isna().any(axis=1).to_numpy()]
    if len(unread):
        raise ValueError(
            f"signal {unread[0]} closed but has no complete reading in theory_features "
            f"({len(unread)} in all); "
            "materialise its day again"
        )
    return readings[votes].to_numpy().ravel(), readings[scores].to_numpy().ravel()


def _rows(
    trades: pd.DataFrame, vote: Floats, score: Floats, forward: Floats, correct: pd.Series, closed_at: pd.Series
) -> pd.DataFrame:
    ten = len(THEORY_NAMES)
    return pd.DataFrame(
        {
            "signal_id": np.repeat(trades["signal_id"].to_numpy(), ten),
            "theory_name": np.tile(np.array(THEORY_NAMES, dtype=object), len(trades)),
            "kind": np.repeat(trades["kind"].to_numpy(), ten),
            "as_of": instants(trades["as_of"]).repeat(ten).reset_index(drop=True),
            "symbol": np.repeat(trades["symbol"].to_numpy(), ten),
            "strategy": np.repeat(trades["strategy"].to_numpy(), ten),
            "contribution_score": score,
            "vote": vote,
            "forward_return": forward,
            "was_correct": correct,
            "created_at": instants(closed_at).repeat(ten).reset_index(drop=True),
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
