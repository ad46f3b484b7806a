"""The account's figures as a person wants them, plain and ready for JSON, for the command line and the dashboard alike.

The account is account.py's, the rules are gates/'s; how it looks is the business of the rooms above.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pandas as pd

from v7_pipeline.gates import conditions
from v7_pipeline.gates.evaluate import GateLimits
from v7_pipeline.gates.ftmo import AccountState
from v7_pipeline.gates.rulesets import RuleSet
from v7_pipeline.scan.account import Account, read_account, rule_set
from v7_pipeline.scan.halts import STRATEGY_OF
from v7_pipeline.settings import Settings
from v7_pipeline.store import Reader
from v7_pipeline.trades import positions

__all__ = ["account_figures", "account_readings", "closed_trades", "is_simulated"]

Row = dict[str, Any]

_HALTS = f"""
SELECT halt_id, kind, started_at, until, reason FROM halts
WHERE (kind IN ('manual', 'budget') OR {STRATEGY_OF} = ?)
  AND started_at <= ? AND (lifted_at IS NULL OR lifted_at > ?) AND (until IS NULL OR until > ?) ORDER BY started_at
"""
_READINGS = """
SELECT "at", recorded_at, balance_usd, equity_usd, day_start_usd, note FROM account_readings
WHERE source = ? AND "at" <= ? AND recorded_at <= ? ORDER BY "at" DESC
"""
_OPEN = """
SELECT o.*, s.stop_price, s.target_price FROM outcomes o JOIN llm_signals s USING (signal_id)
WHERE o.kind = 'paper' AND o.strategy = ? AND o.source = ? AND o.entry_time < ?
  AND (o.exit_time IS NULL OR o.exit_time + INTERVAL 1 MINUTE > ?) ORDER BY o.entry_time, o.symbol
"""
_CLOSED = """
SELECT entry_time, exit_time, entry_price, quantity, pnl_usd, mae, fees FROM outcomes
WHERE kind = ? AND (?::VARCHAR IS NULL OR strategy = ?) AND source = ?
  AND exit_time IS NOT NULL AND pnl_usd IS NOT NULL ORDER BY exit_time, signal_id
"""
_SIMULATED = """
SELECT EXISTS (SELECT 1 FROM candles WHERE source = 'demo' OR contains(venue, 'sandbox'))
    OR EXISTS (SELECT 1 FROM outcomes WHERE source = 'demo') AS found
