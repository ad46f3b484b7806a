"""The pages and the JSON over real HTTP and a real store: what is shown, escaped, refused, and said of a lack."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from v7_pipeline.store import StoreBusy, open_store
from v7_pipeline_tests.dashboard.conftest import EVIL, NEWEST, NOW, closed, decision, gated, put, rate, scan


def row_of(page: str, symbol: str) -> str:
    """The text of the latest decision's row of `symbol`."""
    table = page.split("Latest decision")[1].split("</table>")[0]
    rows = [part for part in table.split("<tr>") if f"<td>{symbol}" in part]
    assert len(rows) == 1, symbol
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", rows[0]))


def test_the_page_shows_the_newest_scan_and_its_age(store, serve):
    page = serve(store)("/")
    assert page.status == 200
    assert "2023-12-11 12:00 UTC" in page.text
    assert "1 min 30 s ago, finished" in page.text
    assert "Newest scan failed for SOL-USD: timed out" in page.text


def test_the_page_shows_the_latest_decision_of_each_product_with_its_reasons(store, serve):
    page = serve(store)("/").text
    eth = row_of(page, "ETH-USD")
    for part in ("SELL", "50 %", "low_confidence, rate_limit", "100.00", "102.00", "96.00", " 2.00 ", "60 s old"):
        assert part in eth, part
    assert "HOLD" in row_of(page, "BTC-USD")
    assert "skipped: stale_price" in row_of(page, "SOL-USD")
    assert "polyline" in page.split("<td>BTC-USD")[1].split("</tr>")[0]


def test_the_page_shows_accepted_signals_of_the_last_day_with_their_outcome(store, serve):
    part = serve(store)("/").text.split("Accepted signals of the last 24 hours")[1]
    assert "2023-12-11 10:00 UTC" in part
    assert "2023-12-10" not in part  # thirty hours ago
    for text in ("HIGH", "1.500000", "$500.00", "win", "target", "1.94 %", "$291.00"):
        assert text in part, text


def test_the_page_shows_cost_against_budget_counting_what_is_reserved(store, serve):
    page = serve(store)("/").text
    assert "$0.7500" in page  # settled 0.25 + reserved 0.50; failed bills nothing; yesterday's 2.00 is yesterday's
    assert "budget $3.00" in page


def test_lesson_22_the_win_rate_is_the_newest_with_n_and_interval(store, serve):
    text = re.sub(r"\s+", " ", serve(store)("/").text)
    assert "61.9 %" in text
    assert "95 % in 40.0 % … 80.0 %, n = 19" in text


def test_lesson_15_missing_is_a_dash_and_never_zero(store, serve):
    sol = row_of(serve(store)("/").text, "SOL-USD")
    assert sol.count("–") >= 8
    assert not re.search(r"\b(0|nan|None|NaT)\b", sol)


def test_lesson_31_markup_in_reasoning_is_escaped(store, serve):
    page = serve(store)("/").text
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)

    Reader().feed(page)
    assert "script" not in tags
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; p &lt;0.5" in page


def test_the_page_needs_no_script_and_nothing_from_elsewhere(store, serve):
    page = serve(store)("/")
    assert 'http-equiv="refresh" content="30"' in page.text
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_lesson_21_demo_is_marked_on_every_page_and_live_is_not(store, empty_store, serve):
    assert "DEMO" not in serve(store)("/").text
    demo = serve(store, mode="demo")
    assert "DEMO: simulated market" in demo("/").text
    assert "<title>DEMO" in demo("/").text
    assert demo("/api/signals").json()["demo"] is True


def test_lesson_21_demo_rows_are_marked_whatever_the_mode(store, serve):
    with store.transaction() as tx:
        put(tx, "scans", scan(source="demo", signals=4))
    get = serve(store, mode="live")
    assert "DEMO: simulated market" in get("/").text
    assert get("/api/status").json()["demo"] is True


