"""Step 5: every decision of the scan meets every gate; what passes becomes a signal and waits in the outbox.

Positions are sized here because gates and trades do not know one another; the rules are theirs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pandas as pd

from v7_pipeline.alerts.outbox import alerts_for_regimes, alerts_for_rest, alerts_for_scan, outbox
from v7_pipeline.alerts.watched import alerts_for_halts
from v7_pipeline.analyst.base import ANALYST_RESTING
from v7_pipeline.gates.evaluate import GateContext, gate_signals
from v7_pipeline.gates.reasons import STRATEGY_OFF
from v7_pipeline.scan.account import Account, products, rule_set
from v7_pipeline.scan.context import ScanContext, StepResult, Write
from v7_pipeline.scan.decide import STRATEGY, gate_inputs, memo_of, newest_readings, rotation
from v7_pipeline.scan.watch import breach_halts, missed_breach
from v7_pipeline.store.schema import TABLES
from v7_pipeline.trades import size_signals

__all__ = ["gate", "gate_stored"]

_SPREADS = "SELECT symbol, best_ask - best_bid AS spread FROM market_context WHERE as_of = ?"
_DONE = "SELECT signal_id FROM gated_signals WHERE as_of = ?"
# A change that a comparison or a late scan met is told by the next scan; written twice it is one alert.
_CHANGES = "SELECT * FROM model_regimes WHERE previous_regime IS NOT NULL AND started_at >= ? ORDER BY started_at"
_CHANGES_SINCE = timedelta(days=1)
_NEWEST_ERROR = """
SELECT error FROM llm_calls WHERE analyst = ? AND error IS NOT NULL AND settled_at IS NOT NULL
ORDER BY settled_at DESC, reserved_at DESC LIMIT 1
"""
NO_CLOSED = pd.DataFrame(columns=list(TABLES["outcomes"].column_names))


def gate_stored(ctx: ScanContext) -> StepResult:
    """`gate` for the decisions that the store holds at this instant."""
    return gate(
        ctx, ctx.store.query("SELECT * FROM llm_signals WHERE as_of = ? ORDER BY strategy DESC, symbol", (ctx.as_of,))
    )


def gate(ctx: ScanContext, decisions: pd.DataFrame) -> StepResult:
    """gated_signals rows for those of `decisions` (llm_signals rows of this instant) that have none yet.

    Each strategy meets the gates with limits of its own: account, hour's slots, exposure, halts and learnt threshold.
    """
    whose = ctx.settings.strategies[0]
    strategies = list(dict.fromkeys((whose, *ctx.settings.strategies_decided, *decisions["strategy"])))
    with ctx.store.reading() as reader:
        done = [row["signal_id"] for row in reader.rows(_DONE, (ctx.as_of,))]
        # Read once: of v7 where its decisions were made in this very context.
        readings = {} if all(memo_of(name) in ctx.memo for name in strategies) else newest_readings(ctx, reader)
        inputs = {name: gate_inputs(ctx, reader, readings, name) for name in strategies}
        account = inputs[whose][0]
        # Known since the analyst was asked, so not when the scan began.
        spreads = {row["symbol"]: row["spread"] for row in reader.rows(_SPREADS, (ctx.as_of,))}
        failures = reader.rows("SELECT failures FROM scans WHERE as_of = ?", (ctx.as_of,))
        changes = reader.rows(_CHANGES, (ctx.as_of - _CHANGES_SINCE,))
        zone = rule_set(ctx.settings, ctx.as_of).zone
        missed = missed_breach(reader, account.state, ctx.source, ctx.as_of, zone, strategy=whose)
    notes = {"account": account.figures()}
    todo = decisions[~decisions["signal_id"].isin(done)].reset_index(drop=True)
    if todo.empty:
        return StepResult(notes=notes)
    todo = _with_delay(ctx, todo)
    parts, halts = [], []
    for name in strategies:
        own = todo[todo["strategy"] == name].reset_index(drop=True)
        its, _, context = inputs[name]
        if len(own):
            parts.append(_gated(ctx, name, own, its, replace(context, spreads=spreads)))
            halts += _halts(ctx, name, its, context.halts)
    gated = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    writes = [Write("gated_signals", ctx.marked_rows("gated_signals", gated), "new")]
    if halts:
        writes.append(Write("halts", ctx.marked_rows("halts", halts), "new"))
    if not ctx.is_late:
        failed = json.loads(failures[0]["failures"]) if failures else {}
        joined = todo.drop(columns=["source", "run_id", "code_version"]).merge(
            gated.drop(columns=["as_of", "symbol", "strategy", "side"]), on="signal_id"
        )
        for alerts in (
            alerts_for_scan(joined, NO_CLOSED, failed, as_of=ctx.as_of, **ctx.alert_marks),
            alerts_for_regimes(changes, **ctx.alert_marks),
            alerts_for_halts(halts, **ctx.alert_marks),
            outbox(missed, **ctx.alert_marks),
            *_rest(ctx, todo),
        ):
            if len(alerts):
                writes.append(Write("alerts", ctx.marked_rows("alerts", alerts), "new"))
    return StepResult(tuple(writes), notes)


def _gated(
    ctx: ScanContext, strategy: str, decisions: pd.DataFrame, account: Account, context: GateContext
) -> pd.DataFrame:
    """One strategy's rows of gated_signals; of one that may not signal none is accepted."""
    gated = gate_signals(
        decisions,
        as_of=ctx.as_of,
        context=context,
        sized=_sized(ctx, decisions, account),
        rotation=rotation(ctx.as_of),
    )
    if strategy in ctx.settings.strategies:
        return gated
    against = [",".join(filter(None, (codes, STRATEGY_OFF))) for codes in gated["reason_codes"]]
    return gated.assign(accepted=False, reason_codes=against)


