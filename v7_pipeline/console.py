"""What the v7 command prints: the blocks of a scan, tables of signals, the story of one signal, progress bars.

Only presentation, from stored rows: a missing value is a dash, demo data says DEMO, every rate shows its n.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import log10
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from v7_pipeline import __version__
from v7_pipeline.alerts.text import lots_text
from v7_pipeline.analyst.costs import Costs, costs
from v7_pipeline.analyst.regimes import regimes_table
from v7_pipeline.gates.base import GATES
from v7_pipeline.scan.account import read_account
from v7_pipeline.scan.decide import quote_increment
from v7_pipeline.scan.halts import halts_in_force
from v7_pipeline.settings import Settings
from v7_pipeline.store import Reader, Store
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = [
    "RichTeller",
    "banner",
    "budget_block",
    "cost_line",
    "latest_scan",
    "out",
    "scan_blocks",
    "signals_table",
    "statistics_block",
    "theories_blocks",
    "why_blocks",
]

_SIDE_STYLE = {"BUY": "bold green", "SELL": "bold red", "HOLD": "dim"}

_DECISIONS = """
SELECT s.*, g.accepted, g.tier, g.reason_codes, g.quantity, g.risk_usd, g.notional_usd, g.lots, g.capped_by, g.gates_off
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id) WHERE s.as_of = ? ORDER BY s.strategy DESC, s.symbol
"""
_NEWEST_READINGS = """
SELECT * FROM theory_features WHERE as_of <= ? AND as_of > ?
QUALIFY row_number() OVER (PARTITION BY symbol ORDER BY as_of DESC) = 1 ORDER BY symbol
"""
_COST = """
WITH held AS (SELECT as_of, reserved_at, coalesce(cost_usd, reserved_usd) AS usd FROM llm_calls
              WHERE reserved_at >= date_trunc('month', ?::TIMESTAMPTZ) AND as_of <= ?)
SELECT coalesce(sum(usd) FILTER (as_of = ?), 0) AS scan, coalesce(sum(usd), 0) AS month,
       coalesce(sum(usd) FILTER (reserved_at >= date_trunc('day', ?::TIMESTAMPTZ)), 0) AS day FROM held
"""
_COUNTS = """
SELECT s.strategy, s.symbol, count(*) AS decisions, count(*) FILTER (s.side = 'BUY') AS buy,
       count(*) FILTER (s.side = 'SELL') AS sell,
       count(*) FILTER (s.side = 'HOLD') AS hold, count(*) FILTER (s.status = 'abstained') AS abstained,
       count(*) FILTER (s.status = 'skipped') AS skipped, count(*) FILTER (g.accepted) AS accepted
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id)
GROUP BY s.strategy, s.symbol ORDER BY s.strategy DESC, s.symbol
"""
_OUTCOMES = """
SELECT o.*, g.tier FROM outcomes o LEFT JOIN gated_signals g USING (signal_id)
WHERE g.side IS DISTINCT FROM 'HOLD' ORDER BY o.as_of, o.signal_id
"""
_SIGNALS = """
SELECT s.signal_id, s.symbol, s.side, s.confidence, s.entry_price, s.stop_price, s.target_price, g.accepted, g.tier,
       g.reason_codes, g.gates_off, o.outcome, o.r_multiple
