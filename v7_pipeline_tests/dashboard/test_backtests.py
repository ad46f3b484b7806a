"""Pages of backtests on the dashboard: listed with their verdict, served as they are, and no other file with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from v7_pipeline.dashboard.app import create_app
from v7_pipeline.settings import Settings

NAME = "backtest-20231211-0123456789ab"


@pytest.fixture
def folder(make_settings: Any) -> Path:
    folder: Path = make_settings().data_dir / "backtest"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def client(make_settings: Any) -> TestClient:
    settings: Settings = make_settings()
    return TestClient(create_app(None, mode=settings.mode, settings=settings), base_url="http://127.0.0.1")  # type: ignore[arg-type]


def made(folder: Path, name: str = NAME, **told: Any) -> None:
    head = {"strategy": "v7", "demo": True, "first": "2023-12-11T00:00:00Z", "last": "2023-12-11T23:58:00Z"}
    (folder / f"{name}.html").write_text("<title>a page</title><script>1</script>")
    (folder / f"{name}.json").write_text(json.dumps(head | {"verdict": {"headline": "No <verdict>."}} | told))


def test_without_one_it_says_how_to_make_one(client: TestClient) -> None:
    answer = client.get("/backtests")
    assert answer.status_code == 200 and "v7 backtest --from" in answer.text


def test_each_is_listed_with_its_verdict_and_a_link(client: TestClient, folder: Path) -> None:
    made(folder)
    text = client.get("/backtests").text
    assert f'href="/backtests/{NAME}.html"' in text and "2023-12-11 … 2023-12-11" in text
    assert "No &lt;verdict&gt;." in text and "DEMO" in text


def test_figures_that_cannot_be_read_hide_no_other_page(client: TestClient, folder: Path) -> None:
    made(folder)
    other = "backtest-20231212-0123456789ab"
    made(folder, other)
    (folder / f"{other}.json").write_text("{")
    text = client.get("/backtests").text
    assert "cannot be read" in text and NAME in text and other in text


def test_the_page_is_served_with_a_policy_that_asks_nobody(client: TestClient, folder: Path) -> None:
    made(folder)
    answer = client.get(f"/backtests/{NAME}.html")
    assert answer.status_code == 200 and "<title>a page</title>" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'unsafe-inline'" in policy and "http" not in policy
    assert client.get(f"/backtests/{NAME}.json").json()["strategy"] == "v7"


@pytest.mark.parametrize(
    "name",
    [
        "trials.duckdb",
        "..%2f..%2fv7.duckdb",
        "backtest-1-2.html",
        f"{NAME}.duckdb",
        f"{NAME}.html.part",
        f".{NAME}.html",
    ],
)
def test_no_other_file_is_served(client: TestClient, folder: Path, name: str) -> None:
    for other in ("trials.duckdb", f"{NAME}.duckdb", f"{NAME}.html.part", f".{NAME}.html"):
        (folder / other).write_text("secret")
    answer = client.get(f"/backtests/{name}")
    assert answer.status_code == 404 and "secret" not in answer.text
