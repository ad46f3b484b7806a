# Two commands do everything: `make run` (set up, start in demo mode) and `make test` (set up, all checks).
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
BENCH_BACKTEST := .venv-bench-backtest
STAMP := $(VENV)/.installed

.PHONY: run live setup test test-slow static lint types imports unit zones lock bench bench-backtest docs clean

run: setup          ## set up and start the demo: sandbox, Dagster, dashboard
	$(BIN)/v7 up --demo

live: setup         ## set up and start on real Coinbase candles
	$(BIN)/v7 up

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml scripts/setup.sh
	PYTHON="$(PYTHON)" scripts/setup.sh $(VENV)
	touch $@

test: setup static unit zones   ## every check that takes minutes, not more

static:             ## lint, types and imports, two at a time
	@$(MAKE) --no-print-directory -j 2 -O lint types imports

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

unit:
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow"

# The first system died of local time: what deals with time (days, halts, trades, alerts, what is stored) passes in two
# more zones, one beside the other. Left out are what no zone reaches (kills, locks, backups, the challenge's chances,
# lakes, whose tables are written as a file's are) and, for their length, whole scans of market context and strategies.
IN_ZONES := $(addprefix v7_pipeline_tests/,store market gates trades scan) \
	$(addprefix --ignore=v7_pipeline_tests/,store/test_processes.py store/test_lingering.py store/test_backup.py \
	store/test_full_disk.py gates/test_challenge.py gates/test_ftmo_properties.py scan/test_ungrounded_shown.py \
	scan/test_same_decision.py scan/test_market_context.py scan/test_strategies.py)
ZONES := America/New_York Asia/Kolkata
zones:
	@$(MAKE) --no-print-directory -j 2 -O $(addprefix zone-,$(subst /,-,$(ZONES)))

$(addprefix zone-,$(subst /,-,$(ZONES))): zone-%:
	TZ=$(subst -,/,$*) $(BIN)/pytest -q -p no:cacheprovider -m "not slow" -k "not lake and not lingering" $(IN_ZONES)

test-slow: setup    ## drills, the daemon, the browser, PostgreSQL, a recorded day
	$(BIN)/pytest -n 2 --dist loadgroup -m slow

bench: $(BENCH)/.installed $(BENCH_BACKTEST)/.installed   ## print the measured figures, the theories' beside those of other packages
	$(BENCH)/bin/python benchmarks/theories.py
	$(BENCH)/bin/python benchmarks/backfill.py
	$(BENCH)/bin/python benchmarks/ftmo.py
	$(BENCH)/bin/python benchmarks/outcomes.py
	$(BENCH)/bin/python benchmarks/attribution.py
	$(BENCH)/bin/python benchmarks/simulation.py
	$(BENCH)/bin/python benchmarks/analyst.py
	$(BENCH)/bin/python benchmarks/scan.py
	$(BENCH)/bin/python benchmarks/start.py
	$(BENCH)/bin/python benchmarks/backtest.py

bench-backtest: setup $(BENCH_BACKTEST)/.installed   ## one rule through ours, vectorbt and backtesting.py
	$(BIN)/python benchmarks/backtest.py

# An environment of its own, so that the peers stay out of the one that runs. fathon is compiled where no wheel fits.
$(BENCH)/.installed: requirements.lock benchmarks/requirements-theories.txt pyproject.toml scripts/setup.sh
	PYTHON="$(PYTHON)" scripts/setup.sh $(BENCH)
	$(BENCH)/bin/python -m pip install -q -c requirements.lock -r benchmarks/requirements-theories.txt || \
		grep -v fathon benchmarks/requirements-theories.txt | \
		$(BENCH)/bin/python -m pip install -q -c requirements.lock -r /dev/stdin
	touch $@

# vectorbt needs another pandas than requirements.lock has: the two meet through files only.
$(BENCH_BACKTEST)/.installed: benchmarks/requirements-backtest.txt
	$(PYTHON) -m venv $(BENCH_BACKTEST)
	$(BENCH_BACKTEST)/bin/python -m pip install -q -r benchmarks/requirements-backtest.txt
	touch $@

docs: setup
	$(BIN)/mkdocs build --strict

lock:               ## resolve requirements.in and requirements-dev.in into requirements.lock, for every platform
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url -q \
		requirements.in requirements-dev.in -o requirements.lock

clean:
	rm -rf $(VENV) $(BENCH) $(BENCH_BACKTEST) .v7 build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
