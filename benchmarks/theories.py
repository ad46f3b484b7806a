"""What the theories cost: each beside its peers, all ten as a whole, against the window's length, and live.

    python benchmarks/theories.py [--quick] [--seconds 1.0] [--candles FILE]

Run by `make bench` in an environment of its own that has the peers (benchmarks/requirements-theories.txt); a peer that
is not installed is named as such. Single theories and peers see the same candles and W = 240: recorded ones where
they are on the machine (or --candles, a Parquet file with ts and close), else a simulated walk. Ours is timed on one
thread, from log returns and what all theories share (scale, known rows) to all value columns of the theory; the peers
are given returns, log prices or z, whichever they take, and are called by the fastest way they offer. The whole
(three symbols, a year, three windows, 1,576,800 rows, every value, percentile, vote and score) runs in processes of its
own for its peak memory. Each figure has n and the range of its middle half; nothing is asserted: a missed bound is
printed as such.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

W = 240
WINDOWS = (120, 240, 1440)
YEAR = 525_600
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "candles" / "BTC-USD_1m.parquet"
HISTORY = 2 * 1440 + 8

#: Something that works through some windows and says how many.
Work = Callable[[], int]


@dataclass(frozen=True)
class Series:
    """One symbol's candles as arrays: close, log returns (one less), and their cumulative sum from 0."""

    close: np.ndarray
    returns: np.ndarray
    path: np.ndarray


@dataclass(frozen=True)
class Row:
    """A line of the table: our theory's module, its bound against the fastest (or the named) peer, and the peers."""

    label: str
    module: str
    bound: float | None
    peers: dict[str, Callable[[Series], Work]]
    against: str = ""


