"""Every knob of V7, once: its name, unit, default and meaning.

Values come from the environment (prefix ``V7_``; the two vendors' keys keep the vendors' names) or from ``.env``.
Nothing else in the package reads the environment. No behaviour belongs here.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = [
    "ListedAnalyst",
    "Settings",
    "SettingsError",
    "env_name",
    "load_settings",
    "origin_of",
    "secret_of",
    "without_secrets",
]

# gates/base.py has them in their order; a test holds the two equal.
GateName = Literal["freshness", "halt", "budget", "calls", "plan", "confidence", "rate", "ftmo", "exposure"]
BUILT_IN_ANALYSTS = ("auto", "deepseek", "rules", "replay")


class SettingsError(ValueError):
    """A setting is wrong; the message says which, where it came from and how to mend it."""


class ListedAnalyst(BaseModel):
    """One [[analyst]] of V7_ANALYSTS_FILE: a service that speaks the format of OpenAI's chat completions.

    The key itself never stands in the file: `api_key_env` names the variable that has it; a local service needs none.
    `thinking` is sent where it is given only: DeepSeek knows it, others refuse it. `deadline_s` is in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_.-]{0,31}$")
    base_url: str = Field(pattern=r"^https?://\S+$")
    model: str = Field(min_length=1)
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    max_tokens: int = Field(600, ge=64)
    deadline_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    thinking: bool | None = None
    json_mode: bool = True


