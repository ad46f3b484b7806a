"""The scan's last step: attribution and proposed weights from the store, and whom proposals may move, and when."""

from __future__ import annotations

import dataclasses
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
from v7_pipeline.store import arrow_rows, conform
from v7_pipeline.store.schema import THEORY_NAMES, table
from v7_pipeline_tests.analyst.conftest import question, readings
from v7_pipeline_tests.learning.frames import EPOCH
from v7_pipeline_tests.learning.planted import planted_market
from v7_pipeline_tests.scan.watched import put_call
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
    """Closed outcomes of a simulated market, HOLDs among them, with their signals and the theories' votes."""
    rows = planted_market(3, scans=scans, apart=10).assign(strategy="v7", as_of=lambda f: f["entry_time"])
    trades = rows.drop_duplicates("signal_id").assign(ambiguous=False, fee_preset="none")
    held = trades[trades["side"] == "HOLD"]
    sides = [
        held.assign(side=side, r_multiple=held[column], net_return=held[column] / 1000, outcome="loss")
        for side, column in (("BUY", "long_r"), ("SELL", "short_r"))
    ]
    put(runtime, "outcomes", pd.concat([trades[trades["side"] != "HOLD"], *sides], ignore_index=True))
    put(runtime, "theory_performance", rows.assign(created_at=rows["exit_time"]))
    for name in ("llm_signals", "gated_signals"):
        same = trades[["signal_id", "symbol", "as_of", "side", "strategy"]].reset_index(drop=True)
        signals = make_rows(name, len(trades), start=AS_OF).reset_index(drop=True)
        put(runtime, name, signals.drop(columns=same.columns).join(same).assign(status="answered"))
    return trades


def test_rows_and_a_proposal_are_written_with_their_marks_and_only_where_there_is_news(settings_of: Any) -> None:
    runtime = runtime_of(settings_of())
    trades = fill(runtime)
    result = attribute(runtime.context(AS_OF, "r"))
    persist(runtime.store, result)
    rows = runtime.store.query("SELECT * FROM theory_attribution")
    symbols = {f"symbol:{s}" for s in trades["symbol"].unique()}
    assert set(rows["scope"]) == {"all", *symbols, "side:BUY", "side:SELL", "side:HOLD"}
    assert set(rows["source"]) == {"demo"} and rows["shapley"].notna().all()
    weights = runtime.store.query("SELECT * FROM theory_weights")
    assert set(weights["theory_name"]) == set(THEORY_NAMES) and not weights["acting"].any()
    assert weights["weight"].sum() == pytest.approx(1) and json.loads(weights["evidence"].iloc[0])["n_eff"] > 0
    later = attribute(runtime.context(AS_OF + TWO_MINUTES, "r"))
    assert not later.writes and later.notes["as_of"] == AS_OF


def test_what_hold_left_out_counts_once_each_half_hour_with_what_both_sides_came_to(settings_of: Any) -> None:
    runtime = runtime_of(settings_of())
    trades = fill(runtime)
    rows = attribute(runtime.context(AS_OF, "r")).frame("theory_attribution")
    held = trades[trades["side"] == "HOLD"].sort_values("as_of")
    held = held.groupby(["symbol", held["as_of"].dt.floor("30min")]).head(1)
    assert 0 < len(held) < (trades["side"] == "HOLD").sum()
    of_hold = rows[rows["scope"] == "side:HOLD"].set_index("theory_name")
    said = runtime.store.query("SELECT signal_id, theory_name, vote FROM theory_performance")
    said = said[said["signal_id"].isin(held["signal_id"]) & (said["vote"] != 0)]
    assert of_hold["n"].to_dict() == said.groupby("theory_name").size().to_dict()
    paid = (held["long_r"] > 0).astype(int) - (held["short_r"] > 0)
    names = said.merge(held.assign(paid=paid)[["signal_id", "paid"]], on="signal_id")
    never_right = names.assign(right=names["vote"] * names["paid"] > 0).groupby("theory_name")["right"].sum() == 0
    assert ((of_hold["accuracy"] == 0).loc[never_right.index] == never_right).all() and not never_right.all()


