"""The replay: one scan after another over the candles of a store, each as of its instant, into a store of its own.

The steps are scan/'s, called as every other scan calls them; what comes out is report.py's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from v7_pipeline import __version__
from v7_pipeline.analyst.base import Analyst
from v7_pipeline.backtest.market import StoredMarket
from v7_pipeline.scan.context import LATE_AFTER, ScanContext, minute
from v7_pipeline.scan.run import run_scan
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store
from v7_pipeline.store.schema import TABLES

__all__ = [
    "EVERY", "SCANS_STAGE", "SOURCE", "BacktestError", "BacktestResult", "asked_and_hourly", "backtest_id",
    "instants_of", "refuse_foreign_rows", "replay", "venue_of",
]  # fmt: skip

MINUTE = timedelta(minutes=1)
EVERY = timedelta(minutes=2)
SOURCE: Final = "backtest"
SCANS_STAGE = "scans"

# Settings that say where and how fast, not what: two backtests that differ in these only are one.
_WITHOUT_EFFECT = frozenset(
    {
        "home", "store", "store_wait_s", "first_day", "market_api", "exchange_url", "advanced_url", "market_timeout_s",
        "market_retries", "market_rate_per_s", "market_workers", "deepseek_api_key", "deepseek_url", "host", "ui_port",
        "dashboard_port", "sandbox_port", "sandbox_seed", "scan_cron", "max_run_s", "in_flight_bound_s", "alert_urls",
        "alert_window_min", "alert_quiet", "alert_zone", "alert_summary_at", "alert_stale_s", "alert_skipped_ticks",
        "watchdog_after_s", "store_linger_s", "repair_days", "retention_run_days", "retention_day_days",
        "retention_tick_days", "retention_prompt_days", "retention_delivery_days", "retention_backtests", "log_json",
        "coingecko_api_key",
        "analyst", "analysts_file", "breaker_failures", "breaker_rest_s", "breaker_fallback", "strategies",
    }
)  # fmt: skip

OnProgress = Callable[[str, int, int], None]


class BacktestError(ValueError):
    """A backtest cannot be made or read; the message says why and what to do."""


@dataclass(frozen=True)
class BacktestResult:
    """What was replayed: `first` and `last` are the first and last scan's instants, `kept` the scans found done."""

    run_id: str
    first: datetime
    last: datetime
    every: timedelta
    scans: int
    kept: int
    symbols: tuple[str, ...]
    analyst: str
    venue: str


def replay(
    source: Store,
    target: Store,
    settings: Settings,
    *,
    start: datetime,
    end: datetime,
    every: timedelta = EVERY,
    analyst: Analyst | None = None,
    only: Collection[datetime] | None = None,
    on_progress: OnProgress | None = None,
) -> BacktestResult:
    """Scans of `settings.symbols` at start, start + every, … before `end`, over the candles of `source`, into `target`.

    At each instant candles reach the target through the scan's own fetch only, closed by then; the first scan brings
    the history it needs. Every row of the target is marked backtest. `source` is only read. `analyst` is the rules
    where none is given. Scans that the target holds already are kept, so an interrupted backtest goes on where it
    stopped. on_progress(stage, done, total) counts scans. `only`: of these instants no others (see asked_and_hourly).

    Raises BacktestError for a span without scans or candles, and for a target that holds anything else.
    """
    instants = [as_of for as_of in instants_of(start, end, every) if only is None or as_of in only]
    if analyst is None:
        from v7_pipeline.analyst.rules import RulesAnalyst, own_weights

        analyst = RulesAnalyst(own_weights(settings.rules_weights))
    if repr(source) == repr(target):
        raise BacktestError(f"a backtest never writes to the store it reads, {source!r}; give it a store of its own")
    venue = venue_of(source, settings.symbols, instants[0], instants[-1])
    run_id = backtest_id(settings, start=start, end=end, every=every, analyst=analyst.name)
    target.migrate(__version__, instants[0])  # like every clock of a backtest, this one stands in the replayed time
    refuse_foreign_rows(target, run_id)
    market = StoredMarket(source, venue=venue, lag=settings.backtest_lag_min * MINUTE)
    with target.session():
        finished = set(target.query("SELECT as_of FROM scans WHERE status = 'finished'")["as_of"])
        for done, as_of in enumerate(instants, 1):
            if as_of not in finished:
                run_scan(_context(settings, target, market, analyst, as_of, run_id))
            if on_progress:
                on_progress(SCANS_STAGE, done, len(instants))
    return BacktestResult(
        run_id=run_id,
        first=instants[0],
        last=instants[-1],
        every=every,
        scans=len(instants),
        kept=len(finished & set(instants)),
        symbols=settings.symbols,
        analyst=analyst.name,
        venue=venue,
    )


