"""Step 6: follow what is open over the new candles; what closes updates win rates and theory performance at once.

Barriers, fees and posteriors are trades/ and learning/; this step only brings their inputs together as of the scan.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.alerts.outbox import alerts_for_scan
from v7_pipeline.learning.performance import HOLD_COLUMNS, hold_performance, theory_performance
from v7_pipeline.scan.arrivals import Arrivals, arrivals, over_by, touched
from v7_pipeline.scan.context import ScanContext, StepResult, Write
from v7_pipeline.scan.holds import holds_again, open_holds
from v7_pipeline.scan.learn import STRATEGY, closed_outcomes, learnt, of_confidence, scopes_of, taught_by, win_rates_at
from v7_pipeline.scan.manual import changed_since, manual_outcomes
from v7_pipeline.store.schema import TABLES, THEORY_NAMES
from v7_pipeline.trades import OUTCOME_COLUMNS, can_be_followed, follow

__all__ = ["follow_signals"]

_MINUTE = timedelta(minutes=1)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_FEW = 200  # rows; more are shaped as a frame
NO_SIGNALS = pd.DataFrame(
    columns=list(dict.fromkeys((*TABLES["llm_signals"].column_names, *TABLES["gated_signals"].column_names)))
)
_SIGNALS = """
SELECT s.signal_id, CASE WHEN g.accepted THEN 'paper' ELSE 'shadow' END AS kind, s.as_of, s.features_as_of, s.symbol,
       s.strategy, s.side, s.entry_price, s.stop_price, s.target_price, s.horizon_minutes,
       CASE WHEN g.accepted THEN g.quantity END AS quantity, s.side AS decision, g.tier, g.gates_off
FROM llm_signals s JOIN gated_signals g USING (signal_id)
"""
# What a later scan has already followed further is not touched: a scan done again changes nothing.
_OPEN = f"""
{_SIGNALS} LEFT JOIN outcomes o ON o.signal_id = s.signal_id AND o.kind <> 'manual'
WHERE s.side IN ('BUY', 'SELL') AND s.source = ? AND s.as_of <= ? AND (o.signal_id IS NULL OR (o.outcome = 'open' AND
      (o.followed_until IS NULL OR o.followed_until < ?)))
ORDER BY s.as_of, s.symbol
"""
_AGAIN = f"""
{_SIGNALS} WHERE s.side IN ('BUY', 'SELL') AND s.signal_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY s.as_of, s.symbol
"""
_STORED = f"""
SELECT {", ".join(HOLD_COLUMNS)} FROM outcomes
WHERE kind = 'shadow' AND outcome <> 'open' AND as_of >= ? AND signal_id IN (SELECT unnest(?::VARCHAR[]))
"""
_PERFORMANCE = "SELECT * FROM theory_performance WHERE signal_id IN (SELECT unnest(?::VARCHAR[]))"
_VOICES = ", ".join(f"f.{theory}_{part}" for theory in THEORY_NAMES for part in ("vote", "score"))
_READINGS = f"""
SELECT w.signal_id, {_VOICES}
FROM (SELECT unnest(?::VARCHAR[]) AS signal_id, unnest(?::VARCHAR[]) AS symbol, unnest(?::TIMESTAMPTZ[]) AS as_of) w
JOIN theory_features f ON f.symbol = w.symbol AND f.as_of = w.as_of WHERE f.as_of BETWEEN ? AND ?
"""
_RECORDED = """
SELECT signal_id, max(recorded_at) AS at FROM manual_trades WHERE signal_id IN (SELECT unnest(?::VARCHAR[]))
GROUP BY signal_id
"""
# An exit closes, an edit or a voiding changes what was closed: from the trade's first exit on, what was known is other.
_BY_HAND = """
SELECT count(*) AS n, min(first) FILTER (action IN ('edit', 'void')) AS first
FROM (SELECT action, recorded_at, min(recorded_at) FILTER (action = 'exit') OVER (PARTITION BY signal_id) AS first
      FROM manual_trades WHERE source = ?)
WHERE action <> 'entry' AND recorded_at > ? AND recorded_at <= ?
"""
_INSTANTS = """
SELECT as_of FROM scans WHERE source = ? AND status = 'finished' AND as_of < ?
UNION SELECT as_of FROM win_rates WHERE source = ? AND as_of < ?
      AND (scope = 'strategy:v7' OR NOT starts_with(scope, 'strategy:')) ORDER BY as_of
