"""What a person is told of failed checks and runs, stale data, ticks and scans that stay away, and the day's summary.

Each has a subject: alike are told once in a window, and a recovery ends it. What happened is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from v7_pipeline.alerts.text import MISSING, number_text, percent_text, time_text, usd_text

__all__ = [
    "CheckSeen",
    "Summary",
    "alert_of_check",
    "alert_of_destination",
    "alert_of_recovery",
    "alert_of_run",
    "alert_of_silence",
    "alert_of_skipped",
    "alert_of_stale",
    "alert_of_summary",
    "span_text",
]

_FIGURES = 12  # of a check's metadata; the rest is on its page
_FIGURE_LENGTH = 200


@dataclass(frozen=True)
class CheckSeen:
    """One asset check as its run recorded it; `figures` is its metadata in words, `link` its page."""

    asset: str
    check: str
    passed: bool
    run_id: str
    at: datetime
    partition: str | None
    figures: Mapping[str, str]
    link: str
    error: bool = True
    blocking: bool = False
    description: str | None = None

    @property
    def subject(self) -> str:
        return f"check:{self.asset}:{self.check}"


@dataclass(frozen=True, slots=True)
class StrategyDay:
    """A strategy's day on its own account: `won` of `closed` paper trades, P&L in USD, missing without one."""

    name: str
    accepted: int
    closed: int
    won: int
    pnl_usd: float | None

    @property
    def trades(self) -> str:
        """How many trades closed, and how many of them won."""
        won = f" ({percent_text(self.won / self.closed, 0)} won)" if self.closed else ""
        return f"paper trades closed: {self.closed}{won}"


@dataclass(frozen=True)
class Summary:
    """A day's figures; money in USD, missing where nothing is known. `strategies`: those that are live or traded."""

    day: date
    scans: int
    failed: int
    strategies: Sequence[StrategyDay]
    cost_usd: float | None
    newest_scan: datetime | None
    alerts: Mapping[str, int]
    left_out: int
    undelivered: int
    open_troubles: Sequence[str]


def alert_of_check(seen: CheckSeen) -> dict[str, Any]:
    """A failed asset check: critical where it is an error, a warning otherwise."""
    figures = [f"{name}: {_cut(value)}" for name, value in list(seen.figures.items())[:_FIGURES]]
    lines = [
        f"Asset: {seen.asset}, partition {seen.partition or MISSING}",
        *([f"Says: {_cut(seen.description)}"] if seen.description else []),
        *figures,
        *(["Means: what depends on it was not computed"] if seen.blocking else []),
        f"Do: see docs/checks/{seen.check}.md for what it means",
        f"Page: {seen.link}",
        f"Run {seen.run_id}, ended {time_text(seen.at)}",
    ]
    return {
        "alert_id": f"{seen.subject}:{seen.run_id}",
        "created_at": seen.at,
        "kind": "check_failed",
        "severity": "critical" if seen.error or seen.blocking else "warning",
        "title": f"Check failed: {seen.check} of {seen.asset}",
        "body": "\n".join(lines),
        "subject": seen.subject,
    }


def alert_of_run(
    job: str, run_id: str, *, error: str, partition: str | None, link: str, at: datetime
) -> dict[str, Any]:
    """A failed run, with the step's own sentence."""
    return {
        "alert_id": f"run:{job}:{run_id}",
        "created_at": at,
        "kind": "run_failed",
        "severity": "critical",
        "title": f"Run failed: {job}",
        "body": f"Partition: {partition or MISSING}\nError: {_cut(error, 1500)}\nPage: {link}\n"
        f"Run {run_id}, ended {time_text(at)}",
        "subject": f"run:{job}",
    }


def alert_of_stale(ages_s: Mapping[str, float | None], *, limit_s: float, at: datetime) -> dict[str, Any]:
    """The newest candle of some products is too old; `ages_s` in seconds by product, None where there is no candle."""
    lines = [f"{symbol}: {span_text(age) if age is not None else 'no candle'}" for symbol, age in ages_s.items()]
    return {
        "alert_id": f"stale:{at:%Y%m%dT%H%M%S.%fZ}",
        "created_at": at,
        "kind": "data_stale",
        "severity": "warning",
        "title": f"Data is stale: {', '.join(ages_s)}",
        "body": "\n".join(
            (
                "Age of the newest candle:", *lines,
                f"Limit: {span_text(limit_s)} (V7_ALERT_STALE_S)",
                "Means: the freshness gate accepts no signal of these products",
                "Do: v7 doctor asks the exchange; gaps are filled by the first scan that reaches it",
            )
        ),
        "subject": "stale",
    }  # fmt: skip


