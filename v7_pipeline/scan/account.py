"""The account as of a scan, derived from accepted signals and their outcomes; nothing of it is stored.

The rules are gates/ftmo.py's and the positions trades/paper.py's; this module cuts both to what was known at `as_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.gates.conditions import OpenRisk
from v7_pipeline.gates.ftmo import AccountState, Balance, account_state
from v7_pipeline.gates.rulesets import EVERY, RuleSet, day_bounds, rules
from v7_pipeline.scan.halts import STRATEGY_OF
from v7_pipeline.settings import Settings
from v7_pipeline.trades import Product, follow, pending_risk_usd, positions

__all__ = ["TO_FILL", "Account", "products", "read_account", "rule_set"]

MINUTE = timedelta(minutes=1)
SMALLEST = 1e-8  # base units; Coinbase's own step of its products

_PAPER = """
SELECT o.*, s.stop_price, s.target_price, s.entry_price AS planned_entry, s.horizon_minutes
FROM outcomes o JOIN llm_signals s USING (signal_id)
WHERE o.kind = 'paper' AND o.strategy = ? AND o.source = ? AND o.as_of <= ? ORDER BY o.as_of, o.symbol
"""
_ACCEPTED = """
SELECT g.signal_id, g.as_of, g.symbol, g.side, g.risk_usd, g.notional_usd, s.horizon_minutes
FROM gated_signals g LEFT JOIN llm_signals s USING (signal_id)
WHERE g.accepted AND g.strategy = ? AND g.source = ? AND g.as_of < ? ORDER BY g.as_of, g.symbol
"""
# Accepted by a scan that died before it followed them: they trade all the same.
_UNFOLLOWED = """
SELECT g.signal_id, 'paper' AS kind, g.as_of, g.symbol, g.strategy, g.side, g.quantity, s.stop_price, s.target_price,
       s.entry_price AS planned_entry, s.horizon_minutes
FROM gated_signals g JOIN llm_signals s USING (signal_id)
LEFT JOIN outcomes o ON o.signal_id = g.signal_id AND o.kind = 'paper'
WHERE g.accepted AND g.strategy = ? AND g.source = ? AND g.as_of < ? AND o.signal_id IS NULL ORDER BY g.as_of, g.symbol
"""
_READING = """
SELECT "at", balance_usd, equity_usd, day_start_usd,
       max(greatest(balance_usd, coalesce(day_start_usd, balance_usd))) OVER () AS peak_usd
FROM account_readings WHERE source = ? AND "at" <= ? AND recorded_at <= ? ORDER BY "at" DESC LIMIT 1
"""
_LIFTED = f"""
SELECT max(lifted_at) AS newest FROM halts
WHERE kind = 'total' AND {STRATEGY_OF} = ? AND source = ? AND lifted_at <= ?
"""
_GATED_BEFORE = "SELECT max(as_of) AS newest FROM gated_signals WHERE strategy = ? AND source = ? AND as_of < ?"
_CANDLES = """
SELECT symbol, open_time, high, low, close FROM candles
WHERE open_time < ? AND (open_time >= ? OR (open_time >= ? AND open_time < ?))
  AND symbol IN (SELECT unnest(?::VARCHAR[])) ORDER BY symbol, open_time
"""
# Candles before a reading of the real account, or before the first tested minute: what was held was worth so much then.
_HOURS_BEFORE = timedelta(hours=4)
TO_FILL = timedelta(minutes=15)  # a trade is entered some minutes after its signal, and its horizon runs from then


@dataclass(frozen=True)
class Account:
    """What the rate, FTMO and exposure gates need of the account.

    `pending_usd` and `pending_margin_usd` are of accepted signals that no candle has filled yet, `open_risks` of all
    whose trade is not over; `open_until` is when the last of those is over by its time stop, None where none is open.
    """

    state: AccountState
    pending_usd: float
    pending_margin_usd: float
    accepted_times: Sequence[datetime]
    open_sides: dict[str, str]
    open_risks: tuple[OpenRisk, ...] = ()
    open_until: datetime | None = None

    def held_until(self, horizon_minutes: int) -> datetime:
        """When everything is over that is open now, and a trade of `horizon_minutes` that would be opened now."""
        now = self.state.as_of
        return max(self.open_until or now, now + timedelta(minutes=horizon_minutes) + TO_FILL)

    @property
    def free_margin_usd(self) -> float:
        """Equity that no open or waiting position ties up."""
        return self.state.equity - self.state.margin_usd - self.pending_margin_usd

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


def read_account(
    settings: Settings,
    reader: Any,
    as_of: datetime,
    source: str,
    *,
    whole: bool = False,
    strategy: str | None = None,
) -> Account:
    """The account of `source` at `as_of`: exits that came later are not known yet, nor are later signals.

    Each strategy has a paper account of its own, by default the first of V7_STRATEGIES; that one is the account which
    a person's readings are of.

    Limits are tested minute by minute from the FTMO day of the scan before on: what was broken earlier, that scan has
    seen and kept as a halt. `whole` tests every minute since the first trade again.
    """
    whose = strategy or settings.strategies[0]
    outcomes = _as_known(settings, reader, _paper(reader, whose, source, as_of), as_of)
    accepted = reader.query(_ACCEPTED, (whose, source, as_of))
    chosen = rule_set(settings, as_of)
    book = positions(outcomes, outcomes, slippage=settings.slippage, rate_of=chosen.commission_of)
    reading = _reading(reader, source, as_of) if whose == settings.strategies[0] else None
    before = None if whole else _gated_before(reader, whose, source, as_of)
    tested_from = None if before is None else day_bounds(before, chosen.zone)[0]
    state = account_state(
        book,
        _candles(reader, book, as_of, tested_from, reading),
        chosen,
        initial_usd=settings.account_initial_usd,
        as_of=as_of,
        balance_override=reading,
        tested_from=tested_from,
        forgiven_until=_instant(reader.rows(_LIFTED, (whose, source, as_of))[0]["newest"]),
    )
    waiting = accepted[~accepted["signal_id"].isin(outcomes.loc[outcomes["entry_time"].notna(), "signal_id"])]
    over = outcomes.loc[outcomes["exit_time"].notna(), "signal_id"]
    recent = accepted[accepted["as_of"] > as_of - timedelta(hours=1)]
    still_open = book[book["exit_time"].isna()]
    trading = accepted[~accepted["signal_id"].isin(over)]
    return Account(
        state=state,
        pending_usd=pending_risk_usd(accepted, outcomes),
        pending_margin_usd=_margin(waiting, chosen),
        accepted_times=[stamp.to_pydatetime() for stamp in recent["as_of"]],
        open_sides={
            symbol: f"{len(rows)} open: {', '.join(rows['side'])}" for symbol, rows in still_open.groupby("symbol")
        },
        open_risks=tuple(OpenRisk(row["symbol"], row["side"], row["risk_usd"]) for row in trading.to_dict("records")),
        open_until=_open_until(settings, trading, as_of),
    )


def rule_set(settings: Settings, as_of: datetime) -> RuleSet:
    """The rules of the account on the day of `as_of`, with the settings' own figures of single products on top."""
    chosen = rules(settings.ftmo_rules, on=as_of.date(), file=settings.ftmo_rules_file)
    return chosen.with_own(settings.commission, settings.leverage, settings.contract_size)


