"""Slow definitions, word by word, that fast code is compared with. No assertions here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from v7_pipeline.theories.shannon_entropy import entropy

__all__ = ["lempel_ziv_by_definition", "permutation_entropy"]


def lempel_ziv_by_definition(bits: str) -> int:
    """Lempel & Ziv's (1976) exhaustive history: each phrase is the shortest string that does not occur earlier."""
    phrases = start = 0
    while start < len(bits):
        end = start + 1
        while end <= len(bits) and bits[start:end] in bits[: end - 1]:
            end += 1
        phrases += 1
        start = end
    return phrases


def permutation_entropy(series: Any, order: int) -> float:
    """Entropy, in bits, of the order patterns of `order` values (Bandt & Pompe 2002), by the theory's own entropy
    without its Miller–Madow term. Equal values are ranked by their place."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(series, float), order)
    patterns = np.argsort(windows, axis=1, kind="stable") @ order ** np.arange(order)
    _, symbols = np.unique(patterns, return_inverse=True)
    cells, alphabet = symbols.max() + 1, math.factorial(order)
    nats = entropy(symbols, alphabet) * math.log(alphabet)
    return (nats - (cells - 1) / (2 * len(symbols))) / math.log(2)
