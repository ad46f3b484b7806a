"""Every table of V7, declared once: columns, types, units, keys, meaning.

DDL, migrations, the typed frames, the data dictionary and the schema-made checks are derived from here.
No SQL that reads or writes rows belongs in this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "PROVENANCE",
    "SCHEMA_VERSION",
    "SIGNALS_VIEW",
    "SOURCES",
    "TABLES",
    "THEORY_NAMES",
    "THEORY_VALUES",
    "WINDOWS",
    "Column",
    "Table",
    "table",
    "theory_columns",
]

SCHEMA_VERSION = 7

SqlType = Literal["VARCHAR", "DOUBLE", "FLOAT", "BIGINT", "BOOLEAN", "TIMESTAMPTZ"]

WINDOWS: tuple[int, ...] = (120, 240, 1440)
HEADLINE_WINDOW = 240

# theory → (value name, unit, meaning, windowed)
THEORY_VALUES: dict[str, tuple[tuple[str, str, str, bool], ...]] = {
    "shannon_entropy": (
        (
            "entropy",
            "share of the maximum",
            "Miller–Madow entropy of 8 equiprobable bins of z, ÷ log 8",
            True,
        ),
        (
            "entropy_words",
            "share of the maximum",
            "Miller–Madow entropy of ternary words of length 3, ÷ log 27",
            True,
        ),
    ),
    "hurst_exponent": (
        ("hurst_rs", "exponent", "rescaled range minus the Anis–Lloyd expectation, plus one half", True),
        ("hurst_dfa", "exponent", "detrended fluctuation analysis of order 1", True),
    ),
    "kolmogorov_complexity": (
        (
            "lz",
            "share of a fair coin's",
            "Lempel–Ziv 1976 phrases of the signs ÷ a fair coin's expectation, at most 1",
            True,
        ),
        ("lz_phrases", "phrases", "Lempel–Ziv 1976 phrases of the signs", True),
    ),
    "market_regime": (
        ("p_bear", "probability", "filtered probability of the falling state", False),
        ("p_sideways", "probability", "filtered probability of the driftless state", False),
        ("p_bull", "probability", "filtered probability of the rising state", False),
    ),
    "risk_metrics": (
        ("var_95", "fraction a minute", "value at risk at 95 %, positive is a loss", True),
        ("var_99", "fraction a minute", "value at risk at 99 %, positive is a loss", True),
        ("cvar_95", "fraction a minute", "expected shortfall at 95 %, positive is a loss", True),
        ("cvar_99", "fraction a minute", "expected shortfall at 99 %, positive is a loss", True),
        ("volatility", "fraction a minute", "standard deviation of one-minute log returns", True),
        ("sharpe", "annualised ratio", "mean over deviation × √525,600 (display only)", True),
        ("sortino", "annualised ratio", "mean over downside deviation × √525,600 (display only)", True),
        ("max_drawdown", "fraction", "deepest fall from a running peak, in log price", True),
    ),
    "fractal_dimension": (
        ("fractal_dimension", "dimension", "madogram estimate of the path's dimension, in [1, 2]", True),
    ),
    "price_momentum": (("momentum", "standard deviations", "log-price change over the window ÷ (σ √W)", True),),
    "kalman_filter": (
        ("kalman_gap", "volatilities", "price minus filtered level, ÷ one-minute volatility", False),
        ("kalman_slope", "volatilities a minute", "filtered slope ÷ one-minute volatility", False),
        ("kalman_innovation", "volatilities", "one-step prediction error ÷ one-minute volatility", False),
    ),
    "monte_carlo": (
        (
            "p_target",
            "probability",
            "the default plan's target is touched before its stop within the horizon",
            False,
        ),
        (
            "p_stop",
            "probability",
            "the default plan's stop is touched before its target within the horizon",
            False,
        ),
        ("p_neither", "probability", "neither is touched within the horizon", False),
    ),
    "bayesian_win_rate": (
        ("win_rate", "probability", "posterior mean win rate of outcomes closed before", False),
        ("win_rate_lower", "probability", "lower end of the 95 % credible interval", False),
        ("win_rate_upper", "probability", "upper end of the 95 % credible interval", False),
        ("win_rate_n", "outcomes", "closed outcomes behind the posterior", False),
    ),
}
THEORY_NAMES: tuple[str, ...] = tuple(THEORY_VALUES)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its SQL type, unit, whether it may be missing, and what it means."""

    name: str
    type: SqlType
    description: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One table; `key` identifies a row and `day_column` places it in a daily UTC partition."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    day_column: str | None

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns in which two versions of a row can differ: not its key, provenance or time of receipt."""
        left_out = {*self.key, *(column.name for column in PROVENANCE), *_UNCOMPARED.get(self.name, ())}
        return tuple(name for name in self.column_names if name not in left_out)

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError where there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name!r}")


def _text(name: str, description: str, *, nullable: bool = False, unit: str = "") -> Column:
    return Column(name, "VARCHAR", description, unit, nullable)


def _number(name: str, unit: str, description: str, *, nullable: bool = False) -> Column:
    return Column(name, "DOUBLE", description, unit, nullable)


def _reading(name: str, unit: str, description: str, *, nullable: bool = False) -> Column:
    # Seven digits are more than any reading means, and half the bytes of a year of minutes.
    return Column(name, "FLOAT", description, unit, nullable)


def _count(name: str, unit: str, description: str, *, nullable: bool = False) -> Column:
    return Column(name, "BIGINT", description, unit, nullable)


def _flag(name: str, description: str, *, nullable: bool = False) -> Column:
    return Column(name, "BOOLEAN", description, "", nullable)


def _time(name: str, description: str, *, nullable: bool = False) -> Column:
    return Column(name, "TIMESTAMPTZ", description, "UTC", nullable)


SOURCES: tuple[str, ...] = ("live", "demo", "backfill", "backtest")

# Mandatory on every row and without defaults: a row that does not say where it comes from is refused.
PROVENANCE: tuple[Column, ...] = (
    _text("source", "live, demo, backfill or backtest"),
    _text("run_id", "the run that wrote the row"),
    _text("code_version", "version of the code that wrote the row"),
)

# Rows derived from a signal carry its instant, which its identity holds: rows of one key never differ in as_of.
DAY_FOLLOWS_KEY = frozenset({"outcomes", "theory_performance"})

_UNCOMPARED: dict[str, tuple[str, ...]] = {
    "candles": ("fetched_at",),
    "outcomes": ("labelled_at",),
    "backtest_trials": ("name", "created_at"),
}


def theory_columns() -> tuple[Column, ...]:
    """The value, percentile, vote and score columns of all theories, in the registry's order."""
    columns: list[Column] = []
    for theory, values in THEORY_VALUES.items():
        # The win rate is compared with the posterior that it was read from: to the last digit.
        number = _number if theory == "bayesian_win_rate" else _reading
        for name, unit, meaning, windowed in values:
            if windowed:
                columns += [number(f"{name}_{w}", unit, f"{meaning}; window {w} min", nullable=True) for w in WINDOWS]
            else:
                columns.append(number(name, unit, meaning, nullable=True))
        columns += [
            number(
                f"{theory}_percentile",
                "share",
                f"{theory}: headline value's place under its null",
                nullable=True,
            ),
            number(f"{theory}_vote", "−1 … 1", f"{theory}: bearish … bullish; 0 abstains"),
            number(f"{theory}_score", "0 … 1", f"{theory}: how strongly it speaks"),
        ]
    return tuple(columns)


