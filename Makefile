# The project's tasks. Plain `make` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := gateway tasks workers models
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --only-binary :all: --require-hashes
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n auto --dist loadgroup
# Tests that kill processes or start whole stacks are left out: what they cover depends on timing.
COVERED := $(addprefix tests/,unit handlers http delivery messages client ops)
# Tests start hundreds of processes, which share compiled bytecode.
unexport PYTHONDONTWRITEBYTECODE
WHEEL := build/wheel
CLIENT := clients/python
# These tests install linters and generators, and compile five clients.
GENERATED := tests/openapi

# The first suitable Python is used; `make setup PYTHON=…` selects another.
PYTHONS := $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.tocsin ## create .venv with everything that tocsin needs to run

run: setup ## start everything, with a demo
	@$(BIN)/tocsin up --demo

test: $(VENV)/.dev ## run every test, in parallel, except those of test-clients
	@$(PYTEST) $(PARALLEL) --ignore $(GENERATED)

test-clients: $(VENV)/.dev ## check the descriptions of the API, and the clients that generators make of them
	@$(PYTEST) --quiet $(GENERATED)

test-fast: $(VENV)/.dev ## run the tests that need no server, and the handler tests
	@$(PYTEST) -m "unit and not slow"
	@$(PYTEST) -m "not unit" tests/handlers

coverage: $(VENV)/.dev ## measure branch coverage, and fail if it is below the floor in pyproject.toml
	@$(PYTEST) --quiet $(PARALLEL) -m "not slow" --cov --cov-report term:skip-covered $(COVERED)

fuzz: $(VENV)/.dev ## run the fuzz tests with another seed and more examples: make fuzz seed=7 times=5
	@seed=$(or $(seed),$$(date +%s)); echo "to repeat this run: make fuzz seed=$$seed"; \
	FUZZ_SEED=$$seed FUZZ_TIMES=$(or $(times),5) $(PYTEST) $(PARALLEL) tests/http/test_contract.py tests/http/test_hostile_requests.py tests/http/test_incident_list_pages.py

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(VENV)/.dev ## check the types
	@$(BIN)/mypy

arrows: $(VENV)/.dev ## check the imports against the import contracts
	@$(BIN)/lint-imports

docs: $(VENV)/.dev ## run the examples in docstrings and in docs/
	@$(PYTEST) --quiet --doctest-modules --doctest-glob='*.md' --ignore models/migrations $(PACKAGES) $(CLIENT)/tocsin_client $(wildcard docs README.md) \
	|| test $$? -eq 5

check: check-rest test ## run every check that must pass before a change is merged

check-rest: $(VENV)/.dev ## run the checks that `make check` adds to `make test`
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(MAKE) --no-print-directory types arrows docs coverage test-wheel test-clients

test-wheel: $(VENV)/.dev ## run the journeys on the built wheel, from a folder without the source
	@rm -rf $(WHEEL) && mkdir -p $(WHEEL)/away
	@for source in . $(CLIENT); do \
		$(BIN)/python -m build --wheel --no-isolation --outdir $(WHEEL) $$source > $(WHEEL)/log 2>&1 || { cat $(WHEEL)/log >&2; exit 1; }; \
	done
	@$(PIP) --no-deps --target $(WHEEL)/site $(WHEEL)/*.whl
	@cp -R tests docs pyproject.toml README.md $(WHEEL)/away
	@cd $(WHEEL)/away && PYTHONPATH="$(CURDIR)/$(WHEEL)/site" "$(CURDIR)/$(BIN)/python" -P -m pytest $(PARALLEL) tests/journeys

migration: setup ## create a migration: make migration name="what it does"
	@test -n "$(name)" || { echo 'the migration needs a name: make migration name="add a column"' >&2; exit 2; }
	@$(BIN)/alembic revision -m "$(name)"

migrate: setup ## migrate the schema to the latest revision
	@$(BIN)/tocsin migrate

bench: $(VENV)/.dev ## run the benchmark and write the results to bench/results
	@$(BIN)/python -m bench.run

bench-stress: $(VENV)/.dev ## compare with an older checkout under stress: make bench-stress BASE=../before
	@test -n "$(BASE)" || { echo 'name the older checkout: make bench-stress BASE=../before' >&2; exit 2; }
	@$(BIN)/python -m bench.stress "$(BASE)"

lock: ## resolve all dependencies again (needs uv)
	@command -v uv > /dev/null || { echo "make lock needs uv: install it, then try again" >&2; exit 1; }
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		pyproject.toml --group build -o requirements.lock
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		pyproject.toml --group build --group dev -c requirements.lock -o requirements-dev.lock

clean: ## remove build results and caches; keep .venv and data
	@rm -rf build dist .coverage* *.egg-info $(CLIENT)/build $(CLIENT)/*.egg-info $(addprefix clients/typescript/,build dist node_modules) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
	@find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for python in $(PYTHONS); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || continue; \
		if "$$python" -c 'import venv, ensurepip' 2> /dev/null; then exec "$$python" -m venv --clear $(VENV); fi; \
		if command -v uv > /dev/null; then exec uv venv --quiet --clear --seed --python "$$python" $(VENV); fi; \
		echo "$$python has no venv module: install it (Debian and Ubuntu: apt install python3-venv) or uv" >&2; exit 1; \
	done; \
	echo "tocsin needs Python 3.11 or newer: install it, or select it with \`make setup PYTHON=...\`" >&2; exit 1

$(VENV)/.locked: requirements.lock | $(BIN)/python
	@$(LOCKED) -r requirements.lock
	@touch $@

$(VENV)/.tocsin: pyproject.toml $(CLIENT)/pyproject.toml $(VENV)/.locked
	@$(PIP) --no-deps --no-build-isolation -e . -e $(CLIENT)
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.tocsin
	@$(LOCKED) -r requirements-dev.lock
	@touch $@

.PHONY: help setup run test test-fast coverage fuzz format types arrows docs check check-rest test-wheel test-clients migration migrate bench bench-stress lock clean
