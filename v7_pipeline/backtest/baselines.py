"""What a strategy is compared with on the same candles, fees and gates: plainer rules, and its own less a part.

Simulating is the engine's (it is injected), entering at random random_entry.py's; no decision and no fill is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.analyst.rules import own_weights
from v7_pipeline.backtest.comparison import Baseline, Simulation
from v7_pipeline.backtest.equity import daily_equity, days_of
from v7_pipeline.backtest.replay import BacktestError
from v7_pipeline.settings import Settings
from v7_pipeline.store import signal_id
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline.trades import fee_preset
from v7_pipeline.trades.pnl import entry_fill, fee_return, gross_return, market_exit_fill

__all__ = [
    "MOMENTUM",
    "Simulate",
    "all_baselines",
    "always_hold",
    "analyst_without_theories",
    "as_baseline",
    "buy_and_hold",
    "equal_weight_vote",
    "momentum_only",
    "without_each_theory",
]

Floats = npt.NDArray[np.float64]
OnProgress = Callable[[str, int, int], None]

MOMENTUM = "price_momentum"
BASELINES_STAGE = "baselines"
MINUTE = pd.Timedelta(minutes=1)
DAY = pd.Timedelta(days=1)
TRADE_COLUMNS = (
    "signal_id", "symbol", "side", "entry_time", "entry_price", "exit_time", "exit_price", "quantity", "net_return",
    "r_multiple", "pnl_usd", "outcome",
)  # fmt: skip
_MINUTE_US = 60_000_000


class Simulate(Protocol):
    """A strategy over the prepared candles and readings of one span: the rules with `weights` (None: as v7 has them).

    Where `weights` name fewer theories than the mode needs to agree, the rules hear `echoed` readings.
    """

    def __call__(self, settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation: ...


def all_baselines(
    simulate: Simulate,
    own: Simulation,
    candles: pd.DataFrame,
    *,
    on_progress: OnProgress | None = None,
) -> list[Baseline]:
    """Every baseline that needs no call: holding, never trading, momentum only, equal weights, each theory left out.

    candles: symbol, open_time, open, high, low, close of the span of `own`. on_progress(stage, done, total) counts
    simulations.
    """
    settings, first, until = own.settings, own.instants[0], own.instants[-1]
    total, done = 2 + len(_heard(settings)), 0

    def counted(settings: Settings, weights: Mapping[str, float] | None, name: str) -> Simulation:
        nonlocal done
        found = simulate(settings, weights, name)
        done += 1
        if on_progress:
            on_progress(BASELINES_STAGE, done, total)
        return found

    return [
        *buy_and_hold(candles, settings, first=first, until=until),
        always_hold(settings, first=first, until=until),
        momentum_only(counted, settings, candles),
        equal_weight_vote(counted, settings, candles, own=own),
        *without_each_theory(counted, settings, candles),
    ]


# --- without a simulation -------------------------------------------------------------------


def buy_and_hold(candles: pd.DataFrame, settings: Settings, *, first: datetime, until: datetime) -> list[Baseline]:
    """All of the account's money long from the open of the first candle at or after `first` to the last close.

    First an equal share in each of settings.symbols, then each symbol alone with all of the money. Market fills with
    slippage, fees of both sides. R is missing: there is no stop to measure it by, and the outcome is the net's sign.
    BacktestError where a symbol has no candle between `first` and `until`.
    """
    held = [_held(candles, settings, symbol, first, until) for symbol in settings.symbols]
    found = []
    groups = [held] if len(held) == 1 else [held, *([one] for one in held)]
    for group in groups:
        money = settings.account_initial_usd / len(group)
        rows = [row | {"quantity": money / row["entry_price"], "pnl_usd": money * row["net_return"]} for row in group]
        trades = pd.DataFrame(rows)[list(TRADE_COLUMNS)]
        alone = len(group) == 1
        what = f"All of the account's money in {group[0]['symbol']}" if alone else "An equal share of it in each symbol"
        found.append(
            Baseline(
                f"buy and hold {group[0]['symbol']}" if alone else "buy and hold",
                f"{what}, bought at the span's first open and sold at its last close. One trade a symbol: n says "
                "nothing, and the sums at risk are far larger than a strategy's that risks a part on each trade.",
                trades,
                daily_equity(
                    trades.assign(fee_preset=settings.fees),
                    candles,
                    first=first,
                    last=until,
                    initial_usd=settings.account_initial_usd,
                ),
            )
        )
    return found


def always_hold(settings: Settings, *, first: datetime, until: datetime) -> Baseline:
    """No trade: the account as it was."""
    days = days_of(first, until)
    return Baseline(
        "always HOLD",
        "Never trades: what costs nothing and gains nothing.",
        pd.DataFrame(columns=list(TRADE_COLUMNS)),
        pd.DataFrame({"day": days, "equity_usd": np.full(len(days), settings.account_initial_usd)}),
    )


def _held(candles: pd.DataFrame, settings: Settings, symbol: str, first: datetime, until: datetime) -> dict[str, Any]:
    rows = candles[
        (candles["symbol"] == symbol) & (candles["open_time"] >= first) & (candles["open_time"] + MINUTE <= until)
    ]
    if rows.empty:
        raise BacktestError(
            f"no candle of {symbol} between {first:%Y-%m-%d %H:%M}Z and {until:%Y-%m-%d %H:%M}Z to buy at; "
            "leave it out of the symbols, or fetch its candles with v7 backfill"
        )
    bought, sold = rows.loc[rows["open_time"].idxmin()], rows.loc[rows["open_time"].idxmax()]
    entry = float(entry_fill(bought["open"], 1.0, settings.slippage))
    exit_ = float(market_exit_fill(sold["close"], 1.0, settings.slippage))
    net = gross_return(1.0, entry, exit_) - fee_return(fee_preset(settings.fees).rate_per_side, entry, exit_)
    return {
        "signal_id": signal_id("hold", symbol, pd.Timestamp(first).floor("min").to_pydatetime()),
        "symbol": symbol,
        "side": "BUY",
        "entry_time": bought["open_time"],
        "entry_price": entry,
        "exit_time": sold["open_time"],
        "exit_price": exit_,
        "net_return": float(net),
        "r_multiple": np.nan,
        "outcome": "win" if net > 0 else "loss" if net < 0 else "breakeven",
    }


# --- through a simulation -------------------------------------------------------------------


def momentum_only(simulate: Simulate, settings: Settings, candles: pd.DataFrame) -> Baseline:
    """The rules with the ear for one theory: trades where momentum alone reaches the mode's strength, either side."""
    found = simulate(settings, {MOMENTUM: 1.0}, "momentum only")
    meaning = (
        "The rules hear price momentum alone: BUY or SELL with its sign where vote × score reaches the mode's "
        "strength, v7's plan, gates and fees."
    )
    if not found.signals["side"].isin(("BUY", "SELL")).any():
        meaning += " It never did so here."
    return as_baseline(found, meaning, candles)


