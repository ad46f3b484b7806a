"""What a month of calls costs: 3 symbols × 720 scans × 30 days, from the ledger, with and without the cheap gates.

    python benchmarks/month.py [--days 30] [--ends 0] [--quick]

A month of the sandbox's simulated market ends at the last midnight. Every question that 720 scans a day would ask is
sent over real HTTP to the sandbox by the analyst itself and settled in a real ledger; the clock stands at the simulated
hour, so that peak hours have their price (a stretch of questions of one hour is sent at once: the sandbox's cache of
prefixes sees them as one account's). That is the month without gates. With them, the scans are walked through in order:
a question whose cheap gates (freshness, halt, rate, FTMO room, budget) refuse it is not paid for, an accepted signal
takes its place in the hour and in the account, where it is followed to its end by the pipeline's own functions.

What is simulated: the market, the answers (the rules', somewhat shorter than a language model's) and their
tokens. Left out: repairs, time-outs, the Bayesian win rate (no outcome is fed back), correlations (all products count
as moving alike), and FTMO breaches in minutes before the last 26 hours of an open position. The sandbox counts 0.3
tokens a character.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
EVERY = timedelta(minutes=2)
MARKS = {"source": "demo", "run_id": "benchmarks/month.py", "code_version": "0"}
NO_BUDGET = 1e6  # so that the month without gates is seen whole


def main() -> None:
    """Simulate, ask, walk through the gates, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--ends", type=int, default=0, help="days before the last midnight that it ends")
    options.add_argument("--quick", action="store_true", help="one day")
    chosen = options.parse_args()
    days = 1 if chosen.quick else chosen.days
    console = Console(width=120)
    console.print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        month = Month(Path(folder), days, chosen.ends, progress)
        calls = month.asked()
        refused = month.gated()
    _print(console, calls, refused, days)
    console.print(f"took {time.perf_counter() - started:.0f} s")


