"""A backtest's analysts: the ledger's answers and nothing else, and money only where someone said yes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from v7_pipeline.analyst.base import (
    ASKED_AGAIN,
    NOT_CONFIRMED,
    NOT_IN_LEDGER,
    NOT_SAMPLED,
    AnalystError,
    Answer,
    Decision,
    Question,
)
from v7_pipeline.analyst.costs import costs
from v7_pipeline.analyst.cutoffs import UNKNOWN
from v7_pipeline.analyst.deepseek import DeepSeekAnalyst
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.plain import plain_version
from v7_pipeline.analyst.prompt import prompt_version
from v7_pipeline.analyst.replay import ReplayAnalyst
from v7_pipeline.analyst.rules import RulesAnalyst
from v7_pipeline.analyst.wire import Parameters
from v7_pipeline.backtest import replay as backtest
from v7_pipeline.backtest.analysts import (
    SAME_MARKET,
    Estimate,
    LedgerAnalyst,
    SampledAnalyst,
    estimate,
    ledger_analyst,
    missing_answers,
    sample_instants,
    sample_name,
    sampled_analyst,
    sampled_twice,
    seed_of,
)
from v7_pipeline.backtest.replay import asked_and_hourly, instants_of
from v7_pipeline.backtest.run import Configuration, _absent, run_backtest
from v7_pipeline.scan.run import run_scan
from v7_pipeline.store import Store, open_store, signal_id
from v7_pipeline_tests.analyst.conftest import (
    AS_OF,
    NOW,
    PROVENANCE,
    ScriptedServer,
    analyst,
    completion,
    question,
    readings,
)
from v7_pipeline_tests.backtest.conftest import START, holding, settings_of, simulated

SYMBOLS = ("BTC-USD", "ETH-USD")
INSTANTS = [AS_OF + timedelta(minutes=2 * place) for place in range(6)]
EVERY = timedelta(minutes=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(f"duckdb:{tmp_path / 'ledger.duckdb'}")
    made.migrate("0.1.0", NOW)
    return made


def paying(store: Store, url: str, *, day_usd: float = 3.0, **changes: Any) -> DeepSeekAnalyst:
    ledger = Ledger(store, daily_budget_usd=day_usd, monthly_budget_usd=100.0, provenance=PROVENANCE)
    return analyst(ledger, url, **changes)


def replayer(store: Store, **changes: Any) -> ReplayAnalyst:
    return ReplayAnalyst(store, **({"model": "deepseek-flash", "parameters": Parameters(600)} | changes))


def asked(instants: list[datetime] = INSTANTS, **changes: Any) -> list[Question]:
    return [question(symbol, 1.0, as_of=as_of, **changes) for as_of in instants for symbol in SYMBOLS]


def calls(store: Store) -> list[dict[str, Any]]:
    return store.rows("SELECT * FROM llm_calls ORDER BY reserved_at, call_id, attempt")


def requests(sandbox: Any) -> int:
    return int(sandbox.counts.get("chat", 0))


# --- the ledger's answers -------------------------------------------------------------------


def test_what_the_ledger_holds_is_answered_as_it_was_and_says_whether_word_for_word(store: Store, sandbox: Any) -> None:
    paid = paying(store, sandbox.url).decide(asked(), now=NOW)
    before, sent = calls(store), requests(sandbox)
    again = ledger_analyst(store, replayer(store), INSTANTS, SYMBOLS)
    same = again.decide(asked(), now=NOW)
    poorer = again.decide(asked(room_usd=77.0, open_position="BUY"), now=NOW)
    learnt = again.decide(asked(readings=readings(1.0, win_rate_mean=0.9, bayesian_win_rate_vote=0.7)), now=NOW)
    assert {decision.answer.side for decision in paid if decision.answer} == {"BUY"}
    for found, name in ((same, "replay"), (poorer, SAME_MARKET), (learnt, SAME_MARKET)):
        assert [(d.answer, d.call_id, d.ungrounded) for d in found] == [
            (d.answer, d.call_id, d.ungrounded) for d in paid
        ]
        assert {(d.analyst, d.status, d.cost_usd) for d in found} == {(name, "answered", 0.0)}
    assert (calls(store), requests(sandbox)) == (before, sent), "nothing was asked and nothing written"


def test_a_span_with_a_missing_answer_is_refused_in_one_sentence_with_the_first_and_how_many(
    store: Store, sandbox: Any
) -> None:
    paying(store, sandbox.url).decide(
        [q for q in asked() if (q.as_of, q.symbol) != (INSTANTS[2], "ETH-USD") and q.as_of != INSTANTS[4]], now=NOW
    )
    missing = missing_answers(store, replayer(store), INSTANTS, SYMBOLS)
    assert missing is not None and (missing.count, missing.asked) == (3, 12)
    with pytest.raises(AnalystError) as refused:
        ledger_analyst(store, replayer(store), INSTANTS, SYMBOLS)
    assert str(refused.value) == (
        "the ledger holds no answer of deepseek-flash to 3 of the 12 questions of this span, the first on ETH-USD at "
        "2026-11-20 12:06Z; let the rules decide what it does not hold (--fallback rules), or choose another span"
    )
    assert ledger_analyst(store, replayer(store), INSTANTS[:2], SYMBOLS).name == "replay"
    other = replayer(store, model="deepseek-v4-pro")
    assert missing_answers(store, other, INSTANTS, SYMBOLS) is not None, "another model's answers are none"


def test_where_told_the_rules_decide_what_is_missing_under_their_own_name(store: Store, sandbox: Any) -> None:
    paying(store, sandbox.url).decide(asked(INSTANTS[:3]), now=NOW)
    filled = ledger_analyst(store, replayer(store, fallback=RulesAnalyst()), INSTANTS, SYMBOLS).decide(asked(), now=NOW)
    assert [d.analyst for d in filled] == ["replay"] * 6 + ["rules"] * 6
    skipped = ledger_analyst(store, replayer(store), INSTANTS, SYMBOLS, skip=True).decide(asked(), now=NOW)
    assert [d.status_reason for d in skipped] == [None] * 6 + [NOT_IN_LEDGER] * 6


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"market_price": 37200.0}, "market"),
        ({"aggressive": True}, "the instructions, mode"),
        ({"horizon_minutes": 120}, "plan"),
        ({"readings": readings(1.0, momentum_240=-1.0)}, "readings.price_momentum"),
    ],
)
def test_an_answer_on_another_market_or_in_another_mode_is_none_and_the_place_is_named(
    store: Store, sandbox: Any, changes: dict[str, Any], place: str
) -> None:
    paying(store, sandbox.url).decide(asked(INSTANTS[:1]), now=NOW)
    strict = ledger_analyst(store, replayer(store), INSTANTS[:1], SYMBOLS)
    with pytest.raises(AnalystError, match="BTC-USD at 2026-11-20 12:02Z is another one than this") as e:
        strict.decide(asked(INSTANTS[:1], **changes), now=NOW)
    assert f"(in {place})" in str(e.value)
    fallen = LedgerAnalyst(store, replayer(store, fallback=RulesAnalyst()))
    assert {d.analyst for d in fallen.decide(asked(INSTANTS[:1], **changes), now=NOW)} == {"rules"}


def test_a_backtest_from_another_account_decides_as_the_scan_did(
    make_runtime: Callable[..., Any], sandbox: Any, tmp_path: Path
) -> None:
    """A scan that paid for its answers, then the same instant with ten times the money: no other decision."""
    runtime = make_runtime(NOW, symbols="BTC-USD,ETH-USD")
    start = runtime.clock().replace(second=0)
    run_scan(runtime.context(start, "scan"))
    richer = runtime.settings.model_copy(update={"account_initial_usd": 10 * runtime.settings.account_initial_usd})
    sent = requests(sandbox)
    again = ledger_analyst(runtime.store, runtime.replay_analyst(runtime.store), [start], richer.symbols)
    target = open_store(f"duckdb:{tmp_path / 'again.duckdb'}")
    backtest(runtime.store, target, richer, start=start, end=start + EVERY, analyst=again)
    columns = "signal_id, side, confidence, entry_price, stop_price, reasoning, status, call_id"
    wanted, got = (s.rows(f"SELECT {columns} FROM llm_signals ORDER BY 1") for s in (runtime.store, target))
    assert len(wanted) == 2 and got == wanted
    assert {row["analyst"] for row in target.rows("SELECT analyst FROM llm_signals")} == {SAME_MARKET}
    assert requests(sandbox) == sent


# --- a paid analyst on a sample -------------------------------------------------------------


def sampled(store: Store, paid: DeepSeekAnalyst, **changes: Any) -> SampledAnalyst:
    return sampled_analyst(store, paid, INSTANTS, SYMBOLS, **({"n": 3, "confirm": lambda told: True} | changes))


def test_only_the_sample_is_asked_for_what_was_told_at_most_and_the_second_run_is_free(
    store: Store, sandbox: Any
) -> None:
    told: list[Estimate] = []
    paid = paying(store, sandbox.url)
    sent = requests(sandbox)
    first = sampled(store, paid, confirm=lambda e: told.append(e) or True)
    assert requests(sandbox) == sent and not calls(store), "nothing before it is decided"
    decisions = first.decide(asked(), now=NOW)
    chosen = sample_instants(INSTANTS, 3)
    for decision, one in zip(decisions, asked(), strict=True):
        assert decision.signal_id == one.signal_id and decision.analyst == first.name == "deepseek-sample-3"
        if one.as_of in chosen:
            assert decision.status == "answered" and decision.cost_usd > 0 and decision.call_id
        else:
            assert (decision.status, decision.status_reason, decision.cost_usd) == ("skipped", NOT_SAMPLED, 0.0)
    (one,) = told
    spent = sum(row["cost_usd"] for row in calls(store))
    assert requests(sandbox) == sent + 6 and one.questions == 6
    assert 0 < spent == pytest.approx(first.spent_usd) and spent <= one.worst_usd
    assert one.expected_usd is None and "not known" in one.sentence

    second = sampled(store, paid, confirm=lambda e: told.append(e) or True)
    repeated = second.decide(asked(), now=NOW)
    assert requests(sandbox) == sent + 6 and second.spent_usd == 0.0
    assert [(d.answer, d.call_id, d.status_reason) for d in repeated] == [
        (d.answer, d.call_id, d.status_reason) for d in decisions
    ]
    assert (told[1].held, told[1].expected_usd) == (6, 0.0)


def test_a_reply_that_could_not_be_used_is_kept_too_and_not_paid_for_twice(store: Store) -> None:
    server = ScriptedServer([(200, completion("BUY!", finish="length"))])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        paid = paying(store, server.url, retries=0)
        first, again = (sampled(store, paid, n=1).decide(asked([INSTANTS[3]]), now=NOW) for _ in range(2))
        assert {(d.status, d.status_reason) for d in (*first, *again)} == {("abstained", "TRUNCATED")}
        assert len(server.requests) == 2 and sum(d.cost_usd for d in again) == 0.0
    finally:
        server.shutdown()
        server.server_close()


def test_without_a_yes_nothing_is_asked(store: Store, sandbox: Any) -> None:
    sent = requests(sandbox)
    with pytest.raises(AnalystError, match=r"nothing was asked of deepseek: \$0\.\d+ at most was not confirmed"):
        sampled(store, paying(store, sandbox.url), confirm=lambda told: False)
    assert requests(sandbox) == sent and not calls(store)


def test_what_is_expected_comes_from_the_ledgers_calls_and_is_near_the_truth(store: Store, sandbox: Any) -> None:
    paid = paying(store, sandbox.url)
    sampled(store, paid).decide(asked(), now=NOW)
    told = estimate(store, paid, INSTANTS, SYMBOLS, of_instants=700)
    assert (told.calls, told.held, told.questions, told.of_instants) == (6, 6, 12, 700)
    assert told.expected_usd is not None and told.lower_usd is not None and told.upper_usd is not None
    rest = [q for q in asked() if q.as_of not in sample_instants(INSTANTS, 3)]
    whole = SampledAnalyst(store, paid, INSTANTS, cap_usd=told.worst_usd)
    whole.decide(rest, now=NOW)
    # The interval holds what comes in 95 of 100 samples, so no single one is held to it.
    assert told.lower_usd <= told.expected_usd <= told.upper_usd < told.worst_usd
    assert 0.5 * told.expected_usd < whole.spent_usd < 2 * told.expected_usd
    assert (told.contaminated, {p.label for p in told.periods}) == (0, {"clean"}), "its checkpoint is of 2026-10-17"
    earlier = estimate(store, paid, [AS_OF - timedelta(days=365)], SYMBOLS)
    assert (earlier.contaminated, earlier.periods[0].label) == (1, UNKNOWN)
    assert UNKNOWN in earlier.sentence and f"${earlier.worst_usd:.4f} at most" in earlier.sentence


def test_a_scans_own_answer_and_call_are_left_alone(store: Store, sandbox: Any) -> None:
    """Word for word what a scan paid for is free; other words are another call, which no scan will find."""
    paid = paying(store, sandbox.url)
    (lived,) = paid.decide(asked(INSTANTS[:1])[:1], now=NOW)
    sent = requests(sandbox)
    mine = sampled(store, paid, n=6)
    (free,) = mine.decide(asked(INSTANTS[:1])[:1], now=NOW)
    assert (free.answer, free.call_id, free.cost_usd) == (lived.answer, lived.call_id, 0.0)
    assert requests(sandbox) == sent
    (other,) = mine.decide(asked(INSTANTS[:1], room_usd=5.0)[:1], now=NOW)
    assert other.cost_usd > 0 and requests(sandbox) == sent + 1
    (row,) = store.rows("SELECT * FROM llm_calls WHERE call_id = ?", (other.call_id,))
    assert row["analyst"] == "deepseek-backtest"
    assert row["signal_id"].startswith(signal_id("v7", "BTC-USD", AS_OF)) and row["signal_id"] != lived.signal_id
    (third,) = mine.decide(asked(INSTANTS[:1], room_usd=6.0)[:1], now=NOW)
    assert third.call_id not in (other.call_id, lived.call_id), "other words, another call"
    # The bill is one: what a backtest spends is spent, and the account's balance knows it by the same name.
    told = costs(store, NOW, day_budget_usd=3.0, month_budget_usd=100.0)
    assert told.month_usd == pytest.approx(sum(one["cost_usd"] for one in calls(store)))
    assert re.sub(ASKED_AGAIN, "", "deepseek-backtest") == "deepseek"


def test_neither_the_budget_nor_what_was_confirmed_is_passed(store: Store, sandbox: Any) -> None:
    sent = requests(sandbox)
    capped = SampledAnalyst(store, paying(store, sandbox.url), INSTANTS, cap_usd=0.0)
    assert {d.status_reason for d in capped.decide(asked(), now=NOW)} == {NOT_CONFIRMED}
    poor = paying(store, sandbox.url, day_usd=1e-6)
    told = estimate(store, poor, INSTANTS, SYMBOLS)
    assert told.room_usd == 1e-6 and "what they do not hold is skipped" in told.sentence
    broke = SampledAnalyst(store, poor, INSTANTS, cap_usd=told.worst_usd)
    assert {d.status_reason for d in broke.decide(asked(), now=NOW)} == {"BUDGET_DAY"}
    assert requests(sandbox) == sent and not calls(store)
    one = SampledAnalyst(store, paying(store, sandbox.url), INSTANTS, cap_usd=told.worst_usd / 12)
    first = one.decide(asked(INSTANTS[:1]), now=NOW)
    assert [d.status_reason for d in first] == [None, NOT_CONFIRMED] and requests(sandbox) == sent + 1


def test_a_backtest_on_a_sample_asks_once_and_never_again(
    make_runtime: Callable[..., Any], sandbox: Any, tmp_path: Path
) -> None:
    """Whole scans: into one store, then into another from the ledger, row for row and for nothing."""
    runtime = make_runtime(NOW, symbols="BTC-USD,ETH-USD", analyst="rules")
    start = runtime.clock().replace(second=0) - timedelta(hours=1)
    end = start + 2 * EVERY
    runtime.clock = lambda: end + timedelta(seconds=5)
    run_scan(runtime.context(end, "candles"))  # brings them
    runtime.clock = lambda: NOW
    instants = [start + place * EVERY for place in range(2)]
    marks = {"source": "backtest", "run_id": "b", "code_version": "0.1.0"}
    sent, kept = requests(sandbox), []
    for name in ("one", "two"):
        paid = sampled_analyst(
            runtime.store, runtime.paid_analyst("deepseek", marks), instants, SYMBOLS, n=1, confirm=lambda told: True
        )
        target = open_store(f"duckdb:{tmp_path / name}.duckdb")
        backtest(runtime.store, target, runtime.settings, start=start, end=end, analyst=paid)
        kept.append(target.rows("SELECT * FROM llm_signals ORDER BY signal_id"))
        assert target.rows("SELECT * FROM llm_calls") == []
    assert kept[0] == kept[1] and requests(sandbox) == sent + 2
    assert sorted((row["status"], row["status_reason"]) for row in kept[0]) == (
        [("answered", None)] * 2 + [("skipped", NOT_SAMPLED)] * 2
    )
    assert {row["source"] for row in calls(runtime.store)} == {"backtest"}
    assert {row["analyst"] for row in runtime.store.rows("SELECT analyst FROM llm_signals")} == {"rules"}


# --- the same instants without the theories -------------------------------------------------


def twice(store: Store, paid: DeepSeekAnalyst, **changes: Any) -> tuple[SampledAnalyst, SampledAnalyst]:
    return sampled_twice(store, paid, INSTANTS, SYMBOLS, **({"n": 3, "confirm": lambda told: True} | changes))


def test_what_both_askings_take_is_told_and_confirmed_before_either(store: Store, sandbox: Any) -> None:
    told: list[Estimate] = []
    sent = requests(sandbox)
    with pytest.raises(AnalystError, match=r"nothing was asked of deepseek: \$0\.\d+ at most was not confirmed") as e:
        twice(store, paying(store, sandbox.url), confirm=lambda one: told.append(one))
    assert requests(sandbox) == sent and not calls(store)
    (one,) = told
    assert one.beside is not None and one.total_usd == one.worst_usd + one.beside.worst_usd
    assert 0 < one.beside.worst_usd < one.worst_usd, "the prompt without them is shorter"
    assert f"${one.total_usd:.4f} at most" in str(e.value) and f"${one.total_usd:.4f} at most for both" in one.sentence
    assert "the same 6 once more without the theories" in one.sentence


def test_without_the_theories_the_sample_is_paid_for_once_and_below_what_was_told(store: Store, sandbox: Any) -> None:
    told: list[Estimate] = []
    paid = paying(store, sandbox.url)
    sent = requests(sandbox)
    own, plain = twice(store, paid, confirm=lambda one: told.append(one) or True)
    assert plain.name == "deepseek-without-theories-sample-3" != own.name
    with_them, without = own.decide(asked(), now=NOW), plain.decide(asked(), now=NOW)
    assert requests(sandbox) == sent + 12
    assert [d.status_reason for d in without] == [d.status_reason for d in with_them]
    assert {d.prompt_version for d in without if d.answer} == {plain_version()}
    assert {d.ungrounded for d in without if d.answer} == {()}
    rows = [row for row in calls(store) if row["analyst"] == "deepseek-without-theories"]
    assert len(rows) == 6 and not any("price_momentum" in row["prompt"] for row in rows)
    spent = sum(row["cost_usd"] for row in rows)
    assert 0 < spent == pytest.approx(plain.spent_usd) and spent <= told[0].beside.worst_usd  # type: ignore[union-attr]
    assert own.spent_usd + plain.spent_usd <= told[0].total_usd

    _, again = twice(store, paid, confirm=lambda one: told.append(one) or True)
    assert [d.answer for d in again.decide(asked(), now=NOW)] == [d.answer for d in without]
    assert requests(sandbox) == sent + 12 and again.spent_usd == 0.0
    assert (told[1].held, told[1].beside.held) == (6, 6)  # type: ignore[union-attr]
    # A longer sample is expected to cost what such calls cost, each kind by its own.
    longer = [estimate(store, paid, INSTANTS, SYMBOLS, plain=plain) for plain in (False, True)]
    assert [one.calls for one in longer] == [6, 6]
    assert [one.expected_usd for one in longer] == pytest.approx([own.spent_usd, plain.spent_usd])
    # No scan, no replay and no regime ever takes such an answer for a decision.
    assert missing_answers(store, replayer(store), INSTANTS, SYMBOLS) is not None


def test_a_backtest_has_the_analyst_without_theories_among_its_baselines(
    tmp_path: Path, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the question over HTTP to the page: with its n, for nothing the second time, and no row of v7's own."""
    monkeypatch.setattr(
        "v7_pipeline.backtest.run.all_baselines", lambda *given, **more: []
    )  # they are tested by theirs
    source, settings = holding(tmp_path / "source.duckdb", simulated()), settings_of(home=tmp_path / "home")
    end = START + 2 * EVERY
    configuration = Configuration(START, end, EVERY, analyst="deepseek", command="test")
    sent, made = requests(sandbox), []
    for _ in range(2):
        own, plain = sampled_twice(
            source, paying(source, sandbox.url), [START, START + EVERY], settings.symbols, n=1, confirm=lambda _: True
        )
        made.append(run_backtest(source, settings, configuration, analyst=own, plain=plain, now=NOW))
    assert requests(sandbox) == sent + 2 * len(settings.symbols), "nothing was asked twice"
    found = {one.name: one for one in made[0].figures.rivals}["deepseek without theories"]
    assert found.items["total_return"].n == 1 and "2 questions, 2 answered" in found.meaning
    told = json.loads(made[0].data.read_text(encoding="utf-8"))
    assert "deepseek without theories" in [one["name"] for one in told["baselines"]] and told["absent_baselines"] == []
    assert "deepseek without theories" in made[0].page.read_text(encoding="utf-8")
    assert any("deepseek without theories" in line for line in made[0].verdict.lines)
    assert made[0].data.read_bytes() == made[1].data.read_bytes() and made[1].kept == 2
    signals = made[0].figures.material.simulation.signals
    assert set(signals["prompt_version"].dropna()) == {prompt_version()}
    trials = open_store(f"duckdb:{settings.data_dir / 'backtest' / 'trials.duckdb'}")
    assert "deepseek without theories" in set(trials.query("SELECT name FROM backtest_trials")["name"])


