"""The v7 command as a person meets it: help, one sentence for a bad argument, and what the commands print and leave.

Everything runs in this process on the simulated market of March 2024, where XRP-USD (four decimals) has a SELL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from v7_pipeline import cli
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.store import open_store
from v7_pipeline.store.schema import TABLES, THEORY_NAMES
from v7_pipeline_tests.ports import free_port

INSTANT = "2024-03-05T00:22:00Z"
DAY = "2024-03-05"
SIGNAL = "v7-XRP-USD-20240305T002200Z"
HOLD = "v7-DOGE-USD-20240305T002200Z"
MARKER = "sk-marker-never-to-be-shown"


def commands(group: Any = None, before: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command and group of commands by what is typed, such as "budget reconcile"."""
    for name, found in (group or typer.main.get_command(cli.app)).commands.items():
        yield " ".join((*before, name)), found
        if hasattr(found, "commands"):
            yield from commands(found, (*before, name))


COMMANDS = dict(sorted(commands()))
#: Typer makes its tree of commands anew at each call, which takes as long as a short command.
_tree = cache(typer.main.get_command)


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def v7(*arguments: str) -> Said:
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["v7", *arguments])
        patch.setattr(typer.main, "get_command", _tree)
        with pytest.raises(SystemExit) as left:
            cli.main()
    return Said(int(left.value.code or 0), out.getvalue(), err.getvalue())


def refused(*arguments: str) -> str:
    """The one sentence of a refused command."""
    said = v7(*arguments)
    assert said.code == 2, said
    lines = said.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("v7: "), said.err
    assert not said.out
    return lines[0].removeprefix("v7: ")


Home = Callable[[Path], None]


@pytest.fixture(scope="module")
def live_in() -> Iterator[Home]:
    """Make a folder the V7 home of this module's commands, with a real-looking key that must never be seen."""
    port = str(free_port())
    with pytest.MonkeyPatch.context() as patch:

        def set_home(home: Path) -> None:
            patch.setenv("V7_HOME", str(home))
            patch.setenv("V7_SANDBOX_PORT", port)
            patch.setenv("DEEPSEEK_API_KEY", MARKER)

        yield set_home


@dataclass(frozen=True)
class Scanned:
    """A home with one scan, and what the command printed."""

    home: Path
    said: Said

    def rows(self) -> dict[str, pd.DataFrame]:
        store = open_store(f"duckdb:{self.home / 'demo' / 'v7.duckdb'}")
        with store.reading() as reader:
            return {name: reader.query(f"SELECT * FROM {name} ORDER BY ALL") for name in TABLES}


@pytest.fixture(scope="module")
def scanned(live_in: Home, tmp_path_factory: pytest.TempPathFactory) -> Scanned:
    home = tmp_path_factory.mktemp("scanned")
    live_in(home)
    said = v7("scan", "--demo", "--as-of", INSTANT, "--symbols", "XRP-USD,DOGE-USD")
    assert said.code == 0, said.err
    return Scanned(home, said)


@pytest.fixture
def at_home(scanned: Scanned, live_in: Home) -> Scanned:
    live_in(scanned.home)
    return scanned


# --- help ---------------------------------------------------------------------------------


def test_without_a_command_it_shows_its_help_and_fails() -> None:
    said = v7()
    assert said.code == 2 and "Usage" in said.out + said.err


def test_the_help_names_every_command_and_that_no_order_is_placed() -> None:
    said = v7("--help")
    assert said.code == 0 and "places no orders" in said.out
    for command in COMMANDS:
        assert command.split()[0] in said.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(command: str) -> None:
    said = v7(*command.split(), "--help")
    assert said.code == 0
    found = COMMANDS[command]
    assert found.help and found.help.strip().endswith((".", "1."))
    for parameter in found.params:
        assert parameter.help, f"{command} {parameter.name}"
        if parameter.opts[0].startswith("--"):
            assert parameter.opts[0] in said.out


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"version", "warmup"}))
def test_every_command_that_takes_something_shows_an_example(command: str) -> None:
    assert f"v7 {command}" in v7(*command.split(), "--help").out.split("Example", 1)[1]


# --- bad arguments ------------------------------------------------------------------------

