"""A theory left out of a language model's questions: what is gone from the prompt, what is paid, what may be said."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.analyst import deepseek
from v7_pipeline.analyst.balance import Balance, reconcile
from v7_pipeline.analyst.base import Answer, asked_again
from v7_pipeline.analyst.costs import costs
from v7_pipeline.analyst.grounding import ungrounded_against
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.analyst.prompt import build_prompt, without_theory
from v7_pipeline.analyst.regimes import regimes_table
from v7_pipeline.analyst.replay import ReplayAnalyst
from v7_pipeline.analyst.reply import parse_reply
from v7_pipeline.analyst.rules import answer_from_prompt
from v7_pipeline.analyst.wire import Parameters
from v7_pipeline.learning.statistics import wilson
from v7_pipeline.sandbox.answers import document_of, rules_answer
from v7_pipeline.sandbox.server import SandboxServer
from v7_pipeline.scan import leave_out
from v7_pipeline.scan.compare import CompareError, Said, ask_again, questions
from v7_pipeline.store import Store, open_store
from v7_pipeline.store.schema import THEORY_NAMES, THEORY_VALUES
from v7_pipeline_tests.analyst.conftest import (
    BUY,
    HOLD,
    NOW,
    PROVENANCE,
    SELL,
    ScriptedServer,
    analyst,
    question,
    readings,
)
from v7_pipeline_tests.analyst.test_compare import ALWAYS, SYMBOLS, decided, keep, say

Serve = Callable[..., ScriptedServer]
MOMENTUM = "price_momentum"
# What else a prompt calls a theory by; each word is gone with it.
WORDS = {MOMENTUM: ("omentum",), "market_regime": ("regime", "rising state"), "bayesian_win_rate": ("closed signals",)}


# --- the prompt -----------------------------------------------------------------------------


@pytest.mark.parametrize("aggressive", [True, False])
@pytest.mark.parametrize("theory", THEORY_NAMES)
def test_nothing_of_the_theory_remains_and_the_rest_stands_word_for_word(theory: str, aggressive: bool) -> None:
    asked = question(
        direction=-0.9,
        aggressive=aggressive,
        readings=readings(-0.9, volatility_240=9.1e-05, win_rate=None, p_bull=None),
    )
    before = build_prompt(asked).messages
    after = without_theory(before, theory)
    assert "9.1e-05" in before[1]["content"], "a number that would be written otherwise"
    whole = "\n".join(message["content"] for message in after)
    values = [name for name, *_ in THEORY_VALUES[theory] if name != "volatility"]
    for word in (theory, f"{theory} says so", *values, *WORDS.get(theory, ())):
        assert not re.search(rf"\b{word}", whole), word
    # The system part: whole lines are gone; only the two examples lose a few words.
    old, new = (set(messages[0]["content"].splitlines()) for messages in (before, after))
    assert all(line.startswith("{") for line in new - old)
    assert len(old - new) == {"bayesian_win_rate": 3, MOMENTUM: 3, "market_regime": 3}.get(theory, 1)
    # The document: every other text stands where it stood.
    was, now = (json.loads(messages[1]["content"]) for messages in (before, after))
    gone = was["readings"].pop(theory)
    was["missing"] = [place for place in was["missing"] if not place.startswith(f"readings.{theory}.")]
    counted = was.pop("combined"), now.pop("combined")
    assert was == now
    voice = gone["vote"] * gone["score"]
    assert counted[1]["mean_vote_times_score"] == pytest.approx(counted[0]["mean_vote_times_score"] - voice / 10)
    assert counted[1]["votes_down"] == counted[0]["votes_down"] - (voice < 0)
    assert counted[1]["votes_up"] == counted[0]["votes_up"]
    # Numbers as they were written too: "combined" and "missing" aside, the text is the old one less the reading.
    text, left = (
        re.sub(r'"combined": \{.*?\}', "", messages[1]["content"].partition(', "missing"')[0])
        for messages in (before, after)
    )
    assert re.sub(rf'"{theory}": \{{"values": .*?\}}.*?\}}(, )?', "", text).replace("}, }", "}}") == left
    for example in (line for line in after[0]["content"].splitlines() if line.startswith("{")):
        assert isinstance(parse_reply(example, "stop"), Answer)


def test_a_theory_that_abstains_leaves_the_combined_figures_as_they_are() -> None:
    before = build_prompt(question(direction=0.7)).messages
    after = without_theory(before, "risk_metrics")
    combined = [re.search(r'"combined": \{.*?\}', m[1]["content"]) for m in (before, after)]
    assert combined[0] and combined[1] and combined[0][0] == combined[1][0]


def test_where_no_other_theory_reads_nothing_is_combined() -> None:
    row = {name: None if name.endswith(("_vote", "_score")) else value for name, value in readings(0.5).items()}
    row |= {"price_momentum_vote": 0.5, "price_momentum_score": 0.5}
    document = json.loads(without_theory(build_prompt(question(readings=row)).messages, MOMENTUM)[1]["content"])
    assert set(document["combined"].values()) == {None} and "combined.votes_up" in document["missing"]


def test_a_prompt_of_another_layout_is_refused() -> None:
    system, user = build_prompt(question()).messages
    later = build_prompt(question(explanations={"monte_carlo": "as price_momentum says"})).messages
    for messages, told in (
        ((system, {**user, "content": user["content"].replace(", ", ",")}), "the document is another"),
        (({**system, "content": "You decide."}, user), "the system part has other words"),
        (({**system, "content": system["content"].replace("Momentum is", "It is")}, user), "other words"),
        ((system,), "not enough values"),
        ((system, {**user, "content": "BTC"}), "no prompt of this layout"),
        (later, "names price_momentum where it is not known to"),
    ):
        with pytest.raises(ValueError, match=told):
            without_theory(messages, MOMENTUM)


def test_a_reply_is_grounded_in_what_is_left() -> None:
    messages = build_prompt(question(direction=1.0, readings=readings(1.0, momentum_240=2.37))).messages
    reply = {**BUY, "reasoning": "Momentum is 2.37 standard deviations."}
    said = parse_reply(json.dumps(reply), "stop")
    assert isinstance(said, Answer)
    assert ungrounded_against(said, messages) == ()
    assert ungrounded_against(said, without_theory(messages, MOMENTUM)) == ("2.37",)
    other = parse_reply(json.dumps({**BUY, "reasoning": "The percentile is 0.99.", "key_theories": []}), "stop")
    assert isinstance(other, Answer) and ungrounded_against(other, without_theory(messages, MOMENTUM)) == ()


def test_the_stand_in_reads_a_theory_that_is_left_out_as_silent() -> None:
    """Three speak, just enough: without one of them the rules hold."""
    row = readings(0.0) | {"volatility_240": 4e-4}
    for theory in ("price_momentum", "kalman_filter", "hurst_exponent"):
        row |= {f"{theory}_vote": 1.0, f"{theory}_score": 1.0}
    messages = build_prompt(question(readings=row)).messages
    assert answer_from_prompt(json.loads(messages[1]["content"]))["signal"] == "BUY"
    for theory, side in (("kalman_filter", "HOLD"), ("monte_carlo", "BUY")):
        assert answer_from_prompt(json.loads(without_theory(messages, theory)[1]["content"]))["signal"] == side
    two = without_theory(without_theory(messages, "kalman_filter"), "monte_carlo")
    with pytest.raises(ValueError, match="not a prompt"):
        answer_from_prompt(json.loads(two[1]["content"]))


# --- asking ---------------------------------------------------------------------------------


def _id(kept: Any) -> str:
    return str(kept.asked.signal_id)


def ask(store: Store, planned: Any) -> dict[str | None, dict[str, Said]]:
    return {theory: ask_again(store, plan) for theory, plan in planned.items()}


def test_each_arm_is_asked_through_the_ledger_under_its_own_name(serve: Serve, ledger: Ledger, store: Store) -> None:
    first = decided(serve, ledger, store, say(BUY), say(HOLD))
    kept = questions(store, **ALWAYS, answered_by="deepseek")
    server = serve(say(SELL))
    planned = leave_out.arms(store, analyst(ledger, server.url), kept, [MOMENTUM, "monte_carlo"])
    assert list(planned) == [None, MOMENTUM, "monte_carlo"] and all(len(p.to_ask) == 2 for p in planned.values())
    assert planned[None].worst_usd > planned[MOMENTUM].worst_usd > 0
    said = ask(store, planned)
    assert {one.side for own in said.values() for one in own.values()} == {"SELL"}
    sent = sorted(json.dumps(r["messages"]) for r in first.requests)
    assert sorted(json.dumps(r["messages"]) for r in server.requests[:2]) == sent, "the control is unchanged"
    assert all(MOMENTUM not in json.dumps(r["messages"]) for r in server.requests[2:4])
    rows = store.rows("SELECT * FROM llm_calls WHERE analyst <> 'deepseek' ORDER BY call_id")
    names = ("deepseek-unchanged", "deepseek-without-monte_carlo", f"deepseek-without-{MOMENTUM}")
    assert [row["call_id"] for row in rows] == [
        f"{name}-{q.asked.signal_id}" for name in names for q in sorted(kept, key=_id)
    ]
    assert {row["prompt_version"] for row in rows} == {
        kept[0].asked.prompt_version + end for end in ("", "-without-monte_carlo", f"-without-{MOMENTUM}")
    }
    assert all(row["status"] == "settled" and row["reserved_usd"] > row["cost_usd"] > 0 for row in rows)
    again = leave_out.arms(store, analyst(ledger, server.url), kept, [MOMENTUM, "monte_carlo"])
    assert all((p.to_ask, p.worst_usd) == ((), 0) for p in again.values()) and ask(store, again) == said
    assert len(server.requests) == 6


def test_what_is_asked_again_decides_nothing(serve: Serve, ledger: Ledger, store: Store) -> None:
    """Not in a replay, not as a model's regime, not as a decision that was paid for; but it is the same account's."""
    before = NOW - timedelta(minutes=1)
    reconcile(store, Balance(10.0, 0.0, 10.0), before, "deepseek", PROVENANCE)
    decided(serve, ledger, store, say(BUY))
    told = costs(store, NOW, day_budget_usd=3, month_budget_usd=100)
    kept = questions(store, **ALWAYS)
    again = analyst(ledger, serve(say(SELL, model="another")).url, clock=lambda: NOW + timedelta(days=31))
    ask(store, leave_out.arms(store, again, kept, [MOMENTUM]))
    replay = ReplayAnalyst(store, model="deepseek-flash", parameters=Parameters(600))
    (held,) = replay.decide([question(direction=1.0)], now=NOW)
    assert (held.answer and held.answer.side, held.call_id) == ("BUY", f"deepseek-{kept[0].asked.signal_id}")
    assert [row["analyst"] for row in store.rows("SELECT analyst FROM model_regimes")] == ["deepseek"]
    assert list(regimes_table(store)["analyst"]) == ["deepseek"]
    later = NOW + timedelta(days=31)
    month = costs(store, later, day_budget_usd=3, month_budget_usd=100)
    assert (month.calls, month.answered, told.answered) == (2, 0, 1) and month.month_usd > 0
    found = reconcile(store, Balance(9.99, 0.0, 10.0), later + timedelta(minutes=1), "deepseek", PROVENANCE)
    paid = store.rows("SELECT count(*) AS n, sum(cost_usd) AS usd FROM llm_calls")[0]
    assert paid["n"] == 3 and found.known == pytest.approx(paid["usd"])


def test_only_what_todays_model_answered_is_asked_unchanged(serve: Serve, ledger: Ledger, store: Store) -> None:
    decided(serve, ledger, store, say(BUY), say("no json", finish="length"))
    asked = questions(store, **ALWAYS, answered_by="deepseek")
    assert [q.asked.symbol for q in asked] == ["BTC-USD"], "what was abstained from is no decision"
    assert questions(store, **ALWAYS, answered_by="other") == []
    assert leave_out.kept(store, analyst(ledger, "http://x"), asked) == asked
    assert leave_out.kept(store, analyst(ledger, "http://x", model="deepseek-v4-pro"), asked) == []
    assert leave_out.answered_last(store, start=ALWAYS["start"], end=ALWAYS["end"]) == "deepseek"
    assert leave_out.answered_last(store, start=NOW, end=ALWAYS["end"]) is None


def test_a_question_of_another_template_is_refused_by_its_name(serve: Serve, ledger: Ledger, store: Store) -> None:
    decided(serve, ledger, store, say(BUY))
    (kept,) = questions(store, **ALWAYS)
    old = type(kept.asked)(kept.asked.signal_id, "BTC-USD", NOW, ({"role": "user", "content": "Buy?"},), "p-old")
    strange = type(kept)(old, kept.decider, kept.decided, None)
    with pytest.raises(CompareError, match=rf"{old.signal_id}: no prompt of this layout .*; narrow --from"):
        leave_out.arms(store, analyst(ledger, "http://x"), [strange], [MOMENTUM])


def test_the_budgets_hold_and_another_day_goes_on(serve: Serve, ledger: Ledger, store: Store) -> None:
    decided(serve, ledger, store, say(BUY), say(HOLD))
    kept = questions(store, **ALWAYS)
    server = serve(say(SELL))
    worst = leave_out.arms(store, analyst(ledger, server.url), kept, [MOMENTUM])[None].worst_usd / 2
    spent = ledger.spent(NOW).day_usd
    paid = store.rows("SELECT max(cost_usd) AS usd FROM llm_calls")[0]["usd"]  # what an answer costs in the end

    def once(now: Any, day: float) -> dict[str | None, dict[str, Said]]:
        small = Ledger(store, daily_budget_usd=day, monthly_budget_usd=9, provenance=PROVENANCE)
        client = analyst(small, server.url, clock=lambda: now)
        return ask(store, leave_out.arms(store, client, kept, [MOMENTUM]))

    first = once(NOW, spent + 2 * worst + paid)
    assert [one.side for one in first[None].values()] == ["SELL", "SELL"]
    assert sorted(one.side or str(one.reason) for one in first[MOMENTUM].values()) == ["BUDGET_DAY", "SELL"]
    (_, effect) = leave_out.effects(kept, first, {}, least=1)
    assert (effect.n, effect.unanswered) == (1, {"BUDGET_DAY": 1})
    second = once(NOW + timedelta(days=1), 3.0)
    assert {one.side for own in second.values() for one in own.values()} == {"SELL"} and len(server.requests) == 4


# --- over real HTTP, against the stand-in ------------------------------------------------------


@contextmanager
def stand_in(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[SandboxServer]:
    def answerer(messages: Any) -> dict[str, Any]:
        document = document_of(messages)
        assert document is not None
        return answer(document)

    with SandboxServer(clock=lambda: NOW, answerer=answerer) as server:
        yield server


def scanned(store: Store, client: Any, instants: int, outcomes: dict[str, Any] | None = None) -> list[Any]:
    """As many scans of four symbols, decided by `client` and stored; the questions as the ledger has them."""
    asked = [
        question(symbol, direction=0.9, as_of=question().as_of - timedelta(minutes=30 * back))
        for back in range(instants)
        for symbol in SYMBOLS
    ]
    keep(store, asked, client.decide(asked, now=NOW), outcomes)
    return leave_out.kept(store, client, questions(store, **ALWAYS, answered_by="deepseek"))


def test_a_model_that_follows_one_theory_is_found_out(ledger: Ledger, store: Store) -> None:
    def follows(document: dict[str, Any]) -> dict[str, Any]:
        return dict(BUY if document["readings"].get(MOMENTUM, {}).get("vote") else HOLD)

    outcomes = {"BTC-USD": 2.0, "ETH-USD": -1.0}
    with stand_in(follows) as server:
        client = analyst(ledger, server.url)
        kept = scanned(store, client, 3, outcomes)
        said = ask(store, leave_out.arms(store, client, kept, THEORY_NAMES))
        billed = server.account.charged_usd
    control, *found = leave_out.effects(kept, said, leave_out.closed(store, kept), least=12)
    assert (control.n, control.changed, control.verdict, control.p) == (12, 0, "control", None)
    assert [e.theory for e in found if e.verdict == leave_out.CHANGES] == [MOMENTUM]
    (followed,) = (effect for effect in found if effect.theory == MOMENTUM)
    assert (followed.n, followed.changed, followed.only_here, followed.only_control) == (12, 12, 12, 0)
    assert followed.interval == wilson(12, 12) and followed.p == pytest.approx(2 / 2**12)
    assert followed.holm_p == pytest.approx(10 * 2 / 2**12), "of ten theories"
    assert (followed.mean_r, followed.control_mean_r, followed.n_r) == (0.0, 0.5, 6), "a HOLD earns nothing"
    assert {e.verdict for e in found if e.theory != MOMENTUM} == {leave_out.SAME}
    assert store.rows("SELECT sum(cost_usd) AS usd FROM llm_calls")[0]["usd"] == pytest.approx(billed)


def test_a_model_that_varies_by_itself_is_not_taken_for_one_that_needs_a_theory(ledger: Ledger, store: Store) -> None:
    asked: Counter[str] = Counter()

    def at_random(document: dict[str, Any]) -> dict[str, Any]:
        # By what is asked and how often, so that threads that overtake one another draw the same.
        text = json.dumps(document, sort_keys=True)
        asked[text] += 1
        return dict(random.Random(f"{text} {asked[text]}").choice((BUY, SELL, HOLD)))

    with stand_in(at_random) as server:
        client = analyst(ledger, server.url)
        kept = scanned(store, client, 10)
        said = ask(store, leave_out.arms(store, client, kept, [MOMENTUM, "monte_carlo"]))
    control, *found = leave_out.effects(kept, said, {}, least=30)
    assert control.changed > 16, "two of three answers are another side's"
    assert all(effect.changed > 16 and effect.verdict == leave_out.SAME for effect in found)


KILLED = """
import sys
from v7_pipeline.analyst.ledger import Ledger
from v7_pipeline.scan import leave_out
from v7_pipeline.scan.compare import ask_again, questions
from v7_pipeline.store import open_store
from v7_pipeline_tests.analyst.conftest import PROVENANCE, analyst
from v7_pipeline_tests.analyst.test_compare import ALWAYS
store = open_store(sys.argv[1], wait_s=10)
marks = PROVENANCE | {"run_id": "killed"}
ledger = Ledger(store, daily_budget_usd=3.0, monthly_budget_usd=100.0, provenance=marks)
kept = questions(store, **ALWAYS, answered_by="deepseek")
planned = leave_out.arms(store, analyst(ledger, sys.argv[2], deadline_s=60), kept, ["price_momentum", "monte_carlo"])
for plan in planned.values():
    ask_again(store, plan)
