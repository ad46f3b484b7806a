"""The probability of backtest overfitting: reference cases, and the paper's definition split by split."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from v7_pipeline.learning.overfitting import backtest_overfitting


def noise(periods: int, configurations: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((periods, configurations)) * 0.01


def test_sixteen_blocks_make_12_870_splits_and_pure_noise_is_about_one_half() -> None:
    found = [backtest_overfitting(noise(320, 40, seed)) for seed in range(12)]
    assert {(one.splits, one.configurations) for one in found} == {(12_870, 40)}
    assert np.mean([one.probability for one in found]) == pytest.approx(0.5, abs=0.08)


def test_one_dominant_configuration_is_not_overfitted() -> None:
    returns = noise(320, 20, 1)
    returns[:, 7] += 0.02
    assert backtest_overfitting(returns).probability == 0


def test_one_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        backtest_overfitting(noise(320, 1, 1))
    with pytest.raises(ValueError, match="at least two"):
        backtest_overfitting(noise(320, 1, 1)[:, 0])


def test_configurations_that_win_one_half_and_lose_the_other_are_overfitted() -> None:
    """Each earns in some blocks what it loses in the others: whichever was best in one half is worst in the other."""
    signs = np.array([[1 if k in half else -1 for k in range(4)] for half in combinations(range(4), 2)])
    returns = np.repeat(signs, 50, axis=1).T * 0.01 + noise(200, 6, 2) * 0.1
    assert backtest_overfitting(returns, blocks=4).probability == 1


@pytest.mark.parametrize("configurations", [2, 5, 8])
def test_it_is_the_papers_definition_split_by_split(configurations: int) -> None:
    from scipy.stats import rankdata

    returns = noise(67, configurations, 3)
    returns[:, -1] = returns[:, 0]  # equals share their rank
    blocks = np.array_split(np.arange(67), 6)
    logits = []
    for half in combinations(range(6), 3):
        inside = np.concatenate([blocks[k] for k in half])
        outside = np.setdiff1d(np.arange(67), inside)
        sharpe = [returns[rows].mean(axis=0) / returns[rows].std(axis=0) for rows in (inside, outside)]
        share = rankdata(sharpe[1])[sharpe[0].argmax()] / (configurations + 1)
        logits.append(np.log(share / (1 - share)))
    expected = np.mean(np.array(logits) <= 1e-12)
    assert backtest_overfitting(returns, blocks=6).probability == pytest.approx(expected)


def test_many_configurations_are_looked_at_in_parts_with_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = backtest_overfitting(noise(100, 30, 4), blocks=8)
    monkeypatch.setattr("v7_pipeline.learning.overfitting._AT_ONCE", 100)
    assert backtest_overfitting(noise(100, 30, 4), blocks=8) == whole


def test_what_never_trades_has_ratio_0_and_neither_wins_nor_fails() -> None:
    returns = noise(64, 3, 5) * 0
    returns[:, 1] = -0.01  # loses surely
    returns[:, 2] = 0.01 + noise(64, 1, 6)[:, 0] * 0.1
    assert backtest_overfitting(returns, blocks=8).probability == 0
    assert backtest_overfitting(returns[:, :1].repeat(3, axis=1), blocks=8).probability == 1  # alike: no choice


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"blocks": 15}, "even number"),
        ({"blocks": 0}, "even number"),
        ({"returns": noise(31, 3, 1)}, "31 periods"),
        ({"returns": np.full((320, 3), np.nan)}, "missing"),
    ],
)
def test_what_cannot_be_split_is_refused(change: dict[str, object], told: str) -> None:
    given: dict[str, object] = {"returns": noise(320, 3, 1), "blocks": 16}
    with pytest.raises(ValueError, match=told):
        backtest_overfitting(**(given | change))  # type: ignore[arg-type]
