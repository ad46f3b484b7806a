"""What closed outcomes teach as of a scan: win rates, the confidence threshold, the calibration of the confidence.

Only gathers what was known at the instant and hands it to learning/; the follow step writes what comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.analyst.regimes import regime_at
from v7_pipeline.learning.calibration import Calibration, calibration, calibration_rows
from v7_pipeline.learning.threshold import LearntThreshold, break_even_rate, learnt_threshold
from v7_pipeline.learning.win_rate import win_rates
from v7_pipeline.scan.context import ScanContext, Write
from v7_pipeline.settings import Settings
from v7_pipeline.trades import fee_preset
from v7_pipeline.trades.frames import directions
from v7_pipeline.trades.pnl import loss_at_stop

__all__ = [
    "REGIME", "about_signals", "break_even", "calibrations_at", "closed_outcomes", "held_outcomes", "learnt",
    "of_confidence", "scopes_of", "taught_by", "threshold_at", "threshold_history", "win_rates_at",
]  # fmt: skip

STRATEGY = "v7"  # whose theories, win rates and calibration these are, where no other is named
_BASE = (
    "signal_id", "kind", "as_of", "symbol", "strategy", "side", "entry_time", "exit_time", "entry_price", "outcome",
    "fee_preset", "slippage", "source",
)  # fmt: skip
#: The likeliest state of the market at the reading `f`, as SQL; sideways where none is likelier than it.
REGIME = """CASE WHEN f.p_bull IS NULL THEN NULL WHEN f.p_bull > greatest(f.p_sideways, f.p_bear) THEN 'bull'
            WHEN f.p_bear > greatest(f.p_sideways, f.p_bull) THEN 'bear' ELSE 'sideways' END"""
_ABOUT = f"""s.side AS decision, s.confidence, s.analyst, s.call_id, s.stop_price, s.target_price, g.tier,
       {REGIME} AS regime"""
_WITH_READING = """JOIN gated_signals g USING (signal_id)
LEFT JOIN theory_features f ON f.symbol = s.symbol AND f.as_of = s.features_as_of"""
_CLOSED = f"""
SELECT {", ".join(f"o.{name}" for name in _BASE)}, {_ABOUT}
FROM outcomes o JOIN llm_signals s USING (signal_id) {_WITH_READING}
WHERE o.source = ? AND o.outcome <> 'open' AND o.exit_time + INTERVAL 1 MINUTE <= ?
  AND (s.side <> 'HOLD' OR o.kind = 'manual')
ORDER BY o.exit_time, o.signal_id, o.kind
"""
_ABOUT_THESE = f"""
SELECT s.signal_id, {_ABOUT} FROM llm_signals s {_WITH_READING} WHERE s.signal_id IN (SELECT unnest(?::VARCHAR[]))
"""
# Counterfactuals of HOLD come six a scan and are only looked at: a week of them is enough, and bounded.
_HELD = """
SELECT 'shadow' AS kind, 'HOLD' AS decision, o.entry_time, o.exit_time, o.outcome
FROM outcomes o JOIN llm_signals s USING (signal_id)
WHERE o.source = ? AND o.outcome IN ('win', 'loss') AND o.exit_time + INTERVAL 1 MINUTE <= ?
  AND o.exit_time > ?::TIMESTAMPTZ - INTERVAL 7 DAY AND s.side = 'HOLD' AND o.kind = 'shadow'
ORDER BY o.exit_time, o.signal_id, o.side
"""
_THRESHOLDS = """
SELECT as_of, threshold, floor, previous, reason, n, n_eff, p_below, break_even FROM confidence_thresholds
WHERE strategy = ? AND source = ? AND as_of < ? ORDER BY as_of DESC LIMIT ?
"""
_TAUGHT_HERE = "SELECT count(*) AS n FROM confidence_thresholds WHERE strategy = ? AND source = ? AND as_of = ?"
_CALIBRATED = (
    "SELECT max(as_of) FILTER (as_of < ?) AS before, bool_or(as_of = ?) AS here FROM calibrations WHERE source = ?"
)
_JUDGED = ("paper", "shadow")


def taught_by(known: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """Those of `closed_outcomes` that a strategy learns from: its own; v7 knows what was traded by hand as well."""
    own = known["strategy"] == strategy
    by_hand = known["kind"] == "manual"
    chosen = own | by_hand if strategy == STRATEGY else own & ~by_hand
    return known if chosen.all() else known[chosen].reset_index(drop=True)


def scopes_of(scopes: pd.Series, strategy: str) -> pd.Series:
    """Which scopes of win_rates are a strategy's: of others than v7 `strategy:NAME` alone, of v7 all the rest."""
    others = scopes.str.startswith("strategy:") & (scopes != f"strategy:{STRATEGY}")
    return ~others if strategy == STRATEGY else scopes == f"strategy:{strategy}"


