"""Sweeps: read from a text, refused in one sentence, run in processes, counted as they come, kept through Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from v7_pipeline import __version__
from v7_pipeline.backtest import BacktestError, sweep
from v7_pipeline.backtest.sweep import Candidate, candidates, parse_sweep, run_sweep
from v7_pipeline.backtest.trials import Trial, record_trials
from v7_pipeline.backtest.validation import cross_validate, grid_of
from v7_pipeline.store import open_store
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline_tests.backtest.markets import recorded, source_of
from v7_pipeline_tests.backtest.runners import run_small

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
SPAN: dict[str, Any] = {
    "source": "duckdb:candles.duckdb", "venue": "coinbase-exchange", "start": START, "end": START + timedelta(days=1)
}  # fmt: skip


@pytest.fixture
def swept(make_settings: Callable[..., Any]) -> Callable[..., list[Candidate]]:
    def make(*texts: str, **changes: Any) -> list[Candidate]:
        base = make_settings(**changes)
        return candidates(parse_sweep(texts, base), base, **SPAN)

    return make


def test_a_text_is_settings_and_their_values(make_settings: Callable[..., Any]) -> None:
    base = make_settings()
    assert parse_sweep(
        ["min_confidence=0.55,0.6, 0.60 ;horizon_minutes=120,240", "weight.price_momentum=0,1,2"], base
    ) == {
        "min_confidence": (0.55, 0.6),
        "horizon_minutes": (120, 240),
        "weight.price_momentum": (0.0, 1.0, 2.0),
    }
    assert parse_sweep([], base) == {} and parse_sweep([" ; "], base) == {}
    assert parse_sweep(["fees=none,ftmo-crypto;aggressive=true,false"], base) == {
        "fees": ("none", "ftmo-crypto"), "aggressive": (True, False)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("min_confidenc=0.6", "there is no setting 'min_confidenc' to sweep; did you mean min_confidence?"),
        ("nonsense=1", "there is no setting 'nonsense' to sweep; docs/settings.md lists them"),
        ("deepseek_api_key=abc", "there is no setting 'deepseek_api_key' to sweep"),
        ("min_confidence=0.5,0.6", "min_confidence=0.5 cannot be swept: Input should be greater than or equal to 0.55"),
        ("horizon_minutes=two", "horizon_minutes=two cannot be swept: Input should be a valid integer"),
        ("monthly_budget_usd=1", "monthly_budget_usd=1 cannot be swept: V7_MONTHLY_BUDGET_USD is smaller"),
        ("max_run_s=99", "max_run_s has no effect on a backtest"),
        ("min_confidence", "'min_confidence' is no sweep; write a setting and its values"),
        ("min_confidence=0.6,,0.7", "is no sweep"),
        ("min_confidence=0.6;min_confidence=0.7", "min_confidence is swept twice"),
        ("weight.astrology=1", "there is no theory 'astrology' to weigh; the ten are shannon_entropy"),
        ("weight.price_momentum=-1", "a weight is a finite number, not negative"),
        ("weight.price_momentum=much", "a weight is a finite number, not negative"),
    ],
)
def test_what_cannot_be_swept_is_told_in_one_sentence(text: str, told: str, make_settings: Callable[..., Any]) -> None:
    with pytest.raises(BacktestError) as refused:
        parse_sweep([text], make_settings())
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_every_combination_is_a_candidate_with_a_name(swept: Callable[..., list[Candidate]]) -> None:
    found = swept("min_confidence=0.55,0.6;horizon_minutes=120,240", aggressive=True)
    assert [one.name for one in found] == [
        f"v7 min_confidence={c} horizon_minutes={h}" for c in ("0.55", "0.6") for h in (120, 240)
    ]
    chosen = found[2].settings
    assert (chosen.min_confidence, chosen.horizon_minutes, chosen.aggressive) == (0.6, 120, True)
    assert found[2].weights is None
    assert [one.name for one in swept()] == ["v7"]
    weighed = swept("weight.price_momentum=0,2", rules_weights={"hurst_exponent": 3.0})[1].weights
    assert weighed == {**dict.fromkeys(THEORY_NAMES, 1.0), "hurst_exponent": 3.0, "price_momentum": 2.0}


def test_a_candidate_is_picklable_and_holds_no_secret(swept: Callable[..., list[Candidate]]) -> None:
    (one,) = swept(deepseek_api_key=SecretStr("sk-very-secret"))
    packed = pickle.dumps(one)
    assert b"sk-very-secret" not in packed and pickle.loads(packed) == one
    assert one.settings.deepseek_api_key is None  # the environment of whoever runs it has it


@pytest.mark.slow
def test_both_cores_give_what_one_gives_in_the_order_asked_for(
    swept: Callable[..., list[Candidate]], tmp_path: Path
) -> None:
    chosen = swept("min_confidence=0.55,0.7;weight.price_momentum=0,1")
    chosen.append(replace(chosen[0], name="broken"))
    told: list[tuple[str, int, int]] = []
    store = open_store(f"duckdb:{tmp_path / 'trials.duckdb'}")
    store.migrate(__version__, START)

    def record(trial: Trial) -> None:
        record_trials(store, [trial], run_id="backtest-1", now=START)

    found = run_sweep(chosen, record=record, runner=run_small, workers=2, on_progress=lambda *step: told.append(step))
    alone = run_sweep(chosen, record=lambda trial: None, runner=run_small, workers=1)
    assert told == [("sweep", done, 5) for done in range(1, 6)]
    assert [one.candidate for one in found.tried] == chosen[:4]
    assert [one.trial.trial_id for one in found.tried] == [one.trial.trial_id for one in alone.tried]
    for one, other in zip(found.tried, alone.tried, strict=True):
        assert one.trades.equals(other.trades) and one.trial.daily.equals(other.trial.daily)
    assert found.failed == alone.failed == {"broken": "ValueError: postgres://me:…@host has no candles"}
    assert not found.interrupted and len(store.read("backtest_trials")) == 4
    # What came back is what validation takes.
    trades = {one.candidate.name: one.trades for one in found.tried}
    hours = grid_of(trades, first=START, last=START + timedelta(hours=23), initial_usd=1e5, period=timedelta(hours=1))
    assert len(cross_validate(hours).splits) == 15
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_what_is_done_and_waits_for_nothing(swept: Callable[..., list[Candidate]], workers: int) -> None:
    quick, more = swept("min_confidence=0.55,0.6")
    chosen = [quick, replace(more, name="slow 1"), replace(more, name="slow 2")]
    recorded: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    found = run_sweep(
        chosen, record=lambda trial: recorded.append(trial.name), runner=run_small, workers=workers, on_progress=stop
    )
    assert found.interrupted and found.left == ("slow 1", "slow 2") and not found.failed
    assert recorded == [quick.name] == [one.candidate.name for one in found.tried]
    for process in multiprocessing.active_children():
        process.join(60)
    assert not multiprocessing.active_children()


def test_in_one_process_a_failure_ends_nothing_and_every_other_one_is_recorded(
    swept: Callable[..., list[Candidate]],
) -> None:
    chosen = swept("min_confidence=0.55,0.7")
    recorded: list[str] = []
    found = run_sweep(
        [replace(chosen[0], name="broken"), *chosen],
        record=lambda trial: recorded.append(trial.name),
        runner=run_small,
        workers=1,
    )
    assert recorded == [one.name for one in chosen] and not found.interrupted
    assert found.failed == {"broken": "ValueError: postgres://me:…@host has no candles"}
    few, many = found.tried[1].trial.n_trades, found.tried[0].trial.n_trades
    assert 0 < few < many


_INTERRUPTED = """
from v7_pipeline.backtest.sweep import candidates, parse_sweep, run_sweep
from v7_pipeline.settings import load_settings
from v7_pipeline_tests.backtest.runners import run_small
from v7_pipeline_tests.backtest.test_sweep import SPAN
from dataclasses import replace

