"""What a call costs: the dated price table (prices.toml), peak hours, the worst case before and the cost after.

What has been spent belongs to ledger.py.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from v7_pipeline.analyst.base import AnalystError, require_aware

__all__ = ["Price", "PriceTable", "UnknownPriceError", "Usage", "load_prices", "token_upper_bound"]

TABLE_FILE = Path(__file__).with_name("prices.toml")
PER = 1_000_000
# Tokens a chat template may add around one message (role marks, begin and end of sentence), counted high.
TEMPLATE_TOKENS = 16


class UnknownPriceError(AnalystError):
    """No dated price covers this model at this instant."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call by kind. `prompt` includes `cache_hit`; `completion` includes `reasoning`."""

    prompt: int
    cache_hit: int
    completion: int
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """USD per 1,000,000 tokens. `version` names the table's entry and whether the peak price applied."""

    version: str
    hit: float
    miss: float
    output: float
    peak: bool

    def cost(self, usage: Usage) -> float:
        """USD for `usage`."""
        missed = usage.prompt - usage.cache_hit
        return (usage.cache_hit * self.hit + missed * self.miss + usage.completion * self.output) / PER


@dataclass(frozen=True, slots=True)
class _Entry:
    model: str
    start: datetime
    until: datetime | None
    hit: float
    miss: float
    output: float
    peak_factor: float

    def price(self, *, peak: bool) -> Price:
        factor = self.peak_factor if peak else 1.0
        version = f"{self.model}@{self.start:%Y-%m-%dT%H:%MZ}/{'peak' if peak else 'off-peak'}"
        return Price(version, self.hit * factor, self.miss * factor, self.output * factor, peak)


@dataclass(frozen=True)
class PriceTable:
    """Every dated price, with the peak hours' calendar."""

    entries: tuple[_Entry, ...]
    peak_hours: tuple[tuple[int, int], ...]
    peak_weekdays: frozenset[int]
    holidays: tuple[tuple[date, date], ...]

    def price_for(self, model: str, instant: datetime) -> Price:
        """The price of `model` at `instant`; UnknownPriceError where no entry covers it."""
        return self._entry(model, instant).price(peak=self.is_peak(instant))

    def cost(self, model: str, usage: Usage, started_at: datetime) -> float:
        """USD for a call by the price at its start (which instant decides is not published; the reserve is at peak)."""
        return self.price_for(model, started_at).cost(usage)

    def worst_case(self, model: str, instant: datetime, *, prompt_tokens: int, max_tokens: int) -> float:
        """USD that a call may cost at most: the peak price, no cache hit, the longest answer."""
        price = self._entry(model, instant).price(peak=True)
        return price.cost(Usage(prompt=prompt_tokens, cache_hit=0, completion=max_tokens))

    def is_peak(self, instant: datetime) -> bool:
        """Whether `instant` lies in the peak hours of a working day in China."""
        require_aware(instant, "instant")
        at = instant.astimezone(UTC)
        day = at.date()  # the peak hours lie within one date, in UTC and in Beijing alike
        return (
            at.weekday() in self.peak_weekdays
            and any(first <= at.hour < last for first, last in self.peak_hours)
            and not any(first <= day <= last for first, last in self.holidays)
        )

    def _entry(self, model: str, instant: datetime) -> _Entry:
        require_aware(instant, "instant")
        begun = [entry for entry in self.entries if entry.model == model and entry.start <= instant]
        if begun:
            newest = max(begun, key=lambda entry: entry.start)
            if newest.until is None or instant < newest.until:
                return newest
        models = ", ".join(sorted({entry.model for entry in self.entries}))
        raise UnknownPriceError(
            f"no dated price for model {model!r} at {instant.astimezone(UTC):%Y-%m-%dT%H:%MZ}, so nothing was sent; "
            f"choose a priced model ({models}) with V7_DEEPSEEK_MODEL or give it a price in the file of V7_PRICES_FILE"
        )


def load_prices(more: Path | None = None) -> PriceTable:
    """The shipped price table (prices.toml), with the entries of `more` beside it: [[price]] in the same format.

    A model of one's own (Ollama, vLLM, OpenRouter) needs its price there, be it 0. AnalystError on an unusable file.
    """
    with TABLE_FILE.open("rb") as file:
        table = tomllib.load(file)
    peak = table["peak"]
    entries = [_read_entry(entry) for entry in table["price"]]
    if more is not None:
        entries += _own_entries(more)
    return PriceTable(
        entries=tuple(entries),
        peak_hours=tuple((first, last) for first, last in peak["hours_utc"]),
        peak_weekdays=frozenset(peak["weekdays"]),
        holidays=tuple((first, last) for first, last in peak["holidays"]),
    )


def token_upper_bound(messages: list[dict[str, str]] | tuple[Mapping[str, str], ...]) -> int:
    """Tokens that `messages` have at most: their UTF-8 bytes plus what a chat template adds.

    The tokenizer is a byte-level BPE: every token stands for at least one byte, so the bytes bound the tokens whatever
    the vocabulary. A smaller figure (bytes ÷ 2, say) would be nearer for prose, but digits and punctuation, of which
    these prompts are full, come at fewer than two bytes a token.
    """
    texts = [f"{message['role']}{message['content']}" for message in messages]
    return sum(len(text.encode("utf-8", "surrogatepass")) + TEMPLATE_TOKENS for text in texts) + TEMPLATE_TOKENS


def _own_entries(path: Path) -> list[_Entry]:
    try:
        with path.open("rb") as file:
            listed = tomllib.load(file).get("price", [])
        entries = [_read_entry({"peak_factor": 1, **entry}) for entry in listed]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        wrong = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise AnalystError(
            f"the price file {path} (V7_PRICES_FILE) is not usable: {wrong}; it needs [[price]] entries with model, "
            f"from (an instant with time zone), hit, miss and output in USD per 1,000,000 tokens"
        ) from None
    if not entries:
        raise AnalystError(f"the price file {path} (V7_PRICES_FILE) has no [[price]] entry; add one or unset it")
    return entries


def _read_entry(entry: Mapping[str, Any]) -> _Entry:
    numbers = {name: float(entry[name]) for name in ("hit", "miss", "output", "peak_factor")}
    if min(numbers.values()) < 0:
        raise ValueError(f"prices.toml: the entry {entry['model']} from {entry['from']} has a negative price")
    start = entry["from"]
    if not isinstance(start, datetime) or start.tzinfo is None:
        raise ValueError(f"the entry {entry['model']} begins at {start}, which is no instant with a time zone")
    return _Entry(model=entry["model"], start=start, until=entry.get("until"), **numbers)
