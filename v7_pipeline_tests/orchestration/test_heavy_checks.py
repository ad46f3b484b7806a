"""Each heavy check passes on a clean store, on real recordings too, and fails on the fault it is for.

Faults are planted in a copy of the store; a recorded outage is one of them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from v7_pipeline import __version__
from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.backtest import replay
from v7_pipeline.orchestration.checks import ALL_CHECKS, DAILY, HOURLY, SCAN
from v7_pipeline.orchestration.checks.base import WARN, Finding
from v7_pipeline.orchestration.checks.heavy import Day, day_before, day_of, run_heavy
from v7_pipeline.sandbox.simulator import simulate
from v7_pipeline.scan.backfill import fill_features
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.settings import load_settings
from v7_pipeline.store import Store, conform, open_store
from v7_pipeline_tests.backtest.conftest import END, START, fresh, holding, settings_of
from v7_pipeline_tests.backtest.conftest import simulated as simulated_candles
from v7_pipeline_tests.shared_data import needs_shared

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
LAST = datetime(2026, 3, 12, tzinfo=UTC)  # the day looked at is the one before
FIRST = LAST - timedelta(days=17)
BY_NAME = {check.name: check for check in (*HOURLY, *DAILY)}
OF_MARKET = [check.name for check in BY_NAME.values() if check.asset in ("candles", "theory_features")]
DAY = "'2026-03-11 00:00:00+00' AND '2026-03-11 23:59:00+00'"
MOMENT = "symbol = 'BTC-USD' AND open_time = '2026-03-11 15:00:00+00'"
READING = "symbol = 'BTC-USD' AND as_of = '2026-03-11 15:00:00+00'"

# Faults in a store of candles and readings, each for the check before the colon.
MARKET_FAULTS = {
    "candles_fit_the_schema": f"UPDATE candles SET volume = -1 WHERE {MOMENT}",
    "candles_fit_the_schema: source": f"UPDATE candles SET source = 'guess' WHERE {MOMENT}",
    "candles_complete": "DELETE FROM candles WHERE open_time "
    "BETWEEN '2026-03-11 12:40:00+00' AND '2026-03-11 13:59:00+00'",
    "candles_complete: thin": f"DELETE FROM candles WHERE open_time BETWEEN {DAY} AND minute(open_time) % 3 = 0",
    "few_minutes_without_volume": f"UPDATE candles SET volume = 0 WHERE open_time "
    f"BETWEEN {DAY} AND hour(open_time) = 5",
    "no_jump": f"UPDATE candles SET high = high * 1.08 WHERE {MOMENT}",
    "theory_features_fit_the_schema": f"UPDATE theory_features SET observed_share = 2 WHERE {READING}",
    "theory_features_fit_the_schema: range": f"UPDATE theory_features SET p_bull = 1.5 WHERE {READING}",
    "abstentions_usual": "UPDATE theory_features SET price_momentum_vote = 0.5",
    "no_constant_column": "UPDATE theory_features SET hurst_dfa_240 = 0.5 WHERE symbol = 'ETH-USD'",
    "no_constant_column: missing": "UPDATE theory_features SET hurst_dfa_240 = NULL WHERE symbol = 'ETH-USD'",
    "no_distribution_shift": f"UPDATE theory_features SET entropy_240 = entropy_240 / 2 WHERE as_of BETWEEN {DAY}",
    "no_look_ahead": "UPDATE theory_features f SET momentum_240 = g.momentum_240 FROM theory_features g "
    "WHERE g.symbol = f.symbol AND g.as_of = f.as_of + INTERVAL 1 MINUTE",
    "live_equals_backfill": f"UPDATE theory_features SET kalman_gap = kalman_gap * 1.000001 WHERE {READING}",
    "live_equals_backfill: late candle": f"UPDATE candles SET close = (high + low) / 2 WHERE {MOMENT}",
}
# The same in a store of decisions that were replayed.
DECISION_FAULTS = {
    "llm_signals_fit_the_schema": "UPDATE llm_signals SET confidence = 1.5",
    "gated_signals_fit_the_schema": "UPDATE gated_signals SET source = 'guess'",
    "outcomes_fit_the_schema": "UPDATE outcomes SET mae = 0.5",
    "theory_attribution_fit_the_schema": """INSERT INTO theory_attribution BY NAME SELECT as_of, 'kalman_filter' AS
        theory_name, 'x' AS scope, 1 AS n, 1.0 AS n_eff, 2.0 AS p_value, 'helps' AS verdict, source, run_id,
        code_version FROM scans""",
    "counts_conserved": "DELETE FROM gated_signals WHERE symbol = 'ETH-USD'",
    "counts_conserved: no decision": "DELETE FROM llm_signals WHERE symbol = 'ETH-USD'",
    "counts_conserved: no call": "UPDATE llm_signals SET call_id = 'never-made' WHERE status = 'answered'",
    "one_world": "UPDATE llm_signals SET source = 'live' WHERE symbol = 'ETH-USD'",
    "every_closed_outcome_has_ten_rows": "DELETE FROM theory_performance WHERE theory_name = 'kalman_filter'",
    "equity_replays": "UPDATE gated_signals SET gate_inputs = regexp_replace(gate_inputs, '\"equity\": [0-9.]+', "
    "'\"equity\": 99000.0')",
}
APART = {"agrees_with_a_second_source", "votes_mirror", "action_mix_usual"}  # each has its own test


def looked(name: str, day: Day) -> Finding:
    """What that check finds on that day."""
    ((_, finding),) = run_heavy((*HOURLY, *DAILY), day, frozenset({name}))
    return finding


def runtime_at(home: Path, now: datetime, mode: str = "demo", **changes: Any) -> Runtime:
    settings = load_settings(home=home, mode=mode, symbols=",".join(SYMBOLS), **changes)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return build_runtime(settings, clock=lambda: now, analyst=RulesAnalyst(), market=object())


def fill(home: Path, candles: pd.DataFrame, now: datetime, mode: str = "demo") -> None:
    """A store of these candles and of their readings, as a backfill would leave it."""
    runtime = runtime_at(home, now, mode)
    runtime.prepare_store()
    source = "demo" if mode == "demo" else "backfill"
    marks = {"venue": "test", "source": source, "run_id": "test", "code_version": __version__}
    frame = candles.assign(fetched_at=candles["open_time"] + pd.Timedelta(minutes=1))
    with runtime.store.transaction() as tx:
        tx.insert_new("candles", conform("candles", frame, marks))
    start = candles["open_time"].min().floor("D").to_pydatetime()
    fill_features(runtime.context(now, "test"), start, now)
    runtime.store.close()


def recorded(names: dict[str, str]) -> pd.DataFrame:
    """Recorded candles by symbol, each minute once, the forming last one left out."""
    frames = []
    for symbol, name in names.items():
        frame = pd.read_parquet(needs_shared(f"candles/{name}")).rename(columns={"ts": "open_time"})
        frame = frame.sort_values("open_time").drop_duplicates("open_time").iloc[:-1]
        frames.append(frame.assign(symbol=symbol, open_time=frame["open_time"].astype("datetime64[us, UTC]")))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen days of the simulated market and their readings."""
    home = tmp_path_factory.mktemp("market")
    frames = [simulate(7, symbol, FIRST, LAST).assign(symbol=symbol) for symbol in SYMBOLS]
    fill(home, pd.concat(frames, ignore_index=True), LAST)
    return home


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight replayed scans with trades that closed."""
    folder = tmp_path_factory.mktemp("decided")
    source, target = holding(folder / "source.duckdb", simulated_candles()), fresh(folder / "target.duckdb")
    replay(source, target, settings_of(), start=START, end=END)
    target.close()
    source.close()
    return folder / "target.duckdb"


@pytest.fixture
def copied(market: Path, tmp_path: Path) -> Runtime:
    shutil.copytree(market, tmp_path / "home")
    return runtime_at(tmp_path / "home", LAST + timedelta(hours=1))


@pytest.fixture
def decisions(decided: Path, tmp_path: Path) -> Iterator[Day]:
    shutil.copy(decided, tmp_path / "copy.duckdb")
    store: Store = open_store(f"duckdb:{tmp_path / 'copy.duckdb'}")
    runtime = build_runtime(settings_of(), clock=lambda: END, store=store, analyst=RulesAnalyst())
    start = START.replace(hour=0, minute=0)
    yield Day(runtime, start, start + timedelta(days=1), "backtest")
    store.close()


def plant(runtime: Runtime, sql: str) -> None:
    with runtime.store.transaction() as tx:
        tx.execute(sql)


def test_every_check_has_a_fault_that_proves_it() -> None:
    assert {name.partition(":")[0] for name in (*MARKET_FAULTS, *DECISION_FAULTS)} | APART == set(BY_NAME)


def test_every_check_says_what_it_means_and_what_to_do() -> None:
    names = [check.name for checks in ALL_CHECKS.values() for check in checks]
    assert len(names) == len(set(names))
    for checks in ALL_CHECKS.values():
        for check in checks:
            assert check.meaning.endswith(".") and check.means.endswith(".") and check.remedy.endswith("."), check.name
            assert not (check.blocking and check.severity is WARN), check.name


def test_all_pass_on_a_clean_day(market: Path) -> None:
    day = day_of(runtime_at(market, LAST), LAST)
    assert day.name == "2026-03-11"
    found = {name: looked(name, day).bad for name in OF_MARKET}
    assert found == dict.fromkeys(OF_MARKET, 0)


@pytest.mark.parametrize("fault", sorted(MARKET_FAULTS))
def test_a_check_of_the_market_fails_on_its_fault(fault: str, copied: Runtime) -> None:
    plant(copied, MARKET_FAULTS[fault])
    assert looked(fault.partition(":")[0], day_of(copied, LAST)).bad > 0


def test_all_pass_on_clean_decisions(decisions: Day) -> None:
    names = [name for name in BY_NAME if name not in OF_MARKET]
    found = {name: looked(name, decisions) for name in names}
    assert {name: finding.bad for name, finding in found.items()} == dict.fromkeys(names, 0)
    assert found["counts_conserved"].told["decisions"] == 16
    assert found["every_closed_outcome_has_ten_rows"].told["closed"] > 0
    assert found["equity_replays"].told["accounts"] > 0


@pytest.mark.parametrize("fault", sorted(DECISION_FAULTS))
def test_a_check_of_decisions_fails_on_its_fault(fault: str, decisions: Day) -> None:
    plant(decisions.runtime, DECISION_FAULTS[fault])
    assert looked(fault.partition(":")[0], decisions).bad > 0


def test_rows_of_the_future_are_seen(market: Path) -> None:
    at = LAST - timedelta(hours=10)
    finding = looked("candles_fit_the_schema", day_of(runtime_at(market, at), at))
    assert finding.bad == 1 and "rows lie in the future of 2026-03-11 14:00Z" in finding.told["unmet"]


def test_simulated_rows_beside_real_ones_are_two_worlds(copied: Runtime) -> None:
    plant(copied, f"UPDATE candles SET source = 'backfill' WHERE {MOMENT}")
    assert looked("one_world", day_of(copied, LAST)).bad == 1


def test_another_day_is_not_looked_at(copied: Runtime) -> None:
    """A fault of the day before belongs to that day's partition."""
    plant(copied, "DELETE FROM candles WHERE open_time BETWEEN '2026-03-10 12:40:00+00' AND '2026-03-10 13:59:00+00'")
    assert looked("candles_complete", day_of(copied, LAST)).bad == 0
    assert looked("candles_complete", day_of(copied, LAST - timedelta(days=1))).bad == 3


