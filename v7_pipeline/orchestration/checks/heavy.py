"""The heavy checks: an hourly and a daily op that look at one whole UTC day, which is one partition.

What is computed for them lies in market/quality.py, learning/drift.py and scan/audit.py; Great Expectations in
expectations.py. Nothing of this runs in a scan.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

import dagster as dg
import pandas as pd

from v7_pipeline.orchestration.checks.base import WARN, Check, Finding, result_of
from v7_pipeline.orchestration.metadata import markdown_table
from v7_pipeline.orchestration.partitions import AS_OF_TAG, parse_as_of
from v7_pipeline.scan.context import minute
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store.schema import THEORY_NAMES, table

__all__ = ["DAILY", "HOURLY", "Day", "FrameCheck", "build_heavy_checks", "day_before", "day_of", "run_heavy"]

_DAY, _MINUTE, _HISTORY = timedelta(days=1), timedelta(minutes=1), timedelta(minutes=2 * 1440 + 8)
_DEFECT = "This is a defect of V7, not of the market: keep the store and open an issue with the run's id."
#: Share of candles without a trade; on Coinbase there is none, and before a real outage it was 5 % of the day.
MOST_ZERO_VOLUME = 0.02
#: How far another source's price may lie from the candle of its minute.
MOST_DISAGREEMENT = 0.01
_ENOUGH = 240  # readings of a symbol below which shares say little
#: On 42 real days the readings without any vote were 40 to 96 %, a single theory's abstentions at least 50 %.
MOST_SILENT, LEAST_ABSTAINING = 0.99, 0.3
_ENOUGH_DECISIONS = 100
MOST_MIX_SHIFT = 0.3
AUDITED, SYMMETRIC_MINUTES = 24, 360


@dataclass
class Day:
    """One UTC day of the store, as far as it is over at `end`; read once for all checks of a run."""

    runtime: Runtime
    start: datetime
    end: datetime
    #: Whose decisions and outcomes are looked at.
    source: str

    @property
    def name(self) -> str:
        return f"{self.start:%Y-%m-%d}"

    @cached_property
    def candles(self) -> pd.DataFrame:
        """The day's candles."""
        return self.runtime.store.read("candles", start=self.start, end=self.end)

    @cached_property
    def first_candles(self) -> dict[str, datetime]:
        """Since when each symbol has candles at all."""
        rows = self.runtime.store.rows("SELECT symbol, min(open_time) AS first FROM candles GROUP BY symbol")
        return {row["symbol"]: row["first"].astimezone(UTC) for row in rows}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The products of the settings that have ever had a candle before the day's end."""
        return tuple(s for s in self.runtime.settings.symbols if s in self.first_candles)

    @cached_property
    def readings(self) -> pd.DataFrame:
        """The day's readings."""
        return self.runtime.store.read("theory_features", start=self.start, end=self.end)

    def rows(self, sql: str, *more: Any) -> list[dict[str, Any]]:
        """Rows of `sql`, whose first two `?` are the day's start and end."""
        return self.runtime.store.rows(sql, (self.start, self.end, *more))


@dataclass(frozen=True, kw_only=True)
class FrameCheck(Check):
    """A check that looks at one day."""

    look: Callable[[Day], Finding]


# --- candles ----------------------------------------------------------------------------------


def _fits_the_schema(name: str, day: Day) -> Finding:
    from v7_pipeline.orchestration.checks.expectations import unmet

    column = table(name).day_column
    frame = day.runtime.store.query(
        f'SELECT * FROM {name} WHERE "{column}" >= ? AND "{column}" < ?', (day.start, day.start + _DAY)
    )
    told = unmet(name, frame)
    now = pd.Timestamp(day.runtime.clock())
    late = int((frame[column] > now).sum()) if len(frame) else 0
    told += [f"{late} rows lie in the future of {now:%Y-%m-%d %H:%M}Z"] if late else []
    return Finding(len(told), {"rows": len(frame), "unmet": "; ".join(told)})


