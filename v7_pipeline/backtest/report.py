"""What a backtest says, and what it does not: counts, figures with n and interval, two plain baselines, the account.

Every figure comes from the rooms that make it for live scans (learning, trades, gates); here they are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite, nan
from typing import Any

import pandas as pd

from v7_pipeline.backtest.replay import MINUTE, SOURCE, BacktestError
from v7_pipeline.gates.base import GATES
from v7_pipeline.learning.frames import one_source
from v7_pipeline.learning.metrics import Figure, Summary, summary
from v7_pipeline.scan.account import read_account
from v7_pipeline.settings import Settings
from v7_pipeline.store import Reader, Store
from v7_pipeline.trades import fee_preset
from v7_pipeline.trades.pnl import entry_fill, fee_return, gross_return, market_exit_fill

__all__ = ["EQUITY_POINTS", "Report", "markdown", "report"]

# The account is replayed at this many scans at most; the last one is always among them.
EQUITY_POINTS = 120

_DECISIONS = """
SELECT s.symbol, coalesce(s.side, s.status) AS decision, count(*) AS n, count(*) FILTER (g.accepted) AS accepted
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) WHERE s.as_of BETWEEN ? AND ? GROUP BY ALL ORDER BY ALL
"""
# What a HOLD left out is no trade of the gates' or of the analyst's.
_OUTCOMES = """
SELECT o.* FROM outcomes o LEFT JOIN gated_signals g USING (signal_id) WHERE g.side IS DISTINCT FROM 'HOLD'
ORDER BY o.as_of, o.signal_id
"""
_GATES_OFF = "SELECT DISTINCT gates_off FROM gated_signals WHERE gates_off <> '' ORDER BY 1"
_REASONS = """
SELECT trim(reason) AS reason, count(*) AS n FROM
(SELECT unnest(string_split(reason_codes, ',')) AS reason FROM gated_signals WHERE NOT accepted)
WHERE trim(reason) <> '' GROUP BY ALL ORDER BY n DESC, reason
"""
# Of BUY and SELL: what each gate said, and how often it alone stood in the way.
_GATES = " UNION ALL ".join(
    f"SELECT '{gate}' AS gate, count({gate}_ok) AS asked, count(*) FILTER ({gate}_ok) AS passed, "
    f"count(*) FILTER (NOT {gate}_ok) AS failed, count(*) FILTER (NOT {gate}_ok AND failures = 1) AS alone FROM trading"
    for gate in GATES
)
_GATES = f"""
WITH trading AS (
  SELECT *, {" + ".join(f"coalesce(NOT {gate}_ok, false)::INTEGER" for gate in GATES)} AS failures
  FROM gated_signals WHERE side IN ('BUY', 'SELL')
) {_GATES}
"""
_CANDLES = """
SELECT symbol, count(*) AS candles, count(*) / (date_diff('minute', ?::TIMESTAMPTZ, ?::TIMESTAMPTZ)) AS share
FROM candles WHERE open_time >= ? AND open_time < ? GROUP BY symbol ORDER BY symbol
"""
_ENDS = """
SELECT symbol, arg_min(open, open_time) AS entry, arg_max(close, open_time) AS exit
FROM candles WHERE open_time >= ? AND open_time < ? GROUP BY symbol ORDER BY symbol
"""


@dataclass(frozen=True)
class Report:
    """One backtest's report. `first` and `last` are the instants of its first and last scan; money in USD.

    `decisions`: symbol, decision (side, or the status where nobody answered), n, accepted. `reasons`: reason, n of the
    decisions not accepted (one may have several). `gates`: gate, asked, passed, failed, alone (failed as the only one)
    of BUY and SELL. `candles`: symbol, candles, share (of the span's minutes). `baselines`: buy and hold of each symbol
    and always HOLD. `equity`: as_of, balance_usd, equity_usd, open_positions.
    """

    run_id: str
    code_version: str
    first: datetime
    last: datetime
    scans: int
    unfinished: int
    symbols: tuple[str, ...]
    analysts: tuple[str, ...]
    venues: tuple[str, ...]
    fees: str
    slippage: float
    initial_usd: float
    gates_off: tuple[str, ...]
    decisions: pd.DataFrame
    reasons: pd.DataFrame
    gates: pd.DataFrame
    candles: pd.DataFrame
    paper: Summary
    shadow: Summary
    account: Figure
    baselines: tuple[Figure, ...]
    equity: pd.DataFrame

    @property
    def is_demo(self) -> bool:
        """Whether a candle of the sandbox is among those replayed."""
        return any("sandbox" in venue for venue in self.venues)

    @property
    def decided(self) -> int:
        """Decisions made: scans × symbols."""
        return int(self.decisions["n"].sum())

    @property
    def accepted(self) -> int:
        """Of which passed every gate."""
        return int(self.decisions["accepted"].sum())

    @property
    def verdict(self) -> str:
        """One sentence; below the minimum n it only says that there is none."""
        told = self.paper
        if told.verdict == "too few":
            worth = told.figure("mean_r").n_eff
            return (
                f"No verdict: {told.closed} closed trades are worth {worth:.1f} independent ones, and fewer than "
                f"{told.minimum_n} say nothing."
            )
        r = told.figure("mean_r")
        return (
            f"{told.verdict.capitalize()} after costs: {r.value:+.3f} R a trade "
            f"(95 % in {r.lower:+.3f} … {r.upper:+.3f}, n = {r.n})."
        )


def report(target: Store, settings: Settings) -> Report:
    """The report on the backtest that `target` holds; `settings` are those it was made with.

    Raises BacktestError for a store without a backtest, or settings with other fees; ValueError where sources, runs
    or fee presets are mixed.
    """
    with target.reading() as reader:
        scans = reader.query("SELECT * FROM scans ORDER BY as_of")
        outcomes = reader.query(_OUTCOMES)
        _refuse(target, scans, outcomes, settings)
        first, last = (scans["as_of"].iloc[place].to_pydatetime() for place in (0, -1))
        span = (first, max(last, first + MINUTE))
        venues = reader.query("SELECT DISTINCT venue FROM candles ORDER BY venue")["venue"]
        paper, shadow = (
            summary(outcomes, kind=kind, minimum_n=settings.min_effective_n) for kind in ("paper", "shadow")
        )
        return Report(
            run_id=str(scans["run_id"].iloc[0]),
            code_version=", ".join(sorted(set(scans["code_version"]))),
            first=first,
            last=last,
            scans=len(scans),
            unfinished=int((scans["status"] != "finished").sum()),
            symbols=tuple(str(scans["symbols"].iloc[0]).split(",")),
            analysts=tuple(reader.query("SELECT DISTINCT analyst FROM llm_signals ORDER BY 1")["analyst"]),
            venues=tuple(venues),
            fees=settings.fees,
            slippage=settings.slippage,
            initial_usd=settings.account_initial_usd,
            gates_off=tuple(reader.query(_GATES_OFF)["gates_off"]),
            decisions=reader.query(_DECISIONS, (first, last)),
            reasons=reader.query(_REASONS),
            gates=reader.query(_GATES),
            candles=reader.query(_CANDLES, (*span, *span)),
            paper=paper,
            shadow=shadow,
            account=_account(paper, settings.account_initial_usd),
            baselines=_baselines(reader.query(_ENDS, span), settings),
            equity=_equity(reader, settings, [stamp.to_pydatetime() for stamp in scans["as_of"]]),
        )


def _refuse(target: Store, scans: pd.DataFrame, outcomes: pd.DataFrame, settings: Settings) -> None:
    if scans.empty:
        raise BacktestError(f"{target!r} holds no backtest; make one with v7 backtest")
    for frame in (scans, outcomes):
        one_source(frame)
        one_source(frame, "run_id")
    one_source(outcomes, "fee_preset")
    if scans["source"].iloc[0] != SOURCE or (len(outcomes) and outcomes["source"].iloc[0] != SOURCE):
        raise BacktestError(
            f"{target!r} holds {scans['source'].iloc[0]} scans; a report is made of backtest rows only (see v7 stats)"
        )
    if len(outcomes) and outcomes["fee_preset"].iloc[0] != settings.fees:
        raise BacktestError(
            f"{target!r} was made with {outcomes['fee_preset'].iloc[0]} fees, not {settings.fees}; "
            f"set V7_FEES={outcomes['fee_preset'].iloc[0]} to read it, or replay again"
        )


def _account(paper: Summary, initial_usd: float) -> Figure:
    """The closed paper trades' P&L as a share of the initial capital, with the interval of their sum."""
    pnl = paper.figure("total_pnl")
    value = pnl.value / initial_usd if paper.closed else 0.0
    lower, upper = pnl.lower / initial_usd, pnl.upper / initial_usd
    return Figure("v7, closed paper trades", "fraction of the account", value, lower, upper, pnl.n, pnl.n_eff)


def _baselines(ends: pd.DataFrame, settings: Settings) -> tuple[Figure, ...]:
    """Buy and hold of each symbol over the span, as one long trade with the same fills and fees; and always HOLD."""
    rate = fee_preset(settings.fees).rate_per_side
    figures = []
    for row in ends.itertuples():
        bought = entry_fill(row.entry, 1.0, settings.slippage)
        sold = market_exit_fill(row.exit, 1.0, settings.slippage)
        net = gross_return(1.0, bought, sold) - fee_return(rate, bought, sold)
        figures.append(Figure(f"buy and hold {row.symbol}", "fraction of the money", float(net), nan, nan, 1, 1.0))
    return (*figures, Figure("always HOLD", "fraction of the account", 0.0, nan, nan, 0, 0.0))


def _equity(reader: Reader, settings: Settings, instants: Sequence[datetime]) -> pd.DataFrame:
    """The account as the gates saw it, at some of the scans, evenly chosen, the last among them."""
    chosen = _spread(instants, EQUITY_POINTS)
    states = [read_account(settings, reader, as_of, SOURCE).state for as_of in chosen]
    return pd.DataFrame(
        {
            "as_of": pd.Series(chosen, dtype="datetime64[us, UTC]"),
            "balance_usd": [state.balance for state in states],
            "equity_usd": [state.equity for state in states],
            "open_positions": [state.open_positions for state in states],
        }
    )


def _spread(rows: Any, most: int) -> Any:
    """At most `most` of a list's or frame's rows, evenly chosen from the last one backwards, in their order."""
    return rows[::-1][:: max(1, -(-len(rows) // most))][::-1]


# --- in words -------------------------------------------------------------------------------


def markdown(told: Report) -> str:
    """The report as a page of markdown; the counts, the source of the candles and the fees come first."""
    span = f"{told.first:%Y-%m-%d %H:%M}Z … {told.last:%Y-%m-%d %H:%M}Z"
    candles = f"{', '.join(told.venues)}" + (" — DEMO, a simulated market" if told.is_demo else " (real)")
    lines = [
        f"# Backtest {told.run_id}" + (" — DEMO" if told.is_demo else ""),
        "",
        f"**{told.verdict}**",
        "",
        *_table(
            ("what", "value"),
            [
                ("span", span),
                ("scans", f"{told.scans}" + (f", {told.unfinished} of them unfinished" if told.unfinished else "")),
                ("decisions", f"{told.decided} ({', '.join(told.symbols)})"),
                ("accepted", f"{told.accepted}"),
                ("closed", f"{told.paper.closed} paper, {told.shadow.closed} shadow"),
                ("still open", f"{told.paper.open} paper, {told.shadow.open} shadow"),
                ("analyst", ", ".join(told.analysts)),
                ("candles", candles),
                (
                    "fees",
                    f"{told.fees}, {fee_preset(told.fees).rate_per_side:.4%} a side; slippage {told.slippage:.4%}",
                ),
                ("account", f"{told.initial_usd:,.0f} USD"),
                *([("GATES OFF", ", ".join(told.gates_off))] if told.gates_off else []),
                ("code", told.code_version),
            ],
        ),
        "",
        "## Against doing nothing and against holding",
        "",
        *_figures((told.account, *told.baselines)),
        "",
        "The first line risks a small part of the account on each trade, buy and hold all of its money: their sizes "
        "are not comparable, their signs are. One path over one span has n = 1 and no interval.",
        "",
        *_outcomes("Paper outcomes (accepted signals)", told.paper),
        *_outcomes("Shadow outcomes (rejected signals: what the gates cost or saved)", told.shadow),
        "## Decisions",
        "",
        *_table(("symbol", "decision", "n", "accepted"), told.decisions.itertuples(index=False)),
        "",
        "## The gates before BUY and SELL",
        "",
        *_table(("gate", "asked", "passed", "failed", "alone"), told.gates.itertuples(index=False)),
        "",
        "Alone: no other gate stood in the way. A symbol whose cheap gates refuse is not asked for a decision.",
        "",
        "## Why not accepted",
        "",
        *_table(("reason", "n"), told.reasons.itertuples(index=False)),
        "",
        "## Candles",
        "",
        *_table(
            ("symbol", "candles", "share of minutes"),
            ((row.symbol, row.candles, f"{row.share:.1%}") for row in told.candles.itertuples()),
        ),
        "",
        "## Account",
        "",
        *_table(
            ("as of", "balance USD", "equity USD", "open"),
            (
                (f"{row.as_of:%m-%d %H:%M}Z", f"{row.balance_usd:,.2f}", f"{row.equity_usd:,.2f}", row.open_positions)
                for row in _spread(told.equity, 24).itertuples()
            ),
        ),
        "",
    ]
    return "\n".join(lines)


def _outcomes(title: str, told: Summary) -> list[str]:
    counts = f"{told.closed} closed: {told.wins} won, {told.losses} lost, {told.breakevens} even; {told.open} open."
    lines = [f"## {title}", "", counts, ""]
    return [*lines, *_figures(told.figures), ""] if told.closed else lines


def _figures(figures: Sequence[Figure]) -> list[str]:
    return _table(
        ("figure", "value", "95 % interval", "n", "worth", "unit"),
        (
            (
                figure.name.replace("_", " "),
                _value(figure, figure.value),
                f"{_value(figure, figure.lower)} … {_value(figure, figure.upper)}" if isfinite(figure.lower) else "–",
                figure.n,
                f"{figure.n_eff:.1f}",
                figure.unit,
            )
            for figure in figures
        ),
    )


def _value(figure: Figure, value: float) -> str:
    if not isfinite(value):
        return "–"
    if figure.unit == "share":
        return f"{value:.1%}"
    return f"{value:+.3%}" if figure.unit.startswith("fraction") else f"{value:,.2f}"


def _table(header: Sequence[str], rows: Any) -> list[str]:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows)]
    return lines if len(lines) > 2 else ["None."]
