"""The report as a page and as data: one HTML file that needs nothing else, and the same figures as JSON.

Only words, tables and where things stand; figures.py reckons, charts.py draws, verdict.py concludes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v7_pipeline.backtest.beside import Beside, beside
from v7_pipeline.backtest.charts import SCATTER, charts
from v7_pipeline.backtest.figures import Figures
from v7_pipeline.backtest.risk import Item
from v7_pipeline.backtest.verdict import verdict
from v7_pipeline.trades import fee_preset

__all__ = ["as_json", "html", "item_table", "value_text", "write_report"]

MISSING = "–"
#: Figures that cannot be a gain or a loss, or turn the sign.
_UNSIGNED = ("volatility", "var_95", "cvar_95")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_RIVAL_COLUMNS = (
    ("total_return", "net return"), ("volatility", "volatility"), ("sharpe", "Sharpe"),
    ("max_drawdown", "max drawdown"), ("total_pnl", "closed trades"), ("win_rate", "win rate"),
    ("mean_r", "mean R"),
)  # fmt: skip


def html(found: Figures) -> str:
    """The report as one HTML page: plotly.js and all data inside, no address outside. Some 5 MB, nearly all plotly."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("v7_pipeline.backtest"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        title=_title(found),
        found=found,
        demo=found.material.is_demo,
        verdict=verdict(found),
        facts=_facts(found),
        rival_head=[label for _, label in _RIVAL_COLUMNS],
        rivals=_rivals(found),
        meanings=[(one.name, one.meaning) for one in found.rivals],
        sections={name: [_row(item) for item in items] for name, items in found.sections.items()},
        months=_months(found),
        tables=_tables(found),
        beside=[_beside_row(row) for row in beside(found)],
        scatter_note=_scatter_note(found),
        charts=_in_script(charts(found)),
        plotly=_plotly(),
    )


def as_json(found: Figures, *, indent: int | None = 1) -> str:
    """The same figures as JSON: missing is null, never NaN; instants are ISO 8601 in UTC."""
    told = found.material
    sim = told.simulation
    drawn = told.random_entry
    content = {
        "run_id": told.run_id,
        "code_version": told.code_version,
        "command": told.command,
        "demo": told.is_demo,
        "venues": told.venues,
        "strategy": sim.name,
        "first": found.first,
        "last": found.last,
        "every_minutes": told.every.total_seconds() / 60,
        "fees": sim.settings.fees,
        "slippage": sim.settings.slippage,
        "initial_usd": sim.settings.account_initial_usd,
        "verdict": {**asdict(verdict(found)), "lines": verdict(found).lines},
        "sections": {name: [asdict(item) for item in items] for name, items in found.sections.items()},
        "baselines": [
            {
                "name": one.name,
                "meaning": one.meaning,
                "figures": [asdict(item) for item in one.items.values()],
                "difference": asdict(one.difference),
                "daily": one.daily,
            }
            for one in found.rivals
        ],
        "absent_baselines": [{"name": name, "why": why} for name, why in told.absent],
        "random_entry": None
        if drawn is None
        else {k: v for k, v in asdict(drawn).items() if k not in ("mean_r", "net_usd")},
        "daily": found.daily,
        "months": found.months,
        "funnel": found.funnel,
        "gates": found.gates,
        "reasons": found.reasons,
        "groups": found.groups,
        "calibration": asdict(found.calibration),
        "attribution": {"note": found.attributed.note, "rows": found.attributed.rows},
        "gaps": {"symbols": found.gaps.symbols, "silences": found.gaps.silences, "count": found.gaps.count},
        "quantstats": [asdict(row) for row in beside(found)],
    }
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)


