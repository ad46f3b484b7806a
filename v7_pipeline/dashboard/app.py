"""The dashboard: one page for people, four addresses for programs, over a store that it only reads.

What is shown is read in queries.py; this module is HTTP, HTML and the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from v7_pipeline.alerts.text import (
    MISSING,
    lots_text,
    number_text,
    percent_text,
    price_text,
    reward_risk,
    time_text,
    usd_text,
)
from v7_pipeline.dashboard import queries
from v7_pipeline.dashboard.backtests import file_of, pages
from v7_pipeline.dashboard.metrics import CONTENT_TYPE, metrics_text
from v7_pipeline.store import StoreBusy, StoreError, open_store

if TYPE_CHECKING:
    import pandas as pd
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from v7_pipeline.settings import Settings

__all__ = ["create_app", "run"]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A backtest's page carries its own program and data, and asks nobody for anything.
_PAGE_HEADERS = _HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
}
_PATIENCE_S = 3.0  # a person would rather be told
_BUSY = "The store is busy, reload in a few seconds."


class BadRequestError(ValueError):
    """A query parameter is not usable; the message says how to mend it."""


def create_app(
    store: queries.ReadableStore,
    *,
    mode: str,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    dagster_url: str | None = None,
    daily_budget_usd: float | None = None,
    clock: Callable[[], datetime] | None = None,
    settings: Settings | None = None,
) -> Starlette:
    """The dashboard as an ASGI application.

    `hosts` are the names it answers to (others get 400, so that no foreign page can read it through a
    rebound name; "*" answers to all). `daily_budget_usd` is shown beside today's cost. `clock` returns the
    present instant in UTC. `settings` tell the account's rules and size and the gates that are off; without
    them no account is shown.

    GET / is the page, /api/status its figures, /api/signals?symbol=&limit= the newest decisions, /metrics what
    Prometheus reads, /health the process, /backtests the pages of backtests. A busy store answers 503 with Retry-After,
    a missing or unusable one 503 with what to do.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Route

    now_of = clock or (lambda: datetime.now(UTC))
    demo = mode == "demo"
    environment = _environment()
    folder = settings.data_dir / "backtest" if settings else None

    def page(request: Request) -> Response:
        now = now_of()
        shown = queries.snapshot(store, now, mode, settings)
        for row in (*shown["decisions"], *shown["accepted"]):
            row["reward_risk"] = reward_risk(row["entry_price"], row["stop_price"], row["target_price"])
        html = environment.get_template("page.html").render(
            **shown,
            demo=demo or shown["is_demo"],
            mode=mode,
            now=now,
            age=_age(shown["scan"], now),
            sparklines=_sparklines(shown["closes"]),
            daily_budget_usd=daily_budget_usd,
            dagster_url=dagster_url,
        )
        return HTMLResponse(html, headers=_HEADERS)

    def status(request: Request) -> Response:
        now = now_of()
        shown = queries.snapshot(store, now, mode, settings)
        scan = shown["scan"]
        return JSONResponse(
            _json(
                {
                    "mode": mode,
                    "demo": demo or shown["is_demo"],
                    "now": now,
                    "newest_scan": scan
                    and {key: scan[key] for key in ("as_of", "status", "finished_at", "signals", "accepted", "closed")},
                    "newest_scan_age_s": _age(scan, now),
                    "failures": shown["failures"],
                    "cost_today_usd": shown["cost"]["usd"],
                    "calls_today": shown["cost"]["calls"],
                    "daily_budget_usd": daily_budget_usd,
                    "win_rates": shown["win_rates"],
                    "gates_off": shown["gates_off"],
                    "halts": shown["halts"],
                    "accepted_24h": len(shown["accepted"]),
                    "account": shown["account"],
                    "account_problem": shown["account_problem"],
                }
            ),
            headers=_HEADERS,
        )

    def signals(request: Request) -> Response:
        symbol = request.query_params.get("symbol", "").strip().upper() or None
        rows = queries.signals(store, symbol=symbol, limit=_limit(request.query_params.get("limit", "100")))
        return JSONResponse(_json({"mode": mode, "demo": demo, "signals": rows}), headers=_HEADERS)

    def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "mode": mode}, headers=_HEADERS)

    def figures(request: Request) -> Response:
        text = metrics_text(store, now_of(), mode)
        return PlainTextResponse(text, headers=_HEADERS | {"Content-Type": CONTENT_TYPE})

    def backtests(request: Request) -> Response:
        shown = pages(folder) if folder else []
        return HTMLResponse(
            environment.get_template("backtests.html").render(demo=demo, backtests=shown), headers=_HEADERS
        )

    def backtest(request: Request) -> Response:
        found = file_of(folder, request.path_params["name"]) if folder else None
        if found is None:
            message = "No such backtest; /backtests lists those that there are."
            html = environment.get_template("message.html").render(demo=demo, heading="Not found", message=message)
            return HTMLResponse(html, status_code=404, headers=_HEADERS)
        return FileResponse(found, headers=_PAGE_HEADERS)

    def trouble(
        code: int, heading: str, message: Callable[[Exception], str]
    ) -> Callable[[Request, Exception], Response]:
        def answer(request: Request, error: Exception) -> Response:
            headers = _HEADERS | ({"Retry-After": "5"} if code == 503 else {})
            if request.url.path.startswith("/api/"):
                return JSONResponse({"error": message(error)}, status_code=code, headers=headers)
            if request.url.path == "/metrics":
                return PlainTextResponse(f"# {message(error)}\n", status_code=code, headers=headers)
            html = environment.get_template("message.html").render(demo=demo, heading=heading, message=message(error))
            return HTMLResponse(html, status_code=code, headers=headers)

        return answer

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/status", status),
            Route("/api/signals", signals),
            Route("/health", health),
            Route("/metrics", figures),
            Route("/backtests", backtests),
            Route("/backtests/{name}", backtest),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers={
            StoreBusy: trouble(503, "Busy", lambda error: _BUSY),
            StoreError: trouble(503, "No store to read", str),
            BadRequestError: trouble(400, "Bad request", str),
        },
    )


