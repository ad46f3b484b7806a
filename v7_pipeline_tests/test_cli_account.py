"""`v7 ftmo`, `v7 ftmo simulate`, `v7 account`: what they show, keep and refuse, over a real store in demo mode."""

from __future__ import annotations

import json
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.store import Store, conform, open_store
from v7_pipeline.store.identity import signal_id
from v7_pipeline.store.schema import table
from v7_pipeline_tests.test_cli import refused, v7

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
AT = "2026-11-20T10:30Z"
MINUTE = timedelta(minutes=1)


def put(store: Store, name: str, *rows: dict[str, Any]) -> None:
    """Write rows of the demo, absent nullable columns missing."""
    marks = {"source": "demo", "run_id": "r", "code_version": "1"}
    frame = pd.DataFrame([marks | row for row in rows]).reindex(columns=list(table(name).column_names))
    with store.transaction() as tx:
        tx.upsert(name, conform(name, frame))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a fresh store."""
    made = tmp_path_factory.mktemp("fresh") / "v7.duckdb"
    open_store(f"duckdb:{made}").migrate("1", NOW)
    return made


@pytest.fixture
def store(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A home with a fresh demo store, at no fees and no slippage, so that figures can be reckoned by hand."""
    for name, value in (
        ("HOME", str(tmp_path / "home")), ("MODE", "demo"), ("SLIPPAGE", "0"), ("FEES", "none"),
        ("COMMISSION", "BTC-USD=0"),
    ):  # fmt: skip
        monkeypatch.setenv(f"V7_{name}", value)
    place = tmp_path / "home" / "demo" / "v7.duckdb"
    place.parent.mkdir(parents=True)
    shutil.copy(fresh, place)
    return open_store(f"duckdb:{place}")


def trade(when: datetime, *, closed_with: float | None = None, entry: float = 100_000.0) -> dict[str, dict[str, Any]]:
    """One bitcoin bought at `entry`, stop 500 below; closed an hour later with that many USD, or still open.

    A row for each table that tells of it.
    """
    key = signal_id("v7", "BTC-USD", when)
    plan = {"entry_price": entry, "stop_price": entry - 500.0, "target_price": entry + 2000.0}
    signal = {
        "signal_id": key, "as_of": when, "features_as_of": when, "decided_at": when, "symbol": "BTC-USD",
        "strategy": "v7", "analyst": "rules", "side": "BUY", "confidence": 0.8, **plan, "horizon_minutes": 600,
        "reasoning": "up", "market_price": entry, "price_age_s": 60.0, "status": "answered",
    }  # fmt: skip
    gated = {
        "signal_id": key, "as_of": when, "symbol": "BTC-USD", "strategy": "v7", "side": "BUY", "freshness_ok": True,
        "halt_ok": True, "budget_ok": True, "gate_inputs": "{}", "gates_off": "", "reason_codes": "",
        "accepted": True, "quantity": 1.0, "risk_usd": 500.0,
    }  # fmt: skip
    outcome = {
        "signal_id": key, "kind": "paper", "as_of": when, "symbol": "BTC-USD", "strategy": "v7", "side": "BUY",
        "entry_time": when, "entry_price": entry, "ambiguous": False, "quantity": 1.0, "fee_preset": "none",
        "outcome": "open", "followed_until": when + MINUTE,
    }  # fmt: skip
    if closed_with is not None:
        outcome |= {
            "exit_time": when + timedelta(hours=1), "exit_price": entry + closed_with, "exit_reason": "time",
            "pnl_usd": closed_with, "mae": min(closed_with, 0.0) / entry, "fees": 0.0,
            "net_return": closed_with / entry, "outcome": "win" if closed_with > 0 else "loss",
        }  # fmt: skip
    return {"llm_signals": signal, "gated_signals": gated, "outcomes": outcome}


