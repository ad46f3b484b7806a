"""`v7 backup`, `v7 restore` and `v7 export`: the store as files, and files as a store again.

The work is store/backup.py's; here are arguments, progress bars and one line of what was done.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from v7_pipeline.cli_common import Demo, UsageProblemError, settings_of, store_of

__all__ = ["app"]

app = typer.Typer()

EXPORTED = ("candles", "theory_features", "llm_signals", "gated_signals", "outcomes", "theory_attribution", "scans")


@app.command(epilog="Examples: `v7 backup` · `v7 backup --output /mnt/backups/v7-monday` · `v7 backup --demo`")
def backup(
    output: Annotated[
        Path | None, typer.Option(help="New folder. Default: .v7/<mode>/backups/ and the present second.")
    ] = None,
    demo: Demo = None,
) -> None:
    """The whole store as Parquet files with checksums and row counts. `v7 up` may be running."""
    from v7_pipeline import __version__
    from v7_pipeline.console import RichTeller, out
    from v7_pipeline.store.backup import backup as make

    settings = settings_of(demo)
    now = datetime.now(UTC)
    folder = output or settings.data_dir / "backups" / f"v7-{now:%Y%m%dT%H%M%SZ}"
    teller = RichTeller(out())
    try:
        made = make(store_of(settings), folder, now=now, code_version=__version__, on_progress=teller.progress)
    finally:
        teller.finish()
    size = sum(file.stat().st_size for file in folder.iterdir())
    teller.line(f"{made.total} rows of {len(made.rows)} tables, verified, {size / 2**20:.1f} MiB in {folder}")


@app.command(epilog="Examples: `v7 restore .v7/live/backups/v7-20261121T031700Z` · `v7 restore FOLDER --replace`")
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `v7 backup` made.")],
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of what the store holds.")] = False,
    demo: Demo = None,
) -> None:
    """A store from a backup: checksums and row counts are compared, an older schema is migrated, all or nothing.

    V7 must not be running on the same data.
    """
    from v7_pipeline import __version__
    from v7_pipeline.console import RichTeller, out
    from v7_pipeline.orchestration.up import hold_lock
    from v7_pipeline.store.backup import restore as put_back

    settings = settings_of(demo)
    lock = hold_lock(settings)
    teller = RichTeller(out())
    try:
        made = put_back(
            _writable(settings),
            folder,
            now=datetime.now(UTC),
            code_version=__version__,
            replace=replace,
            on_progress=teller.progress,
        )
    finally:
        teller.finish()
        lock.release()
    teller.line(
        f"{made.total} rows of {len(made.rows)} tables restored from {folder}, made {made.created_at:%F %H:%M}Z"
    )


@app.command(
    epilog="Examples: `v7 export` · `v7 export outcomes --format csv` · `v7 export candles --from 2026-11-01 "
    "--to 2026-11-21 --output november`"
)
def export(
    tables: Annotated[
        list[str] | None, typer.Argument(help=f"Tables; `all` for every one. Default: {', '.join(EXPORTED)}.")
    ] = None,
    how: Annotated[Literal["parquet", "csv"], typer.Option("--format", help="Kind of file.")] = "parquet",
    first: Annotated[str | None, typer.Option("--from", help="First UTC day, such as 2026-11-01.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last UTC day, included.")] = None,
    output: Annotated[Path, typer.Option(help="Folder; made where it is missing.")] = Path("v7-export"),
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite files that are there.")] = False,
    demo: Demo = None,
) -> None:
    """Tables as Parquet or CSV, one file each, for other programs; instants in UTC."""
    from v7_pipeline.console import RichTeller, out
    from v7_pipeline.store.backup import export as write
    from v7_pipeline.store.schema import TABLES

    names = list(TABLES) if tables == ["all"] else list(dict.fromkeys(tables or EXPORTED))
    unknown = [name for name in names if name not in TABLES]
    if unknown:
        raise UsageProblemError(f"there is no table {unknown[0]!r}; the store has {', '.join(TABLES)}")
    start, end = _midnight(first, "--from"), _midnight(last, "--to")
    end = end + timedelta(days=1) if end else None
    if start and end and end <= start:
        raise UsageProblemError(f"--to {last} lies before --from {first}; swap them")
    teller = RichTeller(out())
    try:
        written = write(
            store_of(settings_of(demo)),
            names,
            output,
            how=how,
            start=start,
            end=end,
            replace=replace,
            on_progress=teller.progress,
        )
    finally:
        teller.finish()
    for file, rows in written.items():
        teller.line(f"{rows:>9} rows  {file}")


def _writable(settings: Any) -> Any:
    """The store as a run would open it: a lake on PostgreSQL needs to know where its files go."""
    from v7_pipeline.scan.runtime import build_runtime

    return build_runtime(settings).store


def _midnight(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageProblemError(f"{option} {text!r} is no day; write it as 2023-12-01") from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
