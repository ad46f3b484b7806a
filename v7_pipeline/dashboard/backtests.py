"""Pages of backtests for the dashboard: which there are and what each one says; the pages themselves are files.

Nothing is simulated or computed here.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["MOST", "file_of", "pages"]

MOST = 50
_NAME = re.compile(r"backtest-\d{8}-[0-9a-f]{12}\.(html|json)")


def pages(folder: Path) -> list[dict[str, Any]]:
    """The newest MOST backtests of `folder`, newest first.

    run_id, strategy, demo, first, last, headline and made_at (UTC) of each; one whose figures cannot be read says so.
    """
    found = sorted(folder.glob("backtest-*.html"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [_row(path) for path in found if _NAME.fullmatch(path.name)][:MOST]


def file_of(folder: Path, name: str) -> Path | None:
    """The page or the figures called `name`, None where there is no such file: no other name is looked for."""
    path = folder / name
    return path if _NAME.fullmatch(name) and path.is_file() else None


def _row(path: Path) -> dict[str, Any]:
    made_at = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
    row = {"run_id": path.stem, "name": path.name, "made_at": made_at}
    unknown = {"strategy": None, "demo": False, "first": None, "last": None}
    try:
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return row | {name: told[name] for name in unknown} | {"headline": told["verdict"]["headline"]}
    except (OSError, ValueError, KeyError, TypeError):
        return row | unknown | {"headline": "its figures cannot be read; make it again"}
