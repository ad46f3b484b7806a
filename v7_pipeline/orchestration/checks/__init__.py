"""Asset checks, made from the store's schema where they can be; one file a subject."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import dagster as dg

from v7_pipeline.orchestration.checks.base import Check
from v7_pipeline.orchestration.checks.heavy import DAILY, HOURLY, build_heavy_checks
from v7_pipeline.orchestration.checks.scan_checks import CHECKS, build_scan_checks
from v7_pipeline.scan.runtime import Runtime

__all__ = ["ALL_CHECKS", "DAILY", "HOURLY", "SCAN", "build_checks"]

SCAN = CHECKS
#: Every check, by how often it looks.
ALL_CHECKS: dict[str, tuple[Check, ...]] = {"scan": SCAN, "hourly": HOURLY, "daily": DAILY}


def build_checks(runtime: Runtime) -> list[dg.AssetChecksDefinition]:
    """The fast checks' ops and the heavy ones'."""
    return [*build_scan_checks(runtime), *build_heavy_checks(runtime)]
