"""Writing and reading, on every kind of store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from v7_pipeline.store import Counts, Store, StoreError, open_store
from v7_pipeline.store.schema import TABLES, table
from v7_pipeline_tests.store.conftest import NOW
from v7_pipeline_tests.store.rows import DAY, NEXT_DAY, make_rows

MINUTE = timedelta(minutes=1)


def by_key(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(list(table(name).key)).reset_index(drop=True)


def shown(store: Store) -> list[str]:
    """All tables; of a lake on SQLite, where each takes long, every fourth: with PostgreSQL it is all again."""
    every = 4 if ".sqlite" in repr(store) else 1
    return [name for place, name in enumerate(TABLES) if place % every == 0 or name == "schema_version"]


def test_lesson_19_a_fresh_store_writes_and_reads_back_every_table(store: Store) -> None:
    frames = {name: make_rows(name, 7) for name in shown(store)}
    with store.transaction() as tx:
        tx.execute("DELETE FROM schema_version")
        for name, frame in frames.items():
            assert tx.upsert(name, frame) == Counts(inserted=7)
    with store.reading() as reader:
        for name, frame in frames.items():
            assert_frame_equal(reader.read(name), by_key(name, frame))


def test_types_are_the_same_whether_written_or_read(store: Store) -> None:
    frame = make_rows("gated_signals", 7)
    with store.transaction() as tx:
        tx.upsert("gated_signals", frame)
    back = store.query("SELECT plan_ok, as_of, tier, quantity FROM gated_signals ORDER BY as_of")
    assert [str(kind) for kind in back.dtypes] == ["boolean", "datetime64[us, UTC]", "object", "float64"]
    assert back["tier"][1] is None and np.isnan(back["quantity"][1]) and back["plan_ok"][1] is pd.NA
    counted = store.query(
        "SELECT count(*) AS n, sum(1) AS s, max(as_of) AS newest FROM gated_signals WHERE as_of < ?", (DAY,)
    )
    assert [str(kind) for kind in counted.dtypes] == ["Int64", "Int64", "datetime64[us, UTC]"]
    assert counted["n"][0] == 0 and counted["newest"][0] is pd.NaT


def test_upsert_counts_and_rewrites_only_what_changed(store: Store) -> None:
    old = make_rows("candles", 6, run_id="first")
    new = make_rows("candles", 8, run_id="second")
    new.loc[[2, 5], "close"] = 77.0
    new["fetched_at"] += MINUTE
    with store.transaction() as tx:
        assert tx.upsert("candles", old) == Counts(inserted=6)
        assert tx.upsert("candles", new) == Counts(inserted=2, changed=2, unchanged=4)
    expected = pd.concat([old.drop(index=[2, 5]), new.loc[[2, 5, 6, 7]]])
    assert_frame_equal(store.read("candles"), by_key("candles", expected))


def test_a_missing_value_differs_from_a_present_one(store: Store) -> None:
    frame = make_rows("outcomes", 3)
    with store.transaction() as tx:
        tx.upsert("outcomes", frame)
        assert pd.isna(frame["exit_price"][1]) and pd.isna(frame["exit_reason"][1])
        frame.loc[1, ["exit_price", "exit_reason"]] = [5.0, "stop"]
        frame.loc[0, "exit_time"] = pd.NaT
        assert tx.upsert("outcomes", frame) == Counts(changed=2, unchanged=1)
    assert_frame_equal(store.read("outcomes"), frame)


def test_insert_new_keeps_facts_and_names_the_differing(store: Store) -> None:
    facts = make_rows("llm_signals", 4)
    again = make_rows("llm_signals", 6, run_id="again")
    again.loc[2, "confidence"] = 0.99
    again.loc[3, "decided_at"] += MINUTE
    with store.transaction() as tx:
        assert tx.insert_new("llm_signals", facts) == Counts(inserted=4)
        ids = tuple((text,) for text in again["signal_id"][[2, 3]])
        assert tx.insert_new("llm_signals", again) == Counts(inserted=2, kept=4, differing=ids)
        clocked = tx.insert_new("llm_signals", again, ignore=("decided_at",))
        assert clocked == Counts(kept=6, differing=ids[:1])
    assert_frame_equal(store.read("llm_signals"), by_key("llm_signals", pd.concat([facts, again[4:]])))


def test_replace_slice_makes_the_frame_the_slices_whole_content(store: Store) -> None:
    before, inside, after = (make_rows("theory_features", 6, start=DAY + timedelta(days=d)) for d in (-1, 0, 1))
    new = make_rows("theory_features", 4, salt=1)
    new = pd.concat([new, make_rows("theory_features", 2, start=DAY + timedelta(hours=2))], ignore_index=True)
    new.loc[0] = inside.loc[0]
    with store.transaction() as tx:
        for frame in (before, inside, after):
            tx.upsert("theory_features", frame)
        counts = tx.replace_slice("theory_features", new, start=DAY, end=NEXT_DAY)
    assert counts == Counts(inserted=2, changed=3, unchanged=1, removed=2)
    expected = by_key("theory_features", pd.concat([before, new, after]))
    assert_frame_equal(store.read("theory_features"), expected)


def test_replace_slice_of_some_symbols_leaves_the_others(store: Store) -> None:
    frame = make_rows("candles", 9)
    with store.transaction() as tx:
        tx.upsert("candles", frame)
        one = frame[frame["symbol"] == "ETH-USD"].iloc[:1]
        counts = tx.replace_slice("candles", one, start=DAY, end=NEXT_DAY, symbols=["ETH-USD"])
    assert counts == Counts(unchanged=1, removed=2)
    assert store.read("candles")["symbol"].value_counts().to_dict() == {"BTC-USD": 3, "SOL-USD": 3, "ETH-USD": 1}


def test_replace_slice_moves_a_row_whose_key_lay_in_another_day(store: Store) -> None:
    frame = make_rows("llm_signals", 2)
    with store.transaction() as tx:
        tx.upsert("llm_signals", frame)
        moved = frame.assign(as_of=frame["as_of"] + timedelta(days=1))
        tx.replace_slice("llm_signals", moved, start=NEXT_DAY, end=NEXT_DAY + timedelta(days=1))
    assert_frame_equal(store.read("llm_signals"), by_key("llm_signals", moved))


def test_an_empty_frame_replaces_nothing_unless_known_to_be_empty(store: Store) -> None:
    frame = make_rows("candles", 6)
    nothing = frame.iloc[:0]
    with store.transaction() as tx:
        tx.upsert("candles", frame)
        assert tx.upsert("candles", nothing) == Counts() == tx.insert_new("candles", nothing)
    with pytest.raises(StoreError, match=r"empty frame would delete candles.*known_empty"), store.transaction() as tx:
        tx.replace_slice("candles", nothing, start=DAY, end=NEXT_DAY)
    assert len(store.read("candles")) == 6
    with store.transaction() as tx:
        assert tx.replace_slice("candles", nothing, start=DAY, end=NEXT_DAY, known_empty=True) == Counts(removed=6)
    assert store.read("candles").empty


def test_rows_outside_the_slice_are_refused(store: Store) -> None:
    frame = make_rows("candles", 6)
    span: dict[str, Any]
    for span in (
        {"start": DAY + MINUTE, "end": NEXT_DAY},
        {"start": DAY, "end": DAY + 5 * MINUTE},
        {"start": DAY, "end": NEXT_DAY, "symbols": ["BTC-USD", "ETH-USD"]},
    ):
        with pytest.raises(StoreError, match="outside"), store.transaction() as tx:
            tx.replace_slice("candles", frame, **span)
    with pytest.raises(StoreError, match="no time to slice by"), store.transaction() as tx:
        tx.replace_slice("schema_version", make_rows("schema_version"), start=DAY, end=NEXT_DAY)


def test_an_exception_rolls_the_whole_transaction_back(store: Store) -> None:
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 3))
    before = store.read("candles")
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 6, salt=3))
        tx.execute("DELETE FROM candles WHERE symbol = 'BTC-USD'")
        tx.upsert("scans", make_rows("scans", 2))
        _ = 1 / 0
    assert_frame_equal(store.read("candles"), before)
    assert store.read("scans").empty


def test_read_selects_by_time_symbol_and_column_ordered_by_key(store: Store) -> None:
    frame = make_rows("candles", 9)
    with store.transaction() as tx:
        tx.upsert("candles", frame.sample(frac=1, random_state=3).reset_index(drop=True))
    span = {"start": DAY + MINUTE, "end": DAY + 7 * MINUTE}
    back = store.read("candles", **span, symbols=["SOL-USD", "BTC-USD"], columns=["close", "open_time"])
    chosen = frame[1:7][frame["symbol"][1:7] != "ETH-USD"]
    assert_frame_equal(back, by_key("candles", chosen)[["close", "open_time"]])
    assert store.read("candles", symbols=[]).empty
    with pytest.raises(KeyError, match="no table 'candle'"):
        store.read("candle")
    with pytest.raises(KeyError, match="no column 'vwap'"):
        store.read("candles", columns=["vwap"])
    with pytest.raises(StoreError, match="must be a list"):
        store.read("candles", symbols="BTC-USD")  # type: ignore[arg-type]


def test_lesson_01_newest_n_is_newest(store: Store) -> None:
    frame = make_rows("candles", 60)
    rng = np.random.default_rng(7)
    for part in np.array_split(rng.permutation(60), 5):  # newest first, oldest last, and all between
        with store.transaction() as tx:
            tx.upsert("candles", frame.iloc[part].reset_index(drop=True))
    btc = frame[frame["symbol"] == "BTC-USD"].reset_index(drop=True)
    eth = frame[frame["symbol"] == "ETH-USD"].reset_index(drop=True)
    expected = pd.concat([btc.tail(4), eth.tail(4)], ignore_index=True)
    assert_frame_equal(store.newest("candles", 4, symbols=["BTC-USD", "ETH-USD"]), expected)
    assert_frame_equal(store.newest("candles", 3), frame.tail(3).reset_index(drop=True))
    before = store.newest("candles", 2, before=DAY + 30 * MINUTE)
    assert_frame_equal(before, frame.iloc[28:30].reset_index(drop=True))


def test_lesson_32_writing_the_same_twice_changes_nothing(store: Store) -> None:
    names = [name for name in shown(store) if name != "schema_version"]
    with store.transaction() as tx:
        for name in names:
            tx.upsert(name, make_rows(name, 5))
    with store.transaction() as tx:
        for name in names:
            assert tx.upsert(name, make_rows(name, 5, run_id="another")) == Counts(unchanged=5)
    with store.reading() as reader:
        for name in names:
            assert_frame_equal(reader.read(name), by_key(name, make_rows(name, 5)))


def test_the_plans_view_has_its_columns(store: Store) -> None:
    with store.transaction() as tx:
        tx.upsert("llm_signals", make_rows("llm_signals", 3))
        tx.upsert("gated_signals", make_rows("gated_signals", 3))
    signals = store.query("SELECT * FROM signals ORDER BY timestamp")
    named = "id timestamp symbol signal_type confidence reasoning tier ftmo_compliant executed created_at"
    assert list(signals.columns) == named.split()
    assert signals["id"].tolist() == make_rows("llm_signals", 3)["signal_id"].tolist()
    assert signals["executed"].tolist() == [True, False, True]


def test_reading_within_a_transaction_sees_its_changes(store: Store) -> None:
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 3))
        assert len(store.read("candles")) == len(tx.read("candles")) == 3
        with store.reading() as reader:
            assert reader.query("SELECT count(*) AS n FROM candles")["n"][0] == 3
        tx.upsert("candles", make_rows("candles", 4))
    with pytest.raises(StoreError, match="has ended"):
        tx.read("candles")


def test_blocks_that_may_write_do_not_nest(store: Store) -> None:
    with store.reading(), pytest.raises(StoreError, match="in a block of this store"), store.transaction():
        pass
    with store.transaction(), pytest.raises(StoreError, match="in a block of this store"), store.transaction():
        pass
    with store.transaction(), pytest.raises(StoreError, match="in a block of this store"), store.session():
        pass
    with store.transaction() as tx:  # and the refusals have broken nothing
        tx.upsert("candles", make_rows("candles", 1))


def test_a_reader_cannot_write(store: Store) -> None:
    import duckdb

    with pytest.raises(duckdb.Error, match=r"(?i)read.only"), store.reading() as reader:
        reader.query("DELETE FROM candles")


def test_one_reading_block_sees_one_snapshot(place: dict[str, Any], store: Store) -> None:
    if place["url"].startswith("duckdb:"):
        pytest.skip("a file's reader keeps writers out")
    with store.reading() as reader:
        assert reader.read("candles").empty
        _in_thread(lambda: _write_rows(open_store(**place), 3))
        assert reader.read("candles").empty
    assert len(store.read("candles")) == 3


def test_a_session_serves_many_transactions_and_threads(place: dict[str, Any], store: Store) -> None:
    with store.session():
        for i in range(5):
            with store.transaction() as tx:
                tx.upsert("candles", make_rows("candles", i + 1))
            assert len(store.read("candles")) == i + 1
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            tx.execute("DELETE FROM candles")
            _ = 1 / 0
        assert len(store.read("candles")) == 5
        with store.session():
            _in_thread(lambda: _write_rows(open_store(**place), 8))
        assert len(store.read("candles")) == 8
    assert len(open_store(**place).read("candles")) == 8


def _write_rows(store: Store, n: int) -> None:
    with store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", n))


def _in_thread(work: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result(timeout=30)


def test_a_store_that_is_not_there_says_what_to_run(empty_store: Store) -> None:
    assert empty_store.schema_version() is None
    with pytest.raises(StoreError, match="does not exist yet; run v7 scan or v7 up first"):
        empty_store.read("candles")
    with pytest.raises(StoreError, match="v7 up first"), empty_store.transaction():
        pass
    with pytest.raises(StoreError, match="v7 up first"), empty_store.session():
        pass
    assert empty_store.schema_version() is None  # asking created nothing


def test_connections_can_come_from_elsewhere(tmp_path: Path) -> None:
    import duckdb

    asked: list[bool] = []

    class Factory:
        """Like a resource that does not close its connection after an exception."""

        def __init__(self, read_only: bool) -> None:
            asked.append(read_only)
            self.connection = duckdb.connect(str(tmp_path / "x.duckdb"), read_only=read_only)

        def __enter__(self) -> duckdb.DuckDBPyConnection:
            return self.connection

        def __exit__(self, kind: Any, *_: Any) -> None:
            if kind is None:
                self.connection.close()

    store = open_store(f"duckdb:{tmp_path / 'x.duckdb'}", connect=Factory)
    store.migrate("0.1.0", NOW)
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.upsert("candles", make_rows("candles", 3))
        _ = 1 / 0
    assert open_store(f"duckdb:{tmp_path / 'x.duckdb'}").read("candles").empty  # the file is free again
    assert asked == [False, False]
    assert store.read("candles").empty
    assert asked[2:] == [True]


def test_what_is_no_store_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for url in ("sqlite:x", "ducklake:mysql:x", "", "duckdb:", "ducklake:sqlite:"):
        with pytest.raises(StoreError):
            open_store(url)
    file = tmp_path / "text.duckdb"
    file.write_text("no database " * 1000)
    with pytest.raises(StoreError, match=r"text.duckdb cannot be opened"):
        open_store(f"duckdb:{file}").read("candles")


def test_lesson_30_a_connection_string_never_reaches_a_message() -> None:
    store = open_store("ducklake:postgres:host=/nowhere dbname=v7 user=u password=tops3cret", data_path="/tmp/x")
    for attempt in (store.schema_version, lambda: store.read("candles"), lambda: store.migrate("0.1.0", NOW)):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert "tops3cret" not in str(caught.value) and "v7" in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert "tops3cret" not in repr(store)


def test_a_lake_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    store = open_store(f"ducklake:sqlite:{tmp_path / 'old' / 'v7.sqlite'}")
    store.migrate("0.1.0", NOW)
    _write_rows(store, 30)
    store.close()
    (tmp_path / "old").rename(tmp_path / "new")
    moved = open_store(f"ducklake:sqlite:{tmp_path / 'new' / 'v7.sqlite'}")
    assert_frame_equal(moved.read("candles"), by_key("candles", make_rows("candles", 30)))
    moved.close()


Offer = st.dictionaries(st.integers(0, 9), st.floats(-5, 5).filter(lambda x: x != 0), min_size=1)


@settings(max_examples=8)
@given(offers=st.lists(st.tuples(st.sampled_from(["upsert", "insert_new", "replace"]), Offer), max_size=6))
def test_the_store_is_a_dictionary_by_key(tmp_path_factory: pytest.TempPathFactory, offers: list[Any]) -> None:
    store = open_store(f"duckdb:{tmp_path_factory.mktemp('model') / 'm.duckdb'}")
    store.migrate("0.1.0", NOW)
    model: dict[int, float] = {}
    all_rows = make_rows("candles", 10)
    with store.session():
        for kind, offer in offers:
            frame = all_rows.loc[list(offer)].assign(close=list(offer.values()))
            with store.transaction() as tx:
                if kind == "upsert":
                    tx.upsert("candles", frame)
                    model |= offer
                elif kind == "insert_new":
                    tx.insert_new("candles", frame)
                    model = offer | model
                else:
                    tx.replace_slice("candles", frame, start=DAY, end=NEXT_DAY)
                    model = dict(offer)
            stored = store.query("SELECT open_time, close FROM candles")
            minutes = ((stored["open_time"] - pd.Timestamp(DAY)) // pd.Timedelta(MINUTE)).tolist()
            assert dict(zip(minutes, stored["close"], strict=True)) == model and len(stored) == len(model)


def test_text_and_numbers_come_back_exactly(store: Store) -> None:
    hard = make_rows("llm_calls", 3).assign(
        prompt="a\0b 'quoted' \"x\" — λ 🙂\n", latency_s=[5e-324, 1.7976931348623157e308, -0.1], prompt_tokens=2**63 - 1
    )
    hard["prompt_tokens"] = hard["prompt_tokens"].astype("Int64")
    with store.transaction() as tx:
        tx.upsert("llm_calls", hard)
    assert_frame_equal(store.read("llm_calls"), by_key("llm_calls", hard))


def test_instants_before_1970_and_far_ahead_come_back(store: Store) -> None:
    frame = make_rows("halts", 2).assign(
        until=pd.Series(
            [datetime(1969, 7, 20, tzinfo=UTC), datetime(2262, 5, 1, tzinfo=UTC)], dtype="datetime64[us, UTC]"
        )
    )
    with store.transaction() as tx:
        tx.upsert("halts", frame)
    assert_frame_equal(store.read("halts"), frame)
