"""One momentum rule over the same candles and costs in three ways: ours, vectorbt's and backtesting.py's.

    python benchmarks/backtest.py [--days 365] [--rounds 7] [--peers PYTHON] [--candles FOLDER]

The rule: at each closed candle the log return of the last 60 minutes; where it rises above the threshold a long is
signalled, where it falls below minus the threshold a short. A symbol without a position enters at the next candle's
open; stop and target are fractions of the signal's close; where both lie in one candle the stop is taken. A signal that
finds a position is left. Costs are one rate of each side's notional: the fee and the slippage of the settings together,
since each package books slippage on other fills.
Each way is timed from candles in memory, in the shape that it wants, to its table of closed trades, the rule included.
Ours labels every signal and then chooses; vectorbt runs Portfolio.from_signals; backtesting.py runs Backtest.run with
the rule's values computed beforehand, and makes its statistics too, which cannot be left out.
The peers need another pandas, so they run in a process of an environment of their own (made by `make bench-backtest`);
candles and trades are exchanged as Parquet, which is not timed. Rounds are paired, in alternating order; seconds are of
processor time, of which each way uses one thread.

Then the trades are compared one by one, by symbol, side and entry. vectorbt makes one order a candle at most: a signal
in the candle in which a position ends cannot enter, and what follows may differ until both are without a position. So
ours is compared a second time with that limit put on it: what then still differs has no explanation, and is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT.parent / "shared" / "data" / "candles"
PEERS = ROOT / ".venv-bench-backtest" / "bin" / "python"
START = datetime(2024, 1, 1, tzinfo=UTC)
SEED = 7
MINUTE_US = 60_000_000

# The rule. Fractions of the signal's close; ftmo-crypto's fee and the settings' slippage, as one rate a side.
LOOK_BACK, THRESHOLD, STOP, TARGET = 60, 0.006, 0.005, 0.0075
COST = 0.000325 + 0.0001
ALIKE = 1e-9  # relative: prices and returns that differ by less are the same

Frames = dict[str, pd.DataFrame]


def main() -> None:
    """Time the three on simulated and recorded candles, and compare their trades."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--days", type=int, default=365, help="length of the simulated candles")
    options.add_argument("--rounds", type=int, default=7, help="rounds of ours and vectorbt")
    options.add_argument("--slow-rounds", type=int, default=3, help="of these, rounds of backtesting.py too")
    options.add_argument("--peers", type=Path, default=PEERS, help="the Python that has vectorbt and backtesting")
    options.add_argument("--candles", type=Path, default=RECORDED, help="folder of recorded SYMBOL_1m.parquet files")
    options.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        _serve(chosen.serve)
        return
    if not chosen.peers.exists():
        sys.exit(
            f"{chosen.peers} is not there; run `make bench-backtest`, or name a Python that has the peers (--peers)"
        )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    from v7_pipeline.trades.barriers import warm_up

    began = time.perf_counter()
    warm_up()
    print(f"our barriers' loop is ready after {time.perf_counter() - began:.2f} s")
    for title, frames in _markets(chosen.candles, chosen.days):
        _measure(title, frames, chosen.peers, chosen.rounds, min(chosen.slow_rounds, chosen.rounds))


def _markets(folder: Path, days: int) -> Iterator[tuple[str, Frames]]:
    from v7_pipeline.sandbox.simulator import simulate

    end = START + timedelta(days=days)
    print(f"\nsimulating {days} days of {', '.join(SYMBOLS)} …")
    yield (
        f"DEMO: {days} simulated days (the sandbox's market, seed {SEED})",
        {symbol: simulate(SEED, symbol, START, end) for symbol in SYMBOLS},
    )
    files = {symbol: folder / f"{symbol}_1m.parquet" for symbol in SYMBOLS}
    if not all(file.exists() for file in files.values()):
        print(f"\nno recorded candles: {folder} has not all of {', '.join(file.name for file in files.values())}")
        return
    frames = {symbol: _recorded(file) for symbol, file in files.items()}
    first, last = (f(frame["open_time"].iloc[i] for frame in frames.values()) for f, i in ((min, 0), (max, -1)))
    yield f"recorded: {first:%Y-%m-%d} … {last:%Y-%m-%d}, Coinbase", frames