"""


def test_killed_half_way_it_goes_on_without_paying_twice(
    tmp_path: Path, store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Counter[tuple[str, bool]] = Counter()
    killed: list[bool] = []

    def answer(document: dict[str, Any]) -> dict[str, Any]:
        key = document["symbol"], MOMENTUM in document["readings"]
        answers[key] += 1
        while key == ("SOL-USD", False) and not killed:
            time.sleep(0.02)
        return rules_answer([{"role": "user", "content": json.dumps(document)}])

    url = f"duckdb:{tmp_path / 'v7.duckdb'}"
    with stand_in(answer) as server:
        client = analyst(ledger, server.url, deadline_s=3.0)
        kept = scanned(store, client, 1)
        child = subprocess.Popen([sys.executable, "-c", KILLED, url, server.url], cwd=Path(__file__).parents[2])
        try:
            until = time.monotonic() + 60
            # Decisions 4, control 4, and of the arm without momentum all but one.
            while _settled(url) < 11 and time.monotonic() < until and child.poll() is None:
                time.sleep(0.1)
            os.kill(child.pid, signal.SIGKILL)
        finally:
            child.kill()
            assert child.wait(60) == -signal.SIGKILL
        killed.append(True)
        monkeypatch.setattr(deepseek, "IN_FLIGHT_MARGIN_S", 0.0)
        planned = leave_out.arms(store, client, kept, [MOMENTUM, "monte_carlo"])
        assert [len(plan.to_ask) for plan in planned.values()] == [0, 1, 4]
        said = ask(store, planned)
        assert all(one.side for own in said.values() for one in own.values())
        again = leave_out.arms(store, client, kept, [MOMENTUM, "monte_carlo"])
        assert not any(plan.to_ask for plan in again.values())
    # The one that was under way is asked anew; what was answered is not.
    assert answers[("SOL-USD", False)] == 2 and all(answers[(symbol, False)] == 1 for symbol in SYMBOLS[:2])
    assert all(answers[(symbol, True)] == 3 for symbol in SYMBOLS), "decided, the control, and without another theory"
    rows = store.rows(
        "SELECT call_id, attempt, status, cost_usd, reserved_usd FROM llm_calls ORDER BY call_id, attempt"
    )
    twice = [row for row in rows if row["attempt"] > 1 or row["status"] != "settled"]
    sol = f"{asked_again('deepseek', MOMENTUM)}-v7-SOL-USD"
    assert [(row["attempt"], row["status"]) for row in twice] == [(1, "unknown"), (2, "settled")]
    assert all(row["call_id"].startswith(sol) for row in twice) and twice[0]["cost_usd"] == twice[0]["reserved_usd"]
    assert len(rows) == 4 + 3 * 4 + 1


def _settled(url: str) -> int:
    rows = open_store(url, wait_s=10).rows("SELECT count(*) AS n FROM llm_calls WHERE status = 'settled'")
    return int(rows[0]["n"])


# --- the figures ----------------------------------------------------------------------------


def told(side: str | None, confidence: float = 0.7) -> Said:
    return Said(side, confidence if side else None, None if side else "TIMEOUT", 0.01, 1.0)


def figures(*rows: tuple[Said, Said, Said], outcomes: dict[int, dict[str, float]] | None = None, least: int = 1) -> Any:
    """The effect of one theory where `rows` have what the decision, the control and the arm said."""
    asked = build_prompt(question())
    kept, said = [], {None: {}, MOMENTUM: {}}  # type: ignore[var-annotated]
    for place, (was, same, one) in enumerate(rows):
        words = deepseek.Asked(f"s-{place}", "BTC-USD", NOW, asked.messages, asked.version)
        kept.append(leave_out.Question(words, "deepseek", was, None))
        said[None][f"s-{place}"], said[MOMENTUM][f"s-{place}"] = same, one
    closed = {f"s-{place}": sides for place, sides in (outcomes or {}).items()}
    return leave_out.effects(kept, said, closed, least=least)[1]


def test_the_test_is_of_the_arm_against_the_control_question_by_question() -> None:
    buy, sell = told("BUY"), told("SELL")
    rows = [(buy, buy, sell)] * 9 + [(buy, sell, buy)] + [(buy, sell, sell)] * 3 + [(buy, buy, buy)] * 7
    found = figures(*rows)
    assert (found.n, found.changed, found.control_changed) == (20, 12, 4)
    assert (found.only_here, found.only_control, found.interval) == (9, 1, wilson(12, 20))
    assert found.p == found.holm_p == pytest.approx(2 * (1 + 10) / 2**10), "both tails of ten fair coins"
    assert found.verdict == leave_out.CHANGES
    assert figures(*[(buy, sell, buy)] * 9).verdict == leave_out.STEADIES
    same = figures(*[(buy, sell, sell)] * 9)
    assert (same.p, same.verdict) == (1.0, leave_out.SAME), "what the control does too is no theory's effect"


def test_mcnemars_exact_test_is_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    # Agresti, Categorical Data Analysis (2002), table 10.1: 150 and 86 changed their approval.
    for here, there in ((150, 86), (9, 1), (3, 3), (0, 4), (5, 6)):
        table = [[0, here], [there, 0]]
        assert leave_out._mcnemar(here, there) == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_below_the_least_n_nothing_is_tested() -> None:
    found = figures(*[(told("BUY"), told("BUY"), told("SELL"))] * 19, least=20)
    assert (found.verdict, found.p, found.holm_p, found.changed) == (leave_out.TOO_FEW, None, None, 19)
    nobody = figures((told("BUY"), told("BUY"), told(None)))
    assert (nobody.n, nobody.interval, nobody.verdict, nobody.unanswered) == (0, None, "too few", {"TIMEOUT": 1})
    lost = figures((told("BUY"), told(None), told("SELL")), (told("BUY"), told("BUY"), told("BUY")))
    assert (lost.n, lost.changed, lost.unanswered) == (1, 0, {}), "without the control's answer there is no pair"


def test_confidence_is_compared_where_the_side_is_the_same() -> None:
    found = figures(
        (told("BUY", 0.7), told("BUY", 0.72), told("BUY", 0.6)),
        (told("HOLD", 0.9), told("HOLD", 0.9), told("HOLD", 0.8)),
        (told("BUY", 0.7), told("BUY", 0.7), told("HOLD", 0.99)),
        (told("BUY", 0.7), told("SELL", 0.1), told("BUY", 0.7)),
    )
    assert found.n_kept == 2
    assert found.confidence == pytest.approx(-0.1) and found.control_confidence == pytest.approx(0.01)


def test_what_the_sides_were_worth_is_read_and_never_guessed() -> None:
    buy, sell, hold = told("BUY"), told("SELL"), told("HOLD")
    found = figures(
        (buy, buy, hold),  # +1.5 left out
        (buy, buy, buy),  # -1.0 taken as before
        (hold, hold, sell),  # a HOLD, both sides of which were followed
        (buy, buy, sell),  # nobody followed the other side
        (buy, buy, buy),  # not closed
        outcomes={0: {"BUY": 1.5}, 1: {"BUY": -1.0}, 2: {"BUY": -1.0, "SELL": 2.0}, 3: {"BUY": 0.4}},
    )
    assert (found.n, found.n_r, found.opposite) == (5, 3, 1)
    assert found.decided_mean_r == found.control_mean_r == pytest.approx((1.5 - 1.0 + 0.0) / 3)
    assert found.mean_r == pytest.approx((0.0 - 1.0 + 2.0) / 3)


def test_outcomes_are_the_closed_ones_by_side(serve: Serve, ledger: Ledger, store: Store) -> None:
    outcomes = {"BTC-USD": {"BUY": 1.5}, "ETH-USD": {"BUY": -1.0, "SELL": 2.0}}
    decided(serve, ledger, store, say(BUY), say(HOLD), say(HOLD), outcomes=outcomes)  # type: ignore[arg-type]
    kept = questions(store, **ALWAYS)
    found = leave_out.closed(store, kept)
    assert {key.split("-")[1]: sides for key, sides in found.items()} == {
        "BTC": {"BUY": 1.5},
        "ETH": {"BUY": -1.0, "SELL": 2.0},
    }
