"""Who does the work: store, market client and analyst, built from the settings and replaceable one by one.

Everything is made on first use, so that a command that only reads the store never opens a client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from v7_pipeline import __version__
from v7_pipeline.analyst.base import Analyst, Decision, Question
from v7_pipeline.scan.context import LATE_AFTER, Clock, ScanContext, ScanError, Source
from v7_pipeline.settings import Settings, secret_of
from v7_pipeline.store import Store

if TYPE_CHECKING:
    from v7_pipeline.analyst.deepseek import DeepSeekAnalyst
    from v7_pipeline.analyst.replay import ReplayAnalyst

__all__ = ["Runtime", "build_runtime", "utc_now"]


def utc_now() -> datetime:
    """The wall clock, aware."""
    return datetime.now(UTC)


@dataclass
class Runtime:
    """The outside world of a scan. Tests and the command line replace single parts by keyword."""

    settings: Settings
    clock: Clock = utc_now
    overrides: dict[str, Any] = field(default_factory=dict)
    on_progress: Callable[[str, int, int], None] | None = None

    def prepare_store(self) -> Store:
        """The store with this code's schema; refuses one that belongs to the other mode."""
        self.store.migrate(__version__, self.clock())
        rows = self.store.query("SELECT source FROM candles LIMIT 1")
        if len(rows) and (rows["source"].iloc[0] == "demo") != (self.settings.mode == "demo"):
            other = "live" if self.settings.mode == "demo" else "demo"
            raise ScanError(
                f"{self.store!r} holds {other} data and this is {self.settings.mode} mode; "
                f"give each mode its own V7_STORE (or none: each has its own file)"
            )
        return self.store

    @cached_property
    def store(self) -> Store:
        """The store; see prepare_store for the one that may be written to."""
        if "store" in self.overrides:
            return self.overrides["store"]
        from v7_pipeline.store import open_store

        # A lake on PostgreSQL keeps its Parquet files in the mode's folder; a SQLite lake has a folder of its own.
        lake = self.settings.store_url.startswith("ducklake:postgres")
        files = str((self.settings.data_dir / "lake").resolve()) if lake else None
        s = self.settings
        return open_store(s.store_url, wait_s=s.store_wait_s, data_path=files, linger_s=s.store_linger_s)

    @cached_property
    def market(self) -> Any:
        """The Coinbase client, or whoever replaces it."""
        if "market" in self.overrides:
            return self.overrides["market"]
        from v7_pipeline.market.coinbase import CoinbaseClient

        s = self.settings
        return CoinbaseClient(
            api=s.market_api,
            base_url=s.exchange_url if s.market_api == "exchange" else s.advanced_url,
            timeout_s=s.market_timeout_s,
            retries=s.market_retries,
            rate_per_s=s.market_rate_per_s,
            workers=s.market_workers,
            venue="sandbox" if s.mode == "demo" else None,
        )

    def analyst(self, provenance: dict[str, str], as_of: datetime | None = None) -> Analyst:
        """The analyst that the settings name; its ledger rows carry `provenance`.

        Weights that were learnt are those of before `as_of`; without an instant, of before now.
        """
        if "analyst" in self.overrides:
            return self.overrides["analyst"]
        name = self.settings.analyst_name
        if name == "rules":
            return self._rules(as_of)
        if name == "replay":
            return self.replay_analyst(self.store, as_of)
        from v7_pipeline.analyst.breaker import Breaker, RestingAnalyst

        s = self.settings
        return RestingAnalyst(
            self.paid_analyst(name, provenance),
            Breaker(s.breaker_failures, timedelta(seconds=s.breaker_rest_s)),
            self.store,
            clock=self.clock,
            fallback=self._rules(as_of) if s.breaker_fallback == "rules" else None,
        )

    def paid_analyst(self, name: str, provenance: dict[str, str]) -> DeepSeekAnalyst:
        """The analyst that asks a service: deepseek or a listed name; its ledger rows carry `provenance`.

        AnalystError where its key or its model's price is missing; KeyError for a name that is not listed.
        """
        from v7_pipeline.analyst.deepseek import AnalystError, DeepSeekAnalyst
        from v7_pipeline.analyst.ledger import Ledger
        from v7_pipeline.analyst.listed import listed_analyst
        from v7_pipeline.analyst.prices import load_prices

        s = self.settings
        if name == "deepseek" and s.deepseek_api_key is None:
            raise AnalystError("V7_ANALYST=deepseek needs DEEPSEEK_API_KEY; set it, or choose V7_ANALYST=rules")
        prices = load_prices(s.prices_file)
        ledger = Ledger(
            self.store,
            daily_budget_usd=s.daily_budget_usd,
            monthly_budget_usd=s.monthly_budget_usd,
            provenance=provenance,
        )
        if name != "deepseek":
            entry = s.listed_analysts[name]
            key = secret_of(entry.api_key_env) if entry.api_key_env else None
            return listed_analyst(entry, key, ledger=ledger, prices=prices, clock=self.clock)
        assert s.deepseek_api_key is not None
        return DeepSeekAnalyst(
            ledger=ledger,
            api_key=s.deepseek_api_key,
            base_url=s.deepseek_url,
            model=s.deepseek_model,
            deadline_s=s.deepseek_deadline_s,
            max_tokens=s.deepseek_max_tokens,
            prices=prices,
            clock=self.clock,
        )

    def replay_analyst(self, store: Store, as_of: datetime | None = None) -> ReplayAnalyst:
        """The analyst that answers from the ledger of `store` what V7_REPLAY_OF was asked, at no cost."""
        from v7_pipeline.analyst.listed import parameters_of
        from v7_pipeline.analyst.replay import ReplayAnalyst
        from v7_pipeline.analyst.wire import Parameters

        s = self.settings
        model, parameters = s.deepseek_model, Parameters(s.deepseek_max_tokens)
        if s.replay_of != "deepseek":
            entry = s.listed_analysts[s.replay_of]
            model, parameters = entry.model, parameters_of(entry)
        fallback = self._rules(as_of) if s.replay_fallback == "rules" else None
        return ReplayAnalyst(store, model=model, parameters=parameters, fallback=fallback)

    def _rules(self, as_of: datetime | None) -> Analyst:
        from v7_pipeline.analyst.base import AnalystError
        from v7_pipeline.analyst.rules import RulesAnalyst, own_weights
        from v7_pipeline.scan.attribute import learnt_weights

        weights: dict[str, float] = self.settings.rules_weights
        if not weights and self.settings.rules_weights_learnt:
            return RulesAnalyst(learnt_weights(self.store, self.settings.source, as_of or self.clock()))
        try:
            return RulesAnalyst(own_weights(weights))
        except ValueError as error:
            raise AnalystError(f"V7_RULES_WEIGHTS is not usable: {error}") from None

    def source_of(self, as_of: datetime) -> Source:
        """How rows of a scan at `as_of` are marked."""
        if self.settings.mode == "demo":
            return "demo"
        return "backfill" if self.clock() - as_of > LATE_AFTER else "live"

    def context(self, as_of: datetime, run_id: str) -> ScanContext:
        """The context of the scan at `as_of`."""
        source = self.source_of(as_of)
        late = self.clock() - as_of > LATE_AFTER
        clock: Clock = (lambda: as_of) if late else self.clock
        provenance = {"source": source, "run_id": run_id, "code_version": __version__}
        return ScanContext(
            settings=self.settings,
            store=self.store,
            market=self.market,
            analyst=_WhenAsked(lambda: self.analyst(provenance, as_of)),
            as_of=as_of,
            run_id=run_id,
            source=source,
            clock=clock,
            wall_clock=self.clock,
        )


class _WhenAsked:
    """An analyst that is made when it is first needed: a wrong key must not keep candles from being stored."""

    def __init__(self, make: Callable[[], Analyst]) -> None:
        self._make = make

    @cached_property
    def _analyst(self) -> Analyst:
        return self._make()

    @property
    def name(self) -> str:
        return self._analyst.name

    @property
    def worst_case_usd(self) -> float:
        return self._analyst.worst_case_usd

    def decide(self, questions: Sequence[Question], *, now: datetime) -> list[Decision]:
        return self._analyst.decide(questions, now=now)


def build_runtime(settings: Settings, *, clock: Clock = utc_now, **overrides: Any) -> Runtime:
    """A runtime from `settings`; `store`, `market` or `analyst` may be given instead of made."""
    unknown = set(overrides) - {"store", "market", "analyst"}
    if unknown:
        raise TypeError(f"a runtime has no part called {', '.join(sorted(unknown))}; it has store, market and analyst")
    return Runtime(settings, clock, overrides)