def _build(
    name: str,
    description: str,
    key: tuple[str, ...],
    day_column: str | None,
    *columns: Column,
    provenance: bool = True,
) -> Table:
    return Table(name, description, columns + (PROVENANCE if provenance else ()), key, day_column)


_SYMBOL = _text("symbol", "Coinbase product, such as BTC-USD")
_SIGNAL_ID = _text("signal_id", "strategy-symbol-instant, such as v7-BTC-USD-20231211T021200Z")
_STRATEGY = _text("strategy", "v7, v6 or ensemble")

_ALL: tuple[Table, ...] = (
    _build(
        "candles",
        "Closed one-minute candles as the venue last reported them.",
        ("symbol", "open_time"),
        "open_time",
        _SYMBOL,
        _time("open_time", "start of the minute; the candle is known from one minute later"),
        _number("open", "USD", "first trade's price"),
        _number("high", "USD", "highest trade's price"),
        _number("low", "USD", "lowest trade's price"),
        _number("close", "USD", "last trade's price"),
        _number("volume", "base units", "traded quantity"),
        _text("venue", "who reported it: coinbase-exchange, coinbase-advanced, sandbox"),
        _time("fetched_at", "when this version of the candle was received"),
    ),
    _build(
        "theory_features",
        "Every theory's reading of each minute, from closed candles only.",
        ("symbol", "as_of"),
        "as_of",
        _SYMBOL,
        _time("as_of", "instant of the reading: the newest candle's open_time + 1 min"),
        _reading("observed_share", "share", "share of the headline window's minutes that had a trade"),
        *theory_columns(),
    ),
    _build(
        "llm_calls",
        "The ledger: one row for each attempt to reach the analyst, reserved before, settled after.",
        ("call_id", "attempt"),
        "as_of",
        _text("call_id", "the question's identity: analyst-signal_id"),
        _count("attempt", "", "1 for the first try"),
        _SIGNAL_ID,
        _SYMBOL,
        _time("as_of", "the scan's instant"),
        _text("analyst", "who was asked"),
        _text("model", "model asked for"),
        _text("prompt", "messages as sent, JSON"),
        _text("prompt_hash", "SHA-256 of model, parameters and messages"),
        _text("prompt_version", "hash of the prompt's template"),
        _text("parameters", "temperature, max_tokens and the rest as sent, JSON"),
        _text(
            "status",
            "reserved, settled, failed (nothing billed) or unknown (settled at the reserved worst case)",
        ),
        _time("reserved_at", "when the worst case was set aside; its price decides the cost"),
        _time("settled_at", "when the outcome was written", nullable=True),
        _number("reserved_usd", "USD", "worst case set aside before the call"),
        _number("cost_usd", "USD", "true cost after it, or the reserve where it stays unknown", nullable=True),
        _text("price_version", "entry of the price table that priced it"),
        _text("raw_reply", "answer as received", nullable=True),
        _text("returned_model", "model that the answer names", nullable=True),
        _text("fingerprint", "system_fingerprint of the answer", nullable=True),
        _text("finish_reason", "why the answer ended", nullable=True),
        _count("prompt_tokens", "tokens", "tokens in the question", nullable=True),
        _count("cache_hit_tokens", "tokens", "of which were cached", nullable=True),
        _count("completion_tokens", "tokens", "tokens in the answer", nullable=True),
        _count("reasoning_tokens", "tokens", "of which were thinking", nullable=True),
        _number("latency_s", "s", "from sending to the end of the answer", nullable=True),
        _text("error", "what went wrong, without secrets", nullable=True),
    ),
    _build(
        "llm_signals",
        "One decision for each scan, symbol and strategy, or the reason why there is none.",
        ("signal_id",),
        "as_of",
        _SIGNAL_ID,
        _time("as_of", "the scan's instant"),
        _time("features_as_of", "newest reading that the decision used", nullable=True),
        _time("decided_at", "when the decision was made"),
        _SYMBOL,
        _STRATEGY,
        _text("analyst", "deepseek, rules"),
        _text("side", "BUY, SELL or HOLD; missing unless answered", nullable=True),
        _number("confidence", "0 … 1", "the analyst's confidence", nullable=True),
        _number("entry_price", "USD", "planned entry", nullable=True),
        _number("stop_price", "USD", "planned stop", nullable=True),
        _number("target_price", "USD", "planned target", nullable=True),
        _count("horizon_minutes", "min", "planned time stop", nullable=True),
        _text("reasoning", "why, in the analyst's words", nullable=True),
        _text("key_theories", "theories that decided, separated by commas", nullable=True),
        _text("would_change_my_mind", "what would make the analyst decide otherwise, in its words", nullable=True),
        _text(
            "ungrounded_numbers",
            "numbers of the reasoning that the prompt does not hold, JSON list; missing where none was checked",
            nullable=True,
        ),
        _number("market_price", "USD", "newest known close", nullable=True),
        _number("price_age_s", "s", "age of that close at decided_at", nullable=True),
        _text("call_id", "the ledger's call behind it", nullable=True),
        _text("prompt_version", "hash of the prompt's template", nullable=True),
        _text("status", "answered, abstained or skipped"),
        _text("status_reason", "reason code where not answered", nullable=True),
    ),
    _build(
        "market_context",
        "What else was known of a product when the analyst was asked; each part is missing where it did not come.",
        ("symbol", "as_of"),
        "as_of",
        _SYMBOL,
        _time("as_of", "the scan's instant"),
        _time("fetched_at", "when it was asked for"),
        _number("best_bid", "USD", "highest bid of the order book", nullable=True),
        _number("best_ask", "USD", "lowest ask of the order book", nullable=True),
        _number("bid_depth_usd", "USD", "bids within 0.1 % of the mid price", nullable=True),
        _number("ask_depth_usd", "USD", "asks within 0.1 % of the mid price", nullable=True),
        _number("reference_price_usd", "USD", "CoinGecko's price over many venues", nullable=True),
        _number("market_cap_usd", "USD", "CoinGecko's market capitalisation", nullable=True),
        _number("volume_24h_usd", "USD", "CoinGecko's volume of 24 h over many venues", nullable=True),
        _time("reference_at", "when CoinGecko last updated them", nullable=True),
        _text("faults", "parts that were asked for and did not come, and why, JSON; empty object where none"),
    ),
    _build(
        "model_regimes",
        "Which model stood behind an analyst from when on: a changed model or fingerprint begins a new regime.",
        ("analyst", "started_at"),
        "started_at",
        _text("analyst", "who was asked"),
        _time("started_at", "reserved_at of the first call that it answered"),
        _text("regime", "model@fingerprint as the answer names them, ? where it does not"),
        _text("call_id", "that call"),
        _text("model", "model that the answer names", nullable=True),
        _text("fingerprint", "system_fingerprint of the answer", nullable=True),
        _text("previous_regime", "the one before; missing for the first", nullable=True),
    ),
    _build(
        "balances",
        "What the provider said is left on the account, and what the ledger knew then.",
        ("analyst", "asked_at"),
        "asked_at",
        _text("analyst", "whose account"),
        _time("asked_at", "when it was asked for"),
        _number("total_usd", "USD", "left on the account"),
        _number("granted_usd", "USD", "of which was granted", nullable=True),
        _number("topped_up_usd", "USD", "of which was paid in", nullable=True),
        _number("known_usd", "USD", "settled cost of all calls of the ledger reserved before", nullable=True),
        _number("unknown_usd", "USD", "worst cases of the calls whose end was unknown then", nullable=True),
    ),
    _build(
        "gated_signals",
        "What the gates said of each decision; each gate is a column, every reason is kept.",
        ("signal_id",),
        "as_of",
        _SIGNAL_ID,
        _time("as_of", "the scan's instant"),
        _SYMBOL,
        _STRATEGY,
        _text("side", "BUY, SELL or HOLD; missing unless answered", nullable=True),
        _flag("freshness_ok", "the price was fresh"),
        _flag("halt_ok", "no halt was in force"),
        _flag("budget_ok", "the analyst's budget had room"),
        _flag("calls_ok", "fewer calls than the hourly limit; missing in rows of schema 3", nullable=True),
        _flag("plan_ok", "the plan holds together; missing where there is none", nullable=True),
        _flag(
            "confidence_ok",
            "the confidence reaches the threshold; missing where there is none",
            nullable=True,
        ),
        _flag("rate_ok", "fewer signals than the hourly limit; missing where it was not asked", nullable=True),
        _flag(
            "ftmo_ok",
            "room is left after the trade's worst case; missing where it was not asked",
            nullable=True,
        ),
        _flag(
            "exposure_ok",
            "not open already, and not too much that moves alike; missing where it was not asked",
            nullable=True,
        ),
        _text("gate_inputs", "what each gate saw, JSON"),
        _text("gates_off", "gates that were switched off, separated by commas; empty where none"),
        _text("reason_codes", "every reason against it, separated by commas; empty where accepted"),
        _flag("accepted", "passed all gates and is BUY or SELL"),
        _text("tier", "HIGH, MEDIUM or LOW", nullable=True),
        _number("quantity", "base units", "position that risks the set amount", nullable=True),
        _number("risk_usd", "USD", "worst case at the stop, with fees and slippage", nullable=True),
        _number("notional_usd", "USD", "that position at its expected fill", nullable=True),
        _number("lots", "lots", "that position in the firm's lots; missing without a contract size", nullable=True),
        _text(
            "capped_by", "what made the position smaller than the set risk: leverage; missing: nothing", nullable=True
        ),
    ),
    _build(
        "outcomes",
        "What became of each signal; derived from facts, recomputed at will.",
        ("signal_id", "kind", "side"),
        "as_of",
        _SIGNAL_ID,
        _text("kind", "paper (accepted), shadow (rejected, and both sides of a HOLD) or manual"),
        _time("as_of", "the signal's instant"),
        _SYMBOL,
        _STRATEGY,
        _text("side", "BUY or SELL"),
        _time("entry_time", "open_time of the entry's candle", nullable=True),
        _number("entry_price", "USD", "filled entry, slippage included", nullable=True),
        _time("exit_time", "open_time of the exit's candle", nullable=True),
        _number("exit_price", "USD", "filled exit, slippage included", nullable=True),
        _text("exit_reason", "target, stop, time; missing while open", nullable=True),
        _flag("ambiguous", "target and stop lay inside one candle; the stop was taken"),
        _number("gross_return", "fraction", "return before fees, positive is a gain on either side", nullable=True),
        _number("optimistic_return", "fraction", "net return had the target been touched first", nullable=True),
        _number("fees", "fraction", "fees of both sides", nullable=True),
        _number("net_return", "fraction", "return after fees and slippage", nullable=True),
        _number("r_multiple", "R", "net return ÷ planned risk", nullable=True),
        _number("mfe", "fraction", "largest move in favour", nullable=True),
        _number("mae", "fraction", "largest move against, ≤ 0", nullable=True),
        _number("quantity", "base units", "position; missing for shadows", nullable=True),
        _number("pnl_usd", "USD", "profit or loss at that position; missing for shadows", nullable=True),
        _text("outcome", "win, loss, breakeven or open"),
        _text("fee_preset", "named fees behind it"),
        _time("followed_until", "newest candle end that was looked at", nullable=True),
        _count(
            "holding_minutes",
            "min",
            "from the entry's open to the end of the exit's candle; missing while open, and in rows of schema 4",
            nullable=True,
        ),
        _count(
            "gap_minutes", "min", "minutes without a candle while it was open; missing before its entry", nullable=True
        ),
        _number("slippage", "fraction", "lost on each market fill; missing in rows of schema 4", nullable=True),
        _time("labelled_at", "when this version of the row was made from candles", nullable=True),
    ),
    _build(
        "theory_performance",
        "What each theory said of each closed signal, and whether it was right.",
        ("signal_id", "theory_name"),
        "as_of",
        _SIGNAL_ID,
        _text("theory_name", "one of the ten"),
        _text("kind", "paper or shadow"),
        _time("as_of", "the signal's instant"),
        _SYMBOL,
        _STRATEGY,
        _number("contribution_score", "0 … 1", "the theory's score at the signal"),
        _number("vote", "−1 … 1", "the theory's vote at the signal"),
        _number("forward_return", "fraction", "long-side net return over the trade"),
        _flag("was_correct", "vote and forward return have one sign; missing where it abstained", nullable=True),
        _time("created_at", "exit time of the outcome"),
    ),
    _build(
        "theory_attribution",
        "What each theory has been worth so far, with its uncertainty.",
        ("as_of", "theory_name", "scope"),
        "as_of",
        _time("as_of", "outcomes closed before this instant count"),
        _text("theory_name", "one of the ten"),
        _text("scope", "all, symbol:…, side:… or regime:…"),
        _count("n", "votes", "closed outcomes on which it voted"),
        _number("n_eff", "votes", "the same with overlapping trades sharing weight"),
        _number("accuracy", "share", "share of votes that were right", nullable=True),
        _number("accuracy_lower", "share", "lower end of the 95 % Wilson interval", nullable=True),
        _number("accuracy_upper", "share", "upper end of the 95 % Wilson interval", nullable=True),
        _number(
            "shrunk_accuracy",
            "share",
            "empirical-Bayes estimate, shrunk towards the ten's mean",
            nullable=True,
        ),
        _number("ic", "rank correlation", "vote against forward return", nullable=True),
        _number("ic_lower", "rank correlation", "lower end of its 95 % block-bootstrap interval", nullable=True),
        _number("ic_upper", "rank correlation", "upper end of its 95 % block-bootstrap interval", nullable=True),
        _number(
            "shapley",
            "R a trade",
            "exact Shapley value of the rules combiner's mean net R",
            nullable=True,
        ),
        _number("p_value", "probability", "block-permutation p of the vote's direction", nullable=True),
        _number("q_value", "probability", "Benjamini–Hochberg over the ten", nullable=True),
        _text("verdict", "helps, hurts, indistinguishable or too few"),
        _number("holm_p", "probability", "Holm over the ten; the verdict rests on it", nullable=True),
        _number("icir", "ratio", "mean ÷ standard deviation of the blocks' ic", nullable=True),
        _number("icir_lower", "ratio", "lower end of its 95 % block-bootstrap interval", nullable=True),
        _number("icir_upper", "ratio", "upper end of its 95 % block-bootstrap interval", nullable=True),
        _number("contribution_wins", "0 … 1", "mean score in trades that won", nullable=True),
        _number("contribution_losses", "0 … 1", "mean score in trades that lost", nullable=True),
        _number("drift", "share", "accuracy of the later half less that of the earlier", nullable=True),
        _number("drift_lower", "share", "lower end of its 95 % interval", nullable=True),
        _number("drift_upper", "share", "upper end of its 95 % interval", nullable=True),
        _number("drift_p", "probability", "p of no drift, for this theory alone", nullable=True),
    ),
    _build(
        "theory_weights",
        "Proposed weights of the rules analyst, with their evidence.",
        ("as_of", "theory_name"),
        "as_of",
        _time("as_of", "outcomes closed before this instant count; a proposal may act in later scans only"),
        _text("theory_name", "one of the ten"),
        _number("weight", "share", "proposed weight; the ten sum to 1"),
        _number("equal_share", "share", "how much of it is the equal weighting; 1 where there is no evidence"),
        _text("evidence", "what it rests on, JSON"),
        _flag("acting", "the settings of that scan let proposals act"),
    ),
    _build(
        "win_rates",
        "Beta posteriors of closed outcomes, as of each change.",
        ("as_of", "scope"),
        "as_of",
        _time("as_of", "outcomes closed before this instant count"),
        _text("scope", "all, strategy:…, symbol:…, side:…, tier:…, regime:…; shadow:all, hold:all, manual:all"),
        _number("alpha", "wins", "posterior alpha, prior included"),
        _number("beta", "losses", "posterior beta, prior included"),
        _number("mean", "probability", "posterior mean"),
        _number("lower", "probability", "lower end of the 95 % equal-tail interval"),
        _number("upper", "probability", "upper end of the 95 % equal-tail interval"),
        _count("n", "outcomes", "wins and losses counted; breakevens are not"),
        _number("prior_alpha", "wins", "the prior's alpha; missing in rows of schema 4", nullable=True),
        _number("prior_beta", "losses", "the prior's beta; missing in rows of schema 4", nullable=True),
        _number(
            "half_life_trades",
            "trades",
            "effective later trades by which a trade's weight halves; missing: none is discounted",
            nullable=True,
        ),
        _number("n_eff", "outcomes", "the same with overlap sharing weight and the discount", nullable=True),
        _number(
            "shrunk_mean",
            "probability",
            "posterior mean shrunk towards parent_scope; missing without one",
            nullable=True,
        ),
        _number("shrunk_lower", "probability", "lower end of its 95 % equal-tail interval", nullable=True),
        _number("shrunk_upper", "probability", "upper end of its 95 % equal-tail interval", nullable=True),
        _text("parent_scope", "the scope it is shrunk towards", nullable=True),
    ),
    _build(
        "confidence_thresholds",
        "The confidence threshold that outcomes have taught: a row for its beginning and for each change.",
        ("strategy", "as_of"),
        "as_of",
        _STRATEGY,
        _time("as_of", "outcomes closed before this instant count; later scans heed it"),
        _number("threshold", "0 … 1", "a BUY or SELL with less confidence is rejected"),
        _number("floor", "0 … 1", "V7_MIN_CONFIDENCE then; the threshold is never below it"),
        _number("previous", "0 … 1", "the threshold before; missing in the first row", nullable=True),
        _text("reason", "why it is what it is, in one sentence"),
        _count("n", "outcomes", "wins and losses behind the reason, paper and shadow"),
        _number("n_eff", "outcomes", "the same with overlap sharing weight and older ones discounted"),
        _number(
            "p_below", "probability", "posterior probability that their win rate is below break-even", nullable=True
        ),
        _number("break_even", "share", "the win rate at which their plans neither gain nor lose", nullable=True),
    ),
    _build(
        "strategy_models",
        "The models that v6 decides its days with, each fitted on what had closed by its midnight.",
        ("strategy", "symbol", "fitted_for"),
        "fitted_for",
        _STRATEGY,
        _SYMBOL,
        _time("fitted_for", "midnight UTC of the day that it decides"),
        _text("coefficients", "intercept, coefficients, centres and scales by indicator, JSON"),
        _count("n", "trades", "closed trades of both sides that it was fitted on"),
        _count("wins", "trades", "of which won"),
        _number("n_eff", "trades", "the same with overlap sharing weight"),
        _number("win_r", "R", "mean R of those won"),
        _number("loss_r", "R", "mean R of those lost"),
        _time("first_as_of", "instant of the first of them"),
        _time("last_as_of", "instant of the last of them"),
        _time("fitted_at", "when it was fitted"),
    ),
    _build(
        "calibrations",
        "How well the analyst's confidence told wins from losses, at most once an hour.",
        ("as_of", "scope"),
        "as_of",
        _time("as_of", "outcomes closed before this instant count"),
        _text("scope", "all, analyst:… or model:… (model@fingerprint)"),
        _count("n", "outcomes", "wins and losses of BUY and SELL, paper and shadow"),
        _number("n_eff", "outcomes", "the same with overlap sharing weight"),
        _number("brier", "0 … 1", "mean squared difference of confidence and result; 0 is best", nullable=True),
        _number("reliability", "0 … 1", "Murphy's part that miscalibration costs; 0 is best", nullable=True),
        _number("resolution", "0 … 1", "Murphy's part that telling apart gains", nullable=True),
        _number("uncertainty", "0 … 1", "Murphy's part that the base rate leaves", nullable=True),
        _number("log_loss", "nats", "mean −log of the probability given to what happened", nullable=True),
        _number("ece", "0 … 1", "mean distance of confidence and win rate over the bins", nullable=True),
        _number("skill", "share", "1 − Brier score ÷ that of the win rate of the past; 0: no better", nullable=True),
        _number("slope", "", "slope of the result on the confidence's log-odds; 1: calibrated", nullable=True),
        _number("intercept", "log-odds", "its intercept; 0: calibrated", nullable=True),
        _text("method", "recalibration: platt, isotonic, or none where there is too little"),
        _number(
            "recalibrated_brier",
            "0 … 1",
            "Brier score of confidences recalibrated on the past of each only",
            nullable=True,
        ),
        _text("bins", "reliability bins with n and 95 % Wilson intervals, JSON list"),
    ),
    _build(
        "scans",
        "One row for each scan.",
        ("as_of",),
        "as_of",
        _time("as_of", "the scan's instant"),
        _time("started_at", "when it first began"),
        _time("finished_at", "when it last ended", nullable=True),
        _text("symbols", "products scanned, separated by commas"),
        _text("status", "started, finished or failed"),
        _text("failures", "symbols that failed and why, JSON; empty object where none"),
        _count("candles_written", "rows", "new or revised candles", nullable=True),
        _count("signals", "rows", "rows of llm_signals for this instant", nullable=True),
        _count("accepted", "rows", "of which accepted", nullable=True),
        _count("closed", "rows", "outcomes closed by this scan", nullable=True),
        _number("cost_usd", "USD", "analyst cost of this instant", nullable=True),
    ),
    _build(
        "halts",
        "Times in which no signal may be accepted.",
        ("halt_id",),
        "started_at",
        _text("halt_id", "identity"),
        _text("kind", "manual, daily, total or budget (which stops paid calls only)"),
        _time("started_at", "in force from here"),
        _time("until", "in force to here; missing until a person lifts it", nullable=True),
        _text("reason", "why"),
        _time("lifted_at", "when a person lifted it", nullable=True),
        _text("lifted_reason", "why it was lifted", nullable=True),
    ),
    _build(
        "crossings",
        "Levels that a watched figure has crossed: one row and one alert a crossing, armed again once it receded.",
        ("subject", "period", "level", "crossed_at"),
        "crossed_at",
        _text("subject", "budget_day, budget_month, ftmo_daily, ftmo_total or ftmo_target"),
        _text("period", "the day, month or account that the figure belongs to"),
        _number("level", "share", "what was crossed, as a share of the allowance or of the target"),
        _time("crossed_at", "when it was seen"),
        _number("value", "share", "the figure then"),
        _time("receded_at", "when it was seen to be below again", nullable=True),
    ),
    _build(
        "account_readings",
        "The trader's real account as read off by a person: the account is replayed from the newest one.",
        ("at",),
        "at",
        _time("at", "when the account had these figures"),
        _time("recorded_at", "when they were typed in; scans before it did not know them"),
        _number("balance_usd", "USD", "balance: closed trades only"),
        _number("equity_usd", "USD", "equity: with what is open", nullable=True),
        _number("day_start_usd", "USD", "balance at the firm's midnight before", nullable=True),
        _text("note", "the person's remark", nullable=True),
    ),
    _build(
        "alerts",
        "The outbox: written with its event, delivered once by a sensor.",
        ("alert_id",),
        "created_at",
        _text("alert_id", "identity of the event and its kind"),
        _time("created_at", "the event's instant"),
        _text("kind", "what happened: signal, trade_closed, check_failed, run_failed, recovery … (docs/alerts.md)"),
        _text("severity", "info, warning or critical"),
        _text("title", "one line"),
        _text("body", "the message, plain text"),
        _text("status", "pending, delivered, failed, suppressed or no_destination; of its destinations together"),
        _count("attempts", "", "deliveries tried, of all destinations"),
        _time("delivered_at", "when it first arrived", nullable=True),
        _text("error", "the last failure, without secrets", nullable=True),
        _text("subject", "what it is about; alike are told once in a window, and a recovery ends it", nullable=True),
    ),
    _build(
        "alert_deliveries",
        "What became of each alert at each destination: the outbox's state, so that a kill loses none.",
        ("alert_id", "destination"),
        "created_at",
        _text("alert_id", "the alert"),
        _text("destination", "scheme and a digest of its URL, such as tgram-1f0c2a9b"),
        _time("created_at", "the alert's instant"),
        _text("status", "pending, sending, delivered, failed or suppressed"),
        _count("attempts", "", "deliveries begun"),
        _time("next_try_at", "not before; of one being sent: when it counts as interrupted", nullable=True),
        _time("begun_at", "when the newest attempt began", nullable=True),
        _time("delivered_at", "when the destination took it", nullable=True),
        _text("error", "the last failure, without secrets", nullable=True),
        _flag("holds", "whether the failure was the destination's, which then waits with all of its alerts"),
        _text("folded_into", "of a suppressed one: the delivered alert that tells of the same", nullable=True),
    ),
    _build(
        "outages",
        "Spans of missing minutes that the market was asked for and has no candles of: they are not asked for again.",
        ("symbol", "first_minute"),
        "first_minute",
        _SYMBOL,
        _time("first_minute", "open_time of the first missing minute"),
        _time("last_minute", "open_time of the last missing minute"),
        _count("minutes", "min", "how many minutes are missing"),
        _time("asked_at", "when the market was asked and had none"),
    ),
    _build(
        "manual_trades",
        "What the trader did, as a history that is never overwritten.",
        ("event_id",),
        "at",
        _text("event_id", "identity of the record"),
        _SIGNAL_ID,
        _SYMBOL,
        _text("side", "BUY or SELL"),
        _text("action", "entry, exit, edit or void"),
        _time("at", "when it happened"),
        _time("recorded_at", "when it was recorded"),
        _number("price", "USD", "fill", nullable=True),
        _number("quantity", "base units", "filled quantity", nullable=True),
        _number("fee_usd", "USD", "fee paid", nullable=True),
        _text("reason", "why, in the trader's words", nullable=True),
    ),
    _build(
        "backtest_trials",
        "Every configuration that was ever simulated, counted by itself: what a figure was chosen from.",
        ("trial_id",),
        "created_at",
        _text("trial_id", "the configuration's identity, such as trial-20231211-5f0c2a9e41d7"),
        _STRATEGY,
        _text("name", "what it was called when it was first recorded"),
        _text("configuration", "settings with an effect, the theories' shares, analyst and code version, JSON"),
        _time("first", "first scan's instant"),
        _time("last", "last scan's instant"),
        _count("every_minutes", "min", "between two scans; 0 where there was one only"),
        _text("symbols", "products, separated by commas"),
        _text("venue", "who reported the candles"),
        _count("n_trades", "trades", "closed paper trades"),
        _number("mean_r", "R", "their mean net R; missing where there is none", nullable=True),
        _number("net_usd", "USD", "their summed net P&L"),
        _number(
            "sharpe_daily", "ratio of a day", "of net_return in backtest_daily; missing: never differs", nullable=True
        ),
        _time("created_at", "when it was first recorded"),
    ),
    _build(
        "backtest_daily",
        "What each trial earned on each UTC day, so that its Sharpe ratio and its overfitting can be told.",
        ("trial_id", "day"),
        "day",
        _text("trial_id", "the trial in backtest_trials"),
        _time("day", "midnight UTC that begins the day"),
        _number("net_return", "fraction", "net P&L of the paper trades closed on it ÷ the initial capital; 0 for none"),
    ),
    _build(
        "schema_version",
        "Which schema the store has.",
        ("version",),
        None,
        _count("version", "", "schema version"),
        _time("applied_at", "when it was applied"),
        _text("code_version", "version of the code that applied it"),
        provenance=False,
    ),
)

TABLES: dict[str, Table] = {entry.name: entry for entry in _ALL}

# The plan's original columns, so that its SQL runs unchanged.
SIGNALS_VIEW = """
CREATE OR REPLACE VIEW signals AS
SELECT s.signal_id AS id, s.as_of AS "timestamp", s.symbol, s.side AS signal_type, s.confidence, s.reasoning,
       g.tier, g.ftmo_ok AS ftmo_compliant, g.accepted AS executed, s.decided_at AS created_at
FROM llm_signals s JOIN gated_signals g USING (signal_id)
"""


def table(name: str) -> Table:
    """The table called `name`; KeyError that lists the known ones."""
    try:
        return TABLES[name]
    except KeyError:
        raise KeyError(f"no table {name!r}; the store has {', '.join(TABLES)}") from None
