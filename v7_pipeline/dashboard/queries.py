"""What the pages show, read from the store in one short visit as plain values; missing is None.

No HTML and no HTTP here.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from v7_pipeline.gates.rulesets import RulesError
from v7_pipeline.scan.account import rule_set
from v7_pipeline.scan.account_figures import account_figures

if TYPE_CHECKING:
    from v7_pipeline.settings import Settings

__all__ = ["ReadableStore", "signals", "snapshot"]


class ReadableStore(Protocol):
    """The part of the store that a reader needs."""

    def reading(self) -> Any:
        """A context manager whose value has `query(sql, params) -> DataFrame`, all on one connection."""


Row = dict[str, Any]

_DECISION = """
SELECT s.signal_id, s.as_of, s.features_as_of, s.decided_at, s.symbol, s.strategy, s.analyst, s.side,
       s.confidence, s.entry_price, s.stop_price, s.target_price, s.horizon_minutes, s.reasoning,
       s.key_theories, s.would_change_my_mind, s.ungrounded_numbers,
       s.market_price, s.price_age_s, s.status, s.status_reason, s.source, g.accepted,
       g.tier, g.reason_codes, g.gates_off, g.quantity, g.lots, g.notional_usd,
       g.capped_by, g.risk_usd, o.outcome, o.exit_reason, o.entry_time,
       o.exit_time, o.net_return, o.r_multiple, o.pnl_usd
FROM llm_signals s
LEFT JOIN gated_signals g USING (signal_id)
LEFT JOIN outcomes o ON o.signal_id = s.signal_id AND o.kind = 'paper'
"""
_LATEST = """
WHERE s.as_of >= ?
QUALIFY row_number() OVER (PARTITION BY s.strategy, s.symbol ORDER BY s.as_of DESC) = 1
ORDER BY s.symbol, s.strategy
"""
# "failed" means that nothing was billed; whatever is not settled counts at what was set aside for it.
_COST = """
SELECT coalesce(sum(coalesce(cost_usd, CASE WHEN status = 'failed' THEN 0 ELSE reserved_usd END)), 0) AS usd,
       count(*) AS calls
FROM llm_calls WHERE reserved_at >= ?
"""
_HALTS = """
SELECT kind, started_at, until, reason FROM halts
WHERE started_at <= ? AND lifted_at IS NULL AND (until IS NULL OR until > ?) ORDER BY started_at
"""
_WIN_RATES = """
SELECT scope, source, mean, lower, upper, n, as_of FROM win_rates WHERE scope IN ('all', 'shadow:all')
QUALIFY row_number() OVER (PARTITION BY scope, source ORDER BY as_of DESC) = 1 ORDER BY source = ? DESC, source, scope
"""
_LOOK_BACK = timedelta(days=7)  # before the newest scan; a decision older than this is no "latest" one


def snapshot(store: ReadableStore, now: datetime, mode: str, settings: Settings | None = None) -> Row:
    """Everything that the page shows at `now`, by the names that its template uses; figures of `mode` come first.

    Without `settings` the account is not known; where they name rules that there are not, `account_problem` says so.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    with store.reading() as reader:
        scans = _rows(reader.query("SELECT * FROM scans ORDER BY as_of DESC LIMIT 1", ()))
        newest = scans[0]["as_of"] if scans else now
        decisions = _rows(reader.query(_DECISION + _LATEST, (newest - _LOOK_BACK,)))
        accepted = _rows(
            reader.query(
                _DECISION + "WHERE g.accepted AND s.as_of >= ? ORDER BY s.as_of DESC, s.symbol LIMIT 500",
                (now - timedelta(days=1),),
            )
        )
        cost = _rows(reader.query(_COST, (midnight,)))[0]
        win_rates = _rows(reader.query(_WIN_RATES, (mode,)))
        halts = _rows(reader.query(_HALTS, (now, now)))
        closes = reader.query(
            "SELECT symbol, open_time, close FROM candles WHERE open_time >= ? ORDER BY symbol, open_time",
            (newest - timedelta(hours=6),),
        )
        account, problem = _account(settings, reader, now)
    scan = scans[0] if scans else None
    for row in decisions:  # a row that no gate has seen yet is not accepted
        row["accepted"] = bool(row["accepted"])
    return {
        "scan": scan,
        "failures": _failures(scan),
        "decisions": decisions,
        "accepted": accepted,
        "cost": cost,
        "win_rates": win_rates,
        "halts": halts,
        "gates_off": sorted(
            {gate for row in decisions for gate in _split(row["gates_off"])}
            | set(settings.gates_off if settings else ())
        ),
        "account": account,
        "account_problem": problem,
        "closes": closes,
        "is_demo": any(row["source"] == "demo" for row in (*scans, *decisions)),
    }


def signals(store: ReadableStore, *, symbol: str | None, limit: int) -> list[Row]:
    """The newest `limit` decisions, newest first, of `symbol` where it is given."""
    where = "WHERE s.symbol = ? " if symbol else ""
    params: tuple[Any, ...] = (symbol, limit) if symbol else (limit,)
    with store.reading() as reader:
        rows = _rows(reader.query(f"{_DECISION} {where}ORDER BY s.as_of DESC, s.symbol, s.strategy LIMIT ?", params))
    for row in rows:
        row["gates_off"], row["reason_codes"] = _split(row["gates_off"]), _split(row["reason_codes"])
    return rows


def _account(settings: Settings | None, reader: Any, now: datetime) -> tuple[Row | None, str | None]:
    """The account's figures, and why there are none: a person must see a wrong setting, not an empty panel."""
    if settings is None:
        return None, None
    try:
        rule_set(settings, now)
    except (KeyError, RulesError) as error:
        return None, str(error.args[0])
    return account_figures(settings, reader, now, settings.source), None


def _rows(frame: pd.DataFrame) -> list[Row]:
    """Rows as plain Python values; NaN, NaT and NA become None."""
    plain = frame.astype(object).where(frame.notna(), None)
    rows = [{str(name): _plain(value) for name, value in row.items()} for row in plain.to_dict("records")]
    for row in rows:
        if row.get("ungrounded_numbers") is not None:
            row["ungrounded_numbers"] = json.loads(row["ungrounded_numbers"])
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return value.tz_convert("UTC").to_pydatetime()
    return value.item() if hasattr(value, "item") else value


def _failures(scan: Row | None) -> dict[str, str]:
    if not scan or not scan["failures"]:
        return {}
    found = json.loads(scan["failures"])
    return {str(name): str(why) for name, why in found.items()} if isinstance(found, dict) else {"scan": str(found)}


def _split(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]
