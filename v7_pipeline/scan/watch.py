"""Watching the budgets and the account: levels that are crossed, each told once, and the halts that they call for.

What was told is in the table crossings, never in memory. The figures are analyst/'s and gates/'s, the words alerts/'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from v7_pipeline import __version__
from v7_pipeline.alerts.outbox import outbox
from v7_pipeline.alerts.text import percent_text, time_text, usd_text
from v7_pipeline.alerts.watched import (
    PRAGUE,
    alert_of_budget,
    alert_of_day,
    alert_of_loss,
    alert_of_missed_breach,
    alert_of_room,
    alert_of_target,
    alerts_for_halts,
)
from v7_pipeline.analyst.ledger import CENT_DUST, Ledger
from v7_pipeline.gates.ftmo import AccountState
from v7_pipeline.gates.rulesets import RuleSet
from v7_pipeline.scan.account import read_account, rule_set
from v7_pipeline.scan.context import minute
from v7_pipeline.scan.halts import AFTER, STRATEGY_OF
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store import arrow_rows, conform

__all__ = ["BUDGET_LEVELS", "LOSS_LEVELS", "breach_halts", "missed_breach", "watch_account", "watch_budget"]

Row = dict[str, Any]

BUDGET_LEVELS = (0.80, 0.95, 1.0)
LOSS_LEVELS = (0.50, 0.80, 1.0)
#: A level is armed again once its figure is this far below it, as a share: a figure that trembles is told once.
RE_ARMED_BELOW = 0.02
DUST = 1e-9  # the rounding of a share
DAY = timedelta(days=1)

_CROSSINGS = """
SELECT subject, period, level, crossed_at, receded_at FROM crossings
WHERE subject IN (SELECT unnest(?::VARCHAR[])) AND period IN (SELECT unnest(?::VARCHAR[])) ORDER BY crossed_at
"""
_RECEDED = "UPDATE crossings SET receded_at = ? WHERE subject = ? AND period = ? AND level = ? AND crossed_at = ?"
_LIFTED = "UPDATE halts SET lifted_at = ?, lifted_reason = ? WHERE halt_id = ?"
_NEWEST_RESERVE = "SELECT reserved_usd FROM llm_calls ORDER BY reserved_at DESC, call_id DESC LIMIT 1"
_KNOWN_HALTS = "SELECT halt_id FROM halts WHERE halt_id IN (SELECT unnest(?::VARCHAR[]))"
_BUDGET_HALTS = """
SELECT halt_id, lifted_at FROM halts
WHERE kind = 'budget' AND (halt_id = $1 OR starts_with(halt_id, $1 || '-again-')) ORDER BY started_at
"""
_TOTAL_IN_FORCE = f"""
SELECT 1 AS halted FROM halts
WHERE kind = 'total' AND {STRATEGY_OF} = ? AND source = ? AND started_at <= ?
  AND (lifted_at IS NULL OR lifted_at > ?) LIMIT 1
"""
_HALTED_SINCE = f"""
SELECT 1 AS halted FROM halts
WHERE kind IN ('daily', 'total') AND {STRATEGY_OF} = ? AND source = ? AND started_at > ? AND started_at <= ? LIMIT 1
"""
_KNOWN_ALERTS = "SELECT alert_id FROM alerts WHERE alert_id IN (SELECT unnest(?::VARCHAR[]))"
_SCANNED_BEFORE = "SELECT 1 AS before FROM scans WHERE as_of < ? AND source = ? LIMIT 1"


# --- what is seen ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """One level of a figure, as a share: whether it is reached, and whether the figure is clearly below it again."""

    share: float
    reached: bool
    receded: bool


@dataclass(frozen=True)
class Figure:
    """A watched figure at an instant: its levels, the alert of a crossing, and the budget halt of its last level."""

    subject: str
    period: str
    value: float
    levels: tuple[Level, ...]
    alert: Callable[[float], Row]
    halt: Row | None = None
    room_again: Callable[[], Row] | None = None


@dataclass(frozen=True)
class Seen:
    """What one look at the store found: figures with levels, and events that are told once by their identity."""

    at: datetime
    told: str
    figures: tuple[Figure, ...] = ()
    breaches: tuple[Row, ...] = ()
    events: tuple[Row, ...] = ()


@dataclass
class Plan:
    """What is to be written, all in one transaction."""

    crossings: list[Row] = field(default_factory=list)
    receded: list[Row] = field(default_factory=list)
    halts: list[Row] = field(default_factory=list)
    lifted: list[Row] = field(default_factory=list)
    breaches: list[Row] = field(default_factory=list)
    alerts: list[Row] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.crossings or self.receded or self.lifted or self.breaches or self.alerts)


Look = Callable[[Runtime, Any, datetime], Seen]


def watch_budget(runtime: Runtime, run_id: str) -> str:
    """Look at the day's and the month's budget; alert, halt and lift what is new. Returns the figures in one line.

    StoreBusy and StoreError are the caller's; `run_id` marks what is written.
    """
    return _watch(runtime, run_id, _budgets)


def watch_account(runtime: Runtime, run_id: str) -> str:
    """Look at the account's allowances, target and day; alert and halt what is new. Returns the figures in one line."""
    return _watch(runtime, run_id, _account)


