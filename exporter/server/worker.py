"""The worker: gunicorn's, with uvicorn's connections, and what differs between the two listeners.

gunicorn's master starts it, watches it and tells it to stop. It serves each socket as its listener says.
"""

import asyncio
import os
import resource
import signal
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any, ClassVar, Protocol

import uvloop
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker as GunicornWorker
from uvicorn.config import Config

from exporter.server.connection import Connection
from exporter.server.listener import App, Listener, State
from exporter.server.tls import HandshakeContext

HEARTBEAT_SECONDS = 1.0
#: How long connections are waited for when the worker is to stop; the master kills it soon after.
GRACE_SECONDS = 22.0
#: How often connections are looked at then, and told to go.
LOOK_SECONDS = 0.05
#: For so many looks a TLS handshake is waited for: the callback of an honest caller comes by then.
HANDSHAKE_LOOKS = 40
MAX_OPEN_FILES = 16_384
OUT_OF_MEMORY = b'level=error msg="the memory ran out: another worker takes over"\n'
#: gunicorn's master goes on after any status but 3 and 4.
EXIT_WITHOUT_MEMORY = 1
#: Connections have a limit of their own, which counts where uvicorn's does not.
NO_LIMIT_SECONDS = 1_000_000_000
#: How long a TLS handshake may take, and a goodbye go unanswered.
HANDSHAKE_SECONDS, GOODBYE_SECONDS = 10.0, 5.0


class Served(Protocol):
    """What a worker serves."""

    def preflight(self) -> None:
        """Do what `start` does, as far as it may fail, and undo it.

        Raises:
            Exception: it can't start; the text says how to go on.
        """

    def start(self) -> Sequence[App]:
        """Begin; return an application for each listener.

        Raises:
            Exception: it can't; the text says how to go on.
        """

    def reread(self, *, force: bool = False) -> None:
        """Read again which files have changed, or with `force` all of them."""

    async def stop(self) -> None:
        """Make everything durable that was accepted, and let go of it."""


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


def config_of(app: App) -> Config:
    """Return what connections that serve `app` are made with."""
    config = Config(
        app,
        interface="asgi3",
        lifespan="off",
        ws="none",
        workers=1,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=NO_LIMIT_SECONDS,
    )
    config.load()
    return config


def look_after(state: State, seconds: float) -> None:
    """Close the connections whose callers take too long; called every so many seconds."""
    state.running_seconds += seconds
    for connection in list(state.connections):
        assert isinstance(connection, Connection)  # noqa: S101 - no other kind is made
        connection.look_after()


class Worker(GunicornWorker):  # type: ignore[misc]
    """Serves each socket as its listener says; `app.listeners` are in the order of the sockets.

    What is served rereads its files once a second, and all of them on SIGHUP.
    """

    #: gunicorn takes the handlers of these away, and SIGHUP would end a worker that has none. The master's,
    #: which does nothing here, stays until the loop has another.
    SIGNALS: ClassVar = [sign for sign in GunicornWorker.SIGNALS if sign != signal.SIGHUP]

    def run(self) -> None:
        """Serve until the master says to stop, or is gone."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(end_without_memory)
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        served: Served = self.wsgi
        loop.add_signal_handler(signal.SIGHUP, lambda: served.reread(force=True))
        state = State(raise_open_files())
        apps = self._start(served)
        servers = [
            await self._listen(bound.sock, listener, app, state)
            for bound, listener, app in zip(self.sockets, self.app.listeners, apps, strict=True)
        ]
        while self.alive and not stop.is_set() and self.ppid == os.getppid():
            self._beat(state, HEARTBEAT_SECONDS)
            served.reread()
            await _wait(stop, HEARTBEAT_SECONDS)
        for server in servers:
            server.close()
        await self._drain(state)
        await served.stop()

    def _start(self, served: Served) -> Sequence[App]:
        """Start what is served; what can't start ends the master too: the next worker would fare alike."""
        try:
            return served.start()
        except Exception as exc:
            self.log.error("can't start: %s", exc)  # noqa: TRY400 - a line for operators
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from exc

    async def _listen(self, bound: Any, listener: Listener, app: App, state: State) -> asyncio.Server:
        config, newest = config_of(app), listener.tls
        tls = HandshakeContext(newest, listener, state) if newest else None
        return await asyncio.get_running_loop().create_server(
            lambda: Connection(config, state, listener),
            sock=bound,
            backlog=self.cfg.backlog,  # it listens anew, by default with room for a hundred
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
            ssl_shutdown_timeout=GOODBYE_SECONDS if tls else None,
        )

    def _beat(self, state: State, seconds: float) -> None:
        """Show the master that all goes on, set the date of answers, and look after the connections."""
        self.notify()
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        look_after(state, seconds)

    async def _drain(self, state: State) -> None:
        """Answer what is under way, and what comes on open connections; then close these."""
        state.is_draining = True
        loop = asyncio.get_running_loop()
        ends, looks = loop.time() + GRACE_SECONDS, 0
        while loop.time() < ends and (
            state.connections or state.tasks or (state.handshakes and looks < HANDSHAKE_LOOKS)
        ):
            # Looks, not seconds: what came while this process stood still is read before the next one.
            for connection in list(state.connections):
                connection.shutdown()
            looks += 1
            self._beat(state, LOOK_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