@dataclass
class Clock:
    """What time it is in the simulated month."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


class Month:
    """The month's market, questions and answers; `asked` fills the ledger, `gated` says what the gates would refuse."""

    def __init__(self, folder: Path, days: int, ends: int, progress: Progress) -> None:
        from v7_pipeline.settings import load_settings

        self.progress, self.days = progress, days
        self.end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - ends * DAY
        self.start = self.end - days * DAY
        self.clock = Clock(self.end)
        self.settings = load_settings(
            home=folder, mode="demo", daily_budget_usd=NO_BUDGET, monthly_budget_usd=NO_BUDGET
        )
        self.decided: dict[str, Any] = {}
        self.cost: dict[str, float] = {}

    def asked(self) -> pd.DataFrame:
        """Ask all questions; the ledger's rows (as_of, symbol, cost_usd, tokens by kind, price_version)."""
        from v7_pipeline.orchestration.up import sandbox_settings
        from v7_pipeline.sandbox.server import SandboxServer
        from v7_pipeline.scan.backfill import fill_candles
        from v7_pipeline.scan.runtime import build_runtime

        with SandboxServer(seed=self.settings.sandbox_seed, clock=self.clock) as server:
            settings = sandbox_settings(self.settings, server.url)
            runtime = build_runtime(settings, clock=self.clock)
            store = runtime.prepare_store()
            task = self.progress.add_task("candles", total=None)
            fill_candles(
                runtime.context(self.end, "fill"),
                self.start,
                self.end,
                on_progress=lambda _, done, total: self.progress.update(task, completed=done, total=total),
            )
            self.candles = store.read("candles")
            self.rows = self._readings()
            analyst = runtime.paid_analyst("deepseek", MARKS)
            self.worst_case = analyst.worst_case_usd
            task = self.progress.add_task("calls", total=len(self.rows))
            for hour, rows in self.rows.groupby(self.rows["as_of"].dt.floor("h")):
                self.clock.now = hour.to_pydatetime()
                questions = [self._question(row) for row in rows.to_dict("records")]
                for decision in analyst.decide(questions, now=self.clock.now):
                    self.decided[decision.signal_id] = decision
                self.progress.advance(task, len(rows))
            return store.query(
                "SELECT as_of, symbol, signal_id, attempt, status, cost_usd, prompt_tokens, cache_hit_tokens, "
                "completion_tokens, price_version FROM llm_calls ORDER BY as_of, symbol, attempt"
            )

    def _readings(self) -> pd.DataFrame:
        """The readings of each scan's newest minute, with the market price and its change over a day."""
        from v7_pipeline.scan.decide import quote_increment
        from v7_pipeline.theories import compute_features

        self.increment = {str(s): quote_increment(c) for s, c in self.candles.groupby("symbol")}
        rows = compute_features(self.candles)
        rows = rows[(rows["as_of"] > self.start) & (rows["as_of"] <= self.end)]
        rows = rows[(rows["as_of"].dt.minute % 2 == 0)].reset_index(drop=True)
        closes = self.candles.pivot(index="open_time", columns="symbol", values="close").resample("1min").last().ffill()
        closes = closes.stack()  # the newest known close, where a minute had no trade

        def close(ago: timedelta) -> Any:
            places = pd.MultiIndex.from_arrays([rows["as_of"] - MINUTE - ago, rows["symbol"]])
            return closes.reindex(places).to_numpy()

        return rows.assign(price=close(timedelta()), before=close(DAY)).dropna(subset=["price"])

    def _question(self, row: dict[str, Any]) -> Any:
        from v7_pipeline.analyst.base import Question
        from v7_pipeline.store import signal_id
        from v7_pipeline.store.schema import THEORY_NAMES, theory_columns
        from v7_pipeline.theories import explain

        as_of = row["as_of"].to_pydatetime()
        known = {c.name: None if pd.isna(row[c.name]) else float(row[c.name]) for c in theory_columns()}
        return Question(
            signal_id=signal_id("v7", row["symbol"], as_of), symbol=row["symbol"], strategy="v7", as_of=as_of,
            features_as_of=as_of, readings=known,
            explanations={theory: explain(theory, row) for theory in THEORY_NAMES}, market_price=float(row["price"]),
            price_age_s=0.0, quote_increment=self.increment[row["symbol"]],
            change_24h=None if pd.isna(row["before"]) else float(row["price"] / row["before"] - 1),
            observed_share=float(row["observed_share"]), horizon_minutes=self.settings.horizon_minutes,
            reward_risk=self.settings.min_reward_risk, open_position=None, room_usd=None,
            aggressive=self.settings.aggressive, demo=True,
        )  # fmt: skip

    def gated(self) -> dict[str, str]:
        """By signal id, why the cheap gates refuse to ask; questions that may be asked are absent."""
        from v7_pipeline.gates.evaluate import before_call, gate_signals, why_not
        from v7_pipeline.scan.decide import rotation
        from v7_pipeline.trades import size_signals

        book = _Book(self)
        refused: dict[str, str] = {}
        task = self.progress.add_task("gates", total=self.days * 720)
        for stamp, rows in self.rows.groupby("as_of"):
            as_of = stamp.to_pydatetime()
            context = book.context(as_of, rows)
            turn = rotation(as_of)
            cheap = before_call(
                rows["symbol"],
                as_of=as_of,
                features_as_of=dict.fromkeys(rows["symbol"], as_of),
                context=context,
                rotation=turn,
            )
            asked = []
            for row in rows.to_dict("records"):
                signal = self._signal(row)
                if reason := why_not(cheap[row["symbol"]], context):
                    refused[signal["signal_id"]] = reason
                else:
                    asked.append(signal)
            if any(signal["side"] in ("BUY", "SELL") for signal in asked):
                signals = pd.DataFrame(asked)
                sized = size_signals(signals, **book.sizing(context))
                gated = gate_signals(signals, as_of=as_of, context=context, sized=sized, rotation=turn)
                book.take(signals.merge(gated[["signal_id", "accepted", "quantity", "risk_usd"]], on="signal_id"))
            self.progress.advance(task)
        self.accepted = len(book.trades)
        return refused

    def _signal(self, row: dict[str, Any]) -> dict[str, Any]:
        """The llm_signals row that a scan would have written."""
        from v7_pipeline.store import signal_id

        as_of = row["as_of"].to_pydatetime()
        decision = self.decided[signal_id("v7", row["symbol"], as_of)]
        answer = decision.answer
        plan = ("confidence", "entry_price", "stop_price", "target_price", "horizon_minutes")
        return {
            "signal_id": decision.signal_id, "as_of": as_of, "features_as_of": as_of, "decided_at": as_of,
            "symbol": row["symbol"], "strategy": "v7", "side": answer.side if answer else None,
            **{name: getattr(answer, name) if answer else None for name in plan}, "market_price": row["price"],
            "status": decision.status, "status_reason": decision.status_reason,
        }  # fmt: skip


