"""Months of simulated trading with crashes and restarts: where stops hold, no accepted signal breaks a limit; where
they slip, the breach is seen at its very minute and nothing is accepted while it halts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from v7_pipeline.gates import AccountState, day_bounds
from v7_pipeline_tests.end_to_end.account_drill import MINUTE, Drill, FrameDrill, StoreDrill


def figures_of_today(state: AccountState) -> tuple[float | None, ...]:
    """What does not depend on how much of the history was judged again; cents apart at most."""
    amounts = (
        state.balance, state.equity, state.worst_equity_today, state.stopped_equity_usd, state.daily_limit,
        state.total_limit, state.floor, state.room_usd, state.margin_usd,
    )  # fmt: skip
    return tuple(None if amount is None else round(amount, 4) for amount in amounts)


def nothing_was_broken(drill: Drill, *, accepted: int) -> None:
    """Every minute since the beginning is judged again, over the whole history at once."""
    gated = drill.table("gated_signals")
    assert int(gated["accepted"].sum()) >= accepted and drill.crashes > 10
    assert gated["reason_codes"].str.contains("FTMO_").any()  # the limits were near, not far away
    assert drill.halts().empty
    state = drill.account(drill.end, whole=True).state
    assert state.first_breach_at is None and state.breached is None
    done = drill.table("outcomes")
    assert set(done["signal_id"]) == set(gated.loc[gated["accepted"].astype(bool), "signal_id"])
    assert {"stop", "target", "time"} <= set(done["exit_reason"].dropna())


def restarts_change_nothing(drill: Drill, instants: int) -> None:
    """From the facts of now, today's figures at earlier instants are the whole history's."""
    for now in drill.instants[:: max(1, len(drill.instants) // instants)]:
        part, all_ = drill.account(now).state, drill.account(now, whole=True).state
        assert figures_of_today(part) == figures_of_today(all_), now


def breaches_were_seen_at_their_minute(drill: Drill) -> set[str]:
    """The halts against the whole history's replay; the kinds that were met."""
    halts, gated = drill.halts(), drill.table("gated_signals")
    accepted = gated[gated["accepted"].astype(bool)]
    first = drill.account(drill.end, whole=True).state.first_breach_at
    assert first is not None and len(halts)
    # While it was down, a daily limit may have gone before the one that halts: the first look tells of both.
    assert drill.account(halts["started_at"].iloc[0].to_pydatetime()).state.first_breach_at == first
    for row in halts.to_dict("records"):
        broken, seen = row["breached_at"].to_pydatetime(), row["started_at"].to_pydatetime()
        assert drill.account(broken, whole=True).state.breached != row["kind"]
        known = drill.account(broken + MINUTE, whole=True).state
        assert (known.breached, known.breached_at) == (row["kind"], broken)
        until = drill.end if row["until"] is pd.NaT or row["until"] is None else row["until"].to_pydatetime()
        if row["kind"] == "daily":
            assert until == day_bounds(seen)[1]
        else:
            assert until == drill.end
        inside = accepted[(accepted["as_of"] > broken) & (accepted["as_of"] < until)]
        assert inside.empty, f"accepted after the {row['kind']} breach of {broken}"
        met = gated[(gated["as_of"] >= seen) & (gated["as_of"] < until)]
        code = f"HALT_{row['kind'].upper()}"
        assert met["reason_codes"].str.contains(code).all()
    return set(halts["kind"])


def test_a_month_in_which_stops_hold_breaks_no_limit(tmp_path: Path) -> None:
    drill = FrameDrill(tmp_path, 1, 30, rest_h=200)
    drill.run()
    nothing_was_broken(drill, accepted=12)
    restarts_change_nothing(drill, 6)


def test_a_month_in_which_stops_slip_halts_at_the_very_minute(tmp_path: Path) -> None:
    drill = FrameDrill(tmp_path, 4, 30, slip=3.0, rest_h=200)
    drill.run()
    assert breaches_were_seen_at_their_minute(drill) == {"daily", "total"}


@pytest.mark.slow
def test_a_year_in_which_stops_hold_breaks_no_limit(tmp_path: Path) -> None:
    drill = FrameDrill(tmp_path, 1, 365, rest_h=200)
    drill.run()
    nothing_was_broken(drill, accepted=150)
    restarts_change_nothing(drill, 25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 5, 7])
def test_further_months_in_which_stops_slip_halt_at_the_very_minute(tmp_path: Path, seed: int) -> None:
    drill = FrameDrill(tmp_path, seed, 30, slip=3.0, rest_h=200)
    drill.run()
    assert breaches_were_seen_at_their_minute(drill)


@pytest.mark.slow
@pytest.mark.parametrize(("slip", "seed"), [(1.0, 5), (3.0, 2)])
def test_the_same_from_a_store_on_disk_that_is_closed_at_every_crash(tmp_path: Path, slip: float, seed: int) -> None:
    drill = StoreDrill(tmp_path, seed, 8, slip=slip, rest_h=24)
    drill.run()
    restarts_change_nothing(drill, seed)
    if slip == 1.0:
        assert drill.halts().empty and drill.account(drill.end, whole=True).state.first_breach_at is None
        assert drill.table("gated_signals")["accepted"].astype(bool).any() and drill.crashes
    else:
        assert breaches_were_seen_at_their_minute(drill)
