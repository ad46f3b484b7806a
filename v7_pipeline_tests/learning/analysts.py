"""Simulated analysts of known win rates, and the thresholds that they would have met."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.threshold import LearntThreshold, learnt_threshold
from v7_pipeline_tests.learning.frames import EPOCH

Floats = npt.NDArray[np.float64]

FLOOR = 0.55
EVEN = 0.4
#: Wins one half, then one in five for 200 trades, then one half again.
LOST_AND_REGAINED = np.repeat([0.5, 0.2, 0.5], [200, 200, 300])


def trades(confidence: object, won: object, *, start: int = 0, **changes: object) -> pd.DataFrame:
    """Closed outcomes one after another, ten minutes each."""
    won = np.asarray(won, dtype=bool)
    entry = EPOCH + pd.to_timedelta(10 * (start + np.arange(len(won))), unit="min")
    frame = pd.DataFrame({"entry_time": entry, "exit_time": entry + pd.Timedelta(minutes=5)})
    frame = frame.assign(outcome=np.where(won, "win", "loss"), confidence=confidence, break_even=EVEN)
    return frame.assign(**changes)


def step(frame: pd.DataFrame, previous: float | None = FLOOR, **changes: object) -> LearntThreshold:
    """The threshold after these outcomes, long after the last of them."""
    as_of = (EPOCH + pd.Timedelta(days=400)).to_pydatetime()
    given: dict[str, object] = {"as_of": as_of, "floor": FLOOR, "previous": previous, "min_effective_n": 30}
    return learnt_threshold(frame, **(given | changes))  # type: ignore[arg-type]


def lived(rates: Floats, seed: int, every: int) -> Floats:
    """1 where a signal of an analyst who wins at these rates was refused, 0 where it passed; learnt each `every`."""
    rng = np.random.default_rng(seed)
    frame = trades(rng.uniform(FLOOR, 0.9, len(rates)), rng.random(len(rates)) < rates)
    met, now = np.empty(len(rates)), None
    for i in range(0, len(rates), every):
        if i:  # what is older than twelve half-lives weighs nothing
            as_of = (EPOCH + pd.Timedelta(minutes=10 * i)).to_pydatetime()
            now = step(frame.iloc[max(0, i - 600) : i], now, as_of=as_of).threshold
        met[i : i + every] = FLOOR if now is None else now
    return (frame["confidence"].to_numpy() < met).astype(float)


def muted_after(refused: Floats, lost: int = 200, until: int = 400) -> float:
    """Trades from the loss of the edge until 20 in a row are refused, whatever their confidence; NaN: never."""
    runs = [i for i in range(lost, until) if refused[i : i + 20].all()]
    return float(runs[0] - lost) if runs else float("nan")


def came_back(refused: Floats) -> bool:
    """Whether over 90 % of the last 100 signals pass."""
    return bool(refused[-100:].mean() < 0.1)
