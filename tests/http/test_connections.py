"""What one connection may do to others, and what it leaves behind: nothing, however it ends."""

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
FOR_EVER = 3600
CHECK_SECONDS = 0.05


class Served:
    """A listener of this process, and what there is of its connections.

    Args:
        idle_seconds: how long a connection waits for another request.
        answer: the body of every answer.
    """

    def __init__(self, idle_seconds: float = FOR_EVER, answer: bytes = b"{}") -> None:
        self._listener = Listener("callbacks", "", idle_seconds=idle_seconds)
        self._answer = answer
        self._config = uvicorn_config(self._app)
        self._state = WorkerState(max_open_files=10_000)
        self._made: list[weakref.ref[Connection]] = []
        #: The path of every request, in the order of their answers.
        self.asked: list[str] = []
        self.port = 0

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as a framework does."""
        await receive()
        self.asked.append(scope["path"])
        length = b"%d" % len(self._answer)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self._answer})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Served"]:
        """Serve on a free port. Check the connections as the worker does, only more often."""
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
        """How many connections are open, as the worker counts them."""
        return len(self._state.connections)

    @property
    def waiting(self) -> int:
        """How many bytes wait to be parsed."""
        return sum(len(made._unparsed) for made in self._state.connections)  # type: ignore[union-attr]

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


async def said(port: int, data: bytes, *, is_all: bool = False) -> bytes:
    """Send something, and if it is all, that no more comes; return what comes until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if is_all:
        writer.write_eof()
    async with asyncio.timeout(HANG_SECONDS):
        received = await reader.read()
    writer.close()
    return received


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


def test_a_caller_that_goes_when_it_has_its_answer_holds_nothing() -> None:
    """No file handle and no task, as if another request could come: however it goes, and however early."""

    async def run() -> None:
        async with Served().serving() as served:
            before, tasks = sockets(), len(asyncio.all_tasks())
            for _ in range(CALLERS):
                assert (await said(served.port, REQUEST, is_all=True)).startswith(b"HTTP/1.1 200")
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
def test_connections_that_have_ended_or_were_idle_leave_no_memory_behind() -> None:
    """Nor does one need to be looked for by the collector of cycles."""

    async def run() -> None:
        async with Served(idle_seconds=1.0).serving() as served:
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


def test_a_connection_gets_no_more_than_its_turn() -> None:
    """However many requests it sends at once: others are answered in between, and it gets all its answers."""
    one, number = b"GET /many HTTP/1.1\r\n\r\n", 5000
    last = b"GET /many HTTP/1.1\r\nConnection: close\r\n\r\n"

    async def run() -> None:
        async with Served().serving() as served:
            asking = asyncio.ensure_future(said(served.port, one * (number - 1) + last))
            await becomes(lambda: bool(served.asked), "the first of many is answered")
            for _ in range(CALLERS):
                begun = len(served.asked)
                await said(served.port, last.replace(b"many", b"other"))
                between = served.asked[begun:].count("/many")
                assert between < number / 4, "another one waits for all of them"
            assert served.asked.count("/many") < number, "they were all answered before"
            assert (await asking).count(b"HTTP/1.1 200 OK") == number

    run_on_the_worker_s_loop(run())


def test_what_waits_for_its_turn_takes_no_memory_of_ours() -> None:
    """Reading stops: what is not parsed is left to the caller."""

    async def run() -> None:
        async with Served(answer=b"x" * 65_536).serving() as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(REQUEST * 200_000)
            await becomes(lambda: len(served.asked) > 10, "some are answered")
            await becomes(lambda: served.waiting > 0, "some wait")
            for _ in range(20):
                await asyncio.sleep(0)
                assert served.waiting < 2_000_000
            writer.transport.abort()
            await becomes(lambda: served.open == 0, "it is let go")

    run_on_the_worker_s_loop(run())


def test_a_caller_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asks for more than it reads, and one that lets its connection close without reading."""
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.2)
    closing = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    async def run() -> None:
        async with Served(answer=b"x" * 16_000_000).serving() as served:
            for asked in (REQUEST * 3, closing):
                with socket.create_connection(("127.0.0.1", served.port)) as caller:
                    caller.sendall(asked)
                    await becomes(lambda: served.open == 1, "it has come")
                    await becomes(lambda: served.open == 0, "it is let go")

    run_on_the_worker_s_loop(run())


#: Answered before its body has come, of which this is only a part.
EARLY = REQUEST.replace(b"Content-Length: 2", b"Content-Length: 100000")


def test_a_body_that_nobody_waits_for_is_waited_for_in_vain_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its caller may send it bit by bit: it has as long as any other body."""
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.5)

    async def run() -> None:
        async with Served().serving() as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(EARLY)
            await reader.readuntil(b"\r\n\r\n{}")
            while served.open:
                writer.write(b" ")
                await asyncio.sleep(0.05)
            writer.close()

    run_on_the_worker_s_loop(run())


def test_a_connection_whose_body_came_late_goes_on_and_ends_as_idle() -> None:
    """It is as any other then."""

    async def run() -> None:
        async with Served(idle_seconds=0.5).serving() as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(EARLY)
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b" " * 99_998 + REQUEST)
            await reader.readuntil(b"\r\n\r\n{}")
            assert await reader.read() == b""
            writer.close()

    run_on_the_worker_s_loop(run())


def test_who_has_asked_while_the_process_stood_still_is_answered() -> None:
    """Its request lies there, however long that was: it is not late."""

    async def run() -> None:
        async with Served(idle_seconds=0.5).serving() as served:
            with socket.create_connection(("127.0.0.1", served.port), timeout=HANG_SECONDS) as caller:
                for _ in range(2):
                    caller.sendall(REQUEST)
                    time.sleep(0.6)  # noqa: ASYNC251 - nothing else may run
                    await becomes(lambda: bool(select.select([caller], [], [], 0)[0]), "it is answered")
                    assert caller.recv(65536).endswith(b"{}")

    run_on_the_worker_s_loop(run())


def test_who_still_sends_when_it_is_refused_gets_its_answer() -> None:
    """A connection that is closed at once is reset by what still comes, and takes the answer with it."""
    refused = b"nonsense\r\n" + b"x" * 5_000_000

    async def run() -> None:
        async with Served().serving() as served:
            for _ in range(CALLERS):
                assert (await said(served.port, refused)).startswith(b"HTTP/1.1 400 ")

    run_on_the_worker_s_loop(run())


def test_who_ends_its_side_after_many_requests_gets_all_its_answers() -> None:
    """It has said all, and may well say so."""

    async def run() -> None:
        async with Served().serving() as served:
            received = await said(served.port, REQUEST * 1000, is_all=True)
            assert received.count(b"HTTP/1.1 200 OK") == 1000

    run_on_the_worker_s_loop(run())
