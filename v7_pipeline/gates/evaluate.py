"""Asking the gates: the cheap ones before a call is made, all of them of each decision, with the scan's own counted.

The single rules are in conditions.py; sizes come in as a frame, since sizing is not this room's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.gates import conditions, reasons
from v7_pipeline.gates.base import GATES, GateResult, instant, present, require
from v7_pipeline.gates.conditions import OpenRisk
from v7_pipeline.gates.ftmo import AccountState
from v7_pipeline.gates.rulesets import RuleSet
from v7_pipeline.settings import Settings
from v7_pipeline.store.schema import PROVENANCE, table

__all__ = [
    "GATED_COLUMNS", "GateContext", "GateLimits", "before_call", "gate_rows", "gate_signals", "gated_frame", "rotated",
    "why_not",
]  # fmt: skip

GATED_COLUMNS: tuple[str, ...] = tuple(
    name for name in table("gated_signals").column_names if name not in {column.name for column in PROVENANCE}
)
SIGNAL_COLUMNS = (
    "signal_id", "as_of", "features_as_of", "decided_at", "symbol", "strategy", "side", "confidence", "entry_price",
    "stop_price", "target_price", "market_price", "status", "status_reason",
)  # fmt: skip
SIZES = ("quantity", "risk_usd", "notional_usd", "margin_usd", "lots", "capped_by")
SIDES = ("BUY", "SELL", "HOLD")
STATUSES = ("answered", "abstained", "skipped")
# A trade is entered some minutes after its signal; its horizon runs from then.
_TO_FILL = timedelta(minutes=15)
_NO_TRADE: Mapping[str, Any] = {"risk_usd": 0.0, "margin_usd": 0.0}
_OK = {gate: f"{gate}_ok" for gate in GATES}
_JSON = json.JSONEncoder(sort_keys=True, allow_nan=False)
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What the gates compare with; units as in the settings of the same names, `fee_rate` a fraction a side."""

    max_price_age_s: float
    max_decision_delay_s: float
    max_signals_per_hour: int
    max_calls_per_hour: int
    min_confidence: float
    min_reward_risk: float
    max_entry_distance: float
    min_stop_volatilities: float
    min_stop_spreads: float
    fee_rate: float
    slippage: float
    ftmo_buffer_usd: float
    max_equity_age_s: float
    max_correlated_usd: float

    @classmethod
    def of(cls, settings: Settings, rules: RuleSet, *, fee_rate: float) -> GateLimits:
        """The settings' limits; the buffer in USD is a share of the rule set's daily allowance."""
        return cls(
            max_price_age_s=settings.max_price_age_s,
            max_decision_delay_s=settings.max_decision_delay_s,
            max_signals_per_hour=settings.max_signals_per_hour,
            max_calls_per_hour=settings.max_calls_per_hour,
            min_confidence=settings.min_confidence,
            min_reward_risk=settings.min_reward_risk,
            max_entry_distance=settings.max_entry_distance,
            min_stop_volatilities=settings.min_stop_volatilities,
            min_stop_spreads=settings.min_stop_spreads,
            fee_rate=fee_rate,
            slippage=settings.slippage,
            ftmo_buffer_usd=settings.ftmo_buffer * rules.daily_loss * settings.account_initial_usd,
            max_equity_age_s=settings.max_price_age_s,
            max_correlated_usd=settings.max_correlated_risk * settings.risk_per_trade * settings.account_initial_usd,
        )


@dataclass(frozen=True)
class GateContext:
    """Everything the gates look at beside the decisions, as it stood when the scan began.

    halts: table halts. accepted_times: instants of accepted BUY and SELL of the last hour. account: None where it is
    unknown, which refuses. pending_risk_usd, pending_margin_usd: worst case and margin of accepted signals not filled
    yet. The budget's rooms are the analyst's (USD; infinite where calls cost nothing), call_worst_case_usd what one
    call reserves, calls_made its attempts of the last hour (None: it asks no service). volatility: standard deviation
    of one-minute log returns by symbol; spreads: best ask − best bid by symbol (USD), where known. open_risks: accepted
    signals whose trade is not over; correlations: of returns, by pair of symbols in name order. learnt_confidence: the
    threshold that outcomes have taught. open_until: when the last of the open trades is over by its time stop (None:
    none is open); horizon_minutes: of a plan that names none (None: for ever). off: gates that are evaluated and
    recorded but do not block.
    """

    limits: GateLimits
    halts: pd.DataFrame
    accepted_times: Sequence[datetime]
    account: AccountState | None
    pending_risk_usd: float
    day_room_usd: float
    month_room_usd: float
    call_worst_case_usd: float
    volatility: Mapping[str, float | None]
    spreads: Mapping[str, float | None] = field(default_factory=dict)
    pending_margin_usd: float = 0.0
    calls_made: int | None = None
    open_risks: Sequence[OpenRisk] = ()
    correlations: Mapping[tuple[str, str], float] = field(default_factory=dict)
    learnt_confidence: float | None = None
    open_until: datetime | None = None
    horizon_minutes: int | None = None
    off: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        unknown = sorted(self.off - set(GATES))
        if unknown:
            raise ValueError(f"no gate is called {', '.join(unknown)}; the gates are {', '.join(GATES)}")

    @property
    def paid(self) -> bool:
        """Whether a call costs something."""
        return self.call_worst_case_usd > 0

    def blocks(self, answer: GateResult) -> bool:
        """Whether `answer` stands against a signal: it failed and its gate is on."""
        return answer.passed is False and answer.gate not in self.off