def test_of_the_span_only_the_sample_and_one_instant_an_hour_are_replayed() -> None:
    many = [datetime(2023, 12, 1, 10, 2, tzinfo=UTC) + place * EVERY for place in range(85)]
    asked = {many[7], many[40], datetime(2024, 1, 1, tzinfo=UTC)}
    kept = asked_and_hourly(many, asked)
    assert sorted(kept) == [many[0], many[7], many[29], many[40], many[59], many[84]]  # 29, 59: 11:00 and 12:00
    assert asked_and_hourly(many[:1], ()) == {many[0]}


class Eager:
    """Buys and sells in turn at its instants, wherever it is asked."""

    name, worst_case_usd = "eager", 0.0

    def __init__(self, chosen: list[datetime]) -> None:
        self.chosen = chosen

    def decide(self, questions: Any, *, now: datetime) -> list[Decision]:
        return [self._one(question) for question in questions]

    def _one(self, q: Question) -> Decision:
        if q.as_of not in self.chosen:
            return Decision(q.signal_id, "skipped", NOT_SAMPLED, None, None, None, 0.0, self.name)
        sign = 1 if self.chosen.index(q.as_of) % 2 else -1
        entry = round(q.market_price, 2)
        plan = (entry, round(entry * (1 - sign * 0.003), 2), round(entry * (1 + sign * 0.009), 2))
        answer = Answer("BUY" if sign > 0 else "SELL", 0.8, *plan, 30, "It is its turn.", ())
        return Decision(q.signal_id, "answered", None, answer, None, None, 0.0, self.name)


