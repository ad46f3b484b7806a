"""The prop firm's rules as dated, sourced data (ftmo_rules.toml), and the firm's day.

What the rules make of an account is ftmo.py's business.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from v7_pipeline.gates.base import instant

__all__ = ["RuleSet", "RulesError", "day_bounds", "ftmo_day", "rule_names", "rules"]

PRAGUE = ZoneInfo("Europe/Prague")
EVERY = "*"  # a figure of every symbol that has none of its own


class RulesError(ValueError):
    """A file of rule sets is not usable; the message says which entry, and what to write instead."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One version of a firm's rules.

    daily_loss, max_loss and profit_target are fractions of the initial capital; `trailing`: the maximum loss follows
    the highest end-of-day balance; best_day_share: largest part of the profit that one day may have made;
    commission_rate: fraction of a side's notional; leverage: largest notional over equity; contract_sizes: base units a
    lot, by symbol. `commissions` and `leverages` hold the symbols that differ; * stands for every other symbol. None:
    no such rule.
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
    commissions: Mapping[str, float] = field(default_factory=dict)
    leverages: Mapping[str, float] = field(default_factory=dict)

    def commission_of(self, symbol: str) -> float:
        """Fraction of a side's notional that a trade of `symbol` pays."""
        return self.commissions.get(symbol, self.commissions.get(EVERY, self.commission_rate))

    def leverage_of(self, symbol: str) -> float:
        """Largest notional over equity of `symbol`."""
        return self.leverages.get(symbol, self.leverages.get(EVERY, self.leverage))

    def contract_size_of(self, symbol: str) -> float | None:
        """Base units a lot of `symbol`; None where the firm states none."""
        return self.contract_sizes.get(symbol, self.contract_sizes.get(EVERY))

    def with_own(
        self, commissions: Mapping[str, float], leverages: Mapping[str, float], contract_sizes: Mapping[str, float]
    ) -> RuleSet:
        """These rules with a person's own figures of single symbols on top."""
        return replace(
            self,
            commissions={**self.commissions, **commissions},
            leverages={**self.leverages, **leverages},
            contract_sizes={**self.contract_sizes, **contract_sizes},
        )

    @property
    def zone(self) -> ZoneInfo:
        """Where the firm's day begins at midnight."""
        return ZoneInfo(self.timezone)


def rules(name: str, *, on: date | None = None, file: Path | None = None) -> RuleSet:
    """The newest version of the rule set `name`, or the one in force `on` a date; KeyError where the name is unknown.

    `file` holds further [[rules]] entries in the format of ftmo_rules.toml; RulesError where it is not usable. A date
    before the first version gets the first: a replay of earlier candles is judged by the oldest rules we know, and the
    version's `effective` date shows it.
    """
    versions = sorted((entry for entry in _known(file) if entry.name == name), key=lambda entry: entry.effective)
    if not versions:
        raise KeyError(f"no rule set {name!r}; known are {', '.join(rule_names(file))}")
    return [versions[0], *(entry for entry in versions if on is None or entry.effective <= on)][-1]


def rule_names(file: Path | None = None) -> tuple[str, ...]:
    """The names of all rule sets, those of `file` included."""
    return tuple(dict.fromkeys(entry.name for entry in _known(file)))


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


def _known(file: Path | None) -> tuple[RuleSet, ...]:
    return _load() if file is None else (*_load(), *_of_file(file))


@cache
def _load() -> tuple[RuleSet, ...]:
    text = (files("v7_pipeline.gates") / "ftmo_rules.toml").read_text(encoding="utf-8")
    return _parsed(text, "ftmo_rules.toml")


def _of_file(file: Path) -> tuple[RuleSet, ...]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RulesError(f"{file} cannot be read: {error.strerror}") from None
    own = _parsed(text, str(file))
    taken = sorted({entry.name for entry in own} & set(rule_names()))
    if taken:
        raise RulesError(f"{file} has rule sets of names that V7 has already: {', '.join(taken)}; name them otherwise")
    return own


def _parsed(text: str, what: str) -> tuple[RuleSet, ...]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RulesError(f"{what} is no TOML: {error}") from None
    entries = data.get("rules")
    if set(data) - {"defaults", "rules"} or not isinstance(entries, list) or not entries:
        raise RulesError(f"{what} needs [[rules]] entries and may have [defaults], and nothing else")
    return tuple(_checked({**data.get("defaults", {}), **entry}, what) for entry in entries)


def _checked(entry: Mapping[str, Any], what: str) -> RuleSet:
    """One entry as a RuleSet; RulesError says which of its figures cannot be meant."""
    name = entry.get("name", "without a name")
    try:
        made = RuleSet(**entry)
    except TypeError as error:
        raise RulesError(f"the rule set {name} of {what}: {str(error).partition('__init__() ')[2]}") from None
    shares = {"daily_loss": made.daily_loss, "max_loss": made.max_loss, "profit_target": made.profit_target}
    shares |= {"best_day_share": made.best_day_share}
    problems = [f"{key} is {value!r}, not a fraction" for key, value in shares.items() if not _is_share(value, key)]
    if not isinstance(made.effective, date):
        problems.append(f"effective is {made.effective!r}, not a date such as 2025-07-26")
    if not made.source:
        problems.append("source is empty: say where the rules stand")
    for key, figures in (
        ("commission_rate", [made.commission_rate, *made.commissions.values()]),
        ("leverage", [made.leverage, *made.leverages.values()]),
        ("contract_sizes", list(made.contract_sizes.values())),
    ):
        if any(not isinstance(f, (int, float)) or f < 0 or (f == 0 and key != "commission_rate") for f in figures):
            problems.append(f"{key} has a figure that is not above zero")
    try:
        made.zone.utcoffset(None)
    except (ZoneInfoNotFoundError, ValueError, TypeError):
        problems.append(f"timezone is {made.timezone!r}, which no clock knows; write it as Europe/Prague")
    if problems:
        raise RulesError(f"the rule set {name} of {what}: {'; '.join(problems)}")
    return made


def _is_share(value: Any, key: str) -> bool:
    if value is None:
        return key in ("profit_target", "best_day_share")
    return isinstance(value, (int, float)) and 0 < value <= 1
