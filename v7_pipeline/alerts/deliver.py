"""Sending pending alerts through Apprise, and what became of each.

A destination's URL holds its token: neither it nor anything quoted from it leaves this module.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from html import escape
from typing import Any

import pandas as pd
from pydantic import SecretStr

__all__ = ["BODY_LIMIT", "deliver", "shorten"]

BODY_LIMIT = 4000  # characters after HTML escaping, title included; Telegram refuses more than 4,096


def deliver(pending: pd.DataFrame, urls: Sequence[SecretStr], *, now: datetime) -> pd.DataFrame:
    """Send each row of `pending` (alerts rows) to every URL; returns what became of each.

    The frame has alert_id, status, attempts, delivered_at and error:

    delivered: at least one destination took it (`error` counts those that did not; asking again would send
    it twice to the others). failed: none did. no_destination: there are no URLs. `now`, an instant in UTC,
    becomes delivered_at. Texts are sent as plain text, which Apprise escapes where a service wants HTML.
    """
    if now.tzinfo is None:
        raise ValueError(f"now {now} has no time zone; pass an instant in UTC")
    rows = pending.to_dict("records")
    if urls and rows:
        with _quiet_logs():
            services = [_service(url) for url in urls]
            results = [_send(services, str(row["title"]), str(row["body"])) for row in rows]
    else:
        results = [("no_destination", None)] * len(rows)
    instant = pd.Timestamp(now).tz_convert("UTC")
    frame = pd.DataFrame(
        {
            "alert_id": [row["alert_id"] for row in rows],
            "status": [status for status, _ in results],
            "attempts": [
                int(row["attempts"]) + (status != "no_destination")
                for row, (status, _) in zip(rows, results, strict=True)
            ],
            "delivered_at": [instant if status == "delivered" else pd.NaT for status, _ in results],
            "error": pd.Series([error for _, error in results], dtype=object),
        }
    )
    frame["delivered_at"] = pd.to_datetime(frame["delivered_at"], utc=True).astype("datetime64[us, UTC]")
    return frame


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


def _service(url: SecretStr) -> Any | None:
    """The Apprise service behind a URL, or None where Apprise cannot read it."""
    import apprise

    asset = apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY)
    return apprise.Apprise.instantiate(url.get_secret_value(), asset=asset, suppress_exceptions=True)


def _send(services: Sequence[Any | None], title: str, body: str) -> tuple[str, str | None]:
    import apprise

    heading = shorten(title, 250)
    text = shorten(body, BODY_LIMIT - len(escape(heading)))
    failed = []
    for number, service in enumerate(services, start=1):
        if service is None:
            failed.append(f"destination {number} is no URL that Apprise can read; mend V7_ALERT_URLS")
            continue
        client = apprise.Apprise(asset=service.asset)
        client.add(service)
        if not client.notify(body=text, title=heading, body_format=apprise.NotifyFormat.TEXT):
            failed.append(f"destination {number} ({service.service_name}) refused it or could not be reached")
    error = "; ".join(failed) or None
    return ("failed" if len(failed) == len(services) else "delivered"), error


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep Apprise and the HTTP library from logging: their lines hold the URL, and with it the token."""
    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3", "requests")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
