# Everything a developer types. On a fresh Debian 12 machine each target sets up what it needs.
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

# Most tests wait most of the time: more at once than there are cores. Those of a module share servers, so that one
# worker takes them all; in the order of their folders, as those that take longest come first.
JOBS ?= 4
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder
# The pure core is covered to the last branch ([tool.coverage.report] in pyproject.toml).
COVERED := --cov --cov-report=term:skip-covered

# What one runs between two steps: lint, types, the unit tests, the contract of the stores on files.
check: $(VENV)/test.stamp lint
	$(PYTEST) $(COVERED) -m "not servers" tests/unit tests/contract

# Everything that guards a change.
test: about-test provision-test $(VENV)/test.stamp npm lint
	$(PYTEST) $(COVERED)

about-test:
	@echo "Sets up what is missing, then lint and types, then every test, $(JOBS) at once: some minutes (docs/development.md)."

# Grafana's types, which the dashboards are held against.
npm: $(VENV)/test.stamp
	$(STEP) "npm's packages" $(BIN)/python -m tests.npm

# What goes over HTTP, on the other stores; what is built, drawn or deployed is the same on all of them.
ALIKE := bench chart chart_image compose image dashboards_schema chaos replicas rates shared_store stores
STORE_TESTS := tests/http tests/acceptance --ignore=tests/http/test_browser.py $(ALIKE:%=--ignore=tests/acceptance/test_%.py)
test-stores: provision-test $(VENV)/test.stamp
	TEST_STORE=valkey $(PYTEST) $(STORE_TESTS)
	TEST_STORE=cluster $(PYTEST) $(STORE_TESTS)

lint: $(VENV)/test.stamp
	$(STEP) "Format (ruff)" $(BIN)/ruff format --check .
	$(STEP) "Lint (ruff)" $(BIN)/ruff check .
	$(STEP) "Types (mypy)" $(BIN)/mypy

# Writes the parts of docs/ that are made from the code; the tests fail while they differ.
docs: $(VENV)/test.stamp
	$(BIN)/python -m docs.generate

# Writes grafana/dashboards/ from grafana/source/; the tests fail while they differ.
dashboards: $(VENV)/test.stamp
	$(BIN)/python -m grafana.source

# Writes the settings in the chart's values schema, and deploy/kubernetes/ from the chart; the tests fail while they differ.
chart: $(VENV)/test.stamp
	$(BIN)/python -m deploy.generate

# Everything but what takes many minutes: BENCH="--only growth" asks for that. What `--json FILE` writes goes into
# docs/benchmarks.md with `python -m bench.page FILE`.
bench: provision-test $(VENV)/test.stamp
	$(BIN)/python -m bench $(BENCH)

# Everything that is fuzzed, for so many seconds in all; what breaks a promise is kept in build/fuzz.
FUZZ_SECONDS ?= 300
fuzz: provision-test $(VENV)/test.stamp
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ)
	OPENAPI_EXAMPLES=$(FUZZ_SECONDS) $(BIN)/pytest -q --timeout=0 tests/http/test_openapi.py

# One exporter under every fault of the simulator: memory, handles and store stay flat, totals exact.
SOAK_MINUTES ?= 15
soak: provision-test $(VENV)/test.stamp
	$(BIN)/python -m tests.fuzz.soak --minutes $(SOAK_MINUTES)

# Three replicas while exporters, the store and its replica are killed, paused and cut off: totals exact.
CHAOS_MINUTES ?= 10
chaos: provision-test $(VENV)/test.stamp
	$(BIN)/python -m tests.acceptance.chaos --minutes $(CHAOS_MINUTES) $(CHAOS)

# Makes faults in the pure core, one after the other, and tells which of them no test finds.
mutate: $(VENV)/test.stamp
	$(BIN)/python -m tests.mutation $(MUTATE)

# Known vulnerabilities of what is locked. AUDIT=--strict fails where the database is out of reach.
audit: $(VENV)/test.stamp
	$(SUPPLY)/bin/python scripts/audit $(AUDIT) requirements.txt requirements-dev.txt

# What a running exporter is made of, with hashes: a CycloneDX bill of materials.
sbom: $(VENV)/test.stamp
	mkdir -p build
	PYTHONWARNINGS=ignore $(SUPPLY)/bin/cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json requirements.txt

# Locks every dependency, with hashes and without the name of any host.
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
	$(STEP) "Container image (at first a few minutes)" scripts/provision image

$(VENV)/run.stamp: requirements.txt pyproject.toml scripts/environment
	$(STEP) "Python environment (at first a minute)" scripts/environment run

$(VENV)/test.stamp: requirements.txt requirements-dev.txt requirements-supply.txt pyproject.toml \
		scripts/environment
	$(STEP) "Python environment (at first a minute)" scripts/environment test