def _complete(day: Day) -> Finding:
    from v7_pipeline.market.quality import completeness, outages

    span: dict[str, Any] = {"start": day.start, "end": day.end, "since": day.first_candles}
    settings = day.runtime.settings
    found = outages(day.candles, day.symbols, longer_than=settings.gap_minutes, **span)
    shares = completeness(day.candles, day.symbols, **span)
    thin = [symbol for symbol, share in shares.items() if share < settings.min_observed_share]
    rows = [
        (row.symbol, f"{row.first:%Y-%m-%d %H:%M}Z", f"{row.last:%H:%M}Z", row.minutes, "yes" if row.shared else "no")
        for row in found.itertuples()
    ]
    return Finding(
        len(found) + len(thin),
        {
            "completeness": ", ".join(f"{symbol} {100 * share:.2f} %" for symbol, share in shares.items()),
            "outages": markdown_table(("symbol", "first missing", "last", "minutes", "all symbols"), rows)
            if rows
            else None,
            "missing_minutes": int(found["minutes"].sum()),
        },
    )


def _zero_volume(day: Day) -> Finding:
    from v7_pipeline.market.quality import zero_volume_share

    shares = zero_volume_share(day.candles)
    return Finding(
        sum(share > MOST_ZERO_VOLUME for share in shares.values()),
        {"shares": ", ".join(f"{symbol} {100 * share:.2f} %" for symbol, share in shares.items())},
    )


def _no_jump(day: Day) -> Finding:
    from v7_pipeline.market.quality import jumps

    behind = day.runtime.store.read("candles", start=day.start - _DAY, end=day.end)
    found = jumps(behind, since=day.start)
    rows = [
        (row.symbol, f"{row.open_time:%Y-%m-%d %H:%M}Z", row.open, row.high, row.low, row.close,
         f"{100 * row.move:+.2f} %", f"{row.sigmas:.0f}")
        for row in found.itertuples()
    ]  # fmt: skip
    header = ("symbol", "minute", "open", "high", "low", "close", "move", "deviations")
    return Finding(len(found), {"jumps": markdown_table(header, rows) if rows else None})


_SECOND_SOURCE = """
SELECT count(*) AS compared, count(*) FILTER (abs(m.reference_price_usd / c.close - 1) > ?) AS bad,
       max(abs(m.reference_price_usd / c.close - 1)) AS largest,
       arg_max(m.symbol || ' ' || c.open_time, abs(m.reference_price_usd / c.close - 1)) AS "where"
FROM market_context m JOIN candles c
  ON c.symbol = m.symbol AND c.open_time = date_trunc('minute', m.reference_at)
WHERE m.as_of >= ? AND m.as_of < ? AND m.reference_price_usd IS NOT NULL
"""


def _agrees(day: Day) -> Finding:
    if "coingecko" not in day.runtime.settings.context:
        return Finding(0, {"told": "no second source is set; V7_CONTEXT=coingecko sets one"})
    row = day.runtime.store.rows(_SECOND_SOURCE, (MOST_DISAGREEMENT, day.start, day.end))[0]
    return Finding(int(row.pop("bad")), row)


# --- readings ---------------------------------------------------------------------------------


def _abstentions(day: Day) -> Finding:
    silent = day.readings[[f"{theory}_vote" for theory in THEORY_NAMES]] == 0
    counts = day.readings.groupby("symbol").size()
    # A store's first two days have too little behind them for votes.
    if counts.empty or counts.min() < _ENOUGH or _young(day):
        return Finding(0, {"told": f"fewer than {_ENOUGH} readings a symbol with history behind them"})
    shares = silent.mean()
    none = float(silent.all(axis=1).mean())
    busy = [theory for theory in THEORY_NAMES if shares[f"{theory}_vote"] < LEAST_ABSTAINING]
    header = ("theory", "abstains")
    rows = [(theory, f"{100 * shares[f'{theory}_vote']:.1f} %") for theory in THEORY_NAMES]
    return Finding(
        len(busy) + (none > MOST_SILENT),
        {"no_theory_votes": none, "too_busy": ", ".join(busy), "abstentions": markdown_table(header, rows)},
    )


