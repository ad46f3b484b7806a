"""The runtime makes the analyst that the settings name, or says in one sentence why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.analyst.base import AnalystError
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline.settings import load_settings
from v7_pipeline_tests.analyst.conftest import NOW, question, readings

MARKS = {"source": "live", "run_id": "r", "code_version": "0"}


def rules(tmp_path: Path, **changes: Any) -> Any:
    settings = load_settings(home=tmp_path, analyst="rules", **changes)
    return build_runtime(settings, clock=lambda: NOW).analyst(MARKS)


def test_weights_of_the_rules_come_from_the_settings_and_the_others_stay_1(tmp_path: Path) -> None:
    # Four theories vote for it with all their strength: 4 ÷ 10 of the weight, which is enough; 4 ÷ 58 is not.
    four = {f"{name}_{part}": 1.0 for name in ("price_momentum", "market_regime", "kalman_filter", "monte_carlo")
            for part in ("vote", "score")}  # fmt: skip
    asked = [question(readings=readings() | four)]
    (plain,) = rules(tmp_path).decide(asked, now=NOW)
    (weighted,) = rules(tmp_path, rules_weights="risk_metrics=49").decide(asked, now=NOW)
    assert plain.answer.side == "BUY" and weighted.answer.side == "HOLD"


def test_a_weight_of_a_theory_that_does_not_exist_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(AnalystError, match="V7_RULES_WEIGHTS is not usable: no theory called momentum"):
        rules(tmp_path, rules_weights="momentum=2")
