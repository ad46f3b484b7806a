"""What a person is told of halts, budgets and the account's limits, as rows of the outbox.

Which of it happened, and whether it was told before, is decided in scan/watch.py and scan/halts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from v7_pipeline.alerts.outbox import outbox
from v7_pipeline.alerts.text import MISSING, percent_text, time_text, usd_text

__all__ = [
    "PRAGUE",
    "alert_of_budget",
    "alert_of_day",
    "alert_of_loss",
    "alert_of_missed_breach",
    "alert_of_room",
    "alert_of_target",
    "alerts_for_halts",
    "alerts_for_resume",
    "ends_text",
    "local_text",
]

PRAGUE = ZoneInfo("Europe/Prague")

_STOPS_ALL = "no signal is accepted and the analyst is not asked; candles, readings and outcomes go on"
_HALT_TITLES = {
    "manual": "HALT by hand",
    "daily": "HALT: the daily loss limit is broken",
    "total": "HALT: the maximum loss limit is broken",
    "budget": "HALT of paid calls",
}
_HALT_REMEDIES = {
    "manual": "v7 resume when ready",
    "daily": "open nothing more today; look at the account with v7 ftmo",
    "total": "look at the account: by its rules it is lost; v7 resume only once that is settled",
    "budget": "raise the budget, or wait",
}
_ALLOWANCES = {"ftmo_daily": "daily allowance", "ftmo_total": "maximum loss allowance"}


def local_text(at: datetime, zone: ZoneInfo = PRAGUE) -> str:
    """An instant in UTC and on the clocks of the firm's city."""
    city = zone.key.rpartition("/")[2].replace("_", " ")
    return f"{time_text(at)} ({at.astimezone(zone):%Y-%m-%d %H:%M} in {city})"


def ends_text(halt: Mapping[str, Any], zone: ZoneInfo = PRAGUE) -> str:
    """When a halt (halts row) ends."""
    if halt["until"] is None:
        return "when a person lifts it with v7 resume"
    return f"by itself at {local_text(halt['until'], zone)}"


def alerts_for_halts(
    halts: Sequence[Mapping[str, Any]], *, demo: bool, gates_off: Sequence[str] = (), zone: ZoneInfo = PRAGUE
) -> pd.DataFrame:
    """The alerts rows (without provenance) of `halts` (halts rows): one a halt; a person's own is a warning."""
    rows = [
        {
            "alert_id": f"halt:{halt['halt_id']}",
            "created_at": halt["started_at"],
            "kind": "halt",
            "severity": "warning" if halt["kind"] == "manual" else "critical",
            "title": _HALT_TITLES[halt["kind"]],
            "body": "\n".join(
                (
                    f"Why: {halt['reason']}",
                    f"Means: {_STOPS_ALL}",
                    f"Ends: {ends_text(halt, zone)}",
                    f"Do: {_HALT_REMEDIES[halt['kind']]}",
                    f"Halt {halt['halt_id']}, in force from {local_text(halt['started_at'], zone)}",
                )
            ),
        }
        for halt in halts
    ]
    return outbox(rows, demo=demo, gates_off=gates_off)


def alerts_for_resume(
    lifted: Sequence[Mapping[str, Any]],
    left: Sequence[Mapping[str, Any]],
    *,
    demo: bool,
    gates_off: Sequence[str] = (),
    zone: ZoneInfo = PRAGUE,
) -> pd.DataFrame:
    """The alerts row (without provenance) of a person's lifting the halts `lifted`; `left` are still in force.

    Both are halts rows, those of `lifted` with lifted_at and lifted_reason.
    """
    at, reason = lifted[0]["lifted_at"], lifted[0]["lifted_reason"]
    lines = [
        f"Why: {reason or MISSING}",
        *(
            f"Lifted: {halt['kind']}, {halt['reason']} (since {local_text(halt['started_at'], zone)})"
            for halt in lifted
        ),
        *(f"Still in force: {halt['kind']}, {halt['reason']}; it ends {ends_text(halt, zone)}" for halt in left),
        f"Means: {'what is still in force goes on stopping signals or calls' if left else 'signals may be accepted'} "
        "from the next scan",
        f"Do: {'nothing; wait' if left else 'nothing'}",
    ]
    row = {
        "alert_id": f"resume:{at:%Y%m%dT%H%M%S.%fZ}",
        "created_at": at,
        "kind": "resume",
        "severity": "info",
        "title": f"Resumed by hand: {len(lifted)} halt{'' if len(lifted) == 1 else 's'} lifted",
        "body": "\n".join(lines),
    }
    return outbox([row], demo=demo, gates_off=gates_off)


