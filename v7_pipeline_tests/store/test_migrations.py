"""A store is created once, an older one is led to the present, a newer one is left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.store import SchemaError, Store, StoreError, migrations, open_store, schema
from v7_pipeline.store.schema import Column
from v7_pipeline_tests.store.conftest import NOW, Drills
from v7_pipeline_tests.store.rows import make_rows


def test_migrating_twice_changes_nothing(empty_store: Store) -> None:
    empty_store.migrate("0.1.0", NOW)
    first = empty_store.read("schema_version")
    empty_store.migrate("0.2.0", NOW)
    assert empty_store.schema_version() == schema.SCHEMA_VERSION
    assert empty_store.read("schema_version").equals(first) and first["code_version"].tolist() == ["0.1.0"]


def test_processes_may_create_one_store_at_once(place: dict[str, Any], drills: Drills, empty_store: Store) -> None:
    assert drills.run("migrate", place=place, processes=3) == [0, 0, 0]
    assert len(empty_store.read("schema_version")) == 1


NOW_VERSION = schema.SCHEMA_VERSION
SOON, LATER = NOW_VERSION + 1, NOW_VERSION + 2


@pytest.fixture(autouse=True, scope="module")
def tables_in_their_order() -> Iterator[None]:
    """A table that was away for a moment comes back to its place: pages are made in the schema's order."""
    before = dict(schema.TABLES)
    yield
    assert before == schema.TABLES
    for name in before:
        schema.TABLES[name] = schema.TABLES.pop(name)


