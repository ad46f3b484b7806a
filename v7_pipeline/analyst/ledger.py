"""The ledger: every attempt to reach a paid analyst, reserved at its worst case before and settled after, in llm_calls.

Spend is always a query over the stored rows; nothing is kept in memory. Prices belong to prices.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

from v7_pipeline.analyst.base import BUDGET_DAY, BUDGET_MONTH, require_aware
from v7_pipeline.store import arrow_rows
from v7_pipeline.store.schema import PROVENANCE, table

if TYPE_CHECKING:
    from v7_pipeline.analyst.prices import Usage
    from v7_pipeline.store import Store, Transaction

__all__ = [
    "Answered",
    "BudgetRefused",
    "Call",
    "CallInFlightError",
    "Ending",
    "Ledger",
    "Received",
    "Reservation",
    "Spent",
]

# A reservation without an end after this long belongs to a process that died; its cost stays the worst case.
LOST_AFTER = timedelta(hours=1)
# Guards the sum of floats: a budget of 3.00 is not broken by the rounding of its last addend.
CENT_DUST = 1e-9

_SPENT = """
SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (reserved_at >= ?), 0) AS day_usd,
       coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS month_usd
FROM llm_calls WHERE reserved_at >= ? AND reserved_at < ?
"""
_LOST = """
UPDATE llm_calls SET status = 'unknown', cost_usd = reserved_usd, settled_at = ?,
       error = 'its process ended before the answer was settled'
WHERE status = 'reserved' AND (call_id IN (SELECT unnest(?::VARCHAR[])) OR reserved_at < ?)
"""
_SEEN = """
SELECT call_id, attempt, status, run_id, reserved_at FROM llm_calls
WHERE call_id IN (SELECT unnest(?::VARCHAR[])) OR (status = 'reserved' AND reserved_at < ?)
"""
_ANSWERED = """
SELECT call_id, raw_reply, finish_reason FROM llm_calls
WHERE call_id IN (SELECT unnest(?::VARCHAR[])) AND raw_reply IS NOT NULL AND finish_reason IS NOT NULL
ORDER BY call_id, attempt
"""


class CallInFlightError(RuntimeError):
    """Another run reserved the same call a moment ago and may be waiting for its answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt about to be made, as it goes into the ledger. `worst_case_usd` is set aside for it."""

    call_id: str
    signal_id: str
    symbol: str
    as_of: datetime
    analyst: str
    model: str
    prompt: str
    prompt_hash: str
    prompt_version: str
    parameters: str
    price_version: str
    worst_case_usd: float


@dataclass(frozen=True, slots=True)
class Received:
    """What came back, in the ledger's columns; None where the answer did not say."""

    text: str | None
    finish_reason: str | None
    model: str | None
    fingerprint: str | None
    usage: Usage | None
    latency_s: float


@dataclass(frozen=True)
class Reservation:
    """A row of the ledger with its worst case set aside; `row` is the row as written."""

    row: Mapping[str, Any]

    @property
    def call_id(self) -> str:
        return str(self.row["call_id"])

    @property
    def reserved_at(self) -> datetime:
        at: datetime = self.row["reserved_at"]
        return at

    @property
    def reserved_usd(self) -> float:
        return float(self.row["reserved_usd"])

    def settled(self, received: Received, cost_usd: float, at: datetime, error: str | None = None) -> Ending:
        """The call ended and its true cost is known; `error` says what was wrong with the answer, if anything."""
        return self._ended("settled", cost_usd, at, error, received)

    def failed(self, error: str, at: datetime, latency_s: float | None = None) -> Ending:
        """The call was refused: nothing is billed."""
        return self._ended("failed", 0.0, at, error, latency_s=latency_s)

    def unknown(
        self, error: str, at: datetime, latency_s: float | None = None, received: Received | None = None
    ) -> Ending:
        """Whether and what the call cost is not known: it stays charged at its worst case."""
        return self._ended("unknown", self.reserved_usd, at, error, received, latency_s=latency_s)

    def _ended(
        self,
        status: Literal["settled", "failed", "unknown"],
        cost_usd: float,
        at: datetime,
        error: str | None,
        received: Received | None = None,
        latency_s: float | None = None,
    ) -> Ending:
        require_aware(at, "at")
        changes: dict[str, Any] = {"status": status, "cost_usd": cost_usd, "settled_at": at, "error": _storable(error)}
        changes["latency_s"] = latency_s
        if received is not None:
            changes |= {
                "raw_reply": _storable(received.text),
                "returned_model": _storable(received.model),
                "fingerprint": _storable(received.fingerprint),
                "finish_reason": _storable(received.finish_reason),
                "latency_s": received.latency_s,
            }
            if received.usage is not None:
                changes |= {
                    "prompt_tokens": received.usage.prompt,
                    "cache_hit_tokens": received.usage.cache_hit,
                    "completion_tokens": received.usage.completion,
                    "reasoning_tokens": received.usage.reasoning,
                }
        return Ending({**self.row, **changes})


