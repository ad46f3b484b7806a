"""The six steps of a scan, written once: assets, `v7 run` and the backtest are three ways of calling them.

Each step reads what was known at `as_of`, calls the domain rooms and returns what is to be written. Dagster is not
known here, and nothing here decides *when* a scan happens.
"""

from __future__ import annotations

from v7_pipeline.scan.context import ScanContext, ScanError, StepResult, Write, persist
from v7_pipeline.scan.runtime import Runtime, build_runtime

__all__ = ["Runtime", "ScanContext", "ScanError", "StepResult", "Write", "build_runtime", "persist"]
