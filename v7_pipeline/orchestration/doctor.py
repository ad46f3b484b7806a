"""`v7 doctor`: one finding a line, each with what to do where it fails. It looks; it changes nothing."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from v7_pipeline.settings import Settings, env_name, origin_of, without_secrets

__all__ = ["Finding", "examine", "shown"]

_PACKAGES = (
    "dagster",
    "dagster-webserver",
    "dagster-duckdb",
    "duckdb",
    "pandas",
    "numpy",
    "scipy",
    "numba",
    "openai",
)
_MAX_SKEW_S = 5.0
_MIN_FREE_GIB = 2.0
_HEARTBEAT_LATE_S = 120.0


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and the way out where it is not well."""

    subject: str
    state: Literal["ok", "note", "fail"]
    detail: str
    fix: str = ""


def examine(settings: Settings, *, given: Collection[str] = ()) -> Iterator[Finding]:
    """All findings in order; one that cannot be looked at is a failed finding, not an exception.

    `given` names the settings that came as arguments. No password or key is ever in a finding.
    """
    looks: tuple[tuple[str, Callable[[Settings], Iterator[Finding]]], ...] = (
        ("python", _python),
        ("settings", lambda settings: _settings(settings, given)),
        ("coinbase", _coinbase),
        ("deepseek", _deepseek),
        ("store", _store),
        ("daemon", _daemon),
        ("disk", _disk),
    )
    for subject, look in looks:
        try:
            for finding in look(settings):
                yield replace(finding, detail=without_secrets(" ".join(finding.detail.split())))
        except Exception as error:  # noqa: BLE001 — reported as a failure; the other findings must still be made
            told = without_secrets(" ".join(str(error).split()))
            yield Finding(subject, "fail", f"{type(error).__name__}: {told}", "mend this and run `v7 doctor` again")


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Finding(
        "python", "ok" if good else "fail", version, "" if good else "use Python 3.11 (`make setup` finds it)"
    )
    locked = _locked()
    for name in _PACKAGES:
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "fail", "not installed", "run `make setup`")
            continue
        wanted = locked.get(name, installed)
        yield Finding(
            name,
            "ok" if installed == wanted else "fail",
            installed,
            "" if installed == wanted else f"the lock says {wanted}; run `make setup`",
        )


def _locked() -> dict[str, str]:
    lock = Path(__file__).resolve().parents[2] / "requirements.lock"
    if not lock.is_file():
        return {}
    pairs = (
        (line.partition("==")[0], line.partition("==")[2].split(";")[0].strip())
        for line in lock.read_text().splitlines()
        if "==" in line
    )
    return dict(pairs)


def shown(settings: Settings, field: str) -> str:
    """A setting's value for people to read: secrets and passwords masked, a list as it is written."""
    value = getattr(settings, field)
    if value is None or value == () or value == {}:
        return "not set"
    if "SecretStr" in repr(value):
        return "set (masked)"
    if isinstance(value, dict):
        return ",".join(f"{name}={figure:g}" for name, figure in value.items())
    return without_secrets(",".join(value) if isinstance(value, tuple) else str(value))


def _settings(settings: Settings, given: Collection[str]) -> Iterator[Finding]:
    arguments = dict.fromkeys(given)
    for field in type(settings).model_fields:
        origin = origin_of(field, arguments)
        if origin != "default" or field in ("mode", "home", "symbols", "analyst", "deepseek_api_key"):
            yield Finding(env_name(field), "ok", f"{shown(settings, field)} (from {origin})")
    if settings.gates_off:
        told = f"{', '.join(settings.gates_off)} OFF: asked and recorded, but nothing is blocked by them"
        yield Finding("gates", "note", told, "empty V7_GATES_OFF to let them block again")
    rest = sum(origin_of(field, arguments) == "default" for field in type(settings).model_fields)
    yield Finding(
        "settings",
        "ok",
        f"{rest} of {len(type(settings).model_fields)} at their defaults; `v7 settings` lists all",
    )


def _asking_sandbox(settings: Settings) -> Settings:
    from v7_pipeline.orchestration.up import sandbox_settings

    return sandbox_settings(settings, f"http://{settings.host}:{settings.sandbox_port}")


def _coinbase(settings: Settings) -> Iterator[Finding]:
    from v7_pipeline.scan.runtime import build_runtime

    if settings.mode == "demo":
        settings = _asking_sandbox(settings)
    client = build_runtime(settings).market
    url = settings.exchange_url if settings.market_api == "exchange" else settings.advanced_url
    subject = "sandbox" if settings.mode == "demo" else "coinbase"
    before = datetime.now(UTC)
    try:
        server = client.server_time()
    except RuntimeError as error:
        way = (
            "start `v7 up --demo` (or `v7 sandbox` alone); commands such as `v7 scan --demo` bring their own"
            if settings.mode == "demo"
            else "check the connection or a proxy; V7_EXCHANGE_URL names another address"
        )
        yield Finding(subject, "fail", str(error), way)
        yield Finding("clock", "note", "not compared: no server time", "reach the market first")
        return
    after = datetime.now(UTC)
    yield Finding(subject, "ok", f"{url} answered in {(after - before).total_seconds():.2f} s")
    skew = abs((server - (before + (after - before) / 2)).total_seconds())
    fine = skew <= _MAX_SKEW_S
    yield Finding(
        "clock",
        "ok" if fine else "fail",
        f"{skew:.1f} s from the market's",
        "" if fine else "synchronise the clock (chrony or systemd-timesyncd)",
    )