def breach_halts(
    state: AccountState,
    at: datetime,
    zone: ZoneInfo = PRAGUE,
    *,
    total_in_force: bool = False,
    strategy: str = "v7",
) -> list[Row]:
    """The halts rows (without provenance) that a breach calls for, seen at `at`; none without one.

    `zone`: the firm's clocks, which name the day. `total_in_force`: a broken maximum loss was halted for already; an
    account that lies below it breaks it anew at every midnight. `strategy`: whose account it is; v7's bears no name.

    A daily breach halts to the end of the firm's day, a total one until a person lifts it. Its identity is the
    breach's: written again with insert_new it stays one halt, lifted or not. It holds from just after `at`, since a
    scan at `at` is judged by its own gates.
    """
    if state.breached is None or state.breached_at is None:
        return []
    daily = state.breached == "daily"
    if total_in_force and not daily:
        return []
    limit, name = (state.daily_limit, "daily") if daily else (state.total_limit, "maximum-loss")
    today = state.breached_at >= state.day_started_at
    lowest = f"lowest today {usd_text(state.worst_equity_today)}, " if today else ""
    own, whose = ("", "") if strategy == "v7" else (f"{strategy}-", f"{strategy}: ")
    return [
        {
            "halt_id": own + (f"daily-{_day(state, zone)}" if daily else f"total-{state.breached_at:%Y%m%dT%H%M%SZ}"),
            "kind": state.breached,
            "started_at": at + AFTER,
            "until": state.day_ends_at if daily else None,
            "reason": f"{whose}equity fell below the {name} limit of {usd_text(limit)} "
            f"at {time_text(state.breached_at)}: "
            f"{lowest}now {usd_text(state.equity)}",
            "lifted_at": None,
            "lifted_reason": None,
        }
    ]


def missed_breach(
    reader: Any, state: AccountState, source: str, as_of: datetime, zone: ZoneInfo = PRAGUE, *, strategy: str = "v7"
) -> list[Row]:
    """The alerts row (a mapping) of a daily limit that was broken before today and halted by nobody; none without one.

    Whoever was down over the firm's midnight meets a day that has begun anew: nothing is halted for a day that is over,
    and a lost account must not go unsaid.
    """
    first = state.first_breach_at
    if first is None or first >= state.day_started_at or state.breached == "total":
        return []
    if reader.rows(_HALTED_SINCE, (strategy, source, first, state.day_started_at)):
        return []
    return [alert_of_missed_breach(first.astimezone(zone).date(), broken_at=first, at=as_of, zone=zone)]


# --- looking --------------------------------------------------------------------------------


def _budgets(runtime: Runtime, reader: Any, at: datetime) -> Seen:
    s = runtime.settings
    spent = Ledger(
        runtime.store,
        daily_budget_usd=s.daily_budget_usd,
        monthly_budget_usd=s.monthly_budget_usd,
        provenance=_marks(runtime, "watch"),
    ).spent(at)
    newest = reader.rows(_NEWEST_RESERVE)
    reserve = float(newest[0]["reserved_usd"]) if newest else 0.0
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    month = day.replace(day=1)
    told, figures = [], []
    for period, name, used, budget, until in (
        ("day", f"{day:%Y-%m-%d}", spent.day_usd, s.daily_budget_usd, day + DAY),
        ("month", f"{month:%Y-%m}", spent.month_usd, s.monthly_budget_usd, (month + 32 * DAY).replace(day=1)),
    ):
        if budget <= 0:  # paid calls are switched off: the budget's gate says so, there is nothing to cross
            told.append(f"{period} no budget")
            continue
        told.append(f"{period} {percent_text(used / budget, 0)} of {usd_text(budget)}")
        figures.append(_budget(period, name, used, budget, reserve, until, at))
    return Seen(at, ", ".join(told), tuple(figures))


