"""Step 6: follow what is open over the new candles; what closes updates win rates and theory performance at once.

Barriers, fees and posteriors are trades/ and learning/; this step only brings their inputs together as of the scan.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pandas as pd

from v7_pipeline.alerts.outbox import alerts_for_scan
from v7_pipeline.learning.performance import theory_performance
from v7_pipeline.scan.context import ScanContext, StepResult, Write
from v7_pipeline.scan.learn import learnt
from v7_pipeline.store.schema import TABLES
from v7_pipeline.trades import can_be_followed, follow

__all__ = ["follow_signals"]

NO_SIGNALS = pd.DataFrame(
    columns=list(dict.fromkeys((*TABLES["llm_signals"].column_names, *TABLES["gated_signals"].column_names)))
)
# What a later scan has already followed further is not touched: a scan done again changes nothing.
_OPEN = """
SELECT s.signal_id, CASE WHEN g.accepted THEN 'paper' ELSE 'shadow' END AS kind, s.as_of, s.features_as_of, s.symbol,
       s.strategy, s.side, s.entry_price, s.stop_price, s.target_price, s.horizon_minutes,
       CASE WHEN g.accepted THEN g.quantity END AS quantity, g.tier, g.gates_off
FROM llm_signals s JOIN gated_signals g USING (signal_id) LEFT JOIN outcomes o USING (signal_id)
WHERE s.side IN ('BUY', 'SELL') AND s.source = ? AND s.as_of <= ? AND (o.signal_id IS NULL OR (o.outcome = 'open' AND
      (o.followed_until IS NULL OR o.followed_until < ?)))
ORDER BY s.as_of, s.symbol
"""


def follow_signals(ctx: ScanContext) -> StepResult:
    """Outcomes of open signals as of the scan, with win_rates, theory_performance and alerts of those that closed."""
    with ctx.store.reading() as reader:
        signals = reader.query(_OPEN, (ctx.source, ctx.as_of, ctx.as_of))
        signals = signals[can_be_followed(signals)] if len(signals) else signals
        if signals.empty:
            return StepResult(notes={"followed": 0, "closed_rows": pd.DataFrame()})
        candles = reader.read(
            "candles",
            start=signals["as_of"].min().to_pydatetime(),
            end=ctx.as_of,
            symbols=tuple(signals["symbol"].unique()),
            columns=("symbol", "open_time", "open", "high", "low", "close"),
        )
        outcomes = follow(
            signals,
            candles,
            as_of=ctx.as_of,
            fee_preset=ctx.settings.fees,
            slippage=ctx.settings.slippage,
            breakeven_band_r=ctx.settings.breakeven_band_r,
        )
        outcomes = outcomes.assign(source=ctx.source, labelled_at=_labelled_at(ctx))
        closed = outcomes[outcomes["outcome"] != "open"].merge(
            signals[["signal_id", "tier", "gates_off", "features_as_of"]], on="signal_id"
        )
        writes = [Write("outcomes", ctx.marked_rows("outcomes", outcomes), "upsert")]
        if len(closed):
            writes += _learnt(ctx, reader, closed)
    return StepResult(tuple(writes), {"followed": len(outcomes), "closed_rows": closed})


def _learnt(ctx: ScanContext, reader: Any, closed: pd.DataFrame) -> list[Write]:
    performance = theory_performance(closed, _readings_of(reader, closed))
    writes = [
        *learnt(ctx, reader, closed),
        Write("theory_performance", ctx.marked_rows("theory_performance", performance), "upsert"),
    ]
    if not ctx.is_late:
        alerts = alerts_for_scan(NO_SIGNALS, closed, {}, as_of=ctx.as_of, **ctx.alert_marks)
        if len(alerts):
            writes.append(Write("alerts", ctx.marked_rows("alerts", alerts), "new"))
    return writes


def _readings_of(reader: Any, closed: pd.DataFrame) -> pd.DataFrame:
    """The theory_features row that each closed signal was decided on, with its signal_id."""
    features = reader.read(
        "theory_features",
        start=closed["features_as_of"].min().to_pydatetime(),
        end=closed["features_as_of"].max().to_pydatetime() + pd.Timedelta(minutes=1),
        symbols=tuple(closed["symbol"].unique()),
    )
    wanted = closed[["signal_id", "symbol", "features_as_of"]].rename(columns={"features_as_of": "as_of"})
    return wanted.merge(features, on=["symbol", "as_of"])


def _labelled_at(ctx: ScanContext) -> datetime:
    """The clock that candles are received by: it tells which of them came after a row was made."""
    return ctx.clock() if ctx.source == "backtest" else ctx.wall_clock()
