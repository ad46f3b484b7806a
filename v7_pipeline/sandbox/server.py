"""The sandbox's server: routes, counts, rate limit and faults around coinbase.py, coingecko.py and deepseek.py.

Every answer carries the header X-V7-Demo. Prices belong to simulator.py and replay.py.
"""

from __future__ import annotations

import html
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from v7_pipeline.sandbox import coinbase, coingecko, deepseek
from v7_pipeline.sandbox.answers import Answerer, document_of, rules_answer
from v7_pipeline.sandbox.faults import TRANSPORT, Api, Fault, FaultError, Faults, answer_with, error_body
from v7_pipeline.sandbox.replay import Replay
from v7_pipeline.sandbox.simulator import Simulated
from v7_pipeline.sandbox.source import Source, require_utc

__all__ = ["DEMO_HEADER", "SandboxError", "SandboxServer", "create_app", "run"]

DEMO_HEADER = ("X-V7-Demo", "sandbox")
_ADVANCED = "/api/v3/brokerage"

Clock = Callable[[], datetime]
Handler = Callable[[Request, bytes, datetime, float], Response]
"""Makes the healthy answer of a request, its body, the instant, and the seconds by which candles are late."""


class SandboxError(RuntimeError):
    """The server cannot start; the message says why and how to mend it."""


def create_app(
    *,
    seed: int = 7,
    replay: Replay | None = None,
    clock: Clock | None = None,
    answerer: Answerer | None = None,
    rate_limit: bool = False,
) -> Starlette:
    """The sandbox as an ASGI app.

    Prices are `replay`'s where given, else simulated from `seed`. `clock` says what time it is (default: the wall
    clock, UTC): what opens later does not exist. `answerer` answers chats (default: the rules). `rate_limit` switches
    on Coinbase's 10 requests/s with a burst of 15. `app.state.faults` is the Faults, `app.state.counts` counts
    requests by endpoint, `app.state.account` is what chats are paid from.
    """
    room = _Room(replay or Simulated(seed), clock or _wall_clock, answerer or rules_answer, rate_limit)
    app = Starlette(routes=room.routes())
    app.add_middleware(_Marked, clock=room.clock)
    app.state.faults, app.state.counts, app.state.account = room.faults, room.counts, room.account
    return app


def run(host: str, port: int, *, seed: int = 7, replay_files: Iterable[Path | str] = ()) -> None:
    """Serve until SIGTERM or SIGINT; prints nothing. From the main thread only.

    SandboxError where the address cannot be had; ReplayError where a recording cannot be served.
    """
    files = list(replay_files)
    app = create_app(seed=seed, replay=Replay.from_files(files) if files else None)
    with closing(_listen(host, port)) as listener:
        server = _server(app)
        # uvicorn hands the signal on once it has shut down; without this the process would end as if killed.
        before = signal.signal(signal.SIGTERM, _leave)
        try:
            with suppress(KeyboardInterrupt, _Left):
                server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)


class SandboxServer:
    """The sandbox in a background thread, for tests and drills: a context manager; `url` is valid within it."""

    def __init__(
        self,
        *,
        seed: int = 7,
        replay: Replay | None = None,
        clock: Clock | None = None,
        answerer: Answerer | None = None,
        rate_limit: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.app = create_app(seed=seed, replay=replay, clock=clock, answerer=answerer, rate_limit=rate_limit)
        self.url = ""
        self._address = (host, port)

    @property
    def faults(self) -> Faults:
        """Those switched on."""
        faults: Faults = self.app.state.faults
        return faults

    @property
    def account(self) -> deepseek.Account:
        """What chats are paid from."""
        account: deepseek.Account = self.app.state.account
        return account

    @property
    def counts(self) -> dict[str, int]:
        """Requests since the start, by endpoint."""
        return dict(self.app.state.counts)

    def fault(self, path: str, kind: str, **options: Any) -> Fault:
        """Switch a fault on; `options` as in Fault."""
        return self.faults.add({"path": path, "kind": kind, **options})

    def __enter__(self) -> SandboxServer:
        self._listener = _listen(*self._address)
        self._server = _server(self.app)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="v7-sandbox", daemon=True
        )
        self._thread.start()
        give_up = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > give_up or not self._thread.is_alive():
                raise SandboxError("the sandbox did not start within 10 s")
            time.sleep(0.002)
        host, port = self._listener.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()


# --- the app --------------------------------------------------------------------------------


