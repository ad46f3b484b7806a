"""The job that mends what is missing and the sensor that starts it: once for each set of gaps, never beside a scan.

What is missing and how it is mended is scan/repair.py's business.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import hashlib
from datetime import datetime
from typing import Any

import dagster as dg

from v7_pipeline.orchestration.logger import JSON_CONFIG
from v7_pipeline.orchestration.partitions import SCAN_TAG, as_of_text, partition_of
from v7_pipeline.scan.context import minute
from v7_pipeline.scan.repair import Missing, Span, missing, repair
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store import StoreBusy, StoreError

__all__ = ["REPAIR_JOB", "REPAIR_SENSOR", "build_repair"]

REPAIR_JOB = "repair"
REPAIR_SENSOR = "repair_sensor"

_SPANS = [{"symbol": str, "start": str, "end": str}]


def build_repair(runtime: Runtime) -> tuple[dg.JobDefinition, dg.SensorDefinition]:
    """The job `repair` and its sensor."""

    @dg.op(
        config_schema={"candles": _SPANS, "readings": _SPANS},
        description="Asks the market for exactly these minutes, and reads again what depends on those that come.",
    )
    def mend(context: dg.OpExecutionContext) -> None:
        what = Missing(*(_spans(context.op_config[name]) for name in ("candles", "readings")))
        runtime.prepare_store()
        notes = repair(runtime.context(minute(runtime.clock()), context.run_id), what)
        for symbol, reason in notes["failures"].items():
            context.log.error(f"{symbol}: {reason}")
        told = {name: notes[name] for name in ("asked", "came", "empty", "readings")}
        context.log.info(", ".join(f"{count} {name}" for name, count in told.items()))
        for asset, days in (("candles", notes["candle_days"]), ("theory_features", notes["reading_days"])):
            for day in days:
                context.log_event(dg.AssetMaterialization(asset, partition=partition_of(day), metadata=told))
        if notes["failures"]:
            raise dg.Failure(
                "the market did not answer for " + "; ".join(f"{s}: {why}" for s, why in notes["failures"].items()),
                metadata=told,
                allow_retries=False,
            )

    # A candle's time of receipt orders it among the scans: the tag's limit of one keeps a repair out of a running scan.
    @dg.job(
        name=REPAIR_JOB,
        executor_def=dg.in_process_executor,
        run_tags={SCAN_TAG: "1", "dagster/max_runtime": str(runtime.settings.max_run_s)},
        description="Missing candles and readings of the last V7_REPAIR_DAYS; nothing is decided for the past.",
    )
    def repair_job() -> None:
        mend()

    @dg.sensor(
        name=REPAIR_SENSOR,
        job=repair_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks for gaps in candles and readings and starts a repair of exactly these.",
    )
    def repair_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        now = runtime.clock()
        try:
            what = missing(runtime.store, runtime.settings, now)
        except StoreBusy as error:
            return dg.SkipReason(f"the store is busy: {error}")
        except StoreError as error:
            if runtime.store.schema_version() is not None:
                raise
            return dg.SkipReason(f"nothing to repair yet: {error}")
        if not what:
            return dg.SkipReason("no candle and no reading is missing")
        logs = JSON_CONFIG if runtime.settings.log_json else {}
        return dg.RunRequest(run_key=_key(what, now), run_config={"ops": {"mend": {"config": _config(what)}}, **logs})

    return repair_job, repair_sensor


def _key(what: Missing, now: datetime) -> str:
    """The same gaps are asked for once; where the market did not answer, or the run died, again in the next hour."""
    digest = hashlib.sha256(repr(sorted(_config(what).items())).encode()).hexdigest()[:16]
    return f"{digest}-{now:%Y%m%dT%H}"


def _config(what: Missing) -> dict[str, Any]:
    def listed(spans: tuple[Span, ...]) -> list[dict[str, str]]:
        return [{"symbol": s.symbol, "start": as_of_text(s.start), "end": as_of_text(s.end)} for s in spans]

    return {"candles": listed(what.candles), "readings": listed(what.readings)}


def _spans(config: list[dict[str, str]]) -> tuple[Span, ...]:
    return tuple(
        Span(span["symbol"], datetime.fromisoformat(span["start"]), datetime.fromisoformat(span["end"]))
        for span in config
    )