def test_attribution_is_made_once_an_hour_and_not_without_news(settings_of: Any) -> None:
    runtime = runtime_of(settings_of())
    fill(runtime)

    def made(at: datetime) -> bool:
        result = attribute(runtime.context(at, "r"))
        persist(runtime.store, result)
        return bool(result.writes)

    early = (EPOCH + timedelta(hours=6)).to_pydatetime()
    assert made(early)
    assert not made(early + TWO_MINUTES) and not made(early + timedelta(minutes=58))
    assert made(early + timedelta(hours=1)) and made(AS_OF)
    assert not made(AS_OF + timedelta(hours=2))  # nothing has closed since


def test_the_market_at_the_signal_is_a_scope(settings_of: Any) -> None:
    runtime = runtime_of(settings_of())
    fill(runtime)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE llm_signals SET features_as_of = as_of")
    first = runtime.store.query("SELECT as_of FROM llm_signals WHERE symbol = 'BTC-USD' ORDER BY as_of LIMIT 40")
    bull = [1.0 if i < 30 else 0.1 for i in range(len(first))]
    readings = make_rows("theory_features", len(first), start=AS_OF, symbol="BTC-USD", p_bear=0.2, p_sideways=0.3,
                         p_bull=bull)  # fmt: skip
    put(runtime, "theory_features", readings.assign(as_of=first["as_of"].to_numpy()))
    rows = attribute(runtime.context(AS_OF, "r")).frame("theory_attribution").set_index("scope")
    assert {s for s in rows.index if s.startswith("regime")} == {"regime:bull", "regime:sideways"}
    assert rows.loc["regime:bull", "n"].max() <= 30


def test_learnt_weights_that_act_are_those_of_the_game_and_a_replay_has_none(settings_of: Any) -> None:
    runtime = runtime_of(settings_of(rules_weights_learnt=True))
    fill(runtime)
    alone = "price_momentum"
    weights = [1.0 if theory == alone else 0.0 for theory in THEORY_NAMES]
    frame = pd.DataFrame({"theory_name": THEORY_NAMES, "weight": weights})
    put(runtime, "theory_weights", frame.assign(as_of=AS_OF - TWO_MINUTES, equal_share=0.0, evidence="{}", acting=True))
    result = attribute(runtime.context(AS_OF, "r"))
    rows = result.frame("theory_attribution").query("scope == 'all'").set_index("theory_name")
    assert rows["shapley"].drop(alone).eq(0).all() and result.frame("theory_weights")["acting"].all()
    with runtime.store.transaction() as tx:
        for name in ("outcomes", "theory_performance", "theory_weights"):
            tx.execute(f"UPDATE {name} SET source = 'backtest'")
    replayed = attribute(dataclasses.replace(runtime.context(AS_OF, "r"), source="backtest"))
    assert not replayed.frame("theory_weights")["acting"].any()


def test_a_scan_of_the_past_takes_its_own_labels_for_no_news(settings_of: Any) -> None:
    now = AS_OF + timedelta(days=30)
    runtime = runtime_of(settings_of(), now=now)
    fill(runtime)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE outcomes SET labelled_at = ?", (now,))
    context = runtime.context(AS_OF, "r")
    assert context.is_late
    persist(runtime.store, attribute(context))
    assert not attribute(runtime.context(AS_OF + timedelta(hours=2), "r")).writes


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


def test_what_was_asked_again_of_an_instant_is_no_cost_of_its_scan(settings_of: Any) -> None:
    """A paid backtest, or leaving theories out, asks about a scan's instant long after it."""
    runtime = runtime_of(settings_of())
    scan = dict.fromkeys(table("scans").column_names) | {
        "as_of": AS_OF, "started_at": AS_OF, "symbols": "BTC-USD", "status": "started", "failures": "{}", **MARKS
    }  # fmt: skip
    with runtime.store.transaction() as tx:
        tx.upsert("scans", arrow_rows("scans", [scan]))
    for number, analyst in enumerate(("deepseek", "deepseek-backtest", "deepseek-without-hurst_exponent")):
        put_call(runtime, f"call-{number}", 0.25, at=AS_OF, analyst=analyst)
    persist(runtime.store, attribute(runtime.context(AS_OF, run_id="r")))
    (row,) = runtime.store.rows("SELECT status, cost_usd FROM scans")
    assert row == {"status": "finished", "cost_usd": 0.25}