@pytest.mark.slow
def test_a_replay_of_few_instants_comes_to_the_same_trades_as_one_of_all(tmp_path: Path) -> None:
    end = START + timedelta(hours=2)
    source = holding(tmp_path / "source.duckdb", simulated(end + timedelta(hours=1)))
    settings, every = settings_of(home=tmp_path), timedelta(minutes=8)
    instants = instants_of(START, end, every)
    eager = Eager([instants[place] for place in (1, 2, 5, 10)])
    found = []
    for name, only in (("all", None), ("few", asked_and_hourly(instants, eager.chosen))):
        target = open_store(f"duckdb:{tmp_path / name}.duckdb")
        backtest(source, target, settings, start=START, end=end, every=every, analyst=eager, only=only)
        found.append(
            target.query(
                "SELECT signal_id, kind, side, entry_time, entry_price, exit_time, exit_price, exit_reason, quantity, "
                "pnl_usd, r_multiple, outcome FROM outcomes ORDER BY signal_id, kind"
            )
        )
        assert len(target.query("SELECT * FROM scans")) == (len(instants) if only is None else len(only))
    assert len(only or ()) == 7
    assert (found[0]["kind"] == "paper").sum() >= 4 and (found[0]["outcome"] != "open").sum() >= 4
    pd.testing.assert_frame_equal(found[0], found[1], check_exact=True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "the rules decided and no language model"),
        ({"strategies": ("v6",)}, "v6 asks no language model"),
        ({"analyst": "replay"}, "the ledger's answers were given with the theories"),
        ({"analyst": "deepseek"}, "asked with the theories only (--once)"),
    ],
)
def test_where_it_is_not_asked_the_report_says_why_in_one_sentence(changes: dict[str, Any], why: str) -> None:
    configuration = Configuration(START, START + EVERY, EVERY, **changes)
    ((name, told),) = _absent(configuration, None)
    assert name == "the analyst without theories" and why in told and "\n" not in told
    assert _absent(replace(configuration, compare=False), None) == ()


