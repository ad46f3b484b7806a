"""Steps 3 and 4: v7's cheap gates, then one question a remaining symbol to the analyst; then the other strategies.

A symbol that has its decision keeps it: decisions are facts. What the analyst does with a question is analyst/'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.analyst.base import ASKS_NOBODY, Decision, MarketContext, Question
from v7_pipeline.gates.evaluate import GateContext, GateLimits, before_call, why_not
from v7_pipeline.gates.reasons import NO_READING
from v7_pipeline.scan.account import Account, read_account, rule_set
from v7_pipeline.scan.context import ScanContext, StepResult, Write, persist
from v7_pipeline.scan.ensemble import decide_ensemble
from v7_pipeline.scan.exposure import correlations
from v7_pipeline.scan.halts import STRATEGY_OF
from v7_pipeline.scan.learn import threshold_at
from v7_pipeline.scan.market_context import context_of, fetch_context, stored_context
from v7_pipeline.scan.technical import decide_technical
from v7_pipeline.store import signal_id
from v7_pipeline.store.schema import HEADLINE_WINDOW, THEORY_NAMES, theory_columns
from v7_pipeline.theories import explain
from v7_pipeline.trades import fee_preset

__all__ = [
    "STRATEGY",
    "decide",
    "gate_inputs",
    "memo_of",
    "newest_readings",
    "quote_increment",
    "rotation",
    "spent_today",
]

STRATEGY = "v7"
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_MOST_DECIMALS = 8
_EXISTING = "SELECT symbol, features_as_of FROM llm_signals WHERE as_of = ? AND strategy = ? ORDER BY symbol"
_SPENT = """
SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (reserved_at >= ?), 0) AS day,
       coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS month
FROM llm_calls WHERE reserved_at >= ? AND reserved_at < ? AND as_of < ?
"""
# A person's halt holds for every scan of its time; what an account or a budget called for, for its own source; and an
# account's for its own strategy.
_HALTS = f"""
SELECT * FROM halts WHERE started_at <= ?
AND (kind = 'manual' OR (source = ? AND (kind = 'budget' OR {STRATEGY_OF} = ?)))
"""
_CALLS_MADE = "SELECT count(*) AS n FROM llm_calls WHERE analyst = ? AND as_of > ? AND as_of < ?"
_PRICES = """
SELECT symbol, open_time, open, high, low, close FROM candles WHERE open_time < ? AND open_time >= ?
ORDER BY symbol, open_time
"""
_CLOSES = """
SELECT symbol, arg_max(close, open_time) AS close FROM candles WHERE open_time < ? AND open_time >= ? GROUP BY symbol
"""
_READING_COLUMNS = tuple(column.name for column in theory_columns())


def decide(ctx: ScanContext) -> StepResult:
    """One llm_signals row for each symbol and strategy that has none yet at this instant."""
    chosen = ctx.settings.strategies_decided
    notes: dict[str, Any] = {
        "kept": [], "differences": [], "cost_usd": 0.0, "spent_today_usd": 0.0, "context_faults": {},
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    writes: list[Write] = []
    if STRATEGY in chosen:
        rows, more, notes = _decide_v7(ctx)
        writes += more
    if "v6" in chosen:
        own, more, told = decide_technical(ctx)
        rows, writes = [*rows, *own], [*writes, *more]
        notes = {**notes, **{name: [*notes[name], *told[name]] for name in ("kept", "differences")}}
    if "ensemble" in chosen:
        own, kept = decide_ensemble(ctx, rows)
        rows = [*rows, *own]
        notes = {**notes, "kept": [*notes["kept"], *(f"{symbol} (ensemble)" for symbol in kept)]}
    if rows:
        writes = [Write("llm_signals", ctx.marked_rows("llm_signals", rows), "new"), *writes]
    return StepResult(tuple(writes), notes)


def _decide_v7(ctx: ScanContext) -> tuple[list[dict[str, Any]], tuple[Write, ...], dict[str, Any]]:
    """v7's new rows, what else is to be written, and what there is to tell."""
    with ctx.store.reading() as reader:
        existing = reader.rows(_EXISTING, (ctx.as_of, STRATEGY))
        kept = [row["symbol"] for row in existing]
        todo = [symbol for symbol in ctx.symbols if symbol not in kept]
        readings = newest_readings(ctx, reader)
        markets = _markets(ctx, reader)
        if todo:
            account, spent, context = gate_inputs(ctx, reader, readings)
            known = stored_context(ctx, reader)
    differences = _differences(existing, readings)
    if not todo:
        notes = {
            "kept": kept,
            "differences": differences,
            "cost_usd": 0.0,
            "spent_today_usd": 0.0,
            "context_faults": {},
        }
        return [], (), notes
    cheap = before_call(
        todo,
        as_of=ctx.as_of,
        features_as_of={s: readings[s]["as_of"] if s in readings else None for s in todo},
        context=context,
        rotation=rotation(ctx.as_of),
    )
    reasons = {symbol: why_not(cheap[symbol], context) for symbol in todo}
    asked = [s for s in todo if reasons[s] is None and s in readings and s in markets]
    known, context_write = _market_context(ctx, asked, known)
    questions = [
        _question(ctx, symbol, readings[symbol], markets[symbol], account, context_of(known.get(symbol)))
        for symbol in asked
    ]
    decisions = {d.signal_id: d for d in ctx.analyst.decide(questions, now=ctx.clock())} if questions else {}
    rows = [
        _row(ctx, symbol, readings.get(symbol), markets.get(symbol), reasons[symbol], decisions.get(_id(ctx, symbol)))
        for symbol in todo
    ]
    cost = sum(decision.cost_usd for decision in decisions.values())
    notes = {
        "kept": kept,
        "differences": differences,
        "cost_usd": cost,
        "spent_today_usd": spent["day"] + cost,
        "context_faults": {s: faults for s in asked if s in known and (faults := json.loads(known[s]["faults"]))},
    }
    return rows, context_write, notes


