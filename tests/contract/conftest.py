"""The stores that the contract tests run on. A new kind of store adds one row here."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from exporter.config.store_url import parse_store
from exporter.store.protocol import Store, StoreOptions
from exporter.store.sqlite import store as sqlite
from exporter.store.sqlite.store import SqliteStore
from exporter.store.valkey import client as clients
from exporter.store.valkey import script_runner
from exporter.store.valkey import store as module
from exporter.store.valkey.store import ValkeyStore
from tests.clusters import running_cluster
from tests.support import HANG_SECONDS, tool
from tests.valkeys import ValkeyServer

Open = Callable[..., Store]
OpenAt = Callable[..., ValkeyStore]
OpenWith = Callable[[StoreOptions], Store]


def _in_file(request: pytest.FixtureRequest) -> OpenWith:
    path = request.getfixturevalue("tmp_path") / "relay.db"
    return lambda options: SqliteStore(path, options, clock=lambda: 1000.0)


def _on_server(request: pytest.FixtureRequest) -> OpenWith:
    return _at(request.getfixturevalue("empty_server").url)


def _on_redis(request: pytest.FixtureRequest) -> OpenWith:
    server: ValkeyServer = request.getfixturevalue("redis")
    empty(server)
    return _at(f"redis://127.0.0.1:{server.port}/1")


def _on_cluster(request: pytest.FixtureRequest) -> OpenWith:
    nodes: list[ValkeyServer] = request.getfixturevalue("cluster")
    for node in nodes:
        empty(node)
    return _at(f"valkey-cluster://127.0.0.1:{nodes[0].port}")


def _at(url: str) -> OpenWith:
    address = parse_store(url)
    return lambda options: ValkeyStore(address, options, clock=lambda: 1000.0)


def empty(server: ValkeyServer) -> None:
    """Delete everything on a server."""
    with server.client() as client:
        client.flushall()


#: Opens each kind of store, on the same data each time, as another process would.
STORES: dict[str, Callable[[pytest.FixtureRequest], OpenWith]] = {
    "sqlite": _in_file,
    "valkey": _on_server,
    "redis": _on_redis,
    "cluster": _on_cluster,
}


def on(*stores: str) -> list[Any]:
    """Return these stores as parameters; those that are on a server are marked."""
    return [pytest.param(s, marks=() if s == "sqlite" else pytest.mark.servers) for s in stores]


#: Every test runs on both kinds of store; `test_valkey_servers.py` runs them on the other servers.
EACH = on("sqlite", "valkey")


@pytest.fixture(autouse=True)
def _long_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set all time limits so high that only a hang exceeds them, however slow the machine is."""
    for name in ("CONNECT_SECONDS", "ANSWER_SECONDS", "REPLICAS_SECONDS"):
        monkeypatch.setattr(clients, name, HANG_SECONDS)
    monkeypatch.setattr(module, "COMMIT_SECONDS", HANG_SECONDS)
    for name in ("BUSY_MS", "ATTACHED_BUSY_MS"):
        monkeypatch.setattr(sqlite, name, round(HANG_SECONDS * 1000))


@contextmanager
def without_retries() -> Iterator[None]:
    """Do not retry failed requests, and do not wait for replicas that are down.

    No time limit is shortened otherwise, so a slow server or network changes no result.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script_runner, "PAUSE_SECONDS", 2 * HANG_SECONDS)
        patch.setattr(clients, "REPLICAS_SECONDS", 0.05)
        yield


def run_concurrently(works: Iterable[Callable[[], object]]) -> None:
    """Run functions at the same time, each in its own thread; raise what one of them raises."""
    functions = list(works)
    with ThreadPoolExecutor(len(functions)) as threads:
        for done in [threads.submit(work) for work in functions]:
            done.result()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Valkey server."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def empty_server(server: ValkeyServer) -> ValkeyServer:
    """The Valkey server, emptied."""
    empty(server)
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


@pytest.fixture(params=EACH)
def open_store(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Return a function that opens the store, with changes to the default options."""
    open_with = STORES[request.param](request)
    opened: list[Store] = []

    def open_(**changes: Any) -> Store:
        opened.append(open_with(replace(StoreOptions(), **changes)))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> Store:
    """A new store."""
    return open_store()


@pytest.fixture
def opened() -> Iterator[OpenAt]:
    """Return a function that opens the shared store at a URL, with changes to the default options."""
    stores: list[ValkeyStore] = []

    def open_(url: str, **changes: Any) -> ValkeyStore:
        stores.append(ValkeyStore(parse_store(url), replace(StoreOptions(), **changes)))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()
