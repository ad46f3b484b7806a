"""Analysts of a file: what they are sent over real HTTP, whose key, and what a wrong file is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.analyst.base import AnalystError
from v7_pipeline.analyst.breaker import RestingAnalyst
from v7_pipeline.analyst.prices import UnknownPriceError
from v7_pipeline.analyst.replay import ReplayAnalyst
from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.scan.runtime import Runtime, build_runtime
from v7_pipeline.settings import SettingsError, load_settings, secret_of
from v7_pipeline_tests.analyst.conftest import BUY, KEY, NOW, PROVENANCE, ScriptedServer, completion, error, question

Serve = Callable[..., ScriptedServer]
Listed = Callable[..., Any]
PRICES = """
[[price]]
model = "llama3"
from = 2026-01-01T00:00:00Z
hit = 0
miss = 0
output = 0

[[price]]
model = "big"
from = 2026-01-01T00:00:00Z
hit = 1
miss = 2
output = 4
"""


@pytest.fixture
def listed(tmp_path: Path, make_settings: Callable[..., Any]) -> Listed:
    """A runtime in live mode whose analysts' file has `text`."""
    (tmp_path / "prices.toml").write_text(PRICES)

    def make(text: str, **changes: Any) -> Runtime:
        file = tmp_path / "analysts.toml"
        file.write_text(text)
        settings = make_settings(analysts_file=file, prices_file=tmp_path / "prices.toml", **changes)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        runtime = build_runtime(settings, clock=lambda: NOW)
        runtime.prepare_store()
        return runtime

    return make


def entry(name: str = "local", url: str = "http://127.0.0.1:9", model: str = "llama3", more: str = "") -> str:
    return f'[[analyst]]\nname = "{name}"\nbase_url = "{url}"\nmodel = "{model}"\n{more}\n'


def test_a_local_service_is_sent_the_word_none_and_no_parameter_it_does_not_know(serve: Serve, listed: Listed) -> None:
    server = serve((200, completion(json.dumps(BUY), model="llama3", system_fingerprint=None)))
    runtime = listed(entry(url=f"{server.url}/v1", more="max_tokens = 400"), analyst="local")
    (decision,) = runtime.analyst(PROVENANCE).decide([question()], now=NOW)
    assert (decision.analyst, decision.status, decision.cost_usd) == ("local", "answered", 0.0)
    assert decision.call_id == f"local-{question().signal_id}"
    (sent,) = server.requests
    assert sent["path"] == "/v1/chat/completions" and sent["authorization"] == "Bearer none"
    assert (sent["model"], sent["max_tokens"], "thinking" in sent) == ("llama3", 400, False)
    assert sent["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("thinking = false", {"thinking": {"type": "disabled"}, "response_format": {"type": "json_object"}}),
        ("thinking = true", {"thinking": {"type": "enabled"}, "response_format": {"type": "json_object"}}),
        ("json_mode = false", {"thinking": None, "response_format": None}),
    ],
)
def test_thinking_and_json_mode_are_sent_as_the_entry_says(
    serve: Serve, listed: Listed, more: str, expected: dict[str, Any]
) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    runtime = listed(entry(url=server.url, more=more), analyst="local")
    runtime.analyst(PROVENANCE).decide([question()], now=NOW)
    assert {name: server.requests[0].get(name) for name in expected} == expected
    stored = json.loads(runtime.store.rows("SELECT parameters FROM llm_calls")[0]["parameters"])
    assert {name: stored.get(name) for name in expected} == expected


