"""The contenders that are measured side by side: the exporter with its stores, and the alternatives to it."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from bench.load import CALLBACKS, PUSHES, Load
from bench.peers import Pushgateway, Valkey
from bench.process import BARE, EXPORTER, PLAIN, Process
from bench.program import Program

BARE_HANDLER, SQLITE, SIGNED = "bare", "sqlite", "sqlite signed"
VALKEY, TWO_ON_VALKEY = "valkey", "valkey 2 replicas"
PUSHGATEWAY, PLAIN_WAY = "pushgateway", "plain"
#: Contenders that have every callback with the answer 200 on disk.
DURABLE = (SQLITE, VALKEY, TWO_ON_VALKEY)
SIDE_BY_SIDE = (BARE_HANDLER, *DURABLE, PLAIN_WAY, PUSHGATEWAY)

TOKEN, KEY = "0123456789abcdef0123456789abcdef", "a-key-to-sign-with"
SIGNED_SECONDS = 3600


class Contender(Struct, frozen=True):
    """A set of servers that accept callbacks.

    Args:
        name: one of the names above.
        servers: the servers that get the requests.
        store: the server of the shared store, if there is one.
        urls: the URLs for requests; empty: the callback URLs of the servers.
        script: the wrk script with the requests.
        fields: additional JSON fields of every callback, with a comma at their end.
    """

    name: str
    servers: Sequence[Program]
    store: Valkey | None = None
    urls: tuple[str, ...] = ()
    script: str = CALLBACKS
    fields: str = ""

    def load(self, destinations: int) -> Load:
        """Return the load for this contender."""
        urls = self.urls or tuple(s.callbacks_url for s in self.servers if isinstance(s, Process))
        return Load(urls, self.script, destinations, self.fields)

    def cpu_seconds(self) -> float:
        """Return the processor time that its servers have used, without that of the store."""
        return sum(server.cpu_seconds() for server in self.servers)


class Cores(Struct, frozen=True):
    """The cores that programs are pinned to; empty: no pinning.

    Args:
        servers: one core for each server.
        rest: the cores for the store and the load generator.
    """

    servers: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()


ANYWHERE = Cores()


@contextmanager
def running(folder: Path, flags: Sequence[str], names: Sequence[str]) -> Iterator[Mapping[str, Contender]]:
    """Start the contenders with these names, each in a folder of its own; yield them by name."""
    with ExitStack() as stack:
        found = {}
        for name in names:
            home = folder / name.replace(" ", "-")
            home.mkdir()
            found[name] = stack.enter_context(_one(name, home, flags))
        yield found


@contextmanager
def _one(name: str, home: Path, flags: Sequence[str]) -> Iterator[Contender]:
    if name == PUSHGATEWAY:
        with Pushgateway(home) as gateway:
            yield Contender(name, [gateway], urls=(gateway.push_url,), script=PUSHES)
    elif name in (VALKEY, TWO_ON_VALKEY):
        with on_valkey(name, home, flags, replicas=1 if name == VALKEY else 2) as contender:
            yield contender
    elif name == SIGNED:
        with Process(EXPORTER, home, [*flags, *_access_flags(home)]) as server:
            yield Contender(name, [server], urls=(f"{server.callbacks_url}/{TOKEN}",), fields=_signature())
    else:
        module = {BARE_HANDLER: BARE, PLAIN_WAY: PLAIN, SQLITE: EXPORTER}[name]
        with Process(module, home, flags) as server:
            yield Contender(name, [server])


@contextmanager
def on_valkey(
    name: str, home: Path, flags: Sequence[str], *, replicas: int, cores: Cores = ANYWHERE
) -> Iterator[Contender]:
    """Yield replicas of the exporter on a Valkey server."""
    with ExitStack() as stack:
        store = stack.enter_context(Valkey(home, cores.rest))
        servers = []
        for number in range(replicas):
            place = home / str(number)
            place.mkdir()
            replica = Process(
                EXPORTER, place, flags, store=store.url, cores=cores.servers[number : number + 1]
            )
            servers.append(stack.enter_context(replica))
        yield Contender(name, servers, store)


def _access_flags(folder: Path) -> list[str]:
    """Return flags that require a token and a signature."""
    for name, secret in (("token", TOKEN), ("key", KEY)):
        (folder / name).write_text(secret + "\n")
        (folder / name).chmod(0o600)
    return [
        f"--callback.token-file={folder / 'token'}",
        f"--callback.sign-key-file={folder / 'key'}",
        "--callback.require-sign",
    ]


def _signature() -> str:
    ends = int(time.time()) + SIGNED_SECONDS
    sign = hashlib.md5(f"{KEY}{ends}".encode(), usedforsecurity=False).hexdigest()
    return f'"t":{ends},"sign":"{sign}",'
