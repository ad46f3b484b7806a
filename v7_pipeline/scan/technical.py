"""v6 in a scan: the day's model, read or fitted once, and its decision of each symbol beside v7's.

What a model and a decision are is strategies/'s; here are only the candles as of the scan and the rows to be written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.analyst.base import NO_MODEL, READINGS_MISSING
from v7_pipeline.indicators import indicators
from v7_pipeline.scan.context import ScanContext, Write
from v7_pipeline.store import signal_id
from v7_pipeline.strategies import v6
from v7_pipeline.strategies.walk_forward import (
    CUT_OFF,
    TRAIN_DAYS,
    DayModel,
    Terms,
    candles_for_decision,
    candles_for_model,
    day_models,
    decide_frame,
    inputs_at,
    price_steps,
)

__all__ = ["ANALYST", "decide_technical", "decision_row"]

STRATEGY, ANALYST = "v6", "technical"

_EXISTING = "SELECT symbol, features_as_of FROM llm_signals WHERE as_of = ? AND strategy = 'v6' ORDER BY symbol"
_MODELS = "SELECT * FROM strategy_models WHERE strategy = 'v6' AND fitted_for = ?"
_CANDLES = ("symbol", "open_time", "open", "high", "low", "close", "volume")
_READ_BACK = timedelta(hours=4, minutes=1)

Row = dict[str, Any]


def decide_technical(ctx: ScanContext) -> tuple[list[Row], tuple[Write, ...], dict[str, list[str]]]:
    """New llm_signals rows of v6, new models, and the notes `kept` and `differences` as v7's decisions have them.

    Nothing is asked of anybody, so nothing is skipped: what may become a signal, the gates say. A decision that is
    made stays as it is. A model is a fact of its day once it is fitted; where there is too little, it is looked for
    again at every scan, since a backfill may have come.
    """
    terms = Terms.of(ctx.settings)
    with ctx.store.reading() as reader:
        kept = {row["symbol"]: row["features_as_of"] for row in reader.rows(_EXISTING, (ctx.as_of,))}
        candles = _candles(ctx, reader, candles_for_decision(ctx.as_of, terms.gap_minutes), ctx.as_of)
        todo = [symbol for symbol in ctx.symbols if symbol not in kept]
        models, new = _models(ctx, reader, todo, terms)
    rows, differences = [], []
    for symbol in ctx.symbols:
        decided = _decided(ctx, candles[candles["symbol"] == symbol], models.get(symbol), terms)
        if symbol in todo:
            rows.append(_row(ctx, symbol, decided, models[symbol]))
        elif _read_since(kept[symbol], decided["features_as_of"]):
            differences.append(
                f"{symbol}: v6 decided on {kept[symbol]}, a candle of {decided['features_as_of']} came since"
            )
    writes = (Write("strategy_models", ctx.marked_rows("strategy_models", new), "new"),) if new else ()
    return rows, writes, {"kept": [f"{symbol} ({STRATEGY})" for symbol in kept], "differences": differences}


def _candles(ctx: ScanContext, reader: Any, start: datetime, end: datetime) -> pd.DataFrame:
    found: pd.DataFrame = reader.read("candles", start=start, end=end, symbols=ctx.symbols, columns=_CANDLES)
    return found.sort_values(["symbol", "open_time"], ignore_index=True)


def _models(ctx: ScanContext, reader: Any, symbols: list[str], terms: Terms) -> tuple[dict[str, DayModel], list[Row]]:
    """The day's model of each of `symbols`, and the rows of those that were fitted just now."""
    midnight = ctx.as_of.replace(hour=0, minute=0)
    found = {row["symbol"]: _of_row(row) for row in reader.rows(_MODELS, (midnight,))} if symbols else {}
    missing = [symbol for symbol in symbols if symbol not in found]
    new: list[Row] = []
    if missing:
        day = midnight.date()
        candles = _candles(ctx, reader, candles_for_model(day, terms.gap_minutes), midnight - CUT_OFF)
        for symbol in missing:
            found[symbol] = _fitted(candles[candles["symbol"] == symbol], day, terms)
            if found[symbol].model is not None:
                new.append(_model_row(ctx, symbol, midnight, found[symbol]))
    return found, new


def _fitted(candles: pd.DataFrame, day: date, terms: Terms) -> DayModel:
    return day_models(candles.reset_index(drop=True), [day], terms)[day]


def _decided(ctx: ScanContext, candles: pd.DataFrame, model: DayModel | None, terms: Terms) -> Row:
    """One row of `decide_frame` at the scan's instant."""
    candles = candles.reset_index(drop=True)
    at = pd.DatetimeIndex([ctx.as_of])
    measured = indicators(candles, start=ctx.as_of - _READ_BACK, end=ctx.as_of, gap_minutes=terms.gap_minutes)
    frame = inputs_at(candles, at, measured)
    models = {} if model is None else {model.day: model}
    decided = decide_frame(frame, models, quote_increment=price_steps(candles, at), terms=terms)
    return {str(name): value for name, value in decided.to_dict("records")[0].items()}


