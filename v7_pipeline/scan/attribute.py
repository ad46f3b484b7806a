"""Step 7: attribution of closed outcomes to theories: once an hour, where a trade has closed since the last time.

The statistics are learning/'s; this step gathers what was closed before the scan's instant and ends the scan.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from v7_pipeline.analyst.base import mode_of
from v7_pipeline.learning.attribution import attribution
from v7_pipeline.learning.game import Combiner
from v7_pipeline.learning.weights import weights_frame
from v7_pipeline.scan.context import ScanContext, StepResult, Write
from v7_pipeline.store.schema import THEORY_NAMES

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from v7_pipeline.settings import Settings
    from v7_pipeline.store import Store

__all__ = ["attribute", "combiner_of", "learnt_weights"]

# The regime is the state of the market that was likeliest at the signal.
_REGIME = """CASE greatest(f.p_bear, f.p_sideways, f.p_bull)
           WHEN f.p_bear THEN 'bear' WHEN f.p_bull THEN 'bull' WHEN f.p_sideways THEN 'sideways' END AS regime"""
_SAID = "p.signal_id, p.kind, p.theory_name, p.symbol, p.as_of, p.vote, p.contribution_score, p.source"
_TRADED = f"""
SELECT {_SAID}, p.forward_return, o.side, o.entry_time, o.exit_time, o.gross_return, o.fees, o.net_return,
       o.r_multiple, o.outcome, NULL::DOUBLE AS long_r, NULL::DOUBLE AS short_r, {_REGIME}
FROM theory_performance p JOIN outcomes o USING (signal_id, kind)
JOIN llm_signals s USING (signal_id)
LEFT JOIN theory_features f ON f.symbol = s.symbol AND f.as_of = s.features_as_of
WHERE s.side <> 'HOLD' AND o.source = ? AND o.exit_time + INTERVAL 1 MINUTE <= ?
"""
# Neighbouring HOLDs share nearly all of what came after them: one each half hour tells what sixteen would.
_HELD = f"""
SELECT {_SAID},
       CASE WHEN b.net_return > 0 AND NOT c.net_return > 0 THEN b.net_return
            WHEN c.net_return > 0 AND NOT b.net_return > 0 THEN -c.net_return ELSE 0 END AS forward_return,
       'HOLD' AS side, b.entry_time, greatest(b.exit_time, c.exit_time) AS exit_time, NULL::DOUBLE AS gross_return,
       NULL::DOUBLE AS fees, NULL::DOUBLE AS net_return, NULL::DOUBLE AS r_multiple, NULL::VARCHAR AS outcome,
       b.r_multiple AS long_r, c.r_multiple AS short_r, {_REGIME}
FROM theory_performance p
JOIN outcomes b ON b.signal_id = p.signal_id AND b.kind = p.kind AND b.side = 'BUY' AND b.outcome <> 'open'
JOIN outcomes c ON c.signal_id = p.signal_id AND c.kind = p.kind AND c.side = 'SELL' AND c.outcome <> 'open'
JOIN llm_signals s ON s.signal_id = p.signal_id
LEFT JOIN theory_features f ON f.symbol = s.symbol AND f.as_of = s.features_as_of
WHERE s.side = 'HOLD' AND date_part('minute', s.as_of) % 30 = 0 AND p.source = ?
  AND greatest(b.exit_time, c.exit_time) + INTERVAL 1 MINUTE <= ?