def _halts(ctx: ScanContext, strategy: str, account: Account, known: pd.DataFrame) -> list[dict[str, Any]]:
    """The halts that a breach calls for. Those of a look at the past are its own: live scans have others."""
    total = known[(known["kind"] == "total") & (known["source"] == ctx.source)]
    halted = bool((total["lifted_at"].isna() | (total["lifted_at"] > ctx.as_of)).any())
    own = "" if ctx.source == ctx.settings.source else f"{ctx.source}-"
    zone = rule_set(ctx.settings, ctx.as_of).zone
    called_for = breach_halts(account.state, ctx.as_of, zone, total_in_force=halted, strategy=strategy)
    return [{**row, "halt_id": f"{own}{row['halt_id']}"} for row in called_for]


def _rest(ctx: ScanContext, decisions: pd.DataFrame) -> list[pd.DataFrame]:
    """The alert that the analyst rests, where a decision says so: nobody else tells of an account that ran empty."""
    decisions = decisions[decisions["strategy"] == STRATEGY]
    if decisions.empty:  # nobody was to be asked, and an analyst that is not set up need not be
        return []
    who = ctx.analyst.name
    stands_in = (decisions["analyst"] == "rules") & (who not in ("rules", "replay"))
    if not ((decisions["status_reason"] == ANALYST_RESTING) | stands_in).any():
        return []
    newest = ctx.store.rows(_NEWEST_ERROR, (who,))
    return [alerts_for_rest(who, row["error"], as_of=ctx.as_of, **ctx.alert_marks) for row in newest]


def _with_delay(ctx: ScanContext, decisions: pd.DataFrame) -> pd.DataFrame:
    """A live decision gated long after its instant (its run had died) counts as decided now: late, and refused."""
    late = (decisions["source"] == "live") & (ctx.source != "live")
    if not late.any():
        return decisions
    return decisions.assign(decided_at=decisions["decided_at"].mask(late, pd.Timestamp(ctx.wall_clock())))


def _sized(ctx: ScanContext, decisions: pd.DataFrame, account: Account) -> pd.DataFrame:
    s = ctx.settings
    return size_signals(
        decisions,
        risk_usd=s.risk_per_trade * s.account_initial_usd,
        slippage=s.slippage,
        free_margin_usd=account.free_margin_usd,
        products=products(s, rule_set(s, ctx.as_of), decisions["symbol"].unique()),
    )