def add_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A future in which candles have a number of trades (SOON) and nobody wants alerts.severity (LATER)."""
    candles = schema.TABLES["candles"]
    trades = Column("trades", "BIGINT", "number of trades", "trades", nullable=True)
    alerts = schema.TABLES["alerts"]
    fewer = tuple(column for column in alerts.columns if column.name != "severity")
    monkeypatch.setitem(schema.TABLES, "candles", dataclasses.replace(candles, columns=(*candles.columns, trades)))
    monkeypatch.setitem(schema.TABLES, "alerts", dataclasses.replace(alerts, columns=fewer))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", LATER)
    steps = {
        SOON: ("ALTER TABLE candles ADD COLUMN trades BIGINT",),
        LATER: ("ALTER TABLE alerts DROP COLUMN severity",),
    }
    monkeypatch.setattr(migrations, "STEPS", steps)


def test_an_older_store_is_migrated_step_by_step_and_keeps_its_rows(
    place: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows("candles", 4)
    with store.transaction() as tx:
        tx.upsert("candles", rows)
    add_versions(monkeypatch)
    newer = open_store(**place)
    with pytest.raises(SchemaError, match=f"has schema version {NOW_VERSION}, this code has {LATER}; start v7 up"):
        newer.read("candles")
    newer.migrate("0.3.0", NOW)
    assert newer.read("schema_version")["version"].tolist() == [NOW_VERSION, SOON, LATER]
    back = newer.read("candles")
    assert back["trades"].isna().all() and len(back) == 4 and "severity" not in newer.read("alerts").columns
    with newer.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 6))


def test_a_store_of_version_1_keeps_its_readings_to_seven_digits_and_its_signals(
    place: dict[str, Any], empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = schema.TABLES["theory_features"]
    wide = tuple(dataclasses.replace(c, type="DOUBLE") if c.type == "FLOAT" else c for c in readings.columns)
    rows = make_rows("theory_features", 5)
    signals = schema.TABLES["llm_signals"]
    fewer = tuple(c for c in signals.columns if c.name not in ("would_change_my_mind", "ungrounded_numbers"))
    gated = schema.TABLES["gated_signals"]
    new = ("calls_ok", "exposure_ok", "notional_usd", "lots", "capped_by")
    older = tuple(c for c in gated.columns if c.name not in new)
    rates = schema.TABLES["win_rates"]
    learnt = (
        "prior_alpha", "prior_beta", "half_life_trades", "n_eff", "shrunk_mean", "shrunk_lower", "shrunk_upper",
        "parent_scope",
    )  # fmt: skip
    bare = tuple(c for c in rates.columns if c.name not in learnt)
    attributed = schema.TABLES["theory_attribution"]
    figures = ("holm_p", "icir", "icir_lower", "icir_upper", "contribution_wins", "contribution_losses")
    figures += ("drift", "drift_lower", "drift_upper", "drift_p")
    short = tuple(c for c in attributed.columns if c.name not in figures)
    outcomes = schema.TABLES["outcomes"]
    later = ("holding_minutes", "gap_minutes", "slippage", "labelled_at")
    known = tuple(c for c in outcomes.columns if c.name not in later)
    alerts = schema.TABLES["alerts"]
    untold = tuple(c for c in alerts.columns if c.name != "subject")
    order = list(schema.TABLES)
    with monkeypatch.context() as past:
        past.setitem(schema.TABLES, "alerts", dataclasses.replace(alerts, columns=untold))
        past.delitem(schema.TABLES, "alert_deliveries")
        past.delitem(schema.TABLES, "backtest_trials")
        past.delitem(schema.TABLES, "backtest_daily")
        past.setitem(schema.TABLES, "outcomes", dataclasses.replace(outcomes, columns=known))
        past.setitem(schema.TABLES, "llm_signals", dataclasses.replace(signals, columns=fewer))
        past.setitem(schema.TABLES, "gated_signals", dataclasses.replace(gated, columns=older))
        past.setitem(schema.TABLES, "win_rates", dataclasses.replace(rates, columns=bare))
        past.setitem(schema.TABLES, "theory_attribution", dataclasses.replace(attributed, columns=short))
        past.delitem(schema.TABLES, "theory_weights")
        past.setitem(schema.TABLES, "theory_features", dataclasses.replace(readings, columns=wide))
        past.setattr(schema, "SCHEMA_VERSION", 1)
        empty_store.migrate("0.1.0", NOW)
        with empty_store.transaction() as tx:
            tx.upsert("theory_features", make_rows("theory_features", 5))
            tx.insert_new("llm_signals", make_rows("llm_signals", 3)[[c.name for c in fewer]])
            tx.insert_new("gated_signals", make_rows("gated_signals", 3)[[c.name for c in older]])
            tx.insert_new("win_rates", make_rows("win_rates", 3)[[c.name for c in bare]])
            tx.upsert("theory_attribution", make_rows("theory_attribution", 3)[[c.name for c in short]])
            tx.insert_new("outcomes", make_rows("outcomes", 3)[[c.name for c in known]])
            tx.insert_new("alerts", make_rows("alerts", 3)[[c.name for c in untold]])
    for name in order:  # what was left out came back at the end, and pages are made in the schema's order
        schema.TABLES[name] = schema.TABLES.pop(name)
    newer = open_store(**place)
    newer.migrate("0.2.0", NOW)
    assert newer.read("schema_version")["version"].tolist()[:2] == [1, 2]
    rows = rows.sort_values(["symbol", "as_of"], ignore_index=True)
    pd.testing.assert_frame_equal(newer.read("theory_features"), rows, check_exact=True)
    added = newer.read("llm_signals")[["would_change_my_mind", "ungrounded_numbers"]]
    assert len(added) == 3 and added.isna().all(axis=None)  # version 3: nobody had asked then
    gates = newer.read("gated_signals")[list(new)]
    assert len(gates) == 3 and gates.isna().all(axis=None)  # version 4: no such gate had been asked
    shrunk = newer.read("win_rates")[list(learnt)]
    assert len(shrunk) == 3 and shrunk.isna().all(axis=None)  # version 5: nothing was shrunk then
    worth = newer.read("theory_attribution")
    assert len(worth) == 3 and worth[[*figures, "shapley"]].isna().all(axis=None)  # version 5: a share is no R
    assert worth["accuracy"].notna().any() and newer.read("theory_weights").empty
    labels = newer.read("outcomes")[list(later)]
    assert len(labels) == 3 and labels.isna().all(axis=None)  # version 5: nobody had noted them
    told = newer.read("alerts")
    assert len(told) == 3 and told["subject"].isna().all()  # version 6: no alert had a subject
    assert newer.read("alert_deliveries").empty
    assert newer.read("backtest_trials").empty and newer.read("backtest_daily").empty  # version 7: none was counted
    assert (
        "theory_features_1" not in newer.query("SELECT table_name FROM information_schema.tables")["table_name"].values
    )


def test_a_failing_step_leaves_the_old_store(
    place: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    add_versions(monkeypatch)
    monkeypatch.setitem(migrations.STEPS, LATER, ("ALTER TABLE alerts DROP COLUMN nonsense",))  # type: ignore[arg-type]
    with pytest.raises(duckdb.Error, match="nonsense"):
        open_store(**place).migrate("0.3.0", NOW)
    monkeypatch.undo()
    assert open_store(**place).schema_version() == NOW_VERSION
    assert open_store(**place).read("candles").empty
    open_store(**place).migrate("0.1.0", NOW)


def test_a_missing_step_and_an_undeclared_change_are_named(file_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_versions(monkeypatch)
    monkeypatch.delitem(migrations.STEPS, LATER)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=f"no migration leads from schema version {SOON} to {LATER}"):
        file_store.migrate("0.3.0", NOW)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", NOW_VERSION)
    with pytest.raises(
        SchemaError, match=f"table candles of the store differs from schema version {NOW_VERSION} in trades"
    ):
        file_store.migrate("0.3.0", NOW)


def test_a_newer_store_is_refused(place: dict[str, Any], store: Store) -> None:
    with store.transaction() as tx:
        tx.execute("INSERT INTO schema_version VALUES (99, now(), '9.9')")
    with pytest.raises(SchemaError, match=rf"has schema version 99, this code knows {NOW_VERSION}.*newer V7"):
        store.migrate("0.1.0", NOW)
    with pytest.raises(SchemaError, match=r"version 99.*update the code"):
        open_store(**place).read("candles")
    assert store.schema_version() == 99


def test_lesson_04_migrate_refuses_a_naive_clock(empty_store: Store) -> None:
    with pytest.raises(SchemaError, match="now must be a timezone-aware"):
        empty_store.migrate("0.1.0", NOW.replace(tzinfo=None))


def test_a_file_without_tables_says_what_to_run(tmp_path: Any) -> None:
    import duckdb

    duckdb.connect(str(tmp_path / "bare.duckdb")).close()
    with pytest.raises(StoreError, match="has no tables yet; run v7 scan or v7 up first"):
        open_store(f"duckdb:{tmp_path / 'bare.duckdb'}").read("candles")


def test_every_declared_column_and_null_rule_is_in_the_store(store: Store) -> None:
    stored = store.query(
        "SELECT table_name, column_name, is_nullable FROM information_schema.columns "
        "WHERE table_catalog = current_database() AND table_name <> 'signals'"
    )
    declared = {(t.name, c.name, "YES" if c.nullable else "NO") for t in schema.TABLES.values() for c in t.columns}
    assert set(stored.itertuples(index=False, name=None)) == declared