# --- which instants -------------------------------------------------------------------------


def test_a_sample_is_the_same_each_time_in_order_and_without_repeats() -> None:
    many = [datetime(2023, 12, 1, tzinfo=UTC) + place * EVERY for place in range(720)]
    for n in (1, 2, 7, 100, 719):
        for seed in (None, 0, seed_of("backtest-20231211-5f0c2a9e41d7")):
            chosen = sample_instants(many, n, seed=seed)
            assert chosen == sample_instants(many, n, seed=seed)
            assert len(set(chosen)) == n and list(chosen) == sorted(chosen) and set(chosen) <= set(many)
    assert sample_instants(many, 720, seed=1) == sample_instants(many, 9999) == tuple(many)
    assert sample_instants(many, 2) == (many[180], many[540]), "the middle of each half"
    gaps = {b - a for a, b in zip(sample_instants(many, 100), sample_instants(many, 100)[1:], strict=False)}
    assert max(gaps) - min(gaps) <= EVERY
    assert sample_instants(many, 50, seed=1) != sample_instants(many, 50, seed=2)
    with pytest.raises(ValueError, match="1 or more"):
        sample_instants(many, 0)


def test_another_sample_is_another_backtest(store: Store, sandbox: Any) -> None:
    paid = paying(store, sandbox.url)
    names = {SampledAnalyst(store, paid, INSTANTS[:n], cap_usd=1.0, seed=s).name for n in (1, 2) for s in (None, 5)}
    assert len(names) == 4 and sample_name("deepseek", 2, 5) in names
    naive = replace(asked()[0]), NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="no time zone"):
        SampledAnalyst(store, paid, INSTANTS, cap_usd=1.0).decide([naive[0]], now=naive[1])
