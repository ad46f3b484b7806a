"""The prompt without the theories: the same task, account, plan and form of reply, told the market's prices alone.

What it is asked for is the comparison: what a model does with the theories more than without them. The words that both
prompts share are prompt.py's; whoever decides a scan is never asked with this one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from v7_pipeline.analyst.base import AGGRESSIVE, CONSERVATIVE, Mode, Question, mode_of
from v7_pipeline.analyst.prompt import (
    ACCOUNT,
    FORM,
    PLAN,
    TASK,
    Prompt,
    head_of,
    longest_question,
    price_of,
    rounded,
    sample_question,
    tail_of,
    written,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LOOK_BACK",
    "WITHOUT_THEORIES",
    "largest_plain_prompt",
    "plain_document_of",
    "plain_prompt",
    "plain_stated",
    "plain_version",
    "without_theories",
]

#: What ends the name under which an analyst is asked with this prompt.
WITHOUT_THEORIES = "-without-theories"
MINUTE = timedelta(minutes=1)
BAR_MINUTES, BARS = 15, 16
#: How far back the prompt tells candles: as far as the theories' longest window.
LOOK_BACK = BAR_MINUTES * BARS * MINUTE
_CHANGES = (15, 60, 240)  # minutes

_EXAMPLE = (
    '{"signal": "BUY", "confidence": 0.62, "entry": 37120.55, "stop": 36980.25, "target": 37420.85, '
    '"horizon_minutes": 240, "reasoning": "The price rose by 0.81 % in 240 minutes and closed every quarter of the '
    'last hour higher than the one before.", "key_theories": [], "would_change_my_mind": "A close below 37000."}'
)
_EXAMPLE_HOLD = (
    '{"signal": "HOLD", "confidence": 0.8, "entry": null, "stop": null, "target": null, "horizon_minutes": null, '
    '"reasoning": "Nothing tells this window from noise.", "key_theories": [], '
    '"would_change_my_mind": "A move well beyond what the volatility of a minute makes likely."}'
)


def without_theories(analyst: str) -> str:
    """The name under which `analyst` is asked with this prompt."""
    return f"{analyst}{WITHOUT_THEORIES}"


def plain_prompt(question: Question, candles: pd.DataFrame) -> Prompt:
    """The messages for `question` without any reading: the mode's fixed system part and one JSON document.

    candles: open_time, open, high, low, close, volume of the question's product, one minute each. What was not closed
    at the question's instant, or lies further back than LOOK_BACK, is not looked at.
    """
    messages = (
        {"role": "system", "content": _system(mode_of(question.aggressive))},
        {"role": "user", "content": written(plain_document_of(question, candles))},
    )
    return Prompt(messages, plain_version())


@cache
def plain_version() -> str:
    """Hash of the template: both modes' system parts and the document of a fixed question."""
    parts = [_system(CONSERVATIVE), _system(AGGRESSIVE), written(plain_document_of(*_sample()))]
    return "plain-" + sha256("\n".join(parts).encode()).hexdigest()[:12]


@cache
def largest_plain_prompt() -> Prompt:
    """A prompt about as long as they come, for reckoning before there is a question."""
    return plain_prompt(longest_question(), _sample()[1])


def plain_document_of(question: Question, candles: pd.DataFrame) -> dict[str, Any]:
    """The prompt's document, `missing` aside: prompt.document_of's without readings and combined, and with candles.

    market.volatility_per_minute stays: it is the market's, and every plan needs it.
    """
    head, bars = head_of(question), _bars(candles, question.as_of)
    changes = {f"change_{minutes}m": _change(question.market_price, bars, minutes) for minutes in _CHANGES}
    told = {
        str(ago): None if bar is None else [*(price_of(bar[name], question.quote_increment) for name in _PRICES),
                                            rounded(bar["volume"], 4)]
        for ago, bar in bars.items()
    }  # fmt: skip
    return {**head, "market": {**head["market"], **changes}, "candles": told, **tail_of(question)}


# --- the system part ------------------------------------------------------------------------


@cache
def plain_stated(mode: Mode) -> str:
    """The system part without its examples: what the prompt itself states, whose numbers a reply may quote."""
    return _system(mode).partition(FORM)[0]


def _system(mode: Mode) -> str:
    """Fixed for a mode, so that the context cache can hold it."""
    changes = ", ".join(f"change_{minutes}m" for minutes in _CHANGES)
    keys = ", ".join(str(BAR_MINUTES * place) for place in range(BARS, 0, -1))
    return f"""{TASK}
- market.change_24h is the change over 24 hours; {changes} are those since the open of the
  candle that began so many minutes before as_of. volatility_per_minute is the standard deviation of one-minute returns.
- candles has the last {BAR_MINUTES * BARS // 60} hours as candles of {BAR_MINUTES} minutes, oldest first:
  [open, high, low, close, volume in units of the product]. Its keys say how many minutes before as_of each began:
  {keys}.
{ACCOUNT}

How to decide: {mode.name} mode
- BUY or SELL only where your confidence is at least {mode.min_confidence:.2f}. Otherwise HOLD; most scans are.
{PLAN}
- key_theories: always []; would_change_my_mind: what would make you decide otherwise.

{FORM}
{_EXAMPLE}
and for HOLD:
{_EXAMPLE_HOLD}"""


# --- the document's parts -------------------------------------------------------------------

_PRICES = ("open", "high", "low", "close")


def _bars(candles: pd.DataFrame, as_of: datetime) -> dict[int, dict[str, float] | None]:
    """Quarter hours up to `as_of` by how many minutes before it they began, oldest first; None without a candle."""
    import pandas as pd

    end = pd.Timestamp(as_of).floor("min")
    known = candles[(candles["open_time"] >= end - LOOK_BACK) & (candles["open_time"] < end)].sort_values("open_time")
    place = BARS - 1 - ((end - MINUTE - known["open_time"]) // (BAR_MINUTES * MINUTE))
    bars: dict[int, dict[str, float] | None] = {BAR_MINUTES * (BARS - place): None for place in range(BARS)}
    for number, rows in known.groupby(place):
        bars[BAR_MINUTES * (BARS - int(number))] = {
            "open": float(rows["open"].iloc[0]),
            "high": float(rows["high"].max()),
            "low": float(rows["low"].min()),
            "close": float(rows["close"].iloc[-1]),
            "volume": float(rows["volume"].sum()),
        }
    return bars


def _change(price: float, bars: dict[int, dict[str, float] | None], minutes: int) -> float | None:
    bar = bars[minutes]
    return None if bar is None else rounded(price / bar["open"] - 1.0, 4)


def _sample() -> tuple[Question, pd.DataFrame]:
    """A question and candles that are always the same; only the layout and length of their document matter."""
    import pandas as pd

    question = sample_question()
    times = pd.date_range(end=question.as_of - MINUTE, periods=int(LOOK_BACK / MINUTE), freq="min")
    return question, pd.DataFrame(
        {"open_time": times, **dict.fromkeys(_PRICES, question.market_price), "volume": 123.456789}
    )
