"""The fast replay: the functions of a scan, asked only at the instants at which something can change.

Everything that depends on candles alone is computed for the whole span at once; then one walk through time decides
what is accepted and learnt. No rule of its own belongs here: test_engine.py holds it to replay.py row by row.
"""

from __future__ import annotations

import gc
import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.backtest.comparison import Simulation
from v7_pipeline.backtest.deciders import Decider, RulesDecider
from v7_pipeline.backtest.labels import MINUTE_US, NEVER, Found, Labels, Trade
from v7_pipeline.backtest.prepared import Prepared
from v7_pipeline.backtest.replay import SOURCE
from v7_pipeline.backtest.rows import frames
from v7_pipeline.backtest.running import Threshold, WinRate
from v7_pipeline.gates.conditions import OpenRisk
from v7_pipeline.gates.evaluate import GateContext, GateLimits, before_call, gate_rows, rotated, why_not
from v7_pipeline.gates.ftmo import AccountState, Book, Opening, PricePath, day_bounds, state_of
from v7_pipeline.scan.account import TO_FILL, products, rule_set
from v7_pipeline.scan.decide import rotation
from v7_pipeline.scan.exposure import correlations_of
from v7_pipeline.scan.watch import breach_halts
from v7_pipeline.settings import Settings
from v7_pipeline.store import signal_id
from v7_pipeline.store.schema import HEADLINE_WINDOW, TABLES
from v7_pipeline.theories.bayesian_win_rate import SCOPES
from v7_pipeline.trades import fee_preset
from v7_pipeline.trades.pnl import loss_at_stop
from v7_pipeline.trades.sizing import size_rows

