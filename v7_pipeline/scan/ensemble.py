"""The ensemble in a scan: what v7 and v6 have just decided, and what has closed before, brought to the vote.

The vote is strategies/'s; here are only its inputs as of the scan and the rows to be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pandas as pd

from v7_pipeline.analyst.base import NO_VOTE
from v7_pipeline.scan.context import ScanContext
from v7_pipeline.scan.technical import decision_row
from v7_pipeline.strategies.ensemble import MEMBERS, VOICE_DAYS, Voice, day_voices, decide_frame
from v7_pipeline.strategies.walk_forward import CUT_OFF, Terms

__all__ = ["ANALYST", "decide_ensemble"]

STRATEGY, ANALYST = "ensemble", "vote"

_EXISTING = "SELECT symbol FROM llm_signals WHERE as_of = ? AND strategy = 'ensemble' ORDER BY symbol"
_DECIDED = "SELECT * FROM llm_signals WHERE as_of = ? AND strategy IN ('v7', 'v6')"
_CLOSED = """
SELECT o.strategy, o.entry_time, o.exit_time, o.outcome, s.confidence
FROM outcomes o JOIN llm_signals s USING (signal_id)
WHERE o.source = ? AND o.strategy IN ('v7', 'v6') AND o.kind IN ('paper', 'shadow') AND s.side <> 'HOLD'
  AND o.outcome IN ('win', 'loss') AND o.exit_time > ? AND o.exit_time < ? AND s.confidence IS NOT NULL
ORDER BY o.exit_time, o.signal_id
"""

Row = dict[str, Any]


def decide_ensemble(ctx: ScanContext, fresh: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """New llm_signals rows of the ensemble, and the symbols that had theirs already.

    fresh: the members' rows of this instant that are not stored yet; the others are read.
    """
    midnight = ctx.as_of.replace(hour=0, minute=0)
    with ctx.store.reading() as reader:
        kept = [row["symbol"] for row in reader.rows(_EXISTING, (ctx.as_of,))]
        todo = [symbol for symbol in ctx.symbols if symbol not in kept]
        if not todo:
            return [], kept
        stored = reader.rows(_DECIDED, (ctx.as_of,))
        closed = reader.query(_CLOSED, (ctx.source, midnight - CUT_OFF - timedelta(days=VOICE_DAYS), midnight))
    decided = {(row["strategy"], row["symbol"]): row for row in (*stored, *fresh)}
    least = ctx.settings.min_effective_n
    voices = {
        name: day_voices(closed[closed["strategy"] == name], [midnight.date()], min_effective_n=least)
        for name in MEMBERS
    }
    members = {name: pd.DataFrame([_member(ctx, decided.get((name, symbol))) for symbol in todo]) for name in MEMBERS}
    votes = decide_frame(members, voices, terms=Terms.of(ctx.settings)).to_dict("records")
    today = {name: voices[name][midnight.date()] for name in MEMBERS}
    rows = []
    for symbol, vote in zip(todo, votes, strict=True):
        about = decided.get(("v7", symbol)) or decided.get(("v6", symbol)) or {}
        if vote["plan_of"] == "v6":
            about = decided["v6", symbol]
        rows.append(_row(ctx, symbol, {str(name): value for name, value in vote.items()}, about, today))
    return rows, kept


def _member(ctx: ScanContext, row: Mapping[str, Any] | None) -> Row:
    """A member's decision as the vote reads it; one that is missing has no answer."""
    names = ("confidence", "entry_price", "stop_price", "target_price", "horizon_minutes")
    if row is None:
        return {
            "as_of": pd.Timestamp(ctx.as_of),
            "status": "skipped",
            "side": None,
            **dict.fromkeys(names, float("nan")),
        }
    numbers = {name: float("nan") if row[name] is None else float(row[name]) for name in names}
    return {"as_of": pd.Timestamp(ctx.as_of), "status": row["status"], "side": row["side"], **numbers}


def _row(ctx: ScanContext, symbol: str, vote: Row, about: Mapping[str, Any], voices: Mapping[str, Voice]) -> Row:
    """The llm_signals row (without provenance) of one symbol; price and reading are those of the member it follows."""
    return decision_row(
        ctx,
        STRATEGY,
        ANALYST,
        symbol,
        vote,
        decided_at=ctx.clock(),
        features_as_of=about.get("features_as_of"),
        market_price=about.get("market_price"),
        price_age_s=about.get("price_age_s"),
        reasoning=explain(vote, voices),
        no_answer=NO_VOTE,
    )


def explain(vote: Mapping[str, Any], voices: Mapping[str, Voice]) -> str:
    """One or two sentences on a row of the vote: each member's edge and what its voice rests on."""
    if vote["status"] != "answered":
        return "No vote: neither v7 nor v6 has an answer."
    told = []
    for name in MEMBERS:
        voice = voices[name]
        if voice.method == "none":
            told.append(f"{name} has no voice yet ({voice.n} closed trades worth {voice.n_eff:.0f})")
        else:
            told.append(f"{name}'s edge {vote[f'{name}_edge']:+.1%} ({voice.method} on {voice.n} closed trades)")
    head = "HOLD" if vote["side"] == "HOLD" else f"{vote['side']} with {vote['plan_of']}'s plan"
    return f"{head}: {'; '.join(told)}. Together {vote['score']:+.1%}."
