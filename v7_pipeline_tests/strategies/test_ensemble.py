"""The vote: edges of the past only, both must not contradict, and who has not earned a voice has none."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.analyst.base import CONSERVATIVE
from v7_pipeline.strategies.ensemble import MEMBERS, VOICE_DAYS, Voice, day_voices, decide_frame, edges
from v7_pipeline.strategies.walk_forward import CUT_OFF, LEAST_EDGE, Terms

TERMS = Terms(240, 1.5, "ftmo-crypto", 1e-4, 0.1, 15)
DAY = pd.Timestamp("2024-02-03", tz="UTC")
TODAY = DAY.date()
NEEDED = LEAST_EDGE["conservative"]


def closed(n: int = 400, *, seed: int = 1, slope: float = 1.0, until: pd.Timestamp = DAY) -> pd.DataFrame:
    """Trades an hour apart, the last closed an hour before `until`, that win the more often the surer they were."""
    rng = np.random.default_rng(seed)
    left = until - pd.to_timedelta(np.arange(n, 0, -1), unit="h")
    confidence = rng.uniform(0.55, 0.9, n)
    won = rng.random(n) < 0.4 + slope * (confidence - 0.7)
    return pd.DataFrame(
        {
            "entry_time": left - pd.Timedelta(minutes=40),
            "exit_time": left,
            "outcome": np.where(won, "win", "loss"),
            "confidence": confidence,
        }
    )


def row(side: str | None, confidence: float = 0.7, *, risk: float = 0.004, status: str = "answered") -> dict[str, Any]:
    sign = {"BUY": 1.0, "SELL": -1.0}.get(side or "", np.nan)
    reward = 1.575 * (risk + TERMS.costs) + TERMS.costs
    prices = (100.0 * sign * sign, 100.0 * (1 - sign * risk), 100.0 * (1 + sign * reward))
    plan = dict(zip(("entry_price", "stop_price", "target_price"), prices, strict=True))
    return {"as_of": DAY, "status": status, "side": side, "confidence": confidence, "horizon_minutes": 240.0, **plan}


def certain(p: float) -> dict[date, Voice]:
    """A voice that says the same of every confidence."""
    return {TODAY: Voice(TODAY, 400, 400.0, "platt", lambda c: np.full(np.shape(c), p))}


MUTE = {TODAY: Voice(TODAY, 3, 3.0, "none")}
EVEN = 1 / 2.575  # break-even of `row`'s plan, whatever its stop


def vote(v7: dict[str, Any], v6: dict[str, Any], p7: float | None, p6: float | None) -> dict[str, Any]:
    voices = {"v7": MUTE if p7 is None else certain(p7), "v6": MUTE if p6 is None else certain(p6)}
    members = {"v7": pd.DataFrame([v7]), "v6": pd.DataFrame([v6])}
    return {str(k): v for k, v in decide_frame(members, voices, terms=TERMS).to_dict("records")[0].items()}


def test_the_edge_is_the_win_probability_over_break_even_with_its_sides_sign() -> None:
    frame = pd.DataFrame([row("BUY"), row("SELL"), row("HOLD"), row(None, status="skipped")])
    assert edges(frame, certain(EVEN + 0.05), TERMS) == pytest.approx([0.05, -0.05, 0, 0])
    assert edges(frame, certain(EVEN - 0.05), TERMS).tolist() == [0, 0, 0, 0]
    assert edges(frame, MUTE, TERMS).tolist() == [0, 0, 0, 0] and edges(frame, {}, TERMS).tolist() == [0, 0, 0, 0]


def test_they_agree_and_the_stronger_ones_plan_is_taken() -> None:
    found = vote(row("BUY", risk=0.004), row("BUY", risk=0.006), EVEN + 0.03, EVEN + 0.05)
    assert found["side"] == "BUY" and found["plan_of"] == "v6" and found["stop_price"] == pytest.approx(99.4)
    assert found["score"] == pytest.approx(0.08) and found["agreeing"] == 2
    assert found["confidence"] > CONSERVATIVE.min_confidence
    tie = vote(row("SELL"), row("SELL"), EVEN + 0.03, EVEN + 0.03)
    assert tie["side"] == "SELL" and tie["plan_of"] == "v7" and tie["score"] == pytest.approx(-0.06)


def test_they_contradict_one_another_and_nothing_is_signalled() -> None:
    found = vote(row("BUY"), row("SELL"), EVEN + 0.30, EVEN + 0.05)
    assert found["side"] == "HOLD" and found["status"] == "answered" and np.isnan(found["stop_price"])


def test_one_that_holds_leaves_the_whole_edge_to_the_other() -> None:
    assert vote(row("BUY"), row("HOLD"), EVEN + NEEDED + 0.001, EVEN + 0.2)["side"] == "BUY"
    assert vote(row("BUY"), row("HOLD"), EVEN + NEEDED - 0.001, EVEN + 0.2)["side"] == "HOLD"
    assert vote(row(None, status="skipped"), row("SELL"), None, EVEN + 0.1)["side"] == "SELL"


def test_who_has_no_voice_is_not_heard() -> None:
    assert vote(row("BUY"), row("SELL"), None, EVEN + 0.05)["side"] == "SELL"
    assert vote(row("BUY"), row("BUY"), None, None)["side"] == "HOLD"
    nobody = vote(row(None, status="skipped"), row(None, status="abstained"), EVEN, EVEN)
    assert nobody["status"] == "abstained" and nobody["side"] is None and np.isnan(nobody["confidence"])


def test_a_voice_is_learnt_from_what_had_closed_before_its_midnight() -> None:
    past = closed()
    voice = day_voices(past, [TODAY], min_effective_n=30)[TODAY]
    assert voice.method == "platt" and voice.n == 400
    assert voice.win_probability(np.array([0.6]))[0] < 0.4 < voice.win_probability(np.array([0.85]))[0]
    later = closed(50, seed=2, slope=-3.0, until=DAY + timedelta(days=4)).assign(outcome="loss")
    late = later.assign(exit_time=DAY - CUT_OFF, entry_time=DAY - timedelta(hours=1))
    for more in (later[later["exit_time"] >= DAY], late):
        again = day_voices(pd.concat([more, past]), [TODAY], min_effective_n=30)[TODAY]
        grid = np.linspace(0.5, 1, 21)
        assert again.n == voice.n and (again.win_probability(grid) == voice.win_probability(grid)).all()
    old = past.assign(exit_time=past["exit_time"] - timedelta(days=VOICE_DAYS + 30))
    old = old.assign(entry_time=past["entry_time"] - timedelta(days=VOICE_DAYS + 30))
    assert day_voices(old, [TODAY], min_effective_n=30)[TODAY].n == 0


def test_too_few_or_one_end_only_give_no_voice() -> None:
    assert day_voices(closed(29), [TODAY], min_effective_n=30)[TODAY].method == "none"
    assert day_voices(closed().assign(outcome="win"), [TODAY], min_effective_n=30)[TODAY].method == "none"
    assert day_voices(closed().iloc[:0], [TODAY], min_effective_n=30)[TODAY].n == 0
    many = day_voices(closed(1_500), [TODAY], min_effective_n=30)[TODAY]
    assert many.method == "isotonic" and np.diff(many.win_probability(np.linspace(0.5, 1, 50))).min() >= 0


def test_the_same_days_alone_and_among_others() -> None:
    past, grid = closed(), np.linspace(0.5, 1, 11)
    days = [(DAY - timedelta(days=k)).date() for k in range(5)]
    together = day_voices(past, days, min_effective_n=30)
    for day in days:
        alone = day_voices(past, [day], min_effective_n=30)[day]
        assert (alone.n, alone.n_eff) == (together[day].n, together[day].n_eff)
        assert (alone.win_probability(grid) == together[day].win_probability(grid)).all()


def test_mirrored_decisions_give_the_mirrored_vote() -> None:
    rng = np.random.default_rng(7)
    swap = {"BUY": "SELL", "SELL": "BUY", "HOLD": "HOLD"}
    sides = {name: rng.choice(list(swap), 60) for name in MEMBERS}
    sure = {name: rng.uniform(0.5, 0.95, 60) for name in MEMBERS}
    voices = {
        name: day_voices(closed(seed=k, slope=1.5), [TODAY], min_effective_n=30) for k, name in enumerate(MEMBERS)
    }

    def voted(turn: bool) -> pd.DataFrame:
        frames = {
            name: pd.DataFrame([row(swap[s] if turn else s, c) for s, c in zip(sides[name], sure[name], strict=True)])
            for name in MEMBERS
        }
        return decide_frame(frames, voices, terms=TERMS)

    one, other = voted(False), voted(True)
    assert one["side"].map(swap).tolist() == other["side"].tolist() and set(one["side"]) == set(swap)
    assert np.allclose(one["score"], -other["score"]) and np.allclose(one["confidence"], other["confidence"])
