"""The stores of the exporter, for filling and for serving."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import valkey

from bench.peers import Valkey
from exporter.config.settings import Settings
from exporter.config.store_url import StoreUrl, parse_store
from exporter.store.protocol import Store, StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.store.valkey.store import ValkeyStore


@contextmanager
def sqlite(folder: Path) -> Iterator[StoreUrl]:
    """Yield the URL of an SQLite file in the folder."""
    yield StoreUrl(path=str(folder / "store.db"))


@contextmanager
def shared(folder: Path) -> Iterator[StoreUrl]:
    """Yield the URL of a Valkey server with its files in the folder."""
    with Valkey(folder) as server:
        yield parse_store(server.url)


Stores = Mapping[str, Callable[[Path], AbstractContextManager[StoreUrl]]]

#: The kinds of store, by their name in figures.
STORES: Stores = {"sqlite": sqlite, "valkey": shared}


def opened(url: StoreUrl, settings: Settings) -> Store:
    """Return the store, opened with the options of a server with these settings."""
    terms = StoreOptions(
        labels=settings.metrics_labels, fold_settings_fingerprint=settings.fold_settings_fingerprint
    )
    return SqliteStore(Path(url.path), terms) if url.is_embedded else ValkeyStore(url, terms)


def size_mib(url: StoreUrl) -> float:
    """Return the size of a store in MiB: the file with its write-ahead log, or the memory of the server."""
    if url.is_embedded:
        parts = (Path(url.path + end) for end in ("", "-wal"))
        return sum(part.stat().st_size for part in parts if part.exists()) / 1024 / 1024
    with valkey.Valkey(host=url.host, port=url.port) as client:
        return int(client.info("memory")["used_memory"]) / 1024 / 1024
