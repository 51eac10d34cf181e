"""A share of what `make test-stores` runs: samples and simulations on a server and on a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stores import IS_EMBEDDED

HERE = Path(__file__).parent
SHARE = "documented_callbacks or duplicates or losses"


@pytest.mark.slow
@pytest.mark.skipif(not IS_EMBEDDED, reason="all of them run")
@pytest.mark.parametrize("store", ["valkey", "cluster"])
def test_samples_and_simulations_pass_on_the_other_stores(store: str) -> None:
    """In a process of their own, as TEST_STORE says."""
    files = [str(HERE / f"test_{name}.py") for name in ("samples", "simulator")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SHARE, *files]
    done = subprocess.run(
        command, env={**os.environ, "TEST_STORE": store}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