"""
# What HOLD forwent is looked at once an hour and is not taken back.
_RATES = "SELECT * FROM win_rates WHERE source = ? AND as_of >= ? AND as_of < ? AND scope <> 'hold:all'"


def follow_signals(ctx: ScanContext) -> StepResult:
    """Outcomes as of the scan, with win_rates, theory_performance and alerts of those that closed.

    Followed are open BUYs and SELLs, both sides of HOLDs (written only once closed), and again what a candle touches
    that came since it was labelled: its win rates are then rewritten from the scan on in which it closed.
    """
    with ctx.store.reading() as reader:
        came = arrivals(ctx, reader)
        by_hand = reader.rows(_BY_HAND, (ctx.source, came.scan or _BEGINNING, ctx.as_of))[0]
        again = touched(ctx, reader, came)
        signals, holds = _signals(ctx, reader, again), _holds(ctx, reader, came, again)
        manual = _manual(ctx, reader, again)
        if signals.empty and holds.empty and not by_hand["n"]:
            writes = [_write(ctx, "outcomes", manual)] if len(manual) else []
            return StepResult(tuple(writes), _notes(0, pd.DataFrame(), 0, 0))
        candles = _candles(ctx, reader, signals, holds) if len(signals) or len(holds) else pd.DataFrame()
        followed, sides = (
            _followed(ctx, trades, candles, again) if len(trades) else NOTHING for trades in (signals, holds)
        )
        writes = _written(ctx, reader, followed, sides)
        writes += [_write(ctx, "outcomes", manual)] if len(manual) else []
        writes += [*_performance(ctx, reader, followed, sides), *_learnt(ctx, reader, followed, manual, came, by_hand)]
    closed = followed[followed["outcome"] != "open"]
    news = closed[~closed["again"]].reset_index(drop=True)
    if len(news) and not ctx.is_late:
        alerts = alerts_for_scan(NO_SIGNALS, news, {}, as_of=ctx.as_of, **ctx.alert_marks)
        if len(alerts):
            writes.append(Write("alerts", ctx.marked_rows("alerts", alerts), "new"))
    ended = sides[(sides["outcome"] != "open") & ~sides["again"]]
    return StepResult(tuple(writes), _notes(len(signals) + len(holds), news, len(ended), len(again)))


_KEPT = [*OUTCOME_COLUMNS, "labelled_at"]
_ABOUT = ["decision", "tier", "gates_off", "features_as_of", "horizon_minutes"]
NOTHING = pd.DataFrame(columns=[*_KEPT, "source", *_ABOUT, "again", "exit_before"]).astype({"again": bool})


def _notes(followed: int, closed: pd.DataFrame, holds: int, again: int) -> dict[str, Any]:
    return {"followed": followed, "closed_rows": closed, "holds_closed": holds, "relabelled": again}


def _signals(ctx: ScanContext, reader: Any, again: pd.DataFrame) -> pd.DataFrame:
    """Open BUYs and SELLs, and those to be followed again."""
    parts = [reader.query(_OPEN, (ctx.source, ctx.as_of, ctx.as_of))]
    if len(again):
        parts.append(reader.query(_AGAIN, (again["signal_id"].unique().tolist(),)))
    parts = [part for part in parts if len(part)] or parts[:1]
    trades = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return trades[can_be_followed(trades)] if len(trades) else trades


def _holds(ctx: ScanContext, reader: Any, came: Arrivals, again: pd.DataFrame) -> pd.DataFrame:
    """Open sides of HOLDs, and those to be followed again."""
    parts = [open_holds(ctx, reader, over_by(ctx, reader, came))]
    if len(again):
        parts.append(holds_again(ctx, reader, again))
    trades = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return trades.assign(decision="HOLD", tier=None, gates_off="")


def _candles(ctx: ScanContext, reader: Any, *trades: pd.DataFrame) -> pd.DataFrame:
    """The candles from the oldest signal on."""
    found: pd.DataFrame = reader.read(
        "candles",
        start=min(part["as_of"].min() for part in trades if len(part)).to_pydatetime(),
        end=ctx.as_of,
        symbols=tuple({symbol for part in trades if len(part) for symbol in part["symbol"]}),
        columns=("symbol", "open_time", "open", "high", "low", "close"),
    )
    return found


def _followed(ctx: ScanContext, trades: pd.DataFrame, candles: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """The outcomes of `trades` with what else is known of them; of HOLDs only the closed ones and those followed again.

    `again` says which were closed before, `exit_before` when.
    """
    hold = trades["decision"].iloc[0] == "HOLD"
    outcomes = follow(
        trades,
        candles,
        as_of=ctx.as_of,
        fee_preset=ctx.settings.fees,
        slippage=ctx.settings.slippage,
        breakeven_band_r=ctx.settings.breakeven_band_r,
        only_closed=hold and again.empty,
    )
    outcomes["labelled_at"], outcomes["source"] = _labelled_at(ctx), ctx.source
    for name in _ABOUT:
        outcomes[name] = trades[name].array.take(outcomes.index)
    if again.empty:
        return outcomes.assign(again=False, exit_before=pd.NaT)
    before = again.rename(columns={"exit_time": "exit_before"}).assign(again=True)
    outcomes = outcomes.merge(before, on=["signal_id", "kind", "side"], how="left")
    outcomes["again"] = outcomes["again"].eq(True)
    return outcomes[(outcomes["outcome"] != "open") | outcomes["again"]] if hold else outcomes


def _manual(ctx: ScanContext, reader: Any, again: pd.DataFrame) -> pd.DataFrame:
    """Outcomes of the trader's own trades that are open, that an event has changed, or that a candle touches."""
    chosen = changed_since(reader, ctx.source, ctx.as_of)
    chosen += [key for key in again.loc[again["kind"] == "manual", "signal_id"] if key not in chosen]
    if not chosen:
        return pd.DataFrame()
    return manual_outcomes(ctx.settings, reader, ctx.source, ctx.as_of, chosen).assign(labelled_at=_labelled_at(ctx))


