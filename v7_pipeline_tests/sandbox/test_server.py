"""The server itself: its pages, its mark, its counts, and that it starts and ends as told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from v7_pipeline.sandbox.replay import ReplayError
from v7_pipeline.sandbox.server import SandboxError, SandboxServer, run
from v7_pipeline_tests.ports import free_port
from v7_pipeline_tests.sandbox.conftest import MINUTE_S, NOW, Client

ROOT = Path(__file__).resolve().parents[2]


def test_lesson_21_every_answer_is_marked_demo(client: Client) -> None:
    answers = [
        client.get(path) for path in ("/", "/health", "/time", "/products/NOPE-USD", "/no/such/page", "/_requests")
    ]
    answers += [client.chat(), client.chat(key=None), client.candles(1, 2)]
    client.server.fault("candles", "status", status=503)
    answers.append(client.candles(1, 2))
    assert {answer.headers.get("X-V7-Demo") for answer in answers} == {"sandbox"}


def test_the_front_page_says_demo_in_plain_words_and_lists_the_endpoints(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for text in (
        "DEMO",
        "nothing here is real",
        "seed 7",
        "/products/{id}/candles",
        "/chat/completions",
        "/_faults",
        "BTC-USD",
    ):
        assert text in page.text


def test_health_names_source_and_seed(client: Client) -> None:
    assert client.get("/health").json() == {"status": "ok", "source": "demo", "prices": "simulated", "seed": 7}


def test_requests_are_counted_by_endpoint(client: Client) -> None:
    client.candles(MINUTE_S - 60, MINUTE_S)
    client.advanced(MINUTE_S - 60, MINUTE_S)
    client.chat()
    client.get("/health")
    assert client.get("/_requests").json() == {"candles": 2, "chat": 1} == client.server.counts
    assert client.session.delete(f"{client.server.url}/_requests", timeout=60).json() == {}


def test_many_clients_at_once_get_what_one_gets(client: Client) -> None:
    starts = [MINUTE_S - 60 * 300 * n for n in range(1, 13)]

    def ask(start: int) -> object:
        url = f"{client.server.url}/products/SOL-USD/candles"
        return requests.get(url, params={"granularity": 60, "start": start, "end": start + 299 * 60}, timeout=60).json()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, starts)) == [ask(start) for start in starts]


def test_two_servers_with_one_seed_agree_and_a_third_with_another_does_not() -> None:
    pages = []
    for seed in (7, 7, 8):
        with SandboxServer(seed=seed, clock=lambda: NOW) as server:
            pages.append(Client(server).candles(MINUTE_S - 6000, MINUTE_S).json())
    assert pages[0] == pages[1] != pages[2]


def test_by_default_the_clock_is_the_wall() -> None:
    with SandboxServer() as server:
        before = time.time()
        assert before - 1 <= Client(server).get("/time").json()["epoch"] <= time.time() + 1


def test_leaving_the_context_frees_the_port_and_ends_the_thread() -> None:
    with SandboxServer() as server:
        url = server.url
        assert requests.get(f"{url}/health", timeout=60).ok
    assert not server._thread.is_alive()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=1)


def test_leaving_the_context_does_not_wait_for_a_slow_drip() -> None:
    with SandboxServer() as server:
        server.fault("time", "slow_drip", delay_s=60)
        answer = requests.get(f"{server.url}/time", stream=True, timeout=60)
        begun = time.monotonic()
    answer.close()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_quietly_until_a_signal_and_ends_cleanly(number: signal.Signals) -> None:
    port = free_port()
    code = (
        "import sys; from v7_pipeline.sandbox.server import run\n"
        "assert 'uvicorn' not in sys.modules, 'uvicorn is imported before a server is wanted'\n"
        f"run('127.0.0.1', {port}, seed=3)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        for _ in range(600):
            try:
                assert requests.get(f"http://127.0.0.1:{port}/health", timeout=60).json()["seed"] == 3
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert output == b""


def test_a_taken_port_and_a_bad_recording_are_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SandboxError, match=r"cannot listen on 127\.0\.0\.1:"):
            run("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ReplayError, match="no such file"):
        run("127.0.0.1", free_port(), replay_files=[tmp_path / "BTC-USD.csv"])