def of(strategy: str, told: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same trade by another strategy."""
    key = signal_id(strategy, "BTC-USD", told["outcomes"]["as_of"])
    return {name: row | {"strategy": strategy, "signal_id": key} for name, row in told.items()}


def keep(store: Store, *trades: dict[str, dict[str, Any]]) -> None:
    for name in ("llm_signals", "gated_signals", "outcomes"):
        put(store, name, *(rows[name] for rows in trades))


def candles(store: Store, first: datetime, *bars: tuple[float, float, float]) -> None:
    """Minutes of BTC-USD from `first` on as (low, high, close)."""
    rows = [
        {"symbol": "BTC-USD", "open_time": first + place * MINUTE, "open": bars[max(place - 1, 0)][2], "high": high,
         "low": low, "close": close, "volume": 1.0, "venue": "sandbox", "fetched_at": NOW}
        for place, (low, high, close) in enumerate(bars)
    ]  # fmt: skip
    put(store, "candles", *rows)


@pytest.fixture
def world(store: Store) -> Store:
    """The day before +600; today −1,000 closed, and one open that was 400 down and is 100 down."""
    calm = (100_000.0, 100_000.0, 100_000.0)
    keep(
        store,
        trade(datetime(2026, 11, 19, 8, tzinfo=UTC), closed_with=600.0),
        trade(datetime(2026, 11, 20, 8, tzinfo=UTC), closed_with=-1000.0),
        trade(datetime(2026, 11, 20, 10, tzinfo=UTC)),
    )
    candles(store, datetime(2026, 11, 20, 10, tzinfo=UTC), *[calm] * 5, (99_600.0, 100_000.0, 99_700.0),
            *[(99_700.0, 99_950.0, 99_900.0)] * 24)  # fmt: skip
    return store


def words(text: str) -> str:
    return re.sub(r"[\s│]+", " ", text)


# --- v7 ftmo ------------------------------------------------------------------------------


def test_a_fresh_account_has_its_capital_and_all_its_room(store: Store) -> None:
    out = words(v7("ftmo").out)
    assert "balance $100,000.00 · equity $100,000.00" in out and "DEMO" in out
    assert "$5,000.00 of $5,000.00 left (100 %), limit $95,000.00" in out
    assert "$10,000.00 of $10,000.00 left (100 %), limit $90,000.00" in out
    assert "trading days 0 of at least 4 · best day – " in out and "no open position" in out
    assert "next trade may risk $500.00 (the risk per trade; $4,500.00 left" in out
    assert "target " + "░" * 40 + " $0.00 of $10,000.00 (0 %), $10,000.00 to go" in out


def test_room_is_told_in_dollars_and_percent_with_the_worst_since_midnight(world: Store) -> None:
    out = words(v7("ftmo", "--at", AT).out)
    # 100,600 at midnight; 99,600 closed; 100 down now, 400 down at the worst.
    assert "balance $99,600.00 · equity $99,500.00 (-$100.00 open)" in out
    assert "$3,900.00 of $5,000.00 left (78 %), limit $95,600.00; least since midnight $3,600.00 (72 %)" in out
    assert "$9,500.00 of $10,000.00 left (95 %), limit $90,000.00; least since midnight $9,200.00 (92 %)" in out
    assert "trading days 2 of at least 4 · best day $600.00, 100 % of what the good days made" in out
    assert "-$400.00 of $10,000.00 (-4 %), $10,400.00 to go" in out


def test_the_gauge_marks_the_worst_point(world: Store) -> None:
    (line,) = (line for line in v7("ftmo", "--at", AT).out.splitlines() if line.startswith("daily room"))
    gauge = re.search(r"[█╎░]+", line)
    assert gauge and len(gauge[0]) == 40
    assert gauge[0].index("╎") == int(40 * 0.72) and gauge[0].count("░") == 40 - round(40 * 0.78)


def test_open_positions_are_listed_with_what_they_float_and_risk(world: Store) -> None:
    out = words(v7("ftmo", "--at", AT).out)
    assert re.search(
        r"v7-BTC-USD-20261120T100000Z BUY 1\.000000 100,000\.00 99,900\.00 99,500\.00 -\$100\.00 \$500", out
    )
    assert "all stopped out costs $400.00 from the equity now" in out


def test_the_next_trade_may_risk_what_the_gate_leaves(world: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # 99,600 − 500 at the stop = 99,100; less the buffer of 500 that is 3,000 above 95,600.
    assert "next trade may risk $500.00 (the risk per trade; $3,000.00 left" in words(v7("ftmo", "--at", AT).out)
    monkeypatch.setenv("V7_RISK_PER_TRADE", "0.04")
    assert "next trade may risk $3,000.00 (the room; $3,000.00 left" in words(v7("ftmo", "--at", AT).out)
    monkeypatch.setenv("V7_FTMO_BUFFER", "0.9")
    assert "next trade may risk $0.00 (FTMO_DAILY_ROOM: " in words(v7("ftmo", "--at", AT).out)


def test_old_prices_leave_nothing_to_risk_and_say_so(world: Store) -> None:
    assert "next trade may risk $0.00 (FTMO_STALE: " in words(v7("ftmo", "--at", "2026-11-20T11:30Z").out)


def test_what_the_figures_rest_on_is_named(world: Store) -> None:
    out = words(v7("ftmo", "--at", AT).out)
    assert "rules ftmo-2step-challenge, version of 2025-07-26 (official: " in out
    assert "prices of 2026-11-20 10:30 UTC" in out


def test_the_next_roll_is_told_in_utc_in_prague_and_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        out = words(v7("ftmo", "--at", AT).out)
        summer = words(v7("ftmo", "--at", "2026-07-20T10:30Z").out)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "2026-11-20 23:00 UTC = 00:00 Europe/Prague = 18:00 EST here, in 12 h 30 min" in out
    assert "2026-07-20 22:00 UTC = 00:00 Europe/Prague = 18:00 EDT here, in 11 h 30 min" in summer


def test_halts_and_gates_that_are_off_stand_first(world: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_GATES_OFF", "plan,rate")
    put(
        world, "halts",
        {"halt_id": "a", "kind": "manual", "started_at": NOW - timedelta(hours=1), "reason": "travelling"},
        {"halt_id": "b", "kind": "manual", "started_at": NOW - timedelta(hours=3), "reason": "lifted before",
         "lifted_at": NOW - timedelta(hours=2)},
        {"halt_id": "c", "kind": "daily", "started_at": NOW - timedelta(days=1), "until": NOW - timedelta(hours=9),
         "reason": "run out"},
        {"halt_id": "d", "kind": "manual", "started_at": NOW + MINUTE, "reason": "not known then"},
    )  # fmt: skip
    out = words(v7("ftmo", "--at", AT).out)
    assert "GATES OFF: plan, rate" in out
    assert "HALT (manual) since 2026-11-20 09:30 UTC, until v7 resume: travelling" in out
    assert not {"lifted before", "run out", "not known then"} & set(re.findall("lifted before|run out|not known", out))
    assert "next trade may risk $0.00 (a halt is in force;" in out
    assert out.index("GATES OFF") < out.index("HALT") < out.index("daily room")


def test_a_breach_is_told_with_its_minute(store: Store) -> None:
    keep(store, trade(datetime(2026, 11, 20, 10, tzinfo=UTC)))
    fall = (94_000.0, 100_000.0, 95_500.0)
    candles(store, datetime(2026, 11, 20, 10, tzinfo=UTC), *[(100_000.0, 100_000.0, 100_000.0)] * 3, fall)
    # The stop is followed: 99,500 is what the position lost at most.
    assert "BREACHED" not in v7("ftmo", "--at", "2026-11-20T10:04Z").out
    keep(store, trade(datetime(2026, 11, 20, 6, tzinfo=UTC), closed_with=-5200.0))
    out = words(v7("ftmo", "--at", "2026-11-20T10:04Z").out)
    assert "BREACHED: the daily limit was broken at 2026-11-20 07:00 UTC" in out
    assert "next trade may risk $0.00 (FTMO_BREACHED_DAILY: " in out


def test_json_holds_the_figures_that_are_shown(world: Store) -> None:
    told = json.loads(v7("ftmo", "--at", AT, "--json").out)
    assert told["demo"] is True and told["as_of"] == "2026-11-20T10:30:00Z"
    assert (told["balance_usd"], told["equity_usd"], told["open_positions"]) == (99_600.0, 99_500.0, 1)
    assert told["daily"] == {
        "limit_usd": 95_600.0, "allowance_usd": 5000.0, "room_usd": 3900.0, "room_share": 0.78,
        "worst_room_usd": 3600.0, "worst_room_share": 0.72,
    }  # fmt: skip
    assert told["next_trade"]["usd"] == 500.0 and told["next_trade"]["room_left_usd"] == 3000.0
    assert told["day"] == {
        "began_at": "2026-11-19T23:00:00Z", "ends_at": "2026-11-20T23:00:00Z", "timezone": "Europe/Prague"
    }  # fmt: skip
    assert told["best_day_limit"] is None and told["set_by_hand"] is None


def test_each_live_strategy_has_a_block_of_its_own_account(world: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """V7 lost 400 and has one open; v6 won 250 and has none: neither is in the other's figures."""
    keep(world, of("v6", trade(datetime(2026, 11, 20, 8, tzinfo=UTC), closed_with=250.0)))
    alone = words(v7("ftmo", "--at", AT).out)
    assert "ACCOUNT of v7 2026-11-20 10:30Z — DEMO" in alone and "of v6" not in alone
    monkeypatch.setenv("V7_STRATEGIES", "v7,v6")
    first, second = words(v7("ftmo", "--at", AT).out).split("ACCOUNT of ")[1:]
    assert first.startswith("v7 2026-11-20 10:30Z — DEMO") and "balance $99,600.00" in first
    assert "OPEN POSITIONS of v7" in first and "balance $100,250.00" not in first
    assert second.startswith("v6 2026-11-20 10:30Z — DEMO") and "balance $100,250.00" in second
    assert "no open position" in second and "OPEN POSITIONS" not in second
    told = json.loads(v7("ftmo", "--at", AT, "--json").out)
    (other,) = told["others"]
    assert [(one["strategy"], one["balance_usd"]) for one in (told, other)] == [("v7", 99_600.0), ("v6", 100_250.0)]
    assert told["positions"] and not other["positions"]


def test_a_reading_of_the_real_account_is_the_first_strategys_alone(
    world: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V7_STRATEGIES", "v7,v6")
    assert v7("account", "set", "--balance", "98000", "--at", AT).code == 0
    told = json.loads(v7("ftmo", "--json").out)
    assert told["set_by_hand"]["balance_usd"] == told["balance_usd"] == 98_000.0
    assert told["others"][0]["set_by_hand"] is None and told["others"][0]["balance_usd"] == 100_000.0


def test_rules_without_a_target_show_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_FTMO_RULES", "ftmo-2step-funded")
    assert "target" not in v7("ftmo").out.replace("target,", "")
    assert json.loads(v7("ftmo", "--json").out)["target"] is None


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("noon", "--at 'noon' is no instant; write it as 2026-11-21T10:00Z"),
        ("2026-11-20T10:30", "has no time zone; write it in UTC, as 2026-11-20T10:30Z"),
        ("2126-11-20T10:30Z", "lies in the future"),
    ],
)
def test_an_instant_that_cannot_be_used_is_refused(store: Store, at: str, told: str) -> None:
    assert told in refused("ftmo", "--at", at)
    assert told in refused("account", "set", "--balance", "100000", "--at", at)


