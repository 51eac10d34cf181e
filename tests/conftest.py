"""Fixtures that several kinds of test use, and the store that exporters are on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import support
from tests.stores import IS_EMBEDDED, KIND, running_store
from tests.support import Exporter, running


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put exporters on the store that TEST_STORE names."""
    if IS_EMBEDDED:
        yield
        return
    with running_store(tmp_path_factory.mktemp("store")) as support.store_of:
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is about the file of the embedded store where exporters are on another."""
    if not IS_EMBEDDED:
        reason = pytest.mark.skip(reason=f"about the embedded store's file, not {KIND}")
        for item in items:
            if item.get_closest_marker("embedded"):
                item.add_marker(reason)


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """A running exporter on a store of its own."""
    with running(tmp_path) as process:
        yield process
