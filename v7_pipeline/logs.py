"""Logs for programs: one JSON object a line where V7_LOG_JSON says so, with every secret that the settings hold masked.

What is worth a line is decided where it happens; here is only its form.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from v7_pipeline.settings import SettingsError, secret_of, without_secrets

if TYPE_CHECKING:
    from v7_pipeline.settings import Settings

__all__ = ["JsonLines", "configure", "secrets_of"]

_MASK = "…"
_SHORTEST = 6  # masking shorter words would hide words that are no secrets
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time (UTC), level, logger, message, process, what was given as extra, and the
    traceback of an exception. `secrets` are masked wherever they stand, as are passwords in addresses.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = sorted({text for text in secrets if len(text) >= _SHORTEST}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """`record` as JSON without a line break in it."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        told |= _extra(record)
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(self._masked(told), ensure_ascii=False)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): self._masked(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._masked(entry) for entry in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = without_secrets(str(value))
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text


def configure(settings: Settings) -> None:
    """Where V7_LOG_JSON is set, this process logs JSON lines: on stderr, and wherever a handler stands already."""
    if not settings.log_json:
        return
    form = JsonLines(secrets_of(settings))
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
    for logger in (root, *(logging.getLogger(name) for name in ("dagster", "uvicorn", "uvicorn.error"))):
        for handler in logger.handlers:
            handler.setFormatter(form)
    logging.getLogger("v7_pipeline").setLevel(logging.INFO)


def secrets_of(settings: Settings) -> set[str]:
    """All that must never stand in a log: keys, addresses of alerts, and the parts of these as good as keys."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, SecretStr):
                text = entry.get_secret_value()
                # The token of tgram://TOKEN/CHAT also stands in the address that is really called.
                found |= {text, *(part for part in re.split(r"[/:@?&=,]", text) if len(part) >= 8)}
    try:
        named = [entry.api_key_env for entry in settings.listed_analysts.values() if entry.api_key_env]
    except SettingsError:
        named = []
    found |= {key.get_secret_value() for name in named if (key := secret_of(name)) is not None}
    return found


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as extra; of a Dagster event its run, job, step and kind, not the whole of it."""
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD and not key.startswith("_")}
    meta = extra.pop("dagster_meta", None)
    extra.pop("dagster_event", None)
    if isinstance(meta, dict):
        for name in ("run_id", "job_name", "step_key"):
            if meta.get(name):
                extra[name] = meta[name]
        event = meta.get("dagster_event")
        if event is not None:
            extra["event"] = getattr(event, "event_type_value", str(event))
        if meta.get("orig_message"):
            extra["text"] = meta["orig_message"]
    return extra
