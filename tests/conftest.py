"""Fixtures that several kinds of test use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Exporter, running


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """A running exporter on a store of its own."""
    with running(tmp_path) as process:
        yield process
