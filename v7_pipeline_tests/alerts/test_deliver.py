"""Delivery over real HTTP to local stand-ins, and that no token is ever seen outside the request."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from v7_pipeline.alerts.deliver import BODY_LIMIT, deliver, shorten

NOW = datetime(2023, 12, 11, 2, 13, tzinfo=UTC)
TOKEN = "123456789:abcdefghij_klmnopqrstuvwxyz12345678"


@dataclass
class Service:
    """What the stand-in answers with, and what it was sent."""

    port: int
    status: int = 200
    answer: dict[str, Any] = field(default_factory=lambda: {"ok": True})
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def url(self, secret: str = "s3cret") -> SecretStr:
        return SecretStr(f"json://user:{secret}@127.0.0.1:{self.port}/hook")


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service(0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.received.append((self.path, json.loads(body)))
            self.send_response(state.status)
            self.end_headers()
            self.wfile.write(json.dumps(state.answer).encode())

        def log_message(self, *parts: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def telegram(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The stand-in as Telegram's Bot API."""
    from apprise.plugins.telegram import NotifyTelegram

    monkeypatch.setattr(NotifyTelegram, "notify_url", f"http://127.0.0.1:{service.port}/bot")
    return service


def pending(count: int = 1, body: str = "Stop: 41,580.00", attempts: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "alert_id": [f"signal:{i}" for i in range(count)],
            "title": "BUY BTC-USD",
            "body": body,
            "attempts": attempts,
        }
    )


def test_an_alert_arrives_and_is_marked_delivered_at_the_given_instant(service):
    result = deliver(pending(2), [service.url()], now=NOW)
    assert [sent["message"] for _, sent in service.received] == ["Stop: 41,580.00"] * 2
    assert service.received[0][1]["title"] == "BUY BTC-USD"
    assert result["status"].tolist() == ["delivered", "delivered"]
    assert result["delivered_at"].tolist() == [NOW, NOW]
    assert result["attempts"].tolist() == [1, 1]
    assert result["error"].isna().all()
    assert list(result.columns) == ["alert_id", "status", "attempts", "delivered_at", "error"]


def test_a_refusal_is_failed_and_counted(service):
    service.status = 500
    row = deliver(pending(attempts=2), [service.url()], now=NOW).iloc[0]
    assert (row["status"], row["attempts"]) == ("failed", 3)
    assert pd.isna(row["delivered_at"])
    assert "destination 1 (JSON)" in row["error"]


def test_one_of_two_destinations_suffices_and_the_other_is_named(service):
    unreachable = SecretStr("json://127.0.0.1:9/hook")
    row = deliver(pending(), [unreachable, service.url()], now=NOW).iloc[0]
    assert row["status"] == "delivered"
    assert row["error"].startswith("destination 1 ")
    assert len(service.received) == 1


def test_without_urls_there_is_no_destination_and_nothing_is_counted_as_tried():
    row = deliver(pending(), [], now=NOW).iloc[0]
    assert (row["status"], row["attempts"]) == ("no_destination", 0)
    assert deliver(pending(0), [SecretStr("json://127.0.0.1:9")], now=NOW).empty


def test_an_unreadable_url_says_which_setting_to_mend_and_not_what_it_holds(service):
    row = deliver(pending(), [SecretStr("nonsense://s3cret-token")], now=NOW).iloc[0]
    assert row["status"] == "failed"
    assert "V7_ALERT_URLS" in row["error"]
    assert "s3cret" not in row["error"]


@pytest.mark.parametrize("code", [200, 401, 429])
def test_lesson_30_the_telegram_token_is_in_no_log_and_no_error(telegram, caplog, capfd, code):
    telegram.status = code
    telegram.answer = {
        "ok": code == 200,
        "error_code": code,
        "description": f"Unauthorized /bot{TOKEN}/sendMessage",
    }
    with caplog.at_level(logging.DEBUG):
        result = deliver(pending(), [SecretStr(f"tgram://{TOKEN}/4242")], now=NOW)
    assert telegram.received[0][0] == f"/bot{TOKEN}/sendMessage"  # it was used …
    out, err = capfd.readouterr()
    secret = TOKEN.partition(":")[2]
    assert secret not in caplog.text + result.to_csv() + out + err  # … and not told
    assert result["status"].iloc[0] == ("delivered" if code == 200 else "failed")


def test_lesson_30_an_unreachable_service_does_not_leak_its_url_either(caplog):
    with caplog.at_level(logging.DEBUG):
        result = deliver(pending(), [SecretStr("json://user:s3cret@127.0.0.1:9/hook")], now=NOW)
    assert "s3cret" not in caplog.text + result.to_csv()


def test_lesson_31_markup_from_an_analyst_reaches_telegram_escaped(telegram):
    deliver(pending(body="p <0.5 & <script>alert(1)</script>"), [SecretStr(f"tgram://{TOKEN}/4242")], now=NOW)
    sent = telegram.received[0][1]
    assert sent["parse_mode"] == "HTML"
    assert "&lt;script&gt;" in sent["text"]
    assert "<script>" not in sent["text"]
    assert "&amp; " in sent["text"]


def test_lesson_31_a_long_text_is_cut_after_escaping_and_within_telegrams_limit(telegram):
    deliver(pending(body="<&>" * 3000), [SecretStr(f"tgram://{TOKEN}/4242")], now=NOW)
    assert len(telegram.received) == 1
    text = telegram.received[0][1]["text"]
    assert 3500 < len(text) <= 4096
    assert text.rstrip().endswith("…")


@given(st.text(alphabet="ab<>&\"'\n…é", max_size=300), st.integers(5, 200))
@settings(max_examples=80, deadline=None)
def test_shortened_text_fits_once_escaped_and_is_a_beginning(text, limit):
    short = shorten(text, limit)
    assert len(escape(short)) <= limit
    if short != text:
        assert len(escape(text)) > limit
        assert text.startswith(short[:-1])
        assert len(escape(text[: len(short)])) + 1 > limit  # one more character would not have fitted


def test_the_limit_leaves_room_below_telegrams():
    assert BODY_LIMIT + len("DEMO ") <= 4096


def test_lesson_04_a_naive_instant_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        deliver(pending(), [], now=datetime(2023, 12, 11))  # noqa: DTZ001