def test_unknown_rules_are_refused_with_their_setting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_FTMO_RULES", "my-own")
    for command in (("ftmo",), ("ftmo", "simulate"), ("account", "set", "--balance", "1000")):
        assert "V7_FTMO_RULES (from environment) is not usable: no rule set 'my-own'" in refused(*command)


# --- v7 account ---------------------------------------------------------------------------


def test_a_balance_set_by_hand_is_what_the_account_starts_from(world: Store) -> None:
    told = v7("account", "set", "--balance", "101234.50", "--equity", "101000", "--note", "read off [by hand]")
    assert told.out.startswith("DEMO balance replayed $99,600.00 → set $101,234.50 (+1,634.50); equity replayed ")
    out = words(v7("ftmo").out)
    assert "balance $101,234.50 · equity " in out
    assert "balance set by hand to $101,234.50 as of " in out and "0 min ago, equity $101,000.00" in out
    assert "balance $99,600.00" in words(v7("ftmo", "--at", AT).out), "an earlier instant did not know it"
    shown = words(v7("account", "show").out)
    assert "ACCOUNT READINGS — DEMO" in shown and "$101,234.50 $101,000.00 – read off [by hand]" in shown


def test_a_reading_of_the_past_is_known_from_when_it_was_typed_in(world: Store) -> None:
    v7("account", "set", "--balance", "99000", "--at", "2026-11-20T10:10Z", "--day-start", "100600")
    then = words(v7("ftmo", "--at", AT).out)
    assert "balance $99,600.00" in then and "set by hand" not in then
    assert "balance set by hand to $99,000.00 as of 2026-11-20 10:10 UTC" in words(v7("ftmo").out)
    row = world.query("SELECT * FROM account_readings").iloc[0]
    assert row["at"] == pd.Timestamp("2026-11-20T10:10Z") and row["recorded_at"] > row["at"]
    assert (row["balance_usd"], row["day_start_usd"], row["source"]) == (99_000.0, 100_600.0, "demo")
    assert pd.isna(row["equity_usd"]) and row["note"] is None


