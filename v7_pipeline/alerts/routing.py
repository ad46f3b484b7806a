"""When an alert may be sent, when it is tried again, and what is said of a delay, a repeat or what was left out.

Only rules of time and words: rows are read and written in scan/alerting.py, messages are sent by deliver.py.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from v7_pipeline.alerts.deliver import SEVERITIES, Result
from v7_pipeline.alerts.text import time_text

__all__ = ["GIVE_UP_AFTER", "LEASE", "is_quiet", "next_try", "rank", "worded"]

LEASE = timedelta(seconds=120)  # an attempt that says nothing for so long was interrupted: no send takes a minute
GIVE_UP_AFTER = timedelta(hours=24)
LATE = timedelta(minutes=10)
MESSAGE_ATTEMPTS = 3
_FIRST = timedelta(seconds=30)
_FIRST_REFUSED = timedelta(minutes=10)  # a person has to mend it first
_LONGEST = timedelta(hours=1)


def rank(severity: str) -> int:
    """How severe, from 0; what is not known is the most severe."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def is_quiet(now: datetime, hours: tuple[time, time] | None, zone: str) -> bool:
    """Whether info alerts wait at `now`; `hours` may reach over midnight, and are those of `zone`'s clocks."""
    if hours is None:
        return False
    start, end = hours
    clock = now.astimezone(ZoneInfo(zone)).time()
    return start <= clock < end if start < end else clock >= start or clock < end


def next_try(result: Result, *, attempts: int, created_at: datetime, now: datetime) -> datetime | None:
    """When to try again after `attempts` that failed, the newest with `result`; None: no more.

    Twice as long each time, to an hour at most, never before the destination's retry_after; for a day.
    """
    if result.kind == "message" and attempts >= MESSAGE_ATTEMPTS:
        return None
    if now - created_at >= GIVE_UP_AFTER and attempts >= MESSAGE_ATTEMPTS:
        return None
    first = _FIRST_REFUSED if result.kind == "refused" else _FIRST
    wait = min(_LONGEST, first * 2 ** min(attempts - 1, 10))
    return now + max(wait, timedelta(seconds=result.retry_after_s or 0.0))


def worded(
    title: str, body: str, *, created_at: datetime, now: datetime, repeat: bool, left_out: int, since: datetime | None
) -> tuple[str, str]:
    """Title and body as they are sent: with what a person must know of this delivery.

    `repeat`: an attempt before it was interrupted, so that this may be the second. `left_out`: alerts of the same
    subject that were not sent since `since`.
    """
    lines = [body]
    if left_out:
        lines.append(f"{left_out} alike not sent since {time_text(since)}")
    if now - created_at >= LATE:
        lines.insert(0, f"LATE: of {time_text(created_at)}, sent {time_text(now)}")
    if repeat:
        lines.append("Perhaps a repeat: the delivery before this one was interrupted")
    return title, "\n".join(lines)