def run(
    host: str,
    port: int,
    store_url: str,
    mode: str,
    dagster_url: str | None = None,
    settings: Settings | None = None,
) -> None:
    """Serve the dashboard until interrupted; `settings` tell the daily budget and the account's rules."""
    import uvicorn

    anywhere = host in ("0.0.0.0", "::", "")
    app = create_app(
        open_store(store_url, wait_s=_PATIENCE_S),
        mode=mode,
        hosts=["*"] if anywhere else [host, "localhost", "127.0.0.1"],
        dagster_url=dagster_url,
        daily_budget_usd=settings.daily_budget_usd if settings else None,
        settings=settings,
    )
    # uvicorn's own configuration of its logs would undo that of V7_LOG_JSON.
    own: dict[str, Any] = {"log_config": None} if settings is not None and settings.log_json else {}
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, **own)


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("v7_pipeline.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "commas": lambda words: ", ".join(word.strip() for word in words.split(",")) if words else MISSING,
        "duration": _duration,
        "lots": lots_text,
        "number": number_text,
        "percent": percent_text,
        "price": price_text,
        "time": time_text,
        "there": lambda at, zone: f"{at.astimezone(ZoneInfo(zone)):%H:%M} {zone}",
        "usd": usd_text,
        "width": lambda share: f"{100 * min(max(share, 0.0), 1.0):.1f}%",
        "word": lambda value: MISSING if value is None or value == "" else value,
    }
    return environment


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise BadRequestError(f"limit={text[:20]} is not usable; give a whole number from 1 to 1000")
    return int(text)


def _age(scan: dict[str, Any] | None, now: datetime) -> float | None:
    """Seconds since the newest scan's instant."""
    return None if scan is None else (now - scan["as_of"]).total_seconds()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _sparklines(closes: pd.DataFrame) -> dict[str, str]:
    """SVG points of each symbol's closes in a box of 140 × 36; time runs evenly, a gap is a long line."""
    lines: dict[str, str] = {}
    for symbol, part in closes.groupby("symbol"):
        if len(part) < 2:
            continue
        minutes = (part["open_time"] - part["open_time"].iloc[0]).dt.total_seconds()
        x = 1 + 138 * minutes / minutes.iloc[-1]
        low, high = part["close"].min(), part["close"].max()
        y = 18 + 0 * x if high == low else 34 - 32 * (part["close"] - low) / (high - low)
        lines[str(symbol)] = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return lines


def _json(value: Any) -> Any:
    """`value` with instants as ISO 8601 in UTC, ready for JSON."""
    if isinstance(value, dict):
        return {key: _json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_json(entry) for entry in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
