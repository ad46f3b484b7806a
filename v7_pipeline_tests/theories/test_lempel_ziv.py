"""The sliding parse against the definition where it could go wrong: repetition, long runs, ends, windows together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v7_pipeline.theories.kolmogorov_complexity import _phrases, lempel_ziv
from v7_pipeline_tests.theories.oracles import lempel_ziv_by_definition

N = 5000
WINDOWS = (120, 240, 1440)
RNG = np.random.default_rng(8)
SEQUENCES: dict[str, Callable[[], Any]] = {
    "coin": lambda: RNG.random(N) < 0.5,
    "rare ones": lambda: RNG.random(N) < 0.02,
    "constant": lambda: np.zeros(N),
    "alternating": lambda: np.arange(N) % 2,
    "period 31": lambda: np.arange(N) % 31 < 7,
    "period 31 with slips": lambda: (np.arange(N) % 31 < 7) ^ (RNG.random(N) < 0.01),
    "long runs": lambda: np.cumsum(RNG.random(N) < 0.02) % 2,
    "silence and noise": lambda: np.where(np.arange(N) // 700 % 2, RNG.random(N) < 0.5, 0),
    "thue–morse": lambda: np.array([bin(i).count("1") % 2 for i in range(N)]),
}


def parsed(bits: Any, windows: tuple[int, ...] = WINDOWS, first: int = 0) -> Any:
    from v7_pipeline.theories import kernels

    return _phrases(kernels, np.asarray(bits).astype(np.uint8), windows, first)


@pytest.mark.parametrize("name", SEQUENCES)
def test_sliding_windows_equal_the_definition_on_odd_sequences(name: str) -> None:
    bits = SEQUENCES[name]().astype(np.uint8)
    text = "".join(map(str, bits))
    rows = parsed(bits)
    for w, row in zip(WINDOWS, rows, strict=True):
        ends = [w - 1, w, N - 2, N - 1, *RNG.integers(w, N, 12).tolist()]
        for end in ends:
            assert row[end] == lempel_ziv_by_definition(text[end - w + 1 : end + 1]), (w, end)


@pytest.mark.parametrize("name", SEQUENCES)
def test_windows_alone_later_starts_and_the_end_of_the_array_change_nothing(name: str) -> None:
    bits = SEQUENCES[name]().astype(np.uint8)
    together = parsed(bits)
    for w, row in zip(WINDOWS, together, strict=True):
        assert np.array_equal(parsed(bits, (w,))[0, w - 1 :], row[w - 1 :])
    assert np.array_equal(parsed(bits, WINDOWS, 3333), together[:, 3333:])
    cut = 4001
    assert np.array_equal(parsed(bits[:cut], WINDOWS, cut - 2), together[:, cut - 2 : cut])
    assert np.array_equal(parsed(bits[700:], WINDOWS, 2500), together[:, 3200:])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_repeated_words_with_a_slip_equal_the_definition(word: list[int], times: int, seed: int) -> None:
    bits = np.tile(word, times)[:1200]
    bits[np.random.default_rng(seed).integers(bits.size)] ^= 1
    assert lempel_ziv(bits) == lempel_ziv_by_definition("".join(map(str, bits)))


def test_the_longest_window_is_parsed_and_a_longer_sequence_refused() -> None:
    bits = RNG.integers(0, 2, 2880)
    assert lempel_ziv(bits) == lempel_ziv_by_definition("".join(map(str, bits)))
    with pytest.raises(ValueError, match="2881 bits is too long; at most 2880"):
        lempel_ziv(np.append(bits, 0))
