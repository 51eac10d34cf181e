"""Connections of the HTTP server: they do not delay each other, and leave no resources when they end."""

import asyncio
import gc
import os
import select
import socket
import struct
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from exporter.server import connection
from exporter.server.connection import Connection
from exporter.server.listener import Listener, WorkerState
from exporter.server.worker import check_connections, uvicorn_config
from tests.support import HANG_SECONDS

REQUEST = b"POST /callbacks HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}"
CALLERS = 20
NO_TIMEOUT_SECONDS = 3600
CHECK_SECONDS = 0.05


class ServedListener:
    """A listener in this process that records its connections.

    Args:
        idle_seconds: how long a connection may wait for its next request.
        answer: the body of every answer.
    """

    def __init__(self, idle_seconds: float = NO_TIMEOUT_SECONDS, answer: bytes = b"{}") -> None:
        self._listener = Listener("callbacks", "", idle_seconds=idle_seconds)
        self._answer = answer
        self._config = uvicorn_config(self._app)
        self._state = WorkerState(max_open_files=10_000)
        self._made: list[weakref.ref[Connection]] = []
        #: Requests wait for it before they are answered.
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        #: The paths of the answered requests, in the order of the answers.
        self.answered_paths: list[str] = []
        self.port = 0

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer every request with 200, like an ASGI framework."""
        await receive()
        await self.may_answer.wait()
        self.answered_paths.append(scope["path"])
        length = b"%d" % len(self._answer)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self._answer})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["ServedListener"]:
        """Serve on a free port; check the connections as the worker does, but more often."""
        loop = asyncio.get_running_loop()
        checking = loop.create_task(self._check_connections())
        async with await loop.create_server(self._connection, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                checking.cancel()
                for made in list(self._state.connections):
                    made.transport.abort()

    async def _check_connections(self) -> None:
        while True:
            check_connections(self._state, CHECK_SECONDS)
            await asyncio.sleep(CHECK_SECONDS)

    def _connection(self) -> Connection:
        made = Connection(self._config, self._state, self._listener)
        self._made.append(weakref.ref(made))
        return made

    @property
    def open(self) -> int:
        """Return the number of open connections, as the worker counts them."""
        return len(self._state.connections)

    @property
    def unparsed_bytes(self) -> int:
        """Return the number of received bytes that are not parsed yet."""
        return sum(len(made._unparsed) for made in self._state.connections)  # type: ignore[union-attr]

    @property
    def in_memory(self) -> int:
        """Return the number of connection objects in memory."""
        return sum(made() is not None for made in self._made)


def sockets() -> int:
    """Return the number of open sockets of this process."""
    folder, number = "/proc/self/fd", 0
    for name in os.listdir(folder):
        try:
            number += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:  # the file descriptor of os.listdir itself
            continue
    return number


async def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true; `what` describes it in the error message."""
    deadline = asyncio.get_running_loop().time() + HANG_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


