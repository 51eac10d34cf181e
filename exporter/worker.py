"""gunicorn's worker, with what differs between the two listeners.

gunicorn serves all its sockets alike; here each has a certificate and limits of its own.
"""

import asyncio
import os
import resource
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.asgi.lifespan import LifespanManager
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

from exporter.connection import Connection, Listener

HEARTBEAT_SECONDS = 1.0
MAX_OPEN_FILES = 16_384
OUT_OF_MEMORY = b'level=error msg="the memory ran out: another worker takes over"\n'
#: gunicorn's master goes on after any status but 3 and 4.
EXIT_WITHOUT_MEMORY = 1
#: How long a TLS handshake may take, and a goodbye go unanswered.
HANDSHAKE_SECONDS, GOODBYE_SECONDS = 10.0, 5.0


def raise_open_files() -> int:
    """Allow this process as many open files as it may have, and return how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def end_without_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End this process where memory ran out in the event loop; tell of all other exceptions.

    The loop takes no more connections then: an exception between a caller's arrival and its acceptance
    leaves the listener deaf, and all else looks well. The master starts another worker at once.
    """
    if isinstance(context.get("exception"), MemoryError):
        os.write(2, OUT_OF_MEMORY)  # a logger needs memory
        os._exit(EXIT_WITHOUT_MEMORY)
    loop.default_exception_handler(context)


class Worker(ASGIWorker):  # type: ignore[misc]
    """Serves each socket as its listener says; `app.listeners` are in the order of the sockets."""

    def is_full(self, listener: Listener) -> bool:
        """Whether a listener has as many connections as it may have."""
        is_full: bool = self.nr_conns > self._open_files - listener.reserve
        return is_full

    async def _serve(self) -> None:
        self._open_files = raise_open_files()
        self.loop.set_exception_handler(end_without_memory)
        # What it finds out is kept where it was asked: a subclass alone would be left with the slow parser.
        ASGIProtocol._check_h1c_protocol_available()
        await self._begin()
        for bound, listener in zip(self.sockets, self.app.listeners, strict=True):
            self.servers.append(await self._listen(bound.sock, listener))
        while self.alive and self.ppid == os.getppid():
            self.notify()
            await asyncio.sleep(HEARTBEAT_SECONDS)
        await self._shutdown()

    async def _begin(self) -> None:
        """Start the application; one that can't start ends the master too: the next would fare alike."""
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except Exception as exc:
            self.log.error("can't start: %s", exc)  # noqa: TRY400 - a line for operators
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from exc

    async def _listen(self, bound: Any, listener: Listener) -> asyncio.Server:
        loop: asyncio.AbstractEventLoop = self.loop
        has_tls = listener.tls is not None
        return await loop.create_server(
            lambda: Connection(self, listener),
            sock=bound,
            backlog=self.cfg.backlog,  # it listens anew, by default with room for a hundred
            ssl=listener.tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if has_tls else None,
            ssl_shutdown_timeout=GOODBYE_SECONDS if has_tls else None,
        )
