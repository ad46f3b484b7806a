"""`v7 attribution`: figures with n and intervals, nothing ranked that has too few, refusals in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from v7_pipeline.orchestration.charts import attribution_png, in_markdown
from v7_pipeline.store import Store, conform, open_store
from v7_pipeline.store.schema import THEORY_NAMES, table
from v7_pipeline_tests.learning.frames import EPOCH
from v7_pipeline_tests.test_cli import refused, v7

MARKS = {"source": "demo", "run_id": "r", "code_version": "0"}


def theories(scope: str = "all") -> pd.DataFrame:
    """Ten rows: the seventh theory helps, the last never spoke, the first has too few."""
    n = np.arange(10) * 40.0 + 20
    frame = pd.DataFrame(
        {
            "as_of": EPOCH, "theory_name": THEORY_NAMES, "scope": scope, "n": (3 * n).astype(int), "n_eff": n,
            "accuracy": 0.5, "accuracy_lower": 0.4, "accuracy_upper": 0.6, "shrunk_accuracy": 0.5, "ic": 0.01,
            "ic_lower": -0.1, "ic_upper": 0.1, "shapley": 0.0123, "p_value": 0.9, "q_value": 0.9, "holm_p": 1.0,
            "verdict": "indistinguishable",
        }
    )  # fmt: skip
    frame.loc[6, ["accuracy", "holm_p", "verdict"]] = [0.57, 0.01, "helps"]
    frame.loc[0, ["verdict", "holm_p"]] = ["too few", 0.001]
    missing = ["accuracy", "accuracy_lower", "accuracy_upper", "shrunk_accuracy", "ic", "ic_lower", "ic_upper",
               "shapley", "p_value", "q_value", "holm_p"]  # fmt: skip
    frame.loc[9, missing] = np.nan
    frame.loc[9, ["n", "n_eff", "verdict"]] = [0, 0.0, "too few"]
    return frame


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("V7_HOME", str(tmp_path))
    monkeypatch.setenv("V7_MODE", "demo")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "demo").mkdir()
    made = open_store(f"duckdb:{tmp_path / 'demo' / 'v7.duckdb'}")
    made.migrate("1", EPOCH.to_pydatetime())
    return made


def put(store: Store, name: str, frame: pd.DataFrame) -> None:
    whole = frame.assign(**MARKS).reindex(columns=list(table(name).column_names))
    with store.transaction() as tx:
        tx.upsert(name, conform(name, whole))


def test_before_a_trade_has_closed_it_says_so(store: Store) -> None:
    assert "no trade has closed yet" in refused("attribution")


def test_the_table_has_n_and_intervals_is_marked_demo_and_shows_what_is_missing_as_a_dash(store: Store) -> None:
    put(store, "theory_attribution", theories())
    said = v7("attribution")
    assert said.code == 0, said.err
    assert "DEMO, simulated market: all, as of 2023-12-11 00:00Z" in said.out
    lines = {line.split()[1]: line for line in said.out.splitlines() if line.startswith("│")}
    assert "0.57 [0.40, 0.60]" in lines["price_momentum"] and "+0.0123" in lines["price_momentum"]
    assert "–" in lines["bayesian_win_rate"] and "nan" not in said.out and "[–" not in said.out
    assert "price_momentum helps. IC and Shapley values describe" in " ".join(said.out.split())


def test_lesson_22_what_has_too_few_outcomes_stands_below_however_good_it_looks(store: Store) -> None:
    put(store, "theory_attribution", theories())
    found = json.loads(v7("attribution", "--json").out)
    names = [row["theory_name"] for row in found["theories"]]
    assert names[0] == "price_momentum" and set(names[-2:]) == {THEORY_NAMES[0], THEORY_NAMES[9]}
    assert found["demo"] and {row["theory_name"]: row["accuracy"] for row in found["theories"]}[THEORY_NAMES[9]] is None
    put(store, "theory_attribution", theories().assign(verdict="too few"))
    assert "nothing is ranked, nothing concluded" in " ".join(v7("attribution").out.split())


def test_a_scope_is_shown_alone_and_an_unknown_one_names_the_known(store: Store) -> None:
    put(store, "theory_attribution", pd.concat([theories(), theories("side:BUY").assign(n=7)]))
    found = json.loads(v7("attribution", "--scope", "side:BUY", "--json").out)
    assert {row["n"] for row in found["theories"]} == {7} and len(found["theories"]) == 10
    assert "there are all, side:BUY" in refused("attribution", "--scope", "BTC")


def test_proposed_weights_and_expected_accuracies_stand_beside_what_they_rest_on(store: Store) -> None:
    put(store, "theory_attribution", theories())
    weights = pd.DataFrame({"as_of": EPOCH, "theory_name": THEORY_NAMES, "weight": 0.1, "equal_share": 1.0})
    put(store, "theory_weights", weights.assign(evidence='{"expected_accuracy": 0.4321}', acting=False))
    assert "0.432" in v7("attribution").out and "0.100" in v7("attribution").out


def test_the_picture_is_written_and_a_folder_that_is_not_there_is_refused(store: Store, tmp_path: Path) -> None:
    put(store, "theory_attribution", theories())
    place = tmp_path / "worth.png"
    assert v7("attribution", "--picture", str(place)).code == 0
    assert place.read_bytes().startswith(b"\x89PNG")
    assert "there is no folder" in refused("attribution", "--picture", str(tmp_path / "nowhere" / "worth.png"))


def test_the_picture_marks_demo_data_and_needs_all_ten_theories() -> None:
    plain, demo = (attribution_png(theories(), title="all", demo=demo) for demo in (False, True))
    assert plain != demo and in_markdown(plain, "worth").startswith("![worth](data:image/png")
    assert attribution_png(theories().assign(shapley=np.nan, accuracy=np.nan), title="all", demo=False) != plain
    with pytest.raises(ValueError, match="one scope's ten theories"):
        attribution_png(theories().iloc[1:], title="all", demo=False)