async def open_answered(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection over which one request was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    assert (await reader.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200")
    return reader, writer


async def exchange(port: int, data: bytes, *, is_all: bool = False) -> bytes:
    """Send bytes, half-close the connection if `is_all`, and return all bytes received until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if is_all:
        writer.write_eof()
    async with asyncio.timeout(HANG_SECONDS):
        received = await reader.read()
    writer.close()
    return received


def half_close(writer: asyncio.StreamWriter) -> None:
    """Shut down the sending side."""
    writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Make the next close reset the connection."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def run_on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop, the event loop of the worker."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


@pytest.fixture
def _without_garbage_collector() -> Iterator[None]:
    """Disable the garbage collector, so that an object in a reference cycle counts as a leak."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


#: What a client does after its answer, before it closes its connection.
ENDINGS: dict[str, Callable[[asyncio.StreamWriter], None]] = {
    "half-closed": half_close,
    "reset": reset,
    "closed": lambda writer: None,
}


def test_a_client_that_leaves_after_its_answer_releases_everything() -> None:
    """It leaves no socket, no connection and no asyncio task, however it leaves."""

    async def run() -> None:
        async with ServedListener().serving() as served:
            # Sockets and asyncio tasks of the listener itself.
            before, tasks = sockets(), len(asyncio.all_tasks())
            for _ in range(CALLERS):
                assert (await exchange(served.port, REQUEST, is_all=True)).startswith(b"HTTP/1.1 200")
            for leave in ENDINGS.values():
                for _ in range(CALLERS):
                    _, writer = await open_answered(served.port)
                    leave(writer)
                    writer.close()
                await wait_until(lambda: sockets() <= before, "every socket is closed")
                await wait_until(lambda: served.open == 0, "no connection is open")
                await wait_until(lambda: len(asyncio.all_tasks()) == tasks, "no asyncio task is left")

    run_on_uvloop(run())


@pytest.mark.parametrize("requests", [1, 2, 3])
@pytest.mark.parametrize("leave", ENDINGS.values(), ids=ENDINGS)
def test_an_answer_to_a_client_that_has_left_is_dropped(
    leave: Callable[[asyncio.StreamWriter], None], requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that further requests wait for. Anybody could fill the log otherwise."""

    async def run() -> None:
        async with ServedListener().serving() as served:
            served.may_answer.clear()
            tasks = len(asyncio.all_tasks())
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(REQUEST * requests)
            await wait_until(lambda: len(asyncio.all_tasks()) > tasks, "a request waits for its answer")
            leave(writer)
            writer.close()
            if leave is reset:
                await wait_until(lambda: served.open == 0, "the connection is lost")
            served.may_answer.set()
            await wait_until(lambda: served.open == 0, "the connection is closed")
            await wait_until(lambda: len(asyncio.all_tasks()) == tasks, "no asyncio task is left")
            assert served.answered_paths

    run_on_uvloop(run())
    assert not caplog.records


@pytest.mark.usefixtures("_without_garbage_collector")
def test_closed_and_idle_connections_are_freed() -> None:
    """Reference counting alone frees them, without the garbage collector."""

    async def run() -> None:
        async with ServedListener(idle_seconds=1.0).serving() as served:
            idle = [await open_answered(served.port) for _ in range(CALLERS)]
            for leave in ENDINGS.values():
                for _ in range(CALLERS):
                    _, writer = await open_answered(served.port)
                    leave(writer)
                    writer.close()
            for reader, writer in idle:
                assert await reader.read() == b""
                writer.close()
            await wait_until(lambda: served.in_memory == 0, "every connection is freed")

    run_on_uvloop(run())


def test_a_pipelining_connection_does_not_delay_others() -> None:
    """Others are answered between its many requests, and it gets all its answers."""
    single, number = b"GET /many HTTP/1.1\r\n\r\n", 5000
    last = b"GET /many HTTP/1.1\r\nConnection: close\r\n\r\n"

    async def run() -> None:
        async with ServedListener().serving() as served:
            asking = asyncio.ensure_future(exchange(served.port, single * (number - 1) + last))
            await wait_until(lambda: bool(served.answered_paths), "the first of many is answered")
            for _ in range(CALLERS):
                begun = len(served.answered_paths)
                await exchange(served.port, last.replace(b"many", b"other"))
                between = served.answered_paths[begun:].count("/many")
                assert between < number / 4, "another connection waits for most of them"
            assert served.answered_paths.count("/many") < number, (
                "all of them were answered before the others"
            )
            assert (await asking).count(b"HTTP/1.1 200 OK") == number

    run_on_uvloop(run())


def test_unparsed_requests_use_bounded_memory() -> None:
    """The server stops reading while requests wait, so that the data stays with the client."""

    async def run() -> None:
        async with ServedListener(answer=b"x" * 65_536).serving() as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(REQUEST * 200_000)
            await wait_until(lambda: len(served.answered_paths) > 10, "some are answered")
            await wait_until(lambda: served.unparsed_bytes > 0, "some requests wait")
            for _ in range(20):
                await asyncio.sleep(0)
                assert served.unparsed_bytes < 2_000_000
            writer.transport.abort()
            await wait_until(lambda: served.open == 0, "it is closed")

    run_on_uvloop(run())


def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither unread answers nor an unread last answer keep a connection open."""
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.2)
    closing = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    async def run() -> None:
        async with ServedListener(answer=b"x" * 16_000_000).serving() as served:
            for data in (REQUEST * 3, closing):
                with socket.create_connection(("127.0.0.1", served.port)) as caller:
                    caller.sendall(data)
                    await wait_until(lambda: served.open == 1, "it is connected")
                    await wait_until(lambda: served.open == 0, "it is closed")

    run_on_uvloop(run())


#: A request with an incomplete body. `_app` answers it before the rest of the body arrives.
EARLY = REQUEST.replace(b"Content-Length: 2", b"Content-Length: 100000")


def test_an_unused_body_has_a_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest of a body after its answer has the same time limit as any other body."""
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.5)

    async def run() -> None:
        async with ServedListener().serving() as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(EARLY)
            await reader.readuntil(b"\r\n\r\n{}")
            while served.open:
                writer.write(b" ")
                await asyncio.sleep(0.05)
            writer.close()

    run_on_uvloop(run())


def test_a_connection_continues_after_a_late_body() -> None:
    """The next request is answered, then the connection is closed as idle."""

    async def run() -> None:
        async with ServedListener(idle_seconds=0.5).serving() as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(EARLY)
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b" " * 99_998 + REQUEST)
            await reader.readuntil(b"\r\n\r\n{}")
            assert await reader.read() == b""
            writer.close()

    run_on_uvloop(run())


def test_a_request_sent_while_the_process_was_stopped_is_answered() -> None:
    """The request waits in the socket, so the connection is not closed as idle."""

    async def run() -> None:
        async with ServedListener(idle_seconds=0.5).serving() as served:
            with socket.create_connection(("127.0.0.1", served.port), timeout=HANG_SECONDS) as caller:
                for _ in range(2):
                    caller.sendall(REQUEST)
                    time.sleep(0.6)  # noqa: ASYNC251 - it must block the event loop
                    await wait_until(lambda: bool(select.select([caller], [], [], 0)[0]), "it is answered")
                    assert caller.recv(65536).endswith(b"{}")

    run_on_uvloop(run())


def test_a_client_that_still_sends_when_rejected_gets_its_answer() -> None:
    """The server reads the rest before it closes: unread data would reset the connection."""
    rejected = b"nonsense\r\n" + b"x" * 5_000_000

    async def run() -> None:
        async with ServedListener().serving() as served:
            for _ in range(CALLERS):
                assert (await exchange(served.port, rejected)).startswith(b"HTTP/1.1 400 ")

    run_on_uvloop(run())


def test_a_half_close_after_many_requests_gets_all_answers() -> None:
    """The end of the sending side does not end the answers."""

    async def run() -> None:
        async with ServedListener().serving() as served:
            received = await exchange(served.port, REQUEST * 1000, is_all=True)
            assert received.count(b"HTTP/1.1 200 OK") == 1000

    run_on_uvloop(run())
