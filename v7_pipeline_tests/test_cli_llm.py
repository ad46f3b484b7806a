"""The `v7 llm` commands as a person meets them: what they print and write, and one sentence for a wrong argument."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from v7_pipeline import cli
from v7_pipeline.store import open_store
from v7_pipeline_tests.ports import free_port
from v7_pipeline_tests.test_cli import HOLD, INSTANT, MARKER, SIGNAL, refused, v7
from v7_pipeline_tests.test_docs import commands as documented
from v7_pipeline_tests.test_docs import problem

CALL = f"deepseek-{SIGNAL}"
GROUP: Any = typer.main.get_command(cli.app).commands["llm"]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with one demo scan, and a real-looking key that must never be seen."""
    home = tmp_path_factory.mktemp("llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("V7_HOME", str(home))
        patch.setenv("V7_SANDBOX_PORT", str(free_port()))
        patch.setenv("DEEPSEEK_API_KEY", MARKER)
        said = v7("scan", "--demo", "--as-of", INSTANT, "--symbols", "XRP-USD,DOGE-USD")
        assert said.code == 0, said.err
        yield home


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_HOME", str(home))
    monkeypatch.setenv("V7_SANDBOX_PORT", str(free_port()))
    monkeypatch.setenv("DEEPSEEK_API_KEY", MARKER)
    monkeypatch.setenv("V7_MODE", "demo")
    monkeypatch.setenv("V7_SYMBOLS", "XRP-USD,DOGE-USD")


def ledger(home: Path) -> list[dict[str, Any]]:
    return open_store(f"duckdb:{home / 'demo' / 'v7.duckdb'}").rows(
        "SELECT * FROM llm_calls ORDER BY as_of, call_id, attempt"
    )


@pytest.mark.parametrize("command", sorted(GROUP.commands))
def test_every_command_has_help_and_examples_that_parse(command: str) -> None:
    said = v7("llm", command, "--help")
    assert said.code == 0 and f"v7 llm {command}" in said.out.split("Example", 1)[1]
    found = GROUP.commands[command]
    assert found.help and all(parameter.help for parameter in found.params)
    examples = documented(found.epilog)
    assert examples and not any(problem(words) for words in examples)
    assert f"v7 llm {command}" in (Path(cli.__file__).parents[1] / "docs" / "use.md").read_text(encoding="utf-8")


# --- show -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [CALL, SIGNAL])
def test_show_tells_a_call_in_full_by_its_own_id_or_the_signals(key: str, home: Path) -> None:
    (row,) = [row for row in ledger(home) if row["call_id"] == CALL]
    said = v7("llm", "show", key)
    assert said.code == 0, said.err
    out = said.out
    assert f"CALL {CALL} — DEMO" in out and f"signal {SIGNAL}" in out and "ATTEMPT 1: settled" in out
    assert "--- system\nYou decide BUY, SELL or HOLD" in out and '"symbol": "XRP-USD"' in out
    assert '"signal": "SELL"' in out and "--- reply (stop)" in out
    assert f"tokens: prompt {row['prompt_tokens']} (of which cached {row['cache_hit_tokens']})" in out
    assert f"cost: ${row['cost_usd']:.6f}, reserved ${row['reserved_usd']:.6f}, price {row['price_version']}" in out
    assert re.search(r"latency: \d+\.\d\d s; reserved ", out) and "fingerprint fp_v7sandbox_demo" in out
    assert row["prompt_hash"] in out and MARKER not in out


def test_lesson_14_show_prints_prices_as_they_were_sent(home: Path) -> None:
    (row,) = [row for row in ledger(home) if row["call_id"] == CALL]
    (sent,) = re.findall(r'"price": ([\d.]+)', json.loads(row["prompt"])[1]["content"])
    assert f'"price": {sent}' in v7("llm", "show", CALL).out


def test_show_refuses_what_it_does_not_know_naming_the_newest() -> None:
    told = refused("llm", "show", "deepseek-nobody")
    assert "no call and no signal 'deepseek-nobody'" in told and CALL in told


def test_show_tells_every_attempt_and_each_message_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: Any
) -> None:
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    monkeypatch.setenv("V7_SANDBOX_PORT", sandbox.url.rpartition(":")[2])
    sandbox.fault("chat", "status", status=503, count=1)
    sandbox.fault("chat", "content", content="I would SELL", count=1)
    try:
        assert v7("scan", "--as-of", INSTANT, "--symbols", "XRP-USD").code == 0
    finally:
        sandbox.faults.clear()
    out = v7("llm", "show", CALL).out
    assert "3 attempts" in out and "ATTEMPT 1: failed — SERVER_ERROR: HTTP 503" in out
    assert "ATTEMPT 2: settled — NOT_JSON" in out and "ATTEMPT 3: settled\n" in out
    assert out.count("--- system") == 1 and "--- assistant\nI would SELL" in out and "That reply cannot be used" in out


