"""Faults on request: what can be asked for, which one meets a request, and what it makes of the answer.

What a healthy answer is belongs to coinbase.py and deepseek.py.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

__all__ = ["ENDPOINTS", "TRANSPORT", "Api", "Fault", "FaultError", "Faults", "answer_with", "error_body"]

Api = Literal["exchange", "advanced", "coingecko", "deepseek"]
ENDPOINTS = ("candles", "book", "product", "time", "chat", "balance", "models", "coingecko")
TRANSPORT = "v7.transport"  # key of the ASGI scope under which the server puts the connection

Kind = Literal[
    "status", "delay", "slow_drip", "blank_lines", "truncate", "outage", "reset",
    "blank", "malformed_json", "empty", "wrong_schema", "content", "finish", "late",
]  # fmt: skip

_MALFORMED = '{"signal": "BUY", "confidence": 0.7, "entry": '
_WRONG = {"decision": "maybe", "confidence": "high"}
_PIECES = 20


class FaultError(ValueError):
    """A fault was asked for that does not exist; the message says how to mend the request."""


class Fault(BaseModel):
    """One fault: where it strikes, what it does, how often."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: Literal["candles", "book", "product", "time", "chat", "balance", "models", "coingecko", "*"]
    kind: Kind
    symbol: str | None = None
    """Only requests about this product; for chat, the prompt's."""
    count: int | None = Field(None, ge=1)
    """Requests it still meets; none: all, until deleted."""
    status: int = Field(500, ge=200, le=599)
    retry_after: float | None = Field(None, ge=0)
    """Seconds, sent as Retry-After with a status."""
    delay_s: float = Field(1.0, ge=0, le=600)
    """Seconds: of a delay, a slow drip, blank lines; candles closed within it are still missing where late."""
    body: str | None = None
    """Body of a status, instead of the vendor's."""
    content: str = "HOLD"
    """What the chat answers where kind is content."""
    finish_reason: str = "length"
    """Why the chat ended where kind is finish."""
    where: Literal["content", "body"] = "content"
    """Whether blank and malformed_json strike the chat's content or the whole HTTP body."""


class Faults:
    """The faults that are switched on; the oldest that fits a request meets it."""

    def __init__(self) -> None:
        self._active: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, spec: Any) -> Fault:
        """Switch one on. FaultError where `spec` is no fault."""
        try:
            fault = Fault.model_validate(spec)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the fault"
            raise FaultError(
                f'{place}: {first["msg"]}; a fault is like {{"path": "candles", "kind": "status", "status": 429}}'
            ) from None
        with self._lock:
            self._active.append(fault)
        return fault

    def list(self) -> list[dict[str, Any]]:
        """Those still on, oldest first, with the count that is left."""
        with self._lock:
            return [fault.model_dump() for fault in self._active]

    def clear(self) -> None:
        """Switch all off."""
        with self._lock:
            self._active.clear()

    def take(self, path: str, symbol: str | None) -> Fault | None:
        """The fault that meets a request, counted down."""
        with self._lock:
            for place, fault in enumerate(self._active):
                if fault.path not in (path, "*") or (fault.symbol is not None and fault.symbol != symbol):
                    continue
                if fault.count is not None:
                    if fault.count == 1:
                        del self._active[place]
                    else:
                        self._active[place] = fault.model_copy(update={"count": fault.count - 1})
                return fault
        return None


Produce = Callable[[float], Awaitable[Response]]
"""Makes the healthy answer; the argument is how many seconds ago the newest candle may have closed."""


async def answer_with(fault: Fault, path: str, api: Api, produce: Produce) -> Response:
    """The answer that `fault` makes of a request for endpoint `path` of `api`."""
    if fault.kind in ("outage", "reset"):
        return Hangup(reset=fault.kind == "reset")
    if fault.kind == "status":
        return _status(fault, api)
    if fault.kind == "late":
        return await produce(fault.delay_s)
    if fault.kind == "delay":
        await asyncio.sleep(fault.delay_s)
    answer = await produce(0.0)
    if fault.kind == "delay":
        return answer
    if fault.kind in ("slow_drip", "blank_lines"):
        return Dribble(answer, fault.delay_s, blank=fault.kind == "blank_lines")
    if fault.kind == "truncate":
        return Hangup(reset=False, answer=answer)
    if answer.status_code != 200:
        return answer
    if path == "chat" and not (fault.where == "body" and fault.kind in ("blank", "malformed_json")):
        return _chat(fault, answer)
    return _document(fault, path, api, answer)


