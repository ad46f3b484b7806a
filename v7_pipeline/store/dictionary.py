"""The data dictionary: every table and column with type, unit and meaning, as markdown made from schema.py.

Only the rendering belongs here.
"""

from __future__ import annotations

from v7_pipeline.store import schema
from v7_pipeline.store.schema import Table

__all__ = ["data_dictionary"]


def data_dictionary() -> str:
    """The whole data dictionary as one markdown document."""
    head = (
        f"# Data dictionary\n\nSchema version {schema.SCHEMA_VERSION}, made from `v7_pipeline/store/schema.py`. "
        "All instants are UTC; what is missing is NULL, never 0 or a word.\n\n"
        "The view `signals` joins `llm_signals` and `gated_signals` under the names id, timestamp, symbol, "
        "signal_type, confidence, reasoning, tier, ftmo_compliant, executed, created_at.\n"
    )
    return "\n".join([head, *(_section(table) for table in schema.TABLES.values())])


def _section(table: Table) -> str:
    lines = [
        f"## {table.name}\n",
        f"{table.description} Key: {', '.join(f'`{name}`' for name in table.key)}."
        + (f" Daily partitions by `{table.day_column}`." if table.day_column else "")
        + "\n",
        "| column | type | unit | may be missing | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for column in table.columns:
        cells = (f"`{column.name}`", column.type, column.unit, "yes" if column.nullable else "", column.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
