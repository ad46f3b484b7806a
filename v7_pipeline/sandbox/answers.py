"""Who answers the stand-in's chat completions: the rules analyst, from the JSON document inside the prompt.

DeepSeek's wire format belongs to deepseek.py, the decision itself to analyst/rules.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Answerer", "Messages", "document_of", "rules_answer", "text_of"]

Messages = Sequence[Mapping[str, Any]]
Answerer = Callable[[Messages], dict[str, Any]]


def rules_answer(messages: Messages) -> dict[str, Any]:
    """The rules' reply to the prompt's document. ValueError where there is none, or not of the prompt's layout."""
    document = document_of(messages)
    if document is None:
        raise ValueError('no user message holds a JSON object with "readings"; the sandbox answers V7\'s prompts only')
    from v7_pipeline.analyst.rules import answer_from_prompt

    return answer_from_prompt(document)


def document_of(messages: Messages) -> dict[str, Any] | None:
    """The JSON object with a "readings" key, bare or fenced, in the newest user message that has one."""
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
                if isinstance(found, dict) and "readings" in found:
                    return found
            place = text.find("{", end)
    return None


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text; what is no text counts as empty."""
    content = message.get("content")
    return content if isinstance(content, str) else ""
