"""Frames that cross the store's threshold: brought into the schema's shape, checked against it, and read back typed.

What is refused here never reaches the store. No SQL and no connection belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from v7_pipeline.store import schema
from v7_pipeline.store.errors import SchemaError
from v7_pipeline.store.schema import Column, Table

__all__ = ["arrow_frame", "arrow_rows", "check_instant", "conform", "from_arrow", "to_arrow"]

_UTC_US = pd.DatetimeTZDtype(unit="us", tz="UTC")
_ARROW: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "FLOAT": pa.float32(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
}
_DTYPE: dict[str, Any] = {
    "VARCHAR": object,
    "DOUBLE": np.dtype("float64"),
    "FLOAT": np.dtype("float64"),
    "BIGINT": pd.Int64Dtype(),
    "BOOLEAN": pd.BooleanDtype(),
    "TIMESTAMPTZ": _UTC_US,
}
_WANTED = {
    "VARCHAR": "text",
    "DOUBLE": "floating-point numbers",
    "FLOAT": "floating-point numbers",
    "BIGINT": "whole numbers",
    "BOOLEAN": "true or false",
    "TIMESTAMPTZ": "timezone-aware UTC instants",
}


def check_instant(value: datetime, name: str) -> datetime:
    """`value`, refused with SchemaError where it has no time zone."""
    if not isinstance(value, datetime) or value is pd.NaT or value.tzinfo is None:
        raise SchemaError(f"{name} must be a timezone-aware instant in UTC, not {value!r}")
    return value


# --- bringing a frame into shape ------------------------------------------------------------


def conform(table: str, frame: pd.DataFrame, constants: Mapping[str, str] | None = None) -> pd.DataFrame:
    """`frame` with the columns of `table` in the schema's order and types; values are not changed otherwise.

    `constants` are columns that have one text in every row, such as provenance; they replace the frame's.

    Types: VARCHAR → object holding str or None; DOUBLE → float64 (NaN is missing); FLOAT → float64 of 32 bits'
    precision, so that what is read back is what was written; BIGINT → Int64; BOOLEAN → boolean; TIMESTAMPTZ →
    datetime64[us, UTC] (another zone's instants are converted; digits below the microsecond are cut). Raises
    SchemaError for missing or extra columns and for values that only a guess could convert
    (text as numbers, fractions as whole numbers, naive times).
    """
    declared = schema.table(table)
    constants = constants or {}
    offered = [*(name for name in frame.columns if name not in constants), *constants]
    _check_names(declared, pd.DataFrame(columns=offered) if constants else frame, in_order=False)
    columns = {
        column.name: np.full(len(frame), constants[column.name], dtype=object)
        if column.name in constants
        else _shaped(declared, column, frame[column.name])
        for column in declared.columns
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)), copy=False)


def _shaped(table: Table, column: Column, values: pd.Series) -> Any:
    if values.dtype == _DTYPE[column.type] and column.type not in ("VARCHAR", "FLOAT"):
        return values.array
    if column.type != "VARCHAR" and values.isna().all():
        return pd.Series(None, index=range(len(values)), dtype=_DTYPE[column.type]).array
    try:
        return _SHAPERS[column.type](values)
    except (TypeError, ValueError, OverflowError) as error:
        raise SchemaError(_mistyped(table, column, values, str(error))) from None


def _shape_text(values: pd.Series) -> Any:
    missing = values.isna().to_numpy()
    plain = values.astype(object).to_numpy(dtype=object, copy=True)
    plain[missing] = None
    if pd.api.types.infer_dtype(plain, skipna=True) not in ("string", "empty"):
        raise TypeError("not all values are text")
    return plain


def _shape_number(values: pd.Series) -> Any:
    if pd.api.types.infer_dtype(values, skipna=True) not in ("floating", "integer", "mixed-integer-float"):
        raise TypeError("not all values are numbers")
    return pd.to_numeric(values).to_numpy(dtype="float64", na_value=np.nan)


def _shape_reading(values: pd.Series) -> Any:
    with np.errstate(over="ignore"):  # too large for 32 bits is infinite, and that is refused by name
        return _shape_number(values).astype(np.float32).astype(np.float64)


def _shape_count(values: pd.Series) -> Any:
    if pd.api.types.infer_dtype(values, skipna=True) not in ("floating", "integer", "mixed-integer-float"):
        raise TypeError("not all values are whole numbers")
    return pd.to_numeric(values).astype("Int64").array  # pandas refuses fractions and infinity here


def _shape_flag(values: pd.Series) -> Any:
    if pd.api.types.infer_dtype(values, skipna=True) != "boolean":
        raise TypeError("not all values are true or false")
    return values.astype("boolean").array


def _shape_time(values: pd.Series) -> Any:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return values.dt.tz_convert("UTC").dt.as_unit("us").array
    if values.dtype != object or not all(isinstance(v, datetime) for v in values[values.notna()]):
        raise TypeError("no time zone" if values.dtype.kind == "M" else "not all values are instants")
    if any(v.tzinfo is None for v in values[values.notna()]):
        raise TypeError("no time zone")
    return pd.to_datetime(values, utc=True).dt.as_unit("us").array


_SHAPERS: dict[str, Callable[[pd.Series], Any]] = {
    "VARCHAR": _shape_text,
    "DOUBLE": _shape_number,
    "FLOAT": _shape_reading,
    "BIGINT": _shape_count,
    "BOOLEAN": _shape_flag,
    "TIMESTAMPTZ": _shape_time,
}


# --- checking a frame before a write --------------------------------------------------------


def to_arrow(table: Table, frame: pd.DataFrame) -> pa.Table:
    """`frame` as an Arrow table with exactly the schema's types; SchemaError names what does not fit.

    Refused: missing, extra, repeated or reordered columns; other types; naive or non-UTC times; missing values where
    the schema allows none; infinite numbers; blank provenance; keys that occur twice in the frame.
    """
    _check_names(table, frame, in_order=True)
    arrays = [_checked(table, column, frame[column.name]) for column in table.columns]
    _check_numbers(table, frame)
    _check_provenance(table, frame)
    _check_key(table, frame)
    return pa.Table.from_arrays(arrays, names=list(table.column_names))


def arrow_frame(table: str, frame: pd.DataFrame, constants: Mapping[str, str]) -> pa.Table:
    """Many rows as an Arrow table of `table`, ready to be written: `conform` and `to_arrow` in one, in half their time.

    `frame` has the table's columns in any order, with what `conform` would accept; `constants` those that have one text
    in every row, all of its provenance among them. SchemaError as there.
    """
    declared = schema.table(table)
    given = [*(name for name in frame.columns if name not in constants), *constants]
    _check_names(declared, pd.DataFrame(columns=given), in_order=False)
    missing = [column.name for column in schema.PROVENANCE if column.name not in constants]
    if missing:
        raise SchemaError(f"rows for table {table} need {_listed(missing)} as constants")
    _check_provenance(declared, pd.DataFrame([constants]))
    arrays = []
    for column in declared.columns:
        if column.name in constants:
            arrays.append(pa.repeat(pa.scalar(constants[column.name], _ARROW[column.type]), len(frame)))
            continue
        values = frame[column.name]
        text = column.type == "VARCHAR" and pd.api.types.is_object_dtype(values.dtype)
        # Arrow refuses what is no text; whatever else may need converting goes the careful way.
        arrays.append(_text(declared, column, values) if text else _careful(declared, column, values))
    _check_numbers(declared, frame)
    _check_key(declared, frame)
    return pa.Table.from_arrays(arrays, names=list(declared.column_names))


def _text(table: Table, column: Column, values: pd.Series) -> pa.Array:
    try:
        array = pa.array(values.to_numpy(object), from_pandas=True)  # Arrow's own guess: bytes would pass for text
    except (pa.ArrowException, UnicodeError, TypeError) as error:
        raise SchemaError(_mistyped(table, column, values, str(error))) from None
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    if not pa.types.is_string(array.type):
        raise SchemaError(_mistyped(table, column, values, "not all values are text"))
    if array.null_count and not column.nullable:
        row = array.is_null().index(True).as_py()
        raise SchemaError(f"{table.name}.{column.name} must not be missing, but is in row {row} of the frame")
    return array


def _careful(table: Table, column: Column, values: pd.Series) -> pa.Array:
    return _checked(table, column, pd.Series(_shaped(table, column, values), name=column.name, copy=False))


def arrow_rows(table: str, records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A few rows as an Arrow table of `table`, ready to be written; the same refusals as for a frame.

    For the handful of rows that a scan writes: a frame of three rows costs ten times as much to shape and to check.
    None, NaN, NaT and NA are missing. Columns may come in any order, since they come by name.
    """
    declared = schema.table(table)
    for record in records:
        if record.keys() != set(declared.column_names):
            _check_names(declared, pd.DataFrame([record]), in_order=False)
    arrays = [_array(declared, column, [record[column.name] for record in records]) for column in declared.columns]
    offered = pa.Table.from_arrays(arrays, names=list(declared.column_names))
    for column in schema.PROVENANCE:
        if column.name in declared.column_names and not all(v.strip() for v in offered.column(column.name).to_pylist()):
            raise SchemaError(f"{table}.{column.name} must say where the row comes from, but is blank")
    if "source" in declared.column_names:
        unknown = sorted(set(offered.column("source").to_pylist()) - set(schema.SOURCES))
        if unknown:
            raise SchemaError(f"{table}.source must be one of {_listed(schema.SOURCES)}, not {_listed(unknown)}")
    keys = [tuple(record[name] for name in declared.key) for record in records]
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    if repeated is not None:
        raise SchemaError(f"the rows for table {table} hold the key {_listed(map(str, repeated))} more than once")
    return offered


def _array(table: Table, column: Column, values: list[Any]) -> pa.Array:
    """One column of a few values, typed strictly."""
    name = f"{table.name}.{column.name}"
    present = [value for value in values if not (value is None or value is pd.NA or value is pd.NaT or value != value)]
    if len(present) < len(values) and not column.nullable:
        raise SchemaError(f"{name} must not be missing, but is in one of the rows")
    if column.type == "TIMESTAMPTZ":
        for value in present:
            check_instant(value, name)
    elif any(isinstance(value, (bool, np.bool_)) for value in present) and column.type != "BOOLEAN":
        raise SchemaError(f"{name} must hold {_WANTED[column.type]}, but has a truth value")
    elif column.type in ("DOUBLE", "FLOAT") and not all(
        np.isfinite(value) for value in present if not isinstance(value, str)
    ):
        raise SchemaError(f"{name} is infinite; what is not known is NaN, not infinite")
    try:
        return pa.array(values, type=_ARROW[column.type], from_pandas=True)
    except (pa.ArrowException, UnicodeError, TypeError) as error:
        raise SchemaError(f"{name} must hold {_WANTED[column.type]}: {error}") from None


def _check_names(table: Table, frame: pd.DataFrame, *, in_order: bool) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise SchemaError(f"table {table.name} takes a pandas DataFrame, not {type(frame).__name__}")
    given = [str(name) for name in frame.columns]
    complaints = {
        "lacks": [name for name in table.column_names if name not in given],
        "has columns that the schema does not know:": [n for n in given if n not in table.column_names],
        "repeats": sorted({name for name in given if given.count(name) > 1}) if len(set(given)) < len(given) else [],
    }
    for complaint, names in complaints.items():
        if names:
            raise SchemaError(f"the frame for table {table.name} {complaint} {_listed(names)}")
    if in_order and tuple(given) != table.column_names:
        first = next(a for a, b in zip(given, table.column_names, strict=True) if a != b)
        raise SchemaError(
            f"the frame for table {table.name} has its columns in another order, from {first} on; "
            f"bring it into shape with conform({table.name!r}, frame)"
        )


def _checked(table: Table, column: Column, values: pd.Series) -> pa.Array:
    if not _right_type(column, values):
        raise SchemaError(_mistyped(table, column, values, f"bring it into shape with conform({table.name!r}, frame)"))
    if not column.nullable and values.hasnans:
        row = int(np.flatnonzero(values.isna().to_numpy())[0])
        raise SchemaError(f"{table.name}.{column.name} must not be missing, but is in row {row} of the frame")
    if column.type == "TIMESTAMPTZ":
        values = values.dt.as_unit("us")
    try:
        return pa.array(values, type=_ARROW[column.type], from_pandas=True)
    except (pa.ArrowException, UnicodeError) as error:
        raise SchemaError(f"{table.name}.{column.name} cannot be stored: {error}") from None


def _right_type(column: Column, values: pd.Series) -> bool:
    dtype = values.dtype
    if column.type == "VARCHAR":
        if isinstance(dtype, pd.StringDtype):
            return True
        return pd.api.types.is_object_dtype(dtype) and pd.api.types.infer_dtype(values, skipna=True) in (
            "string",
            "empty",
        )
    if column.type == "TIMESTAMPTZ":
        return isinstance(dtype, pd.DatetimeTZDtype) and str(dtype.tz) == "UTC"
    return bool(
        {
            "DOUBLE": pd.api.types.is_float_dtype,
            "FLOAT": pd.api.types.is_float_dtype,
            "BIGINT": pd.api.types.is_integer_dtype,
            "BOOLEAN": pd.api.types.is_bool_dtype,
        }[column.type](dtype)
    )


def _check_numbers(table: Table, frame: pd.DataFrame) -> None:
    for name in (column.name for column in table.columns if column.type in ("DOUBLE", "FLOAT")):
        infinite = np.isinf(frame[name].to_numpy(dtype="float64", na_value=np.nan))
        if infinite.any():
            row = int(np.argmax(infinite))
            raise SchemaError(
                f"{table.name}.{name} is infinite in row {row} of the frame; what is not known is NaN, not infinite"
            )


def _check_provenance(table: Table, frame: pd.DataFrame) -> None:
    for column in schema.PROVENANCE:
        if column.name in table.column_names and not all(str(v).strip() for v in pd.unique(frame[column.name])):
            raise SchemaError(f"{table.name}.{column.name} must say where the row comes from, but is blank")
    if "source" in table.column_names:
        unknown = set(pd.unique(frame["source"])) - set(schema.SOURCES)
        if unknown:
            raise SchemaError(
                f"{table.name}.source must be one of {_listed(schema.SOURCES)}, not {_listed(sorted(unknown))}"
            )


def _check_key(table: Table, frame: pd.DataFrame) -> None:
    repeated = frame.duplicated(list(table.key))
    if repeated.any():
        row = int(np.flatnonzero(repeated.to_numpy())[0])
        key = ", ".join(f"{name}={frame[name].iloc[row]}" for name in table.key)
        raise SchemaError(f"the frame for table {table.name} holds the key {key} more than once (row {row})")


def _mistyped(table: Table, column: Column, values: pd.Series, advice: str) -> str:
    return f"{table.name}.{column.name} must hold {_WANTED[column.type]}, but has type {values.dtype}: {advice}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# --- reading back ---------------------------------------------------------------------------


def from_arrow(result: pa.Table) -> pd.DataFrame:
    """A query's result in the types that `conform` gives: Int64, boolean, float64, datetime64[us, UTC], str or None."""
    for place, field in enumerate(result.schema):
        plain = _plain(field.type)
        if plain != field.type:
            result = result.set_column(place, field.name, result.column(place).cast(plain))
    return result.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Sums of whole numbers come as decimals and small counts as small integers: both as int64 here."""
    if pa.types.is_decimal(kind):
        return pa.int64() if kind.scale == 0 else pa.float64()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    return kind
