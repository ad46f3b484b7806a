"""How many backtests are kept: stores, pages and figures of the oldest ones go, the count of trials never does.

When it is done, and which backtest is still linked to, is orchestration's.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

__all__ = ["forget_backtests"]

#: What was written to within this time may be a backtest that is being made.
YOUNG = timedelta(days=1)
# All files of a backtest begin with its run id; a page that was not finished has a dot before it.
_FILE = re.compile(r"\.?(backtest-\d{8}-[0-9a-f]{12})\..+")


def forget_backtests(folder: Path, *, keep: int, now: datetime, spared: Collection[str] = ()) -> int:
    """Delete all files of the backtests of `folder` but for the `keep` newest; returns how many backtests went.

    A backtest is as new as the file of it that was last written. Kept whatever their age: run ids in `spared`, and
    what was written to within a day. No other file is touched: the trials that were counted stay.
    """
    files: dict[str, list[Path]] = {}
    for path in folder.glob("*backtest-*"):
        found = _FILE.fullmatch(path.name)
        if found and path.is_file():
            files.setdefault(found[1], []).append(path)
    written = {run_id: max(path.stat().st_mtime for path in paths) for run_id, paths in files.items()}
    newest = sorted(files, key=lambda run_id: (written[run_id], run_id), reverse=True)
    young = (now - YOUNG).timestamp()
    gone = [run_id for run_id in newest[keep:] if run_id not in spared and written[run_id] < young]
    for run_id in gone:
        for path in files[run_id]:
            path.unlink(missing_ok=True)
    return len(gone)
