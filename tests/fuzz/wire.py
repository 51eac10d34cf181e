"""Fuzzes a real exporter over real sockets: many connections at a time, and every answer looked at.

A status from 500 on is a fault; so are a sound request without its answer, a connection that stays open long
after all time limits, a worker that is another one, a traceback, and file handles that are not let go.
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
#: What may be half a request is waited for only a moment, but for so many of them at a time.
QUIET_SECONDS, WATCHED = 0.25, 16
#: How much of a traceback is told, characters.
TOLD = 4000
SPARE_HANDLES = 10
MAX_FAULTS = 5
STATUS = re.compile(rb"(?:^|[\n}>])HTTP/1\.[01] (\d{3}) ")


class BatchIncrements(Struct):
    """What was sent, and what came of it."""

    connections: int = 0
    requests: int = 0
    statuses: Counter[int] = Counter()
    faults: list[str] = []


class Received(Struct, frozen=True):
    """What came back, and how it ended.

    Args:
        data: all of it.
        closed: the exporter closed the connection.
        hung: it did not, though every time limit was over.
    """

    data: bytes
    closed: bool = True
    hung: bool = False

    @property
    def statuses(self) -> list[int]:
        """The status of every final answer."""
        return [status for status in map(int, STATUS.findall(self.data)) if status != 100]


class Wire:
    """Sends to an exporter, and looks at what comes back.

    Args:
        exporter: a running one.
        source: what to send.
        chance: decides how connections are ended.
    """

    def __init__(self, exporter: Exporter, source: Iterator[Sent], chance: Random) -> None:
        self._exporter = exporter
        self._source = source
        self._chance = chance
        self._watched = 0
        self.increments = BatchIncrements(statuses=Counter(), faults=[])

    async def run(self, requests: int, seconds: float = HANG_SECONDS) -> BatchIncrements:
        """Send about so many requests, for so long at most; then see that the exporter is as it was."""
        worker, handles = self._exporter.worker, self._handles()
        ends = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(self._work(requests, ends) for _ in range(AT_ONCE)))
        await self._look(worker, handles)
        return self.increments

    async def _work(self, requests: int, ends: float) -> None:
        loop = asyncio.get_running_loop()
        while (
            self.increments.requests < requests
            and loop.time() < ends
            and len(self.increments.faults) < MAX_FAULTS
        ):
            sent = next(self._source)
            self.increments.requests += sent.requests
            self.increments.connections += 1
            self._judge(sent, await self._exchange(sent))

    async def _exchange(self, sent: Sent) -> Received:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._exporter.ports[sent.listener])
        try:
            with suppress(ConnectionError):
                writer.write(sent.data)
            return await self._receive(reader, sent)
        finally:
            if self._chance.random() < 0.5:  # as if a cable were cut
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

    def _judge(self, sent: Sent, received: Received) -> None:
        found = received.statuses
        self.increments.statuses.update(found)
        whole = sent.answers is None or len(found) == sent.answers
        for what, is_so in {
            "a status from 500 on": any(status >= 500 for status in found),
            "a hang": received.hung,
            f"{len(found)} answers, not {sent.answers}": not whole,
        }.items():
            if is_so:
                said = f"sent {sent.data!r}, got {received.data[-500:]!r}"
                self.increments.faults.append(f"{what} at the listener {sent.listener}: {said}")

    async def _look(self, worker: int, handles: int) -> None:
        """See that nothing is left of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HANG_SECONDS):
                while self._handles() > handles + SPARE_HANDLES:  # noqa: ASYNC110 - another process has them
                    await asyncio.sleep(0.1)
        _, began, traceback = self._exporter.log.partition("Traceback")
        for what, is_so in {
            "the worker is another one": self._exporter.worker != worker,
            f"a traceback is in the log: {began}{traceback[:TOLD]}": bool(began),
            f"{self._handles()} file handles, {handles} before": self._handles() > handles + SPARE_HANDLES,
            # More than once: where the machine stands still it gives up a look at its store.
            "it is not ready": not any(self._exporter.get("/-/ready")[0] == 200 for _ in range(3)),
        }.items():
            if is_so:
                self.increments.faults.append(what)

    def _handles(self) -> int:
        return len(list(Path(f"/proc/{self._exporter.worker}/fd").iterdir()))
