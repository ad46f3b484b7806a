"""Sending one alert to one destination through Apprise, and what the destination said.

A destination's URL holds its token: neither it nor anything quoted from it leaves this module.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Literal

from pydantic import SecretStr

__all__ = ["BODY_LIMIT", "SEVERITIES", "Destination", "Result", "destinations", "send", "shorten"]

BODY_LIMIT = 4000  # characters after HTML escaping, title included; Telegram refuses more than 4,096
SEVERITIES = ("info", "warning", "critical")

_MEANINGS = {
    400: "it refused this message",
    401: "the token or password is wrong; mend V7_ALERT_URLS",
    403: "it is not allowed to write there: blocked, or not a member",
    404: "there is no such place; mend V7_ALERT_URLS",
    413: "the message is too long for it",
    429: "too many messages",
}
_OF_THE_MESSAGE = frozenset({400, 413, 422})  # another message may pass: the destination itself is well


@dataclass(frozen=True, slots=True)
class Destination:
    """Where alerts of `severity` and above go; `name` tells it apart without its URL."""

    name: str
    severity: str
    url: SecretStr

    def wants(self, severity: str) -> bool:
        """Whether alerts of `severity` go there; one that is not known goes everywhere."""
        return severity not in SEVERITIES or SEVERITIES.index(severity) >= SEVERITIES.index(self.severity)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one attempt.

    `kind`: delivered; message (this one was refused, others may pass); refused (the destination wants none until a
    person mends it); busy (it is to be asked later, not before `retry_after_s` seconds where it named a time).
    """

    kind: Literal["delivered", "message", "refused", "busy"]
    error: str | None = None
    retry_after_s: float | None = None


def destinations(urls: Sequence[SecretStr]) -> list[Destination]:
    """The destinations of V7_ALERT_URLS, each once; a severity may stand before a URL, as critical=tgram://…"""
    found: dict[str, Destination] = {}
    for url in urls:
        text = url.get_secret_value()
        match = re.match(rf"({'|'.join(SEVERITIES)})=(.+)", text, re.DOTALL)
        severity, address = (match[1], match[2]) if match else ("info", text)
        scheme = re.match(r"[a-zA-Z0-9]{1,20}(?=:)", address)
        digest = hashlib.sha256(address.encode()).hexdigest()[:8]
        name = f"{scheme[0].lower() if scheme else 'unknown'}-{digest}"
        found.setdefault(name, Destination(name, severity, SecretStr(address)))
    return list(found.values())


def send(destination: Destination, title: str, body: str) -> Result:
    """Send one message as plain text, which Apprise escapes where a service wants HTML; nothing is raised or logged.

    Seconds may pass: a service that does not answer is left after Apprise's time limits (4 s to connect, 4 s to read).
    """
    import apprise

    heading = shorten(title, 250)
    text = shorten(body, BODY_LIMIT - len(escape(heading)))
    with _overheard() as said:
        # Retrying is the outbox's: it outlives this process.
        asset = apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY)
        address = destination.url.get_secret_value()
        service = apprise.Apprise.instantiate(address, asset=asset, suppress_exceptions=True)
        if service is None:
            return Result("refused", f"{destination.name} is no URL that Apprise can read; mend V7_ALERT_URLS")
        client = apprise.Apprise(asset=asset)
        client.add(service)
        try:
            done = client.notify(body=text, title=heading, body_format=apprise.NotifyFormat.TEXT)
        except Exception as error:  # noqa: BLE001 - a plugin's fault must not stop the other destinations
            return Result("busy", f"{destination.name} failed with {type(error).__name__}")
    return Result("delivered") if done else _failure(destination.name, "\n".join(said))


def shorten(text: str, limit: int) -> str:
    """`text`, or its beginning and "…", with at most `limit` characters once HTML is escaped."""
    if len(escape(text)) <= limit:
        return text
    room, kept = limit - 1, 0
    for character in text:
        room -= len(escape(character))
        if room < 0:
            break
        kept += 1
    return text[:kept] + "…"


def _failure(name: str, said: str) -> Result:
    """What Apprise's log lines tell: the HTTP status and how long to wait. Nothing else of them is kept."""
    status = next((int(found) for found in re.findall(r"error=(\d{3})\b", said)), None)
    waits = re.findall(r"retry after (\d+)|\"retry_after\":\s*(\d+(?:\.\d+)?)", said, re.IGNORECASE)
    wait = max((float(a or b) for a, b in waits), default=None)
    if status is None:
        return Result("busy", f"{name} could not be reached or did not answer in time", wait)
    error = f"{name} answered {status}" + (f": {_MEANINGS[status]}" if status in _MEANINGS else "")
    if status in _OF_THE_MESSAGE:
        return Result("message", error)
    if status in (401, 403, 404):
        return Result("refused", error)
    return Result("busy", error + (f", retry after {wait:.0f} s" if wait else ""), wait)


_ONE_AT_A_TIME = threading.Lock()  # loggers are the process's


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """What Apprise and the HTTP library log meanwhile; nobody else hears it, since it holds the URL and its token."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener()
    with _ONE_AT_A_TIME:
        loggers = [logging.getLogger(name) for name in ("apprise", "urllib3", "requests")]
        before = [(logger.level, logger.propagate, logger.handlers, logger.disabled) for logger in loggers]
        for logger in loggers:
            logger.propagate, logger.handlers = False, [listener]
            logger.disabled = False
            logger.setLevel(logging.DEBUG if logger.name == "apprise" else logging.CRITICAL + 1)
        try:
            yield said
        finally:
            for logger, (level, propagate, handlers, disabled) in zip(loggers, before, strict=True):
                logger.setLevel(level)
                logger.propagate, logger.handlers, logger.disabled = propagate, handlers, disabled
