# Every target sets up .venv by itself from a hash-pinned lock. `make` and `python3` are all that must be there.
# Extra words for the command: make demo ARGS="--events 50000"

PYTHON3 ?= python3
PY := .venv/bin/python
ARGS ?=
SEEDS ?= 1..500
FAULTS_SHORT ?=
# Most of the tests' time is waiting for sessions, timers and outages, not work.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo up test lint format bench compiled faults simulate lock clean venv venv-dev

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: venv ## Run the whole job once on this machine, under a minute, and print what came of it
	@exec $(PY) -m tidings demo $(ARGS)

up: venv ## Keep everything running on a local Kafka, with data under ./data (needs Java 17 and Maven)
	@exec $(PY) -m tidings up $(ARGS)

test: lint ## Lint, check the campaigns with their cases, run all tests
	@env -u TIDINGS_REQUIRE_KAFKA $(PY) -m tidings check campaigns/  # a word of the tests, no setting
	@env -u TIDINGS_REQUIRE_KAFKA $(PY) -m tidings simulate --seeds $(SEEDS) --faults all
	@exec $(PY) -m pytest -n $(WORKERS) --dist loadgroup --durations 15 $(ARGS)

lint: venv-dev ## Style, format, types and import borders
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet . || { echo "lint: run 'make format'" >&2; exit 1; }
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo

format: venv-dev ## Format the code and mend what ruff can mend
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .

bench: venv-dev ## Measure: prints tables, writes benchmarks/results/
	@exec $(PY) -m benchmarks $(ARGS)

compiled: venv-dev ## Compile the core (needs a C compiler): the same answers at half the cost; TIDINGS_COMPILED=0 leaves it unused
	@exec $(PY) scripts/compile.py

faults: venv-dev ## Break it on a real Kafka by seed, ask the oracle what was lost (FAULTS_SHORT=1: eight schedules)
	@exec $(PY) -m tests.faults $(if $(FAULTS_SHORT),--seeds 1..8 --jobs 2,--long --jobs 2 --write benchmarks/results/faults) $(ARGS)

simulate: venv-dev ## The engine and its commit protocol under seeded faults (SEEDS=1..100000)
	@exec $(PY) -m tidings simulate --seeds $(SEEDS) --faults all $(ARGS)

lock: venv-dev ## Rebuild the locks from pyproject.toml (ARGS=--upgrade: newest versions)
	@exec $(PY) scripts/lock.py $(ARGS)

clean: ## Remove what can be made again: .venv and caches (keeps ./data)
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

venv:
	@$(PYTHON3) scripts/venv.py run

venv-dev:
	@$(PYTHON3) scripts/venv.py dev