def equal_weight_vote(
    simulate: Simulate, settings: Settings, candles: pd.DataFrame, *, own: Simulation | None = None
) -> Baseline:
    """All ten theories with one weight; `own`, where given, is counted against it."""
    found = simulate(settings, dict.fromkeys(THEORY_NAMES, 1.0), "equal-weight vote")
    if _equal(settings):
        meaning = "The ten theories with one weight each. The rules weigh them so already: with them this is v7 itself."
    else:
        given = ", ".join(f"{name} {weight:g}" for name, weight in sorted(_weights(settings).items()) if weight != 1)
        meaning = f"The ten theories with one weight each; v7 has {given} here (V7_RULES_WEIGHTS) and 1 for the others."
    if own is not None:
        meaning += f" {_differing(found, own)} of {len(own.signals)} decisions have another side than {own.name}'s."
    return as_baseline(found, meaning, candles)


def without_each_theory(simulate: Simulate, settings: Settings, candles: pd.DataFrame) -> list[Baseline]:
    """The rules without each theory in turn (weight 0), the others as they are; the mode's thresholds stay."""
    weights = _weights(settings)
    found = []
    for theory in _heard(settings):
        simulation = simulate(settings, weights | {theory: 0.0}, f"v7 without {theory}")
        meaning = (
            f"v7's rules with weight 0 for {theory}; the others share its weight and the thresholds stay. What v7 has "
            "more than this is what the theory was worth beside the others, on this one path."
        )
        found.append(as_baseline(simulation, meaning, candles))
    return found


