"""The account as of a scan, derived from accepted signals and their outcomes; nothing of it is stored.

The rules are gates/ftmo.py's and the positions trades/paper.py's; this module cuts both to what was known at `as_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.gates.ftmo import AccountState, account_state
from v7_pipeline.gates.rulesets import RuleSet, rules
from v7_pipeline.settings import Settings
from v7_pipeline.trades import follow, pending_risk_usd, positions

__all__ = ["Account", "read_account", "rule_set"]

MINUTE = timedelta(minutes=1)

_PAPER = """
SELECT o.*, s.stop_price, s.target_price, s.entry_price AS planned_entry, s.horizon_minutes
FROM outcomes o JOIN llm_signals s USING (signal_id)
WHERE o.kind = 'paper' AND o.source = ? AND o.as_of <= ? ORDER BY o.as_of, o.symbol
"""
_ACCEPTED = """
SELECT signal_id, as_of, symbol, side, risk_usd FROM gated_signals
WHERE accepted AND source = ? AND as_of < ? ORDER BY as_of
"""


@dataclass(frozen=True)
class Account:
    """What the rate and FTMO gates need: the state, what is still to be entered, and when signals were accepted."""

    state: AccountState
    pending_usd: float
    accepted_times: Sequence[datetime]
    open_sides: dict[str, str]

    def figures(self) -> dict[str, Any]:
        """The figures a person wants to see, in USD."""
        state = self.state
        return {
            "rules": state.rules,
            "balance_usd": round(state.balance, 2),
            "equity_usd": round(state.equity, 2),
            "room_usd": round(state.room_usd, 2),
            "daily_limit_usd": round(state.daily_limit, 2),
            "total_limit_usd": round(state.total_limit, 2),
            "open_positions": state.open_positions,
            "breached": state.breached,
        }


def read_account(settings: Settings, reader: Any, as_of: datetime, source: str) -> Account:
    """The account of `source` at `as_of`: exits that came later are not known yet, nor are later signals."""
    outcomes = _as_known(settings, reader, reader.query(_PAPER, (source, as_of)), as_of)
    accepted = reader.query(_ACCEPTED, (source, as_of))
    book = positions(outcomes, outcomes, slippage=settings.slippage)
    state = account_state(
        book,
        _candles(reader, book, as_of),
        rule_set(settings, as_of),
        initial_usd=settings.account_initial_usd,
        as_of=as_of,
    )
    recent = accepted[accepted["as_of"] > as_of - timedelta(hours=1)]
    still_open = book[book["exit_time"].isna()]
    return Account(
        state=state,
        pending_usd=pending_risk_usd(accepted, outcomes),
        accepted_times=[stamp.to_pydatetime() for stamp in recent["as_of"]],
        open_sides={
            symbol: f"{len(rows)} open: {', '.join(rows['side'])}" for symbol, rows in still_open.groupby("symbol")
        },
    )


def rule_set(settings: Settings, as_of: datetime) -> RuleSet:
    """The rules of the account on the day of `as_of`."""
    return rules(settings.ftmo_rules, on=as_of.date())


def _as_known(settings: Settings, reader: Any, outcomes: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """Outcomes as they stood at `as_of`: closed ones as stored, the others followed up to now.

    The stored rows of open trades are one scan old; a stop that was hit since must count as hit, or the candle's full
    low would be taken for the account's.
    """
    closed = outcomes["exit_time"].notna() & (outcomes["exit_time"] + MINUTE <= as_of)
    still_open = outcomes[~closed]
    if still_open.empty:
        return outcomes
    candles = reader.read(
        "candles",
        start=still_open["as_of"].min().to_pydatetime(),
        end=as_of,
        symbols=tuple(still_open["symbol"].unique()),
        columns=("symbol", "open_time", "open", "high", "low", "close"),
    )
    plans = still_open.assign(entry_price=still_open["planned_entry"])
    followed = follow(
        plans,
        candles,
        as_of=as_of,
        fee_preset=settings.fees,
        slippage=settings.slippage,
        breakeven_band_r=settings.breakeven_band_r,
    )
    followed = followed.assign(stop_price=still_open["stop_price"].to_numpy())
    return pd.concat([outcomes[closed], followed], ignore_index=True)


def _candles(reader: Any, book: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """Candles of the positions' symbols from the first entry on: breaches are seen only in minutes that are given."""
    columns = ("symbol", "open_time", "high", "low", "close")
    if book.empty:
        return reader.read("candles", start=as_of, end=as_of, columns=columns)
    return reader.read(
        "candles",
        start=book["entry_time"].min().to_pydatetime(),
        end=as_of,
        symbols=tuple(book["symbol"].unique()),
        columns=columns,
    )