def test_midnight_belongs_to_the_day_that_ends() -> None:
    runtime: Any = type("R", (), {"settings": type("S", (), {"source": "live"})})()
    hour = timedelta(hours=1)
    assert (day_of(runtime, LAST).start, day_of(runtime, LAST).end) == (LAST - 24 * hour, LAST)
    assert (day_of(runtime, LAST + hour).start, day_of(runtime, LAST + hour).end) == (LAST, LAST + hour)
    assert (day_before(runtime, LAST).start, day_before(runtime, LAST).end) == (LAST - 24 * hour, LAST)


def test_a_second_source_is_compared_where_one_is_set(market: Path, tmp_path: Path) -> None:
    shutil.copytree(market, tmp_path / "home")
    runtime = runtime_at(tmp_path / "home", LAST, context="coingecko")
    bad = []
    for factor in (1.001, 1.03):
        plant(runtime, "DELETE FROM market_context")
        plant(
            runtime,
            f"""INSERT INTO market_context BY NAME SELECT symbol, open_time + INTERVAL 2 MINUTE AS as_of,
            open_time AS fetched_at, close * {factor} AS reference_price_usd, open_time AS reference_at, '{{}}' AS
            faults, source, run_id, code_version FROM candles WHERE {MOMENT}""",
        )
        finding = looked("agrees_with_a_second_source", day_of(runtime, LAST))
        bad.append((finding.told["compared"], finding.bad))
    assert bad == [(1, 0), (1, 1)]


