"""What every gate gives back, the gates' names, and the instants they compare.

No rule belongs here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["GATES", "NO_INSTANT", "GateResult", "instant", "microseconds", "present", "require", "result"]

# Every gate, in the order of the columns of gated_signals.
GATES: tuple[str, ...] = (
    "freshness", "halt", "budget", "calls", "plan", "confidence", "rate", "ftmo", "exposure",
)  # fmt: skip

_PLAIN = frozenset((str, int, bool, type(None)))  # what JSON knows as it is; a float may not be finite
NO_INSTANT = np.iinfo(np.int64).min  # how numpy writes NaT as an integer


@dataclass(frozen=True)
class GateResult:
    """One gate's answer. `passed` is None where the gate does not apply; `inputs` is what it saw, ready for JSON."""

    gate: str
    passed: bool | None
    reason_codes: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reason_code(self) -> str | None:
        """The reasons against it separated by commas, or None where there is none."""
        return ",".join(self.reason_codes) or None


def result(gate: str, reasons: Iterable[str], **inputs: Any) -> GateResult:
    """A gate's answer: passed exactly when there is no reason against it."""
    codes = tuple(reasons)
    plain = {
        name: value if (kind := type(value)) in _PLAIN or (kind is float and isfinite(value)) else _plain(value)
        for name, value in inputs.items()
    }
    return GateResult(gate, not codes, codes, plain)


def instant(value: Any, what: str) -> datetime | None:
    """`value` as an aware UTC instant, None where it is missing; a naive one is refused."""
    if type(value) is datetime and value.tzinfo is UTC:
        return value  # as it should be; pandas would take twenty times as long to find that out
    if value is None or pd.isna(value):
        return None
    stamp = pd.Timestamp(value)
    if stamp.tzinfo is None:
        raise ValueError(f"{what} {value} has no time zone; pass an aware instant in UTC")
    return stamp.tz_convert("UTC").to_pydatetime()


def require(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Refuse a frame that lacks a column; ValueError names it."""
    known = frame.columns
    missing = [name for name in columns if name not in known]
    if missing:
        raise ValueError(f"{what} lack the column(s) {', '.join(missing)}")


def microseconds(series: pd.Series, what: str) -> npt.NDArray[np.int64]:
    """Microseconds since 1970 UTC of an aware column; NaT becomes NO_INSTANT; a naive column is refused."""
    if series.isna().all():
        return np.full(len(series), NO_INSTANT, dtype=np.int64)
    if not isinstance(series.dtype, pd.DatetimeTZDtype):
        raise ValueError(f"column {what} holds {series.dtype}, not time-zone-aware instants; convert it to UTC")
    numbers: npt.NDArray[np.int64] = (
        series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    )
    return numbers


def present(value: Any) -> Any:
    """`value`, or None where pandas calls it missing."""
    if type(value) is float:
        return None if value != value else value
    return None if value is None or pd.isna(value) else value


def _plain(value: Any) -> Any:
    """`value` as JSON knows it; a missing number is null, never 0."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, (np.floating, np.integer, np.bool_)):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
