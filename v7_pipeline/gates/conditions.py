"""The single gates: small pure functions of one shape, from what they look at to a GateResult.

Which gates are asked of a decision, and in which order, is evaluate.py's business; the account is ftmo.py's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import pandas as pd

from v7_pipeline.gates import reasons
from v7_pipeline.gates.base import GateResult, instant, present, require, result
from v7_pipeline.gates.ftmo import CENTS, AccountState

__all__ = [
    "OpenRisk", "Tier", "budget", "calls", "confidence", "correlated_risk", "exposure", "freshness", "ftmo", "halt",
    "plan", "rate_limit", "tier_of",
]  # fmt: skip

Tier = Literal["HIGH", "MEDIUM", "LOW"]
TIERS: tuple[tuple[Tier, float], ...] = (("HIGH", 0.75), ("MEDIUM", 0.65), ("LOW", 0.55))
HOUR = timedelta(hours=1)
_HALT_CODES = {
    "manual": reasons.HALT_MANUAL,
    "daily": reasons.HALT_DAILY,
    "total": reasons.HALT_TOTAL,
    "budget": reasons.HALT_BUDGET,
}


@dataclass(frozen=True, slots=True)
class OpenRisk:
    """An accepted signal whose trade is not over: its worst case in USD."""

    symbol: str
    side: str
    risk_usd: float


def freshness(
    as_of: datetime,
    features_as_of: datetime | None,
    decided_at: datetime | None,
    *,
    max_price_age_s: float,
    max_decision_delay_s: float,
) -> GateResult:
    """The newest closed candle is young enough at `as_of`, and the decision came soon enough after it.

    decided_at None: not decided yet, so only the price is asked about. ValueError for a reading from after `as_of` and
    for a decision before it: both are mistakes of the caller, not of the market.
    """
    now, reading, decided = (
        instant(as_of, "as_of"),
        instant(features_as_of, "features_as_of"),
        instant(decided_at, "decided_at"),
    )
    if now is None:
        raise ValueError("freshness needs the scan's instant as_of")
    if reading is not None and reading > now:
        raise ValueError(f"the reading of {reading} lies after the scan of {now}: it was not known then")
    if decided is not None and decided < now:
        raise ValueError(f"the decision of {decided} lies before its scan of {now}; check the clock")
    age = None if reading is None else (now - reading).total_seconds()
    delay = None if decided is None else (decided - now).total_seconds()
    against = []
    if age is None:
        against.append(reasons.NO_READING)
    elif age > max_price_age_s:
        against.append(reasons.PRICE_STALE)
    if delay is not None and delay > max_decision_delay_s:
        against.append(reasons.DECISION_LATE)
    return result(
        "freshness",
        against,
        price_age_s=age,
        max_price_age_s=max_price_age_s,
        decision_delay_s=delay,
        max_decision_delay_s=max_decision_delay_s,
    )


def halt(halts: pd.DataFrame, as_of: datetime, *, paid: bool = True) -> GateResult:
    """No halt is in force: started by `as_of`, not run out and not lifted. halts: the columns of the table halts.

    A halt of kind budget stops calls that cost something; where they are not `paid` it is none.
    """
    require(halts, ("halt_id", "kind", "started_at", "until", "lifted_at"), "halts")
    now = instant(as_of, "as_of")
    assert now is not None
    active = []
    for row in halts.to_dict("records") if len(halts) else ():
        started, until, lifted = (instant(row[name], name) for name in ("started_at", "until", "lifted_at"))
        ended = (until is not None and until <= now) or (lifted is not None and lifted <= now)
        if row["kind"] not in _HALT_CODES:
            raise ValueError(
                f"halt {row['halt_id']} has the unknown kind {row['kind']!r}; known are {', '.join(_HALT_CODES)}"
            )
        if row["kind"] == "budget" and not paid:
            continue
        if started is not None and started <= now and not ended:
            active.append(row)
    codes = sorted({_HALT_CODES[row["kind"]] for row in active})
    return result("halt", codes, halts=sorted(str(row["halt_id"]) for row in active))


def budget(day_room_usd: float, month_room_usd: float, worst_case_usd: float) -> GateResult:
    """A call's worst case fits into what is left of the day's and the month's analyst budget (USD)."""
    for name, value in (("day", day_room_usd), ("month", month_room_usd), ("worst case", worst_case_usd)):
        if math.isnan(value):
            raise ValueError(f"the budget's {name} is not a number; derive it from the call ledger")
    against = [
        code
        for code, room in ((reasons.BUDGET_DAY, day_room_usd), (reasons.BUDGET_MONTH, month_room_usd))
        if worst_case_usd > max(room, 0.0)
    ]
    return result(
        "budget", against, day_room_usd=day_room_usd, month_room_usd=month_room_usd, worst_case_usd=worst_case_usd
    )


