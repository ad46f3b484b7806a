"""Figures of daily returns: by hand, against QuantStats and empyrical, and what their intervals are worth."""

from __future__ import annotations

from math import isnan, sqrt

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.backtest.risk import METRICS, MIN_DAYS, Item, difference, draws, risk_items, risk_metrics

DAYS = np.array([0.01, -0.02, 0.03, -0.01, 0.0])


def noise(days: int, seed: int = 1, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.01, days)


def by_name(items: tuple[Item, ...]) -> dict[str, Item]:
    return {item.name: item for item in items}


def test_figures_by_hand() -> None:
    found = {name: float(value[0]) for name, value in risk_metrics(DAYS).items()}
    growth = 1.01 * 0.98 * 1.03 * 0.99
    assert found["total_return"] == pytest.approx(growth - 1)
    assert found["annual_return"] == pytest.approx(growth ** (365 / 5) - 1)
    assert found["volatility"] == pytest.approx(DAYS.std(ddof=1) * sqrt(365))
    assert found["sharpe"] == pytest.approx(0.002 / DAYS.std(ddof=1) * sqrt(365))
    assert found["sortino"] == pytest.approx(0.002 / sqrt((0.02**2 + 0.01**2) / 5) * sqrt(365))
    assert found["max_drawdown"] == pytest.approx(-0.02)
    assert found["calmar"] == pytest.approx(found["annual_return"] / 0.02)
    assert found["var_95"] == pytest.approx(0.8 * 0.02 + 0.2 * 0.01) and found["cvar_95"] == pytest.approx(0.02)


def test_a_first_day_that_loses_is_a_drawdown() -> None:
    assert float(risk_metrics([-0.1, 0.05])["max_drawdown"][0]) == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("days", "missing"),
    [
        ([], {name for name, _, _ in METRICS}),
        ([0.01], {"volatility", "sharpe", "sortino", "calmar"}),
        ([0.01] * 30, {"sharpe", "sortino", "calmar"}),
        ([0.0] * 30, {"sharpe", "sortino", "calmar"}),
    ],
)
def test_what_does_not_exist_is_missing_with_its_reason(days: list[float], missing: set[str]) -> None:
    items = by_name(risk_items(days))
    assert {name for name, item in items.items() if not item.known} == missing
    assert all(items[name].note for name in missing) and not any(items[name].has_interval for name in missing)


def test_fewer_than_twenty_days_have_no_interval() -> None:
    assert not any(item.has_interval for item in risk_items(noise(MIN_DAYS - 1)))
    assert all(item.lower <= item.value <= item.upper for item in risk_items(noise(60)) if item.name == "sharpe")
    assert len(draws(MIN_DAYS - 1)) == 0


def test_the_interval_of_the_sharpe_ratio_holds_the_truth_about_as_often_as_it_says() -> None:
    found = [by_name(risk_items(noise(250, seed)))["sharpe"] for seed in range(20)]
    hits = sum(item.lower <= 0 <= item.upper for item in found)
    assert hits >= 16  # 19 expected; block bootstraps of so many days are a little narrow
    assert by_name(risk_items(noise(250, mean=0.01)))["sharpe"].lower > 0


def test_a_difference_is_of_the_same_days() -> None:
    own = noise(100)
    same = difference(own, own, label="itself")
    assert (same.value, same.lower, same.upper, same.n) == (0.0, 0.0, 0.0, 100)
    better = difference(own + 0.001, own, label="a tenth of a percent")
    assert better.lower == pytest.approx(0.001) == better.upper == better.value
    assert isnan(difference([], [], label="none").value)


def test_empyrical_agrees() -> None:
    empyrical = pytest.importorskip("empyrical")
    x = noise(300, 5)
    own = {name: float(value[0]) for name, value in risk_metrics(x).items()}
    series = pd.Series(x)
    assert own["sharpe"] == pytest.approx(empyrical.sharpe_ratio(series, annualization=365))
    assert own["sortino"] == pytest.approx(empyrical.sortino_ratio(series, annualization=365))
    assert own["max_drawdown"] == pytest.approx(empyrical.max_drawdown(series))
    assert own["calmar"] == pytest.approx(empyrical.calmar_ratio(series, annualization=365))
    assert own["var_95"] == pytest.approx(-empyrical.value_at_risk(series, 0.05))