def test_lesson_21_rows_of_another_source_are_named_and_never_counted_together(store, serve):
    page = serve(store)("/").text
    assert "backtest" not in page.replace('<a href="/backtests">backtests</a>', "")
    with store.transaction() as tx:
        put(tx, "win_rates", rate("all", NEWEST - timedelta(minutes=2), 90, 100) | {"source": "backtest"})
        put(tx, "llm_signals", decision("ETH-USD", NEWEST, confidence=0.6, source="backtest"))
    page = serve(store)("/").text
    text = re.sub(r"\s+", " ", page)
    assert "Win rate, paper <b>61.9 %</b>" in text
    assert "Win rate, paper (backtest) <b>90.0 %</b>" in text
    assert "v7, rules (backtest)" in row_of(page, "ETH-USD")
    assert "(live)" not in page


def test_lesson_25_gates_that_are_off_are_shown(store, serve):
    assert "GATES OFF" not in serve(store)("/").text
    with store.transaction() as tx:
        put(tx, "gated_signals", gated("ETH-USD", NEWEST, side="SELL", gates_off="ftmo,rate", reason_codes="x"))
    get = serve(store)
    assert "GATES OFF: ftmo, rate" in get("/").text
    assert get("/api/status").json()["gates_off"] == ["ftmo", "rate"]


def test_a_halt_in_force_is_shown_and_a_lifted_one_is_not(store, serve):
    with store.transaction() as tx:
        put(
            tx, "halts",
            {
                "halt_id": "1", "kind": "daily", "started_at": NEWEST, "until": NEWEST + timedelta(hours=11),
                "reason": "daily loss <limit>",
            },
            {"halt_id": "2", "kind": "manual", "started_at": NEWEST, "reason": "lifted one", "lifted_at": NEWEST},
        )  # fmt: skip
    page = serve(store)("/").text
    assert "HALT (daily) since 2023-12-11 12:00 UTC, until 2023-12-11 23:00 UTC: daily loss &lt;limit&gt;" in page
    assert "lifted one" not in page


def test_after_a_long_pause_the_last_decisions_are_still_shown_with_their_age(store, serve):
    get = serve(store, clock=lambda: NOW + timedelta(days=20))
    page = get("/").text
    assert "20 d 0 h ago" in page
    assert "SELL" in row_of(page, "ETH-USD")
    assert "None in the last 24 hours." in page


def test_status_is_the_same_as_the_page_in_json(store, serve):
    status = serve(store)("/api/status").json()
    assert status["newest_scan"]["as_of"] == "2023-12-11T12:00:00Z"
    assert status["newest_scan"]["closed"] is None
    assert status["newest_scan_age_s"] == 90
    assert status["cost_today_usd"] == pytest.approx(0.75)
    assert status["daily_budget_usd"] == 3.0
    assert status["failures"] == {"SOL-USD": "timed out"}
    assert status["accepted_24h"] == 1
    assert [(rate["scope"], rate["n"]) for rate in status["win_rates"]] == [("all", 19)]


def test_signals_are_newest_first_by_symbol_and_limited(store, serve):
    get = serve(store)
    everything = get("/api/signals").json()["signals"]
    assert len(everything) == 5
    assert [row["as_of"] for row in everything] == sorted((row["as_of"] for row in everything), reverse=True)
    btc = get("/api/signals?symbol=btc-usd&limit=2").json()["signals"]
    assert [row["side"] for row in btc] == ["HOLD", "BUY"]
    assert btc[0]["reasoning"] == EVIL
    assert btc[0]["entry_price"] is None
    assert btc[1]["outcome"] == "win"
    assert get("/api/signals?symbol=ETH-USD").json()["signals"][0]["reason_codes"] == ["low_confidence", "rate_limit"]
    assert get("/api/signals?symbol='%20OR%201=1").json()["signals"] == []


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "1e2", ""])
def test_a_limit_that_is_not_usable_is_refused_in_one_sentence(store, serve, limit):
    answer = serve(store)(f"/api/signals?limit={limit}")
    assert answer.status == 400
    assert "1 to 1000" in answer.json()["error"]


