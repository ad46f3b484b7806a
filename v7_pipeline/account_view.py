"""What `v7 ftmo` and `v7 account` print: gauges, tables and sentences, and the picture of a simulated challenge.

Only presentation; figures come from scan/account_figures.py and gates/challenge.py. Missing is a dash, demo says DEMO.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Group
from rich.table import Table
from rich.text import Text

from v7_pipeline.alerts.text import (
    MISSING,
    number_text,
    percent_text,
    price_text,
    time_text,
    usd_text,
)
from v7_pipeline.gates.challenge import INNER, OUTER, Chance, DayRecord, Simulation
from v7_pipeline.gates.reasons import explain
from v7_pipeline.gates.rulesets import RuleSet

__all__ = ["account_block", "duration", "readings_block", "save_picture", "simulation_block"]

Row = dict[str, Any]

_WIDTH = 40  # characters of a gauge
_GOOD, _WARN, _BAD = "green", "yellow", "red"
_UP, _DOWN, _DARK, _QUIET, _DEMO, _INK = "#1a7f37", "#b3261e", "#6e1611", "#5b6470", "#b58900", "#24292f"


def account_block(told: Row, *, now: datetime) -> Group:
    """The account of scan.account_figures; `now` is the reader's instant, from which the next roll is counted."""
    title = f"ACCOUNT of {told['strategy']} {told['as_of']:%Y-%m-%d %H:%M}Z{_demo(told['demo'])}"
    rules = told["rules"]
    parts: list[Any] = [
        Text(title, style="bold"),
        *_alarms(told),
        Text(f"rules {rules['name']}, version of {rules['effective']} ({rules['source']})", style="dim"),
        _money_line(told),
        _gauges(told),
        *_progress_lines(told),
        _next_line(told["next_trade"]),
        _roll_line(told["day"], now),
    ]
    if told["set_by_hand"]:
        parts.append(_set_line(told["set_by_hand"]))
    parts.append(_positions_table(told) if told["positions"] else Text("no open position"))
    return Group(*parts)


def readings_block(readings: Sequence[Row], *, demo: bool) -> Group | Text:
    """The readings of the real account, newest first; the first is the one that the account is replayed from."""
    if not readings:
        return Text(
            f"no balance was set by hand{_demo(demo)}: the account is replayed from V7_ACCOUNT_INITIAL_USD "
            "(v7 account set --balance …)"
        )
    table = Table(title=f"ACCOUNT READINGS{_demo(demo)}", title_justify="left", expand=False)
    for name in ("at", "age", "known from", "balance", "equity", "day's start", "note"):
        table.add_column(name, justify="right" if name in ("balance", "equity", "day's start") else "left")
    for row in readings:
        table.add_row(
            time_text(row["at"]), duration(row["age_s"]), time_text(max(row["at"], row["recorded_at"])),
            usd_text(row["balance_usd"]), usd_text(row["equity_usd"]), usd_text(row["day_start_usd"]),
            Text(row["note"] or MISSING),
        )  # fmt: skip
    return Group(table, Text("The newest is what the account is replayed from."))


def simulation_block(found: Simulation, record: DayRecord, rules: RuleSet, *, demo: bool, marks: str = "") -> Group:
    """What became of the simulated accounts: probabilities with intervals and n, days, and what must be known."""
    title = f"SIMULATED CHALLENGE {rules.name}{_demo(demo)}{marks}"
    table = Table(title=title, title_justify="left", expand=False)
    for name in ("within " + _days(found.days), "probability", "95 % interval", ""):
        table.add_column(name, justify="right" if name in ("probability", "95 % interval") else "left")
    rows: list[tuple[str, Chance | None, str]] = [
        ("passes", found.passed, _GOOD),
        ("breaks the daily limit", found.daily, _BAD),
        ("breaks the total limit", found.total, _BAD),
        ("neither" if found.passed else "survives", found.neither, _WARN if found.passed else _GOOD),
    ]
    for name, chance, style in rows:
        if chance is None:
            table.add_row(name, MISSING, MISSING, "the rules have no target")
            continue
        interval = f"{percent_text(chance.lower)} … {percent_text(chance.upper)}"
        if chance is found.daily and not found.days_beyond_daily:
            interval = MISSING  # days are drawn whole: the record cannot tell
        table.add_row(name, percent_text(chance.probability), interval, _bar(chance.probability, style))
    broken = found.daily_by_day[-1] + found.total_by_day[-1]
    lines = [
        f"days it takes to pass: {_points(found.days_to_pass, found.passed_by_day[-1], found.runs)} · "
        f"to break a limit: {_points(found.days_to_breach, broken, found.runs)}",
        f"n = {found.trades} closed trades, {found.trading_days} trading days of {found.recorded_days} days from "
        f"{record.first_day}; {found.runs:,} runs in circular blocks of {_days(found.block)}, seed {found.seed}",
        f"Intervals: the record itself drawn {OUTER} times with {INNER} runs each; they shrink with recorded days, "
        "not with runs.",
    ]
    return Group(table, *map(Text, lines), *(Text(note, style=_WARN) for note in _cautions(found, record)))


