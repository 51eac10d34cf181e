"""The stores of the exporters in tests: TEST_STORE is sqlite, valkey or cluster."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from tests.clusters import running_cluster
from tests.valkeys import ValkeyServer

KIND = os.environ.get("TEST_STORE", "sqlite")
IS_EMBEDDED = KIND == "sqlite"
DATABASES = 4096

#: Returns the store URL for the folder of an exporter; each folder has its own store, which is empty at
#: first.
Place = Callable[[Path], str]


@contextmanager
def running_store(folder: Path) -> Iterator[Place]:
    """Yield a function that gives each exporter a store on the server or on a cluster."""
    if KIND == "valkey":
        with ValkeyServer(folder, "--databases", str(DATABASES)) as server:
            yield _on_server(server)
    elif KIND == "cluster":
        with ExitStack() as running:
            yield Clusters(folder, running).place
    else:
        raise ValueError(f"TEST_STORE={KIND}: expected sqlite, valkey or cluster")


def _on_server(server: ValkeyServer) -> Place:
    """Return a function that gives each folder a database of the server."""
    numbers, known = count(), dict[Path, str]()

    def place(folder: Path) -> str:
        if folder not in known:
            known[folder] = f"valkey://127.0.0.1:{server.port}/{next(numbers)}"
        return known[folder]

    return place


class Clusters:
    """A pool of clusters, each for one store; a cluster without connections is emptied and used again.

    Args:
        folder: the folder for their files.
        running: stops them at its end.
    """

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self._folder = folder
        self._running = running
        self._clusters: list[list[ValkeyServer]] = []
        self._users: list[Path] = []

    def place(self, folder: Path) -> str:
        """Return the store of an exporter in a folder."""
        if folder not in self._users:
            self._give(folder)
        nodes = self._clusters[self._users.index(folder)]
        return f"valkey-cluster://127.0.0.1:{nodes[0].port}"

    def _give(self, folder: Path) -> None:
        for number, nodes in enumerate(self._clusters):
            if all(_is_alone(node) for node in nodes):
                self._users[number] = folder
                return
        place = self._folder / f"cluster{len(self._clusters)}"
        place.mkdir()
        self._clusters.append(self._running.enter_context(running_cluster(place)))
        self._users.append(folder)


def _is_alone(node: ValkeyServer) -> bool:
    """Return whether a node has no other connections; if so, empty it."""
    with node.client() as client:
        return len(client.client_list()) == 1 and bool(client.flushall())