def _recorded(file: Path) -> pd.DataFrame:
    """One row a minute, the first of repeated ones (newest pages come first); the last one, still forming, left out."""
    frame = pd.read_parquet(file).drop_duplicates("ts").sort_values("ts").rename(columns={"ts": "open_time"})
    return frame[["open_time", "open", "high", "low", "close"]].iloc[:-1].reset_index(drop=True)


# --- measuring


def _measure(title: str, frames: Frames, peers: Path, rounds: int, slow_rounds: int) -> None:
    minutes = sum(map(len, frames.values()))
    print(f"\n{title}: {minutes:,} candles of {len(frames)} symbols")
    candles = pd.concat([frame.assign(symbol=symbol) for symbol, frame in frames.items()], ignore_index=True)
    candles["symbol"] = candles["symbol"].astype("category")
    with _peers(peers, frames) as ask:
        ways: dict[str, Callable[[], float]] = {
            "ours": lambda: _timed(lambda: ours(candles)),
            "vectorbt": lambda: ask("vectorbt"),
            "backtesting.py": lambda: ask("backtesting.py"),
        }
        first = {name: ways[name]() for name in ("ours", "vectorbt")}
        print(
            f"  first call: ours {first['ours']:.2f} s, vectorbt {first['vectorbt']:.2f} s (it compiles; not counted)"
        )
        took: dict[str, list[float]] = {name: [] for name in ways}
        for index in range(rounds):
            names = [name for name in ways if name != "backtesting.py" or index < slow_rounds]
            for name in names if index % 2 else reversed(names):
                took[name].append(ways[name]())
        found = {name: ask.trades(name) for name in ("vectorbt", "backtesting.py")}
        versions = ask.versions
    for name, times in took.items():
        version = f" {versions[name]}" if name in versions else ""
        print(
            f"  {name + version:<22} {_spread(times, 's')}, {minutes / statistics.median(times):,.0f} candles a second"
        )
    for name in versions:
        ratios = [theirs / own for theirs, own in zip(took[name], took["ours"], strict=False)]
        print(f"  {name} ÷ ours: {_spread(ratios, 'times')}")
    mine, limited = ours(candles), ours(candles, one_order_a_candle=True)
    _compare("vectorbt, as it is", mine, found["vectorbt"])
    _compare("vectorbt, ours with one order a candle too", limited, found["vectorbt"])
    _compare("backtesting.py", mine, found["backtesting.py"])


def _timed(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _spread(values: list[float], unit: str) -> str:
    """Median and middle half; of fewer than four values their range."""
    low, high = (statistics.quantiles(values, n=4)[::2]) if len(values) > 3 else (min(values), max(values))
    what = "" if len(values) > 3 else "range "
    return f"{_short(statistics.median(values))} {unit} ({what}{_short(low)} … {_short(high)}, n = {len(values)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# --- the rule


def _signals(close: Any) -> tuple[Any, Any]:
    """Where the momentum crosses above the threshold, and below minus the threshold; arrays of bool."""
    logs = np.log(close)
    momentum = np.full(len(close), np.nan)
    momentum[LOOK_BACK:] = logs[LOOK_BACK:] - logs[:-LOOK_BACK]
    before = np.concatenate(([np.nan], momentum[:-1]))
    up = (momentum > THRESHOLD) & (before <= THRESHOLD)
    down = (momentum < -THRESHOLD) & (before >= -THRESHOLD)
    return up, down


def ours(candles: pd.DataFrame, *, one_order_a_candle: bool = False) -> pd.DataFrame:
    """The rule's closed trades by v7_pipeline.trades: every signal labelled, then one at a time.

    `one_order_a_candle`: a signal in the candle in which a position ends is lost, as it is in vectorbt.
    """
    from v7_pipeline.trades import FeePreset, follow, one_at_a_time
    from v7_pipeline.trades.frames import by_symbol

    parts = []
    closes, times = candles["close"].to_numpy(), candles["open_time"].dt.tz_localize(None).to_numpy("datetime64[us]")
    for symbol, places in by_symbol(candles).items():
        close = closes[places]
        up, down = _signals(close)
        at = np.flatnonzero(up | down)
        side = np.where(up[at], 1.0, -1.0)
        parts.append(
            pd.DataFrame(
                {
                    "signal_id": at, "kind": "shadow", "as_of": times[places[at]] + np.timedelta64(1, "m"),
                    "symbol": symbol, "strategy": "rule", "side": np.where(side > 0, "BUY", "SELL"),
                    "entry_price": close[at], "stop_price": close[at] * (1 - side * STOP),
                    "target_price": close[at] * (1 + side * TARGET), "horizon_minutes": 2 * len(close),
                    "quantity": np.nan,
                }
            )
        )  # fmt: skip
    signals = pd.concat(parts, ignore_index=True)
    signals["as_of"] = signals["as_of"].dt.tz_localize("UTC")
    labelled = follow(
        signals, candles, as_of=candles["open_time"].max() + pd.Timedelta(minutes=1),
        fee_preset=FeePreset("benchmark", COST, "fee and slippage"), slippage=0.0, breakeven_band_r=0.0,
    )  # fmt: skip
    if one_order_a_candle:
        labelled["followed_until"] += pd.Timedelta(microseconds=1)
    taken = labelled[one_at_a_time(labelled) & labelled["exit_time"].notna().to_numpy()]
    table = {
        "symbol": taken["symbol"], "side": taken["side"], "entry_us": _us(taken["entry_time"]),
        "entry": taken["entry_price"], "exit_us": _us(taken["exit_time"]), "exit": taken["exit_price"],
        "net_return": taken["net_return"],
    }  # fmt: skip
    return pd.DataFrame(table).sort_values(["symbol", "entry_us"], ignore_index=True)


def _us(times: Any) -> Any:
    return times.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)


