"""A scripted HTTP server on this machine, and candles to serve; what is tested lies in the test modules."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd
import pytest

from v7_pipeline.market.coinbase import CoinbaseClient

T0 = datetime(2023, 12, 11, 2, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass
class Request:
    """What was asked, and when (monotonic seconds)."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at: float

    @property
    def symbol(self) -> str:
        return self.path.split("/products/")[1].split("/")[0]


@dataclass
class Reply:
    """What is answered; `body` may be bytes, text or JSON. `promised` is a Content-Length that is not kept."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None
    drip_s: float = 0.0

    def encoded(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class Server:
    """Answers each request with what `answer` returns for it, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = lambda request: Reply(404, {"message": "NotFound"})
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                request = Request(unquote(parts.path), query, dict(self.headers), time.monotonic())
                with outer._lock:
                    outer.requests.append(request)
                    reply = outer.answer(request)
                self._send(reply)

            def _send(self, reply: Reply) -> None:
                body = reply.encoded()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(reply.promised or len(body)))
                self.end_headers()
                try:
                    if reply.drip_s:
                        for byte in body:
                            self.wfile.write(bytes([byte]))
                            time.sleep(reply.drip_s)
                    self.wfile.write(b"" if reply.drip_s else body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client has had enough
                self.close_connection = reply.promised is not None

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def script(self, *replies: Reply) -> None:
        """Answer with `replies` in turn, the last one for ever."""
        left = list(replies)
        self.answer = lambda request: left.pop(0) if len(left) > 1 else left[0]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@dataclass
class Clients:
    """Makes clients of the server that wait for nothing and remember what they would have waited."""

    server: Server
    slept: list[float] = field(default_factory=list)

    def __call__(self, api: Any = "exchange", **settings: Any) -> CoinbaseClient:
        settings = {"base_url": self.server.url, "limiter": lambda: None, "sleep": self.slept.append, **settings}
        return CoinbaseClient(api=api, **settings)


@pytest.fixture
def client(server: Server) -> Clients:
    return Clients(server)


def values_at(second: int) -> tuple[float, float, float, float, float]:
    """open, high, low, close, volume of the minute at `second`: different for each minute, high and low around."""
    open_ = 100 + second // 60 % 1000
    return open_, open_ + 2.5, open_ - 1.5, open_ + 0.25, 1 + second // 60 % 7


class Exchange:
    """A market with both wire formats and their quirks: both ends inclusive, newest first, a cap on the span.

    `forming` is the open minute: it is sent whatever was asked. `absent` minutes had no trade. `early` rows before
    the start are sent too.
    """

    def __init__(self, *, forming: datetime | None = None, absent: tuple[datetime, ...] = (), early: int = 0) -> None:
        self.forming = forming
        self.absent = {int(minute.timestamp()) for minute in absent}
        self.early = early
        self.spans: list[int] = []

    def __call__(self, request: Request) -> Reply:
        advanced = request.path.startswith("/api/v3/brokerage/market/")
        if not request.path.endswith("/candles"):
            return Reply(404, {"message": "NotFound"})
        if request.query.get("granularity") != ("ONE_MINUTE" if advanced else "60"):
            return Reply(400, {"message": "Unsupported granularity"})
        first, last = (_second(request.query[name], advanced) for name in ("start", "end"))
        rows = (last - first) // 60 + 1
        self.spans.append(rows)
        if advanced and rows >= 350:
            return Reply(400, {"error": "INVALID_ARGUMENT", "error_details": "number of candles requested …"})
        if not advanced and rows > 300:
            return Reply(400, {"message": "granularity too small for the requested time range."})
        times = [t for t in range(first - 60 * self.early, last + 1, 60) if t not in self.absent]
        if self.forming is not None:
            times = [t for t in times if t < self.forming.timestamp()] + [int(self.forming.timestamp())]
        return Reply(body=_wire(times[::-1], advanced))


def _second(text: str, advanced: bool) -> int:
    if advanced:
        return int(text)
    assert text.endswith("Z"), "an ISO instant in UTC"
    return int(datetime.fromisoformat(text).timestamp())


def _wire(times: list[int], advanced: bool) -> Any:
    if advanced:
        names = ("open", "high", "low", "close", "volume")
        return {"candles": [{"start": str(t), **dict(zip(names, map(str, values_at(t)), strict=True))} for t in times]}
    return [[t, v[2], v[1], v[0], v[3], v[4]] for t in times for v in [values_at(t)]]


def candle_frame(times: list[datetime]) -> pd.DataFrame:
    """Valid candles at `times`, in their order."""
    values = [values_at(int(time.timestamp())) for time in times]
    frame = pd.DataFrame(values, columns=["open", "high", "low", "close", "volume"], dtype="float64")
    frame.insert(0, "open_time", pd.to_datetime(pd.Series(times, dtype=object), utc=True))
    return frame