TOMORROW = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--nope",), "No such option: --nope"),
        (("nope",), "No such command 'nope'"),
        (("scan", "--as-off", "x"), "--as-off"),
        (("scan", "--as-of"), "'--as-of' requires an argument"),
        (("scan", "--as-of", "noon"), "'noon' is no instant; write it as 2023-12-11T02:12:00Z"),
        (("scan", "--as-of", "2023-12-11T02:12:00"), "no time zone; write it in UTC, as 2023-12-11T02:12:00Z"),
        (("scan", "--as-of", f"{TOMORROW}T00:00:00Z"), "lies in the future"),
        (("scan", "--as-of", "2014-01-01T00:00:00Z"), "before the first partition 2023-01-01; set V7_FIRST_DAY"),
        (("scan", "--symbols", "BTC"), "--symbols is not usable: 'BTC' is no Coinbase product"),
        (("scan", "--symbols", ","), "--symbols is not usable: name at least one product"),
        (("run", "--iterations", "0"), "--iterations 0 makes no scan"),
        (("run", "--iterations", "-2"), "--iterations -2 makes no scan"),
        (("run", "--iterations", "many"), "'--iterations'"),
        (("run", "--sleep-seconds", "-1"), "--sleep-seconds -1 is negative"),
        (("run", "--max-signals", "-1"), "--max-signals is not usable"),
        (("run", "--daily-budget", "-1"), "--daily-budget is not usable"),
        (("run", "--daily-budget", "5", "--monthly-budget", "1"), "V7_MONTHLY_BUDGET_USD is smaller than"),
        (("backfill", "--to", DAY), "Missing option '--from'"),
        (("backfill", "--from", "5 March", "--to", DAY), "--from '5 March' is no day"),
        (("backfill", "--from", DAY, "--to", "2024-03-04"), "--to 2024-03-04 lies before --from 2024-03-05"),
        (("backfill", "--from", DAY, "--to", TOMORROW), "lies in the future"),
        (("backfill", "--from", "2022-12-31", "--to", DAY), "before the first partition 2023-01-01"),
        (("backtest", "--from", DAY, "--to", "2024-03-04"), "--to 2024-03-04 lies before --from 2024-03-05"),
        (("backtest", "--from", DAY, "--to", TOMORROW), "lies in the future"),
        (("backtest", "--from", DAY, "--to", DAY, "--hours", "0"), "'--hours'"),
        (("signals", "--limit", "0"), "'--limit'"),
        (("signals", "--symbol", "bitcoin"), "--symbol is not usable: 'BITCOIN' is no Coinbase product"),
        (("signals", "--symbol", "BTC-USD,ETH-USD"), "names 2 products; give one, such as BTC-USD"),
        (("theories", "--at", "noon"), "'noon' is no instant"),
        (("theories", "--symbol", "bitcoin"), "--symbol is not usable: 'BITCOIN' is no Coinbase product"),
        (("why",), "Missing argument"),
        (("sandbox", "--replay", "none.parquet"), "there is no such file"),
        (("sandbox", "--port", "0"), "'--port'"),
        (("dashboard", "--port", "70000"), "'--port'"),
    ],
)
def test_a_bad_argument_gets_one_sentence_and_exit_code_2(arguments: tuple[str, ...], told: str) -> None:
    assert told in refused(*arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("V7_MODE", "paper"),
        ("V7_DAILY_BUDGET_USD", "three"),
        ("V7_STORE", "mongodb:here"),
        ("V7_FTMO_RULES", "my-own"),
    ],
)
def test_a_bad_setting_gets_one_sentence_with_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    monkeypatch.setenv(name, value)
    assert f"{name} (from environment) is not usable" in refused("scan", "--as-of", INSTANT)
    assert not (tmp_path / "live").exists(), "a refused command leaves nothing"


def test_a_recording_that_cannot_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("not,candles\n1,2\n")
    assert "--replay" in refused("sandbox", "--port", str(free_port()), "--replay", str(tmp_path / "bad.csv"))


def test_an_unknown_signal_names_the_newest_ones(at_home: Scanned) -> None:
    told = refused("why", "v7-BTC-USD-19990101T000000Z", "--demo")
    assert "no signal 'v7-BTC-USD-19990101T000000Z'" in told and SIGNAL in told


@pytest.mark.parametrize("command", ["signals", "stats"])
def test_a_home_without_a_store_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    said = v7(command, "--demo")
    assert said.code == 1 and "does not exist yet; run v7 scan or v7 up first" in said.err
    assert len(said.err.splitlines()) == 1


# --- a scan -------------------------------------------------------------------------------