def _row(ctx: ScanContext, symbol: str, decided: Row, model: DayModel) -> Row:
    """The llm_signals row (without provenance) of one symbol."""
    read_at = None if pd.isna(decided["features_as_of"]) else decided["features_as_of"].to_pydatetime()
    decided_at = ctx.clock()
    return decision_row(
        ctx,
        STRATEGY,
        ANALYST,
        symbol,
        decided,
        decided_at=decided_at,
        features_as_of=read_at,
        market_price=None if read_at is None else float(decided["market_price"]),
        price_age_s=None if read_at is None else (decided_at - read_at).total_seconds(),
        reasoning=explain(decided, model),
        no_answer=NO_MODEL if model.model is None else READINGS_MISSING,
    )


def decision_row(
    ctx: ScanContext,
    strategy: str,
    analyst: str,
    symbol: str,
    decided: Row,
    *,
    decided_at: datetime,
    features_as_of: datetime | None,
    market_price: float | None,
    price_age_s: float | None,
    reasoning: str,
    no_answer: str,
) -> Row:
    """The llm_signals row (without provenance) of a decision that nobody was asked for; `no_answer` is why it has none.

    decided: a row with the columns of analyst.rules.decide_frame.
    """
    answered, trading = decided["status"] == "answered", decided["side"] in ("BUY", "SELL")
    plan = {name: decided[name] if trading else None for name in ("entry_price", "stop_price", "target_price")}
    unasked = ("key_theories", "would_change_my_mind", "ungrounded_numbers", "call_id", "prompt_version")
    return {
        "signal_id": signal_id(strategy, symbol, ctx.as_of),
        "as_of": ctx.as_of,
        "features_as_of": features_as_of,
        "decided_at": decided_at,
        "symbol": symbol,
        "strategy": strategy,
        "analyst": analyst,
        "side": decided["side"],
        "confidence": round(float(decided["confidence"]), 4) if answered else None,
        **plan,
        "horizon_minutes": int(decided["horizon_minutes"]) if trading else None,
        "reasoning": reasoning,
        **dict.fromkeys(unasked),
        "market_price": market_price,
        "price_age_s": price_age_s,
        "status": decided["status"],
        "status_reason": None if answered else no_answer,
    }


def explain(decided: Mapping[str, Any], model: DayModel) -> str:
    """One or two sentences on a row of `decide_frame`: what was expected of the better side, or what is missing."""
    if model.model is None:
        return (
            f"No model of {model.day}: the {TRAIN_DAYS} days before its midnight have {model.n} closed trades, worth "
            f"{model.n_eff:.0f}; {v6.FEWEST} are needed, about {_days_needed(model)} days of candles. Fill them with "
            "v7 backfill."
        )
    if decided["status"] != "answered":
        return "No decision: the price or an indicator is missing; indicators need 12 hours without a gap."
    edge = decided["p_win"] - decided["break_even"]
    told = (
        f"P(win) of a {decided['side_asked']} is {decided['p_win']:.1%}, its plan breaks even at "
        f"{decided['break_even']:.1%}: an edge of {edge:+.1%}, {decided['expected_r']:+.2f} R expected after costs"
    )
    return f"{told}. The model of {model.day} rests on {model.n} trades worth {model.n_eff:.0f}."


def _days_needed(model: DayModel) -> int:
    """Days of candles that a model needs, by what those that there are have been worth; 16 where there are too few."""
    if model.first is None or model.last is None or model.last - model.first < timedelta(days=2):
        return 16
    return 1 + round(v6.FEWEST * ((model.last - model.first) / timedelta(days=1)) / model.n_eff)


def _model_row(ctx: ScanContext, symbol: str, midnight: datetime, fitted: DayModel) -> Row:
    assert fitted.model is not None
    about = {name: getattr(fitted, name) for name in ("n", "wins", "n_eff", "win_r", "loss_r")}
    return {
        "strategy": STRATEGY,
        "symbol": symbol,
        "fitted_for": midnight,
        "coefficients": json.dumps(asdict(fitted.model), sort_keys=True),
        **about,
        "first_as_of": fitted.first,
        "last_as_of": fitted.last,
        "fitted_at": ctx.clock(),
    }


def _of_row(row: Mapping[str, Any]) -> DayModel:
    """The model that `_model_row` wrote."""
    told = json.loads(row["coefficients"])
    about = {name: row[name] for name in ("n", "wins", "n_eff", "win_r", "loss_r")}
    span = {"first": row["first_as_of"], "last": row["last_as_of"]}
    return DayModel(day=row["fitted_for"].date(), model=v6.LogisticModel(**told), **about, **span)


def _read_since(before: datetime | None, now: Any) -> bool:
    return before is not None and not pd.isna(now) and now.to_pydatetime() != before