def learnt(ctx: ScanContext, reader: Any, known: pd.DataFrame, strategy: str = "v7") -> list[Write]:
    """What is to be written where `known` (a strategy's `closed_outcomes`) has grown since the scan before.

    win_rates; confidence_thresholds where it begins or changes; of v7 calibrations, and what HOLD forwent (hold:all),
    with the first that closes in an hour.
    """
    first = strategy == STRATEGY and _first_of_the_hour(ctx, reader)
    held = held_outcomes(reader, source=ctx.source, as_of=ctx.as_of) if first else None
    rates = win_rates_at(known, ctx.settings, ctx.as_of, held=held, strategy=strategy)
    writes = [Write("win_rates", ctx.marked_rows("win_rates", rates), "upsert")] if len(rates) else []
    return [*writes, *of_confidence(ctx, reader, known, strategy)]


def of_confidence(ctx: ScanContext, reader: Any, known: pd.DataFrame, strategy: str = "v7") -> list[Write]:
    """What `known` (as `closed_outcomes` or `about_signals` give it) says of the confidence: threshold and calibration.

    Rows of earlier scans are left as they are, though an outcome be labelled again: they are what the gates heeded.
    """
    writes = []
    thresholds = [
        _row(strategy, ctx.as_of, found)
        for strategy, found in _thresholds(ctx, reader, known)
        if found.changed or reader.rows(_TAUGHT_HERE, (strategy, ctx.source, ctx.as_of))[0]["n"]
    ]
    if thresholds:
        writes.append(Write("confidence_thresholds", ctx.marked_rows("confidence_thresholds", thresholds), "upsert"))
    if strategy == STRATEGY and _first_of_the_hour(ctx, reader):
        rows = calibration_rows(calibrations_at(reader, known, ctx.settings, ctx.as_of), ctx.as_of)
        writes.append(Write("calibrations", ctx.marked_rows("calibrations", rows), "upsert"))
    return writes


def closed_outcomes(reader: Any, *, source: str, as_of: datetime, also: pd.DataFrame | None = None) -> pd.DataFrame:
    """The outcomes of `source` closed by `as_of`, with `also` (rows not stored yet) in place of their stored ones.

    One of `also` that is open again replaces its stored row by none.

    outcomes columns, and of the signal: decision, confidence, analyst, call_id, stop_price, target_price, tier, regime
    (bull, sideways, bear at the reading it was decided on; missing without one). In one order, so that sums come out
    alike whenever they are made. What HOLD forwent is not among them (`held_outcomes`).
    """
    stored = reader.query(_CLOSED, (source, as_of))
    if also is None or also.empty:
        return stored
    new = about_signals(reader, also.assign(source=source)[list(_BASE)])
    new = new[(new["decision"] != "HOLD") | (new["kind"] == "manual")]
    if len(stored):
        stored = stored[~_keys(stored).isin(_keys(new))]
    new = new[new["outcome"] != "open"]
    if new.empty:
        return stored
    if len(stored):
        new = pd.concat([stored, new], ignore_index=True)
    return new.sort_values(["exit_time", "signal_id", "kind"], ignore_index=True)


def about_signals(reader: Any, outcomes: pd.DataFrame) -> pd.DataFrame:
    """`outcomes` with what `closed_outcomes` tells of their signals; columns that it has already are replaced."""
    about = reader.query(_ABOUT_THESE, (outcomes["signal_id"].unique().tolist(),))
    bare = outcomes.drop(columns=[name for name in about.columns if name in outcomes and name != "signal_id"])
    return bare.merge(about, on="signal_id")


def held_outcomes(reader: Any, *, source: str, as_of: datetime) -> pd.DataFrame:
    """Wins and losses of the last seven days' HOLD counterfactuals that closed by `as_of`, both sides.

    kind (shadow), decision (HOLD), entry_time, exit_time, outcome.
    """
    return reader.query(_HELD, (source, as_of, as_of))


def win_rates_at(
    known: pd.DataFrame,
    settings: Settings,
    as_of: datetime,
    *,
    held: pd.DataFrame | None = None,
    strategy: str = "v7",
) -> pd.DataFrame:
    """The win_rates rows of `as_of` from `closed_outcomes` and `held_outcomes`, by the settings' prior and discount.

    Of `known` those count that the strategy is taught by. All scopes are v7's; another strategy has its own one only,
    which is shrunk towards nothing.
    """
    known = taught_by(known, strategy)
    everything = known if held is None or held.empty else pd.concat([known, held], ignore_index=True)
    rates = win_rates(
        everything,
        as_of=as_of,
        prior_alpha=settings.prior_alpha,
        prior_beta=settings.prior_beta,
        half_life_trades=settings.win_rate_half_life,
    )
    if strategy == STRATEGY:
        return rates
    rates = rates[scopes_of(rates["scope"], strategy)].reset_index(drop=True)
    return rates.assign(shrunk_mean=np.nan, shrunk_lower=np.nan, shrunk_upper=np.nan, parent_scope=None)


