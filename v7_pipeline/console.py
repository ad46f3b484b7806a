"""What the v7 command prints: the blocks of a scan, tables of signals, the story of one signal, progress bars.

Only presentation, from stored rows: a missing value is a dash, demo data says DEMO, every rate shows its n.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from v7_pipeline import __version__
from v7_pipeline.scan.account import read_account
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store, signal_id
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = ["RichTeller", "banner", "out", "scan_blocks", "signals_table", "statistics_block", "why_blocks"]

_SIDE_STYLE = {"BUY": "bold green", "SELL": "bold red", "HOLD": "dim"}


def out(*, stderr: bool = False) -> Console:
    """A console that is plain where nobody looks at colours."""
    return Console(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


class RichTeller:
    """Lines and progress bars on the terminal; one bar a stage, with count, rate and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def line(self, text: str) -> None:
        self._console.print(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                console=self._console,
            )  # fmt: skip
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def finish(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._tasks = None, {}


def banner(settings: Settings) -> Panel:
    """Who decides, on what, within which limits; demo says so."""
    demo = settings.mode == "demo"
    who = (
        f"DeepSeek ({settings.deepseek_model})"
        if settings.analyst_name == "deepseek"
        else "the built-in rules (no DEEPSEEK_API_KEY)"
    )
    if demo and settings.analyst_name == "deepseek":
        who = "the sandbox's stand-in for DeepSeek"
    lines = [
        f"{', '.join(settings.symbols)} · every scan at its instant, UTC · analyst: {who}",
        f"at most {settings.max_signals_per_hour} signals an hour · ${settings.daily_budget_usd:g} a day, ${settings.monthly_budget_usd:g} a month · "
        f"{'aggressive' if settings.aggressive else 'conservative'} · {settings.ftmo_rules}",
        "Signals and paper trades only; no order is placed. Not financial advice.",
    ]
    title = f"V7 {__version__}" + (" — DEMO: simulated market" if demo else " — live")
    return Panel("\n".join(lines), title=title, border_style="yellow" if demo else "blue", expand=False)


def scan_blocks(store: Store, settings: Settings, as_of: datetime) -> Group:
    """The blocks of one scan: signals, context and theories, cost, account."""
    with store.reading() as reader:
        rows = reader.query(
            "SELECT s.*, g.accepted, g.tier, g.reason_codes, g.quantity, g.risk_usd, g.gate_inputs, g.gates_off FROM llm_signals s "
            "LEFT JOIN gated_signals g USING (signal_id) WHERE s.as_of = ? ORDER BY s.symbol",
            (as_of,),
        )
        features = reader.query(
            "SELECT * FROM theory_features WHERE as_of <= ? AND as_of > ? QUALIFY row_number() OVER (PARTITION BY symbol ORDER BY as_of DESC) = 1 "
            "ORDER BY symbol",
            (as_of, as_of - timedelta(hours=4)),
        )
        cost = reader.query(
            "SELECT count(*) AS calls, sum(coalesce(cost_usd, reserved_usd)) FILTER (as_of = ?) AS scan, "
            "sum(coalesce(cost_usd, reserved_usd)) FILTER (reserved_at >= date_trunc('day', ?::TIMESTAMPTZ)) AS day, "
            "sum(coalesce(cost_usd, reserved_usd)) AS month FROM llm_calls WHERE reserved_at >= date_trunc('month', ?::TIMESTAMPTZ) AND reserved_at <= ?::TIMESTAMPTZ + INTERVAL 10 MINUTE",
            (as_of, as_of, as_of, as_of),
        ).iloc[0]
        source = str(rows["source"].iloc[0]) if len(rows) else settings.source
        account = read_account(settings, reader, as_of, source).figures()
    parts: list[Any] = [_signals_block(rows, as_of, demo=settings.mode == "demo")]
    parts.append(_theories_block(features))
    parts.append(
        Text(
            f"COST  this scan ${_number(cost['scan'], 5, zero='0')} · today ${_number(cost['day'], 5, zero='0')} of ${settings.daily_budget_usd:g} · "
            f"month ${_number(cost['month'], 5, zero='0')} of ${settings.monthly_budget_usd:g}"
        )
    )
    parts.append(_account_line(account))
    return Group(*parts)


def _signals_block(rows: Any, as_of: datetime, *, demo: bool) -> Table:
    table = Table(
        title=f"SCAN {as_of:%Y-%m-%d %H:%M}Z" + (" — DEMO" if demo else ""),
        title_justify="left",
        expand=False,
    )
    for name in ("symbol", "side", "conf.", "price", "plan (entry / stop / target)", "verdict", "why"):
        table.add_column(name, overflow="fold")
    for row in rows.to_dict("records"):
        side = row["side"] if isinstance(row["side"], str) else row["status"]
        plan = "–"
        if side in ("BUY", "SELL"):
            plan = f"{_price(row['entry_price'])} / {_price(row['stop_price'])} / {_price(row['target_price'])}"
        accepted = row["accepted"] is True or str(row["accepted"]) == "True"
        verdict = (
            f"ACCEPTED {row['tier']} · {_number(row['quantity'], 4)} · risk ${_number(row['risk_usd'], 2)}"
            if accepted
            else _text(row["reason_codes"])
        )
        if isinstance(row["gates_off"], str) and row["gates_off"]:
            verdict += f" · GATES OFF: {row['gates_off']}"
        table.add_row(
            row["symbol"], Text(side, style=_SIDE_STYLE.get(side, "yellow")), _number(row["confidence"], 2), _price(row["market_price"]),
            plan, verdict, _text(row["reasoning"]) if row["status"] == "answered" else _text(row["status_reason"]),
        )  # fmt: skip
    return table


def _theories_block(features: Any) -> Table:
    """Votes of all theories by symbol: arrows for direction, percentiles under the null."""
    table = Table(title="THEORIES  vote (percentile under a random walk)", title_justify="left", expand=False)
    table.add_column("theory")
    records = features.to_dict("records")
    for record in records:
        table.add_column(f"{record['symbol']} @ {record['as_of']:%H:%M}Z", justify="right")
    for theory in THEORY_NAMES:
        cells = []
        for record in records:
            vote, percentile = record[f"{theory}_vote"], record[f"{theory}_percentile"]
            arrow = "▲" if vote > 0 else "▼" if vote < 0 else "·"
            cells.append(f"{arrow} {vote:+.2f} ({_number(percentile, 2)})")
        table.add_row(theory, *cells)
    return table


def _account_line(figures: dict[str, Any]) -> Text:
    parts = [f"{name.replace('_', ' ')} {_money(value)}" for name, value in figures.items()]
    return Text("FTMO  " + " · ".join(parts))


def _money(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else _text(value)


def statistics_block(store: Store, settings: Settings) -> Group:
    """Counts, outcomes, win rates with n and interval, cost: what `v7 stats` prints."""
    from v7_pipeline.learning.metrics import summary

    with store.reading() as reader:
        counts = reader.query(
            "SELECT s.symbol, count(*) AS decisions, count(*) FILTER (s.side = 'BUY') AS buy, count(*) FILTER (s.side = 'SELL') AS sell, "
            "count(*) FILTER (s.side = 'HOLD') AS hold, count(*) FILTER (s.status = 'abstained') AS abstained, count(*) FILTER (s.status = 'skipped') AS skipped, "
            "count(*) FILTER (g.accepted) AS accepted FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) GROUP BY s.symbol ORDER BY s.symbol"
        )
        outcomes = reader.query(
            "SELECT o.*, g.tier FROM outcomes o LEFT JOIN gated_signals g USING (signal_id) ORDER BY o.as_of, o.signal_id"
        )
        scans = reader.query(
            "SELECT count(*) AS n, min(as_of) AS first, max(as_of) AS last, sum(cost_usd) AS cost FROM scans"
        ).iloc[0]
    title = f"{int(scans['n'])} scans" + (
        f", {scans['first']:%Y-%m-%d %H:%M}Z … {scans['last']:%Y-%m-%d %H:%M}Z" if scans["n"] else ""
    )
    table = Table(title=title + (" — DEMO" if settings.mode == "demo" else ""), title_justify="left", expand=False)
    for name in counts.columns:
        table.add_column(name, justify="left" if name == "symbol" else "right")
    for row in counts.itertuples(index=False):
        table.add_row(*map(str, row))
    parts: list[Any] = [table]
    sources = sorted(outcomes["source"].unique()) if len(outcomes) else []
    for source in sources:
        told = summary(outcomes[outcomes["source"] == source])
        parts.append(Panel(str(told), title=f"OUTCOMES ({source}), net of {settings.fees} fees", expand=False))
    if not sources:
        parts.append(Text("OUTCOMES  none yet"))
    parts.append(Text(f"COST  ${_number(scans['cost'], 4, zero='0')} for all scans"))
    return Group(*parts)


def signals_table(store: Store, *, symbol: str | None, limit: int, accepted_only: bool, demo: bool) -> Table:
    """The newest decisions that are not HOLD (or only the accepted), newest first."""
    where = ["s.side IN ('BUY', 'SELL')"]
    values: list[Any] = []
    if symbol:
        where.append("s.symbol = ?")
        values.append(symbol)
    if accepted_only:
        where.append("g.accepted")
    rows = store.query(
        "SELECT s.signal_id, s.side, s.confidence, s.entry_price, s.stop_price, s.target_price, g.accepted, g.tier, g.reason_codes, o.outcome, o.r_multiple "
        "FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) LEFT JOIN outcomes o USING (signal_id) "
        f"WHERE {' AND '.join(where)} ORDER BY s.as_of DESC, s.symbol LIMIT {int(limit)}",
        tuple(values),
    )
    table = Table(title=f"{len(rows)} newest signals" + (" — DEMO" if demo else ""), title_justify="left", expand=False)
    for name in ("signal", "side", "conf.", "entry", "stop", "target", "verdict", "outcome", "R"):
        table.add_column(name, overflow="fold")
    for row in rows.to_dict("records"):
        verdict = f"accepted {row['tier']}" if str(row["accepted"]) == "True" else _text(row["reason_codes"])
        table.add_row(
            row["signal_id"], Text(row["side"], style=_SIDE_STYLE[row["side"]]), _number(row["confidence"], 2), _price(row["entry_price"]),
            _price(row["stop_price"]), _price(row["target_price"]), verdict, _text(row["outcome"]), _number(row["r_multiple"], 2),
        )  # fmt: skip
    return table


def why_blocks(store: Store, key: str, *, demo: bool) -> Group:
    """One signal from candles to outcome: candles → readings → prompt → reply → gates → outcome. KeyError where unknown."""
    from v7_pipeline.theories import explain

    with store.reading() as reader:
        found = reader.query("SELECT * FROM llm_signals WHERE signal_id = ?", (key,))
        if found.empty:
            near = reader.query("SELECT signal_id FROM llm_signals WHERE side <> 'HOLD' ORDER BY as_of DESC LIMIT 3")
            known = ", ".join(near["signal_id"]) or "none yet"
            raise KeyError(f"no signal {key!r}; the newest are {known} (see `v7 signals`)")
        signal = found.iloc[0]
        candles = reader.query(
            "SELECT open_time, open, high, low, close, volume FROM candles WHERE symbol = ? AND open_time < ? ORDER BY open_time DESC LIMIT 5",
            (signal["symbol"], signal["features_as_of"]),
        )
        features = reader.query(
            "SELECT * FROM theory_features WHERE symbol = ? AND as_of = ?",
            (signal["symbol"], signal["features_as_of"]),
        )
        calls = reader.query("SELECT * FROM llm_calls WHERE signal_id = ? ORDER BY attempt", (key,))
        gated = reader.query("SELECT * FROM gated_signals WHERE signal_id = ?", (key,))
        outcome = reader.query("SELECT * FROM outcomes WHERE signal_id = ?", (key,))
    side = signal["side"] if isinstance(signal["side"], str) else signal["status"]
    parts: list[Any] = [
        Panel(
            f"{side} {signal['symbol']} at {signal['as_of']:%Y-%m-%d %H:%M}Z by {signal['analyst']}, confidence {_number(signal['confidence'], 2)}, source {signal['source']}",
            title=key + (" — DEMO" if demo else ""),
            expand=False,
        ),
        _rows(
            "1 CANDLES  the newest five it could know",
            candles.columns,
            ([_cell(v) for v in row] for row in candles.itertuples(index=False)),
        ),
    ]
    if len(features):
        record = features.iloc[0].to_dict()
        parts.append(
            _rows(
                f"2 READINGS  as of {signal['features_as_of']:%H:%M}Z, {record['observed_share']:.0%} of minutes observed",
                ("theory", "vote", "score", "percentile", "what it says"),
                (
                    (
                        theory,
                        f"{record[f'{theory}_vote']:+.2f}",
                        f"{record[f'{theory}_score']:.2f}",
                        _number(record[f"{theory}_percentile"], 3),
                        explain(theory, record),
                    )
                    for theory in THEORY_NAMES
                ),
            )
        )
    else:
        parts.append(Text("2 READINGS  none were known at that instant"))
    if len(calls):
        call = calls.iloc[-1]
        messages = json.loads(call["prompt"])
        messages = messages if isinstance(messages, list) else messages.get("messages", [])
        prompt = "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)
        parts.append(Panel(Text(prompt), title=f"3 PROMPT  version {call['prompt_version'][:12]}, {call['model']}"))
        cost = f"{len(calls)} attempt(s), {_text(call['status'])}, ${_number(call['cost_usd'], 6)}, {_number(call['latency_s'], 2)} s"
        parts.append(Panel(Text(_text(call["raw_reply"])), title=f"4 REPLY  {cost}"))
    else:
        parts.append(
            Text(
                f"3 PROMPT  none: decided by {signal['analyst']}"
                if signal["status"] == "answered"
                else "3 PROMPT  no call was made"
            )
        )
        reply = signal["reasoning"] if signal["status"] == "answered" else signal["status_reason"]
        parts.append(Panel(Text(_text(reply)), title=f"4 REPLY  {signal['status']}"))
    if len(gated):
        gate = gated.iloc[0]
        names = ("freshness", "halt", "budget", "plan", "confidence", "rate", "ftmo")
        inputs = json.loads(gate["gate_inputs"])
        parts.append(
            _rows(
                f"5 GATES  {'accepted' if str(gate['accepted']) == 'True' else 'not accepted: ' + _text(gate['reason_codes'])}",
                ("gate", "passed", "what it saw"),
                (
                    (
                        name,
                        _passed(gate[f"{name}_ok"]),
                        json.dumps(inputs.get(name, inputs.get(f"{name}_limit", {})), default=str),
                    )
                    for name in names
                ),
            )
        )
    if len(outcome):
        o = outcome.iloc[0]
        parts.append(
            Panel(
                f"{o['outcome']} ({o['kind']}): entry {_price(o['entry_price'])} at {_cell(o['entry_time'])}, exit {_price(o['exit_price'])} at {_cell(o['exit_time'])} "
                f"by {_text(o['exit_reason'])}; net return {_number(o['net_return'], 5)}, {_number(o['r_multiple'], 2)} R, P&L ${_number(o['pnl_usd'], 2)}",
                title="6 OUTCOME",
                expand=False,
            )
        )
    else:
        parts.append(
            Text(
                "6 OUTCOME  none: nothing was opened"
                if side in ("HOLD", "abstained", "skipped")
                else "6 OUTCOME  not followed yet"
            )
        )
    return Group(*parts)


def latest_scan(store: Store) -> datetime | None:
    """The newest scan's instant, or None."""
    newest = store.query("SELECT max(as_of) AS newest FROM scans")["newest"].iloc[0]
    return None if newest is None or newest != newest else newest.to_pydatetime()


def id_at(symbol: str, as_of: datetime) -> str:
    """The v7 strategy's signal of `symbol` at `as_of`."""
    return signal_id("v7", symbol, as_of)


def _rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", expand=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _missing(value: Any) -> bool:
    return value is None or value != value or str(value) in ("<NA>", "NaT")


def _number(value: Any, digits: int, *, zero: str = "–") -> str:
    return zero if _missing(value) else f"{float(value):.{digits}f}"


def _price(value: Any) -> str:
    """Prices with the digits they were stored with: they were rounded to the product's increment when made."""
    return "–" if _missing(value) else f"{float(value):,.10g}" if float(value) < 1 else f"{float(value):,.2f}"


def _text(value: Any) -> str:
    return "–" if _missing(value) else str(value)


def _cell(value: Any) -> str:
    if _missing(value):
        return "–"
    return (
        f"{value:%m-%d %H:%M}Z"
        if isinstance(value, datetime)
        else f"{value:.10g}"
        if isinstance(value, float)
        else str(value)
    )


def _passed(value: Any) -> str:
    return "not asked" if _missing(value) else "yes" if bool(value) else "NO"