def alert_of_budget(
    period: str, level: float, *, used_usd: float, budget_usd: float, until: datetime, at: datetime
) -> dict[str, Any]:
    """A budget's level was crossed. period: day or month; until: its end; amounts in USD."""
    setting = f"V7_{'DAILY' if period == 'day' else 'MONTHLY'}_BUDGET_USD"
    full = level >= 1.0
    left = f"{usd_text(max(budget_usd - used_usd, 0.0), 4)} left"
    means = (
        "no further call fits, so paid calls are halted; free analysts, candles, readings and outcomes go on"
        if full
        else f"paid calls go on until the {period}'s budget has no room for one more"
    )
    return {
        "alert_id": _crossing_id(f"budget_{period}", level, at),
        "created_at": at,
        "kind": "budget",
        "severity": "warning" if level < 0.95 else "critical",
        "title": (
            f"The {period}'s budget has no room for another call"
            if full
            else f"{percent_text(level, 0)} of the {period}'s budget for calls is used"
        ),
        "body": "\n".join(
            (
                f"Used: {usd_text(used_usd, 4)} of {usd_text(budget_usd)} ({_share(used_usd, budget_usd)}), {left}; "
                "calls under way count at their worst case",
                f"Means: {means}",
                f"Ends: the budget begins anew at {local_text(until)}",
                f"Do: see v7 budget; raise {setting} if it is too small, or settle calls of unknown end "
                "with v7 budget reconcile",
            )
        ),
    }


def alert_of_room(period: str, *, used_usd: float, budget_usd: float, at: datetime) -> dict[str, Any]:
    """A budget that was used up has room again before its period ended; amounts in USD."""
    return {
        "alert_id": f"resume:budget_{period}:{at:%Y%m%dT%H%M%S.%fZ}",
        "created_at": at,
        "kind": "resume",
        "severity": "info",
        "title": f"The {period}'s budget has room again: paid calls go on",
        "body": f"Used: {usd_text(used_usd, 4)} of {usd_text(budget_usd)} ({_share(used_usd, budget_usd)})\n"
        "Means: the halt of paid calls is lifted from the next scan\n"
        "Do: nothing",
    }


def alert_of_loss(
    subject: str,
    level: float,
    *,
    used_usd: float,
    allowance_usd: float,
    equity_usd: float,
    limit_usd: float,
    day_ends_at: datetime,
    at: datetime,
    zone: ZoneInfo = PRAGUE,
) -> dict[str, Any]:
    """A level of the loss that the firm allows was crossed. subject: ftmo_daily or ftmo_total; amounts in USD."""
    what, full = _ALLOWANCES[subject], level >= 1.0
    means = (
        "an equity below the limit breaks the account's rules"
        if full
        else "new positions become smaller in number: the FTMO gate asks for room for each one's worst case"
    )
    ends = (
        f"the day's limit begins anew at {local_text(day_ends_at, zone)}"
        if subject == "ftmo_daily"
        else "not by itself: the room comes back with profits only"
    )
    return {
        "alert_id": _crossing_id(subject, level, at),
        "created_at": at,
        "kind": "ftmo",
        "severity": "critical" if full else "warning",
        "title": f"FTMO: the {what} is used up" if full else f"FTMO: {percent_text(level, 0)} of the {what} is used",
        "body": "\n".join(
            (
                f"Used: {usd_text(used_usd)} of {usd_text(allowance_usd)} ({_share(used_usd, allowance_usd)})",
                f"Equity: {usd_text(equity_usd)}, limit {usd_text(limit_usd)}, room {usd_text(equity_usd - limit_usd)}",
                f"Means: {means}",
                f"Ends: {ends}",
                "Do: see v7 ftmo; close or halve open positions, or stop with v7 halt --reason …",
            )
        ),
    }