class Settings(BaseSettings):
    """All settings; immutable, so that a run's settings cannot change under it."""

    model_config = SettingsConfigDict(
        env_prefix="V7_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    # --- where and what -------------------------------------------------------------------
    mode: Literal["live", "demo"] = Field(
        "live", description="live: Coinbase; demo: the sandbox, marked demo everywhere"
    )
    home: Path = Field(Path(".v7"), description="folder that holds demo/ and live/ (store, Dagster home, logs)")
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        ("BTC-USD", "ETH-USD", "SOL-USD"), description="Coinbase products, separated by commas"
    )
    store: str = Field(
        "duckdb",
        description="duckdb (the mode's file), duckdb:PATH, ducklake:sqlite:PATH or ducklake:postgres:CONNINFO",
    )
    first_day: date = Field(
        date(2023, 1, 1), description="first daily UTC partition; Coinbase has BTC-USD from 2015-01-20"
    )
    store_wait_s: float = Field(10.0, gt=0, description="s; how long to wait for a store that another process holds")

    store_linger_s: float = Field(
        0.05,
        ge=0,
        le=5,
        description="s; how long a scan keeps the file open after a write, unless another waits for it",
    )

    # --- market ---------------------------------------------------------------------------
    market_api: Literal["exchange", "advanced"] = Field("exchange", description="which Coinbase candle API to use")
    exchange_url: str = Field("https://api.exchange.coinbase.com", description="base URL of the Exchange API")
    advanced_url: str = Field("https://api.coinbase.com", description="base URL of the Advanced Trade API")
    market_timeout_s: float = Field(10.0, gt=0, description="s; one HTTP attempt")
    market_retries: int = Field(4, ge=0, description="attempts after the first, with back-off and jitter")
    market_rate_per_s: int = Field(10, ge=1, description="requests per second, shared by all threads")
    market_workers: int = Field(6, ge=1, description="pages fetched at once in a backfill")
    refetch_minutes: int = Field(
        10, ge=1, description="min; newest minutes asked again each scan, since they may be revised"
    )
    gap_minutes: int = Field(15, ge=1, description="min; a longer gap breaks a theory's window")
    min_observed_share: float = Field(0.8, ge=0, le=1, description="share; below it a theory abstains")

    repair_days: int = Field(7, ge=1, le=60, description="d; how far back missing minutes and readings are looked for")

    # --- analyst --------------------------------------------------------------------------
    analysts_file: Path | None = Field(
        None,
        description="TOML file with an [[analyst]] entry (name, base_url, model, api_key_env …) for each further one",
    )
    analyst: str = Field(
        "auto",
        description="auto (deepseek where a key is set, otherwise rules), deepseek, rules, replay (what the ledger "
        "holds, at $0) or a name of V7_ANALYSTS_FILE",
    )
    deepseek_api_key: SecretStr | None = Field(None, validation_alias="DEEPSEEK_API_KEY", description="DeepSeek's key")
    deepseek_url: str = Field("https://api.deepseek.com", description="base URL of an OpenAI-compatible service")
    deepseek_model: str = Field("deepseek-flash", description="model; must have a dated price")
    deepseek_deadline_s: float = Field(30.0, gt=0, description="s; total deadline of one call, all attempts")
    deepseek_max_tokens: int = Field(600, ge=64, description="tokens; most that an answer may have")
    prices_file: Path | None = Field(
        None, description="TOML file with [[price]] entries of further models (format: analyst/prices.toml)"
    )
    replay_of: str = Field(
        "deepseek", description="whose model and parameters the replay analyst looks for: deepseek or a listed name"
    )
    replay_fallback: Literal["none", "rules"] = Field(
        "none", description="who decides what the ledger has no answer to: none (skipped) or rules"
    )
    breaker_failures: int = Field(5, ge=1, description="attempts that fail in a row before the analyst rests")
    breaker_rest_s: float = Field(600.0, ge=0, description="s; how long it rests before one question probes it")
    breaker_fallback: Literal["none", "rules"] = Field(
        "none", description="who decides while it rests: none (skipped) or rules"
    )
    aggressive: bool = Field(False, description="aggressive mode: lower thresholds, stated in the prompt")
    daily_budget_usd: float = Field(3.0, ge=0, description="USD a UTC day for analyst calls")
    monthly_budget_usd: float = Field(100.0, ge=0, description="USD a UTC month for analyst calls")

    # --- context --------------------------------------------------------------------------
    context: Annotated[tuple[Literal["order_book", "coingecko"], ...], NoDecode] = Field(
        (), description="what else the analyst is told in live scans: order_book, coingecko; separated by commas"
    )
    coingecko_url: str = Field("https://api.coingecko.com/api/v3", description="base URL of CoinGecko's API")
    coingecko_api_key: SecretStr | None = Field(
        None, validation_alias="COINGECKO_API_KEY", description="CoinGecko's demo key; it answers without one too"
    )
    rules_weights: Annotated[dict[str, float], NoDecode] = Field(
        {}, description="the rules' weights that are not 1, such as price_momentum=2,risk_metrics=0"
    )
    rules_weights_learnt: bool = Field(
        False, description="let the newest proposed weights act in the next scan, unless V7_RULES_WEIGHTS is set"
    )

    # --- strategies -----------------------------------------------------------------------
    strategies: Annotated[tuple[Literal["v7", "v6", "ensemble"], ...], NoDecode] = Field(
        ("v7",),
        description="who may signal, separated by commas: v7, v6, ensemble; each has limits of its own, and the first "
        "is the one whose account is watched and shown",
    )

    # --- gates ----------------------------------------------------------------------------
    gates_off: Annotated[tuple[GateName, ...], NoDecode] = Field(
        (), description="gates that are asked but do not block, separated by commas; said on every signal and page"
    )
    max_signals_per_hour: int = Field(6, ge=0, description="accepted signals in any 60 min")
    max_calls_per_hour: int = Field(180, ge=0, description="attempts to reach the analyst in any 60 min")
    max_price_age_s: float = Field(180.0, gt=0, description="s; newest closed candle's age at the scan's instant")
    max_decision_delay_s: float = Field(
        120.0, gt=0, description="s; a decision made later than this after its scan is stale"
    )
    min_confidence: float = Field(
        0.55, ge=0.55, le=1, description="floor of the confidence threshold; below it a signal is rejected"
    )
    min_reward_risk: float = Field(1.5, gt=0, description="reward:risk of a plan, net of fees")
    max_entry_distance: float = Field(0.005, gt=0, description="fraction; entry within this of the market")
    min_stop_volatilities: float = Field(
        1.0, ge=0, description="one-minute volatilities between entry and stop, at least"
    )
    min_stop_spreads: float = Field(
        3.0, ge=0, description="spreads between entry and stop, at least, where the order book is known (V7_CONTEXT)"
    )
    max_correlated_risk: float = Field(
        2.5,
        gt=0,
        description="risks per trade; the open risk, counted as one where positions move alike, may not exceed it",
    )

    # --- account --------------------------------------------------------------------------
    ftmo_rules: str = Field("ftmo-2step-challenge", description="rule set's name (gates/ftmo_rules.toml)")
    ftmo_rules_file: Path | None = Field(
        None, description="TOML file with [[rules]] entries of further firms (format: gates/ftmo_rules.toml)"
    )
    account_initial_usd: float = Field(100_000.0, gt=0, description="USD; initial capital of the account")
    account_currency: Literal["USD"] = Field(
        "USD", description="the account's currency; figures of another one would need an exchange rate, so USD only"
    )
    risk_per_trade: float = Field(0.005, gt=0, le=0.05, description="fraction of initial capital risked on one signal")
    ftmo_buffer: float = Field(0.10, ge=0, le=1, description="share of the daily allowance that is never risked")
    leverage: Annotated[dict[str, float], NoDecode] = Field(
        {},
        description="largest notional over equity, for all or by product, such as BTC-USD=3.3; default: the rules'",
    )
    commission: Annotated[dict[str, float], NoDecode] = Field(
        {},
        description="fraction of a side's notional, for all or by product, as SOL-USD=0.0005; default: the rules'",
    )
    contract_size: Annotated[dict[str, float], NoDecode] = Field(
        {}, description="base units a lot by product, such as SOL-USD=100; default: the rules'"
    )
    quantity_increment: Annotated[dict[str, float], NoDecode] = Field(
        {}, description="step of a quantity in base units by product, such as BTC-USD=0.01; default: 0.00000001"
    )

    # --- trades ---------------------------------------------------------------------------
    fees: Literal["ftmo-crypto", "coinbase-taker", "coinbase-maker", "none"] = Field(
        "ftmo-crypto", description="named fee preset of every P&L"
    )
    slippage: float = Field(0.0001, ge=0, description="fraction of price lost on each market fill")
    horizon_minutes: int = Field(240, ge=1, description="min; a trade's time stop where the plan names none")
    breakeven_band_r: float = Field(0.1, ge=0, description="R; |net R| within it is breakeven")

    # --- learning -------------------------------------------------------------------------
    prior_alpha: float = Field(1.0, gt=0, description="Beta prior's alpha of every win rate")
    prior_beta: float = Field(1.0, gt=0, description="Beta prior's beta of every win rate")
    win_rate_half_life: float | None = Field(
        None,
        gt=0,
        description="effective later trades by which a trade's weight in the win rates halves; default: never",
    )
    min_effective_n: int = Field(30, ge=1, description="below it no theory gets a verdict")

    # --- services -------------------------------------------------------------------------
    host: str = Field("127.0.0.1", description="address that our servers listen on")
    ui_port: int = Field(3000, ge=1, le=65535, description="port of Dagster's pages")
    dashboard_port: int = Field(8070, ge=1, le=65535, description="port of the dashboard")
    sandbox_port: int = Field(8077, ge=1, le=65535, description="port of the sandbox")
    sandbox_seed: int = Field(7, description="seed of the simulated market")
    scan_cron: str = Field("*/2 * * * *", description="cron expression of the scans, UTC; each tick is an instant")
    max_run_s: int = Field(240, ge=10, description="s; a scan running longer is ended")
    in_flight_bound_s: int = Field(
        420, ge=60, description="s; a run in flight for longer no longer blocks the next tick"
    )
    retention_run_days: int = Field(3, ge=1, description="d; runs, their events and their logs are kept for this long")
    retention_day_days: int = Field(
        400, ge=1, description="d; the last run of each day, and backfills, are kept for this long"
    )
    retention_tick_days: int = Field(7, ge=1, description="d; ticks of schedules and sensors are kept for this long")
    retention_prompt_days: int = Field(
        180, ge=1, description="d; an analyst's messages and replies are kept for this long, their cost for ever"
    )
    retention_delivery_days: int = Field(
        90, ge=1, description="d; what became of an alert at each destination is kept for this long, the alert for ever"
    )
    backtest_lag_min: int = Field(
        0, ge=0, le=30, description="minutes; a backtest's scans see a candle this long after it closed"
    )
    backtest_latency_s: float = Field(
        0.0, ge=0, le=600, description="s; a backtest's decisions come this long after their scan's instant"
    )
    retention_backtests: int = Field(
        50, ge=1, description="backtests; the newest ones keep their store, page and figures, the count of trials stays"
    )
    log_json: bool = Field(False, description="one JSON object a line in every log, for programs that collect them")
    alert_urls: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Apprise URLs (Telegram, Discord, e-mail …), separated by spaces; warning= or critical= before one "
        "sends it only alerts that are as severe",
    )
    alert_window_min: float = Field(
        60.0, ge=0, description="min; alerts of the same subject that follow a delivered one are counted, not sent"
    )
    alert_quiet: Annotated[tuple[time, time] | None, NoDecode] = Field(
        None, description="hours such as 22:00-07:00 in which info alerts wait; warnings and critical ones are sent"
    )
    alert_zone: str = Field("UTC", description="time zone of quiet hours and the daily summary, such as Europe/Prague")
    alert_summary_at: Annotated[time | None, NoDecode] = Field(
        time(7, 0), description="when the daily summary is written, such as 07:00; none: never"
    )
    alert_stale_s: float = Field(600.0, gt=0, description="s; a newest candle older than this is alerted as stale")
    alert_skipped_ticks: int = Field(5, ge=1, description="ticks in a row without a run that are alerted")
    watchdog_after_s: float = Field(
        600.0, gt=0, description="s without a finished scan after which v7 watchdog and the pulse alert"
    )

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else list(value)
        symbols = tuple(str(part).strip().upper() for part in parts if str(part).strip())
        if not symbols:
            raise ValueError("name at least one product, such as BTC-USD")
        for symbol in symbols:
            base, _, quote = symbol.partition("-")
            if not (base.isalnum() and quote.isalnum()):
                raise ValueError(f"{symbol!r} is no Coinbase product; write it as BASE-QUOTE, such as BTC-USD")
        return tuple(dict.fromkeys(symbols))

    @field_validator("strategies", mode="before")
    @classmethod
    def _split_strategies(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else list(value)
        names = tuple(str(part).strip().lower() for part in parts if str(part).strip())
        if not names:
            raise ValueError("name at least one strategy: v7, v6 or ensemble")
        if len(set(names)) < len(names):
            raise ValueError(f"{','.join(names)} names a strategy twice")
        return names

    @field_validator("alert_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: Any) -> Any:
        urls = tuple(value.split()) if isinstance(value, str) else tuple(value)
        for place, url in enumerate(urls, 1):  # what stands there may be a token: it is counted, not quoted
            text = url.get_secret_value() if isinstance(url, SecretStr) else str(url)
            if re.match(r"[^:/?]*=", text) and not re.match(r"(info|warning|critical)=[^=:/]+:", text):
                raise ValueError(
                    f"number {place} begins with no severity; write info=, warning= or critical= before a URL"
                )
        return urls

    @field_validator("alert_quiet", mode="before")
    @classmethod
    def _split_quiet(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.strip():
            return None
        start, _, end = value.partition("-")
        hours = (_clock(start), _clock(end))
        if hours[0] == hours[1]:
            raise ValueError(f"{value!r} begins when it ends; write hours such as 22:00-07:00")
        return hours

    @field_validator("alert_summary_at", mode="before")
    @classmethod
    def _summary_time(cls, value: Any) -> Any:
        if isinstance(value, str):
            return None if value.strip().lower() in ("", "none") else _clock(value)
        return value

    @field_validator("alert_zone")
    @classmethod
    def _a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, ZoneInfoNotFoundError):
            raise ValueError(f"{value!r} is no time zone; write one such as Europe/Prague") from None
        return value

    @field_validator("analysts_file")
    @classmethod
    def _listed(cls, value: Path | None) -> Path | None:
        if value is not None:
            _read_analysts(value)
        return value

    @field_validator("analyst", "replay_of")
    @classmethod
    def _an_analyst(cls, value: str, info: ValidationInfo) -> str:
        known = BUILT_IN_ANALYSTS if info.field_name == "analyst" else ("deepseek",)
        file = info.data.get("analysts_file")
        listed = tuple(entry.name for entry in _read_analysts(file)) if file else ()
        if value not in (*known, *listed):
            more = f"listed in {file}: {', '.join(listed)}" if listed else "V7_ANALYSTS_FILE can list more"
            raise ValueError(f"{value!r} is no analyst; choose {', '.join(known)} ({more})")
        return value

    @field_validator("context", mode="before")
    @classmethod
    def _split_context(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else list(value)
        return tuple(dict.fromkeys(part.strip().lower() for part in parts if part.strip()))

    @field_validator("rules_weights", mode="before")
    @classmethod
    def _split_weights(cls, value: Any) -> Any:
        return _pairs(value, "is no weight of its own; write each theory once, as price_momentum=2")

    @field_validator("leverage", "commission", "contract_size", "quantity_increment", mode="before")
    @classmethod
    def _split_by_product(cls, value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(r"\s*[\d.]+\s*", value):
            return {"*": value.strip()}
        return _pairs(value, "names no product; write each product once, as BTC-USD=1, or one number for all")

    @field_validator("leverage", "commission", "contract_size", "quantity_increment")
    @classmethod
    def _figures_of_products(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        least_is_allowed = info.field_name == "commission"
        for symbol, figure in value.items():
            if not (math.isfinite(figure) and (figure > 0 or (least_is_allowed and figure == 0))):
                raise ValueError(f"{symbol}={figure} is not usable; give a number above zero")
        return {symbol.upper(): figure for symbol, figure in value.items()}

    @field_validator("gates_off", mode="before")
    @classmethod
    def _split_gates(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else list(value)
        return tuple(dict.fromkeys(part.strip().lower() for part in parts if part.strip()))

    @field_validator("rules_weights")
    @classmethod
    def _weights_count(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(math.isfinite(weight) and weight >= 0 for weight in value.values()):
            raise ValueError("weights are finite numbers, not negative")
        return value

    @field_validator("deepseek_api_key", "coingecko_api_key", mode="before")
    @classmethod
    def _blank_key_is_none(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.monthly_budget_usd < self.daily_budget_usd:
            raise ValueError(
                "V7_MONTHLY_BUDGET_USD is smaller than V7_DAILY_BUDGET_USD; raise it or lower the daily one"
            )
        return self

    # --- derived --------------------------------------------------------------------------
    @property
    def data_dir(self) -> Path:
        """The mode's own folder: demo and live never share one."""
        return self.home / self.mode

    @property
    def store_url(self) -> str:
        """`store` with its default path filled in."""
        if self.store == "duckdb":
            return f"duckdb:{self.data_dir / 'v7.duckdb'}"
        return self.store

    @property
    def source(self) -> Literal["live", "demo"]:
        """What rows written now are marked with."""
        return self.mode

    @property
    def strategies_decided(self) -> tuple[str, ...]:
        """The strategies that every scan decides, v7 first: those that may signal, and the ensemble's members."""
        voting = "ensemble" in self.strategies
        return tuple(name for name in ("v7", "v6", "ensemble") if name in self.strategies or voting)

    @property
    def analyst_name(self) -> str:
        """Who decides, with `auto` resolved: deepseek, rules, replay or a listed name."""
        if self.analyst != "auto":
            return self.analyst
        return "deepseek" if self.deepseek_api_key else "rules"

    @property
    def listed_analysts(self) -> dict[str, ListedAnalyst]:
        """The entries of V7_ANALYSTS_FILE by name. SettingsError where it has become unusable since it was checked."""
        if self.analysts_file is None:
            return {}
        try:
            return {entry.name: entry for entry in _read_analysts(self.analysts_file)}
        except ValueError as error:
            raise SettingsError(f"V7_ANALYSTS_FILE is not usable: {error}") from None


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and .env, with `overrides` (field names) on top.

    Raises SettingsError with one sentence a person can act on; a secret's value is never in it.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        field = next((f for f in Settings.model_fields if name.upper() in (f.upper(), env_name(f))), name)
        place = origin_of(field, overrides) if field in Settings.model_fields else "settings"
        label = env_name(field) if field in Settings.model_fields else "settings"
        meaning = Settings.model_fields[field].description if field in Settings.model_fields else ""
        reason = without_secrets(str(first["msg"]).removeprefix("Value error, "))
        if not first["loc"]:  # about several settings: the sentence names them itself
            raise SettingsError(reason) from None
        raise SettingsError(
            f"{label} (from {place}) is not usable: {reason}" + (f" — {meaning}." if meaning else ".")
        ) from None


def secret_of(variable: str) -> SecretStr | None:
    """The secret in an environment variable, or in .env; None where it is not set or blank."""
    value = os.environ.get(variable)
    if value is None and Path(".env").is_file():
        from dotenv import dotenv_values

        value = dotenv_values(".env").get(variable)
    return SecretStr(value.strip()) if value and value.strip() else None


def _read_analysts(path: Path) -> tuple[ListedAnalyst, ...]:
    """The entries of an analysts' file; ValueError that says what is wrong with which."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    entries = document.get("analyst")
    if set(document) != {"analyst"} or not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} needs [[analyst]] entries, each with name, base_url and model, and nothing else")
    listed = tuple(_read_analyst(path, place, entry) for place, entry in enumerate(entries, 1))
    names = [entry.name for entry in listed]
    for name in names:
        # The endings are of those who are asked again (v7 llm leave-out): their answers decide nothing.
        if name in BUILT_IN_ANALYSTS or name.endswith("-unchanged") or "-without-" in name:
            raise ValueError(f"{path} lists an analyst {name!r}, which is a name of V7's own; give it another")
        if names.count(name) > 1:
            raise ValueError(f"{path} lists {name!r} twice; give each analyst a name of its own")
    return listed


def _read_analyst(path: Path, place: int, entry: Any) -> ListedAnalyst:
    named = entry.get("name", f"number {place}") if isinstance(entry, dict) else f"number {place}"
    try:
        return ListedAnalyst.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]  # a key in the file must not be told
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        known = ", ".join(ListedAnalyst.model_fields)
        raise ValueError(f"analyst {named} of {path}: {where}: {first['msg']}; an entry has {known}") from None


def _clock(text: str) -> time:
    """A time of day written HH:MM."""
    if not re.fullmatch(r"\s*([01]?\d|2[0-3]):[0-5]\d\s*", text):
        raise ValueError(f"{text.strip()!r} is no time of day; write it as 07:00")
    hour, minute = text.split(":")
    return time(int(hour), int(minute))


def _pairs(value: Any, problem: str) -> Any:
    """`name=figure,name=figure` as a dict, in which no name stands twice."""
    if not isinstance(value, str):
        return value
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, figure = (word.strip() for word in part.partition("="))
        if not (name and equals and figure) or name in pairs:
            raise ValueError(f"{part!r} {problem}")
        pairs[name] = figure
    return pairs


def env_name(field: str) -> str:
    """The environment variable that sets `field`."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias) if alias else f"V7_{field.upper()}"


def origin_of(field: str, overrides: dict[str, Any] | None = None) -> str:
    """Where `field`'s value comes from: argument, environment, .env or default."""
    name = env_name(field)
    if overrides and field in overrides:
        return "argument"
    if any(key.upper() == name.upper() for key in os.environ):
        return "environment"
    env_file = Path(".env")
    if env_file.is_file():
        from dotenv import dotenv_values

        if any(key.upper() == name.upper() for key in dotenv_values(env_file)):
            return ".env"
    return "default"


_PASSWORDS = (
    re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'?|\S+)", re.IGNORECASE),  # libpq's name = value
    re.compile(r"(://[^\s:/@]*:)([^\s@]+)(?=@)"),  # an address with name:password@
)


def without_secrets(text: str) -> str:
    """`text` with the passwords of connection strings and addresses masked, for messages and listings."""
    for pattern in _PASSWORDS:
        text = pattern.sub(r"\1…", text)
    return text
