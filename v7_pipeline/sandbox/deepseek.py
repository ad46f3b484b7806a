"""DeepSeek's chat completions on the wire: keys, parameters, JSON mode, usage with its cache kinds, balance.

What is answered comes from answers.py, faults from faults.py, prices from the analyst's table; nothing is decided here.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from v7_pipeline.analyst.prices import UnknownPriceError, Usage, load_prices
from v7_pipeline.sandbox.answers import Answerer, Messages, text_of

__all__ = [
    "FINGERPRINT",
    "MODELS",
    "Account",
    "PrefixCache",
    "balance",
    "complete",
    "count_tokens",
    "models",
    "refusal",
]

MODELS = ("deepseek-flash", "deepseek-v4-pro")
FINGERPRINT = "fp_v7sandbox_demo"
TOKENS_A_CHARACTER = 0.3  # DeepSeek's own rule of thumb for English
_CACHE_UNIT = 64  # tokens; the prefix cache keeps whole units
_DEFAULT_MAX_TOKENS = 4096
_MESSAGE_TOKENS = 4  # what a message's role and separators add


def complete(
    body: bytes, headers: Mapping[str, str], answerer: Answerer, cache: PrefixCache, account: Account, now: datetime
) -> Response:
    """POST /chat/completions; what it costs is taken from `account`."""
    refused = refusal(headers)
    if refused is not None:
        return refused
    try:
        request = json.loads(body)
    except ValueError as error:
        return _error(400, f"Failed to parse the request body as JSON: {error}")
    fault = _fault_of(request)
    if fault is not None:
        return _error(*fault)
    messages: Messages = request["messages"]
    try:
        content = json.dumps(answerer(messages), ensure_ascii=False)
    except ValueError as error:
        return _error(400, str(error))
    limit = request.get("max_tokens") or _DEFAULT_MAX_TOKENS
    thinks = (request.get("thinking") or {"type": "enabled"}).get("type") != "disabled"
    thought = _thought(messages) if thinks else ""
    reasoning = min(count_tokens(thought), limit)
    room = limit - reasoning
    cut = count_tokens(content) > room
    if cut:
        content = content[: math.floor(room / TOKENS_A_CHARACTER)]
    prompt = "".join(f"<{m.get('role')}>{text_of(m)}" for m in messages)
    asked = count_tokens(prompt) + _MESSAGE_TOKENS * len(messages)
    hit = min(cache.hits(prompt), asked)
    answered = reasoning + min(count_tokens(content), room)
    account.charge(request["model"], Usage(asked, hit, answered, reasoning), now)
    message = {"role": "assistant", "content": content, **({"reasoning_content": thought} if thinks else {})}
    return JSONResponse(
        {
            "id": str(uuid.uuid4()),
            "object": "chat.completion",
            "created": int(now.timestamp()),
            "model": request["model"],
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": "length" if cut else "stop"}
            ],
            "usage": {
                "prompt_tokens": asked,
                "completion_tokens": answered,
                "total_tokens": asked + answered,
                "prompt_tokens_details": {"cached_tokens": hit},
                "completion_tokens_details": {"reasoning_tokens": reasoning},
                "prompt_cache_hit_tokens": hit,
                "prompt_cache_miss_tokens": asked - hit,
            },
            "system_fingerprint": FINGERPRINT,
        }
    )


def balance(headers: Mapping[str, str], account: Account) -> Response:
    """GET /user/balance: what `account` has left, in cents as the service tells it."""
    return refusal(headers) or JSONResponse(account.told())


def models(headers: Mapping[str, str]) -> Response:
    """GET /models."""
    data = [{"id": name, "object": "model", "owned_by": "deepseek"} for name in MODELS]
    return refusal(headers) or JSONResponse({"object": "list", "data": data})


def refusal(headers: Mapping[str, str]) -> Response | None:
    """401 without a Bearer key, and for any key with "invalid" in it; every other key is good."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return _error(401, "Authentication Fails (no such user)")
    if "invalid" in key.lower():
        return _error(401, f"Authentication Fails, Your api key: ****{key.strip()[-4:]} is invalid")
    return None