def calls(made: int, max_per_hour: int, *, made_here: int = 0) -> GateResult:
    """Fewer than `max_per_hour` attempts to reach the analyst were made in the hour before, this scan's included."""
    against = [reasons.CALL_LIMIT] if made + made_here >= max_per_hour else []
    return result("calls", against, calls_in_the_last_hour=made + made_here, max_per_hour=max_per_hour)


def plan(
    side: str,
    entry: float | None,
    stop: float | None,
    target: float | None,
    *,
    market_price: float | None,
    volatility: float | None,
    fee_rate: float,
    slippage: float,
    max_entry_distance: float,
    min_reward_risk: float,
    min_stop_volatilities: float,
    spread: float | None = None,
    min_stop_spreads: float = 0.0,
) -> GateResult:
    """The plan holds together: stop < entry < target (mirrored for SELL), near the market, worth it, out of the noise.

    Prices and `spread` (best ask − best bid; None: not known, then not asked) in USD, `volatility` the standard
    deviation of one-minute log returns. The order is filled at the market, so side, reward and risk are judged at the
    worse of entry and market, net of both sides' fees and of slippage.
    """
    if side not in ("BUY", "SELL"):
        raise ValueError(f"only BUY and SELL have a plan, not {side!r}")
    entry, stop, target, market = (_price(value) for value in (entry, stop, target, market_price))
    sigma = present(volatility)
    seen: dict[str, float | None] = {"entry": entry, "stop": stop, "target": target, "market_price": market}
    limits = {"max_entry_distance": max_entry_distance, "min_reward_risk": min_reward_risk}
    limits |= {"min_stop_volatilities": min_stop_volatilities, "min_stop_spreads": min_stop_spreads}
    against: list[str] = []
    if market is None:
        against.append(reasons.PLAN_NO_MARKET)
    if entry is None or stop is None or target is None:
        against.append(reasons.PLAN_INCOMPLETE)
    if market is None or entry is None or stop is None or target is None:
        return result("plan", against, **seen, **limits)

    d = 1.0 if side == "BUY" else -1.0
    worse, better = (max(entry, market), min(entry, market)) if d > 0 else (min(entry, market), max(entry, market))
    if d * (better - stop) <= 0:
        against.append(reasons.PLAN_STOP_SIDE)
    if d * (target - worse) <= 0:
        against.append(reasons.PLAN_TARGET_SIDE)
    distance = abs(entry / market - 1.0)
    if distance > max_entry_distance:
        against.append(reasons.PLAN_ENTRY_FAR)
    ratio = None
    if not {reasons.PLAN_STOP_SIDE, reasons.PLAN_TARGET_SIDE} & set(against):
        ratio = _reward_risk(d, worse, stop, target, fee_rate, slippage)
        if ratio < min_reward_risk - 1e-9:
            against.append(reasons.PLAN_REWARD_RISK)
    stop_volatilities = None
    if sigma is None or sigma < 0 or not math.isfinite(sigma):
        against.append(reasons.PLAN_NO_VOLATILITY)
    else:
        stop_distance = abs(entry - stop) / entry
        if stop_distance < min_stop_volatilities * sigma and reasons.PLAN_STOP_SIDE not in against:
            against.append(reasons.PLAN_STOP_CLOSE)
        stop_volatilities = stop_distance / sigma if sigma > 0 else None
    width = _price(spread)
    if width is not None and abs(entry - stop) < min_stop_spreads * width and reasons.PLAN_STOP_SIDE not in against:
        against.append(reasons.PLAN_STOP_SPREAD)
    return result(
        "plan",
        against,
        **seen,
        **limits,
        entry_distance=distance,
        reward_risk=ratio,
        volatility=sigma,
        stop_volatilities=stop_volatilities,
        spread=width,
        stop_spreads=None if width is None else abs(entry - stop) / width,
    )