FROM llm_signals s LEFT JOIN gated_signals g USING (signal_id)
LEFT JOIN outcomes o ON o.signal_id = s.signal_id AND o.kind <> 'manual'
WHERE s.side IN ('BUY', 'SELL') AND (?::VARCHAR IS NULL OR s.symbol = ?) AND (NOT ? OR g.accepted)
ORDER BY s.as_of DESC, s.symbol LIMIT ?
"""
_PRICES = ("open", "high", "low", "close")
_NEWEST_CANDLES = """
SELECT open_time, open, high, low, close, volume FROM candles WHERE symbol = ? AND open_time < ?
ORDER BY open_time DESC LIMIT 5
"""


def out(*, stderr: bool = False) -> Console:
    """A console; where nobody looks at it, lines are as long as they need to be."""
    return Console(stderr=stderr, highlight=False, width=None if sys.stdout.isatty() else 160)


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s", style="dim")


class RichTeller:
    """Lines and progress bars on the terminal: a bar a stage with count and time left; without a terminal, tenths."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def line(self, text: str) -> None:
        self._console.print(text, markup=False)

    def progress(self, stage: str, done: int, total: int) -> None:
        if not self._console.is_terminal:
            tenth = 10 * done // max(total, 1)
            if self._tenths.get(stage) != tenth:
                self._tenths[stage] = tenth
                self.line(f"{stage} {done}/{total}")
            return
        if self._bars is None:
            columns = (
                TextColumn("{task.description:<10}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bars = Progress(*columns, console=self._console)
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
    who = "the built-in rules (no DEEPSEEK_API_KEY)"
    if settings.analyst_name == "deepseek":
        who = "the sandbox's stand-in for DeepSeek" if demo else f"DeepSeek ({settings.deepseek_model})"
    elif settings.analyst == "rules":
        who = "the built-in rules (V7_ANALYST=rules)"
    elif settings.analyst == "replay":
        who = f"the ledger's answers of {settings.replay_of} (V7_ANALYST=replay)"
    elif settings.analyst in settings.listed_analysts:
        who = f"{settings.analyst} ({settings.listed_analysts[settings.analyst].model})"
    mode = "aggressive" if settings.aggressive else "conservative"
    lines = [
        f"{', '.join(settings.symbols)} · analyst: {who}, {mode}",
        f"at most {settings.max_signals_per_hour} signals an hour · ${settings.daily_budget_usd:g} a day and "
        f"${settings.monthly_budget_usd:g} a month for calls · {settings.ftmo_rules}",
        "Signals and paper trades only; no order is placed. Not financial advice.",
        *_gates_off(settings.gates_off),
    ]
    title = f"V7 {__version__}" + (" — DEMO: simulated market" if demo else " — live")
    return Panel("\n".join(lines), title=title, border_style="yellow" if demo else "blue", expand=False)


def scan_blocks(store: Store, settings: Settings, as_of: datetime) -> Group:
    """The blocks of one scan: signals with reasons, theories, cost, account."""
    with store.reading() as reader:
        rows = reader.query(_DECISIONS, (as_of,))
        features = reader.query(_NEWEST_READINGS, (as_of, as_of - timedelta(hours=4)))
        cost = reader.query(_COST, (as_of, as_of, as_of, as_of)).iloc[0]
        source = str(rows["source"].iloc[0]) if len(rows) else settings.source
        account = read_account(settings, reader, as_of, source).figures()
        decimals = _decimals(reader, rows["symbol"])
        halts = halts_in_force(reader, as_of)
    spent = (
        f"COST  this scan ${cost['scan']:.5f} · today ${cost['day']:.5f} of ${settings.daily_budget_usd:g} · "
        f"month ${cost['month']:.5f} of ${settings.monthly_budget_usd:g}"
    )
    figures = (f"{name.replace('_usd', '_USD').replace('_', ' ')} {_money(value)}" for name, value in account.items())
    ftmo = "FTMO  " + " · ".join(figures)
    signals = _signals_block(rows, decimals, as_of, demo=settings.mode == "demo")
    return Group(*map(_halted, halts), signals, _theories_block(features), Text(spent), Text(ftmo))


def _halted(halt: Mapping[str, Any]) -> Text:
    """A halt that is in force, in one line."""
    what = "PAID CALLS HALTED" if halt["kind"] == "budget" else f"HALTED ({halt['kind']})"
    end = "v7 resume" if halt["until"] is None else f"{halt['until']:%Y-%m-%d %H:%M}Z"
    return Text(f"{what} since {halt['started_at']:%Y-%m-%d %H:%M}Z until {end}: {halt['reason']}", style="bold red")


def _signals_block(rows: Any, decimals: Mapping[str, int], as_of: datetime, *, demo: bool) -> Group:
    table = _table(f"SCAN {as_of:%Y-%m-%d %H:%M}Z" + _demo(demo))
    for name in ("symbol", "side", "conf.", "price", "entry / stop / target", "verdict"):
        table.add_column(name, overflow="fold")
    why: list[Text] = []
    told = _whose(rows)
    for row in rows.to_dict("records"):
        side = _side(row)
        style = _SIDE_STYLE.get(side, "yellow")
        plan = "–"
        if side in ("BUY", "SELL"):
            plan = " / ".join(
                _price(row[f"{level}_price"], decimals[row["symbol"]]) for level in ("entry", "stop", "target")
            )
        verdict = _text(row["reason_codes"])
        if _true(row["accepted"]):
            verdict = f"ACCEPTED {row['tier']}, {_position(row)}"
        verdict = ", ".join([verdict, *_gates_off(row["gates_off"])])
        price = _price(row["market_price"], decimals[row["symbol"]])
        name = f"{row['symbol']}{told(row['strategy'])}"
        table.add_row(name, Text(side, style=style), _number(row["confidence"], 2), price, plan, verdict)
        reason = _text(row["reasoning"] if row["status"] == "answered" else row["status_reason"])
        why.append(Text.assemble((f"{name} {side}: ", style), reason))
    return Group(table, *why)


def _whose(rows: Any) -> Callable[[str], str]:
    """How a row says whose it is: not at all where all are v7's."""
    others = set(rows["strategy"]) - {"v7"} if len(rows) else set()
    return lambda strategy: f" ({strategy})" if others else ""


def _theories_block(features: Any) -> Table:
    """Votes of all theories by symbol: arrows for direction, percentiles under the null."""
    table = _table("THEORIES  vote (percentile under a random walk)")
    table.add_column("theory")
    records = features.to_dict("records")
    for record in records:
        table.add_column(f"{record['symbol']} @ {record['as_of']:%H:%M}Z", justify="right")
    for theory in THEORY_NAMES:
        cells = []
        for record in records:
            vote = record[f"{theory}_vote"]
            arrow = "▲" if vote > 0 else "▼" if vote < 0 else "·"
            cells.append(f"{arrow} {vote:+.2f} ({_number(record[f'{theory}_percentile'], 2)})")
        table.add_row(theory, *cells)
    return table


def statistics_block(store: Store, settings: Settings) -> Group:
    """Counts, outcomes with n and intervals, cost: what `v7 stats` prints."""
    from v7_pipeline.learning.metrics import summary

    with store.reading() as reader:
        counts = reader.query(_COUNTS)
        outcomes = reader.query(_OUTCOMES)
        spent = costs(
            reader,
            datetime.now(UTC),
            day_budget_usd=settings.daily_budget_usd,
            month_budget_usd=settings.monthly_budget_usd,
        )
        regimes = regimes_table(reader)
        scans = reader.query(
            "SELECT count(*) AS n, min(as_of) AS first, max(as_of) AS last, sum(cost_usd) AS cost FROM scans"
        ).iloc[0]
    title = _counted(int(scans["n"]), "scan")
    if scans["n"]:
        title += f", {scans['first']:%Y-%m-%d %H:%M}Z … {scans['last']:%Y-%m-%d %H:%M}Z"
    table = _table(title + _demo(settings.mode == "demo"))
    if set(counts["strategy"]) <= {"v7"}:
        counts = counts.drop(columns="strategy")
    for name in counts.columns:
        table.add_column(name, justify="left" if name in ("strategy", "symbol") else "right")
    for row in counts.itertuples(index=False):
        table.add_row(*map(str, row))
    parts: list[Any] = [table]
    whose = _whose(outcomes)
    for source, strategy in sorted(set(zip(outcomes["source"], outcomes["strategy"], strict=True))):
        own = outcomes[(outcomes["source"] == source) & (outcomes["strategy"] == strategy)]
        for kind in ("paper", "shadow"):
            if (own["kind"] == kind).any():
                told = str(summary(own, kind=kind, minimum_n=settings.min_effective_n))
                parts.append(
                    Panel(
                        Text(told),
                        title=f"OUTCOMES {kind}{whose(strategy)} ({source}), net of {settings.fees} fees",
                        expand=False,
                    )
                )
    if outcomes.empty:
        parts.append(Text("OUTCOMES  none yet"))
    parts.append(Text(f"COST  ${_number(scans['cost'], 4)} for all finished scans"))
    parts.append(Text(cost_line(spent)))
    if len(regimes):
        parts.append(_regimes_block(regimes))
    return Group(*parts)


def _regimes_block(regimes: Any) -> Table:
    """Which model answered from when on, and how its confidence compares with what came of it; never mixed."""
    return _rows(
        "MODELS behind the analyst",
        ("analyst", "model@fingerprint", "since", "calls", "decided", "mean conf.", "win rate", "mean R"),
        [
            (
                row["analyst"], row["regime"], f"{row['first_call']:%Y-%m-%d %H:%M}Z", str(row["calls"]),
                str(row["decided"]), _number(row["mean_confidence"], 2), _number(row["win_rate"], 2),
                _number(row["mean_r"], 2),
            )
            for row in regimes.to_dict("records")
        ],
    )  # fmt: skip


def cost_line(found: Costs) -> str:
    """The analyst's cost in one line: day, month, forecast, a call, a signal, the cache's share."""
    parts = [
        f"today ${found.day_usd:.4f} of ${found.day_budget_usd:g}",
        f"month ${found.month_usd:.4f} of ${found.month_budget_usd:g}, {_forecast(found)}",
        f"a call {_dollars(found.per_call_usd)} (n = {found.calls})",
        f"an accepted signal {_dollars(found.per_accepted_usd)} (n = {found.accepted})",
        f"cached {_share(found.cache_share)} of the prompts' tokens",
    ]
    return "CALLS " + " · ".join(parts)


def budget_block(found: Costs, *, demo: bool) -> Group:
    """What `v7 budget` prints: the periods against their budgets, each analyst's month, and what a signal costs."""
    periods = _rows(
        f"BUDGET {found.as_of:%Y-%m-%d %H:%M}Z{_demo(demo)}",
        ("UTC", "spent", "budget", "left"),
        [
            (name, f"${usd:.4f}", f"${limit:g}", f"${limit - usd:.4f}")
            for name, usd, limit in (
                ("day", found.day_usd, found.day_budget_usd),
                ("month", found.month_usd, found.month_budget_usd),
            )
        ],
    )
    analysts = _rows(
        f"ANALYSTS {found.as_of:%Y-%m}",
        ("analyst", "model", "calls", "attempts", "failed", "cost", "a call", "cached", "tokens out", "latency"),
        [
            (
                entry.analyst, entry.model, str(entry.calls), str(entry.attempts), str(entry.failures),
                f"${entry.usd:.4f}", _dollars(entry.usd / entry.calls), _share(entry.cache_share),
                _text(entry.completion_tokens), f"{_number(entry.latency_s, 2)} s",
            )
            for entry in found.analysts
        ],
    )  # fmt: skip
    lines = [
        f"Of it set aside for {_counted(found.open_calls, 'call')} under way ${found.open_usd:.4f}, held at the worst "
        f"case for {found.unknown_calls} of unknown end ${found.unknown_usd:.4f}"
        + (" (v7 budget reconcile)" if found.unknown_calls else ""),
        f"Month: {_forecast(found)}",
        f"A call {_dollars(found.per_call_usd)} (n = {found.calls}) · an answered decision "
        f"{_dollars(found.per_signal_usd)} (n = {found.answered}) · an accepted signal "
        f"{_dollars(found.per_accepted_usd)} (n = {found.accepted})",
    ]
    return Group(periods, *([analysts] if found.analysts else []), *map(Text, lines))


def _forecast(found: Costs) -> str:
    told = found.forecast
    if told is None:
        return "no forecast: fewer than three whole days of calls"
    return (
        f"forecast ${told.expected_usd:.2f} (95 % in ${told.lower_usd:.2f} … ${told.upper_usd:.2f}, "
        f"n = {told.n_days} days)"
    )


def _dollars(value: float | None) -> str:
    return "–" if value is None else f"${value:.6f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def signals_table(store: Store, *, symbol: str | None, limit: int, accepted_only: bool, demo: bool) -> Table:
    """The newest decisions that are not HOLD (or only the accepted), newest first."""
    with store.reading() as reader:
        rows = reader.query(_SIGNALS, (symbol, symbol, accepted_only, limit))
        decimals = _decimals(reader, rows["symbol"])
    told = f"{_counted(len(rows), 'signal')}, newest first" if len(rows) else "no signals yet"
    table = _table(told + _demo(demo))
    for name in ("signal", "side", "conf.", "entry", "stop", "target", "verdict", "outcome", "R"):
        table.add_column(name, overflow="fold")
    for row in rows.to_dict("records"):
        verdict = f"accepted {row['tier']}" if _true(row["accepted"]) else _text(row["reason_codes"])
        verdict = "\n".join([verdict, *_gates_off(row["gates_off"])])
        table.add_row(
            row["signal_id"],
            Text(row["side"], style=_SIDE_STYLE[row["side"]]),
            _number(row["confidence"], 2),
            *(_price(row[f"{level}_price"], decimals[row["symbol"]]) for level in ("entry", "stop", "target")),
            verdict,
            _text(row["outcome"]),
            _number(row["r_multiple"], 2),
        )
    return table


def why_blocks(store: Store, key: str, *, demo: bool) -> Group:
    """One signal's story: candles → readings → prompt → reply → gates → outcome. KeyError where it is unknown."""
    with store.reading() as reader:
        signal = _signal(reader, key)
        known = (signal["symbol"], signal["features_as_of"])
        readable = not _missing(signal["features_as_of"])
        candles = reader.query(_NEWEST_CANDLES, known) if readable else None
        features = (
            reader.query("SELECT * FROM theory_features WHERE symbol = ? AND as_of = ?", known) if readable else None
        )
        calls = reader.query("SELECT * FROM llm_calls WHERE call_id = ? ORDER BY attempt", (signal["call_id"],))
        gated = reader.query("SELECT * FROM gated_signals WHERE signal_id = ?", (key,))
        outcomes = reader.query("SELECT * FROM outcomes WHERE signal_id = ? ORDER BY kind, side", (key,))
        decimals = _decimals(reader, [signal["symbol"]])[signal["symbol"]]
    title = (
        f"{_side(signal)} {signal['symbol']} at {signal['as_of']:%Y-%m-%d %H:%M}Z by {signal['analyst']}, "
        f"confidence {_number(signal['confidence'], 2)}, source {signal['source']}"
    )
    parts: list[Any] = [Panel(title, title=key + _demo(demo), expand=False)]
    if candles is None or features is None or features.empty:
        parts.append(Text("1 CANDLES and 2 READINGS  none were known at that instant"))
    else:
        cells = ([_cell(value) for value in row] for row in _as_text(candles, decimals).itertuples(index=False))
        parts.append(_rows("1 CANDLES  the newest five that it could know", list(candles.columns), cells))
        parts.append(
            _readings_block(f"2 READINGS  as of {signal['features_as_of']:%H:%M}Z", features.iloc[0].to_dict())
        )
    parts += _call_blocks(signal, calls)
    parts.append(_said_block(signal))
    parts.append(_gates_block(gated.iloc[0].to_dict()) if len(gated) else Text("5 GATES  not asked yet"))
    if outcomes.empty:
        parts.append(_outcome_block(signal, None, decimals))
    parts += [_outcome_block(signal, outcome, decimals) for outcome in outcomes.to_dict("records")]
    return Group(*parts)


def _signal(reader: Reader, key: str) -> dict[str, Any]:
    found = reader.query("SELECT * FROM llm_signals WHERE signal_id = ?", (key,))
    if len(found):
        return dict(found.iloc[0].to_dict())
    near = reader.query("SELECT signal_id FROM llm_signals WHERE side <> 'HOLD' ORDER BY as_of DESC LIMIT 3")
    raise KeyError(f"no signal {key!r}; the newest are {', '.join(near['signal_id']) or 'none yet'} (see `v7 signals`)")


def theories_blocks(store: Store, *, at: datetime, symbols: Sequence[str], demo: bool) -> Group:
    """Each symbol's newest reading as of `at`, a sentence a theory: what `v7 theories` prints.

    KeyError where none of `symbols` has a reading within the four hours before.
    """
    with store.reading() as reader:
        records = reader.query(_NEWEST_READINGS, (at, at - timedelta(hours=4))).to_dict("records")
        known = reader.rows("SELECT min(as_of) AS first, max(as_of) AS last FROM theory_features")[0]
    records = [record for record in records if record["symbol"] in symbols]
    if not records:
        held = f"there are readings from {known['first']:%Y-%m-%d %H:%M}Z to {known['last']:%Y-%m-%d %H:%M}Z"
        raise KeyError(
            f"no reading of {', '.join(symbols)} in the four hours before {at:%Y-%m-%d %H:%M}Z; "
            f"{held if known['first'] else 'there are none at all'}; "
            f"fill them with v7 backfill --from {at:%Y-%m-%d} --to {at:%Y-%m-%d}"
        )
    return Group(
        *(_readings_block(f"{r['symbol']}  as of {r['as_of']:%Y-%m-%d %H:%M}Z{_demo(demo)}", r) for r in records)
    )


def _readings_block(title: str, record: Mapping[str, Any]) -> Table:
    """One reading: each theory's vote, score, place under its null and sentence."""
    from v7_pipeline.theories import explain

    rows = (
        (
            theory,
            f"{record[f'{theory}_vote']:+.2f}",
            f"{record[f'{theory}_score']:.2f}",
            _number(record[f"{theory}_percentile"], 3),
            explain(theory, record),
        )
        for theory in THEORY_NAMES
    )
    title = f"{title}, {record['observed_share']:.0%} of minutes observed"
    return _rows(title, ("theory", "vote", "score", "percentile", "what it says"), rows)


def _call_blocks(signal: Mapping[str, Any], calls: Any) -> list[Any]:
    """The prompt and the reply as they are in the ledger, or why there was no call."""
    if calls.empty:
        answered = signal["status"] == "answered"
        reply = signal["reasoning"] if answered else signal["status_reason"]
        why = f"decided by {signal['analyst']} without a call" if answered else "no call was made"
        return [Text(f"3 PROMPT  {why}"), Panel(Text(_text(reply)), title=f"4 REPLY  {signal['status']}", expand=False)]
    call = calls.iloc[-1]
    messages = json.loads(call["prompt"])
    messages = messages if isinstance(messages, list) else messages.get("messages", [])
    prompt = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
    told = (
        f"{_counted(len(calls), 'attempt')}, {_text(call['status'])}, ${_number(call['cost_usd'], 6)}, "
        f"{_number(call['latency_s'], 2)} s"
    )
    return [
        Panel(Text(prompt), title=f"3 PROMPT  version {call['prompt_version'][:12]}, {call['model']}"),
        Panel(Text(_text(call["raw_reply"])), title=f"4 REPLY  {told}"),
    ]


def _said_block(signal: Mapping[str, Any]) -> Text:
    """What would change the analyst's mind, and which numbers of its reasoning the prompt does not hold."""
    lines = []
    if not _missing(signal["would_change_my_mind"]):
        lines.append(f"would change its mind: {signal['would_change_my_mind']}")
    if _missing(signal["ungrounded_numbers"]):
        lines.append("numbers of the reasoning: not checked against a prompt")
    else:
        wrong = json.loads(signal["ungrounded_numbers"])
        told = f"NOT in the prompt: {', '.join(wrong)}" if wrong else "all in the prompt"
        lines.append(f"numbers of the reasoning: {told}")
    return Text("\n".join(lines))


def _gates_block(gate: Mapping[str, Any]) -> Table:
    inputs = json.loads(gate["gate_inputs"])
    verdict = "accepted" if _true(gate["accepted"]) else f"not accepted: {_text(gate['reason_codes'])}"
    rows = (
        (
            name,
            _passed(gate[f"{name}_ok"]),
            ", ".join(f"{k} {_seen(v)}" for k, v in inputs.get(name, {}).items() if k != "reasons"),
        )
        for name in GATES
    )
    if _true(gate["accepted"]):
        verdict += f", {_position(gate)}"
    verdict = " · ".join([verdict, *_gates_off(gate["gates_off"])])
    return _rows(f"5 GATES  {verdict}", ("gate", "passed", "what it saw"), rows)


def _position(row: Mapping[str, Any]) -> str:
    """A position in units, lots and dollars, and what it risks."""
    base = str(row["symbol"]).partition("-")[0]
    capped = f", capped by {row['capped_by']}" if not _missing(row["capped_by"]) else ""
    return (
        f"{_number(row['quantity'], 6)} {base}, {lots_text(row['lots'])}, ${_money(row['notional_usd'])}, "
        f"risk ${_money(row['risk_usd'])}{capped}"
    )


def _gates_off(gates: Any) -> list[str]:
    """The line that says which gates do not block; none where all do."""
    named = gates if isinstance(gates, str) else "" if _missing(gates) else ",".join(gates)
    return [f"GATES OFF: {named}"] if named else []


def _as_text(candles: Any, decimals: int) -> Any:
    """Candles with their prices to the product's step."""
    prices = {name: candles[name].map(lambda value: _price(value, decimals)) for name in _PRICES}
    return candles.assign(**prices, volume=candles["volume"].map(lambda value: _number(value, 4)))


def _outcome_block(signal: Mapping[str, Any], outcome: Mapping[str, Any] | None, decimals: int) -> Any:
    if outcome is None:
        opened = _side(signal) in ("BUY", "SELL")
        return Text("6 OUTCOME  " + ("not followed yet" if opened else "none: nothing was opened"))
    # Of a HOLD both sides are followed: what it left out.
    kind = outcome["kind"] if _side(signal) != "HOLD" else f"what the {outcome['side']} would have been"
    entry = f"entry {_price(outcome['entry_price'], decimals)} at {_cell(outcome['entry_time'])}"
    if outcome["outcome"] == "open":
        return Panel(Text(f"open ({kind}): {entry}, not closed yet"), title="6 OUTCOME", expand=False)
    told = (
        f"{outcome['outcome']} ({kind}): {entry}, "
        f"exit {_price(outcome['exit_price'], decimals)} at {_cell(outcome['exit_time'])} "
        f"by {_text(outcome['exit_reason'])}; "
        f"net return {_number(outcome['net_return'], 5)}, {_number(outcome['r_multiple'], 2)} R, "
        f"P&L ${_number(outcome['pnl_usd'], 2)}"
    )
    return Panel(Text(told), title="6 OUTCOME", expand=False)


def latest_scan(store: Store) -> datetime | None:
    """The newest scan's instant, or None."""
    newest = store.query("SELECT max(as_of) AS newest FROM scans")["newest"].iloc[0]
    return None if _missing(newest) else newest.to_pydatetime()


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", expand=False)


def _rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = _table(title)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _demo(demo: bool) -> str:
    return " — DEMO" if demo else ""


def _side(row: Mapping[str, Any]) -> str:
    """The side, or the status where there is none."""
    return str(row["status"] if _missing(row["side"]) else row["side"])


def _true(value: Any) -> bool:
    return not _missing(value) and bool(value)


def _missing(value: Any) -> bool:
    return value is None or str(value) in ("<NA>", "NaT", "nan")


def _number(value: Any, digits: int) -> str:
    return "–" if _missing(value) else f"{float(value):.{digits}f}"


def _money(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else _text(value)


def _decimals(reader: Reader, symbols: Iterable[Any]) -> dict[str, int]:
    """Decimals of each product's price step, as its newest candles show it; 2 where there are none."""
    found = {}
    for symbol in sorted(set(symbols)):
        candles = reader.newest("candles", 240, symbols=[symbol])
        found[symbol] = 2 if candles.empty else round(-log10(quote_increment(candles)))
    return found


def _price(value: Any, decimals: int) -> str:
    """A price in USD to its product's step: cents of a bitcoin, hundred-thousandths of a dogecoin."""
    return "–" if _missing(value) else f"{float(value):,.{decimals}f}"


def _seen(value: Any) -> str:
    """An input of a gate, without the digits that binary arithmetic adds."""
    return f"{value:.8g}" if isinstance(value, float) else _text(value)


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _text(value: Any) -> str:
    return "–" if _missing(value) else str(value)


def _cell(value: Any) -> str:
    if _missing(value):
        return "–"
    return f"{value:%m-%d %H:%M}Z" if isinstance(value, datetime) else _text(value)


def _passed(value: Any) -> str:
    return "not asked" if _missing(value) else "yes" if bool(value) else "NO"
