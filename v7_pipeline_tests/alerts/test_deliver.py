"""Delivery over real HTTP to a stand-in of the Bot API, and that no token is ever seen outside the request."""

from __future__ import annotations

import logging
from html import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from v7_pipeline.alerts.deliver import BODY_LIMIT, Destination, Result, destinations, send, shorten
from v7_pipeline_tests.alerts.bot_api import TOKEN, BotApi

TELEGRAM = SecretStr(f"tgram://{TOKEN}/4242")
BODY = "Stop: 41,580.00"


def to(url: SecretStr) -> Destination:
    return destinations([url])[0]


def test_an_alert_arrives(bot_api: BotApi) -> None:
    assert send(to(bot_api.json_url), "BUY BTC-USD", BODY) == Result("delivered")
    assert bot_api.received[0][1]["title"] == "BUY BTC-USD" and bot_api.received[0][1]["message"] == BODY


@pytest.mark.parametrize(
    ("fault", "kind", "wait", "words"),
    [
        ("429", "busy", 5.0, "answered 429: too many messages, retry after 5 s"),
        ("400", "message", None, "answered 400: it refused this message"),
        ("401", "refused", None, "answered 401: the token or password is wrong"),
        ("403", "refused", None, "answered 403: it is not allowed to write there"),
        ("404", "refused", None, "answered 404"),
        ("500", "busy", None, "answered 500"),
        ("garbage", "busy", None, "answered 502"),
        ("cut", "busy", None, "could not be reached"),
    ],
)
def test_the_bot_apis_recorded_errors_are_told_apart(
    bot_api: BotApi, fault: str, kind: str, wait: float | None, words: str
) -> None:
    bot_api.fault = fault
    result = send(to(TELEGRAM), "title", BODY)
    assert (result.kind, result.retry_after_s) == (kind, wait)
    assert words in str(result.error) and str(result.error).startswith("tgram-")


def test_a_service_that_does_not_answer_is_left_after_its_limit(bot_api: BotApi) -> None:
    bot_api.fault = "slow"
    result = send(to(SecretStr(f"{TELEGRAM.get_secret_value()}?rto=0.3")), "title", BODY)
    assert result.kind == "busy" and "did not answer in time" in str(result.error)


def test_a_severity_may_stand_before_a_url_and_each_is_kept_once() -> None:
    found = destinations(
        [
            SecretStr("json://one.example/a"),
            SecretStr("critical=json://two.example/b"),
            SecretStr("json://one.example/a"),
        ]
    )
    assert [place.severity for place in found] == ["info", "critical"] and found[0].name.startswith("json-")
    assert found[1].url.get_secret_value() == "json://two.example/b"
    assert [found[1].wants(severity) for severity in ("info", "warning", "critical", "new")] == [
        False,
        False,
        True,
        True,
    ]


def test_an_unreadable_url_says_which_setting_to_mend_and_not_what_it_holds() -> None:
    result = send(to(SecretStr("nonsense://s3cret-token")), "title", BODY)
    assert result.kind == "refused" and "V7_ALERT_URLS" in str(result.error)
    assert "s3cret" not in repr(result) + repr(destinations([SecretStr("nonsense://s3cret-token")]))


@pytest.mark.parametrize("fault", ["", "401", "429", "400", "garbage", "cut"])
def test_lesson_30_the_telegram_token_is_in_no_log_and_no_error(
    bot_api: BotApi, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    bot_api.fault = fault
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("apprise").setLevel(logging.DEBUG)
        result = send(to(TELEGRAM), "title", BODY)
    assert bot_api.received[0][0] == f"/bot{TOKEN}/sendMessage"  # it was used …
    out, err = capfd.readouterr()
    assert TOKEN.partition(":")[2] not in caplog.text + repr(result) + out + err  # … and not told


def test_lesson_30_an_unreachable_service_does_not_leak_its_url_either(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        result = send(to(SecretStr("json://user:s3cret@127.0.0.1:9/hook")), "title", BODY)
    assert result.kind == "busy" and "s3cret" not in caplog.text + repr(result)


def test_lesson_31_markup_from_an_analyst_reaches_telegram_escaped(bot_api: BotApi) -> None:
    assert send(to(TELEGRAM), "p <0.5", "p <0.5 & <script>alert(1)</script>").kind == "delivered"
    sent = bot_api.received[0][1]
    assert sent["parse_mode"] == "HTML"
    assert "&lt;script&gt;" in sent["text"] and "<script>" not in sent["text"] and "&amp; " in sent["text"]


def test_lesson_31_a_long_text_is_cut_after_escaping_and_within_telegrams_limit(bot_api: BotApi) -> None:
    send(to(TELEGRAM), "<&>" * 300, "<&>" * 3000)
    assert len(bot_api.received) == 1
    text = bot_api.received[0][1]["text"]
    assert 3500 < len(text) <= 4096
    assert text.rstrip().endswith("…")


@given(st.text(alphabet="ab<>&\"'\n…é", max_size=300), st.integers(5, 200))
@settings(max_examples=80, deadline=None)
def test_shortened_text_fits_once_escaped_and_is_a_beginning(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(escape(short)) <= limit
    if short != text:
        assert len(escape(text)) > limit
        assert text.startswith(short[:-1])
        assert len(escape(text[: len(short)])) + 1 > limit  # one more character would not have fitted


def test_the_limit_leaves_room_below_telegrams() -> None:
    assert BODY_LIMIT + len("DEMO ") <= 4096
