"""What the modules of the v7 command share: the --demo option, a person's mistake, and settings and store by it.

Commands belong to cli.py and the cli_ modules; nothing is computed here.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v7_pipeline.logs import configure
from v7_pipeline.settings import Settings, SettingsError, env_name, load_settings, origin_of

if TYPE_CHECKING:
    from v7_pipeline.store import Store

__all__ = [
    "Demo", "Symbols", "UsageProblemError", "check_rules", "days_of", "instant_of", "json_text", "midnight",
    "now_minute", "settings_of", "span_of", "store_of",
]  # fmt: skip

Demo = Annotated[
    bool | None, typer.Option("--demo/--live", help="Demo: the sandbox's simulated market. Default: V7_MODE.")
]


Symbols = Annotated[str | None, typer.Option(help="Products, separated by commas, such as BTC-USD,ETH-USD.")]


class UsageProblemError(Exception):
    """An argument cannot be used; the message is the one sentence that the person sees."""


# Settings that have an option of their own, for messages in the words of who typed it.
_OPTIONS = {
    "symbols": "--symbols",
    "max_signals_per_hour": "--max-signals",
    "daily_budget_usd": "--daily-budget",
    "monthly_budget_usd": "--monthly-budget",
}


def settings_of(demo: bool | None, *, symbols: str | None = None, **changes: Any) -> Settings:
    """The settings with a command's options on top; UsageProblemError in the words of who typed it."""
    overrides = {name: value for name, value in changes.items() if value is not None}
    if demo is not None:
        overrides["mode"] = "demo" if demo else "live"
    if symbols is not None:
        overrides["symbols"] = symbols
    try:
        settings = load_settings(**overrides)
        configure(settings)
        return settings
    except SettingsError as error:
        told = str(error)
        for field, option in _OPTIONS.items():
            told = told.replace(f"{env_name(field)} (from argument)", option)
        raise UsageProblemError(told) from None


def store_of(settings: Settings) -> Store:
    """The store that the settings name; nothing is opened yet. UsageProblemError where they name none."""
    from v7_pipeline.store import StoreError, open_store

    try:
        return open_store(settings.store_url, wait_s=settings.store_wait_s)
    except StoreError as error:
        raise UsageProblemError(f"V7_STORE (from {origin_of('store')}) is not usable: {error}") from None


def check_rules(settings: Settings) -> None:
    """A rule set that does not exist is told before anything is started."""
    from v7_pipeline.gates.rulesets import rules

    try:
        rules(settings.ftmo_rules)
    except KeyError as error:
        raise UsageProblemError(
            f"V7_FTMO_RULES (from {origin_of('ftmo_rules')}) is not usable: {error.args[0]}"
        ) from None


def now_minute() -> datetime:
    """The present minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageProblemError(f"{option} {text!r} is no day; write it as 2023-12-01") from None


def days_of(first: str, last: str) -> tuple[date, date]:
    """The days of --from and --to, in order and none of them in the future."""
    start, end = _day(first, "--from"), _day(last, "--to")
    if end < start:
        raise UsageProblemError(f"--to {last} lies before --from {first}; swap them")
    if end > datetime.now(UTC).date():
        raise UsageProblemError(f"--to {last} lies in the future; give a day up to today")
    return start, end


def span_of(first: date, last: date, hours: int | None) -> tuple[datetime, datetime]:
    """[start, end) of whole days up to the present minute, or their first hours."""
    start, end = midnight(first), midnight(last + timedelta(days=1))
    return start, min(end, now_minute(), start + timedelta(hours=hours) if hours else end)


def midnight(day: date) -> datetime:
    """The day's first instant, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def instant_of(text: str, option: str, *, example: str = "2026-11-21T10:00Z") -> datetime:
    """The instant of an option, in UTC; UsageProblemError where it is none or has no time zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageProblemError(f"{option} {text!r} is no instant; write it as {example}") from None
    if found.tzinfo is None:
        raise UsageProblemError(f"{option} {text!r} has no time zone; write it in UTC, as {text}Z")
    return found.astimezone(UTC)


def json_text(value: Any) -> str:
    """`value` as JSON: instants in UTC, missing is null, numbers without the digits that binary arithmetic adds."""
    return json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, float):
        return round(value, 8) if math.isfinite(value) else None
    return value