def write_report(found: Figures, folder: Path, name: str) -> tuple[Path, Path]:
    """Write `name`.html and `name`.json into `folder`, each at once or not at all; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in ((".html", html(found)), (".json", as_json(found))):
        path = folder / f"{name}{suffix}"
        beside_it = path.with_name(f".{path.name}.part")
        beside_it.write_text(text, encoding="utf-8")
        beside_it.replace(path)
        written.append(path)
    return written[0], written[1]


def item_table(items: Sequence[Item]) -> list[tuple[str, str, str, str, str]]:
    """Figures as rows of text: what, value, 95 % interval, n (worth), note."""
    return [_row(item) for item in items]


def value_text(value: float, unit: str, *, signed: bool = True) -> str:
    """A value in its unit as a person reads it, gains with a + unless not `signed`; – where it is missing."""
    if value is None or not isfinite(value):
        return MISSING
    sign = "+" if signed else ""
    if unit in ("fraction", "fraction a year"):
        return f"{value:{sign}.2%}"
    if unit == "fraction a day":
        return f"{value:{sign}.3%}"
    if unit == "share":
        return f"{value:.1%}"
    if unit == "probability":
        return f"{value:.3f}"
    if unit == "USD":
        return f"{value:,.0f} USD" if abs(value) >= 100 else f"{value:,.2f} USD"
    if unit == "R":
        return f"{value:+.3f} R"
    if unit in ("trades", "configurations"):
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
    if unit in ("days", "min"):
        return f"{value:,.1f} {unit}"
    return f"{value:,.2f}" + ("" if unit == "ratio" else f" {unit}")


def _row(item: Item) -> tuple[str, str, str, str, str]:
    n = f"{item.n:,}" + (f" ({item.n_eff:,.1f})" if isfinite(item.n_eff) else "")
    return item.label, _value(item), _interval(item), n, item.note


def _value(item: Item) -> str:
    return value_text(item.value, item.unit, signed=item.name not in _UNSIGNED)


def _interval(item: Item) -> str:
    if not item.has_interval:
        return MISSING
    lower, upper = (value_text(end, item.unit, signed=item.name not in _UNSIGNED) for end in (item.lower, item.upper))
    return _span(lower, upper)


def _span(lower: str, upper: str) -> str:
    """Two ends with the unit behind the second only."""
    unit = upper.rpartition(" ")[1:]
    return f"{lower.removesuffix(''.join(unit)) if unit[0] else lower} … {upper}"


def _title(found: Figures) -> str:
    return f"Backtest of {found.material.simulation.name}, {found.first:%Y-%m-%d} to {found.last:%Y-%m-%d}"


def _facts(found: Figures) -> list[tuple[str, str]]:
    told, sim = found.material, found.material.simulation
    settings = sim.settings
    symbols = sorted(set(sim.signals["symbol"]))
    analysts = sorted(set(sim.signals["analyst"].dropna())) if "analyst" in sim.signals.columns else []
    minutes = told.every.total_seconds() / 60
    facts = [
        ("span", f"{found.first:%Y-%m-%d %H:%M}Z … {found.last:%Y-%m-%d %H:%M}Z"),
        ("scans", f"{len(sim.instants):,}, every {minutes:g} min"),
        ("symbols", ", ".join(symbols)),
        ("analyst", ", ".join(analysts) or MISSING),
        ("candles", ", ".join(told.venues) + (" (DEMO, simulated)" if told.is_demo else " (real)")),
        ("fees", f"{settings.fees}: {fee_preset(settings.fees).rate_per_side:.4%} a side"),
        ("slippage", f"{settings.slippage:.4%} a market fill"),
        ("account", f"{settings.account_initial_usd:,.0f} USD, {settings.risk_per_trade:.2%} at risk a trade"),
        ("run", told.run_id),
        ("code", told.code_version),
    ]
    return [*facts, ("made by", told.command)] if told.command else facts


def _rivals(found: Figures) -> list[dict[str, Any]]:
    """Rows of the table that the page leads with: the strategy, then each baseline."""
    own = {item.name: item for item in found.items()}
    sim = found.material.simulation
    standings = {one.name: one for one in verdict(found).standings}
    meaning = "what this report is about"
    first = {
        "name": sim.name,
        "meaning": meaning,
        "own": True,
        "cells": _cells(own, found.told.closed),
        "gap": "",
        "word": "",
    }
    rows = [first]
    for rival in found.rivals:
        word = standings[rival.name].word
        rows.append(
            {
                "name": rival.name,
                "meaning": rival.meaning,
                "own": False,
                "cells": _cells(rival.items, None),
                "gap": _bp(rival.difference.value),
                "ends": _bp_ends(rival.difference),
                "word": {"beats": "beaten", "is beaten by": "ahead of us", "cannot be told from": "not told apart"}.get(
                    word, "too few days"
                ),
            }
        )
    return rows


def _cells(items: dict[str, Item], closed: int | None) -> list[dict[str, str]]:
    cells = []
    for name, _ in _RIVAL_COLUMNS:
        item = items[name]
        n = item.n if closed is None or name != "total_pnl" else closed
        hint = f"95 % {_interval(item)}" if item.has_interval else item.note or "no interval"
        count = f"n = {n:,}" if item.known else ""
        cells.append({"text": _value(item), "hint": hint, "n": count, "sub": _interval(item)})
    return cells


def _bp(value: float) -> str:
    """A fraction in hundredths of a percent."""
    return f"{value * 1e4:+.1f} bp" if isfinite(value) else MISSING


def _bp_ends(gap: Item) -> str:
    return f"{gap.lower * 1e4:+.1f} … {gap.upper * 1e4:+.1f}" if gap.has_interval else f"n = {gap.n} days"


def _months(found: Figures) -> list[dict[str, Any]]:
    """Years of twelve cells: text, days and how strongly they are coloured."""
    known = {row.month: row for row in found.months.itertuples()}
    strongest = max((abs(float(row.net_return)) for row in known.values()), default=0.0) or 1.0
    years = []
    for year in sorted({month[:4] for month in known}):
        cells = []
        for number in range(1, 13):
            row = known.get(f"{year}-{number:02d}")
            if row is None:
                cells.append({"text": "", "days": "", "shade": "", "kind": ""})
                continue
            value = float(row.net_return)
            shade = f"{0.12 + 0.55 * abs(value) / strongest:.2f}"
            kind = "up" if value > 0 else "down" if value < 0 else ""
            cells.append({"text": f"{value:+.2%}", "days": f"{row.days} d", "shade": shade, "kind": kind})
        own = [row for month, row in known.items() if month.startswith(year)]
        total = float(np.prod([1.0 + row.net_return for row in own])) - 1.0
        years.append({"year": year, "cells": cells, "total": f"{total:+.2%}"})
    return [{"head": _MONTHS, "years": years}]


def _tables(found: Figures) -> dict[str, dict[str, Any]]:
    """The plain tables: head and rows of text, by name."""
    rows = found.attributed.rows
    attribution = [
        (
            str(r["theory_name"]).replace("_", " "), f"{int(r['n']):,} ({_num(r['n_eff'], 1)})", _num(r["accuracy"], 3),
            _between(r["accuracy_lower"], r["accuracy_upper"], 2), _num(r["ic"], 3),
            _between(r["ic_lower"], r["ic_upper"], 2), _num(r["shapley"], 4), _num(r["holm_p"], 3), str(r["verdict"]),
        )
        for r in rows.to_dict("records")
    ]  # fmt: skip
    c = found.calibration
    calibrated = [
        ("Brier score", _num(c.brier.score, 4), "reliability, resolution, uncertainty: "
         f"{_num(c.brier.reliability, 4)}, {_num(c.brier.resolution, 4)}, {_num(c.brier.uncertainty, 4)}"),
        ("skill against the past's win rate", _num(c.skill, 4), f"95 % {_between(c.skill_lower, c.skill_upper, 3)}"),
        ("log-loss", _num(c.log_loss, 4), "nats"),
        ("expected calibration error", _num(c.ece, 4), "above 0 by chance alone"),
        ("slope and intercept of log-odds", f"{_num(c.slope, 2)}, {_num(c.intercept, 2)}", "1 and 0 where calibrated"),
        ("base rate, mean confidence", f"{_num(c.base_rate, 3)}, {_num(c.mean_confidence, 3)}", ""),
    ]  # fmt: skip
    groups = [
        (
            g["by"], g["name"], f"{g['n']:,} ({g['n_eff']:.1f})", value_text(g["win_rate"], "share"),
            _ends(g, "win_rate", "share"), value_text(g["mean_r"], "R"), _ends(g, "mean_r", "R"),
            value_text(g["net_usd"], "USD"), "" if g["enough"] else "too few to conclude from",
        )
        for g in found.groups.to_dict("records")
    ]  # fmt: skip
    gaps = found.gaps
    return {
        "attribution": {
            "head": ("theory", "votes (worth)", "right", "95 %", "IC", "95 %", "Shapley, R", "Holm p", "verdict"),
            "rows": attribution,
        },
        "calibration": {"head": ("figure", "value", "note"), "rows": calibrated},
        "groups": {
            "head": ("by", "", "n (worth)", "win rate", "95 %", "mean R", "95 %", "net", ""),
            "rows": groups,
        },
        "funnel": {"head": ("stage", "n", "meaning"), "rows": _text_rows(found.funnel)},
        "gates": {"head": ("gate", "asked", "passed", "failed", "alone"), "rows": _text_rows(found.gates)},
        "reasons": {"head": ("reason", "n"), "rows": _text_rows(found.reasons)},
        "gaps": {
            "head": ("symbol", "minutes", "candles", "missing", "share missing"),
            "rows": [
                (r.symbol, f"{r.due:,}", f"{r.candles:,}", f"{r.missing:,}", f"{r.share:.3%}")
                for r in gaps.symbols.itertuples()
            ],
        },
        "silences": {
            "head": ("symbol", "first missing minute", "last", "minutes", "whose"),
            "rows": [
                (r.symbol, f"{r.first:%Y-%m-%d %H:%M}Z", f"{r.last:%Y-%m-%d %H:%M}Z", f"{r.minutes:,}",
                 "all symbols: the venue" if r.shared else "this symbol alone")
                for r in gaps.silences.itertuples()
            ],
        },
    }  # fmt: skip


def _text_rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        tuple(f"{v:,}" if isinstance(v, int | np.integer) else str(v) for v in row)
        for row in frame.itertuples(index=False, name=None)
    ]


def _ends(row: dict[str, Any], name: str, unit: str) -> str:
    lower, upper = row[f"{name}_lower"], row[f"{name}_upper"]
    return _span(value_text(lower, unit), value_text(upper, unit)) if isfinite(lower) and isfinite(upper) else MISSING


def _num(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value is not None and isfinite(value) else MISSING


def _between(lower: float, upper: float, digits: int) -> str:
    return f"{lower:.{digits}f} … {upper:.{digits}f}" if isfinite(lower) and isfinite(upper) else MISSING


def _beside_row(row: Beside) -> tuple[str, str, str, str]:
    ours, theirs = (value_text(v, row.unit, signed=row.name not in _UNSIGNED) for v in (row.ours, row.theirs))
    return row.label, ours, theirs, row.why or "the same definition"


def _scatter_note(found: Figures) -> str:
    n = len(found.trades)
    return "" if n <= SCATTER else f"Every {-(-n // SCATTER)}th of {n:,} trades is drawn."


@cache
def _plotly() -> str:
    """plotly.js, as the installed plotly brings it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _in_script(content: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")


def _plain(value: Any) -> Any:
    """The value as JSON has it: frames as lists of rows, instants as text, what is not finite as null."""
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, datetime):
        return pd.Timestamp(value).tz_convert("UTC").isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if isfinite(float(value)) else None
    return str(value)
