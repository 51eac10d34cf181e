"""The worker: a gunicorn worker that serves both listeners with uvicorn's connections.

gunicorn's master starts the worker, watches its heartbeat, and stops it with a signal.
"""

import asyncio
import os
import resource
import signal
import ssl
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any, ClassVar, Protocol

import uvloop
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker as GunicornWorker
from uvicorn.config import Config

from exporter.server.connection import Connection
from exporter.server.listener import App, Listener, WorkerState
from exporter.server.tls import HandshakeContext

#: Interval of the heartbeat, and of the checks for changed files and for exceeded time limits.
HEARTBEAT_SECONDS = 1.0
#: How long a stopping worker waits for its connections. The master kills it 3 s later, time for a commit.
DRAIN_SECONDS = 22.0
#: Interval between two checks of the connections while the worker drains.
DRAIN_CHECK_SECONDS = 0.05
#: Number of checks for which the worker waits for TLS handshakes in progress: 2 s, enough for a real sender.
HANDSHAKE_CHECKS = 40
#: Upper bound of the limit of open files: it bounds the number of connections and their memory.
MAX_OPEN_FILES = 16_384
OUT_OF_MEMORY = b'level=error msg="out of memory; the worker exits and the master starts another one"\n'
#: Time limits of a TLS handshake, and of waiting for the other side's answer when a TLS connection closes.
HANDSHAKE_SECONDS, TLS_CLOSE_SECONDS = 10.0, 5.0


class WorkerService(Protocol):
    """The program that a worker runs."""

    def check_start(self) -> None:
        """Open the store and close it again, so that a problem ends the start before there is a worker."""

    def start(self) -> Sequence[App]:
        """Start the service; return an app for each listener. The text of an error says what to do."""

    def reload(self, *, force: bool = False) -> None:
        """Reload the files that have changed, or with `force` all files."""

    async def stop(self) -> None:
        """Commit everything that was accepted, and close the store."""


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as allowed, and return the new limit."""
    # Many systems start a process with a soft limit of 1024, which few slow connections would use up.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def exit_if_out_of_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exit after a MemoryError in the event loop, so that another worker starts; log other exceptions.

    After an exception while it accepts a connection the loop accepts no more connections, and everything else
    looks healthy.
    """
    if isinstance(context.get("exception"), MemoryError):
        os.write(2, OUT_OF_MEMORY)  # logging would need memory
        # `sys.exit` would only raise an exception inside the loop. After 3 and 4 no other worker is started.
        os._exit(1)
    loop.default_exception_handler(context)


def uvicorn_config(app: App) -> Config:
    """Return uvicorn's settings for the connections that serve `app`."""
    config = Config(
        app,
        interface="asgi3",
        lifespan="off",  # the service starts and stops the apps
        ws="none",
        workers=1,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `ClientAddress` reads X-Forwarded-For, from trusted proxies only
        timeout_keep_alive=1_000_000_000,  # never: `Connection` has its own limit, also for a first request
    )
    config.load()
    return config


def check_connections(state: WorkerState, seconds: float) -> None:
    """Close the connections that have exceeded a time limit. Call this every `seconds`."""
    # The interval, not the real time: see `WorkerState.running_seconds`.
    state.running_seconds += seconds
    for connection in list(state.connections):
        assert isinstance(connection, Connection)  # noqa: S101 - no other kind is made
        connection.check_deadlines()


class Worker(GunicornWorker):  # type: ignore[misc]
    """A gunicorn worker that serves each socket by the rules of its listener.

    `app.listeners` are in the order of the sockets. The worker reloads changed files once per second, and all
    files on SIGHUP.
    """

    #: gunicorn installs its handlers for these signals. SIGHUP is left out: without a handler it would end
    #: the process. Until the loop has its own, the one inherited from the master stays; it does nothing here.
    SIGNALS: ClassVar = [number for number in GunicornWorker.SIGNALS if number != signal.SIGHUP]

    def run(self) -> None:
        """Serve until the master sends SIGTERM or has ended."""
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(exit_if_out_of_memory)
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        service: WorkerService = self.wsgi
        loop.add_signal_handler(signal.SIGHUP, lambda: service.reload(force=True))
        state = WorkerState(raise_file_limit())
        apps = self._start(service)
        servers = [
            await self._listen(bound.sock, listener, app, state)
            for bound, listener, app in zip(self.sockets, self.app.listeners, apps, strict=True)
        ]
        # Another parent means that the master has died: without it nobody would ever stop this worker.
        while self.alive and not stop.is_set() and self.ppid == os.getppid():
            self._heartbeat(state, HEARTBEAT_SECONDS)
            service.reload()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), HEARTBEAT_SECONDS)
        # First no new connections, then the last answers, then the store: answers need the store.
        for server in servers:
            server.close()
        await self._drain(state)
        await service.stop()

    def _start(self, service: WorkerService) -> Sequence[App]:
        """Start the service. If it can't start, end the master too: the next worker would fail as well."""
        try:
            return service.start()
        except Exception as exc:
            self.log.error("can't start: %s", exc)  # noqa: TRY400 - one line for operators
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from exc

    async def _listen(self, bound: Any, listener: Listener, app: App, state: WorkerState) -> asyncio.Server:
        config, current_tls = uvicorn_config(app), listener.tls
        tls = HandshakeContext(ssl.PROTOCOL_TLS_SERVER, current_tls, listener, state) if current_tls else None
        return await asyncio.get_running_loop().create_server(
            partial(Connection, config, state, listener),
            sock=bound,
            backlog=self.cfg.backlog,  # the loop calls listen again, by default with 100
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
            ssl_shutdown_timeout=TLS_CLOSE_SECONDS if tls else None,
        )

    def _heartbeat(self, state: WorkerState, seconds: float) -> None:
        """Notify the master, update the Date header of answers, and check the connections."""
        self.notify()
        # Once per heartbeat is enough: the Date header has whole seconds.
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        check_connections(state, seconds)

    async def _drain(self, state: WorkerState) -> None:
        """Answer the requests in progress and those that arrive on open connections, then close these."""
        state.is_draining = True
        loop = asyncio.get_running_loop()
        deadline, checks = loop.time() + DRAIN_SECONDS, 0
        while loop.time() < deadline and (
            state.connections or state.tasks or (state.handshakes and checks < HANDSHAKE_CHECKS)
        ):
            # Count checks, not seconds. After a pause of the process, the loop reads the bytes that arrived
            # meanwhile before it comes to the next check.
            for connection in list(state.connections):
                connection.shutdown()
            checks += 1
            self._heartbeat(state, DRAIN_CHECK_SECONDS)
            await asyncio.sleep(DRAIN_CHECK_SECONDS)
