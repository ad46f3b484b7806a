"""QuantStats' figures beside ours: equal where the definitions are, and each difference explained."""

from __future__ import annotations

import builtins
from importlib.util import find_spec
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.backtest.beside import AGREE, EXPLAINED, beside, quantstats_of
from v7_pipeline.backtest.figures import Figures, _chance
from v7_pipeline.backtest.risk import risk_metrics

needs_quantstats = pytest.mark.skipif(find_spec("quantstats") is None, reason="QuantStats is not installed")


@needs_quantstats
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mean", [-0.004, 0.0, 0.006])
def test_ours_are_quantstats_where_definitions_agree(seed: int, mean: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, 90) * 0.01 + mean
    x[:20] = 0.0  # days without a trade
    theirs = quantstats_of(pd.Series(x, index=pd.date_range("2026-01-01", periods=len(x))))
    ours = {name: float(value[0]) for name, value in risk_metrics(x).items()}
    for name in AGREE:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-12), name


@needs_quantstats
def test_what_differs_differs_for_the_reason_given() -> None:
    from scipy.stats import norm

    x = np.random.default_rng(3).standard_t(4, 400) * 0.01 + 0.001
    theirs = quantstats_of(pd.Series(x, index=pd.date_range("2025-01-01", periods=len(x))))
    assert theirs["var_95"] == pytest.approx(-norm.ppf(0.05, x.mean(), x.std(ddof=1)))
    assert float(risk_metrics(x)["var_95"][0]) == pytest.approx(-np.quantile(x, 0.05))
    psr = next(item.value for item in _chance(x, None) if item.name == "psr")
    assert psr != theirs["psr"] and psr == pytest.approx(theirs["psr"], abs=2e-3)


@needs_quantstats
def test_the_page_s_rows_hold_and_every_difference_is_explained(found: Figures) -> None:
    rows = {row.name: row for row in beside(found)}
    assert set(rows) == {*AGREE, *EXPLAINED}
    for name, row in rows.items():
        assert isfinite(row.ours) and isfinite(row.theirs)
        if name in AGREE:
            assert row.ours == pytest.approx(row.theirs, rel=1e-9) and not row.why
        else:
            assert row.why
    page = (Path(__file__).resolve().parents[2] / "docs" / "backtest.md").read_text(encoding="utf-8")
    assert "QuantStats" in page and all(word in page for word in ("quantile", "skewness"))


def test_without_quantstats_there_is_nothing_beside_and_the_rest_stands(
    found: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    from v7_pipeline.backtest import beside as module
    from v7_pipeline.backtest.page import as_json, html

    real = builtins.__import__

    def refuse(name: str, *rest: object, **more: object) -> object:
        if name.startswith("quantstats"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert beside(found) == ()
    assert "QuantStats beside us" not in html(found) and '"quantstats": []' in as_json(found)
