"""`v7 winrate` and `v7 calibration`: what closed outcomes say of the signals and of the analyst's confidence.

Figures come from scan/learn.py, the picture from orchestration/learnt.py; here they are only shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from v7_pipeline.cli_common import Demo, UsageProblemError, json_text, settings_of, store_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from v7_pipeline.learning.calibration import Calibration
    from v7_pipeline.settings import Settings

__all__ = ["app"]

app = typer.Typer(rich_markup_mode="markdown")

Json = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")]
Source = Annotated[
    Literal["live", "demo", "backfill", "backtest"] | None, typer.Option(help="Whose outcomes. Default: by mode.")
]
MISSING = "–"
STRATEGY = "v7"


@app.command(epilog="Examples: `v7 winrate` · `v7 winrate --demo --json` · `v7 winrate --source backfill`")
def winrate(as_json: Json = False, source: Source = None, demo: Demo = None) -> None:
    """Win rates by scope with interval and n, shrunk towards the whole, and the learnt confidence threshold."""
    import pandas as pd

    from v7_pipeline.scan.learn import closed_outcomes, held_outcomes, threshold_history, win_rates_at

    settings = settings_of(demo)
    chosen, now = source or settings.source, datetime.now(UTC)
    with store_of(settings).reading() as reader:
        known = closed_outcomes(reader, source=chosen, as_of=now)
        held = held_outcomes(reader, source=chosen, as_of=now)
        changes = threshold_history(reader, strategy=STRATEGY, source=chosen, as_of=now)
    rates = win_rates_at(known, settings, now, held=held)
    for strategy in sorted(set(known.loc[known["kind"] != "manual", "strategy"]) - {STRATEGY}):
        own = win_rates_at(known, settings, now, strategy=strategy)
        rates = pd.concat([rates, own], ignore_index=True) if len(own) else rates
    even = int((known["outcome"] == "breakeven").sum())
    if as_json:
        scopes = rates.drop(columns="as_of").to_dict("records")
        told = {**_marks(settings, chosen, now), "breakevens_not_counted": even, "scopes": scopes}
        typer.echo(json_text({**told, "floor": settings.min_confidence, "threshold_changes": changes}))
        return
    from rich.text import Text

    from v7_pipeline.console import out

    console = out()
    console.print(_rates_table(rates, _title("WIN RATES", settings, chosen, now)))
    for line in (_how(settings, even), *_threshold_lines(settings, changes)):
        console.print(Text(line))


@app.command(
    epilog="Examples: `v7 calibration` · `v7 calibration --demo --json` · "
    "`v7 calibration --picture reliability.png --scope analyst:rules`"
)
def calibration(
    as_json: Json = False,
    picture: Annotated[Path | None, typer.Option(help="Where a PNG of the reliability diagram goes.")] = None,
    scope: Annotated[str, typer.Option(help="The scope of the bins and the picture, as the table names it.")] = "all",
    source: Source = None,
    demo: Demo = None,
) -> None:
    """How well the confidence tells wins from losses: Brier score and parts, skill, slope, bins with intervals."""
    from v7_pipeline.scan.learn import calibrations_at, closed_outcomes

    settings = settings_of(demo)
    chosen, now = source or settings.source, datetime.now(UTC)
    with store_of(settings).reading() as reader:
        known = closed_outcomes(reader, source=chosen, as_of=now)
        found = calibrations_at(reader, known, settings, now)
    shown = next((one for one in found if one.scope == scope), None)
    if shown is None:
        known_scopes = ", ".join(one.scope for one in found)
        raise UsageProblemError(f"--scope {scope!r} has no outcome of source {chosen}; there are {known_scopes}")
    if picture is not None:
        _draw(shown, picture, demo=settings.mode == "demo")
    if as_json:
        scopes = [dataclasses.asdict(one) for one in found]
        typer.echo(json_text({**_marks(settings, chosen, now), "picture": picture and str(picture), "scopes": scopes}))
        return
    from rich.text import Text

    from v7_pipeline.console import out

    console = out()
    console.print(_scores_table(found, _title("CALIBRATION", settings, chosen, now)))
    for one in found:
        console.print(Text(f"{one.scope}: {one.words}"))
    if shown.bins:
        console.print(_bins_table(shown))
    if picture is not None:
        console.print(f"picture  {picture}", markup=False, soft_wrap=True)


def _draw(found: Calibration, place: Path, *, demo: bool) -> None:
    from v7_pipeline.orchestration.charts import reliability_png

    if not found.bins:
        raise UsageProblemError(f"--picture {place}: nothing to draw, {found.words}")
    title = f"{found.scope}: {found.n} outcomes, worth {found.n_eff:.1f}"
    drawn = reliability_png([dataclasses.asdict(one) for one in found.bins], title, demo=demo)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(drawn)
    except OSError as error:
        raise UsageProblemError(f"--picture {place} cannot be written: {error.strerror}; name another file") from None


def _rates_table(rates: pd.DataFrame, title: str) -> Table:
    table = _table(title, ("scope", "n", "worth", "win rate", "95 %", "shrunk", "95 %", "towards"))
    for row in rates.to_dict("records"):
        table.add_row(
            row["scope"], str(row["n"]), f"{row['n_eff']:.1f}", _percent(row["mean"]),
            _between(row["lower"], row["upper"]), _percent(row["shrunk_mean"]),
            _between(row["shrunk_lower"], row["shrunk_upper"]), row["parent_scope"] or MISSING,
        )  # fmt: skip
    return table


def _scores_table(found: Sequence[Calibration], title: str) -> Table:
    names = ("n", "worth", "won", "confidence", "Brier", "= REL", "− RES", "+ UNC", "log loss", "ECE")
    table = _table(title, ("scope", *names, "skill (95 %)", "slope", "recalibrated"))
    for one in found:
        skill = (
            MISSING if math.isnan(one.skill) else f"{one.skill:+.3f} ({one.skill_lower:+.2f} … {one.skill_upper:+.2f})"
        )
        parts = (one.brier.score, one.brier.reliability, one.brier.resolution, one.brier.uncertainty)
        table.add_row(
            one.scope, str(one.n), f"{one.n_eff:.1f}", _percent(one.base_rate), _percent(one.mean_confidence),
            *(_number(part, 4) for part in parts), _number(one.log_loss, 3), _number(one.ece, 3), skill,
            _number(one.slope, 2), MISSING if math.isnan(one.recalibrated_brier) else
            f"{one.recalibrated_brier:.4f} ({one.method})",
        )  # fmt: skip
    return table


def _bins_table(found: Calibration) -> Table:
    table = _table(f"RELIABILITY {found.scope}", ("confidence", "n", "worth", "mean confidence", "won", "95 %"))
    for one in found.bins:
        table.add_row(
            f"{one.lower:.2f} … {one.upper:.2f}", str(one.n), f"{one.n_eff:.1f}", _percent(one.confidence),
            _percent(one.rate), _between(one.rate_lower, one.rate_upper),
        )  # fmt: skip
    return table


def _how(settings: Settings, even: int) -> str:
    half = settings.win_rate_half_life
    discount = "no discount" if half is None else f"half-life {half:g} trades"
    return (
        f"prior Beta({settings.prior_alpha:g}, {settings.prior_beta:g}), {discount}; overlapping trades share weight; "
        f"{even} breakeven{'' if even == 1 else 's'} not counted; beside paper trades: shadow (refused), hold (not "
        "taken), manual"
    )


def _threshold_lines(settings: Settings, changes: Sequence[dict[str, Any]]) -> list[str]:
    if not changes:
        return [f"confidence threshold {settings.min_confidence:.2f}: the floor; nothing has been learnt yet"]
    acting = max(changes[0]["threshold"], settings.min_confidence)
    lines = [f"confidence threshold {acting:.2f} (floor {settings.min_confidence:.2f})"]
    return lines + [f"  {one['as_of']:%Y-%m-%d %H:%M}Z  {one['threshold']:.2f}  {one['reason']}" for one in changes]


def _title(what: str, settings: Settings, source: str, now: datetime) -> str:
    return f"{what} {now:%Y-%m-%d %H:%M}Z ({source})" + (" — DEMO" if settings.mode == "demo" else "")


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", expand=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", no_wrap=not place)
    return table


def _percent(share: float) -> str:
    return MISSING if math.isnan(share) else f"{100 * share:.1f} %"


def _between(lower: float, upper: float) -> str:
    return MISSING if math.isnan(lower) else f"{100 * lower:.1f} … {100 * upper:.1f}"


def _number(value: float, digits: int) -> str:
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def _marks(settings: Settings, source: str, now: datetime) -> dict[str, Any]:
    return {"demo": settings.mode == "demo", "source": source, "as_of": now.isoformat(timespec="seconds")}
