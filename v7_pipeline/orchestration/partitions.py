"""Daily UTC partitions, and the instant of a scan: how it travels as a run tag and how it is read back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from v7_pipeline.scan.context import minute

__all__ = [
    "AS_OF_TAG",
    "SCAN_TAG",
    "as_of_text",
    "daily",
    "instant_of",
    "is_scan",
    "parse_as_of",
    "partition_of",
    "window_of",
]

AS_OF_TAG = "v7/as_of"
SCAN_TAG = "v7/scan"
_DECISIONS = dg.AssetKey("llm_signals")


def daily(first_day: date) -> dg.DailyPartitionsDefinition:
    """One partition a UTC day from `first_day`; the running day is one of them."""
    return dg.DailyPartitionsDefinition(start_date=first_day.isoformat(), timezone="UTC", end_offset=1)


def partition_of(as_of: datetime) -> str:
    """The partition that a scan at `as_of` materialises."""
    return f"{as_of.astimezone(UTC):%Y-%m-%d}"


def as_of_text(as_of: datetime) -> str:
    """The instant as written in the tag."""
    return f"{as_of.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def parse_as_of(text: str) -> datetime:
    """The instant behind a tag or an argument; ValueError with one sentence."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no instant; write it as 2023-12-11T02:12:00Z") from None
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write it in UTC, as {text}Z")
    return minute(instant)


def is_scan(context: dg.AssetExecutionContext) -> bool:
    """Whether the run is a scan at an instant; otherwise it materialises whole days.

    A run that decides is a scan also before it has its instant: started from the pages, its first step gives it one.
    """
    return AS_OF_TAG in context.run.tags or _DECISIONS in context.job_def.asset_layer.selected_asset_keys


def instant_of(context: dg.AssetExecutionContext, clock: Callable[[], datetime]) -> datetime:
    """The scan's instant. A run of today's partition without one gets the present minute as its tag, so that
    every step and every re-execution sees the same; a past day without one is refused, since decisions are
    facts of their instant and none is invented afterwards.
    """
    run = context.instance.get_run_by_id(context.run.run_id) or context.run
    if AS_OF_TAG in run.tags:
        return parse_as_of(run.tags[AS_OF_TAG])
    now = minute(clock())
    if not context.has_partition_key or context.partition_key != partition_of(now):
        raise dg.Failure(
            description=(
                f"{context.asset_key.to_user_string()} holds what was decided at each instant; "
                "a past day is not decided afterwards. Re-execute one of its scans, or run `v7 scan --as-of …`; "
                "for candles and readings of past days use the job backfill_features."
            ),
            allow_retries=False,
        )
    context.instance.add_run_tags(context.run.run_id, {AS_OF_TAG: as_of_text(now)})
    return now


def window_of(context: dg.AssetExecutionContext, clock: Callable[[], datetime]) -> tuple[datetime, datetime]:
    """[start, end) of the run's partition or range of partitions, not beyond the present minute."""
    window = context.partition_time_window
    end = min(window.end.astimezone(UTC), minute(clock()) + timedelta(minutes=1))
    start = window.start.astimezone(UTC)
    if end <= start:
        raise dg.Failure(description=f"the partition starting {start:%Y-%m-%d} lies in the future", allow_retries=False)
    return start, end
