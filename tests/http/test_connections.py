"""What connections leave behind: nothing, however they come in and however they end."""

import asyncio
import gc
import logging
import os
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from gunicorn.config import Config

from exporter.connection import Answer, Connection, Listener
from exporter.worker import Worker
from tests.support import HANG_SECONDS

REQUEST = b"POST /callbacks HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}"
CALLERS = 20
FOR_EVER = 3600


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer as a framework does."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _taken() -> Answer:
    return 200, b"content-length: 2\r\n\r\n{}"


def short_way(*_: object) -> Coroutine[Any, Any, Answer]:
    """Answer instead of the framework."""
    return _taken()


LISTENERS = {"framework": Listener("web"), "short way": Listener("callbacks", express=short_way)}


class Quiet(logging.LoggerAdapter[logging.Logger]):
    """What a worker logs with."""

    access_log_enabled = False


class Served:
    """A listener of this process, and what there is of its connections.

    Args:
        listener: what is special about it.
        keepalive: how long a connection waits for another request, seconds.
        grace: after how many seconds what still goes on for a caller that has gone is ended.
    """

    def __init__(self, listener: Listener, *, keepalive: int, grace: int) -> None:
        cfg = Config()
        cfg.set("keepalive", keepalive)
        cfg.set("asgi_disconnect_grace_period", grace)
        self._worker = Worker(1, os.getppid(), [], None, 30, cfg, Quiet(logging.getLogger(__name__)))
        self._worker.asgi = app
        self._worker._open_files = 10_000
        self._listener = listener
        self._made: list[weakref.ref[Connection]] = []
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Served"]:
        """Serve on a free port."""
        self._worker.loop = asyncio.get_running_loop()
        try:
            async with await self._worker.loop.create_server(self._connection, "127.0.0.1", 0) as server:
                self.port = server.sockets[0].getsockname()[1]
                yield self
        finally:
            self._worker.tmp.close()

    def _connection(self) -> Connection:
        made = Connection(self._worker, self._listener)
        self._made.append(weakref.ref(made))
        return made

    @property
    def open(self) -> int:
        """How many connections are open, as the worker counts them."""
        number: int = self._worker.nr_conns
        return number

    @property
    def kept(self) -> int:
        """How many connections are in memory."""
        return sum(made() is not None for made in self._made)


def sockets() -> int:
    """Return how many sockets this process has open."""
    folder, number = "/proc/self/fd", 0
    for name in os.listdir(folder):
        try:
            number += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:  # the listing's own
            continue
    return number


async def becomes(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = asyncio.get_running_loop().time() + HANG_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


async def answered(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection over which one request has been answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200")
    return reader, writer


async def said_goodbye_with_its_request(port: int) -> None:
    """Send a request, say that no more comes, and read its answer until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    writer.write_eof()
    async with asyncio.timeout(HANG_SECONDS):
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


def say_goodbye(writer: asyncio.StreamWriter) -> None:
    """End one's own side first."""
    writer.write_eof()


def be_cut_off(writer: asyncio.StreamWriter) -> None:
    """Vanish, as if a cable were cut."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def run_on_the_worker_s_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run it on the kind of event loop that the worker has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


@pytest.fixture
def _no_rubbish_is_looked_for() -> Iterator[None]:
    """Whatever is in memory is held by something, or waits for the collector of cycles, which is worse."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


#: How a caller goes that has its answer, before it closes its connection.
ENDINGS: dict[str, Callable[[asyncio.StreamWriter], None]] = {
    "with a goodbye": say_goodbye,
    "cut off": be_cut_off,
    "at once": lambda writer: None,
}


@pytest.mark.parametrize("way", LISTENERS)
def test_a_caller_that_goes_when_it_has_its_answer_holds_nothing(way: str) -> None:
    """No file handle and no task, as if another request could come: however it goes, and however early."""

    async def run() -> None:
        async with Served(LISTENERS[way], keepalive=FOR_EVER, grace=FOR_EVER).serving() as served:
            before, tasks = sockets(), len(asyncio.all_tasks())
            for _ in range(CALLERS):
                await said_goodbye_with_its_request(served.port)
            for leave in ENDINGS.values():
                for _ in range(CALLERS):
                    _, writer = await answered(served.port)
                    leave(writer)
                    writer.close()
                await becomes(lambda: sockets() <= before, "every handle is let go")
                await becomes(lambda: served.open == 0, "no connection is open")
                await becomes(lambda: len(asyncio.all_tasks()) == tasks, "nothing is waited for")

    run_on_the_worker_s_loop(run())


@pytest.mark.usefixtures("_no_rubbish_is_looked_for")
@pytest.mark.parametrize("way", LISTENERS)
def test_connections_that_have_ended_or_were_idle_leave_no_memory_behind(way: str) -> None:
    """Nor does one need to be looked for by the collector of cycles."""

    async def run() -> None:
        async with Served(LISTENERS[way], keepalive=1, grace=1).serving() as served:
            idle = [await answered(served.port) for _ in range(CALLERS)]
            for leave in ENDINGS.values():
                for _ in range(CALLERS):
                    _, writer = await answered(served.port)
                    leave(writer)
                    writer.close()
            for reader, writer in idle:
                assert await reader.read() == b""
                writer.close()
            await becomes(lambda: served.kept == 0, "every connection is forgotten")

    run_on_the_worker_s_loop(run())
