"""Asset checks, made from the store's schema where they can be; one file a subject."""

from __future__ import annotations

from v7_pipeline.orchestration.checks.scan_checks import build_checks

__all__ = ["build_checks"]