def _young(day: Day) -> bool:
    return any(first > day.start - _HISTORY for first in day.first_candles.values())


def _columns() -> list[str]:
    """The columns of readings whose values move: not votes, which are mostly 0, nor those of closed trades."""
    return [
        name
        for name in table("theory_features").compared
        if not name.endswith("_vote") and name != "observed_share" and "win_rate" not in name
    ]


def _no_constant(day: Day) -> Finding:
    still = []
    for symbol, rows in day.readings.groupby("symbol"):
        if len(rows) < _ENOUGH or _young(day) or rows["volatility_240"].nunique() < 2:
            continue
        for name in _columns():
            # The plan's advantage is 0 for as long as the day's drift lies within its error.
            named = "p_target" if name == "monte_carlo_score" else name
            if rows[named].nunique() < 2:
                still.append(f"{symbol} {name}")
    return Finding(len(still), {"constant": ", ".join(still)})


def _no_shift(day: Day) -> Finding:
    from v7_pipeline.learning.drift import shifts

    names = _columns()
    rows = day.runtime.store.read(
        "theory_features", start=day.start - 30 * _DAY, end=day.end, columns=("symbol", "as_of", *names)
    )
    found = shifts(rows, names, day=pd.Timestamp(day.start))
    if found.empty:
        return Finding(0, {"told": "fewer than 14 days before it: nothing to compare with"})
    moved = found[found["shifted"]].sort_values("psi", ascending=False)
    shown = [(row.column, f"{row.psi:.2f}", f"{row.usual:.2f}") for row in moved.itertuples()]
    header = ("column", "index", "largest of the days before")
    told = {"compared": len(found), "days": int(found["days"].max()), "largest": float(found["psi"].max())}
    return Finding(len(moved), told | {"shifted": markdown_table(header, shown) if shown else None})


def _look_ahead(day: Day) -> Finding:
    from v7_pipeline.scan.audit import look_ahead, stored_readings

    stored = stored_readings(day.runtime.store, day.start, day.end)
    found, asked = look_ahead(
        day.runtime.store, day.runtime.settings, stored, source=day.source, samples=AUDITED, seed=day.start.toordinal()
    )
    return Finding(len(found), {"instants": asked, **_first_differences(found)})


def _parity(day: Day) -> Finding:
    from v7_pipeline.scan.audit import parity, stored_readings

    stored = stored_readings(day.runtime.store, day.start, day.end)
    found = parity(day.runtime.store, day.runtime.settings, stored, day.start, day.end, source=day.source)
    return Finding(len(found), {"rows": len(stored), **_first_differences(found)})


def _first_differences(found: pd.DataFrame) -> dict[str, Any]:
    rows = [
        (row.symbol, f"{row.as_of:%Y-%m-%d %H:%M}Z", row.column, row.stored, row.again)
        for row in found.head(20).itertuples()
    ]
    header = ("symbol", "instant", "column", "stored", "made again")
    return {
        "columns": ", ".join(sorted(found["column"].unique())),
        "first": markdown_table(header, rows) if rows else None,
    }


def _mirrored(day: Day) -> Finding:
    from v7_pipeline.scan.audit import asymmetric_votes, history_of

    since = max(day.start, day.end - SYMMETRIC_MINUTES * _MINUTE)
    candles = history_of(day.runtime.store, since, day.end, day.symbols)
    if candles.empty:
        return Finding(0, {"told": "no candles"})
    found, made = asymmetric_votes(candles, day.runtime.settings, since)
    rows = [(r.symbol, f"{r.as_of:%H:%M}Z", r.theory, r.vote, r.mirrored) for r in found.head(20).itertuples()]
    header = ("symbol", "instant", "theory", "vote", "on mirrored prices")
    return Finding(len(found), {"readings": made, "first": markdown_table(header, rows) if rows else None})