def _written(ctx: ScanContext, reader: Any, followed: pd.DataFrame, sides: pd.DataFrame) -> list[Write]:
    """The outcomes; and what to take back where a revised candle left a closed trade open.

    Taken back are its theories' rows, and a HOLD's own row, which is written only once it has closed.
    """
    ended = sides[sides["outcome"] != "open"]
    writes = [_write(ctx, "outcomes", rows[_KEPT]) for rows in (followed, ended) if len(rows)]
    reopened = [rows[(rows["outcome"] == "open") & rows["again"]] for rows in (followed, sides)]
    names = [name for rows in reopened for name in rows["signal_id"]]
    if len(reopened[1]):
        writes.append(Write("outcomes", ctx.marked("outcomes", reopened[1][_KEPT]), "remove"))
    if names:
        rows = reader.query(_PERFORMANCE, (names,))
        writes.append(Write("theory_performance", ctx.marked("theory_performance", rows), "remove"))
    return writes


def _performance(ctx: ScanContext, reader: Any, followed: pd.DataFrame, sides: pd.DataFrame) -> list[Write]:
    """theory_performance of what closed; a HOLD's once both of its sides have."""
    closed, ended = (rows[rows["outcome"] != "open"] for rows in (followed, sides))
    parts: list[Any] = []
    closed = closed[closed["strategy"] == STRATEGY]  # the others look at no theory
    if len(closed):
        parts.append(theory_performance(closed, pd.DataFrame(_readings_of(reader, closed))))
    if len(ended):
        # Rows, not frames: a handful in every scan.
        names = ended["signal_id"].unique().tolist()
        now = set(zip(sides["signal_id"], sides["side"], strict=True))
        before = reader.rows(_STORED, (ended["as_of"].min().to_pydatetime(), names))
        both = [*(row for row in before if (row["signal_id"], row["side"]) not in now)]
        both += ended[list(HOLD_COLUMNS)].to_dict("records")
        count = Counter(row["signal_id"] for row in both)
        about = ended[ended["signal_id"].map(count).eq(2)]
        if len(about):
            parts.append(hold_performance(both, _readings_of(reader, about.drop_duplicates("signal_id"))))
    return [_write(ctx, "theory_performance", part) for part in parts if len(part)]


def _readings_of(reader: Any, closed: pd.DataFrame) -> list[dict[str, Any]]:
    """Votes and scores of the theory_features row that each closed signal was decided on, with its signal_id."""
    read = [stamp.to_pydatetime() for stamp in closed["features_as_of"]]
    wanted = (closed["signal_id"].tolist(), closed["symbol"].tolist(), read)
    found: list[dict[str, Any]] = reader.rows(_READINGS, (*wanted, min(read), max(read)))
    return found


# --- win rates ----------------------------------------------------------------------------------


