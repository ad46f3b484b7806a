"""One way to ask a JSON service: rate-limited for the whole process, each attempt bounded, retried with jitter.

What is asked and how an answer is read belongs to the wire; this module knows nothing of candles.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from requests import exceptions as errors
from requests.adapters import HTTPAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.exceptions import TimeoutError as Urllib3Timeout
from urllib3.util.retry import Retry

from v7_pipeline import __version__
from v7_pipeline.market.errors import MarketError
from v7_pipeline.market.wire import Malformed, error_text

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["Answer", "Limiter", "Transport", "process_limiter"]

T = TypeVar("T")
Limiter = Callable[[], object]

_MAX_BODY = 16 * 2**20  # bytes; a page of candles has about 20,000
_MAX_RETRY_AFTER_S = 30.0
# 401: these endpoints need no key, and Coinbase has answered throttled candle requests with it (2024-07).
_RETRIED = frozenset({401, 408, 425, 429})
_LIMITERS: dict[tuple[str, int], Limiter] = {}
_LIMITERS_LOCK = threading.Lock()


def process_limiter(url: str, rate_per_s: int) -> Limiter:
    """A function that returns as soon as the host of `url` may be asked: at most `rate_per_s` times in any second.

    Every caller in the process that names the same host and rate shares one limiter.
    """
    from pyrate_limiter import InMemoryBucket, Rate, SingleBucketFactory
    from pyrate_limiter import Limiter as PyrateLimiter

    host = re.sub(r"^[^/]*//(.*@)?", "", url).partition("/")[0].lower()
    with _LIMITERS_LOCK:
        if (host, rate_per_s) not in _LIMITERS:
            bucket = InMemoryBucket([Rate(rate_per_s, 1000)])
            # Forgotten here rather than by the library's background thread: a process that only scans needs none.
            limiter = PyrateLimiter(SingleBucketFactory(bucket, schedule_leak=False))

            def acquire() -> None:
                bucket.leak(time.monotonic_ns() // 1_000_000)
                limiter.try_acquire(host)

            _LIMITERS[host, rate_per_s] = acquire
        return _LIMITERS[host, rate_per_s]


class _Transient(Exception):  # noqa: N818 — a state of an attempt, not an error that anybody outside sees
    """An attempt failed in a way that may pass; `retry_after_s` is what the server asked for."""

    def __init__(self, what: str, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, complete."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """GET requests to one base URL, safe to use from many threads.

    `name` is who is asked ("Coinbase") and `url_setting` the setting that names the address, both for messages.
    `secret_headers` go with every request and never further: redirects are not followed then.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        url_setting: str,
        timeout_s: float,
        retries: int,
        limiter: Limiter,
        sleep: Callable[[float], None],
        connections: int,
        secret_headers: Mapping[str, SecretStr] | None = None,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._name = name
        self._setting = url_setting
        self._timeout_s = timeout_s
        self._retries = retries
        self._acquire = limiter
        self._sleep = sleep
        self._connections = connections
        self._secrets = dict(secret_headers or {})
        self._backoff = wait_exponential_jitter(multiplier=0.5, max=8, jitter=0.5)

    @property
    def shown_url(self) -> str:
        """The address without user, password and query, for messages."""
        return re.sub(r"//.*@", "//", self._base.partition("?")[0])

    def get(self, path: str, params: Mapping[str, str], *, subject: str, read: Callable[[Any], T]) -> T:
        """What `read` makes of the JSON answer; it raises Malformed where the answer is none.

        Raises MarketError, beginning with `subject`: at once for what asking again cannot change, otherwise when
        the last attempt has failed.
        """
        return self.ask(path, params, subject=subject, read=lambda answer: read(json.loads(answer.body)))

    def ask(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        subject: str,
        read: Callable[[Answer], T],
        accept: frozenset[int] = frozenset({200}),
        retries: int | None = None,
    ) -> T:
        """As `get`, of the whole answer; `accept` are the statuses that `read` can read: they are not asked again."""
        attempts = 1 + (self._retries if retries is None else retries)
        retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=self._wait,
            retry=retry_if_exception_type(_Transient),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._attempt, path, params, subject, read, accept)
        except _Transient as failure:
            times = "once" if attempts == 1 else f"{attempts} times"
            raise MarketError(f"{subject}: {failure} (asked {times})") from None

    def _attempt(
        self,
        path: str,
        params: Mapping[str, str],
        subject: str,
        read: Callable[[Answer], T],
        accept: frozenset[int],
    ) -> T:
        self._acquire()
        answer = self._send(path, params, subject)
        if answer.status not in accept and (answer.status in _RETRIED or answer.status >= 500):
            raise self._asked_to_wait(answer, subject)
        if answer.status not in accept:
            raise MarketError(self._refusal(answer, subject))
        try:
            return read(answer)
        except (ValueError, RecursionError) as error:
            # json's own message quotes positions in the body, which say nothing to the reader.
            what = str(error) if isinstance(error, Malformed) else "text that is not JSON, or a part of it"
            raise _Transient(
                f"{self._name} answered with {what} at {self.shown_url}{path}; if it stays so, check {self._setting}"
            ) from None

    def _send(self, path: str, params: Mapping[str, str], subject: str) -> Answer:
        """The whole answer. No exception's text goes into a message: it could quote a URL's password."""
        where = self.shown_url
        hint = f"check the connection or set {self._setting}"
        try:
            deadline = time.monotonic() + self._timeout_s
            with self._session.get(
                self._base + path,
                params=params,
                headers={name: value.get_secret_value() for name, value in self._secrets.items()},
                timeout=self._timeout_s,
                stream=True,
                allow_redirects=not self._secrets,
            ) as got:
                return Answer(got.status_code, got.headers, self._body(got, deadline))
        except (errors.InvalidURL, errors.InvalidSchema, errors.MissingSchema):
            raise MarketError(
                f"{subject}: {where!r} is no address that can be asked; set {self._setting} to one such as https://host"
            ) from None
        except (errors.Timeout, TimeoutError, Urllib3Timeout):
            what = f"gave no whole answer within {self._timeout_s:g} s at {where}"
        except (errors.ChunkedEncodingError, errors.ContentDecodingError, Urllib3Error):
            what = f"broke off its answer at {where}"
        except errors.RequestException as error:
            what = f"could not be reached at {where} ({_reason(error)})"
        raise _Transient(f"{self._name} {what}; {hint}")

    def _body(self, answer: requests.Response, deadline: float) -> bytes:
        """The body, read as it arrives: a server that drips must not outlast the deadline."""
        body = bytearray()
        while chunk := answer.raw.read1(65536, decode_content=True):
            body += chunk
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(body) > _MAX_BODY:
                raise Urllib3Error("answer too large")
        return bytes(body)

    def _asked_to_wait(self, answer: Answer, subject: str) -> Exception:
        wait = _retry_after(answer.headers.get("Retry-After"))
        slow = answer.status in (401, 429)
        why = "asks for fewer requests" if slow else "has a fault"
        what = f"{self._name} {why} ({answer.status}: {error_text(answer.body)}) at {self.shown_url}"
        if wait is not None and wait > _MAX_RETRY_AFTER_S:
            return MarketError(f"{subject}: {what} and wants {wait:.0f} s of quiet; try again then")
        return _Transient(f"{what}; " + ("lower V7_MARKET_RATE_PER_S" if slow else "try again later"), wait)

    def _refusal(self, answer: Answer, subject: str) -> str:
        said = f"({answer.status}: {error_text(answer.body)})"
        if answer.status == 404:
            return (
                f"{subject}: {self._name} does not know it {said} at {self.shown_url}; "
                "check the product's name in V7_SYMBOLS, written like BTC-USD"
            )
        if answer.status == 400:
            return f"{subject}: {self._name} refuses the request {said}; check the product and the asked time range"
        return f"{subject}: {self._name} refuses to answer {said} at {self.shown_url}; check {self._setting}"

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, _Transient) else None
        backoff = self._backoff(state)
        # What is asked for is the least; the jitter keeps threads that were refused together from returning together.
        return backoff if asked is None else max(backoff, asked + backoff / 10)

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        # Cookies are the one thing that threads would share; market data needs none.
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.headers.update(
            {
                "User-Agent": f"v7-pipeline/{__version__}",
                "Accept": "application/json",
                "Cache-Control": "no-cache",  # otherwise public answers may be a CDN's copy
            }
        )
        # A proxy in the environment is for the world outside, not for a server on this machine.
        session.trust_env = re.match(r"https?://(127\.|localhost\b|\[::1\])", self.shown_url) is None
        adapter = HTTPAdapter(pool_maxsize=self._connections)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session


def _reason(error: errors.RequestException) -> str:
    """Why there was no connection, in words where the reason is a known one."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    name = type(cause).__name__
    known = {
        "NameResolutionError": "its name cannot be resolved",
        "NewConnectionError": "the connection is refused or there is no route",
        "SSLError": "its certificate is not trusted, or the secure connection broke",
        "ProxyError": "the proxy does not answer",
    }
    return known.get(name, name)


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header (seconds or a date) asks for; None where there is none or it is no such."""
    if header is None:
        return None
    try:
        return float(Retry().parse_retry_after(header))
    except (Urllib3Error, ValueError, TypeError):
        return None