def test_an_empty_store_shows_a_page_of_dashes(empty_store, serve):
    get = serve(empty_store)
    page = get("/")
    assert page.status == 200
    assert "no scan yet" in page.text
    assert "No decision yet." in page.text
    assert get("/api/status").json()["newest_scan"] is None


def test_without_a_store_the_page_says_so(tmp_path, serve):
    get = serve(open_store(f"duckdb:{tmp_path / 'none' / 'v7.duckdb'}"))
    page = get("/")
    assert page.status == 503
    assert "No store to read" in page.text
    assert get("/api/status").status == 503
    assert get("/health").json() == {"status": "ok", "mode": "live"}
    assert not (tmp_path / "none").exists()  # looking makes nothing


def test_lesson_20_a_busy_store_is_said_to_be_busy_and_the_next_visit_works(store, serve):
    class Sometimes:
        busy = True

        def reading(self):
            if self.busy:
                raise StoreBusy("held by process 1 for 10 s")
            return store.reading()

    visitor = Sometimes()
    get = serve(visitor)
    page = get("/")
    assert page.status == 503
    assert page.headers["retry-after"] == "5"
    assert "The store is busy, reload" in page.text
    assert 'http-equiv="refresh"' in page.text
    assert "busy" in get("/api/signals").json()["error"]
    visitor.busy = False
    assert get("/").status == 200


def test_lesson_20_looking_does_not_hold_the_store_against_a_writer(store, serve):
    get = serve(store)
    stop = threading.Event()
    failures: list[int] = []

    def look() -> None:
        while not stop.is_set():
            status = get("/api/status").status
            if status != 200:
                failures.append(status)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for accepted in range(20):
            with store.transaction() as tx:
                put(tx, "scans", scan(accepted=accepted))
    finally:
        stop.set()
        thread.join(30)
    assert failures == []
    assert get("/api/status").json()["newest_scan"]["accepted"] == 19


def test_it_reads_once_for_each_page(store, serve):
    class Counting:
        visits = 0

        @contextmanager
        def reading(self):
            self.visits += 1
            with store.reading() as reader:
                yield reader

    visitor = Counting()
    serve(visitor)("/")
    assert visitor.visits == 1


def test_other_host_names_are_refused(store, serve):
    get = serve(store)
    assert get("/", host="evil.example").status == 400
    assert get("/", host="localhost").status == 200


def test_an_unknown_address_is_not_found(store, serve):
    get = serve(store)
    assert get("/nothing").status == 404


# --- the account --------------------------------------------------------------------------


def text_of(page: str, heading: str) -> str:
    """The words of one part of the page."""
    part = page.split(f"<h2>{heading}")[1].split("<h2>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", part))


@pytest.fixture
def with_account(store, serve, make_settings):
    """The page with an account of 100,000 USD on it, and settings changed as asked for."""

    def start(**changes):
        return serve(store, settings=make_settings(**changes))

    return start


@pytest.fixture
def lost(store):
    """300 USD won three hours ago, 1,200 lost two hours ago, and nothing open."""
    early = NEWEST - timedelta(hours=3)
    with store.transaction() as tx:
        put(tx, "llm_signals", decision("ETH-USD", early), decision("BTC-USD", NEWEST - timedelta(hours=2)))
        put(tx, "gated_signals", gated("BTC-USD", NEWEST - timedelta(hours=30), reason_codes="x"))
        put(
            tx, "outcomes",
            closed("BTC-USD", NEWEST - timedelta(hours=2), quantity=100.0, exit_price=88.0, fee_preset="none"),
            closed("ETH-USD", early, quantity=100.0, exit_price=103.0, fee_preset="none"),
        )  # fmt: skip


NO_FEES = {"commission": {"BTC-USD": 0.0, "ETH-USD": 0.0}, "slippage": 0.0}