def rotated(symbols: Iterable[str], rotation: int) -> tuple[str, ...]:
    """The symbols in name order, begun at a place that moves with `rotation` (the scan's number).

    Within each run of len(symbols) scans every symbol is first once. Each run begins at the next point of a golden-
    ratio sequence: that is spread evenly along every arithmetic progression, so no symbol is favoured when acceptances
    recur with a period of their own, such as the rate limit's sixty minutes (30 scans, a multiple of three symbols).
    """
    names = sorted(set(symbols))
    if not names:
        return ()
    run, step = divmod(rotation, len(names))
    first = (step + int(len(names) * math.modf(run * GOLDEN)[0])) % len(names)
    return tuple(names[first:] + names[:first])


def before_call(
    symbols: Iterable[str],
    *,
    as_of: datetime,
    features_as_of: Mapping[str, datetime | None],
    context: GateContext,
    rotation: int,
) -> dict[str, tuple[GateResult, ...]]:
    """The cheap gates of each symbol: freshness, halt, rate, FTMO room, exposure, budget, calls. One blocks: no call.

    The FTMO gate is asked with no worst case of its own: is there any room; the exposure gate without a side: is either
    free. Calls allowed here use up the budget's room and the hour's calls for the symbols after them, in rotated order.
    `why_not` gives a symbol's status_reason.
    """
    limits, calls = context.limits, 0
    answers: dict[str, tuple[GateResult, ...]] = {}
    for symbol in rotated(symbols, rotation):
        asked = (
            conditions.freshness(
                as_of,
                features_as_of.get(symbol),
                None,
                max_price_age_s=limits.max_price_age_s,
                max_decision_delay_s=limits.max_decision_delay_s,
            ),
            conditions.halt(context.halts, as_of, paid=context.paid),
            conditions.rate_limit(context.accepted_times, as_of, limits.max_signals_per_hour),
            _ftmo(
                context, as_of, _NO_TRADE, context.pending_risk_usd, context.pending_margin_usd, _until(context, as_of)
            ),
            _exposure(context, symbol, None, None, context.open_risks),
            _budget(context, calls),
            _calls(context, calls),
        )
        answers[symbol] = asked
        calls += not any(map(context.blocks, asked))
    return answers


def why_not(answers: Iterable[GateResult], context: GateContext) -> str | None:
    """The blocking gates' reason codes, separated by commas; None where a call may be made."""
    return ",".join(code for answer in answers if context.blocks(answer) for code in answer.reason_codes) or None


def gate_signals(
    signals: pd.DataFrame, *, as_of: datetime, context: GateContext, sized: pd.DataFrame, rotation: int
) -> pd.DataFrame:
    """Rows of gated_signals (without provenance) for one scan's rows of llm_signals, in their order.

    sized: signal_id, quantity, risk_usd, notional_usd, margin_usd, lots, capped_by of BUY and SELL; NaN or no row where
    a plan cannot be sized, which refuses.
    signals: the columns of llm_signals; without horizon_minutes a plan has the context's.
    Every gate is evaluated and stored for BUY and SELL, whatever the others said. HOLD, abstained and skipped rows are
    never accepted and use up nothing; the gates of a plan do not apply to them. Symbols are taken in rotated order, and
    an acceptance takes its emission slot, FTMO room, margin and exposure from those after it. ValueError for an unknown
    side or status, a repeated signal, or a row of another scan: a mistake is never a HOLD.
    """
    require(signals, SIGNAL_COLUMNS, "signals")
    require(sized, ("signal_id", *SIZES), "sizes")
    if signals["signal_id"].duplicated().any() or sized["signal_id"].duplicated().any():
        raise ValueError("a signal_id occurs twice; a scan has one decision for each strategy and symbol")
    sizes = sized.set_index("signal_id")[list(SIZES)].to_dict("index")
    columns = [*SIGNAL_COLUMNS, *(name for name in ("horizon_minutes",) if name in signals.columns)]
    rows = signals[columns].to_dict("records")
    order = rotated(signals["symbol"], rotation)
    return gated_frame(gate_rows(rows, as_of=as_of, context=context, sizes=sizes, order=order))