@dataclass(frozen=True)
class Rate:
    """Windows a second of several batches."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, _, high = statistics.quantiles(self.values, n=4)
        return f"{_short(self.median):>7} ({_short(low)} … {_short(high)}, n = {len(self.values)})"


def main() -> None:
    """Run everything and print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a tenth of the time, for a first look")
    options.add_argument("--seconds", type=float, default=1.5, help="spent on each peer and theory")
    options.add_argument("--candles", type=Path, default=RECORDED, help="recorded candles (ts, close)")
    options.add_argument("--whole", type=int, help=argparse.SUPPRESS)  # threads: what a process of the whole does
    options.add_argument("--repeats", type=int, default=7, help=argparse.SUPPRESS)
    options.add_argument("--fresh", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.whole:
        _whole(chosen.whole, chosen.repeats)
        return
    if chosen.fresh:
        _fresh()
        return
    seconds = chosen.seconds / 10 if chosen.quick else chosen.seconds
    repeats = 3 if chosen.quick else 7
    warnings.simplefilter("ignore")  # the peers' own
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    series = _series(chosen.candles)
    from v7_pipeline.theories import warm_up

    warm_up()
    _beside_the_peers(series, seconds)
    _against_the_window(series, seconds)
    _all_ten(repeats)
    _live(20 if chosen.quick else 200, repeats)


# --- candles


def _series(file: Path) -> Series:
    if file.exists():
        close = (
            pd.read_parquet(file, columns=["ts", "close"]).drop_duplicates("ts").set_index("ts")["close"].sort_index()
        )
        close = close.reindex(pd.date_range(close.index[0], close.index[-1], freq="min")).ffill().to_numpy(float)
        print(f"candles: {close.size:,} recorded minutes of {file.name}")
    else:
        close = _walk(0, 60_000)
        print(f"candles: {close.size:,} simulated minutes ({file} is not on this machine)")
    returns = np.diff(np.log(close))
    return Series(close, returns, np.concatenate(([0.0], np.cumsum(returns))))


def _walk(seed: int, n: int) -> np.ndarray:
    """Closes with fat tails, wandering volatility and one quiet minute in thirty."""
    rng = np.random.default_rng(seed)
    volatility = 4e-4 * np.exp(0.5 * np.sin(np.arange(n) / 700))
    steps = volatility * rng.standard_t(4, n) * (rng.random(n) >= 1 / 30)
    return 100 * np.exp(np.cumsum(steps))


def _grid(n: int) -> pd.DataFrame:
    times = pd.date_range("2023-01-01", periods=n, freq="min", tz="UTC").as_unit("us")
    parts = [
        pd.DataFrame({"symbol": symbol, "open_time": times, "close": _walk(seed, n), "observed": True})
        for seed, symbol in enumerate(SYMBOLS)
    ]
    return pd.concat(parts, ignore_index=True)


# --- measuring


def _rate(work: Work, seconds: float, batches: int = 7) -> Rate:
    work()
    rates = []
    for _ in range(batches):
        done = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds / batches or not done:
            done += work()
        rates.append(done / spent)
    return Rate(rates)


def _each_window(data: np.ndarray, length: int, call: Callable[[np.ndarray], Any]) -> Work:
    """Window after window, as a caller in Python does."""
    at = 0

    def work() -> int:
        nonlocal at
        for _ in range(4):
            call(data[at : at + length])
            at = at + 1 if at + 1 + length <= data.size else 0
        return 4

    return work


def _at_once(windows: int, call: Callable[[], Any]) -> Work:
    def work() -> int:
        call()
        return windows

    return work


#: What several theories take from the bars, made once for all of them; the peers are given as much (z, log prices).
_SHARED = ("moves", "scale", "observed", "usable", "quiet")


def _ours(module: str, series: Series, w: int = W) -> Work:
    """All value columns of a theory for one window, written where compute_features would have them."""
    from v7_pipeline.theories.base import Bars

    theory = importlib.import_module(f"v7_pipeline.theories.{module}")
    n = series.close.size
    observed = np.ones(n, bool)
    names = list(theory.values(Bars(series.close, observed, 0, 0, (w,), 0.0)))
    bars = Bars(series.close, observed, 0, 0, (w,), 0.0, into={name: np.empty(n) for name in names})
    theory.values(bars)
    shared = {key: array for key, array in bars._cache.items() if (key if isinstance(key, str) else key[0]) in _SHARED}

    def work() -> int:
        bars.forget()
        bars._memory.clear()
        bars._cache.update(shared)
        theory.values(bars)
        return n - w

    return work


# --- the peers, each by the fastest way it offers


def _pandas_entropy(s: Series) -> Work:
    from scipy.special import ndtri

    edges = ndtri(np.arange(1, 8) / 8)
    scale = pd.Series(np.abs(s.returns)).rolling(W).mean().shift(1).to_numpy() * math.sqrt(math.pi / 2)
    symbols = np.searchsorted(edges, s.returns[W:] / scale[W:])[:4000].astype(float)

    def entropy(window: np.ndarray) -> float:
        share = np.bincount(window.astype(np.int64)) / W
        share = share[share > 0]
        return float(-(share * np.log(share)).sum())

    return _at_once(symbols.size - W, lambda: pd.Series(symbols).rolling(W).apply(entropy, raw=True))


def _antropy_permutation(s: Series) -> Work:
    from antropy import perm_entropy

    return _each_window(s.returns, W, lambda x: perm_entropy(x, order=3, normalize=True))


def _neurokit(name: str, path: bool = False, **options: Any) -> Callable[[Series], Work]:
    def make(s: Series) -> Work:
        call = getattr(importlib.import_module("neurokit2"), name)
        return _each_window(s.path if path else s.returns, W + path, lambda x: call(x, **options))

    return make


def _nolds(name: str, **options: Any) -> Callable[[Series], Work]:
    def make(s: Series) -> Work:
        # nolds' own package does not import on Python 3.11 and later; its functions do.
        if "nolds" not in sys.modules:
            spec = find_spec("nolds")
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError("No module named 'nolds'", name="nolds")
            package = types.ModuleType("nolds")
            package.__path__ = [str(Path(spec.origin).parent)]
            sys.modules["nolds"] = package
        call = getattr(importlib.import_module("nolds.measures"), name)
        return _each_window(s.returns, W, lambda x: call(x, **options))

    return make


def _antropy_dfa(s: Series) -> Work:
    from antropy import detrended_fluctuation

    return _each_window(s.returns, W, detrended_fluctuation)


def _fathon_dfa(s: Series) -> Work:
    from fathon import DFA
    from fathon.fathonUtils import toAggregated

    sizes = np.array([8, 16, 32, 64])

    def call(x: np.ndarray) -> None:
        dfa = DFA(toAggregated(x))
        dfa.computeFlucVec(sizes, polOrd=1)
        dfa.fitFlucVec()

    return _each_window(s.returns, W, call)


def _in_a_numba_loop(function: Any, data: np.ndarray, *arguments: Any) -> Work:
    from numba import njit

    if arguments:
        argument = arguments[0]

        @njit(nogil=True)
        def loop(x: Any, length: int, out: Any) -> None:
            for t in range(out.size):
                out[t] = function(x[t : t + length], argument)
    else:

        @njit(nogil=True)
        def loop(x: Any, length: int, out: Any) -> None:
            for t in range(out.size):
                out[t] = function(x[t : t + length])

    length = W + bool(arguments)
    out = np.empty(min(20_000, data.size - length))
    return _at_once(out.size, lambda: loop(data, length, out))


def _antropy_lz(s: Series) -> Work:
    from antropy import lziv_complexity

    return _each_window((s.returns > 0).astype(np.uint32), W, lambda x: lziv_complexity(x, normalize=False))


def _antropy_lz_loop(s: Series) -> Work:
    from antropy.entropy import _lz_complexity

    return _in_a_numba_loop(_lz_complexity, (s.returns > 0).astype(np.uint32))


def _antropy_higuchi(s: Series) -> Work:
    from antropy import higuchi_fd

    return _each_window(s.path, W + 1, lambda x: higuchi_fd(x, kmax=5))


def _antropy_higuchi_loop(s: Series) -> Work:
    from antropy.fractal import _higuchi_fd

    return _in_a_numba_loop(_higuchi_fd, s.path, 5)


def _pandas_risk(s: Series) -> Work:
    def call() -> None:
        window = pd.Series(s.returns).rolling(W)
        deviation = window.std()
        pd.DataFrame(
            {
                "var_95": -window.quantile(0.05, interpolation="lower"),
                "var_99": -window.quantile(0.01, interpolation="lower"),
                "volatility": deviation,
                "sharpe": window.mean() / deviation * math.sqrt(YEAR),
            }
        )

    return _at_once(s.returns.size - W, call)


def _polars_risk(s: Series) -> Work:
    import polars as pl

    frame = pl.DataFrame({"r": s.returns})
    r = pl.col("r")
    columns = [
        (-r.rolling_quantile(0.05, interpolation="lower", window_size=W)).alias("var_95"),
        (-r.rolling_quantile(0.01, interpolation="lower", window_size=W)).alias("var_99"),
        r.rolling_std(W).alias("volatility"),
        (r.rolling_mean(W) / r.rolling_std(W) * math.sqrt(YEAR)).alias("sharpe"),
    ]
    return _at_once(s.returns.size - W, lambda: frame.select(columns))


def _empyrical_risk(s: Series) -> Work:
    import empyrical as e

    def call(x: np.ndarray) -> None:
        for cutoff in (0.05, 0.01):
            e.value_at_risk(x, cutoff)
            e.conditional_value_at_risk(x, cutoff)
        e.annual_volatility(x, annualization=YEAR)
        e.sharpe_ratio(x, annualization=YEAR)
        e.sortino_ratio(x, annualization=YEAR)
        e.max_drawdown(x)

    return _each_window(s.returns, W, call)


def _statsmodels_regime(s: Series) -> Work:
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

    z = (s.returns[:20_000] / np.abs(s.returns).mean() / math.sqrt(math.pi / 2)).clip(-6, 6)
    model = MarkovRegression(z, k_regimes=3, trend="c", switching_variance=False)
    stay = 1 - 1 / 120
    move = (1 - stay) / 2
    known = {"p[0->0]": stay, "p[1->0]": move, "p[2->0]": move, "p[0->1]": move, "p[1->1]": stay, "p[2->1]": move}
    known |= {"const[0]": -0.12, "const[1]": 0.0, "const[2]": 0.12, "sigma2": 1.0}
    parameters = [known[name] for name in model.param_names]
    return _at_once(z.size, lambda: model.filter(parameters, return_raw=True))


def _hmmlearn_regime(s: Series) -> Work:
    from hmmlearn.hmm import GaussianHMM

    stay = 1 - 1 / 120
    move = (1 - stay) / 2
    model = GaussianHMM(3, covariance_type="diag")
    model.startprob_ = np.full(3, 1 / 3)
    model.transmat_ = np.full((3, 3), move) + (stay - move) * np.eye(3)
    model.means_ = np.array([[-0.12], [0.0], [0.12]])
    model.covars_ = np.ones((3, 1))
    z = s.returns / s.returns.std()
    return _each_window(z, W, lambda x: model.predict_proba(x[:, None])[-1])


def _statsmodels_kalman(s: Series) -> Work:
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    path = s.path[:20_000] / s.returns.std()
    model = UnobservedComponents(path, level="lltrend")
    model.ssm.filter_timing = 1
    model.update([1.0, 0.0025, 0.0001])
    return _at_once(path.size, lambda: model.ssm.filter())


def _filterpy_kalman(s: Series) -> Work:
    from filterpy.gh import GHFilter

    path = s.path[:2000] / s.returns.std()

    def call() -> None:
        gh = GHFilter(x=0.0, dx=0.0, dt=1.0, g=0.270867119, h=0.042694639)
        for level in path:
            gh.update(level)

    return _at_once(path.size, call)


def _numpy_monte_carlo(s: Series) -> Work:
    """1,000 paths of 60 minutes drawn from the window's returns, and which barrier each touches first."""
    rng = np.random.default_rng(0)

    def call(x: np.ndarray) -> float:
        paths = rng.choice(x, (1000, 60)).cumsum(axis=1)
        stop = 0.5 * x.std() * math.sqrt(60)
        up, down = paths >= 2 * stop, paths <= -stop
        first_up = np.where(up.any(1), up.argmax(1), 99)
        first_down = np.where(down.any(1), down.argmax(1), 99)
        return float(np.mean(first_up < first_down))

    return _each_window(s.returns, W, call)


def _pandas_momentum(s: Series) -> Work:
    def call() -> None:
        r = pd.Series(s.returns)
        r.rolling(W).sum() / np.sqrt((r * r).rolling(W).sum())

    return _at_once(s.returns.size - W, call)


def _polars_momentum(s: Series) -> Work:
    import polars as pl

    frame, r = pl.DataFrame({"r": s.returns}), pl.col("r")
    column = r.rolling_sum(W) / (r * r).rolling_sum(W).sqrt()
    return _at_once(s.returns.size - W, lambda: frame.select(column))


_DFA = {
    "antropy": _antropy_dfa,
    "fathon (C)": _fathon_dfa,
    "nolds": _nolds("dfa", nvals=[8, 16, 32, 64], fit_exp="poly"),
    "neurokit2": _neurokit("fractal_dfa", scale=[8, 16, 32, 64]),
}
ROWS = (
    Row(
        "entropy, both",
        "shannon_entropy",
        50,
        {
            "antropy permutation": _antropy_permutation,
            "pandas apply": _pandas_entropy,
            "neurokit2": _neurokit("entropy_shannon", symbolize=8),
        },
    ),
    Row(
        "Hurst R/S (and DFA)",
        "hurst_exponent",
        50,
        {
            "nolds": _nolds("hurst_rs", nvals=np.array([8, 16, 32, 64]), fit="poly"),
            "neurokit2": _neurokit("fractal_hurst", scale=[8, 16, 32, 64]),
        },
    ),
    Row("DFA (and Hurst R/S)", "hurst_exponent", 50, _DFA),
    Row(
        "Lempel–Ziv 1976",
        "kolmogorov_complexity",
        50,
        {
            "antropy in a numba loop": _antropy_lz_loop,
            "antropy": _antropy_lz,
            "neurokit2": _neurokit("complexity_lempelziv", symbolize="mean"),
        },
    ),
    Row(
        "market regime",
        "market_regime",
        50,
        {"statsmodels, one pass": _statsmodels_regime, "hmmlearn": _hmmlearn_regime},
    ),
    Row(
        "risk, eight columns",
        "risk_metrics",
        5,
        {
            "pandas, four of them": _pandas_risk,
            "polars, four of them": _polars_risk,
            "empyrical-reloaded": _empyrical_risk,
        },
        against="pandas, four of them",
    ),
    Row(
        "fractal dimension",
        "fractal_dimension",
        50,
        {
            "antropy Higuchi in a numba loop": _antropy_higuchi_loop,
            "antropy Higuchi": _antropy_higuchi,
            "neurokit2 Higuchi": _neurokit("fractal_higuchi", path=True, k_max=5),
        },
    ),
    Row(
        "Kalman filter",
        "kalman_filter",
        50,
        {"statsmodels, one pass": _statsmodels_kalman, "filterpy g-h": _filterpy_kalman},
    ),
    Row("Monte Carlo", "monte_carlo", 50, {"numpy, 1000 × 60": _numpy_monte_carlo}),
    # A ratio of two running sums: what there is to gain over a compiled running sum is little, and no bound is set.
    Row("momentum (and risk ratios)", "price_momentum", None, {"pandas": _pandas_momentum, "polars": _polars_momentum}),
)


def _beside_the_peers(series: Series, seconds: float) -> None:
    print(f"\nWindows a second, W = {W}, one thread (polars: its own threads); median, middle half, n batches")
    known: dict[str, Rate] = {}
    for row in ROWS:
        ours = known.setdefault(row.module, _rate(_ours(row.module, series), seconds))
        rates: dict[str, Rate] = {}
        print(f"{row.label:<27} {'here':<33} {ours}")
        for name, make in row.peers.items():
            try:
                rates[name] = _rate(make(series), seconds)
            except ModuleNotFoundError as missing:
                print(f"{'':<27} {name:<33} not installed ({missing.name})")
                continue
            print(f"{'':<27} {name:<33} {rates[name]}")
        if not rates:
            continue
        fastest = row.against or max(rates, key=lambda name: rates[name].median)
        if fastest in rates:
            ratio = ours.median / rates[fastest].median
            print(f"{'':<27} {f'× {fastest}':<33} {ratio:>7,.0f} {_verdict(ratio, row.bound, at_least=True)}")


def _against_the_window(series: Series, seconds: float) -> None:
    lengths = (120, 240, 480, 960, 1440)
    print("\nNanoseconds a window against its length, one thread; median of the batches")
    print(f"{'':<27} " + " ".join(f"{w:>7}" for w in lengths) + "   1440 ÷ 120")
    for module in ("shannon_entropy", "risk_metrics", "fractal_dimension", "kolmogorov_complexity", "hurst_exponent"):
        costs = [1e9 / _rate(_ours(module, series, w), seconds / 2).median for w in lengths]
        print(f"{module:<27} " + " ".join(f"{cost:7.1f}" for cost in costs) + f"   {costs[-1] / costs[0]:.2f}")


def _all_ten(repeats: int) -> None:
    rows = YEAR * len(SYMBOLS)
    print(f"\nAll ten, windows {WINDOWS}, {rows:,} rows, every value, percentile, vote and score; in a process each")
    for threads, bound in ((1, 2.5), (2, 1.5)):
        peak, *times = map(float, _process("--whole", str(threads), "--repeats", str(repeats)).split())
        median = statistics.median(times)
        print(
            f"{threads} thread{'s' if threads > 1 else ' '}  {_spread(times, 's')}  {_verdict(median, bound)}; "
            f"{rows / median:,.0f} rows/s; peak memory {peak:.0f} MiB {_verdict(peak, 1536)}"
        )


def _whole(threads: int, repeats: int) -> None:
    from v7_pipeline.theories import compute_features, warm_up

    warm_up()
    grid = _grid(YEAR)
    peak, times = 0.0, []
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        frame = compute_features(grid, WINDOWS, threads=threads)
        times.append(time.perf_counter() - began)
        if repeat == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        del frame
    print(peak, *times[1:])  # the first call has its memory from the system, and it may be slow to give it


def _live(calls: int, repeats: int) -> None:
    from v7_pipeline.theories import compute_features

    grid = _grid(HISTORY)
    since = grid["open_time"].iloc[-1].to_pydatetime()
    times = []
    for _ in range(calls + 5):
        began = time.perf_counter()
        rows = len(compute_features(grid, WINDOWS, since=since))
        times.append(1000 * (time.perf_counter() - began))
    print(f"\nLive: the newest {rows // len(SYMBOLS)} readings of {len(SYMBOLS)} symbols from {HISTORY:,} minutes each")
    times = times[5:]
    print(f"warm          {_spread(times, 'ms')}  {_verdict(statistics.median(times), 50)}")
    inside = [float(_process("--fresh")) for _ in range(repeats + 1)][1:]
    print(
        f"fresh process {_spread(inside, 's')}  {_verdict(statistics.median(inside), 1)}; from importing the theories"
    )


def _fresh() -> None:
    """Seconds from importing the theories to the readings, kernels from the cache, pandas there already."""
    grid = _grid(HISTORY)
    since = grid["open_time"].iloc[-1].to_pydatetime()
    began = time.perf_counter()
    from v7_pipeline.theories import compute_features

    compute_features(grid, WINDOWS, since=since)
    print(time.perf_counter() - began)


def _process(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _spread(values: list[float], unit: str) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):6.3f} {unit} (middle half {low:.3f} … {high:.3f}, n = {len(values)})"


def _verdict(value: float, bound: float | None, *, at_least: bool = False) -> str:
    if bound is None:
        return "(no bound)"
    held = value >= bound if at_least else value <= bound
    return f"[bound {'≥' if at_least else '≤'} {bound:g}: {'held' if held else 'MISSED'}]"


def _short(value: float) -> str:
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
