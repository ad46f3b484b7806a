"""What the analyst has cost and is going to: queries over the ledger as of an instant, and a forecast of the month.

Nothing is kept in memory and nothing is written; what a call costs is prices.py's, what may be spent ledger.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from v7_pipeline.analyst.base import ASKED_AGAIN, require_aware

__all__ = ["AnalystCosts", "Costs", "Forecast", "costs", "forecast"]

DAY = timedelta(days=1)
#: Whole UTC days before today that a forecast looks at, and how many it needs.
LOOK_BACK_DAYS = 7
FEWEST_DAYS = 3
CONFIDENCE = 0.95

_PERIODS = """
SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (reserved_at >= $1), 0) AS day_usd,
       coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS month_usd,
       coalesce(sum(reserved_usd) FILTER (status = 'reserved'), 0) AS open_usd,
       coalesce(sum(cost_usd) FILTER (status = 'unknown'), 0) AS unknown_usd,
       count(*) FILTER (status = 'reserved') AS open_calls, count(*) FILTER (status = 'unknown') AS unknown_calls
FROM llm_calls WHERE reserved_at >= $2 AND reserved_at <= $3
"""
# A call is counted where its first attempt is: counting distinct texts takes three times as long.
_BY_ANALYST = """
SELECT analyst, model, count(*) AS attempts, greatest(count(*) FILTER (attempt = 1), 1) AS calls,
       count(*) FILTER (error IS NOT NULL) AS failures,
       coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS usd,
       sum(prompt_tokens) AS prompt_tokens, sum(cache_hit_tokens) AS cache_hit_tokens,
       sum(completion_tokens) AS completion_tokens, median(latency_s) AS latency_s
FROM llm_calls WHERE reserved_at >= $1 AND reserved_at <= $2
GROUP BY ALL ORDER BY analyst, model
"""
# Joined by 64-bit hashes, at half the time: among a million signals two share one once in forty million months.
_SIGNALS = f"""
SELECT count(*) FILTER (s.status = 'answered') AS answered,
       count(*) FILTER (s.status = 'answered' AND s.side <> 'HOLD') AS trades, count(g.signal_id) AS accepted
FROM llm_signals s
SEMI JOIN (SELECT hash(signal_id) AS id FROM llm_calls
           WHERE reserved_at >= $1 AND reserved_at <= $2 AND NOT regexp_matches(analyst, '{ASKED_AGAIN}')) paid
  ON paid.id = hash(s.signal_id)
LEFT JOIN (SELECT signal_id FROM gated_signals WHERE accepted) g ON g.signal_id = s.signal_id
"""
# By whole days since $1; date_diff asks a calendar about every row, which takes twenty times as long.
_DAYS = """
SELECT (epoch_us(reserved_at) - epoch_us($1)) // 86_400_000_000 AS day, sum(coalesce(cost_usd, reserved_usd)) AS usd
FROM llm_calls WHERE reserved_at >= $1 AND reserved_at < $2 GROUP BY ALL ORDER BY day
"""
_FIRST = "SELECT min(reserved_at) AS began FROM llm_calls WHERE reserved_at <= $1"


@dataclass(frozen=True, slots=True)
class AnalystCosts:
    """One analyst's month: `calls` questions in `attempts` attempts, USD, tokens by kind, median latency (s)."""

    analyst: str
    model: str
    calls: int
    attempts: int
    failures: int
    usd: float
    prompt_tokens: int | None
    cache_hit_tokens: int | None
    completion_tokens: int | None
    latency_s: float | None

    @property
    def cache_share(self) -> float | None:
        """Share of the prompts' tokens that the provider's cache held; None where no answer told."""
        return None if not self.prompt_tokens else (self.cache_hit_tokens or 0) / self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Forecast:
    """The month's cost in USD: as expected, and between which bounds with 95 %, from `n_days` whole days' costs."""

    expected_usd: float
    lower_usd: float
    upper_usd: float
    n_days: int


