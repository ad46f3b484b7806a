"""Who answers the stand-in's chat completions: the rules analyst, from the JSON document inside the prompt.

Where the document has candles and no readings, it follows a move of the price. DeepSeek's wire format belongs to
deepseek.py, the rules' decision itself to analyst/rules.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any

__all__ = ["Answerer", "Messages", "document_of", "price_answer", "rules_answer", "text_of"]

Messages = Sequence[Mapping[str, Any]]
Answerer = Callable[[Messages], dict[str, Any]]

#: Standard deviations of four hours from which on the stand-in follows a move, by mode.
_MOVES = {"conservative": 1.5, "aggressive": 1.0}


def rules_answer(messages: Messages) -> dict[str, Any]:
    """The rules' reply to the prompt's document. ValueError where there is none, or not of the prompt's layout."""
    document = document_of(messages)
    if document is None:
        raise ValueError('no user message holds a JSON object with "readings"; the sandbox answers V7\'s prompts only')
    if "readings" not in document:
        return price_answer(document)
    from v7_pipeline.analyst.rules import answer_from_prompt

    return answer_from_prompt(document)


def price_answer(document: Mapping[str, Any]) -> dict[str, Any]:
    """The reply (reply.py's schema) to a document without readings (analyst/plain.py's layout).

    BUY or SELL with the move of the last four hours where it is large for the volatility, with the rules' plan; HOLD
    where it is not, or is not known. ValueError where the document is not of that layout.
    """
    try:
        market, plan, least = document["market"], document["plan"], _MOVES[document["mode"]]
        change, volatility = market["change_240m"], market["volatility_per_minute"]
        moved = abs(change) / (volatility * sqrt(240)) if change and volatility else 0.0
        if moved < least:
            told = "is not known" if change is None else f"was {change:+.2%}, which its volatility makes likely"
            return _reply("HOLD", 0.75, None, None, f"The change over 240 minutes {told}.")
        distance = volatility * sqrt(plan["horizon_minutes"]) / 2
        prices = _plan(market, distance, change, plan["least_reward_risk"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the document is not a prompt of this version: {error} is missing or of another type"
        ) from None
    told = f"The price changed by {change:+.2%} over 240 minutes, more than its volatility makes likely."
    confidence = round(min(0.6 + 0.1 * (moved - least), 0.9), 4)
    return _reply("BUY" if change > 0 else "SELL", confidence, prices, plan["horizon_minutes"], told)


def _plan(market: Mapping[str, Any], distance: float, change: float, reward_risk: float) -> list[float]:
    """Entry, stop and target with the move."""
    import numpy as np

    from v7_pipeline.analyst.rules import MAX_STOP, MIN_STOP, plan_on_grid

    distance, sign = min(max(distance, MIN_STOP), MAX_STOP), 1.0 if change > 0 else -1.0
    price, stop, side, step, least = (
        np.array([float(value)]) for value in (market["price"], distance, sign, market["quote_increment"], reward_risk)
    )
    return [float(found[0]) for found in plan_on_grid(price, stop, side, step, least)]


def _reply(
    signal: str, confidence: float, prices: Sequence[float] | None, horizon: int | None, reasoning: str
) -> dict[str, Any]:
    entry, stop, target = prices or (None, None, None)
    return {
        "signal": signal, "confidence": confidence, "entry": entry, "stop": stop, "target": target,
        "horizon_minutes": horizon, "reasoning": reasoning, "key_theories": [],
        "would_change_my_mind": "A move as large the other way.",
    }  # fmt: skip


def document_of(messages: Messages) -> dict[str, Any] | None:
    """The JSON object with "readings" or "candles", bare or fenced, in the newest user message that has one."""
    for message in reversed(messages):
        if message.get("role") != "user":
            continue
        text = text_of(message)
        decoder, place = json.JSONDecoder(), text.find("{")
        while place != -1:
            try:
                found, end = decoder.raw_decode(text, place)
            except ValueError:
                end = place + 1
            else:
                if isinstance(found, dict) and ("readings" in found or "candles" in found):
                    return found
            place = text.find("{", end)
    return None


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text; what is no text counts as empty."""
    content = message.get("content")
    return content if isinstance(content, str) else ""
