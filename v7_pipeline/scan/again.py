"""A decided question made again from the store, to see whether today's code would ask the same.

Nothing is asked and nothing is written. How a question is made is decide.py's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from v7_pipeline.analyst.base import Decision, Question
from v7_pipeline.analyst.deepseek import asked
from v7_pipeline.analyst.wire import messages_text, prompt_hash
from v7_pipeline.scan.context import LATE_AFTER, ScanContext
from v7_pipeline.scan.decide import _EXISTING, STRATEGY, decide
from v7_pipeline.settings import Settings
from v7_pipeline.store import Store

__all__ = ["PromptAgain", "prompt_again"]

_FIRST = "SELECT prompt, prompt_hash, model, parameters FROM llm_calls WHERE call_id = ? ORDER BY attempt LIMIT 1"
_MISSING = object()


@dataclass(frozen=True)
class PromptAgain:
    """The prompt of a call beside today's: `same` is None where today's cannot be made, and `told` says why or how."""

    same: bool | None
    told: str


def prompt_again(store: Store, settings: Settings, signal: Mapping[str, Any]) -> PromptAgain:
    """Whether the question behind `signal` (an llm_signals row with a call_id), asked today, had the same prompt_hash.

    It is rebuilt from what the store holds as of the scan, under today's settings.
    """
    rows = store.rows(_FIRST, (signal["call_id"],))
    if not rows:
        return PromptAgain(None, f"the ledger has no call {signal['call_id']}")
    question = _question_again(store, settings, signal)
    if question is None:
        return PromptAgain(None, "today the gates before the call, or missing readings, would leave it unasked")
    call = rows[0]
    today = messages_text(asked(question).messages)
    if prompt_hash(call["model"], call["parameters"], today) == call["prompt_hash"]:
        return PromptAgain(True, "the same request: the same model, parameters and messages")
    return PromptAgain(False, "; ".join(_differences(json.loads(call["prompt"]), json.loads(today))))


@dataclass
class _Recorder:
    """An analyst that keeps what it is asked and decides nothing."""

    name: str
    worst_case_usd: float = 0.0
    questions: list[Question] = field(default_factory=list)

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        self.questions += questions
        return []


class _Undecided:
    """A store whose decisions of the instant are not seen, so that the step asks for them again."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        with self._store.reading() as reader:
            yield _UndecidedReader(reader)


class _UndecidedReader:
    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [] if sql == _EXISTING else self._reader.rows(sql, params)
        return found


def _question_again(store: Store, settings: Settings, signal: Mapping[str, Any]) -> Question | None:
    as_of = signal["as_of"]
    recorder = _Recorder(signal["analyst"])
    symbols = tuple(dict.fromkeys((*settings.symbols, signal["symbol"])))
    hidden: Any = _Undecided(store)
    ctx = ScanContext(
        settings=settings.model_copy(update={"symbols": symbols, "strategies": (STRATEGY,)}),
        store=hidden,
        market=None,
        analyst=recorder,
        as_of=as_of,
        run_id="again",
        source=signal["source"],
        clock=lambda: as_of,
        wall_clock=lambda: as_of + 2 * LATE_AFTER,  # a look at the past: nothing is fetched for it
    )
    decide(ctx)
    return next((q for q in recorder.questions if q.signal_id == signal["signal_id"]), None)


def _differences(stored: list[dict[str, str]], today: list[dict[str, str]]) -> list[str]:
    """What differs between two prompts: the system part, and places of the document with both values (at most six)."""
    told = []
    if stored[0] != today[0]:
        told.append("the system part has changed (another template or mode)")
    try:
        old, new = (dict(_leaves(json.loads(messages[1]["content"]))) for messages in (stored, today))
    except (IndexError, KeyError, ValueError):
        return [*told, "the stored prompt is of another layout"]
    places = [p for p in dict.fromkeys((*old, *new)) if old.get(p, _MISSING) != new.get(p, _MISSING)]
    told += [f"{place}: {_shown(old, place)} then, {_shown(new, place)} today" for place in places[:6]]
    if len(places) > 6:
        told.append(f"and {len(places) - 6} more")
    return told or ["its text differs, though nothing in the document does: another model or other parameters"]


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def _shown(document: Mapping[str, Any], place: str) -> str:
    return json.dumps(document[place], ensure_ascii=False)[:80] if place in document else "not there"