def asked_and_hourly(instants: Sequence[datetime], asked: Collection[datetime]) -> frozenset[datetime]:
    """Of a span's instants those that an analyst of a few must be replayed at: its own, and one in each hour.

    A scan follows what is open through every candle since the one before, and looks for breaches in each minute, so
    that trades and account come to the same; win rates and thresholds are learnt up to an hour later. The first and the
    last instant are among them: the span is the same.
    """
    hourly = {as_of.replace(minute=0): as_of for as_of in reversed(instants)}
    return frozenset({*hourly.values(), *asked, instants[0], instants[-1]} & set(instants))


def backtest_id(
    settings: Settings,
    *,
    start: datetime,
    end: datetime,
    every: timedelta = EVERY,
    analyst: str = "rules",
    strategies: Sequence[str] | None = None,
) -> str:
    """The run id of this configuration, such as backtest-20231211-5f0c2a9e41d7: the same one has the same id.

    `strategies`: by default the settings'.
    """
    knobs = settings.model_dump(mode="json", exclude=set(_WITHOUT_EFFECT))
    what = [__version__, knobs, minute(start).isoformat(), minute(end).isoformat(), every.total_seconds(), analyst]
    chosen = list(strategies or settings.strategies)
    if chosen != ["v7"]:
        what.append(chosen)
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return f"backtest-{minute(start):%Y%m%d}-{digest[:12]}"


def _context(
    settings: Settings, target: Store, market: StoredMarket, analyst: Analyst, as_of: datetime, run_id: str
) -> ScanContext:
    return ScanContext(
        settings=settings,
        store=target,
        market=market,
        analyst=analyst,
        as_of=as_of,
        run_id=run_id,
        source=SOURCE,
        clock=lambda: as_of + timedelta(seconds=settings.backtest_latency_s),
        wall_clock=lambda: as_of + 2 * LATE_AFTER,  # a look at the past: nobody is alerted of it
    )


def instants_of(start: datetime, end: datetime, every: timedelta) -> list[datetime]:
    """start, start + every, … before `end`; BacktestError where there is none."""
    if every < MINUTE or every % MINUTE:
        raise BacktestError(f"scans every {every} are not whole minutes apart; give one minute or more, such as 2")
    first, stop = minute(start), minute(end)
    if stop <= first:
        raise BacktestError(f"the span from {start.isoformat()} to {end.isoformat()} has no scan; give a later end")
    return [first + index * every for index in range(-(-(stop - first) // every))]


def venue_of(source: Store, symbols: tuple[str, ...], first: datetime, last: datetime) -> str:
    """Who reported the candles that will be replayed; BacktestError where a symbol has none."""
    rows = source.query(
        "SELECT symbol, venue FROM candles WHERE open_time >= ? AND open_time < ? "
        "AND symbol IN (SELECT unnest(?::VARCHAR[])) GROUP BY ALL",
        (first - timedelta(days=1), last + MINUTE, list(symbols)),
    )
    missing = [symbol for symbol in symbols if symbol not in set(rows["symbol"])]
    if missing:
        raise BacktestError(
            f"{source!r} holds no candles of {', '.join(missing)} from {first:%Y-%m-%d %H:%M}Z to "
            f"{last:%Y-%m-%d %H:%M}Z; fetch them with v7 backfill --from {first:%Y-%m-%d} --to {last:%Y-%m-%d}"
        )
    return "+".join(sorted(set(rows["venue"])))


def refuse_foreign_rows(target: Store, run_id: str) -> None:
    """A target holds one backtest and nothing else: figures of a mixture mean nothing."""
    with target.reading() as reader:
        for name, table in TABLES.items():
            if "run_id" not in table.column_names:
                continue
            found = reader.query(
                f"SELECT source, run_id FROM {name} WHERE source <> ? OR run_id <> ? LIMIT 1", (SOURCE, run_id)
            )
            if len(found):
                raise BacktestError(
                    f"{target!r} holds {found['source'].iloc[0]} rows of run {found['run_id'].iloc[0]} in {name}; "
                    f"give backtest {run_id} a store of its own"
                )
