"""The wire format of chat completions: a request's parameters and hash, the body of an answer read by a total function.

What the text inside an answer means belongs to reply.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from v7_pipeline.analyst.ledger import Received
from v7_pipeline.analyst.prices import Usage

__all__ = ["Parameters", "messages_text", "prompt_hash", "read_completion", "redacted"]

MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is sent beside model and messages.

    `thinking` is DeepSeek's own parameter: None leaves it out, since other services refuse what they do not know.
    `json_mode` asks for JSON by response_format, which not every service has.
    """

    max_tokens: int
    thinking: bool | None = False
    json_mode: bool = True

    @property
    def known(self) -> dict[str, Any]:
        """Those of OpenAI's format."""
        form: dict[str, Any] = {"response_format": {"type": "json_object"}} if self.json_mode else {}
        return {"temperature": 0.0, "max_tokens": self.max_tokens, **form, "stream": False}

    @property
    def extra(self) -> dict[str, Any]:
        """Those that only some services know."""
        # DeepSeek thinks unless told otherwise, and that costs about ten times as much.
        return {} if self.thinking is None else {"thinking": {"type": "enabled" if self.thinking else "disabled"}}

    @property
    def text(self) -> str:
        """All of them, as the ledger has them."""
        return json.dumps(self.known | self.extra, sort_keys=True)


def messages_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as the ledger has them."""
    return json.dumps([dict(message) for message in messages], ensure_ascii=False)


def prompt_hash(model: str, parameters: str, messages: str) -> str:
    """The identity of a request: SHA-256 of model, parameters and messages, the latter two as the ledger has them."""
    return sha256(f"{model}\n{parameters}\n{messages}".encode()).hexdigest()


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
