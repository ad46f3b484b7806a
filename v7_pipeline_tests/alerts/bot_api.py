"""A local stand-in of Telegram's Bot API with its recorded errors; any other path takes what is posted as JSON.

Like the original it refuses texts of more than 4,096 characters and markup that it does not know.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import SecretStr

__all__ = ["TOKEN", "BotApi", "lead_here", "serve"]

TOKEN = "123456789:abcdefghij_klmnopqrstuvwxyz12345678"
SLOW_S = 2.0

_DESCRIPTIONS = {
    400: "Bad Request: can't parse entities: Unsupported start tag",
    401: f"Unauthorized /bot{TOKEN}/sendMessage",  # the original does not echo it; a proxy before it might
    403: "Forbidden: bot was blocked by the user",
    404: "Not Found",
    429: "Too Many Requests: retry after 5",
    500: "Internal Server Error",
}


@dataclass
class BotApi:
    """What it answers with (`fault`: a status, garbage, cut or slow; empty: well) and what it was sent."""

    port: int = 0
    fault: str = ""
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def bot_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/bot"

    @property
    def json_url(self) -> SecretStr:
        return SecretStr(f"json://user:s3cret@127.0.0.1:{self.port}/hook")

    @property
    def texts(self) -> list[str]:
        """Title and body of every message, in the order of arrival."""
        return [
            str(sent["text"]) if "text" in sent else f"{sent['title']}\n{sent['message']}" for _, sent in self.received
        ]

    def answer(self, path: str, sent: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body for one request."""
        self.received.append((path, sent))
        if self.fault == "garbage":
            return 502, b"<html>\xff\xfe bad gateway"
        if self.fault == "slow":
            time.sleep(SLOW_S)
        status = int(self.fault) if self.fault.isdigit() else 200
        text = str(sent.get("text", ""))
        if len(text) > 4096 or re.search(r"<(?!/?(?:b|i|u|s|a|code|pre)\b)", text):
            status = 400
        if status == 200:
            return 200, json.dumps({"ok": True, "result": {"message_id": len(self.received)}}).encode()
        error = {"ok": False, "error_code": status, "description": _DESCRIPTIONS[status]}
        return status, json.dumps(error | ({"parameters": {"retry_after": 5}} if status == 429 else {})).encode()


_LEAD = """
import importlib.abc, importlib.util, sys

class Lead(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "apprise.plugins.telegram":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def then_lead(module):
            execute(module)
            module.NotifyTelegram.notify_url = {url!r}
        spec.loader.exec_module = then_lead
        return spec

sys.meta_path.insert(0, Lead())
"""


def lead_here(api: BotApi, folder: Path) -> Path:
    """`folder`, which makes tgram:// lead to `api` in every Python process that has it on its PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_LEAD.format(url=api.bot_url))
    return folder


@contextmanager
def serve() -> Iterator[BotApi]:
    """The stand-in on a free port, until the block ends."""
    state = BotApi()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = state.answer(self.path, sent)
            if state.fault == "cut":
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # the client has gone, or was cut off
                super().handle()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *parts: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