def test_a_scan_prints_its_blocks_and_says_demo(scanned: Scanned) -> None:
    out = scanned.said.out
    assert "DEMO: simulated market" in out and "no order is placed" in out
    assert "SCAN 2024-03-05 00:22Z — DEMO" in out
    assert "XRP-USD SELL: " in out and "DOGE-USD HOLD: " in out
    assert all(theory in out for theory in THEORY_NAMES)
    assert re.search(r"COST  this scan \$0\.00\d+ · today \$0\.00\d+ of \$3 · month \$0\.00\d+ of \$100", out)
    assert "FTMO  rules ftmo-2step-challenge · balance USD 100,000.00 · equity USD " in out


def test_a_missing_value_is_a_dash(scanned: Scanned) -> None:
    (hold,) = (line for line in scanned.said.out.splitlines() if "│ DOGE-USD │" in line)
    assert [cell.strip() for cell in hold.split("│")][5] == "–"
    (bayes,) = (line for line in scanned.said.out.splitlines() if "bayesian_win_rate" in line)
    assert bayes.count("(–)") == 2
    assert not re.search(r"\bnan\b|NaT|<NA>|None", scanned.said.out)


def test_lesson_14_prices_are_printed_to_the_products_increment(at_home: Scanned) -> None:
    (sell,) = (line for line in at_home.said.out.splitlines() if "│ XRP-USD  │" in line)
    cells = [cell.strip() for cell in sell.split("│")]
    assert re.fullmatch(r"1\.\d{4}", cells[4]), cells
    assert re.fullmatch(r"1\.\d{4} / 1\.\d{4} / 1\.\d{4}", cells[5]), cells
    assert re.search(r"│ DOGE-USD │ HOLD +│ \d\.\d\d +│ 0\.\d{5} +│", at_home.said.out)
    stored = at_home.rows()["llm_signals"].set_index("symbol").loc["XRP-USD"]
    assert cells[5] == " / ".join(f"{stored[f'{level}_price']:.4f}" for level in ("entry", "stop", "target"))


def test_lesson_32_a_second_scan_of_the_instant_changes_nothing_and_both_are_dagster_runs(at_home: Scanned) -> None:
    from v7_pipeline.orchestration.launch import open_instance
    from v7_pipeline.settings import load_settings

    before = at_home.rows()
    assert {name for name, frame in before.items() if len(frame)} >= {
        "candles", "theory_features", "llm_signals", "llm_calls", "gated_signals", "outcomes", "scans",
    }  # fmt: skip
    again = v7("scan", "--demo", "--as-of", INSTANT, "--symbols", "XRP-USD,DOGE-USD")
    assert again.code == 0
    for name, frame in at_home.rows().items():
        pd.testing.assert_frame_equal(frame, before[name], obj=name)
    runs = open_instance(load_settings(mode="demo")).get_runs()
    assert [run.status.value for run in runs] == ["SUCCESS", "SUCCESS"]
    assert {run.tags["v7/as_of"] for run in runs} == {INSTANT}
    assert {run.tags["dagster/partition"] for run in runs} == {DAY}