def _market_context(
    ctx: ScanContext, symbols: Sequence[str], known: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], tuple[Write, ...]]:
    """What else is known of `symbols`, from the store or asked for now, and what of it is to be written.

    It is written before the question is asked, and kept by the step's own write: a scan that dies between asking and
    writing its decisions asks the very same question again, and finds its answer paid.
    """
    fetched = fetch_context(ctx, [symbol for symbol in symbols if symbol not in known])
    if not fetched:
        return dict(known), ()
    write = Write("market_context", ctx.marked_rows("market_context", fetched), "new")
    persist(ctx.store, StepResult((write,)))
    return {**known, **{row["symbol"]: row for row in fetched}}, (write,)


def rotation(as_of: datetime) -> int:
    """The scan's number since 1970, from which the symbols' order is rotated."""
    return int(as_of.timestamp()) // 120


def gate_inputs(
    ctx: ScanContext, reader: Any, readings: Mapping[str, Mapping[str, Any]], strategy: str = STRATEGY
) -> tuple[Account, dict[str, float], GateContext]:
    """The strategy's account, what was spent, and the gates' context, as they stood when the scan began."""
    place = memo_of(strategy)
    if place not in ctx.memo:
        account = read_account(ctx.settings, reader, ctx.as_of, ctx.source, strategy=strategy)
        spent = spent_today(reader, ctx.as_of)
        ctx.memo[place] = account, spent, _gate_context(ctx, reader, account, spent, readings, strategy)
    inputs: tuple[Account, dict[str, float], GateContext] = ctx.memo[place]
    return inputs


def memo_of(strategy: str) -> str:
    """Where the scan keeps a strategy's `gate_inputs`."""
    return "gate_inputs" if strategy == STRATEGY else f"gate_inputs:{strategy}"