# --- the peers, in a process of their own (nothing of v7_pipeline is imported there)


class _Peers:
    """Asks the peers' process: a call runs one of them once and gives its seconds."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder
        self.versions: dict[str, str] = self._answer()

    def __call__(self, name: str) -> float:
        assert self._process.stdin
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def trades(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self._folder / f"trades-{name}.parquet")

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the peers' process ended; what it said stands above")
        return json.loads(line)


@contextmanager
def _peers(python: Path, frames: Frames) -> Iterator[_Peers]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for symbol, frame in frames.items():
            frame.to_parquet(folder / f"candles-{symbol}.parquet")
        process = subprocess.Popen(
            [str(python), __file__, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield _Peers(process, folder)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait()


def _serve(folder: Path) -> None:
    """What the peers' process does: say its versions, then run whoever is named on a line, until there is none."""
    warnings.simplefilter("ignore")  # the peers' own
    import importlib.metadata as metadata

    frames = {symbol: pd.read_parquet(folder / f"candles-{symbol}.parquet") for symbol in SYMBOLS}
    by_time = {
        symbol: frame.set_axis(pd.DatetimeIndex(frame["open_time"]).tz_localize(None))[["open", "high", "low", "close"]]
        for symbol, frame in frames.items()
    }
    titled = {symbol: frame.rename(columns=str.title) for symbol, frame in by_time.items()}
    run = {"vectorbt": lambda: _vectorbt(by_time), "backtesting.py": lambda: _backtesting(titled)}
    versions = {name: metadata.version(name.removesuffix(".py")) for name in run}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        name = line.strip()
        began = time.process_time()
        trades = run[name]()
        seconds = time.process_time() - began
        trades.to_parquet(folder / f"trades-{name}.parquet")
        print(json.dumps({"seconds": seconds}), flush=True)


def _vectorbt(frames: Frames) -> pd.DataFrame:
    """Entered in the signal's candle at the next one's open, so that the entry's own candle is looked at for the stops.

    vectorbt looks for stops from the candle after the one of the order on. Stop and target are fractions of the entry
    there: they are given for each candle such that they lie where the rule wants them.
    """
    import vectorbt as vbt

    parts = []
    for symbol, frame in frames.items():
        close = frame["close"].to_numpy()
        up, down = _signals(close)
        following = np.append(frame["open"].to_numpy()[1:], np.nan)
        up[-1] = down[-1] = False
        share = close / following
        sign = np.where(down, -1.0, 1.0)
        portfolio = vbt.Portfolio.from_signals(
            close, entries=up, short_entries=down, price=following, open=frame["open"].to_numpy(),
            high=frame["high"].to_numpy(), low=frame["low"].to_numpy(), size=1.0, fees=COST, init_cash=1e9,
            sl_stop=np.maximum(sign * (1 - share * (1 - sign * STOP)), 0),
            tp_stop=np.maximum(sign * (share * (1 + sign * TARGET) - 1), 0),
            upon_opposite_entry="ignore", stop_entry_price="price", stop_exit_price="stoplimit", freq="1min",
        )  # fmt: skip
        records = portfolio.positions.values
        records = records[records["status"] == 1]
        times = frame.index.to_numpy("datetime64[us]").astype(np.int64)
        table = {
            "symbol": symbol, "side": np.where(records["direction"] == 0, "BUY", "SELL"),
            "entry_us": times[records["entry_idx"] + 1], "entry": records["entry_price"],
            "exit_us": times[records["exit_idx"]], "exit": records["exit_price"], "net_return": records["return"],
        }  # fmt: skip
        parts.append(pd.DataFrame(table))
    return pd.concat(parts, ignore_index=True)


