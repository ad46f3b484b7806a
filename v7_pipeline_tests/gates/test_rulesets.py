"""Rule sets as data: those that V7 brings, a person's own file, and every way in which such a file is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from v7_pipeline.gates import rule_names, rules, rulesets
from v7_pipeline.gates.rulesets import RulesError
from v7_pipeline_tests.gates.builders import MINUTE, at, book, closed, state

GIVEN = {
    "name": '"other-firm"', "effective": "2026-01-05", "source": '"official: the firm\'s page of 2026-01-05"',
    "daily_loss": "0.04", "max_loss": "0.08", "trailing": "true", "commission_rate": "0.0005", "leverage": "5.0",
    "timezone": '"America/New_York"',
}  # fmt: skip


def own(folder: Path, *entries: dict[str, str], before: str = "") -> Path:
    """A file of rule sets: each entry is GIVEN with changes; an empty value leaves the line out."""
    blocks = [
        "[[rules]]\n" + "\n".join(f"{key} = {value}" for key, value in {**GIVEN, **entry}.items() if value)
        for entry in entries
    ]
    path = folder / "own.toml"
    path.write_text("\n\n".join([before, *blocks]), encoding="utf-8")
    return path


def test_rule_sets_are_dated_sourced_data() -> None:
    assert rule_names() == ("ftmo-2step-challenge", "ftmo-2step-verification", "ftmo-2step-funded", "ftmo-1step")
    assert [rules(name).profit_target for name in rule_names()] == [0.10, 0.05, None, 0.10]
    for name in rule_names():
        assert rules(name).source and rules(name).effective == date(2025, 7, 26)
        assert rules(name).commission_rate == 0.000325
    with pytest.raises(KeyError, match="ftmo-1step"):
        rules("topstep")


def test_the_version_in_force_is_taken_and_before_the_first_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = rules("ftmo-1step"), replace(rules("ftmo-1step"), effective=date(2026, 3, 1), daily_loss=0.04)
    monkeypatch.setattr(rulesets, "_load", lambda: (newer, older))
    found = [
        rules("ftmo-1step", on=day).daily_loss for day in (date(2023, 12, 11), date(2026, 2, 28), date(2026, 3, 1))
    ]
    assert found == [0.03, 0.03, 0.04]
    assert rules("ftmo-1step").daily_loss == 0.04


def test_another_firms_rules_are_a_file_and_no_code(tmp_path: Path) -> None:
    path = own(tmp_path, {"commissions": '{ "ETH-USD" = 0.001 }', "leverages": '{ "ETH-USD" = 2.0 }', "min_days": "3"})
    mine = rules("other-firm", file=path)
    assert (mine.daily_loss, mine.max_loss, mine.trailing, mine.min_days) == (0.04, 0.08, True, 3)
    assert mine.effective == date(2026, 1, 5) and mine.profit_target is None and mine.best_day_share is None
    assert [mine.commission_of(symbol) for symbol in ("ETH-USD", "BTC-USD")] == [0.001, 0.0005]
    assert [mine.leverage_of(symbol) for symbol in ("ETH-USD", "BTC-USD")] == [2.0, 5.0]
    assert rule_names(path) == (*rule_names(), "other-firm")
    assert rules("ftmo-1step", file=path) == rules("ftmo-1step")


def test_the_account_is_judged_by_a_persons_own_rules_and_zone(tmp_path: Path) -> None:
    mine = rules("other-firm", file=own(tmp_path, {}))
    now = at("2026-11-20T03:00Z")  # 22:00 in New York
    account = state(book(closed(2_000, now - 24 * 60 * MINUTE)), now, rules=mine)
    assert account.rules == "other-firm" and account.day_started_at == at("2026-11-19T05:00Z")
    assert (account.daily_limit, account.total_limit) == (98_000, 94_000)


def test_own_versions_follow_their_dates_and_share_defaults(tmp_path: Path) -> None:
    shared = '[defaults]\ntimezone = "UTC"'
    path = own(
        tmp_path, {"timezone": ""}, {"timezone": "", "effective": "2026-06-01", "daily_loss": "0.05"}, before=shared
    )
    assert rules("other-firm", file=path).daily_loss == 0.05
    assert rules("other-firm", file=path, on=date(2026, 5, 31)).daily_loss == 0.04
    assert rules("other-firm", file=path).timezone == "UTC"


def test_an_unknown_name_is_told_with_the_files_names_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="other-firm"):
        rules("topstep", file=own(tmp_path, {}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"daily_loss": "5"}, "daily_loss is 5, not a fraction"),
        ({"daily_loss": "0"}, "daily_loss is 0, not a fraction"),
        ({"max_loss": "-0.1"}, "max_loss is -0.1, not a fraction"),
        ({"max_loss": '"10 %"'}, "max_loss is '10 %', not a fraction"),
        ({"profit_target": "10.0"}, "profit_target is 10.0, not a fraction"),
        ({"best_day_share": "1.5"}, "best_day_share is 1.5, not a fraction"),
        ({"effective": '"2026-01-05"'}, "effective is '2026-01-05', not a date"),
        ({"source": '""'}, "source is empty"),
        ({"commission_rate": "-0.001"}, "commission_rate has a figure"),
        ({"commissions": '{ "ETH-USD" = -1.0 }'}, "commission_rate has a figure"),
        ({"leverage": "0"}, "leverage has a figure"),
        ({"leverages": '{ "ETH-USD" = 0 }'}, "leverage has a figure"),
        ({"contract_sizes": '{ "ETH-USD" = 0 }'}, "contract_sizes has a figure"),
        ({"timezone": '"Europe/Prag"'}, "timezone is 'Europe/Prag'"),
        ({"timezone": '""'}, "timezone is ''"),
        ({"max_loss": ""}, "max_loss"),
        ({"weekly_loss": "0.05"}, "weekly_loss"),
    ],
)
def test_a_figure_that_cannot_be_meant_is_refused_by_its_name(
    tmp_path: Path, change: dict[str, str], told: str
) -> None:
    path = own(tmp_path, change)
    with pytest.raises(RulesError) as caught:
        rules("other-firm", file=path)
    assert told in str(caught.value) and "other-firm" in str(caught.value) and str(path) in str(caught.value)


def test_every_mistake_of_an_entry_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"daily_loss is 5.*source is empty.*leverage has"):
        rules("other-firm", file=own(tmp_path, {"daily_loss": "5", "source": '""', "leverage": "0"}))


def test_a_free_commission_is_allowed_and_an_entry_without_a_name_is_told(tmp_path: Path) -> None:
    assert rules("other-firm", file=own(tmp_path, {"commission_rate": "0"})).commission_of("BTC-USD") == 0
    with pytest.raises(RulesError, match="without a name"):
        rules("other-firm", file=own(tmp_path, {"name": ""}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "needs"),
        ("[defaults]\ntimezone = 'UTC'", "needs"),
        ("rules = 3", "needs"),
        ("[[rule]]\nname = 'x'", "needs"),
        ("[[rules]\nname = 'x'", "is no TOML"),
    ],
)
def test_a_file_that_holds_no_rule_sets_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RulesError, match=told) as caught:
        rules("other-firm", file=path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_taken_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="cannot be read"):
        rules("other-firm", file=tmp_path / "nowhere.toml")
    with pytest.raises(RulesError, match="has already: ftmo-1step"):
        rules("ftmo-1step", file=own(tmp_path, {"name": '"ftmo-1step"'}))


@pytest.mark.parametrize("symbol", ["BTC-USD", "SOL-USD"])
def test_a_persons_own_figures_stand_above_the_rule_sets(symbol: str) -> None:
    plain = rules("ftmo-2step-challenge")
    mine = plain.with_own({symbol: 0.001}, {symbol: 2.0}, {symbol: 5.0})
    assert (mine.commission_of(symbol), mine.leverage_of(symbol), mine.contract_sizes[symbol]) == (0.001, 2.0, 5.0)
    others: Any = [
        (r.commission_of("ETH-USD"), r.leverage_of("ETH-USD"), r.contract_sizes["ETH-USD"]) for r in (plain, mine)
    ]
    assert others[0] == others[1]
    assert plain.commission_of(symbol) == 0.000325  # the rule set itself is untouched