def test_lesson_30_the_key_comes_from_the_variable_and_is_in_no_dump_and_no_row(
    serve: Serve, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_ROUTER_KEY", KEY)
    server = serve((401, error(f"bad key {KEY}")))
    runtime = listed(entry("router", server.url, "big", 'api_key_env = "MY_ROUTER_KEY"'), analyst="router")
    with pytest.raises(AnalystError, match="set a valid MY_ROUTER_KEY") as caught:
        runtime.analyst(PROVENANCE).decide([question()], now=NOW)
    assert server.requests[0]["authorization"] == f"Bearer {KEY}"
    settings = runtime.settings
    told = f"{caught.value}{settings!r}{settings.model_dump()}{settings.model_dump_json()}{settings.listed_analysts}"
    assert KEY not in told and KEY not in runtime.store.query("SELECT * FROM llm_calls").to_json()
    assert KEY not in repr(secret_of("MY_ROUTER_KEY"))


def test_the_key_may_stand_in_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret_of("MY_ROUTER_KEY") is None
    (tmp_path / ".env").write_text(f"MY_ROUTER_KEY={KEY}\n")
    found = secret_of("MY_ROUTER_KEY")
    assert found is not None and found.get_secret_value() == KEY
    monkeypatch.setenv("MY_ROUTER_KEY", "  ")
    assert secret_of("MY_ROUTER_KEY") is None


def test_a_key_that_is_not_set_is_named(listed: Listed) -> None:
    runtime = listed(entry(more='api_key_env = "MY_ROUTER_KEY"'), analyst="local")
    with pytest.raises(AnalystError, match=r"^analyst local needs MY_ROUTER_KEY; set it"):
        runtime.analyst(PROVENANCE)


def test_lesson_06_a_listed_model_without_a_price_sends_nothing(serve: Serve, listed: Listed) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    runtime = listed(entry(url=server.url, model="unpriced"), analyst="local")
    with pytest.raises(UnknownPriceError, match="V7_PRICES_FILE"):
        runtime.analyst(PROVENANCE)
    assert not server.requests


def test_a_listed_service_costs_what_its_price_says(serve: Serve, listed: Listed) -> None:
    server = serve((200, completion(json.dumps(BUY), prompt=1000, out=100)))
    runtime = listed(entry(url=server.url, model="big"), analyst="local")
    (decision,) = runtime.analyst(PROVENANCE).decide([question()], now=NOW)
    assert decision.cost_usd == pytest.approx(1000 * 2e-6 + 100 * 4e-6)
    (row,) = runtime.store.rows("SELECT price_version, analyst FROM llm_calls")
    assert row["price_version"].startswith("big@2026-01-01") and row["analyst"] == "local"


def test_a_wrong_request_names_the_entry(serve: Serve, listed: Listed) -> None:
    runtime = listed(entry(url=serve((404, error("no model"))).url), analyst="local")
    with pytest.raises(AnalystError, match="check the entry local of V7_ANALYSTS_FILE"):
        runtime.analyst(PROVENANCE).decide([question()], now=NOW)


def test_the_runtime_makes_whom_the_setting_names(listed: Listed) -> None:
    text = entry() + entry("other", model="big")
    for name, kind in (
        ("local", RestingAnalyst), ("other", RestingAnalyst), ("rules", RulesAnalyst), ("replay", ReplayAnalyst),
    ):  # fmt: skip
        made = listed(text, analyst=name).analyst(PROVENANCE)
        assert isinstance(made, kind) and made.name == name
    assert listed(text).settings.analyst_name == "rules"
    assert listed(text, analyst="deepseek", deepseek_api_key=KEY).analyst(PROVENANCE).name == "deepseek"


def test_replay_of_a_listed_analyst_finds_its_requests_and_only_those(serve: Serve, listed: Listed) -> None:
    server = serve((200, completion(json.dumps(BUY))))
    text = entry(url=server.url, more="max_tokens = 400")
    listed(text, analyst="local").analyst(PROVENANCE).decide([question()], now=NOW)
    (held,) = listed(text, analyst="replay", replay_of="local").analyst(PROVENANCE).decide([question()], now=NOW)
    assert (held.status, held.call_id) == ("answered", f"local-{question().signal_id}")
    (other,) = listed(text, analyst="replay").analyst(PROVENANCE).decide([question()], now=NOW)
    assert other.status_reason == "NOT_IN_LEDGER"
    fallen = listed(text, analyst="replay", replay_fallback="rules")
    assert fallen.analyst(PROVENANCE).decide([question()], now=NOW)[0].analyst == "rules"


# --- the file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "needs [[analyst]] entries"),
        ("[analyst]\nname = 'x'", "needs [[analyst]] entries"),
        ("[[analist]]\nname = 'x'", "needs [[analyst]] entries"),
        ("[[analyst]\n", "cannot be read"),
        ('[[analyst]]\nname = "local"\nmodel = "m"', "analyst local of"),
        (entry("Big One"), "name: String should match pattern"),
        (entry(url="localhost:11434"), "base_url: String should match pattern"),
        (entry(more='max_tokens = "many"'), "max_tokens: Input should be a valid integer"),
        (entry(more="deadline_s = 0"), "deadline_s: Input should be greater than 0"),
        (entry(more="temprature = 1"), "temprature: Extra inputs are not permitted; an entry has name, base_url"),
        (entry() + entry(), "lists 'local' twice"),
        (entry("replay"), "a name of V7's own"),
        (entry("local-unchanged"), "a name of V7's own"),
        (entry("local-without-monte_carlo"), "a name of V7's own"),
        (entry(more=f'api_key = "{KEY}"'), "api_key: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence_without_what_it_holds(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "analysts.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(analysts_file=file)
    assert str(caught.value).startswith("V7_ANALYSTS_FILE (from argument) is not usable: ")
    assert told in str(caught.value) and "\n" not in str(caught.value) and KEY not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^V7_ANALYSTS_FILE .* cannot be read: .*No such file"):
        load_settings(analysts_file="nowhere.toml")


def test_an_unknown_analyst_is_refused_naming_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_ANALYST", "gpt")
    with pytest.raises(SettingsError, match=r"^V7_ANALYST \(from environment\) is not usable: 'gpt' is no analyst; "):
        load_settings()
    file = tmp_path / "analysts.toml"
    file.write_text(entry() + entry("router"))
    with pytest.raises(SettingsError, match=r"auto, deepseek, rules, replay \(listed in .*: local, router\)"):
        load_settings(analysts_file=file)
    monkeypatch.setenv("V7_ANALYST", "router")
    assert load_settings(analysts_file=file).analyst_name == "router"
    with pytest.raises(SettingsError, match="'rules' is no analyst; choose deepseek"):
        load_settings(analysts_file=file, replay_of="rules")
    settings = load_settings(analysts_file=file)
    file.write_text("")
    with pytest.raises(SettingsError, match="V7_ANALYSTS_FILE is not usable"):
        _ = settings.listed_analysts
