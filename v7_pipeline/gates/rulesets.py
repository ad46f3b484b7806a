"""The prop firm's rules as dated, sourced data (ftmo_rules.toml), and the firm's day.

What the rules make of an account is ftmo.py's business.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from v7_pipeline.gates.base import instant

__all__ = ["RuleSet", "day_bounds", "ftmo_day", "rule_names", "rules"]

PRAGUE = ZoneInfo("Europe/Prague")


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One version of a firm's rules.

    daily_loss, max_loss and profit_target are fractions of the initial capital; `trailing`: the maximum loss follows
    the highest end-of-day balance; best_day_share: largest part of the profit that one day may have made;
    commission_rate: fraction of a side's notional; contract_sizes: base units a lot, by symbol. None: no such rule.
    """

    name: str
    effective: date
    source: str
    daily_loss: float
    max_loss: float
    trailing: bool
    commission_rate: float
    leverage: float
    timezone: str
    min_days: int = 0
    profit_target: float | None = None
    best_day_share: float | None = None
    contract_sizes: Mapping[str, float] = field(default_factory=dict)

    @property
    def zone(self) -> ZoneInfo:
        """Where the firm's day begins at midnight."""
        return ZoneInfo(self.timezone)


def rules(name: str, *, on: date | None = None) -> RuleSet:
    """The newest version of the rule set `name`, or the one in force `on` a date; KeyError where the name is unknown.

    A date before the first version gets the first: a replay of earlier candles is judged by the oldest rules we know,
    and the version's `effective` date shows it.
    """
    versions = sorted((entry for entry in _load() if entry.name == name), key=lambda entry: entry.effective)
    if not versions:
        raise KeyError(f"no rule set {name!r}; known are {', '.join(rule_names())}")
    return [versions[0], *(entry for entry in versions if on is None or entry.effective <= on)][-1]


def rule_names() -> tuple[str, ...]:
    """The names of all rule sets."""
    return tuple(dict.fromkeys(entry.name for entry in _load()))


def ftmo_day(at: datetime, zone: ZoneInfo = PRAGUE) -> date:
    """The firm's day in which the instant `at` lies."""
    moment = instant(at, "the instant")
    if moment is None:
        raise ValueError("a missing instant lies in no day")
    return moment.astimezone(zone).date()


def day_bounds(at: datetime, zone: ZoneInfo = PRAGUE) -> tuple[datetime, datetime]:
    """Start and end (UTC) of the firm's day around `at`; 23 or 25 hours apart when the clocks change."""
    day = ftmo_day(at, zone)
    return _midnight(day, zone), _midnight(day + timedelta(days=1), zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


@cache
def _load() -> tuple[RuleSet, ...]:
    data = tomllib.loads((files("v7_pipeline.gates") / "ftmo_rules.toml").read_text(encoding="utf-8"))
    return tuple(RuleSet(**{**data["defaults"], **entry}) for entry in data["rules"])