# --- decisions, gates, outcomes ---------------------------------------------------------------

_CONSERVED = """
WITH day AS (SELECT ?::TIMESTAMPTZ AS a, ?::TIMESTAMPTZ AS b),
s AS (SELECT sum(len(string_split(symbols, ',')) * greatest(coalesce(k, 0), 1)) AS n FROM scans
      LEFT JOIN (SELECT as_of, count(DISTINCT strategy) AS k FROM llm_signals WHERE as_of >= (SELECT a FROM day)
                 AND as_of < (SELECT b FROM day) GROUP BY as_of) USING (as_of)
      WHERE as_of >= (SELECT a FROM day) AND as_of < (SELECT b FROM day) AND status = 'finished'),
l AS (SELECT l.signal_id, l.status, l.call_id, g.signal_id AS gated, g.accepted, g.reason_codes FROM llm_signals l
      LEFT JOIN gated_signals g USING (signal_id) JOIN scans c ON c.as_of = l.as_of AND c.status = 'finished'
      WHERE l.as_of >= (SELECT a FROM day) AND l.as_of < (SELECT b FROM day))
SELECT coalesce((SELECT n FROM s), 0) AS expected, count(*) AS decisions, count(gated) AS gated,
       count(*) FILTER (accepted) AS accepted, count(*) FILTER (NOT accepted AND reason_codes <> '') AS rejected,
       count(*) FILTER (status = 'answered') AS answered,
       count(*) FILTER (status = 'answered' AND call_id IS NULL) AS by_rules,
       count(*) FILTER (status = 'answered' AND call_id IN (SELECT call_id FROM llm_calls
           WHERE raw_reply IS NOT NULL AND status IN ('settled', 'unknown'))) AS by_calls FROM l
"""


def _conserved(day: Day) -> Finding:
    row = {name: int(value) for name, value in day.rows(_CONSERVED)[0].items()}
    bad = (
        abs(row["expected"] - row["decisions"])
        + abs(row["decisions"] - row["gated"])
        + abs(row["gated"] - row["accepted"] - row["rejected"])
        + abs(row["answered"] - row["by_rules"] - row["by_calls"])
    )
    return Finding(bad, row)


_MIX = """
SELECT coalesce(side, status) AS action, count(*) AS n FROM llm_signals
WHERE as_of >= ? AND as_of < ? AND source = ? AND strategy = 'v7' AND status <> 'skipped' GROUP BY action
"""


def _mix(day: Day) -> Finding:
    from v7_pipeline.learning.drift import total_variation

    spans = ((day.start, day.end), (day.start - 7 * _DAY, day.start))
    now, week = (
        pd.Series({row["action"]: row["n"] for row in day.runtime.store.rows(_MIX, (*span, day.source))}, dtype=float)
        for span in spans
    )
    if min(now.sum(), week.sum()) < _ENOUGH_DECISIONS:
        return Finding(0, {"told": f"fewer than {_ENOUGH_DECISIONS} decisions on either side: nothing to compare"})
    distance = total_variation(now, week)
    names = sorted({*now.index, *week.index})
    rows = [(name, *(f"{100 * part.get(name, 0) / part.sum():.1f} %" for part in (now, week))) for name in names]
    return Finding(
        int(distance > MOST_MIX_SHIFT),
        {"distance": distance, "actions": markdown_table(("action", "this day", "week before"), rows)},
    )


_SOURCES = "WITH day AS (SELECT ?::TIMESTAMPTZ AS a, ?::TIMESTAMPTZ AS b) " + " UNION ALL ".join(
    f"""SELECT '{name}' AS name, string_agg(DISTINCT source, ', ' ORDER BY source) AS sources FROM {name}
        WHERE "{table(name).day_column}" >= (SELECT a FROM day) AND "{table(name).day_column}" < (SELECT b FROM day)"""
    for name in ("candles", "theory_features", "llm_signals", "gated_signals", "outcomes", "theory_attribution")
)