def test_the_account_is_shown_with_its_room_and_the_next_roll(lost, with_account):
    text = text_of(with_account(**NO_FEES)("/").text, "Account")
    assert "ftmo-2step-challenge, version of 2025-07-26" in text
    assert "Equity $99,100.00 balance $99,100.00, started with $100,000.00" in text
    assert "Daily room $4,100.00 82 % of $5,000.00, limit $95,000.00 least since midnight $4,100.00" in text
    assert "Total room $9,100.00 91 % of $10,000.00, limit $90,000.00" in text
    assert "Target -9 % $10,900.00 to go to $110,000.00" in text
    assert "Trading days 1 of 4 best day" in text
    assert "Next trade may risk $500.00 risk per trade; $3,600.00 left after the buffer" in text
    assert "Day rolls in 10 h 58 min 2023-12-11 23:00 UTC 00:00 Europe/Prague" in text


def test_the_gauges_are_as_wide_as_the_room_and_need_no_script(lost, with_account):
    page = with_account(**NO_FEES)("/")
    widths = re.findall(r'class="gauge"[^>]*aria-label="([^"]*)"[^<]*<i[^>]*style="width: ([0-9.]+)%"', page.text)
    assert widths == [("Daily room", "82.0"), ("Total room", "91.0"), ("target", "0.0")]
    assert "<script" not in page.text and "default-src 'none'" in page.headers["content-security-policy"]


def test_the_status_holds_the_accounts_figures(lost, with_account):
    account = with_account(**NO_FEES)("/api/status").json()["account"]
    assert account["equity_usd"] == 99_100.0 and account["daily"]["room_share"] == pytest.approx(0.82)
    assert account["day"]["ends_at"] == "2023-12-11T23:00:00Z" and account["breached"] is None


def test_lesson_25_gates_that_the_settings_switch_off_are_shown_before_any_decision(empty_store, serve, make_settings):
    get = serve(empty_store, settings=make_settings(gates_off="rate"))
    assert "GATES OFF: rate" in get("/").text
    assert get("/api/status").json()["gates_off"] == ["rate"]


def test_a_fresh_account_is_shown_whole(empty_store, serve, make_settings):
    text = text_of(serve(empty_store, settings=make_settings())("/").text, "Account")
    assert "Equity $100,000.00" in text and "Daily room $5,000.00 100 %" in text and "best day –" in text


def test_a_breach_and_a_balance_set_by_hand_are_shown(lost, with_account, store):
    with store.transaction() as tx:
        reading = {"at": NEWEST - timedelta(minutes=30), "recorded_at": NEWEST, "balance_usd": 94_000.0}
        put(tx, "account_readings", reading | {"day_start_usd": 100_000.0})
    text = text_of(with_account(**NO_FEES)("/").text, "Account")
    assert "BREACHED: the daily limit was broken at 2023-12-11 11:30 UTC" in text
    assert "Set by hand $94,000.00 31 min 30 s ago" in text
    assert "Next trade may risk $0.00 FTMO_BREACHED_DAILY" in text


def test_rules_that_do_not_exist_are_told_on_the_page(with_account):
    get = with_account(ftmo_rules="my-own")
    assert "No account: no rule set &#39;my-own&#39;" in get("/").text
    assert get("/api/status").json()["account"] is None


def test_the_quantity_of_a_signal_is_told_in_units_lots_and_dollars(store, serve):
    won = NEWEST - timedelta(hours=2)
    with store.transaction() as tx:
        put(
            tx, "gated_signals",
            gated("BTC-USD", won, accepted=True, tier="HIGH", quantity=1.5, risk_usd=500.0, lots=1.5,
                  notional_usd=150_000.0, capped_by="leverage"),
        )  # fmt: skip
    text = text_of(serve(store)("/").text, "Accepted signals")
    assert "1.500000 1.5 lots $150,000.00 capped by leverage $500.00" in text


def test_without_a_contract_size_no_lots_are_made_up(store, serve):
    assert "1.500000 no lot size – $500.00" in text_of(serve(store)("/").text, "Accepted signals")
