"""The figures of `v7 stats`: each with its n and an interval, of one source, strategy and kind of outcome.

Only sums over outcomes; win-rate posteriors and theories have files of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np
import pandas as pd

from v7_pipeline.learning.frames import instants, one_source, require
from v7_pipeline.learning.statistics import average_uniqueness, mean_interval, wilson

__all__ = ["Figure", "Summary", "summary"]

_NEEDED = (
    "kind", "strategy", "outcome", "exit_reason", "ambiguous", "entry_time", "exit_time", "net_return",
    "r_multiple", "pnl_usd",
)  # fmt: skip
_SAID = {"share": "", "fraction a trade": "a trade"}  # both are printed as percent


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its value, 95 % interval, the outcomes behind it and how many independent ones they equal.

    NaN is missing: too few outcomes for the value or for an interval.
    """

    name: str
    unit: str
    value: float
    lower: float
    upper: float
    n: int
    n_eff: float

    def __str__(self) -> str:
        """One line: name, value, interval, n; missing is –."""
        name = self.name.replace("_", " ")
        return (
            f"{name:<16} {self._text(self.value):>10}   95 % in {self._text(self.lower)} … {self._text(self.upper)}"
            f"   n = {self.n} (worth {self.n_eff:.1f})   {_SAID.get(self.unit, self.unit)}"
        ).rstrip()

    def _text(self, value: float) -> str:
        if not np.isfinite(value):
            return "–"
        if self.unit in ("share", "fraction a trade"):
            return f"{100 * value:.{1 if self.unit == 'share' else 3}f} %"
        return f"{value:,.2f}"


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts, figures and a verdict of closed outcomes."""

    kind: str
    source: str | None
    strategy: str | None
    closed: int
    open: int
    wins: int
    losses: int
    breakevens: int
    figures: tuple[Figure, ...]
    verdict: Literal["too few", "profitable", "losing", "indistinguishable from zero"]
    minimum_n: int

    def figure(self, name: str) -> Figure:
        """The figure called `name`; KeyError where there is none."""
        for entry in self.figures:
            if entry.name == name:
                return entry
        raise KeyError(f"no figure {name!r}; there are {', '.join(entry.name for entry in self.figures)}")

    def __str__(self) -> str:
        """A few lines of plain text: whose outcomes, counts, each figure, the verdict."""
        whose = " ".join(part for part in (self.strategy, self.source, self.kind) if part)
        counts = f"{self.closed} closed ({self.wins} won, {self.losses} lost, {self.breakevens} even), {self.open} open"
        verdict: str = self.verdict
        if verdict == "too few":
            verdict += f" outcomes for a verdict (fewer than {self.minimum_n} independent ones)"
        return "\n".join([f"{whose}: {counts}", *map(str, self.figures), f"verdict: {verdict}"])


def summary(outcomes: pd.DataFrame, *, kind: str = "paper", minimum_n: int = 30) -> Summary:
    """Figures of the `kind` outcomes in `outcomes` (rows of that table), each with its n and 95 % interval.

    Overlapping trades share weight: intervals rest on the effective n (summed average uniqueness). win_rate:
    wins ÷ (wins + losses), Wilson. mean_r, mean_net_return, mean_pnl, total_pnl, hold_minutes: Student's t.
    ambiguous_share, target_share, stop_share, time_share: Wilson. The verdict is `too few` below `minimum_n`
    effective outcomes, else whether mean_r's interval excludes 0. Raises ValueError where sources or
    strategies are mixed.
    """
    require(outcomes, _NEEDED, "outcomes")
    chosen = outcomes[outcomes["kind"] == kind]
    one_source(chosen)
    one_source(chosen, "strategy")
    closed = chosen[chosen["outcome"] != "open"]
    minutes = _minutes(closed)
    weights = average_uniqueness(minutes["start"], minutes["end"])
    won, lost = (closed["outcome"] == "win").to_numpy(), (closed["outcome"] == "loss").to_numpy()
    n_eff = float(weights.sum())
    decided = won | lost
    pnl = closed["pnl_usd"].astype(float)
    known_pnl = pnl.notna().to_numpy()
    pnl_n_eff = float(weights[known_pnl].sum())
    mean_pnl = _mean("mean_pnl", "USD a trade", pnl[known_pnl], pnl_n_eff)
    count = mean_pnl.n if mean_pnl.n else nan
    mean_r = _mean("mean_r", "R a trade", closed["r_multiple"], n_eff)
    figures = (
        _share("win_rate", won[decided], weights[decided]),
        mean_r,
        _mean("mean_net_return", "fraction a trade", closed["net_return"], n_eff),
        mean_pnl,
        _times(mean_pnl, count, "total_pnl", "USD"),
        _mean("hold_minutes", "min", minutes["end"] - minutes["start"], n_eff),
        *(_share(f"{why}_share", (closed["exit_reason"] == why).to_numpy(), weights) for why in _EXITS),
        _share("ambiguous_share", closed["ambiguous"].to_numpy(dtype=bool), weights),
    )
    verdict: Literal["too few", "profitable", "losing", "indistinguishable from zero"]
    if n_eff < minimum_n or not np.isfinite(mean_r.lower):
        verdict = "too few"
    elif mean_r.lower > 0:
        verdict = "profitable"
    elif mean_r.upper < 0:
        verdict = "losing"
    else:
        verdict = "indistinguishable from zero"
    return Summary(
        kind=kind,
        source=_only(chosen, "source"),
        strategy=_only(chosen, "strategy"),
        closed=len(closed),
        open=len(chosen) - len(closed),
        wins=int(won.sum()),
        losses=int(lost.sum()),
        breakevens=int((closed["outcome"] == "breakeven").sum()),
        figures=figures,
        verdict=verdict,
        minimum_n=minimum_n,
    )


_EXITS = ("target", "stop", "time")


def _minutes(closed: pd.DataFrame) -> pd.DataFrame:
    """Entry and end of each trade in minutes; the exit candle's minute is part of it."""
    epoch, minute = pd.Timestamp(0, tz="UTC"), pd.Timedelta(minutes=1)
    return pd.DataFrame(
        {
            "start": ((instants(closed["entry_time"]) - epoch) / minute).astype(float),
            "end": ((instants(closed["exit_time"]) - epoch) / minute).astype(float) + 1.0,
        }
    )


def _share(name: str, hits: np.typing.NDArray[np.bool_], weights: np.typing.NDArray[np.float64]) -> Figure:
    n_eff = float(weights.sum())
    if not len(hits):
        return Figure(name, "share", nan, nan, nan, 0, 0.0)
    share = float(hits.mean())
    lower, upper = wilson(share * n_eff, n_eff)
    return Figure(name, "share", share, lower, upper, len(hits), n_eff)


def _mean(name: str, unit: str, values: pd.Series, n_eff: float) -> Figure:
    x = values.to_numpy(dtype=float)
    lower, upper = mean_interval(x, n_eff)
    return Figure(name, unit, float(x.mean()) if len(x) else nan, lower, upper, len(x), n_eff)


def _times(mean: Figure, factor: float, name: str, unit: str) -> Figure:
    lower, upper = mean.lower * factor, mean.upper * factor
    return Figure(name, unit, mean.value * factor, lower, upper, mean.n, mean.n_eff)


def _only(frame: pd.DataFrame, column: str) -> str | None:
    return str(frame[column].iloc[0]) if column in frame.columns and len(frame) else None
