"""The population stability index: a hand-computed value, no shift from itself, and days that are only unusual."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.learning.drift import psi, shifts, total_variation

DAY = pd.Timestamp("2024-01-31", tz="UTC")


def test_a_hand_computed_value() -> None:
    """Half and half against one in four: (1/4 − 1/2) ln(1/2) + (3/4 − 1/2) ln(3/2) = ln 3 / 4."""
    assert psi([0.0, 1.0] * 50, [0.0, 1.0, 1.0, 1.0] * 25, bins=2) == pytest.approx(math.log(3) / 4)


def test_the_same_values_have_none_missing_ones_do_not_count_and_nothing_gives_nothing() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    assert psi(values, values) == 0.0
    assert psi([*values, np.nan], values) == 0.0
    assert math.isnan(psi([], values)) and math.isnan(psi(values, [np.nan]))


def test_a_constant_column_that_moves_is_far_away() -> None:
    assert psi([1.0] * 100, [2.0] * 100) == 0.0 or psi([1.0] * 100, [0.0] * 100) > 1


def readings(days: int, moved: float, *, level: float) -> pd.DataFrame:
    """Days around levels that differ by `level`, and a last one that lies `moved` beside."""
    rng = np.random.default_rng(2)
    frames = []
    for back in range(days, -1, -1):
        centre = moved if back == 0 else level * rng.normal()
        times = pd.date_range(DAY - pd.Timedelta(days=back), periods=1440, freq="min")
        frames.append(pd.DataFrame({"as_of": times, "x": centre + rng.normal(size=1440)}))
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize(
    ("moved", "level", "shifted"), [(0.0, 0.0, False), (1.5, 0.0, True), (1.5, 1.0, False), (6.0, 0.5, True)]
)
def test_a_shift_is_more_than_ordinary_days_show(moved: float, level: float, shifted: bool) -> None:
    (found,) = shifts(readings(30, moved, level=level), ["x"], day=DAY).itertuples()
    assert found.shifted is shifted and found.days == 30
    assert found.psi > 0.25 or moved == 0.0


def test_too_few_days_say_nothing() -> None:
    assert shifts(readings(13, 9.0, level=0.0), ["x"], day=DAY).empty
    assert len(shifts(readings(14, 9.0, level=0.0), ["x"], day=DAY)) == 1


def test_total_variation() -> None:
    one, other = pd.Series({"HOLD": 80, "BUY": 20}), pd.Series({"HOLD": 5, "SELL": 5})
    assert total_variation(one, one * 3) == 0.0
    assert total_variation(one, other) == pytest.approx(0.5)