def alert_of_skipped(ticks: Sequence[tuple[datetime, str]], *, at: datetime) -> dict[str, Any]:
    """The schedule's newest ticks have started no run; `ticks` are (instant, reason), newest first."""
    return {
        "alert_id": f"ticks:{at:%Y%m%dT%H%M%S.%fZ}",
        "created_at": at,
        "kind": "ticks_skipped",
        "severity": "warning",
        "title": f"{len(ticks)} ticks in a row have started no scan",
        "body": "\n".join(
            (*(f"{time_text(when)}: {_cut(why)}" for when, why in ticks[:5]), "Do: v7 status; v7 doctor")
        ),
        "subject": "ticks",
    }


def alert_of_silence(
    newest: datetime | None, *, limit_s: float, reasons: Sequence[str], at: datetime
) -> dict[str, Any]:
    """No scan has finished for too long; `reasons` are what could be seen of why."""
    last = f"Last finished scan: {time_text(newest)}"
    last += f" ({span_text((at - newest).total_seconds())} ago)" if newest is not None else ""
    return {
        "alert_id": f"silence:{at:%Y%m%dT%H%M%S.%fZ}",
        "created_at": at,
        "kind": "scans_stopped",
        "severity": "critical",
        "title": "Scans have stopped",
        "body": "\n".join(
            (
                last,
                f"Limit: {span_text(limit_s)} (V7_WATCHDOG_AFTER_S)",
                *(f"Seen: {reason}" for reason in reasons),
                "Means: no new signals, and open paper trades are not followed",
                "Do: look at v7 up's output and logs; start v7 up again; v7 doctor",
            )
        ),
        "subject": "silence",
    }


def alert_of_destination(name: str, error: str, *, at: datetime) -> dict[str, Any]:
    """A destination refuses messages; told to the other ones."""
    return {
        "alert_id": f"destination:{name}:{at:%Y%m%dT%H%M%S.%fZ}",
        "created_at": at,
        "kind": "delivery_failed",
        "severity": "warning",
        "title": f"Alerts do not arrive at {name}",
        "body": f"{error}\nIt is tried again for a day; what it misses is in the table alert_deliveries.",
        "subject": f"destination:{name}",
    }


def alert_of_recovery(trouble: Mapping[str, Any], how: str, *, at: datetime) -> dict[str, Any]:
    """The end of `trouble` (its alerts row), as severe as that so that it goes where that went."""
    title = str(trouble["title"]).removeprefix("DEMO ")
    lasted = span_text((at - trouble["created_at"]).total_seconds())
    return {
        "alert_id": f"recovery:{trouble['alert_id']}",
        "created_at": at,
        "kind": "recovery",
        "severity": trouble["severity"],
        "title": f"Recovered: {title}",
        "body": f"Now: {how}\nLast told of: {time_text(trouble['created_at'])}, {lasted} before",
        "subject": trouble["subject"],
    }


def alert_of_summary(summary: Summary, *, at: datetime) -> dict[str, Any]:
    """The day in a few lines."""
    told = ", ".join(f"{count} {kind}" for kind, count in summary.alerts.items()) or "none"
    lines = [
        f"Scans: {summary.scans} finished, {summary.failed} failed; newest {time_text(summary.newest_scan)}",
        *_trades(summary),
        f"Alerts: {told}; {summary.left_out} deliveries left out as alike, {summary.undelivered} not delivered",
        f"Open troubles: {', '.join(summary.open_troubles) or 'none'}",
    ]
    return {
        "alert_id": f"summary:{summary.day}",
        "created_at": at,
        "kind": "summary",
        "severity": "info",
        "title": f"Summary of 24 h to {time_text(at)}",
        "body": "\n".join(lines),
        "subject": None,
    }


def _trades(summary: Summary) -> list[str]:
    """What was signalled and traded; of several strategies each by itself, since each has an account of its own."""
    cost = usd_text(summary.cost_usd, 4)
    if len(summary.strategies) == 1:
        (one,) = summary.strategies
        return [
            f"Signals accepted: {one.accepted}; {one.trades}",
            f"Profit or loss: {usd_text(one.pnl_usd, sign=True)} (paper); analyst {cost}",
        ]
    lines = [
        f"{one.name}: signals accepted: {one.accepted}; {one.trades}; profit or loss {usd_text(one.pnl_usd, sign=True)}"
        for one in summary.strategies
    ]
    return [*lines, f"Analyst: {cost}"]


def span_text(seconds: float) -> str:
    """A span of time in words: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 120:
        return f"{number_text(max(seconds, 0.0), 0)} s"
    minutes = int(timedelta(seconds=seconds) / timedelta(minutes=1))
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _cut(text: str, limit: int = _FIGURE_LENGTH) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
