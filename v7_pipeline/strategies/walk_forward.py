"""v6 over history and live: each day's model fitted at its midnight, and the decision at each instant made with it.

From frames to frames, all instants at once; where candles come from and what becomes of a decision is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.analyst import rules
from v7_pipeline.analyst.base import NO_MODEL, READINGS_MISSING, Mode, mode_of, require_aware
from v7_pipeline.indicators import FEATURES, indicators
from v7_pipeline.learning.statistics import average_uniqueness
from v7_pipeline.learning.threshold import break_even_rate
from v7_pipeline.settings import Settings
from v7_pipeline.strategies import v6
from v7_pipeline.trades import can_be_followed, fee_preset, follow

__all__ = [
    "CUT_OFF", "LEAST_EDGE", "TRAIN_DAYS", "TRAIN_EVERY", "DayModel", "Terms", "candles_for_decision",
    "candles_for_model", "day_models", "decide_frame", "decisions", "inputs_at", "price_steps",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STRATEGY = "v6"
#: A model learns from the trades signalled in so many days before its midnight, one of each side at every so many
#: minutes of the clock. Trades last hours: closer ones would tell what their neighbours tell.
TRAIN_DAYS = 30
TRAIN_EVERY = 20
#: What closed in the last quarter of an hour before midnight is left out with what was open then: its candles may still
#: be on their way when the day's first scan fits, and the model must be the same whenever it is fitted.
CUT_OFF = timedelta(minutes=15)
#: What is believed before any trade: a standard deviation of an indicator moves the log-odds of winning by some 0.1,
#: P(win) by two or three points. A month is worth some 450 trades, which tell a coefficient to about 0.1: without the
#: belief ten of them together fit noise of several points, and an edge of 0.04 is nearly always there.
PENALTY = 100.0
#: P(win) above the plan's break-even rate that a BUY or SELL needs, by mode.
LEAST_EDGE = {"conservative": 0.04, "aggressive": 0.02}
#: Confidence by that edge, as the rules map their score: each mode's least edge has its mode's least confidence.
STRONG_EDGE = 0.20
#: A candle older than this is no price: the same bound that readings have.
_MOST_AGE = timedelta(hours=4)
_PRICE_STEP_MINUTES = 240
_MOST_DECIMALS = 8
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
_MINUTE_US = 60_000_000
_SIDES = ("BUY", "SELL")


@dataclass(frozen=True)
class Terms:
    """What of the settings decides v6: its trades' horizon (minutes), least reward:risk net of costs, fees, fills."""

    horizon_minutes: int
    reward_risk: float
    fees: str
    slippage: float
    breakeven_band_r: float
    gap_minutes: int
    aggressive: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Terms:
        """The settings' own."""
        return cls(
            horizon_minutes=settings.horizon_minutes,
            reward_risk=settings.min_reward_risk,
            fees=settings.fees,
            slippage=settings.slippage,
            breakeven_band_r=settings.breakeven_band_r,
            gap_minutes=settings.gap_minutes,
            aggressive=settings.aggressive,
        )

    @property
    def costs(self) -> float:
        """Fees and slippage of both sides, as a fraction of the price."""
        return 2.0 * (fee_preset(self.fees).rate_per_side + self.slippage)

    @property
    def mode(self) -> Mode:
        return mode_of(self.aggressive)


@dataclass(frozen=True)
class DayModel:
    """The model that decides one UTC day of a symbol, and what it was fitted on.

    `n` trades of both sides, `wins` of them won, worth `n_eff` independent ones; `win_r` and `loss_r` are the mean R of
    those won and lost. `first` and `last`: the signals' first and last instant (None: there was none). `model` is None
    where they are worth less than v6.FEWEST.
    """

    day: date
    model: v6.LogisticModel | None
    n: int
    wins: int
    n_eff: float
    win_r: float
    loss_r: float
    first: datetime | None
    last: datetime | None

    def as_row(self) -> dict[str, Any]:
        """Plain values, ready for JSON and a table; `of_row` reads them."""
        return {**asdict(self), "model": None if self.model is None else asdict(self.model)}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> DayModel:
        """The model that `as_row` told."""
        model = row["model"]
        return cls(**{**row, "model": None if model is None else v6.LogisticModel(**model)})


def candles_for_model(day: date, gap_minutes: int) -> datetime:
    """From when on candles are needed for the model of `day`, so that it comes out the same bit for bit."""
    return _midnight(day) - timedelta(days=TRAIN_DAYS + 1, minutes=gap_minutes + 1)


