"""Great Expectations made from the store's schema: columns, types, keys, missing values, ranges, sources.

Only the hourly job comes here: the library takes seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from v7_pipeline.store.schema import SOURCES, Column, table

__all__ = ["declared", "unmet"]

# What a unit of the schema allows, whatever the column.
_RANGES: Mapping[str, tuple[float | None, float | None]] = {
    "0 … 1": (0.0, 1.0),
    "−1 … 1": (-1.0, 1.0),
    "probability": (0.0, 1.0),
    "share of the maximum": (None, 1.5),
    "dimension": (1.0, 2.0),
}
# A few more that only the column knows.
_OWN: Mapping[tuple[str, str], tuple[float | None, float | None]] = {
    ("candles", "volume"): (0.0, None),
    **{("candles", name): (1e-12, None) for name in ("open", "high", "low", "close")},
    ("theory_features", "observed_share"): (0.0, 1.0),
    ("outcomes", "mae"): (None, 0.0),
    ("theory_attribution", "accuracy"): (0.0, 1.0),
}
_TYPES: Mapping[str, tuple[str, ...]] = {
    "VARCHAR": ("str", "object", "object_"),
    "DOUBLE": ("float64",),
    "FLOAT": ("float32", "float64"),
    "BIGINT": ("int64", "Int64", "Int64Dtype"),
    "BOOLEAN": ("bool", "boolean", "BooleanDtype", "bool_"),
}


def declared(name: str) -> list[tuple[str, dict[str, Any]]]:
    """(expectation, its arguments) for every promise of the table called `name`."""
    entry = table(name)
    found: list[tuple[str, dict[str, Any]]] = [
        ("ExpectTableColumnsToMatchSet", {"column_set": list(entry.column_names), "exact_match": True}),
        ("ExpectCompoundColumnsToBeUnique", {"column_list": list(entry.key)})
        if len(entry.key) > 1
        else ("ExpectColumnValuesToBeUnique", {"column": entry.key[0]}),
        ("ExpectColumnValuesToBeInSet", {"column": "source", "value_set": list(SOURCES)}),
    ]
    for column in entry.columns:
        found += _of(name, column)
    return found


def _of(name: str, column: Column) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    if not column.nullable:
        found.append(("ExpectColumnValuesToNotBeNull", {"column": column.name}))
    low, high = _OWN.get((name, column.name), _RANGES.get(column.unit, (None, None)))
    if low is not None or high is not None:
        found.append(("ExpectColumnValuesToBeBetween", {"column": column.name, "min_value": low, "max_value": high}))
    return found


def unmet(name: str, frame: pd.DataFrame) -> list[str]:
    """What `frame`, rows of the table called `name` as the store gives them, does not keep; a sentence each.

    An expectation that cannot be evaluated raises: that is an error of ours, not of the data.
    """
    told = _mistyped(name, frame)
    if frame.empty:
        return told
    import great_expectations as gx
    from great_expectations import expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = (
        context.data_sources.add_pandas("store").add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
    )
    suite = gx.ExpectationSuite(
        name=name,
        # Results come back in another order: each carries its own sentence.
        expectations=[
            getattr(expectations, kind)(**arguments, meta={"told": _sentence(kind, arguments)})
            for kind, arguments in declared(name)
        ],
    )
    for result in batch.get_batch({"dataframe": frame}).validate(suite).results:
        raised = _exception(result.exception_info)
        config = result.expectation_config
        sentence = (config.meta or {}).get("told", config.type) if config is not None else "an expectation"
        if raised:
            raise RuntimeError(f"{name}: {sentence} could not be evaluated: {raised}")
        if not result.success:
            count = result.result.get("unexpected_count")
            told.append(sentence + (f" ({count} of {len(frame)} rows do not)" if count else ""))
    return sorted(told)


def _mistyped(name: str, frame: pd.DataFrame) -> list[str]:
    """Columns whose values have another type than the schema's; all-missing ones have none."""
    told = []
    for column in table(name).columns:
        if column.name not in frame or frame[column.name].isna().all():
            continue
        dtype = frame[column.name].dtype
        right = (
            isinstance(dtype, pd.DatetimeTZDtype) and str(dtype.tz) == "UTC"
            if column.type == "TIMESTAMPTZ"
            else dtype.name in _TYPES[column.type]
        )
        if not right and not (column.type in ("BIGINT", "BOOLEAN") and frame[column.name].isna().any()):
            told.append(f"{column.name} is {dtype} and should be {column.type}")
    return told


def _exception(info: Any) -> str:
    """The message of what an expectation raised; empty where it raised nothing. Its shape differs by metric."""
    if not info:
        return ""
    entries = [info] if "raised_exception" in info else list(info.values())
    return "; ".join(str(entry.get("exception_message")) for entry in entries if entry.get("raised_exception"))


def _sentence(kind: str, arguments: Mapping[str, Any]) -> str:
    column = arguments.get("column", "")
    return {
        "ExpectTableColumnsToMatchSet": "the columns are the schema's",
        "ExpectCompoundColumnsToBeUnique": f"the key ({', '.join(arguments.get('column_list', ()))}) is unique",
        "ExpectColumnValuesToBeUnique": f"the key ({column}) is unique",
        "ExpectColumnValuesToBeInSet": f"{column} is one of {', '.join(arguments.get('value_set', ()))}",
        "ExpectColumnValuesToNotBeNull": f"{column} is never missing",
        "ExpectColumnValuesToBeBetween": (
            f"{column} is at least {arguments.get('min_value')} and at most {arguments.get('max_value')}"
        ),
    }[kind]
