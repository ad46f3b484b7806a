"""A store whose budget and account a test moves as it likes: calls of a price, trades closed with an amount."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.store import arrow_rows
from v7_pipeline.store.schema import table

NOW = datetime(2026, 11, 20, 12, 0, 31, tzinfo=UTC)  # 13:00 in Prague
MARKS = {"source": "demo", "run_id": "test", "code_version": "0"}
MINUTE = timedelta(minutes=1)


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **span: float) -> None:
        self.now += timedelta(**span)


def watched(make_settings: Callable[..., Any], **changes: Any) -> Runtime:
    """A runtime in demo mode on a fresh store, at NOW."""
    settings = make_settings(**{"mode": "demo", "commission": "BTC-USD=0"} | changes)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    runtime = build_runtime(settings, clock=Clock(NOW))
    runtime.prepare_store()
    return runtime


def put(runtime: Runtime, name: str, **values: Any) -> None:
    """One row of table `name`; what is not given is missing."""
    row = dict.fromkeys(table(name).column_names) | values | MARKS
    with runtime.store.transaction() as tx:
        tx.upsert(name, arrow_rows(name, [row]))


def put_call(
    runtime: Runtime, key: str, usd: float, *, at: datetime, reserved_usd: float = 0.0, analyst: str = "deepseek"
) -> None:
    """A settled call that cost `usd`."""
    put(
        runtime, "llm_calls", call_id=key, attempt=1, signal_id=key, symbol="BTC-USD", as_of=at, analyst=analyst,
        model="m", prompt="[]", prompt_hash="h", prompt_version="v", parameters="{}", status="settled",
        reserved_at=at, settled_at=at, reserved_usd=reserved_usd, cost_usd=usd, price_version="p",
    )  # fmt: skip


def put_closed(runtime: Runtime, amount: float, when: datetime) -> None:
    """A paper trade of one unit, bought at 100,000 and closed with exactly `amount` USD in the minute of `when`."""
    at = when.replace(second=0, microsecond=0)
    key = f"v7-BTC-USD-{at:%Y%m%dT%H%M%SZ}"
    put(
        runtime, "llm_signals", signal_id=key, as_of=at, decided_at=at, symbol="BTC-USD", strategy="v7",
        analyst="rules", side="BUY", stop_price=100_000.0 + min(amount, 0.0), entry_price=100_000.0,
        target_price=120_000.0, horizon_minutes=240, status="answered",
    )  # fmt: skip
    put(
        runtime, "outcomes", signal_id=key, kind="paper", as_of=at, symbol="BTC-USD", strategy="v7", side="BUY",
        entry_time=at, entry_price=100_000.0, exit_time=at, exit_price=100_000.0 + amount, exit_reason="time",
        ambiguous=False, quantity=1.0, pnl_usd=amount, outcome="win" if amount > 0 else "loss", fee_preset="none",
        followed_until=at + MINUTE,
    )  # fmt: skip


def put_scan(runtime: Runtime, as_of: datetime) -> None:
    """A scan that has begun."""
    put(runtime, "scans", as_of=as_of, started_at=as_of, symbols="BTC-USD", status="started", failures="{}")


def alerts(runtime: Runtime, kind: str | None = None) -> list[dict[str, Any]]:
    """The outbox in the order of its events."""
    rows = runtime.store.rows("SELECT * FROM alerts ORDER BY created_at, alert_id")
    return [row for row in rows if kind in (None, row["kind"])]


def titles(runtime: Runtime, kind: str | None = None) -> list[str]:
    return [row["title"].removeprefix("DEMO ") for row in alerts(runtime, kind)]


def crossings(runtime: Runtime) -> list[tuple[str, str, float, bool]]:
    """(subject, period, level, whether it is still crossed) in the order of crossing."""
    rows = runtime.store.rows("SELECT * FROM crossings ORDER BY crossed_at, subject, level")
    return [(row["subject"], row["period"], row["level"], row["receded_at"] is None) for row in rows]


def halts(runtime: Runtime) -> list[dict[str, Any]]:
    return runtime.store.rows("SELECT * FROM halts ORDER BY started_at, halt_id")
