"""From a walk's findings to tables: every scan's decision and gates, outcomes, win rates and thresholds.

Columns and types are store/schema.py's; nothing is decided here, and what the walk decided is checked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.analyst.base import NO_VOTE, READINGS_MISSING
from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.deciders import Decider
from v7_pipeline.backtest.labels import NEVER, Found, utc_index
from v7_pipeline.backtest.prepared import Prepared
from v7_pipeline.gates import reasons
from v7_pipeline.gates.base import GATES
from v7_pipeline.gates.evaluate import GATED_COLUMNS, gated_frame
from v7_pipeline.settings import Settings
from v7_pipeline.store.schema import PROVENANCE, table
from v7_pipeline.trades import follow

__all__ = ["SIGNAL_COLUMNS", "frames"]

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.object_]

_MARKS = {column.name for column in PROVENANCE}
SIGNAL_COLUMNS = tuple(name for name in table("llm_signals").column_names if name not in _MARKS)
_PLAN = ("entry_price", "stop_price", "target_price")
#: Gates that every row meets; the others only a BUY or SELL.
_ALL_MEET = ("freshness", "halt", "budget", "calls")


def frames(prepared: Prepared, settings: Settings, decider: Decider, found: Found, name: str) -> Simulation:
    """The tables of a walk; ArithmeticError where a decision looks different now from what the walk acted on."""
    posteriors = {scope: rate.posterior() for scope, rate in found.win_rates.items()}
    known = {scope: posterior for scope, posterior in posteriors.items() if posterior is not None}
    decided = decider.decide(np.arange(prepared.rows), known)
    skipped = _skipped(prepared, settings, found) if decider.asks else np.full(prepared.rows, "", dtype=object)
    latency = timedelta(seconds=settings.backtest_latency_s)
    signals = _signals(prepared, decider, decided, skipped, latency)
    trades = signals["side"].isin(("BUY", "SELL")).to_numpy()
    gated = _gated(prepared, settings, found, signals, trades)
    _check(found, signals, trades)
    return Simulation(
        name=name,
        settings=settings,
        instants=prepared.instants,
        signals=signals,
        gated=gated,
        outcomes=_outcomes(prepared, settings, found, signals, trades),
        win_rates=_win_rates(settings, found),
        thresholds=found.threshold.frame(decider.strategy),
    )


def _signals(
    prepared: Prepared, decider: Decider, decided: pd.DataFrame, skipped: Words, latency: timedelta
) -> pd.DataFrame:
    rows, k = prepared.rows, len(prepared.symbols)
    asked = skipped == ""
    answered = asked & (decided["status"] == "answered").to_numpy()
    nothing = np.full(rows, None, dtype=object)
    side = np.where(answered, decided["side"].to_numpy(object), nothing)
    as_of = prepared.instants.repeat(k)
    stamps = np.repeat(_stamps(prepared.scans), k)
    symbol = np.tile(np.array(prepared.symbols, dtype=object), len(prepared.scans))
    priced = ~np.isnan(prepared.price)
    status = np.where(answered, "answered", np.where(asked, "abstained", "skipped")).astype(object)
    numbers = {column: np.where(answered, decided[column].to_numpy(float), np.nan) for column in (*_PLAN, "confidence")}
    horizon = np.where(answered, decided["horizon_minutes"].to_numpy(float), np.nan)
    columns: dict[str, Any] = {
        "signal_id": decider.strategy + "-" + symbol + "-" + stamps,
        "as_of": as_of,
        "features_as_of": _instants(prepared.features),
        "decided_at": as_of + latency,
        "symbol": symbol,
        "strategy": np.full(rows, decider.strategy, dtype=object),
        "analyst": np.full(rows, decider.analyst, dtype=object),
        "side": side,
        **numbers,
        "confidence": _rounded(numbers["confidence"]),
        "horizon_minutes": pd.array(horizon, dtype="Int64"),
        "key_theories": np.where(answered & decider.asks, decided["key_theories"].to_numpy(object), nothing),
        "market_price": prepared.price,
        "price_age_s": np.where(
            priced, (prepared.scan_of - prepared.features) * 60.0 + latency.total_seconds(), np.nan
        ),
        "status": status,
        "status_reason": np.where(answered, nothing, np.where(asked, _unanswered(decider, decided), skipped)),
    }
    return pd.DataFrame({column: columns.get(column, nothing) for column in SIGNAL_COLUMNS}, copy=False)


def _unanswered(decider: Decider, decided: pd.DataFrame) -> Any:
    """Why rows have no answer though nothing stood against them."""
    if "status_reason" in decided:
        return decided["status_reason"].to_numpy(object)
    return NO_VOTE if decider.strategy == "ensemble" else READINGS_MISSING


def _stamps(scans: Ints) -> Words:
    """Each scan's instant as a signal_id has it: days and times of day are few, so each is written once."""
    days, day = np.unique(scans // 1440, return_inverse=True)
    dates = utc_index(days * 1440).strftime("%Y%m%dT").to_numpy(object)
    times = np.array([f"{minute // 60:02d}{minute % 60:02d}00Z" for minute in range(1440)], dtype=object)
    found: Words = dates[day] + times[scans % 1440]
    return found


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Four decimals, as every answer's confidence has."""
    found: npt.NDArray[np.float64] = np.rint(values * 1e4) / 1e4
    return found


def _instants(minutes: Ints) -> pd.Series:
    return pd.Series(utc_index(np.maximum(minutes, 0))).where(minutes >= 0)


# --- what was not asked ---------------------------------------------------------------------


def _skipped(prepared: Prepared, settings: Settings, found: Found) -> Words:
    """Reason codes of the cheap gates for each row, in their order; empty where the analyst was asked."""
    k, off = len(prepared.symbols), set(settings.gates_off)
    age = (prepared.scan_of - prepared.features) * 60.0
    missing, stale = prepared.features < 0, age > settings.max_price_age_s
    halt, ftmo = _refusals(prepared, found)
    parts = [
        np.where(missing, reasons.NO_READING, np.where(stale, reasons.PRICE_STALE, "")).astype(object),
        np.repeat(halt, k),
        np.repeat(np.where(_full_hours(prepared, settings, found), reasons.RATE_LIMIT, "").astype(object), k),
        np.repeat(ftmo, k),
        np.where(_both_sides_open(prepared, found), reasons.EXPOSURE_OPEN, "").astype(object),
    ]
    told = np.full(prepared.rows, "", dtype=object)
    for gate, part in zip(("freshness", "halt", "rate", "ftmo", "exposure"), parts, strict=True):
        if gate not in off:
            rows = np.flatnonzero(part != "")
            told[rows] = [
                f"{before},{code}" if before else code for before, code in zip(told[rows], part[rows], strict=True)
            ]
    # Without a reading nobody is asked, though no gate stood against it.
    told[(told == "") & (missing | np.isnan(prepared.price))] = reasons.NO_READING
    return told


def _refusals(prepared: Prepared, found: Found) -> tuple[Words, Words]:
    """What the halt and FTMO gates say at each scan: as last seen, since nothing changed in between."""
    halt, ftmo = (np.full(len(prepared.scans), "", dtype=object) for _ in range(2))
    places = [*found.refused, len(prepared.scans)]
    for begin, end in pairwise(places):
        halt[begin:end], ftmo[begin:end] = found.refused[begin]
    return halt, ftmo


def _full_hours(prepared: Prepared, settings: Settings, found: Found) -> npt.NDArray[np.bool_]:
    """Scans before which the hour's signals were used up."""
    accepted = np.sort(np.array([trade.scan for trade in found.accepted], dtype=np.int64))
    before = np.searchsorted(accepted, prepared.scans)
    used = before - np.searchsorted(accepted, prepared.scans - 60, side="right")
    full: npt.NDArray[np.bool_] = used >= settings.max_signals_per_hour
    return full


def _both_sides_open(prepared: Prepared, found: Found) -> npt.NDArray[np.bool_]:
    """Rows of a symbol that is long and short already."""
    k = len(prepared.symbols)
    held = np.zeros((2, len(prepared.scans) + 1, k), dtype=np.int32)
    for trade in found.accepted:
        side, symbol = int(trade.side == "BUY"), trade.row % k
        held[side, trade.row // k + 1, symbol] += 1
        if trade.exit != NEVER:
            held[side, np.searchsorted(prepared.scans, trade.exit + 1 + prepared.lag), symbol] -= 1
    open_ = np.cumsum(held, axis=1)[:, :-1] > 0
    both: npt.NDArray[np.bool_] = (open_[0] & open_[1]).ravel()
    return both


# --- gates ----------------------------------------------------------------------------------


def _gated(
    prepared: Prepared, settings: Settings, found: Found, signals: pd.DataFrame, trades: npt.NDArray[np.bool_]
) -> pd.DataFrame:
    """gated_signals: the walk's rows of BUYs and SELLs, and of the others what every row meets."""
    k = len(prepared.symbols)
    age = (prepared.scan_of - prepared.features) * 60.0
    halt, _ = _refusals(prepared, found)
    in_time = settings.backtest_latency_s <= settings.max_decision_delay_s
    passed = {
        "freshness": (prepared.features >= 0) & (age <= settings.max_price_age_s) & in_time,
        "halt": np.repeat(halt == "", k),
        "budget": np.ones(prepared.rows, dtype=bool),
        "calls": np.ones(prepared.rows, dtype=bool),
    }
    if "halt" in settings.gates_off:
        passed["halt"] = np.ones(prepared.rows, dtype=bool)
    status, why = signals["status"].to_numpy(object), signals["status_reason"].to_numpy(object)
    codes = np.full(prepared.rows, reasons.HOLD, dtype=object)
    for word, head in (("skipped", reasons.SKIPPED), ("abstained", reasons.ABSTAINED)):
        rows = np.flatnonzero(status == word)
        codes[rows] = [",".join(f"{head}:{code}" for code in text.split(",")) for text in why[rows]]
    own = gated_frame(found.gated)
    if len(own) != int(trades.sum()):
        raise ArithmeticError(f"the walk gated {len(own)} trades, its decisions have {int(trades.sum())}")
    at = np.flatnonzero(trades)
    if not np.array_equal(own["signal_id"].to_numpy(object), signals["signal_id"].to_numpy(object)[at]):
        raise ArithmeticError("the walk gated its trades in another order than the tables have")
    unknown = pd.array(np.full(prepared.rows, None), dtype="boolean")
    words = {
        "gate_inputs": "{}",
        "gates_off": ",".join(gate for gate in GATES if gate in settings.gates_off),
        "tier": None,
        "capped_by": None,
    }
    columns: dict[str, Any] = {
        **{name: signals[name].array.copy() for name in ("signal_id", "as_of", "symbol", "strategy", "side")},
        **{f"{gate}_ok": unknown.copy() for gate in GATES},
        **{f"{gate}_ok": pd.array(passed[gate], dtype="boolean") for gate in _ALL_MEET},
        **{name: np.full(prepared.rows, word, dtype=object) for name, word in words.items()},
        "reason_codes": codes,
        "accepted": np.zeros(prepared.rows, dtype=bool),
    }
    # What is missing of the others, sizes, is a number; then the walk's rows in their places.
    filled = {name: columns.get(name, np.full(prepared.rows, np.nan)) for name in GATED_COLUMNS}
    for name in GATED_COLUMNS if len(at) else ():
        filled[name][at] = own[name].array
    return pd.DataFrame(filled, copy=False)


def _check(found: Found, signals: pd.DataFrame, trades: npt.NDArray[np.bool_]) -> None:
    """What the walk acted on is what the tables say."""
    sides = dict(zip(signals["signal_id"].array[trades], signals["side"].array[trades], strict=True))
    acted = {row["signal_id"]: row["side"] for row in found.gated}
    if sides != acted:
        other = sorted(set(sides.items()) ^ set(acted.items()))[:3]
        raise ArithmeticError(f"the walk acted on other decisions than the tables have: {other}")
    for row, why in found.skipped.items():
        if signals["status_reason"].iat[row] != why:
            raise ArithmeticError(
                f"{signals['signal_id'].iat[row]} was refused by {why} in the walk, and by "
                f"{signals['status_reason'].iat[row]} in the tables"
            )


# --- outcomes and what was learnt -----------------------------------------------------------


def _outcomes(
    prepared: Prepared, settings: Settings, found: Found, signals: pd.DataFrame, trades: npt.NDArray[np.bool_]
) -> pd.DataFrame:
    """What became of every BUY and SELL by the last scan, with the scan that labelled it."""
    rows = np.flatnonzero(trades)
    places = [found.labels.of(int(row), side) for row, side in zip(rows, signals["side"].array[rows], strict=True)]
    rows = rows[[place is not None for place in places]]
    quantity: Mapping[int, float] = {trade.row: trade.quantity for trade in found.accepted}
    plans = signals.iloc[rows].assign(
        kind=["paper" if row in quantity else "shadow" for row in rows.tolist()],
        quantity=[quantity.get(row, np.nan) for row in rows.tolist()],
    )
    outcomes = follow(
        plans.reset_index(drop=True),
        prepared.candles,
        as_of=prepared.known_to,
        fee_preset=settings.fees,
        slippage=settings.slippage,
        breakeven_band_r=settings.breakeven_band_r,
    )
    scans = prepared.instants.as_unit("us")
    # An open one says the same until its next candle comes.
    known = (outcomes["exit_time"] + pd.Timedelta(minutes=1)).fillna(outcomes["followed_until"])
    known = (known + pd.Timedelta(minutes=prepared.lag)).fillna(outcomes["as_of"])
    latency = pd.Timedelta(seconds=settings.backtest_latency_s)
    outcomes["labelled_at"] = scans[np.minimum(scans.searchsorted(known), len(scans) - 1)] + latency
    return outcomes


def _win_rates(settings: Settings, found: Found) -> pd.DataFrame:
    """win_rates of the scopes that v7 reads, a row for each scan that taught them something."""
    from scipy.special import betaincinv

    names = [name for name in table("win_rates").column_names if name not in _MARKS]
    parts = []
    for scope, rate in found.win_rates.items():
        if rate.steps:
            scan, alpha, beta, n = (np.array(values) for values in zip(*rate.steps, strict=True))
            known = {
                "as_of": utc_index(scan.astype(np.int64)),
                "scope": scope,
                "alpha": alpha,
                "beta": beta,
                "mean": alpha / (alpha + beta),
                "lower": betaincinv(alpha, beta, 0.025),
                "upper": betaincinv(alpha, beta, 0.975),
                "n": n.astype(np.int64),
                "prior_alpha": settings.prior_alpha,
                "prior_beta": settings.prior_beta,
                "half_life_trades": settings.win_rate_half_life,
                "n_eff": alpha + beta - settings.prior_alpha - settings.prior_beta,
                "parent_scope": "all" if scope.startswith("side:") else None,
            }
            parts.append(pd.DataFrame({name: known.get(name, np.nan) for name in names}))
    found_rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
    return found_rows.sort_values(["as_of", "scope"], ignore_index=True)
