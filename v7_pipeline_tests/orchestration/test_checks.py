"""Each fast check passes on a clean scan and fails on the fault it is for, planted in a copy of the same store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.definitions import build_definitions
from v7_pipeline.orchestration.checks.scan_checks import CHECKS, run_checks
from v7_pipeline.orchestration.launch import execute_scan
from v7_pipeline.scan.run import run_scan
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.settings import load_settings
from v7_pipeline.store import arrow_rows
from v7_pipeline.store.schema import TABLES

AS_OF = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
ALL = frozenset(check.name for check in CHECKS)

FAULTS = {
    "candles_are_closed_minutes": "UPDATE candles SET fetched_at = open_time "
    "WHERE open_time = '2026-03-03 11:58:00+00'",
    "newest_candle_is_fresh": "DELETE FROM candles WHERE symbol = 'SOL-USD' AND open_time >= '2026-03-03 11:50:00+00'",
    "spend_within_budget": """
        INSERT INTO llm_calls BY NAME SELECT 'x' AS call_id, 1 AS attempt, 'x' AS signal_id, 'BTC-USD' AS symbol, as_of,
        'local' AS analyst, 'm' AS model, '[]' AS prompt, 'h' AS prompt_hash, 'p' AS prompt_version, '{}' AS parameters,
        'reserved' AS status, as_of AS reserved_at, 3.01 AS reserved_usd, 'v' AS price_version, source, run_id,
        code_version FROM scans""",
    "provenance_not_mixed": "UPDATE candles SET source = 'live' WHERE open_time = '2026-03-03 11:58:00+00'",
    "every_symbol_answered": """UPDATE scans SET failures = '{"BTC-USD": "timed out"}'""",
    "ohlc_consistent": "UPDATE candles SET high = low / 2 WHERE open_time = '2026-03-03 11:58:00+00'",
    "votes_and_scores_in_range": "UPDATE theory_features SET price_momentum_vote = 1.5",
    "scores_vary": "UPDATE theory_features SET price_momentum_score = 0.5",
    "one_decision_for_each_symbol": "DELETE FROM llm_signals WHERE symbol = 'ETH-USD'",
    "every_answer_has_its_call": "UPDATE llm_signals SET call_id = 'deepseek-never-made' WHERE symbol = 'BTC-USD'",
    "every_decision_was_gated": "DELETE FROM gated_signals WHERE symbol = 'SOL-USD'",
    "accepted_passed_every_gate": "UPDATE gated_signals SET accepted = true WHERE symbol = 'BTC-USD'",
    "closed_outcomes_are_net": """
        INSERT INTO outcomes BY NAME SELECT signal_id, 'shadow' AS kind, as_of, symbol, strategy, 'BUY' AS side,
        false AS ambiguous, 'win' AS outcome, 'none' AS fee_preset, source, run_id, code_version
        FROM llm_signals WHERE symbol = 'BTC-USD'""",
}


def _runtime(home: Path, url: str) -> Runtime:
    from v7_pipeline.orchestration.up import sandbox_settings

    settings = sandbox_settings(load_settings(home=home, mode="demo"), url)
    return build_runtime(settings, clock=lambda: AS_OF, analyst=RulesAnalyst())


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, sandbox: Any) -> Iterator[tuple[Path, str]]:
    """A home whose store holds one clean scan."""
    home = tmp_path_factory.mktemp("scanned")
    runtime = _runtime(home, sandbox.url)
    runtime.settings.data_dir.mkdir(parents=True)
    runtime.prepare_store()
    run_scan(runtime.context(AS_OF, "clean"))
    runtime.store.close()
    yield home, sandbox.url


def test_every_check_has_a_fault_that_proves_it() -> None:
    assert set(FAULTS) == ALL


def test_all_pass_on_a_clean_scan(scanned: tuple[Path, str]) -> None:
    results = list(run_checks(_runtime(*scanned), AS_OF, ALL))
    assert {check.name: bad for check, bad, _ in results} == dict.fromkeys(ALL, 0)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_check_fails_on_its_fault(name: str, scanned: tuple[Path, str], tmp_path: Path) -> None:
    home, url = scanned
    shutil.copytree(home, tmp_path / "home")
    runtime = _runtime(tmp_path / "home", url)
    with runtime.store.transaction() as tx:
        tx.execute(FAULTS[name])
    (result,) = run_checks(runtime, AS_OF, frozenset({name}))
    assert result[1] > 0


@pytest.mark.parametrize(("highest", "bad"), [(0.85, False), (0.95, True)])
def test_a_score_of_0_stands_still_only_where_it_should_have_spoken(
    highest: float, bad: bool, scanned: tuple[Path, str], tmp_path: Path
) -> None:
    home, url = scanned
    shutil.copytree(home, tmp_path / "home")
    runtime = _runtime(tmp_path / "home", url)
    with runtime.store.transaction() as tx:
        tx.execute("UPDATE theory_features SET monte_carlo_score = 0, monte_carlo_percentile = 0.2")
        tx.execute(
            f"UPDATE theory_features SET monte_carlo_percentile = {highest} WHERE extract('minute' FROM as_of) = 7"
        )
    (result,) = run_checks(runtime, AS_OF, frozenset({"scores_vary"}))
    assert (result[1] > 0) is bad


@pytest.mark.parametrize(
    ("status", "reply", "bad"),
    [("settled", "{}", 0), ("unknown", "{}", 0), ("unknown", None, 1), ("reserved", None, 1), ("failed", None, 1)],
)
def test_an_answer_without_usage_has_its_call_and_a_lost_one_has_not(
    status: str, reply: str | None, bad: int, scanned: tuple[Path, str], tmp_path: Path
) -> None:
    home, url = scanned
    shutil.copytree(home, tmp_path / "home")
    runtime = _runtime(tmp_path / "home", url)
    call = {
        "call_id": "local-x", "attempt": 1, "signal_id": "x", "symbol": "BTC-USD", "as_of": AS_OF, "analyst": "local",
        "model": "m", "prompt": "[]", "prompt_hash": "h", "prompt_version": "p", "parameters": "{}", "status": status,
        "reserved_at": AS_OF, "reserved_usd": 0.1, "price_version": "v", "raw_reply": reply, "source": "demo",
        "run_id": "r", "code_version": "c",
    }  # fmt: skip
    with runtime.store.transaction() as tx:
        tx.insert_new("llm_calls", arrow_rows("llm_calls", [dict.fromkeys(TABLES["llm_calls"].column_names) | call]))
        tx.execute("UPDATE llm_signals SET call_id = 'local-x' WHERE symbol = 'BTC-USD' AND status = 'answered'")
    (result,) = run_checks(runtime, AS_OF, frozenset({"every_answer_has_its_call"}))
    assert result[1] == bad


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("UPDATE candles SET open_time = open_time + INTERVAL 30 SECOND WHERE open_time = '2026-03-03 11:58:00+00'",
         "candles_are_closed_minutes"),
        ("UPDATE candles SET open_time = open_time + INTERVAL 1 DAY WHERE open_time = '2026-03-03 11:58:00+00'",
         "candles_are_closed_minutes"),
        ("UPDATE gated_signals SET accepted = true, reason_codes = '', side = 'BUY', quantity = 1, ftmo_ok = false",
         "accepted_passed_every_gate"),
        ("UPDATE llm_signals SET source = 'live' WHERE symbol = 'BTC-USD'", "provenance_not_mixed"),
    ],
)  # fmt: skip
def test_further_faults_of_one_check(fault: str, check: str, scanned: tuple[Path, str], tmp_path: Path) -> None:
    home, url = scanned
    shutil.copytree(home, tmp_path / "home")
    runtime = _runtime(tmp_path / "home", url)
    with runtime.store.transaction() as tx:
        tx.execute(fault)
    (result,) = run_checks(runtime, AS_OF, frozenset({check}))
    assert result[1] > 0


def test_a_score_that_is_nothing_while_the_drift_is_within_its_error_is_not_stuck(
    scanned: tuple[Path, str], tmp_path: Path
) -> None:
    """A score of 0 all day is no defect where its percentile stayed in the middle, and one where it never was there."""
    home, url = scanned
    shutil.copytree(home, tmp_path / "home")
    runtime = _runtime(tmp_path / "home", url)
    bad = []
    for percentile in (0.5, 0.95):
        with runtime.store.transaction() as tx:
            tx.execute(f"UPDATE theory_features SET monte_carlo_score = 0, monte_carlo_percentile = {percentile}")
        ((_, count, _),) = run_checks(runtime, AS_OF, frozenset({"scores_vary"}))
        bad.append(count)
    assert bad == [0, 3]


def test_all_fast_checks_together_take_less_than_half_a_second(scanned: tuple[Path, str]) -> None:
    import time

    runtime = _runtime(*scanned)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        list(run_checks(runtime, AS_OF, ALL))
        took.append(time.perf_counter() - began)
    assert min(took) < 0.5


def test_a_scan_stands_once_in_each_checks_history_with_its_day_and_whole_days_leave_nothing_failed(
    scanned: tuple[Path, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(scanned[0], home)
    runtime = _runtime(home, scanned[1])
    defs = build_definitions(runtime.settings, runtime=runtime)
    first, last = (f"dagster/asset_partition_range_{end}" for end in ("start", "end"))
    range_of_days = {first: "2026-03-02", last: "2026-03-03"}
    with dg.instance_for_test() as instance:
        execute_scan(defs, instance, AS_OF)
        for check in CHECKS:
            key = dg.AssetCheckKey(dg.AssetKey(check.asset), check.name)
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
            assert (record.status.value, record.partition) == ("SUCCEEDED", "2026-03-03"), check.name
        # As the pages start it for several days, with the checks in it.
        days = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("candles")], tags=range_of_days, raise_on_error=False
        )
        looked = {evaluation.check_name for evaluation in days.get_asset_check_evaluations()}
        assert days.success and not looked & ALL