def _backtesting(frames: Frames) -> pd.DataFrame:
    from backtesting import Backtest, Strategy

    class Rule(Strategy):  # type: ignore[misc]
        def init(self) -> None:
            up, down = _signals(self.data.Close)
            self.signal = up.astype(float) - down

        def next(self) -> None:
            signal = self.signal[len(self.data) - 1]
            if signal and not self.position:
                close = self.data.Close[-1]
                stop, target = close * (1 - signal * STOP), close * (1 + signal * TARGET)
                (self.buy if signal > 0 else self.sell)(size=1, sl=stop, tp=target)

    parts = []
    for symbol, frame in frames.items():
        with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # its progress bar
            found = Backtest(frame, Rule, cash=1e9, commission=COST, finalize_trades=False).run()._trades
        side = np.where(found["Size"] > 0, "BUY", "SELL")
        entry = found["EntryPrice"].to_numpy()
        net = (found["PnL"] / (found["Size"].abs() * entry)).to_numpy()
        table = {
            "symbol": symbol, "side": side, "entry_us": found["EntryTime"].to_numpy("datetime64[us]").astype(np.int64),
            "entry": entry, "exit_us": found["ExitTime"].to_numpy("datetime64[us]").astype(np.int64),
            "exit": found["ExitPrice"].to_numpy(), "net_return": net,
        }  # fmt: skip
        parts.append(pd.DataFrame(table))
    return pd.concat(parts, ignore_index=True)


# --- agreement


def _compare(title: str, mine: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Print how many trades are the same, and count what is not by how it differs."""
    both = mine.merge(
        theirs, how="outer", on=["symbol", "side", "entry_us"], suffixes=("", "_their"), indicator="found"
    )
    only = both["found"].value_counts()
    met = both[both["found"] == "both"]
    same = {name: _near(met[name], met[f"{name}_their"]) for name in ("entry", "exit", "net_return")}
    same["exit time"] = (met["exit_us"] == met["exit_us_their"]).to_numpy()
    all_same = np.logical_and.reduce(list(same.values()))
    apart = ", ".join(f"{name} of {int((~ok).sum())}" for name, ok in same.items() if not ok.all()) or "none"
    furthest = float((met["net_return"] - met["net_return_their"]).abs().max()) if len(met) else float("nan")
    print(
        f"  {title}: {int(all_same.sum()):,} of {len(mine):,} of our trades are the same ({len(theirs):,} of theirs); "
        f"only ours {only['left_only']}, only theirs {only['right_only']}; of those entered by both other: {apart}; "
        f"returns at most {furthest:.1e} apart; mean net return {mine['net_return'].mean():+.4%} and "
        f"{theirs['net_return'].mean():+.4%}"
    )
    for row in both[both["found"] != "both"].head(2).itertuples():
        print(f"    e.g. only {'ours' if row.found == 'left_only' else 'theirs'}: {_when(row)}")
    for row in met[~all_same].head(2).itertuples():
        print(f"    e.g. other: {_when(row)}: {row.exit} and {row.exit_their}")


def _near(a: pd.Series, b: pd.Series) -> Any:
    return np.isclose(a.to_numpy(), b.to_numpy(), rtol=ALIKE, atol=ALIKE * 1e-3)


def _when(row: Any) -> str:
    return f"{row.side} {row.symbol} at {pd.Timestamp(row.entry_us, unit='us'):%Y-%m-%d %H:%M}Z"


if __name__ == "__main__":
    main()