def _deepseek(settings: Settings) -> Iterator[Finding]:
    if settings.mode == "demo":
        yield Finding("deepseek", "ok", "not asked in demo mode: the sandbox stands in for it, and no key leaves here")
        return
    if settings.deepseek_api_key is None:
        who = "the built-in rules decide" if settings.analyst_name == "rules" else f"{settings.analyst_name} decides"
        yield Finding("deepseek", "note", f"no key: {who}", "set DEEPSEEK_API_KEY for DeepSeek")
        return
    import requests

    key = settings.deepseek_api_key.get_secret_value()
    try:
        answer = requests.get(
            f"{settings.deepseek_url}/user/balance", headers={"Authorization": f"Bearer {key}"}, timeout=10
        )
    except requests.RequestException as error:
        yield Finding(
            "deepseek",
            "fail",
            f"{settings.deepseek_url} not reached ({type(error).__name__})",
            "check the connection or V7_DEEPSEEK_URL",
        )
        return
    if answer.status_code == 401:
        yield Finding(
            "deepseek",
            "fail",
            "the key is refused (401)",
            "set a valid DEEPSEEK_API_KEY, or unset it to use the rules",
        )
        return
    if not answer.ok:
        yield Finding("deepseek", "fail", f"balance answered {answer.status_code}", "see the service's status page")
        return
    body = answer.json()
    infos = body.get("balance_infos") or [{}]
    amount = f"{infos[0].get('total_balance', '?')} {infos[0].get('currency', '')}".strip()
    enough = bool(body.get("is_available", False))
    yield Finding(
        "deepseek",
        "ok" if enough else "fail",
        f"key valid, balance {amount}",
        "" if enough else "top up the account; calls will be refused",
    )


def _store(settings: Settings) -> Iterator[Finding]:
    from v7_pipeline.store import StoreBusy, StoreError, open_store
    from v7_pipeline.store.schema import SCHEMA_VERSION

    try:
        store = open_store(settings.store_url, wait_s=settings.store_wait_s)
    except StoreError as error:
        yield Finding("store", "fail", str(error), "correct V7_STORE")
        return
    try:
        version = store.schema_version()
    except StoreBusy as error:
        yield Finding(
            "store",
            "fail",
            str(error),
            "try again in a moment; `v7 up` shares the store, other programs may not",
        )
        return
    except StoreError as error:
        yield Finding("store", "fail", str(error), "correct V7_STORE, or start what it names")
        return
    name = repr(store).removeprefix("Store(").removesuffix(")")
    if version is None:
        yield Finding("store", "note", f"{name} is empty", "run `v7 up`")
        return
    state: Literal["ok", "note", "fail"] = (
        "ok" if version == SCHEMA_VERSION else "note" if version < SCHEMA_VERSION else "fail"
    )
    fix = {
        "ok": "",
        "note": "it is migrated at the next `v7 up`",
        "fail": "upgrade V7: this store was written by a newer one",
    }[state]
    yield Finding("store", state, f"{name}, schema {version} (code has {SCHEMA_VERSION})", fix)


def _daemon(settings: Settings) -> Iterator[Finding]:
    home = settings.data_dir / "dagster_home"
    if not (home / "dagster.yaml").is_file():
        yield Finding("daemon", "note", "never started here", "run `v7 up`")
        return
    from v7_pipeline.orchestration.launch import open_instance

    beats = open_instance(settings).get_daemon_heartbeats()
    if not beats:
        yield Finding("daemon", "note", "no heartbeat yet", "run `v7 up`")
        return
    newest = max(beat.timestamp for beat in beats.values())
    age = datetime.now(UTC).timestamp() - newest
    errors = [name for name, beat in beats.items() if beat.errors]
    if age > _HEARTBEAT_LATE_S:
        yield Finding("daemon", "fail", f"last heartbeat {age:.0f} s ago", "start `v7 up`; see logs/daemon.log")
    elif errors:
        yield Finding("daemon", "fail", f"errors in {', '.join(errors)}", "see logs/daemon.log")
    else:
        yield Finding("daemon", "ok", f"last heartbeat {age:.0f} s ago")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = next(path for path in (settings.data_dir, *settings.data_dir.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    fine = free >= _MIN_FREE_GIB
    yield Finding(
        "disk",
        "ok" if fine else "fail",
        f"{free:.1f} GiB free at {place}",
        "" if fine else f"free some space: {_MIN_FREE_GIB:.0f} GiB at least",
    )