def _gate_context(
    ctx: ScanContext,
    reader: Any,
    account: Account,
    spent: Mapping[str, float],
    readings: Mapping[str, Mapping[str, Any]],
    strategy: str,
) -> GateContext:
    """Everything the gates look at, as it stood when the scan began. Only v7 asks an analyst: others have no calls."""
    s = ctx.settings
    worst, who = (ctx.analyst.worst_case_usd, ctx.analyst.name) if strategy == STRATEGY else (0.0, ASKS_NOBODY[0])
    free = worst == 0.0
    return GateContext(
        limits=GateLimits.of(s, rule_set(s, ctx.as_of), fee_rate=fee_preset(s.fees).rate_per_side),
        halts=reader.query(_HALTS, (ctx.as_of, ctx.source, strategy)),
        accepted_times=account.accepted_times,
        account=account.state,
        pending_risk_usd=account.pending_usd,
        day_room_usd=math.inf if free else s.daily_budget_usd - spent["day"],
        month_room_usd=math.inf if free else s.monthly_budget_usd - spent["month"],
        call_worst_case_usd=worst,
        volatility={symbol: reading[f"volatility_{HEADLINE_WINDOW}"] for symbol, reading in readings.items()},
        pending_margin_usd=account.pending_margin_usd,
        calls_made=None if who in ASKS_NOBODY else calls_made(reader, who, ctx.as_of),
        open_risks=account.open_risks,
        open_until=account.open_until,
        horizon_minutes=s.horizon_minutes,
        correlations=correlations(reader, ctx.as_of, (*ctx.symbols, *(one.symbol for one in account.open_risks))),
        learnt_confidence=threshold_at(reader, strategy=strategy, source=ctx.source, as_of=ctx.as_of),
        off=frozenset(s.gates_off),
    )


def calls_made(reader: Any, analyst: str, as_of: datetime) -> int:
    """Attempts of earlier scans to reach `analyst` in the sixty minutes before `as_of`."""
    rows = reader.rows(_CALLS_MADE, (analyst, as_of - timedelta(hours=1), as_of))
    return int(rows[0]["n"])


def spent_today(reader: Any, as_of: datetime) -> dict[str, float]:
    """USD of earlier scans that the ledger holds against the day and month of `as_of`, unsettled at their reserve."""
    midnight = as_of.replace(hour=0, minute=0)
    row: dict[str, float] = reader.rows(_SPENT, (midnight, midnight.replace(day=1), midnight + _DAY, as_of))[0]
    return row


def quote_increment(prices: pd.DataFrame) -> float:
    """The price step that the product's recent prices show: 10 to the minus of the most decimals seen."""
    seen = prices[["open", "high", "low", "close"]].tail(240).to_numpy(dtype="float64")
    for decimals in range(_MOST_DECIMALS):
        if (abs(seen.round(decimals) - seen) < 10.0 ** -(_MOST_DECIMALS + 2)).all():
            return 10.0**-decimals
    return 10.0**-_MOST_DECIMALS


def _id(ctx: ScanContext, symbol: str) -> str:
    return signal_id(STRATEGY, symbol, ctx.as_of)


def newest_readings(ctx: ScanContext, reader: Any) -> dict[str, dict[str, Any]]:
    """Each symbol's newest reading at or before `as_of`, not older than four hours."""
    floor = ctx.as_of - timedelta(hours=4)
    known = reader.rows(
        "SELECT symbol, max(as_of) AS newest FROM theory_features WHERE as_of <= ? AND as_of > ? GROUP BY symbol",
        (ctx.as_of, floor),
    )
    newest = {row["symbol"]: row["newest"] for row in known}
    if not newest:
        return {}
    rows = reader.read("theory_features", start=min(newest.values()), end=ctx.as_of + _MINUTE)
    columns = {name: rows[name].tolist() for name in rows.columns}
    readings: dict[str, dict[str, Any]] = {}
    for place, (symbol, as_of) in enumerate(zip(columns["symbol"], columns["as_of"], strict=True)):
        if symbol in ctx.symbols and as_of == newest[symbol]:
            readings[symbol] = {name: values[place] for name, values in columns.items()}
    return readings