def error_body(api: Api, status: int) -> bytes:
    """The vendor's body for an error status, as observed or documented; a plain one where neither is known."""
    texts: dict[int, str] = {
        400: "Bad request", 401: "Unauthorized", 402: "Insufficient Balance", 403: "Forbidden", 404: "NotFound",
        422: "Unprocessable", 429: "Too many requests", 500: "Internal server error", 502: "Bad gateway",
        503: "Service temporarily unavailable", 504: "Gateway timeout",
    }  # fmt: skip
    text = texts.get(status, f"Status {status}")
    document: Any
    if api == "exchange":
        document = {"message": "Public rate limit exceeded" if status == 429 else text}
    elif api == "advanced" and status == 429:
        document = {"errors": [{"id": "rate_limit_exceeded", "message": text}]}
    elif api == "coingecko":
        document = {"status": {"error_code": status, "error_message": text}}
    elif api == "advanced":
        document = {"error": text.upper().replace(" ", "_"), "error_details": text, "message": text}
    else:
        said = {401: "Authentication Fails (no such user)", 429: "Rate Limit Reached", 503: "Server Overloaded"}.get(
            status, text
        )
        kind = {401: "authentication_error", 402: "unknown_error"}.get(
            status, "invalid_request_error" if status < 500 and status != 429 else "server_error"
        )
        document = {"error": {"message": said, "type": kind, "param": None, "code": "invalid_request_error"}}
    return json.dumps(document).encode()


# --- what a fault makes of an answer --------------------------------------------------------


def _status(fault: Fault, api: Api) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    if fault.body is not None:
        return Response(
            fault.body, fault.status, headers, "text/html" if fault.body.startswith("<") else "application/json"
        )
    return Response(error_body(api, fault.status), fault.status, headers, "application/json")


def _chat(fault: Fault, answer: Response) -> Response:
    """Damage to the completion: the HTTP answer stays well-formed."""
    document = json.loads(bytes(answer.body))
    if fault.kind == "empty":
        return JSONResponse({**document, "choices": []})
    choice = document["choices"][0]
    whole = choice["message"]["content"]
    contents = {
        "blank": " " * 240,
        "malformed_json": _MALFORMED,
        "wrong_schema": json.dumps(_WRONG),
        "content": fault.content,
        "finish": whole[: len(whole) // 2]
        if fault.finish_reason == "length"
        else ""
        if fault.finish_reason != "stop"
        else whole,
    }
    choice["message"]["content"] = contents[fault.kind]
    if fault.kind == "finish":
        choice["finish_reason"] = fault.finish_reason
    return JSONResponse(document)


def _document(fault: Fault, path: str, api: Api, answer: Response) -> Response:
    """Damage to a whole JSON body."""
    if fault.kind == "blank":
        return Response(b" " * 64, media_type="application/json")
    if fault.kind == "malformed_json":
        whole = bytes(answer.body)
        return Response(
            whole[: max(len(whole) * 2 // 3, 1)] if len(whole) > 3 else b"[[", media_type="application/json"
        )
    if fault.kind == "empty":
        bare: Any = {"candles": []} if api == "advanced" else []
        return JSONResponse(bare if path == "candles" else {})
    if fault.kind == "wrong_schema" and path == "candles":
        rows = [{"when": "12:00", "price": "n/a"}]
        return JSONResponse({"candles": rows} if api == "advanced" else rows)
    if fault.kind == "wrong_schema":
        return JSONResponse(_WRONG)
    return answer  # content and finish say nothing about an answer that is no completion


@dataclass
class _Pass:
    """Where an answer's messages go on their way: kept, to be sent differently."""

    start: Any = None
    body: bytes = b""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")


class Dribble(Response):
    """An answer that arrives slowly: byte by byte, or after blank lines (a queued completion's keep-alives)."""

    def __init__(self, answer: Response, seconds: float, *, blank: bool) -> None:
        super().__init__()
        self._answer, self._seconds, self._blank = answer, seconds, blank

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client that leaves ends it."""
        held = _Pass()
        await self._answer(scope, receive, held.send)
        if self._blank:
            pieces = [b"\n"] * _PIECES
            held.start["headers"] = [pair for pair in held.start["headers"] if pair[0] != b"content-length"]
        else:
            size = max(-(-len(held.body) // _PIECES), 1)
            pieces = [held.body[place : place + size] for place in range(0, len(held.body), size)]
        await send(held.start)
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.wait([gone], timeout=self._seconds / len(pieces))
                if gone.done():
                    return
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": held.body if self._blank else b"", "more_body": False})


class Hangup(Response):
    """The connection closed by the server: before any byte, or in the middle of `answer`'s body; `reset`: by RST."""

    def __init__(self, *, reset: bool, answer: Response | None = None) -> None:
        super().__init__(status_code=503)
        self._reset, self._answer = reset, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what there is to send, then close; under a server that hides its connection, answer 503 instead."""
        transport = scope.get(TRANSPORT)
        if transport is None:
            await super().__call__(scope, receive, send)
            return
        if self._answer is not None:
            held = _Pass()
            await self._answer(scope, receive, held.send)
            await send(held.start)
            await send({"type": "http.response.body", "body": held.body[: len(held.body) // 2], "more_body": True})
            transport.close()
        else:
            if self._reset:
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        await _disconnect(receive)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
