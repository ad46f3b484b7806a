"""Rows for any table, made from its schema alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from v7_pipeline.store import conform
from v7_pipeline.store.schema import Column, Table, table

DAY = datetime(2023, 12, 11, tzinfo=UTC)
NEXT_DAY = DAY + timedelta(days=1)
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
FIXED = {"source": "live", "run_id": "run-1", "code_version": "0.1.0"}


def make_rows(name: str, n: int = 6, *, start: datetime = DAY, salt: int = 0, **fixed: Any) -> pd.DataFrame:
    """`n` rows of table `name`, one minute apart from `start`; every third nullable value is missing.

    `salt` changes all values that are neither key nor provenance; `fixed` sets whole columns.
    """
    declared = table(name)
    rows = [{c.name: _value(declared, c, i, start, salt) for c in declared.columns} for i in range(n)]
    return conform(name, pd.DataFrame(rows, columns=list(declared.column_names)).assign(**fixed))


def _value(declared: Table, column: Column, i: int, start: datetime, salt: int) -> Any:
    if column.name in FIXED:
        return FIXED[column.name]
    if column.nullable and i % 3 == 1:
        return None
    is_key = column.name in declared.key
    match column.type:
        case "TIMESTAMPTZ":
            same = is_key or column.name == declared.day_column
            return start + timedelta(minutes=i, microseconds=0 if same else salt * 7 + 123)
        case "VARCHAR":
            if column.name == "symbol":
                return SYMBOLS[i % len(SYMBOLS)]
            return f"{column.name}-{start:%Y%m%d}-{i}" if is_key else f"ünï|'{column.name}' {i} {salt}"
        case "BIGINT":
            return i + 1 if is_key else 2**53 + 1 + i + salt
        case "BOOLEAN":
            return (i + salt) % 2 == 0
        case _:
            return 0.1 * (i + 1) + salt
