# Everything a developer types. On a fresh Debian 12 machine each target sets up what it needs.
.PHONY: run test lint docs bench lock clean provision-run provision-test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

run: provision-run $(VENV)/run.stamp
	$(BIN)/css-relay-exporter serve

test: provision-test $(VENV)/test.stamp lint
	$(BIN)/pytest --cov=exporter --cov-branch --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=100 --include='exporter/callback.py,exporter/catalogue.py,exporter/ledger.py,exporter/redact.py,exporter/relay/*'

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Writes the parts of docs/ that are made from the code; the tests fail while they differ.
docs: $(VENV)/test.stamp
	$(BIN)/python -m docs.generate

bench: provision-test $(VENV)/test.stamp
	$(BIN)/python -m bench $(BENCH)

# Locks every dependency, with hashes and without the name of any host.
lock: $(VENV)/test.stamp
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) pyproject.toml --group dev -o requirements-dev.txt
	echo gunicorn_h1c | $(COMPILE) --constraint requirements.txt --no-deps - -o requirements-fast.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

provision-run:
	@scripts/provision run

provision-test:
	@scripts/provision test
	@.ci/image setup || { echo "*** LEFT OUT: the image is not built and tested, for want of the tools above" >&2; test -z "$$CI"; }

$(VENV)/bin/python:
	@scripts/provision run
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(VENV)/bin/python requirements.txt requirements-fast.txt pyproject.toml
	$(BIN)/pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --require-hashes -r requirements-fast.txt || \
		echo "*** LEFT OUT: gunicorn_h1c, for want of a compiler; it serves all the same, only slower" >&2
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-dev.txt
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.txt
	touch $@