def products(settings: Settings, rules: RuleSet, symbols: Iterable[str]) -> dict[str, Product]:
    """How each of `symbols` is traded on the account."""
    steps = settings.quantity_increment
    return {
        symbol: Product(
            fee_rate=rules.commission_of(symbol),
            leverage=rules.leverage_of(symbol),
            contract_size=rules.contract_size_of(symbol),
            quantity_increment=steps.get(symbol, steps.get(EVERY, SMALLEST)),
        )
        for symbol in symbols
    }


def _paper(reader: Any, strategy: str, source: str, as_of: datetime) -> pd.DataFrame:
    """Outcomes of accepted signals as stored, and a row that is open for those that were never followed."""
    stored = reader.query(_PAPER, (strategy, source, as_of))
    unfollowed = reader.query(_UNFOLLOWED, (strategy, source, as_of))
    if unfollowed.empty:
        return stored
    open_ = unfollowed.assign(exit_time=pd.Series(pd.NaT, index=unfollowed.index, dtype="datetime64[us, UTC]"))
    return open_ if stored.empty else pd.concat([stored, open_], ignore_index=True)


def _open_until(settings: Settings, trading: pd.DataFrame, as_of: datetime) -> datetime | None:
    """When the last of `trading` is over; one that should be and is not waits for its candles: not before tomorrow."""
    if trading.empty:
        return None
    minutes = trading["horizon_minutes"].fillna(settings.horizon_minutes).astype("float64")
    ends = trading["as_of"] + pd.to_timedelta(minutes, unit="min") + TO_FILL
    last: datetime = ends.max().to_pydatetime()
    return last if (ends > as_of).all() else max(last, as_of + timedelta(days=1))


def _margin(waiting: pd.DataFrame, rules: RuleSet) -> float:
    """What accepted signals that wait for their fill will tie up; rows of schema 3 do not tell, and tie up nothing."""
    leverage = waiting["symbol"].map(rules.leverage_of).astype("float64")
    return float((waiting["notional_usd"].fillna(0.0) / leverage).sum())


def _reading(reader: Any, source: str, as_of: datetime) -> Balance | None:
    """The newest reading of the real account that was known at `as_of`."""
    rows = reader.rows(_READING, (source, as_of, as_of))
    if not rows:
        return None
    row = rows[0]
    return Balance(row["at"], row["balance_usd"], row["day_start_usd"], row["equity_usd"], row["peak_usd"])


def _gated_before(reader: Any, strategy: str, source: str, as_of: datetime) -> datetime | None:
    return _instant(reader.rows(_GATED_BEFORE, (strategy, source, as_of))[0]["newest"])


def _instant(value: Any) -> datetime | None:
    return None if value is None or pd.isna(value) else pd.Timestamp(value).tz_convert("UTC").to_pydatetime()


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


def _candles(
    reader: Any, book: pd.DataFrame, as_of: datetime, tested_from: datetime | None, reading: Balance | None
) -> pd.DataFrame:
    """Candles of the positions' symbols: from the first entry or `tested_from`, and of some hours before.

    The same hours before a reading say what our positions were worth then.
    """
    if book.empty:
        return reader.query(_CANDLES, (as_of, as_of, as_of, as_of, []))
    start = book["entry_time"].min().to_pydatetime()
    if tested_from is not None:
        start = max(start, tested_from - _HOURS_BEFORE)
    known_by = reading.at if reading is not None else start
    symbols = book["symbol"].unique().tolist()
    return reader.query(_CANDLES, (as_of, start, known_by - _HOURS_BEFORE, known_by, symbols))
