"""A part of `make test-stores`: samples and simulations on a Valkey server and on a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stores import IS_EMBEDDED

HERE = Path(__file__).parent
SELECTED = "documented_callbacks or losses"


@pytest.mark.skipif(not IS_EMBEDDED, reason="make test-stores runs all of them")
@pytest.mark.parametrize("store", ["valkey", "cluster"])
def test_samples_and_simulations_pass_on_the_other_stores(store: str) -> None:
    """A new pytest process runs them on the store that TEST_STORE names."""
    files = [str(HERE / f"test_{name}.py") for name in ("samples", "simulator")]
    options = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")
    command = [sys.executable, "-m", "pytest", "-q", *options, "-k", SELECTED, *files]
    done = subprocess.run(
        command, env={**os.environ, "TEST_STORE": store}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "skipped" not in done.stdout
