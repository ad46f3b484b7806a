"""What is missing of candles and readings, and how it is mended: by asking once for exactly that, never by deciding.

When it is looked for and run is the sensor's business. Outcomes that a late candle touches are the next scan's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.alerts.outbox import outbox
from v7_pipeline.alerts.text import time_text
from v7_pipeline.scan.candles import HISTORY, MINUTE, fetch_range
from v7_pipeline.scan.context import ScanContext, StepResult
from v7_pipeline.scan.features import computed, known
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store

__all__ = ["QUIET", "Missing", "Span", "missing", "repair"]

# So long without a trade is a quiet market, which the exchange reports by leaving minutes out: it is nobody's alarm.
QUIET = timedelta(minutes=5)
# What one run asks for at most, in minutes of all symbols together (100 pages); the rest is the next run's.
AT_MOST = 30_000
_PAGE = timedelta(minutes=300)
# Newer minutes are asked again by the scans themselves, and may not be published yet.
_SETTLING = timedelta(minutes=5)
# Readings need two days of candles before them: holes this close are read together.
_NEAR = timedelta(hours=6)

# A gap lies between two candles: before the first there is no history, after the newest the next scan asks.
_GAPS = """
WITH c AS (
  SELECT symbol, open_time FROM candles
  WHERE open_time >= ? AND open_time < ? AND symbol IN (SELECT unnest(?::VARCHAR[]))
  UNION ALL
  SELECT symbol, max(open_time) FROM candles WHERE open_time < ? AND symbol IN (SELECT unnest(?::VARCHAR[]))
  GROUP BY symbol
), pairs AS (
  SELECT symbol, lag(open_time) OVER (PARTITION BY symbol ORDER BY open_time) AS before, open_time AS after FROM c
)
SELECT symbol, before + INTERVAL 1 MINUTE AS start, after AS "end" FROM pairs
WHERE after - before > INTERVAL 1 MINUTE ORDER BY symbol, start
"""
_OUTAGES = "SELECT symbol, first_minute, last_minute FROM outages WHERE last_minute >= ? ORDER BY symbol, first_minute"
_UNREAD = """
SELECT c.symbol, c.open_time + INTERVAL 1 MINUTE AS as_of FROM candles c
ANTI JOIN (SELECT symbol, as_of FROM theory_features WHERE as_of > ?) f
  ON f.symbol = c.symbol AND f.as_of = c.open_time + INTERVAL 1 MINUTE
