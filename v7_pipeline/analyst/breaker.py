"""The circuit breaker: an analyst that failed several times in a row rests, then one question probes it.

Its state is a query over the ledger, so that it outlives restarts and is the same for every process. What a failure is
to a single call is deepseek.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from v7_pipeline.analyst.base import ANALYST_RESTING, Analyst, AnalystError, Decision, Question, require_aware
from v7_pipeline.analyst.deepseek import NO_USAGE

if TYPE_CHECKING:
    from v7_pipeline.store import Reader, Store

__all__ = ["Breaker", "BreakerState", "RestingAnalyst"]

BreakerState = Literal["closed", "resting", "probing"]

# An attempt without a latency is one whose process died: that is nothing the analyst did. An answer that only lacks its
# usage can be used.
_NEWEST = """
SELECT settled_at, status = 'failed' OR coalesce(error NOT LIKE ? || '%', status = 'unknown') AS failed
FROM llm_calls
WHERE analyst = ? AND settled_at IS NOT NULL AND latency_s IS NOT NULL
ORDER BY settled_at DESC, reserved_at DESC, attempt DESC, call_id DESC LIMIT ?
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Breaker:
    """After `failures` failed attempts in a row an analyst rests for `rest`, counted from the newest one's end."""

    failures: int
    rest: timedelta

    def state(self, reader: Reader | Store, analyst: str, now: datetime) -> BreakerState:
        """closed: ask; resting: do not; probing: ask one question, and look again.

        `now` is of the clock that stamps the ledger.
        """
        require_aware(now, "now")
        newest = reader.rows(_NEWEST, (NO_USAGE, analyst, self.failures))
        if len(newest) < self.failures or not all(row["failed"] for row in newest):
            return "closed"
        ended: datetime = newest[0]["settled_at"]
        # What ended in the future was stamped by a clock that was fast: it must not keep the analyst at rest.
        return "resting" if timedelta(0) <= now - ended < self.rest else "probing"


class RestingAnalyst:
    """`analyst` behind a breaker.

    While it rests nothing is reserved and nothing is sent: its questions are skipped with ANALYST_RESTING, or decided
    by `fallback`, under that one's name. After the rest the first question goes alone; where it fails, the others rest
    on. An AnalystError (a refused key, an empty account) is raised until the breaker opens; a probe's is logged, and
    its question rests with the others. `clock` is the one that stamps the analyst's ledger.
    """

    def __init__(
        self,
        analyst: Analyst,
        breaker: Breaker,
        store: Store,
        *,
        clock: Callable[[], datetime],
        fallback: Analyst | None = None,
    ) -> None:
        self._analyst, self._breaker, self._store = analyst, breaker, store
        self._clock, self._fallback = clock, fallback

    @property
    def name(self) -> str:
        """The analyst's own."""
        return self._analyst.name

    @property
    def worst_case_usd(self) -> float:
        """The analyst's own, in USD."""
        return self._analyst.worst_case_usd

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        """One decision a question, in order."""
        require_aware(now, "now")
        done: list[Decision] = []
        waiting = list(questions)
        while waiting:
            state = self._state()
            if state == "closed":
                return done + self._analyst.decide(waiting, now=now)
            if state == "resting":
                return done + self._rested(waiting, now)
            probe = waiting.pop(0)
            # An attempt closes the breaker or lets it rest again. A question that made none (it was answered before, or
            # the budget is used up) leaves it as it was, and the next one probes.
            done += self._probed(probe, now)
        return done

    def _state(self) -> BreakerState:
        return self._breaker.state(self._store, self.name, self._clock())

    def _probed(self, question: Question, now: datetime) -> list[Decision]:
        try:
            return self._analyst.decide([question], now=now)
        except AnalystError as error:
            if self._state() == "probing":  # nothing was sent: a set-up that cannot work is no failure of the service
                raise
            _log.warning("%s rests again: %s", self.name, error)
            return self._rested([question], now)

    def _rested(self, questions: Sequence[Question], now: datetime) -> list[Decision]:
        if self._fallback is not None:
            return self._fallback.decide(questions, now=now)
        return [
            Decision(
                signal_id=question.signal_id,
                status="skipped",
                status_reason=ANALYST_RESTING,
                answer=None,
                call_id=None,
                prompt_version=None,
                cost_usd=0.0,
                analyst=self.name,
            )
            for question in questions
        ]