def test_a_reading_is_kept_as_it_is(store: Store) -> None:
    first = ("account", "set", "--balance", "100500", "--at", AT)
    assert v7(*first).code == 0
    assert "these figures already; nothing changed" in v7(*first).out
    told = refused("account", "set", "--balance", "100600", "--at", AT)
    assert told == (
        "the account of 2026-11-20 10:30:00Z was set to $100,500.00 already, and readings are kept as they are; "
        "give the new figures an --at of their own"
    )
    assert store.query("SELECT balance_usd FROM account_readings")["balance_usd"].tolist() == [100_500.0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--balance", "-5"), "--balance -5 is no amount that an account has"),
        (("--balance", "nan"), "--balance nan is no amount"),
        (("--balance", "100000", "--equity", "0"), "--equity 0 is no amount"),
        (("--balance", "100000", "--day-start", "-1"), "--day-start -1 is no amount"),
        (("--balance", "1000000"), "--balance $1,000,000.00 lies more than 50% from the balance that the recorded"),
        (("--balance", "100000", "--equity", "10100"), "--equity $10,100.00 lies more than 50% from the balance"),
        (("--balance", "100000", "--day-start", "10000"), "--day-start $10,000.00 lies more than 50%"),
    ],
)
def test_figures_that_cannot_be_meant_are_refused(store: Store, options: tuple[str, ...], told: str) -> None:
    assert told in refused("account", "set", *options)
    assert store.query("SELECT * FROM account_readings").empty