# --- replay ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", [SIGNAL, HOLD])
def test_replay_reads_the_reply_again_and_finds_no_difference(signal: str, home: Path) -> None:
    before = ledger(home)
    said = v7("llm", "replay", signal)
    assert said.code == 0, said.err
    assert "differences: none" in said.out and "DIFFERS" not in said.out
    assert "is today's" in said.out and "today's prompt for it hashes the same" in said.out
    assert ledger(home) == before, "nothing is asked and nothing is written"


def test_replay_shows_what_today_would_read_differently(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from v7_pipeline.analyst.reply import SCHEMA, Abstention

    monkeypatch.setattr("v7_pipeline.analyst.replay.parse_reply", lambda *_: Abstention(SCHEMA, "stricter today"))
    out = v7("llm", "replay", SIGNAL).out
    (differences,) = re.findall(r"differences: (.*)", out)
    assert {"status", "status_reason", "side", "entry_price", "reasoning"} <= set(differences.split(", "))
    assert re.search(r"status +│ answered +│ abstained +│ DIFFERS", out)


def test_replay_says_where_todays_prompt_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_MIN_REWARD_RISK", "2")
    out = v7("llm", "replay", SIGNAL).out
    assert "hashes differently: plan.least_reward_risk: 1.5 then, 2.0 today" in out
    monkeypatch.setenv("V7_AGGRESSIVE", "true")
    assert "the system part has changed" in v7("llm", "replay", SIGNAL).out


def test_replay_refuses_a_signal_without_a_reply(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: Any
) -> None:
    assert "no signal 'v7-nobody'; `v7 signals` lists" in refused("llm", "replay", "v7-nobody")
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    monkeypatch.setenv("V7_ANALYST", "rules")
    monkeypatch.setenv("V7_SANDBOX_PORT", sandbox.url.rpartition(":")[2])
    assert v7("scan", "--as-of", INSTANT, "--symbols", "XRP-USD").code == 0
    assert "decided without a call by rules: there is no reply" in refused("llm", "replay", SIGNAL)
    assert "decided by rules without a call in this ledger" in refused("llm", "show", SIGNAL)


# --- export ---------------------------------------------------------------------------------


def test_export_writes_an_attempt_a_line_to_stdout_and_tells_on_stderr(home: Path) -> None:
    said = v7("llm", "export")
    lines = [json.loads(line) for line in said.out.splitlines()]
    rows = ledger(home)
    assert [line["call_id"] for line in lines] == [row["call_id"] for row in rows] and len(rows) == 2
    assert lines[0]["prompt"] == json.loads(rows[0]["prompt"]) and lines[0]["parameters"]["stream"] is False
    assert lines[0]["as_of"] == "2024-03-05T00:22:00.000000Z" and lines[0]["cost_usd"] == rows[0]["cost_usd"]
    assert "2 attempts written to stdout" in said.err and MARKER not in said.out


@pytest.mark.parametrize(
    ("narrowed", "count"),
    [
        (("--from", "2024-03-05", "--to", "2024-03-05"), 2),
        (("--from", "2024-03-06"), 0),
        (("--to", "2024-03-04"), 0),
        (("--analyst", "deepseek"), 2),
        (("--analyst", "other"), 0),
    ],
)
def test_export_is_narrowed_by_day_and_analyst(tmp_path: Path, narrowed: tuple[str, ...], count: int) -> None:
    file = tmp_path / "calls.jsonl"
    said = v7("llm", "export", "--output", str(file), *narrowed)
    assert said.code == 0 and not said.out
    assert len(file.read_text().splitlines()) == count
    assert [path.name for path in tmp_path.iterdir()] == ["calls.jsonl"], "nothing half-written is left"


def test_export_reads_all_pages(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from v7_pipeline import cli_llm

    monkeypatch.setattr(cli_llm, "_EXPORT", re.sub(r"LIMIT \d+", "LIMIT 1", cli_llm._EXPORT))
    monkeypatch.setattr(cli_llm, "_PAGE", 1)
    assert len(v7("llm", "export").out.splitlines()) == len(ledger(home)) == 2


def test_an_export_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_text("before\n")

    def fails(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("v7_pipeline.cli_llm._document", fails)
    assert v7("llm", "export", "--output", str(file)).code == 130
    assert file.read_text() == "before\n" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("export", "--from", "5 March"), "--from '5 March' is no day"),
        (("export", "--from", "2024-03-05", "--to", "2024-03-04"), "lies before --from"),
        (("export", "--output", "/nowhere/calls.jsonl"), "give a file in a folder that exists"),
        (("show",), "Missing argument"),
        (("compare",), "Missing option '--with'"),
        (("compare", "--with", "gpt"), "--with gpt: no such analyst; choose rules, deepseek"),
        (("compare", "--with", "replay"), "--with replay: no such analyst"),
        (("compare", "--with", "rules", "--from", "2030-01-01"), "the ledger holds no decided question of that time"),
        (("compare", "--with", "rules", "--limit", "0"), "'--limit'"),
        (
            ("leave-out", "--theory", "astrology"),
            "--theory astrology: no such theory; choose from shannon_entropy, hurst",
        ),
        (("leave-out", "--from", "2030-01-01"), "the ledger holds no decided question of that time"),
        (("leave-out", "--limit", "0"), "'--limit'"),
        (("nope",), "No such command 'nope'"),
    ],
)
def test_a_bad_argument_gets_one_sentence_and_exit_code_2(arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("llm", *arguments)


# --- compare --------------------------------------------------------------------------------


def test_compare_with_the_rules_costs_nothing_and_asks_nothing(home: Path) -> None:
    said = v7("llm", "compare", "--with", "rules")
    assert said.code == 0, said.err
    (own,) = (line for line in said.out.splitlines() if "deepseek (decided)" in line)
    (rules,) = (line for line in said.out.splitlines() if "│ rules " in line)
    assert "2 questions, 2024-03-05 00:22Z … 2024-03-05 00:22Z — DEMO" in said.out
    # The sandbox answers by the rules, so that they agree in all of them.
    assert (
        "100.0%" not in own
        and "100.0% (34.2% … 100.0%, n = 2)" in rules
        and "$0.0000" in rules
        and "$0.0000" not in own
    )
    assert not said.err


def test_compare_shows_the_worst_case_first_and_asks_only_when_confirmed(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: Any
) -> None:
    file = tmp_path / "analysts.toml"
    file.write_text(f'[[analyst]]\nname = "twin"\nbase_url = "{sandbox.url}"\nmodel = "deepseek-flash"\n')
    monkeypatch.setenv("V7_ANALYSTS_FILE", str(file))
    before, chats = ledger(home), sandbox.counts.get("chat", 0)
    monkeypatch.setattr("typer.confirm", _no)
    said = v7("llm", "compare", "--with", "twin")
    assert said.code == 130 and not said.out
    assert re.search(r"twin: 2 questions, 0 answered before, 2 to ask: \$0\.00\d+ at most", said.err)
    assert ledger(home) == before and sandbox.counts.get("chat", 0) == chats
    asked = v7("llm", "compare", "--with", "twin", "--with", "rules", "--yes")
    assert asked.code == 0, asked.err
    assert "│ twin " in asked.out and sandbox.counts["chat"] == chats + 2
    mine = [row for row in ledger(home) if row["analyst"] == "twin"]
    assert [row["status"] for row in mine] == ["settled"] * 2 and mine[0]["run_id"].startswith("compare-")
    again = v7("llm", "compare", "--with", "twin")
    assert "2 answered before, 0 to ask: $0.0000" in again.err and sandbox.counts["chat"] == chats + 2
    shown = v7("llm", "show", SIGNAL).out
    assert f"CALL {CALL} " in shown and f"elsewhere: twin-{SIGNAL}" in shown
    assert "twin" not in v7("why", SIGNAL).out, "a signal's story has the call that decided it"


# --- leave-out ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(home: Path, tmp_path_factory: pytest.TempPathFactory, sandbox: Any) -> Path:
    """A home with a scan of two symbols against the sandbox."""
    made = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("V7_HOME", str(made))
        patch.setenv("V7_MODE", "demo")
        patch.setenv("V7_SANDBOX_PORT", sandbox.url.rpartition(":")[2])
        assert v7("scan", "--as-of", INSTANT, "--symbols", "XRP-USD,DOGE-USD").code == 0
    return made


@pytest.fixture
def scanned(asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: Any) -> Any:
    """A home of its own with what was asked, beside the sandbox, whose count of chats is told."""
    shutil.copytree(asked, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    monkeypatch.setenv("V7_SANDBOX_PORT", sandbox.url.rpartition(":")[2])
    return lambda: sandbox.counts["chat"]


def test_leave_out_shows_the_price_first_asks_when_confirmed_and_pays_once(
    scanned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, chats = ledger(tmp_path), scanned()
    with monkeypatch.context() as patch:
        patch.setattr("typer.confirm", _no)
        said = v7("llm", "leave-out", "--theory", "price_momentum")
    assert said.code == 130 and not said.out
    told = re.findall(r"(\S+): 2 questions, 0 answered before, 2 to ask: \$(0\.\d+) at most", said.err)
    assert [name for name, _ in told] == ["deepseek-unchanged", "deepseek-without-price_momentum"]
    err = " ".join(said.err.split())
    (total,) = re.findall(r"in all 4 to ask: \$(0\.\d+) at most, an attempt each", err)
    assert float(total) == pytest.approx(sum(float(usd) for _, usd in told), abs=2e-4) and re.search(
        r"hold \$2\.99\d\d now", err
    )
    assert "below 30 questions (V7_MIN_EFFECTIVE_N) no theory gets a verdict" in err
    assert ledger(tmp_path) == before and scanned() == chats, "nothing is asked and nothing is written"

    asked = v7("llm", "leave-out", "--theory", "price_momentum", "--yes")
    assert asked.code == 0, asked.err
    assert (
        scanned() == chats + 4 and "2 questions to deepseek, 2024-03-05 00:22Z … 2024-03-05 00:22Z — DEMO" in asked.out
    )
    mine = [row for row in ledger(tmp_path) if row["analyst"] != "deepseek"]
    assert len(mine) == 4 and all(row["run_id"].startswith("leave-out-") for row in mine)
    assert float(total) > sum(row["cost_usd"] for row in mine) > 0
    words = " ".join(asked.out.split())
    assert "price_momentum" in words and "too few" in words and "What it cannot tell: It holds for this prompt" in words
    assert f"CALL {CALL} " in v7("llm", "show", SIGNAL).out and "without" not in v7("why", SIGNAL).out

    monkeypatch.setenv("V7_MIN_EFFECTIVE_N", "2")
    again = v7("llm", "leave-out", "--theory", "price_momentum", "--json")
    found = json.loads(again.out)
    assert scanned() == chats + 4 and "2 answered before, 0 to ask: $0.0000" in again.err
    assert (found["demo"], found["analyst"], found["questions"]) == (True, "deepseek", 2) and found["cannot_tell"]
    (row,) = found["theories"]
    # The stand-in answers by the rules: the same question twice is the same answer twice.
    assert (row["theory"], row["n"], row["control_changed"], found["control"]["changed"]) == ("price_momentum", 2, 0, 0)
    assert row["verdict"] == "indistinguishable" and row["holm_p"] == 1.0 and len(row["interval"]) == 2
    assert row["cost_usd"] == pytest.approx(sum(r["cost_usd"] for r in mine if "without" in r["analyst"]))


def test_leave_out_asks_of_all_ten_and_stops_where_the_budget_does(
    scanned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = sum(row["cost_usd"] for row in ledger(tmp_path))
    monkeypatch.setenv("V7_DAILY_BUDGET_USD", f"{spent + 0.007:.6f}")
    chats = scanned()
    said = v7("llm", "leave-out", "--yes")
    assert said.code == 0 and said.err.count("2 questions, 0 answered before") == 11
    assert "hold $0.0070 now" in " ".join(said.err.split())
    out = " ".join(said.out.split())
    (unasked,) = re.findall(r"(\d+) were not asked for want of budget; the same command goes on with them", out)
    assert 0 < int(unasked) == 22 - (scanned() - chats) < 22
    monkeypatch.delenv("V7_DAILY_BUDGET_USD")
    rest = v7("llm", "leave-out", "--yes")
    assert f"in all {unasked} to ask" in " ".join(rest.err.split()) and scanned() == chats + 22
    assert "want of budget" not in rest.out


def test_leave_out_refuses_without_a_key_or_with_another_model_in_plain_words(
    scanned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V7_DEEPSEEK_MODEL", "deepseek-v4-pro")
    assert "none of these 2 questions was decided by deepseek's model and parameters of today" in refused(
        "llm", "leave-out"
    )
    monkeypatch.setenv("V7_STORE", f"duckdb:{tmp_path / 'demo' / 'v7.duckdb'}")
    monkeypatch.setenv("V7_MODE", "live")
    monkeypatch.delenv("DEEPSEEK_API_KEY")
    assert refused("llm", "leave-out") == (
        "deepseek answered these questions, and to ask it again needs DEEPSEEK_API_KEY; set it"
    )
    store = open_store(f"duckdb:{tmp_path / 'demo' / 'v7.duckdb'}")
    with store.transaction() as tx:
        tx.execute("UPDATE llm_calls SET analyst = 'gone'")
    assert "gone answered these questions; list it in V7_ANALYSTS_FILE" in refused("llm", "leave-out")


def _no(*_: Any, **__: Any) -> bool:
    raise typer.Abort
