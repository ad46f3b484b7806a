"""What the modules of the v7 command share: the --demo option, a person's mistake, and settings and store by it.

Commands belong to cli.py and the cli_ modules; nothing is computed here.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v7_pipeline.logs import configure
from v7_pipeline.settings import Settings, SettingsError, env_name, load_settings, origin_of

if TYPE_CHECKING:
    from v7_pipeline.store import Store

__all__ = ["Demo", "UsageProblemError", "instant_of", "json_text", "settings_of", "store_of"]

Demo = Annotated[
    bool | None, typer.Option("--demo/--live", help="Demo: the sandbox's simulated market. Default: V7_MODE.")
]


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