def test_an_absurd_figure_is_taken_from_who_insists(store: Store) -> None:
    assert v7("account", "set", "--balance", "1000000", "--yes").code == 0
    assert store.query("SELECT balance_usd FROM account_readings")["balance_usd"].tolist() == [1_000_000.0]


def test_the_balance_may_be_set_before_the_first_scan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("V7_HOME", str(tmp_path / "new"))
    assert v7("account", "set", "--demo", "--balance", "100100").code == 0
    assert "no balance was set by hand" not in v7("account", "show", "--demo").out
    told = json.loads(v7("account", "show", "--demo", "--json").out)
    assert [row["balance_usd"] for row in told["readings"]] == [100_100.0]


def test_without_a_reading_show_says_what_the_account_starts_from(store: Store) -> None:
    assert "no balance was set by hand — DEMO: the account is replayed from V7_ACCOUNT_INITIAL_USD" in words(
        v7("account", "show").out
    )


# --- v7 ftmo simulate ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trades a day on sixteen days, a little better than even."""
    place = tmp_path_factory.mktemp("history") / "v7.duckdb"
    shutil.copy(fresh, place)
    rng = np.random.default_rng(4)
    first = datetime(2026, 11, 1, tzinfo=UTC)
    times = [first + timedelta(days=day, hours=hour) for day in range(16) for hour in (8, 11, 14)]
    keep(
        open_store(f"duckdb:{place}"),
        *(trade(when, closed_with=float(rng.choice([800.0, -500.0]))) for when in times),
    )
    return place


@pytest.fixture
def traded(store: Store, history: Path, tmp_path: Path) -> Store:
    shutil.copy(history, tmp_path / "home" / "demo" / "v7.duckdb")
    return store


QUICK = ("ftmo", "simulate", "--runs", "500", "--days", "60")


def test_a_simulation_tells_probabilities_with_intervals_and_what_they_rest_on(traded: Store, tmp_path: Path) -> None:
    said = v7(*QUICK)
    assert said.code == 0, said.err
    out = words(said.out)
    assert "SIMULATED CHALLENGE ftmo-2step-challenge — DEMO (v7, paper, demo)" in out
    for row in ("passes", "breaks the total limit", "neither"):
        assert re.search(rf"{row} \d+\.\d % \d+\.\d % … \d+\.\d %", out), row
    assert "breaks the daily limit 0.0 % – " in out, "what was never recorded has no interval"
    assert (
        "n = 48 closed trades, 16 trading days of 16 days from 2026-11-01; 500 runs in circular blocks of 3 days" in out
    )
    assert re.search(r"days it takes to pass: median \d+ \(10–90 %: \d+ … \d+, n = \d+ runs\)", out)
    assert "No recorded day breaks the daily limit, and days are drawn whole" in out
    picture = tmp_path / "home" / "demo" / "ftmo_simulate.png"
    assert f"picture {picture}" in out and picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_figures_and_the_same_picture(traded: Store, tmp_path: Path) -> None:
    def made(name: str, seed: str) -> tuple[str, bytes]:
        said = v7(*QUICK, "--json", "--seed", seed, "--picture", str(tmp_path / name))
        return said.out, (tmp_path / name).read_bytes()

    first = made("a.png", "7")
    assert made("b.png", "7") == first
    assert made("c.png", "8")[0] != first[0]


