"""The provider's balance against the ledger: what became of calls whose end is not known.

Between two balances the account fell by what all calls in between cost. What the settled ones do not explain, the
unknown ones did: they are settled by it, never above their reserve. Budgets belong to ledger.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from v7_pipeline.analyst.base import ASKED_AGAIN, AnalystError, require_aware
from v7_pipeline.analyst.ledger import LOST_AFTER
from v7_pipeline.store import arrow_rows

if TYPE_CHECKING:
    from pydantic import SecretStr

    from v7_pipeline.store import Store

__all__ = ["Balance", "ReconcileError", "Reconciliation", "ask_balance", "reconcile"]

#: USD; the service tells whole cents, so a difference of two balances is off by less than one.
RESOLUTION = 0.01
_DUST = 1e-9

_BEFORE = "SELECT * FROM balances WHERE analyst = ? AND asked_at < ? ORDER BY asked_at DESC LIMIT 1"
# What an analyst is asked again under another name is paid from the same account.
_ITS_CALLS = f"regexp_replace(analyst, '{ASKED_AGAIN}', '') = ?"
_UNDER_WAY = f"SELECT count(*) AS n FROM llm_calls WHERE {_ITS_CALLS} AND status = 'reserved' AND reserved_at > ?"
_BETWEEN = f"""
SELECT * FROM llm_calls WHERE {_ITS_CALLS} AND reserved_at >= ? AND reserved_at < ?
ORDER BY reserved_at, call_id, attempt
"""
_KNOWN = f"""
SELECT coalesce(sum(cost_usd) FILTER (status = 'settled'), 0) AS known,
       coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (status IN ('unknown', 'reserved')), 0) AS unknown
FROM llm_calls WHERE {_ITS_CALLS} AND reserved_at < ?
"""

Outcome = Literal["first", "nothing_unknown", "settled", "topped_up", "unexplained"]


class ReconcileError(AnalystError):
    """The balance cannot be compared with the ledger now; one sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Balance:
    """USD left on the account, and of which kinds; None where the service did not say."""

    total_usd: float
    granted_usd: float | None
    topped_up_usd: float | None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a comparison found, in USD: `fall` of the balance since `since`, `known` cost of settled calls in between,
    `reserved` worst cases of the `unknown` calls and what they were `charged` instead; None where nothing was compared.
    """

    outcome: Outcome
    balance: Balance
    since: datetime | None
    fall: float | None
    known: float | None
    unknown: int
    reserved: float
    charged: float | None


def ask_balance(base_url: str, api_key: SecretStr, *, timeout_s: float) -> Balance:
    """GET /user/balance. AnalystError where it does not answer, refuses the key or has no account in USD."""
    import requests

    url = f"{base_url.rstrip('/')}/user/balance"
    headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"}
    try:
        answer = requests.get(url, headers=headers, timeout=timeout_s)
    except requests.RequestException as error:
        # Only its kind: its text may hold the request.
        raise AnalystError(f"{url} did not answer ({type(error).__name__}); try again later") from None
    if answer.status_code == 401:
        raise AnalystError("the key was refused; set a valid DEEPSEEK_API_KEY")
    if answer.status_code != 200:
        raise AnalystError(f"{url} answered HTTP {answer.status_code}; does this service have a balance at all?")
    try:
        return read_balance(answer.json())
    except ValueError as error:
        raise AnalystError(f"the balance cannot be read: {error}") from None


def read_balance(body: Any) -> Balance:
    """The USD account in a balance's body; ValueError where there is none."""
    infos = body.get("balance_infos") if isinstance(body, Mapping) else None
    if not isinstance(infos, Sequence) or not all(isinstance(info, Mapping) for info in infos):
        raise ValueError("the answer has no balance_infos")
    dollars = next((info for info in infos if info.get("currency") == "USD"), None)
    if dollars is None:
        named = ", ".join(sorted(str(info.get("currency")) for info in infos)) or "no currency"
        raise ValueError(f"the account is in {named}, and the ledger in USD; nothing can be compared")
    total = _usd(dollars.get("total_balance"))
    if total is None:
        raise ValueError("total_balance is no number")
    return Balance(total, _usd(dollars.get("granted_balance")), _usd(dollars.get("topped_up_balance")))


