"""The store: the schema and the DuckDB / DuckLake tables made from it, for every room above.

Import from here; the modules inside are the store's own business (schema.py aside).
"""

from __future__ import annotations

from v7_pipeline.store.dictionary import data_dictionary
from v7_pipeline.store.duckdb_store import Counts, Reader, Store, Transaction, open_store
from v7_pipeline.store.errors import SchemaError, StoreBusy, StoreError, StoreFull
from v7_pipeline.store.frames import arrow_frame, arrow_rows, conform
from v7_pipeline.store.identity import SignalId, parse_signal_id, signal_id

__all__ = [
    "Counts",
    "Reader",
    "SchemaError",
    "SignalId",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "Transaction",
    "arrow_frame",
    "arrow_rows",
    "conform",
    "data_dictionary",
    "open_store",
    "parse_signal_id",
    "signal_id",
]