def test_a_simulation_in_json_adds_up_and_is_marked(traded: Store) -> None:
    told = json.loads(v7(*QUICK, "--json", "--block", "5").out)
    assert told["demo"] is True and told["too_few"] is None and told["block"] == 5 and told["trades"] == 48
    parts = [told[name] for name in ("passed", "daily", "total", "neither")]
    assert sum(part["probability"] for part in parts) == pytest.approx(1.0)
    assert all(0 <= part["lower"] <= part["upper"] <= 1 for part in parts)
    assert len(told["equity_p10_p50_p90"]) == 61 and told["equity_p10_p50_p90"][0] == [1.0, 1.0, 1.0]


def test_a_small_record_gives_no_probability_unless_one_insists(store: Store) -> None:
    keep(store, *(trade(datetime(2026, 11, day, 8, tzinfo=UTC), closed_with=100.0) for day in (1, 2, 3)))
    told = refused(*QUICK)
    assert told.startswith("too few: n = 3 closed trades on 3 trading days, and at least 30 on 10 are needed")
    assert "TOO FEW: N = 3 CLOSED TRADES" in words(v7(*QUICK, "--anyway").out)


def test_without_trades_it_names_what_there_is(traded: Store) -> None:
    told = refused(*QUICK, "--kind", "manual")
    assert told == (
        "no closed manual trade of source demo to simulate from; closed trades in the store: "
        "48 paper of v7, source demo"
    )
    assert "no closed paper trade of v7, source backtest to" in refused(*QUICK, "--source", "backtest")
    assert "no closed paper trade of v6, source demo to" in refused(*QUICK, "--strategy", "v6")


def test_a_simulation_is_of_one_strategy_and_says_which(traded: Store) -> None:
    """A second strategy's trades stand beside the first one's and never among them."""
    before = json.loads(v7(*QUICK, "--json").out)
    times = [datetime(2026, 11, day, 9, tzinfo=UTC) for day in range(1, 15)]
    keep(traded, *(of("v6", trade(when + n * MINUTE, closed_with=-200.0)) for when in times for n in range(3)))
    after = json.loads(v7(*QUICK, "--json").out)
    assert before["strategy"] == "v7" and after == before
    other = v7(*QUICK, "--strategy", "v6")
    assert "— DEMO (v6, paper, demo)" in words(other.out) and "n = 42 closed trades" in words(other.out)
    assert "--strategy is of paper trades" in refused(*QUICK, "--kind", "manual", "--strategy", "v6")


def test_trades_on_a_simulated_market_say_demo_in_live_mode_too(traded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V7_STORE", f"duckdb:{Path.cwd() / 'home' / 'demo' / 'v7.duckdb'}")
    out = v7(*QUICK, "--live", "--source", "demo").out
    assert "— DEMO (v7, paper, demo)" in words(out)


def test_a_picture_that_cannot_be_written_is_told(traded: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--picture" in refused(*QUICK, "--picture", str(tmp_path / "file" / "x.png"))


def test_help_answers_without_what_is_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, v7_pipeline.cli as c\nfor m in ('pandas', 'numpy', 'matplotlib', 'scipy', 'duckdb'):\n"
        "    assert m not in sys.modules, m"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_narrow_terminal_shows_whole_gauges_and_figures(world: Store) -> None:
    from rich.console import Console

    from v7_pipeline.account_view import account_block
    from v7_pipeline.scan.account_figures import account_figures
    from v7_pipeline.settings import load_settings

    with world.reading() as reader:
        told = account_figures(load_settings(), reader, NOW, "demo")
    console = Console(width=80, record=True, file=StringIO())
    console.print(account_block(told, now=NOW))
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert [len(gauge) for gauge in re.findall("[█╎░]{9,}", text)] == [40, 40, 40]