def as_baseline(simulation: Simulation, meaning: str, candles: pd.DataFrame) -> Baseline:
    """A simulation's closed paper trades, and its account at each day's end (open trades among them, at the close)."""
    settings = simulation.settings
    entered = simulation.outcomes[(simulation.outcomes["kind"] == "paper") & simulation.outcomes["entry_time"].notna()]
    equity = daily_equity(
        entered,
        candles,
        first=simulation.instants[0],
        last=simulation.instants[-1],
        initial_usd=settings.account_initial_usd,
    )
    return Baseline(simulation.name, meaning, simulation.paper, equity)


def _weights(settings: Settings) -> dict[str, float]:
    """v7's weights as given; learnt ones never act in a backtest."""
    return own_weights(settings.rules_weights) or dict.fromkeys(THEORY_NAMES, 1.0)


def _heard(settings: Settings) -> list[str]:
    """The theories that can be left out: those with a weight, where another has one too."""
    heard = [name for name, weight in _weights(settings).items() if weight > 0]
    return heard if len(heard) > 1 else []


def _equal(settings: Settings) -> bool:
    return len(set(_weights(settings).values())) == 1


def _differing(one: Simulation, other: Simulation) -> int:
    """How many decisions of the same symbol and instant have another side."""
    sides = [s.signals.set_index(["symbol", "as_of"])["side"] for s in (one, other)]
    both = pd.concat(sides, axis=1, keys=["one", "other"]).fillna("")
    return int((both["one"] != both["other"]).sum())


# --- the analyst without the theories -------------------------------------------------------


def analyst_without_theories(found: Simulation, own: Simulation, candles: pd.DataFrame) -> Baseline:
    """What the language model of `own` came to at the same instants without any theory: `found`, a replay of its own.

    How often it answered and decided otherwise is told of the instants at which both were asked.
    """
    asked = ~found.signals["status_reason"].isin(_NOT_ASKED)
    answered = asked & (found.signals["status"] == "answered")
    n, trades = int(asked.sum()), int((answered & found.signals["side"].isin(("BUY", "SELL"))).sum())
    both = _asked_of(own).merge(_asked_of(found), on=["symbol", "as_of"], suffixes=("_own", "_plain"))
    other = int((both["side_own"].fillna("") != both["side_plain"].fillna("")).sum())
    return as_baseline(
        found,
        "The same language model at the same instants with the same task, account and plan, told the candles of four "
        "hours instead of the theories: what v7 has more than this is what the theories were worth to it. "
        f"{n:,} question{'' if n == 1 else 's'}, {int(answered.sum()):,} answered, {trades:,} BUY or SELL; of "
        f"{len(both):,} that both were asked {other:,} were decided otherwise.",
        candles,
    )


def _asked_of(simulation: Simulation) -> pd.DataFrame:
    signals = simulation.signals
    return signals.loc[~signals["status_reason"].isin(_NOT_ASKED), ["symbol", "as_of", "side"]]


# Instants outside the sample, and what the confirmed sum did not hold.
_NOT_ASKED = ("NOT_SAMPLED", "NOT_CONFIRMED")