class _Room:
    """One sandbox's state, and its endpoints."""

    def __init__(self, source: Source, clock: Clock, answerer: Answerer, rate_limit: bool) -> None:
        self.source, self.clock, self.answerer = source, clock, answerer
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        self._cache = deepseek.PrefixCache()
        self.account = deepseek.Account()
        self._limit = coinbase.RateLimit() if rate_limit else None

    def routes(self) -> list[Route]:
        """Every path, the two prefixes of each DeepSeek endpoint included."""
        routes = [
            self._route("/products/{id}/candles", "candles", "exchange", self._candles),
            self._route("/products/{id}/book", "book", "exchange", self._book),
            self._route("/products/{id}", "product", "exchange", self._product),
            self._route("/time", "time", "exchange", self._time),
            self._route(f"{_ADVANCED}/market/products/{{id}}/candles", "candles", "advanced", self._candles),
            self._route(f"{_ADVANCED}/market/product_book", "book", "advanced", self._book),
            self._route(f"{_ADVANCED}/market/products/{{id}}", "product", "advanced", self._product),
            self._route(f"{_ADVANCED}/time", "time", "advanced", self._time),
        ]
        # The reference names the book without /market; the public one has it. Both are served.
        routes.append(self._route(f"{_ADVANCED}/product_book", "book", "advanced", self._book))
        for prefix in ("", "/v1"):
            routes.append(self._route(f"{prefix}/chat/completions", "chat", "deepseek", self._chat, "POST"))
            routes.append(self._route(f"{prefix}/models", "models", "deepseek", self._models))
        routes.append(self._route("/user/balance", "balance", "deepseek", self._balance))
        routes.append(self._route("/api/v3/simple/price", "coingecko", "coingecko", self._coingecko))
        routes += [
            Route("/", self._front),
            Route("/health", self._health),
            Route("/_requests", self._requests, methods=["GET", "DELETE"]),
            Route("/_faults", self._fault_switch, methods=["GET", "POST", "DELETE"]),
            Route("/_rate_limit", self._rate_switch, methods=["POST"]),
        ]
        return routes

    def _route(self, path: str, name: str, api: Api, handler: Handler, method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            self.counts[name] += 1
            if (
                self._limit
                and api in ("exchange", "advanced")
                and not self._limit.allows(_client(request), time.monotonic())
            ):
                return Response(error_body(api, 429), 429, media_type="application/json")

            async def produce(lag_s: float) -> Response:
                return await run_in_threadpool(
                    handler, request, body, require_utc(self.clock(), "the clock's time"), lag_s
                )

            fault = self.faults.take(name, _symbol(name, request, body))
            return await (produce(0.0) if fault is None else answer_with(fault, name, api, produce))

        return Route(path, endpoint, methods=[method], name=f"{api}-{name}")

    # Healthy answers, by endpoint.

    def _candles(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return coinbase.candles(_api(request), self.source, _product_of(request), request.query_params, now, lag_s)

    def _book(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return coinbase.book(_api(request), self.source, _product_of(request), request.query_params, now)

    def _product(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return coinbase.product(_api(request), self.source, _product_of(request), now)

    def _time(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return coinbase.server_time(_api(request), now)

    def _chat(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return deepseek.complete(body, request.headers, self.answerer, self._cache, self.account, now)

    def _balance(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return deepseek.balance(request.headers, self.account)

    def _coingecko(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return coingecko.simple_price(self.source, request.query_params, now)

    def _models(self, request: Request, body: bytes, now: datetime, lag_s: float) -> Response:
        return deepseek.models(request.headers)

    # The sandbox's own.

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "source": "demo", **self.source.describe()})

    async def _requests(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.counts.clear()
        return JSONResponse(dict(self.counts))

    async def _fault_switch(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                added = self.faults.add(json.loads(await request.body()))
            except FaultError as error:
                return JSONResponse({"error": str(error)}, 422)
            except ValueError as error:
                return JSONResponse({"error": f"the body is not JSON: {error}"}, 400)
            return JSONResponse(added.model_dump(), 201)
        if request.method == "DELETE":
            self.faults.clear()
        return JSONResponse(self.faults.list())

    async def _rate_switch(self, request: Request) -> Response:
        try:
            wanted = json.loads(await request.body())["enabled"]
        except (ValueError, KeyError, TypeError):
            wanted = None
        if not isinstance(wanted, bool):
            return JSONResponse({"error": 'send {"enabled": true} or {"enabled": false}'}, 422)
        self._limit = coinbase.RateLimit() if wanted else None
        return JSONResponse({"enabled": wanted})

    async def _front(self, request: Request) -> Response:
        return HTMLResponse(_page(self.source))


class _Marked:
    """Marks each answer as demo, whatever made it, and dates it by the sandbox's clock."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app, self._clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                pair = (DEMO_HEADER[0].lower().encode(), DEMO_HEADER[1].encode())
                date = (b"date", format_datetime(self._clock().astimezone(UTC), usegmt=True).encode())
                message = {**message, "headers": [*message.get("headers", ()), pair, date]}
            await send(message)

        await self._app(scope, receive, marked)


def _api(request: Request) -> Api:
    return "advanced" if request.url.path.startswith(_ADVANCED) else "exchange"


def _product_of(request: Request) -> str:
    return str(request.path_params.get("id") or request.query_params.get("product_id", ""))


def _symbol(name: str, request: Request, body: bytes) -> str | None:
    """The product a request is about; a chat's is its prompt's."""
    if name != "chat":
        return _product_of(request) or None
    try:
        document = document_of(json.loads(body)["messages"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # the handler refuses it with the right status
    return str(document["symbol"]) if document and "symbol" in document else None


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _wall_clock() -> datetime:
    return datetime.now(UTC)


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>V7 sandbox (DEMO)</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}}
b.demo{{background:#b45309;color:#fff;padding:.1rem .5rem;border-radius:.3rem}}
td{{padding:.15rem 1rem .15rem 0;vertical-align:top}}</style>
<h1>V7 sandbox <b class="demo">DEMO</b></h1>
<p>This server stands in for Coinbase, CoinGecko and DeepSeek. Its prices are {prices}, its analyst is a set of rules:
nothing here is real, and none of it is advice.</p>
<table>{rows}</table></html>
"""
_ENDPOINTS = (
    (
        "GET /products/{id}/candles?granularity=60&start=…&end=…",
        "Exchange: candles, newest first, at most 300 intervals",
    ),
    ("GET /products/{id}/book?level=2", "Exchange: order book"),
    ("GET /products/{id} · GET /time", "Exchange: product, server time"),
    (f"GET {_ADVANCED}/market/products/{{id}}/candles", "Advanced Trade: candles, as strings, at most 350"),
    (f"GET {_ADVANCED}/market/product_book?product_id=…", "Advanced Trade: order book"),
    (f"GET {_ADVANCED}/market/products/{{id}} · {_ADVANCED}/time", "Advanced Trade: product, server time"),
    ("POST /chat/completions", "DeepSeek: answered by the rules; any Bearer key without “invalid” in it"),
    ("GET /user/balance · GET /models", "DeepSeek: balance, models"),
    ("GET /api/v3/simple/price?ids=bitcoin&vs_currencies=usd", "CoinGecko: prices over many venues"),
    (
        "GET, POST, DELETE /_faults",
        'switch faults on, e.g. {"path": "candles", "kind": "status", "status": 429, "count": 2}',
    ),
    ("POST /_rate_limit", '{"enabled": true}: 10 requests/s, burst 15, then 429'),
    ("GET, DELETE /_requests", "requests by endpoint"),
    ("GET /health", "whether it runs, and on what prices"),
)


def _page(source: Source) -> str:
    about = source.describe()
    prices = f"simulated (seed {about['seed']})" if "seed" in about else "replayed from recordings"
    prices += f", for {', '.join(source.symbols())}"
    rows = "".join(f"<tr><td><code>{html.escape(path)}</code><td>{html.escape(text)}" for path, text in _ENDPOINTS)
    return _PAGE.format(prices=html.escape(prices), rows=rows)


# --- serving --------------------------------------------------------------------------------


class _Left(BaseException):
    """SIGTERM arrived and the server has shut down."""


def _leave(number: int, frame: FrameType | None) -> None:
    raise _Left


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SandboxError(f"{host} is no address of this machine: {error.strerror}; give another --host") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = f"the sandbox cannot listen on {host}:{port} ({error.strerror})"
        raise SandboxError(f"{reason}; end what uses it, or give another --port") from None
    return listener


def _server(app: ASGIApp) -> Any:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """Shows the app its connection, so that a fault can cut it."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app = partial(_with_transport, self.app, transport)

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,  # the process's logging stays as it is; only what goes wrong is said
        log_level="warning",
        access_log=False,
        date_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=30,
    )
    return uvicorn.Server(config)


async def _with_transport(app: Any, transport: Any, scope: Any, receive: Any, send: Any) -> None:
    await app({**scope, TRANSPORT: transport}, receive, send)
