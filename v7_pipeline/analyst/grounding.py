"""Whether the numbers that a reply quotes are in the prompt that it answers; a number from nowhere is recorded.

It judges quotations only: whether a reply conforms is reply.py's, whether a plan is any good, the gates' business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from functools import cache
from typing import Any

from v7_pipeline.analyst.base import AGGRESSIVE, CONSERVATIVE, Answer, Mode
from v7_pipeline.analyst.plain import plain_stated
from v7_pipeline.analyst.prompt import Message, stated

__all__ = ["ungrounded_against", "ungrounded_numbers"]

# Fee and slippage of both sides as the prompt states them, for reward:risk net of costs.
COSTS = Decimal("0.00085")
HUNDRED, TEN_THOUSAND, SIXTY = Decimal(100), Decimal(10_000), Decimal(60)

_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?)?|(?<![\w.:])\d{1,2}:\d{2}(?::\d{2})?(?![\d:])")
# "1) …", at the start of a text or of one of its sentences.
_LIST_MARK = re.compile(r"(?:^|(?<=[.;:,]\s))\(?\d\)(?=\s)")
_NUMBER = re.compile(
    r"""
    (?<![\w.])(?P<sign>[+\-−])?              # not inside a name such as var_95; a hyphen after a digit is no sign
    [$€£]?
    (?P<digits>\d{1,3}(?:[,'’_\u00a0\u2009\u202f]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
    (?P<power>[eE][+\-]?\d{1,3}(?!\w))?
    (?:[\s\u202f\u00a0]?(?P<unit>
        [%％٪]|percent(?:age\ points?)?\b|per\ cent\b|pct\b|pp\b|bps?\b|basis\ points?\b|(?:st|nd|rd|th)\b
        |thousand\b|million\b|billion\b|trillion\b|k\b|K\b|M\b|mn\b|bn\b|B\b
    ))?
    """,
    re.VERBOSE,
)
_PERCENTS = frozenset({"%", "％", "٪", "percent", "percentage point", "percentage points", "per cent", "pct", "pp"})
_BASIS_POINTS = frozenset({"bp", "bps", "basis point", "basis points"})
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_SCALES = {
    "k": 10**3, "K": 10**3, "thousand": 10**3, "M": 10**6, "mn": 10**6, "million": 10**6, "B": 10**9, "bn": 10**9,
    "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_PERCENTILE_OF = re.compile(r"percentiles?(?:\s+(?:of|is|at|=|:))?\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Claim:
    """A number as a text has it: its value in the text's unit, half a unit of its last digit, what it is a unit of."""

    text: str
    value: Decimal
    half: Decimal
    signed: bool
    scales: tuple[Decimal, ...]  # a fact times one of these is in the text's unit

    def fits(self, fact: Decimal) -> bool:
        """Whether `fact` rounds to this, at the text's own precision; without a sign the size alone counts."""
        value, fact = (self.value, fact) if self.signed else (abs(self.value), abs(fact))
        return any(abs(fact * scale - value) <= self.half for scale in self.scales)

    @property
    def facts(self) -> Iterator[Decimal]:
        """What this number is as a fact, where it stands in the prompt."""
        return (self.value / scale for scale in self.scales)


def ungrounded_numbers(reasoning: str, document: Mapping[str, Any], answer: Answer | None = None) -> tuple[str, ...]:
    """The numbers of `reasoning` that neither the prompt nor the reply's own plan holds, as written, each once.

    A number is grounded where it is, rounded at the precision that it is written with:
    - any number of the prompt's document, those inside its sentences included; written with %, as "98th" or after
      "percentile" a hundred times, in basis points ten thousand times that number (0.8079 may be told as 0.81, 81 % or
      80.8 %, not as 0.80); "k", "million" and the like scale it; thousands separators do not matter;
    - a number that the prompt's fixed part states for the document's mode, its examples aside: window, thresholds;
    - of `answer`: its prices, confidence, horizon, the distances between its prices (in USD, as a share of the entry,
      in one-minute volatilities) and its reward:risk, gross and net of the stated costs.
    A written sign must be the number's own; where none is written a word may carry it, and the size alone counts.
    Digits inside a name (var_95), marks of a list and numbers in words are no claims; an instant must be the
    document's. Total: any text gives a tuple.
    """
    text = _LIST_MARK.sub(" ", reasoning)
    as_of = str(document.get("as_of", ""))
    wrong = [found for found in _INSTANT.findall(text) if found.replace(" ", "T") not in as_of]
    claims = list(_claims(_INSTANT.sub(" ", text)))
    if claims:
        told = _stated(str(document.get("mode")), plain="candles" in document)
        facts = {*_facts(document), *told, *_plan(answer, document)}
        wrong += [claim.text for claim in claims if not any(claim.fits(fact) for fact in facts)]
    return tuple(dict.fromkeys(wrong))


def ungrounded_against(answer: Answer, messages: Sequence[Message]) -> tuple[str, ...] | None:
    """`ungrounded_numbers` of a reply to these messages; None where they hold no document to check against."""
    for message in messages:
        if message.get("role") == "user":
            try:
                document = json.loads(message["content"], parse_float=Decimal)
            except (ValueError, KeyError, TypeError, RecursionError):
                return None
            return ungrounded_numbers(answer.reasoning, document, answer) if isinstance(document, dict) else None
    return None


def _claims(text: str) -> Iterator[_Claim]:
    for found in _NUMBER.finditer(text):
        digits = re.sub(r"[^\d.]", "", found["digits"])
        try:
            plain = Decimal(digits + (found["power"] or ""))
            half = Decimal((0, (5,), int(plain.as_tuple().exponent) - 1))
            value = -plain if found["sign"] in ("-", "−") else plain
            scales = _scales(found["unit"] or "", text[: found.start()])
        except (DecimalException, ValueError):
            continue
        yield _Claim(found[0].strip(), value, half, found["sign"] is not None, scales)


def _scales(unit: str, before: str) -> tuple[Decimal, ...]:
    unit = " ".join(unit.split())
    one = Decimal(1)
    if unit in _PERCENTS:
        return (HUNDRED,)
    if unit in _BASIS_POINTS:
        return (TEN_THOUSAND, one)  # a spread stands in basis points itself
    if unit in _SCALES:
        return (one / _SCALES[unit],)
    if unit in _ORDINALS or _PERCENTILE_OF.search(before):
        return (HUNDRED, one)
    return (one,)


def _facts(value: Any) -> Iterator[Decimal]:
    """Every number of a JSON value, those in its texts included."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _facts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _facts(item)
    elif isinstance(value, str):
        for claim in _claims(_INSTANT.sub(" ", value)):
            yield from claim.facts
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        number = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
        if number.is_finite():
            yield number


@cache
def _stated(mode: str, *, plain: bool) -> frozenset[Decimal]:
    modes: dict[str, Mode] = {known.name: known for known in (CONSERVATIVE, AGGRESSIVE)}
    says = plain_stated if plain else stated
    return frozenset(_facts(says(modes[mode]))) if mode in modes else frozenset()


def _plan(answer: Answer | None, document: Mapping[str, Any]) -> Iterator[Decimal]:
    if answer is None:
        return
    yield from _facts([answer.confidence, answer.horizon_minutes])
    if answer.horizon_minutes is not None:
        yield Decimal(answer.horizon_minutes) / SIXTY
    prices = tuple(_facts([answer.entry_price, answer.stop_price, answer.target_price]))
    if len(prices) < 3 or not all(prices):
        return
    yield from prices
    entry, stop, target = prices
    market = document.get("market")
    known = market if isinstance(market, Mapping) else {}
    volatility, price = (next(_facts(known.get(name)), None) for name in ("volatility_per_minute", "price"))
    others = (stop, target) if price is None else (stop, target, price)
    for distance in (other - entry for other in others):
        yield from (distance, -distance, distance / entry, -distance / entry)
        if volatility:
            yield distance / entry / volatility
    risk, reward = abs(entry - stop) / entry, abs(target - entry) / entry
    if risk:
        yield from (reward / risk, (reward - COSTS) / (risk + COSTS))