WHERE c.open_time >= ? AND c.open_time < ? AND c.symbol IN (SELECT unnest(?::VARCHAR[])) ORDER BY c.symbol, as_of
"""


@dataclass(frozen=True, order=True)
class Span:
    """Minutes of one symbol, start ≤ t < end."""

    symbol: str
    start: datetime
    end: datetime

    @property
    def minutes(self) -> int:
        return (self.end - self.start) // MINUTE


@dataclass(frozen=True)
class Missing:
    """Minutes (open_time) without a candle that the market was not asked for in vain, and instants without a reading
    although their candle is there.
    """

    candles: tuple[Span, ...] = ()
    readings: tuple[Span, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.candles or self.readings)


def missing(store: Store, settings: Settings, now: datetime) -> Missing:
    """What is missing of the last V7_REPAIR_DAYS, but for the newest minutes, which the scans themselves ask again.

    At most what one run is to mend, oldest first.
    """
    settled = (now - timedelta(minutes=settings.refetch_minutes) - _SETTLING).replace(second=0, microsecond=0)
    first = datetime(settings.first_day.year, settings.first_day.month, settings.first_day.day, tzinfo=now.tzinfo)
    floor = max(settled - timedelta(days=settings.repair_days), first)
    symbols = list(settings.symbols)
    with store.reading() as reader:
        gaps = reader.rows(_GAPS, (floor, now, symbols, floor, symbols))
        outages = reader.rows(_OUTAGES, (floor,))
        unread = reader.rows(_UNREAD, (floor, floor, settled, symbols))
    spans = [Span(row["symbol"], max(row["start"], floor), min(row["end"], settled)) for row in gaps]
    known_empty = [Span(row["symbol"], row["first_minute"], row["last_minute"] + MINUTE) for row in outages]
    wanted = [part for span in spans if span.start < span.end for part in _without(span, known_empty)]
    holes = _runs((row["symbol"], row["as_of"]) for row in unread)
    return Missing(_bounded(wanted), tuple(_joined(holes, _NEAR)))


def repair(ctx: ScanContext, what: Missing) -> dict[str, Any]:
    """Ask the market once for the missing candles, and read again what depends on those that came.

    Minutes that the market has no candle of are remembered as outages and told, the short ones apart. Readings that a
    new candle reaches go in the transaction that brings it, so that a killed repair leaves holes, which are found
    again, and never a reading of other candles. Nothing is decided. Returns notes: asked, came, empty (minutes),
    failures by symbol, readings (rows), outages and days (of both tables) touched.
    """
    ctx = replace(ctx, source="demo" if ctx.is_demo else "backfill")
    failures: dict[str, str] = {}
    came, empty = 0, 0
    holes = list(what.readings)
    told: list[Span] = []
    days: set[datetime] = set()
    for asked in _rounds(what.candles):
        result = fetch_range(ctx, {symbol: (spans[0].start, spans[-1].end) for symbol, spans in asked.items()})
        failures |= result.notes["failures"]
        answered = {symbol: spans for symbol, spans in asked.items() if symbol not in result.notes["failures"]}
        frame = _exactly(result, answered)
        arrived = _runs(
            (symbol, at.to_pydatetime()) for symbol, at in zip(frame["symbol"], frame["open_time"], strict=True)
        )
        absent = [part for spans in answered.values() for span in spans for part in _without(span, arrived)]
        stale = [Span(s.symbol, s.start + MINUTE, min(s.end + HISTORY, ctx.as_of + MINUTE)) for s in arrived]
        _write(ctx, frame, absent, stale)
        holes += stale
        told += absent
        came += len(frame)
        empty += sum(span.minutes for span in absent)
        days |= {_day(span.start) for span in arrived}
    readings = _read_again(ctx, holes)
    return {
        "asked": sum(span.minutes for span in what.candles),
        "came": came,
        "empty": empty,
        "failures": failures,
        "readings": readings,
        "outages": [span for span in told if span.end - span.start >= QUIET],
        "candle_days": sorted(days),
        "reading_days": sorted({_day(day) for span in holes for day in _days(span)}),
    }


def _exactly(result: StepResult, asked: Mapping[str, Sequence[Span]]) -> pd.DataFrame:
    """The received candles of the minutes that were missing; others were asked only because they lie between."""
    if not result.writes:
        return pd.DataFrame({"symbol": [], "open_time": pd.Series([], dtype="datetime64[us, UTC]")})
    frame = result.frame("candles")
    wanted = pd.Series(False, index=frame.index)
    for spans in asked.values():
        for span in spans:
            inside = (frame["open_time"] >= span.start) & (frame["open_time"] < span.end)
            wanted |= inside & (frame["symbol"] == span.symbol)
    return frame[wanted].sort_values(["symbol", "open_time"], ignore_index=True)


def _write(ctx: ScanContext, frame: pd.DataFrame, absent: Sequence[Span], stale: Sequence[Span]) -> None:
    """Candles in, what they make stale out, what is not to be had remembered and told: together or not at all."""
    with ctx.store.transaction() as tx:
        if len(frame):
            tx.upsert("candles", frame)
        for span in stale:
            tx.execute(
                "DELETE FROM theory_features WHERE symbol = ? AND as_of >= ? AND as_of < ?",
                (span.symbol, span.start, span.end),
            )
        if absent:
            asked_at = ctx.wall_clock()
            tx.insert_new("outages", ctx.marked_rows("outages", [_outage(span, asked_at) for span in absent]))
        long = [span for span in absent if span.end - span.start >= QUIET]
        if long:
            tx.insert_new("alerts", ctx.marked_rows("alerts", outbox([_alert(long, ctx)], **_said(ctx))))


def _said(ctx: ScanContext) -> dict[str, Any]:
    return {"demo": ctx.is_demo}


def _outage(span: Span, asked_at: datetime) -> dict[str, Any]:
    return {
        "symbol": span.symbol,
        "first_minute": span.start,
        "last_minute": span.end - MINUTE,
        "minutes": span.minutes,
        "asked_at": asked_at,
    }


def _alert(spans: Sequence[Span], ctx: ScanContext) -> dict[str, Any]:
    first = min(spans)
    names = ", ".join(sorted({span.symbol for span in spans}))
    lines = [f"{s.symbol}: {s.minutes} min from {time_text(s.start)} to {time_text(s.end)}" for s in sorted(spans)]
    return {
        "alert_id": f"outage:{first.symbol}:{first.start:%Y%m%dT%H%M%SZ}:{len(spans)}",
        "created_at": ctx.wall_clock(),
        "kind": "outage",
        "severity": "warning",
        "title": f"The market has no candles for a gap of {names}",
        "body": "\n".join(lines) + "\nIt was asked and had none; it is not asked again. "
        "Theories abstain where too little of their window is observed.",
    }


def _read_again(ctx: ScanContext, holes: Sequence[Span]) -> int:
    """Readings of the holes from the candles that are there now; how many rows."""
    rows = 0
    for span in _joined(sorted(holes), _NEAR):
        given = known(ctx.store, (span.symbol,), span.start, span.end, source=ctx.learnt_from)
        frame = computed(given, span.start, settings=ctx.settings)
        frame = frame[(frame["as_of"] >= span.start) & (frame["as_of"] < span.end)]
        if len(frame):
            with ctx.store.transaction() as tx:
                tx.replace_slice(
                    "theory_features",
                    ctx.marked("theory_features", frame),
                    start=span.start,
                    end=span.end,
                    symbols=(span.symbol,),
                )
        rows += len(frame)
    return rows


def _rounds(spans: Sequence[Span]) -> Iterable[dict[str, list[Span]]]:
    """Spans to ask for at once: one group a symbol, and in a group what fits on a page, or one long span."""
    groups: dict[str, list[list[Span]]] = {}
    for span in sorted(spans):
        mine = groups.setdefault(span.symbol, [])
        if mine and span.end - mine[-1][0].start <= _PAGE:
            mine[-1].append(span)
        else:
            mine.append([span])
    for place in range(max(map(len, groups.values()), default=0)):
        yield {symbol: mine[place] for symbol, mine in groups.items() if place < len(mine)}


def _without(span: Span, others: Iterable[Span]) -> list[Span]:
    """`span` less the minutes of `others` (of the same symbol)."""
    parts, start = [], span.start
    for other in sorted(other for other in others if other.symbol == span.symbol):
        if other.end <= start or other.start >= span.end:
            continue
        if other.start > start:
            parts.append(Span(span.symbol, start, other.start))
        start = max(start, other.end)
    if start < span.end:
        parts.append(Span(span.symbol, start, span.end))
    return parts


def _runs(minutes: Iterable[tuple[str, datetime]]) -> list[Span]:
    """Single minutes, in order, as spans."""
    return _joined([Span(symbol, at, at + MINUTE) for symbol, at in minutes], timedelta(0))


def _joined(spans: Iterable[Span], near: timedelta) -> list[Span]:
    """Spans in order, those of one symbol no further apart than `near` made one."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last is not None and last.symbol == span.symbol and span.start - last.end <= near:
            joined[-1] = Span(span.symbol, last.start, max(last.end, span.end))
        else:
            joined.append(span)
    return joined


def _bounded(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The oldest spans, AT_MOST minutes of them; the last one cut."""
    taken, left = [], AT_MOST
    for span in sorted(spans, key=lambda s: (s.start, s.symbol)):
        if left <= 0:
            break
        end = min(span.end, span.start + left * MINUTE)
        taken.append(Span(span.symbol, span.start, end))
        left -= taken[-1].minutes
    return tuple(sorted(taken))


def _day(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)


def _days(span: Span) -> Iterable[datetime]:
    day = _day(span.start)
    while day < span.end:
        yield day
        day += timedelta(days=1)