def test_lesson_30_the_key_is_in_no_file_that_a_scan_leaves(scanned: Scanned) -> None:
    files = [path for path in scanned.home.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        assert MARKER.encode() not in path.read_bytes(), path


# --- looking ------------------------------------------------------------------------------


def test_signals_lists_what_is_not_hold(at_home: Scanned) -> None:
    out = v7("signals", "--demo").out
    assert "1 signal, newest first — DEMO" in out and SIGNAL in out and HOLD not in out
    assert "no signals yet" in v7("signals", "--demo", "--symbol", "btc-usd").out


def test_why_tells_a_signals_story_from_candles_to_outcome(at_home: Scanned) -> None:
    out = v7("why", SIGNAL, "--demo").out
    places = [out.index(f"{n} {part}") for n, part in enumerate(
        ("CANDLES", "READINGS", "PROMPT", "REPLY", "GATES", "OUTCOME"), 1)]  # fmt: skip
    assert places == sorted(places)
    assert "DEMO" in out and "SELL XRP-USD at 2024-03-05 00:22Z" in out
    assert re.search(r"03-05 00:21Z +│ 1\.\d{4} +│", out), "the newest candle that it could know is the closed one"
    assert "│ 03-05 00:22Z" not in out


def test_why_tells_a_holds_story_too(at_home: Scanned) -> None:
    out = v7("why", HOLD, "--demo").out
    assert "HOLD DOGE-USD at 2024-03-05 00:22Z" in out
    assert "not accepted: HOLD" in out and "6 OUTCOME  none: nothing was opened" in out


def test_theories_print_every_reading_with_its_sentence(at_home: Scanned) -> None:
    out = v7("theories", "--demo", "--symbol", "XRP-USD", "--at", "2024-03-05T00:23:00Z").out
    assert "XRP-USD  as of 2024-03-05 00:22Z — DEMO" in out and "DOGE-USD" not in out
    assert [name for name in THEORY_NAMES if name not in out] == []
    told = re.sub(r"[\s│]+", " ", out)
    assert "Hurst " in told and "of random walks of this length" in told and "no signal has closed yet" in told


def test_theories_without_a_reading_say_which_there_are_and_how_to_fill_them(at_home: Scanned) -> None:
    told = refused("theories", "--demo", "--symbol", "XRP-USD", "--at", "2024-03-09T00:00:00Z")
    assert "no reading of XRP-USD in the four hours before 2024-03-09 00:00Z" in told
    assert "to 2024-03-05 00:22Z; fill them with v7 backfill --from 2024-03-09 --to 2024-03-09" in told


def test_lesson_21_stats_say_whose_outcomes_they_are_and_give_n(at_home: Scanned) -> None:
    out = v7("stats", "--demo").out
    assert re.search(r"^1 scan, .* — DEMO", out)
    assert re.search(r"XRP-USD +│ +1 │ +0 │ +1 │ +0 │", out)
    assert re.search(r"OUTCOMES|none yet", out)


def test_stats_and_budget_tell_what_a_call_a_signal_and_the_month_cost(at_home: Scanned) -> None:
    calls = at_home.rows()["llm_calls"]
    spent = calls["cost_usd"].sum()
    line = next(line for line in v7("stats", "--demo").out.splitlines() if line.startswith("CALLS"))
    assert f"today ${spent:.4f} of $3" in line
    assert re.search(r"deepseek-flash@fp_v7sandbox_demo +│", v7("stats", "--demo").out)
    out = v7("budget", "--demo").out
    assert "DEMO" in out and "fewer than three whole days" in out
    assert f"A call ${spent / len(calls):.6f} (n = {len(calls)})" in out
    told = json.loads(v7("budget", "--demo", "--json").out)
    assert told["demo"] is True and told["day_usd"] == pytest.approx(spent) and told["forecast"] is None
    assert told["analysts"][0]["model"] == "deepseek-flash"


def test_a_reconcile_needs_someone_to_ask_and_keeps_the_first_balance(
    at_home: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = v7("budget", "reconcile", "--demo")
    assert alone.code == 1 and "did not answer" in alone.err and len(alone.err.splitlines()) == 1
    with SandboxServer() as server:
        monkeypatch.setenv("V7_SANDBOX_PORT", server.url.rpartition(":")[2])
        dry = v7("budget", "--demo", "reconcile", "--dry-run")
        assert dry.out.startswith("DEMO balance $110.00. Kept") and dry.out.endswith("Nothing written.\n")
        assert at_home.rows()["balances"].empty
        assert v7("budget", "reconcile", "--demo").code == 0
        again = v7("budget", "reconcile", "--demo").out
    assert "no call is of unknown end" in again
    assert at_home.rows()["balances"]["total_usd"].tolist() == [110.0, 110.0]
    monkeypatch.delenv("DEEPSEEK_API_KEY")
    assert "there is no key" in refused("budget", "reconcile", "--live")


# --- settings and doctor ------------------------------------------------------------------


def test_lesson_30_settings_and_doctor_mask_every_secret(at_home: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_STORE", "ducklake:postgres:dbname=v7 host=127.0.0.1 port=1 password=hunter2")
    monkeypatch.setenv("V7_ALERT_URLS", "tgram://hunter2/1")
    monkeypatch.setenv("V7_DEEPSEEK_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("V7_EXCHANGE_URL", f"http://me:hunter2@127.0.0.1:{free_port()}")
    monkeypatch.setenv("V7_MARKET_RETRIES", "0")
    monkeypatch.setenv("V7_STORE_WAIT_S", "1")
    listed = v7("settings")
    assert listed.code == 0 and "set (masked)" in listed.out and "environment" in listed.out
    commands = (
        ("settings", "--demo"),
        ("doctor", "--live"),
        ("doctor", "--demo"),
        ("stats",),
        ("scan", "--demo", "--as-of", INSTANT),
    )
    for said in (listed, *(v7(*command) for command in commands)):
        text = said.out + said.err
        assert MARKER not in text and "hunter2" not in text
        assert "Traceback" not in text and "demo-key" not in text


def test_settings_say_where_each_comes_from(at_home: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_MAX_SIGNALS_PER_HOUR", "4")
    Path(".env").write_text("V7_LEVERAGE=2\nV7_CONTRACT_SIZE=SOL-USD=100,ETH-USD=10\n")
    out = v7("settings", "--demo").out
    for name, value, origin in (
        ("V7_MAX_SIGNALS_PER_HOUR", "4", "environment"),
        ("V7_LEVERAGE", "*=2", ".env"),
        ("V7_CONTRACT_SIZE", "SOL-USD=100,ETH-USD=10", ".env"),
        ("V7_COMMISSION", "not set", "default"),
        ("V7_MODE", "demo", "argument"),
        ("V7_SYMBOLS", "BTC-USD,ETH-USD,SOL-USD", "default"),
    ):
        assert re.search(rf"{name} +│ {re.escape(value)} +│ {re.escape(origin)} ", out), name


def test_doctor_without_a_running_sandbox_says_how_to_start_it(at_home: Scanned) -> None:
    said = v7("doctor", "--demo")
    assert said.code == 1 and not said.err
    (sandbox,) = (line for line in said.out.splitlines() if line.startswith("FAIL"))
    assert sandbox.split()[1] == "sandbox" and "start `v7 up --demo`" in sandbox
    assert re.search(r"ok +V7_MODE +demo \(from argument\)", said.out)
    assert re.search(r"ok +store +the store \S+v7\.duckdb, schema \d+ \(code has \d+\)", said.out)
    assert re.search(r"ok +disk ", said.out) and re.search(r"ok +duckdb ", said.out)


def test_doctor_with_a_running_sandbox_is_content(at_home: Scanned, sandbox: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("V7_SANDBOX_PORT", sandbox.url.rpartition(":")[2])
    said = v7("doctor", "--demo")
    assert "FAIL" not in said.out and said.code == 0
    assert re.search(r"ok +clock +\d\.\d s from the market's", said.out)


def test_doctor_without_a_network_fails_line_by_line_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name, value in {
        "V7_HOME": str(tmp_path / "home"), "V7_EXCHANGE_URL": nowhere, "V7_DEEPSEEK_URL": nowhere,
        "DEEPSEEK_API_KEY": MARKER, "V7_MARKET_RETRIES": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    said = v7("doctor", "--live")
    assert said.code == 1 and not said.err
    failed = [line for line in said.out.splitlines() if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["coinbase", "deepseek"]
    assert all(" → " in line for line in failed)
    assert not (tmp_path / "home").exists(), "a doctor changes nothing"


# --- loops, backfills and backtests -------------------------------------------------------


def test_run_scans_in_a_loop_with_its_limits_and_ends_with_statistics(live_in: Home, tmp_path: Path) -> None:
    live_in(tmp_path)
    said = v7(
        "run", "--iterations", "2", "--sleep-seconds", "0", "--demo", "--symbols", "BTC-USD", "--max-signals", "6",
        "--daily-budget", "1", "--monthly-budget", "5", "--conservative",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "at most 6 signals an hour · $1 a day and $5 a month for calls" in said.out and "conservative" in said.out
    assert said.out.count("SCAN ") == 2 and said.out.count("THEORIES") == 2
    assert re.search(r"[12] scans?, .* — DEMO", said.out) and "OUTCOMES" in said.out


@pytest.fixture(scope="module")
def backfilled(live_in: Home, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    home = tmp_path_factory.mktemp("backfilled")
    live_in(home)
    return home, v7("backfill", "--demo", "--from", DAY, "--to", DAY, "--symbols", "XRP-USD")


def test_backfill_fills_whole_days_and_counts_them(backfilled: tuple[Path, Said]) -> None:
    home, said = backfilled
    assert said.code == 0, said.err
    found = re.search(r"(\d+) candles and 1440 readings stored for 2024-03-05 … 2024-03-05", said.out)
    assert found and 1300 < int(found[1]) <= 1440
    assert re.search(r"candles \d+/\d+", said.out) and "readings" in said.out
    store = open_store(f"duckdb:{home / 'demo' / 'v7.duckdb'}")
    assert set(store.query("SELECT DISTINCT source FROM candles")["source"]) == {"demo"}
    assert store.query("SELECT * FROM llm_signals").empty, "decisions are never made for the past"


def test_backtest_simulates_reports_and_says_the_same_again(backfilled: tuple[Path, Said], live_in: Home) -> None:
    home = backfilled[0]
    live_in(home)
    span = ("backtest", "--demo", "--from", DAY, "--to", DAY, "--hours", "1", "--symbols", "XRP-USD")
    first = v7(*span)
    assert first.code == 0, first.err
    assert "— DEMO" in first.out and "No verdict" in first.out and "30 scans" in first.out
    folder = home / "demo" / "backtest"
    (page,), (data,) = folder.glob("backtest-20240305-*.html"), folder.glob("backtest-20240305-*.json")
    assert page.name in first.out.replace("\n", "") and "DEMO" in page.read_text()
    told = json.loads(data.read_text())
    again = v7(*span, "--fresh", "--json")
    assert again.code == 0 and json.loads(again.out) == told, "the same configuration has the same bytes"


@pytest.mark.slow
def test_backtest_asks_a_paid_analyst_with_the_theories_and_without_after_a_yes(
    backfilled: tuple[Path, Said], live_in: Home
) -> None:
    home = backfilled[0]
    live_in(home)
    span = ("backtest", "--demo", "--from", DAY, "--to", DAY, "--hours", "1", "--symbols", "XRP-USD")
    span += ("--every", "30", "--analyst", "deepseek", "--sample", "1")
    calls = "SELECT analyst, cost_usd FROM llm_calls WHERE analyst LIKE 'deepseek-%' ORDER BY analyst"
    store = open_store(f"duckdb:{home / 'demo' / 'v7.duckdb'}")
    said = v7(*span, "--yes", "--json")
    assert said.code == 0, said.err
    assert "once more without the theories, as a baseline" in said.err.replace("\n", " ")
    told = json.loads(said.out)
    assert told["baselines"][0]["name"] == "deepseek without theories" and not told["absent_baselines"]
    assert told["command"].endswith("--every 30 --hours 1 --demo --analyst deepseek --sample 1")
    assert "1 question, 1 answered" in told["baselines"][0]["meaning"]
    rows = store.rows(calls)
    assert [row["analyst"] for row in rows] == ["deepseek-backtest", "deepseek-without-theories"]
    once = v7(*span, "--yes", "--json", "--once")
    assert once.code == 0 and store.rows(calls) == rows, "what was answered is not paid for again"
    assert json.loads(once.out)["command"].endswith("--sample 1 --once")
    assert "once more" not in once.err and "(--once)" in json.loads(once.out)["absent_baselines"][0]["why"]


def test_backtest_sweeps_and_counts_every_trial(backfilled: tuple[Path, Said], live_in: Home) -> None:
    home = backfilled[0]
    live_in(home)
    span = ("backtest", "--demo", "--from", DAY, "--to", DAY, "--hours", "2", "--symbols", "XRP-USD", "--no-compare")
    said = v7(*span, "--sweep", "horizon_minutes=30,60")
    assert said.code == 0, said.err
    assert "Sweep, 2 trials" in said.out and "horizon_minutes=60" in said.out
    trials = open_store(f"duckdb:{home / 'demo' / 'backtest' / 'trials.duckdb'}")
    names = set(trials.query("SELECT name FROM backtest_trials")["name"])
    assert {"v7 horizon_minutes=30", "v7 horizon_minutes=60"} <= names


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--strategy", "v5"), "strategy v5 cannot be backtested; known: v7, v6, ensemble"),
        (("--fees", "free"), "no fee preset 'free'"),
        (("--sweep", "no_such=1"), "--sweep: "),
        (("--analyst", "oracle"), "analyst 'oracle' cannot decide"),
    ],
)
def test_backtest_refuses_what_it_cannot_do_in_one_sentence(
    backfilled: tuple[Path, Said], live_in: Home, option: tuple[str, str], sentence: str
) -> None:
    live_in(backfilled[0])
    said = v7("backtest", "--demo", "--from", DAY, "--to", DAY, "--symbols", "XRP-USD", *option)
    assert said.code == 2 and len(said.err.splitlines()) == 1 and sentence in said.err


def test_backtest_without_candles_says_how_to_get_them(at_home: Scanned) -> None:
    said = v7("backtest", "--demo", "--from", "2023-06-01", "--to", "2023-06-01", "--symbols", "LTC-USD")
    assert said.code == 1 and len(said.err.splitlines()) == 1
    assert "holds no candles of LTC-USD" in said.err and "v7 backfill --from 2023-06-01" in said.err