def _budget(
    period: str, name: str, used: float, budget: float, reserve: float, until: datetime, at: datetime
) -> Figure:
    """One budget (USD); its last level is that one more call at the newest reserve does not fit."""
    wanted = used + reserve
    full = Level(1.0, wanted > budget + CENT_DUST, wanted < (1.0 - RE_ARMED_BELOW) * budget)
    return Figure(
        subject=f"budget_{period}",
        period=name,
        value=used / budget,
        levels=(*_levels(used / budget, BUDGET_LEVELS[:-1]), full),
        alert=lambda level: alert_of_budget(period, level, used_usd=used, budget_usd=budget, until=until, at=at),
        halt={
            "halt_id": f"budget-{period}-{name}",
            "kind": "budget",
            "started_at": at + AFTER,
            "until": until,
            "reason": f"the {period}'s budget of {usd_text(budget)} has no room for another call: "
            f"{usd_text(used, 4)} used, a call sets {usd_text(reserve, 4)} aside",
            "lifted_at": None,
            "lifted_reason": None,
        },
        room_again=lambda: alert_of_room(period, used_usd=used, budget_usd=budget, at=at),
    )


def _account(runtime: Runtime, reader: Any, at: datetime) -> Seen:
    s = runtime.settings
    as_of = minute(at)
    state = read_account(s, reader, as_of, s.source).state
    rules = rule_set(s, as_of)
    losses = [_loss("ftmo_daily", state, rules, at), _loss("ftmo_total", state, rules, at)]
    figures = [*losses, *_target(state, rules, s.account_initial_usd, at)]
    told = [
        f"daily {percent_text(losses[0].value, 0)} of {usd_text(state.daily_allowance_usd)} used",
        f"total {percent_text(losses[1].value, 0)} of {usd_text(state.total_allowance_usd)} used",
    ]
    if state.target_progress is not None:
        told.append(f"target {percent_text(state.target_progress, 0)}")
    if state.breached:
        told.append(f"{state.breached} limit broken")
    scanned = reader.rows(_SCANNED_BEFORE, (state.day_started_at, s.source))
    events = (_rolled(state, rules),) if scanned else ()
    whose = s.strategies[0]
    total = bool(reader.rows(_TOTAL_IN_FORCE, (whose, s.source, at, at)))
    halts = breach_halts(state, at, rules.zone, total_in_force=total, strategy=whose)
    return Seen(at, ", ".join(told), tuple(figures), tuple(halts), events)


def _loss(subject: str, state: AccountState, rules: RuleSet, at: datetime) -> Figure:
    """How much of an allowance the equity has used; a broken limit stays used up."""
    if subject == "ftmo_daily":
        period, limit = f"{_day(state, rules.zone)}", state.daily_limit
        used, allowance, share = state.daily_used_usd, state.daily_allowance_usd, state.daily_used_share
    else:
        period, limit = state.rules, state.total_limit
        used, allowance, share = state.total_used_usd, state.total_allowance_usd, state.total_used_share
    value = max(share, 1.0) if subject == f"ftmo_{state.breached}" else share
    return Figure(
        subject=subject,
        period=period,
        value=value,
        levels=_levels(value, LOSS_LEVELS),
        alert=lambda level: alert_of_loss(
            subject,
            level,
            used_usd=used,
            allowance_usd=allowance,
            equity_usd=state.equity,
            limit_usd=limit,
            day_ends_at=state.day_ends_at,
            at=at,
            zone=rules.zone,
        ),
    )


def _target(state: AccountState, rules: RuleSet, initial_usd: float, at: datetime) -> list[Figure]:
    """The profit target's figure; none where the rules have no target."""
    progress = state.target_progress
    if progress is None or rules.profit_target is None:
        return []
    goal = initial_usd * (1.0 + rules.profit_target)

    def alert(_: float) -> Row:
        return alert_of_target(
            progress=progress,
            balance_usd=state.balance,
            target_usd=goal,
            trading_days=state.trading_days,
            min_days=rules.min_days,
            open_positions=state.open_positions,
            passable=state.passable,
            at=at,
        )

    return [Figure("ftmo_target", state.rules, progress, _levels(progress, (1.0,)), alert)]


def _rolled(state: AccountState, rules: RuleSet) -> Row:
    day = _day(state, rules.zone)
    return alert_of_day(
        day,
        closed_usd=dict(state.daily_pnl_usd).get(day - DAY),
        balance_usd=state.balance,
        equity_usd=state.equity,
        daily_limit_usd=state.daily_limit,
        total_limit_usd=state.total_limit,
        started_at=state.day_started_at,
        ends_at=state.day_ends_at,
        zone=rules.zone,
    )


def _day(state: AccountState, zone: ZoneInfo) -> date:
    return state.day_started_at.astimezone(zone).date()


def _levels(value: float, shares: Sequence[float]) -> tuple[Level, ...]:
    return tuple(Level(share, value >= share - DUST, value < share - RE_ARMED_BELOW) for share in shares)


# --- what is new, and its writing -----------------------------------------------------------


