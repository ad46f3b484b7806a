"""What an answer must look like, and the total function that reads one: an Answer, or an abstention with its reason.

Nothing is ever guessed from free text. Whether a plan is any good is asked in gates/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from v7_pipeline.analyst.base import Answer
from v7_pipeline.store.schema import THEORY_NAMES

__all__ = [
    "BLANK",
    "CONTRADICTION",
    "FILTERED",
    "NOT_JSON",
    "OVERLOADED",
    "REPAIRABLE",
    "SCHEMA",
    "TRUNCATED",
    "UNEXPECTED_FINISH",
    "Abstention",
    "Reply",
    "parse_reply",
    "reply_of",
]

BLANK = "BLANK"  # JSON mode replaces output that is not JSON by spaces
TRUNCATED = "TRUNCATED"
FILTERED = "FILTERED"
OVERLOADED = "OVERLOADED"
UNEXPECTED_FINISH = "UNEXPECTED_FINISH"
NOT_JSON = "NOT_JSON"
SCHEMA = "SCHEMA"
CONTRADICTION = "CONTRADICTION"

# What asking once more, with the fault named, can mend.
REPAIRABLE = frozenset({NOT_JSON, SCHEMA, CONTRADICTION})

_FINISHES = {
    "length": (TRUNCATED, "the answer reached max_tokens"),
    "content_filter": (FILTERED, "the service filtered the answer"),
    "insufficient_system_resource": (OVERLOADED, "the service ran out of resources"),
}
MAX_DETAIL = 300

_Price = Annotated[float, Field(gt=0, lt=1e9)]


@dataclass(frozen=True, slots=True)
class Abstention:
    """Why there is no answer: a reason code and one sentence."""

    reason: str
    detail: str


class Reply(BaseModel):
    """The one JSON object that an analyst replies with. Prices in USD, confidence a fraction, null where HOLD."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    signal: Literal["BUY", "SELL", "HOLD"]
    confidence: float = Field(ge=0, le=1)
    entry: _Price | None
    stop: _Price | None
    target: _Price | None
    horizon_minutes: int | None = Field(ge=1, le=10_080)
    reasoning: str = Field(min_length=1, max_length=2_000)
    key_theories: list[str] = Field(max_length=len(THEORY_NAMES))
    would_change_my_mind: str = Field(max_length=1_000)

    @field_validator("reasoning", "would_change_my_mind")
    @classmethod
    def _storable(cls, value: str) -> str:
        # A lone surrogate (JSON allows its escape) has no UTF-8 form and could not be stored.
        if not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("the text holds half of a surrogate pair")
        return value

    @field_validator("key_theories")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value) or not set(value) <= set(THEORY_NAMES):
            raise ValueError(f"key_theories are distinct names out of {', '.join(THEORY_NAMES)}")
        return value

    @model_validator(mode="after")
    def _plan_holds_together(self) -> Reply:
        plan = (self.entry, self.stop, self.target)
        if self.signal == "HOLD":
            if plan != (None, None, None):
                raise _contradiction("HOLD has no plan: entry, stop and target must be null")
            return self
        entry, stop, target = plan
        if entry is None or stop is None or target is None or self.horizon_minutes is None:
            raise _contradiction(f"{self.signal} needs entry, stop, target and horizon_minutes")
        low, high = (stop, target) if self.signal == "BUY" else (target, stop)
        if not low < entry < high:
            order = "stop < entry < target" if self.signal == "BUY" else "target < entry < stop"
            raise _contradiction(f"{self.signal} needs {order}")
        return self

    def answer(self) -> Answer:
        """The same in the pipeline's words."""
        return Answer(
            side=self.signal,
            confidence=self.confidence,
            entry_price=self.entry,
            stop_price=self.stop,
            target_price=self.target,
            horizon_minutes=self.horizon_minutes,
            reasoning=self.reasoning,
            key_theories=tuple(self.key_theories),
            would_change_my_mind=self.would_change_my_mind or None,
        )


def parse_reply(text: str | None, finish_reason: str | None) -> Answer | Abstention:
    """Read an answer's whole text; total: every input gives an Answer or an Abstention, none raises.

    The text must be one JSON object of Reply's schema and nothing else, white space around it aside.
    """
    if finish_reason != "stop":
        reason, detail = _FINISHES.get(
            finish_reason or "", (UNEXPECTED_FINISH, f"the answer ended with {str(finish_reason)[:40]!r}")
        )
        return Abstention(reason, detail)
    if text is None or not text.strip():
        return Abstention(BLANK, "the answer is blank")
    try:
        document = json.loads(text.strip(), parse_constant=_refuse_constant, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        return Abstention(NOT_JSON, _bounded(f"the answer is not one JSON object: {error}"))
    if not isinstance(document, dict):
        return Abstention(NOT_JSON, f"the answer is a JSON {type(document).__name__}, not an object")
    try:
        return Reply.model_validate(document).answer()
    except ValidationError as error:
        return _fault(error)


def reply_of(answer: Answer) -> dict[str, Any]:
    """`answer` as the JSON object that parse_reply reads back to it."""
    return {
        "signal": answer.side,
        "confidence": answer.confidence,
        "entry": answer.entry_price,
        "stop": answer.stop_price,
        "target": answer.target_price,
        "horizon_minutes": answer.horizon_minutes,
        "reasoning": answer.reasoning,
        "key_theories": list(answer.key_theories),
        "would_change_my_mind": answer.would_change_my_mind or "",
    }


def _contradiction(message: str) -> ValueError:
    from pydantic_core import PydanticCustomError

    return PydanticCustomError("contradiction", "{message}", {"message": message})


def _fault(error: ValidationError) -> Abstention:
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    texts = [": ".join([*(str(part)[:40] for part in fault["loc"][:1]), fault["msg"]]) for fault in faults[:4]]
    reason = CONTRADICTION if faults[0]["type"] == "contradiction" else SCHEMA
    return Abstention(reason, _bounded("; ".join(texts)))


def _bounded(text: str) -> str:
    # What goes into a ledger row, a log or the next prompt is short, and storable as UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")[:MAX_DETAIL]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _no_repeats(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a key appears twice")
    return dict(pairs)
