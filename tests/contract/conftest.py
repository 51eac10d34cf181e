"""The stores under contract: a second one only adds a row here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from exporter.store import Store, Terms
from exporter.store.sqlite import SqliteStore

Open = Callable[..., Store]

#: How each store is opened on the same data again and again, as another process would.
STORES: dict[str, Callable[[Path, Terms], Store]] = {
    "sqlite": lambda folder, terms: SqliteStore(folder / "relay.db", terms, clock=lambda: 1000.0),
}


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens the store, with changes to the default terms."""
    opened: list[Store] = []

    def open_(**changes: Any) -> Store:
        opened.append(STORES[request.param](tmp_path, replace(Terms(), **changes)))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> Store:
    """A new store."""
    return open_store()