def reconcile(
    store: Store, balance: Balance, at: datetime, analyst: str, provenance: Mapping[str, str], *, dry_run: bool = False
) -> Reconciliation:
    """Compare `balance`, asked at `at`, with the one before, and settle `analyst`'s unknown calls in between.

    An unknown call is charged its share (by reserve) of what the settled ones do not explain, rounded up by the
    balance's resolution, at most its reserve. Nothing is settled where the account was topped up, or where it fell by
    more than all worst cases: someone else may use it. The balance is stored, in the same transaction, unless
    `dry_run`. ReconcileError while a call is under way, and where the balance fell by less than the settled calls
    cost: it lags behind, and nothing is stored.
    """
    require_aware(at, "at")
    at = at.astimezone(UTC)
    with store.transaction() as tx:
        if n := tx.rows(_UNDER_WAY, (analyst, at - LOST_AFTER))[0]["n"]:
            raise ReconcileError(f"{n} call(s) of {analyst} are under way; reconcile again when they have ended")
        before = tx.rows(_BEFORE, (analyst, at))
        found, changed = _compared(balance, before[0] if before else None, _between(tx, before, analyst, at), at)
        if dry_run:
            return found
        sums = tx.rows(_KNOWN, (analyst, at))[0]
        if changed:
            tx.upsert("llm_calls", arrow_rows("llm_calls", changed))
        settled = (found.charged, found.reserved) if found.charged is not None else (0.0, 0.0)
        row = {
            "analyst": analyst, "asked_at": at, "total_usd": balance.total_usd, "granted_usd": balance.granted_usd,
            "topped_up_usd": balance.topped_up_usd, "known_usd": float(sums["known"]) + settled[0],
            "unknown_usd": float(sums["unknown"]) - settled[1], **provenance,
        }  # fmt: skip
        tx.insert_new("balances", arrow_rows("balances", [row]))
    return found


def _between(tx: Any, before: Sequence[Mapping[str, Any]], analyst: str, at: datetime) -> list[dict[str, Any]]:
    if not before:
        return []
    rows: list[dict[str, Any]] = tx.rows(_BETWEEN, (analyst, before[0]["asked_at"], at))
    return rows


def _compared(
    balance: Balance, before: Mapping[str, Any] | None, calls: Sequence[Mapping[str, Any]], at: datetime
) -> tuple[Reconciliation, list[dict[str, Any]]]:
    """What the two balances say of the calls between them, and the rows that they settle."""
    if before is None:
        return Reconciliation("first", balance, None, None, None, 0, 0.0, None), []
    since: datetime = before["asked_at"]
    fall = float(before["total_usd"]) - balance.total_usd
    known = math.fsum(float(call["cost_usd"]) for call in calls if call["status"] == "settled")
    unknown = [call for call in calls if call["status"] in ("unknown", "reserved")]
    reserved = math.fsum(float(call["reserved_usd"]) for call in unknown)

    def found(outcome: Outcome, charged: float | None = None) -> Reconciliation:
        return Reconciliation(outcome, balance, since, fall, known, len(unknown), reserved, charged)

    if fall < -_DUST or _grew(before["topped_up_usd"], balance.topped_up_usd):
        return found("topped_up"), []
    rest = fall - known
    if rest < -RESOLUTION - _DUST:
        raise ReconcileError(
            f"since {since:%Y-%m-%d %H:%M}Z the balance fell by ${fall:.2f}, less than the ${known:.4f} of the settled "
            "calls: it may lag behind; try again in an hour, and check the price table where it stays so"
        )
    if rest > reserved + RESOLUTION + _DUST:
        return found("unexplained"), []
    if not unknown:
        return found("nothing_unknown"), []
    charged = min(max(rest, 0.0) + RESOLUTION, reserved)
    note = f"settled by the balance of {at:%Y-%m-%d %H:%M}Z"
    rows = [
        {
            **call,
            "status": "settled",
            "cost_usd": float(call["reserved_usd"]) * charged / reserved,
            "settled_at": at,
            "error": f"{call['error']}; {note}" if call["error"] else note,
        }
        for call in unknown
    ]
    return found("settled", charged), rows


def _grew(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now > before + _DUST


def _usd(value: Any) -> float | None:
    """A finite number of USD that may come as text; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