def _one_world(day: Day) -> Finding:
    found = {row["name"]: set(row["sources"].split(", ")) for row in day.rows(_SOURCES) if row["sources"]}
    every = set().union(*found.values())
    # Late scans and backfills stand beside live rows; simulated ones do not, and of decisions no replayed ones do.
    mixed = int("demo" in every and bool(every & {"live", "backfill"}))
    mixed += sum("backtest" in found.get(name, ()) and len(found[name]) > 1 for name in _DECIDED)
    return Finding(mixed, {name: ", ".join(sorted(sources)) for name, sources in found.items()})


_DECIDED = ("llm_signals", "gated_signals", "outcomes")

_UNTOLD = """
WITH day AS (SELECT ?::TIMESTAMPTZ AS a, ?::TIMESTAMPTZ AS b)
SELECT count(*) AS closed, count(*) FILTER (coalesce(n, 0) <> 10) AS bad,
       string_agg(signal_id, ', ') FILTER (coalesce(n, 0) <> 10) AS signals
FROM (SELECT o.signal_id FROM outcomes o JOIN llm_signals l USING (signal_id)
      WHERE l.strategy = 'v7' AND o.as_of >= (SELECT a FROM day)
      AND o.as_of < (SELECT b FROM day) AND o.kind <> 'manual' GROUP BY o.signal_id, l.side
      HAVING count(*) FILTER (o.outcome <> 'open') >= CASE WHEN l.side = 'HOLD' THEN 2 ELSE 1 END)
LEFT JOIN (SELECT signal_id, count(*) AS n FROM theory_performance GROUP BY signal_id) USING (signal_id)
"""


def _ten_rows(day: Day) -> Finding:
    row = day.rows(_UNTOLD)[0]
    return Finding(int(row.pop("bad")), row)


def _equity(day: Day) -> Finding:
    from v7_pipeline.scan.audit import replayed_accounts

    found, asked = replayed_accounts(day.runtime.store, day.runtime.settings, day.start, day.end, source=day.source)
    rows = [(f"{r.as_of:%H:%M}Z", r.figure, r.stored, r.again) for r in found.head(20).itertuples()]
    header = ("instant", "figure", "stored", "replayed")
    return Finding(len(found), {"accounts": asked, "first": markdown_table(header, rows) if rows else None})


def _schema_check(name: str) -> FrameCheck:
    return FrameCheck(
        name=f"{name}_fit_the_schema",
        asset=name,
        look=partial(_fits_the_schema, name),
        meaning="The day's rows have the schema's columns and types, unique keys, no missing value where none is "
        "allowed, values within the range of their unit, and lie in their partition and not in the future.",
        means="The metadata says which promise of the data dictionary is not kept, and by how many rows.",
        remedy=f"The store refuses such rows, so they were changed after they were written. {_DEFECT}",
    )