def gate_rows(
    rows: Sequence[dict[str, Any]],
    *,
    as_of: datetime,
    context: GateContext,
    sizes: Mapping[str, Mapping[str, Any]],
    order: Sequence[str],
) -> list[dict[str, Any]]:
    """`gate_signals` of rows as mappings, taken by `order` of symbols; `sizes` by signal_id. One mapping a row."""
    tally = _Tally(context, as_of)
    place = {symbol: turn for turn, symbol in enumerate(order)}
    done: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: place[row["symbol"]]):
        done[row["signal_id"]] = _gate_one(row, sizes.get(row["signal_id"], {}), tally)
    return [done[row["signal_id"]] for row in rows]


class _Tally:
    """What this scan has used up so far: calls, emission slots and FTMO room."""

    def __init__(self, context: GateContext, as_of: datetime) -> None:
        now = instant(as_of, "as_of")
        if now is None:
            raise ValueError("gating needs the scan's instant as_of")
        self.context, self.as_of = context, now
        self.halt = conditions.halt(context.halts, now, paid=context.paid)
        self.calls = 0
        self.accepted = 0
        self.risk_usd = context.pending_risk_usd
        self.margin_usd = context.pending_margin_usd
        self.open_risks = list(context.open_risks)
        self.until: datetime | None = _until(context, now)

    def until_with(self, row: Mapping[str, Any]) -> datetime | None:
        """When everything that is open is over, the trade of `row` among it; None where that is not known."""
        minutes = present(row.get("horizon_minutes")) or self.context.horizon_minutes
        if minutes is None or self.until is None:
            return None
        return max(self.until, self.as_of + timedelta(minutes=float(minutes)) + _TO_FILL)

    def accept(self, row: Mapping[str, Any], side: str, size: Mapping[str, Any]) -> None:
        """Take what an accepted signal uses up."""
        self.until = self.until_with(row)
        self.accepted += 1
        self.risk_usd += size["risk_usd"] or 0.0
        self.margin_usd += size["margin_usd"] or 0.0
        self.open_risks.append(OpenRisk(row["symbol"], side, size["risk_usd"] or 0.0))


def _gate_one(row: dict[str, Any], size: Mapping[str, Any], tally: _Tally) -> dict[str, Any]:
    """One decision's row; `tally` is moved on by what it uses up."""
    context = tally.context
    side = _checked_side(row, tally.as_of)
    trading = side in ("BUY", "SELL")
    size = {name: present(size.get(name)) for name in SIZES}
    answers = [
        conditions.freshness(
            tally.as_of,
            present(row["features_as_of"]),
            present(row["decided_at"]),
            max_price_age_s=context.limits.max_price_age_s,
            max_decision_delay_s=context.limits.max_decision_delay_s,
        ),
        tally.halt,
        _budget(context, tally.calls),
        _calls(context, tally.calls),
    ]
    tally.calls += row["status"] != "skipped"
    answers += _trade_gates(row, size, tally) if trading else [GateResult(gate, None) for gate in GATES[len(answers) :]]
    against = _not_a_signal(row, side) or [c for a in answers if context.blocks(a) for c in a.reason_codes]
    if trading and not (size["quantity"] or 0.0) > 0 and reasons.FTMO_NO_SIZE not in against:
        against.append(reasons.FTMO_NO_SIZE)  # no gate that is off makes a trade of nothing
    accepted = trading and not against
    if accepted:
        tally.accept(row, str(side), size)
    return {
        **{name: row[name] for name in ("signal_id", "symbol", "strategy")},
        "as_of": tally.as_of,
        "side": side,
        **{_OK[answer.gate]: answer.passed for answer in answers},
        "gate_inputs": _JSON.encode(
            {a.gate: {**a.inputs, "reasons": list(a.reason_codes)} for a in answers if a.passed is not None}
        ),
        "gates_off": ",".join(gate for gate in GATES if gate in context.off) if context.off else "",
        "reason_codes": ",".join(against),
        "accepted": accepted,
        "tier": conditions.tier_of(row["confidence"]) if trading else None,
        **{name: size[name] if trading else None for name in SIZES if name != "margin_usd"},
    }