def _markets(ctx: ScanContext, reader: Any) -> dict[str, dict[str, Any]]:
    """Newest known close, the change over 24 h (missing where that minute is not known) and the price step."""
    rows = reader.query(_PRICES, (ctx.as_of, ctx.as_of - timedelta(hours=4)))
    before = reader.rows(_CLOSES, (ctx.as_of - _DAY, ctx.as_of - _DAY - timedelta(minutes=15)))
    yesterday = {row["symbol"]: row["close"] for row in before}
    markets: dict[str, dict[str, Any]] = {}
    for symbol, candles in rows.groupby("symbol"):
        close = float(candles["close"].iloc[-1])
        markets[str(symbol)] = {
            "price": close,
            "known_at": candles["open_time"].iloc[-1].to_pydatetime() + timedelta(minutes=1),
            "change_24h": close / yesterday[symbol] - 1.0 if symbol in yesterday else None,
            "increment": quote_increment(candles),
        }
    return markets


def _question(
    ctx: ScanContext,
    symbol: str,
    reading: Mapping[str, Any],
    market: Mapping[str, Any],
    account: Account,
    context: MarketContext,
) -> Question:
    return Question(
        signal_id=_id(ctx, symbol),
        symbol=symbol,
        strategy=STRATEGY,
        as_of=ctx.as_of,
        features_as_of=reading["as_of"].to_pydatetime(),
        readings={name: _missing_is_none(reading[name]) for name in _READING_COLUMNS},
        explanations={theory: explain(theory, reading) for theory in THEORY_NAMES},
        market_price=market["price"],
        # At the instant, not at the clock: the same question whenever the scan is done.
        price_age_s=(ctx.as_of - market["known_at"]).total_seconds(),
        quote_increment=market["increment"],
        change_24h=market["change_24h"],
        observed_share=_missing_is_none(reading["observed_share"]),
        horizon_minutes=ctx.settings.horizon_minutes,
        reward_risk=ctx.settings.min_reward_risk,
        open_position=account.open_sides.get(symbol),
        room_usd=account.state.room_usd,
        aggressive=ctx.settings.aggressive,
        demo=ctx.is_demo,
        context=context,
    )


def _row(
    ctx: ScanContext,
    symbol: str,
    reading: Mapping[str, Any] | None,
    market: Mapping[str, Any] | None,
    reason: str | None,
    decision: Decision | None,
) -> dict[str, Any]:
    """The llm_signals row (without provenance) of one symbol."""
    answer = decision.answer if decision else None
    decided_at = ctx.clock()
    return {
        "signal_id": _id(ctx, symbol),
        "as_of": ctx.as_of,
        "features_as_of": reading["as_of"] if reading else None,
        "decided_at": decided_at,
        "symbol": symbol,
        "strategy": STRATEGY,
        "analyst": decision.analyst if decision else ctx.analyst.name,
        "side": answer.side if answer else None,
        "confidence": answer.confidence if answer else None,
        "entry_price": answer.entry_price if answer else None,
        "stop_price": answer.stop_price if answer else None,
        "target_price": answer.target_price if answer else None,
        "horizon_minutes": answer.horizon_minutes if answer else None,
        "reasoning": answer.reasoning if answer else None,
        "key_theories": ",".join(answer.key_theories) if answer else None,
        "would_change_my_mind": answer.would_change_my_mind if answer else None,
        "ungrounded_numbers": _listed(decision.ungrounded) if decision and answer else None,
        "market_price": market["price"] if market else None,
        "price_age_s": (decided_at - market["known_at"]).total_seconds() if market else None,
        "call_id": decision.call_id if decision else None,
        "prompt_version": decision.prompt_version if decision else None,
        "status": decision.status if decision else "skipped",
        "status_reason": decision.status_reason if decision else reason or NO_READING,
    }


def _differences(existing: Sequence[Mapping[str, Any]], readings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a repeated scan would have read differently: a newer reading has arrived since the decision."""
    told = []
    for row in existing:
        reading = readings.get(row["symbol"])
        if reading is not None and row["features_as_of"] is not None and reading["as_of"] != row["features_as_of"]:
            told.append(
                f"{row['symbol']}: decided on {row['features_as_of']}, a reading of {reading['as_of']} came since"
            )
    return told


def _listed(numbers: Sequence[str] | None) -> str | None:
    return None if numbers is None else json.dumps(list(numbers))


def _missing_is_none(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