HOURLY: tuple[FrameCheck, ...] = (
    _schema_check("candles"),
    FrameCheck(
        name="candles_complete",
        asset="candles",
        severity=WARN,
        look=_complete,
        meaning="No symbol was silent for more than V7_GAP_MINUTES on end, and each has V7_MIN_OBSERVED_SHARE of the "
        "day's minutes. Each outage is named; `all symbols` says that the venue was silent, not the product.",
        means="Candles are missing; theories abstain until their windows are whole again.",
        remedy="Compare with the venue's status page. Where it did trade, `v7 backfill` fetches the missing minutes.",
    ),
    FrameCheck(
        name="few_minutes_without_volume",
        asset="candles",
        severity=WARN,
        look=_zero_volume,
        meaning=f"At most {100 * MOST_ZERO_VOLUME:.0f} % of a symbol's candles have no volume.",
        means="The venue reports prices without trades, as some do shortly before an outage and during one.",
        remedy="Look at the venue's status; do not trust prices of these minutes.",
    ),
    FrameCheck(
        name="no_jump",
        asset="candles",
        severity=WARN,
        look=_no_jump,
        meaning="No candle's high, low or close lies more than 25 robust deviations (bipower variation of the 1440 "
        "candles before) from the close before.",
        means="A crash, a wick, or a wrong price; the metadata has the candle. Real markets do this about four times a "
        "week over three products.",
        remedy="Look at the candle on another venue. It is kept either way: history is not made nicer than it was.",
    ),
    FrameCheck(
        name="agrees_with_a_second_source",
        asset="candles",
        severity=WARN,
        look=_agrees,
        meaning=f"CoinGecko's price, where V7_CONTEXT has coingecko, is within {100 * MOST_DISAGREEMENT:.0f} % of the "
        "candle of its minute. Without a second source it passes and says so.",
        means="Our venue's price is not the market's, or CoinGecko's is old.",
        remedy="Compare with a third source before you follow a signal of that product.",
    ),
    _schema_check("theory_features"),
    FrameCheck(
        name="abstentions_usual",
        asset="theory_features",
        severity=WARN,
        look=_abstentions,
        meaning=f"Theories mostly abstain, but not always: in at most {100 * MOST_SILENT:.0f} % of the day's readings "
        f"none votes, and each abstains in at least {100 * LEAST_ABSTAINING:.0f} %.",
        means="The theories have lost their voice (thin data, a broken window), or one of them votes on noise.",
        remedy="Look at `candles_complete` first. Where candles are whole, open an issue with the table.",
    ),
    FrameCheck(
        name="no_constant_column",
        asset="theory_features",
        look=_no_constant,
        meaning="No value, percentile or score is the same, or missing, in all of a symbol's readings of the day "
        f"({_ENOUGH} at least) while its volatility moved.",
        means="A theory is switched off by an error, or its input is stuck.",
        remedy=_DEFECT,
    ),
    *map(_schema_check, ("llm_signals", "gated_signals", "outcomes", "theory_attribution")),
    FrameCheck(
        name="counts_conserved",
        asset="gated_signals",
        look=_conserved,
        meaning="Of the day's finished scans: scans × symbols × strategies = decisions = gated = accepted + rejected, "
        "and answered = settled calls + answers of the rules.",
        means="A decision was lost or made twice; the metadata has every count.",
        remedy=f"`v7 scan --as-of …` completes a scan that died. {_DEFECT}",
    ),
    FrameCheck(
        name="one_world",
        asset="llm_signals",
        look=_one_world,
        meaning="The day's rows of all six tables are of one world: simulated (demo), replayed (backtest) or real.",
        means="Two modes have written into one store; statistics over it mean nothing.",
        remedy="Give each mode its own V7_STORE, and start the mixed one afresh from a backup.",
    ),
    FrameCheck(
        name="every_closed_outcome_has_ten_rows",
        asset="theory_attribution",
        look=_ten_rows,
        meaning="Every signal of the day that has closed, both sides of a HOLD, has ten rows in theory_performance.",
        means="Attribution rests on fewer outcomes than there are.",
        remedy=f"These rows are derived: the next scan writes them again. {_DEFECT}",
    ),
)