def calibrations_at(reader: Any, known: pd.DataFrame, settings: Settings, as_of: datetime) -> list[Calibration]:
    """Calibration of v7's signals of `closed_outcomes`: of all, by analyst, and by regime of the model if known."""
    judged = known[known["kind"].isin(_JUDGED) & (known["strategy"] == STRATEGY)]
    called = judged["call_id"].dropna().unique().tolist()
    models = regime_at(reader, called) if called else {}
    judged = judged.assign(model=judged["call_id"].map(models))

    def one(scope: str, rows: pd.DataFrame) -> Calibration:
        return calibration(rows, as_of=as_of, min_effective_n=settings.min_effective_n, scope=scope)

    found = [one("all", judged)]
    for column in ("analyst", "model"):
        found += [one(f"{column}:{value}", rows) for value, rows in judged.groupby(column, sort=True)]
    return found


def threshold_at(reader: Any, *, strategy: str, source: str, as_of: datetime) -> float | None:
    """The threshold that outcomes had taught before `as_of`, or None: nothing yet.

    What this very instant teaches is for the next scan: it is known only after the gates have spoken.
    """
    rows = reader.rows(_THRESHOLDS, (strategy, source, as_of, 1))
    return rows[0]["threshold"] if rows else None


def threshold_history(
    reader: Any, *, strategy: str, source: str, as_of: datetime, most: int = 10
) -> list[dict[str, Any]]:
    """The newest changes of the threshold before `as_of`, newest first, with their reasons."""
    found: list[dict[str, Any]] = reader.rows(_THRESHOLDS, (strategy, source, as_of, most))
    return found


def _keys(outcomes: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(outcomes[["signal_id", "kind"]])


def _thresholds(ctx: ScanContext, reader: Any, known: pd.DataFrame) -> Iterator[tuple[str, LearntThreshold]]:
    """Each strategy's next threshold."""
    judged = known[known["kind"].isin(_JUDGED) & known["confidence"].notna()]
    judged = judged.assign(break_even=break_even(judged, ctx.settings.slippage))
    for strategy, rows in judged.groupby("strategy", sort=True):
        found = learnt_threshold(
            rows,
            as_of=ctx.as_of,
            floor=ctx.settings.min_confidence,
            previous=threshold_at(reader, strategy=str(strategy), source=ctx.source, as_of=ctx.as_of),
            min_effective_n=ctx.settings.min_effective_n,
            prior_alpha=ctx.settings.prior_alpha,
            prior_beta=ctx.settings.prior_beta,
        )
        yield str(strategy), found


def break_even(signals: pd.DataFrame, default: float) -> np.ndarray[Any, Any]:
    """Each plan's break-even win rate, net of its outcome's fees and of slippage at the stop, from the filled entry.

    `default` is the slippage of rows that do not tell theirs: those of schema 4.
    """
    rate = signals["fee_preset"].map(lambda name: fee_preset(name).rate_per_side).to_numpy(dtype=float)
    entry, stop, target = (
        signals[name].to_numpy(dtype=float) for name in ("entry_price", "stop_price", "target_price")
    )
    direction, slippage = directions(signals["side"]), signals["slippage"].astype(float).fillna(default).to_numpy()
    risk = loss_at_stop(direction, entry, stop, fee_rate=rate, slippage=slippage)
    return break_even_rate(direction * (target - entry) - rate * (entry + target), risk)


def _row(strategy: str, as_of: datetime, found: LearntThreshold) -> dict[str, Any]:
    return {
        "strategy": strategy, "as_of": as_of, "threshold": found.threshold, "floor": found.floor,
        "previous": found.previous, "reason": found.reason, "n": found.n, "n_eff": found.n_eff,
        "p_below": found.p_below, "break_even": found.break_even,
    }  # fmt: skip


def _first_of_the_hour(ctx: ScanContext, reader: Any) -> bool:
    """Whether no scan of this hour has calibrated yet, or this very one has: done again, it does the same."""
    row = reader.rows(_CALIBRATED, (ctx.as_of, ctx.as_of, ctx.source))[0]
    if row["here"] or row["before"] is None:
        return True
    return bool(row["before"] < ctx.as_of.replace(minute=0, second=0, microsecond=0))
