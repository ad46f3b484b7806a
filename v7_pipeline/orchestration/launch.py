"""Runs that we start ourselves: Dagster's home and instance, one scan, one backfill, each recorded like any run.

Scheduling and supervision are elsewhere; this is what the command line and the tests call.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import yaml

from v7_pipeline.orchestration.jobs import BACKFILL_JOB, SCAN_JOB
from v7_pipeline.orchestration.orphans import PROCESS_TAG, own_process
from v7_pipeline.orchestration.partitions import AS_OF_TAG, as_of_text, partition_of
from v7_pipeline.settings import Settings

__all__ = ["EVENT_BATCHES", "QUIET", "LaunchError", "execute_backfill", "execute_scan", "open_instance", "prepare_home"]

# Runs of ours print their own blocks; Dagster's event log keeps everything.
QUIET: Mapping[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


# What Dagster needs in the environment to store a range's events together (event_log.py).
EVENT_BATCHES = {"DAGSTER_EVENT_BATCH_SIZE": "500"}

# The event log's own class needs the folder by its full path, which only the home knows. It is Dagster's default one.
_EVENT_LOG = """
event_log_storage:
  module: v7_pipeline.orchestration.event_log
  class: BatchedEventLog
  config: {{ base_dir: {base_dir} }}
"""

# What an operator may set in the home's dagster.yaml, such as a storage on PostgreSQL: it is kept as it stands there.
_OPERATORS = (
    "storage", "run_storage", "event_log_storage", "schedule_storage", "compute_logs", "local_artifact_storage",
    "python_logs",
)  # fmt: skip

LOCATION = "v7_pipeline"  # as in workspace.yaml


class LaunchError(RuntimeError):
    """A run that we started failed; the message carries the step's own sentence."""


def prepare_home(settings: Settings) -> Path:
    """The mode's Dagster home with our dagster.yaml in it, made where it is missing.

    Storage and logs that an operator has set in the home's file stay; the rest is ours. LaunchError where that file
    cannot be read: what it wanted must not be replaced unseen.
    """
    home = (settings.data_dir / "dagster_home").resolve()
    home.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).resolve().parents[2] / "dagster.yaml"
    target = home / "dagster.yaml"
    if source.is_file():
        kept = _operators_own(target)
        text = source.read_text()
        if not {"storage", "event_log_storage"} & set(kept):
            text += _EVENT_LOG.format(base_dir=json.dumps(f"{home / 'history' / 'runs'}/"))
        if kept:
            text += "\n# Set here by hand, and kept.\n" + yaml.safe_dump(kept, sort_keys=False)
        if not target.is_file() or target.read_text() != text:
            target.write_text(text)
    return home


def _operators_own(target: Path) -> dict[str, Any]:
    """The parts of the home's dagster.yaml that are an operator's."""
    if not target.is_file():
        return {}
    try:
        held = yaml.safe_load(target.read_text()) or {}
        reason = "" if isinstance(held, dict) else "it has no names with values"
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
    if reason:
        raise LaunchError(f"{target} cannot be read: {reason}; mend it, or delete it to have V7's own")
    own = {name: held[name] for name in _OPERATORS if name in held}
    ours = own.get("event_log_storage")
    if isinstance(ours, dict) and ours.get("module") == "v7_pipeline.orchestration.event_log":
        del own["event_log_storage"]
    return own


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance of the mode's home; our runs and the daemon's stand in one history."""
    home = prepare_home(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ |= EVENT_BATCHES
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return dg.DagsterInstance.get()


def execute_scan(defs: dg.Definitions, instance: dg.DagsterInstance, as_of: datetime) -> dg.ExecuteInProcessResult:
    """One scan at `as_of` in this process. LaunchError where a step failed."""
    tags = {AS_OF_TAG: as_of_text(as_of)}
    result = _execute(defs, instance, SCAN_JOB, tags, partition_key=partition_of(as_of))
    return _checked(result, f"the scan of {as_of_text(as_of)}")


def execute_backfill(
    defs: dg.Definitions, instance: dg.DagsterInstance, first_day: str, last_day: str
) -> dg.ExecuteInProcessResult:
    """Candles and readings of first_day … last_day (both included) in one run. LaunchError where a step failed."""
    tags = {"dagster/asset_partition_range_start": first_day, "dagster/asset_partition_range_end": last_day}
    result = _execute(defs, instance, BACKFILL_JOB, tags)
    return _checked(result, f"the backfill of {first_day} … {last_day}")


def _execute(
    defs: dg.Definitions, instance: dg.DagsterInstance, name: str, tags: dict[str, str], **partition: Any
) -> dg.ExecuteInProcessResult:
    """The job `name` in this process, recorded so that Dagster's pages can re-execute it.

    Such a run must say which code location it belongs to, and Dagster has no public way to say it for a run in
    process: the names below are internal, and the versions are pinned.
    """
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), "__repository__")
    create = partial(instance.create_run_for_job, remote_job_origin=RemoteJobOrigin(repository, name))
    with mock.patch.object(instance, "create_run_for_job", create), _records_told(name, instance):
        return defs.resolve_job_def(name).execute_in_process(
            instance=instance,
            tags=tags | {PROCESS_TAG: own_process()},
            run_config=dict(QUIET),
            raise_on_error=False,
            **partition,
        )


@contextmanager
def _records_told(name: str, instance: dg.DagsterInstance) -> Iterator[None]:
    """LaunchError where Dagster cannot write its own records, which is no fault of a step."""
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except (OperationalError, OSError) as error:
        words = str(getattr(error, "orig", None) or error)
        raise LaunchError(
            f"the run of {name} could not be recorded in {instance.root_directory}: {words}; make sure that its disk "
            "has room (`v7 doctor` says how much is left) and can be written to"
        ) from None


def _checked(result: dg.ExecuteInProcessResult, what: str) -> dg.ExecuteInProcessResult:
    if result.success:
        return result
    failures = [event for event in result.all_events if event.is_step_failure]
    causes = []
    for event in failures:
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        text = event.step_failure_data.user_failure_data
        reason = (text.description if text and text.description else None) or (_sentence(error) if error else "unknown")
        causes.append(f"{event.step_key}: {reason}")
    raise LaunchError(
        f"{what} failed (run {result.run_id}): " + "; ".join(causes or ["see the run in Dagster's pages"])
    )


def _sentence(error: Any) -> str:
    """The error's own words; Dagster puts the class before them, which says nothing where the words are ours."""
    words = str(error.message).strip()
    return words.partition(": ")[2] if words.startswith("v7_pipeline.") else words