DAILY: tuple[FrameCheck, ...] = (
    FrameCheck(
        name="no_distribution_shift",
        asset="theory_features",
        severity=WARN,
        look=_no_shift,
        meaning="No column's population stability index of yesterday against the 30 days before is above 0.25 and "
        "above 2.5 times the largest that one of those days has against the others.",
        means="The market is in a state that the last month has not seen, or a reading is computed differently.",
        remedy="Several columns of different theories: the market. One theory's alone: suspect the code or its data.",
    ),
    FrameCheck(
        name="no_look_ahead",
        asset="theory_features",
        look=_look_ahead,
        meaning=f"{AUDITED} random instants of yesterday, made again from candles that had closed by then, are the "
        "stored readings bit for bit.",
        means="A stored reading knew its future, or its candles changed and it was not made again.",
        remedy="Do not trust backtests over that day. `v7 backfill` over it makes its readings again; where they "
        f"differ then too: {_DEFECT}",
    ),
    FrameCheck(
        name="live_equals_backfill",
        asset="theory_features",
        look=_parity,
        meaning="Yesterday's readings are, bit for bit, what a backfill of yesterday would write now.",
        means="What was traded on and what a backtest would see are not the same.",
        remedy="Candles that came late or were corrected explain single stretches; `v7 backfill` over the day mends "
        f"them. Otherwise: {_DEFECT}",
    ),
    FrameCheck(
        name="votes_mirror",
        asset="theory_features",
        look=_mirrored,
        meaning=f"On the mirrored prices of yesterday's last {SYMMETRIC_MINUTES // 60} hours every theory gives the "
        "opposite vote.",
        means="A theory prefers one side of the market.",
        remedy=_DEFECT,
    ),
    FrameCheck(
        name="action_mix_usual",
        asset="llm_signals",
        severity=WARN,
        look=_mix,
        meaning="Yesterday's shares of BUY, SELL, HOLD and abstention differ by at most 0.3 (total variation) from the "
        "week's before.",
        means="The analyst decides otherwise than it did: another model behind its name, another prompt or market.",
        remedy="Look at `model_regimes` and the prompt's version; `v7 llm replay` says whether the question changed.",
    ),
    FrameCheck(
        name="equity_replays",
        asset="outcomes",
        look=_equity,
        meaning="The account replayed from its first trade to at most 24 instants of yesterday has the equity and the "
        "limits that the FTMO gate stored then, to the cent.",
        means="The gate judged another account than the trades give.",
        remedy="Expected after a change of the account's settings, of slippage or fees, and where candles were "
        f"corrected. Otherwise halt (`v7 halt`) and: {_DEFECT[0].lower()}{_DEFECT[1:]}",
    ),
)


def day_of(runtime: Runtime, instant: datetime) -> Day:
    """The day that the hour ending at `instant` lies in, up to that instant: at midnight the whole day before."""
    end = minute(instant)
    return Day(runtime, (end - _MINUTE).replace(hour=0, minute=0), end, runtime.settings.source)


def day_before(runtime: Runtime, instant: datetime) -> Day:
    """The whole day before that of `instant`."""
    start = minute(instant).replace(hour=0, minute=0) - _DAY
    return Day(runtime, start, start + _DAY, runtime.settings.source)


def run_heavy(checks: Sequence[FrameCheck], day: Day, names: frozenset[str]) -> Iterator[tuple[FrameCheck, Finding]]:
    """(check, what it found) for each of `checks` in `names`."""
    for check in checks:
        if check.name in names:
            yield check, check.look(day)


def build_heavy_checks(runtime: Runtime) -> list[dg.AssetChecksDefinition]:
    """The hourly op and the daily op; their names are not those of the jobs, which Dagster refuses to load."""
    return [
        _heavy(runtime, "checks_of_the_hour", HOURLY, day_of),
        _heavy(runtime, "checks_of_the_day", DAILY, day_before),
    ]


def _heavy(
    runtime: Runtime, name: str, checks: Sequence[FrameCheck], which: Callable[[Runtime, datetime], Day]
) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(specs=[check.spec for check in checks], can_subset=True, name=name)
    def heavy_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        run = context.instance.get_run_by_id(context.run.run_id) or context.run
        told = run.tags.get(AS_OF_TAG)
        day = which(runtime, parse_as_of(told) if told else runtime.clock())
        chosen = frozenset(key.name for key in context.selected_asset_check_keys)
        demo = runtime.settings.mode == "demo"
        for check, finding in run_heavy(checks, day, chosen):
            yield result_of(check, finding, demo=demo, partition=day.name, until=f"{day.end:%Y-%m-%dT%H:%M:%SZ}")

    return heavy_checks
