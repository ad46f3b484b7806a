"""The data dictionary tells of every table and column."""

from __future__ import annotations

from v7_pipeline.store import data_dictionary
from v7_pipeline.store.schema import TABLES


def test_every_table_and_column_is_described() -> None:
    text = data_dictionary()
    for name, table in TABLES.items():
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for column in table.columns:
            (line,) = (line for line in section.splitlines() if line.startswith(f"| `{column.name}` |"))
            assert column.type in line and column.description in line and column.unit in line
            assert line.replace("\\|", "").count("|") == 6
