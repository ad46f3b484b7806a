"""A whole scan in one call: the steps in their order, each written before the next one reads.

The assets call the same steps one by one; this is for `v7` commands, the backtest and tests that need no Dagster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from v7_pipeline.scan.attribute import attribute
from v7_pipeline.scan.candles import fetch_new
from v7_pipeline.scan.context import ScanContext, StepResult, persist
from v7_pipeline.scan.decide import decide
from v7_pipeline.scan.features import new_readings
from v7_pipeline.scan.follow import follow_signals
from v7_pipeline.scan.gating import gate_stored

__all__ = ["STEPS", "ScanReport", "run_scan"]

STEPS: tuple[tuple[str, Callable[[ScanContext], StepResult]], ...] = (
    ("candles", fetch_new),
    ("theory_features", new_readings),
    ("llm_signals", decide),
    ("gated_signals", gate_stored),
    ("outcomes", follow_signals),
    ("theory_attribution", attribute),
)


@dataclass(frozen=True)
class ScanReport:
    """What each step had to tell, and how many rows were written."""

    as_of: datetime
    notes: dict[str, Any]
    written: dict[str, Any]
    accepted: tuple[str, ...]


def run_scan(ctx: ScanContext) -> ScanReport:
    """All steps at `ctx.as_of`; an exception ends the scan and is the caller's to see."""
    notes: dict[str, Any] = {}
    written: dict[str, Any] = {}
    accepted: tuple[str, ...] = ()
    for name, step in STEPS:
        result = step(ctx)
        if name == "gated_signals":
            accepted = _accepted(ctx, result)
        notes[name] = result.notes
        written[name] = persist(ctx.store, result)
    return ScanReport(ctx.as_of, notes, written, accepted)


def _accepted(ctx: ScanContext, result: StepResult) -> tuple[str, ...]:
    """One line for each signal that this scan accepted: what, when, and why."""
    if not result.writes:
        return ()
    gated = result.frame("gated_signals")
    chosen = gated.loc[gated["accepted"].astype(bool), "signal_id"].tolist()
    if not chosen:
        return ()
    why = ctx.store.query("SELECT signal_id, reasoning FROM llm_signals WHERE as_of = ?", (ctx.as_of,))
    reasons = dict(zip(why["signal_id"], why["reasoning"], strict=True))
    mark = "DEMO " if ctx.is_demo else ""
    rows = gated[gated["signal_id"].isin(chosen)].to_dict("records")
    return tuple(
        f"{mark}{ctx.as_of:%m-%d %H:%M}Z {row['side']} {row['symbol']} ({row['tier']}): {reasons[row['signal_id']]}"
        for row in rows
    )
