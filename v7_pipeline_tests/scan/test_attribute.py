"""The scan's last step: attribution and proposed weights from the store, and whom proposals may move, and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.scan.attribute import attribute, combiner_of
from v7_pipeline.scan.context import persist
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.settings import load_settings
from v7_pipeline.store import conform
from v7_pipeline.store.schema import THEORY_NAMES, table
from v7_pipeline_tests.analyst.conftest import question, readings
from v7_pipeline_tests.learning.frames import EPOCH
from v7_pipeline_tests.learning.planted import planted_market
from v7_pipeline_tests.store.rows import make_rows

MARKS = {"source": "demo", "run_id": "r", "code_version": "0"}
AS_OF = (EPOCH + timedelta(days=2)).to_pydatetime()
TWO_MINUTES = timedelta(minutes=2)


@pytest.fixture
def settings_of(tmp_path: Any) -> Callable[..., Any]:
    return lambda **changes: load_settings(**{"home": tmp_path, "mode": "demo", "analyst": "rules"} | changes)


def runtime_of(settings: Any, now: datetime = AS_OF) -> Runtime:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    runtime = build_runtime(settings, clock=lambda: now)
    runtime.prepare_store()
    return runtime


def put(runtime: Runtime, name: str, frame: pd.DataFrame) -> None:
    """Upsert `frame` into `name`, columns that it lacks missing and those that are not the table's left out."""
    whole = frame.assign(**MARKS).reindex(columns=list(table(name).column_names))
    with runtime.store.transaction() as tx:
        tx.upsert(name, conform(name, whole))


def fill(runtime: Runtime, scans: int = 60) -> pd.DataFrame:
    """Closed outcomes of a simulated market, with what the theories said of them."""
    rows = planted_market(3, scans=scans).assign(strategy="v7", as_of=lambda f: f["entry_time"])
    trades = rows.drop_duplicates("signal_id").assign(ambiguous=False, fee_preset="none")
    put(runtime, "outcomes", trades)
    put(runtime, "theory_performance", rows.assign(created_at=rows["exit_time"]))
    return trades


def test_rows_and_a_proposal_are_written_with_their_marks_and_only_where_there_is_news(settings_of: Any) -> None:
    runtime = runtime_of(settings_of())
    trades = fill(runtime)
    result = attribute(runtime.context(AS_OF, "r"))
    persist(runtime.store, result)
    rows = runtime.store.query("SELECT * FROM theory_attribution")
    assert set(rows["scope"]) == {"all", *(f"symbol:{s}" for s in trades["symbol"].unique()), "side:BUY", "side:SELL"}
    assert set(rows["source"]) == {"demo"} and rows["shapley"].notna().all()
    weights = runtime.store.query("SELECT * FROM theory_weights")
    assert set(weights["theory_name"]) == set(THEORY_NAMES) and not weights["acting"].any()
    assert weights["weight"].sum() == pytest.approx(1) and json.loads(weights["evidence"].iloc[0])["n_eff"] > 0
    later = attribute(runtime.context(AS_OF + TWO_MINUTES, "r"))
    assert not later.writes and later.notes["as_of"] == AS_OF


def test_the_market_at_the_signal_is_a_scope(settings_of: Any) -> None:
    runtime = runtime_of(settings_of())
    trades = fill(runtime).iloc[:40]
    signals = make_rows("llm_signals", 40, start=AS_OF)
    put(runtime, "llm_signals", signals.assign(signal_id=trades["signal_id"].to_numpy(), symbol="BTC-USD",
                                               features_as_of=signals["as_of"]))  # fmt: skip
    bull = [1.0 if i < 30 else 0.1 for i in range(40)]
    put(runtime, "theory_features", make_rows("theory_features", 40, start=AS_OF, symbol="BTC-USD", p_bear=0.2,
                                              p_sideways=0.3, p_bull=bull))  # fmt: skip
    rows = attribute(runtime.context(AS_OF, "r")).frame("theory_attribution").set_index("scope")
    assert {s for s in rows.index if s.startswith("regime")} == {"regime:bull", "regime:sideways"}
    assert rows.loc["regime:bull", "n"].max() <= 30


def test_the_game_is_that_of_the_settings_thresholds_and_weights(settings_of: Any) -> None:
    bold = combiner_of(settings_of(aggressive=True, rules_weights="price_momentum=3"))
    assert (bold.min_strength, bold.min_agreeing) == (0.166, 2)
    assert bold.shares(10)[list(THEORY_NAMES).index("price_momentum")] == pytest.approx(3 / 12)
    assert combiner_of(settings_of(aggressive=False)).min_agreeing == 3


def propose(runtime: Runtime, as_of: datetime, heavy: str) -> None:
    weights = [0.91 if theory == heavy else 0.01 for theory in THEORY_NAMES]
    frame = pd.DataFrame({"theory_name": THEORY_NAMES, "weight": weights})
    put(runtime, "theory_weights", frame.assign(as_of=as_of, equal_share=0.1, evidence="{}", acting=False))


def side(runtime: Runtime, as_of: datetime) -> str:
    """A scan's decision where four theories speak for buying: BUY, or HOLD where they have little weight."""
    four = {f"{name}_{part}": 1.0 for name in ("price_momentum", "market_regime", "kalman_filter", "monte_carlo")
            for part in ("vote", "score")}  # fmt: skip
    context = runtime.context(as_of, "r")
    (decision,) = context.analyst.decide([question(readings=readings() | four)], now=as_of)
    return str(decision.answer.side)


def test_a_proposal_acts_from_the_next_scan_on_and_never_on_its_own_or_an_earlier_one(settings_of: Any) -> None:
    runtime = runtime_of(settings_of(rules_weights_learnt=True))
    assert side(runtime, AS_OF) == "BUY"  # nothing has been proposed
    propose(runtime, AS_OF, "risk_metrics")
    assert side(runtime, AS_OF - TWO_MINUTES) == "BUY"
    assert side(runtime, AS_OF) == "BUY"
    assert side(runtime, AS_OF + TWO_MINUTES) == "HOLD"
    propose(runtime, AS_OF + TWO_MINUTES, "price_momentum")
    assert side(runtime, AS_OF + TWO_MINUTES) == "HOLD"
    assert side(runtime, AS_OF + 2 * TWO_MINUTES) == "BUY"  # the newest is in force


def test_a_proposal_does_not_act_unless_the_setting_says_so_nor_against_weights_set_by_hand(settings_of: Any) -> None:
    runtime = runtime_of(settings_of())
    propose(runtime, AS_OF, "risk_metrics")
    assert side(runtime, AS_OF + TWO_MINUTES) == "BUY"
    by_hand = settings_of(rules_weights_learnt=True, rules_weights="price_momentum=2")
    assert side(runtime_of(by_hand), AS_OF + TWO_MINUTES) == "BUY"
    fill(runtime)
    for settings, acting in ((settings_of(rules_weights_learnt=True), True), (by_hand, False)):
        found = attribute(runtime_of(settings).context(AS_OF, "r")).frame("theory_weights")
        assert set(found["acting"]) == {acting}


def test_lesson_21_proposals_of_another_source_do_not_act(settings_of: Any) -> None:
    runtime = runtime_of(settings_of(rules_weights_learnt=True))
    propose(runtime, AS_OF, "risk_metrics")
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE theory_weights SET source = 'live'")
    assert side(runtime, AS_OF + TWO_MINUTES) == "BUY"
