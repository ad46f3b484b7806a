"""Dagster's home: ours where nothing is said, and what an operator set in its dagster.yaml is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from v7_pipeline.orchestration.launch import LaunchError, prepare_home
from v7_pipeline.settings import Settings, load_settings

POSTGRES = {"storage": {"postgres": {"postgres_url": {"env": "V7_TEST_PG_URL"}}}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, mode="demo", _env_file=None)


def held(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((home / "dagster.yaml").read_text())
    return found


def test_a_storage_that_was_set_by_hand_stays_and_the_rest_is_ours(settings: Settings) -> None:
    home = prepare_home(settings)
    ours = held(home)
    assert ours["event_log_storage"]["class"] == "BatchedEventLog"
    assert prepare_home(settings) == home and held(home) == ours  # our own one is no operator's
    changed = ours | POSTGRES | {"python_logs": {"python_log_level": "INFO"}, "run_retries": {"enabled": False}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(changed))
    for _ in range(2):
        prepare_home(settings)
        now = held(home)
        assert {name: now[name] for name in ("storage", "python_logs")} == POSTGRES | {
            "python_logs": {"python_log_level": "INFO"}
        }
        assert "event_log_storage" not in now  # Dagster takes one storage only
        assert now["run_retries"] == ours["run_retries"]
    (home / "dagster.yaml").unlink()
    prepare_home(settings)
    assert held(home) == ours


def test_a_file_of_the_storage_alone_is_completed(settings: Settings) -> None:
    home = prepare_home(settings)
    (home / "dagster.yaml").write_text(yaml.safe_dump(POSTGRES))
    prepare_home(settings)
    assert held(home)["storage"] == POSTGRES["storage"]
    assert held(home)["concurrency"]["runs"]["max_concurrent_runs"] == 4


@pytest.mark.parametrize("text", ["storage: {postgres: ", "- storage", "- other", "just words"])
def test_a_file_that_cannot_be_read_is_not_replaced(settings: Settings, text: str) -> None:
    home = prepare_home(settings)
    (home / "dagster.yaml").write_text(text)
    with pytest.raises(LaunchError, match=r"dagster\.yaml cannot be read: .*; mend it, or delete it"):
        prepare_home(settings)
    assert (home / "dagster.yaml").read_text() == text
