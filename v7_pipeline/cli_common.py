"""What the modules of the v7 command share: the --demo option, a person's mistake, and settings and store by it.

Commands belong to cli.py and the cli_ modules; nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from v7_pipeline.logs import configure
from v7_pipeline.settings import Settings, SettingsError, env_name, load_settings, origin_of

if TYPE_CHECKING:
    from v7_pipeline.store import Store

__all__ = ["Demo", "UsageProblemError", "settings_of", "store_of"]

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
