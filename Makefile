# The commands for developers. On a new Debian 12 machine each target installs what it needs.
.PHONY: run check test test-stores lint docs dashboards chart bench fuzz soak chaos mutate audit sbom lock clean \
	about-test npm provision-run provision-test

export PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUPPLY := $(VENV)/supply
STEP := @scripts/step
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

run: provision-run $(VENV)/run.stamp
	$(BIN)/css-relay-exporter serve

# Most tests wait most of the time, so more of them run in parallel than there are cores. The tests of a module share
# servers, so one worker runs the whole module. Modules run in the order of their folders: the slowest come first.
JOBS ?= 4
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder
# Every branch of the pure core must be covered ([tool.coverage.report] in pyproject.toml).
COVERED := --cov --cov-report=term:skip-covered

# A quick check during work: lint, types, the unit tests, and the contract tests of the stores without servers.
check: $(VENV)/test.stamp lint
	$(PYTEST) $(COVERED) -m "not servers" tests/unit tests/contract

# All checks and tests.
test: about-test provision-test $(VENV)/test.stamp npm lint
	$(PYTEST) $(COVERED)

about-test:
	@echo "Installs missing tools, then runs lint, types and all tests, $(JOBS) in parallel: some minutes (docs/development.md)."

# Grafana's types, which a test validates the dashboards against.
npm: $(VENV)/test.stamp
	$(STEP) "npm's packages" $(BIN)/python -m tests.npm

# The tests over HTTP, on the other kinds of store. Tests that do not depend on the kind of store are left out.
ALIKE := bench chart chart_image compose image dashboards_schema chaos hops replicas rates shared_store stores
STORE_TESTS := tests/http tests/acceptance --ignore=tests/http/test_browser.py $(ALIKE:%=--ignore=tests/acceptance/test_%.py)
test-stores: provision-test $(VENV)/test.stamp
	TEST_STORE=valkey $(PYTEST) $(STORE_TESTS)
	TEST_STORE=cluster $(PYTEST) $(STORE_TESTS)

lint: $(VENV)/test.stamp
	$(STEP) "Format (ruff)" $(BIN)/ruff format --check .
	$(STEP) "Lint (ruff)" $(BIN)/ruff check .
	$(STEP) "Types (mypy)" $(BIN)/mypy

# Writes the generated pages of docs/; a test fails while they differ from the code.
docs: $(VENV)/test.stamp
	$(BIN)/python -m docs.generate

# Writes grafana/dashboards/ from grafana/source/; a test fails while they differ.
dashboards: $(VENV)/test.stamp
	$(BIN)/python -m grafana.source

# Writes the settings in the chart's values schema, and deploy/kubernetes/ from the chart; a test fails while they differ.
chart: $(VENV)/test.stamp
	$(BIN)/python -m deploy.generate

# Runs all sections of the benchmark except growth, which takes many minutes (BENCH="--only growth"). After a run with
# `--json FILE`, `python -m bench.page FILE` updates docs/benchmarks.md.
bench: provision-test $(VENV)/test.stamp
	$(BIN)/python -m bench $(BENCH)

# Runs all fuzz tests for FUZZ_SECONDS in total; an input that fails is kept in build/fuzz.
FUZZ_SECONDS ?= 300
fuzz: provision-test $(VENV)/test.stamp
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ)
	OPENAPI_EXAMPLES=$(FUZZ_SECONDS) $(BIN)/pytest -q --timeout=0 tests/http/test_openapi.py

# Runs one exporter under every fault of the simulator: memory, file handles and store must not grow, totals must be exact.
SOAK_MINUTES ?= 15
soak: provision-test $(VENV)/test.stamp
	$(BIN)/python -m tests.fuzz.soak --minutes $(SOAK_MINUTES)

# Runs three replicas while exporters, the store's server and its replica are killed, paused and disconnected: totals must
# be exact.
CHAOS_MINUTES ?= 10
chaos: provision-test $(VENV)/test.stamp
	$(BIN)/python -m tests.acceptance.chaos --minutes $(CHAOS_MINUTES) $(CHAOS)

# Mutation tests: inserts faults into the pure core, one at a time, and lists those that no test finds.
mutate: $(VENV)/test.stamp
	$(BIN)/python -m tests.mutation $(MUTATE)

# Reports known vulnerabilities of the locked packages. AUDIT=--strict fails if the database cannot be reached.
audit: $(VENV)/test.stamp
	$(SUPPLY)/bin/python scripts/audit $(AUDIT) requirements.txt requirements-dev.txt

# Writes a CycloneDX bill of materials of the exporter's packages, with hashes.
sbom: $(VENV)/test.stamp
	mkdir -p build
	PYTHONWARNINGS=ignore $(SUPPLY)/bin/cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json requirements.txt

# Locks every dependency, with hashes and without host names.
lock: $(VENV)/test.stamp
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) pyproject.toml --group dev -o requirements-dev.txt
	$(COMPILE) --group supply -o requirements-supply.txt

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

provision-run:
	$(STEP) "Debian packages" scripts/provision run

provision-test:
	$(STEP) "Debian packages" scripts/provision test
	$(STEP) "Container image (first: some minutes)" scripts/provision image

$(VENV)/run.stamp: requirements.txt pyproject.toml scripts/environment
	$(STEP) "Python environment (at first a minute)" scripts/environment run

$(VENV)/test.stamp: requirements.txt requirements-dev.txt requirements-supply.txt pyproject.toml \
		scripts/environment
	$(STEP) "Python environment (at first a minute)" scripts/environment test
