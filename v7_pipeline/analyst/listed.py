"""Analysts that a file lists: DeepSeekAnalyst at another address, with another name, model, key and parameters.

What an entry may hold and where its key comes from is settings.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import SecretStr

from v7_pipeline.analyst.base import AnalystError
from v7_pipeline.analyst.deepseek import DeepSeekAnalyst
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.prices import PriceTable
from v7_pipeline.analyst.wire import Parameters
from v7_pipeline.settings import ListedAnalyst

__all__ = ["NO_KEY", "listed_analyst", "parameters_of"]

NO_KEY = "none"  # what a service that wants no key is sent; the client cannot send nothing


def listed_analyst(
    entry: ListedAnalyst,
    key: SecretStr | None,
    *,
    ledger: Ledger,
    prices: PriceTable,
    clock: Callable[[], datetime],
) -> DeepSeekAnalyst:
    """The analyst of `entry`; `key` is what its api_key_env holds.

    AnalystError where that is not set, and (UnknownPriceError) where the model has no price now: a model that costs
    nothing needs an entry too.
    """
    if entry.api_key_env is not None and key is None:
        raise AnalystError(f"analyst {entry.name} needs {entry.api_key_env}; set it, or choose V7_ANALYST=rules")
    parameters = parameters_of(entry)
    return DeepSeekAnalyst(
        ledger=ledger,
        api_key=SecretStr(NO_KEY) if entry.api_key_env is None or key is None else key,
        base_url=entry.base_url,
        model=entry.model,
        prices=prices,
        clock=clock,
        deadline_s=entry.deadline_s,
        max_tokens=parameters.max_tokens,
        name=entry.name,
        thinking=parameters.thinking,
        json_mode=parameters.json_mode,
        key_name=entry.api_key_env or "api_key_env",
        set_up=f"the entry {entry.name} of V7_ANALYSTS_FILE",
    )


def parameters_of(entry: ListedAnalyst) -> Parameters:
    """What requests of `entry` carry beside model and messages."""
    return Parameters(entry.max_tokens, entry.thinking, entry.json_mode)