def _learnt(
    ctx: ScanContext, reader: Any, followed: pd.DataFrame, manual: pd.DataFrame, came: Arrivals, by_hand: Any
) -> list[Write]:
    """What this scan teaches where a trade closed; win_rates of earlier scans where one should have closed there.

    A threshold that has acted stays a fact, whatever came of the outcomes behind it.
    """
    closed = followed[followed["outcome"] != "open"]
    if closed.empty and not followed["again"].any() and not by_hand["n"]:
        return []
    rows = [*followed.to_dict("records"), *manual.to_dict("records")]
    everything = closed_outcomes(reader, source=ctx.source, as_of=ctx.as_of, also=pd.DataFrame(rows))
    known = _known_at(reader, closed)
    writes: list[Write] = []
    # Each strategy learns from its own trades when one of them has closed; what was done by hand is v7's to know.
    for strategy in sorted({STRATEGY, *followed["strategy"]}, reverse=True):
        own, hand = taught_by(everything, strategy), by_hand if strategy == STRATEGY else {"n": 0, "first": None}
        its, again = known[closed["strategy"] == strategy], followed["again"] & (followed["strategy"] == strategy)
        if its.empty and not again.any() and not hand["n"]:
            continue
        if own.empty:
            pass
        elif came.scan is None or hand["n"] or (its > came.scan).any():
            writes += learnt(ctx, reader, own, strategy)
        else:
            writes += of_confidence(ctx, reader, own, strategy)
        if came.scan is not None:
            late = [*its[its <= came.scan], *(followed.loc[again, "exit_before"] + _MINUTE)]
            late += [hand["first"]] if hand["first"] is not None else []
            if late:
                writes += _rewritten(ctx, reader, own, min(late), strategy)
    return writes


def _rewritten(ctx: ScanContext, reader: Any, everything: pd.DataFrame, first: datetime, strategy: str) -> list[Write]:
    """A strategy's win_rates of the scans from `first` to before this one: rows where something closed, no others."""
    rows = reader.rows(_INSTANTS, (ctx.source, ctx.as_of, ctx.source, ctx.as_of))
    scans = pd.DatetimeIndex([row["as_of"] for row in rows])
    known = _known_at(reader, everything)
    frames, start = [], int(scans.searchsorted(first))
    for place in range(start, len(scans)):
        closed_by = known <= scans[place]
        if (closed_by & (known > scans[place - 1])).any() if place else closed_by.any():
            frames.append(
                win_rates_at(everything[closed_by], ctx.settings, scans[place].to_pydatetime(), strategy=strategy)
            )
    made = [_write(ctx, "win_rates", pd.concat(frames, ignore_index=True))] if frames else []
    stored = reader.query(_RATES, (ctx.source, first, ctx.as_of))
    stored = stored[scopes_of(stored["scope"], strategy)]
    keys = {key for frame in frames for key in zip(frame["as_of"], frame["scope"], strict=True)}
    gone = np.array([key not in keys for key in zip(stored["as_of"], stored["scope"], strict=True)], dtype=bool)
    return [Write("win_rates", ctx.marked("win_rates", stored[gone]), "remove"), *made]


def _known_at(reader: Any, closed: pd.DataFrame) -> pd.Series:
    """When each outcome could first be known: the end of its exit's candle; of one by hand when it was recorded."""
    known = closed["exit_time"] + _MINUTE
    by_hand = closed[closed["kind"] == "manual"]
    if len(by_hand):
        rows = reader.rows(_RECORDED, (by_hand["signal_id"].tolist(),))
        recorded = {row["signal_id"]: pd.Timestamp(row["at"]) for row in rows}
        known[by_hand.index] = by_hand["signal_id"].map(recorded).where(lambda at: at > known[by_hand.index], known)
    return known


# --- shared -------------------------------------------------------------------------------------


def _write(ctx: ScanContext, table: str, rows: pd.DataFrame | list[dict[str, Any]]) -> Write:
    """Rows to be upserted: the handful of a scan, or the many of a gap or a revision."""
    if len(rows) <= _FEW:
        return Write(table, ctx.marked_rows(table, rows), "upsert")
    return Write(table, ctx.marked(table, pd.DataFrame(rows)), "upsert")


def _labelled_at(ctx: ScanContext) -> datetime:
    """The clock that candles are received by: it tells which of them came after a row was made."""
    return ctx.clock() if ctx.source == "backtest" else ctx.wall_clock()
