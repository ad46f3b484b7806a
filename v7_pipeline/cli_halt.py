"""`v7 halt` and `v7 resume`: the kill switch from the command line.

Arguments in, one sentence out where they are wrong; the work is done in scan/halts.py.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from v7_pipeline import __version__
from v7_pipeline.cli_common import Demo, UsageProblemError, instant_of, settings_of, store_of

if TYPE_CHECKING:
    from v7_pipeline.settings import Settings

__all__ = ["app"]

app = typer.Typer()

_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")


@app.command(
    epilog='Examples: `v7 halt --reason "rates decision tonight"` · `v7 halt --reason news --for 2h` · '
    "`v7 halt --reason holiday --until 2026-11-23T08:00:00Z`"
)
def halt(
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands on every page until the halt ends.")],
    span: Annotated[
        str | None, typer.Option("--for", help="How long, such as 30m, 2h or 1d. Default: until v7 resume.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="End in UTC, such as 2026-11-23T08:00:00Z.")] = None,
    demo: Demo = None,
) -> None:
    """Accept no signal and ask no analyst from the next scan on; candles, readings and outcomes go on."""
    from v7_pipeline.alerts.watched import ends_text
    from v7_pipeline.scan.halts import halt as throw
    from v7_pipeline.scan.runtime import build_runtime

    settings = settings_of(demo)
    at = datetime.now(UTC)
    why = " ".join(reason.split())
    if not why:
        raise UsageProblemError('--reason is blank; say why, such as --reason "rates decision tonight"')
    end = _end(span, until, at)
    zone = _zone(settings)
    store = build_runtime(settings).prepare_store()  # a switch works before the first scan too
    row, new = throw(
        store, why, at=at, until=end, provenance=_marks(settings, "v7 halt"), marks=_alert_marks(settings), zone=zone
    )
    told = f"{_mark(settings)}HALTED: {row['reason']}. It ends {ends_text(row, zone)}"
    if new:
        typer.echo(f"{told}. The next scan is the first that it stops; scans go on observing.")
    else:
        typer.echo(f"{told}. It is in force already since {row['started_at']:%Y-%m-%d %H:%M} UTC: nothing written.")


@app.command(epilog='Examples: `v7 resume` · `v7 resume --reason "news is out" --demo`')
def resume(
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why; it is kept with the halts that it lifts.")
    ] = None,
    demo: Demo = None,
) -> None:
    """Lift every halt that a person set and that of a broken maximum loss; the others end by themselves."""
    from v7_pipeline.alerts.watched import ends_text
    from v7_pipeline.scan.halts import resume as lift

    settings = settings_of(demo)
    at = datetime.now(UTC)
    why = None if reason is None else " ".join(reason.split()) or None
    zone = _zone(settings)
    store = store_of(settings)
    mark = _mark(settings)
    if store.schema_version() is None:
        typer.echo(f"{mark}no halt is in force: there is no store yet")
        return
    done = lift(store, why, at=at, provenance=_marks(settings, "v7 resume"), marks=_alert_marks(settings), zone=zone)
    for row in done.lifted:
        typer.echo(f"{mark}lifted: {row['kind']} halt of {row['started_at']:%Y-%m-%d %H:%M} UTC, {row['reason']}")
        if row["kind"] == "total":
            typer.echo(f"{mark}what broke the maximum loss until now is forgiven; the firm's own verdict is not ours")
    for row in done.left:
        typer.echo(f"{mark}left in force: {row['kind']} halt, {row['reason']}. It ends {ends_text(row, zone)}")
    if not done.lifted:
        typer.echo(f"{mark}no halt is in force{' that a person lifts' if done.left else ''}")
    elif not done.left:
        typer.echo(f"{mark}signals may be accepted from the next scan on")


def _end(span: str | None, until: str | None, at: datetime) -> datetime | None:
    """The end that --for or --until names, or None."""
    if span is not None and until is not None:
        raise UsageProblemError("--for and --until both name the end; give one of them")
    if span is not None:
        found = _SPAN.fullmatch(span.strip().lower())
        days, hours, minutes = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
        if not (days or hours or minutes) or days > 3650:
            raise UsageProblemError(f"--for {span!r} is no span of time; write it as 30m, 2h, 1d or 1h30m")
        return at + timedelta(days=days, hours=hours, minutes=minutes)
    return None if until is None else _until(until, at)


def _until(text: str, at: datetime) -> datetime:
    end = instant_of(text, "--until", example="2026-11-23T08:00:00Z")
    if end <= at:
        raise UsageProblemError(f"--until {text} has passed; give an instant to come")
    return end


def _zone(settings: Settings) -> ZoneInfo:
    """The clocks of the firm whose rules the account has."""
    from v7_pipeline.scan.account import rule_set

    try:
        return rule_set(settings, datetime.now(UTC)).zone
    except KeyError as error:
        raise UsageProblemError(f"V7_FTMO_RULES is not usable: {error.args[0]}") from None


def _marks(settings: Settings, command: str) -> dict[str, Any]:
    return {"source": settings.source, "run_id": command, "code_version": __version__}


def _alert_marks(settings: Settings) -> dict[str, Any]:
    return {"demo": settings.mode == "demo", "gates_off": settings.gates_off}


def _mark(settings: Settings) -> str:
    return "DEMO " if settings.mode == "demo" else ""
