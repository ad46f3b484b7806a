"""Step 7: attribution of closed outcomes to theories: once an hour, where a trade has closed since the last time.

The statistics are learning/'s; this step gathers what was closed before the scan's instant and ends the scan.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from v7_pipeline.analyst.base import ASKED_AGAIN, mode_of
from v7_pipeline.learning.attribution import attribution
from v7_pipeline.learning.game import Combiner
from v7_pipeline.learning.weights import weights_frame
from v7_pipeline.scan.context import ScanContext, StepResult, Write
from v7_pipeline.scan.learn import REGIME
from v7_pipeline.store.schema import THEORY_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from v7_pipeline.settings import Settings
    from v7_pipeline.store import Store

__all__ = ["attribute", "combiner_of", "learnt_weights"]

_SAID = "p.signal_id, p.kind, p.theory_name, p.symbol, p.as_of, p.vote, p.contribution_score, p.source"
_TRADED = f"""
SELECT {_SAID}, p.forward_return, o.side, o.entry_time, o.exit_time, o.gross_return, o.fees, o.net_return,
       o.r_multiple, o.outcome, NULL::DOUBLE AS long_r, NULL::DOUBLE AS short_r, {REGIME} AS regime
FROM theory_performance p JOIN outcomes o USING (signal_id, kind)
JOIN llm_signals s USING (signal_id)
LEFT JOIN theory_features f ON f.symbol = s.symbol AND f.as_of = s.features_as_of
WHERE s.side <> 'HOLD' AND o.source = ? AND o.exit_time + INTERVAL 1 MINUTE <= ?
"""
# Neighbouring HOLDs share nearly all of what came after them: the first of each half hour tells what fifteen would.
_HELD = f"""
SELECT {_SAID},
       CASE WHEN b.net_return > 0 AND NOT c.net_return > 0 THEN b.net_return
            WHEN c.net_return > 0 AND NOT b.net_return > 0 THEN -c.net_return ELSE 0 END AS forward_return,
       'HOLD' AS side, b.entry_time, greatest(b.exit_time, c.exit_time) AS exit_time, NULL::DOUBLE AS gross_return,
       NULL::DOUBLE AS fees, NULL::DOUBLE AS net_return, NULL::DOUBLE AS r_multiple, NULL::VARCHAR AS outcome,
       b.r_multiple AS long_r, c.r_multiple AS short_r, {REGIME} AS regime
FROM theory_performance p
JOIN outcomes b ON b.signal_id = p.signal_id AND b.kind = p.kind AND b.side = 'BUY' AND b.outcome <> 'open'
JOIN outcomes c ON c.signal_id = p.signal_id AND c.kind = p.kind AND c.side = 'SELL' AND c.outcome <> 'open'
JOIN llm_signals s ON s.signal_id = p.signal_id
LEFT JOIN theory_features f ON f.symbol = s.symbol AND f.as_of = s.features_as_of
WHERE p.signal_id IN (
    SELECT min_by(signal_id, as_of) FROM llm_signals WHERE side = 'HOLD' AND source = ? AND status = 'answered'
    GROUP BY symbol, strategy, time_bucket(INTERVAL 30 MINUTE, as_of)
) AND greatest(b.exit_time, c.exit_time) + INTERVAL 1 MINUTE <= ?
"""
_PERFORMANCE = f"{_TRADED} UNION ALL BY NAME {_HELD} ORDER BY as_of, signal_id, theory_name"
_PROPOSED = """
SELECT theory_name, weight FROM theory_weights
WHERE source = ? AND as_of = (SELECT max(as_of) FROM theory_weights WHERE source = ? AND as_of < ?)
"""
# What a HOLD left out closes all the time and is nobody's trade; other strategies have no theories.
_CLOSED = """
SELECT count(*) AS n, bool_or(exit_time + INTERVAL 1 MINUTE > ? OR labelled_at > ?) AS news
FROM outcomes o JOIN gated_signals g USING (signal_id)
WHERE g.strategy = 'v7' AND g.side <> 'HOLD' AND o.kind <> 'manual' AND o.source = ?
  AND exit_time + INTERVAL 1 MINUTE <= ?
