"""Every reason code, once: what it means and what to do about it. The documentation and `v7 why` print from here.

When a code is given is decided in the gates, not here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ABSTAINED", "ANALYST_REASONS", "HOLD", "REASONS", "SKIPPED", "Reason", "explain"]


class Reason(NamedTuple):
    """One line of meaning and one of remedy."""

    meaning: str
    remedy: str


# What is not a rejection by a gate, but still keeps a row from being a signal.
HOLD = "HOLD"
ABSTAINED = "ABSTAINED"
SKIPPED = "SKIPPED"

NO_READING = "NO_READING"
STRATEGY_OFF = "STRATEGY_OFF"
PRICE_STALE = "PRICE_STALE"
DECISION_LATE = "DECISION_LATE"
HALT_MANUAL = "HALT_MANUAL"
HALT_DAILY = "HALT_DAILY"
HALT_TOTAL = "HALT_TOTAL"
HALT_BUDGET = "HALT_BUDGET"
BUDGET_DAY = "BUDGET_DAY"
BUDGET_MONTH = "BUDGET_MONTH"
CALL_LIMIT = "CALL_LIMIT"
PLAN_INCOMPLETE = "PLAN_INCOMPLETE"
PLAN_NO_MARKET = "PLAN_NO_MARKET"
PLAN_STOP_SIDE = "PLAN_STOP_SIDE"
PLAN_TARGET_SIDE = "PLAN_TARGET_SIDE"
PLAN_ENTRY_FAR = "PLAN_ENTRY_FAR"
PLAN_REWARD_RISK = "PLAN_REWARD_RISK"
PLAN_STOP_CLOSE = "PLAN_STOP_CLOSE"
PLAN_STOP_SPREAD = "PLAN_STOP_SPREAD"
PLAN_NO_VOLATILITY = "PLAN_NO_VOLATILITY"
CONFIDENCE_LOW = "CONFIDENCE_LOW"
RATE_LIMIT = "RATE_LIMIT"
FTMO_NO_ACCOUNT = "FTMO_NO_ACCOUNT"
FTMO_STALE = "FTMO_STALE"
FTMO_NO_PRICES = "FTMO_NO_PRICES"
FTMO_RISK_UNKNOWN = "FTMO_RISK_UNKNOWN"
FTMO_NO_SIZE = "FTMO_NO_SIZE"
FTMO_BREACHED_DAILY = "FTMO_BREACHED_DAILY"
FTMO_BREACHED_TOTAL = "FTMO_BREACHED_TOTAL"
FTMO_DAILY_ROOM = "FTMO_DAILY_ROOM"
FTMO_TOTAL_ROOM = "FTMO_TOTAL_ROOM"
FTMO_NEXT_DAY_ROOM = "FTMO_NEXT_DAY_ROOM"
FTMO_MARGIN = "FTMO_MARGIN"
EXPOSURE_OPEN = "EXPOSURE_OPEN"
EXPOSURE_CORRELATED = "EXPOSURE_CORRELATED"

REASONS: dict[str, Reason] = {
    HOLD: Reason("the analyst decided to do nothing", "nothing to do"),
    ABSTAINED: Reason(
        "the analyst gave no usable answer", "read the reason behind the colon, and the call with v7 llm show"
    ),
    SKIPPED: Reason("the analyst was not asked", "read the reason behind the colon: it is one of the codes below"),
    NO_READING: Reason("there is no reading of this symbol", "backfill its candles, or wait for the next scan"),
    STRATEGY_OFF: Reason(
        "its strategy is not in V7_STRATEGIES: it is decided for the ensemble's vote only",
        "nothing to do, or switch it on with V7_STRATEGIES",
    ),
    PRICE_STALE: Reason("the newest closed candle is too old", "check the exchange and the connection"),
    DECISION_LATE: Reason(
        "the decision came too long after its instant", "check the analyst's latency and the host's load"
    ),
    HALT_MANUAL: Reason("a person halted trading", "lift it with v7 resume when ready"),
    HALT_DAILY: Reason("the daily loss limit was reached", "wait for the next FTMO day (midnight in Prague)"),
    HALT_TOTAL: Reason("the maximum loss was reached", "look at the account; a person lifts it with v7 resume"),
    HALT_BUDGET: Reason(
        "the analyst's budget was used up",
        "wait for the next UTC day or month, raise V7_DAILY_BUDGET_USD or V7_MONTHLY_BUDGET_USD, or run v7 budget "
        "reconcile; it is lifted when there is room again",
    ),
    BUDGET_DAY: Reason(
        "the day's analyst budget has no room for a call", "wait for the next UTC day or raise V7_DAILY_BUDGET_USD"
    ),
    BUDGET_MONTH: Reason(
        "the month's analyst budget has no room", "wait for the next UTC month or raise V7_MONTHLY_BUDGET_USD"
    ),
    CALL_LIMIT: Reason("the hour's calls are used up", "wait, or raise V7_MAX_CALLS_PER_HOUR"),
    PLAN_INCOMPLETE: Reason(
        "entry, stop or target is missing or not above zero", "look at the reply: the plan is unusable"
    ),
    PLAN_NO_MARKET: Reason("no market price was known", "check the candles of this symbol"),
    PLAN_STOP_SIDE: Reason(
        "the stop is not on the losing side of entry and market", "nothing to do; the plan contradicts its side"
    ),
    PLAN_TARGET_SIDE: Reason(
        "the target is not on the winning side of entry and market", "nothing to do; the plan contradicts its side"
    ),
    PLAN_ENTRY_FAR: Reason("the entry is too far from the market", "nothing to do, or raise V7_MAX_ENTRY_DISTANCE"),
    PLAN_REWARD_RISK: Reason("reward:risk net of fees is too small", "nothing to do, or lower V7_MIN_REWARD_RISK"),
    PLAN_STOP_CLOSE: Reason(
        "the stop is within the market's noise", "nothing to do, or lower V7_MIN_STOP_VOLATILITIES"
    ),
    PLAN_STOP_SPREAD: Reason(
        "the stop is within a few spreads of the entry", "nothing to do, or lower V7_MIN_STOP_SPREADS"
    ),
    PLAN_NO_VOLATILITY: Reason(
        "the volatility is unknown, so the stop cannot be judged", "wait until enough candles are there"
    ),
    CONFIDENCE_LOW: Reason(
        "the confidence is below the threshold",
        "nothing to do; V7_MIN_CONFIDENCE is the floor, and what was learnt may stand above it",
    ),
    RATE_LIMIT: Reason("the hour's signals are used up", "wait, or raise V7_MAX_SIGNALS_PER_HOUR"),
    FTMO_NO_ACCOUNT: Reason("the account's state is unknown", "check the scan's outcomes and candles"),
    FTMO_STALE: Reason("the account's equity is too old", "check that candles arrive"),
    FTMO_NO_PRICES: Reason("an open position has no price", "backfill the candles of its symbol"),
    FTMO_RISK_UNKNOWN: Reason(
        "the worst case of this trade or of an open one is unknown", "give every open trade a stop"
    ),
    FTMO_NO_SIZE: Reason(
        "the position that fits the risk and the leverage is zero", "look at the risk, leverage and equity"
    ),
    FTMO_BREACHED_DAILY: Reason("equity fell below today's limit", "stop for today; see the account"),
    FTMO_BREACHED_TOTAL: Reason(
        "equity fell below the maximum-loss limit", "the account is lost by its rules; see the account"
    ),
    FTMO_DAILY_ROOM: Reason(
        "the worst case does not fit into today's room", "wait for open trades to close or the day to roll"
    ),
    FTMO_TOTAL_ROOM: Reason(
        "the worst case does not fit above the maximum-loss limit", "risk less per trade (V7_RISK_PER_TRADE)"
    ),
    FTMO_NEXT_DAY_ROOM: Reason(
        "what is open when the firm's day rolls would not fit into the next day's room",
        "wait for open trades to close or the day to roll",
    ),
    FTMO_MARGIN: Reason(
        "the position's margin does not fit beside that of the open ones", "wait for open trades to close"
    ),
    EXPOSURE_OPEN: Reason(
        "a signal of this symbol and side is still open", "nothing to do; it is followed to its outcome first"
    ),
    EXPOSURE_CORRELATED: Reason(
        "with what is open, too much is risked on one move of the market",
        "wait for open trades to close, or raise V7_MAX_CORRELATED_RISK",
    ),
}

# What the analyst says behind ABSTAINED: or SKIPPED: (analyst/ has the codes; a test holds them equal).
ANALYST_REASONS: dict[str, Reason] = {
    "READINGS_MISSING": Reason(
        "the price, its volatility or every theory's reading is missing", "backfill the symbol's candles, or wait"
    ),
    "ANALYST_RESTING": Reason(
        "the analyst failed several times in a row and rests",
        "see the newest rows of llm_calls; it is tried again after V7_BREAKER_REST_S, or set V7_BREAKER_FALLBACK=rules",
    ),
    "NO_MODEL": Reason(
        "v6 had too few closed trades to learn the day's model from: it needs about 16 of the 30 days before midnight",
        "fill them with v7 backfill, or wait",
    ),
    "NO_VOTE": Reason("neither v7 nor v6 had an answer to vote with", "see the reasons of their own decisions"),
    "NOT_IN_LEDGER": Reason(
        "the replay analyst has no answer to this very question",
        "nothing to do, or set V7_REPLAY_FALLBACK=rules",
    ),
    "NOT_SAMPLED": Reason(
        "the backtest asks its paid analyst at a sample of instants, and this is none of them",
        "nothing to do, or ask for a larger sample",
    ),
    "NOT_CONFIRMED": Reason(
        "the cost that was confirmed for the backtest's sample is used up", "confirm again; what was answered is kept"
    ),
    "BLANK": Reason("the reply was blank", "nothing to do: JSON mode replaces what is not JSON by spaces"),
    "TRUNCATED": Reason("the reply reached its token limit", "raise V7_DEEPSEEK_MAX_TOKENS"),
    "FILTERED": Reason("the service filtered the reply", "read the prompt with v7 llm show"),
    "OVERLOADED": Reason("the service ran out of resources", "nothing to do: it was tried again"),
    "UNEXPECTED_FINISH": Reason("the reply ended in an unknown way", "read it with v7 llm show"),
    "NOT_JSON": Reason("the reply was not one JSON object, twice", "read it with v7 llm show"),
    "SCHEMA": Reason("the reply did not have the asked form, twice", "read it with v7 llm show"),
    "CONTRADICTION": Reason("the reply contradicted itself, twice", "read it with v7 llm show"),
    "TIMEOUT": Reason(
        "no reply came within the deadline", "check the service's status, or raise V7_DEEPSEEK_DEADLINE_S"
    ),
    "RATE_LIMITED": Reason(
        "the service asked for fewer requests", "ask for fewer symbols, or raise the account's limit"
    ),
    "SERVER_ERROR": Reason("the service failed", "check the service's status"),
    "CONNECTION": Reason("the service could not be reached", "check the connection and V7_DEEPSEEK_URL"),
    "UNREADABLE": Reason("what came back is no chat completion", "check V7_DEEPSEEK_URL; read it with v7 llm show"),
}


def explain(code: str) -> Reason:
    """The meaning of a code as stored, such as PRICE_STALE or ABSTAINED:TIMEOUT; KeyError where it is unknown."""
    head, _, tail = code.partition(":")
    if head not in REASONS:
        raise KeyError(f"no reason code {head!r}; known are {', '.join(REASONS)}")
    if head not in (ABSTAINED, SKIPPED):
        return REASONS[head]
    return REASONS.get(tail) or ANALYST_REASONS.get(tail) or REASONS[head]
