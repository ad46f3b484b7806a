"""One position at a time: against the rule written out row by row, and at its edges."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.trades import follow, one_at_a_time
from v7_pipeline_tests.trades.builders import LATER, MINUTE, T0, candles, trade

RULES = {"as_of": LATER, "fee_preset": "none", "slippage": 0.0, "breakeven_band_r": 0.1}


def rows(*spans: tuple[int, int | None], symbol: str = "BTC-USD") -> pd.DataFrame:
    """Outcomes by minutes: signalled at the first, its exit's candle over at the second (None: still open)."""
    frame = pd.DataFrame({"symbol": symbol, "as_of": [T0 + begin * MINUTE for begin, _ in spans]})
    ends = [None if end is None else T0 + end * MINUTE for _, end in spans]
    frame["followed_until"] = pd.to_datetime([end or LATER for end in ends], utc=True)
    frame["exit_time"] = pd.to_datetime([end and end - MINUTE for end in ends], utc=True)
    return frame


def by_hand(outcomes: pd.DataFrame) -> list[bool]:
    """Row by row, as one would explain it."""
    free: dict[str, pd.Timestamp] = {}
    taken = {}
    for row in outcomes.sort_values("as_of", kind="stable").itertuples():
        taken[row.Index] = bool(row.symbol not in free or row.as_of >= free[row.symbol])
        if taken[row.Index]:
            open_ = pd.isna(row.exit_time)
            free[row.symbol] = pd.Timestamp.max.tz_localize("UTC") if open_ else row.followed_until
    return [taken[place] for place in range(len(outcomes))]


def test_a_signal_is_taken_from_the_end_of_the_exits_candle_on() -> None:
    assert one_at_a_time(rows((0, 10), (9, 30), (10, 12), (11, 13), (12, 40))).tolist() == [
        True, False, True, False, True,
    ]  # fmt: skip


def test_an_open_trade_lets_nothing_more_in_and_symbols_do_not_meet() -> None:
    both = pd.concat([rows((0, None), (600, 601)), rows((1, 5), (5, 9), symbol="ETH-USD")], ignore_index=True)
    assert one_at_a_time(both).tolist() == [True, False, True, True]
    alone = one_at_a_time(both[2:])
    assert alone.tolist() == [True, True]


def test_of_two_at_one_instant_the_first_row_counts_even_where_it_is_over_at_once() -> None:
    assert one_at_a_time(rows((3, 20), (0, 1), (0, 2), (1, 3))).tolist() == [True, True, False, True]
    assert one_at_a_time(rows()).tolist() == []


def test_as_written_out_row_by_row_on_random_trades() -> None:
    rng = np.random.default_rng(11)
    for _ in range(30):
        begins = rng.integers(0, 300, 80)
        spans = [
            (int(b), None if rng.random() < 0.02 else int(b + k))
            for b, k in zip(begins, rng.integers(1, 60, 80), strict=True)
        ]
        frame = rows(*spans).assign(symbol=rng.choice(["BTC-USD", "ETH-USD"], 80))
        assert one_at_a_time(frame).tolist() == by_hand(frame)


def test_of_followed_trades_the_next_begins_when_the_last_one_is_known_to_be_over() -> None:
    path = candles([(100, 100.5, 99.5, 100)] * 3 + [(100, 103, 99.5, 102)] + [(100, 100.5, 99.5, 100)] * 10)
    signals = pd.concat(
        [trade(signal_id=f"s{k}", as_of=T0 + timedelta(minutes=k)) for k in (0, 2, 3, 4, 5)], ignore_index=True
    )
    # The first's target falls in the candle of minute 3, so that the signal of minute 4 is the next.
    assert one_at_a_time(follow(signals, path, **RULES)).tolist() == [True, False, False, True, False]


def test_naive_instants_are_refused() -> None:
    naive = rows((0, 1)).assign(as_of=pd.to_datetime(["2023-12-11"]))
    with pytest.raises(ValueError, match="as_of"):
        one_at_a_time(naive)


def test_names_as_categories_change_nothing() -> None:
    path = candles([(100, 103, 99.5, 102)] * 5)
    both = pd.concat([path, path.assign(symbol="ETH-USD")], ignore_index=True).sample(frac=1, random_state=3)
    signals = pd.concat([trade(signal_id="b"), trade(signal_id="e", symbol="ETH-USD")], ignore_index=True)
    plain = follow(signals, both, **RULES)
    names = pd.CategoricalDtype(["SOL-USD", "ETH-USD", "BTC-USD"])
    coded = follow(signals.astype({"symbol": names}), both.astype({"symbol": names}), **RULES)
    pd.testing.assert_frame_equal(coded.astype({"symbol": object}), plain)
    assert plain["exit_reason"].tolist() == ["target"] * 2
    assert one_at_a_time(coded).tolist() == one_at_a_time(plain).tolist() == [True, True]
