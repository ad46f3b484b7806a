"""Gates: which decision may become a signal, and the prop firm's account that it must not break.

Pure functions of frames and an instant. Sizing and outcomes belong to trades; composing the two belongs to scan.
"""

from __future__ import annotations

from v7_pipeline.gates.base import GATES, GateResult
from v7_pipeline.gates.conditions import OpenRisk, correlated_risk, tier_of
from v7_pipeline.gates.evaluate import (
    GATED_COLUMNS,
    GateContext,
    GateLimits,
    before_call,
    gate_signals,
    rotated,
    why_not,
)
from v7_pipeline.gates.ftmo import AccountState, Balance, account_state
from v7_pipeline.gates.reasons import ANALYST_REASONS, REASONS, Reason, explain
from v7_pipeline.gates.rulesets import RulesError, RuleSet, day_bounds, ftmo_day, rule_names, rules

__all__ = [
    "ANALYST_REASONS",
    "GATED_COLUMNS",
    "GATES",
    "REASONS",
    "AccountState",
    "Balance",
    "GateContext",
    "GateLimits",
    "GateResult",
    "OpenRisk",
    "Reason",
    "RuleSet",
    "RulesError",
    "account_state",
    "before_call",
    "correlated_risk",
    "day_bounds",
    "explain",
    "ftmo_day",
    "gate_signals",
    "rotated",
    "rule_names",
    "rules",
    "tier_of",
    "why_not",
]
