"""Sensors: deliver the outbox, watch budgets and account. They read the store briefly, and skip when it is busy.

What is seen, told and halted is decided in scan/; here it is only called, and its figures are the skip's message.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from collections.abc import Callable

import dagster as dg

from v7_pipeline.orchestration.alert_sensors import build_alert_sensors
from v7_pipeline.orchestration.repair import build_repair
from v7_pipeline.scan.alerting import deliver_pending
from v7_pipeline.scan.runtime import Runtime
from v7_pipeline.scan.watch import watch_account, watch_budget
from v7_pipeline.store import StoreBusy, StoreError

__all__ = ["build_sensors"]


def build_sensors(runtime: Runtime) -> list[dg.SensorDefinition]:
    """The outbox's sensor, the two that watch, and those of runs and pulse."""

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

    @dg.sensor(
        name="budget_sensor",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts at 80 %, 95 % and 100 % of the day's and the month's budget for calls; at 100 % it halts "
        "paid calls until the period ends or there is room again.",
    )
    def budget_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return dg.SkipReason(_watched(runtime, lambda: watch_budget(runtime, "budget_sensor")))

    @dg.sensor(
        name="ftmo_sensor",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts at 50 %, 80 % and 100 % of the daily and the total loss allowance, at the target and when "
        "the firm's day rolls; halts at a breach.",
    )
    def ftmo_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return dg.SkipReason(_watched(runtime, lambda: watch_account(runtime, "ftmo_sensor")))

    repair_sensor = build_repair(runtime)[1]
    return [alert_outbox, budget_sensor, ftmo_sensor, repair_sensor, *build_alert_sensors(runtime)]


def _watched(runtime: Runtime, watch: Callable[[], str]) -> str:
    """The figures, or why they could not be seen: a busy store and one that is not made yet. The rest is raised."""
    try:
        return watch()
    except StoreBusy as error:
        return f"the store is busy: {error}"
    except StoreError as error:
        if runtime.store.schema_version() is not None:
            raise
        return f"nothing to watch yet: {error}"
