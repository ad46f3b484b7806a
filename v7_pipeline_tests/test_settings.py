"""Where each setting comes from, what a bad one is told, and that secrets and modes are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from v7_pipeline import __version__
from v7_pipeline.scan.context import ScanError
from v7_pipeline.scan.runtime import build_runtime
from v7_pipeline.settings import Settings, SettingsError, env_name, load_settings, origin_of, without_secrets
from v7_pipeline.store import conform

MARKER = "sk-marker-never-to-be-shown"
NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)

# Name and a value that does not mean anything for it.
BAD = [
    ("V7_MODE", "paper"),
    ("V7_SYMBOLS", "BTC"),
    ("V7_SYMBOLS", " , "),
    ("V7_FIRST_DAY", "yesterday"),
    ("V7_STORE_WAIT_S", "0"),
    ("V7_MARKET_API", "pro"),
    ("V7_MARKET_RETRIES", "-1"),
    ("V7_MIN_OBSERVED_SHARE", "80"),
    ("V7_DAILY_BUDGET_USD", "-3"),
    ("V7_DAILY_BUDGET_USD", "three"),
    ("V7_MIN_CONFIDENCE", "55"),
    ("V7_RISK_PER_TRADE", "0.5"),
    ("V7_FEES", "free"),
    ("V7_UI_PORT", "70000"),
    ("V7_AGGRESSIVE", "very"),
]


def test_an_argument_beats_the_environment_beats_the_file_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def now(**given: Any) -> tuple[int, str]:
        return load_settings(**given).max_signals_per_hour, origin_of("max_signals_per_hour", given)

    assert now() == (6, "default")
    (tmp_path / ".env").write_text("V7_MAX_SIGNALS_PER_HOUR=4\n")
    assert now() == (4, ".env")
    monkeypatch.setenv("V7_MAX_SIGNALS_PER_HOUR", "3")
    assert now() == (3, "environment")
    assert now(max_signals_per_hour=2) == (2, "argument")


def test_the_vendors_key_keeps_the_vendors_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env_name("deepseek_api_key") == "DEEPSEEK_API_KEY"
    assert load_settings().analyst_name == "rules"
    monkeypatch.setenv("DEEPSEEK_API_KEY", MARKER)
    assert origin_of("deepseek_api_key") == "environment"
    assert load_settings().analyst_name == "deepseek"
    monkeypatch.setenv("DEEPSEEK_API_KEY", "  ")
    assert load_settings().analyst_name == "rules"


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_gets_one_sentence_with_its_name_and_origin(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    told = str(caught.value)
    assert told.startswith(f"{name} (from environment) is not usable: ")
    assert "\n" not in told and told.endswith(".")


def test_a_bad_value_in_the_file_is_said_to_come_from_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("V7_LEVERAGE=0\n")
    with pytest.raises(SettingsError, match=r"^V7_LEVERAGE \(from \.env\)"):
        load_settings()


def test_budgets_that_contradict_one_another_are_named_both() -> None:
    with pytest.raises(SettingsError, match=r"^V7_MONTHLY_BUDGET_USD is smaller than V7_DAILY_BUDGET_USD"):
        load_settings(daily_budget_usd=5, monthly_budget_usd=1)


def test_settings_cannot_change_under_a_run() -> None:
    with pytest.raises(ValidationError):
        load_settings().mode = "demo"  # type: ignore[misc]


def test_figures_of_products_are_read_by_product_or_for_all() -> None:
    told = load_settings(leverage="2.5", commission="btc-usd=0, SOL-USD=0.0005", contract_size="SOL-USD=100")
    assert told.leverage == {"*": 2.5} and told.contract_size == {"SOL-USD": 100.0}
    assert told.commission == {"BTC-USD": 0.0, "SOL-USD": 0.0005} and told.quantity_increment == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"leverage": "BTC-USD=0"}, "above zero"),
        ({"leverage": "BTC-USD=nan"}, "above zero"),
        ({"contract_size": "BTC-USD"}, "names no product"),
        ({"commission": "BTC-USD=1,BTC-USD=2"}, "names no product"),
        ({"quantity_increment": "BTC-USD=a"}, "V7_QUANTITY_INCREMENT"),
        ({"gates_off": "everything"}, "V7_GATES_OFF"),
        ({"min_confidence": 0.5}, "V7_MIN_CONFIDENCE"),
        ({"account_currency": "EUR"}, "V7_ACCOUNT_CURRENCY"),
    ],
)
def test_a_figure_of_the_account_that_cannot_be_meant_is_refused_in_one_sentence(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as told:
        load_settings(**changes)
    assert env_name(next(iter(changes))) in str(told.value) and "\n" not in str(told.value)


def test_lesson_25_gates_that_are_off_are_named_in_their_own_words() -> None:
    assert load_settings(gates_off=" Rate,ftmo,rate").gates_off == ("rate", "ftmo")


def test_symbols_are_tidied_and_kept_once_in_order() -> None:
    assert load_settings(symbols=" eth-usd,BTC-USD, ETH-USD ").symbols == ("ETH-USD", "BTC-USD")


def test_lesson_30_secrets_are_secret_in_every_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", MARKER)
    monkeypatch.setenv("V7_ALERT_URLS", f"tgram://{MARKER}/1 discord://a/{MARKER}")
    settings = load_settings()
    assert isinstance(settings.deepseek_api_key, SecretStr)
    assert [type(url) for url in settings.alert_urls] == [SecretStr, SecretStr]
    assert settings.deepseek_api_key.get_secret_value() == MARKER
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert MARKER not in text


def test_lesson_30_a_bad_secret_is_not_repeated_in_the_sentence() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(deepseek_api_key=[MARKER])
    assert "DEEPSEEK_API_KEY" in str(caught.value) and MARKER not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "ducklake:postgres:dbname=v7 password=hunter2 host=db",
        "PASSWORD = 'hunter2 with \\' quote' host=db",
        "ducklake:postgres:postgresql://v7:hunter2@db/v7",
        "at https://v7:hunter2@proxy:8080 nothing answered",
    ],
)
def test_lesson_30_passwords_in_addresses_are_masked_and_the_rest_is_kept(text: str) -> None:
    masked = without_secrets(text)
    assert "hunter2" not in masked and "quote" not in masked and "…" in masked
    assert all(word in masked for word in ("db", "v7", "proxy") if word in text)
    assert without_secrets("nothing to hide at https://host/path") == "nothing to hide at https://host/path"


def test_every_setting_says_what_it_means() -> None:
    for field, info in Settings.model_fields.items():
        assert info.description, field


def test_demo_and_live_keep_their_data_apart() -> None:
    demo, live = load_settings(mode="demo"), load_settings(mode="live")
    assert demo.data_dir != live.data_dir
    assert demo.store_url != live.store_url
    assert (demo.source, live.source) == ("demo", "live")


@pytest.mark.parametrize(("mine", "other"), [("demo", "live"), ("live", "demo")])
def test_lesson_21_a_store_of_one_mode_is_refused_by_the_other(
    make_settings: Callable[..., Any], tmp_path: Path, mine: str, other: str
) -> None:
    import pandas as pd

    url = f"duckdb:{tmp_path / 'one.duckdb'}"
    store = build_runtime(make_settings(mode=mine, store=url)).prepare_store()
    candle = {
        "symbol": "BTC-USD", "open_time": NOW, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0,
        "venue": "test", "fetched_at": NOW, "source": mine, "run_id": "test", "code_version": __version__,
    }  # fmt: skip
    with store.transaction() as tx:
        tx.insert_new("candles", conform("candles", pd.DataFrame([candle])))
    build_runtime(make_settings(mode=mine, store=url)).prepare_store()
    with pytest.raises(ScanError, match=f"holds {mine} data and this is {other} mode"):
        build_runtime(make_settings(mode=other, store=url)).prepare_store()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alert_urls": "json://fine hunter2=tgram://x"}, "number 2 begins with no severity"),
        ({"alert_urls": "critical=hunter2"}, "number 1 begins with no severity"),
        ({"alert_quiet": "22-7"}, "'22' is no time of day"),
        ({"alert_quiet": "22:00-22:00"}, "begins when it ends"),
        ({"alert_summary_at": "25:00"}, "'25:00' is no time of day"),
        ({"alert_zone": "Prague"}, "'Prague' is no time zone"),
        ({"alert_zone": "../etc"}, "is no time zone"),
    ],
)
def test_settings_of_alerts_say_what_is_wrong_without_the_url(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as refused:
        load_settings(**changes)
    assert "hunter2" not in str(refused.value)


def test_urls_with_an_equals_sign_of_their_own_and_severities_are_kept() -> None:
    text = "json://host/?a=b critical=tgram://1:x/2 mailto://u:p=w@host"
    urls = load_settings(alert_urls=text).alert_urls
    assert [url.get_secret_value() for url in urls] == text.split()
    assert (
        load_settings(alert_quiet="").alert_quiet is None
        and load_settings(alert_summary_at="none").alert_summary_at is None
    )
