"""The fast checks of every scan: counts are conserved, symbols answered, provenance is not mixed, values in range.

Each looks at its scan's instant only and reads the store once. A check that cannot look raises: a crash is not
"bad data".
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from v7_pipeline.orchestration.partitions import AS_OF_TAG, parse_as_of
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["CHECKS", "Check", "build_checks", "run_checks"]


@dataclass(frozen=True)
class Check:
    """A question to the store: `sql` (one `?`: the instant) gives one row whose `bad` counts what is wrong."""

    name: str
    asset: str
    meaning: str
    sql: str
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


_RANGES = " + ".join(
    f"count(*) FILTER (NOT ({theory}_vote BETWEEN -1 AND 1 AND {theory}_score BETWEEN 0 AND 1))"
    for theory in THEORY_NAMES
)

# Readings of a day below which a score may stand still by chance.
_ENOUGH_READINGS = 60
# Silence is no defect: a score of 0 stands still for days while its percentile stays in the middle. The tenth moves
# only when a trade closes. Where the market stands still, so may all.
_STANDS_STILL = " + ".join(
    f"CAST(max({theory}_score) = min({theory}_score) AND (max({theory}_score) > 0 OR max({theory}_percentile) > 0.9 "
    f"OR min({theory}_percentile) < 0.1)"
    f"{' AND max(win_rate_n) > min(win_rate_n)' if theory == 'bayesian_win_rate' else ''} AS INT)"
    for theory in THEORY_NAMES
)

CHECKS: tuple[Check, ...] = (
    Check(
        "every_symbol_answered",
        "candles",
        "Each symbol of the scan could be fetched.",
        "SELECT coalesce(sum(CASE WHEN failures = '{}' THEN 0 ELSE 1 END), 1) AS bad, any_value(failures) AS detail "
        "FROM scans WHERE as_of = ?",
    ),
    Check(
        "ohlc_consistent",
        "candles",
        "low ≤ open, close ≤ high; prices positive; nothing after the instant, in the hour before it.",
        "SELECT count(*) FILTER (NOT (low <= least(open, close) AND high >= greatest(open, close) AND low > 0 "
        "AND volume >= 0)) AS bad FROM candles WHERE open_time >= ?::TIMESTAMPTZ - INTERVAL 1 HOUR",
    ),
    Check(
        "votes_and_scores_in_range",
        "theory_features",
        "Votes lie in [−1, 1] and scores in [0, 1], in the hour before the instant.",
        f"SELECT {_RANGES} AS bad FROM theory_features WHERE as_of >= ?::TIMESTAMPTZ - INTERVAL 1 HOUR",
    ),
    Check(
        "scores_vary",
        "theory_features",
        f"No theory's score stood still over a symbol's {_ENOUGH_READINGS} or more readings of the last day in which "
        "its volatility moved, but at 0 while its percentile never left the middle.",
        f"SELECT coalesce(sum(still), 0) AS bad, string_agg(symbol, ', ') FILTER (still > 0) AS detail FROM "
        f"(SELECT symbol, {_STANDS_STILL} AS still FROM theory_features WHERE as_of >= ?::TIMESTAMPTZ - INTERVAL 1 DAY "
        f"GROUP BY symbol HAVING count(*) >= {_ENOUGH_READINGS} AND max(volatility_240) > min(volatility_240))",
    ),
    Check(
        "one_decision_for_each_symbol",
        "llm_signals",
        "Scans × symbols = rows of llm_signals.",
        "SELECT coalesce(abs(len(string_split(any_value(s.symbols), ',')) - count(l.signal_id)), 1) AS bad "
        "FROM scans s LEFT JOIN llm_signals l USING (as_of) WHERE s.as_of = ?",
    ),
    Check(
        "every_answer_has_its_call",
        "llm_signals",
        "Each answer that names a call has that call settled in the ledger.",
        "SELECT count(*) AS bad FROM llm_signals l WHERE l.as_of = ? AND l.status = 'answered' "
        "AND l.call_id IS NOT NULL "
        # unknown is settled at the worst case: an answer without usage is an answer
        "AND NOT EXISTS (SELECT 1 FROM llm_calls c WHERE c.call_id = l.call_id AND c.raw_reply IS NOT NULL "
        "AND c.status IN ('settled', 'unknown'))",
    ),
    Check(
        "every_decision_was_gated",
        "gated_signals",
        "Rows of llm_signals = rows of gated_signals.",
        "SELECT count(*) AS bad FROM llm_signals l ANTI JOIN gated_signals g USING (signal_id) WHERE l.as_of = ?",
    ),
    Check(
        "accepted_passed_every_gate",
        "gated_signals",
        "No accepted signal has a failed gate that is not switched off, a missing quantity, or is a HOLD.",
        "SELECT count(*) AS bad FROM gated_signals WHERE as_of = ? AND accepted AND (reason_codes <> '' "
        "OR quantity IS NULL OR side NOT IN ('BUY', 'SELL'))",
    ),
    Check(
        "closed_outcomes_are_net",
        "outcomes",
        "Every closed outcome has an exit, a net return and ten theory rows.",
        "WITH since AS (SELECT ?::TIMESTAMPTZ - INTERVAL 1 DAY AS day), told AS (SELECT signal_id, count(*) AS n "
        "FROM theory_performance WHERE as_of > (FROM since) GROUP BY signal_id), held AS (SELECT signal_id, count(*) "
        "FILTER (outcome <> 'open') AS closed FROM outcomes WHERE as_of > (FROM since) AND kind <> 'manual' "
        "GROUP BY signal_id) SELECT count(*) AS bad FROM outcomes o JOIN held h USING (signal_id) "
        "LEFT JOIN gated_signals g USING (signal_id) LEFT JOIN told t USING (signal_id) "
        "WHERE o.as_of > (FROM since) AND o.outcome <> 'open' AND (o.net_return IS NULL OR o.exit_time IS NULL OR "
        # of a HOLD the theories are judged once both of its sides have closed
        "(o.kind <> 'manual' AND coalesce(t.n, 0) <> CASE WHEN g.side = 'HOLD' AND h.closed < 2 THEN 0 ELSE 10 END))",
    ),
)


def run_checks(runtime: Runtime, as_of: datetime, names: frozenset[str]) -> Iterator[tuple[Check, int, dict[str, Any]]]:
    """(check, how many are wrong, the row) for each check in `names`, read over one connection."""
    with runtime.store.reading() as reader:
        for check in CHECKS:
            if check.name in names:
                row = reader.query(check.sql, (as_of,)).iloc[0].to_dict()
                bad = row.pop("bad")
                yield check, int(bad) if bad == bad else 0, row


def build_checks(runtime: Runtime) -> dg.AssetChecksDefinition:
    """All fast checks as one op, so that a scan pays for one step only."""
    specs = [dg.AssetCheckSpec(check.name, asset=check.asset, description=check.meaning) for check in CHECKS]

    @dg.multi_asset_check(specs=specs, can_subset=True, name="scan_checks")
    def scan_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        run = context.instance.get_run_by_id(context.run.run_id) or context.run
        if AS_OF_TAG not in run.tags:
            if context.job_def.asset_layer.selected_asset_keys:
                context.log.info("whole days were filled and nothing was scanned: there is no scan to look at")
                return
            raise dg.Failure("these checks look at one scan; run them with a scan, or give the run the tag v7/as_of")
        chosen = frozenset(key.name for key in context.selected_asset_check_keys)
        for check, bad, row in run_checks(runtime, parse_as_of(run.tags[AS_OF_TAG]), chosen):
            yield dg.AssetCheckResult(
                passed=bad == 0,
                check_name=check.name,
                asset_key=dg.AssetKey(check.asset),
                severity=check.severity,
                metadata={
                    "wrong": bad,
                    "as_of": run.tags[AS_OF_TAG],
                    **{name: str(value) for name, value in row.items()},
                },
            )

    return scan_checks
