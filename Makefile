# Everything a developer types. On a fresh Debian 12 machine each target sets up what it needs.
.PHONY: run test test-stores lint docs dashboards chart bench fuzz soak chaos audit sbom lock clean provision-run provision-test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUPPLY := $(VENV)/supply
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

run: provision-run $(VENV)/run.stamp
	$(BIN)/css-relay-exporter serve

# Several tests at once, as most of them wait most of the time; then those that measure, one by one.
TOGETHER := $(BIN)/pytest -n 3 --dist loadfile -m "not alone"
ALONE := $(BIN)/pytest -m alone
test: provision-test $(VENV)/test.stamp $(SUPPLY)/stamp lint
	$(TOGETHER) --cov=exporter --cov-report=
	$(ALONE) --cov=exporter --cov-append --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=100 --include='exporter/callback.py,exporter/catalogue.py,exporter/ledger.py,exporter/outline.py,exporter/redact.py,exporter/relay/*'

# What goes over HTTP, on the other stores; what is built, drawn or deployed is the same on all of them.
ALIKE := bench chart chart_image compose image dashboards_schema chaos replicas rates shared_store stores
STORE_TESTS := tests/http tests/acceptance --ignore=tests/http/test_browser.py $(ALIKE:%=--ignore=tests/acceptance/test_%.py)
test-stores: provision-test $(VENV)/test.stamp
	TEST_STORE=valkey $(TOGETHER) $(STORE_TESTS)
	TEST_STORE=valkey $(ALONE) $(STORE_TESTS)
	TEST_STORE=cluster $(TOGETHER) $(STORE_TESTS)
	TEST_STORE=cluster $(ALONE) $(STORE_TESTS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

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

# Known vulnerabilities of what is locked. AUDIT=--strict fails where the database is out of reach.
audit: $(SUPPLY)/stamp
	$(SUPPLY)/bin/python scripts/audit $(AUDIT) requirements.txt requirements-fast.txt requirements-dev.txt

# What a running exporter is made of, with hashes: a CycloneDX bill of materials.
sbom: $(SUPPLY)/stamp
	mkdir -p build
	cat requirements.txt requirements-fast.txt | PYTHONWARNINGS=ignore $(SUPPLY)/bin/cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json -

# Locks every dependency, with hashes and without the name of any host.
lock: $(VENV)/test.stamp
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) pyproject.toml --group dev -o requirements-dev.txt
	$(COMPILE) --group supply -o requirements-supply.txt
	echo gunicorn_h1c | $(COMPILE) --constraint requirements.txt --no-deps - -o requirements-fast.txt

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

provision-run:
	@scripts/provision run

provision-test:
	@scripts/provision test
	@.ci/image setup || { echo "*** LEFT OUT: the image is not built and tested, for want of the tools above" >&2; test -z "$$CI"; }

$(VENV)/bin/python:
	@scripts/provision run
	$(PYTHON) -m venv $(VENV)

# The lock files are whole: with --no-deps pip has nothing to resolve, and can't stumble over what came out since.
$(VENV)/run.stamp: $(VENV)/bin/python requirements.txt requirements-fast.txt pyproject.toml
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-fast.txt || \
		echo "*** LEFT OUT: gunicorn_h1c, for want of a compiler; it serves all the same, only slower" >&2
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-dev.txt
	touch $@

$(SUPPLY)/stamp: $(VENV)/bin/python requirements-supply.txt
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/pip install --quiet --no-deps --require-hashes -r requirements-supply.txt
	touch $@
