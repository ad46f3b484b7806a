"""Sensors: deliver what waits in the alert outbox. They read the store briefly and skip when it is busy."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import dagster as dg

from v7_pipeline.scan.alerting import deliver_pending
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.store import StoreBusy, StoreError

__all__ = ["build_sensors"]


def build_sensors(runtime: Runtime) -> list[dg.SensorDefinition]:
    """The outbox sensor."""

    @dg.sensor(
        name="alert_outbox",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Delivers pending alerts to the destinations in V7_ALERT_URLS, once each.",
    )
    def alert_outbox(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            delivered, failed = deliver_pending(runtime)
        except StoreBusy as error:
            return dg.SkipReason(f"the store is busy: {error}")
        except StoreError as error:
            return dg.SkipReason(str(error))
        return dg.SkipReason(f"{delivered} delivered, {failed} failed")

    return [alert_outbox]
