"""A run whose process is gone is ended; one that somebody works on, or may work on, is left alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import dagster as dg
import psutil
import pytest

from v7_pipeline.orchestration.orphans import PROCESS_TAG, end_orphans, own_process
from v7_pipeline_tests.ports import free_port


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def started(instance: dg.DagsterInstance, **tags: str) -> str:
    @dg.job
    def nothing() -> None: ...

    run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
    return run.run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def server(port: int) -> dict[str, str]:
    return {".dagster/grpc_info": json.dumps({"host": "127.0.0.1", "port": port})}


def test_a_run_of_a_dead_process_or_server_is_ended(instance: dg.DagsterInstance) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    began = psutil.Process(gone.pid).create_time()
    gone.wait()
    runs = [
        started(instance, **{PROCESS_TAG: f"{gone.pid} {began:.2f}"}),
        started(instance, **{PROCESS_TAG: f"{os.getpid()} 1.00"}),  # its id has gone to another process
        started(instance, **{PROCESS_TAG: own_process()}, **server(free_port())),  # a re-execution of a run of ours
    ]
    assert sorted(end_orphans(instance)) == sorted(runs)
    assert {status(instance, run_id) for run_id in runs} == {dg.DagsterRunStatus.FAILURE}
    assert end_orphans(instance) == []


def test_a_run_that_may_be_alive_is_left_alone(instance: dg.DagsterInstance) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        runs = [
            started(instance, **{PROCESS_TAG: own_process()}),
            started(instance, **server(listening.getsockname()[1])),
            started(
                instance, **{".dagster/grpc_info": json.dumps({"host": "localhost", "socket": "/tmp/of.dagster.dev"})}
            ),
            started(instance),
        ]
        assert end_orphans(instance) == []
    assert {status(instance, run_id) for run_id in runs} == {dg.DagsterRunStatus.STARTED}