def save_picture(found: Simulation, rules: RuleSet, path: Path, *, initial_usd: float, demo: bool) -> None:
    """Write a PNG: the balance's 10, 50 and 90 % by day with the limits, and the shares that passed or broke one."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    day = np.arange(found.days + 1)
    low, middle, high = initial_usd * found.equity.T
    figure = Figure(figsize=(9, 5.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    fan, shares = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    fan.fill_between(day, low, high, color=_QUIET, alpha=0.22, linewidth=0, label="10 % to 90 % of the runs")
    fan.plot(day, middle, color=_INK, linewidth=1.6, label="median")
    floor = (1.0 - rules.max_loss) * initial_usd
    fan.axhline(floor, color=_DOWN, linewidth=1.1, label="total limit" + (", at its start" if rules.trailing else ""))
    if rules.profit_target is not None:
        target = (1.0 + rules.profit_target) * initial_usd
        fan.axhline(target, color=_UP, linewidth=1.1, linestyle="--", label="target")
    fan.set_ylabel("balance, USD", fontsize=9)
    fan.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    fan.set_title(_picture_title(found, demo), fontsize=10, loc="left")
    shares.stackplot(
        day, found.passed_by_day, found.daily_by_day, found.total_by_day, colors=(_UP, _DOWN, _DARK), alpha=0.75,
        labels=("passed", "broke the daily limit", "broke the total limit"),
    )  # fmt: skip
    shares.set_ylim(0, 1)
    shares.set_xlim(0, found.days)
    shares.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    shares.set_ylabel("share of the runs", fontsize=9)
    shares.set_xlabel("days", fontsize=9)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    for axis in (fan, shares):
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    if demo:
        figure.text(0.5, 0.6, "DEMO", fontsize=64, color=_DEMO, alpha=0.2, ha="center", va="center", rotation=14)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def duration(seconds: float) -> str:
    """A length of time to the minute: 3 d 2 h, 3 h 12 min, 5 min."""
    minutes = int(max(seconds, 0.0)) // 60
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _alarms(told: Row) -> list[Text]:
    """What a person must see first: gates that are off, halts, breaches."""
    lines = []
    if told["gates_off"]:
        lines.append(f"GATES OFF: {', '.join(told['gates_off'])}")
    for halt in told["halts"]:
        until = f"until {time_text(halt['until'])}" if halt["until"] else "until v7 resume"
        lines.append(f"HALT ({halt['kind']}) since {time_text(halt['started_at'])}, {until}: {halt['reason']}")
    if told["breached"]:
        lines.append(f"BREACHED: the {told['breached']} limit was broken at {time_text(told['breached_at'])}")
    elif told["first_breach_at"]:
        lines.append(f"A limit was broken before, first at {time_text(told['first_breach_at'])}")
    return [Text(line, style="bold red") for line in lines]


def _money_line(told: Row) -> Text:
    floating = told["equity_usd"] - told["balance_usd"]
    return Text(
        f"balance {usd_text(told['balance_usd'])} · equity {usd_text(told['equity_usd'])} "
        f"({usd_text(floating, sign=True)} open) · started with {usd_text(told['initial_usd'])} · "
        f"prices of {time_text(told['prices_as_of'])}"
    )


def _gauges(told: Row) -> Table:
    """Room above both limits and the way to the target; ╎ marks the least room since midnight."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(min_width=_WIDTH, no_wrap=True)
    grid.add_column()
    for name in ("daily", "total"):
        gauge = told[name]
        told_in_words = (
            f"{usd_text(gauge['room_usd'])} of {usd_text(gauge['allowance_usd'])} left "
            f"({percent_text(gauge['room_share'], 0)}), limit {usd_text(gauge['limit_usd'])}; least since midnight "
            f"{usd_text(gauge['worst_room_usd'])} ({percent_text(gauge['worst_room_share'], 0)})"
        )
        grid.add_row(
            f"{name} room", _bar(gauge["room_share"], _colour(gauge["room_share"]), gauge["worst_room_share"]),
            Text(told_in_words),
        )  # fmt: skip
    target = told["target"]
    if target:
        made = told["balance_usd"] - told["initial_usd"]
        words = (
            f"{usd_text(made)} of {usd_text(target['profit_usd'])} ({percent_text(target['progress'], 0)}), "
            f"{usd_text(target['left_usd'])} to go"
        )
        grid.add_row("target", _bar(target["progress"], _GOOD), Text(words))
    return grid


def _bar(share: float, style: str, mark: float | None = None) -> Text:
    """A gauge of `share`, cut at empty and full, with ╎ at `mark` where it lies lower."""
    full = round(_WIDTH * min(max(share, 0.0), 1.0))
    cells = ["█"] * full + ["░"] * (_WIDTH - full)
    text = Text("".join(cells))
    text.stylize(style, 0, full)
    if mark is not None and mark < share - 0.5 / _WIDTH:
        at = min(_WIDTH - 1, int(_WIDTH * min(max(mark, 0.0), 1.0)))
        text = Text.assemble(text[:at], ("╎", "bold"), text[at + 1 :])
    return text