@dataclass(frozen=True, slots=True)
class Costs:
    """The UTC day and month around `as_of`, in USD; what is open or unknown counts at its worst case."""

    as_of: datetime
    day_usd: float
    month_usd: float
    day_budget_usd: float
    month_budget_usd: float
    open_calls: int
    open_usd: float
    unknown_calls: int
    unknown_usd: float
    analysts: tuple[AnalystCosts, ...]
    answered: int
    trades: int
    accepted: int
    forecast: Forecast | None

    @property
    def calls(self) -> int:
        return sum(entry.calls for entry in self.analysts)

    @property
    def per_call_usd(self) -> float | None:
        """USD a question of the month, all its attempts included; None where none was asked."""
        return self.month_usd / self.calls if self.calls else None

    @property
    def per_signal_usd(self) -> float | None:
        """USD an answered decision of the month; None where there is none."""
        return self.month_usd / self.answered if self.answered else None

    @property
    def per_accepted_usd(self) -> float | None:
        """USD an accepted signal of the month, everything that was asked for it included; None where there is none."""
        return self.month_usd / self.accepted if self.accepted else None

    @property
    def cache_share(self) -> float | None:
        """Share of all prompts' tokens of the month that came from the cache; None where no answer told."""
        prompt = sum(entry.prompt_tokens or 0 for entry in self.analysts)
        return sum(entry.cache_hit_tokens or 0 for entry in self.analysts) / prompt if prompt else None


def costs(reader: Any, as_of: datetime, *, day_budget_usd: float, month_budget_usd: float) -> Costs:
    """The ledger's figures as of `as_of`: calls reserved up to it, in its UTC day and month.

    `reader` is a store or a reader of one. ValueError for a naive instant.
    """
    require_aware(as_of, "as_of")
    until = as_of.astimezone(UTC)
    today = until.replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    period = _one(reader, _PERIODS, (today, month, until))
    signals = _one(reader, _SIGNALS, (month, until))
    return Costs(
        as_of=until,
        day_usd=float(period["day_usd"]),
        month_usd=float(period["month_usd"]),
        day_budget_usd=day_budget_usd,
        month_budget_usd=month_budget_usd,
        open_calls=period["open_calls"],
        open_usd=float(period["open_usd"]),
        unknown_calls=period["unknown_calls"],
        unknown_usd=float(period["unknown_usd"]),
        analysts=tuple(_analyst(row) for row in reader.rows(_BY_ANALYST, (month, until))),
        answered=signals["answered"],
        trades=signals["trades"],
        accepted=signals["accepted"],
        forecast=forecast(_daily(reader, today, until), float(period["month_usd"]), until),
    )


def forecast(daily_usd: Sequence[float], month_usd: float, as_of: datetime) -> Forecast | None:
    """The month's cost from the costs of its latest whole days; None with fewer than three of them.

    What is spent already plus the rest of the month at the days' mean; the interval is Student's prediction interval of
    the sum of the remaining days (as if days were independent), never below what is spent already.
    """
    n = len(daily_usd)
    if n < FEWEST_DAYS:
        return None
    from scipy.special import stdtrit

    month = as_of.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (month + 32 * DAY).replace(day=1)
    left = (following - as_of) / DAY
    mean = math.fsum(daily_usd) / n
    deviation = math.sqrt(math.fsum((usd - mean) ** 2 for usd in daily_usd) / (n - 1))
    wide = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * deviation * math.sqrt(left + left * left / n)
    expected = month_usd + mean * left
    return Forecast(expected, max(expected - wide, month_usd), expected + wide, n)


def _daily(reader: Any, today: datetime, until: datetime) -> list[float]:
    """USD of each of the latest whole UTC days since the first call; a day without a call is 0."""
    first = _one(reader, _FIRST, (until,))["began"]
    if first is None:
        return []
    # The first call's own day is not whole.
    began = first.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    since = max(today - LOOK_BACK_DAYS * DAY, began)
    if since >= today:
        return []
    known = {row["day"]: float(row["usd"]) for row in reader.rows(_DAYS, (since, today))}
    return [known.get(day, 0.0) for day in range((today - since).days)]


def _analyst(row: dict[str, Any]) -> AnalystCosts:
    counts = {
        name: None if row[name] is None else int(row[name])
        for name in ("prompt_tokens", "cache_hit_tokens", "completion_tokens")
    }
    return AnalystCosts(**{**row, **counts, "usd": float(row["usd"])})


def _one(reader: Any, sql: str, values: tuple[datetime, ...]) -> dict[str, Any]:
    row: dict[str, Any] = reader.rows(sql, values)[0]
    return row
