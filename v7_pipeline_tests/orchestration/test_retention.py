"""Old runs go with the event file that SQLite keeps for each; young and unfinished ones stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from v7_pipeline.orchestration.retention import prune_runs


@dg.op
def nothing() -> None: ...


@dg.job
def job() -> None:
    nothing()


def _shards(instance: dg.DagsterInstance) -> set[str]:
    return {path.stem for path in (Path(instance.root_directory) / "history" / "runs").glob("*.db")} - {"index"}


def test_finished_runs_older_than_the_bound_go_with_their_event_file() -> None:
    with dg.instance_for_test() as instance:
        done = job.execute_in_process(instance=instance)
        running = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        assert done.run_id in _shards(instance)
        now = datetime.now(UTC)
        assert prune_runs(instance, older_than=now - timedelta(hours=1)) == 0
        assert prune_runs(instance, older_than=now + timedelta(hours=1)) == 1
        assert done.run_id not in _shards(instance)
        assert [run.run_id for run in instance.get_runs()] == [running.run_id]