def tier_of(value: float) -> Tier | None:
    """HIGH from .75, MEDIUM from .65, LOW from .55, else None."""
    return next((tier for tier, floor in TIERS if value >= floor), None)


def confidence(value: float | None, floor: float, *, learnt: float | None = None) -> GateResult:
    """The analyst's confidence reaches the threshold. ValueError where it is missing or outside 0 … 1.

    `learnt` (from outcomes, None: nothing yet) may raise the threshold above `floor`, never lower it below.
    """
    if learnt is not None and not 0.0 <= learnt <= 1.0:
        raise ValueError(f"a learnt confidence threshold lies between 0 and 1, not at {learnt}")
    threshold = floor if learnt is None else max(floor, learnt)
    given = present(value)
    if given is None or not 0.0 <= given <= 1.0:
        raise ValueError(f"a BUY or SELL has a confidence between 0 and 1, not {value}")
    against = [] if given >= threshold else [reasons.CONFIDENCE_LOW]
    return result("confidence", against, confidence=float(given), threshold=threshold, floor=floor, tier=tier_of(given))


def rate_limit(
    accepted_times: Iterable[datetime], as_of: datetime, max_per_hour: int, *, accepted_here: int = 0
) -> GateResult:
    """Fewer than `max_per_hour` signals were accepted in the sixty minutes before `as_of`.

    Counted: as_of − 60 min < t < as_of, and `accepted_here` of this very scan. Instants from `as_of` on are left out,
    so a scan that is done again decides alike. Only accepted BUY and SELL belong in `accepted_times`.
    """
    now = instant(as_of, "as_of")
    assert now is not None
    times = [instant(value, "accepted_times") for value in accepted_times]
    used = sum(1 for time in times if time is not None and now - HOUR < time < now) + accepted_here
    against = [reasons.RATE_LIMIT] if used >= max_per_hour else []
    return result("rate", against, accepted_in_the_last_hour=used, max_per_hour=max_per_hour)


def ftmo(
    state: AccountState | None,
    worst_case_usd: float | None,
    *,
    as_of: datetime,
    buffer_usd: float,
    max_age_s: float,
    pending_usd: float = 0.0,
    margin_usd: float | None = 0.0,
    pending_margin_usd: float = 0.0,
    held_until: datetime | None = None,
) -> GateResult:
    """Room is left above the floor after this trade's worst case, all open ones' and the pending ones', and the buffer.

    The room is counted from the equity that remains when every open position is stopped out. `pending_usd` is the worst
    case of accepted signals not yet filled, `margin_usd` and `pending_margin_usd` what this trade and those tie up:
    with the open positions' margin it stays within the equity. `held_until` is when the last of all these positions is
    over (None: not known). Where the firm's day rolls before, room must be left above the floor of the next day too:
    its daily limit counts what was closed today, and what is open then is lost against it. What is missing or stale
    refuses.
    """
    now = instant(as_of, "as_of")
    assert now is not None
    if state is None:
        return result("ftmo", [reasons.FTMO_NO_ACCOUNT])
    if state.as_of > now:
        raise ValueError(f"the account of {state.as_of} lies after the scan of {now}: it was not known then")
    if not all(map(math.isfinite, (pending_usd, buffer_usd, pending_margin_usd))):
        raise ValueError("the pending risk and margin and the buffer of the FTMO gate must be numbers")
    against: list[str] = []
    if state.breached is not None:
        against.append(reasons.FTMO_BREACHED_TOTAL if state.breached == "total" else reasons.FTMO_BREACHED_DAILY)
    known = None if state.prices_as_of is None else min(state.as_of, state.prices_as_of)
    age = None if known is None else (now - known).total_seconds()
    if age is None:
        against.append(reasons.FTMO_NO_PRICES)
    elif age > max_age_s:
        against.append(reasons.FTMO_STALE)
    worst = present(worst_case_usd)
    left = None
    if worst is None or state.stopped_equity_usd is None or not math.isfinite(worst) or worst < 0:
        against.append(reasons.FTMO_RISK_UNKNOWN)
    else:
        rolls = held_until is None or held_until >= state.day_ends_at
        floor = state.floor_if_rolled_usd if rolls else state.floor
        left = state.stopped_equity_usd - pending_usd - worst - buffer_usd - floor
        if left < -CENTS:
            today = state.stopped_equity_usd - pending_usd - worst - buffer_usd - state.floor
            binding_daily = state.daily_limit >= state.total_limit
            against.append(
                reasons.FTMO_NEXT_DAY_ROOM
                if today >= -CENTS
                else reasons.FTMO_DAILY_ROOM
                if binding_daily
                else reasons.FTMO_TOTAL_ROOM
            )
    margin = present(margin_usd)
    margin_left = None if margin is None else state.equity - state.margin_usd - pending_margin_usd - margin
    if margin_left is not None and margin_left < -CENTS:
        against.append(reasons.FTMO_MARGIN)
    return result(
        "ftmo",
        against,
        rules=state.rules,
        equity=state.equity,
        equity_if_stopped=state.stopped_equity_usd,
        daily_limit=state.daily_limit,
        total_limit=state.total_limit,
        room_usd=state.room_usd,
        worst_case_usd=worst,
        pending_usd=pending_usd,
        buffer_usd=buffer_usd,
        room_left_usd=left,
        held_until=held_until,
        margin_left_usd=margin_left,
        balance_set_at=state.set_at,
        equity_age_s=age,
    )