"""
# What an analyst was asked again, to learn what its answers rest on, is no cost of the scan.
_COUNTS = f"""
SELECT count(*) AS signals, count(*) FILTER (g.accepted) AS accepted,
       (SELECT count(*) FROM candles
        WHERE run_id = ? AND open_time > ?::TIMESTAMPTZ - INTERVAL 3 DAY) AS candles_written,
       (SELECT count(*) FROM outcomes o JOIN gated_signals h USING (signal_id)
        WHERE o.run_id = ? AND o.outcome <> 'open' AND h.side <> 'HOLD') AS closed,
       (SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) FROM llm_calls c
        WHERE c.as_of = ? AND NOT regexp_matches(c.analyst, '{ASKED_AGAIN}')) AS cost_usd
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) WHERE s.as_of = ?
"""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
# What the last one knew was labelled until the end of its scan.
_LAST = """
SELECT a.last, coalesce(s.finished_at, a.last) AS knew
FROM (SELECT max(as_of) AS last FROM theory_attribution WHERE source = ? AND as_of <= ?) a
LEFT JOIN scans s ON s.as_of = a.last
"""


def attribute(ctx: ScanContext) -> StepResult:
    """New attribution rows and proposed weights where there is news, and the scan's row marked finished.

    News is a trade that closed, or was labelled again, since the last attribution, if that was in an earlier hour: the
    work grows with all that has closed, verdicts do not change by the minute.
    """
    with ctx.store.reading() as reader:
        before = reader.rows(_LAST, (ctx.source, ctx.as_of))[0]
        last = before["last"]
        since, knew = last or _BEGINNING, before["knew"] or _BEGINNING
        if ctx.is_late:
            knew = ctx.wall_clock()  # what a scan of the past labels is labelled for the first time
        closed = reader.rows(_CLOSED, (since, knew, ctx.source, ctx.as_of))[0]
        news = closed["news"] and since < ctx.as_of.replace(minute=0, second=0, microsecond=0)
        performance = reader.query(_PERFORMANCE, (ctx.source, ctx.as_of) * 2) if news else pd.DataFrame()
        scan_row = _finished(ctx, reader)
    table = pd.DataFrame()
    writes: list[Write] = []
    if len(performance):
        least = ctx.settings.min_effective_n
        combiner = combiner_of(ctx.settings, _acting(ctx))
        found = attribution(performance, as_of=ctx.as_of, min_effective_n=least, combiner=combiner)
        table = found.rows
        writes.append(Write("theory_attribution", ctx.marked("theory_attribution", table), "upsert"))
        weights = weights_frame(found.evidence, as_of=pd.Timestamp(ctx.as_of), min_effective_n=least)
        weights["acting"] = _learnt_act(ctx)
        writes.append(Write("theory_weights", ctx.marked("theory_weights", weights), "upsert"))
    if scan_row is not None:
        writes.append(Write("scans", scan_row, "upsert"))
    as_of = ctx.as_of if len(table) else last
    return StepResult(tuple(writes), {"as_of": as_of, "closed": int(closed["n"])})


def combiner_of(settings: Settings, learnt: Mapping[str, float] | None = None) -> Combiner:
    """The rules' combiner as it stands: the mode's thresholds, and weights set by hand, else `learnt` ones that act."""
    mode = mode_of(settings.aggressive)
    given = settings.rules_weights or learnt or {}
    weights = tuple(given.get(theory, 1.0) for theory in THEORY_NAMES)
    return Combiner(mode.min_strength, mode.min_agreeing, weights if any(weights) else None)


def _learnt_act(ctx: ScanContext) -> bool:
    """Whether a proposal may act: where the setting says so, none is set by hand, and scans are not replayed."""
    return ctx.settings.rules_weights_learnt and not ctx.settings.rules_weights and ctx.source != "backtest"


def _acting(ctx: ScanContext) -> dict[str, float] | None:
    """The learnt weights that the rules had in this scan."""
    return learnt_weights(ctx.store, ctx.source, ctx.as_of) if _learnt_act(ctx) else None


def learnt_weights(store: Store, source: str, before: datetime) -> dict[str, float] | None:
    """The newest weights proposed before the instant, by theory; None where nothing has been proposed."""
    rows = store.query(_PROPOSED, (source, source, before))
    return dict(zip(rows["theory_name"], rows["weight"].astype(float), strict=True)) if len(rows) else None


def _finished(ctx: ScanContext, reader: Any) -> pa.Table | None:
    """The scan's row with its counts, or None where it was finished before: a scan done twice changes nothing."""
    found = reader.rows("SELECT * EXCLUDE (source, run_id, code_version) FROM scans WHERE as_of = ?", (ctx.as_of,))
    if not found or found[0]["status"] == "finished":
        return None
    counts = reader.rows(_COUNTS, (ctx.run_id, ctx.as_of, ctx.run_id, ctx.as_of, ctx.as_of))[0]
    row = {**found[0], **counts, "finished_at": ctx.clock(), "status": "finished"}
    return ctx.marked_rows("scans", [row])
