"""Every figure of a backtest's report, each with value, interval, n and unit, or the reason why it is missing.

Gathered from frames; the statistics are learning/'s, the firm's rules gates/'s, daily risk risk.py's. What may be
concluded is verdict.py's, how it looks page.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.backtest.comparison import Baseline, RandomEntry, Simulation, Trials
from v7_pipeline.backtest.equity import account_curve, daily_equity, drawdown, drawdowns, fill_fees
from v7_pipeline.backtest.risk import Item, difference, draws, item_of, risk_items
from v7_pipeline.gates.base import GATES
from v7_pipeline.learning.calibration import Calibration, calibration
from v7_pipeline.learning.frames import instants, trade_weights
from v7_pipeline.learning.metrics import Summary, summary
from v7_pipeline.learning.statistics import mean_interval
from v7_pipeline.market.quality import outages
from v7_pipeline.store.schema import THEORY_NAMES

if TYPE_CHECKING:
    from v7_pipeline.gates.challenge import Simulation as Challenge

__all__ = ["Attributed", "Figures", "Gaps", "Material", "Rival", "figures"]

Floats = npt.NDArray[np.float64]

MINUTE = timedelta(minutes=1)
#: Instants of the curve that is drawn; drawdown is measured at every scan.
CURVE_POINTS = 1500
#: Longer silences than this many minutes are told one by one.
SILENCE = 15
_LIST = 30
_ATTRIBUTION = (
    "theory_name", "n", "n_eff", "accuracy", "accuracy_lower", "accuracy_upper", "ic", "ic_lower", "ic_upper",
    "shapley", "holm_p", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    candles: symbol, open_time, open, high, low, close. readings: theory_features rows (symbol, as_of, p_bear,
    p_sideways, p_bull and, for attribution, each theory's vote and score), None where there are none. attribution:
    theory_attribution rows of one instant, None to have them reckoned from the readings. `command` made the backtest;
    `no_random_entry` says why there is none; `absent` has the baselines that are not there, each with the reason;
    `notes` are further sentences for the verdict, such as what a model may have read of the span.
    """

    run_id: str
    code_version: str
    simulation: Simulation
    candles: pd.DataFrame
    venues: tuple[str, ...]
    every: timedelta
    readings: pd.DataFrame | None = None
    attribution: pd.DataFrame | None = None
    baselines: tuple[Baseline, ...] = ()
    random_entry: RandomEntry | None = None
    no_random_entry: str = ""
    notes: tuple[str, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    trials: Trials | None = None
    command: str = ""

    @property
    def is_demo(self) -> bool:
        """Whether a candle of the sandbox is among those replayed."""
        return any("sandbox" in venue for venue in self.venues)


@dataclass(frozen=True)
class Rival:
    """A baseline's figures over the same days, and the strategy's mean daily return less its own."""

    name: str
    meaning: str
    items: dict[str, Item]
    difference: Item
    daily: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Gaps:
    """Candles that were not there. `symbols`: symbol, due, candles, missing, share; `silences`: the longest ones."""

    symbols: pd.DataFrame
    silences: pd.DataFrame
    count: int


@dataclass(frozen=True)
class Attributed:
    """What each theory was worth: rows of the scope `all`, and why there are none."""

    rows: pd.DataFrame
    note: str


@dataclass(frozen=True)
class Figures:
    """One backtest in figures. Money in USD, instants UTC.

    `sections`: title → items. `curve`: at, equity_usd, balance_usd, drawdown (some instants); `daily`: day, equity_usd,
    net_return, drawdown. `months`: month, days, net_return. `funnel`: stage, n, meaning. `gates`: gate, asked, passed,
    failed, alone. `groups`: by, name, n, n_eff, and win_rate, mean_r, net_usd each with lower and upper. `trades`: the
    closed paper trades. `reasons`: reason, n.
    """

    material: Material
    first: datetime
    last: datetime
    sections: dict[str, tuple[Item, ...]]
    curve: pd.DataFrame
    daily: pd.DataFrame
    months: pd.DataFrame
    funnel: pd.DataFrame
    gates: pd.DataFrame
    reasons: pd.DataFrame
    groups: pd.DataFrame
    trades: pd.DataFrame
    told: Summary
    shadow: Summary
    rivals: tuple[Rival, ...]
    calibration: Calibration
    attributed: Attributed
    challenge: Challenge | None
    gaps: Gaps

    def item(self, name: str) -> Item:
        """The figure called `name`; KeyError where there is none."""
        for items in self.sections.values():
            for item in items:
                if item.name == name:
                    return item
        raise KeyError(f"no figure {name!r} in this report")

    def items(self) -> Iterator[Item]:
        """All figures of all sections."""
        for part in self.sections.values():
            yield from part


def figures(material: Material) -> Figures:
    """All figures of a backtest; ValueError where it has no scan."""
    sim = material.simulation
    if not len(sim.instants):
        raise ValueError(f"backtest {material.run_id} has no scan, so there is nothing to report; give a later end")
    first, last = sim.instants[0].to_pydatetime(), sim.instants[-1].to_pydatetime()
    initial = sim.settings.account_initial_usd
    entered = _entered(sim)
    curve = _curve(entered, material, initial)
    daily = daily_equity(entered, material.candles, first=first, last=last, initial_usd=initial)
    daily["net_return"] = _returns(daily["equity_usd"], initial)
    daily["drawdown"] = drawdown(daily["equity_usd"], initial)
    trades = _trades(sim, material.readings)
    told, shadow = (summary(sim.outcomes, kind=k, minimum_n=sim.settings.min_effective_n) for k in ("paper", "shadow"))
    challenge, firm = _firm(sim, entered, material.candles, last)
    risk = risk_items(daily["net_return"])
    sections = {
        "Return and risk": (*risk, *_depths(curve, first, initial)),
        "Trades": _trade_items(told, trades, daily),
        "Costs and use": _costs(trades, told, (first, max(last, first + MINUTE)), initial),
        "Could it be chance?": _chance(daily["net_return"].to_numpy(), material.trials),
        "The prop firm's challenge": (_stopped(sim, last), *firm),
        "If both barriers lay in one candle": _ambiguity(trades, initial),
    }
    return Figures(
        material=material,
        first=first,
        last=last,
        sections=sections,
        curve=_thin(curve),
        daily=daily,
        months=_months(daily, initial),
        funnel=_funnel(sim),
        gates=_gates(sim.gated),
        reasons=_reasons(sim.gated),
        groups=_groups(trades, sim),
        trades=trades,
        told=told,
        shadow=shadow,
        rivals=tuple(_rival(one, daily, sim) for one in material.baselines),
        calibration=_calibration(sim, last),
        attributed=_attributed(material, last),
        challenge=challenge,
        gaps=_gaps(material.candles, sorted(set(sim.signals["symbol"])), first, last),
    )


# --- the account ----------------------------------------------------------------------------


def _entered(sim: Simulation) -> pd.DataFrame:
    """Paper trades that were filled, closed or open."""
    o = sim.outcomes
    return o[(o["kind"] == "paper") & o["entry_time"].notna()].reset_index(drop=True)


def _curve(entered: pd.DataFrame, material: Material, initial: float) -> pd.DataFrame:
    """The account at every scan, and how far below its peak it was."""
    found = account_curve(entered, material.candles, material.simulation.instants, initial_usd=initial)
    return found.assign(drawdown=drawdown(found["equity_usd"], initial))


def _thin(curve: pd.DataFrame) -> pd.DataFrame:
    """At most CURVE_POINTS rows, evenly chosen from the last backwards, and the lowest point among them."""
    step = max(1, -(-len(curve) // CURVE_POINTS))
    kept = set(range(len(curve) - 1, -1, -step)) | {int(curve["drawdown"].to_numpy().argmin())}
    return curve.iloc[sorted(kept)].reset_index(drop=True)


def _returns(equity: pd.Series, initial: float) -> Floats:
    """Daily net returns: each day's equity against that of the day before."""
    values = np.concatenate([[initial], equity.to_numpy(np.float64)])
    return values[1:] / values[:-1] - 1.0


def _depths(curve: pd.DataFrame, first: datetime, initial: float) -> tuple[Item, ...]:
    """Depth and length of the deepest drawdown of the curve at every scan, and the longest one's length."""
    found = drawdowns(pd.DatetimeIndex(curve["at"]), curve["equity_usd"], first=first, start=initial)
    label = "maximum drawdown at any scan"
    if not found:
        nothing = "the account was never below its peak"
        return (
            Item("max_drawdown_scans", label, "fraction", 0.0, n=len(curve)),
            *(Item(name, text, "days", nan, n=0, note=nothing) for name, text in _LENGTHS),
        )
    deepest, longest = min(found, key=lambda d: d.depth), max(found, key=lambda d: d.days)
    lengths = (deepest, longest)
    return (
        Item("max_drawdown_scans", label, "fraction", deepest.depth, n=len(curve), note="one path has no interval"),
        *(
            Item(name, text, "days", one.days, n=len(found), note=_until(one))
            for (name, text), one in zip(_LENGTHS, lengths, strict=True)
        ),
    )


_LENGTHS = (
    ("max_drawdown_days", "its length, from peak to recovery"),
    ("longest_drawdown_days", "longest time below a peak"),
)


def _until(one: Any) -> str:
    end = "not recovered by the end" if one.recovered is None else f"recovered {one.recovered:%Y-%m-%d %H:%M}Z"
    return f"from {one.peak:%Y-%m-%d %H:%M}Z, lowest {one.trough:%Y-%m-%d %H:%M}Z, {end}"


def _months(daily: pd.DataFrame, initial: float) -> pd.DataFrame:
    """UTC months with the days they have in the span and their net return."""
    month = (daily["day"] - pd.Timedelta(days=1)).dt.strftime("%Y-%m")
    grouped = daily.groupby(month.rename("month"), sort=True)
    ends = grouped["equity_usd"].last()
    before = ends.shift(fill_value=initial)
    return pd.DataFrame(
        {"month": ends.index, "days": grouped.size().to_numpy(), "net_return": (ends / before - 1.0).to_numpy()}
    )


# --- trades ---------------------------------------------------------------------------------


def _trades(sim: Simulation, readings: pd.DataFrame | None) -> pd.DataFrame:
    """Closed paper trades with what groups and pictures ask of them: hour, regime, confidence, fees and P&L in USD."""
    trades = sim.paper
    about = _would_trade(sim)[["signal_id", "confidence", "features_as_of"]]
    trades = trades.merge(about, on="signal_id", how="left", validate="many_to_one")
    notional = trades["quantity"] * trades["entry_price"]
    entry_fee, exit_fee = fill_fees(trades) if len(trades) else (np.empty(0), np.empty(0))
    return trades.assign(
        hour=trades["entry_time"].dt.hour if len(trades) else pd.Series(dtype="int64"),
        regime=_regime(trades, readings),
        notional_usd=notional,
        turnover_usd=notional + trades["quantity"] * trades["exit_price"],
        fees_usd=entry_fee + exit_fee,
        gross_usd=notional * trades["gross_return"],
    )


def _regime(trades: pd.DataFrame, readings: pd.DataFrame | None) -> pd.Series:
    """The likeliest state of the market at the reading that decided, as learning's SQL has it; missing without one."""
    if readings is None or "p_bull" not in readings.columns or not len(trades):
        return pd.Series([None] * len(trades), index=trades.index, dtype=object)
    asked = readings["as_of"].isin(trades["features_as_of"])
    known = readings.loc[asked, ["symbol", "as_of", "p_bear", "p_sideways", "p_bull"]]
    known = known.rename(columns={"as_of": "features_as_of"})
    f = trades[["symbol", "features_as_of"]].merge(known, how="left", on=["symbol", "features_as_of"])
    bull = f["p_bull"] > f[["p_sideways", "p_bear"]].max(axis=1)
    bear = f["p_bear"] > f[["p_sideways", "p_bull"]].max(axis=1)
    word = np.select([f["p_bull"].isna(), bull, bear], ["", "bull", "bear"], "sideways")
    return pd.Series([w or None for w in word], index=trades.index, dtype=object)


def _trade_items(told: Summary, trades: pd.DataFrame, daily: pd.DataFrame) -> tuple[Item, ...]:
    """Win rate, expectancy, profit factor and how trades ended."""
    labels = {
        "win_rate": ("win rate, wins ÷ (wins + losses)", "share", "no trade won or lost"),
        "mean_r": ("expectancy, net R a trade", "R", "no closed trade"),
        "mean_net_return": ("mean net return a trade", "fraction", "no closed trade"),
        "total_pnl": ("net profit of closed trades", "USD", "no closed trade"),
        "hold_minutes": ("mean time in a trade", "min", "no closed trade"),
        "target_share": ("ended at the target", "share", "no closed trade"),
        "stop_share": ("ended at the stop", "share", "no closed trade"),
        "time_share": ("ended by time", "share", "no closed trade"),
    }
    items = []
    for name, (label, unit, why) in labels.items():
        f = told.figure(name)
        note = why if not isfinite(f.value) else ""
        items.append(Item(name, label, unit, f.value, f.lower, f.upper, f.n, f.n_eff, note))
    items.insert(2, _profit_factor(trades, daily, told))
    return tuple(items)


def _profit_factor(trades: pd.DataFrame, daily: pd.DataFrame, told: Summary) -> Item:
    """What winning trades won ÷ what losing ones lost, net; its interval draws days in blocks."""
    pnl = trades["pnl_usd"].to_numpy(np.float64)
    won, lost = np.maximum(pnl, 0.0), np.maximum(-pnl, 0.0)
    place = daily["day"].searchsorted(trades["exit_time"], side="right") if len(trades) else np.empty(0, np.int64)
    place = np.minimum(place, len(daily) - 1)
    by_day = [np.bincount(place, part, minlength=len(daily)) for part in (won, lost)]
    places = draws(len(daily))
    drawn = None
    if len(places):
        gains, losses = (part[places].sum(axis=1) for part in by_day)
        drawn = np.divide(gains, losses, out=np.full(len(gains), nan), where=losses > 0)
    value = float(won.sum() / lost.sum()) if lost.sum() > 0 else nan
    n_eff = told.figure("mean_r").n_eff
    label = "profit factor, net won ÷ net lost"
    item = item_of("profit_factor", label, "ratio", value, drawn, n=len(pnl), note="no trade lost")
    return Item(item.name, label, "ratio", item.value, item.lower, item.upper, item.n, n_eff, item.note)


def _costs(trades: pd.DataFrame, told: Summary, span: tuple[datetime, datetime], initial: float) -> tuple[Item, ...]:
    """Turnover, time in the market, fees."""
    n, days = len(trades), (span[1] - span[0]) / timedelta(days=1)
    n_eff = told.figure("mean_r").n_eff
    fees, gains = float(trades["fees_usd"].sum()), float(trades["gross_usd"].clip(lower=0.0).sum())
    before = float(trades["gross_usd"].sum())
    return (
        Item("turnover", "turnover, both sides, a day", "× capital a day",
             float(trades["turnover_usd"].sum()) / initial / days, n=n, n_eff=n_eff),
        Item("exposure", "time with an open trade", "share", _exposure(trades, span), n=n, n_eff=n_eff),
        Item("trades_a_day", "closed trades a day", "trades", n / days, n=n, n_eff=n_eff),
        Item("fees_usd", "fees paid", "USD", fees, n=n, n_eff=n_eff),
        Item("gross_usd", "profit of closed trades before fees, slippage taken", "USD", before, n=n, n_eff=n_eff),
        Item("fees_share", "fees' share of gross profit (what winners won before fees)", "share",
             fees / gains if gains > 0 else nan, n=n, n_eff=n_eff, note="" if gains > 0 else "nothing was won"),
    )  # fmt: skip


def _exposure(trades: pd.DataFrame, span: tuple[datetime, datetime]) -> float:
    """Share of the span in which at least one closed trade was open, its exit's minute included."""
    if trades.empty:
        return 0.0
    begin, end = (instants(trades[name]).astype("int64").to_numpy() / 60e6 for name in ("entry_time", "exit_time"))
    end = end + 1.0
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    fresh = np.maximum(begin, np.concatenate([[-inf], end[:-1]]))
    return float(np.maximum(end - fresh, 0.0).sum() / ((span[1] - span[0]) / MINUTE))


def _ambiguity(trades: pd.DataFrame, initial: float) -> tuple[Item, ...]:
    """The figures as they stand (the stop first), and had the target been touched first in every doubtful candle."""
    doubtful = trades["ambiguous"].to_numpy(bool) if len(trades) else np.empty(0, bool)
    net = trades["net_return"].to_numpy(np.float64)
    optimistic = np.where(doubtful, trades["optimistic_return"].to_numpy(np.float64), net)
    optimistic = np.where(np.isnan(optimistic), net, optimistic)
    r = trades["r_multiple"].to_numpy(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        better = np.where(doubtful, optimistic * r / net, r)
    notional = trades["notional_usd"].to_numpy(np.float64)
    pnl = trades["pnl_usd"].to_numpy(np.float64)
    n, n_eff = len(r), float(trade_weights(trades).sum())
    note = "" if n else "no closed trade"
    if n and not np.isfinite(better).all():
        note = "a doubtful trade came to exactly 0, which does not tell its risk"
    ends = [mean_interval(values, n_eff) if n else (nan, nan) for values in (r, better)]
    label = "expectancy, R a trade, the {} first"
    usd = [float(pnl.sum()) / initial, float((pnl + notional * (optimistic - net)).sum()) / initial]
    return (
        Item("ambiguous", "trades in doubt", "trades", float(doubtful.sum()), n=n, n_eff=n_eff),
        Item("pessimistic_r", label.format("stop"), "R", float(r.mean()) if n else nan, *ends[0], n, n_eff, note),
        Item("optimistic_r", label.format("target"), "R", float(better.mean()) if n else nan, *ends[1], n, n_eff, note),
        Item("pessimistic_return", "net return of closed trades, the stop first", "fraction", usd[0], n=n, n_eff=n_eff),
        Item("optimistic_return", "the same, the target first", "fraction", usd[1], n=n, n_eff=n_eff),
    )


def _groups(trades: pd.DataFrame, sim: Simulation) -> pd.DataFrame:
    """Closed trades by symbol, side, hour of entry (UTC) and regime, with n, n_eff and intervals."""
    rows = []
    for by in ("symbol", "side", "hour", "regime"):
        for name, part in trades.groupby(trades[by], sort=True, dropna=True):
            rows.append(_group(by, name, part, sim.settings.min_effective_n))
    return pd.DataFrame(rows, columns=list(_GROUP_COLUMNS))


_GROUPED = (("win_rate", "win_rate"), ("mean_r", "mean_r"), ("net_usd", "total_pnl"))
_GROUP_COLUMNS = (
    "by", "name", "n", "n_eff", "enough",
    *(f"{name}{end}" for name, _ in _GROUPED for end in ("", "_lower", "_upper")),
)  # fmt: skip


def _group(by: str, name: Any, part: pd.DataFrame, least: float) -> dict[str, Any]:
    told = summary(part, minimum_n=int(least))
    n_eff = told.figure("mean_r").n_eff
    row: dict[str, Any] = {
        "by": by, "name": f"{name:02d} h" if by == "hour" else str(name), "n": told.closed, "n_eff": n_eff,
        "enough": bool(n_eff >= least),
    }  # fmt: skip
    for column, figure in _GROUPED:
        found = told.figure(figure)
        row |= {column: found.value, f"{column}_lower": found.lower, f"{column}_upper": found.upper}
    return row


# --- chance ---------------------------------------------------------------------------------


def _chance(returns: Floats, trials: Trials | None) -> tuple[Item, ...]:
    """PSR, DSR with the system's own count of trials, the minimum track record and PBO, of daily returns."""
    from v7_pipeline.learning.sharpe import Sharpe, minimum_track_record, probabilistic_sharpe

    n = len(returns)
    names = {
        "psr": ("probability that the true Sharpe ratio is above 0 (PSR)", "probability"),
        "min_trl": ("days it takes to say so at 95 % (minTRL)", "days"),
    }
    try:
        found = Sharpe.of(returns)
    except ValueError as error:
        missing = [Item(name, label, unit, nan, n=n, note=str(error)) for name, (label, unit) in names.items()]
        return (*missing, *_deflated(None, n, trials))
    needed = minimum_track_record(found)
    note = f"the record has {n}" if isfinite(needed) else "the ratio is not above 0: no record is long enough"
    return (
        Item("psr", *names["psr"], probabilistic_sharpe(found), n=n),
        Item("min_trl", *names["min_trl"], needed if isfinite(needed) else nan, n=n, note=note),
        *_deflated(found, n, trials),
    )


def _deflated(found: Any, n: int, trials: Trials | None) -> tuple[Item, ...]:
    """The count of trials, DSR and PBO."""
    from v7_pipeline.backtest.trials import trial_sharpes
    from v7_pipeline.backtest.validation import trials_overfitting
    from v7_pipeline.learning.sharpe import deflated_sharpe

    count = 0 if trials is None else trials.count
    label = "probability of the same, as the best of all trials (DSR)"
    tried = Item("trials", "configurations tried on this span, counted by the system", "configurations",
                 float(count) if count else nan, n=count, note="" if count else "none was recorded")  # fmt: skip
    pbo_label = "probability that the best configuration is so by chance (PBO)"
    if trials is None or count < 2:
        why = "one configuration was not chosen from others" if count else "no trial was recorded"
        return (
            tried,
            Item("dsr", label, "probability", nan, n=n, note=why),
            Item("pbo", pbo_label, "probability", nan, n=n, note=why),
        )
    # Trials of a part of the span have their own days' ratios; one that saw less than two days has none.
    ratios = trial_sharpes(trials)
    ratios = ratios[np.isfinite(ratios)]
    if found is None or len(ratios) < 2:
        why = "the Sharpe ratio does not exist" if found is None else "fewer than two trials replayed two of its days"
        dsr = Item("dsr", label, "probability", nan, n=n, note=why)
    else:
        variance = float(ratios.var(ddof=1))
        dsr = Item("dsr", label, "probability", deflated_sharpe(found, trials=count, variance=variance), n=n,
                   note=f"{count} trials, daily ratios of variance {variance:.5f}")  # fmt: skip
    over, days = trials_overfitting(trials), len(trials.daily)
    if over is None or days < 8:
        why = (
            "fewer than 8 days cannot be cut in halves"
            if days < 8
            else "fewer than two trials replayed every day of the span"
        )
        pbo = Item("pbo", pbo_label, "probability", nan, n=days, note=why)
    else:
        pbo = Item("pbo", pbo_label, "probability", over.probability, n=over.configurations,
                   note=f"{over.splits:,} splits of time in two halves; noise alone has 0.5")  # fmt: skip
    return tried, dsr, pbo


# --- the firm -------------------------------------------------------------------------------


def _firm(
    sim: Simulation, entered: pd.DataFrame, candles: pd.DataFrame, last: datetime
) -> tuple[Challenge | None, tuple[Item, ...]]:
    """The challenge: what this very account came to, and what becomes of accounts drawn from its days."""
    from v7_pipeline.gates import challenge
    from v7_pipeline.scan.account import rule_set

    rules = rule_set(sim.settings, last)
    own = _own_account(sim, entered, candles, last, rules)
    trades, initial = sim.paper, sim.settings.account_initial_usd
    labels = {
        "p_pass": "probability to pass within {} days",
        "p_daily": "probability to break the daily loss limit first",
        "p_total": "probability to break the maximum loss first",
        "p_neither": "probability of neither",
        "days_to_pass": "days to pass, median of those that do",
        "days_to_breach": "days to breach, median of those that do",
    }
    why = "too few: no closed trade"
    record = challenge.day_record(trades, rules, initial_usd=initial) if len(trades) else None
    if record is not None:
        why = challenge.too_few(record) or ""
    if record is None or why:
        units = ["probability"] * 4 + ["days"] * 2
        missing = zip(labels.items(), units, strict=True)
        return None, (*own, *(Item(k, v.format(120), u, nan, n=len(trades), note=why) for (k, v), u in missing))
    run = challenge.simulate(record, rules)
    chances = (run.passed, run.daily, run.total, run.neither)
    items = []
    for (name, label), chance in zip(list(labels.items())[:4], chances, strict=True):
        text = label.format(run.days)
        if chance is None:
            items.append(Item(name, text, "probability", nan, n=run.trades, note=f"{run.rules} has no profit target"))
        else:
            items.append(Item(name, text, "probability", chance.probability, chance.lower, chance.upper, run.trades))
    for name, points in (("days_to_pass", run.days_to_pass), ("days_to_breach", run.days_to_breach)):
        low, middle, high = points or (nan, nan, nan)
        note = "80 % lie in the interval" if points else "no simulated account did"
        items.append(Item(name, labels[name], "days", float(middle), float(low), float(high), run.trades, note=note))
    return run, (*own, *items)


def _own_account(
    sim: Simulation, entered: pd.DataFrame, candles: pd.DataFrame, last: datetime, rules: Any
) -> tuple[Item, ...]:
    """How far this account came towards the target, and whether it broke a limit on the way."""
    from v7_pipeline.gates.ftmo import account_state
    from v7_pipeline.trades import positions

    initial = sim.settings.account_initial_usd
    book = positions(entered, _would_trade(sim), slippage=sim.settings.slippage, rate_of=rules.commission_of)
    state = account_state(book, candles, rules, initial_usd=initial, as_of=last)
    breach = state.first_breach_at
    word = "no limit was broken" if breach is None else f"a limit was first broken at {breach:%Y-%m-%d %H:%M}Z"
    progress = state.target_progress
    return (
        Item("target_progress", f"of the profit target reached ({rules.name})", "share",
             nan if progress is None else progress, n=len(entered),
             note=word if progress is not None else f"the rules have no target; {word}"),
        Item("worst_day", "worst closed day", "fraction",
             min((usd for _, usd in state.daily_pnl_usd), default=nan) / initial, n=len(state.daily_pnl_usd),
             note="" if state.daily_pnl_usd else "no day with a closed trade"),
    )  # fmt: skip


def _stopped(sim: Simulation, last: datetime) -> Item:
    """How long nothing was accepted at the end because of the loss limits: days that say nothing of the strategy."""
    g = sim.gated
    label = "days at the end in which the loss limits let nothing through"
    accepted = g.loc[g["accepted"].astype(bool), "as_of"]
    since = accepted.max() if len(accepted) else sim.instants[0]
    after = g[(g["as_of"] > since) & (g["side"] != "HOLD")]  # a HOLD asked for nothing
    refused = after["reason_codes"].fillna("").str.contains(_LIMITS, regex=True)
    n, days = int(refused.sum()), (pd.Timestamp(last) - since) / pd.Timedelta(days=1)
    if len(after) == 0 or n < 0.5 * len(after):
        return Item(
            "stopped_days", label, "days", 0.0, n=max(len(after), 1), note="they never stood in the way for long"
        )
    words = after.loc[refused, "reason_codes"].str.findall(_LIMITS).explode().value_counts()
    told = f"last accepted {since:%Y-%m-%d %H:%M}Z; {words.index[0]} against {n:,} of {len(after):,} later ones"
    return Item("stopped_days", label, "days", float(days), n=n, note=told)


# What an account's loss limits say: a strategy that they stop trades no more, however long the span goes on.
_LIMITS = r"HALT_DAILY|HALT_TOTAL|FTMO_BREACHED_\w+|FTMO_\w+_ROOM"


# --- decisions ------------------------------------------------------------------------------


def _funnel(sim: Simulation) -> pd.DataFrame:
    """From scans to closed trades."""
    s, g, o = sim.signals, sim.gated, sim.outcomes
    paper = o[o["kind"] == "paper"]
    counts = [
        ("scans", len(sim.instants), "instants"),
        ("chances", len(s), "scans × symbols"),
        ("calls", int((s["status"] != "skipped").sum()), "the cheap gates let the analyst be asked"),
        ("decisions", int((s["status"] == "answered").sum()), "answered with BUY, SELL or HOLD"),
        ("BUY or SELL", int(s["side"].isin(("BUY", "SELL")).sum()), "would have traded"),
        ("accepted", int(g["accepted"].sum()), "passed every gate"),
        ("filled", int(paper["entry_time"].notna().sum()), "a candle came to enter at"),
        ("closed", int((paper["outcome"] != "open").sum()), "target, stop or time"),
    ]
    return pd.DataFrame(counts, columns=["stage", "n", "meaning"])


def _gates(gated: pd.DataFrame) -> pd.DataFrame:
    """Of BUY and SELL: what each gate said, and how often it alone stood in the way."""
    trading = gated[gated["side"].isin(("BUY", "SELL"))]
    said = {gate: trading[f"{gate}_ok"].astype("boolean") for gate in GATES if f"{gate}_ok" in trading.columns}
    failed = {gate: (~ok).fillna(False).to_numpy(bool) for gate, ok in said.items()}
    failures = np.sum(list(failed.values()), axis=0) if failed else np.empty(0)
    rows = [
        (gate, int(ok.notna().sum()), int(ok.fillna(False).sum()), int(failed[gate].sum()),
         int((failed[gate] & (failures == 1)).sum()))
        for gate, ok in said.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["gate", "asked", "passed", "failed", "alone"])


def _reasons(gated: pd.DataFrame) -> pd.DataFrame:
    """Reason codes of what was not accepted; one decision may have several."""
    together = (
        gated.loc[~gated["accepted"].astype(bool), "reason_codes"].fillna("").value_counts()
    )  # few of them differ
    each = [(code.strip(), n) for codes, n in together.items() for code in str(codes).split(",") if code.strip()]
    counts = pd.DataFrame(each, columns=["reason", "n"]).groupby("reason", as_index=False)["n"].sum()
    return counts.sort_values(["n", "reason"], ascending=[False, True], ignore_index=True)


def _traded(sim: Simulation) -> pd.DataFrame:
    """Closed outcomes of BUYs and SELLs with their confidence and reading; what a HOLD left out is no trade."""
    signals = _would_trade(sim)
    o = sim.outcomes[(sim.outcomes["outcome"] != "open") & sim.outcomes["kind"].isin(("paper", "shadow"))]
    return o.merge(signals[["signal_id", "confidence", "features_as_of"]], on="signal_id", validate="many_to_one")


def _would_trade(sim: Simulation) -> pd.DataFrame:
    """The BUYs and SELLs among the decisions."""
    return sim.signals[sim.signals["side"].isin(("BUY", "SELL"))]


def _calibration(sim: Simulation, last: datetime) -> Calibration:
    return calibration(_traded(sim), as_of=last + MINUTE, min_effective_n=sim.settings.min_effective_n)


def _attributed(material: Material, last: datetime) -> Attributed:
    """theory_attribution's own rows, or the same reckoned from the trades' readings."""
    given = material.attribution
    if given is not None and len(given):
        rows = given[given["scope"] == "all"] if "scope" in given.columns else given
        return Attributed(rows[list(_ATTRIBUTION)].reset_index(drop=True), "trades and HOLDs, as of the last change")
    nothing = pd.DataFrame(columns=list(_ATTRIBUTION))
    readings = material.readings
    votes = [f"{theory}_{part}" for theory in THEORY_NAMES for part in ("vote", "score")]
    if readings is None or not set(votes) <= set(readings.columns):
        return Attributed(nothing, "no readings of the theories are at hand")
    from v7_pipeline.learning.attribution import attribution
    from v7_pipeline.learning.performance import theory_performance, with_trades
    from v7_pipeline.scan.attribute import combiner_of

    sim = material.simulation
    traded = _traded(sim)
    asked = readings.loc[readings["as_of"].isin(traded["features_as_of"]), ["symbol", "as_of", *votes]]
    read = traded[["signal_id", "symbol", "features_as_of"]].merge(
        asked.rename(columns={"as_of": "features_as_of"}),
        on=["symbol", "features_as_of"],
        how="left",
    )
    complete = read[votes].notna().all(axis=1).to_numpy()
    traded, read = traded[complete], read[complete]
    if traded.empty:
        return Attributed(nothing, "no closed trade has a reading of all ten theories")
    performance = with_trades(theory_performance(traded, read), traded)
    found = attribution(
        performance,
        as_of=last + MINUTE,
        min_effective_n=sim.settings.min_effective_n,
        combiner=combiner_of(sim.settings),
        divided_by=(),
    )
    note = f"BUYs and SELLs only, accepted or not ({len(traded)} closed): what was held is not in it"
    return Attributed(found.rows[list(_ATTRIBUTION)].reset_index(drop=True), note)


# --- others ---------------------------------------------------------------------------------


def _rival(one: Baseline, daily: pd.DataFrame, sim: Simulation) -> Rival:
    """A baseline over the days that both have."""
    initial = sim.settings.account_initial_usd
    both = daily[["day", "net_return"]].merge(one.equity[["day", "equity_usd"]], on="day", how="inner")
    theirs = _returns(both["equity_usd"], initial) if len(both) else np.empty(0)
    items = {item.name: item for item in risk_items(theirs)}
    items |= _rival_trades(one.trades)
    label = f"{sim.name} less {one.name}, mean a day"
    own = daily.assign(equity_usd=daily["day"].map(one.equity.set_index("day")["equity_usd"]))
    return Rival(
        one.name, one.meaning, items, difference(both["net_return"], theirs, label=label), own[["day", "equity_usd"]]
    )


def _rival_trades(trades: pd.DataFrame) -> dict[str, Item]:
    """Win rate, mean R and net USD of a baseline's closed trades."""
    from v7_pipeline.learning.statistics import wilson

    n = len(trades)
    if not n:
        why = "it does not trade"
        return {name: Item(name, name, unit, nan, note=why) for name, unit in _RIVAL_ITEMS}
    n_eff = float(trade_weights(trades).sum())
    decided = trades[trades["outcome"].isin(("win", "loss"))]
    share = float((decided["outcome"] == "win").mean()) if len(decided) else nan
    weight = float(trade_weights(decided).sum())
    ends = wilson(share * weight, weight) if len(decided) else (nan, nan)
    r = trades["r_multiple"].dropna().to_numpy(np.float64)
    mean = float(r.mean()) if len(r) else nan
    note = "" if len(r) else "its trades have no planned risk"
    return {
        "win_rate": Item("win_rate", "win rate", "share", share, *ends, len(decided), weight),
        "mean_r": Item(
            "mean_r", "mean R", "R", mean, *(mean_interval(r, n_eff) if len(r) else (nan, nan)), len(r), n_eff, note
        ),
        "total_pnl": Item("total_pnl", "net USD", "USD", float(trades["pnl_usd"].sum()), n=n, n_eff=n_eff),
    }


_RIVAL_ITEMS = (("win_rate", "share"), ("mean_r", "R"), ("total_pnl", "USD"))


def _gaps(candles: pd.DataFrame, symbols: Sequence[str], first: datetime, last: datetime) -> Gaps:
    """Minutes of the span without a candle, by symbol, and the silences longer than a quarter of an hour."""
    end = max(last, first + MINUTE)  # the candle that opens with the last scan was not closed by then
    inside = candles[(candles["open_time"] >= first) & (candles["open_time"] < end)]
    due = int((end - first) / MINUTE)
    have = inside.groupby("symbol").size()
    rows = [(s, due, int(have.get(s, 0)), due - int(have.get(s, 0)), 1.0 - have.get(s, 0) / due) for s in symbols]
    found = outages(inside, symbols, start=first, end=end, longer_than=SILENCE)
    longest = found.sort_values(["minutes", "first"], ascending=[False, True]).head(_LIST)
    return Gaps(
        pd.DataFrame(rows, columns=["symbol", "due", "candles", "missing", "share"]),
        longest.sort_values(["first", "symbol"], ignore_index=True),
        len(found),
    )