class _Book:
    """Accepted signals as trades, and what the gates see of them at an instant."""

    def __init__(self, month: Month) -> None:
        from v7_pipeline.gates.evaluate import GateLimits
        from v7_pipeline.scan.account import rule_set
        from v7_pipeline.store.schema import TABLES
        from v7_pipeline.trades import fee_preset

        self.month, self.settings = month, month.settings
        self.fee_rate = fee_preset(self.settings.fees).rate_per_side
        self.rules = rule_set(self.settings, month.end)
        self.limits = GateLimits.of(self.settings, self.rules, fee_rate=self.fee_rate)
        self.halts = pd.DataFrame(columns=list(TABLES["halts"].column_names))
        self.trades: list[pd.DataFrame] = []
        self.lost: Any = None  # the account's state once its maximum loss is broken: it stays so
        candles = month.candles.set_index("open_time", drop=False).sort_index()
        self.candles = candles[["symbol", "open_time", "open", "high", "low", "close"]]

    def context(self, as_of: datetime, rows: pd.DataFrame) -> Any:
        from v7_pipeline.gates.conditions import OpenRisk
        from v7_pipeline.gates.evaluate import GateContext

        recent = [t["as_of"].iloc[0].to_pydatetime() for t in self.trades if t["as_of"].iloc[0] > as_of - 60 * MINUTE]
        return GateContext(
            limits=self.limits,
            halts=self.halts,
            accepted_times=recent,
            account=self._state(as_of),
            pending_risk_usd=sum(float(t["risk_usd"].iloc[0]) for t in self.trades if t["as_of"].iloc[0] == as_of),
            day_room_usd=NO_BUDGET,
            month_room_usd=NO_BUDGET,
            call_worst_case_usd=self.month.worst_case,
            volatility=dict(zip(rows["symbol"], rows["volatility_240"], strict=True)),
            open_risks=[
                OpenRisk(t["symbol"].iloc[0], t["side"].iloc[0], float(t["risk_usd"].iloc[0]))
                for t in self.trades
                if not t["exit_time"].iloc[0] + MINUTE <= as_of
            ],
        )

    def _state(self, as_of: datetime) -> Any:
        from v7_pipeline.gates.ftmo import account_state
        from v7_pipeline.trades import positions

        if self.lost is not None:
            return replace(self.lost, as_of=as_of, prices_as_of=as_of)
        entered = [trade for trade in self.trades if trade["entry_time"].iloc[0] < as_of]
        if entered:
            outcomes = pd.concat(entered, ignore_index=True)
            known = self.candles.loc[as_of - timedelta(hours=26) : as_of - MINUTE].reset_index(drop=True)
            book = positions(outcomes, outcomes, slippage=self.settings.slippage)
        else:
            known = self.candles.iloc[:0].reset_index(drop=True)
            book = positions(_NO_TRADES, _NO_TRADES, slippage=self.settings.slippage)
        state = account_state(book, known, self.rules, initial_usd=self.settings.account_initial_usd, as_of=as_of)
        if state.breached == "total":
            self.lost = state
        return state

    def sizing(self, context: Any) -> dict[str, Any]:
        from v7_pipeline.scan.account import products

        s = self.settings
        return {
            "risk_usd": s.risk_per_trade * s.account_initial_usd,
            "slippage": s.slippage,
            "free_margin_usd": context.account.equity - context.account.margin_usd,
            "products": products(s, self.rules, s.symbols),
        }

    def take(self, gated: pd.DataFrame) -> None:
        """Follow what was accepted to its end; the gates see of it only what was known by then."""
        from v7_pipeline.trades import follow

        for _, row in gated[gated["accepted"]].iterrows():
            trade = pd.DataFrame([row]).assign(kind="paper")
            known = self.candles.loc[row["as_of"] : row["as_of"] + timedelta(hours=6)].reset_index(drop=True)
            outcome = follow(
                trade,
                known,
                as_of=self.month.end,
                fee_preset=self.settings.fees,
                slippage=self.settings.slippage,
                breakeven_band_r=self.settings.breakeven_band_r,
            )
            if outcome["entry_time"].notna().all():
                more = {"stop_price": [row["stop_price"]], "risk_usd": [row["risk_usd"]]}
                self.trades.append(outcome.assign(**more))


_NO_TRADES = pd.DataFrame(
    {
        name: pd.Series(dtype=kind)
        for name, kind in {
            "signal_id": "object", "kind": "object", "symbol": "object", "side": "object", "quantity": "float64",
            "entry_price": "float64", "entry_time": "datetime64[us, UTC]", "exit_price": "float64",
            "exit_time": "datetime64[us, UTC]", "fee_preset": "object", "stop_price": "float64",
        }.items()
    }
)  # fmt: skip


def _print(console: Console, calls: pd.DataFrame, refused: dict[str, str], days: int) -> None:
    table = Table(title=f"{days} days of a simulated month, deepseek-flash; USD, n calls")
    for name in ("", "calls", "cost", "a call", "dearest day", "cheapest day", "at peak", "cached tokens"):
        table.add_column(name, justify="left" if not name else "right")
    gated = calls[~calls["signal_id"].isin(list(refused))]
    for name, rows in (("no gates before the call", calls), ("cheap gates first", gated)):
        by_day = rows.groupby((rows["as_of"] - MINUTE).dt.date)["cost_usd"].sum()
        peak = rows["price_version"].str.endswith("/peak")
        table.add_row(
            name,
            f"{len(rows):,}",
            f"${rows['cost_usd'].sum():.2f}",
            f"${rows['cost_usd'].mean():.6f}",
            f"${by_day.max():.3f}",
            f"${by_day.min():.3f}",
            f"{peak.mean():.0%}",
            f"{rows['cache_hit_tokens'].sum() / rows['prompt_tokens'].sum():.0%}",
        )
    console.print(table)
    console.print(f"saved {1 - gated['cost_usd'].sum() / calls['cost_usd'].sum():.1%} of the cost")
    for why, n in _counted(refused):
        console.print(f"not asked, {why}: {n:,} of {len(calls):,}")
    console.print(f"tokens a call: {calls['prompt_tokens'].mean():.0f} in, {calls['completion_tokens'].mean():.0f} out")


def _counted(refused: dict[str, str]) -> Iterator[tuple[str, int]]:
    counts = pd.Series(list(refused.values()), dtype="object").value_counts()
    yield from ((str(why), int(n)) for why, n in counts.items())


if __name__ == "__main__":
    main()