@dataclass(frozen=True)
class Ending:
    """A reservation's row with its end filled in, to be written."""

    row: Mapping[str, Any]

    @property
    def cost_usd(self) -> float:
        return float(self.row["cost_usd"])


@dataclass(frozen=True, slots=True)
class BudgetRefused:
    """A call that does not fit; `reason` is BUDGET_DAY or BUDGET_MONTH."""

    call_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that was answered before: the raw reply and how it ended."""

    call_id: str
    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Spent:
    """USD spent (open reservations at their worst case) in the UTC day and month, and what is left of the budgets."""

    day_usd: float
    month_usd: float
    day_room: float
    month_room: float


class Ledger:
    """The calls of one store under one pair of budgets (USD a UTC day, USD a UTC month).

    `provenance` holds source, run_id and code_version of the rows written. Every method is one transaction.
    """

    def __init__(
        self, store: Store, *, daily_budget_usd: float, monthly_budget_usd: float, provenance: Mapping[str, str]
    ) -> None:
        wanted = {column.name for column in PROVENANCE}
        if set(provenance) != wanted:
            raise ValueError(f"the ledger's provenance needs exactly {', '.join(sorted(wanted))}")
        if not (daily_budget_usd >= 0 and monthly_budget_usd >= 0):
            raise ValueError(
                f"budgets are USD from 0 up, not {daily_budget_usd} a day and {monthly_budget_usd} a month"
            )
        self._store = store
        self._day, self._month = daily_budget_usd, monthly_budget_usd
        self._provenance = dict(provenance)

    @overload
    def reserve(self, calls: Sequence[Call], now: datetime) -> list[Reservation | BudgetRefused]: ...
    @overload
    def reserve(
        self, calls: Sequence[Call], now: datetime, *, reuse: bool, lease: timedelta | None = None
    ) -> list[Reservation | BudgetRefused | Answered]: ...
    def reserve(
        self, calls: Sequence[Call], now: datetime, *, reuse: bool = False, lease: timedelta | None = None
    ) -> list[Any]:
        """Set aside the worst case of each call that both budgets still hold; one result a call, in order.

        With `reuse` a call that the ledger has an answer to is not reserved: the answer is the result. In the same
        transaction, reservations that an earlier process left open for these calls (or anywhere, longer than an hour
        ago) are settled as unknown at their worst case, and attempts are numbered on. With `lease` a reservation of
        another run younger than that may still be under way: CallInFlightError, and nothing is written.
        """
        require_aware(now, "now")
        if not calls:
            return []
        now = now.astimezone(UTC)
        ids = [call.call_id for call in calls]
        if len(set(ids)) != len(ids):
            raise ValueError("a call can be reserved once at a time")
        with self._store.transaction() as tx:
            seen = tx.rows(_SEEN, (ids, now - LOST_AFTER))
            open_rows = [row for row in seen if row["status"] == "reserved"]
            if lease is not None and any(
                row["run_id"] != self._provenance["run_id"] and row["reserved_at"] > now - lease for row in open_rows
            ):
                raise CallInFlightError("another run is asking this very question")
            if open_rows:
                tx.execute(_LOST, (now, ids, now - LOST_AFTER))
            attempts: dict[str, int] = {}
            for row in seen:
                attempts[row["call_id"]] = max(row["attempt"], attempts.get(row["call_id"], 0))
            known = _answered(tx, ids) if reuse and any(call_id in attempts for call_id in ids) else {}
            spent = self._spent(tx, now)
            day_room, month_room = spent.day_room, spent.month_room
            results: list[Reservation | BudgetRefused | Answered] = []
            for call in calls:
                if call.call_id in known:
                    results.append(known[call.call_id])
                elif refusal := _refusal(call.worst_case_usd, day_room, month_room):
                    results.append(BudgetRefused(call.call_id, refusal))
                else:
                    day_room, month_room = day_room - call.worst_case_usd, month_room - call.worst_case_usd
                    results.append(self._reservation(call, int(attempts.get(call.call_id, 0)) + 1, now))
            rows = [result.row for result in results if isinstance(result, Reservation)]
            if rows:
                tx.append("llm_calls", arrow_rows("llm_calls", rows))  # their attempts are beyond all that were seen
        return results

    def write(self, endings: Sequence[Ending], *, also: Callable[[Transaction], None] | None = None) -> None:
        """Write how reserved calls ended, all in one transaction; `also` writes what belongs to them into the same."""
        if not endings:
            return
        with self._store.transaction() as tx:
            tx.put("llm_calls", arrow_rows("llm_calls", [ending.row for ending in endings]))
            if also is not None:
                also(tx)

    def answered(self, call_ids: Sequence[str]) -> dict[str, Answered]:
        """The newest answer to each of these calls that has one.

        A process that died between settling and writing its signal finds the answer here when it is run again.
        """
        return _answered(self._store, call_ids)

    def spent(self, now: datetime) -> Spent:
        """What has been spent in the UTC day and month of `now`."""
        require_aware(now, "now")
        return self._spent(self._store, now.astimezone(UTC))

    def budget_room(self, now: datetime, worst_case_usd: float) -> int:
        """How many calls of this worst case both budgets still hold; 0 is none (and false)."""
        spent = self.spent(now)
        room = min(spent.day_room, spent.month_room) + CENT_DUST
        if worst_case_usd <= 0:
            return sys.maxsize
        return max(int(room // worst_case_usd), 0)

    def _spent(self, reader: Any, now: datetime) -> Spent:
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        month = day.replace(day=1)
        following = (month + timedelta(days=32)).replace(day=1)
        row = reader.rows(_SPENT, (day, month, following))[0]
        day_usd, month_usd = float(row["day_usd"]), float(row["month_usd"])
        return Spent(day_usd, month_usd, self._day - day_usd, self._month - month_usd)

    def _reservation(self, call: Call, attempt: int, now: datetime) -> Reservation:
        row: dict[str, Any] = dict.fromkeys(table("llm_calls").column_names)
        row |= {
            "call_id": call.call_id, "attempt": attempt, "signal_id": call.signal_id, "symbol": call.symbol,
            "as_of": call.as_of.astimezone(UTC), "analyst": call.analyst, "model": call.model,
            "prompt": call.prompt, "prompt_hash": call.prompt_hash, "prompt_version": call.prompt_version,
            "parameters": call.parameters, "status": "reserved", "reserved_at": now,
            "reserved_usd": call.worst_case_usd, "price_version": call.price_version,
        }  # fmt: skip
        return Reservation(row | self._provenance)


def _answered(reader: Any, call_ids: Sequence[str]) -> dict[str, Answered]:
    rows = reader.rows(_ANSWERED, (list(call_ids),))
    return {row["call_id"]: Answered(row["call_id"], row["raw_reply"], row["finish_reason"]) for row in rows}


def _refusal(worst_case_usd: float, day_room: float, month_room: float) -> str | None:
    if worst_case_usd > day_room + CENT_DUST:
        return BUDGET_DAY
    if worst_case_usd > month_room + CENT_DUST:
        return BUDGET_MONTH
    return None


def _storable(text: str | None) -> str | None:
    """`text` as UTF-8 can hold it: half a surrogate pair, which JSON may smuggle in, becomes a question mark."""
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")
