"""`v7 watchdog`: alerts when scans stop, from outside Dagster.

Arguments in, one line a look out; the look is scan/watchdog.py's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from v7_pipeline.cli_common import Demo, settings_of, store_of

__all__ = ["app"]

app = typer.Typer()


@app.command(epilog="Examples: `v7 watchdog` · `v7 watchdog --once` · `v7 watchdog --once --silent`")
def watchdog(
    once: Annotated[
        bool, typer.Option("--once", help="Look once: exit code 0 while scans finish, 1 otherwise.")
    ] = False,
    every: Annotated[float, typer.Option("--every", min=1.0, help="Seconds between two looks.")] = 60.0,
    silent: Annotated[bool, typer.Option("--silent", help="Send no alert; for health checks.")] = False,
    demo: Demo = None,
) -> None:
    """Alert once when no scan has finished for V7_WATCHDOG_AFTER_S, whatever the reason, and once they are back."""
    from v7_pipeline.scan.watchdog import look

    settings = settings_of(demo)
    store = store_of(settings)
    state = settings.data_dir / ("watchdog-health.json" if silent else "watchdog.json")
    said = None
    while True:
        verdict = look(settings, store, state, now=datetime.now(UTC), silent=silent)
        if once:
            typer.echo(verdict.told)
            raise typer.Exit(0 if verdict.well else 1)
        if verdict.well is not said:  # a line a change: a journal of months stays short
            typer.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {verdict.told}")
            said = verdict.well
        time.sleep(every)
