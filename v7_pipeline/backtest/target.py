"""What a store of `replay()` holds, as the material of a report: the same shapes that a fast engine hands over.

Reading only; every figure is figures.py's.
"""

from __future__ import annotations

from datetime import timedelta

import pandas as pd

from v7_pipeline.backtest.comparison import Baseline, RandomEntry, Simulation, Trials
from v7_pipeline.backtest.figures import Material
from v7_pipeline.backtest.replay import EVERY, MINUTE
from v7_pipeline.backtest.report import _refuse
from v7_pipeline.settings import Settings
from v7_pipeline.store import Reader, Store
from v7_pipeline.store.schema import PROVENANCE, THEORY_NAMES

__all__ = ["material"]

_MARKS = [column.name for column in PROVENANCE]
_READINGS = ", ".join(f"{theory}_{part}" for theory in THEORY_NAMES for part in ("vote", "score"))
_OUTCOMES = """
SELECT o.* FROM outcomes o JOIN llm_signals s USING (signal_id) WHERE s.side IN ('BUY', 'SELL')
ORDER BY o.as_of, o.signal_id, o.kind
"""
# Only readings that a BUY or SELL used: nobody asks for the others.
_READ = f"""
SELECT symbol, as_of, p_bear, p_sideways, p_bull, {_READINGS} FROM theory_features f
WHERE EXISTS (FROM llm_signals s WHERE s.side IN ('BUY', 'SELL') AND s.symbol = f.symbol AND s.features_as_of = f.as_of)
ORDER BY symbol, as_of
"""
_CANDLES = """
SELECT symbol, open_time, open, high, low, close FROM candles WHERE open_time >= ? AND open_time < ?
ORDER BY symbol, open_time
"""
_ATTRIBUTION = """
SELECT * FROM theory_attribution WHERE scope = 'all' AND as_of = (SELECT max(as_of) FROM theory_attribution)
"""


def material(
    target: Store,
    settings: Settings,
    *,
    name: str = "v7",
    baselines: tuple[Baseline, ...] = (),
    random_entry: RandomEntry | None = None,
    trials: Trials | None = None,
    command: str = "",
) -> Material:
    """The backtest that `target` holds; `settings` are those it was made with, `name` the strategy's.

    Raises BacktestError for a store without a backtest, or settings with other fees; ValueError where sources, runs
    or fee presets are mixed.
    """
    with target.reading() as reader:
        scans = reader.query("SELECT * FROM scans ORDER BY as_of")
        outcomes = reader.query(_OUTCOMES)
        _refuse(target, scans, outcomes, settings)
        first, last = (scans["as_of"].iloc[place].to_pydatetime() for place in (0, -1))
        gaps = scans["as_of"].diff().dropna()
        return Material(
            run_id=str(scans["run_id"].iloc[0]),
            code_version=", ".join(sorted(set(scans["code_version"]))),
            simulation=Simulation(
                name=name,
                settings=settings,
                instants=pd.DatetimeIndex(scans["as_of"]),
                signals=_table(reader, "llm_signals"),
                gated=_table(reader, "gated_signals"),
                outcomes=outcomes.drop(columns=_MARKS),
                win_rates=_table(reader, "win_rates"),
                thresholds=_table(reader, "confidence_thresholds"),
            ),
            candles=reader.query(_CANDLES, (first - timedelta(days=1), last + MINUTE)),
            venues=tuple(reader.query("SELECT DISTINCT venue FROM candles ORDER BY venue")["venue"]),
            every=gaps.min().to_pytimedelta() if len(gaps) else EVERY,
            readings=reader.query(_READ),
            attribution=reader.query(_ATTRIBUTION),
            baselines=baselines,
            random_entry=random_entry,
            trials=trials,
            command=command,
        )


def _table(reader: Reader, name: str) -> pd.DataFrame:
    """A table's rows in the order of time, without provenance."""
    return reader.query(f"SELECT * EXCLUDE ({', '.join(_MARKS)}) FROM {name} ORDER BY as_of")