def test_a_theory_that_prefers_one_side_is_seen(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from v7_pipeline.theories import price_momentum

    really = price_momentum.vote
    day = day_of(runtime_at(market, LAST), LAST - timedelta(hours=6))
    monkeypatch.setattr(price_momentum, "vote", lambda *given: abs(really(*given)) + 0.1)
    finding = looked("votes_mirror", day)
    assert finding.bad > 0 and "price_momentum" in finding.told["first"]


def test_another_mix_of_actions_is_seen(decisions: Day) -> None:
    copies = """INSERT INTO llm_signals BY NAME SELECT * EXCLUDE (n) REPLACE (signal_id || '-' || n AS signal_id,
        as_of - to_days(CAST(n % 3 AS INT)) AS as_of) FROM llm_signals, range(1, 37) r(n)"""
    plant(decisions.runtime, copies)
    assert looked("action_mix_usual", decisions).bad == 0
    assert looked("action_mix_usual", decisions).told["distance"] < 0.05
    plant(decisions.runtime, f"UPDATE llm_signals SET side = 'HOLD' WHERE as_of >= '{decisions.start}'")
    plant(decisions.runtime, f"UPDATE llm_signals SET side = 'BUY' WHERE as_of < '{decisions.start}'")
    assert looked("action_mix_usual", decisions).bad == 1


# --- real recordings --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coinbase's recorded candles of three products to 2023-12-13, and their readings."""
    home = tmp_path_factory.mktemp("real")
    candles = recorded({symbol: f"{symbol}_1m.parquet" for symbol in SYMBOLS})
    until = datetime(2023, 12, 13, tzinfo=UTC)
    fill(home, candles[candles["open_time"] < until], until, "live")
    return home


def test_all_pass_on_a_clean_recorded_day(real: Path) -> None:
    end = datetime(2023, 12, 10, tzinfo=UTC)
    day = day_of(runtime_at(real, end + timedelta(days=3), "live"), end)
    found = {name: looked(name, day) for name in BY_NAME}
    assert {name: finding.bad for name, finding in found.items()} == dict.fromkeys(BY_NAME, 0)
    assert found["no_look_ahead"].told["instants"] == 24 and found["live_equals_backfill"].told["rows"] == 4320


def test_the_recorded_flash_crash_is_a_jump_shown_with_its_candle(real: Path) -> None:
    end = datetime(2023, 12, 12, tzinfo=UTC)
    finding = looked("no_jump", day_of(runtime_at(real, end, "live"), end))
    assert "| BTC-USD | 2023-12-11 02:12Z | 42315 | 42325.1 | 41012 |" in finding.told["jumps"]


def test_a_recorded_outage_is_named_and_so_are_the_minutes_without_volume(tmp_path: Path) -> None:
    candles = recorded({s: f"{s[:3]}-USDT_1m_outage_2023-03-24.parquet" for s in SYMBOLS})
    now = datetime(2023, 3, 25, 23, 59, tzinfo=UTC)
    fill(tmp_path, candles, now, "live")
    runtime = runtime_at(tmp_path, now, "live")
    during, after = (day_of(runtime, datetime(2023, 3, number, tzinfo=UTC)) for number in (25, 24))
    finding = looked("candles_complete", during)
    assert (finding.bad, finding.told["missing_minutes"]) == (3, 240)
    assert "| BTC-USD | 2023-03-24 12:40Z | 13:59Z | 80 | yes |" in finding.told["outages"]
    assert looked("few_minutes_without_volume", during).bad == 3
    assert [looked(name, after).bad for name in ("candles_complete", "few_minutes_without_volume")] == [0, 0]


# --- as Dagster runs them ---------------------------------------------------------------------


@pytest.fixture
def definitions(copied: Runtime) -> dg.Definitions:
    from v7_pipeline.definitions import build_definitions

    return build_definitions(runtime=copied)


def test_each_job_has_its_own_checks(definitions: dg.Definitions) -> None:
    for job, period in (("scan", "scan"), ("hourly_checks", "hourly"), ("daily_checks", "daily")):
        found = {key.name for key in definitions.resolve_job_def(job).asset_layer.asset_graph.asset_check_keys}
        assert found == {check.name for check in ALL_CHECKS[period]}, job


@pytest.mark.parametrize(("job", "period"), [("hourly_checks", "hourly"), ("daily_checks", "daily")])
def test_the_jobs_report_every_check_and_a_failed_one_does_not_fail_the_run(
    job: str, period: str, definitions: dg.Definitions, copied: Runtime
) -> None:
    plant(copied, MARKET_FAULTS["candles_complete"])
    plant(copied, MARKET_FAULTS["live_equals_backfill"])
    result = definitions.resolve_job_def(job).execute_in_process(tags={"v7/as_of": "2026-03-12T00:00:00Z"})
    assert result.success
    found = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert set(found) == {check.name for check in ALL_CHECKS[period]}
    failed = found["candles_complete" if period == "hourly" else "live_equals_backfill"]
    assert not failed.passed and failed.metadata["partition"].value == "2026-03-11"
    assert failed.description is not None and "backfill" in failed.description


def test_the_hour_of_the_tick_is_looked_at(make_settings: Callable[..., Any]) -> None:
    from v7_pipeline.definitions import build_definitions

    defs = build_definitions(make_settings())
    for name, tick, instant in (
        ("hourly_checks", datetime(2026, 3, 12, 0, 7, tzinfo=UTC), "2026-03-12T00:00:00Z"),
        ("daily_checks", datetime(2026, 3, 12, 0, 21, tzinfo=UTC), "2026-03-12T00:00:00Z"),
    ):
        schedule = defs.resolve_schedule_def(f"{name}_schedule")
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        # the context is left before its instance: Dagster remembers storages in the order in which they were entered
        with (
            dg.instance_for_test() as instance,
            dg.build_schedule_context(
                instance=instance, scheduled_execution_time=tick, repository_def=defs.get_repository_def()
            ) as context,
        ):
            (request,) = schedule.evaluate_tick(context).run_requests
        assert request.tags["v7/as_of"] == instant


def scan_job(runtime: Runtime) -> dg.ExecuteInProcessResult:
    from v7_pipeline.definitions import build_definitions

    runtime.overrides["analyst"] = RulesAnalyst()
    with dg.instance_for_test() as instance:
        return build_definitions(runtime=runtime).resolve_job_def("scan").execute_in_process(
            partition_key="2026-03-03", tags={"v7/as_of": "2026-03-03T12:00:00Z"}, instance=instance,
            raise_on_error=False,
        )  # fmt: skip


def test_a_scan_with_all_its_checks_never_needs_great_expectations(
    make_runtime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)  # importing it raises
    runtime = make_runtime()
    result = scan_job(runtime)
    assert result.success
    evaluated = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert evaluated == {check.name: True for check in ALL_CHECKS["scan"]}
    with pytest.raises(ImportError):
        looked("candles_fit_the_schema", day_of(runtime, datetime(2026, 3, 3, 12, 0, tzinfo=UTC)))


@pytest.mark.parametrize(
    ("fault", "stopped"),
    [
        ("UPDATE candles SET volume = -1 WHERE open_time = '2026-03-03 11:20:00+00'", "theory_features"),
        ("UPDATE theory_features SET kalman_filter_vote = 3 WHERE as_of = '2026-03-03 11:20:00+00'", "llm_signals"),
    ],
)
def test_what_blocks_keeps_wrong_rows_from_travelling(
    fault: str, stopped: str, make_runtime: Callable[..., Any]
) -> None:
    runtime = make_runtime()
    assert scan_job(runtime).success
    plant(runtime, fault)
    plant(runtime, "DELETE FROM llm_signals")
    plant(runtime, "DELETE FROM gated_signals")
    result = scan_job(runtime)
    assert not result.success
    done = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}
    assert stopped not in done and "llm_signals" not in done
    looked = {check.check_name for check in result.get_asset_check_evaluations()}
    assert looked >= {check.name for check in SCAN if check.asset == "candles"}  # else Dagster would call them failed
    assert runtime.store.rows("SELECT count(*) AS n FROM llm_signals")[0]["n"] == 0