"""


def account_figures(
    settings: Settings,
    reader: Reader,
    as_of: datetime,
    source: str,
    *,
    whole: bool = False,
    strategy: str | None = None,
) -> Row:
    """A strategy's account of `source` at `as_of`: limits, gauges, positions, halts, what the next may risk.

    By default the first strategy's, which alone has the readings of the real account. Amounts in USD, shares as
    fractions, instants aware in UTC; None is what is not known or what the rules do not have. `whole` looks for
    breaches in every minute since the first trade, as in read_account.
    """
    whose = strategy or settings.strategies[0]
    account = read_account(settings, reader, as_of, source, whole=whole, strategy=whose)
    rules = rule_set(settings, as_of)
    state = account.state
    halts = reader.rows(_HALTS, (whose, as_of, as_of, as_of))
    readings = account_readings(reader, as_of, source) if whose == settings.strategies[0] else []
    return {
        "strategy": whose,
        "demo": settings.mode == "demo",
        "source": source,
        "as_of": as_of,
        "rules": {"name": rules.name, "effective": rules.effective.isoformat(), "source": rules.source},
        "initial_usd": settings.account_initial_usd,
        "balance_usd": state.balance,
        "equity_usd": state.equity,
        "floor_usd": state.floor,
        "room_usd": state.room_usd,
        "daily": _gauge(state.daily_limit, state.daily_allowance_usd, state),
        "total": _gauge(state.total_limit, state.total_allowance_usd, state) | {"trailing": rules.trailing},
        "target": _target(settings, rules, state),
        "trading_days": state.trading_days,
        "min_trading_days": rules.min_days,
        "best_day_usd": state.best_day_usd,
        "best_day_share": state.best_day_share,
        "best_day_limit": rules.best_day_share,
        "passable": state.passable,
        "next_trade": _next_trade(settings, rules, account, halts),
        "open_positions": state.open_positions,
        "open_risk_usd": state.open_risk_usd,
        "pending_risk_usd": account.pending_usd,
        "free_margin_usd": account.free_margin_usd,
        "prices_as_of": state.prices_as_of,
        "positions": _positions(settings, rules, reader, as_of, source, whose),
        "day": {"began_at": state.day_started_at, "ends_at": state.day_ends_at, "timezone": rules.timezone},
        "breached": state.breached,
        "breached_at": state.breached_at,
        "first_breach_at": state.first_breach_at,
        "halts": halts,
        "gates_off": list(settings.gates_off),
        "set_by_hand": {**readings[0], "unexplained_usd": state.unexplained_usd} if readings else None,
    }


def account_readings(reader: Reader, as_of: datetime, source: str) -> list[Row]:
    """Readings of the real account that were known at `as_of`, newest first, each with its age in seconds."""
    rows = reader.rows(_READINGS, (source, as_of, as_of))
    return [{**row, "age_s": (as_of - row["at"]).total_seconds()} for row in rows]


def closed_trades(reader: Reader, kind: str, source: str, strategy: str | None = None) -> pd.DataFrame:
    """The closed trades of one kind, source and strategy (None: of all), as gates.challenge.day_record reads them."""
    return reader.query(_CLOSED, (kind, strategy, strategy, source))


def is_simulated(settings: Settings, reader: Reader) -> bool:
    """Whether anything in the store comes from the simulated market, as in a backtest over its candles."""
    return settings.mode == "demo" or bool(reader.rows(_SIMULATED)[0]["found"])


def _gauge(limit: float, allowance: float, state: AccountState) -> Row:
    """What is left above one limit, now and at the worst since midnight; a share of 1 is the whole allowance."""
    room, worst = state.equity - limit, state.worst_equity_today - limit
    return {
        "limit_usd": limit,
        "allowance_usd": allowance,
        "room_usd": room,
        "room_share": room / allowance,
        "worst_room_usd": worst,
        "worst_room_share": worst / allowance,
    }


def _target(settings: Settings, rules: RuleSet, state: AccountState) -> Row | None:
    if rules.profit_target is None:
        return None
    profit = rules.profit_target * settings.account_initial_usd
    return {
        "profit_usd": profit,
        "balance_usd": settings.account_initial_usd + profit,
        "progress": state.target_progress,
        "left_usd": max(0.0, settings.account_initial_usd + profit - state.balance),
    }


def _next_trade(settings: Settings, rules: RuleSet, account: Account, halts: list[Row]) -> Row:
    """What one more trade may lose at its stop: the set risk, or less where the FTMO gate leaves less.

    The gate itself is asked, with a trade that risks nothing: what it says is left is left for the next one.
    """
    limits = GateLimits.of(settings, rules, fee_rate=0.0)
    risk_usd = settings.risk_per_trade * settings.account_initial_usd
    answer = conditions.ftmo(
        account.state,
        0.0,
        as_of=account.state.as_of,
        buffer_usd=limits.ftmo_buffer_usd,
        max_age_s=limits.max_equity_age_s,
        pending_usd=account.pending_usd,
        pending_margin_usd=account.pending_margin_usd,
        held_until=account.held_until(settings.horizon_minutes),
    )
    left = answer.inputs.get("room_left_usd")
    stops = [halt for halt in halts if halt["kind"] != "budget"]  # a budget's halt stops calls, not trades
    usd: float | None = None if left is None else max(0.0, min(risk_usd, left))
    bound = "risk_per_trade" if left is not None and left >= risk_usd else "room"
    if stops:
        usd, bound = 0.0, "halt"
    elif answer.reason_codes:
        usd, bound = 0.0, answer.reason_code or ""
    return {
        "usd": usd,
        "bound_by": bound,
        "risk_per_trade_usd": risk_usd,
        "room_left_usd": left,
        "buffer_usd": limits.ftmo_buffer_usd,
    }


def _positions(
    settings: Settings, rules: RuleSet, reader: Reader, as_of: datetime, source: str, strategy: str
) -> list[Row]:
    """The open positions as the newest scan left them, with their price now and what their stop would cost."""
    rows = reader.query(_OPEN, (strategy, source, as_of, as_of))
    if rows.empty:
        return []
    book = positions(rows, rows, slippage=settings.slippage, rate_of=rules.commission_of)
    symbols = sorted(set(book["symbol"]))
    newest = reader.newest("candles", 1, before=as_of, symbols=symbols).set_index("symbol")["close"]
    found = []
    for row, target in zip(book.to_dict("records"), rows["target_price"], strict=True):
        price = float(newest[row["symbol"]]) if row["symbol"] in newest.index else None
        direction = 1.0 if row["side"] == "BUY" else -1.0
        floating = None if price is None else direction * row["quantity"] * (price - row["entry_price"])
        found.append(
            {
                **{
                    name: row[name] for name in ("signal_id", "symbol", "side", "quantity", "entry_price", "stop_price")
                },
                "entry_time": row["entry_time"].to_pydatetime(),
                "target_price": None if pd.isna(target) else float(target),
                "price": price,
                "floating_usd": None if floating is None else floating - row["entry_fee_usd"],
                "loss_at_stop_usd": None if pd.isna(row["worst_case_usd"]) else row["worst_case_usd"],
            }
        )
    return found