def _trade_gates(row: dict[str, Any], size: Mapping[str, Any], tally: _Tally) -> list[GateResult]:
    """The gates that only a BUY or a SELL meets."""
    context, limits = tally.context, tally.context.limits
    room = _ftmo(context, tally.as_of, size, tally.risk_usd, tally.margin_usd, tally.until_with(row))
    if size["quantity"] == 0:
        room = GateResult("ftmo", False, (*room.reason_codes, reasons.FTMO_NO_SIZE), room.inputs)
    return [
        conditions.plan(
            row["side"],
            row["entry_price"],
            row["stop_price"],
            row["target_price"],
            market_price=row["market_price"],
            volatility=context.volatility.get(row["symbol"]),
            fee_rate=limits.fee_rate,
            slippage=limits.slippage,
            max_entry_distance=limits.max_entry_distance,
            min_reward_risk=limits.min_reward_risk,
            min_stop_volatilities=limits.min_stop_volatilities,
            spread=context.spreads.get(row["symbol"]),
            min_stop_spreads=limits.min_stop_spreads,
        ),
        conditions.confidence(row["confidence"], limits.min_confidence, learnt=context.learnt_confidence),
        conditions.rate_limit(
            context.accepted_times, tally.as_of, limits.max_signals_per_hour, accepted_here=tally.accepted
        ),
        room,
        _exposure(context, row["symbol"], row["side"], size["risk_usd"], tally.open_risks),
    ]


def _checked_side(row: dict[str, Any], as_of: datetime) -> str | None:
    """The row's side, None unless answered; ValueError for what no decision of this scan can be."""
    if instant(row["as_of"], "as_of") != as_of:
        raise ValueError(f"{row['signal_id']} is of {row['as_of']}, not of the scan of {as_of}")
    if row["status"] not in STATUSES:
        raise ValueError(
            f"{row['signal_id']} has the unknown status {row['status']!r}; known are {', '.join(STATUSES)}"
        )
    side = present(row["side"])
    if row["status"] != "answered":
        if side is not None:
            raise ValueError(f"{row['signal_id']} was {row['status']} and yet has the side {side!r}")
        return None
    if side not in SIDES:
        raise ValueError(f"{row['signal_id']} has the unknown side {side!r}; known are {', '.join(SIDES)}")
    return str(side)


def _not_a_signal(row: dict[str, Any], side: str | None) -> list[str]:
    """Why the row is no BUY or SELL, as reason codes; empty where it is one."""
    if side == "HOLD":
        return [reasons.HOLD]
    if side is not None:
        return []
    head = reasons.SKIPPED if row["status"] == "skipped" else reasons.ABSTAINED
    return [f"{head}:{reason}" for reason in str(present(row["status_reason"]) or "UNKNOWN").split(",")]


def _budget(context: GateContext, calls: int) -> GateResult:
    spent = calls * context.call_worst_case_usd
    return conditions.budget(context.day_room_usd - spent, context.month_room_usd - spent, context.call_worst_case_usd)


def _calls(context: GateContext, here: int) -> GateResult:
    if context.calls_made is None:
        return GateResult("calls", True)
    return conditions.calls(context.calls_made, context.limits.max_calls_per_hour, made_here=here)


def _exposure(
    context: GateContext, symbol: str, side: str | None, risk_usd: float | None, open_risks: Sequence[OpenRisk]
) -> GateResult:
    return conditions.exposure(
        symbol,
        side,
        risk_usd,
        open_risks,
        correlations=context.correlations,
        max_correlated_usd=context.limits.max_correlated_usd,
    )


def _ftmo(
    context: GateContext,
    as_of: datetime,
    size: Mapping[str, Any],
    pending_usd: float,
    pending_margin_usd: float,
    held_until: datetime | None,
) -> GateResult:
    return conditions.ftmo(
        context.account,
        size["risk_usd"],
        as_of=as_of,
        buffer_usd=context.limits.ftmo_buffer_usd,
        max_age_s=context.limits.max_equity_age_s,
        pending_usd=pending_usd,
        margin_usd=size["margin_usd"],
        pending_margin_usd=pending_margin_usd,
        held_until=held_until,
    )


def _until(context: GateContext, as_of: datetime) -> datetime:
    """When the trades that are open now are over."""
    return as_of if context.open_until is None else max(as_of, context.open_until)


def gated_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of `gate_rows` as a frame of gated_signals, without provenance."""
    frame = pd.DataFrame(rows, columns=list(GATED_COLUMNS))
    as_of = pd.to_datetime(frame["as_of"], utc=True).astype("datetime64[us, UTC]")
    kinds: dict[str, Any] = {f"{gate}_ok": "boolean" for gate in GATES}
    kinds |= {
        "accepted": "bool",
        "quantity": "float64",
        "risk_usd": "float64",
        "notional_usd": "float64",
        "lots": "float64",
    }
    return frame.assign(as_of=as_of).astype(kinds)
