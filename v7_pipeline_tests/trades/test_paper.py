"""Positions behind outcomes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.trades import POSITION_COLUMNS, follow, pending_risk_usd, positions
from v7_pipeline_tests.trades.builders import LATER, candles, short, trade

CALM = (100.0, 100.2, 99.8, 100.0)


def _outcomes(book: pd.DataFrame, rows: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    return follow(book, candles(rows), as_of=LATER, fee_preset="ftmo-crypto", slippage=0.001, breakeven_band_r=0.1)


@pytest.mark.parametrize("book", [trade(), short()])
def test_the_worst_case_is_what_a_stop_really_costs(book: pd.DataFrame) -> None:
    stop = book["stop_price"].iloc[0]
    outcome = _outcomes(book, [(100.0, max(100.0, stop), min(100.0, stop), 100.0)])
    row = positions(outcome, book, slippage=0.001).iloc[0]
    assert row["worst_case_usd"] == pytest.approx(-outcome["pnl_usd"].iloc[0], rel=1e-12)


def test_fees_are_kept_by_side_and_the_exits_is_missing_while_open() -> None:
    book = positions(_outcomes(trade(), [CALM]), trade(), slippage=0.001)
    assert tuple(book.columns) == POSITION_COLUMNS
    row = book.iloc[0]
    assert row["entry_fee_usd"] == pytest.approx(0.000325 * 2.0 * 100.0 * 1.001)
    assert np.isnan(row["exit_fee_usd"]) and pd.isna(row["exit_time"])


def test_what_was_not_filled_is_pending_and_no_position() -> None:
    accepted = pd.DataFrame({"signal_id": [trade()["signal_id"].iloc[0], "other"], "risk_usd": [500.0, 300.0]})
    waiting = _outcomes(trade(), [])
    assert positions(waiting, trade(), slippage=0.001).empty
    assert pending_risk_usd(accepted, waiting) == 800.0
    assert pending_risk_usd(accepted, _outcomes(trade(), [CALM])) == 300.0
    assert pending_risk_usd(accepted.iloc[:0], waiting) == 0.0


def test_lesson_17_shadows_are_no_positions_and_kinds_are_not_mixed() -> None:
    shadow = _outcomes(trade(kind="shadow", quantity=np.nan), [CALM])
    with pytest.raises(ValueError, match="shadow"):
        positions(shadow, trade(), slippage=0.001)
    with pytest.raises(ValueError, match="kinds"):
        positions(pd.concat([shadow, _outcomes(trade(), [CALM])]), trade(), slippage=0.001)


def test_a_position_without_its_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="no signal"):
        positions(_outcomes(trade(), [CALM]), trade(signal_id="another"), slippage=0.001)