def _colour(share: float) -> str:
    return _GOOD if share > 0.5 else _WARN if share > 0.2 else _BAD


def _progress_lines(told: Row) -> list[Text]:
    least = told["min_trading_days"]
    days = f"trading days {told['trading_days']}" + (f" of at least {least}" if least else "")
    best = f"best day {usd_text(told['best_day_usd'])}"
    if told["best_day_share"] is not None:
        best += f", {percent_text(told['best_day_share'], 0)} of what the good days made"
    if told["best_day_limit"] is not None:
        best += f" (at most {percent_text(told['best_day_limit'], 0)} to pass)"
    passable = {True: " · may pass now", False: " · cannot pass yet", None: ""}[told["passable"]]
    return [Text(f"{days} · {best}{passable}")]


def _next_line(told: Row) -> Text:
    """What the next trade may lose at its stop, and what decides it."""
    left = f"{usd_text(told['room_left_usd'])} left after open and waiting worst cases and the buffer of "
    left += usd_text(told["buffer_usd"])
    bound = {
        "risk_per_trade": "the risk per trade",
        "room": "the room",
        "halt": "a halt is in force",
    }.get(told["bound_by"])
    if bound is None:
        bound = "; ".join(f"{code}: {explain(code).meaning}" for code in told["bound_by"].split(","))
    return Text.assemble("next trade may risk ", (usd_text(told["usd"]), "bold"), f" ({bound}; {left})")


def _roll_line(day: Row, now: datetime) -> Text:
    ends: datetime = day["ends_at"]
    there, here = ends.astimezone(ZoneInfo(day["timezone"])), ends.astimezone()
    wait = (ends - now).total_seconds()
    when = f"in {duration(wait)}" if wait > 0 else f"{duration(-wait)} ago"
    return Text(
        f"the day rolls at {ends:%Y-%m-%d %H:%M} UTC = {there:%H:%M} {day['timezone']} = {here:%H:%M} {here:%Z} here, "
        f"{when}"
    )


def _set_line(told: Row) -> Text:
    words = (
        f"balance set by hand to {usd_text(told['balance_usd'])} as of {time_text(told['at'])}, "
        f"{duration(told['age_s'])} ago"
    )
    if told["equity_usd"] is not None:
        words += f", equity {usd_text(told['equity_usd'])}"
    if told["unexplained_usd"]:
        words += f", of which {usd_text(told['unexplained_usd'])} is in positions that are not known here"
    return Text(words)


def _positions_table(told: Row) -> Group:
    title = f"OPEN POSITIONS of {told['strategy']} as the newest scan left them{_demo(told['demo'])}"
    table = Table(title=title, title_justify="left", expand=False)
    for name in ("signal", "side", "quantity", "entry", "price", "stop", "floating", "loss at stop"):
        table.add_column(name, justify="left" if name in ("signal", "side") else "right", overflow="fold")
    for row in told["positions"]:
        table.add_row(
            row["signal_id"], row["side"], number_text(row["quantity"], 6), price_text(row["entry_price"]),
            price_text(row["price"]), price_text(row["stop_price"]), usd_text(row["floating_usd"], sign=True),
            usd_text(row["loss_at_stop_usd"]),
        )  # fmt: skip
    risk = (
        f"all stopped out costs {usd_text(told['open_risk_usd'])} from the equity now; "
        f"waiting for their fill: {usd_text(told['pending_risk_usd'])}; margin left {usd_text(told['free_margin_usd'])}"
    )
    return Group(table, Text(risk))


def _cautions(found: Simulation, record: DayRecord) -> list[str]:
    """What the figures cannot say."""
    notes = []
    if not found.days_beyond_daily:
        notes.append(
            "No recorded day breaks the daily limit, and days are drawn whole, so no simulated one does: "
            "that it never happened is not that it cannot."
        )
    if record.without_mae:
        notes.append(
            f"{record.without_mae} of the trades have no recorded excursion; their worst point is their result."
        )
    return notes


def _picture_title(found: Simulation, demo: bool) -> str:
    parts = [f"passed {found.passed.probability:.0%}"] if found.passed else []
    parts += [f"daily limit {found.daily.probability:.0%}", f"total limit {found.total.probability:.0%}"]
    told = f"{found.rules}: {', '.join(parts)} · n = {found.trades} trades on {found.trading_days} days"
    return f"DEMO · {told}" if demo else told


def _points(points: tuple[int, int, int] | None, share: float, runs: int) -> str:
    if points is None:
        return MISSING
    low, middle, high = points
    return f"median {middle} (10–90 %: {low} … {high}, n = {round(share * runs):,} runs)"


def _days(n: int) -> str:
    return "1 day" if n == 1 else f"{n} days"


def _demo(demo: bool) -> str:
    return " — DEMO" if demo else ""
