"""The fast checks of every scan: counts are conserved, symbols answered, provenance is not mixed, values in range.

Each looks at its scan's instant, or a stated time before it, with one statement of SQL. A check that cannot look
raises: a crash is not "bad data".
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from v7_pipeline.gates.base import GATES
from v7_pipeline.orchestration.checks.base import WARN, Check, Finding, SqlCheck, result_of
from v7_pipeline.orchestration.partitions import AS_OF_TAG, daily, parse_as_of
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["CHECKS", "Check", "build_scan_checks", "run_checks"]

_DEFECT = "This is a defect of V7, not of the market: keep the store and open an issue with the run's id."

_RANGES = " + ".join(
    f"count(*) FILTER (NOT ({theory}_vote BETWEEN -1 AND 1 AND {theory}_score BETWEEN 0 AND 1))"
    for theory in THEORY_NAMES
)

# Readings of a day below which a score may stand still by chance.
_ENOUGH_READINGS = 60
# Silence is no defect: a score of 0 stands still for days while its percentile stays in the middle. The tenth moves
# only when a trade closes. Where the market stands still, so may all.
_SCORES_STILL = " + ".join(
    f"CAST(max({theory}_score) = min({theory}_score) AND (max({theory}_score) > 0 OR max({theory}_percentile) > 0.9 "
    f"OR min({theory}_percentile) < 0.1)"
    f"{' AND max(win_rate_n) > min(win_rate_n)' if theory == 'bayesian_win_rate' else ''} AS INT)"
    for theory in THEORY_NAMES
)
_A_GATE_FAILED = " OR ".join(f"({gate}_ok = false AND NOT list_contains(off, '{gate}'))" for gate in GATES)
#: Their checks stand before what depends on them. All of an asset's look then, or Dagster would call those failed that
#: could not look because another one blocked.
_STOPPING = ("candles", "theory_features")
_HOUR = "?::TIMESTAMPTZ - INTERVAL 1 HOUR"

CHECKS: tuple[SqlCheck, ...] = (
    SqlCheck(
        name="every_symbol_answered",
        asset="candles",
        severity=WARN,
        meaning="Each symbol of the scan could be fetched.",
        means="The market did not answer for the symbols in its metadata, or did not answer usably.",
        remedy="The next scan fetches what is missing. Where it lasts, look at Coinbase's status and your network.",
        sql="SELECT coalesce(sum(CASE WHEN failures = '{}' THEN 0 ELSE 1 END), 1) AS bad, any_value(failures) AS detail"
        " FROM scans WHERE as_of = ?",
    ),
    SqlCheck(
        name="ohlc_consistent",
        asset="candles",
        blocking=True,
        meaning="low ≤ open, close ≤ high; prices positive; volume not negative; in the hour before the instant.",
        means="A stored candle is impossible; it was changed after it was written, since the client refuses such ones.",
        remedy="No reading is made of it. Fetch its day again (`v7 backfill`), then re-execute the scan.",
        sql="SELECT count(*) FILTER (NOT (low <= least(open, close) AND high >= greatest(open, close) AND low > 0 "
        "AND volume >= 0)) AS bad, arg_min(symbol || ' ' || open_time, open_time) FILTER (NOT (low <= least(open, "
        "close) AND high >= greatest(open, close) AND low > 0 AND volume >= 0)) AS first FROM candles "
        f"WHERE open_time >= {_HOUR}",
    ),
    SqlCheck(
        name="candles_are_closed_minutes",
        asset="candles",
        blocking=True,
        meaning="Every candle lies on a whole minute, was received after its minute had ended, and is there once; from "
        "the hour before the instant on, the future included.",
        means="A candle is of no minute, of a minute that was not over, or there twice.",
        remedy="No reading is made of it. Look at the machine's clock; then fetch its day again (`v7 backfill`).",
        sql="SELECT count(*) FILTER (date_trunc('minute', open_time) <> open_time "
        "OR open_time + INTERVAL 1 MINUTE > fetched_at) + count(*) - count(DISTINCT (symbol, open_time)) AS bad, "
        "max(open_time) AS newest FROM candles "
        f"WHERE open_time >= {_HOUR}",
    ),
    SqlCheck(
        name="newest_candle_is_fresh",
        asset="candles",
        severity=WARN,
        meaning="Each symbol's newest candle ended at most V7_MAX_PRICE_AGE_S before the instant.",
        means="A product is not traded, or its candles do not come; no signal is accepted for it meanwhile.",
        remedy="Nothing, where it recovers by itself. Otherwise look at `every_symbol_answered` and the venue.",
        sql="WITH this AS (SELECT ?::TIMESTAMPTZ AS t), s AS (SELECT unnest(string_split(symbols, ',')) AS symbol "
        "FROM scans WHERE as_of = (SELECT t FROM this)), c AS (SELECT symbol, max(open_time) AS newest FROM candles "
        "WHERE open_time < (SELECT t FROM this) AND open_time >= (SELECT t FROM this) - INTERVAL 3 DAY "
        "GROUP BY symbol), "
        "a AS (SELECT symbol, epoch((SELECT t FROM this) - newest) - 60 AS age FROM s LEFT JOIN c USING (symbol)) "
        "SELECT count(*) FILTER (age IS NULL OR age > ?) AS bad, max(age) AS oldest_s, "
        "string_agg(symbol || ' ' || coalesce(CAST(age AS INT) || ' s', 'none'), ', ' ORDER BY symbol) AS ages FROM a",
        given=lambda settings: (settings.max_price_age_s,),
    ),
    SqlCheck(
        name="votes_and_scores_in_range",
        asset="theory_features",
        blocking=True,
        meaning="Votes lie in [−1, 1] and scores in [0, 1], in the hour before the instant.",
        means="A theory computed nonsense, or its row was changed.",
        remedy=f"Nothing is decided on it. {_DEFECT}",
        sql=f"SELECT {_RANGES} AS bad FROM theory_features WHERE as_of >= {_HOUR}",
    ),
    SqlCheck(
        name="scores_vary",
        asset="theory_features",
        meaning=f"No theory's score stood still over a symbol's {_ENOUGH_READINGS} or more readings of the last day in "
        "which its volatility moved, but at 0 while its percentile never left the middle.",
        means="A theory is switched off by an error, or is fed the same numbers again and again.",
        remedy=_DEFECT,
        sql=f"SELECT coalesce(sum(still), 0) AS bad, string_agg(symbol, ', ') FILTER (still > 0) AS detail FROM "
        f"(SELECT symbol, {_SCORES_STILL} AS still FROM theory_features WHERE as_of >= ?::TIMESTAMPTZ - INTERVAL 1 DAY "
        f"GROUP BY symbol HAVING count(*) >= {_ENOUGH_READINGS} AND max(volatility_240) > min(volatility_240))",
    ),
    SqlCheck(
        name="one_decision_for_each_symbol",
        asset="llm_signals",
        meaning="Scans × symbols × strategies = rows of llm_signals.",
        means="A symbol has no decision, not even the reason why there is none.",
        remedy=f"Do the scan again: `v7 scan --as-of …` with its instant. {_DEFECT}",
        sql="WITH this AS (SELECT * FROM scans WHERE as_of = ?) SELECT coalesce(sum(abs(symbols - decided)), 1) AS bad "
        "FROM (SELECT any_value(len(string_split(s.symbols, ','))) AS symbols, count(l.signal_id) AS decided FROM this "
        "s CROSS JOIN (SELECT unnest(?::VARCHAR[]) AS strategy) w LEFT JOIN llm_signals l ON l.as_of = s.as_of AND "
        "l.strategy = w.strategy GROUP BY w.strategy)",
        given=lambda settings: (list(settings.strategies_decided),),
    ),
    SqlCheck(
        name="every_answer_has_its_call",
        asset="llm_signals",
        meaning="Each answer that names a call has that call settled in the ledger.",
        means="An answer was used that the ledger has not paid for: the spend may be wrong.",
        remedy=f"Run `v7 budget reconcile`. {_DEFECT}",
        sql="SELECT count(*) AS bad FROM llm_signals l WHERE l.as_of = ? AND l.status = 'answered' "
        "AND l.call_id IS NOT NULL "
        # unknown is settled at the worst case: an answer without usage is an answer
        "AND NOT EXISTS (SELECT 1 FROM llm_calls c WHERE c.call_id = l.call_id AND c.raw_reply IS NOT NULL "
        "AND c.status IN ('settled', 'unknown'))",
    ),
    SqlCheck(
        name="spend_within_budget",
        asset="llm_signals",
        meaning="What calls have cost in the UTC day and month of the instant, open ones at their worst case, is "
        "within V7_DAILY_BUDGET_USD and V7_MONTHLY_BUDGET_USD.",
        means="More was spent than allowed, or a budget was lowered below what was spent already.",
        remedy="Where no budget was lowered: stop paid calls (`V7_ANALYST=rules`), compare with the provider's bill, "
        "and open an issue.",
        sql="WITH this AS (SELECT ?::TIMESTAMPTZ AS t), spent AS (SELECT coalesce(sum(coalesce(cost_usd, "
        "reserved_usd)) "
        "FILTER (date_trunc('day', reserved_at) = date_trunc('day', (SELECT t FROM this))), 0) AS day_usd, "
        "coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS month_usd FROM llm_calls WHERE reserved_at >= "
        "date_trunc('month', (SELECT t FROM this)) AND reserved_at < date_trunc('month', (SELECT t FROM this)) "
        "+ INTERVAL 1 MONTH) SELECT CAST(day_usd > ? + 1e-6 AS INT) + CAST(month_usd > ? + 1e-6 AS INT) AS bad, "
        "day_usd, month_usd FROM spent",
        given=lambda settings: (settings.daily_budget_usd, settings.monthly_budget_usd),
    ),
    SqlCheck(
        name="every_decision_was_gated",
        asset="gated_signals",
        meaning="Rows of llm_signals = rows of gated_signals.",
        means="A decision did not meet the gates.",
        remedy=f"It cannot become a signal. {_DEFECT}",
        sql="SELECT count(*) AS bad FROM llm_signals l ANTI JOIN gated_signals g USING (signal_id) WHERE l.as_of = ?",
    ),
    SqlCheck(
        name="accepted_passed_every_gate",
        asset="gated_signals",
        meaning="No accepted signal has a failed gate that is not switched off, a missing quantity, or is a HOLD.",
        means="A signal was accepted that should not have been.",
        remedy=f"Do not trade it; `v7 halt` stops further ones. {_DEFECT}",
        sql="SELECT count(*) AS bad, string_agg(signal_id, ', ') AS signals FROM (SELECT *, "
        "string_split(gates_off, ',') "
        "AS off FROM gated_signals WHERE as_of = ? AND accepted) WHERE reason_codes <> '' OR quantity IS NULL "
        f"OR coalesce(side NOT IN ('BUY', 'SELL'), true) OR {_A_GATE_FAILED}",
    ),
    SqlCheck(
        name="provenance_not_mixed",
        asset="gated_signals",
        meaning="The scan's decisions and their gates are of one source (live, demo, backfill or backtest), and the "
        "hour before holds no demo rows beside others.",
        means="Simulated and real data share a store, or a scan was written by two modes.",
        remedy="Give each mode its own V7_STORE; do not trade until this passes.",
        sql="WITH this AS (SELECT ?::TIMESTAMPTZ AS t), scan AS (SELECT source FROM llm_signals WHERE as_of = "
        "(SELECT t FROM this) UNION SELECT source FROM gated_signals WHERE as_of = (SELECT t FROM this)), hour AS "
        "(SELECT source "
        "FROM candles WHERE open_time >= (SELECT t FROM this) - INTERVAL 1 HOUR UNION SELECT source FROM "
        "theory_features WHERE as_of >= (SELECT t FROM this) - INTERVAL 1 HOUR UNION SELECT source FROM scan) SELECT "
        "CAST((SELECT count(*) FROM scan) > 1 AS INT) + CAST((SELECT count(*) FILTER (source = 'demo') > 0 AND "
        "count(*) FILTER (source <> 'demo') > 0 FROM hour) AS INT) AS bad, "
        "(SELECT string_agg(source, ', ' ORDER BY source) FROM hour) AS sources",
    ),
    SqlCheck(
        name="closed_outcomes_are_net",
        asset="outcomes",
        meaning="Every closed outcome has an exit and a net return, and v7's have ten theory rows.",
        means="A trade closed without its result, or without what the theories had said of it.",
        remedy=f"Outcomes are derived: the next scan follows them again. Where it lasts: {_DEFECT[0].lower()}"
        f"{_DEFECT[1:]}",
        sql="WITH since AS (SELECT ?::TIMESTAMPTZ - INTERVAL 1 DAY AS day), told AS (SELECT signal_id, count(*) AS n "
        "FROM theory_performance WHERE as_of > (FROM since) GROUP BY signal_id), held AS (SELECT signal_id, count(*) "
        "FILTER (outcome <> 'open') AS closed FROM outcomes WHERE as_of > (FROM since) AND kind <> 'manual' "
        "GROUP BY signal_id) SELECT count(*) AS bad FROM outcomes o JOIN held h USING (signal_id) "
        "LEFT JOIN gated_signals g USING (signal_id) LEFT JOIN told t USING (signal_id) "
        "WHERE o.as_of > (FROM since) AND o.outcome <> 'open' AND (o.net_return IS NULL OR o.exit_time IS NULL OR "
        # of a HOLD the theories are judged once both of its sides have closed
        "(o.strategy = 'v7' AND o.kind <> 'manual' AND "
        "coalesce(t.n, 0) <> CASE WHEN g.side = 'HOLD' AND h.closed < 2 THEN 0 ELSE 10 END))",
    ),
)


def run_checks(runtime: Runtime, as_of: datetime, names: frozenset[str]) -> Iterator[tuple[Check, int, dict[str, Any]]]:
    """(check, how many are wrong, the row) for each check in `names`, read over one connection."""
    with runtime.store.reading() as reader:
        for check in CHECKS:
            if check.name in names:
                row = reader.rows(check.sql, (as_of, *check.given(runtime.settings)))[0]
                yield check, int(row.pop("bad") or 0), row


def build_scan_checks(runtime: Runtime) -> list[dg.AssetChecksDefinition]:
    """Three ops over one read each: the checks of candles, those of readings, and those of all that follows."""
    first = [
        _checks(runtime, f"{asset}_checks", [check for check in CHECKS if check.asset == asset]) for asset in _STOPPING
    ]
    return [*first, _checks(runtime, "scan_checks", [check for check in CHECKS if check.asset not in _STOPPING])]


def _checks(runtime: Runtime, name: str, checks: Sequence[SqlCheck]) -> dg.AssetChecksDefinition:
    """`checks` as one op, so that a scan pays for one step only."""

    # Of the scan's day: without one Dagster plans the check for the day, and keeps its result apart from the plan, so
    # that each scan stands in the check's history twice, once as skipped.
    days = daily(runtime.settings.first_day)

    @dg.multi_asset_check(specs=[check.spec_of(days) for check in checks], can_subset=True, name=name)
    def fast_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        run = context.instance.get_run_by_id(context.run.run_id) or context.run
        if AS_OF_TAG not in run.tags:
            if context.job_def.asset_layer.selected_asset_keys:
                context.log.info("whole days were filled and nothing was scanned: there is no scan to look at")
                return
            raise dg.Failure("these checks look at one scan; run them with a scan, or give the run the tag v7/as_of")
        chosen = frozenset(key.name for key in context.selected_asset_check_keys)
        for check, bad, row in run_checks(runtime, parse_as_of(run.tags[AS_OF_TAG]), chosen):
            demo = runtime.settings.mode == "demo"
            yield result_of(check, Finding(bad, row), demo=demo, as_of=run.tags[AS_OF_TAG])

    return fast_checks
