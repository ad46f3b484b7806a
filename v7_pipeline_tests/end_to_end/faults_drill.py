"""What the fault drills share: a live world on the sandbox's HTTP whose clock is set by hand, and what it has lost.

A drill is a list of scans, mostly Dagster runs, each with what the sensors do after it. What goes wrong is the tests'.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from v7_pipeline.orchestration.launch import LaunchError
from v7_pipeline.sandbox.answers import document_of
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.sandbox.simulator import simulate
from v7_pipeline.scan.alerting import deliver_pending
from v7_pipeline.scan.candles import HISTORY
from v7_pipeline.scan.context import ScanError
from v7_pipeline.scan.features import readings
from v7_pipeline.scan.pulse import feel_pulse, run_ended
from v7_pipeline.store import Store, StoreError, conform
from v7_pipeline.store.schema import TABLES
from v7_pipeline_tests.end_to_end.world import LATER, Clock, World, open_world
from v7_pipeline_tests.scan.test_alerting import ONE, Places

__all__ = ["AS_OF", "KEY", "MINUTE", "STEP", "Drill", "buys", "open_drill", "warm_store"]

AS_OF = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)  # a Wednesday: DeepSeek's price has no peak in the hours around it
STEP, MINUTE = timedelta(minutes=2), timedelta(minutes=1)
KEY = "sk-drill"
SEED = 7
PRICES = ["open", "high", "low", "close", "volume"]


def buys(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A service that buys whatever it is asked about, with a plan that holds together."""
    document = document_of(messages)
    assert document is not None
    price = float(document["market"]["price"])
    return {
        "signal": "BUY", "confidence": 0.9, "entry": price, "stop": 0.98 * price, "target": 1.05 * price,
        "horizon_minutes": 240, "reasoning": "It always buys.", "key_theories": [],
        "would_change_my_mind": "Nothing.",
    }  # fmt: skip


