"""Who is measured side by side: the exporter on its stores, and what one would use instead of it."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from bench.load import CALLBACKS, PUSHES, Aim
from bench.peers import Pushgateway, Valkey
from bench.process import BARE, EXPORTER, PLAIN, Process
from bench.program import Program

BARE_HANDLER, SQLITE, GUARDED = "bare", "sqlite", "sqlite guarded"
VALKEY, TWO_ON_VALKEY = "valkey", "valkey 2 replicas"
PUSHGATEWAY, PLAIN_WAY = "pushgateway", "plain"
#: Those that keep what they answered 200.
DURABLE = (SQLITE, VALKEY, TWO_ON_VALKEY)
SIDE_BY_SIDE = (BARE_HANDLER, *DURABLE, PLAIN_WAY, PUSHGATEWAY)

TOKEN, KEY = "0123456789abcdef0123456789abcdef", "a-key-to-sign-with"
SIGNED_SECONDS = 3600


class Contender(Struct, frozen=True):
    """Something that takes callbacks.

    Args:
        name: one of the names above.
        servers: what is asked.
        store: the server behind them, if there is one.
        urls: where requests go; if none are given, where the servers take callbacks.
        script: what it is sent.
        fields: of every callback, besides.
    """

    name: str
    servers: Sequence[Program]
    store: Valkey | None = None
    urls: tuple[str, ...] = ()
    script: str = CALLBACKS
    fields: str = ""

    def aim(self, destinations: int) -> Aim:
        """Return what is sent to it, over so many destinations."""
        urls = self.urls or tuple(s.callbacks_url for s in self.servers if isinstance(s, Process))
        return Aim(urls, self.script, destinations, self.fields)

    def busy_seconds(self) -> float:
        """Return the processor time that its servers have used, not that of their store."""
        return sum(server.busy_seconds() for server in self.servers)


class Cores(Struct, frozen=True):
    """What runs on which cores; all may run anywhere if none are given.

    Args:
        servers: one core for each server.
        rest: for the store, and the load.
    """

    servers: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()


ANYWHERE = Cores()


@contextmanager
def running(folder: Path, flags: Sequence[str], names: Sequence[str]) -> Iterator[Mapping[str, Contender]]:
    """Yield those with these names, started in folders of their own, all at once."""
    with ExitStack() as open_ones:
        found = {}
        for name in names:
            home = folder / name.replace(" ", "-")
            home.mkdir()
            found[name] = open_ones.enter_context(_one(name, home, flags))
        yield found


@contextmanager
def _one(name: str, home: Path, flags: Sequence[str]) -> Iterator[Contender]:
    if name == PUSHGATEWAY:
        with Pushgateway(home) as gateway:
            yield Contender(name, [gateway], urls=(gateway.push_url,), script=PUSHES)
    elif name in (VALKEY, TWO_ON_VALKEY):
        with on_valkey(name, home, flags, replicas=1 if name == VALKEY else 2) as contender:
            yield contender
    elif name == GUARDED:
        with Process(EXPORTER, home, [*flags, *_guards(home)]) as guard:
            yield Contender(name, [guard], urls=(f"{guard.callbacks_url}/{TOKEN}",), fields=_signature())
    else:
        words = {BARE_HANDLER: BARE, PLAIN_WAY: PLAIN, SQLITE: EXPORTER}[name]
        with Process(words, home, flags) as server:
            yield Contender(name, [server])


@contextmanager
def on_valkey(
    name: str, home: Path, flags: Sequence[str], *, replicas: int, cores: Cores = ANYWHERE
) -> Iterator[Contender]:
    """Yield replicas of the exporter on a Valkey server."""
    with ExitStack() as open_ones:
        store = open_ones.enter_context(Valkey(home, cores.rest))
        servers = []
        for number in range(replicas):
            place = home / str(number)
            place.mkdir()
            replica = Process(
                EXPORTER, place, flags, store=store.url, cores=cores.servers[number : number + 1]
            )
            servers.append(open_ones.enter_context(replica))
        yield Contender(name, servers, store)


def _guards(folder: Path) -> list[str]:
    """Return flags that let in only who has a token and signs."""
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
