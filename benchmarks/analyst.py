"""What the analysts cost in time: prompt, ledger and parsing for three symbols, and the rules over a large frame.

    python benchmarks/analyst.py [--rounds 60] [--rows 1000000]

The first figure is all of a paid analyst's own work around its calls: build three prompts, reserve three calls in a
store on disk, read three replies, check their numbers, settle. The network is not in it, the store's transactions are.
The second is decide_frame on random readings, one thread; its rows are compared with deciding them one by one. Each
figure has n, median and the range of the middle half, next to its bound; a missed bound is printed as such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
MARKS = {"source": "demo", "run_id": "benchmarks/analyst.py", "code_version": "0"}
START = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
COMPARED = 10_000


def main() -> None:
    """Measure both and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=60, help="scans of three questions")
    options.add_argument("--rows", type=int, default=1_000_000, help="rows of readings for the rules")
    chosen = options.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n")
    with tempfile.TemporaryDirectory() as folder:
        parts = _rounds(Path(folder), chosen.rounds)
    for name, seconds in parts.items():
        _print(name, [1e3 * value for value in seconds], "ms", bound=30.0 if name.startswith("all") else None)
    rates, different = _rules(chosen.rows)
    _print("rules, rows a second, millions", [rate / 1e6 for rate in rates], "M", bound=1.0, at_least=True)
    print(f"rules, rows that differ from deciding them one by one: {different} of {COMPARED:,}")


def _rounds(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part, by name, for scans of three questions on a store that fills up."""
    from v7_pipeline.analyst.base import Answer, Question
    from v7_pipeline.analyst.grounding import ungrounded_numbers
    from v7_pipeline.analyst.ledger import Call, Ledger, Received, Reservation
    from v7_pipeline.analyst.prices import Usage, load_prices, token_upper_bound
    from v7_pipeline.analyst.prompt import build_prompt, document_of
    from v7_pipeline.analyst.reply import parse_reply
    from v7_pipeline.analyst.rules import answer_from_prompt
    from v7_pipeline.store import open_store, signal_id

    store = open_store(f"duckdb:{folder / 'v7.duckdb'}", linger_s=0.05)
    store.migrate("0", START)
    ledger = Ledger(store, daily_budget_usd=1e6, monthly_budget_usd=1e6, provenance=MARKS)
    prices, model = load_prices(), "deepseek-flash"
    readings = _readings(len(SYMBOLS) * rounds, seed=1)
    took: dict[str, list[float]] = {name: [] for name in ("prompts", "reserve", "replies read", "settle", "all of it")}
    for scan in range(rounds):
        now = START + scan * timedelta(minutes=2)
        rows = readings.iloc[scan * len(SYMBOLS) :].to_dict("records")[: len(SYMBOLS)]
        questions = [
            _question(Question, signal_id("v7", s, now), s, now, row) for s, row in zip(SYMBOLS, rows, strict=True)
        ]
        # What a service would answer is made beforehand: it is not our analyst's work.
        replies = [
            json.dumps(answer_from_prompt(json.loads(build_prompt(q).messages[1]["content"]))) for q in questions
        ]
        marks = [time.perf_counter()]
        prompts = [build_prompt(question) for question in questions]
        marks.append(time.perf_counter())
        calls = [
            Call(
                call_id=f"deepseek-{q.signal_id}", signal_id=q.signal_id, symbol=q.symbol, as_of=q.as_of,
                analyst="deepseek", model=model, prompt=json.dumps(p.messages), prompt_hash="h",
                prompt_version=p.version, parameters="{}", price_version=prices.price_for(model, now).version,
                worst_case_usd=prices.worst_case(
                    model, now, prompt_tokens=token_upper_bound(p.messages), max_tokens=600
                ),
            )
            for q, p in zip(questions, prompts, strict=True)
        ]  # fmt: skip
        reserved = ledger.reserve(calls, now, reuse=True)
        marks.append(time.perf_counter())
        for question, reply in zip(questions, replies, strict=True):
            answer = parse_reply(reply, "stop")
            assert isinstance(answer, Answer)
            ungrounded_numbers(answer.reasoning, document_of(question))
        marks.append(time.perf_counter())
        usage = Usage(2400, 1200, 130)
        ledger.write(
            [
                r.settled(Received(text, "stop", model, "fp", usage, 2.0), prices.cost(model, usage, now), now)
                for r, text in zip(reserved, replies, strict=True)
                if isinstance(r, Reservation)
            ]
        )
        marks.append(time.perf_counter())
        for name, seconds in zip(took, [*np.diff(marks), marks[-1] - marks[0]], strict=True):
            took[name].append(float(seconds))
    return took


def _question(kind: Callable[..., Any], key: str, symbol: str, now: datetime, row: dict[str, Any]) -> Any:
    from v7_pipeline.store.schema import THEORY_NAMES, theory_columns
    from v7_pipeline.theories import explain

    return kind(
        signal_id=key, symbol=symbol, strategy="v7", as_of=now, features_as_of=now,
        readings={column.name: row[column.name] for column in theory_columns()},
        explanations={theory: explain(theory, row) for theory in THEORY_NAMES}, market_price=37123.45,
        price_age_s=0.0, quote_increment=0.01, change_24h=0.0123, observed_share=1.0, horizon_minutes=240,
        reward_risk=1.5, open_position=None, room_usd=4500.0, aggressive=False, demo=True,
    )  # fmt: skip


def _readings(rows: int, seed: int) -> pd.DataFrame:
    """Random readings: every theory speaks in one row of ten, as on real candles at most."""
    from v7_pipeline.store.schema import THEORY_NAMES, theory_columns

    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({column.name: rng.uniform(0.01, 0.99, rows) for column in theory_columns()}, index=range(rows))
    for theory in THEORY_NAMES:
        speaks = rng.random(rows) < 0.1
        frame[f"{theory}_vote"] = np.where(speaks, rng.uniform(-1, 1, rows), 0.0)
        frame[f"{theory}_score"] = np.where(speaks, rng.uniform(0, 1, rows), 0.0)
    frame["volatility_240"] = rng.uniform(1e-4, 2e-3, rows)
    return frame.assign(market_price=rng.uniform(20, 90_000, rows))


def _rules(rows: int) -> tuple[list[float], int]:
    """Rows a second of decide_frame, and how many of the first rows are decided otherwise alone."""
    from v7_pipeline.analyst.rules import READING_COLUMNS, decide_frame

    frame = _readings(rows, seed=2)[[*READING_COLUMNS, "market_price"]]
    same = {"quote_increment": 0.01, "horizon_minutes": 240, "reward_risk": 1.5}
    rates = []
    for _ in range(7):
        started = time.perf_counter()
        decided = decide_frame(frame, **same)
        rates.append(rows / (time.perf_counter() - started))
    alone = pd.concat([decide_frame(frame.iloc[i : i + 1], **same) for i in range(COMPARED)])
    together = decided.iloc[:COMPARED]
    equal = (alone == together) | (alone.isna() & together.isna())
    return rates, int((~equal.all(axis=1)).sum())


def _print(name: str, values: list[float], unit: str, *, bound: float | None = None, at_least: bool = False) -> None:
    low, _, high = statistics.quantiles(values, n=4)
    median = statistics.median(values)
    told = ""
    if bound is not None:
        held = median >= bound if at_least else median <= bound
        told = f"  bound {'≥' if at_least else '≤'} {bound:g}: {'held' if held else 'MISSED'}"
    print(f"{name:<34} {median:8.2f} {unit}  (middle half {low:.2f} … {high:.2f}, n = {len(values)}){told}")


if __name__ == "__main__":
    main()
