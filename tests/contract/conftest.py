"""The stores under contract: a further one only adds a row here."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from exporter.store import Store, Terms
from exporter.store.sqlite import SqliteStore
from exporter.store.valkey.store import ValkeyStore
from exporter.storeurl import parse_store
from tests.support import tool
from tests.valkeys import ValkeyServer, running_cluster

Open = Callable[..., Store]
Place = Callable[[Terms], Store]


def _in_file(request: pytest.FixtureRequest) -> Place:
    path = request.getfixturevalue("tmp_path") / "relay.db"
    return lambda terms: SqliteStore(path, terms, clock=lambda: 1000.0)


def _on_server(request: pytest.FixtureRequest) -> Place:
    return _at(request.getfixturevalue("empty_server").url)


def _on_redis(request: pytest.FixtureRequest) -> Place:
    server: ValkeyServer = request.getfixturevalue("redis")
    _empty(server)
    return _at(f"redis://127.0.0.1:{server.port}/1")


def _on_cluster(request: pytest.FixtureRequest) -> Place:
    nodes: list[ValkeyServer] = request.getfixturevalue("cluster")
    for node in nodes:
        _empty(node)
    return _at(f"valkey-cluster://127.0.0.1:{nodes[0].port}")


def _at(url: str) -> Place:
    address = parse_store(url)
    return lambda terms: ValkeyStore(address, terms, clock=lambda: 1000.0)


def _empty(server: ValkeyServer) -> None:
    with server.client() as client:
        client.flushall()


#: How each store is opened on the same data again and again, as another process would.
STORES: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "sqlite": _in_file,
    "valkey": _on_server,
    "redis": _on_redis,
    "cluster": _on_cluster,
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Valkey server."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def empty_server(server: ValkeyServer) -> ValkeyServer:
    """That server, with nothing in it."""
    _empty(server)
    return server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Debian's Redis server."""
    with ValkeyServer(tmp_path_factory.mktemp("redis"), program=tool("redis-server")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyServer]]:
    """A cluster of three nodes."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Return a function that opens the store, with changes to the default terms."""
    place = STORES[request.param](request)
    opened: list[Store] = []

    def open_(**changes: Any) -> Store:
        opened.append(place(replace(Terms(), **changes)))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> Store:
    """A new store."""
    return open_store()
