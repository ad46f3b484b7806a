"""The ten theories in the schema's order. An eleventh is one file of the same shape and one line here.

Only the list and what is derived from it; mathematics is in the files named below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from v7_pipeline.store.schema import THEORY_VALUES
from v7_pipeline.theories import (
    bayesian_win_rate,
    fractal_dimension,
    hurst_exponent,
    kalman_filter,
    kolmogorov_complexity,
    market_regime,
    monte_carlo,
    price_momentum,
    risk_metrics,
    shannon_entropy,
)
from v7_pipeline.theories.base import Theory

__all__ = ["SIMULATED_NULLS", "THEORIES", "column_names", "explain", "theory"]

THEORIES: tuple[Theory, ...] = (
    shannon_entropy,
    hurst_exponent,
    kolmogorov_complexity,
    market_regime,
    risk_metrics,
    fractal_dimension,
    price_momentum,
    kalman_filter,
    monte_carlo,
    bayesian_win_rate,
)

#: Theories whose null distribution is simulated (nulls/); they have a function `statistic(bars)`.
SIMULATED_NULLS = (
    shannon_entropy, hurst_exponent, kolmogorov_complexity, market_regime, risk_metrics, fractal_dimension,
    kalman_filter,
)  # fmt: skip


def theory(name: str) -> Theory:
    """The theory called `name`; KeyError that lists the known ones."""
    found = {entry.NAME: entry for entry in THEORIES}.get(name)
    if found is not None:
        return found
    raise KeyError(f"no theory {name!r}; there are {', '.join(entry.NAME for entry in THEORIES)}")


def column_names(windows: tuple[int, ...]) -> list[str]:
    """Value, percentile, vote and score columns of all theories for these windows, in the schema's order."""
    names: list[str] = []
    for entry in THEORIES:
        for name, _unit, _meaning, windowed in THEORY_VALUES[entry.NAME]:
            names += [f"{name}_{w}" for w in windows] if windowed else [name]
        names += [f"{entry.NAME}_{part}" for part in ("percentile", "vote", "score")]
    return names


def explain(theory_name: str, row: Mapping[str, Any]) -> str:
    """One sentence a trader understands for this reading (a theory_features row); says why where it abstains."""
    return theory(theory_name).explain(row)