def _watch(runtime: Runtime, run_id: str, look: Look) -> str:
    at = runtime.clock()
    with runtime.store.reading() as reader:
        seen = look(runtime, reader, at)
        plan = _plan(reader, seen)
    if plan.is_empty:
        return seen.told
    with runtime.store.transaction() as tx:
        plan = _plan(tx, seen)  # again: what another daemon wrote in between is not written twice
        if not plan.is_empty:
            _write(tx, plan, seen.at, runtime, run_id)
    alerts = len(plan.alerts) + len(plan.breaches)
    return seen.told + (f"; {alerts} alert{'' if alerts == 1 else 's'} written" if alerts else "")


def _plan(reader: Any, seen: Seen) -> Plan:
    plan = Plan()
    known = reader.rows(
        _CROSSINGS, ([figure.subject for figure in seen.figures], [figure.period for figure in seen.figures])
    )
    for figure in seen.figures:
        own = [row for row in known if (row["subject"], row["period"]) == (figure.subject, figure.period)]
        _plan_figure(plan, reader, figure, own, seen.at)
    held = _among(reader, _KNOWN_HALTS, [row["halt_id"] for row in seen.breaches])
    plan.breaches = [row for row in seen.breaches if row["halt_id"] not in held]
    told = _among(reader, _KNOWN_ALERTS, [row["alert_id"] for row in seen.events])
    plan.alerts += [row for row in seen.events if row["alert_id"] not in told]
    return plan


def _plan_figure(plan: Plan, reader: Any, figure: Figure, known: Sequence[Row], at: datetime) -> None:
    """What a figure adds to the plan. Who looked later knows better: then nothing."""
    if any((row["receded_at"] or row["crossed_at"]) >= at for row in known):
        return
    held = {row["level"]: row for row in known if row["receded_at"] is None}
    crossed = [level.share for level in figure.levels if level.reached and level.share not in held]
    receded = [held[level.share] for level in figure.levels if level.receded and level.share in held]
    plan.receded += receded
    plan.crossings += [
        {
            "subject": figure.subject,
            "period": figure.period,
            "level": share,
            "crossed_at": at,
            "value": figure.value,
            "receded_at": None,
        }
        for share in crossed
    ]
    if crossed:
        plan.alerts.append(figure.alert(max(crossed)))
    if figure.halt is not None:
        _plan_halt(plan, reader, figure, figure.halt, crossed, [row["level"] for row in receded])


def _plan_halt(
    plan: Plan, reader: Any, figure: Figure, halt: Row, crossed: Sequence[float], receded: Sequence[float]
) -> None:
    """The halt of a budget without room, and its lifting once there is room; each time it is a halt of its own."""
    last = figure.levels[-1].share
    if last not in crossed and last not in receded:
        return
    earlier = reader.rows(_BUDGET_HALTS, (halt["halt_id"],))
    if last in crossed:
        number = len(earlier) + 1
        plan.halts.append(halt if number == 1 else halt | {"halt_id": f"{halt['halt_id']}-again-{number}"})
    else:
        plan.lifted += [row for row in earlier if row["lifted_at"] is None]
        if figure.room_again is not None:
            plan.alerts.append(figure.room_again())


def _write(tx: Any, plan: Plan, at: datetime, runtime: Runtime, run_id: str) -> None:
    marks = _marks(runtime, run_id)
    said: dict[str, Any] = {"demo": runtime.settings.mode == "demo", "gates_off": runtime.settings.gates_off}
    zone = rule_set(runtime.settings, at).zone
    if plan.crossings:
        tx.insert_new("crossings", arrow_rows("crossings", [row | marks for row in plan.crossings]))
    for row in plan.receded:
        tx.execute(_RECEDED, (at, row["subject"], row["period"], row["level"], row["crossed_at"]))
    halts = [*plan.halts, *plan.breaches]
    if halts:
        tx.insert_new("halts", arrow_rows("halts", [row | marks for row in halts]))
    for row in plan.lifted:
        tx.execute(_LIFTED, (at + AFTER, "the budget has room again", row["halt_id"]))
    # A budget's halt is told by its crossing.
    for alerts in (alerts_for_halts(plan.breaches, **said, zone=zone), outbox(plan.alerts, **said)):
        if len(alerts):
            tx.insert_new("alerts", conform("alerts", alerts, marks))


def _among(reader: Any, sql: str, keys: Sequence[str]) -> set[str]:
    """Those of `keys` that the store has."""
    return {next(iter(row.values())) for row in reader.rows(sql, (list(keys),))} if keys else set()


def _marks(runtime: Runtime, run_id: str) -> dict[str, str]:
    return {"source": runtime.settings.source, "run_id": run_id, "code_version": __version__}
