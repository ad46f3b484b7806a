"""A batch of events is stored as Dagster stores them one by one, together or not at all."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.orchestration.event_log import BatchedEventLog
from v7_pipeline.orchestration.launch import EVENT_BATCHES, prepare_home
from v7_pipeline.settings import load_settings

DAYS = dg.DailyPartitionsDefinition("2024-01-01")
RANGE = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-20"}


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def first(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
    return dg.MaterializeResult(metadata={"days": len(context.partition_keys)})


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[first])
def second() -> None: ...


DEFS = dg.Definitions(assets=[first, second], jobs=[dg.define_asset_job("both", executor_def=dg.in_process_executor)])


@contextmanager
def instance(home: Path, *, batched: bool) -> Iterator[dg.DagsterInstance]:
    """A real instance: `batched` as our homes are made, otherwise Dagster's own storage."""
    if batched:
        folder = prepare_home(load_settings(home=home, mode="demo", _env_file=None))
    else:
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: { enabled: false }\n")
        folder = home
    made = dg.DagsterInstance.from_config(str(folder))
    try:
        yield made
    finally:
        made.dispose()


def told(used: dg.DagsterInstance, run_id: str) -> dict[str, Any]:
    """What the pages can ask of a range's run."""
    log = used.event_log_storage
    seen: dict[str, Any] = {
        "types": sorted(str(entry.dagster_event_type) for entry in used.all_logs(run_id) if entry.dagster_event)
    }
    for key in (first.key, second.key):
        name = key.to_user_string()
        seen[f"{name}/partitions"] = sorted(log.get_materialized_partitions(key))
        records = used.fetch_materializations(key, limit=100).records
        seen[f"{name}/records"] = [(r.partition_key, r.run_id == run_id, bool(r.storage_id)) for r in records]
        newest = used.get_latest_materialization_event(key)
        assert newest is not None
        seen[f"{name}/newest"] = (newest.dagster_event.partition, str(newest.asset_materialization.metadata))
        seen[f"{name}/in run"] = len(log.get_logs_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION))
    return seen


def test_a_range_leaves_the_same_events_as_dagsters_own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, Any] = {}
    batches: list[int] = []
    whole = BatchedEventLog.store_event_batch
    monkeypatch.setattr(
        BatchedEventLog, "store_event_batch", lambda self, events: (batches.append(len(events)), whole(self, events))[1]
    )
    for batched in (False, True):
        for name, value in EVENT_BATCHES.items():
            monkeypatch.setenv(name, value)
        with instance(tmp_path / str(batched), batched=batched) as used:
            assert isinstance(used.event_log_storage, BatchedEventLog) == batched
            result = DEFS.resolve_job_def("both").execute_in_process(instance=used, tags=RANGE)
            assert result.success
            seen[batched] = told(used, result.run_id)
    assert len(seen[True]["first/partitions"]) == len(seen[True]["second/records"]) == 20
    assert seen[True] == seen[False]
    assert batches == [40, 20, 20], "planned events of both assets, then each one's materialisations"


def test_a_batch_that_fails_leaves_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with instance(tmp_path / "home", batched=True) as used:
        result = DEFS.resolve_job_def("both").execute_in_process(instance=used, tags=RANGE)
        log = used.event_log_storage
        assert isinstance(log, BatchedEventLog)
        entries = [e for e in used.all_logs(result.run_id) if e.dagster_event and e.dagster_event.partition]
        before = told(used, result.run_id)
        single, count = BatchedEventLog.store_event, iter(range(100))

        def failing(self: BatchedEventLog, event: dg.EventLogEntry) -> None:
            if next(count) == 7:
                raise OSError("no space left on device")
            single(self, event)

        monkeypatch.setattr(BatchedEventLog, "store_event", failing)
        with pytest.raises(OSError, match="no space"):
            log.store_event_batch(entries)
        monkeypatch.undo()
        assert told(used, result.run_id) == before
        log.store_event_batch(entries[:2])  # the connections of the failed one are gone
        assert len(told(used, result.run_id)["types"]) == len(before["types"]) + 2


def test_the_home_names_dagsters_own_folder_so_that_older_runs_stay(tmp_path: Path) -> None:
    home = prepare_home(load_settings(home=tmp_path, mode="demo", _env_file=None))
    with instance(tmp_path, batched=True) as used:
        base = used.event_log_storage._base_dir  # type: ignore[attr-defined]
    assert Path(base) == home / "history" / "runs"
    assert json.dumps(f"{base}/") in (home / "dagster.yaml").read_text()