base = load_settings()
quick, more = candidates(parse_sweep(["min_confidence=0.55,0.6"], base), base, **SPAN)
found = run_sweep(
    [quick, replace(more, name="slow 1"), replace(more, name="slow 2")], record=lambda trial: None, runner=run_small,
    workers=2, on_progress=lambda stage, done, total: print(done, "of", total, flush=True),
)
print("left:", *found.left)
"""


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_reaches_all_processes_and_nobody_complains(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        start_new_session=True,
        # Whoever runs these tests in the background ignores Ctrl-C, and what is ignored is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout is not None and child.stdout.readline() == "1 of 3\n"
    os.killpg(child.pid, signal.SIGINT)
    out, complaints = child.communicate(timeout=150)
    assert (out, child.returncode) == ("left: slow 1 slow 2\n", 0)
    assert "Traceback" not in complaints


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("recorded") / "candles.duckdb"
    source_of(place, recorded(datetime(2023, 12, 11, tzinfo=UTC), 2))
    return place


@pytest.mark.slow
def test_recordings_are_swept_by_the_engine_and_readings_are_made_once(
    two_days: Path, make_settings: Callable[..., Any]
) -> None:
    start = datetime(2023, 12, 11, tzinfo=UTC)
    base = make_settings(aggressive=True)
    real = {"source": f"duckdb:{two_days}", "venue": "coinbase-exchange", "start": start, "end": start + 2 * DAY}
    chosen = candidates(
        parse_sweep(["horizon_minutes=60,240;weight.price_momentum=0,1"], base), base, every_minutes=10, **real
    )
    found = run_sweep(chosen, record=lambda trial: None, workers=1)
    assert not found.failed and len(found.tried) == 4
    trials = {one.candidate.name: one.trial for one in found.tried}
    assert all(trial.n_trades > 0 for trial in trials.values())
    assert len({trial.trial_id for trial in trials.values()}) == 4
    longest = {one.candidate.name: one.trades["holding_minutes"].max() for one in found.tried}
    assert longest["v7 horizon_minutes=60 weight.price_momentum=1"] <= 60
    assert longest["v7 horizon_minutes=240 weight.price_momentum=1"] > 60
    assert len(sweep._prepared) == 1
    # Weights of 1 for all are v7's own: the same trades as without any.
    (plain,) = candidates({}, base, every_minutes=10, **real)
    own = run_sweep([plain], record=lambda trial: None).tried[0]
    assert own.trial.trial_id == trials["v7 horizon_minutes=240 weight.price_momentum=1"].trial_id
    elsewhere = run_sweep([replace(plain, venue="sandbox")], record=lambda trial: None)
    assert "are of coinbase-exchange, not of sandbox" in elsewhere.failed["v7"]


def test_two_of_one_name_are_refused(swept: Callable[..., list[Candidate]]) -> None:
    (one,) = swept()
    with pytest.raises(BacktestError, match="two candidates are called 'v7'"):
        run_sweep([one, one], record=lambda trial: None, runner=run_small)
