"""Adding a theory is one file and one line: the documentation's example, done as it says, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "price_position.py"

# The package with one file added and one file changed, without copying it (and its compiled kernels).
PROGRAM = """
import importlib.util, json, sys
from datetime import UTC, datetime

class Changed:
    files = dict(json.loads(sys.argv[1]))
    def find_spec(self, name, path=None, target=None):
        file = self.files.get(name)
        return importlib.util.spec_from_file_location(name, file) if file else None

sys.meta_path.insert(0, Changed())
import numpy as np, pandas as pd
from v7_pipeline.analyst.rules import decide_frame
from v7_pipeline.store import conform, open_store
from v7_pipeline.store.schema import THEORY_NAMES
from v7_pipeline.theories import compute_features, explain

n = 3200
close = 100 * np.exp(4e-4 * np.cumsum(np.random.default_rng(4).standard_normal(n)))
times = pd.date_range("2024-03-01", periods=n, freq="min", tz="UTC").as_unit("us")
candles = pd.DataFrame({"symbol": "BTC-USD", "open_time": times, "open": close, "high": close, "low": close,
                        "close": close, "volume": 1.0})
readings = compute_features(candles, since=times[-3].to_pydatetime())
store = open_store(sys.argv[2])
store.migrate("test", datetime(2024, 3, 4, tzinfo=UTC))
with store.transaction() as tx:
    marked = readings.assign(source="live", run_id="r", code_version="0")
    tx.upsert("theory_features", conform("theory_features", marked))
row = store.read("theory_features").iloc[-1]
window = close[-240:]
print(json.dumps({
    "names": list(THEORY_NAMES),
    "stored": float(row["price_position"]),
    "expected": float((window[-1] - window.min()) / (window.max() - window.min())),
    "percentile": None if pd.isna(row["price_position_percentile"]) else 1,
    "told": explain("price_position", row),
    "sides": decide_frame(readings.assign(market_price=close[-1]), quote_increment=0.01, horizon_minutes=240,
                          reward_risk=1.5)["side"].tolist(),
}))
"""


def test_the_documented_eleventh_theory_takes_one_file_and_one_line(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "theories.md").read_text(encoding="utf-8")
    assert EXAMPLE.read_text(encoding="utf-8").rstrip() in page, "docs/theories.md shows another example"
    line = re.search(r'^    "price_position": \(.*\),$', page, re.MULTILINE)
    assert line is not None
    schema = (ROOT / "v7_pipeline" / "store" / "schema.py").read_text(encoding="utf-8")
    end = re.search(r"^}\nTHEORY_NAMES", schema, re.MULTILINE)
    assert end is not None
    changed = tmp_path / "schema.py"
    changed.write_text(schema[: end.start()] + line[0] + "\n" + schema[end.start() :], encoding="utf-8")
    files = {"v7_pipeline.theories.price_position": str(EXAMPLE), "v7_pipeline.store.schema": str(changed)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(files), f"duckdb:{tmp_path / 'v7.duckdb'}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen["names"]) == 11 and seen["names"][-1] == "price_position"
    assert abs(seen["stored"] - seen["expected"]) < 1e-6
    assert seen["percentile"] is None, "it claims no place under noise"
    assert re.fullmatch(r"The price stands at \d+ % of its four-hour range\.", seen["told"])
    assert all(side in ("BUY", "SELL", "HOLD") for side in seen["sides"])


def test_a_listed_theory_without_its_file_is_named(tmp_path: Path) -> None:
    schema = (ROOT / "v7_pipeline" / "store" / "schema.py").read_text(encoding="utf-8")
    changed = tmp_path / "schema.py"
    changed.write_text(schema.replace("\nTHEORY_NAMES:", '\nTHEORY_VALUES["astrology"] = ()\nTHEORY_NAMES:', 1))
    files = {"v7_pipeline.store.schema": str(changed)}
    program = PROGRAM.split("import numpy", 1)[0] + "import v7_pipeline.theories"
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "store/schema.py lists the theory 'astrology', but theories/astrology.py is missing" in done.stderr