@dataclass
class Drill:
    """One world and its scans so far. `true` is the exchange's and the service's clock, `world.clock` the machine's.

    Without `dagster` a scan is the same six steps in one call, which takes a third of the time.
    """

    world: World
    true: Clock
    places: Places
    dagster: bool = True
    answered: list[datetime] = field(default_factory=list)
    failed: dict[datetime, str] = field(default_factory=dict)
    scans: int = 0
    reached: datetime = AS_OF
    _untold: list[tuple[datetime, str | None]] = field(default_factory=list)

    def scan(self, as_of: datetime, *, fast: timedelta = timedelta(0)) -> str | None:
        """The schedule's scan of `as_of`, by a machine whose clock is `fast`; why it failed, or None."""
        self.world.clock.now = as_of + LATER
        self.true.now = as_of - fast + LATER
        self.scans += 1
        told = None
        try:
            (self.world.run if self.dagster else self.world.scan)(as_of)
            self.answered.append(as_of)
            self.reached = max(self.reached, as_of - fast)
        except (LaunchError, ScanError, StoreError) as error:
            told = self.failed[as_of] = str(error)
        self._untold.append((as_of, told))
        self.sense()
        return told

    def sense(self) -> None:
        """What the sensors do: runs that ended, the pulse, the outbox. What cannot be written is told the next time."""
        runtime = self.world.runtime
        with suppress(StoreError):
            while self._untold:
                as_of, told = self._untold[0]
                run_ended(
                    runtime, "scan", f"{as_of:%H%M}-{self.scans}", at=as_of + LATER, failure=told, partition=None,
                    link="", checks=(),
                )  # fmt: skip
                self._untold.pop(0)
            feel_pulse(runtime)
            deliver_pending(runtime, sender=self.places, pause=lambda _: None)

    # --- what was lost ------------------------------------------------------------------------

    def losses(self) -> dict[str, int]:
        """Rows that are missing, wrong or too many, by kind; what a failed scan had not decided is none of them."""
        store = self.world.store
        return self._candles(store) | self._decisions(store) | self._money(store)

    def _candles(self, store: Store) -> dict[str, int]:
        """Candles against the simulated market's, and readings against those, up to the newest scan that ended well."""
        first, until = self.answered[0], self.reached
        symbols = self.world.runtime.settings.symbols
        truth = pd.concat(simulate(SEED, symbol, first - HISTORY, until).assign(symbol=symbol) for symbol in symbols)
        stored = store.query("SELECT * FROM candles WHERE open_time >= ?", (first - HISTORY,))
        both = truth.merge(stored, on=["symbol", "open_time"], suffixes=("", "_stored"), how="outer", indicator=True)
        kept = both[both["_merge"] == "both"]
        unlike = sum((kept[name] != kept[f"{name}_stored"]).astype(int) for name in PRICES)
        read = store.read("theory_features", start=first, end=until + MINUTE)
        again = readings(store, symbols, first, until + MINUTE, settings=self.world.runtime.settings, source="live")
        marks = ("source", "run_id", "code_version")
        again = conform("theory_features", again, dict.fromkeys(marks, "live"))
        names = [name for name in TABLES["theory_features"].column_names if name not in marks]
        pairs = read[names].merge(again[names], how="outer", indicator=True)
        return {
            "candles": int((both["_merge"] == "left_only").sum()),
            "candles of nowhere": int((both["_merge"] == "right_only").sum()),
            "candles with other prices": int((pd.Series(unlike) > 0).sum()),
            "readings missing, or not of these candles": int((pairs["_merge"] == "right_only").sum()),
            "readings of nowhere": int((pairs["_merge"] == "left_only").sum()),
        }

    def _decisions(self, store: Store) -> dict[str, int]:
        """Decisions of scans that ended well, and none of instants that were not scanned; gated; never of the future.

        A failed scan has decided for every symbol or for none.
        """
        symbols = len(self.world.runtime.settings.symbols)
        signals = store.rows(
            "SELECT as_of, count(*) AS n, count(DISTINCT symbol) AS symbols, "
            "count(*) FILTER (features_as_of > as_of OR decided_at < as_of) AS ahead FROM llm_signals GROUP BY as_of"
        )
        found = {row["as_of"]: row for row in signals}
        gated = {
            row["as_of"]: row["n"] for row in store.rows("SELECT as_of, count(*) AS n FROM gated_signals GROUP BY 1")
        }
        scans = store.rows("SELECT as_of, count(*) AS n FROM scans WHERE status = 'finished' GROUP BY as_of")
        whole = [row for row in found.values() if row["n"] == row["symbols"] == symbols]
        return {
            "decisions": sum(at not in found for at in self.answered),
            "invented decisions": len(set(found) - set(self.answered) - set(self.failed)),
            "half or doubled decisions": len(found) - len(whole),
            "decisions not gated": sum(gated.get(at) != symbols for at in self.answered),
            "half gates": sum(n != symbols for n in gated.values()),
            "look-ahead": sum(row["ahead"] for row in signals),
            "scans": len(set(self.answered) - {row["as_of"] for row in scans}),
            "doubled scans": sum(row["n"] > 1 for row in scans),
        }

    def _money(self, store: Store) -> dict[str, int]:
        """The ledger against the service's bill: everything billed is in it, and each answer was paid once."""
        bill = self.world.server.account
        row = store.rows(
            "SELECT coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS charged, "
            "coalesce(sum(cost_usd) FILTER (status = 'settled'), 0) AS settled, "
            "count(*) FILTER (status = 'settled' AND error IS NULL) AS answers, "
            "count(DISTINCT call_id) FILTER (status = 'settled' AND error IS NULL) AS calls FROM llm_calls"
        )[0]
        before = self.world.server.app.state.billed_before
        billed = bill.charged_usd - before
        used = store.rows(
            "SELECT count(*) AS n, count(DISTINCT call_id) AS calls FROM llm_signals WHERE call_id IS NOT NULL"
        )[0]
        faceless = store.rows("SELECT count(*) AS n FROM llm_signals WHERE status <> 'answered' AND side IS NOT NULL")
        return {
            "billed beyond the ledger": int(billed > row["charged"] + 1e-9),
            "settled beyond the bill": int(row["settled"] > billed + 1e-9),
            "answers paid twice": row["answers"] - row["calls"],
            "calls used twice": used["n"] - used["calls"],
            "sides out of a failure": faceless[0]["n"],
        }

    def assert_nothing_lost(self, name: str, n: str) -> None:
        """Print the drill's line and fail where anything is missing, wrong or too many."""
        losses = self.losses()
        print(f"DRILL {name}: n={n}, lost: {sum(losses.values())}")
        assert not any(losses.values()), {kind: count for kind, count in losses.items() if count}

    def rows(self, as_of: datetime, table: str = "llm_signals") -> list[dict[str, Any]]:
        return self.world.store.rows(f"SELECT * FROM {table} WHERE as_of = ? ORDER BY ALL", (as_of,))


def warm_store(folder: Path, at: datetime = AS_OF) -> Path:
    """A store after a first scan at `at`, to be copied: a first scan takes long."""
    clock = Clock(at + LATER)
    with (
        SandboxServer(seed=SEED, clock=clock) as server,
        open_world(folder, server, clock, **_settings(server)) as world,
    ):
        world.scan(at)
        return world.file


def _settings(server: SandboxServer) -> dict[str, Any]:
    return {
        "mode": "live", "through_sandbox": False, "exchange_url": server.url, "deepseek_url": server.url,
        "analyst": "deepseek", "alert_urls": ONE, "alert_summary_at": None, "market_retries": 0,
    }  # fmt: skip


@contextmanager
def open_drill(
    home: Path,
    warm: Path,
    *,
    store: Path | None = None,
    answerer: Any = None,
    at: datetime = AS_OF,
    dagster: bool = True,
    **changes: Any,
) -> Iterator[Drill]:
    """A drill on a copy of the `warm` store, in `home` or at `store`, whose first scan was at `at`."""
    true = Clock(at + LATER)
    with ExitStack() as stack:
        server = stack.enter_context(SandboxServer(seed=SEED, clock=true, answerer=answerer))
        settings = _settings(server) | changes
        place = store or home / "live" / "v7.duckdb"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(warm, place)
        if store is not None:
            settings["store"] = f"duckdb:{store}"
        world = stack.enter_context(open_world(home, server, Clock(at + LATER), **settings))
        charged = world.store.rows("SELECT sum(cost_usd) AS usd FROM llm_calls")[0]["usd"]
        server.app.state.billed_before = -float(charged or 0.0)  # what the copied store had been billed elsewhere
        yield Drill(world, true, Places(), dagster, answered=[at], reached=at)