__all__ = ["SIMULATED_STAGE", "simulate"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SIMULATED_STAGE = "simulated"
HOUR: Final = 60
DAY: Final = 1440
#: Rows decided at once after something was learnt: about two days of three symbols' possible trades.
BLOCK: Final = 512
#: USD by which the account must be clear of a limit for the scans between two events to be let through unseen.
CLEAR: Final = 1.0
_VOLATILITY = f"volatility_{HEADLINE_WINDOW}"

OnProgress = Callable[[str, int, int], None]


def simulate(
    prepared: Prepared,
    settings: Settings,
    *,
    weights: Mapping[str, float] | None = None,
    decider: Decider | None = None,
    name: str = "v7",
    on_progress: OnProgress | None = None,
) -> Simulation:
    """Every scan of `prepared`, decided by `decider` (v7 with the rules and these weights where none is given).

    What is accepted, traded and learnt is what `replay` makes of the same candles. Left out are what nothing later
    depends on: the rules' wording, the gates' inputs of what was no BUY or SELL, and what HOLD forwent. on_progress
    counts scans.
    """
    decider = RulesDecider(prepared, settings, weights) if decider is None else decider
    with _uncollected():
        walk = _Walk(prepared, settings, decider)
        walk.run(on_progress)
        return frames(prepared, settings, decider, walk.found, name)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: it would look through a growing heap of rows for nothing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Correlations(Mapping[tuple[str, str], float]):
    """`correlations_of` as of a scan, measured when one is asked for: most signals have nothing open beside them."""

    def __init__(self, given: Prepared, scan: int, symbols: Iterable[str]) -> None:
        self._given, self._scan, self._symbols = given, scan, symbols

    @cached_property
    def _found(self) -> dict[tuple[str, str], float]:
        return correlations_of(self._given.closes_before(self._scan, sorted(self._symbols)))

    def __getitem__(self, pair: tuple[str, str]) -> float:
        return self._found[pair]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class _Walk:
    """One pass through time."""

    def __init__(self, prepared: Prepared, settings: Settings, decider: Decider) -> None:
        self.given, self.settings, self.decider = prepared, settings, decider
        self.labels = Labels(prepared, settings, decider)
        self.threshold = Threshold(settings)
        self.found = Found(self.labels, self.threshold)
        # What the theories learn is v7's; another strategy has its own win rate only.
        scopes = SCOPES if decider.strategy == "v7" else (f"strategy:{decider.strategy}",)
        self.found.win_rates = {scope: WinRate(settings) for scope in scopes}
        self.scans: list[int] = prepared.scans.tolist()
        self.after = 1 + prepared.lag  # minutes from a candle's opening until a scan knows it
        self.latency = timedelta(seconds=settings.backtest_latency_s)
        self.minutes = {symbol: prepared.minutes[slice(*ends)] for symbol, ends in prepared.bounds.items()}
        self.k = len(prepared.symbols)
        self.possible: list[int] = np.unique(self.labels.rows).tolist()
        self.place_of = {row: at for at, row in enumerate(self.possible)}
        self.valid = 0  # possible rows before this place are decided with what is known now
        self.decided: dict[int, dict[str, Any]] = {}
        self.voice = False
        self.open: list[Trade] = []  # accepted, not known to be over
        self.of_the_day: list[Trade] = []  # closed since the firm's day of the scan before began, not in the opening
        self.opening = Opening(settings.account_initial_usd, settings.account_initial_usd)
        self.opened = -1
        self.closing: list[tuple[int, int, str, float]] = []  # exit, label, kind, confidence
        self.recent: list[int] = []  # scans of accepted signals of the last hour
        self.rules = rule_set(settings, prepared.instants[0].to_pydatetime())
        self.products = products(settings, self.rules, prepared.symbols)
        self.fee_rate = fee_preset(settings.fees).rate_per_side
        self.limits = GateLimits.of(settings, self.rules, fee_rate=self.fee_rate)
        self.halts = pd.DataFrame(columns=list(TABLES["halts"].column_names))
        self.volatility = prepared.readings[_VOLATILITY].to_numpy()
        self.flat: AccountState | None = None  # the account when it was last looked at, where nothing was open
        self.answered: dict[Any, str | None] = {}  # what the cheap gates said since then
        self.check = False  # whether the scans from here on must be looked at one by one
        self.midnights: list[int] = _midnights(prepared, self.rules.zone).tolist()
        first = np.searchsorted(prepared.scans, self.midnights)
        # Places of scans that meet another day.
        self.begun: list[int] = np.unique(np.concatenate([[0], first, first + 1])).tolist()
        self.begins = frozenset(self.begun)

    # --- time ---------------------------------------------------------------------------------

    def run(self, on_progress: OnProgress | None) -> None:
        scans = self.scans
        place, told = 0, 0
        while (place := self._next(place)) < len(scans):
            self._scan(place)
            place += 1
            if on_progress and place >= told:
                on_progress(SIMULATED_STAGE, place, len(scans))
                told = place + max(len(scans) // 200, 1)
        if on_progress:
            on_progress(SIMULATED_STAGE, len(scans), len(scans))

    def _next(self, place: int) -> int:
        """The next scan from `place` on at which something may happen."""
        scans = self.scans
        if self.check or place >= len(scans):
            return place
        soonest = [self._next_possible(place)]
        if self.closing:
            soonest.append(bisect_left(scans, self.closing[0][0] + self.after))
        # What enters, and the firm's midnight, move the account's limits.
        entries = [at for trade in self.open if (at := trade.entry + self.after) > scans[place - 1]]
        soonest += [bisect_left(scans, at) for at in entries]
        # Of the day before, the scan after the one that meets midnight knows nothing any more.
        next_begun = bisect_left(self.begun, place)
        begun = self.begun[next_begun : next_begun + 1]
        return max(place, min(soonest + begun))

    def _next_possible(self, place: int) -> int:
        """The next scan with a BUY or SELL, as decided with what is known now."""
        at = bisect_left(self.possible, place * self.k)
        while at < len(self.possible):
            self._decide_up_to(at)
            row = self.possible[at]
            if row in self.decided:
                return row // self.k
            at += 1
        return len(self.scans)

    def _decide_up_to(self, at: int) -> None:
        """Have the possible trade at this place decided, and those that follow it."""
        if at < self.valid:
            return
        end = len(self.possible) if not self.voice else min(at + BLOCK, len(self.possible))
        rows = np.array(self.possible[at:end], dtype=np.int64)
        decided = self.decider.decide(rows, self._posteriors())
        trades = decided["side"].isin(("BUY", "SELL")).to_numpy()
        self.decided = dict(zip(rows[trades].tolist(), decided[trades].to_dict("records"), strict=True))
        self.valid = end

    def _posteriors(self) -> dict[str, Any]:
        found = {scope: rate.posterior() for scope, rate in self.found.win_rates.items()} if self.voice else {}
        return {scope: posterior for scope, posterior in found.items() if posterior is not None}

    # --- one scan -----------------------------------------------------------------------------

    def _scan(self, place: int) -> None:
        scan = self.scans[place]
        at = _instant(scan)
        rows = [row for row in range(place * self.k, (place + 1) * self.k) if row in self.place_of]
        for row in rows:
            self._decide_up_to(self.place_of[row])
        trades = {row: self.decided[row] for row in rows if row in self.decided}
        over = [trade for trade in self.open if trade.exit + self.after <= scan]
        if trades or self._account_moves(place, scan):
            self._gate(place, scan, at, trades)
        self._learn(scan, over)

    def _account_moves(self, place: int, scan: int) -> bool:
        """Whether the account's gates may say something else than at the scan before: shadows move nothing in it."""
        if self.check or place in self.begins:
            return True
        before = self.scans[place - 1] if place else scan - 1
        return any(before < at + self.after <= scan for trade in self.open for at in (trade.entry, trade.exit))

    def _gate(self, place: int, scan: int, at: datetime, trades: Mapping[int, Mapping[str, Any]]) -> None:
        """The account as of the scan, and what the gates say of its trades."""
        self._open_the_day(place)
        if self.flat is not None and not self.open and place not in self.begins and not self.check:
            # Nothing is open and nothing has closed since: only the clock has moved.
            state = replace(self.flat, as_of=at, prices_as_of=at)
            context = self._context(place, scan, state, [self.given.symbols[row % self.k] for row in trades])
        else:
            state = self._state(scan, at)
            context = self._context(place, scan, state, [self.given.symbols[row % self.k] for row in trades])
            self._watch(place, at, state, context)
            self.flat = None if self.open else state
            self.answered = {}
        asked = {}
        for row, decision in trades.items():
            reasons = self._not_asked(row, at, context) if self.decider.asks else None
            if reasons is None:
                asked[row] = decision
            else:
                self.found.skipped[row] = reasons
        if asked:
            self._accept(place, scan, at, asked, context, state)

    def _not_asked(self, row: int, at: datetime, context: GateContext) -> str | None:
        """What the cheap gates have against asking about the row."""
        symbol, read = self.given.symbols[row % self.k], self._features(row)
        # While nothing is open only the reading's age and the hour's signals tell one answer from another.
        alike = None if self.flat is None else (read and at - read, len(context.accepted_times))
        if alike is not None and alike in self.answered:
            return self.answered[alike]
        answers = before_call([symbol], as_of=at, features_as_of={symbol: read}, context=context, rotation=0)
        found = why_not(answers[symbol], context)
        if alike is not None:
            self.answered[alike] = found
        return found

    def _accept(
        self,
        place: int,
        scan: int,
        at: datetime,
        asked: Mapping[int, Mapping[str, Any]],
        context: GateContext,
        state: AccountState,
    ) -> None:
        signals = {row: self._signal(row, at, decision) for row, decision in asked.items()}
        sized = size_rows(
            signals.values(),
            risk_usd=self.settings.risk_per_trade * self.settings.account_initial_usd,
            slippage=self.settings.slippage,
            free_margin_usd=state.equity - state.margin_usd - context.pending_margin_usd,
            products=self.products,
        )
        sizes = {size["signal_id"]: size for size in sized}
        gated = gate_rows(
            list(signals.values()),
            as_of=at,
            context=context,
            sizes=sizes,
            order=rotated(self.given.symbols, rotation(at)),
        )
        self.found.gated += gated
        for (row, signal), told in zip(signals.items(), gated, strict=True):
            label = self.labels.of(row, signal["side"])
            if label is None:
                continue
            if told["accepted"]:
                self._enter(self._trade_of(row, scan, signal, told, label), float(signal["confidence"]))
            elif self.labels.exit[label] != NEVER:
                heapq.heappush(
                    self.closing, (int(self.labels.exit[label]), label, "shadow", float(signal["confidence"]))
                )

    def _enter(self, trade: Trade, confidence: float) -> None:
        """From here on the trade takes its slot, its room and its exposure, and closes when it closes."""
        self.found.accepted.append(trade)
        self.open.append(trade)
        self.recent.append(trade.scan)
        if trade.exit != NEVER:
            heapq.heappush(self.closing, (trade.exit, trade.label, "paper", confidence))

    def _trade_of(self, row: int, scan: int, signal: Mapping[str, Any], told: Mapping[str, Any], label: int) -> Trade:
        """The position as trades/paper.py would read it from its outcome."""
        outcome = self.labels.outcomes
        rate = self.rules.commission_of(signal["symbol"])
        quantity = float(told["quantity"])
        entry_price, exit_price = (float(outcome[name].iat[label]) for name in ("entry_price", "exit_price"))
        direction = 1.0 if signal["side"] == "BUY" else -1.0
        loss = loss_at_stop(
            direction, entry_price, float(signal["stop_price"]), fee_rate=rate, slippage=self.settings.slippage
        )
        entry_fee, exit_fee = rate * quantity * entry_price, rate * quantity * exit_price
        return Trade(
            row=row,
            label=label,
            signal_id=str(signal["signal_id"]),
            symbol=str(signal["symbol"]),
            side=str(signal["side"]),
            scan=scan,
            entry=int(self.labels.entry[label]),
            exit=int(self.labels.exit[label]),
            ends=scan + int(signal["horizon_minutes"]) + int(TO_FILL.total_seconds()) // 60,
            quantity=quantity,
            risk_usd=float(told["risk_usd"]),
            margin_usd=float(told["notional_usd"]) / self.rules.leverage_of(signal["symbol"]),
            direction=direction,
            entry_price=entry_price,
            exit_price=exit_price,
            stop=float(signal["stop_price"]),
            entry_fee=entry_fee,
            pnl_usd=direction * quantity * (exit_price - entry_price) - entry_fee - exit_fee,
            worst_case=float(quantity * loss),
        )

    def _signal(self, row: int, at: datetime, decision: Mapping[str, Any]) -> dict[str, Any]:
        """The decision as the gates read it from llm_signals."""
        symbol = self.given.symbols[row % self.k]
        return {
            **{name: decision[name] for name in ("side", "entry_price", "stop_price", "target_price", "status")},
            "confidence": round(float(decision["confidence"]), 4),
            "horizon_minutes": decision["horizon_minutes"],
            "signal_id": signal_id(self.decider.strategy, symbol, at),
            "as_of": at,
            "features_as_of": self._features(row),
            "decided_at": at + self.latency,
            "symbol": symbol,
            "strategy": self.decider.strategy,
            "market_price": float(self.given.price[row]),
            "status_reason": None,
        }

    def _features(self, row: int) -> datetime | None:
        minute = int(self.given.features[row])
        return None if minute < 0 else _instant(minute)

    # --- the account --------------------------------------------------------------------------

    def _open_the_day(self, place: int) -> None:
        """Book what was closed before the firm's day of the scan before: days gone by are not tested again."""
        before = self.scans[place - 1] if place else self.scans[0]
        day = self.midnights[bisect_right(self.midnights, before) - 1]
        if day <= self.opened:
            return
        gone = sorted((t for t in self.of_the_day if t.exit < day), key=lambda t: (t.exit, t.signal_id))
        balance, peak = self.opening.usd, self.opening.peak_usd
        # Each of the firm's midnights on the way began a day with the balance of then.
        days = [m for m in self.midnights if self.opened < m <= day] if self.opened >= 0 else [day]
        for midnight in days:
            while gone and gone[0].exit < midnight:
                balance += gone.pop(0).pnl_usd
            if midnight < day:
                peak = max(peak, balance)
        self.opening = Opening(balance, max(peak, balance))
        self.of_the_day = [trade for trade in self.of_the_day if trade.exit >= day]
        self.opened = day

    def _state(self, scan: int, at: datetime) -> AccountState:
        held = [trade for trade in (*self.of_the_day, *self.open) if trade.entry != NEVER]
        held.sort(key=lambda trade: trade.signal_id)

        def numbers(name: str) -> Floats:
            return np.array([getattr(trade, name) for trade in held], dtype=np.float64)

        known_to = scan - self.given.lag
        exits = np.array([trade.exit for trade in held], dtype=np.int64)
        never = exits >= known_to
        book = Book(
            symbol=np.array([trade.symbol for trade in held], dtype=object),
            direction=numbers("direction"),
            quantity=numbers("quantity"),
            entry_price=numbers("entry_price"),
            entry=np.array([trade.entry for trade in held], dtype=np.int64) * MINUTE_US,
            exit=np.where(never, np.iinfo(np.int64).min, np.where(never, 0, exits) * MINUTE_US),
            exit_price=numbers("exit_price"),
            stop=numbers("stop"),
            entry_fee=numbers("entry_fee"),
            pnl=numbers("pnl_usd"),
            worst_case=numbers("worst_case"),
            closed=~never,
        )
        known = book.kept(book.entry + MINUTE_US <= known_to * MINUTE_US)
        first = min(self.opened, int(known.entry.min()) // MINUTE_US if len(known.entry) else self.opened)
        begin = max(first, self.opened - 4 * HOUR) - 4 * HOUR
        return state_of(
            known,
            {symbol: self._path(symbol, begin, known_to) for symbol in set(known.symbol)},
            self.rules,
            initial_usd=self.settings.account_initial_usd,
            as_of=at,
            tested_from=_instant(self.opened),
            opening=self.opening,
        )

    def _path(self, symbol: str, begin: int, end: int) -> PricePath:
        whole = self.given.paths[symbol]
        own = slice(*np.searchsorted(whole.time, (begin * MINUTE_US, end * MINUTE_US)))
        return PricePath._make(column[own] for column in whole)

    def _context(self, place: int, scan: int, state: AccountState, symbols: list[str]) -> GateContext:
        trading = sorted((t for t in self.open if t.exit + self.after > scan), key=lambda t: (t.scan, t.symbol))
        waiting = [trade for trade in trading if trade.entry + self.after > scan]
        self.recent = [at for at in self.recent if at > scan - HOUR]
        ends = [trade.ends for trade in trading]
        until = None
        if ends:
            until = max(ends) if min(ends) > scan else max(*ends, scan + DAY)
        alike = {*symbols, *(trade.symbol for trade in trading)}
        return GateContext(
            limits=self.limits,
            halts=self.halts,
            accepted_times=[_instant(at) for at in self.recent if at < scan],
            account=state,
            pending_risk_usd=float(sum(trade.risk_usd for trade in waiting)),
            day_room_usd=math.inf,
            month_room_usd=math.inf,
            call_worst_case_usd=0.0,
            volatility={
                symbol: float(self.volatility[place * self.k + k])
                for k, symbol in enumerate(self.given.symbols)
                if self.given.features[place * self.k + k] >= 0
            },
            pending_margin_usd=float(sum(trade.margin_usd for trade in waiting)),
            open_risks=tuple(OpenRisk(trade.symbol, trade.side, trade.risk_usd) for trade in trading),
            open_until=None if until is None else _instant(until),
            horizon_minutes=self.settings.horizon_minutes,
            correlations=_Correlations(self.given, scan, alike),
            learnt_confidence=self.threshold.value,
            off=frozenset(self.settings.gates_off),
        )

    def _watch(self, place: int, at: datetime, state: AccountState, context: GateContext) -> None:
        """What stands against any trade, the halts that a breach calls for, and whether each scan must be looked at."""
        symbol = self.given.symbols[0]
        answers = before_call([symbol], as_of=at, features_as_of={symbol: at}, context=context, rotation=0)[symbol]
        against = {answer.gate: ",".join(answer.reason_codes) for answer in answers if context.blocks(answer)}
        self.found.refused[place] = against.get("halt", ""), against.get("ftmo", "")
        total = any(halt["kind"] == "total" for halt in self.found.halts)
        known = {halt["halt_id"] for halt in self.found.halts}
        called_for = [
            {**halt, "halt_id": f"{SOURCE}-{halt['halt_id']}"}
            for halt in breach_halts(state, at, self.rules.zone, total_in_force=total, strategy=self.decider.strategy)
        ]
        new = [halt for halt in called_for if halt["halt_id"] not in known]
        if new:
            self.found.halts += new
            self.halts = pd.DataFrame(self.found.halts).reindex(columns=list(TABLES["halts"].column_names))
        # A halt holds from just after the scan that called for it.
        self.check = bool(new) or not self._is_clear(state, context)

    def _is_clear(self, state: AccountState, context: GateContext) -> bool:
        """Whether no price can move what the account's gates say before the next trade opens or closes, or midnight.

        Nothing moves it while nothing is open; else equity stays above what it is once everything is stopped out.
        """
        if not context.open_risks:
            return True
        if state.stopped_equity_usd is None or state.prices_as_of is None or state.breached:
            return False
        lowest = state.stopped_equity_usd - context.pending_risk_usd
        room = lowest - self.limits.ftmo_buffer_usd - max(state.floor, state.floor_if_rolled_usd)
        margin = lowest - state.margin_usd - context.pending_margin_usd
        return room > CLEAR and margin > CLEAR and not self._gaps_ahead(state)

    def _gaps_ahead(self, state: AccountState) -> bool:
        """Whether an open position's prices become too old for the gate before the next event."""
        scan = int(state.as_of.timestamp()) // 60
        most = int(self.limits.max_equity_age_s) // 60 - self.given.lag
        if most < 1:
            return True
        for trade in self.open:
            path = self.minutes[trade.symbol]
            last = min(trade.exit, self.scans[-1])
            own = path[slice(*np.searchsorted(path, (scan - most - 1, last + 1)))]
            if (np.diff(own, prepend=scan - most, append=last) > most).any():
                return True
        return False

    # --- learning -----------------------------------------------------------------------------

    def _learn(self, scan: int, over: list[Trade]) -> None:
        """What closed since the scan before, known from this one on."""
        closed: list[tuple[int, int, str, float]] = []
        while self.closing and self.closing[0][0] + self.after <= scan:
            closed.append(heapq.heappop(self.closing))
        if over:
            self.open = [trade for trade in self.open if trade.exit + self.after > scan]
            self.of_the_day += over
        if not closed:
            return
        for leave, label, kind, confidence in closed:
            if not self.labels.decided[label]:
                continue
            entry, won = float(self.labels.entry[label]), bool(self.labels.won[label])
            self.threshold.add(
                entry, float(leave), won=won, confidence=confidence, break_even=float(self.labels.break_even[label])
            )
            if kind == "paper":
                side = f"side:{self.labels.plans['side'].iat[label]}"
                for scope in {"all", side, f"strategy:{self.decider.strategy}"} & self.found.win_rates.keys():
                    self.found.win_rates[scope].add(entry, float(leave), won=won)
        self.threshold.step(scan)
        if any(kind == "paper" for _, _, kind, _ in closed):
            for rate in self.found.win_rates.values():
                rate.step(scan)
            self._heed(scan)

    def _heed(self, scan: int) -> None:
        """Decide anew from the next scan on where the win rate has a voice."""
        found = {scope: rate.posterior() for scope, rate in self.found.win_rates.items()}
        if self.voice or self.decider.learns({s: p for s, p in found.items() if p is not None}):
            self.voice = True
            place = bisect_right(self.scans, scan)
            self.valid = min(self.valid, bisect_left(self.possible, place * self.k))
            self.decided = {}


def _midnights(prepared: Prepared, zone: Any) -> Ints:
    """The firm's midnights around the span, epoch minutes."""
    first, last = (prepared.instants[place].to_pydatetime() for place in (0, -1))
    local = pd.date_range(
        day_bounds(first, zone)[0].astimezone(zone).date(),
        day_bounds(last, zone)[1].astimezone(zone).date(),
        freq="D",
        tz=zone,
    )
    seconds: Ints = local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[s]").astype(np.int64)
    return seconds // 60


def _instant(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, tz=UTC)
