"""An account that trades for months: simulated candles, random plans at irregular instants, crashes, restarts.

Nothing is remembered between two steps but facts: those of a store on disk (StoreDrill: the scans' own account), or
plain frames of the same rows (FrameDrill: a year in a minute), from which everything is derived at every step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from v7_pipeline.gates import GateContext, GateLimits, account_state, day_bounds, gate_signals
from v7_pipeline.gates.conditions import OpenRisk
from v7_pipeline.scan import account as account_module
from v7_pipeline.scan.account import Account, products, read_account, rule_set
from v7_pipeline.settings import load_settings
from v7_pipeline.store import conform, open_store, signal_id
from v7_pipeline.store.schema import TABLES
from v7_pipeline.trades import follow, pending_risk_usd, positions, size_signals

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MARKS = {"source": "backtest", "run_id": "account-drill", "code_version": "0"}
CRASH = 0.1  # after each step
LUCK = 0.7  # share of plans on the side that the next two hours bear out: it keeps the account alive
_OPEN = """
SELECT s.*, g.quantity FROM llm_signals s JOIN gated_signals g USING (signal_id) LEFT JOIN outcomes o USING (signal_id)
WHERE g.accepted AND s.as_of <= ? AND (o.signal_id IS NULL OR o.outcome = 'open') ORDER BY s.as_of, s.symbol
"""


def market(seed: int, days: int) -> pd.DataFrame:
    """One-minute candles whose volatility comes in clusters, together, with jumps; each opens at the last close."""
    rng = np.random.default_rng(seed)
    n = days * 1440
    clusters = lfilter([1.0], [1.0, -0.9995], rng.normal(0, 0.016, n))  # AR(1) of the log of the volatility
    sigma = 5e-4 * np.exp(clusters)
    together = rng.normal(0, 1, n)
    opened = pd.date_range(START, periods=n, freq="min").astype("datetime64[us, UTC]")
    frames = []
    for symbol, first in zip(SYMBOLS, (40_000.0, 2_000.0, 100.0), strict=True):
        moves = sigma * (0.7 * together + 0.7 * rng.normal(0, 1, n))
        moves += (rng.random(n) < 1 / 4_000) * rng.normal(0, 0.012, n)
        close = first * np.exp(np.cumsum(moves))
        open_ = np.concatenate([[first], close[:-1]])
        up, down = np.exp(np.abs(rng.normal(0, 0.4, (2, n))) * sigma)
        frames.append(
            pd.DataFrame(
                {
                    "symbol": symbol, "open_time": opened, "open": open_, "high": np.maximum(open_, close) * up,
                    "low": np.minimum(open_, close) / down, "close": close, "volume": 1.0, "venue": "sandbox",
                    "fetched_at": opened + MINUTE,
                }
            )
        )  # fmt: skip
    return conform("candles", pd.concat(frames, ignore_index=True), MARKS)


class Drill(ABC):
    """One account. `slip` is where a stop fills, in stop distances from the entry: 1 where stops hold."""

    def __init__(self, folder: Path, seed: int, days: int, *, slip: float = 1.0, rest_h: int = 72) -> None:
        self.seed, self.days, self.slip, self.rest_h = seed, days, slip, rest_h
        self.settings = load_settings(
            home=folder, mode="demo", risk_per_trade=0.008, max_signals_per_hour=60, max_correlated_risk=100.0,
            leverage=dict.fromkeys(SYMBOLS, 100.0), _env_file=None,
        )  # fmt: skip
        self.rules = rule_set(self.settings, START)
        self.candles = market(seed, days)
        self.closes = self.candles["close"].to_numpy().reshape(len(SYMBOLS), -1).T
        self.rng = np.random.default_rng(seed)
        self.crashes = 0
        self.instants: list[datetime] = []

    @property
    def end(self) -> datetime:
        return START + timedelta(days=self.days)

    def run(self) -> None:
        """Live through all instants; the end is followed and looked at without crashes."""
        for now in self._instants():
            self.instants.append(now)
            self._live(now)
        self.follow(self.end)
        self.halt(self.end)

    def _instants(self) -> Iterator[datetime]:
        """Bursts of instants, two minutes to an hour apart, and hours to days of silence between them."""
        at = START + timedelta(hours=6)
        while at < self.end - timedelta(hours=2):
            yield at
            near = self.rng.random() < 0.85
            at += int(self.rng.integers(1, 30) * 2 if near else self.rng.integers(1, self.rest_h) * 60) * MINUTE

    def _live(self, now: datetime) -> None:
        steps: tuple[Callable[[datetime], None], ...] = (self.follow, self.halt, self.propose, self.gate)
        place = 0
        while place < len(steps):
            steps[place](now)
            place += 1
            if self.rng.random() < CRASH:
                self.crashes += 1
                self.restart()
                if self.rng.random() < 0.5:
                    return  # it comes back only for the next instant
                place = 0

    def followed(self, trades: pd.DataFrame, candles: pd.DataFrame, **how: Any) -> pd.DataFrame:
        """`follow`, but a stop fills `slip` stop distances away from the entry."""
        outcomes = follow(trades, candles, **how)
        if self.slip == 1.0:
            return outcomes
        stopped = (outcomes["exit_reason"] == "stop").to_numpy()
        beyond = (self.slip - 1.0) * (trades["stop_price"].to_numpy() - outcomes["entry_price"].to_numpy())
        return outcomes.assign(exit_price=outcomes["exit_price"] + np.where(stopped, beyond, 0.0))

    def outcomes_of(self, accepted: pd.DataFrame, now: datetime) -> pd.DataFrame:
        return self.followed(
            accepted.assign(kind="paper"),
            self.between(accepted["as_of"].min().to_pydatetime(), now),
            as_of=now,
            fee_preset=self.settings.fees,
            slippage=self.settings.slippage,
            breakeven_band_r=self.settings.breakeven_band_r,
        )

    def between(self, start: datetime, end: datetime) -> pd.DataFrame:
        """The candles that opened in [start, end)."""
        n = len(self.closes)
        a, b = (min(max(int((at - START) / MINUTE), 0), n) for at in (start, end))
        return pd.concat([self.candles.iloc[k * n + a : k * n + b] for k in range(len(SYMBOLS))])

    # --- the steps of an instant ------------------------------------------------------------------

    def follow(self, now: datetime) -> None:
        """Outcomes of what is open."""
        open_ = self.still_open(now)
        if len(open_):
            self.put("outcomes", self.outcomes_of(open_, now).assign(labelled_at=pd.Timestamp(now)))

    def halt(self, now: datetime) -> None:
        """What is breached becomes a halt: before anything is gated, or the next scan would not look so far back."""
        state = self.account(now).state
        if state.breached is None or state.breached_at is None:
            return
        row = {
            "halt_id": f"{state.breached}-{state.breached_at.isoformat()}", "kind": state.breached, "started_at": now,
            "reason": state.breached_at.isoformat(), "until": state.day_ends_at if state.breached == "daily" else None,
            "lifted_at": None, "lifted_reason": None,
        }  # fmt: skip
        known = self.table("halts")
        lasting = (known["kind"] == "total").any()  # a lost account breaks its limit again at every midnight
        if not lasting and row["halt_id"] not in set(known["halt_id"]):
            self.put("halts", pd.DataFrame([row]))

    def propose(self, now: datetime) -> None:
        """Random plans for some of the symbols, on the side that will win a little more often than not."""
        if len(self.at("llm_signals", now)):
            return
        rng = np.random.default_rng((self.seed, int(now.timestamp())))
        at = int((now - START) / MINUTE)
        rows = []
        for place in np.flatnonzero(rng.random(len(SYMBOLS)) < 0.6):
            path = np.log(self.closes[at - 240 : at + 120, place])
            price, sigma = float(self.closes[at - 1, place]), float(np.diff(path[:240]).std())
            right = 1.0 if path[-1] > path[239] else -1.0
            d = right if rng.random() < LUCK else -right
            stop = min(max(sigma * rng.uniform(5, 25), 0.003), 0.03)
            rows.append(
                {
                    "signal_id": signal_id("v7", SYMBOLS[place], now), "as_of": now, "features_as_of": now,
                    "decided_at": now + timedelta(seconds=3), "symbol": SYMBOLS[place], "strategy": "v7",
                    "analyst": "rules", "side": "BUY" if d > 0 else "SELL", "confidence": float(rng.uniform(0.55, 0.9)),
                    "entry_price": price, "stop_price": price * (1 - d * stop),
                    "target_price": price * (1 + d * stop * float(rng.uniform(2.2, 3.0))),
                    "horizon_minutes": int(rng.integers(30, 600)), "market_price": price, "price_age_s": 0.0,
                    "status": "answered",
                }
            )  # fmt: skip
        if rows:
            missing = ("reasoning", "key_theories", "would_change_my_mind", "ungrounded_numbers", "call_id",
                       "prompt_version", "status_reason")  # fmt: skip
            self.put("llm_signals", pd.DataFrame(rows).assign(**dict.fromkeys(missing)))

    def gate(self, now: datetime) -> None:
        """The plans of this instant meet every gate, with the account as the facts tell it."""
        decided = self.at("llm_signals", now)
        if decided.empty or len(self.at("gated_signals", now)):
            return
        account, s = self.account(now), self.settings
        halts = self.table("halts")
        context = GateContext(
            limits=GateLimits.of(s, self.rules, fee_rate=self.rules.commission_rate),
            halts=halts[halts["started_at"] <= now],
            accepted_times=account.accepted_times,
            account=account.state,
            pending_risk_usd=account.pending_usd,
            day_room_usd=math.inf,
            month_room_usd=math.inf,
            call_worst_case_usd=0.0,
            volatility=dict.fromkeys(SYMBOLS, 1e-4),
            pending_margin_usd=account.pending_margin_usd,
            open_risks=account.open_risks,
        )
        sized = size_signals(
            decided,
            risk_usd=s.risk_per_trade * s.account_initial_usd,
            slippage=s.slippage,
            free_margin_usd=account.free_margin_usd,
            products=products(s, self.rules, SYMBOLS),
        )
        self.put(
            "gated_signals",
            gate_signals(decided, as_of=now, context=context, sized=sized, rotation=int(now.timestamp()) // 120),
        )

    # --- what came of it --------------------------------------------------------------------------

    def halts(self) -> pd.DataFrame:
        """The halts, with the minute of the breach behind each as `breached_at`."""
        found = self.table("halts").sort_values(["started_at", "halt_id"])
        return found.assign(breached_at=pd.to_datetime(found["reason"], utc=True))

    # --- the facts --------------------------------------------------------------------------------

    @abstractmethod
    def restart(self) -> None:
        """Lose everything but the facts."""

    @abstractmethod
    def account(self, now: datetime, *, whole: bool = False) -> Account:
        """The account at `now`, derived from facts; `whole` judges every minute since the beginning again."""

    @abstractmethod
    def still_open(self, now: datetime) -> pd.DataFrame:
        """Accepted signals without a closed outcome, with their quantity."""

    @abstractmethod
    def table(self, name: str) -> pd.DataFrame:
        """All rows of a table."""

    @abstractmethod
    def at(self, name: str, now: datetime) -> pd.DataFrame:
        """A table's rows of one instant, in the symbols' order."""

    @abstractmethod
    def put(self, name: str, rows: pd.DataFrame) -> None:
        """Write rows; outcomes replace those of the same signal."""


class StoreDrill(Drill):
    """The facts lie in a store on disk, and the account is read from it as scans do."""

    def __init__(self, folder: Path, seed: int, days: int, **how: Any) -> None:
        super().__init__(folder, seed, days, **how)
        self.url = f"duckdb:{folder / 'v7.duckdb'}"
        self.store = open_store(self.url, linger_s=1.0)
        self.store.migrate("0", START)
        with self.store.transaction() as tx:
            tx.append("candles", self.candles)

    def restart(self) -> None:
        self.store.close()
        self.store = open_store(self.url, linger_s=1.0)

    def account(self, now: datetime, *, whole: bool = False) -> Account:
        with mock.patch.object(account_module, "follow", self.followed), self.store.reading() as reader:
            return read_account(self.settings, reader, now, MARKS["source"], whole=whole)

    def still_open(self, now: datetime) -> pd.DataFrame:
        return self.store.query(_OPEN, (now,))

    def table(self, name: str) -> pd.DataFrame:
        return self.store.query(f"SELECT * FROM {name}")

    def at(self, name: str, now: datetime) -> pd.DataFrame:
        return self.store.query(f"SELECT * FROM {name} WHERE as_of = ? ORDER BY symbol", (now,))

    def put(self, name: str, rows: pd.DataFrame) -> None:
        with self.store.transaction() as tx:
            (tx.upsert if name == "outcomes" else tx.insert_new)(name, conform(name, rows, MARKS))


class FrameDrill(Drill):
    """The facts are plain frames, one row a signal, and the account is put together from the pure parts."""

    def __init__(self, folder: Path, seed: int, days: int, **how: Any) -> None:
        super().__init__(folder, seed, days, **how)
        self.facts: dict[str, dict[str, dict[str, Any]]] = {
            name: {} for name in ("llm_signals", "gated_signals", "outcomes", "halts")
        }

    def restart(self) -> None:
        """There is nothing beside the facts."""

    def still_open(self, now: datetime) -> pd.DataFrame:
        gated, outcomes = self.facts["gated_signals"], self.facts["outcomes"]
        return pd.DataFrame(
            {**self.facts["llm_signals"][key], "quantity": row["quantity"]}
            for key, row in gated.items()
            if row["accepted"] and (key not in outcomes or outcomes[key]["outcome"] == "open")
        )

    def account(self, now: datetime, *, whole: bool = False) -> Account:
        signals, gated = self.facts["llm_signals"], self.facts["gated_signals"]
        closed = [[row[name] for name in _BOOK] for row in self.facts["outcomes"].values() if row["outcome"] != "open"]
        open_ = self.still_open(now)
        parts = [pd.DataFrame(closed, columns=list(_BOOK))] if closed else []
        if len(open_):
            parts.append(self.outcomes_of(open_, now)[list(_BOOK)])
        outcomes = pd.concat(parts) if parts else self.outcomes_of(pd.DataFrame(_NO_TRADE, index=[0]), START).iloc[:0]
        accepted = pd.DataFrame(
            [row for row in gated.values() if row["accepted"] and row["as_of"] < now],
            columns=["signal_id", "as_of", "symbol", "side", "risk_usd", "notional_usd"],
        )
        stops = pd.DataFrame(
            {"signal_id": list(signals), "stop_price": [row["stop_price"] for row in signals.values()]}
        )
        book = positions(outcomes, stops, slippage=self.settings.slippage, rate_of=self.rules.commission_of)
        before = max((row["as_of"] for row in gated.values() if row["as_of"] < now), default=START)
        tested = START if whole else day_bounds(before)[0]
        state = account_state(
            book,
            self.between(tested if whole else tested - timedelta(hours=4), now),
            self.rules,
            initial_usd=self.settings.account_initial_usd,
            as_of=now,
            tested_from=tested,
        )
        waiting = accepted[~accepted["signal_id"].isin(book["signal_id"])]
        over = outcomes.loc[outcomes["outcome"] != "open", "signal_id"]
        leverage = waiting["symbol"].map(self.rules.leverage_of).astype("float64")
        return Account(
            state=state,
            pending_usd=pending_risk_usd(accepted, outcomes),
            pending_margin_usd=float((waiting["notional_usd"] / leverage).sum()),
            accepted_times=[at for at in accepted["as_of"] if at > now - timedelta(hours=1)],
            open_sides={},
            open_risks=tuple(
                OpenRisk(row["symbol"], row["side"], row["risk_usd"])
                for row in accepted[~accepted["signal_id"].isin(over)].to_dict("records")
            ),
        )

    def table(self, name: str) -> pd.DataFrame:
        return conform(name, pd.DataFrame(self.facts[name].values(), columns=[*_columns(name)]), MARKS)

    def at(self, name: str, now: datetime) -> pd.DataFrame:
        rows = [row for row in self.facts[name].values() if row["as_of"] == now]
        return pd.DataFrame(sorted(rows, key=lambda row: row["symbol"]))

    def put(self, name: str, rows: pd.DataFrame) -> None:
        key = "halt_id" if name == "halts" else "signal_id"
        for row in rows.to_dict("records"):
            self.facts[name][row[key]] = row


_BOOK = (
    "signal_id", "kind", "symbol", "side", "quantity", "entry_price", "entry_time", "exit_price", "exit_time",
    "fee_preset", "outcome",
)  # fmt: skip
_NO_TRADE = {
    "signal_id": "none", "as_of": START, "symbol": SYMBOLS[0], "strategy": "v7", "side": "BUY", "entry_price": 2.0,
    "stop_price": 1.0, "target_price": 3.0, "horizon_minutes": 1, "quantity": 1.0,
}  # fmt: skip


def _columns(name: str) -> list[str]:
    return [column for column in TABLES[name].column_names if column not in MARKS]
