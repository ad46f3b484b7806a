"""How late candles came and how long decisions took in live scans, and the settings that give a backtest the same.

Only what the store's live rows say; how a simulation heeds it is engine.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from v7_pipeline.backtest.replay import BacktestError
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store

__all__ = ["LEAST", "LivePace", "as_live", "live_pace", "pace_notes"]

#: Live decisions below which a median says little: an hour of three symbols.
LEAST = 90
_PACE = """
SELECT count(*) AS n,
       median(epoch(decided_at) - epoch(as_of)) AS latency_s,
       quantile_cont(epoch(decided_at) - epoch(as_of), 0.95) AS slow_s,
       median((epoch(as_of) - epoch(features_as_of)) / 60) AS lag_min,
       avg(CASE WHEN features_as_of < as_of THEN 1.0 ELSE 0.0 END) AS late
FROM llm_signals
WHERE source = ? AND strategy = 'v7' AND status = 'answered' AND features_as_of IS NOT NULL
  AND symbol IN (SELECT unnest(?::VARCHAR[]))
"""


@dataclass(frozen=True)
class LivePace:
    """Of `n` answered live decisions: median and 95 % quantile of seconds from the scan's instant to the decision.

    `lag_min`: median age of the reading in minutes; `late`: share of readings that were not of the newest minute.
    """

    n: int
    latency_s: float
    slow_s: float
    lag_min: float
    late: float

    @property
    def sentence(self) -> str:
        return (
            f"of {self.n} answered live decisions the median came {self.latency_s:.1f} s after its scan's instant, "
            f"95 % within {self.slow_s:.1f} s; the median reading was {self.lag_min:.0f} min old, {self.late:.0%} of "
            "them not of the newest minute"
        )


def live_pace(source: Store, own: str, symbols: Sequence[str]) -> LivePace | None:
    """What the live rows (source `own`: live or demo) of the store say; None where there is no answered decision."""
    row = source.rows(_PACE, (own, list(symbols)))[0]
    if not row["n"]:
        return None
    return LivePace(n=int(row["n"]), **{name: float(row[name]) for name in ("latency_s", "slow_s", "lag_min", "late")})


def as_live(settings: Settings, source: Store) -> tuple[Settings, LivePace]:
    """The settings with the lag and latency of the store's live scans; BacktestError where too few were made.

    The median reading's age, in whole minutes, is the lag: half of the scans saw their candles sooner.
    """
    pace = live_pace(source, settings.source, settings.symbols)
    if pace is None or pace.n < LEAST:
        raise BacktestError(
            f"{source!r} holds {pace.n if pace else 0} answered live decisions, and {LEAST} are needed to measure how "
            "late they came; let it run for an hour, or set V7_BACKTEST_LAG_MIN and V7_BACKTEST_LATENCY_S"
        )
    # Rounded, so that a measurement of the same pace is the same configuration.
    changed = {"backtest_lag_min": ceil(pace.lag_min), "backtest_latency_s": round(max(pace.latency_s, 0.0), 1)}
    return settings.model_copy(update=changed), pace


def pace_notes(settings: Settings) -> tuple[str, ...]:
    """What the page says of the lag and latency that were simulated; nothing where there was neither."""
    lag, latency = settings.backtest_lag_min, settings.backtest_latency_s
    if not lag and not latency:
        return ()
    return (
        f"Candles are seen {lag} min after they close, and decisions come {latency:g} s after their scan's instant "
        "(V7_BACKTEST_LAG_MIN, V7_BACKTEST_LATENCY_S).",
    )
