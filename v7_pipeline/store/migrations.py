"""How a store gets its tables, and how an older store becomes a current one; all of it derived from schema.py.

A change of the schema raises SCHEMA_VERSION and adds the step that leads there. Connections come from the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from v7_pipeline.store import schema
from v7_pipeline.store.errors import SchemaError
from v7_pipeline.store.schema import Table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["AFTERWARDS", "STEPS", "apply", "check_columns", "create_table", "quoted", "stored_version"]

# version → the statements that lead from the version before it. New tables and the view need none: they are made
# after the last step. A column added to a filled table: add it, fill it, then SET NOT NULL.
STEPS: Mapping[int, tuple[str, ...]] = {
    2: ("ALTER TABLE theory_features RENAME TO theory_features_1",),
    3: (
        "ALTER TABLE llm_signals ADD COLUMN would_change_my_mind VARCHAR",
        "ALTER TABLE llm_signals ADD COLUMN ungrounded_numbers VARCHAR",
    ),
    4: (
        "ALTER TABLE gated_signals ADD COLUMN calls_ok BOOLEAN",
        "ALTER TABLE gated_signals ADD COLUMN exposure_ok BOOLEAN",
        "ALTER TABLE gated_signals ADD COLUMN notional_usd DOUBLE",
        "ALTER TABLE gated_signals ADD COLUMN lots DOUBLE",
        "ALTER TABLE gated_signals ADD COLUMN capped_by VARCHAR",
    ),
    5: (
        "ALTER TABLE win_rates ADD COLUMN prior_alpha DOUBLE",
        "ALTER TABLE win_rates ADD COLUMN prior_beta DOUBLE",
        "ALTER TABLE win_rates ADD COLUMN half_life_trades DOUBLE",
        "ALTER TABLE win_rates ADD COLUMN n_eff DOUBLE",
        "ALTER TABLE win_rates ADD COLUMN shrunk_mean DOUBLE",
        "ALTER TABLE win_rates ADD COLUMN shrunk_lower DOUBLE",
        "ALTER TABLE win_rates ADD COLUMN shrunk_upper DOUBLE",
        "ALTER TABLE win_rates ADD COLUMN parent_scope VARCHAR",
        "ALTER TABLE theory_attribution ADD COLUMN holm_p DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN icir DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN icir_lower DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN icir_upper DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN contribution_wins DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN contribution_losses DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN drift DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN drift_lower DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN drift_upper DOUBLE",
        "ALTER TABLE theory_attribution ADD COLUMN drift_p DOUBLE",
        # It was a fraction of the price and is R from now on: one column cannot be both.
        "UPDATE theory_attribution SET shapley = NULL",
        "ALTER TABLE outcomes ADD COLUMN holding_minutes BIGINT",
        "ALTER TABLE outcomes ADD COLUMN gap_minutes BIGINT",
        "ALTER TABLE outcomes ADD COLUMN slippage DOUBLE",
        "ALTER TABLE outcomes ADD COLUMN labelled_at TIMESTAMPTZ",
    ),
    6: ("ALTER TABLE alerts ADD COLUMN subject VARCHAR",),
    7: (),  # new tables only
}
# version → what follows once the new tables are made: a table that was set aside is copied into its successor.
AFTERWARDS: Mapping[int, tuple[str, ...]] = {
    2: ("INSERT INTO theory_features BY NAME SELECT * FROM theory_features_1", "DROP TABLE theory_features_1"),
}


def quoted(name: str) -> str:
    """`name` as an SQL identifier (open, close and end are words of SQL)."""
    return f'"{name}"'


def create_table(table: Table) -> str:
    """The statement that makes `table` where it is missing.

    Without a PRIMARY KEY: DuckLake has none, and on a year of minutes DuckDB's index makes a write of 30 rows take
    114 instead of 35 ms, because closing the file writes the whole index. The store's writes hold keys unique.
    """
    columns = ", ".join(
        f"{quoted(column.name)} {column.type}{'' if column.nullable else ' NOT NULL'}" for column in table.columns
    )
    return f"CREATE TABLE IF NOT EXISTS {quoted(table.name)} ({columns})"


def stored_version(connection: DuckDBPyConnection) -> int | None:
    """The store's schema version; None where it has no tables yet."""
    known = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_catalog = current_database() "
        "AND table_schema = current_schema() AND table_name = 'schema_version'"
    ).fetchone()
    if not known or not known[0]:
        return None
    newest = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    return None if newest is None or newest[0] is None else int(newest[0])


def apply(connection: DuckDBPyConnection, code_version: str, now: datetime) -> None:
    """Bring the store to SCHEMA_VERSION, inside the caller's transaction.

    Raises SchemaError for a newer store, for a missing step, and where the outcome is not the declared schema.
    """
    version = stored_version(connection)
    if version is not None and version > schema.SCHEMA_VERSION:
        raise SchemaError(
            f"the store has schema version {version}, this code knows {schema.SCHEMA_VERSION}: "
            "it was written by a newer V7; update the code, or use another store"
        )
    if version is not None and version < schema.SCHEMA_VERSION:
        _steps(connection, version)
    if version != schema.SCHEMA_VERSION:
        for table in schema.TABLES.values():
            connection.execute(create_table(table))
        connection.execute(schema.SIGNALS_VIEW)
        if version is not None:
            for reached in range(version + 1, schema.SCHEMA_VERSION + 1):
                for statement in AFTERWARDS.get(reached, ()):
                    connection.execute(statement)
        first = schema.SCHEMA_VERSION if version is None else version + 1
        for reached in range(first, schema.SCHEMA_VERSION + 1):
            connection.execute(
                "INSERT INTO schema_version (version, applied_at, code_version) VALUES (?, ?, ?)",
                (reached, now, code_version),
            )
    check_columns(connection)


def _steps(connection: DuckDBPyConnection, version: int) -> None:
    for reached in range(version + 1, schema.SCHEMA_VERSION + 1):
        if reached not in STEPS:
            raise SchemaError(
                f"no migration leads from schema version {reached - 1} to {reached}; migrations.py lacks it"
            )
        for statement in STEPS[reached]:
            connection.execute(statement)


def check_columns(connection: DuckDBPyConnection) -> None:
    """Raise SchemaError where a stored table's columns are not the declared ones (their order does not matter)."""
    rows = connection.execute(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_catalog = current_database() AND table_schema = current_schema()"
    ).fetchall()
    stored: dict[str, set[tuple[str, str, bool]]] = {}
    for table_name, column_name, kind, nullable in rows:
        kind = "TIMESTAMPTZ" if kind == "TIMESTAMP WITH TIME ZONE" else kind
        stored.setdefault(table_name, set()).add((column_name, kind, nullable == "YES"))
    for table in schema.TABLES.values():
        declared = {(column.name, str(column.type), column.nullable) for column in table.columns}
        astray = sorted({name for name, _, _ in declared ^ stored.get(table.name, set())})
        if astray:
            raise SchemaError(
                f"table {table.name} of the store differs from schema version {schema.SCHEMA_VERSION} in "
                f"{', '.join(astray[:8])}; schema.py was changed without a new version and a migration step"
            )
