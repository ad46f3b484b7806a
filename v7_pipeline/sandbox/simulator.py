"""The simulated market: one-minute candles as a pure function of (seed, symbol, minute).

Nothing is stored and no path is walked from a far origin: any window, asked in any order, in any process, on any
platform, has the same rows. Wire formats and clocks do not belong here.

Model. Log price = log level + L(day), a mean-reverting sum of daily innovations, with a Brownian bridge between the
days' ends (in the time of the day's own variance, so that pinning it leaves no trace at short scales). Minute returns
have a stochastic volatility made of components of 8 min … 5 days (a sum of scales reproduces the long memory of
|returns|: Corsi, "A simple approximate long-memory model of realized volatility", J. Financial Econometrics 2009),
times the hour's season and a regime of hours (trend up or down, range, turbulence); plus rare jumps. A common factor
correlates the products.

Bit for bit on any platform: randomness is Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011) with the minute as counter, its raw words made normal by adding integers; and only +, −, ×, ÷, √ (which
IEEE 754 rounds one way) follow, exp included, since libraries' exp differs in the last bit between machines.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.sandbox.source import MINUTE, Bars, require_utc

__all__ = ["Product", "Simulated", "product", "simulate"]

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

_DAY = 1440
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION = "v7-sandbox-1"  # part of every key: a change of the model must change it
_ORIGIN = 2**40  # Philox counters are not negative; minutes before 1970 are
_MARKET = "*"  # the common factor's name among the streams

# Stochastic volatility: (scale in minutes, standard deviation of its share of log volatility).
_SLOW = ((7200, 0.28), (1440, 0.28))
_FAST = ((240, 0.28), (40, 0.25), (8, 0.20))
_NOISE = 0.22  # per-minute noise in log volatility
_NORM = 1.56  # what all of it makes of the root mean square; divided out, so that Product.sigma is what one measures
_SLOW_NORM = 1.17  # the same for the slow share alone

_REVERSION = 1 - 1 / 45  # of L(day), a day
_MEMORY = 540  # days whose innovations still count; _REVERSION**540 is 5e-6
_LOADING = 0.85  # of a product's innovations on the market's; two products correlate by its square
_OWN = 0.526782687642637  # √(1 − 0.85²)

_REGIME_CHANGE = 0.25  # chance that a regime ends at a full hour; one always ends at midnight
_JUMP = 1 / 900  # chance of a jump in a minute
_GAP = 0.08  # standard deviation of open against the last close, in the minute's volatility

# One-minute volatility by UTC hour relative to the day's mean: quiet Asian noon, peaks at the US opening hours.
_SEASON = np.array(
    [
        0.95, 0.95, 0.90, 0.85, 0.80, 0.80, 0.85, 0.90, 1.00, 0.95, 0.90, 0.95,
        1.15, 1.35, 1.50, 1.40, 1.20, 1.15, 1.05, 1.00, 1.00, 0.95, 0.90, 0.95,
    ]
)  # fmt: skip
_WEEKEND = 0.8


@dataclass(frozen=True, slots=True)
class Product:
    """What a simulated product is like: `level` in the quote currency, `sigma` of a one-minute log return."""

    level: float
    decimals: int
    sigma: float
    quiet: float
    """Chance of a minute without a trade in ordinary times; quieter times have more."""
    volume: float
    """Median volume a minute, base currency."""


_KNOWN = {
    "BTC": Product(90_000.0, 2, 5.5e-4, 0.001, 6.0),
    "ETH": Product(3_000.0, 2, 6.5e-4, 0.003, 70.0),
    "SOL": Product(150.0, 2, 8.0e-4, 0.015, 900.0),
    "XRP": Product(2.2, 4, 8.0e-4, 0.01, 60_000.0),
    "DOGE": Product(0.15, 5, 8.0e-4, 0.02, 500_000.0),
    "LTC": Product(90.0, 2, 7.0e-4, 0.05, 300.0),
}
_NEVER_LISTED = frozenset({"NOPE", "NONE", "UNKNOWN"})  # so that a drill can ask for a product that does not exist
_WELL_FORMED = re.compile(r"([A-Z0-9]{2,12})-([A-Z]{3,5})")


@lru_cache(maxsize=512)
def product(symbol: str) -> Product:
    """The product called `symbol`, well-formed names of unknown coins included: their level comes from a hash.

    ValueError where the name is not BASE-QUOTE or is one of those that are never listed (NOPE-USD).
    """
    match = _WELL_FORMED.fullmatch(symbol)
    if match is None or match[1] in _NEVER_LISTED:
        raise ValueError(f"{symbol!r} is no product of the simulated market; write it as BASE-QUOTE, such as BTC-USD")
    if match[1] in _KNOWN:
        return _KNOWN[match[1]]
    number = int.from_bytes(hashlib.blake2b(f"{_VERSION}|{match[1]}".encode(), digest_size=8).digest(), "little")
    level = (100 + number % 900) * (1, 10, 100, 1000, 10_000)[number // 900 % 5] / 10_000
    decimals = 2 if level >= 20 else 4 if level >= 0.5 else 5 if level >= 0.05 else 6
    return Product(level, decimals, 7.0e-4, 0.03, 20_000 / level)


def simulate(seed: int, symbol: str, start: datetime, end: datetime) -> pd.DataFrame:
    """Minutes start ≤ open_time < end that had a trade: open_time, open, high, low, close, volume; ascending.

    A pure function: windows that overlap agree bit for bit. Prices on the quote increment. ValueError for a naive
    instant, for end < start and for an unknown product.
    """
    first, stop = _minute(require_utc(start, "start")), _minute(require_utc(end, "end"))
    if stop < first:
        raise ValueError(f"end {end.isoformat()} is before start {start.isoformat()}; swap them")
    bars = Simulated(seed).bars(symbol, first * MINUTE, stop * MINUTE)
    opened = pd.DatetimeIndex((bars.time * 1_000_000).astype("datetime64[us]")).tz_localize("UTC")
    # Copies: the cached arrays behind `bars` must never be written to.
    return pd.DataFrame({"open_time": opened} | {name: np.array(getattr(bars, name)) for name in Bars._fields[1:]})


@dataclass(frozen=True, slots=True)
class Simulated:
    """The simulated market as a Source."""

    seed: int

    def symbols(self) -> tuple[str, ...]:
        """The products with a realistic level; others are made up from their names."""
        return tuple(f"{base}-USD" for base in _KNOWN)

    def knows(self, symbol: str) -> bool:
        """Whether `symbol` is well-formed and not one of the never listed."""
        try:
            product(symbol)
        except ValueError:
            return False
        return True

    def decimals(self, symbol: str) -> int:
        """Decimals of the quote increment."""
        return product(symbol).decimals

    def bars(self, symbol: str, first: int, end: int) -> Bars:
        """Minutes first ≤ time < end (unix seconds) that had a trade, read-only; the same as `simulate`'s."""
        product(symbol)
        one_day = _DAY * MINUTE
        days = range(first // one_day, max((end - 1) // one_day, first // one_day) + 1)
        return Bars.joined([_day(self.seed, symbol, day).between(first, end) for day in days])

    def newest(self, symbol: str) -> int | None:
        """None: the simulated market has no end."""
        return None

    def describe(self) -> dict[str, object]:
        """Kind and seed."""
        return {"prices": "simulated", "seed": self.seed}


# --- one day --------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _day(seed: int, symbol: str, day: int) -> Bars:
    """The day's candles, minutes without a trade left out."""
    kind, first = product(symbol), day * _DAY
    volatility, drift, activity = _volatility(seed, symbol, day)
    sigma = kind.sigma * volatility
    trade = _words(seed, symbol, "trade", first, _DAY)
    quiet = _uniform(trade[:, 0]) < np.minimum(kind.quiet / (activity * activity), 0.3)

    returns = sigma * (_shared_normal(seed, symbol, "return", first, _DAY) + drift)
    returns += _jumps(seed, symbol, first) * kind.sigma
    # Without a trade the price stays: neither return nor variance.
    returns[quiet] = 0.0
    variance = np.add.accumulate(np.where(quiet, 0.0, sigma * sigma))
    walk = np.add.accumulate(returns)
    here, there = _levels(seed, symbol, kind.sigma, day)
    path = here + walk - variance / variance[-1] * (walk[-1] - (there - here))

    shape = _words(seed, symbol, "shape", first, _DAY)
    before = np.concatenate([[here], path[:-1]])
    opened = before + _GAP * sigma * _normal(trade[:, 1])
    high = _extreme(opened, path, sigma, shape[:, 0], shape[:, 1])
    low = -_extreme(-opened, -path, sigma, shape[:, 2], shape[:, 3])
    prices = [_price(log_price, kind) for log_price in (opened, high, low, path)]
    open_, close = prices[0], prices[3]
    top = np.maximum(np.maximum(open_, close), prices[1])
    bottom = np.minimum(np.minimum(open_, close), prices[2])
    moved = np.abs(returns) / kind.sigma
    volume = kind.volume * _exp(0.6 * _normal(trade[:, 2])) * activity * (0.5 + 0.6 * moved)
    volume = np.maximum(np.rint(volume * 1e8), 1.0) / 1e8
    times = (first + np.arange(_DAY, dtype=np.int64)) * MINUTE
    bars = Bars(*(column[~quiet] for column in (times, open_, top, bottom, close, volume)))
    for column in bars:
        column.setflags(write=False)  # cached, and handed out as slices
    return bars


def _volatility(seed: int, symbol: str, day: int) -> tuple[Floats, Floats, Floats]:
    """Of each minute of `day`: volatility relative to the product's, drift in volatilities, activity (about 1)."""
    minutes = day * _DAY + np.arange(_DAY)
    level = _components(seed, symbol, (*_SLOW, *_FAST), minutes)
    regime, drift = _regimes(seed, symbol, day)
    noise = _NOISE * _normal(_words(seed, symbol, "noise", day * _DAY, _DAY)[:, 0])
    hour, after = np.arange(_DAY) // 60, np.arange(_DAY) % 60 / 60
    season = (1 - after) * _SEASON[hour] + after * _SEASON[(hour + 1) % 24]
    weekend = _WEEKEND if (day + 3) % 7 >= 5 else 1.0  # 1970-01-01 was a Thursday
    activity = _exp(level) * season * weekend * regime
    return activity * _exp(noise) / _NORM, drift, activity


def _components(seed: int, symbol: str, parts: tuple[tuple[int, float], ...], minutes: npt.NDArray[np.int64]) -> Floats:
    """Log volatility at `minutes` (ascending): normal knots at each scale's multiples, interpolated at one variance."""
    total = np.zeros(len(minutes))
    for scale, deviation in parts:
        knot = minutes // scale
        first, count = int(knot[0]), int(knot[-1] - knot[0]) + 2
        values = _shared_normal(seed, symbol, f"volatility-{scale}", first, count)
        after = (minutes - knot * scale) / scale
        left, right = (1 - after) * values[knot - first], after * values[knot - first + 1]
        total += deviation * (left + right) / np.sqrt((1 - after) * (1 - after) + after * after)
    return total


def _regimes(seed: int, symbol: str, day: int) -> tuple[Floats, Floats]:
    """Of each minute of `day`: the regime's factor of volatility, and its drift in volatilities a minute."""
    words = _words(seed, symbol, "regime", day * 24, 24)
    starts = _uniform(words[:, 0]) < _REGIME_CHANGE
    starts[0] = True
    state = words[np.maximum.accumulate(np.where(starts, np.arange(24), 0))]
    kind, strength = _uniform(state[:, 1]), 0.02 + 0.03 * _uniform(state[:, 2])
    factor = np.select([kind < 0.5, kind < 0.8], [1.0, 0.75], 1.5)  # trend, range, turbulence
    drift = np.select([kind < 0.25, kind < 0.5], [strength, -strength], 0.0)
    return np.repeat(factor, 60), np.repeat(drift, 60)


def _jumps(seed: int, symbol: str, first: int) -> Floats:
    """Jumps of each minute in volatilities: mostly 0, else 5 … 14 either way."""
    words = _words(seed, symbol, "jump", first, _DAY)
    size = 5 + 9 * _uniform(words[:, 1]) * _uniform(words[:, 2])
    signed = np.where(_uniform(words[:, 3]) < 0.5, -size, size)
    return np.where(_uniform(words[:, 0]) < _JUMP, signed, 0.0)


def _levels(seed: int, symbol: str, sigma: float, day: int) -> tuple[float, float]:
    """L at the start and the end of `day`: log price against the product's level."""
    first = day - _MEMORY
    middles = (first + np.arange(_MEMORY + 1)) * _DAY + _DAY // 2
    slow = _exp(_components(seed, symbol, _SLOW, middles)) / _SLOW_NORM
    shocks = _shared_normal(seed, symbol, "day", first, _MEMORY + 1) * slow * (sigma * _sqrt_day())
    return _sum(shocks[:-1] * _weights()), _sum(shocks[1:] * _weights())


@lru_cache(maxsize=1)
def _weights() -> Floats:
    powers = np.multiply.accumulate(np.full(_MEMORY - 1, _REVERSION))
    return np.concatenate([powers[::-1], [1.0]])


def _extreme(opened: Floats, closed: Floats, sigma: Floats, one: Words, two: Words) -> Floats:
    """Maximum of a Brownian path from a to b: ½(a + b + √((b − a)² − 2σ² ln U)), −2 ln U being a sum of two squares."""
    spread, x, y = closed - opened, _normal(one), _normal(two)
    return 0.5 * (opened + closed + np.sqrt(spread * spread + 0.64 * (sigma * sigma) * (x * x + y * y)))


def _price(log_price: Floats, kind: Product) -> Floats:
    steps = 10.0**kind.decimals
    return np.maximum(np.rint(kind.level * _exp(log_price) * steps), 1.0) / steps


# --- numbers that are the same on every machine ---------------------------------------------


@lru_cache(maxsize=1024)
def _key(seed: int, symbol: str, stream: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{_VERSION}|{seed}|{symbol}|{stream}".encode(), digest_size=16).digest(), "little"
    )


def _words(seed: int, symbol: str, stream: str, first: int, count: int) -> Words:
    """Four random words for each index first … first + count − 1 of a stream; (count, 4)."""
    return (
        np.random.Philox(counter=_ORIGIN + first, key=_key(seed, symbol, stream))
        .random_raw(4 * count)
        .reshape(count, 4)
    )


def _uniform(words: Words) -> Floats:
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53


def _halves(words: Words) -> npt.NDArray[np.int64]:
    """Sum of a word's four 16-bit numbers."""
    mask = np.uint64(0xFFFF)
    parts = [(words >> np.uint64(shift)) & mask for shift in (0, 16, 32, 48)]
    return (parts[0] + parts[1] + parts[2] + parts[3]).astype(np.int64)


def _normal(words: Words) -> Floats:
    """Nearly standard normal: the sum of four uniforms (Irwin–Hall); fatter tails come from the volatility."""
    return (_halves(words) - 131_070) / 37_837.2


def _shared_normal(seed: int, symbol: str, stream: str, first: int, count: int) -> Floats:
    """Nearly standard normal (eight uniforms), correlated with the market's."""
    both = []
    for name in (symbol, _MARKET):
        words = _words(seed, name, stream, first, count)
        both.append((_halves(words[:, 0]) + _halves(words[:, 1]) - 262_140) / 53_509.9)
    return _OWN * both[0] + _LOADING * both[1]


def _exp(x: Floats) -> Floats:
    """exp(x) for |x| < 700, within 2 units of the last place, by operations that IEEE 754 rounds one way only."""
    power = np.rint(x * 1.4426950408889634)
    # ln 2 in two parts, the first short enough for power × part to be exact (Cody & Waite).
    rest = (x - power * 0.693147180369123816490) - power * 1.90821492927058770002e-10
    series = np.full_like(rest, 1 / 6_227_020_800)
    for factorial in _FACTORIALS:
        series = series * rest + 1 / factorial
    return np.ldexp(series, power.astype(np.int32))


_FACTORIALS = (479_001_600, 39_916_800, 3_628_800, 362_880, 40_320, 5_040, 720, 120, 24, 6, 2, 1, 1)


def _sum(values: Floats) -> float:
    # Strictly from left to right: how np.sum groups its terms depends on the machine.
    return float(np.add.accumulate(values)[-1])


def _sqrt_day() -> float:
    return float(np.sqrt(float(_DAY)))


def _minute(instant: datetime) -> int:
    """First minute that opens at or after `instant`, counted from 1970."""
    return -((_EPOCH - instant) // timedelta(minutes=1))
