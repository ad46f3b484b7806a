"""The permutation test: its kernel against slow definitions, its level where symbols move together, its step-down."""

from __future__ import annotations

import numpy as np
import pytest

from v7_pipeline.learning.blocks import MIN_BLOCKS, time_blocks
from v7_pipeline.learning.permutation import Direction, direction, permutation_p, step_down, strata_of


def timeline(n: int, symbols: int = 1, label: float = 1.0):
    """Times, symbols and sides of n instants at which every symbol trades, in time order."""
    start = np.repeat(np.arange(n, dtype=float), symbols)
    symbol = np.tile(np.arange(symbols), n)
    return start, start + label, symbol


def test_a_block_is_as_long_as_the_longest_trade_or_some_mean_trades_and_all_symbols_share_it():
    start = np.array([0.0, 0.0, 100.0, 250.0])
    blocks = time_blocks(start, start + np.array([10.0, 10.0, 10.0, 200.0]))
    assert blocks.minutes == 8 * 57.5
    assert time_blocks(start, start + np.array([1.0, 1.0, 1.0, 200.0])).minutes == 8 * 50.75
    outlier = time_blocks(np.arange(100.0), np.arange(100.0) + np.append(np.ones(99), 500.0))
    assert outlier.minutes == 500.0 and outlier.filled == 1 and not outlier.enough
    assert (blocks.block == blocks.cell // 4).all() and blocks.block[0] == blocks.block[1]
    with pytest.raises(ValueError, match="must end after"):
        time_blocks(start, start)


def orders(n: int, strata, seed: int, count: int) -> np.ndarray:
    """Which value each row got in each permutation, read off the kernel bit by bit."""
    from v7_pipeline.learning.kernels import permuted_statistics

    found = np.zeros((count, n), dtype=int)
    ends = np.arange(1, n + 1, dtype=np.int64)
    for bit in range(int(np.ceil(np.log2(n)))):
        values = np.where(np.arange(n) >> bit & 1, 1.0, -1.0)
        out = np.empty((count, n))
        permuted_statistics(
            np.eye(n), values, strata.members, strata.starts, strata.lengths, ends, np.uint64(seed), 0, out
        )
        found += (out > 0).astype(int) << bit
    return found


def test_a_permutation_moves_whole_blocks_within_each_stratum():
    n = 40
    start = np.arange(n, dtype=float)
    side = (np.arange(n) >= 12).astype(np.int64)
    strata = strata_of(np.zeros(n, np.int64), side, start, start + 5, time_blocks(start, start + 5))
    found = orders(n, strata, 7, 30)
    for order in found:
        assert sorted(order[:12]) == list(range(12)) and sorted(order[12:]) == list(range(12, n))
        follows = (order[13:] - order[12:-1]) % 28 == 1
        assert follows.mean() > 0.85  # blocks of five or more, but for the seams
    assert len({tuple(order) for order in found}) > 20
    np.testing.assert_array_equal(found, orders(n, strata, 7, 30))
    assert (found != orders(n, strata, 8, 30)).any()


def test_the_statistic_is_the_sum_over_the_root_of_the_blocks_squares():
    from v7_pipeline.learning.kernels import statistics_of

    rng = np.random.default_rng(1)
    c, y, out = rng.normal(size=(30, 3)), rng.normal(size=30), np.empty(3)
    statistics_of(c, y, np.arange(30), np.array([7, 20, 30]), out)
    parts = np.array([(c[a:b] * y[a:b, None]).sum(axis=0) for a, b in ((0, 7), (7, 20), (20, 30))])
    np.testing.assert_allclose(out, parts.sum(axis=0) / np.sqrt((parts**2).sum(axis=0)))


def test_p_does_not_depend_on_threads():
    rng = np.random.default_rng(2)
    start, end, symbol = timeline(700, 2)
    blocks = time_blocks(start, end)
    strata = strata_of(symbol, np.zeros_like(symbol), start, end, blocks)
    found = direction(rng.choice([-1.0, 0, 1], (1400, 4)), rng.choice([-1.0, 1], 1400), np.ones(1400), strata)
    one, three = (permutation_p(found, strata, blocks, permutations=99, seed=5, threads=t) for t in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_too_few_blocks_of_time_have_no_p():
    start = np.arange(100.0)
    blocks = time_blocks(start, start + 60)
    assert blocks.filled < MIN_BLOCKS
    strata = strata_of(np.zeros(100, np.int64), np.zeros(100, np.int64), start, start + 60, blocks)
    found = Direction(np.zeros(2), np.zeros((100, 2)), np.zeros(100))
    assert np.isnan(permutation_p(found, strata, blocks, permutations=9, seed=1)[0]).all()


def test_three_symbols_that_move_together_are_not_three_witnesses():
    """Each symbol has the same votes and returns: a test that took them for three would reject one time in four."""
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        start, end, symbol = timeline(150, 3)
        signs, outcome = np.repeat(rng.choice([-1.0, 1], (150, 2)), 3, 0), np.repeat(rng.choice([-1.0, 1], 150), 3)
        blocks = time_blocks(start, end)
        strata = strata_of(symbol, np.zeros_like(symbol), start, end, blocks)
        found = direction(signs, outcome, np.ones(450), strata)
        rejected += int((permutation_p(found, strata, blocks, permutations=99, seed=seed)[0] <= 0.05).sum())
    assert rejected <= 36  # 5 % of 400 are 20; more than 36 by chance: once in 4,000


def test_a_side_chosen_by_those_who_know_does_not_make_the_others_seem_to_hurt():
    """The side is a collider: given the side, ten votes that chose it lean against one another."""
    rng = np.random.default_rng(3)
    n = 40_000
    signs = rng.choice([-1.0, 1], (n, 9))
    side = (signs.sum(axis=1) > 0).astype(np.int64)
    up = 0.5 + 0.15 * signs[:, 0] - 0.1 * (2 * side - 1)  # the first knows; the plan's side loses more often
    outcome = np.where(rng.random(n) < up, 1.0, -1.0)
    start = np.arange(n, dtype=float)
    strata = strata_of(np.zeros(n, np.int64), side, start, start + 1, time_blocks(start, start + 1))
    excess = direction(signs, outcome, np.ones(n), strata).excess / n
    assert excess[0] == pytest.approx(0.3, abs=0.025)
    assert np.abs(excess[1:]).max() < 0.02
    plain = np.array(
        [(s * (outcome - np.array([outcome[side == k].mean() for k in (0, 1)])[side])).mean() for s in signs.T]
    )
    assert plain[1:].mean() < -0.02  # what taking off each side's own mean would say


def test_a_constant_vote_has_no_direction_whatever_the_market_does():
    rng = np.random.default_rng(4)
    start, end, symbol = timeline(400, 2)
    signs = np.column_stack([np.ones(800), rng.choice([-1.0, 1], 800)])
    outcome = np.where(rng.random(800) < 0.7, 1.0, -1.0)
    strata = strata_of(symbol, rng.integers(0, 2, 800), start, end, time_blocks(start, end))
    assert direction(signs, outcome, np.ones(800), strata).excess[0] == pytest.approx(0, abs=1e-9)


def stepped(signs: np.ndarray, outcome: np.ndarray, **options):
    n = len(signs)
    start = np.arange(n, dtype=float)
    one = np.zeros(n, np.int64)
    given = {"eligible": np.ones(signs.shape[1], bool), "level": 0.05, "permutations": 199, "seed": 1} | options
    return step_down(signs, outcome, np.ones(n), one, one, start, start + 1, time_blocks(start, start + 1), **given)


def test_without_a_name_the_step_down_is_holms():
    from v7_pipeline.learning.statistics import holm

    rng = np.random.default_rng(6)
    found = stepped(rng.choice([-1.0, 1], (300, 6)), rng.choice([-1.0, 1], 300))
    assert found.holm.min() > 0.05
    np.testing.assert_allclose(found.holm, holm(found.p))


def test_who_repeats_a_stronger_theory_is_not_named_beside_it():
    rng = np.random.default_rng(7)
    knows = rng.choice([-1.0, 1], 800)
    outcome = knows * np.where(rng.random(800) < 0.7, 1, -1)
    repeats = knows * np.where(rng.random(800) < 0.85, 1, -1)
    alone = stepped(np.column_stack([rng.choice([-1.0, 1], 800), repeats]), outcome)
    both = stepped(np.column_stack([knows, repeats]), outcome)
    assert alone.holm[1] <= 0.05 and both.holm[0] <= 0.05 < both.holm[1]


def test_only_who_may_be_named_is_held_fixed_and_the_others_still_count():
    rng = np.random.default_rng(8)
    knows = rng.choice([-1.0, 1], 600)
    outcome = knows * np.where(rng.random(600) < 0.7, 1, -1)
    signs = np.column_stack([knows, rng.choice([-1.0, 1], (600, 3))])
    found = stepped(signs, outcome, eligible=np.array([False, True, True, True]))
    assert found.holm[0] == pytest.approx(4 * found.p[0]) and (found.holm[1:] > 0.05).all()