def candles_for_decision(instant: datetime, gap_minutes: int) -> datetime:
    """From when on candles are needed for a decision at `instant`."""
    oldest = (instant - _MOST_AGE).astimezone(UTC).date()
    return _midnight(oldest) - timedelta(days=1, minutes=gap_minutes + 1)


def decisions(candles: pd.DataFrame, instants: pd.DatetimeIndex, terms: Terms) -> pd.DataFrame:
    """v6's decision for each symbol at each instant, in the order of symbol and instant.

    candles: symbol, open_time, open, high, low, close, volume, from `candles_for_model` of the first instant's day on
    for full results; instants: aware, ascending. Columns: symbol, as_of, features_as_of, market_price, those of
    `decide_frame`, and status_reason of what has no answer. A row rests on the candles that had closed by its instant
    only, and has the same bits whichever other instants are asked and whatever other symbols there are: each symbol has
    models of its own.
    """
    if instants.tz is None:
        raise ValueError("instants need a time zone; pass them in UTC")
    asked = instants.tz_convert("UTC").as_unit("us")
    parts = [_of_symbol(str(symbol), own, asked, terms) for symbol, own in candles.groupby("symbol", sort=True)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _of_symbol(symbol: str, candles: pd.DataFrame, asked: pd.DatetimeIndex, terms: Terms) -> pd.DataFrame:
    candles = candles.sort_values("open_time", ignore_index=True)
    if not len(asked):
        return pd.DataFrame()
    first, last = asked[0], asked[-1]
    start = (first - _MOST_AGE).floor("D") - timedelta(days=TRAIN_DAYS)
    measured = indicators(candles, start=start, end=last, gap_minutes=terms.gap_minutes)
    days = pd.date_range(first.floor("D"), last.floor("D"), freq="D").date
    models = day_models(candles, days, terms, measured=measured)
    frame = inputs_at(candles, asked, measured)
    steps = price_steps(candles, asked)
    decided = decide_frame(frame, models, quote_increment=steps, terms=terms)
    decided.insert(0, "symbol", symbol)
    fitted = np.array([models[day].model is not None for day in days])[(asked.floor("D") - first.floor("D")).days]
    decided["status_reason"] = np.where(fitted, READINGS_MISSING, NO_MODEL).astype(object)
    decided.loc[decided["status"] == "answered", "status_reason"] = None
    return decided


# --- the day's model ----------------------------------------------------------------------------


def day_models(
    candles: pd.DataFrame, days: Iterable[date], terms: Terms, *, measured: pd.DataFrame | None = None
) -> dict[date, DayModel]:
    """The model of each UTC day of one symbol, from what had closed CUT_OFF before its midnight.

    candles: open_time, open, high, low, close, volume, ascending, from `candles_for_model` of the first day on.
    `measured`: their indicators, where the caller has them already.
    Both sides' trades at every TRAIN_EVERY-th minute of the TRAIN_DAYS before are labelled with `follow`; those whose
    exit candle had closed by then count, by average uniqueness (ADR 0007). A trade that was open is none of them, so
    nothing that is learnt from reaches into the day it decides.
    """
    chosen = sorted(days)
    if not chosen:
        return {}
    start, end = _midnight(chosen[0]) - timedelta(days=TRAIN_DAYS), _midnight(chosen[-1]) - CUT_OFF
    if measured is None:
        measured = indicators(candles, start=start, end=end, gap_minutes=terms.gap_minutes)
    trades = _training_trades(candles, measured, start, end, terms)
    return {day: _fitted(day, trades) for day in chosen}


@dataclass(frozen=True)
class _Trades:
    """Labelled trades of both sides, by instant and side: minutes since 1970, inputs seen from the side, R, won."""

    signalled: Ints
    entered: Ints
    known: Ints
    inputs: Floats
    won: npt.NDArray[np.bool_]
    r: Floats


def _training_trades(
    candles: pd.DataFrame, measured: pd.DataFrame, start: datetime, end: datetime, terms: Terms
) -> _Trades:
    minute = _minutes(measured["as_of"])
    inside = (minute % TRAIN_EVERY == 0) & (minute > _minute(start)) & (minute <= _minute(end))
    rows = measured[inside & np.isfinite(measured[list(FEATURES)].to_numpy()).all(axis=1)].reset_index(drop=True)
    rows = rows.rename(columns={"close": "market_price"})
    planned = v6.plans(
        rows,
        reward_risk=terms.reward_risk * rules.MARGIN,
        costs=terms.costs,
        horizon_minutes=terms.horizon_minutes,
    )
    n = len(rows)
    place = np.repeat(np.arange(n), 2)  # by instant and side, so that a span of instants is a slice
    side = np.tile(np.array(_SIDES, dtype=object), n)

    def by_side(level: str) -> Floats:
        return planned[[f"{name.lower()}_{level}" for name in _SIDES]].to_numpy(dtype=float).reshape(-1)

    trades = pd.DataFrame(
        {
            "signal_id": "",
            "kind": "shadow",
            "as_of": rows["as_of"].array.take(place),
            "symbol": "",
            "strategy": STRATEGY,
            "side": side,
            "entry_price": rows["market_price"].to_numpy()[place],
            "stop_price": by_side("stop"),
            "target_price": by_side("target"),
            "horizon_minutes": terms.horizon_minutes,
            "quantity": nan,
        }
    )
    trades = trades[can_be_followed(trades).to_numpy()] if n else trades
    found = follow(
        trades,
        candles[["open_time", "open", "high", "low", "close"]].assign(symbol=""),
        as_of=end,
        fee_preset=terms.fees,
        slippage=terms.slippage,
        breakeven_band_r=terms.breakeven_band_r,
        only_closed=True,
    )
    kept = trades.index.to_numpy()[found.index.to_numpy()] if n else np.empty(0, dtype=np.int64)
    inputs, won = v6.training_rows(rows.iloc[place[kept]], found)
    judged = found["outcome"].isin(("win", "loss")).to_numpy()
    found = found[judged]
    return _Trades(
        signalled=_minutes(found["as_of"]),
        entered=_minutes(found["entry_time"]),
        known=_minutes(found["exit_time"]) + 1,
        inputs=inputs,
        won=won,
        r=found["r_multiple"].to_numpy(dtype=float),
    )


def _fitted(day: date, trades: _Trades) -> DayModel:
    midnight = _midnight(day)
    since, until = _minute(midnight - timedelta(days=TRAIN_DAYS)), _minute(midnight - CUT_OFF)
    first, stop = np.searchsorted(trades.signalled, (since, until), side="right")
    closed = first + np.flatnonzero(trades.known[first:stop] <= until)
    won, n = trades.won[closed], len(closed)
    if not n:
        return DayModel(day, None, 0, 0, 0.0, nan, nan, None, None)
    weights = average_uniqueness(trades.entered[closed], trades.known[closed])
    model = v6.fit(trades.inputs[closed], won, weights, penalty=PENALTY)
    r = trades.r[closed]
    return DayModel(
        day=day,
        model=model,
        n=n,
        wins=int(won.sum()),
        n_eff=float(weights.sum()),
        win_r=_mean(r[won], weights[won]),
        loss_r=_mean(r[~won], weights[~won]),
        first=_instant(int(trades.signalled[closed[0]])),
        last=_instant(int(trades.signalled[closed[-1]])),
    )


# --- the decision -------------------------------------------------------------------------------


def inputs_at(candles: pd.DataFrame, instants: pd.DatetimeIndex, measured: pd.DataFrame) -> pd.DataFrame:
    """What a decision at each instant reads: as_of, features_as_of, market_price, atr_14_5m and FEATURES.

    Of the newest candle that had closed by the instant, not older than four hours: a minute without a trade and a
    candle that has not arrived look alike, so a live scan and its replay read the same. Missing without one.
    candles of one symbol, ascending; measured: their `indicators`.
    """
    asked = _minutes(instants)
    opened = _minutes(candles["open_time"])
    place = np.searchsorted(opened, asked - 1, side="right") - 1
    read = np.where(place >= 0, opened[np.maximum(place, 0)] + 1, 0) if len(opened) else np.zeros(len(asked), np.int64)
    known = (read > 0) & (asked - read < _MOST_AGE // _MINUTE)
    at = _minutes(measured["as_of"])
    row = np.searchsorted(at, read)
    row = np.where(known & (row < len(at)), row, -1)
    row = np.where((row >= 0) & (at[np.maximum(row, 0)] == read), row, -1) if len(at) else np.full(len(asked), -1)
    names = ["atr_14_5m", *FEATURES]
    values = np.full((len(asked), len(names)), nan)
    values[row >= 0] = measured[names].to_numpy(dtype=float)[row[row >= 0]]
    price = np.full(len(asked), nan)
    price[known] = candles["close"].to_numpy(dtype=float)[place[known]]
    when = pd.DatetimeIndex((read * _MINUTE_US).astype("datetime64[us]")).tz_localize("UTC")
    head = {"as_of": instants, "features_as_of": pd.Series(when).where(known), "market_price": price}
    return pd.DataFrame({**head, **dict(zip(names, values.T, strict=True))})


def price_steps(candles: pd.DataFrame, instants: pd.DatetimeIndex, lag_minutes: int = 0) -> Floats:
    """The quote increment that the candles of the four hours before each instant show; of one symbol, ascending.

    Those that closed in the last `lag_minutes` are not seen yet. 10 to the minus of the most decimals seen, as
    scan.decide.quote_increment finds it; 1e-8 without a candle.
    """
    prices = candles[["open", "high", "low", "close"]].to_numpy(dtype=float)
    decimals = np.full(len(prices), _MOST_DECIMALS)
    open_ = np.ones(len(prices), dtype=bool)
    for places in range(_MOST_DECIMALS):
        exact = open_ & (np.abs(prices.round(places) - prices) < 10.0 ** -(_MOST_DECIMALS + 2)).all(axis=1)
        decimals[exact] = places
        open_ &= ~exact
        if not open_.any():
            break
    opened, asked = _minutes(candles["open_time"]), _minutes(instants)
    stop = np.searchsorted(opened, asked - lag_minutes)
    first = np.searchsorted(opened, asked - _PRICE_STEP_MINUTES)
    most = np.full(len(asked), 0)
    for places in range(1, _MOST_DECIMALS + 1):
        count = np.concatenate(([0], np.cumsum(decimals >= places)))
        most[count[stop] > count[first]] = places
    most[first == stop] = _MOST_DECIMALS
    return np.array([10.0**-places for places in range(_MOST_DECIMALS + 1)])[most]


def decide_frame(
    frame: pd.DataFrame, models: Mapping[date, DayModel], *, quote_increment: npt.ArrayLike, terms: Terms
) -> pd.DataFrame:
    """Decisions for rows of `inputs_at` of one symbol, with the models of their days; on the same index.

    Columns: as_of, features_as_of, market_price; those of analyst.rules.decide_frame: status (answered; abstained where
    the price or an indicator is missing, or the day has no model), side, confidence, entry_price, stop_price,
    target_price, horizon_minutes, score, agreeing (the odd indicators that speak for the side), key_theories (empty);
    and p_win, break_even, expected_r and side_asked (the side that they are of).

    The side is the one with the greater P(win). It is taken where P(win) exceeds the plan's break-even rate, net of
    fees and slippage, by LEAST_EDGE of the mode, and where the expected R is positive with the mean R of the wins and
    losses that the model was fitted on (time stops win and lose less than a plan's target and stop); else HOLD.
    score is P(win) − break-even with the side's sign. The confidence is no probability but a monotone map of that edge
    on the scale that the gates' thresholds speak: 0.50 at no edge, each mode's least confidence at its least edge, 0.90
    at STRONG_EDGE; of a HOLD how far below the least edge it stayed, 1 to 0.5.
    """
    rows = len(frame)
    price, atr = (frame[name].to_numpy(dtype=float, na_value=np.nan) for name in ("market_price", "atr_14_5m"))
    features = frame[list(FEATURES)].to_numpy(dtype=float, na_value=np.nan)
    increment = np.broadcast_to(np.asarray(quote_increment, dtype=float), rows)
    p_buy, p_sell, win_r, loss_r, agreeing = _probabilities(frame, features, models)

    buying = p_buy >= p_sell
    p_win, sign = np.where(buying, p_buy, p_sell), np.where(buying, 1.0, -1.0)
    distance = v6.stop_distance(price, atr)
    ratio = np.full(rows, terms.reward_risk)
    entry, stop, target = rules.plan_on_grid(price, distance, sign, increment, ratio, terms.costs)
    with np.errstate(divide="ignore", invalid="ignore"):
        risk, reward = np.abs(entry - stop) / entry, np.abs(target - entry) / entry
    break_even = break_even_rate(reward - terms.costs, risk + terms.costs)
    edge = p_win - break_even
    expected = p_win * win_r + (1.0 - p_win) * loss_r

    readable = (price > 0) & np.isfinite(features).all(axis=1) & np.isfinite(p_win) & np.isfinite(edge)
    needed = LEAST_EDGE[terms.mode.name]
    trades = readable & (edge >= needed) & (expected > 0) & (stop > 0) & (target > 0)
    asked = np.where(buying, "BUY", "SELL").astype(object)
    asked[~readable] = None
    side = np.where(trades | ~readable, asked, "HOLD")
    return pd.DataFrame(
        {
            "as_of": frame["as_of"],
            "features_as_of": frame["features_as_of"],
            "market_price": price,
            "status": np.where(readable, "answered", "abstained"),
            "side": side,
            "confidence": np.where(readable, confidence_of(edge, trades, needed), nan),
            "entry_price": np.where(trades, entry, nan),
            "stop_price": np.where(trades, stop, nan),
            "target_price": np.where(trades, target, nan),
            "horizon_minutes": np.where(trades, float(terms.horizon_minutes), nan),
            "score": np.where(readable, sign * edge, nan),
            "agreeing": np.where(readable, np.where(buying, agreeing[0], agreeing[1]), 0),
            "key_theories": "",
            "p_win": np.where(readable, p_win, nan),
            "break_even": np.where(readable, break_even, nan),
            "expected_r": np.where(readable, expected, nan),
            "side_asked": asked,
        },
        index=frame.index,
    )


def confidence_of(edge: Floats, trades: npt.NDArray[np.bool_], needed: float) -> Floats:
    """The confidence of an edge (P(win) − break-even), see `decide_frame`."""
    bold, careful = mode_of(True), mode_of(False)
    knots = (0.0, LEAST_EDGE[bold.name], LEAST_EDGE[careful.name], STRONG_EDGE)
    holding = 1 - 0.5 * np.clip(edge / needed, 0.0, 1.0)
    return np.where(trades, np.interp(edge, knots, (0.50, bold.min_confidence, careful.min_confidence, 0.90)), holding)


def _probabilities(
    frame: pd.DataFrame, features: Floats, models: Mapping[date, DayModel]
) -> tuple[Floats, Floats, Floats, Floats, tuple[Ints, Ints]]:
    """P(win) of both sides, mean R of wins and losses, and the odd indicators for each side, by the rows' days.

    As LogisticModel.probability, the same bits, of all days at once.
    """
    number, place = np.unique(_minutes(frame["as_of"]) // (24 * 60), return_inverse=True)
    found = [models.get(date(1970, 1, 1) + timedelta(days=int(day))) for day in number]
    fitted = [None if day is None else day.model for day in found]
    of_day = [
        [nan] * (1 + 3 * len(FEATURES) + 2)
        if day is None or model is None
        else [
            model.intercept,
            *(given[name] for given in (model.centres, model.scales, model.coefficients) for name in FEATURES),
            day.win_r,
            day.loss_r,
        ]
        for day, model in zip(found, fitted, strict=True)
    ]
    table = np.array(of_day, dtype=float).reshape(len(number), -1).T
    if not len(number):
        empty = np.empty(0)
        return empty, empty, empty, empty, (np.empty(0, np.int64), np.empty(0, np.int64))
    count = len(FEATURES)
    intercept, centres, scales, weights = (
        table[0],
        table[1 : 1 + count],
        table[1 + count : 1 + 2 * count],
        table[1 + 2 * count : 1 + 3 * count],
    )
    totals = {"BUY": intercept[place], "SELL": intercept[place]}
    up, down = np.zeros(len(frame), dtype=np.int64), np.zeros(len(frame), dtype=np.int64)
    for j, name in enumerate(FEATURES):
        value, centre, scale, weight = features[:, j], centres[j][place], scales[j][place], weights[j][place]
        for side, mirror in zip(_SIDES, (1.0, -1.0), strict=True):
            totals[side] += ((value * mirror if name in v6.ODD else value) - centre) / scale * weight
        if name in v6.ODD:
            up += value * weight > 0
            down += value * weight < 0
    p_buy, p_sell = (v6.sigmoid(totals[side]) for side in _SIDES)
    return p_buy, p_sell, table[-2][place], table[-1][place], (up, down)


# --- instants -----------------------------------------------------------------------------------


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _minute(instant: datetime) -> int:
    require_aware(instant, "instant")
    return int(instant.timestamp()) // 60


def _instant(minute: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + minute * _MINUTE


def _minutes(stamps: pd.Series[Any] | pd.DatetimeIndex) -> Ints:
    """Whole minutes since 1970 of aware instants."""
    index = pd.DatetimeIndex(stamps).tz_convert("UTC").as_unit("us")
    return np.asarray(index.asi8, dtype=np.int64) // _MINUTE_US


def _mean(values: Floats, weights: Floats) -> float:
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total > 0 else nan