"""
_PERFORMANCE = f"{_TRADED} UNION ALL BY NAME {_HELD} ORDER BY as_of, signal_id, theory_name"
_PROPOSED = """
SELECT theory_name, weight FROM theory_weights
WHERE source = ? AND as_of = (SELECT max(as_of) FROM theory_weights WHERE source = ? AND as_of < ?)
"""
# What a HOLD left out closes all the time and is nobody's trade.
_NEWEST_CLOSED = """
SELECT max(exit_time) AS newest, count(*) AS n FROM outcomes o JOIN gated_signals g USING (signal_id)
WHERE g.side <> 'HOLD' AND o.source = ? AND exit_time + INTERVAL 1 MINUTE <= ?
"""
_COUNTS = """
SELECT count(*) AS signals, count(*) FILTER (g.accepted) AS accepted,
       (SELECT count(*) FROM candles
        WHERE run_id = ? AND open_time > ?::TIMESTAMPTZ - INTERVAL 3 DAY) AS candles_written,
       (SELECT count(*) FROM outcomes o JOIN gated_signals h USING (signal_id)
        WHERE o.run_id = ? AND o.outcome <> 'open' AND h.side <> 'HOLD') AS closed,
       (SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) FROM llm_calls c WHERE c.as_of = ?) AS cost_usd
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) WHERE s.as_of = ?
"""
_LAST = "SELECT max(as_of) AS last FROM theory_attribution WHERE source = ? AND as_of <= ?"


def attribute(ctx: ScanContext) -> StepResult:
    """New attribution rows and proposed weights where there is news, and the scan's row marked finished."""
    with ctx.store.reading() as reader:
        last = reader.rows(_LAST, (ctx.source, ctx.as_of))[0]["last"]
        newest = reader.rows(_NEWEST_CLOSED, (ctx.source, ctx.as_of))[0]
        news = _is_due(ctx.as_of, last, newest["newest"])
        performance = reader.query(_PERFORMANCE, (ctx.source, ctx.as_of) * 2) if news else pd.DataFrame()
        scan_row = _finished(ctx, reader)
    table = pd.DataFrame()
    writes: list[Write] = []
    if len(performance):
        least = ctx.settings.min_effective_n
        found = attribution(performance, as_of=ctx.as_of, min_effective_n=least, combiner=combiner_of(ctx.settings))
        table = found.rows
        writes.append(Write("theory_attribution", ctx.marked("theory_attribution", table), "upsert"))
        weights = weights_frame(found.evidence, as_of=pd.Timestamp(ctx.as_of), min_effective_n=least)
        weights["acting"] = ctx.settings.rules_weights_learnt and not ctx.settings.rules_weights
        writes.append(Write("theory_weights", ctx.marked("theory_weights", weights), "upsert"))
    if scan_row is not None:
        writes.append(Write("scans", scan_row, "upsert"))
    as_of = ctx.as_of if len(table) else last
    return StepResult(tuple(writes), {"as_of": as_of, "closed": int(newest["n"])})


def combiner_of(settings: Settings) -> Combiner:
    """The rules' combiner as the settings have it: the mode's thresholds, and weights that were set by hand."""
    mode = mode_of(settings.aggressive)
    weights = tuple(settings.rules_weights.get(theory, 1.0) for theory in THEORY_NAMES)
    return Combiner(mode.min_strength, mode.min_agreeing, weights if any(weights) else None)


def learnt_weights(store: Store, source: str, before: datetime) -> dict[str, float] | None:
    """The newest weights proposed before the instant, by theory; None where nothing has been proposed."""
    rows = store.query(_PROPOSED, (source, source, before))
    return dict(zip(rows["theory_name"], rows["weight"].astype(float), strict=True)) if len(rows) else None


def _is_due(as_of: datetime, last: datetime | None, newest: datetime | None) -> bool:
    """Whether a trade has closed (exit candle `newest`) since the `last` attribution, and that was in an earlier hour.

    The work grows with all that has closed, verdicts do not change by the minute: one an hour is enough, and bounded.
    """
    if newest is None or last is None:
        return newest is not None
    return newest + timedelta(minutes=1) > last and last < as_of.replace(minute=0, second=0, microsecond=0)


def _finished(ctx: ScanContext, reader: Any) -> pa.Table | None:
    """The scan's row with its counts, or None where it was finished before: a scan done twice changes nothing."""
    found = reader.rows("SELECT * EXCLUDE (source, run_id, code_version) FROM scans WHERE as_of = ?", (ctx.as_of,))
    if not found or found[0]["status"] == "finished":
        return None
    counts = reader.rows(_COUNTS, (ctx.run_id, ctx.as_of, ctx.run_id, ctx.as_of, ctx.as_of))[0]
    row = {**found[0], **counts, "finished_at": ctx.clock(), "status": "finished"}
    return ctx.marked_rows("scans", [row])
