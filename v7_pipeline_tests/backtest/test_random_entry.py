"""Random entry: matched with the strategy, blind to the future, worth its costs and no more on a random walk."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.backtest import BacktestError
from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.random_entry import moved_trades, percentile, random_entry, seed_of
from v7_pipeline_tests.backtest.markets import FIRST, SYMBOLS, Entry, constant, settings_of, strategy, walk

DAYS = 4
ENTRIES: list[Entry] = [
    ("BTC-USD", 10, "BUY"), ("BTC-USD", 900, "SELL"), ("ETH-USD", 300, "SELL"), ("SOL-USD", 1500, "BUY"),
    ("SOL-USD", 1501, "BUY"),
]  # fmt: skip


@pytest.fixture(scope="module")
def candles() -> pd.DataFrame:
    return pd.concat([walk(symbol, DAYS * 1440, seed=3) for symbol in SYMBOLS], ignore_index=True)


@pytest.fixture(scope="module")
def own(candles: pd.DataFrame) -> Simulation:
    return strategy(candles, ENTRIES, settings_of())


def test_draws_are_matched_in_number_side_plan_and_notional(own: Simulation, candles: pd.DataFrame) -> None:
    found = random_entry(own, candles, seed=1, draws=50)
    assert found is not None and (found.trades, found.draws, found.seed) == (5, 50, 1)
    assert found.mean_r.shape == found.net_usd.shape == (50,) and len(set(found.mean_r)) == 50
    assert found.own_mean_r == pytest.approx(own.paper["r_multiple"].mean())
    assert found.own_net_usd == pytest.approx(own.paper["pnl_usd"].sum())
    moved = {part.symbol: part for part in moved_trades(own, candles, seed=1, draws=50)}
    assert {symbol: len(part.trades) for symbol, part in moved.items()} == {"BTC-USD": 2, "ETH-USD": 1, "SOL-USD": 2}
    held = np.concatenate([(part.exit_time - part.entry_time).ravel() for part in moved.values()]) / 60e6
    assert held.min() >= 0 and held.max() == 59  # the time stop's candle, as the strategy's own
    for part in moved.values():  # one notional and one stop of 0.5 %: USD and R go together
        assert part.pnl_usd == pytest.approx(part.r_multiple * 0.005 * 50_000, rel=2e-2)


def test_the_same_seed_draws_the_same_bits_however_many_at_once(own: Simulation, candles: pd.DataFrame) -> None:
    first, again, small = (random_entry(own, candles, seed=7, draws=40, at_once=n) for n in (200_000, 200_000, 1))
    other = random_entry(own, candles, seed=8, draws=40)
    assert first is not None and again is not None and small is not None and other is not None
    assert (first.mean_r == again.mean_r).all() and (first.mean_r == small.mean_r).all()
    assert (first.net_usd == small.net_usd).all() and (first.net_usd != other.net_usd).all()
    assert seed_of("backtest-20231211-5f0c2a9e41d7") == seed_of("backtest-20231211-5f0c2a9e41d7") != seed_of("another")


def test_lesson_24_symbols_alone_are_symbols_together(own: Simulation, candles: pd.DataFrame) -> None:
    together = random_entry(own, candles, seed=2, draws=30)
    usd, r = np.zeros(30), np.zeros(30)
    for symbol in SYMBOLS:
        alone = candles[candles["symbol"] == symbol]
        found = random_entry(
            strategy(alone, [e for e in ENTRIES if e[0] == symbol], own.settings), alone, seed=2, draws=30
        )
        assert found is not None
        usd += found.net_usd
        r += found.mean_r * found.trades
    assert together is not None
    assert (together.net_usd == usd).all() and together.mean_r * 5 == pytest.approx(r, rel=1e-12)


def test_lesson_24_garbling_the_future_changes_no_draw_before_it(own: Simulation, candles: pd.DataFrame) -> None:
    cut = pd.Timestamp(FIRST) + pd.Timedelta(days=2)
    later = candles["open_time"] >= cut
    garbled = candles.copy()
    garbled.loc[later, ["open", "high", "low", "close"]] *= 7.0
    signals = own.signals.copy()
    signals.loc[signals["as_of"] > cut, "market_price"] *= 7.0
    spoilt = Simulation(own.name, own.settings, own.instants, signals, *(getattr(own, f) for f in
                        ("gated", "outcomes", "win_rates", "thresholds")))  # fmt: skip
    before = 0
    for one, other in zip(
        moved_trades(own, candles, seed=5, draws=200), moved_trades(spoilt, garbled, seed=5, draws=200), strict=True
    ):
        assert (one.entry_time == other.entry_time).all()  # prices decide no instant
        known = one.exit_time < cut.value // 1000
        assert (one.r_multiple[known] == other.r_multiple[known]).all()
        assert (one.pnl_usd[known] == other.pnl_usd[known]).all()
        before += int(known.sum())
        assert (one.r_multiple[~known] != other.r_multiple[~known]).any()
    assert 300 < before < 700


@pytest.mark.parametrize("fees", ["ftmo-crypto", "none"])
def test_lesson_24_where_nothing_moves_every_draw_loses_exactly_its_costs(fees: str) -> None:
    settings = settings_of(fees=fees, slippage=0.0001)
    candles = pd.concat([constant(s, 1440, p) for s, p in zip(SYMBOLS, (64.0, 8.0, 2.0), strict=True)])
    own = strategy(candles, [(s, 100, side) for s, side in zip(SYMBOLS, ("BUY", "SELL", "BUY"), strict=True)], settings)
    found = random_entry(own, candles, seed=1, draws=20)
    rate = 0.000325 if fees == "ftmo-crypto" else 0.0

    def costs(sign: float) -> float:
        entry, exit_ = 1 + sign * 0.0001, 1 - sign * 0.0001
        return 50_000 * (sign * (entry - exit_) + rate * (entry + exit_))

    assert found is not None
    assert found.net_usd == pytest.approx(np.full(20, -2 * costs(1.0) - costs(-1.0)), rel=1e-12)
    assert found.percentile_net_usd == 0.5 and found.percentile_mean_r == 0.5


def test_lesson_24_on_a_random_walk_a_random_entry_loses_its_costs_and_no_more() -> None:
    """Symmetric barriers, so that neither side of the plan is favoured; days are the independent stretches."""
    days = 60
    candles = walk("BTC-USD", days * 1440, seed=11)
    settings, free = settings_of(symbols=("BTC-USD",)), settings_of(symbols=("BTC-USD",), fees="none", slippage=0.0)
    parts = []
    for chosen in (settings, free):
        own = strategy(candles, [("BTC-USD", 10, "BUY")], chosen, stop=0.003, reward=0.003)
        (part,) = moved_trades(own, candles, seed=1, draws=6000)
        parts.append(part)
    paid, gross = parts
    assert (paid.entry_time == gross.entry_time).all()
    of_day = pd.Series(gross.r_multiple[0]).groupby(gross.entry_time[0] // 86_400_000_000).mean()
    error = of_day.std() / np.sqrt(len(of_day))
    assert len(of_day) == days and error < 0.05
    assert abs(gross.r_multiple.mean()) < 3 * error
    # Fees of both sides, slippage of the entry, and of the exit unless it was the target's limit order.
    cost = (gross.r_multiple - paid.r_multiple) * 0.003
    assert cost.min() >= 0.00075 and cost.max() <= 0.00086
    assert paid.r_multiple.mean() == pytest.approx(gross.r_multiple.mean() - cost.mean() / 0.003)


@pytest.mark.slow
def test_a_strategy_that_is_a_random_draw_itself_has_any_percentile_alike() -> None:
    from scipy.stats import kstest

    settings = settings_of(symbols=("BTC-USD",))
    path = walk("BTC-USD", 1440, seed=5)
    rng = np.random.default_rng(4)
    usable = 690  # the last instant from which the time stop lies within the span
    places = []
    for trial in range(50):
        entries = [("BTC-USD", int(at), "SELL") for at in rng.choice(usable, 3, replace=False)]
        found = random_entry(strategy(path, entries, settings), path, seed=trial, draws=99)
        assert found is not None and found.trades == 3
        places.append(found.percentile_mean_r)
    assert kstest(places, "uniform").pvalue > 0.01
    assert np.mean(np.array(places) < 0.05) < 0.12 and np.mean(np.array(places) > 0.95) < 0.12


def test_moved_together_trades_keep_their_distances_and_symbols_alone_are_symbols_together(
    own: Simulation, candles: pd.DataFrame
) -> None:
    moved = {part.symbol: part for part in moved_trades(own, candles, seed=3, draws=200, together=True)}
    apart = (moved["SOL-USD"].entry_time[1] - moved["SOL-USD"].entry_time[0]) / 60e6
    assert (apart == 2).mean() > 0.98  # but where one of them comes round the end
    between = (moved["ETH-USD"].entry_time[0] - moved["BTC-USD"].entry_time[0]) / 60e6
    assert (np.abs(between - 580) < 1e-9).mean() > 0.85
    assert len(np.unique(moved["SOL-USD"].entry_time[0])) > 180
    alone = candles[candles["symbol"] == "SOL-USD"]
    entries = [entry for entry in ENTRIES if entry[0] == "SOL-USD"]
    (part,) = moved_trades(strategy(alone, entries, own.settings), alone, seed=3, draws=200, together=True)
    assert (part.pnl_usd == moved["SOL-USD"].pnl_usd).all()


@pytest.mark.slow
def test_where_trades_come_in_clusters_only_those_moved_together_are_as_uncertain() -> None:
    """Ten trades at neighbouring instants are one bet: independent draws take them for ten."""
    settings = settings_of(symbols=("BTC-USD",))
    path = walk("BTC-USD", 1440, seed=9)
    beyond = {False: 0, True: 0}
    rng = np.random.default_rng(5)
    for trial in range(36):
        at = int(rng.integers(0, 680))
        own = strategy(path, [("BTC-USD", at + k, "BUY") for k in range(10)], settings)
        for together in beyond:
            found = random_entry(own, path, seed=trial, draws=49, together=together)
            assert found is not None
            beyond[together] += abs(found.percentile_mean_r - 0.5) > 0.45
    assert beyond[False] > 12 and beyond[True] < 9  # of 36, of which 4 are expected by chance


def test_no_trade_has_no_percentile_and_a_span_without_room_is_refused(candles: pd.DataFrame) -> None:
    assert random_entry(strategy(candles, [], settings_of()), candles, seed=1) is None
    short = candles[candles["open_time"] < pd.Timestamp(FIRST) + pd.Timedelta(minutes=50)]
    own = strategy(short, [("BTC-USD", 2, "BUY")], settings_of(), stop=1e-5, reward=1e-5)
    assert len(own.paper) == 1
    with pytest.raises(BacktestError, match=r"v7-BTC-USD-20260302T000600Z cannot be moved.*60 min before its end"):
        random_entry(own, short, seed=1)
    with pytest.raises(BacktestError, match="0 draws compare with nothing"):
        random_entry(own, short, seed=1, draws=0)


def test_instants_without_a_fresh_price_are_not_drawn(own: Simulation, candles: pd.DataFrame) -> None:
    signals = own.signals.copy()
    stale = signals["as_of"] < pd.Timestamp(FIRST) + pd.Timedelta(days=3)
    signals.loc[stale, "price_age_s"] = 181.0
    late = Simulation(own.name, own.settings, own.instants, signals, own.gated, own.outcomes, *(own.win_rates,) * 2)
    for part in moved_trades(late, candles, seed=1, draws=50):
        assert part.entry_time.min() >= signals.loc[~stale, "as_of"].min().value // 1000


def test_the_percentile_counts_half_of_what_is_equal() -> None:
    assert percentile(2.0, [1.0, 2.0, 2.0, 3.0]) == 0.5
    assert (percentile(9.0, [1.0, 2.0]), percentile(0.0, [1.0, 2.0])) == (1.0, 0.0)
    assert (
        np.isnan(percentile(float("nan"), [1.0]))
        and np.isnan(percentile(1.0, [np.nan]))
        and np.isnan(percentile(1.0, []))
    )