def alert_of_missed_breach(day: date, *, broken_at: datetime, at: datetime, zone: ZoneInfo = PRAGUE) -> dict[str, Any]:
    """A daily limit was broken on an earlier day of the firm while no scan looked; `broken_at`: the first minute."""
    return {
        "alert_id": f"ftmo_missed:{day}",
        "created_at": at,
        "kind": "ftmo",
        "severity": "critical",
        "title": f"FTMO: the daily loss limit was broken on {day}, and no scan saw it then",
        "body": "\n".join(
            (
                f"When: {local_text(broken_at, zone)}; seen by the scan of {time_text(at)}",
                "Means: by the firm's rules the account is lost, though its day has begun anew; signals go on",
                "Ends: not by itself",
                f"Do: see v7 ftmo --at {broken_at + timedelta(minutes=1):%Y-%m-%dT%H:%MZ} and the account at the firm; "
                "stop with v7 halt --reason …",
            )
        ),
    }


def alert_of_target(
    *,
    progress: float,
    balance_usd: float,
    target_usd: float,
    trading_days: int,
    min_days: int,
    open_positions: int,
    passable: bool | None,
    at: datetime,
) -> dict[str, Any]:
    """The profit target was reached by the balance; target_usd: the balance that it asks for."""
    missing = []
    if trading_days < min_days:
        missing.append(f"{min_days - trading_days} more trading day(s)")
    if open_positions:
        missing.append(f"{open_positions} position(s) to be closed")
    if not passable and not missing:
        missing.append("the best day's share of the profit or an earlier breach stands against it: see v7 ftmo")
    return {
        "alert_id": _crossing_id("ftmo_target", 1.0, at),
        "created_at": at,
        "kind": "ftmo",
        "severity": "info",
        "title": "FTMO: the profit target is reached",
        "body": "\n".join(
            (
                f"Balance: {usd_text(balance_usd)}, target {usd_text(target_usd)}, {percent_text(progress)} of the way",
                f"Trading days: {trading_days} of at least {min_days}",
                "Means: " + ("the phase can be passed" if passable else "not passable yet: " + ", ".join(missing)),
                "Ends: not by itself",
                "Do: stop with v7 halt --reason … so that nothing is given back, and close the phase at the firm",
            )
        ),
    }


def alert_of_day(
    day: date,
    *,
    closed_usd: float | None,
    balance_usd: float,
    equity_usd: float,
    daily_limit_usd: float,
    total_limit_usd: float,
    started_at: datetime,
    ends_at: datetime,
    zone: ZoneInfo = PRAGUE,
) -> dict[str, Any]:
    """The firm's day rolled. closed_usd: the P/L of what was closed the day before, None where nothing was."""
    room = equity_usd - max(daily_limit_usd, total_limit_usd)
    closed = "nothing was closed" if closed_usd is None else f"closed P/L {usd_text(closed_usd, sign=True)}"
    return {
        "alert_id": f"ftmo_day:{day}",
        "created_at": started_at,
        "kind": "ftmo",
        "severity": "info",
        "title": f"FTMO day {day} has begun",
        "body": "\n".join(
            (
                f"Yesterday: {closed}",
                f"Balance: {usd_text(balance_usd)}, equity {usd_text(equity_usd)}",
                f"Today's limits: daily {usd_text(daily_limit_usd)}, maximum loss {usd_text(total_limit_usd)}; "
                f"room {usd_text(room)}",
                f"Ends: the day rolls again at {local_text(ends_at, zone)}",
            )
        ),
    }


def _crossing_id(subject: str, level: float, at: datetime) -> str:
    return f"{subject}:{level:.0%}:{at:%Y%m%dT%H%M%S.%fZ}"


def _share(used: float, whole: float) -> str:
    return percent_text(used / whole) if whole > 0 else MISSING