def exposure(
    symbol: str,
    side: str | None,
    risk_usd: float | None,
    open_: Sequence[OpenRisk],
    *,
    correlations: Mapping[tuple[str, str], float],
    max_correlated_usd: float,
) -> GateResult:
    """One open signal for each symbol and side, and not too much risk in what moves alike.

    side None asks before the decision: is either side still free. The correlated risk is √(r'Cr) over the open trades
    and this one, r their worst cases signed by side and C the correlations of their symbols' returns: the sum where all
    move alike, its root-sum-of-squares where they are independent. A pair whose correlation is not known counts as one
    that moves alike. A trade that lowers the correlated risk is let through.
    """
    held = {(one.symbol, one.side) for one in open_}
    seen: dict[str, Any] = {"open": sorted(f"{symbol} {side}" for symbol, side in held)}
    wanted = ("BUY", "SELL") if side is None else (side,)
    against = [reasons.EXPOSURE_OPEN] if all((symbol, one) in held for one in wanted) else []
    risk = present(risk_usd)
    if side is not None and risk is not None:
        before = correlated_risk(open_, correlations)
        after = correlated_risk([*open_, OpenRisk(symbol, side, risk)], correlations)
        if after > max_correlated_usd * (1 + 1e-9) and after > before:
            against.append(reasons.EXPOSURE_CORRELATED)
        seen |= {"correlated_risk_before_usd": before, "correlated_risk_usd": after}
    return result("exposure", against, **seen, max_correlated_usd=max_correlated_usd)


def correlated_risk(risks: Sequence[OpenRisk], correlations: Mapping[tuple[str, str], float]) -> float:
    """√(r'Cr) in USD of `risks`; see `exposure`. ValueError for a risk that is not a number."""
    amounts = [one.risk_usd for one in risks]
    if not all(math.isfinite(amount) and amount >= 0 for amount in amounts):
        raise ValueError("an open trade's risk must be a number, not negative; it should not have been accepted")
    total = 0.0
    for i, one in enumerate(risks):
        for j, other in enumerate(risks):
            total += amounts[i] * amounts[j] * (1.0 if i == j else _alike(one, other, correlations))
    return math.sqrt(max(0.0, total))


def _alike(one: OpenRisk, other: OpenRisk, correlations: Mapping[tuple[str, str], float]) -> float:
    same_way = 1.0 if one.side == other.side else -1.0
    if one.symbol == other.symbol:
        return same_way
    known = present(correlations.get((min(one.symbol, other.symbol), max(one.symbol, other.symbol))))
    return 1.0 if known is None else same_way * float(known)


def _price(value: float | None) -> float | None:
    """A usable price, or None."""
    given = present(value)
    return float(given) if given is not None and math.isfinite(given) and given > 0 else None


def _reward_risk(d: float, price: float, stop: float, target: float, fee_rate: float, slippage: float) -> float:
    """(gain at the target) ÷ (loss at the stop) of a market entry at `price`, net of fees and slippage.

    The target fills as a limit order; entry and stop are market fills.
    """
    fill, stop_fill = price * (1 + d * slippage), stop * (1 - d * slippage)
    reward = d * (target - fill) - fee_rate * (fill + target)
    risk = d * (fill - stop_fill) + fee_rate * (fill + stop_fill)
    return reward / risk
