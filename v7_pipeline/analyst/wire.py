"""The wire format of chat completions: the body of an answer read by a total function, and a message without secrets.

What the text inside an answer means belongs to reply.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from v7_pipeline.analyst.ledger import Received
from v7_pipeline.analyst.prices import Usage

__all__ = ["read_completion", "redacted"]

MAX_MESSAGE = 300


def read_completion(body: str, latency_s: float) -> Received | None:
    """The first choice of a chat completion; None where `body` is no such thing (blank lines, cut off, an error page).

    What the answer leaves out is None. Usage counts only where it is whole and makes sense.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    match document:
        case {"choices": [{"message": {**message}, **choice}, *_]}:
            content = message.get("content")
            return Received(
                text=_storable(content),
                finish_reason=_storable(choice.get("finish_reason")),
                model=_storable(document.get("model")),
                fingerprint=_storable(document.get("system_fingerprint")),
                usage=_usage(document.get("usage")),
                latency_s=latency_s,
            )
    return None


def redacted(text: str, secret: str) -> str:
    """`text` without `secret`, on one line, bounded: fit for an error, a log and the ledger."""
    return " ".join(text.replace(secret, "[secret]").split())[:MAX_MESSAGE]


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    hit = usage.get("prompt_cache_hit_tokens")
    hit = _count(_part(usage, "prompt_tokens_details", "cached_tokens") if hit is None else hit)
    reasoning = _count(_part(usage, "completion_tokens_details", "reasoning_tokens"))
    if prompt is None or completion is None or hit is None or reasoning is None:
        return None
    if hit > prompt or reasoning > completion:
        return None
    return Usage(prompt=prompt, cache_hit=hit, completion=completion, reasoning=reasoning)


def _count(value: Any) -> int | None:
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9
    return value if sound else None


def _part(usage: Mapping[str, Any], group: str, name: str) -> Any:
    details = usage.get(group)
    value = details.get(name) if isinstance(details, Mapping) else None
    return 0 if value is None else value


def _storable(text: Any) -> str | None:
    # Half a surrogate pair (JSON allows its escape) has no UTF-8 form: it could be neither stored nor sent back.
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else None