def count_tokens(text: str) -> int:
    """About how many tokens `text` has."""
    return math.ceil(len(text) * TOKENS_A_CHARACTER)


class Account:
    """The sandbox's account: it begins with 110 USD and pays each completion by the price table.

    A completion at an instant without a price (a replay of earlier years) costs nothing. Thread-safe.
    """

    def __init__(self, total_usd: float = 110.0) -> None:
        self._prices = load_prices()
        self._total = total_usd
        self._lock = threading.Lock()
        self.charged_usd = 0.0
        self.completions = 0

    def charge(self, model: str, usage: Usage, now: datetime) -> None:
        """Pay for one completion."""
        try:
            usd = self._prices.cost(model, usage, now)
        except UnknownPriceError:
            usd = 0.0
        with self._lock:
            self.charged_usd += usd
            self.completions += 1

    def pay_in(self, usd: float) -> None:
        """Top the account up."""
        with self._lock:
            self._total += usd

    def told(self) -> dict[str, Any]:
        """The balance in the service's format, rounded down to cents."""
        with self._lock:
            left = math.floor(round((self._total - self.charged_usd) * 100, 6)) / 100
        parts = {"total_balance": left, "granted_balance": 0.0, "topped_up_balance": left}
        info = {"currency": "USD", **{name: f"{usd:.2f}" for name, usd in parts.items()}}
        return {"is_available": left > 0, "balance_infos": [info]}


class PrefixCache:
    """Which prompts' beginnings were seen before, in whole units, as the service's context cache keeps them."""

    def __init__(self, size: int = 4096) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._size = size
        self._lock = threading.Lock()

    def hits(self, prompt: str) -> int:
        """Tokens of `prompt`'s longest known beginning; from now on all of it is known."""
        unit = math.ceil(_CACHE_UNIT / TOKENS_A_CHARACTER)
        digest, marks = hashlib.blake2b(digest_size=16), []
        for place in range(0, len(prompt) - unit + 1, unit):
            digest.update(prompt[place : place + unit].encode("utf-8", "surrogatepass"))
            marks.append(digest.copy().digest())
        with self._lock:
            known = next((i for i, mark in enumerate(marks) if mark not in self._seen), len(marks))
            for mark in marks:
                self._seen[mark] = None
                self._seen.move_to_end(mark)
            while len(self._seen) > self._size:
                self._seen.popitem(last=False)
        return known * _CACHE_UNIT


def _fault_of(request: Any) -> tuple[int, str] | None:
    """Status and sentence where the parameters are wrong."""
    if not isinstance(request, dict):
        return 400, "the request body must be a JSON object"
    if request.get("model") not in MODELS:
        return 400, "Model Not Exist"
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        return 400, "Empty input messages"
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return (
                422,
                f"Failed to deserialize the JSON body into the target type: messages[{place}]: expected a string",
            )
    if request.get("stream"):
        return 422, "stream: the sandbox answers whole completions only; leave it out"
    tokens = request.get("max_tokens")
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
        return 400, "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]"
    temperature = request.get("temperature")
    if temperature is not None and not (isinstance(temperature, int | float) and 0 <= temperature <= 2):
        return 400, "Invalid temperature value, the valid range of temperature is [0, 2]"
    if (request.get("response_format") or {}).get("type") == "json_object" and not any(
        "json" in text_of(message).lower() for message in messages
    ):
        return 400, "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'."
    return None


def _thought(messages: Messages) -> str:
    """Reasoning that nobody asked to switch off: about ten answers long, which is why one should."""
    question = text_of(messages[-1])[:200]
    return (
        f"(sandbox) Thinking is on by default. The question begins: {question} … "
        + "I weigh the readings again. " * 150
    )


def _error(status: int, message: str) -> Response:
    kind = {401: "authentication_error", 402: "unknown_error"}.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": "invalid_request_error"}
    return JSONResponse({"error": error}, status)
