"""Runs whose process is gone: after a power cut or a kill they would stand as started, and keep scans from beginning.

Run monitoring ends those with a bound on their time once it is over; what is known to be dead needs no waiting.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping

import dagster as dg
import psutil

__all__ = ["PROCESS_TAG", "end_orphans", "listens", "own_process"]

PROCESS_TAG = "v7/process"
_SERVER_TAG = ".dagster/grpc_info"  # Dagster's: the code server that launched the run, which its worker ends with
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def own_process() -> str:
    """This process as the value of PROCESS_TAG: its id and when it began, since ids are used again."""
    return f"{os.getpid()} {psutil.Process().create_time():.2f}"


def end_orphans(instance: dg.DagsterInstance) -> list[str]:
    """Mark every unfinished run as failed that is known to have nobody working on it; their ids.

    To be called before the tree's own code server runs. Queued runs wait for the daemon and are no orphans.
    """
    ended = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED)):
        run = record.dagster_run
        if _is_dead(run.tags):
            instance.report_run_failed(run, "The process that worked on this run is gone: it was killed, or the host.")
            ended.append(run.run_id)
    return ended


def _is_dead(tags: Mapping[str, str]) -> bool:
    # The server first: a re-execution from the pages has its parent's tags, and so its parent's process.
    server = json.loads(tags.get(_SERVER_TAG, "{}"))
    if server:
        return bool(server.get("port")) and not listens(server["host"], int(server["port"]))
    if PROCESS_TAG not in tags:
        return False
    pid, began = tags[PROCESS_TAG].split()
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != began
    except psutil.NoSuchProcess:
        return True


def listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False
