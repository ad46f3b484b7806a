"""What every check is: its name, what it asks, what its failure means and what to do then.

docs/checks.md and a page for each are made from these declarations. No check's own question belongs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from v7_pipeline.settings import Settings

__all__ = ["ERROR", "WARN", "Check", "Finding", "SqlCheck", "result_of"]

DEMO = "DEMO: simulated, no real prices"
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@dataclass(frozen=True, kw_only=True)
class Check:
    """A question to the store. `meaning` says what it asks, `means` what a failure tells, `remedy` what to do then."""

    name: str
    asset: str
    meaning: str
    means: str
    remedy: str
    severity: dg.AssetCheckSeverity = ERROR
    #: What is downstream waits for it, and does not run where it fails.
    blocking: bool = False

    @property
    def spec(self) -> dg.AssetCheckSpec:
        return self.spec_of(None)

    def spec_of(self, days: dg.PartitionsDefinition | None) -> dg.AssetCheckSpec:
        """What Dagster is told of it; with `days` each of its results is of one of these."""
        return dg.AssetCheckSpec(
            self.name,
            asset=self.asset,
            blocking=self.blocking,
            description=f"{self.meaning} If it fails: {self.means} {self.remedy}",
            partitions_def=days,
        )


def _nothing(settings: Settings) -> tuple[Any, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class SqlCheck(Check):
    """A check whose `sql` gives one row: `bad` counts what is wrong, the rest is told.

    Its first `?` is the instant; the others are what `given` takes from the settings.
    """

    sql: str
    given: Callable[[Settings], tuple[Any, ...]] = _nothing


@dataclass(frozen=True)
class Finding:
    """How many are wrong, and what a person should see of it: numbers, texts, or markdown of tables."""

    bad: int
    told: Mapping[str, Any] = field(default_factory=dict)


def result_of(check: Check, finding: Finding, *, demo: bool, **marks: str) -> dg.AssetCheckResult:
    """The finding as Dagster shows it: `wrong`, the marks (instant or partition), and what was told; demo says so."""
    told = {name: value for name, value in finding.told.items() if value is not None and value == value}
    return dg.AssetCheckResult(
        passed=finding.bad == 0,
        check_name=check.name,
        asset_key=dg.AssetKey(check.asset),
        severity=check.severity,
        description=None if finding.bad == 0 else f"{check.means} {check.remedy}",
        metadata={
            "wrong": finding.bad,
            **({"market": DEMO} if demo else {}),
            **marks,
            **{name: _shown(value) for name, value in told.items()},
        },
    )


def _shown(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    return dg.MetadataValue.md(text) if text.startswith("|") else text
