"""Fuzz a real exporter over real sockets: many connections at a time, and a check of every answer.

A fault is a status of 500 or above, a valid request without an answer, a connection that stays open after
all time limits, a new worker, a traceback in the log, or a file handle that is not closed.
"""

import asyncio
import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from socket import SO_LINGER, SOL_SOCKET

from msgspec import Struct

from tests.fuzz.requests import Sent
from tests.support import HANG_SECONDS, Exporter

AT_ONCE = 48
#: Bytes that may be an incomplete request get only QUIET_SECONDS for an answer; WATCHED of them at a time get
#: until the connection is closed.
QUIET_SECONDS, WATCHED = 0.25, 16
#: The part of a traceback that is reported, in characters.
MAX_TRACEBACK = 4000
SPARE_HANDLES = 10
MAX_FAULTS = 5
STATUS = re.compile(rb"(?:^|[\n}>])HTTP/1\.[01] (\d{3}) ")


class WireResult(Struct):
    """The numbers of connections and requests, the answers by status, and the faults."""

    connections: int = 0
    requests: int = 0
    statuses: Counter[int] = Counter()
    faults: list[str] = []


class Received(Struct, frozen=True):
    """The bytes that were received over a connection, and its end.

    Args:
        data: the bytes.
        closed: whether the exporter closed the connection.
        hung: whether the connection was still open after all time limits.
    """

    data: bytes
    closed: bool = True
    hung: bool = False

    @property
    def statuses(self) -> list[int]:
        """The status of every final answer."""
        return [status for status in map(int, STATUS.findall(self.data)) if status != 100]


class Wire:
    """A client that sends random requests to an exporter and checks the answers.

    Args:
        exporter: a running exporter.
        source: the requests.
        chance: the source of randomness for the end of connections.
    """

    def __init__(self, exporter: Exporter, source: Iterator[Sent], chance: Random) -> None:
        self._exporter = exporter
        self._source = source
        self._chance = chance
        self._watched = 0
        self.result = WireResult(statuses=Counter(), faults=[])

    async def run(self, requests: int, seconds: float = HANG_SECONDS) -> WireResult:
        """Send about `requests` requests within `seconds`; then check that the exporter is unchanged."""
        worker, handles = self._exporter.worker, self._handles()
        ends = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(self._work(requests, ends) for _ in range(AT_ONCE)))
        await self._check_exporter(worker, handles)
        return self.result

    async def _work(self, requests: int, ends: float) -> None:
        loop = asyncio.get_running_loop()
        while self.result.requests < requests and loop.time() < ends and len(self.result.faults) < MAX_FAULTS:
            sent = next(self._source)
            self.result.requests += sent.requests
            self.result.connections += 1
            self._check_answers(sent, await self._exchange(sent))

    async def _exchange(self, sent: Sent) -> Received:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._exporter.ports[sent.listener])
        try:
            with suppress(ConnectionError):
                writer.write(sent.data)
            return await self._receive(reader, sent)
        finally:
            if self._chance.random() < 0.5:  # close with a reset, as after a broken network
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _receive(self, reader: asyncio.StreamReader, sent: Sent) -> Received:
        is_watched = sent.answers is not None or self._watched < WATCHED
        self._watched += sent.answers is None and is_watched
        data = b""
        try:
            async with asyncio.timeout(HANG_SECONDS if is_watched else QUIET_SECONDS):
                while chunk := await reader.read(1 << 20):
                    data += chunk
        except TimeoutError:
            return Received(data, closed=False, hung=is_watched)
        except ConnectionError:
            return Received(data)
        finally:
            self._watched -= sent.answers is None and is_watched
        return Received(data)

    def _check_answers(self, sent: Sent, received: Received) -> None:
        found = received.statuses
        self.result.statuses.update(found)
        whole = sent.answers is None or len(found) == sent.answers
        for what, is_so in {
            "a status of 500 or above": any(status >= 500 for status in found),
            "a hang": received.hung,
            f"{len(found)} answers, not {sent.answers}": not whole,
        }.items():
            if is_so:
                said = f"sent {sent.data!r}, got {received.data[-500:]!r}"
                self.result.faults.append(f"{what} at the listener {sent.listener}: {said}")

    async def _check_exporter(self, worker: int, handles: int) -> None:
        """Check that the worker, the log and the file handles show no trace of the requests."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HANG_SECONDS):
                while self._handles() > handles + SPARE_HANDLES:  # noqa: ASYNC110 - another process has them
                    await asyncio.sleep(0.1)
        _, began, traceback = self._exporter.log.partition("Traceback")
        for what, is_so in {
            "the worker was replaced": self._exporter.worker != worker,
            f"a traceback is in the log: {began}{traceback[:MAX_TRACEBACK]}": bool(began),
            f"{self._handles()} file handles, {handles} before": self._handles() > handles + SPARE_HANDLES,
            # Several attempts: on a machine that stalls, the exporter's check of the store can time out.
            "the exporter is not ready": not any(self._exporter.get("/-/ready")[0] == 200 for _ in range(3)),
        }.items():
            if is_so:
                self.result.faults.append(what)

    def _handles(self) -> int:
        return len(list(Path(f"/proc/{self._exporter.worker}/fd").iterdir()))
